"""The edge of a decorated function: where a user's call meets the policies.

Ground rules:

* The edge walks the steps of the policies (see `steps`) and runs the function in
  its own frame. So a call that need not wait has no coroutine of ours.
* A step that waits answers with a coroutine, and so does a policy that is written
  as one, with everything inside it. The edge drives that. Where it asks for the
  function (`RUN`), the edge runs it and resumes the coroutine with the outcome.
  Whatever else the coroutine yields belongs to the event loop and is handed
  on, and what the loop throws back is thrown in.
* An `Exception` of the user's becomes an `Outcome`. With every other BaseException
  the steps unwind, so that permits go back, and it goes on.
* Only the edge raises the outcome's error: as it was, with one frame of ours
  in its traceback and none of ours keeping it alive afterwards.

The loops of `sync_edge` and `async_edge` look alike and stay apart: they are
the hot path, and a shared driver would be one more frame in every traceback.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from contextvars import Token
from typing import Any

from resilient._calls import call as call_module
from resilient._calls.call import NO_EXTRAS, ORIGINAL, RETRY, AnyPolicy, Call, overdue
from resilient._calls.outcome import SUCCEEDED, Outcome
from resilient._edges import driver, forks
from resilient._edges.driver import failed, misused, suspend
from resilient._edges.lazy import MADE, awaited, is_lazy, refuse_lazy
from resilient._edges.steps import (
    FUNCTION,
    RUN,
    entrance,
    leaf,
    unwind,
    walk_in,
    walk_out,
)
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
    begin, name = entrance(policy.link(None)), name_of(fn)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not driver.enabled:
            return fn(*args, **kwargs)
        call = Call()
        call.begin(name, args, kwargs, SYNC, policy, fn)
        token: Token[Call | None] | None = None
        value: Any = None
        answer: Any = None
        outcome: Outcome | None = None
        try:
            token = call_module.enter_call(call)
            call.step = begin
            if call.deadline is not None:
                answer = overdue(call, clock.now())
            while True:
                try:
                    if answer is None:
                        answer = walk_in(call)
                    if answer is FUNCTION:
                        # NB: what `begin_run` does for nearly every call.
                        if call.run is ORIGINAL and call.extras is NO_EXTRAS:
                            call.run = RETRY
                            policy.counters.originals += 1
                        elif not call.begin_run():
                            answer = leaf(call)
                    if answer is FUNCTION:
                        # NB: the user's call has a `try` of its own: its
                        # StopIteration is none of ours.
                        try:
                            value = fn(*args, **kwargs)
                        except Exception as error:
                            answer = failed(error)
                        else:
                            # NB: the type: the value may be a proxy that answers.
                            if type(value) not in MADE and is_lazy(
                                value, was_awaited=False
                            ):
                                raise refuse_lazy(name, value, was_awaited=False)
                            answer = Outcome(value) if call.weighs else SUCCEEDED
                    elif not isinstance(answer, Outcome):
                        send = resume = answer.send
                        throw = answer.throw
                        sent: Any = None
                        trace: types.TracebackType | None = None
                        while True:
                            try:
                                request = resume(sent)
                            except StopIteration as stop:
                                answer = stop.value
                                break
                            except BaseException as error:
                                if error is sent:
                                    BaseException.with_traceback(error, trace)
                                raise
                            if request is not RUN:
                                sent, trace = misused(request), None
                                resume = throw
                                continue
                            try:
                                if call.extras.thread_runner is None:
                                    sent = Outcome(fn(*args, **kwargs))
                                else:
                                    sent = call.extras.thread_runner(fn, args, kwargs)
                            except Exception as error:
                                sent = failed(error)
                                resume = send
                            except BaseException as error:
                                sent, trace = error, error.__traceback__
                                resume = throw
                            else:
                                resume = send
                                if type(sent.value) not in MADE and is_lazy(
                                    sent.value, was_awaited=False
                                ):
                                    try:
                                        raise refuse_lazy(
                                            name, sent.value, was_awaited=False
                                        )
                                    except TypeError as error:
                                        sent, trace = error, error.__traceback__
                                        resume = throw
                    if answer is not None:
                        if call.way is not None:
                            answer = walk_out(call, answer)
                        if call.way is None and isinstance(answer, Outcome):
                            outcome = answer
                            break
                except BaseException as error:
                    answer = unwind(call, answer, error)
                    if answer is None:
                        raise
            if outcome is SUCCEEDED:
                return value
            if outcome.error is None:
                return outcome.value
            raise raised_by(policy, outcome.error)
        finally:
            if token is None:
                call_module.forget_call(call)
            else:
                call_module.leave_call(token)
            if call.way is not None:
                # NB: after Ctrl-C amid the unwinding.
                unwind(call, answer, KeyboardInterrupt())
            call.end(outcome)
            if outcome is not SUCCEEDED:
                # NB: the error's traceback holds this frame; the frame must not
                # hold the error.
                outcome = answer = value = sent = trace = None

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
    begin, name = entrance(policy.link(None)), name_of(fn)
    run = _awaiting(fn) if plain else fn

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not driver.enabled:
            return await run(*args, **kwargs)
        call = Call()
        call.begin(name, args, kwargs, None, policy, fn)
        token: Token[Call | None] | None = None
        value: Any = None
        answer: Any = None
        outcome: Outcome | None = None
        interrupt: BaseException | None = None
        try:
            token = call_module.enter_call(call)
            call.step = begin
            if call.deadline is not None:
                answer = overdue(call, clock.now())
            while True:
                try:
                    if answer is None:
                        answer = walk_in(call)
                    if answer is FUNCTION:
                        # NB: what `begin_run` does for nearly every call.
                        if call.run is ORIGINAL and call.extras is NO_EXTRAS:
                            call.run = RETRY
                            policy.counters.originals += 1
                        elif not call.begin_run():
                            answer = leaf(call)
                    if answer is FUNCTION:
                        # NB: the user's call has a `try` of its own: its
                        # StopIteration is none of ours.
                        try:
                            value = await run(*args, **kwargs)
                        except Exception as error:
                            answer = failed(error)
                        else:
                            # NB: the type: the value may be a proxy that answers.
                            if type(value) not in MADE and is_lazy(
                                value, was_awaited=True
                            ):
                                raise refuse_lazy(name, value, was_awaited=True)
                            answer = Outcome(value) if call.weighs else SUCCEEDED
                    elif not isinstance(answer, Outcome):
                        send = resume = answer.send
                        throw = answer.throw
                        sent: Any = None
                        trace: types.TracebackType | None = None
                        if interrupt is not None:
                            sent, trace = interrupt, interrupt.__traceback__
                            resume, interrupt = throw, None
                        while True:
                            try:
                                request = resume(sent)
                            except StopIteration as stop:
                                answer = stop.value
                                break
                            except BaseException as error:
                                if error is sent:
                                    BaseException.with_traceback(error, trace)
                                raise
                            try:
                                if request is RUN:
                                    sent = Outcome(await run(*args, **kwargs))
                                elif request is PAUSE:
                                    sent = None
                                else:
                                    sent = await suspend(request)
                            except Exception as error:
                                if request is RUN:
                                    sent = failed(error)
                                    resume = send
                                else:
                                    sent, trace = error, error.__traceback__
                                    resume = throw
                            except GeneratorExit:
                                # NB: of a cycle the collector may have closed the
                                # policies already, and then nothing can be thrown in.
                                answer.close()
                                raise
                            except BaseException as error:
                                sent, trace = error, error.__traceback__
                                resume = throw
                            else:
                                resume = send
                                if (
                                    request is RUN
                                    and type(sent.value) not in MADE
                                    and is_lazy(sent.value, was_awaited=True)
                                ):
                                    try:
                                        raise refuse_lazy(
                                            name, sent.value, was_awaited=True
                                        )
                                    except TypeError as error:
                                        sent, trace = error, error.__traceback__
                                        resume = throw
                    if answer is not None:
                        if call.way is not None:
                            answer = walk_out(call, answer)
                        if call.way is None and isinstance(answer, Outcome):
                            outcome = answer
                            break
                except BaseException as error:
                    if getattr(answer, "cr_suspended", False):
                        # NB: Ctrl-C in this very frame. They may have to wait as
                        # they unwind, so they cannot be closed.
                        interrupt = error
                        continue
                    answer = unwind(call, answer, error)
                    if answer is None:
                        raise
            if outcome is SUCCEEDED:
                return value
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
            if call.way is not None:
                # NB: as in `sync_edge`.
                unwind(call, answer, KeyboardInterrupt())
            call.end(outcome)
            if outcome is not SUCCEEDED:
                # NB: as in `sync_edge`.
                outcome = answer = value = sent = trace = interrupt = None

    return wrapper


forks.watch()
