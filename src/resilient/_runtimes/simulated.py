"""The simulated runtime: an event heap in the place of an event loop.

Ground rules:

* Time is a number. It jumps to the next entry of the heap when all that was due
  before it has been done. Entries of the same moment run in the order in which they
  were made.
* What is suspended waits on one `Suspension`. Who wakes it, and who cancels it,
  empties that, so that entries of the heap which come later find nothing to do.
* A limit that is reached cancels its work after all that is due at that moment: an
  answer that arrives in time wins, as on asyncio.
* A cancellation is thrown in once. It and limits are counted as asyncio counts them.

One thread runs all of it, nothing is locked, and no file or other thread can wake
anything here. Calls are driven by their owner (`Work`) or in a `Task`, which has
a context of its own, as tasks of asyncio have.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, Protocol

from resilient._runtimes import clock
from resilient._runtimes.runtime import (
    BOTH,
    CUT,
    IN_TIME,
    PAUSE,
    End,
    all_are,
    pause,
)

if TYPE_CHECKING:
    from resilient._runtimes.runtime import Caller, Racer


class Cancelled(BaseException):
    """What a cancellation is, in simulated time."""


class JumpingClock(Protocol):
    """The virtual clock of the process."""

    def now(self) -> float: ...

    def jump_alone(self, until: float) -> None: ...


class Suspension:
    """Where one piece of work waits; emptied when it is woken or cancelled."""

    __slots__ = ("value", "work")

    def __init__(self, work: Work | None, value: object = None) -> None:
        self.work = work
        self.value = value

    def __await__(self) -> Generator[Suspension, Any, Any]:
        return (yield self)


def resume(suspension: Suspension) -> None:
    """Resume what waits there, if it still does: an entry of the heap."""
    work = suspension.work
    if work is not None:
        suspension.work = work.suspension = None
        work.resume(suspension.value)


class World:
    """An event heap, and the runtime of all that is simulated on it."""

    __slots__ = ("_heap", "_interrupting", "_order", "clock", "running", "under_way")
    name: Literal["simulated"] = "simulated"

    def __init__(self, clock: JumpingClock) -> None:
        self.clock = clock
        # When, in which order it was asked for, what to call, and with what.
        self._heap: list[tuple[float, int, Callable[[Any], object], Any]] = []
        self._order = count()
        self.running: Work | None = None
        self.under_way = 0
        # The limits that have cancelled their work and were not left yet.
        self._interrupting: dict[Caller, list[SimulatedLimit]] = {}

    def at(self, when: float, action: Callable[[Any], object], argument: Any) -> None:
        """Call ``action(argument)`` at a moment; if it is past, next."""
        heappush(self._heap, (when, next(self._order), action, argument))

    def soon(self, action: Callable[[Any], object], argument: Any) -> None:
        """Call ``action(argument)`` after all that is due now."""
        self.at(self.clock.now(), action, argument)

    def at_each(
        self, moments: Iterator[float], action: Callable[[float], object]
    ) -> None:
        """Call ``action(moment)`` at each, and do not end before the last."""

        def come(moment: float) -> None:
            action(moment)
            await_next()

        def await_next() -> None:
            moment = next(moments, None)
            if moment is None:
                self.under_way -= 1
            else:
                self.at(moment, come, moment)

        self.under_way += 1
        await_next()

    def run(self) -> None:
        """Run until no work is under way, or what is could never be woken."""
        heap, jump, now = self._heap, self.clock.jump_alone, self.clock.now()
        while heap and self.under_way:
            when, _, action, argument = heappop(heap)
            if when > now:
                now = when
                jump(when)
            action(argument)

    def start(self, coroutine: Coroutine[Any, Any, Any], name: str) -> Task:
        """Run a coroutine in a task, after all that is due now."""
        task = Task(self, coroutine, name)
        self.soon(Task.begin, task)
        return task

    def suspend(self, value: object = None) -> Suspension:
        """Make a suspension of the work that runs here, to be awaited."""
        return Suspension(self.running, value)

    def wake(self, suspension: Suspension, value: object) -> None:
        """Have it resumed with a value, after all that is due now."""
        suspension.value = value
        self.soon(resume, suspension)

    # -- The verbs

    async def sleep(self, seconds: float) -> None:
        await pause()
        suspension = self.suspend()
        self.at(self.clock.now() + seconds, resume, suspension)
        await suspension

    def _resume_soon(self, suspension: Suspension) -> None:
        self.soon(resume, suspension)

    def waiter(self, call: Caller) -> SimulatedWaiter:
        return SimulatedWaiter(self)

    async def park(self, waiter: SimulatedWaiter, until: float | None) -> bool:
        await pause()
        if waiter.woken:
            waiter.woken = False
            return True
        waiter.suspension = suspension = self.suspend(False)
        if until is not None:
            # NB: a turn later, for a limit of that very moment comes first.
            self.at(until, self._resume_soon, suspension)
        try:
            return bool(await suspension)
        finally:
            waiter.suspension = None

    def limit(
        self,
        call: Caller,
        limits_by_loop: dict[Any, Any] | None,
        seconds: float,
        deadline: float,
    ) -> SimulatedLimit:
        limit = SimulatedLimit(self, call)
        self.at(deadline, SimulatedLimit.expire, limit)
        return limit

    def is_cancellation(self, error: BaseException) -> bool:
        return all_are(Cancelled, error)

    def is_cut(self, calls: Sequence[Caller], error: BaseException) -> bool:
        if not self.is_cancellation(error):
            return False
        ours: dict[Work, tuple[int, int]] = {}
        for call in calls:
            for limit in self._interrupting.get(call, ()):
                before, times = ours.get(limit.work, (limit.cancelling, 0))
                ours[limit.work] = min(before, limit.cancelling), times + 1
        return bool(ours) and all(
            work.cancelling <= before + times for work, (before, times) in ours.items()
        )

    async def race(self, call: Caller) -> SimulatedRace:
        return SimulatedRace(self)

    def task_or_thread(self) -> object:
        return self.running

    def owner(self) -> World:
        return self

    def spawn(
        self,
        name: str,
        body: Callable[[], Coroutine[Any, Any, None]],
        last: Callable[[], None],
        *,
        eager: bool = False,
    ) -> Task:
        task = self.start(body(), name)
        task.callbacks.append(lambda task: last())
        return task


class Work:
    """Something that is suspended and resumed: a driven call, or a task."""

    __slots__ = ("cancelling", "has_ended", "must_cancel", "suspension", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self.suspension: Suspension | None = None
        # How often it was asked to end, and whether it has yet to hear of it.
        self.cancelling = 0
        self.must_cancel = self.has_ended = False
        world.under_way += 1

    def resume(self, value: object) -> None:
        """Go on with what the suspension came to."""

    def interrupt(self, error: BaseException) -> None:
        """Go on with an error."""

    def suspended(self, suspension: Suspension) -> None:
        """Wait there."""
        self.suspension = suspension
        if self.must_cancel:
            self._interrupt_soon(suspension)

    def cancel(self, *, at_once: bool = False) -> None:
        """Interrupt what it waits for, or will wait for next.

        Args:
            at_once: Whether in this very entry of the heap.
        """
        if self.has_ended:
            return
        self.cancelling += 1
        suspension = self.suspension
        if suspension is not None and at_once:
            suspension.work = self.suspension = None
            self.interrupt(Cancelled())
            return
        self.must_cancel = True
        if suspension is not None:
            self._interrupt_soon(suspension)

    def end(self) -> None:
        """Take note that it has ended."""
        self.has_ended = True
        self.world.under_way -= 1

    def _interrupt_soon(self, suspension: Suspension) -> None:
        suspension.work = self.suspension = None
        self.world.soon(Work._deliver, self)

    def _deliver(self) -> None:
        self.must_cancel = False
        self.interrupt(Cancelled())


class Task(Work):
    """A coroutine that is run to its end, in a context of its own.

    Attributes:
        callbacks: Called with the task when it has ended.
        coroutine: What it runs.
        error: What it raised; None: nothing.
        value: What it returned.
    """

    __slots__ = ("_context", "callbacks", "coroutine", "error", "name", "value")

    def __init__(
        self, world: World, coroutine: Coroutine[Any, Any, Any], name: str
    ) -> None:
        super().__init__(world)
        self.name = name
        self.callbacks: list[Callable[[Task], object]] = []
        self.error: BaseException | None = None
        self.value: Any = None
        self.coroutine = coroutine
        self._context = copy_context()

    def begin(self) -> None:
        """Take the first step; cancelled before, it takes none."""
        if self.must_cancel:
            self.coroutine.close()
            self._ended(Cancelled())
        else:
            self.resume(None)

    def resume(self, value: object) -> None:
        self._step(self.coroutine.send, value)

    def interrupt(self, error: BaseException) -> None:
        self._step(self.coroutine.throw, error)

    def _step(self, step: Callable[[Any], object], value: object) -> None:
        self.world.running = self
        while True:
            try:
                request = self._context.run(step, value)
            except StopIteration as stop:
                self.value = stop.value
                self._ended(None)
                return
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                self._ended(error)
                return
            if request is PAUSE:
                step, value = self.coroutine.send, None
            elif isinstance(request, Suspension):
                self.suspended(request)
                return
            else:
                step, value = self.coroutine.throw, foreign(request)

    def _ended(self, error: BaseException | None) -> None:
        self.error = error
        self.end()
        for callback in self.callbacks:
            callback(self)

    async def ended(self) -> None:
        """Wait until it has ended; see `BackgroundTask`."""
        waiter = SimulatedWaiter(self.world)
        self.callbacks.append(lambda task: waiter.wake())
        cancelled: Cancelled | None = None
        try:
            while not self.has_ended:
                try:
                    await self.world.park(waiter, None)
                except Cancelled as error:
                    cancelled = error
            if cancelled is not None:
                raise cancelled
        finally:
            # NB: its traceback holds this frame.
            del cancelled


def foreign(request: object) -> RuntimeError:
    """Return the error for code that awaits what is not simulated."""
    return RuntimeError(
        f"{type(request).__name__} was awaited in simulated time, where nothing could"
        " answer: a policy may wait through `call.runtime` only"
    )


class SimulatedWaiter:
    """A suspension for each wait, and a flag for early wakes."""

    __slots__ = ("suspension", "woken", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self.suspension: Suspension | None = None
        self.woken = False

    def wake(self) -> bool:
        suspension = self.suspension
        if suspension is None or suspension.value or suspension.work is None:
            self.woken = True
        else:
            self.world.wake(suspension, True)
        return True

    def is_gone(self) -> bool:
        return False


class SimulatedLimit:
    """A limit in time of one call: an entry of the heap."""

    __slots__ = ("_call", "_state", "cancelling", "work")

    def __init__(self, world: World, call: Caller) -> None:
        assert world.running is not None
        self.work: Work = world.running
        self.cancelling = self.work.cancelling
        self._call: Caller | None = call
        self._state: Literal["running", "expired", "delivered"] = "running"

    def is_left(self) -> bool:
        """Whether what it limited has ended."""
        return self._call is None

    def expire(self) -> None:
        """Deliver it after all that is due now."""
        if self._call is not None:
            self._state = "expired"
            self.work.world.soon(SimulatedLimit._deliver, self)

    def _deliver(self) -> None:
        if self._call is not None:
            self._state = "delivered"
            interrupting = self.work.world._interrupting  # pyright: ignore[reportPrivateUsage]  # ours
            interrupting.setdefault(self._call, []).append(self)
            self.work.cancel(at_once=True)

    def leave(self, call: Caller, error: BaseException | None) -> End:
        self._call = None
        if self._state == "running":
            return IN_TIME
        if self._state == "expired":
            return BOTH
        work = self.work
        interrupting = work.world._interrupting  # pyright: ignore[reportPrivateUsage]  # ours
        interrupting[call].remove(self)
        if not interrupting[call]:
            del interrupting[call]
        work.cancelling -= 1
        if work.cancelling > self.cancelling:
            # Another cancellation was requested as well, and comes first.
            return BOTH
        if error is None or isinstance(error, (Exception, Cancelled)):
            return CUT
        return BOTH


class SimulatedRace:
    """Tasks, as in a race of asyncio."""

    __slots__ = ("_tasks", "_waiter", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._tasks: dict[Task, Racer] = {}
        self._waiter = SimulatedWaiter(world)

    def start(self, racer: Racer) -> bool:
        task = self._world.start(racer.run(), racer.name)
        self._tasks[task] = racer
        task.callbacks.append(self._ended)
        return True

    def _ended(self, task: Task) -> None:
        racer = self._tasks.pop(task)
        if task.error is not None:
            racer.ended(task.error)
        self._waiter.wake()

    def wake(self) -> None:
        self._waiter.wake()

    def wait(self, until: float | None) -> Coroutine[Any, Any, bool]:
        return self._world.park(self._waiter, until)

    def cleanup(self, racer: Racer) -> AbstractContextManager[object]:
        # A cancellation is delivered once.
        return nullcontext()

    async def leave(self, grace: float, *, unwinding: bool) -> None:
        if not self._tasks:
            return
        self._cancel(settled=False)
        until = None if unwinding else clock.now() + grace
        cancelled: Cancelled | None = None
        try:
            while self._tasks:
                try:
                    if not await self.wait(until) and until is not None:
                        break
                except Cancelled as again:
                    # As in a race of asyncio: passed on, and without limit.
                    self._cancel(settled=until is None)
                    cancelled, until = again, None
            if cancelled is not None:
                raise cancelled
        finally:
            del cancelled

    def abandon(self) -> None:
        self._cancel(settled=False)

    def _cancel(self, *, settled: bool) -> None:
        for task, racer in list(self._tasks.items()):
            if settled or not racer.settled:
                task.cancel()
