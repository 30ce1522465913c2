"""Wide `except` clauses: each has its reason, and none takes one error for another.

`RecursionError` is a `RuntimeError`. Code that reads the latter as "no event loop"
or "closed" and meets the former would go on with a wrong idea of where it is.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Iterator
from contextvars import Context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import trio

from resilient._edges import blocks
from resilient._runtimes import asyncio as asyncio_runtime
from resilient._runtimes import clock, current, sync
from resilient._runtimes import trio as trio_runtime
from resilient._sharing import courier
from resilient._supervision import runs

SOURCES = Path(__file__).parents[1] / "src/resilient"

WIDE = {"RuntimeError", "Exception", "BaseException"}

AN_OUTCOME = "the function's error becomes its outcome, or is thrown into the policies"
CAUGHT = "raised again unless a policy goes on with an outcome"
LOGGED = "user's code, which may not hurt the call: logged"
LEFT_BEHIND = "gives everything back; raised again unless the collector closed it"

REASONS: dict[str, str] = {
    "_calls/outcome.py: OngoingWork.finish": "all run; the first error is raised",
    "_calls/outcome.py: _hint_of": "an error whose own hint cannot be read: None",
    "_edges/blocks.py: _is_here": "RuntimeError: no task runs here",
    "_edges/blocks.py: Guard.__exit__": AN_OUTCOME,
    "_edges/blocks.py: Guard.__aexit__": AN_OUTCOME,
    "_edges/blocks.py: Guard._leave": LEFT_BEHIND,
    "_edges/blocks.py: Attempt.__exit__": AN_OUTCOME,
    "_edges/blocks.py: Attempt.__aexit__": AN_OUTCOME,
    "_edges/blocks.py: Attempt._leave": LEFT_BEHIND,
    "_edges/branches.py: Branch.run": AN_OUTCOME,
    "_edges/driver.py: Drive.forward": "thrown into the policies",
    "_edges/functions.py: sync_edge.wrapper": AN_OUTCOME,
    "_edges/functions.py: async_edge.wrapper": AN_OUTCOME,
    "_edges/generators.py: generator_edge.wrapper": AN_OUTCOME,
    "_edges/generators.py: async_generator_edge.wrapper": AN_OUTCOME,
    "_edges/steps.py: unwind": CAUGHT,
    "_edges/steps.py: walk": CAUGHT,
    "_edges/threads.py: ThreadCall.run": AN_OUTCOME,
    "_errors/copies.py: copy_error": "an error that cannot be copied: None",
    "_events/listeners.py: send": LOGGED,
    "_http/response_headers.py: _moment": "a date that no parser can read: None",
    "_http/engine.py: Transport._drive": AN_OUTCOME,
    "_http/engine.py: Transport._adrive": AN_OUTCOME,
    "_observing/health.py: _read": "one policy cannot tell; the others are shown",
    "_observing/host.py: _told": "what the system does not tell is None",
    "_observing/subscriptions.py: _undriven": "passed on to the coroutine it drives",
    "_runtimes/asyncio.py: AsyncioWaiter.wake_with": "RuntimeError: the loop is closed",
    "_runtimes/asyncio.py: AsyncioTask.cancel": "RuntimeError: the loop is closed",
    "_runtimes/asyncio.py: AsyncioLimits._due": "RuntimeError: changed while read",
    "_runtimes/asyncio.py: AsyncioRace._cancel": "RuntimeError: the loop is closed",
    "_runtimes/current.py: current_runtime": "RuntimeError: no loop runs here",
    "simulation/_edge.py: Request._drive": CAUGHT,
    "simulation/_edge.py: Request._walk": CAUGHT,
    "simulation/_jobs.py: _packed": "what cannot be pickled is refused, with its cause",
    "simulation/_jobs.py: _portable": "an error that cannot be pickled: its text",
    "simulation/_jobs.py: work": "raised in the parent",
    "_runtimes/simulated.py: Task._step": "an error is what the task ends with",
    "_runtimes/sync.py: SyncWaiter.wake": "RuntimeError: it is woken already",
    "_runtimes/clock.py: thread_or_error": "RuntimeError: no thread is left",
    "_errors/warnings.py: warn": "a filter raises; logged, where there is a call",
    "_policy/keys.py: StableKey.__eq__": "a key that cannot be compared is no other",
    "policies/balance/balance.py: Balance._time_out": LOGGED,
    "policies/balance/checking.py: Checks._ask": "a user's check that fails: no",
    "policies/balance/checking.py: Checks._ask_here": "a user's check that fails: no",
    "policies/balance/discovering.py: Discovery._find": "told, and tried later",
    "policies/balance/discovering.py: Discovery._find_here": "told, and tried later",
    "policies/balance/discovering.py: Discovery.run": "told, and tried later",
    "_rpc/passage.py: Passage.drive": "thrown into the policies",
    "_rpc/passage.py: Passage.drive_in_sync": "thrown into the policies",
    "_rpc/tasks.py: UnaryStream.intercept_unary_stream.attempt": AN_OUTCOME,
    "_rpc/tasks.py: UnaryUnary.intercept_unary_unary.attempt": AN_OUTCOME,
    "_rpc/tasks.py: _drive": "set for the caller, which awaits the RPC",
    "_rpc/tasks.py: _drive.attempt": AN_OUTCOME,
    "_rpc/threads.py: ClientInterceptor._answer.attempt": AN_OUTCOME,
    "_rpc/threads.py: ClientInterceptor.intercept_unary_stream.attempt": AN_OUTCOME,
    "_server/exchange.py: Exchange._first": AN_OUTCOME,
    "_server/exchange.py: Exchange._admitted": "thrown into the policies",
    "_server/rpc.py: _answers.answers": "raised again, past the policies",
    "_server/rpc.py: _async_answers.answers": "raised again, past the policies",
    "_server/lifecycle.py: _run_check": "a user's check that fails: unready",
    "_server/exchange.py: Exchange._run_app": "raised in the server's task",
    "_server/exchange.py: Exchange._read_on": "the server lost its connection",
    "_server/wsgi.py: _Response.admit": AN_OUTCOME,
    "_supervision/runs.py: Run._await": "what follows a crash is the supervisor's",
    "_supervision/runs.py: Run._call": "what follows a crash is the supervisor's",
    "_supervision/keeper.py: Keeper.keep": "raised at the end of the block",
    "_sharing/courier.py: Courier._wake": "RuntimeError: it is woken already",
    "_sharing/courier.py: Courier._exchange": "the store failed: members are told",
    "_sharing/courier.py: Courier._run": "its thread lives on, and tries later",
    "_sharing/courier.py: Courier._probe": "the store failed: it is tried later",
    "_sharing/courier.py: Courier._surrender": "what was held ends with its lease",
    "_sharing/values.py: SharedValues._decoded": LOGGED,
    "_sharing/values.py: SharedValues._encoded": LOGGED,
    "policies/adaptive_concurrency.py: AdaptiveConcurrency._learn_quietly_locked": (
        "the user's algorithm, in the call of another caller"
    ),
    "policies/circuit_breaker.py: CircuitBreaker._open_time": LOGGED,
    "policies/circuit_breaker.py: CircuitBreaker._set_open_time": LOGGED,
    "policies/coalesce.py: Coalesce._spawn.body": "delivered to every caller",
    "policies/fallback.py: Fallback._ask": "becomes the outcome, with its cause",
    "policies/hedge/losers.py: close_result": LOGGED,
    "policies/hedge/losers.py: _MergedWork.close": "all end; the first error is raised",
    "policies/hedge/race.py: HedgedAttempt.run": "raised again by the call that races",
    "policies/retry.py: Retry._prepare": "an outcome; raised again if it is none",
    "_errors/chains.py: annotate": "an error that takes no notes goes unnoted",
    "policies/stale_cache.py: StaleCache._ask": LOGGED,
    "policies/stale_cache.py: StaleCache._answered": LOGGED,
    "policies/stale_cache.py: StaleCache._found_in_fleet": LOGGED,
    "redis/_cluster.py: ClusterTransport._ask": "each that was to be asked is told",
    "redis/_transport.py: RedisTransport._look": "a hint that is missing, no more",
    "redis/_transport.py: RedisTransport._connect": "it is the cause of what is raised",
    "telemetry/_calls.py: _harmless": LOGGED,
    "telemetry/_metrics.py: Instruments._observe": LOGGED,
    "testing/_virtual_time.py: run_trio": "raised again, or the cause of what is",
}


class Handler(NamedTuple):
    """An `except` clause that catches more than one kind of error."""

    place: str
    catches: str
    raises_again: bool
    after_recursion: bool


def handlers(node: ast.AST, place: str) -> Iterator[Handler]:
    """Yield the wide handlers below a node."""
    for child in ast.iter_child_nodes(node):
        below = place
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            below += f"{'' if place.endswith(' ') else '.'}{child.name}"
        if isinstance(child, ast.Try):
            recursion = False
            for handler in child.handlers:
                names = caught(handler)
                recursion = recursion or "RecursionError" in names
                last = handler.body[-1]
                again = isinstance(last, ast.Raise) and last.exc is None
                for name in names & WIDE:
                    yield Handler(below, name, again, recursion)
        yield from handlers(child, below)


def caught(handler: ast.ExceptHandler) -> set[str]:
    """Return the names of what a handler catches."""
    if handler.type is None:
        return {"BaseException"}
    kinds = handler.type
    listed = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
    return {name.id for name in listed if isinstance(name, ast.Name)}


EVERY = [
    handler
    for path in sorted(SOURCES.rglob("*.py"))
    for handler in handlers(
        ast.parse(path.read_text("utf-8")), f"{path.relative_to(SOURCES).as_posix()}: "
    )
]


def test_each_wide_handler_that_ends_an_error_has_its_reason() -> None:
    """Those that raise it again at their end need none."""
    ending = {handler.place for handler in EVERY if not handler.raises_again}

    assert ending == {*REASONS}
    assert all(REASONS.values())


def test_no_handler_of_runtime_errors_takes_a_recursion_error() -> None:
    """It is let pass before, or everything is given back and it is raised again."""
    careless = {
        handler.place
        for handler in EVERY
        if handler.catches == "RuntimeError" and not handler.after_recursion
    }

    assert careless == {
        place for place, reason in REASONS.items() if reason is LEFT_BEHIND
    }


# -- What the handlers of RuntimeError do about one


def too_deep(*args: object, **kwargs: object) -> Any:
    """Fail as any function may, whatever it is."""
    raise RecursionError("maximum recursion depth exceeded")


def wake_a_thread(patch: pytest.MonkeyPatch) -> None:
    """Another thread's wait."""
    waiter = sync.SyncWaiter()
    waiter.gate = SimpleNamespace(release=too_deep)  # type: ignore[assignment]
    waiter.wake()


def start_a_thread(patch: pytest.MonkeyPatch) -> None:
    """An attempt of a race."""
    patch.setattr(clock, "start_thread", too_deep)
    sync.SyncRace().start(SimpleNamespace(name="attempt"))  # type: ignore[arg-type]


def start_a_worker(patch: pytest.MonkeyPatch) -> None:
    """The thread of a supervised worker."""
    patch.setattr(clock, "start_thread", too_deep)
    runs.Run(print, print).in_thread("worker", Context())


def find_the_runtime(patch: pytest.MonkeyPatch) -> None:
    """The library that runs an async call."""
    patch.setattr(current, "_asyncio", (too_deep, None))
    current.current_runtime(SimpleNamespace(name="call", task=None))


def wake_a_task(patch: pytest.MonkeyPatch) -> None:
    """A task of a loop elsewhere."""
    loop: Any = SimpleNamespace(call_soon_threadsafe=too_deep)
    asyncio_runtime.AsyncioWaiter(loop).wake()


def cancel_a_task(patch: pytest.MonkeyPatch) -> None:
    """A task of another loop that no call waits for any more."""
    loop: Any = SimpleNamespace(call_soon_threadsafe=too_deep)
    task: Any = SimpleNamespace(cancel=None)
    asyncio_runtime.AsyncioTask(loop, task).cancel()


def look_whose_time_is_up(patch: pytest.MonkeyPatch) -> None:
    """The timer of limits."""
    limits = asyncio_runtime.AsyncioLimits(SimpleNamespace())  # type: ignore[arg-type]
    limits.entries = SimpleNamespace(items=too_deep)  # type: ignore[assignment]
    limits.expire()


class Unhurried:
    """A task under way that cannot be cancelled."""

    cancel = staticmethod(too_deep)

    def done(self) -> bool:
        return False


def abandon_a_race(patch: pytest.MonkeyPatch) -> None:
    """Attempts that are cancelled."""
    loop: Any = SimpleNamespace(is_closed=lambda: True)
    race = asyncio_runtime.AsyncioRace(loop)
    task: Any = Unhurried()
    racer: Any = SimpleNamespace(settled=False)
    race._tasks[task] = racer
    race.abandon()


def leave_a_scope(patch: pytest.MonkeyPatch) -> None:
    """A limit on trio that is closed from outside."""

    async def main() -> None:
        call: Any = SimpleNamespace(task=None)
        limit: Any = trio_runtime.TrioLimit(call, 1.0)
        limit.scope.__exit__(None, None, None)
        limit.scope = SimpleNamespace(__exit__=too_deep, cancel_called=True)
        limit.leave(call, GeneratorExit())

    trio.run(main)


def tell_where_a_block_ends(patch: pytest.MonkeyPatch) -> None:
    """A block that may have moved to another task."""
    runtime = SimpleNamespace(task_or_thread=too_deep)
    blocks._is_here(SimpleNamespace(runtime=runtime), None)  # type: ignore[arg-type]


def start_a_courier(patch: pytest.MonkeyPatch) -> None:
    """The thread that talks to a store."""
    patch.setattr(clock, "start_thread", too_deep)
    messenger: Any = object.__new__(courier.Courier)
    messenger._lock, messenger._thread = threading.Lock(), None
    messenger._start()


def wake_a_courier(patch: pytest.MonkeyPatch) -> None:
    """The same, as it waits."""
    messenger: Any = object.__new__(courier.Courier)
    messenger._gate = SimpleNamespace(release=too_deep)
    messenger._wake()


@pytest.mark.parametrize(
    "meet",
    [
        start_a_courier,
        wake_a_courier,
        wake_a_thread,
        start_a_thread,
        start_a_worker,
        find_the_runtime,
        wake_a_task,
        cancel_a_task,
        look_whose_time_is_up,
        abandon_a_race,
        leave_a_scope,
        tell_where_a_block_ends,
    ],
)
def test_a_recursion_error_is_raised_as_it_is(
    meet: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says nothing about loops, threads or tasks."""
    with monkeypatch.context() as patch:
        with pytest.raises(RecursionError, match="maximum recursion depth exceeded"):
            meet(patch)
