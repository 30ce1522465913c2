"""The edge of functions that `contextlib` made context managers of.

Ground rules:

* Entering is the attempt. The block runs once, outside of the call; permits
  that last as long as the call's work are given back at its exit.
* What the block raises is its own, whatever the manager makes of it, and is
  no failure of what was entered. An exit that fails after a good block is one
  and, as the later items of a stream, never tried again.
* The exit always runs, and no limit of ours bounds it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any

from resilient._calls.call import AnyPolicy
from resilient._calls.outcome import Outcome, UnaskedOutcome
from resilient._edges.generators import (
    Inside,
    Stream,
    async_generator_edge,
    generator_edge,
)
from resilient._values.callables import name_of


class Stay(Stream):
    """A context manager, from the call to its exit."""

    __slots__ = ()

    def __enter__(self) -> None:
        # NB: as in a stream, but for the limits.
        self.call.task = None
        self.call.inherit()
        self._inside = Inside(self.call)
        self._inside.__enter__()

    def first(self, item: Any) -> Outcome:
        outcome = super().first(item)
        if item is None:
            # As of a block: what is entered has no value.
            outcome = UnaskedOutcome()
            outcome.ongoing = self.ongoing
        return outcome

    def failed(self, error: BaseException) -> None:
        if self.thrown and isinstance(error, Exception):
            self.last = Outcome()
        else:
            super().failed(error)


def manager_edge(
    policy: AnyPolicy, fn: Callable[..., AbstractContextManager[Any]]
) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for what `contextmanager` made."""

    def entered(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with fn(*args, **kwargs) as value:
            yield value

    return contextmanager(generator_edge(policy, entered, name_of(fn), Stay))


def async_manager_edge(
    policy: AnyPolicy, fn: Callable[..., AbstractAsyncContextManager[Any]]
) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for what `asynccontextmanager` made."""

    async def entered(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with fn(*args, **kwargs) as value:
            yield value

    return asynccontextmanager(async_generator_edge(policy, entered, name_of(fn), Stay))
