"""Contact: when a store counts as lost, and when it is tried again."""

from __future__ import annotations

import math

from resilient._machines.contact import Contact


def test_a_store_is_up_until_it_fails() -> None:
    """Nothing is presumed; the first failure is news, the next ones are not."""
    contact = Contact()
    assert contact.up
    assert contact.answered(1.0) is None
    assert [True, False] == [contact.failed(2.0), contact.failed(2.1)]
    assert (False, 2.0) == (contact.up, contact.lost_since)


def test_probes_back_off_to_one_a_second() -> None:
    """The first after 50 ms, then twice as late each time."""
    contact = Contact()
    pauses = []
    for _ in range(7):
        contact.failed(10.0)
        pauses.append(round(contact.probe_at - 10.0, 3))
    assert [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0] == pauses


def test_it_is_up_again_after_a_dwell() -> None:
    """It answers, and has to answer still 0.2 s later."""
    contact = Contact()
    contact.failed(10.0)
    assert contact.answered(12.0) is None
    assert (False, 12.1) == (contact.up, contact.probe_at)
    assert contact.answered(12.15) is None
    assert (False, 12.2) == (contact.up, contact.probe_at)
    assert 2.2 == round(contact.answered(12.2) or 0.0, 6)
    assert contact.up
    assert contact.answered(12.3) is None


def test_a_store_that_answers_is_probed_often_until_it_is_up() -> None:
    """Members book then; others may use all that the store has."""
    contact = Contact()
    for lost in (10.0, 12.0):
        contact.failed(lost)
        now = lost
        while contact.answered(now) is None:
            assert contact.probe_at <= now + 0.1
            now = contact.probe_at
    assert 1.0 == round(now - lost, 6)


def test_a_failure_during_the_dwell_begins_anew() -> None:
    """One answer between two failures is no return."""
    contact = Contact()
    contact.failed(10.0)
    contact.answered(11.0)
    assert contact.failed(11.1) is False
    assert contact.answered(11.3) is None
    assert contact.answered(11.4) is None
    assert contact.answered(11.5) is not None


def test_flapping_makes_the_dwell_longer() -> None:
    """A second, twice that, up to half a minute; a quiet time forgets it."""
    contact = Contact()
    now, dwells = 0.0, []
    for _ in range(8):
        now += 1.0
        contact.failed(now)
        began = now
        contact.answered(now)
        while not contact.up:
            now = contact.probe_at
            contact.answered(now)
        dwells.append(round(now - began, 3))
    assert [0.2, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0] == dwells
    contact.failed(now + 31.0)
    contact.answered(now + 32.0)
    contact.answered(now + 32.1)
    assert round(now + 32.2, 3) == round(contact.probe_at, 3)


def test_two_late_answers_in_a_row_are_a_loss() -> None:
    """One may be the asker's own fault."""
    contact = Contact()
    assert [False, False, False, True, True] == [
        contact.too_late(late) for late in (True, False, True, True, True)
    ]


def test_a_store_that_was_never_lost_waits_for_no_probe() -> None:
    """It may be tried at any time, whatever the clock shows."""
    assert -math.inf == Contact().probe_at


def test_a_store_that_is_closed_never_returns() -> None:
    """Whatever it answers to what was on its way, or does not."""
    contact = Contact()
    contact.end(10.0)
    assert contact.answered(10.1) is None
    assert contact.failed(10.2) is False
    assert contact.answered(10.3) is None
    assert contact.answered(1e6) is None
    assert not contact.up
    contact = Contact()
    contact.failed(10.0)
    contact.end(10.1)
    assert math.inf == contact.probe_at
    assert contact.answered(20.0) is None


def test_a_failure_after_it_was_closed_is_none() -> None:
    """Of an exchange that was on its way: it never returns all the same."""
    contact = Contact()
    contact.end(10.0)
    assert not contact.failed(10.5)
    assert 11.5 == contact.probe_at
    assert contact.answered(11.5) is None
    assert contact.answered(1e9) is None
    assert not contact.up


def test_a_loss_thirty_seconds_after_the_return_is_still_flapping() -> None:
    """It answers for a second before it is up; later than that it does so at once."""
    for at, up in ((46.0, False), (46.1, True)):
        contact = Contact()
        contact.failed(10.0)
        contact.answered(10.0)
        assert contact.answered(16.0) is not None
        contact.failed(at)
        contact.answered(at)
        assert up is (contact.answered(at + 0.5) is not None)
