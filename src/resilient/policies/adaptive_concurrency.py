"""AdaptiveConcurrency: as many calls at once as the dependency can take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from resilient._calls.call import Call
from resilient._calls.judging import Condition, Judge, asks_for_values, judge_by
from resilient._calls.outcome import OngoingWork, Outcome, Verdict
from resilient._errors.chains import annotate
from resilient._errors.errors import ConcurrencyLimitedError
from resilient._events.events import LimitChanged
from resilient._machines.aimd import AIMD, ConcurrencyLimit
from resilient._machines.codel import CoDel
from resilient._machines.partitions import Group, PartitionedSlots
from resilient._policy.admission import Admission
from resilient._policy.queueing import QueueingPolicy, Ticket
from resilient._runtimes import clock
from resilient._values.checks import count, plain, ratio
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock, ReenteredError
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from datetime import timedelta

_SUCCESS, _IGNORED = Verdict.SUCCESS, Verdict.IGNORED

_TOLD_EVERY = 1.0
"""Seconds between two events about the limit."""


class _Answer(NamedTuple):
    """What there is to learn from a call.

    Attributes:
        began, now: When it began and answered, in monotonic seconds.
        congested: Whether it met congestion.
    """

    began: float
    now: float
    congested: bool


class _Ticket(Ticket):
    """A call.

    Attributes:
        began: When it got its slot, in monotonic seconds.
        group: Its group, None as long as there is only one.
        answer: What there is to learn from it, when it gives its slot back.
    """

    __slots__ = ("answer", "began", "group")

    def __init__(self, call: Call, began: float) -> None:
        super().__init__(call)
        self.began: float = began
        self.group: Group | None = None  # type: ignore[assignment]  # base: never
        self.answer: _Answer | None = None


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

    A queue for bursts is optional. One that has not been empty for `max_wait`
    is none for bursts: until it is, calls may wait for `overload_wait` only,
    and the newest goes first.

    Args:
        algorithm: How the limit is found: `AIMD` (default; the best for
            clients), `Gradient` (the best for servers), `Vegas`, or a
            `ConcurrencyLimit` of your own. Each policy makes its own of it.
        max_queue: Calls that may wait in the queue.
        max_wait: Seconds that each may wait; also how long a queue may stand.
        overload_wait: Seconds that each may wait in a queue that stands.
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
            queue or no time left.

    Source: Netflix, "Performance Under Load", 2018; B. Maurer, "Fail at
    Scale", ACM Queue 13 (8), 2015, for the queue.
    """

    __module__ = "resilient"

    _cures = {  # noqa: RUF012 - never written to
        **QueueingPolicy._cures,
        "weighs": "it follows from `on`",
    }

    __slots__ = (
        "_algorithm",
        "_codel",
        "_deferred",
        "_epoch",
        "_grouped",
        "_initial",
        "_judge",
        "_lock",
        "_looked_at",
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
        "weighs",
    )

    _slots: PartitionedSlots[_Ticket]

    traits: Trait = Trait.HOLDS | Trait.LEARNS

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
            callable(getattr(algorithm, method, None))
            for method in ("limit", "update", "anew")
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
        self.weighs: bool = (
            asks_for_values(self._judge)
            or type(self).settle is not AdaptiveConcurrency.settle
        )
        self._lock = Lock()
        self._deferred: list[_Answer | _Ticket] = []
        self._looked_at = -math.inf
        self._algorithm = algorithm.anew()
        self._initial = max(1, int(self._algorithm.limit(clock.now())))
        self._slots = PartitionedSlots(self._initial, self.max_queue, self.partitions)
        self._codel = CoDel(self.max_wait, min(self.overload_wait, self.max_wait))
        # Whether calls have to be told apart: not before the first that says
        # how important it is.
        self._grouped = self.partitions is not None
        # Calls that began before the last reset say nothing.
        self._epoch = -math.inf
        self._told = self._initial
        self._tell_at = -math.inf

    def status(self) -> dict[str, Any]:
        return self._status("concurrency")

    @property
    def limit(self) -> int:
        """Calls that may run at once, now."""
        return self._slots.limit

    @property
    def in_flight(self) -> int:
        """Calls that run now, those granted a slot but not yet awake included."""
        return self._in_use()

    def reset(self) -> None:
        """Begin anew with the first limit.

        Calls under way go on, and nothing is learnt from them.
        """
        now = clock.now()
        algorithm = self.algorithm.anew()
        self._run(self._reset_locked, algorithm, now)

    def _reset_locked(
        self, woken: list[_Ticket], algorithm: ConcurrencyLimit, now: float
    ) -> None:
        self._algorithm, self._epoch = algorithm, now
        self._slots.forget()
        woken += self._slots.resize(self._initial)

    def is_pristine(self) -> bool:
        # A baseline that it may have learnt takes it one window to learn again.
        return self._slots.in_use == 0 and self._slots.limit == self._initial

    def is_restrictive(self) -> bool:
        return self._slots.in_use > 0 or self._slots.limit < self._initial

    # -- In

    def _ticket(self, call: Call) -> _Ticket:
        return _Ticket(call, clock.now())

    def _admit(self, ticket: _Ticket) -> Admission:
        call, now, slots = ticket.call, ticket.began, self._slots
        partition = None if self.by is None else self._partition_of(call)
        shed_rank = 1.0
        if self._grouped or call.standing is not None:
            self._grouped = True
            group = ticket.group = slots.group(partition, call.priority)
            if group.shed_below:
                shed_rank = call.shed_rank
        taken = self._lock.run(self._try_take_locked, ticket, now, shed_rank)
        if taken is None:
            taken = self._run(self._take_again_locked, ticket, now, shed_rank)
        if taken:
            return ticket
        if self._is_refused(ticket, shed_rank):
            return self._refusal(call, 0.0)
        if ticket.group is None:
            ticket.group = slots.group(partition, call.priority)
        return self._queue(ticket, now, self.max_wait)

    def _is_refused(self, ticket: _Ticket, shed_rank: float) -> bool:
        """Whether a call that found no slot may not wait for one either."""
        if self.max_queue == 0 or self.max_wait == 0:
            return True
        # In the queue it would hold up others of its class.
        return ticket.group is not None and ticket.group.is_shed(shed_rank)

    def _missed_locked(self, ticket: _Ticket, shed_rank: float) -> None:
        """Take note of a call that found no slot."""
        if ticket.group is not None and self._is_refused(ticket, shed_rank):
            ticket.group.refused()

    def _try_take_locked(
        self, ticket: _Ticket, now: float, shed_rank: float
    ) -> bool | None:
        """Take a slot; None: there may be one all the same."""
        slots = self._slots
        if ticket.group is None:
            if slots.take(ticket):
                return True
        elif slots.take_for(ticket, now, shed_rank=shed_rank):
            return True
        if self._deferred or slots.limit != self._algorithm.limit(now):
            return None
        self._missed_locked(ticket, shed_rank)
        return False

    def _take_again_locked(
        self, woken: list[_Ticket], ticket: _Ticket, now: float, shed_rank: float
    ) -> bool:
        # A slot was given back and not taken back yet, or a probe is over.
        woken += self._adopt_locked(self._algorithm.limit(now))
        slots = self._slots
        if ticket.group is None:
            return slots.take(ticket)
        taken = slots.take_for(ticket, now, shed_rank=shed_rank, again=True)
        if not taken:
            self._missed_locked(ticket, shed_rank)
        return taken

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
        assert ticket.wait is not None
        return self._slots.take_for(ticket, ticket.wait.began, again=True)

    def _may_wait_locked(self, ticket: _Ticket) -> bool:
        wait = ticket.wait
        assert wait is not None
        wait.limit_to(self._codel.give_up_at(wait.began, self._slots.queued))
        self._slots.lifo = self._codel.standing
        return True

    def _enter_locked(self, ticket: _Ticket, now: float) -> None:
        ticket.began = now

    def _refusal(
        self, call: Call, waited: float, *, by_deadline: bool = False
    ) -> ConcurrencyLimitedError:
        slots = self._slots
        error = ConcurrencyLimitedError(
            self.error_name(call), None, slots.limit, slots.in_use, slots.queued, waited
        )
        if by_deadline:
            error.by_deadline = True
        return error

    # -- Out

    def settle(self, permit: _Ticket, outcome: Outcome | None) -> None:
        try:
            if outcome is not None:
                permit.answer = self._answer(permit, outcome)
        finally:
            # NB: a judge that raises is a bug that reaches the caller, after
            # the slot has gone back.
            self._settle(permit)

    def _note_cut(self, ticket: _Ticket, cut: Outcome) -> None:
        ticket.answer = self._answer(ticket, cut)

    def _settle(self, ticket: _Ticket) -> None:
        woken: list[_Ticket] = []
        change: LimitChanged | None = None
        try:
            change = self._lock.run(self._settle_locked, ticket, woken)
        except ReenteredError:
            self._deferred.append(ticket)
        finally:
            if woken:
                self._after_unlock(woken)
            if self._deferred:
                self._release_deferred()
        if change is not None:
            self.emit(change)

    def _settle_locked(
        self, ticket: _Ticket, woken: list[_Ticket]
    ) -> LimitChanged | None:
        answer, ticket.answer = ticket.answer, None
        try:
            if answer is not None:
                woken += self._learn_locked(answer)
        finally:
            woken += self._slots.leave(ticket)
        if self._listeners and self._told != self._slots.limit:
            return self._change_locked(clock.now())
        return None

    def defer_settle(
        self, permit: _Ticket, outcome: Outcome, ongoing: OngoingWork
    ) -> None:
        # NB: the slot first, for a judge that raises must not keep it.
        ongoing.add_release(lambda last: self.settle(permit, None))
        answer = self._answer(permit, outcome)
        if answer is not None:
            self._release(answer)

    def _answer(self, ticket: _Ticket, outcome: Outcome) -> _Answer | None:
        """Return what there is to learn from a call; None: it says nothing."""
        judge = self._judge
        verdict = outcome.verdict if judge is None else judge(outcome)
        if verdict is _IGNORED or outcome.health is _IGNORED:
            return None
        return _Answer(ticket.began, clock.now(), verdict is not _SUCCESS)

    def _learn_locked(self, answer: _Answer) -> list[_Ticket]:
        began, now, congested = answer
        if began < self._epoch:
            return []
        slots = self._slots
        limit = self._algorithm.update(now, now - began, slots.in_use, congested)
        return [] if limit == slots.limit else self._adopt_locked(limit)

    def _release_locked(self, item: _Answer | _Ticket) -> list[_Ticket]:
        if isinstance(item, Ticket):
            return self._leave_locked(item)
        return self._learn_quietly_locked(item)

    def _leave_locked(self, item: _Ticket) -> list[_Ticket]:
        answer, item.answer = item.answer, None
        woken = [] if answer is None else self._learn_quietly_locked(answer)
        woken += self._slots.leave(item)
        return woken

    def _learn_quietly_locked(self, answer: _Answer) -> list[_Ticket]:
        try:
            return self._learn_locked(answer)
        except Exception:
            # NB: no place to raise or log it: this may be any call, and
            # holds the lock. It is raised in calls that find the lock free.
            return []

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
