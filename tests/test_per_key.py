"""PerKey, in three colours."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import pytest
from tests.colours import World, in_async_colours, in_every_colour

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Balance,
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CircuitBreaker,
    CircuitState,
    Coalesce,
    Eject,
    Event,
    Fallback,
    Hedge,
    KeyEvicted,
    KeyOverflowed,
    PerKey,
    Pipeline,
    Policy,
    RateLimitedError,
    RateLimiter,
    RejectedError,
    ResilientWarning,
    Retry,
    StaleCache,
    Timeout,
    Trait,
    constant,
)
from resilient._calls.outcome import OngoingWork
from resilient.testing import virtual_time


class Pair(NamedTuple):
    """A tuple of a type of its own."""

    first: object
    second: object


def limiter(key: object) -> RateLimiter:
    """Make a limiter of one call an hour."""
    return RateLimiter(1, per=3600)


def generous(key: object) -> RateLimiter:
    """Make a limiter that a few calls leave neither new nor spent."""
    return RateLimiter(9, per=3600)


async def visit(host: str, path: str = "/") -> str:
    """Answer."""
    return host


def by_host(host: str, path: str = "/") -> str:
    """Return the key of `visit`."""
    return host


# -- Keys


@in_every_colour
async def test_each_key_has_a_policy_of_its_own(w: World) -> None:
    """One key's limit is not another's."""
    hosts = PerKey(limiter, key=by_host)
    assert "a" == await w.call(hosts, visit, "a")
    assert "b" == await w.call(hosts, visit, "b", path="/x")
    for host in "ab":
        with pytest.raises(RateLimitedError):
            await w.call(hosts, visit, host)
    assert 2 == len(hosts)
    assert "a" in hosts
    assert "c" not in hosts


@in_every_colour
async def test_a_block_has_the_key_that_it_is_given(w: World) -> None:
    """It has no arguments that a function could look at."""
    for hosts in (PerKey(limiter), PerKey(limiter, key=by_host)):
        if w.is_sync:
            with hosts.guard(key="a"):
                pass
            for attempt in hosts.attempts(key="b"):
                with attempt:
                    pass
        else:
            async with hosts.guard(key="a"):
                pass
            async for attempt in hosts.attempts(key="b"):
                async with attempt:
                    pass
        assert (2, True, True) == (len(hosts), "a" in hosts, "b" in hosts)


@in_every_colour
async def test_a_call_without_a_key_is_refused(w: World) -> None:
    """Without a key it is not known which policy applies."""
    hosts = PerKey(limiter)
    with pytest.raises(TypeError) as caught:
        await w.call(Pipeline(Retry(Exception), hosts), visit, "a")
    assert (
        "'visit' has no key for PerKey(limiter): give PerKey a key=… function,"
        " or the block a key=…"
    ) == str(caught.value)
    with pytest.raises(TypeError, match="has no key"):
        PerKey(limiter, key=by_host).guard().__enter__()


@in_every_colour
async def test_a_key_has_to_be_hashable(w: World) -> None:
    """The error says so, and not what it was: it may be secret."""
    hosts = PerKey(limiter, key=lambda host: [host])
    with pytest.raises(TypeError) as caught:
        await w.call(hosts, visit, "secret")
    text = "`key` must be hashable, got an object of <class 'list'>"
    assert text == str(caught.value)


@in_every_colour
async def test_what_a_key_function_raises_reaches_the_caller(w: World) -> None:
    """It is a bug: nothing is retried."""
    hosts = PerKey(limiter, key=lambda host: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await w.call(Pipeline(Retry(Exception), hosts), visit, "a")


def test_a_policy_can_be_had_by_its_key() -> None:
    """It is made if need be, and the same every time."""
    hosts = PerKey(lambda key: CircuitBreaker(name=f"host {key}"), key=by_host)
    breaker = hosts["a"]
    assert "host a" == breaker.name
    assert breaker is hosts["a"]
    assert isinstance(breaker, CircuitBreaker)
    breaker.force_open()
    with pytest.raises(Exception, match="circuit 'host a' is forced open"):
        hosts.call(by_host, "a")
    assert hosts


def test_an_empty_one_is_true() -> None:
    """It is a policy, not a container."""
    assert PerKey(limiter)


def test_two_threads_that_ask_for_a_new_key_get_one_policy() -> None:
    """The factory may run twice; one result is kept."""
    barrier = threading.Barrier(2)
    made: list[RateLimiter] = []

    def factory(key: object) -> RateLimiter:
        made.append(limiter(key))
        barrier.wait(5)
        return made[-1]

    hosts = PerKey(factory)
    got: list[Any] = []
    threads = [
        threading.Thread(target=lambda: got.append(hosts["a"])) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2 == len(made)
    assert got[0] is got[1] is hosts["a"]


# -- Room


def evictions(hosts: PerKey[Any]) -> list[KeyEvicted]:
    """Return a list to which evictions will be added."""
    events: list[KeyEvicted] = []

    def note(event: Event) -> None:
        if isinstance(event, KeyEvicted):
            events.append(event)

    hosts.subscribe(note)
    return events


def test_the_least_recently_used_goes_first() -> None:
    """A call is a use, and so is a look."""
    hosts = PerKey(generous, key=by_host, max_keys=3, name="hosts")
    events = evictions(hosts)
    for host in "abca":
        hosts.call(by_host, host)
    hosts["b"]
    hosts.call(by_host, "d")
    assert [True, True, False, True] == [host in hosts for host in "abcd"]
    assert [KeyEvicted("hosts", "by_host", False)] == events


def test_one_that_is_as_good_as_new_goes_before() -> None:
    """Nothing is forgotten then."""
    hosts = PerKey(limiter, max_keys=3, name="hosts")
    events = evictions(hosts)
    for host in "abc":
        with hosts.guard(key=host):
            pass
    hosts["b"].reset()
    hosts["d"]
    assert [True, False, True, True] == [host in hosts for host in "abcd"]
    assert [KeyEvicted("hosts", None, True)] == events


def test_a_flood_of_new_keys_resets_no_limit_soon() -> None:
    """What was learnt is spared while there are others to drop."""
    hosts = PerKey(limiter, key=by_host, max_keys=10)
    for host in "abc":
        hosts.call(by_host, host)
    for number in range(1000):
        hosts[number]
    assert 10 == len(hosts)
    for host in "abc":
        with pytest.raises(RateLimitedError):
            hosts.call(by_host, host)


@in_every_colour
async def test_one_in_use_never_goes(w: World) -> None:
    """Nor are there more than fit: further keys share a policy."""
    hosts = PerKey(lambda key: Bulkhead(1), key=by_host, max_keys=1)

    async def inner(host: str) -> None:
        with pytest.raises(BulkheadFullError):
            await w.call(hosts, visit, "c")

    async def outer(host: str) -> None:
        await w.call(hosts, inner, "b")
        await w.call(hosts, visit, "c")
        assert [True, False, False] == [host in hosts for host in "abc"]
        with pytest.raises(BulkheadFullError):
            await w.call(hosts, visit, "a")

    await w.call(hosts, outer, "a")
    assert 1 == len(hosts)
    await w.call(hosts, visit, "d")
    assert ["d"] == [host for host in "abcd" if host in hosts]


@in_every_colour
async def test_one_with_a_stream_is_in_use(w: World) -> None:
    """Until that ends: its slot is taken until then, too."""
    hosts = PerKey(lambda key: Bulkhead(1), key=by_host, max_keys=1)

    async def rows(host: str) -> Any:
        yield 1
        yield 2

    def sync_rows(host: str) -> Any:
        yield 1
        yield 2

    async def others() -> None:
        await w.call(hosts, visit, "b")
        assert "a" in hosts

    if w.is_sync:
        for _ in hosts(sync_rows)("a"):
            await others()
    else:
        async for _ in hosts(rows)("a"):
            await others()
    await w.call(hosts, visit, "c")
    assert ["c"] == [host for host in "abc" if host in hosts]


@in_every_colour
async def test_it_is_out_of_use_however_a_call_ends(w: World) -> None:
    """By an error, by a rejection, by unwinding."""
    hosts = PerKey(limiter, key=by_host, max_keys=1)

    async def end(host: str, error: BaseException) -> None:
        raise error

    with pytest.raises(OSError, match="down"):
        await w.call(hosts, end, "a", OSError("down"))
    with pytest.raises(RateLimitedError):
        await w.call(hosts, end, "a", OSError("down"))
    hosts.reset()
    with pytest.raises(KeyboardInterrupt):
        await w.call(hosts, end, "a", KeyboardInterrupt())
    hosts.reset()
    await w.call(hosts, visit, "b")
    assert "a" not in hosts


@in_async_colours
async def test_calls_under_way_finish_on_the_policy_they_began_with(w: World) -> None:
    """Removed or not, each gives back what it took where it took it."""
    hosts = PerKey(lambda key: Bulkhead(2), key=by_host, max_keys=1)
    bulkhead = hosts["a"]
    assert isinstance(bulkhead, Bulkhead)

    async def stay(host: str) -> None:
        assert 1 <= bulkhead.in_use <= 2
        await w.sleep(1)

    await w.gather(*[lambda: w.call(hosts, stay, "a")] * 2)
    assert 0 == bulkhead.in_use


def test_one_that_comes_into_use_meanwhile_is_spared() -> None:
    """Whether it is fresh is asked outside of the lock."""
    hosts: PerKey[Any]

    class Curious(Bulkhead):
        """Is called while it is asked."""

        def is_pristine(self) -> bool:
            if not guards:
                guards.append(hosts.guard(key="a"))
                guards[0].__enter__()
            return super().is_pristine()

    guards: list[Any] = []
    hosts = PerKey(lambda key: Curious(1), max_keys=1)
    hosts["a"]
    hosts["b"]
    assert ["a"] == [key for key in "abc" if key in hosts]
    guards[0].__exit__(None, None, None)
    hosts["c"]
    assert ["c"] == [key for key in "abc" if key in hosts]


def everything_restrictive() -> dict[str, tuple[Any, Callable[[Any], object]]]:
    """What each policy has learnt that would be lost, and how it comes by it."""

    def fail() -> None:
        raise OSError("down")

    def failing(times: int) -> Callable[[Any], object]:
        def use(policy: Any) -> None:
            for _ in range(times):
                with contextlib.suppress(OSError, RejectedError):
                    policy.call(fail)

        return use

    retry = Retry(OSError, budget="own", backoff=constant(0), attempts=20)
    return {
        "a circuit": (CircuitBreaker(consecutive_failures=1), failing(1)),
        "a forced circuit": (CircuitBreaker(), lambda policy: policy.force_open()),
        "a limit": (RateLimiter(1, per=3600), lambda policy: policy.call(int)),
        "a cost": (RateLimiter(3, per=3600, cost=2), lambda policy: policy.call(int)),
        "a computed cost": (
            RateLimiter(1, per=3600, cost=lambda call: 1),
            lambda policy: policy.call(int),
        ),
        "a window": (
            RateLimiter(1, per=3600, algorithm="sliding_window"),
            lambda policy: policy.call(int),
        ),
        "a budget": (retry, failing(1)),
        "a throttle": (AdaptiveThrottle(), failing(50)),
        "an adaptive limit": (AdaptiveConcurrency(), failing(5)),
        "a hedge": (
            Hedge(1, budget="own", max_threads=2),
            lambda policy: [policy._budget.withdraw() for _ in range(10)],
        ),
        "a pipeline": (Pipeline(Timeout(9), retry.with_(), Bulkhead(9)), failing(1)),
        "a balance": (Balance("a", "b", "c", eject=Eject(1)), failing(1)),
        "keys": (
            PerKey(limiter, key=lambda: 1),
            lambda policy: policy.call(lambda: None),
        ),
    }


@pytest.mark.parametrize("kind", everything_restrictive())
def test_what_protects_outlives_a_flood(kind: str) -> None:
    """Keys that are used, and others that are new: these go, the newest too."""
    with virtual_time():
        policy, use = everything_restrictive()[kind]
        assert not policy.is_restrictive()
        hosts = PerKey(lambda key: policy if key == "a" else generous(key), max_keys=40)
        hosts["a"]
        use(policy)
        assert policy.is_restrictive()
        for number in range(200):
            hosts[number].call(int)
        assert 40 == len(hosts)
        assert policy is hosts["a"]


def test_a_thread_that_was_left_behind_is_not_forgotten() -> None:
    """It has a place among those that may run, until it ends."""
    timeout = Timeout(0.001, abandon=True)
    held = threading.Lock()
    with held, pytest.raises(TimeoutError):
        assert not timeout.is_restrictive()
        try:
            timeout.call(held.acquire)
        finally:
            assert timeout.is_restrictive()


def test_new_keys_share_where_each_protects() -> None:
    """One limit for all of them: there is nothing that could be dropped."""
    hosts = PerKey(limiter, key=by_host, max_keys=100, name="hosts")
    events: list[Event] = []
    hosts.subscribe(events.append)
    for number in range(100):
        hosts.call(by_host, number)
    hosts.call(by_host, "attacker")
    for host in ("attacker", "another", 0, 99):
        with pytest.raises(RateLimitedError):
            hosts.call(by_host, host)
    assert 100 == len(hosts)
    assert "attacker" not in hosts
    assert [KeyOverflowed("hosts", "by_host")] * 3 == [
        event for event in events if isinstance(event, KeyOverflowed)
    ]
    assert hosts["third"] is hosts["fourth"]
    assert hosts["third"] in hosts.children()
    assert 4 == sum(isinstance(event, CallRejected) for event in events)


def test_what_no_longer_protects_makes_room() -> None:
    """Found by turns, however many there are."""
    with virtual_time() as clock:
        hosts = PerKey(limiter, key=by_host, max_keys=100)
        for number in range(100):
            hosts.call(by_host, number)
        hosts.call(by_host, "shared")
        clock.advance(3600)
        hosts.call(by_host, 50)
        for name in "abc":
            hosts.call(by_host, name)
            assert name in hosts
        assert 50 in hosts


# -- Keys that are not what they should be


class Unstable:
    """Its hash changes with its value, and it is equal to what has the same."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        if self.value == "raises":
            raise ZeroDivisionError("eq")
        return isinstance(other, Unstable) and self.value == other.value


def perkey(max_keys: int) -> Callable[[Any], Any]:
    """A PerKey of so many keys."""
    return PerKey(lambda key: Bulkhead(1), key=lambda key: key, max_keys=max_keys)(
        lambda key: "served"
    )


KEPT: dict[str, Callable[[int], Callable[[Any], Any]]] = {
    "PerKey": perkey,
    "StaleCache": lambda most: StaleCache(9, 9, max_entries=most, key=lambda key: key)(
        lambda key: "served"
    ),
    "StaleCache, by arguments": lambda most: StaleCache(9, 9, max_entries=most)(
        lambda key: "served"
    ),
    "Coalesce": lambda most: Coalesce(key=lambda key: key)(lambda key: "served"),
    "Coalesce, by arguments": lambda most: Coalesce()(lambda key: "served"),
}


@pytest.mark.parametrize("place", ["alone", "in a tuple"])
@pytest.mark.parametrize("name", KEPT)
def test_one_bad_key_harms_no_other(name: str, place: str) -> None:
    """Whether its hash changes while it is kept, or it cannot be compared."""
    ask = KEPT[name](3)

    def given(key: Unstable) -> Any:
        return key if place == "alone" else (1, (key,))

    for value in ("raises", "a", "raises", "b", "c", "raises"):
        assert "served" == ask(given(Unstable(value)))
    for number in range(20):
        key = Unstable(number)
        assert "served" == ask(given(key))
        key.value = number + 1000
    twin = {hash("raises"): "of the same hash"}
    for value in twin:
        assert "served" == ask(value)


def test_equal_keys_are_one_key() -> None:
    """Whatever their types: as in any dict."""
    hosts = PerKey(lambda key: Bulkhead(1))
    for one, other in (
        (1, 1.0),
        (Unstable("a"), Unstable("a")),
        ("free", Plan.FREE),
        (Plan.PAID, "paid"),
        (("a", Plan.FREE), ("a", "free")),
        ("long" * 100, "long" * 100),
        (b"long" * 100, b"long" * 100),
    ):
        assert hosts[one] is hosts[other]
    assert hosts["long" * 100] is not hosts[b"long" * 100]
    assert hosts["long" * 100] is not hosts["long" * 101]


class Plan(enum.StrEnum):
    """Keys that are equal to texts."""

    FREE = "free"
    PAID = "paid"


def test_a_long_key_is_not_kept() -> None:
    """Ten thousand of a megabyte each would be ten gigabytes."""
    for ask in (perkey(100), StaleCache(9, 9)(lambda key: None), Coalesce()(len)):
        ask("warm up")
        tracemalloc.start()
        for number in range(100):
            ask((str(number) * 10_000, "x"))
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 500_000


@pytest.mark.parametrize("policy", [StaleCache(9, 9), Coalesce()])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (0j, -0j),
        ((1,), (True,)),
        (((1,), 2), ((1.0,), 2)),
        ((0.0,), (-0.0,)),
        (frozenset([1]), frozenset([True])),
        (Pair(1, 2), (1, 2)),
        (Pair(1, 2), Pair(True, 2)),
    ],
    ids=map(str, range(10)),
)
def test_equal_arguments_are_told_apart(policy: Any, one: Any, other: Any) -> None:
    """By place and by name: they need not mean the same."""
    asked: list[Any] = []
    decorated = policy(lambda first, *, second=0: asked.append((first, second)))
    for thing in (one, other):
        decorated(thing)
        decorated(0, second=thing)
    assert 4 == len(asked)
    if isinstance(policy, StaleCache):
        decorated(float("nan"))
        decorated(float("nan"))
        assert 5 == len(asked)


# -- Listeners


@in_every_colour
async def test_a_listener_is_told_of_every_key(w: World) -> None:
    """Of those there are, and those to come; until it unsubscribes."""
    hosts = PerKey(limiter, key=by_host)
    events: list[Event] = []
    hosts["a"]
    unsubscribe = hosts.subscribe(events.append)
    hosts["b"]
    hosts.subscribe(lambda event: None)

    async def reject(host: str) -> None:
        with pytest.raises(RateLimitedError):
            await w.call(hosts, visit, host)

    for host in "abc":
        await w.call(hosts, visit, host)
        await reject(host)
    assert 3 == sum(isinstance(event, CallRejected) for event in events)
    unsubscribe()
    await reject("c")
    await w.call(hosts, visit, "d")
    await reject("d")
    assert 3 == len(events)


# -- All keys at once


def test_a_reset_is_one_of_every_key() -> None:
    """They stay."""
    hosts = PerKey(limiter, key=by_host)
    assert hosts.is_pristine()
    hosts.call(by_host, "a")
    assert not hosts.is_pristine()
    hosts.reset()
    assert hosts.is_pristine()
    hosts.call(by_host, "a")
    assert 1 == len(hosts)


def test_the_policies_of_its_keys_are_its_children() -> None:
    """Once there are any."""
    hosts = PerKey(limiter)
    assert [] == hosts.children()
    assert [hosts["a"]] == hosts.children()


def test_a_spelling_is_refused_for_every_key() -> None:
    """Those there are at once, those to come when they are made."""
    hosts: PerKey[Any] = PerKey(lambda key: Fallback(key), key=by_host)
    hosts["a"]
    with pytest.raises(TypeError, match="may answer in the place"):
        hosts.attempts()
    empty: PerKey[Any] = PerKey(lambda key: Fallback(key))
    pipeline = Pipeline(empty)

    def rows() -> Any:
        yield 1

    pipeline(rows)
    empty(rows)
    with pytest.raises(TypeError, match="has no meaning for a generator"):
        empty["a"]
    assert 0 == len(empty)


# -- Construction


def test_its_repr_is_the_call_that_made_it() -> None:
    """Functions go by their names; keys are not shown."""
    hosts = PerKey(limiter, key=by_host, max_keys=5, name="hosts")
    hosts["secret"]
    made = "PerKey(limiter, key=by_host, max_keys=5, name='hosts')"
    assert made == repr(hosts)
    other = hosts.with_(max_keys=6)
    assert made.replace("5", "6") == repr(other)
    assert 0 == len(other)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((5,), TypeError, "`factory` must be a function of the key, got 5"),
        (
            (RateLimiter(1),),
            TypeError,
            "`factory` must be a function of the key, got RateLimiter(1)",
        ),
    ],
)
def test_a_wrong_factory_is_refused(
    arguments: Any, error: type[Exception], text: str
) -> None:
    """A policy that all keys would share most of all."""
    with pytest.raises(error) as caught:
        PerKey(*arguments)
    assert text == str(caught.value)


def test_a_decorator_without_parentheses_is_refused() -> None:
    """The function would be taken for the factory; one that has no key to take."""

    def get() -> None: ...

    with pytest.raises(TypeError) as caught:
        PerKey(get)  # type: ignore[arg-type]  # that is the mistake
    assert (
        "`factory` must take the key, got get; a decorator needs its parentheses,"
        " @PerKey(factory)" == str(caught.value)
    )
    # Some of what is written in C does not say what it takes.
    assert 0 == len(PerKey(dict))  # type: ignore[arg-type]  # whatever it makes


def test_wrong_arguments_are_refused() -> None:
    """With parameter, rule and value."""
    with pytest.raises(TypeError, match="`key` must be a function or None, got 'a'"):
        PerKey(limiter, key="a")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match="`max_keys` must be >= 1, got 0"):
        PerKey(limiter, max_keys=0)


def test_a_factory_has_to_make_policies() -> None:
    """Otherwise the call is refused."""
    hosts: PerKey[Any] = PerKey(lambda key: key)
    with pytest.raises(TypeError, match="`factory` must make a policy, got 'a'"):
        hosts["a"]
    assert 0 == len(hosts)


@in_every_colour
async def test_it_stands_in_a_pipeline(w: World) -> None:
    """Each attempt asks for its key's policy."""
    hosts = PerKey(
        lambda key: CircuitBreaker(failure_rate=None, consecutive_failures=2),
        key=lambda host, results: host,
    )
    pipeline = Pipeline(Retry(OSError, attempts=2, backoff=constant(1)), hosts)

    async def flaky(host: str, results: list[Any]) -> Any:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    assert "ok" == await w.call(pipeline, flaky, "a", [OSError(), "ok"])
    with pytest.raises(OSError, match="2"):
        await w.call(pipeline, flaky, "b", [OSError("1"), OSError("2"), "ok"])
    states = [hosts[host].state for host in "ab"]  # type: ignore[attr-defined]
    assert [CircuitState.CLOSED, CircuitState.OPEN] == states


# -- Memory


MEASURE = """
import gc, tracemalloc
from resilient import AdaptiveThrottle, Bulkhead, CircuitBreaker, PerKey, RateLimiter

def use(first):
    for key in keys[first : first + 1_000]:
        calling(key)

for factory in (
    lambda key: RateLimiter(10, per=60, max_wait=1),
    lambda key: RateLimiter(10, per=60, cost=2, name="api"),
    lambda key: CircuitBreaker(),
    lambda key: Bulkhead(10),
    lambda key: AdaptiveThrottle(),
):
    calling = PerKey(factory, key=lambda key: key)(lambda key: None)
    keys = [str(number) for number in range(2_000)]
    use(0)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    use(1_000)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print((after - before) / 1_000)
"""


@pytest.mark.real
def test_a_key_takes_little_memory() -> None:
    """Ten thousand of them are what one process may have; in bytes, each.

    In a process of its own, for memory is counted in all threads.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COVERAGE")
    }
    program = [sys.executable, "-c", MEASURE]
    printed = subprocess.check_output(program, env=env, text=True)
    limiter, costly_limiter, breaker, bulkhead, throttle = map(float, printed.split())

    assert limiter <= 440
    assert costly_limiter <= 440
    assert breaker <= 1_040
    # With a list that is there before a permit is to be given back.
    assert bulkhead <= 640
    assert throttle <= 920


def in_use(hosts: PerKey[Any]) -> dict[Any, int]:
    """Return how many calls are inside, by key, once who left is counted out."""
    hosts._count_out_locked()
    return hosts._inside


class Odd(Policy[Any]):
    """A policy that cannot say whether it is as good as new."""

    async def around(self, proceed: Any, call: Any) -> Any:
        return await proceed(call)

    def is_pristine(self) -> bool:
        raise ZeroDivisionError


@in_every_colour
async def test_a_key_whose_coming_fails_is_not_in_use(w: World) -> None:
    """Whether a listener was interrupted or a policy cannot be asked."""
    hosts = PerKey[Any](lambda key: Bulkhead(1), key=by_host, max_keys=1)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    hosts.subscribe(interrupt)
    await w.call(hosts, visit, "a")
    with pytest.raises(KeyboardInterrupt):
        await w.call(hosts, visit, "b")
    with pytest.raises(KeyboardInterrupt):
        hosts["c"]
    assert {} == in_use(hosts)
    hosts = PerKey(lambda key: Odd(), key=by_host, max_keys=1)
    await w.call(hosts, visit, "a")
    with pytest.raises(ZeroDivisionError):
        await w.call(hosts, visit, "b")
    with pytest.raises(ZeroDivisionError):
        hosts["c"]
    assert {} == in_use(hosts)


class Lingering(Policy[Any]):
    """A policy whose calls go on after their answer, until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[OngoingWork] = []

    async def around(self, proceed: Any, call: Any) -> Any:
        outcome = await proceed(call)
        outcome.ongoing = OngoingWork()
        self.left.append(outcome.ongoing)
        return outcome


@in_every_colour
async def test_one_call_may_be_inside_twice(w: World) -> None:
    """As each attempt is that leaves a thread behind."""
    lingering = Lingering()
    hosts = PerKey[Any](lambda key: lingering, key=by_host, max_keys=1)
    pipeline = Pipeline(Retry(OSError, attempts=2, backoff=constant(0)), hosts)
    results: list[Any] = [OSError(), "ok"]

    async def flaky(host: str) -> Any:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    assert "ok" == await w.call(pipeline, flaky, "a")
    first, second = lingering.left
    first.finish(None)
    hosts["b"]
    assert "a" in hosts
    second.finish(None)
    hosts["c"]
    assert "a" not in hosts


@in_every_colour
async def test_who_is_inside_is_found_by_hash(w: World) -> None:
    """Keys that are equal to others, or cannot be compared, are told apart."""

    class Careless:
        def __init__(self, number: int) -> None:
            self.number = number

        def __hash__(self) -> int:
            return self.number

        def __eq__(self, other: Any) -> bool:
            return bool(self.number == other.number)

    hosts = PerKey[Any](lambda key: Bulkhead(1), key=lambda key: key, max_keys=1)

    async def visit_another(key: object) -> None:
        await w.call(hosts, visit, Careless(2))

    await w.call(hosts, visit_another, "text")
    assert {} == in_use(hosts)


def test_a_call_that_ends_under_the_lock_is_out_of_use() -> None:
    """The thread that closes a lost call may be the one that has the lock."""

    def plain_items(host: str) -> Iterator[int]:
        yield 1

    class Interrupting(dict[Any, Any]):
        lost: ClassVar[list[Any]] = []

        def pop(self, *args: Any) -> Any:
            if self.lost:
                self.lost.pop().close()
            return super().pop(*args)

        def __delitem__(self, key: Any) -> None:
            if self.lost:
                self.lost.pop().close()
            super().__delitem__(key)

    hosts = PerKey[Any](lambda key: Bulkhead(2), key=lambda key: key)
    items: Any = hosts(plain_items)
    hosts._policies = Interrupting(hosts._policies)
    hosts._inside = Interrupting(hosts._inside)
    for host in "ab":
        lost = items(host)
        next(lost)
        Interrupting.lost.append(lost)
        del lost
        if host == "a":
            hosts["a"]
            assert {} == in_use(hosts)
    assert {"b": 1} == in_use(hosts)
    hosts.call(by_host, "c")
    assert {} == in_use(hosts)
    lost = items("d")
    next(lost)
    # It is closed as the call to "e" leaves.
    hosts.call(lambda host: Interrupting.lost.append(lost), "e")
    assert {} == in_use(hosts)


def test_async_functions_are_refused() -> None:
    """They would return coroutines that are never awaited."""

    async def function(key: object) -> Any:
        raise AssertionError("it was called")

    with pytest.raises(TypeError, match="`factory` must be a plain function"):
        PerKey(function)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`key` must be a plain function"):
        PerKey(limiter, key=function)


@pytest.mark.parametrize(("factory", "warns"), [(Timeout, True), (Bulkhead, False)])
def test_it_interrupts_where_its_policies_do(factory: Any, warns: bool) -> None:
    """Known with the first of them: a synchronous block on a loop is deaf to it."""
    per_key = PerKey(lambda key: factory(1))
    assert Trait.INTERRUPTS not in per_key.traits
    with per_key.guard(key="a"):
        pass
    assert warns == (Trait.INTERRUPTS in per_key.traits)

    async def main() -> None:
        told = pytest.warns(ResilientWarning, match="cannot interrupt")
        with told if warns else contextlib.nullcontext():
            with per_key.guard(key="b"):
                pass

    asyncio.run(main())
