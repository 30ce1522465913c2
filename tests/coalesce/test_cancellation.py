"""Coalesce: callers that are cancelled, and the execution without callers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from tests.coalesce.callers import Slow, callers, cancelled_after
from tests.colours import World, in_async_colours
from tests.test_cancellation import Steps, TurningLoop

from resilient import (
    Bulkhead,
    Coalesce,
    Pipeline,
    Timeout,
)
from resilient.testing import virtual_time

# -- Cancellation


@in_async_colours
async def test_the_first_caller_may_leave(w: World) -> None:
    """At once; the others get the result of the one execution."""
    coalesce, slow = Coalesce(), Slow(w)
    first, second = callers(w, coalesce, slow, 0, 1)
    results = await w.gather(lambda: cancelled_after(w, 3, first), second)
    assert [3.0, (1, ())] == results
    assert 10.0 == w.now()
    assert 1 == slow.runs


@in_async_colours
async def test_another_caller_may_leave(w: World) -> None:
    """The execution does not notice."""
    coalesce, slow = Coalesce(), Slow(w)
    first, second, third = callers(w, coalesce, slow, 0, 1, 2)
    results = await w.gather(first, lambda: cancelled_after(w, 3, second), third)
    assert [(1, ()), 3.0, (1, ())] == results
    assert 1 == slow.runs


@in_async_colours
async def test_the_last_to_leave_cancels_the_execution(w: World) -> None:
    """And waits until it has ended: nothing is left behind."""
    coalesce, slow = Coalesce(), Slow(w)
    first, second = callers(w, coalesce, slow, 0, 1)
    results = await w.gather(
        lambda: cancelled_after(w, 3, first), lambda: cancelled_after(w, 4, second)
    )
    assert [3.0, 4.0] == results
    assert (1, 1) == (slow.runs, slow.ended)
    assert coalesce.is_pristine()


@in_async_colours
async def test_the_last_waits_for_what_the_execution_cleans_up(w: World) -> None:
    """Who comes meanwhile begins a new one."""
    coalesce = Coalesce()
    log: list[str] = []

    async def function() -> str:
        log.append("begun")
        try:
            await w.sleep(10)
        except BaseException:
            if w.colour == "asyncio":
                await w.sleep(5)
            else:
                with trio.CancelScope(shield=True):
                    await w.sleep(5)
            log.append("cleaned up")
            raise
        return "ok"

    decorated = w.decorate(coalesce, function)

    async def later() -> Any:
        await w.sleep(4)
        return await decorated()

    results = await w.gather(lambda: cancelled_after(w, 3, decorated), later)
    assert [8.0, "ok"] == results
    assert ["begun", "begun", "cleaned up"] == log


@in_async_colours
async def test_a_cancelled_execution_may_go_on_all_the_same(w: World) -> None:
    """A function that swallows its cancellation is waited for, as without."""
    coalesce = Coalesce()

    async def stubborn() -> str:
        try:
            await w.sleep(10)
        except asyncio.CancelledError:
            await w.sleep(5)
        return "late"

    if w.colour == "asyncio":
        decorated = w.decorate(coalesce, stubborn)
        assert 8.0 == await cancelled_after(w, 3, decorated)


def test_a_second_cancellation_waits_for_the_first() -> None:
    """As a group of tasks does: what cleans up is not disturbed."""

    async def main() -> None:
        log: list[float] = []

        async def cleaning() -> None:
            loop = asyncio.get_running_loop()
            try:
                await asyncio.sleep(10)
            finally:
                await asyncio.sleep(5)
                log.append(loop.time())

        task = asyncio.ensure_future(Coalesce().acall(cleaning))
        for _ in range(3):
            await asyncio.sleep(1)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [6.0] == log

    virtual_time.run(main)


@in_async_colours
async def test_a_scope_of_anyio_disturbs_no_shielded_cleanup(w: World) -> None:
    """It cancels again and again, on asyncio in each turn of the loop."""
    log: list[float] = []

    async def cleaning() -> None:
        try:
            await anyio.sleep(10)
        finally:
            with anyio.CancelScope(shield=True):
                # NB: no sleep: time stands still while anyio is at it.
                for _ in range(5):
                    await anyio.lowlevel.checkpoint()
                log.append(w.now())

    with anyio.move_on_after(1) as scope:
        await Coalesce().acall(cleaning)
    assert scope.cancelled_caught
    assert [1.0] == log


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")
def test_a_task_may_begin_at_once() -> None:
    """And end at once, before a call waits for it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        coalesce, slow = Coalesce(), Slow(World("asyncio"))

        async def at_once() -> int:
            return 5

        async def itself() -> None:
            await decorated()

        decorated = coalesce(itself)
        assert [5, 5] == await asyncio.gather(*[coalesce.acall(at_once) for _ in "ab"])
        assert [(1, ())] * 2 == await asyncio.gather(
            *[coalesce.acall(slow.function) for _ in "ab"]
        )
        with pytest.raises(RuntimeError, match="would wait for itself"):
            await decorated()
        assert coalesce.is_pristine()

    virtual_time.run(main)


def test_an_execution_that_is_cancelled_from_outside_tells_its_callers() -> None:
    """One that had not begun begins again."""

    async def main() -> None:
        w = World("asyncio")
        slow = Slow(w)
        coalesce = Coalesce()
        decorated = coalesce(slow.function)
        task = asyncio.ensure_future(decorated())
        await asyncio.sleep(0)

        def executions() -> list[asyncio.Task[Any]]:
            return [t for t in asyncio.all_tasks() if "resilient" in t.get_name()]

        [execution] = executions()
        assert "resilient Slow.function" == execution.get_name()
        execution.cancel()
        await asyncio.sleep(1)
        assert 1 == slow.runs
        [execution] = executions()
        execution.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 1 == slow.runs
        assert coalesce.is_pristine()

    virtual_time.run(main)


@in_async_colours
async def test_it_leaves_no_task_behind(w: World) -> None:
    """However it ends."""
    coalesce, slow = Coalesce(), Slow(w)

    def tasks() -> int:
        if w.colour == "asyncio":
            return len(asyncio.all_tasks())
        return trio.lowlevel.current_statistics().tasks_living

    before = tasks()
    [call] = callers(w, coalesce, slow, 0)
    await call()
    await w.sleep(0)
    assert before == tasks()
    await cancelled_after(w, 3, call)
    await w.sleep(0)
    assert before == tasks()


@in_async_colours
async def test_what_is_no_exception_reaches_every_caller(w: World) -> None:
    """An interrupt in the function ends none of our tasks, and no run."""
    coalesce, slow = Coalesce(), Slow(w)
    slow.error = SystemExit(3)
    seen: list[Any] = []

    def catching(call: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        async def catch() -> None:
            try:
                await call()
            except SystemExit as error:
                seen.append(error.code)

        return catch

    await w.gather(*map(catching, callers(w, coalesce, slow, 0, 1)))
    assert [3, 3] == seen
    assert 1 == slow.runs
    assert coalesce.is_pristine()


@in_async_colours
async def test_a_group_of_interrupts_reaches_its_caller(w: World) -> None:
    """As it is."""
    slow = Slow(w)
    slow.error = error = BaseExceptionGroup("text", [KeyboardInterrupt()])
    with pytest.raises(BaseExceptionGroup) as caught:
        await w.call(Coalesce(), slow.function)
    assert error is caught.value


def test_a_caller_that_is_closed_leaves() -> None:
    """A coroutine that is closed no longer counts as waiting."""

    async def main() -> None:
        coalesce = Coalesce()
        slow = Slow(World("asyncio"))
        coroutine = coalesce.acall(slow.function)
        task = asyncio.current_task()
        coroutine.send(None)
        await asyncio.sleep(1)
        assert 1 == coalesce.in_flight
        coroutine.close()
        assert coalesce.is_pristine()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 1 == slow.ended
        assert {task} == asyncio.all_tasks()

    virtual_time.run(main)


def test_a_loop_that_is_gone_takes_its_executions_along() -> None:
    """The instance forgets them with the last caller."""
    coalesce = Coalesce()
    slow = Slow(World("asyncio"))
    loop = asyncio.new_event_loop()
    task = loop.create_task(coalesce.acall(slow.function))
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    assert 1 == coalesce.in_flight
    left = asyncio.all_tasks(loop)
    loop.close()
    for one in left:
        # The interpreter would complain that it is pending.
        one._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine: Any = task.get_coro()
    coroutine.close()
    assert coalesce.is_pristine()
    del task, one
    for one in left:
        one.get_coro().close()  # type: ignore[union-attr]


def test_a_loop_that_refuses_new_tasks_is_told_of() -> None:
    """And no call waits for an execution that never begins."""

    async def main() -> None:
        coalesce = Coalesce()
        slow = Slow(World("asyncio"))

        def refuse(loop: Any, coroutine: Any, **more: Any) -> Any:
            coroutine.close()
            raise RuntimeError("no more tasks")

        asyncio.get_running_loop().set_task_factory(refuse)
        with pytest.raises(RuntimeError, match="no more tasks"):
            await coalesce.acall(slow.function)
        asyncio.get_running_loop().set_task_factory(None)
        assert coalesce.is_pristine()

    virtual_time.run(main)


@pytest.mark.parametrize("leaves", ["first", "second"])
def test_whichever_is_cancelled_at_any_turn_the_other_has_the_result(
    leaves: str,
) -> None:
    """On asyncio; a caller that was to begin leaves the other to do so."""

    async def main(at: int) -> tuple[object, object, int, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, TurningLoop)
        bulkhead = Bulkhead(1)
        coalesce, slow = Coalesce(), Slow(World("asyncio"))
        decorated = Pipeline(coalesce, Timeout(60), bulkhead)(slow.function)
        tasks = [asyncio.create_task(decorated()) for _ in range(2)]
        victim = tasks[leaves == "second"]
        loop.watch(victim, at)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        turns, loop.victim = loop.turns, None
        assert coalesce.is_pristine()
        assert 0 == bulkhead.in_use
        assert [asyncio.current_task()] == list(asyncio.all_tasks())
        if leaves == "second":
            results.reverse()
        return results[0], results[1], slow.runs, turns

    def run(at: int) -> tuple[object, object, int, int]:
        with asyncio.Runner(loop_factory=TurningLoop) as runner:
            return runner.run(main(at))

    turns = run(-1)[3]
    cancelled = 0
    for at in range(turns):
        victim, other, runs, _ = run(at)
        assert (1, ()) == other
        assert 1 == runs
        cancelled += isinstance(victim, asyncio.CancelledError)
    assert turns - 3 <= cancelled <= turns


@pytest.mark.parametrize("leaves", [0, 1])
def test_whichever_is_cancelled_at_any_step_the_other_has_the_result(
    leaves: int,
) -> None:
    """On trio."""

    async def main(at: int) -> tuple[object, int, int]:
        bulkhead = Bulkhead(1)
        coalesce, slow = Coalesce(), Slow(World("trio"))
        decorated = Pipeline(coalesce, Timeout(60), bulkhead)(slow.function)
        scopes = [trio.CancelScope(), trio.CancelScope()]
        results: list[object] = [None, None]
        steps = Steps(scopes[leaves], at)

        async def call(place: int) -> None:
            with scopes[place]:
                results[place] = await decorated()

        trio.lowlevel.add_instrument(steps)
        try:
            async with trio.open_nursery() as nursery:
                for place in range(2):
                    nursery.start_soon(call, place)
        finally:
            trio.lowlevel.remove_instrument(steps)
        assert coalesce.is_pristine()
        assert 0 == bulkhead.in_use
        return results[1 - leaves], slow.runs, steps.steps

    _, _, steps = virtual_time.run(main, -1, backend="trio")
    for at in range(steps):
        other, runs, _ = virtual_time.run(main, at, backend="trio")
        assert (1, ()) == other
        assert 1 == runs
