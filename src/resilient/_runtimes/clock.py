"""Time, waiting, chance and threads, in the one place that may be replaced.

Everything in the library that reads a clock, sleeps, blocks, draws a random
number or starts a thread does so through an attribute of this module, looked
up at the time of use (``clock.now()``, never ``from …clock import now``).
`resilient.testing` replaces the attributes for the whole process while virtual
time runs and puts them back afterwards. A module attribute that is the C
function itself costs the hot path nothing, where a clock object would cost a
Python frame a reading.

Only monotonic time is read: a wall clock that jumps changes nothing. Neither
do tools that freeze time, such as freezegun and time-machine: a policy that
read the frozen clock once would wait for decades when it thaws.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from importlib.util import module_from_spec
from typing import Any, Final

# NB: the C base class of `random.Random`; importing `random` itself would cost
# milliseconds (hashlib, bisect, statistics tables) for one uniform number.
# isort: split
from _random import Random


def _acquire(lock: threading.Lock, timeout: float | None) -> bool:
    """Block the calling thread until `lock` is acquired or time is up."""
    if timeout is None:
        return lock.acquire()
    # NB: longer timeouts, infinity too, raise OverflowError.
    return lock.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


def _start_daemon(target: Callable[[], None], name: str) -> threading.Thread:
    """Start `target` in a daemon thread."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread


def _second_time() -> Any:
    """Return a second instance of the module `time`.

    NB: freezegun puts its functions in the place of those of `time` in every
    module that has them, and finds them by identity. Those of a second
    instance are others.
    """
    spec = time.__spec__
    assert spec is not None
    assert spec.loader is not None
    second = module_from_spec(spec)
    spec.loader.exec_module(second)
    return second


def _monotonic(module: Any) -> Callable[[], float]:
    """Return the function that reads monotonic time.

    NB: time-machine up to 2.19 changed `time.monotonic` itself, in all its
    instances, and never `time.perf_counter`, which reads the same clock on
    POSIX, and on Windows from Python 3.13 on.
    """
    clocks = [time.get_clock_info(name) for name in ("monotonic", "perf_counter")]
    same = clocks[0].implementation == clocks[1].implementation
    chosen: Callable[[], float] = module.perf_counter if same else module.monotonic
    return chosen


real_now: Final[Callable[[], float]] = _monotonic(_second_time())
"""`now`, whatever is virtual: how long something really takes."""

now: Callable[[], float] = real_now
"""Monotonic time in seconds; its zero means nothing."""

sleep: Callable[[float], None] = time.sleep
"""Block the calling thread for so many seconds, at most `LONGEST_WAIT`. Sync
runtime only."""

LONGEST_WAIT: Final = 1e9
"""Seconds, 31 years. `time.sleep` and sockets raise OverflowError above 292 years,
and above 68 where the C library's time has 32 bits."""

wait: Callable[[threading.Lock, float | None], bool] = _acquire
"""``wait(lock, timeout)`` blocks the calling thread until another releases
`lock`, a lock used as a one-shot gate, and returns True; or returns False
after `timeout` seconds (>= 0; None waits for ever)."""

start_thread: Callable[[Callable[[], None], str], threading.Thread] = _start_daemon
"""``start_thread(target, name)`` runs `target` in a new daemon thread. It
carries nothing over: context variables are the caller's affair."""


def thread_or_error(
    target: Callable[[], None], name: str
) -> threading.Thread | RuntimeError:
    """Run `target` in a new daemon thread, or return why the system has none left."""
    try:
        return start_thread(target, name)
    except RecursionError:
        raise
    except RuntimeError as error:
        # NB: a `Condition` of the standard library that Ctrl-C broke raises this
        # class as well, and the thread may have begun.
        if not str(error).startswith("can't "):
            raise
        return error


_generator = Random()

random: Callable[[], float] = _generator.random
"""A uniform random number in [0, 1)."""

skip: Callable[[float], None] | None = None
"""Set while waits take no time (`resilient.testing.instant`): what is about
to sleep for s seconds calls ``skip(s)`` instead, which moves `now` forward."""

patrol: float = 1.0
"""Seconds after which a call that waits for another looks whether that one is
still there; infinite in virtual time, where none is ever gone and to look
around would look like something to do."""

# NB: without this, every worker that a server forks after the import draws the
# same numbers: jitter would send all their retries at the same instants.
if hasattr(os, "register_at_fork"):  # pragma: no branch - missing on Windows
    os.register_at_fork(after_in_child=_generator.seed)
