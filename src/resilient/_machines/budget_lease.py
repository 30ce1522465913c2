"""A member's part of a retry budget that a whole fleet shares.

The store's bucket is the balance: what trickles in refills it, successes are
deposits. The promise: all members together withdraw at most
``capacity + ratio * successes + per_second * t``; one capacity, not one each.

A retry waits for its backoff anyway, so it may wait for a store's answer as
well: a member keeps no units between retries (a `Lease` of 0), and one
exchange answers for all calls that wait. What is free of the network is what
happens often: a success, which is paid in with the next exchange, at most
every `SYNC` seconds, and a retry that the last answer rules out.

What a store loses begins empty, as every bucket does (`shared_bucket`): what
a member saw last may have been spent by others since. A busy fleet's
successes fill it at once, and a quiet one's trickle in time.

Without the store a member has its part of the balance that it saw last, and
what its own successes pay in, up to its part of the capacity; never less
than one retry may be saved up, for its own successes have paid for it. It
tells the store afterwards what it withdrew and paid in.

Priorities (`budget.reserve_for`) go by the balance that was seen last.
"""

from __future__ import annotations

import math
from typing import Final

from resilient._machines.budget import Budget, reserve_for
from resilient._machines.lease import Lease, Lost
from resilient._machines.rate_limits import TokenBucket
from resilient._machines.shared_bucket import Answer, Ask
from resilient._values.priority import Priority

__all__ = ["BudgetLease"]

# Seconds between two exchanges that successes bring about: while something is
# missing from the budget, and while nothing is.
_SYNC: Final = 0.5
_SYNC_FULL: Final = 2.0

# A store forgets a bucket when it is full again, so that it has to be, some day.
_DAY: Final = 86400.0

_ROUNDING: Final = 1e-9


class BudgetLease(Lease):
    """Decides whether one more retry of one member may be afforded.

    Args:
        budget: The numbers of the budget. Without `per_second` the store's
            is full again after a day.
        patience: Seconds to wait for an answer.
        members: How many are assumed to share it: see `Lease`.
        lost: What to do without the store: see `Lease`.
    """

    __slots__ = ("_at_rest_until", "_paid", "_paid_told", "_ratio", "_syncs_from")

    def __init__(
        self,
        budget: Budget,
        *,
        patience: float = 0.05,
        members: int = 16,
        lost: Lost = "share",
    ) -> None:
        self._ratio = budget.ratio
        capacity = budget.capacity
        super().__init__(
            max(budget.per_second, capacity / _DAY),
            1.0,
            capacity,
            lease=0.0,
            patience=patience,
            members=members,
            lost=lost,
        )

    def forget(self) -> None:
        super().forget()
        self._paid = self._paid_told = 0.0
        self._syncs_from = self._at_rest_until = -math.inf

    def withdraw(self, now: float, amount: float, priority: Priority) -> float:
        """Take `amount` if it can be afforded.

        Returns:
            0.0: taken. Else the seconds until an answer is there at most, or
            infinity: it is refused.
        """
        if self._cut is None or self._share is not None:
            reserve = reserve_for(self.pace.capacity, priority)
            known = self._recall is not None or self._cut is not None
            if known and reserve and self.level(now) < reserve + amount - _ROUNDING:
                # NB: others may have paid in, which only an answer tells.
                self.due = self.due or now >= self._syncs_from
                return math.inf
        if self.try_take(now, amount) == 0.0:
            return 0.0
        return self.grace(now) or math.inf

    def deposit(self, now: float) -> None:
        """Pay in for one success."""
        if self._cut is None:
            self._paid = min(self._whole.capacity, self._paid + self._ratio)
        elif self._share is not None:
            room = self._share.pace.capacity - self._share.level(now)
            paid = min(self._ratio, room)
            self._share.book(now, -paid)
            self._paid += paid
        self.due = self.due or self._cut is not None or now >= self._syncs_from

    def at_rest(self, now: float) -> bool:
        """Whether a success has nothing to pay in; may be read without a lock."""
        return now < self._at_rest_until

    def cut(self, since: float) -> None:
        if self._cut is not None:
            return
        balance = self._own_level(since)
        super().cut(since)
        self._at_rest_until = -math.inf
        if self.lost == "share":
            part = 1.0 / self._sharers(since)
            capacity = max(1.0, self._burst * part)
            self._share = TokenBucket(self.in_force * part, 1.0, capacity)
            self._share.take(since, capacity - max(0.0, balance) * part)
            self.pace = self._share.pace

    def absorb(self, now: float, answer: Answer, *, up: bool = True) -> None:
        super().absorb(now, answer, up=up)
        full = answer.level >= answer.capacity
        self._syncs_from = now + (_SYNC_FULL if full else _SYNC)
        self._at_rest_until = self._syncs_from if full and up else -math.inf
        # What others pay in makes a refusal void.
        self._asks_from = min(self._asks_from, now + _SYNC)
        if answer.level >= self._least:
            self._asks_from = -math.inf

    def fail(self, now: float, *, sent: bool = True) -> None:
        if not sent and self._sent is not None:
            self._paid += self._paid_told
        super().fail(now, sent=sent)

    def _own_level(self, now: float) -> float:
        # NB: what is paid into a share is in it already.
        paid = self._paid if self._cut is None else 0.0
        return min(self._whole.capacity, super()._own_level(now) + paid)

    def _has_news(self, now: float) -> bool:
        return now >= self._syncs_from or self._paid > 0.0 or super()._has_news(now)

    def _told(self, now: float) -> Ask:
        self._paid_told, self._paid = self._paid, 0.0
        self._syncs_from = now + _SYNC
        # What ran over in a share was not paid in: see `deposit`.
        return super()._told(now)._replace(deposit=self._paid_told, excess=0.0)
