"""What the clock reads when a history begins changes nothing of it.

Each policy goes through a drawn history of calls twice: by a clock that begins at
0.0, and by one that reads something else, huge, negative or a fraction. All moments
are multiples of 2**-20 s, and so are the policies' durations: sums are exact, so that
no call comes just before the end of something in one history and after it in the
other. Every answer, event and status is to be the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.colours import Colour, World, _finish, begin

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Balance,
    Bulkhead,
    CircuitBreaker,
    Coalesce,
    Eject,
    Fallback,
    Gradient,
    Hedge,
    Limit,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    Vegas,
    calls,
    constant,
    deadline_after,
)
from resilient._runtimes import clock
from resilient.testing import virtual_time

NUMBER = re.compile(r"\d+\.?\d*(?:e-?\d+)?")

UNIT = 2.0**-20
"""Seconds of which all moments are multiples."""

FAR = 2**30
"""Units until a deadline that no history lives to see."""

Step = tuple[int, int, int | None, bool]
"""Units of pause, of work, and until the deadline; whether the call fails."""

STEPS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 2**21), st.sampled_from([0, 2**19, 2**20, 2**25])),
        st.one_of(st.integers(0, 2**21), st.sampled_from([0, 2**19, 2**20])),
        st.one_of(st.none(), st.integers(0, 2**22)),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)
STARTS = st.one_of(
    st.integers(-(2**50), 2**50),
    st.integers(-(2**24), 2**24),
    st.sampled_from([-(2**50), -(2**30), -1, 1, 2**30, 2**50]),
).map(lambda units: units * UNIT)

MAKE: dict[str, Callable[[], Policy[Any]]] = {
    "bulkhead": lambda: Bulkhead(1, max_queue=2, max_wait=0.5),
    "limiter": lambda: RateLimiter(2, burst=2, max_wait=0.5),
    "limiter of two units": lambda: RateLimiter(
        limits=[Limit(2, burst=2), Limit(4, unit="tokens")],
        cost={"requests": 1, "tokens": 2},
    ),
    "sliding window": lambda: RateLimiter(2, per=2, algorithm="sliding_window"),
    "fixed window": lambda: RateLimiter(
        2, per=2, algorithm="fixed_window", max_wait=0.5
    ),
    "breaker": lambda: CircuitBreaker(
        minimum_calls=2, open_for=constant(2), half_open_calls=1, probe_timeout=1
    ),
    "breaker of slow calls": lambda: CircuitBreaker(
        window=calls(4), slow_call_duration=0.5, slow_call_rate=0.5, open_for=2.0
    ),
    "ramped breaker": lambda: CircuitBreaker(
        consecutive_failures=2, open_for=constant(1), ramp=[0.25, 0.5], ramp_step=1
    ),
    "AIMD": lambda: AdaptiveConcurrency(AIMD(2), max_queue=1, max_wait=0.5),
    "Gradient": lambda: AdaptiveConcurrency(Gradient(2)),
    "Vegas": lambda: AdaptiveConcurrency(Vegas(2)),
    "throttle": lambda: AdaptiveThrottle(minimum_calls=1, window=4),
    "retry": lambda: Retry(
        OSError, attempts=3, backoff=constant(0.25), budget=RetryBudget(0.5, 2, 0.25)
    ),
    "retry within": lambda: Retry(
        OSError, attempts=None, backoff=constant(0.25), within=1, budget=None
    ),
    "timeout": lambda: Timeout(0.5),
    "fallback": lambda: Fallback("other", on=OSError),
    "cache": lambda: StaleCache(1, 2, key=lambda *step: None),
    "cache of failures": lambda: StaleCache(
        1, 2, key=lambda *step: None, negative_ttl=0.5
    ),
    "coalesce": lambda: Coalesce(key=lambda *step: None),
    "keys": lambda: PerKey(
        lambda key: RateLimiter(1), key=lambda *step: step[-1], max_keys=1
    ),
    "hedge": lambda: Hedge(0.25),
    "hedge of a percentile": lambda: Hedge(percentile=0.5, budget=None),
    "balance": lambda: Balance("a", "b", eject=Eject(1, eject_for=2), slow_start=2),
    "seven": lambda: Pipeline(
        Fallback("other", on=ConnectionError),
        Timeout(4),
        Retry(OSError, backoff=constant(0.25)),
        CircuitBreaker(consecutive_failures=3, open_for=2.0),
        RateLimiter(4, max_wait=0.5),
        Bulkhead(2, max_queue=1, max_wait=0.5),
        Timeout(1),
    ),
}


async def history(w: World, name: str, steps: list[Step], start: float) -> list[Any]:
    """Go through a history, with two callers in async; return what is said."""
    policy, said = MAKE[name](), list[Any]()
    policy.subscribe(lambda event: said.append(repr(event)))

    async def work(*step: Any) -> float:
        _, busy, _, fails = step[-4:]
        await w.sleep(busy * UNIT)
        if fails:
            raise OSError("down")
        return clock.now() - start

    decorated = w.decorate(policy, work)

    async def caller(mine: list[Step]) -> None:
        for step in mine:
            await w.sleep(step[0] * UNIT)
            try:
                units = FAR if step[2] is None else step[2]
                with deadline_after(units * UNIT):
                    said.append(await decorated(*step))
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
            said.append(clock.now() - start)

    if w.is_sync:
        await caller(steps)
    else:
        await w.gather(lambda: caller(steps[::2]), lambda: caller(steps[1::2]))
    said.append(policy.status())
    return said


def numbers(said: list[Any]) -> list[float]:
    """Return the numbers in what is said."""
    return [float(number) for number in NUMBER.findall(str(said))]


def run(colour: Colour, name: str, steps: list[Step], start: float) -> list[Any]:
    """Return what is said of a history that begins when the clock reads `start`."""
    w = World(colour)
    if colour == "sync":
        with virtual_time(seed=7):
            return _finish(begin(history, w, name, steps, start, start=start))
    return virtual_time.run(
        lambda: begin(history, w, name, steps, start, start=start),
        backend=colour,
        seed=7,
    )


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
@pytest.mark.parametrize("name", MAKE)
def test_a_history_is_the_same_whatever_the_clock_reads(
    name: str, colour: Colour
) -> None:
    """Also where it is negative, as no platform's is, or of decades."""
    if name.startswith("hedge") and colour == "sync":
        pytest.skip("its threads start in any order")

    @settings(max_examples=5)
    @given(STEPS, STARTS)
    def check(steps: list[Step], start: float) -> None:
        if name == "fixed window":
            start //= 2  # its windows begin at multiples of `per`
            start *= 2
        one, other = (run(colour, name, steps, begun) for begun in (0.0, start))
        assert NUMBER.sub("#", str(one)) == NUMBER.sub("#", str(other))
        assert pytest.approx(numbers(one), abs=1e-6) == numbers(other)

    check()
