"""Bulkhead, in three colours."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import pickle
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour
from tests.interrupts import amid_change
from tests.slots import staying, texts

from resilient import (
    Bulkhead,
    BulkheadFullError,
    Call,
    CallRejected,
    DeadlineExceededError,
    Event,
    Fallback,
    PermitWaited,
    Pipeline,
    Retry,
    Timeout,
    deadline_after,
    priority,
)
from resilient._machines.slots import Slots
from resilient._runtimes.sync import SYNC, SyncWaiter
from resilient.testing import virtual_time

# -- Slots


@in_every_colour
async def test_a_call_takes_a_slot_and_gives_it_back(w: World) -> None:
    """It is in use while the function runs, however that ends."""
    bulkhead = Bulkhead(2)
    seen: list[int] = []

    async def succeed() -> str:
        seen.append(bulkhead.in_use)
        return "ok"

    async def fail() -> None:
        seen.append(bulkhead.in_use)
        raise OSError

    assert "ok" == await w.call(bulkhead, succeed)
    with pytest.raises(OSError, match=r"^$"):
        await w.call(bulkhead, fail)
    assert [1, 1] == seen
    assert 0 == bulkhead.in_use
    assert bulkhead.is_pristine()


@in_every_colour
async def test_without_a_queue_the_call_too_many_is_rejected_at_once(w: World) -> None:
    """It waits for nothing and is not called."""
    bulkhead = Bulkhead(1, name="db")
    events: list[Event] = []
    bulkhead.subscribe(events.append)

    async def outer() -> None:
        assert not bulkhead.is_pristine()
        await w.call(bulkhead, outer)

    with pytest.raises(BulkheadFullError) as caught:
        await w.call(bulkhead, outer)
    assert "bulkhead 'db' is full (1 running)" == str(caught.value)
    assert ("db", None, 1, 0, 0.0) == (
        caught.value.policy,
        caught.value.retry_after,
        caught.value.max_concurrency,
        caught.value.queued,
        caught.value.waited,
    )
    assert 0.0 == w.now()
    rejected = CallRejected("db", events[0].call, "BulkheadFullError", None, None)
    assert [rejected] == events


@in_async_colours
async def test_a_full_queue_rejects(w: World) -> None:
    """One runs, one waits, the third is told how many there are."""
    bulkhead = Bulkhead(1, max_queue=1, name="db")
    results = await w.gather(
        staying(w, bulkhead, 5),
        staying(w, bulkhead, 5, after=1),
        staying(w, bulkhead, 5, after=2),
    )
    assert [
        0.0,
        5.0,
        "bulkhead 'db' is full (1 running, 1 waiting)",
    ] == texts(results)
    assert 0 == bulkhead.in_use == bulkhead.queued


@in_async_colours
async def test_the_oldest_in_line_goes_first(w: World) -> None:
    """FIFO is the default, and a late arrival cannot overtake."""
    bulkhead = Bulkhead(1, max_queue=3)
    calls = [staying(w, bulkhead, 10, after=place) for place in range(4)]
    assert [0.0, 10.0, 20.0, 30.0] == await w.gather(*calls)


@in_async_colours
async def test_lifo_serves_the_newest_first(w: World) -> None:
    """The oldest callers have probably given up."""
    bulkhead = Bulkhead(1, max_queue=3, order="lifo")
    calls = [staying(w, bulkhead, 10, after=place) for place in range(4)]
    assert [0.0, 30.0, 20.0, 10.0] == await w.gather(*calls)


@in_async_colours
async def test_waiting_is_an_event(w: World) -> None:
    """It says how long, and nothing is said of calls that did not wait."""
    bulkhead = Bulkhead(1, max_queue=1, name="db")
    events: list[Event] = []
    bulkhead.subscribe(events.append)
    await w.gather(staying(w, bulkhead, 5), staying(w, bulkhead, 1, after=2))
    [event] = events
    assert isinstance(event, PermitWaited)
    assert 3.0 == event.waited


# -- Priority


def important(
    w: World, bulkhead: Bulkhead, name: Any, *, after: float
) -> Callable[[], Awaitable[float]]:
    """Return a call of a class that begins `after` and stays for 10 s."""

    async def call() -> float:
        await w.sleep(after)
        with priority(name):
            return await staying(w, bulkhead, 10)()

    return call


@in_async_colours
async def test_the_most_important_in_line_goes_first(w: World) -> None:
    """Of the same class, the oldest."""
    bulkhead = Bulkhead(1, max_queue=4)
    names = ("normal", "batch", "critical", "normal", "critical")
    calls = [
        important(w, bulkhead, name, after=after) for after, name in enumerate(names)
    ]
    assert [0.0, 40.0, 10.0, 30.0, 20.0] == await w.gather(*calls)


@in_async_colours
async def test_a_full_queue_makes_room_for_a_more_important_call(w: World) -> None:
    """The least important that waits is rejected at once, and told why."""
    bulkhead = Bulkhead(1, max_queue=2, name="db")
    events: list[Event] = []
    bulkhead.subscribe(events.append)
    names = ("normal", "batch", "sheddable", "normal", "sheddable")
    calls = [
        important(w, bulkhead, name, after=after) for after, name in enumerate(names)
    ]
    results = await w.gather(*calls)
    assert [
        0.0,
        "bulkhead 'db' is full (1 running, 2 waiting) after 2 s:"
        " the place in the queue went to a more important call",
        20.0,
        10.0,
        "bulkhead 'db' is full (1 running, 2 waiting)",
    ] == texts(results)
    displaced = results[1]
    assert ("displaced", None) == (displaced.reason, results[4].reason)
    assert not displaced.by_deadline
    assert "displaced" == pickle.loads(pickle.dumps(displaced)).reason
    [rejected, _] = [event for event in events if isinstance(event, CallRejected)]
    assert "displaced" == rejected.reason
    assert 0 == bulkhead.in_use == bulkhead.queued


@in_async_colours
async def test_a_displaced_call_is_not_rejected_by_its_deadline(w: World) -> None:
    """With more time it would have been displaced all the same."""
    bulkhead = Bulkhead(1, max_queue=1)

    async def hurried() -> float:
        with deadline_after(5):
            return await important(w, bulkhead, "batch", after=1)()

    results = await w.gather(
        staying(w, bulkhead, 10), hurried, important(w, bulkhead, "normal", after=2)
    )
    assert [0.0, 10.0] == [results[0], results[2]]
    assert ("displaced", False) == (results[1].reason, results[1].by_deadline)


@in_async_colours
async def test_a_class_that_is_alone_has_every_slot(w: World) -> None:
    """Priority orders, it reserves nothing."""
    bulkhead = Bulkhead(2, max_queue=1)
    calls = [important(w, bulkhead, "batch", after=after) for after in range(3)]
    assert [0.0, 1.0, 10.0] == await w.gather(*calls)


# -- The end of a wait


@in_every_colour
async def test_a_wait_ends_with_max_wait(w: World) -> None:
    """The call is then rejected, having waited so long, and out of the queue."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=timedelta(seconds=2), name="db")

    async def outer() -> None:
        await w.call(bulkhead, outer)

    with pytest.raises(BulkheadFullError) as caught:
        await w.call(bulkhead, outer)
    assert "bulkhead 'db' is full (1 running) after 2 s" == str(caught.value)
    assert 2.0 == caught.value.waited == w.now()
    assert 0 == bulkhead.queued == bulkhead.in_use


@in_every_colour
async def test_a_wait_ends_with_the_deadline(w: World) -> None:
    """The earlier of the two counts."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=10)

    async def outer() -> None:
        with deadline_after(3):
            await w.call(bulkhead, outer)

    with pytest.raises(BulkheadFullError) as caught:
        await w.call(bulkhead, outer)
    assert 3.0 == caught.value.waited == w.now()


@in_every_colour
async def test_max_wait_zero_is_no_wait(w: World) -> None:
    """Whatever the queue."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=0)

    async def outer() -> None:
        await w.call(bulkhead, outer)

    with pytest.raises(BulkheadFullError):
        await w.call(bulkhead, outer)
    assert 0.0 == w.now()


@in_every_colour
async def test_who_has_no_time_left_does_not_join_the_line(w: World) -> None:
    """The edge refuses such calls; within one, time may run out as well."""
    bulkhead = Bulkhead(1, max_queue=1)

    async def outer() -> None:
        with deadline_after(0):
            await w.call(bulkhead, outer)

    with pytest.raises(DeadlineExceededError):
        await w.call(bulkhead, outer)

    async def retried() -> None:
        with deadline_after(1):
            await w.call(Pipeline(SlowAdmission(w), bulkhead), outer)

    with pytest.raises(BulkheadFullError) as caught:
        await w.call(bulkhead, retried)
    assert 0.0 == caught.value.waited
    assert caught.value.by_deadline


class SlowAdmission(Bulkhead):
    """A policy around that takes all the time there is."""

    def __init__(self, w: World) -> None:
        super().__init__(1)
        self.w = w

    async def around(self, proceed: Any, call: Any) -> Any:
        await call.runtime.sleep(1)
        return await proceed(call)


@in_async_colours
async def test_the_slot_of_a_cancelled_waiter_is_free_at_once(w: World) -> None:
    """The queue is shorter from that moment, not from when its turn comes."""
    bulkhead = Bulkhead(1, max_queue=1)

    async def nothing() -> None: ...

    async def impatient() -> None:
        await w.sleep(1)
        await w.call(Pipeline(Timeout(1), bulkhead), nothing)

    results = await w.gather(
        staying(w, bulkhead, 10), impatient, staying(w, bulkhead, 1, after=3)
    )
    assert 0.0 == results[0]
    assert 10.0 == results[2]
    assert 0 == bulkhead.in_use == bulkhead.queued


@in_async_colours
async def test_a_slot_granted_to_a_cancelled_call_goes_on(w: World) -> None:
    """Granted and cancelled in the same tick, again and again: none is lost."""
    bulkhead = Bulkhead(1, max_queue=2, max_wait=60)
    order: list[str] = []

    async def waiter(name: str) -> None:
        async with bulkhead.guard():
            order.append(name)

    for _ in range(2_500):
        await _grant_and_cancel(w, bulkhead, waiter)
    assert ["next"] * 2_500 == order
    assert 0 == bulkhead.in_use == bulkhead.queued


async def _grant_and_cancel(
    w: World, bulkhead: Bulkhead, waiter: Callable[[str], Awaitable[None]]
) -> None:
    if w.colour == "asyncio":
        async with bulkhead.guard():
            cancelled = asyncio.ensure_future(waiter("cancelled"))
            await asyncio.sleep(0)
            following = asyncio.ensure_future(waiter("next"))
            await asyncio.sleep(0)
            assert 2 == bulkhead.queued
        cancelled.cancel()
        await asyncio.wait([cancelled, following])
        assert cancelled.cancelled()
        return

    import trio

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def cancellable() -> None:
            with scope:
                await waiter("cancelled")

        async with bulkhead.guard():
            nursery.start_soon(cancellable)
            while bulkhead.queued < 1:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(waiter, "next")
            while bulkhead.queued < 2:
                await trio.lowlevel.checkpoint()
            # NB: trio would deliver the wake first if cancelled afterwards.
            scope.cancel()


# -- Live changes


@in_async_colours
async def test_growing_wakes_waiters_at_once(w: World) -> None:
    """As many as fit, in order."""
    bulkhead = Bulkhead(1, max_queue=3)

    async def grow() -> None:
        await w.sleep(4)
        bulkhead.resize(3)
        assert 3 == bulkhead.max_concurrency

    calls = [staying(w, bulkhead, 10, after=place) for place in range(4)]
    assert [0.0, 4.0, 4.0, 10.0, None] == await w.gather(*calls, grow)


@in_async_colours
async def test_shrinking_interrupts_no_call(w: World) -> None:
    """Who runs goes on; new ones wait until few enough are left."""
    bulkhead = Bulkhead(5, max_queue=1)

    async def shrink() -> None:
        await w.sleep(1)
        bulkhead.resize(2)
        assert 5 == bulkhead.in_use

    calls = [staying(w, bulkhead, 10 + place) for place in range(5)]
    late = staying(w, bulkhead, 1, after=2)
    results = await w.gather(*calls, late, shrink)
    assert [0.0, 0.0, 0.0, 0.0, 0.0, 13.0, None] == results


def test_a_size_below_one_is_refused() -> None:
    """And nothing has changed."""
    bulkhead = Bulkhead(2)
    with pytest.raises(ValueError, match="`max_concurrency` must be >= 1, got 0"):
        bulkhead.resize(0)
    assert 2 == bulkhead.max_concurrency


# -- Calls inside calls


@in_every_colour
async def test_a_call_inside_a_call_never_waits_without_end(w: World) -> None:
    """It would wait for its own caller: rejected instead of a dead-lock."""
    bulkhead = Bulkhead(1, max_queue=5)

    async def inner() -> None:
        raise AssertionError("it has no slot")

    async def outer() -> str:
        with pytest.raises(BulkheadFullError):
            await w.call(bulkhead, inner)
        return "ok"

    assert "ok" == await w.call(bulkhead, outer)
    assert 0.0 == w.now()


@in_async_colours
async def test_the_call_that_would_close_a_circle_is_rejected(w: World) -> None:
    """Each holds one of two and wants another: the second may not wait too."""
    bulkhead = Bulkhead(2, max_queue=5)

    async def inner() -> float:
        return w.now()

    async def outer(seconds: float) -> float:
        await w.sleep(seconds)
        try:
            entered: float = await w.call(bulkhead, inner)
        finally:
            await w.sleep(1)
        return entered

    async def call(seconds: float) -> float:
        entered: float = await w.call(bulkhead, outer, seconds)
        return entered

    first, second = await w.gather(lambda: call(1), lambda: call(2))
    assert isinstance(second, BulkheadFullError)
    # It took the slot of the other one, which gave up at 2 s and left at 3 s.
    assert 3.0 == first


@in_async_colours
async def test_a_call_inside_a_call_may_wait_for_others(w: World) -> None:
    """A call that holds a slot and waits for none will release it."""
    bulkhead = Bulkhead(2, max_queue=5)
    inner = staying(w, bulkhead, 1)

    async def outer() -> float:
        await w.sleep(1)
        return await inner()

    async def call() -> float:
        entered: float = await w.call(bulkhead, outer)
        return entered

    assert [4.0, 0.0] == await w.gather(call, staying(w, bulkhead, 4))


@in_async_colours
async def test_a_wait_that_will_end_closes_no_circle(w: World) -> None:
    """Here the first waits until its deadline, so that the second may wait."""
    bulkhead = Bulkhead(2, max_queue=5)
    inner = staying(w, bulkhead, 1)

    async def outer(seconds: float, deadline: float) -> float:
        await w.sleep(seconds)
        with deadline_after(deadline):
            return await inner()

    async def limited() -> float:
        entered: float = await w.call(bulkhead, outer, 1, 5)
        return entered

    async def unlimited() -> float:
        entered: float = await w.call(bulkhead, outer, 2, float("inf"))
        return entered

    first, second = await w.gather(limited, unlimited)
    assert isinstance(first, BulkheadFullError)
    assert 6.0 == second


@in_async_colours
async def test_a_call_that_holds_no_slot_any_more_may_wait(w: World) -> None:
    """A fallback runs inside the call, but outside of the bulkhead."""
    bulkhead = Bulkhead(1, max_queue=1)

    async def fail() -> None:
        await w.sleep(1)
        raise OSError

    async def answer(error: Exception) -> float:
        return await staying(w, bulkhead, 1)()

    async def answered() -> float:
        entered: float = await w.call(
            Pipeline(Fallback(function=answer), bulkhead), fail
        )
        return entered

    # The second takes the slot at 1 s, the answer has to wait until 6 s.
    results = await w.gather(answered, staying(w, bulkhead, 5, after=0.5))
    assert [6.0, 1.0] == results


@in_async_colours
async def test_a_task_that_outlives_its_call_may_wait(w: World) -> None:
    """Its call has ended and holds nothing."""
    bulkhead = Bulkhead(1, max_queue=1)
    began: list[float] = []

    async def background() -> None:
        await w.sleep(1)
        began.append(await staying(w, bulkhead, 1)())

    if w.colour == "asyncio":

        async def spawn() -> asyncio.Task[None]:
            return asyncio.ensure_future(background())

        task = await w.call(bulkhead, spawn)
        await staying(w, bulkhead, 5)()
        await task
    else:
        import trio

        async with trio.open_nursery() as nursery:

            async def start() -> None:
                nursery.start_soon(background)

            await w.call(bulkhead, start)
            await staying(w, bulkhead, 5)()
    assert [5.0] == began


# -- Streams


@in_every_colour
async def test_a_stream_holds_its_slot_to_its_end(w: World) -> None:
    """It counts as running for as long as the next item may be asked for."""
    bulkhead = Bulkhead(1)

    async def rows() -> Any:
        yield 1
        yield 2

    def sync_rows() -> Iterator[int]:
        yield 1
        yield 2

    held: list[int] = []
    if w.is_sync:
        for _ in bulkhead(sync_rows)():
            held.append(bulkhead.in_use)
    else:
        async for _ in bulkhead(rows)():
            held.append(bulkhead.in_use)
    assert [1, 1] == held
    assert 0 == bulkhead.in_use


# -- Who waits where


def test_a_thread_with_a_loop_does_not_wait() -> None:
    """What could wake it may need that loop."""
    bulkhead = Bulkhead(1, max_queue=1)

    async def main() -> None:
        async with bulkhead.guard():
            with pytest.raises(RuntimeError, match="thread that runs an event loop"):
                bulkhead.call(bool)

    asyncio.run(main())
    assert 0 == bulkhead.in_use == bulkhead.queued


def test_a_slot_for_a_waiter_whose_loop_is_closed_goes_to_the_next() -> None:
    """However many there are of those."""
    bulkhead = Bulkhead(1, max_queue=5_000)
    forgotten: list[Any] = []

    async def wait() -> None:
        async with bulkhead.guard():
            raise AssertionError("it was resumed")

    def leave_a_loop(waiters: int) -> None:
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(wait()) for _ in range(waiters)]
        loop.run_until_complete(asyncio.sleep(0))
        forgotten.extend(tasks)
        loop.close()

    with bulkhead.guard():
        # In a context of their own: they are not calls inside this one.
        contextvars.Context().run(leave_a_loop, 3_000)
        assert 3_000 == bulkhead.queued
    assert 0 == bulkhead.queued
    assert 0 == bulkhead.in_use
    for task in forgotten:
        # The interpreter would complain that it is pending.
        task._log_destroy_pending = False
        coroutine = task.get_coro()
        coroutine.close()
    assert 0 == bulkhead.in_use


class Interrupted:
    """A runtime under which something happens just before a call waits."""

    name = "sync"

    def __init__(self, happens: Callable[[], None]) -> None:
        self.happens = happens

    def waiter(self, call: Call) -> SyncWaiter:
        self.happens()
        return SyncWaiter()


def test_a_slot_that_comes_free_just_before_a_wait_is_taken() -> None:
    """Another call may end between the first try and joining the queue."""
    bulkhead = Bulkhead(1, max_queue=1)
    other = Call.new("other")
    permit = bulkhead.admit(other)
    call = Call.new("call", runtime=Interrupted(lambda: bulkhead.settle(permit, None)))
    assert call is bulkhead.admit(call).call
    assert (1, 0) == (bulkhead.in_use, bulkhead.queued)


def test_a_wake_without_a_slot_means_to_wait_on() -> None:
    """Such wakes may come: `readmit` decides, not the wake."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=60)
    permit = bulkhead.admit(Call.new("other"))
    call = Call.new("call", runtime=SYNC)
    wait = bulkhead.admit(call)
    assert wait is bulkhead.readmit(wait, call)
    bulkhead.settle(permit, None)
    assert call is bulkhead.readmit(wait, call).call


def test_a_slot_granted_too_late_goes_on() -> None:
    """A call that wakes up after its deadline has no time left to begin."""
    with virtual_time() as clock:
        bulkhead = Bulkhead(1, max_queue=2)
        permit = bulkhead.admit(Call.new("other"))
        late, following = (
            Call.new("late", runtime=SYNC),
            Call.new("following", runtime=SYNC),
        )
        late.deadline = 5.0
        wait, next_wait = bulkhead.admit(late), bulkhead.admit(following)
        clock.advance(4)
        bulkhead.settle(permit, None)
        clock.advance(1)
        error = bulkhead.readmit(wait, late)
        assert isinstance(error, BulkheadFullError)
        assert 5.0 == error.waited
        assert following is bulkhead.readmit(next_wait, following).call
        assert (1, 0) == (bulkhead.in_use, bulkhead.queued)


# -- Construction


def test_its_repr_is_the_call_that_made_it() -> None:
    """Without what is as by default; and as large as it is now."""
    assert "Bulkhead(10)" == repr(Bulkhead(10))
    made = "Bulkhead(10, max_queue=5, max_wait=1.5, order='lifo', name='db')"
    assert made == repr(eval(made, {"Bulkhead": Bulkhead}))
    bulkhead = Bulkhead(10)
    bulkhead.resize(3)
    assert "Bulkhead(3)" == repr(bulkhead)


def test_a_changed_copy_has_slots_of_its_own() -> None:
    """All else is as it was."""
    bulkhead = Bulkhead(1, max_queue=5, max_wait=1)
    with bulkhead.guard():
        other = bulkhead.with_(max_queue=7)
        assert "Bulkhead(1, max_queue=7, max_wait=1.0)" == repr(other)
        assert 0 == other.in_use


@pytest.mark.parametrize(
    ("rate", "latency", "slots"),
    [(100, 0.09, 18), (1, timedelta(seconds=1), 4), (0.001, 0.001, 1)],
)
def test_a_known_load_gives_the_size(rate: float, latency: Any, slots: int) -> None:
    """L + 3√L, where L is what runs on average."""
    bulkhead = Bulkhead.for_load(rate, latency, name="db")
    assert slots == bulkhead.max_concurrency
    assert "db" == bulkhead.name


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_concurrency": 0}, ValueError, "`max_concurrency` must be >= 1, got 0"),
        (
            {"max_concurrency": True},
            TypeError,
            "`max_concurrency` must be an int, got True",
        ),
        ({"max_queue": -1}, ValueError, "`max_queue` must be >= 0, got -1"),
        ({"max_wait": -1}, ValueError, "`max_wait` must be >= 0 seconds, got -1"),
        (
            {"max_wait": float("nan")},
            ValueError,
            "`max_wait` must be >= 0 seconds, got nan",
        ),
        (
            {"order": "random"},
            ValueError,
            '`order` must be "fifo" or "lifo", got \'random\'',
        ),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """With parameter, rule and value."""
    with pytest.raises(error) as caught:
        Bulkhead(**{"max_concurrency": 1, **arguments})
    assert text == str(caught.value)


@pytest.mark.parametrize(
    ("rate", "latency", "text"),
    [
        (0, 1, "`rate` must be > 0, got 0"),
        (1, 0, "`latency` must be > 0 seconds, got 0"),
    ],
)
def test_a_load_has_to_be_one(rate: float, latency: float, text: str) -> None:
    """Nothing at all needs no bulkhead."""
    with pytest.raises(ValueError, match=f"^{text}$"):
        Bulkhead.for_load(rate, latency)


# -- With others


@in_every_colour
async def test_a_retry_further_out_does_not_hold_the_slot_while_it_waits(
    w: World,
) -> None:
    """A slot is an attempt's."""
    bulkhead = Bulkhead(1)
    between: list[int] = []
    retry = Retry(OSError, backoff=lambda attempt: between.append(bulkhead.in_use) or 1)

    async def fail() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        await w.call(Pipeline(retry, bulkhead), fail)
    assert [0, 0] == between


def test_threads_get_their_slots_in_the_order_they_came() -> None:
    """FIFO holds between threads, in virtual time as in any other."""
    bulkhead = Bulkhead(1, max_queue=3)
    order: list[int] = []
    with virtual_time():
        with bulkhead.guard():
            threads = []
            for place in range(3):
                thread = threading.Thread(
                    target=bulkhead.call, args=(order.append, place)
                )
                thread.start()
                threads.append(thread)
                while bulkhead.queued <= place:
                    pass
        for thread in threads:
            thread.join()
    assert [0, 1, 2] == order


@in_async_colours
async def test_a_rejection_tells_the_deadline_from_max_wait(w: World) -> None:
    """Whether more time would have let the call wait on."""
    for max_wait, seconds, expected in (
        (None, 2, True),
        (5, 2, True),
        (2, 2, True),
        (1, 2, False),
        (1, None, False),
        (0, 2, False),
    ):
        bulkhead = Bulkhead(1, max_queue=1, max_wait=max_wait)
        found: list[bool] = []

        async def wait(
            bulkhead: Bulkhead = bulkhead,
            seconds: float | None = seconds,
            found: list[bool] = found,
        ) -> None:
            ticket = staying(w, bulkhead, 0)
            await w.sleep(0.5)
            with pytest.raises(BulkheadFullError) as caught:
                if seconds is None:
                    await ticket()
                else:
                    with deadline_after(seconds):
                        await ticket()
            found.append(caught.value.by_deadline)

        await w.gather(staying(w, bulkhead, 9), wait)
        assert ([expected], max_wait, seconds) == (found, max_wait, seconds)


@in_async_colours
async def test_shrinking_closes_no_circle(w: World) -> None:
    """With fewer slots all who hold one may wait for each other: one cannot."""
    bulkhead = Bulkhead(3, max_queue=10)

    async def leaf() -> str:
        return "ok"

    async def outer() -> Any:
        await w.sleep(1)
        return await w.call(bulkhead, leaf)

    async def call() -> Any:
        return await w.call(bulkhead, outer)

    async def resize() -> None:
        await w.sleep(2)
        bulkhead.resize(2)

    async def resize_further() -> None:
        await resize()
        bulkhead.resize(1)

    # With one slot nothing fits inside a call.
    for shrink, expected in (
        (resize, ["BulkheadFullError", "str"]),
        (resize_further, ["BulkheadFullError"] * 2),
    ):
        bulkhead.resize(3)
        results = await w.gather(call, call, staying(w, bulkhead, 3), shrink)
        kinds = sorted(type(result).__name__ for result in results[:2])
        assert expected == kinds
        assert (0, 0) == (bulkhead.in_use, bulkhead.queued)


class Collecting(Slots[Any]):
    """A machine under which a garbage collection begins."""

    def take(self, ticket: Any) -> bool:
        gc.collect()
        return super().take(ticket)


def test_a_collection_under_the_lock_cannot_hang() -> None:
    """It may close a lost call, whose slot is free before a call is refused."""
    bulkhead = Bulkhead(1, max_queue=1)
    bulkhead._slots = Collecting(1, 1)
    seen: list[Any] = []

    @bulkhead
    def items() -> Iterator[int]:
        yield 1

    def lose() -> None:
        lost = items()
        next(lost)
        box: list[Any] = [lost]
        box.append(box)

    def run() -> None:
        lose()
        seen.append(bulkhead.in_use)
        seen.append(bulkhead.call(str, "ok"))
        seen.append(bulkhead.in_use)

    thread = threading.Thread(target=run, daemon=True)
    gc.disable()
    try:
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
    assert [1, "ok", 0] == seen


def test_what_is_given_back_under_the_lock_serves_those_who_wait() -> None:
    """And those who come next, as soon as the lock is free."""
    bulkhead = Bulkhead(1, max_queue=2)
    first, second, third = (Call.new(name, runtime=SYNC) for name in "abc")
    permit = bulkhead.admit(first)
    waits = [bulkhead.admit(second), bulkhead.admit(third)]
    with amid_change(bulkhead):
        bulkhead.settle(permit, None)
        bulkhead.withdraw(waits[0])
    permit = bulkhead.readmit(waits[1], third)
    assert third is permit.call
    with amid_change(bulkhead):
        bulkhead.settle(permit, None)
    permit = bulkhead.admit(first)
    assert first is permit.call
    lost = bulkhead.admit(second)
    with amid_change(bulkhead):
        bulkhead.withdraw(lost)
    wait = bulkhead.admit(third)
    assert (1, 1) == (bulkhead.in_use, bulkhead.queued)
    bulkhead.withdraw(wait)
    bulkhead.settle(permit, None)
    assert bulkhead.is_pristine()


class ReturnsMeanwhile(Slots[Any]):
    """A machine under which another call ends while it is asked."""

    ends: Callable[[], None] | None = None

    @property
    def queues(self) -> dict[Any, Any]:  # type: ignore[override]  # asked first
        if self.ends is not None:
            self.ends()
        return {}

    @queues.setter
    def queues(self, queues: dict[Any, Any]) -> None:
        pass


def test_what_comes_back_during_a_return_is_taken_too() -> None:
    """No later call is needed for that."""
    bulkhead = Bulkhead(2)
    one, other = Call.new("one"), Call.new("other")
    machine = bulkhead._slots = ReturnsMeanwhile(2, 0)
    permits = [bulkhead.admit(one), bulkhead.admit(other)]

    def end() -> None:
        if permits:
            bulkhead.settle(permits.pop(), None)

    machine.ends = end
    bulkhead.settle(permits.pop(0), None)
    assert 0 == bulkhead.in_use
