"""One scenario body, three colours: sync, asyncio, trio.

A scenario is an ``async def`` that takes a `World` and does everything that
depends on the colour through it. In the sync world no verb suspends, so the
very same body runs under plain ``send(None)``. Time is virtual, and seeded; the
clock begins at `START`, and a scenario counts its seconds from there.

::

    @in_every_colour
    async def test_a_failed_call_is_tried_again(w: World) -> None:
        \"\"\"…\"\"\"
        assert "ok" == await w.call(Retry(OSError), flaky)
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Literal

import pytest

from resilient import Policy
from resilient._runtimes import clock
from resilient.testing import _virtual_clock, virtual_time

START: Final = 4096.0
"""What the clock reads when a scenario begins. Were it 0.0, a reading would pass for
the time that has passed; a power of two leaves sums of fractions as they are."""

Colour = Literal["sync", "asyncio", "trio"]
Body = Callable[..., Coroutine[Any, Any, Any]]


class World:
    """The verbs of one colour."""

    def __init__(self, colour: Colour) -> None:
        self.colour: Colour = colour

    @property
    def is_sync(self) -> bool:
        return self.colour == "sync"

    def run(self, body: Body, *args: Any) -> Any:
        """Run a scenario to its end, in virtual time."""
        if self.colour == "sync":
            with virtual_time(seed=1):
                return _finish(begin(body, self, *args))
        run = virtual_time.run
        return run(begin, body, self, *args, backend=self.colour, seed=1)

    def now(self) -> float:
        """Virtual seconds since the scenario began."""
        return since_start()

    async def sleep(self, seconds: float) -> None:
        """Sleep as a user's function of this colour would."""
        if self.colour == "sync":
            clock.sleep(seconds)
        elif self.colour == "asyncio":
            import asyncio

            await asyncio.sleep(seconds)
        else:
            import trio

            await trio.sleep(seconds)

    def native(self, fn: Body) -> Callable[..., Any]:
        """Turn an ``async def`` over these verbs into a function of this colour."""
        if self.colour != "sync":
            return fn

        @functools.wraps(fn)
        def plain(*args: Any, **kwargs: Any) -> Any:
            return _finish(fn(*args, **kwargs))

        del plain.__wrapped__
        return plain

    def decorate(self, policy: Policy[Any], fn: Body) -> Callable[..., Awaitable[Any]]:
        """Decorate `fn`, as a function of this colour; awaitable in each."""
        decorated = policy(self.native(fn))

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = decorated(*args, **kwargs)
            return result if self.is_sync else await result

        return call

    async def call(self, policy: Policy[Any], fn: Body, *args: Any, **kw: Any) -> Any:
        """``policy.call`` or ``await policy.acall``."""
        if self.is_sync:
            return policy.call(self.native(fn), *args, **kw)
        return await policy.acall(fn, *args, **kw)

    async def gather(self, *functions: Callable[[], Awaitable[Any]]) -> list[Any]:
        """Run functions at once (not in sync); results and errors, in order."""
        results: list[Any] = [None] * len(functions)

        async def run(place: int) -> None:
            try:
                results[place] = await functions[place]()
            except Exception as error:
                results[place] = error

        if self.colour == "asyncio":
            import asyncio

            async with asyncio.TaskGroup() as group:
                for place in range(len(functions)):
                    group.create_task(run(place))
        else:
            import trio

            async with trio.open_nursery() as nursery:
                for place in range(len(functions)):
                    nursery.start_soon(run, place)
        return results


def since_start() -> float:
    """Virtual seconds since the scenario began."""
    return clock.now() - START


async def begin(body: Body, *args: Any, start: float = START) -> Any:
    """Run a scenario whose clock reads `start` when it begins."""
    running = _virtual_clock._running
    assert running is not None
    running._now = start
    return await body(*args)


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a scenario suspended in the sync world")


def _scenario(*colours: Colour) -> Callable[[Body], Callable[..., None]]:
    def decorate(body: Body) -> Callable[..., None]:
        @pytest.mark.parametrize("colour", colours)
        def test(colour: Colour) -> None:
            World(colour).run(body)

        test.__name__ = body.__name__
        test.__doc__ = body.__doc__
        test.__module__ = body.__module__
        return test

    return decorate


in_every_colour = _scenario("sync", "asyncio", "trio")
in_async_colours = _scenario("asyncio", "trio")
in_sync = _scenario("sync")
