"""A retry budget that several processes share, through a store in memory.

Two budgets of one name are what two processes have.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour
from tests.sharing.servers import Server, engine

from resilient import (
    Call,
    Hedge,
    Policy,
    Priority,
    Retry,
    RetryBudget,
    StoreBack,
    StoreLost,
    deadline_after,
)
from resilient._runtimes import clock
from resilient._sharing import store as store_module
from resilient._values.locks import ReenteredError
from resilient.redis import RedisStore
from resilient.testing import MemoryStore, virtual_time


def fleet(store: MemoryStore, *args: Any, size: int = 2, **kw: Any) -> list[Any]:
    """Return what so many processes have of one budget."""
    kw = {"name": "api", "shared": store, **kw}
    return [RetryBudget(*args, **kw) for _ in range(size)]


class Flaky:
    """A function that fails, and counts how often it was called."""

    def __init__(self, w: World | None = None, takes: float = 0.0) -> None:
        self.w, self.takes, self.calls = w, takes, 0

    async def __call__(self) -> None:
        self.calls += 1
        if self.w is not None:
            await self.w.sleep(self.takes)
        raise OSError("down")


async def retries(w: World, retry: Retry, calls: int = 1) -> int:
    """Return how many retries so many calls that fail had."""
    flaky = Flaky()
    for _ in range(calls):
        with pytest.raises(OSError, match="down"):
            await w.call(retry, flaky)
    return flaky.calls - calls


def retry(budget: RetryBudget, **kw: Any) -> Retry:
    """Return a retry that waits for nothing."""
    return Retry(OSError, backoff=lambda attempt: 0.0, budget=budget, **kw)


@in_every_colour
async def test_two_processes_have_one_budget(w: World) -> None:
    """Ten retries for both; and what one pays in the other withdraws."""
    one, other = (retry(one) for one in fleet(MemoryStore(), 1.0, 10, 0))
    assert [6, 4] == [await retries(w, one, 3), await retries(w, other, 9)]
    assert [0, 0] == [await retries(w, one, 1), await retries(w, other, 1)]

    async def works() -> None:
        pass

    await w.sleep(0.5)
    for _ in range(4):
        await w.call(one, works)
    await w.sleep(0.5)
    await w.call(one, works)
    assert 5 == await retries(w, other, 4)


@in_every_colour
async def test_a_retry_waits_for_an_answer(w: World) -> None:
    """As long as it takes, up to the patience; then its share decides."""
    store = MemoryStore(members=1)
    store.slow(0.02)
    (budget,) = fleet(store, size=1)
    assert 2 == await retries(w, retry(budget))
    assert 0.04 == pytest.approx(w.now())
    store.slow(10.0)
    assert 2 == await retries(w, retry(budget))
    # It waited once, and then had what was left.
    assert 0.09 == pytest.approx(w.now())
    assert "lost" == retry(budget).status()["shared.store"]


@in_every_colour
async def test_a_deadline_ends_the_wait_for_an_answer(w: World) -> None:
    """The retry would come too late."""
    store = MemoryStore()
    store.slow(0.04)
    (budget,) = fleet(store, size=1)
    with deadline_after(0.01):
        assert 0 == await retries(w, retry(budget))
    assert 0.01 == pytest.approx(w.now())


@in_every_colour
async def test_a_policy_of_ones_own_may_wait_too(w: World) -> None:
    """Of a budget of the process it takes at once."""
    store = MemoryStore(members=1)
    store.slow(0.02)
    afforded: list[bool] = []

    class Own(Policy[Any]):
        async def around(self, proceed: Any, call: Call) -> Any:
            for budget in (RetryBudget(0, 1, 0), fleet(store, 0, 1, 0, size=1)[0]):
                afforded.append(await budget.afford(call))
                afforded.append(await budget.afford(call))
            return await proceed(call)

    async def works() -> None:
        pass

    await w.call(Own(), works)
    assert [True, False] * 2 == afforded


@in_async_colours
async def test_one_answer_is_for_all_who_wait(w: World) -> None:
    """Ten calls fail at once, and five retries are there."""
    store = MemoryStore()
    store.slow(0.02)
    (budget,) = fleet(store, 0.1, 5, 0, size=1)
    flaky = Flaky()
    policy = retry(budget, attempts=2)

    async def call() -> None:
        with pytest.raises(OSError, match="down"):
            await w.call(policy, flaky)

    await w.gather(*[call] * 10)
    assert 15 == flaky.calls
    # The first ask was for one.
    assert 0.04 == pytest.approx(w.now())


@in_async_colours
async def test_a_call_that_is_cancelled_withdraws_nothing(w: World) -> None:
    """Neither while it waits, nor as the answer comes."""
    import anyio

    store = MemoryStore()
    store.slow(0.02)
    (budget,) = fleet(store, 0.1, 1, 0, size=1)
    with anyio.move_on_after(0.01):
        await w.call(retry(budget), Flaky())
    await w.sleep(1)
    store.recover()
    budget.deposit()
    assert 1 == await retries(w, retry(budget))


def test_a_call_that_is_cancelled_as_it_is_served_gives_back() -> None:
    """The store has granted it, and the call is gone."""

    async def main() -> None:
        store = MemoryStore()
        store.slow(0.02)
        (budget,) = fleet(store, 0.1, 1, 0, size=1)
        task = asyncio.create_task(retry(budget).acall(Flaky()))
        # NB: begun before the call's, and over in the same moment.
        await asyncio.sleep(0.02)
        (ticket,) = budget._shared._waiting
        store.link.poll(clock.now())
        assert ticket.granted
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        store.recover()
        budget.deposit()
        await asyncio.sleep(0.6)
        budget.deposit()
        assert 1.0 == pytest.approx(budget.balance)

    virtual_time.run(main, backend="asyncio")


@in_every_colour
async def test_a_loss_is_told_by_the_policies_that_have_it(w: World) -> None:
    """Once each, and the return too."""
    store = MemoryStore(members=1)
    (budget,) = fleet(store, size=1)
    policies = [retry(budget, name="one"), retry(budget, name="two")]
    events: list[Any] = []
    for policy in policies:
        policy.subscribe(events.append)
    store.lose()
    await retries(w, policies[0])
    store.recover()
    for _ in range(40):
        budget.deposit()
        await w.sleep(0.05)
    told = [
        (type(one), one.policy)
        for one in events
        if isinstance(one, (StoreLost, StoreBack))
    ]
    assert [StoreLost, StoreLost, StoreBack, StoreBack] == [kind for kind, _ in told]
    assert {"one", "two"} == {name for _, name in told}
    assert 2 == policies[0].status()["shared.alone"]


@in_async_colours
async def test_hedges_share_a_budget_too(w: World) -> None:
    """Of one process's and another's, two may start; while it asks it may win."""
    store = MemoryStore()
    one, other = fleet(store, 0.1, 2, 0)

    async def slow() -> float:
        await w.sleep(0.5)
        return w.now()

    hedges = 0
    for budget in (one, other, one):
        hedge = Hedge(0.1, attempts=2, budget=budget)
        events: list[Any] = []
        hedge.subscribe(events.append)
        await w.call(hedge, slow)
        hedges += "HedgeLaunched" in [type(one).__name__ for one in events]
    assert 2 == hedges


@in_async_colours
async def test_an_attempt_that_ends_while_the_store_is_asked_needs_no_hedge(
    w: World,
) -> None:
    """The answer is there."""
    store = MemoryStore()
    store.slow(0.04)
    (budget,) = fleet(store, size=1)
    hedge = Hedge(0.1, attempts=2, budget=budget)
    calls: list[float] = []

    async def call() -> str:
        calls.append(w.now())
        await w.sleep(0.12)
        return "ok"

    assert "ok" == await w.call(hedge, call)
    assert 1 == len(calls)


def test_a_withdrawal_that_cannot_wait_is_paid_by_the_share() -> None:
    """And booked; a store that answers at once is asked."""
    with virtual_time() as time:
        store = MemoryStore(members=2)
        one, other = fleet(store, 0.1, 4, 0)
        assert one.withdraw()
        assert 3.0 == pytest.approx(one.balance, abs=0.01)
        store.slow(0.02)
        assert [True, True, False] == [other.withdraw() for _ in range(3)]
        store.recover()
        time.advance(1)
        other.deposit()
        assert 1.1 == pytest.approx(other.balance, abs=0.01)
        assert not other.full
        assert not other.withdraw(priority=Priority.BATCH)


def test_a_sync_call_on_a_loops_thread_never_waits() -> None:
    """It has its share."""

    async def main() -> int:
        store = MemoryStore(members=2)
        store.slow(0.02)
        (budget,) = fleet(store, 0.1, 4, 0, size=1)
        calls = 0

        def fails() -> None:
            nonlocal calls
            calls += 1
            raise OSError("down")

        with pytest.raises(OSError, match="down"):
            retry(budget).call(fails)
        return calls

    assert 3 == virtual_time.run(main, backend="asyncio")


def test_a_budget_used_in_the_middle_of_its_own_change_refuses() -> None:
    """A signal handler does that."""
    (budget,) = fleet(MemoryStore(), size=1)
    shared = budget._shared

    def inside() -> None:
        assert not budget.withdraw()
        budget.deposit()
        with pytest.raises(OSError, match="down"):
            retry(budget).call(raises)

    def raises() -> None:
        raise OSError("down")

    shared._lock.run(inside)
    with pytest.raises(ReenteredError):
        shared._lock.run(shared._lock.run, int)


def test_reset_forgets_what_this_process_was_told() -> None:
    """The fleet's budget is as it was."""
    with virtual_time():
        one, other = fleet(MemoryStore(), 0.1, 4, 0)
        assert one.withdraw()
        one.reset()
        assert [True] * 3 + [False] == [other.withdraw() for _ in range(4)]


def test_a_forked_child_forgets_who_waits() -> None:
    """They are in the parent."""
    with virtual_time():
        store = MemoryStore()
        (budget,) = fleet(store, size=1)
        shared = budget._shared
        before = shared.id
        shared._waiting["another"] = None
        store_module._forked()
        assert {} == shared._waiting
        assert before != shared.id


def test_it_reads_like_the_call_that_made_it_and_copies() -> None:
    """Copies have the same store; a store of tests cannot be pickled."""
    store = MemoryStore()
    budget = RetryBudget(0.2, 20, shared=store, name="api")
    text = "RetryBudget(0.2, 20, 0.1, shared=MemoryStore(), name='api')"
    assert text == repr(budget)
    again = copy.copy(budget)
    assert (text, store, "api") == (repr(again), again.shared, again.name)
    assert "RetryBudget(0.1, 10, 0.1, name='x')" == repr(
        pickle.loads(pickle.dumps(RetryBudget(name="x")))
    )


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"shared": MemoryStore()}, ValueError, "`name` of a shared policy must be"),
        ({"shared": "redis", "name": "a"}, TypeError, "`shared` must be a store, got"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """At construction."""
    with pytest.raises(error, match=text):
        RetryBudget(**arguments)


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own."""
    with Server(engine(request.param)) as server:
        yield server


@pytest.mark.real
def test_two_stores_have_one_budget(server: Server) -> None:
    """On a real server, by threads that wait."""

    def fails() -> None:
        nonlocal calls
        calls += 1
        raise OSError("down")

    calls = 0
    with (
        RedisStore(server.url, patience=20) as one,
        RedisStore(server.url, patience=20) as other,
    ):
        for store in (one, other):
            budget = RetryBudget(0.1, 5, 0, shared=store, name="api")
            policy = retry(budget, attempts=5)
            for _ in range(3):
                with pytest.raises(OSError, match="down"):
                    policy.call(fails)
    assert 6 + 5 == calls
    with server.client() as client:
        assert 0 < client.pttl("{resilient:v1:budget:api}") <= 90_000_000


@in_every_colour
async def test_a_reset_of_the_fleet_fills_the_budget_of_all(w: World) -> None:
    """With `fleet=True`; else this process asks anew."""
    one, other = fleet(MemoryStore(), 0.1, 3, 0)
    assert 3 == await retries(w, retry(one, attempts=9))
    assert 0 == await retries(w, retry(other, attempts=9))
    other.reset()
    assert 0 == await retries(w, retry(other, attempts=9))
    one.reset(fleet=True)
    await w.sleep(2)
    assert 3 == await retries(w, retry(other, attempts=9))
    text = r"`fleet` must be False without `shared`, got True for RetryBudget\(0"
    with pytest.raises(ValueError, match=text):
        RetryBudget().reset(fleet=True)
