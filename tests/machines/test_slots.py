"""Slots: so many calls at once, and so many in the queue."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from resilient._machines.slots import Slots
from resilient._values.priority import Priority

NORMAL = Priority.NORMAL
LETTERS = {"c": Priority.CRITICAL, "n": NORMAL, "b": Priority.BATCH}


class Ticket:
    """A waiting call, with a name to tell it apart."""

    group = None

    def __init__(self, name: object = None, priority: Priority = NORMAL) -> None:
        self.name = name
        self.priority = priority
        self.granted = False

    def __repr__(self) -> str:
        return f"Ticket({self.name!r})"


class Remembered(Slots[Ticket]):
    """Slots that are taken and given back by any ticket."""

    def __init__(self, limit: int, max_queue: int, *, lifo: bool = False) -> None:
        super().__init__(limit, max_queue, lifo=lifo)
        self.holders: list[Ticket] = []

    def take_one(self) -> bool:
        ticket = Ticket()
        if self.take(ticket):
            self.holders.append(ticket)
        return ticket.granted

    def give_back(self) -> list[Ticket]:
        granted = self.leave(self.holders.pop(0))
        self.holders += granted
        return granted


def full(limit: int, max_queue: int, *, lifo: bool = False) -> Remembered:
    """Return slots that are all taken."""
    slots = Remembered(limit, max_queue, lifo=lifo)
    assert [True] * limit == [slots.take_one() for _ in range(limit)]
    return slots


def enqueue(slots: Remembered, names: str) -> list[Ticket]:
    """Let a ticket join the queue for each letter."""
    tickets = [Ticket(name) for name in names]
    assert [None] * len(tickets) == [slots.join(ticket) for ticket in tickets]
    return tickets


def arrive(slots: Remembered, names: str) -> list[object]:
    """Let a ticket of a class join for each name; return who has no place."""
    tickets = [Ticket(name, LETTERS[name[0]]) for name in names.split()]
    put_out = [slots.join(ticket) for ticket in tickets]
    return [ticket and ticket.name for ticket in put_out]


def test_no_more_than_the_limit_are_taken() -> None:
    """The third of two is refused, and takes nothing."""
    slots = full(2, 0)
    assert not slots.take_one()
    assert 2 == slots.in_use
    assert [] == slots.give_back()
    assert slots.take_one()


def test_the_queue_is_bounded() -> None:
    """`join` returns a ticket for which the full queue has no place."""
    slots = full(1, 2)
    enqueue(slots, "ab")
    late = Ticket()
    assert late is slots.join(late)
    assert 2 == slots.queued
    closed, late = full(1, 0), Ticket("c", Priority.CRITICAL)
    assert late is closed.join(late)


@pytest.mark.parametrize(("lifo", "order"), [(False, "abc"), (True, "cba")])
def test_a_free_slot_goes_straight_to_the_next_in_the_queue(
    lifo: bool, order: str
) -> None:
    """The oldest or the newest is next; no newcomer can take the slot in between."""
    slots = full(1, 3, lifo=lifo)
    enqueue(slots, "abc")
    for name in order:
        [granted] = slots.give_back()
        assert name == granted.name
        assert granted.granted
        assert 1 == slots.in_use
        assert not slots.take_one()
    assert [] == slots.give_back()
    assert 0 == slots.in_use


def test_a_ticket_that_leaves_the_queue_frees_its_place_at_once() -> None:
    """Its place is not kept until its turn would have come."""
    slots = full(1, 1)
    [ticket] = enqueue(slots, "a")
    assert [] == slots.leave(ticket)
    assert 0 == slots.queued
    enqueue(slots, "b")


def test_a_slot_granted_to_a_ticket_that_leaves_goes_to_the_next() -> None:
    """Granted and cancelled in the same instant: nothing leaks."""
    slots = full(1, 2)
    first, second = enqueue(slots, "ab")
    assert [first] == slots.give_back()
    assert [second] == slots.leave(first)
    assert not first.granted
    assert second.granted
    assert 1 == slots.in_use


def test_leaving_twice_gives_back_once() -> None:
    """A dead event loop and the collector may both report the same ticket."""
    slots = full(1, 2)
    [ticket] = enqueue(slots, "a")
    slots.give_back()
    assert [] == slots.leave(ticket)
    assert [] == slots.leave(ticket)
    assert 0 == slots.in_use


def test_growing_grants_as_many_as_fit_now() -> None:
    """In the order of the queue."""
    slots = full(1, 3)
    a, b, c = enqueue(slots, "abc")
    assert [a, b] == slots.resize(3)
    assert 3 == slots.in_use
    assert 1 == slots.queued
    assert [c] == slots.resize(4)


def test_shrinking_interrupts_no_call() -> None:
    """Slots are not given out again until few enough are in use."""
    slots = full(5, 1)
    [ticket] = enqueue(slots, "a")
    assert [] == slots.resize(2)
    assert 5 == slots.in_use
    assert [[], [], [], [ticket]] == [slots.give_back() for _ in range(4)]
    assert 2 == slots.in_use


@pytest.mark.parametrize(
    ("lifo", "order"),
    [(False, "c1 c2 n1 n2 b1 b2"), (True, "c2 c1 n2 n1 b2 b1")],
)
def test_the_highest_class_goes_first(lifo: bool, order: str) -> None:
    """Within a class the order is that of the queue."""
    slots = full(1, 6, lifo=lifo)
    assert [None] * 6 == arrive(slots, "b1 n1 c1 b2 c2 n2")
    assert ["c1", "c2", "n1", "n2", "b1", "b2"] == [
        ticket.name for ticket in slots.waiting()
    ]
    assert order.split() == [slots.give_back()[0].name for _ in range(6)]


@pytest.mark.parametrize(("lifo", "last"), [(False, "b2"), (True, "b1")])
def test_a_full_queue_puts_out_the_ticket_that_would_be_served_last(
    lifo: bool, last: str
) -> None:
    """Of the lowest class, if that is below the newcomer's."""
    slots = full(1, 3, lifo=lifo)
    assert [None, None, None, last] == arrive(slots, "b1 b2 n1 c1")
    assert 3 == slots.queued
    other = "b1" if last == "b2" else "b2"
    assert ["b3", other, "n3"] == arrive(slots, "b3 n2 n3")
    assert 3 == slots.queued


def test_a_class_that_is_alone_has_the_whole_line() -> None:
    """Priority orders and reserves nothing."""
    slots = full(2, 3)
    assert [None, None, None, "b4"] == arrive(slots, "b1 b2 b3 b4")


def test_who_was_put_out_leaves_without_effect() -> None:
    """Whether others of its class still wait or not."""
    slots = full(1, 2)
    first, second = (Ticket(name, Priority.BATCH) for name in "ab")
    assert [None, None] == [slots.join(first), slots.join(second)]
    assert second is slots.join(Ticket("c"))
    assert [] == slots.leave(second)
    assert first is slots.join(Ticket("d"))
    assert [] == slots.leave(first)
    assert 2 == slots.queued


class NaiveSlots(RuleBasedStateMachine):
    """Slots against two lists: who is inside, and who waits."""

    tickets = Bundle("tickets")

    @initialize(limit=st.integers(1, 4), queue=st.integers(0, 4), lifo=st.booleans())
    def begin(self, limit: int, queue: int, lifo: bool) -> None:
        self.slots: Slots[Ticket] = Slots(limit, queue, lifo=lifo)
        self.limit = limit
        self.queue = queue
        self.lifo = lifo
        self.running: list[Ticket] = []
        self.waiting: list[Ticket] = []

    def served(self) -> list[Ticket]:
        """The waiting tickets, in the order in which they will be granted slots."""
        queue = self.waiting[::-1] if self.lifo else self.waiting
        return sorted(queue, key=lambda ticket: -ticket.priority)

    def settle(self) -> list[Ticket]:
        """Grant slots in the model while there are free ones; return the tickets."""
        entered: list[Ticket] = []
        while self.waiting and len(self.running) < self.limit:
            entered.append(self.served()[0])
            self.waiting.remove(entered[-1])
            self.running.append(entered[-1])
        return entered

    @rule(target=tickets, priority=st.sampled_from(Priority))
    def arrive(self, priority: Priority) -> Ticket:
        ticket = Ticket(priority=priority)
        if self.slots.take(ticket):
            assert not self.waiting
            self.running.append(ticket)
            assert len(self.running) <= self.limit
        else:
            assert self.waiting or len(self.running) >= self.limit
            expected = None
            if len(self.waiting) >= self.queue:
                lower = [one for one in self.served() if one.priority < priority]
                expected = lower[-1] if lower else ticket
            assert expected is self.slots.join(ticket)
            self.waiting.append(ticket)
            if expected is not None:
                self.waiting.remove(expected)
        return ticket

    @rule(ticket=consumes(tickets))
    def end(self, ticket: Ticket) -> None:
        """Cancel the ticket if it waits, release its slot if it has one."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            assert [] == self.slots.leave(ticket)
        elif ticket in self.running:
            self.running.remove(ticket)
            granted = self.slots.leave(ticket)
            assert self.settle() == granted
        else:
            assert [] == self.slots.leave(ticket)

    @rule(ticket=consumes(tickets))
    def leave_as_it_is_granted(self, ticket: Ticket) -> None:
        if ticket in self.running and ticket.granted:
            self.running.remove(ticket)
            granted = self.slots.leave(ticket)
            assert self.settle() == granted

    @rule(limit=st.integers(1, 6))
    def resize(self, limit: int) -> None:
        self.limit = limit
        granted = self.slots.resize(limit)
        assert self.settle() == granted

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "slots"):
            assert len(self.running) == self.slots.in_use
            assert len(self.waiting) == self.slots.queued
            assert self.limit == self.slots.limit
            in_order = sorted(self.waiting, key=lambda ticket: -ticket.priority)
            assert in_order == self.slots.waiting()
            # No ticket waits while a slot is free.
            assert not self.waiting or len(self.running) >= self.limit


TestNaiveSlots = NaiveSlots.TestCase
