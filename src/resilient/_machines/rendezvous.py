"""Which members of a set a key prefers, in an order that hardly changes.

Ground rules:

* Each key has an order of all members, by a number made of both (rendezvous
  hashing). Of members that join or leave, nothing but their own places changes.
* An affinity takes the first member of that order that has no more than 1.25
  times its share of the calls in flight.
* A choice of some of many takes the first of the order of a key that the chooser
  has drawn for itself: where one of them leaves, the next comes, and no other
  changes.

Nothing is drawn here: what keys and members hash to is an argument.

Source: D. Thaler and C. Ravishankar, *A Name-Based Mapping Scheme for
Rendezvous*, 1996; V. Mirrokni and others, *Consistent Hashing with Bounded
Loads*, 2016, for the limit; gRPC proposal A68 for some of many.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from heapq import nlargest
from math import ceil, log
from typing import Final, TypeVar, cast

from resilient._machines.endpoint_load import Member

__all__ = ["Affinities", "some_of", "spot_of"]

T = TypeVar("T")

_BOUND: Final = 1.25
"""Calls in flight to a member, in shares of its own, from which on the calls of
its keys go to the next."""

_FIRSTS: Final = 3
"""Members of a key's order that are kept: the first, and two where it is busy."""

_MOST_KEYS: Final = 10_000
"""Keys that these are kept of: two megabytes at most."""

_BITS: Final = 2**64 - 1


def spot_of(key: Hashable) -> int:
    """Return 64 bits for a key: for texts and numbers the same in each process.

    Raises:
        TypeError: It is not hashable; its text does not show it.
    """
    if _is_plain(key):
        # NB: loaded where it is needed: it takes longer than this package's own.
        from hashlib import blake2b

        data = repr(key).encode("utf-8", "surrogatepass")
        return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
    try:
        return hash(key) & _BITS
    except TypeError:
        raise TypeError(
            f"a key of a Balance must be hashable, got an object of {type(key)}"
        ) from None


def _is_plain(key: object) -> bool:
    if isinstance(key, tuple):
        return all(map(_is_plain, cast("tuple[object, ...]", key)))
    return type(key) in (str, bytes, int, bool, float)


class Affinities:
    """Which member each key prefers, of members that stay the same for long.

    The first of a key's order are kept, for at most `_MOST_KEYS` keys: to find
    them takes a number for each member.

    Args:
        pool: Members that may be chosen; at least one.
    """

    __slots__ = ("_firsts", "_pool", "_spots", "_total", "_weights")

    def __init__(self, pool: Sequence[Member]) -> None:
        self._pool = pool
        self._spots = [member.spot for member in pool]
        weights = [member.weight for member in pool]
        self._total = sum(weights)
        self._weights = weights if len(set(weights)) > 1 else None
        self._firsts: dict[int, list[Member]] = {}

    def choose(self, key: int) -> Member:
        """Return the member that a key prefers, and that is not busier than most.

        Args:
            key: What the key hashes to, 64 bits.
        """
        firsts = self._firsts.get(key)
        if firsts is None:
            if len(self._firsts) >= _MOST_KEYS:
                self._firsts.clear()
            firsts = self._firsts[key] = self._order(key, _FIRSTS)
        if firsts[0].in_flight == 0:
            # What follows, where nothing needs to be added up.
            return firsts[0]
        share = _BOUND * (sum([member.in_flight for member in self._pool]) + 1)
        share /= self._total
        for member in firsts:
            if member.in_flight < ceil(share * member.weight):
                return member
        # NB: there is one, or all together had more than all the calls.
        return next(
            member
            for member in self._order(key, len(self._pool))
            if member.in_flight < ceil(share * member.weight)
        )

    def _order(self, key: int, size: int) -> list[Member]:
        """Return the first members of a key's order."""
        scores = _scores(self._spots, self._weights, key)
        places = nlargest(size, range(len(scores)), scores.__getitem__)
        return [self._pool[place] for place in places]


def some_of(
    things: Iterable[T], size: int, key: int, spot: Callable[[T], int]
) -> list[T]:
    """Return the first things of a key's order, in their own order.

    Args:
        things: All of them.
        size: How many at most.
        key: 64 bits.
        spot: Returns what a thing hashes to, 64 bits.
    """
    everything = list(things)
    scores = _scores(list(map(spot, everything)), None, key)
    places = nlargest(size, range(len(scores)), scores.__getitem__)
    return [everything[place] for place in sorted(places)]


def _scores(
    spots: Sequence[int], weights: Sequence[float] | None, key: int
) -> list[float]:
    """Return a number for each that chance may have drawn; the highest wins.

    Args:
        spots: What they hash to, 64 bits each.
        weights: Their shares; None: all are equal.
        key: 64 bits.
    """
    # NB: in one piece, for there may be many: a function takes as long again.
    mixed: list[float] = [
        (
            last := ((first := (spot ^ key) * 0x9E3779B97F4A7C15 & _BITS) ^ first >> 32)
            * 0xD6E8FEB86659FD93
            & _BITS
        )
        ^ last >> 32
        for spot in spots
    ]
    if weights is None:
        return mixed
    return [
        log((number + 1) / (_BITS + 2)) / weight
        for number, weight in zip(mixed, weights, strict=True)
    ]
