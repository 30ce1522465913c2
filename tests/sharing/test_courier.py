"""The courier: what goes in one exchange, and what becomes of one that fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilient import PerKey, RateLimitedError, RateLimiter, StaleCache, StoreLost
from resilient._machines.shared_bucket import Bucket, answer
from resilient._runtimes import clock
from resilient._sharing import courier as courier_module
from resilient._sharing.courier import (
    Courier,
    NotSentError,
    Reply,
    Request,
    reason_of,
)
from resilient._sharing.member import LeaseMember
from resilient._sharing.store import SharedStore

pytestmark = pytest.mark.real

GENEROUS = 30.0


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + GENEROUS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


class Wire:
    """A transport to a server that is a dictionary, and fails on demand."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.batches: list[list[Request]] = []
        self.error: Exception | None = None
        self.refusal = ""
        self.slow = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()
        self.closed = 0

    def exchange(self, requests: list[Request]) -> list[Reply]:
        self.asked.set()
        assert self.gate.wait(GENEROUS)
        if self.error is not None:
            raise self.error
        self.batches.append(requests)
        replies = []
        for request in requests:
            key = request.member.key
            bucket, said = answer(
                self.buckets.get(key), time.monotonic() + 1e9, request.ask
            )
            self.buckets[key] = bucket
            counted = 3 if request.enlists else None
            if self.refusal:
                replies.append(Reply(None, None, self.refusal))
            else:
                replies.append(Reply(said, counted))
        time.sleep(self.slow)
        return replies

    def ping(self) -> None:
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A wire, whose couriers are closed at the end."""
    wire = Wire()
    yield wire
    wire.gate.set()


def store_on(wire: Wire, **settings: Any) -> SharedStore:
    """Return a store with so much patience that a loaded machine has it too."""
    settings = {"patience": 10.0, "members": 1, **settings}
    return SharedStore(Courier(wire, settings["patience"]), **settings)


def limiter_on(store: SharedStore, name: str = "api", **arguments: Any) -> RateLimiter:
    """Return a limiter of 1000 a second."""
    return RateLimiter(1000, shared=store, name=name, **arguments)


def test_nothing_is_sent_before_the_first_call(wire: Wire) -> None:
    """And there is no thread."""
    before = set(threading.enumerate())
    with store_on(wire) as store:
        limiter = limiter_on(store)
        assert set() == set(threading.enumerate()) - before
        assert 0 == limiter.call(int)
        assert 1 == len(set(threading.enumerate()) - before)
    assert set() == set(threading.enumerate()) - before
    assert 1 == wire.closed


def test_what_has_piled_up_goes_in_one_exchange(wire: Wire) -> None:
    """Of several policies, and of all the threads that wait for one of them."""
    with store_on(wire) as store:
        limiters = [limiter_on(store, name) for name in ("one", "two")]
        first = limiter_on(store, "first")
        wire.gate.clear()
        threads = [
            threading.Thread(target=limiter.call, args=(int,))
            for limiter in (first, *limiters * 10)
        ]
        threads[0].start()
        wait_for(lambda: first._shared and first._shared.lease._sent)
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: [10, 10] == [limiter.queued for limiter in limiters])
        wire.gate.set()
        for thread in threads:
            thread.join(GENEROUS)
    (alone,), batch = wire.batches[:2]
    # NB: on a busy machine its answer was older than a lease, and it asks again.
    asks = [request for request in batch if request.member is not alone.member]
    assert [10.0, 10.0] == [request.ask.want for request in asks]


def test_the_members_are_counted_now_and_then(wire: Wire) -> None:
    """With the first ask, and again after half a second."""
    with store_on(wire, lease=0) as store:
        limiter = limiter_on(store)
        for _ in range(3):
            limiter.call(int)
        assert [True, False] == [request.enlists for (request,) in wire.batches[:2]]
        assert limiter._shared is not None
        assert 3 == limiter._shared.lease.members


@pytest.mark.parametrize("error", [NotSentError(), TimeoutError()])
def test_an_exchange_that_fails_is_a_loss(wire: Wire, error: Exception) -> None:
    """Who waited is decided at once; and when it answers, it is used again."""
    with store_on(wire, lost="reject") as store:
        limiter = limiter_on(store)
        wire.error = error
        with pytest.raises(RateLimitedError):
            limiter.call(int)
        assert not store.up
        time.sleep(0.2)
        wire.error = None
        wait_for(lambda: store.up)
        assert 0 == limiter.call(int)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Courier, "_turn"),
        (Courier, "beating"),
        (LeaseMember, "collect"),
        (LeaseMember, "deliver"),
    ],
)
def test_a_thread_without_memory_lives_on(
    wire: Wire, owner: type[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it ran out: the store counts as lost until it is tried again."""
    real, lacking = getattr(owner, name), [True]

    def act(self: Any, *args: Any, **kwargs: Any) -> Any:
        if lacking and threading.current_thread().name == "resilient store":
            lacking.clear()
            raise MemoryError
        return real(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, act)
    with store_on(wire, lost="alone") as store:
        limiter = limiter_on(store)
        lost: list[str] = []
        limiter.subscribe(
            lambda event: isinstance(event, StoreLost) and lost.append(event.reason)
        )
        limiter.call(int)
        wait_for(lambda: lost and store.up)
        assert ["MemoryError"] == lost
        asked = len(wire.batches)
        for _ in range(500):
            limiter.call(int)
        assert len(wire.batches) > asked


def test_what_was_used_meanwhile_is_booked(wire: Wire) -> None:
    """While it is still not relied on."""
    with store_on(wire, lost="alone") as store:
        limiter = limiter_on(store)
        limiter.call(int)
        wire.error = NotSentError()
        while store.up:
            limiter.call(int)
        for _ in range(10):
            limiter.call(int)
        wire.batches.clear()
        wire.error = None
        wait_for(lambda: store.up)
        assert wire.batches[0][0].ask.spent >= 10
        assert 0.0 == wire.batches[0][0].ask.want


def test_a_server_that_refuses_is_lost(wire: Wire) -> None:
    """It has a reason; what it was told may have been done."""
    with store_on(wire, lost="reject") as store:
        limiter = limiter_on(store)
        wire.refusal = "READONLY"
        with pytest.raises(RateLimitedError):
            limiter.call(int)
        assert not store.up
        wire.refusal = ""
        wait_for(lambda: store.up)
        assert 0 == limiter.call(int)


def test_a_server_that_is_late_twice_is_lost(wire: Wire) -> None:
    """Callers had waited as long as they may."""
    with store_on(wire, patience=0.02, lease=0, lost="pass") as store:
        limiter = limiter_on(store)
        wire.slow = 0.05
        while store.up:
            limiter.call(int)
            time.sleep(0.001)
        wire.slow = 0.0
        wait_for(lambda: store.up)


def test_closing_gives_back_what_is_held(wire: Wire) -> None:
    """In one last exchange; closing again, or when the server fails, does no harm."""
    store = store_on(wire, lease=100)
    limiter = limiter_on(store, burst=1_000_000)
    limiter.call(int)
    lease = limiter._shared and limiter._shared.lease
    assert lease is not None
    lease._add(clock.now(), 5.0, clock.now() + 100, 1e9)
    store.close()
    assert 5.0 == wire.batches[-1][0].ask.credit
    store.close()
    wire.error = TimeoutError()
    lease._return(1.0, 1e9)
    store.close()
    assert 3 == wire.closed


def test_closing_does_not_wait_for_a_server_that_hangs(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread is left to end by itself, and what it brings is of no use."""
    monkeypatch.setattr(courier_module, "LAST_EXCHANGE", 0.1)
    store = store_on(wire, patience=0.01, lost="pass")
    limiter = limiter_on(store)
    wire.gate.clear()
    limiter.call(int)
    courier: Any = store.link
    thread = courier._thread
    assert wire.asked.wait(GENEROUS)
    store.close()
    assert thread.is_alive()
    assert 0 == wire.closed
    wire.gate.set()
    thread.join(GENEROUS)
    assert not store.up


def test_no_call_waits_for_a_store_that_is_closed(wire: Wire) -> None:
    """Of a policy that has asked, that has not, or that is made later."""
    store = store_on(wire, patience=2 * GENEROUS, lost="alone")
    asked, unasked = limiter_on(store, "asked"), limiter_on(store, "unasked")
    asked.call(int)
    store.close()
    assert not store.up
    began = time.monotonic()
    for limiter in (asked, unasked, limiter_on(store, "later")):
        assert 0 == limiter.call(int)
        assert limiter._shared is not None
        assert 1 == limiter._shared.lease.alone
    assert time.monotonic() - began < GENEROUS


def test_a_call_that_waits_as_the_store_is_closed_is_decided(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the process has without it."""
    monkeypatch.setattr(courier_module, "LAST_EXCHANGE", 0.1)
    store = store_on(wire, patience=2 * GENEROUS, lost="alone")
    limiter = limiter_on(store)
    wire.gate.clear()
    thread = threading.Thread(target=limiter.call, args=(int,))
    thread.start()
    wait_for(lambda: limiter.queued)
    store.close()
    thread.join(GENEROUS)
    assert not thread.is_alive()


def test_an_exchange_that_fails_is_told_to_all_that_take_part(wire: Wire) -> None:
    """Also beside a cache, which asks nothing itself: its calls do."""
    store = store_on(wire, lost="alone")
    cache = StaleCache(60, 60, shared=store, codec=json, name="rates")
    limiter = limiter_on(store)
    wire.error = ConnectionError("down")
    assert 0 == limiter.call(int)
    assert cache._shared is not None
    assert limiter._shared is not None
    courier: Any = store.link
    with courier._using:
        courier._exchange([cache._shared, limiter._shared])
        assert limiter._shared.lease._sent is None
    assert not store.up


def test_a_closed_store_is_closed_in_a_forked_child(wire: Wire) -> None:
    """The child has no thread, and starts none."""
    store = store_on(wire, patience=2 * GENEROUS, lost="alone")
    limiter = limiter_on(store)
    limiter.call(int)
    store.close()
    courier: Any = store.link
    courier.after_fork()  # as the hook does in a child
    assert 0 == limiter.call(int)
    assert courier._thread is None
    assert not store.up


def test_where_no_thread_can_be_had_there_is_no_answer(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the end of the interpreter."""

    def refuse(*args: Any) -> Any:
        raise RuntimeError("can't start new thread")

    store = store_on(wire, patience=0.01, lost="pass")
    limiter = limiter_on(store)
    monkeypatch.setattr(clock, "start_thread", refuse)
    assert 0 == limiter.call(int)
    assert limiter._shared is not None
    assert limiter._shared.lease.is_cut
    store.close()
    assert 0 == limiter.call(int)


def test_two_first_calls_start_one_thread(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second call finds it."""
    with store_on(wire) as store:
        limiter_on(store).call(int)
        courier: Any = store.link
        thread = courier._thread
        courier._start()
        assert thread is courier._thread


def test_ctrl_c_as_the_thread_starts_leaves_one_thread(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call finds it, and starts no other."""
    start, started = clock.start_thread, list[threading.Thread]()

    def interrupted(target: Callable[[], None], name: str) -> threading.Thread:
        started.append(start(target, name))
        if len(started) == 1:
            raise KeyboardInterrupt
        return started[-1]

    monkeypatch.setattr(clock, "start_thread", interrupted)
    with store_on(wire) as store:
        limiter = limiter_on(store)
        with pytest.raises(KeyboardInterrupt):
            limiter.call(int)
        courier: Any = store.link
        wait_for(lambda: courier._thread)
        assert 0 == limiter.call(int)
        assert started == [courier._thread]
        # One that starts all the same, as both were on their way, goes again.
        late = start(courier._run, "late")
        late.join(GENEROUS)
        assert not late.is_alive()


def test_a_forked_child_has_a_thread_of_its_own(wire: Wire) -> None:
    """It begins with the child's first call."""
    with store_on(wire) as store:
        limiter = limiter_on(store)
        limiter.call(int)
        courier: Any = store.link
        parents = courier._thread
        courier.after_fork()  # as the hook does in a child
        assert courier._thread is None
        assert 0 == limiter.call(int)
        assert parents is not courier._thread


def test_a_process_that_ends_closes_its_stores(wire: Wire) -> None:
    """In the order of `atexit`."""
    store = store_on(wire)
    limiter_on(store).call(int)
    courier_module._close_all()
    assert wire.closed


def test_a_reason_is_a_kind_of_error() -> None:
    """Its text may be secret."""
    error = NotSentError()
    assert "NotSentError" == reason_of(error)
    error.__cause__ = ConnectionError("redis://:secret@host")
    assert "ConnectionError" == reason_of(error)
    assert "TimeoutError" == reason_of(TimeoutError("secret"))


def test_an_answer_between_two_looks_refuses_no_call(wire: Wire) -> None:
    """Calls that come while an answer does wait for the next one."""
    with store_on(wire, lease=0, members=1) as store:
        limiter = RateLimiter(1e9, shared=store, name="api")
        errors: list[Exception] = []

        def call() -> None:
            for _ in range(200):
                try:
                    limiter.call(int)
                except RateLimitedError as error:
                    errors.append(error)

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(GENEROUS)
    assert [] == errors


def users_on(store: SharedStore, **arguments: Any) -> PerKey[Any]:
    """Return limits of ten a second of which one is kept, leased for long."""
    return PerKey(
        lambda user: RateLimiter(
            10, burst=1_000_000, shared=store, name="login", **arguments
        ),
        key=lambda user: user,
        max_keys=1,
    )


def lease_of(users: PerKey[Any], user: str) -> Any:
    """Return the lease of a user."""
    return users[user]._shared.lease


def last_asks(wire: Wire) -> list[Any]:
    """Return what members that left have told."""
    requests = [request for batch in wire.batches for request in batch]
    return [request.ask for request in requests if request.leaves]


def test_who_leaves_gives_back_what_it_holds(wire: Wire) -> None:
    """With the next exchange, and no answer is for it."""
    with store_on(wire, lease=100) as store:
        users = users_on(store)
        users.call(str, "ann")
        lease = lease_of(users, "ann")
        lease._add(clock.now(), 5.0, clock.now() + 100, 1e9)
        users.call(str, "bob")
        wait_for(lambda: last_asks(wire))
        (ask,) = last_asks(wire)
        assert (5.0, 0.0) == (ask.credit, ask.want)
        assert 0.0 == lease._have(clock.now())


def test_who_leaves_a_lost_store_is_told_of_later(wire: Wire) -> None:
    """What it used alone counts when the store is back."""
    with store_on(wire, lease=0, lost="alone") as store:
        users = users_on(store)
        users.call(str, "ann")
        users.call(str, "bob")
        lease = lease_of(users, "bob")
        wire.error = NotSentError()
        while store.up:
            users.call(str, "bob")
        for _ in range(10):
            users.call(str, "bob")
        spent = lease._spent_alone
        assert spent >= 10
        users.call(str, "cyd")
        wire.batches.clear()
        wire.error = None
        wait_for(lambda: last_asks(wire))
        assert spent == sum(ask.spent for ask in last_asks(wire))
        wait_for(lambda: store.up)


@pytest.mark.parametrize("error", [NotSentError(), TimeoutError()])
def test_a_last_word_that_is_lost_is_not_said_again(
    wire: Wire, error: Exception
) -> None:
    """It may have arrived, and a credit counts once."""
    with store_on(wire, lease=100, lost="alone") as store:
        users = users_on(store)
        users.call(str, "ann")
        courier: Any = store.link
        member: Any = users["ann"]._shared  # type: ignore[attr-defined]
        member.lease._return(5.0, 1e9)
        with courier._using:
            courier._leaving.append(member)
            wire.error = error
            courier._exchange([])
            assert 0 == len(courier._leaving)
            wire.error = None
        courier._wake()
        wait_for(lambda: store.up)
    assert [] == last_asks(wire)


def test_who_has_asked_for_nothing_has_nothing_to_say(wire: Wire) -> None:
    """There may be no thread to say it."""
    with store_on(wire, lost="alone") as store:
        users = users_on(store)
        assert users["ann"] is not users["bob"]
        assert [] == list(store.link._leaving)
        users.call(str, "cyd")
        users.call(str, "dan")
        wait_for(lambda: not store.link._leaving)
    users.call(str, "eve")
    assert [] == list(store.link._leaving)


def test_thousands_of_keys_go_in_several_exchanges(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is as long as it likes would be late for its own length."""
    monkeypatch.setattr(courier_module, "BATCH", 4)
    with store_on(wire, lease=0, lost="alone") as store:
        limiters = [limiter_on(store, f"n{number}") for number in range(10)]
        wire.gate.clear()
        threads = [
            threading.Thread(target=limiter.call, args=(int,)) for limiter in limiters
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: all(limiter.queued for limiter in limiters))
        wire.gate.set()
        for thread in threads:
            thread.join(GENEROUS)
        assert 10 == sum(map(len, wire.batches))
        # What was used without it is told in pieces as well.
        wire.error = NotSentError()
        while store.up:
            limiters[0].call(int)
        for limiter in limiters:
            limiter.call(int)
        wire.batches.clear()
        wire.error = None
        wait_for(lambda: store.up)
        assert max(map(len, wire.batches)) <= 4
