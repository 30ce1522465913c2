"""Threads that a caller may stop waiting for.

A thread cannot be killed. `AbandonableThreads` runs each function in a daemon
thread of its own; a caller that has waited long enough leaves, and the thread
keeps its place, and every permit in `ThreadCall.ongoing`, until it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any

from resilient._calls.outcome import OngoingWork, Outcome
from resilient._edges.driver import failed
from resilient._runtimes import clock
from resilient._values.locks import Lock


class AbandonableThreads:
    """At most `size` threads at once, abandoned ones included."""

    __slots__ = ("_size", "abandoned", "lock", "running")

    def __init__(self, size: int) -> None:
        self.lock = Lock()
        self._size = size
        self.running = 0
        self.abandoned = 0

    def begin(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> ThreadCall | None:
        """Run ``fn(*args, **kwargs)`` in a thread; None: all are taken."""
        call = ThreadCall(self)
        try:
            with self.lock:
                if self.running >= self._size:
                    return None
                self.running += 1
                call.counted = True
            context = copy_context()
            clock.start_thread(
                lambda: context.run(call.run, fn, args, kwargs), f"resilient {name}"
            )
        except BaseException:
            # The system has no thread left to give; or Ctrl-C, and the thread
            # may have begun all the same.
            call.cancel_start()
            raise
        return call


class ThreadCall:
    """One function in its thread, and its outcome."""

    __slots__ = (
        "_begun",
        "_called_off",
        "_gate",
        "_left",
        "_outcome",
        "_over",
        "_threads",
        "_unwinding",
        "counted",
        "ongoing",
    )

    def __init__(self, threads: AbandonableThreads) -> None:
        self._threads = threads
        self._gate = threading.Lock()
        self._gate.acquire()
        self._begun = self._called_off = self._left = self._over = False
        # Whether it is counted among those that run.
        self.counted: bool = False
        self._outcome: Outcome | None = None
        self._unwinding: BaseException | None = None
        self.ongoing = OngoingWork()

    def run(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Run the function; called in the thread."""
        threads = self._threads
        with threads.lock:
            if self._called_off:
                return
            self._begun = True
        try:
            self._outcome = Outcome(fn(*args, **kwargs))
        except Exception as error:
            self._outcome = failed(error)
        except BaseException as unwinding:
            self._unwinding = unwinding
        with threads.lock:
            threads.running -= 1
            self._over = True
            if self._left:
                threads.abandoned -= 1
                self._outcome = self._unwinding = None
            self._gate.release()
        self.ongoing.finish(None)

    def cancel_start(self) -> None:
        """Give the place back, unless the thread has begun: then leave it."""
        with self._threads.lock:
            if not self._begun:
                self._called_off = True
                self._threads.running -= self.counted
                self.counted = False
                return
        self._leave()

    def wait(self, until: float) -> bool:
        """Wait for the end; return False, and leave, if it takes too long."""
        try:
            while not clock.wait(self._gate, max(0.0, until - clock.now())):
                # NB: a lock may time out a moment early; then it is not time.
                if clock.now() >= until:
                    return not self._leave()
        except BaseException:
            self._leave()
            raise
        return True

    def _leave(self) -> bool:
        with self._threads.lock:
            if not self._over:
                self._left = True
                self._threads.abandoned += 1
            return self._left

    def result(self) -> Outcome:
        """Take the outcome; raise what was no `Exception`."""
        outcome, self._outcome = self._outcome, None
        unwinding, self._unwinding = self._unwinding, None
        try:
            if unwinding is not None:
                raise unwinding
        finally:
            del unwinding
        assert outcome is not None
        return outcome
