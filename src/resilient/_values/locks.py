"""A lock that neither Ctrl-C nor a call from inside can break.

Ground rules:

* CPython runs signal handlers - Ctrl-C raises in one - and from 3.12 on the
  collector where it enters a Python function, after a call of a C function and
  at the end of a loop, and nowhere else. So a lock that was taken by
  ``acquire()`` may stay locked: the interrupt comes before the ``try``.
* To read an attribute is no call, also where C answers by a function. So
  `Lock.acquired` takes the lock as it is read, and ``lock.release()`` in the
  ``finally`` of a ``try`` that follows at once gives it back, whatever happens.
* ``with`` enters a lock of C's without such a moment, too, but on Python 3.14:
  there an interrupt comes between the entering and the block
  (python/cpython#148874). It reads more easily and takes twice as long.
* By the same rule a run of plain statements, without a call, cannot be
  interrupted under the lock: ``with lock:`` alone will do.
* No loop stands in the frame that has the lock: where a condition ends its body,
  CPython leaves the jump back out of the ``try`` and the ``with`` around it, and an
  interrupt that comes there keeps the lock. In a function of its own it may.
* What calls anything is run by `Lock.run`. What a signal handler, a destructor
  or the ``__eq__`` of a user's key does then, on the very thread that has the
  lock, neither waits for that thread nor sees a half-made change: it is told,
  by `ReenteredError`, and answers without the lock if it can.
"""

from __future__ import annotations

import sys
from _thread import RLock
from collections.abc import Callable
from typing import Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class ReenteredError(RuntimeError):
    """A thread came to a lock in the middle of its own change under it."""

    def __init__(
        self,
        text: str = "a policy was used in the middle of its own decision, on the"
        " same thread, by a signal handler, a destructor or a comparison of keys:"
        " use it outside of those",
    ) -> None:
        super().__init__(text)


# NB: a subclass without an `__exit__`: that stays C's, and so does `__enter__`
# where it is safe.
class Lock(RLock):  # type: ignore[misc]  # typeshed has it final, CPython does not
    """A lock; see the module.

    Attributes:
        changing: Whether a thread is in the middle of `run`.
    """

    __slots__ = ("changing",)

    acquired: Final = property(RLock.acquire)
    """Reading it waits for the lock and takes it; always true."""

    if sys.version_info[:2] == (3, 14):  # pragma: no cover - is not measured

        def __enter__(self) -> bool:
            # NB: a return to the ``with`` is followed by no look for signals.
            return self.acquired

    def __init__(self) -> None:
        self.changing: bool = False

    def run(self, change: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call ``change(*args)`` under the lock.

        Raises:
            ReenteredError: This thread is in the middle of another change.
        """
        # NB: as it is, without the lock: what this thread did is seen here.
        if self.changing and self.is_owned():
            raise ReenteredError
        _ = self.acquired
        try:
            self.changing = True
            return change(*args)
        finally:
            self.changing = False
            self.release()

    def is_owned(self) -> bool:
        """Return whether this thread has it."""
        return bool(self._is_owned())  # type: ignore[attr-defined]  # of every RLock

    def locked(self) -> bool:
        """Return whether any thread has it."""
        if self.is_owned():
            return True
        if self.acquire(blocking=False):
            self.release()
            return False
        return True

    def is_elsewhere(self) -> bool:
        """Return whether another thread has it."""
        return not self.is_owned() and self.locked()

    def make_anew(self) -> None:
        """Unlock it, in a child that lacks the thread which has it."""
        self._at_fork_reinit()  # type: ignore[attr-defined]  # of every RLock
        self.changing = False
