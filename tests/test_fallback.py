"""Fallback, in three colours."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour, in_sync

import resilient
from resilient import (
    BulkheadFullError,
    Call,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    Event,
    Fallback,
    FallbackUsed,
    Pipeline,
    Retry,
    Timeout,
    TimeoutExceededError,
    Verdict,
    constant,
    deadline_after,
)


def raising(error: BaseException) -> Callable[[], Any]:
    """Make a function that fails."""

    async def fails() -> str:
        raise error

    return fails


async def answers() -> str:
    """Succeed."""
    return "real"


# -- What it answers for


@in_every_colour
async def test_a_success_passes(w: World) -> None:
    """Nothing is replaced where nothing failed."""
    assert "real" == await w.call(Fallback("spare"), answers)


@in_every_colour
async def test_a_failure_is_answered(w: World) -> None:
    """The value takes the place of the error."""
    assert "spare" == await w.call(Fallback("spare"), raising(OSError()))
    decorated = w.decorate(Fallback("spare"), raising(OSError()))
    assert "spare" == await decorated()


@in_every_colour
async def test_none_is_a_value(w: World) -> None:
    """None says None."""
    assert None is await w.call(Fallback(None), raising(OSError()))


@in_every_colour
async def test_our_rejections_and_timeouts_are_answered(w: World) -> None:
    """With or without a `classify` that names something else."""
    for error in (
        CircuitOpenError("x"),
        BulkheadFullError("x"),
        DeadlineExceededError("x"),
        TimeoutExceededError("x", 1.0, 1.0),
    ):
        fallback = Fallback("spare")
        assert "spare" == await w.call(fallback, raising(error))
        pipeline = Pipeline(fallback, classify=OSError)
        assert "spare" == await w.call(pipeline, raising(error))


@in_every_colour
async def test_a_call_that_was_never_made_is_answered(w: World) -> None:
    """An open circuit further in, or a deadline that has passed."""
    breaker = CircuitBreaker()
    breaker.force_open()
    assert "spare" == await w.call(Pipeline(Fallback("spare"), breaker), answers)
    with deadline_after(1):
        await w.sleep(2)
        with pytest.raises(DeadlineExceededError):
            # The edge refuses before any policy is asked.
            await w.call(Fallback("spare"), answers)


@in_every_colour
async def test_what_classify_calls_no_failure_passes(w: World) -> None:
    """The dependency answered: its error is for the caller."""
    pipeline = Pipeline(Fallback("spare"), classify=OSError)
    assert "spare" == await w.call(pipeline, raising(OSError()))
    with pytest.raises(KeyError):
        await w.call(pipeline, raising(KeyError()))


@in_every_colour
async def test_pushback_is_answered_and_ignored_is_not(w: World) -> None:
    """Going by the verdict of the pipeline."""
    for verdict in Verdict:
        pipeline = Pipeline(Fallback("spare"), classify=lambda o, v=verdict: v)
        if verdict in (Verdict.FAILURE, Verdict.PUSHBACK):
            assert "spare" == await w.call(pipeline, raising(OSError()))
        else:
            with pytest.raises(OSError):
                await w.call(pipeline, raising(OSError()))


@in_every_colour
async def test_on_says_what_it_answers_for(w: World) -> None:
    """Types, or a function of the outcome, instead of the default."""
    fallback = Fallback("spare", on=KeyError)
    assert "spare" == await w.call(fallback, raising(KeyError()))
    for other in (OSError(), CircuitOpenError("x")):
        with pytest.raises(type(other)):
            await w.call(fallback, raising(other))
    rejections = Fallback("spare", on=CircuitOpenError)
    assert "spare" == await w.call(rejections, raising(CircuitOpenError("x")))
    results = Fallback("spare", on=lambda outcome: outcome.value == "real")
    assert "spare" == await w.call(results, answers)
    with pytest.raises(OSError):
        await w.call(results, raising(OSError()))
    ignored = Fallback("spare", on=lambda outcome: Verdict.IGNORED)
    with pytest.raises(CircuitOpenError):
        await w.call(ignored, raising(CircuitOpenError("x")))


@in_every_colour
async def test_a_result_that_is_judged_a_failure_is_answered(w: World) -> None:
    """There is no error then, and the function is told so."""
    seen: list[Any] = []

    def spare(error: Any) -> str:
        seen.append(error)
        return "spare"

    fallback = Fallback(function=spare)
    pipeline = Pipeline(fallback, classify=lambda o: o.value == "real")
    events: list[Event] = []
    fallback.subscribe(events.append)
    assert "spare" == await w.call(pipeline, answers)
    assert [None] == seen
    assert [None] == [event.error_type for event in events]  # type: ignore[attr-defined]


@in_every_colour
async def test_a_predicate_that_raises_reaches_the_caller(w: World) -> None:
    """A bug in it is not answered for."""
    with pytest.raises(ZeroDivisionError):
        await w.call(Fallback("spare", on=lambda outcome: 1 / 0), answers)


# -- What it answers with


@in_every_colour
async def test_a_function_is_given_the_error(w: World) -> None:
    """And the call, if it takes two arguments."""
    error = OSError()
    one = Fallback(function=lambda e: [e])
    assert [error] == await w.call(one, raising(error))
    two: Fallback[Any] = Fallback(function=lambda e, call: (e, type(call)))
    assert (error, Call) == await w.call(two, raising(error))
    spread: Fallback[Any] = Fallback(function=lambda *both: both[1].attempt)
    assert 1 == await w.call(spread, raising(error))
    default: Fallback[Any] = Fallback(function=lambda e, word="w": word)
    assert "w" == await w.call(default, raising(error))
    bound: Fallback[Any] = Fallback(function=partial(lambda x, e: (x, e), 1))
    assert (1, error) == await w.call(bound, raising(error))
    builtin: Fallback[Any] = Fallback(function=type)
    assert OSError is await w.call(builtin, raising(error))


@in_async_colours
async def test_a_function_may_be_async(w: World) -> None:
    """It may wait; in an async call."""

    async def spare(error: Exception) -> str:
        await w.sleep(1)
        return "spare"

    assert "spare" == await w.call(Fallback(function=spare), raising(OSError()))
    lazily = Fallback(function=lambda error: spare(error))
    assert "spare" == await w.call(lazily, raising(OSError()))
    assert 2.0 == w.now()


@in_sync
async def test_an_async_function_cannot_answer_for_a_sync_call(w: World) -> None:
    """Refused when decorated; one in disguise, when called."""

    async def spare(error: Exception) -> str:
        return "spare"

    class Spare:
        async def __call__(self, error: Exception) -> str:
            return "spare"

    for function in (spare, Spare(), partial(spare)):
        fallback = Fallback(function=function)
        with pytest.raises(TypeError, match="async fallback"):
            fallback(lambda: None)
        with pytest.raises(TypeError, match="async fallback"):
            Pipeline(Timeout(1), fallback)(lambda: None)
    error = OSError()
    lazily = Fallback(function=lambda error: spare(error))
    with pytest.raises(TypeError, match="returned an awaitable") as caught:
        await w.call(lazily, raising(error))
    assert error is caught.value.__cause__

    class Awaitable:
        def __await__(self) -> Any:
            raise AssertionError  # pragma: no cover

    with pytest.raises(TypeError, match="returned an awaitable"):
        await w.call(Fallback(function=lambda e: Awaitable()), raising(error))


@in_every_colour
async def test_its_own_failure_has_the_original_as_cause(w: World) -> None:
    """Both are there to read; no frame of ours between them."""
    error = OSError()

    def spare(original: Exception) -> str:
        raise KeyError("no spare")

    with pytest.raises(KeyError) as caught:
        await w.call(Fallback(function=spare), raising(error))
    assert error is caught.value.__cause__
    assert "spare" == caught.traceback[-1].name
    library = Path(resilient.__file__).parent
    assert 1 == sum(library in entry.path.parents for entry in caught.traceback)


@in_every_colour
async def test_a_cause_that_it_names_itself_stays(w: World) -> None:
    """`raise … from …` in the function is its own word."""
    named = ValueError()

    def spare(original: Exception) -> str:
        raise KeyError("no spare") from named

    with pytest.raises(KeyError) as caught:
        await w.call(Fallback(function=spare), raising(OSError()))
    assert named is caught.value.__cause__


@in_every_colour
async def test_it_may_raise_the_original_again(w: World) -> None:
    """An error is not its own cause."""
    error = OSError()

    def spare(original: Exception) -> str:
        raise original

    with pytest.raises(OSError) as caught:
        await w.call(Fallback(function=spare), raising(error))
    assert error is caught.value
    assert None is error.__cause__


@in_every_colour
async def test_a_failure_that_refuses_attributes_is_raised_itself(w: World) -> None:
    """The refusal is not raised in its place; its cause is set all the same."""

    @dataclasses.dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    error = OSError()

    def spare(original: Exception) -> str:
        raise FrozenError(7)

    decorated = w.decorate(Fallback(function=spare), raising(error))
    with pytest.raises(FrozenError) as caught:
        await decorated()
    assert error is caught.value.__cause__


@in_async_colours
async def test_a_cancelled_call_is_not_answered(w: World) -> None:
    """Who went away wants no answer."""
    seen: list[Any] = []
    fallback: Fallback[Any] = Fallback(function=seen.append)

    async def slow() -> None:
        await w.sleep(100)

    if w.colour == "asyncio":
        task = asyncio.create_task(w.call(fallback, slow))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        import trio

        with trio.move_on_after(1):
            await w.call(fallback, slow)
    assert [] == seen
    assert 1.0 == w.now()


@in_every_colour
async def test_an_answer_is_no_success_further_in(w: World) -> None:
    """The breaker inside has counted a failure."""
    breaker = CircuitBreaker()
    pipeline = Pipeline(Fallback("spare"), breaker)
    assert "spare" == await w.call(pipeline, raising(OSError()))
    assert 1 == breaker.statistics().failures


@in_every_colour
async def test_it_answers_after_the_last_attempt(w: World) -> None:
    """Outermost, it stands behind everything."""
    calls: list[int] = []

    async def fails() -> str:
        calls.append(1)
        raise OSError

    retry = Retry(OSError, backoff=constant(1))
    assert "spare" == await w.call(Pipeline(Fallback("spare"), retry), fails)
    assert 3 == len(calls)


@in_every_colour
async def test_its_use_is_told(w: World) -> None:
    """The type of the error, and nothing of its text."""
    events: list[Event] = []
    fallback = Fallback("spare", name="f")
    fallback.subscribe(events.append)
    await w.call(fallback, answers)
    assert [] == events
    await w.call(fallback, raising(OSError("secret")))
    assert [FallbackUsed("f", events[0].call, "OSError")] == events


# -- Construction


@pytest.mark.parametrize("value", [[], {}, set(), bytearray()], ids=repr)
def test_a_value_that_all_callers_would_share_is_refused(value: Any) -> None:
    """All callers would see the change that one of them makes."""
    with pytest.raises(TypeError, match="would share"):
        Fallback(value)


@pytest.mark.parametrize("value", [len, functools.partial(print, "x"), int], ids=repr)
def test_a_function_is_no_value(value: Any) -> None:
    """Nor is what makes one: it would be the answer, uncalled."""
    with pytest.raises(TypeError, match="must not be a function or class"):
        Fallback(value)


def test_bad_arguments_are_refused() -> None:
    """At construction."""
    with pytest.raises(TypeError, match="exactly one"):
        Fallback()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="exactly one"):
        Fallback(1, function=print)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="parentheses"):
        Fallback(lambda: None)
    with pytest.raises(TypeError, match="`function` must be a function"):
        Fallback(function=3)  # type: ignore[call-overload]
    for function in (lambda: 1, lambda a, b, c: 1, lambda *, error: 1):
        with pytest.raises(TypeError, match=r"must take \(error\) or \(error, call\)"):
            Fallback(function=function)
    with pytest.raises(TypeError, match="`on` must be"):
        Fallback(1, on=3)  # type: ignore[call-overload]


def test_it_has_no_meaning_for_blocks_and_generators() -> None:
    """A clear TypeError, at once."""
    with pytest.raises(TypeError):
        Fallback(1).guard()
    with pytest.raises(TypeError):
        Fallback(1).attempts()

    def items() -> Any:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        Fallback(1)(items)


def test_its_repr_reads_like_the_call_that_made_it() -> None:
    """Only what was given is shown."""
    assert "Fallback(1)" == repr(Fallback(1))
    assert "Fallback(function=print)" in repr(Fallback(function=print)).replace(
        "<built-in function print>", "print"
    )
    assert 2 == Fallback(1).with_(value=2).value
