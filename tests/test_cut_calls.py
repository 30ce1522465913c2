"""Calls that a limit of ours further out cuts: what those who learn see.

What is inside sees a cancellation. It is no caller's: a call that had at least
half of the limit that cut it is a failure, one that had less is nothing.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour, in_sync

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    AdmissionPolicy,
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    Coalesce,
    Hedge,
    Outcome,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    Timeout,
    TimeoutExceededError,
    Verdict,
    calls,
    constant,
    deadline_after,
    remaining,
)
from resilient._runtimes import clock


class Learner(AdmissionPolicy):
    """A policy of one's own that notes how its calls went."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Verdict | None] = []

    def admit(self, call: Any) -> Any:
        return call

    def settle(self, permit: Any, outcome: Outcome | None) -> None:
        self.seen.append(None if outcome is None else outcome.verdict)


def failures(policy: Policy[Any]) -> int:
    """Return how many failures a policy has learnt of."""
    if isinstance(policy, CircuitBreaker):
        return policy.statistics().failures
    if isinstance(policy, AdaptiveThrottle):
        # NB: of n calls that failed it would reject a share of n / (n + padding).
        share = policy.rejecting
        return round(share / (1 - share) * policy.padding)
    if isinstance(policy, AdaptiveConcurrency):
        return 100 - policy.limit
    assert isinstance(policy, Learner)
    return policy.seen.count(Verdict.FAILURE)


def unasked(outcome: Outcome) -> bool:
    """Judge nothing: it is not asked about a call that was cut."""
    raise AssertionError("no predicate is asked about it")


_SLOWER = AIMD(initial=100, maximum=100, backoff=0.99)
LEARNERS: dict[str, Callable[[], Policy[Any]]] = {
    "breaker": lambda: CircuitBreaker(window=calls(100)),
    "breaker by types": lambda: CircuitBreaker(window=calls(100), on=KeyError),
    "breaker by function": lambda: CircuitBreaker(window=calls(100), on=unasked),
    "slow calls": lambda: CircuitBreaker(
        window=calls(100), slow_call_duration=0.1, slow_call_rate=1.0
    ),
    "throttle": lambda: AdaptiveThrottle(
        window=60, padding=999, minimum_calls=1, probe_interval=None
    ),
    "throttle by function": lambda: AdaptiveThrottle(
        window=60, padding=999, minimum_calls=1, probe_interval=None, on=unasked
    ),
    "adaptive limit": lambda: AdaptiveConcurrency(_SLOWER),
    "adaptive limit by function": lambda: AdaptiveConcurrency(_SLOWER, on=unasked),
    "of one's own": Learner,
}

every_learner = pytest.mark.parametrize("name", LEARNERS)


def hung(w: World) -> Callable[[], Awaitable[None]]:
    """Return a function that never answers."""

    async def hang() -> None:
        await w.sleep(1000)

    return hang


async def cut(w: World, policy: Policy[Any], fn: Any) -> None:
    """Have a limit of a policy cut a call."""
    with pytest.raises(TimeoutExceededError):
        await w.call(policy, fn)


def unwarned(*policies: Policy[Any]) -> Policy[Any]:
    """Return a pipeline whose order defeats itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Pipeline(*policies)


SHAPES: dict[str, Callable[[Policy[Any]], Policy[Any]]] = {
    "outside": lambda learner: Pipeline(Timeout(10), learner),
    "with a retry": lambda learner: Pipeline(Timeout(10), Retry(OSError), learner),
    "nested": lambda learner: Pipeline(Timeout(10), Pipeline(Pipeline(learner))),
    "looser limits between": lambda learner: unwarned(
        Timeout(10), Timeout(60), learner, Timeout(30)
    ),
    "limits further out": lambda learner: Pipeline(Timeout(60), Timeout(10), learner),
    "in a queue": lambda learner: Pipeline(
        Timeout(10), RateLimiter(100, max_wait=1), Bulkhead(1), learner
    ),
    "hedged": lambda learner: Pipeline(Timeout(10), Hedge(9), learner),
    "coalesced": lambda learner: Pipeline(
        Timeout(10), Coalesce(key=lambda: 0), learner
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@every_learner
def test_a_call_that_hangs_until_an_outer_limit_is_a_failure(
    name: str, shape: str
) -> None:
    """Whatever stands between, and however it judges."""

    @in_async_colours
    async def scenario(w: World) -> None:
        learner = LEARNERS[name]()
        await cut(w, SHAPES[shape](learner), hung(w))
        assert 10.0 == w.now()
        assert 1 == failures(learner)

    scenario("asyncio")
    scenario("trio")


@every_learner
def test_the_last_attempt_of_a_long_call_is_not_to_blame(name: str) -> None:
    """The attempts before it failed; it was given 1 s of 10."""

    @in_async_colours
    async def scenario(w: World) -> None:
        learner = LEARNERS[name]()
        began: list[float] = []

        async def slow_to_fail() -> None:
            began.append(w.now())
            await w.sleep(9 if len(began) == 1 else 1000)
            raise KeyError

        retry = Retry(KeyError, backoff=constant(0))
        # NB: outside the learner what is judged by a function would be asked.
        policy = Pipeline(Timeout(10), retry, learner, classify=KeyError)
        if "function" in name:
            began.append(0.0)

            async def first() -> None:
                await w.sleep(9)

            async def scene() -> None:
                await first()
                await w.call(learner, hung(w))

            await cut(w, Timeout(10), scene)
            assert 0 == failures(learner)
            return
        await cut(w, policy, slow_to_fail)
        assert 2 == len(began)
        assert 1 == failures(learner)

    scenario("asyncio")
    scenario("trio")


@pytest.mark.parametrize(
    ("waits", "counted"), [(0.0, 1), (4.9, 1), (5.0, 1), (5.1, 0), (9.9, 0)]
)
@pytest.mark.parametrize("how", ["a queue", "a policy", "a caller"])
def test_half_of_the_limit_is_counted_from_where_the_learner_stands(
    how: str, waits: float, counted: int
) -> None:
    """Waiting in a line, in a policy of one's own, in the code around it."""

    class Waiting(Policy[Any]):
        __slots__ = ()

        async def around(self, proceed: Any, call: Any) -> Any:
            await call.runtime.sleep(waits)
            return await proceed(call)

    @in_async_colours
    async def scenario(w: World) -> None:
        learner = Learner()
        if how == "a queue":
            limiter = RateLimiter(1, per=max(waits, 0.001), max_wait=None)
            limiter.call(lambda: None)
            await cut(w, Pipeline(Timeout(10), limiter, learner), hung(w))
        elif how == "a policy":
            await cut(w, Pipeline(Timeout(10), Waiting(), learner), hung(w))
        else:

            async def caller() -> None:
                await w.sleep(waits)
                await w.call(learner, hung(w))

            await cut(w, Timeout(10), caller)
        assert [Verdict.FAILURE if counted else None] == learner.seen

    scenario("asyncio")
    scenario("trio")


@in_async_colours
async def test_calls_made_inside_are_cut_too(w: World) -> None:
    """Decorated functions that call each other, directly and in tasks."""
    learner, other = Learner(), Learner()
    inner = w.decorate(learner, hung(w))
    sibling = w.decorate(other, hung(w))

    async def outer() -> None:
        await w.gather(inner, sibling)

    await cut(w, Timeout(10), outer)
    assert [Verdict.FAILURE] == learner.seen == other.seen


@in_async_colours
async def test_a_block_that_is_cut_is_a_failure(w: World) -> None:
    """As a call is."""
    learner = Learner()
    with pytest.raises(TimeoutExceededError):
        async with Pipeline(Timeout(10), learner).guard():
            await w.sleep(1000)
    with pytest.raises(TimeoutExceededError):
        async with Timeout(10).guard():
            async for attempt in Pipeline(Retry(OSError), learner).attempts():
                async with attempt:
                    await w.sleep(1000)
    assert [Verdict.FAILURE] * 2 == learner.seen


@in_async_colours
async def test_a_first_item_that_is_cut_is_a_failure(w: World) -> None:
    """Of a stream the attempt lasts until then."""
    learner = Learner()

    @Pipeline(Timeout(10), learner)
    async def stream() -> Any:
        await w.sleep(1000)
        yield 1

    with pytest.raises(TimeoutExceededError):
        await anext(stream())
    assert [Verdict.FAILURE] == learner.seen


async def cancelled_by_the_caller(w: World, policy: Policy[Any], fn: Any) -> None:
    """Have the caller cancel a call after 6 s."""
    if w.colour == "trio":
        import trio

        with trio.move_on_after(6) as scope:
            await policy.acall(fn)
        assert scope.cancelled_caught
        return
    task = asyncio.create_task(policy.acall(fn))
    await asyncio.sleep(6)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@every_learner
def test_the_caller_s_cancellation_says_nothing(name: str) -> None:
    """Not even where a limit of ours strikes while the call gives way."""

    @in_async_colours
    async def scenario(w: World) -> None:
        learner = LEARNERS[name]()
        await cancelled_by_the_caller(w, Pipeline(Timeout(10), learner), hung(w))

        async def slow_to_leave() -> None:
            try:
                await w.sleep(1000)
            finally:
                await shielded_sleep(w, 3)

        for seconds in (5, 7):
            # Before the caller's cancellation, and after it.
            policy = Pipeline(Timeout(seconds), learner)
            await cancelled_by_the_caller(w, policy, slow_to_leave)
        assert 0 == failures(learner)

    scenario("asyncio")
    scenario("trio")


async def shielded_sleep(w: World, seconds: float) -> None:
    """Sleep to the end, even when cancelled."""
    if w.colour == "trio":
        import trio

        with trio.CancelScope(shield=True):
            await trio.sleep(seconds)
        return
    ending = asyncio.get_running_loop().time() + seconds
    while (left := ending - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            pass


@in_async_colours
async def test_other_code_s_cancellation_says_nothing(w: World) -> None:
    """Of a task inside, by a sibling that failed: no limit had a part in it."""
    learner = Learner()
    inner = w.decorate(learner, hung(w))

    async def fail() -> None:
        await w.sleep(6)
        raise KeyError

    async def outer() -> None:
        if w.colour == "trio":
            import trio

            async with trio.open_nursery() as nursery:
                nursery.start_soon(inner)
                nursery.start_soon(fail)
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(inner())
                group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await w.call(Timeout(10), outer)
    assert [None] == learner.seen


@in_async_colours
async def test_interrupts_say_nothing(w: World) -> None:
    """KeyboardInterrupt while our own limit strikes is no failure."""
    learner = Learner()

    async def stopped() -> None:
        try:
            await w.sleep(1000)
        finally:
            raise KeyboardInterrupt

    with pytest.raises(BaseException) as caught:
        await w.call(Pipeline(Timeout(10), learner), stopped)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert [None] == learner.seen


@in_async_colours
async def test_a_cut_probe_votes_against(w: World) -> None:
    """A dependency that hangs keeps its circuit open."""
    breaker = CircuitBreaker(consecutive_failures=1, open_for=1, half_open_calls=1)
    policy = Pipeline(Timeout(10), breaker)
    for _ in range(3):
        await cut(w, policy, hung(w))
        assert CircuitState.OPEN is breaker.state
        await w.sleep(1)


@in_async_colours
async def test_twenty_hangs_open_a_circuit(w: World) -> None:
    """Then calls are refused at once, which is what a breaker is for."""
    breaker = CircuitBreaker(consecutive_failures=3)
    policy = Pipeline(Timeout(0.03), Retry(ConnectionError), breaker)
    for _ in range(3):
        await cut(w, policy, hung(w))
    assert CircuitState.OPEN is breaker.state


# -- Errors at the limit


@in_every_colour
async def test_an_error_at_the_limit_of_a_late_attempt_says_nothing(w: World) -> None:
    """A client that is told what time is left raises an error of its own then."""
    for waits, verdict in ((1.0, Verdict.FAILURE), (9.0, None)):
        learner = Learner()

        async def ask() -> None:
            await w.sleep(remaining() or 0.0)
            raise ConnectionError("timed out")

        with deadline_after(10):
            await w.sleep(waits)
            with pytest.raises(ConnectionError):
                await w.call(learner, ask)
        assert [verdict] == learner.seen


@in_sync
async def test_an_error_at_the_limit_of_a_timeout_is_the_same(w: World) -> None:
    """Synchronous code is not cut; it ends by what it was told."""
    for waits, verdict in ((1.0, Verdict.FAILURE), (9.0, None)):
        learner = Learner()

        async def ask() -> None:
            await w.sleep(remaining() or 0.0)
            raise ConnectionError("timed out")

        async def caller(waits: float = waits, learner: Learner = learner) -> None:
            await w.sleep(waits)
            await w.call(learner, ask)

        with pytest.raises(ConnectionError):
            await w.call(Timeout(10), caller)
        assert [verdict] == learner.seen


@in_async_colours
async def test_a_limit_further_in_that_was_used_up_is_a_failure(w: World) -> None:
    """It had all the time of its own, whatever was left further out."""
    learner = Learner()
    with deadline_after(10):
        await w.sleep(9.8)
        with pytest.raises(TimeoutExceededError):
            await w.call(Pipeline(learner, Timeout(0.5)), hung(w))
    assert [Verdict.FAILURE] == learner.seen


@pytest.mark.parametrize("waits", [1.0, 9.0])
@pytest.mark.parametrize("name", [name for name in LEARNERS if "function" not in name])
def test_a_thread_that_is_left_at_an_outer_limit_is_counted_by_halves(
    name: str, waits: float
) -> None:
    """As a task that is cut; though a permit may last until the thread ends."""

    @in_sync
    async def scenario(w: World) -> None:
        learner = LEARNERS[name]()
        policy = Pipeline(learner, Timeout(60, abandon=True))
        with deadline_after(10), pytest.raises(TimeoutExceededError) as caught:
            clock.sleep(waits)
            policy.call(lambda: clock.sleep(20))
        assert caught.value.by_deadline
        clock.sleep(20)
        assert (1 if waits < 5 else 0) == failures(learner)

    scenario("sync")
