"""Functions that take their time, and callers of them."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from tests.colours import World

from resilient import Bulkhead
from resilient._runtimes import clock


class Slow:
    """A function that takes its time, and counts how often it is run."""

    def __init__(self, w: World, seconds: float = 10.0) -> None:
        self.w = w
        self.seconds = seconds
        self.runs = 0
        self.ended = 0
        self.error: BaseException | None = None

    async def function(self, *args: Any, **kwargs: Any) -> object:
        self.runs += 1
        run = self.runs
        try:
            await self.w.sleep(self.seconds)
            if self.error is not None:
                raise self.error
        finally:
            self.ended += 1
        return run, args


async def together(w: World, *functions: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run functions at once, each in a task, or a thread, of its own."""
    if not w.is_sync:
        return await w.gather(*functions)
    results: list[Any] = [None] * len(functions)
    gates = [threading.Lock() for _ in range(len(functions) + 1)]

    def run(place: int) -> None:
        # NB: a caller that begins lets the next one begin: one is always about
        # to run, so time stands still, until all have begun.
        clock.wait(gates[place], None)
        gates[place + 1].release()
        try:
            coroutine: Any = functions[place]()
            coroutine.send(None)
        except StopIteration as stop:
            results[place] = stop.value
        except Exception as error:
            results[place] = error

    for gate in gates:
        gate.acquire()
    threads = [
        clock.start_thread(functools.partial(run, place), f"caller {place}")
        for place in range(len(functions))
    ]
    gates[0].release()
    for thread in threads:
        while thread.is_alive():
            await w.sleep(1)
    return results


def callers(w: World, policy: Any, slow: Slow, *after: float) -> list[Any]:
    """Return calls of one decorated function, that begin one after the other."""
    decorated = w.decorate(policy, slow.function)

    def made(after: float) -> Callable[[], Awaitable[Any]]:
        async def call() -> Any:
            await w.sleep(after)
            return await decorated()

        return call

    return [made(name) for name in after]


async def cancelled_after(
    w: World, seconds: float, call: Callable[[], Awaitable[Any]]
) -> Any:
    """Make a call and cancel it; return when it was over, or its result."""
    if w.colour == "asyncio":
        task = asyncio.ensure_future(call())
        await asyncio.sleep(seconds)
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return w.now()
    with trio.move_on_after(seconds):
        return await call()
    return w.now()


class Held(Bulkhead):
    """A policy that takes its time before it goes on."""

    def __init__(self, w: World, seconds: float) -> None:
        super().__init__(9)
        self.w = w
        self.seconds = seconds

    async def around(self, proceed: Any, call: Any) -> Any:
        await call.runtime.sleep(self.seconds)
        return await proceed(call)
