"""Coalesce: one execution for identical calls, and what becomes of its errors."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.coalesce.callers import Slow, callers, together
from tests.colours import World, in_every_colour
from tests.errors import SingleError

from resilient import (
    Bulkhead,
    CallCoalesced,
    Coalesce,
    Event,
    Pipeline,
    Retry,
    Timeout,
    Verdict,
    constant,
    current_call,
)

# -- One execution


@in_every_colour
async def test_a_call_alone_is_as_without(w: World) -> None:
    """It returns what the function returns, each time anew."""
    coalesce, slow = Coalesce(), Slow(w)
    decorated = w.decorate(coalesce, slow.function)
    assert (1, (5,)) == await decorated(5)
    assert (2, (5,)) == await decorated(5)
    assert (3, ()) == await w.call(coalesce, slow.function)
    assert 0 == coalesce.in_flight
    assert coalesce.is_pristine()


@in_every_colour
async def test_concurrent_identical_calls_share_one_execution(w: World) -> None:
    """A call that comes while it runs gets its result, when it ends."""
    coalesce, slow = Coalesce(name="load"), Slow(w)
    events: list[Event] = []
    coalesce.subscribe(events.append)
    results = await together(w, *callers(w, coalesce, slow, 0, 1, 2, 11))
    assert [(1, ()), (1, ()), (1, ()), (2, ())] == results
    name = "Slow.function"
    assert [CallCoalesced("load", name, 2), CallCoalesced("load", name, 3)] == events
    assert coalesce.is_pristine()


@in_every_colour
async def test_other_arguments_are_other_calls(w: World) -> None:
    """Positional and by keyword, and of another type."""
    coalesce, slow = Coalesce(), Slow(w)
    decorated = w.decorate(coalesce, slow.function)
    calls = [
        lambda: decorated(1),
        lambda: decorated(1.0),
        lambda: decorated(True),
        lambda: decorated(a=1),
        lambda: decorated(a=1.0),
        lambda: decorated(1, a=1, b=2),
        lambda: decorated(1, b=2, a=1),
    ]
    await together(w, *calls)
    assert 6 == slow.runs


@in_every_colour
async def test_other_functions_are_other_calls(w: World) -> None:
    """Of the same arguments and of the same name."""
    coalesce, one, other = Coalesce(key=lambda *args: "same"), Slow(w), Slow(w)
    calls = [*callers(w, coalesce, one, 0, 0), *callers(w, coalesce, other, 0, 0)]
    await together(w, *calls)
    assert (1, 1) == (one.runs, other.runs)


@in_every_colour
async def test_a_key_says_which_calls_are_the_same(w: World) -> None:
    """It is asked with the function's own arguments."""
    seen: list[Any] = []

    def key(*args: Any, **kwargs: Any) -> object:
        seen.append((args, kwargs))
        return args[0]["id"]

    coalesce, slow = Coalesce(key=key), Slow(w)
    decorated = w.decorate(coalesce, slow.function)
    first, second = {"id": 1, "trace": 1}, {"id": 1, "trace": 2}
    results = await together(
        w,
        lambda: decorated(first),
        lambda: decorated(second, a=1),
        lambda: decorated({"id": 2}),
    )
    assert 2 == slow.runs
    assert results[0] == results[1]
    assert ((first,), {}) in seen
    assert ((second,), {"a": 1}) in seen


@in_every_colour
async def test_inside_it_is_a_call_like_any_other(w: World) -> None:
    """With its name and arguments, to the function and to policies inside."""
    seen: list[Any] = []
    once = Bulkhead(1)

    async def function(number: int) -> None:
        await w.sleep(1)
        call = current_call()
        seen.append((call.name.rpartition(".")[2], call.args, once.in_use))

    pipeline = Pipeline(Coalesce(), Timeout(5), once)
    decorated = w.decorate(pipeline, function)
    await together(w, lambda: decorated(7), lambda: decorated(7))
    assert [("function", (7,), 1)] == seen
    assert 0 == once.in_use


# -- Errors


@in_every_colour
async def test_an_error_is_the_function_s_own_for_who_is_alone(w: World) -> None:
    """With one frame of ours above it, and no other."""
    slow = Slow(w)
    decorated = w.decorate(Coalesce(), slow.function)
    for _ in range(3):
        slow.error = error = OSError("down")
        with pytest.raises(OSError, match="down") as caught:
            await decorated()
        assert error is caught.value
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if "/resilient/" in f.filename]
        assert 1 == len(ours)
    assert 3 == slow.runs


@in_every_colour
async def test_each_gets_an_error_of_its_own(w: World) -> None:
    """The first what was raised, the others copies: nothing grows together."""
    slow = Slow(w)
    slow.error = error = OSError(5, "down")
    error.add_note("a note")
    results = await together(w, *callers(w, Coalesce(), slow, 0, 1, 2))
    assert 1 == slow.runs
    assert error is results[0]
    assert 3 == len({id(result) for result in results})
    assert ["[Errno 5] down"] * 3 == [str(result) for result in results]
    assert [["a note"]] * 3 == [result.__notes__ for result in results]
    lengths = [len(traceback.extract_tb(result.__traceback__)) for result in results]
    assert lengths[1] == lengths[2]
    for result in results:
        frames = traceback.extract_tb(result.__traceback__)
        assert "function" == frames[-1].name
        assert 1 == sum("/resilient/" in f.filename for f in frames)


@in_every_colour
async def test_an_error_that_cannot_be_copied_is_shared(w: World) -> None:
    """Its traceback starts anew for each."""
    slow = Slow(w)
    SingleError.one = None
    slow.error = error = SingleError()
    seen: list[int] = []
    calls = callers(w, Coalesce(), slow, 0, 1, 2)

    def looking(call: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        async def look() -> None:
            try:
                await call()
            except SingleError as caught:
                assert error is caught
                seen.append(len(traceback.extract_tb(caught.__traceback__)))

        return look

    await together(w, *map(looking, calls))
    assert 3 == len(seen)
    assert max(seen) <= 8
    assert 1 == slow.runs


@in_every_colour
async def test_the_verdict_is_shared_too(w: World) -> None:
    """And what the server said of when to come back."""
    slow = Slow(w)
    slow.error = OSError("busy")
    seen: list[Any] = []

    class Looking(Bulkhead):
        def settle(self, permit: Any, outcome: Any) -> None:
            seen.append((outcome.verdict, outcome.retry_after, permit.call.classified))
            super().settle(permit, outcome)

    def classify(outcome: Any) -> Verdict:
        outcome.retry_after = 7.0
        return Verdict.PUSHBACK

    policy = Pipeline(Looking(9), Pipeline(Coalesce(), Timeout(99), classify=classify))
    await together(w, *callers(w, policy, slow, 0, 1))
    assert [(Verdict.PUSHBACK, 7.0, True)] * 2 == seen


@in_every_colour
async def test_what_a_retry_inside_gave_up_on_is_not_retried_outside(w: World) -> None:
    """Neither by the first caller nor by those that share its execution."""
    slow = Slow(w)
    slow.error = OSError("down")
    inner = Pipeline(Coalesce(), Retry(OSError, attempts=2, backoff=constant(1)))
    decorated = w.decorate(inner, slow.function)
    outer = Retry(OSError, backoff=constant(1))

    def calling(after: float) -> Callable[[], Awaitable[Any]]:
        async def call() -> Any:
            await w.sleep(after)
            return await w.call(outer, decorated)

        return call

    results = await together(w, calling(0), calling(1), calling(2))
    assert 2 == slow.runs
    notes = ["resilient: 2 attempts in 21 s; stopped: attempts"]
    assert [notes] * 3 == [result.__notes__ for result in results]


def test_a_stop_iteration_is_an_error_like_any_other() -> None:
    """It ends nothing of ours."""

    def function() -> None:
        raise StopIteration(3)

    with pytest.raises(StopIteration) as caught:
        Coalesce().call(function)
    assert 3 == caught.value.value
