"""Shares: slots that are kept for the calls that are entitled to them.

Slots that are all taken cannot be taken back from running calls. To let the most
important go first, or a partition have its share, the others must leave some
free *before* those ask. How many: what they had, or wanted, at once in the
last second or two - their **demand**.

Ground rules:

* A *group* is the calls of one class in one partition. Where there are no
  partitions, all are in one, whose share is everything.
* A class leaves free what the higher classes of its partition demand beyond
  what they have. A class that is alone has everything.
* A partition may always have its share, but for what other partitions run in
  it. Beyond, it leaves free what the others demand of their shares beyond what they
  have - and one slot for each that has less than its share, so that the first
  call after a silence need not wait for another to leave.
* So a share that is not used is lent, and comes back as soon as it is wanted
  and those that borrowed it are done. No call ever runs beyond the limit.
* Of a class of which a share was refused lately, as large a share is left out
  of the last quarter of the slots: those of the lowest shed ranks. So of a task's
  calls, which have one shed rank, all are served rather than some of each. The
  highest shed rank that has lately been there is not left out, however low it is.
* Where nothing runs, any call may: none would ever leave.
* A slot that comes free goes to the first in the queue that may have it.

Demand is measured in periods: the peak of this one or the last, whichever is
greater. Calls refused in a row were a demand as well.

Source: shares that are lent, Netflix's concurrency-limits, where a partition that
claims its own goes beyond the limit; cutting by a hash of the task, Zhou et al.,
"Overload Control for Scaling WeChat Microservices" (DAGOR), SoCC 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, TypeVar

from resilient._machines.slots import Slots, Ticket
from resilient._values.priority import Priority

__all__ = ["Group", "PartitionedSlots"]

_PERIOD = 1.0
"""Seconds after which a peak is the last one, and then none."""


_FOR_ALL = 0.75
"""Share of the slots that is for all of a class, whatever their shed ranks. With
less of it slots would stay free and unused; with more, fewer tasks are
served whole. Of tasks of ten calls, two to one too many, that is one in nine,
and one in fifty without a cut."""


class _Partition:
    __slots__ = ("groups", "share")

    def __init__(self, share: float) -> None:
        self.share: float = share
        # By class, lowest first.
        self.groups: tuple[Group, ...] = tuple(
            Group(self, priority) for priority in Priority
        )

    @property
    def in_use(self) -> int:
        return sum(group.in_use for group in self.groups)

    def quota(self, limit: int) -> int:
        """Return the slots that are its own."""
        # NB: a hair less: 0.1 * 30 may come out above 3.
        return math.ceil(self.share * limit - 1e-9)

    def missing(self, limit: int) -> int:
        """Return the slots to be kept for it."""
        demand = max(1, sum(group.demand for group in self.groups))
        return max(0, min(demand, self.quota(limit)) - self.in_use)


class Group:
    """The calls of one class in one partition.

    Attributes:
        in_use: Slots it has.
        waiting: Its tickets in the queue.
        shed_below: What share of its calls was refused lately: those of a
            lower shed rank are the first to go.
    """

    __slots__ = (
        "_calls",
        "_entered",
        "_highest",
        "_highest_before",
        "_last",
        "_missed",
        "_peak",
        "in_use",
        "partition",
        "priority",
        "shed_below",
        "waiting",
    )

    def __init__(self, partition: _Partition, priority: Priority) -> None:
        self.partition: _Partition = partition
        self.priority: Priority = priority
        self.in_use: int = 0
        self.waiting: int = 0
        self._peak = 0
        self._last = 0
        # Calls in a row that found no slot.
        self._missed = 0
        # Of the calls of this period, how many were answered and got a slot.
        self._calls = 0
        self._entered = 0
        self.shed_below: float = 0.0
        # The highest shed rank of this period, and of the last.
        self._highest = self._highest_before = 0.0

    def is_shed(self, shed_rank: float) -> bool:
        """Whether a call of this shed rank is among the first to go.

        Never one of the highest shed rank there is: no other would be served instead.
        """
        if shed_rank == 1.0:
            return False
        self._highest = max(self._highest, shed_rank)
        return shed_rank < self.shed_below and shed_rank < max(
            self._highest, self._highest_before
        )

    @property
    def demand(self) -> int:
        """Slots that it has or wanted at once, now or lately."""
        return max(self._peak, self._last, self.in_use + self.waiting)

    def entered(self) -> None:
        """Take note that it has got a slot more."""
        self._missed = 0
        self._calls += 1
        self._entered += 1
        self._peak = max(self._peak, self.in_use)

    def missed(self) -> None:
        """Take note that it wanted a slot more."""
        self._missed += 1
        self._peak = max(self._peak, self.in_use + self.waiting + self._missed)

    def queued(self) -> None:
        """Take note that a call that found no slot just now waits."""
        self._missed = max(0, self._missed - 1)

    def refused(self) -> None:
        """Take note that a call of it got neither a slot nor a place in the queue."""
        self._calls += 1

    def turn(self, *, lapsed: bool) -> None:
        """Begin another period."""
        self._last = self.in_use if lapsed else self._peak
        self._peak = self.in_use
        self._missed = 0
        refused = 1 - self._entered / self._calls if self._calls else 0.0
        # Smoothed: there may be few calls in a period.
        self.shed_below = 0.0 if lapsed else (self.shed_below + refused) / 2
        self._calls = self._entered = 0
        self._highest_before, self._highest = self._highest, 0.0


class GroupedTicket(Ticket, Protocol):
    """A ticket, and its group; None as long as there is only one."""

    @property
    def group(self) -> Group | None: ...


T = TypeVar("T", bound=GroupedTicket)


class PartitionedSlots(Slots[T]):
    """Slots for groups; `take` and `leave` work for a ticket of no group as well.

    Args:
        limit: Slots.
        max_queue: Places in the queue.
        partitions: Shares by name, together at most 1.
    """

    __slots__ = ("_partitions", "_rest", "_turns")

    def __init__(
        self, limit: int, max_queue: int, partitions: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(limit, max_queue)
        self._partitions: dict[object, _Partition] = {
            name: _Partition(share) for name, share in (partitions or {}).items()
        }
        # Of those that no partition is for: they have what the others leave.
        self._rest = _Partition(0.0)
        self._turns = -math.inf

    def group(self, partition: object, priority: Priority) -> Group:
        """Return the group of a class in a partition, by its name."""
        return self._partitions.get(partition, self._rest).groups[priority]

    def take_for(
        self, ticket: T, now: float, *, shed_rank: float = 1.0, again: bool = False
    ) -> bool:
        """Take a slot if the ticket's group may have one and none of it waits.

        Args:
            ticket: The call.
            now: Monotonic seconds.
            shed_rank: That of the call; 1.0: never the first to go.
            again: Whether the same call found no slot just now.
        """
        group = ticket.group
        assert group is not None
        if now >= self._turns:
            self._begin_period(now)
        if (
            group.waiting
            or (group.is_shed(shed_rank) and self.in_use >= self.limit * _FOR_ALL)
            or not self._may_have(group)
        ):
            if not again:
                group.missed()
            return False
        self._give(ticket)
        return True

    def join(self, ticket: T) -> T | None:
        put_out = super().join(ticket)
        if put_out is ticket:
            assert ticket.group is not None
            ticket.group.refused()
        return put_out

    def enqueue(self, ticket: T, *, first: bool = False) -> None:
        assert ticket.group is not None
        ticket.group.queued()
        super().enqueue(ticket, first=first)

    def forget(self) -> None:
        """Forget every demand but those of the present."""
        for partition in (self._rest, *self._partitions.values()):
            for group in partition.groups:
                group.turn(lapsed=True)

    def _next(self) -> T | None:
        if self.in_use >= self.limit:
            return None
        for priority in sorted(self.queues, reverse=True):
            queue = self.queues[priority]
            for ticket in reversed(queue) if self.lifo else queue:
                assert ticket.group is not None
                if self._may_have(ticket.group):
                    return ticket
        return None

    def _give(self, ticket: T) -> None:
        super()._give(ticket)
        if ticket.group is not None:
            ticket.group.entered()

    def _may_have(self, group: Group) -> bool:
        """Whether a group may have one slot more."""
        limit, in_use = self.limit, self.in_use
        if in_use == 0:
            return True
        own = group.partition
        above = sum(
            higher.demand - higher.in_use for higher in own.groups[group.priority + 1 :]
        )
        if in_use + above >= limit:
            return False
        if own.in_use + above < own.quota(limit):
            return True
        others = sum(
            other.missing(limit)
            for other in self._partitions.values()
            if other is not own
        )
        return in_use + above + others < limit

    def _begin_period(self, now: float) -> None:
        lapsed = now >= self._turns + _PERIOD
        self._turns = now + _PERIOD
        for partition in (self._rest, *self._partitions.values()):
            for group in partition.groups:
                group.turn(lapsed=lapsed)
