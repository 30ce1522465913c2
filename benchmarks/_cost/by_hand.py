"""The policies as a good engineer would write them by hand, where they are needed.

What is not asked for is not there: one event loop, no threads, no texts, no
events, no deadline for what is inside. Synchronous code has locks, since its
callers are threads; those of asynchronous code are threads too where a state is
shared among event loops, and ``*_for_threads`` has them there. Each of them is
whole: to share code would be a call more.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque
from typing import Any

from .workloads import Function, World

PERIOD = 1e-6
"""Seconds between two calls that a limit lets pass, where it is no matter."""
HOUR = 3600.0


class Rejected(Exception):  # noqa: N818 - what a script would call it
    """There was no permit."""


def retry(fn: Function, world: World, tight: bool) -> Function:
    """Three attempts, with full jitter; from 0 s here, so that no call waits."""
    sleep = world.sleep
    if world.sync:

        def call_sync(x: int) -> Any:
            for attempt in range(3):
                try:
                    return fn(x)
                except OSError:
                    if attempt == 2:
                        raise
                    if delay := random.uniform(0, 0.0 * 2**attempt):
                        time.sleep(delay)
            raise AssertionError

        return call_sync

    async def call(x: int) -> Any:
        for attempt in range(3):
            try:
                return await fn(x)
            except OSError:
                if attempt == 2:
                    raise
                await sleep(random.uniform(0, 0.0 * 2**attempt))
        raise AssertionError

    return call


def breaker(fn: Function, world: World, tight: bool) -> Function:
    """Open when half of the last hundred calls failed; closed again by a success."""
    window: deque[int] = deque(maxlen=100)
    failures = 0
    opened = 0.0
    is_open = False
    lock = threading.Lock()

    def record(failed: int) -> None:
        nonlocal failures, opened, is_open
        if len(window) == 100:
            failures -= window[0]
        window.append(failed)
        failures += failed
        if len(window) >= 20 and failures >= len(window) * 0.9:
            is_open, opened = True, time.monotonic()
            window.clear()
            failures = 0
        elif is_open:
            is_open = False

    if world.sync:

        def call_sync(x: int) -> Any:
            with lock:
                if is_open and time.monotonic() < opened + HOUR:
                    raise Rejected("open")
            try:
                result = fn(x)
            except Exception:
                with lock:
                    record(1)
                raise
            with lock:
                record(0)
            return result

        return call_sync

    async def call(x: int) -> Any:
        if is_open and time.monotonic() < opened + HOUR:
            raise Rejected("open")
        try:
            result = await fn(x)
        except Exception:
            record(1)
            raise
        record(0)
        return result

    return call


def breaker_for_threads(fn: Function, world: World, tight: bool) -> Function:
    """The same, for several event loops."""
    if world.sync:
        raise NotImplementedError("it has a lock already")
    window: deque[int] = deque(maxlen=100)
    failures = 0
    opened = 0.0
    is_open = False
    lock = threading.Lock()

    def record(failed: int) -> None:
        nonlocal failures, opened, is_open
        with lock:
            if len(window) == 100:
                failures -= window[0]
            window.append(failed)
            failures += failed
            if len(window) >= 20 and failures >= len(window) * 0.9:
                is_open, opened = True, time.monotonic()
                window.clear()
                failures = 0
            elif is_open:
                is_open = False

    async def call(x: int) -> Any:
        with lock:
            if is_open and time.monotonic() < opened + HOUR:
                raise Rejected("open")
        try:
            result = await fn(x)
        except Exception:
            record(1)
            raise
        record(0)
        return result

    return call


def limiter(fn: Function, world: World, tight: bool) -> Function:
    """Let calls pass at a rate, by the time at which the next one would be due."""
    period, burst = (HOUR, 0.0) if tight else (PERIOD, 1.0)
    due = 0.0
    lock = threading.Lock()

    if world.sync:

        def call_sync(x: int) -> Any:
            nonlocal due
            with lock:
                now = time.monotonic()
                arrival = max(due, now)
                if arrival - now > burst:
                    raise Rejected("limited")
                due = arrival + period
            return fn(x)

        return call_sync

    async def call(x: int) -> Any:
        nonlocal due
        now = time.monotonic()
        arrival = max(due, now)
        if arrival - now > burst:
            raise Rejected("limited")
        due = arrival + period
        return await fn(x)

    return call


def limiter_for_threads(fn: Function, world: World, tight: bool) -> Function:
    """The same, for several event loops."""
    if world.sync:
        raise NotImplementedError("it has a lock already")
    period, burst = (HOUR, 0.0) if tight else (PERIOD, 1.0)
    due = 0.0
    lock = threading.Lock()

    async def call(x: int) -> Any:
        nonlocal due
        with lock:
            now = time.monotonic()
            arrival = max(due, now)
            if arrival - now > burst:
                raise Rejected("limited")
            due = arrival + period
        return await fn(x)

    return call


def bulkhead(fn: Function, world: World, tight: bool) -> Function:
    """Count who is inside."""
    most = 1 if tight else 10
    running = 0
    lock = threading.Lock()

    if world.sync:

        def call_sync(x: int) -> Any:
            nonlocal running
            with lock:
                if running >= most:
                    raise Rejected("full")
                running += 1
            try:
                return fn(x)
            finally:
                with lock:
                    running -= 1

        return call_sync

    async def call(x: int) -> Any:
        nonlocal running
        if running >= most:
            raise Rejected("full")
        running += 1
        try:
            return await fn(x)
        finally:
            running -= 1

    return call


def bulkhead_for_threads(fn: Function, world: World, tight: bool) -> Function:
    """The same, for several event loops."""
    if world.sync:
        raise NotImplementedError("it has a lock already")
    most = 1 if tight else 10
    running = 0
    lock = threading.Lock()

    async def call(x: int) -> Any:
        nonlocal running
        with lock:
            if running >= most:
                raise Rejected("full")
            running += 1
        try:
            return await fn(x)
        finally:
            with lock:
                running -= 1

    return call


def fallback(fn: Function, world: World, tight: bool) -> Function:
    """Answer None instead."""
    if world.sync:

        def call_sync(x: int) -> Any:
            try:
                return fn(x)
            except OSError:
                return None

        return call_sync

    async def call(x: int) -> Any:
        try:
            return await fn(x)
        except OSError:
            return None

    return call


class Seven:
    """All seven in two functions, for one event loop.

    A breaker over the last hundred calls, a GCRA, a counter and two
    `asyncio.timeout`; no locks.
    """

    def __init__(self, fn: Function) -> None:
        self.fn = fn
        self.open = False
        self.window: deque[int] = deque(maxlen=100)
        self.failures = 0
        self.arrival = 0.0
        self.running = 0

    async def call(self, x: int) -> Any:
        """Call the function under everything."""
        try:
            async with asyncio.timeout(3):
                for _ in range(3):
                    try:
                        return await self.attempt(x)
                    except OSError:
                        await asyncio.sleep(0)
        except RuntimeError:
            pass
        return None

    async def attempt(self, x: int) -> Any:
        """Make one attempt."""
        self.enter()
        try:
            async with asyncio.timeout(1):
                result = await self.fn(x)
        except Exception:
            self.record(1)
            raise
        finally:
            self.running -= 1
        self.record(0)
        return result

    def enter(self) -> None:
        """Have the breaker, the limit and the counter let an attempt pass."""
        if self.open:
            raise RuntimeError("open")
        now = time.monotonic()
        arrival = max(self.arrival, now)
        if arrival - now > 1:
            raise RuntimeError("limited")
        self.arrival = arrival + PERIOD
        if self.running >= 10:
            raise RuntimeError("full")
        self.running += 1

    def record(self, failed: int) -> None:
        """Count an outcome in the window."""
        if len(self.window) == 100:
            self.failures -= self.window[0]
        self.window.append(failed)
        self.failures += failed
        self.open = len(self.window) >= 20 and self.failures >= 90


class SevenOnTrio(Seven):
    """The same under trio's timeouts."""

    async def call(self, x: int) -> Any:
        import trio

        try:
            with trio.fail_after(3):
                for _ in range(3):
                    try:
                        return await self.attempt(x)
                    except OSError:
                        await trio.sleep(0)
        except RuntimeError:
            pass
        return None

    async def attempt(self, x: int) -> Any:
        import trio

        self.enter()
        try:
            with trio.fail_after(1):
                result = await self.fn(x)
        except Exception:
            self.record(1)
            raise
        finally:
            self.running -= 1
        self.record(0)
        return result


class SixInThreads:
    """All but the attempt's timeout, for threads: a lock for each policy's state.

    A synchronous function cannot be interrupted: its timeout is a deadline
    that further attempts obey.
    """

    def __init__(self, fn: Function) -> None:
        self.fn = fn
        self.open = False
        self.window: deque[int] = deque(maxlen=100)
        self.failures = 0
        self.arrival = 0.0
        self.running = 0
        self.circuit_lock = threading.Lock()
        self.limit_lock = threading.Lock()
        self.count_lock = threading.Lock()

    def call(self, x: int) -> Any:
        """Call the function under everything."""
        deadline = time.monotonic() + 3
        try:
            for _ in range(3):
                try:
                    return self.attempt(x)
                except OSError:
                    if time.monotonic() > deadline:
                        raise
        except RuntimeError:
            pass
        return None

    def attempt(self, x: int) -> Any:
        """Make one attempt."""
        with self.circuit_lock:
            if self.open:
                raise RuntimeError("open")
        with self.limit_lock:
            now = time.monotonic()
            arrival = max(self.arrival, now)
            if arrival - now > 1:
                raise RuntimeError("limited")
            self.arrival = arrival + PERIOD
        with self.count_lock:
            if self.running >= 10:
                raise RuntimeError("full")
            self.running += 1
        try:
            result = self.fn(x)
        except Exception:
            self.record(1)
            raise
        finally:
            with self.count_lock:
                self.running -= 1
        self.record(0)
        return result

    def record(self, failed: int) -> None:
        """Count an outcome in the window."""
        with self.circuit_lock:
            if len(self.window) == 100:
                self.failures -= self.window[0]
            self.window.append(failed)
            self.failures += failed
            self.open = len(self.window) >= 20 and self.failures >= 90


def stack(fn: Function, world: World, tight: bool) -> Function:
    """Everything at once."""
    if world.sync:
        return SixInThreads(fn).call
    return (SevenOnTrio if world.name == "trio" else Seven)(fn).call


def raising(fn: Function, world: World, tight: bool) -> Function:
    """Say no, as a function that always does would."""
    if world.sync:

        def call_sync(x: int) -> Any:
            raise Rejected("open")

        return call_sync

    async def call(x: int) -> Any:
        raise Rejected("open")

    return call
