"""Orders that defeat themselves: what is warned of, and the damage it does.

Each row of the table is built in the order that warns, and said to be meant;
the damage is what it measures there and not in the order that the warning
asks for.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from tests.colours import World

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Balance,
    Bulkhead,
    Call,
    CircuitBreaker,
    Coalesce,
    Fallback,
    Hedge,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    ResilientWarning,
    Retry,
    RetryScheduled,
    StaleCache,
    TimedOut,
    Timeout,
    Trait,
    constant,
)
from resilient._policy.order import ORDERS, Order, defeats

Damage = Callable[[World, Pipeline[Any]], Awaitable[object]]


def retry(attempts: int = 3) -> Retry:
    """Return a Retry that every order may be tried with."""
    return Retry(OSError, attempts=attempts, backoff=constant(1.0), budget=None)


def hedge(delay: float = 1.0) -> Hedge:
    """Return a Hedge that is never out of budget."""
    return Hedge(delay, budget=None)


class Service:
    """A function that counts its runs, and how many ran at once."""

    def __init__(self, w: World, seconds: float = 0.0, failures: float = 0) -> None:
        self.w = w
        self.seconds = seconds
        self.failures = failures
        self.runs = self.running = self.peak = 0

    async def __call__(self) -> str:
        self.runs += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        run = self.runs
        try:
            await self.w.sleep(self.seconds)
        finally:
            self.running -= 1
        if run <= self.failures:
            raise OSError("down")
        return f"answer {run}"


async def attempt(w: World, pipeline: Pipeline[Any], service: Service) -> object:
    """Call once; return what came back, or the type of what was raised."""
    try:
        return await w.call(pipeline, service.__call__)
    except Exception as error:
        return type(error)


async def slots_in_the_pause(w: World, pipeline: Pipeline[Any]) -> object:
    """Slots that are held while a retry waits."""
    [bulkhead] = [policy for policy in pipeline.policies if hasattr(policy, "in_use")]
    seen: list[int] = []

    def look(event: object) -> None:
        if isinstance(event, RetryScheduled):
            seen.append(bulkhead.in_use)

    pipeline.subscribe(look)
    await attempt(w, pipeline, Service(w, failures=1))
    return seen


async def runs_at_once(w: World, pipeline: Pipeline[Any]) -> object:
    """Runs of the function at the same time, for one call."""
    service = Service(w, seconds=3.0)
    await attempt(w, pipeline, service)
    return service.peak


async def calls_seen(w: World, pipeline: Pipeline[Any]) -> object:
    """Calls in a breaker's window, after three runs of the function."""
    [breaker] = [
        policy for policy in pipeline.policies if isinstance(policy, CircuitBreaker)
    ]
    service = Service(w, failures=9)
    await attempt(w, pipeline, service)
    return service.runs, breaker.statistics().calls


async def hedges_seen(w: World, pipeline: Pipeline[Any]) -> object:
    """The same, where two runs race and the first one fails."""
    [breaker] = [
        policy for policy in pipeline.policies if isinstance(policy, CircuitBreaker)
    ]
    service = Service(w, seconds=3.0, failures=9)
    await attempt(w, pipeline, service)
    return service.runs, breaker.statistics().calls


async def runs_of_a_fast_failure(w: World, pipeline: Pipeline[Any]) -> object:
    """Runs of a function that fails at once."""
    service = Service(w, failures=99)
    await attempt(w, pipeline, service)
    return service.runs


async def runs_of_a_failing_call(w: World, pipeline: Pipeline[Any]) -> object:
    """Runs of a function that takes three seconds and fails."""
    service = Service(w, seconds=3.0, failures=99)
    await attempt(w, pipeline, service)
    return service.runs


async def retries_of_a_failing_call(w: World, pipeline: Pipeline[Any]) -> object:
    """Retries, each of which would be paid from a budget."""
    seen: list[object] = []
    pipeline.subscribe(seen.append)
    await attempt(w, pipeline, Service(w, seconds=3.0, failures=99))
    return [type(event) for event in seen].count(RetryScheduled)


async def answer_after_one_failure(w: World, pipeline: Pipeline[Any]) -> object:
    """The answer of a function that fails once, slowly."""
    return await attempt(w, pipeline, Service(w, seconds=3.0, failures=1))


async def answer_when_it_works_again(w: World, pipeline: Pipeline[Any]) -> object:
    """The second answer of a function that failed the first time."""
    service = Service(w, failures=1)
    await attempt(w, pipeline, service)
    return await attempt(w, pipeline, service)


async def wait_for_a_known_answer(w: World, pipeline: Pipeline[Any]) -> object:
    """Seconds until a call has an answer that a cache knows by then."""
    [cache] = [policy for policy in pipeline.policies if isinstance(policy, StaleCache)]
    service = Service(w, seconds=5.0)
    waited: list[float] = []

    async def ask_later() -> None:
        await w.sleep(1.0)
        service.seconds = 0.0
        await w.call(Pipeline(cache), service.__call__)
        began = w.now()
        await attempt(w, pipeline, service)
        waited.append(w.now() - began)

    await w.gather(lambda: attempt(w, pipeline, service), ask_later)
    return waited


async def failures_told(w: World, pipeline: Pipeline[Any]) -> object:
    """What a breaker knows of a function that failed."""
    [breaker] = [
        policy for policy in pipeline.policies if isinstance(policy, CircuitBreaker)
    ]
    await attempt(w, pipeline, Service(w, failures=1))
    return breaker.statistics().failures


async def inner_limit_reached(w: World, pipeline: Pipeline[Any]) -> object:
    """Whether the innermost limit ever ends a call that hangs."""
    seen: list[object] = []
    pipeline.policies[-1].subscribe(seen.append)
    await attempt(w, pipeline, Service(w, seconds=99.0))
    return [type(event) for event in seen] == [TimedOut]


async def replicas_tried(w: World, pipeline: Pipeline[Any]) -> object:
    """Replicas that are asked for one call that fails."""
    [balance] = [policy for policy in pipeline.policies if isinstance(policy, Balance)]
    asked: set[object] = set()

    async def ask() -> None:
        asked.add(balance.current)
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        await w.call(pipeline, ask)
    return len(asked)


async def latency_after_a_known_answer(w: World, pipeline: Pipeline[Any]) -> object:
    """What is thought of a replica that takes three seconds to answer."""
    [balance] = [policy for policy in pipeline.policies if isinstance(policy, Balance)]
    service = Service(w, seconds=3.0)
    # Its first answer says nothing: it may have been connecting.
    await attempt(w, pipeline, service)
    await w.sleep(61)
    await attempt(w, pipeline, service)
    await attempt(w, pipeline, service)
    return round(balance.endpoints[0].latency or 0, 1)


class Row(NamedTuple):
    """One rule: an order that breaks it, one that does not, and what each does."""

    wrong: Callable[[], list[Policy[Any]]]
    right: Callable[[], list[Policy[Any]]]
    measure: Damage
    damage: object
    without: object


def cache() -> StaleCache:
    """Return a cache of one value."""
    return StaleCache(60, 0, key=lambda: "it")


def kept() -> Coalesce:
    """Return a Coalesce that takes every call for the same."""
    return Coalesce(key=lambda: "it")


ROWS = [
    Row(
        lambda: [Bulkhead(1), retry()],
        lambda: [retry(), Bulkhead(1)],
        slots_in_the_pause,
        [1],
        [0],
    ),
    Row(
        lambda: [Bulkhead(1), hedge()],
        lambda: [hedge(), Bulkhead(1)],
        runs_at_once,
        2,
        1,
    ),
    Row(
        lambda: [CircuitBreaker(), retry()],
        lambda: [retry(), CircuitBreaker()],
        calls_seen,
        (3, 1),
        (3, 3),
    ),
    Row(
        lambda: [CircuitBreaker(), hedge()],
        lambda: [hedge(), CircuitBreaker()],
        hedges_seen,
        (2, 1),
        (2, 2),
    ),
    Row(
        lambda: [RateLimiter(1, per=60), retry()],
        lambda: [retry(), RateLimiter(1, per=60)],
        runs_of_a_fast_failure,
        3,
        1,
    ),
    Row(
        lambda: [retry(2), retry(3)],
        lambda: [retry(6)],
        runs_of_a_failing_call,
        3,
        6,
    ),
    Row(
        lambda: [hedge(), retry(3)],
        lambda: [retry(3), hedge()],
        retries_of_a_failing_call,
        4,
        2,
    ),
    Row(
        lambda: [hedge(), hedge(0.5)],
        lambda: [hedge()],
        runs_at_once,
        4,
        2,
    ),
    Row(
        lambda: [retry(), Fallback("spare")],
        lambda: [Fallback("spare"), retry()],
        answer_after_one_failure,
        "spare",
        "answer 2",
    ),
    Row(
        lambda: [hedge(), kept()],
        lambda: [kept(), hedge()],
        runs_at_once,
        1,
        2,
    ),
    Row(
        lambda: [Balance("a", "b"), retry(2)],
        lambda: [retry(2), Balance("a", "b")],
        replicas_tried,
        1,
        2,
    ),
    Row(
        lambda: [Balance("a"), cache()],
        lambda: [cache(), Balance("a")],
        latency_after_a_known_answer,
        2.7,
        3.0,
    ),
    Row(
        lambda: [cache(), Fallback("spare")],
        lambda: [Fallback("spare"), cache()],
        answer_when_it_works_again,
        "spare",
        "answer 2",
    ),
    Row(
        lambda: [kept(), cache()],
        lambda: [cache(), kept()],
        wait_for_a_known_answer,
        [4.0],
        [0.0],
    ),
    Row(
        lambda: [CircuitBreaker(), Fallback("spare")],
        lambda: [Fallback("spare"), CircuitBreaker()],
        failures_told,
        0,
        1,
    ),
    Row(
        lambda: [Timeout(1), hedge(2)],
        lambda: [Timeout(2.5), hedge(2)],
        runs_at_once,
        1,
        2,
    ),
    Row(
        lambda: [Timeout(1), Timeout(2)],
        lambda: [Timeout(2), Timeout(1)],
        inner_limit_reached,
        False,
        True,
    ),
]


def warned(build: Callable[[], object]) -> list[str]:
    """Return the texts of the warnings about what is built."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    assert {ResilientWarning} >= {warning.category for warning in caught}
    return [str(warning.message) for warning in caught]


def rule(outer: Policy[Any], inner: Policy[Any]) -> Order | None:
    """Return the rule that two policies break, by its text."""
    texts = list(defeats(outer, [inner]))
    for order in ORDERS:
        text = order.text.format(
            outer=repr(outer),
            inner=repr(inner),
            Outer=type(outer).__name__,
            Inner=type(inner).__name__,
        )
        if texts == [text]:
            return order
    return None


def test_every_rule_has_its_row() -> None:
    """And every row its rule: the table here and the one in the library are one."""
    assert list(ORDERS) == [rule(*row.wrong()) for row in ROWS]


@pytest.mark.parametrize("row", ROWS, ids=[str(place) for place in range(len(ROWS))])
def test_an_order_that_warns_does_the_damage(row: Row) -> None:
    """And the order that the warning asks for does not, and is not warned of."""
    [text] = warned(lambda: Pipeline(*row.wrong()))
    meant = Pipeline(*row.wrong(), intended=True)
    assert row.damage == World("asyncio").run(row.measure, meant)
    assert [] == warned(lambda: Pipeline(*row.right()))
    assert row.without == World("asyncio").run(row.measure, Pipeline(*row.right()))
    assert text


@pytest.mark.parametrize("row", ROWS, ids=[str(place) for place in range(len(ROWS))])
def test_it_warns_wherever_two_policies_meet(row: Row) -> None:
    """In one pipeline, in nested ones, and as two decorators of one function."""
    outer, inner = row.wrong()
    expected = warned(lambda: Pipeline(outer, inner))

    async def function() -> None: ...

    decorated = inner(function)
    nested = Pipeline(inner)
    for build in (
        lambda: Pipeline(Pipeline(outer), Pipeline(nested)),
        lambda: outer(decorated),
        lambda: Pipeline(outer)(functools.partial(decorated)),
    ):
        assert expected == warned(build)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Pipeline(CircuitBreaker(), retry(), AdaptiveThrottle()),
        lambda: Pipeline(RateLimiter(9), retry(), RateLimiter(9)),
        lambda: Pipeline(Fallback(1), cache(), kept(), Timeout(9), retry(), hedge()),
        lambda: Pipeline(cache(), kept()),
        lambda: Pipeline(retry(), PerKey(lambda key: CircuitBreaker())),
        lambda: Pipeline(AdaptiveConcurrency(), Fallback(1, on=KeyError)),
        lambda: Pipeline(retry(), Twice()),
        lambda: Pipeline(Balance("eu", "us"), retry(), Balance("a", "b")),
        lambda: Pipeline(Pipeline(Bulkhead(1), retry(), intended=True)),
    ],
    ids=range(9),
)
def test_what_is_excused_does_not_warn(build: Callable[[], object]) -> None:
    """By what stands further in, by numbers, or by what the policy says."""
    assert [] == warned(build)


class Twice(Policy):
    """A policy of a user's, which runs what is inside once more."""

    traits = Trait.RERUNS

    async def around(
        self, proceed: Callable[[Call], Awaitable[Outcome]], call: Call
    ) -> Outcome:
        outcome = await proceed(call)
        return outcome if outcome.error is None else await proceed(call)


def test_policies_of_users_take_part() -> None:
    """By their traits alone."""
    [text] = warned(lambda: Pipeline(Bulkhead(1), Twice()))
    assert text == (
        "Bulkhead(1) stands outside Twice(): its slot is held while the retry"
        " waits; list it after the Twice"
    )


def test_an_intended_pipeline_may_decorate_what_is_decorated() -> None:
    """It says nothing of what is inside, however it got there."""

    def function() -> None: ...

    decorated = retry()(function)
    assert [] == warned(lambda: Pipeline(Bulkhead(1), intended=True)(decorated))
    with pytest.raises(TypeError, match="`intended` must be True or False, got 1"):
        Pipeline(intended=1)  # type: ignore[arg-type]  # that is the point
