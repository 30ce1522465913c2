"""What a rate limiter was made with: its limits, and what a call takes of each.

Ground rules:

* `LimiterConfig` never change. Limiters made alike share one object, for a `PerKey`
  may hold ten thousand of them, which then differ in what was taken alone.
* A cost is translated here, once for a fixed one, into an amount for each
  limit; one that could never be taken at once is an error, not a wait.

Deliberately not modelled: whose call a cost is computed for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from weakref import WeakValueDictionary

from resilient._machines.rate_limits import (
    FixedWindow,
    RateLimit,
    SlidingWindow,
    TokenBucket,
)
from resilient._values.checks import choice, number, seconds
from resilient._values.records import Record

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = [
    "REQUESTS",
    "Algorithm",
    "Cost",
    "Limit",
    "LimiterConfig",
    "checked_limits",
    "copied_cost",
    "terms",
]

Algorithm: TypeAlias = Literal["token_bucket", "sliding_window", "fixed_window"]
_Costs: TypeAlias = Mapping[str, float]
Cost: TypeAlias = float | _Costs | Callable[[Any], float | _Costs]

REQUESTS: Final = "requests"
"""The unit that is meant where none is named."""


class Limit(Record):
    """One limit of a `RateLimiter` that has several.

    Args:
        rate: Units per `per` seconds.
        per: Seconds, or a timedelta.
        unit: What is counted: "requests", "tokens", whatever the server says.
        burst: Units that may be taken at once; default one period's worth,
            at least 1. Token buckets only.
    """

    __slots__ = ("burst", "per", "rate", "unit")

    rate: float
    per: float
    unit: str
    burst: float | None

    def __init__(
        self,
        rate: float,
        *,
        per: float | timedelta = 1.0,
        unit: str = REQUESTS,
        burst: float | None = None,
    ) -> None:
        per = seconds("per", per, zero=False)
        if isinstance(rate, str):
            raise TypeError(
                f"`rate` must be a number, got {rate!r}: 10 a minute is 10, per=60"
            )
        number("rate", rate, minimum=0, exclusive=True)
        if burst is not None:
            number("burst", burst, minimum=0, exclusive=True)
        if not isinstance(unit, str):
            raise TypeError(f"`unit` must be a string, got {unit!r}")
        super().__init__(rate, per, unit, burst)

    def __repr__(self) -> str:
        text = f"Limit({self.rate!r}, per={self.per!r}"
        if self.unit != REQUESTS:
            text += f", unit={self.unit!r}"
        return text + (")" if self.burst is None else f", burst={self.burst!r})")


class LimiterConfig:
    """What a limiter was made with; limiters made alike share one.

    Attributes:
        single: Its limit, where it was given a `rate`.
        limits: Its limits, where it was given those.
        each: Its limits in any case.
        units: What they count.
        rules: A fresh rule for each, to be copied: the numbers in them are
            shared too.
        amounts: What a call takes of each; None where a function says.
        quota: What a rejection says of the limit; see `RateLimitedError`.
        cost_may_change: Whether `settle` may have something to correct.
    """

    __slots__ = (
        "__weakref__",
        "algorithm",
        "amounts",
        "cost",
        "cost_may_change",
        "each",
        "limits",
        "max_wait",
        "quota",
        "rules",
        "single",
        "units",
    )

    def __init__(
        self,
        single: Limit | None,
        limits: tuple[Limit, ...] | None,
        max_wait: float | None,
        cost: Cost,
        algorithm: Algorithm,
    ) -> None:
        choice("algorithm", algorithm, "token_bucket", "sliding_window", "fixed_window")
        self.single: Limit | None = single
        self.limits: tuple[Limit, ...] | None = limits
        self.max_wait: float | None = max_wait
        self.cost: Cost = cost
        self.algorithm: Algorithm = algorithm
        self.each: tuple[Limit, ...] = limits or (() if single is None else (single,))
        self.units: frozenset[str] = frozenset([limit.unit for limit in self.each])
        self.rules: tuple[RateLimit, ...] = tuple(
            [self._rule_for(limit) for limit in self.each]
        )
        self.amounts: tuple[float, ...] | None = (
            None if callable(cost) else self.amounts_of(cost)
        )
        self.quota: tuple[int, int] | None = _quota_of(self.each)
        # NB: by the amounts, which are numbers; what a cost equals is not known.
        self.cost_may_change: bool = limits is not None or self.amounts != (1.0,)

    def _rule_for(self, limit: Limit) -> RateLimit:
        if self.algorithm == "token_bucket":
            return TokenBucket(limit.rate, limit.per, limit.burst)
        if limit.burst is not None:
            raise ValueError(
                f"`burst` must be None with algorithm={self.algorithm!r}, got"
                f" {limit.burst!r}: windows have no burst"
            )
        kind = SlidingWindow if self.algorithm == "sliding_window" else FixedWindow
        return kind(limit.rate, limit.per)

    def new_rules(self) -> tuple[RateLimit | None, tuple[RateLimit, ...]]:
        """Return a fresh rule where there is one limit, or else several."""
        if len(self.rules) == 1:
            return copy(self.rules[0]), ()
        return None, tuple([copy(rule) for rule in self.rules])

    def with_limit(self, place: int, limit: Limit) -> LimiterConfig:
        if self.limits is None:
            return terms(limit, None, self.max_wait, self.cost, self.algorithm)
        limits = (*self.limits[:place], limit, *self.limits[place + 1 :])
        return terms(None, limits, self.max_wait, self.cost, self.algorithm)

    def place_of(self, unit: str | None) -> int:
        units = [limit.unit for limit in self.each]
        if unit is None:
            unit = units[0] if len(units) == 1 else REQUESTS
        if unit not in units:
            raise ValueError(f"`unit` must be one of {units}, got {unit!r}")
        return units.index(unit)

    def amounts_of(self, cost: object, *, computed: bool = False) -> tuple[float, ...]:
        """Return what to take of each limit for a cost.

        Args:
            cost: A number, or a dict by unit.
            computed: Whether a function made it, of a call: it may be
                anything then, and secret, so that no error shows it.

        Raises:
            TypeError, ValueError: It is no cost, names an unknown unit, or
                could never be taken.
        """
        units = [limit.unit for limit in self.each]
        if isinstance(cost, Mapping):
            costs = cast("Mapping[object, object]", cost)
            # NB: the type first: what an object equals is its own affair.
            unknown = [
                unit for unit in costs if not isinstance(unit, str) or unit not in units
            ]
            if unknown:
                if computed:
                    unknown = [
                        unit if isinstance(unit, str) else type(unit)
                        for unit in unknown
                    ]
                raise ValueError(f"`cost` must name units of {units}, got {unknown}")
            if computed:
                for amount in costs.values():
                    _refuse_unseen(amount)
            amounts = tuple(
                number("cost", costs.get(unit, 0), minimum=0) for unit in units
            )
        else:
            if computed:
                _refuse_unseen(cost)
            amount = number("cost", cost, minimum=0)
            counted = units[0] if len(units) == 1 else REQUESTS
            if counted not in units:
                raise TypeError(
                    f"`cost` must be a dict by unit where limits count {units}, got"
                    f" {cost!r}"
                )
            amounts = tuple(amount if unit == counted else 0.0 for unit in units)
        for rule, unit, amount in zip(self.rules, units, amounts, strict=True):
            most = rule.pace.capacity
            if amount > most:
                raise ValueError(
                    f"`cost` must be <= {most:g} {unit}, the most that can"
                    f" be taken at once, got {amount:g}: it could never pass"
                )
        return amounts


def _refuse_unseen(cost: object) -> None:
    """Refuse what is no number, and show its type only."""
    if isinstance(cost, bool) or not isinstance(cost, (int, float)):
        raise TypeError(f"`cost` must be a number, got an object of {type(cost)}")


_shared: WeakValueDictionary[tuple[object, ...], LimiterConfig] = WeakValueDictionary()


def terms(
    single: Limit | None,
    limits: tuple[Limit, ...] | None,
    max_wait: float | None,
    cost: Cost,
    algorithm: Algorithm,
) -> LimiterConfig:
    """Return the terms of these arguments: the same object for equal ones."""
    # NB: with the type, or a cost of True would pass for a 1 seen before.
    key = (single, limits, max_wait, cost, type(cost), algorithm)
    try:
        known = _shared.get(key)
    except TypeError:
        # A dict has no hash.
        return LimiterConfig(single, limits, max_wait, cost, algorithm)
    if known is None:
        known = _shared[key] = LimiterConfig(single, limits, max_wait, cost, algorithm)
    return known


def copied_cost(cost: Cost) -> Cost:
    """Return a cost that its giver cannot change any more."""
    return dict(cast(_Costs, cost)) if isinstance(cost, dict) else cost


def checked_limits(
    limits: Iterable[Limit], per: object, burst: object
) -> tuple[Limit, ...]:
    """Return `limits` as a tuple, refused if it is no list of `Limit` objects."""
    if not isinstance(per, float) or per != 1.0 or burst is not None:
        raise TypeError("`per` and `burst` belong into each Limit of `limits`")
    if not isinstance(limits, Iterable):
        raise TypeError(f"`limits` must be a list of Limit objects, got {limits!r}")
    checked = tuple(limits)
    for limit in checked:
        if not isinstance(limit, Limit):
            raise TypeError(f"`limits` must be Limit objects, got {limit!r}")
    if not checked:
        raise ValueError("`limits` must name at least one Limit, got none")
    return checked


_MOST_QUOTA: Final = 999_999_999_999_999
"""The largest integer of a structured field (RFC 9651, 3.3.1)."""


def _quota_of(limits: tuple[Limit, ...]) -> tuple[int, int] | None:
    """Return the requests, and their seconds, of a limit in whole numbers.

    Returns:
        None: There are several, what is counted are no requests, or the numbers
        are not whole, which ``RateLimit-Policy`` cannot say.
    """
    limit = limits[0]
    rate, per = int(limit.rate), int(limit.per)
    whole = (rate, per) == (limit.rate, limit.per) and max(rate, per) <= _MOST_QUOTA
    if len(limits) > 1 or limit.unit != REQUESTS or not whole:
        return None
    return rate, per
