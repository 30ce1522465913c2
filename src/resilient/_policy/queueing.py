"""Admission to slots: policies whose calls may wait in line for one.

How a call joins the queue, is woken, has waited enough, is put out or leaves
is written here. Whose slots they are, and how many, is up to the policy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from resilient._calls.call import Call
from resilient._errors.errors import BulkheadFullError, ConcurrencyLimitedError
from resilient._policy.admission import (
    Admission,
    AdmissionPolicy,
    DeferredRelease,
    Wait,
)
from resilient._runtimes import clock
from resilient._values.priority import Priority

if TYPE_CHECKING:
    from typing import Self


class Ticket(Wait):
    """A call in line."""

    __slots__ = ("began", "by_deadline", "call", "granted", "priority", "reason")

    until: float | None

    def __init__(
        self, call: Call, began: float, until: float | None, *, by_deadline: bool
    ) -> None:
        super().__init__(call.runtime.waiter(call), until)
        self.by_deadline: bool = by_deadline
        self.call: Call = call
        self.began: float = began
        self.granted: bool = False
        # Why it was refused, where that is not for want of a slot alone.
        self.reason: Literal["displaced", "circle"] | None = None
        # NB: kept: where it stands in line depends on it.
        self.priority: Priority = call.priority

    @classmethod
    def of(cls, call: Call, now: float, max_wait: float | None) -> Self | None:
        """Make one that waits for `max_wait`, and its deadline, at most.

        Returns:
            The ticket; None if the deadline has come.
        """
        until = None if max_wait is None else now + max_wait
        by_deadline = call.deadline is not None and (
            until is None or call.deadline <= until
        )
        if by_deadline:
            until = call.deadline
        if until is not None and until <= now:
            return None
        return cls(call, now, until, by_deadline=by_deadline)

    def put_out(self) -> None:
        """Have it rejected as soon as it is woken."""
        self.until = -math.inf
        self.by_deadline = False

    def limit_wait(self, seconds: float) -> None:
        """Have it wait no longer than so, from the moment it began."""
        until = self.began + seconds
        if self.until is None or until < self.until:
            self.until = until
            self.by_deadline = False


class QueueingPolicy(AdmissionPolicy, DeferredRelease):
    """Base of policies that have slots, and a line of calls that wait for one.

    A subclass keeps its slots in ``_slots``, and implements the five methods
    that raise `NotImplementedError` here.
    """

    __slots__ = ()

    # `Slots`, of tickets of the subclass's own.
    _slots: Any

    def _take_locked(self, ticket: Any) -> bool:
        """Take a slot for a call that is about to join the queue, if one is free."""
        raise NotImplementedError

    def _may_wait_locked(self, ticket: Any) -> bool:
        """Whether it may get in line; the last moment to say how long."""
        raise NotImplementedError

    def _enter_locked(self, ticket: Any, now: float) -> Any:
        """Return the permit for a slot that a ticket has got."""
        raise NotImplementedError

    def _exit_locked(self, item: Any) -> list[Any]:
        """Take back what is no ticket; return the tickets that got a slot."""
        raise NotImplementedError

    def _refusal(
        self, call: Call, waited: float, *, by_deadline: bool = False
    ) -> BulkheadFullError | ConcurrencyLimitedError:
        """Return the error of a call that has no slot."""
        raise NotImplementedError

    def _queue(self, ticket: Ticket) -> Admission:
        """Take a slot that came free just now, or get in line."""
        with self._locked() as woken:
            if self._take_locked(ticket):
                return self._enter_locked(ticket, ticket.began)
            if self._may_wait_locked(ticket):
                loser = self._slots.join(ticket)
                if loser is not None and loser is not ticket:
                    loser.reason = "displaced"
                    loser.put_out()
                    woken.append(loser)
                if loser is not ticket:
                    return ticket
        error = self._refusal(ticket.call, 0.0)
        error.reason = ticket.reason
        return error

    def readmit(self, wait: Ticket, call: Call) -> Admission:
        now = clock.now()
        overdue = call.deadline is not None and now >= call.deadline
        with self._locked() as granted:
            if wait.granted:
                if not overdue:
                    return self._enter_locked(wait, now)
            elif wait.until is None or now < wait.until:
                return wait
            # Who was granted a slot in time has woken up too late for it.
            by_deadline = wait.granted or wait.by_deadline
            granted += self._slots.leave(wait)
        error = self._refusal(call, now - wait.began, by_deadline=by_deadline)
        error.reason = wait.reason
        return error

    def withdraw(self, wait: Ticket) -> None:
        self._release(wait)

    def _release_locked(self, item: Any) -> list[Any]:
        if isinstance(item, Ticket):
            granted: list[Any] = self._slots.leave(item)
            return granted
        return self._exit_locked(item)

    def _after_unlock(self, effects: list[Any]) -> None:
        """Wake those who were granted a slot, or put out of line."""
        for ticket in effects:
            if not ticket.waiter.wake():
                # Its event loop is gone: the slot goes to the next.
                self._deferred.append(ticket)
