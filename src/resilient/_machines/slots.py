"""Slots: so many at once, and so many waiting in the queue.

Ground rules:

* A ticket is a call. It has a slot (`granted`), is queued, or neither. Of
  what it is the machine knows its ``priority``, and the `Group` that its slot
  or its place in the queue is counted for, if there is one.
* A slot that comes free goes straight to the next ticket: `in_use` does not
  fall in between, so that no call can overtake.
* Next is the highest class, and within a class the oldest ("lifo": the
  newest). Where the queue is full, the ticket that would be served last of a
  class below the newcomer's is put out for it: as many wait as may, whatever
  their class, and the least important of them go first.
* Every method that frees slots returns the tickets it granted, in order, for
  the caller to wake once it has left its lock.
* `leave` gives back whatever a ticket has, and does nothing for one that has
  nothing: it may be called again after it was interrupted.
* An interrupt (Ctrl-C) may end a method at any call that it makes. So each
  change is a run of plain statements, without a call between them, after which
  everything is in order again; what then remains to be done, granting, the
  next `leave` or `grant` does.

============ ============================== ================================
call         in_use < limit, empty queue    otherwise
============ ============================== ================================
take         in_use + 1, True               False
join         (not called)                   queued, perhaps for another; or
                                            back: the queue is full
leave        in_use - 1, or not queued      slot passes to the next in the queue
resize       grants as many as now fit      no call is interrupted
============ ============================== ================================

To take a slot and to give one back is so little with no queue that an owner
in a hurry does it in place: the first lines of `take` and of `leave`.

Deliberately not modelled: time. How long a call waits is the policy's. A
class that never gets a turn waits until its policy says that it was enough.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from resilient._values.priority import Priority


class Group(Protocol):
    """Calls that are counted together.

    Attributes:
        in_use: Slots they have.
        waiting: Their tickets in the queue.
    """

    in_use: int
    waiting: int


class Ticket(Protocol):
    """A call that wants a slot, waits for one, or has one."""

    granted: bool

    @property
    def priority(self) -> Priority: ...

    @property
    def group(self) -> Group | None: ...


T = TypeVar("T", bound=Ticket)


class Slots(Generic[T]):
    """At most `limit` at once; at most `max_queue` waiting.

    Args:
        limit: Slots.
        max_queue: Places in the queue.
        lifo: Serve the newest first: under overload the oldest has waited so
            long that its caller has gone. May be changed at any time.

    Attributes:
        in_use: Slots that are taken.
        queued: Tickets in the queue.
        queues: Who waits, by class: none of them is empty.
        called: Tickets that were granted a slot while queued and did not `come` for
            it yet; None: no ticket ever was.
    """

    __slots__ = ("called", "in_use", "lifo", "limit", "max_queue", "queued", "queues")

    def __init__(self, limit: int, max_queue: int, *, lifo: bool = False) -> None:
        self.limit = limit
        self.max_queue = max_queue
        self.in_use: int = 0
        # NB: counted, not summed up: it is read without the lock.
        self.queued: int = 0
        self.lifo = lifo
        self.queues: dict[Priority, OrderedDict[T, None]] = {}
        self.called: dict[T, None] | None = None

    def waiting(self) -> list[T]:
        """Return the tickets in the queue: highest class first, then oldest first."""
        return [
            ticket
            for priority in sorted(self.queues, reverse=True)
            for ticket in self.queues[priority]
        ]

    def take(self, ticket: T) -> bool:
        """Take a slot if one is free and no ticket waits for it."""
        if self.in_use < self.limit and not self.queues:
            self._give(ticket)
            return True
        return False

    def join(self, ticket: T) -> T | None:
        """Join the queue.

        Returns:
            The ticket that there is no place for: None, this one, or one of a
            lower class that was put out of the queue for it.
        """
        put_out: T | None = None
        if self.queued >= self.max_queue:
            lowest = min(self.queues, default=ticket.priority)
            if lowest >= ticket.priority:
                return ticket
            queue = self.queues[lowest]
            put_out = next(iter(queue) if self.lifo else reversed(queue))
            self._remove(put_out)
        self.enqueue(ticket)
        return put_out

    def enqueue(self, ticket: T, *, first: bool = False) -> None:
        """Put a ticket into the queue of its class, at its end or `first`."""
        # NB: read before anything changes: an interrupt comes where they are.
        priority, group = ticket.priority, ticket.group
        queue = self.queues.get(priority)
        if queue is None:
            queue = OrderedDict[T, None]()
        queue[ticket] = None
        self.queues[priority] = queue
        self.queued += 1
        if group is not None:
            group.waiting += 1
        if first:
            queue.move_to_end(ticket, last=False)

    def leave(self, ticket: T) -> list[T]:
        """Give a slot back, or leave the queue."""
        group = ticket.group
        self.come(ticket)
        if ticket.granted:
            ticket.granted = False
            self.in_use -= 1
            if group is not None:
                group.in_use -= 1
        elif self.is_queued(ticket):
            self._remove(ticket)
        return self.grant() if self.queues else []

    def resize(self, limit: int) -> list[T]:
        """Set another limit."""
        self.limit = limit
        return self.grant()

    def grant(self) -> list[T]:
        """Give the slots that are free to those next in the queue."""
        granted: list[T] = []
        while (ticket := self._next()) is not None:
            self._remove(ticket)
            if self.called is None:
                self.called = {}
            self.called[ticket] = None
            self._give(ticket)
            granted += (ticket,)
        return granted

    def come(self, ticket: T) -> None:
        """Take note that a ticket knows that it was granted a slot."""
        if self.called is not None and ticket in self.called:
            del self.called[ticket]

    def is_queued(self, ticket: T) -> bool:
        """Whether a ticket waits."""
        return ticket in self.queues.get(ticket.priority, ())

    def _next(self) -> T | None:
        """Return the ticket that a slot is free for."""
        if not self.queues or self.in_use >= self.limit:
            return None
        queue = self.queues[max(self.queues)]
        return next(reversed(queue) if self.lifo else iter(queue))

    def _give(self, ticket: T) -> None:
        """Give a slot to a ticket that has none and is not in the queue."""
        group = ticket.group
        ticket.granted = True
        self.in_use += 1
        if group is not None:
            group.in_use += 1

    def _remove(self, ticket: T) -> None:
        """Take a ticket out of the queue."""
        # NB: as in `enqueue`, or an empty queue might stay.
        priority, group = ticket.priority, ticket.group
        queue = self.queues[priority]
        del queue[ticket]
        if not queue:
            del self.queues[priority]
        self.queued -= 1
        if group is not None:
            group.waiting -= 1
