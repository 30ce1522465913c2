"""AIMD: a limit that goes by outcomes alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient._machines.aimd import AIMD


def told(limit: AIMD, congested: bool, in_flight: int, times: int = 1) -> int:
    """Tell a limit of calls that ended alike; return it as it is then."""
    for _ in range(times):
        limit.update(0.0, 0.1, in_flight, congested)
    return limit.limit(0.0)


def test_it_grows_by_one_a_success() -> None:
    """Every success counts at once, whatever its latency."""
    limit = AIMD()
    assert 20 == limit.limit(0.0)
    assert 21 == limit.update(0.0, 0.1, 20, False)
    assert 22 == limit.update(0.0, 0.0, 20, False)
    assert 22 == limit.limit(99.0)


def test_congestion_takes_a_tenth_away() -> None:
    """Once for each call: 20 × 0.9 × 0.9 is 16.2."""
    limit = AIMD()
    assert 18 == limit.update(0.0, 0.1, 20, True)
    assert 16 == limit.update(0.0, 0.1, 20, True)


def test_it_does_not_grow_in_light_traffic() -> None:
    """An hour with 2 of 20 in flight proves nothing about 21."""
    limit = AIMD()
    assert 20 == told(limit, False, 2, times=36_000)
    assert 20 == told(limit, False, 9)
    assert 21 == told(limit, False, 10)


def test_it_stays_within_its_bounds() -> None:
    """Never below 1, however bad; never above the maximum, however good."""
    limit = AIMD()
    assert 1 == told(limit, True, 20, times=1000)
    assert 200 == told(limit, False, 200, times=1000)
    assert 5 == told(AIMD(minimum=5), True, 20, times=1000)


def test_an_increase_ends_at_the_maximum() -> None:
    """A large one from just below it, too."""
    assert 10 == told(AIMD(9, maximum=10, increase=5), False, 9)


def test_it_may_begin_at_its_bounds() -> None:
    """With one number for all three it never moves."""
    limit = AIMD(7, minimum=7, maximum=7)
    assert 7 == told(limit, False, 7, 9)
    assert 7 == told(limit, True, 7, 9)


def test_a_limit_of_one_is_not_for_ever() -> None:
    """One call after the other makes it grow, as far as they fill it."""
    limit = AIMD()
    told(limit, True, 20, times=1000)
    assert 2 == told(limit, False, 1)
    assert 3 == told(limit, False, 1)
    assert 3 == told(limit, False, 1)
    assert 20 == told(limit, False, 20, times=17)


def test_a_new_one_has_its_settings_and_has_learnt_nothing() -> None:
    """Policies make one each, and another at each reset."""
    limit = AIMD(5, minimum=2, maximum=50, increase=0.5, backoff=0.5)
    told(limit, True, 5)
    again = limit.anew()
    assert "AIMD(initial=5, minimum=2, maximum=50, increase=0.5, backoff=0.5)" == (
        repr(again)
    )
    assert (2, 5) == (limit.limit(0.0), again.limit(0.0))
    assert "AIMD()" == repr(AIMD())


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 60))))
def test_it_is_what_the_sum_says(calls: list[tuple[bool, int]]) -> None:
    """Against the rule written down once more."""
    limit, expected = AIMD(10, minimum=2, maximum=30), 10.0
    for congested, in_flight in calls:
        if congested:
            expected = max(2.0, expected * 0.9)
        elif in_flight >= expected / 2:
            expected = min(30.0, expected + 1)
        assert math.floor(expected) == limit.update(0.0, 0.1, in_flight, congested)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"initial": 0}, ValueError, "`initial` must be >= 1, got 0"),
        ({"initial": 2.5}, TypeError, "`initial` must be an int, got 2.5"),
        ({"initial": 201}, ValueError, "`initial` must be <= 200, got 201"),
        ({"minimum": 0}, ValueError, "`minimum` must be >= 1, got 0"),
        ({"minimum": 300}, ValueError, "`maximum` must be >= 300, got 200"),
        ({"initial": 2, "minimum": 3}, ValueError, "`initial` must be >= 3, got 2"),
        ({"increase": 0}, ValueError, "`increase` must be > 0, got 0"),
        ({"backoff": 0}, ValueError, "`backoff` must be > 0 and <= 1, got 0"),
        ({"backoff": 1}, ValueError, "`backoff` must be < 1, got 1"),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """With parameter, rule and value."""
    with pytest.raises(error) as caught:
        AIMD(**arguments)
    assert text == str(caught.value)
