"""When an endpoint is ejected, and how it comes back: by hand-fed times."""

from __future__ import annotations

from typing import Any

import pytest

from resilient import Eject, constant
from resilient._machines.ejection import LEASE, Ejection, EjectionState

IN, OUT, PROBING = EjectionState.IN, EjectionState.OUT, EjectionState.PROBING


def failing(ejection: Ejection, times: int, now: float = 0.0) -> str | None:
    """Let it fail so often; return what the last failure says."""
    reason = None
    for _ in range(times):
        reason = ejection.fail(now, ejection.era)
    return reason


def ejected(now: float = 0.0, seconds: float = 5.0) -> Ejection:
    """Return one that is out since then, for so long."""
    ejection = Ejection(Eject())
    assert "consecutive_failures" == failing(ejection, 5, now)
    ejection.eject(now)
    assert ejection.set_time(ejection.era, seconds)
    return ejection


# -- What ejects it


def test_five_failures_in_a_row_eject() -> None:
    """Four do not, nor do four before a success and four after it."""
    ejection = Ejection(Eject())
    assert failing(ejection, 4) is None
    assert not ejection.succeed(0.0, ejection.era)
    assert failing(ejection, 4) is None
    assert "consecutive_failures" == failing(ejection, 1)
    assert IN is ejection.state


def test_each_failure_beyond_asks_again() -> None:
    """There may have been no room for it."""
    ejection = Ejection(Eject())
    assert "consecutive_failures" == failing(ejection, 5)
    assert "consecutive_failures" == failing(ejection, 1)


def test_a_failure_rate_ejects_too() -> None:
    """Once there were enough calls in the last ten seconds."""
    ejection = Ejection(Eject(None, failure_rate=0.5, minimum_calls=10))
    for call in range(9):
        if call % 2:
            assert ejection.fail(call / 10, 0) is None
        else:
            assert not ejection.succeed(call / 10, 0)
    assert "failure_rate" == ejection.fail(1.0, 0)
    assert ejection.fail(20.0, 0) is None
    ejection.come_back(20.0)
    assert ejection.fail(20.0, ejection.era) is None


def test_without_a_rule_nothing_ejects() -> None:
    """Though it fail for ever."""
    assert failing(Ejection(Eject(None)), 1000) is None


# -- How long it is out


def test_it_is_out_for_the_time_that_is_set() -> None:
    """And for five seconds until it is."""
    ejection = Ejection(Eject())
    failing(ejection, 5, 100.0)
    ejection.eject(100.0)
    assert (OUT, 105.0, 1) == (ejection.state, ejection.until, ejection.times)
    assert ejection.set_time(ejection.era, 7.0)
    assert not ejection.due(106.9)
    assert ejection.due(107.0)
    assert not ejection.overdue(200.0)


def test_a_time_that_comes_too_late_is_not_taken() -> None:
    """It has come back, or was ejected anew."""
    ejection = ejected()
    era = ejection.era
    ejection.probe(5.0)
    assert not ejection.set_time(era, 1000.0)
    assert 5.0 + LEASE == ejection.until


def test_failures_while_it_is_out_say_nothing() -> None:
    """It is out until its time is over."""
    ejection = ejected()
    assert failing(ejection, 10, 1.0) is None
    assert OUT is ejection.state


def test_a_success_while_it_is_out_brings_it_back() -> None:
    """The call was sent there because no other endpoint was left."""
    ejection = ejected()
    assert ejection.succeed(1.0, ejection.era)
    assert IN is ejection.state


# -- The probe


def test_a_good_probe_brings_it_back() -> None:
    """And its earlier failures count no more."""
    ejection = ejected()
    ejection.probe(5.0)
    assert PROBING is ejection.state
    assert not ejection.due(100.0)
    assert ejection.is_out
    assert ejection.succeed(6.0, ejection.era)
    assert not ejection.is_out
    assert failing(ejection, 4, 6.0) is None


def test_a_failed_probe_ejects_it_for_longer() -> None:
    """At the first failure."""
    ejection = ejected()
    ejection.probe(5.0)
    assert "probe_failed" == ejection.fail(6.0, ejection.era)
    ejection.eject(6.0)
    assert (OUT, 2) == (ejection.state, ejection.times)


def test_a_cancelled_probe_leaves_it_due() -> None:
    """The next call probes; only the probe itself can be withdrawn."""
    ejection = ejected()
    stale = ejection.era
    ejection.probe(5.0)
    assert not ejection.withdraw(6.0, stale)
    assert ejection.withdraw(6.0, ejection.era)
    assert not ejection.withdraw(6.0, ejection.era)
    assert ejection.due(6.0)
    assert 1 == ejection.times


def test_a_probe_has_a_lease() -> None:
    """Of thirty seconds."""
    ejection = ejected()
    ejection.probe(5.0)
    assert not ejection.overdue(34.9)
    assert ejection.overdue(35.0)


# -- Eras


def test_an_outcome_of_an_older_era_decides_nothing() -> None:
    """It neither ejects anew nor brings back, whatever it is."""
    ejection = ejected()
    assert failing(ejection, 0) is None
    ejection.probe(5.0)
    assert not ejection.succeed(5.5, 0)
    assert PROBING is ejection.state
    ejection.succeed(6.0, ejection.era)
    for _ in range(10):
        assert ejection.fail(6.0, 0) is None


@pytest.mark.parametrize(("stays_in", "times"), [(4.9, 2), (5.0, 1)])
def test_having_been_in_as_long_as_out_counts_as_well(
    stays_in: float, times: int
) -> None:
    """The next ejection is the first one again."""
    ejection = ejected()
    ejection.probe(5.0)
    ejection.succeed(5.0, ejection.era)
    failing(ejection, 5, 5.0 + stays_in)
    ejection.eject(5.0 + stays_in)
    assert times == ejection.times


def test_forgetting_keeps_the_era_alone() -> None:
    """Calls from before must not be taken for new ones."""
    ejection = ejected()
    era = ejection.era
    ejection.forget(1.0)
    assert (IN, 0) == (ejection.state, ejection.times)
    assert ejection.era > era
    failing(ejection, 5, 1.0)
    ejection.eject(1.0)
    assert 1 == ejection.times


# -- What a user writes


def test_rules_read_as_they_were_written() -> None:
    """Defaults left out; they are values."""
    assert "Eject()" == repr(Eject())
    rules = Eject(None, eject_for=constant(3), max_share=0.2, failure_rate=0.5)
    assert "Eject(None, eject_for=constant(3.0), max_share=0.2, failure_rate=0.5)" == (
        repr(rules)
    )
    assert Eject() == Eject(5)
    assert 2.0 == Eject(eject_for=2).eject_for


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"consecutive": 0}, ValueError, "`consecutive` must be >= 1, got 0"),
        ({"consecutive": 2.0}, TypeError, "`consecutive` must be an int, got 2.0"),
        ({"eject_for": -1}, ValueError, "`eject_for` must be >= 0 seconds, got -1"),
        ({"max_share": 0}, ValueError, "`max_share` must be > 0 and <= 1, got 0"),
        ({"failure_rate": 2}, ValueError, "`failure_rate` must be > 0 and <= 1, got 2"),
        ({"minimum_calls": 0}, ValueError, "`minimum_calls` must be >= 1, got 0"),
    ],
)
def test_rules_out_of_range_are_refused(
    arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """Each names the parameter, the rule and the value."""
    with pytest.raises(kind) as caught:
        Eject(**arguments)
    assert text == str(caught.value)


def test_a_success_of_an_earlier_era_brings_nothing_back() -> None:
    """What was sent before the ejection decides nothing."""
    ejection = ejected(now=1000.0)
    assert ejection.succeed(1001.0, ejection.era - 1) is False
    assert OUT is ejection.state


def test_successes_keep_the_failure_rate_low() -> None:
    """They are counted as what they are."""
    ejection = Ejection(Eject(None, failure_rate=0.5, minimum_calls=2))
    for call in range(9):
        assert ejection.succeed(1000.0 + call / 10, 0) is False
    assert ejection.fail(1001.0, 0) is None
