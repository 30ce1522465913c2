"""Ctrl-C, signal handlers and destructors at any moment of a call.

Nothing may be left behind: no lock locked, no permit lost, no place in a
queue, no call that is still current, no coroutine of ours un-awaited.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import copy_context
from typing import Any

import pytest
import trio
from tests.interrupts import (
    BOUND,
    Moment,
    complaints,
    ctrl_c,
    elsewhere,
    every_moment,
    held,
    left,
    on_loop,
    on_trio,
    work,
)

import resilient
from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Balance,
    Bulkhead,
    Check,
    CircuitBreaker,
    Coalesce,
    Eject,
    Fallback,
    Hedge,
    Limit,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    RejectedError,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
)
from resilient._runtimes import clock
from resilient._values.locks import Lock
from resilient.discovery import poll
from resilient.testing import MemoryStore

Make = Callable[[], Policy[Any]]


def half_open() -> Policy[Any]:
    """A circuit whose next call is its only probe."""
    breaker = CircuitBreaker(
        consecutive_failures=1, open_for=0.0, half_open_calls=1, on=ValueError
    )
    with pytest.raises(ValueError):
        breaker.call(int, "x")
    return breaker


def empty() -> Policy[Any]:
    """A limiter whose next call waits for a moment."""
    limiter = RateLimiter(200, burst=1, max_wait=BOUND)
    limiter.call(int)
    return limiter


def pressed() -> Policy[Any]:
    """A throttle that has something to decide."""
    throttle = AdaptiveThrottle(minimum_calls=1, probe_interval=1e-9, on=ValueError)
    for _ in range(20):
        try:
            throttle.call(int, "x")
        except (ValueError, resilient.ThrottledError):
            pass
    return throttle


def seven() -> Policy[Any]:
    """Seven policies."""
    return Pipeline(
        Fallback("no", on=OSError),
        Timeout(60),
        Retry(OSError),
        CircuitBreaker(),
        RateLimiter(1e9),
        Bulkhead(10),
        Timeout(10),
    )


def finds() -> Policy[Any]:
    """A balance that has yet to find its endpoints, in a thread."""
    return Balance(poll(lambda: ["a", "b", "c"], every=60))


def failed_replica() -> Policy[Any]:
    """A balance one of whose replicas is out, and is to be probed."""
    balance = Balance("a", "b", "c", eject=Eject(1, eject_for=0))
    with suppress(ValueError):
        balance.call(int, "x")
    return balance


MAKE: dict[str, Make] = {
    "bulkhead": lambda: Bulkhead(10),
    "bulkhead that may wait for ever": lambda: Bulkhead(10, max_queue=5),
    "bulkhead that may wait": lambda: Bulkhead(10, max_queue=5, max_wait=1),
    "limiter": lambda: RateLimiter(1e9),
    "limiter of two units": lambda: RateLimiter(
        limits=[Limit(1e9), Limit(1e9, unit="tokens")],
        cost={"requests": 1, "tokens": 5},
    ),
    "sliding window": lambda: RateLimiter(1e9, algorithm="sliding_window"),
    "fixed window": lambda: RateLimiter(1e9, algorithm="fixed_window"),
    "breaker": CircuitBreaker,
    "breaker of slow calls": lambda: CircuitBreaker(slow_call_duration=5.0),
    "half-open breaker": half_open,
    "adaptive limit": AdaptiveConcurrency,
    "adaptive limit that queues": lambda: AdaptiveConcurrency(AIMD(), max_queue=5),
    "partitions": lambda: AdaptiveConcurrency(
        partitions={"live": 0.9, "batch": 0.1}, by=lambda call: "live"
    ),
    "throttle": AdaptiveThrottle,
    "pressed throttle": pressed,
    "retry": lambda: Retry(OSError),
    "timeout": lambda: Timeout(60),
    "fallback": lambda: Fallback("no", on=OSError),
    "cache": lambda: StaleCache(10, 10),
    "coalesce": Coalesce,
    "keys": lambda: PerKey(lambda key: Bulkhead(10), key=lambda: "one", max_keys=1),
    "balance": lambda: Balance("a", "b", "c"),
    "balance after a failure": failed_replica,
    "balance that finds": finds,
    "breaker of a fleet": lambda: CircuitBreaker(shared=MemoryStore(), name="fleet"),
    "budget of a fleet": lambda: Retry(
        OSError, budget=RetryBudget(shared=MemoryStore(), name="fleet")
    ),
    # NB: an exchange that was interrupted is one with a store that is lost.
    "bulkhead of a fleet": lambda: Bulkhead(
        10, shared=MemoryStore(lost="alone"), name="fleet"
    ),
    "seven": seven,
}
SYNC: dict[str, Make] = {
    **MAKE,
    "abandoning timeout": lambda: Timeout(60, abandon=True),
    "hedge": lambda: Hedge(30, max_threads=2),
}
ASYNC: dict[str, Make] = {**MAKE, "hedge": lambda: Hedge(30, max_threads=2)}


async def awork() -> int:
    """Succeed, after a moment."""
    await asyncio.sleep(0)
    return 1


async def tawork() -> int:
    """Succeed, after a moment of trio's."""
    await trio.sleep(0)
    return 1


@pytest.mark.parametrize("name", SYNC)
def test_ctrl_c_at_any_moment_of_a_call_leaves_nothing(name: str) -> None:
    """A decorated function, interrupted at each moment in turn."""
    found: dict[str, list[Any]] = {}

    def interrupt(moment: Moment) -> None:
        with complaints() as warned:
            policy = SYNC[name]()
            protected = policy(work)
            try:
                with moment:
                    protected()
            except KeyboardInterrupt:
                pass
            del protected
        if remains := left(policy) + warned:
            found[moment.where] = remains

    for moment in every_moment(ctrl_c):
        copy_context().run(interrupt, moment)
    assert {} == found


def left_by_waits(
    make: Callable[[], Any], busy: Callable[[Any], AbstractContextManager[object]]
) -> dict[str, list[Any]]:
    """Interrupt calls of policies that are busy; return what remains, by where."""
    found: dict[str, list[Any]] = {}

    def interrupt(moment: Moment) -> None:
        policy = make()
        protected = policy(work)
        with busy(policy), suppress(KeyboardInterrupt), moment:
            protected()
        if remains := left(policy):
            found[moment.where] = remains

    for moment in every_moment(ctrl_c):
        copy_context().run(interrupt, moment)
    return found


@pytest.mark.parametrize(
    "make",
    [empty, lambda: RateLimiter(1e9, shared=MemoryStore(), name="fleet")],
    ids=["of one process", "of a fleet"],
)
def test_ctrl_c_at_any_moment_of_a_wait_for_a_rate_leaves_no_place_in_the_queue(
    make: Make,
) -> None:
    """Nor an empty queue, which has no first to wait behind."""
    assert {} == left_by_waits(make, nullcontext)


def test_ctrl_c_at_any_moment_of_a_wait_for_a_slot_leaves_no_place_in_the_queue() -> (
    None
):
    """Nor an empty queue; and a slot that is given back meanwhile is free."""

    def make() -> Bulkhead:
        return Bulkhead(1, max_queue=5, max_wait=0.001)

    @contextmanager
    def full(policy: Bulkhead) -> Iterator[None]:
        with policy.guard(), suppress(RejectedError):
            yield

    assert {} == left_by_waits(make, full)


THREADS = (
    "an interrupt of Thread.start leaves a lock of the standard library locked on"
    " Python 3.14 (python/cpython#148874), and no thread starts any more"
)


THREADED = ("hedge", "abandoning timeout", "balance that finds")
"""What starts threads."""


@pytest.fixture(autouse=True)
def brief_patrols(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for another looks soon whether that one is still there."""
    monkeypatch.setattr(clock, "patrol", 0.02)


def run_asyncio(moment: Moment, policy: Policy[Any]) -> None:
    """Call an async function on a loop, as a notebook does: it goes on later."""
    loop = asyncio.new_event_loop()
    protected = policy(awork)
    try:
        task = loop.create_task(protected())
        assert on_loop(loop, task, moment) in (1, KeyboardInterrupt)
        # NB: looked at, or it is logged that nothing did.
        assert task.done()
        task.cancelled() or task.exception()
        del task
        loop.run_until_complete(asyncio.sleep(0))
        assert not asyncio.all_tasks(loop)
        assert 1 == loop.run_until_complete(protected())
    finally:
        loop.close()


def run_trio(moment: Moment, policy: Policy[Any]) -> None:
    """Call an async function in a run of trio's."""

    async def tawork() -> int:
        await trio.sleep(0)
        return 1

    async def main() -> None:
        try:
            with moment:
                await policy(tawork)()
        except KeyboardInterrupt:
            pass

    try:
        trio.run(main)
    except* (KeyboardInterrupt, trio.TrioInternalError):
        # NB: trio shields its system tasks from Ctrl-C, which this is not.
        pass
    trio.run(policy(tawork))


@pytest.mark.parametrize("run", [run_asyncio, run_trio])
@pytest.mark.parametrize("name", ASYNC)
def test_ctrl_c_at_any_moment_of_an_async_call_leaves_nothing(
    name: str, run: Callable[[Moment, Policy[Any]], None]
) -> None:
    """On a loop that goes on; no coroutine of ours is left un-awaited."""
    found: dict[str, list[Any]] = {}

    def interrupt(moment: Moment) -> None:
        with complaints() as warned:
            policy = ASYNC[name]()
            try:
                run(moment, policy)
            except Exception as error:
                warned.append(repr(error))
        if remains := left(policy) + warned:
            found[moment.where] = remains

    for moment in every_moment(ctrl_c):
        copy_context().run(interrupt, moment)
    assert {} == found


async def hedged(sleep: Callable[[float], Awaitable[object]]) -> int:
    """Answer at once where this is a hedge; else wait to be cancelled."""
    if not resilient.current_call().hedge:
        await sleep(BOUND)
    await sleep(0)
    return 1


def answer_of_asyncio(moment: Moment, policy: Policy[Any]) -> object:
    """Call an async function on a loop that goes on, and return what it came to."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(policy(hedged)(asyncio.sleep))
    answer = on_loop(loop, task, moment)
    # NB: looked at, or it is logged that nothing did.
    task.exception()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return answer


def answer_of_trio(moment: Moment, policy: Policy[Any]) -> object:
    """Call an async function in a run of trio's, and return what it came to."""
    return on_trio(moment, lambda: policy(hedged)(trio.sleep))


@pytest.mark.parametrize("answer_of", [answer_of_asyncio, answer_of_trio])
def test_ctrl_c_at_any_moment_of_a_hedged_call_reaches_its_caller(
    answer_of: Callable[[Moment, Policy[Any]], object],
) -> None:
    """As itself: it is in no group, and an answer that came first does not hide it."""
    found: dict[str, Any] = {}

    def interrupt(moment: Moment) -> None:
        policy = Hedge(1e-6)
        with complaints() as warned:
            answer = answer_of(moment, policy)
        right = KeyboardInterrupt if moment.came else 1
        if answer != right or warned or policy.abandoned:
            found[moment.where] = answer, warned, policy.abandoned

    for moment in every_moment(ctrl_c):
        copy_context().run(interrupt, moment)
    assert {} == found


def test_ctrl_c_as_a_call_waits_for_what_it_began_harms_no_run_of_trio() -> None:
    """The last call that leaves a shared execution waits until that has ended."""
    found: dict[str, Any] = {}

    def interrupt() -> None:
        # NB: trio shields its system tasks from Ctrl-C.
        if not trio.lowlevel.currently_ki_protected():
            raise KeyboardInterrupt

    async def leave_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(3):
                    await trio.sleep(0)

    async def main(moment: Moment) -> None:
        policy = Coalesce()
        with trio.move_on_after(0.001):
            try:
                with moment:
                    await policy(leave_late)()
            except KeyboardInterrupt:
                # What it began ends meanwhile, which must not wake this task.
                await trio.sleep(0.01)

    for moment in every_moment(interrupt):
        try:
            trio.run(main, moment)
        except trio.TrioInternalError as error:
            found[moment.where] = repr(error.__cause__)
    assert {} == found


class Until:
    """An event that is set once something is so, or after so many looks.

    Attributes:
        fact: What is to be so.
        looks: How often it may be looked at.
    """

    def __init__(self, fact: Callable[[], object], looks: float) -> None:
        self.fact = fact
        self.looks = looks

    def wait(self, timeout: float | None = None) -> bool:
        self.looks -= 1
        time.sleep(0.001)
        return bool(self.fact()) or self.looks <= 0


@pytest.mark.parametrize("name", ["refresh", "arefresh", "run_sync"])
def test_ctrl_c_at_any_moment_beside_the_calls_leaves_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is found, and its endpoints are checked, when they are to be again.

    `run` is a task group, which loses tasks where Ctrl-C comes as it begins or ends.
    """
    found: dict[str, Any] = {}
    # The first check of an endpoint comes at once.
    monkeypatch.setattr(clock, "random", lambda: 0.0)

    def interrupt(moment: Moment) -> None:
        checked: list[str] = []

        def is_well(address: str) -> bool:
            checked.append(address)
            return True

        check = Check(is_well, every=0.001, timeout=60)
        balance = Balance(poll(lambda: ["a"], every=60), check=check)
        with complaints() as warned:
            try:
                with moment:
                    if name == "refresh":
                        balance.refresh()
                    elif name == "arefresh":
                        trio.run(balance.arefresh)
                    else:
                        balance.run_sync(Until(lambda: False, looks=3))
            except* (KeyboardInterrupt, trio.TrioInternalError):
                pass
        remains = left(balance) + warned
        checked.clear()
        ends = time.monotonic() + BOUND
        balance.run_sync(Until(lambda: checked or time.monotonic() > ends, math.inf))
        if remains or not checked:
            found[moment.where] = remains, checked

    for moment in every_moment(ctrl_c):
        copy_context().run(interrupt, moment)
    assert {} == found


# -- Calls from inside: signal handlers, destructors


@pytest.mark.parametrize("name", SYNC)
def test_a_call_from_inside_a_call_neither_hangs_nor_harms(name: str) -> None:
    """Under the same policy, at each moment in turn, as a signal handler's is.

    It is answered, refused, or told that it came in the middle of a decision.
    """
    found: dict[str, Any] = {}

    def interrupt(moment: Moment, policy: Policy[Any], inside: list[Any]) -> None:
        def act() -> None:
            try:
                inside.append(policy(work)())
                policy.status()
            except (RejectedError, RuntimeError) as error:
                inside.append(str(error))

        moment.act = act
        try:
            with moment:
                inside.append(policy(work)())
        except RejectedError as error:
            inside.append(str(error))

    for moment in every_moment(ctrl_c):
        policy, inside = SYNC[name](), list[Any]()
        elsewhere(lambda: interrupt(moment, policy, inside))  # noqa: B023
        if not inside or ((remains := left(policy)) and name != "half-open breaker"):
            found[moment.where] = inside, remains
    assert {} == found


@pytest.mark.parametrize("name", SYNC)
def test_a_reading_from_inside_a_call_is_safe(name: str) -> None:
    """`health` in a handler of SIGUSR1 answers, or leaves a policy out."""
    for moment in every_moment(resilient.health):
        policy = SYNC[name]()
        with moment:
            assert 1 == policy(work)()
        assert [] == left(policy)


class Meddler:
    """A key that calls the policy while it is compared."""

    def __init__(self, policy: Policy[Any]) -> None:
        self.policy = policy
        self.busy = False

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        if not self.busy:
            self.busy = True
            self.policy(len)("of another key")
        return self is other


@pytest.mark.parametrize(
    "make", [lambda: StaleCache(10, 10), Coalesce], ids=["cache", "coalesce"]
)
def test_a_key_may_call_the_policy_that_compares_it(make: Make) -> None:
    """It gets an answer of its own, and the other one too."""
    policy = make()
    decorated = policy(lambda key: policy(lambda other: other)(Meddler(policy)) and 1)
    assert 1 == elsewhere(lambda: decorated(Meddler(policy)))


# -- By real signals


ROUNDS = int(os.environ.get("RESILIENT_INTERRUPTS", "100"))
"""Interrupts of each policy and colour; `nox -s interrupts` has the whole 3000."""


@pytest.fixture(scope="module", autouse=True)
def no_thread_in_limbo() -> Iterator[None]:
    """Forget the threads whose start was interrupted: no other test is to see them."""
    yield
    limbo: dict[threading.Thread, Any] = vars(threading)["_limbo"]
    until = time.monotonic() + 2
    while limbo and time.monotonic() < until:
        time.sleep(0.01)  # one that did start leaves by itself
    limbo.clear()


def interrupted(function: Callable[[], object]) -> None:
    """Call a function, and raise KeyboardInterrupt at a random moment, once."""
    armed = True

    def handler(*args: Any) -> None:
        nonlocal armed
        if trio.lowlevel.in_trio_run() and trio.lowlevel.currently_ki_protected():
            # NB: as trio's own handler does, for its own code must not break.
            signal.setitimer(signal.ITIMER_REAL, 2e-5)
        elif armed:
            armed = False
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, handler)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-5, 4e-4))
            function()
        finally:
            armed = False
    except KeyboardInterrupt:
        pass
    except RuntimeError as error:
        # NB: a `Condition` of the standard library is not safe: `Thread.start`.
        assert "un-acquired" in str(error) or "unlocked" in str(error)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.real
def test_ctrl_c_between_the_entering_and_the_block_leaves_a_lock_free() -> None:
    """Python 3.14 lets an interrupt come there; a lock of C's then stays locked."""
    lock = Lock()

    def spin() -> None:
        for _ in range(10_000):
            with lock:
                pass

    for _ in range(ROUNDS):
        interrupted(spin)
        assert not lock.locked()


def spin_sync(policy: Policy[Any]) -> None:
    """Call until it is interrupted."""
    protected = policy(work)

    def spin() -> None:
        # NB: an interrupt in a destructor is swallowed: so not for ever.
        for _ in range(500):
            protected()

    interrupted(spin)


def spin_asyncio(policy: Policy[Any]) -> None:
    """Call until it is interrupted, on a loop that goes on."""
    protected = policy(awork)

    async def spin() -> None:
        for _ in range(100):
            await protected()

    hooks = sys.get_asyncgen_hooks()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    waits: list[Coroutine[Any, Any, Any]] = []

    def wait(seconds: float) -> None:
        # NB: bounded, for what is interrupted may be the loop's own code.
        waits.append(asyncio.wait([task], timeout=seconds))
        loop.run_until_complete(waits[-1])

    try:
        calling = spin()
        task = loop.create_task(calling)
        interrupted(lambda: wait(0.2))
        # NB: an interrupt of asyncio's own beginning, from 3.14 on, or of its own end
        # leaves a loop that says that it runs.
        loop._thread_id = None  # type: ignore[attr-defined]  # of BaseEventLoop
        asyncio._set_running_loop(None)
        sys.set_asyncgen_hooks(*hooks)
        for _ in range(2):
            task.cancel()
            with suppress(KeyboardInterrupt, RuntimeError):
                wait(0.1)
        if not task.done():
            # NB: what was interrupted was the loop itself, and the task is lost.
            calling.close()
    finally:
        loop.close()
        for waiting in waits:
            # NB: one that the loop lost would be complained of in another test.
            waiting.close()


def spin_trio(policy: Policy[Any]) -> None:
    """Call until it is interrupted, in a run of trio's."""

    async def spin() -> None:
        protected = policy(tawork)
        for _ in range(100):
            await protected()

    interrupted(lambda: trio.run(spin))


IMPORT: dict[Callable[[Policy[Any]], None], Callable[[Policy[Any]], object]] = {
    spin_sync: lambda policy: policy(work)(),
    spin_asyncio: lambda policy: asyncio.run(policy(awork)()),
    spin_trio: lambda policy: trio.run(policy(tawork)),
}
"""A call that loads what the first one does: an interrupt of an import leaves a lock
of CPython's locked, for which other threads wait at some moment of their own."""


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("spin", [spin_sync, spin_asyncio, spin_trio])
@pytest.mark.parametrize("name", SYNC)
def test_ctrl_c_at_a_random_moment_leaves_nothing(
    name: str, spin: Callable[[Policy[Any]], None]
) -> None:
    """As `test_ctrl_c_at_any_moment…`, by a timer's signal, in our code or not."""
    if name == "abandoning timeout" and spin is not spin_sync:
        pytest.skip("for plain functions only")
    if sys.version_info[:2] == (3, 14) and name in THREADED:
        pytest.skip(THREADS)
    rounds = ROUNDS if spin is spin_sync else max(1, ROUNDS // 3)
    with suppress(RejectedError):
        IMPORT[spin](SYNC[name]())
    with warnings.catch_warnings():
        # NB: the user's own coroutine, on 3.11.
        warnings.filterwarnings("ignore", "coroutine '(awork|.*spin|.*tawork)' was")
        for _ in range(rounds):
            policy = SYNC[name]()
            copy_context().run(spin, policy)
            if name not in THREADED:
                assert {} == elsewhere(lambda: held(policy))  # noqa: B023
            assert 1 == elsewhere(lambda: policy(work)())  # noqa: B023
        # What is complained of here is not to be found by the tests above.
        gc.collect()
