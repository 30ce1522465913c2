"""The event heap as a runtime: limits, tasks, races."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulated import run_simulated

from resilient import (
    Call,
    Hedge,
    Pipeline,
    Retry,
    Timeout,
    TimeoutExceededError,
)
from resilient._runtimes import clock
from resilient._runtimes.current import current_runtime
from resilient._runtimes.runtime import End
from resilient._runtimes.simulated import Cancelled, Suspension, World
from resilient.testing import VirtualTimeError, virtual_time
from resilient.testing._world import world

# -- Which runtime is found, and time


def test_calls_in_a_world_run_on_it() -> None:
    """And those after it do not."""

    async def main(heap: World) -> None:
        call = Call.new("x")
        assert current_runtime(call) is heap
        assert call.task is heap.running is heap.task_or_thread()
        assert heap is heap.owner()
        assert "simulated" == heap.name

    run_simulated(main)
    with pytest.raises(RuntimeError, match="no task of asyncio or trio"):
        current_runtime(Call.new("x"))


def test_a_world_is_refused_in_virtual_time() -> None:
    """One virtual clock a process."""
    with virtual_time():
        with pytest.raises(VirtualTimeError, match="cannot be nested"):
            with world(1, World):
                raise AssertionError


def test_what_nothing_can_wake_ends_the_run() -> None:
    """It is left where it waits."""
    with world(1, World) as heap:

        async def main() -> None:
            await heap.park(heap.waiter(Call.new("x")), None)

        task = heap.start(main(), "main")
        heap.run()

        assert not task.has_ended
        assert 1 == heap.under_way
        task.cancel()
        heap.run()
        assert isinstance(task.error, Cancelled)


# -- Limits


def within(seconds: float, sleeps: float) -> tuple[str, float]:
    """What a `Timeout` makes of a function that sleeps, and when."""

    async def main(heap: World) -> tuple[str, float]:
        async def function() -> str:
            await heap.sleep(sleeps)
            return "answer"

        try:
            return await Timeout(seconds).acall(function), clock.now()
        except TimeoutExceededError:
            return "timeout", clock.now()

    told: tuple[str, float] = run_simulated(main)
    return told


@pytest.mark.parametrize(
    ("sleeps", "told"),
    [(1.0, ("answer", 1.0)), (2.0, ("answer", 2.0)), (2.1, ("timeout", 2.0))],
)
def test_an_answer_in_time_wins(sleeps: float, told: tuple[str, float]) -> None:
    """At the very moment of the deadline, too, as on asyncio."""
    assert told == within(2.0, sleeps)


def test_a_call_that_ends_between_expiry_and_delivery_is_not_cancelled() -> None:
    """Its limit has expired, and says so."""

    async def main(heap: World) -> None:
        call = Call.new("x")
        limit = heap.limit(call, None, 1.0, 1.0)
        # NB: asked for later, so that it comes after the expiry.
        await heap.sleep(1.0)
        assert End.BOTH is limit.leave(call, None)
        await heap.sleep(1.0)
        assert 2.0 == clock.now()

    run_simulated(main)


def test_a_cancellation_besides_comes_first() -> None:
    """A limit that is reached meanwhile did not cut the call alone."""

    async def main(heap: World) -> None:
        call = Call.new("x")
        limit = heap.limit(call, None, 1.0, 1.0)
        assert heap.running is not None
        heap.at(1.0, heap.running.__class__.cancel, heap.running)
        with pytest.raises(Cancelled) as caught:
            await heap.sleep(9.0)
        assert 1.0 == clock.now()
        assert not heap.is_cut([call], caught.value)
        assert End.BOTH is limit.leave(call, caught.value)

    run_simulated(main)


def test_a_limit_knows_what_it_cut() -> None:
    """And it is no KeyboardInterrupt that it raised."""

    async def main(heap: World) -> None:
        outer, inner = Call.new("outer"), Call.new("inner")
        limits = [heap.limit(call, None, 1.0, 1.0) for call in (outer, inner)]
        with pytest.raises(Cancelled) as caught:
            await heap.sleep(9.0)
        assert heap.is_cut([inner, outer], caught.value)
        assert not heap.is_cut([inner, outer], KeyboardInterrupt())
        assert not heap.is_cut([Call.new("other")], caught.value)
        assert End.BOTH is limits[1].leave(inner, KeyboardInterrupt())
        assert End.CUT is limits[0].leave(outer, caught.value)
        limit = heap.limit(outer, None, 1.0, 2.0)
        with pytest.raises(Cancelled):
            await heap.sleep(9.0)
        assert End.BOTH is limit.leave(outer, KeyboardInterrupt())

    run_simulated(main)


def test_two_limits_of_one_call_are_left_one_by_one() -> None:
    """A policy that one call passes twice limits it twice."""

    async def main(heap: World) -> None:
        call = Call.new("x")
        outer, inner = (heap.limit(call, None, 1.0, 1.0) for _ in range(2))
        with pytest.raises(Cancelled):
            await heap.sleep(9.0)
        with pytest.raises(Cancelled) as caught:
            await heap.sleep(9.0)
        assert End.BOTH is inner.leave(call, caught.value)
        assert End.CUT is outer.leave(call, None)

    run_simulated(main)


# -- Tasks


def test_a_task_that_is_cancelled_before_it_begins_never_runs() -> None:
    """And one that has ended is left alone."""
    with world(1, World) as heap:

        async def main() -> None:
            raise AssertionError

        ended: list[str] = []
        task = heap.spawn("never", main, lambda: ended.append("never"))
        task.cancel()
        heap.run()
        assert task.has_ended
        assert isinstance(task.error, Cancelled)
        assert ["never"] == ended
        task.cancel()
        assert 0 == heap.under_way


def test_a_task_that_cancels_itself_is_interrupted_where_it_waits() -> None:
    """Not before."""

    async def main(heap: World) -> None:
        assert heap.running is not None
        heap.running.cancel()
        with pytest.raises(Cancelled):
            await heap.sleep(5.0)
        assert 0.0 == clock.now()
        await heap.sleep(5.0)
        assert 5.0 == clock.now()

    run_simulated(main)


def test_the_end_of_a_task_is_waited_for_whatever_comes() -> None:
    """A cancellation meanwhile is raised afterwards."""

    async def main(heap: World) -> None:
        async def slow() -> None:
            await heap.sleep(3.0)

        task = heap.spawn("slow", slow, lambda: None)
        assert heap.running is not None
        heap.at(1.0, heap.running.__class__.cancel, heap.running)
        with pytest.raises(Cancelled):
            await task.ended()
        assert 3.0 == clock.now()
        await task.ended()

    run_simulated(main)


def test_what_is_not_simulated_is_refused() -> None:
    """The text says what to wait through."""

    async def main(heap: World) -> None:
        with pytest.raises(RuntimeError, match="NoneType was awaited in simulated"):
            await asyncio.sleep(0)

    run_simulated(main)


def test_an_interrupt_ends_the_run() -> None:
    """Ctrl-C is no result of a task."""

    async def main(heap: World) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_simulated(main)


def test_a_wake_is_for_one_wait() -> None:
    """A second one, before the first is noticed, is for the next."""

    async def main(heap: World) -> None:
        waiter = heap.waiter(Call.new("x"))
        heap.at(1.0, lambda _: [waiter.wake(), waiter.wake()], None)
        assert await heap.park(waiter, 9.0)
        assert await heap.park(waiter, 9.0)
        assert not await heap.park(waiter, 9.0)
        assert not waiter.is_gone()

    run_simulated(main)


def test_a_suspension_that_is_left_is_not_resumed() -> None:
    """Its entry of the heap finds nothing to do."""

    async def main(heap: World) -> None:
        lost = Suspension(None)
        heap.wake(lost, "late")
        await heap.sleep(1.0)

    run_simulated(main)


# -- Races


class Runner:
    """Work for a race, that sleeps until it is interrupted, and then some more."""

    name = "work"

    def __init__(self, heap: World, cleanup: float, *, settled: bool = False) -> None:
        self.heap = heap
        self.cleanup = cleanup
        self.settled = settled
        self.errors: list[BaseException] = []

    async def run(self) -> None:
        try:
            await self.heap.sleep(60.0)
        except Cancelled:
            await self.heap.sleep(self.cleanup)

    def ended(self, error: BaseException) -> None:
        self.errors.append(error)


@pytest.mark.parametrize(
    ("unwinding", "until"), [(False, 2.0), (True, 5.0)], ids=["answer", "unwinding"]
)
def test_a_race_waits_for_what_cleans_up(unwinding: bool, until: float) -> None:
    """At most for the grace, unless it unwinds."""

    async def main(heap: World) -> None:
        race = await heap.race(Call.new("x"))
        race.start(Runner(heap, 5.0))
        race.start(Runner(heap, 50.0, settled=True))
        with race.cleanup(Runner(heap, 0.0)):
            assert not await race.wait(0.0)
        if unwinding:
            race = await heap.race(Call.new("x"))
            race.start(Runner(heap, 5.0))
            await heap.sleep(0.0)
        await race.leave(2.0, unwinding=unwinding)
        assert until == clock.now()

    run_simulated(main)


def test_a_race_that_is_cancelled_interrupts_its_work_again() -> None:
    """As on asyncio; the cancellation goes on when the work has ended."""

    async def main(heap: World) -> None:
        race = await heap.race(Call.new("x"))
        race.start(Runner(heap, 5.0))
        await heap.sleep(1.0)
        assert heap.running is not None
        heap.at(2.0, heap.running.__class__.cancel, heap.running)
        with pytest.raises(Cancelled):
            await race.leave(4.0, unwinding=False)
        assert 2.0 == clock.now()

    run_simulated(main)


def test_work_of_a_race_that_never_began_is_told() -> None:
    """With what it was stopped by."""

    async def main(heap: World) -> None:
        race = await heap.race(Call.new("x"))
        await race.leave(1.0, unwinding=False)
        runner = Runner(heap, 0.0)
        race.start(runner)
        race.abandon()
        await race.leave(1.0, unwinding=False)
        assert [Cancelled] == [type(error) for error in runner.errors]

    run_simulated(main)


# -- Decorated functions


def test_decorated_functions_run_in_tasks() -> None:
    """They wait through the world, and their policies do."""

    async def main(heap: World) -> None:
        runs: list[float] = []

        @Pipeline(Retry(ConnectionError), Hedge(0.5), Timeout(3))
        async def fetch() -> str:
            runs.append(clock.now())
            await heap.sleep(1.0)
            if len(runs) < 3:
                raise ConnectionError
            return "answer"

        assert "answer" == await fetch()
        assert [0.0, 0.5] == runs[:2]

    run_simulated(main)
