"""CoDel: how long a call may wait, by how long the line has stood."""

from __future__ import annotations

from resilient._machines.codel import CoDel


def test_in_a_line_for_bursts_one_may_wait_long() -> None:
    """Nobody has waited for the whole interval yet: oldest first."""
    line = CoDel(1.0, 0.125)
    assert 1.0 == line.give_up_at(5.0, 0)
    assert 1.0 == line.give_up_at(5.9, 7)
    assert not line.standing


def test_in_a_line_that_stands_nobody_waits_long() -> None:
    """It has not been empty for the interval: newest first."""
    line = CoDel(1.0, 0.125)
    line.give_up_at(5.0, 0)
    assert 0.125 == line.give_up_at(6.0, 1)
    assert line.standing
    assert 0.125 == line.give_up_at(60.0, 9)


def test_a_line_that_was_empty_is_one_for_bursts_again() -> None:
    """From whoever joins it next."""
    line = CoDel(1.0, 0.125)
    line.give_up_at(5.0, 0)
    line.give_up_at(9.0, 3)
    assert 1.0 == line.give_up_at(9.5, 0)
    assert not line.standing
    assert 1.0 == line.give_up_at(10.0, 1)
    assert 0.125 == line.give_up_at(10.5, 2)


def test_no_time_at_all_is_a_line_that_always_stands() -> None:
    """There is nothing to divide by."""
    line = CoDel(0.0, 0.0)
    assert 0.0 == line.give_up_at(5.0, 0)
    assert line.standing
