"""The sync runtime: verbs that block the calling thread and never suspend."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final, Literal

from resilient._errors.warnings import warn_once
from resilient._runtimes import clock
from resilient._runtimes.current import loaded
from resilient._runtimes.runtime import IN_TIME, End, ForkAware

if TYPE_CHECKING:
    from resilient._runtimes.runtime import Caller, Racer, Runtime


class SyncRuntime:
    """See `resilient._runtimes.runtime`."""

    __slots__ = ()
    name: Literal["sync"] = "sync"

    def __reduce__(self) -> str:
        # There is one.
        return "SYNC"

    async def sleep(self, seconds: float) -> None:
        if clock.skip is not None:
            clock.skip(seconds)
        elif seconds > 0:
            if loop_runs_here():
                _warn_of_stall()
            clock.sleep(min(seconds, clock.LONGEST_WAIT))

    def waiter(self, call: Caller) -> SyncWaiter:
        """Make a waiter for this thread.

        Raises:
            RuntimeError: The thread runs an event loop: what could wake it
                may need that very loop, so waiting could never end.
        """
        if loop_runs_here():
            raise RuntimeError(
                f"{call.name!r} would have to wait on a thread that runs an"
                " event loop, which could never end: call it through `acall`,"
                " or from a worker thread"
            )
        return SyncWaiter()

    async def park(self, waiter: SyncWaiter, until: float | None) -> bool:
        timeout = None if until is None else max(0.0, until - clock.now())
        return clock.wait(waiter.gate, timeout)

    def limit(
        self,
        call: Caller,
        limits_by_loop: dict[Any, Any] | None,
        seconds: float,
        deadline: float,
    ) -> UnenforceableLimit:
        return UNENFORCEABLE

    def is_cancellation(self, error: BaseException) -> bool:
        return False

    def is_cut(self, calls: Sequence[Caller], error: BaseException) -> bool:
        return False

    async def race(self, call: Caller) -> SyncRace:
        if loop_runs_here():
            _warn_of_stall()
        return SyncRace()

    def task_or_thread(self) -> int:
        return threading.get_ident()

    def owner(self) -> int:
        # NB: in a forked child no other thread is left to wait for.
        return os.getpid()


class SyncWaiter(ForkAware):
    """A one-shot gate: a lock that is held until the waiter is woken."""

    __slots__ = ("gate",)

    def __init__(self) -> None:
        super().__init__()
        self.gate: threading.Lock = threading.Lock()
        self.gate.acquire()

    def wake(self) -> bool:
        if self.is_copy():
            return False
        try:
            self.gate.release()
        except RecursionError:
            raise
        except RuntimeError:
            # It is open already: two wakes before one wait are one.
            pass
        return True

    def is_gone(self) -> bool:
        return self.is_copy()


class SyncRace:
    """Daemon threads, which are left to end by themselves."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter = SyncWaiter()

    def start(self, racer: Racer) -> bool:
        context = copy_context()
        started = clock.thread_or_error(
            lambda: _run(context, racer), f"resilient {racer.name}"
        )
        return not isinstance(started, RuntimeError)

    def wake(self) -> None:
        self._waiter.wake()

    def wait(self, until: float | None) -> Coroutine[Any, Any, bool]:
        return SYNC.park(self._waiter, until)

    def cleanup(self, racer: Racer) -> AbstractContextManager[object]:
        return nullcontext()

    async def leave(self, grace: float, *, unwinding: bool) -> None:
        pass

    def abandon(self) -> None:
        pass


def _run(context: Context, racer: Racer) -> None:
    try:
        context.run(racer.run().send, None)
    except StopIteration:
        pass


class UnenforceableLimit:
    """Synchronous code cannot be interrupted: the limit is a deadline only."""

    __slots__ = ()

    def leave(self, call: Caller, error: BaseException | None) -> End:
        return IN_TIME


def loop_runs_here() -> bool:
    """Whether this thread runs an event loop."""
    running_loop = loaded("asyncio", "_get_running_loop")
    if running_loop is not None and running_loop() is not None:
        return True
    in_trio_run = loaded("trio.lowlevel", "in_trio_run")
    return in_trio_run is not None and bool(in_trio_run())


def can_park(runtime: Runtime) -> bool:
    """Whether a call may wait where it runs: not in the way of an event loop."""
    return runtime.name != "sync" or not loop_runs_here()


running_call: Callable[[], Any] | None = None
"""The call of the task or thread that asks; set by `_calls.call`."""


def _warn_of_stall() -> None:
    call = None if running_call is None else running_call()
    who, raised = "a synchronous call", None
    if call is not None:
        who = f"{call.name!r}, synchronous and"
        if call.policy is not None:
            who += f" under {call.policy.label!r},"
            raised = call.policy.warning_raised
    warn_once(
        f"{who} sleeps on a thread that runs an event loop, and stops every task"
        " of it; use the async spelling there",
        raised,
    )


NO_WAITER: Final = SyncWaiter()
"""What a call has that cannot wait."""

SYNC = SyncRuntime()
UNENFORCEABLE = UnenforceableLimit()
