"""Retry, in three colours."""

from __future__ import annotations

from resilient import Retry, constant
from tests.colours import World, in_every_colour


@in_every_colour
async def test_a_failed_call_is_tried_again(w: World) -> None:
    """Two failures and a success are a success, after two waits."""
    results = [OSError("1"), OSError("2"), "ok"]

    async def flaky() -> str:
        result = results.pop(0)
        if isinstance(result, OSError):
            raise result
        return result

    retry = Retry(OSError, backoff=constant(1.5))
    assert "ok" == await w.call(retry, flaky)
    assert 3.0 == w.now()
