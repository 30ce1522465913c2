"""What the page on moving says of other libraries is so."""

from __future__ import annotations

import asyncio
import importlib
import random
import re
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.test_docs import Snippet, execute

import resilient
from resilient._machines import backoff as backoff_machine

PAGE = Path(__file__).parents[2] / "docs/how-to/move-here.md"
TEXT = PAGE.read_text("utf-8")
BEFORE = [
    Snippet(PAGE, TEXT.count("\n", 0, match.start(1)), match[1], None)
    for match in re.finditer(r"^```py\n(.*?)^```$", TEXT, re.M | re.S)
]
MADE_BY = re.compile(
    r"^\| `(tenacity\.retry|stamina\.retry|pybreaker\.CircuitBreaker"
    r"|AsyncLimiter)\(…\)` \|",
    re.M,
)


def library(name: str) -> ModuleType:
    """Another library; the test is skipped where it is not installed."""
    pytest.importorskip(name)
    return importlib.import_module(name)


@pytest.mark.parametrize("snippet", BEFORE, ids=lambda each: f"line {each.line}")
def test_the_snippets_before_run(
    snippet: Snippet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code that a reader comes with is right, and does what the page says."""
    for name in ("tenacity", "stamina", "pybreaker", "aiolimiter"):
        if f"import {name}" in snippet.code or f"from {name}" in snippet.code:
            library(name)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    execute(snippet, {"__name__": "__main__"})


def test_there_are_five_snippets_before() -> None:
    """One that is not understood would not be run."""
    assert 5 == len(BEFORE)


def options() -> list[Any]:
    """The rows of the page's tables: the other library's call, and its options."""
    found: list[Any] = []
    for table in re.split(r"^## ", TEXT.replace("\\|", "|"), flags=re.M)[1:]:
        head = MADE_BY.search(table)
        if head is not None:
            rows = re.findall(r"^\| `(.+)` \| `(.+)` \|$", table, re.M)[1:]
            found += [
                pytest.param(head[1], row, id=f"{head[1]}({row})") for row, _ in rows
            ]
    return found


@pytest.mark.parametrize(("call", "given"), options())
def test_the_options_before_are_those_of_the_library(call: str, given: str) -> None:
    """What stands in the left column of a table is taken."""
    name = "aiolimiter" if call == "AsyncLimiter" else call.partition(".")[0]
    module = library(name)
    made = eval(f"{call}({given})", {**vars(module), name: module})

    assert callable(made) or name == "aiolimiter"


WAITS = re.findall(r"^\| `wait=(.+)` \| `backoff=(.+)` \|$", TEXT, re.M)


@pytest.mark.parametrize(("before", "after"), WAITS)
def test_the_waits_of_a_row_are_the_same(
    before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides wait as long after each of the first seven attempts."""
    tenacity = library("tenacity")
    monkeypatch.setattr(random, "uniform", lambda low, high: low + 0.25 * (high - low))
    monkeypatch.setattr(backoff_machine, "random_source", lambda: 0.25)
    wait = eval(before, dict(vars(tenacity)))
    backoff = eval(after, dict(vars(resilient)))
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    waits: list[float] = []
    for attempt in range(1, 8):
        state.attempt_number = attempt
        waits.append(wait(state))

    assert waits == [backoff(attempt) for attempt in range(1, 8)]


def test_five_waits_are_compared() -> None:
    """A row that is not understood would not be."""
    assert 5 == len(WAITS)


def test_tenacity_retries_every_exception_without_a_pause() -> None:
    """Its decorator alone has no limit, no pause and no list."""
    tenacity = library("tenacity")
    retrying = tenacity.Retrying()

    assert retrying.stop is tenacity.stop_never
    assert isinstance(retrying.wait, tenacity.wait_none)
    assert retrying.retry.exception_types is Exception
    assert not retrying.reraise


def test_stamina_makes_ten_attempts_in_45_s() -> None:
    """Its defaults are those of the page."""
    defaults = library("stamina").retry.__kwdefaults__

    assert defaults is not None
    assert (10, 45.0, 0.1, 1.0) == tuple(
        defaults[name]
        for name in ("attempts", "timeout", "wait_initial", "wait_jitter")
    )


def test_pybreaker_does_not_see_what_a_coroutine_raises() -> None:
    """It counts the creation of the coroutine."""
    breaker = library("pybreaker").CircuitBreaker(fail_max=1)

    @breaker
    async def fail() -> None:
        raise ConnectionError("reset")

    for _ in range(3):
        with pytest.raises(ConnectionError, match=r"^reset$"):
            asyncio.run(fail())

    assert "closed" == breaker.current_state


def test_pybreaker_runs_one_call_at_a_time() -> None:
    """A second thread waits for the first one's call."""
    breaker = library("pybreaker").CircuitBreaker()
    ran = threading.Event()
    second = threading.Thread(target=breaker.call, args=[ran.set])

    def first() -> bool:
        second.start()
        return ran.wait(0.1)

    ran_beside = breaker.call(first)
    second.join()

    assert not ran_beside
    assert ran.is_set()


def test_pybreaker_counts_a_cancellation() -> None:
    """Each `BaseException` is a failure."""
    breaker = library("pybreaker").CircuitBreaker(fail_max=5)

    def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        breaker.call(cancelled)

    assert 1 == breaker.fail_counter


def test_pybreaker_takes_an_excluded_error_for_a_success() -> None:
    """Its count of failures in a row begins anew."""
    breaker = library("pybreaker").CircuitBreaker(fail_max=5, exclude=[ValueError])

    def fail(error: Exception) -> None:
        raise error

    for error in (ConnectionError("reset"), ValueError("no number")):
        with pytest.raises(type(error)):
            breaker.call(fail, error)

    assert 0 == breaker.fail_counter


def test_aiolimiter_wakes_the_smallest_amount_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its queue is sorted by amount."""
    limiter = library("aiolimiter").AsyncLimiter(4, 0.02)
    order: list[int] = []

    async def take(amount: int) -> None:
        await limiter.acquire(amount)
        order.append(amount)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        with monkeypatch.context() as stopped:
            stopped.setattr(loop, "time", lambda: now)
            await limiter.acquire(4)
            waiting = [asyncio.create_task(take(amount)) for amount in (4, 1)]
            await asyncio.sleep(0)
        await asyncio.gather(*waiting)

    asyncio.run(main())

    assert [1, 4] == order
