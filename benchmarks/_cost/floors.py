"""What a call costs that is protected by nothing: the steps that each is made of.

Each function here has the one above in it and does one thing more. What is at the
bottom is no floor but a ceiling taken off: seven policies fused by hand into one
frame, as a function that a pipeline generates for itself would be. It is right
where nothing goes wrong, and knows no other case.
"""

from __future__ import annotations

import functools
from typing import Any

from resilient import _clock
from resilient._call import PLAIN, Call, Outcome, current
from resilient._edge import Proceed
from resilient._policy import Policy

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


def call(fn: Function, world: World, tight: bool) -> Function:
    """And an object that says what is called, and forgets it in the end."""
    policy = pipeline()

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("floor", args, kwargs, None, None, policy, fn)
        token = current.set(call)
        try:
            return await fn(*args, **kwargs)
        finally:
            current.reset(token)
            call.end()

    return wrapped


class Nothing(Policy):
    """A policy that does nothing."""

    __slots__ = ()

    async def around(self, proceed: Proceed, call: Call) -> Outcome:
        return await proceed(call)


def frames(fn: Function, world: World, tight: bool) -> Function:
    """And seven coroutines that do nothing, driven from outside."""
    from resilient import Pipeline

    return Pipeline(*(Nothing() for _ in range(7)))(fn)


def fused(fn: Function, world: World, tight: bool) -> Function:
    """Seven policies, what each does at both ends, in one frame."""
    whole = pipeline()
    whole.enrol()
    _, total, retry, breaker, limiter, bulkhead, attempt = whole.policies
    budget = retry._budget  # type: ignore[attr-defined]
    slow = whole(fn)

    @functools.wraps(fn)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = Call("fused", args, kwargs, None, None, whole, fn)
        token = current.set(call)
        outcome = None
        try:
            if call.deadline is not None:
                return await slow(*args, **kwargs)
            runtime = call.runtime
            began = _clock.now()
            call.deadline = until = began + total.seconds
            limit = runtime.limit(call, total._shelf, total.seconds, until)
            call.retried = True
            _clock.now()
            try:
                permit = breaker.admit(call)
                if type(permit) is not int:
                    raise NotImplementedError
                limiter.admit(call)
                slot = bulkhead.admit(call)
                try:
                    began = _clock.now()
                    call.deadline = inner = began + attempt.seconds
                    limited = runtime.limit(
                        call, attempt._shelf, attempt.seconds, inner
                    )
                    call.run = PLAIN
                    outcome = Outcome(await fn(*args, **kwargs))
                    limited.leave(None)
                    call.deadline = until
                finally:
                    bulkhead.settle(slot, outcome)
            finally:
                breaker.settle(permit, outcome)
            budget.deposit()
            limit.leave(None)
            call.deadline = None
            return outcome.value
        finally:
            current.reset(token)
            call.end(outcome)

    return wrapped
