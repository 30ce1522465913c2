"""Nothing is left behind: no cycles, tasks, threads or timers."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from tests.colours import World, in_every_colour
from tests.garbage import no_garbage

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Gradient,
    Hedge,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
    constant,
    current_call,
)


def pipeline() -> Pipeline[Any]:
    """Return the seven policies that need no function of their own."""
    return Pipeline(
        Timeout(60),
        Retry(OSError, backoff=constant(0.5)),
        CircuitBreaker(minimum_calls=1000),
        AdaptiveThrottle(minimum_calls=1000),
        RateLimiter(100),
        Bulkhead(5),
        AdaptiveConcurrency(Gradient()),
        Timeout(10),
    )


class Spellings:
    """Every spelling as a coroutine function that swallows the final error."""

    def __init__(self, w: World, policy: Pipeline[Any], error: type[Exception]) -> None:
        self.w = w
        self.policy = policy
        self.error = error
        # Decorated once: a decorated function is a cycle of its own names.
        self.function = policy(self.plain_fail if w.is_sync else self.fail)
        self.generator = policy(self.plain_stream if w.is_sync else self.stream)
        self.blocks = Pipeline(*policy.policies[:1], *policy.policies[2:])

    def plain_fail(self) -> None:
        current_call()
        raise self.error("down")

    async def fail(self) -> None:
        await self.w.sleep(0.1)
        raise self.error("down")

    def plain_stream(self) -> Iterator[int]:
        yield 1
        raise self.error("down")

    async def stream(self) -> AsyncIterator[int]:
        await self.w.sleep(0.1)
        yield 1
        raise self.error("down")

    async def decorated(self) -> None:
        result = self.function()
        if not self.w.is_sync:
            await result

    async def called(self) -> None:
        if self.w.is_sync:
            self.policy.call(self.plain_fail)
        else:
            await self.policy.acall(self.fail)

    async def guarded(self) -> None:
        if self.w.is_sync:
            with self.blocks.guard():
                self.plain_fail()
        else:
            async with self.blocks.guard():
                await self.fail()

    async def attempted(self) -> None:
        if self.w.is_sync:
            for attempt in self.policy.attempts():
                with attempt:
                    self.plain_fail()
        else:
            async for attempt in self.policy.attempts():
                async with attempt:
                    await self.fail()

    async def plainly_attempted(self) -> None:
        if self.w.is_sync:
            return
        async for attempt in self.policy.attempts():
            with attempt:
                await self.fail()

    async def generated(self) -> None:
        if self.w.is_sync:
            for _ in self.generator():
                pass
        else:
            async for _ in self.generator():
                pass

    def all(self) -> list[Callable[[], Any]]:
        return [
            self.decorated,
            self.called,
            self.guarded,
            self.attempted,
            self.plainly_attempted,
            self.generated,
        ]


@in_every_colour
async def test_a_failing_call_leaves_nothing_to_the_collector(w: World) -> None:
    """In every spelling, retried or not: its frames die with the error."""
    for error in (OSError, KeyError):
        spellings = Spellings(w, pipeline(), error)
        for usage in spellings.all():
            for warm in (False, True):
                # NB: the first round warms caches that are made once.
                with no_garbage() if warm else contextlib.nullcontext():
                    try:
                        await usage()
                    except error:
                        pass


@in_every_colour
async def test_a_good_call_leaves_nothing_to_the_collector(w: World) -> None:
    """A value, and a fallback's answer after failures."""
    policy = Pipeline(Fallback("instead"), pipeline())

    async def fail() -> None:
        raise OSError("down")

    async def work() -> str:
        return "done"

    for expected, fn in (("done", work), ("instead", fail)):
        assert expected == await w.call(policy, fn)
        with no_garbage():
            assert expected == await w.call(policy, fn)


@in_every_colour
async def test_a_hedged_call_leaves_nothing_to_the_collector(w: World) -> None:
    """Won by the first, won by a hedge, or lost by all."""
    policy = Pipeline(
        Retry(OSError, attempts=2, backoff=constant(1)),
        Hedge(1, budget=None, max_threads=9),
        Bulkhead(9),
    )
    number = 0

    def fast(number: int) -> str:
        return "ok"

    async def slow(number: int) -> str:
        await w.sleep(5 - number % 2 * 4)
        return "ok"

    async def failing(number: int) -> None:
        await w.sleep(0.5)
        raise OSError(number)

    async def call(fn: Callable[..., Any]) -> None:
        async def function() -> Any:
            nonlocal number
            number += 1
            answer = fn(number)
            return answer if isinstance(answer, str) else await answer

        try:
            await w.call(policy, function)
        except OSError:
            pass
        await w.sleep(10)

    for fn in (fast, slow, failing):
        if w.colour == "trio" and fn is slow:
            # trio's own cancellation leaves cycles of its own.
            continue
        await call(fn)
        with no_garbage():
            await call(fn)


@in_every_colour
async def test_a_timeout_leaves_nothing_to_the_collector(w: World) -> None:
    """Its error carries the interruption, and neither carries itself."""
    if w.is_sync:
        return
    policy = Pipeline(Retry(OSError, attempts=2, backoff=constant(1)), Timeout(1))

    async def hang() -> None:
        await w.sleep(60)

    async def timed_out() -> None:
        try:
            await policy.acall(hang)
        except TimeoutError:
            pass

    await timed_out()
    if w.colour == "trio":
        # trio's own cancellation leaves cycles of its own.
        return
    with no_garbage():
        await timed_out()


@pytest.mark.parametrize("usage", range(6))
def test_a_call_leaves_no_task_and_no_timer(usage: int) -> None:
    """Beyond the one timer that the calls of one duration share."""
    loops: list[Any] = []

    async def main(w: World) -> None:
        spellings = Spellings(w, pipeline(), KeyError)
        loop = asyncio.get_running_loop()
        loops.append(loop)
        for _ in range(3):
            with contextlib.suppress(KeyError):
                await spellings.all()[usage]()
        assert {asyncio.current_task()} == asyncio.all_tasks()
        timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]  # asyncio's own
        assert len(timers) <= 2

    before = set(threading.enumerate())
    World("asyncio").run(main)
    assert set() == set(threading.enumerate()) - before


def test_sync_calls_start_neither_loop_nor_thread() -> None:
    """A plain function stays plain."""
    before = set(threading.enumerate())
    w = World("sync")

    async def main(w: World) -> None:
        for usage in Spellings(w, pipeline(), OSError).all():
            with contextlib.suppress(OSError):
                await usage()
            assert asyncio._get_running_loop() is None

    w.run(main)
    assert set() == set(threading.enumerate()) - before


def test_a_predicate_that_raises_leaves_nothing_to_the_collector() -> None:
    """A bug in it unwinds through our frames, which let go of everything."""

    def bug(outcome: Any) -> bool:
        return bool(1 // 0)

    def fail() -> None:
        raise OSError

    policy = Pipeline(Retry(), CircuitBreaker(), classify=bug)

    def call() -> None:
        try:
            policy.call(fail)
        except ZeroDivisionError:
            pass

    call()
    with no_garbage():
        call()


def test_an_error_is_freed_with_the_last_who_has_it() -> None:
    """No frame, note, call or policy of ours keeps it."""

    class BigError(Exception):
        pass

    def fail() -> None:
        raise BigError

    policy = pipeline()
    with pytest.raises(BigError) as caught:
        policy.call(fail)
    error = caught.value
    del caught
    error.__traceback__ = None
    # The name here and the argument of `getrefcount`.
    assert sys.getrefcount(error) <= 2
