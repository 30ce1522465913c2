"""A clock that puts `trio.run` into virtual time.

trio asks its clock how long to sleep when no task can run. This one answers
"not at all" once, so that real I/O is looked at; asked again with no task
having run since, it jumps to the deadline.

Ground rules for what is private in trio: the switch that makes its scheduling
repeatable (`_ALLOW_DETERMINISTIC_SCHEDULING`, made for Hypothesis and
pytest-trio), whether a task waits for all tasks to block (as `MockClock`),
the delivery of an error to the main task (as for Ctrl-C), and what a thread
of trio's runs.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import outcome
import trio
import trio.testing
from trio._core import _run

from resilient._runtimes.clock import real_now
from resilient.testing import _stacks
from resilient.testing._virtual_clock import (
    PATIENCE,
    SLICE,
    Jump,
    VirtualClock,
    VirtualTimeError,
)

_FOREVER = 86400.0
_SWITCH = "_ALLOW_DETERMINISTIC_SCHEDULING"
_RUNS_JOB = "to_thread_run_sync.<locals>.worker_fn"
_ASKS_TRIO = "_send_message_to_trio"
_ANSWERS = "Run.unprotected_afn"


class TrioClock(trio.abc.Clock, trio.abc.Instrument):
    """Virtual time for each run of trio that it is given to, one at a time.

    Each run begins at 0.0 seconds with the seed anew. The clock of the process
    is this one from the beginning of the run to its end.
    """

    error: VirtualTimeError | None
    """Why the last run could not go on; None if it could."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._clock = VirtualClock(seed, looped=True)
        self.error = None

    def start_clock(self) -> None:
        """Begin a run; called by trio."""
        self._clock = VirtualClock(self._seed, looped=True)
        self._clock.install()
        self.error = None
        context: Any = _run.GLOBAL_RUN_CONTEXT
        self._runner: _run.Runner = context.runner
        self._stepped = self._held = True
        self._quiet_since = real_now()
        self._order = _run._r.getstate()
        self._switch = getattr(_run, _SWITCH)
        # NB: with this, tasks are shuffled by `_r` alone, independent of what
        # sets and heaps of objects happen to give.
        setattr(_run, _SWITCH, True)
        _run._r.seed(self._seed)
        trio.lowlevel.add_instrument(self)

    def after_run(self) -> None:
        """End a run; called by trio, whatever the run came to."""
        setattr(_run, _SWITCH, self._switch)
        _run._r.setstate(self._order)
        self._clock.uninstall()
        del self._runner

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note that something ran; called by trio."""
        self._stepped = True

    def current_time(self) -> float:
        """Return the virtual seconds since the run began."""
        return self._clock.now()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return the real seconds to wait for I/O now that no task can run."""
        if deadline <= self._clock.now():
            return 0
        if self._runner.waiting_for_idle:
            # A task in `wait_all_tasks_blocked` is runnable once I/O is
            # quiet; trio cuts this short for them.
            return _FOREVER
        has_files = self._has_files()
        pool = list(_threads_at_work())
        held, self._held = self._held, self._clock.is_held(pool)
        if self._stepped:
            self._stepped = False
            self._quiet_since = real_now()
            # NB: what was written to a socket can take the kernel a moment to
            # be readable on its other end.
            return SLICE if has_files else 0
        jump = Jump.BUSY
        if not held:
            jump = self._clock.jump(deadline, pool)
        if jump is Jump.MOVED:
            # A thread that was woken by it may have ended, and left its result
            # with trio, before this is asked again.
            self._held = True
            return 0
        if jump is Jump.BUSY:
            self._quiet_since = real_now()
            return SLICE
        if has_files and real_now() - self._quiet_since < PATIENCE:
            return SLICE
        self._give_up()
        return 0

    def _has_files(self) -> bool:
        """Whether a task waits for a real file or socket."""
        io = trio.lowlevel.current_statistics().io_statistics
        # NB: the names differ by platform; one task of trio's own waits to be
        # woken by other threads.
        waiting = [getattr(io, name) for name in dir(io) if name[:5] == "tasks"]
        return bool(sum(waiting) > 1)

    def _give_up(self) -> None:
        """Raise the error in the main task, where it waits, as Ctrl-C would.

        If that was done before and did not help (the main task waits for one
        that is shielded, say), raise it in those tasks that the others wait
        for, whether they like it or not.
        """
        main = self._runner.main_task
        assert main is not None, "trio starts it before anything can wait"
        error = self._clock.fail(
            f"task {task.name!r} at {_stacks.of_coroutine(task.coro)}"
            for task in _tasks(main)
        )
        # NB: a nursery that takes the error only notes it, and cancels its
        # tasks; so something runs next in any case.
        self._stepped = True
        if self.error is None:
            self.error = error
            _raise_in(main, error)
            return
        for task in _tasks(main):
            if not any(nursery.child_tasks for nursery in task.child_nurseries):
                _raise_in(task, VirtualTimeError(*error.args))


def _raise_in(task: trio.lowlevel.Task, error: VirtualTimeError) -> None:
    """Wake a blocked task with an error."""

    def raise_error() -> NoReturn:
        raise error

    if task._abort_func is not None:
        task._attempt_abort(raise_error)
    else:
        # What it waits for refuses to be cancelled, and will never come.
        trio.lowlevel.reschedule(task, outcome.Error(error))


def _tasks(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """Yield a task and all tasks below it, each nursery's in order of birth."""
    yield task
    for nursery in task.child_nurseries:
        for child in sorted(nursery.child_tasks, key=lambda child: child._counter):
            yield from _tasks(child)


def _threads_at_work() -> Iterator[int | None]:
    """Yield the threads that work for trio and do not wait for it.

    None stands for one that will start, or has ended but not yet reported.
    """
    expected = trio.testing.active_thread_count()
    if threading.active_count() > 1:
        frames = _stacks.frames_by_thread()
        # NB: this thread's own leads back here, and would be a cycle.
        del frames[threading.get_ident()]
        for ident, innermost in frames.items():
            names = [f.f_code.co_qualname for f in _stacks.callers(innermost)]
            if _RUNS_JOB in names:
                expected -= 1
                if not (names[0] == _ASKS_TRIO and _is_in_progress(innermost)):
                    yield ident
    # NB: abandoned threads are found, but not counted by trio.
    if expected > 0:
        yield None


def _is_in_progress(asking: FrameType) -> bool:
    """Whether trio is yet to answer a thread in ``trio.from_thread.run``.

    NB: that the thread's queue is empty does not say so. Since 3.13 an answer
    is handed to a waiting thread directly, before that thread wakes up.
    """
    message = asking.f_locals["message_to_trio"]
    root = trio.lowlevel.current_root_task()
    assert root is not None, "only asked while trio runs"
    return any(
        frame.f_code.co_qualname == _ANSWERS and frame.f_locals["self"] is message
        for task in _tasks(root)
        for frame in _stacks.suspended(task.coro)
    )
