"""Pipeline: order, judgement, names, copies and the order that defeats itself."""

from __future__ import annotations

import functools
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from tests.colours import World, in_every_colour

from resilient import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    Event,
    Fallback,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    ResilientWarning,
    Retry,
    RetryScheduled,
    Timeout,
    TimeoutExceededError,
    Trait,
    Verdict,
    constant,
    current_call,
)
from resilient.testing import off


class Tracer(Policy[Any]):
    """Writes down who came by, and with what verdict."""

    def __init__(self, log: list[Any], mark: str) -> None:
        super().__init__()
        self.log = log
        self.mark = mark

    async def around(self, proceed: Any, call: Any) -> Outcome:
        self.log.append(f"{self.mark}>")
        outcome: Outcome = await proceed(call)
        self.log.append(f"<{self.mark} {outcome.verdict.value}")
        return outcome


# --- order ------------------------------------------------------------------------


@in_every_colour
async def test_the_first_listed_is_the_outermost(w: World) -> None:
    """Nested pipelines stand in the place where they are listed."""
    log: list[Any] = []
    a, b, c, d = (Tracer(log, mark) for mark in "abcd")

    async def work() -> str:
        log.append("work")
        return "done"

    assert "done" == await w.call(Pipeline(a, Pipeline(b, c), d), work)
    back = ["<d success", "<c success", "<b success", "<a success"]
    assert ["a>", "b>", "c>", "d>", "work", *back] == log


@in_every_colour
async def test_a_pipeline_of_nothing_calls_the_function(w: World) -> None:
    """And is a call all the same."""
    policy = Pipeline()

    async def work() -> Any:
        return current_call().policy

    assert policy is await w.call(policy, work)


@in_every_colour
async def test_the_same_policy_in_two_pipelines_shares_its_state(w: World) -> None:
    """Sharing is explicit: the object is the state."""
    breaker = CircuitBreaker(consecutive_failures=1)
    one, other = Pipeline(breaker), Pipeline(Timeout(5), breaker)

    async def fail() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        await w.call(one, fail)
    assert "open" == breaker.state.value
    other.reset()
    assert "closed" == breaker.state.value


def test_a_policy_is_listed_once() -> None:
    """It would take two permits for one call, directly or further in."""
    bulkhead = Bulkhead(2)
    for policies in (
        (bulkhead, bulkhead),
        (bulkhead, Pipeline(bulkhead)),
        (Pipeline(bulkhead), Pipeline(Pipeline(bulkhead))),
    ):
        with pytest.raises(ValueError, match=r"listed once .* Bulkhead\(2\) twice"):
            Pipeline(*policies)


def test_only_policies_are_listed() -> None:
    """A class is not one yet."""
    with pytest.raises(TypeError, match=r"Pipeline takes policies, got .*CircuitBreak"):
        Pipeline(CircuitBreaker)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="Pipeline takes policies, got 3"):
        Pipeline(3)  # type: ignore[arg-type]  # that is the point


# --- judgement --------------------------------------------------------------------


def verdict_on(status: int, verdict: Verdict) -> Callable[[Outcome], Verdict]:
    """Return a function that judges one value so, and all others good."""

    def classify(outcome: Outcome) -> Verdict:
        return verdict if outcome.value == status else Verdict.SUCCESS

    return classify


@in_every_colour
async def test_classify_is_asked_once_for_each_attempt(w: World) -> None:
    """However many policies read the verdict."""
    asked: list[Any] = []
    results = [503, 200]

    def classify(outcome: Outcome) -> bool:
        asked.append(outcome.value)
        return outcome.value == 503

    async def work() -> int:
        return results.pop(0)

    log: list[Any] = []
    policy = Pipeline(
        Tracer(log, "a"),
        Retry(backoff=constant(0)),
        CircuitBreaker(),
        Tracer(log, "b"),
        classify=classify,
    )
    assert 200 == await w.call(policy, work)
    assert [503, 200] == asked
    assert ["a>", "b>", "<b failure", "b>", "<b success", "<a success"] == log


@in_every_colour
async def test_the_innermost_classify_judges(w: World) -> None:
    """An outer pipeline without one goes by its word."""
    log: list[Any] = []
    inner = Pipeline(Tracer(log, "b"), classify=verdict_on(503, Verdict.PUSHBACK))

    async def work() -> int:
        return 503

    await w.call(Pipeline(Tracer(log, "a"), inner), work)
    assert ["a>", "b>", "<b pushback", "<a pushback"] == log


@in_every_colour
async def test_an_outer_classify_judges_for_those_inside_without_one(
    w: World,
) -> None:
    """A pipeline that says nothing is judged by the one around it."""
    log: list[Any] = []
    outer = Pipeline(
        Tracer(log, "a"),
        Pipeline(Tracer(log, "b")),
        classify=verdict_on(503, Verdict.PUSHBACK),
    )

    async def work() -> int:
        return 503

    await w.call(outer, work)
    assert ["a>", "b>", "<b pushback", "<a pushback"] == log


@in_every_colour
async def test_an_outer_classify_judges_anew_at_its_boundary(w: World) -> None:
    """Each pipeline's policies see the verdict of their own."""
    log: list[Any] = []
    inner = Pipeline(Tracer(log, "c"), classify=verdict_on(503, Verdict.FAILURE))
    outer = Pipeline(
        Tracer(log, "a"),
        Pipeline(Tracer(log, "b"), inner),
        classify=verdict_on(503, Verdict.IGNORED),
    )

    async def work() -> int:
        return 503

    await w.call(outer, work)
    assert ["<c failure", "<b failure", "<a ignored"] == log[3:]


@in_every_colour
async def test_a_bug_in_classify_reaches_the_caller(w: World) -> None:
    """It is not retried, counted or replaced, and permits go back."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)
    policy = Pipeline(
        Fallback("instead"),
        Retry(backoff=constant(0)),
        breaker,
        bulkhead,
        classify=lambda outcome: 1 // 0,
    )

    async def work() -> int:
        return 1

    with pytest.raises(ZeroDivisionError):
        await w.call(policy, work)
    assert (0, 0) == (breaker.statistics().calls, bulkhead.in_use)


def test_classify_is_checked() -> None:
    """When the pipeline is built."""
    with pytest.raises(TypeError, match="`classify` must"):
        Pipeline(classify="503")  # type: ignore[arg-type]  # that is the point


# --- orders and numbers that defeat themselves ------------------------------------

DEFEATS: list[tuple[str, Callable[[], Any]]] = [
    (
        r"Bulkhead\(5\) stands outside Retry\(OSError\): its slot is held while the"
        r" retry waits; list it after the Retry",
        lambda: Pipeline(Bulkhead(5), Retry(OSError)),
    ),
    (
        r"Bulkhead\(5\) stands outside Retry\(OSError\)",
        lambda: Pipeline(Pipeline(Bulkhead(5)), Pipeline(Pipeline(Retry(OSError)))),
    ),
    (
        r"Retry\(OSError\) stands inside Retry\(KeyError\), and what it gives up on"
        r" is not retried again; keep one of them",
        lambda: Pipeline(Retry(KeyError), Retry(OSError)),
    ),
    (
        r"Fallback\(1\) stands inside Retry\(OSError\), which will not see the"
        r" failures it answers for; list it before the Retry",
        lambda: Pipeline(Retry(OSError), Fallback(1)),
    ),
    (
        r"Timeout\(5.0\) stands inside Timeout\(2.0\) and can never be reached; the"
        r" outer one has to be the longer",
        lambda: Pipeline(Timeout(2), Timeout(5)),
    ),
    (r"Timeout\(2.0\) stands inside", lambda: Pipeline(Timeout(2.0), Timeout(2))),
]


@pytest.mark.parametrize(
    ("text", "build"), DEFEATS, ids=[str(place) for place in range(len(DEFEATS))]
)
def test_what_defeats_itself_is_said_where_it_was_built(
    text: str, build: Callable[[], Any]
) -> None:
    """The text names the fix, and the warning the caller's line."""
    with pytest.warns(ResilientWarning, match=text) as caught:
        build()
    [warning] = caught
    code = build.__code__
    assert __file__ == warning.filename
    assert warning.lineno in range(code.co_firstlineno, code.co_firstlineno + 2)


def test_a_copy_warns_where_it_was_made() -> None:
    """The warning names the user's line, not one of the library's frames."""
    policy = Pipeline(Timeout(5))
    with pytest.warns(ResilientWarning) as caught:
        policy.with_(policies=(Timeout(1), Timeout(5)))
    assert [__file__] == [warning.filename for warning in caught]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Pipeline(
            Fallback(1),
            Timeout(10),
            Retry(OSError),
            CircuitBreaker(),
            RateLimiter(10),
            Bulkhead(5),
            Timeout(2),
        ),
        lambda: Pipeline(Retry(OSError, nested=True), Retry(KeyError)),
        lambda: Pipeline(Retry(OSError), Fallback(1, on=KeyError)),
        lambda: Pipeline(Timeout(None), Timeout(5)),
        lambda: Pipeline(Timeout(5), Timeout(None)),
    ],
    ids=["good", "nested", "narrow fallback", "outer none", "inner none"],
)
def test_what_makes_sense_is_not_warned_of(build: Callable[[], Any]) -> None:
    """A warning that is wrong teaches to ignore warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build()


def test_what_was_said_is_not_said_again() -> None:
    """A pipeline in another was warned of where it was built."""
    with pytest.warns(ResilientWarning):
        inner = Pipeline(Timeout(2), Timeout(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipeline(Retry(OSError), inner)


@in_every_colour
async def test_an_outer_timeout_ends_what_an_inner_one_retries(w: World) -> None:
    """Attempts time out and are retried; the total limit is final."""
    if w.is_sync:
        return
    policy = Pipeline(
        Timeout(2.5, name="total"),
        Retry(OSError, backoff=constant(0), attempts=9),
        Timeout(1, name="attempt"),
    )
    starts: list[float] = []

    async def hang() -> None:
        starts.append(w.now())
        await w.sleep(60)

    with pytest.raises(TimeoutExceededError) as caught:
        await w.call(policy, hang)
    assert [0.0, 1.0, 2.0] == starts
    assert ("total", 2.5) == (caught.value.policy, w.now())


# --- names, copies, events, reset -------------------------------------------------


@in_every_colour
async def test_a_pipelines_name_is_that_of_its_policies(w: World) -> None:
    """In errors, where they have none of their own."""

    async def work() -> None:
        await w.call(pipeline, work)

    inner: Policy[Any]
    for inner, whole, name in (
        (Bulkhead(1), "pay", "pay"),
        (Bulkhead(1, name="own"), "pay", "own"),
        (Bulkhead(1), None, "work"),
    ):
        pipeline = Pipeline(inner, name=whole)
        with pytest.raises(BulkheadFullError) as caught:
            await w.call(pipeline, work)
        assert name == caught.value.policy


def test_a_repr_reads_like_the_call_that_made_it() -> None:
    """Defaults are left out, places are kept."""

    class Odd(Policy[Any]):
        def __init__(self, first: int = 1, second: int = 2, *, third: Any = 3) -> None:
            super().__init__()
            self.first, self.second, self.third = first, second, third

    def classify(outcome: Outcome) -> bool:
        raise AssertionError("not called")

    assert "Odd()" == repr(Odd())
    assert "Odd(5, 6, third=7)" == repr(Odd(5, 6, third=7))
    assert "Odd(second=6)" == repr(Odd(second=6))
    assert "Odd(True)" == repr(Odd(True))
    assert "Odd(third=(OSError, classify))" == repr(Odd(third=(OSError, classify)))
    assert "Odd(third=('a,b',))" == repr(Odd(third=("a,b",)))
    assert "Pipeline(Timeout(5.0), classify=OSError, name='shop')" == repr(
        Pipeline(Timeout(5), classify=OSError, name="shop")
    )
    secretive = functools.partial(classify, "secret")
    assert "Odd(third=classify)" == repr(Odd(third=secretive))
    assert "Retry(OSError, attempts=5)" == repr(Retry(OSError, attempts=5))


@pytest.mark.parametrize("name", [3, b"shop"])
def test_a_name_is_a_string(name: Any) -> None:
    """It goes into texts and events."""
    with pytest.raises(TypeError, match="`name` must be a string, got"):
        Pipeline(name=name)


def test_with_makes_a_changed_copy_with_fresh_state() -> None:
    """The original keeps its arguments and its state, and so does the copy."""
    breaker = CircuitBreaker(consecutive_failures=1, name="b")
    policy = Pipeline(breaker, Pipeline(Bulkhead(1)), classify=OSError, name="one")
    breaker.force_open()

    copy = policy.with_(name="two")
    assert ("one", "two") == (policy.name, copy.name)
    assert repr(policy).replace("one", "two") == repr(copy)
    assert [False, False] == [
        one is other for one, other in zip(policy.policies, copy.policies, strict=True)
    ]
    assert isinstance(copy.policies[0], CircuitBreaker)
    assert "closed" == copy.policies[0].state.value

    timeout = Timeout(3)
    assert (timeout,) == policy.with_(policies=(timeout,)).policies
    assert "Retry(KeyError, attempts=5)" == repr(
        Retry(OSError, attempts=5).with_(types=(KeyError,))
    )
    with pytest.raises(TypeError, match="colour"):
        policy.with_(colour="red")


@in_every_colour
async def test_a_subscriber_hears_every_policy(w: World) -> None:
    """Until it unsubscribes; doing so twice is fine."""
    events: list[Event] = []
    policy = Pipeline(Retry(OSError, backoff=constant(0)), Pipeline(Bulkhead(1)))
    unsubscribe = policy.subscribe(events.append)

    async def fail() -> None:
        raise OSError("down")

    async def fail_once() -> None:
        with pytest.raises(OSError, match="down"):
            await w.call(policy, fail)

    await fail_once()
    assert 2 == sum(isinstance(event, RetryScheduled) for event in events)
    has_listeners = len(events)
    unsubscribe()
    unsubscribe()
    await fail_once()
    assert has_listeners == len(events)


@in_every_colour
async def test_a_listener_may_be_subscribed_twice(w: World) -> None:
    """Each subscription ends by itself, once."""
    events: list[Event] = []
    retry = Retry(OSError, attempts=1)
    first, _second = retry.subscribe(events.append), retry.subscribe(events.append)

    async def fail() -> None:
        raise OSError("down")

    for expected in (2, 3):
        with pytest.raises(OSError, match="down"):
            await w.call(retry, fail)
        assert expected == len(events)
        first()
        first()


def test_a_listener_is_called() -> None:
    """What cannot be is refused."""
    with pytest.raises(TypeError, match="`listener` must be a plain function"):
        Bulkhead(1).subscribe("print")  # type: ignore[arg-type]  # that is the point


def test_reset_reaches_every_policy() -> None:
    """And `fresh` and `contains` ask every one."""
    breaker, bulkhead = CircuitBreaker(), Bulkhead(1)
    policy = Pipeline(breaker, Pipeline(bulkhead))
    assert policy.is_pristine()
    breaker.force_open()
    assert not policy.is_pristine()
    policy.reset()
    assert policy.is_pristine()
    first, second = policy.children()
    assert (breaker, (bulkhead,)) == (first, second.children())


def test_a_policy_of_no_state_is_always_fresh() -> None:
    """There is nothing to forget, and resetting it does nothing."""
    timeout = Tracer([], "a")
    timeout.reset()
    assert timeout.is_pristine()
    assert () == timeout.children()


def test_a_pipeline_tells_what_its_policies_may_do() -> None:
    """Run the function again, answer in its place, judge."""
    for expected, policy in (
        ((False, False, False), Pipeline(Bulkhead(1))),
        ((True, False, False), Pipeline(Pipeline(Retry(OSError)))),
        ((False, True, False), Pipeline(Fallback(1))),
        ((False, False, True), Pipeline(Pipeline(classify=OSError))),
    ):
        asked = (Trait.RERUNS, Trait.ANSWERS, Trait.JUDGES)
        assert expected == tuple(trait in policy.traits for trait in asked)


@in_every_colour
async def test_switched_off_a_pipeline_does_nothing(w: World) -> None:
    """For the whole process, until the block ends."""
    policy = Pipeline(Fallback("instead"), Retry(OSError, backoff=constant(0)))
    calls: list[int] = []

    async def fail() -> None:
        calls.append(1)
        raise OSError("once")

    with off(), pytest.raises(OSError, match="once"):
        await w.call(policy, fail)
    assert 1 == len(calls)
    assert "instead" == await w.call(policy, fail)


def test_a_pipeline_may_be_made_per_key() -> None:
    """A pipeline is a policy like any other."""
    policy = PerKey(lambda key: Pipeline(Bulkhead(1)), key=lambda number: number)
    assert 3 == policy.call(abs, -3)


class Audited(Pipeline[Any]):
    """A pipeline that writes down who comes by."""

    log: list[str]

    async def around(self, proceed: Any, call: Any) -> Outcome:
        self.log.append(call.name)
        return await super().around(proceed, call)


@in_every_colour
async def test_what_a_subclass_adds_is_there_wherever_it_stands(w: World) -> None:
    """Decorated, called, guarding a block, and inside others."""
    audited = Audited(Bulkhead(3))
    audited.log = []

    async def work() -> int:
        return 7

    for policy in (
        audited,
        Pipeline(audited),
        PerKey(lambda _: audited, key=lambda: 1),
    ):
        assert 7 == await w.call(policy, work)

    assert 3 == len(audited.log)


def test_a_pipeline_keeps_nothing_of_those_that_it_stands_in() -> None:
    """A shared pipeline may outlive the pipelines that contain it."""
    shared: Pipeline[Any] = Pipeline(Timeout(1))
    inner = Bulkhead(3)
    gone = weakref.ref(inner)
    outer = Pipeline(shared, inner)
    assert 7 == outer.call(lambda: 7)

    del outer, inner

    assert gone() is None


# -- What it costs to build one


def effort(build: Callable[[], object]) -> int:
    """Return how many functions are called: the same number each time."""
    called = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal called
        called += 1

    sys.setprofile(count)
    try:
        build()
    finally:
        sys.setprofile(None)
    return called


def nested(depth: int) -> Pipeline:
    """Pipelines inside each other, each with a policy of its own."""
    pipeline = Pipeline(Timeout(1))
    for _ in range(depth):
        pipeline = Pipeline(pipeline, Bulkhead(1))
    return pipeline


def flat(length: int) -> Pipeline:
    """As many policies in one pipeline."""
    return Pipeline(*[Bulkhead(1) for _ in range(length)])


@pytest.mark.parametrize("build", [nested, flat])
def test_building_takes_at_most_the_square_of_its_policies(
    build: Callable[[int], Pipeline],
) -> None:
    """Each is compared with each, once: twice as many take four times as much."""
    small, large = effort(lambda: build(40)), effort(lambda: build(80))
    assert large <= 4.5 * small
    decorated = effort(lambda: build(80)(lambda: None)) - large
    assert decorated <= large
