"""An asyncio event loop on a virtual clock.

The loop is asyncio's own. Only its selector differs: asked to wait, it looks
for real I/O, and if there is none lets the clock jump to the loop's next
timer. So everything built on the loop's timers – `asyncio.sleep`,
`asyncio.timeout`, `loop.call_later`, anyio – follows without knowing.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import selectors
import threading
from collections.abc import Callable, Mapping
from threading import active_count
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from resilient._runtimes.clock import real_now
from resilient._runtimes.current import loaded
from resilient.testing import _stacks
from resilient.testing._virtual_clock import (
    PATIENCE,
    SLICE,
    Jump,
    VirtualClock,
    VirtualTimeError,
)

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

# NB: the loop reads its own self-pipe; any further file is real I/O.
_OWN_FILES = 1

_RESULT: CodeType = vars(concurrent.futures.Future)["result"].__code__


class VirtualEventLoop(asyncio.SelectorEventLoop):
    """An event loop that is in virtual time while it runs.

    The clock starts at 0.0 seconds with the loop and keeps its reading between
    two runs of it. The clock of the process is this one during each run.
    """

    _scheduled: list[asyncio.TimerHandle]  # of BaseEventLoop: a heap
    _default_executor: concurrent.futures.Executor | None  # of BaseEventLoop
    _clock_resolution: float  # of BaseEventLoop

    def __init__(self, seed: int) -> None:
        self.clock = VirtualClock(seed, looped=True)
        self._jobs: set[_Job] = set()
        self._shutting_down = False
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        """Return the virtual time of the loop in seconds."""
        now = self.clock.now()
        # NB: timers within the resolution of the clock are due. One unit in the
        # last place makes that "exactly now"; a nanosecond would be absorbed by
        # rounding after 97 days, and no timer would ever be due again.
        self._clock_resolution = math.ulp(now)
        return now

    def run_forever(self) -> None:
        """Run until stopped, with the process on this loop's clock."""
        self.clock.install()
        try:
            super().run_forever()
        finally:
            self.clock.uninstall()

    def run_in_executor(
        self,
        executor: concurrent.futures.Executor | None,
        func: Callable[[*_Ts], _T],
        *args: *_Ts,
    ) -> asyncio.Future[_T]:
        """Run a function in a thread; time does not jump meanwhile."""
        if not isinstance(executor, concurrent.futures.ThreadPoolExecutor | None):
            # What runs in another process must not be wrapped, for it is
            # pickled; and cannot sleep on this clock.
            job = _Job(None)
            future = super().run_in_executor(executor, func, *args)
        else:
            job = _Job(lambda: func(*args))
            future = super().run_in_executor(executor, job)
        job.future = future
        job.executor = executor or self._default_executor
        self._jobs.add(job)
        return future

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Wait, in real time, for the threads of the default executor."""
        self._shutting_down = True
        try:
            await super().shutdown_default_executor(*args, **kwargs)
        finally:
            self._shutting_down = False

    def next_timer(self) -> float:
        """Return when the next timer is due; infinity if there is none."""
        # NB: the loop has just dropped the cancelled ones from the top.
        return self._scheduled[0].when() if self._scheduled else math.inf

    def runs_alone(self) -> bool:
        """Whether no other thread lives, and none has work to begin."""
        return not (self._jobs or self._shutting_down) and active_count() == 1

    def threads_at_work(self) -> list[int | None]:
        """Return the threads that work for this loop and do not wait for it.

        None stands for one that will start, or has ended but not yet reported.
        """
        self._jobs = {job for job in self._jobs if not job.is_over()}
        working: list[int | None] = [None] if self._shutting_down else []
        for job in self._jobs:
            if job.ident is not None:
                working.append(job.ident if job.runs else None)
            elif job.has_room(self._jobs):
                working.append(None)
        working += _anyio_threads_at_work(self)
        return [
            ident for ident in working if ident is None or not _waits_for_a_loop(ident)
        ]

    def stuck(self) -> VirtualTimeError:
        """Return the error that says which tasks wait where."""
        return self.clock.fail(
            f"task {task.get_name()!r} at " + _stacks.of_coroutine(task.get_coro())
            for task in sorted(asyncio.all_tasks(self), key=_age)
        )


class _VirtualSelector(selectors.BaseSelector):
    """Looks at real files without waiting, then lets time jump."""

    def __init__(self, loop: VirtualEventLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return self._real.select(0)
        loop = self._loop
        has_files = len(self._real.get_map()) > _OWN_FILES
        if not has_files and loop.runs_alone():
            # What follows, where no other thread can come or be waited for.
            if events := self._real.select(0):
                return events
            if (when := loop.next_timer()) < math.inf:
                loop.clock.jump_alone(when)
                return []
        # NB: what was written to a socket can take the kernel a moment to be
        # readable on its other end.
        pause = SLICE if has_files else 0
        give_up_at = real_now() + PATIENCE
        while True:
            held = loop.clock.is_held(loop.threads_at_work())
            if events := self._real.select(pause):
                return events
            jump = Jump.BUSY
            if not held:
                jump = loop.clock.jump(loop.next_timer(), loop.threads_at_work())
            if jump is Jump.MOVED:
                return []
            if jump is Jump.BUSY:
                give_up_at = real_now() + PATIENCE
            elif not has_files or real_now() >= give_up_at:
                raise loop.stuck()
            pause = SLICE

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[FileDescriptorLike, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


class _Job:
    """A function handed to an executor, and the thread that runs it."""

    future: asyncio.Future[Any]
    executor: concurrent.futures.Executor | None

    def __init__(self, func: Callable[[], Any] | None) -> None:
        self._func = func
        self.ident: int | None = None
        self.runs = False

    def __call__(self) -> Any:
        self.runs = True
        self.ident = threading.get_ident()
        func, self._func = self._func, None
        try:
            assert func is not None
            return func()
        finally:
            del func
            self.runs = False

    def is_over(self) -> bool:
        # NB: a cancelled future is done at once, its thread is not.
        return self.future.done() and not self.runs

    def has_room(self, jobs: set[_Job]) -> bool:
        """Whether the executor has a thread left for this job to start in."""
        size = getattr(self.executor, "_max_workers", math.inf)
        others = sum(job.runs and job.executor is self.executor for job in jobs)
        return bool(others < size)


def _anyio_threads_at_work(loop: asyncio.AbstractEventLoop) -> list[int | None]:
    """Return the busy ones of anyio's own worker threads for this loop."""
    kind: Any = loaded("anyio._backends._asyncio", "WorkerThread") or ()
    threads: list[Any] = [
        thread for thread in threading.enumerate() if isinstance(thread, kind)
    ]
    return [
        thread.ident
        for thread in threads
        # NB: counted up by the loop before the thread wakes, and down by the
        # thread after the loop has been told.
        if thread.loop is loop and thread.queue.unfinished_tasks
    ]


def _waits_for_a_loop(ident: int) -> bool:
    """Whether a thread blocks on what a loop is to do: ``from_thread.run``."""
    for frame in _stacks.callers(_stacks.frames_by_thread().get(ident)):
        if frame.f_code is _RESULT:
            future = frame.f_locals.get("self")
            if future is not None and not future.done():
                # NB: `run_coroutine_threadsafe` leaves this mark on its future,
                # with which it passes a cancellation on to the task.
                callbacks = [call.__qualname__ for call in future._done_callbacks]
                return "_chain_future.<locals>._call_check_cancel" in callbacks
    return False


def _age(task: asyncio.Task[Any]) -> tuple[int, str]:
    """Sort ``Task-10`` after ``Task-9``."""
    name = task.get_name()
    return len(name), name
