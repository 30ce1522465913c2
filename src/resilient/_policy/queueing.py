"""Admission to slots: policies whose calls may wait in the queue for one.

How a call joins the queue, is woken, has waited enough, is put out or goes away
is written here, once. Whose slots they are, and how many, is the policy's.

A call that is to be woken may be gone: its event loop was closed, blocks or is
never run again, or it was left behind in the process that this one was forked
from. So each waiting call looks around now and then (`clock.patrol`): a slot
that was granted to a call which does not come for it is granted to the next
one. Should it come after all, it is first in the queue again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._errors.errors import BulkheadFullError, ConcurrencyLimitedError
from resilient._policy.admission import (
    Admission,
    AdmissionPolicy,
    DeferredRelease,
    Wait,
    reserve,
)
from resilient._runtimes import clock
from resilient._runtimes.runtime import Waiter
from resilient._values.locks import ReenteredError
from resilient._values.priority import Priority

if TYPE_CHECKING:
    from typing import Self


class Ticket:
    """What a call has of a policy: a slot, a place in the queue, or nothing.

    Attributes:
        granted: Whether it has a slot.
        wait: Its wait, once it has begun one.
    """

    __slots__ = ("call", "granted", "wait")

    group: None = None

    def __init__(self, call: Call) -> None:
        self.call: Call = call
        self.granted: bool = False
        self.wait: SlotWait | None = None

    @property
    def priority(self) -> Priority:
        # NB: that of the wait does not change: its place in the queue depends on it.
        return self.call.priority if self.wait is None else self.wait.priority


class SlotWait(Wait):
    """The wait of a call for its slot.

    Attributes:
        ticket: The call.
        began: When.
        latest: When it has to end; None: never.
        by_deadline: Whether that is the call's deadline.
        reason: Why it was refused, where that is not for want of a slot alone.
        granted_at: When it was woken for a slot that it has not come for yet.
    """

    __slots__ = (
        "began",
        "by_deadline",
        "granted_at",
        "latest",
        "priority",
        "reason",
        "ticket",
    )

    def __init__(
        self,
        ticket: Any,
        waiter: Waiter,
        began: float,
        latest: float | None,
        *,
        by_deadline: bool,
    ) -> None:
        super().__init__(waiter, latest)
        self.ticket: Any = ticket
        self.began: float = began
        self.latest: float | None = latest
        self.by_deadline: bool = by_deadline
        # Why it was refused, where that is not for want of a slot alone.
        self.reason: Literal["displaced", "circle"] | None = None
        self.granted_at: float | None = None
        self.priority: Priority = ticket.call.priority
        self.go_on(began)

    @classmethod
    def of(cls, ticket: Any, now: float, max_wait: float | None) -> Self | None:
        """Make one that lasts for `max_wait`, and its deadline, at most.

        Returns:
            The wait; None if the deadline has come.
        """
        call = ticket.call
        latest = None if max_wait is None else now + max_wait
        by_deadline = call.deadline is not None and (
            latest is None or call.deadline <= latest
        )
        if by_deadline:
            latest = call.deadline
        if latest is not None and latest <= now:
            return None
        waiter = call.runtime.waiter(call)
        return cls(ticket, waiter, now, latest, by_deadline=by_deadline)

    def go_on(self, now: float) -> None:
        """Wait on until it has to end, or it is time to look around."""
        look = now + clock.patrol
        self.until = look if self.latest is None else min(look, self.latest)
        if self.until == math.inf:
            self.until = None

    def put_out(self) -> None:
        """Have it rejected as soon as it is woken."""
        self.latest = -math.inf
        self.by_deadline = False

    def limit_to(self, seconds: float) -> None:
        """Have it last no longer than so, from the moment it began."""
        latest = self.began + seconds
        if self.latest is None or latest < self.latest:
            self.latest = latest
            self.by_deadline = False
            self.go_on(self.began)


class QueueingPolicy(AdmissionPolicy, DeferredRelease):
    """Base of policies that have slots, and a queue of calls that wait for one.

    A subclass keeps its slots in ``_slots``, and implements the methods that
    raise `NotImplementedError` here.
    """

    __slots__ = ()

    # `Slots`, of tickets of the subclass's own.
    _slots: Any
    # When the queue was last looked through for calls that are gone.
    _looked_at: float

    def _ticket(self, call: Call) -> Any:
        """Return a ticket that has nothing."""
        return Ticket(call)

    def _admit(self, ticket: Any) -> Admission:
        """Take a slot, join the queue, or return the rejection."""
        raise NotImplementedError

    def _take_locked(self, ticket: Any) -> bool:
        """Take a slot for a call that is about to queue, if there is one."""
        raise NotImplementedError

    def _may_wait_locked(self, ticket: Any) -> bool:
        """Whether it may join the queue; the last moment to say how long."""
        raise NotImplementedError

    def _enter_locked(self, ticket: Any, now: float) -> None:
        """Take note that a ticket has got a slot after a wait."""
        raise NotImplementedError

    def _leave_locked(self, item: Any) -> list[Any]:
        """Take back a slot or a place in the queue; return calls that got a slot."""
        raise NotImplementedError

    def _refusal(
        self, call: Call, waited: float, *, by_deadline: bool = False
    ) -> BulkheadFullError | ConcurrencyLimitedError:
        """Return the error of a call that has no slot."""
        raise NotImplementedError

    @property
    def queued(self) -> int:
        """Calls that wait now."""
        self._release_deferred()
        return int(self._slots.queued)

    def _in_use(self) -> int:
        self._release_deferred()
        return int(self._slots.in_use)

    def _status(self, kind: str) -> dict[str, Any]:
        """Return the status of the slots, whose metrics are of a kind."""
        self._release_deferred()
        slots = self._slots
        return {
            f"{kind}.in_use": slots.in_use,
            f"{kind}.queued": slots.queued,
            f"{kind}.limit": slots.limit,
            # NB: a share of a fleet's slots may be none.
            "saturation": slots.in_use / max(1, slots.limit),
        }

    # -- In

    def admit(self, call: Call) -> Admission:
        ticket = self._ticket(call)
        try:
            return self._admit(ticket)
        except ReenteredError:
            return self._admit_inside(ticket)
        except BaseException:
            try:
                self._deferred.append(ticket)
            except MemoryError:
                # NB: as in `_release`, and in this frame too.
                spare = reserve.spare
                if spare is None:
                    raise
                reserve.spare = spare[2]
                spare[2] = ticket
                spare[1] = self._deferred
                self._deferred = spare
            self._release_deferred()
            raise

    def _admit_inside(self, ticket: Any) -> Admission:
        """Admit a call that began in the middle of a change, on its thread.

        That thread's own call stands still until this one has ended, and does
        not run: so this one runs in its place, if a slot is free.
        """
        if self._slots.in_use < self._slots.limit:
            return ticket
        return self._refusal(ticket.call, 0.0)

    def _queue(self, ticket: Any, now: float, max_wait: float | None) -> Admission:
        """Take a slot that came free just now, or join the queue."""
        wait = ticket.wait = SlotWait.of(ticket, now, max_wait)
        if wait is None:
            return self._refusal(ticket.call, 0.0, by_deadline=True)
        return self._run(self._queue_locked, ticket, now)

    def _queue_locked(self, woken: list[Any], ticket: Any, now: float) -> Admission:
        woken += self._look_around_locked(now)
        if self._take_locked(ticket):
            self._enter_locked(ticket, now)
            return ticket
        if self._may_wait_locked(ticket):
            loser = self._slots.join(ticket)
            if loser is not None and loser is not ticket:
                loser.wait.reason = "displaced"
                loser.wait.put_out()
                woken += (loser,)
            if loser is not ticket:
                return ticket.wait
        error = self._refusal(ticket.call, 0.0)
        error.reason = ticket.wait.reason
        return error

    def readmit(self, wait: SlotWait, call: Call) -> Admission:
        return self._run(self._readmit_locked, wait, call)

    def _readmit_locked(
        self, woken: list[Any], wait: SlotWait, call: Call
    ) -> Admission:
        now = clock.now()
        ticket, slots = wait.ticket, self._slots
        woken += self._look_around_locked(now, but=ticket)
        overdue = call.deadline is not None and now >= call.deadline
        by_deadline = wait.by_deadline
        if ticket.granted:
            slots.come(ticket)
            if not overdue:
                self._enter_locked(ticket, now)
                return ticket
            # It was granted a slot in time and has woken up too late for it.
            by_deadline = True
        elif wait.latest is None or now < wait.latest:
            if not slots.is_queued(ticket):
                # It did not come for its slot in time, and another call has it.
                if self._take_locked(ticket):
                    self._enter_locked(ticket, now)
                    return ticket
                slots.enqueue(ticket, first=True)
            wait.go_on(now)
            return wait
        woken += self._leave_locked(ticket)
        error = self._refusal(call, now - wait.began, by_deadline=by_deadline)
        error.reason = wait.reason
        return error

    def _look_around_locked(self, now: float, but: Any = None) -> list[Any]:
        """Leave out calls that are gone, and take slots from those that do not come.

        Returns:
            The waiters to wake.
        """
        slots = self._slots
        woken: list[Any] = []
        for ticket in list(slots.called or ()):
            granted_at = ticket.wait.granted_at
            if ticket is but:
                continue
            if granted_at is None:
                # The call that granted it was interrupted before it could wake it.
                woken += (ticket,)
            elif now - granted_at >= clock.patrol:
                ticket.wait.granted_at = None
                woken += self._leave_locked(ticket)
        if slots.queued >= slots.max_queue and now - self._looked_at >= clock.patrol:
            # NB: once in a while, for the queue may be long.
            self._looked_at = now
            for ticket in slots.waiting():
                if ticket.wait.waiter.is_gone():
                    woken += self._leave_locked(ticket)
        if slots.queues:
            woken += slots.grant()
        return woken

    # -- Out

    def withdraw(self, wait: SlotWait) -> None:
        self._release(wait.ticket)

    def _unwind(
        self,
        permit: Admission,
        call: Call | None,
        unwinding: BaseException,
        began: float | None = None,
    ) -> None:
        if isinstance(permit, SlotWait):
            permit = permit.ticket
        if not isinstance(permit, Ticket):
            return
        try:
            if call is not None and began is not None:
                cut = call.cut_outcome(unwinding, began)
                if cut is not None:
                    self._note_cut(permit, cut)
        finally:
            # NB: in this frame, which is no deeper than those of `admit`.
            try:
                self._deferred.append(permit)
            except MemoryError:
                # NB: as in `_release`, and in this frame too.
                spare = reserve.spare
                if spare is None:
                    raise
                reserve.spare = spare[2]
                spare[2] = permit
                spare[1] = self._deferred
                self._deferred = spare
            self._release_deferred()

    def _note_cut(self, ticket: Any, cut: Outcome) -> None:
        """Take note of a call that a limit further out has cut."""

    def _release_locked(self, item: Any) -> list[Any]:
        return self._leave_locked(item)

    def _after_unlock(self, effects: list[Any]) -> None:
        """Wake calls that were granted a slot, or put out of the queue."""
        for ticket in effects:
            ticket.wait.granted_at = clock.now()
            if not ticket.wait.waiter.wake():
                # Its event loop is gone: the slot goes to the next.
                self._deferred.append(ticket)
