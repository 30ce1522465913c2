"""An open loop: requests that come when they come, however the last one went.

A load generator that waits for answers before it asks again hides what an
overload does to those who would have asked meanwhile. Here a request is due
when it is due, and its latency counts from then.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from random import Random
from typing import Any

Request = Callable[[float], Coroutine[Any, Any, None]]
"""Makes one request; it is given when that was due, and raises nothing."""


def poisson(
    rate: float, until: float, random: Random, begin: float = 0.0
) -> Iterator[float]:
    """Yield the moments, in seconds, of a Poisson process of so many a second."""
    moment = begin + random.expovariate(rate)
    while moment < until:
        yield moment
        moment += random.expovariate(rate)


async def open_loop(moments: Iterator[float], request: Request) -> None:
    """Make a request at each of the moments; return when all have ended.

    An error of one is raised at the end.

    A coroutine is run by a task, but not before it first waits for something:
    a request that is refused on the spot costs no turn of the event loop. (On
    Python 3.11 it does; the order of things is the same.)
    """
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()
    ended = asyncio.Event()
    eager: dict[str, Any] = {"eager_start": True} if sys.version_info >= (3, 12) else {}
    failed: list[asyncio.Task[None]] = []

    def leave(task: asyncio.Task[None]) -> None:
        running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            failed.append(task)
        if not running:
            ended.set()

    def arrive(due: float) -> None:
        task = asyncio.Task(request(due), loop=loop, **eager)
        if task.done():
            leave(task)
        else:
            running.add(task)
            task.add_done_callback(leave)
        following = next(moments, None)
        if following is None:
            last.set_result(None)
        else:
            loop.call_at(following, arrive, following)

    last = loop.create_future()
    first = next(moments)
    loop.call_at(first, arrive, first)
    await last
    while running:
        ended.clear()
        await ended.wait()
    for task in failed:
        task.result()
