"""The calls that wait for a rate limiter, and the booked cost of one that passed."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias

from resilient._calls.call import Call
from resilient._policy.admission import Wait
from resilient._runtimes import clock
from resilient._runtimes.runtime import Waiter
from resilient._values.checks import number

if TYPE_CHECKING:
    pass


# Later than any deadline, and yet before never: who may wait for ever need not
# wait for what will never come.
LAST_MOMENT: Final = math.nextafter(math.inf, 0.0)


class Ticket(Wait):
    """A call in the queue.

    Attributes:
        amounts: What it wants, by rule.
        latest: When it has waited long enough.
        give_up_at: The same, if it had no deadline.
        due: When its turn comes, if all before it take their turns.
        missing: Seconds it would have had to wait, once it is rejected.
        granted: Whether it has been served, and left the queue.
        rejected: Whether a change of the rate has put it out of the queue.
    """

    __slots__ = (
        "amounts",
        "due",
        "give_up_at",
        "granted",
        "latest",
        "missing",
        "rejected",
    )

    def __init__(
        self,
        waiter: Waiter,
        amounts: tuple[float, ...],
        latest: float,
        give_up_at: float,
    ) -> None:
        super().__init__(waiter, None)
        self.give_up_at: float = give_up_at
        self.amounts: tuple[float, ...] = amounts
        self.latest: float = latest
        self.due: float = math.inf
        self.missing: float = 0.0
        self.granted: bool = False
        self.rejected: bool = False

    def wait_until(self, due: float, *, first: bool) -> None:
        """Wait for the turn of the first in the queue; or else, somewhat longer.

        A call that is not the first is woken when it becomes so. It looks by
        itself when its turn is long over: those before it may never take it.
        """
        self.due = due
        # NB: only the first waits for time alone.
        self.sleeps = first
        until = due if first else min(self.latest, due + clock.patrol)
        self.until: float | None = None if until >= LAST_MOMENT else until

    def is_overdue(self, now: float) -> bool:
        """Whether its turn has come, and it does not.

        Its event loop is closed, is not run any more, or is blocked.
        """
        return self.due <= now and (
            self.waiter.is_gone() or self.due + clock.patrol <= now
        )


class Queue:
    """Who waits, first come first served, and what they want together.

    Attributes:
        tickets: The tickets, first to last; only the keys matter.
        total: The sum of what they want, by rule. A running one, whose
            rounding errors go when the queue empties and is made anew.
    """

    __slots__ = ("tickets", "total")

    def __init__(self, rules: int) -> None:
        self.tickets: OrderedDict[Ticket, None] = OrderedDict()
        self.total: list[float] = [0.0] * rules

    def __bool__(self) -> bool:
        # NB: after Ctrl-C as the first joins it, or the last leaves, it may be empty.
        return bool(self.tickets)

    @property
    def first(self) -> Ticket:
        return next(iter(self.tickets))

    def join(self, ticket: Ticket, *, first: bool = False) -> None:
        # NB: no call between the two, here and below, for Ctrl-C to come in.
        total = sums(self.total, ticket.amounts)
        self.tickets[ticket] = None
        self.total = total
        if first:
            self.tickets.move_to_end(ticket, last=False)

    def leave(self, ticket: Ticket) -> None:
        total = sums(self.total, [-amount for amount in ticket.amounts])
        del self.tickets[ticket]
        self.total = total

    def total_until(self, ticket: Ticket) -> list[float]:
        """Return what those up to `ticket` want together."""
        tickets = list(self.tickets)
        until = tickets[: tickets.index(ticket) + 1]
        return list(
            map(math.fsum, zip(*[queued.amounts for queued in until], strict=True))
        )


def latest_start(call: Call, give_up_at: float) -> float:
    """Return when a wait of `call` has to be over, at the latest."""
    if call.deadline is not None and call.deadline <= give_up_at:
        # An attempt starts while any time is left.
        return math.nextafter(call.deadline, -math.inf)
    return give_up_at


def sums(these: Iterable[float], those: Iterable[float]) -> list[float]:
    """Return the sums of two lists, item by item."""
    return [this + other for this, other in zip(these, those, strict=True)]


class BookedCost:
    """What was taken for one attempt, to be corrected once for each unit."""

    __slots__ = ("_at", "_correct", "_settled", "_units", "amounts")

    def __init__(
        self,
        correct: CorrectCost,
        units: frozenset[str],
        amounts: tuple[float, ...],
        at: float,
    ) -> None:
        self._correct = correct
        self._units = units
        self.amounts: tuple[float, ...] = amounts
        self._at = at
        self._settled: frozenset[str] = frozenset()

    def correct(
        self, costs: Mapping[str, float], max_debt: float = math.inf
    ) -> frozenset[str]:
        for unit, cost in costs.items():
            number(unit, cost, minimum=0)
        due = {unit: costs[unit] for unit in costs.keys() - self._settled}
        self._settled |= due.keys()
        self._correct(due, self.amounts, self._at, max_debt)
        return self._units


CorrectCost: TypeAlias = Callable[
    [Mapping[str, float], tuple[float, ...], float, float], None
]
