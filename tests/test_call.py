"""Calls and outcomes: the current call, its deadline, its verdict."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import pickle
import re
from datetime import timedelta
from typing import Any

import pytest
from tests.colours import (
    START,
    World,
    in_async_colours,
    in_every_colour,
)

from resilient import (
    Bulkhead,
    Call,
    CircuitOpenError,
    DeadlineExceededError,
    Outcome,
    Pipeline,
    RejectedError,
    Retry,
    Timeout,
    TimeoutExceededError,
    Verdict,
    constant,
    current_call,
    current_deadline,
    deadline_after,
    remaining,
)
from resilient._calls.call import NO_EXTRAS
from resilient._calls.judging import judge_by, verdict_of
from resilient._calls.outcome import OngoingWork
from resilient._errors.chains import error_chain
from resilient._errors.errors import BulkheadFullError

# --- the current call -------------------------------------------------------------


@in_every_colour
async def test_there_is_no_call_outside_one(w: World) -> None:
    """Asking for it is a LookupError; there is no deadline either."""
    with pytest.raises(LookupError, match="no call of a resilient policy"):
        current_call()
    assert current_deadline() is None
    assert remaining() is None


@in_every_colour
async def test_the_function_sees_its_call(w: World) -> None:
    """Its name, arguments and the number of the attempt."""
    seen: list[Any] = []

    async def look(number: int, *, text: str) -> None:
        call = current_call()
        seen.append((call.name, call.args, call.kwargs, call.attempt))
        if len(seen) == 1:
            raise OSError

    look.__qualname__ = "look"
    retry = Retry(OSError, backoff=constant(0))
    await w.call(retry, look, 1, text="a")
    assert [("look", (1,), {"text": "a"}, n) for n in (1, 2)] == seen


@in_every_colour
async def test_the_innermost_call_is_the_current_one(w: World) -> None:
    """And the one around it is, as soon as that has returned."""
    seen: list[Any] = []
    inner, outer = Pipeline(name="inner"), Pipeline(name="outer")

    async def innermost() -> None:
        seen.append(current_call().policy)

    async def middle() -> None:
        await w.call(inner, innermost)
        seen.append(current_call().policy)
        with pytest.raises(KeyError):
            await w.call(inner, fail)
        seen.append(current_call().policy)

    async def fail() -> None:
        raise KeyError

    await w.call(outer, middle)
    assert [inner, outer, outer] == seen
    with pytest.raises(LookupError):
        current_call()


@in_every_colour
async def test_a_deadline_alone_is_no_call(w: World) -> None:
    """`deadline_after` calls nothing: the call around it stays the current one."""
    with deadline_after(1), pytest.raises(LookupError):
        current_call()

    policy = Pipeline()

    async def policy_of() -> Any:
        with deadline_after(1), deadline_after(2):
            return current_call().policy

    assert policy is await w.call(policy, policy_of)


def test_a_call_of_a_function_waits_for_no_turn() -> None:
    """Only requests do, whose server asked for fewer."""
    assert Call.new("call").turn(at_leaf=False) is None


def test_an_ended_call_tells_nothing() -> None:
    """A task that outlives the call it was started from is not in it."""
    seen: list[Any] = []

    async def straggler(ended: asyncio.Event) -> None:
        await ended.wait()
        with pytest.raises(LookupError):
            current_call()
        seen.append((current_deadline(), remaining()))
        seen.append(await Pipeline().acall(depth))
        with deadline_after(5):
            seen.append(remaining() is not None)

    async def depth() -> Any:
        return current_call().enclosing

    async def start(ended: asyncio.Event) -> Any:
        return asyncio.ensure_future(straggler(ended))

    async def main() -> None:
        ended = asyncio.Event()
        task = await Timeout(60).acall(start, ended)
        ended.set()
        await task

    asyncio.run(main())
    assert [(None, None), None, True] == seen


def test_an_ended_call_keeps_nothing() -> None:
    """A reference to an ended call does not keep its arguments alive."""
    calls: list[Call] = []

    def look(secret: str) -> None:
        calls.append(current_call())

    Timeout(5).call(look, "secret")
    [call] = calls
    assert call.ended
    assert ((), None, None) == (call.args, call.kwargs, call.deadline)
    assert (None, ()) == (call.enclosing, call.extras.given_up)
    call.set_cost(tokens=5)


def test_a_call_does_not_show_its_arguments() -> None:
    """They may be secret."""
    assert "<Call 'login', attempt 1>" == repr(Call.new("login", ("secret",)))


def test_settling_reaches_every_booking_of_the_attempt() -> None:
    """Each limiter that took something learns what it really cost."""
    settled: list[Any] = []

    class Booked:
        def correct(self, costs: Any, max_debt: float | None) -> set[str]:
            settled.append(costs)
            return {"tokens"}

    call = Call.new("ask")
    call.set_cost(tokens=1)
    call.own_extras().bookings = {1: Booked(), 2: Booked()}
    call.set_cost(tokens=812)
    assert [{"tokens": 812}, {"tokens": 812}] == settled


def test_a_unit_that_no_limit_counts_is_a_mistake() -> None:
    """What is counted is booked all the same; without limits nothing is."""
    settled: list[Any] = []

    class Booked:
        def correct(self, costs: Any, max_debt: float | None) -> set[str]:
            settled.append(costs)
            return {"tokens"}

    call = Call.new("ask")
    call.set_cost(token=1)
    with pytest.raises(ValueError, match="`tokens` must be >= 0, got -1"):
        call.set_cost(tokens=-1)
    call.own_extras().bookings = {1: Booked()}
    with pytest.raises(ValueError, match="counts `token`; they count tokens"):
        call.set_cost(token=812, tokens=3)
    assert [{"token": 812, "tokens": 3}] == settled


# --- deadlines --------------------------------------------------------------------


@in_every_colour
async def test_a_timeout_is_a_deadline_for_what_is_inside(w: World) -> None:
    """The inner one of two, never later than the outer one."""
    seen: list[Any] = []

    async def look() -> None:
        seen.append(remaining())

    for outer, inner in ((5, 3), (3, 3.5)):
        with deadline_after(outer):
            await w.call(Timeout(inner), look)
            seen.append(remaining())
    assert [3.0, 5.0, 3.0, 3.0] == seen


@in_every_colour
async def test_deadline_after_tells_the_time_that_is_left(w: World) -> None:
    """Counted from the moment the block is entered, at least 0."""
    block = deadline_after(timedelta(seconds=3))
    await w.sleep(1)
    with block:
        assert START + 4.0 == current_deadline()
        await w.sleep(2)
        assert 1.0 == remaining()
        await w.sleep(2)
        assert 0.0 == remaining()
    assert current_deadline() is None


@in_every_colour
async def test_a_deadline_is_for_one_block_at_a_time(w: World) -> None:
    """One after the other is fine; one inside itself would lose a deadline."""
    block = deadline_after(3)
    for _ in range(2):
        with block:
            with pytest.raises(RuntimeError, match="for one block at a time"):
                with block:
                    raise AssertionError("not reached")
            assert 3.0 == remaining()
        assert remaining() is None


@in_every_colour
async def test_the_earlier_deadline_counts(w: World) -> None:
    """An inner block can shorten the time, not lengthen it."""
    with deadline_after(5):
        with deadline_after(10):
            assert 5.0 == remaining()
        with deadline_after(2):
            assert 2.0 == remaining()
        with deadline_after(float("inf")):
            assert 5.0 == remaining()
        assert 5.0 == remaining()
    with deadline_after(float("inf")):
        assert remaining() is None


@in_every_colour
async def test_a_call_after_its_deadline_does_not_begin(w: World) -> None:
    """At the very moment it is too late already."""

    async def never() -> None:
        raise AssertionError("not reached")

    with deadline_after(1):
        await w.sleep(1)
        with pytest.raises(DeadlineExceededError, match=r"had passed 0 s ago") as now:
            await w.call(Pipeline(), never)
        await w.sleep(2)
        with pytest.raises(DeadlineExceededError, match=r"had passed 2 s ago"):
            await w.decorate(Pipeline(), never)()
    assert isinstance(now.value, TimeoutError)


@pytest.mark.parametrize("seconds", [-1, float("nan"), True, "1", None])
def test_a_deadline_needs_a_duration(seconds: Any) -> None:
    """Refused when the block is made."""
    with pytest.raises((TypeError, ValueError), match="`seconds` must be"):
        deadline_after(seconds)


@in_every_colour
async def test_retries_stop_where_the_wait_would_end_after_the_deadline(
    w: World,
) -> None:
    """The last real error is raised at once instead."""

    async def fail() -> None:
        raise OSError("down")

    with deadline_after(5):
        with pytest.raises(OSError, match="down") as caught:
            await w.call(Retry(OSError, attempts=9, backoff=constant(2)), fail)
    assert 4.0 == w.now()
    assert "stopped: deadline" in caught.value.__notes__[0]


# --- the context variable ---------------------------------------------------------


@in_async_colours
async def test_concurrent_calls_do_not_see_each_other(w: World) -> None:
    """Each task has its own current call."""
    first, second = Pipeline(name="first"), Pipeline(name="second")

    async def look() -> Any:
        await w.sleep(1)
        return current_call().policy

    assert [first, second] == await w.gather(
        lambda: first.acall(look), lambda: second.acall(look)
    )


@in_every_colour
async def test_the_variable_is_restored_however_a_call_ends(w: World) -> None:
    """By a value, an error, and unwinding."""

    async def raises(error: BaseException) -> None:
        raise error

    for error in (KeyError(), KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(error)):
            await w.call(Pipeline(Timeout(5)), raises, error)
        with pytest.raises(LookupError):
            current_call()
        assert current_deadline() is None


def test_a_call_closed_in_another_context_is_let_go() -> None:
    """As the collector does with the tasks of a loop that is gone."""

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    pending: Any = None

    async def main() -> None:
        nonlocal pending
        pending = Pipeline(Timeout(5)).acall(hang)
        pending.send(None)

    asyncio.run(main())
    contextvars.Context().run(pending.close)
    with pytest.raises(LookupError):
        current_call()


# --- verdicts ---------------------------------------------------------------------


def test_an_outcome_without_a_judge() -> None:
    """Values are successes, errors failures; rejections are ignored."""
    assert Verdict.SUCCESS is Outcome(1).verdict
    assert Verdict.FAILURE is Outcome(None, OSError()).verdict
    rejected = Outcome(None, CircuitOpenError("c", 3.0))
    assert (Verdict.IGNORED, 3.0) == (rejected.verdict, rejected.retry_after)


def test_an_outcome_does_not_show_what_it_carries() -> None:
    """Values and texts of errors may be secret; types are not."""
    assert "<Outcome success: str>" == repr(Outcome("secret"))
    assert "<Outcome failure: OSError>" == repr(Outcome(None, OSError("secret")))


def test_a_discarded_outcome_carries_nothing() -> None:
    """It is not read again, so it keeps nothing alive."""
    outcome = Outcome("value", OSError())
    outcome.discard()
    assert (None, None) == (outcome.value, outcome.error)


TIMED_OUT = TimeoutExceededError("t", 1.0, 1.0)
ANY = Bulkhead(1)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, Verdict.SUCCESS),
        (OSError(), Verdict.FAILURE),
        (ConnectionError(), Verdict.FAILURE),
        (ValueError(), Verdict.SUCCESS),
        (TIMED_OUT, Verdict.FAILURE),
        (CircuitOpenError("c"), Verdict.FAILURE),
        (BulkheadFullError("b"), Verdict.IGNORED),
        (ExceptionGroup("", [OSError()]), Verdict.FAILURE),
        (ExceptionGroup("", [ValueError()]), Verdict.SUCCESS),
    ],
    ids=repr,
)
def test_types_say_what_is_a_failure(error: Exception | None, verdict: Verdict) -> None:
    """Those listed, timeouts further in, and rejections only by name."""
    judge = judge_by("on", (OSError, CircuitOpenError), None, policy=ANY)
    assert judge is not None
    assert verdict is judge(Outcome(None, error))


def test_a_base_of_rejections_names_them_all() -> None:
    """`RejectedError` listed means every one of them; `Exception` none."""
    named, everything = (
        judge_by("on", RejectedError, policy=ANY),
        judge_by("on", Exception, policy=ANY),
    )
    assert named is not None
    assert everything is not None
    rejected = Outcome(None, BulkheadFullError("b"))
    assert Verdict.FAILURE is named(rejected)
    assert Verdict.IGNORED is everything(rejected)


@pytest.mark.parametrize(
    ("answer", "verdict", "retry_after"),
    [
        (True, Verdict.FAILURE, None),
        (False, Verdict.SUCCESS, None),
        (Verdict.PUSHBACK, Verdict.PUSHBACK, None),
        (2, Verdict.FAILURE, 2.0),
        (0.0, Verdict.FAILURE, 0.0),
    ],
    ids=repr,
)
def test_a_function_answers_in_three_ways(
    answer: Any, verdict: Verdict, retry_after: float | None
) -> None:
    """A verdict, a bool (True: failure), or seconds to wait."""
    judge = judge_by("on", lambda outcome: answer, policy=ANY)
    outcome = Outcome(503)
    assert judge is not None
    assert verdict is judge(outcome)
    assert retry_after == outcome.retry_after


async def _answers(outcome: Outcome) -> bool:
    return True


class _Answers:
    async def __call__(self, outcome: Outcome) -> bool:
        return True


@pytest.mark.parametrize("answer", [None, "yes", float("nan"), -1])
def test_any_other_answer_is_a_bug_in_the_function(answer: Any) -> None:
    """It reaches the caller."""
    with pytest.raises((TypeError, ValueError), match="`on` must"):
        verdict_of("on", answer, Outcome())


def test_an_answer_is_told_by_its_type_alone() -> None:
    """It may be the result of the call, and that may be secret."""
    with pytest.raises(TypeError, match=r"seconds, got str$"):
        verdict_of("on_result", "hunter2", Outcome())


def test_types_and_a_function_together() -> None:
    """The function is asked about what the types leave open, and is final."""
    asked: list[Any] = []

    def not_found(outcome: Outcome) -> bool:
        asked.append(outcome.error or outcome.value)
        return outcome.value == 404

    judge = judge_by("classify", (OSError, not_found), policy=ANY)
    assert judge is not None
    assert Verdict.FAILURE is judge(Outcome(None, OSError()))
    assert Verdict.FAILURE is judge(Outcome(404))
    assert Verdict.SUCCESS is judge(Outcome(200))
    rejected = BulkheadFullError("b")
    assert Verdict.SUCCESS is judge(Outcome(None, rejected))
    assert [404, 200, rejected] == asked


def test_nothing_said_is_no_judge() -> None:
    """Then the judge of the pipeline decides, or the default."""
    assert judge_by("on", None, policy=ANY) is None
    assert judge_by("on", (), None, policy=ANY) is None


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (KeyboardInterrupt, "must list subclasses of Exception, got KeyboardInterrup"),
        ((OSError, 3), "`on` must be exception types or a function of the outcome"),
        ((bool, print), "must list subclasses of Exception, got bool"),
        ((print, repr), "`on` must be one function, got 2"),
        (_answers, "plain function of the outcome, got the coroutine function _ans"),
        (functools.partial(_answers), "plain function of the outcome"),
        (_Answers(), "plain function of the outcome"),
    ],
)
def test_a_condition_is_checked(condition: Any, text: str) -> None:
    """When the policy is made, not when the first call fails."""
    with pytest.raises(TypeError, match=text):
        judge_by("on", condition, policy=ANY)


def test_the_family_of_an_error() -> None:
    """Itself, causes, contexts and members, each once, in circles too."""
    cause, context, member = KeyError("cause"), KeyError("context"), KeyError("member")
    group = ExceptionGroup("group", [member, cause])
    group.__cause__, group.__context__ = cause, context
    cause.__context__ = group
    assert {id(error) for error in (group, cause, context, member)} == {
        id(error) for error in error_chain(group)
    }
    assert 4 == len(list(error_chain(group)))


# --- permits that last ------------------------------------------------------------


def test_held_permits_go_back_once() -> None:
    """At the end, and at once when it is past."""
    held, seen = OngoingWork(), list[Any]()
    outcome = Outcome()
    held.add_release(seen.append)
    held.finish(outcome)
    held.finish(None)
    held.add_release(seen.append)
    assert [outcome, None] == seen


def test_discarding_ends_the_work_before_permits_go_back() -> None:
    """Once; a thread that was left behind has no such end, and keeps them."""
    seen: list[Any] = []

    async def close() -> None:
        seen.append("closed")

    for held in (OngoingWork(close), OngoingWork()):
        held.add_release(seen.append)
        for _ in range(2):
            with pytest.raises(StopIteration):
                held.close().send(None)
    assert ["closed", None] == seen


def test_held_permits_go_back_when_the_work_is_collected() -> None:
    """The object that was to end it has been collected."""
    seen: list[Any] = []
    held = OngoingWork()
    held.add_release(seen.append)
    del held
    gc.collect()
    assert [None] == seen


def test_one_release_that_fails_keeps_no_other_from_running() -> None:
    """The first error is raised when everything has been given back."""
    held, seen = OngoingWork(), list[Any]()

    def fail(outcome: Outcome | None) -> None:
        seen.append("failed")
        raise ZeroDivisionError(len(seen))

    held.add_release(fail)
    held.add_release(seen.append)
    held.add_release(fail)
    with pytest.raises(ZeroDivisionError, match="1"):
        held.finish(None)
    assert ["failed", None, "failed"] == seen
    held.finish(None)
    assert 3 == len(seen)


def test_an_attribute_of_few_calls_can_be_asked_for_on_the_class() -> None:
    """As those do who look for what there is to document."""
    assert vars(Call)["result"] is Call.result
    assert Call.new("x").result is None


def test_what_most_calls_share_cannot_be_written() -> None:
    """A call has extras of its own before anything is kept there."""
    call = Call.new("plain")
    text = "'cut' can be set in a call's `own_extras()` alone"
    with pytest.raises(AttributeError, match=re.escape(text)):
        call.extras.cut = True
    call.key = call.result = call.unrepeatable = None
    assert call.extras is NO_EXTRAS is pickle.loads(pickle.dumps(NO_EXTRAS))
    call.own_extras().cut = True
    assert not NO_EXTRAS.cut


def test_an_end_that_an_interrupt_repeats_is_counted_once() -> None:
    """It has ended before it is counted."""
    policy = Pipeline(name="interrupted")
    policy.call(int)
    call = Call.new("twice", policy=policy)
    call.end(Outcome(None, OSError()))
    call.end()
    assert {("resilient.calls", "failure"): 1} == dict(policy.counters.counts)
