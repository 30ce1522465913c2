"""A member's share of a fleet's slots: how many of its calls may run.

A bulkhead of a fleet lets as many calls run as it has slots on lease
(`allotment`), and asks for more when they do not suffice.

States of a member, for a call that finds no slot free:

========== ======================================= ==========================
state      entered                                 the call
========== ======================================= ==========================
undecided  it is time to ask, or an answer is due  waits for the answer, for
                                                   `patience` seconds at most
refused    an answer granted less than was wanted  is refused, or waits in line
cut        the store is known to be lost (`cut`)   the same
========== ======================================= ==========================

Ground rules:

- What is claimed: what runs and waits, and one more; or as much as ran at
  once lately. Where others lack slots, what runs and waits alone.
- A lease counts from before it was asked for. When it is over no call begins;
  those that run go on, and are claimed again.
- A lease is renewed at a quarter of it, for as long as something is held.
- Without the store a member has its lease to its end. It has an equal part of
  the limit only once the store has answered no claim for a whole lease, and fails
  again then: all leases have ended, if the store is lost to all. A store that
  answers late is not: its grants hold, though no call waits for them.
- Who returns after such a failure claims what runs, and the store lends nothing
  new for one lease: others may have had their equal part.
- One claim is on its way at a time.
"""

from __future__ import annotations

import math
from typing import Final

from resilient._machines.allotment import Claim, Grant
from resilient._machines.contact import OVERDUE
from resilient._machines.lease import Lost

__all__ = ["LEASE", "Holding"]

LEASE: Final = 2.0
"""Seconds of a lease: a process that is killed costs its slots for so long."""

_BEATS: Final = 4
# Seconds between two claims of a member that lacks slots.
_PAUSE: Final = 0.04
# A count of the members is to be relied on when it has gone on for so long.
_SEEN: Final = 60.0
# A store notices that its clock was set by more than this: see `allotment`.
_DELAY: Final = 0.25


class Holding:
    """Decides how many calls of one member may run.

    Args:
        limit: Slots of the fleet.
        lease: Seconds that a share is good for.
        patience: Seconds that a call waits for an answer.
        members: How many are assumed to share it when the store is lost before
            its count is a minute old.
        lost: What to do without the store: "share" the limit among members,
            give out no slot ("reject"), use the whole limit "alone", or let all
            "pass".

    Attributes:
        limit: Slots of the fleet, as this member states them.
        in_force: Those in force.
        next_at: When the next claim is due; infinity: not before a call.
        members: As many as the store has seen in the last minute.
        missed: Calls without a slot that could not wait, since the last claim.
        is_cut: Whether no call waits for the store.
        is_alone: Whether it has its equal part, as all leases have ended.
        exchanges, exchange_time: Answers, and what they took together.
    """

    __slots__ = (
        "_asks_from",
        "_assumed",
        "_awaited_from",
        "_counted_from",
        "_failing_since",
        "_lacking",
        "_lease",
        "_lost",
        "_needed",
        "_peak",
        "_recall",
        "_returns",
        "_sent",
        "_slots",
        "_until",
        "_wanted",
        "exchange_time",
        "exchanges",
        "in_force",
        "is_alone",
        "is_cut",
        "limit",
        "members",
        "missed",
        "next_at",
        "patience",
    )

    def __init__(
        self,
        limit: int,
        *,
        lease: float = LEASE,
        patience: float = 0.05,
        members: int = 16,
        lost: Lost = "share",
    ) -> None:
        self.limit: int = limit
        self.in_force: int = limit
        self._lease = lease
        self.patience: float = patience
        self._assumed = members
        self._lost = lost
        self.members: int = 1
        self._counted_from = math.inf
        self.exchanges: int = 0
        self.exchange_time: float = 0.0
        # The last grant's number and time, and our time then.
        self._recall: tuple[float, float, float] | None = None
        self._peak = 0
        self.forget()

    def forget(self) -> None:
        """Drop what this member holds, as a forked child must; ask anew."""
        self.is_cut: bool = False
        self.is_alone: bool = False
        # The first failure that no answer to a claim has come after.
        self._failing_since: float | None = None
        self._returns = False
        self._slots, self._until = 0, -math.inf
        self._sent: float | None = None
        self._needed = self._wanted = 0
        self._lacking = False
        self._awaited_from: float | None = None
        self._asks_from = -math.inf
        self.next_at: float = math.inf
        self.missed: int = 0

    def allowed(self, now: float) -> int:
        """Return how many calls may run."""
        if self.is_cut:
            if self._lost == "pass":
                return 1 << 31
            if self._lost == "alone":
                return self.limit
        if self.is_alone and self._lost == "share":
            # Its lease ended before: it began before the store first failed.
            return self._part(now)
        return self._slots if now < self._until else 0

    def _part(self, now: float) -> int:
        """Return an equal part of the limit."""
        sharers = self.members
        if now - self._counted_from < _SEEN:
            sharers = max(sharers, self._assumed)
        return self.in_force // sharers

    def asks(self, now: float) -> float:
        """Take note of a call without a slot; return how long to wait, at most."""
        if self.is_cut:
            self.missed = min(self.missed + 1, self._part(now))
            return 0.0
        if now < self._asks_from:
            return 0.0
        if self._sent is not None and now - self._sent >= OVERDUE:
            self._sent = self._awaited_from = None
        if self._awaited_from is None:
            self._awaited_from = now
            self.next_at = now
        return max(0.0, self._awaited_from + self.patience - now)

    @property
    def due_by(self) -> float:
        """When an answer is awaited no longer; long ago where none is."""
        if self._awaited_from is None:
            return -math.inf
        return self._awaited_from + self.patience

    def freed(self, now: float) -> None:
        """Take note that a call has ended."""
        if self._lacking and self._sent is None and not self.is_cut:
            self.next_at = now

    def collect(self, now: float, id_: str, in_use: int, queued: int) -> Claim | None:
        """Return what to claim now; None: a claim is on its way."""
        if self._sent is not None:
            # NB: its answer says when the next is due; due now, a store in memory
            # would be polled for ever.
            self.next_at = math.inf
            return None
        self._sent = now
        # NB: it begins nothing more until the store has heard what runs.
        self.is_alone = False
        need = in_use + queued + self.missed
        self.missed = 0
        wants = need
        if not self._lacking:
            self._peak = max(need, self._peak - max(1, self._peak // _BEATS))
            wants = min(self.limit, self._peak + 1 if self._peak else 0)
        held = self._slots if now < self._until else 0
        # NB: the local limit is lowered before the store is told.
        self._slots = min(held, wants)
        keeps = max(in_use, self._slots)
        self._needed, self._wanted = need, wants
        seq, time, elapsed = 0.0, 0.0, -1.0
        if self._recall is not None:
            seq, time, at = self._recall
            elapsed = now - at if at <= now else -1.0
        return Claim(
            id_,
            seq,
            time,
            elapsed,
            float(self.limit),
            float(keeps),
            float(need),
            float(self._wanted),
            self._lease,
            float(self._returns),
        )

    def absorb(self, now: float, grant: Grant) -> None:
        """Take note of a grant."""
        sent, self._sent = self._sent, None
        if sent is None:
            return
        self.exchanges += 1
        self.exchange_time += now - sent
        # NB: of a late answer it is not known when the store's time was that: taken
        # for a clock that was set, it would end the leases of others.
        at = now if now - sent <= _DELAY else math.inf
        self._recall = (grant.seq, grant.time, at)
        self._returns = False
        self._failing_since = None
        self._awaited_from = None
        self.in_force = int(grant.limit)
        self._slots, self._until = int(grant.slots), sent + self._lease
        self._lacking = grant.lacking > 0.0
        more = self._slots >= max(self._needed, self._wanted)
        self._asks_from = -math.inf if more else now + _PAUSE
        if self._slots < self._needed:
            self.next_at = now + _PAUSE
        elif self._slots or self._wanted:
            self.next_at = sent + self._lease / _BEATS
        else:
            self.next_at = math.inf

    def fail(self, now: float) -> None:
        """Take note that a claim was lost, or may have been."""
        self._sent = None
        self.cut(now)
        self.miss(now)

    def cut(self, now: float) -> None:
        """Have no call wait for the store, which did not answer, or late."""
        self.is_cut = True
        # A member without a grant cannot tell for how long it was so for others.
        self._returns = self._returns or self._recall is None
        self._awaited_from = None
        self.next_at = math.inf

    def miss(self, now: float) -> None:
        """Take note that the store did not answer, the first time or again."""
        if self._failing_since is None:
            self._failing_since = now
        self.is_alone = now - self._failing_since >= self._lease
        self._returns = True

    def restore(self, now: float) -> None:
        """Rely on the store again; say first what runs."""
        self.is_cut = False
        self._asks_from = -math.inf
        self.next_at = now

    def see(self, now: float, members: int) -> None:
        """Take note of how many members the store has seen in the last minute."""
        self.members = max(1, members)
        self._counted_from = min(self._counted_from, now)
