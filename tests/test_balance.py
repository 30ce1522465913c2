"""Balance, in three colours; its rules are `machines/test_fleet.py`."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from tests.colours import World, in_async_colours, in_every_colour, in_sync
from tests.interrupts import amid_change

import resilient
from resilient import (
    Balance,
    Bulkhead,
    BulkheadFullError,
    CallRejected,
    CircuitBreaker,
    CircuitOpenError,
    Coalesce,
    DeadlineExceededError,
    Eject,
    Endpoint,
    EndpointEjected,
    EndpointReturned,
    EndpointsChanged,
    EndpointSkipped,
    EndpointState,
    Event,
    Hedge,
    Limit,
    NoEndpointError,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimitedError,
    RateLimiter,
    ResilientWarning,
    Retry,
    StaleCache,
    Timeout,
    Verdict,
    constant,
    current_call,
    deadline_after,
)
from resilient._machines.fleet import Fleet
from resilient._runtimes import clock
from resilient._values.locks import ReenteredError

if TYPE_CHECKING:
    from resilient._machines.fleet import Load

A, B, C = "ABC"
AT_ONCE: Any = {"backoff": constant(0), "budget": None}


class DownError(Exception):
    """What an endpoint answers that is down."""


class Replicas:
    """What endpoints answer, and who was asked."""

    def __init__(self, balance: Balance[str], **faults: Exception) -> None:
        self.balance = balance
        self.faults: dict[str, Exception] = dict(faults)
        self.asked: list[str] = []

    async def ask(self) -> str:
        """Answer with the endpoint's name."""
        endpoint = self.balance.current
        self.asked.append(endpoint)
        if endpoint in self.faults:
            raise self.faults[endpoint]
        return endpoint


def listening(policy: Policy[Any]) -> list[Event]:
    """Return what is told, to be filled."""
    events: list[Event] = []
    policy.subscribe(events.append)
    return events


def in_flight(balance: Balance[Any]) -> int:
    """Return the calls in flight to all endpoints."""
    return sum(each.in_flight for each in balance.endpoints)


def success(balance: Balance[Any], address: Any) -> float:
    """Return what is thought of an endpoint."""
    (found,) = [each for each in balance.endpoints if each.address == address]
    return found.success


# -- What is inside


@in_every_colour
async def test_inside_the_endpoint_is_known(w: World) -> None:
    """By the balance, by the call, and as the key of the call."""
    balance = Balance(A, B, C)
    seen: Counter[str] = Counter()

    async def ask() -> None:
        call = current_call()
        assert balance.current == call.endpoint == call.key
        seen[balance.current] += 1

    for _ in range(50):
        await w.call(balance, ask)
    assert {A, B, C} == set(seen)
    assert 0 == in_flight(balance)


@in_every_colour
async def test_outside_there_is_no_endpoint(w: World) -> None:
    """Nor once the call has ended, nor in a call of another policy."""
    balance, calls = Balance(A, name="replicas"), []

    async def ask() -> None:
        calls.append(current_call())

    await w.call(balance, ask)
    assert calls[0].endpoint is None
    with pytest.raises(LookupError, match="no call is balanced by 'replicas' here"):
        _ = balance.current

    async def elsewhere() -> None:
        assert current_call().endpoint is None
        with pytest.raises(LookupError):
            _ = balance.current

    await w.call(Timeout(1), elsewhere)


@in_every_colour
async def test_the_nearest_call_of_this_very_balance_counts(w: World) -> None:
    """Two may stand in each other, and each knows its own."""
    regions, replicas = Balance(1, 2), Balance(A, B)
    seen = set()

    async def inner() -> None:
        seen.add((regions.current, replicas.current))
        assert replicas.current == current_call().endpoint

    async def fails() -> None:
        await inner()
        raise DownError

    for _ in range(30):
        with pytest.raises(DownError):
            await w.call(
                Pipeline(Retry(DownError, attempts=5, **AT_ONCE), regions, replicas),
                fails,
            )
    assert {(1, A), (1, B), (2, A), (2, B)} == seen

    async def nested() -> None:
        outer = replicas.current
        await w.call(replicas, inner)
        assert outer == replicas.current

    await w.call(Pipeline(regions, replicas), nested)


@in_every_colour
async def test_each_endpoint_has_policies_of_its_own(w: World) -> None:
    """The key of a call inside is its endpoint; outside it is what it was."""
    balance = Balance(A, B)
    breakers = PerKey(lambda endpoint: CircuitBreaker())
    tenants = PerKey(lambda tenant: Bulkhead(5))
    pipeline = Pipeline(tenants, balance, breakers)

    async def ask() -> None:
        pass

    for _ in range(20):
        await w.call(balance, ask)
    if w.is_sync:
        for _ in range(20):
            with pipeline.guard(key="tenant") as call:
                assert call.key in (A, B)
            assert "tenant" == call.key
    else:
        for _ in range(20):
            async with pipeline.guard(key="tenant") as call:
                assert call.key in (A, B)
            assert "tenant" == call.key
    assert {A, B} == {key for key in (A, B, "tenant") if key in breakers}
    assert "tenant" in tenants
    assert A not in tenants


# -- Another endpoint


@in_every_colour
async def test_a_retry_goes_to_another_endpoint(w: World) -> None:
    """A third one to the one that is left; then to any, but not the last."""
    balance = Balance(A, B, C, eject=None)
    replicas = Replicas(balance, **dict.fromkeys((A, B, C), DownError()))
    for _ in range(40):
        replicas.asked.clear()
        with pytest.raises(DownError):
            await w.call(
                Pipeline(Retry(DownError, attempts=5, **AT_ONCE), balance), replicas.ask
            )
        assert {A, B, C} == set(replicas.asked[:3])
        assert replicas.asked[3] != replicas.asked[4]


@in_every_colour
async def test_with_one_endpoint_it_is_the_same_again(w: World) -> None:
    """After the delay of the Retry, which is the Retry's affair."""
    balance = Balance(A)
    replicas = Replicas(balance, A=DownError())
    retry = Retry(DownError, backoff=constant(1))
    with pytest.raises(DownError):
        await w.call(Pipeline(retry, balance), replicas.ask)
    assert ([A, A, A], 2.0) == (replicas.asked, w.now())


@in_every_colour
async def test_one_dead_endpoint_costs_a_retry_and_no_more(w: World) -> None:
    """The two others share what it would have had."""
    for load in ("latency", "requests", "round_robin", "random"):
        balance = Balance(A, B, C, load=load)  # type: ignore[arg-type]  # they are
        replicas = Replicas(balance, A=DownError())
        pipeline = Pipeline(Retry(DownError, attempts=2, **AT_ONCE), balance)
        for _ in range(100):
            assert await w.call(pipeline, replicas.ask) in (B, C)
            await w.sleep(0.01)


@in_every_colour
async def test_retries_and_moves_do_not_multiply(w: World) -> None:
    """Ten endpoints that all refuse are asked three times, not thirty."""
    balance = Balance(*range(10))
    asked: list[int] = []

    async def ask() -> None:
        asked.append(balance.current)
        raise DownError

    with pytest.raises(DownError):
        await w.call(Pipeline(Retry(DownError, **AT_ONCE), balance), ask)
    assert 3 == len(set(asked)) == len(asked)


@in_async_colours
async def test_a_hedge_goes_to_another_endpoint(w: World) -> None:
    """And the loser, which is cancelled, has not failed."""
    balance = Balance(A, B, C)
    for _ in range(20):
        asked: list[str] = []

        async def ask(asked: list[str] = asked) -> str:
            asked.append(balance.current)
            if len(asked) < 3:
                await w.sleep(10)
            return balance.current

        pipeline = Pipeline(Hedge(0.1, attempts=3, budget=None), balance)
        assert asked[-1:] != [await w.call(pipeline, ask)] or True
        assert {A, B, C} == set(asked)
    assert [1.0] * 3 == [each.success for each in balance.endpoints]
    assert 0 == in_flight(balance)


@in_async_colours
async def test_a_hedge_with_one_endpoint_goes_there_too(w: World) -> None:
    """As without a balance."""
    balance = Balance(A)
    asked: list[str] = []

    async def ask() -> None:
        asked.append(balance.current)
        if len(asked) == 1:
            await w.sleep(10)

    await w.call(Pipeline(Hedge(0.1, budget=None), balance), ask)
    assert [A, A] == asked


@in_async_colours
async def test_a_retry_of_hedges_knows_where_both_have_been(w: World) -> None:
    """Of four endpoints two attempts with two hedges see each once."""
    balance = Balance(*range(4), eject=None)
    asked: list[int] = []

    async def ask() -> None:
        asked.append(balance.current)
        await w.sleep(0.2)
        raise DownError

    pipeline = Pipeline(
        Retry(DownError, attempts=2, **AT_ONCE), Hedge(0.1, budget=None), balance
    )
    with pytest.raises(DownError):
        await w.call(pipeline, ask)
    assert [0, 1, 2, 3] == sorted(asked)


# -- When an endpoint's policies reject


@in_every_colour
async def test_a_rejected_call_goes_on_to_another_endpoint(w: World) -> None:
    """In the same attempt; for the endpoint it is no failure."""
    balance = Balance(A, B, name="replicas")
    breakers = PerKey(lambda endpoint: CircuitBreaker())
    pipeline = Pipeline(balance, breakers, name="shop")
    breaker = breakers[A]
    assert isinstance(breaker, CircuitBreaker)
    breaker.force_open()
    replicas, events = Replicas(balance), listening(balance)
    for _ in range(20):
        assert B == await w.call(pipeline, replicas.ask)
    skipped = EndpointSkipped("replicas", "Replicas.ask", A, "CircuitOpenError")
    assert {skipped} == set(events)
    assert [B] * 20 == replicas.asked
    assert 1.0 == success(balance, A)
    assert (
        len(events) == pipeline.counters.counts["resilient.endpoint.moves", "replicas"]
    )


@in_every_colour
async def test_when_all_reject_the_soonest_is_told(w: World) -> None:
    """Of all that were asked: the one that may be tried again first."""
    balance = Balance(A, B, C)
    waits = {A: 30.0, B: 10.0, C: 20.0}
    limiters = PerKey(lambda endpoint: RateLimiter(1, per=waits[endpoint]))
    pipeline = Pipeline(balance, limiters)
    replicas = Replicas(balance)
    for _ in range(3):
        await w.call(pipeline, replicas.ask)
    assert [A, B, C] == sorted(replicas.asked)
    with pytest.raises(RateLimitedError) as caught:
        await w.call(pipeline, replicas.ask)
    assert 10.0 == caught.value.retry_after
    assert [1.0] * 3 == [each.success for each in balance.endpoints]
    assert 0 == in_flight(balance)


@in_every_colour
async def test_a_rejection_that_knows_no_time_is_told_last(w: World) -> None:
    """Whatever comes first."""
    for known in (A, B):
        balance = Balance(A, B, load="round_robin")
        breakers = PerKey(lambda endpoint: CircuitBreaker())
        pipeline = Pipeline(balance, breakers)
        for endpoint in (A, B):
            breaker = breakers[endpoint]
            assert isinstance(breaker, CircuitBreaker)
            if endpoint == known:
                for _ in range(20):
                    with pytest.raises(DownError), breaker.guard():
                        raise DownError
            else:
                breaker.force_open()
        for _ in range(4):
            with pytest.raises(CircuitOpenError) as caught:
                await w.call(pipeline, Replicas(balance).ask)
            assert caught.value.retry_after is not None


@in_every_colour
async def test_it_goes_on_five_times_at_most(w: World) -> None:
    """Of a hundred full endpoints six are asked."""
    balance = Balance(*range(100))
    breakers = PerKey(lambda endpoint: CircuitBreaker())
    pipeline, events = Pipeline(balance, breakers), listening(balance)
    for endpoint in range(100):
        breaker = breakers[endpoint]
        assert isinstance(breaker, CircuitBreaker)
        breaker.force_open()
    with pytest.raises(CircuitOpenError):
        await w.call(pipeline, Replicas(balance).ask)  # type: ignore[arg-type]
    assert 5 == len(events)


@in_every_colour
async def test_no_time_left_is_no_matter_of_endpoints(w: World) -> None:
    """The call does not go on."""
    balance, asked = Balance(A, B), []

    class Late(Policy):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            asked.append(call.key)
            return Outcome(None, DeadlineExceededError("late"))

    with pytest.raises(DeadlineExceededError):
        await w.call(Pipeline(balance, Late()), Replicas(balance).ask)
    assert 1 == len(asked)


@in_every_colour
async def test_what_the_function_is_refused_is_no_reason_to_go_on(w: World) -> None:
    """It has been called: a policy that it calls has rejected."""
    balance, asked, refused = Balance(A, B, C), [], CircuitBreaker()
    refused.force_open()

    async def ask() -> None:
        asked.append(balance.current)
        await w.call(refused, ask)

    with pytest.raises(CircuitOpenError):
        await w.call(balance, ask)
    assert 1 == len(asked)
    # Nor in an attempt after the first.
    retry = Retry(CircuitOpenError, **AT_ONCE)
    with pytest.raises(CircuitOpenError):
        await w.call(Pipeline(retry, balance), ask)
    assert 4 == len(asked)


@in_every_colour
async def test_a_retry_may_be_moved_too(w: World) -> None:
    """The second attempt's endpoint rejects, and the third one answers."""
    balance = Balance(A, B, C, load="round_robin")
    breakers = PerKey(lambda endpoint: CircuitBreaker())
    pipeline = Pipeline(Retry(DownError, attempts=2, **AT_ONCE), balance, breakers)
    breaker = breakers[B]
    assert isinstance(breaker, CircuitBreaker)
    breaker.force_open()
    replicas = Replicas(balance, A=DownError())
    for _ in range(20):
        assert C == await w.call(pipeline, replicas.ask)
    assert B not in replicas.asked


@in_async_colours
async def test_what_ran_in_a_task_of_its_own_is_not_moved(w: World) -> None:
    """A hedge inside the balance, where it should not be, has run it."""
    balance, asked, refused = Balance(A, B), [], CircuitBreaker()
    refused.force_open()

    async def ask() -> None:
        asked.append(balance.current)
        await w.call(refused, ask)

    with pytest.warns(ResilientWarning):
        pipeline = Pipeline(balance, Hedge(0.1, attempts=2))
    with pytest.raises(CircuitOpenError):
        await w.call(pipeline, ask)
    assert 1 == len(asked)


@in_every_colour
async def test_what_must_not_be_made_again_goes_nowhere_else(w: World) -> None:
    """Also where a policy inside rejects it."""
    balance, asked = Balance(A, B), []

    class Arrived(Policy):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            asked.append(call.key)
            call.unrepeatable = "it may have arrived"
            return self.reject(BulkheadFullError("full"), call)

    with pytest.raises(BulkheadFullError):
        await w.call(Pipeline(balance, Arrived()), Replicas(balance).ask)
    assert 1 == len(asked)


@in_every_colour
async def test_costs_taken_on_the_way_go_back(w: World) -> None:
    """Of the endpoint that did not run it; the other's stay."""
    balance = Balance(A, B)
    limiters = PerKey(
        lambda endpoint: RateLimiter(
            limits=[Limit(10, per=1000), Limit(100, per=1000, unit="tokens")],
            cost={"requests": 1, "tokens": 10},
        )
    )
    breakers = PerKey(lambda endpoint: CircuitBreaker())
    outside = RateLimiter(
        limits=[Limit(100, per=1000, unit="bytes")], cost={"bytes": 5}
    )
    pipeline = Pipeline(outside, balance, limiters, breakers)
    breaker = breakers[A]
    assert isinstance(breaker, CircuitBreaker)
    breaker.force_open()
    events = listening(balance)

    async def ask() -> None:
        current_call().set_cost(tokens=20, bytes=50)

    await w.call(pipeline, ask)
    while not events:
        await w.call(pipeline, ask)
    left = limiters[A].status()["limiter.tokens"]
    assert {"requests": 10.0, "tokens": 100.0} == left
    spent = outside.status()["limiter.tokens"]["bytes"]
    assert spent < 100


@in_every_colour
async def test_a_probe_that_is_moved_is_no_probe_elsewhere(w: World) -> None:
    """What a breaker said of the run is taken back with it."""
    runs: list[Any] = []

    class Half(Policy):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            runs.append(call.run)
            if len(runs) == 1:
                call.run = resilient._calls.call.Run.PROBE  # type: ignore[attr-defined]
                return self.reject(BulkheadFullError("full"), call)
            return await proceed(call)  # type: ignore[no-any-return]

    balance = Balance(A, B)
    pipeline = Pipeline(balance, Half())
    assert await w.call(pipeline, Replicas(balance).ask) in (A, B)
    assert runs[0] is runs[1]


# -- How calls went


@in_every_colour
async def test_success_and_failure_are_what_the_pipeline_says(w: World) -> None:
    """Or its own `on`; what is IGNORED says nothing."""
    for verdict, seen in (
        (Verdict.SUCCESS, 1.0),
        (Verdict.FAILURE, 0.7),
        (Verdict.PUSHBACK, 0.7),
        (Verdict.IGNORED, 1.0),
    ):
        for place in ("pipeline", "own"):
            on = (lambda outcome, verdict=verdict: verdict) if place == "own" else None
            balance = Balance(A, on=on)
            policy: Policy[Any] = balance
            if place == "pipeline":
                policy = Pipeline(
                    balance, classify=lambda outcome, verdict=verdict: verdict
                )
            with pytest.raises(DownError):
                await w.call(policy, Replicas(balance, A=DownError()).ask)
            assert (verdict, seen) == (verdict, success(balance, A))
            assert 0 == in_flight(balance)


@in_async_colours
async def test_a_cancelled_call_says_nothing(w: World) -> None:
    """It is in flight no more."""
    balance = Balance(A)

    async def hang() -> None:
        assert 1 == in_flight(balance)
        await w.sleep(100)

    if w.colour == "asyncio":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await w.call(balance, hang)
    else:
        with trio.move_on_after(1):
            await w.call(balance, hang)
    assert 1.0 == w.now()
    assert (0, 1.0) == (in_flight(balance), success(balance, A))


@in_async_colours
async def test_a_call_that_a_limit_cuts_has_failed(w: World) -> None:
    """Further in; and further out, if it had half of the time that is allowed."""
    balance = Balance(A)

    async def hang() -> None:
        await w.sleep(100)

    with pytest.raises(TimeoutError):
        await w.call(Pipeline(balance, Timeout(1)), hang)
    assert (0, 0.7) == (in_flight(balance), success(balance, A))
    balance.reset()
    with pytest.raises(TimeoutError):
        await w.call(Pipeline(Timeout(1), balance), hang)
    assert (0, 0.7) == (in_flight(balance), success(balance, A))
    balance.reset()
    asked = []

    async def fail_late() -> None:
        asked.append(1)
        if len(asked) == 1:
            await w.sleep(0.7)
            raise DownError
        await w.sleep(100)

    retry = Retry(DownError, **AT_ONCE)
    with pytest.raises(TimeoutError):
        await w.call(Pipeline(Timeout(1), retry, balance), fail_late)
    # The second attempt had 0.3 s of it.
    assert (0, 0.7) == (in_flight(balance), pytest.approx(success(balance, A), rel=0.1))


@in_every_colour
async def test_what_is_our_own_fault_says_nothing(w: World) -> None:
    """As a full connection pool; and an error that came when time was up."""
    balance = Balance(A)

    class Full(Policy):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            outcome = await proceed(call)
            outcome.health = Verdict.IGNORED
            return outcome  # type: ignore[no-any-return]

    with pytest.raises(DownError):
        await w.call(Pipeline(balance, Full()), Replicas(balance, A=DownError()).ask)
    assert (0, 1.0) == (in_flight(balance), success(balance, A))


@in_every_colour
async def test_a_bug_in_the_judge_reaches_the_caller(w: World) -> None:
    """After the call was taken back."""

    def judge(outcome: Outcome) -> bool:
        raise ZeroDivisionError

    balance = Balance(A, on=judge)
    with pytest.raises(ZeroDivisionError):
        await w.call(balance, Replicas(balance).ask)
    assert (0, 1.0) == (in_flight(balance), success(balance, A))


@in_sync
async def test_a_generator_is_in_flight_until_it_ends(w: World) -> None:
    """It is judged by its first item; its endpoint is known in every step."""
    balance = Balance(A)

    @balance
    def numbers() -> Iterator[str]:
        w_sleep(0.5)
        yield balance.current
        yield balance.current
        raise DownError

    def w_sleep(seconds: float) -> None:
        clock.sleep(seconds)

    steps = numbers()
    assert A == next(steps)
    clock.sleep(100)
    assert 1 == in_flight(balance)
    (seen,) = balance.endpoints
    assert 0.5 == seen.latency
    assert A == next(steps)
    with pytest.raises(DownError):
        next(steps)
    assert (0, 1.0) == (in_flight(balance), success(balance, A))
    steps = numbers()
    next(steps)
    steps.close()
    assert 0 == in_flight(balance)


@in_async_colours
async def test_an_async_generator_is_in_flight_until_it_ends(w: World) -> None:
    """The same."""
    balance = Balance(A)

    @balance
    async def numbers() -> AsyncIterator[str]:
        yield balance.current
        yield balance.current

    got = []
    async for number in numbers():
        got.append(number)
        assert 1 == in_flight(balance)
    assert [A, A] == got
    assert 0 == in_flight(balance)


@in_every_colour
async def test_blocks_have_an_endpoint_each(w: World) -> None:
    """Each attempt its own; a guard too."""
    balance = Balance(A, B, C)
    pipeline = Pipeline(Retry(DownError, **AT_ONCE), balance)
    seen = []
    if w.is_sync:
        with balance.guard():
            assert balance.current in (A, B, C)
        for attempt in pipeline.attempts():
            with attempt:
                seen.append(balance.current)
                if len(seen) < 3:
                    raise DownError
    else:
        async with balance.guard():
            assert balance.current in (A, B, C)
        async for attempt in pipeline.attempts():
            async with attempt:
                seen.append(balance.current)
                if len(seen) < 3:
                    raise DownError
    assert {A, B, C} == set(seen)


@in_every_colour
async def test_a_guard_may_be_moved(w: World) -> None:
    """What did not begin may begin elsewhere."""
    balance = Balance(A, B)
    breakers = PerKey(lambda endpoint: CircuitBreaker())
    pipeline = Pipeline(balance, breakers)
    breaker = breakers[A]
    assert isinstance(breaker, CircuitBreaker)
    breaker.force_open()
    for _ in range(10):
        if w.is_sync:
            with pipeline.guard():
                assert B == balance.current
        else:
            async with pipeline.guard():
                assert B == balance.current


# -- What asks for less


class BusyError(Exception):
    """A server says when to come back."""


def busy(outcome: Outcome) -> Verdict:
    """Judge by what the server says."""
    if isinstance(outcome.error, BusyError):
        outcome.retry_after = outcome.error.args[0]
        return Verdict.PUSHBACK
    return Verdict.SUCCESS if outcome.error is None else Verdict.FAILURE


@in_every_colour
async def test_who_asks_for_less_rests_and_another_is_asked(w: World) -> None:
    """The Retry does not wait for what one endpoint says of itself."""
    balance = Balance(A, B)
    replicas = Replicas(balance, A=BusyError(7.0))
    pipeline = Pipeline(Retry(budget=None), balance, classify=busy)
    while A not in replicas.asked:
        assert B == await w.call(pipeline, replicas.ask)
    # Its own delay, which is a second at most.
    assert 1.0 > w.now()
    assert EndpointState.RESTING is balance.endpoints[0].state
    replicas.asked.clear()
    for _ in range(20):
        await w.call(pipeline, replicas.ask)
    assert [B] * 20 == replicas.asked


@in_every_colour
async def test_where_all_ask_for_less_the_first_that_may_is_waited_for(
    w: World,
) -> None:
    """None is left that was not tried."""
    balance = Balance(A, B)
    replicas = Replicas(balance, A=BusyError(7.0), B=BusyError(3.0))
    retry = Retry(budget=None, backoff=constant(0.5))
    with pytest.raises(BusyError) as caught:
        await w.call(Pipeline(retry, balance, classify=busy), replicas.ask)
    assert [A, B, B] == sorted(replicas.asked)
    # Half a second to the other one, then the 3 s of B, from when it said so.
    assert 3.5 == w.now() or (B == replicas.asked[0] and 3.0 == w.now())
    assert "3 attempts" in caught.value.__notes__[0]


@in_every_colour
async def test_a_long_wait_of_the_only_endpoint_is_not_shortened(w: World) -> None:
    """Nor is that of a call that is not retried."""
    balance = Balance(A)
    pipeline = Pipeline(Retry(budget=None), balance, classify=busy)
    with pytest.raises(BusyError) as caught:
        await w.call(pipeline, Replicas(balance, A=BusyError(120.0)).ask)
    assert "retry_after too long; retry in 120 s" in caught.value.__notes__[0]
    outcomes = []

    def judge(outcome: Outcome) -> Verdict:
        outcomes.append(outcome)
        return busy(outcome)

    pair = Balance(A, B)
    with pytest.raises(BusyError):
        await w.call(
            Pipeline(pair, classify=judge),
            Replicas(pair, A=BusyError(9.0), B=BusyError(9.0)).ask,
        )
    assert 9.0 == outcomes[0].retry_after


@in_every_colour
async def test_pushback_without_a_time_is_no_rest(w: World) -> None:
    """The Retry backs off as ever."""
    balance = Balance(A, B)
    replicas = Replicas(balance, A=DownError(), B=DownError())
    pipeline = Pipeline(
        Retry(budget=None, backoff=constant(1)),
        balance,
        classify=lambda outcome: Verdict.PUSHBACK,
    )
    with pytest.raises(DownError):
        await w.call(pipeline, replicas.ask)
    assert 2.0 == w.now()
    assert {EndpointState.AVAILABLE} == {each.state for each in balance.endpoints}


# -- Ejection


async def failing(w: World, balance: Balance[str], address: str, times: int) -> None:
    """Let an endpoint fail so often: others are drained meanwhile."""
    others = [each.address for each in balance.endpoints if each.address != address]
    replicas = Replicas(balance, **{address: DownError()})
    while replicas.asked.count(address) < times:
        try:
            await w.call(balance, replicas.ask)
        except DownError:
            pass
    assert others


@in_every_colour
async def test_ejections_and_returns_are_told(w: World) -> None:
    """With the reason, for how long and how many times; and counted."""
    name = f"ejected in {w.colour}"
    balance = Balance(
        A, B, C, load="round_robin", eject=Eject(eject_for=constant(4)), name=name
    )
    events = listening(balance)
    await failing(w, balance, A, 5)
    ask = "Replicas.ask"
    reason = "consecutive_failures"
    assert [EndpointEjected(name, ask, A, reason, 4.0, 1)] == events
    assert EndpointState.EJECTED is balance.endpoints[0].state
    await w.sleep(4)
    await failing(w, balance, A, 1)
    assert EndpointEjected(name, ask, A, "probe_failed", 4.0, 2) == events[-1]
    await w.sleep(4)
    replicas = Replicas(balance)
    await w.call(balance, replicas.ask)
    assert [A] == replicas.asked
    assert EndpointReturned(name, ask, A) == events[-1]
    assert 3 == len(events)
    counts = balance.counters.counts
    assert 1 == counts["resilient.endpoint.ejections", name, reason]
    assert 1 == counts["resilient.endpoint.ejections", name, "probe_failed"]


@in_async_colours
async def test_a_probe_that_hangs_is_told_by_the_next_call(w: World) -> None:
    """Its lease is thirty seconds."""
    balance = Balance(A, B, C, load="round_robin", eject=Eject(eject_for=4))
    events = listening(balance)
    await failing(w, balance, A, 5)
    await w.sleep(4)

    async def hang() -> None:
        await w.sleep(100)

    async def later() -> None:
        await w.sleep(30)
        await w.call(balance, Replicas(balance).ask)
        (told,) = [each for each in events[1:] if isinstance(each, EndpointEjected)]
        assert ("probe_overdue", 4.0, 2) == (told.reason, told.seconds, told.times)

    assert [None, None] == await w.gather(lambda: w.call(balance, hang), later)
    assert 0 == in_flight(balance)


@in_every_colour
async def test_how_long_an_endpoint_is_out_is_yours_to_say(
    w: World,
) -> None:
    """By a function of how often; one that fails is logged, and 5 s are used."""
    for eject_for, seconds in (
        (lambda times: 3.0 * times, 3.0),
        (2, 2.0),
        (lambda times: 1 / 0, 5.0),
        (lambda times: "soon", 5.0),
    ):
        balance = Balance(A, B, C, eject=Eject(1, eject_for=eject_for))  # type: ignore[arg-type]
        events = listening(balance)
        await failing(w, balance, A, 1)
        (told,) = events
        assert isinstance(told, EndpointEjected)
        assert seconds == told.seconds


@in_every_colour
async def test_without_listeners_nothing_is_told(w: World) -> None:
    """And all goes its way."""
    balance = Balance(A, B, C, eject=Eject(1, eject_for=1))
    await failing(w, balance, A, 1)
    await w.sleep(1)
    assert A == await w.call(balance, Replicas(balance).ask)
    breakers = PerKey(lambda endpoint: CircuitBreaker())
    breaker = breakers[A]
    assert isinstance(breaker, CircuitBreaker)
    breaker.force_open()
    for _ in range(10):
        await w.call(Pipeline(balance, breakers), Replicas(balance).ask)
    balance.replace([A])
    balance.drain(A)
    with pytest.raises(NoEndpointError):
        await w.call(balance, Replicas(balance).ask)


# -- The set


@in_every_colour
async def test_who_drains_gets_no_new_calls(w: World) -> None:
    """Though it be the last one; calls in flight go on."""
    balance = Balance(A, Endpoint(B, name="b"), name="replicas")
    events = listening(balance)
    balance.drain(A)
    assert ["B"] * 5 == [await w.call(balance, Replicas(balance).ask) for _ in range(5)]
    balance.drain(Endpoint(B))
    with pytest.raises(NoEndpointError) as caught:
        await w.call(balance, Replicas(balance).ask)
    error = caught.value
    text = (
        "balance 'replicas' has no endpoint to call: all 2 are drained; restore() one"
    )
    assert text == str(error) == str(pickle.loads(pickle.dumps(error)))
    assert ("replicas", None, 2) == (error.policy, error.retry_after, error.draining)
    ask = "Replicas.ask"
    assert [CallRejected("replicas", ask, "NoEndpointError", None, None)] == events
    balance.restore(A)
    assert A == await w.call(balance, Replicas(balance).ask)
    with pytest.raises(KeyError, match="'replicas' has no endpoint 'Z' to drain"):
        balance.drain("Z")
    with pytest.raises(KeyError, match="'replicas' has no endpoint 'Z' to restore"):
        balance.restore("Z")


@in_every_colour
async def test_the_set_may_be_replaced(w: World) -> None:
    """It says how many came and went; with none left calls are rejected."""
    balance = Balance(A, B, name="replicas")
    events = listening(balance)
    balance.replace([B, Endpoint(C, weight=2)])
    balance.replace([B, Endpoint(C, weight=3)])
    assert [EndpointsChanged("replicas", None, 1, 1, 2)] == events
    assert [(B, 1.0), (C, 3.0)] == [(e.address, e.weight) for e in balance.endpoints]
    balance.replace([])
    with pytest.raises(NoEndpointError, match="to call: give it some by replace"):
        await w.call(balance, Replicas(balance).ask)
    balance.replace([A])
    balance.drain(A)
    with pytest.raises(NoEndpointError, match="the only one is drained; restore"):
        await w.call(balance, Replicas(balance).ask)
    with pytest.raises(ValueError, match="`weight` of 'D'"):
        balance.replace([A, Endpoint("D", weight=-1)])
    with pytest.raises(TypeError, match="`endpoints` must list endpoints"):
        balance.replace("ABC")
    assert [A] == [each.address for each in balance.endpoints]


def test_what_is_known_can_be_seen() -> None:
    """By endpoint, and summed up for health and metrics."""
    balance = Balance("http://a", ("10.0.0.1", 80), name="seen by health")
    first, second = balance.endpoints
    assert ("http://a", "http://a", None) == (first.address, first.name, first.latency)
    assert ("10.0.0.1:80", 1.0, 0) == (second.name, second.weight, second.in_flight)
    balance.drain("http://a")
    with pytest.raises(DownError), balance.guard():
        raise DownError
    states = dict.fromkeys(["ejected", "probing", "resting", "unhealthy"], 0)
    states |= {"available": 1, "draining": 1}
    status = balance.status()
    assert states == status["endpoints"]
    assert 0.7 == pytest.approx(status["endpoints.least"], rel=0.01)
    (entry,) = resilient.health()["seen by health"]["policies"]
    assert states == entry["endpoints"]
    balance.replace([])
    assert balance.status()["endpoints.least"] is None


def test_forgetting_makes_it_as_new() -> None:
    """What is drained stays so."""
    balance = Balance(A, B, C, eject=Eject(1), load="round_robin")
    assert balance.is_pristine()
    events = listening(balance)
    for _ in range(3):
        with pytest.raises(DownError), balance.guard():
            raise DownError
    assert not balance.is_pristine()
    balance.reset()
    assert isinstance(events[-1], EndpointReturned)
    assert events[-1].call is None
    assert balance.is_pristine()


# -- Tiers, zones, affinity


@in_every_colour
async def test_a_standby_takes_over(w: World) -> None:
    """A retry goes there at once; five failures in a row send it all."""
    balance: Balance[str] = Balance(A, Endpoint(B, tier=1), eject=Eject(5))
    replicas = Replicas(balance, A=DownError())
    pipeline = Pipeline(Retry(DownError, attempts=2, **AT_ONCE), balance)
    ask = w.decorate(pipeline, replicas.ask)
    for _ in range(7):
        assert B == await ask()
    assert [A, B] * 5 + [B, B] == replicas.asked
    assert [(A, 0), (B, 1)] == [(one.address, one.tier) for one in balance.endpoints]


@in_every_colour
async def test_a_zone_is_preferred(w: World) -> None:
    """Its own endpoints answer, while they are not busy."""
    balance: Balance[str] = Balance(
        Endpoint(A, zone="a"), Endpoint(B, zone="b"), C, zone="b"
    )
    replicas = Replicas(balance)
    ask = w.decorate(balance, replicas.ask)
    for _ in range(20):
        await ask()
    assert {B} == set(replicas.asked)
    assert ["a", "b", None] == [one.zone for one in balance.endpoints]


def test_a_zone_without_endpoints_is_warned_of_once() -> None:
    """Then all are equally near."""
    with pytest.warns(ResilientWarning, match=r"^no endpoint of 'b' is in its zone, "):
        balance = Balance(Endpoint(A, zone="a"), B, zone="c", name="b", load="random")
    balance.replace([A, C])
    seen = set[str]()
    for _ in range(50):
        with balance.guard():
            seen.add(balance.current)
    assert {A, C} == seen
    balance.replace([])


@in_every_colour
async def test_what_goes_to_another_tier_or_zone_is_counted(w: World) -> None:
    """By where to; a set without either counts nothing."""
    counted: list[Counter[tuple[str, ...]]] = []
    for endpoints, zone in (
        ([A, B], None),
        ([Endpoint(A, zone="a"), Endpoint(B, zone="b"), Endpoint(C, tier=1)], "b"),
    ):
        balance = Balance[str](*endpoints, zone=zone, load="requests", eject=Eject(1))
        pipeline = Pipeline(balance, name="pipeline")
        replicas = Replicas(balance)
        ask = w.decorate(pipeline, replicas.ask)
        await ask()
        if zone is not None:
            balance.drain(B)
            await ask()
            balance.drain(A)
            await ask()
            balance.restore(B)
            await ask()
            assert [B, A, C, B] == replicas.asked
        counted.append(Counter(pipeline.counters.counts))
    spills = [
        {key[2]: count for key, count in one.items() if "balance.spill" in key[0]}
        for one in counted
    ]
    # The one of the other tier is not of the zone either.
    assert [{}, {"zone": 2, "tier": 1}] == spills


@in_every_colour
async def test_one_that_joins_has_few_calls_at_first(w: World) -> None:
    """A tenth of its share, and all of it after the time."""
    balance = Balance[str](A, B, slow_start=60, load="round_robin")
    assert "slow_start=60.0" in repr(balance)
    replicas = Replicas(balance)
    ask = w.decorate(balance, replicas.ask)
    await w.sleep(1)
    balance.replace([A, B, C])
    for calls, of_c in ((210, 10), (210, 70)):
        replicas.asked.clear()
        for _ in range(calls):
            await ask()
        assert of_c == pytest.approx(replicas.asked.count(C), abs=2)
        await w.sleep(60)


@in_every_colour
async def test_a_subset_is_used_of_many(w: World) -> None:
    """Each object has its own, of each tier; one that leaves is replaced by one."""
    names = [f"e{n}" for n in range(30)]
    every = [*names, *[Endpoint(f"t{n}", tier=1) for n in range(5)]]
    several = [Balance[str](*every, subset=8) for _ in range(3)]
    chosen = [{each.name for each in balance.endpoints} for balance in several]
    assert [13] * 3 == [len(one) for one in chosen]
    assert 3 == len({frozenset(one) for one in chosen})
    assert all({f"t{n}" for n in range(5)} < one for one in chosen)
    balance, before = several[0], chosen[0]
    asked = set[str]()

    async def ask() -> None:
        asked.add(balance.current)

    for _ in range(100):
        await w.call(balance, ask)
    assert {name for name in before if name[0] == "e"} == asked
    gone = min(asked)
    balance.replace([each for each in every if each != gone])
    after = {each.name for each in balance.endpoints}
    assert ({gone}, 1) == (before - after, len(after - before))
    small = Balance[str](*names[:3], subset=8)
    assert 3 == len(small.endpoints)
    assert "subset=8" in repr(small)


@in_every_colour
async def test_ejection_counts_the_subset(w: World) -> None:
    """A third of 3 is one, of however many these are."""
    balance = Balance[str](
        *[f"e{n}" for n in range(30)], subset=3, eject=Eject(1), load="round_robin"
    )

    async def fail() -> None:
        raise DownError

    for _ in range(20):
        with pytest.raises(DownError):
            await w.call(balance, fail)
    assert 1 == balance.status()["endpoints"]["ejected"]


@in_every_colour
async def test_calls_of_a_key_go_to_the_same_endpoint(w: World) -> None:
    """By their arguments; a retry goes to the next in the key's order."""
    balance: Balance[str] = Balance(A, B, C, affinity=lambda tenant: tenant)
    faults: set[str] = set()

    async def ask(tenant: str | None) -> str:
        if balance.current in faults:
            raise DownError
        return balance.current

    pipeline = Pipeline(Retry(DownError, attempts=2, **AT_ONCE), balance)
    call = w.decorate(pipeline, ask)
    homes = {tenant: await call(tenant) for tenant in "abcdefghij"}
    assert {A, B, C} == set(homes.values())
    assert homes == {tenant: await call(tenant) for tenant in homes}
    assert {A, B, C} == {await call(None) for _ in range(50)}
    faults.add(homes["a"])
    following = await call("a")
    assert following != homes["a"]
    assert following == await call("a")


@in_every_colour
async def test_the_key_of_a_call_is_its_affinity(w: World) -> None:
    """Of a block, where the affinity is a function, too."""
    for affinity in (True, lambda tenant: tenant):
        balance: Balance[str] = Balance(A, B, C, affinity=affinity)
        homes: dict[int, set[str]] = {}
        for number in [*range(10), *range(10)]:
            if w.is_sync:
                with balance.guard(key=number):
                    homes.setdefault(number, set()).add(balance.current)
            else:
                async with balance.guard(key=number):
                    homes.setdefault(number, set()).add(balance.current)
        assert [1] * 10 == [len(home) for home in homes.values()]
        assert 3 == len(set[str]().union(*homes.values()))


@in_every_colour
async def test_a_key_that_is_not_hashable_is_refused(w: World) -> None:
    """The text does not show it."""
    balance: Balance[str] = Balance(A, B, affinity=lambda secret: secret)
    text = r"^a key of a Balance must be hashable, got an object of <class 'list'>$"

    async def asks(secret: object) -> None:
        """Take what is no key."""

    ask = w.decorate(balance, asks)
    with pytest.raises(TypeError, match=text):
        await ask(["secret"])
    assert 0 == in_flight(balance)


# -- What a user writes


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: Balance(), TypeError, "Balance takes at least one endpoint, got none"),
        (
            lambda: Balance([A, B]),
            TypeError,
            "an endpoint must be one address, got a list: list them one by one, as in"
            " Balance(*addresses)",
        ),
        (
            lambda: Balance(test_forgetting_makes_it_as_new),
            TypeError,
            "an endpoint must be an address, got test_forgetting_makes_it_as_new: a"
            " decorator needs its parentheses, @Balance(…)",
        ),
        (
            lambda: Balance((A, [])),
            TypeError,
            "an endpoint must be hashable, got an object of <class 'tuple'>",
        ),
        (
            lambda: Balance(A, load="least"),  # type: ignore[arg-type]
            ValueError,
            "`load` must be one of ('latency', 'requests', 'round_robin', 'random'),"
            " got 'least'",
        ),
        (
            lambda: Balance(A, eject=True),  # type: ignore[arg-type]
            TypeError,
            "`eject` must be an Eject or None, got True",
        ),
        (
            lambda: Endpoint(A, name=1),  # type: ignore[arg-type]
            TypeError,
            "`name` must be a string, got 1",
        ),
        (
            lambda: Endpoint(A, zone=1),  # type: ignore[arg-type]
            TypeError,
            "`zone` must be a string, got 1",
        ),
        (
            lambda: Endpoint(A, tier=-1),
            ValueError,
            "`tier` must be >= 0, got -1",
        ),
        (
            lambda: Balance(A, zone=1),  # type: ignore[call-overload]
            TypeError,
            "`zone` must be a string or None, got 1",
        ),
        (
            lambda: Balance(A, zone="a", zone_bias=0.5),
            ValueError,
            "`zone_bias` must be >= 1, got 0.5",
        ),
        (
            lambda: Balance(A, affinity="key"),  # type: ignore[call-overload]
            TypeError,
            "`affinity` must be True, a function or None, got 'key'",
        ),
        (
            lambda: Endpoint(A, weight=0),
            ValueError,
            "`weight` of 'A' must be > 0, got 0",
        ),
        (
            lambda: Endpoint(("a", 80), weight=float("nan")),
            ValueError,
            "`weight` of 'a:80' must be > 0, got nan",
        ),
        (
            lambda: Endpoint(A, weight=True),
            ValueError,
            "`weight` of 'A' must be a number, got True",
        ),
        (
            lambda: Endpoint("https://me:secret@a:1/x"),
            ValueError,
            "the URL of an endpoint must have no user or password, which would be"
            " shown in events, got one for 'https://a:1'",
        ),
        (
            lambda: Endpoint("https://a/?token=secret"),
            ValueError,
            "the URL of an endpoint must have no query, which would be shown in"
            " events, got one for 'https://a'",
        ),
        (
            lambda: Endpoint("https://a/#secret"),
            ValueError,
            "the URL of an endpoint must have no fragment, which would be shown in"
            " events, got one for 'https://a'",
        ),
    ],
)
def test_mistakes_are_refused(
    make: Callable[[], object], kind: type[Exception], text: str
) -> None:
    """Each by a text that says what is wrong, and shows no secret."""
    with pytest.raises(kind) as caught:
        make()
    assert text == str(caught.value)


def test_an_endpoint_listed_twice_is_one() -> None:
    """With a warning; weights do not add up."""
    with pytest.warns(ResilientWarning, match="listed once, got 'A' again; one is"):
        balance = Balance(A, Endpoint(A, weight=5), B, A)
    assert [(A, 1.0), (B, 1.0)] == [(e.address, e.weight) for e in balance.endpoints]


def test_names_are_told_apart() -> None:
    """Objects go by their type, and no text of them is shown."""

    class Engine:
        def __repr__(self) -> str:
            return "Engine(password)"

    one, other = Engine(), Engine()
    balance = Balance[Any](one, other, Endpoint((one, 1)), Endpoint(3, name="Engine"))
    assert ["Engine", "Engine 2", "tuple", "Engine 3"] == [
        each.name for each in balance.endpoints
    ]


def test_more_than_a_third_is_warned_of() -> None:
    """A partial outage becomes a whole one."""
    with pytest.warns(ResilientWarning, match=r"Eject\(max_share=0.5\) may take more"):
        Balance(A, B, C, eject=Eject(max_share=0.5))


@pytest.mark.parametrize(
    ("inner", "text"),
    [
        (
            Retry(DownError),
            "whose attempts would all go to one endpoint; list it after",
        ),
        (
            Hedge(1),
            "whose attempts would all go to one endpoint; list it after the Hed",
        ),
        (Coalesce(), "takes its answers for those of the endpoint; list it before the"),
        (
            StaleCache(60, 0, key=str),
            "takes its answers for those of the endpoint; list it",
        ),
    ],
)
def test_an_order_that_defeats_it_is_warned_of(inner: Policy[Any], text: str) -> None:
    """With the cure."""
    with pytest.warns(ResilientWarning, match=text):
        Pipeline(Balance(A, B), inner)


def test_with_an_affinity_it_may_stand_outside_what_shares_answers() -> None:
    """All calls of a key go to one endpoint anyway, whose answer it is."""
    affinity: Any = {"affinity": lambda key: key}
    Pipeline(Balance(A, B, **affinity), Coalesce())
    Pipeline(Balance(A, B, affinity=True), StaleCache(60, 0, key=str))


def test_it_reads_as_it_was_written() -> None:
    """And a copy has the same arguments, and knows nothing."""
    balance = Balance(A, Endpoint(B, name="b", weight=2), load="requests", eject=None)
    text = (
        "Balance('A', Endpoint('B', name='b', weight=2.0), load='requests', eject=None)"
    )
    assert text == repr(balance)
    with balance.guard():
        pass
    again = balance.with_(load="random")
    assert "random" == again.load
    assert again.is_pristine()
    assert ["A", "b"] == [each.name for each in again.endpoints]
    endpoint = Endpoint(B, name="b", weight=2)
    assert endpoint == pickle.loads(pickle.dumps(endpoint)) == copy.copy(endpoint)


@pytest.mark.parametrize("host", ["", "a/b", "me@a", "a b", 3])
def test_a_host_is_a_host(host: Any) -> None:
    """And no more."""
    with pytest.raises(ValueError, match="`host` must be a host, with a port where"):
        Endpoint("https://10.0.0.1", host=host)


# -- Many at once


@in_every_colour
async def test_the_same_numbers_make_the_same_choices(w: World) -> None:
    """In every colour; the scenario is seeded."""
    balance = Balance(A, B, C)
    replicas = Replicas(balance)
    for _ in range(30):
        await w.call(balance, replicas.ask)
    assert EXPECTED == "".join(replicas.asked)


@in_every_colour
async def test_a_reading_changes_no_choice(w: World) -> None:
    """However often, and long after the last call: a dashboard shifts no traffic."""

    async def asked(load: Load, reads: bool) -> list[str]:
        balance = Balance(A, B, C, load=load)
        replicas = Replicas(balance)

        async def ask() -> None:
            await w.sleep({A: 0.1, B: 0.2, C: 0.4}[await replicas.ask()])
            if len(replicas.asked) % 9 == 0:
                raise DownError

        for number in range(60):
            if reads:
                _ = balance.endpoints, balance.status()
            try:
                await w.call(balance, ask)
            except DownError:
                pass
            await w.sleep(number % 4 * 3.0)
        return replicas.asked

    loads: tuple[Load, ...] = ("latency", "requests")
    for load in loads:
        both: list[list[str]] = []
        for reads in (False, True):
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(clock, "random", Random(7).random)
                both.append(await asked(load, reads))
        assert both[0] == both[1]


EXPECTED = "ACBBACCBACACAABAAACBCACCCACBAC"


@pytest.mark.real
def test_many_threads_leave_nothing_in_flight() -> None:
    """Sixty-four of them; what they sent adds up."""
    balance = Balance(A, B, C, eject=Eject(3, eject_for=0.001))
    seen: list[Counter[str]] = []

    def work() -> None:
        mine: Counter[str] = Counter()

        @balance
        def ask(number: int) -> None:
            mine[balance.current] += 1
            if number % 7 == 0:
                raise DownError

        for number in range(200):
            try:
                ask(number)
            except DownError:
                pass
        seen.append(mine)

    threads = [threading.Thread(target=work) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 64 * 200 == sum(sum(mine.values()) for mine in seen)
    assert 0 == in_flight(balance)


def test_two_event_loops_share_it() -> None:
    """One after the other, and nothing is left of the first."""
    balance = Balance(A, B)
    replicas = Replicas(balance)
    asyncio.run(balance.acall(replicas.ask))
    trio.run(balance.acall, replicas.ask)
    assert 2 == len(replicas.asked)
    assert 0 == in_flight(balance)


def test_a_call_that_is_lost_under_the_lock_is_taken_back() -> None:
    """As by the collector: the next call that takes the lock does it."""
    balance = Balance(A)
    guard = balance.guard()
    guard.__enter__()
    assert 1 == in_flight(balance)
    with amid_change(balance):
        guard.__exit__(None, None, None)
        assert 1 == balance._fleet.members[A].in_flight
    with balance.guard():
        assert 1 == in_flight(balance)
    assert 0 == in_flight(balance)
    gc.collect()


def test_a_call_that_begins_amid_a_change_of_its_own_thread_is_told() -> None:
    """As by a signal handler: it can neither wait nor see a half-made change."""
    balance = Balance(A, B)

    with amid_change(balance), pytest.raises(ReenteredError, match="middle of its own"):
        balance.call(int)

    assert 0 == in_flight(balance)


def test_a_call_that_ends_during_a_choice_is_taken_back_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by the collector, which may begin anywhere."""
    balance = Balance(A, B)

    @balance
    def numbers() -> Iterator[int]:
        yield 1

    steps = numbers()
    next(steps)
    draw = clock.random

    def end() -> float:
        monkeypatch.setattr(clock, "random", draw)
        steps.close()  # type: ignore[attr-defined]  # it is a generator
        assert 1 == len(balance._deferred)
        return 0.0

    monkeypatch.setattr(clock, "random", end)
    with balance.guard():
        assert 1 == sum(each.in_flight for each in balance._fleet.members.values())


def test_a_call_that_ends_while_another_is_taken_back_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is taken back by the same thread, a moment later."""
    balance = Balance(A)

    @balance
    def numbers() -> Iterator[int]:
        yield 1

    steps = numbers()
    next(steps)
    fail = Fleet.fail

    def end(*args: Any) -> None:
        steps.close()  # type: ignore[attr-defined]  # it is a generator
        fail(*args)

    monkeypatch.setattr(Fleet, "fail", end)
    with pytest.raises(DownError), balance.guard():
        raise DownError
    assert 0 == balance._fleet.members[A].in_flight


@in_sync
async def test_ctrl_c_as_a_call_is_sent_gives_it_back(w: World) -> None:
    """A listener was told what another call had left to be done."""
    balance = Balance(A, B, C, eject=Eject(1, eject_for=4), load="round_robin")
    await failing(w, balance, A, 1)
    await w.sleep(4)
    guard = balance.guard()
    guard.__enter__()
    balance._lock.run(guard.__exit__, None, None, None)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    unsubscribe = balance.subscribe(interrupt)
    with pytest.raises(KeyboardInterrupt):
        await w.call(balance, Replicas(balance).ask)
    unsubscribe()
    assert 0 == in_flight(balance)


@in_sync
async def test_an_overdue_probe_is_seen_by_who_changes_the_set(w: World) -> None:
    """No call caused that."""
    balance = Balance(A, B, C, eject=Eject(1, eject_for=4), load="round_robin")
    events = listening(balance)
    await failing(w, balance, A, 1)
    await w.sleep(4)
    guard = balance.guard()
    guard.__enter__()
    await w.sleep(30)
    balance.replace([A, B, C])
    told = events[-1]
    assert isinstance(told, EndpointEjected)
    assert (None, "probe_overdue") == (told.call, told.reason)
    guard.__exit__(None, None, None)


@in_every_colour
async def test_an_overdue_probe_is_seen_by_a_retry(w: World) -> None:
    """Its lease ended in the pause."""
    balance = Balance(A, B, C, eject=Eject(1, eject_for=4), load="round_robin")
    events = listening(balance)
    await failing(w, balance, A, 1)
    await w.sleep(4)
    member = balance._fleet.choose(clock.now(), clock.random)
    assert member is balance._fleet.members[A]
    replicas = Replicas(balance, B=DownError(), C=DownError())
    retry = Retry(DownError, attempts=2, backoff=constant(31), budget=None)
    with pytest.raises(DownError):
        await w.call(Pipeline(retry, balance), replicas.ask)
    reasons = [each.reason for each in events if isinstance(each, EndpointEjected)]
    assert ["consecutive_failures", "probe_overdue"] == reasons


@in_sync
async def test_ctrl_c_where_there_is_no_endpoint(w: World) -> None:
    """What came back was told of, and there is nothing to take back."""
    balance = Balance(A, B, C, eject=Eject(1, eject_for=4), load="round_robin")
    await failing(w, balance, A, 1)
    await w.sleep(4)
    guard = balance.guard()
    guard.__enter__()
    balance._lock.run(guard.__exit__, None, None, None)
    for each in (A, B, C):
        balance._fleet.drain(each, w.now(), draining=True)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    balance.subscribe(interrupt)
    with pytest.raises(KeyboardInterrupt):
        await w.call(balance, Replicas(balance).ask)
    assert 0 == in_flight(balance)


@in_sync
async def test_ctrl_c_in_a_listener_leaves_nothing_in_flight(w: World) -> None:
    """The call had been sent already when it was told of."""
    balance = Balance(A, B, C, eject=Eject(1, eject_for=4), load="round_robin")
    await failing(w, balance, A, 1)
    await w.sleep(4)
    gone = balance.guard()
    gone.__enter__()
    assert A == balance.current
    await w.sleep(30)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    unsubscribe = balance.subscribe(interrupt)
    with pytest.raises(KeyboardInterrupt):
        await w.call(balance, Replicas(balance).ask)
    unsubscribe()
    gone.__exit__(None, None, None)
    assert 0 == in_flight(balance)


@in_every_colour
async def test_a_deadline_reaches_inside(w: World) -> None:
    """As through every policy."""
    balance = Balance(A)

    async def ask() -> float | None:
        return resilient.remaining()

    with deadline_after(5):
        assert 5.0 == await w.call(balance, ask)
