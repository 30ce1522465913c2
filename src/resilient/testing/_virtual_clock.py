"""Virtual time, and the threads that live in it.

Ground rules:

- Time stands still while anything runs, and jumps to the next scheduled moment
  when nothing does: to exactly that float, so that ``sleep(0.1)`` from 0.3 ends
  at ``0.3 + 0.1``.
- A thread that sleeps or waits through the library is known: it cannot run
  until time has come or its gate is open.
- A thread that the library started (`Timeout(abandon=True)`) is known to run
  until it ends. The clock does not jump meanwhile, however long that takes in
  real time.
- Of any other thread it is not known whether it will ever come back. It gets
  `GRACE` of real time after each thing that happens, then the clock jumps.
- With an event loop (`looped`), the loop alone makes time jump, and it knows
  its own worker threads. Otherwise the waiting thread does.

====================== ======== =============== ==========================
a thread of            runs     sleeps or waits is elsewhere (join, I/O)
====================== ======== =============== ==========================
the owner of the clock no jump  jump            grace, jump
the library            no jump  jump            no jump
any other              grace    jump            grace, jump
====================== ======== =============== ==========================

Not modelled: other processes and machines. What they do takes no time at all
on this clock, however long one waits for them.
"""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable, Collection, Iterable

import attrs

from resilient._runtimes import clock
from resilient._runtimes.clock import real_now
from resilient._values.checks import seconds as check_seconds
from resilient._values.locks import Lock
from resilient.testing import _stacks

GRACE = 0.2
"""Real seconds in which a thread that is not the library's may come back: some
thousand times what a thread takes to be scheduled on an idle machine, so that
a busy one does not make time jump. Only who blocks elsewhere waits for it."""

PATIENCE = 2.0
"""Real seconds without any event, while something outside of the clock's sight
(a socket, a thread) could still bring one, until that is called a dead-lock."""

SLICE = 0.001
"""Real seconds between two looks at what cannot notify: a gate, a thread."""

_REPLACED = ("now", "sleep", "wait", "start_thread", "random", "skip", "patrol")


class VirtualTimeError(RuntimeError):
    """Virtual time cannot go on, or cannot begin.

    Nothing can run and nothing is scheduled, so that the code would wait for
    ever: the text says who waits, and where. Or virtual time was asked for
    where it cannot work: inside other virtual time, or on the wrong side of an
    event loop.
    """


VirtualTimeError.__module__ = "resilient.testing"


class Jump(enum.Enum):
    """The result of an attempt to jump to the next scheduled moment."""

    MOVED = enum.auto()
    BUSY = enum.auto()
    """Something runs, or is about to: try again."""
    STUCK = enum.auto()
    """Nothing runs and nothing is scheduled."""


@attrs.define(eq=False)
class _Waiter:
    """A thread that sleeps (no gate) or waits, until `when` at the latest."""

    thread: threading.Thread
    when: float
    gate: threading.Lock | None
    error: str | None = None

    def is_due(self, now: float) -> bool:
        opened = self.gate is not None and not self.gate.locked()
        return opened or self.when <= now or self.error is not None


class VirtualClock:
    """A clock that starts at 0.0 seconds and moves only when nothing runs.

    Made by `virtual_time`. May be used from any thread.
    """

    def __init__(self, seed: int, *, looped: bool = False) -> None:
        # NB: `random` is imported where time does not matter, see `_runtimes.clock`.
        from random import Random

        self.random: Callable[[], float] = Random(seed).random
        self._looped = looped
        self._now = 0.0
        self._owner = threading.current_thread()
        self._bystanders: set[threading.Thread] = set()
        self._real: dict[str, object] = {}
        # Guards everything below; notified whenever any of it changes.
        self._changed = threading.Condition()
        self._installed = False
        self._waiters: list[_Waiter] = []
        self._workers: set[threading.Thread] = set()
        self._guests: set[threading.Thread] = set()
        self._given_up: set[threading.Thread] = set()
        self._pool: set[int] = set()
        self._quiet_since = real_now()

    def __repr__(self) -> str:
        return f"<VirtualClock at {self._now} s>"

    def now(self) -> float:
        """Return the virtual seconds since the clock was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, as if the calling thread slept.

        Whatever is scheduled in between happens in its order, each thing at
        its own time; afterwards `now` has moved by exactly `seconds`.

        Args:
            seconds: How far to go, >= 0; a `timedelta` is taken as well.

        Raises:
            TypeError: `seconds` is no duration.
            ValueError: `seconds` is negative, infinite or NaN.
        """
        self.sleep(check_seconds("seconds", seconds))

    # What replaces the attributes of `resilient._runtimes.clock`:

    skip = None
    patrol: float = math.inf

    def sleep(self, seconds: float) -> None:
        """Block the calling thread until so many virtual seconds are over."""
        self._block(None, seconds)

    def wait(self, lock: threading.Lock, timeout: float | None) -> bool:
        """Block until `lock` could be acquired, or virtual time is up."""
        return self._block(lock, math.inf if timeout is None else timeout)

    def start_thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        """Start a daemon thread that holds the clock while it runs."""

        def run() -> None:
            try:
                target()
            finally:
                self._forget(thread)

        thread = threading.Thread(target=run, name=name, daemon=True)
        with self._changed:
            # NB: before it starts, or the clock could jump in between.
            self._workers.add(thread)
        try:
            thread.start()
        except BaseException:
            self._forget(thread)
            raise
        return thread

    def install(self) -> None:
        """Make this the clock of the process; the calling thread owns it.

        Raises:
            VirtualTimeError: Another virtual clock is installed.
        """
        global _running
        with _installing:
            refuse_nesting()
            self._owner = threading.current_thread()
            self._bystanders = set(threading.enumerate())
            self._real = {name: getattr(clock, name) for name in _REPLACED}
            self._installed = True
            _running = self
            for name in _REPLACED:
                setattr(clock, name, getattr(self, name))

    def uninstall(self) -> None:
        """Put the real clock back and let go of every thread that waits.

        A sleep ends at once; a wait for a gate goes on in real time.
        """
        global _running
        with _installing:
            _running = None
            for name, original in self._real.items():
                setattr(clock, name, original)
        with self._changed:
            self._installed = False
            self._changed.notify_all()

    def is_held(self, pool: Collection[int | None] = ()) -> bool:
        """Whether something runs, or is about to, so that time stands still.

        NB: an event loop asks this *before* it looks for I/O, and jumps after:
        a thread that ends in between has left its result with the loop, and a
        jump would come before that result.

        Args:
            pool: The worker threads of an event loop that are at work, by
                identity; None for one that is about to start.
        """
        with self._changed:
            return self._is_held_locked(pool)

    def jump(self, until: float, pool: Collection[int | None] = ()) -> Jump:
        """Jump to the next moment at which something is scheduled.

        Args:
            until: The next moment that the caller knows of; infinity for none.
                Sleeping threads may come before it.
            pool: As for `is_held`.
        """
        with self._changed:
            return self._jump_locked(until, pool)

    def jump_alone(self, until: float) -> None:
        """Jump there; no thread but the caller's is alive."""
        self._now = max(self._now, until)

    def fail(self, others: Iterable[str] = ()) -> VirtualTimeError:
        """Give up: raise in all threads that wait, and return that error.

        Args:
            others: Who waits besides the threads that the clock knows of.

        Returns:
            The error, which says who waits where.
        """
        with self._changed:
            frames = _stacks.frames_by_thread()
            waiting = [
                f"thread {waiter.thread.name!r} at "
                + _stacks.of_frame(frames.get(waiter.thread.ident or 0))
                for waiter in self._waiters
            ]
            text = (
                f"nothing can run and nothing is scheduled at {self._now} s of virtual"
                " time: this would wait for ever. Waiting:"
                + "".join(f"\n  {line}" for line in (*waiting, *others))
            )
            for waiter in self._waiters:
                waiter.error = text
            self._touch_locked()
        return VirtualTimeError(text)

    def _block(self, gate: threading.Lock | None, seconds: float) -> bool:
        """Wait for the gate or the time; return whether it was the gate."""
        thread = threading.current_thread()
        with self._changed:
            waiter = _Waiter(thread, self._now + seconds, gate)
            self._waiters.append(waiter)
            self._touch_locked()
            try:
                while True:
                    if gate is not None and gate.acquire(blocking=False):
                        return True
                    if waiter.when <= self._now:
                        return False
                    if waiter.error is not None:
                        raise VirtualTimeError(waiter.error)
                    # NB: in this order. The clock may be gone before a thread
                    # that was given up sees it, and would wait on for ever.
                    if not self._installed:
                        break
                    if not self._go_on_locked(thread):
                        self._changed.wait(SLICE)
            finally:
                self._waiters.remove(waiter)
                self._given_up.discard(thread)
                if not (self._is_known(thread) or thread.ident in self._pool):
                    self._guests.add(thread)
                self._touch_locked()
        if gate is None:
            return False
        left = waiter.when - self._now
        return clock.wait(gate, None if left == math.inf else left)

    def _go_on_locked(self, thread: threading.Thread) -> bool:
        """Jump, on behalf of a thread that waits; return whether to look again."""
        owns = thread is self._owner
        if self._looped and not owns:
            return False
        jump = self._jump_locked(math.inf)
        if jump is Jump.STUCK and owns and not self._may_be_rescued_locked():
            self.fail()
            return True
        return jump is Jump.MOVED

    def _jump_locked(self, until: float, pool: Collection[int | None] = ()) -> Jump:
        if self._is_held_locked(pool):
            return Jump.BUSY
        target = min([until, *(waiter.when for waiter in self._waiters)])
        if target == math.inf:
            return Jump.STUCK
        self._now = max(self._now, target)
        self._touch_locked()
        return Jump.MOVED

    def _is_held_locked(self, pool: Collection[int | None]) -> bool:
        self._pool.update(ident for ident in pool if ident is not None)
        waiting = {waiter.thread for waiter in self._waiters}
        idents = {thread.ident for thread in waiting}
        if (
            any(waiter.is_due(self._now) for waiter in self._waiters)
            or self._workers - waiting
            or any(ident is None or ident not in idents for ident in pool)
        ):
            return True
        owner_is_away = not self._looped and self._owner not in waiting
        strangers = self._strangers_locked() - waiting - self._given_up
        if owner_is_away or strangers:
            if real_now() - self._quiet_since < GRACE:
                return True
            self._given_up |= strangers
        return False

    def _strangers_locked(self) -> set[threading.Thread]:
        """Return the live threads that may come to this clock unannounced."""
        alive = set(threading.enumerate())
        found = alive & self._guests
        if not self._looped:
            # NB: a loop's own worker threads come and go, and the loop tells.
            found |= alive - self._bystanders
        return {thread for thread in found if not self._is_known(thread)}

    def _may_be_rescued_locked(self) -> bool:
        """Whether a thread that does not wait here may still open a gate."""
        waiting = {waiter.thread for waiter in self._waiters}
        patient = real_now() - self._quiet_since < PATIENCE
        return patient and bool(self._strangers_locked() - waiting)

    def _is_known(self, thread: threading.Thread) -> bool:
        return thread is self._owner or thread in self._workers

    def _touch_locked(self) -> None:
        self._quiet_since = real_now()
        self._changed.notify_all()

    def _forget(self, worker: threading.Thread) -> None:
        with self._changed:
            self._workers.discard(worker)
            # NB: it lives a moment longer, but comes here no more.
            self._bystanders.add(worker)
            self._touch_locked()


VirtualClock.__module__ = "resilient.testing"


def refuse_nesting() -> None:
    """Refuse to begin while another virtual clock is that of the process."""
    if _running is not None:
        raise VirtualTimeError(
            "virtual time is already running in this process, and cannot be nested:"
            " use the clock that is there"
        )


_installing = Lock()
_running: VirtualClock | None = None
