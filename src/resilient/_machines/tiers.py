"""Which tier of a set gets a call, and which member an affinity prefers.

Ground rules:

* The members of the lowest tier get the calls. While too many of them take no
  part, those of the next tier get the rest.
* A tier takes over as much as 1.4 times the share of it that takes part: of
  three, two carry what three do, but for 7 %; one carries 47 %.
* Where no member of any tier takes part, all of the lowest do.
* An affinity gives each key an order of the members, which changes by no more
  than what joins and leaves (rendezvous hashing). The first of it is taken that
  has no more than 1.25 times its share of the calls in flight.

Nothing is drawn here: chance, and what keys and members hash to, are arguments.

Source: Envoy, *Priority levels* and its overprovisioning factor; D. Thaler and
C. Ravishankar, *A Name-Based Mapping Scheme for Rendezvous*, 1996; V. Mirrokni
and others, *Consistent Hashing with Bounded Loads*, 2016, for the limit.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from math import ceil, log
from typing import Final, NamedTuple, cast

from resilient._machines.endpoint_load import Member

__all__ = ["Tier", "by_affinity", "candidates", "spot_of", "tiers_of"]

_HEADROOM: Final = 1.4
"""Envoy's overprovisioning factor."""

_BOUND: Final = 1.25
"""Calls in flight to a member, in shares of its own, from which on the calls of
its keys go to the next."""

_BITS: Final = 2**64 - 1


class Tier(NamedTuple):
    """A tier that may get calls.

    Attributes:
        members: Those that take part.
        until: The share of the calls that it and those before it get.
    """

    members: list[Member]
    until: float


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


def tiers_of(staying: Sequence[Member], ready: Collection[Member]) -> list[Tier]:
    """Return the tiers of a set, the lowest first; at least one has members.

    Args:
        staying: The members that do not drain; at least one.
        ready: Those of them that take part.
    """
    given, tiers = 0.0, list[Tier]()
    for level in sorted({member.tier for member in staying}):
        members = [member for member in staying if member.tier == level]
        fit = [member for member in members if member in ready]
        given = min(1.0, given + _HEADROOM * len(fit) / len(members))
        tiers.append(Tier(fit, given))
    if not given:
        lowest = min(member.tier for member in staying)
        return [Tier([member for member in staying if member.tier == lowest], 1.0)]
    return [Tier(members, until / given) for members, until in tiers]


def candidates(
    tiers: Sequence[Tier],
    drawn: float,
    tried: Collection[Member],
    refused: Collection[Member],
) -> list[Member]:
    """Return the members of one tier that may get a call.

    That is the tier that was drawn, or else the next one that has any; members
    that were tried are avoided where any tier has another.

    Args:
        tiers: All of them.
        drawn: A random number, uniform in [0, 1).
        tried: Members that are avoided.
        refused: Members that are not chosen at all.
    """
    place = 0
    while tiers[place].until <= drawn and place + 1 < len(tiers):
        place += 1
    pools = [
        [member for member in tier.members if member not in refused]
        for tier in (*tiers[place:], *tiers[:place])
    ]
    fresh = [[member for member in pool if member not in tried] for pool in pools]
    return next((pool for pool in (*fresh, *pools) if pool), list[Member]())


def by_affinity(pool: Sequence[Member], key: int) -> Member:
    """Return the member that a key prefers, and that is not busier than most.

    Args:
        pool: Members that may be chosen; at least one.
        key: What the key hashes to, 64 bits.
    """
    order = sorted(pool, key=lambda member: _score(member, key))
    calls = sum(member.in_flight for member in pool) + 1
    weights = sum(member.weight for member in pool)
    # NB: there is one, or all together had more than all the calls.
    return next(
        member
        for member in order
        if member.in_flight < ceil(_BOUND * calls * member.weight / weights)
    )


def _score(member: Member, key: int) -> float:
    """Return a number for both that chance may have drawn; the lowest wins."""
    mixed = (member.spot ^ key) * 0x9E3779B97F4A7C15 & _BITS
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _BITS
    return -log(((mixed ^ mixed >> 32) + 1) / (_BITS + 2)) / member.weight
