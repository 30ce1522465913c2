"""A rate limit that several processes share, through a store in memory.

Two limiters of one name are what two processes have.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from tests.colours import World, in_async_colours, in_every_colour

from resilient import (
    Limit,
    LimitLowered,
    PermitWaited,
    Pipeline,
    RateLimitedError,
    RateLimiter,
    StoreBack,
    StoreLost,
    current_call,
    deadline_after,
    health,
)
from resilient._runtimes import clock
from resilient._runtimes.sync import SyncWaiter
from resilient._sharing import store as store_module
from resilient.httpx2 import ResilientTransport
from resilient.policies.rate_limiter.queue import Ticket
from resilient.testing import MemoryStore, virtual_time


async def nothing() -> None:
    """A call that does nothing."""


async def passes(w: World, limiter: RateLimiter, calls: int = 1) -> int:
    """Return how many of so many calls pass."""
    passed = 0
    for _ in range(calls):
        try:
            await w.call(limiter, nothing)
        except RateLimitedError:
            continue
        passed += 1
    return passed


async def rejection(w: World, limiter: RateLimiter) -> RateLimitedError:
    """Return the error of a call that does not pass."""
    with pytest.raises(RateLimitedError) as caught:
        await w.call(limiter, nothing)
    return caught.value


def fleet(
    store: MemoryStore, *args: Any, size: int = 2, **kw: Any
) -> list[RateLimiter]:
    """Return what so many processes have of one limit."""
    kw = {"name": "api", "shared": store, **kw}
    return [RateLimiter(*args, **kw) for _ in range(size)]


# One limit


def test_no_window_of_a_fleet_has_more_than_its_bucket() -> None:
    """0.9 of the rate and 0.1 as a burst: as the page on RateLimiter says."""
    moments: list[float] = []
    with virtual_time() as time:
        store = MemoryStore()
        limiters = fleet(store, 90, per=20, burst=10, size=3)
        for step in range(240):
            if step in (150, 200):
                store.forget()
            for limiter in limiters:
                for _ in range(3):
                    try:
                        moments.append(limiter.call(clock.now))
                    except RateLimitedError:
                        break
            # Once for so long that the bucket is full again.
            time.advance(5.0 if step == 100 else 0.3)
    most = max(
        sum(began <= moment < began + 20 for moment in moments) for began in moments
    )
    assert 90 <= most <= 100


@in_every_colour
async def test_several_limits_of_a_fleet_are_a_limiter_each(w: World) -> None:
    """Both hold for all processes; what the inner one refuses the outer one counts."""
    store = MemoryStore()
    pipelines = [
        Pipeline(
            RateLimiter(30, per=60, name="minute", shared=store),
            RateLimiter(4, per=1, name="second", shared=store),
        )
        for _ in range(3)
    ]
    passed: list[int] = []
    for _ in range(6):
        passed.append(0)
        for pipeline in pipelines:
            for _ in range(2):
                try:
                    await w.call(pipeline, nothing)
                except RateLimitedError:
                    continue
                passed[-1] += 1
        await w.sleep(1)
    # NB: six calls of the minute are taken in each second, of which four pass.
    assert [4, 4, 4, 4] == passed[:4]
    assert sum(passed) < 6 * 4


@in_every_colour
async def test_two_processes_share_one_burst(w: World) -> None:
    """Five in 10 s are five in all processes together."""
    one, other = fleet(MemoryStore(), 5, per=10)
    assert [3, 2] == [await passes(w, one, 3), await passes(w, other, 9)]
    error = await rejection(w, one)
    assert 2.0 == pytest.approx(error.retry_after)
    await w.sleep(2)
    assert [1, 0] == [await passes(w, other, 2), await passes(w, one, 2)]


@in_every_colour
async def test_a_fleet_keeps_the_rate(w: World) -> None:
    """A hundred a second for ten seconds, from four processes, by lease."""
    limiters = fleet(MemoryStore(), 100, size=4)
    began, passed = w.now(), 0
    while w.now() < began + 10:
        for limiter in limiters:
            passed += await passes(w, limiter)
        await w.sleep(0.01)
    assert 1000 <= passed <= 1100


@in_every_colour
async def test_other_names_are_other_limits(w: World) -> None:
    """And so are other stores."""
    store = MemoryStore()
    one = RateLimiter(1, per=60, shared=store, name="one")
    other = RateLimiter(1, per=60, shared=store, name="other")
    elsewhere = RateLimiter(1, per=60, shared=MemoryStore(), name="one")
    for limiter in (one, other, elsewhere):
        assert 1 == await passes(w, limiter, 3)


@in_every_colour
async def test_a_leased_block_is_spent_without_the_store(w: World) -> None:
    """What it was granted is good for a lease, whatever becomes of the store."""
    store = MemoryStore()
    (limiter,) = fleet(store, 1000, size=1)
    for _ in range(300):
        await passes(w, limiter)
        await w.sleep(0.002)
    store.slow(10)
    assert 1 == await passes(w, limiter)
    assert 0.6 == pytest.approx(w.now())


@in_every_colour
async def test_who_may_wait_stands_in_line(w: World) -> None:
    """Each call is served when the fleet's limit lets it."""
    one, other = fleet(MemoryStore(), 2, per=1, burst=1, max_wait=10)
    times = []
    for limiter in (one, other, one, other):
        await w.call(limiter, nothing)
        times.append(round(w.now(), 6))
    assert [0.0, 0.5, 1.0, 1.5] == times


@in_async_colours
async def test_the_line_is_served_in_order(w: World) -> None:
    """First come, first served, with one ask for all of them."""
    (limiter,) = fleet(MemoryStore(), 10, burst=1, size=1, max_wait=5)
    order: list[tuple[int, float]] = []

    def caller(place: int) -> Callable[[], Awaitable[None]]:
        async def call() -> None:
            await w.sleep(place / 1000)
            await w.call(limiter, nothing)
            order.append((place, round(w.now(), 3)))

        return call

    await w.gather(*[caller(place) for place in range(5)])
    assert [0, 1, 2, 3, 4] == [place for place, _ in order]
    assert pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=0.01) == [at for _, at in order]


@in_async_colours
async def test_one_answer_serves_all_who_wait_for_it(w: World) -> None:
    """Fifty calls at once take as long as one, and ask as often."""
    store = MemoryStore()
    store.slow(0.02)
    (limiter,) = fleet(store, 100, size=1)
    answers = 0
    exchange = store.link._answer

    def counting(*args: Any) -> Any:
        nonlocal answers
        answers += 1
        return exchange(*args)

    store.link._answer = counting  # type: ignore[method-assign]
    results = await w.gather(*[lambda: w.call(limiter, nothing)] * 50)
    assert [None] * 50 == results
    assert (0.04, 2) == (pytest.approx(w.now()), answers)


# Waiting for an answer


@in_every_colour
async def test_a_call_waits_for_an_answer(w: World) -> None:
    """Though it may not wait for a permit; and says so."""
    store = MemoryStore()
    store.slow(0.02)
    (limiter,) = fleet(store, 5, per=60, size=1)
    events: list[Any] = []
    limiter.subscribe(events.append)
    assert 1 == await passes(w, limiter)
    assert pytest.approx(0.02) == w.now()
    assert [PermitWaited] == [type(event) for event in events]


@in_every_colour
async def test_an_answer_may_be_no(w: World) -> None:
    """Then the next call is told at once, without asking."""
    store = MemoryStore()
    one, other = fleet(store, 5, per=60)
    assert 5 == await passes(w, one, 5)
    store.slow(0.02)
    error = await rejection(w, other)
    assert pytest.approx(0.02) == w.now()
    assert pytest.approx(12.0, abs=0.1) == error.retry_after
    await rejection(w, other)
    assert pytest.approx(0.02) == w.now()


@in_every_colour
async def test_no_call_waits_longer_than_the_patience(w: World) -> None:
    """And only the first ones do; the others are decided at once."""
    store = MemoryStore(patience=0.05, members=2)
    store.slow(10)
    (limiter,) = fleet(store, 100, size=1)
    # Its share since it asked: 50 a second.
    assert 2 == await passes(w, limiter, 10)
    assert pytest.approx(0.05) == w.now()


@in_async_colours
async def test_a_call_that_is_cancelled_takes_nothing(w: World) -> None:
    """Neither while it waits, nor as it is served."""
    store = MemoryStore()
    store.slow(0.02)
    (limiter,) = fleet(store, 2, per=60, size=1)
    import anyio

    with anyio.move_on_after(0.01):
        await w.call(limiter, nothing)
    assert 0 == limiter.queued
    await w.sleep(1)
    store.recover()
    assert 2 == await passes(w, limiter, 3)


@in_async_colours
async def test_a_call_that_is_cancelled_as_it_is_served_gives_back(w: World) -> None:
    """The store has granted it, but the call is no longer there to use it."""
    store = MemoryStore()
    store.slow(0.02)
    (limiter,) = fleet(store, 2, per=60, size=1)
    import anyio

    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()
        made: list[None] = []

        async def made_it() -> None:
            made.append(None)

        async def call() -> None:
            with scope:
                await w.call(limiter, made_it)

        group.start_soon(call)
        await w.sleep(0.01)
        store.link.poll(0.02)
        scope.cancel()
    store.recover()
    # NB: on asyncio the answer wins over a cancellation of that moment.
    assert 2 == len(made) + await passes(w, limiter, 3)


@in_async_colours
async def test_others_in_line_have_deadlines_of_their_own(w: World) -> None:
    """Also those who leave it to the first one to look for the answer."""
    store = MemoryStore()
    store.slow(0.2)
    (limiter,) = fleet(store, 2, per=60, size=1)
    times: list[float] = []

    async def first() -> None:
        await passes(w, limiter)
        times.append(round(w.now(), 3))

    async def second() -> None:
        with deadline_after(0.02):
            await rejection(w, limiter)
        times.append(round(w.now(), 3))

    async def third() -> None:
        await w.sleep(0.01)
        await second()

    await w.gather(first, second, third)
    assert [0.02, 0.03, 0.05] == times


@in_every_colour
async def test_an_answer_after_the_deadline_is_no_use(w: World) -> None:
    """It is given back."""
    store = MemoryStore()
    store.slow(0.02)
    (limiter,) = fleet(store, 2, per=60, size=1)
    with deadline_after(0.02):
        await rejection(w, limiter)
    store.recover()
    assert 2 == await passes(w, limiter, 3)


def test_who_wakes_too_late_for_what_it_was_served_gives_it_back() -> None:
    """Its deadline came between the answer and its next turn."""
    with virtual_time():
        (limiter,) = fleet(MemoryStore(), 2, per=60, size=1)
        limiter.call(int)
        ticket = Ticket(SyncWaiter(), (1.0,), 0.0, 0.0)
        ticket.granted = True
        late: Any = SimpleNamespace(deadline=0.0, policy=None, name="f")
        assert isinstance(limiter.readmit(ticket, late), RateLimitedError)
        limiter.withdraw(ticket)  # or is cancelled in that moment
        assert 2.0 == limiter._rule._surplus  # type: ignore[union-attr]


@in_every_colour
async def test_an_answer_that_takes_too_long_is_not_read(w: World) -> None:
    """After a quarter of a second; two that are late in a row are a loss as well."""
    for delay, after in [(0.1, 0.2), (10, 0.25)]:
        store = MemoryStore()
        store.slow(delay)
        (limiter,) = fleet(store, 2, per=60, size=1)
        began = w.now()
        while store.up:
            await passes(w, limiter)
            await w.sleep(0.003)
        assert after <= w.now() - began < after + 0.06


@in_every_colour
async def test_members_that_ask_no_more_are_not_counted(w: World) -> None:
    """After a minute."""
    store = MemoryStore()
    one, other = fleet(store, 100)
    counts = []
    for pause in (0, 1, 58, 2, 60):
        await w.sleep(pause)
        await passes(w, one, 20)
        counts.append(one._shared.lease.members if one._shared else 0)
        if pause == 0:
            await passes(w, other)
    assert [1, 2, 2, 1, 1] == counts


@in_every_colour
async def test_a_limiter_made_while_the_store_is_lost_does_not_wait(w: World) -> None:
    """It is told at once."""
    store = MemoryStore(members=1)
    store.lose()
    await passes(w, RateLimiter(1, shared=store, name="one"))
    late = RateLimiter(100, shared=store, name="late")
    await w.sleep(0.04)
    assert 4 == await passes(w, late, 9)


@in_every_colour
async def test_no_call_waits_for_a_store_that_is_closed(w: World) -> None:
    """Each has its share at once, the policies that are made later, too."""
    for lost in (False, True):
        store = MemoryStore(members=1, patience=50)
        limiters = fleet(store, 100, size=2)
        store.slow(20)
        if lost:
            store.lose()
        store.close()
        assert not store.up
        limiters += fleet(store, 100, size=1)
        before = w.now()
        assert [0, 0, 0] == [await passes(w, limiter, 9) for limiter in limiters]
        assert before == w.now()
        await w.sleep(0.045)
        assert [4, 4, 4] == [await passes(w, limiter, 9) for limiter in limiters]


@in_every_colour
async def test_closing_a_lost_store_gives_nothing_back(w: World) -> None:
    """And does not fail."""
    store = MemoryStore(lease=10)
    (limiter,) = fleet(store, 100, burst=10_000, size=1)
    await passes(w, limiter)
    store.lose()
    store.close()
    assert 0 < await passes(w, limiter, 5) or not store.up


@in_every_colour
async def test_a_deadline_ends_the_wait_for_an_answer(w: World) -> None:
    """It comes before the patience ends."""
    store = MemoryStore()
    store.slow(0.2)
    (limiter,) = fleet(store, 2, per=60, size=1)
    with deadline_after(0.01):
        await rejection(w, limiter)
    assert pytest.approx(0.01) == w.now()


# Without the store


@in_every_colour
async def test_without_the_store_each_has_its_share(w: World) -> None:
    """A hundred a second among four: 25 each, and nothing at the start."""
    store = MemoryStore(members=2)
    limiters = fleet(store, 100, size=4)
    for _ in range(2):
        await w.sleep(0.6)
        for limiter in limiters:
            await passes(w, limiter, 20)
    store.lose()
    began, passed = w.now(), 0
    while w.now() < began + 4:
        for limiter in limiters:
            passed += await passes(w, limiter)
        await w.sleep(0.01)
    assert 380 <= passed <= 400 + 4


@in_every_colour
async def test_before_it_was_ever_reached_members_are_assumed(w: World) -> None:
    """Sixteen, unless one says otherwise: too little rather than too much."""
    store = MemoryStore(members=10)
    store.lose()
    (limiter,) = fleet(store, 100, size=1)
    assert 0 == await passes(w, limiter)
    await w.sleep(1)
    assert 10 == await passes(w, limiter, 50)


@in_every_colour
async def test_a_store_that_comes_back_is_used_again(w: World) -> None:
    """What was used meanwhile is booked: it is one limit all the time."""
    store = MemoryStore(members=2)
    limiters = fleet(store, 100, size=2)
    passed = 0

    async def spend(seconds: float) -> None:
        nonlocal passed
        until = w.now() + seconds
        while w.now() < until:
            for limiter in limiters:
                passed += await passes(w, limiter)
            await w.sleep(0.005)

    await spend(2)
    store.lose()
    await spend(2)
    assert not store.up
    store.recover()
    await spend(3)
    assert store.up
    assert 0.9 * 800 <= passed <= 100 + 700 + 1


@in_every_colour
async def test_a_store_that_forgets_gives_nothing_away(w: World) -> None:
    """FLUSHALL in the middle, and its clock set: one burst, not three."""
    store = MemoryStore()
    limiters = fleet(store, 100, size=2)
    passed = 0
    for step in range(300):
        if step == 100:
            store.forget()
        if step == 200:
            store.jump(300)
        for limiter in limiters:
            passed += await passes(w, limiter)
        await w.sleep(0.01)
    assert passed <= 100 + 300


@in_every_colour
async def test_a_policy_may_be_stricter_or_laxer(w: World) -> None:
    """By a setting of the store that it is given."""
    store = MemoryStore()
    store.lose()
    for lost, passed in [("reject", 0), ("alone", 10), ("pass", 20)]:
        (limiter,) = fleet(store.with_(lost=lost), 10, size=1)
        assert passed == await passes(w, limiter, 20)
        assert lost == (limiter.shared and limiter.shared.lost)


@in_every_colour
async def test_where_a_share_is_below_one_call_none_passes(w: World) -> None:
    """Five a minute among sixteen: the sum is kept."""
    store = MemoryStore()
    store.lose()
    (limiter,) = fleet(store, 5, per=60, size=1)
    await w.sleep(1000)
    error = await rejection(w, limiter)
    assert error.retry_after is None


# Costs, and live changes


@in_every_colour
async def test_a_cost_known_afterwards_is_corrected(w: World) -> None:
    """For the fleet: more is taken, and what was too much is given back."""
    one, other = fleet(MemoryStore(lease=0), 100, per=60, cost=50)

    async def costs(amount: int) -> None:
        current_call().set_cost(requests=amount)

    await w.call(one, costs, 10)
    assert 1 == await passes(w, one)
    assert 0 == await passes(w, other)
    await w.sleep(10)
    await w.call(one, costs, 90)
    await rejection(w, one)
    await rejection(w, other)
    await w.sleep(60)
    assert 1 == await passes(w, other)


@in_every_colour
async def test_a_cost_beyond_the_burst_never_passes(w: World) -> None:
    """A lease shortens the burst; a computed cost may be in between."""
    (limiter,) = fleet(
        MemoryStore(lease=0.1), 100, size=1, cost=lambda call: call.args[0]
    )

    async def costs(amount: int) -> None:
        pass

    with pytest.raises(RateLimitedError):
        await w.call(limiter, costs, 95)
    await w.call(limiter, costs, 90)


@in_every_colour
async def test_a_rate_set_live_is_this_processs(w: World) -> None:
    """The lower of two holds for all, as in a rolling deploy."""
    one, other = fleet(MemoryStore(), 10, per=60)
    assert [1, 1] == [await passes(w, one), await passes(w, other)]
    one.set_rate(2, per=60)
    await passes(w, one, 9)
    assert 0 == await passes(w, other, 9)
    await w.sleep(50)
    assert 2 >= await passes(w, other, 9)


@in_every_colour
async def test_what_a_server_says_is_told_to_the_fleet(w: World) -> None:
    """Nothing is left: not for the others either."""
    one, other = fleet(MemoryStore(), 10, per=60)
    assert 1 == await passes(w, one)
    one.learn(remaining=0, reset=5)
    assert 0 == await passes(w, one)
    assert 0 == await passes(w, other)
    await w.sleep(6.1)
    assert 1 == await passes(w, other)


@in_every_colour
async def test_reset_forgets_what_this_process_was_told(w: World) -> None:
    """The fleet's limit is not reset by one of its members."""
    one, other = fleet(MemoryStore(), 5, per=60)
    assert 5 == await passes(w, one, 9)
    one.reset()
    assert 0 == await passes(w, one)
    assert 0 == await passes(w, other)


@in_every_colour
async def test_the_level_is_what_is_known_of_it(w: World) -> None:
    """Full before the first answer, then what the last one left."""
    one, other = fleet(MemoryStore(), 5, per=60)
    assert (5.0, True) == (one.available(), one.is_pristine())
    assert 3 == await passes(w, one, 3)
    assert 2.0 == pytest.approx(one.available())
    assert not one.is_pristine()
    assert {"requests": pytest.approx(2.0)} == one.status()["limiter.tokens"]
    assert other.is_pristine()


# Processes


@in_every_colour
async def test_closing_the_store_gives_back_what_is_held(w: World) -> None:
    """A process that ends in order leaves nothing behind in its blocks."""
    store = MemoryStore(lease=10)
    one, other = fleet(store, 100, burst=10_000)
    for _ in range(100):
        await passes(w, one)
        await w.sleep(0.1)
    level = other.available()
    assert 1 == await passes(w, other)
    before = store.link._buckets["bucket:api"].level
    with store:
        pass
    after = store.link._buckets["bucket:api"].level
    assert after >= before
    assert level > 0


def test_a_policy_of_ones_own_stands_in_line_as_well() -> None:
    """A subclass takes the ordinary way through `admit`."""

    class Own(RateLimiter):
        def settle(self, permit: object, outcome: Any) -> None:
            super().settle(permit, outcome)

    with virtual_time():
        own = Own(2, per=60, shared=MemoryStore(), name="api")
        assert [0, 0] == [own.call(int), own.call(int)]
        with pytest.raises(RateLimitedError):
            own.call(int)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.real
def test_a_child_that_was_really_forked_holds_nothing() -> None:
    """The hook of the interpreter runs."""
    store = MemoryStore()
    (limiter,) = fleet(store, 1, burst=10, size=1)
    limiter.call(int)
    (before,) = [member.id for member in store.link.members()]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - the child is not measured
        (member,) = store.link.members()
        os.write(write, member.id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert before != os.read(read, 100).decode()
    os.close(read)
    os.close(write)


def test_a_forked_child_holds_nothing() -> None:
    """What its parent leased is its parent's."""
    with virtual_time():
        store = MemoryStore(lease=10)
        (limiter,) = fleet(store, 1, burst=10, size=1)
        limiter.call(int)
        link = store.link
        before = [member.id for member in link.members()]
        store_module._forked()
        assert before != [member.id for member in link.members()]
        assert limiter.available() <= 9


def test_a_sync_call_on_a_loops_thread_never_waits() -> None:
    """It cannot: so it has this process's share, and that is booked."""

    async def main() -> list[str]:
        store = MemoryStore(members=2)
        store.slow(0.02)
        (limiter,) = fleet(store, 4, per=60, size=1)
        results = []
        for _ in range(4):
            try:
                limiter.call(int)
                results.append("passed")
            except RateLimitedError as error:
                results.append(str(error)[:23])
        await asyncio.sleep(0.1)
        await limiter.acall(nothing)
        assert limiter.available() < 2
        return results

    refused = "rate limiter 'api' has "
    assert ["passed"] * 2 + [refused] * 2 == virtual_time.run(main)


# What is refused


def test_a_shared_limit_needs_a_name() -> None:
    """The key would be an accident otherwise."""
    text = (
        "`name` of a shared policy must be 1 to 64 letters, digits, '_', '.' or '-',"
        " got {}: the fleet knows the policy by it"
    )
    for name in (None, "a b", "", "x" * 65, "a/b"):
        with pytest.raises(ValueError, match="`name` of a") as caught:
            RateLimiter(1, shared=MemoryStore(), name=name)
        assert text.format(repr(name)) == str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"shared": 1}, TypeError, "`shared` must be a store, got 1"),
        (
            {"algorithm": "sliding_window"},
            ValueError,
            '`algorithm` must be "token_bucket" where a limit is shared, got'
            " 'sliding_window'; one of 0.9 of the rate, with 0.1 of it as `burst`,"
            " lets no more pass in any `per` seconds",
        ),
        (
            {"rate": None, "limits": [Limit(1)]},
            ValueError,
            "`limits` cannot be shared: list a RateLimiter for each of them",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """At construction."""
    with pytest.raises(error) as caught:
        RateLimiter(**{"rate": 1, "shared": MemoryStore(), "name": "a", **arguments})
    assert text == str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"patience": 0}, ValueError, "`patience` must be > 0 seconds, got 0"),
        ({"members": 0}, ValueError, "`members` must be >= 1, got 0"),
        (
            {"lost": "ignore"},
            ValueError,
            '`lost` must be "share", "reject", "alone" or "pass", got \'ignore\'',
        ),
        ({"lease": -1}, ValueError, "`lease` must be >= 0 seconds, got -1"),
    ],
)
def test_senseless_settings_of_a_store_are_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """When it is made, and when it is changed."""
    with pytest.raises(error) as caught:
        MemoryStore(**arguments)
    assert text == str(caught.value)
    with pytest.raises(error):
        MemoryStore().with_(**arguments)


def test_settings_that_there_are_not_are_refused() -> None:
    """By name."""
    with pytest.raises(TypeError) as caught:
        MemoryStore().with_(prefix="a")
    assert (
        "`with_` takes patience, lease, members, lost, plain_keys; got prefix"
        == str(caught.value)
    )


def test_a_copy_shares_through_the_same_store() -> None:
    """And the text shows the store without what is secret about it."""
    store = MemoryStore()
    limiter = RateLimiter(5, shared=store, name="api")
    assert "RateLimiter(5, shared=MemoryStore(), name='api')" == repr(limiter)
    assert store is limiter.with_(per=2).shared
    assert RateLimiter(5).shared is None


def test_a_transport_tells_a_shared_limit_its_origins() -> None:
    """Requests to another origin lift what the first one said, as for any limit."""
    with virtual_time():
        (limiter,) = fleet(MemoryStore(), 20, per=60, size=1)
        answering = httpx2.MockTransport(lambda request: httpx2.Response(200))
        transport = ResilientTransport(Pipeline(limiter), inner=answering)
        with httpx2.Client(transport=transport) as client:
            client.get("https://one.test")
            client.get("https://two.test")
        limiter.learn(0, 60, origin="https://one.test")
        assert 18.0 == pytest.approx(limiter.available())


@in_every_colour
async def test_a_loss_and_the_return_are_told_once(w: World) -> None:
    """To the listeners of each policy, whatever goes on meanwhile."""
    store = MemoryStore(members=1)
    (limiter,) = fleet(store, 100, size=1)
    events: list[Any] = []
    limiter.subscribe(events.append)
    await passes(w, limiter)
    store.lose()
    for _ in range(100):
        await passes(w, limiter)
        await w.sleep(0.01)
    assert "lost" == limiter.status()["shared.store"]
    store.recover()
    for _ in range(100):
        await passes(w, limiter)
        await w.sleep(0.01)
    lost, back = [
        event for event in events if isinstance(event, (StoreLost, StoreBack))
    ]
    assert StoreLost("api", None, "unreachable") == lost
    assert (StoreBack, "api", None) == (type(back), back.policy, back.call)
    assert 0.9 < back.seconds < 2.0
    status = limiter.status()
    assert ("up", 1) == (status["shared.store"], status["store.members"])
    assert 0 < back.alone == status["shared.alone"]
    assert limiter.name in json.dumps(health())


@in_every_colour
async def test_lower_numbers_of_another_are_told_once(w: World) -> None:
    """As in a rolling deploy; they hold until it has not asked for a minute."""
    store = MemoryStore()
    (one,) = fleet(store, 100, burst=50, size=1)
    (other,) = fleet(store, 10, size=1)
    events: list[Any] = []
    for limiter in (one, other):
        limiter.subscribe(events.append)
    for _ in range(30):
        await passes(w, one)
        await passes(w, other)
        await w.sleep(0.1)
    told = [one for one in events if isinstance(one, LimitLowered)]
    assert [("api", 10.0)] == [(one.policy, one.rate) for one in told]
    assert 9.0 <= told[0].burst <= 10.0
    await w.sleep(61)
    await passes(w, one)
    await w.sleep(1)
    assert 45 <= await passes(w, one, 60) <= 50
    assert 1 == sum(isinstance(one, LimitLowered) for one in events)


@in_every_colour
async def test_what_a_store_costs_is_counted(w: World) -> None:
    """Answers, what they took, and what was used without."""
    store = MemoryStore(members=1)
    (limiter,) = fleet(store, 100, size=1)
    store.slow(0.02)
    await passes(w, limiter, 3)
    status = limiter.status()
    assert (1, 1) == (status["store.up"], status["store.members"])
    assert 2 == status["store.exchanges"]
    assert 0.04 == pytest.approx(status["store.exchange.time"])
    store.lose()
    await w.sleep(2)
    await passes(w, limiter, 3)
    store.recover()
    status = limiter.status()
    assert (0, 0.0) == (status["store.up"], status["shared.booked"])
    assert status["shared.alone"] > 0 < status["shared.unused"]
    for _ in range(10):
        await w.sleep(0.1)
        await passes(w, limiter)
    assert limiter.status()["shared.booked"] > 0


# Orders for all


@in_every_colour
async def test_a_reset_of_the_fleet_is_heard_within_two_seconds(w: World) -> None:
    """By those that refuse, when they are called; here at once."""
    one, other = fleet(MemoryStore(), 5, per=1000)
    assert 5 == await passes(w, other, 9)
    assert 0 == await passes(w, one)
    one.reset()
    assert 0 == await passes(w, one)
    one.reset(fleet=True)
    assert [2, 0] == [await passes(w, one, 2), await passes(w, other)]
    await w.sleep(2)
    # The first call looks, and waits for nothing.
    assert [0, 3] == [await passes(w, other), await passes(w, other, 9)]


@in_every_colour
async def test_a_rate_that_is_set_for_all_holds_for_all(w: World) -> None:
    """Above what they were made with, too, and for one that comes later."""
    store = MemoryStore()
    one, other = fleet(store, 10, per=10)
    await passes(w, one)
    await passes(w, other)
    one.set_rate(100, per=20, burst=50, fleet=True)
    await w.sleep(2)
    await passes(w, other)
    (later,) = fleet(store, 10, per=10, size=1)
    await passes(w, later)
    assert [(100, 20, 50)] * 3 == [
        (limiter.rate, limiter.per, limiter.burst) for limiter in (one, other, later)
    ]
    await w.sleep(20)
    assert 45 <= await passes(w, later, 60) <= 50
    later.set_rate(1, fleet=True)
    await w.sleep(2)
    await passes(w, one)
    assert (1, 20, 50) == (one.rate, one.per, one.burst)


@in_every_colour
async def test_what_is_set_for_all_is_told_when_the_store_is_back(w: World) -> None:
    """Here it holds at once."""
    store = MemoryStore(members=1)
    one, other = fleet(store, 10, per=10)
    await passes(w, one)
    await passes(w, other)
    store.lose()
    one.set_rate(3, burst=3, fleet=True)
    one.reset(fleet=True)
    await passes(w, one)
    assert [3, 10] == [one.rate, other.rate]
    store.recover()
    for _ in range(30):
        await passes(w, other)
        await w.sleep(0.1)
    assert [3, 3] == [one.rate, other.rate]


def test_a_rate_that_does_not_fit_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By a member whose calls cost more; the lower rate holds for it all the same."""
    with virtual_time() as time:
        store = MemoryStore()
        (one,) = fleet(store, 100, burst=50, name="unfit", size=1)
        (other,) = fleet(store, 100, burst=50, cost=20, name="unfit", size=1)
        other.call(int)
        one.set_rate(10, burst=10, fleet=True)
        for _ in range(3):
            time.advance(2)
            with pytest.raises(RateLimitedError):
                other.call(int)
        assert [10, 100] == [one.rate, other.rate]
    (text,) = [record.getMessage() for record in caplog.records]
    assert "cannot take the rate that another process set for all: " in text
    assert "; the lower rate holds" in text


def test_only_what_is_shared_can_be_changed_for_all() -> None:
    """Nothing has changed then."""
    limiter = RateLimiter(2, per=60)
    text = "`fleet` must be False without `shared`, got True for RateLimiter"
    with pytest.raises(ValueError, match=text):
        limiter.set_rate(9, fleet=True)
    with pytest.raises(ValueError, match=text):
        limiter.reset(fleet=True)
    assert 2 == limiter.rate
