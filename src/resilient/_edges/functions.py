"""The edge of a decorated function: where a user's call meets the policies.

Ground rules:

* A policy is a coroutine around a call. The edge drives the policies' one
  coroutine to its leaf, where it asks for the function (`RUN`); runs the
  function in its own frame; and resumes the coroutine with the outcome.
  Whatever else the coroutine yields belongs to the event loop and is handed
  on, and what the loop throws back is thrown in.
* An `Exception` of the user's becomes an `Outcome`. Every other BaseException
  is thrown into the coroutine, so that permits go back, and goes on.
* Only the edge raises the outcome's error: as it was, with one frame of ours
  in its traceback and none of ours keeping it alive afterwards.

The loops of `sync_edge` and `async_edge` look alike and stay apart: they are
the hot path, and a shared driver would be one more frame in every traceback.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from contextvars import Token
from typing import Any, cast

from resilient._calls import call as call_module
from resilient._calls.call import AnyPolicy, Call, overdue
from resilient._calls.outcome import Outcome
from resilient._edges import driver
from resilient._edges.driver import (
    RUN,
    Chain,
    Driven,
    failed,
    leaf,
    misused,
    suspend,
)
from resilient._edges.lazy import MADE, awaited, is_lazy, refuse_lazy
from resilient._errors.tracebacks import forget_frame, raised_by
from resilient._runtimes import clock
from resilient._runtimes.runtime import PAUSE
from resilient._runtimes.sync import SYNC
from resilient._values.callables import name_of

# NB: a wrapper is pickled by value where its function is (by cloudpickle, for joblib,
# dask and ray), and its globals with it: a context variable's methods are therefore
# looked up in their module.


def sync_edge(policy: AnyPolicy, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for a plain function."""
    chain, name = cast("Chain", policy.bind(leaf)), name_of(fn)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not driver.enabled:
            return fn(*args, **kwargs)
        call = Call(name, args, kwargs, SYNC, None, policy, fn)
        token: Token[Call | None] | None = None
        value: Any = None
        outcome: Outcome | None = None
        trace: types.TracebackType | None = None
        coroutine: Driven | None = None
        try:
            token = call_module.enter_call(call)
            if call.deadline is not None:
                outcome = overdue(call, clock.now())
            if outcome is None:
                coroutine = chain(call)
                send = resume = coroutine.send
                while True:
                    try:
                        request = resume(value)
                    except StopIteration as stop:
                        outcome = stop.value
                        break
                    except BaseException as error:
                        if error is value:
                            BaseException.with_traceback(error, trace)
                        raise
                    if request is not RUN:
                        value, trace = misused(request), None
                        resume = coroutine.throw
                        continue
                    # NB: the user's call has a `try` of its own: its
                    # StopIteration is none of ours.
                    try:
                        if call.thread_runner is None:
                            value = Outcome(fn(*args, **kwargs))
                        else:
                            value = call.thread_runner(fn, args, kwargs)
                    except Exception as error:
                        value = failed(error)
                        resume = send
                    except BaseException as error:
                        value, trace = error, error.__traceback__
                        resume = coroutine.throw
                    else:
                        resume = send
                        # NB: the type: the value may be a proxy that answers.
                        if type(value.value) not in MADE and is_lazy(
                            value.value, was_awaited=False
                        ):
                            value = refuse_lazy(name, value.value, was_awaited=False)
                            trace = None
                            resume = coroutine.throw
            assert outcome is not None
            if outcome.error is None:
                return outcome.value
            raise raised_by(policy, outcome.error)
        finally:
            if token is None:
                call_module.forget_call(call)
            else:
                call_module.leave_call(token)
            if coroutine is not None:
                # NB: after Ctrl-C in this very frame it is still under way,
                # and the error's traceback would keep it.
                coroutine.close()
            call.end(outcome)
            # NB: the error's traceback holds this frame; the frame must not
            # hold the error.
            outcome = value = trace = None

    return wrapper


def _awaiting(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn`, whose results can all be awaited, were it only to refuse them."""

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return awaited(fn(*args, **kwargs))
        except BaseException as error:
            forget_frame(error)
            raise

    return run


def async_edge(
    policy: AnyPolicy, fn: Callable[..., Any], *, plain: bool = False
) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for a coroutine function.

    Args:
        policy: What protects it.
        fn: The function.
        plain: Whether it is a plain one that returns what is awaited.
    """
    chain, name = cast("Chain", policy.bind(leaf)), name_of(fn)
    run = _awaiting(fn) if plain else fn

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not driver.enabled:
            return await run(*args, **kwargs)
        call = Call(name, args, kwargs, None, None, policy, fn)
        token: Token[Call | None] | None = None
        value: Any = None
        outcome: Outcome | None = None
        trace: types.TracebackType | None = None
        coroutine: Driven | None = None
        try:
            token = call_module.enter_call(call)
            if call.deadline is not None:
                outcome = overdue(call, clock.now())
            if outcome is None:
                coroutine = chain(call)
                send = resume = coroutine.send
                while True:
                    try:
                        request = resume(value)
                    except StopIteration as stop:
                        outcome = stop.value
                        break
                    except BaseException as error:
                        if error is value:
                            BaseException.with_traceback(error, trace)
                        elif getattr(coroutine, "cr_suspended", False):
                            # NB: Ctrl-C in this very frame. They may have to
                            # wait as they unwind, so they cannot be closed.
                            value, trace = error, error.__traceback__
                            resume = coroutine.throw
                            continue
                        raise
                    # NB: the user's call has a `try` of its own: its
                    # StopIteration is none of ours.
                    try:
                        if request is RUN:
                            value = Outcome(await run(*args, **kwargs))
                        elif request is PAUSE:
                            value = None
                        else:
                            value = await suspend(request)
                    except Exception as error:
                        if request is RUN:
                            value = failed(error)
                            resume = send
                        else:
                            value, trace = error, error.__traceback__
                            resume = coroutine.throw
                    except GeneratorExit:
                        # NB: of a cycle the collector may have closed the
                        # policies already, and then nothing can be thrown in.
                        coroutine.close()
                        raise
                    except BaseException as error:
                        value, trace = error, error.__traceback__
                        resume = coroutine.throw
                    else:
                        resume = send
                        if (
                            request is RUN
                            and type(value.value) not in MADE
                            and is_lazy(value.value, was_awaited=True)
                        ):
                            value = refuse_lazy(name, value.value, was_awaited=True)
                            trace = None
                            resume = coroutine.throw
            assert outcome is not None
            if outcome.error is None:
                return outcome.value
            raise raised_by(policy, outcome.error)
        finally:
            try:
                if token is None:
                    call_module.forget_call(call)
                else:
                    call_module.leave_call(token)
            except ValueError:
                # Closed from another context, by the collector or a loop that
                # shuts down: the variable there was never ours.
                pass
            if coroutine is not None:
                # NB: as in `sync_edge`.
                coroutine.close()
            call.end(outcome)
            # NB: the error's traceback holds this frame; the frame must not
            # hold the error.
            outcome = value = trace = None

    return wrapper
