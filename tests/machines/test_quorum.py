"""A fleet's circuit: who opens it, and who may probe, whatever becomes of the store.

`Members` have a circuit and a delegate each; a network delays their reports.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient._machines.circuit import Circuit
from resilient._machines.circuit_records import Change, CircuitState, Probe, Refusal
from resilient._machines.delegate import Delegate
from resilient._machines.quorum import (
    LONGEST_RIGHT,
    Assembly,
    Report,
    Verdict,
    rule_on,
)
from resilient._machines.window import TimeWindow

OPEN_FOR = 2.0
PROBES = 3


class Member:
    """A circuit and its delegate."""

    def __init__(self, place: int) -> None:
        self.id = str(place)
        self.circuit = Circuit(
            window=TimeWindow(10.0),
            failure_rate=0.5,
            minimum_calls=20,
            consecutive_failures=None,
            slow_call_duration=None,
            slow_call_rate=None,
            half_open_calls=PROBES,
            probe_timeout=30.0,
            provisional_open_for=OPEN_FOR,
        )
        self.delegate = Delegate(
            self.circuit,
            minimum=20,
            rate=0.5,
            slow_rate=None,
            life=10.0,
            probe_timeout=30.0,
        )
        self.probes: list[Probe] = []
        self.fleet_opened = 0

    def take_changes(self) -> None:
        for change in self.circuit.take_changes():
            if isinstance(change, Change):
                self.fleet_opened += change.reason == "fleet"
                self.delegate.saw(change)


class Event(NamedTuple):
    """Something on its way: when it comes, and its report or verdict."""

    at: float
    member: Member
    report: Report | None
    verdict: Verdict | None


class Members:
    """A fleet, its store, and the network."""

    def __init__(self, size: int, broken: int) -> None:
        self.now = 1000.0
        self.offset = 1.7e9
        self.known = Assembly()
        self.members = [Member(place) for place in range(size)]
        self.broken = broken
        self.delay = 0.0
        self.down = False
        self.events: list[Event] = []

    def call(self, place: int, *, slow_probe: bool = False) -> None:
        """Call once; a probe may be left in flight."""
        member = self.members[place]
        permit = member.circuit.admit(self.now)
        failed = place < self.broken
        if isinstance(permit, Probe) and slow_probe:
            member.probes.append(permit)
        elif isinstance(permit, Refusal):
            failed = True
        else:
            member.circuit.settle(permit, self.now, failed)
        self.follow(member, failed=failed)

    def finish_probes(self, place: int, *, failed: bool) -> None:
        member = self.members[place]
        while member.probes:
            member.circuit.settle(member.probes.pop(), self.now, failed)
        self.follow(member, failed=failed)

    def follow(self, member: Member, *, failed: bool) -> None:
        member.take_changes()
        delegate = member.delegate
        delegate.saw_call(self.now, failed=failed)
        if self.now < delegate.next_at or delegate.is_cut:
            return
        delegate.next_at = self.now + 0.5
        report = delegate.collect(self.now, member.id)
        if report is None:
            return
        if self.down:
            delegate.fail()
            delegate.cut(self.now)
            return
        report = report._replace(open_for=report.open_for or OPEN_FOR)
        self.events.append(Event(self.now + self.delay / 2, member, report, None))
        self.deliver()

    def deliver(self) -> None:
        while self.events:
            event = min(self.events, key=lambda event: event.at)
            if event.at > self.now:
                return
            self.events.remove(event)
            at, member, report, verdict = event
            if report is not None:
                self.known, verdict = rule_on(self.known, at + self.offset, report)
                back = at + self.delay / 2
                self.events.append(Event(back, member, None, verdict))
            elif verdict is not None:
                member.delegate.absorb(self.now, verdict)
                member.take_changes()

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.events and min(event.at for event in self.events) <= until:
            self.now = max(self.now, min(event.at for event in self.events))
            self.deliver()
        self.now = until

    def come_back(self) -> None:
        self.down = False
        for member in self.members:
            if member.delegate.is_cut:
                member.delegate.restore()

    def in_flight(self) -> int:
        return sum(
            member.circuit.statistics(self.now).in_flight_probes
            for member in self.members
            if member.delegate.open
        )


class Adversary(RuleBasedStateMachine):
    """Calls, delays, losses and clocks, in any order."""

    @initialize(size=st.integers(2, 7), broken=st.integers(0, 7))
    def start(self, size: int, broken: int) -> None:
        self.fleet = Members(size, min(size, broken))
        self.copies = [Assembly()]
        self.faulty = False

    @rule(times=st.sampled_from([1, 5, 30]), seconds=st.sampled_from([0.05, 0.3]))
    def all_call(self, times: int, seconds: float) -> None:
        for _ in range(times):
            for place in range(len(self.fleet.members)):
                self.fleet.call(place)
            self.fleet.advance(seconds)

    @rule(place=st.integers(0, 6), slow=st.booleans())
    def one_calls(self, place: int, slow: bool) -> None:
        self.fleet.call(place % len(self.fleet.members), slow_probe=slow)

    @rule(place=st.integers(0, 6), failed=st.booleans())
    def probes_end(self, place: int, failed: bool) -> None:
        self.fleet.finish_probes(place % len(self.fleet.members), failed=failed)

    @rule(seconds=st.sampled_from([0.01, 0.6, 2.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.fleet.advance(seconds)
        for place in range(len(self.fleet.members)):
            self.fleet.call(place)

    @rule(delay=st.sampled_from([0.0, 0.02, 0.2]))
    def slow_down(self, delay: float) -> None:
        self.fleet.delay = delay

    @rule()
    def lose_the_data(self) -> None:
        self.faulty = True
        self.fleet.known = Assembly()

    @rule(seconds=st.sampled_from([-300.0, 300.0]))
    def set_the_clock(self, seconds: float) -> None:
        self.faulty = True
        self.fleet.offset += seconds

    @rule()
    def copy(self) -> None:
        self.copies.append(self.fleet.known)

    @rule(place=st.integers(0, 9))
    def fail_over(self, place: int) -> None:
        self.faulty = True
        self.fleet.known = self.copies[place % len(self.copies)]

    @rule(down=st.booleans())
    def go_down(self, down: bool) -> None:
        self.faulty = True
        self.fleet.down = down
        if not down:
            self.fleet.come_back()

    @invariant()
    def a_minority_opens_no_other_circuit(self) -> None:
        if hasattr(self, "fleet"):
            fleet = self.fleet
            if fleet.broken < 2 or fleet.broken * 2 <= len(fleet.members):
                assert 0 == sum(one.fleet_opened for one in fleet.members)
                healthy = fleet.members[fleet.broken :]
                states = {one.circuit.state for one in healthy}
                assert states <= {CircuitState.CLOSED}

    @invariant()
    def one_member_probes_at_a_time(self) -> None:
        if hasattr(self, "fleet") and not self.faulty:
            assert self.fleet.in_flight() <= PROBES
            probing = [
                one
                for one in self.fleet.members
                if one.delegate.open
                and one.circuit.statistics(self.fleet.now).in_flight_probes
            ]
            assert len(probing) <= 1


TestAdversary = Adversary.TestCase
TestAdversary.settings = settings(
    max_examples=80,
    stateful_step_count=30,
)


def failing(id_: str, **changes: float) -> Report:
    """Return the report of a member whose every call fails."""
    return Report(id_, calls=10.0, failures=10.0, failing=1.0)._replace(**changes)


def opened() -> Assembly:
    """Return what a store has whose fleet has just opened."""
    known = Assembly()
    for now in (1.0, 3.1, 3.3):
        for one in ("a", "b"):
            known, verdict = rule_on(known, now, failing(one, term=known.term))
    assert (1.0, 1.0, 1.0) == (verdict.term, verdict.open, verdict.openings)
    return known


def test_a_fleet_opens_at_the_second_look() -> None:
    """Not by rows of a fleet half assembled."""
    known = Assembly()
    known, _ = rule_on(known, 1.0, failing("a"))
    known, _ = rule_on(known, 1.0, failing("b"))
    assert 1.0 == known.met
    calm = Report("c", calls=10.0)
    for one in ("c", "d"):
        known, verdict = rule_on(known, 1.3, calm._replace(id=one))
    assert (0.0, 2.0, 4.0) == (known.met, verdict.failing, verdict.members)
    known, verdict = rule_on(known, 2.0, failing("a"))
    assert (0.0, 20.0, 40.0) == (verdict.open, verdict.failures, verdict.calls)


def test_a_store_that_lost_its_rows_waits_for_those_of_all() -> None:
    """Those that fail report more often than the others: they come first."""
    known = Assembly()
    for now in (1.0, 1.5, 2.0, 2.5, 3.1):
        for one in ("a", "b"):
            known, verdict = rule_on(known, now, failing(one))
    assert (0.0, 2.0, 2.0) == (verdict.open, verdict.failing, verdict.members)
    # A clock that was set back is no reason to wait for longer.
    assert 1.0 == rule_on(known._replace(until=300.0), 3.15, failing("a"))[1].open
    for one in ("c", "d"):
        known, _ = rule_on(known, 3.1, Report(one, calls=10.0))
    known, verdict = rule_on(known, 3.6, failing("a"))
    assert (0.0, 2.0, 4.0) == (verdict.open, verdict.failing, verdict.members)


def test_a_row_counts_for_its_life() -> None:
    """One from the future, of a clock that was set back, does not."""
    known, _ = rule_on(Assembly(), 100.0, failing("a"))
    assert 2.0 == rule_on(known, 109.0, failing("b"))[1].members
    assert 1.0 == rule_on(known, 110.0, failing("b"))[1].members
    assert 1.0 == rule_on(known, 99.0, failing("b"))[1].members


def test_the_rule_may_not_have_been_met_in_the_future() -> None:
    """A clock that was set back begins the settling anew."""
    known = Assembly(met=1000.0)
    known, _ = rule_on(known, 10.0, failing("a"))
    known, _ = rule_on(known, 10.0, failing("b"))
    assert 10.0 == known.met


def test_the_right_is_one_members_for_as_long_as_it_asked() -> None:
    """Or never longer than the longest."""
    known = opened()

    def asks(one: str, now: float, right: float = 5.0) -> float:
        nonlocal known
        report = Report(one, 1.0, 1.0, 1.0, right=right)
        known, verdict = rule_on(known, now, report)
        return verdict.holds

    assert [1.0, 0.0] == [asks("a", 10.0), asks("b", 11.0)]
    assert [1.0, 0.0] == [asks("a", 14.0), asks("b", 18.9)]
    assert [1.0, 0.0] == [asks("b", 19.0, 1000.0), asks("a", 20.0)]
    assert known.held == 19.0 + LONGEST_RIGHT
    assert 1.0 == asks("a", -400.0)


@pytest.mark.parametrize(("probed", "open_"), [(1.0, 0.0), (-1.0, 1.0)])
def test_the_holders_probes_decide(probed: float, open_: float) -> None:
    """And no one else's."""
    known = opened()
    known, _ = rule_on(known, 10.0, Report("a", 1.0, 1.0, 1.0, right=5.0))
    told = Report("b", 1.0, 1.0, 1.0, probed=probed, open_for=7.0)
    assert 1.0 == rule_on(known, 11.0, told)[1].term
    known, verdict = rule_on(known, 11.0, told._replace(id="a"))
    assert (2.0, open_) == (verdict.term, verdict.open)
    assert (7.0 if open_ else -11.0) == pytest.approx(verdict.remaining)
    assert (2.0 if open_ else 0.0) == verdict.openings


def test_a_store_that_lost_its_data_takes_a_members_word() -> None:
    """And a member of an earlier term is told."""
    report = Report("a", 4.0, 1.0, 2.0, 3.0, calls=20.0, failures=15.0)
    known, verdict = rule_on(Assembly(), 50.0, report)
    assert (4.0, 1.0, 2.0, 3.0) == verdict[:4]
    assert (20.0, 15.0) == (verdict.calls, verdict.failures)
    known, verdict = rule_on(known, 51.0, failing("b", term=3.0))
    assert (4.0, {}) == (verdict.term, known.rows)


def test_a_delegate_whose_report_is_lost_tells_its_probes_again() -> None:
    """And an answer to nothing is none."""
    fleet = Members(1, 0)
    (member,) = fleet.members
    delegate = member.delegate
    delegate._probed = -1.0
    report = delegate.collect(1000.0, "a")
    assert report is not None
    assert (-1.0, None) == (report.probed, delegate.collect(1000.0, "a"))
    delegate.fail()
    assert -1.0 == delegate._probed
    delegate.absorb(1000.0, Verdict(*[9.0] * 10))
    assert (0.0, 0) == (delegate.term, delegate.exchanges)


def test_a_verdict_on_anothers_probes_opens_again() -> None:
    """Where the right had gone to another one meanwhile."""
    fleet = Members(1, 0)
    (member,) = fleet.members
    delegate, circuit = member.delegate, member.circuit
    verdict = Verdict(1.0, 1.0, 1.0, 2.0, 0.0, 20.0, 15.0, 0.0, 0.0, 0.0)
    delegate.collect(1000.0, "a")
    delegate.absorb(1000.0, verdict)
    assert CircuitState.OPEN is circuit.state
    assert -math.inf == circuit.may_probe_until
    circuit.reset(1001.0)
    delegate._probed = 1.0
    delegate.collect(1001.0, "a")
    delegate.absorb(1001.0, verdict._replace(remaining=-1.0))
    assert CircuitState.OPEN is circuit.state
    refusal = circuit.admit(1001.0)
    assert isinstance(refusal, Refusal)
    assert ("half_open_full", None) == (refusal.reason, refusal.retry_after)


def test_a_control_of_the_holder_is_no_vote() -> None:
    """Only probes are."""
    fleet = Members(1, 0)
    (member,) = fleet.members
    delegate = member.delegate
    delegate.open = True
    member.circuit.force_open(1000.0)
    member.circuit.reset(1000.0)
    change = member.circuit.take_changes()[-1]
    assert isinstance(change, Change)
    halved = change.__replace__(old=CircuitState.HALF_OPEN)
    delegate.saw(halved)
    assert 0.0 == delegate._probed


def test_a_member_that_was_away_takes_the_term_as_it_is() -> None:
    """A closed fleet closes no circuit that opened by itself."""
    fleet = Members(1, 0)
    (member,) = fleet.members
    member.circuit.force_open(1000.0)
    member.delegate.collect(1000.0, "a")
    member.delegate.absorb(1000.0, Verdict(4.0, *[0.0] * 9))
    assert 4.0 == member.delegate.term
    assert CircuitState.FORCED_OPEN is member.circuit.state


def test_rows_that_come_after_a_pause_are_waited_for() -> None:
    """Half of a fleet fails; after a loss there is no call until rows are assembled."""
    fleet = Members(4, 2)

    def all_call(times: int, seconds: float) -> None:
        for _ in range(times):
            for place in range(4):
                fleet.call(place)
            fleet.advance(seconds)

    all_call(30, 0.05)
    fleet.known = Assembly()
    all_call(1, 2.3)
    all_call(30, 0.05)
    assert [0] * 4 == [member.fleet_opened for member in fleet.members]


# -- Its bounds, one by one


def following(remaining: float) -> Member:
    """Return a member that was told at 1000.0 s that the fleet is open."""
    member = Member(0)
    assert member.delegate.collect(1000.0, "a") is not None
    verdict = Verdict(1.0, 1.0, 1.0, remaining, 0.0, 20.0, 15.0, 0.0, 0.0, 0.0)
    member.delegate.absorb(1000.0, verdict)
    return member


@pytest.mark.parametrize(("pause", "right"), [(0.1, 5.0), (4.0, 12.0), (30.0, 60.0)])
def test_the_right_to_probe_is_wanted_for_three_pauses(
    pause: float, right: float
) -> None:
    """Five seconds at least, and a minute at most."""
    delegate = following(0.0).delegate
    delegate.saw_call(1000.0, failed=True)
    delegate.saw_call(1000.0 + pause, failed=True)
    report = delegate.collect(1000.0 + pause, "a")
    assert report is not None
    assert right == pytest.approx(report.right)


def test_an_open_time_ends_within_a_day() -> None:
    """Whatever the store says, of a clock that was set by years."""
    member = following(1e9)
    assert 86400.0 == member.circuit.retry_after(1000.0)
    report = member.delegate.collect(1001.0, "a")
    assert report is not None
    assert 86399.0 == report.remaining


@pytest.mark.parametrize(("stored", "reported"), [(7.0, 2.0), (2.0, 7.0)])
def test_an_order_begins_a_term_above_all(stored: float, reported: float) -> None:
    """Above the store's, and above that of a member which the store is behind."""
    order = Report("a", reported, 0.0, 0.0, 0.0, order=2.0)
    known, verdict = rule_on(Assembly(term=stored), 1000.0, order)
    assert 8.0 == known.term == verdict.term


def test_a_report_whose_answer_was_lost_without_a_word_is_made_anew() -> None:
    """Two seconds later, and with the vote that it had."""
    delegate = following(0.0).delegate
    delegate._probed = 1.0
    assert delegate.collect(1001.0, "a") is not None
    assert delegate.collect(1002.9, "a") is None
    report = delegate.collect(1003.0, "a")
    assert report is not None
    assert 1.0 == report.probed
