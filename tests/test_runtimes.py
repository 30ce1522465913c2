"""The runtimes: the only code that waits."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import types
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, cast

import pytest
import trio
from tests.garbage import no_garbage
from tests.simulated import run_simulated

from resilient import (
    Bulkhead,
    Call,
    ResilientWarning,
    Retry,
    Timeout,
    TimeoutExceededError,
    constant,
)
from resilient._edges.driver import suspend
from resilient._errors import warnings as resilient_warnings
from resilient._runtimes import asyncio as asyncio_runtime
from resilient._runtimes import clock, current
from resilient._runtimes import sync as sync_runtime
from resilient._runtimes import trio as trio_runtime
from resilient._runtimes.asyncio import ASYNCIO, AsyncioLimits
from resilient._runtimes.current import current_runtime
from resilient._runtimes.runtime import PAUSE, End
from resilient._runtimes.sync import SYNC
from resilient._runtimes.trio import TRIO
from resilient._values.callables import name_of
from resilient.testing import instant, virtual_time


def run_now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what must never suspend."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


async def driven(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Await a verb as an edge does: go on at each pause."""
    answer: Any = None
    while True:
        try:
            request = coroutine.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = None if request is PAUSE else await suspend(request)


# -- Which one runs here


def test_each_loop_is_recognised() -> None:
    """Asyncio by its task, trio by its own."""

    async def runtime() -> tuple[Any, Any]:
        call = Call.new("x")
        return current_runtime(call), call.task

    async def on_asyncio() -> None:
        assert (ASYNCIO, asyncio.current_task()) == await runtime()
        assert ASYNCIO.task_or_thread() is asyncio.current_task()

    async def on_trio() -> None:
        assert (TRIO, None) == await runtime()
        assert TRIO.task_or_thread() is trio.lowlevel.current_task()

    asyncio.run(on_asyncio())
    trio.run(on_trio)
    assert ["asyncio", "trio", "sync"] == [
        runtime.name for runtime in (ASYNCIO, TRIO, SYNC)
    ]
    assert threading.get_ident() == SYNC.task_or_thread()


def test_no_loop_is_an_error() -> None:
    """Neither asyncio nor trio drives the coroutine."""
    with pytest.raises(RuntimeError, match="no task of asyncio or trio"):
        current_runtime(Call.new("x"))


def test_a_callback_of_a_loop_is_no_task() -> None:
    """There is a loop, and nothing in it to interrupt."""
    seen: list[str] = []

    def callback() -> None:
        with pytest.raises(RuntimeError, match="no task"):
            current_runtime(Call.new("x"))
        with pytest.raises(RuntimeError, match="needs a task to interrupt"):
            ASYNCIO.limit(Call.new("x"), {}, 1.0, clock.now() + 1.0)
        seen.append("called")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert ["called"] == seen


def test_what_is_not_imported_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither library is imported to find out; half imported is not yet."""
    monkeypatch.setattr(current, "_asyncio", None)
    monkeypatch.setattr(current, "_trio", None)
    for name in ("asyncio", "trio"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with pytest.raises(RuntimeError, match="no task"):
        current_runtime(Call.new("x"))
    monkeypatch.delitem(sys.modules, "asyncio")
    monkeypatch.delitem(sys.modules, "trio")
    with pytest.raises(RuntimeError, match="no task"):
        current_runtime(Call.new("x"))
    assert "asyncio" not in sys.modules
    assert isinstance(SYNC.waiter(Call.new("x")), sync_runtime.SyncWaiter)


# -- Waiters


def in_every_loop(body: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    """Run a test over each runtime, in virtual time."""
    with virtual_time():
        run_now(body(SYNC))
    virtual_time.run(body, ASYNCIO, backend="asyncio")
    virtual_time.run(body, TRIO, backend="trio")
    run_simulated(body)


def test_a_wake_before_the_wait_is_not_lost() -> None:
    """And two before one wait are one."""

    async def body(runtime: Any) -> None:
        waiter = runtime.waiter(Call.new("x"))
        assert waiter.wake()
        assert waiter.wake()
        assert await driven(runtime.park(waiter, 5.0))
        assert not await driven(runtime.park(waiter, 5.0))
        assert 5.0 == clock.now()
        assert waiter.wake()
        assert await driven(runtime.park(waiter, None))
        assert 5.0 == clock.now()

    in_every_loop(body)


def test_a_wait_ends_when_its_time_is_up() -> None:
    """At the moment itself; in the past, at once."""

    async def body(runtime: Any) -> None:
        waiter = runtime.waiter(Call.new("x"))
        assert not await driven(runtime.park(waiter, 2.0))
        assert 2.0 == clock.now()
        assert not await driven(runtime.park(waiter, 1.0))
        assert 2.0 == clock.now()
        await driven(runtime.sleep(3.0))
        assert 5.0 == clock.now()
        await driven(runtime.sleep(0))

    in_every_loop(body)


def test_a_thread_may_wake_any_waiter() -> None:
    """From outside of its loop."""

    async def body(runtime: Any) -> None:
        waiter = runtime.waiter(Call.new("x"))
        woken: list[bool] = []
        thread = clock.start_thread(lambda: woken.append(waiter.wake()), "waker")
        assert await driven(runtime.park(waiter, None))
        thread.join()
        assert [True] == woken

    with virtual_time():
        run_now(body(SYNC))
    virtual_time.run(body, ASYNCIO, backend="asyncio")
    virtual_time.run(body, TRIO, backend="trio")


def test_a_task_of_the_same_loop_may_wake() -> None:
    """Without a detour."""

    async def on_asyncio() -> None:
        waiter = ASYNCIO.waiter(Call.new("x"))
        asyncio.get_running_loop().call_later(1, waiter.wake)
        assert await driven(ASYNCIO.park(waiter, 9.0))
        assert 1.0 == clock.now()
        asyncio.get_running_loop().call_later(1, waiter.wake)
        asyncio.get_running_loop().call_later(1, waiter.wake)
        assert await driven(ASYNCIO.park(waiter, None))

    async def on_trio() -> None:
        waiter = TRIO.waiter(Call.new("x"))

        async def wake() -> None:
            await trio.sleep(1)
            waiter.wake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wake)
            assert await driven(TRIO.park(waiter, 9.0))
        assert 1.0 == clock.now()

    virtual_time.run(on_asyncio, backend="asyncio")
    virtual_time.run(on_trio, backend="trio")


def test_a_task_of_another_loop_may_wake() -> None:
    """Two runs of one library on two threads."""

    async def get_trio() -> Any:
        return TRIO.waiter(Call.new("x"))

    async def wakes(waiter: Any) -> Any:
        return waiter.wake()

    ended = trio.run(get_trio)
    # Its run is over: it will never wait again.
    assert not trio.run(wakes, ended)
    assert not ended.wake()

    async def main() -> None:
        waiter = TRIO.waiter(Call.new("x"))
        await trio.to_thread.run_sync(trio.run, wakes, waiter)
        assert await driven(TRIO.park(waiter, None))

    trio.run(main)


def test_a_waiter_of_a_closed_loop_says_so() -> None:
    """The task that waited there has ended with it."""

    async def get() -> Any:
        return ASYNCIO.waiter(Call.new("x"))

    assert not asyncio.run(get()).wake()


def test_a_wake_and_the_end_of_time_at_once() -> None:
    """On asyncio whichever came first; a wake that came second is kept."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiter = ASYNCIO.waiter(Call.new("x"))
        loop.call_later(1, asyncio_runtime._expire, loop.create_future())
        task = asyncio.create_task(driven(ASYNCIO.park(waiter, 5.0)))
        await asyncio.sleep(0)
        future = waiter.future
        assert future is not None
        asyncio_runtime._expire(future)
        waiter.wake()
        asyncio_runtime._expire(future)
        assert not await task
        assert await driven(ASYNCIO.park(waiter, 5.0))

    virtual_time.run(main, backend="asyncio")


# -- Waits that take no time


def test_instant_waits_move_the_clock_forward() -> None:
    """In every runtime, and let others run."""

    async def body(runtime: Any) -> None:
        before = clock.now()
        await driven(runtime.sleep(3600))
        assert clock.now() - before >= 3600

    with instant():
        run_now(body(SYNC))
        asyncio.run(body(ASYNCIO))
        trio.run(body, TRIO)


# -- The sync runtime on a loop's thread


def test_it_refuses_to_park_where_a_loop_runs() -> None:
    """What could wake it may need that very loop."""

    async def main() -> None:
        bulkhead = Bulkhead(1, max_queue=1)
        with bulkhead.guard():
            with pytest.raises(RuntimeError, match="through `acall`"):
                # In a context of its own: it is no call inside the guard.
                contextvars.Context().run(bulkhead.call, int)
        assert (0, 0) == (bulkhead.in_use, bulkhead.queued)

    asyncio.run(main())
    trio.run(main)


def test_it_warns_once_when_it_sleeps_where_a_loop_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stops every task of it; once for each line that called, with both names."""
    monkeypatch.setattr(clock, "sleep", lambda seconds: None)
    results: list[Any] = []

    def flaky() -> str:
        results.append(1)
        if len(results) % 3:
            raise OSError
        return "ok"

    retry = Retry(OSError, backoff=constant(1), name="fetch")

    async def main() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                assert "ok" == retry.call(flaky)
            with Bulkhead(1, name="fetch").guard():
                await SYNC.sleep(1)
            await SYNC.sleep(1)
        flaky_name = name_of(flaky)
        text = "sleeps on a thread that runs an event loop, and stops every task"
        assert [
            f"{flaky_name!r}, synchronous and under 'fetch', {text}",
            f"'fetch', synchronous and under 'fetch', {text}",
            f"a synchronous call {text}",
        ] == [str(warning.message).partition(" of it;")[0] for warning in caught]
        assert {ResilientWarning} == {warning.category for warning in caught}
        assert {__file__} == {warning.filename for warning in caught}

    asyncio.run(main())


def test_it_does_not_warn_where_no_loop_runs() -> None:
    """Nor for a wait of nothing."""

    async def on_the_loop() -> None:
        await SYNC.sleep(0)

    with virtual_time():
        run_now(SYNC.sleep(1))
    asyncio.run(on_the_loop())
    assert not resilient_warnings._warned


# -- Limits on asyncio


def timers(loop: Any) -> int:
    """Count the timers that are armed."""
    return sum(not handle.cancelled() for handle in loop._scheduled)


def test_calls_share_one_timer() -> None:
    """One a policy and loop, however many calls there are."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeout = Timeout(50)
        before = timers(loop)
        gate = asyncio.Event()
        tasks = [asyncio.create_task(timeout.acall(gate.wait)) for _ in range(100)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert before + 1 == timers(loop)
        gate.set()
        await asyncio.gather(*tasks)
        for _ in range(100):
            await timeout.acall(asyncio.sleep, 0)
        # NB: at once in virtual time, which would wait for it.
        assert before == timers(loop)

    virtual_time.run(main, backend="asyncio")


def test_the_timer_goes_on_for_who_came_later() -> None:
    """Armed anew for the first that is left, across many rounds."""

    async def main() -> None:
        timeout = Timeout(10)
        ended: list[tuple[float, float]] = []

        async def call(start: float) -> None:
            await asyncio.sleep(start)
            with pytest.raises(TimeoutExceededError):
                await timeout.acall(asyncio.sleep, 100)
            ended.append((start, clock.now()))

        async with asyncio.TaskGroup() as group:
            for start in range(40):
                group.create_task(call(start))
        assert [(start, start + 10) for start in range(40)] == ended

    virtual_time.run(main, backend="asyncio")


def test_a_timer_that_comes_early_is_armed_again() -> None:
    """A loop's clock may be coarser than ours."""

    async def main() -> None:
        timeout = Timeout(10)
        task = asyncio.create_task(timeout.acall(asyncio.sleep, 100))
        await asyncio.sleep(1)
        (queue,) = timeout._limits_by_loop.values()
        queue.timer.cancel()
        queue.expire()
        with pytest.raises(TimeoutExceededError):
            await task
        assert 10.0 == clock.now()

    virtual_time.run(main, backend="asyncio")


def test_a_call_that_ends_between_timer_and_delivery_is_not_cancelled() -> None:
    """The cancellation comes one turn later, when the call has ended."""

    async def main() -> None:
        call = Call.new("x")
        limit = ASYNCIO.limit(call, {}, 10.0, clock.now() + 10.0)
        limit.timer.cancel()  # type: ignore[union-attr]
        clock.sleep(11)
        limit.expire()
        assert End.BOTH is limit.leave(call, None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 == asyncio.current_task().cancelling()  # type: ignore[union-attr]

    virtual_time.run(main, backend="asyncio")


def test_a_call_that_begins_again_between_timer_and_delivery_is_not_cancelled() -> None:
    """Its next attempt has a limit of its own, in the same place."""

    async def main() -> None:
        limits_by_loop: dict[Any, Any] = {}
        call = Call.new("x")
        limit = ASYNCIO.limit(call, limits_by_loop, 10.0, clock.now() + 10.0)
        limit.timer.cancel()  # type: ignore[union-attr]
        clock.sleep(11)
        limit.expire()
        assert End.BOTH is limit.leave(call, None)
        assert limit is ASYNCIO.limit(call, limits_by_loop, 10.0, clock.now() + 10.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert End.IN_TIME is limit.leave(call, None)
        assert 0 == asyncio.current_task().cancelling()  # type: ignore[union-attr]

    virtual_time.run(main, backend="asyncio")


def test_a_call_that_is_closed_while_others_expire_is_let_go() -> None:
    """As by a garbage collection that begins there."""

    async def main() -> None:
        limits_by_loop: dict[Any, Any] = {}
        until = clock.now() + 10.0
        call, lost = Call.new("call"), Call.new("lost")
        limit = ASYNCIO.limit(call, limits_by_loop, 10.0, until)
        ASYNCIO.limit(lost, limits_by_loop, 10.0, until)
        limit.timer.cancel()  # type: ignore[union-attr]
        ended: list[End] = []

        class Collecting:
            def call_soon(self, deliver: Callable[[], None]) -> None:
                ended.append(limit.leave(lost, None))

        limit.loop = Collecting()  # type: ignore[assignment]
        clock.sleep(11)
        limit.expire()
        assert [End.IN_TIME] == ended
        assert End.BOTH is limit.leave(call, None)
        assert not limit.entries
        assert not limit.late

    virtual_time.run(main, backend="asyncio")


def test_a_call_that_is_closed_as_its_time_is_up_is_let_go() -> None:
    """Its entry is gone when the timer comes to it; nothing of it stays."""

    class Collecting(dict[Any, Any]):
        def pop(self, *args: Any) -> Any:
            limit.leave(call, None)
            return super().pop(*args)

    async def main() -> None:
        nonlocal limit
        limit = ASYNCIO.limit(call, {}, 10.0, clock.now() + 10.0)
        limit.timer.cancel()  # type: ignore[union-attr]
        limit.entries = Collecting(limit.entries)
        clock.sleep(11)
        limit.expire()
        assert not limit.entries
        assert not limit.late
        await asyncio.sleep(0)
        assert 0 == asyncio.current_task().cancelling()  # type: ignore[union-attr]

    call, limit = Call.new("x"), cast("AsyncioLimits", None)
    virtual_time.run(main, backend="asyncio")


def test_a_call_that_is_closed_as_others_are_looked_at_disturbs_none() -> None:
    """The queue changes under the timer, which looks once more."""

    class Collecting(dict[Any, Any]):
        lost: ClassVar[list[Call]] = [Call.new("lost")]

        def items(self) -> Any:
            for item in super().items():
                yield item
                if self.lost:
                    limit.leave(self.lost.pop(), None)

    async def main() -> None:
        nonlocal limit
        limits_by_loop: dict[Any, Any] = {}
        call = Call.new("call")
        for caller in (call, *Collecting.lost):
            limit = ASYNCIO.limit(caller, limits_by_loop, 10.0, clock.now() + 10.0)
        limit.timer.cancel()  # type: ignore[union-attr]
        limit.entries = Collecting(limit.entries)
        clock.sleep(11)
        limit.expire()
        assert [call] == list(limit.late)
        assert End.BOTH is limit.leave(call, None)

    limit = cast("AsyncioLimits", None)
    virtual_time.run(main, backend="asyncio")


def test_a_limit_within_itself_has_a_place_of_its_own() -> None:
    """A policy that one call passes twice limits it twice."""

    async def main() -> None:
        limits_by_loop: dict[Any, Any] = {}
        call = Call.new("x")
        outer = ASYNCIO.limit(call, limits_by_loop, 10.0, clock.now() + 10.0)
        inner = ASYNCIO.limit(call, limits_by_loop, 10.0, clock.now() + 10.0)
        assert inner is not outer
        assert End.IN_TIME is inner.leave(call, None)
        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.sleep(99)
        assert End.CUT is outer.leave(call, caught.value)
        assert 10.0 == clock.now()

    virtual_time.run(main, backend="asyncio")


def test_a_lone_limit_takes_its_timer_along() -> None:
    """No shelf: nothing is shared, and nothing stays behind."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = timers(loop)
        call = Call.new("x")
        limit = ASYNCIO.limit(call, None, 10.0, clock.now() + 10.0)
        assert before + 1 == timers(loop)
        assert End.IN_TIME is limit.leave(call, None)
        assert before == timers(loop)
        limit = ASYNCIO.limit(call, None, 1.0, clock.now() + 1.0)
        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.sleep(9)
        assert End.CUT is limit.leave(call, caught.value)
        assert before == timers(loop)

    virtual_time.run(main, backend="asyncio")


@pytest.mark.real
def test_one_policy_serves_loops_of_several_threads() -> None:
    """Each loop has its own timer; all are cut in time."""
    timeout = Timeout(0.02)
    barrier = threading.Barrier(4)
    cut: list[int] = []

    async def main() -> None:
        barrier.wait(10)
        for _ in range(3):
            results = await asyncio.gather(
                *[timeout.acall(asyncio.sleep, 60) for _ in range(10)],
                return_exceptions=True,
            )
            cut.append(
                sum(isinstance(result, TimeoutExceededError) for result in results)
            )

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [10] * 12 == cut
    assert 4 >= len(timeout._limits_by_loop)


def test_loops_that_are_closed_are_let_go_of() -> None:
    """Even with a timer armed; the next loop works."""
    timeout = Timeout(60)

    async def quick() -> None:
        await timeout.acall(asyncio.sleep, 0)

    for _ in range(5):
        asyncio.run(quick())
    assert 1 == len(timeout._limits_by_loop)

    async def cut() -> None:
        with pytest.raises(TimeoutExceededError):
            await timeout.acall(asyncio.sleep, 100)
        assert 60.0 == clock.now()

    virtual_time.run(cut, backend="asyncio")
    assert 1 == len(timeout._limits_by_loop)


def test_a_loop_that_stops_and_runs_again_keeps_its_limits() -> None:
    """The armed timer is the loop's."""
    timeout = Timeout(5)
    with asyncio.Runner(loop_factory=virtual_time.loop_factory) as runner:
        loop = runner.get_loop()
        task = loop.create_task(timeout.acall(asyncio.sleep, 100))
        runner.run(asyncio.sleep(1))
        with pytest.raises(TimeoutExceededError):
            loop.run_until_complete(task)
        assert 5.0 == loop.time()


def test_a_call_in_time_leaves_nothing_to_the_collector() -> None:
    """Nor does one that was cut."""

    async def main() -> None:
        timeout = Timeout(5)

        async def once() -> None:
            await timeout.acall(asyncio.sleep, 0)
            try:
                await timeout.acall(asyncio.sleep, 100)
            except TimeoutExceededError:
                pass

        await once()
        with no_garbage():
            for _ in range(10):
                await once()

    virtual_time.run(main, backend="asyncio")


# -- Limits on trio


def test_a_limit_closed_in_another_task_goes_quietly() -> None:
    """Its scope was never in that task's stack."""

    async def main() -> None:
        limits: list[Any] = []
        call = Call.new("x")
        begun, over = trio.Event(), trio.Event()

        async def enter() -> None:
            limits.append(TRIO.limit(call, None, 10.0, clock.now() + 10.0))
            begun.set()
            await over.wait()
            assert End.IN_TIME is limits[0].leave(call, None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(enter)
            await begun.wait()
            assert End.IN_TIME is limits[0].leave(call, GeneratorExit())
            with pytest.raises(RuntimeError, match="unrelated"):
                limits[0].leave(call, KeyboardInterrupt())
            over.set()

    trio.run(main)


def test_the_same_tick_on_trio_is_short() -> None:
    """Longer than a pass of the scheduler, shorter than any cleanup with I/O."""
    assert 0 < trio_runtime.SAME_TICK < 0.01


def test_a_limit_in_sync_is_a_deadline_only() -> None:
    """Nothing can be interrupted."""
    call = Call.new("x")
    limit = SYNC.limit(call, {}, 1.0, clock.now() + 1.0)
    assert End.IN_TIME is limit.leave(call, None)


# -- Races


class Runner:
    """Work for a race, that sleeps for ever or until it is interrupted."""

    def __init__(self, name: str, *, settled: bool = False) -> None:
        self.name = name
        self.settled = settled
        self.interrupted = False
        self.over: list[BaseException | None] = []

    async def run(self) -> None:
        runtime = current_runtime(Call.new("x"))
        try:
            await driven(runtime.sleep(60))
        except BaseException:
            self.interrupted = True
        finally:
            self.ended()

    def ended(self, error: BaseException | None = None) -> None:
        self.over.append(error)


@pytest.mark.parametrize("backend", ["asyncio", "trio", "simulated"])
def test_an_abandoned_race_interrupts_what_runs(backend: Any) -> None:
    """Without a wait; it ends in a step of its own."""

    async def main() -> None:
        call = Call.new("x")
        runners = [Runner("first"), Runner("second")]
        race = await driven(call.runtime.race(call))
        assert [True, True] == [race.start(runner) for runner in runners]
        assert not await driven(race.wait(clock.now() + 1))
        race.abandon()
        assert [[], []] == [runner.over for runner in runners]
        await driven(race.leave(1, unwinding=True))
        assert [True, True] == [runner.interrupted for runner in runners]
        assert 1.0 == clock.now()

    if backend == "simulated":
        run_simulated(lambda world: main())
    else:
        virtual_time.run(main, backend=backend)


def test_threads_of_an_abandoned_race_are_left_alone() -> None:
    """They cannot be interrupted, and their end is not reported."""
    runner = Runner("thread")
    gate = threading.Lock()
    gate.acquire()

    async def run() -> None:
        gate.acquire()
        runner.ended()

    runner.run = run  # type: ignore[method-assign]
    race = run_now(SYNC.race(Call.new("x", runtime=SYNC)))
    assert race.start(runner)
    race.abandon()
    run_now(race.leave(1, unwinding=True))
    assert [] == runner.over
    gate.release()


def test_work_that_is_settled_is_not_interrupted() -> None:
    """On asyncio it goes on after the grace; something keeps it until then."""
    left = asyncio_runtime._left

    async def main() -> None:
        call = Call.new("x")
        runner = Runner("settled", settled=True)
        race = await driven(call.runtime.race(call))
        race.start(runner)
        await driven(race.leave(2, unwinding=False))
        assert 2.0 == clock.now()
        assert ["settled"] == [task.get_name() for task in left]
        del race
        gc.collect()
        await asyncio.sleep(60)
        assert not runner.interrupted
        assert set() == left

    virtual_time.run(main)


def test_work_cancelled_before_its_first_step() -> None:
    """Never runs, and is told."""

    async def main() -> None:
        call = Call.new("x")
        runner = Runner("unbegun")
        race = await driven(call.runtime.race(call))
        race.start(runner)
        await driven(race.leave(1, unwinding=False))
        assert [asyncio.CancelledError] == [type(one) for one in runner.over]

    virtual_time.run(main)


@pytest.mark.parametrize("abandoned", ["before", "after"])
def test_an_abandoned_race_of_a_closed_loop_keeps_nothing(abandoned: str) -> None:
    """Its tasks will never end; those it had kept go with the next that is left."""
    races: list[Any] = []
    coroutines: list[Any] = []

    async def main() -> None:
        call = Call.new("x")
        race = await driven(call.runtime.race(call))
        race.start(Runner("lost"))
        races.append(race)
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        coroutines.append(task.get_coro())
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    if abandoned == "before":
        races.pop().abandon()
        assert 1 == len(asyncio_runtime._left)
    loop.close()
    asyncio_runtime._keep([])
    if races:
        races.pop().abandon()
    assert set() == asyncio_runtime._left
    coroutines.pop().close()


# -- Background tasks


def test_a_background_task_is_cancelled_from_any_thread_and_waited_for() -> None:
    """Its `last` callback runs whether its body began or not."""
    log: list[str] = []

    async def body() -> None:
        try:
            await trio.sleep_forever() if log[0] == "trio" else await asyncio.sleep(99)
        finally:
            log.append("body")

    async def main(runtime: Any) -> None:
        log[:] = [runtime.name]
        background = runtime.spawn("task", body, lambda: log.append("last"))
        await runtime.sleep(1)
        thread = threading.Thread(target=background.cancel)
        thread.start()
        thread.join()
        await background.ended()
        await background.ended()
        assert [runtime.name, "body", "last"] == log

    async def driven(runtime: Any) -> None:
        coroutine = main(runtime)
        standstill = coroutine.send(None)
        while True:
            try:
                answer = None if standstill is PAUSE else await suspend(standstill)
                standstill = coroutine.send(answer)
            except StopIteration:
                return

    virtual_time.run(driven, ASYNCIO)
    virtual_time.run(driven, TRIO, backend="trio")


def test_a_background_task_of_a_run_that_is_over_is_over() -> None:
    """There is nothing to cancel."""
    left: list[Any] = []

    async def body() -> None: ...

    async def main(runtime: Any) -> None:
        left.append(runtime.spawn("task", body, bool))
        await left[-1].ended()

    asyncio.run(main(ASYNCIO))
    trio.run(main, TRIO)
    for background in left:
        background.cancel()


def test_a_home_is_a_loop_a_run_or_a_process() -> None:
    """And no other of them."""

    async def home(runtime: Any) -> object:
        assert runtime.owner() is runtime.owner()
        return runtime.owner()

    homes = [asyncio.run(home(ASYNCIO)), asyncio.run(home(ASYNCIO))]
    homes += [trio.run(home, TRIO), trio.run(home, TRIO), SYNC.owner()]
    assert 5 == len(set(homes))
    assert SYNC.owner() == SYNC.owner()
