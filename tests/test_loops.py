"""Where calls may run besides: eager tasks, uvloop, the child of a fork."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    BulkheadFullError,
    Call,
    CircuitBreaker,
    Fallback,
    PerKey,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
    TimeoutExceededError,
    constant,
    current_call,
)
from resilient._runtimes.asyncio import ASYNCIO
from resilient._runtimes.sync import SYNC
from resilient._runtimes.trio import TRIO
from resilient.testing import virtual_time

Main = Callable[[], Coroutine[Any, Any, Any]]


def every_policy() -> Pipeline[Any]:
    """Return all six policies, a short wait apart."""
    return Pipeline(
        Fallback("instead", on=KeyError),
        Timeout(5),
        Retry(OSError, backoff=constant(0.01), budget=None),
        CircuitBreaker(minimum_calls=1000),
        RateLimiter(100, per=0.1, max_wait=1),
        PerKey(lambda key: Bulkhead(1, max_queue=100), key=lambda *args: "one"),
        Timeout(2),
    )


async def use_every_policy() -> None:
    """Call well, badly and for too long, many at once, in each spelling."""
    policy, tries = every_policy(), list[int]()

    async def work(n: int) -> int:
        tries.append(n)
        await asyncio.sleep(0)
        if tries.count(n) == 1:
            raise OSError
        return n

    async def at_once(n: int) -> int:
        return n

    async def hang(n: int) -> None:
        await asyncio.sleep(60)

    async def fail(n: int) -> None:
        raise KeyError

    assert [*range(20)] == await asyncio.gather(
        *[asyncio.create_task(policy.acall(work, n)) for n in range(20)]
    )
    assert 1 == await asyncio.create_task(policy.acall(at_once, 1))
    assert "instead" == await policy.acall(fail, 0)
    retry = Retry(OSError, attempts=2, backoff=constant(0))
    with pytest.raises(TimeoutExceededError) as caught:
        await Pipeline(retry, Timeout(0.02)).acall(hang, 0)
    assert caught.value.elapsed >= 0.02
    block = Pipeline(Timeout(0.01), Bulkhead(1))
    with pytest.raises(TimeoutExceededError):
        async with block.guard():
            await hang(0)

    @Timeout(0.01)
    async def stream() -> AsyncIterator[int]:
        yield 1
        await hang(0)

    with pytest.raises(TimeoutExceededError):
        assert [1] == [item async for item in stream()]
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def cancel_from_outside() -> None:
    """Cancel a call, and cut it by a timeout that is not ours."""
    bulkhead = Bulkhead(1)
    policy = Pipeline(Timeout(60), bulkhead, Timeout(50))
    task = asyncio.create_task(policy.acall(asyncio.sleep, 60))
    while not bulkhead.in_use:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 == bulkhead.in_use
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.01):
            await policy.acall(asyncio.sleep, 60)
    assert not isinstance(caught.value, TimeoutExceededError)
    assert 0 == bulkhead.in_use


# --- eager tasks ------------------------------------------------------------------


def run_eagerly(main: Main) -> None:
    """Run in virtual time with tasks that begin where they are made."""

    async def eager() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        await main()

    virtual_time.run(eager, backend="asyncio")


needs_eager_tasks = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks are new in Python 3.12"
)


@needs_eager_tasks
@pytest.mark.parametrize("main", [use_every_policy, cancel_from_outside])
def test_every_policy_works_in_eager_tasks(main: Main) -> None:
    """A call may begin, and end, while its task is being made."""
    run_eagerly(main)


@needs_eager_tasks
def test_an_eager_task_is_interrupted_itself() -> None:
    """Not the task that made it, in the middle of whose step it begins."""

    async def main() -> None:
        timeout, seen = Timeout(1), list[str]()

        async def hang() -> None:
            seen.append(current_call().name)
            await asyncio.sleep(60)

        async def outer() -> None:
            task = asyncio.create_task(timeout.acall(hang))
            # It has begun, and the call around it is current again.
            seen.append(current_call().name)
            with pytest.raises(TimeoutExceededError):
                await task

        await Timeout(60).acall(outer)
        assert ["hang", "outer"] == [name.rpartition(".")[2] for name in seen]

    run_eagerly(main)


# --- uvloop -----------------------------------------------------------------------


@pytest.fixture
def run_on_uvloop() -> Callable[[Main], Any]:
    """Return what runs a coroutine function on uvloop."""
    here = sys.platform != "win32" and sys.implementation.name == "cpython"
    if not here or not ("CI" in os.environ or importlib.util.find_spec("uvloop")):
        pytest.skip("uvloop is not installed")
    import uvloop

    def run(main: Main) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())

    return run


@pytest.mark.real
@pytest.mark.parametrize("main", [use_every_policy, cancel_from_outside])
def test_every_policy_works_on_uvloop(
    main: Main, run_on_uvloop: Callable[[Main], Any]
) -> None:
    """Its clock is coarser than ours: no limit may come early for it."""
    run_on_uvloop(main)


@pytest.mark.real
def test_policies_serve_several_uvloops(run_on_uvloop: Callable[[Main], Any]) -> None:
    """Timeouts have a timer for each; a slot wakes a waiter on another."""
    timeout, bulkhead = Timeout(0.01), Bulkhead(1, max_queue=100)
    ended: list[int] = []

    async def main() -> None:
        calls = [timeout.acall(asyncio.sleep, 60) for _ in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.gather(*[bulkhead.acall(asyncio.sleep, 0) for _ in range(20)])
        ended.append(
            sum(isinstance(result, TimeoutExceededError) for result in results)
        )

    threads = [threading.Thread(target=run_on_uvloop, args=(main,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [10] * 4 == ended
    assert (0, 0) == (bulkhead.in_use, bulkhead.queued)


@pytest.mark.real
def test_an_answer_that_has_arrived_wins_on_uvloop(
    run_on_uvloop: Callable[[Main], Any],
) -> None:
    """It came in time, and only the loop was too busy to look."""

    async def main() -> bytes:
        ours, peer = socket.socketpair()
        with ours, peer:
            ours.setblocking(False)
            loop = asyncio.get_running_loop()

            def block() -> None:
                peer.send(b"in time")
                time.sleep(0.05)

            loop.call_later(0.01, block)
            return await Timeout(0.04).acall(loop_recv, loop, ours)

    async def loop_recv(loop: asyncio.AbstractEventLoop, ours: socket.socket) -> bytes:
        return await loop.sock_recv(ours, 100)

    assert b"in time" == run_on_uvloop(main)


# --- fork -------------------------------------------------------------------------


def in_child(body: Callable[[], None]) -> None:
    """Run `body` in a forked child; fail with what it fails with."""
    reader, writer = os.pipe()
    # NB: Python warns of any fork with threads about; these tests are about that.
    child = os.fork()
    if not child:  # pragma: no cover - measured in the parent only
        try:
            body()
        except BaseException:
            os.write(writer, traceback.format_exc()[-4000:].encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        report = pipe.read()
    os.waitpid(child, 0)
    assert "" == report


forks = [
    pytest.mark.real,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]


def forking(test: Any) -> Any:
    """Mark a test that forks."""
    for mark in forks:
        test = mark(test)
    return test


@forking
@pytest.mark.parametrize("colour", ["sync", "asyncio"])
def test_a_pipeline_works_in_a_forked_child(colour: str) -> None:
    """Made, and used, before the fork; in a new loop of the child's."""
    timeout, bulkhead = Timeout(60), Bulkhead(1)
    pipeline = Pipeline(timeout, Retry(OSError), CircuitBreaker(), bulkhead)

    def use() -> None:
        if colour == "sync":
            assert 1 == pipeline.call(abs, -1)
        else:
            asyncio.run(pipeline.acall(asyncio.sleep, 0))
        assert 0 == bulkhead.in_use

    use()
    in_child(use)
    use()


@forking
def test_a_forked_child_has_none_of_its_parents_threads() -> None:
    """A thread that was left behind takes no place there."""
    timeout, gate = Timeout(0.01, abandon=True, max_threads=1), threading.Event()
    with pytest.raises(TimeoutExceededError):
        timeout.call(gate.wait)

    def use() -> None:
        assert (0, True) == (timeout.abandoned, timeout.is_pristine())
        assert 1 == timeout.with_(seconds=60).call(abs, -1)
        with pytest.raises(TimeoutExceededError):
            timeout.call(gate.wait)
        assert 1 == timeout.abandoned

    in_child(use)
    with pytest.raises(BulkheadFullError):
        timeout.call(abs, -1)
    assert 1 == timeout.abandoned
    gate.set()


@forking
def test_a_forked_child_hands_no_slot_to_its_parents_waiters() -> None:
    """The call that forks goes on in both; those that waited, in one."""
    bulkhead, began = Bulkhead(1, max_queue=1, max_wait=30), threading.Event()
    waiting = threading.Thread(target=bulkhead.call, args=(began.set,))
    permit = bulkhead.admit(Call.new("forks"))

    def forks() -> None:
        waiting.start()
        while not bulkhead.queued:
            time.sleep(0.001)
        in_child(goes_on)

    def goes_on() -> None:
        # As the rest of the call does when it ends.
        bulkhead.settle(permit, None)
        assert (0, 0) == (bulkhead.in_use, bulkhead.queued)
        assert 1 == bulkhead.call(abs, -1)

    forks()
    bulkhead.settle(permit, None)
    assert began.wait(30)
    waiting.join(30)
    assert (0, 0) == (bulkhead.in_use, bulkhead.queued)


def test_waiters_are_of_the_process_they_were_made_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a forked child no thread or task waits there any more."""

    async def waiter(runtime: Any) -> Any:
        return runtime.waiter(Call.new("x"))

    waiters = [
        SYNC.waiter(Call.new("x")),
        virtual_time.run(waiter, ASYNCIO, backend="asyncio"),
        virtual_time.run(waiter, TRIO, backend="trio"),
    ]
    assert waiters[0].wake()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert [False] * 3 == [waiter.wake() for waiter in waiters]
