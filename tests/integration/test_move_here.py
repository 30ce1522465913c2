"""What the page on moving says of other libraries is so."""

from __future__ import annotations

import asyncio
import importlib
import inspect
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

# Python 3.15 deprecates what backoff asks for: its matter, not the page's.
pytestmark = pytest.mark.filterwarnings(
    "ignore:'asyncio.iscoroutinefunction' is deprecated:DeprecationWarning"
)

PAGE = Path(__file__).parents[2] / "docs/how-to/move-here.md"
TEXT = PAGE.read_text("utf-8")
BEFORE = [
    Snippet(PAGE, TEXT.count("\n", 0, match.start(1)), match[1], None)
    for match in re.finditer(r"^```py\n(.*?)^```$", TEXT, re.M | re.S)
]
MADE_BY = re.compile(r"\| `([\w.]+)\(…\)` \|")
LIBRARIES = (
    "aiolimiter",
    "backoff",
    "circuitbreaker",
    "hyx",
    "interlock",
    "limits",
    "nopanic",
    "pybreaker",
    "pyresilience",
    "stamina",
    "tenacity",
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
    for name in LIBRARIES:
        if f"import {name}" in snippet.code or f"from {name}" in snippet.code:
            library(name)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    execute(snippet, {"__name__": "__main__"})


def test_there_are_twelve_snippets_before() -> None:
    """One that is not understood would not be run."""
    assert 12 == len(BEFORE)


def options() -> list[Any]:
    """The rows of the page's tables: the other library's call, and its options."""
    found: list[Any] = []
    call = ""
    for line in TEXT.replace("\\|", "|").splitlines():
        row = re.fullmatch(r"\| `(.+)` \| `(.+)` \|", line)
        head = MADE_BY.match(line)
        if head is not None:
            call = head[1]
        elif row is not None:
            found.append(pytest.param(call, row[1], id=f"{call}({row[1]})"))
    return found


@pytest.mark.parametrize(("call", "given"), options())
def test_the_options_before_are_those_of_the_library(call: str, given: str) -> None:
    """What stands in the left column of a table is taken."""
    owner = "aiolimiter" if call == "AsyncLimiter" else call.rpartition(".")[0]
    name = owner.partition(".")[0]
    module = library(name)
    names = {**vars(library(owner)), **vars(module), name: module}

    assert eval(f"{call}({given})", names) is not None


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


def test_backoff_cuts_its_last_pause_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """To what `max_time` leaves; without that and `max_tries` it goes on for ever."""
    backoff = library("backoff")
    paused: list[float] = []
    monkeypatch.setattr(time, "sleep", paused.append)

    @backoff.on_exception(
        backoff.constant, ConnectionError, interval=99, max_time=9, max_tries=2
    )
    def fail() -> None:
        raise ConnectionError("reset")

    with monkeypatch.context() as least:
        least.setattr(random, "uniform", lambda low, high: high)
        with pytest.raises(ConnectionError, match=r"^reset$"):
            fail()
    parameters = inspect.signature(backoff.on_exception).parameters

    assert 1 == len(paused)
    assert 0 < paused[0] <= 9
    assert {None} == {parameters[name].default for name in ("max_tries", "max_time")}


def test_limits_asks_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it counted does not end while the clock that was set back catches up."""
    library("limits")
    now = [7200.0]
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now[0])
        strategies, storage = library("limits.strategies"), library("limits.storage")
        limiter = strategies.MovingWindowRateLimiter(storage.MemoryStorage())
        once = library("limits").parse("1/minute")
        taken = [limiter.hit(once, "ada")]
        now[0] += 100.0 - 3600.0
        taken.append(limiter.hit(once, "ada"))

    assert [True, False] == taken


def test_limits_takes_each_limit_for_itself() -> None:
    """The first is used up by a call that the second refuses."""
    library("limits")
    strategies, storage = library("limits.strategies"), library("limits.storage")
    limiter = strategies.MovingWindowRateLimiter(storage.MemoryStorage())
    five, one = library("limits").parse_many("5/minute;1/minute")
    passed = [all(limiter.hit(limit, "ada") for limit in (five, one)) for _ in range(3)]

    assert [True, False, False] == passed
    assert 2 == limiter.get_window_stats(five, "ada").remaining


def test_hyx_runs_once_more_than_it_says_and_replaces_the_error() -> None:
    """Without a cause."""
    library("hyx")
    ran: list[None] = []

    @library("hyx.retry").retry(on=ConnectionError, attempts=3, backoff=0)
    async def fail() -> None:
        ran.append(None)
        raise ConnectionError("reset")

    exceeded = library("hyx.retry.exceptions").MaxAttemptsExceeded
    with pytest.raises(exceeded) as caught:
        asyncio.run(fail())

    assert 4 == len(ran)
    assert caught.value.__cause__ is None


def test_hyx_fails_on_the_result_of_a_synchronous_function() -> None:
    """It has run by then."""
    ran: list[None] = []

    @library("hyx.retry").retry(on=ConnectionError)
    def run() -> int:
        ran.append(None)
        return 1

    with pytest.raises(TypeError, match="await"):
        asyncio.run(run())

    assert ran


def test_nopanics_retries_multiply_and_ours_do_not() -> None:
    """Three tries of three."""
    nopanic = library("nopanic")

    def runs(retry: Any) -> int:
        ran: list[None] = []

        @retry
        @retry
        def fail() -> None:
            ran.append(None)
            raise ConnectionError("reset")

        with pytest.raises(ConnectionError):
            fail()
        return len(ran)

    ours = resilient.Retry(ConnectionError, backoff=resilient.constant(0))

    assert 9 == runs(nopanic.retry(3, on=ConnectionError, backoff=0.0))
    with pytest.warns(resilient.ResilientWarning, match="keep one of them"):
        assert 3 == runs(ours)


def test_nopanics_budget_is_filled_by_calls_that_fail() -> None:
    """While all fail each call still has its retry, with a ratio of 1."""
    nopanic = library("nopanic")
    budget = nopanic.RetryBudget(1.0, min_retries_per_sec=0.0)
    ran: list[None] = []

    @nopanic.retry(2, on=ConnectionError, backoff=0.0, budget=budget)
    def fail() -> None:
        ran.append(None)
        raise ConnectionError("reset")

    for _ in range(10):
        with pytest.raises(ConnectionError):
            fail()

    assert len(ran) > 15
    assert Exception is inspect.signature(nopanic.retry).parameters["on"].default


def test_interlocks_defaults_are_those_of_the_page() -> None:
    """Window, probes, time open, and what is slow."""
    config = library("interlock").Config()

    assert (100, 10, 60.0, 60.0) == (
        config.window_size,
        config.minimum_number_of_calls,
        config.wait_duration_in_open,
        config.slow_call_duration_threshold,
    )
    assert (10, 1) == (
        config.permitted_calls_in_half_open,
        config.max_concurrent_probes,
    )


def test_circuitbreaker_takes_a_cancellation_for_a_success() -> None:
    """Its count of failures in a row begins anew."""
    breaker = library("circuitbreaker").CircuitBreaker(failure_threshold=5, name="a")

    def fail(error: BaseException) -> None:
        raise error

    counted = []
    for error in (ConnectionError("reset"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            breaker.call(fail, error)
        counted.append(breaker.failure_count)

    assert [1, 0] == counted


def test_circuitbreaker_lets_all_calls_through_when_half_open() -> None:
    """There is no number of probes."""
    breaker = library("circuitbreaker").CircuitBreaker(
        failure_threshold=1, recovery_timeout=1e-9, name="b"
    )
    inside: list[int] = []

    @breaker
    def probe(depth: int) -> None:
        inside.append(depth)
        if depth:
            probe(depth - 1)

    with pytest.raises(ConnectionError, match=r"^reset$"), breaker:
        raise ConnectionError("reset")
    while "half_open" != breaker.state:
        pass
    probe(9)

    assert 10 == len(inside)


def test_pyresilience_has_a_state_for_each_function() -> None:
    """A limit of one call is one for each."""
    pyresilience = library("pyresilience")
    limit = pyresilience.resilient(
        rate_limiter=pyresilience.RateLimiterConfig(max_calls=1, period=60)
    )
    first, second = limit(lambda: 1), limit(lambda: 2)

    assert (1, 2) == (first(), second())
    with pytest.raises(pyresilience.RateLimitExceededError) as refused:
        first()
    assert not hasattr(refused.value, "retry_after")


def test_pyresiliences_retries_multiply_and_take_every_exception() -> None:
    """Three attempts of three, and no budget."""
    pyresilience = library("pyresilience")
    config = pyresilience.RetryConfig(delay=0)
    retry = pyresilience.resilient(retry=config)
    ran: list[None] = []

    @retry
    @retry
    def fail() -> None:
        ran.append(None)
        raise KeyError("reset")

    with pytest.raises(KeyError):
        fail()

    assert 9 == len(ran)
    assert (Exception,) == tuple(config.retry_on)


def test_pyresilience_runs_plain_functions_with_a_timeout_in_a_pool() -> None:
    """In another thread than the caller's."""
    pyresilience = library("pyresilience")
    limit = pyresilience.resilient(timeout=pyresilience.TimeoutConfig(30))

    assert threading.get_ident() != limit(threading.get_ident)()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "circuitbreaker.circuit(failure_threshold=4)",
            "CircuitBreaker(failure_rate=None, consecutive_failures=4, open_for=30)",
        ),
        (
            "pyresilience.resilient(circuit_breaker="
            "pyresilience.CircuitBreakerConfig(failure_threshold=4))",
            "CircuitBreaker(failure_rate=None, consecutive_failures=4, open_for=30)",
        ),
        (
            "pyresilience.resilient(circuit_breaker=pyresilience."
            "CircuitBreakerConfig(sliding_window_size=8, minimum_calls=4))",
            "CircuitBreaker(minimum_calls=4, window=calls(8))",
        ),
    ],
)
def test_circuits_of_both_sides_open_by_the_same_call(before: str, after: str) -> None:
    """After as many failures as the row says."""
    name = before.partition(".")[0]
    module = library(name)

    def runs(circuit: Any) -> int:
        ran: list[None] = []

        @circuit
        def fail() -> None:
            ran.append(None)
            raise ConnectionError("reset")

        for _ in range(9):
            with pytest.raises(Exception):  # noqa: B017  # of either library
                fail()
        return len(ran)

    assert 4 == runs(eval(before, {name: module}))
    assert 4 == runs(eval(after, dict(vars(resilient))))
