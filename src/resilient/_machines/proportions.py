"""Choose in proportion to weights: by chance, or each in its turn.

Ground rules:

* Chance is an argument: a function that gives the next number in [0, 1).
* Of equal weights no sums are kept: `running_sums` is None, and the owner
  draws places by itself.
* A turn is due at a moment of a time of its own, in which a member of weight w
  has its n-th turn at n / w. The member that is due first is next, so that
  each gets its exact share, and as evenly spread as can be. The first in the queue
  is drawn, or a thousand clients would begin with the same one.
* Who comes back after a while has its turn among the others, and not all
  those that it has missed.

Source: earliest deadline first, as in Envoy's weighted round robin.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from heapq import heapify, heapreplace
from itertools import accumulate
from math import ceil
from typing import Generic, Protocol, TypeVar

__all__ = ["Turns", "Weighted", "draw_other_place", "draw_place", "running_sums"]


class Weighted(Protocol):
    """What turns are given to.

    Attributes:
        weight: Its share, relative to the others'; above 0.
        turns: How many turns it has had, or let pass.
    """

    weight: float
    turns: int


M = TypeVar("M", bound=Weighted)


def running_sums(pool: Sequence[Weighted]) -> list[float] | None:
    """Return the sum of the weights up to each; None where all are equal."""
    weights = [member.weight for member in pool]
    return list(accumulate(weights)) if len(set(weights)) > 1 else None


def draw_place(sums: Sequence[float], drawn: float) -> int:
    """Return a place, drawn in proportion to the weights."""
    # NB: a product with a number below 1 may round up to the whole.
    return min(bisect_right(sums, drawn * sums[-1]), len(sums) - 1)


def draw_other_place(sums: Sequence[float], place: int, drawn: float) -> int:
    """Return a place other than the given one, in proportion to the weights."""
    weight = sums[place] - (sums[place - 1] if place else 0.0)
    at = drawn * (sums[-1] - weight)
    if at >= sums[place] - weight:
        at += weight
    other = min(bisect_right(sums, at), len(sums) - 1)
    # NB: beside a weight that is next to nothing it may be the same one, by
    # rounding.
    return other if other != place else (place + 1) % len(sums)


class Turns(Generic[M]):
    """Whose turn it is; see the module."""

    __slots__ = ("_due", "_now")

    def __init__(self) -> None:
        # A heap of (when it is due, place, member).
        self._due: list[tuple[float, int, M]] = []
        self._now = 0.0

    def interrupt(self) -> None:
        """Line up anew at the next turn: other members take part."""
        self._due = []

    def next(self, pool: Sequence[M], draw: Callable[[], float]) -> M:
        """Return the member whose turn it is.

        Args:
            pool: Who takes part; the same as last time, unless `interrupt`
                was called.
            draw: Gives the next random number, uniform in [0, 1).
        """
        if not self._due:
            start = int(draw() * len(pool))
            for place, member in enumerate(pool):
                passed = ceil(self._now * member.weight) - 1
                # NB: no more either: it had more where its weight was greater.
                member.turns = min(max(member.turns, passed), passed + 1)
                due = (member.turns + 1) / member.weight
                self._due.append((due, (place - start) % len(pool), member))
            heapify(self._due)
        self._now, place, member = self._due[0]
        member.turns += 1
        # NB: made of a whole number: a sum of fractions would drift.
        heapreplace(self._due, ((member.turns + 1) / member.weight, place, member))
        return member
