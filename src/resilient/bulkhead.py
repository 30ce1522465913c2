"""Bulkhead: so many calls at once, so that one dependency cannot take all."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Literal

from resilient import _clock
from resilient._admission import Admission, AdmissionPolicy, Returnable, Wait
from resilient._arguments import count, number
from resilient._arguments import seconds as seconds_argument
from resilient._call import Call, Outcome
from resilient._errors import BulkheadFullError
from resilient._machines.slots import Slots

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Self


class _Ticket(Wait):
    """A call in line."""

    __slots__ = ("began", "by_deadline", "call", "granted")

    def __init__(
        self, call: Call, began: float, until: float | None, *, by_deadline: bool
    ) -> None:
        super().__init__(call.runtime.waiter(call), until)
        self.by_deadline: bool = by_deadline
        self.call: Call = call
        self.began: float = began
        self.granted: bool = False


class Bulkhead(AdmissionPolicy, Returnable):
    """Let at most so many calls run at once, and few or none wait.

    A call that finds no slot waits in line if there is room, else it is
    rejected at once. A queue hides overload from everybody who could react to
    it: the default is none, and a good one is at most half the slots.

    The slot of a generator is held until it ends or is closed.

    Calls inside calls could wait for each other for ever: each holds a slot
    and wants another. The one that would close such a circle is rejected,
    unless its wait has an end anyway, by `max_wait` or a deadline. What a
    call has started in other tasks counts as inside it.

    Args:
        max_concurrency: Calls that may run at once.
        max_queue: Calls that may wait in line.
        max_wait: Seconds that each may wait; None: until its deadline.
        order: "fifo", or "lifo": newest first, for queues whose oldest callers
            have given up anyway.
        name: Name in errors and events.

    Raises:
        BulkheadFullError: No slot, and no place in line or no time left.

    Source: M. Nygard, *Release It!*, "Bulkheads"; Little's law.
    """

    __slots__ = (
        "_holders",
        "_lock",
        "_returned",
        "_slots",
        "max_queue",
        "max_wait",
        "order",
    )

    counters: tuple[tuple[str, ...], ...] = (
        ("resilient.rejections", "BulkheadFullError", "enforced"),
        ("resilient.permit.waits",),
    )

    def __init__(
        self,
        max_concurrency: int,
        *,
        max_queue: int = 0,
        max_wait: float | timedelta | None = None,
        order: Literal["fifo", "lifo"] = "fifo",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        limit = count("max_concurrency", max_concurrency, minimum=1)
        self.max_queue: int = count("max_queue", max_queue, minimum=0)
        self.max_wait: float | None = (
            None if max_wait is None else seconds_argument("max_wait", max_wait)
        )
        if order not in ("fifo", "lifo"):
            raise ValueError(f'`order` must be "fifo" or "lifo", got {order!r}')
        self.order = order
        self._lock = threading.Lock()
        self._returned: list[Call | _Ticket] = []
        self._slots: Slots[_Ticket] = Slots(limit, self.max_queue, lifo=order == "lifo")
        # Who holds a slot, where a wait may be endless; None where it cannot.
        endless = self.max_queue > 0 and self.max_wait is None
        self._holders: list[Call] | None = [] if endless else None

    @classmethod
    def for_load(
        cls, rate: float, latency: float | timedelta, *, name: str | None = None
    ) -> Self:
        """Size a bulkhead for a known load.

        By Little's law L = rate × latency calls run on average; L + 3√L slots
        are enough for all but about one in a thousand moments of a Poisson
        arrival process.

        Args:
            rate: Calls per second.
            latency: Mean seconds a call takes.
            name: Name in errors and events.
        """
        load = number("rate", rate, minimum=0, exclusive=True) * seconds_argument(
            "latency", latency, zero=False
        )
        return cls(max(1, math.ceil(load + 3 * math.sqrt(load))), name=name)

    @property
    def max_concurrency(self) -> int:
        """Slots there are."""
        return self._slots.limit

    @property
    def in_use(self) -> int:
        """Calls that run now, those granted a slot but not yet awake included."""
        return self._slots.in_use

    @property
    def queued(self) -> int:
        """Calls that wait now."""
        return self._slots.queued

    def status(self) -> dict[str, Any]:
        slots = self._slots
        return {
            "bulkhead.in_use": slots.in_use,
            "bulkhead.queued": slots.queued,
            "bulkhead.limit": slots.limit,
            "saturation": slots.in_use / slots.limit,
        }

    def resize(self, max_concurrency: int) -> None:
        """Change the number of slots, live.

        Growing wakes waiters at once. Shrinking interrupts nobody: slots are
        not given out again until few enough are in use.
        """
        limit = count("max_concurrency", max_concurrency, minimum=1)
        with self._locked() as granted:
            granted += self._slots.resize(limit) or self._break_circle_locked()

    def fresh(self) -> bool:
        return self._slots.in_use == 0

    def admit(self, call: Call) -> Admission:
        lock = self._lock
        lock.acquire()  # NB: by hand, see `_admission`
        try:
            if self._slots.take():
                return self._permit_locked(call)
            stale = bool(self._returned)
        finally:
            lock.release()
            if self._returned:
                self._drain()
        if stale:
            # A slot had been given back, but not been taken back yet.
            with self._locked():
                if self._slots.take():
                    return self._permit_locked(call)
        if self.max_queue == 0 or self.max_wait == 0:
            return self._full(call, 0.0)
        now = _clock.now()
        until = None if self.max_wait is None else now + self.max_wait
        by_deadline = call.deadline is not None and (
            until is None or call.deadline <= until
        )
        if by_deadline:
            until = call.deadline
        if until is not None and until <= now:
            return self._full(call, 0.0, by_deadline=by_deadline)
        ticket = _Ticket(call, now, until, by_deadline=by_deadline)
        with self._locked():
            if self._slots.take():
                return self._permit_locked(call)
            if not self._closes_circle_locked(ticket) and self._slots.join(ticket):
                return ticket
        return self._full(call, 0.0)

    def readmit(self, wait: _Ticket, call: Call) -> Admission:
        now = _clock.now()
        overdue = call.deadline is not None and now >= call.deadline
        with self._locked() as granted:
            if wait.granted:
                if not overdue:
                    return self._permit_locked(call)
            elif wait.until is None or now < wait.until:
                return wait
            # Who was granted a slot in time has woken up too late for it.
            by_deadline = wait.granted or wait.by_deadline
            granted += self._slots.leave(wait)
        return self._full(call, now - wait.began, by_deadline=by_deadline)

    def withdraw(self, wait: _Ticket) -> None:
        self._give_back(wait)

    def settle(self, permit: Call, outcome: Outcome | None) -> None:
        lock = self._lock
        if not lock.acquire(False):  # NB: by hand, see `_admission`
            self._give_back(permit)
            return
        try:
            granted = self._slots.release()
            if self._holders is not None:
                self._holders.remove(permit)
                granted = granted or self._break_circle_locked()
        finally:
            lock.release()
        if granted:
            self._follow_up(granted)
        if self._returned:
            self._drain()

    def _take_back_locked(self, item: Call | _Ticket) -> list[_Ticket]:
        if isinstance(item, _Ticket):
            return self._slots.leave(item)
        if self._holders is not None:
            self._holders.remove(item)
        return self._slots.release() or self._break_circle_locked()

    def _permit_locked(self, call: Call) -> Call:
        """Return the permit of a slot that was taken: its holder."""
        if self._holders is not None:
            self._holders.append(call)
        return call

    def _follow_up(self, effects: list[_Ticket]) -> None:
        """Wake those who were granted a slot, or put out of line."""
        for ticket in effects:
            if not ticket.waiter.wake():
                # Its event loop is gone: the slot goes to the next.
                self._returned.append(ticket)

    def _full(
        self, call: Call, waited: float, *, by_deadline: bool = False
    ) -> BulkheadFullError:
        slots = self._slots
        error = BulkheadFullError(
            self.name_in(call), None, slots.limit, slots.queued, waited
        )
        error.by_deadline = by_deadline
        return error

    def _closes_circle_locked(self, ticket: _Ticket) -> bool:
        """Whether all who hold a slot would wait for one, and without end."""
        if ticket.until is not None:
            return False
        blocked = self._held_around_locked(ticket)
        if not blocked:
            return False
        for other in self._slots.waiting():
            if other.until is None:
                blocked |= self._held_around_locked(other)
        return len(blocked) == self._slots.in_use

    def _break_circle_locked(self) -> list[_Ticket]:
        """Put the newest out of line whose wait closes a circle, if any does.

        None could when they joined; with fewer slots one may.
        """
        for ticket in reversed(list(self._slots.waiting())):
            if self._closes_circle_locked(ticket):
                self._slots.leave(ticket)
                # It is over: `readmit` rejects it.
                ticket.until = -math.inf
                return [ticket]
        return []

    def _held_around_locked(self, ticket: _Ticket) -> set[Call]:
        """Return the calls around that of a ticket which hold a slot."""
        assert self._holders is not None
        around: set[Call] = set()
        call = ticket.call.enclosing
        while call is not None:
            if call in self._holders:
                around.add(call)
            call = call.enclosing
        return around
