"""`explore`: run a scenario in every order that its tasks could have."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from heapq import heappop
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeAlias, TypeVarTuple

import attrs

from resilient._runtimes.runtime import unpaused
from resilient._runtimes.simulated import (
    Cancelled,
    SimulatedLimit,
    Suspension,
    Task,
    World,
)
from resilient._values.checks import count
from resilient.testing import _stacks
from resilient.testing._schedules import (
    Bounds,
    Deviations,
    Drawn,
    Replayed,
    Search,
    Step,
    read,
    written,
)
from resilient.testing._virtual_clock import VirtualClock, VirtualTimeError
from resilient.testing._world import world

Ts = TypeVarTuple("Ts")

_LONGEST = 100_000
"""Steps after which a scenario is said to have no end."""

_LIBRARY = str(Path(__file__).parent.parent)

_VERBS = {
    "begin": "begins",
    "resume": "goes on",
    "_deliver": "is interrupted",
    "expire": "reaches a limit",
    "_resume_soon": "has waited long enough",
}
"""What the entries of the heap do to a task, by the names of their actions."""


@attrs.frozen
class Explored:
    """What `explore` has run.

    Attributes:
        schedules: How many, the drawn ones included.
        complete: Whether that was every schedule within the bounds; False: `limit` was
            reached before.
    """

    schedules: int
    complete: bool


class ExploredTask:
    """A task of a scenario."""

    def __init__(self, task: Any) -> None:
        # NB: a `Task`, whose own attributes are no part of the typed interface.
        self._task: Any = task

    @property
    def cancelled(self) -> bool:
        """Whether it ended with the cancellation that it was sent."""
        return isinstance(self._task.error, Cancelled)

    @property
    def value(self) -> Any:
        """What its function returned; None before that, and where it did not."""
        return self._task.value

    def __repr__(self) -> str:
        return f"<ExploredTask {self._task.name!r}>"


class ExploredRun:
    """One run of a scenario: what the scenario starts tasks with, and waits by."""

    def __init__(self, explored: Any) -> None:
        # NB: an `_ExploredWorld`, which is no part of the typed interface.
        self._world: Any = explored

    def start(
        self,
        function: Callable[[*Ts], Coroutine[Any, Any, Any]],
        *args: *Ts,
        cancel: bool = True,
    ) -> ExploredTask:
        """Run ``function(*args)`` in a task, after all that is ready now.

        An error that it raises is the scenario's.

        Args:
            function: An async function.
            args: What it is called with.
            cancel: Whether schedules may cancel it.
        """
        name = getattr(function, "__name__", type(function).__name__)
        number = len(self._world.tasks)
        task = self._world.start(function(*args), f"{name} {number}")
        self._world.tasks[task] = number if cancel else 0
        return ExploredTask(task)

    def now(self) -> float:
        """Return the seconds of virtual time since this run began."""
        now: float = self._world.clock.now()
        return now

    async def sleep(self, seconds: float) -> None:
        """Let virtual time pass; 0 lets the other tasks run."""
        await unpaused(self._world.sleep, seconds)

    async def ended(self) -> None:
        """Wait until each task that was started has ended."""
        own = self._world.running
        while under_way := [
            task for task in self._world.tasks if task is not own and not task.has_ended
        ]:
            await unpaused(under_way[0].ended)


Scenario: TypeAlias = Callable[[ExploredRun], Coroutine[Any, Any, None]]


class _Chooser(Protocol):
    """What decides about the order."""

    def choose(self, number: int, step: Step) -> int: ...


class _ExploredWorld(World):
    """An event heap that asks in which order to do what is due at one moment.

    Attributes:
        tasks: Those of the scenario, with their numbers; 0: it is not cancelled.
        steps: What was possible in each step so far.
        deviations: What was chosen, where it was not what is first.
        trace: What was done, for people to read; None: it is not written down.
    """

    __slots__ = ("_chooser", "_ready", "deviations", "steps", "tasks", "trace")

    def __init__(
        self, clock: VirtualClock, chooser: _Chooser, trace: list[str] | None
    ) -> None:
        super().__init__(clock)
        self._chooser = chooser
        # What is due, in order; the heap has what is due later, and what is new.
        self._ready: list[tuple[float, int, Callable[[Any], object], Any]] = []
        self.tasks: dict[Task, int] = {}
        self.steps: list[Step] = []
        self.deviations: list[tuple[int, int]] = []
        self.trace = trace

    def run(self) -> None:
        """Run until no work is under way.

        Raises:
            VirtualTimeError: What is under way could never be woken, or has no end.
        """
        while self.under_way:
            self._gather()
            if not self._ready:
                raise self._stuck("nothing can run and nothing is scheduled")
            if len(self.steps) == _LONGEST:
                raise self._stuck(f"no end is in sight after {_LONGEST} steps")
            waiting = {
                number: task
                for task, number in self.tasks.items()
                if number and task.suspension is not None
            }
            step = Step(len(self._ready), tuple(waiting))
            option = self._chooser.choose(len(self.steps), step)
            if option:
                self.deviations.append((len(self.steps), option))
            self.steps.append(step)
            if option < 0:
                self._trace(waiting[-option], "is cancelled")
                waiting[-option].cancel(at_once=True)
            else:
                _, _, action, argument = self._ready.pop(option)
                overtaken = self._ready[0][3] if option else None
                self._trace(argument, _VERBS[action.__name__], overtaken)
                action(argument)

    def _gather(self) -> None:
        """Find what is due now; if nothing is, let time pass."""
        heap, now = self._heap, self.clock.now()
        ready = [entry for entry in self._ready if not _is_spent(entry[3])]
        while heap and (heap[0][0] <= now or not ready):
            entry = heappop(heap)
            if not _is_spent(entry[3]):
                ready.append(entry)
                now = max(now, entry[0])
        self.clock.jump_alone(now)
        # NB: what was asked for at a moment that is past comes first.
        ready.sort(key=_by_moment)
        self._ready = ready

    def _stuck(self, why: str) -> VirtualTimeError:
        waiting = "".join(
            f"\n  {task.name} at {_stacks.of_coroutine(task.coroutine)}"
            for task in self.tasks
            if not task.has_ended
        )
        return VirtualTimeError(
            f"{why} at {self.clock.now()} s of virtual time. Waiting:{waiting}"
        )

    def _trace(self, argument: object, verb: str, overtaken: object = None) -> None:
        """Write down what is done to a task, before it is done."""
        if self.trace is None:
            return
        task = _task_of(argument)
        line = f"{self.clock.now():8.3f} s  {task.name} {verb}"
        if overtaken is not None:
            line += f" before {_task_of(overtaken).name}"
        place = _stacks.of_coroutine(task.coroutine)
        if verb != "begins" and not place.startswith(_LIBRARY):
            line += f", at {place}"
        self.trace.append(line)


def _by_moment(entry: tuple[float, int, object, object]) -> tuple[float, int]:
    return entry[:2]


def _is_spent(argument: object) -> bool:
    """Whether an entry of the heap has nothing to do any more."""
    if isinstance(argument, Suspension):
        return argument.work is None
    return isinstance(argument, SimulatedLimit) and argument.is_left()


def _task_of(argument: object) -> Task:
    """Return the task that an entry of the heap is for."""
    if isinstance(argument, (Suspension, SimulatedLimit)):
        argument = argument.work
    assert isinstance(argument, Task)
    return argument


class _Exploration:
    """Runs one scenario by many schedules."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        self._seed = seed

    def run(
        self, chooser: _Chooser, trace: list[str] | None = None
    ) -> tuple[_ExploredWorld, BaseException | None]:
        """Run it once; return its world, and the error that it failed with."""
        # NB: empty, for a call that runs here would lend its deadline to all.
        return Context().run(self._run, chooser, trace)

    def _run(
        self, chooser: _Chooser, trace: list[str] | None
    ) -> tuple[_ExploredWorld, BaseException | None]:
        made = partial(_ExploredWorld, chooser=chooser, trace=trace)
        stuck: VirtualTimeError | None = None
        with world(self._seed, made) as explored:
            scenario = self._scenario(ExploredRun(explored))
            main = explored.start(scenario, "the scenario")
            explored.tasks[main] = 0
            try:
                explored.run()
            except VirtualTimeError as error:
                stuck = error
        cancelled = {-option for _, option in explored.deviations}
        # NB: what fails in a task comes before what the scenario makes of it.
        for task, number in (*list(explored.tasks.items())[1:], (main, 0)):
            failure = task.error
            expected = isinstance(failure, Cancelled) and number in cancelled
            if failure is not None and not expected:
                return explored, failure
        return explored, stuck

    def failed(
        self, deviations: Deviations, failure: BaseException, schedules: int
    ) -> BaseException:
        """Return the failure of a schedule with a note of how to see it again."""
        deviations = self._shortened(deviations, failure)
        trace: list[str] = []
        _, again = self.run(Replayed(deviations), trace)
        failure = again or failure
        failure.add_note(
            f"schedule {schedules} led there; explore(…, replay="
            f"{written(self._seed, deviations)!r}) runs it alone:\n" + "\n".join(trace)
        )
        return failure

    def _shortened(self, deviations: Deviations, failure: BaseException) -> Deviations:
        """Leave out what a failure of the same class does not need."""
        for one in deviations:
            fewer = tuple(other for other in deviations if other is not one)
            _, again = self.run(Replayed(fewer))
            if type(again) is type(failure):
                deviations = fewer
        return deviations


def explore(
    scenario: Scenario,
    *,
    preemptions: int = 2,
    cancellations: int = 1,
    drawn: int = 100,
    limit: int = 100_000,
    seed: int = 1,
    replay: str | None = None,
) -> Explored:
    """Run a scenario in each order that its tasks could have, and cancel them.

    Where several tasks can go on at one moment, an event loop takes the first. A
    *pre-emption* takes another; a *cancellation* is sent to a task that waits. Every
    schedule within the bounds is run, those with the fewest deviations first, and then
    some that are drawn, with any number of pre-emptions.

    A schedule fails if the scenario or a task of it raises an error (an AssertionError,
    say), or if nothing can run any more. Its note says what was done, and the text
    that has `replay` run that schedule alone.

    It runs on the simulated runtime, in virtual time: policies run as they are, and
    so does code that waits through them or by `ExploredRun.sleep`. What waits on
    asyncio or trio itself fails with a RuntimeError.

    Args:
        scenario: An async function of an `ExploredRun`, called once for each schedule.
            It makes all it needs anew, starts tasks, waits for them and checks.
        preemptions: How many a schedule has at the most.
        cancellations: How many a schedule has at the most.
        drawn: Schedules that are drawn, beyond the bound of pre-emptions.
        limit: Schedules in all, so that a long scenario ends.
        seed: Seeds the drawn schedules and the library's random source.
        replay: What a failure printed; only that schedule is run.

    Returns:
        How many schedules were run, and whether they are all within the bounds.

    Raises:
        BaseException: What a schedule failed with.
        VirtualTimeError: In a schedule nothing could run any more. Or virtual time
            runs already.
        TypeError: A number is no int.
        ValueError: A number is below 0, or `replay` is nothing that was printed.

    Source: Musuvathi and Qadeer, *Iterative context bounding for systematic testing
    of multithreaded programs*, 2007.
    """
    bounds = Bounds(
        count("preemptions", preemptions, minimum=0),
        count("cancellations", cancellations, minimum=0),
    )
    drawn = count("drawn", drawn, minimum=0)
    limit = count("limit", limit, minimum=1)
    if replay is not None:
        seed, deviations = read(replay)
        exploration = _Exploration(scenario, seed)
        _, failure = exploration.run(Replayed(deviations))
        if failure is not None:
            raise exploration.failed(deviations, failure, 1)
        return Explored(1, complete=False)
    exploration = _Exploration(scenario, seed)
    search = Search(bounds)
    schedules = longest = 0
    while schedules < limit and (found := search.next()) is not None:
        schedules += 1
        explored, failure = exploration.run(Replayed(found))
        if failure is not None:
            raise exploration.failed(found, failure, schedules)
        search.ran(found, explored.steps)
        longest = max(longest, len(explored.steps))
    complete = search.next() is None
    for number in range(min(drawn, limit - schedules)):
        schedules += 1
        chance = Random(f"{seed}/{number}")
        explored, failure = exploration.run(
            Drawn(chance, longest, bounds.cancellations)
        )
        if failure is not None:
            raise exploration.failed(tuple(explored.deviations), failure, schedules)
    return Explored(schedules, complete)


for _public in (Explored, ExploredRun, ExploredTask, explore):
    _public.__module__ = "resilient.testing"
