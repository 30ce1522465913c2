"""Coalesce, in three colours."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import sys
import threading
import traceback
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
from tests.colours import World, in_async_colours, in_every_colour, in_sync
from tests.test_cancellation import Steps, TurningLoop

from resilient import (
    AdmissionPolicy,
    Bulkhead,
    BulkheadFullError,
    Call,
    CallCoalesced,
    CircuitBreaker,
    Coalesce,
    DeadlineExceededError,
    Event,
    Fallback,
    PerKey,
    Pipeline,
    Priority,
    RateLimiter,
    Retry,
    ThrottledError,
    Timeout,
    TimeoutExceededError,
    Verdict,
    constant,
    current_call,
    current_deadline,
    deadline_after,
    priority,
    remaining,
)
from resilient._machines.single_flight import Execution, WaitingCall
from resilient._runtimes import clock
from resilient._runtimes.sync import SYNC
from resilient.testing import virtual_time


class Slow:
    """A function that takes its time, and counts how often it is run."""

    def __init__(self, w: World, seconds: float = 10.0) -> None:
        self.w = w
        self.seconds = seconds
        self.runs = 0
        self.ended = 0
        self.error: BaseException | None = None

    async def function(self, *args: Any, **kwargs: Any) -> object:
        self.runs += 1
        run = self.runs
        try:
            await self.w.sleep(self.seconds)
            if self.error is not None:
                raise self.error
        finally:
            self.ended += 1
        return run, args


async def together(w: World, *functions: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run functions at once, each in a task, or a thread, of its own."""
    if not w.is_sync:
        return await w.gather(*functions)
    results: list[Any] = [None] * len(functions)
    gates = [threading.Lock() for _ in range(len(functions) + 1)]

    def run(place: int) -> None:
        # NB: whoever begins lets the next one begin: somebody is always about
        # to run, and time stands still, until all have begun.
        clock.wait(gates[place], None)
        gates[place + 1].release()
        try:
            coroutine: Any = functions[place]()
            coroutine.send(None)
        except StopIteration as stop:
            results[place] = stop.value
        except Exception as error:
            results[place] = error

    for gate in gates:
        gate.acquire()
    threads = [
        clock.start_thread(functools.partial(run, place), f"caller {place}")
        for place in range(len(functions))
    ]
    gates[0].release()
    for thread in threads:
        while thread.is_alive():
            await w.sleep(1)
    return results


def callers(w: World, policy: Any, slow: Slow, *after: float) -> list[Any]:
    """Return calls of one decorated function, that begin one after the other."""
    decorated = w.decorate(policy, slow.function)

    def made(after: float) -> Callable[[], Awaitable[Any]]:
        async def call() -> Any:
            await w.sleep(after)
            return await decorated()

        return call

    return [made(one) for one in after]


async def cancelled_after(
    w: World, seconds: float, call: Callable[[], Awaitable[Any]]
) -> Any:
    """Make a call and cancel it; return when it was over, or its result."""
    if w.colour == "asyncio":
        task = asyncio.ensure_future(call())
        await asyncio.sleep(seconds)
        task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return w.now()
    with trio.move_on_after(seconds):
        return await call()
    return w.now()


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
    """Whoever comes while it runs gets what it gets, when it gets it."""
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
    assert 3 == len({id(one) for one in results})
    assert ["[Errno 5] down"] * 3 == [str(one) for one in results]
    assert [["a note"]] * 3 == [one.__notes__ for one in results]
    lengths = [len(traceback.extract_tb(one.__traceback__)) for one in results]
    assert lengths[1] == lengths[2]
    for one in results:
        frames = traceback.extract_tb(one.__traceback__)
        assert "function" == frames[-1].name
        assert 1 == sum("/resilient/" in f.filename for f in frames)


class SingleError(Exception):
    """There is only one: it cannot be copied."""

    one: Any = None

    def __new__(cls, *args: Any) -> Any:
        cls.one = cls.one or super().__new__(cls)
        return cls.one


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
            seen.append((outcome.verdict, outcome.retry_after, permit.classified))
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
    assert [notes] * 3 == [one.__notes__ for one in results]


def test_a_stop_iteration_is_an_error_like_any_other() -> None:
    """It ends nothing of ours."""

    def function() -> None:
        raise StopIteration(3)

    with pytest.raises(StopIteration) as caught:
        Coalesce().call(function)
    assert 3 == caught.value.value


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
    """And end at once, before anybody waits for it."""

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
    """A coroutine that nobody resumes waits for nothing any more."""

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
    """And nobody waits for what never begins."""

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
def test_whoever_is_cancelled_at_whatever_turn_the_other_has_the_result(
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
def test_whoever_is_cancelled_at_whatever_step_the_other_has_the_result(
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


# -- Threads


@in_sync
async def test_when_the_first_thread_is_interrupted_another_goes_on(w: World) -> None:
    """Its interrupt is its own; the rest run the function again, once."""
    coalesce, slow = Coalesce(), Slow(w)
    slow.error = KeyboardInterrupt()
    calls = callers(w, coalesce, slow, 0, 1, 2)
    interrupted: list[bool] = []

    async def first() -> None:
        try:
            await calls[0]()
        except KeyboardInterrupt:
            slow.error = None
            interrupted.append(True)

    # NB: the others are woken before, so they wait until the error is gone.
    slow.seconds = 5
    results = await together(w, first, calls[1], calls[2])
    assert [True] == interrupted
    assert [None, (2, ()), (2, ())] == results
    assert coalesce.is_pristine()


@in_sync
async def test_a_thread_that_is_interrupted_in_its_wait_leaves(w: World) -> None:
    """Nobody else notices."""
    coalesce, slow = Coalesce(), Slow(w)
    first, second = callers(w, coalesce, slow, 0, 1)

    async def interrupted() -> None:
        with pytest.MonkeyPatch.context() as patch:

            def interrupt(runtime: Any, waiter: Any, until: Any) -> Any:
                raise KeyboardInterrupt

            await w.sleep(1)
            patch.setattr(type(SYNC), "park", interrupt)
            with pytest.raises(KeyboardInterrupt):
                await second()

    assert [(1, ()), None] == await together(w, first, interrupted)
    assert coalesce.is_pristine()


def test_a_thread_with_a_loop_does_not_wait() -> None:
    """It may run the function, as it might without."""
    coalesce = Coalesce()
    with virtual_time():

        async def main() -> None:
            assert coalesce.call(bool) is False
            begun, go_on = threading.Event(), threading.Event()

            def stay() -> None:
                begun.set()
                go_on.wait(20)

            thread = threading.Thread(target=coalesce.call, args=(stay,))
            thread.start()
            begun.wait(20)
            with pytest.raises(RuntimeError, match="thread that runs an event loop"):
                coalesce.call(stay)
            go_on.set()
            thread.join()

    asyncio.run(main())
    assert coalesce.is_pristine()


def test_a_forked_child_waits_for_nobody_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thread that would have to wake it is not there."""
    coalesce = Coalesce()
    runs: list[int] = []

    def function() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            monkeypatch.setattr("os.getpid", lambda: -1)
            # NB: outside of this call, as a thread of a child's would be.
            contextvars.Context().run(decorated)

    decorated = coalesce(function)
    decorated()
    assert [0, 1] == runs


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
    assert all(isinstance(one, DeadlineExceededError) for one in results[1:])
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
    """Nobody would see what it gives."""
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
        assert [(5.0, 5.0), (3.0, 3.0)] == seen
    else:
        assert [(None, None), (3.0, 3.0)] == seen


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
        assert [text, text] == [str(one) for one in results]
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
    """Whoever is about to leave looks once more."""
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


class Held(Bulkhead):
    """A policy that takes its time before it goes on."""

    def __init__(self, w: World, seconds: float) -> None:
        super().__init__(9)
        self.w = w
        self.seconds = seconds

    async def around(self, proceed: Any, call: Any) -> Any:
        await call.runtime.sleep(self.seconds)
        return await proceed(call)


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
    assert all(isinstance(one, RuntimeError) for one in results)
    assert coalesce.is_pristine()


@in_every_colour
async def test_calls_of_two_instances_do_not_wait_for_themselves(w: World) -> None:
    """What is inside is inside, whoever is in between."""
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


# -- Loops and threads


@pytest.mark.real
def test_each_loop_has_executions_of_its_own() -> None:
    """What is made on a loop is of no use on another; threads share theirs."""
    coalesce = Coalesce(key=lambda: 1)
    barrier = threading.Barrier(3)
    inside: list[object] = []

    async def function() -> object:
        inside.append(threading.get_ident())
        # Nobody gets past before all three are inside at once.
        barrier.wait(20)
        return threading.get_ident()

    decorated = coalesce(function)
    results: list[object] = []

    def run(kind: str) -> None:
        runner: Any = trio.run if kind == "trio" else lambda f: asyncio.run(f())
        results.append((threading.get_ident(), runner(decorated)))

    threads = [
        threading.Thread(target=run, args=(kind,), daemon=True)
        for kind in ("asyncio", "asyncio", "trio")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert 3 == len(set(inside))
    assert all(here == there for here, there in results)  # type: ignore[misc]
    assert coalesce.is_pristine()


@pytest.mark.real
def test_threads_and_loops_at_once_lose_nothing() -> None:
    """No key runs twice at once in one place, and all come back."""
    coalesce = Coalesce(key=lambda place: place % 3)
    guard = threading.Lock()
    inside: set[object] = set()
    twice: list[object] = []

    def enter(one: object) -> None:
        with guard:
            if one in inside:
                twice.append(one)
            inside.add(one)

    def leave(one: object) -> None:
        with guard:
            inside.discard(one)

    def plain(place: int) -> int:
        enter(place % 3)
        leave(place % 3)
        return place % 3

    async def later(place: int) -> int:
        here = (asyncio.get_running_loop(), place % 3)
        enter(here)
        await asyncio.sleep(0)
        leave(here)
        return place % 3

    sync_call, async_call = coalesce(plain), coalesce(later)
    done: list[bool] = []

    def in_thread() -> None:
        done.append(all(sync_call(place) == place % 3 for place in range(300)))

    async def in_tasks() -> None:
        for _ in range(20):
            results = await asyncio.gather(*map(async_call, range(15)))
            done.append(results == [place % 3 for place in range(15)])

    threads = [threading.Thread(target=in_thread, daemon=True) for _ in range(8)]
    threads += [
        threading.Thread(target=lambda: asyncio.run(in_tasks()), daemon=True)
        for _ in range(2)
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert not any(thread.is_alive() for thread in threads)
    assert [] == twice
    assert [True] * 48 == done
    assert coalesce.is_pristine()


class Closing:
    """A key that does something as it is looked up: as a collection might."""

    def __init__(self) -> None:
        self.happens: list[Callable[[], object]] = []
        self.skips = 0

    def __hash__(self) -> int:
        self.skips -= 1
        if self.happens and self.skips < 0:
            self.happens.pop()()
        return 1


@pytest.mark.parametrize("skips", range(6))
def test_a_call_may_be_closed_while_the_lock_is_held(skips: int) -> None:
    """By a collection, on the very thread that holds it: nobody waits."""

    async def main() -> None:
        closing = Closing()
        coalesce = Coalesce(key=lambda *args: args[0] if args else closing)
        slow = Slow(World("asyncio"))
        lost: Any = coalesce.acall(slow.function, 1)
        lost.send(None)
        await asyncio.sleep(1)
        assert 1 == coalesce.in_flight
        closing.happens.append(lost.close)
        closing.skips = skips
        call = coalesce(lambda: 5)
        assert 5 == contextvars.Context().run(call)
        closing.happens.clear()
        lost.close()
        await asyncio.sleep(1)
        assert 1 == slow.ended
        assert coalesce.is_pristine()

    virtual_time.run(main)


def test_whoever_holds_the_lock_takes_back_for_others() -> None:
    """A caller that leaves while another thread is at it waits for nothing."""

    async def main() -> None:
        coalesce, slow = Coalesce(), Slow(World("asyncio"))
        task = asyncio.ensure_future(coalesce.acall(slow.function))
        await asyncio.sleep(1)
        coroutine: Any = coalesce.acall(slow.function)
        coroutine.send(None)
        task.cancel()
        await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        coalesce._lock.acquire()
        coroutine.close()
        assert 1 == coalesce.in_flight
        coalesce._lock.release()
        done = threading.Thread(target=coalesce._release_deferred)
        done.start()
        done.join()
        assert coalesce.is_pristine()
        assert 0 == slow.ended
        await asyncio.sleep(1)
        assert 1 == slow.ended

    virtual_time.run(main)


def test_an_execution_on_trio_can_be_given_up_by_another_thread() -> None:
    """It is cancelled on its own."""

    async def main() -> None:
        coalesce, slow = Coalesce(), Slow(World("trio"))

        async def leave_as_it_is_held(task_status: Any) -> None:
            with trio.CancelScope() as scope:
                task_status.started(scope)
                await coalesce.acall(slow.function)

        async with trio.open_nursery() as nursery:
            await nursery.start(leave_as_it_is_held)
            await trio.sleep(1)
            [execution] = coalesce._executing.values()
            [waiting] = execution.waiters
            coalesce._deferred.append(waiting)  # type: ignore[arg-type]
            # NB: no thread of trio's, which would stay for a while.
            thread = threading.Thread(target=coalesce._release_deferred)
            thread.start()
            thread.join()
            await trio.sleep(1)
            assert 1 == slow.ended
            nursery.cancel_scope.cancel()
        assert execution.background is not None

    virtual_time.run(main, backend="trio")


# -- Garbage

_OURS = (BaseException, Call, Execution, WaitingCall, types.CoroutineType)


@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
@pytest.mark.parametrize("kind", [OSError, SingleError, SystemExit])
def test_a_failing_call_leaves_no_cycle(colour: Any, kind: type[BaseException]) -> None:
    """Shared or not."""
    w = World(colour)

    async def body(w: World) -> None:
        coalesce, slow = Coalesce(), Slow(w)
        decorated = w.decorate(coalesce, slow.function)

        async def call() -> None:
            slow.error = kind()
            try:
                await decorated()
            except kind:
                pass
            finally:
                slow.error = None

        async def twice() -> None:
            if w.is_sync:
                await call()
                await call()
            else:
                await w.gather(call, call)

        await twice()
        gc.collect()
        gc.disable()
        try:
            await call()
            await twice()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            # NB: not all there is: virtual time itself leaves frames on trio.
            left = [one for one in gc.garbage if isinstance(one, _OURS)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert [] == left

    w.run(body)


# -- Spellings


class Shop:
    """Methods, plain and with keys."""

    def price(self, article: str) -> float:
        return 1.0

    async def price_async(self, article: str) -> float:
        return 1.0

    @staticmethod
    def open(hour: int) -> bool:
        return True

    @classmethod
    def name(cls) -> str:
        return "Shop"


@pytest.mark.parametrize("method", [Shop.price, Shop.price_async])
@pytest.mark.parametrize("made", [Coalesce, lambda: Pipeline(Coalesce(), Timeout(1))])
def test_a_method_needs_a_key(method: Any, made: Callable[[], Any]) -> None:
    """Whether two objects are the same only their author knows."""
    with pytest.raises(TypeError) as caught:
        made()(method)
    assert (
        f"Coalesce() needs a key=… for the method 'Shop.{method.__name__}', whose"
        " `self` would be part of the key: key=lambda self, …: …" == str(caught.value)
    )


def price_of(self: Shop, article: str) -> float:
    """To be assigned to a class."""
    return 1.0


class Lambdas:
    """Methods without a name."""

    price: Any = lambda shop, article: 1.0
    hours: Any = staticmethod(lambda: 8)


@pytest.mark.parametrize(
    ("method", "name", "first"),
    [
        (price_of, "price_of", "self"),
        (lambda cls: 1.0, "<lambda>", "cls"),
        (Lambdas.price, "Lambdas.<lambda>", "shop"),
    ],
)
def test_a_function_that_becomes_a_method_needs_a_key(
    method: Any, name: str, first: str
) -> None:
    """As far as it can be told."""
    with pytest.raises(TypeError) as caught:
        Coalesce()(method)
    assert (
        f"Coalesce() needs a key=… for the method {name!r}, whose `{first}` would be"
        f" part of the key: key=lambda {first}, …: …" == str(caught.value)
    )


def total(order: object, tax: float) -> float:
    """Nothing about it tells that it will be a method."""
    return 1.0


def test_a_function_that_became_a_method_is_refused_when_called() -> None:
    """What its decoration could not see; as a function it goes on."""
    shared = Coalesce()(total)

    class Order:
        total: Any = shared

    class Gift(Order):
        rebate: float = 0.1

    for order in (Order(), Gift()):
        with pytest.raises(TypeError) as caught:
            order.total(0.2)
        assert (
            "Coalesce() needs a key=… for the method 'Order.total', whose `self` would"
            " be part of the key: key=lambda self, …: …" == str(caught.value)
        )
    assert 1.0 == shared(1, 0.2)
    assert 1.0 == shared(Shop(), 0.2)
    assert 1.0 == shared(order=Order(), tax=0.2)


def test_other_lambdas_need_none() -> None:
    """They have no object, or none that is part of the arguments."""
    assert 1.0 == Coalesce()(lambda shop, article: 1.0)(1, 2)
    assert 8 == Coalesce()(Lambdas.hours)()


def test_a_method_with_a_key_is_a_function_like_any_other() -> None:
    """As are those whose object is no part of the arguments."""
    keyed = Coalesce(key=lambda self, article: article)
    assert 1.0 == keyed(Shop.price)(Shop(), "tea")
    assert 1.0 == Coalesce()(Shop().price)("tea")
    assert 1.0 == Coalesce().call(Shop().price, "tea")
    assert Coalesce()(Shop.open)(1)
    assert "Shop" == Coalesce()(Shop.name)()
    with pytest.raises(TypeError, match="needs a key"):
        Coalesce().call(Shop.price, Shop(), "tea")
    per_key = PerKey(lambda key: Coalesce(), key=lambda *args: 1)
    with pytest.raises(TypeError, match="needs a key"):
        per_key(Shop.price)(Shop(), "tea")


class Count:
    """A callable object."""

    def __call__(self) -> int:
        return 1


class Unhashable:
    """A callable object that cannot be part of a key."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> int:
        return 1


def test_callable_objects_are_functions_too() -> None:
    """Unless they cannot be told apart."""
    assert 1 == Coalesce()(Count())()
    with pytest.raises(TypeError, match="has no key"):
        Coalesce()(Unhashable())()


def test_unhashable_arguments_need_a_key() -> None:
    """The text does not show them: they may be secret."""

    def function(secret: list[str]) -> None: ...

    with pytest.raises(TypeError) as caught:
        Coalesce()(function)(["password"])
    assert (
        "'function' has no key for Coalesce(): an argument is not hashable; say by"
        " key=… what tells its calls apart" == str(caught.value)
    )
    keyed = Coalesce(key=lambda secret: secret)
    with pytest.raises(TypeError) as caught:
        keyed(function)(["password"])
    assert "password" not in str(caught.value)
    assert "`key` must be hashable" in str(caught.value)
    assert keyed.is_pristine()


def test_it_has_no_meaning_for_blocks_and_generators() -> None:
    """A clear TypeError, at once."""

    def items() -> Iterator[int]:
        yield 1

    async def async_items() -> AsyncIterator[int]:
        yield 1

    for wrong in (Coalesce().guard, Coalesce().attempts):
        with pytest.raises(TypeError, match="use a function"):
            wrong()
    for generator in (items, async_items):
        with pytest.raises(TypeError, match="generator"):
            Coalesce()(generator)


def test_bad_arguments_are_refused() -> None:
    """With parameter, rule and value."""

    async def key() -> int:
        return 1

    with pytest.raises(TypeError) as caught:
        Coalesce(key=3)  # type: ignore[arg-type]
    assert "`key` must be a function or None, got 3" == str(caught.value)
    with pytest.raises(TypeError) as caught:
        Coalesce(key=key)  # type: ignore[arg-type]
    assert "`key` must be a plain function, got a coroutine function" == str(
        caught.value
    )


def test_a_decorator_without_parentheses_is_refused() -> None:
    """The function would be taken for the key."""
    with pytest.raises(TypeError) as caught:
        Coalesce(len)  # type: ignore[arg-type]  # that is the mistake
    assert (
        f"Coalesce takes keywords only, got {len!r}; a decorator needs its"
        " parentheses, @Coalesce()" == str(caught.value)
    )


def test_its_repr_reads_like_the_call_that_made_it() -> None:
    """A key by its name."""
    assert "Coalesce()" == repr(Coalesce())
    assert "Coalesce(key=len, name='load')".replace("len", repr(len)) == repr(
        Coalesce(key=len, name="load")
    )
    copy = Coalesce(key=len).with_(name="other")
    assert (len, "other") == (copy.key, copy.name)


# -- With others


@in_every_colour
async def test_a_permit_is_the_execution_s_inside_and_the_caller_s_outside(
    w: World,
) -> None:
    """One for all, or one each."""
    slow = Slow(w)
    inside, outside = Bulkhead(1), Bulkhead(3)
    policy = Pipeline(outside, Coalesce(), inside)
    most: list[tuple[int, int]] = []

    async def look() -> None:
        await w.sleep(5)
        most.append((outside.in_use, inside.in_use))

    await together(w, *callers(w, policy, slow, 0, 1, 2), look)
    assert [(3, 1)] == most
    assert (0, 0) == (outside.in_use, inside.in_use)


@in_every_colour
async def test_a_rejection_is_shared_like_any_error(w: World) -> None:
    """And a fallback outside answers for each."""
    breaker = CircuitBreaker()
    breaker.force_open()
    slow = Slow(w)
    policy = Pipeline(Fallback("spare"), Coalesce(), Held(w, 1), breaker)
    assert ["spare"] * 2 == await together(w, *callers(w, policy, slow, 0, 0.5))
    full = Bulkhead(1)
    with full.guard():
        results = await together(
            w, *callers(w, Pipeline(Coalesce(), Held(w, 1), full), slow, 0, 0.5)
        )
    assert all(isinstance(one, BulkheadFullError) for one in results)


class Picky(AdmissionPolicy):
    """Rejects whatever is not critical."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Priority] = []

    def admit(self, call: Call) -> Any:
        self.asked.append(call.priority)
        return ThrottledError("picky") if call.priority < Priority.CRITICAL else None

    def settle(self, permit: Any, outcome: Any) -> None:
        pass


@in_every_colour
async def test_a_rejection_of_a_lesser_call_is_its_own(w: World) -> None:
    """Who matters more asks again, and would not have been rejected."""
    slow, picky = Slow(w, 1), Picky()
    decorated = w.decorate(Pipeline(Coalesce(), Held(w, 2), picky), slow.function)

    def caller(level: Priority, after: float) -> Callable[[], Awaitable[Any]]:
        async def call() -> Any:
            await w.sleep(after)
            with priority(level):
                return await decorated()

        return call

    low, high = Priority.BATCH, Priority.CRITICAL
    results = await together(w, *(caller(low, 0), caller(high, 0.5), caller(low, 1)))
    assert [ThrottledError, tuple, ThrottledError] == [type(one) for one in results]
    assert [low, high] == picky.asked


@in_async_colours
async def test_so_it_is_where_the_lesser_call_has_left(w: World) -> None:
    """The execution stays as important as the call that began it."""
    slow, picky = Slow(w, 1), Picky()
    decorated = w.decorate(Pipeline(Coalesce(), Held(w, 2), picky), slow.function)

    async def impatient() -> Any:
        with priority("batch"), anyio.move_on_after(1):
            await decorated()

    async def important() -> Any:
        await w.sleep(0.5)
        with priority("critical"):
            return await decorated()

    assert [None, (1, ())] == await w.gather(impatient, important)
    assert [Priority.BATCH, Priority.CRITICAL] == picky.asked


@in_async_colours
async def test_what_a_call_really_cost_is_booked_inside(w: World) -> None:
    """Where the limiter is."""
    limiter = RateLimiter(100, per=1000, burst=100)

    async def function() -> None:
        current_call().set_cost(requests=50)

    policy = Pipeline(Coalesce(), limiter)
    await w.call(policy, function)


def test_a_call_apart_knows_nothing_of_a_deadline() -> None:
    """But what it is inside of."""
    from resilient.policies.coalesce import _Execution

    call = Call("call", (1,), {"a": 2})
    call.deadline = 5.0
    call.attempt = 3
    apart = _Execution(call)
    assert ((1,), {"a": 2}, 3, None) == (
        apart.args,
        apart.kwargs,
        apart.attempt,
        apart.deadline,
    )
    assert call is apart.enclosing
