"""RetryBudget: how many retries a process can afford."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from resilient._machines.budget import Budget
from resilient._runtimes import clock
from resilient._values.locks import Lock, ReenteredError
from resilient._values.priority import Priority


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

    Raises:
        TypeError, ValueError: An argument is no number in range.

    Source: Finagle's RetryBudget and gRPC A6, fed by successes because of
    *Metastable Failures in Distributed Systems* (HotOS 2021).
    """

    __slots__ = ("__weakref__", "_lock", "_machine")

    def __init__(
        self, ratio: float = 0.1, capacity: float = 10.0, per_second: float = 0.1
    ) -> None:
        self._machine = Budget(ratio, capacity, per_second)
        self._lock = Lock()

    def __repr__(self) -> str:
        machine = self._machine
        return (
            f"RetryBudget({machine.ratio:g}, {machine.capacity:g},"
            f" {machine.per_second:g})"
        )

    def __reduce__(self) -> tuple[type[RetryBudget], tuple[float, float, float]]:
        # A copy by any protocol is made of the same arguments, and full.
        machine = self._machine
        arguments = (machine.ratio, machine.capacity, machine.per_second)
        return type(self), arguments

    def deposit(self) -> None:
        """Pay in for one success."""
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
        """Take `amount` retries; return whether there were as many."""
        try:
            return self._lock.run(self._withdraw_locked, amount, priority)
        except ReenteredError:
            # In the middle of a change, on the same thread.
            return False

    def _withdraw_locked(self, amount: float, priority: Priority) -> bool:
        return self._machine.withdraw(clock.now(), amount, priority)

    @property
    def balance(self) -> float:
        """Retries that could be taken now."""
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

    def reset(self) -> None:
        """Fill it."""
        with self._lock:
            machine = self._machine
            self._machine = Budget(machine.ratio, machine.capacity, machine.per_second)


def budget_argument(
    budget: RetryBudget | Literal["own"] | None, own: Callable[[], RetryBudget]
) -> RetryBudget | None:
    """Return what a policy withdraws from; None: it may do without.

    Args:
        budget: The policy's argument.
        own: Makes a budget of its own.

    Raises:
        TypeError: `budget` is none of the choices.
    """
    if budget is None or isinstance(budget, RetryBudget):
        return budget
    if not isinstance(budget, str) or budget != "own":
        raise TypeError(
            f'`budget` must be a RetryBudget, "own" or None, got {budget!r}'
        )
    return own()
