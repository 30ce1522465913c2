"""Slots: so many at once, and so many waiting in line.

Ground rules:

* A ticket waits in line until it is granted a slot, is put out or leaves. Of
  what it is the machine knows its ``priority`` alone.
* A slot that comes free goes straight to the next in line: `in_use` does not
  fall in between, so no caller can overtake.
* Next is the highest class, and within a class the oldest ("lifo": the
  newest). Where the queue is full, the one served last of a class
  below the newcomer's is put out for it: as many wait as may, whatever their
  class, and the least important of them go first.
* Every method that frees slots returns the tickets it granted, in order, for
  the caller to wake once it has left its lock.
* A caller that leaves may have been granted a slot in the same instant:
  `leave` then passes the slot on.

============ ============================== ================================
call         in_use < limit, empty queue    otherwise
============ ============================== ================================
take         in_use + 1, True               False
join         (not called)                   in line, perhaps for another; or
                                            back: line is full
release      in_use - 1                     slot passes to the next in line
leave        out of line                    granted: as release
resize       grants as many as now fit      no call is interrupted
============ ============================== ================================

To take a slot and to release one is so little with no queue that an owner
in a hurry does it in place: both are the first lines of their methods.

Deliberately not modelled: time. How long a call waits is the policy's. A
class that never gets a turn waits until its policy says that it was enough.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from resilient._values.priority import Priority


class Ticket(Protocol):
    """A call in the queue."""

    granted: bool

    @property
    def priority(self) -> Priority: ...


T = TypeVar("T", bound=Ticket)


class Slots(Generic[T]):
    """At most `limit` at once; at most `max_queue` waiting.

    Args:
        limit: Slots.
        max_queue: Places in line.
        lifo: Serve the newest first: under overload the oldest has waited so
            long that its caller has gone. May be changed at any time.

    Attributes:
        in_use: Slots that are taken.
        lines: The queues by class: one for each class that has a waiting
            call, and no empty one.
    """

    __slots__ = ("in_use", "lifo", "limit", "lines", "max_queue")

    def __init__(self, limit: int, max_queue: int, *, lifo: bool = False) -> None:
        self.limit = limit
        self.max_queue = max_queue
        self.in_use: int = 0
        self.lifo = lifo
        self.lines: dict[Priority, OrderedDict[T, None]] = {}

    @property
    def queued(self) -> int:
        """Tickets in line."""
        return sum(map(len, self.lines.values()))

    def waiting(self) -> list[T]:
        """Return who is in line: highest class first, then oldest first."""
        return [
            ticket
            for priority in sorted(self.lines, reverse=True)
            for ticket in self.lines[priority]
        ]

    def take(self) -> bool:
        """Take a slot if one is free and no call waits for it."""
        if self.in_use < self.limit and not self.lines:
            self.in_use += 1
            return True
        return False

    def join(self, ticket: T) -> T | None:
        """Stand in line.

        Returns:
            The ticket without a place, if any: this one, or one of a lower
            class that was put out of the queue for it.
        """
        put_out: T | None = None
        if self.queued >= self.max_queue:
            lowest = min(self.lines, default=ticket.priority)
            if lowest >= ticket.priority:
                return ticket
            put_out = self._pop(lowest, last=not self.lifo)
        self.lines.setdefault(ticket.priority, OrderedDict())[ticket] = None
        return put_out

    def leave(self, ticket: T) -> list[T]:
        """Leave the line, or give back a slot granted in the same instant."""
        if ticket.granted:
            ticket.granted = False
            return self.release()
        if self._in_line(ticket):
            line = self.lines[ticket.priority]
            del line[ticket]
            if not line:
                del self.lines[ticket.priority]
        return []

    def release(self) -> list[T]:
        """Give a slot back."""
        self.in_use -= 1
        return self._grant() if self.lines else []

    def resize(self, limit: int) -> list[T]:
        """Set another limit."""
        self.limit = limit
        return self._grant()

    def _grant(self) -> list[T]:
        granted: list[T] = []
        while self.lines and self.in_use < self.limit:
            ticket = self._pop(max(self.lines), last=self.lifo)
            ticket.granted = True
            self.in_use += 1
            granted.append(ticket)
        return granted

    def _in_line(self, ticket: T) -> bool:
        return ticket in self.lines.get(ticket.priority, ())

    def _pop(self, priority: Priority, *, last: bool) -> T:
        line = self.lines[priority]
        ticket, _ = line.popitem(last=last)
        if not line:
            del self.lines[priority]
        return ticket
