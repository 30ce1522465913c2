"""Which key a policy is made for: what a PerKey says while its factory runs.

A factory makes policies without telling them the key. Those that share their state
through a store take it from here, so that each key has a state of its own, in all
processes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextvars import ContextVar, copy_context
from typing import Any, Final, NamedTuple, TypeVar

Made = TypeVar("Made")


class MadeFor(NamedTuple):
    """What is being made.

    Attributes:
        keys: The keys of the PerKeys that it stands in, from the outermost on.
        common: What all keys of the outermost have in common: one object each for a
            store and a name.
    """

    keys: tuple[Hashable, ...]
    common: dict[Hashable, Any]

    def make(self, make: Callable[..., Made], *args: Any) -> Made:
        """Call a function that makes policies for these keys.

        NB: in a copy of the context, which an interrupt cannot leave set.
        """
        context = copy_context()
        context.run(MADE_FOR.set, self)
        return context.run(make, *args)


MADE_FOR: Final[ContextVar[MadeFor | None]] = ContextVar("MADE_FOR", default=None)
"""What is being made; None: no policy for a key."""
