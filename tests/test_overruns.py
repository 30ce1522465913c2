"""Limits that could not be enforced: what is said of them."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.colours import World, in_every_colour, in_sync
from tests.test_generators import plain_generator

from resilient import (
    Bulkhead,
    PerKey,
    Pipeline,
    Policy,
    ResilientWarning,
    Retry,
    TimedOut,
    Timeout,
    WarningRaised,
    constant,
    deadline_after,
    remaining,
)
from resilient._errors.warnings import warn_once
from resilient._events import listeners
from resilient._runtimes import clock
from resilient.testing import virtual_time

CURES = ("make it async", "`remaining()`", "abandon=True")


async def busy() -> str:
    """Take 3 s in which nothing can be interrupted."""
    clock.sleep(3)
    return "late"


POLICIES: dict[str, Callable[[], Policy[Any]]] = {
    "alone": lambda: Timeout(1, name="t"),
    "attempt": lambda: Pipeline(Retry(KeyError), Timeout(1, name="t")),
    "total": lambda: Pipeline(Timeout(1, name="t"), Retry(KeyError), Bulkhead(1)),
    "nested": lambda: Pipeline(Pipeline(Timeout(1, name="t")), Bulkhead(1)),
    "per key": lambda: PerKey(lambda key: Timeout(1, name="t"), key=lambda: 0),
}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines of overruns, each of which names all cures."""
    lines = [
        record.getMessage()
        for record in caplog.records
        if (record.name, record.levelname) == ("resilient", "WARNING")
    ]
    assert all(cure in line for line in lines for cure in CURES)
    return lines


@pytest.mark.parametrize("name", POLICIES)
def test_an_overrun_is_logged_once_for_each_function(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Naming it, how long it took and what it was allowed; listener or none."""

    @in_every_colour
    async def scenario(w: World) -> None:
        caplog.clear()
        listeners._logged.clear()
        policy = POLICIES[name]()
        for _ in range(3):
            assert "late" == await w.call(policy, busy)
        (line,) = told(caplog)
        assert line.startswith("'busy' took 3 s under 't', which allows 1 s and cannot")
        assert ("synchronous code" in line) is w.is_sync

        async def other() -> None:
            clock.sleep(2)
            raise KeyError

        with pytest.raises(KeyError):
            await w.call(Pipeline(Timeout(1), Retry(OSError)), other)
        assert 2 == len(told(caplog))

    for colour in ("sync", "asyncio", "trio"):
        scenario(colour)


@in_every_colour
async def test_blocks_and_streams_are_told_of_too(w: World) -> None:
    """By the name of their policy, and of their function."""
    lines: list[str] = []
    logged = listeners._logged

    async def items() -> AsyncIterator[int]:
        clock.sleep(3)
        yield 1

    logged.clear()
    if w.is_sync:
        with Timeout(1, name="block").guard():
            clock.sleep(3)
        for attempt in Pipeline(Timeout(1), Retry(KeyError), name="loop").attempts():
            with attempt:
                clock.sleep(3)
        next(Pipeline(Retry(KeyError), Timeout(1))(plain_generator(items))())
    else:
        async with Timeout(1, name="block").guard():
            clock.sleep(3)
        async for attempt in Pipeline(
            Timeout(1), Retry(KeyError), name="loop"
        ).attempts():
            async with attempt:
                clock.sleep(3)
        stream = Pipeline(Retry(KeyError), Timeout(1))(items)()
        assert [1] == [item async for item in stream]
    lines += logged
    for word in ("block", "loop", "items"):
        assert any(line.endswith(word) for line in lines)
    assert 3 == len(lines)


@in_every_colour
async def test_code_that_obeys_is_not_told_of(w: World) -> None:
    """It asks what is left, and ends a little late."""
    events: list[Any] = []

    async def ask() -> str:
        clock.sleep((remaining() or 0.0) + 0.05)
        return "a little late"

    timeout = Timeout(1)
    timeout.subscribe(events.append)
    assert "a little late" == await w.call(timeout, ask)
    assert [False] == [
        event.delivered for event in events if isinstance(event, TimedOut)
    ]
    assert set() == listeners._logged


@in_sync
async def test_what_is_in_time_or_enforced_is_not_told_of(w: World) -> None:
    """A call in time, one that has no limit, a thread that is left behind."""
    assert "late" == await w.call(Timeout(4), busy)
    assert "late" == await w.call(Timeout(None), busy)
    with deadline_after(1):
        assert "late" == await w.call(Retry(KeyError, backoff=constant(0)), busy)
    assert set() == listeners._logged


def test_a_name_is_logged_as_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """No line break of a name's breaks the line; no argument is told."""

    def slow(password: str) -> None:
        clock.sleep(3)

    slow.__qualname__ = "slow\nINFO all is well"
    with virtual_time():
        Timeout(1).call(slow, "hunter2")
    (line,) = told(caplog)
    assert "\n" not in line
    assert "hunter2" not in line


def test_names_that_never_end_cost_no_memory() -> None:
    """Functions may be made at run time."""
    with virtual_time():
        timeout = Timeout(1)
        for number in range(listeners._MOST + 5):

            def slow() -> None:
                clock.sleep(3)

            slow.__qualname__ = f"slow{number}"
            timeout.call(slow)
    assert listeners._MOST == len(listeners._logged)


# -- Warnings during a call


@pytest.mark.parametrize("how", ["call", "guard", "attempts"])
def test_a_filter_that_raises_takes_no_result_away(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a pause on a loop's thread, and of a block that cannot be cut."""
    events: list[Any] = []
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise KeyError
        return "answer"

    async def main() -> object:
        policy = Pipeline(Timeout(5), Retry(KeyError, backoff=constant(0.001)))
        if how == "call":
            policy.subscribe(events.append)
            return policy.call(flaky)
        tries.append(1)
        timeout = Timeout(5)
        timeout.subscribe(events.append)
        if how == "guard":
            with timeout.guard():
                return flaky()
        for attempt in timeout.attempts():
            with attempt:
                return flaky()
        raise AssertionError

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "answer" == asyncio.run(main())
    (event,) = [event for event in events if isinstance(event, WarningRaised)]
    assert f"{event.text} (logged once)" in caplog.messages


def test_a_filter_may_raise_where_there_is_no_call() -> None:
    """Then there is no result to keep."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ResilientWarning, match="unheard of"):
            warn_once("unheard of")
