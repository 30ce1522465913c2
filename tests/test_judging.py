"""What judges are asked about, by every policy that has one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.colours import World, in_every_colour
from tests.test_generators import plain_generator

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    CircuitBreaker,
    CircuitState,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    Retry,
    Timeout,
    constant,
)

Judge = Callable[[Outcome], bool]

JUDGING: dict[str, Callable[[Judge], Policy[Any]]] = {
    "AdaptiveConcurrency": lambda judge: AdaptiveConcurrency(on=judge),
    "AdaptiveThrottle": lambda judge: AdaptiveThrottle(on=judge),
    "CircuitBreaker": lambda judge: CircuitBreaker(consecutive_failures=1, on=judge),
    "CircuitBreaker, types too": lambda judge: CircuitBreaker(on=(KeyError, judge)),
    "PerKey": lambda judge: PerKey(lambda key: Retry(on=judge)),
    "Retry": lambda judge: Retry(on=judge, backoff=constant(0)),
    "Retry, types too": lambda judge: Retry(KeyError, on=judge, backoff=constant(0)),
    "classify": lambda judge: Pipeline(Retry(backoff=constant(0)), classify=judge),
    "classify, nested": lambda judge: Pipeline(
        Retry(backoff=constant(0)), Pipeline(CircuitBreaker(), classify=judge)
    ),
}

every_judge = pytest.mark.parametrize("make", JUDGING.values(), ids=JUDGING.keys())


def unasked(outcome: Outcome) -> bool:
    """Judge nothing."""
    raise AssertionError("there is nothing to ask about")


# -- Where there is no value


async def run_block(w: World, policy: Policy[Any]) -> int:
    """Run a block that goes well, in the usages that the policy has."""
    blocks = 0
    if not isinstance(policy, (Retry, PerKey, Pipeline)):
        if w.is_sync:
            with policy.guard(key="k"):
                blocks += 1
        else:
            async with policy.guard(key="k"):
                blocks += 1
    if w.is_sync:
        for attempt in policy.attempts(key="k"):
            with attempt:
                blocks += 1
    else:
        async for attempt in policy.attempts(key="k"):
            async with attempt:
                blocks += 1
        async for attempt in policy.attempts(key="k"):
            with attempt:
                blocks += 1
    return blocks


@every_judge
def test_no_judge_is_asked_about_a_block_that_went_well(
    make: Callable[[Judge], Policy[Any]],
) -> None:
    """It has no value; it runs once, and is a success."""

    @in_every_colour
    async def scenario(w: World) -> None:
        policy = make(unasked)
        once = 0 if isinstance(policy, (Retry, PerKey, Pipeline)) else 1
        assert once + (1 if w.is_sync else 2) == await run_block(w, policy)

    for colour in ("sync", "asyncio", "trio"):
        scenario(colour)


@every_judge
def test_a_judge_is_asked_about_what_a_block_says_or_raises(
    make: Callable[[Judge], Policy[Any]],
) -> None:
    """Its `call.result`, 0 and "" included, and its error."""
    seen: list[object] = []

    def judge(outcome: Outcome) -> bool:
        seen.append(outcome.value if outcome.error is None else outcome.error)
        return False

    for value in (0, "", [], "text"):
        for attempt in make(judge).attempts(key="k"):
            with attempt as call:
                call.result = value
    assert [0, "", [], "text"] == seen
    error = OSError()
    with pytest.raises(OSError):
        for attempt in make(judge).attempts(key="k"):
            with attempt:
                raise error
    assert error is seen[4]


@every_judge
def test_no_judge_is_asked_about_a_stream_without_an_item(
    make: Callable[[Judge], Policy[Any]],
) -> None:
    """Nor about a context manager that gives nothing; both are successes."""

    async def empty() -> AsyncIterator[int]:
        for number in ():
            yield number

    async def nothing() -> AsyncIterator[None]:
        yield

    @in_every_colour
    async def scenario(w: World) -> None:
        from tests.test_lazy_results import managed

        policy = make(unasked)
        if isinstance(policy, PerKey):
            policy = PerKey(policy.factory, key=lambda: "k")
        if w.is_sync:
            assert [] == list(policy(plain_generator(empty))())
        else:
            assert [] == [item async for item in policy(empty)()]
        async with managed(w, policy, nothing)() as value:
            assert value is None

    for colour in ("sync", "asyncio", "trio"):
        scenario(colour)


def test_what_a_generator_returns_without_an_item_is_a_value() -> None:
    """As far as it is one."""
    seen: list[object] = []

    def returns(value: object) -> Any:
        yield from ()
        return value

    policy = CircuitBreaker(on=lambda outcome: bool(seen.append(outcome.value)))
    for value in (7, None):
        assert [] == list(policy(returns)(value))
    assert [7] == seen


@in_every_colour
async def test_on_result_is_not_asked_where_there_is_no_result(w: World) -> None:
    """A stream without an item is no item that will not do."""

    def refuse(value: object) -> bool:
        raise AssertionError("not asked")

    async def empty() -> AsyncIterator[int]:
        for number in ():
            yield number

    policy = Retry(on_result=refuse, backoff=constant(0))
    if w.is_sync:
        assert [] == list(policy(plain_generator(empty))())
    else:
        assert [] == [item async for item in policy(empty)()]


@pytest.mark.parametrize(
    "make",
    [
        lambda retry: retry,
        lambda retry: Pipeline(Timeout(9), retry),
        lambda retry: Pipeline(Pipeline(retry)),
        lambda retry: Pipeline(PerKey(lambda key: retry)),
    ],
    ids=["alone", "in a pipeline", "nested", "per key"],
)
def test_on_result_is_refused_for_blocks(make: Callable[[Any], Policy[Any]]) -> None:
    """They return nothing, and a block that went well would run again."""
    retry = Retry(KeyError, on_result=lambda value: value is None)
    with pytest.raises(TypeError, match="`on_result` judges what a function returns"):
        next(make(retry).attempts(key="k"))


def test_a_guard_that_went_well_opens_no_circuit() -> None:
    """By a predicate of values, which it has none of."""
    breaker = CircuitBreaker(consecutive_failures=1, on=lambda o: o.value is None)
    for _ in range(3):
        with breaker.guard():
            pass
    assert CircuitState.CLOSED is breaker.state
    breaker.call(lambda: None)
    assert CircuitState.OPEN is breaker.state
