"""Tools that freeze time, freezegun and time-machine: policies go on in real time.

What is drawn over: the tools, each with a clock that stands and one that ticks;
policies that were made and used before, during and after; every colour.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import freezegun
import pytest
import time_machine

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    CircuitBreaker,
    Hedge,
    Pipeline,
    Policy,
    RateLimiter,
    RejectedError,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    constant,
    deadline_after,
    remaining,
)
from resilient._runtimes import clock
from resilient.testing import VirtualTimeError, virtual_time

FAR = "2084-01-01"
"""Decades away: what was computed by it would be wrong by as much."""

HOUR = 3600.0

TOOLS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "freezegun": lambda: freezegun.freeze_time(FAR),
    "freezegun, ticking": lambda: freezegun.freeze_time(FAR, tick=True),
    "freezegun, in the past": lambda: freezegun.freeze_time("1970-01-02"),
    "time-machine": lambda: time_machine.travel(FAR, tick=False),
    "time-machine, ticking": lambda: time_machine.travel(FAR, tick=True),
}

in_every_tool = pytest.mark.parametrize("freeze", TOOLS.values(), ids=TOOLS)


@in_every_tool
def test_the_clock_of_policies_goes_on(
    freeze: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Readings from before, during and after are of one clock."""
    before = clock.now()
    with freeze():
        during = [clock.now(), clock.real_now()]
        while clock.now() == during[0]:
            pass
    after = clock.now()

    assert before <= during[0] <= during[1] <= after
    assert sys.modules["time"].monotonic() >= after


def spent_limiter() -> tuple[Policy[Any], Callable[[Policy[Any]], None]]:
    """A limiter of one call an hour."""
    return RateLimiter(1, per=HOUR), lambda policy: policy.call(int)


def tripped_breaker() -> tuple[Policy[Any], Callable[[Policy[Any]], None]]:
    """A breaker that the first failure opens for an hour."""
    return CircuitBreaker(consecutive_failures=1, open_for=HOUR), failing


def failing(policy: Policy[Any]) -> None:
    """Let one call under a policy fail."""

    def fail() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        policy.call(fail)


@pytest.mark.parametrize("make", [spent_limiter, tripped_breaker])
@pytest.mark.parametrize("frozen", ["made", "used", "made and used"])
@in_every_tool
def test_a_rejection_ends_in_its_own_time(
    freeze: Callable[[], AbstractContextManager[Any]],
    frozen: str,
    make: Callable[[], tuple[Policy[Any], Callable[[Policy[Any]], None]]],
) -> None:
    """It does not last until the frozen date comes."""
    with freeze() if "made" in frozen else contextlib.nullcontext():
        policy, use = make()
    with freeze() if "used" in frozen else contextlib.nullcontext():
        use(policy)
        with pytest.raises(RejectedError) as during:
            policy.call(int)
    with pytest.raises(RejectedError) as after:
        policy.call(int)

    assert during.value.retry_after is not None
    assert after.value.retry_after is not None
    assert 0 < after.value.retry_after <= during.value.retry_after <= HOUR


@in_every_tool
def test_what_is_kept_keeps_its_age(
    freeze: Callable[[], AbstractContextManager[Any]],
) -> None:
    """A cache that was filled in frozen time answers afterwards, and before."""
    asked: list[int] = []
    cached = StaleCache(HOUR, 0)(asked.append)
    for number, place in enumerate((contextlib.nullcontext(), freeze())):
        with place:
            cached(number)
    for number in (0, 1):
        cached(number)
        with freeze():
            cached(number)

    assert [0, 1] == asked


@in_every_tool
def test_deadlines_stand_where_they_were(
    freeze: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Neither is one over at once, nor does it never come."""
    with deadline_after(HOUR):
        before = remaining()
        with freeze():
            during = remaining()
            inner = Timeout(2 * HOUR).call(remaining)
        after = remaining()

    assert before is not None
    assert during is not None
    assert after is not None
    assert inner is not None
    assert HOUR >= before >= during >= inner >= after > 0


@in_every_tool
def test_whatever_has_a_clock_is_as_it_was(
    freeze: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Windows, budgets and limits do not think that decades have passed."""
    budget = RetryBudget(0.1, 10, per_second=0)
    throttle = AdaptiveThrottle(window=HOUR, minimum_calls=1, padding=0)
    adaptive = AdaptiveConcurrency()
    pipeline = Pipeline(
        Retry(OSError, attempts=2, backoff=constant(0), budget=budget),
        Hedge(HOUR, max_threads=1),
        CircuitBreaker(window=HOUR, minimum_calls=1000),
        Bulkhead(1, max_queue=1, max_wait=HOUR),
    )
    for place in (contextlib.nullcontext(), freeze(), contextlib.nullcontext()):
        with place:
            failing(pipeline)
            failing(adaptive)
            failing(throttle) if throttle.rejecting == 0 else None
    assert 7 == budget.balance
    assert throttle.rejecting > 0


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
@pytest.mark.parametrize("outside", ["frozen", "virtual"])
@in_every_tool
def test_virtual_time_is_what_moves_policies(
    freeze: Callable[[], AbstractContextManager[Any]], outside: str, colour: str
) -> None:
    """Inside a frozen time and around one, to the second."""
    limiter = RateLimiter(1, per=HOUR, max_wait=None)

    def scenario(take: Callable[[], None]) -> None:
        inside = freeze() if outside == "virtual" else contextlib.nullcontext()
        with inside:
            take()
            take()

    async def main() -> float:
        inside = freeze() if outside == "virtual" else contextlib.nullcontext()
        with inside:
            for _ in range(2):
                async with limiter.guard():
                    pass
        return clock.now()

    with freeze() if outside == "frozen" else contextlib.nullcontext():
        if colour == "sync":
            with virtual_time() as virtual:
                scenario(lambda: limiter.call(lambda: None))
                assert HOUR == virtual.now()
        elif colour == "asyncio":
            assert HOUR == virtual_time.run(main)
        else:
            assert HOUR == virtual_time.run(main, backend="trio")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@in_every_tool
def test_a_dead_lock_is_found_in_frozen_time(
    freeze: Callable[[], AbstractContextManager[Any]], backend: Any
) -> None:
    """What waits in real time for a moment of quiet does not wait for ever."""
    bulkhead = Bulkhead(1, max_queue=1)

    async def main() -> None:
        async with bulkhead.guard():
            await other()

    async def other() -> None:
        import anyio

        await anyio.Event().wait()

    with freeze(), pytest.raises(VirtualTimeError, match="nothing can run"):
        virtual_time.run(main, backend=backend)


SCRIPT = """
import sys, time
started = time.monotonic()
{}
with {}:
    from resilient import CircuitBreaker, CircuitOpenError
    breaker = CircuitBreaker(consecutive_failures=1, open_for=3600)
    try: breaker.call(lambda: 1 / 0)
    except ZeroDivisionError: pass
try: breaker.call(int)
except CircuitOpenError as error: assert 0 < error.retry_after <= 3600, error
from resilient._runtimes import clock
assert started <= clock.now() <= time.monotonic()
"""


@pytest.mark.real
@pytest.mark.parametrize(
    ("load", "freeze"),
    [
        ("import freezegun", "freezegun.freeze_time('2084-01-01')"),
        ("import time_machine", "time_machine.travel('2084-01-01', tick=False)"),
    ],
)
def test_it_may_be_imported_in_frozen_time(load: str, freeze: str) -> None:
    """As a test that imports what it tests inside a function does."""
    program = SCRIPT.format(load, freeze)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
