"""Which classes are shed, by readings fed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient._machines.overload import Overload

LAG = {"loop_lag": (0.1, 0.4)}


def looked(*values: float | None, hold: float = 1.0, step: float = 0.5) -> list[int]:
    """The level after each of these lags, half a second apart."""
    overload = Overload(LAG, hold)
    return [
        overload.look(place * step, {"loop_lag": value})
        for place, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("lag", "level"),
    [(0.0, 0), (0.099, 0), (0.1, 1), (0.19, 1), (0.21, 2), (0.31, 3), (60.0, 3)],
)
def test_the_range_is_divided_among_the_classes(lag: float, level: int) -> None:
    """Batch, sheddable, normal; critical calls are never shed."""
    assert [level] == looked(lag)


def test_a_level_begins_at_once_and_ends_step_by_step() -> None:
    """Each class is let in when it was quiet for `hold`."""
    assert [0, 3, 3, 2, 2, 1, 1, 0] == looked(0, 0.5, 0, 0, 0, 0, 0, 0)


def test_a_value_near_the_threshold_keeps_the_level() -> None:
    """Within four fifths of it: what is shed would else come back at once."""
    assert [1, 1, 1, 1, 1] == looked(0.1, 0.081, 0.081, 0.081, 0.081)
    assert [1, 1, 0] == looked(0.1, 0.079, 0.079)


def test_the_worst_signal_counts_and_is_the_cause() -> None:
    """One that cannot be read says nothing."""
    overload = Overload({"cpu": (0.9, 1.2), "memory": (0.8, 0.9), **LAG}, 1.0)

    assert 0 == overload.look(0.0, {"cpu": None, "memory": 0.5})
    assert None is overload.cause
    assert 2 == overload.look(0.0, {"cpu": 1.0, "memory": 0.84, "loop_lag": 0.0})
    assert ("memory", 0.84, 0.8) == overload.cause
    overload.reset()
    assert (0, None) == (overload.level, overload.cause)


@given(
    st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=60),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_levels_never_fall_by_two_nor_while_they_are_asked_for(
    lags: list[float | None], hold: float
) -> None:
    """Whatever comes, for each step."""
    levels = looked(*lags, hold=hold)

    for lag, before, after in zip(lags, [0, *levels], levels, strict=False):
        [asked] = looked(lag)
        assert after >= max(asked, before - 1)
        assert after in (before, before - 1, asked)
