"""Resilience policies that compose, for synchronous and asynchronous Python.

Retry with jitter, circuit breaker, bulkhead, rate limiter, timeout, fallback,
hedging, adaptive limits and throttling, coalescing, stale answers: each alone
or several in one `Pipeline`, as a decorator, a call, a guarded block or a loop
of attempts, in plain functions, asyncio and trio.

Importing this package loads neither asyncio, trio, anyio, OpenTelemetry nor
httpx; what few programs use is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
import typing

from resilient._calls.call import Call, current_call, current_deadline, remaining
from resilient._calls.outcome import Outcome, Verdict
from resilient._calls.scopes import deadline_after, priority
from resilient._edges.blocks import Attempt, Attempts, Guard
from resilient._errors.errors import (
    BulkheadFullError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoEndpointError,
    RateLimitedError,
    RejectedError,
    ResilientError,
    ResilientWarning,
    RestartLimitError,
    ThrottledError,
    TimeoutExceededError,
)
from resilient._events.events import (
    BudgetEmpty,
    CallAbandoned,
    CallCoalesced,
    CallRejected,
    CircuitChanged,
    CircuitNoted,
    DiscoveryFailed,
    DrainEnded,
    EndpointChecked,
    EndpointEjected,
    EndpointReturned,
    EndpointsChanged,
    EndpointSkipped,
    Event,
    FallbackUsed,
    HedgeLaunched,
    HedgeWon,
    KeyEvicted,
    KeyOverflowed,
    LimitChanged,
    LimitLowered,
    PanicBegan,
    PanicEnded,
    PermitWaited,
    RetriesExhausted,
    RetryCancelled,
    RetryScheduled,
    StaleServed,
    StoreBack,
    StoreLost,
    TimedOut,
    WarningRaised,
    WorkerCrashed,
)
from resilient._machines.backoff import (
    Backoff,
    constant,
    decorrelated,
    delays,
    exponential,
    linear,
)
from resilient._machines.circuit_records import CircuitState, CircuitStatistics
from resilient._observing.health import health
from resilient._observing.subscriptions import EventStream, events, subscribe
from resilient._policy.admission import AdmissionPolicy, Wait
from resilient._policy.policy import Policy
from resilient._policy.retry_budget import RetryBudget
from resilient._values.priority import Priority
from resilient._values.traits import Trait
from resilient.policies.adaptive_throttle import AdaptiveThrottle
from resilient.policies.bulkhead import Bulkhead
from resilient.policies.circuit_breaker import CircuitBreaker, calls
from resilient.policies.coalesce import Coalesce
from resilient.policies.fallback import Fallback
from resilient.policies.per_key import PerKey
from resilient.policies.pipeline import Pipeline
from resilient.policies.rate_limiter.config import Limit
from resilient.policies.rate_limiter.rate_limiter import RateLimiter
from resilient.policies.retry import Retry
from resilient.policies.stale_cache import (
    AsyncCacheStore,
    CacheCodec,
    CacheStore,
    StaleCache,
)
from resilient.policies.timeout import Timeout

if typing.TYPE_CHECKING:
    from resilient._machines.aimd import AIMD, ConcurrencyLimit
    from resilient._machines.checks import Check
    from resilient._machines.ejection import Eject
    from resilient._machines.fleet import EndpointState
    from resilient._machines.gradient import Gradient
    from resilient._machines.vegas import Vegas
    from resilient.policies.adaptive_concurrency import AdaptiveConcurrency
    from resilient.policies.balance.balance import Balance
    from resilient.policies.balance.endpoints import Endpoint, EndpointStatus
    from resilient.policies.hedge.hedge import Hedge

__version__ = "0.1.0"

__all__ = [
    "AIMD",
    "AdaptiveConcurrency",
    "AdaptiveThrottle",
    "AdmissionPolicy",
    "AsyncCacheStore",
    "Attempt",
    "Attempts",
    "Backoff",
    "Balance",
    "BudgetEmpty",
    "Bulkhead",
    "BulkheadFullError",
    "CacheCodec",
    "CacheStore",
    "Call",
    "CallAbandoned",
    "CallCoalesced",
    "CallRejected",
    "Check",
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
    "DiscoveryFailed",
    "DrainEnded",
    "Eject",
    "Endpoint",
    "EndpointChecked",
    "EndpointEjected",
    "EndpointReturned",
    "EndpointSkipped",
    "EndpointState",
    "EndpointStatus",
    "EndpointsChanged",
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
    "KeyOverflowed",
    "Limit",
    "LimitChanged",
    "LimitLowered",
    "NoEndpointError",
    "Outcome",
    "PanicBegan",
    "PanicEnded",
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
    "RestartLimitError",
    "RetriesExhausted",
    "Retry",
    "RetryBudget",
    "RetryCancelled",
    "RetryScheduled",
    "StaleCache",
    "StaleServed",
    "StoreBack",
    "StoreLost",
    "ThrottledError",
    "TimedOut",
    "Timeout",
    "TimeoutExceededError",
    "Trait",
    "Vegas",
    "Verdict",
    "Wait",
    "WarningRaised",
    "WorkerCrashed",
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

# Where the names are that an import of the package does not load. Their classes
# state their `__module__` themselves.
_LATER = {
    "AIMD": "_machines.aimd",
    "AdaptiveConcurrency": "policies.adaptive_concurrency",
    "Balance": "policies.balance.balance",
    "Check": "_machines.checks",
    "ConcurrencyLimit": "_machines.aimd",
    "Eject": "_machines.ejection",
    "Endpoint": "policies.balance.endpoints",
    "EndpointState": "_machines.fleet",
    "EndpointStatus": "policies.balance.endpoints",
    "Gradient": "_machines.gradient",
    "Hedge": "policies.hedge.hedge",
    "Vegas": "_machines.vegas",
}

# Tracebacks and reprs say `resilient.Name`, wherever the name is defined.
for _name in __all__:
    if _name not in _LATER:
        globals()[_name].__module__ = __name__

# NB: hidden from type checkers, which would take any name for one of these.
if not typing.TYPE_CHECKING:

    def __getattr__(name):
        module = _LATER.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        globals()[name] = value  # found without this function from now on
        return value

    def __dir__():
        return sorted({*globals(), *_LATER})
