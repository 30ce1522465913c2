"""Slots: so many at once, and so many waiting in line.

Ground rules:

* A ticket is any object with a ``granted`` attribute; it waits in line until
  it is granted a slot or leaves. The machine never looks inside.
* A slot that comes free goes straight to the next in line: `in_use` does not
  fall in between, so nobody can overtake.
* Every method that frees slots returns the tickets it granted, in order, for
  the caller to wake once it has left its lock.
* Whoever leaves the line may have been granted a slot in the same instant:
  `leave` then passes the slot on.

============ ============================== ================================
call         in_use < limit, nobody waits   otherwise
============ ============================== ================================
take         in_use + 1, True               False
join         (not called)                   in line, or False: line is full
release      in_use - 1                     slot passes to the next in line
leave        out of line                    granted: as release
resize       grants as many as now fit      nobody is interrupted
============ ============================== ================================

Deliberately not modelled: time. How long somebody waits is the policy's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Ticket(Protocol):
    """Somebody in line."""

    granted: bool


T = TypeVar("T", bound=Ticket)


class Slots(Generic[T]):
    """At most `limit` at once; at most `max_queue` waiting.

    Args:
        limit: Slots.
        max_queue: Places in line.
        lifo: Serve the newest first: under overload the oldest has waited so
            long that its caller has gone.
    """

    __slots__ = ("_lifo", "_line", "in_use", "limit", "max_queue")

    def __init__(self, limit: int, max_queue: int, *, lifo: bool = False) -> None:
        self.limit = limit
        self.max_queue = max_queue
        self.in_use = 0
        self._lifo = lifo
        self._line: OrderedDict[T, None] = OrderedDict()

    @property
    def queued(self) -> int:
        """Tickets in line."""
        return len(self._line)

    def waiting(self) -> Iterable[T]:
        """Return who is in line, oldest first; not to be kept."""
        return self._line

    def take(self) -> bool:
        """Take a slot if one is free and nobody waits for it."""
        if self.in_use < self.limit and not self._line:
            self.in_use += 1
            return True
        return False

    def join(self, ticket: T) -> bool:
        """Stand in line, unless it is full."""
        if len(self._line) >= self.max_queue:
            return False
        self._line[ticket] = None
        return True

    def leave(self, ticket: T) -> list[T]:
        """Leave the line, or give back a slot granted in the same instant."""
        if ticket.granted:
            ticket.granted = False
            return self.release()
        self._line.pop(ticket, None)
        return []

    def release(self) -> list[T]:
        """Give a slot back."""
        self.in_use -= 1
        return self._grant() if self._line else []

    def resize(self, limit: int) -> list[T]:
        """Set another limit."""
        self.limit = limit
        return self._grant()

    def _grant(self) -> list[T]:
        granted: list[T] = []
        while self._line and self.in_use < self.limit:
            ticket, _ = self._line.popitem(last=self._lifo)
            ticket.granted = True
            self.in_use += 1
            granted.append(ticket)
        return granted
