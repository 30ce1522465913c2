"""The circuit, by hand-fed clock readings and against a naive model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from resilient._machines.circuit import Circuit
from resilient._machines.circuit_records import (
    Change,
    CircuitState,
    Note,
    Probe,
    Refusal,
    Trip,
)
from resilient._machines.window import Counts, CountWindow, TimeWindow

Permit: TypeAlias = int | Probe

CLOSED = CircuitState.CLOSED
OPEN = CircuitState.OPEN
HALF_OPEN = CircuitState.HALF_OPEN
RAMPING = CircuitState.RAMPING
THROTTLING = CircuitState.THROTTLING
FORCED_OPEN = CircuitState.FORCED_OPEN
DISABLED = CircuitState.DISABLED
OBSERVING = CircuitState.OBSERVING


def make_circuit(**changed: Any) -> Circuit:
    """Return a circuit that trips at 5 of 10 calls in 30 s, with 3 probes."""
    arguments: dict[str, Any] = {
        "window": TimeWindow(30.0),
        "failure_rate": 0.5,
        "minimum_calls": 10,
        "consecutive_failures": None,
        "slow_call_duration": None,
        "slow_call_rate": None,
        "half_open_calls": 3,
        "probe_timeout": 10.0,
        **changed,
    }
    return Circuit(**arguments)


def admit(circuit: Circuit, now: float) -> Permit:
    """Return the permit of a call that must pass."""
    permit = circuit.admit(now)
    assert not isinstance(permit, Refusal), permit.reason
    return permit


def refuse(circuit: Circuit, now: float) -> Refusal:
    """Return the refusal of a call that must not pass."""
    refusal = circuit.admit(now)
    assert isinstance(refusal, Refusal)
    return refusal


def call(
    circuit: Circuit, now: float, *outcomes: bool | None, slow: bool = False
) -> None:
    """Make calls that end at once; True stands for a failure."""
    for failed in outcomes:
        circuit.settle(admit(circuit, now), now, failed, slow)


def opened(now: float = 0.0, **changed: Any) -> Circuit:
    """Return a circuit that opened at `now`, for 5 s; nothing left to take."""
    circuit = make_circuit(**changed)
    call(circuit, now, *[True] * 10)
    assert OPEN is circuit.state
    circuit.take_changes()
    return circuit


def reasons(circuit: Circuit) -> list[str]:
    """Take what happened, by name."""
    return [
        change.reason if isinstance(change, Change) else change.what
        for change in circuit.take_changes()
    ]


# Tripping


def test_tenth_failure_opens_on_that_outcome() -> None:
    """Both limits are reached at "equal", and not a call earlier."""
    circuit = make_circuit()

    call(circuit, 0.0, *[True] * 9)
    assert CLOSED is circuit.state
    call(circuit, 1.0, True)

    trip = Trip("failure_rate", Counts(10, 10, 0), "30.0 s")
    assert (Change(CLOSED, OPEN, 1.0, "failure_rate", 1, 1, trip),) == (
        circuit.take_changes()
    )
    assert () == circuit.changes


def test_success_that_completes_the_volume_opens() -> None:
    """Every outcome is measured: 5 failures, then 5 successes."""
    circuit = make_circuit()

    call(circuit, 0.0, *[True] * 5, *[False] * 4)
    assert CLOSED is circuit.state
    call(circuit, 0.0, False)

    assert OPEN is circuit.state


def test_failure_that_left_the_count_window_does_not_open() -> None:
    """F S S S, then S: the rate is 0."""
    circuit = make_circuit(window=CountWindow(4), minimum_calls=4)

    call(circuit, 0.0, True, False, False, False, False)

    assert CLOSED is circuit.state
    assert 0.0 == circuit.statistics(0.0).failure_rate


def test_failures_that_left_the_time_window_do_not_open() -> None:
    """Ten failures at 0, one at 10.1: the volume is not met."""
    circuit = make_circuit(window=TimeWindow(10.0), minimum_calls=11)
    call(circuit, 0.0, *[True] * 10)

    call(circuit, 10.1, True)

    assert CLOSED is circuit.state
    assert 1 == circuit.statistics(10.1).calls


def test_rate_is_compared_as_the_user_wrote_it() -> None:
    """3 of 10 reach 0.3, though 0.3 * 10 rounds to more than 3 elsewhere."""
    for tenths in range(1, 11):
        circuit = make_circuit(failure_rate=tenths / 10)
        call(circuit, 0.0, *[True] * (tenths - 1), *[False] * (11 - tenths))
        below = circuit.state
        circuit.reset(0.0)
        call(circuit, 0.0, *[True] * tenths, *[False] * (10 - tenths))
        assert (CLOSED, OPEN) == (below, circuit.state)


def test_failures_in_a_row_open_whatever_the_volume() -> None:
    """Three in a row; a success begins anew and an ignored call does not."""
    circuit = make_circuit(consecutive_failures=3)

    call(circuit, 0.0, True, True, False, True, None, True)
    assert CLOSED is circuit.state
    call(circuit, 100.0, True)

    assert OPEN is circuit.state
    trip = refuse(circuit, 100.0).trip
    assert Trip("consecutive_failures", Counts(3, 3, 0), "a row") == trip
    assert not trip.by_slow


def test_no_failure_rate_means_no_such_rule() -> None:
    """Failures that are not in a row then open nothing."""
    circuit = make_circuit(failure_rate=None, consecutive_failures=3)

    call(circuit, 0.0, *[True, True, False] * 20)

    assert CLOSED is circuit.state


def test_slow_calls_open_though_all_succeed() -> None:
    """Slow calls have a rate of their own, evaluated at successes."""
    circuit = make_circuit(slow_call_duration=1.0, slow_call_rate=0.5)

    call(circuit, 0.0, *[False] * 5)
    call(circuit, 0.0, *[False] * 4, slow=True)
    assert CLOSED is circuit.state
    call(circuit, 0.0, False, slow=True)

    trip = refuse(circuit, 0.0).trip
    assert Trip("slow_call_rate", Counts(10, 0, 5), "30.0 s") == trip
    assert trip.by_slow


def test_slow_calls_below_their_rate_keep_it_closed() -> None:
    """They are counted all the same."""
    circuit = make_circuit(slow_call_duration=1.0, slow_call_rate=0.5)

    call(circuit, 0.0, *[False] * 8)
    call(circuit, 0.0, *[False] * 2, slow=True)

    assert CLOSED is circuit.state
    assert (2, 0.2) == (circuit.statistics(0.0).slow, circuit.statistics(0.0).slow_rate)


def test_slow_failed_call_counts_once_in_each_rate_and_once_in_volume() -> None:
    """Ten calls, one of them both."""
    circuit = make_circuit()
    call(circuit, 0.0, *[False] * 9)
    call(circuit, 0.0, True, slow=True)

    statistics = circuit.statistics(0.0)

    assert (10, 1, 1) == (statistics.calls, statistics.failures, statistics.slow)


def test_refused_calls_are_not_outcomes() -> None:
    """A hundred refusals change one number."""
    circuit = opened()

    for _ in range(100):
        refuse(circuit, 1.0)

    statistics = circuit.statistics(1.0)
    assert (100, 0, 10) == (
        statistics.rejected_total,
        statistics.calls,
        statistics.failed_total,
    )
    assert [] == reasons(circuit)


# Open


def test_refusal_says_why_and_how_long() -> None:
    """What the error's text is made of."""
    circuit = opened(now=7.0)

    refusal = refuse(circuit, 8.5)

    assert ("open", 3.5) == (refusal.reason, refusal.retry_after)
    assert Trip("failure_rate", Counts(10, 10, 0), "30.0 s") == refusal.trip


def test_call_at_exactly_the_end_of_the_open_time_probes() -> None:
    """At 5.0 s, not after it; until then all calls are refused."""
    circuit = opened()

    refuse(circuit, math.nextafter(5.0, 0.0))
    assert [] == reasons(circuit)
    probe = admit(circuit, 5.0)

    assert isinstance(probe, Probe)
    assert (2, 15.0) == (probe.era, probe.deadline)
    assert [Change(OPEN, HALF_OPEN, 5.0, "open_time_over", 2, 1, None)] == list(
        circuit.take_changes()
    )


def test_open_time_counts_from_the_opening() -> None:
    """However late the answer of the user's function comes in."""
    circuit = opened(now=10.0)

    circuit.set_open_time(circuit.era, 60.0)

    assert 58.0 == circuit.retry_after(12.0)
    assert 0.0 == circuit.retry_after(75.0)
    refuse(circuit, 69.0)
    admit(circuit, 70.0)
    assert circuit.retry_after(70.0) is None


@pytest.mark.parametrize("answer", [-1.0, math.nan, math.inf])
def test_nonsense_as_open_time_leaves_the_circuit_open(answer: float) -> None:
    """It stays open for the provisional time."""
    circuit = opened(provisional_open_for=2.0)

    with pytest.raises(ValueError, match=r"^`open_for` must be "):
        circuit.set_open_time(circuit.era, answer)

    assert 2.0 == refuse(circuit, 0.0).retry_after
    admit(circuit, 2.0)


def test_open_time_of_an_opening_that_is_over_is_dropped() -> None:
    """A slow function must not move the end of a later opening."""
    circuit = opened()
    era = circuit.era
    call(circuit, 5.0, True, True)
    assert OPEN is circuit.state

    circuit.set_open_time(era, 1000.0)

    assert 5.0 == circuit.retry_after(5.0)


def test_open_time_that_comes_when_the_circuit_is_half_open_is_dropped() -> None:
    """Its era is over."""
    circuit = opened()
    era = circuit.era
    admit(circuit, 5.0)

    circuit.set_open_time(era, 1000.0)
    circuit.set_open_time(circuit.era, 1000.0)

    assert HALF_OPEN is circuit.state
    admit(circuit, 5.0)


def test_late_outcomes_change_nothing_while_open() -> None:
    """Neither does a success close, nor a failure open again or longer."""
    circuit = make_circuit()
    late = [admit(circuit, 0.0) for _ in range(3)]
    call(circuit, 0.0, *[True] * 10)
    circuit.take_changes()

    for permit, failed in zip(late, (False, True, None), strict=True):
        circuit.settle(permit, 3.0, failed)

    assert OPEN is circuit.state
    assert [] == reasons(circuit)
    assert 2.0 == circuit.retry_after(3.0)
    statistics = circuit.statistics(3.0)
    assert (2, 1, 1, 11, 0) == (
        statistics.stale_total,
        statistics.ignored_total,
        statistics.succeeded_total,
        statistics.failed_total,
        statistics.calls,
    )


def test_permit_read_without_the_lock_in_between_decides_nothing() -> None:
    """State read when closed, era when open: the outcome is stale."""
    circuit = opened()

    circuit.settle(circuit.era, 1.0, True)

    assert OPEN is circuit.state
    assert [] == reasons(circuit)
    assert (1, 0) == (circuit.stale, circuit.statistics(1.0).calls)


# Half-open


def test_exactly_three_of_ten_calls_probe() -> None:
    """The other seven are told that the probes are taken."""
    circuit = opened()

    answers = [circuit.admit(5.0) for _ in range(10)]

    assert 3 == sum(isinstance(answer, Probe) for answer in answers)
    refusals = [answer for answer in answers if isinstance(answer, Refusal)]
    assert [("half_open_full", None)] * 7 == [
        (refusal.reason, refusal.retry_after) for refusal in refusals
    ]
    assert 7 == circuit.rejected


def test_ignored_probe_gives_its_place_to_exactly_one_other() -> None:
    """An ignored probe is no vote."""
    circuit = opened()
    first, _, _ = (admit(circuit, 5.0) for _ in range(3))

    circuit.settle(first, 5.0, None)

    admit(circuit, 5.0)
    refuse(circuit, 5.0)
    statistics = circuit.statistics(5.0)
    assert (3, 0) == (statistics.in_flight_probes, statistics.votes)


def test_place_of_a_probe_that_voted_stays_taken() -> None:
    """In flight and voted together are never more than three."""
    circuit = opened()
    first, _, _ = (admit(circuit, 5.0) for _ in range(3))

    circuit.settle(first, 5.0, True)

    refuse(circuit, 5.0)
    statistics = circuit.statistics(5.0)
    assert (2, 1) == (statistics.in_flight_probes, statistics.votes)


def test_cancelled_probe_votes_neither_way() -> None:
    """With one place: the next call probes, the state is the same."""
    circuit = opened(half_open_calls=1)
    era = circuit.era + 1

    call(circuit, 5.0, None, None, None)

    assert (HALF_OPEN, era) == (circuit.state, circuit.era)
    assert ["open_time_over"] == reasons(circuit)
    assert isinstance(circuit.admit(5.0), Probe)


def test_permit_given_back_twice_votes_once() -> None:
    """The second time it is stale."""
    circuit = opened()
    probe = admit(circuit, 5.0)

    for _ in range(3):
        circuit.settle(probe, 5.0, True)

    assert HALF_OPEN is circuit.state
    assert (1, 2) == (circuit.statistics(5.0).votes, circuit.stale)


@pytest.mark.parametrize(
    ("votes", "state"), [((False, False), CLOSED), ((True, True), OPEN)]
)
def test_settled_vote_does_not_wait_for_the_third(
    votes: tuple[bool, ...], state: CircuitState
) -> None:
    """Two of three decide at 0.5, and the third is stale."""
    circuit = opened()
    first, second, third = (admit(circuit, 5.0) for _ in range(3))

    circuit.settle(first, 5.0, votes[0])
    assert HALF_OPEN is circuit.state
    circuit.settle(second, 5.5, votes[1])
    assert state is circuit.state
    circuit.take_changes()
    circuit.settle(third, 6.0, not votes[0])

    assert state is circuit.state
    assert [] == reasons(circuit)
    assert (1, 0) == (circuit.stale, circuit.statistics(6.0).calls)


@pytest.mark.parametrize(
    ("failure_rate", "calls", "votes", "state"),
    [
        (1.0, 3, "S", CLOSED),
        (1.0, 3, "FF", HALF_OPEN),
        (1.0, 3, "FFF", OPEN),
        (0.1, 3, "SS", HALF_OPEN),
        (0.1, 3, "SSS", CLOSED),
        (0.1, 3, "SSF", OPEN),
        (0.5, 2, "F", OPEN),
        (0.5, 1, "S", CLOSED),
        (0.3, 10, "SSSSSSS", HALF_OPEN),
        (0.3, 10, "SSSSSSSS", CLOSED),
        (0.3, 10, "FFSSSSF", OPEN),
        (None, 3, "SS", CLOSED),
        (None, 3, "FF", OPEN),
        (None, 4, "FF", OPEN),
        (None, 4, "SSS", CLOSED),
    ],
)
def test_votes_decide_by_the_failure_rate(
    failure_rate: float | None, calls: int, votes: str, state: CircuitState
) -> None:
    """As soon as it is settled, and by half where failures have no rate."""
    circuit = opened(
        failure_rate=failure_rate, consecutive_failures=10, half_open_calls=calls
    )

    call(circuit, 5.0, *(vote == "F" for vote in votes))

    assert state is circuit.state


def test_slow_probes_open_again() -> None:
    """By the slow rate, though none of them failed."""
    circuit = opened(slow_call_duration=1.0, slow_call_rate=0.5)

    call(circuit, 5.0, False, slow=True)
    call(circuit, 5.0, False)
    assert HALF_OPEN is circuit.state
    call(circuit, 5.0, False, slow=True)

    trip = refuse(circuit, 5.0).trip
    assert Trip("probes_slow", Counts(3, 0, 2), "half-open") == trip
    assert trip.by_slow


def test_fast_probes_close() -> None:
    """With a slow rule too."""
    circuit = opened(slow_call_duration=1.0, slow_call_rate=0.5)

    call(circuit, 5.0, False, False)

    assert CLOSED is circuit.state


def test_probes_that_pass_close_with_an_empty_window() -> None:
    """And the next opening is the first in a row again."""
    circuit = opened()
    assert 1 == circuit.openings

    call(circuit, 5.0, False, False)

    change = circuit.take_changes()[-1]
    assert Change(HALF_OPEN, CLOSED, 5.0, "probes_passed", 3, 0, None) == change
    assert circuit.is_fresh(5.0)
    call(circuit, 6.0, *[True] * 9)
    assert CLOSED is circuit.state
    call(circuit, 6.0, True)
    assert (1, 2) == (circuit.openings, circuit.opened)


def test_openings_count_up_while_probes_fail() -> None:
    """What a growing open time grows by."""
    circuit = opened()
    seen = [circuit.openings]
    for now in (5.0, 10.0, 15.0):
        call(circuit, now, True, True)
        seen.append(circuit.openings)

    assert [1, 2, 3, 4] == seen
    change = circuit.take_changes()[-1]
    trip = Trip("probes_failed", Counts(2, 2, 0), "half-open")
    assert Change(HALF_OPEN, OPEN, 15.0, "probes_failed", 7, 4, trip) == change
    assert not trip.by_slow


def test_call_from_before_the_opening_has_no_vote() -> None:
    """A begins closed and fails in half-open: it is counted as stale."""
    circuit = make_circuit(half_open_calls=1)
    early = admit(circuit, 0.0)
    call(circuit, 0.0, *[True] * 10)
    probe = admit(circuit, 5.0)

    circuit.settle(early, 6.0, True)

    assert HALF_OPEN is circuit.state
    statistics = circuit.statistics(6.0)
    assert (1, 1, 0) == (
        statistics.stale_total,
        statistics.in_flight_probes,
        statistics.votes,
    )
    circuit.settle(probe, 7.0, False)
    assert CLOSED is circuit.state


def test_ignored_call_from_before_the_opening_frees_no_place() -> None:
    """There are no more probes than there may be."""
    circuit = make_circuit(half_open_calls=1)
    early = admit(circuit, 0.0)
    call(circuit, 0.0, *[True] * 10)
    admit(circuit, 5.0)

    circuit.settle(early, 6.0, None)

    refuse(circuit, 6.0)
    assert (1, 0) == (circuit.ignored, circuit.stale)


def test_probe_of_an_earlier_half_open_era_has_no_vote() -> None:
    """Nor does its end free a place."""
    circuit = opened()
    late, *others = (admit(circuit, 5.0) for _ in range(3))
    for probe in others:
        circuit.settle(probe, 5.0, True)
    for _ in range(3):
        admit(circuit, 10.0)

    circuit.settle(late, 11.0, True)

    refuse(circuit, 11.0)
    assert (0, 1) == (circuit.statistics(11.0).votes, circuit.stale)


def test_two_threads_that_see_the_expiry_make_one_change() -> None:
    """The second one finds it half-open, and has the next place."""
    circuit = opened(half_open_calls=1)

    first, second = circuit.admit(5.0), circuit.admit(5.0)

    assert isinstance(first, Probe)
    assert isinstance(second, Refusal)
    assert "half_open_full" == second.reason
    assert ["open_time_over"] == reasons(circuit)
    assert 1 == circuit.rejected


# Leases


def test_hanging_probe_is_a_failed_vote_for_the_next_call() -> None:
    """From 10 s on the circuit is open again; its late end changes nothing."""
    circuit = opened(half_open_calls=1)
    probe = admit(circuit, 5.0)
    circuit.take_changes()

    assert "half_open_full" == refuse(circuit, math.nextafter(15.0, 0.0)).reason
    refusal = refuse(circuit, 15.0)

    assert ("open", 5.0) == (refusal.reason, refusal.retry_after)
    trip = Trip("probes_failed", Counts(1, 1, 0), "half-open")
    assert (
        Note("probe_reclaimed", 15.0, None),
        Change(HALF_OPEN, OPEN, 15.0, "probes_failed", 3, 2, trip),
    ) == circuit.take_changes()
    circuit.settle(probe, 16.0, False)
    assert (OPEN, 1, ()) == (circuit.state, circuit.stale, circuit.changes)
    assert 4.0 == circuit.retry_after(16.0)


def test_place_of_a_reclaimed_probe_is_not_given_away() -> None:
    """It has voted, and the circuit waits for the others."""
    circuit = opened()
    admit(circuit, 5.0)
    admit(circuit, 6.0)
    admit(circuit, 7.0)
    circuit.take_changes()

    refuse(circuit, 15.0)

    statistics = circuit.statistics(15.0)
    assert (2, 1) == (statistics.in_flight_probes, statistics.votes)
    assert ["probe_reclaimed"] == reasons(circuit)
    refuse(circuit, 16.0)
    assert ["probe_reclaimed", "probes_failed"] == reasons(circuit)


def test_probe_that_comes_back_at_its_deadline_is_late() -> None:
    """Whether another call came meanwhile makes no difference."""
    circuit = opened(half_open_calls=1)
    probe = admit(circuit, 5.0)
    circuit.take_changes()

    circuit.settle(probe, 15.0, False)

    assert OPEN is circuit.state
    assert ["probe_reclaimed", "probes_failed"] == reasons(circuit)
    assert 1 == circuit.stale


def test_probe_that_comes_back_notices_the_lease_of_another() -> None:
    """Its own vote is counted behind it."""
    circuit = opened()
    admit(circuit, 5.0)
    punctual = admit(circuit, 6.0)

    circuit.settle(punctual, 15.0, True)

    assert OPEN is circuit.state
    assert (0, 2) == (circuit.stale, circuit.openings)


@pytest.mark.parametrize(("probe_timeout", "slow"), [(10.0, 1), (1.0, 0)])
def test_reclaimed_probe_is_slow_where_it_must_have_been(
    probe_timeout: float, slow: int
) -> None:
    """Strictly longer than a slow call takes."""
    circuit = opened(
        half_open_calls=1,
        probe_timeout=probe_timeout,
        slow_call_duration=1.0,
        slow_call_rate=1.0,
    )
    admit(circuit, 5.0)

    trip = refuse(circuit, 5.0 + probe_timeout).trip

    assert trip is not None
    assert Counts(1, 1, slow) == trip.counts


def test_lease_never_ends_before_an_older_one() -> None:
    """A thread that read the clock first may take the lock second."""
    circuit = opened()
    first = admit(circuit, 5.5)
    second = admit(circuit, 5.25)

    assert isinstance(first, Probe)
    assert isinstance(second, Probe)
    assert (15.5, 15.5) == (first.deadline, second.deadline)


# Controls


def test_forced_open_refuses_whatever_the_time() -> None:
    """Neither time nor the outcome of a call leads out of it; reset does."""
    circuit = make_circuit()
    early = admit(circuit, 0.0)
    call(circuit, 0.0, True, True)

    circuit.force_open(1.0)

    refusal = refuse(circuit, 1e9)
    assert ("forced_open", None, None) == (
        refusal.reason,
        refusal.retry_after,
        refusal.trip,
    )
    circuit.settle(early, 2.0, False)
    assert FORCED_OPEN is circuit.state
    circuit.reset(3.0)
    assert (CLOSED, 0) == (circuit.state, circuit.statistics(3.0).calls)
    assert ["force_open", "reset"] == reasons(circuit)


def test_forced_open_wins_over_a_probe_in_flight() -> None:
    """Its result is stale."""
    circuit = opened(half_open_calls=1)
    probe = admit(circuit, 5.0)

    circuit.force_open(6.0)
    circuit.settle(probe, 7.0, False)

    assert (FORCED_OPEN, 1) == (circuit.state, circuit.stale)
    assert (0, 0) == (circuit.openings, circuit.statistics(7.0).in_flight_probes)


def test_disabled_circuit_records_nothing() -> None:
    """A hundred failures; back to closed with an empty window."""
    circuit = make_circuit()
    call(circuit, 0.0, True)
    circuit.disable(1.0)

    call(circuit, 1.0, *[True] * 100, False, None)

    statistics = circuit.statistics(1.0)
    assert (DISABLED, 0, 1, 0, 0) == (
        statistics.state,
        statistics.calls,
        statistics.failed_total,
        statistics.ignored_total,
        statistics.stale_total,
    )
    circuit.reset(2.0)
    assert 0 == circuit.statistics(2.0).calls
    call(circuit, 2.0, *[True] * 9)
    assert CLOSED is circuit.state


def test_stale_outcome_is_counted_while_disabled() -> None:
    """It belongs to another era."""
    circuit = make_circuit()
    early = admit(circuit, 0.0)
    circuit.disable(1.0)

    circuit.settle(early, 2.0, True)

    assert (1, 1) == (circuit.stale, circuit.failed)


def test_observing_circuit_says_once_that_it_would_open() -> None:
    """Once a crossing, not once a call; and it lets every call through."""
    circuit = make_circuit(window=CountWindow(10))
    circuit.observe(0.0)
    circuit.take_changes()

    call(circuit, 1.0, *[True] * 50)

    trip = Trip("failure_rate", Counts(10, 10, 0), "10 calls")
    assert (Note("would_open", 1.0, trip),) == circuit.take_changes()
    call(circuit, 2.0, *[False] * 10)
    assert [] == reasons(circuit)
    call(circuit, 3.0, *[True] * 10)
    assert ["would_open"] == reasons(circuit)
    assert (OBSERVING, 0, 0) == (circuit.state, circuit.opened, circuit.rejected)


def test_observing_circuit_forgets_a_crossing_that_time_took_away() -> None:
    """A success into a window of failures that have left is noticed too."""
    circuit = make_circuit(window=TimeWindow(10.0), minimum_calls=2)
    circuit.observe(0.0)
    call(circuit, 0.0, True, True)

    call(circuit, 20.0, False)
    call(circuit, 20.0, True)

    assert ["observe", "would_open", "would_open"] == reasons(circuit)


@pytest.mark.parametrize(
    ("control", "state"),
    [
        (Circuit.force_open, FORCED_OPEN),
        (Circuit.disable, DISABLED),
        (Circuit.observe, OBSERVING),
    ],
)
def test_control_used_twice_is_used_once(
    control: Callable[[Circuit, float], None], state: CircuitState
) -> None:
    """The second time neither a change nor an era."""
    circuit = make_circuit()

    control(circuit, 1.0)
    control(circuit, 2.0)

    assert (Change(CLOSED, state, 1.0, circuit_reason(state), 1, 0, None),) == (
        circuit.take_changes()
    )
    assert (1, 1.0) == (circuit.era, circuit.statistics(3.0).since)


def circuit_reason(state: CircuitState) -> Any:
    """Return the name of the control that leads to a state."""
    return {
        FORCED_OPEN: "force_open",
        DISABLED: "disable",
        OBSERVING: "observe",
    }[state]


def test_reset_of_a_closed_circuit_leaves_calls_under_way_behind() -> None:
    """Nothing changes but the era: there is nothing to tell."""
    circuit = make_circuit()
    early = admit(circuit, 0.0)
    call(circuit, 0.0, True)

    circuit.reset(1.0)
    circuit.settle(early, 2.0, True)

    assert ((), True, 1) == (circuit.changes, circuit.is_fresh(2.0), circuit.stale)
    assert circuit.statistics(2.0).since is None


def test_circuit_is_fresh_only_while_it_knows_nothing() -> None:
    """What `PerKey` may drop without forgetting anything."""
    circuit = make_circuit()
    seen = [circuit.is_fresh(0.0)]
    call(circuit, 0.0, False)
    seen.append(circuit.is_fresh(29.0))
    seen.append(circuit.is_fresh(30.0))
    call(circuit, 30.0, True)
    seen.append(circuit.is_fresh(100.0))
    circuit.disable(100.0)
    seen.append(circuit.is_fresh(100.0))

    assert [True, False, True, False, False] == seen


def test_looking_changes_no_state() -> None:
    """Reading the statistics admits no probe."""
    circuit = opened()

    statistics = circuit.statistics(100.0)

    assert (OPEN, 0.0, 0.0, 1) == (
        statistics.state,
        statistics.since,
        statistics.retry_after,
        statistics.openings,
    )
    assert [] == reasons(circuit)


# Against a model


class CircuitAgainstModel(RuleBasedStateMachine):
    """A naive circuit: lists of everything, and votes decided by trying all.

    Times are multiples of 1/8 s, which floats hold exactly; rates are
    fractions.
    """

    @initialize(
        size=st.integers(1, 12),
        minimum=st.integers(1, 6),
        rate=st.sampled_from([None, "1/10", "1/4", "1/2", "2/3", "1"]),
        slow_rate=st.sampled_from([None, None, "1/3", "1/2", "1"]),
        row=st.sampled_from([None, None, 1, 2, 3]),
        places=st.integers(1, 4),
        observe=st.sampled_from([False, False, True]),
        ramp=st.sampled_from([(), (0.25, 0.5)]),
        throttle=st.sampled_from([None, "1/4", "1/4", "2/3"]),
    )
    def build(
        self,
        size: int,
        minimum: int,
        rate: str | None,
        slow_rate: str | None,
        row: int | None,
        places: int,
        observe: bool,
        ramp: tuple[float, ...],
        throttle: str | None,
    ) -> None:
        """Build both, with small limits so that they are met."""
        self.size, self.minimum, self.row, self.places = size, minimum, row, places
        self.rate = None if rate is None else Fraction(rate)
        self.slow_rate = None if slow_rate is None else Fraction(slow_rate)
        # A share of the other rate, below which it has to be.
        self.throttle = (
            None
            if throttle is None or self.rate is None
            else Fraction(throttle) * self.rate
        )
        self.ramp = ramp
        self.ramping_since = self.turn = Fraction(0)
        self.circuit = Circuit(
            window=CountWindow(size),
            failure_rate=None if self.rate is None else float(self.rate),
            minimum_calls=minimum,
            consecutive_failures=row,
            slow_call_duration=None if slow_rate is None else 1.0,
            slow_call_rate=None if self.slow_rate is None else float(self.slow_rate),
            half_open_calls=places,
            probe_timeout=4.0,
            throttle_rate=None if self.throttle is None else float(self.throttle),
            ramp=ramp,
            ramp_step=2.0,
            provisional_open_for=2.0,
        )
        self.clock = Fraction(1000)
        self.state = "closed"
        self.era = 0
        self.in_a_row_opened = 0
        # Of this era: outcomes, votes, permits out and leases by permit.
        self.outcomes: list[tuple[bool, bool]] = []
        self.votes: list[tuple[bool, bool]] = []
        self.leases: dict[int, Fraction] = {}
        self.end_of_open = Fraction(0)
        self.opened_at = Fraction(0)
        self.crossed = False
        self.told: list[str] = []
        # All permits that are out: number, the real one, its era, of a probe?
        self.out: list[tuple[int, Permit, int, bool]] = []
        self.given = 0
        self.totals = dict.fromkeys(
            ["succeeded", "failed", "ignored", "stale", "rejected", "opened"], 0
        )
        if observe:
            self.circuit.observe(float(self.clock))
            self.go("observing", "observe")

    # The model

    def go(self, state: str, why: str) -> None:
        """Change the state of the model."""
        if state != self.state:
            self.told.append(why)
        if state == "open":
            self.in_a_row_opened += 1
            self.totals["opened"] += 1
            self.opened_at = self.clock
            self.end_of_open = self.clock + 2
        elif state == "ramping":
            self.ramping_since = self.clock
        elif state != "half_open":
            self.in_a_row_opened = 0
        self.turn = Fraction(1)
        self.state = state
        self.era += 1
        self.outcomes, self.votes, self.leases = [], [], {}
        self.crossed = False

    def tripping(self) -> str | None:
        """Name the first rule that the outcomes of this era meet."""
        if self.row is not None and len(self.outcomes) >= self.row:
            tail = self.outcomes[-self.row :]
            if all(failed for failed, _ in tail):
                return "consecutive_failures"
        window = self.outcomes[-self.size :]
        if len(window) >= self.minimum:
            failures = [outcome for outcome in window if outcome[0]]
            slow = [outcome for outcome in window if outcome[1]]
            if self.rate is not None and (
                Fraction(len(failures), len(window)) >= self.rate
            ):
                return "failure_rate"
            if self.slow_rate is not None and (
                Fraction(len(slow), len(window)) >= self.slow_rate
            ):
                return "slow_call_rate"
        return None

    def verdict(self, votes: list[tuple[bool, bool]]) -> str:
        """Decide a complete vote."""
        rate = Fraction(1, 2) if self.rate is None else self.rate
        if Fraction(sum(failed for failed, _ in votes), self.places) >= rate:
            return "probes_failed"
        slow = Fraction(sum(slow for _, slow in votes), self.places)
        if self.slow_rate is not None and slow >= self.slow_rate:
            return "probes_slow"
        return "probes_passed"

    def vote(self, failed: bool, slow: bool) -> None:
        """Add a vote; decide if every way to complete it ends the same."""
        self.votes.append((failed, slow))
        missing = self.places - len(self.votes)
        ends = {
            self.verdict(self.votes + [(n < fails, n < slows) for n in range(missing)])
            == "probes_passed"
            for fails in range(missing + 1)
            for slows in range(missing + 1)
        }
        if ends == {True}:
            self.go("ramping" if self.ramp else "closed", "probes_passed")
        elif ends == {False}:
            # The rule that is met by the votes there are.
            no_more = [(False, False)] * missing
            self.go("open", self.verdict(self.votes + no_more))

    def expire(self) -> None:
        """Turn the leases that have run out into votes, oldest first."""
        while self.state == "half_open":
            due = [n for n, end in sorted(self.leases.items()) if end <= self.clock]
            if not due:
                return
            del self.leases[due[0]]
            self.told.append("probe_reclaimed")
            self.vote(True, self.slow_rate is not None)

    # What happens

    @rule(eighths=st.sampled_from([0, 1, 2, 8]))
    def wait(self, eighths: int) -> None:
        """Let a little time pass."""
        self.clock += Fraction(eighths, 8)

    @precondition(lambda self: self.state in ("open", "ramping") or self.leases)
    @rule(eighths=st.sampled_from([-1, 0, 0, 1]))
    def wait_for_a_limit(self, eighths: int) -> None:
        """Let time pass to the end of the open time, a step or a lease, or so."""
        if self.state == "open":
            end = self.end_of_open
        elif self.state == "ramping":
            end = self.ramping_since + (self.clock - self.ramping_since) // 2 * 2 + 2
        else:
            end = min(self.leases.values())
        self.clock = max(self.clock, end + Fraction(eighths, 8))

    @rule(times=st.integers(1, 5))
    def begin(self, times: int) -> None:
        """Begin calls that take a while."""
        for _ in range(times):
            self.ask()

    @rule(
        outcomes=st.lists(
            st.tuples(st.sampled_from([True, True, False, False, None]), st.booleans()),
            min_size=1,
            max_size=6,
        )
    )
    def call(self, outcomes: list[tuple[bool | None, bool]]) -> None:
        """Make calls that end at once."""
        for failed, slow in outcomes:
            if self.ask():
                self.finish(-1, failed, slow)

    @precondition(lambda self: self.state in ("half_open", "ramping", "throttling"))
    @rule(times=st.integers(1, 20), eighths=st.sampled_from([0, 1, 2, 8]))
    def recover(self, times: int, eighths: int) -> None:
        """Make calls that go well, for a while."""
        for _ in range(times):
            self.clock += Fraction(eighths, 8)
            if self.ask():
                self.finish(-1, False, False)

    def ask(self) -> bool:
        """Ask for one permit; return whether there was one."""
        answer = self.circuit.admit(float(self.clock))
        if self.state == "open" and self.clock >= self.end_of_open:
            self.go("half_open", "open_time_over")
        self.expire()
        if self.state == "half_open":
            if len(self.leases) + len(self.votes) < self.places:
                assert isinstance(answer, Probe)
                self.leases[self.given] = self.clock + 4
                return self.give(answer, True)
            expected: tuple[str, float | None] = ("half_open_full", None)
        elif self.state == "open":
            expected = ("open", float(self.end_of_open - self.clock))
        elif self.state == "forced_open":
            expected = ("forced_open", None)
        else:
            passing = self.passing()
            if self.state == "ramping" and passing == 1:
                self.go("closed", "ramp_over")
            if self.state == "throttling" and self.failing() < self.throttle / 2:
                self.state = "closed"
                self.told.append("throttle_over")
            self.turn += passing
            if passing == 1 or self.turn >= 1:
                self.turn -= 1
                assert isinstance(answer, int)
                return self.give(answer, False)
            expected = (self.state, None)
        assert isinstance(answer, Refusal)
        assert expected == (answer.reason, answer.retry_after)
        self.totals["rejected"] += 1
        return False

    def failing(self) -> Fraction:
        """The share of failures, 0 where there are too few calls."""
        window = self.outcomes[-self.size :]
        if len(window) < self.minimum:
            return Fraction(0)
        return Fraction(sum(failed for failed, _ in window), len(window))

    def passing(self) -> Fraction:
        """The share of the calls that may pass, where most may."""
        if self.state == "ramping":
            steps = [Fraction(share) for share in self.ramp] + [Fraction(1)]
            done = (self.clock - self.ramping_since) // 2
            return steps[min(done, len(self.ramp))]
        if self.state == "throttling":
            share = (self.rate - self.failing()) / (self.rate - self.throttle)
            return min(Fraction(1), max(Fraction(1, 100), share))
        return Fraction(1)

    def give(self, permit: Permit, probe: bool) -> bool:
        """Note a permit that was given out."""
        self.out.append((self.given, permit, self.era, probe))
        self.given += 1
        return True

    @precondition(lambda self: self.out)
    @rule(
        which=st.integers(0, 100),
        failed=st.sampled_from([True, True, False, False, None]),
        slow=st.booleans(),
        times=st.integers(1, 4),
    )
    def end(self, which: int, failed: bool | None, slow: bool, times: int) -> None:
        """Let calls end, in any order."""
        for _ in range(min(times, len(self.out))):
            self.finish(which % len(self.out), failed, slow)

    def finish(self, which: int, failed: bool | None, slow: bool) -> None:
        """Let a call end, in both."""
        number, permit, era, probe = self.out.pop(which)
        self.circuit.settle(permit, float(self.clock), failed, slow)
        self.ended(number, era, probe, failed, slow)

    def ended(
        self, number: int, era: int, probe: bool, failed: bool | None, slow: bool
    ) -> None:
        """Let a call of the model end."""
        if self.state == "disabled" and era == self.era:
            return
        if probe and era == self.era:
            self.expire()
        # NB: `expire` may have begun another era.
        current = era == self.era and (not probe or number in self.leases)
        if current and probe:
            del self.leases[number]
        if failed is None:
            self.totals["ignored"] += 1
            return
        self.totals["failed" if failed else "succeeded"] += 1
        if not current:
            self.totals["stale"] += 1
        elif probe:
            self.vote(failed, slow)
        else:
            self.outcomes.append((failed, slow))
            tripping = self.tripping()
            if self.state in ("closed", "ramping", "throttling") and tripping:
                self.go("open", tripping)
            elif self.state == "closed" and self.throttle is not None:
                if self.failing() >= self.throttle:
                    self.state, self.turn = "throttling", Fraction(1)
                    self.told.append("throttle_rate")
            elif self.state == "observing":
                if tripping and not self.crossed:
                    self.told.append("would_open")
                self.crossed = tripping is not None

    @rule(eighths=st.integers(0, 40), lag=st.sampled_from([0, 0, 1]))
    def answer_open_time(self, eighths: int, lag: int) -> None:
        """Let the user's function answer, perhaps too late."""
        self.circuit.set_open_time(self.era - lag, eighths / 8)
        if self.state == "open" and not lag:
            self.end_of_open = self.opened_at + Fraction(eighths, 8)

    @rule(
        control=st.sampled_from(
            [*[""] * 12, "force_open", "disable", *["observe"] * 3, *["reset"] * 3]
        )
    )
    def control(self, control: str) -> None:
        """Use a control; rarely, or little else would be seen."""
        states = {
            "force_open": "forced_open",
            "disable": "disabled",
            "observe": "observing",
        }
        if control:
            getattr(self.circuit, control)(float(self.clock))
            if control == "reset":
                self.go("closed", "reset")
            elif states[control] != self.state:
                self.go(states[control], control)

    @invariant()
    def same(self) -> None:
        """Both tell the same, and know the same."""
        assert self.told == reasons(self.circuit)
        self.told = []

        seen = self.circuit.statistics(float(self.clock))
        window = self.outcomes[-self.size :]
        assert (
            self.state,
            self.era,
            self.in_a_row_opened,
            len(window),
            sum(failed for failed, _ in window),
            sum(slow for _, slow in window),
            len(self.leases),
            len(self.votes),
            trailing_failures(self.outcomes),
        ) == (
            self.circuit.state.value,
            self.circuit.era,
            seen.openings,
            seen.calls,
            seen.failures,
            seen.slow,
            seen.in_flight_probes,
            seen.votes,
            seen.consecutive_failures,
        )
        assert self.totals == {
            name: getattr(seen, f"{name}_total") for name in self.totals
        }
        tripped = self.state in ("open", "half_open", "ramping")
        assert tripped == (seen.trip is not None)
        passes = self.state not in ("open", "half_open", "forced_open")
        assert seen.passing == pytest.approx(float(self.passing() if passes else 0))


def trailing_failures(outcomes: Iterable[tuple[bool, bool]]) -> int:
    """Count the failures since the last success."""
    row = 0
    for failed, _ in outcomes:
        row = row + 1 if failed else 0
    return row


# -- Ramps


def ramping(**changed: Any) -> Circuit:
    """Return a circuit whose probes passed at 5 s, with two steps of 10 s."""
    circuit = opened(ramp=(0.01, 0.25), **changed)
    call(circuit, 5.0, False, False)
    assert RAMPING is circuit.state
    return circuit


def passed(circuit: Circuit, now: float, number: int) -> int:
    """Ask for so many calls; return how many pass, and let them succeed."""
    permits = [circuit.admit(now) for _ in range(number)]
    for permit in permits:
        if not isinstance(permit, Refusal):
            circuit.settle(permit, now, False)
    return sum(not isinstance(permit, Refusal) for permit in permits)


def test_a_ramp_lets_traffic_back_by_steps() -> None:
    """Each lasts its time; the first call after the last closes."""
    circuit = ramping()
    found = [passed(circuit, now, 1000) for now in (5.0, 14.9, 15.0, 24.9)]
    assert [11, 10, 250, 250] == found
    assert RAMPING is circuit.state
    assert 1000 == passed(circuit, 25.0, 1000)
    changes = [change for change in circuit.take_changes() if change.at >= 5.0]
    trip = None
    assert [
        Change(OPEN, HALF_OPEN, 5.0, "open_time_over", 2, 1, trip),
        Change(HALF_OPEN, RAMPING, 5.0, "probes_passed", 3, 1, trip),
        Change(RAMPING, CLOSED, 25.0, "ramp_over", 4, 0, trip),
    ] == changes


def test_the_first_call_of_a_ramp_passes() -> None:
    """Little traffic is let through a little, not at all later."""
    circuit = ramping()
    assert 1 == passed(circuit, 5.0, 1)
    refusal = refuse(circuit, 5.0)
    assert ("ramping", None) == (refusal.reason, refusal.retry_after)
    assert "failure_rate" == getattr(refusal.trip, "rule", None)
    assert 1 == circuit.statistics(5.0).rejected_total


def test_a_circuit_that_opens_from_a_ramp_was_not_closed() -> None:
    """Its trip rules hold, and its open time grows."""
    circuit = ramping()
    for _ in range(2_000):
        permit = circuit.admit(15.0)
        if not isinstance(permit, Refusal):
            circuit.settle(permit, 15.0, True)
    assert OPEN is circuit.state
    assert 2 == circuit.openings
    change = circuit.take_changes()[-1]
    assert (RAMPING, "failure_rate") == (change.old, change.reason)


def test_a_call_from_the_ramp_is_stale_once_it_is_over() -> None:
    """As every call of an era that is."""
    circuit = ramping()
    slow = admit(circuit, 5.0)
    assert 1 == passed(circuit, 25.0, 1)
    circuit.settle(slow, 26.0, True)
    assert (1, CLOSED) == (circuit.stale, circuit.state)


@pytest.mark.parametrize(
    ("now", "passing"), [(0.0, 0.0), (5.0, 0.01), (15.0, 0.25), (99.0, 1.0)]
)
def test_what_passes_can_be_seen(now: float, passing: float) -> None:
    """And looking changes no state."""
    circuit = opened(ramp=(0.01, 0.25)) if now < 5.0 else ramping()
    state = circuit.state
    assert passing == circuit.statistics(now).passing
    assert state is circuit.state


# -- Throttling


def throttling(failed: int, ended: int, **changed: Any) -> Circuit:
    """Return a circuit that throttles from 20 % on, after calls made at once."""
    circuit = make_circuit(throttle_rate=0.2, minimum_calls=1, **changed)
    permits = [admit(circuit, 0.0) for _ in range(ended)]
    for place, permit in enumerate(permits):
        circuit.settle(permit, 0.0, place >= ended - failed)
    return circuit


@pytest.mark.parametrize(
    ("failed", "passing"),
    [(19, 1.0), (20, 1.0), (23, 0.9), (35, 0.5), (47, 0.1), (49, 1 / 30)],
)
def test_throttling_grows_from_its_rate_to_the_trip_point(
    failed: int, passing: float
) -> None:
    """Evenly, from none to all."""
    circuit = throttling(failed, 100)
    assert (CLOSED if failed < 20 else THROTTLING) is circuit.state
    assert passing == pytest.approx(circuit.statistics(0.0).passing)
    permits = [circuit.admit(0.0) for _ in range(900)]
    given = sum(not isinstance(permit, Refusal) for permit in permits)
    assert 900 * passing == pytest.approx(given, abs=1)


def test_at_the_trip_point_it_opens() -> None:
    """With the failures that throttling saw."""
    circuit = throttling(49, 98)
    assert OPEN is circuit.state
    changes = circuit.take_changes()
    assert ["throttle_rate", "failure_rate"] == [change.reason for change in changes]
    assert [0, 1] == [change.era for change in changes]


def test_throttling_begins_no_era() -> None:
    """Calls under way count as they would have."""
    circuit = make_circuit(throttle_rate=0.2)
    early = admit(circuit, 0.0)
    call(circuit, 0.0, *[False] * 8, True, True)
    assert THROTTLING is circuit.state
    circuit.settle(early, 1.0, True)
    assert (3, 0) == (circuit.statistics(1.0).failures, circuit.stale)


def test_it_closes_when_half_as_many_fail() -> None:
    """In between all pass, and chance changes no state."""
    circuit = throttling(20, 100)
    assert 100 == passed(circuit, 0.0, 100)
    assert THROTTLING is circuit.state
    assert 1.0 == circuit.statistics(0.0).passing
    assert [1, 1] == [passed(circuit, 0.0, 1) for _ in range(2)]
    assert (CLOSED, "throttle_over", 0) == (
        circuit.state,
        circuit.take_changes()[-1].reason,
        circuit.era,
    )
    assert 202 == circuit.statistics(0.0).calls


def test_it_closes_when_the_window_has_forgotten() -> None:
    """With too few calls there is no share to speak of."""
    circuit = throttling(40, 100)
    assert 1 == passed(circuit, 31.0, 1)
    assert CLOSED is circuit.state


def test_one_in_a_hundred_passes_whatever_time_takes_away() -> None:
    """Or nothing would be learnt until the window is empty."""
    circuit = make_circuit(throttle_rate=0.2, minimum_calls=1)
    permits = [admit(circuit, 0.0) for _ in range(100)]
    for place, permit in enumerate(permits):
        circuit.settle(permit, 0.0 if place < 60 else 20.0, place >= 60)
    assert THROTTLING is circuit.state
    assert 0.01 == circuit.statistics(31.0).passing
    given = [circuit.admit(31.0) for _ in range(500)]
    assert 6 == sum(not isinstance(permit, Refusal) for permit in given)
    refusal = refuse(circuit, 31.0)
    assert ("throttling", None, None) == (
        refusal.reason,
        refusal.retry_after,
        refusal.trip,
    )


def test_reset_ends_a_ramp_and_throttling() -> None:
    """As it ends everything else."""
    for circuit in (ramping(), throttling(40, 100)):
        circuit.reset(6.0)
        assert CLOSED is circuit.state
        assert circuit.is_fresh(6.0)
        assert 100 == passed(circuit, 6.0, 100)


def test_observing_throttles_no_call() -> None:
    """It only looks."""
    circuit = make_circuit(throttle_rate=0.2, minimum_calls=1)
    circuit.observe(0.0)
    call(circuit, 0.0, *[False] * 6, *[True] * 3)
    assert OBSERVING is circuit.state
    assert 100 == passed(circuit, 0.0, 100)


TestCircuitAgainstModel = CircuitAgainstModel.TestCase
TestCircuitAgainstModel.settings = settings(
    max_examples=350, stateful_step_count=50, deadline=None, derandomize=True
)
