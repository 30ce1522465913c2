"""One run of a worker, in a task or in a thread.

Ground rules:

* A run raises nothing: how it ended is read from it once it `has_ended`.
* It is asked to stop once. A task is cancelled; a thread is told by `Stopping`,
  for nothing interrupts it.
* A cancellation that was not asked for is a crash: the worker raised it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar
from datetime import timedelta

from resilient._runtimes import clock
from resilient._runtimes.runtime import AsyncRuntime, BackgroundTask
from resilient._runtimes.sync import SyncWaiter
from resilient._values.checks import seconds as seconds_argument


class Run:
    """One run of a worker.

    Attributes:
        asked: Whether it was asked to stop.
        has_ended: Whether it has.
        error: What it raised.
        waiters: The gates at which threads wait for it to be asked.
        whole: Stands for its supervisor: that is asked when all are to stop.
    """

    __slots__ = (
        "_ended",
        "_function",
        "_is_left",
        "_task",
        "asked",
        "error",
        "has_ended",
        "waiters",
        "whole",
    )

    def __init__(
        self,
        function: Callable[[], object],
        ended: Callable[[], object],
        whole: Run | None = None,
    ) -> None:
        self._function: Callable[[], object] | None = function
        self._ended: Callable[[], object] = ended
        self._task: BackgroundTask | None = None
        self.whole: Run | None = whole
        self._is_left = False
        self.asked: bool = False
        self.has_ended: bool = False
        self.error: BaseException | None = None
        self.waiters: list[SyncWaiter] = []

    def in_task(self, runtime: AsyncRuntime, name: str, context: Context) -> None:
        """Begin it in a task, whose context is a copy of this one."""
        self._task = context.run(runtime.spawn, name, self._await, self._end)

    def in_thread(self, name: str, context: Context) -> None:
        """Begin it in a thread, in a copy of this context."""
        own = context.copy()
        own.run(_running.set, self)
        started = clock.thread_or_error(lambda: own.run(self._call), name)
        if isinstance(started, RuntimeError):
            self.error = started
            self._end()

    def stop(self) -> None:
        """Ask it to stop."""
        self.asked = True
        if self._task is not None:
            self._task.cancel()
        for waiter in list(self.waiters):
            waiter.wake()

    async def _await(self) -> None:
        function, self._function = self._function, None
        assert function is not None
        try:
            result = function()
            if not isinstance(result, Awaitable):
                raise TypeError(
                    f"{function!r} returned no awaitable: run plain functions in"
                    " threads, by `with Supervisor()`"
                )
            await result
        except BaseException as error:
            self.error = error

    def _call(self) -> None:
        function, self._function = self._function, None
        assert function is not None
        try:
            function()
        except BaseException as error:
            self.error = error
        self._end()

    def leave(self) -> None:
        """Keep it until it ends by itself, without telling or its error."""
        self._is_left = True
        _left[:] = [run for run in _left if not run.has_ended] + [self]

    def _end(self) -> None:
        self.has_ended = True
        # NB: let go of, or an error that is kept would keep its worker in a circle.
        ended, self._ended = self._ended, _nothing
        if self._is_left:
            self.error = None
        ended()


def _nothing() -> None:
    """What is called of a run that has ended."""


_left: list[Run] = []
"""Runs that did not stop in time; a loop alone would let them be collected."""


_running: ContextVar[Run | None] = ContextVar("resilient_worker_run", default=None)


def current_run() -> Run | None:
    """Return the run of the worker in whose thread this is called."""
    return _running.get()


class Stopping:
    """Tells the thread of a worker, or the block of a supervisor, to come to an end.

    It is used as a `threading.Event` is, which is set for each worker alone: one
    that is stopped to be restarted is told, the others are not. Elsewhere than in
    a worker it tells whether the whole supervisor stops.
    """

    __slots__ = ("_whole",)

    def __init__(self, whole: Run) -> None:
        self._whole = whole

    def is_set(self) -> bool:
        """Whether the worker or block that asks is to come to an end."""
        return any(run.asked for run in self._asked_of())

    def wait(self, timeout: float | timedelta | None = None) -> bool:
        """Block this thread until `is_set`, or for so many seconds.

        Args:
            timeout: Seconds; None: without limit.

        Returns:
            Whether it is set: then return.
        """
        until = None
        if timeout is not None:
            until = clock.now() + seconds_argument("timeout", timeout)
        runs = self._asked_of()
        waiter = SyncWaiter()
        for run in runs:
            run.waiters.append(waiter)
        try:
            # NB: looked at once more after it can be woken.
            if not self.is_set():
                left = None if until is None else max(0.0, until - clock.now())
                clock.wait(waiter.gate, left)
        finally:
            for run in runs:
                run.waiters.remove(waiter)
        return self.is_set()

    def _asked_of(self) -> list[Run]:
        """Return the runs of which one is asked to stop where this caller is."""
        run = _running.get()
        if run is None:
            return [self._whole]
        # NB: a block may stand in a worker of another supervisor, and ends with it.
        return [run] if run.whole is self._whole else [self._whole, run]
