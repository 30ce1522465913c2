"""AdaptiveConcurrency: as many calls at once as the dependency can take."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from resilient._calls.call import Call
from resilient._calls.judging import Condition, Judge, judge_by
from resilient._calls.outcome import OngoingWork, Outcome, Verdict
from resilient._errors.chains import annotate
from resilient._errors.errors import ConcurrencyLimitedError
from resilient._events.events import LimitChanged
from resilient._machines.aimd import AIMD, ConcurrencyLimit
from resilient._machines.codel import CoDel
from resilient._machines.partitions import Group, SharedSlots
from resilient._policy.admission import Admission
from resilient._policy.queueing import QueueingPolicy, Ticket
from resilient._runtimes import clock
from resilient._values.checks import count, plain, ratio
from resilient._values.checks import seconds as seconds_argument
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from datetime import timedelta

_SUCCESS, _IGNORED = Verdict.SUCCESS, Verdict.IGNORED

_TOLD_EVERY = 1.0
"""Seconds between two events about the limit."""

_Permit: TypeAlias = "tuple[float, Group | None]"
"""When the call began; and its group, None as long as there is one only."""


class _Ended(NamedTuple):
    """A call that has answered while the lock was taken.

    Attributes:
        leaves: Whether it gives its slot back.
        group: That of its permit.
        began, now: Monotonic seconds.
        congested: Whether it met congestion; None: it says nothing.
    """

    leaves: bool
    group: Group | None
    began: float
    now: float
    congested: bool | None


class _Ticket(Ticket):
    """A call in line."""

    __slots__ = ("group",)

    group: Group


class AdaptiveConcurrency(QueueingPolicy):
    """Let as many calls run at once as the dependency shows it can take.

    A bulkhead whose size need not be guessed: the limit rises while calls
    succeed and falls when they fail, time out, are pushed back or - by choice
    of the algorithm - slow down.

    A failure, a timeout of a `Timeout` further in and PUSHBACK are congestion.
    A call that was cancelled, or whose outcome is IGNORED, gives its slot back
    and says nothing. Latency is that of the call alone, without its wait for
    a slot; of a generator that of its first item, while its slot is held until
    it ends or is closed.

    When the limit is reached the lowest priority goes first (see `priority`):
    of the slots a class leaves free what higher ones have wanted at once in
    the last second or two. A class that is alone has them all. Within a class
    whole tasks go first (see `priority`'s key), not one call of each.

    A line for bursts is optional. One that has not been empty for `max_wait`
    is none for bursts: until it is, calls may wait for `overload_wait` only,
    and the newest goes first.

    Args:
        algorithm: How the limit is found: `AIMD` (default; the best for
            clients), `Gradient` (the best for servers), `Vegas`, or a
            `ConcurrencyLimit` of your own. Each policy makes its own of it.
        max_queue: Calls that may wait in line.
        max_wait: Seconds that each may wait; also how long a line may stand.
        overload_wait: Seconds that each may wait in a line that stands.
        partitions: Shares of the limit by name, as in ``{"live": 0.9,
            "batch": 0.1}``, together at most 1. Each partition may always
            have its share; what it leaves is lent to the others.
        by: The name of a call's partition, as a function of the `Call`; one
            that is not listed has a share of nothing.
        on: Exception types, or a function of the outcome, that count as
            congestion here. Default: the pipeline's classification, else every
            exception but rejections.
        name: Name in errors and events.

    Raises:
        ConcurrencyLimitedError: The limit is reached, and there is no place in
            line or no time left.

    Source: Netflix, "Performance Under Load", 2018; B. Maurer, "Fail at
    Scale", ACM Queue 13 (8), 2015, for the line.
    """

    __slots__ = (
        "_algorithm",
        "_codel",
        "_deferred",
        "_epoch",
        "_grouped",
        "_initial",
        "_judge",
        "_lock",
        "_slots",
        "_tell_at",
        "_told",
        "algorithm",
        "by",
        "max_queue",
        "max_wait",
        "on",
        "overload_wait",
        "partitions",
    )

    _slots: SharedSlots[_Ticket]

    traits = Trait.HOLDS | Trait.LEARNS

    metrics: tuple[tuple[str, ...], ...] = (
        ("resilient.rejections", "ConcurrencyLimitedError", "enforced"),
        ("resilient.permit.waits",),
    )

    def __init__(
        self,
        algorithm: ConcurrencyLimit = AIMD(),  # noqa: B008
        *,
        max_queue: int = 0,
        max_wait: float | timedelta = 0.1,
        overload_wait: float | timedelta = 0.005,
        partitions: Mapping[str, float] | None = None,
        by: Callable[[Call], object] | None = None,
        on: Condition | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if isinstance(algorithm, type) or not all(
            callable(getattr(algorithm, one, None))
            for one in ("limit", "update", "anew")
        ):
            raise TypeError(
                "`algorithm` must have the methods limit, update and anew, got"
                f" {algorithm!r}; a decorator needs its parentheses,"
                " @AdaptiveConcurrency()"
            )
        self.algorithm: ConcurrencyLimit = algorithm
        self.max_queue: int = count("max_queue", max_queue, minimum=0)
        self.max_wait: float = seconds_argument("max_wait", max_wait)
        self.overload_wait: float = seconds_argument("overload_wait", overload_wait)
        self.partitions: Mapping[str, float] | None = (
            None if partitions is None else _shares(partitions)
        )
        if (partitions is None) is not (by is None):
            raise ValueError("`partitions` and `by` must be given together")
        self.by: Callable[[Call], object] | None = (
            None if by is None else plain("by", by, "the Call")
        )
        self.on: Condition | None = on
        self._judge: Judge | None = judge_by("on", on, policy=self)
        self._lock = threading.Lock()
        self._deferred: list[_Ended | _Ticket] = []
        self._algorithm = algorithm.anew()
        self._initial = max(1, int(self._algorithm.limit(clock.now())))
        self._slots = SharedSlots(self._initial, self.max_queue, self.partitions)
        self._codel = CoDel(self.max_wait, min(self.overload_wait, self.max_wait))
        # Whether calls have to be told apart: not before the first that says
        # how important it is.
        self._grouped = self.partitions is not None
        # Calls that began before the last reset say nothing.
        self._epoch = -math.inf
        self._told = self._initial
        self._tell_at = -math.inf

    def status(self) -> dict[str, Any]:
        slots = self._slots
        return {
            "concurrency.in_use": slots.in_use,
            "concurrency.queued": slots.queued,
            "concurrency.limit": slots.limit,
            "saturation": slots.in_use / slots.limit,
        }

    @property
    def limit(self) -> int:
        """Calls that may run at once, now."""
        return self._slots.limit

    @property
    def in_flight(self) -> int:
        """Calls that run now, those granted a slot but not yet awake included."""
        return self._slots.in_use

    @property
    def queued(self) -> int:
        """Calls that wait now."""
        return self._slots.queued

    def reset(self) -> None:
        """Begin anew with the first limit.

        Calls under way go on, and nothing is learnt from them.
        """
        now = clock.now()
        algorithm = self.algorithm.anew()
        with self._locked() as granted:
            self._algorithm, self._epoch = algorithm, now
            self._slots.forget()
            granted += self._slots.resize(self._initial)

    def is_pristine(self) -> bool:
        # A baseline that it may have learnt takes it one window to learn again.
        return self._slots.in_use == 0 and self._slots.limit == self._initial

    def is_restrictive(self) -> bool:
        return self._slots.in_use > 0 or self._slots.limit < self._initial

    # -- In

    def admit(self, call: Call) -> Admission:
        partition = None if self.by is None else self._partition_of(call)
        now = clock.now()
        slots, lock = self._slots, self._lock
        group: Group | None = None
        shed_rank = 1.0
        if self._grouped or call.standing is not None:
            self._grouped = True
            group = slots.group(partition, call.priority)
            if group.shed_below:
                shed_rank = call.shed_rank
        lock.acquire()  # NB: by hand, see `_policy.admission`
        try:
            if (
                slots.take()
                if group is None
                else slots.take_for(group, now, shed_rank=shed_rank)
            ):
                return now, group
            stale = bool(self._deferred) or slots.limit != self._algorithm.limit(now)
        finally:
            lock.release()
            if self._deferred:
                self._release_deferred()
        if stale:
            # A slot was given back and not taken back yet, or a probe is over.
            with self._locked() as granted:
                granted += self._adopt_locked(self._algorithm.limit(now))
                if (
                    slots.take()
                    if group is None
                    else slots.take_for(group, now, shed_rank=shed_rank, again=True)
                ):
                    return now, group
        if self.max_queue == 0 or self.max_wait == 0:
            return self._refusal(call, 0.0)
        if group is not None and group.is_shed(shed_rank):
            # In line it would hold up others of its class.
            return self._refusal(call, 0.0)
        ticket = _Ticket.of(call, now, self.max_wait)
        if ticket is None:
            return self._refusal(call, 0.0, by_deadline=True)
        ticket.group = group or slots.group(partition, call.priority)
        return self._queue(ticket)

    def _partition_of(self, call: Call) -> object:
        assert self.by is not None
        try:
            partition = self.by(call)
            hash(partition)
        except Exception as error:
            annotate(error, "`by` is called with the Call: by(call)")
            raise
        return partition

    def _take_locked(self, ticket: _Ticket) -> bool:
        return self._slots.take_for(ticket.group, ticket.began, again=True)

    def _may_wait_locked(self, ticket: _Ticket) -> bool:
        ticket.limit_wait(self._codel.give_up_at(ticket.began, self._slots.queued))
        self._slots.lifo = self._codel.standing
        return True

    def _enter_locked(self, ticket: _Ticket, now: float) -> _Permit:
        return now, ticket.group

    def _refusal(
        self, call: Call, waited: float, *, by_deadline: bool = False
    ) -> ConcurrencyLimitedError:
        slots = self._slots
        error = ConcurrencyLimitedError(
            self.error_name(call), None, slots.limit, slots.in_use, slots.queued, waited
        )
        error.by_deadline = by_deadline
        return error

    # -- Out

    def settle(self, permit: _Permit, outcome: Outcome | None) -> None:
        began, group = permit
        congested: bool | None = None
        try:
            if outcome is not None:
                congested = self._judged(outcome)
        finally:
            # NB: a judge that raises is a bug that reaches the caller, after
            # the slot has gone back.
            now = clock.now()
            lock, slots = self._lock, self._slots
            if lock.acquire(False):  # NB: by hand, see `_policy.admission`
                granted: list[_Ticket] = []
                change: LimitChanged | None = None
                try:
                    if congested is not None and began >= self._epoch:
                        granted = self._learn_locked(now, now - began, congested)
                finally:
                    freed = (
                        slots.release() if group is None else slots.release_of(group)
                    )
                    if self._listeners and self._told != slots.limit:
                        change = self._change_locked(now)
                    lock.release()
                    if granted or freed:
                        self._after_unlock(granted + freed)
                    if self._deferred:
                        self._release_deferred()
                if change is not None:
                    self.emit(change)
            else:
                self._release(_Ended(True, group, began, now, congested))

    def defer_settle(
        self, permit: _Permit, outcome: Outcome, ongoing: OngoingWork
    ) -> None:
        # NB: the slot first, for a judge that raises must not keep it.
        began, group = permit
        ongoing.add_release(lambda last: self.settle(permit, None))
        congested = self._judged(outcome)
        self._release(_Ended(False, group, began, clock.now(), congested))

    def _judged(self, outcome: Outcome) -> bool | None:
        """Whether a call met congestion; None: it says nothing."""
        judge = self._judge
        verdict = outcome.verdict if judge is None else judge(outcome)
        if verdict is _IGNORED or outcome.health is _IGNORED:
            return None
        return verdict is not _SUCCESS

    def _learn_locked(
        self, now: float, latency: float, congested: bool
    ) -> list[_Ticket]:
        slots = self._slots
        limit = self._algorithm.update(now, latency, slots.in_use, congested)
        return [] if limit == slots.limit else self._adopt_locked(limit)

    def _exit_locked(self, item: _Ended) -> list[_Ticket]:
        granted: list[_Ticket] = []
        try:
            if item.congested is not None and item.began >= self._epoch:
                latency = item.now - item.began
                granted = self._learn_locked(item.now, latency, item.congested)
        except Exception:
            # NB: no place to raise or log it: this may be any call, and
            # holds the lock. It is raised in calls that find the lock free.
            pass
        if item.leaves:
            slots, group = self._slots, item.group
            granted += slots.release() if group is None else slots.release_of(group)
        return granted

    def _adopt_locked(self, limit: int) -> list[_Ticket]:
        # NB: a limit of 0 would let no call in to learn from.
        return self._slots.resize(max(1, int(limit)))

    def _change_locked(self, now: float) -> LimitChanged | None:
        """Return the event about the limit, if it is time for one."""
        if now < self._tell_at:
            return None
        old, new = self._told, self._slots.limit
        self._told, self._tell_at = new, now + _TOLD_EVERY
        return LimitChanged(self.label, None, old, new)


def _shares(partitions: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(partitions, Mapping):
        raise TypeError(f"`partitions` must be a dict of shares, got {partitions!r}")
    shares = {
        name: ratio(f"partitions[{name!r}]", share)
        for name, share in partitions.items()
    }
    if math.fsum(shares.values()) > 1 + 1e-9:
        raise ValueError(
            f"`partitions` must be together <= 1, got {math.fsum(shares.values()):g}"
        )
    return shares
