"""What a `Balance` does beside its calls, for a while of virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.colours import World, since_start

from resilient import Balance
from resilient._runtimes import clock


class Stopping:
    """What stops `run_sync` at some moment of virtual time."""

    def __init__(self, at: float, do: Callable[[], None] = lambda: None) -> None:
        self.at = at
        self.do = do

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep, and do something each time."""
        assert timeout is not None
        clock.sleep(min(timeout, self.at - since_start()))
        self.do()
        return since_start() >= self.at


async def run_until(w: World, balance: Balance[Any], until: float) -> None:
    """Run it until then."""
    if w.is_sync:
        balance.run_sync(Stopping(until))
    elif w.colour == "asyncio":
        task = asyncio.get_running_loop().create_task(balance.run())
        await asyncio.sleep(until - w.now())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with trio.move_on_at(trio.current_time() + until - w.now()):
            await balance.run()
