"""Policies that a PerKey has for its keys and a fleet shares, by a store in memory.

Two PerKeys are what two processes have.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import pytest
from tests.colours import World, in_every_colour

from resilient import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Event,
    Hedge,
    KeyEvicted,
    LimitLowered,
    PerKey,
    Pipeline,
    RateLimitedError,
    RateLimiter,
    Retry,
    RetryBudget,
    StoreBack,
    StoreLost,
    constant,
)
from resilient._runtimes import clock
from resilient._sharing import store as store_module
from resilient._sharing.keys import key_hash, key_text
from resilient._sharing.store import Crew
from resilient._values.made_for import MADE_FOR
from resilient.testing import MemoryStore, virtual_time


async def visit(user: object) -> object:
    """Answer."""
    return user


def by_user(user: Hashable) -> Hashable:
    """Return the key of `visit`."""
    return user


def logins(store: MemoryStore, *args: Any, max_keys: int = 10_000, **kw: Any) -> Any:
    """Return one process's limits of a name, one for each user."""
    args = args or (2,)
    kw = {"per": 60, "name": "login", "shared": store, **kw}
    return PerKey(lambda user: RateLimiter(*args, **kw), key=by_user, max_keys=max_keys)


async def passes(w: World, users: Any, user: Hashable, calls: int = 9) -> int:
    """Return how many of so many calls of a user pass."""
    passed = 0
    for _ in range(calls):
        try:
            await w.call(users, visit, user)
        except RateLimitedError:
            continue
        passed += 1
    return passed


# One state for each key


@in_every_colour
async def test_each_key_has_one_limit_in_all_processes(w: World) -> None:
    """Two logins a minute for each user, wherever they arrive."""
    store = MemoryStore()
    one, other = logins(store), logins(store)
    assert 1 == await passes(w, one, "ann", 1)
    assert 1 == await passes(w, other, "ann")
    assert 0 == await passes(w, one, "ann")
    assert [2, 0] == [await passes(w, other, "bob"), await passes(w, one, "bob")]
    await w.sleep(30)
    assert [1, 0] == [await passes(w, one, "ann"), await passes(w, other, "ann")]


@in_every_colour
async def test_many_keys(w: World) -> None:
    """Each key's limit holds, and they are one member of the fleet together."""
    store = MemoryStore()
    one, other = logins(store), logins(store)
    for number in range(300):
        assert 1 == await passes(w, one, number, 1)
        assert 1 == await passes(w, other, number, 2)
        await w.sleep(0.005)
    assert {"bucket:login"} == set(store.link._seen)
    assert {2} == {member.machine.members for member in store.link.members()}
    assert 600 == len(store.link.members())


@in_every_colour
async def test_a_new_key_knows_how_many_processes_there_are(w: World) -> None:
    """They were counted for another; without the store each has its part."""
    store = MemoryStore(members=1)
    one, other = logins(store, 4), logins(store, 4)
    for users in (one, other, one, other):
        await passes(w, users, "ann", 1)
        await w.sleep(1)
    store.lose()
    assert 0 == await passes(w, one, "bob", 1)
    await w.sleep(90)
    assert 2 == await passes(w, one, "bob")


@in_every_colour
async def test_each_key_has_one_circuit_in_all_processes(w: World) -> None:
    """An order for one shard is obeyed by all, and by no other shard."""

    def shards() -> Any:
        return PerKey(
            lambda shard: CircuitBreaker(name="db", shared=store), key=by_user
        )

    store = MemoryStore()
    one, other = shards(), shards()
    one["a"].force_open(fleet=True)
    for shard in ("a", "b"):
        assert shard == await w.call(other, visit, shard)
    with pytest.raises(CircuitOpenError):
        await w.call(other, visit, "a")
    assert "b" == await w.call(other, visit, "b")


@in_every_colour
async def test_each_key_has_slots_in_all_processes(w: World) -> None:
    """A tenant has one call at once, wherever that runs."""

    def tenants() -> Any:
        return PerKey(
            lambda tenant: Bulkhead(1, name="report", shared=store), key=by_user
        )

    async def inside(tenant: str) -> None:
        with pytest.raises(BulkheadFullError):
            await w.call(other, visit, tenant)
        assert "b" == await w.call(other, visit, "b")

    store = MemoryStore()
    one, other = tenants(), tenants()
    await w.call(one, inside, "a")


@in_every_colour
async def test_each_key_has_a_budget_in_all_processes(w: World) -> None:
    """One that the factory makes is the key's; one from elsewhere is of all keys."""
    store = MemoryStore()

    def hosts(budget: Callable[[], RetryBudget]) -> Any:
        return PerKey(
            lambda host: Retry(
                ConnectionError, attempts=2, backoff=constant(0.1), budget=budget()
            ),
            key=by_user,
        )

    def budget() -> RetryBudget:
        return RetryBudget(0, 1, 0, name="host", shared=store)

    whole = budget()
    for make, runs in ((budget, 8), (lambda: whole, 5)):
        tried = 0

        async def fail(host: str) -> None:
            nonlocal tried
            tried += 1
            raise ConnectionError

        store.forget()
        for host in ("a", "b", "c", "d"):
            with pytest.raises(ConnectionError):
                await w.call(hosts(make), fail, host)
        assert runs == tried
        await w.sleep(1)


@in_every_colour
async def test_keys_of_two_per_keys_in_each_other_count_together(w: World) -> None:
    """A user of one tenant is not that of another."""
    store = MemoryStore()

    def process() -> Any:
        return PerKey(lambda tenant: logins(store), key=lambda key: key[0])

    one, other = process(), process()
    for tenant in ("shop", "bank"):
        for users in (one, other):
            await passes(w, users, (tenant, "ann"), 1)
        assert 0 == await passes(w, one, (tenant, "ann"))
    assert 2 == await passes(w, one, ("bank", "bob"))
    assert 3 == len(store.link._buckets)
    await w.sleep(1)
    for users in (one, other):
        await passes(w, users, ("bank", "eve"), 1)
    assert {2} == {member.machine.members for member in store.link.members()}


# What a store sees


class Plan(enum.StrEnum):
    """A str, and equal to it."""

    GOLD = "gold"


class Level(enum.IntEnum):
    """An int, and equal to it."""

    HIGH = 1


class Place(NamedTuple):
    """A tuple, and equal to it."""

    street: str
    number: int


class Folded(str):
    """A str that is equal to others than a str is."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str(self).lower() == str(other).lower()

    __hash__ = str.__hash__


def test_a_key_has_the_same_hash_for_ever() -> None:
    """In each process and release: another one would begin all limits again."""
    keys: list[Hashable] = ["ann@example.org", 7, b"\xff", ("shop", (1, "ann")), ""]
    assert [
        "220357b3ec157f5c1a6ce1bf0655f3bd",
        "c363079e483f3f607c6cd74ea33d59e5",
        "52343cbbda156e1e238979051895b26c",
        "35c50df0f92547a63248f8dff383e7d6",
        "970720d6d106e9528b363ddab1e8bd1b",
    ] == [key_hash((key,), b"shop") for key in keys]


def test_equal_keys_have_one_hash_and_others_another() -> None:
    """A type counts, and where in a tuple something stands."""
    same: list[tuple[Hashable, Hashable]] = [
        (Plan.GOLD, "gold"),
        (Level.HIGH, 1),
        (True, 1),
        (Place("a", 1), ("a", 1)),
    ]
    for one, other in same:
        assert one == other
        assert key_hash((one,), b"") == key_hash((other,), b"")
        assert key_text((one,), b"") == key_text((other,), b"")
    distinct: list[Hashable] = [
        "",
        b"",
        (),
        ((),),
        "1",
        b"1",
        1,
        -1,
        16,
        10**5000,
        "a" * 100_000,
        "\ud800",
        ("a", "b"),
        ("ab",),
        ("a", ("b",)),
        (("a",), "b"),
        "s1:a",
    ]
    assert len(distinct) == len({key_text((key,), b"") for key in distinct})
    hashes = {key_hash((key,), b"") for key in distinct}
    hashes |= {key_hash((1,), b"salt"), key_hash(("a", 1), b"")}
    assert len(distinct) + 2 == len(hashes)
    assert {32} == {len(text) for text in hashes}


@in_every_colour
async def test_a_key_that_has_no_one_spelling_is_refused(w: World) -> None:
    """At the call, and the text does not show it."""
    users = logins(MemoryStore())
    refused: list[Hashable] = [1.5, None, object(), ("a", 2.5), frozenset(), Folded()]
    for key in refused:
        with pytest.raises(TypeError) as caught:
            await w.call(users, visit, key)
        kind = float if isinstance(key, tuple) else type(key)
        assert str(caught.value) == (
            "`key` must be a str, bytes, int or tuple of these where a PerKey has"
            f" shared policies, got an object of {kind}: all processes must spell it"
            " alike"
        )
    assert MADE_FOR.get() is None
    assert 0 == len(users)


def test_no_key_stands_in_the_store() -> None:
    """Its hash does, however long it is."""
    store = MemoryStore()
    users = logins(store)
    users.call(str, "ann@example.org")
    users.call(str, "x" * 1_000_000)
    for name in store.link._buckets:
        assert "bucket:login:" == name[:13]
        assert 45 == len(name)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (("ann@example.org",), "'ann@example.org'"),
        ((7,), "7"),
        ((b"\xff",), r"b'\xff'"),
        ((("acme", 7),), "('acme',7,)"),
        (("acme", 7), "'acme',7"),
        (("a}b\n\xfc",), r"'a\x7db\n\xfc'"),
        ((2**64,), "<i0x10000000000000000;>"),
        (("x" * 198,), f"'{'x' * 198}'"),
        (("x" * 199,), f"#{key_hash(('x' * 199,), b'shop')}"),
    ],
)
def test_a_plain_key_is_written_as_in_python(
    keys: tuple[Hashable, ...], text: str
) -> None:
    """In ASCII, without a brace that closes, and hashed where it is long."""
    assert text == key_text(keys, b"shop")


@in_every_colour
async def test_a_store_with_plain_keys_sees_them(w: World) -> None:
    """So does a setting of some policies; others are hashed beside them."""
    store = MemoryStore(plain_keys=True)
    for users in (logins(store), logins(store.with_(patience=1))):
        assert 1 == await passes(w, users, "ann", 1)
    assert 2 == await passes(w, logins(store.with_(plain_keys=False)), "ann")
    hashed = f"bucket:login:{key_hash(('ann',), b'')}"
    assert ["bucket:login:'ann'", hashed] == list(store.link._buckets)
    with pytest.raises(TypeError, match="`key` must be a str, bytes, int or tuple"):
        await w.call(logins(store), visit, 1.5)
    with pytest.raises(TypeError, match="`plain_keys` must be"):
        MemoryStore(plain_keys="no")  # type: ignore[arg-type]  # refused


# What cannot be shared


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (RateLimiter, "one limit"),
        (Bulkhead, "the slots"),
        (CircuitBreaker, "one circuit"),
    ],
)
def test_a_policy_that_was_not_made_for_the_key_is_refused(
    make: Callable[..., Any], what: str
) -> None:
    """Else several keys would have one state, by accident."""
    store = MemoryStore()
    number = () if make is CircuitBreaker else (9,)
    whole = make(*number, name="whole", shared=store)
    plans = functools.cache(lambda plan: make(*number, name=plan, shared=store))
    text = (
        " must be made by the factory of its PerKey, for one key: else several keys"
        f" would share {what}"
    )
    outside = PerKey(lambda key: Pipeline(Retry(OSError), whole), key=by_user)
    with pytest.raises(ValueError, match=text) as caught:
        outside.call(str, 1)
    assert repr(whole) + text == str(caught.value)
    users = PerKey(lambda user: plans("gold"), key=by_user)
    users.call(str, "ann")
    with pytest.raises(ValueError, match=text):
        users.call(str, "bob")
    # The same for the same key, as after it was dropped.
    again = PerKey(lambda user: plans("gold"), key=by_user)
    again.call(str, "ann")


# Eviction


@in_every_colour
async def test_a_limit_that_is_dropped_is_not_reset(w: World) -> None:
    """The store knows what was taken."""
    store = MemoryStore()
    users = logins(store, max_keys=2)
    for user in ("ann", "bob", "cyd", "dan"):
        assert 2 == await passes(w, users, user)
    assert ("ann" in users, "dan" in users, 2) == (False, True, len(users))
    for user in ("ann", "bob", "cyd", "dan"):
        assert 0 == await passes(w, users, user)


@in_every_colour
async def test_a_limit_that_is_dropped_gives_back_its_block(w: World) -> None:
    """Another process has what it did not use."""
    store = MemoryStore(lease=10)
    users = logins(store, 10, per=1, burst=200, max_keys=1)
    for _ in range(5):
        await passes(w, users, "ann", 1)
        await w.sleep(0.1)
    (held,) = [member.machine._have(clock.now()) for member in store.link.members()]
    assert held > 0
    (before,) = [bucket.level for bucket in store.link._buckets.values()]
    await passes(w, users, "bob", 1)
    after, _ = [bucket.level for bucket in store.link._buckets.values()]
    assert held <= after - before


@in_every_colour
async def test_slots_of_a_key_that_is_dropped_are_given_back(w: World) -> None:
    """At once, and not when their lease ends."""
    store = MemoryStore()
    one = PerKey(
        lambda tenant: Bulkhead(2, name="report", shared=store), key=by_user, max_keys=1
    )
    await w.call(one, visit, "a")
    (slots,) = store.link._slots.values()
    assert 1 == len(slots.shares)
    await w.call(one, visit, "b")
    slots, _ = store.link._slots.values()
    assert {} == slots.shares


def test_an_order_to_a_circuit_that_is_dropped_is_obeyed() -> None:
    """It is told to a store that was lost as it was given."""
    with virtual_time() as time:
        store = MemoryStore()
        shards = PerKey(
            lambda shard: CircuitBreaker(name="db", shared=store),
            key=by_user,
            max_keys=1,
        )
        shards.call(str, "a")
        store.lose()
        time.advance(3)
        shards.call(str, "a")
        shards["a"].reset(fleet=True)  # type: ignore[call-arg]
        shards.call(str, "b")
        assert "a" not in shards
        assert 1 == len(store.link._leaving)
        store.recover()
        for _ in range(3):
            time.advance(3)
            shards.call(str, "b")
    (term, *_) = [circuit.term for circuit in store.link._circuits.values()]
    assert 1.0 == term


@in_every_colour
async def test_what_a_dropped_limit_used_alone_is_booked(w: World) -> None:
    """When the store is back; until then it is as little new as any other."""
    store = MemoryStore(members=1)
    users = logins(store, max_keys=1)
    assert 1 == await passes(w, users, "ann", 1)
    store.lose()
    await passes(w, users, "ann", 1)
    await w.sleep(60)
    assert 2 == await passes(w, users, "ann")
    assert 0 == await passes(w, users, "bob")
    assert 0 == await passes(w, users, "ann")
    store.recover()
    await passes(w, users, "bob", 1)
    await w.sleep(1)
    await passes(w, users, "bob", 1)
    assert 0 == await passes(w, logins(store), "ann")


def test_room_is_made_without_a_word_to_the_store() -> None:
    """Whether a limit is spent is not asked; who looks is no call that waits."""
    with virtual_time() as time:
        store = MemoryStore(lost="reject")
        users = logins(store, max_keys=3)
        events: list[Event] = []
        users.subscribe(events.append)
        for user in range(9):
            users.call(str, user)
            assert not users[user].is_restrictive()
            time.advance(0.2)
        assert 6 == len([one for one in events if isinstance(one, KeyEvicted)])
        assert 6 + 9 >= len(events)
        users[8].learn(0, 30)
        assert users[8].is_restrictive()
        time.advance(31)
        assert not users[8].is_restrictive()


@in_every_colour
async def test_keys_without_room_share_a_limit_of_their_own(w: World) -> None:
    """It is none of a user's, and in all processes the same."""
    store = MemoryStore()
    fleet = [logins(store, max_keys=1) for _ in range(2)]

    async def inside(user: str) -> None:
        assert 1 == await passes(w, fleet[0], "bob", 1)
        assert 1 == await passes(w, fleet[0], "cyd")

    async def inside_other(user: str) -> None:
        assert 0 == await passes(w, fleet[1], "dan")

    await w.call(fleet[0], inside, "ann")
    await w.call(fleet[1], inside_other, "eve")
    assert 2 == await passes(w, logins(store), "bob")


# Losses


@in_every_colour
async def test_the_loss_of_a_store_is_told_once_for_all_keys(w: World) -> None:
    """And its return, with what all of them used meanwhile."""
    store = MemoryStore(members=1)
    users = logins(store)
    events: list[Event] = []
    users.subscribe(
        lambda event: (
            events.append(event) if isinstance(event, StoreLost | StoreBack) else None
        )
    )
    for user in range(20):
        await passes(w, users, user, 1)
    store.lose()
    await passes(w, users, 0, 1)
    await w.sleep(60)
    for user in range(20):
        assert 2 == await passes(w, users, user, 2)
    store.recover()
    for _ in range(3):
        await passes(w, users, 0, 1)
        await w.sleep(1)
    lost, back = events
    assert isinstance(lost, StoreLost)
    assert isinstance(back, StoreBack)
    assert ("login", "login") == (lost.policy, back.policy)
    assert back.alone >= 40


def test_an_event_of_the_store_is_told_by_a_key_that_has_listeners() -> None:
    """Where not all of them have any."""
    with virtual_time():
        store = MemoryStore(lost="pass")
        users = logins(store)
        heard: list[Event] = []
        for user in range(3):
            users.call(str, user)
        users[1].subscribe(heard.append)
        store.lose()
        users.call(str, 3)
    assert [StoreLost] == [type(event) for event in heard]


@in_every_colour
async def test_lower_numbers_are_told_once_for_all_keys(w: World) -> None:
    """As in a deploy of another rate."""
    store = MemoryStore()
    old, new = logins(store, 2), logins(store, 4)
    events: list[Event] = []
    new.subscribe(
        lambda event: events.append(event) if isinstance(event, LimitLowered) else None
    )
    for user in range(10):
        await passes(w, old, user, 1)
        assert 1 == await passes(w, new, user)
    assert [(2.0, pytest.approx(1 / 30))] == [(one.burst, one.rate) for one in events]


def test_a_forked_child_counts_as_another_process() -> None:
    """All its keys together."""
    with virtual_time():
        store = MemoryStore()
        users = logins(store)
        users.call(str, "ann")
        users.call(str, "bob")
        crews = {member.crew for member in store.link.members()}
        (before,) = [crew.id for crew in crews]
        store_module._forked()
        (crew,) = crews
        assert before != crew.id
        assert crew.enlists(clock.now())


def test_a_crew_is_counted_every_half_second() -> None:
    """Whatever the clock reads."""
    crew = Crew("bucket:login")
    for now, enlists in ((-9.0, True), (-8.6, False), (-8.5, True)):
        assert enlists is crew.enlists(now)


@pytest.mark.parametrize("policy", [Hedge, Retry])
def test_a_budget_of_a_key_that_is_dropped_tells_what_it_spent(
    policy: Callable[..., Any],
) -> None:
    """One of all keys does not, for it stays."""
    reason: Any = 0.1 if policy is Hedge else ConnectionError
    store = MemoryStore()

    def budget() -> RetryBudget:
        return RetryBudget(0.1, 9, name="host", shared=store)

    with virtual_time():
        whole = budget()
        for make, told in ((budget, 1.0), (lambda: whole, 0.0)):
            hosts = PerKey(
                lambda host, make=make: policy(reason, budget=make()),
                key=by_user,
                max_keys=1,
            )
            lease = hosts["a"]._budget._shared.lease  # type: ignore[attr-defined]
            lease._owed = 1.0
            hosts["b"]
            assert told == 1.0 - lease._owed
            lease._owed = 0.0
        bare = PerKey(lambda host: policy(reason, budget=None), max_keys=1)
        assert bare["a"] is not bare["b"]
        lazy = functools.cache(budget)
        hosts = PerKey(lambda host: policy(reason, budget=lazy()), key=by_user)
        hosts["a"]
        with pytest.raises(ValueError, match="several keys would share one budget"):
            hosts["b"]
    assert 1 == len(hosts) == len(bare)


@pytest.mark.parametrize(
    "make",
    [CircuitBreaker, lambda: Retry(OSError), lambda: Bulkhead(1)],
    ids=["circuit", "budget", "slots"],
)
def test_what_is_not_shared_has_nothing_to_give_back(make: Callable[[], Any]) -> None:
    """It is dropped, as ever."""
    hosts = PerKey(lambda host: make(), max_keys=1)
    assert hosts["a"] is not hosts["b"]
    assert 1 == len(hosts)
