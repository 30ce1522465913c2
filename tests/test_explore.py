"""`explore`: every order of a scenario's tasks, and cancellations in between."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    Bulkhead,
    BulkheadFullError,
    Call,
    CircuitBreaker,
    CircuitState,
    Coalesce,
    Hedge,
    Outcome,
    PerKey,
    Pipeline,
    RateLimiter,
    RejectedError,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    TimeoutExceededError,
    constant,
    current_deadline,
    deadline_after,
)
from resilient._policy.queueing import SlotWait
from resilient._runtimes.simulated import Cancelled
from resilient.testing import (
    Explored,
    ExploredRun,
    VirtualTimeError,
    _explore,
    explore,
    virtual_time,
)
from resilient.testing._schedules import Bounds, Deviations, Search, Step

Scenario = Callable[[ExploredRun], Coroutine[Any, Any, None]]

# -- Our policies, and copies of them with a fault


class Forgetful(AdaptiveConcurrency):
    """Forgets the slot of a call that is cancelled as it is granted one."""

    def _unwind(self, permit: Any, *rest: Any) -> None:
        if not (isinstance(permit, SlotWait) and permit.ticket.granted):
            super()._unwind(permit, *rest)


class Silent(Bulkhead):
    """Passes the slot of such a call on, and does not wake who gets it."""

    def _unwind(self, permit: Any, *rest: Any) -> None:
        if isinstance(permit, SlotWait):
            self._leave_locked(permit.ticket)
        else:
            super()._unwind(permit, *rest)


class Hasty(Coalesce):
    """Looks for an execution, does something else, and begins one for all that."""

    async def around(self, proceed: Any, call: Call) -> Outcome:
        known = self._executions.find_all()
        await call.runtime.sleep(0)
        if not known:
            for execution in self._executions.find_all():
                self._executions._forget(execution)
        return await super().around(proceed, call)


def queueing(make: Callable[[], Any]) -> Scenario:
    """Three callers of a policy with one slot, and a queue."""

    async def scenario(run: ExploredRun) -> None:
        policy = make()
        inside = answered = 0

        @policy
        async def function() -> None:
            nonlocal inside, answered
            inside += 1
            try:
                assert inside == 1
                await run.sleep(1)
            finally:
                inside -= 1
            answered += 1

        tasks = [run.start(function) for _ in range(3)]
        await run.ended()
        assert 3 == answered + sum(task.cancelled for task in tasks)
        assert 0 == policy.queued
        in_use = policy.in_use if isinstance(policy, Bulkhead) else policy.in_flight
        assert 0 == in_use

    return scenario


def sharing(make: Callable[[], Coalesce]) -> Scenario:
    """Two callers of one execution, one of which comes a turn later."""

    async def scenario(run: ExploredRun) -> None:
        policy = make()
        executions = 0

        @policy
        async def function() -> str:
            nonlocal executions
            executions += 1
            await run.sleep(1)
            return "answer"

        async def later() -> str:
            await run.sleep(0)
            return await function()

        tasks = [run.start(function), run.start(later)]
        await run.ended()
        assert all(task.cancelled or task.value == "answer" for task in tasks)
        assert executions <= 1 + sum(task.cancelled for task in tasks)
        assert 0 == policy.in_flight

    return scenario


def adaptive(kind: type[AdaptiveConcurrency]) -> AdaptiveConcurrency:
    """One slot, and a queue."""
    return kind(AIMD(1, maximum=1), max_queue=3, max_wait=30, overload_wait=30)


FAULTS = [
    pytest.param(
        queueing(lambda: adaptive(Forgetful)), "after 30 s", id="forgets a slot"
    ),
    pytest.param(
        queueing(lambda: Silent(1, max_queue=3)), "nothing can run", id="wakes nothing"
    ),
    pytest.param(sharing(Hasty), r"assert \d <= ", id="checks, then acts"),
]


@pytest.mark.parametrize(("scenario", "text"), FAULTS)
def test_a_fault_in_a_copy_is_found(scenario: Scenario, text: str) -> None:
    """And what it prints runs that schedule alone."""
    with pytest.raises(Exception, match=text) as found:
        explore(scenario)
    note = found.value.__notes__[-1]
    replay = re.search("replay='(.*)'", note)
    assert replay is not None
    assert re.fullmatch(r"1(/\d+[:x]\d+){1,2}", replay[1])

    with pytest.raises(type(found.value), match=text) as again:
        explore(scenario, replay=replay[1])

    assert note.partition("\n")[2] == again.value.__notes__[-1].partition("\n")[2]


def test_a_fault_that_no_cancellation_shows_is_found() -> None:
    """The copy of `Coalesce` runs twice by a pre-emption, too."""
    with pytest.raises(AssertionError) as found:
        explore(sharing(Hasty), cancellations=0)

    assert re.search(r"replay='1/\d+:1'", found.value.__notes__[-1])


def pipeline() -> tuple[Pipeline[Any], Bulkhead, CircuitBreaker, RetryBudget]:
    """Policies that hold things, one in the other."""
    budget = RetryBudget(0.5)
    bulkhead = Bulkhead(1, max_queue=2)
    breaker = CircuitBreaker(consecutive_failures=9, open_for=1)
    made: Pipeline[Any] = Pipeline(
        Timeout(5),
        Retry(OSError, backoff=constant(1), budget=budget),
        breaker,
        bulkhead,
        Timeout(2),
    )
    return made, bulkhead, breaker, budget


async def a_pipeline(run: ExploredRun) -> None:
    """Two callers, whose first attempts fail."""
    made, bulkhead, breaker, _ = pipeline()
    attempts = 0

    @made
    async def function() -> str:
        nonlocal attempts
        attempts += 1
        await run.sleep(1)
        if attempts <= 2:
            raise OSError
        return "answer"

    async def call() -> str:
        try:
            return await function()
        except (OSError, RejectedError, TimeoutExceededError) as error:
            return str(error)

    run.start(call)
    run.start(call)
    await run.ended()
    assert (0, 0) == (bulkhead.in_use, bulkhead.queued)
    assert CircuitState.CLOSED is breaker.state
    assert await function() == "answer"


async def a_probe(run: ExploredRun) -> None:
    """Two callers of a breaker that is half-open."""
    breaker = CircuitBreaker(consecutive_failures=1, open_for=1)

    @breaker
    async def function(fails: bool = False) -> None:
        await run.sleep(0.5)
        if fails:
            raise OSError

    async def call() -> None:
        try:
            await function()
        except RejectedError:
            pass

    with pytest.raises(OSError, match=r"^$"):
        await function(fails=True)
    await run.sleep(1)
    run.start(call)
    run.start(call)
    await run.ended()
    assert 0 == breaker.statistics().in_flight_probes
    await function()
    assert CircuitState.CLOSED is breaker.state


async def a_rate(run: ExploredRun) -> None:
    """Three callers for one token a second: none is granted twice."""
    limiter = RateLimiter(1, per=1, max_wait=10)
    begun: list[float] = []

    @limiter
    async def function() -> None:
        begun.append(run.now())

    tasks = [run.start(function) for _ in range(3)]
    await run.ended()
    assert 0 == limiter.queued
    assert 3 == len(begun) + sum(task.cancelled for task in tasks)
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(begun))


async def a_hedge(run: ExploredRun) -> None:
    """A call whose second attempt begins as the first one answers."""
    hedge = Hedge(1, attempts=2)
    inside = 0

    @hedge
    async def function() -> str:
        nonlocal inside
        inside += 1
        try:
            await run.sleep(1)
        finally:
            inside -= 1
        return "answer"

    task = run.start(function)
    await run.ended()
    assert task.cancelled or task.value == "answer"
    assert 0 == inside


async def a_limit_and_its_answer(run: ExploredRun) -> None:
    """What comes at the deadline is an answer or an error, and no cancellation."""
    bulkhead = Bulkhead(1)

    @Timeout(1)
    @bulkhead
    async def function() -> str:
        await run.sleep(1)
        return "answer"

    async def call() -> str:
        try:
            return await function()
        except TimeoutExceededError:
            return "late"

    task = run.start(call)
    await run.ended()
    assert task.cancelled or task.value in ("answer", "late")
    assert 0 == bulkhead.in_use


async def keys(run: ExploredRun) -> None:
    """Two callers of one key, and one of another."""
    per_key: PerKey[Any] = PerKey(
        lambda key: Bulkhead(1, max_queue=1), key=lambda name: name
    )

    @per_key
    async def function(name: str) -> str:
        await run.sleep(1)
        return name

    for name in ("a", "a", "b"):
        run.start(function, name)
    await run.ended()
    for bulkhead in per_key.children():
        assert isinstance(bulkhead, Bulkhead)
        assert (0, 0) == (bulkhead.in_use, bulkhead.queued)


async def a_stale_answer(run: ExploredRun) -> None:
    """Two callers for an answer that is to be refreshed."""
    cache = StaleCache(1, 60)
    refreshes = 0

    @cache
    async def function() -> int:
        nonlocal refreshes
        refreshes += 1
        await run.sleep(1)
        return refreshes

    assert 1 == await function()
    await run.sleep(2)
    run.start(function)
    run.start(function)
    await run.ended()
    await run.sleep(5)
    assert 2 <= await function()


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(queueing(lambda: Bulkhead(1, max_queue=3)), id="fifo"),
        pytest.param(
            queueing(lambda: Bulkhead(1, max_queue=3, order="lifo")), id="lifo"
        ),
        pytest.param(queueing(lambda: adaptive(AdaptiveConcurrency)), id="adaptive"),
        pytest.param(sharing(Coalesce), id="coalesce"),
        a_pipeline,
        a_probe,
        a_rate,
        a_hedge,
        a_limit_and_its_answer,
        keys,
        a_stale_answer,
    ],
)
def test_no_fault_is_found_in_ours(scenario: Scenario) -> None:
    """Two pre-emptions and a cancellation, and some schedules beyond."""
    found = explore(scenario, drawn=50)
    assert found.complete


# -- Which schedules are run


def merges(*parts: str) -> set[str]:
    """Every order of the letters of some words that keeps each word's own."""
    found = {""} if not any(parts) else set[str]()
    for place, part in enumerate(parts):
        if part:
            rest = (*parts[:place], part[1:], *parts[place + 1 :])
            found |= {part[0] + order for order in merges(*rest)}
    return found


def writers(*words: str) -> tuple[Scenario, list[str]]:
    """Tasks that write one word each, letter by letter; what they wrote together."""
    orders: list[str] = []

    async def scenario(run: ExploredRun) -> None:
        letters: list[str] = []

        async def write(word: str) -> None:
            for letter in word:
                await run.sleep(0)
                letters.append(letter)

        for word in words:
            run.start(write, word)
        await run.ended()
        orders.append("".join(letters))

    return scenario, orders


def test_every_order_is_run() -> None:
    """With as many pre-emptions as there are steps, all that there are."""
    scenario, orders = writers("abc", "xy")

    found = explore(scenario, preemptions=9, cancellations=0, drawn=0)

    assert found.complete
    assert found.schedules == len(orders)
    assert merges("abc", "xy") == set(orders)


def test_pre_emptions_are_bounded() -> None:
    """Without any there is the one order of an event loop."""
    scenario, orders = writers("abc", "xyz")

    assert Explored(1, complete=True) == explore(
        scenario, preemptions=0, cancellations=0, drawn=0
    )
    assert ["axbycz"] == orders
    explore(scenario, preemptions=1, cancellations=0, drawn=0)
    once = set(orders)
    explore(scenario, preemptions=2, cancellations=0, drawn=0)
    assert {"axbycz"} < once < set(orders) < merges("abc", "xyz")


def test_a_task_is_cancelled_at_each_suspension() -> None:
    """Once in a schedule; what may not be cancelled is not."""
    places: list[str] = []

    async def scenario(run: ExploredRun) -> None:
        async def wait(name: str) -> str:
            for place in range(3):
                try:
                    await run.sleep(place)
                except BaseException as cancelled:
                    places.append(f"{name}{place}")
                    assert "Cancelled" == type(cancelled).__name__
                    raise
            return name

        first = run.start(wait, "a")
        second = run.start(wait, "b", cancel=False)
        assert "<ExploredTask 'wait 1'>" == repr(first)
        assert first.value is None
        await run.ended()
        assert first.cancelled or first.value == "a"
        assert (False, "b") == (second.cancelled, second.value)

    found = explore(scenario, preemptions=0, drawn=0)

    assert {"a0", "a1", "a2"} == set(places)
    assert found.schedules == 1 + len(places)


def test_each_schedule_is_run_once() -> None:
    """The search against all that a scenario of two tasks allows."""
    steps = [Step(2, (1, 2)), Step(3, (2,)), Step(1, (1,))]
    search = Search(Bounds(2, 1))
    seen: list[Deviations] = []
    while (found := search.next()) is not None:
        seen.append(found)
        search.ran(found, steps)

    options = [[0, 1, -1, -2], [0, 1, 2, -2], [0, -1]]
    expected = [
        tuple((place, option) for place, option in enumerate(row) if option)
        for row in itertools.product(*options)
        if sum(option < 0 for option in row) <= 1
    ]
    assert sorted(expected) == sorted(seen)
    assert seen == sorted(seen, key=len)


def test_a_limit_ends_a_search() -> None:
    """And the answer says that there was more."""
    scenario, orders = writers("abc", "xyz")

    found = explore(scenario, limit=7, cancellations=0)

    assert Explored(7, complete=False) == found
    assert 7 == len(orders)


def test_drawn_schedules_go_beyond_the_bounds() -> None:
    """Repeatably; and what they find is shortened to what it needs."""
    scenario, orders = writers("abcd", "wxyz")
    explore(scenario, preemptions=1, cancellations=0, drawn=0)
    bounded = set(orders)

    async def no_late_start(run: ExploredRun) -> None:
        await scenario(run)
        assert orders[-1] != "abcdwxyz"

    orders.clear()
    notes: list[str] = []
    for _ in range(2):
        with pytest.raises(AssertionError) as found:
            explore(no_late_start, preemptions=1, cancellations=0, drawn=500)
        notes += found.value.__notes__

    assert set(orders) - bounded
    assert notes[0] == notes[1]
    deviations = re.findall(r"\d+:\d", notes[0].partition("\n")[0])
    assert 2 <= len(deviations) <= 4


# -- What a failure says


def test_a_failure_says_what_was_done() -> None:
    """Each step with its task, moment and place."""

    async def scenario(run: ExploredRun) -> None:
        event = Bulkhead(1, max_queue=1, max_wait=1)

        @Timeout(3)
        @event
        async def hold() -> None:
            await run.sleep(9)

        async def call() -> None:
            with pytest.raises(TimeoutExceededError):
                await hold()

        async def refused() -> None:
            with pytest.raises(BulkheadFullError):
                await hold()

        run.start(call)
        run.start(refused)
        await run.ended()
        raise OSError("at the end")

    with pytest.raises(OSError, match="at the end") as found:
        explore(scenario)
    first, *lines = found.value.__notes__[0].splitlines()

    assert "schedule 1 led there; explore(…, replay='1') runs it alone:" == first
    assert [
        "   0.000 s  the scenario begins",
        "   0.000 s  call 1 begins",
        "   0.000 s  refused 2 begins",
    ] == lines[:3]
    assert lines[3].startswith("   1.000 s  refused 2 has waited long enough, at /")
    assert lines[3].endswith("scenario.<locals>.refused(): await hold()")
    assert [
        "   1.000 s  refused 2 goes on",
        "   3.000 s  call 1 reaches a limit",
        "   3.000 s  call 1 is interrupted",
        "   3.000 s  the scenario goes on",
    ] == [line.partition(",")[0] for line in lines[4:]]


def test_who_was_overtaken_is_said() -> None:
    """And which schedule it was, of how many."""
    scenario, orders = writers("ab", "xy")

    async def first_comes_first(run: ExploredRun) -> None:
        await scenario(run)
        assert orders[-1].startswith("a")

    with pytest.raises(AssertionError) as found:
        explore(first_comes_first, cancellations=0)

    note = found.value.__notes__[0]
    assert note.startswith("schedule 2 led there; explore(…, replay='1/1:1')")
    assert "write 2 begins before write 1" in note


def test_what_can_never_go_on_is_said() -> None:
    """Which task waits, and where."""

    async def scenario(run: ExploredRun) -> None:
        async def wait() -> None:
            await run.ended()

        run.start(wait)
        await run.ended()

    with pytest.raises(VirtualTimeError, match="nothing is scheduled") as found:
        explore(scenario)

    assert re.search(
        r"at 0.0 s of virtual time\. Waiting:\n  the scenario at .*: await run.ended"
        r"\(\)\n  wait 1 at .*wait\(\): await run.ended\(\)",
        str(found.value),
    )


def test_a_scenario_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """After very many steps."""
    monkeypatch.setattr(_explore, "_LONGEST", 50)

    async def scenario(run: ExploredRun) -> None:
        while True:
            await run.sleep(0)

    with pytest.raises(VirtualTimeError, match="no end is in sight after 50 steps"):
        explore(scenario)


def test_an_error_of_a_task_comes_first() -> None:
    """The scenario's own is often a consequence."""

    async def scenario(run: ExploredRun) -> None:
        async def fail() -> None:
            raise OSError("the cause")

        task = run.start(fail)
        await run.ended()
        assert task.value == "answer"

    with pytest.raises(OSError, match="the cause"):
        explore(scenario)


def test_a_failure_that_does_not_come_again_is_raised_all_the_same() -> None:
    """A scenario that depends on more than its schedule."""
    runs = 0

    async def scenario(run: ExploredRun) -> None:
        nonlocal runs
        runs += 1
        assert runs != 1

    with pytest.raises(AssertionError) as found:
        explore(scenario)

    assert "schedule 1 led there" in found.value.__notes__[0]


def test_a_cancellation_that_was_not_sent_is_a_failure() -> None:
    """A policy must not let its own interruption out."""

    async def scenario(run: ExploredRun) -> None:
        async def leak() -> None:
            raise Cancelled

        run.start(leak)
        await run.ended()

    with pytest.raises(Cancelled):
        explore(scenario)


def test_a_replay_of_what_is_mended_says_nothing() -> None:
    """It runs the one schedule, with what is still possible of it."""
    scenario, orders = writers("ab", "xy")

    found = explore(scenario, replay="7/1:1/3x1/4:9/5x9")

    assert Explored(1, complete=False) == found
    assert ["xy"] == orders


def test_code_that_waits_on_asyncio_is_refused() -> None:
    """Nothing could answer it here."""

    async def scenario(run: ExploredRun) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="was awaited in simulated time"):
        explore(scenario)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"preemptions": -1}, ValueError, "`preemptions` must be >= 0, got -1"),
        ({"cancellations": 0.5}, TypeError, "`cancellations` must be an int"),
        ({"drawn": -1}, ValueError, "`drawn` must be >= 0, got -1"),
        ({"limit": 0}, ValueError, "`limit` must be >= 1, got 0"),
        ({"replay": "1/4-2"}, ValueError, "`replay` must be what a failure printed, "),
        ({"replay": "one"}, ValueError, "such as '1/4:2/6x1', got 'one'"),
    ],
)
def test_impossible_arguments_are_refused(
    arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """Before anything runs."""
    scenario, orders = writers("a")

    with pytest.raises(kind, match=re.escape(text)):
        explore(scenario, **arguments)

    assert [] == orders


def test_a_deadline_around_is_not_that_of_the_tasks() -> None:
    """Virtual time begins anew."""

    async def scenario(run: ExploredRun) -> None:
        async def look() -> None:
            assert current_deadline() is None

        run.start(look)
        await run.ended()

    with deadline_after(60):
        explore(scenario)


def test_exploring_inside_virtual_time_is_refused() -> None:
    """One virtual clock a process; it is put back afterwards."""
    scenario, _ = writers("a")

    with virtual_time(), pytest.raises(VirtualTimeError, match="cannot be nested"):
        explore(scenario)
    with virtual_time() as clock:
        assert 0.0 == clock.now()
