"""One token bucket for a whole fleet: what a store does with a question.

A member of the fleet *asks* (`Ask`) and a store *answers* (`Answer`), at one
moment of the store's own clock, in one step that nothing interrupts. `answer`
is that step, and the specification of the script that a server runs: a test
replays drawn histories through both.

The state is a `Bucket`, or None where the store has no such key. A store loses
its data (an empty restart, FLUSHALL, eviction), comes back with an old copy of
it (a failover) and has its clock set. A fleet remembers what a store forgets,
so every ask carries what the asker saw last (`Recall`):

==============  ==========================================================
lost            There is no bucket, though one that was seen so short a time
                ago cannot have expired: it begins empty, not full.
jumped          The store's clock and the asker's disagree about the time
                since then by more than a delay can explain: the difference
                is no time in which anything is refilled.
an old copy     There is more in the bucket than the asker saw, plus what has
                been refilled and credited since: the surplus is not there.
==============  ==========================================================

None of it needs an answer to arrive in time. A bound computed when an ask is
*sent* would be cut by every delay, and starved a fleet in a prototype; so the
time since is the store's own wherever the two clocks agree.

What else an ask carries:

==============  ==========================================================
spent           Units used without asking, while the asker was cut off, over
                that many seconds. What was used before the bucket was lost
                is not counted: it began empty for that reason.
excess          Of these, what would have run over by now in the asker's own
                part of the bucket. Where the bucket ran over too, while
                no member could reach it, that much is forgiven; where others
                went on using it, it is not.
credit          Units issued at that time of the store's and not used. They
                are given back as if they had never been taken: unless the
                bucket was full since, for what then ran over cannot be had
                twice, or was lost, for then that cannot be told.
deposit         Units paid in; they run over where the bucket is full.
ceiling         What the server behind says is left: never more than that.
reset           An operator's order to fill the bucket, whatever was taken.
order           Another rate for the whole fleet, which an operator set, with a
                number that grows from order to order. It holds in the place of
                what members were made with, and every answer carries it.
==============  ==========================================================

Two members may have been given different numbers, as in each rolling deploy:
the lower ones hold for all until no member has asked for them in a minute. What
a member asks for that does not know the last order yet is none of these numbers.

Deliberately not modelled: the right to ask, queues, fairness. A member asks for no
more than its part (`lease`).
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

__all__ = ["KEEP", "NO_ORDER", "Answer", "Ask", "Bucket", "Order", "Recall", "answer"]

KEEP: Final = 60.0
"""Seconds that a store keeps a bucket after it is full again, and so those for
which a loss is recognised at least; lower numbers hold as long."""

# An answer later than this is not waited for, so clocks that differ by less
# may well agree.
_DELAY: Final = 0.25

# What was answered may be asked for: sums contain readings of a clock, which
# are coarse. See `rate_limits`.
_ROUNDING: Final = 1e-9


class Recall(NamedTuple):
    """What an asker saw last.

    Attributes:
        level: Units that its last answer left.
        time: The store's time then.
        elapsed: Seconds since, on the asker's own clock.
        credited: `Bucket.credited` then.
    """

    level: float
    time: float
    elapsed: float
    credited: float


class Order(NamedTuple):
    """A rate that an operator set for the whole fleet.

    Attributes:
        number: Grows from order to order; 0: there is none.
        rate: Units per `per` seconds.
        per: Seconds.
        burst: Units at once; 0: the default of the limit.
    """

    number: float
    rate: float
    per: float
    burst: float


NO_ORDER: Final = Order(0.0, 0.0, 0.0, 0.0)
"""The order of a fleet that has been given none."""


class Ask(NamedTuple):
    """A question to a store; see the top of this module.

    Attributes:
        rate: Units per second.
        capacity: Units that a full bucket holds.
        want: Units to take, if they are there.
        least: Units; a part of what is wanted is a multiple of these.
        spent: Units used without asking ...
        span: ... over so many seconds; 0: now.
        excess: Units of these that need not count, if the bucket ran over.
        credit: Units to give back ...
        issued: ... taken at this time of the store's.
        deposit: Units to pay in.
        ceiling: Units that there are at most.
        reset: 1.0: fill it, whatever was taken.
        orders: 1.0: what follows is a new order.
        order_number, order_rate, order_per, order_burst: The order that the asker
            goes by, and its `rate` and `capacity`; see `Order`.
        recall: What the asker saw last; None: it is new.
    """

    rate: float
    capacity: float
    want: float = 0.0
    least: float = 1.0
    spent: float = 0.0
    span: float = 0.0
    excess: float = 0.0
    credit: float = 0.0
    issued: float = 0.0
    deposit: float = 0.0
    ceiling: float = math.inf
    reset: float = 0.0
    orders: float = 0.0
    order_number: float = 0.0
    order_rate: float = 0.0
    order_per: float = 0.0
    order_burst: float = 0.0
    recall: Recall | None = None


class Bucket(NamedTuple):
    """What a store keeps.

    Attributes:
        level: Units, at `time`; below 0 in debt.
        time: The store's time, in seconds, of the last ask.
        full: When it was last full, or may have been.
        born: When it was found lost and began empty; 0: never.
        credited: Units given back and paid in since it began.
        over: Units that ran over ...
        over_from: ... between this time ...
        over_until: ... and that.
        rate: Units per second, the lowest that any member asked for ...
        capacity: ... and so of the capacity ...
        agreed: ... and when a member last did.
        order_number, order_rate, order_per, order_burst: The last `Order`.
    """

    level: float
    time: float
    full: float
    born: float
    credited: float
    over: float
    over_from: float
    over_until: float
    rate: float
    capacity: float
    agreed: float
    order_number: float = 0.0
    order_rate: float = 0.0
    order_per: float = 0.0
    order_burst: float = 0.0

    @property
    def expires(self) -> float:
        """The store's time from which a store may forget it."""
        return self.time + (self.capacity - self.level) / self.rate + KEEP


class Answer(NamedTuple):
    """What a store says.

    Attributes:
        granted: Units taken for the asker.
        level: Units left.
        time: The store's time.
        credited: `Bucket.credited` now.
        rate: Units per second in force.
        capacity: Units that a full bucket holds, in force.
        lost: Whether the bucket had been lost.
        order_number, order_rate, order_per, order_burst: The last `Order`.
    """

    granted: float
    level: float
    time: float
    credited: float
    rate: float
    capacity: float
    lost: bool
    order_number: float = 0.0
    order_rate: float = 0.0
    order_per: float = 0.0
    order_burst: float = 0.0

    @property
    def order(self) -> Order:
        """The last order."""
        return Order(
            self.order_number, self.order_rate, self.order_per, self.order_burst
        )


def answer(bucket: Bucket | None, now: float, ask: Ask) -> tuple[Bucket, Answer]:
    """Answer one ask.

    NB: a script does the same, operation by operation: change both.

    Args:
        bucket: What the store has, None if nothing.
        now: The store's time, in seconds.
        ask: What is asked.

    Returns:
        What the store has then, and what it says.
    """
    recall = ask.recall
    rate, capacity = ask.rate, ask.capacity
    order = Order(ask.order_number, ask.order_rate, ask.order_per, ask.order_burst)
    known = 0.0 if bucket is None else bucket.order_number
    if ask.orders == 1.0:
        order = order._replace(number=max(known, order.number) + 1.0)
    lost = False
    if bucket is None:
        level, full, born, credited, agreed = capacity, now, 0.0, 0.0, now
        away = ask.span if recall is None else recall.elapsed
        over, over_from, over_until = rate * away, now - away, now
        if recall is not None:
            life = (capacity - recall.level) / rate + KEEP
            if recall.elapsed < life:
                lost = True
                level = min(0.0, recall.level + rate * recall.elapsed)
                born = now
                over = 0.0
    else:
        level, full, born = bucket.level, bucket.full, bucket.born
        credited, agreed = bucket.credited, bucket.agreed
        over, over_from, over_until = bucket.over, bucket.over_from, bucket.over_until
        if order.number < known:
            rate, capacity = bucket.rate, bucket.capacity
            order = Order(
                known, bucket.order_rate, bucket.order_per, bucket.order_burst
            )
        elif order.number > known or (
            rate <= bucket.rate and capacity <= bucket.capacity
        ):
            agreed = now
        elif now - agreed < KEEP:
            rate = min(rate, bucket.rate)
            capacity = min(capacity, bucket.capacity)
        else:
            agreed = now
        refill = now - bucket.time
        since = 0.0
        if recall is not None:
            since = now - recall.time
            jump = since - recall.elapsed
            if jump > _DELAY:
                refill = refill - jump
            if jump > _DELAY or jump < -_DELAY:
                since = recall.elapsed
        level = level + rate * max(0.0, refill)
        surplus = level - capacity
        if surplus > over or now - over_until > KEEP:
            over, over_from, over_until = max(0.0, surplus), bucket.time, now
        level = min(capacity, level)
        if recall is not None:
            most = recall.level + rate * max(0.0, since)
            most = most + max(0.0, credited - recall.credited)
            level = min(level, most)
    if level >= capacity:
        full = now
    if ask.spent > 0.0:
        spent, excess = ask.spent, ask.excess
        # NB: a clock that was set back may show less than `born`: then all counts.
        if 0.0 < born <= now and ask.span > 0.0:
            part = min(1.0, (now - born) / ask.span)
            spent, excess = spent * part, excess * part
        common = max(0.0, min(now, over_until) - max(now - ask.span, over_from))
        forgiven = min(over, excess, rate * common)
        over = over - forgiven
        level = level - (spent - forgiven)
    paid = ask.deposit
    if ask.credit > 0.0 and full <= ask.issued:
        paid = paid + ask.credit
    if ask.reset == 1.0:
        # More than may be missing by what any member saw: see "an old copy".
        paid = paid + 2.0 * capacity + abs(level)
        full = now
    if paid > 0.0:
        credited = credited + paid
        level = min(capacity, level + paid)
    level = min(level, ask.ceiling)
    granted = 0.0
    if ask.want > 0.0:
        there = level + capacity * _ROUNDING
        if there >= ask.want:
            granted = ask.want
        elif there >= ask.least:
            granted = math.floor(there / ask.least) * ask.least
        level = level - granted
    return (
        Bucket(
            level,
            now,
            full,
            born,
            credited,
            over,
            over_from,
            over_until,
            rate,
            capacity,
            agreed,
            *order,
        ),
        Answer(granted, level, now, credited, rate, capacity, lost, *order),
    )
