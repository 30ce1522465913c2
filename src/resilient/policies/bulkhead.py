"""Bulkhead: so many calls at once, so that one dependency cannot take all."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._errors.errors import BulkheadFullError
from resilient._machines.slots import Slots
from resilient._policy.admission import Admission
from resilient._policy.queueing import QueueingPolicy, SlotWait, Ticket
from resilient._policy.shared import check_made_for_key, emit_of_store
from resilient._runtimes import clock
from resilient._runtimes.sync import can_park
from resilient._values.checks import LARGEST, choice, count, number, optional
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Self

    from resilient._sharing.slots import SharedSlots
    from resilient._sharing.store import SharedStore


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
        shared: A store. All processes that give it a bulkhead of this `name` have
            `max_concurrency` slots together: each leases a share and lets as many
            calls run. A call that finds no slot waits for the store's answer for
            the store's `patience` at most, whatever `max_queue` is; the queue is
            this process's. Without the store each process has an equal part, once
            it has been silent for a lease. A process that is stopped or cut off
            for longer than its lease, 2 s, runs on what it has begun.
        name: Name in errors and events; required with `shared`.

    Raises:
        BulkheadFullError: No slot, and no place in the queue or no time left.

    Source: M. Nygard, *Release It!*, "Bulkheads"; Little's law.
    """

    __slots__ = (
        "_asking",
        "_deferred",
        "_lock",
        "_looked_at",
        "_shared",
        "_slot_owners",
        "_slots",
        "max_queue",
        "max_wait",
        "order",
    )

    traits = Trait.HOLDS

    learns: ClassVar[bool] = False
    weighs: bool = False

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
        shared: SharedStore | None = None,
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
        # Who waits for nothing but a store's answer; only the keys matter.
        self._asking: dict[Ticket, None] = {}
        self._shared: SharedSlots | None = None
        if shared is not None:
            from resilient._sharing.slots import SharedSlots

            self._slots.limit = 0
            self._shared = SharedSlots(
                shared,
                name,
                limit,
                self._run,
                lambda: (self._slots.in_use, self._slots.queued),
                self._apply_locked,
                partial(emit_of_store, self),
            )

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
        """Slots there are; of a fleet, as this process states them."""
        shared = self._shared
        return self._slots.limit if shared is None else shared.holding.limit

    @property
    def shared(self) -> SharedStore | None:
        """The store that the slots are shared through."""
        return None if self._shared is None else self._shared.store

    def _unregister(self) -> None:
        # A PerKey calls this of all that stands inside it, at whatever depth.
        check_made_for_key(self, self._shared, "the slots")
        super()._unregister()

    def _leave_store(self) -> None:
        if self._shared is not None:
            self._shared.leave()

    @property
    def in_use(self) -> int:
        """Calls that run now, those granted a slot but not yet awake included."""
        return self._in_use()

    def status(self) -> dict[str, Any]:
        status = self._status("bulkhead")
        return status if self._shared is None else status | self._shared.status()

    def resize(self, max_concurrency: int) -> None:
        """Change the number of slots, live.

        Growing wakes waiters at once. Shrinking interrupts no call: slots are
        not given out again until few enough are in use.
        """
        limit = count("max_concurrency", max_concurrency, minimum=1)
        if self._shared is not None:
            self._shared.holding.limit = limit
            return
        self._run(self._resize_locked, limit)

    def _resize_locked(self, woken: list[Ticket], limit: int) -> None:
        woken += self._slots.resize(limit) or self._break_circle_locked()

    def is_pristine(self) -> bool:
        return self._slots.in_use == 0

    def is_restrictive(self) -> bool:
        return self._slots.in_use > 0

    # -- The fleet

    def _apply_locked(self, woken: list[Ticket], now: float) -> None:
        """Keep to the share of this process; wake the calls that asked for more."""
        assert self._shared is not None
        holding = self._shared.holding
        allowed = holding.allowed(now)
        if allowed != self._slots.limit:
            self._resize_locked(woken, allowed)
        for ticket in [one for one in self._asking if one.granted]:
            del self._asking[ticket]
        if self._asking and now > holding.due_by and holding.asks(now) == 0.0:
            # The answer was no, or does not come.
            for ticket in list(self._asking):
                del self._asking[ticket]
                woken += self._slots.leave(ticket)
                assert ticket.wait is not None
                ticket.wait.put_out()
                woken += (ticket,)

    def _admit_shared(self, shared: SharedSlots, ticket: Ticket) -> Admission:
        now = clock.now()
        shared.link.poll(now)
        admission = self._run(self._admit_shared_locked, shared, ticket, now)
        shared.follow(now)
        if isinstance(admission, SlotWait):
            self._look_at_delivery(admission)
        return admission

    def _admit_shared_locked(
        self, woken: list[Ticket], shared: SharedSlots, ticket: Ticket, now: float
    ) -> Admission:
        slots, call = self._slots, ticket.call
        self._apply_locked(woken, now)
        if self._take_again_locked(woken, ticket):
            return ticket
        grace = shared.holding.asks(now)
        parks = can_park(call.runtime)
        queues = slots.queued - len(self._asking) < self.max_queue
        queues = queues and self.max_wait != 0
        if not queues and (grace == 0.0 or not parks):
            shared.holding.missed += grace > 0.0
            return self._refusal(call, 0.0)
        wait = SlotWait.of(ticket, now, self.max_wait if queues else grace)
        if wait is None:
            return self._refusal(call, 0.0, by_deadline=True)
        ticket.wait = wait
        if not queues:
            self._asking[ticket] = None
        slots.max_queue = self.max_queue + len(self._asking)
        return self._queue_locked(woken, ticket, now)

    def _look_at_delivery(self, wait: SlotWait) -> None:
        """Have a call look when an answer may come, where no thread delivers it."""
        assert self._shared is not None
        delivery = self._shared.link.next_delivery
        if delivery is not None:
            wait.until = delivery if wait.until is None else min(wait.until, delivery)

    def readmit(self, wait: SlotWait, call: Call) -> Admission:
        shared = self._shared
        if shared is None:
            return super().readmit(wait, call)
        now = clock.now()
        shared.follow(now)
        admission = super().readmit(wait, call)
        if isinstance(admission, SlotWait):
            self._look_at_delivery(admission)
        else:
            self._asking.pop(wait.ticket, None)
        return admission

    def _freed(self, shared: SharedSlots) -> None:
        """Give a slot that came free to another process that lacks one."""
        now = clock.now()
        shared.holding.freed(now)
        shared.follow(now)

    def _admit(self, ticket: Ticket) -> Admission:
        if self._shared is not None:
            return self._admit_shared(self._shared, ticket)
        slots, lock, owners = self._slots, self._lock, self._slot_owners
        _ = lock.acquired
        try:
            if slots.in_use < slots.limit and not slots.queues and not lock.changing:
                # What `_take_again_locked` does, without a call.
                slots.in_use += 1
                ticket.granted = True
                if owners is not None:
                    owners[ticket] = None
                return ticket
        finally:
            lock.release()
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
        _ = lock.acquired
        try:
            # NB: one that is not granted has been given back, by an interrupt.
            if permit.granted and not slots.queues and not lock.changing:
                # What `_leave_locked` does, without a call.
                permit.granted = False
                slots.in_use -= 1
                if owners is not None and permit in owners:
                    del owners[permit]
        finally:
            lock.release()
        if permit.granted:
            self._release(permit)
        elif self._deferred:
            self._release_deferred()
        if self._shared is not None:
            self._freed(self._shared)

    def _take_again_locked(self, woken: list[Ticket], ticket: Ticket) -> bool:
        if not self._take_locked(ticket):
            return False
        self._enter_locked(ticket, 0.0)
        return True

    def _leave_locked(self, item: Ticket) -> list[Ticket]:
        if self._slot_owners is not None:
            self._slot_owners.pop(item, None)
        woken: list[Ticket] = []
        if self._shared is not None:
            self._asking.pop(item, None)
            self._apply_locked(woken, clock.now())
        return woken + (self._slots.leave(item) or self._break_circle_locked())

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
            self.error_name(call), None, self.max_concurrency, slots.queued, waited
        )
        if by_deadline:
            error.by_deadline = True
        return error

    def _closes_circle_locked(self, ticket: Ticket) -> bool:
        """Whether all calls that hold a slot would wait for one, without end."""
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
