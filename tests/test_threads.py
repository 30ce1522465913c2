"""Policies that many threads and event loops share, in real time.

Nothing here sleeps: threads meet at barriers, and a thread that has to be
somewhere is waited for. A dead-lock is an assertion after `PATIENCE` seconds.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CircuitBreaker,
    CircuitChanged,
    CircuitOpenError,
    CircuitState,
    ConcurrencyLimitedError,
    Event,
    PerKey,
    Priority,
    RateLimitedError,
    RateLimiter,
    ThrottledError,
    priority,
)
from resilient._runtimes import clock

pytestmark = pytest.mark.real

THREADS = 64
PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _threads_switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def in_threads(function: Callable[[int], Any], threads: int = THREADS) -> list[Any]:
    """Run ``function(place)`` in many threads at once; return the results."""
    barrier = threading.Barrier(threads)
    results: list[Any] = [None] * threads

    def run(place: int) -> None:
        barrier.wait(PATIENCE)
        try:
            results[place] = function(place)
        except Exception as error:
            results[place] = error

    started = [
        threading.Thread(target=run, args=(place,), daemon=True)
        for place in range(threads)
    ]
    for thread in started:
        thread.start()
    deadline = time.monotonic() + PATIENCE
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    assert not any(thread.is_alive() for thread in started), "a dead-lock"
    return results


def until(condition: Callable[[], bool]) -> None:
    """Let other threads run until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        # Not a wait for time: the processor is given away.
        time.sleep(0)


class Inside:
    """Counts who is inside, and how many were at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = 0
        self.most = 0
        self.total = 0

    def enter(self) -> None:
        with self._lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)

    def leave(self) -> None:
        with self._lock:
            self.now -= 1


# -- Throttle


def test_a_throttle_counts_every_call_of_every_thread() -> None:
    """Those that ended while another thread held its lock, too."""
    throttle = AdaptiveThrottle(window=1000, padding=0, probe_interval=None)
    called = Inside()

    def call(place: int) -> int:
        rejected = 0
        for turn in range(50):
            try:
                throttle.call(one, place + turn)
            except OSError:
                pass
            except ThrottledError:
                rejected += 1
        return rejected

    def one(number: int) -> None:
        called.enter()
        if number % 4:
            raise OSError("down")

    rejected = in_threads(call)
    assert THREADS * 50 == called.total + sum(rejected)
    window = throttle._throttle._windows[Priority.NORMAL]
    assert window is not None
    assert (THREADS * 50, sum(rejected)) == (window.calls, window.slow)
    assert 0 < sum(rejected) < THREADS * 50


# -- Breaker


def test_a_breaker_lets_no_more_probes_through_than_allowed() -> None:
    """Sixty-four threads see that its time is over: three probe, at any moment."""
    breaker = CircuitBreaker(
        failure_rate=None, consecutive_failures=1, open_for=0, half_open_calls=3
    )
    events: list[Event] = []
    breaker.subscribe(events.append)
    inside = Inside()
    go_on = threading.Event()

    def fail() -> None:
        raise OSError("down")

    def probe() -> None:
        inside.enter()
        go_on.wait(PATIENCE)
        inside.leave()

    with pytest.raises(OSError, match="down"):
        breaker.call(fail)
    rejected = Inside()

    def call(place: int) -> None:
        try:
            breaker.call(probe)
        except CircuitOpenError as error:
            assert "half_open_full" == error.reason
            rejected.enter()
            if rejected.total == THREADS - 3:
                go_on.set()

    assert [None] * THREADS == in_threads(call)
    assert 3 == inside.most == inside.total
    assert CircuitState.CLOSED is breaker.state
    changed = [event for event in events if isinstance(event, CircuitChanged)]
    assert ["open", "half_open", "closed"] == [event.new for event in changed]
    assert THREADS - 3 == sum(isinstance(event, CallRejected) for event in events)


def test_a_breaker_that_opens_and_closes_all_the_time_stays_right() -> None:
    """Never more probes than allowed, and no permit is lost."""
    breaker = CircuitBreaker(
        failure_rate=0.5, minimum_calls=4, open_for=0, half_open_calls=2
    )
    probing = Inside()
    events: list[Event] = []
    breaker.subscribe(events.append)

    def call(place: int) -> None:
        for turn in range(50):
            try:
                breaker.call(one, place + turn)
            except (OSError, CircuitOpenError):
                pass

    def one(number: int) -> None:
        known = breaker.statistics()
        assert known.in_flight_probes + known.votes <= 2
        probing.enter()
        probing.leave()
        if number % 3 == 0:
            raise OSError("down")

    assert [None] * THREADS == in_threads(call)
    known = breaker.statistics()
    assert 0 == known.in_flight_probes or known.state is CircuitState.HALF_OPEN
    rejected = sum(isinstance(event, CallRejected) for event in events)
    assert THREADS * 50 == probing.total + rejected
    assert rejected == known.rejected_total
    ended = known.succeeded_total + known.failed_total + known.ignored_total
    assert probing.total == ended
    states = ["closed"]
    for event in events:
        if isinstance(event, CircuitChanged):
            assert states[-1] == event.old
            states.append(event.new)
    assert known.state.value == states[-1]


# -- Adaptive concurrency


@pytest.mark.parametrize("queue", [0, THREADS])
def test_an_adaptive_limit_is_never_exceeded(queue: int) -> None:
    """By sixty-four threads of every class, as it moves up and down."""
    policy = AdaptiveConcurrency(
        AIMD(5, maximum=8), max_queue=queue, max_wait=PATIENCE, overload_wait=PATIENCE
    )
    inside = Inside()

    def one(number: int) -> None:
        inside.enter()
        time.sleep(0)
        inside.leave()
        if number % 3 == 0:
            raise OSError("down")

    def call(place: int) -> int:
        served = 0
        with priority(("critical", "normal", "sheddable", "batch")[place % 4]):
            for number in range(20):
                try:
                    policy.call(one, number)
                except OSError:
                    served += 1
                except ConcurrencyLimitedError as error:
                    assert error.in_flight <= 8
                else:
                    served += 1
        return served

    results = in_threads(call)
    assert inside.total == sum(results)
    assert inside.most <= 8
    assert (0, 0) == (policy.in_flight, policy.queued)
    # With places for all no call is refused.
    assert queue == 0 or [20] * THREADS == results


# -- Limiter


@pytest.mark.parametrize("algorithm", ["token_bucket", "sliding_window"])
def test_a_limiter_never_lets_more_through_than_its_rate(algorithm: Any) -> None:
    """In any window: at most the burst and what has come back meanwhile."""
    rate, burst = 2000.0, 50.0
    if algorithm == "token_bucket":
        limiter = RateLimiter(rate, burst=burst)
    else:
        limiter = RateLimiter(burst, per=burst / rate, algorithm=algorithm)
    lock = threading.Lock()
    passed: list[tuple[float, float]] = []
    end = time.monotonic() + 0.5

    def call(place: int) -> None:
        while (before := time.monotonic()) < end:
            try:
                limiter.call(bool)
            except RateLimitedError as error:
                assert error.retry_after is not None
                continue
            with lock:
                passed.append((before, time.monotonic()))

    assert [None] * THREADS == in_threads(call)
    # Each call took its permit somewhere between its two moments, so those that
    # began and ended between two moments took a permit there.
    passed.sort(key=lambda one: one[1])
    for first in range(0, len(passed), 25):
        begin = passed[first][0]
        for last in range(first, len(passed), 50):
            finish = passed[last][1]
            count = sum(
                1
                for before, after in passed[first : last + 1]
                if begin <= before and after <= finish
            )
            assert count <= burst + rate * (finish - begin) + 1e-6
    assert burst <= len(passed) <= burst + rate * (passed[-1][1] - passed[0][0] + 0.1)


class Recording(RateLimiter):
    """A limiter that knows which call it served: each costs a little more.

    What a call does after it was served says little about the order: its
    thread may be stopped for a while in between.
    """

    __slots__ = ("served",)

    def __init__(self) -> None:
        super().__init__(
            0.001, burst=2, max_wait=None, cost=lambda call: 1 + call.args[0] / 1000
        )
        self.served: list[int] = []
        self.call(abs, 999)

    def _take_locked(self, now: float, amounts: tuple[float, ...]) -> None:
        self.served.append(round(1000 * (amounts[0] - 1)))
        super()._take_locked(now, amounts)


def test_threads_that_wait_for_a_limiter_all_get_their_turn() -> None:
    """In the order of arrival; only the first in the queue looks at the clock."""
    limiter = Recording()
    threads = []
    for place in range(THREADS):
        thread = threading.Thread(target=limiter.call, args=(abs, place), daemon=True)
        thread.start()
        until(lambda place=place: limiter.queued == place + 1)  # type: ignore[misc]
        threads.append(thread)
    limiter.set_rate(2000)
    for thread in threads:
        thread.join(PATIENCE)
    assert list(range(THREADS)) == limiter.served
    assert 0 == limiter.queued


# -- Bulkhead


def test_a_bulkhead_never_lets_more_in_than_allowed() -> None:
    """With a queue, without, and while it is resized; all slots come back."""
    bulkhead = Bulkhead(5, max_queue=THREADS)
    narrow = Bulkhead(3)
    inside, narrowly = Inside(), Inside()

    def stay(where: Inside) -> None:
        where.enter()
        where.leave()

    def call(place: int) -> int:
        rejected = 0
        for turn in range(30):
            bulkhead.call(stay, inside)
            try:
                narrow.call(stay, narrowly)
            except BulkheadFullError:
                rejected += 1
            if place == 0:
                bulkhead.resize(2 + turn % 4)
        return rejected

    rejected = in_threads(call)
    assert inside.most <= 5
    assert narrowly.most <= 3
    assert THREADS * 30 == inside.total
    assert THREADS * 30 == narrowly.total + sum(rejected)
    assert 0 == bulkhead.in_use == bulkhead.queued == narrow.in_use


def test_threads_that_give_up_as_they_are_granted_lose_no_slot() -> None:
    """The end of `max_wait` and the wake race, a thousand times."""
    bulkhead = Bulkhead(1, max_queue=THREADS, max_wait=0.0005)
    inside = Inside()

    def stay() -> None:
        inside.enter()
        begin = time.monotonic()
        while time.monotonic() - begin < 0.0004:
            pass
        inside.leave()

    def call(place: int) -> int:
        rejected = 0
        for _ in range(20):
            try:
                bulkhead.call(stay)
            except BulkheadFullError:
                rejected += 1
        return rejected

    rejected = in_threads(call, 16)
    assert 1 == inside.most
    assert 16 * 20 == inside.total + sum(rejected)
    assert 0 == bulkhead.in_use == bulkhead.queued


# -- Threads, two loops of asyncio and one of trio, all at once


class Loop:
    """An event loop in a thread, which runs calls that are handed in."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._calls: list[Callable[[], Awaitable[None]]] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def submit(self, call: Callable[[], Awaitable[None]]) -> None:
        """Run a call there, beside others."""
        self._calls.append(call)
        self._wake()

    def close(self) -> None:
        """Wait for all calls, and end the loop."""
        self._calls.append(None)  # type: ignore[arg-type]  # the end
        self._wake()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "a dead-lock"

    def _run(self) -> None:
        if self.kind == "trio":
            trio.run(self._on_trio)
        else:
            asyncio.run(self._on_asyncio())

    async def _on_asyncio(self) -> None:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(woken.set)
        self._ready.set()
        async with asyncio.TaskGroup() as group:
            while True:
                await woken.wait()
                woken.clear()
                while self._calls:
                    call = self._calls.pop(0)
                    if call is None:
                        return
                    group.create_task(call())  # type: ignore[arg-type]

    async def _on_trio(self) -> None:
        token = trio.lowlevel.current_trio_token()
        send, receive = trio.open_memory_channel[None](10_000)
        self._wake = lambda: token.run_sync_soon(send.send_nowait, None)
        self._ready.set()
        async with trio.open_nursery() as nursery:
            async for _ in receive:
                while self._calls:
                    call = self._calls.pop(0)
                    if call is None:
                        return
                    nursery.start_soon(call)


class Thread:
    """Like `Loop`, with a thread for each call."""

    kind = "sync"

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[[], Any]) -> None:
        """Run a call in a thread."""
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        """Wait for all calls."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a dead-lock"


def everywhere() -> list[Any]:
    """Return a place for calls of each kind."""
    return [Thread(), Loop("asyncio"), Loop("asyncio"), Loop("trio")]


def submit(where: Any, policy: Any, function: Any, *args: Any) -> None:
    """Make a call there."""

    async def afunction(*args: Any) -> None:
        function(*args)

    if where.kind == "sync":
        where.submit(lambda: policy.call(function, *args))
    else:
        where.submit(lambda: policy.acall(afunction, *args))


@pytest.mark.parametrize("order", ["fifo", "lifo"])
def test_slots_are_handed_over_between_threads_and_loops(order: Any) -> None:
    """In the order of arrival, wherever those who wait are."""
    places = everywhere()
    bulkhead = Bulkhead(1, max_queue=100, order=order)
    served: list[int] = []
    inside = Inside()

    def serve(number: int) -> None:
        inside.enter()
        served.append(number)
        inside.leave()

    with bulkhead.guard():
        for number in range(40):
            submit(places[number % 4], bulkhead, serve, number)
            until(lambda number=number: bulkhead.queued == number + 1)  # type: ignore[misc]
    for place in places:
        place.close()
    expected = list(range(40))
    assert (expected if order == "fifo" else expected[::-1]) == served
    assert 1 == inside.most
    assert 0 == bulkhead.in_use == bulkhead.queued


def test_permits_are_handed_over_between_threads_and_loops() -> None:
    """In the order of arrival, each in its time, and no wake is lost."""
    places = everywhere()
    limiter = Recording()
    for number in range(40):
        submit(places[number % 4], limiter, abs, number)
        until(lambda number=number: limiter.queued == number + 1)  # type: ignore[misc]
    begin = clock.now()
    limiter.set_rate(200)
    for place in places:
        place.close()
    assert list(range(40)) == limiter.served
    assert clock.now() - begin >= 38 / 200
    assert 0 == limiter.queued


def test_all_kinds_at_once_lose_nothing() -> None:
    """Threads and loops fight for few slots, and for permits."""
    places = everywhere()
    bulkhead = Bulkhead(3, max_queue=1000)
    limiter = RateLimiter(5000, burst=1, max_wait=None)
    inside = Inside()

    def enter() -> None:
        inside.enter()
        inside.leave()

    for number in range(200):
        submit(places[number % 4], bulkhead, enter)
        submit(places[number % 4], limiter, enter)
    for place in places:
        place.close()
    assert 400 == inside.total
    assert 0 == bulkhead.in_use == bulkhead.queued == limiter.queued


# -- PerKey


def test_threads_that_want_the_same_keys_share_their_policies() -> None:
    """While others flood it with new ones; nothing in use is dropped."""
    # With less room a key may have to share the policy of those that overflow.
    room = 4 + 32
    keys = PerKey(
        lambda key: Bulkhead(1, max_queue=THREADS),
        key=lambda key, _: key,
        max_keys=room,
    )
    inside = [Inside() for _ in range(4)]
    events: list[Event] = []

    def stay(key: Any, where: Inside | None) -> None:
        if where is not None:
            where.enter()
            where.leave()

    def call(place: int) -> None:
        for turn in range(20):
            keys.call(stay, place % 4, inside[place % 4])
            keys.call(stay, f"new {place} {turn}", None)

    unsubscribe = keys.subscribe(events.append)
    assert [None] * 32 == in_threads(call, 32)
    unsubscribe()
    assert [1] * 4 == [call.most for call in inside]
    assert [160] * 4 == [call.total for call in inside]
    keys["one more"]
    assert len(keys) <= room
    assert keys.is_pristine()
