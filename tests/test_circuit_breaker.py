"""CircuitBreaker, in three colours; its rules are `machines/test_circuit.py`."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour, in_sync
from tests.interrupts import amid_change

from resilient import (
    Bulkhead,
    BulkheadFullError,
    Call,
    CallRejected,
    CircuitBreaker,
    CircuitChanged,
    CircuitNoted,
    CircuitOpenError,
    CircuitState,
    Event,
    Outcome,
    Pipeline,
    RejectedError,
    Retry,
    Timeout,
    Verdict,
    calls,
    constant,
)
from resilient._machines.circuit import Circuit
from resilient.testing import virtual_time

CLOSED, OPEN, HALF_OPEN = (
    CircuitState.CLOSED,
    CircuitState.OPEN,
    CircuitState.HALF_OPEN,
)


async def succeed() -> str:
    """Answer."""
    return "ok"


async def fail() -> None:
    """Do not."""
    raise OSError("down")


async def failing(w: World, breaker: CircuitBreaker, times: int = 1) -> None:
    """Make calls that fail."""
    for _ in range(times):
        with pytest.raises(OSError, match="down"):
            await w.call(breaker, fail)


async def rejection(w: World, breaker: CircuitBreaker) -> CircuitOpenError:
    """Make a call that has to be rejected; return why."""
    with pytest.raises(CircuitOpenError) as caught:
        await w.call(breaker, succeed)
    return caught.value


def changes(events: list[Event]) -> list[str]:
    """Return the changes of state as "old > new: reason"."""
    return [
        f"{event.old} > {event.new}: {event.reason}"
        for event in events
        if isinstance(event, CircuitChanged)
    ]


def notes(events: list[Event]) -> list[str]:
    """Return what was noted."""
    return [event.what for event in events if isinstance(event, CircuitNoted)]


# -- One round through the states


@in_every_colour
async def test_it_opens_probes_and_closes(w: World) -> None:
    """The whole life, with the events that tell of it."""
    breaker = CircuitBreaker(minimum_calls=2, open_for=5, name="payments")
    events: list[Event] = []
    unsubscribe = breaker.subscribe(events.append)
    await failing(w, breaker)
    assert CLOSED is breaker.state
    await failing(w, breaker)
    assert OPEN is breaker.state

    await w.sleep(1)
    error = await rejection(w, breaker)
    assert (
        "circuit 'payments' is open (2 of 2 calls failed in 10.0 s, the last with"
        " OSError); retry in 4 s"
    ) == str(error)
    assert ("open", 4.0) == (error.reason, error.retry_after)

    await w.sleep(4)
    assert "ok" == await w.call(breaker, succeed)
    assert HALF_OPEN is breaker.state
    assert "ok" == await w.call(breaker, succeed)
    assert CLOSED is breaker.state
    unsubscribe()
    breaker.reset()
    assert [
        CircuitChanged("payments", None, "closed", "open", "failure_rate", 2, 2, 0),
        CallRejected("payments", events[1].call, "CircuitOpenError", "open", 4.0),
        CircuitChanged(
            "payments", None, "open", "half_open", "open_time_over", 0, 0, 0
        ),
        CircuitChanged(
            "payments", None, "half_open", "closed", "probes_passed", 0, 0, 0
        ),
    ] == events


@in_every_colour
async def test_it_opens_on_the_tenth_outcome_whatever_that_is(w: World) -> None:
    """Nine failures are too few calls; so are five and four successes."""
    breaker = CircuitBreaker(minimum_calls=10, window=30)
    await failing(w, breaker, 9)
    assert CLOSED is breaker.state
    await failing(w, breaker)
    assert OPEN is breaker.state
    other = breaker.with_()
    await failing(w, other, 5)
    for _ in range(4):
        await w.call(other, succeed)
    assert CLOSED is other.state
    await w.call(other, succeed)
    assert OPEN is other.state


@in_every_colour
async def test_a_count_window_forgets_the_oldest_call(w: World) -> None:
    """F S S S S: the failure has left, and half of the window never failed."""
    breaker = CircuitBreaker(window=calls(4), failure_rate=0.25, minimum_calls=4)
    await failing(w, breaker)
    other = breaker.with_(failure_rate=0.5)
    await failing(w, other)
    for _ in range(4):
        await w.call(other, succeed)
    assert 0.0 == other.statistics().failure_rate
    assert CLOSED is other.state


@in_every_colour
async def test_a_time_window_forgets_old_calls(w: World) -> None:
    """Ten failures at 0 s say nothing at 10.1 s."""
    breaker = CircuitBreaker(minimum_calls=11)
    await failing(w, breaker, 10)
    await w.sleep(10.1)
    await failing(w, breaker)
    assert 1 == breaker.statistics().calls
    assert CLOSED is breaker.state


@in_every_colour
async def test_failures_in_a_row_open_it(w: World) -> None:
    """A rule of its own, without a rate; a success begins a new row."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=3)
    await failing(w, breaker, 2)
    await w.call(breaker, succeed)
    await failing(w, breaker, 2)
    assert CLOSED is breaker.state
    await failing(w, breaker)
    error = await rejection(w, breaker)
    assert "(3 of 3 calls failed in a row, the last with OSError)" in str(error)


@in_every_colour
async def test_a_failed_probe_opens_it_for_longer(w: World) -> None:
    """By a function of how often it has opened."""
    asked: list[int] = []

    def open_for(openings: int) -> float:
        asked.append(openings)
        return 10.0 * openings

    breaker = CircuitBreaker(
        failure_rate=None, consecutive_failures=1, half_open_calls=1, open_for=open_for
    )
    for openings in (1, 2, 3):
        await failing(w, breaker)
        assert 10.0 * openings == (await rejection(w, breaker)).retry_after
        await w.sleep(10.0 * openings)
    await w.call(breaker, succeed)
    assert CLOSED is breaker.state
    await failing(w, breaker)
    assert [1, 2, 3, 1] == asked


@in_every_colour
async def test_the_open_time_grows_and_is_spread_by_default(w: World) -> None:
    """5 s, doubling to 60 s while probes fail, each ± 20 %."""
    breaker = CircuitBreaker(
        failure_rate=None, consecutive_failures=1, half_open_calls=1
    )
    seen: list[float] = []
    for middle in (5, 10, 20, 40, 60, 60):
        await failing(w, breaker)
        retry_after = (await rejection(w, breaker)).retry_after
        assert retry_after is not None
        assert 0.8 * middle <= retry_after <= min(1.2 * middle, 60.0)
        seen.append(retry_after)
        await w.sleep(retry_after)
    assert 5.0 != seen[0]


@in_every_colour
async def test_what_opened_it_is_told_to_callers(w: World) -> None:
    """The error's class, and the last it was raised from; each opening its own."""
    breaker = CircuitBreaker(consecutive_failures=2, open_for=5)

    async def refused() -> None:
        try:
            try:
                raise ValueError("certificate has expired")
            except ValueError as error:
                raise OSError("TLS") from error
        except OSError as error:
            raise ConnectionError("no connection") from error

    async def circular() -> None:
        error = OSError("round")
        error.__cause__ = KeyError("and round")
        error.__cause__.__cause__ = error
        raise error

    async def lost() -> None:
        raise TimeoutError

    for fn, cause in (
        (refused, "ConnectionError from ValueError"),
        (lost, "TimeoutError"),
        (circular, "OSError"),
    ):
        for _ in range(2):
            with pytest.raises(OSError):
                await w.call(breaker, fn)
        error = await rejection(w, breaker)
        assert cause == error.cause
        assert f"(2 of 2 calls failed in a row, the last with {cause})" in str(error)
        breaker.reset()


@in_every_colour
async def test_what_opened_it_without_an_error_has_no_cause(w: World) -> None:
    """A result, or calls that were slow; nor is an earlier opening's told."""
    breaker = CircuitBreaker(
        consecutive_failures=2,
        slow_call_duration=1,
        slow_call_rate=1,
        minimum_calls=2,
        on=lambda outcome: outcome.error is not None or outcome.value == "bad",
    )

    async def bad() -> str:
        return "bad"

    async def slow() -> None:
        await w.sleep(2)

    await failing(w, breaker, 2)
    assert "OSError" == (await rejection(w, breaker)).cause
    for fn in (bad, slow):
        breaker.reset()
        for _ in range(2):
            await w.call(breaker, fn)
        error = await rejection(w, breaker)
        assert error.cause is None
        assert "the last with" not in str(error)


# -- Half-open


@in_async_colours
async def test_no_more_probes_than_allowed_are_under_way(w: World) -> None:
    """Of ten calls at once three run and seven are rejected, each once."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1, open_for=1)
    await failing(w, breaker)
    await w.sleep(1)
    events: list[Event] = []
    breaker.subscribe(events.append)
    running: list[int] = []

    async def probe() -> None:
        running.append(1)
        await w.sleep(1)

    results = await w.gather(*[lambda: w.call(breaker, probe)] * 10)
    assert 3 == len(running)
    errors = [result for result in results if result is not None]
    assert ["half_open_full"] * 7 == [error.reason for error in errors]
    assert [None] * 7 == [error.retry_after for error in errors]
    assert 7 == sum(isinstance(event, CallRejected) for event in events)
    assert [
        "open > half_open: open_time_over",
        "half_open > closed: probes_passed",
    ] == changes(events)


@in_async_colours
async def test_a_cancelled_probe_votes_neither_way(w: World) -> None:
    """Its place is free again, and the state is the same."""
    breaker = CircuitBreaker(
        failure_rate=None, consecutive_failures=1, open_for=1, half_open_calls=1
    )
    await failing(w, breaker)
    await w.sleep(1)

    async def hang() -> None:
        await w.sleep(100)

    if w.colour == "asyncio":
        task = asyncio.ensure_future(w.call(breaker, hang))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
    else:
        import trio

        with trio.move_on_after(1):
            await w.call(breaker, hang)
    assert HALF_OPEN is breaker.state
    assert 1 == breaker.statistics().ignored_total
    await w.call(breaker, succeed)
    assert CLOSED is breaker.state


@in_async_colours
async def test_a_probe_that_does_not_come_back_is_a_failed_vote(w: World) -> None:
    """The next call finds that; what the probe does later changes nothing."""
    breaker = CircuitBreaker(
        failure_rate=None,
        consecutive_failures=1,
        open_for=5,
        half_open_calls=1,
        probe_timeout=10,
    )
    await failing(w, breaker)
    await w.sleep(5)
    events: list[Event] = []
    breaker.subscribe(events.append)

    async def slow() -> None:
        await w.sleep(12)

    async def other() -> None:
        await w.sleep(10)
        assert 5.0 == (await rejection(w, breaker)).retry_after
        assert OPEN is breaker.state
        await w.sleep(3)
        assert OPEN is breaker.state

    assert [None, None] == await w.gather(lambda: w.call(breaker, slow), other)
    assert ["probe_reclaimed"] == notes(events)
    assert [
        "open > half_open: open_time_over",
        "half_open > open: probes_failed",
    ] == changes(events)
    assert 1 == breaker.statistics().stale_total


@in_async_colours
async def test_a_call_from_before_the_opening_decides_nothing(w: World) -> None:
    """It is counted, as stale."""
    breaker = CircuitBreaker(
        failure_rate=None, consecutive_failures=1, open_for=1, half_open_calls=1
    )

    async def fail_late() -> None:
        await w.sleep(5)
        raise OSError("late")

    async def others() -> None:
        await w.sleep(1)
        await failing(w, breaker)
        await w.sleep(1)

        async def probe() -> None:
            await w.sleep(4)

        await w.call(breaker, probe)
        assert CLOSED is breaker.state

    results = await w.gather(lambda: w.call(breaker, fail_late), others)
    assert ["late", "None"] == [str(result) for result in results]
    assert CLOSED is breaker.state
    assert 1 == breaker.statistics().stale_total


# -- What counts


@in_every_colour
async def test_own_rejections_never_count(w: World) -> None:
    """Nor do those from further in, unless they are named."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1)
    full = Pipeline(breaker, Bulkhead(1))

    async def outer() -> None:
        await w.call(full, succeed)

    with pytest.raises(BulkheadFullError):
        await w.call(full, outer)
    assert CLOSED is breaker.state
    assert 2 == breaker.statistics().ignored_total

    named = breaker.with_(on=RejectedError)
    with pytest.raises(BulkheadFullError):
        await w.call(Pipeline(named, full), outer)
    assert OPEN is named.state


@in_every_colour
async def test_only_listed_types_count(w: World) -> None:
    """Any other exception says that the dependency answered."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1, on=ValueError)
    await failing(w, breaker, 3)
    assert CLOSED is breaker.state
    assert 3 == breaker.statistics().succeeded_total


@in_every_colour
async def test_a_function_may_judge_results(w: World) -> None:
    """A value that is bad opens the circuit; an ignored one says nothing."""

    def judge(outcome: Outcome) -> Any:
        return Verdict.IGNORED if outcome.value == "?" else outcome.value == "bad"

    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1, on=judge)

    async def answer(value: str) -> str:
        return value

    assert "?" == await w.call(breaker, answer, "?")
    assert "good" == await w.call(breaker, answer, "good")
    assert CLOSED is breaker.state
    assert "bad" == await w.call(breaker, answer, "bad")
    assert OPEN is breaker.state
    known = breaker.statistics()
    assert (1, 1, 1) == (known.succeeded_total, known.failed_total, known.ignored_total)


@in_every_colour
async def test_a_judge_that_raises_reaches_the_caller_without_its_permit(
    w: World,
) -> None:
    """It is a bug; the probe's place is free again."""
    answers: list[Any] = [True]

    def judge(outcome: Outcome) -> Any:
        return answers.pop() if answers else 1 // 0

    breaker = CircuitBreaker(
        failure_rate=None,
        consecutive_failures=1,
        open_for=1,
        half_open_calls=1,
        on=judge,
    )
    await w.call(breaker, succeed)
    assert OPEN is breaker.state
    await w.sleep(1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await w.call(breaker, succeed)
    assert HALF_OPEN is breaker.state
    assert 0 == breaker.statistics().in_flight_probes


@in_every_colour
async def test_unwinding_is_no_failure(w: World) -> None:
    """Ctrl-C says nothing about the dependency."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1)

    async def leave() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await w.call(breaker, leave)
    assert CLOSED is breaker.state
    assert 1 == breaker.statistics().ignored_total


@in_every_colour
async def test_a_call_is_slow_when_it_takes_longer(w: World) -> None:
    """Exactly as long is not; a slow failure counts once in each rate."""
    breaker = CircuitBreaker(
        failure_rate=None,
        slow_call_duration=1,
        slow_call_rate=0.5,
        minimum_calls=4,
        half_open_calls=1,
        open_for=1,
        probe_timeout=60,
    )

    async def take(seconds: float, error: Exception | None = None) -> None:
        await w.sleep(seconds)
        if error is not None:
            raise error

    await w.call(breaker, take, 1.0)
    assert 0 == breaker.statistics().slow
    with pytest.raises(OSError, match="slow"):
        await w.call(breaker, take, 1.5, OSError("slow"))
    known = breaker.statistics()
    assert (2, 1, 1) == (known.calls, known.failures, known.slow)
    await w.call(breaker, take, 0.5)
    await w.call(breaker, take, 1.25)
    assert OPEN is breaker.state
    assert "(2 of 4 calls were slow" in str(await rejection(w, breaker))
    await w.sleep(1)
    await w.call(breaker, take, 2)
    assert OPEN is breaker.state
    await w.sleep(1)
    await w.call(breaker, take, 1)
    assert CLOSED is breaker.state


@in_every_colour
async def test_a_stream_is_judged_by_its_first_item(w: World) -> None:
    """It may last for hours."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1)

    async def rows() -> Any:
        yield 1
        raise OSError("down")

    def sync_rows() -> Any:
        yield 1
        raise OSError("down")

    async def read() -> list[Any]:
        if w.is_sync:
            return list(breaker(sync_rows)())
        return [row async for row in breaker(rows)()]

    with pytest.raises(OSError, match="down"):
        await read()
    assert CLOSED is breaker.state
    assert 1 == breaker.statistics().succeeded_total


@in_every_colour
async def test_a_retry_around_waits_until_it_may_probe(w: World) -> None:
    """`retry_after` of the rejection replaces its own delay, if it retries it."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1, open_for=7)
    retry = Retry(OSError, CircuitOpenError, backoff=constant(0), attempts=3)
    results: list[Any] = [OSError("down"), "ok"]

    async def flaky() -> Any:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    assert "ok" == await w.call(Pipeline(retry, breaker), flaky)
    assert 7.0 == w.now()


@in_async_colours
async def test_a_timeout_further_in_is_a_failure(w: World) -> None:
    """Listed or not."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1, on=ValueError)

    async def hang() -> None:
        await w.sleep(100)

    with pytest.raises(TimeoutError):
        await w.call(Pipeline(breaker, Timeout(1)), hang)
    assert OPEN is breaker.state


# -- Controls


@in_every_colour
async def test_forced_open_rejects_until_another_control(w: World) -> None:
    """No probe, no time, no outcome ends it."""
    breaker = CircuitBreaker(
        failure_rate=None, consecutive_failures=1, open_for=1, name="api"
    )

    async def force_meanwhile() -> None:
        breaker.force_open()

    await w.call(breaker, force_meanwhile)
    assert CircuitState.FORCED_OPEN is breaker.state
    await w.sleep(3600)
    error = await rejection(w, breaker)
    assert "circuit 'api' is forced open" == str(error)
    assert ("forced_open", None) == (error.reason, error.retry_after)
    breaker.reset()
    assert CLOSED is breaker.state
    assert 0 == breaker.statistics().calls
    await w.call(breaker, succeed)


@in_every_colour
async def test_forced_open_wins_over_a_probe(w: World) -> None:
    """What the probe finds is stale."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1, open_for=1)
    await failing(w, breaker)
    await w.sleep(1)

    async def probe() -> None:
        assert HALF_OPEN is breaker.state
        breaker.force_open()

    await w.call(breaker, probe)
    assert CircuitState.FORCED_OPEN is breaker.state
    assert 1 == breaker.statistics().stale_total


@in_every_colour
async def test_disabled_it_records_nothing(w: World) -> None:
    """A hundred failures later it closes with an empty window."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1)
    breaker.disable()
    await failing(w, breaker, 100)
    assert CircuitState.DISABLED is breaker.state
    assert 0 == breaker.statistics().failed_total
    breaker.reset()
    assert breaker.is_pristine()


@in_every_colour
async def test_observing_it_tells_once_that_it_would_open(w: World) -> None:
    """Once per crossing, not per call; and every call passes."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=2)
    events: list[Event] = []
    breaker.subscribe(events.append)
    breaker.observe()
    await failing(w, breaker, 5)
    assert ["would_open"] == notes(events)
    await w.call(breaker, succeed)
    await failing(w, breaker, 2)
    assert ["would_open"] * 2 == notes(events)
    assert ["closed > observing: observe"] == changes(events)


@in_every_colour
async def test_a_control_twice_says_nothing_new(w: World) -> None:
    """There is no change to tell of."""
    breaker = CircuitBreaker()
    events: list[Event] = []
    breaker.subscribe(events.append)
    for _ in range(2):
        breaker.force_open()
    breaker.reset()
    breaker.reset()
    assert [
        "closed > forced_open: force_open",
        "forced_open > closed: reset",
    ] == changes(events)


@in_every_colour
async def test_it_is_fresh_until_it_has_learnt_something(w: World) -> None:
    """A row of failures outlives the window that they were in."""
    breaker = CircuitBreaker(consecutive_failures=3)
    assert breaker.is_pristine()
    await w.call(breaker, succeed)
    assert not breaker.is_pristine()
    await w.sleep(20)
    assert breaker.is_pristine()
    await failing(w, breaker)
    await w.sleep(20)
    assert 0 == breaker.statistics().calls
    assert not breaker.is_pristine()


# -- Open for how long


@pytest.mark.parametrize("answer", [-1, math.nan, math.inf, "long", True, None])
def test_an_open_time_that_makes_no_sense_is_five_seconds(answer: Any) -> None:
    """The circuit is open all the same, and listeners are told."""
    with virtual_time():
        breaker = CircuitBreaker(
            failure_rate=None, consecutive_failures=1, open_for=lambda openings: answer
        )
        events: list[Event] = []
        breaker.subscribe(events.append)
        with pytest.raises(OSError, match="down"):
            breaker.call(_fail)
        with pytest.raises(CircuitOpenError) as caught:
            breaker.call(bool)
        assert 5.0 == caught.value.retry_after
    assert ["CircuitChanged", "CircuitNoted", "CallRejected"] == [
        type(event).__name__ for event in events
    ]
    assert ["open_for_failed"] == notes(events)


def _fail() -> None:
    raise OSError("down")


def test_an_open_time_that_raises_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once, so that it is known even without a listener."""
    with virtual_time():
        for _ in range(2):
            breaker = CircuitBreaker(
                failure_rate=None,
                consecutive_failures=1,
                open_for=lambda openings: 1 // 0,
            )
            with pytest.raises(OSError, match="down"):
                breaker.call(_fail)
            assert OPEN is breaker.state
            assert 5.0 == breaker.statistics().retry_after
    [record] = caplog.records
    assert (
        "the open_for of a circuit breaker failed; it stays open for 5 s (logged once)"
    ) == record.getMessage()


@in_every_colour
async def test_an_open_time_function_may_use_the_breaker(w: World) -> None:
    """No lock is held around it; what it changes itself stays."""

    def open_for(openings: int) -> float:
        assert OPEN is breaker.state
        breaker.reset()
        return 60.0

    breaker = CircuitBreaker(
        failure_rate=None, consecutive_failures=1, open_for=open_for
    )
    await failing(w, breaker)
    assert CLOSED is breaker.state


# -- Listeners


@in_every_colour
async def test_a_listener_that_raises_changes_nothing(
    w: World,
) -> None:
    """The call's own error is raised, and other listeners are told."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1)
    events: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("listener")

    breaker.subscribe(broken)
    breaker.subscribe(events.append)
    logging.getLogger("resilient").disabled = True
    try:
        await failing(w, breaker)
    finally:
        logging.getLogger("resilient").disabled = False
    assert ["closed > open: consecutive_failures"] == changes(events)


@in_every_colour
async def test_a_listener_may_use_the_breaker(w: World) -> None:
    """What it causes is told after what it is being told: in order."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1)
    events: list[Event] = []

    def reset(event: Event) -> None:
        if isinstance(event, CircuitChanged) and event.new == "open":
            breaker.reset()

    breaker.subscribe(reset)
    breaker.subscribe(events.append)
    await failing(w, breaker, 2)
    assert [
        "closed > open: consecutive_failures",
        "open > closed: reset",
    ] * 2 == changes(events)


@pytest.mark.real
def test_events_arrive_in_order_across_threads() -> None:
    """Each change begins where the one before it ended."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1)
    events: list[Event] = []
    breaker.subscribe(events.append)
    start = threading.Barrier(8)

    def use(place: int) -> None:
        start.wait()
        for turn in range(200):
            if (place + turn) % 2:
                breaker.force_open()
            else:
                breaker.reset()

    threads = [threading.Thread(target=use, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    states = ["closed"]
    for event in events:
        assert isinstance(event, CircuitChanged)
        assert states[-1] == event.old
        states.append(event.new)
    assert breaker.state.value == states[-1]


# -- Ramps and throttling


async def shares(w: World, breaker: CircuitBreaker, times: int) -> int:
    """Make calls that would succeed; return how many were let through."""
    given = 0
    for _ in range(times):
        try:
            await w.call(breaker, succeed)
            given += 1
        except CircuitOpenError as error:
            assert error.reason in ("ramping", "throttling")
    return given


@in_every_colour
async def test_traffic_comes_back_by_steps(w: World) -> None:
    """With an event for the beginning and the end of the ramp."""
    breaker = CircuitBreaker(
        minimum_calls=2, open_for=5, ramp=[0.05, 0.25, 1.0], ramp_step=2, name="db"
    )
    events: list[Event] = []
    breaker.subscribe(events.append)
    await failing(w, breaker, 2)
    await w.sleep(5)
    await w.call(breaker, succeed)
    await w.call(breaker, succeed)
    assert CircuitState.RAMPING is breaker.state
    assert 6 == await shares(w, breaker, 100)
    assert 0.05 == breaker.statistics().passing
    error = await rejection(w, breaker)
    assert "circuit 'db' is closing by steps and holds the call back" == str(error)
    await w.sleep(2)
    assert 25 == await shares(w, breaker, 100)
    await w.sleep(2)
    assert 100 == await shares(w, breaker, 100)
    assert CLOSED is breaker.state
    assert [
        "closed > open: failure_rate",
        "open > half_open: open_time_over",
        "half_open > ramping: probes_passed",
        "ramping > closed: ramp_over",
    ] == changes(events)


@in_every_colour
async def test_below_the_trip_point_it_can_throttle(w: World) -> None:
    """The nearer to it, the more; and it closes when failures are few."""
    breaker = CircuitBreaker(throttle_rate=0.2, window=calls(100), name="db")
    events: list[Event] = []
    breaker.subscribe(events.append)
    for _ in range(65):
        await w.call(breaker, succeed)
    permits = [breaker.admit(Call.new("fail")) for _ in range(35)]
    for permit in permits:
        breaker.settle(permit, Outcome(None, OSError()))
    assert CircuitState.THROTTLING is breaker.state
    assert not breaker.is_pristine()
    assert 0.5 == pytest.approx(breaker.statistics().passing)
    assert 6 == await shares(w, breaker, 10)
    error = await rejection(w, breaker)
    text = "circuit 'db' is near its trip point and holds the call back"
    assert (text, None) == (str(error), error.retry_after)
    # What comes in now pushes the failures out of the window.
    await shares(w, breaker, 200)
    assert CLOSED is breaker.state
    assert [
        "closed > throttling: throttle_rate",
        "throttling > closed: throttle_over",
    ] == changes(events)


# -- Construction


@pytest.mark.parametrize(
    "made",
    [
        "CircuitBreaker()",
        "CircuitBreaker(failure_rate=0.3, minimum_calls=5, window=calls(100))",
        "CircuitBreaker(failure_rate=None, consecutive_failures=5, open_for=2.0)",
        "CircuitBreaker(slow_call_duration=1.0, slow_call_rate=0.9, half_open_calls=1,"
        " probe_timeout=5.0, on=OSError, name='api')",
        "CircuitBreaker(open_for=exponential(1.0, cap=9.0), probe_timeout=inf)",
        "CircuitBreaker(ramp=(0.01, 0.05, 1.0), ramp_step=5.0, throttle_rate=0.2)",
    ],
)
def test_its_repr_is_the_call_that_made_it(made: str) -> None:
    """Without what is as by default."""
    from resilient import exponential

    names = {
        "CircuitBreaker": CircuitBreaker,
        "calls": calls,
        "exponential": exponential,
        "inf": math.inf,
    }
    breaker = eval(made, names)
    assert made == repr(breaker)
    assert made == repr(breaker.with_())


def test_a_changed_copy_is_closed() -> None:
    """Its window is its own."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=1)
    with pytest.raises(OSError, match="down"):
        breaker.call(_fail)
    other = breaker.with_(consecutive_failures=2)
    assert OPEN is breaker.state
    assert CLOSED is other.state
    assert timedelta(seconds=3).total_seconds() == breaker.with_(window=3).window


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"failure_rate": 0},
            ValueError,
            "`failure_rate` must be > 0 and <= 1, got 0",
        ),
        (
            {"failure_rate": 50},
            ValueError,
            "`failure_rate` must be > 0 and <= 1, got 50",
        ),
        ({"minimum_calls": 0}, ValueError, "`minimum_calls` must be >= 1, got 0"),
        (
            {"window": calls(5), "minimum_calls": 6},
            ValueError,
            "`minimum_calls` must be <= 5, the window's size, got 6: the circuit"
            " could never open",
        ),
        ({"window": 0}, ValueError, "`window` must be > 0 seconds, got 0"),
        (
            {"consecutive_failures": 0},
            ValueError,
            "`consecutive_failures` must be >= 1, got 0",
        ),
        (
            {"slow_call_rate": 0.5},
            ValueError,
            "`slow_call_duration` must be given with slow_call_rate=0.5, got None:"
            " no call would be slow",
        ),
        (
            {"failure_rate": None},
            ValueError,
            "`failure_rate`, `consecutive_failures` or `slow_call_rate` must be"
            " given, got None for each: the circuit could never open",
        ),
        ({"open_for": -1}, ValueError, "`open_for` must be >= 0 seconds, got -1"),
        (
            {"open_for": True},
            TypeError,
            "`open_for` must be seconds (int, float) or a timedelta, got True",
        ),
        (
            {"window": "10 s"},
            TypeError,
            "`window` must be seconds (int, float) or a timedelta, got '10 s'",
        ),
        ({"half_open_calls": 0}, ValueError, "`half_open_calls` must be >= 1, got 0"),
        (
            {"probe_timeout": 0},
            ValueError,
            "`probe_timeout` must be > 0 seconds, got 0",
        ),
        ({"ramp": 0.5}, TypeError, "`ramp` must list rising shares, got 0.5"),
        ({"ramp": []}, ValueError, "`ramp` must list rising shares, got []"),
        (
            {"ramp": (0.5, 0.5)},
            ValueError,
            "`ramp` must list rising shares, got (0.5, 0.5)",
        ),
        ({"ramp": [1, 5, 25]}, ValueError, "`ramp` must be > 0 and <= 1, got 5"),
        ({"ramp_step": 0}, ValueError, "`ramp_step` must be > 0 seconds, got 0"),
        (
            {"throttle_rate": 0.5},
            ValueError,
            "`throttle_rate` must be < `failure_rate`, which is 0.5, got 0.5",
        ),
        (
            {"throttle_rate": 0.5, "failure_rate": None, "consecutive_failures": 5},
            ValueError,
            "`throttle_rate` must be < `failure_rate`, which is None, got 0.5",
        ),
        (
            {"on": "OSError"},
            TypeError,
            "`on` must be exception types or a function of the outcome, got 'OSError'",
        ),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """With parameter, rule and value."""
    with pytest.raises(error) as caught:
        CircuitBreaker(**arguments)
    assert text == str(caught.value)


def test_a_window_of_no_calls_is_refused() -> None:
    """It could never say anything."""
    with pytest.raises(ValueError, match="`calls` must be >= 1, got 0"):
        calls(0)


def test_a_breaker_made_outside_works_in_several_loops() -> None:
    """It belongs to none of them."""
    breaker = CircuitBreaker(failure_rate=None, consecutive_failures=3)

    async def main() -> None:
        with pytest.raises(OSError, match="down"):
            await breaker.acall(fail)

    for run in _runners(main):
        run()
    assert OPEN is breaker.state


def _runners(main: Callable[[], Awaitable[None]]) -> list[Callable[[], Any]]:
    import trio

    async def on_asyncio() -> None:
        await main()

    return [
        lambda: asyncio.run(on_asyncio()),
        lambda: trio.run(main),
        lambda: asyncio.run(on_asyncio()),
    ]


def test_a_bare_decorator_is_refused() -> None:
    """It would be a breaker that a function had configured."""
    with pytest.raises(TypeError, match="needs its parentheses"):
        CircuitBreaker(bool)  # type: ignore[call-overload]  # that is the point


@in_every_colour
async def test_a_circuit_opened_by_slow_calls_says_so(w: World) -> None:
    """The text of the rejection names what was wrong with the calls."""
    breaker = CircuitBreaker(
        slow_call_duration=1, slow_call_rate=0.5, minimum_calls=2, open_for=5.0
    )

    async def slow() -> None:
        await w.sleep(2)

    await w.call(breaker, slow)
    await w.call(breaker, slow)
    with pytest.raises(CircuitOpenError) as caught:
        await w.call(breaker, slow)
    expected = "circuit 'slow' is open (2 of 2 calls were slow in 10.0 s); retry in 5 s"
    assert expected == str(caught.value)


@in_sync
async def test_the_wait_is_known_when_a_lost_probe_reopens_the_circuit(
    w: World,
) -> None:
    """The refusal that notices a lost lease has the open time of the new state."""
    breaker = CircuitBreaker(
        consecutive_failures=1,
        open_for=lambda openings: 10.0 * openings,
        half_open_calls=1,
        probe_timeout=3,
    )

    def fails() -> None:
        raise OSError

    with pytest.raises(OSError):
        breaker.call(fails)
    await w.sleep(10)
    with breaker.guard():
        await w.sleep(3)
        with pytest.raises(CircuitOpenError) as caught:
            breaker.call(fails)
    assert 20.0 == caught.value.retry_after


@in_every_colour
async def test_ctrl_c_in_a_listener_gives_the_probe_back(w: World) -> None:
    """The next call may probe."""
    for slow in (None, 5):
        breaker = CircuitBreaker(
            consecutive_failures=1,
            half_open_calls=1,
            open_for=1,
            slow_call_duration=slow,
        )
        await failing(w, breaker)
        await w.sleep(1)

        def interrupt(event: Event) -> None:
            raise KeyboardInterrupt

        unsubscribe = breaker.subscribe(interrupt)
        with pytest.raises(KeyboardInterrupt):
            await w.call(breaker, succeed)
        unsubscribe()
        assert HALF_OPEN is breaker.state
        assert 0 == breaker.statistics().in_flight_probes
        assert "ok" == await w.call(breaker, succeed)
        assert CLOSED is breaker.state


def test_ctrl_c_as_the_circuit_opens_again_has_no_probe_to_give_back() -> None:
    """A refusal holds nothing."""
    with virtual_time() as clock:
        breaker = CircuitBreaker(
            consecutive_failures=1, half_open_calls=1, open_for=1, probe_timeout=2
        )
        with pytest.raises(OSError, match=r"^$"):
            breaker.call(_raise)
        clock.advance(1)
        breaker.admit(Call.new("lost"))
        clock.advance(2)

        def interrupt(event: Event) -> None:
            raise KeyboardInterrupt

        breaker.subscribe(interrupt)
        with pytest.raises(KeyboardInterrupt):
            breaker.admit(Call.new("refused"))
        assert OPEN is breaker.state


def _raise() -> None:
    raise OSError


def test_a_probe_given_back_under_the_lock_is_there_for_the_next() -> None:
    """The thread that closes a lost call may be the one that has the lock."""
    with virtual_time() as clock:
        breaker = CircuitBreaker(consecutive_failures=1, half_open_calls=1, open_for=1)
        with pytest.raises(OSError, match=r"^$"):
            breaker.call(_raise)
        clock.advance(1)
        probe = breaker.admit(Call.new("lost"))
        with amid_change(breaker):
            breaker.settle(probe, None)
        probe = breaker.admit(Call.new("next"))
        assert not isinstance(probe, CircuitOpenError)
        with amid_change(breaker):
            breaker.settle(probe, Outcome("ok"))
            assert HALF_OPEN is breaker.state
        assert 0 == breaker.statistics().in_flight_probes
        assert CLOSED is breaker.state


def test_what_comes_back_while_the_machine_is_asked_is_taken_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A garbage collection may close lost calls at any moment."""
    with virtual_time() as clock:
        breaker = CircuitBreaker(consecutive_failures=1, half_open_calls=2, open_for=1)
        with pytest.raises(OSError, match=r"^$"):
            breaker.call(_raise)
        clock.advance(1)
        lost = [breaker.admit(Call.new("lost"))]
        admit, settle = Circuit.admit, Circuit.settle

        def interrupted_admit(*args: Any) -> Any:
            if lost:
                breaker.settle(lost.pop(), None)
            return admit(*args)

        def interrupted_settle(*args: Any) -> Any:
            if lost:
                breaker.settle(lost.pop(), None)
            return settle(*args)

        monkeypatch.setattr(Circuit, "admit", interrupted_admit)
        monkeypatch.setattr(Circuit, "settle", interrupted_settle)
        probe = breaker.admit(Call.new("next"))
        assert 1 == breaker.statistics().in_flight_probes
        lost.append(breaker.admit(Call.new("lost")))
        breaker.settle(probe, None)
        assert 0 == breaker.statistics().in_flight_probes


def test_an_async_open_for_is_refused() -> None:
    """It would return a coroutine that is never awaited."""

    async def open_for(openings: int) -> float:
        raise AssertionError("it was called")

    function: Any = open_for
    with pytest.raises(TypeError, match="`open_for` must be a plain function"):
        CircuitBreaker(open_for=function)


@in_every_colour
async def test_a_breaker_with_rules_of_its_own_is_asked(w: World) -> None:
    """Though its circuit is closed."""
    told: list[object] = []

    class Telling(CircuitBreaker):
        def admit(self, call: Call) -> Any:
            told.append(super().admit(call))
            return told[-1] if len(told) == 1 else CircuitOpenError("own")

    breaker = Telling()
    assert "ok" == await w.call(breaker, succeed)
    assert [0] == told
    assert "circuit 'own' is open" == str(await rejection(w, breaker))
    assert CLOSED is breaker.state
