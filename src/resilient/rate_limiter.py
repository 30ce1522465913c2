"""RateLimiter: so many calls, or so many units of any kind, in so much time."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

from resilient import _clock
from resilient._admission import Admission, AdmissionPolicy, Wait
from resilient._arguments import number
from resilient._arguments import seconds as seconds_argument
from resilient._call import Call, Outcome
from resilient._errors import RateLimitedError
from resilient._machines.limit import FixedWindow, RateLimit, SlidingWindow, TokenBucket
from resilient._runtimes import Waiter

if TYPE_CHECKING:
    from datetime import timedelta

Algorithm: TypeAlias = Literal["token_bucket", "sliding_window", "fixed_window"]
Cost: TypeAlias = "float | Mapping[str, float] | Callable[[Call], float | Mapping[str, float]]"

REQUESTS: Final = "requests"
"""The unit that is meant where none is named."""

_PERMIT: Final = True


@attrs.frozen
class Limit:
    """One limit of a `RateLimiter` that has several.

    Args:
        rate: Units per `per` seconds.
        per: Seconds, or a timedelta.
        unit: What is counted: "requests", "tokens", whatever the server says.
        burst: Units that may be taken at once; default one period's worth,
            at least 1. Token buckets only.
    """

    rate: float = attrs.field()
    per: float = attrs.field(default=1.0, kw_only=True)
    unit: str = attrs.field(default=REQUESTS, kw_only=True)
    burst: float | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        number("rate", self.rate, minimum=0, exclusive=True)
        per = seconds_argument("per", self.per, zero=False)
        object.__setattr__(self, "per", per)
        if self.burst is not None:
            number("burst", self.burst, minimum=0, exclusive=True)
        if not isinstance(self.unit, str):
            raise TypeError(f"`unit` must be a string, got {self.unit!r}")


class RateLimiter(AdmissionPolicy):
    """Let calls pass at a limited rate; let few or none wait for it.

    A wait is computed first: one that cannot fit `max_wait` or the deadline is
    rejected at once, takes nothing, and says when to come back. Who waits
    stands in one line, first come first served across threads and tasks;
    only the first in it looks at the clock. Who is cancelled leaves the line,
    and everybody behind moves up.

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
            afterwards, ``current_call().settle(tokens=812)`` books the
            difference.
        algorithm: "token_bucket" (even, with bursts), "sliding_window" (never
            more than `rate` in any `per` seconds), or "fixed_window" (for
            servers that count so; lets twice the rate through around a
            boundary).
        limits: Several `Limit` objects instead of `rate`.
        name: Name in errors and events.

    Raises:
        RateLimitedError: No permit in time; `retry_after` says when.
        ValueError: At the call: its computed cost is more than could ever be
            taken at once. On construction for a fixed one.

    Source: see `resilient._machines.limit`.
    """

    __slots__ = (
        "_amounts",
        "_line",
        "_lock",
        "_rules",
        "algorithm",
        "burst",
        "cost",
        "limits",
        "max_wait",
        "per",
        "rate",
    )

    holds_streams = False

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
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if (rate is None) == (limits is None):
            raise TypeError("RateLimiter takes exactly one of `rate` and `limits`")
        if algorithm not in ("token_bucket", "sliding_window", "fixed_window"):
            raise ValueError(
                '`algorithm` must be "token_bucket", "sliding_window" or'
                f' "fixed_window", got {algorithm!r}'
            )
        self.rate = rate
        self.per = seconds_argument("per", per, zero=False)
        self.burst = burst
        self.max_wait = (
            None if max_wait is None else seconds_argument("max_wait", max_wait)
        )
        self.cost = cost
        self.algorithm = algorithm
        self.limits = None if limits is None else _checked_limits(limits)
        self._lock = threading.Lock()
        self._line: OrderedDict[_Ticket, None] | None = None
        self._rules = self._new_rules()
        # What a call takes, by rule; None where a function says.
        self._amounts = None if callable(cost) else self._amounts_of(cost)

    # -- Calls

    def admit(self, call: Call) -> Admission:
        now = _clock.now()
        amounts = self._amounts
        if amounts is None:
            assert callable(self.cost)
            amounts = self._amounts_of(self.cost(call))
        with self._lock:
            wait = self._try_take_locked(now, amounts)
        if wait == 0.0:
            return self._taken(call, amounts, now)
        allowed = self._allowed(call, now)
        if wait > allowed:
            return RateLimitedError(self.name_in(call), wait, self.max_wait or 0.0)
        ticket = _Ticket(call.runtime.waiter(call), amounts, now + allowed)
        with self._lock:
            wait = self._try_take_locked(now, amounts)
            if wait > 0.0:
                if self._line is None:
                    self._line = OrderedDict()
                ticket.until = ticket.latest if self._line else now + wait
                ticket.sleeps = not self._line
                self._line[ticket] = None
                return ticket
        return self._taken(call, amounts, now)

    def readmit(self, wait: _Ticket, call: Call) -> Admission:
        now = _clock.now()
        following: _Ticket | None = None
        with self._lock:
            line = self._line
            assert line is not None
            first = wait in line and next(iter(line)) is wait
            left = self._wait_locked(now, wait.amounts) if first else 0.0
            if not first and wait in line and now < wait.latest:
                return wait
            if first and left > 0.0 and now + left <= wait.latest:
                wait.until, wait.sleeps = now + left, True
                return wait
            granted = first and left == 0.0
            if granted:
                self._take_locked(now, wait.amounts)
            elif wait in line:
                wait.missing = max(left, self._estimate_locked(now, wait))
            following = self._leave_locked(wait)
        self._wake(following)
        if granted:
            return self._taken(call, wait.amounts, now)
        return RateLimitedError(
            self.name_in(call), wait.missing, self.max_wait or 0.0
        )

    def withdraw(self, wait: _Ticket) -> None:
        with self._lock:
            following = self._leave_locked(wait)
        self._wake(following)

    def settle(self, permit: object, outcome: Outcome | None) -> None:
        # What was taken is taken, however the call went.
        pass

    def _taken(self, call: Call, amounts: tuple[float, ...], now: float) -> bool:
        if self.limits is not None or self.cost != 1:
            if call.bookings is None:
                call.bookings = {}
            call.bookings[self] = _Booking(self, amounts, now)
        return _PERMIT

    def _allowed(self, call: Call, now: float) -> float:
        """Return the longest wait that makes sense for `call`."""
        allowed = math.inf if self.max_wait is None else self.max_wait
        if call.deadline is not None:
            allowed = min(allowed, call.deadline - now)
        return allowed

    # -- The rules; the lock is held

    def _try_take_locked(self, now: float, amounts: tuple[float, ...]) -> float:
        """Take, if nobody waits and all can be taken; return the wait."""
        if not self._line:
            if len(amounts) == 1:
                return self._rules[0][1].try_take(now, amounts[0])
            wait = self._wait_locked(now, amounts)
            if wait == 0.0:
                self._take_locked(now, amounts)
            return wait
        ahead = [sum(column) for column in zip(*(t.amounts for t in self._line))]
        # NB: a free call waits for nobody.
        if not any(amounts):
            return 0.0
        return self._wait_locked(now, tuple(map(sum, zip(ahead, amounts))))

    def _wait_locked(self, now: float, amounts: tuple[float, ...]) -> float:
        return max(
            rule.wait(now, amount)
            for (_, rule), amount in zip(self._rules, amounts, strict=True)
        )

    def _take_locked(self, now: float, amounts: tuple[float, ...]) -> None:
        for (_, rule), amount in zip(self._rules, amounts, strict=True):
            rule.take(now, amount)

    def _estimate_locked(self, now: float, ticket: _Ticket) -> float:
        """Return how long a ticket in line still has to wait."""
        total = [0.0] * len(self._rules)
        for other in self._line or ():
            total = [a + b for a, b in zip(total, other.amounts, strict=True)]
            if other is ticket:
                break
        return self._wait_locked(now, tuple(total))

    def _leave_locked(self, ticket: _Ticket) -> _Ticket | None:
        """Take a ticket out of line; return who is first now, if that changed."""
        line = self._line
        if not line or ticket not in line:
            return None
        was_first = next(iter(line)) is ticket
        del line[ticket]
        return next(iter(line)) if was_first and line else None

    def _wake(self, ticket: _Ticket | None) -> None:
        while ticket is not None and not ticket.waiter.wake():
            # Its event loop is gone: the next one is first.
            with self._lock:
                ticket = self._leave_locked(ticket)

    # -- Live changes

    def set_rate(
        self,
        rate: float,
        *,
        per: float | timedelta | None = None,
        burst: float | None = None,
        unit: str | None = None,
    ) -> None:
        """Set another rate, live.

        Who waits is judged anew: nobody keeps a wait computed for the old
        rate, and who no longer fits `max_wait` is rejected now.

        Args:
            rate: Units per `per` seconds.
            per: Seconds; None: as before.
            burst: As in the constructor.
            unit: Which limit, where there are several.

        Raises:
            TypeError, ValueError: An argument is out of range, or no limit
                counts that unit. Nothing has changed then.
        """
        rule = self._rule(unit)
        number("rate", rate, minimum=0, exclusive=True)
        seconds = rule.per if per is None else seconds_argument("per", per, zero=False)
        now = _clock.now()
        woken: list[_Ticket] = []
        with self._lock:
            rule.change(now, rate, seconds, burst)
            ahead = [0.0] * len(self._rules)
            for ticket in tuple(self._line or ()):
                ahead = [a + b for a, b in zip(ahead, ticket.amounts, strict=True)]
                ticket.missing = self._wait_locked(now, tuple(ahead))
                if now + ticket.missing > ticket.latest:
                    ahead = [a - b for a, b in zip(ahead, ticket.amounts, strict=True)]
                    self._leave_locked(ticket)
                    woken.append(ticket)
            if self._line:
                woken.append(next(iter(self._line)))
        for ticket in woken:
            self._wake(ticket)

    def update(self, remaining: float, reset: float, unit: str | None = None) -> None:
        """Take note of what the server's headers say.

        Args:
            remaining: Units that may still be taken.
            reset: Seconds until the server counts anew.
            unit: Which limit, where there are several.

        Raises:
            TypeError, ValueError: No such limit, or not numbers.
        """
        rule = self._rule(unit)
        number("remaining", remaining, minimum=0)
        reset = seconds_argument("reset", reset)
        with self._lock:
            rule.learn(_clock.now(), remaining, reset)
            first = next(iter(self._line)) if self._line else None
        self._wake(first)

    def available(self, unit: str | None = None) -> float:
        """Return the units that could be taken now; below 0 in debt."""
        rule = self._rule(unit)
        with self._lock:
            return rule.level(_clock.now())

    @property
    def queued(self) -> int:
        """Calls that wait now."""
        return len(self._line or ())

    def reset(self) -> None:
        """Forget what was taken. Who waits goes on with the new count."""
        with self._lock:
            self._rules = self._new_rules()
            first = next(iter(self._line)) if self._line else None
        self._wake(first)

    def fresh(self) -> bool:
        now = _clock.now()
        with self._lock:
            return not self._line and all(
                rule.level(now) >= rule.capacity for _, rule in self._rules
            )

    # -- Construction

    def _new_rules(self) -> tuple[tuple[str, RateLimit], ...]:
        if self.limits is None:
            assert self.rate is not None
            limits: tuple[Limit, ...] = (
                Limit(self.rate, per=self.per, burst=self.burst),
            )
        else:
            limits = self.limits
        return tuple((limit.unit, self._new_rule(limit)) for limit in limits)

    def _new_rule(self, limit: Limit) -> RateLimit:
        if self.algorithm == "token_bucket":
            return TokenBucket(limit.rate, limit.per, limit.burst)
        if limit.burst is not None:
            raise ValueError(
                f"`burst` must be None with algorithm={self.algorithm!r}, got"
                f" {limit.burst!r}: windows have no burst"
            )
        kind = SlidingWindow if self.algorithm == "sliding_window" else FixedWindow
        return kind(limit.rate, limit.per)

    def _rule(self, unit: str | None) -> RateLimit:
        units = [one for one, _ in self._rules]
        if unit is None:
            unit = units[0] if len(units) == 1 else REQUESTS
        for one, rule in self._rules:
            if one == unit:
                return rule
        raise ValueError(f"`unit` must be one of {units}, got {unit!r}")

    def _amounts_of(self, cost: object) -> tuple[float, ...]:
        """Return what to take from each rule for a cost.

        Raises:
            TypeError, ValueError: It is no cost, names an unknown unit, or
                could never be taken.
        """
        units = [unit for unit, _ in self._rules]
        if isinstance(cost, Mapping):
            unknown = [unit for unit in cost if unit not in units]
            if unknown:
                raise ValueError(f"`cost` must name units of {units}, got {unknown}")
            amounts = tuple(
                number("cost", cost.get(unit, 0), minimum=0) for unit in units
            )
        else:
            amount = number("cost", cost, minimum=0)
            counted = units[0] if len(units) == 1 else REQUESTS
            if counted not in units:
                raise TypeError(
                    f"`cost` must be a dict by unit where limits count {units}, got"
                    f" {cost!r}"
                )
            amounts = tuple(amount if unit == counted else 0.0 for unit in units)
        for (unit, rule), amount in zip(self._rules, amounts, strict=True):
            if amount > rule.capacity:
                raise ValueError(
                    f"`cost` must be <= {rule.capacity:g} {unit}, the most that can"
                    f" be taken at once, got {amount:g}: it could never pass"
                )
        return amounts


class _Ticket(Wait):
    """A call in line.

    Attributes:
        amounts: What it wants, by rule.
        latest: When it has waited long enough.
        missing: Seconds it would have had to wait, once it is rejected.
    """

    __slots__ = ("amounts", "latest", "missing")

    def __init__(
        self, waiter: Waiter, amounts: tuple[float, ...], latest: float
    ) -> None:
        super().__init__(waiter, None)
        self.amounts = amounts
        self.latest = latest
        self.missing = 0.0


class _Booking:
    """What was taken for one attempt, by rule."""

    __slots__ = ("_amounts", "_at", "_limiter", "_settled")

    def __init__(
        self, limiter: RateLimiter, amounts: tuple[float, ...], at: float
    ) -> None:
        self._limiter = limiter
        self._amounts = amounts
        self._at = at
        self._settled: set[str] = set()

    def settle(self, costs: Mapping[str, float]) -> None:
        limiter, now = self._limiter, _clock.now()
        for unit, cost in costs.items():
            number(unit, cost, minimum=0)
        with limiter._lock:
            for (unit, rule), amount in zip(limiter._rules, self._amounts, strict=True):
                if unit in costs and unit not in self._settled:
                    self._settled.add(unit)
                    rule.book(now, costs[unit] - amount, since=self._at)
            first = next(iter(limiter._line)) if limiter._line else None
        limiter._wake(first)


def _checked_limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    checked = tuple(limits)
    for limit in checked:
        if not isinstance(limit, Limit):
            raise TypeError(f"`limits` must be Limit objects, got {limit!r}")
    if not checked:
        raise ValueError("`limits` must name at least one Limit, got none")
    return checked
