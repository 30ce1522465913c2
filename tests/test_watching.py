"""Listening to every policy of the process."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour

import resilient
from resilient import (
    BudgetEmpty,
    Bulkhead,
    CallRejected,
    CircuitBreaker,
    CircuitChanged,
    Event,
    KeyEvicted,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    RejectedError,
    RetriesExhausted,
    Retry,
    RetryBudget,
    RetryScheduled,
    Timeout,
    constant,
)
from resilient._events.listeners import global_listeners
from resilient._policy.policy import living


@pytest.fixture(autouse=True)
def _no_listener_is_subscribed() -> Iterator[None]:
    def have_listeners() -> list[Policy[Any]]:
        gc.collect()
        return [policy for policy in living.values() if policy.has_listeners]

    assert [] == global_listeners
    before = have_listeners()
    yield
    assert [] == global_listeners
    assert before == have_listeners()


async def nothing() -> None:
    """Take no time."""


async def fail() -> None:
    """Fail at once."""
    raise OSError("down")


@in_every_colour
async def test_one_listener_hears_policies_old_and_new(w: World) -> None:
    """Each event once, and none after it has ended."""
    told: list[Event] = []
    old = Pipeline(RateLimiter(1, per=3600, name="old"), name="first")
    unsubscribe = resilient.subscribe(told.append)
    new = Pipeline(Pipeline(RateLimiter(1, per=3600, name="new")), name="second")
    for policy in (old, new):
        await w.call(policy, nothing)
        with pytest.raises(RejectedError):
            await w.call(policy, nothing)
    expected = [("first", "old"), ("second", "new")]
    assert expected == [(event.pipeline, event.policy) for event in told]
    unsubscribe()
    unsubscribe()
    with pytest.raises(RejectedError):
        await w.call(new, nothing)
    assert 2 == len(told)


@in_every_colour
async def test_own_listeners_and_others_are_told_side_by_side(w: World) -> None:
    """Ending one leaves the other."""
    limiter = RateLimiter(1, per=3600)
    mine: list[Event] = []
    everybodys: list[Event] = []
    first = resilient.subscribe(everybodys.append)
    second = resilient.subscribe(everybodys.append)
    own = limiter.subscribe(mine.append)

    async def reject() -> tuple[int, int]:
        mine.clear()
        everybodys.clear()
        with pytest.raises(RejectedError):
            await w.call(limiter, nothing)
        return len(mine), len(everybodys)

    await w.call(limiter, nothing)
    assert (1, 2) == await reject()
    first()
    assert (1, 1) == await reject()
    own()
    assert (0, 1) == await reject()
    second()
    assert (0, 0) == await reject()


@in_every_colour
async def test_the_policies_of_keys_are_heard_once(w: World) -> None:
    """Those there were, those there will be, and with listeners of their own."""

    def factory(key: Any) -> Policy[Any]:
        return Pipeline(RateLimiter(1, per=3600, name=key), Timeout(5))

    hosts = PerKey(factory, key=lambda key: key, max_keys=2, name="hosts")
    told: list[Event] = []
    mine: list[Event] = []

    async def get(key: str) -> None: ...

    async def reject(key: str) -> list[str]:
        told.clear()
        await w.call(hosts, get, key)
        with pytest.raises(RejectedError):
            await w.call(hosts, get, key)
        return [event.policy for event in told if isinstance(event, CallRejected)]

    before = hosts["old"]
    unsubscribe = resilient.subscribe(told.append)
    assert ["old"] == await reject("old")
    assert ["new"] == await reject("new")
    own = hosts.subscribe(mine.append)
    # A limit that is spent would not be dropped.
    hosts.reset()
    assert ["third"] == await reject("third")
    assert 1 == sum(isinstance(event, KeyEvicted) for event in told)
    assert 1 == sum(isinstance(event, CallRejected) for event in mine)
    unsubscribe()
    own()
    assert [] == await reject("fourth")
    assert before.label == "Pipeline"


@in_every_colour
async def test_a_circuit_is_heard_in_order(w: World) -> None:
    """With the pipeline that it stands in."""
    told: list[Event] = []
    breaker = CircuitBreaker(consecutive_failures=1, open_for=1.0, name="circuit")
    policy = Pipeline(breaker, name="api")
    unsubscribe = resilient.subscribe(told.append)
    with pytest.raises(OSError, match="down"):
        await w.call(policy, fail)
    with pytest.raises(RejectedError):
        await w.call(policy, fail)
    await w.sleep(1)
    for _ in range(2):
        await w.call(policy, nothing)
    unsubscribe()
    seen = [
        (event.new if isinstance(event, CircuitChanged) else type(event).__name__)
        for event in told
    ]
    assert ["open", "CallRejected", "half_open", "closed"] == seen
    assert {"api"} == {event.pipeline for event in told}


@in_every_colour
async def test_an_empty_budget_is_told(w: World) -> None:
    """Before the call is given up."""
    told: list[Event] = []
    retry = Retry(OSError, budget=RetryBudget(0, 1, 0), backoff=constant(0))
    unsubscribe = resilient.subscribe(told.append)
    with pytest.raises(OSError, match="down"):
        await w.call(retry, fail)
    unsubscribe()
    kinds = [type(event) for event in told]
    assert [RetryScheduled, BudgetEmpty, RetriesExhausted] == kinds
    [empty] = [event for event in told if isinstance(event, BudgetEmpty)]
    assert 2 == empty.attempt


@in_every_colour
async def test_a_listener_of_all_that_raises_harms_no_call(w: World) -> None:
    """It is logged, once for each kind of event."""

    def broken(event: Event) -> None:
        raise RuntimeError("listener")

    told: list[Event] = []
    ends = [resilient.subscribe(broken), resilient.subscribe(told.append)]
    limiter = RateLimiter(1, per=3600)
    await w.call(limiter, nothing)
    for _ in range(2):
        with pytest.raises(RejectedError):
            await w.call(limiter, nothing)
    for end in ends:
        end()
    assert 2 == len(told)


def test_a_listener_of_all_has_to_be_a_plain_function() -> None:
    """And is refused at once otherwise."""

    async def listener(event: Event) -> None: ...

    with pytest.raises(TypeError, match="`listener` must be a plain function"):
        resilient.subscribe(listener)


def test_a_policy_that_is_half_made_has_the_listeners_of_all() -> None:
    """From the first of its constructors on, and no longer than the others."""
    half_made = Pipeline.__new__(Pipeline)
    Policy.__init__(half_made)
    unsubscribe = resilient.subscribe(lambda event: None)
    assert half_made.has_listeners
    unsubscribe()
    assert not half_made.has_listeners


def test_who_ends_a_subscription_keeps_the_other_listeners() -> None:
    """One's own, the policy's others and those of all policies are apart."""
    told: list[str] = []
    policy = CircuitBreaker(name="apart")
    stops = [
        policy.subscribe(lambda event: told.append("first")),
        resilient.subscribe(lambda event: told.append("all")),
        policy.subscribe(lambda event: told.append("second")),
    ]
    for heard in (["first", "second", "all"], ["second", "all"], ["second"], []):
        policy.force_open()
        policy.reset()
        assert 2 * heard == told
        told.clear()
        if stops:
            stops.pop(0)()
    assert not policy.has_listeners


def test_a_listener_may_end_subscriptions() -> None:
    """Those that an event was sent to get it all the same."""
    told: list[str] = []
    policy = CircuitBreaker(name="ended")

    def listener(event: Event) -> None:
        told.append("ended")
        stop()

    stop = resilient.subscribe(listener)
    stop_other = resilient.subscribe(lambda event: told.append("other"))
    policy.force_open()
    policy.reset()
    stop_other()
    assert ["ended", "other", "other"] == told


# -- The stream


def rejections(limiter: RateLimiter, count: int) -> None:
    """Have so many calls rejected, synchronously."""
    for _ in range(count):
        with pytest.raises(RejectedError):
            limiter.call(int)


def used_up(name: str) -> RateLimiter:
    """Return a limiter that rejects everything."""
    limiter = RateLimiter(1, per=3600, name=name)
    limiter.call(int)
    return limiter


@in_async_colours
async def test_a_stream_yields_what_happens(w: World) -> None:
    """What has happened already, and what it has to wait for."""
    limiter = used_up("api")
    got: list[str] = []

    async def read() -> None:
        async with resilient.events() as stream:
            async for event in stream:
                got.append(event.policy)
                if len(got) == 3:
                    break
        assert 0 == stream.dropped

    async def cause() -> None:
        await w.sleep(1)
        rejections(limiter, 2)
        await w.sleep(1)
        rejections(limiter, 1)

    assert [None, None] == await w.gather(read, cause)
    assert ["api"] * 3 == got


@in_async_colours
async def test_a_stream_that_is_not_read_drops_the_oldest(w: World) -> None:
    """And counts them."""
    first, second = used_up("first"), used_up("second")
    async with resilient.events(max_queue=2) as stream:
        rejections(first, 3)
        rejections(second, 1)
        assert ["first", "second"] == [(await anext(stream)).policy for _ in "12"]
    assert 2 == stream.dropped


@in_async_colours
async def test_a_stream_hears_other_threads(w: World) -> None:
    """While it waits in its loop."""
    limiter = used_up("api")
    got: list[Event] = []

    async def read() -> None:
        async with resilient.events() as stream:
            got.append(await anext(stream))

    async def cause() -> None:
        await w.sleep(1)
        thread = threading.Thread(target=rejections, args=(limiter, 1))
        thread.start()
        thread.join()

    assert [None, None] == await w.gather(read, cause)
    assert ["api"] == [event.policy for event in got]


@in_async_colours
async def test_a_stream_can_be_cancelled_and_read_again(w: World) -> None:
    """Nothing is lost by it."""
    limiter = used_up("api")
    async with resilient.events() as stream:
        with pytest.raises(resilient.TimeoutExceededError):
            await Timeout(1).acall(lambda_of(stream))
        rejections(limiter, 1)
        kinds = {type(await anext(stream)), type(await anext(stream))}
    assert {resilient.TimedOut, CallRejected} == kinds


def lambda_of(stream: resilient.EventStream) -> Any:
    """Return a function that waits for the next event."""

    async def next_event() -> Event:
        return await anext(stream)

    return next_event


@in_async_colours
async def test_a_stream_is_for_one_block(w: World) -> None:
    """Misuse is refused."""
    stream = resilient.events()
    with pytest.raises(RuntimeError, match="a stream of events has to be entered"):
        await anext(stream)
    async with stream:
        with pytest.raises(RuntimeError, match="a stream of events is for one block"):
            await stream.__aenter__()
    assert [] == global_listeners
    await stream.__aexit__(None, None, None)


def test_a_stream_needs_room() -> None:
    """For one event at least."""
    with pytest.raises(ValueError, match="`max_queue` must be >= 1, got 0"):
        resilient.events(0)


@pytest.mark.real
def test_policies_that_are_made_meanwhile_are_heard() -> None:
    """In whichever order: all of them listen, and none does afterwards."""
    made: list[Policy[Any]] = []
    stop = threading.Event()

    def make() -> None:
        while not stop.is_set():
            made.append(Bulkhead(1))
            if len(made) > 500:
                del made[:250]

    thread = threading.Thread(target=make)
    thread.start()
    try:
        for _ in range(50):
            unsubscribe = resilient.subscribe(lambda event: None)
            unsubscribe()
        unsubscribe = resilient.subscribe(lambda event: None)
    finally:
        stop.set()
        thread.join()
    assert {True} == {policy.has_listeners for policy in made}
    unsubscribe()
    assert {False} == {policy.has_listeners for policy in made}
    made.clear()
