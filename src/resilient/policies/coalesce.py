"""Coalesce: concurrent identical calls share one execution."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Never, cast, overload

from resilient._calls.call import BranchCall, Call, overdue
from resilient._calls.outcome import Outcome
from resilient._edges.branches import Branch
from resilient._edges.driver import Proceed
from resilient._errors.copies import copy_error
from resilient._errors.errors import RejectedError
from resilient._errors.tracebacks import strip
from resilient._events.events import CallCoalesced
from resilient._machines.single_flight import Execution, Executions, WaitingCall
from resilient._policy.admission import DeferredRelease
from resilient._policy.keys import (
    LambdaKey,
    check_key,
    key_argument,
    key_of,
    refuse_method,
    refuse_object,
    stable,
)
from resilient._policy.policy import Policy
from resilient._runtimes import clock
from resilient._runtimes.sync import SYNC
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from resilient._runtimes.runtime import AsyncRuntime, BackgroundTask, Waiter

_GRACE: Final = 0.005
"""Seconds after its deadline in which a caller that can be interrupted still
waits: a `Timeout` around it has the same deadline and a better error."""


class _Execution(BranchCall):
    """The call that the function runs in: inside the first caller's.

    What a Retry gives up on and what a limiter books goes there, as long as
    that lasts. No caller's deadline is visible: each waits for its own.
    """

    __slots__ = ()

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.deadline = None
        # Not known before its last caller leaves.
        self.allowed = math.inf


class _WaitingCall(WaitingCall):
    """A caller of an execution, and what is delivered to it."""

    __slots__ = (
        "call",
        "delivered",
        "execution",
        "given_up",
        "outcome",
        "trace",
        "unwinding",
        "waiter",
    )

    def __init__(self, call: Call, waiter: Waiter | None) -> None:
        super().__init__()
        self.call = call
        self.waiter = waiter
        self.execution: _SharedExecution
        self.delivered: bool = False
        self.outcome: Outcome | None = None
        self.unwinding: BaseException | None = None
        # Where its error came from.
        self.trace: TracebackType | None = None
        self.given_up: tuple[Exception, ...] = ()


class _SharedExecution(Execution):
    """An execution."""

    __slots__ = ("background", "call", "given_up", "outcome", "unwinding")

    def __init__(self, key: Hashable, first: _WaitingCall, call: Call) -> None:
        super().__init__(key, first)
        # The call that the function runs in.
        self.call = call
        # The task that runs it; None for a thread's own.
        self.background: BackgroundTask | None = None
        self.outcome: Outcome | None = None
        self.unwinding: BaseException | None = None
        self.given_up: tuple[Exception, ...] = ()


class Coalesce(Policy, DeferredRelease):
    """Let concurrent identical calls share one execution ("single flight").

    A call that comes while the same function runs for the same key waits for
    that execution and gets what it gets. Nothing is kept: the next call after
    its end begins a new one.

    **In async code the execution belongs to no caller.** It runs in a task of
    its own, in a copy of the first caller's context; what it sets there stays
    there. A caller that is cancelled leaves at once and the others never
    notice; when the last one has left, the execution is cancelled and waited
    for. No caller's deadline is visible inside: each waits until its own. Put
    the `Timeout` that is to bound the execution inside, and one that bounds a
    caller's patience outside.

    **In sync code the first caller's thread runs it,** with that caller's
    context and deadline; the others wait, until their own. Should the first
    one be interrupted (Ctrl-C), or fail at a deadline that is its own alone,
    the next runs it again.

    The value is one object for all callers. An error is each caller's own: the
    first gets the very object that was raised, the others copies of it, so
    that tracebacks and contexts do not grow into each other. An error that
    cannot be copied is the same object for all.

    The execution is as important as its first caller (see `priority`). If it
    is rejected, those who matter more run it again.

    Calls are shared within one event loop, and among the threads without one:
    a result that was made on a loop (a connection, say) is of no use on
    another. One instance may serve all of them, and many functions.

    Args:
        key: ``key(*args, **kwargs)`` of the function's own arguments tells
            calls apart. Default: by all arguments and their types. Needed for
            methods, and for arguments that are not hashable.
        name: Name in errors and events.

    Raises:
        TypeError: On decoration: a method, and no `key`. At the call: a
            function that has become one since; a key or an argument that is
            not hashable.
        RuntimeError: A call waits for itself: it was made from inside the
            execution that it would join.
        DeadlineExceededError: The caller's deadline came before the end.

    Source: *singleflight* of groupcache, 2013, whose callers share the first
    one's cancellation.
    """

    __slots__ = ("_deferred", "_executing", "_executions", "_lock", "key")

    traits = Trait.ANSWERS | Trait.SHARES
    metrics: tuple[tuple[str, ...], ...] = (("resilient.coalesce.joins",),)

    @overload
    def __init__(
        self,
        *_misplaced: Never,
        key: LambdaKey | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(  # type: ignore[overload-cannot-match]  # more than lambdas can be
        self,
        *_misplaced: Never,
        key: Callable[..., Hashable],
        name: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        *_misplaced: Never,
        key: Callable[..., Hashable] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if _misplaced:
            raise TypeError(
                f"Coalesce takes keywords only, got {_misplaced[0]!r}; a"
                " decorator needs its parentheses, @Coalesce()"
            )
        self.key: Callable[..., Hashable] | None = key_argument(key)
        self._lock = threading.Lock()
        self._deferred: list[_WaitingCall | _SharedExecution] = []
        self._executions: Executions[_SharedExecution] = Executions()
        # Which flight a call is, for those under way.
        self._executing: dict[Call, _SharedExecution] = {}

    @property
    def in_flight(self) -> int:
        """Executions that are under way and waited for."""
        return len(self._executions)

    def is_pristine(self) -> bool:
        return len(self._executions) == 0

    def is_restrictive(self) -> bool:
        return len(self._executions) > 0

    def check_function(self, fn: Callable[..., Any]) -> None:
        if self.key is None:
            refuse_method(self, fn)
        check_key(self.key, fn)

    async def around(self, proceed: Proceed, call: Call) -> Outcome:
        if self.key is None:
            refuse_object(self, call)
        key = (call.runtime.owner(), stable(key_of(self, self.key, call)))
        while True:
            waiting, callers = self._join(key, call)
            if callers == 1:
                if call.runtime is SYNC:
                    return await self._run_here(waiting.execution, proceed, call)
                self._spawn(waiting.execution, proceed, call)
            outcome = await self._wait(waiting, callers)
            if outcome is not None:
                return outcome

    # -- Boarding

    def _join(self, key: Hashable, call: Call) -> tuple[_WaitingCall, int]:
        """Join the flight of a key, or begin one; tell how many are on it."""
        alone = call.runtime is SYNC
        # NB: a sync call that begins one never waits, so may be where none can.
        waiter = None if alone else call.runtime.waiter(call)
        while True:
            waiting = _WaitingCall(call, waiter)
            self._lock.acquire()  # NB: by hand, see `_policy.admission`
            try:
                if call.enclosing is not None:
                    waiting.around = self._around_locked(call)
                execution = self._executions.find(key)
                if execution is None:
                    own = call if alone else _Execution(call)
                    execution = waiting.execution = _SharedExecution(key, waiting, own)
                    self._executions.begin(execution)
                    self._executing[own] = execution
                    return waiting, 1
                circle = self._executions.closes_circle(execution, waiting.around)
                if waiter is not None and not circle:
                    self._executions.join(execution, waiting)
                    waiting.execution = execution
                    return waiting, len(execution.waiters)
            finally:
                self._lock.release()
                if self._deferred:
                    self._release_deferred()
            if circle:
                raise RuntimeError(
                    f"{call.name!r} would wait for itself: it was called from inside"
                    f" the execution that {self!r} would have it share"
                )
            waiter = call.runtime.waiter(call)

    def _around_locked(self, call: Call) -> tuple[_SharedExecution, ...]:
        """Return the flights that a call is inside of."""
        around: list[_SharedExecution] = []
        enclosing = call.enclosing
        while enclosing is not None:
            execution = self._executing.get(enclosing)
            if execution is not None:
                around.append(execution)
            enclosing = enclosing.enclosing
        return tuple(around)

    # -- The execution

    async def _run_here(
        self, execution: _SharedExecution, proceed: Proceed, call: Call
    ) -> Outcome:
        try:
            outcome = await proceed(call)
        except BaseException:
            # The others see that nothing was delivered, and run it again.
            self._release(execution)
            raise
        execution.given_up = call.given_up
        execution.outcome = outcome
        # NB: delivered here and now: what is further out may change it.
        self._lock.acquire()  # NB: by hand, see `_policy.admission`
        try:
            effects = self._release_locked(execution)
        finally:
            self._lock.release()
        self._after_unlock(effects)
        if self._deferred:
            self._release_deferred()
        return outcome

    def _spawn(
        self, execution: _SharedExecution, proceed: Proceed, first: Call
    ) -> None:
        runtime = cast("AsyncRuntime", first.runtime)

        async def body() -> None:
            call = execution.call
            try:
                alone = Branch(proceed, call)
                await alone.run()
                execution.outcome, alone.outcome = alone.outcome, None
            except BaseException as unwinding:
                # NB: the frames of ours hold the flight, which holds this.
                strip(unwinding)
                execution.unwinding = unwinding
            finally:
                execution.given_up = call.given_up
                call.end()

        try:
            execution.background = runtime.spawn(
                f"resilient {execution.call.name}",
                body,
                lambda: self._release(execution),
            )
        except BaseException:
            # The loop is closing.
            self._release(execution)
            raise

    # -- The landing

    async def _wait(self, waiting: _WaitingCall, callers: int) -> Outcome | None:
        """Wait for what is delivered; None: nothing was, so once more."""
        execution, call = waiting.execution, waiting.call
        until = call.deadline
        if until is not None and execution.background is not None:
            until += _GRACE
        try:
            if callers > 1:
                call.count("resilient.coalesce.joins", self.placement.policy)
                if self._listeners:
                    self.emit(CallCoalesced(self.label, call.name, callers), call)
            while not waiting.delivered:
                woken = await call.runtime.park(waiting.waiter, until)
                if not woken and until is not None and clock.now() >= until:
                    await self._leave(waiting, cut=True)
                    if not waiting.delivered:
                        return overdue(call, clock.now())
        except GeneratorExit:
            # NB: perhaps in a collection: waiting is impossible here.
            self._release(waiting)
            raise
        except BaseException as unwinding:
            await self._leave(waiting, cut=call.is_cut(unwinding))
            raise
        return self._delivered(waiting)

    async def _leave(self, waiting: _WaitingCall, *, cut: bool) -> None:
        if waiting.execution.background is not None:
            # NB: the execution ends with the last to leave.
            own = waiting.execution.call
            own.cut, own.allowed = cut, waiting.call.allowed
        self._release(waiting)
        with self._locked():
            # The owner of the lock has left the rest to this call, by now.
            execution = waiting.execution
        if execution.abandoned:
            # NB: a call leaves no task behind.
            assert execution.background is not None
            await execution.background.ended()

    def _delivered(self, waiting: _WaitingCall) -> Outcome | None:
        outcome, waiting.outcome = waiting.outcome, None
        unwinding, waiting.unwinding = waiting.unwinding, None
        trace, waiting.trace = waiting.trace, None
        call = waiting.call
        call.judged_by = waiting.execution.call.judged_by or call.judged_by
        for error in waiting.given_up:
            if not any(error is one for one in call.given_up):
                call.give_up(error)
        try:
            if unwinding is not None:
                raise BaseException.with_traceback(unwinding, trace)
            if outcome is not None and outcome.error is not None:
                # NB: it may be the same object for others, who raised it first.
                BaseException.with_traceback(outcome.error, trace)
            return outcome
        finally:
            # NB: their tracebacks hold this frame.
            waiting.given_up = ()
            del unwinding, outcome, trace

    # -- What is given back: a passenger that leaves, a flight that has ended

    def _release_locked(self, item: _WaitingCall | _SharedExecution) -> list[Any]:
        if isinstance(item, _SharedExecution):
            self._executing.pop(item.call, None)
            return [(item, self._executions.finish(item))]
        if self._executions.leave(item.execution, item):
            self._executing.pop(item.execution.call, None)
            return [(item.execution, None)]
        return []

    def _after_unlock(self, effects: list[Any]) -> None:
        for execution, waiters in effects:
            if waiters is not None:
                _deliver(execution, waiters)
            else:
                # NB: a thread that runs its own flight does not leave it.
                assert execution.background is not None
                execution.background.cancel()


def _deliver(execution: _SharedExecution, waiters: list[_WaitingCall]) -> None:
    """Give each waiting call the outcome of the execution, and wake it."""
    outcome, execution.outcome = execution.outcome, None
    unwinding, execution.unwinding = execution.unwinding, None
    given_up, execution.given_up = execution.given_up, ()
    error = unwinding if outcome is None else outcome.error
    for place, waiting in enumerate(waiters):
        waiter = waiting.waiter
        if waiter is None:
            # It ran the function itself.
            continue
        own = error
        if error is not None:
            waiting.trace = error.__traceback__
            if place:
                own = copy_error(error)
                if own is None:
                    own = error
            waiting.given_up = tuple(
                cast("Exception", own) if one is error else one for one in given_up
            )
        if outcome is None:
            waiting.unwinding = own
        elif _is_own_affair(execution.call, outcome.error, waiting.call):
            # Nothing is delivered, so it runs it again.
            pass
        elif place == 0:
            waiting.outcome = outcome
        else:
            twin = Outcome(outcome.value, cast("Exception | None", own))
            twin.verdict, twin.retry_after = outcome.verdict, outcome.retry_after
            waiting.outcome = twin
        waiting.delivered = True
        waiter.wake()


def _is_own_affair(first: Call, error: Exception | None, call: Call) -> bool:
    """Whether the failure came of what the first caller is, and `call` is not.

    It was rejected, and matters less; or its deadline came, which is its alone.
    """
    if isinstance(error, RejectedError) and first.priority < call.priority:
        return True
    if error is None or first.deadline is None:
        return False
    if call.deadline is not None and call.deadline <= first.deadline:
        return False
    return (
        isinstance(error, RejectedError) and error.by_deadline
    ) or clock.now() >= first.deadline
