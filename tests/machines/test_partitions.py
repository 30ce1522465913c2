"""Partitions: slots that are kept for more important calls and other partitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from resilient._machines.partitions import Group, PartitionedSlots
from resilient._values.priority import Priority

CRITICAL, NORMAL, BATCH = Priority.CRITICAL, Priority.NORMAL, Priority.BATCH


class Ticket:
    """A waiting call."""

    def __init__(self, group: Group | None, name: object = None) -> None:
        self.group = group
        self.name = name
        self.granted = False

    @property
    def priority(self) -> Priority:
        assert self.group is not None
        return self.group.priority

    def __repr__(self) -> str:
        return f"Ticket({self.name!r})"


class ByGroup(PartitionedSlots[Ticket]):
    """Slots that are taken and given back by any ticket of a group."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.holders: list[Ticket] = []

    def take_in(self, group: Group | None, now: float = 0.0, **options: Any) -> bool:
        ticket = Ticket(group)
        if group is None:
            self.take(ticket)
        elif not self.take_for(ticket, now, **options) and not self.max_queue:
            group.refused()
        if ticket.granted:
            self.holders.append(ticket)
        return ticket.granted

    def give_back(self, group: Group | None) -> list[Ticket]:
        ticket = next(holder for holder in self.holders if holder.group is group)
        self.holders.remove(ticket)
        granted = self.leave(ticket)
        self.holders += granted
        return granted


def slots_of(
    limit: int, queue: int = 0, partitions: Mapping[str, float] | None = None
) -> ByGroup:
    """Return slots that are all free."""
    return ByGroup(limit, queue, partitions)


def took(slots: ByGroup, group: Group, calls: int, now: float = 0.0) -> int:
    """Let so many calls ask for a slot; return how many got one."""
    return sum(slots.take_in(group, now) for _ in range(calls))


# -- Classes


@pytest.mark.parametrize("priority", list(Priority))
def test_a_class_that_is_alone_has_everything(priority: Priority) -> None:
    """Priority orders, it reserves nothing."""
    slots = slots_of(10)
    assert 10 == took(slots, slots.group(None, priority), 12)
    assert 10 == slots.in_use


def test_a_class_leaves_free_what_higher_ones_had_lately() -> None:
    """Four were critical at once: the others may have six."""
    slots = slots_of(10)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    assert 4 == took(slots, critical, 4)
    for _ in range(4):
        slots.give_back(critical)
    assert 6 == took(slots, batch, 10)
    assert 4 == took(slots, critical, 4)
    assert 0 == took(slots, batch, 1)


def test_what_higher_ones_were_refused_is_left_free_as_well() -> None:
    """Who came to a full house gets the next place, and not the lowest."""
    slots = slots_of(10)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    assert 10 == took(slots, batch, 10)
    assert 0 == took(slots, critical, 1)
    slots.give_back(batch)
    assert 0 == took(slots, batch, 1)
    assert 1 == took(slots, critical, 1)


def test_who_waits_or_asks_again_is_one_demand() -> None:
    """One was refused, asked again, and waits: one slot is left to it."""
    slots = slots_of(4, 4)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, batch, 4)
    assert not slots.take_in(critical, 0.0)
    assert not slots.take_in(critical, 0.0, again=True)
    ticket = Ticket(critical)
    slots.join(ticket)
    assert 1 == critical.demand
    assert [ticket] == slots.give_back(batch)
    slots.give_back(batch)
    assert 1 == took(slots, batch, 4)


def test_a_demand_is_forgotten_soon() -> None:
    """A peak counts in its period and the next one, of a second each."""
    slots = slots_of(10)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, critical, 4, now=0.0)
    for _ in range(4):
        slots.give_back(critical)
    assert 6 == took(slots, batch, 10, now=0.9)
    assert 0 == took(slots, batch, 10, now=1.9)
    assert 4 == took(slots, batch, 10, now=2.9)


def test_a_demand_is_forgotten_at_once_after_a_long_silence() -> None:
    """The last period is not the one that was seen last."""
    slots = slots_of(10)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, critical, 4, now=0.0)
    for _ in range(4):
        slots.give_back(critical)
    assert 10 == took(slots, batch, 10, now=60.0)


def test_where_nothing_runs_any_call_may() -> None:
    """With no call to release a slot, a refused class would never be let in."""
    slots = slots_of(2)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, critical, 2)
    slots.give_back(critical)
    assert 0 == took(slots, batch, 1)
    slots.give_back(critical)
    assert 1 == took(slots, batch, 2)


def test_a_slot_taken_without_a_group_counts_for_the_limit() -> None:
    """Calls that began before any had a class take such slots."""
    slots = slots_of(3)
    assert slots.take_in(None)
    assert slots.take_in(None)
    assert 1 == took(slots, slots.group(None, CRITICAL), 2)
    assert [] == slots.give_back(None)
    assert 2 == slots.in_use


def test_every_demand_can_be_forgotten() -> None:
    """But for what runs."""
    slots = slots_of(10)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, critical, 4)
    slots.give_back(critical)
    slots.give_back(critical)
    slots.forget()
    assert 8 == took(slots, batch, 10)


PAIRS = [(low, high) for low in Priority for high in Priority if low < high]


@pytest.mark.parametrize(("low", "high"), PAIRS)
def test_each_class_leaves_free_what_each_higher_one_had(
    low: Priority, high: Priority
) -> None:
    """The next higher class as well as the highest; none a lower one."""
    slots = slots_of(10)
    lower, higher = slots.group(None, low), slots.group(None, high)
    took(slots, higher, 4)
    for _ in range(4):
        slots.give_back(higher)
    assert 6 == took(slots, lower, 10)
    for _ in range(6):
        slots.give_back(lower)
    assert 10 == took(slots, higher, 10)


def test_a_class_that_no_call_came_of_wants_nothing() -> None:
    """Neither a slot nor a cut."""
    slots = slots_of(10)
    group = slots.group(None, NORMAL)
    assert (0, 0.0) == (group.demand, group.shed_below)
    group.missed()
    assert 1 == group.demand
    group.entered()
    group.turn(lapsed=False)
    assert 0.0 == group.shed_below
    group.turn(lapsed=False)
    assert 0.0 == group.shed_below


def test_the_first_period_of_a_class_counts_its_calls_only() -> None:
    """One of three was refused: smoothed, that is a sixth."""
    group = slots_of(10).group(None, NORMAL)
    group.entered()
    group.refused()
    group.entered()
    group.turn(lapsed=False)
    assert pytest.approx(1 / 6) == group.shed_below
    refused = slots_of(10).group(None, NORMAL)
    refused.refused()
    refused.turn(lapsed=False)
    assert 0.5 == refused.shed_below


def test_calls_refused_in_a_row_are_a_demand_until_one_gets_a_slot() -> None:
    """Three were refused, one got in, three were refused: four at once."""
    slots = slots_of(10)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, batch, 10)
    assert 0 == took(slots, critical, 3)
    assert 3 == critical.demand
    slots.give_back(batch)
    assert 1 == took(slots, critical, 4)
    assert 4 == critical.demand


def test_calls_refused_in_a_row_are_forgotten_with_their_period() -> None:
    """Three in the first second, one in the next: soon it is one."""
    slots = slots_of(10)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, batch, 10, now=5.0)
    took(slots, critical, 3, now=5.0)
    took(slots, critical, 1, now=6.0)
    assert 3 == critical.demand
    took(slots, batch, 1, now=7.0)
    assert 1 == critical.demand
    took(slots, batch, 1, now=8.0)
    assert 0 == critical.demand


def test_a_call_that_waits_is_a_demand_once() -> None:
    """Three that found no slot and wait are three; with two refused, five."""
    slots = slots_of(4, 9)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, batch, 4)
    for waiting in range(1, 4):
        assert not slots.take_in(critical)
        slots.join(Ticket(critical))
        assert waiting == critical.demand
    slots.take_in(critical)
    slots.take_in(critical)
    slots.take_in(critical)
    slots.join(Ticket(critical))
    assert 6 == critical.demand
    slots.take_in(critical)
    assert 7 == critical.demand


def test_a_call_that_waits_though_none_was_refused_since_is_one_demand() -> None:
    """Another got a slot between its two looks."""
    slots = slots_of(4, 9)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, batch, 4)
    late = Ticket(critical)
    assert not slots.take_for(late, 0.0)
    slots.give_back(batch)
    assert slots.take_in(critical)
    slots.join(late)
    assert 2 == critical.demand
    assert not slots.take_in(critical)
    assert 3 == critical.demand


def test_calls_that_wait_for_long_stay_a_demand() -> None:
    """Two periods after they came as in their first."""
    slots = slots_of(4, 9)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, batch, 4, now=7.0)
    for _ in range(2):
        slots.take_in(critical, 7.0)
        slots.join(Ticket(critical))
    for now in (8.0, 9.0, 10.0):
        took(slots, batch, 1, now=now)
        assert 2 == critical.demand


def test_a_demand_lasts_for_two_periods_less_nothing() -> None:
    """Of 0.0 it counts just before 2.0, and no more at 2.0."""
    for now, left_free in ((1.999, 4), (2.0, 0)):
        slots = slots_of(10)
        critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
        took(slots, critical, 4, now=0.0)
        for _ in range(4):
            slots.give_back(critical)
        assert 10 - left_free == took(slots, batch, 10, now=now)


def test_no_more_than_its_share_is_kept_for_a_partition() -> None:
    """It had eight slots of ten while they were free; three are its own."""
    slots = slots_of(10, 0, {"a": 0.3, "b": 0.7})
    borrower, rest = slots.group("a", NORMAL), slots.group(None, NORMAL)
    assert 8 == took(slots, borrower, 8)
    for _ in range(8):
        slots.give_back(borrower)
    assert 6 == took(slots, rest, 10, now=0.5)


# -- Tasks


def test_of_a_class_that_is_refused_in_part_the_lowest_shed_ranks_go() -> None:
    """Half of its calls were refused: low ranks get no slot of the last quarter."""
    slots = slots_of(8)
    group = slots.group(None, NORMAL)
    took(slots, group, 16, now=0.0)
    for _ in range(8):
        slots.give_back(group)
    slots.take_in(group, 1.0)
    assert 0.25 == group.shed_below
    assert slots.take_in(group, 1.0, shed_rank=0.1)
    for _ in range(4):
        assert slots.take_in(group, 1.0, shed_rank=0.9)
    assert 6 == slots.in_use
    assert not slots.take_in(group, 1.0, shed_rank=0.1)
    assert slots.take_in(group, 1.0, shed_rank=0.25)
    assert slots.take_in(group, 1.0, shed_rank=1.0)


def test_the_highest_shed_rank_seen_is_not_cut() -> None:
    """A task that is alone is not cut; once a higher rank comes, it is again."""
    slots = slots_of(8)
    group = slots.group(None, NORMAL)
    for second in range(3):
        took(slots, group, 16, now=second)
        for _ in range(8):
            slots.give_back(group)
    took(slots, group, 6, now=5.0)
    took(slots, group, 1, now=6.0)
    group.shed_below = 0.5
    group.turn(lapsed=False)
    assert 0.25 == group.shed_below
    assert not group.is_shed(0.2)
    assert not group.is_shed(0.2)
    assert group.is_shed(0.1)
    assert not group.is_shed(0.3)
    assert group.is_shed(0.2)


def test_no_call_is_cut_where_none_was_refused() -> None:
    """Nor after a silence; after an overload the cut halves every second."""
    slots = slots_of(8)
    group = slots.group(None, NORMAL)
    took(slots, group, 4, now=0.0)
    took(slots, group, 1, now=1.0)
    assert 0.0 == group.shed_below
    took(slots, group, 10, now=1.5)
    for _ in range(8):
        slots.give_back(group)
    cuts = []
    for second in range(2, 6):
        took(slots, group, 1, now=second)
        cuts.append(group.shed_below)
    assert [7 / 22, 7 / 44, 7 / 88, 7 / 176] == pytest.approx(cuts)
    took(slots, group, 1, now=60.0)
    assert 0.0 == group.shed_below


def test_a_call_that_gets_a_slot_later_was_not_refused() -> None:
    """By asking again or from the queue; before or after a period ends."""
    for later in (0.5, 1.5):
        slots = slots_of(1, 1)
        group = slots.group(None, NORMAL)
        assert slots.take_in(group, 0.0)
        assert not slots.take_in(group, 0.0)
        slots.give_back(group)
        assert slots.take_in(group, later, again=True)
        ticket, refused = Ticket(group), Ticket(group)
        assert not slots.take_for(ticket, later)
        assert slots.join(ticket) is None
        assert [ticket] == slots.give_back(group)
        assert not slots.take_in(group, 2.0)
        assert 0.0 == group.shed_below
        slots.join(Ticket(group))
        assert refused is slots.join(refused)
        slots.take_in(group, 3.0)
        assert 0.0 < group.shed_below


def test_a_call_of_no_task_is_no_rank() -> None:
    """A task that is alone with such calls is not cut."""
    group = slots_of(8).group(None, NORMAL)
    group.shed_below = 0.5
    assert not group.is_shed(1.0)
    assert not group.is_shed(0.2)
    assert group.is_shed(0.1)


def test_a_class_of_which_none_came_is_cut_no_further() -> None:
    """A period without calls halves what was."""
    slots = slots_of(8)
    group, other = slots.group(None, NORMAL), slots.group(None, BATCH)
    took(slots, group, 16, now=0.0)
    took(slots, other, 1, now=1.0)
    assert (0.25, 0.0) == (group.shed_below, other.shed_below)
    took(slots, other, 1, now=2.0)
    assert 0.125 == group.shed_below


def test_calls_that_wait_are_not_refused_and_those_without_a_place_are() -> None:
    """One runs, one waits, one finds no place, one is put out for a higher class."""
    slots = slots_of(1, 1)
    batch, normal = slots.group(None, BATCH), slots.group(None, NORMAL)
    assert slots.take_in(batch)
    slots.join(Ticket(batch))
    refused = Ticket(batch)
    assert refused is slots.join(refused)
    slots.join(Ticket(normal))
    batch.turn(lapsed=False)
    normal.turn(lapsed=False)
    assert (0.25, 0.0) == (batch.shed_below, normal.shed_below)


# -- Partitions


def test_a_partition_always_has_its_share() -> None:
    """Of the others each has what the rest leave it."""
    slots = slots_of(10, partitions={"live": 0.8, "batch": 0.2})
    live, batch = slots.group("live", NORMAL), slots.group("batch", NORMAL)
    assert 8 == took(slots, live, 8)
    assert 2 == took(slots, batch, 10)
    assert 10 == slots.in_use


def test_an_unused_share_is_lent_but_for_one_slot() -> None:
    """Its first call after a silence need not wait for a release."""
    slots = slots_of(10, partitions={"live": 0.8, "batch": 0.2})
    live, batch = slots.group("live", NORMAL), slots.group("batch", NORMAL)
    assert 9 == took(slots, batch, 10)
    assert 1 == took(slots, live, 1)
    assert 0 == took(slots, live, 1)


def test_what_was_lent_comes_back_to_its_owner() -> None:
    """A released slot goes back to the share; it is not lent again."""
    slots = slots_of(10, partitions={"live": 0.8, "batch": 0.2})
    live, batch = slots.group("live", NORMAL), slots.group("batch", NORMAL)
    took(slots, batch, 9)
    for running in range(1, 9):
        assert 1 == took(slots, live, 2)
        assert 0 == took(slots, batch, 1)
        assert running == live.in_use
        slots.give_back(batch)
    assert 0 == took(slots, live, 1)
    assert 1 == took(slots, batch, 3)


def test_a_partition_that_is_not_listed_has_a_share_of_nothing() -> None:
    """It has what others leave."""
    slots = slots_of(10, partitions={"live": 0.8, "batch": 0.2})
    assert slots.group("other", NORMAL) is slots.group(None, NORMAL)
    other = slots.group("other", NORMAL)
    assert 8 == took(slots, other, 10)
    assert 1 == took(slots, slots.group("live", NORMAL), 1)
    assert 1 == took(slots, slots.group("batch", NORMAL), 2)


def test_what_a_partition_has_is_no_longer_kept_for_it() -> None:
    """It wanted three and has three: all the rest is for the other."""
    slots = slots_of(10, partitions={"live": 0.5, "batch": 0.5})
    assert 3 == took(slots, slots.group("batch", NORMAL), 3)
    assert 7 == took(slots, slots.group("live", NORMAL), 9)


def test_a_partition_with_more_than_its_share_has_nothing_kept_for_it() -> None:
    """Nor is anything subtracted from what is kept for others."""
    slots = slots_of(10, partitions={"live": 0.2, "batch": 0.3, "idle": 0.5})
    assert 6 == took(slots, slots.group("batch", NORMAL), 6)
    # One for the idle one: live has its two and one more.
    assert 3 == took(slots, slots.group("live", NORMAL), 9)
    assert 1 == took(slots, slots.group("idle", NORMAL), 9)


def test_a_class_leaves_its_partition_s_share_to_higher_ones() -> None:
    """Of a share of five, three are for what was critical in it."""
    slots = slots_of(10, partitions={"live": 0.5, "batch": 0.5})
    critical = slots.group("live", CRITICAL)
    batch = slots.group("batch", NORMAL)
    for group, calls in ((critical, 3), (batch, 5)):
        assert calls == took(slots, group, calls)
        for _ in range(calls):
            slots.give_back(group)
    assert 2 == took(slots, slots.group("live", NORMAL), 9)
    assert 5 == took(slots, batch, 5)
    assert 3 == took(slots, critical, 9)


def test_what_is_lent_leaves_free_what_higher_classes_had() -> None:
    """Ten, less three for critical calls and one for the lender."""
    slots = slots_of(10, partitions={"live": 0.2, "batch": 0.8})
    critical = slots.group("live", CRITICAL)
    assert 3 == took(slots, critical, 3)
    for _ in range(3):
        slots.give_back(critical)
    assert 6 == took(slots, slots.group("live", NORMAL), 9)


def test_a_class_goes_first_in_its_own_partition_only() -> None:
    """What is critical to batch jobs is nothing to the live traffic."""
    slots = slots_of(10, partitions={"live": 0.5, "batch": 0.5})
    critical = slots.group("batch", CRITICAL)
    took(slots, critical, 4)
    for _ in range(4):
        slots.give_back(critical)
    # 4 slots are kept for the batch jobs' share, as for any of their classes.
    assert 6 == took(slots, slots.group("live", BATCH), 10)
    assert 0 == took(slots, slots.group("batch", BATCH), 1)
    assert 4 == took(slots, critical, 5)


def test_shares_are_rounded_up() -> None:
    """Of 30 a tenth is three; of five it is one."""
    slots = slots_of(30, partitions={"live": 0.1})
    partition = slots.group("live", NORMAL).partition
    assert [3, 1, 1] == [partition.quota(limit) for limit in (30, 5, 1)]


# -- The queue


def test_a_free_slot_goes_to_the_first_who_may_have_it() -> None:
    """The batch jobs have had their share and more."""
    slots = slots_of(4, 4, {"live": 0.5, "batch": 0.5})
    live, batch = slots.group("live", NORMAL), slots.group("batch", NORMAL)
    took(slots, batch, 3)
    took(slots, live, 1)
    one, two = Ticket(batch, "batch"), Ticket(live, "live")
    for ticket in (one, two):
        assert not slots.take_in(ticket.group, 0.0)
        assert slots.join(ticket) is None
    assert [two] == slots.give_back(batch)
    assert (2, 2, 1) == (batch.in_use, live.in_use, slots.queued)
    assert [one] == slots.give_back(batch)
    assert 0 == slots.queued == batch.waiting == live.waiting


def test_no_call_overtakes_its_own_group() -> None:
    """Also where a slot is free that the queue could not have."""
    slots = slots_of(2, 4)
    critical, batch = slots.group(None, CRITICAL), slots.group(None, BATCH)
    took(slots, critical, 1)
    took(slots, batch, 1)
    assert not slots.take_in(critical, 0.0)
    first = Ticket(batch, "first")
    slots.join(first)
    # What critical wanted and was refused is kept for it.
    assert [] == slots.give_back(batch)
    assert not slots.take_in(batch, 0.0)
    assert slots.take_in(critical, 0.0)


@pytest.mark.parametrize(("lifo", "names"), [(False, "cda"), (True, "dcb")])
def test_the_queue_is_served_by_class_and_age(lifo: bool, names: str) -> None:
    """Oldest or newest first; only as many as there is room for."""
    slots = slots_of(1, 9)
    slots.lifo = lifo
    batch, critical = slots.group(None, BATCH), slots.group(None, CRITICAL)
    assert slots.take_in(None)
    for name in "abcd":
        slots.join(Ticket(critical if name in "cd" else batch, name))
    slots.give_back(None)
    assert 1 == slots.in_use
    assert names[1:] == "".join(str(ticket.name) for ticket in slots.resize(3))
    assert 1 == slots.queued


def test_where_no_slot_is_free_no_ticket_is_looked_at() -> None:
    """However long the queue is."""

    class Seen(Ticket):
        """A ticket that counts the looks at its group."""

        looks = 0

        @property  # type: ignore[override]  # counted
        def group(self) -> Group | None:
            Seen.looks += 1
            return group

        @group.setter
        def group(self, group: Group | None) -> None:
            pass

    slots = slots_of(1, 9)
    group = slots.group(None, NORMAL)
    assert slots.take_in(None)
    for _ in range(9):
        slots.join(Seen(group))
    Seen.looks = 0
    assert [] == slots.grant()
    assert 0 == Seen.looks
    slots.give_back(None)
    assert 0 < Seen.looks


def test_a_ticket_that_leaves_the_queue_no_longer_counts_as_waiting() -> None:
    """Before it is granted a slot, right after, and when it leaves twice."""
    slots = slots_of(1, 2)
    group = slots.group(None, NORMAL)
    assert slots.take_in(None)
    one, two = Ticket(group), Ticket(group)
    slots.join(one)
    slots.join(two)
    assert 2 == group.waiting
    assert [] == slots.leave(two)
    assert [] == slots.leave(two)
    assert 1 == group.waiting
    assert [one] == slots.give_back(None)
    assert (1, 0) == (group.in_use, group.waiting)
    assert [] == slots.leave(one)
    assert [] == slots.leave(one)
    assert (0, 0) == (group.in_use, slots.in_use)


def test_a_ticket_put_out_of_the_queue_no_longer_counts_as_waiting() -> None:
    """A ticket for which the queue has no place never did."""
    slots = slots_of(1, 1)
    batch, critical = slots.group(None, BATCH), slots.group(None, CRITICAL)
    assert slots.take_in(None)
    low, high, late = Ticket(batch), Ticket(critical), Ticket(batch)
    assert slots.join(low) is None
    assert low is slots.join(high)
    assert late is slots.join(late)
    assert (0, 1) == (batch.waiting, critical.waiting)


class ManyGroups(RuleBasedStateMachine):
    """In any sequence counts agree, the limit holds, and no ticket is stuck."""

    @initialize(
        limit=st.integers(1, 6),
        queue=st.integers(0, 4),
        lifo=st.booleans(),
        now=st.floats(-1e9, 1e9),
    )
    def begin(self, limit: int, queue: int, lifo: bool, now: float) -> None:
        self.slots = slots_of(limit, queue, {"a": 0.6, "b": 0.4})
        self.slots.lifo = lifo
        self.now = now
        self.running: list[Ticket] = []
        self.waiting: list[Ticket] = []

    def admitted(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            assert ticket.granted
            self.waiting.remove(ticket)
            self.running.append(ticket)

    @rule(partition=st.sampled_from("abc"), priority=st.sampled_from(list(Priority)))
    def arrive(self, partition: str, priority: Priority) -> None:
        ticket = Ticket(self.slots.group(partition, priority))
        if self.slots.take_for(ticket, self.now):
            assert len(self.running) < self.slots.limit
            self.running.append(ticket)
            return
        put_out = self.slots.join(ticket)
        if put_out is not ticket:
            self.waiting.append(ticket)
            if put_out is not None:
                assert put_out.priority < ticket.priority
                self.waiting.remove(put_out)

    @rule(place=st.integers(0, 9))
    def end(self, place: int) -> None:
        if self.running:
            ticket = self.running.pop(place % len(self.running))
            self.admitted(self.slots.leave(ticket))

    @rule(place=st.integers(0, 9))
    def give_up(self, place: int) -> None:
        if self.waiting:
            ticket = self.waiting.pop(place % len(self.waiting))
            self.admitted(self.slots.leave(ticket))

    @rule(limit=st.integers(1, 6))
    def resize(self, limit: int) -> None:
        self.admitted(self.slots.resize(limit))

    @rule(seconds=st.sampled_from([0.5, 1.0, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "slots"):
            assert len(self.running) == self.slots.in_use
            assert len(self.waiting) == self.slots.queued
            for name in "abc":
                for priority in Priority:
                    group = self.slots.group(name, priority)
                    running = [
                        ticket for ticket in self.running if ticket.group is group
                    ]
                    waiting = [
                        ticket for ticket in self.waiting if ticket.group is group
                    ]
                    assert (len(running), len(waiting)) == (group.in_use, group.waiting)
            # No ticket waits while no call runs.
            assert self.running or not self.waiting


TestManyGroups = ManyGroups.TestCase


# -- Its bounds, one by one


def test_demand_is_the_most_of_a_period_and_of_the_one_before() -> None:
    """A slot taken or missed after others were given back lowers nothing."""
    for misses in (False, True):
        group = PartitionedSlots[Ticket](9, 0).group(None, NORMAL)
        group.in_use = 5
        group.entered()
        group.in_use = 1
        if misses:
            group.missed()
        else:
            group.entered()
        assert 5 == group.demand
        group.turn(lapsed=False)
        assert 5 == group.demand
        group.turn(lapsed=False)
        assert 1 == group.demand


def test_the_highest_shed_rank_is_that_of_this_period_or_the_last() -> None:
    """A call below it goes first, though none above it has come yet."""
    group = PartitionedSlots[Ticket](9, 0).group(None, NORMAL)
    group.is_shed(0.9)
    group.refused()
    group.turn(lapsed=False)
    assert 0.5 == group.shed_below
    assert group.is_shed(0.4)
    group.refused()
    group.turn(lapsed=False)
    # Now it is the highest of the two.
    assert not group.is_shed(0.4)


def test_a_call_that_waited_and_was_served_counts_as_served() -> None:
    """Not as refused: nothing of its class is to be shed for it."""
    slots = ByGroup(1, 5)
    group = slots.group(None, NORMAL)
    holder, waiter = Ticket(group), Ticket(group)
    assert slots.take_for(holder, 0.0)
    assert not slots.take_for(waiter, 0.0)
    assert slots.join(waiter) is None
    assert [waiter] == slots.leave(holder)
    group.turn(lapsed=False)
    assert 0.0 == group.shed_below
    # One that there is no place for is.
    slots.max_queue = 0
    late = Ticket(group)
    assert not slots.take_for(late, 0.5)
    assert late is slots.join(late)
    group.turn(lapsed=False)
    assert 0.5 == group.shed_below
