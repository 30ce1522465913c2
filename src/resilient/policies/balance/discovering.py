"""Find the endpoints of a `Balance` anew: by a call of it, or beside the calls.

Ground rules:

* `_machines.refresh` decides when, and which caller does it. A call that is to do it
  waits for it no longer than `PATIENCE`, if there is a list; the others go on.
  Where there is none yet, all wait, within their deadlines.
* A plain function runs in a thread, which delivers what it has found by itself:
  one that hangs keeps no caller longer than that. A coroutine function runs in
  the task of the call; when that is cancelled, the next call finds the list.
* The endpoints are changed before the list counts as found, so that no call
  meets a set that is still empty. The owner's lock is not held together with
  the one here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Protocol

from resilient._calls.call import Call, overdue
from resilient._calls.outcome import Outcome
from resilient._errors.copies import copy_error
from resilient._machines.refresh import GAP, Refresh
from resilient._runtimes import clock
from resilient._runtimes.runtime import pause, wake_all
from resilient._runtimes.sync import SYNC, SyncWaiter
from resilient._values.locks import Lock

if TYPE_CHECKING:
    from resilient._runtimes.runtime import Waiter
    from resilient.policies.balance.endpoints import Endpoint
    from resilient.policies.balance.sources import Answer, Source

__all__ = ["Discovery", "Stop"]

PATIENCE: Final = 1.0
"""Seconds that a call waits for a new list while there is an old one."""

_EVERY: Final = 10.0
"""Seconds between two questions where neither source nor answer says."""


class Stop(Protocol):
    """What ends `Balance.run_sync`: a `threading.Event`, for one."""

    def wait(self, timeout: float | None = None) -> object:
        """Wait for at most so many seconds; return whether it is set."""
        ...


class _Waiting:
    """A call that finds the list, or waits until another one has.

    Attributes:
        waiter: Wakes it; None: it does not wait.
        error: Why there is no list.
        over: Whether it was woken for good.
        begun: Whether it is this one that has to find the list.
        started: Whether a thread does so for it, which goes on without it.
        thread: The thread of the call.
    """

    __slots__ = ("begun", "error", "over", "started", "thread", "waiter")

    def __init__(self) -> None:
        self.waiter: Waiter | None = None
        self.error: Exception | None = None
        self.over = self.begun = self.started = False
        self.thread: int = get_ident()


class Discovery:
    """The list of endpoints of one balance; see the module.

    Args:
        source: Where it is found.
        check: Returns endpoints by their addresses, or raises.
        take: Has these endpoints from now on, and no others.
        tell: Tells listeners why there is no new list, and how old the one is
            that there is; None: there is none.
        refuse: Refuses a call, for there is no list yet and it is too soon to
            ask again: in how many seconds, and why it was not found.
    """

    __slots__ = (
        "_check",
        "_lock",
        "_reason",
        "_refresh",
        "_refuse",
        "_runners",
        "_take",
        "_tell",
        "_waiting",
        "source",
    )

    def __init__(
        self,
        source: Source[Any],
        check: Callable[[Iterable[Any]], dict[Any, Endpoint[Any]]],
        take: Callable[[dict[Any, Endpoint[Any]]], None],
        tell: Callable[[str, float | None], None],
        refuse: Callable[[Call, float, str], Outcome],
    ) -> None:
        self.source: Source[Any] = source
        self._check = check
        self._take = take
        self._tell = tell
        self._refuse = refuse
        self._lock = Lock()
        self._refresh = Refresh(keeps=source.keeps)
        self._waiting: list[_Waiting] = []
        self._runners = 0
        # Why it was not found the last time.
        self._reason = ""

    @property
    def is_due(self) -> bool:
        """Whether a call has to `follow` before it may choose."""
        refresh = self._refresh
        if self._runners and refresh.found_at is not None:
            return False
        return clock.now() >= refresh.due or refresh.found_at is None

    def status(self) -> dict[str, Any]:
        """Return what `health` and the metrics show of it."""
        refresh = self._refresh
        return {
            "discovery.age": self._age(),
            "discovery.refreshes": {
                "success": refresh.succeeded,
                "failure": refresh.failed,
                "empty": refresh.empty,
            },
        }

    def hurry(self) -> None:
        """Find the list again soon: an endpoint of it cannot be connected to."""
        self._lock.run(self._refresh.hurry, clock.now())

    # -- By a call

    async def follow(self, call: Call) -> Outcome | None:
        """Find the list if a call has to, or wait for it.

        Returns:
            What the call ends with, where there is no list; None: it goes on.

        Raises:
            TypeError: A coroutine function would have to be run by a plain call.
        """
        waiting = _Waiting()
        here = self.source.is_async
        if here and call.runtime is SYNC and self._refresh.found_at is not None:
            return None
        # NB: where the stack is not deep enough to leave, nothing is begun.
        self._leave(waiting)
        try:
            while True:
                now = clock.now()
                outcome = overdue(call, now)
                if outcome is not None:
                    return None if self._refresh.found_at is not None else outcome
                if here and call.runtime is SYNC and not self._runners:
                    raise TypeError(
                        f"{self.source!r} has a coroutine function, which a plain call"
                        " cannot wait for: run `Balance.run()` in an event loop, or"
                        " give it a plain function"
                    )
                if call.runtime is SYNC and not here:
                    # NB: what it waits for needs no event loop of this thread's.
                    waiting.waiter = SyncWaiter()
                else:
                    waiting.waiter = call.runtime.waiter(call)
                until = self._lock.run(self._enter_locked, waiting, now, call)
                if until is None:
                    return None
                if until == -math.inf:
                    wait = max(0.0, self._refresh.due - now)
                    return self._refuse(call, wait, self._reason)
                if waiting.begun and here:
                    await pause()
                    await self._find_here(until - now)
                elif waiting.begun:
                    self._find_in_thread(waiting)
                if not waiting.over:
                    limit = None if until == math.inf else until
                    await call.runtime.park(waiting.waiter, limit)
                if waiting.error is not None:
                    return Outcome(None, waiting.error)
                if not waiting.over and self._refresh.found_at is not None:
                    # It takes too long: the old list will do.
                    return None
                waiting.over = waiting.begun = False
        finally:
            self._leave(waiting)

    def _enter_locked(self, waiting: _Waiting, now: float, call: Call) -> float | None:
        """Decide what a call does; return until when it waits.

        Returns:
            None: it need not wait. Minus infinity: there is no list, and it
            is too soon to ask again.
        """
        refresh, here = self._refresh, self.source.is_async
        has_list = refresh.found_at is not None
        if has_list and (self._runners or now < refresh.due):
            return None
        if not has_list and refresh.failures and now < refresh.due:
            return -math.inf
        if waiting in self._waiting:
            # NB: it was woken by nothing, to look around.
            self._waiting.remove(waiting)
        if not refresh.holds(waiting):
            waiting.started = False
        for each in self._waiting:
            if not (each.started or here) and each.thread == waiting.thread:
                # NB: a signal handler calls: what it interrupts cannot go on.
                refresh.cancel(each)
        waiting.begun = not (self._runners and here) and refresh.begin(now, waiting)
        if has_list and not waiting.begun:
            return None
        self._waiting.append(waiting)
        # NB: where a `run` is to find it, nothing may be under way yet.
        until = now + PATIENCE if has_list else max(now + GAP, refresh.busy_until)
        return until if call.deadline is None else min(until, call.deadline)

    def _leave(self, waiting: _Waiting) -> None:
        left = self._lock.run(self._leave_locked, waiting)
        self._wake(left)

    def _leave_locked(self, waiting: _Waiting) -> list[_Waiting]:
        """Let a call go; return those that may take its place."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        # NB: by a Ctrl-C a call may leave before its thread was started.
        return [] if waiting.started else self._cancel_locked(waiting)

    def _cancel(self, token: object) -> None:
        self._wake(self._lock.run(self._cancel_locked, token))

    def _cancel_locked(self, token: object) -> list[_Waiting]:
        return self._let_go_locked() if self._refresh.cancel(token) else []

    def _let_go_locked(self) -> list[_Waiting]:
        """Return those that wait, to be woken."""
        waiting, self._waiting = self._waiting, []
        return waiting

    async def _find_here(self, seconds: float) -> None:
        """Find it in the task that runs here."""
        from anyio import fail_after

        try:
            with fail_after(None if seconds == math.inf else seconds):
                answer = await self.source.afind()
            self._found(answer)
        except Exception as error:
            self._failed(error)

    def _find_in_thread(self, waiting: _Waiting) -> None:
        started = clock.thread_or_error(
            lambda: self._find(waiting), "resilient discovery"
        )
        if isinstance(started, RuntimeError):
            self._failed(started)
        else:
            waiting.started = True

    def _find(self, token: object) -> None:
        """Find it on this thread; what comes later than the lease is dropped."""
        try:
            answer = self.source.find()
            if self._refresh.holds(token):
                self._found(answer)
        except Exception as error:
            if self._refresh.holds(token):
                self._failed(error)

    # -- Beside the calls

    def refresh(self) -> None:
        """Find the list now, on this thread.

        Raises:
            TypeError: A coroutine function would have to be awaited.
            Exception: What the source raises.
        """
        if self.source.is_async:
            raise TypeError(
                f"{self.source!r} has a coroutine function: use `await arefresh()`"
            )
        token = object()
        try:
            self._lock.run(self._refresh.begin, clock.now(), token)
            try:
                self._found(self.source.find())
            except Exception as error:
                self._failed(error)
                raise
        finally:
            self._cancel(token)

    async def arefresh(self) -> None:
        """Find the list now, in this task.

        Raises:
            Exception: What the source raises.
        """
        from anyio.to_thread import run_sync

        token = object()
        try:
            self._lock.run(self._refresh.begin, clock.now(), token)
            try:
                if self.source.is_async:
                    answer = await self.source.afind()
                else:
                    answer = await run_sync(self.source.find, abandon_on_cancel=True)
                self._found(answer)
            except Exception as error:
                self._failed(error)
                raise
        finally:
            self._cancel(token)

    async def run(self) -> None:
        """Find the list whenever it is due, until cancelled."""
        from anyio import sleep

        with self.running():
            while True:
                if self._refresh.is_due(clock.now()):
                    try:
                        await self.arefresh()
                    except Exception:
                        # Told, and tried again.
                        pass
                await sleep(self._pause())

    def look(self) -> float:
        """Find the list if it is due; return in how many seconds to look again.

        NB: in a thread, so that a resolver which hangs keeps none from stopping.
        """
        waiting = _Waiting()
        try:
            if self._refresh.is_due(clock.now()) and self._lock.run(
                self._refresh.begin, clock.now(), waiting
            ):
                self._find_in_thread(waiting)
        finally:
            self._leave(waiting)
        return self._pause()

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """Have calls leave it to the block to find the list anew."""
        self._runners += 1
        try:
            yield
        finally:
            self._runners -= 1

    def _pause(self) -> float:
        """Return the seconds until it is time to look again.

        NB: `GAP` at most, for a connection that fails may have it due sooner.
        """
        return min(GAP, max(0.0, self._refresh.due - clock.now()) or GAP)

    # -- How it went

    def _found(self, answer: Answer) -> None:
        """Have the endpoints of an answer.

        Raises:
            TypeError, ValueError: They are none.
        """
        endpoints = self._check(answer.endpoints)
        every = self.source.every
        if every is None:
            every = answer.seconds or _EVERY
        if self._refresh.believes(len(endpoints)):
            self._take(endpoints)
        else:
            self._tell_of("empty answer")
        size = len(endpoints)
        self._wake(self._lock.run(self._succeed_locked, clock.now(), size, every))

    def _succeed_locked(self, now: float, size: int, every: float) -> list[_Waiting]:
        self._refresh.succeed(now, size, every)
        return self._let_go_locked()

    def _failed(self, error: Exception) -> None:
        self._tell_of(type(error).__name__)
        waiting = self._lock.run(self._fail_locked, clock.now())
        if self._refresh.found_at is None:
            # NB: each has an object of its own, and the first one the original.
            own: Exception | None = error
            for each in waiting:
                each.error, own = own or error, copy_error(error)
        self._wake(waiting)

    def _fail_locked(self, now: float) -> list[_Waiting]:
        every = self.source.every
        self._refresh.fail(now, _EVERY if every is None else every)
        return self._let_go_locked()

    def _wake(self, waiting: list[_Waiting]) -> None:
        for each in waiting:
            each.over = True
        wake_all([each.waiter for each in waiting if each.waiter is not None])

    def _tell_of(self, reason: str) -> None:
        self._reason = reason
        self._tell(reason, self._age())

    def _age(self) -> float | None:
        found_at = self._refresh.found_at
        return None if found_at is None else max(0.0, clock.now() - found_at)
