"""Leases: what a fleet promises together, whatever becomes of the store.

`Fleet` is a store of `shared_bucket` and members with a `Lease` each, joined by
a network that delays and loses. Its judge is a bucket that cannot be cheated:
it sees each unit as it is used, and never a clock but the true one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from resilient._machines.contact import Contact
from resilient._machines.lease import Lease, lease_for
from resilient._machines.rate_limits import TokenBucket
from resilient._machines.shared_bucket import Answer, Ask, Bucket, Order, answer

RATE = 100.0
BURST = 100.0
TIMEOUT = 0.25
ARRIVES, RETURNS, TIMES_OUT = range(3)


class Judge:
    """How much may still be used by all, in truth."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self.forgiven: Callable[[], float] = lambda: 0.0
        self.level, self.at = burst, 0.0
        self.used = 0.0
        self.worst = 0.0

    def use(self, now: float, amount: float) -> None:
        self.level = min(self.burst, self.level + self.rate * (now - self.at))
        self.level -= amount
        self.at = now
        self.used += amount
        self.worst = min(self.worst, self.level + self.forgiven())


class Fleet:
    """Members, a store, and what is on its way between them."""

    def __init__(self, members: int = 4, **options: Any) -> None:
        self.options = {"burst": BURST, "members": members, **options}
        self.rate = self.options.pop("rate", RATE)
        self.now = 1000.0
        self.members = [self.join() for _ in range(members)]
        self.judge = Judge(self.rate, self.options["burst"])
        self.bucket: Bucket | None = None
        self.offset = 1.7e9
        self.down = False
        # Those that do without a store which answers them.
        self.apart: list[Lease] = []
        # Until when a member's process does not run.
        self.stalled: dict[Lease, float] = {}
        self.delay = 0.0
        # What was booked in asks that never arrived.
        self.lost = 0.0
        # Moment, what happens then, member, its ask, and the answer.
        self.events: list[tuple[float, int, Lease, Ask, Answer | None]] = []
        self.asked: dict[Lease, Ask] = {}

    def join(self) -> Lease:
        return Lease(self.rate, 1.0, **self.options)

    def local(self, member: Lease) -> float:
        """Every member has a clock of its own."""
        return self.now + 37.0 * self.members.index(member)

    def call(self, member: Lease, amount: float = 1.0) -> bool:
        """Make a call that waits for an answer only if it comes at once."""
        if self.now < self.stalled.get(member, 0.0):
            return False
        now = self.local(member)
        wait = member.try_take(now, amount)
        if member.due:
            self.ask(member, amount if wait else 0.0)
            self.deliver()
            if wait > 0.0:
                wait = member.wait(now, amount)
                if wait == 0.0:
                    member.take(now, amount)
            member.end_round(now)
        if wait == 0.0:
            self.judge.use(self.now, amount)
        return wait == 0.0

    def ask(self, member: Lease, waiting: float) -> None:
        now = self.local(member)
        if member.is_cut and (self.down or member in self.apart):
            return
        asked = member.collect(now, waiting, waiting)
        if asked is None:
            return
        if self.down:
            member.fail(now, sent=False)
            return
        self.asked[member] = asked
        self.events.append((self.now + self.delay / 2, ARRIVES, member, asked, None))
        self.events.append((self.now + TIMEOUT, TIMES_OUT, member, asked, None))

    def book(self, member: Lease) -> None:
        """Have a member that does without the store tell it what it used."""
        asked = member.collect(self.local(member))
        if asked is not None:
            member.absorb(self.local(member), self.store(asked), up=False)

    def store(self, asked: Ask) -> Answer:
        now = self.now + self.offset
        if self.bucket is not None and now >= self.bucket.expires:
            self.bucket = None
        self.bucket, said = answer(self.bucket, now, asked)
        return said

    def deliver(self) -> None:
        """Let everything happen that is due."""
        while self.events:
            event = min(self.events, key=lambda event: event[:2])
            at, kind, member, asked, said = event
            if at > self.now:
                return
            self.events.remove(event)
            runs = self.stalled.get(member, 0.0)
            if kind != ARRIVES and self.now < runs:
                # NB: an answer that has come is read, however late, at the time-out.
                self.events.append((runs, *event[1:]))
                continue
            if kind == ARRIVES:
                if self.down:
                    self.lost += asked.spent
                else:
                    back = at + self.delay / 2
                    said = self.store(asked)
                    self.events.append((back, RETURNS, member, asked, said))
            elif self.asked.get(member) is not asked:
                continue
            elif kind == RETURNS:
                del self.asked[member]
                assert said is not None
                member.absorb(self.local(member), said)
            else:
                del self.asked[member]
                member.fail(self.local(member))

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.events and min(event[0] for event in self.events) <= until:
            self.now = max(self.now, min(event[0] for event in self.events))
            self.deliver()
            for member in self.members:
                # No call of this fleet waits for an answer that is late.
                member.end_round(self.local(member))
        self.now = until

    def come_back(self) -> None:
        """The store is up again: all book what they used, and rely on it."""
        self.down = False
        delay, self.delay = self.delay, 0.0
        runs = max(self.stalled.values(), default=self.now)
        self.advance(max(TIMEOUT, runs - self.now))
        for member in self.members:
            self.ask(member, 0.0)
            self.deliver()
            member.restore()
        self.delay = delay

    def unbooked(self) -> float:
        """What was used alone and the store was not told of."""
        told = sum(asked.spent for asked in self.asked.values())
        return told + self.lost + sum(member._spent_alone for member in self.members)


# The promise, under an adversary


class Adversary(RuleBasedStateMachine):
    """Demand, delays and losses, in any order; each member has asked before."""

    @initialize(members=st.integers(1, 4), lease=st.sampled_from([None, 0.1, 0.5]))
    def start(self, members: int, lease: float | None) -> None:
        self.fleet = Fleet(members, lease=lease)
        for member in self.fleet.members:
            assert self.fleet.call(member)
        self.forgiven = 0.0
        self.fleet.judge.forgiven = lambda: self.forgiven + self.fleet.unbooked()
        self.copies: list[tuple[Bucket | None, float]] = []

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.05, 0.3, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.fleet.advance(seconds)

    @rule(place=st.integers(0, 3), calls=st.sampled_from([1, 5, 40, 200]))
    def burst(self, place: int, calls: int) -> None:
        fleet = self.fleet
        member = fleet.members[place % len(fleet.members)]
        for _ in range(calls):
            fleet.call(member)

    @rule(calls=st.integers(1, 100), seed=st.integers(0, 9))
    def spread(self, calls: int, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(calls):
            self.fleet.call(chance.choice(self.fleet.members))
            self.fleet.advance(0.002)

    @rule(delay=st.sampled_from([0.0, 0.002, 0.04, 0.3]))
    def slow_down(self, delay: float) -> None:
        self.fleet.delay = delay

    @rule(place=st.integers(0, 3), seconds=st.sampled_from([0.05, 0.3, 1.0, 5.0]))
    def stall(self, place: int, seconds: float) -> None:
        member = self.fleet.members[place % len(self.fleet.members)]
        self.fleet.stalled[member] = self.fleet.now + seconds

    @rule()
    def lose_the_data(self) -> None:
        self.fleet.bucket = None

    @rule(seconds=st.sampled_from([-300.0, 300.0]))
    def set_the_clock(self, seconds: float) -> None:
        self.fleet.offset += seconds

    @rule()
    def copy(self) -> None:
        # What was used and not told yet is not in it.
        told = self.fleet.judge.used - self.fleet.unbooked()
        self.copies.append((self.fleet.bucket, told))

    @precondition(lambda self: self.copies)
    @rule(place=st.integers(0, 9))
    def fail_over(self, place: int) -> None:
        """An old copy takes over: what was taken since may be taken again."""
        bucket, used = self.copies[place % len(self.copies)]
        self.fleet.bucket = bucket
        self.forgiven += self.fleet.judge.used - used

    @rule(down=st.booleans())
    def go_down(self, down: bool) -> None:
        fleet = self.fleet
        fleet.down = down
        if not down:
            # NB: partial returns are partial losses, whose bound is another.
            fleet.come_back()

    @invariant()
    def never_more_than_the_burst_and_the_rate(self) -> None:
        if hasattr(self, "fleet"):
            assert self.fleet.judge.worst >= -1e-6


TestAdversary = Adversary.TestCase
TestAdversary.settings = settings(
    max_examples=60,
    stateful_step_count=30,
)


# What a fleet gets


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1.0 where all have the same."""
    return sum(values) ** 2 / len(values) / sum(value * value for value in values)


def steady(fleet: Fleet, seconds: float, demand: float, seed: int = 1) -> list[float]:
    """So many calls per second and member; return how many passed of each."""
    chance = random.Random(seed)
    until = fleet.now + seconds
    passed = [0.0] * len(fleet.members)
    while fleet.now < until:
        fleet.advance(chance.expovariate(demand * len(passed)))
        place = chance.randrange(len(passed))
        passed[place] += fleet.call(fleet.members[place])
    return passed


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.04])
def test_a_contended_fleet_uses_nearly_all_there_is(delay: float) -> None:
    """Four members want six times the rate; delays starve none of them."""
    fleet = Fleet(4, rate=1000.0, burst=1000.0)
    fleet.delay = delay
    passed = steady(fleet, 3.0, 1500.0)
    assert 0.93 * 4000 <= fleet.judge.used <= 4000
    assert jain(passed) > 0.95


def test_a_hundred_members_that_begin_at_once_have_the_same() -> None:
    """Each asks for a hundredth of a lease's worth."""
    fleet = Fleet(100, rate=1000.0, burst=1000.0)
    for member in fleet.members:
        member.see(fleet.local(member), 100)
    passed = steady(fleet, 3.0, 50.0)
    assert 0.85 * 4000 <= fleet.judge.used <= 4000
    assert fleet.judge.worst >= -1e-6
    assert jain(passed) > 0.9


def test_what_is_asked_for_follows_the_demand() -> None:
    """One ask for some hundred calls."""
    fleet = Fleet(2, rate=1000.0, burst=10_000.0)
    asks = 0
    store = fleet.store

    def counting(asked: Ask) -> Answer:
        nonlocal asks
        asks += 1
        return store(asked)

    fleet.store = counting  # type: ignore[method-assign]
    steady(fleet, 5.0, 200.0)
    asks = 0
    passed = steady(fleet, 10.0, 200.0, seed=2)
    assert sum(passed) / asks > 50


def test_without_the_store_a_fleet_keeps_the_rate() -> None:
    """Half of them without asking, and what they used is booked."""
    fleet = Fleet(4)
    steady(fleet, 2.0, 100.0)
    fleet.down = True
    before = fleet.judge.used
    steady(fleet, 4.0, 100.0)
    assert 0.9 * 400 <= fleet.judge.used - before <= 400 + 40
    fleet.come_back()
    assert 0.0 == fleet.unbooked()
    steady(fleet, 4.0, 100.0)
    most = BURST + RATE * (fleet.now - 1000.0)
    assert 0.9 * most <= fleet.judge.used <= most
    assert fleet.judge.worst >= -1e-6


@given(
    returning=st.integers(1, 3),
    losses=st.integers(0, 3),
    demand=st.sampled_from([30.0, 60.0, 150.0]),
    seed=st.integers(0, 9),
)
@settings(max_examples=20)
def test_who_dwells_before_it_relies_on_the_store_books_what_it_uses(
    returning: int, losses: int, demand: float, seed: int
) -> None:
    """Others use the bucket meanwhile: nothing more but what is not booked yet.

    A store that answered late is lost to some members alone, and answers them.
    """
    contact = Contact()
    fleet = Fleet(4)
    for _ in range(losses):
        contact.failed(fleet.now)
        while contact.answered(fleet.now) is None:
            fleet.now = contact.probe_at
    steady(fleet, 2.0, 150.0, seed)
    contact.failed(fleet.now)
    fleet.apart = fleet.members[:returning]
    for member in fleet.apart:
        member.cut(fleet.local(member))
    began, before = fleet.now, fleet.judge.used
    while True:
        seed += 1
        steady(fleet, contact.probe_at - fleet.now, demand, seed)
        if contact.answered(fleet.now) is not None:
            break
        for member in fleet.apart:
            fleet.book(member)
    share = RATE / len(fleet.members)
    assert fleet.judge.worst >= -returning * share * 0.1
    # Some ten less, as the last block of a lease may be empty.
    most = RATE * (fleet.now - began)
    assert 0.8 * most - 10.0 <= fleet.judge.used - before


def test_a_newcomer_that_asks_first_after_a_loss_gets_a_burst() -> None:
    """And no more than one: the promise has this exception."""
    fleet = Fleet(2, lease=0.0)
    old = fleet.members[0]
    for _ in range(200):
        fleet.call(old)
    fleet.bucket = None
    new = fleet.join()
    fleet.members.append(new)
    for _ in range(200):
        fleet.call(new)
    assert -BURST == pytest.approx(fleet.judge.worst)
    fleet.bucket = None
    for _ in range(200):
        fleet.call(new)
        fleet.call(old)
    assert -BURST == pytest.approx(fleet.judge.worst)


# One member


@pytest.mark.parametrize(
    ("rate", "per", "burst", "lease"),
    [
        (500, 60, None, 1.0),  # 8.3 a second: blocks of 8
        (1000, 1, 1000, 0.1),  # a tenth of the burst
        (5, 60, None, 0.0),  # less than one call a second
        (100, 1, 1, 0.0),  # nothing to shorten
        (100, 1, 5, 0.0),
    ],
)
def test_a_lease_suits_its_limit(
    rate: float, per: float, burst: float | None, lease: float
) -> None:
    """A second, a tenth of the burst, or nothing where a block is below a call."""
    pace = TokenBucket(rate, per, burst).pace
    assert lease == pytest.approx(lease_for(pace))
    member = Lease(rate, per, burst)
    assert pace.capacity - pace.per_second * lease == pytest.approx(
        member.pace.capacity
    )


def test_a_lease_leaves_room_for_a_call() -> None:
    """One that was asked for by name, too."""
    assert 0.0 == Lease(100.0, 1.0, 100.0, lease=0.5, cost=60.0).lease
    assert 0.5 == Lease(100.0, 1.0, 100.0, lease=0.5, cost=50.0).lease


def test_repr_reads_like_the_call_that_made_it() -> None:
    """Rate, period, burst."""
    assert "Lease(500, 60, 500)" == repr(Lease(500.0, 60.0))


def ready(**options: Any) -> tuple[Fleet, Lease]:
    """A member that has a block of 9, after one call."""
    fleet = Fleet(1, **options)
    (member,) = fleet.members
    now = fleet.local(member)
    asked = member.collect(now, 10.0, 1.0)
    assert asked is not None
    member.absorb(now, fleet.store(asked))
    assert 0.0 == member.try_take(now)
    return fleet, member


def test_a_block_ends_with_its_lease() -> None:
    """And is given back with the next ask."""
    fleet, member = ready(lease=0.1)
    fleet.advance(0.2)
    now = fleet.local(member)
    assert 0.0 < member.try_take(now)
    assert 9.0 == member.unused
    asked = member.collect(now, 1.0, 1.0)
    assert asked is not None
    assert (9.0, fleet.bucket and fleet.bucket.time) == (asked.credit, asked.issued)


def test_an_answer_that_comes_after_its_lease_brings_nothing() -> None:
    """What it granted is given back, too."""
    fleet, member = ready(lease=0.1)
    asked = member.collect(fleet.local(member), 20.0, 1.0)
    assert asked is not None
    said = fleet.store(asked)
    fleet.advance(0.2)
    member.absorb(fleet.local(member), said)
    assert 0.0 < member.wait(fleet.local(member), 10.0)
    assert 9.0 + said.granted == member.unused


def test_an_answer_to_an_ask_that_was_given_up_is_dropped() -> None:
    """Whatever it says."""
    fleet, member = ready()
    asked = member.collect(fleet.local(member), 20.0, 1.0)
    assert asked is not None
    member.fail(fleet.local(member))
    level = member.level(fleet.local(member))
    member.absorb(fleet.local(member), fleet.store(asked))
    assert level == member.level(fleet.local(member))
    assert member.is_cut


def test_one_ask_is_on_its_way_at_a_time() -> None:
    """And none where there is nothing to ask."""
    fleet, member = ready()
    now = fleet.local(member)
    assert member.collect(now, 20.0, 1.0) is not None
    assert member.collect(now, 20.0, 1.0) is None
    idle = Lease(RATE)
    assert idle.collect(now) is None


def test_what_an_unsent_ask_would_have_told_is_told_later() -> None:
    """One that may have arrived is not repeated."""
    fleet, member = ready(lost="alone")
    now = fleet.local(member)
    member.cut(now)
    for _ in range(30):
        assert 0.0 == member.try_take(now)
    for sent, told in [(False, 21.0), (True, 21.0)]:
        asked = member.collect(now + 1.0)
        assert asked is not None
        assert (told, 1.0) == (asked.spent, asked.span)
        member.fail(now + 1.0, sent=sent)
    assert member.collect(now + 1.0) is None
    assert 21.0 == member.booked


@pytest.mark.parametrize(
    ("lost", "level", "wait"),
    [
        ("share", 9.0, 1.0),
        ("alone", 109.0, 0.0),
        ("reject", 9.0, math.inf),
        ("pass", 9.0, 0.0),
    ],
)
def test_what_a_member_has_without_the_store(
    lost: Any, level: float, wait: float
) -> None:
    """Its block in any case, and then what it was told to do."""
    fleet, member = ready(lost=lost)
    now = fleet.local(member)
    member.cut(now)
    assert level == member.level(now)
    for _ in range(9):
        assert 0.0 == member.try_take(now)
    assert wait == pytest.approx(min(member.try_take(now, 1.0), math.inf) * 100.0)


def test_a_change_of_the_rate_holds_without_the_store_too() -> None:
    """The share is another then."""
    fleet, member = ready()
    now = fleet.local(member)
    member.cut(now)
    member.change(now, 10.0, 1.0, 100.0)
    assert member.is_cut
    for _ in range(9):
        member.try_take(now)
    assert 0.1 == pytest.approx(member.try_take(now))


def test_the_members_are_believed_after_a_minute() -> None:
    """Until then as many as were assumed, for the limit without the store."""
    member = Lease(RATE, members=16)
    member.see(0.0, 3)
    assert (3, 16) == (member.members, member._sharers(59.0))
    member.see(60.0, 2)
    assert (2, 2) == (member.members, member._sharers(60.0))
    assert 20 == Lease(RATE, members=20)._sharers(0.0)


def test_a_corrected_cost_comes_out_of_what_was_not_told_yet() -> None:
    """Then out of what the store issued, as far back as that is known."""
    fleet, member = ready(lost="alone")
    now = fleet.local(member)
    member.book(now, 30.0)
    member.book(now, -10.0)
    asked = member.collect(now)
    assert asked is not None
    assert (11.0, 0.0, 0.0) == (asked.spent, asked.span, asked.credit)
    member.absorb(now, fleet.store(asked))
    member.book(now, -5.0, since=now - 100.0)
    asked = member.collect(now)
    assert asked is not None
    assert (5.0, -math.inf) == (asked.credit, asked.issued)
    member.fail(now)
    member.take(now, 4.0)
    member.book(now, -3.0)
    assert 1.0 == member._spent_alone


def test_a_bounded_debt_of_a_member_is_paid_in_time() -> None:
    """Whatever a server's answer says that a call cost; also without the store."""
    fleet, member = ready(lost="alone")
    now = fleet.local(member)
    for _ in range(3):
        member.book(now, 1e15, max_debt=2.0)
        assert -2.0 * RATE == pytest.approx(member.level(now))
    _, member = ready(lost="alone")
    member.fail(now)
    member.book(now, 1e15, max_debt=2.0)
    assert -2.0 * RATE == pytest.approx(member.level(now))


def test_the_issue_of_what_was_taken_is_the_earliest_it_may_have_been() -> None:
    """An answer within the lease before it; the one before, where there is none."""
    member = Lease(RATE, burst=BURST, lease=0.5)
    member._issues.extend([(1.0, 101.0), (2.0, 102.0), (2.2, 102.2), (3.0, 103.0)])
    times = [0.5, 1.2, 1.9, 2.3, 2.6, 9.0]
    assert [-math.inf, 101.0, 101.0, 102.0, 102.2, 103.0] == [
        member._issue_of(at) for at in times
    ]


def test_what_a_server_says_is_told_once() -> None:
    """The lowest figure; one that holds nothing back is not worth an ask."""
    fleet, member = ready()
    now = fleet.local(member)
    member.learn(now, 1000.0, 1.0)
    assert member.collect(now) is None
    member.learn(now, 40.0, 60.0)
    member.learn(now, 30.0, 60.0)
    asked = member.collect(now)
    assert asked is not None
    assert 30.0 == asked.ceiling
    member.absorb(now, fleet.store(asked))
    assert 30.0 == pytest.approx(fleet.bucket and fleet.bucket.level)
    assert member.collect(now) is None


def test_what_was_not_booked_is_booked_after_the_next_loss() -> None:
    """Over all the time since."""
    fleet, member = ready(lost="pass")
    now = fleet.local(member)
    for since in (now, now + 2.0):
        member.cut(since)
        member.take(since, 10.0)
        member.restore()
    asked = member.collect(now + 4.0)
    assert asked is not None
    assert (11.0, 4.0) == (asked.spent, asked.span)


def test_a_member_that_refuses_looks_every_two_seconds() -> None:
    """When it is called; a look takes nothing, and no call waits for it."""
    fleet, member = ready(lease=0.1)
    assert fleet.bucket is not None
    fleet.bucket = fleet.bucket._replace(level=-900.0)
    fleet.advance(1.0)
    told(fleet, member, 9.0)
    for _ in range(19):
        fleet.advance(0.1)
        assert member.try_take(fleet.local(member)) > 0.5
        assert not member.due
    fleet.advance(0.1)
    now = fleet.local(member)
    assert (True, True, 0.0) == (
        member.try_take(now) > 0.5,
        member.due,
        member.grace(now),
    )
    told(fleet, member, 0.0)
    # A look that finds nothing changes nothing; one that does, all.
    assert member.try_take(now) > 0.5
    fleet.bucket = fleet.bucket._replace(level=50.0, credited=500.0)
    fleet.advance(2.0)
    assert member.try_take(fleet.local(member)) > 0.5
    told(fleet, member, 0.0)
    assert member.patience == pytest.approx(member.wait(fleet.local(member)))


def told(fleet: Fleet, member: Lease, want: float) -> Ask:
    """Have the store answer; return what it was asked."""
    asked = member.collect(fleet.local(member), want, 1.0)
    assert asked is not None
    assert (want == 0.0) == (asked.want == 0.0)
    member.absorb(fleet.local(member), fleet.store(asked))
    return asked


@pytest.mark.parametrize("sent", [False, True])
def test_orders_are_told_until_the_store_has_answered(sent: bool) -> None:
    """Whether or not they may have arrived: told twice they do the same."""
    fleet, member = ready()
    member.change(fleet.local(member), 2 * RATE, 1.0)
    member.order(2 * RATE, 1.0, None)
    member.reset()
    asked = member.collect(fleet.local(member))
    assert asked is not None
    member.fail(fleet.local(member), sent=sent)
    member.restore()
    assert member.due
    asked = told(fleet, member, 0.0)
    assert (1.0, 1.0, 2 * RATE) == (asked.reset, asked.orders, asked.order_rate)
    assert member.news(fleet.store(Ask(1.0, 1.0))) is None
    assert member.collect(fleet.local(member)) is None
    member.reset()
    asked_last = member.surrender(fleet.local(member))
    assert asked_last is not None
    assert (1.0, 0.0, 1.0) == (
        asked_last.reset,
        asked_last.orders,
        asked_last.order_number,
    )


def test_the_order_that_was_sent_last_holds() -> None:
    """What another ordered before is no news; what it orders later is."""
    fleet, member = ready()
    earlier = Ask(1.0, 1.0, orders=1.0, order_rate=7.0, order_per=1.0)
    said = fleet.store(earlier)
    assert Order(1.0, 7.0, 1.0, 0.0) == member.news(said)
    member.order(9.0, 1.0, None)
    assert member.news(said) is None
    asked = member.collect(fleet.local(member))
    assert asked is not None
    said = fleet.store(asked)
    later = fleet.store(earlier)
    assert (2.0, 3.0) == (said.order.number, later.order.number)
    assert later.order == member.news(later)
    member.obeyed(later.order)
    assert member.news(said) is None
    member.absorb(fleet.local(member), said)
    assert 3.0 == told(fleet, member, 30.0).order_number


# -- Its bounds, one by one


def said(level: float, granted: float = 0.0, **changes: Any) -> Answer:
    """Return what a store says of a limit of 100 a second at 100.0 s."""
    usual = Answer(granted, level, 100.0, 0.0, RATE, 90.0, False)
    return usual._replace(**changes)


def told_at_100(answered: Answer) -> Lease:
    """Return a member that asked at 100.0 s, and was answered at once."""
    member = Lease(RATE, burst=BURST)
    assert member.collect(100.0, 30.0, 1.0) is not None
    member.absorb(100.0, answered)
    return member


def test_a_lease_leaves_room_for_the_largest_call() -> None:
    """A bucket smaller by a lease still holds one of 19 of 20."""
    assert 0.01 == lease_for(TokenBucket(RATE, 1.0, 20.0).pace, 19.0)


@pytest.mark.parametrize(
    ("now", "grace"), [(99.9, 0.05), (100.0, 0.05), (100.03, 0.02), (100.1, 0.0)]
)
def test_an_answer_is_waited_for_from_the_first_call_that_lacks_it(
    now: float, grace: float
) -> None:
    """Never longer than `patience`, by whichever reading of the clock."""
    member = Lease(RATE, burst=BURST)
    assert 0.05 == pytest.approx(member.wait(100.0))
    assert grace == pytest.approx(member.grace(now))


@pytest.mark.parametrize(
    ("reports", "ceiling"),
    [((5.0,), 5.0), ((5.0, 9.0), 5.0), ((9.0, 5.0), 5.0), ((-3.0,), 0.0)],
)
def test_the_fleet_is_told_the_least_that_the_server_said(
    reports: tuple[float, ...], ceiling: float
) -> None:
    """Less than nothing counts as nothing."""
    member = Lease(RATE, burst=BURST)
    for remaining in reports:
        member.learn(100.0, remaining, 60.0)
    asked = member.collect(100.0)
    assert asked is not None
    assert ceiling == asked.ceiling


@pytest.mark.parametrize(
    ("amount", "wait"), [(0.5, 0.02), (1.0, 0.02), (6.0, 0.07), (2.0, 0.03)]
)
def test_what_is_wanted_beyond_one_call_takes_its_own_time(
    amount: float, wait: float
) -> None:
    """After a refusal: the pause, and at the limit's rate for the rest."""
    member = told_at_100(said(0.0))
    assert wait == pytest.approx(member.wait(100.0, amount))


def test_a_balance_that_was_seen_grows_to_the_whole_and_no_further() -> None:
    """However long ago that was."""
    member = told_at_100(said(20.0))
    assert 70.0 == pytest.approx(member.level(100.5))
    assert 90.0 == member.level(1000.0)


def test_a_debt_that_cannot_be_paid_in_time_is_made_no_smaller() -> None:
    """What is booked on top of it is forgiven, and not given back."""
    member = told_at_100(said(-500.0))
    member.learn(100.0, 0.0, 60.0)
    member.book(100.0, 50.0, max_debt=1.0)
    assert -500.0 == pytest.approx(member.level(100.0))
    assert member.is_held(100.0)


@pytest.mark.parametrize(
    ("rate", "capacity", "in_force", "lowered"),
    [
        (100.0, 90.0, 100.0, None),
        (200.0, 190.0, 100.0, None),
        (40.0, 36.0, 40.0, (40.0, 40.0)),
        (40.0, 200.0, 40.0, (100.0, 40.0)),
    ],
)
def test_the_lower_of_two_limits_is_in_force(
    rate: float, capacity: float, in_force: float, lowered: tuple[float, float] | None
) -> None:
    """In each of its numbers; the higher one of another member is not."""
    member = told_at_100(said(30.0, rate=rate, capacity=capacity))
    assert (in_force, lowered) == (member.in_force, member.lowered)


def test_the_greater_number_of_members_shares_before_it_is_relied_on() -> None:
    """And none is no number to share among."""
    member = Lease(RATE, burst=BURST, members=4)
    member.see(100.0, 20)
    member.cut(101.0)
    assert 5.0 == member.pace.per_second
    member.see(160.0, 0)
    member.restore()
    member.cut(160.0)
    assert RATE == member.pace.per_second


@pytest.mark.parametrize("lost", ["share", "reject"])
def test_an_ask_whose_answer_was_lost_without_a_word_is_made_anew(lost: str) -> None:
    """Two seconds later; what it told may have arrived, and is not told again."""
    member = Lease(RATE, burst=BURST, lost=lost)  # type: ignore[arg-type]  # it is one
    member.book(100.0, 3.0)
    asked = member.collect(100.0, 1.0, 1.0)
    assert asked is not None
    assert 3.0 == asked.spent
    # No call waits for it longer than its patience.
    member.wait(100.0)
    member.wait(100.1)
    assert member.is_cut
    assert member.collect(101.9, 1.0, 1.0) is None
    asked = member.collect(102.0, 1.0, 1.0)
    assert asked is not None
    assert (0.0, 3.0) == (asked.spent, member.booked)
    member.absorb(102.0, said(50.0, time=102.0))
    assert not member.is_cut
