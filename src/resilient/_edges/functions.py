"""The edge: where a user's call meets the policies.

Ground rules:

* A policy is a coroutine around a call. The edge drives the policies' one
  coroutine to its leaf, where it asks for the function (`RUN`); runs the
  function in its own frame; and resumes the coroutine with the outcome.
  Whatever else the coroutine yields belongs to the event loop and is handed
  on, and what the loop throws back is thrown in.
* Functions are driven here; blocks (`_blocks`) and generators (`_generators`)
  by `Drive`, which does the same from one standstill to the next, as do the
  attempts that a policy runs in tasks or threads of their own (`_alone`).
* An `Exception` of the user's becomes an `Outcome`. Every other BaseException
  is thrown into the coroutine, so that permits go back, and goes on.
* Only the edge raises the outcome's error: as it was, with one frame of ours
  in its traceback and none of ours keeping it alive afterwards.

The loops of `sync_edge` and `async_edge` look alike and stay apart: they are
the hot path, and a shared driver would be one more frame in every traceback.
"""

from __future__ import annotations

import functools
import inspect
import os
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from resilient._calls.call import FIRST, PLAIN, Call, enter_call, leave_call, overdue
from resilient._calls.outcome import Outcome
from resilient._runtimes import clock
from resilient._runtimes.runtime import PAUSE, Mark
from resilient._runtimes.sync import SYNC

if TYPE_CHECKING:
    from resilient._policy.policy import Policy

Colour: TypeAlias = Literal["sync", "async", "generator", "async generator"]
Proceed: TypeAlias = Callable[[Call], Awaitable[Outcome]]
Driven: TypeAlias = Coroutine[object, Any, Outcome] | Generator[object, Any, Outcome]
Chain: TypeAlias = Callable[["Call"], Driven]
"""What a policy returns that is bound to a leaf: awaitable by being driven."""

HERE = os.path.dirname(os.path.dirname(__file__)) + os.sep

_COLOURS: dict[int, Colour] = {
    0: "sync",
    inspect.CO_COROUTINE: "async",
    inspect.CO_GENERATOR: "generator",
    inspect.CO_ASYNC_GENERATOR: "async generator",
}
_SUSPENDS = sum(_COLOURS)

enabled = True
"""Whether policies do anything: `resilient.testing.off` turns them off."""


RUN = Mark("RUN")
"""What the leaf yields: run the function now, and send me its outcome."""

DONE = Mark("DONE")
"""What `Drive` reports when the policies have come to their end."""


@types.coroutine
def leaf(call: Call) -> Generator[object, Outcome, Outcome]:
    """The innermost `proceed`: ask the edge to run the function."""
    if call.run is FIRST:
        call.run = PLAIN
        return (yield RUN)
    return (yield from _counted_leaf(call))


def _counted_leaf(call: Call) -> Generator[object, Outcome, Outcome]:
    """Do the same for a run that is no original, or that somebody observes."""
    run = call.count_run()
    if call.observation is None:
        return (yield RUN)
    ended = call.observation.began(call, run)
    try:
        outcome = yield RUN
    except BaseException:
        ended(None)
        raise
    ended(outcome)
    return outcome


@types.coroutine
def suspend(request: object) -> Generator[object, Any, Any]:
    """Hand a request of the policies on to the event loop."""
    return (yield request)


def failed(error: Exception) -> Outcome:
    """Make an outcome of an error that was just caught in an edge's frame.

    The entry of that frame goes from the traceback: the edge adds one when it
    raises the error, and one is enough.
    """
    trace = error.__traceback__
    if trace is not None:  # pragma: no branch - it was raised
        # NB: past `__setattr__`, which a frozen dataclass refuses.
        BaseException.with_traceback(error, trace.tb_next)
    return Outcome(None, error)


def strip(error: BaseException) -> None:
    """Take the library's own frames off the outer end of a traceback.

    NB: a bare ``raise`` afterwards does not put the present frame back.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(HERE):
        trace = trace.tb_next
    BaseException.with_traceback(error, trace)


def raised_by(policy: Policy[Any], error: Exception) -> Exception:
    """Prepare an error that a policy's edge is about to raise.

    An error object that is raised again and again keeps the traceback of each
    time. What Python itself adds is Python's affair; of the frame that the
    edge adds, the one of the time before goes.
    """
    newer: list[types.TracebackType] = []
    entry = error.__traceback__
    while entry is not None:
        frame = entry.tb_frame
        if (
            frame.f_code.co_filename.startswith(HERE)
            and frame.f_locals.get("policy") is policy
        ):
            # NB: copied, for setting `tb_next` looks for loops in all the rest.
            trace = entry.tb_next
            for one in reversed(newer):
                trace = types.TracebackType(
                    trace, one.tb_frame, one.tb_lasti, one.tb_lineno
                )
            BaseException.with_traceback(error, trace)
            break
        newer.append(entry)
        entry = entry.tb_next
    return error


def colour_of(function: Callable[..., Any]) -> Colour:
    """Tell how a callable has to be called: from its code, without calling it.

    Partials and callable objects are looked into.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if type(function) is types.FunctionType and not function.__dict__:
        # Its flags say all, at a tenth of what `inspect` costs each `call`.
        return _COLOURS[function.__code__.co_flags & _SUSPENDS]
    # NB: the object itself comes first: a test's `AsyncMock` says what it is,
    # its class does not.
    for candidate in (function, type(function).__call__):
        if inspect.iscoroutinefunction(candidate):
            return "async"
        if inspect.isasyncgenfunction(candidate):
            return "async generator"
        if inspect.isgeneratorfunction(candidate):
            return "generator"
    return "sync"


def name_of(function: Callable[..., Any]) -> str:
    """Return a name for a callable, as short as it is unique in its module."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]


def close_unbegun(awaitable: object) -> None:
    """Tell the interpreter that a coroutine is not awaited on purpose."""
    if isinstance(awaitable, Coroutine):
        awaitable.close()


def refuse_awaitable(name: str, value: object) -> TypeError:
    """Return the error for a plain function that returned an awaitable."""
    close_unbegun(value)
    return TypeError(
        f"{name!r} is a plain function that returned an awaitable, which a"
        " policy around the function cannot protect: make it `async def`"
    )


def misused(request: object) -> RuntimeError:
    """Return the error for a policy that awaits where nothing can."""
    return RuntimeError(
        f"a policy awaited {type(request).__name__} in a synchronous call: a"
        " policy may wait through `call.runtime` only"
    )


def sync_edge(policy: Policy[Any], fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for a plain function."""
    chain, name = cast("Chain", policy.bound(leaf)), name_of(fn)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not enabled:
            return fn(*args, **kwargs)
        call = Call(name, args, kwargs, SYNC, None, policy, fn)
        token = enter_call(call)
        value: Any = None
        outcome: Outcome | None = None
        trace: types.TracebackType | None = None
        coroutine: Driven | None = None
        try:
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
                        if call.runner is None:
                            value = Outcome(fn(*args, **kwargs))
                        else:
                            value = call.runner(fn, args, kwargs)
                    except Exception as error:
                        value = failed(error)
                        resume = send
                    except BaseException as error:
                        value, trace = error, error.__traceback__
                        resume = coroutine.throw
                    else:
                        resume = send
                        # NB: the type: the value may be a proxy that answers.
                        returned: object = value.value
                        if hasattr(type(returned), "__await__"):
                            value, trace = refuse_awaitable(name, value.value), None
                            resume = coroutine.throw
            assert outcome is not None
            if outcome.error is None:
                return outcome.value
            raise raised_by(policy, outcome.error)
        finally:
            leave_call(token)
            call.end(outcome)
            if coroutine is not None:
                # NB: after Ctrl-C in this very frame it is still under way,
                # and the error's traceback would keep it.
                coroutine.close()
            # NB: the error's traceback holds this frame; the frame must not
            # hold the error.
            outcome = value = returned = trace = None

    return wrapper


def async_edge(policy: Policy[Any], fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for a coroutine function."""
    chain, name = cast("Chain", policy.bound(leaf)), name_of(fn)

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not enabled:
            return await fn(*args, **kwargs)
        call = Call(name, args, kwargs, None, None, policy, fn)
        token = enter_call(call)
        value: Any = None
        outcome: Outcome | None = None
        trace: types.TracebackType | None = None
        try:
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
                    # NB: the user's call has a `try` of its own: its
                    # StopIteration is none of ours.
                    try:
                        if request is RUN:
                            value = Outcome(await fn(*args, **kwargs))
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
            assert outcome is not None
            if outcome.error is None:
                return outcome.value
            raise raised_by(policy, outcome.error)
        finally:
            try:
                leave_call(token)
            except ValueError:
                # Closed from another context, by the collector or a loop that
                # shuts down: the variable there was never ours.
                pass
            call.end(outcome)
            # NB: the error's traceback holds this frame; the frame must not
            # hold the error.
            outcome = value = trace = None

    return wrapper


class Drive:
    """The policies of one call, driven from one standstill to the next.

    A standstill is `RUN` (they want the function run), `DONE` (`outcome` is
    set) or, in async calls, `PAUSE` (a wait is about to begin) or a request
    for the event loop, to be given to `forward`.
    """

    __slots__ = ("_around", "call", "coroutine", "outcome")

    def __init__(self, policy: Policy[Any], call: Call) -> None:
        self.call: Call = call
        self.outcome: Outcome | None = None
        self.coroutine: Driven | None = None
        chain = policy.bound(leaf) if enabled else leaf
        # NB: no `cast`, which would be a call.
        self._around: Chain = chain  # type: ignore[assignment]  # it is, of a leaf

    def begin(self) -> object:
        """Go to the first standstill."""
        if enabled and self.call.deadline is not None:
            self.outcome = overdue(self.call, clock.now())
            if self.outcome is not None:
                return DONE
        try:
            # NB: a policy may decide as soon as it is called.
            self.coroutine = self._around(self.call)
        except BaseException:
            self.call.end()
            raise
        return self.send(None)

    def send(self, value: object) -> object:
        """Resume with an outcome, or with what the loop answered."""
        assert self.coroutine is not None
        try:
            return self.coroutine.send(value)
        except StopIteration as stop:
            self.outcome = stop.value
            return DONE
        except BaseException:
            self.call.end()
            raise

    def throw(self, error: BaseException) -> object:
        """Unwind; what the policies do not keep is raised again, unaltered."""
        assert self.coroutine is not None
        trace = error.__traceback__
        try:
            if isinstance(error, GeneratorExit):
                # NB: of a cycle the collector may have closed the policies
                # already, and then nothing can be thrown in.
                self.close()
                raise error
            return self.coroutine.throw(error)
        except StopIteration as stop:
            self.outcome = stop.value
            return DONE
        except BaseException as raised:
            self.call.end()
            if raised is error:
                BaseException.with_traceback(raised, trace)
            raise

    def ended(self, error: BaseException | None, value: object = None) -> object:
        """Resume with what came of the function or block."""
        if error is None:
            return self.send(Outcome(value))
        if isinstance(error, Exception):
            return self.send(Outcome(None, error))
        return self.throw(error)

    def in_sync(self, standstill: object) -> object:
        """Refuse a standstill that only an event loop could resolve."""
        while standstill is not RUN and standstill is not DONE:
            standstill = self.throw(misused(standstill))
        return standstill

    async def forward(self, standstill: object) -> object:
        """Let the event loop resolve standstills until `RUN` or `DONE`."""
        while standstill is not RUN and standstill is not DONE:
            if standstill is PAUSE:
                standstill = self.send(None)
                continue
            try:
                answer = await suspend(standstill)
            except BaseException as error:
                standstill = self.throw(error)
            else:
                standstill = self.send(answer)
        return standstill

    def close(self) -> None:
        """Give everything back: nobody will resume."""
        assert self.coroutine is not None
        self.coroutine.close()
        self.call.end()
