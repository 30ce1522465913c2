"""RateLimiter: so many calls, or so many units of any kind, in so much time.

How much may pass when is decided by `_machines.rate_limits`; what a limiter was
made with stands in `config`, the calls that wait for it in `queue`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._edges.steps import Answer
from resilient._errors.chains import annotate
from resilient._errors.errors import RateLimitedError
from resilient._events.listeners import log_warning_once
from resilient._machines.rate_limits import RateLimit
from resilient._policy.admission import (
    Admission,
    AdmissionPolicy,
    DeferredRelease,
)
from resilient._policy.shared import check_made_for_key, emit_of_store, fleet_of
from resilient._runtimes import clock
from resilient._runtimes.runtime import wake_all
from resilient._runtimes.sync import NO_WAITER, can_park
from resilient._values.checks import number, optional, plain
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock, ReenteredError
from resilient._values.traits import Trait
from resilient.policies.rate_limiter.config import (
    Algorithm,
    Cost,
    Limit,
    checked_limits,
    copied_cost,
    terms,
)
from resilient.policies.rate_limiter.queue import (
    LAST_MOMENT,
    BookedCost,
    Queue,
    Ticket,
    latest_start,
    sums,
)

if TYPE_CHECKING:
    from datetime import timedelta

    from resilient._machines.shared_bucket import Order
    from resilient._sharing.store import SharedStore
    from resilient.policies.rate_limiter.shared import SharedQueue

__all__ = ["Limit", "RateLimiter"]

_PERMIT: Final = True

_SEVERAL: Final = object()
"""Origins: what one of them says of its limit is nothing to the others."""

# Shared by all limiters without a queue so far; never written to.
_NOTHING: Final[list[Any]] = []


class RateLimiter(AdmissionPolicy, DeferredRelease):
    """Let calls pass at a limited rate; let few or none wait for it.

    A wait is computed first: one that cannot fit `max_wait` or the deadline is
    rejected at once, takes nothing, and says when to come back. Who waits
    stands in one queue, first come first served across threads and tasks;
    only the first in it looks at the clock. Who is cancelled leaves the queue,
    and all behind it move up.

    Several limits are taken together or not at all.

    Args:
        rate: Calls (or units of `cost`) per `per` seconds.
        per: Seconds, or a timedelta.
        burst: How much may be taken at once after a quiet time. Default: one
            period's worth, at least 1. Token buckets only.
        max_wait: Seconds that a call may wait; 0 (default): not at all; None:
            until its deadline.
        cost: What a call takes: a number, a dict by unit, or a function of
            the `Call` that returns either. Where the true cost is known only
            afterwards, ``current_call().set_cost(tokens=812)`` books the
            difference (for a cost other than 1, or `limits`: a limiter that
            only counts calls has nothing to correct).
        algorithm: "token_bucket" (even, with bursts), "sliding_window" (never
            more than `rate` in any `per` seconds), or "fixed_window" (for
            servers that count so; lets twice the rate through around a
            boundary).
        limits: Several `Limit` objects instead of `rate`, `per` and `burst`.
        shared: A store. All processes that give it a limiter of this `name`
            keep one limit together: in any t seconds they use at most
            ``burst + rate * t``. A call waits for the store's answer for the
            store's `patience` at most, whatever `max_wait` is; without the
            store each process keeps to its share. Token buckets only.
        name: Name in errors and events; required with `shared`.

    Raises:
        RateLimitedError: No permit in time; `retry_after` says when.
        ValueError: At the call: its computed cost is more than could ever be
            taken at once. A fixed one is refused on construction.

    Source: see `resilient._machines.rate_limits`.
    """

    __slots__ = (
        "_config",
        "_deferred",
        "_lock",
        "_origin",
        "_queue",
        "_rule",
        "_rules",
    )

    # What was taken is taken, whenever the stream ends.
    holds_streams = False

    # Whether a subclass has something to take back.
    _settles: ClassVar[bool] = False

    traits = Trait.PACES

    _live = dict.fromkeys(("rate", "per", "burst"), "set_rate")

    metrics: tuple[tuple[str, ...], ...] = (
        ("resilient.rejections", "RateLimitedError", "enforced"),
        ("resilient.permit.waits",),
    )

    def __init__(
        self,
        rate: float | None = None,
        *,
        per: float | timedelta = 1.0,
        burst: float | None = None,
        max_wait: float | timedelta | None = 0.0,
        cost: Cost = 1,
        algorithm: Algorithm = "token_bucket",
        limits: Iterable[Limit] | None = None,
        shared: SharedStore | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if (rate is None) == (limits is None):
            raise TypeError("RateLimiter takes exactly one of `rate` and `limits`")
        self._config = terms(
            None if rate is None else Limit(rate, per=per, burst=burst),
            None if limits is None else checked_limits(limits, per, burst),
            optional(seconds_argument, "max_wait", max_wait, hint="; None is no limit"),
            plain("cost", cost, "the Call") if callable(cost) else copied_cost(cost),
            algorithm,
        )
        self._lock = Lock()
        # Tickets to give back, and amounts that were taken without the lock.
        self._deferred: list[Ticket | tuple[float, ...]] = _NOTHING
        self._queue: Queue | None = None
        # The origin of the HTTP requests that pass; `_SEVERAL` once there are.
        self._origin: object = None
        # Nearly always there is one, of which a tuple would take 48 bytes.
        self._rule, self._rules = self._config.new_rules()
        if shared is not None:
            from resilient.policies.rate_limiter.shared import SharedQueue

            self._rule = SharedQueue(
                shared,
                name,
                self._config,
                self._run,
                partial(emit_of_store, self),
                lambda: self._queue,
                self._serve_locked,
                self._obey_locked,
            ).lease

    @property
    def rate(self) -> float | None:
        """Units per `per` seconds; None where there are `limits`."""
        return None if self._config.single is None else self._config.single.rate

    @property
    def per(self) -> float:
        """Seconds; 1.0 where there are `limits`."""
        return 1.0 if self._config.single is None else self._config.single.per

    @property
    def burst(self) -> float | None:
        """What may be taken at once; None: the default, or see `limits`."""
        return None if self._config.single is None else self._config.single.burst

    @property
    def max_wait(self) -> float | None:
        """Seconds that a call may wait; None: until its deadline."""
        return self._config.max_wait

    @property
    def cost(self) -> Cost:
        """What a call takes."""
        return self._config.cost

    @property
    def algorithm(self) -> Algorithm:
        """How it counts."""
        return self._config.algorithm

    @property
    def units(self) -> frozenset[str]:
        """What it counts: "requests", unless `limits` say otherwise."""
        return self._config.units

    @property
    def limits(self) -> tuple[Limit, ...] | None:
        """The limits, where there are several."""
        return self._config.limits

    @property
    def shared(self) -> SharedStore | None:
        """The store that the limit is shared through."""
        return None if self._shared is None else self._shared.store

    @property
    def _shared(self) -> SharedQueue | None:
        # NB: not by its class, which only those who share have to load.
        return getattr(self._rule, "queue", None)

    def _unregister(self) -> None:
        # A PerKey calls this of all that stands inside it, at whatever depth.
        check_made_for_key(self, self._shared, "one limit")
        super()._unregister()

    def _leave_store(self) -> None:
        if self._shared is not None:
            self._shared.leave()

    # -- Calls

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._settles = cls.settle is not RateLimiter.settle

    def enter(self, call: Call) -> Answer | None:
        if self._settles:
            return super().enter(call)
        permit = self.admit(call)
        if permit is _PERMIT:
            # Nothing is ever given back.
            return None
        call.way = call.step, permit, call.way
        return self._refuse_or_wait(call, permit)

    def admit(self, call: Call) -> Admission:
        config = self._config
        amounts = config.amounts
        if amounts is None:
            amounts = self._computed(call)
        now = clock.now()
        rule, lock = self._rule, self._lock
        if rule is None or self._queue is not None or lock.changing:
            wait = self._try_take(now, amounts)
        else:
            # What `_try_take` does, with two frames less.
            wait = lock.run(rule.try_take, now, amounts[0])
            if self._deferred:
                self._release_deferred()
        if wait != 0.0:
            return self._join_queue(call, amounts, wait)
        if rule is not None and rule.due:
            self._follow(now)
        if config.cost_may_change or call.limiters is not None:
            self._note(call, amounts, now)
        return _PERMIT

    def _try_take(self, now: float, amounts: tuple[float, ...]) -> float:
        """Take what can be taken now; return the wait, 0.0 if it was taken."""
        try:
            wait = self._lock.run(self._try_take_locked, now, amounts)
        except ReenteredError:
            # It began in the middle of a change, on the same thread: it passes,
            # and what it takes is a debt that later calls wait for.
            if self._deferred is _NOTHING:
                self._deferred = []
            self._deferred.append(amounts)
            return 0.0
        if self._deferred:
            self._release_deferred()
        return wait

    def _follow(self, now: float) -> bool:
        """Ask the store what is to be asked; return whether it has answered."""
        return self._shared is not None and self._shared.follow(now)

    def _computed(self, call: Call) -> tuple[float, ...]:
        """Return what the cost function says that a call takes."""
        terms = self._config
        assert callable(terms.cost)
        try:
            cost = terms.cost(call)
        except Exception as error:
            annotate(error, "`cost` is called with the Call: cost(call)")
            raise
        return terms.amounts_of(cost, computed=True)

    def _join_queue(
        self, call: Call, amounts: tuple[float, ...], wait: float
    ) -> Admission:
        """Join the queue, if a wait of so many seconds is not too long."""
        shared = self._shared
        if shared is not None:
            return self._line_up_shared(shared, call, amounts, wait)
        now = clock.now()
        give_up_at = self._give_up_at(now)
        latest = latest_start(call, give_up_at)
        if call.limiters is not None and self._see(call.key):
            wait = self._try_take(now, amounts)
            if wait == 0.0:
                self._note(call, amounts, now)
                return _PERMIT
        if now + wait <= latest:
            ticket = Ticket(call.runtime.waiter(call), amounts, latest, give_up_at)
            try:
                # NB: others may have come or gone meanwhile.
                wait, joins = self._run(self._join_locked, ticket, now)
            except BaseException:
                self._release(ticket)
                raise
            if joins:
                return ticket
            if wait == 0.0:
                self._note(call, amounts, now)
                return _PERMIT
        return self._rejection(call, wait, fits=now + wait <= give_up_at)

    def _line_up_shared(
        self,
        shared: SharedQueue,
        call: Call,
        amounts: tuple[float, ...],
        wait: float,
    ) -> Admission:
        """Join the queue for a store's answer, or as `_join_queue` does."""
        now = clock.now()
        if call.limiters is not None:
            self._see(call.key)
        give_up_at = self._give_up_at(now)
        latest = latest_start(call, give_up_at)
        arrived = shared.link.poll(now)
        # NB: a wait so short may be one for an answer, which always fits; and it
        # is looked at again under the lock, for the answer changes it.
        if arrived or wait <= shared.lease.patience or now + wait <= latest:
            parks = can_park(call.runtime)
            ticket = Ticket(
                call.runtime.waiter(call) if parks else NO_WAITER,
                amounts,
                latest,
                give_up_at,
            )
            try:
                if parks:
                    wait, joins = self._run(self._join_locked, ticket, now)
                else:
                    wait, joins = self._run(self._take_aside_locked, ticket, now)
                self._follow(now)
                if wait == 0.0:
                    self._note(call, amounts, now)
                    return _PERMIT
                if joins:
                    # NB: a store in memory answers while it is asked.
                    if ticket.granted or not self._waits(ticket):
                        return self.readmit(ticket, call)
                    shared.limit_sleep(ticket, call)
                    return ticket
            except BaseException:
                self._release(ticket)
                raise
        else:
            self._follow(now)
        return self._rejection(call, wait, fits=now + wait <= give_up_at)

    def _waits(self, ticket: Ticket) -> bool:
        queue = self._queue
        return queue is not None and ticket in queue.tickets

    def _fits(self, now: float, wait: float, latest: float) -> bool:
        """Whether a wait is over in time; one for a store's answer always is."""
        return now + wait <= latest or (
            self._rule is not None and wait <= self._rule.grace(now)
        )

    def _take_aside_locked(
        self, woken: list[Ticket], ticket: Ticket, now: float
    ) -> tuple[float, bool]:
        """Decide about a call that cannot wait for a store's answer."""
        wait = self._try_take_locked(now, ticket.amounts)
        assert self._shared is not None
        if (
            wait > 0.0
            and self._fits(now, wait, ticket.latest)
            and self._shared.lease.take_aside(now, ticket.amounts[0])
        ):
            wait = 0.0
        return wait, False

    def readmit(self, wait: Any, call: Call) -> Admission:
        if wait.granted and call.deadline is None:
            self._note(call, wait.amounts, clock.now())
            return _PERMIT
        permit = self._decide(wait, call)
        shared = self._shared
        if shared is not None and permit is wait:
            if shared.follow(clock.now()):
                permit = self._decide(wait, call)
            if permit is wait:
                shared.limit_sleep(wait, call)
        return permit

    def _decide(self, wait: Ticket, call: Call) -> Admission:
        now = clock.now()
        overdue = call.deadline is not None and now >= call.deadline
        granted = self._run(self._decide_locked, wait, now, overdue)
        if granted is None:
            return wait
        if granted:
            self._note(call, wait.amounts, now)
            return _PERMIT
        fits = now + wait.missing <= wait.give_up_at
        return self._rejection(call, wait.missing, fits=fits)

    def _decide_locked(
        self, woken: list[Ticket], wait: Ticket, now: float, overdue: bool
    ) -> bool | None:
        """Whether a call that waits may pass now; None: it waits on."""
        if wait.granted:
            # It was served, by an answer of a store.
            if overdue:
                self._each()[0].book(now, -wait.amounts[0], since=now)
            return not overdue
        if wait.rejected:
            return False
        self._pass_over_locked(now, wait)
        if self._queue is None:
            self._queue = Queue(len(self._config.each))
        queue = self._queue
        if wait not in queue.tickets:
            # It did not come when its turn was over, and others went on.
            queue.join(wait, first=True)
        if queue.first is wait:
            wait.missing = self._wait_of_head_locked(now, wait.amounts)
            fits = self._fits(now, wait.missing, wait.latest) and not overdue
            if fits and wait.missing > 0.0:
                wait.wait_until(now + wait.missing, first=True)
                return None
        else:
            wait.missing = self._wait_of_queue_locked(now, queue.total_until(wait))
            if not overdue and (wait.until is None or now < wait.latest):
                self._wait_behind_locked(wait, now + wait.missing)
                return None
        granted = wait.missing == 0.0 and not overdue
        if granted:
            self._take_locked(now, wait.amounts)
        woken += self._leave_locked(wait)
        return granted

    def _wait_behind_locked(self, wait: Ticket, due: float) -> None:
        """Have a call wait that is not the first in the queue."""
        wait.wait_until(due, first=False)
        if self._shared is not None and wait.latest <= self._shared.lease.due_by:
            # The first one in the queue learns, and wakes the others.
            wait.until = None

    def _pass_over_locked(self, now: float, but: Ticket | None = None) -> None:
        """Remove calls from the head of the queue that do not come for their turn.

        Should one come after all, it is first again.
        """
        while (queue := self._queue) is not None:
            if not queue:
                self._queue = None
                return
            first = queue.first
            if first is but or not first.is_overdue(now):
                return
            if self._shared is not None and not first.waiter.is_gone():
                # It waits for the store's answer, whenever that comes.
                return
            self._leave_locked(first)

    def withdraw(self, wait: Ticket) -> None:
        self._release(wait)

    def settle(self, permit: object, outcome: Outcome | None) -> None:
        # What was taken is taken, however the call went.
        pass

    def _note(self, call: Call, amounts: tuple[float, ...], now: float) -> None:
        """Tell the call what was taken for it, if that may be corrected."""
        if self._config.cost_may_change:
            extras = call.own_extras()
            if extras.bookings is None:
                extras.bookings = {}
            extras.bookings[self] = BookedCost(
                self._correct, self._config.units, amounts, now
            )
        if call.limiters is not None:
            self._see(call.key)
            if self not in call.limiters:
                # NB: it may stand inside a Retry, or around one.
                call.limiters.append(self)

    def _see(self, origin: object) -> bool:
        """Note an HTTP request's origin; return whether it lifts a hold.

        The second origin does: what the first one said is nothing to it.
        """
        if origin == self._origin or self._origin is _SEVERAL:
            return False
        return self._run(self._see_locked, origin)

    def _see_locked(self, woken: list[Ticket], origin: object) -> bool:
        if self._origin is None:
            self._origin = origin
            return False
        self._origin = _SEVERAL
        for rule in self._each():
            rule.forget_server()
        woken += self._first_locked()
        return True

    def _correct(
        self,
        costs: Mapping[str, float],
        amounts: tuple[float, ...],
        at: float,
        max_debt: float,
    ) -> None:
        """Book the difference to the `amounts` that were taken at `at`."""
        self._run(self._correct_locked, costs, amounts, at, max_debt)

    def _correct_locked(
        self,
        woken: list[Ticket],
        costs: Mapping[str, float],
        amounts: tuple[float, ...],
        at: float,
        max_debt: float,
    ) -> None:
        now = clock.now()
        limits = self._config.each
        for limit, rule, amount in zip(limits, self._each(), amounts, strict=True):
            if limit.unit in costs:
                difference = costs[limit.unit] - amount
                rule.book(now, difference, since=at, max_debt=max_debt)
        woken += self._first_locked()

    def _give_up_at(self, now: float) -> float:
        """Return when a wait that begins now has been as long as it may be."""
        max_wait = self._config.max_wait
        # NB: endless waits are fine, waits for what never comes are not.
        return LAST_MOMENT if max_wait is None else now + max_wait

    def _rejection(self, call: Call, wait: float, *, fits: bool) -> RateLimitedError:
        """Return the error of a call that cannot wait so long.

        Args:
            call: The call.
            wait: Seconds.
            fits: Whether `max_wait` is long enough: it is the deadline then.
        """
        config = self._config
        error = RateLimitedError(
            self.error_name(call),
            wait if wait < math.inf else None,
            config.max_wait or 0.0,
        )
        if fits:
            error.by_deadline = True
        if config.quota is not None:
            error.quota = config.quota
        return error

    # -- The rules; the lock is held

    def _each(self) -> tuple[RateLimit, ...]:
        return self._rules if self._rule is None else (self._rule,)

    def _try_take_locked(self, now: float, amounts: tuple[float, ...]) -> float:
        """Take what can be taken now; return the wait, 0.0 if it was taken."""
        if self._queue is not None:
            self._pass_over_locked(now)
        if self._queue is None:
            if self._rule is not None:
                return self._rule.try_take(now, amounts[0])
            wait = self._wait_of_head_locked(now, amounts)
            if wait == 0.0:
                self._take_locked(now, amounts)
            return wait
        if not any(amounts):
            # A free call does not wait.
            return 0.0
        grace = 0.0 if self._rule is None else self._rule.grace(now)
        if grace > 0.0:
            # Those ahead wait for a store's answer.
            return grace
        wait = self._wait_of_queue_locked(now, sums(self._queue.total, amounts))
        if wait == 0.0:
            # Those in the queue are due too, and only not awake yet.
            self._take_locked(now, amounts)
        return wait

    def _wait_of_head_locked(self, now: float, amounts: tuple[float, ...]) -> float:
        """Return the wait of the first in the queue; infinite if it never fits."""
        wait = 0.0
        for rule, amount in zip(self._each(), amounts, strict=True):
            if amount > rule.pace.capacity:
                return math.inf
            wait = max(wait, rule.wait(now, amount))
        return wait

    def _wait_of_queue_locked(self, now: float, amounts: Iterable[float]) -> float:
        """Return the wait until a queue that wants so much will have had it."""
        rules = zip(self._each(), amounts, strict=True)
        return max([rule.wait(now, amount) for rule, amount in rules])

    def _take_locked(self, now: float, amounts: tuple[float, ...]) -> None:
        for rule, amount in zip(self._each(), amounts, strict=True):
            rule.take(now, amount)

    def _join_locked(
        self, woken: list[Ticket], ticket: Ticket, now: float
    ) -> tuple[float, bool]:
        """Put a ticket at the end of the queue, if its wait is not too long.

        Returns:
            The wait, and whether it has begun; 0.0: there was none, and what it
            wants is taken.
        """
        wait = self._try_take_locked(now, ticket.amounts)
        joins = wait > 0.0 and self._fits(now, wait, ticket.latest)
        if joins:
            if self._queue is None:
                self._queue = Queue(len(self._config.each))
                if self._deferred is _NOTHING:
                    # NB: under the lock, and before anything may be returned.
                    self._deferred = []
                ticket.wait_until(now + wait, first=True)
            else:
                self._wait_behind_locked(ticket, now + wait)
            self._queue.join(ticket)
        return wait, joins

    def _leave_locked(self, ticket: Ticket) -> list[Ticket]:
        """Take a ticket out of the queue; return who is first now, if that changed."""
        queue = self._queue
        if queue is None or ticket not in queue.tickets:
            return []
        was_first = queue.first is ticket
        queue.leave(ticket)
        if not queue.tickets:
            self._queue = None
        return self._first_locked() if was_first else []

    def _first_locked(self) -> list[Ticket]:
        """Return who is first in the queue, to be woken: there is news for it."""
        if not self._queue:
            return []
        first = self._queue.first
        # NB: it has time to come, however long ago it was due.
        first.due = max(first.due, clock.now())
        return [first]

    def _recheck_waiters_locked(self, now: float) -> list[Ticket]:
        """Put calls that no longer fit out of the queue; return those to wake."""
        woken: list[Ticket] = []
        if self._queue is not None:
            ahead = Queue(len(self._config.each))
            for ticket in self._queue.tickets:
                ahead.join(ticket)
                ticket.missing = max(
                    self._wait_of_head_locked(now, ticket.amounts),
                    self._wait_of_queue_locked(now, ahead.total),
                )
                ticket.due = now + ticket.missing
                if not self._fits(now, ticket.missing, ticket.latest):
                    ahead.leave(ticket)
                    ticket.rejected = True
                    woken.append(ticket)
            self._queue = ahead if ahead.tickets else None
            woken += self._first_locked()
        return woken

    def _serve_locked(self, now: float) -> list[Ticket]:
        """Serve the queue with what an answer brought; return the tickets to wake."""
        woken: list[Ticket] = []
        while self._queue:
            first = self._queue.first
            if self._wait_of_head_locked(now, first.amounts) > 0.0:
                break
            self._take_locked(now, first.amounts)
            self._leave_locked(first)
            first.granted, first.missing = True, 0.0
            woken.append(first)
        return woken + self._recheck_waiters_locked(now)

    def _release_locked(self, item: Ticket | tuple[float, ...]) -> list[Ticket]:
        now = clock.now()
        if not isinstance(item, Ticket):
            self._take_locked(now, item)
            return []
        if item.granted:
            item.granted = False
            self._each()[0].book(now, -item.amounts[0], since=now)
        return self._leave_locked(item)

    def _after_unlock(self, effects: list[Ticket]) -> None:
        """Wake the waiters that have to look again."""
        woken = wake_all([ticket.waiter for ticket in effects])
        for ticket, waits in zip(effects, woken, strict=True):
            if not waits:
                # Its event loop is gone: the next one is first.
                self._deferred.append(ticket)

    # -- Live changes

    def set_rate(
        self,
        rate: float,
        *,
        per: float | timedelta | None = None,
        burst: float | None = None,
        unit: str | None = None,
        fleet: bool = False,
    ) -> None:
        """Set another rate, live.

        Calls that wait are checked again: none keeps a wait computed for
        the old rate, and one that no longer fits `max_wait` is rejected.

        Args:
            rate: Units per `per` seconds.
            per: Seconds; None: as before.
            burst: What may be taken at once; None: as before, by default one
                period's worth of the new rate.
            unit: Which limit, where there are several; of those that count
                the same unit the first.
            fleet: In all processes that share the limit: here at once, in the
                others with their next answer, within 2 s in which they are
                called. It returns before the store has answered, and is told to
                a store that is lost when it is back. It holds for processes
                that start later, too, until the store forgets the limit: a
                minute after it is full again.

        Raises:
            TypeError, ValueError: An argument is out of range, no limit
                counts that unit, the `cost` of a call would never fit, or
                `fleet` and it is not shared. Nothing has changed then.
        """
        shared = fleet_of(self, self._shared) if fleet else None
        self._run(self._set_rate_locked, rate, per, burst, unit)
        if shared is not None:
            shared.order(self._config.each[0])

    def _set_rate_locked(
        self,
        woken: list[Ticket],
        rate: float,
        per: float | timedelta | None,
        burst: float | None,
        unit: str | None,
    ) -> None:
        place = self._config.place_of(unit)
        old = self._config.each[place]
        limit = Limit(
            rate,
            per=old.per if per is None else per,
            unit=old.unit,
            burst=old.burst if burst is None else burst,
        )
        now = clock.now()
        self._set_limit_locked(now, place, limit)
        woken += self._recheck_waiters_locked(now)

    def _set_limit_locked(self, now: float, place: int, limit: Limit) -> None:
        config = self._config.with_limit(place, limit)
        self._each()[place].change(now, limit.rate, limit.per, limit.burst)
        self._config = config

    def _obey_locked(self, now: float, order: Order) -> bool:
        """Set what another process set for all; return whether it fits."""
        unit = self._config.each[0].unit
        try:
            limit = Limit(
                order.rate, per=order.per, unit=unit, burst=order.burst or None
            )
            self._set_limit_locked(now, 0, limit)
        except ValueError as error:
            log_warning_once(
                f"order {self.label}",
                "%r cannot take the rate that another process set for all: %s; the"
                " lower rate holds",
                self,
                error,
            )
            return False
        return True

    def learn(
        self,
        remaining: float,
        reset: float | timedelta,
        unit: str | None = None,
        *,
        max_hold: float | timedelta | None = None,
        origin: str | None = None,
    ) -> None:
        """Take note of what the server's headers say.

        Who waits is judged anew, as by `set_rate`. An HTTP transport calls
        this with the headers of each response.

        Args:
            remaining: Units that may still be taken.
            reset: Seconds until the server counts anew.
            unit: Which limit, where there are several: as in `set_rate`.
            max_hold: Seconds after which one call passes before a `reset`
                that is further away, so that its answer confirms the limit or
                lifts it. None: the server is trusted.
            origin: Whose headers they are. Once HTTP requests to another
                origin pass the limiter, such headers are ignored: one
                server's limit says nothing of another's.

        Raises:
            TypeError, ValueError: No such limit, or not numbers.
        """
        place = self._config.place_of(unit)
        number("remaining", remaining, minimum=0)
        reset = seconds_argument("reset", reset)
        most = (
            math.inf
            if max_hold is None
            else seconds_argument("max_hold", max_hold, infinite=True)
        )
        self._run(self._learn_locked, place, remaining, reset, most, origin)

    def _learn_locked(
        self,
        woken: list[Ticket],
        place: int,
        remaining: float,
        reset: float,
        most: float,
        origin: str | None,
    ) -> None:
        if origin is not None and self._origin is _SEVERAL:
            return
        now = clock.now()
        self._each()[place].learn(now, remaining, reset, most)
        woken += self._recheck_waiters_locked(now)

    def take_back(self, call: Call) -> None:
        """Take back what a call took that was not sent. For HTTP transports."""
        amounts = self._config.amounts
        if amounts is None:
            booking = (call.extras.bookings or {}).get(self)
            assert isinstance(booking, BookedCost)
            amounts = booking.amounts
        self._run(self._take_back_locked, amounts)

    def _take_back_locked(
        self, woken: list[Ticket], amounts: tuple[float, ...]
    ) -> None:
        now = clock.now()
        for rule, amount in zip(self._each(), amounts, strict=True):
            rule.book(now, -amount, since=now)
        woken += self._first_locked()

    def available(self, unit: str | None = None) -> float:
        """Return the units that could be taken now; below 0 in debt."""
        place = self._config.place_of(unit)
        return self._run(self._levels_locked)[place]

    def _levels_locked(self, woken: list[Ticket]) -> list[float]:
        now = clock.now()
        return [rule.level(now) for rule in self._each()]

    @property
    def queued(self) -> int:
        """Calls that wait now."""
        queue = self._queue
        return 0 if queue is None else len(queue.tickets)

    def status(self) -> dict[str, Any]:
        tokens: dict[str, float] = {}
        levels = self._run(self._levels_locked)
        for limit, level in zip(self._config.each, levels, strict=True):
            tokens[limit.unit] = min(level, tokens.get(limit.unit, level))
        status: dict[str, Any] = {
            "limiter.tokens": tokens,
            "limiter.queued": self.queued,
        }
        if self._shared is not None:
            status |= self._shared.status()
        return status

    def reset(self, *, fleet: bool = False) -> None:
        """Forget what was taken, not the rate. Who waits goes on at once.

        Of a shared limit this process forgets what it was told: it asks anew.

        Args:
            fleet: Forget what all processes took: the limit is as new. Others
                that refuse learn of it within 2 s in which they are called. It
                returns before the store has answered, and is told to a store
                that is lost when it is back.

        Raises:
            ValueError: `fleet`, and it is not shared.
        """
        shared = fleet_of(self, self._shared) if fleet else None
        self._run(self._reset_locked)
        if shared is not None:
            shared.reset()

    def _reset_locked(self, woken: list[Ticket]) -> None:
        if self._shared is None:
            self._rule, self._rules = self._config.new_rules()
        else:
            self._shared.lease.forget()
        woken += self._first_locked()

    def is_pristine(self) -> bool:
        return self._run(self._is_pristine_locked)

    def _is_pristine_locked(self, woken: list[Ticket]) -> bool:
        now = clock.now()
        return self._queue is None and all(
            rule.level(now) >= rule.pace.capacity for rule in self._each()
        )

    def is_restrictive(self) -> bool:
        return self._run(self._is_restrictive_locked)

    def _is_restrictive_locked(self, woken: list[Ticket]) -> bool:
        now = clock.now()
        if self._shared is not None:
            # The store remembers what was taken, but not what the server said.
            return self._shared.lease.is_held(now)
        rules = self._each()
        wanted = self._config.amounts or tuple(
            min(1.0, rule.pace.capacity) for rule in rules
        )
        pairs = zip(rules, wanted, strict=True)
        return any(rule.wait(now, amount) > 0 for rule, amount in pairs)
