"""Slots that several processes share, through a store in memory.

Bulkheads of one name are what as many processes have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour

from resilient import (
    Bulkhead,
    BulkheadFullError,
    Call,
    Pipeline,
    Policy,
    StoreBack,
    StoreLost,
    deadline_after,
)
from resilient._runtimes import clock
from resilient._sharing import store as store_module
from resilient.testing import MemoryStore, virtual_time


def fleet(store: MemoryStore, limit: int, size: int = 2, **kw: Any) -> list[Bulkhead]:
    """Return what so many processes have of one bulkhead."""
    kw = {"name": "api", "shared": store, **kw}
    return [Bulkhead(limit, **kw) for _ in range(size)]


class Running:
    """Calls that run for a while, and the most that ran at once."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.now = self.most = self.refused = self.done = 0

    async def hold(self, seconds: float) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.w.sleep(seconds)
        finally:
            self.now -= 1
        self.done += 1

    def call(self, bulkhead: Bulkhead, seconds: float) -> Callable[[], Any]:
        async def call() -> None:
            try:
                await self.w.call(bulkhead, self.hold, seconds)
            except BulkheadFullError:
                self.refused += 1

        return call


@in_every_colour
async def test_a_call_within_the_share_does_not_wait(w: World) -> None:
    """The first one asks; those after it have a slot."""
    store = MemoryStore()
    store.slow(0.02)
    (bulkhead,) = fleet(store, 5, 1)
    running = Running(w)
    for _ in range(20):
        await running.call(bulkhead, 0.01)()
    assert (20, 0) == (running.done, running.refused)
    assert 0.22 == pytest.approx(w.now())
    assert bulkhead.status()["store.exchanges"] < 4


@in_async_colours
async def test_all_members_together_have_the_limit(w: World) -> None:
    """Twenty calls at once of two processes, of which seven may run."""
    one, other = fleet(MemoryStore(), 7)
    running = Running(w)
    calls = [running.call(one, 1.0), running.call(other, 1.0)] * 10
    await w.gather(*calls)
    assert (7, 7, 13) == (running.most, running.done, running.refused)
    assert 0 == one.in_use + other.in_use


@in_async_colours
async def test_a_line_is_served_by_what_others_free(w: World) -> None:
    """Each has a line of its own; what one frees another may have."""
    one, other = fleet(MemoryStore(), 4, max_queue=20)
    running = Running(w)
    calls = [running.call(one, 0.5), running.call(other, 0.5)] * 10
    await w.gather(*calls)
    assert (4, 20, 0) == (running.most, running.done, running.refused)
    # Five rounds of half a second, and somewhat for the hand-over.
    assert 2.5 <= w.now() < 3.5


@in_async_colours
async def test_many_that_ask_at_once_share_an_answer(w: World) -> None:
    """They wait for nothing but that: there is no line."""
    store = MemoryStore()
    store.slow(0.02)
    (bulkhead,) = fleet(store, 10, 1)
    running = Running(w)
    await w.gather(*[running.call(bulkhead, 1.0)] * 12)
    assert (10, 10, 2) == (running.most, running.done, running.refused)
    assert 1.1 > w.now()


@in_async_colours
async def test_long_calls_keep_their_slots(w: World) -> None:
    """Their lease is renewed while they run, and no call is made."""
    one, other = fleet(MemoryStore(), 3)
    running = Running(w)

    async def late() -> None:
        await w.sleep(30)
        await running.call(other, 1.0)()

    await w.gather(*[running.call(one, 60.0)] * 3, late)
    assert (3, 1) == (running.most, running.refused)


@in_async_colours
async def test_a_cancelled_call_gives_its_slot_back(w: World) -> None:
    """While it asks, and while it runs."""
    import anyio

    store = MemoryStore()
    store.slow(0.02)
    one, other = fleet(store, 1)
    running = Running(w)
    for seconds in (0.01, 0.5):
        with anyio.move_on_after(seconds):
            await w.call(one, running.hold, 9.0)
    assert 0 == one.in_use + one.queued
    await w.sleep(0.1)
    await running.call(other, 0.1)()
    await w.sleep(3)
    await running.call(other, 0.1)()
    assert running.done > 0


@in_async_colours
async def test_many_cancelled_calls_leave_nothing_in_use(w: World) -> None:
    """While they ask, wait and run; and what is shared comes back."""
    import anyio

    store = MemoryStore()
    store.slow(0.02)
    members = fleet(store, 5, 3, max_queue=8)
    running = Running(w)

    def cut(place: int) -> Callable[[], Any]:
        async def call() -> None:
            with anyio.move_on_after(0.007 * (place % 9)):
                await running.call(members[place % 3], 0.01 * (place % 5))()

        return call

    for _ in range(4):
        await w.gather(*[cut(place) for place in range(50)])
    assert 5 == running.most
    assert running.done > 20
    assert [0] * 6 == [n for one in members for n in (one.in_use, one.queued)]
    for _ in range(40):
        await w.sleep(0.1)
        store.link.poll(clock.now())
    assert {} == store.link._slots["slots:api"].shares


@in_every_colour
async def test_without_the_store_each_has_its_part(w: World) -> None:
    """When all leases have ended; the loss and the return are told once."""
    store = MemoryStore(members=2)
    one, other = fleet(store, 10)
    events: list[Any] = []
    one.subscribe(events.append)
    running = Running(w)
    await running.call(one, 0.1)()
    await running.call(other, 0.1)()
    store.lose()
    # Its lease ends, and then that of any other.
    for _ in range(30):
        await running.call(one, 0.0)()
        await w.sleep(0.1)
    assert "lost" == one.status()["shared.store"]
    assert 5 == one._slots.limit
    store.recover()
    for _ in range(50):
        await running.call(one, 0.0)()
        await w.sleep(0.1)
    assert "up" == one.status()["shared.store"]
    assert [StoreLost, StoreBack] == [
        type(event) for event in events if isinstance(event, (StoreLost, StoreBack))
    ]
    assert running.done > 20 < running.refused + 40


@in_every_colour
async def test_no_call_waits_longer_than_the_patience(w: World) -> None:
    """And only the first does."""
    store = MemoryStore()
    store.slow(10.0)
    (bulkhead,) = fleet(store, 5, 1)
    running = Running(w)
    for _ in range(4):
        await running.call(bulkhead, 0.01)()
    assert 4 == running.refused
    assert 0.05 == pytest.approx(w.now())


@in_every_colour
async def test_a_deadline_ends_the_wait_for_an_answer(w: World) -> None:
    """And one that is over begins none."""
    store = MemoryStore()
    store.slow(0.04)
    (bulkhead,) = fleet(store, 5, 1)
    with deadline_after(0.01), pytest.raises(BulkheadFullError, match="api"):
        await w.call(bulkhead, Running(w).hold, 0.0)
    assert 0.01 == pytest.approx(w.now())


@in_async_colours
async def test_resizing_is_this_processs_word(w: World) -> None:
    """The lowest that is stated holds for all."""
    one, other = fleet(MemoryStore(), 10)
    one.resize(2)
    assert 2 == one.max_concurrency
    running = Running(w)
    await running.call(one, 0.1)()
    await w.sleep(3)
    await w.gather(*[running.call(other, 1.0)] * 10)
    assert 2 == running.most
    assert 2 == other.status()["shared.limit"]


def test_a_store_that_forgets_lends_nothing_new_for_a_lease() -> None:
    """What each has it keeps; an empty bulkhead is refused for two seconds."""
    with virtual_time() as time:
        store = MemoryStore()
        one, other = fleet(store, 4)
        one.call(int)
        other.call(int)
        time.advance(5)
        one.call(int)
        store.forget()
        time.advance(0.1)
        with pytest.raises(BulkheadFullError):
            other.call(int)
        time.advance(2.1)
        other.call(int)


def test_closing_the_store_gives_back_what_is_held() -> None:
    """Not what runs."""
    with virtual_time():
        store = MemoryStore()
        one, _ = fleet(store, 2)

        def inside() -> None:
            store.link.close()
            # What it has held besides can be another's.
            (slots,) = store.link._slots.values()
            assert [1.0] == [share.slots for share in slots.shares.values()]
            with pytest.raises(BulkheadFullError):
                one.call(int)

        one.call(inside)
        MemoryStore().link.close()
        fleet(store, 2, name="unused")[0].shared.link.close()  # type: ignore[union-attr]


def test_a_bulkhead_made_while_the_store_is_lost_asks_nothing() -> None:
    """Until it is there again."""
    with virtual_time():
        store = MemoryStore()
        (first,) = fleet(store, 2, 1)
        store.lose()
        with pytest.raises(BulkheadFullError):
            first.call(int)
        (late,) = fleet(store, 2, 1)
        assert "lost" == late.status()["shared.store"]


def test_a_sync_call_on_a_loops_thread_never_waits() -> None:
    """It is refused where it would have to, and asks for the next one."""

    async def main() -> list[str]:
        store = MemoryStore()
        store.slow(0.02)
        (bulkhead,) = fleet(store, 2, 1)
        results: list[str] = []
        for _ in range(2):
            try:
                bulkhead.call(int)
                results.append("passed")
            except BulkheadFullError:
                results.append("refused")
            await asyncio.sleep(0.03)
        return results

    assert ["refused", "passed"] == virtual_time.run(main, backend="asyncio")


def test_a_forked_child_holds_nothing() -> None:
    """It is another member."""
    with virtual_time():
        (bulkhead,) = fleet(MemoryStore(), 3, 1)
        bulkhead.call(int)
        shared = bulkhead._shared
        assert shared is not None
        before = shared.id
        store_module._forked()
        assert before != shared.id
        assert 0 == shared.holding.allowed(0.0)


def test_a_copy_shares_through_the_same_store() -> None:
    """As it reads."""
    store = MemoryStore()
    (bulkhead,) = fleet(store, 3, 1)
    again = bulkhead.with_(max_queue=1)
    assert store is again.shared
    assert "Bulkhead(3, max_queue=1, shared=MemoryStore(), name='api')" == repr(again)
    assert Bulkhead(1).shared is None


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: Bulkhead(1, shared=MemoryStore()),
            ValueError,
            "`name` of a shared policy must be 1 to 64 letters",
        ),
        (
            lambda: Bulkhead(1, shared="redis", name="api"),  # type: ignore[arg-type]
            TypeError,
            "`shared` must be a store, got 'redis'",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(
    make: Callable[[], Any], error: type[Exception], text: str
) -> None:
    """With a text."""
    with pytest.raises(error, match=text):
        make()


def test_a_deadline_that_is_over_waits_for_no_answer() -> None:
    """It is refused, and told why."""
    with virtual_time() as time:
        store = MemoryStore()
        store.slow(0.02)
        (bulkhead,) = fleet(store, 5, 1)

        class Slow(Policy[Any]):
            async def around(self, proceed: Any, call: Call) -> Any:
                time.advance(1.0)
                return await proceed(call)

        late = Pipeline(Slow(), bulkhead)
        with deadline_after(0.5), pytest.raises(BulkheadFullError) as caught:
            late.call(int)
        assert caught.value.by_deadline
