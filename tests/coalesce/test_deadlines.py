"""Coalesce: deadlines, context variables, and calls inside calls."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.coalesce.callers import Held, Slow, callers, together
from tests.colours import (
    START,
    World,
    in_async_colours,
    in_every_colour,
    in_sync,
)

from resilient import (
    Coalesce,
    DeadlineExceededError,
    Pipeline,
    RateLimiter,
    Timeout,
    TimeoutExceededError,
    current_call,
    current_deadline,
    deadline_after,
    remaining,
)
from resilient._runtimes import clock
from resilient._runtimes.sync import SYNC

# -- Deadlines


@in_every_colour
async def test_who_has_less_time_leaves_at_its_own_deadline(w: World) -> None:
    """With an error of its own; the execution goes on for the others."""
    coalesce, slow = Coalesce(), Slow(w)
    decorated = w.decorate(coalesce, slow.function)
    left: list[float] = []

    async def patient() -> Any:
        return await decorated()

    async def hurried() -> Any:
        await w.sleep(1)
        try:
            with deadline_after(2):
                return await decorated()
        finally:
            left.append(round(w.now(), 1))

    results = await together(w, patient, hurried, hurried)
    assert (1, ()) == results[0]
    assert [3.0, 3.0] == left
    assert all(isinstance(result, DeadlineExceededError) for result in results[1:])
    assert "Slow.function" == results[1].policy
    assert 1 == slow.runs


@in_async_colours
async def test_the_first_caller_leaves_at_its_deadline_too(w: World) -> None:
    """The execution is not its own."""
    coalesce, slow = Coalesce(), Slow(w)
    decorated = w.decorate(coalesce, slow.function)

    async def hurried() -> Any:
        with deadline_after(2):
            return await decorated()

    async def patient() -> Any:
        await w.sleep(1)
        return await decorated()

    results = await w.gather(hurried, patient)
    assert isinstance(results[0], DeadlineExceededError)
    assert (1, ()) == results[1]


@in_async_colours
async def test_when_the_last_has_no_time_the_execution_is_cancelled(w: World) -> None:
    """No caller is left to receive its result."""
    coalesce, slow = Coalesce(), Slow(w)
    with pytest.raises(DeadlineExceededError), deadline_after(2):
        await w.call(coalesce, slow.function)
    assert (1, 1) == (slow.runs, slow.ended)
    assert 2.005 == pytest.approx(w.now())
    assert coalesce.is_pristine()


@in_async_colours
async def test_a_timeout_outside_is_one_caller_s_patience(w: World) -> None:
    """Its error says so; who has more gets the result."""
    coalesce, slow = Coalesce(), Slow(w)
    function = slow.function
    hurried = w.decorate(Pipeline(Timeout(2), coalesce), function)
    patient = w.decorate(Pipeline(Timeout(20), coalesce), function)
    results = await w.gather(patient, hurried)
    assert (1, ()) == results[0] or slow.runs == 2
    assert isinstance(results[1], TimeoutExceededError)


@in_every_colour
async def test_no_deadline_of_a_caller_shows_in_a_shared_execution(w: World) -> None:
    """In async; in sync it runs in the first caller's own thread."""
    seen: list[Any] = []

    async def function() -> None:
        seen.append((current_deadline(), remaining()))
        with deadline_after(3):
            seen.append((current_deadline(), remaining()))

    with deadline_after(5):
        await w.call(Coalesce(), function)
    if w.is_sync:
        assert [(START + 5.0, 5.0), (START + 3.0, 3.0)] == seen
    else:
        assert [(None, None), (START + 3.0, 3.0)] == seen


@in_every_colour
async def test_a_timeout_inside_bounds_the_execution(w: World) -> None:
    """Every caller gets its error, in a copy of its own."""
    slow = Slow(w)
    policy = Pipeline(Coalesce(), Timeout(5, name="load"))
    results = await together(w, *callers(w, policy, slow, 0, 1))
    if w.is_sync:
        assert [(1, ()), (1, ())] == results
    else:
        text = "timeout 'load' of 5 s exceeded after 5 s"
        assert [text, text] == [str(result) for result in results]
        assert results[0] is not results[1]


@in_sync
async def test_a_failure_of_the_first_one_s_deadline_is_its_own(w: World) -> None:
    """Who has more time tries again; who has not, gets it."""
    coalesce, slow = Coalesce(), Slow(w, 4)
    decorated = w.decorate(coalesce, slow.function)

    async def fail_at_deadline() -> Any:
        with deadline_after(4):
            slow.error = OSError("no time")
            return await decorated()

    async def more_time() -> Any:
        await w.sleep(1)
        try:
            with deadline_after(1000):
                return await decorated()
        finally:
            slow.error = None

    async def as_much_time() -> Any:
        await w.sleep(0.5)
        with deadline_after(3.5):
            return await decorated()

    results = await together(w, fail_at_deadline, more_time, as_much_time)
    assert "no time" == str(results[0])
    assert "no time" == str(results[1])
    assert isinstance(results[2], (OSError, DeadlineExceededError))
    assert 2 == slow.runs


@in_sync
async def test_a_wait_that_the_first_one_s_deadline_refused_is_its_own(
    w: World,
) -> None:
    """A rejection by its deadline comes before that."""
    limiter = RateLimiter(1, per=10, max_wait=None)
    coalesce = Coalesce()
    slow = Slow(w, 0)
    decorated = w.decorate(Pipeline(coalesce, Held(w, 2), limiter), slow.function)
    await decorated()

    async def hurried() -> Any:
        with deadline_after(5):
            return await decorated()

    async def patient() -> Any:
        await w.sleep(1)
        return await decorated()

    async def as_hurried() -> Any:
        await w.sleep(1)
        with deadline_after(3):
            return await decorated()

    results = await together(w, hurried, patient, as_hurried)
    assert results[0].by_deadline
    assert (2, ()) == results[1]
    assert results[2].by_deadline
    assert str(results[0]) == str(results[2])


@in_sync
async def test_a_result_that_comes_as_the_time_is_up_is_taken(w: World) -> None:
    """A call that is about to leave looks once more."""
    coalesce, slow = Coalesce(), Slow(w)
    decorated = w.decorate(coalesce, slow.function)

    async def hurried() -> Any:
        with pytest.MonkeyPatch.context() as patch, deadline_after(5):

            async def late(runtime: Any, waiter: Any, until: float) -> bool:
                clock.wait(waiter.gate, until + 6 - w.now())
                return False

            patch.setattr(type(SYNC), "park", late)
            return await decorated()

    async def first() -> Any:
        return await decorated()

    assert [(1, ())] * 2 == await together(w, first, hurried)


# -- Context variables

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@in_every_colour
async def test_it_runs_in_the_first_caller_s_context(w: World) -> None:
    """In async in a copy; what it sets there stays there."""
    seen: list[str] = []

    async def function() -> None:
        await w.sleep(1)
        seen.append(variable.get())
        variable.set("function")

    decorated = w.decorate(Coalesce(), function)

    def setting(name: str) -> Callable[[], Awaitable[Any]]:
        async def call() -> str:
            await w.sleep(0 if name == "first" else 0.5)
            variable.set(name)
            await decorated()
            return variable.get()

        return call

    results = await together(w, setting("first"), setting("second"))
    assert ["first"] == seen
    assert ["function" if w.is_sync else "first", "second"] == results
    with pytest.raises(LookupError):
        current_call()


# -- Calls inside calls


@in_every_colour
async def test_a_call_does_not_wait_for_itself(w: World) -> None:
    """It would for ever; in its own task or thread, or in others of it."""
    coalesce = Coalesce(name="load")

    async def inner(depth: int) -> Any:
        if depth:
            return await decorated(depth - 1)
        return await decorated(2)

    decorated = w.decorate(coalesce, inner)
    with pytest.raises(RuntimeError) as caught:
        await decorated(2)
    assert ["'test_a_call_does_not_wait_for_itself.", "inner'"][1] in str(caught.value)
    assert (
        "'inner' would wait for itself: it was called from inside the execution"
        " that Coalesce(name='load') would have it share" == str(caught.value)
    )
    assert coalesce.is_pristine()


@in_every_colour
async def test_calls_do_not_wait_for_each_other(w: World) -> None:
    """Each inside one and about to join the other: the second is told."""
    coalesce = Coalesce(key=lambda name: name)

    async def function(name: str) -> Any:
        await w.sleep(1 if name == "a" else 2)
        return await decorated("b" if name == "a" else "a")

    decorated = w.decorate(coalesce, function)
    results = await together(w, lambda: decorated("a"), lambda: decorated("b"))
    assert all(isinstance(result, RuntimeError) for result in results)
    assert coalesce.is_pristine()


@in_every_colour
async def test_calls_of_two_instances_do_not_wait_for_themselves(w: World) -> None:
    """A call is inside an execution, whatever calls stand between them."""
    one, other = Coalesce(), Coalesce()

    async def first() -> Any:
        return await inner()

    async def second() -> Any:
        return await outer()

    outer, inner = w.decorate(one, first), w.decorate(other, second)
    with pytest.raises(RuntimeError, match="would wait for itself"):
        await outer()


@in_every_colour
async def test_a_call_inside_may_share_what_others_do(w: World) -> None:
    """As long as that waits for nothing around it."""
    coalesce, slow = Coalesce(), Slow(w)
    shared = w.decorate(coalesce, slow.function)

    async def outer() -> Any:
        await w.sleep(1)
        return await shared()

    decorated = w.decorate(coalesce, outer)
    results = await together(w, lambda: shared(), lambda: decorated())
    assert [(1, ()), (1, ())] == results
