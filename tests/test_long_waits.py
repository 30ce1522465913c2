"""Waits of centuries: none raises an error of the platform's in a call."""

from __future__ import annotations

import math
import socket
import threading
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    BulkheadFullError,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
    constant,
    deadline_after,
)
from resilient._http.body import Timeouts
from resilient._runtimes import clock

LONG = [1e9, 1e10, 1e18, 1e300]
"""Seconds: `time.sleep`, sockets and locks each refuse some of them."""

in_long_waits = pytest.mark.parametrize("seconds", LONG)


@in_long_waits
def test_a_pause_between_attempts_is_one_that_can_be_slept(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a backoff, a hint or a predicate asks for it."""
    slept: list[float] = []
    monkeypatch.setattr(clock, "sleep", slept.append)

    def fail() -> None:
        raise OSError("down")

    for retry in (
        Retry(OSError, attempts=2, backoff=constant(seconds)),
        Retry(OSError, attempts=2, backoff=lambda attempt: seconds),
        Retry(on=lambda outcome: seconds, attempts=2, max_retry_after=math.inf),
    ):
        with pytest.raises(OSError, match="down"):
            retry.call(fail)
    assert [1e9] * 3 == slept


@in_long_waits
def test_a_line_is_one_that_can_be_stood_in(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever limit is that long: the lock that is waited for accepts it."""
    waited: list[float] = []

    def wait(gate: threading.Lock, timeout: float | None) -> bool:
        assert timeout is not None
        waited.append(timeout)
        other = threading.Lock()
        assert clock_wait(other, timeout)
        raise KeyboardInterrupt

    clock_wait = clock.wait
    monkeypatch.setattr(clock, "wait", wait)
    full = Bulkhead(1, max_queue=1, max_wait=seconds)
    spent = RateLimiter(1, per=seconds, max_wait=None)
    spent.call(int)
    with full.guard():
        for call in (
            lambda: full.call(int),
            lambda: spent.call(int),
            lambda: Timeout(seconds, abandon=True).call(int),
        ):
            with pytest.raises(KeyboardInterrupt):
                call()
    in_queue, *others = waited
    assert 2 == len(others)
    # A call in a queue looks every second whether the one before it is there; the
    # clock has gone on.
    assert 0.0 < in_queue <= 1.0
    assert all(seconds * 0.99 <= timeout <= seconds for timeout in others)


@in_long_waits
def test_a_deadline_far_away_is_no_error(seconds: float) -> None:
    """What stands around a call may last for as long as it likes."""
    pipeline = Pipeline(Timeout(seconds), Bulkhead(1, max_queue=1, max_wait=0))
    with deadline_after(seconds):
        assert 0 == pipeline.call(int)
        with pipeline.guard(), pytest.raises(BulkheadFullError):
            pipeline.call(int)


@in_long_waits
@pytest.mark.parametrize("own", [None, 5.0])
def test_a_timeout_of_a_request_is_one_that_a_socket_takes(
    seconds: float, own: float | None
) -> None:
    """A deadline so far away is none to the client."""
    timeouts = Timeouts({"read": own})
    timeouts.deadline = clock.now() + seconds
    value: Any = timeouts.get("read")
    with socket.socket() as client:
        client.settimeout(value)
    assert value == own or (own is None and 0.99e9 < value <= 1e9)
