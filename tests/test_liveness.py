"""A call that must act for others may be gone: the others go on.

A call that waits stands on an event loop that is closed, is never run again or
blocks; or it was left behind in the process that this one was forked from.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trio

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    Bulkhead,
    BulkheadFullError,
    Call,
    Coalesce,
    Policy,
    RateLimiter,
    Timeout,
)
from resilient._runtimes import clock

BOUND = 30.0
"""Real seconds in which what does not hang has ended, on a loaded machine."""


@pytest.fixture(autouse=True)
def brief_patrols(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for another looks soon whether that one is still there."""
    monkeypatch.setattr(clock, "patrol", 0.05)


class Stopped:
    """An event loop on which a call waits, and which is not run any more."""

    def __init__(self, policy: Policy[Any]) -> None:
        self.loop = asyncio.new_event_loop()
        self.task = self.loop.create_task(policy.acall(asyncio.sleep, 0, "late"))
        self.loop.run_until_complete(asyncio.sleep(0.01))

    def goes_on(self) -> str:
        """Run it after all."""
        return self.loop.run_until_complete(asyncio.wait_for(self.task, BOUND))

    def close(self) -> None:
        if not self.loop.is_closed():
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self.loop.run_until_complete(self.task)
            self.loop.close()


@contextlib.contextmanager
def stopped(policy: Policy[Any]) -> Iterator[Stopped]:
    """Make one, and end it."""
    loop = Stopped(policy)
    try:
        yield loop
    finally:
        loop.close()


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Begin a function in a thread; return what waits for its result."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(function()), daemon=True)
    thread.start()

    def end() -> Any:
        thread.join(BOUND)
        assert result, "it hangs"
        return result[0]

    return end


def quick(**options: Any) -> RateLimiter:
    """A limiter of which the first permit is taken."""
    limiter = RateLimiter(1, per=0.05, max_wait=None, **options)
    limiter.call(bool)
    return limiter


# -- The line of a limiter


def test_callers_pass_over_a_first_one_whose_loop_is_not_run() -> None:
    """They were there before, or come now; it comes first when it comes."""
    limiter = quick()
    with stopped(limiter) as loop:
        there = [in_thread(lambda: limiter.call(str, "ok")) for _ in range(2)]
        assert ["ok", "ok"] == [end() for end in there]
        assert 0 == limiter.queued
        assert "ok" == in_thread(lambda: limiter.call(str, "ok"))()
        assert "late" == loop.goes_on()


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_closed_loop_is_passed_over_as_soon_as_its_turn_has_come() -> None:
    """No call waits for a patrol."""
    limiter = quick()
    loop = Stopped(limiter)
    loop.loop.close()
    loop.task = None  # type: ignore[assignment]  # it is lost
    assert "ok" == in_thread(lambda: limiter.call(str, "ok"))()
    assert 0 == limiter.queued
    del loop
    gc.collect()


def test_whoever_was_passed_over_may_find_a_line_and_stands_first_in_it() -> None:
    """Behind it no call has a right to be served earlier."""
    limiter = RateLimiter(1, per=0.3, max_wait=None)
    limiter.call(bool)
    with stopped(limiter) as loop:
        # NB: in the call that took the permit, before another has come.
        in_thread(lambda: limiter.call(limiter.set_rate, 1, per=3600))()
        with stopped(limiter):
            asleep = loop.loop.run_until_complete(
                asyncio.wait([loop.task], timeout=0.2)
            )
            assert not asleep[0]
            assert loop.task in asleep[1]
            assert 2 == limiter.queued
            limiter.set_rate(100, per=1)
            assert "late" == loop.goes_on()


def test_a_run_of_trio_that_is_over_is_gone() -> None:
    """Its waiter says so, as those of a parent do."""
    waiters: list[Any] = []

    async def main() -> None:
        waiters.append(Call.new("call").runtime.waiter(Call.new("call")))
        assert not waiters[0].is_gone()
        await trio.sleep(0)

    trio.run(main)
    assert waiters[0].is_gone()


@pytest.mark.real
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_passes_over_the_calls_of_its_parent() -> None:
    """They wait in the parent, and their copies for nothing."""
    limiter = quick()
    end = in_thread(lambda: limiter.call(str, "ok"))
    trio_waiter: list[Any] = []

    async def note() -> None:
        call = Call.new("call")
        trio_waiter.append(call.runtime.waiter(call))

    trio.run(note)
    if not (child := os.fork()):
        try:
            gone = trio_waiter[0].is_gone()
            os._exit(0 if gone and limiter.call(str, "ok") == "ok" else 1)
        finally:
            os._exit(2)
    assert 0 == os.waitpid(child, 0)[1]
    assert "ok" == end()


# -- The slots of a bulkhead


SLOTS: dict[str, Callable[..., Any]] = {
    "bulkhead": lambda **options: Bulkhead(1, max_queue=2, **options),
    "adaptive": lambda **options: AdaptiveConcurrency(
        AIMD(1, maximum=1), max_queue=2, max_wait=BOUND
    ),
}


@pytest.mark.parametrize("kind", SLOTS)
def test_a_slot_that_a_call_does_not_come_for_goes_to_the_next(kind: str) -> None:
    """Who waits looks around; the one that is late gets the next."""
    policy = SLOTS[kind]()
    permit = policy.admit(Call.new("first"))
    with stopped(policy) as loop:
        end = in_thread(lambda: policy.call(str, "ok"))
        while policy.queued < 2:
            pass
        policy.settle(permit, None)
        assert "ok" == end()
        assert "late" == loop.goes_on()
    assert 0 == policy.status()["saturation"]


def test_who_comes_late_waits_first_in_line() -> None:
    """Behind those only who have a slot by now."""
    policy = Bulkhead(1, max_queue=3)
    permit = policy.admit(Call.new("first"))
    with stopped(policy) as loop:
        policy.settle(permit, None)
        gate = threading.Event()
        end = in_thread(lambda: policy.call(gate.wait, BOUND))
        while policy.in_use != 1 or policy.queued:
            pass
        begun = loop.loop.run_until_complete(asyncio.wait([loop.task], timeout=0.2))
        assert not begun[0]
        assert 1 == policy.queued
        gate.set()
        assert "late" == loop.goes_on()
        assert end()


@pytest.mark.filterwarnings("ignore:coroutine")
def test_a_line_full_of_calls_that_are_gone_has_room() -> None:
    """Looked through once in a while, before a call is refused."""
    policy = Bulkhead(1, max_queue=1, max_wait=BOUND)
    permit = policy.admit(Call.new("first"))
    loop = Stopped(policy)
    with pytest.raises(BulkheadFullError):
        policy.call(bool)
    loop.loop.close()
    loop.task = None  # type: ignore[assignment]  # it is lost
    threading.Event().wait(0.1)
    end = in_thread(lambda: policy.call(str, "ok"))
    while not policy.queued:
        pass
    policy.settle(permit, None)
    assert "ok" == end()
    del loop
    gc.collect()


def test_a_wake_that_was_interrupted_is_made_good() -> None:
    """By the call that looks around next."""
    policy = Bulkhead(1, max_queue=2)
    permit = policy.admit(Call.new("first"))
    ends = [in_thread(lambda: policy.call(str, "ok")) for _ in range(2)]
    while policy.queued < 2:
        pass
    # As `settle`, but for its last step.
    policy._lock.run(policy._leave_locked, permit)
    assert ["ok", "ok"] == [end() for end in ends]


# -- Executions that are shared


@pytest.mark.filterwarnings("ignore:coroutine")
def test_an_execution_on_a_closed_loop_counts_for_nothing() -> None:
    """And is forgotten when another loop, or thread, comes."""
    coalesce = Coalesce()

    async def begin() -> None:
        task = asyncio.ensure_future(coalesce.acall(asyncio.sleep, BOUND))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 1 == coalesce.in_flight
        lost.append(task)

    lost: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    loop.close()
    assert 0 == coalesce.in_flight
    assert coalesce.is_pristine()
    assert 1 == coalesce.call(abs, -1)
    assert [] == coalesce._executions.find_all()
    lost.clear()
    gc.collect()


def test_who_waits_for_what_was_not_delivered_runs_it_again() -> None:
    """Ctrl-C in the thread that ran it, between its end and its delivery."""
    coalesce, gate = Coalesce(), threading.Event()
    begun = threading.Event()

    def work() -> str:
        begun.set()
        gate.wait(BOUND)
        return "ok"

    ends = [in_thread(lambda: coalesce.call(work)) for _ in range(2)]
    assert begun.wait(BOUND)
    [execution] = coalesce._executions.find_all()
    while len(execution.waiters) < 2:
        pass
    # As its end does, but for the delivery.
    coalesce._lock.run(coalesce._executions.finish, execution)
    gate.set()
    assert ["ok", "ok"] == [end() for end in ends]


# -- Timers


def test_a_timer_is_armed_for_a_moment_after_the_last_call() -> None:
    """Not for as long as the call might have taken."""

    async def main() -> None:
        timeout = Timeout(3600)
        await timeout.acall(asyncio.sleep, 0)
        scheduled: list[asyncio.TimerHandle] = getattr(loop, "_scheduled")  # noqa: B009
        [timer] = [timer for timer in scheduled if not timer.cancelled()]
        assert timer.when() <= loop.time() + clock.patrol
        await asyncio.sleep(0.2)
        assert [] == [timer for timer in scheduled if not timer.cancelled()]
        # And as long as one is inside, it goes on.
        with pytest.raises(TimeoutError):
            await Timeout(0.2).acall(asyncio.sleep, BOUND)

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
