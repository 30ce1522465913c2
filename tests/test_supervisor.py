"""Supervisors: workers that crash, are restarted, and are given up."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from tests.colours import World, in_async_colours, in_every_colour, in_sync
from tests.garbage import no_garbage

from resilient import (
    ResilientError,
    ResilientWarning,
    RestartLimitError,
    WorkerCrashed,
    constant,
    exponential,
    subscribe,
)
from resilient._runtimes import clock
from resilient.supervision import Stopping, Supervisor
from resilient.testing import virtual_time


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Crashes are logged; not on the screen of the tests."""
    caplog.set_level(logging.CRITICAL + 1, "resilient")


class Crew:
    """A supervisor, its workers, and what happened to them.

    Attributes:
        log: What happened, with the virtual second.
        workers: The supervisor.
    """

    def __init__(self, w: World, **options: Any) -> None:
        self.w = w
        self.log: list[tuple[float, str]] = []
        self.workers = Supervisor(**options)

    def note(self, text: str) -> None:
        self.log.append((round(self.w.now(), 3), text))

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Supervisor]:
        """Its block."""
        if self.w.is_sync:
            with self.workers:
                yield self.workers
        else:
            async with self.workers:
                yield self.workers

    def start(self, name: str, *lives: float, end: str = "crash", **more: Any) -> None:
        """Start a worker whose runs live so long and crash, the last for ever.

        Args:
            name: Its name.
            lives: Seconds of each run but the last; the last has no end.
            end: How the runs but the last end: "crash" or "return".
            more: For `Supervisor.start`.
        """
        runs = iter(lives)

        async def run() -> None:
            self.note(f"{name} starts")
            life = next(runs, None)
            try:
                if life is not None:
                    await self.w.sleep(life)
                else:
                    await self.until_stopped()
            except anyio.get_cancelled_exc_class():
                self.note(f"{name} stops")
                raise
            if life is None:
                self.note(f"{name} stops")
            elif end == "crash":
                self.note(f"{name} crashes")
                raise ValueError(f"{name} is broken")
            else:
                self.note(f"{name} returns")

        self.workers.start(self.w.native(run), name=name, **more)

    async def until_stopped(self) -> None:
        """Wait, in a worker, until it is stopped."""
        if self.w.is_sync:
            self.workers.stopping.wait()
        else:
            await anyio.sleep_forever()

    def after(self, seconds: float, does: Callable[[], object]) -> None:
        """Do something at a moment, in a worker that is not restarted."""

        async def run() -> None:
            await self.w.sleep(seconds)
            does()

        self.workers.start(self.w.native(run), name="after", restart="never")

    def state(self, name: str) -> str:
        state: str = self.workers.status()["workers"][name]["state"]
        return state


# -- One worker


@in_every_colour
async def test_the_block_ends_with_its_workers(w: World) -> None:
    """As that of a task group does: case 1."""
    crew = Crew(w)
    async with crew():
        crew.start("a", 2.0, end="return")
        crew.start("b", 1.0, end="return")

    assert 2.0 == w.now()
    assert "done" == crew.state("a") == crew.state("b")


@in_every_colour
async def test_a_worker_that_always_runs_is_restarted_after_a_pause(w: World) -> None:
    """It makes no busy loop, though its backoff might draw a wait of 0: case 1."""
    crew = Crew(w)
    async with crew() as workers:
        crew.start("a", 0.0, 0.0, 0.0, end="return", restart="always")
        crew.after(1.0, workers.stop)

    assert [0.0, 0.1, 0.2, 0.3] == [at for at, text in crew.log if "starts" in text]


@in_every_colour
async def test_a_worker_that_is_never_restarted_leaves_the_others_alone(
    w: World,
) -> None:
    """Its crash is recorded: case 2."""
    crew = Crew(w)
    async with crew():
        crew.start("a", 1.0, restart="never")
        crew.start("b", 3.0, end="return")

    status = crew.workers.status()["workers"]["a"]
    assert ("crashed", "ValueError", 0) == (
        status["state"],
        status["last_error"],
        status["restarts"],
    )
    assert 3.0 == w.now()


@in_every_colour
async def test_the_sixth_crash_in_a_row_is_the_last(w: World) -> None:
    """After 3.1 s with the backoff of the constructor: case 3."""
    crew = Crew(w)
    with pytest.raises(RestartLimitError) as caught:
        async with crew():
            crew.start("a", *[0.0] * 6)

    assert 3.1 == pytest.approx(w.now())
    assert (
        "worker 'a' crashed 6 times in a row, within 60 s of its start,"
        " and max_restarts is 5"
    ) == str(caught.value)
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [ValueError] * 6 == [type(one) for one in cause.exceptions]


@in_every_colour
async def test_backoff_and_limit_agree(w: World) -> None:
    """Six crashes take 31 s with waits of 1 to 16 s: E15."""
    crew = Crew(w, max_restarts=5, backoff=exponential(1, cap=30))
    with pytest.raises(RestartLimitError):
        async with crew():
            crew.start("a", *[0.0] * 6)

    assert 31.0 == w.now()


@in_every_colour
async def test_a_long_run_begins_a_new_row(w: World) -> None:
    """Of crashes that come an hour apart none is the last: case 4."""
    crew = Crew(w, max_restarts=1)
    async with crew() as workers:
        crew.start("a", 0.0, *[61.0] * 60)
        crew.after(3600.0, workers.stop)

    assert 1 == crew.workers.status()["workers"]["a"]["crashes_in_a_row"]


@in_every_colour
async def test_a_group_of_errors_is_one_crash(w: World) -> None:
    """That of a task group inside: case 17."""
    crew = Crew(w, max_restarts=1, backoff=constant(1))

    async def fail() -> None:
        raise ExceptionGroup("several", [ValueError(1), ValueError(2)])

    with pytest.raises(RestartLimitError) as caught:
        async with crew() as workers:
            workers.start(w.native(fail), name="a")

    assert 2 == caught.value.crashes


@in_async_colours
async def test_an_hour_of_restarts_takes_no_time(w: World) -> None:
    """It is virtual: case 21."""
    crew = Crew(w, max_restarts=10_000, backoff=constant(6))
    async with crew() as workers:
        crew.start("a", *[0.0] * 1000)
        crew.after(3599.0, workers.stop)

    assert 599 == crew.workers.status()["workers"]["a"]["restarts"]


# -- Several workers


@in_every_colour
async def test_one_for_all_restarts_all_in_order(w: World) -> None:
    """Stopped in reverse, after one step of the backoff: case 5."""
    crew = Crew(w, strategy="one_for_all", backoff=constant(2))
    async with crew() as workers:
        crew.start("a")
        crew.start("b", 1.0)
        crew.start("c")
        await w.sleep(10.0)
        workers.stop()

    names = [(at, text) for at, text in crew.log if at < 10]
    assert [(1.0, "b crashes"), (1.0, "c stops"), (1.0, "a stops")] == names[3:6]
    assert {(3.0, "a starts"), (3.0, "b starts"), (3.0, "c starts")} == set(names[6:])


@in_async_colours
async def test_tasks_start_in_order(w: World) -> None:
    """In each round; threads run when the system lets them."""
    crew = Crew(w, strategy="one_for_all", backoff=constant(2))
    order: list[str] = []

    async def run(name: str) -> None:
        order.append(name)
        if name == "c" and len(order) == 3:
            raise ValueError
        await anyio.sleep_forever()

    async with crew() as workers:
        for name in "abc":
            workers.start(run, name, name=name)
            await anyio.sleep(0.1)
        await anyio.sleep(3.0)
        workers.stop()

    # NB: trio makes the order of tasks in a batch random, on purpose.
    assert ["a", "b", "c"] == order[:3]
    assert ["a", "b", "c"] == (order[3:] if w.colour == "asyncio" else order[:3])
    assert 6 == len(order)


@in_every_colour
async def test_rest_for_one_restarts_what_was_started_later(w: World) -> None:
    """What it depends on goes on: case 6."""
    crew = Crew(w, strategy="rest_for_one", backoff=constant(2))
    async with crew() as workers:
        crew.start("a")
        crew.start("b", 1.0)
        crew.start("c")
        await w.sleep(10.0)
        workers.stop()

    assert [(1.0, "b crashes"), (1.0, "c stops")] == crew.log[3:5]
    assert {(3.0, "b starts"), (3.0, "c starts")} == set(crew.log[5:7])
    assert 1 == sum("a starts" == text for _, text in crew.log)


@in_every_colour
async def test_what_is_done_is_not_started_again(w: World) -> None:
    """Not with the others either."""
    crew = Crew(w, strategy="one_for_all", backoff=constant(2))
    async with crew() as workers:
        crew.start("a", 1.0, end="return")
        crew.start("b", 2.0)
        await w.sleep(10.0)
        workers.stop()

    assert 1 == sum("a starts" == text for _, text in crew.log)
    assert "done" == crew.state("a")


@in_async_colours
async def test_crashes_in_one_turn_are_one_round(w: World) -> None:
    """All are restarted once: case 18."""
    crew = Crew(w, strategy="one_for_all", backoff=constant(2))
    async with crew() as workers:
        crew.start("a", 1.0)
        crew.start("b", 1.0)
        crew.start("c")
        await anyio.sleep(10.0)
        workers.stop()

    starts = [text for _, text in crew.log if "starts" in text]
    assert 6 == len(starts)
    rows = crew.workers.status()["workers"]
    assert [1, 1, 0] == [rows[name]["crashes_in_a_row"] for name in "abc"]


@in_async_colours
async def test_a_crash_in_the_middle_of_a_round_joins_it(w: World) -> None:
    """It is counted, and waits as the others do."""
    crew = Crew(w, strategy="one_for_all", backoff=exponential(1, cap=30))

    async def slow_to_stop() -> None:
        crew.note("c starts")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.0)

    async with crew() as workers:
        crew.start("a", 1.5)
        crew.start("b", 1.0)
        workers.start(slow_to_stop, name="c")
        await anyio.sleep(3.5)
        workers.stop()

    # From 1.0 to 2.0 the last one stops, meanwhile the first crashes.
    assert (1.5, "a crashes") in crew.log
    assert {"a starts", "b starts", "c starts"} == {
        text for at, text in crew.log if at == 3.0
    }
    rows = crew.workers.status()["workers"]
    assert [1, 1, 0] == [rows[name]["crashes_in_a_row"] for name in "abc"]


@in_every_colour
async def test_a_crash_during_a_wait_lets_all_wait_longer(w: World) -> None:
    """So that they still start together: an earlier one takes the later along."""
    crew = Crew(w, strategy="rest_for_one", backoff=constant(2))
    async with crew() as workers:
        crew.start("a", 2.0)
        crew.start("b", 1.0)
        await w.sleep(6.0)
        workers.stop()

    starts = [(at, text) for at, text in crew.log if "starts" in text]
    assert {(4.0, "a starts"), (4.0, "b starts")} == set(starts[2:])


# -- The end


@in_every_colour
async def test_giving_up_stops_the_others_in_reverse(w: World) -> None:
    """Before the error is raised."""
    crew = Crew(w, max_restarts=0)
    with pytest.raises(RestartLimitError, match="worker 'x' crashed once, within"):
        async with crew():
            crew.start("a")
            crew.start("b")
            crew.start("x", 1.0)

    assert [(1.0, "x crashes"), (1.0, "b stops"), (1.0, "a stops")] == crew.log[3:]


@in_every_colour
async def test_a_crash_while_stopping_is_attached(w: World) -> None:
    """And what crashes then is not restarted: case 7."""
    crew = Crew(w, max_restarts=0)

    async def fails_late() -> None:
        try:
            await crew.until_stopped()
        finally:
            raise OSError("no flush")

    with pytest.raises(RestartLimitError) as caught:
        async with crew() as workers:
            workers.start(w.native(fails_late), name="late")
            crew.start("a", 1.0)

    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert [ValueError, OSError] == [type(one) for one in cause.exceptions]
    assert "OSError" == crew.workers.status()["workers"]["late"]["last_error"]


@in_every_colour
async def test_an_error_of_the_block_tells_of_late_crashes(w: World) -> None:
    """It stays what it is, with a note."""
    crew = Crew(w)

    async def fails_late() -> None:
        try:
            await crew.until_stopped()
        finally:
            raise OSError("no flush")

    with pytest.raises(KeyError) as caught:
        async with crew() as workers:
            workers.start(w.native(fails_late), name="late")
            await w.sleep(1.0)
            raise KeyError("mine")

    assert [
        "resilient: workers crashed while they were stopped: OSError"
    ] == caught.value.__notes__


@in_every_colour
async def test_a_crash_in_a_stop_for_a_restart_is_not_counted(w: World) -> None:
    """It was to end anyway: it is restarted with the others."""
    crew = Crew(w, strategy="one_for_all", max_restarts=1, backoff=constant(1))

    async def fails_late() -> None:
        try:
            await crew.until_stopped()
        finally:
            if w.now() < 3:
                raise OSError("no flush")

    async with crew() as workers:
        crew.start("a", 1.0)
        workers.start(w.native(fails_late), name="late")
        await w.sleep(5.0)
        workers.stop()

    late = crew.workers.status()["workers"]["late"]
    assert (1, 0) == (late["restarts"], late["crashes_in_a_row"])


@in_async_colours
async def test_a_cancellation_from_outside_stops_all(w: World) -> None:
    """Nothing is restarted or counted: case 8."""
    crew = Crew(w)
    with anyio.move_on_after(2.0):
        async with crew():
            crew.start("a")
            crew.start("b")

    assert [(2.0, "b stops"), (2.0, "a stops")] == crew.log[2:]
    rows = crew.workers.status()["workers"]
    assert {"stopped"} == {row["state"] for row in rows.values()}
    assert {(0, 0)} == {
        (row["restarts"], row["crashes_in_a_row"]) for row in rows.values()
    }


@in_async_colours
async def test_a_cancellation_of_the_block_stops_all(w: World) -> None:
    """While its own code runs."""
    crew = Crew(w)
    with anyio.move_on_after(2.0):
        async with crew():
            crew.start("a")
            await anyio.sleep_forever()

    assert [(0.0, "a starts"), (2.0, "a stops")] == crew.log


@in_async_colours
async def test_giving_up_cancels_the_block(w: World) -> None:
    """As a task group does."""
    crew = Crew(w, max_restarts=0)
    with pytest.raises(RestartLimitError):
        async with crew():
            crew.start("a", 1.0)
            await anyio.sleep(60.0)

    assert 1.0 == w.now()


@in_async_colours
async def test_a_cancellation_that_a_worker_raises_is_a_crash(w: World) -> None:
    """Its own, as of a task that it awaited: case 9."""
    crew = Crew(w, max_restarts=1, backoff=constant(1))
    if w.colour == "trio":
        return

    async def fail() -> None:
        raise anyio.get_cancelled_exc_class()

    with pytest.raises(RestartLimitError) as caught:
        async with crew() as workers:
            workers.start(fail, name="a")

    cause = caught.value.__cause__
    assert isinstance(cause, BaseExceptionGroup)
    assert 2 == len(cause.exceptions)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("grouped", [False, True])
def test_what_ends_the_program_stops_all(
    kind: type[BaseException], grouped: bool
) -> None:
    """And goes on: case 10."""

    async def scenario(w: World) -> None:
        crew = Crew(w)

        async def end() -> None:
            await w.sleep(1.0)
            error: BaseException = kind()
            raise BaseExceptionGroup("g", [error]) if grouped else error

        with pytest.raises(BaseExceptionGroup if grouped else kind):
            async with crew() as workers:
                crew.start("a")
                workers.start(w.native(end), name="end")
        assert (1.0, "a stops") == crew.log[-1]

    for colour in ("sync", "asyncio", "trio"):
        World(colour).run(scenario)  # type: ignore[arg-type]  # a literal


@in_every_colour
async def test_what_ends_the_program_may_come_while_all_stops(w: World) -> None:
    """The others are stopped all the same."""
    crew = Crew(w)

    async def end() -> None:
        try:
            await crew.until_stopped()
        finally:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        async with crew() as workers:
            crew.start("a")
            workers.start(w.native(end), name="end")
            await w.sleep(1.0)
            workers.stop()
    assert (1.0, "a stops") == crew.log[-1]


@in_async_colours
async def test_a_task_that_ignores_its_cancellation(w: World) -> None:
    """Is left behind with a warning, or on trio waited for: case 11."""
    crew = Crew(w, stop_timeout=2.0)

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(10.0)

    async def run() -> None:
        async with crew() as workers:
            workers.start(stubborn, name="a")
            await anyio.sleep(1.0)
            workers.stop()

    left = "and is left behind" if w.colour == "asyncio" else "and is waited for"
    with pytest.warns(ResilientWarning, match=f"within 2.0 s {left}"):
        await run()

    if w.colour == "trio":
        assert (11.0, "stopped", 0) == (w.now(), crew.state("a"), _abandoned(crew))
        return
    assert (3.0, "abandoned", 1) == (w.now(), crew.state("a"), _abandoned(crew))
    await anyio.sleep(10.0)
    assert 0 == _abandoned(crew)


@in_async_colours
async def test_no_task_is_started_beside_one_that_stays(w: World) -> None:
    """The supervisor gives up; on trio it waits."""
    crew = Crew(w, strategy="one_for_all", stop_timeout=2.0)
    running = 0

    async def stubborn() -> None:
        nonlocal running
        running += 1
        assert 1 == running
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(10.0)
            running -= 1

    async def run() -> str:
        try:
            async with crew() as workers:
                workers.start(stubborn, name="a")
                crew.start("b", 1.0)
                await anyio.sleep(12.0)
                workers.stop()
        except RestartLimitError as error:
            assert 3.0 == w.now()
            return str(error)
        return "none"

    gave_up = "worker 'a' is to be restarted but has not stopped within 2 s"
    with pytest.warns(ResilientWarning):
        error = await run()
    assert (gave_up if w.colour == "asyncio" else "none") == error
    await anyio.sleep(10.0)


def test_a_warning_that_is_an_error_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It would end the supervisor otherwise."""
    caplog.set_level(logging.WARNING, "resilient")

    async def scenario(w: World) -> None:
        crew = Crew(w, stop_timeout=2.0)

        async def stubborn() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(10.0)

        async with crew() as workers:
            workers.start(stubborn, name="a")
            await anyio.sleep(1.0)
            workers.stop()
        await anyio.sleep(10.0)

    World("asyncio").run(scenario)
    assert ["worker 'a' has not stopped within 2.0 s and is left behind"] == [
        record.getMessage() for record in caplog.records
    ]


@in_every_colour
async def test_a_stop_ends_a_wait_at_once(w: World) -> None:
    """No restart will come: case 12."""
    crew = Crew(w, backoff=constant(100))
    async with crew() as workers:
        crew.start("a", 0.0)
        await w.sleep(1.0)
        assert "restarting in 99.0 s" == crew.state("a")
        workers.stop()

    assert (1.0, "stopped") == (w.now(), crew.state("a"))


@in_every_colour
async def test_nothing_is_started_while_all_stops(w: World) -> None:
    """Or before the block, or after it: case 13."""
    crew = Crew(w)
    stops = "a Supervisor that stops, or has ended, starts no workers"
    with pytest.raises(RuntimeError, match="is used inside its `with` block"):
        crew.start("a")
    with pytest.raises(RuntimeError, match="is used inside its `with` block"):
        crew.workers.stop()
    async with crew() as workers:
        workers.stop()
        with pytest.raises(RuntimeError, match=stops):
            crew.start("a")
    with pytest.raises(RuntimeError, match=stops):
        crew.start("a")
    with pytest.raises(RuntimeError, match="can be entered once"):
        async with crew():
            raise AssertionError


@in_every_colour
async def test_an_error_of_the_backoff_ends_all(w: World) -> None:
    """It is a user's function."""

    def backoff(crashes: int) -> float:
        raise KeyError("mine")

    crew = Crew(w, backoff=backoff)
    with pytest.raises(KeyError):
        async with crew():
            crew.start("b")
            crew.start("a", 1.0)

    assert (1.0, "b stops") == crew.log[-1]


# -- Names


@in_every_colour
async def test_a_name_is_free_again_when_its_worker_has_finished(w: World) -> None:
    """And taken until then: case 14."""
    crew = Crew(w)
    async with crew():
        crew.start("a", 1.0, end="return")
        with pytest.raises(ValueError, match="`name` must be new, got 'a' again"):
            crew.start("a")
        await w.sleep(2.0)
        crew.start("a", 1.0, end="return")
        assert ["a"] == list(crew.workers.status()["workers"])

    assert 3.0 == w.now()


@in_every_colour
async def test_names_are_those_of_the_functions(w: World) -> None:
    """With a number where one is taken."""
    crew = Crew(w)

    async def poll(what: int, more: str) -> None:
        await w.sleep(1.0)

    async with crew() as workers:
        for number in range(3):
            workers.start(w.native(poll), number, "x")

    assert ["poll", "poll-2", "poll-3"] == sorted(workers.status()["workers"])


@in_async_colours
async def test_of_finished_workers_the_last_hundred_are_shown(w: World) -> None:
    """There may be one for each message."""
    crew = Crew(w)
    async with crew():
        for number in range(120):
            crew.start(f"{number}", 0.0, end="return")
            await anyio.sleep(1.0)

    assert [f"{number}" for number in range(20, 120)] == list(
        crew.workers.status()["workers"]
    )


# -- Ready


@in_async_colours
async def test_start_and_wait_returns_what_is_ready(w: World) -> None:
    """After as many crashes as it takes: case 15."""
    crew = Crew(w, backoff=constant(1))
    runs = 0

    async def serve(base: int, *, task_status: Any) -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise OSError("port is taken")
        task_status.started(base + runs)
        await anyio.sleep(1.0)
        if runs == 3:
            raise OSError("lost")

    async with crew() as workers:
        assert 43 == await workers.start_and_wait(serve, 40, name="serve")
        assert 2.0 == w.now()
    assert 4 == runs


@in_async_colours
async def test_start_and_wait_raises_the_last_error(w: World) -> None:
    """Once no restart follows; the supervisor gives up: case 15."""
    crew = Crew(w, max_restarts=1, backoff=constant(1))

    async def serve(*, task_status: Any) -> None:
        raise OSError("port is taken")

    seen: list[BaseException] = []
    with pytest.raises(RestartLimitError):
        async with crew() as workers:
            try:
                await workers.start_and_wait(serve)
            except OSError as error:
                seen.append(error)
                raise
    assert (["port is taken"], 1.0) == ([str(one) for one in seen], w.now())


@in_async_colours
async def test_start_and_wait_says_why_it_cannot_be(w: World) -> None:
    """It returned, was not to be restarted, was stopped, or its waiter is gone."""
    crew = Crew(w)

    async def returns(*, task_status: Any) -> None:
        pass

    async def fails(*, task_status: Any) -> None:
        raise OSError("port is taken")

    async def hangs(*, task_status: Any) -> None:
        await anyio.sleep_forever()

    async with crew() as workers:
        with pytest.raises(
            RuntimeError, match="worker 'returns' returned before it was ready"
        ):
            await workers.start_and_wait(returns, name="returns")
        with pytest.raises(OSError, match="port is taken"):
            await workers.start_and_wait(fails, restart="never")
        with anyio.move_on_after(1.0):
            await workers.start_and_wait(hangs, name="one")
        crew.after(1.0, workers.stop)
        with pytest.raises(
            RuntimeError, match="worker 'two' was stopped before it was ready"
        ):
            await workers.start_and_wait(hangs, name="two")


# -- Threads


@in_sync
async def test_a_thread_that_stays_is_counted_and_never_doubled(w: World) -> None:
    """The supervisor gives up: case 16."""
    crew = Crew(w, strategy="one_for_all", stop_timeout=2.0)
    running = 0

    def stubborn() -> None:
        nonlocal running
        running += 1
        assert 1 == running
        clock.sleep(20.0)

    def run() -> None:
        with pytest.raises(RestartLimitError, match="is to be restarted but has not"):
            with crew.workers as workers:
                workers.start(stubborn, name="a")
                crew.start("b", 1.0)

    with pytest.warns(ResilientWarning, match="within 2.0 s and is left behind"):
        run()

    assert (3.0, "abandoned", 1) == (w.now(), crew.state("a"), _abandoned(crew))
    await w.sleep(20.0)
    assert 0 == _abandoned(crew)


@in_sync
async def test_a_thread_waits_to_be_stopped(w: World) -> None:
    """For so long, or without limit; the block can ask as well."""
    told: list[tuple[float, bool]] = []
    supervisor = Supervisor()

    def poll(stopping: Stopping) -> None:
        told.append((w.now(), stopping.wait(1.0)))
        told.append((w.now(), stopping.wait(5.0)))
        told.append((w.now(), stopping.is_set()))
        told.append((w.now(), stopping.wait()))

    with supervisor as workers:
        workers.start(poll, workers.stopping)
        assert not workers.stopping.wait(2.0)
        workers.stop()
        assert workers.stopping.is_set()
    assert [(0.0, False), (1.0, True), (2.0, True), (2.0, True)] == told


@in_sync
async def test_a_supervisor_in_a_worker_ends_with_it(w: World) -> None:
    """In a thread nothing is cancelled: it is told."""
    log: list[str] = []

    def inner() -> None:
        with Supervisor() as workers:
            workers.start(wait, workers.stopping, "leaf")
            assert not workers.stopping.is_set()
        log.append("inner ended")

    def wait(stopping: Stopping, name: str) -> None:
        stopping.wait()
        log.append(f"{name} ended")

    def block() -> None:
        with Supervisor() as workers:
            workers.stopping.wait()
        log.append("block ended")

    with Supervisor() as outer:
        outer.start(inner, name="inner")
        outer.start(block, name="block")
        clock.sleep(1.0)
        outer.stop()

    assert ["block ended", "leaf ended", "inner ended"] == log


@in_sync
async def test_the_interrupt_of_a_wait_stops_all(w: World) -> None:
    """Ctrl-C comes to the thread that waits at the end of the block."""
    crew = Crew(w)
    wait, times = clock.wait, iter([True])
    gate = None

    def interrupted(waited: Any, timeout: float | None) -> bool:
        if waited is gate and next(times, False):
            raise KeyboardInterrupt
        return wait(waited, timeout)

    clock.wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        with crew.workers:
            crew.start("a")
            clock.sleep(1.0)
            gate = crew.workers._host.gate  # type: ignore[union-attr]  # a SyncWaiter
    assert (1.0, "a stops") == crew.log[-1]


def test_no_thread_left_is_a_crash() -> None:
    """The system may have one later."""

    async def scenario(w: World) -> None:
        crew = Crew(w, backoff=constant(1))
        start, times = clock.start_thread, iter([True])

        def fails_once(target: Callable[[], None], name: str) -> Any:
            if name == "resilient worker a" and next(times, False):
                raise RuntimeError("can't start new thread")
            return start(target, name)

        clock.start_thread = fails_once
        with crew.workers:
            crew.start("a", 1.0, end="return")
        assert (2.0, "RuntimeError") == (
            w.now(),
            crew.workers.status()["workers"]["a"]["last_error"],
        )

    World("sync").run(scenario)


# -- What is told


def test_each_run_begins_with_the_context_of_the_start() -> None:
    """Not with that of the crash: case 19."""
    variable: ContextVar[str] = ContextVar("variable")

    async def scenario(w: World) -> None:
        seen: list[str] = []

        async def run() -> None:
            seen.append(variable.get())
            variable.set("the run's")
            if len(seen) < 3:
                raise ValueError

        crew = Crew(w)
        async with crew() as workers:
            variable.set("the start's")
            workers.start(w.native(run))
            variable.set("later")
        assert ["the start's"] * 3 == seen

    for colour in ("sync", "asyncio", "trio"):
        World(colour).run(scenario)  # type: ignore[arg-type]  # a literal


@in_every_colour
async def test_the_status_says_how_the_workers_are(w: World) -> None:
    """In words and numbers alone: case 20."""
    crew = Crew(w, backoff=constant(5))
    assert {"workers": {}, "abandoned": 0} == crew.workers.status()
    async with crew() as workers:
        crew.start("new")
        assert crew.state("new") in ("starting", "running")
        crew.start("broken", 1.0)
        crew.start("done", 0.5, end="return")
        await w.sleep(1.8)
        row = {"restarts": 0, "crashes_in_a_row": 0, "last_error": None}
        broken = {"crashes_in_a_row": 1, "last_error": "ValueError"}
        assert {
            "workers": {
                "done": {"state": "done"} | row,
                "new": {"state": "running"} | row,
                "broken": {"state": "restarting in 4.2 s"} | row | broken,
            },
            "abandoned": 0,
        } == workers.status()
        workers.stop()


@in_every_colour
async def test_crashes_are_events(w: World) -> None:
    """With the error itself for listeners in the process."""
    crew = Crew(w, max_restarts=1, backoff=constant(2), name="crew")
    seen: list[WorkerCrashed] = []
    unsubscribe = subscribe(
        lambda event: seen.append(event) if isinstance(event, WorkerCrashed) else None
    )
    with pytest.raises(ResilientError):
        async with crew():
            crew.start("a", 0.0, 0.0)
    unsubscribe()

    assert [
        WorkerCrashed("crew", None, "a", "ValueError", 1, 2.0),
        WorkerCrashed("crew", None, "a", "ValueError", 2, None),
    ] == seen
    assert ["a is broken"] * 2 == [str(event.error) for event in seen]
    assert "broken" not in repr(seen)
    seen.clear()


def test_crashes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With their traceback: what crashes in the background is not silent."""
    caplog.set_level(logging.ERROR, "resilient")

    async def scenario(w: World) -> None:
        crew = Crew(w, max_restarts=1, backoff=constant(2))
        with pytest.raises(RestartLimitError):
            async with crew():
                crew.start("a", 0.0, 0.0)

    World("asyncio").run(scenario)
    assert [
        "worker 'a' crashed (1 in a row) and is restarted in 2.0 s",
        "worker 'a' crashed (2 in a row) and is not restarted",
    ] == [record.getMessage() for record in caplog.records]
    assert "ValueError: a is broken" in caplog.text


@in_every_colour
async def test_a_run_that_crashed_leaves_no_circle(w: World) -> None:
    """Its frames go when its error goes: case 22."""

    async def crash() -> None:
        raise ValueError("broken")

    worker = w.native(crash)

    async def scenario() -> None:
        try:
            if w.is_sync:
                with Supervisor(max_restarts=2) as workers:
                    workers.start(worker)
            else:
                async with Supervisor(max_restarts=2) as workers:
                    workers.start(worker)
        except RestartLimitError:
            pass

    await scenario()
    with no_garbage():
        await scenario()


# -- Arguments


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"strategy": "all"}, '`strategy` must be "one_for_one", "one_for_all" or'),
        ({"max_restarts": -1}, "`max_restarts` must be"),
        ({"healthy_after": -1}, "`healthy_after` must be"),
        ({"backoff": 1.0}, "`backoff` must be a function of the attempt, got 1.0"),
        ({"backoff": lambda: 1.0}, "`backoff` must take one argument"),
        ({"stop_timeout": "5"}, "`stop_timeout` must be"),
        ({"name": 3}, "`name` must be a str, got 3"),
    ],
)
def test_options_are_checked(options: dict[str, Any], text: str) -> None:
    """When it is made."""
    with pytest.raises((TypeError, ValueError), match=text):
        Supervisor(**options)


def test_the_repr_reads_like_the_call() -> None:
    """With all of its options."""
    assert (
        "Supervisor(name='x', strategy='one_for_one', max_restarts=5,"
        " healthy_after=60.0, backoff=exponential(0.1, cap=30.0), stop_timeout=5.0)"
    ) == repr(Supervisor(name="x"))
    assert repr(Supervisor()).startswith("Supervisor(strategy=")


@in_every_colour
async def test_workers_are_checked(w: World) -> None:
    """When they are started, or in their run."""

    async def task() -> None: ...

    def thread() -> None: ...

    def stream() -> Any:
        yield

    crew = Crew(w, max_restarts=0)
    async with crew() as workers:
        start: Any = workers.start
        with pytest.raises(TypeError, match="`function` must be a function, got 3"):
            start(3)
        with pytest.raises(TypeError, match="`name` must be a str, got 3"):
            start(thread if w.is_sync else task, name=3)
        with pytest.raises(ValueError, match='`restart` must be "always"'):
            start(thread if w.is_sync else task, restart="sometimes")
        for function in [stream, *([task] if w.is_sync else [])]:
            with pytest.raises(TypeError, match="give async functions to `async with`"):
                start(function)
        if w.is_sync:
            with pytest.raises(RuntimeError, match="is for workers of `async with`"):
                workers.start_and_wait(task).send(None)
    if w.is_sync:
        return
    crew = Crew(w, max_restarts=0)
    with pytest.raises(RestartLimitError) as caught:
        async with crew() as workers:
            workers.start(thread)
    cause: Any = caught.value.__cause__
    assert "returned no awaitable: run plain functions" in str(cause.exceptions[0])


@in_async_colours
async def test_a_block_of_threads_is_refused_on_a_loop(w: World) -> None:
    """It would stop the loop."""
    with pytest.raises(RuntimeError, match="use `async with`"):
        with Supervisor():
            raise AssertionError


def test_a_loop_that_shuts_down_stops_its_workers() -> None:
    """What is left in it is cancelled, the supervisor itself included."""
    import asyncio

    log: list[str] = []

    async def run() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            log.append("stops")

    async def crash() -> None:
        raise ValueError

    async def main() -> None:
        workers = Supervisor(backoff=constant(10))
        await workers.__aenter__()
        workers.start(run)
        workers.start(crash)
        while workers.status()["workers"]["crash"]["state"] != "restarting in 9.0 s":
            await asyncio.sleep(1.0)

    virtual_time.run(main)
    assert ["stops"] == log


def _abandoned(crew: Crew) -> int:
    number: int = crew.workers.status()["abandoned"]
    return number


@pytest.mark.real
def test_ctrl_c_as_the_thread_starts_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There will be no end of a block that would stop it."""
    start, started = clock.start_thread, list[threading.Thread]()

    def interrupted(target: Callable[[], None], name: str) -> threading.Thread:
        started.append(start(target, name))
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "start_thread", interrupted)
    with pytest.raises(KeyboardInterrupt), Supervisor():
        raise AssertionError
    started[0].join(30.0)
    assert not started[0].is_alive()
