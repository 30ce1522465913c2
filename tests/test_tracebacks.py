"""Tracebacks: the user's exception, with one frame of ours, or none."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour, in_sync
from tests.errors import FrozenError

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    CircuitOpenError,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
    constant,
)

LIBRARY = str(Path(resilient.__file__).parent)
CAUSE, CONTEXT = KeyError("cause"), KeyError("context")


def frames(error: BaseException) -> list[str]:
    """Return the names of the functions in a traceback, ours as `resilient`."""
    entries = traceback.extract_tb(error.__traceback__)
    return [
        "resilient" if entry.filename.startswith(LIBRARY) else entry.name
        for entry in entries
    ]


def length(trace: TracebackType | None) -> int:
    """Return how many entries a traceback has."""
    entries = 0
    while trace is not None:
        entries, trace = entries + 1, trace.tb_next
    return entries


def pipeline() -> Pipeline[Any]:
    """Return the policies that call again, refuse and cut short."""
    return Pipeline(
        Timeout(60),
        Retry(OSError, backoff=constant(1)),
        CircuitBreaker(),
        RateLimiter(100),
        Bulkhead(5),
        Timeout(10),
    )


async def fail() -> None:
    """Fail, one frame further in."""
    helper()


def helper() -> None:
    """Fail."""
    raise OSError("down")


async def error_of(attempt: Awaitable[Any]) -> OSError:
    """Return the error that awaiting this raises."""
    with pytest.raises(OSError, match="down") as caught:
        await attempt
    return caught.value


@in_async_colours
async def test_a_decorated_function_shows_one_frame_of_ours(w: World) -> None:
    """However many policies there are, and however often it was tried."""
    error = await error_of(pipeline()(fail)())
    assert ["error_of", "resilient", "fail", "helper"] == frames(error)


@in_async_colours
async def test_acall_shows_one_frame_of_ours(w: World) -> None:
    """As the decorator does."""
    error = await error_of(pipeline().acall(fail))
    assert ["error_of", "resilient", "fail", "helper"] == frames(error)


@in_sync
async def test_sync_spellings_show_one_frame_of_ours(w: World) -> None:
    """`call` and the decorator alike."""
    for call in (pipeline()(helper), functools.partial(pipeline().call, helper)):
        try:
            call()
        except OSError as error:
            assert 1 == frames(error).count("resilient")
            assert ["resilient", "helper"] == frames(error)[-2:]
            assert 3 == len(frames(error))


@in_async_colours
async def test_one_frame_for_each_pipeline(w: World) -> None:
    """A pipeline inside a decorated function is a second edge."""
    inner = Pipeline(Bulkhead(1))(fail)

    async def outer() -> None:
        await inner()

    error = await error_of(Pipeline(Bulkhead(1))(outer)())
    assert ["error_of", "resilient", "outer", "resilient", "fail", "helper"] == (
        frames(error)
    )


@in_every_colour
async def test_blocks_show_none_of_our_frames(w: World) -> None:
    """The block's own frame stands there once, as in bare Python."""
    policy = Pipeline(CircuitBreaker(), Bulkhead(5), Timeout(10))

    async def guarded(error: BaseException) -> None:
        if w.is_sync:
            with policy.guard():
                raise error
        else:
            async with policy.guard():
                raise error

    async def attempted(error: BaseException) -> None:
        if w.is_sync:
            for attempt in pipeline().attempts():
                with attempt:
                    raise error
        else:
            async for attempt in pipeline().attempts():
                async with attempt:
                    raise error

    for block in (guarded, attempted):
        for error in (KeyError("down"), KeyboardInterrupt(), SystemExit()):
            try:
                await block(error)
            except BaseException as caught:
                assert error is caught
                assert [block.__name__] == frames(error)[1:]


@in_async_colours
async def test_plain_attempts_in_an_async_loop_show_none_either(w: World) -> None:
    """The error of the last attempt leaves its own block."""

    async def block() -> None:
        async for attempt in pipeline().attempts():
            with attempt:
                await fail()

    error = await error_of(block())
    assert ["error_of", "block", "fail", "helper"] == frames(error)


@in_every_colour
async def test_our_own_errors_show_no_machinery_in_blocks(w: World) -> None:
    """A rejection points at the block that was refused."""
    breaker = CircuitBreaker()
    breaker.force_open()

    async def guarded() -> None:
        if w.is_sync:
            with breaker.guard():
                raise AssertionError("not reached")
        else:
            async with breaker.guard():
                raise AssertionError("not reached")

    async def attempted() -> None:
        if w.is_sync:
            next(breaker.attempts())
        else:
            await breaker.attempts().__anext__()

    for block in (guarded, attempted):
        with pytest.raises(CircuitOpenError) as caught:
            await block()
        assert block.__name__ == frames(caught.value)[-1]


@in_every_colour
async def test_unwinding_shows_one_frame_of_ours(w: World) -> None:
    """KeyboardInterrupt goes through as it came."""
    stop = KeyboardInterrupt()

    async def interrupted() -> None:
        raise stop

    with pytest.raises(KeyboardInterrupt) as caught:
        await w.call(pipeline(), interrupted)
    assert stop is caught.value
    assert 1 == frames(stop).count("resilient")


@in_every_colour
async def test_identity_cause_and_context_are_kept(w: World) -> None:
    """The user's exception is what the user catches."""
    error = OSError("down")

    async def chained() -> None:
        try:
            raise CONTEXT
        except KeyError:
            raise error from CAUSE

    with pytest.raises(OSError, match="down") as caught:
        await w.call(pipeline(), chained)
    assert error is caught.value
    assert CAUSE is error.__cause__
    assert CONTEXT is error.__context__
    assert error.__suppress_context__
    CONTEXT.__traceback__ = None


@in_every_colour
async def test_each_attempt_has_an_error_of_its_own(w: World) -> None:
    """The last one does not drag the earlier ones along as context."""
    errors = [OSError("first"), OSError("down")]

    async def chained() -> None:
        raise errors.pop(0)

    retry = Retry(OSError, attempts=2, backoff=constant(1))
    with pytest.raises(OSError, match="down") as caught:
        await w.call(retry, chained)
    assert caught.value.__context__ is None


@in_every_colour
async def test_stop_iteration_of_the_function_is_its_own(w: World) -> None:
    """It ends no coroutine of ours, in sync; elsewhere Python itself forbids it."""

    async def stops() -> None:
        raise StopIteration("the user's")

    if w.is_sync:

        def plain() -> None:
            raise StopIteration("the user's")

        with pytest.raises(StopIteration, match="the user's"):
            pipeline().call(plain)
        with pytest.raises(StopIteration, match="the user's"):
            with Bulkhead(1).guard():
                plain()
        with pytest.raises(StopIteration, match="the user's"):
            for attempt in pipeline().attempts():
                with attempt:
                    plain()
    else:
        with pytest.raises(RuntimeError, match="coroutine raised StopIteration"):
            await pipeline().acall(stops)


@in_every_colour
async def test_an_exception_raised_a_thousand_times_does_not_grow(w: World) -> None:
    """Its notes not at all; its traceback as that of bare functions does."""
    inner = Pipeline(Bulkhead(1))
    outer = Pipeline(Timeout(60), Retry(KeyError), CircuitBreaker(minimum_calls=9999))

    def raiser(error: Exception, *policies: Any) -> Callable[[], Awaitable[None]]:
        """Return a function that raises, and one around it, under policies."""
        inmost, outmost = policies

        async def raises() -> None:
            raise error

        raising = inmost(w.native(raises))

        async def calls() -> None:
            result = raising()
            if not w.is_sync:
                await result

        return w.decorate(outmost, calls)

    async def often(error: OSError, *policies: Any) -> int:
        call = raiser(error, *policies)
        for _ in range(1000):
            try:
                await call()
            except OSError:
                pass
        return length(error.__traceback__)

    error = OSError("ours")
    plain = await often(OSError("bare"), bare, bare)
    assert plain + 1 == await often(error, bare, outer)
    assert 1 == len(error.__notes__)
    assert plain + 2 == await often(OSError("ours"), inner, outer)


def bare(fn: Any) -> Any:
    """Leave a function as it is."""
    return fn


def test_a_thousand_is_deep_enough_for_nothing_to_recurse() -> None:
    """Nothing of ours walks such a traceback by recursion."""
    error = OSError("down")

    def raises() -> None:
        raise error

    decorated = Retry(OSError, attempts=1)(raises)
    for _ in range(1000):
        with pytest.raises(OSError, match="down"):
            decorated()
    assert 1 == len(error.__notes__)
    with pytest.raises(OSError, match="down"):
        with Bulkhead(1).guard():
            raise error


@in_every_colour
async def test_an_exception_that_refuses_attributes_stays_what_it_is(
    w: World,
) -> None:
    """It is never replaced by its refusal, in any spelling."""
    error = FrozenError("down")

    async def raises() -> None:
        raise error

    policy = Pipeline(Retry(FrozenError, backoff=constant(1)), Bulkhead(1))
    with pytest.raises(FrozenError) as caught:
        await w.call(policy, raises)
    assert error is caught.value
    with pytest.raises(FrozenError) as caught:
        if w.is_sync:
            for attempt in policy.attempts():
                with attempt:
                    raise error
        else:
            async for attempt in policy.attempts():
                async with attempt:
                    raise error
    assert error is caught.value
    with pytest.raises(FrozenError) as caught:
        if w.is_sync:
            with Bulkhead(1).guard():
                raise error
        else:
            async with Bulkhead(1).guard():
                raise error
    assert error is caught.value
