"""Retry, in three colours."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour, in_sync
from tests.errors import FrozenError

from resilient import (
    Bulkhead,
    Call,
    CircuitBreaker,
    CircuitOpenError,
    Event,
    Outcome,
    Pipeline,
    Policy,
    RateLimiter,
    RejectedError,
    ResilientWarning,
    RetriesExhausted,
    Retry,
    RetryBudget,
    RetryCancelled,
    RetryScheduled,
    Timeout,
    TimeoutExceededError,
    Verdict,
    constant,
    current_call,
    deadline_after,
    decorrelated,
    delays,
    exponential,
    priority,
)
from resilient._runtimes import clock
from resilient.testing import attempts, virtual_time

NOW = constant(0)


class Flaky:
    """An ``async def`` that works through a list of results, the last for ever."""

    def __init__(self, *results: Any) -> None:
        self.results = results
        self.calls = 0

    @property
    def function(self) -> Callable[[], Any]:
        async def flaky() -> Any:
            result = self.results[min(self.calls, len(self.results) - 1)]
            self.calls += 1
            if isinstance(result, BaseException):
                raise result
            return result

        return flaky


async def failure_of(w: World, policy: Any, flaky: Flaky) -> BaseException:
    """Return what a call under a policy raises."""
    with pytest.raises(BaseException) as caught:
        await w.call(policy, flaky.function)
    return caught.value


def notes_of(error: BaseException) -> list[str]:
    """Return the notes on an error."""
    return getattr(error, "__notes__", [])


# -- What is tried again, and how often


@in_every_colour
async def test_a_failed_call_is_tried_again(w: World) -> None:
    """Two failures and a success are a success, after two waits."""
    flaky = Flaky(OSError("1"), OSError("2"), "ok")
    retry = Retry(OSError, backoff=constant(1.5))
    assert "ok" == await w.call(retry, flaky.function)
    assert 3.0 == w.now()


@in_every_colour
async def test_the_first_attempt_counts(w: World) -> None:
    """`attempts` is the total: three are three calls and two waits."""
    flaky = Flaky(OSError("always"))
    await failure_of(w, Retry(OSError, backoff=constant(1)), flaky)
    assert 3 == flaky.calls
    assert 2.0 == w.now()


@in_every_colour
async def test_a_decorated_function_is_retried(w: World) -> None:
    """The decorator is the same mechanism as the call."""
    flaky = Flaky(OSError(), "ok")
    decorated = w.decorate(Retry(OSError, backoff=NOW), flaky.function)
    assert "ok" == await decorated()


@in_every_colour
async def test_an_error_that_is_not_listed_is_final(w: World) -> None:
    """Only what is named is retried."""
    flaky = Flaky(ValueError("no"))
    error = await failure_of(w, Retry(OSError), flaky)
    assert flaky.results[0] is error
    assert 1 == flaky.calls
    assert ["resilient: 1 attempt in 0 s; stopped: not retryable"] == notes_of(error)


@in_every_colour
async def test_what_is_no_exception_is_never_retried(w: World) -> None:
    """KeyboardInterrupt and its like pass, without a note and without a word."""
    events: list[Event] = []
    retry = Retry(Exception, backoff=NOW)
    retry.subscribe(events.append)
    for kind in (KeyboardInterrupt, SystemExit, GeneratorExit):
        flaky = Flaky(kind())
        # The loops themselves stop at a KeyboardInterrupt in a task.
        if w.is_sync or kind is GeneratorExit:
            error = await failure_of(w, retry, flaky)
            assert flaky.results[0] is error
            assert 1 == flaky.calls
            assert [] == notes_of(error)
    assert [] == events


@in_every_colour
async def test_current_call_tells_the_attempt(w: World) -> None:
    """The function can see which attempt it is, and starts at 1 again."""
    seen: list[int] = []

    async def look() -> None:
        seen.append(current_call().attempt)
        if len(seen) % 3:
            raise OSError

    retry = Retry(OSError, backoff=NOW)
    await w.call(retry, look)
    await w.call(retry, look)
    assert [1, 2, 3, 1, 2, 3] == seen


@in_every_colour
async def test_a_timeout_further_in_is_a_failure_listed_or_not(w: World) -> None:
    """A `TimeoutExceededError` of ours is retried by a Retry on anything."""
    error = TimeoutExceededError("inner", 1.0, 1.5)
    flaky = Flaky(error, "ok")
    assert "ok" == await w.call(Retry(ValueError, backoff=NOW), flaky.function)


@in_every_colour
async def test_a_rejection_is_final_unless_it_is_named(w: World) -> None:
    """Listing a base class by accident, `Exception`, names no rejection."""
    flaky = Flaky(CircuitOpenError("inner"), "ok")
    await failure_of(w, Retry(Exception, backoff=NOW), flaky)
    assert 1 == flaky.calls
    for named in (CircuitOpenError, RejectedError):
        flaky = Flaky(CircuitOpenError("inner"), "ok")
        assert "ok" == await w.call(Retry(named, backoff=NOW), flaky.function)


@in_every_colour
async def test_a_group_is_matched_as_itself_and_by_each_in_it(w: World) -> None:
    """A task group wraps the one error that is listed."""
    for error in (OSError, ExceptionGroup):
        flaky = Flaky(ExceptionGroup("several", [OSError()]), "ok")
        assert "ok" == await w.call(Retry(error, backoff=NOW), flaky.function)
    flaky = Flaky(ExceptionGroup("several", [OSError(), KeyError()]))
    await failure_of(w, Retry(OSError, backoff=NOW), flaky)
    assert 1 == flaky.calls


@in_every_colour
async def test_classify_of_the_pipeline_decides(w: World) -> None:
    """A Retry without types goes by the pipeline's verdict."""
    flaky = Flaky(OSError(), KeyError())
    pipeline = Pipeline(Retry(backoff=NOW), classify=OSError)
    assert flaky.results[1] is await failure_of(w, pipeline, flaky)
    assert 2 == flaky.calls


@in_every_colour
async def test_on_overrides_classify(w: World) -> None:
    """A policy's own condition is asked instead of the pipeline's."""
    flaky = Flaky(OSError(), KeyError())
    pipeline = Pipeline(Retry(KeyError, backoff=NOW), classify=OSError)
    assert flaky.results[0] is await failure_of(w, pipeline, flaky)


@in_every_colour
async def test_on_may_answer_with_verdict_bool_or_seconds(w: World) -> None:
    """All of them are understood, and seconds are waited where they are more."""
    answers: list[Any] = [True, Verdict.FAILURE, 7, 0.0, Verdict.IGNORED]
    seen: list[Outcome] = []

    def on(outcome: Outcome) -> Any:
        seen.append(outcome)
        return answers[len(seen) - 1]

    flaky = Flaky(OSError())
    retry = Retry(on=on, attempts=9, backoff=constant(1))
    await failure_of(w, retry, flaky)
    assert 5 == flaky.calls
    assert 1.0 + 1.0 + 7.0 + 1.0 == w.now()


@in_every_colour
async def test_types_and_a_function_together(w: World) -> None:
    """The function is asked about what the types leave open."""
    flaky = Flaky(OSError(), KeyError("yes"), KeyError("no"))
    retry = Retry(OSError, on=lambda o: "yes" in str(o.error), backoff=NOW)
    assert flaky.results[2] is await failure_of(w, retry, flaky)


@in_every_colour
async def test_pushback_starts_at_a_longer_wait(w: World) -> None:
    """Who asks for less gets a second, not a tenth of it."""
    flaky = Flaky(OSError(), "ok")
    retry = Retry(on=lambda o: Verdict.PUSHBACK if o.error else False)
    retry = retry.with_(backoff=exponential(0.1, jitter="none"))
    assert "ok" == await w.call(retry, flaky.function)
    assert 1.0 == w.now()


# -- Results


@in_every_colour
async def test_a_result_may_be_worth_another_try(w: World) -> None:
    """`on_result` is asked about values, and says what it wants by truth."""
    flaky = Flaky(None, None, "ready")
    retry = Retry(on_result=lambda value: value is None, backoff=constant(2))
    assert "ready" == await w.call(retry, flaky.function)
    assert 4.0 == w.now()


@in_every_colour
async def test_the_last_result_is_returned_all_the_same(w: World) -> None:
    """A value that never gets good is returned, with an event."""
    events: list[Event] = []
    flaky = Flaky("bad")
    retry = Retry(on_result=lambda value: value == "bad", backoff=NOW, name="poll")
    retry.subscribe(events.append)
    assert "bad" == await w.call(retry, flaky.function)
    assert 3 == flaky.calls
    name = events[-1].call
    assert RetriesExhausted("poll", name, 3, 0.0, "attempts", None) == events[-1]
    assert RetryScheduled("poll", name, 1, None, 0.0) == events[0]


@in_every_colour
async def test_on_result_alone_retries_no_error(w: World) -> None:
    """Without `on` no error is named: each is final."""
    flaky = Flaky(OSError())
    retry = Retry(on_result=lambda value: value is None, backoff=NOW)
    assert flaky.results[0] is await failure_of(w, retry, flaky)
    assert 1 == flaky.calls


@in_every_colour
async def test_on_result_leaves_errors_to_classify(w: World) -> None:
    """In a pipeline that classifies, its word on errors holds."""
    flaky = Flaky(OSError(), None, KeyError())
    retry = Retry(on_result=lambda value: value is None, backoff=NOW)
    pipeline = Pipeline(retry, classify=OSError)
    assert flaky.results[2] is await failure_of(w, pipeline, flaky)
    assert 3 == flaky.calls


@in_every_colour
async def test_on_result_may_say_how_long(w: World) -> None:
    """Seconds replace a shorter wait; 0.0 is not False."""
    flaky = Flaky(30, 0.0, "ok")
    retry = Retry(on_result=lambda v: v if v != "ok" else False, backoff=constant(2))
    assert "ok" == await w.call(retry, flaky.function)
    assert 32.0 == w.now()


# -- The user's exception is what the user catches


@in_every_colour
async def test_the_last_error_is_raised_as_it_was(w: World) -> None:
    """Same object, same cause, and one note."""
    cause = KeyError("cause")
    last = OSError("3")
    last.__cause__ = cause
    flaky = Flaky(OSError("1"), OSError("2"), last)
    error = await failure_of(w, Retry(OSError, backoff=constant(1)), flaky)
    assert last is error
    assert cause is error.__cause__
    assert ["resilient: 3 attempts in 2 s; stopped: attempts"] == notes_of(error)


@in_every_colour
async def test_an_older_note_is_replaced(w: World) -> None:
    """An object raised a thousand times has one note of ours, and its own."""
    error = OSError("shared")
    error.add_note("mine")
    retry = Retry(OSError, backoff=NOW, budget=None)
    for _ in range(1000):
        error.__traceback__ = None
        await failure_of(w, retry, Flaky(error))
    expected = ["mine", "resilient: 3 attempts in 0 s; stopped: attempts"]
    assert expected == notes_of(error)


@in_every_colour
async def test_a_function_may_forbid_another_attempt(w: World) -> None:
    """It knows what it has done; no Retry around goes on, and the note says why."""
    calls = 0

    async def charge() -> None:
        nonlocal calls
        calls += 1
        current_call().unrepeatable = "the card was charged"
        raise OSError("no receipt")

    events: list[Event] = []
    retry = Retry(OSError, backoff=NOW)
    retry.subscribe(events.append)
    with pytest.raises(OSError) as caught:
        await w.call(retry, charge)
    assert 1 == calls
    expected = ["resilient: 1 attempt in 0 s; stopped: the card was charged"]
    assert expected == notes_of(caught.value)
    assert ["not repeatable"] == [
        event.reason for event in events if isinstance(event, RetriesExhausted)
    ]


@in_every_colour
async def test_an_error_that_refuses_attributes_is_raised_itself(w: World) -> None:
    """It goes without a note, and is not replaced by its refusal."""
    error = FrozenError(7)
    decorated = w.decorate(Retry(FrozenError, backoff=NOW), Flaky(error).function)
    with pytest.raises(FrozenError) as caught:
        await decorated()
    assert error is caught.value
    assert [] == notes_of(error)
    assert error is await failure_of(w, Retry(FrozenError, backoff=NOW), Flaky(error))


@in_every_colour
async def test_notes_of_any_kind_do_no_harm(w: World) -> None:
    """`__notes__` may be anything; the error is raised nevertheless."""
    error = OSError()
    error.__notes__ = "not a list"  # type: ignore[assignment]
    assert error is await failure_of(w, Retry(OSError, backoff=NOW), Flaky(error))
    assert "not a list" == error.__notes__


# -- Waits


@in_every_colour
async def test_a_function_of_the_attempt_is_a_backoff(w: World) -> None:
    """Any function from the failed attempt's number to seconds will do."""
    asked: list[int] = []

    def backoff(attempt: int) -> float:
        asked.append(attempt)
        return attempt * 10

    await failure_of(w, Retry(OSError, backoff=backoff), Flaky(OSError()))
    assert [1, 2] == asked
    assert 30.0 == w.now()


@in_every_colour
async def test_a_backoff_knows_the_wait_before(w: World) -> None:
    """Decorrelated jitter stays between its base and thrice the last wait."""
    events: list[Any] = []
    retry = Retry(OSError, attempts=30, backoff=decorrelated(1, cap=50), budget=None)
    retry.subscribe(events.append)
    await failure_of(w, retry, Flaky(OSError()))
    waits = [event.delay for event in events if isinstance(event, RetryScheduled)]
    assert 29 == len(waits)
    assert all(1 <= wait <= 50 for wait in waits)
    assert all(b <= 3 * a for a, b in itertools.pairwise(waits))


@in_every_colour
async def test_the_cap_holds_after_jitter(w: World) -> None:
    """No wait is longer than the cap, and attempt 5000 does not overflow."""
    events: list[Any] = []
    backoff = exponential(1, cap=10, jitter=0.25)
    retry = Retry(OSError, attempts=5001, backoff=backoff, budget=None)
    retry.subscribe(events.append)
    await failure_of(w, retry, Flaky(OSError()))
    waits = [event.delay for event in events if isinstance(event, RetryScheduled)]
    assert 5000 == len(waits)
    assert max(waits) <= 10
    assert 7.5 <= min(waits[4:])


@in_every_colour
async def test_a_predicate_or_backoff_that_raises_reaches_the_caller(
    w: World,
) -> None:
    """A bug in them is no outcome: it is not retried, and permits come back."""
    bug = ZeroDivisionError("a bug")

    def broken(_: Any) -> Any:
        raise bug

    bulkhead = Bulkhead(1)
    for retry in (
        Retry(on=broken),
        Retry(OSError, backoff=broken),
        Retry(Exception, on_result=broken),
    ):
        value = "ok" if retry.on_result else OSError()
        flaky = Flaky(value)
        pipeline = Pipeline(retry, bulkhead)
        assert bug is await failure_of(w, pipeline, flaky)
        assert 1 == flaky.calls
        assert 0 == bulkhead.in_use
        assert [] == notes_of(bug)


@in_every_colour
async def test_a_backoff_that_answers_nonsense_is_a_bug(w: World) -> None:
    """NaN, a negative and a word are refused, by name."""
    for nonsense, kind in ((math.nan, ValueError), (-1, ValueError), ("x", TypeError)):
        retry = Retry(OSError, backoff=lambda attempt, n=nonsense: n)
        error = await failure_of(w, retry, Flaky(OSError()))
        assert kind is type(error)
        assert "`backoff`" in str(error)


@in_every_colour
async def test_a_predicate_that_answers_nonsense_is_a_bug(w: World) -> None:
    """None is no answer."""
    error = await failure_of(w, Retry(on=lambda o: None), Flaky(OSError()))  # type: ignore[arg-type,return-value]
    assert TypeError is type(error)
    assert "`on` must answer" in str(error)


@in_every_colour
async def test_retry_after_is_never_shortened(w: World) -> None:
    """What the server asks for replaces the computed wait and its cap."""
    error = CircuitOpenError("inner", 42.0)
    retry = Retry(CircuitOpenError, backoff=exponential(0.1, cap=1))
    assert "ok" == await w.call(retry, Flaky(error, "ok").function)
    assert 42.0 == w.now()


@in_every_colour
async def test_a_retry_after_that_is_too_long_ends_the_call(w: World) -> None:
    """Never capped, never early: it gives up at once, with the wait attached."""
    events: list[Event] = []
    error = CircuitOpenError("inner", 86_400.0)
    retry = Retry(CircuitOpenError, name="r")
    retry.subscribe(events.append)
    flaky = Flaky(error)
    assert error is await failure_of(w, retry, flaky)
    assert 1 == flaky.calls
    assert 0.0 == w.now()
    assert 86_400.0 == error.retry_after
    done = "resilient: 1 attempt in 0 s; stopped: retry_after too long"
    assert [f"{done}; retry in 86400 s"] == notes_of(error)
    assert ["retry_after too long"] == [e.reason for e in events]  # type: ignore[attr-defined]


@in_every_colour
async def test_max_retry_after_is_the_longest_that_is_waited(w: World) -> None:
    """Exactly as long is waited for; `math.inf` waits for anything."""
    for limit in (90, math.inf):
        flaky = Flaky(CircuitOpenError("inner", 90.0), "ok")
        retry = Retry(CircuitOpenError, max_retry_after=limit)
        assert "ok" == await w.call(retry, flaky.function)


# -- Deadlines come first


@in_every_colour
async def test_a_wait_that_would_end_after_the_deadline_is_refused(w: World) -> None:
    """200 ms left and 500 ms to wait: the last real error, now."""
    events: list[Event] = []
    retry = Retry(OSError, backoff=constant(0.5))
    retry.subscribe(events.append)
    flaky = Flaky(OSError())
    with deadline_after(0.2):
        error = await failure_of(w, retry, flaky)
    assert flaky.results[0] is error
    assert 0.0 == w.now()
    assert ["resilient: 1 attempt in 0 s; stopped: deadline"] == notes_of(error)
    assert ["deadline"] == [e.reason for e in events]  # type: ignore[attr-defined]


@in_every_colour
async def test_a_total_timeout_is_a_deadline_for_the_waits(w: World) -> None:
    """Inside a Timeout of 2.5 s, waits of 1 s are made twice, not thrice."""
    flaky = Flaky(OSError())
    pipeline = Pipeline(Timeout(2.5), Retry(OSError, attempts=9, backoff=constant(1)))
    error = await failure_of(w, pipeline, flaky)
    assert flaky.results[0] is error
    assert 3 == flaky.calls
    assert 2.0 == w.now()


@in_every_colour
async def test_a_wait_up_to_the_very_deadline_is_refused(w: World) -> None:
    """At the deadline no time is left to begin in."""
    flaky = Flaky(OSError())
    with deadline_after(1):
        await failure_of(w, Retry(OSError, backoff=constant(1)), flaky)
    assert 1 == flaky.calls


@in_every_colour
async def test_no_attempt_begins_after_a_wait_that_overran(w: World) -> None:
    """A sleep that woke too late leaves no time: the last error is raised."""
    flaky = Flaky(OSError())
    retry = Retry(OSError, backoff=constant(1))

    def oversleep(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            clock.sleep(5)

    retry.subscribe(oversleep)
    with deadline_after(3):
        error = await failure_of(w, retry, flaky)
    assert 1 == flaky.calls
    assert ["resilient: 1 attempt in 6 s; stopped: deadline"] == notes_of(error)


@in_every_colour
async def test_within_counts_from_the_first_attempt(w: World) -> None:
    """It refuses waits that would end after it, and interrupts nothing."""
    calls: list[float] = []

    async def slow() -> None:
        calls.append(w.now())
        await w.sleep(1)
        raise OSError

    retry = Retry(OSError, attempts=None, within=5, backoff=constant(1))
    with pytest.raises(OSError) as caught:
        await w.call(retry, slow)
    assert [0.0, 2.0, 4.0] == calls
    note = "resilient: 3 attempts in 5 s; stopped: deadline"
    assert [note] == notes_of(caught.value)


@in_every_colour
async def test_within_lets_a_wait_end_exactly_at_it(w: World) -> None:
    """Only what would end after it is refused."""
    flaky = Flaky(OSError())
    retry = Retry(OSError, attempts=9, within=2, backoff=constant(1))
    await failure_of(w, retry, flaky)
    assert 3 == flaky.calls


@in_every_colour
async def test_within_infinity_is_for_ever(w: World) -> None:
    """Nothing but success ends it."""
    flaky = Flaky(*[OSError()] * 5000, "ok")
    retry = Retry(
        OSError, attempts=None, within=math.inf, backoff=constant(60), budget=None
    )
    assert "ok" == await w.call(retry, flaky.function)
    assert 5000 * 60.0 == w.now()


# -- Budgets


@in_every_colour
async def test_an_empty_budget_raises_the_original_error(w: World) -> None:
    """It is asked before the sleep; first attempts are never refused."""
    budget = RetryBudget(0, 1, 0)
    retry = Retry(OSError, attempts=9, backoff=constant(5), budget=budget)
    flaky = Flaky(OSError())
    error = await failure_of(w, retry, flaky)
    assert flaky.results[0] is error
    assert 2 == flaky.calls
    assert 5.0 == w.now()
    note = "resilient: 2 attempts in 5 s; stopped: budget exhausted"
    assert [note] == notes_of(error)
    await failure_of(w, retry, flaky)
    assert 3 == flaky.calls
    assert 5.0 == w.now()


@in_every_colour
async def test_each_retry_has_a_budget_of_its_own(w: World) -> None:
    """Ten retries in hand, and what one uses another does not miss."""
    flaky = Flaky(OSError())
    one = Retry(OSError, attempts=50, backoff=NOW)
    other = one.with_()
    for retry in (one, other):
        flaky.calls = 0
        await failure_of(w, retry, flaky)
        assert 11 == flaky.calls


@in_every_colour
async def test_a_shared_budget_is_shared(w: World) -> None:
    """What one Retry uses, the other has to do without."""
    budget = RetryBudget(0, 3, 0)
    for expected in (4, 1):
        flaky = Flaky(OSError())
        retry = Retry(OSError, attempts=50, backoff=NOW, budget=budget)
        await failure_of(w, retry, flaky)
        assert expected == flaky.calls


@in_every_colour
async def test_tests_may_limit_the_attempts(w: World) -> None:
    """`resilient.testing.attempts` bounds every Retry; fewer stay fewer."""
    for own, expected in ((9, 4), (None, 4), (2, 2)):
        flaky = Flaky(OSError())
        retry = Retry(OSError, attempts=own, within=math.inf, backoff=NOW)
        with attempts(4):
            await failure_of(w, retry, flaky)
        assert expected == flaky.calls


@in_every_colour
async def test_no_budget_is_no_bound(w: World) -> None:
    """None: as many as `attempts` says."""
    flaky = Flaky(OSError())
    await failure_of(w, Retry(OSError, attempts=50, backoff=NOW, budget=None), flaky)
    assert 50 == flaky.calls


@in_every_colour
async def test_successes_feed_the_budget(w: World) -> None:
    """A success pays in, a failure does not."""
    budget = RetryBudget(0.5, 2, 0)
    assert budget.withdraw(2)
    retry = Retry(OSError, backoff=NOW, budget=budget)
    await failure_of(w, retry, Flaky(OSError()))
    assert 0.0 == budget.balance
    await w.call(retry, Flaky("ok").function)
    assert 0.5 == budget.balance


@in_every_colour
async def test_batch_never_spends_the_last_of_a_budget(w: World) -> None:
    """It leaves half of it to what matters more."""
    budget = RetryBudget(0, 4, 0)
    retry = Retry(OSError, attempts=99, backoff=NOW, budget=budget)
    for name, left in (("batch", 2.0), ("sheddable", 1.0), ("normal", 0.0)):
        with priority(name):
            error = await failure_of(w, retry, Flaky(OSError()))
        assert left == budget.balance
        assert notes_of(error)[0].endswith("stopped: budget exhausted")


@in_every_colour
async def test_reset_fills_its_own_budget_only(w: World) -> None:
    """A shared one is its owner's affair."""
    shared = RetryBudget(0, 1, 0)
    own, sharing, free = (
        Retry(OSError, attempts=99, backoff=NOW, budget=budget)
        for budget in ("own", shared, None)
    )
    await failure_of(w, own, Flaky(OSError()))
    await failure_of(w, sharing, Flaky(OSError()))
    assert not own.is_pristine()
    assert sharing.is_pristine()
    assert free.is_pristine()
    for retry in (own, sharing, free):
        retry.reset()
    assert own.is_pristine()
    assert 0.0 == shared.balance


# -- Retries do not multiply


@in_every_colour
async def test_retries_in_one_pipeline_do_not_multiply(w: World) -> None:
    """Three by three is three; the inner one's note stays."""
    flaky = Flaky(OSError())
    with pytest.warns(ResilientWarning, match="not retried again"):
        pipeline = Pipeline(
            Retry(OSError, attempts=3, backoff=constant(1)),
            Retry(OSError, attempts=3, backoff=constant(1)),
        )
    error = await failure_of(w, pipeline, flaky)
    assert 3 == flaky.calls
    assert ["resilient: 3 attempts in 2 s; stopped: attempts"] == notes_of(error)


def nested(w: World, depth: int, flaky: Flaky, raised: Callable[..., Any]) -> Any:
    """Return a function with as many Retry layers around `flaky`."""

    async def layer(below: Any) -> Any:
        try:
            return await below()
        except Exception as error:
            raised(error)
            raise

    function: Any = flaky.function
    for _ in range(depth):
        inner = w.decorate(Retry(OSError, backoff=NOW, budget=None), function)

        async def function(inner: Any = inner) -> Any:
            return await layer(inner)

    return function


@in_every_colour
async def test_retries_at_any_depth_do_not_multiply(w: World) -> None:
    """Five layers of three tries are three calls, not 243."""
    flaky = Flaky(OSError())
    function = nested(w, 5, flaky, lambda error: None)
    with pytest.raises(OSError):
        await function()
    assert 3 == flaky.calls


@in_every_colour
async def test_a_given_up_error_is_known_by_what_it_caused(w: World) -> None:
    """As cause, as context, in a group, and deeper: the outer one stops."""

    def by_cause(error: Exception) -> None:
        raise OSError("wrapped") from error

    def by_context(error: Exception) -> None:
        raise OSError("meanwhile")

    def in_group(error: Exception) -> None:
        raise ExceptionGroup("g", [KeyError(), ExceptionGroup("h", [error])])

    def all_at_once(error: Exception) -> None:
        try:
            raise ExceptionGroup("g", [error])
        except ExceptionGroup as group:
            raise OSError("outermost") from group

    for wrap in (by_cause, by_context, in_group, all_at_once):
        for depth in (1, 3):
            flaky = Flaky(OSError())
            function = nested(w, depth, flaky, wrap)
            outer = Retry(OSError, ExceptionGroup, backoff=NOW)
            with pytest.raises((OSError, ExceptionGroup)) as caught:
                await w.call(outer, function)
            assert 3 == flaky.calls
            assert any("retried further in" in n for n in notes_of(caught.value))


@in_every_colour
async def test_nested_says_so(w: World) -> None:
    """`nested=True` multiplies: two by three are six, and counts are its own."""
    events: list[Any] = []
    flaky = Flaky(OSError())
    outer = Retry(OSError, attempts=2, backoff=constant(1), nested=True)
    outer.subscribe(events.append)
    pipeline = Pipeline(outer, Retry(OSError, attempts=3, backoff=NOW))
    await failure_of(w, pipeline, flaky)
    assert 6 == flaky.calls
    assert [1, 2] == [getattr(e, "attempt", 2) for e in events]
    flaky = Flaky(OSError())
    await failure_of(w, outer, Flaky(OSError()))
    with pytest.raises(OSError):
        await w.call(outer, nested(w, 1, flaky, lambda error: None))
    assert 6 == flaky.calls


@in_every_colour
async def test_an_error_of_an_earlier_attempt_is_forgotten(w: World) -> None:
    """One object raised over and over: each round of the inner one is whole."""
    error = OSError("shared")
    flaky = Flaky(error)
    pipeline = Pipeline(
        Retry(OSError, attempts=2, backoff=NOW, nested=True),
        Retry(OSError, attempts=3, backoff=NOW),
    )
    assert error is await failure_of(w, pipeline, flaky)
    assert 6 == flaky.calls


@in_every_colour
async def test_an_error_that_no_retry_gave_up_on_is_retried(w: World) -> None:
    """What the inner one does not list is the outer one's to retry."""
    flaky = Flaky(KeyError())
    inner = w.decorate(Retry(OSError, backoff=NOW), flaky.function)
    with pytest.raises(KeyError) as caught:
        await w.call(Retry(KeyError, backoff=NOW), inner)
    assert 3 == flaky.calls
    assert ["resilient: 3 attempts in 0 s; stopped: attempts"] == notes_of(caught.value)


@in_every_colour
async def test_a_call_remembers_a_few_errors_only(w: World) -> None:
    """A call that lasts as long as its process keeps no list of its failures."""
    seen: list[int] = []

    async def server() -> None:
        for _ in range(20):
            with pytest.raises(OSError):
                await w.call(Retry(OSError, attempts=1), Flaky(OSError()).function)
        seen.append(len(current_call().extras.given_up))

    await w.call(Timeout(99), server)
    assert [8] == seen


# -- Cancellation


@in_async_colours
async def test_cancellation_during_the_wait_has_the_last_failure(w: World) -> None:
    """At once, no further attempt, one event, the failure as context."""
    events: list[Event] = []
    flaky = Flaky(OSError("last"))
    retry = Retry(OSError, backoff=constant(10), name="r")
    retry.subscribe(events.append)
    seen: list[BaseException] = []

    async def body() -> None:
        try:
            await w.call(retry, flaky.function)
        except BaseException as error:
            seen.append(error)
            raise

    if w.colour == "asyncio":
        task = asyncio.create_task(body())
        await asyncio.sleep(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        import trio

        with trio.move_on_after(3):
            await body()
    assert 3.0 == w.now()
    assert 1 == flaky.calls
    assert [flaky.results[0]] == [error.__context__ for error in seen]
    kinds = [RetryScheduled, RetryCancelled]
    assert kinds == [type(event) for event in events]
    assert 1 == events[1].attempt  # type: ignore[attr-defined]


def test_an_interrupted_sync_sleep_has_the_last_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C while it sleeps: no further attempt, the failure as context."""

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    flaky = Flaky(OSError("last"))
    monkeypatch.setattr(clock, "sleep", interrupted)
    function = World("sync").native(flaky.function)
    with pytest.raises(KeyboardInterrupt) as caught:
        Retry(OSError, backoff=constant(1)).call(function)
    assert flaky.results[0] is caught.value.__context__
    assert 1 == flaky.calls


def test_a_context_that_is_there_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What interrupted the sleep may have a history of its own."""

    def interrupted(seconds: float) -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(clock, "sleep", interrupted)
    function = World("sync").native(Flaky(OSError("last")).function)
    with pytest.raises(KeyboardInterrupt) as caught:
        Retry(OSError, backoff=constant(1)).call(function)
    assert isinstance(caught.value.__context__, KeyError)


# -- Events


@in_every_colour
async def test_events_tell_what_was_done(w: World) -> None:
    """Names and numbers of each wait, and of the end."""
    events: list[Event] = []
    retry = Retry(OSError, backoff=delays([1, 2]), name="r")
    retry.subscribe(events.append)
    await failure_of(w, retry, Flaky(OSError("secret")))
    name = events[0].call
    expected = [
        RetryScheduled("r", name, 1, "OSError", 1.0),
        RetryScheduled("r", name, 2, "OSError", 2.0),
        RetriesExhausted("r", name, 3, 3.0, "attempts", "OSError"),
    ]
    assert expected == events
    assert "secret" not in repr(events)


@in_every_colour
async def test_a_success_makes_no_event(w: World) -> None:
    """Nothing was done, nothing is told."""
    events: list[Event] = []
    retry = Retry(OSError)
    retry.subscribe(events.append)
    await w.call(retry, Flaky("ok").function)
    assert [] == events


@in_every_colour
async def test_the_breaker_inside_sees_every_attempt(w: World) -> None:
    """Three attempts are three calls in its window."""
    breaker = CircuitBreaker()
    pipeline = Pipeline(Retry(OSError, backoff=NOW), breaker, classify=OSError)
    await failure_of(w, pipeline, Flaky(OSError()))
    assert 3 == breaker.statistics().calls


# -- Construction


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (lambda: Retry("OSError"), TypeError, "takes exception types"),
        (lambda: Retry(lambda: None), TypeError, "@Retry(SomeError)"),
        (lambda: Retry((OSError,)), TypeError, "types, got (<class"),
        (lambda: Retry(KeyboardInterrupt), TypeError, "subclasses of Exception"),
        (lambda: Retry(OSError, on=3), TypeError, "`on` must be"),
        (lambda: Retry(OSError, attempts=0), ValueError, "`attempts` must be >= 1"),
        (lambda: Retry(OSError, attempts=True), TypeError, "`attempts` must be an int"),
        (lambda: Retry(OSError, attempts=None), ValueError, "within=math.inf"),
        (lambda: Retry(OSError, within=-1), ValueError, "`within` must be >= 0"),
        (lambda: Retry(OSError, within=math.nan), ValueError, "`within`"),
        (lambda: Retry(OSError, backoff=3), TypeError, "`backoff` must be a function"),
        (lambda: Retry(OSError, on_result=True), TypeError, "`on_result` must be"),
        (lambda: Retry(OSError, budget=3), TypeError, "`budget` must be"),
        (lambda: Retry(OSError, max_retry_after=-1), ValueError, "`max_retry_after`"),
    ],
)
def test_bad_arguments_are_refused(
    make: Callable[[], Retry], kind: type[Exception], text: str
) -> None:
    """At construction, naming parameter, rule and value."""
    with pytest.raises(kind) as caught:
        make()
    assert text in str(caught.value)


def test_there_is_no_retrying_everything() -> None:
    """A Retry that nothing tells what to retry is refused, however it is used."""
    with pytest.raises(TypeError, match="no retrying everything"):
        Retry()(lambda: None)
    with pytest.raises(TypeError, match="no retrying everything"):
        Retry().call(lambda: None)
    with pytest.raises(TypeError, match="no retrying everything"):
        Retry().attempts()
    with pytest.raises(TypeError, match="no retrying everything"):
        Pipeline(Timeout(1), Retry())


def test_a_retry_has_no_guard() -> None:
    """A block cannot be run twice by its end."""
    with pytest.raises(TypeError, match=r"attempts\(\)"):
        Retry(OSError).guard()


def test_its_repr_reads_like_the_call_that_made_it() -> None:
    """Only what differs from the default is shown."""
    assert "Retry(OSError)" == repr(Retry(OSError))
    text = "Retry(OSError, KeyError, attempts=5, within=3.0, nested=True)"
    assert text == repr(Retry(OSError, KeyError, attempts=5, within=3, nested=True))


def test_a_changed_copy_keeps_the_rest() -> None:
    """`with_` changes what it is told, types included."""
    budget = RetryBudget()
    retry = Retry(OSError, attempts=5, budget=budget, name="a")
    copy = retry.with_(attempts=2, types=(KeyError,))
    assert "a" == copy.name
    assert (KeyError,) == copy.types
    assert budget is copy.budget


@in_sync
async def test_a_policy_of_ones_own_may_stand_inside(w: World) -> None:
    """Each attempt goes through everything further in."""
    from resilient import Policy

    seen: list[int] = []

    class Spy(Policy):
        async def around(self, proceed: Any, call: Call) -> Outcome:
            seen.append(call.attempt)
            return await proceed(call)  # type: ignore[no-any-return]

    flaky = Flaky(OSError(), "ok")
    await w.call(Pipeline(Retry(OSError, backoff=NOW), Spy()), flaky.function)
    assert [1, 2] == seen


def test_waits_repeat_with_the_seed() -> None:
    """The same seed draws the same jitter, in every colour."""

    def waits(colour: Any, seed: int) -> float:
        async def body(w: World) -> float:
            await failure_of(w, Retry(OSError, attempts=5), Flaky(OSError()))
            return w.now()

        if colour == "sync":
            with virtual_time(seed):
                coroutine = body(World("sync"))
                with pytest.raises(StopIteration) as stop:
                    coroutine.send(None)
                return stop.value.value  # type: ignore[no-any-return]
        return virtual_time.run(body, World(colour), backend=colour, seed=seed)

    assert 1 == len({waits(colour, 7) for colour in ("sync", "asyncio", "trio")})
    assert waits("sync", 7) != waits("sync", 8)


@in_every_colour
async def test_a_wait_that_the_deadline_refuses_leaves_the_last_real_error(
    w: World,
) -> None:
    """The attempt was not made; that there was no time for it is in the note."""
    fails = ValueError("real")

    async def body() -> None:
        raise fails

    pipeline = Pipeline(
        Timeout(3),
        Retry(ValueError, backoff=constant(0)),
        RateLimiter(1, per=10, max_wait=None),
    )
    with pytest.raises(ValueError, match="real") as caught:
        await w.call(pipeline, body)
    assert fails is caught.value
    expected = ["resilient: 1 attempt in 0 s; stopped: deadline"]
    assert expected == caught.value.__notes__


@in_every_colour
async def test_a_rejection_between_attempts_has_the_last_error_as_context(
    w: World,
) -> None:
    """The traceback of the rejection shows the failure before it."""
    fails = ValueError("real")

    async def body() -> None:
        raise fails

    pipeline = Pipeline(
        Retry(ValueError, backoff=constant(0)), CircuitBreaker(consecutive_failures=1)
    )
    with pytest.raises(CircuitOpenError) as caught:
        await w.call(pipeline, body)
    assert fails is caught.value.__context__


@in_sync
async def test_only_successes_feed_the_budget(w: World) -> None:
    """An error is none, also where nothing says to retry on it."""
    budget = RetryBudget(1, 5, 0)
    budget.withdraw(5)
    answers: list[Exception | None] = [KeyError(), OSError(), None]

    def body() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    retry = Retry(ValueError, on_result=lambda value: False, budget=budget)
    for _ in range(2):
        with pytest.raises((KeyError, OSError)):
            retry.call(body)
    assert 0.0 == budget.balance
    retry.call(body)
    assert 1.0 == budget.balance


@in_every_colour
async def test_a_rejection_keeps_the_context_it_has(w: World) -> None:
    """What the function itself was handling says more than the last attempt."""
    handled = KeyError("handled")
    calls: list[None] = []

    async def body() -> None:
        calls.append(None)
        if len(calls) == 1:
            raise ValueError
        try:
            raise handled
        except KeyError:
            raise RejectedError("elsewhere")  # noqa: B904 - the context is meant

    with pytest.raises(RejectedError) as caught:
        await w.call(Retry(ValueError, backoff=constant(0)), body)
    assert handled is caught.value.__context__


@in_every_colour
async def test_a_call_that_is_made_again_further_out_is_retried_again(w: World) -> None:
    """Also where the function raises one and the same error each time."""
    error = OSError("always this one")
    runs = 0

    class Twice(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            (await proceed(call)).discard()
            outcome: Outcome = await proceed(call)
            return outcome

    async def fail() -> None:
        nonlocal runs
        runs += 1
        raise error

    retry = Retry(OSError, attempts=3, backoff=constant(0), budget=None)
    with pytest.raises(OSError, match="always"):
        await w.call(Pipeline(Twice(), retry), fail)

    assert 6 == runs
