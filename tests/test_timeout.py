"""Timeout, in three colours; and in threads, with `abandon`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from tests.colours import (
    START,
    World,
    in_async_colours,
    in_every_colour,
    in_sync,
    since_start,
)

from resilient import (
    Bulkhead,
    BulkheadFullError,
    CallAbandoned,
    CircuitBreaker,
    DeadlineExceededError,
    Event,
    Pipeline,
    ResilientWarning,
    Retry,
    TimedOut,
    Timeout,
    TimeoutExceededError,
    constant,
    current_call,
    current_deadline,
    deadline_after,
    remaining,
)
from resilient._edges import threads as _threads
from resilient._edges.threads import AbandonableThreads
from resilient._runtimes import clock
from resilient.testing import virtual_time


def recorder(*policies: Any) -> list[Any]:
    """Subscribe to policies and return the list that their events go to."""
    events: list[Any] = []
    for policy in policies:
        policy.subscribe(events.append)
    return events


# -- In every colour


@in_every_colour
async def test_a_call_in_time_passes(w: World) -> None:
    """Value and error are untouched, and nothing is told."""
    timeout = Timeout(2)
    events = recorder(timeout)
    error = OSError()

    async def quick(fails: bool) -> str:
        await w.sleep(1)
        if fails:
            raise error
        return "ok"

    assert "ok" == await w.call(timeout, quick, False)
    with pytest.raises(OSError) as caught:
        await w.call(timeout, quick, True)
    assert error is caught.value
    assert [] == events


@in_every_colour
async def test_a_timeout_error_of_ones_own_passes(w: World) -> None:
    """It is not converted, and no event says so."""
    timeout = Timeout(1)
    events = recorder(timeout)
    error = TimeoutError("mine")

    async def fails() -> None:
        await w.sleep(0.2)
        raise error

    with pytest.raises(TimeoutError) as caught:
        await w.call(timeout, fails)
    assert error is caught.value
    assert [] == events


@in_every_colour
async def test_it_is_a_deadline_for_what_is_inside(w: World) -> None:
    """The function can ask; an earlier deadline outside stays."""
    seen: list[float | None] = []

    async def ask() -> None:
        await w.sleep(1)
        seen.append(remaining())
        seen.append(current_deadline())

    await w.call(Timeout(3), ask)
    with deadline_after(2):
        await w.call(Timeout(3), ask)
    await w.call(Pipeline(Timeout(9), Timeout(timedelta(seconds=4))), ask)
    until = [START + 3.0, START + 3.0, START + 6.0]
    assert [2.0, until[0], 1.0, until[1], 3.0, until[2]] == seen


@in_every_colour
async def test_the_deadline_ends_with_the_block_it_bounds(w: World) -> None:
    """What is outside of it has its own back, however it ended."""
    seen: list[float | None] = []

    async def attempt() -> None:
        seen.append(remaining())
        if len(seen) < 3:
            raise OSError

    retry = Retry(OSError, backoff=constant(2))
    await w.call(Pipeline(Timeout(20), retry, Timeout(3)), attempt)
    assert [3.0, 3.0, 3.0] == seen


@in_every_colour
async def test_none_is_no_limit(w: World) -> None:
    """As long as it takes, and no deadline."""

    async def slow() -> float | None:
        await w.sleep(1e6)
        return remaining()

    assert None is await w.call(Timeout(None), slow)


@in_every_colour
async def test_nothing_begins_after_an_outer_deadline(w: World) -> None:
    """Time was up before the timeout was reached."""
    calls: list[int] = []

    async def never() -> None:
        calls.append(1)

    def oversleep(_: Event) -> None:
        clock.sleep(5)

    # Waiting for its permit takes the limiter's call past the deadline.
    breaker = CircuitBreaker(open_for=0.5, consecutive_failures=1)
    breaker.subscribe(oversleep)
    with pytest.raises(OSError):
        await w.call(breaker, _raise_os_error)
    events = recorder(timeout := Timeout(1))
    with deadline_after(2), pytest.raises(DeadlineExceededError) as caught:
        # The breaker tells that it is half-open, and its listener is slow.
        await w.call(Pipeline(breaker, timeout), never)
    assert 3.0 == caught.value.overdue
    assert [] == calls
    assert [] == events


async def _raise_os_error() -> None:
    raise OSError


@in_every_colour
async def test_a_late_answer_that_nothing_could_interrupt_is_returned(
    w: World,
) -> None:
    """Sync, or busy with the processor: the value, and an event."""
    timeout = Timeout(1, name="t")
    events = recorder(timeout)

    async def busy() -> str:
        clock.sleep(3)
        return "late"

    assert "late" == await w.call(timeout, busy)
    assert [TimedOut("t", events[0].call, 1.0, 2.0, False)] == events


@in_every_colour
async def test_a_late_error_that_nothing_could_interrupt_is_raised(w: World) -> None:
    """The user's error is what the user catches."""
    timeout = Timeout(1)
    events = recorder(timeout)

    async def busy() -> str:
        clock.sleep(3)
        raise OSError

    with pytest.raises(OSError) as caught:
        await w.call(timeout, busy)
    assert OSError is type(caught.value)
    assert [False] == [event.delivered for event in events]


@in_every_colour
async def test_a_late_answer_without_listeners_is_returned(w: World) -> None:
    """No event object is made without a listener."""

    async def busy() -> str:
        clock.sleep(3)
        return "late"

    assert "late" == await w.call(Timeout(1), busy)


# -- What can be interrupted


@in_async_colours
async def test_a_call_that_takes_too_long_is_cut_short(w: World) -> None:
    """At the limit; the error has the numbers and the cancellation as cause."""
    timeout = Timeout(1.5, name="t")
    events = recorder(timeout)

    async def slow() -> None:
        await w.sleep(100)

    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(timeout, slow)
    error = caught.value
    assert 1.5 == w.now()
    assert ("t", 1.5, 1.5) == (error.policy, error.seconds, error.elapsed)
    assert "Cancelled" in type(error.__cause__).__name__
    assert isinstance(error, TimeoutError)
    assert [TimedOut("t", events[0].call, 1.5, 0.0, True)] == events


@in_async_colours
async def test_an_attempt_and_the_whole_are_told_apart(w: World) -> None:
    """1 s an attempt in 2.5 s: two are retried, the third is the total's."""
    attempts: list[float] = []

    async def hangs() -> None:
        attempts.append(w.now())
        await w.sleep(100)

    total, inner = Timeout(2.5, name="total"), Timeout(1, name="attempt")
    retry = Retry(OSError, attempts=9, backoff=constant(0))
    events = recorder(total, inner)
    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(Pipeline(total, retry, inner), hangs)
    assert "total" == caught.value.policy
    assert 2.5 == w.now()
    assert [0.0, 1.0, 2.0] == attempts
    assert ["attempt", "attempt", "total"] == [event.policy for event in events]


@in_async_colours
async def test_of_nested_timeouts_the_one_that_ended_is_named(w: World) -> None:
    """Whichever is shorter, in whichever order."""

    async def hangs() -> None:
        await w.sleep(100)

    one, two = Timeout(1, name="one"), Timeout(2, name="two")
    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(Pipeline(two, one), hangs)
    assert "one" == caught.value.policy
    with pytest.warns(ResilientWarning, match="never be reached"):
        backwards = Pipeline(one, two)
    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(backwards, hangs)
    assert "one" == caught.value.policy
    assert 2.0 == w.now()


@in_async_colours
async def test_nested_timeouts_that_end_together_are_the_outer_one(
    w: World,
) -> None:
    """Both have passed when the processor is free: all of it is over."""

    async def busy() -> None:
        clock.sleep(5)
        await w.sleep(1)

    pipeline = Pipeline(Timeout(2, name="outer"), Timeout(1, name="inner"))
    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(pipeline, busy)
    assert "outer" == caught.value.policy


@in_async_colours
async def test_a_swallowed_cancellation_is_a_timeout_with_its_overrun(
    w: World,
) -> None:
    """Who catches the cancellation and takes 4 s more has exceeded by 4 s."""
    timeout = Timeout(1)
    events = recorder(timeout)

    async def stubborn() -> str:
        try:
            await w.sleep(100)
        except BaseException:
            with _shielded(w):
                await w.sleep(4)
        return "too late"

    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(timeout, stubborn)
    assert 5.0 == caught.value.elapsed
    assert [4.0] == [event.overrun for event in events]
    assert [True] == [event.delivered for event in events]


@contextmanager
def _shielded(w: World) -> Iterator[None]:
    if w.colour == "asyncio":
        # A cancellation on asyncio is one exception, not a state.
        yield
    else:
        import trio

        with trio.CancelScope(shield=True):
            yield


@in_async_colours
async def test_a_cancellation_turned_into_an_error_is_a_timeout(w: World) -> None:
    """The error that it led to is the cause."""
    error = OSError("connection closed")

    async def translating() -> None:
        try:
            await w.sleep(100)
        except BaseException:
            raise error  # noqa: B904 - the cancellation is its context

    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(Timeout(1), translating)
    assert error is caught.value.__cause__


@in_async_colours
async def test_an_interrupted_error_may_refuse_attributes(w: World) -> None:
    """A frozen dataclass is a cause like any other."""

    @dataclasses.dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    async def translating() -> None:
        try:
            await w.sleep(100)
        except BaseException:
            raise FrozenError(7)  # noqa: B904

    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(Timeout(1), translating)
    assert isinstance(caught.value.__cause__, FrozenError)


@in_async_colours
async def test_cleaning_up_after_a_cancellation_is_waited_for(w: World) -> None:
    """The error comes when the call has given way."""
    cleaned: list[float] = []

    async def tidy() -> None:
        try:
            await w.sleep(100)
        finally:
            with _shielded(w):
                await w.sleep(2)
            cleaned.append(w.now())

    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(Timeout(1), tidy)
    assert [3.0] == cleaned
    assert 3.0 == caught.value.elapsed


@in_async_colours
async def test_the_caller_s_cancellation_goes_through(w: World) -> None:
    """Untouched, and no event."""
    timeout = Timeout(5)
    events = recorder(timeout)

    async def slow() -> None:
        await w.sleep(100)

    if w.colour == "asyncio":
        task = asyncio.create_task(w.call(timeout, slow))
        await asyncio.sleep(1)
        task.cancel("mine")
        with pytest.raises(asyncio.CancelledError, match="mine"):
            await task
    else:
        import trio

        with trio.move_on_after(1) as scope:
            await w.call(timeout, slow)
        assert scope.cancelled_caught
    assert [] == events
    assert 1.0 == w.now()


@in_async_colours
async def test_a_cancellation_by_the_caller_wins_over_ours(w: World) -> None:
    """Both have happened when the call gives way: the caller's counts."""
    timeout = Timeout(5)
    events = recorder(timeout)

    async def slow_to_leave() -> None:
        try:
            await w.sleep(100)
        finally:
            with _shielded(w):
                await w.sleep(3)

    async def ten_seconds_in(cancel: Callable[[], Any]) -> None:
        await w.sleep(6)
        cancel()

    if w.colour == "asyncio":
        task = asyncio.create_task(w.call(timeout, slow_to_leave))
        await ten_seconds_in(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 6.0 == w.now()
    else:
        import trio

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(ten_seconds_in, scope.cancel)
                await w.call(timeout, slow_to_leave)
        assert scope.cancelled_caught
        assert 8.0 == w.now()
    assert [] == events


@in_async_colours
async def test_keyboard_interrupt_in_cleanup_is_no_timeout(w: World) -> None:
    """What is no Exception goes through, even after our cancellation."""

    class StopItError(BaseException):
        pass

    async def stops() -> None:
        try:
            await w.sleep(100)
        finally:
            raise StopItError

    with pytest.raises(StopItError):
        await w.call(Timeout(1), stops)


@in_async_colours
async def test_one_policy_serves_calls_of_any_overlap(w: World) -> None:
    """Each is cut at its own time; who is in time is not."""
    timeout = Timeout(3)
    ended: dict[int, float] = {}

    async def call(number: int, delay: float, duration: float) -> None:
        async def work() -> None:
            await w.sleep(duration)

        await w.sleep(delay)
        try:
            await w.call(timeout, work)
        except TimeoutExceededError:
            ended[number] = w.now()
        else:
            ended[number] = -w.now()

    plans = [(0, 0.0, 9.0), (1, 1.0, 1.0), (2, 1.0, 9.0), (3, 2.5, 9.0), (4, 6, 1)]
    await w.gather(*[lambda plan=plan: call(*plan) for plan in plans])
    assert {0: 3.0, 1: -2.0, 2: 4.0, 3: 5.5, 4: -7.0} == ended


@in_async_colours
async def test_a_block_is_bounded(w: World) -> None:
    """`guard()` is the same mechanism."""
    with pytest.raises(TimeoutExceededError):
        async with Timeout(1).guard():
            await w.sleep(9)
    assert 1.0 == w.now()


@in_async_colours
async def test_a_stream_is_bounded_as_a_whole(w: World) -> None:
    """A total timeout goes on after the first item; each step gets the rest."""

    @Timeout(2.5)
    async def ticks() -> Any:
        for number in range(9):
            await w.sleep(1)
            yield number

    seen: list[int] = []

    async def consume() -> None:
        async for number in ticks():
            seen.append(number)

    with pytest.raises(TimeoutExceededError) as caught:
        await consume()
    assert [0, 1] == seen
    assert 2.5 == w.now()
    assert (2.5, 2.5) == (caught.value.seconds, caught.value.elapsed)


@in_every_colour
async def test_a_stream_of_slow_consumption_is_refused_its_next_step(
    w: World,
) -> None:
    """Where nothing is left nothing is begun; the shortest total counts."""
    pipeline = Pipeline(Timeout(9), Timeout(2, name="short"))
    if w.is_sync:

        @pipeline
        def numbers() -> Any:
            yield 1
            yield 2

        items = numbers()
        assert 1 == next(items)
        await w.sleep(3)
        with pytest.raises(TimeoutExceededError) as caught:
            next(items)
    else:

        @pipeline
        async def anumbers() -> Any:
            yield 1
            yield 2

        aitems = anumbers()
        assert 1 == await anext(aitems)
        await w.sleep(3)
        with pytest.raises(TimeoutExceededError) as caught:
            await anext(aitems)
    assert ("short", 2.0) == (caught.value.policy, caught.value.seconds)


@in_async_colours
async def test_a_first_item_that_comes_too_late_holds_nothing(w: World) -> None:
    """The stream is closed, and the slot inside the timeout goes back."""
    bulkhead = Bulkhead(1)
    closed: list[float] = []

    @Pipeline(Timeout(1), bulkhead)
    async def stubborn() -> Any:
        try:
            await w.sleep(100)
        except BaseException:
            with _shielded(w):
                await w.sleep(2)
        try:
            yield "too late"
        finally:
            closed.append(w.now())

    with pytest.raises(TimeoutExceededError):
        await anext(stubborn())
    assert 0 == bulkhead.in_use
    assert [3.0] == closed


@in_async_colours
async def test_an_attempt_timeout_bounds_the_first_item_only(w: World) -> None:
    """Inside a Retry it is the attempt that is bounded."""

    @Pipeline(Retry(OSError), Timeout(2))
    async def ticks() -> Any:
        for number in range(5):
            await w.sleep(1)
            yield number

    assert [0, 1, 2, 3, 4] == [number async for number in ticks()]


# -- asyncio


def on_asyncio(main: Callable[[], Any]) -> Any:
    """Run a test of asyncio's own, in virtual time."""
    return virtual_time.run(main, backend="asyncio")


def test_an_answer_that_has_arrived_wins() -> None:
    """The loop was busy; answer and limit are both due in one turn."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        timeout = Timeout(1)
        events = recorder(timeout)

        async def ask() -> str:
            return await answer  # type: ignore[no-any-return]

        loop.call_later(0.95, answer.set_result, "answer")
        loop.call_later(0.9, clock.sleep, 0.5)
        assert "answer" == await timeout.acall(ask)
        assert 1.4 == clock.now()
        assert 0 == asyncio.current_task().cancelling()  # type: ignore[union-attr]
        assert [] == events

    on_asyncio(main)


def test_a_count_left_over_at_entry_is_not_ours() -> None:
    """`cancelling()` may stay at 1 after a failed TaskGroup."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        # Swallowed: the count stays.
        assert 1 == task.cancelling()
        with pytest.raises(TimeoutExceededError):
            await Timeout(1).acall(asyncio.sleep, 9)
        assert 1 == task.cancelling()
        task.uncancel()

    on_asyncio(main)


def test_who_swallows_the_caller_s_cancellation_too_is_no_timeout() -> None:
    """Both were delivered: the function decides what to do with them."""

    async def main() -> None:
        async def stubborn() -> str:
            for _ in range(2):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(100)
            return "here I am"

        timeout = Timeout(1)
        task = asyncio.create_task(timeout.acall(stubborn))
        await asyncio.sleep(2)
        task.cancel()
        assert "here I am" == await task
        assert 2.0 == clock.now()

    on_asyncio(main)


def test_after_a_failed_task_group_a_timeout_works() -> None:
    """On 3.11 and 3.12 the count can stay."""

    async def fails() -> None:
        raise OSError

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
            await asyncio.sleep(9)

    async def main() -> None:
        with pytest.raises(ExceptionGroup):
            await group()
        with pytest.raises(TimeoutExceededError):
            await Timeout(1).acall(asyncio.sleep, 9)

    on_asyncio(main)


def test_our_cancellation_leaves_no_count() -> None:
    """`asyncio.timeout` around and afterwards works as ever."""

    async def main() -> None:
        with pytest.raises(TimeoutExceededError):
            async with asyncio.timeout(5):
                await Timeout(1).acall(asyncio.sleep, 9)
        task = asyncio.current_task()
        assert task is not None
        assert 0 == task.cancelling()
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(1):
                await Timeout(5).acall(asyncio.sleep, 9)
        assert TimeoutError is type(caught.value)
        assert 0 == task.cancelling()

    on_asyncio(main)


def test_a_task_group_inside_is_cut_short() -> None:
    """Its children are gone with it."""
    ended: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(9)
        finally:
            ended.append("child")

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())
            tasks.create_task(child())

    async def main() -> None:
        with pytest.raises(TimeoutExceededError):
            await Timeout(1).acall(group)
        assert ["child", "child"] == ended
        assert 1 == len(asyncio.all_tasks())

    on_asyncio(main)


# -- trio


def on_trio(main: Callable[[], Any]) -> Any:
    """Run a test of trio's own, in virtual time."""
    return virtual_time.run(main, backend="trio")


def test_a_group_of_cancellations_is_a_timeout() -> None:
    """A nursery inside ends with its cancellation alone."""
    import trio

    async def nursery() -> None:
        async with trio.open_nursery() as tasks:
            tasks.start_soon(trio.sleep, 9)
            tasks.start_soon(trio.sleep, 9)

    async def main() -> None:
        with pytest.raises(TimeoutExceededError):
            await Timeout(1).acall(nursery)
        assert 1.0 == trio.current_time()

    on_trio(main)


def test_a_group_of_cancellations_and_errors_is_a_timeout() -> None:
    """The errors that it led to are in the cause."""
    import trio

    async def translating() -> None:
        try:
            await trio.sleep(9)
        finally:
            raise OSError

    async def nursery() -> None:
        async with trio.open_nursery() as tasks:
            tasks.start_soon(translating)
            tasks.start_soon(trio.sleep, 9)

    async def main() -> None:
        with pytest.raises(TimeoutExceededError) as caught:
            await Timeout(1).acall(nursery)
        assert isinstance(caught.value.__cause__, BaseExceptionGroup)

    on_trio(main)


def test_a_group_with_an_interrupt_is_no_timeout() -> None:
    """KeyboardInterrupt and its like go through, without the cancellations."""
    import trio

    class StopItError(BaseException):
        pass

    async def stops() -> None:
        try:
            await trio.sleep(9)
        finally:
            raise StopItError

    async def nursery() -> None:
        async with trio.open_nursery() as tasks:
            tasks.start_soon(stops)
            tasks.start_soon(trio.sleep, 9)

    async def main() -> None:
        with pytest.raises(BaseExceptionGroup) as caught:
            await Timeout(1).acall(nursery)
        assert [StopItError] == [
            type(exception) for exception in caught.value.exceptions
        ]

    on_trio(main)


def test_a_group_of_ones_own_passes() -> None:
    """An ExceptionGroup in time is the user's."""
    group = ExceptionGroup("mine", [OSError()])

    async def fails() -> None:
        raise group

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await Timeout(1).acall(fails)
        assert group is caught.value

    on_trio(main)


def test_an_answer_at_the_limit_wins_on_trio() -> None:
    """The scope is cancelled, but the call has ended already."""
    import trio

    async def busy() -> str:
        await trio.lowlevel.checkpoint()
        clock.sleep(1)
        return "answer"

    async def shielded() -> str:
        with trio.CancelScope(shield=True):
            await trio.sleep(1.001)
        return "answer"

    async def main() -> None:
        timeout = Timeout(1)
        events = recorder(timeout)
        assert "answer" == await timeout.acall(busy)
        assert "answer" == await timeout.acall(shielded)
        assert [] == events

    on_trio(main)


def test_an_error_at_the_limit_wins_on_trio() -> None:
    """One that has nothing to do with the cancellation."""
    import trio

    async def shielded(seconds: float) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        raise OSError

    async def main() -> None:
        with pytest.raises(OSError) as caught:
            await Timeout(1).acall(shielded, 1.001)
        assert OSError is type(caught.value)
        with pytest.raises(TimeoutExceededError):
            await Timeout(1).acall(shielded, 2)

    on_trio(main)


# -- abandon=True


class Gate:
    """A plain function that begins, tells so, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.ended = threading.Event()

    def function(self) -> str:
        self.begun.set()
        assert self.go.wait(10)
        return "too late"

    def open(self, done: Callable[[], bool]) -> None:
        """Let it go, and wait until `done`."""
        self.go.set()
        for thread in threading.enumerate():
            if thread.is_alive() and thread.name.startswith("resilient "):
                thread.join(10)
        assert done()


@pytest.mark.real
def test_an_abandoned_call_returns_at_the_limit() -> None:
    """The thread goes on; it is counted, and its slots stay taken."""
    gate = Gate()
    timeout = Timeout(0.01, abandon=True, name="t")
    bulkhead = Bulkhead(1)
    inner = Bulkhead(1)
    events = recorder(timeout)
    pipeline = Pipeline(bulkhead, timeout, inner)
    with pytest.raises(TimeoutExceededError) as caught:
        pipeline.call(gate.function)
    assert ("t", 0.01) == (caught.value.policy, caught.value.seconds)
    assert gate.begun.wait(10)
    assert 1 == timeout.abandoned
    assert (1, 1) == (bulkhead.in_use, inner.in_use)
    assert not timeout.is_pristine()
    with pytest.raises(BulkheadFullError):
        pipeline.call(lambda: None)
    kinds = [CallAbandoned, TimedOut]
    assert kinds == [type(event) for event in events]
    assert [1] == [e.abandoned for e in events if isinstance(e, CallAbandoned)]
    gate.open(lambda: timeout.abandoned == 0)
    assert (0, 0) == (bulkhead.in_use, inner.in_use)
    assert timeout.is_pristine()


@in_sync
async def test_threads_are_bounded(w: World) -> None:
    """Beyond `max_threads` a call is rejected; abandoned ones count."""
    timeout = Timeout(1, abandon=True, max_threads=1, name="t")
    with pytest.raises(TimeoutExceededError):
        timeout.call(lambda: clock.sleep(5))
    calls: list[int] = []
    with pytest.raises(BulkheadFullError) as caught:
        timeout.call(lambda: calls.append(1))
    assert ("t", 1) == (caught.value.policy, caught.value.max_concurrency)
    assert [] == calls
    clock.sleep(5)
    assert None is timeout.call(lambda: calls.append(1))
    assert [1] == calls


@in_sync
async def test_a_thread_in_time_is_a_call_as_any_other(w: World) -> None:
    """Arguments, value and error; the caller's context; another thread."""
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("mine")
    timeout = Timeout(1, abandon=True)
    events = recorder(timeout)

    def look(a: int, *, b: int) -> tuple[Any, ...]:
        name = threading.current_thread().name
        return a, b, variable.get(), current_call().name, remaining(), name

    *seen, name = timeout.call(look, 1, b=2)
    assert [1, 2, "mine", seen[3], 1.0] == seen
    assert seen[3].endswith("look")
    assert f"resilient {seen[3]}" == name
    error = OSError()

    def fails() -> None:
        raise error

    with pytest.raises(OSError) as caught:
        timeout.call(fails)
    assert error is caught.value
    assert [] == events
    assert 0 == timeout._threads_here().running


@in_sync
async def test_what_is_no_exception_comes_through_from_the_thread(w: World) -> None:
    """KeyboardInterrupt raised there is raised here."""
    timeout = Timeout(1, abandon=True)

    def stops() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        timeout.call(stops)
    assert 0 == timeout._threads_here().running


@in_sync
async def test_an_awaitable_from_the_thread_is_refused(w: World) -> None:
    """It cannot be protected, is no outcome to retry, and leaves nothing."""
    calls: list[int] = []

    async def asynchronous() -> None:
        raise AssertionError  # pragma: no cover

    def disguised() -> Any:
        calls.append(1)
        return asynchronous()

    timeout = Timeout(1, abandon=True)
    with pytest.raises(TypeError, match="returned an awaitable"):
        Pipeline(Retry(TypeError, backoff=constant(0)), timeout).call(disguised)
    assert [1] == calls
    assert 0 == timeout._threads_here().running


@in_sync
async def test_each_attempt_may_be_abandoned(w: World) -> None:
    """The deadline of one attempt ends with it: the waits do not see it."""
    timeout = Timeout(1, abandon=True)
    started: list[float] = []

    def slow() -> str:
        started.append(since_start())
        clock.sleep(1.5 if len(started) < 3 else 0.5)
        return "ok"

    retry = Retry(OSError, backoff=constant(2))
    assert "ok" == Pipeline(Timeout(60), retry, timeout).call(slow)
    assert [0.0, 3.0, 6.0] == started


@in_sync
async def test_a_total_timeout_cuts_an_attempt_that_may_be_abandoned(
    w: World,
) -> None:
    """It names the total, as where calls can be interrupted."""
    for kind in ({}, {"abandon": True}):
        total = Timeout(2.5, name="total", **kind)
        attempt = Timeout(1, name="attempt", abandon=True)
        bulkhead = Bulkhead(3)
        events = recorder(total, attempt)
        pipeline = Pipeline(
            total, Retry(OSError, attempts=9, backoff=constant(0)), bulkhead, attempt
        )
        began = clock.now()
        with pytest.raises(TimeoutExceededError) as caught:
            pipeline.call(lambda: clock.sleep(10))
        assert ("total", 2.5) == (caught.value.policy, caught.value.seconds)
        assert 2.5 == clock.now() - began
        assert 3 == attempt.abandoned
        assert 3 == bulkhead.in_use
        told = [event.policy for event in events if isinstance(event, TimedOut)]
        assert ["attempt", "attempt", "total"] == told
        clock.sleep(20)
        assert (0, 0) == (attempt.abandoned, bulkhead.in_use)


@in_sync
async def test_a_deadline_around_ends_the_waiting_too(w: World) -> None:
    """The wait for the thread ends at the deadline."""
    timeout = Timeout(9, abandon=True, name="t")
    with deadline_after(2), pytest.raises(TimeoutExceededError) as caught:
        timeout.call(lambda: clock.sleep(5))
    assert ("t", 2.0, 2.0) == (
        caught.value.policy,
        caught.value.seconds,
        caught.value.elapsed,
    )
    assert 1 == timeout.abandoned
    clock.sleep(5)
    assert 0 == timeout.abandoned


@in_sync
async def test_a_shorter_timeout_inside_cuts_and_is_named(w: World) -> None:
    """The thread is left at the inner limit."""
    pipeline = Pipeline(Timeout(9, abandon=True, name="t"), Timeout(2, name="short"))
    with pytest.raises(TimeoutExceededError) as caught:
        pipeline.call(lambda: clock.sleep(5))
    assert "short" == caught.value.policy
    assert 2.0 == w.now()
    clock.sleep(5)


@in_sync
async def test_a_late_end_around_a_thread_is_told(w: World) -> None:
    """Waiting around the function took longer than the limit."""
    timeout = Timeout(1, abandon=True)
    events = recorder(timeout)
    breaker = CircuitBreaker(consecutive_failures=1)
    breaker.subscribe(lambda event: clock.sleep(3))

    def fails() -> None:
        raise OSError

    with pytest.raises(OSError):
        Pipeline(timeout, breaker).call(fails)
    assert [2.0] == [event.overrun for event in events]


@in_sync
async def test_a_lock_that_times_out_early_is_asked_again(w: World) -> None:
    """The limit is when the clock says so."""
    timeout = Timeout(1, abandon=True)
    real, waits = clock.wait, []

    def early(lock: threading.Lock, seconds: float | None) -> bool:
        waits.append(seconds)
        return real(lock, 0.25 if len(waits) == 1 else seconds)

    clock.wait = early
    try:
        with pytest.raises(TimeoutExceededError):
            timeout.call(lambda: clock.sleep(5))
    finally:
        clock.wait = real
    assert [1.0, 0.75] == waits
    assert 1.0 == w.now()
    clock.sleep(5)


@in_sync
async def test_an_answer_between_the_limit_and_the_look_counts(w: World) -> None:
    """The thread had ended when it was to be left."""
    timeout = Timeout(1, abandon=True)
    real = clock.wait

    def blind(lock: threading.Lock, seconds: float | None) -> bool:
        assert real(lock, seconds)
        clock.sleep(2)
        return False

    clock.wait = blind
    try:
        assert "answer" == timeout.call(lambda: "answer")
    finally:
        clock.wait = real
    assert 0 == timeout.abandoned


@in_sync
async def test_an_interrupted_wait_leaves_the_thread(w: World) -> None:
    """Ctrl-C while waiting: the thread keeps its place until it ends."""
    timeout = Timeout(9, abandon=True)
    real = clock.wait

    def interrupted(lock: threading.Lock, seconds: float | None) -> bool:
        raise KeyboardInterrupt

    clock.wait = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            timeout.call(lambda: clock.sleep(5))
    finally:
        clock.wait = real
    assert 1 == timeout.abandoned
    clock.sleep(6)
    assert 0 == timeout.abandoned


@in_sync
async def test_an_interrupt_as_the_thread_ends_abandons_nothing(w: World) -> None:
    """Ctrl-C when the answer was there: no thread is left to count."""
    timeout = Timeout(9, abandon=True)
    real = clock.wait

    def interrupted(lock: threading.Lock, seconds: float | None) -> bool:
        assert real(lock, seconds)
        raise KeyboardInterrupt

    clock.wait = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            timeout.call(int)
    finally:
        clock.wait = real
    assert 0 == timeout.abandoned


def test_a_thread_that_cannot_start_takes_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system has none left to give."""

    def refuses(target: Callable[[], None], name: str) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(clock, "start_thread", refuses)
    abandonable = _threads.AbandonableThreads(1)
    with pytest.raises(RuntimeError, match="new thread"):
        abandonable.begin("f", print, (), {})
    assert 0 == abandonable.running


def test_abandoning_has_a_meaning_for_plain_functions_only() -> None:
    """A clear TypeError at once, elsewhere."""
    timeout = Timeout(1, abandon=True)

    async def asynchronous() -> None:
        raise AssertionError  # pragma: no cover

    def generator() -> Any:
        yield 1

    for function in (asynchronous, generator):
        with pytest.raises(TypeError, match="abandon=True"):
            timeout(function)
    with pytest.raises(TypeError, match="abandon=True"):
        timeout.guard()
    with pytest.raises(TypeError, match="abandon=True"):
        Pipeline(Retry(OSError), timeout).attempts()


# -- Construction


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"seconds": 0}, ValueError, "`seconds` must be > 0 seconds, got 0"),
        ({"seconds": -1}, ValueError, "`seconds` must be > 0 seconds, got -1"),
        ({"seconds": float("nan")}, ValueError, "`seconds`"),
        ({"seconds": float("inf")}, ValueError, "finite"),
        ({"seconds": True}, TypeError, "`seconds`"),
        ({"seconds": 1, "max_threads": 0}, ValueError, "`max_threads` must be >= 1"),
        ({"seconds": None, "abandon": True}, ValueError, "`abandon` must have"),
        ({"seconds": 1, "idle": 0}, ValueError, "`idle` must be > 0 seconds, got 0"),
        ({"seconds": 1, "idle": True}, TypeError, "`idle`"),
        (
            {"seconds": 1, "idle": 1, "abandon": True},
            ValueError,
            "`idle` must be None with `abandon`: it is for streams",
        ),
    ],
)
def test_bad_arguments_are_refused(
    arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """At construction, naming parameter, rule and value."""
    with pytest.raises(kind) as caught:
        Timeout(**arguments)
    assert text in str(caught.value)


def test_its_repr_reads_like_the_call_that_made_it() -> None:
    """Only what differs from the default is shown."""
    assert "Timeout(1.5)" == repr(Timeout(1.5))
    assert "Timeout(1.0, abandon=True)" == repr(Timeout(1, abandon=True))
    assert 0 == Timeout(1).abandoned
    assert Timeout(1).is_pristine()


def test_a_place_is_counted_once_when_the_start_of_a_thread_is_interrupted() -> None:
    """Ctrl-C may come before or after the thread has begun."""
    ran: list[str] = []
    for begins in (False, True):
        abandonable = AbandonableThreads(1)
        threads: list[Callable[[], None]] = []

        def start(
            target: Callable[[], None],
            name: str,
            begins: bool = begins,
            threads: list[Callable[[], None]] = threads,
        ) -> threading.Thread:
            threads.append(target)
            if begins:
                target()
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "start_thread", start)
            with pytest.raises(KeyboardInterrupt):
                abandonable.begin("f", ran.append, ("ran",), {})
        if not begins:
            # It begins after all, when its result is not wanted any more.
            threads[0]()
        assert 0 == abandonable.running
        assert 0 == abandonable.abandoned
    assert ["ran"] == ran
