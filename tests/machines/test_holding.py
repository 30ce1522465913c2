"""A fleet's slots: never more calls than the limit, whatever becomes of the store.

`Fleet` is a store of `allotment` and members with a `Holding` each, joined by a
network that delays. What runs is counted as it runs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient._machines.allotment import Allotment, Claim, Grant, Share, allot
from resilient._machines.contact import Contact
from resilient._machines.holding import Holding

LIMIT, PATIENCE, TIMEOUT = 20, 0.05, 0.25


class Member:
    """A holding, what it knows of the store, and the calls that run."""

    def __init__(self, place: int, **options: float) -> None:
        self.id = str(place)
        self.holding = Holding(LIMIT, members=5, **options)  # type: ignore[arg-type]
        self.contact = Contact()
        self.in_use = 0
        self.alive = True
        # What an exchange takes it beyond the network's delay.
        self.delay = 0.0
        self.asked_at: float | None = None
        # Whether it had its equal part since the last grant.
        self.has_part = False

    @property
    def next_at(self) -> float:
        """When it does something by itself."""
        if self.asked_at is not None or not self.alive:
            return math.inf
        return self.holding.next_at if self.contact.up else self.contact.probe_at


class Event(NamedTuple):
    """Something on its way: when it comes, and its claim or grant.

    Attributes:
        asked_at: When the member sent the claim.
    """

    at: float
    member: Member
    asked_at: float
    claim: Claim | None = None
    grant: Grant | None = None


class Fleet:
    """Members, their store, and the network."""

    def __init__(self, size: int = 4) -> None:
        self.now = 1000.0
        self.offset = 1.7e9
        self.known = Allotment()
        self.members = [Member(place) for place in range(size)]
        self.delay = 0.0
        self.down = False
        self.back_at = -math.inf
        self.events: list[Event] = []

    def start(self, place: int, calls: int = 1) -> int:
        """Have so many calls begin if they may; return how many do."""
        member = self.members[place]
        begun = 0
        for _ in range(calls if member.alive else 0):
            if self.take(member):
                begun += 1
            elif member.holding.asks(self.now) > 0.0:
                self.exchange(member, queued=1)
                self.deliver()
                begun += self.take(member)
        return begun

    def take(self, member: Member) -> bool:
        allowed = member.in_use < member.holding.allowed(self.now)
        member.in_use += allowed
        return allowed

    def end(self, place: int, calls: int) -> None:
        member = self.members[place]
        member.in_use = max(0, member.in_use - calls)
        member.holding.freed(self.now)
        self.deliver()

    def exchange(self, member: Member, queued: int = 0) -> None:
        """Claim, and ping before where the store was lost; what a courier does."""
        contact, holding = member.contact, member.holding
        if member.asked_at is not None:
            return
        if not contact.up:
            if self.now < contact.probe_at:
                return
            if self.down or self.delay > TIMEOUT:
                self.failed(member)
                return
            if contact.answered(self.now) is not None:
                holding.restore(self.now)
                return
        claim = holding.collect(self.now, member.id, member.in_use, queued)
        assert claim is not None
        if self.down:
            self.failed(member)
            holding.fail(self.now)
            return
        member.asked_at = self.now
        delay = self.delay + member.delay
        self.events.append(Event(self.now + delay / 2, member, self.now, claim))
        if delay > TIMEOUT:
            self.events.append(Event(self.now + TIMEOUT, member, self.now))

    def failed(self, member: Member) -> None:
        """What a link does when the store did not answer."""
        member.contact.failed(self.now)
        member.holding.cut(self.now)
        member.holding.miss(self.now)

    def deliver(self) -> None:
        while True:
            event = min(self.events, key=lambda event: event.at, default=None)
            beating = min(self.members, key=lambda one: one.next_at)
            at = math.inf if event is None else event.at
            if beating.next_at <= min(at, self.now):
                self.exchange(beating)
            elif event is None or event.at > self.now:
                return
            else:
                self.events.remove(event)
                self.happen(event)

    def happen(self, event: Event) -> None:
        at, member, asked_at, claim, grant = event
        waited_for = member.asked_at == asked_at
        if claim is not None:
            self.known, grant = allot(self.known, at + self.offset, claim)
            back = at + (at - asked_at)
            if back - asked_at <= TIMEOUT:
                self.events.append(Event(back, member, asked_at, None, grant))
        elif waited_for and member.alive:
            member.asked_at = None
            if grant is None:
                self.failed(member)
                member.holding.fail(self.now)
                return
            if member.contact.too_late(at - asked_at > PATIENCE):
                member.contact.failed(self.now)
                member.holding.cut(self.now)
            if member.contact.answered(self.now) is not None:
                member.holding.restore(self.now)
            member.holding.absorb(self.now, grant)
            member.has_part = False

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            moments = [event.at for event in self.events]
            moments += [one.next_at for one in self.members]
            soonest = min(moments)
            if soonest > until:
                break
            self.now = max(self.now, soonest)
            self.deliver()
            self.outlive()
        self.now = until
        self.outlive()

    def outlive(self) -> None:
        """End what runs on when its lease is over, without the store.

        That it does so is not within the promise.
        """
        for member in self.members:
            holding = member.holding
            member.has_part |= holding.is_alone
            if holding.is_cut:
                part = LIMIT // 5 if member.has_part else 0
                member.in_use = min(member.in_use, max(part, holding.allowed(self.now)))

    def go_down(self) -> None:
        """The store is lost to all; what is on its way with it.

        Not before each member had the time to notice that it was back; and no
        member is idle meanwhile, for then it would not notice that it was gone.
        """
        self.advance(max(0.0, self.back_at + 1.5 - self.now))
        self.down = True
        self.events.clear()
        for member in self.members:
            if member.asked_at is not None and member.alive:
                self.events.append(Event(self.now, member, member.asked_at))
        for place in range(len(self.members)):
            self.start(place)
        self.deliver()

    def come_back(self) -> None:
        if self.down:
            self.down, self.back_at = False, self.now

    def kill(self, place: int) -> None:
        member = self.members[place]
        member.alive, member.in_use = False, 0

    @property
    def running(self) -> int:
        return sum(member.in_use for member in self.members)


class Adversary(RuleBasedStateMachine):
    """Calls, delays and losses, in any order; each member has asked before."""

    @initialize(size=st.integers(1, 5))
    def begin(self, size: int) -> None:
        self.fleet = Fleet(size)
        for place in range(size):
            self.fleet.start(place)
            self.fleet.advance(0.1)
        for place in range(size):
            assert self.fleet.members[place].holding.exchanges

    @rule(place=st.integers(0, 4), calls=st.sampled_from([1, 3, 30]))
    def calls_begin(self, place: int, calls: int) -> None:
        self.fleet.start(place % len(self.fleet.members), calls)

    @rule()
    def calls_begin_everywhere(self) -> None:
        for place in range(len(self.fleet.members)):
            self.fleet.start(place, 30)

    @rule(place=st.integers(0, 4), calls=st.sampled_from([1, 3, 30]))
    def calls_end(self, place: int, calls: int) -> None:
        self.fleet.end(place % len(self.fleet.members), calls)

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.3, 0.6, 3.0]))
    def wait(self, seconds: float) -> None:
        self.fleet.advance(seconds)

    @rule(delay=st.sampled_from([0.0, 0.02, 0.2, 1.0]))
    def slow_down(self, delay: float) -> None:
        self.fleet.delay = delay

    @rule(place=st.integers(0, 4), delay=st.sampled_from([0.0, 0.03, 0.04]))
    def slow_down_one(self, place: int, delay: float) -> None:
        """Together with the network's delay it may be late, but is no time-out."""
        self.fleet.members[place % len(self.fleet.members)].delay = delay

    @rule()
    def lose_the_data(self) -> None:
        self.fleet.known = Allotment()

    @rule(seconds=st.sampled_from([-300.0, 300.0, 1.0]))
    def set_the_clock(self, seconds: float) -> None:
        self.fleet.offset += seconds

    @rule(down=st.booleans())
    def go_down(self, down: bool) -> None:
        if down:
            self.fleet.go_down()
        else:
            self.fleet.come_back()

    @rule(place=st.integers(1, 4))
    def kill(self, place: int) -> None:
        if place < len(self.fleet.members):
            self.fleet.kill(place)

    @invariant()
    def never_more_than_the_limit(self) -> None:
        if hasattr(self, "fleet"):
            assert self.fleet.running <= LIMIT


TestAdversary = Adversary.TestCase
TestAdversary.settings = settings(
    max_examples=100,
    stateful_step_count=40,
)


def test_one_member_may_have_all() -> None:
    """And then another what the first does not use."""
    fleet = Fleet(2)
    assert [20, 0] == [fleet.start(0, 30), fleet.start(1, 30)]
    fleet.end(0, 15)
    for _ in range(50):
        fleet.advance(0.05)
        fleet.start(1)
    # It keeps one or two for those to come, fewer with each beat.
    assert 12 <= fleet.members[1].in_use <= 15


def test_what_a_killed_member_had_comes_back_with_its_lease() -> None:
    """Two seconds later at most."""
    fleet = Fleet(2)
    assert [10, 10] == [fleet.start(0, 10), fleet.start(1, 10)]
    fleet.kill(0)
    fleet.advance(1.0)
    assert 0 == fleet.start(1, 10)
    fleet.advance(1.1)
    assert 10 == fleet.start(1, 10)


def test_a_store_that_lost_its_data_lends_nothing_new_for_one_lease() -> None:
    """What members keep they have."""
    fleet = Fleet(2)
    assert 10 == fleet.start(0, 10)
    assert 2 == fleet.start(1, 2)
    fleet.known = Allotment()
    fleet.advance(0.6)
    assert fleet.start(1, 10) <= 1
    fleet.advance(1.9)
    assert fleet.start(1, 10) >= 7


@pytest.mark.parametrize(
    ("lost", "at_once", "later"),
    [("share", 0, 5), ("reject", 0, 0), ("alone", 20, 20), ("pass", 99, 99)],
)
def test_what_a_member_has_without_the_store(
    lost: str, at_once: int, later: int
) -> None:
    """Its part when the leases of all have ended, nothing, all, or no limit."""
    holding = Holding(LIMIT, members=4, lost=lost)  # type: ignore[arg-type]
    holding.fail(1000.0)
    holding.miss(1001.9)
    assert at_once == min(99, holding.allowed(1002.5))
    holding.miss(1002.6)
    assert later == min(99, holding.allowed(1002.6))
    assert 0.0 == holding.asks(1002.6)


def test_its_lease_holds_without_the_store() -> None:
    """To its end; and what was counted is believed after a minute."""
    fleet = Fleet(2)
    fleet.start(0, 8)
    holding = fleet.members[0].holding
    holding.see(fleet.now - 61, 2)
    holding.see(fleet.now, 2)
    holding.fail(fleet.now)
    assert holding.allowed(fleet.now + 1.9) >= 8
    holding.miss(fleet.now + 2.1)
    assert 10 == holding.allowed(fleet.now + 2.1)


def test_a_call_that_ends_claims_nothing_without_the_store() -> None:
    """Nor while a claim is on its way, nor where no other member lacks a slot."""
    holding = Holding(LIMIT)
    holding.freed(1000.0)
    assert math.inf == holding.next_at
    holding.collect(1000.0, "a", 1, 0)
    holding.absorb(1000.0, Grant(1.0, 1.0, 9.0, 20.0, 2.0, 1.0))
    holding.freed(1000.1)
    assert 1000.1 == holding.next_at
    holding.cut(1000.2)
    holding.freed(1000.3)
    assert math.inf == holding.next_at


def test_nobody_waits_twice() -> None:
    """For an answer that does not come."""
    holding = Holding(LIMIT)
    assert -math.inf == holding.due_by
    assert 0.05 == pytest.approx(holding.asks(1000.0))
    assert holding.collect(1000.0, "a", 0, 1) is not None
    assert holding.collect(1000.0, "a", 0, 1) is None
    assert 0.0 == holding.asks(1000.06)
    assert 1000.05 == holding.due_by
    holding.fail(1000.25)
    assert holding.is_cut
    holding.absorb(1001.0, Grant(1.0, 1.0, 9.0, 20.0, 1.0, 0.0))
    assert 0 == holding.allowed(1001.0)


@pytest.mark.parametrize(("took", "elapsed"), [(0.25, 1.0), (0.3, -1.0)])
def test_a_late_answer_tells_no_time(took: float, elapsed: float) -> None:
    """Its member cannot say how long ago the store's time was that."""
    holding = Holding(LIMIT)
    holding.collect(1000.0, "a", 0, 1)
    holding.absorb(1000.0 + took, Grant(3.0, 50.0, 1.0, 20.0, 1.0, 0.0))
    claim = holding.collect(1001.0 + took, "a", 1, 0)
    assert claim is not None
    assert (3.0, elapsed) == (claim.seq, claim.elapsed)


def test_the_lower_limit_holds_for_a_minute() -> None:
    """As in a rolling deploy."""
    known, _ = allot(Allotment(), 0.0, Claim("a", 0, 0, -1, 10, 0, 1, 1, 2))
    known, grant = allot(known, 1.0, Claim("b", 0, 0, -1, 20, 0, 15, 15, 2))
    assert (10.0, 9.0) == (grant.limit, grant.slots)
    known, grant = allot(known, 59.9, Claim("b", 0, 0, -1, 20, 0, 15, 15, 2))
    assert 10.0 == grant.limit
    known, grant = allot(known, 61.0, Claim("b", 0, 0, -1, 20, 0, 15, 15, 2))
    assert 20.0 == grant.limit
    known, grant = allot(known, 62.0, Claim("b", 0, 0, -1, 20, 0, 15, 15, 2))
    assert 15.0 == grant.slots


def test_a_store_whose_members_all_fell_silent_lends_nothing_new_for_a_lease() -> None:
    """They may have lost it, and run on; after a minute they have come to an end."""
    one = Claim("a", 0, 0, -1, 10, 0, 8, 8, 2)
    other = Claim("b", 0, 0, -1, 10, 0, 1, 1, 2)
    known, grant = allot(Allotment(), 0.0, one)
    assert 8.0 == grant.slots
    assert 1.0 == allot(known, 1.9, other)[1].slots
    assert 1.0 == allot(known, 62.0, other)[1].slots
    known, grant = allot(known, 2.0, other)
    assert 0.0 == grant.slots
    assert 0.0 == allot(known, 3.9, other)[1].slots
    assert 1.0 == allot(known, 4.0, other)[1].slots


def test_an_idle_member_gives_all_back_and_is_silent() -> None:
    """So that idleness costs nothing."""
    fleet = Fleet(1)
    fleet.start(0, 8)
    fleet.end(0, 8)
    fleet.advance(30.0)
    assert {} == fleet.known.shares
    assert math.inf == fleet.members[0].holding.next_at


def test_late_answers_are_no_loss_of_the_store() -> None:
    """A member whose answers come late has its share, and no equal part besides."""
    fleet = Fleet(2)
    fleet.start(0, 20)
    slow = fleet.members[0]
    slow.delay = 0.2
    began = 0
    for _ in range(200):
        fleet.advance(0.05)
        began += fleet.start(0, 20)
        fleet.start(1, 20)
        assert fleet.running <= LIMIT
        assert not slow.holding.is_alone
        fleet.end(0, 3)
        fleet.end(1, 2)
    assert slow.holding.is_cut
    assert began > 40


def test_a_store_that_is_silent_for_a_lease_is_gone() -> None:
    """Then all leases have ended; who returns keeps what runs until it is heard."""
    fleet = Fleet(2)
    fleet.start(0, 18)
    fleet.start(1, 2)
    fleet.go_down()
    fleet.advance(2.0)
    assert not any(member.holding.is_alone for member in fleet.members)
    fleet.advance(2.5)
    assert [4, 4] == [one.holding.allowed(fleet.now) for one in fleet.members]
    assert [4, 4] == [fleet.start(place, 20) for place in (0, 1)]
    fleet.come_back()
    fleet.advance(1.5)
    assert [0, 0] == [fleet.start(place, 20) for place in (0, 1)]
    fleet.advance(3.0)
    assert fleet.start(0, 20) > 10


# -- Its bounds, one by one


def holding_after(
    slots: int,
    in_use: int,
    *,
    limit: int = LIMIT,
    queued: int = 0,
    lacking: float = 0.0,
) -> Holding:
    """Return what asked at 1000.0 s, and was granted so many slots at once."""
    holding = Holding(limit, members=4)
    assert holding.collect(1000.0, "a", in_use, queued) is not None
    holding.absorb(1000.0, Grant(1.0, 1.0, slots, limit, 2.0, lacking))
    return holding


def claim(holding: Holding, now: float, in_use: int, queued: int = 0) -> Claim:
    """Return what is claimed, as one must be."""
    claimed = holding.collect(now, "a", in_use, queued)
    assert claimed is not None
    return claimed


def test_more_members_than_assumed_share_before_they_are_relied_on() -> None:
    """And no member counts for less than one, whatever the store says."""
    holding = Holding(LIMIT, members=4)
    holding.see(1000.0, 10)
    holding.fail(1000.0)
    holding.miss(1002.0)
    assert 2 == holding.allowed(1002.0)
    holding.see(1060.0, 0)
    assert LIMIT == holding.allowed(1060.0)


def test_calls_that_missed_a_slot_are_claimed_up_to_an_equal_part() -> None:
    """Each of them once, and no more than the member may hope for."""
    for calls, claimed in ((2, 2), (9, 5)):
        holding = Holding(LIMIT, members=4)
        holding.cut(1000.0)
        for _ in range(calls):
            assert 0.0 == holding.asks(1000.0)
        assert claimed == holding.missed
        assert claimed == claim(holding, 1000.5, 0).needs


def test_a_claim_keeps_what_ran_at_once_lately_and_what_runs() -> None:
    """Less by a quarter with each beat; and calls may begin in it meanwhile."""
    holding = holding_after(9, in_use=8)
    claimed = claim(holding, 1000.5, in_use=3)
    assert (7.0, 3.0, 7.0) == (claimed.keeps, claimed.needs, claimed.wants)
    assert 7 == holding.allowed(1000.6)
    # Its lease is over: what runs is kept, and no call begins.
    holding = holding_after(9, in_use=8)
    claimed = claim(holding, 1002.0, in_use=3)
    assert (3.0, 0) == (claimed.keeps, holding.allowed(1002.0))


def test_a_lowered_limit_is_claimed_and_kept_to() -> None:
    """What runs beyond it is kept until it ends, and no call begins meanwhile."""
    holding = holding_after(20, in_use=18)
    holding.limit = 5
    claimed = claim(holding, 1000.5, in_use=8)
    assert (8.0, 5.0) == (claimed.keeps, claimed.wants)
    assert 5 == holding.allowed(1000.5)
    holding = holding_after(20, in_use=18)
    holding.limit = 5
    assert 5.0 == claim(holding, 1000.5, in_use=3).keeps


@pytest.mark.parametrize(
    ("slots", "in_use", "queued", "waits"),
    [
        (4, 3, 0, True),  # as many as it wanted
        (3, 3, 0, False),  # what it needs, and less than it wanted
        (20, 20, 10, False),  # the whole limit, and less than it needs
    ],
)
def test_a_grant_of_less_than_was_wanted_refuses_for_a_moment(
    slots: int, in_use: int, queued: int, waits: bool
) -> None:
    """A call without a slot waits for no answer in the next 40 ms."""
    holding = holding_after(slots, in_use, queued=queued)
    assert waits is (holding.asks(1000.03) > 0.0)
    assert holding.asks(1000.04) > 0.0


@pytest.mark.parametrize(
    ("limit", "others", "wants", "granted"),
    [
        (20, 4, 12, 10),  # half of it, though 16 are free
        (20, 4, 6, 6),  # less than its part: what it wants
        (2, 0, 1, 1),  # a part of less than one slot is one
    ],
)
def test_where_others_lack_slots_a_member_gets_an_equal_part(
    limit: int, others: int, wants: int, granted: int
) -> None:
    """Rounded down, but one slot at least."""
    members = 2 if others else 3
    known = Allotment(
        limit=limit,
        agreed=0.0,
        shares={
            str(one): Share(others if one == 0 else 0, 5.0, 1.0)
            for one in range(members - 1)
        },
    )
    asked = Claim("a", 0, 0, -1, limit, 0, wants, wants, 2)
    assert granted == allot(known, 1.0, asked)[1].slots


def test_the_longest_lease_tells_when_all_fell_silent() -> None:
    """Not that which was renewed last."""
    known = Allotment(
        limit=10.0,
        agreed=0.0,
        shares={"long": Share(4.0, 9.0, 0.0), "short": Share(4.0, 2.0, 0.0)},
    )
    asked = Claim("a", 0, 0, -1, 10, 0, 1, 1, 2)
    assert 1.0 == allot(known, 3.0, asked)[1].slots
    assert 0.0 == allot(known, 9.0, asked)[1].slots
    # A minute after the longest has ended nothing of it is left running.
    assert 0.0 == allot(known, 68.9, asked)[1].slots
    assert 1.0 == allot(known, 69.0, asked)[1].slots


def test_a_claim_whose_answer_was_lost_without_a_word_is_made_anew() -> None:
    """Two seconds later: who was to tell of it was interrupted, or had no memory."""
    holding = Holding(LIMIT)
    assert 0.0 < holding.asks(1000.0)
    assert holding.collect(1000.0, "a", 0, 1) is not None
    assert 0.0 == holding.asks(1001.9)
    assert 0.05 == pytest.approx(holding.asks(1002.0))
    assert 1002.0 == holding.next_at
    assert holding.collect(1002.0, "a", 0, 1) is not None
    holding.absorb(1002.0, Grant(1.0, 1.0, 2.0, 20.0, 1.0, 0.0))
    assert 2 == holding.allowed(1003.9)
