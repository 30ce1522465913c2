"""Arguments that no one means: each is refused in our words, or taken.

What is drawn over: every parameter of every policy and of what they are made
with, and values that compare, hash, convert or add up in unforeseen ways.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    CircuitBreaker,
    Coalesce,
    Fallback,
    Gradient,
    Hedge,
    Limit,
    PerKey,
    Pipeline,
    RateLimitedError,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    Vegas,
    calls,
    constant,
    deadline_after,
    decorrelated,
    delays,
    exponential,
    linear,
    priority,
)
from resilient.testing import virtual_time


class Contrary:
    """An object that fails at whatever it is asked."""

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("eq")

    def __hash__(self) -> int:
        return 1

    def __bool__(self) -> bool:
        raise ZeroDivisionError("bool")

    def __repr__(self) -> str:
        return "Contrary()"


VALUES: list[Any] = [
    Decimal("sNaN"),
    Decimal("NaN"),
    Decimal(1),
    Fraction(1, 2),
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    1e300,
    5e-324,
    -0.0,
    10**400,
    -1,
    True,
    None,
    "x",
    b"x",
    [],
    {},
    (),
    set(),
    1j,
    Contrary(),
    object(),
    int,
    len,
    timedelta.max,
    timedelta(-1),
    {"requests": 1e308},
    {"requests": Contrary()},
    {Contrary(): 1},
    [Decimal("sNaN")],
    (Contrary(),),
]

MADE: list[tuple[Callable[..., object], dict[str, Any]]] = [
    (Timeout, {"seconds": 1}),
    (Retry, {"on": OSError}),
    (CircuitBreaker, {}),
    (Bulkhead, {"max_concurrency": 1}),
    (Bulkhead.for_load, {"rate": 1, "latency": 1}),
    (RateLimiter, {"rate": 5}),
    (RateLimiter, {"limits": [Limit(1)]}),
    (Coalesce, {}),
    (StaleCache, {"ttl": 1, "stale_if_error": 2}),
    (Fallback, {"value": None}),
    (Fallback, {"function": lambda error: None}),
    (Hedge, {"delay": 1}),
    (PerKey, {"factory": lambda key: Bulkhead(1)}),
    (Pipeline, {}),
    (AdaptiveConcurrency, {}),
    (AdaptiveConcurrency, {"partitions": {"a": 1}, "by": lambda call: "a"}),
    (AdaptiveThrottle, {}),
    (RetryBudget, {}),
    (AIMD, {}),
    (Vegas, {}),
    (Gradient, {}),
    (constant, {"delay": 1}),
    (linear, {"base": 1, "step": 1, "cap": 5}),
    (exponential, {}),
    (decorrelated, {"base": 1, "cap": 5}),
    (delays, {"iterable": [1]}),
    (Limit, {"rate": 1}),
    (calls, {"size": 1}),
    (deadline_after, {"seconds": 1}),
    (priority, {"name": "batch"}),
]

PARAMETERS = [
    pytest.param(made, arguments, name, id=f"{made.__qualname__} {place} {name}")
    for place, (made, arguments) in enumerate(MADE)
    for name, one in inspect.signature(made).parameters.items()
    if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
]


@pytest.mark.parametrize(("made", "arguments", "name"), PARAMETERS)
def test_no_argument_raises_an_error_of_its_own(
    made: Callable[..., object], arguments: dict[str, Any], name: str
) -> None:
    """A TypeError or ValueError is raised by us, and any object has a repr."""
    for value in VALUES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                repr(made(**{**arguments, name: value}))
            except (TypeError, ValueError) as error:
                trace = error.__traceback__
                assert trace is not None
                while trace.tb_next is not None:
                    trace = trace.tb_next
                module = trace.tb_frame.f_globals["__name__"]
                assert module.startswith("resilient."), (value, error)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: RateLimiter(5, cost=1e308),
            r"`cost` must be <= 1e\+300, got 1e\+308",
        ),
        (
            lambda: RateLimiter(5, cost=Decimal("sNaN")),  # type: ignore[arg-type]
            r"`cost` must be a number, got Decimal\('sNaN'\)",
        ),
        (
            lambda: RateLimiter(limits=[Limit(1)], per=Decimal("sNaN")),  # type: ignore[arg-type]
            "`per` and `burst` belong into each Limit of `limits`",
        ),
        (
            lambda: Bulkhead.for_load(1e200, 1e200),
            r"`rate` times `latency` must be <= 1e\+300 calls, got 1e\+200 times",
        ),
        (
            lambda: AdaptiveConcurrency(partitions=3, by=len),  # type: ignore[arg-type]
            "`partitions` must be a dict of shares, got 3",
        ),
        (
            lambda: Timeout(1, abandon=1),  # type: ignore[arg-type]
            "`abandon` must be True or False, got 1",
        ),
    ],
)
def test_what_is_refused_is_named(make: Callable[[], object], text: str) -> None:
    """With parameter, rule and value."""
    with pytest.raises((TypeError, ValueError), match=text):
        make()


@pytest.mark.parametrize("algorithm", ["token_bucket", "sliding_window"])
def test_a_computed_cost_of_any_kind_is_refused_or_taken(algorithm: Any) -> None:
    """Whatever a function returns, and whatever is booked afterwards."""
    with virtual_time() as clock:
        for value in VALUES:
            limiter = RateLimiter(1e300, cost=lambda call: 2.0, algorithm=algorithm)
            odd = limiter.with_(cost=lambda call, value=value: value)
            try:
                odd.call(int)
            except (TypeError, ValueError) as error:
                assert "`cost` must" in str(error)
            for _ in range(3):
                try:
                    with limiter.guard() as call:
                        call.set_cost(requests=value)
                except (TypeError, ValueError) as error:
                    assert "`requests` must" in str(error)
                except RateLimitedError:
                    clock.advance(1)
            limiter.available()
            limiter.status()
