"""What `health` shows besides policies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol
from weakref import WeakValueDictionary


class Shown(Protocol):
    """Something that `health` shows by its name; None: it does not."""

    @property
    def name(self) -> str | None: ...

    def status(self) -> dict[str, Any]:
        """Return how it is: only what JSON has."""
        ...


_living: WeakValueDictionary[int, Shown] = WeakValueDictionary()


def show(thing: Shown) -> None:
    """Have `health` show something for as long as it is there."""
    _living[id(thing)] = thing


def shown() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the status of each of them that has a name."""
    for reference in _living.valuerefs():
        thing = reference()
        if thing is not None and thing.name is not None:
            yield thing.name, thing.status()
