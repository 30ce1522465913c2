"""RetryBudget: how many retries a process, or a fleet of them, can afford."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from resilient._calls.call import Call
from resilient._events.events import Event
from resilient._machines.budget import Budget
from resilient._policy.policy import Policy
from resilient._policy.shared import check_made_for_key, emit_of_store, fleet_of
from resilient._runtimes import clock
from resilient._values.locks import Lock, ReenteredError
from resilient._values.priority import Priority

if TYPE_CHECKING:
    from resilient._sharing.budget import SharedBudget
    from resilient._sharing.store import SharedStore


class RetryBudget:
    """A bound on retries that successes pay into.

    It starts full. Each success pays in `ratio`, time trickles in
    `per_second`, up to `capacity`; each retry takes 1 before its wait. When
    it is empty the original error is raised, with a note. First attempts are
    never refused.

    When little is left, what matters most is retried (see `priority`):
    sheddable calls leave the last quarter of the capacity alone, batch calls
    the last half, and always the last retry.

    Every `Retry` has one of its own unless it is given one to share. Above 9 %
    of steady errors the default drains: raise `ratio` if your dependency
    fails more than that on a good day.

    Args:
        ratio: Retries earned by one success.
        capacity: The most that can be saved up (>= 1), and the start.
        per_second: Retries earned by one second.
        shared: A store. All processes that give it a budget of this `name`
            have one budget together. A retry waits for the store's answer for
            the store's `patience` at most; without the store each process has
            its part of what was left, and what its own successes pay in. Where
            `per_second` is 0, the store's is full again after a day.
        name: What the fleet knows it by; required with `shared`.

    Raises:
        TypeError, ValueError: An argument is no number in range, `shared` is no
            store, or `name` is none.

    Source: Finagle's RetryBudget and gRPC A6, fed by successes because of
    *Metastable Failures in Distributed Systems* (HotOS 2021).
    """

    __slots__ = ("__weakref__", "_lock", "_machine", "_name", "_shared", "_users")

    def __init__(
        self,
        ratio: float = 0.1,
        capacity: float = 10.0,
        per_second: float = 0.1,
        *,
        shared: SharedStore | None = None,
        name: str | None = None,
    ) -> None:
        self._machine = Budget(ratio, capacity, per_second)
        self._lock = Lock()
        self._name: str | None = name
        self._shared: SharedBudget | None = None
        if shared is not None:
            from resilient._sharing.budget import SharedBudget

            # Who is to tell of a store that is lost.
            self._users: WeakSet[Policy[Any]] = WeakSet()
            self._shared = SharedBudget(shared, name, self._machine, self._emit)

    def __repr__(self) -> str:
        machine = self._machine
        more = "" if self.shared is None else f", shared={self.shared!r}"
        more += "" if self._name is None else f", name={self._name!r}"
        return (
            f"RetryBudget({machine.ratio:g}, {machine.capacity:g},"
            f" {machine.per_second:g}{more})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy by any protocol is made of the same arguments, and full.
        machine = self._machine
        arguments = (machine.ratio, machine.capacity, machine.per_second)
        if self.shared is None and self._name is None:
            return type(self), arguments
        return partial(type(self), shared=self.shared, name=self._name), arguments

    @property
    def shared(self) -> SharedStore | None:
        """The store that the budget is shared through."""
        return None if self._shared is None else self._shared.store

    @property
    def name(self) -> str | None:
        """What the fleet knows it by."""
        return self._name

    def join(self, policy: Policy[Any]) -> None:
        """Have a policy that withdraws from it tell of a store that is lost."""
        if self._shared is not None:
            if self._shared.is_for_a_key:
                check_made_for_key(self, self._shared, "one budget")
            self._users.add(policy)

    def _emit(self, kind: type[Event], *values: Any) -> bool:
        heard = [emit_of_store(policy, kind, *values) for policy in list(self._users)]
        return any(heard)

    def leave_store(self) -> None:
        """Give back what is held for a key that a PerKey drops."""
        if self._shared is not None:
            self._shared.leave()

    def deposit(self) -> None:
        """Pay in for one success."""
        if self._shared is not None:
            self._shared.deposit()
            return
        # NB: read without the lock. The full budget of a good day costs one
        # comparison; who just misses a withdrawal loses one deposit.
        if self._machine.saved < self._machine.capacity:
            try:
                self._lock.run(self._machine.deposit)
            except ReenteredError:
                # In the middle of a change, on the same thread: one less.
                pass

    def withdraw(
        self, amount: float = 1.0, *, priority: Priority = Priority.NORMAL
    ) -> bool:
        """Take `amount` retries; return whether there were as many.

        It never waits: where a shared budget would have to ask its store, this
        process's part of the capacity pays, and the store is asked for the next.
        """
        if self._shared is not None:
            return self._shared.withdraw(amount, priority)
        try:
            return self._lock.run(self._withdraw_locked, amount, priority)
        except ReenteredError:
            # In the middle of a change, on the same thread.
            return False

    def _withdraw_locked(self, amount: float, priority: Priority) -> bool:
        return self._machine.withdraw(clock.now(), amount, priority)

    async def afford(self, call: Call) -> bool:
        """Take 1 for another attempt of a call; return whether it was there.

        Of a shared budget the store's answer is waited for, if need be.
        """
        if self._shared is not None:
            return await self._shared.afford(call)
        return self.withdraw(priority=call.priority)

    @property
    def balance(self) -> float:
        """Retries that could be taken now; of a shared one, as far as is known."""
        if self._shared is not None:
            return self._shared.balance
        with self._lock:
            return self._machine.balance(clock.now())

    @property
    def capacity(self) -> float:
        """The most retries that can be saved up."""
        return self._machine.capacity

    @property
    def full(self) -> bool:
        """Whether nothing is missing from it."""
        return self.balance >= self._machine.capacity

    def status(self) -> dict[str, Any]:
        """Return what `health` shows of it, with the policy that has it."""
        status: dict[str, Any] = {
            "budget.balance": self.balance,
            "budget.capacity": self.capacity,
        }
        if self._shared is not None:
            status |= self._shared.status()
        return status

    def reset(self, *, fleet: bool = False) -> None:
        """Fill it; of a shared one this process forgets what it was told.

        Args:
            fleet: Fill it for all processes that share it; see
                `RateLimiter.reset`.

        Raises:
            ValueError: `fleet`, and it is not shared.
        """
        if fleet:
            fleet_of(self, self._shared)
        if self._shared is not None:
            self._shared.reset(fleet=fleet)
            return
        with self._lock:
            machine = self._machine
            self._machine = Budget(machine.ratio, machine.capacity, machine.per_second)


def budget_argument(
    budget: RetryBudget | Literal["own"] | None,
    own: Callable[[], RetryBudget],
    policy: Policy[Any],
) -> RetryBudget | None:
    """Return what a policy withdraws from; None: it may do without.

    Args:
        budget: The policy's argument.
        own: Makes a budget of its own.
        policy: The policy.

    Raises:
        TypeError: `budget` is none of the choices.
    """
    if isinstance(budget, RetryBudget):
        budget.join(policy)
        return budget
    if budget is None:
        return None
    if not isinstance(budget, str) or budget != "own":
        raise TypeError(
            f'`budget` must be a RetryBudget, "own" or None, got {budget!r}'
        )
    return own()
