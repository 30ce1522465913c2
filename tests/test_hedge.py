"""Hedge, in three colours."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import gc
import random
import threading
import traceback
import types
from collections.abc import Awaitable, Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anyio
import pytest
import trio
from tests.colours import World, in_async_colours, in_every_colour, in_sync

import resilient
from resilient import (
    AdaptiveConcurrency,
    Bulkhead,
    BulkheadFullError,
    Call,
    CallAbandoned,
    CircuitBreaker,
    CircuitOpenError,
    Coalesce,
    Fallback,
    Hedge,
    HedgeLaunched,
    HedgeWon,
    Outcome,
    Pipeline,
    Policy,
    RateLimiter,
    ResilientWarning,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    TimeoutExceededError,
    Verdict,
    constant,
    current_call,
    deadline_after,
    remaining,
)
from resilient._calls.outcome import OngoingWork
from resilient._edges.steps import leaf
from resilient._runtimes import clock
from resilient._runtimes.sync import SYNC, SyncRace
from resilient.policies.hedge.losers import chain_errors, merge_work
from resilient.policies.hedge.race import HedgedAttempt, HedgeRace
from resilient.testing import _virtual_clock, virtual_time

LIBRARY = str(Path(resilient.__file__).parent)
mark: contextvars.ContextVar[Any] = contextvars.ContextVar("mark", default="caller")


@pytest.fixture(autouse=True)
def _patient_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let virtual time wait for the test's thread while others sleep.

    It takes a thread that is not seen for a while to be elsewhere, as in a
    `join`. None is here; on a busy machine one that starts another looks so.
    """
    monkeypatch.setattr(_virtual_clock, "GRACE", 60.0)


def hedge(*args: Any, **kwargs: Any) -> Hedge:
    """Return a hedge that may be used on every function of these tests."""
    return Hedge(*args, **{"max_threads": 9, "budget": None, **kwargs})


def recorder(*policies: Policy[Any]) -> list[Any]:
    """Subscribe to policies and return the list that their events go to."""
    events: list[Any] = []
    for policy in policies:
        policy.subscribe(events.append)
    return events


class Result:
    """A result that holds something, such as a response with its connection."""

    def __init__(self, name: object) -> None:
        self.name = name
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Server:
    """A function whose calls each do what they are told, in turn.

    A number is a time to sleep; a value is returned, an error raised.
    """

    def __init__(self, w: World, *plans: tuple[float, object]) -> None:
        self.w = w
        self.plans = plans
        self.began: list[float] = []
        self.cancelled: list[int] = []
        self.calls: list[tuple[int, int]] = []

    async def __call__(self) -> Any:
        number = len(self.began)
        self.began.append(self.w.now())
        mark.set(number)
        call = current_call()
        self.calls.append((call.attempt, call.hedge))
        seconds, answer = self.plans[number]
        try:
            await self.w.sleep(seconds)
        except BaseException:
            self.cancelled.append(number)
            raise
        if isinstance(answer, BaseException):
            raise answer
        return answer


async def outlast(w: World) -> None:
    """Let the threads that lost come to their ends."""
    await w.sleep(100)


# -- Who starts, and who wins


@in_every_colour
async def test_a_fast_answer_needs_no_hedge(w: World) -> None:
    """The function runs once, and nothing is told."""
    policy = hedge(1)
    events = recorder(policy)
    server = Server(w, (0.5, "ok"))
    assert "ok" == await w.call(policy, server)
    assert [0.0] == server.began
    assert 0.5 == w.now()
    assert [] == events


@in_every_colour
async def test_a_slow_answer_is_overtaken(w: World) -> None:
    """The second attempt begins after the delay, and its answer counts."""
    policy = hedge(1)
    events = recorder(policy)
    server = Server(w, (60, "late"), (0.5, "ok"))
    assert "ok" == await w.call(policy, server)
    assert [0.0, 1.0] == server.began
    assert [(1, 0), (1, 1)] == server.calls
    assert 1.5 == w.now()
    assert [
        HedgeLaunched("Hedge", server_name(w), 1, "delay", 1.0),
        HedgeWon("Hedge", server_name(w), 1, 1.5),
    ] == [event for event in events if not isinstance(event, CallAbandoned)]
    assert w.is_sync or [0] == server.cancelled
    await outlast(w)
    assert 0 == policy.abandoned


def server_name(w: World) -> str:
    """What a call of a `Server` is called."""
    return "plain" if w.is_sync else "Server"


@in_every_colour
async def test_the_first_may_still_win(w: World) -> None:
    """Here it answers before the hedge; there is no event for that."""
    policy = hedge(1)
    events = recorder(policy)
    server = Server(w, (1.5, "ok"), (60, "late"))
    assert "ok" == await w.call(policy, server)
    assert 1.5 == w.now()
    assert [HedgeLaunched] == [type(event) for event in events][:1]
    assert HedgeWon not in [type(event) for event in events]
    await outlast(w)


@in_every_colour
async def test_each_further_attempt_has_its_delay(w: World) -> None:
    """Counted from the start of the one before it, up to all attempts."""
    policy = hedge(timedelta(seconds=1), attempts=3)
    server = Server(w, (60, 1), (60, 2), (60, 3))
    assert 1 == await w.call(policy, server)
    assert [0.0, 1.0, 2.0] == server.began
    assert 60.0 == w.now()
    await outlast(w)


@in_every_colour
async def test_a_failure_starts_the_next_at_once(w: World) -> None:
    """Not when the delay is over."""
    policy = hedge(1, attempts=3)
    events = recorder(policy)
    server = Server(w, (0.25, OSError()), (0.25, OSError()), (0.25, "ok"))
    assert "ok" == await w.call(policy, server)
    assert [0.0, 0.25, 0.5] == server.began
    assert ["failure", "failure"] == [
        event.reason for event in events if isinstance(event, HedgeLaunched)
    ]


@in_every_colour
async def test_a_failure_beside_a_running_attempt_starts_another(w: World) -> None:
    """And the delay of the next counts from there."""
    policy = hedge(1, attempts=4)
    server = Server(w, (60, 0), (0.5, OSError()), (60, 2), (0.25, "ok"))
    assert "ok" == await w.call(policy, server)
    assert [0.0, 1.0, 1.5, 2.5] == server.began
    await outlast(w)


@in_every_colour
async def test_one_attempt_is_no_hedge(w: World) -> None:
    """`attempts` counts the first."""
    policy = hedge(1, attempts=1)
    server = Server(w, (2, "ok"))
    assert "ok" == await w.call(policy, server)
    assert [0.0] == server.began


@in_every_colour
async def test_the_decorated_function_keeps_its_arguments(w: World) -> None:
    """Each attempt gets them."""
    got: list[Any] = []

    async def function(*args: Any, **kwargs: Any) -> str:
        got.append((args, kwargs))
        await w.sleep(2 if len(got) == 1 else 0)
        return "ok"

    assert "ok" == await w.decorate(hedge(1), function)(1, two=2)
    assert [((1,), {"two": 2})] * 2 == got
    await outlast(w)


# -- What wins


@in_every_colour
async def test_all_fail(w: World) -> None:
    """The first error is raised, and the others hang on it."""
    first, second, third = OSError("one"), KeyError("two"), ValueError("three")
    server = Server(w, (3, first), (3, second), (0.5, third))
    with pytest.raises(OSError) as caught:
        await w.call(hedge(1, attempts=3), server)
    assert first is caught.value
    group = first.__context__
    assert isinstance(group, ExceptionGroup)
    assert "the other attempts of the hedge failed as well" == group.message
    assert (third, second) == group.exceptions


@in_every_colour
async def test_an_unacceptable_result_does_not_win(w: World) -> None:
    """A later good one does, and the bad ones are closed."""
    bad, good = Result("bad"), Result("good")
    policy = Pipeline(hedge(1), classify=lambda outcome: outcome.value is bad)
    server = Server(w, (0.5, bad), (0.5, good))
    assert good is await w.call(policy, server)
    assert 1.0 == w.now()
    assert (1, 0) == (bad.closed, good.closed)


@in_every_colour
async def test_if_none_is_good_the_first_result_is_returned(w: World) -> None:
    """With the resource it stands for; those of the others are closed."""
    results = [Result(0), Result(1), Result(2)]
    policy = hedge(1, attempts=3, on=lambda outcome: True)
    server = Server(w, (3, results[0]), (0.5, results[1]), (0.25, results[2]))
    assert results[0] is await w.call(policy, server)
    assert [0, 1, 1] == [result.closed for result in results]


@in_every_colour
async def test_an_error_that_is_no_failure_is_an_answer(w: World) -> None:
    """The dependency was asked and said no."""
    policy = Pipeline(hedge(1), classify=OSError)
    server = Server(w, (0.5, KeyError("no such thing")))
    with pytest.raises(KeyError):
        await w.call(policy, server)
    assert [0.0] == server.began


@in_every_colour
async def test_an_ignored_result_is_an_answer(w: World) -> None:
    """It ends the call, though it counts as no success."""
    policy = Pipeline(hedge(1), classify=lambda outcome: Verdict.IGNORED)
    assert "ok" == await w.call(policy, Server(w, (2, "ok"), (2, "late")))
    await outlast(w)


@in_every_colour
async def test_its_own_on_judges_for_it_alone(w: World) -> None:
    """The pipeline's classification stays what others see."""
    policy = Pipeline(hedge(1, on=KeyError), classify=OSError)
    with pytest.raises(OSError):
        await w.call(policy, Server(w, (0.5, OSError())))
    assert "ok" == await w.call(policy, Server(w, (0.5, KeyError()), (0.5, "ok")))


@in_every_colour
async def test_pushback_ends_hedging(w: World) -> None:
    """The server asks for less: no more is sent, who runs may still win."""
    for told in (Verdict.PUSHBACK, 2.0):

        def judge(outcome: Outcome, told: Any = told) -> Any:
            return told if isinstance(outcome.error, OSError) else False

        policy = Pipeline(hedge(1, attempts=4), classify=judge)
        server = Server(w, (5, "ok"), (0.5, OSError()), (0, "never"))
        began = w.now()
        assert "ok" == await w.call(policy, server)
        assert 2 == len(server.began)
        assert 5.0 == w.now() - began


@in_every_colour
async def test_no_wait_is_no_pushback(w: World) -> None:
    """A predicate that answers 0.0 says: at once."""
    policy = Pipeline(hedge(1), classify=lambda one: 0.0 if one.error else False)
    assert "ok" == await w.call(policy, Server(w, (0.5, OSError()), (0.5, "ok")))


# -- When none starts


@in_every_colour
async def test_without_a_delay_it_learns_one(w: World) -> None:
    """From twenty successes on, their 95th percentile."""
    policy = hedge()
    durations = [0.1 + number / 100 for number in range(20)]
    assert policy.is_pristine()
    for seconds in durations:
        assert policy.current_delay is None
        assert 0 == await w.call(policy, Server(w, (seconds, 0)))
    assert durations[18] == pytest.approx(policy.current_delay)
    assert not policy.is_pristine()
    server = Server(w, (60, "late"), (0.1, "ok"))
    assert "ok" == await w.call(policy, server)
    assert 2 == len(server.began)
    await outlast(w)
    policy.reset()
    assert policy.current_delay is None
    assert policy.is_pristine()


@in_every_colour
async def test_failures_teach_nothing(w: World) -> None:
    """Nor do ignored outcomes; and before the delay is known no call is hedged."""
    policy = hedge()
    for _ in range(25):
        server = Server(w, (0.5, OSError()))
        with pytest.raises(OSError):
            await w.call(policy, server)
        assert 1 == len(server.began)
    ignoring = Pipeline(policy, classify=lambda outcome: Verdict.IGNORED)
    for _ in range(25):
        await w.call(ignoring, Server(w, (0.5, 1)))
    assert policy.current_delay is None


@in_every_colour
async def test_the_delay_has_a_floor(w: World) -> None:
    """One millisecond, where answers come faster."""
    policy, other = hedge(), hedge(floor=timedelta(seconds=2))
    for each in (policy, other):
        for _ in range(20):
            await w.call(each, Server(w, (0, 1)))
    assert 0.001 == policy.current_delay
    assert 2.0 == other.current_delay


@in_every_colour
async def test_hedges_that_win_do_not_lower_the_percentile(w: World) -> None:
    """A call counts with the time for which its first attempt went unanswered."""
    policy = hedge(percentile=0.5)
    for _ in range(20):
        await w.call(policy, Server(w, (1, "ok")))
    for _ in range(200):
        # Every other call is slow, and won by a hedge that takes no time.
        await w.call(policy, Server(w, (1, "ok"), (0, "never")))
        await w.call(policy, Server(w, (9, "slow"), (0.001, "ok")))
    assert 1.0 == policy.current_delay
    await outlast(w)


@in_every_colour
async def test_a_failed_first_attempt_is_no_sample(w: World) -> None:
    """The hedge's own time is."""
    policy = hedge(percentile=0.5)
    for _ in range(20):
        await w.call(policy, Server(w, (5, "ok")))
    for _ in range(20):
        await w.call(policy, Server(w, (2, OSError()), (1, "ok")))
    assert 1.0 == policy.current_delay


@in_every_colour
async def test_the_budget_bounds_hedges(w: World) -> None:
    """With it empty the two that run go on, and the first good one wins."""
    budget = RetryBudget(0, 1, 0)
    policy = hedge(1, attempts=3, budget=budget)
    server = Server(w, (5, "ok"), (5, "late"), (0, "never"))
    assert "ok" == await w.call(policy, server)
    assert 2 == len(server.began)
    assert 0.0 == budget.balance
    await outlast(w)
    server = Server(w, (0.5, OSError()))
    with pytest.raises(OSError):
        await w.call(policy, server)
    assert not hedge(1, budget="own").reset()


@in_every_colour
async def test_successes_pay_into_the_budget(w: World) -> None:
    """Each call once, hedged or not."""
    budget = RetryBudget(0.25, 4, 0)
    policy = hedge(1, budget=budget)
    budget.withdraw(4)
    await w.call(policy, Server(w, (0.5, "ok")))
    assert 0.25 == budget.balance
    with pytest.raises(OSError):
        await w.call(policy, Server(w, (0.5, OSError())))
    assert 0.25 == budget.balance
    learning = hedge(budget=budget)
    await w.call(learning, Server(w, (0.5, "ok")))
    assert 0.5 == budget.balance


@in_every_colour
async def test_a_budget_shared_with_a_retry(w: World) -> None:
    """One success pays in once, though both count it; both take from it."""
    budget = RetryBudget(0.25, 4, 0)
    retry = Retry(OSError, budget=budget, backoff=constant(0), attempts=2)
    shared = Pipeline(retry, hedge(1, budget=budget))
    budget.withdraw(4)
    await w.call(shared, Server(w, (0.5, "ok")))
    assert 0.25 == budget.balance
    apart = Pipeline(retry.with_(), hedge(1, budget="own"))
    await w.call(apart, Server(w, (0.5, "ok")))
    assert 0.5 == budget.balance
    budget.reset()
    server = Server(w, *[(0.5, OSError())] * 4)
    with pytest.raises(OSError):
        await w.call(shared, server)
    assert [(1, 0), (1, 1), (2, 0), (2, 1)] == server.calls
    assert 1.0 == budget.balance


@in_every_colour
async def test_none_starts_after_the_deadline(w: World) -> None:
    """Which no attempt could meet."""
    server = Server(w, (5, "ok"))
    with deadline_after(0.5):
        assert "ok" == await w.call(hedge(1), server)
    assert [0.0] == server.began


@in_every_colour
async def test_a_rejected_attempt_starts_none(w: World) -> None:
    """The dependency was not asked; asking twice gets no further."""
    bulkhead = Bulkhead(1)
    policy = Pipeline(hedge(1), bulkhead)
    events = recorder(policy)

    async def inner() -> None:
        await w.call(policy, Server(w))

    with pytest.raises(BulkheadFullError):
        await w.call(bulkhead, inner)
    assert ["CallRejected"] == [type(event).__name__ for event in events]


@in_every_colour
async def test_a_rejected_hedge_is_no_answer(w: World) -> None:
    """The first goes on; no third is tried."""
    policy = Pipeline(hedge(1, attempts=3), Bulkhead(1))
    server = Server(w, (5, "ok"))
    assert "ok" == await w.call(policy, server)
    assert [0.0] == server.began


@in_every_colour
async def test_a_rejection_never_wins(w: World) -> None:
    """Not even where a predicate calls it a success: the server was not asked."""
    policy = Pipeline(hedge(1, attempts=3), Bulkhead(1), classify=lambda outcome: False)
    server = Server(w, (5, "ok"))
    assert "ok" == await w.call(policy, server)
    assert [0.0] == server.began


@in_every_colour
async def test_a_rejection_that_is_listed_is_a_failure(w: World) -> None:
    """It starts the next at once."""
    policy = hedge(1, on=BulkheadFullError)
    bulkhead, spare = Bulkhead(1), Bulkhead(1)

    class Either(Policy[Any]):
        async def around(self, proceed: Any, call: Call) -> Outcome:
            return await (spare if call.hedge else bulkhead).around(proceed, call)

    async def inner() -> object:
        return await w.call(Pipeline(policy, Either()), Server(w, (0.5, "ok")))

    assert "ok" == await w.call(bulkhead, inner)


@in_every_colour
async def test_a_circuit_on_probation_is_not_hedged(w: World) -> None:
    """Its probes are few, and the dependency may be barely back."""
    breaker = CircuitBreaker(consecutive_failures=1, open_for=5, half_open_calls=9)
    policy = Pipeline(hedge(1), breaker)
    # The first failure opens the circuit, which rejects the hedge.
    with pytest.raises(OSError) as caught:
        await w.call(policy, Server(w, (0.5, OSError())))
    group = caught.value.__context__
    assert isinstance(group, ExceptionGroup)
    assert [CircuitOpenError] == [type(exception) for exception in group.exceptions]
    await w.sleep(5)
    for plan in ((3, "ok"), (3, OSError())):
        server = Server(w, plan)
        try:
            await w.call(policy, server)
        except OSError:
            pass
        assert 1 == len(server.began)
    breaker.disable()
    server = Server(w, (3, "ok"), (1, "ok"))
    await w.call(policy, server)
    assert 2 == len(server.began)
    await outlast(w)


@in_every_colour
async def test_a_policy_of_ones_own_may_say_so_too(w: World) -> None:
    """From further in, and from a call further in."""

    class Tired(Policy[Any]):
        async def around(self, proceed: Any, call: Call) -> Outcome:
            call.discourage_hedging()
            return await proceed(call)

    server = Server(w, (3, "ok"))
    assert "ok" == await w.call(Pipeline(hedge(1), Tired()), server)
    inner = w.decorate(Tired(), Server(w, (3, "ok")))
    assert "ok" == await w.call(hedge(1), inner)


@in_every_colour
async def test_an_attempt_may_forbid_another(w: World) -> None:
    """Neither a hedge nor a Retry around repeats it."""
    calls = 0

    async def charge() -> None:
        nonlocal calls
        calls += 1
        current_call().unrepeatable = "the card was charged"
        await w.sleep(3)
        raise OSError("no receipt")

    with pytest.raises(OSError):
        await w.call(Pipeline(Retry(OSError), hedge(1)), charge)
    assert 1 == calls


# -- What becomes of the losers


@in_async_colours
async def test_losers_are_cancelled(w: World) -> None:
    """And have ended when the call returns."""
    policy = hedge(1, attempts=3)
    server = Server(w, (60, 0), (60, 1), (0.5, "ok"))
    assert "ok" == await w.call(policy, server)
    assert {0, 1} == set(server.cancelled)
    assert 0 == policy.abandoned


@in_async_colours
async def test_what_a_loser_returns_is_closed(w: World) -> None:
    """Though it was cancelled; `aclose` rather than `close`, and awaited."""

    class Response(Result):
        async def aclose(self) -> None:
            await w.sleep(0)
            self.name = "closed"

    late = Response("open")
    winner = Response("open")

    async def function() -> Response:
        if current_call().hedge:
            return winner
        try:
            await w.sleep(60)
        except BaseException:
            return late
        raise AssertionError("it was not cancelled")

    assert winner is await w.call(hedge(1), function)
    assert ("closed", 0) == (late.name, late.closed)
    assert "open" == winner.name


@in_every_colour
async def test_two_in_one_tick(w: World) -> None:
    """One result is returned, the other closed; one context survives."""
    results: list[Result] = []

    async def function() -> Result:
        number = current_call().hedge
        mark.set(number)
        await w.sleep(1 - number / 2)
        results.append(Result(number))
        return results[-1]

    for _ in range(20):
        results.clear()
        winner = await w.call(hedge(0.5), function)
        await w.sleep(1)
        assert winner.name == mark.get()
        assert [(result is not winner) for result in results] == [
            result.closed for result in results
        ]
        assert 2 == len(results)


@in_every_colour
async def test_a_shared_result_is_not_closed(w: World) -> None:
    """Where every attempt returns the same object."""
    shared = Result("shared")

    async def function() -> Result:
        await w.sleep(1 - current_call().hedge / 2)
        return shared

    assert shared is await w.call(hedge(0.5), function)
    await w.sleep(1)
    assert 0 == shared.closed


@in_every_colour
async def test_a_result_that_will_not_close_harms_no_call(
    w: World,
) -> None:
    """It is logged, once."""

    class Stuck:
        def close(self) -> None:
            raise RuntimeError("stuck")

    good = Result("good")
    for bad in (Stuck(), Result, 1):
        policy = hedge(1, on=lambda outcome, bad=bad: outcome.value is bad)
        assert good is await w.call(policy, Server(w, (0.5, bad), (0.5, good)))


@in_every_colour
async def test_context_variables_of_the_winner_survive(w: World) -> None:
    """Those of the loser do not leak, whichever it is."""
    for plans, winner in (
        ([(60, "late"), (0.5, "ok")], 1),
        ([(1.5, "ok"), (60, "late")], 0),
        ([(0.5, OSError()), (0.5, "ok")], 1),
    ):
        mark.set("caller")
        assert "ok" == await w.call(hedge(1), Server(w, *plans))
        assert winner == mark.get()
        await outlast(w)
        assert winner == mark.get()
    mark.set("caller")
    with pytest.raises(OSError):
        await w.call(hedge(1), Server(w, (0.5, OSError()), (0.5, OSError())))
    # As the error is that of the first attempt, so are they.
    assert 0 == mark.get()


@in_every_colour
async def test_the_call_stays_the_callers(w: World) -> None:
    """An attempt's own call is over with it."""
    inside: list[Call] = []

    async def function() -> None:
        inside.append(current_call())
        await w.sleep(2)

    async def outer() -> None:
        mine = current_call()
        await w.call(hedge(1), function)
        assert mine is current_call()

    await w.call(Bulkhead(1), outer)
    await outlast(w)
    assert 2 == len(inside)
    assert all(call.ended for call in inside)


@in_async_colours
async def test_a_loser_that_ignores_its_cancellation(w: World) -> None:
    """On asyncio it is left after its grace, counted, and keeps its permits."""
    late = Result("late")
    inner, outer = Bulkhead(5), Bulkhead(5)
    policy = hedge(1, grace=0.25)
    pipeline = Pipeline(policy, inner)
    events = recorder(policy)

    async def function() -> object:
        if current_call().hedge:
            await w.sleep(0.5)
            return "ok"
        try:
            await w.sleep(60)
        except BaseException:
            if w.colour == "asyncio":
                await asyncio.sleep(8)
            else:
                with trio.CancelScope(shield=True):
                    await trio.sleep(8)
        return late

    with pytest.warns(ResilientWarning, match="list it after the Hedge"):
        whole = Pipeline(outer, pipeline)
    assert "ok" == await w.call(whole, function)
    if w.colour == "trio":
        # Structured: the winner waits for it.
        assert 9.5 == w.now()
    else:
        assert 1.75 == w.now()
        assert (1, 1, 1) == (inner.in_use, outer.in_use, policy.abandoned)
        assert not policy.is_pristine()
        assert CallAbandoned("Hedge", "function", 1) == events[-1]
        gc.collect()
        await w.sleep(8)
    assert (0, 0, 0) == (inner.in_use, outer.in_use, policy.abandoned)
    assert policy.is_pristine()
    assert 1 == late.closed


@in_async_colours
async def test_a_loser_left_behind_may_fail(w: World) -> None:
    """Its error is neither raised nor reported to the event loop."""
    policy = hedge(1, grace=0)

    async def function() -> object:
        if current_call().hedge:
            return "ok"
        try:
            await w.sleep(60)
        finally:
            if w.colour == "asyncio":
                await asyncio.sleep(1)
            raise OSError

    complaints: list[Any] = []
    if w.colour == "asyncio":
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
    assert "ok" == await w.call(policy, function)
    await w.sleep(2)
    gc.collect()
    assert [] == complaints
    assert 0 == policy.abandoned


@in_async_colours
async def test_a_result_that_closes_slowly(w: World) -> None:
    """It delays the caller by no more than the grace."""

    class Slow(Result):
        async def aclose(self) -> None:
            try:
                await w.sleep(5)
            except BaseException:
                self.name = "cut short"
                raise
            self.closed += 1

    slow = Slow("slow")
    policy = hedge(1, grace=0.25, on=lambda outcome: outcome.value is slow)
    server = Server(w, (0.5, slow), (0.5, "ok"))
    assert "ok" == await w.call(policy, server)
    assert 1.25 == w.now()
    await w.sleep(10)
    # On trio nothing goes on behind the caller's back.
    assert (slow.closed, slow.name) == (
        (1, "slow") if w.colour == "asyncio" else (0, "cut short")
    )


@in_sync
async def test_a_thread_that_lost_goes_on(w: World) -> None:
    """It is counted, keeps its permits, and can see that its time is up."""
    inner, outer = Bulkhead(5), Bulkhead(5)
    policy = hedge(1)
    events = recorder(policy)
    late = Result("late")
    left: list[float | None] = []

    async def function() -> object:
        if current_call().hedge:
            await w.sleep(0.5)
            return "ok"
        left.append(remaining())
        await w.sleep(5)
        left.append(remaining())
        return late

    with pytest.warns(ResilientWarning, match="list it after the Hedge"):
        pipeline = Pipeline(outer, policy, inner)
    assert "ok" == await w.call(pipeline, function)
    assert 1.5 == w.now()
    assert (1, 1, 1) == (inner.in_use, outer.in_use, policy.abandoned)
    assert CallAbandoned("Hedge", "function", 1) == events[-1]
    await w.sleep(10)
    assert (0, 0, 0) == (inner.in_use, outer.in_use, policy.abandoned)
    assert [None, 0.0] == left
    assert 1 == late.closed


@in_sync
async def test_threads_that_were_left_within_an_attempt(w: World) -> None:
    """The permits outside last until they have all ended."""
    inner, outer = Bulkhead(9), Bulkhead(9)

    async def function() -> str:
        number = current_call().hedge
        await w.sleep([10, 20, 0.5][number])
        return "ok"

    with pytest.warns(ResilientWarning):
        failing = Pipeline(outer, hedge(5, attempts=3), inner, Timeout(2, abandon=True))
    assert "ok" == await w.call(failing, function)
    assert 4.5 == w.now()
    assert (2, 1) == (inner.in_use, outer.in_use)
    await w.sleep(10)
    assert (1, 1) == (inner.in_use, outer.in_use)
    await w.sleep(10)
    assert (0, 0) == (inner.in_use, outer.in_use)


@in_sync
async def test_a_thread_left_within_a_loser(w: World) -> None:
    """It is part of what the loser holds."""
    outer = Bulkhead(9)
    policy = hedge(1)

    async def function() -> str:
        await w.sleep(0.5 if current_call().hedge else 10)
        return "ok"

    with pytest.warns(ResilientWarning):
        pipeline = Pipeline(outer, policy, Timeout(2, abandon=True))
    assert "ok" == await w.call(pipeline, function)
    assert (1.5, 1) == (w.now(), outer.in_use)
    await w.sleep(1)
    assert (0, 1) == (policy.abandoned, outer.in_use)
    await w.sleep(10)
    assert 0 == outer.in_use


def test_an_attempt_that_ends_while_it_is_counted() -> None:
    """In another thread, between two looks: nothing stays held."""
    call = Call.new("x", runtime=SYNC)
    hedge_race = HedgeRace(call, leaf, None, SyncRace())
    forgotten: list[HedgedAttempt] = []
    attempt = HedgedAttempt(hedge_race, 0, forgotten.append)
    assert not attempt.leave_behind(lambda one: one.ended())
    assert attempt in forgotten
    assert attempt.ongoing is not None
    given_back: list[object] = []
    attempt.ongoing.add_release(given_back.append)
    assert [None] == given_back


# -- Cancellation and time


@in_async_colours
async def test_a_cancelled_call_cancels_all(w: World) -> None:
    """And ends when they have."""
    bulkhead = Bulkhead(5)
    server = Server(w, (60, 0), (60, 1))
    with pytest.raises(TimeoutExceededError):
        await w.call(Pipeline(Timeout(5), hedge(1), bulkhead), server)
    assert {0, 1} == set(server.cancelled)
    assert 5.0 == w.now()
    assert 0 == bulkhead.in_use


@in_async_colours
async def test_a_cancelled_call_waits_for_its_attempts(w: World) -> None:
    """However long they take: no attempt goes on after the call has ended."""
    ended: list[float] = []

    async def function() -> None:
        try:
            await w.sleep(60)
        finally:
            if w.colour == "asyncio":
                await asyncio.sleep(3)
            else:
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
            ended.append(w.now())

    with pytest.raises(TimeoutExceededError):
        await w.call(Pipeline(Timeout(5), hedge(1, grace=0)), function)
    assert [8.0, 8.0] == ended
    assert 8.0 == w.now()


@in_async_colours
async def test_what_was_good_so_far_is_closed_by_a_cancellation(w: World) -> None:
    """The first result was kept for want of a better one."""
    first = Result("first")
    policy = Pipeline(Timeout(5), hedge(1, on=lambda outcome: True))
    with pytest.raises(TimeoutExceededError):
        await w.call(policy, Server(w, (0.5, first), (60, "late")))
    assert 1 == first.closed


@in_async_colours
async def test_a_scope_of_anyio_cancels_all(w: World) -> None:
    """Which on asyncio it does again and again, until all has ended."""
    server = Server(w, (60, 0), (60, 1))
    bulkhead = Bulkhead(5)
    with anyio.move_on_after(5) as scope:
        await w.call(Pipeline(hedge(1), bulkhead), server)
    assert scope.cancelled_caught
    assert {0, 1} == set(server.cancelled)
    assert 5.0 == w.now()
    assert 0 == bulkhead.in_use


@in_sync
async def test_an_interrupt_in_the_wait(w: World) -> None:
    """Ctrl-C leaves the threads to end, and they give everything back."""
    bulkhead = Bulkhead(5)
    policy = Pipeline(hedge(1), bulkhead)

    def interrupt(*args: Any) -> bool:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            await w.call(policy, Server(w, (5, "late")))
    await outlast(w)
    assert 0 == bulkhead.in_use


@in_every_colour
async def test_an_error_has_one_frame_of_ours(w: World) -> None:
    """None of the task or thread that it came from."""

    async def function() -> None:
        await w.sleep(0.5)
        raise OSError

    for policy in (hedge(1), Pipeline(hedge(1), Bulkhead(5), Timeout(9))):
        with pytest.raises(OSError) as caught:
            await w.call(policy, function)
        ours = [
            frame
            for frame in traceback.extract_tb(caught.value.__traceback__)
            if frame.filename.startswith(LIBRARY)
        ]
        assert ["wrapper"] == [frame.name for frame in ours]


@in_every_colour
async def test_an_attempt_has_a_timeout_of_its_own(w: World) -> None:
    """A failure like any other, which starts the next."""
    policy = Pipeline(hedge(3), Timeout(2))
    server = Server(w, (1, OSError()), (1, "ok"))
    assert "ok" == await w.call(policy, server)
    if not w.is_sync:
        server = Server(w, (60, "late"), (1, "ok"))
        assert "ok" == await w.call(policy, server)
        assert [2.0, 4.0] == server.began


@in_every_colour
async def test_attempts_see_the_deadline(w: World) -> None:
    """Of the call that they are for."""
    left: list[float | None] = []

    async def function() -> None:
        left.append(remaining())
        await w.sleep(2)

    with deadline_after(9):
        await w.call(hedge(1), function)
    await outlast(w)
    assert [9.0, 8.0] == left


@in_every_colour
async def test_every_attempt_passes_the_policies_inside(w: World) -> None:
    """Each with permits of its own."""
    limiter = RateLimiter(1, per=100, burst=9)
    breaker = CircuitBreaker()
    policy = Pipeline(hedge(1), breaker, limiter)
    await w.call(policy, Server(w, (0.5, OSError()), (0.5, "ok")))
    assert (1, 2) == (breaker.statistics().failures, breaker.statistics().calls)


@in_every_colour
async def test_a_hedge_inside_a_hedge(w: World) -> None:
    """It warns, and works."""
    with pytest.warns(ResilientWarning, match="keep one of them"):
        policy = Pipeline(hedge(5), hedge(1))
    server = Server(w, (60, 0), (0.5, "ok"))
    assert "ok" == await w.call(policy, server)
    assert [0.0, 1.0] == server.began
    await outlast(w)


@in_every_colour
async def test_a_bug_in_a_predicate_reaches_the_caller(w: World) -> None:
    """And stops all the rest."""

    def bug(outcome: Outcome) -> bool:
        raise ZeroDivisionError

    bulkhead = Bulkhead(5)
    policy = Pipeline(hedge(1, on=bug), bulkhead)
    with pytest.raises(ZeroDivisionError):
        await w.call(policy, Server(w, (60, 0), (0.5, "ok")))
    assert 1.5 == w.now()
    await outlast(w)
    assert 0 == bulkhead.in_use


@in_every_colour
async def test_what_is_no_exception_reaches_the_caller(w: World) -> None:
    """From whichever attempt, as if it had been the only one."""
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit):
        bulkhead = Bulkhead(5)
        server = Server(w, (60, 0), (0.5, kind()))
        with pytest.raises(kind):
            await w.call(Pipeline(hedge(1), bulkhead), server)
        await outlast(w)
        assert 0 == bulkhead.in_use


@in_every_colour
async def test_a_retry_tries_the_whole_race_again(w: World) -> None:
    """Each attempt of the retry has its own hedges."""
    policy = Pipeline(Retry(OSError, backoff=constant(1)), hedge(1))
    server = Server(
        w, (0.5, OSError()), (0.5, OSError()), (0.5, OSError()), (0.5, "ok")
    )
    assert "ok" == await w.call(policy, server)
    assert [(1, 0), (1, 1), (2, 0), (2, 1)] == server.calls


@in_every_colour
async def test_a_retry_reads_a_value_by_its_on_result(w: World) -> None:
    """It knows that the pipeline has judged the errors."""
    policy = Pipeline(
        Retry(on_result=lambda value: value == "again", backoff=constant(1)),
        hedge(1, attempts=2),
        classify=OSError,
    )
    server = Server(w, *[(0.5, OSError())] * 2, (0.5, "again"), (0.5, "ok"))
    assert "ok" == await w.call(policy, server)


# -- asyncio alone


def test_a_cancellation_beside_an_answer_is_not_lost() -> None:
    """The result is closed instead."""
    result = Result("ok")

    async def main() -> None:
        task = asyncio.create_task(hedge(1).acall(function))
        victim.append(task)
        with pytest.raises(asyncio.CancelledError):
            await task

    victim: list[asyncio.Task[Any]] = []

    async def function() -> Result:
        await asyncio.sleep(0.5)
        asyncio.get_running_loop().call_soon(victim[0].cancel)
        return result

    virtual_time.run(main)
    assert 1 == result.closed


def test_a_cancellation_in_the_grace_is_not_lost() -> None:
    """It closes the result, and then waits for the loser."""
    result = Result("ok")
    events: list[object] = []

    async def function() -> Result:
        if current_call().hedge:
            return result
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(3):
                try:
                    await asyncio.sleep(5)
                except asyncio.CancelledError:
                    events.append(clock.now())
        return result

    async def main() -> None:
        task = asyncio.create_task(hedge(1, grace=3).acall(function))
        for _ in range(2):
            await asyncio.sleep(2)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        events.append(clock.now())

    virtual_time.run(main)
    assert [2.0, 4.0, 9.0] == events
    assert 1 == result.closed


def test_a_second_cancellation_interrupts_the_closing_too() -> None:
    """As it would interrupt the cleanup of any function."""
    seen: list[str] = []

    class Slow:
        async def aclose(self) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("closing")
                raise

    slow = Slow()

    async def function() -> object:
        if not current_call().hedge:
            return slow
        return None

    async def main() -> None:
        policy = hedge(1, grace=100, on=lambda outcome: outcome.value is slow)
        task = asyncio.create_task(policy.acall(function))
        for _ in range(2):
            await asyncio.sleep(1)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 2.0 == clock.now()

    virtual_time.run(main)
    assert ["closing"] == seen


def test_an_attempt_cancelled_from_elsewhere() -> None:
    """Is as a function that was: the cancellation reaches the caller."""

    async def before_it_began() -> None:
        raise AssertionError

    async def function() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(60)

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await hedge(1).acall(function)
        loop = asyncio.get_running_loop()
        create = loop.create_task

        def cancelled(*args: Any, **kwargs: Any) -> asyncio.Task[Any]:
            task = create(*args, **kwargs)
            task.cancel()
            return task

        loop.create_task = cancelled  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await hedge(1).acall(before_it_began)
        del loop.create_task

    virtual_time.run(main)


@pytest.mark.skipif(
    not hasattr(asyncio, "eager_task_factory"), reason="new in Python 3.12"
)
def test_eager_tasks() -> None:
    """An attempt may end before its task is handed out."""

    async def answer() -> str:
        return "ok"

    async def hang() -> str:
        await asyncio.sleep(60)
        return "late"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        assert "ok" == await hedge(1).acall(answer)
        assert "late" == await hedge(1).acall(hang)

    virtual_time.run(main)


# -- Threads alone


def nesting(w: World, policy: Hedge) -> Callable[[], Awaitable[str]]:
    """Return a function that calls itself once, under the same hedge."""
    places: list[str] = []

    async def nested() -> str:
        places.append(threading.current_thread().name)
        if len(places) == 1:
            await w.call(policy, nested)
        return " ".join(places)

    return nested


@in_sync
async def test_no_thread_for_a_hedge(w: World) -> None:
    """Then there is none."""
    server = Server(w, (5, "ok"))
    assert "ok" == await w.call(hedge(1, max_threads=1), server)
    assert 1 == len(server.began)


@in_sync
async def test_no_thread_for_the_first(w: World) -> None:
    """It runs in the caller's, as if there were no hedge."""
    policy = hedge(1, max_threads=1)
    assert "resilient nested resilient nested" == await w.call(
        policy, nesting(w, policy)
    )


@in_sync
async def test_the_system_has_no_thread_left(w: World) -> None:
    """The same."""
    policy = hedge(1)

    def refuse(target: Callable[[], None], name: str) -> threading.Thread:
        raise RuntimeError("can't start new thread")

    server = Server(w, (5, "ok"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "start_thread", refuse)
        assert "ok" == await w.call(policy, server)
    assert 1 == len(server.began)
    assert 0 == policy.abandoned
    assert policy.is_pristine()


@in_sync
async def test_an_interrupt_while_a_thread_starts(w: World) -> None:
    """It goes through, and no place is lost; nor is anything run a second time."""
    # NB: the second is what `Thread.start` makes of it where it held a lock.
    for error in (KeyboardInterrupt(), RuntimeError("cannot release un-acquired lock")):
        policy, server = hedge(1), Server(w, (5, "ok"))
        start = Mock(side_effect=error)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "start_thread", start)
            with pytest.raises(type(error)):
                await w.call(policy, server)
        assert [] == server.began
        assert policy.is_pristine()


def test_a_plain_function_may_not_return_an_awaitable() -> None:
    """Here as everywhere."""

    async def sneaky() -> None:
        raise AssertionError

    with virtual_time(), pytest.raises(TypeError, match="make it `async def`"):
        hedge(1).call(lambda: sneaky())


def test_threads_are_said_aloud() -> None:
    """Unless `max_threads` says that threads are meant."""

    def function() -> None:
        """Return nothing."""

    with pytest.warns(ResilientWarning) as caught:
        Hedge(1)(function)

    assert (
        "Hedge(1.0) runs a synchronous function in threads, where a loser cannot"
        " be interrupted; say max_threads=… if that is meant"
    ) == str(caught[0].message)
    assert __file__ == caught[0].filename
    Hedge(1, max_threads=4)(function)


def test_a_hedge_on_the_thread_of_a_loop() -> None:
    """Works, and warns that it stops the loop."""
    policy = hedge(1)

    async def main() -> None:
        with pytest.warns(ResilientWarning, match="stops every task of it"):
            assert "ok" == policy.call(lambda: "ok")

    asyncio.run(main())


@pytest.mark.real
def test_in_real_time() -> None:
    """With real threads and a real clock."""
    gate = threading.Event()
    policy = hedge(0.001)

    def function() -> str:
        if not current_call().hedge:
            assert gate.wait(60)
            return "late"
        return "ok"

    assert "ok" == policy.call(function)
    assert 1 == policy.abandoned
    gate.set()


# -- What it refuses


def test_generators_and_blocks_are_refused() -> None:
    """They cannot run twice at once."""
    policy = Hedge(1)

    def generator() -> Any:
        yield

    async def async_generator() -> Any:
        yield

    for fn in (generator, async_generator):
        with pytest.raises(TypeError) as caught:
            policy(fn)
        assert (
            "Hedge(1.0) may run its function several times at once, which a"
            " generator cannot: use a function"
        ) == str(caught.value)
    for use in (policy.guard, policy.attempts):
        with pytest.raises(TypeError) as caught:
            use()
        assert (
            "Hedge(1.0) may run its function several times at once, which a"
            " block cannot: use a function"
        ) == str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"delay": 0}, ValueError, "`delay` must be > 0 seconds, got 0"),
        (
            {"delay": "1"},
            TypeError,
            "`delay` must be seconds (int, float) or a timedelta, got '1'",
        ),
        ({"percentile": 0}, ValueError, "`percentile` must be > 0, got 0"),
        (
            {"percentile": 0.995},
            ValueError,
            "`percentile` must be <= 0.99, got 0.995: the last 500 successes say"
            " nothing about rarer ones",
        ),
        ({"attempts": 0}, ValueError, "`attempts` must be >= 1, got 0"),
        (
            {"budget": 1},
            TypeError,
            '`budget` must be a RetryBudget, "own" or None, got 1',
        ),
        ({"floor": -1}, ValueError, "`floor` must be >= 0 seconds, got -1"),
        ({"grace": -1}, ValueError, "`grace` must be >= 0 seconds, got -1"),
        ({"max_threads": 0}, ValueError, "`max_threads` must be >= 1, got 0"),
        (
            {"on": 1},
            TypeError,
            "`on` must be exception types or a function of the outcome, got 1",
        ),
    ],
)
def test_arguments_are_checked(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """By name, rule and value."""
    with pytest.raises(error) as caught:
        Hedge(**arguments)
    assert text == str(caught.value)


def test_its_repr_and_copies() -> None:
    """Read as the call that made it."""
    assert "Hedge()" == repr(Hedge())
    policy = Hedge(0.5, attempts=3, budget=None)
    assert "Hedge(0.5, attempts=3, budget=None)" == repr(policy)
    assert "Hedge(0.5, attempts=4, budget=None)" == repr(policy.with_(attempts=4))


@pytest.mark.parametrize(
    ("policies", "text"),
    [
        (
            (hedge(1), Retry(OSError)),
            "Retry(OSError) stands inside Hedge(1.0, budget=None, max_threads=9), and"
            " each of its attempts would do what it does anew; list the Retry first",
        ),
        (
            (hedge(1), Fallback("x")),
            "Fallback('x') stands inside Hedge(1.0, budget=None, max_threads=9), which"
            " will not see the failures it answers for; list it before the Hedge",
        ),
        (
            (Timeout(1), hedge(1)),
            "Timeout(1.0) ends every call before Hedge(1.0, budget=None,"
            " max_threads=9) would start a hedge",
        ),
        (
            (Bulkhead(1), hedge(1)),
            "Bulkhead(1) stands outside Hedge(1.0, budget=None, max_threads=9): it"
            " counts one call where several attempts run; list it after the Hedge",
        ),
        (
            (AdaptiveConcurrency(), hedge(1)),
            "AdaptiveConcurrency() stands outside Hedge(1.0, budget=None,"
            " max_threads=9): it counts one call where several attempts run; list"
            " it after the Hedge",
        ),
        (
            (hedge(1), Coalesce()),
            "Coalesce() stands inside Hedge(1.0, budget=None, max_threads=9), whose"
            " attempts would all share one execution; list it before the Hedge",
        ),
        (
            (hedge(1), StaleCache(1, 1)),
            "StaleCache(1.0, 1.0) stands inside Hedge(1.0, budget=None,"
            " max_threads=9), which will not see the failures it answers for; list"
            " it before the Hedge",
        ),
    ],
)
def test_an_order_that_defeats_it_warns(
    policies: tuple[Policy[Any], ...], text: str
) -> None:
    """And names the cure."""
    with pytest.warns(ResilientWarning) as caught:
        Pipeline(*policies)
    assert [text] == [str(warning.message) for warning in caught]


def test_the_order_that_serves_does_not_warn() -> None:
    """As the documentation has it."""
    Pipeline(
        Fallback(None),
        Timeout(10),
        Retry(OSError),
        hedge(1),
        CircuitBreaker(),
        Bulkhead(5),
        Timeout(2),
    )


# -- The storm


def share_answered(seed: int, budget: Any) -> float:
    """The share of calls answered within two seconds, well after a slow spell.

    Five servers with a queue each, 300 calls/s at 60 % of what they can do,
    hedged after what is their 95th percentile; for six seconds all are a third
    slower. A cancelled attempt keeps its place in its queue.
    """
    draw = random.Random(seed)
    ahead = [0.0] * 5
    begun: list[float] = []
    answered: list[float] = []

    async def ask() -> None:
        now, server = clock.now(), draw.randrange(5)
        work = draw.expovariate(100) * (1.3 if 1 <= now < 7 else 1)
        ahead[server] = max(ahead[server], now) + work
        await asyncio.sleep(ahead[server] - now)

    async def call(hedged: Callable[[], Awaitable[None]]) -> None:
        now = clock.now()
        if 10 <= now < 12:
            begun.append(now)
        await hedged()
        if now in begun and clock.now() < now + 2:
            answered.append(now)

    async def main() -> None:
        hedged = Hedge(0.0745, budget=budget)(ask)
        tasks: set[asyncio.Task[None]] = set()
        while clock.now() < 14:
            await asyncio.sleep(draw.expovariate(300))
            task = asyncio.create_task(call(hedged))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()

    virtual_time.run(main)
    return len(answered) / len(begun)


def test_a_budget_ends_the_storm() -> None:
    """Without one, hedges keep up the overload that caused them."""
    assert 0.01 > share_answered(1, None)
    assert 1.0 == share_answered(1, "own")


# -- The errors of the others


def test_others_hang_on_the_end_of_the_chain() -> None:
    """Which stays as it is."""
    error, cause, other = OSError(), KeyError(), ValueError()
    error.__cause__ = cause
    chain_errors(error, [other])
    group = cause.__context__
    assert isinstance(group, ExceptionGroup)
    assert (other,) == group.exceptions
    assert error.__cause__ is cause


def test_an_error_raised_again_and_again_does_not_grow() -> None:
    """It shows the others of the last time."""
    error = OSError()
    for _ in range(3):
        other = ValueError()
        chain_errors(error, [other])
        group = error.__context__
        assert isinstance(group, ExceptionGroup)
        assert (other,) == group.exceptions
        assert group.__context__ is None


def test_errors_never_hang_on_themselves() -> None:
    """Not the same object, not one that came from it, not in a ring."""
    error, other = OSError(), ValueError()
    other.__context__ = error
    chain_errors(error, [error, other])
    assert error.__context__ is None
    error.__context__ = ring = KeyError()
    ring.__context__ = error
    chain_errors(error, [ValueError()])
    assert isinstance(ring.__context__, ExceptionGroup)


def test_an_error_that_refuses_attributes() -> None:
    """Has the others hung on it all the same."""

    @dataclasses.dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    error = FrozenError(1)
    chain_errors(error, [OSError()])
    assert isinstance(error.__context__, ExceptionGroup)


def test_work_that_is_joined_ends_with_the_last() -> None:
    """One alone is itself."""
    seen: list[str] = []
    works = [OngoingWork(), OngoingWork()]
    assert works[0] is merge_work(works[:1])
    merge_work(works).add_release(lambda last: seen.append("all"))
    works[1].finish(None)
    assert [] == seen
    works[0].finish(None)
    assert ["all"] == seen


def test_discarding_joined_work_closes_each() -> None:
    """A thread cannot be closed, and keeps the permits of all till it ends."""
    seen: list[str] = []

    async def close() -> None:
        seen.append("closed")

    thread = OngoingWork()
    whole = merge_work([OngoingWork(close), thread, OngoingWork(close)])
    whole.add_release(lambda last: seen.append("all"))
    with pytest.raises(StopIteration):
        whole.close().send(None)
    assert ["closed", "closed"] == seen
    thread.finish(None)
    assert ["closed", "closed", "all"] == seen


def test_joined_work_that_fails_to_close_keeps_none_open() -> None:
    """The first error is raised when all are closed."""
    seen: list[str] = []

    async def fail() -> None:
        seen.append("failed")
        raise ZeroDivisionError(len(seen))

    whole = merge_work([OngoingWork(fail), OngoingWork(fail)])
    whole.add_release(lambda last: seen.append("all"))
    with pytest.raises(ZeroDivisionError, match="1"):
        whole.close().send(None)
    assert ["failed", "failed", "all"] == seen


def test_closing_joined_work_may_be_given_up() -> None:
    """A coroutine that is closed can wait for nothing more."""
    seen: list[str] = []

    @types.coroutine
    def pause() -> Generator[None]:
        yield

    async def close() -> None:
        seen.append("closing")
        await pause()

    whole = merge_work([OngoingWork(close), OngoingWork(close)])
    closing = whole.close()
    closing.send(None)
    closing.close()
    assert ["closing"] == seen


def test_reset_fills_its_own_budget_only() -> None:
    """A shared one is its owner's affair."""
    shared = RetryBudget(0, 1, 0)
    assert shared.withdraw()
    Hedge(1, budget=shared).reset()
    assert 0.0 == shared.balance
    own = Hedge(1)
    assert own._budget is not None
    assert own._budget.withdraw()
    assert not own.is_pristine()
    own.reset()
    assert own.is_pristine()
