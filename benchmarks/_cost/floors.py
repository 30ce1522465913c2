"""The steps that every call is made of, and seven policies in one frame.

Each of the first four has the one above in it and does one thing more. The last
is what a pipeline might generate for itself: what its policies do at both ends of
a call, called one after the other from a single function. It knows no failure, no
wait and no outer deadline, and is here to be measured.
"""

from __future__ import annotations

from typing import Any, cast

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Outcome,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    Timeout,
    _clock,
)
from resilient._call import PLAIN, Call, current
from resilient._edge import Proceed

from .ours import pipeline
from .workloads import Function, World


def wrapper(fn: Function, world: World, tight: bool) -> Function:
    """A function around the function."""

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapped


def variable(fn: Function, world: World, tight: bool) -> Function:
    """And a context variable, so that what is inside knows where it is."""

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        token = current.set(None)
        try:
            return await fn(*args, **kwargs)
        finally:
            current.reset(token)

    return wrapped


def objects(fn: Function, world: World, tight: bool) -> Function:
    """And a call and an outcome: what is called, what came of it; both end."""
    policy = pipeline()
    policy.enrol()

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("objects", args, kwargs, None, None, policy, fn)
        token = current.set(call)
        call.run = PLAIN
        outcome = None
        try:
            outcome = Outcome(await fn(*args, **kwargs))
            return outcome.value
        finally:
            current.reset(token)
            call.end(outcome)

    return wrapped


class Nothing(Policy):
    """A policy that does nothing."""

    __slots__ = ()

    async def around(self, proceed: Proceed, call: Call) -> Outcome:
        """Go on."""
        return await proceed(call)


def frames(fn: Function, world: World, tight: bool) -> Function:
    """And seven coroutines, driven by the function around the function."""
    return Pipeline(*(Nothing() for _ in range(7)))(fn)


def fused(fn: Function, world: World, tight: bool) -> Function:
    """Seven policies, what each does at both ends, in one frame."""
    whole = pipeline()
    whole.enrol()
    total, attempt = (cast("Timeout", whole.policies[at]) for at in (1, 6))
    retry = cast("Retry", whole.policies[2])
    breaker = cast("CircuitBreaker", whole.policies[3])
    limiter = cast("RateLimiter", whole.policies[4])
    bulkhead = cast("Bulkhead", whole.policies[5])
    total_seconds, attempt_seconds = total.seconds or 0.0, attempt.seconds or 0.0
    budget = retry._budget
    assert budget is not None

    def passing(call: Call) -> Any:
        """Be what the limiter would call."""

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("fused", args, kwargs, None, None, whole, fn)
        token = current.set(call)
        outcome = None
        try:
            call.deadline = until = _clock.now() + total_seconds
            runtime = call.runtime
            limit = runtime.limit(call, total._shelf, total_seconds, until)
            call.retried = True
            _clock.now()
            era = breaker.admit(call)
            try:
                limiter.around(passing, call)
                slot = bulkhead.admit(call)
                try:
                    call.deadline = sooner = _clock.now() + attempt_seconds
                    cut = runtime.limit(call, attempt._shelf, attempt_seconds, sooner)
                    call.run = PLAIN
                    outcome = Outcome(await fn(*args, **kwargs))
                    cut.leave(call, None)
                    call.deadline = until
                finally:
                    bulkhead.settle(slot, outcome)
            finally:
                breaker.settle(era, outcome)
            budget.deposit()
            limit.leave(call, None)
            return outcome.value
        finally:
            current.reset(token)
            call.end(outcome)

    return wrapped
