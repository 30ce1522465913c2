"""The asyncio runtime.

Limits in time are the part that matters. `asyncio.timeout` pushes a timer on
the loop's heap and cancels it again, for every call. Calls of the same
duration, though, expire in the order they started, so an insertion-ordered
dict and one armed timer serve all of them: entering and leaving a limit are
two dictionary operations.

Answer and timeout in the same tick: the answer wins. A limit that is reached
cancels its task one loop iteration later, and an answer that arrived in the
same one wakes its task first. (`asyncio.timeout` cancels at once and throws
that answer away.)

Source: hashed timing wheels without the wheel; Varghese and Lauck, 1987.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

from resilient._runtimes import clock
from resilient._runtimes.runtime import (
    BOTH,
    CUT,
    IN_TIME,
    End,
    ForkAware,
    all_are,
    pause,
)

if TYPE_CHECKING:
    from resilient._runtimes.runtime import Caller, Racer


class AsyncioRuntime:
    """See `resilient._runtimes.runtime`."""

    __slots__ = ()
    name: Literal["asyncio"] = "asyncio"

    async def sleep(self, seconds: float) -> None:
        await pause()
        if clock.skip is not None:
            clock.skip(seconds)
            seconds = 0
        await asyncio.sleep(seconds)

    def waiter(self, call: Caller) -> AsyncioWaiter:
        return AsyncioWaiter(asyncio.get_running_loop())

    async def park(self, waiter: AsyncioWaiter, until: float | None) -> bool:
        await pause()
        if waiter.woken:
            waiter.woken = False
            return True
        loop = waiter.loop
        waiter.future = future = loop.create_future()
        timer = None
        if until is not None:
            timer = loop.call_later(max(0.0, until - clock.now()), _expire, future)
        try:
            woken: bool = await future
        finally:
            waiter.future = None
            if timer is not None:
                timer.cancel()
        return woken

    def limit(
        self,
        call: Caller,
        limits_by_loop: dict[Any, Any] | None,
        seconds: float,
        deadline: float,
    ) -> AsyncioLimits:
        task: asyncio.Task[Any] | None = call.task
        if task is None:
            task = call.task = _this_task()
        loop = task.get_loop()
        limits: AsyncioLimits
        if limits_by_loop is None:
            limits = _TidyLimits(loop)
        else:
            try:
                limits = limits_by_loop[loop]
            except KeyError:
                limits = _add_limits(limits_by_loop, loop)
        if call in limits.entries:
            # The policy stands around itself, by way of a `PerKey` perhaps.
            limits = _TidyLimits(loop)
        limits.entries[call] = (deadline, task, task.cancelling())
        try:
            if limits.timer is None:
                limits.arm(deadline)
        except BaseException:
            limits.entries.pop(call, None)
            raise
        return limits

    def is_cancellation(self, error: BaseException) -> bool:
        return all_are(asyncio.CancelledError, error)

    def is_cut(self, calls: Sequence[Caller], error: BaseException) -> bool:
        if not self.is_cancellation(error):
            return False
        ours: dict[asyncio.Task[Any], tuple[int, int]] = {}
        for call in calls:
            for late in _interrupting.get(call, ()):
                before, times = ours.get(late.task, (late.cancelling, 0))
                ours[late.task] = min(before, late.cancelling), times + 1
        return bool(ours) and all(
            task.cancelling() <= before + times
            for task, (before, times) in ours.items()
        )

    async def race(self, call: Caller) -> AsyncioRace:
        return AsyncioRace(asyncio.get_running_loop())

    def task_or_thread(self) -> object:
        return asyncio.current_task()

    def owner(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def spawn(
        self,
        name: str,
        body: Callable[[], Coroutine[Any, Any, None]],
        last: Callable[[], None],
        *,
        eager: bool = False,
    ) -> AsyncioTask:
        loop = asyncio.get_running_loop()
        task = _start(loop, body, name, eager)

        def ended(task: asyncio.Task[None]) -> None:
            # NB: looked at, or Ctrl-C in its first step would be logged as well.
            if not task.cancelled():
                task.exception()
            last()

        try:
            if task.done():  # pragma: no cover - of an eager start
                ended(task)
            else:
                task.add_done_callback(ended)
            return AsyncioTask(loop, task)
        except BaseException:
            task.cancel()
            raise


def _start(
    loop: asyncio.AbstractEventLoop,
    body: Callable[[], Coroutine[Any, Any, None]],
    name: str,
    eager: bool = False,
) -> asyncio.Task[None]:
    """Run ``body()`` in a task; Ctrl-C leaves no coroutine un-awaited."""
    work = body()
    try:
        if sys.version_info >= (3, 12):  # pragma: no cover - the oldest has none
            if eager and loop.get_task_factory() is None:
                return asyncio.Task(work, loop=loop, name=name, eager_start=True)
        return loop.create_task(work, name=name)
    except BaseException:
        work.close()
        raise


class AsyncioWaiter(ForkAware):
    """A future that is made anew for each wait, and a flag for early wakes.

    Both belong to the loop's thread; `wake` goes there.
    """

    __slots__ = ("future", "loop", "woken")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.future: asyncio.Future[bool] | None = None
        self.woken = False

    def wake(self) -> bool:
        return self.wake_with([self])

    def wake_with(self, waiters: Sequence[AsyncioWaiter]) -> bool:
        """Wake waiters of this one's loop."""
        if self.is_copy():
            return False
        if asyncio._get_running_loop() is self.loop:
            _wake(waiters)
            return True
        try:
            self.loop.call_soon_threadsafe(_wake, waiters)
        except RecursionError:
            raise
        except RuntimeError:
            # The loop is closed, and with it the task that waited there.
            return False
        return True

    def is_gone(self) -> bool:
        return self.is_copy() or self.loop.is_closed()


def _wake(waiters: Sequence[AsyncioWaiter]) -> None:
    for waiter in waiters:
        if waiter.future is None or waiter.future.done():
            waiter.woken = True
        else:
            waiter.future.set_result(True)


def _expire(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


class AsyncioTask:
    """A task. The waiting side holds this: the loop alone would not."""

    __slots__ = ("loop", "task")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]
    ) -> None:
        self.loop = loop
        self.task = task

    @property
    def has_ended(self) -> bool:
        return self.task.done()

    def cancel(self) -> None:
        if asyncio._get_running_loop() is self.loop:
            self.task.cancel()
            return
        try:
            self.loop.call_soon_threadsafe(self.task.cancel)
        except RecursionError:
            raise
        except RuntimeError:
            # The loop is closed, and nothing runs there any more.
            pass

    async def ended(self) -> None:
        cancelled: BaseException | None = None
        try:
            while not self.task.done():
                try:
                    await asyncio.wait((self.task,))
                except asyncio.CancelledError as error:
                    # NB: not passed on, as `asyncio.TaskGroup` does not: anyio
                    # cancels anew in each turn, and knows what it may not.
                    cancelled = error
            if cancelled is not None:
                raise cancelled
        finally:
            # NB: its traceback holds this frame.
            del cancelled


class AsyncioLimits:
    """The limits of one duration on one loop, first to expire first."""

    __slots__ = ("entries", "late", "loop", "timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # When a call's time is up; its task, and how often that was asked to
        # cancel before. NB: by call: a deque would keep dead entries behind one
        # long call. And tuples: to make an object costs 100 ns more.
        self.entries: dict[Caller, tuple[float, asyncio.Task[Any], int]] = {}
        self.late: dict[Caller, _Late] = {}
        self.timer: asyncio.TimerHandle | None = None

    def leave(self, call: Caller, error: BaseException | None) -> End:
        try:
            del self.entries[call]
        except KeyError:
            late = self.late.pop(call, None)
            return IN_TIME if late is None else late.leave(error)
        return IN_TIME

    def arm(self, deadline: float) -> None:
        # NB: for a second at a time, or it would be armed for as long as the
        # limit is after the last call has left. To cancel it then, each time,
        # is what all this is to spare.
        delay = min(max(0.0, deadline - clock.now()), clock.patrol)
        self.timer = self.loop.call_later(delay, self.expire)

    def expire(self) -> None:
        self.timer = None
        due, following = self._due(clock.now())
        if following is not None:
            # NB: also where the loop's clock is coarser than ours (uvloop) and
            # the timer came a little early.
            self.arm(following)
        for call in due:
            entry = self.entries.get(call)
            if entry is None:
                continue
            # NB: in this order, for at any moment the collector may close the
            # call, which then has to find itself in one of the two.
            late = self.late[call] = _Late(call, *entry[1:])
            if self.entries.pop(call, None) is None:
                del self.late[call]
            else:
                self.loop.call_soon(late.deliver)

    def _due(self, now: float) -> tuple[list[Caller], float | None]:
        """Return whose time is up, and when the next one's will be."""
        while True:
            due: list[Caller] = []
            try:
                for call, (deadline, _, _) in self.entries.items():
                    if deadline > now:
                        return due, deadline
                    due.append(call)
            except RecursionError:
                raise
            except RuntimeError:
                # The collector closed one of them just now, and so it left.
                continue
            return due, None


class _TidyLimits(AsyncioLimits):
    """Limits whose timer goes with the last of them.

    For one whose duration no other call shares; and in virtual time, where a
    timer that no call needs would still look like something to wait for.
    """

    __slots__ = ()

    def leave(self, call: Caller, error: BaseException | None) -> End:
        end = super().leave(call, error)
        if not self.entries and self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return end


class _Late:
    """A call whose time is up, and whose task is about to learn it."""

    __slots__ = ("call", "cancelling", "delivered", "over", "task")

    def __init__(self, call: Caller, task: asyncio.Task[Any], cancelling: int) -> None:
        self.call = call
        self.task = task
        # NB: on 3.11 and 3.12 the count can stay at 1 after a failed TaskGroup,
        # so what matters is how it differs at the end.
        self.cancelling = cancelling
        self.delivered = self.over = False

    def deliver(self) -> None:
        if not self.over:
            self.delivered = True
            _interrupting.setdefault(self.call, []).append(self)
            self.task.cancel()

    def leave(self, error: BaseException | None) -> End:
        self.over = True
        if not self.delivered:
            return BOTH
        interrupting = _interrupting[self.call]
        interrupting.remove(self)
        if not interrupting:
            del _interrupting[self.call]
        if self.task.uncancel() > self.cancelling:
            # Another cancellation was requested as well, and comes first.
            return BOTH
        if error is None or isinstance(error, (Exception, asyncio.CancelledError)):
            return CUT
        # NB: KeyboardInterrupt and its like are no cancellation.
        return BOTH


_interrupting: dict[Caller, list[_Late]] = {}
"""The limits that have cancelled their task and were not left yet, by call."""


def _add_limits(
    limits_by_loop: dict[Any, Any], loop: asyncio.AbstractEventLoop
) -> AsyncioLimits:
    # Closed loops are let go of here. Two threads may do this at once: each
    # step is atomic, and the keys are the threads' own loops.
    for other in tuple(limits_by_loop):
        if other.is_closed():
            limits_by_loop.pop(other, None)
    kind = AsyncioLimits if clock.patrol < math.inf else _TidyLimits
    limits = limits_by_loop[loop] = kind(loop)
    return limits


_left: set[asyncio.Task[None]] = set()
"""Tasks that outlived their race; a loop alone would let them be collected."""


def _keep(tasks: list[asyncio.Task[None]]) -> None:
    """Keep tasks until they have ended, or their loop is closed."""
    _left.update(tasks)
    for task in tuple(_left):
        if task.get_loop().is_closed():
            _left.discard(task)


class AsyncioRace:
    """Tasks, kept until they have ended.

    Not a `TaskGroup`: the winner of a race waits for a loser that ignores its
    cancellation only so long.
    """

    __slots__ = ("_loop", "_tasks", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: dict[asyncio.Task[None], Racer] = {}
        self._waiter = AsyncioWaiter(loop)

    def start(self, racer: Racer) -> bool:
        task = _start(self._loop, racer.run, racer.name)
        self._tasks[task] = racer
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        racer = self._tasks.pop(task)
        if task.cancelled():
            # NB: before its first step; it never ran at all.
            racer.ended(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            # Ctrl-C in its first step, or its last.
            racer.ended(error)
        _left.discard(task)
        self._waiter.wake()

    def wake(self) -> None:
        self._waiter.wake()

    def wait(self, until: float | None) -> Coroutine[Any, Any, bool]:
        # NB: not for ever: Ctrl-C may have kept a task from waking this.
        look = clock.now() + clock.patrol
        if until is None and look < math.inf:
            until = look
        return ASYNCIO.park(self._waiter, until)

    def cleanup(self, racer: Racer) -> AbstractContextManager[object]:
        # A cancellation is delivered once.
        return nullcontext()

    async def leave(self, grace: float, *, unwinding: bool) -> None:
        if not self._running():
            return
        self._cancel(settled=False)
        until = None if unwinding else clock.now() + grace
        cancelled: asyncio.CancelledError | None = None
        try:
            while self._running():
                try:
                    if not await self.wait(until) and until is not None:
                        break
                except asyncio.CancelledError as again:
                    # Passed on, as if the work were awaited here; and as a
                    # plain await would, this now waits without limit.
                    self._cancel(settled=until is None)
                    cancelled, until = again, None
            if cancelled is not None:
                raise cancelled
        finally:
            _keep(self._running())
            del cancelled

    def abandon(self) -> None:
        self._cancel(settled=False)
        _keep(self._running())

    def _running(self) -> list[asyncio.Task[None]]:
        return [task for task in self._tasks if not task.done()]

    def _cancel(self, *, settled: bool) -> None:
        for task in self._running():
            if settled or not self._tasks[task].settled:
                try:
                    task.cancel()
                except RecursionError:
                    raise
                except RuntimeError:
                    # Closed by the collector, after its loop.
                    pass


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a timeout needs a task to interrupt, and none runs here")
    return task


ASYNCIO = AsyncioRuntime()
