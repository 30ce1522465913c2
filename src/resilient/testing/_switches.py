"""Switches for the tests of code that the library decorates."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

from resilient._edges import driver
from resilient._policy.policy import Policy
from resilient._policy.retry_budget import RetryBudget
from resilient._runtimes import clock
from resilient._values.checks import count
from resilient._values.locks import Lock
from resilient.policies import retry


@contextmanager
def off() -> Generator[None]:
    """Switch the library off: every policy and pipeline calls straight through.

    Nothing is retried, limited, counted or rejected. For the whole process,
    until the block ends; may be nested.
    """
    before, driver.enabled = driver.enabled, False
    try:
        yield
    finally:
        driver.enabled = before


@contextmanager
def instant() -> Generator[None]:
    """Take no time for waits: between attempts, and for a place in a rate.

    A wait moves the library's clock forward at once instead, so that all that
    depends on time happens as if it had been waited for. Queues still wait:
    something real holds what they wait for. For the whole process, until the
    block ends; may be nested.

    The clock goes back to real time with the end of the block. A policy that
    outlives the block then has times from the future in its records:
    `reset_all` clears them.
    """
    real_now = clock.now
    lock = Lock()
    skipped = 0.0

    def now() -> float:
        return real_now() + skipped

    def skip(seconds: float) -> None:
        nonlocal skipped
        with lock:
            skipped += seconds

    before = clock.now, clock.sleep, clock.skip
    clock.now, clock.sleep, clock.skip = now, skip, skip
    try:
        yield
    finally:
        clock.now, clock.sleep, clock.skip = before


@contextmanager
def attempts(n: int) -> Generator[None]:
    """Let every `Retry` make at most `n` attempts.

    One that is set to fewer keeps its own number, and a `Hedge` keeps its
    attempts whatever `n` is. For the whole process, until the block ends; may
    be nested, and the inner number counts.

    Args:
        n: Attempts in total, >= 1; 1 means no retries.

    Raises:
        TypeError: `n` is no int.
        ValueError: `n` is < 1.
    """
    n = count("n", n, minimum=1)
    before, retry.attempts_limit = retry.attempts_limit, n
    try:
        yield
    finally:
        retry.attempts_limit = before


def reset_all() -> None:
    """Have every policy and `RetryBudget` of the process forget what it learnt.

    What was configured live (`Bulkhead.resize`, `RateLimiter.set_rate`) stays.

    Finds them through the garbage collector, so that production need not keep
    a list of them: this is for between tests, it is slow.
    """
    for thing in gc.get_objects():
        # NB: not isinstance(), which asks proxies and mocks for `__class__`.
        if issubclass(type(thing), (Policy, RetryBudget)):
            try:
                thing.reset()
            except AttributeError as error:
                # Its construction failed, and a traceback keeps it alive.
                if error.obj is not thing:
                    raise
