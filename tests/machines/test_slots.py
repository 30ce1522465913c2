"""Slots: so many at once, and so many waiting in line."""

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


class Ticket:
    """Somebody in line, with a name to tell them apart."""

    def __init__(self, name: object = None) -> None:
        self.name = name
        self.granted = False

    def __repr__(self) -> str:
        return f"Ticket({self.name!r})"


def full(limit: int, max_queue: int, *, lifo: bool = False) -> Slots[Ticket]:
    """Return slots that are all taken."""
    slots: Slots[Ticket] = Slots(limit, max_queue, lifo=lifo)
    assert [True] * limit == [slots.take() for _ in range(limit)]
    return slots


def line(slots: Slots[Ticket], names: str) -> list[Ticket]:
    """Put a ticket in line for each letter."""
    tickets = [Ticket(name) for name in names]
    assert all(slots.join(ticket) for ticket in tickets)
    return tickets


def test_no_more_than_the_limit_are_taken() -> None:
    """The third of two is refused, and takes nothing."""
    slots = full(2, 0)
    assert not slots.take()
    assert 2 == slots.in_use
    assert [] == slots.release()
    assert slots.take()


def test_the_line_is_bounded() -> None:
    """Who finds no place in line is told so, and is not in it."""
    slots = full(1, 2)
    line(slots, "ab")
    assert not slots.join(Ticket())
    assert 2 == slots.queued


@pytest.mark.parametrize(("lifo", "order"), [(False, "abc"), (True, "cba")])
def test_a_free_slot_goes_straight_to_the_next_in_line(lifo: bool, order: str) -> None:
    """Oldest first, or newest first; in between nobody can overtake."""
    slots = full(1, 3, lifo=lifo)
    line(slots, "abc")
    for name in order:
        [granted] = slots.release()
        assert name == granted.name
        assert granted.granted
        assert 1 == slots.in_use
        assert not slots.take()
    assert [] == slots.release()
    assert 0 == slots.in_use


def test_whoever_leaves_the_line_makes_room_in_it_at_once() -> None:
    """Not only when the turn comes of whom nobody waits for any more."""
    slots = full(1, 1)
    [ticket] = line(slots, "a")
    assert [] == slots.leave(ticket)
    assert 0 == slots.queued
    line(slots, "b")


def test_a_slot_granted_to_somebody_who_leaves_goes_to_the_next() -> None:
    """Granted and cancelled in the same instant: nothing leaks."""
    slots = full(1, 2)
    first, second = line(slots, "ab")
    assert [first] == slots.release()
    assert [second] == slots.leave(first)
    assert not first.granted
    assert second.granted
    assert 1 == slots.in_use


def test_leaving_twice_gives_back_once() -> None:
    """A dead event loop and the collector may both report the same one."""
    slots = full(1, 2)
    [ticket] = line(slots, "a")
    slots.release()
    assert [] == slots.leave(ticket)
    assert [] == slots.leave(ticket)
    assert 0 == slots.in_use


def test_growing_grants_as_many_as_fit_now() -> None:
    """In the order of the line."""
    slots = full(1, 3)
    a, b, c = line(slots, "abc")
    assert [a, b] == slots.resize(3)
    assert 3 == slots.in_use
    assert 1 == slots.queued
    assert [c] == slots.resize(4)


def test_shrinking_interrupts_nobody() -> None:
    """Slots are not given out again until few enough are in use."""
    slots = full(5, 1)
    [ticket] = line(slots, "a")
    assert [] == slots.resize(2)
    assert 5 == slots.in_use
    assert [[], [], [], [ticket]] == [slots.release() for _ in range(4)]
    assert 2 == slots.in_use


class NaiveSlots(RuleBasedStateMachine):
    """Slots against two lists: who is inside, and who waits."""

    tickets = Bundle("tickets")

    @initialize(limit=st.integers(1, 4), queue=st.integers(0, 4), lifo=st.booleans())
    def begin(self, limit: int, queue: int, lifo: bool) -> None:
        self.slots: Slots[Ticket] = Slots(limit, queue, lifo=lifo)
        self.limit = limit
        self.queue = queue
        self.lifo = lifo
        self.inside: list[Ticket] = []
        self.waiting: list[Ticket] = []

    def settle(self) -> list[Ticket]:
        """Let in, in the model, whoever can go in; return them."""
        entered: list[Ticket] = []
        while self.waiting and len(self.inside) < self.limit:
            entered.append(self.waiting.pop(-1 if self.lifo else 0))
            self.inside.append(entered[-1])
        return entered

    @rule(target=tickets)
    def arrive(self) -> Ticket:
        ticket = Ticket()
        if self.slots.take():
            assert not self.waiting
            self.inside.append(ticket)
            assert len(self.inside) <= self.limit
        else:
            assert self.waiting or len(self.inside) >= self.limit
            has_place = len(self.waiting) < self.queue
            assert has_place == self.slots.join(ticket)
            if has_place:
                self.waiting.append(ticket)
        return ticket

    @rule(ticket=consumes(tickets))
    def end(self, ticket: Ticket) -> None:
        """Whoever waits is cancelled; whoever is inside is done."""
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            assert [] == self.slots.leave(ticket)
        elif ticket in self.inside:
            self.inside.remove(ticket)
            granted = self.slots.release()
            assert self.settle() == granted
        else:
            assert [] == self.slots.leave(ticket)

    @rule(ticket=consumes(tickets))
    def leave_as_it_is_granted(self, ticket: Ticket) -> None:
        if ticket in self.inside and ticket.granted:
            self.inside.remove(ticket)
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
            assert len(self.inside) == self.slots.in_use
            assert len(self.waiting) == self.slots.queued
            assert self.limit == self.slots.limit
            # Nobody waits while there is room.
            assert not self.waiting or len(self.inside) >= self.limit


TestNaiveSlots = NaiveSlots.TestCase
