"""Coalesce: threads, event loops, and what the collector finds."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
import trio
from tests.coalesce.callers import Slow, callers, together
from tests.colours import World, in_sync
from tests.errors import SingleError
from tests.interrupts import amid_change

from resilient import (
    Call,
    Coalesce,
)
from resilient._machines.single_flight import Execution, WaitingCall
from resilient._runtimes.sync import SYNC
from resilient.testing import virtual_time

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
    """The other calls do not notice."""
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


def test_a_forked_child_waits_for_no_call_of_its_parent(
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


# -- Loops and threads


@pytest.mark.real
def test_each_loop_has_executions_of_its_own() -> None:
    """A result made on one loop is of no use on another."""
    coalesce = Coalesce(key=lambda: 1)
    barrier = threading.Barrier(3)
    inside: list[object] = []

    async def function() -> object:
        inside.append(threading.get_ident())
        # No execution gets past before all three are inside at once.
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
    """By a collection, on the very thread that holds it: that must not wait."""

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


def test_the_holder_of_the_lock_takes_back_for_others() -> None:
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
        with amid_change(coalesce):
            coroutine.close()
            assert 1 == len(coalesce._executions)
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
        while gc.collect():
            pass
        gc.disable()
        try:
            await call()
            await twice()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            # NB: not all there is: virtual time itself leaves frames on trio.
            left = [found for found in gc.garbage if isinstance(found, _OURS)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert [] == left

    w.run(body)
