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
from heapq import nsmallest
from math import ceil, log
from typing import Final, TypeVar, cast

from resilient._machines.endpoint_load import Member

__all__ = ["by_affinity", "some_of", "spot_of"]

T = TypeVar("T")

_BOUND: Final = 1.25
"""Calls in flight to a member, in shares of its own, from which on the calls of
its keys go to the next."""

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


def by_affinity(pool: Sequence[Member], key: int) -> Member:
    """Return the member that a key prefers, and that is not busier than most.

    Args:
        pool: Members that may be chosen; at least one.
        key: What the key hashes to, 64 bits.
    """
    order = sorted(pool, key=lambda member: _score(member.spot, member.weight, key))
    calls = sum(member.in_flight for member in pool) + 1
    weights = sum(member.weight for member in pool)
    # NB: there is one, or all together had more than all the calls.
    return next(
        member
        for member in order
        if member.in_flight < ceil(_BOUND * calls * member.weight / weights)
    )


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
    places = nsmallest(
        size,
        range(len(everything)),
        lambda place: _score(spot(everything[place]), 1.0, key),
    )
    return [everything[place] for place in sorted(places)]


def _score(spot: int, weight: float, key: int) -> float:
    """Return a number for both that chance may have drawn; the lowest wins."""
    mixed = (spot ^ key) * 0x9E3779B97F4A7C15 & _BITS
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _BITS
    return -log(((mixed ^ mixed >> 32) + 1) / (_BITS + 2)) / weight
