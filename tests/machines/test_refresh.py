"""When a list is looked up again, and which call does it, by hand-fed clocks."""

from __future__ import annotations

import pytest

from resilient._machines.refresh import GAP, LEASE, Refresh

EVERY = 10.0


def found(now: float = 0.0, *, keeps: bool = False) -> Refresh:
    """Return a list that was found at that time."""
    refresh = Refresh(keeps=keeps)
    assert refresh.begin(now, "first")
    refresh.succeed(now, 3, EVERY)
    return refresh


def test_a_new_list_is_due_at_once() -> None:
    """And found by the first that begins."""
    refresh = Refresh(keeps=True)
    assert refresh.is_due(0.0)
    assert refresh.begin(0.0, "one")
    assert not refresh.begin(0.0, "other")
    assert not refresh.is_due(0.0)


def test_it_is_due_again_after_a_while() -> None:
    """Counted from the answer."""
    refresh = found(5.0)
    assert not refresh.is_due(14.9)
    assert refresh.is_due(15.0)
    assert (5.0, 1) == (refresh.found_at, refresh.succeeded)


def test_failures_back_off() -> None:
    """By powers of two, as far as `every`, and from the start after an answer."""
    refresh = found()
    now, waits = 10.0, []
    for _ in range(6):
        assert refresh.begin(now, "one")
        refresh.fail(now, EVERY)
        waits.append(refresh.due - now)
        now = refresh.due
    assert [1.0, 2.0, 4.0, 8.0, 10.0, 10.0] == waits
    assert (0.0, 6, 6) == (refresh.found_at, refresh.failures, refresh.failed)
    refresh.succeed(now, 1, EVERY)
    refresh.fail(now, EVERY)
    assert now + 1.0 == refresh.due


def test_two_thousand_failures_are_no_overflow() -> None:
    """A power of two that no float holds is not computed."""
    refresh = found()
    for _ in range(2000):
        refresh.fail(0.0, EVERY)
    assert EVERY == refresh.due


@pytest.mark.parametrize("keeps", [False, True])
def test_the_second_empty_answer_in_a_row_counts(keeps: bool) -> None:
    """Unless none ever does; it is asked for no sooner for that."""
    refresh = found(keeps=keeps)
    assert not refresh.believes(0)
    refresh.succeed(10.0, 0, EVERY)
    assert (0.0, 20.0) == (refresh.found_at, refresh.due)
    assert (not keeps) == refresh.believes(0)
    refresh.succeed(20.0, 0, EVERY)
    assert (0.0 if keeps else 20.0, 2) == (refresh.found_at, refresh.empty)
    assert refresh.believes(1)


@pytest.mark.parametrize("between", ["answer", "failure"])
def test_an_empty_answer_is_in_a_row_with_another_alone(between: str) -> None:
    """Whatever came between."""
    refresh = found()
    refresh.succeed(10.0, 0, EVERY)
    if between == "answer":
        refresh.succeed(20.0, 3, EVERY)
    else:
        refresh.fail(20.0, EVERY)
    assert not refresh.believes(0)


def test_what_was_never_found_and_is_empty_backs_off() -> None:
    """As after a failure."""
    refresh = Refresh(keeps=False)
    for now, due in ((0.0, 1.0), (1.0, 3.0), (3.0, 7.0)):
        refresh.succeed(now, 0, EVERY)
        assert (None, due) == (refresh.found_at, refresh.due)


def test_who_leaves_gives_the_work_to_the_next() -> None:
    """Who has it no more gives nothing back."""
    refresh = Refresh(keeps=False)
    assert refresh.begin(0.0, "one")
    assert not refresh.cancel("other")
    assert refresh.cancel("one")
    assert not refresh.cancel("one")
    assert refresh.is_due(0.0)
    assert refresh.begin(0.0, "other")


def test_who_does_not_come_back_is_lost() -> None:
    """After the lease."""
    refresh = Refresh(keeps=False)
    assert refresh.begin(0.0, "one")
    assert not refresh.begin(LEASE - 0.1, "other")
    assert 0 == refresh.failed
    assert refresh.begin(LEASE, "other")
    assert 1 == refresh.failed
    assert not refresh.cancel("one")


def test_it_may_be_due_sooner() -> None:
    """But not twice within a second, nor later than it was."""
    refresh = found(5.0)
    refresh.hurry(5.5)
    assert 5.0 + GAP == refresh.due
    refresh.hurry(8.0)
    assert 5.0 + GAP == refresh.due
    assert refresh.begin(8.0, "one")
    refresh.succeed(8.0, 3, EVERY)
    refresh.hurry(12.0)
    assert 12.0 == refresh.due
