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
alone      the store is known to be lost (`cut`)   the same
========== ======================================= ==========================

Ground rules:

- What is claimed: what runs and waits, and one more; or as much as ran at
  once lately. Where others lack slots, what runs and waits alone.
- A lease counts from before it was asked for. When it is over no call begins;
  those that run go on, and are claimed again.
- A lease is renewed at a quarter of it, for as long as something is held.
- Without the store a member has its lease to its end, and, when all others'
  have ended as well, an equal part of the limit.
- One claim is on its way at a time.
"""

from __future__ import annotations

import math
from typing import Final

from resilient._machines.allotment import Claim, Grant
from resilient._machines.lease import Lost

__all__ = ["LEASE", "Holding"]

LEASE: Final = 2.0
"""Seconds of a lease: a process that is killed costs its slots for so long."""

_BEATS: Final = 4
# Seconds between two claims of a member that lacks slots.
_PAUSE: Final = 0.04
# A count of the members is to be relied on when it has gone on for so long.
_SEEN: Final = 60.0


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
        is_cut: Whether it does without the store.
        exchanges, exchange_time: Answers, and what they took together.
    """

    __slots__ = (
        "_asks_from",
        "_assumed",
        "_awaited_from",
        "_counted_from",
        "_cut_at",
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
        self._cut_at = -math.inf
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
        held = self._slots if now < self._until else 0
        if self.is_cut and self._lost == "share" and now >= self._cut_at + self._lease:
            sharers = self.members
            if now - self._counted_from < _SEEN:
                sharers = max(sharers, self._assumed)
            return max(held, self.in_force // sharers)
        return held

    def asks(self, now: float) -> float:
        """Take note of a call without a slot; return how long to wait, at most."""
        if self.is_cut or now < self._asks_from:
            return 0.0
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
            return None
        self._sent = now
        need = in_use + queued + self.missed
        self.missed = 0
        wants = need
        if not self._lacking:
            self._peak = max(need, self._peak - max(1, self._peak // _BEATS))
            wants = min(self.limit, self._peak + 1 if self._peak else 0)
        held = self._slots if now < self._until else 0
        # NB: the local limit is lowered before the store is told.
        self._slots = min(held, max(in_use, wants))
        keeps = max(in_use, self._slots)
        self._needed, self._wanted = need, max(wants, keeps)
        seq, time, elapsed = 0.0, 0.0, -1.0
        if self._recall is not None:
            seq, time, at = self._recall
            elapsed = now - at
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
        self._recall = (grant.seq, grant.time, now)
        self._returns = False
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
        self.cut(now if self._awaited_from is None else self._awaited_from)

    def cut(self, since: float) -> None:
        """Do without the store, as it has not answered since then."""
        if self.is_cut:
            return
        self.is_cut = True
        self._cut_at = since
        self._awaited_from = None
        self.next_at = math.inf

    def restore(self, now: float) -> None:
        """Rely on the store again; say first what runs."""
        self.is_cut = False
        self._returns = True
        self._slots, self._until = 0, -math.inf
        self._asks_from = -math.inf
        self.next_at = now

    def see(self, now: float, members: int) -> None:
        """Take note of how many members the store has seen in the last minute."""
        self.members = max(1, members)
        self._counted_from = min(self._counted_from, now)
