"""Coalesce: concurrent identical calls share one execution."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Never, cast, overload

from resilient._calls.call import BranchCall, Call, overdue
from resilient._calls.outcome import Outcome
from resilient._edges.branches import Branch
from resilient._edges.steps import Proceed
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
from resilient._values.checks import keywords_only
from resilient._values.locks import Lock, ReenteredError
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
        "leads",
        "outcome",
        "trace",
        "unwinding",
        "waiter",
    )

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.waiter: Waiter | None = None
        # Whether it began the execution.
        self.leads: bool = False
        self.execution: _SharedExecution | None = None
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

    @property
    def owner(self) -> Hashable:
        """The event loop, or process, that it runs in."""
        return cast("tuple[Hashable, Hashable]", self.key)[0]

    def is_gone(self) -> bool:
        """Whether its loop is closed, or it was in another process."""
        if isinstance(self.owner, int):
            return self.owner != os.getpid()
        waiters = [
            cast("_WaitingCall", waiting).waiter for waiting in list(self.waiters)
        ]
        return any(waiter is not None and waiter.is_gone() for waiter in waiters)


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
    is rejected, more important callers run it again.

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

    __slots__ = ("_deferred", "_executing", "_executions", "_lock", "_owners", "key")

    traits: Trait = Trait.ANSWERS | Trait.SHARES
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
        keywords_only("Coalesce", _misplaced)
        self.key: Callable[..., Hashable] | None = key_argument(key)
        self._lock = Lock()
        self._deferred: list[_WaitingCall | _SharedExecution] = []
        self._executions: Executions[_SharedExecution] = Executions()
        # Which execution a call is, for those under way.
        self._executing: dict[Call, _SharedExecution] = {}
        # The event loops, and the process, that calls have come from. NB: by
        # `id`, for this must not keep a loop alive.
        self._owners: set[int] = set()

    @property
    def in_flight(self) -> int:
        """Executions that are under way and waited for."""
        return sum(not execution.is_gone() for execution in self._under_way())

    def _under_way(self) -> list[_SharedExecution]:
        return self._run(lambda effects: self._executions.find_all())

    def is_pristine(self) -> bool:
        return self.in_flight == 0

    def is_restrictive(self) -> bool:
        return len(self._executions) > 0

    def check_function(self, fn: Callable[..., Any]) -> None:
        if self.key is None:
            refuse_method(self, fn)
        check_key(self.key, fn)

    async def around(self, proceed: Proceed, call: Call) -> Outcome:
        if self.key is None:
            refuse_object(self, call)
        owner = call.runtime.owner()
        key = (owner, stable(key_of(self, self.key, call)))
        if id(owner) not in self._owners:
            self._welcome(owner)
        while True:
            waiting = _WaitingCall(call)
            try:
                try:
                    callers = self._join(key, waiting)
                except ReenteredError:
                    # It began in the middle of a change, on the same thread.
                    return await proceed(call)
                if callers == 1:
                    if call.runtime is SYNC:
                        return await self._run_here(waiting, proceed, call)
                    self._spawn(waiting, proceed, call)
                outcome = await self._wait(waiting, callers)
            except BaseException:
                self._abandon(waiting)
                raise
            if outcome is not None:
                return outcome

    def _welcome(self, owner: Hashable) -> None:
        """Forget executions of event loops that are closed, and of a parent."""
        for execution in self._under_way():
            if execution.is_gone():
                self._release(execution)
        self._owners = {
            *(id(execution.owner) for execution in self._under_way()),
            id(owner),
        }

    def _abandon(self, waiting: _WaitingCall) -> None:
        """Give up what a call has joined or begun; harmless where it has not."""
        execution = waiting.execution
        if execution is None:
            return
        if waiting.leads and execution.background is None:
            # The others see that nothing was delivered, and run it again.
            self._release(execution)
        self._release(waiting)

    # -- Joining

    def _join(self, key: Hashable, waiting: _WaitingCall) -> int:
        """Join the execution of a key, or begin one; tell how many are in it."""
        call = waiting.call
        alone = call.runtime is SYNC
        # NB: a sync call that begins one never waits, so may be where none can.
        waiting.waiter = None if alone else call.runtime.waiter(call)
        while True:
            callers = self._run(self._join_locked, key, waiting)
            if callers is None:
                raise RuntimeError(
                    f"{call.name!r} would wait for itself: it was called from inside"
                    f" the execution that {self!r} would have it share"
                )
            if callers:
                return callers
            waiting.waiter = call.runtime.waiter(call)

    def _join_locked(
        self, effects: list[Any], key: Hashable, waiting: _WaitingCall
    ) -> int | None:
        """Return how many are in it; 0: a waiter is needed; None: it is a circle."""
        call = waiting.call
        if call.enclosing is not None:
            waiting.around = self._around_locked(call)
        execution = self._executions.find(key)
        if execution is None:
            own = call if call.runtime is SYNC else _Execution(call)
            execution = waiting.execution = _SharedExecution(key, waiting, own)
            waiting.leads = True
            self._executing[own] = execution
            self._executions.begin(execution)
            return 1
        if self._executions.closes_circle(execution, waiting.around):
            return None
        if waiting.waiter is None:
            return 0
        waiting.execution = execution
        self._executions.join(execution, waiting)
        return len(execution.waiters)

    def _around_locked(self, call: Call) -> tuple[_SharedExecution, ...]:
        """Return the executions that a call is inside of."""
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
        self, waiting: _WaitingCall, proceed: Proceed, call: Call
    ) -> Outcome:
        execution = waiting.execution
        assert execution is not None
        outcome = await proceed(call)
        execution.given_up = call.extras.given_up
        execution.outcome = outcome
        # NB: delivered here and now: what is further out may change it.
        self._release(execution)
        return outcome

    def _spawn(self, waiting: _WaitingCall, proceed: Proceed, first: Call) -> None:
        runtime = cast("AsyncRuntime", first.runtime)
        execution = waiting.execution
        assert execution is not None

        async def body() -> None:
            call = execution.call
            try:
                alone = Branch(proceed, call)
                await alone.run()
                execution.outcome, alone.outcome = alone.outcome, None
            except BaseException as unwinding:
                # NB: the frames of ours hold the execution, which holds this.
                strip(unwinding)
                execution.unwinding = unwinding
            finally:
                execution.given_up = call.extras.given_up
                call.end()

        # NB: the loop may be closing.
        execution.background = runtime.spawn(
            f"resilient {execution.call.name}", body, lambda: self._release(execution)
        )

    # -- The landing

    async def _wait(self, waiting: _WaitingCall, callers: int) -> Outcome | None:
        """Wait for what is delivered; None: nothing was, so once more."""
        execution, call = waiting.execution, waiting.call
        assert execution is not None
        until = call.deadline
        if until is not None and execution.background is not None:
            until += _GRACE
        missed = False
        try:
            if callers > 1:
                call.count("resilient.coalesce.joins", self.placement.policy)
                if self._listeners:
                    self.emit(CallCoalesced(self.label, call.name, callers), call)
            while not waiting.delivered:
                look = clock.now() + clock.patrol
                if until is not None and until <= look:
                    look = until
                await call.runtime.park(
                    waiting.waiter, None if look == math.inf else look
                )
                if waiting.delivered:
                    break
                if until is not None and clock.now() >= until:
                    await self._leave(waiting, cut=True)
                    if not waiting.delivered:
                        return overdue(call, clock.now())
                elif missed:
                    # It was over a while ago: Ctrl-C kept it from delivering
                    # anything. So once more.
                    self._release(execution)
                    if not waiting.delivered:
                        return None
                missed = execution.over or (
                    execution.background is not None and execution.background.has_ended
                )
        except GeneratorExit:
            # NB: perhaps in a collection: waiting is impossible here.
            raise
        except BaseException as unwinding:
            await self._leave(waiting, cut=call.is_cut(unwinding))
            raise
        return self._delivered(waiting)

    async def _leave(self, waiting: _WaitingCall, *, cut: bool) -> None:
        execution = waiting.execution
        assert execution is not None
        if execution.background is not None:
            # NB: the execution ends with the last to leave.
            own = execution.call
            own.allowed, own.own_extras().cut = waiting.call.allowed, cut
        self._release(waiting)
        # NB: another thread may be in the middle of a change, and take it back
        # when that is done.
        self._run(lambda effects: None)
        if execution.abandoned:
            # NB: a call leaves no task behind.
            assert execution.background is not None
            await execution.background.ended()

    def _delivered(self, waiting: _WaitingCall) -> Outcome | None:
        outcome, waiting.outcome = waiting.outcome, None
        unwinding, waiting.unwinding = waiting.unwinding, None
        trace, waiting.trace = waiting.trace, None
        call = waiting.call
        execution = waiting.execution
        assert execution is not None
        call.judged_by = execution.call.judged_by or call.judged_by
        for error in waiting.given_up:
            if not any(error is earlier for earlier in call.extras.given_up):
                call.give_up(error)
        try:
            if unwinding is not None:
                raise BaseException.with_traceback(unwinding, trace)
            if outcome is not None and outcome.error is not None:
                # NB: it may be the same object for others, which raised it first.
                BaseException.with_traceback(outcome.error, trace)
            return outcome
        finally:
            # NB: their tracebacks hold this frame.
            waiting.given_up = ()
            del unwinding, outcome, trace

    # -- What is given back: a caller that leaves, an execution that has ended

    def _release_locked(self, item: _WaitingCall | _SharedExecution) -> list[Any]:
        if isinstance(item, _SharedExecution):
            self._executing.pop(item.call, None)
            return [(item, self._executions.finish(item))]
        execution = item.execution
        if execution is not None and self._executions.leave(execution, item):
            self._executing.pop(execution.call, None)
            return [(execution, None)]
        return []

    def _after_unlock(self, effects: list[Any]) -> None:
        for execution, waiters in effects:
            if waiters is not None:
                _deliver(execution, waiters)
            else:
                # NB: a thread that runs its own execution does not leave it.
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
                cast("Exception", own) if earlier is error else earlier
                for earlier in given_up
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
    """Whether the failure is due to what the first caller is, and `call` is not.

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
