"""So many slots for a whole fleet: what a store does with a claim.

Each member holds a *share* of the slots on lease, and lets as many calls run
as it has. It *claims* (`Claim`) what it keeps and what it wants, and a store
*grants* (`Grant`), at one moment of the store's own clock, in one step that
nothing interrupts. `allot` is that step, and the specification of the script
that a server runs: a test replays drawn histories through both.

The promise: the shares that count add up to no more than the limit. A member
keeps to its share, and to nothing once its lease, which began before it
asked, is over; it lowers its own limit before it says that it keeps less.

Ground rules:

- What a member keeps it has: calls run in it. What it wants more is what is
  free; where others got less than they wanted, no more than an equal part.
- A store that knows less than the member (it was restarted empty, flushed, or
  is an old copy: its `seq` is lower) cannot tell what others have. For one
  lease it *learns*: all keep what they say, and nothing new is lent. So it does
  when a member returns that has done without it, and when the leases of all
  others ended lately and none gave its slots back: they may have lost it.
- A clock that was set is noticed by the first member that claims: its own
  clock says how long ago it claimed last. The store goes on in its own time,
  shifted by the difference.
- Two members may state different limits, as in each rolling deploy: the lower
  one holds until it has not been stated for a minute.

Deliberately not modelled: a member that runs on when its lease is over,
stopped or cut off: what it has running is beyond the limit. `Grant.seq` is a
fence for those who can check one.

Sources: Doorman, `doc/design.md` (leases, learning mode); M. Kleppmann, *How
to do distributed locking*, 2016 (fences).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["Allotment", "Claim", "Grant", "Share", "allot"]

KEEP: Final = 60.0
"""Seconds for which a lower limit holds, and a lease that ended is remembered."""

DAY: Final = 86400.0
"""Seconds that a store keeps what it knows: idleness is no loss."""

# An answer later than this is not waited for, so clocks that differ by less
# may well agree.
_DELAY: Final = 0.25


class Claim(NamedTuple):
    """What a member asks.

    Attributes:
        id: Which member it is.
        seq: `Grant.seq` of its last grant; 0.0: it has had none.
        time: `Grant.time` then ...
        elapsed: ... and the seconds since, on its own clock; below 0: none.
        limit: Slots of the fleet, as it states them.
        keeps: Slots that it keeps.
        needs: Slots that it needs for what runs and waits ...
        wants: ... and that it would rather have, with those.
        lease: Seconds that its share is good for.
        returns: 1.0: it has done without the store, as others may have.
    """

    id: str
    seq: float
    time: float
    elapsed: float
    limit: float
    keeps: float
    needs: float
    wants: float
    lease: float
    returns: float = 0.0


class Share(NamedTuple):
    """What a member has.

    Attributes:
        slots: Slots.
        until: Until when, in the store's shifted time.
        lacks: 1.0 if it needed more.
    """

    slots: float
    until: float
    lacks: float


class Allotment(NamedTuple):
    """What a store keeps.

    Attributes:
        seq: Grows with each claim.
        shift: What its clock is ahead of the time that it goes by.
        learning: Until when nothing new is lent.
        limit: Slots, the fewest that any member stated ...
        agreed: ... and when one last did; below 0: never.
        shares: What the members have.
    """

    seq: float = 0.0
    shift: float = 0.0
    learning: float = 0.0
    limit: float = 0.0
    agreed: float = -1.0
    shares: Mapping[str, Share] = {}


class Grant(NamedTuple):
    """What a store says.

    Attributes:
        seq: Grows with each claim of any member: a fence.
        time: The time that the store goes by.
        slots: What the member has.
        limit: Slots of the fleet, in force.
        members: How many have or want slots.
        lacking: How many of the others needed more than they have.
    """

    seq: float
    time: float
    slots: float
    limit: float
    members: float
    lacking: float


def allot(known: Allotment, now: float, claim: Claim) -> tuple[Allotment, Grant]:
    """Grant one claim.

    NB: a script does the same, operation by operation: change both.

    Args:
        known: What the store has.
        now: The store's time, in seconds.
        claim: What is claimed.

    Returns:
        What the store has then, and what it says.
    """
    seq, shift, learning = known.seq, known.shift, known.learning
    time = now - shift
    if claim.elapsed >= 0.0:
        jump = time - claim.time - claim.elapsed
        if jump > _DELAY or jump < -_DELAY:
            shift = shift + jump
            time = now - shift
    ended = own = -math.inf
    for member, share in known.shares.items():
        if member == claim.id:
            own = share.until
        elif share.slots > 0.0:
            ended = max(ended, share.until)
    silent = max(ended, own) <= time < ended + KEEP
    if claim.seq > seq or claim.returns == 1.0 or silent:
        learning = time + claim.lease
    seq = max(seq, claim.seq) + 1.0
    limit, agreed = claim.limit, known.agreed
    if agreed < 0.0 or limit <= known.limit or time - agreed >= KEEP:
        agreed = time
    else:
        limit = known.limit
    shares: dict[str, Share] = {}
    used = lacking = 0.0
    for member, share in known.shares.items():
        if member != claim.id and time < share.until:
            shares[member] = share
            used, lacking = used + share.slots, lacking + share.lacks
    members = len(shares) + 1.0
    slots = claim.keeps
    if time >= learning:
        wants = claim.wants
        if lacking > 0.0:
            wants = min(wants, max(1.0, math.floor(limit / members)))
        slots = max(slots, min(wants, limit - used))
    lacks = 1.0 if slots < claim.needs else 0.0
    if slots > 0.0 or lacks == 1.0:
        shares[claim.id] = Share(slots, time + claim.lease, lacks)
    return (
        Allotment(seq, shift, learning, limit, agreed, shares),
        Grant(seq, time, slots, limit, members, lacking),
    )
