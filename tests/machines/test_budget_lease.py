"""A fleet's retry budget: one capacity for all, whatever becomes of the store."""

from __future__ import annotations

import math
from typing import Any

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
from tests.machines.test_lease import Fleet

from resilient._machines.budget import Budget
from resilient._machines.budget_lease import BudgetLease
from resilient._machines.lease import Lease
from resilient._machines.shared_bucket import Answer, Bucket
from resilient._values.priority import Priority

CAPACITY, RATIO, TRICKLE = 10.0, 0.1, 0.5
NORMAL = Priority.NORMAL


class BudgetFleet(Fleet):
    """Members with a budget that is one for all."""

    def __init__(self, members: int = 4, **options: Any) -> None:
        self.trickle = options.pop("trickle", TRICKLE)
        super().__init__(members, rate=TRICKLE, burst=CAPACITY, **options)
        self.successes = 0

    def join(self) -> BudgetLease:
        options = {key: one for key, one in self.options.items() if key != "burst"}
        return BudgetLease(Budget(RATIO, CAPACITY, self.trickle), **options)

    def succeed(self, member: Lease) -> None:
        assert isinstance(member, BudgetLease)
        now = self.local(member)
        self.successes += 1
        if not member.at_rest(now):
            member.deposit(now)
        if member.due:
            self.ask(member, 0.0)
            self.deliver()

    def withdraw(self, member: Lease, priority: Priority = NORMAL) -> bool:
        """One retry of that class, which waits for an answer that comes at once."""
        assert isinstance(member, BudgetLease)
        now = self.local(member)
        wait = member.withdraw(now, 1.0, priority)
        if member.due:
            self.ask(member, 1.0 if wait < math.inf else 0.0)
            self.deliver()
            if 0.0 < wait < math.inf:
                wait = member.withdraw(now, 1.0, priority)
            member.end_round(now)
        if wait == 0.0:
            self.judge.use(self.now, 1.0)
        return wait == 0.0


class Adversary(RuleBasedStateMachine):
    """Failures, successes, delays and losses; each member has asked before."""

    @initialize(members=st.integers(1, 4))
    def start(self, members: int) -> None:
        self.fleet = BudgetFleet(members)
        for member in self.fleet.members:
            self.fleet.withdraw(member)
        self.forgiven = 0.0
        self.fleet.judge.forgiven = lambda: self.forgiven + self.fleet.unbooked()
        self.copies: list[tuple[Bucket | None, float]] = []

    @rule(seconds=st.sampled_from([0.001, 0.05, 0.3, 0.6, 3.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.fleet.advance(seconds)

    @rule(place=st.integers(0, 3), retries=st.sampled_from([1, 3, 30]))
    def fail(self, place: int, retries: int) -> None:
        fleet = self.fleet
        for _ in range(retries):
            fleet.withdraw(fleet.members[place % len(fleet.members)])

    @rule(delay=st.sampled_from([0.0, 0.002, 0.04, 0.3]))
    def slow_down(self, delay: float) -> None:
        self.fleet.delay = delay

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
        self.fleet.down = down
        if not down:
            self.fleet.come_back()

    @invariant()
    def never_more_than_one_capacity(self) -> None:
        """In any time: without successes a budget is a bucket."""
        if hasattr(self, "fleet"):
            assert self.fleet.judge.worst >= -1e-6


class PaidAdversary(Adversary):
    """The same, and successes pay in."""

    @rule(place=st.integers(0, 3), calls=st.sampled_from([1, 10, 300]))
    def succeed(self, place: int, calls: int) -> None:
        fleet = self.fleet
        for _ in range(calls):
            fleet.succeed(fleet.members[place % len(fleet.members)])
            fleet.advance(0.002)

    @invariant()
    def never_more_than_one_capacity(self) -> None:
        """And what was paid in, since it began, and used without the store."""
        if hasattr(self, "fleet"):
            fleet = self.fleet
            most = CAPACITY + RATIO * fleet.successes + TRICKLE * (fleet.now - 1000.0)
            most += sum(member.booked for member in fleet.members)
            assert fleet.judge.used <= most + fleet.judge.forgiven() + 1e-6


TestAdversary = Adversary.TestCase
TestPaidAdversary = PaidAdversary.TestCase
TestAdversary.settings = TestPaidAdversary.settings = settings(
    max_examples=60,
    stateful_step_count=30,
)


def drained(members: int = 2, **options: Any) -> BudgetFleet:
    """Return a fleet whose budget is empty."""
    fleet = BudgetFleet(members, **options)
    while fleet.withdraw(fleet.members[0]):
        pass
    return fleet


def test_a_fleet_has_one_capacity() -> None:
    """The last retry is one member's, and not another's."""
    fleet = BudgetFleet(4)
    assert 10 == sum(fleet.withdraw(one) for one in fleet.members * 5)


def test_what_one_member_pays_in_another_may_withdraw() -> None:
    """With the next exchange, half a second later at most."""
    fleet = drained()
    one, other = fleet.members
    fleet.advance(0.5)
    for _ in range(40):
        fleet.succeed(one)
    fleet.advance(0.5)
    fleet.succeed(one)
    fleet.advance(0.5)
    assert 3 <= sum(fleet.withdraw(other) for _ in range(9)) <= 5


def test_successes_of_a_full_budget_ask_every_two_seconds() -> None:
    """And each of a budget that is not, every half; the others cost nothing."""
    fleet = BudgetFleet(1)
    asks: list[float] = []
    store = fleet.store

    def noting(asked: Any) -> Answer:
        asks.append(fleet.now)
        return store(asked)

    fleet.store = noting  # type: ignore[method-assign]
    for _ in range(100):
        fleet.succeed(fleet.members[0])
        fleet.advance(0.1)
    assert 5 == len(asks)
    while fleet.withdraw(fleet.members[0]):
        pass
    asks.clear()
    for _ in range(50):
        fleet.succeed(fleet.members[0])
        fleet.advance(0.1)
    assert 9 <= len(asks) <= 11


def test_a_refusal_is_remembered_for_half_a_second() -> None:
    """No retry of an outage asks the store meanwhile."""
    fleet = drained(1)
    (member,) = fleet.members
    assert isinstance(member, BudgetLease)
    assert math.inf == member.withdraw(fleet.local(member), 1.0, NORMAL)
    assert not member.due
    fleet.advance(0.5)
    assert 0 < member.withdraw(fleet.local(member), 1.0, NORMAL) <= 0.05
    assert member.due


@pytest.mark.parametrize(
    ("priority", "retries"),
    [
        (Priority.CRITICAL, 10),
        (Priority.NORMAL, 10),
        (Priority.SHEDDABLE, 7),
        (Priority.BATCH, 5),
    ],
)
def test_what_matters_less_leaves_a_part_alone(
    priority: Priority, retries: int
) -> None:
    """By the balance that was seen last, and the answer's."""
    fleet = BudgetFleet(2)
    one, other = fleet.members
    assert retries == sum(fleet.withdraw(one, priority) for _ in range(12))
    # Its own first answer tells the other that there is too little.
    assert fleet.withdraw(other, priority) is False


def test_a_class_that_is_refused_asks_now_and_then() -> None:
    """What others have paid in may be enough for it."""
    fleet = BudgetFleet(2, trickle=0.0)
    one, other = fleet.members
    while fleet.withdraw(one, Priority.BATCH):
        pass
    fleet.advance(0.6)
    for _ in range(100):
        fleet.succeed(other)
        fleet.advance(0.02)
    assert not fleet.withdraw(one, Priority.BATCH)
    assert fleet.withdraw(one, Priority.BATCH)


@pytest.mark.parametrize(
    ("lost", "retries"), [("share", 2), ("reject", 0), ("alone", 10), ("pass", 30)]
)
def test_what_a_member_has_without_the_store(lost: str, retries: int) -> None:
    """Its part of what was left, nothing, a budget of its own, or no limit."""
    fleet = BudgetFleet(3, lost=lost)
    for _ in range(3):
        assert fleet.withdraw(fleet.members[0])
    fleet.down = True
    member = fleet.members[0]
    member.cut(fleet.local(member))
    assert retries == sum(fleet.withdraw(member) for _ in range(30))


def test_successes_pay_in_without_the_store() -> None:
    """Up to its part of the capacity, at least one; and are told afterwards."""
    fleet = drained(2, trickle=0.0)
    one, other = fleet.members
    assert not fleet.withdraw(other)
    fleet.down = True
    for member in fleet.members:
        member.cut(fleet.local(member))
    for _ in range(100):
        fleet.succeed(one)
    assert 5 == sum(fleet.withdraw(one) for _ in range(9))
    for _ in range(30):
        fleet.succeed(one)
    assert not fleet.withdraw(other)
    fleet.come_back()
    fleet.advance(0.5)
    assert 3 == sum(fleet.withdraw(other) for _ in range(9))


def test_successes_are_no_use_to_a_member_that_rejects() -> None:
    """It has nothing to pay into."""
    fleet = BudgetFleet(1, lost="reject")
    (member,) = fleet.members
    member.cut(fleet.local(member))
    fleet.down = True
    for _ in range(50):
        fleet.succeed(member)
    assert not fleet.withdraw(member)


def test_what_an_unsent_ask_would_have_paid_in_is_paid_later() -> None:
    """An ask that may have arrived pays nothing twice."""
    for sent, paid in ((False, 0.1), (True, 0.0)):
        fleet = drained(1)
        (member,) = fleet.members
        assert isinstance(member, BudgetLease)
        now = fleet.local(member) + 0.5
        member.deposit(now)
        asked = member.collect(now)
        assert asked is not None
        assert 0.1 == asked.deposit
        member.fail(now, sent=sent)
        assert paid == member._paid


def test_a_budget_without_a_trickle_is_full_after_a_day() -> None:
    """So that a store may forget it."""
    fleet = BudgetFleet(1, trickle=0.0)
    (member,) = fleet.members
    fleet.withdraw(member)
    assert fleet.bucket is not None
    assert CAPACITY / 86400 == pytest.approx(fleet.bucket.rate)


def test_leaving_pays_in_what_was_not_yet() -> None:
    """With what is booked."""
    fleet = drained(1)
    (member,) = fleet.members
    assert isinstance(member, BudgetLease)
    member.deposit(fleet.local(member))
    asked = member.surrender(fleet.local(member))
    assert asked is not None
    assert 0.1 == asked.deposit


def cut_off(balance: float = 0.0, trickle: float = 0.5) -> BudgetLease:
    """Return one of two members that lost the store at 100.0 s, knowing a balance."""
    member = BudgetLease(Budget(RATIO, CAPACITY, trickle), members=2)
    exchange(member, 100.0, balance)
    member.cut(100.0)
    return member


def exchange(member: BudgetLease, now: float, level: float) -> None:
    """Have a member ask, and be told at once what is there."""
    assert None is not member.collect(now)
    rate = member.in_force
    member.absorb(now, Answer(0.0, level, now, 0.0, rate, CAPACITY, False))


def taken(member: BudgetLease, now: float, priority: Priority = NORMAL) -> int:
    """Count the retries that a member has at once, without asking."""
    return sum(member.withdraw(now, 1.0, priority) == 0.0 for _ in range(30))


@pytest.mark.parametrize(
    ("priority", "retries"),
    [(Priority.NORMAL, 5), (Priority.SHEDDABLE, 3), (Priority.BATCH, 2)],
)
def test_classes_leave_a_part_of_the_share_alone(
    priority: Priority, retries: int
) -> None:
    """A quarter or half of what one member has without the store, which is half."""
    assert retries == taken(cut_off(CAPACITY), 100.0, priority)


def test_a_share_has_its_part_of_the_trickle() -> None:
    """Half of one retry in two seconds."""
    member = cut_off()
    assert 0 == taken(member, 103.9)
    assert 1 == taken(member, 104.1)
    assert 5 == taken(member, 1000.0)


def test_a_share_has_room_for_one_retry_at_least() -> None:
    """However many there are; a tenth of the capacity would never be one."""
    member = BudgetLease(Budget(RATIO, CAPACITY, 0.0), members=100)
    member.cut(100.0)
    for _ in range(100):
        member.deposit(100.0)
    assert 1 == taken(member, 100.0)


def test_what_was_paid_in_and_not_told_is_shared_out_too() -> None:
    """A member that loses the store has its part of its own successes."""
    member = BudgetLease(Budget(RATIO, CAPACITY, 0.0), members=2)
    exchange(member, 100.0, 0.0)
    for _ in range(45):
        member.deposit(100.0)
    member.cut(100.0)
    assert 2 == taken(member, 100.0)


def test_a_full_budget_is_at_rest_until_its_next_exchange() -> None:
    """For two seconds, in which a success costs one comparison."""
    member = BudgetLease(Budget(RATIO, CAPACITY, TRICKLE), members=2)
    assert not member.at_rest(100.0)
    exchange(member, 100.0, CAPACITY)
    assert member.at_rest(101.9)
    assert not member.at_rest(102.0)
    exchange(member, 102.0, CAPACITY - 1)
    assert not member.at_rest(102.0)
    exchange(member, 103.0, CAPACITY)
    member.cut(103.0)
    assert not member.at_rest(103.0)


def test_a_success_asks_when_an_exchange_is_due() -> None:
    """Half a second after the last one, to the moment, answered or not."""
    member = BudgetLease(Budget(RATIO, CAPACITY, TRICKLE), members=2)
    exchange(member, 100.0, 1.0)
    member.due = False
    member.deposit(100.4)
    assert not member.due
    member.deposit(100.5)
    assert member.due
    member.due = False
    asked = member.collect(100.5)
    assert asked is not None
    assert (pytest.approx(0.2), 0.0) == (asked.deposit, asked.excess)
    member.deposit(100.9)
    assert not member.due
    member.deposit(101.0)
    assert member.due


def test_a_class_that_is_refused_asks_when_an_exchange_is_due() -> None:
    """It is refused at once, and what others have paid in is known later."""
    member = BudgetLease(Budget(RATIO, CAPACITY, 0.0), members=2)
    exchange(member, 100.0, 1.0)
    member.due = False
    assert math.inf == member.withdraw(100.4, 1.0, Priority.BATCH)
    assert not member.due
    assert math.inf == member.withdraw(100.5, 1.0, Priority.BATCH)
    assert member.due


def test_there_is_news_where_something_was_paid_in() -> None:
    """Of another ask nothing is sent before its time."""
    member = BudgetLease(Budget(RATIO, CAPACITY, 0.0), members=2)
    exchange(member, 100.0, CAPACITY)
    assert None is member.collect(100.1)
    member.deposit(100.1)
    asked = member.collect(100.1)
    assert asked is not None
    assert RATIO == asked.deposit
    member.absorb(100.1, Answer(0.0, CAPACITY, 100.1, 0.0, 1.0, CAPACITY, False))
    assert None is member.collect(102.0)
    assert None is not member.collect(102.1)


def test_a_class_asks_where_nothing_is_known() -> None:
    """And where what is known is enough for it, to a rounding error."""
    member = BudgetLease(Budget(RATIO, CAPACITY, 0.0), members=2)
    assert 0 < member.withdraw(100.0, 1.0, Priority.BATCH) < math.inf
    exchange(member, 100.0, 6.0 - 1e-9)
    assert 0 < member.withdraw(100.0, 1.0, Priority.BATCH) < math.inf


# -- Its bounds, one by one


def test_no_more_is_paid_in_than_a_budget_holds() -> None:
    """Neither told to the store, nor counted on top of what it said."""
    member = BudgetLease(Budget(RATIO, CAPACITY, 0.0))
    exchange(member, 100.0, 9.5)
    for _ in range(1000):
        member.deposit(100.0)
    assert CAPACITY == member.level(100.0)
    asked = member.collect(100.5)
    assert asked is not None
    assert CAPACITY == asked.deposit


def test_a_share_begins_without_the_debts_of_the_fleet() -> None:
    """The store has them; half a retry in a second trickles in as always."""
    member = cut_off(-6.0)
    assert 0.0 == member.level(100.0)
    assert 1 == taken(member, 104.1)


def test_a_refusal_of_a_fast_trickle_ends_with_it() -> None:
    """Before the half second after which others may have paid in."""
    member = BudgetLease(Budget(RATIO, CAPACITY, 10.0))
    assert 0.05 == pytest.approx(member.withdraw(100.0, 1.0, NORMAL))
    assert member.collect(100.0, 1.0, 1.0) is not None
    member.absorb(100.0, Answer(0.0, 0.0, 100.0, 0.0, 10.0, CAPACITY, False))
    assert math.inf == member.withdraw(100.09, 1.0, NORMAL)
    assert 0.05 == pytest.approx(member.withdraw(100.11, 1.0, NORMAL))
