"""Interrupt our code at every moment at which CPython can, one after the other.

CPython runs signal handlers, and from 3.12 on the garbage collector, where it
enters a Python function, when it resumes a generator, after a call of a C
function, and at the end of a loop. A profile function is called at the first
three of these. So a test that acts in a profile function, at the first moment,
then at the second and so on to the last, meets in a few hundred runs, and the
same each time, what a signal would meet once in a million.

One call of a C function is followed by no moment: that by which ``with`` enters.
Of 3 000 signals to a loop of ``with lock: pass`` none came there on 3.11, 3.13 and
3.15; on 3.14, where it is a call like others, 1 881 did, and left the lock locked
(python/cpython#148874).
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import resilient

_OURS = str(Path(resilient.__file__).parent)

_ENTERED_BY = dis.opmap.get("LOAD_SPECIAL")
"""What stands before the call by which ``with`` enters, since Python 3.14."""


class Moment:
    """The `number`-th moment in our code since ``with`` began: acts there.

    Attributes:
        came: Whether it has come.
        where: The code in which it was.
    """

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self._left = number
        self.act = act
        self.came = False
        self.where = ""

    def __enter__(self) -> Moment:
        sys.setprofile(self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        code = frame.f_code
        if event not in ("call", "c_return") or not code.co_filename.startswith(_OURS):
            return
        if event == "c_return" and _enters(frame):
            return
        self._left -= 1
        if self._left == 0:
            self.came = True
            self.where = f"{event} {code.co_qualname}, line {frame.f_lineno}: {arg}"
            self.act()


def _enters(frame: FrameType) -> bool:
    """Whether a call is that of ``with``, which no signal follows on this Python."""
    if sys.version_info < (3, 15):
        return False
    return frame.f_code.co_code[frame.f_lasti - 2] == _ENTERED_BY


@contextmanager
def amid_change(policy: Any) -> Iterator[None]:
    """Be in the middle of a change of a policy, on the thread that makes it."""
    lock = policy._lock
    with lock:
        lock.changing = True
        try:
            yield
        finally:
            lock.changing = False


def ctrl_c() -> None:
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


def every_moment(act: Callable[[], object]) -> Iterator[Moment]:
    """Yield one moment after the other, until one has not come."""
    number = 0
    while True:
        number += 1
        moment = Moment(number, act)
        yield moment
        if not moment.came:
            assert number > 10, "hardly any moment in our code"
            return
