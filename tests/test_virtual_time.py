"""Virtual time: what moves the clock, what holds it, and what is put back."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, Literal, Never

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio
import trio.testing
from anyio._core._eventloop import get_async_backend
from tests.garbage import no_garbage
from trio._core import _run

import resilient
from resilient import RetryBudget
from resilient._edges import driver
from resilient._policy import policy as _policy
from resilient._runtimes import clock
from resilient.policies import retry
from resilient.testing import (
    VirtualClock,
    VirtualTimeError,
    _asyncio_clock,
    _stacks,
    _virtual_clock,
    attempts,
    instant,
    off,
    reset_all,
    virtual_time,
)

Backend = Literal["asyncio", "trio"]

REAL = {
    name: getattr(clock, name)
    for name in ("now", "sleep", "wait", "start_thread", "random", "skip")
}


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each event loop in turn."""
    name: Backend = request.param
    return name


@pytest.fixture(autouse=True)
def real_time_afterwards() -> Iterator[None]:
    """Every test leaves the clock of the process as it found it."""
    switch = vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"]
    order = _run._r.getstate()
    yield
    assert {name: getattr(clock, name) for name in REAL} == REAL
    assert _virtual_clock._running is None
    assert vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"] is switch
    # trio itself draws from this generator in runs that are not virtual.
    assert _run._r.getstate() == order


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead-lock near sockets or threads is called one after 50 ms."""
    for name in ("_virtual_clock", "_asyncio_clock", "_trio_clock"):
        module = sys.modules[f"resilient.testing.{name}"]
        monkeypatch.setattr(module, "PATIENCE", 0.05)


def wait_until_asleep(threads: int) -> None:
    """Return when so many threads sleep or wait on the clock that is running."""
    while _virtual_clock._running and len(_virtual_clock._running._waiters) < threads:
        time.sleep(0.001)


def closed_gate() -> threading.Lock:
    """A lock that is held, to be waited for."""
    gate = threading.Lock()
    gate.acquire()
    return gate


# --- any event loop ---------------------------------------------------------------


def test_an_hour_of_sleep_takes_no_time(backend: Backend) -> None:
    """The clock jumps to the time at which the next sleep ends."""

    async def main() -> float:
        for _ in range(60):
            await anyio.sleep(60)
        return anyio.current_time()

    began = time.monotonic()

    assert 3600.0 == virtual_time.run(main, backend=backend)
    assert time.monotonic() - began < 30


def test_time_jumps_to_the_exact_float(backend: Backend) -> None:
    """Nothing is added or rounded: the sleeper wakes when it asked to."""

    async def main() -> list[float]:
        seen = [clock.now()]
        for pause in (1, 0.1, 0.2, 1e-9, 12345.678):
            await anyio.sleep(pause)
            seen.append(clock.now())
        return seen

    steps = [0.0, 1.0, 1.1, 1.1 + 0.2, 1.1 + 0.2 + 1e-9]
    steps.append(steps[-1] + 12345.678)

    assert steps == virtual_time.run(main, backend=backend)


def test_a_timer_is_never_early_and_never_lost_after_a_long_time(
    backend: Backend,
) -> None:
    """After a century, where a nanosecond is lost in rounding, timers still fire."""

    async def main() -> float:
        await anyio.sleep(100 * 365 * 86400.0)
        await anyio.sleep(1)
        return anyio.current_time()

    assert 100 * 365 * 86400.0 + 1 == virtual_time.run(main, backend=backend)


def test_timeouts_of_the_loop_are_virtual(backend: Backend) -> None:
    """A scope is left at its deadline, and not before."""

    async def main() -> list[float]:
        with anyio.move_on_after(5):
            await anyio.sleep(100)
        seen = [anyio.current_time()]
        with pytest.raises(TimeoutError):
            with anyio.fail_after(5):
                await anyio.sleep_forever()
        seen.append(anyio.current_time())
        with anyio.fail_after(5):
            await anyio.sleep(4)
        seen.append(anyio.current_time())
        return seen

    assert [5.0, 10.0, 14.0] == virtual_time.run(main, backend=backend)


def test_sleepers_wake_in_the_order_of_their_times(backend: Backend) -> None:
    """The shortest sleep ends first, each at its own time."""

    async def main() -> list[tuple[float, float]]:
        woken = []

        async def sleeper(pause: float) -> None:
            await anyio.sleep(pause)
            woken.append((pause, anyio.current_time()))

        async with anyio.create_task_group() as tasks:
            for pause in (3, 1, 2, 0.5, 2.5):
                tasks.start_soon(sleeper, pause)
        return woken

    expected = [(pause, float(pause)) for pause in (0.5, 1, 2, 2.5, 3)]

    assert expected == virtual_time.run(main, backend=backend)


def test_ties_happen_at_one_time(backend: Backend) -> None:
    """All that is due at one moment runs before time moves on."""

    async def main() -> set[float]:
        seen = set()

        async def sleeper() -> None:
            await anyio.sleep(1)
            await anyio.sleep(0)
            seen.add(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(sleeper)
        return seen

    assert {1.0} == virtual_time.run(main, backend=backend)


async def trace_of_tasks() -> list[tuple[int, float]]:
    """The order in which tasks that draw random pauses come along."""
    trace = []

    async def worker(number: int) -> None:
        for _ in range(5):
            await anyio.sleep(0)
            trace.append((number, anyio.current_time()))
            await anyio.sleep(clock.random())

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(worker, number)
    return trace


def test_one_seed_gives_one_trace(backend: Backend) -> None:
    """Time, chance and, on trio, the order of tasks repeat exactly."""
    first = virtual_time.run(trace_of_tasks, backend=backend, seed=7)
    random.random()
    second = virtual_time.run(trace_of_tasks, backend=backend, seed=7)

    assert first == second
    assert first != virtual_time.run(trace_of_tasks, backend=backend, seed=8)


def test_arguments_and_results_pass_through(backend: Backend) -> None:
    """`run` calls its function with the arguments and returns its result."""

    async def add(a: int, b: int) -> int:
        return a + b

    assert 3 == virtual_time.run(add, 1, 2, backend=backend)


def test_an_error_comes_out_as_it_was(backend: Backend) -> None:
    """What the function raises reaches the caller unchanged."""
    error = LookupError("mine")

    async def main() -> None:
        raise error

    with pytest.raises(LookupError) as caught:
        virtual_time.run(main, backend=backend)

    assert caught.value is error


def test_the_clock_of_the_library_is_the_clock_of_the_loop(backend: Backend) -> None:
    """Everything the library reads is virtual while the loop runs."""

    async def main() -> tuple[float, float, float]:
        await anyio.sleep(2)
        return clock.now(), anyio.current_time(), clock.random()

    expected = (2.0, 2.0, random.Random(5).random())

    assert expected == virtual_time.run(main, backend=backend, seed=5)


def test_blocking_the_loop_moves_time_as_well(backend: Backend) -> None:
    """A sync sleep on the loop's own thread stops its tasks, not its clock."""

    async def main() -> float:
        clock.sleep(4)
        return anyio.current_time()

    assert 4.0 == virtual_time.run(main, backend=backend)


def test_a_deadline_that_was_blocked_over_is_late(backend: Backend) -> None:
    """What came due while the loop was blocked happens as soon as it runs."""

    async def main() -> float:
        with anyio.move_on_after(1):
            clock.sleep(4)
            await anyio.sleep_forever()
        return anyio.current_time()

    assert 4.0 == virtual_time.run(main, backend=backend)


# --- real I/O ---------------------------------------------------------------------


def test_data_that_is_there_is_not_jumped_over(backend: Backend) -> None:
    """What can be read is read before a timer comes."""

    async def main() -> tuple[int, float]:
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            right.setblocking(False)
            rounds = 0
            for _ in range(20):
                left.send(b"x")
                with anyio.move_on_after(1):
                    await anyio.wait_readable(right)
                    right.recv(1)
                    rounds += 1
            with anyio.move_on_after(1):
                await anyio.wait_readable(right)
        return rounds, anyio.current_time()

    assert (20, 1.0) == virtual_time.run(main, backend=backend)


def test_a_socket_that_stays_silent_is_a_dead_lock(
    backend: Backend, impatient: None
) -> None:
    """Real I/O gets real time to come, but not for ever."""

    async def main() -> None:
        left, right = socket.socketpair()
        with left, right:
            right.setblocking(False)
            await anyio.wait_readable(right)

    with pytest.raises(VirtualTimeError, match=r"main\(\).*wait_readable"):
        virtual_time.run(main, backend=backend)


def test_sockets_are_read_and_written_at_once() -> None:
    """A socket that is registered for reading may be waited on for writing too."""

    async def main() -> float:
        left, right = socket.socketpair()
        with left, right:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.wait_readable, right)
                await anyio.wait_all_tasks_blocked()
                await anyio.wait_writable(right)
                left.send(b"x")
        return anyio.current_time()

    assert 0.0 == virtual_time.run(main)


def test_a_socket_without_timers_is_waited_for(backend: Backend) -> None:
    """With nothing scheduled the loop waits, in real time, for its sockets."""

    async def main() -> bytes:
        left, right = socket.socketpair()
        with left, right:
            right.setblocking(False)
            writer = threading.Timer(0.02, left.send, [b"late"])
            writer.start()
            await anyio.wait_readable(right)
            writer.join()
            return right.recv(4)

    assert b"late" == virtual_time.run(main, backend=backend)


# --- worker threads ---------------------------------------------------------------


@pytest.fixture(params=["own", "anyio", "limited"])
def in_thread(
    request: pytest.FixtureRequest, backend: Backend
) -> Callable[[Callable[[], Any]], Awaitable[Any]]:
    """Each way to run a function in a thread of the loop."""
    if request.param == "anyio":
        return anyio.to_thread.run_sync
    if request.param == "own":
        return asyncio.to_thread if backend == "asyncio" else trio.to_thread.run_sync

    async def limited(function: Callable[[], Any]) -> Any:
        limiter = anyio.CapacityLimiter(1)
        return await anyio.to_thread.run_sync(function, limiter=limiter)

    return limited


Worker = Callable[[Callable[[], Any]], Awaitable[Any]]


def test_time_waits_for_a_worker_thread(backend: Backend, in_thread: Worker) -> None:
    """A timer does not go off while a thread works, however long that takes."""

    async def main() -> tuple[str, float]:
        release = threading.Event()
        threading.Timer(0.03, release.set).start()

        def work() -> str:
            release.wait()
            return "done"

        result = "too late"
        with anyio.move_on_after(1):
            result = await in_thread(work)
        return result, anyio.current_time()

    assert ("done", 0.0) == virtual_time.run(main, backend=backend)


def test_a_worker_that_sleeps_lets_time_pass(
    backend: Backend, in_thread: Worker
) -> None:
    """Tasks and threads sleep on one clock."""

    async def main() -> list[tuple[str, float]]:
        seen = []

        def work() -> None:
            for _ in range(3):
                clock.sleep(2)
                seen.append(("thread", clock.now()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_thread, work)
            for _ in range(3):
                await anyio.sleep(1.5)
                seen.append(("task", clock.now()))
        return seen

    expected = [
        ("task", 1.5),
        ("thread", 2.0),
        ("task", 3.0),
        ("thread", 4.0),
        ("task", 4.5),
        ("thread", 6.0),
    ]

    assert expected == virtual_time.run(main, backend=backend)


def test_a_worker_that_calls_back_lets_time_pass(backend: Backend) -> None:
    """A thread that waits for the loop does not hold the clock."""

    async def pause() -> float:
        await anyio.sleep(3)
        return anyio.current_time()

    async def main() -> list[float]:
        def work() -> list[float]:
            return [anyio.from_thread.run(pause) for _ in range(5)]

        return await anyio.to_thread.run_sync(work)

    expected = [3.0, 6.0, 9.0, 12.0, 15.0]

    assert expected == virtual_time.run(main, backend=backend)


def test_an_abandoned_thread_still_holds_the_clock(backend: Backend) -> None:
    """That no task waits for it does not make it idle."""

    async def main() -> tuple[bool, float]:
        ended = threading.Event()
        started = anyio.Event()

        def work() -> None:
            anyio.from_thread.run_sync(started.set)
            time.sleep(0.03)
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                functools.partial(
                    anyio.to_thread.run_sync, work, abandon_on_cancel=True
                )
            )
            await started.wait()
            tasks.cancel_scope.cancel()
        await anyio.sleep(1)
        return ended.is_set(), anyio.current_time()

    assert (True, 1.0) == virtual_time.run(main, backend=backend)


def test_threads_of_the_user_sleep_on_the_clock_of_the_loop(backend: Backend) -> None:
    """A thread that was not announced takes part once it sleeps."""

    async def main() -> list[float]:
        seen: list[float] = []

        def work() -> None:
            for _ in range(3):
                clock.sleep(1)
                seen.append(clock.now())

        thread = threading.Thread(target=work)
        thread.start()
        wait_until_asleep(1)
        await anyio.sleep(10)
        seen.append(clock.now())
        thread.join()
        return seen

    assert [1.0, 2.0, 3.0, 10.0] == virtual_time.run(main, backend=backend)


def test_more_sleeping_jobs_than_threads_let_time_pass() -> None:
    """Jobs that wait for a free thread of their executor hold no clock."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = [loop.run_in_executor(pool, clock.sleep, 1) for _ in range(6)]
            await asyncio.gather(*jobs)
        return loop.time()

    assert 3.0 == virtual_time.run(main)


class Elsewhere(concurrent.futures.Executor):
    """An executor that is no thread pool, as one of processes is not."""

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Answer late, from nowhere."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        answer = [fn(*args, **kwargs)]
        threading.Timer(0.03, future.set_result, answer).start()
        return future


def test_time_waits_for_other_executors() -> None:
    """A job in another kind of executor holds the clock, and is not wrapped."""

    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(1):
            return await loop.run_in_executor(Elsewhere(), abs, -1), loop.time()

    assert (1, 0.0) == virtual_time.run(main)


def test_a_thread_that_waits_for_another_executor_holds_the_clock() -> None:
    """Only what an event loop is to bring may be waited for in virtual time."""

    async def main() -> tuple[int, float]:
        def work() -> int:
            return Elsewhere().submit(abs, -1).result()

        async with asyncio.timeout(1):
            return await asyncio.to_thread(work), asyncio.get_running_loop().time()

    assert (1, 0.0) == virtual_time.run(main)


def test_trio_hears_of_a_thread_before_the_next_jump() -> None:
    """Even if the thread woke and ended between two looks of the clock."""

    class Late(trio.abc.Instrument):
        def after_io_wait(self, timeout: float) -> None:
            if clock.now() == 2:
                thread.join()

    async def main() -> float:
        nonlocal thread
        token = trio.lowlevel.current_trio_token()
        event = trio.Event()

        def work() -> None:
            clock.sleep(2)
            token.run_sync_soon(event.set)

        trio.lowlevel.add_instrument(Late())
        thread = clock.start_thread(work, "worker")
        with trio.move_on_after(30):
            await event.wait()
        return trio.current_time()

    thread = threading.current_thread()

    assert 2.0 == virtual_time.run(main, backend="trio")


def test_time_waits_until_trio_has_blocked_everywhere() -> None:
    """`wait_all_tasks_blocked` comes before the next timer."""

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 5)
            await trio.testing.wait_all_tasks_blocked(0.001)
            return trio.current_time()

    assert 0.0 == virtual_time.run(main, backend="trio")


def test_looking_at_threads_leaves_nothing_to_the_collector(backend: Backend) -> None:
    """Among their frames is the one that looks; it must not keep itself."""

    async def main() -> None:
        # A thread of the loop's own stays for a while when its work is done.
        await anyio.to_thread.run_sync(int)
        with no_garbage():
            await anyio.sleep(1)

    virtual_time.run(main, backend=backend)


# --- dead-locks -------------------------------------------------------------------


async def wait_for_nothing() -> None:
    """Wait for an event that is never set."""
    await anyio.Event().wait()


def test_a_dead_lock_names_tasks_and_lines(backend: Backend) -> None:
    """Instead of hanging, the run says who waits, and where."""

    async def main() -> None:
        await anyio.sleep(12)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_nothing, name="idler")

    line = wait_for_nothing.__code__.co_firstlineno + 2

    with pytest.raises(VirtualTimeError) as caught:
        virtual_time.run(main, backend=backend)

    text = str(caught.value)
    assert text.startswith(
        "nothing can run and nothing is scheduled at 12.0 s of virtual time: this"
        " would wait for ever. Waiting:\n  task '"
    )
    where = f"{__file__}:{line} in wait_for_nothing(): await anyio.Event().wait()"
    assert f"task 'idler' at {where}" in text
    assert "main(): async with anyio.create_task_group() as tasks:" in text


def test_a_dead_lock_in_the_main_task_is_raised_there() -> None:
    """On trio the traceback of the error leads to the line that waits."""
    with pytest.raises(VirtualTimeError) as caught:
        virtual_time.run(wait_for_nothing, backend="trio")

    frames = traceback.extract_tb(caught.value.__traceback__)
    assert "wait_for_nothing" in [frame.name for frame in frames]


def test_a_dead_lock_that_is_swallowed_ends_the_run() -> None:
    """When the main task waits for a shielded one, that one gets the error."""

    async def main() -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stubborn)

    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

    with pytest.raises(VirtualTimeError, match=r"stubborn.*sleep_forever"):
        virtual_time.run(main, backend="trio")


def test_a_dead_lock_that_cannot_be_cancelled_ends_the_run() -> None:
    """What refuses to be cancelled, and never comes, is broken off."""

    async def main() -> None:
        await trio.lowlevel.wait_task_rescheduled(
            lambda raise_cancel: trio.lowlevel.Abort.FAILED
        )

    with pytest.raises(VirtualTimeError, match=r"main\(\)"):
        virtual_time.run(main, backend="trio")


def test_a_dead_lock_names_threads_too(backend: Backend, in_thread: Worker) -> None:
    """A thread that waits for a gate is named, and let go of."""

    async def main() -> None:
        await in_thread(lambda: clock.wait(closed_gate(), None))

    with pytest.raises(VirtualTimeError, match=r"thread '.*' at .*\n  task"):
        virtual_time.run(main, backend=backend)


def test_a_dead_lock_inside_an_async_generator_names_its_line() -> None:
    """What hides behind `async for` is found."""

    async def items() -> AsyncIterator[int]:
        yield 1
        await wait_for_nothing()

    async def main() -> None:
        async for _ in items():
            pass

    with pytest.raises(VirtualTimeError, match=r"in wait_for_nothing\(\)"):
        virtual_time.run(main)


# --- who may ask, and what is put back --------------------------------------------


def test_other_backends_are_refused() -> None:
    """The error names the rule, and uvloop's reason."""
    run: Any = virtual_time.run
    with pytest.raises(
        ValueError,
        match=r"^`backend` must be 'asyncio' or 'trio', got 'uvloop': uvloop's clock"
        r" cannot be replaced$",
    ):
        run(wait_for_nothing, backend="uvloop")
    anyio_backend: Any = virtual_time.anyio_backend
    with pytest.raises(ValueError, match=r"got 'curio'$"):
        anyio_backend("curio")


def test_virtual_time_is_not_nested(backend: Backend) -> None:
    """Inside virtual time, more of it is refused, and the first goes on."""

    async def main() -> float:
        with pytest.raises(VirtualTimeError, match="runs an event loop"):
            with virtual_time():
                pass  # pragma: no cover
        with pytest.raises(VirtualTimeError, match="runs an event loop"):
            virtual_time.run(wait_for_nothing)
        with pytest.raises(VirtualTimeError, match="already running"):
            await anyio.to_thread.run_sync(virtual_time.run, wait_for_nothing)
        await anyio.sleep(1)
        return clock.now()

    assert 1.0 == virtual_time.run(main, backend=backend)


def test_a_sync_block_holds_no_other_virtual_time(backend: Backend) -> None:
    """Sync virtual time refuses another block, and a virtual loop."""
    with virtual_time() as clock:
        with pytest.raises(VirtualTimeError, match="cannot be nested"):
            with virtual_time():
                pass  # pragma: no cover
        with pytest.raises(VirtualTimeError, match="cannot be nested"):
            virtual_time.run(wait_for_nothing, backend=backend)
        clock.sleep(1)
        assert 1.0 == clock.now()


def test_a_loop_factory_serves_a_runner() -> None:
    """The process is in virtual time while the loop runs, not in between."""
    with asyncio.Runner(loop_factory=virtual_time.loop_factory) as runner:
        runner.run(asyncio.sleep(5))
        assert clock.real_now is clock.now
        runner.run(asyncio.sleep(5))

        assert 10.0 == runner.get_loop().time()


def test_an_anyio_backend_serves_anyio_run(backend: Backend) -> None:
    """Each run of the backend's options begins at zero with the same seed."""
    name, options = virtual_time.anyio_backend(backend, seed=3)

    async def main() -> tuple[float, float]:
        await anyio.sleep(5)
        return anyio.current_time(), clock.random()

    expected = (5.0, random.Random(3).random())
    for _ in range(2):
        assert expected == anyio.run(main, backend=name, backend_options=options)


def test_a_trio_clock_serves_trio_run() -> None:
    """A run takes the clock as it is."""
    _, options = virtual_time.anyio_backend("trio")

    async def main() -> float:
        await trio.sleep(5)
        return trio.current_time()

    assert 5.0 == trio.run(main, **options)


@pytest.fixture
def anyio_backend(backend: Backend) -> tuple[str, dict[str, Any]]:
    """What a user's conftest says."""
    return virtual_time.anyio_backend(backend)


@pytest.mark.anyio
async def test_the_plugin_of_anyio_runs_tests_in_virtual_time() -> None:
    """An async test sleeps an hour."""
    began = clock.now()
    await anyio.sleep(3600)

    assert began + 3600 == clock.now()


@pytest.mark.anyio
async def test_the_plugin_of_anyio_keeps_a_fixture_open(
    a_generator_fixture: float,
) -> None:
    """Between fixture and test the loop may have nothing to do at all."""
    await anyio.sleep(1)

    assert a_generator_fixture + 1 == clock.now()


@pytest.fixture
async def a_generator_fixture(anyio_backend: object) -> AsyncIterator[float]:
    """The time at which an async fixture was ready."""
    await anyio.sleep(1)
    yield clock.now()
    await anyio.sleep(1)


def test_the_plugin_of_anyio_survives_a_dead_lock(backend: Backend) -> None:
    """A test that would hang fails, and the next one runs on the same loop."""
    name, options = virtual_time.anyio_backend(backend)
    seen = []

    async def fine() -> None:
        await anyio.sleep(1)
        seen.append(anyio.current_time())

    with get_async_backend(name).create_test_runner(options) as runner:
        runner.run_test(fine, {})
        if backend == "trio":
            with pytest.raises(VirtualTimeError, match=r"in wait_for_nothing\(\)"):
                runner.run_test(wait_for_nothing, {})
            runner.run_test(fine, {})

    assert seen in ([1.0], [1.0, 2.0])


def test_an_asyncio_test_that_hangs_fails() -> None:
    """On asyncio the loop of that one test ends with the error."""
    name, options = virtual_time.anyio_backend("asyncio")
    with get_async_backend(name).create_test_runner(options) as runner:
        with pytest.raises(VirtualTimeError, match=r"in wait_for_nothing\(\)"):
            runner.run_test(wait_for_nothing, {})


# --- sync code --------------------------------------------------------------------


def test_sync_sleeps_jump() -> None:
    """An hour of sleeping takes no time."""
    with virtual_time() as clock:
        for _ in range(3600):
            clock.sleep(1)

        assert 3600.0 == clock.now() == clock.now()
        assert "<VirtualClock at 3600.0 s>" == repr(clock)


def test_sync_time_advances_on_demand() -> None:
    """`advance` moves the clock by exactly so much; a bad duration is refused."""
    with virtual_time() as clock:
        clock.advance(0.1)
        clock.advance(0)

        assert 0.1 == clock.now()
        with pytest.raises(ValueError, match="`seconds` must be >= 0 seconds, got -1"):
            clock.advance(-1)


def test_the_seed_sets_the_random_source() -> None:
    """Equal seeds give equal sequences, here and on every platform."""
    with virtual_time(seed=1):
        drawn = [clock.random() for _ in range(3)]

    source = random.Random(1)
    assert [source.random() for _ in range(3)] == drawn


def test_a_sync_wait_ends_at_its_timeout() -> None:
    """With no thread to open the gate, time jumps to the end of the wait."""
    with virtual_time() as clock:
        assert not clock.wait(closed_gate(), 5)
        assert 5.0 == clock.now()


def test_a_sync_wait_for_an_open_gate_takes_no_time() -> None:
    """What is there is taken at once."""
    with virtual_time() as clock:
        assert clock.wait(threading.Lock(), 5)
        assert 0.0 == clock.now()


def test_a_sync_dead_lock_names_the_waiting_function() -> None:
    """The owner of the clock is told, instead of hanging."""

    def waits_in_vain() -> None:
        clock.wait(closed_gate(), None)

    with virtual_time(), pytest.raises(VirtualTimeError) as caught:
        waits_in_vain()

    line = waits_in_vain.__code__.co_firstlineno + 1
    assert (
        "nothing can run and nothing is scheduled at 0.0 s of virtual time: this would"
        " wait for ever. Waiting:\n"
        f"  thread 'MainThread' at {__file__}:{line} in"
        f" {waits_in_vain.__qualname__}(): clock.wait(closed_gate(), None)"
    ) == str(caught.value)


def test_time_waits_for_threads_of_the_library() -> None:
    """A gate that a working thread opens late in real time is early on the clock."""
    gate = closed_gate()

    def work() -> None:
        time.sleep(0.03)
        gate.release()

    with virtual_time() as clock:
        clock.start_thread(work, "worker")

        assert clock.wait(gate, 1)
        assert 0.0 == clock.now()


def test_threads_of_the_library_sleep_on_the_same_clock() -> None:
    """Owner and worker see each other's times in order."""
    seen = []

    def work() -> None:
        for _ in range(3):
            clock.sleep(2)
            seen.append(("worker", clock.now()))

    with virtual_time() as clock:
        thread = clock.start_thread(work, "worker")
        for _ in range(3):
            clock.advance(1.5)
            seen.append(("owner", clock.now()))
        clock.advance(1.5)
        thread.join()

    assert [
        ("owner", 1.5),
        ("worker", 2.0),
        ("owner", 3.0),
        ("worker", 4.0),
        ("owner", 4.5),
        ("worker", 6.0),
    ] == seen
    assert "worker" == thread.name
    assert thread.daemon


def test_a_worker_that_ends_in_error_frees_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its error goes where errors of threads go; time moves on."""
    reported: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)

    with virtual_time() as clock:
        clock.start_thread(functools.partial(int, "none"), "worker").join()
        clock.advance(1)

        assert 1.0 == clock.now()
    assert [ValueError] == [report.exc_type for report in reported]


def test_a_worker_that_cannot_start_does_not_hold_the_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The system's refusal reaches the caller."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with virtual_time() as clock:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            clock.start_thread(list, "worker")
        clock.advance(1)

        assert 1.0 == clock.now()


def test_threads_of_the_user_share_sync_time() -> None:
    """While the owner joins them, they alone make time pass."""
    seen: list[tuple[float, float]] = []

    def work(pause: float) -> None:
        for _ in range(2):
            clock.sleep(pause)
            seen.append((pause, clock.now()))

    with virtual_time() as clock:
        threads = [threading.Thread(target=work, args=(n,)) for n in (1.0, 2.5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert 5.0 == clock.now()
    assert [(1.0, 1.0), (1.0, 2.0), (2.5, 2.5), (2.5, 5.0)] == seen


def test_a_thread_of_the_user_has_a_moment_to_open_a_gate() -> None:
    """The owner waits, in real time, for a thread that runs beside it."""
    gate = closed_gate()

    with virtual_time() as clock:
        thread = threading.Thread(target=gate.release)
        thread.start()

        assert clock.wait(gate, 100)
        assert 0.0 == clock.now()
        thread.join()


def test_a_thread_of_the_user_that_never_comes_back_is_not_waited_for() -> None:
    """After its moment of grace the clock goes on without it."""
    release = threading.Event()

    with virtual_time() as clock:
        thread = threading.Thread(target=release.wait)
        thread.start()
        for _ in range(100):
            clock.advance(1)

        assert 100.0 == clock.now()
        release.set()
        thread.join()


def test_a_thread_of_the_user_does_not_hide_a_dead_lock(impatient: None) -> None:
    """One that might still open the gate gets longer, but not for ever."""
    release = threading.Event()

    with virtual_time():
        thread = threading.Thread(target=release.wait)
        thread.start()
        with pytest.raises(VirtualTimeError, match="would wait for ever"):
            clock.wait(closed_gate(), None)
        release.set()
        thread.join()


def test_leaving_lets_go_of_sleepers() -> None:
    """Threads that outlive the block find themselves in real time, awake."""
    gate = closed_gate()
    seen: list[object] = []

    def sleeps() -> None:
        clock.sleep(3600)
        seen.append("slept")

    def waits() -> None:
        seen.append(clock.wait(gate, None))

    def waits_for_long() -> None:
        seen.append(clock.wait(gate, 3600))

    with virtual_time():
        threads = [
            clock.start_thread(work, "late") for work in (sleeps, waits, waits_for_long)
        ]
        wait_until_asleep(3)
    threads[0].join()
    gate.release()
    while len(seen) < 2:
        time.sleep(0.001)
    gate.release()
    for thread in threads:
        thread.join()

    assert ["slept", True, True] == seen


def test_an_error_in_the_block_restores_real_time() -> None:
    """The fixture of this module checks that all is put back."""
    with pytest.raises(LookupError), virtual_time():
        raise LookupError


def test_the_public_names_introduce_themselves() -> None:
    """Reprs and tracebacks say the public path."""
    assert "resilient.testing.virtual_time" == repr(virtual_time)
    assert "resilient.testing" == VirtualClock.__module__ == VirtualTimeError.__module__


# --- saying where something waits -------------------------------------------------


def test_a_finished_coroutine_waits_nowhere() -> None:
    """A task that has just ended has no frames any more."""

    async def nothing() -> None: ...

    coroutine = nothing()
    with contextlib.suppress(StopIteration):
        coroutine.send(None)

    assert "an unknown place" == _stacks.of_coroutine(coroutine)
    assert "an unknown place" == _stacks.of_frame(None)


def test_source_that_cannot_be_read_is_left_out() -> None:
    """Code without a file is described by its name alone."""
    names: dict[str, Any] = {}
    exec(compile("def odd():\n    yield\n", "nowhere.py", "exec"), names)
    suspended: Generator[None] = names["odd"]()
    next(suspended)

    assert "nowhere.py:2 in odd()" == _stacks.of_coroutine(suspended)


# --- switches ---------------------------------------------------------------------


def test_off_is_switched_back() -> None:
    """The switch nests, and survives an error in the block."""
    with off():
        with pytest.raises(LookupError), off():
            raise LookupError
        assert not driver.enabled
    assert driver.enabled


def test_attempts_are_limited_in_the_block_only() -> None:
    """The inner number counts, and the outer one returns."""
    with attempts(3):
        with attempts(1):
            assert 1 == retry.attempts_limit
        assert 3 == retry.attempts_limit
    assert retry.attempts_limit is None


def test_a_senseless_number_of_attempts_is_refused() -> None:
    """Nothing is switched by what cannot be meant."""
    with pytest.raises(ValueError, match="`n` must be >= 1, got 0"):
        with attempts(0):
            pass  # pragma: no cover
    assert retry.attempts_limit is None


def test_instant_waits_move_the_clock() -> None:
    """Time is as if it had been waited for, and real again afterwards."""
    with virtual_time():
        with instant():
            with instant():
                assert clock.skip is not None
                clock.skip(10)
                clock.sleep(5)
                assert 15.0 == clock.now()
            clock.sleep(2)
            assert 2.0 == clock.now()
        assert 0.0 == clock.now() == clock.now()
        assert clock.skip is None


KINDS = [
    kind
    for kind in (getattr(resilient, name) for name in resilient.__all__)
    if isinstance(kind, type)
    and issubclass(kind, (_policy.Policy, RetryBudget))
    and kind is not _policy.Policy
]


def test_reset_all_finds_every_policy() -> None:
    """All that are alive are reset, of whatever class, and nothing else."""
    log = []

    class Noted(_policy.Policy[Never]):
        def reset(self) -> None:
            log.append(self)

    class Proxy:
        __class__ = Noted  # type: ignore[assignment]  # as proxies and mocks do

        def reset(self) -> None:
            raise AssertionError  # pragma: no cover

    policies, proxy = [Noted(), Noted()], Proxy()
    reset_all()

    assert isinstance(proxy, Noted)
    assert sorted(policies, key=id) == sorted(log, key=id)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_reset_all_passes_over_what_was_never_made(kind: type[Any]) -> None:
    """A traceback keeps alive an object whose construction failed."""
    kept = [kind.__new__(kind)]
    reset_all()
    assert kept


def test_an_attribute_that_a_reset_misses_elsewhere_is_an_error() -> None:
    """It is a mistake of that policy's author."""
    others: list[Any] = [None]

    class Mistaken(_policy.Policy[Never]):
        def reset(self) -> None:
            for other in others:
                other.forget()

    policy = Mistaken()
    with pytest.raises(AttributeError, match="forget"):
        reset_all()
    others.clear()
    policy.reset()


def test_reset_all_fills_shared_budgets() -> None:
    """A budget that several share belongs to none of them, and to the test."""
    budget = RetryBudget(0, 5, 0)
    budget.withdraw(5)
    reset_all()
    assert budget.balance == 5.0


# --- the real clock ---------------------------------------------------------------


def test_the_real_wait_gives_up_in_time() -> None:
    """Outside virtual time, a wait is the lock's own."""
    assert not clock.wait(closed_gate(), 0)
    assert clock.wait(threading.Lock(), float("inf"))
    assert clock.wait(threading.Lock(), None)


def test_the_real_threads_are_daemons() -> None:
    """A thread that hangs must not keep the process from ending."""
    seen: list[str] = []
    thread = clock.start_thread(lambda: seen.append("ran"), "name")
    thread.join()

    assert ["ran"] == seen
    assert thread.daemon
    assert "name" == thread.name


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_random_numbers_differ_after_a_fork() -> None:
    """Forked workers must not all retry at the same instants."""
    script = """
import os
from resilient._runtimes import clock
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.write(write, repr(clock.random()).encode())
    os._exit(0)
os.waitpid(child, 0)
assert os.read(read, 100).decode() != repr(clock.random())
"""
    subprocess.run([sys.executable, "-c", script], check=True)


class TestAlone:
    """A process of one thread: time jumps without a look at threads."""

    @pytest.fixture(autouse=True)
    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever threads other tests have left do nothing here."""
        monkeypatch.setattr(_asyncio_clock, "active_count", lambda: 1)

    def test_what_a_signal_brings_comes_before_the_next_timer(self) -> None:
        """The clock does not pass over it."""

        async def main() -> float:
            loop, told = asyncio.get_running_loop(), asyncio.Event()
            loop.add_signal_handler(signal.SIGUSR1, told.set)
            later = loop.call_later(5, told.set)
            loop.call_soon(signal.raise_signal, signal.SIGUSR1)
            await told.wait()
            later.cancel()
            return loop.time()

        assert virtual_time.run(main) == 0.0

    def test_no_timer_is_a_dead_lock(self) -> None:
        """As with other threads about."""

        async def main() -> None:
            await asyncio.Event().wait()

        with pytest.raises(VirtualTimeError, match="would wait for ever"):
            virtual_time.run(main)
