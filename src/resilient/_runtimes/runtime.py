"""Runtimes: the only code that waits.

Four of them – asyncio, trio, sync, simulated – offer the same verbs, so that a policy
is written once, as a coroutine. In the sync runtime no verb ever suspends: the
same coroutine runs to its end under plain ``send(None)``.

============== ============================================================
sleep          let time pass
waiter         make something that another task or thread can wake
park           wait until it is woken, or until a moment
limit          interrupt what runs in this task after so many seconds
is_cut         tell such an interruption from any other cancellation
race           run several pieces of work at once, each in a task or thread
task_or_thread tell which task or thread this is
owner          tell which event loop, or process, this is
spawn          run something in a task of its own (asyncio and trio)
============== ============================================================

`sleep` and `park` of an async runtime begin with a `pause`: the driver of the
policies goes on at once, but need not. The plain ``with`` of an attempt stops
there, so that no wait, and no scope of one, is open while the caller's own
code runs on to the next attempt.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Coroutine, Generator, Hashable, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, ParamSpec, Protocol, TypeVar

from resilient._errors.chains import leaves

P = ParamSpec("P")
T = TypeVar("T")


class Sentinel:
    """A unique object with a name: one for each name, and its own copy."""

    __slots__ = ("name",)

    name: str

    def __new__(cls, name: str) -> Sentinel:
        sentinel = _sentinels.get(name)
        if sentinel is None:
            sentinel = _sentinels[name] = super().__new__(cls)
            sentinel.name = name
        return sentinel

    def __reduce__(self) -> tuple[type[Sentinel], tuple[str]]:
        return Sentinel, (self.name,)

    def __repr__(self) -> str:
        return self.name


_sentinels: dict[str, Sentinel] = {}

PAUSE = Sentinel("PAUSE")
"""What a `pause` yields: a wait is about to begin; send me None."""


@types.coroutine
def pause() -> Generator[object, None, None]:
    """Let the driver choose the moment in which a wait begins."""
    yield PAUSE


@types.coroutine
def unpaused(
    verb: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
) -> Generator[object, Any, T]:
    """Do a wait of a runtime's where no policies are driven.

    Args:
        verb: `Runtime.sleep` or `Runtime.park`.
        args: What it is called with.
        kwargs: Likewise.
    """
    # NB: called here. Ctrl-C on the way in would leave it un-awaited.
    wait = verb(*args, **kwargs)
    wait.send(None)
    # NB: what has begun cannot be awaited, but its iterator goes on.
    return (yield from wait.__await__())


class Caller(Protocol):
    """What a runtime needs of the call that waits."""

    name: str
    task: Any


class Waiter(Protocol):
    """Something to wait on, in one task or thread, that any other can wake."""

    def wake(self) -> bool:
        """Wake it, from any thread; a wake before the wait is not lost.

        Returns:
            False if nothing will ever wait there again: its loop is gone, or
            it was left behind in the process that this one was forked from.
        """
        ...

    def is_gone(self) -> bool:
        """Whether `wake` would return False; asked from any thread."""
        ...


def wake_all(waiters: Sequence[Waiter]) -> list[bool]:
    """Wake several, from any thread; return for each whether a call waits there.

    Those of one loop are woken by one call into it: a call wakes the loop's
    thread by a byte through a socket, which takes longer than all else.
    """
    if len(waiters) < 2:
        return [waiter.wake() for waiter in waiters]
    groups: dict[object, list[Waiter]] = {}
    for waiter in waiters:
        groups.setdefault(getattr(waiter, "loop", waiter), []).append(waiter)
    woken: dict[Waiter, bool] = {}
    for group in groups.values():
        first: Any = group[0]
        known: bool = first.wake_with(group) if len(group) > 1 else first.wake()
        woken.update(dict.fromkeys(group, known))
    return [woken[waiter] for waiter in waiters]


class ForkAware:
    """Something of the process that it was made in.

    A forked child has a copy of it, but not of the thread that it belongs to.
    """

    __slots__ = ("_process",)

    def __init__(self) -> None:
        self._process = os.getpid()

    def is_copy(self) -> bool:
        """Whether this is a forked child's copy."""
        return os.getpid() != self._process


class End(Enum):
    """How a stretch that had a limit in time came to its end.

    ======= ==============================================================
    IN_TIME its time was not up, or nothing could look at the clock
    BOTH    its time was up, and noticed, but it was not, or not only, this
            that ended it: what it has to say had arrived in that moment,
            or something else interrupted it as well
    CUT     this limit interrupted it, and nothing else did
    ======= ==============================================================
    """

    IN_TIME = "in time"
    BOTH = "tied"
    CUT = "cut"


IN_TIME, BOTH, CUT = End.IN_TIME, End.BOTH, End.CUT


class TimeLimit(Protocol):
    """A limit in force; perhaps one for many calls."""

    def leave(self, call: Caller, error: BaseException | None) -> End:
        """End the limit of a call; to be called once, in every way out.

        Args:
            call: The call that is limited.
            error: What unwinds through it, None on an ordinary end.

        Returns:
            How it ended. CUT: `error` has been dealt with; else let it go on.
        """
        ...


def all_are(kind: type[BaseException], error: BaseException) -> bool:
    """Whether an error, or each in a group, is of a kind."""
    return all(isinstance(part, kind) for part in leaves(error))


class Racer(Protocol):
    """A piece of work for a `Race`."""

    name: str

    @property
    def settled(self) -> bool:
        """Whether its result is known: it is not interrupted any more."""
        ...

    async def run(self) -> None:
        """Do it. It waits through the runtime only, and raises nothing."""
        ...

    def ended(self, error: BaseException) -> None:
        """Learn what it was stopped with before it began."""
        ...


class Race(Protocol):
    """Work under way in tasks or threads of its own.

    It belongs to the task or thread that began it, which must `leave`
    or `abandon` it in every way out.
    """

    def start(self, racer: Racer) -> bool:
        """Let a piece of work begin; it carries a copy of the context here.

        Returns:
            False if it cannot: there is no thread left for it.
        """
        ...

    def wake(self) -> None:
        """End the `wait`, from any of the work or its threads."""
        ...

    def wait(self, until: float | None) -> Coroutine[Any, Any, bool]:
        """Wait to be woken; return whether it was, before that moment."""
        ...

    def cleanup(self, racer: Racer) -> AbstractContextManager[object]:
        """Let a settled piece of work clean up, though it was interrupted."""
        ...

    async def leave(self, grace: float, *, unwinding: bool) -> None:
        """Interrupt what is not settled, and see to its end.

        ======== ========================== ==========================
        runtime  waits for what is running  and for what cleans up
        ======== ========================== ==========================
        asyncio  at most `grace`; where     the same
                 it unwinds, to its end
        trio     to its end                 at most `grace`
        sync     not at all: a thread       not at all
                 cannot be interrupted
        ======== ========================== ==========================

        Args:
            grace: Seconds.
            unwinding: Whether there is no answer that would have to wait.
        """
        ...

    def abandon(self) -> None:
        """Interrupt what is not settled, where there is no room to wait."""
        ...


class Runtime(Protocol):
    """The verbs; see the module's table."""

    @property
    def name(self) -> str: ...

    async def sleep(self, seconds: float) -> None:
        """Let `seconds` (>= 0) pass; 0 still lets others run."""
        ...

    def waiter(self, call: Caller) -> Waiter: ...

    async def park(self, waiter: Any, until: float | None) -> bool:
        """Wait for `waiter`; return whether it was woken in time."""
        ...

    def limit(
        self,
        call: Caller,
        limits_by_loop: dict[Any, Any] | None,
        seconds: float,
        deadline: float,
    ) -> TimeLimit:
        """Interrupt this task in `seconds`, unless `leave` comes first.

        Args:
            call: The call that is limited.
            limits_by_loop: A dictionary that the policy keeps for its limits: the
                runtime stores there what calls of one duration share. None:
                a limit that shares nothing.
            seconds: The same number for one `limits_by_loop`, always.
            deadline: When that will be, on the clock of `time.monotonic`.
        """
        ...

    def is_cancellation(self, error: BaseException) -> bool:
        """Whether it is what a cancellation of a task is, alone or in a group."""
        ...

    def is_cut(self, calls: Sequence[Caller], error: BaseException) -> bool:
        """Whether limits of calls interrupt this task, and nothing else does.

        Args:
            calls: A call that unwinds, and those around it, innermost first.
            error: What unwinds.
        """
        ...

    async def race(self, call: Caller) -> Race:
        """Begin a race in this task or thread; it must be left."""
        ...

    def task_or_thread(self) -> object:
        """Return the current task or thread: compared by identity."""
        ...

    def owner(self) -> Hashable:
        """Return the event loop that runs here; without one, the process."""
        ...


class BackgroundTask(Protocol):
    """Something that runs in a task of its own."""

    @property
    def has_ended(self) -> bool:
        """Whether it has, and perhaps could not say so."""
        ...

    def cancel(self) -> None:
        """Cancel it, from any thread."""
        ...

    async def ended(self) -> None:
        """Wait until it has ended, come what may: it was cancelled before.

        A cancellation meanwhile is raised afterwards.
        """
        ...


class AsyncRuntime(Runtime, Protocol):
    """A runtime that has tasks."""

    def spawn(
        self,
        name: str,
        body: Callable[[], Coroutine[Any, Any, None]],
        last: Callable[[], None],
        *,
        eager: bool = False,
    ) -> BackgroundTask:
        """Run ``body()`` in a new task, in a copy of this context.

        Args:
            name: Name of the task.
            body: It raises nothing. It may never begin: who is cancelled
                before does not.
            last: Called when the task has ended, whether or not it began.
            eager: Whether it may run to its first wait, or its end, before this
                returns, where the event loop can do so: a turn of it is saved.
        """
        ...
