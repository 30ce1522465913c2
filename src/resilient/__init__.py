"""Resilience policies that compose, for synchronous and asynchronous Python.

Retry with jitter, circuit breaker, bulkhead, rate limiter, timeout, fallback,
hedging, adaptive limits and throttling, coalescing, stale answers: each alone
or several in one `Pipeline`, as a decorator, a call, a guarded block or a loop
of attempts, in plain functions, asyncio and trio.

Importing this package loads neither asyncio, trio, anyio, OpenTelemetry nor
httpx.
"""

from __future__ import annotations

from resilient._admission import AdmissionPolicy, Wait
from resilient._blocks import Attempt, Attempts, Guard
from resilient._call import Call, current_call, current_deadline, remaining
from resilient._errors import (
    BulkheadFullError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    RateLimitedError,
    RejectedError,
    ResilientError,
    ResilientWarning,
    ThrottledError,
    TimeoutExceededError,
)
from resilient._events import (
    BudgetEmpty,
    CallAbandoned,
    CallCoalesced,
    CallRejected,
    CircuitChanged,
    CircuitNoted,
    Event,
    FallbackUsed,
    HedgeLaunched,
    HedgeWon,
    KeyEvicted,
    LimitChanged,
    PermitWaited,
    RetriesExhausted,
    RetryCancelled,
    RetryScheduled,
    StaleServed,
    TimedOut,
)
from resilient._health import health
from resilient._machines.aimd import AIMD, ConcurrencyLimit
from resilient._machines.backoff import (
    Backoff,
    constant,
    decorrelated,
    delays,
    exponential,
    linear,
)
from resilient._machines.circuit import CircuitState, CircuitStatistics
from resilient._machines.gradient import Gradient
from resilient._machines.terms import Limit
from resilient._machines.vegas import Vegas
from resilient._outcome import Outcome, Verdict
from resilient._pipeline import Pipeline
from resilient._policy import Policy
from resilient._priority import Priority
from resilient._telling import deadline_after, priority
from resilient._watching import EventStream, events, subscribe
from resilient.adaptive_concurrency import AdaptiveConcurrency
from resilient.adaptive_throttle import AdaptiveThrottle
from resilient.bulkhead import Bulkhead
from resilient.circuit_breaker import CircuitBreaker, calls
from resilient.coalesce import Coalesce
from resilient.fallback import Fallback
from resilient.hedge import Hedge
from resilient.per_key import PerKey
from resilient.rate_limiter import RateLimiter
from resilient.retry import Retry
from resilient.retry_budget import RetryBudget
from resilient.stale_cache import AsyncCacheStore, CacheStore, StaleCache
from resilient.timeout import Timeout

__all__ = [
    "AIMD",
    "AdaptiveConcurrency",
    "AdaptiveThrottle",
    "AdmissionPolicy",
    "AsyncCacheStore",
    "Attempt",
    "Attempts",
    "Backoff",
    "BudgetEmpty",
    "Bulkhead",
    "BulkheadFullError",
    "CacheStore",
    "Call",
    "CallAbandoned",
    "CallCoalesced",
    "CallRejected",
    "CircuitBreaker",
    "CircuitChanged",
    "CircuitNoted",
    "CircuitOpenError",
    "CircuitState",
    "CircuitStatistics",
    "Coalesce",
    "ConcurrencyLimit",
    "ConcurrencyLimitedError",
    "DeadlineExceededError",
    "Event",
    "EventStream",
    "Fallback",
    "FallbackUsed",
    "Gradient",
    "Guard",
    "Hedge",
    "HedgeLaunched",
    "HedgeWon",
    "KeyEvicted",
    "Limit",
    "LimitChanged",
    "Outcome",
    "PerKey",
    "PermitWaited",
    "Pipeline",
    "Policy",
    "Priority",
    "RateLimitedError",
    "RateLimiter",
    "RejectedError",
    "ResilientError",
    "ResilientWarning",
    "RetriesExhausted",
    "Retry",
    "RetryBudget",
    "RetryCancelled",
    "RetryScheduled",
    "StaleCache",
    "StaleServed",
    "ThrottledError",
    "TimedOut",
    "Timeout",
    "TimeoutExceededError",
    "Vegas",
    "Verdict",
    "Wait",
    "calls",
    "constant",
    "current_call",
    "current_deadline",
    "deadline_after",
    "decorrelated",
    "delays",
    "events",
    "exponential",
    "health",
    "linear",
    "priority",
    "remaining",
    "subscribe",
]

# Tracebacks and reprs say `resilient.Name`, wherever the name is defined.
for _name in __all__:
    globals()[_name].__module__ = __name__
