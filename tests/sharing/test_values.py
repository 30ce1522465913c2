"""Values that several processes share, through a store in memory.

Two caches of one name are what two processes have.
"""

from __future__ import annotations

import json
import marshal
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour

from resilient import (
    DeadlineExceededError,
    PerKey,
    StaleCache,
    StoreBack,
    StoreLost,
    Timeout,
    TimeoutExceededError,
    deadline_after,
)
from resilient._machines.shared_value import ValueAsk
from resilient._runtimes import clock
from resilient._runtimes.sync import NO_WAITER
from resilient._sharing import values as values_module
from resilient._sharing.values import LARGEST
from resilient.testing import MemoryStore, virtual_time


class Source:
    """A function that takes a while, counts its calls, and fails on demand."""

    def __init__(self, w: World, takes: float = 0.0) -> None:
        self.w, self.takes, self.calls = w, takes, 0
        self.error: Exception | None = None
        self.value: Any = "value"

    async def __call__(self, item: Any = "a") -> Any:
        self.calls += 1
        await self.w.sleep(self.takes)
        if self.error is not None:
            raise self.error
        return f"{self.value} {self.calls}"


def fleet(store: MemoryStore, *args: Any, size: int = 2, **kw: Any) -> list[Any]:
    """Return what so many processes have of one cache."""
    kw = {"shared": store, "codec": json, "name": "items", **kw}
    return [StaleCache(*(args or (60, 600)), **kw) for _ in range(size)]


def users(w: World, source: Source, caches: list[Any]) -> list[Callable[..., Any]]:
    """Return one function under each of the caches."""

    async def item(*args: Any) -> Any:
        return await source(*args)

    return [w.decorate(cache, item) for cache in caches]


@in_every_colour
async def test_a_value_of_one_process_answers_in_another(w: World) -> None:
    """As long as it is fresh, from when it was made on."""
    source = Source(w)
    one, other = users(w, source, fleet(MemoryStore()))
    assert "value 1" == await one()
    await w.sleep(59)
    assert "value 1" == await other()
    await w.sleep(1)
    assert "value 2" == await other()
    assert "value 2" == await one()
    assert 2 == source.calls


@in_every_colour
async def test_a_fresh_value_in_memory_asks_no_store(w: World) -> None:
    """Hits cost no exchange; each call that misses costs one."""
    (cache,) = fleet(MemoryStore(), size=1)
    (item,) = users(w, Source(w), [cache])
    for _ in range(10):
        await item()
    # To look, and to keep.
    assert 2 == cache.status()["store.exchanges"]
    assert 1 == cache.status()["store.members"]


@in_every_colour
async def test_functions_and_arguments_are_told_apart(w: World) -> None:
    """With their types, as in one process."""
    source = Source(w)
    one, other = fleet(MemoryStore())

    async def first(item: Any, more: Any = None) -> Any:
        return await source(item)

    async def second(item: Any) -> Any:
        return await source(item)

    items: list[Any] = [1, 1.0, True, "1", b"1", (1, None), None]
    firsts = [w.decorate(cache, first) for cache in (one, other)]
    made = [await firsts[0](item) for item in items]
    made.append(await firsts[0](1, more=None))
    made.append(await w.decorate(one, second)(1))
    assert len(made) == len(set(made)) == source.calls
    assert made[:-2] == [await firsts[1](item) for item in items]
    assert made[-2] == await firsts[1](1, more=None)
    assert made[-1] == await w.decorate(other, second)(1)
    assert 9 == source.calls


@in_every_colour
async def test_a_key_has_to_be_spelled_alike_everywhere(w: World) -> None:
    """As that of a PerKey; by the user's key, or by all arguments."""
    (cache,) = fleet(MemoryStore(), key=lambda item: item, size=1)
    (item,) = users(w, Source(w), [cache])
    with pytest.raises(TypeError, match="all processes must spell it alike"):
        await item(1.5)
    (item,) = users(w, Source(w), fleet(MemoryStore(), size=1))
    with pytest.raises(TypeError, match="all processes must spell it alike"):
        await item(w)


@in_every_colour
async def test_the_store_sees_hashes_of_keys(w: World) -> None:
    """Or keys, where it is told to."""
    store = MemoryStore()
    for shared in (store, store.with_(plain_keys=True)):
        (item,) = users(w, Source(w), fleet(store, shared=shared, size=1))
        await item("secret")
    hashed, plain = store.link._values
    assert "secret" not in hashed
    assert hashed.startswith("cache:items:")
    assert "'secret'" in plain


@in_async_colours
async def test_one_call_of_the_fleet_makes_a_value(w: World) -> None:
    """The others wait for it, in its process and in others."""
    source = Source(w, takes=2)
    caches = fleet(MemoryStore(), size=4)
    items = users(w, source, caches) * 3
    assert ["value 1"] * 12 == await w.gather(*items)
    assert 1 == source.calls
    assert w.now() < 2.3
    await w.sleep(60)
    assert ["value 2"] * 12 == await w.gather(*items)
    assert 2 == source.calls


@in_async_colours
async def test_a_call_that_fails_lets_another_make_the_value(w: World) -> None:
    """At once, and not when its right would have ended."""
    source = Source(w, takes=0.1)
    one, other = users(w, source, fleet(MemoryStore()))
    source.error = OSError("down")

    async def mend() -> None:
        await w.sleep(0.15)
        source.error = None

    first, second, _ = await w.gather(one, other, mend)
    assert "down" == str(first)
    assert "value 2" == second
    assert w.now() < 0.5


@in_async_colours
async def test_a_call_that_is_cancelled_lets_another_make_the_value(w: World) -> None:
    """Amid the function."""
    source = Source(w, takes=1)
    one, other = fleet(MemoryStore())

    async def item() -> Any:
        return await source()

    impatient = w.decorate(Timeout(0.1), w.decorate(one, item))
    first, second = await w.gather(impatient, w.decorate(other, item))
    assert isinstance(first, TimeoutExceededError)
    assert "value 2" == second
    assert w.now() < 1.5


@in_async_colours
async def test_a_call_that_is_cancelled_as_it_asks_gives_the_right_back(
    w: World,
) -> None:
    """Or that has waited long enough: when the answer comes, after all."""
    source = Source(w)
    for patience in (0.05, 0.3):
        store = MemoryStore(patience=patience)
        (one,) = fleet(store, size=1)
        store.slow(0.2)

        async def item() -> Any:
            return await source()

        with pytest.raises(TimeoutExceededError):
            await w.decorate(Timeout(0.02), w.decorate(one, item))()
        await w.sleep(0.2)
        store.link.poll(clock.now())
        await w.sleep(0.3)
        store.link.poll(clock.now())
        (value,) = store.link._values.values()
        assert "" == value.holder


@in_async_colours
async def test_the_right_ends_by_itself(w: World) -> None:
    """As where the process is killed: after five seconds, or the store's lease."""
    for lease, seconds in ((None, 5.0), (1.0, 1.0)):
        source = Source(w)
        store = MemoryStore(lease=lease)
        (cache,) = fleet(store, size=1)
        (item,) = users(w, source, [cache])
        right = cache._shared.right_for((Source.__call__, "a"), True)
        ask = ValueAsk("look", "killed", 60.0, seconds)
        # By a process that is never heard of again.
        await item()
        await w.sleep(60)
        (key,) = store.link._values
        assert 1.0 == store.link._answer(key, clock.now(), ask).granted
        began = w.now()
        assert "value 2" == await item()
        assert seconds == pytest.approx(w.now() - began, abs=0.3)
        assert not right.held


@in_async_colours
async def test_nobody_waits_longer_than_the_right_is_good_for(w: World) -> None:
    """A function that takes longer is called by another, too."""
    source = Source(w, takes=30)
    one, other = users(w, source, fleet(MemoryStore()))
    await w.gather(one, other)
    assert 2 == source.calls
    assert w.now() < 35.5


@in_async_colours
async def test_a_deadline_ends_the_wait_for_another_call(w: World) -> None:
    """And an old value answers for that, where there is one."""
    source = Source(w, takes=3)
    one, other = users(w, source, fleet(MemoryStore()))
    waits: list[float] = []

    async def hurried() -> Any:
        await w.sleep(0.01)
        began = w.now()
        try:
            with deadline_after(0.5):
                return await other()
        finally:
            waits.append(w.now() - began)

    _, late = await w.gather(one, hurried)
    assert isinstance(late, DeadlineExceededError)
    await w.sleep(60)
    second, old = await w.gather(one, hurried)
    assert ("value 2", "value 1") == (second, old)
    assert [0.5, 0.5] == pytest.approx(waits)
    assert 2 == source.calls


@in_every_colour
async def test_an_old_value_of_another_process_answers_for_a_failure(w: World) -> None:
    """It is kept in memory from then on."""
    source = Source(w)
    one, other = users(w, source, fleet(MemoryStore()))
    await one()
    await w.sleep(100)
    source.error = OSError("down")
    assert ["value 1"] * 2 == [await other(), await other()]
    await w.sleep(560)
    with pytest.raises(OSError, match="down"):
        await other()


@in_every_colour
async def test_an_error_that_is_an_answer_makes_the_fleet_forget(w: World) -> None:
    """What was so before is no longer so."""
    source = Source(w)
    caches = fleet(MemoryStore(), on=OSError)
    one, other = users(w, source, caches)
    await one()
    await w.sleep(60)
    source.error = KeyError("gone")
    with pytest.raises(KeyError):
        await one()
    source.error = OSError("down")
    with pytest.raises(OSError, match="down"):
        await other()


@in_every_colour
async def test_an_error_that_is_remembered_asks_no_store(w: World) -> None:
    """Errors stay in the process."""
    source = Source(w)
    (cache,) = fleet(MemoryStore(), negative_ttl=5, size=1)
    (item,) = users(w, source, [cache])
    source.error = OSError("down")
    for _ in range(3):
        with pytest.raises(OSError, match="down"):
            await item()
    assert 1 == source.calls
    # To look, and to give back the right.
    assert 2 == cache.status()["store.exchanges"]


@in_every_colour
async def test_a_call_from_inside_a_call_does_not_wait_for_itself(w: World) -> None:
    """It calls the function, as it does without a store."""
    (cache,) = fleet(MemoryStore(), size=1)
    depths: list[int] = []

    async def item() -> int:
        depths.append(1)
        if len(depths) == 1:
            return await again() + 1  # type: ignore[no-any-return]
        return 1

    again = w.decorate(cache, item)
    assert 2 == await again()
    assert 0.0 == w.now()
    await w.sleep(60)
    assert 1 == await again()
    assert 3 == len(depths)


# A store that is slow, gone, empty or old


@in_every_colour
async def test_a_store_that_is_slow_costs_its_patience(w: World) -> None:
    """Each call, until it is lost; no call after that."""
    source = Source(w)
    store = MemoryStore()
    store.slow(20)
    (cache,) = fleet(store, 0, 600, size=1)
    (item,) = users(w, source, [cache])
    calls = []
    for _ in range(12):
        began = w.now()
        await item()
        calls.append(round(w.now() - began, 3))
    assert [0.05] * 5 + [0.0] * 7 == calls or max(calls) <= 0.05
    assert 12 == source.calls
    assert "lost" == cache.status()["shared.store"]
    assert 12 == cache.status()["shared.alone"]


@in_every_colour
async def test_without_the_store_each_has_its_own_values(w: World) -> None:
    """One event, and one when it is back."""
    source = Source(w)
    store = MemoryStore()
    one, other = fleet(store, 10, 600)
    heard: list[Any] = []
    one.subscribe(heard.append)
    items = users(w, source, [one, other])
    store.lose()
    assert ["value 1", "value 2"] == [await item() for item in items]
    assert ["value 1", "value 2"] == [await item() for item in items]
    assert "lost" == one.status()["shared.store"]
    store.recover()
    await w.sleep(11)
    await items[0]()
    await w.sleep(0.3)
    await w.sleep(11)
    assert "value 4" == await items[0]()
    assert "value 4" == await items[1]()
    kinds = [kind for kind in map(type, heard) if kind in (StoreLost, StoreBack)]
    assert [StoreLost, StoreBack] == kinds


@in_async_colours
async def test_calls_that_wait_go_on_when_the_store_is_lost(w: World) -> None:
    """At once: they call the function themselves."""
    source = Source(w, takes=3)
    store = MemoryStore()
    one, other = users(w, source, fleet(store))

    async def lose() -> None:
        await w.sleep(1)
        store.lose()

    await w.gather(one, other, lose)
    assert 2 == source.calls
    assert w.now() < 4.5


@in_every_colour
async def test_a_store_that_forgets_has_nothing(w: World) -> None:
    """Memory has; and where it has not, the function is called."""
    source = Source(w)
    store = MemoryStore()
    one, other = users(w, source, fleet(store))
    await one()
    store.forget()
    assert "value 1" == await one()
    assert "value 2" == await other()


@in_every_colour
async def test_a_clock_that_is_set_makes_no_value_younger(w: World) -> None:
    """What was made before a jump back counts for nothing, after a jump ahead too."""
    for seconds in (-300, 300):
        source = Source(w)
        store = MemoryStore()
        one, other = fleet(store)
        first, second = users(w, source, [one, other])
        await second("else")
        await first()
        store.jump(seconds)
        # Another notices the jump with its next exchange.
        await second("more")
        before = source.calls
        await second()
        assert before + 1 == source.calls
        await w.sleep(61)
        await second("more")
        assert before + 2 == source.calls


# Values, and what becomes of odd ones


class Odd:
    """A codec that fails on demand."""

    def __init__(self) -> None:
        self.cannot = ""

    def dumps(self, value: Any) -> bytes:
        if self.cannot == "dumps":
            raise ValueError("secret")
        return json.dumps(value).encode()

    def loads(self, content: bytes) -> Any:
        if self.cannot == "loads":
            raise ValueError("secret")
        return json.loads(content)


@in_every_colour
async def test_a_value_that_has_no_bytes_stays_in_its_process(w: World) -> None:
    """As one that is too large does; another may make it at once."""
    for value, cannot in (("v", "dumps"), ("v" * LARGEST, "")):
        source = Source(w)
        source.value = value
        codec = Odd()
        codec.cannot = cannot
        one, other = users(w, source, fleet(MemoryStore(), codec=codec))
        assert [f"{value} 1"] * 2 == [await one(), await one()]
        assert f"{value} 2" == await other()
        assert w.now() < 0.01


@in_every_colour
async def test_a_value_that_cannot_be_read_is_a_miss(w: World) -> None:
    """Of another release; by the codec, or by the size that it has not."""
    codec = Odd()

    def size_of(value: Any) -> float:
        if codec.cannot == "size":
            raise TypeError("no size")
        return 1.0

    for cannot in ("loads", "size"):
        source = Source(w)
        codec.cannot = ""
        caches = fleet(MemoryStore(), codec=codec, size_of=size_of, max_size=100)
        one, other = users(w, source, caches)
        await one()
        codec.cannot = cannot
        if cannot == "size":
            with pytest.raises(TypeError, match="no size"):
                await other()
        else:
            assert "value 2" == await other()
        codec.cannot = ""
        assert 2 == source.calls


@in_every_colour
async def test_a_copy_is_made_of_shared_values_too(w: World) -> None:
    """For each caller."""
    one, other = fleet(MemoryStore(), copy=list)

    async def items() -> list[int]:
        return [1]

    first, second = w.decorate(one, items), w.decorate(other, items)
    await first()
    (await second()).append(2)
    assert [[1], [1]] == [await first(), await second()]


@in_every_colour
async def test_each_key_of_a_perkey_has_its_own_values(w: World) -> None:
    """And one that the factory did not make is refused."""
    store = MemoryStore()
    source = Source(w)

    def factory(user: str) -> StaleCache:
        (cache,) = fleet(store, size=1, key=lambda user: "a")
        return cache  # type: ignore[no-any-return]

    async def item(user: str) -> Any:
        return await source(user)

    per_key = [PerKey(factory, key=lambda user: user) for _ in range(2)]
    items = [w.decorate(one, item) for one in per_key]
    assert ["value 1", "value 2"] == [await items[0]("ann"), await items[0]("bob")]
    assert ["value 1", "value 2"] == [await items[1]("ann"), await items[1]("bob")]
    (elsewhere,) = fleet(store, size=1)
    wrong = w.decorate(PerKey(lambda user: elsewhere, key=lambda user: user), item)
    with pytest.raises(ValueError, match="several keys would share the values"):
        await wrong("ann")


def test_values_on_their_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is slow makes no process keep what it cannot send."""
    monkeypatch.setattr(values_module, "_MOST", 2)
    with virtual_time():
        store = MemoryStore()
        (cache,) = fleet(store, size=1)
        cache.call(str)
        store.slow(0.2)
        made = [cache._shared.right_for((str, number), True) for number in range(5)]
        for right in made:
            cache._shared.keep(right, 1, 60)
        assert 2 == len(cache._shared._under_way)
        # A forked child has none of them.
        store.link.after_fork()
        assert 0 == len(cache._shared._under_way)


def test_a_right_that_comes_with_an_interrupt_is_given_back() -> None:
    """Ctrl-C as the answer comes; an answer that brings none gives nothing back."""
    with virtual_time():
        store = MemoryStore()
        (cache,) = fleet(store, size=1)
        shared = cache._shared
        right = shared.right_for((str, "a"), True)
        for id_, exchanges in ((right.id, 2), ("another", 3)):
            ask = ValueAsk("look", id_, 60.0, 5.0)
            request = values_module._Request(shared, right.name, ask, NO_WAITER)
            if id_ != right.id:
                store.link._answer(right.name, clock.now(), ask._replace(id="b"))
            store.link.notify(request)
            request.give_up()
            assert exchanges == cache.status()["store.exchanges"]


def test_a_sync_call_on_a_loops_thread_does_not_ask() -> None:
    """It cannot wait; it has what is in memory, or calls the function."""

    async def main() -> list[str]:
        one, other = fleet(MemoryStore())
        return [cache.call(str.upper, "a") for cache in (one, one, other)]

    assert ["A", "A", "A"] == virtual_time.run(main)


def test_what_cannot_be_shared_is_refused() -> None:
    """Each by its argument, as it is made."""
    store = MemoryStore()
    kw: dict[str, Any] = {"shared": store, "codec": json, "name": "a"}
    both = "takes `shared` and `codec` together, and no `store`"
    for wrong in ({"codec": None}, {"shared": None}, {"store": {}}):
        with pytest.raises(TypeError, match=both if "store" not in wrong else "."):
            StaleCache(1, 2, **{**kw, **wrong})
    with pytest.raises(TypeError, match=both):
        StaleCache(1, 2, **kw, store=Own())
    with pytest.raises(TypeError, match="`codec` must have the methods"):
        StaleCache(1, 2, **{**kw, "codec": len})
    for unsafe in (pickle, marshal):
        with pytest.raises(TypeError, match="must not run what it reads, as pickle"):
            StaleCache(1, 2, **{**kw, "codec": unsafe})
    with pytest.raises(ValueError, match="`name` of a shared policy must be 1 to 64"):
        StaleCache(1, 2, **{**kw, "name": None})
    with pytest.raises(TypeError, match="`shared` must be a store, got 3"):
        StaleCache(1, 2, **{**kw, "shared": 3})
    cache = StaleCache(1, 2, **kw)
    assert store is cache.shared
    assert StaleCache(1, 2).shared is None
    assert {} == StaleCache(1, 2).status()


class Own:
    """A store of a user's."""

    def get(self, key: Any) -> None: ...

    def set(self, key: Any, value: Any, lifetime: float) -> None: ...

    def delete(self, key: Any) -> None: ...
