"""CoDel: how long a call may wait, by how long the queue has not been empty."""

from __future__ import annotations

from resilient._machines.codel import CoDel


def test_in_a_queue_that_was_empty_lately_a_call_may_wait_long() -> None:
    """The queue has stood for less than the interval: calls may wait `interval`."""
    queue = CoDel(1.0, 0.125)
    assert 1.0 == queue.give_up_at(5.0, 0)
    assert 1.0 == queue.give_up_at(5.9, 7)
    assert not queue.standing


def test_in_a_standing_queue_a_call_waits_for_the_target_only() -> None:
    """The queue has not been empty for an interval: calls may wait `target`."""
    queue = CoDel(1.0, 0.125)
    queue.give_up_at(5.0, 0)
    assert 0.125 == queue.give_up_at(6.0, 1)
    assert queue.standing
    assert 0.125 == queue.give_up_at(60.0, 9)


def test_a_queue_that_has_been_empty_no_longer_stands() -> None:
    """From the next call that joins; then the interval begins anew."""
    queue = CoDel(1.0, 0.125)
    queue.give_up_at(5.0, 0)
    queue.give_up_at(9.0, 3)
    assert 1.0 == queue.give_up_at(9.5, 0)
    assert not queue.standing
    assert 1.0 == queue.give_up_at(10.0, 1)
    assert 0.125 == queue.give_up_at(10.5, 2)


def test_with_no_time_at_all_the_queue_always_stands() -> None:
    """An interval of 0 s is over as soon as a call joins."""
    queue = CoDel(0.0, 0.0)
    assert 0.0 == queue.give_up_at(5.0, 0)
    assert queue.standing


def test_a_new_queue_does_not_stand() -> None:
    """Whatever its clock shows, and were a call in it already."""
    queue = CoDel(1.0, 0.125)
    assert not queue.standing
    assert 1.0 == queue.give_up_at(1000.0, 1)
    assert not queue.standing
