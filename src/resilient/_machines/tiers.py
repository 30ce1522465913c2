"""Which tier of a set gets a call.

Ground rules:

* The members of the lowest tier get the calls. While too many of them take no
  part, those of the next tier get the rest.
* A tier takes over as much as 1.4 times the share of it that takes part: of
  three, two carry what three do, but for 7 %; one carries 47 %.
* Where no member of any tier takes part, all of the lowest do.

Nothing is drawn here: chance is an argument.

Source: Envoy, *Priority levels* and its overprovisioning factor.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from resilient._machines.endpoint_load import Member

__all__ = ["Tier", "candidates", "tiers_of"]

_HEADROOM: Final = 1.4
"""Envoy's overprovisioning factor."""


class Tier(NamedTuple):
    """A tier that may get calls.

    Attributes:
        members: Those that take part.
        until: The share of the calls that it and those before it get.
    """

    members: list[Member]
    until: float


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
