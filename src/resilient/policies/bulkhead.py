"""Bulkhead: so many calls at once, so that one dependency cannot take all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._errors.errors import BulkheadFullError
from resilient._machines.slots import Slots
from resilient._policy.admission import Admission
from resilient._policy.queueing import QueueingPolicy, Ticket
from resilient._runtimes import clock
from resilient._values.checks import LARGEST, choice, count, number, optional
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Self


class Bulkhead(QueueingPolicy):
    """Let at most so many calls run at once, and few or none wait.

    A call that finds no slot waits in the queue if there is room, else it is
    rejected at once. A queue hides overload from all callers that could react to
    it: the default is none, and a good one is at most half the slots.

    The most important call in the queue goes first (see `priority`), and one that
    finds the queue full takes the place of a less important one, which is
    rejected then.

    The slot of a generator is held until it ends or is closed.

    Calls inside calls could wait for each other for ever: each holds a slot
    and wants another. The one that would close such a circle is rejected,
    unless its wait has an end anyway, by `max_wait` or a deadline. What a
    call has started in other tasks counts as inside it.

    Args:
        max_concurrency: Calls that may run at once.
        max_queue: Calls that may wait in the queue.
        max_wait: Seconds that each may wait; None: until its deadline.
        order: "fifo", or "lifo": newest first, for queues whose oldest callers
            have given up anyway.
        name: Name in errors and events.

    Raises:
        BulkheadFullError: No slot, and no place in the queue or no time left.

    Source: M. Nygard, *Release It!*, "Bulkheads"; Little's law.
    """

    __slots__ = (
        "_deferred",
        "_lock",
        "_looked_at",
        "_slot_owners",
        "_slots",
        "max_queue",
        "max_wait",
        "order",
    )

    traits = Trait.HOLDS

    learns = False
    weighs = False

    _live = {"max_concurrency": "resize"}  # noqa: RUF012 - never written to

    metrics: tuple[tuple[str, ...], ...] = (
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
        self.max_wait: float | None = optional(
            seconds_argument, "max_wait", max_wait, hint="; None is no limit"
        )
        self.order: str = choice("order", order, "fifo", "lifo")
        self._lock = Lock()
        self._deferred: list[Ticket] = []
        self._looked_at = -math.inf
        self._slots: Slots[Ticket] = Slots(limit, self.max_queue, lifo=order == "lifo")
        # Who holds a slot, where a wait may be endless; None where it cannot.
        endless = self.max_queue > 0 and self.max_wait is None
        self._slot_owners: dict[Ticket, None] | None = {} if endless else None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.learns = cls.weighs = cls.settle is not Bulkhead.settle

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
        if load > LARGEST:
            raise ValueError(
                f"`rate` times `latency` must be <= {LARGEST:g} calls, got {rate!r}"
                f" times {latency!r}"
            )
        return cls(max(1, math.ceil(load + 3 * math.sqrt(load))), name=name)

    @property
    def max_concurrency(self) -> int:
        """Slots there are."""
        return self._slots.limit

    @property
    def in_use(self) -> int:
        """Calls that run now, those granted a slot but not yet awake included."""
        return self._in_use()

    def status(self) -> dict[str, Any]:
        return self._status("bulkhead")

    def resize(self, max_concurrency: int) -> None:
        """Change the number of slots, live.

        Growing wakes waiters at once. Shrinking interrupts no call: slots are
        not given out again until few enough are in use.
        """
        limit = count("max_concurrency", max_concurrency, minimum=1)
        self._run(self._resize_locked, limit)

    def _resize_locked(self, woken: list[Ticket], limit: int) -> None:
        woken += self._slots.resize(limit) or self._break_circle_locked()

    def is_pristine(self) -> bool:
        return self._slots.in_use == 0

    def is_restrictive(self) -> bool:
        return self._slots.in_use > 0

    def _admit(self, ticket: Ticket) -> Admission:
        slots, lock, owners = self._slots, self._lock, self._slot_owners
        with lock:
            if slots.in_use < slots.limit and not slots.queues and not lock.changing:
                # What `_take_again_locked` does, without a call.
                slots.in_use += 1
                ticket.granted = True
                if owners is not None:
                    owners[ticket] = None
                return ticket
        if self._deferred:
            # A slot was given back, but not taken back yet.
            taken = self._run(self._take_again_locked, ticket)
            if taken:
                return ticket
        if self.max_queue == 0 or self.max_wait == 0:
            return self._refusal(ticket.call, 0.0)
        return self._queue(ticket, clock.now(), self.max_wait)

    def settle(self, permit: Ticket, outcome: Outcome | None) -> None:
        slots, lock, owners = self._slots, self._lock, self._slot_owners
        with lock:
            # NB: one that is not granted has been given back, by an interrupt.
            if permit.granted and not slots.queues and not lock.changing:
                # What `_leave_locked` does, without a call.
                permit.granted = False
                slots.in_use -= 1
                if owners is not None and permit in owners:
                    del owners[permit]
        if permit.granted:
            self._release(permit)
        elif self._deferred:
            self._release_deferred()

    def _take_again_locked(self, woken: list[Ticket], ticket: Ticket) -> bool:
        if not self._take_locked(ticket):
            return False
        self._enter_locked(ticket, 0.0)
        return True

    def _leave_locked(self, item: Ticket) -> list[Ticket]:
        if self._slot_owners is not None:
            self._slot_owners.pop(item, None)
        return self._slots.leave(item) or self._break_circle_locked()

    def _enter_locked(self, ticket: Ticket, now: float) -> None:
        if self._slot_owners is not None:
            self._slot_owners[ticket] = None

    def _take_locked(self, ticket: Ticket) -> bool:
        return self._slots.take(ticket)

    def _may_wait_locked(self, ticket: Ticket) -> bool:
        if self._closes_circle_locked(ticket):
            assert ticket.wait is not None
            ticket.wait.reason = "circle"
            return False
        return True

    def _refusal(
        self, call: Call, waited: float, *, by_deadline: bool = False
    ) -> BulkheadFullError:
        slots = self._slots
        error = BulkheadFullError(
            self.error_name(call), None, slots.limit, slots.queued, waited
        )
        error.by_deadline = by_deadline
        return error

    def _closes_circle_locked(self, ticket: Ticket) -> bool:
        """Whether all who hold a slot would wait for one, and without end."""
        assert ticket.wait is not None
        if ticket.wait.latest is not None:
            return False
        blocked = self._held_around_locked(ticket)
        if not blocked:
            return False
        for other in self._slots.waiting():
            if other.wait is not None and other.wait.latest is None:
                blocked |= self._held_around_locked(other)
        return len(blocked) == self._slots.in_use

    def _break_circle_locked(self) -> list[Ticket]:
        """Put the last out of the queue whose wait closes a circle, if any does.

        None could when they joined; with fewer slots one may.
        """
        for ticket in reversed(self._slots.waiting()):
            if self._closes_circle_locked(ticket):
                assert ticket.wait is not None
                self._slots.leave(ticket)
                ticket.wait.reason = "circle"
                ticket.wait.put_out()
                return [ticket]
        return []

    def _held_around_locked(self, ticket: Ticket) -> set[Call]:
        """Return the calls around that of a ticket which hold a slot."""
        assert self._slot_owners is not None
        owners = {owner.call for owner in self._slot_owners}
        around: set[Call] = set()
        call = ticket.call.enclosing
        while call is not None:
            if call in owners:
                around.add(call)
            call = call.enclosing
        return around
