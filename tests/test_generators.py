"""Generators: the first item is an attempt, the stream is the call."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    DeadlineExceededError,
    Outcome,
    Pipeline,
    Policy,
    Retry,
    Timeout,
    TimeoutExceededError,
    constant,
    current_call,
    deadline_after,
    remaining,
)
from resilient.testing import off

LIBRARY = str(Path(resilient.__file__).parent)

ALREADY_RUNNING = "aclose(): asynchronous generator is already running"

GenFunction = Callable[..., AsyncIterator[Any]]


class Stream:
    """A decorated stream of either colour, driven by the same verbs."""

    def __init__(self, w: World, policy: Policy[Any], fn: GenFunction) -> None:
        self.w = w
        self._made = policy(plain_generator(fn) if w.is_sync else fn)()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        if not self.w.is_sync:
            return await self._made.__anext__()
        try:
            return next(self._made)
        except StopIteration:
            raise StopAsyncIteration from None

    async def send(self, value: object) -> Any:
        if self.w.is_sync:
            return self._made.send(value)
        return await self._made.asend(value)

    async def throw(self, error: BaseException) -> Any:
        if self.w.is_sync:
            return self._made.throw(error)
        return await self._made.athrow(error)

    async def close(self) -> None:
        if self.w.is_sync:
            self._made.close()
        else:
            await self._made.aclose()


def plain_generator(fn: GenFunction) -> Callable[..., Iterator[Any]]:
    """Turn an async generator that never suspends into a plain one."""

    @functools.wraps(fn)
    def plain(*args: Any) -> Any:
        source: Any = fn(*args)
        step = source.__anext__()
        while True:
            try:
                try:
                    step.send(None)
                except StopIteration as stop:
                    item = stop.value
                else:
                    raise AssertionError("a scenario suspended in the sync world")
            except StopAsyncIteration:
                return
            try:
                value = yield item
            except GeneratorExit:
                with pytest.raises(StopIteration):
                    source.aclose().send(None)
                raise
            except BaseException as error:
                step = source.athrow(error)
            else:
                step = source.asend(value)

    del plain.__wrapped__  # type: ignore[attr-defined]  # `wraps` sets it
    return plain


async def collect(stream: Any) -> list[Any]:
    """Return the items of a stream."""
    return [item async for item in stream]


async def swallow(w: World) -> None:
    """Take a second over a cancellation that is not passed on."""
    if w.colour == "trio":
        import trio

        with trio.CancelScope(shield=True):
            await trio.sleep(1)
    else:
        await asyncio.sleep(1)


async def cancelled_after(w: World, seconds: float, step: Callable[[], Any]) -> None:
    """Take a step of a stream that its consumer gives up."""
    if w.colour == "trio":
        import trio

        with trio.move_on_after(seconds) as scope:
            await step()
        assert scope.cancelled_caught
    else:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await step()


# --- attempts ---------------------------------------------------------------------


@in_every_colour
async def test_a_failure_before_the_first_item_is_tried_again(w: World) -> None:
    """The consumer sees a stream that begins once."""
    starts = 0

    async def flaky() -> AsyncIterator[int]:
        nonlocal starts
        starts += 1
        if starts < 3:
            raise OSError
        yield 1
        yield 2

    stream = Stream(w, Retry(OSError, backoff=constant(1)), flaky)
    assert [1, 2] == await collect(stream)
    assert (3, 2.0) == (starts, w.now())


@in_every_colour
async def test_a_failure_after_the_first_item_is_final(w: World) -> None:
    """The consumer has seen part of the stream: it cannot begin again."""
    starts = 0
    error = OSError("later")

    async def breaks() -> AsyncIterator[int]:
        nonlocal starts
        starts += 1
        yield 1
        raise error

    stream = Stream(w, Retry(OSError, backoff=constant(1)), breaks)
    assert 1 == await stream.__anext__()
    with pytest.raises(OSError, match="later") as caught:
        await stream.__anext__()
    assert error is caught.value
    assert (1, 0.0) == (starts, w.now())
    assert not hasattr(error, "__notes__")


@in_every_colour
async def test_the_last_failure_before_the_first_item_is_raised(w: World) -> None:
    """As it was, with the note of the retry."""
    errors = [OSError("1"), OSError("2")]

    async def fails() -> AsyncIterator[int]:
        raise errors.pop(0)
        yield

    stream = Stream(w, Retry(OSError, attempts=2, backoff=constant(1)), fails)
    with pytest.raises(OSError, match="2") as caught:
        await stream.__anext__()
    assert 1 == len(caught.value.__notes__)


@in_every_colour
async def test_a_first_item_may_be_refused(w: World) -> None:
    """What it held goes back, and its generator is closed, before the next try."""
    bulkhead, closed, starts = Bulkhead(1), [], 0

    async def warms_up() -> AsyncIterator[int]:
        nonlocal starts
        starts += 1
        mine = starts
        assert 1 == bulkhead.in_use
        try:
            yield mine
        finally:
            closed.append(mine)

    retry = Retry(on_result=lambda item: item < 3, backoff=constant(0))
    assert [3] == await collect(Stream(w, Pipeline(retry, bulkhead), warms_up))
    assert [1, 2, 3] == closed
    assert 0 == bulkhead.in_use


@in_every_colour
async def test_a_refused_stream_is_closed_before_its_slot_goes_back(w: World) -> None:
    """A slot is what its stream may use: two would be open at once."""
    seen: list[tuple[int, float]] = []
    bulkhead = Bulkhead(1)

    async def warms_up() -> AsyncIterator[int]:
        try:
            yield len(seen)
        finally:
            await w.sleep(1)
            seen.append((bulkhead.in_use, w.now()))

    retry = Retry(on_result=lambda item: item < 1, backoff=constant(3))
    assert [1] == await collect(Stream(w, Pipeline(retry, bulkhead), warms_up))
    # Closed at once, and then waited; the second one ends by itself.
    assert [(1, 1.0), (1, 5.0)] == seen
    assert 0 == bulkhead.in_use


@in_async_colours
async def test_a_late_first_item_is_closed_before_its_slot_goes_back(w: World) -> None:
    """A timeout that refuses one gives nothing back that is still in use."""
    seen: list[int] = []
    bulkhead = Bulkhead(1)

    async def stubborn() -> AsyncIterator[int]:
        try:
            await w.sleep(2)
        except BaseException:
            await swallow(w)
        try:
            yield 1
        finally:
            seen.append(bulkhead.in_use)

    retry = Retry(OSError, attempts=2, backoff=constant(1))
    policy = Pipeline(retry, Timeout(1), bulkhead)
    with pytest.raises(TimeoutExceededError):
        await collect(Stream(w, policy, stubborn))
    assert ([1, 1], 0) == (seen, bulkhead.in_use)


@in_async_colours
async def test_closing_a_refused_stream_may_be_cancelled(w: World) -> None:
    """Its slot goes back all the same, after its end, and nothing is tried again."""
    seen: list[int] = []
    bulkhead = Bulkhead(1)

    async def slow_to_close() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            try:
                await w.sleep(60)
            finally:
                seen.append(bulkhead.in_use)

    retry = Retry(on_result=lambda item: True, backoff=constant(1))
    stream = Stream(w, Pipeline(retry, bulkhead), slow_to_close)
    await cancelled_after(w, 5, stream.__anext__)
    assert ([1], 0, 5.0) == (seen, bulkhead.in_use, w.now())


@in_every_colour
async def test_an_error_while_closing_a_refused_stream_is_raised(w: World) -> None:
    """It is a bug of the generator's; its slot goes back."""
    bulkhead = Bulkhead(1)

    async def breaks() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise KeyError("while closing")

    retry = Retry(KeyError, on_result=lambda item: True, backoff=constant(1))
    with pytest.raises(KeyError):
        await Stream(w, Pipeline(retry, bulkhead), breaks).__anext__()
    assert (0, 0.0) == (bulkhead.in_use, w.now())


@in_every_colour
async def test_an_empty_stream_is_a_success(w: World) -> None:
    """There is no first item to wait for."""
    breaker = CircuitBreaker()

    async def empty() -> AsyncIterator[int]:
        return
        yield

    assert [] == await collect(Stream(w, Pipeline(breaker, Bulkhead(1)), empty))
    assert (1, 0) == (breaker.statistics().calls, breaker.statistics().failures)


@in_every_colour
async def test_a_stream_may_be_refused(w: World) -> None:
    """No time is left in which to begin: the generator is never made."""

    async def never() -> AsyncIterator[int]:
        raise AssertionError("not reached")
        yield

    with deadline_after(0):
        with pytest.raises(DeadlineExceededError):
            await Stream(w, Bulkhead(1), never).__anext__()


@in_every_colour
async def test_a_policy_that_answers_ends_the_stream(w: World) -> None:
    """An answer that is no stream has no items."""

    class Answers(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            await proceed(call)
            return Outcome("instead")

    closed: list[int] = []

    async def counts() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            closed.append(1)

    bulkhead = Bulkhead(1)
    assert [] == await collect(Stream(w, Pipeline(Answers(), bulkhead), counts))
    assert ([1], 0) == (closed, bulkhead.in_use)


@in_every_colour
async def test_unwinding_before_the_first_item_decides_nothing(w: World) -> None:
    """The permit goes back and nothing is recorded."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)

    async def interrupted() -> AsyncIterator[int]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        await Stream(w, Pipeline(breaker, bulkhead), interrupted).__anext__()
    assert (0, 0) == (breaker.statistics().calls, bulkhead.in_use)


class Answers(Policy[Any]):
    """A policy that makes a stream of an unwinding, as a Timeout may an error."""

    async def around(self, proceed: Any, call: Any) -> Outcome:
        try:
            return await proceed(call)
        except KeyboardInterrupt:
            return Outcome(None, OSError("interrupted"))


@in_every_colour
async def test_a_policy_may_make_an_error_of_an_unwinding(w: World) -> None:
    """As a timeout does of a cancellation of its own."""

    async def interrupted() -> AsyncIterator[int]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(OSError, match="interrupted"):
        await Stream(w, Answers(), interrupted).__anext__()


# --- permits ----------------------------------------------------------------------


def pipeline() -> tuple[Pipeline[Any], CircuitBreaker, Bulkhead]:
    """Return a pipeline of two, and the two."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)
    return Pipeline(breaker, bulkhead), breaker, bulkhead


async def three() -> AsyncIterator[int]:
    """Count to three."""
    for number in range(3):
        yield number


@in_every_colour
async def test_a_slot_is_held_until_the_stream_ends(w: World) -> None:
    """While an item is with the consumer, too; the breaker knows at once."""
    policy, breaker, bulkhead = pipeline()
    stream = Stream(w, policy, three)
    assert 0 == bulkhead.in_use
    for number in range(3):
        assert number == await stream.__anext__()
        assert (1, 1) == (bulkhead.in_use, breaker.statistics().calls)
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    assert 0 == bulkhead.in_use


@in_every_colour
async def test_a_slot_is_held_until_the_stream_is_closed(w: World) -> None:
    """Closing early is an ordinary end, and closes the generator itself."""
    policy, breaker, bulkhead = pipeline()
    closed: list[str] = []

    async def closes() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append("closed")

    stream = Stream(w, policy, closes)
    await stream.__anext__()
    await stream.close()
    assert (["closed"], 0) == (closed, bulkhead.in_use)
    assert 0 == breaker.statistics().failures


@in_every_colour
async def test_a_slot_goes_back_when_closing_fails(w: World) -> None:
    """What the generator raises while it is closed reaches the consumer."""
    policy, _, bulkhead = pipeline()

    async def stubborn() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise KeyError("while closing")

    stream = Stream(w, policy, stubborn)
    await stream.__anext__()
    with pytest.raises(KeyError):
        await stream.close()
    assert 0 == bulkhead.in_use


def test_a_slot_goes_back_when_a_generator_is_collected() -> None:
    """It need not be closed explicitly."""
    policy, _, bulkhead = pipeline()

    @policy
    def counts() -> Iterator[int]:
        yield 1
        yield 2

    stream = counts()
    next(stream)
    assert 1 == bulkhead.in_use
    del stream
    assert 0 == bulkhead.in_use


def test_a_slot_goes_back_when_an_async_generator_is_collected() -> None:
    """The event loop closes it."""
    policy, _, bulkhead = pipeline()
    decorated = policy(three)

    async def main() -> None:
        stream = decorated()
        await stream.__anext__()
        assert 1 == bulkhead.in_use
        del stream
        gc.collect()
        for _ in range(3):
            await asyncio.sleep(0)
        assert 0 == bulkhead.in_use

    asyncio.run(main())


def test_a_stream_abandoned_in_its_first_step_gives_back() -> None:
    """The collector closes it, in a context that is not its own."""
    policy, _, bulkhead = pipeline()

    @policy
    async def hangs() -> AsyncIterator[int]:
        await asyncio.get_running_loop().create_future()
        yield 1

    step: Any = None

    async def main() -> None:
        nonlocal step
        step = hangs().__anext__()
        step.send(None)
        assert 1 == bulkhead.in_use

    asyncio.run(main())
    contextvars.Context().run(step.close)
    del step
    gc.collect()
    assert 0 == bulkhead.in_use


@pytest.mark.parametrize("where", ["first item", "refused", "later item"])
def test_a_stream_whose_consumer_is_lost_gives_back(where: str) -> None:
    """Wherever it stands; before 3.13 Python itself cannot close it any more."""
    bulkhead, messages = Bulkhead(1), set[str]()
    retry = Retry(on_result=lambda item: where == "refused", backoff=constant(1))

    @Pipeline(retry, bulkhead)
    async def hangs() -> AsyncIterator[int]:
        if where == "first item":
            await asyncio.get_running_loop().create_future()
        try:
            yield 1
        finally:
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(
            lambda loop, context: messages.add(str(context["exception"]))
        )

        async def consume() -> None:
            async for _ in hangs():
                pass

        lost = consume()
        lost.send(None)
        assert 1 == bulkhead.in_use
        lost.close()
        gc.collect()
        for _ in range(3):
            await asyncio.sleep(0)
        assert 0 == bulkhead.in_use

    asyncio.run(main())
    gc.collect()
    assert (set() if sys.version_info >= (3, 13) else {ALREADY_RUNNING}) == messages


@in_every_colour
async def test_a_failing_step_gives_the_slot_back(w: World) -> None:
    """By an error, and by what unwinds."""
    for error in (OSError("later"), KeyboardInterrupt()):
        policy, _, bulkhead = pipeline()

        async def breaks(error: BaseException = error) -> AsyncIterator[int]:
            yield 1
            raise error

        stream = Stream(w, policy, breaks)
        await stream.__anext__()
        with pytest.raises(type(error)):
            await stream.__anext__()
        assert 0 == bulkhead.in_use


# --- what the consumer and the generator see --------------------------------------


@in_every_colour
async def test_the_call_is_open_inside_a_step_only(w: World) -> None:
    """The consumer's own context variable is never touched."""
    names: list[str] = []

    async def looks() -> AsyncIterator[str]:
        for _ in range(2):
            names.append(current_call().name)
            yield "item"

    looks.__qualname__ = "looks"
    async for _ in Stream(w, Bulkhead(1, name="slots"), looks):
        with pytest.raises(LookupError):
            current_call()
    expected = "looks"
    assert 2 == len(names)
    assert {expected} == {name.rpartition(".")[2] for name in names}


@in_every_colour
async def test_sent_and_thrown_values_pass_through(w: World) -> None:
    """The decorated generator is talked to as the one that was written."""
    seen: list[object] = []

    async def listens() -> AsyncIterator[str]:
        try:
            seen.append((yield "first"))
            yield "second"
        except KeyError as error:
            seen.append(error)
            yield "third"
        seen.append("end")

    stream = Stream(w, Bulkhead(1), listens)
    assert "first" == await stream.__anext__()
    assert "second" == await stream.send("hello")
    error = KeyError("thrown")
    assert "third" == await stream.throw(error)
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    assert ["hello", error, "end"] == seen


@in_every_colour
async def test_a_thrown_error_that_is_not_caught_comes_back(w: World) -> None:
    """It is the stream's failure then."""
    policy, _, bulkhead = pipeline()
    stream = Stream(w, policy, three)
    await stream.__anext__()
    error = KeyError("thrown")
    with pytest.raises(KeyError) as caught:
        await stream.throw(error)
    assert error is caught.value
    assert 0 == bulkhead.in_use


def test_the_return_value_of_a_generator_is_kept() -> None:
    """`yield from` a decorated generator evaluates to what it returned."""

    @Bulkhead(1)
    def returns(items: int) -> Iterator[int]:
        yield from range(items)
        return "the end"

    def delegates(items: int) -> Iterator[Any]:
        yield (yield from returns(items))  # type: ignore[func-returns-value]

    assert [0, 1, "the end"] == list(delegates(2))
    assert ["the end"] == list(delegates(0))


@in_every_colour
async def test_a_decorated_stream_shows_one_frame_of_ours(w: World) -> None:
    """For the first item and for a later one."""

    async def breaks_at_once() -> AsyncIterator[int]:
        raise OSError("now")
        yield

    async def breaks_later() -> AsyncIterator[int]:
        yield 1
        raise OSError("now")

    for breaks in (breaks_at_once, breaks_later):
        stream = Stream(w, Pipeline(Retry(OSError, attempts=1), Bulkhead(1)), breaks)
        with pytest.raises(OSError, match="now") as caught:
            await collect(stream)
        files = [str(entry.path) for entry in caught.traceback]
        assert 1 == sum(file.startswith(LIBRARY) for file in files)


@in_every_colour
async def test_a_switched_off_stream_goes_straight_through(w: World) -> None:
    """Talked to as ever, and holding nothing."""
    bulkhead = Bulkhead(1)

    async def echoes() -> AsyncIterator[object]:
        heard: object = "first"
        while True:
            heard = yield heard

    with off(), deadline_after(0):
        stream = Stream(w, Pipeline(Timeout(1), bulkhead), echoes)
        assert "first" == await stream.__anext__()
        assert "second" == await stream.send("second")
        assert 0 == bulkhead.in_use
        await stream.close()


# --- deadlines --------------------------------------------------------------------


def slow(w: World, *pauses: float) -> GenFunction:
    """Return a stream that pauses before each item and says what time is left."""

    async def sleeps() -> AsyncIterator[float | None]:
        for pause in pauses:
            await w.sleep(pause)
            yield remaining()

    return sleeps


@in_async_colours
async def test_an_attempt_timeout_bounds_the_first_item_only(w: World) -> None:
    """Inside a Retry a Timeout is for the attempt, and that is the first item."""
    retry = Retry(OSError, attempts=2, backoff=constant(0))
    policy = Pipeline(retry, Timeout(1))
    assert [0.5, None, None] == await collect(Stream(w, policy, slow(w, 0.5, 5, 5)))
    began = w.now()
    with pytest.raises(TimeoutExceededError):
        await collect(Stream(w, policy, slow(w, 5)))
    assert began + 2.0 == w.now()


@in_async_colours
async def test_a_total_timeout_bounds_every_step(w: World) -> None:
    """Each gets what is left; the consumer's own time counts as well."""
    stream = Stream(w, Timeout(3, name="total"), slow(w, 0.5, 0.5, 5))
    assert 2.5 == await stream.__anext__()
    await w.sleep(1)
    assert 1.0 == await stream.__anext__()
    with pytest.raises(TimeoutExceededError) as caught:
        await stream.__anext__()
    assert 3.0 == w.now()
    assert "timeout 'total' of 3 s exceeded after 3 s" == str(caught.value)
    assert caught.value.__cause__ is not None


@in_async_colours
async def test_with_idle_a_stream_is_bounded_by_its_silence(w: World) -> None:
    """`seconds` bound the first item then; the consumer's time is not counted."""
    for policy in (
        Timeout(3, idle=2, name="stream"),
        Pipeline(Retry(OSError), Timeout(3, idle=2, name="stream")),
        Timeout(None, idle=2, name="stream"),
    ):
        began = w.now()
        stream = Stream(w, policy, slow(w, 2.5, 1.5, 1.5, 1.5, 5))
        await stream.__anext__()
        for _ in range(3):
            await w.sleep(10)
            assert 0.5 == pytest.approx(await stream.__anext__())
        with pytest.raises(TimeoutExceededError) as caught:
            await stream.__anext__()
        assert 39.0 == pytest.approx(w.now() - began)
        assert "timeout 'stream' of 2 s exceeded after 2 s" == str(caught.value)
    with pytest.raises(TimeoutExceededError, match="of 3 s exceeded after 3 s"):
        await collect(Stream(w, Timeout(3, idle=9), slow(w, 5)))


@in_async_colours
async def test_an_idle_limit_and_a_total_hold_together(w: World) -> None:
    """Whichever of them is further out; of two of a kind the shorter one."""
    idle, longer = Timeout(9, idle=2, name="idle"), Timeout(9, idle=3, name="longer")
    total, later = Timeout(4, name="total"), Timeout(6, name="later")
    for policies in (
        (total, idle),
        (idle, total),
        (longer, idle, total),
        (idle, longer, later, total),
        (total, later, idle, longer),
        (total, idle, later),
    ):
        pipeline = Pipeline(*policies, intended=True)
        began = w.now()
        with pytest.raises(TimeoutExceededError, match="'total' of 4 s"):
            await collect(Stream(w, pipeline, slow(w, *[1.5] * 9)))
        assert 4.0 == pytest.approx(w.now() - began)
        with pytest.raises(TimeoutExceededError, match="'idle' of 2 s"):
            await collect(Stream(w, pipeline, slow(w, 0.5, 9)))


@in_every_colour
async def test_what_is_no_stream_has_no_idle_limit(w: World) -> None:
    """And a stream without items neither."""

    async def one() -> str:
        await w.sleep(2)
        return "one"

    for policy in (Timeout(None, idle=1), Timeout(3, idle=1)):
        assert "one" == await w.call(policy, one)
        assert [] == await collect(Stream(w, policy, slow(w)))


@in_every_colour
async def test_a_step_is_refused_when_no_time_is_left(w: World) -> None:
    """The generator is not asked, but closed."""
    bulkhead = Bulkhead(1)
    stream = Stream(w, Pipeline(Timeout(3), bulkhead), slow(w, 0, 0))
    assert 3.0 == await stream.__anext__()
    await w.sleep(4)
    with pytest.raises(TimeoutExceededError):
        await stream.__anext__()
    assert 0 == bulkhead.in_use


@in_async_colours
async def test_nothing_cancels_the_consumer(w: World) -> None:
    """No limit is in force while an item is with it."""
    stream = Stream(w, Timeout(1), slow(w, 0.5, 0.1))
    await stream.__anext__()
    await w.sleep(10)
    await stream.close()
    assert 10.5 == w.now()


@in_async_colours
async def test_a_finished_stream_leaves_no_timer(w: World) -> None:
    """Each step takes its own with it."""
    if w.colour == "trio":
        return
    loop: Any = asyncio.get_running_loop()
    stream = Stream(w, Timeout(1000), slow(w, 0, 0, 0, 0, 0, 0, 0, 0))
    assert 8 == len(await collect(stream))
    # The first item's limit is in the shared queue, with its one timer.
    assert 1 >= len([timer for timer in loop._scheduled if not timer.cancelled()])


@in_every_colour
async def test_a_step_inherits_the_deadline_it_is_asked_under(w: World) -> None:
    """That of the consumer's call now, not of the one that began the stream."""
    stream = Stream(w, Pipeline(Timeout(10)), slow(w, 0, 0, 0, 0))
    with deadline_after(5):
        assert 5.0 == await stream.__anext__()
    assert 10.0 == await stream.__anext__()
    with deadline_after(2):
        assert 2.0 == await stream.__anext__()
        await w.sleep(3)
        with pytest.raises(DeadlineExceededError):
            await stream.__anext__()


@in_async_colours
async def test_items_may_be_asked_for_by_different_tasks(w: World) -> None:
    """Each step is limited in the task that takes it."""
    stream = Stream(w, Timeout(3), slow(w, 0.5, 0.5, 50))
    assert [2.5] == await w.gather(stream.__anext__)
    assert [2.0] == await w.gather(stream.__anext__)
    [error] = await w.gather(stream.__anext__)
    assert isinstance(error, TimeoutExceededError)
    assert 3.0 == w.now()


@in_async_colours
async def test_a_step_that_swallows_its_cancellation_is_too_late(w: World) -> None:
    """Its item is not given out: the error says how late it was."""

    async def swallows() -> AsyncIterator[int]:
        yield 1
        try:
            await w.sleep(10)
        except BaseException:
            await swallow(w)
        yield 2

    stream = Stream(w, Timeout(3), swallows)
    await stream.__anext__()
    with pytest.raises(TimeoutExceededError) as caught:
        await stream.__anext__()
    assert 4.0 == caught.value.elapsed


@in_async_colours
async def test_a_first_item_that_comes_too_late_gives_back(w: World) -> None:
    """The timeout answers instead of it; its slot and generator are let go."""
    closed: list[int] = []

    async def swallows() -> AsyncIterator[int]:
        try:
            await w.sleep(10)
        except BaseException:
            await swallow(w)
        try:
            yield 1
        finally:
            closed.append(1)

    bulkhead = Bulkhead(1)
    stream = Stream(w, Pipeline(Timeout(3), bulkhead), swallows)
    with pytest.raises(TimeoutExceededError):
        await stream.__anext__()
    assert ([1], 0) == (closed, bulkhead.in_use)


@in_async_colours
async def test_cancellation_in_a_step_decides_nothing(w: World) -> None:
    """The consumer went away: the slot goes back."""
    bulkhead = Bulkhead(1)
    stream = Stream(w, Pipeline(Timeout(30), bulkhead), slow(w, 0, 10))
    await stream.__anext__()
    await cancelled_after(w, 1, stream.__anext__)
    assert (1.0, 0) == (w.now(), bulkhead.in_use)


def test_decorated_generators_are_told_apart() -> None:
    """Frameworks ask `inspect` what they have."""
    assert inspect.isasyncgenfunction(Timeout(1)(three))
