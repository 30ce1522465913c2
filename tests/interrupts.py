"""Interrupt our code at every moment at which CPython can, one after the other.

CPython runs signal handlers, and from 3.12 on the garbage collector, where it
enters a Python function, when it resumes a generator at a ``yield`` (not where an
``await`` goes on), after a call of a C function, and at the end of a loop. A profile
function is called at the first three of these. So a test that acts in a profile
function, at the first moment, then at the second and so on to the last, meets in a
few hundred runs, and the same each time, what a signal would meet once in a million.

One call of a C function is followed by no moment: that by which ``with`` enters.
Of 3 000 signals to a loop of ``with lock: pass`` none came there on 3.11, 3.13 and
3.15; on 3.14, where it is a call like others, 1 881 did, and left the lock locked
(python/cpython#148874).
"""

from __future__ import annotations

import asyncio
import dis
import faulthandler
import gc
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import trio

import resilient
from resilient import Balance, CircuitBreaker, Coalesce, PerKey, Policy

BOUND = 20.0
"""Real seconds in which what does not hang has ended, on a loaded machine."""

_OURS = str(Path(resilient.__file__).parent)

_ENTERED_BY = dis.opmap.get("LOAD_SPECIAL")
"""What stands before the call by which ``with`` enters, since Python 3.14."""


class Moment:
    """The `number`-th moment in our code since ``with`` began: acts there.

    Attributes:
        came: Whether it has come.
        where: The code in which it was.
    """

    def __init__(
        self, number: int, act: Callable[[], object], module: str = ""
    ) -> None:
        self._left = number
        self._path = str(Path(_OURS) / module)
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
        if event not in ("call", "c_return") or not code.co_filename.startswith(
            self._path
        ):
            return
        if _goes_on(frame) if event == "call" else _enters(frame):
            return
        self._left -= 1
        if self._left == 0:
            self.came = True
            self.where = f"{event} {code.co_qualname}, line {frame.f_lineno}: {arg}"
            self.act()


def _goes_on(frame: FrameType) -> bool:
    """Whether a frame is resumed in an ``await`` or ``yield from``."""
    # NB: its argument says why the frame is resumed, in the two lowest bits.
    return frame.f_code.co_code[frame.f_lasti + 1] & 3 > 1


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


def every_moment(act: Callable[[], object], module: str = "") -> Iterator[Moment]:
    """Yield one moment after the other, until one has not come.

    Args:
        act: What happens there.
        module: Where they are, as a path in the package; default: anywhere.
    """
    number = 0
    while True:
        number += 1
        moment = Moment(number, act, module)
        yield moment
        if not moment.came:
            assert number > 10, "hardly any moment in our code"
            return


def on_loop(
    loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], moment: Moment
) -> object:
    """Run a task on a loop that goes on, as a notebook's does, until it has ended.

    Returns:
        What it returned, or the class of what came instead.
    """
    try:
        with moment:
            return loop.run_until_complete(task)
    except BaseException as error:
        return type(error)
    finally:
        for _ in range(2):
            # NB: the first may be stopped, by the end that was interrupted.
            with suppress(KeyboardInterrupt, RuntimeError):
                loop.run_until_complete(asyncio.wait([task], timeout=BOUND))


def on_trio(moment: Moment, run: Callable[[], Awaitable[object]]) -> object:
    """Call an async function in a run of trio's.

    Returns:
        What it returned, or the class of what came instead.
    """

    async def main() -> object:
        with moment:
            return await run()

    try:
        return trio.run(main)
    except BaseException as error:
        return type(error)


def work() -> int:
    """Succeed."""
    return 1


def held(policy: Policy[Any]) -> dict[str, Any]:
    """Return what a policy and those inside it say of calls under way."""
    found: dict[str, Any] = {}
    for inner in (policy, *policy.children()):
        for name, value in inner.status().items():
            if name.split(".")[-1] in ("in_use", "queued", "abandoned"):
                found[f"{type(inner).__name__} {name}"] = value
        if isinstance(inner, Balance):
            found["sent"] = sum(endpoint.in_flight for endpoint in inner.endpoints)
        if isinstance(inner, CircuitBreaker):
            found["probes"] = inner.statistics().in_flight_probes
        if isinstance(inner, Coalesce):
            found["in flight"] = inner.in_flight
        if isinstance(inner, PerKey):
            # NB: one with a call inside would not go.
            for key in ("two", "three"):
                inner[key]
            found["keys"] = len(inner) - 1
    return {name: value for name, value in found.items() if value}


def elsewhere(function: Callable[[], Any]) -> Any:
    """Call a function in another thread, where a lock of this one is locked."""
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(function())
        except Exception as error:
            result.append(repr(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(BOUND)
    if not result:
        # Where it waits, and who could let it go on.
        faulthandler.dump_traceback(sys.__stderr__)
    return result[0] if result else "hangs: a lock was left locked"


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect what is warned of, also by the collector."""
    found: list[str] = []
    hook = sys.unraisablehook

    def note(event: Any) -> None:
        # NB: what is raised in a destructor goes no further, in any Python.
        if not isinstance(event.exc_value, KeyboardInterrupt):
            found.append(repr(event.exc_value))

    sys.unraisablehook = note
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
            # NB: what is fresh: the heap of a whole run takes 0.1 s, a thousand times.
            gc.collect(1)
            found += [str(warning.message) for warning in caught]
    finally:
        sys.unraisablehook = hook


def left(policy: Policy[Any]) -> list[Any]:
    """Return what is left of a call that was interrupted."""
    found: list[Any] = []
    with suppress(LookupError):
        found.append(resilient.current_call())
    found.append(elsewhere(lambda: held(policy)))
    answer = elsewhere(lambda: policy(work)())
    found.append(None if answer == 1 else answer)
    return [one for one in found if one]
