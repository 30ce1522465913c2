"""Time, waiting, chance and threads, in the one place that may be replaced.

Everything in the library that reads a clock, sleeps, blocks, draws a random
number or starts a thread does so through an attribute of this module, looked
up at the time of use (``clock.now()``, never ``from …clock import now``).
`resilient.testing` replaces the attributes for the whole process while virtual
time runs and puts them back afterwards. A module attribute that is the C
function itself costs the hot path nothing, where a clock object would cost a
Python frame a reading.

Only monotonic time is read: a wall clock that jumps changes nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

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


now: Callable[[], float] = time.monotonic
"""Monotonic time in seconds; its zero means nothing."""

sleep: Callable[[float], None] = time.sleep
"""Block the calling thread for so many seconds. Sync runtime only."""

wait: Callable[[threading.Lock, float | None], bool] = _acquire
"""``wait(lock, timeout)`` blocks the calling thread until somebody releases
`lock`, a lock used as a one-shot gate, and returns True; or returns False
after `timeout` seconds (>= 0; None waits for ever)."""

start_thread: Callable[[Callable[[], None], str], threading.Thread] = _start_daemon
"""``start_thread(target, name)`` runs `target` in a new daemon thread. It
carries nothing over: context variables are the caller's affair."""

_generator = Random()

random: Callable[[], float] = _generator.random
"""A uniform random number in [0, 1)."""

skip: Callable[[float], None] | None = None
"""Set while waits take no time (`resilient.testing.instant`): whoever is about
to sleep for s seconds calls ``skip(s)`` instead, which moves `now` forward."""

# NB: without this, every worker that a server forks after the import draws the
# same numbers: jitter would send all their retries at the same instants.
if hasattr(os, "register_at_fork"):  # pragma: no branch - missing on Windows
    os.register_at_fork(after_in_child=_generator.seed)
