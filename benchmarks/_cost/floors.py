"""The steps that every call is made of, and policies in one frame.

Each of the steps has the one above in it and does one thing more.

*In one frame* is what a pipeline might generate for itself: what its policies do at
both ends of a call, called one after the other from a single function that was
written for them alone. It knows no wait and no outer deadline, tells of nothing, and
is here to be measured: as long as the policies' rules, the locks around them and what
a call is stay what they are, it is the least that a call can cost. Each function is
whole: to share code would be a call more.
"""

from __future__ import annotations

from collections.abc import Callable
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
from resilient._call import PLAIN, Call, enter_call, leave_call
from resilient._edge import Proceed
from resilient._errors import RejectedError
from resilient._runtimes.sync import SYNC

from .by_hand import Rejected
from .ours import pipeline
from .workloads import Function, World

FALLBACK, TOTAL, RETRY, BREAKER, LIMITER, BULKHEAD, ATTEMPT = range(7)


def wrapper(fn: Function, world: World, tight: bool) -> Function:
    """A function around the function."""

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        return await fn(*args, **kwargs)

    return wrapped


def variable(fn: Function, world: World, tight: bool) -> Function:
    """And a context variable, so that what is inside knows where it is."""

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        token = enter_call(None)
        try:
            return await fn(*args, **kwargs)
        finally:
            leave_call(token)

    return wrapped


def alone(fn: Function, world: World, tight: bool) -> Function:
    """And a call and an outcome: what is called, what came of it; both end."""
    policy = pipeline()
    policy.enrol()

    if world.sync:

        def wrapped_sync(*args: Any, **kwargs: Any) -> Any:
            call = Call("alone", args, kwargs, SYNC, None, policy, fn)
            token = enter_call(call)
            call.run = PLAIN
            outcome = None
            try:
                outcome = Outcome(fn(*args, **kwargs))
                return outcome.value
            finally:
                leave_call(token)
                call.end(outcome)

        return wrapped_sync

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("alone", args, kwargs, None, None, policy, fn)
        token = enter_call(call)
        call.run = PLAIN
        outcome = None
        try:
            outcome = Outcome(await fn(*args, **kwargs))
            return outcome.value
        finally:
            leave_call(token)
            call.end(outcome)

    return wrapped


def refusing(fn: Function, world: World, tight: bool) -> Function:
    """A call that says no, as a function that always does would."""
    policy = pipeline()
    policy.enrol()

    if world.sync:

        def wrapped_sync(*args: Any, **kwargs: Any) -> Any:
            call = Call("refusing", args, kwargs, SYNC, None, policy, fn)
            token = enter_call(call)
            outcome = None
            try:
                outcome = Outcome(None, Rejected("open"))
                assert outcome.error is not None
                raise outcome.error
            finally:
                leave_call(token)
                call.end(outcome)

        return wrapped_sync

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("refusing", args, kwargs, None, None, policy, fn)
        token = enter_call(call)
        outcome = None
        try:
            outcome = Outcome(None, Rejected("open"))
            assert outcome.error is not None
            raise outcome.error
        finally:
            leave_call(token)
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


def _async_only(world: World) -> Pipeline[Any]:
    if world.sync:
        raise NotImplementedError("asynchronous only")
    whole = pipeline()
    whole.enrol()
    return whole


def _passed(call: Call) -> Any:
    """Be what a limiter lets pass, which does all that it does before."""


def retry(fn: Function, world: World, tight: bool) -> Function:
    """Retry, in one frame."""
    whole = _async_only(world)
    budget = cast("Retry", whole.policies[RETRY])._budget
    assert budget is not None

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("retry", args, kwargs, None, None, whole, fn)
        token = enter_call(call)
        outcome = None
        try:
            _clock.now()
            call.retried = True
            call.run = PLAIN
            outcome = Outcome(await fn(*args, **kwargs))
            budget.deposit()
            return outcome.value
        finally:
            leave_call(token)
            call.end(outcome)

    return wrapped


def breaker(fn: Function, world: World, tight: bool) -> Function:
    """A circuit breaker, in one frame."""
    whole = pipeline()
    whole.enrol()
    policy = cast("CircuitBreaker", whole.policies[BREAKER])

    if world.sync:

        def wrapped_sync(*args: Any, **kwargs: Any) -> Any:
            call = Call("breaker", args, kwargs, SYNC, None, whole, fn)
            token = enter_call(call)
            call.run = PLAIN
            outcome = None
            try:
                permit = policy.admit(call)
                if isinstance(permit, RejectedError):
                    raise permit
                try:
                    outcome = Outcome(fn(*args, **kwargs))
                except Exception as error:
                    outcome = Outcome(None, error)
                    raise
                finally:
                    policy.settle(permit, outcome)
                return outcome.value
            finally:
                leave_call(token)
                call.end(outcome)

        return wrapped_sync

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("breaker", args, kwargs, None, None, whole, fn)
        token = enter_call(call)
        call.run = PLAIN
        outcome = None
        try:
            permit = policy.admit(call)
            if isinstance(permit, RejectedError):
                raise permit
            try:
                outcome = Outcome(await fn(*args, **kwargs))
            except Exception as error:
                outcome = Outcome(None, error)
                raise
            finally:
                policy.settle(permit, outcome)
            return outcome.value
        finally:
            leave_call(token)
            call.end(outcome)

    return wrapped


def limiter(fn: Function, world: World, tight: bool) -> Function:
    """A rate limiter, in one frame."""
    whole = _async_only(world)
    policy = cast("RateLimiter", whole.policies[LIMITER])

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("limiter", args, kwargs, None, None, whole, fn)
        token = enter_call(call)
        call.run = PLAIN
        outcome = None
        try:
            policy.around(_passed, call)
            outcome = Outcome(await fn(*args, **kwargs))
            return outcome.value
        finally:
            leave_call(token)
            call.end(outcome)

    return wrapped


def bulkhead(fn: Function, world: World, tight: bool) -> Function:
    """A bulkhead, in one frame."""
    whole = _async_only(world)
    policy = cast("Bulkhead", whole.policies[BULKHEAD])

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("bulkhead", args, kwargs, None, None, whole, fn)
        token = enter_call(call)
        call.run = PLAIN
        outcome = None
        try:
            permit = policy.admit(call)
            try:
                outcome = Outcome(await fn(*args, **kwargs))
            finally:
                policy.settle(permit, outcome)
            return outcome.value
        finally:
            leave_call(token)
            call.end(outcome)

    return wrapped


def timeout(fn: Function, world: World, tight: bool) -> Function:
    """A timeout, in one frame."""
    whole = _async_only(world)
    policy = cast("Timeout", whole.policies[TOTAL])
    seconds, shelf = policy.seconds or 0.0, policy._shelf

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("timeout", args, kwargs, None, None, whole, fn)
        token = enter_call(call)
        call.run = PLAIN
        outcome = None
        try:
            call.deadline = until = _clock.now() + seconds
            limit = call.runtime.limit(call, shelf, seconds, until)
            outcome = Outcome(await fn(*args, **kwargs))
            limit.leave(call, None)
            return outcome.value
        finally:
            leave_call(token)
            call.end(outcome)

    return wrapped


def stack(fn: Function, world: World, tight: bool) -> Function:
    """Everything at once, in one frame."""
    return _six_in_sync(fn) if world.sync else seven()(fn)


def seven(room: int = 10) -> Callable[[Function], Function]:
    """Seven policies, in one frame.

    Args:
        room: How many calls may be inside at once.

    Returns:
        A decorator, as a pipeline is.
    """
    whole = pipeline(room=room)
    whole.enrol()

    def decorate(fn: Function) -> Function:
        total = cast("Timeout", whole.policies[TOTAL])
        breaker = cast("CircuitBreaker", whole.policies[BREAKER])
        limiter = cast("RateLimiter", whole.policies[LIMITER])
        bulkhead = cast("Bulkhead", whole.policies[BULKHEAD])
        attempt = cast("Timeout", whole.policies[ATTEMPT])
        total_seconds, attempt_seconds = total.seconds or 0.0, attempt.seconds or 0.0
        budget = cast("Retry", whole.policies[RETRY])._budget
        assert budget is not None

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            call = Call("stack", args, kwargs, None, None, whole, fn)
            token = enter_call(call)
            outcome = None
            try:
                call.deadline = until = _clock.now() + total_seconds
                runtime = call.runtime
                limit = runtime.limit(call, total._shelf, total_seconds, until)
                call.retried = True
                _clock.now()
                era = breaker.admit(call)
                try:
                    limiter.around(_passed, call)
                    slot = bulkhead.admit(call)
                    try:
                        call.deadline = end = _clock.now() + attempt_seconds
                        cut = runtime.limit(call, attempt._shelf, attempt_seconds, end)
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
                leave_call(token)
                call.end(outcome)

        return wrapped

    return decorate


def _six_in_sync(fn: Function) -> Function:
    whole = pipeline(sync=True)
    whole.enrol()
    seconds = cast("Timeout", whole.policies[TOTAL]).seconds or 0.0
    breaker = cast("CircuitBreaker", whole.policies[BREAKER])
    limiter = cast("RateLimiter", whole.policies[LIMITER])
    bulkhead = cast("Bulkhead", whole.policies[BULKHEAD])
    budget = cast("Retry", whole.policies[RETRY])._budget
    assert budget is not None

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("stack", args, kwargs, SYNC, None, whole, fn)
        token = enter_call(call)
        outcome = None
        try:
            call.deadline = _clock.now() + seconds
            call.retried = True
            _clock.now()
            era = breaker.admit(call)
            try:
                limiter.around(_passed, call)
                slot = bulkhead.admit(call)
                try:
                    call.run = PLAIN
                    outcome = Outcome(fn(*args, **kwargs))
                finally:
                    bulkhead.settle(slot, outcome)
            finally:
                breaker.settle(era, outcome)
            budget.deposit()
            return outcome.value
        finally:
            leave_call(token)
            call.end(outcome)

    return wrapped
