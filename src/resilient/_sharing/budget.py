"""A retry budget that processes share: who waits for the store's answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient._calls.call import Call
from resilient._machines.budget import Budget
from resilient._machines.budget_lease import BudgetLease
from resilient._machines.lease import Lease
from resilient._runtimes import clock
from resilient._runtimes.runtime import Waiter, wake_all
from resilient._runtimes.sync import NO_WAITER, can_park
from resilient._sharing.member import LeaseMember
from resilient._sharing.store import SharedStore
from resilient._values.locks import Lock, ReenteredError
from resilient._values.priority import Priority

__all__ = ["SharedBudget"]


class _Ticket:
    """A withdrawal that may wait for an answer.

    Attributes:
        granted: Whether it was paid.
    """

    __slots__ = ("amount", "granted", "priority", "waiter")

    def __init__(self, waiter: Waiter, amount: float, priority: Priority) -> None:
        self.waiter = waiter
        self.amount = amount
        self.priority = priority
        self.granted = False


class SharedBudget(LeaseMember):
    """The budget of one process, as its store's link sees it.

    Args:
        store, name, emit: See `SharedState`.
        budget: Its numbers.
    """

    __slots__ = ("_budget", "_lock", "_waiting")

    def __init__(
        self,
        store: SharedStore,
        name: str | None,
        budget: Budget,
        emit: Callable[..., bool],
    ) -> None:
        self._lock = Lock()
        # Who waits, first come first served; only the keys matter.
        self._waiting: dict[_Ticket, None] = {}
        self._budget: BudgetLease

        def lease(store: SharedStore) -> Lease:
            self._budget = BudgetLease(
                budget, patience=store.patience, members=store.members, lost=store.lost
            )
            return self._budget

        super().__init__(store, "budget", name, lease, self._run, emit)

    def _run(self, change: Callable[..., Any], *args: Any) -> Any:
        woken: list[_Ticket] = []
        try:
            return self._lock.run(change, woken, *args)
        finally:
            if woken:
                wake_all([ticket.waiter for ticket in woken])

    def deposit(self) -> None:
        """Pay in for one success."""
        now = clock.now()
        if self._budget.at_rest(now):
            return
        try:
            self._lock.run(self._budget.deposit, now)
        except ReenteredError:
            # In the middle of a change, on the same thread: one less.
            return
        self.follow(now)

    def withdraw(self, amount: float, priority: Priority) -> bool:
        """Take `amount`, where nothing may wait for an answer."""
        ticket = _Ticket(NO_WAITER, amount, priority)
        try:
            if not self._begin(ticket):
                return ticket.granted
            return bool(self._run(self._take_aside_locked, ticket))
        except ReenteredError:
            return False

    async def afford(self, call: Call) -> bool:
        """Take 1 for a retry; wait for the answer for the store's patience at most."""
        if not can_park(call.runtime):
            return self.withdraw(1.0, call.priority)
        ticket = _Ticket(call.runtime.waiter(call), 1.0, call.priority)
        try:
            waits = self._begin(ticket)
            while waits:
                await self._park(ticket, call)
                if call.deadline is not None and clock.now() >= call.deadline:
                    self._run(self._drop_locked, ticket)
                    return False
                waits = self._begin(ticket)
        except ReenteredError:
            return False
        except BaseException:
            self._run(self._drop_locked, ticket)
            raise
        return ticket.granted

    async def _park(self, ticket: _Ticket, call: Call) -> None:
        moments = [self.lease.due_by, self.next_delivery, call.deadline]
        until = min(one for one in moments if one is not None)
        await call.runtime.park(ticket.waiter, until)

    def _begin(self, ticket: _Ticket) -> bool:
        """Decide if possible; return whether to wait for an answer."""
        now = clock.now()
        self.link.poll(now)
        waits = self._run(self._begin_locked, ticket, now)
        self.follow(now)
        # NB: a store in memory answers while it is asked.
        return waits and ticket in self._waiting

    def _begin_locked(self, woken: list[_Ticket], ticket: _Ticket, now: float) -> bool:
        if ticket.granted:
            return False
        self._waiting.pop(ticket, None)
        if not self._decide_locked(ticket, now):
            self._waiting[ticket] = None
        return ticket in self._waiting

    def _decide_locked(self, ticket: _Ticket, now: float) -> bool:
        """Grant or refuse it; return False if an answer is to be waited for."""
        wait = self._budget.withdraw(now, ticket.amount, ticket.priority)
        ticket.granted = wait == 0.0
        return ticket.granted or self.lease.grace(now) == 0.0

    def _drop_locked(self, woken: list[_Ticket], ticket: _Ticket) -> None:
        self._waiting.pop(ticket, None)
        if ticket.granted:
            now = clock.now()
            self.lease.book(now, -ticket.amount, since=now)

    def _take_aside_locked(self, woken: list[_Ticket], ticket: _Ticket) -> bool:
        self._waiting.pop(ticket, None)
        return ticket.granted or self.lease.take_aside(clock.now(), ticket.amount)

    def waiting_locked(self) -> tuple[float, float]:
        amounts = [ticket.amount for ticket in self._waiting]
        return (sum(amounts), amounts[0]) if amounts else (0.0, 0.0)

    def serve_locked(self, now: float) -> list[Any]:
        woken: list[Any] = []
        for ticket in list(self._waiting):
            if self._decide_locked(ticket, now):
                self._waiting.pop(ticket, None)
                woken.append(ticket)
        return woken

    def forget(self) -> None:
        super().forget()
        # Those who waited are in the parent.
        self._waiting.clear()

    @property
    def balance(self) -> float:
        """Retries that could be taken now, as far as is known."""
        with self._lock:
            return self.lease.level(clock.now())

    def reset(self, *, fleet: bool) -> None:
        """Forget what the store said and ask anew, or fill all members' budget."""
        with self._lock:
            if fleet:
                self.lease.reset()
            else:
                self.lease.forget()
        self.follow(clock.now())
