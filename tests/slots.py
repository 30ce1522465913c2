"""Calls that occupy the slots of a policy, for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.colours import World

from resilient import Policy


def staying(
    w: World, policy: Policy[Any], seconds: float, *, after: float = 0.0
) -> Callable[[], Awaitable[float]]:
    """Return a call that begins `after` and stays; it returns when it got in."""

    async def stay() -> float:
        entered = w.now()
        await w.sleep(seconds)
        return entered

    async def call() -> float:
        await w.sleep(after)
        entered: float = await w.call(policy, stay)
        return entered

    return call


def texts(results: list[Any]) -> list[Any]:
    """Return results with errors as their texts."""
    return [
        str(result) if isinstance(result, Exception) else result for result in results
    ]
