"""Single flight: which callers wait for which execution.

Ground rules:

* An execution is run once for several callers that wait for it. A caller that
  asks for a key with an execution joins it; else one begins with the caller.
* It is found by its key until it finishes or the last waiter has left. From
  then on the key is free, even while what was cancelled still cleans up.
* Every method that ends an execution returns so once: a finish after the last
  leave, or a leave after the finish, changes nothing.

============ =========================== ==================================
call         execution is under way      execution has ended
============ =========================== ==================================
join         one waiter more             (not called: it is not found)
leave        one less; True for the      False
             last: the execution is over
finish       all waiters, in order       none
============ =========================== ==================================

A waiter may itself be inside other executions: those will not finish before
the one it waits for. So executions wait for executions, and `closes_circle`
tells which callers must not join.

Deliberately not modelled: what an execution is, where it runs, and its result.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, TypeVar


class WaitingCall:
    """A caller that waits for an execution.

    Attributes:
        around: The executions that it is inside of.
    """

    __slots__ = ("around",)

    def __init__(self, around: Collection[Execution] = ()) -> None:
        self.around: Collection[Execution] = around


class Execution:
    """One execution.

    Attributes:
        key: What it is found by.
        waiters: The callers that wait for it, in the order they came.
        abandoned: Whether all have left before it could finish.
        over: Whether it has ended, or was abandoned.
    """

    __slots__ = ("abandoned", "key", "over", "waiters")

    def __init__(self, key: Hashable, first: WaitingCall) -> None:
        self.key: Hashable = key
        self.waiters: dict[WaitingCall, None] = {first: None}
        self.abandoned: bool = False
        self.over: bool = False


F = TypeVar("F", bound=Execution)


class Executions(Generic[F]):
    """The executions that are under way, one a key."""

    __slots__ = ("_under_way",)

    def __init__(self) -> None:
        self._under_way: dict[Hashable, F] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def find(self, key: Hashable) -> F | None:
        """Return the execution of a key, if one is under way."""
        return self._under_way.get(key)

    def begin(self, execution: F) -> None:
        """Have it found by its key, which has none."""
        self._under_way[execution.key] = execution

    def join(self, execution: F, waiting: WaitingCall) -> None:
        """Wait for it too."""
        execution.waiters[waiting] = None

    def leave(self, execution: F, waiting: WaitingCall) -> bool:
        """Stop waiting; return whether no caller waits any more."""
        if waiting not in execution.waiters:
            return False
        del execution.waiters[waiting]
        if execution.waiters:
            return False
        execution.abandoned = execution.over = True
        self._forget(execution)
        return True

    def finish(self, execution: F) -> list[WaitingCall]:
        """End it; return the calls that wait for it."""
        self._forget(execution)
        waiters = list(execution.waiters)
        execution.over = True
        execution.waiters = {}
        return waiters

    def find_all(self) -> list[F]:
        """Return those that are under way."""
        return list(self._under_way.values())

    def _forget(self, execution: F) -> None:
        if self._under_way.get(execution.key) is execution:
            del self._under_way[execution.key]

    def closes_circle(self, execution: F, around: Collection[Execution]) -> bool:
        """Whether an execution waits, itself or through others, for one of `around`.

        Then no caller inside of those may join it: none would ever finish.
        """
        if not around:
            return False
        pending: list[Execution] = [execution]
        seen: set[Execution] = set()
        while pending:
            current = pending.pop()
            if current in around:
                return True
            if current in seen:
                continue
            seen.add(current)
            pending += (
                other
                for other in self._under_way.values()
                if any(current in waiting.around for waiting in other.waiters)
            )
        return False
