"""What is protected: functions that do next to nothing, and the worlds they run in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

Function = Callable[[int], Any]
HELD = -1
"""The argument of an async call that does not end."""


def _run_uvloop(main: Coroutine[Any, Any, Any]) -> Any:
    import uvloop

    return uvloop.run(main)


def _run_trio(main: Coroutine[Any, Any, Any]) -> Any:
    import trio

    async def start() -> Any:
        return await main

    return trio.run(start)


def _run_plain(main: Coroutine[Any, Any, Any]) -> Any:
    """Run what never suspends, without an event loop that could make a difference."""
    try:
        main.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("synchronous code waits for nothing")


async def _sleep_trio(seconds: float) -> None:
    import trio

    await trio.sleep(seconds)


@dataclass(frozen=True)
class World:
    """Where functions run: an event loop, or none."""

    name: str
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    sleep: Callable[[float], Awaitable[None]]

    @property
    def sync(self) -> bool:
        """Whether functions are synchronous."""
        return self.name == "sync"


ASYNCIO = World("asyncio", asyncio.run, asyncio.sleep)
UVLOOP = World("uvloop", _run_uvloop, asyncio.sleep)
TRIO = World("trio", _run_trio, _sleep_trio)
SYNC = World("sync", _run_plain, asyncio.sleep)
WORLDS = {world.name: world for world in (ASYNCIO, UVLOOP, TRIO, SYNC)}


async def at_once(x: int) -> int:
    """Return at once."""
    return x


def at_once_sync(x: int) -> int:
    """The same, sync."""
    return x


class Workload:
    """A function, and what it does when it is called.

    Args:
        world: Where it runs.
        suspends: Whether it suspends once before it returns.
        failures: Failures before each success.
    """

    def __init__(self, world: World, *, suspends: bool = False, failures: int = 0):
        self._world = world
        self._failures = failures
        self._failed = 0
        if failures:
            self.function: Function = (
                self._faltering_sync if world.sync else self._faltering()
            )
        elif suspends:
            self.function = self._suspending()
        else:
            self.function = at_once_sync if world.sync else at_once

    def _suspending(self) -> Function:
        sleep = self._world.sleep

        async def suspending(x: int) -> int:
            await sleep(0)
            return x

        return suspending

    def _falter(self) -> None:
        if self._failed < self._failures:
            self._failed += 1
            raise OSError("down")
        self._failed = 0

    def _faltering(self) -> Function:
        async def faltering(x: int) -> int:
            self._falter()
            return x

        return faltering

    def _faltering_sync(self, x: int) -> int:
        self._falter()
        return x


class Dependency:
    """A function that can be down, or take for ever, and counts its calls."""

    def __init__(self, world: World) -> None:
        self.calls = 0
        self.down = False
        self._sleep = world.sleep
        self.function: Function = (
            self._answering_sync() if world.sync else self._answering()
        )

    def _answering_sync(self) -> Function:
        def answer(x: int) -> int:
            self.calls += 1
            if self.down:
                raise OSError("down")
            return x

        return answer

    def _answering(self) -> Function:
        async def answer(x: int) -> int:
            self.calls += 1
            if x == HELD:
                await self._sleep(3600)
            if self.down:
                raise OSError("down")
            return x

        return answer
