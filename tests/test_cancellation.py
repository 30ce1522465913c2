"""Cancellation at every checkpoint: no permit is lost.

A scenario runs once undisturbed and is counted: the turns of asyncio's loop,
or the steps of trio's tasks. It then runs again for each of them, and is
cancelled there. What is looked at afterwards is always the same: every count
is back at nothing, and a fresh call succeeds.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
import trio

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    Coalesce,
    Fallback,
    Hedge,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    StaleCache,
    Timeout,
    constant,
)
from resilient._runtimes import clock
from resilient.testing import virtual_time
from resilient.testing._asyncio_clock import VirtualEventLoop

Sleep = Callable[[float], Awaitable[None]]


class SlowStore:
    """A store that takes a while and never has anything."""

    def __init__(self, sleep: Sleep) -> None:
        self.sleep = sleep

    async def get(self, key: object) -> None:
        await self.sleep(0.2)

    async def set(self, key: object, value: object, lifetime: float) -> None:
        await self.sleep(0.2)

    async def delete(self, key: object) -> None:
        await self.sleep(0.2)


class Scene:
    """Policies under a call that fails once, waits for everything, succeeds.

    Others hold the bulkhead's slot and the limiter's tokens when it comes, and
    the breaker is half-open, so that its calls are probes.
    """

    def __init__(self, sleep: Sleep, *kinds: str) -> None:
        self.sleep = sleep
        self.bulkhead = Bulkhead(1, max_queue=3)
        self.adaptive = AdaptiveConcurrency(
            AIMD(1, maximum=1), max_queue=3, max_wait=30, overload_wait=30
        )
        self.limiter = RateLimiter(1, per=2, max_wait=None)
        self.breaker = CircuitBreaker(consecutive_failures=9, open_for=1)
        every: dict[str, Callable[[], Policy[Any]]] = {
            "fallback": lambda: Fallback(function=self.spare),
            "total": lambda: Timeout(60),
            "retry": lambda: Retry(OSError, backoff=constant(1)),
            "breaker": lambda: self.breaker,
            "limiter": lambda: self.limiter,
            "bulkhead": lambda: self.bulkhead,
            "adaptive": lambda: self.adaptive,
            "attempt": lambda: Timeout(4),
            "slow": lambda: Timeout(0.3),
            "hedge": lambda: Hedge(0.2, attempts=3, max_threads=9),
            "per key": lambda: PerKey(lambda key: self.bulkhead, key=lambda: 1),
            "coalesce": Coalesce,
            "cache": lambda: StaleCache(0, 60, store=SlowStore(self.sleep)),
            "inner": lambda: Pipeline(Bulkhead(2), Timeout(3), classify=OSError),
        }
        self.kinds = kinds
        self.pipeline: Pipeline[Any] = Pipeline(*[every[kind]() for kind in kinds])
        self.attempts = 0

    async def spare(self, error: Exception) -> str:
        await self.sleep(0)
        return "spare"

    async def function(self) -> str:
        """Fail in the first attempt, and take six steps in each."""
        self.attempts += 1
        await self.sleep(0.5)
        for _ in range(5):
            await self.sleep(0)
        if self.attempts == 1:
            raise OSError
        return "ok"

    async def prepare(self) -> None:
        """Open the breaker and wait until it will probe; drain the limiter."""
        if "breaker" in self.kinds:
            for _ in range(9):
                with pytest.raises(KeyError):
                    await self.breaker.acall(self.fail)
            assert CircuitState.OPEN is self.breaker.state
            await self.sleep(1)
        await self.limiter.acall(self.succeed)

    async def fail(self) -> None:
        raise KeyError

    async def succeed(self) -> str:
        return "fresh"

    async def occupy(self) -> None:
        """Hold the only slot of each for three seconds."""
        await Pipeline(self.bulkhead, self.adaptive).acall(self.sleep, 3)

    async def call(self) -> object:
        try:
            return await self.pipeline.acall(self.function)
        except Exception as error:
            return error

    async def check(self) -> None:
        """Nothing is held any more, and all still works."""
        bulkhead, limiter, breaker = self.bulkhead, self.limiter, self.breaker
        assert (0, 0) == (bulkhead.in_use, bulkhead.queued)
        assert (0, 0) == (self.adaptive.in_flight, self.adaptive.queued)
        assert 0 == limiter.queued
        assert 0 == breaker.statistics().in_flight_probes
        assert "fresh" == await self.pipeline.acall(self.succeed)
        assert (0, 0) == (bulkhead.in_use, bulkhead.queued)
        assert (0, 0) == (self.adaptive.in_flight, self.adaptive.queued)
        assert 0 == limiter.queued
        assert 0 == breaker.statistics().in_flight_probes


FULL = ("fallback", "total", "retry", "breaker", "limiter", "bulkhead", "attempt")
SCENES = [
    FULL,
    ("fallback",),
    ("total",),
    ("slow",),
    ("retry",),
    ("breaker",),
    ("limiter",),
    ("bulkhead",),
    ("adaptive",),
    ("per key",),
    ("retry", "inner"),
    ("fallback", "retry", "slow"),
    ("hedge",),
    ("total", "retry", "hedge", "breaker", "limiter", "bulkhead", "attempt"),
    ("coalesce",),
    ("cache",),
    ("fallback", "cache", "coalesce", *FULL[1:]),
]
scenes = pytest.mark.parametrize("kinds", SCENES, ids="-".join)


# -- asyncio: at every turn of the loop


class TurningLoop(VirtualEventLoop):
    """A loop that counts its turns and cancels a task at one of them."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.turns = 0
        self.victim: asyncio.Task[Any] | None = None
        self.at = -1

    def watch(self, victim: asyncio.Task[Any], at: int) -> None:
        self.turns, self.victim, self.at = 0, victim, at

    def _run_once(self) -> None:
        if self.victim is not None:
            if self.turns == self.at:
                self.victim.cancel()
            self.turns += 1
        super()._run_once()  # type: ignore[misc]  # it is private


async def on_asyncio(scene: Scene, at: int) -> tuple[object, int]:
    """Run a scene, cancelled at a turn; return its result and the turns."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, TurningLoop)
    await scene.prepare()
    holder = asyncio.create_task(scene.occupy())
    await asyncio.sleep(0)
    task = asyncio.create_task(scene.call())
    loop.watch(task, at)
    try:
        result: object = await task
    except asyncio.CancelledError as cancelled:
        result = cancelled
    turns, loop.victim = loop.turns, None
    await holder
    await scene.check()
    assert [asyncio.current_task()] == list(asyncio.all_tasks())
    return result, turns


def run_on_asyncio(kinds: tuple[str, ...], at: int) -> tuple[object, int]:
    """Run a scene on a loop of its own."""
    with asyncio.Runner(loop_factory=TurningLoop) as runner:
        scene = Scene(asyncio.sleep, *kinds)
        return runner.run(on_asyncio(scene, at))


@scenes
def test_cancelled_at_every_turn_of_asyncio(kinds: tuple[str, ...]) -> None:
    """Wherever it is, everything goes back."""
    undisturbed, turns = run_on_asyncio(kinds, -1)
    assert kinds != FULL or undisturbed == "ok"
    cancelled = 0
    for at in range(turns):
        result, _ = run_on_asyncio(kinds, at)
        cancelled += isinstance(result, asyncio.CancelledError)
        if not isinstance(result, asyncio.CancelledError):
            # Too late: it had ended.
            assert at >= turns - 2
            assert repr(undisturbed) == repr(result)
    assert cancelled >= turns - 2
    assert turns > (20 if kinds == FULL else 1)


# -- asyncio: as it is woken, and closed at every suspension


@types.coroutine
def cancelled_as_woken(
    coroutine: Any, suspension: int
) -> Generator[Any, Any, tuple[Any, int]]:
    """Drive a coroutine; cancel it in the turn in which a suspension ends."""
    task = asyncio.current_task()
    assert task is not None
    count, value, error = 0, None, None
    while True:
        try:
            resume = coroutine.throw if error else coroutine.send
            request = resume(error or value)
        except StopIteration as stop:
            return stop.value, count
        if count == suspension:
            if request is None:
                asyncio.get_running_loop().call_soon(task.cancel)
            else:
                # NB: before the task's own: it is cancelled, then woken.
                request.add_done_callback(lambda _: task.cancel())
        count += 1
        value = error = None
        try:
            value = yield request
        except BaseException as thrown:
            error = thrown


@types.coroutine
def closed_at(coroutine: Any, suspension: int) -> Generator[Any, Any, bool]:
    """Drive a coroutine; close it at a suspension. Return whether it got there."""
    error: BaseException | None = None
    for count in range(suspension + 1):
        try:
            resume = coroutine.throw if error else coroutine.send
            request = resume(error)
        except StopIteration:
            return False
        error = None
        if count == suspension:
            break
        try:
            yield request
        except BaseException as thrown:
            error = thrown
    coroutine.close()
    return True


@scenes
def test_cancelled_as_it_is_woken(kinds: tuple[str, ...]) -> None:
    """What was granted in the same turn goes to the next."""

    async def main(suspension: int) -> int:
        scene = Scene(asyncio.sleep, *kinds)
        await scene.prepare()
        holder = asyncio.create_task(scene.occupy())
        await asyncio.sleep(0)

        async def driven() -> tuple[Any, int]:
            return await cancelled_as_woken(scene.call(), suspension)

        task = asyncio.create_task(driven())
        count = -1
        try:
            _, count = await task
        except asyncio.CancelledError:
            pass
        await holder
        await scene.check()
        return count

    suspensions = virtual_time.run(main, -1)
    assert suspensions > 0
    for suspension in range(suspensions):
        assert -1 == virtual_time.run(main, suspension)


@scenes
def test_closed_at_every_suspension(kinds: tuple[str, ...]) -> None:
    """A coroutine that is closed in its wait gives everything back."""

    async def main(suspension: int) -> bool:
        scene = Scene(asyncio.sleep, *kinds)
        await scene.prepare()
        holder = asyncio.create_task(scene.occupy())
        await asyncio.sleep(0)
        closed = await closed_at(scene.call(), suspension)
        if "hedge" in kinds:
            # Its attempts are tasks, and end in a step of their own.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert 0 == scene.bulkhead.queued
        await holder
        await scene.check()
        return closed

    suspension = 0
    while virtual_time.run(main, suspension):
        suspension += 1
    assert suspension > 0


# -- trio: at every step of a task


class Steps(trio.abc.Instrument):
    """Counts steps of tasks, and cancels a scope before or after one."""

    def __init__(self, scope: trio.CancelScope, at: int) -> None:
        self.scope = scope
        self.at = at
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._step()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._step()

    def _step(self) -> None:
        if self.steps == self.at:
            self.scope.cancel()
        self.steps += 1


async def on_trio(kinds: tuple[str, ...], at: int) -> tuple[object, int]:
    """Run a scene, cancelled at a step; return its result and the steps."""
    scene = Scene(trio.sleep, *kinds)
    await scene.prepare()
    result: object = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.occupy)
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            steps = Steps(scope, at)
            trio.lowlevel.add_instrument(steps)
            try:
                result = await scene.call()
            finally:
                trio.lowlevel.remove_instrument(steps)
    await scene.check()
    return "cancelled" if scope.cancelled_caught else result, steps.steps


@scenes
def test_cancelled_at_every_step_of_trio(kinds: tuple[str, ...]) -> None:
    """Wherever it is, everything goes back."""

    def run(at: int) -> tuple[object, int]:
        return virtual_time.run(on_trio, kinds, at, backend="trio")

    undisturbed, steps = run(-1)
    assert kinds != FULL or undisturbed == "ok"
    cancelled = 0
    for at in range(steps):
        result, _ = run(at)
        cancelled += result == "cancelled"
        if result != "cancelled":
            assert repr(undisturbed) == repr(result)
    # With its answer in hand a hedge still sees its other attempts to their end.
    assert cancelled >= steps - (10 if "hedge" in kinds else 4)
    assert steps > (20 if kinds == FULL else 1)


def test_closed_in_the_function_on_trio() -> None:
    """A coroutine that is closed in its wait gives everything back."""

    async def main() -> None:
        scene = Scene(trio.sleep, *FULL)

        async def stands() -> None:
            await trio.lowlevel.cancel_shielded_checkpoint()

        coroutine = scene.pipeline.acall(stands)
        coroutine.send(None)
        assert 1 == scene.bulkhead.in_use
        coroutine.close()
        await trio.sleep(0)
        await scene.check()

    virtual_time.run(main, backend="trio")


def test_closed_after_the_run_on_trio() -> None:
    """No scope can be left then, but permits go back."""
    scene = Scene(trio.sleep, *FULL)
    left: list[Any] = []

    async def stands() -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def main() -> None:
        task: Any = trio.lowlevel.current_task()
        status = task._cancel_status
        coroutine = scene.pipeline.acall(stands)
        coroutine.send(None)
        left.append(coroutine)
        # NB: as a run that crashed leaves it.
        task._activate_cancel_status(status)

    virtual_time.run(main, backend="trio")
    assert 1 == scene.bulkhead.in_use
    left.pop().close()
    assert 0 == scene.bulkhead.in_use


# -- What is no Exception, raised in the function


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
@scenes
def test_an_interrupt_in_the_function(
    kinds: tuple[str, ...], colour: str, kind: type[BaseException]
) -> None:
    """It goes through, and everything goes back."""

    async def stops() -> None:
        raise kind

    def stops_now() -> None:
        raise kind

    scene: Scene | None = None

    async def main() -> None:
        nonlocal scene
        scene = Scene(asyncio.sleep if colour == "asyncio" else trio.sleep, *kinds)
        if kind is GeneratorExit:
            with pytest.raises(GeneratorExit):
                await scene.pipeline.acall(stops)
            return
        # NB: caught here, for a loop takes an interrupt as its own.
        try:
            await scene.pipeline.acall(stops)
        except kind:
            await scene.check()
            return
        raise AssertionError("it was swallowed")

    if colour != "sync":
        virtual_time.run(main, backend=colour)  # type: ignore[arg-type]
    else:
        scene = Scene(
            asyncio.sleep, *[k for k in kinds if k not in ("fallback", "cache")]
        )
        with virtual_time(), pytest.raises(kind):
            scene.pipeline.call(stops_now)
    assert scene is not None
    assert (0, 0) == (scene.bulkhead.in_use, scene.bulkhead.queued)
    assert 0 == scene.breaker.statistics().in_flight_probes


def test_an_interrupt_in_every_wait_of_a_sync_call() -> None:
    """Ctrl-C in a sleep, in a queue, in the wait for a thread."""

    def run(at: int) -> int:
        waits = 0
        scene = Scene(asyncio.sleep, *FULL[1:])
        thread = Timeout(3, abandon=True)
        pipeline = Pipeline(*scene.pipeline.policies, thread)

        def flaky() -> str:
            scene.attempts += 1
            if scene.attempts == 1:
                raise OSError
            return "ok"

        with virtual_time(), pytest.MonkeyPatch.context() as patch:
            scene.limiter.call(lambda: None)
            real = {name: getattr(clock, name) for name in ("sleep", "wait")}

            def wrapped(name: str) -> Callable[..., Any]:
                def wait(*args: Any) -> Any:
                    nonlocal waits
                    waits += 1
                    if waits - 1 == at:
                        raise KeyboardInterrupt
                    return real[name](*args)

                return wait

            for name in real:
                patch.setattr(clock, name, wrapped(name))
            if at < 0:
                assert "ok" == pipeline.call(flaky)
            else:
                with pytest.raises(KeyboardInterrupt):
                    pipeline.call(flaky)
            for name, original in real.items():
                patch.setattr(clock, name, original)
            clock.sleep(10)
            assert (0, 0) == (scene.bulkhead.in_use, scene.bulkhead.queued)
            assert 0 == scene.limiter.queued
            assert 0 == thread._threads_here().running
            assert 0 == thread.abandoned
            scene.attempts = 1
            assert "ok" == pipeline.call(flaky)
        return waits

    waits = run(-1)
    assert waits >= 4
    for at in range(waits):
        run(at)


# -- Granted and cancelled in the same tick


def test_a_slot_granted_and_cancelled_in_one_tick_is_passed_on() -> None:
    """Ten thousand times: the next in the queue has it, and the count never leaks."""
    rounds = 10_000

    async def main() -> None:
        bulkhead = Bulkhead(1, max_queue=2, max_wait=60)
        served = 0

        async def serve() -> None:
            nonlocal served
            served += 1

        for _ in range(rounds):
            async with bulkhead.guard():
                first = asyncio.create_task(bulkhead.acall(serve))
                second = asyncio.create_task(bulkhead.acall(serve))
                await asyncio.sleep(0)
                assert (1, 2) == (bulkhead.in_use, bulkhead.queued)
            # Granted with the release, and not yet awake.
            assert (1, 1) == (bulkhead.in_use, bulkhead.queued)
            first.cancel()
            await second
            assert first.cancelled()
            assert (0, 0) == (bulkhead.in_use, bulkhead.queued)
        assert rounds == served

    asyncio.run(main())


def test_a_slot_granted_and_cancelled_in_one_tick_on_trio() -> None:
    """A thousand times: the next in the queue has it."""
    rounds = 1_000

    async def main() -> None:
        bulkhead = Bulkhead(1, max_queue=2, max_wait=60)
        served: list[int] = []

        async def serve() -> None:
            served.append(1)

        async def cancellable(scope: trio.CancelScope) -> None:
            with scope:
                await bulkhead.acall(serve)

        for _ in range(rounds):
            async with trio.open_nursery() as nursery:
                async with bulkhead.guard():
                    first = trio.CancelScope()
                    nursery.start_soon(cancellable, first)
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(bulkhead.acall, serve)
                    await trio.testing.wait_all_tasks_blocked()
                    assert (1, 2) == (bulkhead.in_use, bulkhead.queued)
                assert (1, 1) == (bulkhead.in_use, bulkhead.queued)
                first.cancel()
            assert (0, 0) == (bulkhead.in_use, bulkhead.queued)
        # A wake that has come wins on trio: the first may have been served.
        assert rounds <= len(served) <= 2 * rounds

    trio.run(main)


def test_a_thousand_rounds_of_random_cancellation() -> None:
    """Whatever is cancelled when, the counts come back."""
    import random

    draw = random.Random(1)

    async def main() -> None:
        scene = Scene(asyncio.sleep, "retry", "bulkhead", "attempt")
        for _ in range(1000):
            scene.attempts = draw.choice([0, 1])
            task = asyncio.create_task(scene.call())
            if draw.random() < 0.8:
                asyncio.get_running_loop().call_later(draw.random() * 3, task.cancel)
            await asyncio.sleep(draw.random())
        await asyncio.sleep(60)
        await scene.check()

    virtual_time.run(main)
