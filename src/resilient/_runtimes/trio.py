"""The trio runtime; this module is imported when trio is seen running.

Limits are trio's own cancel scopes. Answer and timeout in the same tick: the
answer wins, as on asyncio, with one difference. trio does not say whether a
cancellation was ever delivered, so a value that comes back after the scope was
cancelled is taken as an answer that had already arrived when it comes within
`SAME_TICK`, and as a swallowed cancellation later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal

import trio

from resilient._errors.chains import error_chain, leaves
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

SAME_TICK = 0.005
"""Seconds: longer than a scheduler pass, shorter than any cleanup with I/O."""


class TrioRuntime:
    """See `resilient._runtimes.runtime`."""

    __slots__ = ()
    name: Literal["trio"] = "trio"

    async def sleep(self, seconds: float) -> None:
        await pause()
        if clock.skip is not None:
            clock.skip(seconds)
            seconds = 0
        await trio.sleep(seconds)

    def waiter(self, call: Caller) -> TrioWaiter:
        return TrioWaiter()

    async def park(self, waiter: TrioWaiter, until: float | None) -> bool:
        await pause()
        seconds = math.inf if until is None else max(0.0, until - clock.now())
        return await waiter.wait(seconds)

    def limit(
        self,
        call: Caller,
        limits_by_loop: dict[Any, Any] | None,
        seconds: float,
        deadline: float,
    ) -> TrioLimit:
        return TrioLimit(call, seconds)

    def is_cancellation(self, error: BaseException) -> bool:
        return all_are(trio.Cancelled, error)

    def is_cut(self, calls: Sequence[Caller], error: BaseException) -> bool:
        if not self.is_cancellation(error):
            return False
        outermost: TrioLimit | None = None
        for call in calls:
            limit: TrioLimit | None = call.task
            while limit is not None:
                if limit.struck():
                    outermost = limit
                limit = limit.outer
        return outermost is not None and not outermost.is_cancelled_around()

    async def race(self, call: Caller) -> TrioRace:
        race = TrioRace(trio.open_nursery())
        # NB: last; what Ctrl-C kept from here on would leave a nursery open.
        race.nursery = await race.manager.__aenter__()
        return race

    def task_or_thread(self) -> object:
        return trio.lowlevel.current_task()

    def owner(self) -> trio.lowlevel.TrioToken:
        return trio.lowlevel.current_trio_token()

    def spawn(
        self,
        name: str,
        body: Callable[[], Coroutine[Any, Any, None]],
        last: Callable[[], None],
        *,
        eager: bool = False,
    ) -> TrioTask:
        background = TrioTask()
        # NB: a system task, for no nursery here lasts as long as it may have
        # to; the one that waits for it sees to it that it ends.
        background.task = trio.lowlevel.spawn_system_task(
            background.run, body, last, name=name, context=copy_context()
        )
        return background


class TrioWaiter(ForkAware):
    """An event that is made anew for each wait."""

    __slots__ = ("event", "token")

    def __init__(self) -> None:
        super().__init__()
        self.token = trio.lowlevel.current_trio_token()
        self.event = trio.Event()

    async def wait(self, seconds: float) -> bool:
        """Wait to be woken; return whether it was, in so many seconds."""
        event = self.event
        try:
            with trio.move_on_after(seconds):
                await event.wait()
        finally:
            # NB: in any case. Ctrl-C in a frame of ours, as the wait is handed to
            # trio, leaves this task among those that the event would wake.
            self.event = trio.Event()
        # NB: woken and out of time at once is woken: what was granted with the
        # wake is held already.
        return event.is_set()

    def wake(self) -> bool:
        if self.is_copy():
            return False
        lowlevel = trio.lowlevel
        if lowlevel.in_trio_run() and lowlevel.current_trio_token() is self.token:
            self._wake()
            return True
        try:
            self.token.run_sync_soon(self._wake)
        except trio.RunFinishedError:
            return False
        return True

    def is_gone(self) -> bool:
        if self.is_copy():
            return True
        try:
            self.token.run_sync_soon(_nothing, idempotent=True)
        except trio.RunFinishedError:
            return True
        return False

    def _wake(self) -> None:
        self.event.set()


def _nothing() -> None:
    """What a run is given to do to see whether it goes on."""


class TrioTask:
    """A system task and the scope that it runs in."""

    __slots__ = ("over", "scope", "task", "token", "waiters")

    def __init__(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        self.task: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope()
        self.over = False
        # Of those that wait for its end.
        self.waiters: list[TrioWaiter] = []

    async def run(
        self, body: Callable[[], Coroutine[Any, Any, None]], last: Callable[[], None]
    ) -> None:
        try:
            with self.scope:
                await body()
        finally:
            self.over = True
            for waiter in self.waiters:
                waiter.wake()
            last()

    def cancel(self) -> None:
        lowlevel = trio.lowlevel
        if lowlevel.in_trio_run() and lowlevel.current_trio_token() is self.token:
            self.scope.cancel()
            return
        try:
            self.token.run_sync_soon(self.scope.cancel)
        except trio.RunFinishedError:
            # The run is over, and everything in it.
            pass

    async def ended(self) -> None:
        waiter = TrioWaiter()
        self.waiters.append(waiter)
        with trio.CancelScope(shield=True):
            while not self.has_ended:
                await waiter.wait(clock.patrol)

    @property
    def has_ended(self) -> bool:
        # NB: one that is killed before its first step sets nothing.
        killed = self.task is not None and self.task.coro.cr_frame is None
        return killed or self.over


class TrioLimit:
    """A cancel scope that is entered and left by hand.

    A call's limits in force are found from its ``task``, innermost first.
    """

    __slots__ = ("deadline", "left", "outer", "scope")

    def __init__(self, call: Caller, seconds: float) -> None:
        # Whether the scope was left: who is interrupted leaves it once more.
        self.left = False
        self.outer: TrioLimit | None = call.task
        call.task = self
        self.deadline = trio.current_time() + seconds
        self.scope = trio.CancelScope(deadline=self.deadline)
        self.scope.__enter__()

    def struck(self) -> bool:
        """Whether the scheduler has cancelled it, as opposed to the clock."""
        scope, self.scope.deadline = self.scope, math.inf
        try:
            return scope.cancel_called
        finally:
            scope.deadline = self.deadline

    def is_cancelled_around(self) -> bool:
        """Whether a scope further out was cancelled as well."""
        status = self.scope._cancel_status  # pyright: ignore[reportPrivateUsage]  # nothing public tells
        return status is not None and status.parent_cancellation_is_visible_to_us

    def leave(self, call: Caller, error: BaseException | None) -> End:
        call.task = self.outer
        if self.left:
            return IN_TIME
        if isinstance(error, GeneratorExit) and not trio.lowlevel.in_trio_task():
            # Closed by the collector, after the run: there is nothing to leave.
            return IN_TIME
        scope = self.scope
        # NB: `cancel_called` compares the deadline with the clock when it is
        # read; without one it says what the scheduler has really done.
        scope.deadline = math.inf
        let_pass = BOTH if scope.cancel_called else IN_TIME
        if error is None or isinstance(error, Exception):
            scope.__exit__(None, None, None)
            self.left = True
            delivered = let_pass is BOTH and self._was_delivered(error)
            return CUT if delivered else let_pass
        try:
            dealt_with = scope.__exit__(type(error), error, error.__traceback__)
            self.left = True
            return CUT if dealt_with else let_pass
        except BaseExceptionGroup as rest:
            self.left = True
            # The scope took its own cancellations out of the group. What is
            # left may be an outer cancellation, or KeyboardInterrupt.
            if isinstance(rest, Exception):
                return CUT
            raise
        except RecursionError:
            raise
        except RuntimeError:
            # Closed in another task, whose stack of scopes is not ours.
            if isinstance(error, GeneratorExit):
                return let_pass
            raise

    def _was_delivered(self, error: Exception | None) -> bool:
        """Whether what ended the call came after its cancellation."""
        causes = () if error is None else error_chain(error)
        if any(isinstance(cause, trio.Cancelled) for cause in causes):
            return True
        return trio.current_time() - self.deadline > SAME_TICK


class TrioRace:
    """A nursery that is entered and left by hand.

    Its tasks raise nothing but what Ctrl-C raises in their first step or their last.

    Attributes:
        manager: The nursery's; None once it is being left.
        nursery: Where the tasks run.
    """

    __slots__ = ("_grace", "_racers", "_waiter", "manager", "nursery")

    nursery: trio.Nursery

    def __init__(self, manager: Any) -> None:
        self.manager: Any = manager
        self._grace = math.inf
        self._racers: dict[Racer, trio.CancelScope] = {}
        self._waiter = TrioWaiter()

    @trio.lowlevel.enable_ki_protection
    def start(self, racer: Racer) -> bool:
        # NB: shielded from Ctrl-C, as `start_soon` itself is not: a task that was
        # half started is waited for without end.
        self._racers[racer] = trio.CancelScope()
        self.nursery.start_soon(self._run, racer, name=racer.name)
        return True

    async def _run(self, racer: Racer) -> None:
        try:
            with self._racers[racer]:
                await racer.run()
        finally:
            del self._racers[racer]
            self.wake()

    def wake(self) -> None:
        self._waiter.wake()

    def wait(self, until: float | None) -> Coroutine[Any, Any, bool]:
        return TRIO.park(self._waiter, until)

    def cleanup(self, racer: Racer) -> trio.CancelScope:
        # NB: its own scope may be cancelled, which ends every wait inside.
        scope = trio.CancelScope(shield=True)
        scope.deadline = trio.current_time() + self._grace
        self._racers[racer] = scope
        return scope

    async def leave(self, grace: float, *, unwinding: bool) -> None:
        self._grace = grace
        for racer, scope in self._racers.items():
            if racer.settled:
                scope.deadline = trio.current_time() + grace
            else:
                scope.cancel()
        # NB: trio's own wait for its tasks must not be broken off, which Ctrl-C in a
        # frame of ours does as the wait is handed over: the nursery would be lost.
        while self.nursery.child_tasks:
            with trio.CancelScope(shield=True):
                await self._waiter.wait(clock.patrol)
        # NB: once; what Ctrl-C keeps from it does it again.
        manager, self.manager = self.manager, None
        if manager is None:
            return
        interrupt: BaseException | None = None
        # NB: without the error that unwinds, which would come out wrapped in a group.
        try:
            await manager.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            interrupt = next(leaves(group))
        try:
            if interrupt is not None:
                raise interrupt
        finally:
            del interrupt

    def abandon(self) -> None:
        # The nursery stays open: closing a coroutine inside one breaks
        # trio's rules, or comes after the end of the run.
        self.nursery.cancel_scope.cancel()


TRIO = TrioRuntime()
