"""Forks: what other threads of the parent held is free in the child.

Only the thread that forks lives on in the child. What the others had there stays
as it was: the lock that one was under, the slots of the calls that they were in.
So before a fork, while they still run, this looks at what they are doing:

* Under a lock of ours a thread stays for microseconds: the fork waits for it, for
  `PATIENCE` at most. A lock that is locked all the same is made anew in the child.
* What a call holds is on its way (see `steps`). In the child it unwinds, as when a
  generator is closed, and gives that back.

A call costs nothing more. What is not found: calls of async functions that stand
still, and blocks, in other threads.
"""

from __future__ import annotations

import os
import sys
from _thread import allocate_lock, get_ident
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from resilient._calls.call import Call
from resilient._edges.steps import unwind
from resilient._runtimes import clock
from resilient._values.locks import Lock

PATIENCE: Final = 0.1
"""Seconds; a fork beside a thread that never leaves a lock takes so much longer."""

_LOOK: Final = 1e-4
"""Seconds between two looks."""

_OURS: Final = os.path.dirname(os.path.dirname(__file__))


class _Left:
    """What the threads have that the child will not have.

    Attributes:
        calls: Their calls, each with what its policies answered last.
        locks: Those that are locked.
    """

    __slots__ = ("calls", "locks")

    def __init__(self) -> None:
        self.calls: list[tuple[Call, Any]] = []
        self.locks: list[Lock] = []


_left = _Left()


def _frames() -> Iterator[FrameType]:
    """Yield every frame of ours in every thread but this one, the innermost first."""
    here = get_ident()
    # NB: documented, and private by name alone.
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
    for thread, innermost in frames.items():
        if thread == here:
            continue
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_code.co_filename.startswith(_OURS):
                yield frame
            frame = frame.f_back


def _look() -> None:
    """Note what the other threads have at this moment."""
    _left.calls = []
    _left.locks = []
    for frame in _frames():
        names = frame.f_locals
        call = names.get("call")
        # NB: the edge's own frame, and not those of the steps it walks.
        if isinstance(call, Call) and "answer" in names and "token" in names:
            _left.calls.append((call, names["answer"]))
        mine = names.get("self")
        lock = mine if isinstance(mine, Lock) else getattr(mine, "_lock", None)
        if isinstance(lock, Lock) and lock.is_elsewhere():
            _left.locks.append(lock)


def _before() -> None:
    """Wait until no other thread is under a lock of ours, for so long."""
    until = clock.real_now() + PATIENCE
    gate = allocate_lock()
    gate.acquire()
    _look()
    while _left.locks and clock.real_now() < until:
        # NB: in real time, whatever is virtual.
        gate.acquire(timeout=_LOOK)
        _look()


def _forget() -> None:
    """Keep nothing of it in the parent."""
    _left.calls = []
    _left.locks = []


def _free() -> None:
    """In the child: free what the others had."""
    locks, calls = _left.locks, _left.calls
    _forget()
    for lock in locks:
        lock.make_anew()
    for call, answer in calls:
        try:
            unwind(call, answer, GeneratorExit())
        except ValueError:
            # It was not standing still, but waiting: that wait is lost.
            unwind(call, None, GeneratorExit())


def watch() -> None:
    """Have every fork from now on free what other threads had."""
    if hasattr(os, "register_at_fork"):  # pragma: no branch - missing on Windows
        os.register_at_fork(
            before=_before, after_in_parent=_forget, after_in_child=_free
        )
