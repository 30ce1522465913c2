"""Keeps workers running: one loop for tasks and threads.

Ground rules:

* Everything happens in this one loop, in a task or thread of its own: ends of runs,
  restarts and stops are worked off one after the other, so crashes that come
  together are one round.
* Workers are stopped in the reverse order of their start, each within
  `stop_timeout`. A worker is never started beside a run of it that stays.

==================== ======================================================
a run that           on asyncio and in threads  on trio
==================== ======================================================
stays, in a round    the supervisor gives up    is awaited: no other way
stays, in the end    is left behind, `abandoned`  is awaited
==================== ======================================================

Both are told by a `ResilientWarning`.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from resilient._errors.errors import RestartLimitError
from resilient._errors.warnings import warn
from resilient._events.events import WorkerCrashed, error_name, located
from resilient._events.listeners import broadcast
from resilient._machines.restarts import Strategy, affected
from resilient._runtimes import clock
from resilient._runtimes.runtime import AsyncRuntime, Waiter, unpaused
from resilient._runtimes.sync import SYNC
from resilient._supervision.runs import Run
from resilient._supervision.workers import Worker, is_interrupt
from resilient._values.locks import Lock

_MOST_FINISHED: Final = 100
"""Workers that have finished and are still shown, the last ones."""


class Keeper:
    """The loop of one supervisor.

    Args:
        name: The supervisor's.
        strategy: Which workers a crash restarts.
        stop_timeout: Seconds that a worker has to stop.
        runtime: Runs workers in tasks; None: they run in threads.
        waiter: Where this loop waits.
        wakes: Called when it is over.
        gives_up: Called when the block of the supervisor is to end.

    Attributes:
        whole: Stands for all workers: it is asked when all are to stop.
        workers: Those that run or will, in order of their start.
        finished: The last ones of the others.
        is_over: Whether nothing is left to keep.
        error: What the supervisor is to raise.
        late: Errors of workers that crashed while they were stopped in the end.
    """

    def __init__(
        self,
        name: str,
        strategy: Strategy,
        stop_timeout: float,
        runtime: AsyncRuntime | None,
        waiter: Waiter,
        wakes: Callable[[], object],
        gives_up: Callable[[], object],
    ) -> None:
        self.name: str = name
        self._strategy: Strategy = strategy
        self._stop_timeout = stop_timeout
        self._runtime = runtime
        self._waiter = waiter
        self._wakes = wakes
        self._gives_up = gives_up
        self._lock = Lock()
        self._closing = False
        # Workers whose run has ended, and was not looked at yet.
        self._ended: deque[Worker] = deque()
        self._left: list[Run] = []
        self._limit: RestartLimitError | None = None
        self._causes: list[BaseException] = []
        self.whole: Run = Run(_nothing, _nothing)
        self.workers: list[Worker] = []
        self.finished: dict[str, Worker] = {}
        self.is_over: bool = False
        self.error: BaseException | None = None
        self.late: list[BaseException] = []

    @property
    def abandoned(self) -> int:
        """Runs that were left behind and still go on."""
        return sum(not run.has_ended for run in self._left)

    # -- From any task or thread

    def add(self, make: Callable[[set[str]], Worker]) -> Worker:
        """Have a worker started.

        Args:
            make: Makes it, knowing the names that are taken.

        Raises:
            RuntimeError: The supervisor stops, or has ended.
        """
        with self._lock:
            if self.is_over or self.whole.asked:
                raise RuntimeError(
                    "a Supervisor that stops, or has ended, starts no workers"
                )
            worker = make({one.name for one in self.workers})
            worker.due = clock.now()
            self.workers.append(worker)
            self.finished.pop(worker.name, None)
        self._waiter.wake()
        return worker

    def stop(self) -> None:
        """Have all workers stopped, without waiting for that."""
        self.whole.stop()
        self._waiter.wake()

    def close(self) -> None:
        """End when no worker is left: the block has ended."""
        self._closing = True
        self._waiter.wake()

    def describe(self) -> dict[str, Any]:
        """Return how the workers are: only what JSON has."""
        now = clock.now()
        with self._lock:
            workers = [*self.finished.values(), *self.workers]
            return {
                "workers": {worker.name: worker.describe(now) for worker in workers},
                "abandoned": self.abandoned,
            }

    # -- The loop

    async def keep(self) -> None:
        """Keep the workers running until all are done, or are to stop."""
        try:
            try:
                while not self.whole.asked:
                    await self._work_off()
                    if self.whole.asked or self._is_done():
                        break
                    await self._park(self._start())
            except Exception as error:
                # A backoff of the user's that raises.
                self.error = error
                self._give_up()
            await self._stop_all()
        except BaseException as error:
            # Its loop shuts down, and cancels what is left in it.
            self.error = error
            for worker in self.workers:
                if worker.run is not None:
                    worker.run.stop()

    def over(self) -> None:
        """Note that the loop has ended, however it did."""
        if self._limit is not None and self.error is None:
            self.error = self._limit
            text = "the last errors of the worker, and of those that were stopped"
            causes = [*self._causes, *self.late]
            if causes:
                self._limit.__cause__ = BaseExceptionGroup(text, causes)
        self._limit = None
        self._causes.clear()
        self.is_over = True
        self._wakes()
        # NB: the supervisor's own method: they would make a circle.
        self._gives_up = _nothing

    def _is_done(self) -> bool:
        with self._lock:
            # NB: one that was just added is started first.
            if not self._closing or self.workers:
                return False
            self.is_over = True
            return True

    async def _park(self, until: float | None) -> None:
        if self._runtime is None:
            await SYNC.park(self._waiter, until)  # type: ignore[arg-type]  # a SyncWaiter
        else:
            await unpaused(self._runtime.park, self._waiter, until)

    def _start(self) -> float | None:
        """Start the workers that are due; return when the next one is."""
        now = clock.now()
        following: float | None = None
        with self._lock:
            workers = list(self.workers)
        for worker in workers:
            if worker.due is None:
                continue
            if worker.due > now:
                following = (
                    worker.due if following is None else min(following, worker.due)
                )
                continue
            worker.due = None
            worker.restarts.begin(now)
            run = Run(worker.call(), functools.partial(self._note, worker), self.whole)
            worker.run = run
            label = f"resilient worker {worker.name}"
            if self._runtime is None:
                run.in_thread(label, worker.context)
            else:
                run.in_task(self._runtime, label, worker.context)
        return following

    def _note(self, worker: Worker) -> None:
        self._ended.append(worker)
        self._waiter.wake()

    async def _work_off(self) -> None:
        """See to the runs that have ended, until there are none."""
        while self._ended and not self.whole.asked:
            waits: dict[Worker, float] = {}
            while self._ended:
                worker = self._ended.popleft()
                if worker.run is not None and worker.run.has_ended:
                    self._judge(worker, waits)
            if self._strategy == "one_for_one":
                for worker, wait in waits.items():
                    worker.due = clock.now() + wait
            elif waits:
                await self._restart_together(waits)

    def _judge(self, worker: Worker, waits: dict[Worker, float]) -> None:
        """Decide what follows the end of a run; note how long a restart waits."""
        error = _take(worker)
        if error is None and worker.restart == "always":
            waits[worker] = worker.restarts.end()
            return
        if error is None:
            if worker.ready is not None:
                worker.ready.fail(
                    RuntimeError(f"worker {worker.name!r} returned before it was ready")
                )
            self._finish(worker, "done")
            return
        try:
            if is_interrupt(error):
                self.error = error
                self._finish(worker, "crashed")
                self._give_up()
                return
            wait = worker.restarts.crash(clock.now())
            worker.note(error)
            if worker.restart == "never":
                wait = None
            self._tell(worker, error, wait)
            if wait is not None:
                waits[worker] = wait
                return
            if worker.ready is not None:
                worker.ready.fail(error)
            if worker.restart != "never" and self._limit is None:
                self._limit = worker.restarts.limit_error(worker.name)
                self._causes.extend(worker.errors)
                self._give_up()
            self._finish(worker, "crashed")
        finally:
            # NB: its traceback holds this frame.
            error = None

    async def _restart_together(self, waits: dict[Worker, float]) -> None:
        """Stop those that a crash concerns, in reverse, and have all restarted."""
        with self._lock:
            workers = list(self.workers)
        concerned = {
            other
            for worker in waits
            if worker in workers
            for other in affected(self._strategy, workers, worker)
        }
        for worker in reversed(workers):
            if worker not in concerned or worker.run is None:
                continue
            if worker.run.has_ended:
                self._judge(worker, waits)
            elif not await self._stop(worker):
                self._limit = worker.restarts.stays_error(
                    worker.name, self._stop_timeout
                )
                self._finish(worker, "abandoned")
                self._give_up()
            elif (error := _take(worker)) is not None:
                self._judge_stopped(worker, error)
                error = None
            if self.whole.asked:
                return
        due = clock.now() + max(waits.values())
        for worker in self.workers:
            if worker in concerned:
                worker.due = max(due, worker.due or due)

    def _give_up(self) -> None:
        self.whole.stop()
        self._gives_up()

    # -- Stopping

    async def _stop_all(self) -> None:
        with self._lock:
            self.whole.stop()
            workers = list(self.workers)
        for worker in reversed(workers):
            if worker.run is None:
                self._finish(worker, "stopped")
            elif not await self._stop(worker):
                self._finish(worker, "abandoned")
            else:
                error = _take(worker)
                if error is not None and self._judge_stopped(worker, error):
                    self.late.append(error)
                error = None
                self._finish(worker, "stopped")

    async def _stop(self, worker: Worker) -> bool:
        """Ask a run to stop and wait; return whether it has ended."""
        run = worker.run
        assert run is not None
        if not run.has_ended:
            run.stop()
        until: float | None = clock.now() + self._stop_timeout
        while not run.has_ended:
            await self._park(until)
            if run.has_ended or until is None or clock.now() < until:
                continue
            text = (
                f"worker {worker.name!r} has not stopped within"
                f" {self._stop_timeout:.1f} s"
            )
            if self._runtime is not None and self._runtime.name == "trio":
                warn(f"{text} and is waited for", raised=self._log)
                until = None
                continue
            warn(f"{text} and is left behind", raised=self._log)
            worker.run = None
            self._left.append(run)
            run.leave()
            return False
        return True

    def _judge_stopped(self, worker: Worker, error: BaseException) -> bool:
        """Return whether a run that was stopped has crashed, and tell of it."""
        if self._runtime is not None and self._runtime.is_cancellation(error):
            return False
        if is_interrupt(error):
            self.error = error
            self._give_up()
            return False
        worker.error_type = error_name(error)
        self._tell(worker, error, None)
        return True

    def _finish(self, worker: Worker, state: Any) -> None:
        worker.state = state
        worker.due = None
        if state != "done" and worker.ready is not None:
            worker.ready.fail(
                RuntimeError(f"worker {worker.name!r} was stopped before it was ready")
            )
        worker.let_go()
        with self._lock:
            self.workers.remove(worker)
            self.finished.pop(worker.name, None)
            self.finished[worker.name] = worker
            if len(self.finished) > _MOST_FINISHED:
                del self.finished[next(iter(self.finished))]

    # -- Telling

    def _tell(self, worker: Worker, error: BaseException, wait: float | None) -> None:
        import logging

        then = "is not restarted" if wait is None else f"is restarted in {wait:.1f} s"
        logging.getLogger("resilient").error(
            "worker %r crashed (%d in a row) and %s",
            worker.name,
            worker.restarts.row,
            then,
            exc_info=error,
        )
        kind = type(error).__qualname__
        event = WorkerCrashed(
            self.name, None, worker.name, kind, worker.restarts.row, wait
        )
        broadcast(located(event, self.name, self.name, error))

    def _log(self, text: str) -> None:
        import logging

        logging.getLogger("resilient").warning(text)


def _take(worker: Worker) -> BaseException | None:
    """Take the error out of a run that has ended, and the run from its worker.

    NB: an error's traceback holds the frame of its run, which holds the run.
    """
    run, worker.run = worker.run, None
    assert run is not None
    error, run.error = run.error, None
    return error


def _nothing() -> None:
    """What stands for all runs has no function of its own."""
