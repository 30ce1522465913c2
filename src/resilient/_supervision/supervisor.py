"""The supervisor: a block in which workers are kept running."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast

from resilient._errors.chains import annotate
from resilient._machines.backoff import Backoff, exponential
from resilient._machines.restarts import Restarts, Strategy
from resilient._observing.shown import show
from resilient._runtimes import clock
from resilient._runtimes.current import current_runtime
from resilient._runtimes.runtime import AsyncRuntime, BackgroundTask, Waiter, unpaused
from resilient._runtimes.sync import SyncWaiter, loop_runs_here
from resilient._supervision.keeper import Keeper
from resilient._supervision.runs import Stopping, current_run
from resilient._supervision.workers import Ready, Restart, Worker
from resilient._values.callables import colour_of, name_of, refuse_arity
from resilient._values.checks import choice, count
from resilient._values.checks import seconds as seconds_argument
from resilient._values.records import Configured

if TYPE_CHECKING:
    from anyio import CancelScope

Ts = TypeVarTuple("Ts")
S = TypeVar("S", bound="Supervisor")


class _Host:
    """Stands for a call where a runtime wants one."""

    def __init__(self) -> None:
        self.name: str = "Supervisor"
        self.task: Any = None


class Supervisor(Configured):
    """Keep workers running: restart those that crash, and give up when it is no use.

    ::

        async with Supervisor() as workers:
            workers.start(consume, queue, name="consumer")

    In ``async with``, on asyncio and trio, workers are async functions in tasks.
    In ``with`` they are plain functions in threads, which watch `stopping`. The
    block ends when all workers have returned, or `stop` was called; an error that
    leaves it, or a cancellation, stops them first.

    A worker that crashes more than `max_restarts` times **in a row**, each time
    less than `healthy_after` after its start, makes the supervisor give up: the
    other workers are stopped in the reverse order of their start, the block is
    cancelled (in ``with`` nothing can interrupt it: ask `stopping`), and
    `RestartLimitError` is raised. A supervisor inside a worker of another one is,
    to that, a worker that crashed.

    Each crash is logged with its traceback, at level ERROR of the logger
    ``resilient``, and told by the event `WorkerCrashed`.

    Args:
        strategy: What is restarted with a worker that crashed: "one_for_one",
            nothing; "one_for_all", every other one, because they depend on each
            other; "rest_for_one", those that were started after it.
        max_restarts: Restarts in a row; 0: the first crash is the last.
        healthy_after: Seconds; a crash after a longer run begins a new row.
        backoff: The waits between crash and restart. The longest that it may
            draw are kept to: the first also bounds how often a worker runs that
            returns at once. Default: 0.1 s, doubled each time, at most 30 s, so
            that six crashes in a row take 3.1 s.
        stop_timeout: Seconds that a worker has to end after it was asked to. One
            that stays is left behind with a warning; on trio it is waited for.
        name: Name for events and `health`.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        strategy: Strategy = "one_for_one",
        max_restarts: int = 5,
        healthy_after: float | timedelta = 60.0,
        backoff: Backoff | Callable[[int], float] = exponential(  # noqa: B008 - it is immutable
            0.1, cap=30.0
        ),
        stop_timeout: float | timedelta = 5.0,
        name: str | None = None,
    ) -> None:
        self.strategy: Strategy = choice(
            "strategy", strategy, "one_for_one", "one_for_all", "rest_for_one"
        )
        self.max_restarts: int = count("max_restarts", max_restarts, minimum=0)
        self.healthy_after: float = seconds_argument("healthy_after", healthy_after)
        if not callable(backoff):
            raise TypeError(
                f"`backoff` must be a function of the attempt, got {backoff!r}"
            )
        refuse_arity("backoff", backoff, "the number of crashes in a row")
        self.backoff: Backoff | Callable[[int], float] = backoff
        self.stop_timeout: float = seconds_argument("stop_timeout", stop_timeout)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a str, got {name!r}")
        self.name: str | None = name
        self._keeper: Keeper | None = None
        self._runtime: AsyncRuntime | None = None
        self._host: Waiter | None = None
        self._task: BackgroundTask | None = None
        self._scope: CancelScope | None = None
        show(self)

    def __repr__(self) -> str:
        name = "" if self.name is None else f"name={self.name!r}, "
        return (
            f"Supervisor({name}strategy={self.strategy!r},"
            f" max_restarts={self.max_restarts!r},"
            f" healthy_after={self.healthy_after!r}, backoff={self.backoff!r},"
            f" stop_timeout={self.stop_timeout!r})"
        )

    # -- Workers

    def start(
        self,
        function: Callable[[*Ts], object],
        *args: *Ts,
        name: str | None = None,
        restart: Restart = "on_failure",
    ) -> None:
        """Keep ``function(*args)`` running; from any task or thread.

        Each run begins in a copy of the context variables of now.

        Args:
            function: Async, or plain in ``with``.
            args: What it is called with, each time.
            name: Default: the function's, with a number where that is taken. It
                is free again when the worker has finished.
            restart: After what end it is run again: "always", also after it
                returned; "on_failure", after a crash; "never".

        Raises:
            RuntimeError: Outside of the block, or when the supervisor stops.
            TypeError: The function does not fit the block.
            ValueError: The name is taken.
        """
        self._add(function, args, name, restart, None)

    async def start_and_wait(
        self,
        function: Callable[..., Awaitable[object]],
        *args: Any,
        name: str | None = None,
        restart: Restart = "on_failure",
    ) -> Any:
        """Keep an async function running; wait until it says that it is ready.

        As `start` of anyio's task groups: it is given a ``task_status`` and calls
        ``task_status.started()``. What crashes before is restarted as usual.

        Returns:
            What it gave to ``started``.

        Raises:
            RuntimeError: As `start`; or it returned, or was stopped, before.
            BaseException: The error of its last crash, when no restart follows.
        """
        runtime = self._runtime
        if runtime is None:
            raise RuntimeError("`start_and_wait` is for workers of `async with`")
        ready = Ready(runtime.waiter(_Host()))
        self._add(function, args, name, restart, ready)
        while not ready.is_settled:
            await unpaused(runtime.park, cast("Any", ready.waiter), None)
        try:
            if ready.error is not None:
                raise ready.error from None
            return ready.value
        finally:
            # NB: its traceback holds this frame.
            ready.error = None

    def stop(self) -> None:
        """Have all workers stopped, in reverse order; from any task or thread.

        It returns at once: the end of the block waits for them.
        """
        self._running().stop()

    @property
    def stopping(self) -> Stopping:
        """What a worker in a thread watches, in the place of being cancelled.

        ::

            def poll(stopping: Stopping) -> None:
                while not stopping.wait(1.0): ...

            workers.start(poll, workers.stopping)
        """
        return Stopping(self._running().whole)

    def status(self) -> dict[str, Any]:
        """Return how the workers are, for a health endpoint or a person.

        Returns:
            ``workers``, each by name with its ``state`` ("running", "restarting
            in 4.2 s", "done", "crashed", "stopped", "abandoned"), ``restarts``,
            ``crashes_in_a_row`` and the type of its ``last_error``; of those that
            have finished the last hundred. And how many runs are ``abandoned``:
            they did not stop, and still go on. Only what JSON has.
        """
        if self._keeper is None:
            return {"workers": {}, "abandoned": 0}
        return self._keeper.describe()

    def _running(self) -> Keeper:
        if self._keeper is None:
            raise RuntimeError("a Supervisor is used inside its `with` block")
        return self._keeper

    def _add(
        self,
        function: Callable[..., object],
        args: tuple[Any, ...],
        name: str | None,
        restart: Restart,
        ready: Ready | None,
    ) -> None:
        keeper = self._running()
        if not callable(function):
            raise TypeError(f"`function` must be a function, got {function!r}")
        colour = colour_of(function)
        if colour != "sync" and (colour != "async" or self._runtime is None):
            where = "`with`" if self._runtime is None else "`async with`"
            raise TypeError(
                f"{function!r} cannot run in a Supervisor entered by {where}: give"
                " async functions to `async with`, plain ones to `with`"
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"`name` must be a str, got {name!r}")
        choice("restart", restart, "always", "on_failure", "never")

        def make(taken: set[str]) -> Worker:
            label = name_of(function) if name is None else name
            if name is None:
                plain, number = label, 1
                while label in taken:
                    number += 1
                    label = f"{plain}-{number}"
            elif name in taken:
                raise ValueError(f"`name` must be new, got {name!r} again")
            restarts = Restarts(self.max_restarts, self.healthy_after, self.backoff)
            return Worker(label, function, args, restart, restarts, ready)

        keeper.add(make)

    # -- The block

    def _begin(self, runtime: AsyncRuntime | None) -> Keeper:
        if self._keeper is not None:
            raise RuntimeError("a Supervisor can be entered once: make another one")
        host: Waiter = SyncWaiter() if runtime is None else runtime.waiter(_Host())
        waiter: Waiter = SyncWaiter() if runtime is None else runtime.waiter(_Host())
        keeper = Keeper(
            self.name or "supervisor",
            self.strategy,
            self.stop_timeout,
            runtime,
            waiter,
            host.wake,
            self._cancel_block,
        )
        self._runtime, self._host, self._keeper = runtime, host, keeper
        return keeper

    def _cancel_block(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def __aenter__(self: S) -> S:
        """Begin; see the class.

        Raises:
            RuntimeError: It was entered before, or neither asyncio nor trio runs.
        """
        import anyio

        runtime = cast("AsyncRuntime", current_runtime(_Host()))
        keeper = self._begin(runtime)
        self._task = runtime.spawn("resilient supervisor", keeper.keep, keeper.over)
        self._scope = scope = anyio.CancelScope()
        scope.__enter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Wait for the workers, or stop them; see the class.

        Raises:
            RestartLimitError: A worker crashed too often.
            BaseException: A worker raised KeyboardInterrupt or SystemExit.
        """
        keeper, runtime, task = self._running(), self._runtime, self._task
        assert runtime is not None
        assert task is not None
        scope, self._scope = self._scope, None
        assert scope is not None
        try:
            swallowed = scope.__exit__(kind, error, traceback)
            if error is not None:
                keeper.stop()
            keeper.close()
            while not keeper.is_over:
                await unpaused(runtime.park, cast("Any", self._host), None)
        except BaseException:
            keeper.stop()
            await task.ended()
            raise
        self._raise(error)
        return swallowed

    def __enter__(self: S) -> S:
        """Begin; see the class.

        Raises:
            RuntimeError: It was entered before; or this thread runs an event loop,
                which would stand still.
        """
        if loop_runs_here():
            raise RuntimeError(
                "`with Supervisor()` would stop the event loop of this thread: use"
                " `async with`"
            )
        keeper = self._begin(None)
        try:
            clock.start_thread(
                functools.partial(_keep_in_thread, keeper), "resilient supervisor"
            )
        except BaseException:
            # Ctrl-C: there will be no block, but the thread may have begun.
            keeper.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the workers, or stop them; see the class.

        Raises:
            RestartLimitError: A worker crashed too often.
            BaseException: A worker raised KeyboardInterrupt or SystemExit.
        """
        keeper, host, around = self._running(), self._host, current_run()
        assert isinstance(host, SyncWaiter)
        if around is not None:
            around.waiters.append(host)
        try:
            if error is not None:
                keeper.stop()
            keeper.close()
            while not keeper.is_over:
                if around is not None and around.asked:
                    keeper.stop()
                clock.wait(host.gate, None)
        except BaseException:
            keeper.stop()
            while not keeper.is_over:
                clock.wait(host.gate, None)
            raise
        finally:
            if around is not None:
                around.waiters.remove(host)
        self._raise(error)

    def _raise(self, error: BaseException | None) -> None:
        """Raise what the workers lead to; note their crashes on the block's error."""
        keeper = self._running()
        raised, keeper.error = keeper.error, None
        try:
            if raised is None and keeper.late and isinstance(error, Exception):
                kinds = ", ".join(type(one).__qualname__ for one in keeper.late)
                annotate(error, f"workers crashed while they were stopped: {kinds}")
            keeper.late.clear()
            if raised is not None:
                raise raised
        finally:
            # NB: its traceback holds this frame.
            raised = None


def _keep_in_thread(keeper: Keeper) -> None:
    try:
        keeper.keep().send(None)
    except StopIteration:
        pass
    finally:
        keeper.over()
