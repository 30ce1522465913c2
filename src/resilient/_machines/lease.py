"""A member's part of a limit that a whole fleet shares: blocks on lease.

A call that has to ask a store over the network costs a round trip, and an
outage of the store is an outage of the call. So a member leases a *block* of
units, spends it by itself, and asks for the next one before it is empty.

The promise: in any t seconds all members together use at most
``burst + rate * t``. The store's bucket holds ``burst - rate * lease``. A unit
used at u was issued in [u - lease, u], since its lease counts from before it
was asked for, on one clock. So what is used in [s, s + t] was issued in
[s - lease, s + t]: at most ``(burst - rate * lease) + rate * (t + lease)``.

States of a member, for a call that its blocks cannot pay:

========== ======================================= ==========================
state      entered                                 the call
========== ======================================= ==========================
undecided  it is time to ask, or an answer is due  waits for the answer, for
                                                   `patience` seconds at most
refused    an answer granted less than was wanted  is told when to come back
alone      no answer within `patience`, or the     is paid out of this
           store is known to be lost (`cut`)       member's share, or refused
========== ======================================= ==========================

Ground rules:

- How much to ask for: what waits now, and as much as was used lately in one
  lease. Where there was not enough, no more than an equal part for each member
  (`members`), and not sooner than a fifth of a lease later.
- A share begins empty, at the moment of the ask that was not answered. So the
  sum of all shares stays within what the store's bucket would have given.
- What was used out of a share is *booked* on return; at most once, as is
  everything that a store must not count twice.
- What was not used when its lease ends is given back with the next ask, and
  counts as never taken (`shared_bucket`). Calls come in no steady stream: of
  blocks of three a quarter is left over.
- One ask is on its way at a time. A reply that comes after its ask was given
  up is dropped: what it granted is lost, on the safe side.
- A member that refuses looks at the bucket every two seconds in which it is
  called: another may have given back, or reset it. No call waits for that.
- An operator's order to reset the limit, or to set another, is told until the store
  has answered: told twice it does the same.
- A lease of 0: nothing is kept between calls. Each answer is for those who
  wait for it, however many.

Deliberately not modelled: which member is served next; priorities.

Sources: Doorman, `doc/design.md` (capacity leases, `safe_capacity`); Alibaba
Sentinel (`fallbackToLocalWhenFail`); Gubernator for what to avoid.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final, Literal, TypeAlias

from resilient._machines.contact import OVERDUE
from resilient._machines.rate_limits import Pace, RateLimit, TokenBucket
from resilient._machines.shared_bucket import NO_ORDER, Answer, Ask, Order, Recall

__all__ = ["Lease", "Lost", "lease_for"]

Lost: TypeAlias = Literal["share", "reject", "alone", "pass"]

# What a block is renewed at: with a quarter of it left, or of its time.
_RENEWED_AT: Final = 0.25

# The part of a lease between two asks of a member that was refused.
_PAUSE: Final = 0.2

# Seconds between two looks of a member that refuses.
_LOOK: Final = 2.0

# A count of the members is to be relied on when it has gone on for so long.
_SEEN: Final = 60.0

# How many answers are remembered, to say when something was issued.
_ISSUES: Final = 64

# What sums of fractions may be off by, as a share of the capacity.
_ROUNDING: Final = 1e-9


def lease_for(pace: Pace, cost: float = 1.0) -> float:
    """Return for how many seconds a block of a limit is best leased.

    At most a second, so that a crash costs little; at most a tenth of the
    burst, which shrinks by as much. 0 where a block would be less than one
    call: it would save no question, and a burst of five shall stay one.

    Args:
        pace: Its capacity is the burst.
        cost: Units that one call takes; a full bucket must have them.
    """
    rate, burst = pace.per_second, pace.capacity
    lease = min(1.0, 0.1 * burst / rate, (burst - cost) / rate)
    return lease if rate * lease >= 1.0 else 0.0


class Lease(RateLimit):
    """Decides which calls of one member pass; see the top of this module.

    Args:
        rate: Units per `per` seconds, of the whole fleet.
        per: Seconds.
        burst: Units at once, of the whole fleet; None: a period's worth, at
            least 1.
        cost: Units that one call takes, at most.
        lease: Seconds that a block is good for; None: what suits the limit.
        patience: Seconds to wait for an answer.
        members: How many are assumed to share it when the store is lost before
            its count is a minute old.
        lost: What to do without the store: "share" the limit among members,
            "reject" every call, use the whole limit "alone", or let all "pass".

    Attributes:
        due: Whether there is something to ask.
        members: As many as the store has seen in the last minute.
        in_force: Units per second that hold: less than the limit's own where
            another member has a lower figure.
        alone: Calls that were decided without the store.
        unused: Units that were still in blocks when their lease ended.
        booked: Units that were used without asking, and told to the store.
        exchanges: Answers that came in time ...
        exchange_time: ... and the seconds that were waited for them together.
        lowered: Units at once, and units per second, that hold in the place of
            its own: those of another member, which are lower; None: its own do.
    """

    __slots__ = (
        "_aside",
        "_asked_lease",
        "_asks_from",
        "_assumed",
        "_awaited_from",
        "_burst",
        "_ceiling",
        "_contended_until",
        "_cost",
        "_counted_at",
        "_counted_from",
        "_cut",
        "_demand",
        "_fast",
        "_granted",
        "_issued",
        "_issues",
        "_later",
        "_least",
        "_left",
        "_looks",
        "_looks_from",
        "_low",
        "_order",
        "_orders",
        "_owed",
        "_pieces",
        "_recall",
        "_renews",
        "_resets",
        "_sent",
        "_share",
        "_slow",
        "_spent_alone",
        "_spent_from",
        "_surplus",
        "_surplus_from",
        "_telling",
        "_told_order",
        "_told_reset",
        "_tried",
        "_until",
        "_wanted",
        "_whole",
        "alone",
        "booked",
        "due",
        "exchange_time",
        "exchanges",
        "in_force",
        "lease",
        "lost",
        "lowered",
        "members",
        "patience",
        "unused",
    )

    def __init__(
        self,
        rate: float,
        per: float = 1.0,
        burst: float | None = None,
        *,
        cost: float = 1.0,
        lease: float | None = None,
        patience: float = 0.05,
        members: int = 16,
        lost: Lost = "share",
    ) -> None:
        self._cost = cost
        self._asked_lease = lease
        self._agree(rate, per, burst)
        super().__init__(self._whole)
        self.patience: float = patience
        self.members: int = 1
        self.lost: Lost = lost
        self._assumed = members
        self._counted_from = math.inf
        self.alone: int = 0
        self.unused: float = 0.0
        self.booked: float = 0.0
        self.exchanges: int = 0
        self.exchange_time: float = 0.0
        self.lowered: tuple[float, float] | None = None
        # Units granted; of those, what was spent by calls that looked closer.
        # What the others spent is the rest, and was `_fast` at the last ask.
        self._granted: float = 0.0
        self._slow: float = 0.0
        self._fast: float = 0.0
        self._tried = 0.0  # units wanted by calls that looked closer
        self._demand: float = 0.0  # units per second
        self._counted_at = -math.inf
        self._least = cost
        self._contended_until = -math.inf
        # Our time and the store's of the last answers that granted something.
        self._issues: deque[tuple[float, float]] = deque(maxlen=_ISSUES)
        # Level, the store's time, ours, and units credited, of the last answer.
        self._recall: tuple[float, float, float, float] | None = None
        # What an operator ordered, and whether the store has not heard of it.
        self._order = NO_ORDER
        self._orders = self._resets = False
        self._told_order = NO_ORDER
        self._told_reset = False
        self._cut: float | None = None
        self._share: TokenBucket | None = None
        self._aside: TokenBucket | None = None
        self.forget()

    def _agree(self, rate: float, per: float, burst: float | None) -> None:
        """Work out the numbers of a limit."""
        pace = TokenBucket(rate, per, burst).pace
        lease = self._asked_lease
        if lease is None:
            lease = lease_for(pace, self._cost)
        elif pace.capacity - pace.per_second * lease < self._cost:
            lease = 0.0
        self._burst = pace.capacity
        pace.capacity -= pace.per_second * lease
        self._whole = pace
        self.lease: float = lease
        self.in_force: float = pace.per_second

    def forget(self) -> None:
        """Drop what this member holds, as a forked child must; ask anew."""
        self._left: float = 0.0
        self._until: float = -math.inf
        self._later: list[tuple[float, float, float]] = []
        self._granted = self.unused + self._slow + self._fast
        self._low: float = 0.0
        self._renews: float = -math.inf
        self._sent: float | None = None
        self._wanted, self._pieces = 0.0, self._cost
        self._awaited_from: float | None = None
        self._asks_from = -math.inf
        self._looks = False
        self._looks_from = -math.inf
        # What is told to the store once.
        self._owed = 0.0
        self._surplus = self._surplus_from = self._issued = 0.0
        self._spent_alone: float = 0.0
        self._spent_from: float = 0.0
        self._ceiling: float = math.inf
        # Spent, since when, given back, issued when, ceiling: of the last ask.
        self._telling: tuple[float, float, float, float, float]
        self._telling = (0.0, 0.0, 0.0, 0.0, math.inf)
        self.due: bool = False
        self.restore()

    def __repr__(self) -> str:
        pace = self._whole
        return f"Lease({pace.rate:g}, {pace.per:g}, {self._burst:g})"

    # -- Calls

    def try_take(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` if it is at hand; see `RateLimit.try_take`.

        Where it is not, and an answer is to be waited for, the wait that is
        returned is `grace` at most.
        """
        left = self._left - amount
        if left >= self._low and now < self._renews and self._hold is None:
            self._left = left
            return 0.0
        self._tried += amount
        self._least = amount or self._least
        # NB: while it is alone, the capacity is that of its share.
        if amount > self.pace.capacity and self._lacks(now, amount) > 0.0:
            wait = math.inf
        else:
            wait = self.wait(now, amount)
        if wait == 0.0:
            self.take(now, amount)
            self._look_ahead(now)
        elif self._cut is not None:
            self.alone += 1
        elif now >= self._looks_from:
            self._looks_from = now + _LOOK
            self._looks = self.due = self._sent is None
        # NB: a store without a thread is tried again by calls that miss it.
        self.due = self.due or self._cut is not None
        return wait

    def wait(self, now: float, amount: float = 1.0) -> float:
        """Return in how many seconds `amount` may be there, or the answer is.

        Unlike that of a limit of one process it is no promise: others take too.
        """
        self._drop_dead(now)
        if self._awaited_from is not None and self.grace(now) == 0.0:
            self.cut(self._awaited_from)
        if (
            self._cut is None
            and now >= self._asks_from
            and self._lacks(now, amount) > 0.0
        ):
            if self._awaited_from is None:
                self._awaited_from = now
            self.due = self._sent is None
        return super().wait(now, amount)

    def grace(self, now: float) -> float:
        """Return for how many seconds a call waits for an answer; 0: for none."""
        if self._awaited_from is None:
            return 0.0
        left = self._awaited_from + self.patience - now
        return min(self.patience, max(0.0, left))

    @property
    def due_by(self) -> float:
        """When an answer is awaited no longer; long ago where none is."""
        if self._awaited_from is None:
            return -math.inf
        return self._awaited_from + self.patience

    def take_aside(self, now: float, amount: float) -> bool:
        """Take `amount` for a call that cannot wait for an answer.

        It is paid for by this member's share, and booked.
        """
        if self._aside is None:
            part = 1.0 / self._sharers(now)
            burst = self._burst * part
            self._aside = TokenBucket(self.in_force * part, 1.0, burst)
        if self._aside.try_take(now, amount) > 0.0:
            return False
        self._owed += amount
        self.due = True
        return True

    def change(
        self, now: float, rate: float, per: float, burst: float | None = None
    ) -> None:
        """Set another limit for this member; the lowest of the fleet's holds."""
        self._agree(rate, per, burst)
        self._aside = None
        self._asks_from = -math.inf
        if self._cut is None:
            self.pace = self._whole
        else:
            self.restore()
            self.cut(now)

    def reset(self) -> None:
        """Fill the bucket of the whole fleet; forget what was answered."""
        self.forget()
        self._resets = self.due = True

    def order(self, rate: float, per: float, burst: float | None) -> None:
        """Have all members do the last `change`, which was to these numbers."""
        self._order = Order(self._order.number, rate, per, burst or 0.0)
        self._orders = self.due = True

    def news(self, answer: Answer) -> Order | None:
        """Return the order that an answer carries, if it is to be obeyed.

        A limiter that obeys it calls `change` and `obeyed`; one that cannot keeps
        to the rate in force all the same.
        """
        if self._orders and self._told_order is not self._order:
            # Our own is later.
            return None
        if answer.order_number <= self._order.number:
            return None
        if self._orders:
            # It is our own, or one that came later.
            self._orders = False
            if answer.order[1:] == self._order[1:]:
                self.obeyed(answer.order)
                return None
        return answer.order

    def obeyed(self, order: Order) -> None:
        """Take note that an order of the fleet's is in force here."""
        self._order = order

    def learn(
        self, now: float, remaining: float, reset: float, max_hold: float = math.inf
    ) -> None:
        """Obey what the server says, and tell the fleet; see `RateLimit.learn`."""
        super().learn(now, remaining, reset, max_hold)
        if self._hold is not None:
            self._ceiling = min(self._ceiling, max(0.0, remaining))

    def _own_wait(self, now: float, amount: float) -> float:
        lacking = self._lacks(now, amount)
        if lacking <= 0.0:
            return 0.0
        if self._cut is not None:
            if self._share is not None:
                return self._share.wait(now, lacking)
            return 0.0 if self.lost == "pass" else math.inf
        if now < self._asks_from:
            rest = max(0.0, lacking - self._pieces)
            return self._asks_from - now + rest / self.in_force
        # NB: never 0: it is not there.
        return self.grace(now) or self.patience

    def _own_level(self, now: float) -> float:
        level = self._have(now) - self._owed
        if self._cut is not None:
            return level + (0.0 if self._share is None else self._share.level(now))
        if self._recall is None:
            return level + self._whole.capacity
        left, _, at, _ = self._recall
        left += self.in_force * (now - at)
        return min(self._whole.capacity, level + left)

    def _bearable(self, now: float, seconds: float) -> float:
        return max(0.0, self._own_level(now) + seconds * self.in_force)

    def _spend(self, now: float, amount: float) -> None:
        self._drop_dead(now)
        while amount > 0.0 and self._left > 0.0:
            part = min(amount, self._left)
            self._left -= part
            self._slow += part
            amount -= part
            self._drop_dead(now)
        if amount <= self._whole.capacity * _ROUNDING:
            return
        if self._cut is None:
            self._owed += amount
            self.due = True
            return
        self.alone += 1
        self._spent_alone += amount
        if self._share is not None:
            self._share.take(now, amount)

    def _credit(self, now: float, amount: float, since: float | None) -> None:
        # First what the store has not been told of.
        part = min(amount, self._spent_alone)
        self._spent_alone -= part
        if self._share is not None:
            self._share.book(now, -part)
        amount -= part
        part = min(amount, self._owed)
        self._owed -= part
        self._return(amount - part, self._issue_of(now if since is None else since))

    def _issue_of(self, at: float) -> float:
        """Return when, by the store's time, what was taken at `at` was issued.

        Where that cannot be told, the earliest moment it may have been.
        """
        issued = -math.inf
        for received, time in self._issues:
            if received > at:
                break
            issued = time
            if received > at - self.lease:
                break
        return issued

    # -- Blocks

    def _have(self, now: float) -> float:
        """Return the units at hand."""
        have = self._left if now < self._until else 0.0
        for left, until, _ in self._later:
            have += left if now < until else 0.0
        return have

    def _lacks(self, now: float, amount: float) -> float:
        lacking = amount - self._have(now)
        return lacking if lacking > self._whole.capacity * _ROUNDING else 0.0

    def _drop_dead(self, now: float) -> None:
        while self._left <= 0.0 or now >= self._until:
            if self._left > 0.0:
                self.unused += self._left
                self._return(self._left, self._issued)
            self._left, self._until = 0.0, -math.inf
            if not self._later:
                return
            self._left, self._until, self._issued = self._later.pop(0)

    def _add(self, now: float, amount: float, until: float, issued: float) -> None:
        self._granted += amount
        self._issues.append((now, issued))
        if now >= until:
            self.unused += amount
            self._return(amount, issued)
        elif self._left > 0.0:
            self._later.append((amount, until, issued))
        else:
            self._left, self._until, self._issued = amount, until, issued

    def _return(self, amount: float, issued: float) -> None:
        """Have the store given back what it issued then, and was not used."""
        if amount > 0.0:
            if self._surplus == 0.0 or issued < self._surplus_from:
                self._surplus_from = issued
            self._surplus += amount

    def _look_ahead(self, now: float) -> None:
        """See whether it is time to renew a block, and when it will be."""
        self._low, self._renews = 0.0, self._until
        if (
            self.lease == 0.0
            or self._sent is not None
            or self._cut is not None
            or now < self._asks_from
        ):
            return
        low = self._demand * self.lease * _RENEWED_AT
        renews = max([self._until, *[until for _, until, _ in self._later]])
        renews -= self.lease * _RENEWED_AT
        if now >= renews or self._have(now) < low:
            self.due = True
        elif not self._later:
            self._low, self._renews = low, renews

    # -- The store

    def collect(
        self, now: float, waiting: float = 0.0, head: float = 0.0
    ) -> Ask | None:
        """Return what to ask the store now; it is then on its way.

        Args:
            now: Monotonic time in seconds.
            waiting: Units that those in the queue want together ...
            head: ... and the first of them.

        Returns:
            None: nothing, or an ask is on its way already.
        """
        self.due = False
        if self._sent is not None:
            if now - self._sent < OVERDUE:
                return None
            self.booked += self._telling[0]
            self._sent = self._awaited_from = None
            # NB: with nothing else to tell, it would do without the store for ever.
            self._looks = True
        self._drop_dead(now)
        self._count(now)
        want, least = 0.0, self._least
        # NB: who returns to the store books first what it used meanwhile.
        if self._cut is None and now >= self._asks_from:
            want, least = self._want(now, waiting, head)
        if want <= 0.0 and not self._has_news(now):
            self._low, self._renews = 0.0, self._until
            return None
        self._sent, self._wanted, self._pieces = now, want, least
        ask = self._told(now)._replace(want=want, least=least)
        self._low, self._renews = 0.0, self._until
        return ask

    def _has_news(self, now: float) -> bool:
        """Whether there is something to tell the store, though nothing is wanted."""
        return bool(
            self._owed
            or self._spent_alone
            or self._surplus
            or self._ceiling < math.inf
            or self._looks
            or self._orders
            or self._resets
        )

    def surrender(self, now: float) -> Ask | None:
        """Return what to tell the store on leaving; the blocks go back."""
        self._drop_dead(now)
        for left, _, issued in [(self._left, 0.0, self._issued), *self._later]:
            self._return(left, issued)
        ask = self._told(now)
        self.booked += ask.spent
        self.forget()
        tells = ask.spent or ask.credit or ask.deposit or ask.reset or ask.orders
        return ask if tells else None

    def absorb(self, now: float, answer: Answer, *, up: bool = True) -> None:
        """Take note of an answer.

        Args:
            now: Monotonic time in seconds.
            answer: The answer.
            up: Whether the store is to be relied on again.
        """
        sent, self._sent = self._sent, None
        if sent is None:
            return
        self._awaited_from = None
        self._resets = self._resets and not self._told_reset
        self._looks_from = now + _LOOK
        self.booked += self._telling[0]
        self._recall = (answer.level, answer.time, now, answer.credited)
        self.exchanges += 1
        self.exchange_time += now - sent
        whole = self._whole
        self.in_force = min(whole.per_second, answer.rate)
        self.lowered = None
        if answer.rate < whole.per_second or answer.capacity < whole.capacity:
            burst = answer.capacity + answer.rate * self.lease
            self.lowered = min(self._burst, burst), answer.rate
        if up:
            self.restore()
        if answer.granted > 0.0:
            until = sent + self.lease if self.lease else math.inf
            self._add(now, answer.granted, until, answer.time)
        if answer.granted < self._wanted:
            self._contended_until = now + self.lease
            lacking = self._pieces - answer.level
            self._asks_from = max(
                now + lacking / self.in_force, sent + self.lease * _PAUSE
            )
        elif self._wanted and now < self._contended_until:
            self._asks_from = sent + self.lease * _PAUSE
        elif not self._wanted and answer.level >= self._pieces:
            # What was refused is there: another member gave it back.
            self._asks_from = now
        self._look_ahead(now)

    def end_round(self, now: float) -> None:
        """Keep nothing that no call waited for, where the lease is 0."""
        if self.lease == 0.0:
            self._return(self._left, self._issued)
            self._granted -= self._left
            self._left, self._until = 0.0, -math.inf
            self._low, self._renews = 0.0, -math.inf

    def fail(self, now: float, *, sent: bool = True) -> None:
        """Take note that an ask was lost, or may have been.

        Args:
            now: Monotonic time in seconds.
            sent: Whether it may have arrived. What it told is not told again.
        """
        if not sent and self._sent is not None:
            spent, since, surplus, issued, self._ceiling = self._telling
            self._spent_alone += spent
            self._spent_from = since
            self._return(surplus, issued)
        elif self._sent is not None:
            self.booked += self._telling[0]
        self._sent = None
        self.due = self.due or self._orders or self._resets
        self.cut(now if self._awaited_from is None else self._awaited_from)

    def cut(self, since: float) -> None:
        """Do without the store, as it has not answered since then."""
        if self._cut is not None:
            return
        self._cut = since
        self._awaited_from = None
        if not self._spent_alone:
            self._spent_from = since
        whole = self._whole
        if self.lost == "share":
            part = 1.0 / self._sharers(since)
            self._share = TokenBucket(self.in_force * part, 1.0, self._burst * part)
            self._share.take(since, self._burst * part)
        elif self.lost == "alone":
            self._share = TokenBucket(whole.rate, whole.per, self._burst)
        elif self.lost == "reject":
            self.pace = Pace(whole.rate, whole.per)
            self.pace.capacity = 0.0
        if self._share is not None:
            self.pace = self._share.pace
        self._low, self._renews = 0.0, self._until

    def restore(self) -> None:
        """Rely on the store again."""
        self._cut = None
        self._share = None
        self.pace: Pace = self._whole

    @property
    def is_cut(self) -> bool:
        """Whether it does without the store."""
        return self._cut is not None

    def see(self, now: float, members: int) -> None:
        """Take note of how many members the store has seen in the last minute."""
        self.members = max(1, members)
        self._counted_from = min(self._counted_from, now)

    def _sharers(self, now: float) -> int:
        """Return among how many members the limit is shared without the store.

        A fleet that has just begun is larger than it looks.
        """
        if now - self._counted_from >= _SEEN:
            return self.members
        return max(self.members, self._assumed)

    def _told(self, now: float) -> Ask:
        """Return an ask that wants nothing; what it tells is told with it."""
        recall = None
        if self._recall is not None:
            level, time, at, credited = self._recall
            recall = Recall(level, time, now - at, credited)
        spent = self._spent_alone + self._owed
        span = excess = 0.0
        if self._spent_alone:
            span = now - self._spent_from
            missing = 0.0
            if self._share is not None:
                missing = self._share.pace.capacity - self._share.level(now)
            excess = max(0.0, self._spent_alone - missing)
        ask = Ask(
            self._whole.per_second,
            self._whole.capacity,
            spent=spent,
            span=span,
            excess=excess,
            credit=self._surplus,
            issued=self._surplus_from if self._surplus else 0.0,
            ceiling=self._ceiling,
            reset=float(self._resets),
            orders=float(self._orders),
            order_number=self._order.number,
            order_rate=self._order.rate,
            order_per=self._order.per,
            order_burst=self._order.burst,
            recall=recall,
        )
        self._looks = False
        self._told_order, self._told_reset = self._order, self._resets
        self._telling = (
            spent,
            self._spent_from if self._spent_alone else now,
            self._surplus,
            self._surplus_from,
            self._ceiling,
        )
        self._spent_alone, self._spent_from = 0.0, now
        self._owed = self._surplus = 0.0
        self._ceiling = math.inf
        return ask

    def _count(self, now: float) -> None:
        """Estimate the demand, in units per second, of the last lease or so."""
        fast = self._granted - self.unused - self._have(now) - self._slow
        arrived = fast - self._fast + self._tried
        self._fast, self._tried = fast, 0.0
        window = self.lease or self.patience
        elapsed = now - self._counted_at
        self._counted_at = now
        if elapsed > 0.0:
            part = min(1.0, elapsed / window)
            self._demand += part * (arrived / elapsed - self._demand)

    def _want(self, now: float, waiting: float, head: float) -> tuple[float, float]:
        """Return what to ask for, and in what pieces."""
        have = self._have(now)
        want = max(0.0, waiting - have)
        least = head - have if head > have else self._least
        if self.lease:
            until = max([self._until, *[until for _, until, _ in self._later]])
            usable = min(have, self._demand * max(0.0, until - now))
            most = self.in_force * self.lease
            if now < self._contended_until:
                most /= self.members
                want = min(want, max(most, least))
            want = max(want, min(self._demand * self.lease - usable, most))
        pieces = math.ceil(want / least - _ROUNDING)
        room = math.floor(self._whole.capacity / least + _ROUNDING)
        return min(pieces, room) * least, least
