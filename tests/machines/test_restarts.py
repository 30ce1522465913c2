"""The machine that counts a worker's crashes: hand-fed clock readings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import constant, decorrelated, delays, exponential
from resilient._machines.restarts import Restarts, affected


def waits(restarts: Restarts, *crashes: float) -> list[float | None]:
    """What follows crashes so many seconds after the starts of their runs."""
    now, found = 0.0, list[float | None]()
    for lived in crashes:
        restarts.begin(now)
        now += lived
        wait = restarts.crash(now)
        found.append(wait)
        now += wait or 0.0
    return found


def test_crashes_in_a_row_reach_the_limit() -> None:
    """The sixth of them, after the five waits of the backoff."""
    restarts = Restarts(5, 60.0, exponential(1.0, cap=30.0))

    assert [1.0, 2.0, 4.0, 8.0, 16.0, None] == waits(restarts, *[0.0] * 6)
    assert (6, 5) == (restarts.row, restarts.count)


def test_a_run_in_health_begins_a_new_row() -> None:
    """Which is what a limit in a window of time cannot tell."""
    restarts = Restarts(2, 60.0, exponential(1.0, cap=30.0))

    assert [1.0, 2.0, 1.0, 2.0, None] == waits(restarts, 0.0, 59.0, 60.0, 1.0, 1.0)


def test_a_return_ends_the_row() -> None:
    """And waits as long as a first crash does."""
    restarts = Restarts(1, 60.0, constant(0.5))
    waits(restarts, 0.0)

    assert 0.5 == restarts.end()
    assert [0.5, None] == waits(restarts, 0.0, 0.0)


def test_no_restarts_at_all() -> None:
    """The first crash reaches the limit."""
    assert [None] == waits(Restarts(0, 60.0, constant(1)), 0.0)


def test_waits_are_the_longest_that_may_be_drawn() -> None:
    """A wait of 0, which full jitter may draw, would be a busy loop."""
    for backoff, expected in [
        (exponential(0.1, cap=30.0, jitter="full"), [0.1, 0.2, 0.4]),
        (decorrelated(1.0, cap=5.0), [3.0, 5.0, 5.0]),
        (delays([3, 1]), [3.0, 1.0, 1.0]),
        (lambda crashes: crashes * 2, [2.0, 4.0, 6.0]),
    ]:
        assert expected == waits(Restarts(5, 60.0, backoff), 0.0, 0.0, 0.0)


def test_a_new_row_begins_the_chain_of_waits_anew() -> None:
    """That of a decorrelated backoff too."""
    restarts = Restarts(5, 60.0, decorrelated(1.0, cap=50.0))

    assert [3.0, 9.0, 3.0] == waits(restarts, 0.0, 0.0, 61.0)


def test_what_a_backoff_returns_is_checked() -> None:
    """It is a user's function."""
    with pytest.raises(ValueError, match="`backoff` must be"):
        waits(Restarts(5, 60.0, lambda crashes: -1.0), 0.0)


def test_strategies_say_what_is_restarted() -> None:
    """In the order of their start."""
    assert ["b"] == affected("one_for_one", ["a", "b", "c"], "b")
    assert ["a", "b", "c"] == affected("one_for_all", ["a", "b", "c"], "b")
    assert ["b", "c"] == affected("rest_for_one", ["a", "b", "c"], "b")


@given(st.integers(0, 5), st.lists(st.floats(0, 120), max_size=30))
def test_rows_agree_with_a_naive_count(most: int, lives: list[float]) -> None:
    """Which looks at all crashes from the last healthy run on."""
    restarts = Restarts(most, 60.0, constant(1))
    now = 0.0
    for number, life in enumerate(lives):
        restarts.begin(now)
        now += life
        row = 1
        while row <= number and lives[number - row + 1] < 60.0:
            row += 1
        # NB: as the clock tells it, whose readings are rounded.
        wait = restarts.crash(now)
        if all(abs(one - 60.0) > 1e-6 for one in lives):
            assert (row, row > most) == (restarts.row, wait is None)
