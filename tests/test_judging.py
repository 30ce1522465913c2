"""What judges are asked about, by every policy that has one."""

from __future__ import annotations

import math
import re
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from tests.colours import World, in_every_colour
from tests.test_generators import plain_generator

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Fallback,
    Hedge,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    ResilientWarning,
    Retry,
    StaleCache,
    Timeout,
    TimeoutExceededError,
    Verdict,
    WarningRaised,
    constant,
)
from resilient._calls import judging
from resilient._calls.outcome import outcome_label
from resilient._events import listeners
from resilient._runtimes import clock
from resilient.testing import virtual_time

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


# -- Groups


def group(*errors: Exception) -> ExceptionGroup[Exception]:
    """Return a group, as a task group raises it."""
    return ExceptionGroup("unhandled errors in a TaskGroup", errors)


OPEN, FULL = CircuitOpenError("c", 3.0), BulkheadFullError("b")
LISTED = ConnectionResetError()
FOREIGN = ValueError()
TIMED_OUT = TimeoutExceededError("t", 1.0, 1.0)

GROUPS: dict[str, tuple[ExceptionGroup[Exception], Verdict, Verdict]] = {
    # A group; what it is to who learns; what it is to who repeats or answers.
    "one": (group(LISTED), Verdict.FAILURE, Verdict.FAILURE),
    "nested": (group(group(group(LISTED))), Verdict.FAILURE, Verdict.FAILURE),
    "timeouts": (group(LISTED, TIMED_OUT), Verdict.FAILURE, Verdict.FAILURE),
    "mixed": (group(LISTED, group(FOREIGN)), Verdict.FAILURE, Verdict.SUCCESS),
    "and a rejection": (group(LISTED, OPEN), Verdict.FAILURE, Verdict.SUCCESS),
    "none": (group(FOREIGN), Verdict.SUCCESS, Verdict.SUCCESS),
    "none, one rejected": (group(FOREIGN, OPEN), Verdict.SUCCESS, Verdict.SUCCESS),
    "rejections": (group(OPEN, group(FULL)), Verdict.IGNORED, Verdict.IGNORED),
}

every_group = pytest.mark.parametrize(
    ("error", "any_of", "each_of"), GROUPS.values(), ids=GROUPS.keys()
)


def raising(error: Exception) -> Callable[[], Any]:
    """Return a function that raises an error, and counts how often."""
    tries: list[int] = []

    def fail() -> Any:
        tries.append(1)
        raise error

    fail.tries = tries  # type: ignore[attr-defined]  # a function has what it is given
    return fail


def failures(policy: Policy[Any]) -> int:
    """Return how many failures a policy has learnt of."""
    if isinstance(policy, CircuitBreaker):
        return policy.statistics().failures
    if isinstance(policy, AdaptiveThrottle):
        return 1 if policy.rejecting else 0
    assert isinstance(policy, AdaptiveConcurrency)
    return 1 if policy.limit < 20 else 0


LEARNING: dict[str, Callable[[Any], Policy[Any]]] = {
    "AdaptiveConcurrency": lambda on: AdaptiveConcurrency(on=on),
    "AdaptiveThrottle": lambda on: AdaptiveThrottle(on=on, minimum_calls=1),
    "CircuitBreaker": lambda on: CircuitBreaker(on=on),
}


@every_group
@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("how", ["on", "on, and a function", "classify"])
def test_a_group_is_a_failure_to_who_learns_if_any_in_it_is(
    how: str,
    name: str,
    error: ExceptionGroup[Exception],
    any_of: Verdict,
    each_of: Verdict,
) -> None:
    """By `on=` or the pipeline's word; nothing but rejections says nothing."""
    listed: Any = ConnectionError
    if "function" in how:
        # NB: the function's word is final, also about rejections.
        listed = (ConnectionError, lambda outcome: outcome.verdict is Verdict.PUSHBACK)
    learner = LEARNING[name](None if how == "classify" else listed)
    policy = Pipeline(learner, classify=listed) if how == "classify" else learner
    with pytest.raises(ExceptionGroup):
        policy.call(raising(error))
    assert (1 if any_of is Verdict.FAILURE else 0) == failures(learner)
    if "function" not in how and isinstance(learner, CircuitBreaker):
        assert (0 if any_of is Verdict.IGNORED else 1) == learner.statistics().calls


REPEATING: dict[str, Callable[[Any], Policy[Any]]] = {
    "Retry": lambda on: Retry(on=on, backoff=constant(0)),
    "Hedge": lambda on: Hedge(60, on=on, max_threads=2, budget=None),
    "Fallback": lambda on: Fallback("instead", on=on),
    "StaleCache": lambda on: StaleCache(0, 60, on=on),
}


def answers(policy: Policy[Any], error: Exception) -> bool:
    """Whether a policy repeats or answers what raises an error."""
    fail: Any = raising(error)
    state = {"error": None}

    def call() -> Any:
        return "kept" if state["error"] is None else fail()

    policy.call(call)
    state["error"] = True  # type: ignore[assignment]
    try:
        return policy.call(call) is not None
    except ExceptionGroup:
        return len(fail.tries) > 1


@every_group
@pytest.mark.parametrize("name", REPEATING)
@pytest.mark.parametrize("how", ["on", "on, and a function", "classify", "nested"])
def test_a_group_is_a_failure_to_who_repeats_if_each_in_it_is(
    how: str,
    name: str,
    error: ExceptionGroup[Exception],
    any_of: Verdict,
    each_of: Verdict,
) -> None:
    """What cannot be mended is in it as well: another try would be for nothing."""
    listed: Any = ConnectionError
    if "function" in how:
        listed = (ConnectionError, lambda outcome: False)
    if how == "classify":
        policy: Policy[Any] = Pipeline(REPEATING[name](None), classify=listed)
    elif how == "nested":
        inner = Pipeline(CircuitBreaker(), classify=(listed, lambda outcome: False))
        policy = Pipeline(REPEATING[name](None), inner)
    else:
        policy = REPEATING[name](listed)
    expected = each_of is Verdict.FAILURE
    if how == "classify" and name in ("Fallback", "StaleCache"):
        # Our own rejections are answered for.
        expected = expected or each_of is Verdict.IGNORED
    assert expected is answers(policy, error)


def test_a_predicate_s_word_about_a_group_is_final_and_asked_for_once() -> None:
    """For who learns and for who repeats."""
    seen: list[Exception | None] = []

    def judge(outcome: Outcome) -> bool:
        seen.append(outcome.error)
        return True

    error = group(FOREIGN, FULL)
    for classify in (judge, (KeyError, judge)):
        seen.clear()
        breaker = CircuitBreaker()
        retry = Retry(attempts=2, backoff=constant(0))
        fail: Any = raising(error)
        with pytest.raises(ExceptionGroup):
            Pipeline(retry, breaker, classify=classify).call(fail)
        assert 2 == len(fail.tries) == breaker.statistics().failures
    assert [error] * 2 == seen


def test_a_group_that_is_listed_itself_is_a_failure() -> None:
    """Whatever is in it."""
    fail: Any = raising(group(FOREIGN, FULL))
    with pytest.raises(ExceptionGroup):
        Retry(ExceptionGroup, backoff=constant(0)).call(fail)
    assert 3 == len(fail.tries)


def test_without_a_word_a_group_is_a_failure_unless_all_were_rejected() -> None:
    """As every exception is, and no rejection."""
    for error, failed in ((group(FOREIGN, OPEN), 1), (group(OPEN, FULL), 0)):
        breaker = CircuitBreaker()
        with pytest.raises(ExceptionGroup):
            breaker.call(raising(error))
        assert failed == breaker.statistics().failures == breaker.statistics().calls
    assert "instead" == Fallback("instead").call(raising(group(OPEN, FULL)))
    assert "rejected" == outcome_label(Outcome(error=group(OPEN, group(FULL))))


def test_rejections_alone_are_remembered_by_no_cache_and_win_no_race() -> None:
    """The function's dependency was not asked."""
    cache = StaleCache(1, 1, negative_ttl=60)
    fail: Any = raising(group(OPEN, FULL))
    for _ in range(2):
        with pytest.raises(ExceptionGroup):
            cache.call(fail)
    assert 2 == len(fail.tries)
    hedge = Hedge(0.001, max_threads=2, budget=None)
    with pytest.raises(ExceptionGroup):
        hedge.call(raising(group(OPEN, FULL)))
    assert 0 == hedge.abandoned


# -- What an error asks for


class BusyError(Exception):
    """An error that says when to come back."""

    def __init__(self, retry_after: object) -> None:
        super().__init__("busy")
        self.retry_after = retry_after


class BrokenError(Exception):
    """One whose answer raises."""

    @property
    def retry_after(self) -> float:
        raise RuntimeError("no connection")


class FrozenError(Exception):
    """One whose number cannot be read."""

    class Number:
        """A number that is none."""

        def __float__(self) -> float:
            raise ArithmeticError

    retry_after = Number()


HINTS: dict[str, tuple[Exception, float | None]] = {
    "int": (BusyError(3), 3.0),
    "float": (BusyError(2.5), 2.5),
    "zero": (BusyError(0), 0.0),
    "timedelta": (BusyError(timedelta(minutes=0.5)), 30.0),
    "decimal": (BusyError(Decimal("1.5")), 1.5),
    "fraction": (BusyError(Fraction(1, 2)), 0.5),
    "group": (group(BusyError(1), group(BusyError(4), OPEN), FOREIGN), 4.0),
    "group of rejections": (group(OPEN, FULL), 3.0),
    "negative": (BusyError(-1), None),
    "negative timedelta": (BusyError(timedelta(-1)), None),
    "nan": (BusyError(math.nan), None),
    "signalling nan": (BusyError(Decimal("sNaN")), None),
    "infinite": (BusyError(math.inf), None),
    "too large": (BusyError(10**400), None),
    "text": (BusyError("3"), None),
    "bool": (BusyError(True), None),
    "none": (BusyError(None), None),
    "complex": (BusyError(1j), None),
    "raises": (BrokenError(), None),
    "no number": (FrozenError(), None),
    "absent": (KeyError(), None),
}


@pytest.mark.parametrize(("error", "hint"), HINTS.values(), ids=HINTS.keys())
def test_an_error_says_when_to_come_back(error: Exception, hint: float | None) -> None:
    """By an attribute; what is no time is ignored."""
    assert hint == Outcome(error=error).retry_after


@pytest.mark.parametrize(("error", "hint"), HINTS.values(), ids=HINTS.keys())
@pytest.mark.parametrize("how", ["types", "on", "classify", "nested"])
def test_a_retry_obeys_what_the_error_says(
    how: str, error: Exception, hint: float | None
) -> None:
    """Whatever made it repeat the call; a longer pause of the backoff is kept."""
    listed = (BusyError, BrokenError, FrozenError, KeyError, ExceptionGroup)

    @in_every_colour
    async def scenario(w: World) -> None:
        backoff = constant(1)
        if how == "types":
            policy: Policy[Any] = Retry(*listed, attempts=2, backoff=backoff)
        elif how == "on":
            policy = Retry(on=lambda outcome: True, attempts=2, backoff=backoff)
        else:
            policy = Pipeline(Retry(attempts=2, backoff=backoff), classify=listed)
            if how == "nested":
                policy = Pipeline(
                    Retry(attempts=2, backoff=backoff),
                    Pipeline(Timeout(9), classify=listed),
                )

        async def fail() -> None:
            raise error

        with pytest.raises(type(error)):
            await w.call(policy, fail)
        assert max(1.0, hint or 0.0) == w.now()

    for colour in ("sync", "asyncio", "trio"):
        scenario(colour)


def test_a_predicate_s_seconds_and_a_wait_too_long_stay_what_they_are() -> None:
    """The predicate's number is the last word; beyond `max_retry_after` it ends."""
    with virtual_time(seed=1):
        retry = Retry(on=lambda outcome: 7, attempts=2, backoff=constant(0))
        with pytest.raises(BusyError):
            retry.call(raising(BusyError(3)))
        assert 7.0 == clock.now()
        fail: Any = raising(BusyError(61))
        with pytest.raises(BusyError) as caught:
            Retry(BusyError, backoff=constant(0)).call(fail)
    assert [1] == fail.tries
    assert "retry in 61 s" in caught.value.__notes__[0]


def test_a_hedge_adds_nothing_to_what_asks_to_be_left_alone() -> None:
    """As after a server's own word."""
    hedge = Hedge(60, max_threads=2, budget=None)
    fail: Any = raising(BusyError(3))
    with pytest.raises(BusyError):
        hedge.call(fail)
    assert [1] == fail.tries


# -- Namesakes


class Foreign:
    """A library with exceptions of its own."""

    class ConnectionError(Exception):
        """Not the builtin one."""

    class ConnectTimeoutError(ConnectionError):
        """Its base has the name."""

    class TimeoutError(Exception):
        """Neither is this."""


def warned_by(policy: Policy[Any], *functions: Callable[[], Any]) -> list[Any]:
    """Return the warnings while functions that raise are called."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for function in functions:
            with suppress(Exception):
                policy.call(function)
    assert {ResilientWarning} >= {warning.category for warning in caught}
    return caught


LISTING: dict[str, Callable[[Any], Policy[Any]]] = {
    "Retry": lambda on: Retry(*on, backoff=constant(0)),
    "Retry(on=)": lambda on: Retry(on=on, backoff=constant(0)),
    "CircuitBreaker": lambda on: CircuitBreaker(on=on),
    "AdaptiveThrottle": lambda on: AdaptiveThrottle(on=on),
    "AdaptiveConcurrency": lambda on: AdaptiveConcurrency(on=on),
    "Fallback": lambda on: Fallback(None, on=on),
    "StaleCache": lambda on: StaleCache(0, 60, on=on),
    "Hedge": lambda on: Hedge(60, on=on, max_threads=2),
    "PerKey": lambda on: PerKey(lambda key: Retry(*on), key=lambda: 0),
    "classify": lambda on: Pipeline(Retry(backoff=constant(0)), classify=on),
}

every_list = pytest.mark.parametrize("make", LISTING.values(), ids=LISTING.keys())


@every_list
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (Foreign.ConnectionError(), "ConnectionError"),
        (Foreign.ConnectTimeoutError(), "ConnectionError"),
        (group(KeyError(), Foreign.TimeoutError()), "TimeoutError"),
    ],
    ids=["itself", "its base", "in a group"],
)
def test_an_error_whose_name_is_listed_and_whose_class_is_not_is_warned_of(
    make: Callable[[Any], Policy[Any]], error: Exception, name: str
) -> None:
    """Once, naming both; it goes on counting for nothing."""
    text = (
        rf"tests.test_judging.Foreign.{name}, and its `(on|classify)` lists"
        rf" builtins.{name}, another class of that name"
    )
    policy = make((ConnectionError, TimeoutError))
    fail: Any = raising(error)
    caught = warned_by(policy, *[fail] * 3)
    assert 1 == len(caught)
    assert re.search(text, str(caught[0].message))
    # NB: the attempts of a Hedge run in threads of their own.
    assert isinstance(policy, Hedge) or __file__ == caught[0].filename
    assert 3 == len(fail.tries)


def test_each_such_class_is_told_of_once_in_a_process() -> None:
    """Whichever policy meets it."""
    caught: list[Any] = []
    for error in (Foreign.ConnectionError, Foreign.TimeoutError):
        for make in LISTING.values():
            policy = make((ConnectionError, TimeoutError))
            caught += warned_by(policy, raising(error()))
    assert 2 == len(caught)


def test_names_that_never_end_are_told_of_within_bounds() -> None:
    """Classes may be made at run time."""
    policy = CircuitBreaker(on=OSError)
    kinds = [
        type("OSError", (Exception,), {"__qualname__": f"Made{number}"})
        for number in range(judging._MOST_TOLD + 5)
    ]
    caught = warned_by(policy, *[raising(kind()) for kind in kinds])
    assert judging._MOST_TOLD == len(caught)


def test_no_word_is_lost_on_what_is_listed_or_judged() -> None:
    """An error of a listed class, of another name, or that a function takes."""

    class SubError(ConnectionError):
        """Its base is listed."""

    SubError.__name__ = "TimeoutError"
    judged = (ConnectionError, lambda outcome: True)
    for error, on in (
        (SubError(), (ConnectionError, TimeoutError)),
        (KeyError(), (ConnectionError,)),
        (Foreign.ConnectionError(), judged),
    ):
        assert [] == warned_by(CircuitBreaker(on=on), raising(error))
    breaker = CircuitBreaker(on=(ConnectionError, lambda outcome: False))
    assert 1 == len(warned_by(breaker, raising(Foreign.ConnectionError())))


@every_list
def test_where_a_filter_raises_the_warning_the_result_stays(
    make: Callable[[Any], Policy[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """It is an event and a line in the log then, in every colour."""

    @in_every_colour
    async def scenario(w: World) -> None:
        judging._told.clear()
        listeners._logged.clear()
        caplog.clear()
        events: list[Any] = []
        policy = make((ConnectionError,))
        policy.subscribe(events.append)

        async def fail() -> None:
            raise Foreign.ConnectionError

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(Foreign.ConnectionError):
                await w.call(policy, fail)
        (event,) = [event for event in events if isinstance(event, WarningRaised)]
        assert "another class of that name" in event.text
        assert event.call is not None
        assert event.call.endswith("fail")
        lines = [record for record in caplog.records if record.levelname == "WARNING"]
        assert [f"{event.text} (logged once)"] == [line.getMessage() for line in lines]

    for colour in ("sync", "asyncio", "trio"):
        scenario(colour)


def test_a_policy_that_is_gone_warns_of_nothing() -> None:
    """A judge does not keep it alive."""
    policy = CircuitBreaker(on=ConnectionError)
    judge = policy._judge
    gone = weakref.ref(policy)
    del policy
    assert gone() is None
    assert judge is not None
    assert Verdict.SUCCESS is judge(Outcome(error=Foreign.ConnectionError()))
