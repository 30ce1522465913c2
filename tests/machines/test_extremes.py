"""Grids and extremes: what floating point makes of boundaries and of huge numbers."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from resilient._machines.circuit import Circuit
from resilient._machines.circuit_records import CircuitState
from resilient._machines.rate_limits import (
    FixedWindow,
    RateLimit,
    SlidingWindow,
    TokenBucket,
)
from resilient._machines.window import CountWindow
from resilient._values.checks import LARGEST

SIZES = st.one_of(
    st.sampled_from([5e-324, 1e-300, 1e-9, 0.1, 1 / 3, 1.0, 7.0, 1e9, LARGEST]),
    st.floats(min_value=5e-324, max_value=LARGEST),
)
MOMENTS = st.floats(0, 1e10)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "try", "book", "credit", "learn", "wait", "change"]),
        SIZES,
        st.one_of(st.just(0.0), MOMENTS, SIZES),
    ),
    max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([TokenBucket, SlidingWindow, FixedWindow]),
    SIZES,
    SIZES,
    MOMENTS,
    STEPS,
)
def test_a_limit_of_any_size_answers_with_numbers(
    kind: Any, rate: float, per: float, now: float, steps: list[Any]
) -> None:
    """No OverflowError, no NaN; and a wait that was answered is enough."""
    try:
        limit: RateLimit = kind(rate, per)
    except ValueError as error:
        assert "`rate` must be a positive, finite number" in str(error)
        return
    for verb, amount, later in steps:
        now = min(now + later, LARGEST)
        if verb == "take":
            limit.take(now, amount)
        elif verb == "book":
            limit.book(now, amount)
        elif verb == "credit":
            limit.book(now, -amount, since=now)
        elif verb == "learn":
            limit.learn(now, amount, later, max_hold=60.0)
        elif verb == "wait":
            assert limit.wait(now, amount) >= 0
        elif verb == "change":
            try:
                limit.change(now, amount, per)
            except ValueError as error:
                assert "`rate` must be a positive, finite number" in str(error)
        else:
            wait = limit.try_take(now, amount)
            assert wait >= 0
            if 0.0 < wait < math.inf:
                now += wait
                assert 0.0 == limit.wait(now, amount)
        assert not math.isnan(limit.level(now))


@settings(max_examples=80, deadline=None)
@given(
    st.one_of(st.sampled_from([0.1, 0.3, 1 / 3, 0.7, 1.1, 60.0]), st.floats(1e-3, 1e3)),
    st.one_of(st.just(0.0), st.floats(0, 1e6)),
    st.integers(1, 3),
)
def test_a_fixed_window_is_never_free_twice(
    per: float, start: float, rate: int
) -> None:
    """Who comes as soon as he may gets `rate` in each window, none of length 0."""
    limit = FixedWindow(rate, per)
    now, taken = start, list[float]()
    while len(taken) < 40 * rate:
        wait = limit.try_take(now)
        if wait == 0.0:
            taken.append(now)
        now += wait
    later = taken[rate:]  # the first window may have begun before
    gaps = [after - before for before, after in zip(later, later[rate:], strict=False)]
    rounding = 8 * math.ulp(max(now, per))
    assert per - rounding <= min(gaps)
    assert max(gaps) <= per + rounding


def test_a_multiple_just_missed_begins_the_next_window() -> None:
    """0.6 is less than 6 × 0.1, by a unit in the last place."""
    limit = FixedWindow(1, 0.1)
    assert 0.0 == limit.try_take(0.5)
    assert 0.0 == limit.try_take(0.6)
    assert 6 * 0.1 > 0.6
    assert 0.0 < limit.try_take(6 * 0.1)


def test_a_window_too_small_to_count_has_an_end() -> None:
    """There are infinitely many of them in a second, and each frees the limit."""
    limit = FixedWindow(1e-5, 1e-308)
    for _ in range(20):
        assert 0.0 == limit.try_take(1e5, 1e-5)


def test_a_ramp_of_tiny_steps_is_over_at_once() -> None:
    """Infinitely many steps are more than there are."""
    circuit = Circuit(
        window=CountWindow(1),
        failure_rate=1.0,
        minimum_calls=1,
        consecutive_failures=None,
        slow_call_duration=None,
        slow_call_rate=None,
        half_open_calls=1,
        probe_timeout=30.0,
        ramp=(0.01, 0.05),
        ramp_step=5e-324,
    )
    circuit.settle(circuit.era, 0.0, True, False)
    assert circuit.state is CircuitState.OPEN
    circuit.set_open_time(circuit.era, 1.0)
    probe: Any = circuit.admit(10.0)
    circuit.settle(probe, 10.0, False, False)
    assert circuit.state is CircuitState.RAMPING
    circuit.admit(20.0)
    assert circuit.state is CircuitState.CLOSED
