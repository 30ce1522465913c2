"""The policies of this library, as its pages recommend to build them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Balance,
    Bulkhead,
    CircuitBreaker,
    Coalesce,
    Fallback,
    Hedge,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    constant,
)

from .workloads import Function, World

HOUR = 3600.0
AT_ONCE = constant(0, jitter="none")


POLICIES: dict[str, Callable[[], Policy[Any]]] = {
    "Retry": lambda: Retry(OSError),
    "CircuitBreaker": CircuitBreaker,
    "RateLimiter": lambda: RateLimiter(1e6),
    "Bulkhead": lambda: Bulkhead(10),
    "Timeout": lambda: Timeout(3),
    "Fallback": lambda: Fallback(None),
    "Balance of three": lambda: Balance("a", "b", "c"),
    "Hedge": lambda: Hedge(1, max_threads=10),
    "AdaptiveConcurrency": AdaptiveConcurrency,
    "AdaptiveThrottle": AdaptiveThrottle,
    "Coalesce": lambda: Coalesce(key=_key),
    "StaleCache, a hit": lambda: StaleCache(HOUR, HOUR, key=_key),
    "PerKey of RateLimiter": lambda: PerKey(lambda _: RateLimiter(1e6), key=_key),
}
"""Every policy that can stand alone, by name."""


def _key(x: int) -> int:
    return 1


def alone(name: str, fn: Function, world: World, tight: bool) -> Function:
    """One of them, as it is by default."""
    return POLICIES[name]()(fn)


def ample() -> RetryBudget:
    """A budget that keeps its books as any other, and does not run out."""
    return RetryBudget(0.1, 1e6, 1e6)


def empty(fn: Function, world: World, tight: bool) -> Function:
    """A pipeline without policies: what having one costs."""
    return Pipeline()(fn)


def retry(fn: Function, world: World, tight: bool) -> Function:
    """Three attempts, on a budget that lasts."""
    return Retry(OSError, backoff=AT_ONCE, budget=ample())(fn)


def breaker(fn: Function, world: World, tight: bool) -> Function:
    """The default window, ten seconds."""
    return CircuitBreaker(failure_rate=0.9, open_for=HOUR)(fn)


def limiter(fn: Function, world: World, tight: bool) -> Function:
    """A token bucket."""
    return (RateLimiter(1, per=HOUR) if tight else RateLimiter(1e6))(fn)


def bulkhead(fn: Function, world: World, tight: bool) -> Function:
    """Ten at once, without a queue."""
    return Bulkhead(1 if tight else 10)(fn)


def balance(fn: Function, world: World, tight: bool, *, endpoints: int = 3) -> Function:
    """One of three endpoints, by latency."""
    return Balance(*range(endpoints))(fn)


def timeout(fn: Function, world: World, tight: bool) -> Function:
    """Three seconds."""
    return Timeout(3)(fn)


def fallback(fn: Function, world: World, tight: bool) -> Function:
    """None instead."""
    return Fallback(None)(fn)


def per_key(fn: Function, world: World, tight: bool) -> Function:
    """A limiter for each key."""
    return alone("PerKey of RateLimiter", fn, world, tight)


def cache(fn: Function, world: World, tight: bool) -> Function:
    """An answer for an hour, so that all calls but the first are hits."""
    return alone("StaleCache, a hit", fn, world, tight)


def called(fn: Function, world: World, tight: bool) -> Function:
    """A retry whose `call` or `acall` is used instead of a decorated function."""
    policy = Retry(OSError, backoff=AT_ONCE, budget=ample())
    return partial(policy.call if world.sync else policy.acall, fn)


def three(fn: Function, world: World, tight: bool) -> Function:
    """A timeout around a retry around a breaker."""
    return Pipeline(
        Timeout(3),
        Retry(OSError, backoff=AT_ONCE, budget=ample()),
        CircuitBreaker(failure_rate=0.9, open_for=HOUR),
    )(fn)


def pipeline(*, sync: bool = False, room: int = 10) -> Pipeline[None]:
    """Seven policies; six where an attempt cannot be interrupted."""
    attempt: list[Policy[Any]] = [] if sync else [Timeout(1)]
    return Pipeline(
        Fallback(None),
        Timeout(3),
        Retry(OSError, backoff=AT_ONCE, budget=ample()),
        CircuitBreaker(failure_rate=0.9, open_for=HOUR),
        RateLimiter(1e6),
        Bulkhead(room),
        *attempt,
    )


def stack(fn: Function, world: World, tight: bool) -> Function:
    """Everything at once."""
    return pipeline(sync=world.sync)(fn)
