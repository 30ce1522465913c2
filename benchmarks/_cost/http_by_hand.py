"""What an engineer would write in a transport's place, for either family.

Three attempts on a budget, a breaker for each origin, a deadline for all of it and
a limit for each attempt: what `standard_pipeline` does, for one event loop or, with
locks, for threads. No events, no texts, no bodies that are sent but once, no advice
from the server.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from typing import Any

RETRIED = frozenset((408, 429, 500, 502, 503, 504))
IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))
TOTAL, ATTEMPT, ATTEMPTS, OPEN_FOR = 30.0, 10.0, 3, 5.0
SHORT = 1_048_576


class Origin:
    """What is known of one origin: its last hundred answers, and retries left."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.window: deque[int] = deque(maxlen=100)
        self.failures = 0
        self.opened: float | None = None
        self.budget = 10.0

    def refuses(self) -> bool:
        """Whether its circuit is open."""
        return self.opened is not None and time.monotonic() < self.opened + OPEN_FOR

    def record(self, failed: int) -> None:
        """Count an answer."""
        if len(self.window) == 100:
            self.failures -= self.window[0]
        self.window.append(failed)
        self.failures += failed
        if not failed:
            self.budget = min(10.0, self.budget + 0.1)
            self.opened = None
        elif len(self.window) >= 20 and self.failures >= len(self.window) * 0.5:
            self.opened = time.monotonic()
            self.window.clear()
            self.failures = 0

    def pays(self) -> bool:
        """Whether there is a retry left; it is taken."""
        if self.budget < 1:
            return False
        self.budget -= 1
        return True


def is_short(response: Any) -> bool:
    """Whether its body is worth reading to keep the connection."""
    return int(response.headers.get("content-length", SHORT + 1)) <= SHORT


def asynchronous(library: Any, inner: Any) -> Any:
    """Return a transport for asyncio."""
    origins: dict[tuple[bytes, bytes, int | None], Origin] = {}

    class ByHand(library.AsyncBaseTransport):  # type: ignore[misc]  # one of two
        async def handle_async_request(self, request: Any) -> Any:
            url = request.url
            key = (url.raw_scheme, url.raw_host, url.port)
            origin = origins.get(key)
            if origin is None:
                origin = origins[key] = Origin()
            async with asyncio.timeout(TOTAL):
                for attempt in range(1, ATTEMPTS + 1):
                    if origin.refuses():
                        raise library.ConnectError("the circuit is open")
                    last = attempt == ATTEMPTS or request.method not in IDEMPOTENT
                    try:
                        async with asyncio.timeout(ATTEMPT):
                            response = await inner.handle_async_request(request)
                            failed = response.status_code in RETRIED
                            if failed and is_short(response):
                                await response.aread()
                    except (library.TransportError, TimeoutError):
                        origin.record(1)
                        if last or not origin.pays():
                            raise
                    else:
                        origin.record(failed)
                        if not failed or last or not origin.pays():
                            return response
                        await response.aclose()
                    await asyncio.sleep(0.1 * 2**attempt)

    return ByHand()


def synchronous(library: Any, inner: Any) -> Any:
    """Return a transport for threads, whose deadline caps the client's timeouts."""
    origins: dict[tuple[bytes, bytes, int | None], Origin] = {}

    class ByHand(library.BaseTransport):  # type: ignore[misc]  # one of two
        def handle_request(self, request: Any) -> Any:
            url = request.url
            key = (url.raw_scheme, url.raw_host, url.port)
            origin = origins.get(key) or origins.setdefault(key, Origin())
            deadline = time.monotonic() + TOTAL
            for attempt in range(1, ATTEMPTS + 1):
                with origin.lock:
                    if origin.refuses():
                        raise library.ConnectError("the circuit is open")
                last = attempt == ATTEMPTS or request.method not in IDEMPOTENT
                left = min(ATTEMPT, deadline - time.monotonic())
                if left <= 0:
                    raise library.ReadTimeout("the deadline has passed")
                request.extensions["timeout"] = {
                    phase: left if own is None else min(own, left)
                    for phase, own in request.extensions["timeout"].items()
                }
                try:
                    response = inner.handle_request(request)
                    failed = response.status_code in RETRIED
                    if failed and is_short(response):
                        response.read()
                except library.TransportError:
                    with origin.lock:
                        origin.record(1)
                        if last or not origin.pays():
                            raise
                else:
                    with origin.lock:
                        origin.record(failed)
                        if not failed or last or not origin.pays():
                            return response
                    response.close()
                time.sleep(0.1 * 2**attempt)

    return ByHand()


def two_timeouts(library: Any, inner: Any) -> Any:
    """Return a transport for asyncio that limits, and does nothing else."""

    class Limited(library.AsyncBaseTransport):  # type: ignore[misc]  # one of two
        async def handle_async_request(self, request: Any) -> Any:
            async with asyncio.timeout(TOTAL), asyncio.timeout(ATTEMPT):
                return await inner.handle_async_request(request)

    return Limited()
