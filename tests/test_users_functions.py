"""Functions of the user's: called as they can be, and their bugs hide nothing.

What is drawn over: every parameter that takes a function, in every colour.
"""

from __future__ import annotations

import functools
import math
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from tests.colours import World, in_every_colour

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    Coalesce,
    Fallback,
    Hedge,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    StaleCache,
    Timeout,
    constant,
)
from resilient.testing import virtual_time


class DownError(Exception):
    """What the function comes to."""


def buggy(*args: object, **kwargs: object) -> Any:
    """A function with a bug."""
    raise ZeroDivisionError("a bug")


def buggy_later() -> Callable[..., Any]:
    """Return one that is in order the first time, and returns 1."""
    called: list[object] = []

    def function(*args: object, **kwargs: object) -> Any:
        called.append(args)
        return 1 if len(called) == 1 else buggy()

    return function


def unlucky(outcome: object) -> Any:
    """A predicate that answers what none may."""
    return "no verdict"


class BuggyLimit(AIMD):
    """A limit of a user's."""

    def update(
        self, now: float, latency: float, in_flight: int, congested: bool
    ) -> int:
        return int(buggy())


def again(*inside: Policy[Any]) -> Pipeline:
    """Two attempts."""
    return Pipeline(Retry(DownError, attempts=2, backoff=constant(0)), *inside)


JUDGED: dict[str, Callable[[], Policy[Any]]] = {
    f"{name} {kind}": functools.partial(make, function)
    for name, make in {
        "Retry on": lambda judge: Retry(on=judge),
        "Retry types and on": lambda judge: Retry(KeyError, on=judge),
        "Retry backoff": lambda judge: Retry(DownError, backoff=judge),
        "classify": lambda judge: Pipeline(Retry(), classify=judge),
        "Fallback": lambda judge: Fallback(None, on=judge),
        "StaleCache": lambda judge: StaleCache(1, 1, key=one_key, on=judge),
        "Hedge": lambda judge: Hedge(1, on=judge, max_threads=2),
        "CircuitBreaker": lambda judge: CircuitBreaker(on=judge),
        "AdaptiveThrottle": lambda judge: AdaptiveThrottle(on=judge),
        "AdaptiveConcurrency": lambda judge: AdaptiveConcurrency(on=judge),
    }.items()
    for kind, function in {"raises": buggy, "answers wrongly": unlucky}.items()
} | {
    "algorithm": lambda: AdaptiveConcurrency(BuggyLimit()),
    "Fallback function": lambda: Fallback(function=buggy),
    "cost of a retry": lambda: again(RateLimiter(9, cost=buggy_later())),
    "key of a retry": lambda: again(
        PerKey(lambda key: Bulkhead(1), key=buggy_later(), name="keys")
    ),
    "by of a retry": lambda: again(
        AdaptiveConcurrency(partitions={"a": 1}, by=buggy_later())
    ),
    "factory of a retry": lambda: again(
        PerKey(_second_time_buggy(), key=_counting(), name="keys")
    ),
}


def one_key(*args: object, **kwargs: object) -> int:
    """The same key for all calls."""
    return 1


def _counting() -> Callable[..., int]:
    numbers: list[int] = []

    def key(*args: object, **kwargs: object) -> int:
        numbers.append(0)
        return len(numbers)

    return key


def _second_time_buggy() -> Callable[[Any], Policy[Any]]:
    return lambda key: Bulkhead(1) if key == 1 else buggy()


@pytest.mark.parametrize("name", JUDGED)
def test_a_bug_does_not_hide_the_error_it_looked_at(name: str) -> None:
    """The original is in its chain, where a traceback shows it."""

    @in_every_colour
    async def scenario(w: World) -> None:
        """Draw over the colours."""
        original = DownError("certificate expired")

        async def fail() -> None:
            raise original

        with pytest.raises((ZeroDivisionError, TypeError, ValueError)) as caught:
            await w.call(JUDGED[name](), fail)
        assert original is not caught.value
        shown = "".join(traceback.format_exception(caught.value))
        assert "DownError: certificate expired" in shown

    for colour in ("sync", "asyncio", "trio"):
        scenario(colour)


@in_every_colour
async def test_a_bug_that_is_the_error_itself_stays_as_it_is(w: World) -> None:
    """Nor does its chain grow, or bite its tail."""
    original = DownError("down")
    original.__context__ = earlier = KeyError("earlier")

    def raise_it(outcome: Any) -> Any:
        raise outcome.error

    def raise_from_it(outcome: Any) -> Any:
        raise ZeroDivisionError from outcome.error

    async def fail() -> None:
        raise original

    for judge in (raise_it, raise_from_it):
        with pytest.raises((DownError, ZeroDivisionError)):
            await w.call(Retry(on=judge), fail)
        assert earlier is original.__context__
        assert None is earlier.__context__


@in_every_colour
async def test_a_value_that_is_kept_may_not_be_copied_for_a_failure(w: World) -> None:
    """Then the failure is in the chain of what `copy` raised."""
    cache = StaleCache(0, 60, key=one_key, copy=buggy_later())
    results: list[Any] = [1, DownError("down")]

    async def get() -> Any:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    decorated = w.decorate(cache, get)
    assert 1 == await decorated()
    with pytest.raises(ZeroDivisionError) as caught:
        await decorated()
    assert isinstance(caught.value.__context__, DownError)
    results[:] = [1, 2]
    picky = StaleCache(
        0, 60, key=one_key, copy=buggy_later(), on=lambda outcome: outcome.value == 2
    )
    decorated = w.decorate(picky, get)
    assert 1 == await decorated()
    with pytest.raises(ZeroDivisionError) as caught:
        await decorated()
    assert None is caught.value.__context__


def test_a_bug_in_open_for_is_logged_with_what_opened_the_circuit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It reaches no caller: the circuit is open, and for 5 s."""
    breaker = CircuitBreaker(consecutive_failures=1, open_for=buggy)

    def fail() -> None:
        raise DownError("certificate expired")

    with virtual_time(), pytest.raises(DownError):
        breaker.call(fail)
    assert "certificate expired" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text


# -- What they take


def none() -> Any:
    """A function of no argument."""


def two(first: object, second: object) -> Any:
    """A function of two."""


def own(host: str, path: str) -> str:
    """The function that is protected."""
    return host + path


TAKE_ONE: dict[str, tuple[Callable[[Any], object], str]] = {
    "on": (lambda f: Retry(on=f), "the Outcome"),
    "classify": (lambda f: Pipeline(classify=f), "the Outcome"),
    "on_result": (lambda f: Retry(on_result=f), "the value that was returned"),
    "backoff": (
        lambda f: Retry(OSError, backoff=f),
        "the number of the attempt that failed",
    ),
    "open_for": (lambda f: CircuitBreaker(open_for=f), "how often it has opened"),
    "cost": (lambda f: RateLimiter(1, cost=f), "the Call"),
    "by": (lambda f: AdaptiveConcurrency(partitions={"a": 1}, by=f), "the Call"),
    "copy": (lambda f: StaleCache(1, 1, copy=f), "the value"),
}


@pytest.mark.parametrize("name", TAKE_ONE)
@pytest.mark.parametrize("function", [none, two, functools.partial(two, 1, 2)])
def test_a_function_of_other_arguments_is_refused(function: Any, name: str) -> None:
    """When it is given, where it can be known."""
    make, given = TAKE_ONE[name]
    with pytest.raises(TypeError) as caught:
        make(function)
    text = str(caught.value)
    start = f"`{name}` must take one argument, {given}, got a function of ("
    assert text.startswith(start)


@pytest.mark.parametrize("name", TAKE_ONE)
@pytest.mark.parametrize(
    "function",
    [
        lambda one: one,
        lambda one, other=2: one,
        lambda *all: all,
        functools.partial(two, 1),
        bool.__call__,
    ],
    ids=["one", "a default", "starred", "a partial", "written in C"],
)
def test_whatever_takes_one_argument_is_taken(function: Any, name: str) -> None:
    """Of what is written in C, and does not say, too."""
    make, _ = TAKE_ONE[name]
    make(function)


KEYED: dict[str, Callable[[Any], Policy[Any]]] = {
    "PerKey": lambda key: PerKey(lambda key: Bulkhead(1), key=key),
    "StaleCache": lambda key: StaleCache(1, 1, key=key),
    "Coalesce": lambda key: Coalesce(key=key),
}


@pytest.mark.parametrize("name", KEYED)
@pytest.mark.parametrize(
    ("key", "fits"),
    [
        (lambda host, path: host, True),
        (lambda one, other: one, True),
        (lambda host, path, *, port=1: host, True),
        (lambda *args, **kwargs: args, True),
        (lambda **kwargs: kwargs["host"], True),
        (two, True),
        (max, True),
        (lambda call: call.args[0], False),
        (lambda: 1, False),
        (lambda host, path, port: host, False),
        (lambda host, path, *, port: host, False),
    ],
    ids=map(str, range(11)),
)
def test_a_key_takes_what_its_function_takes(key: Any, fits: bool, name: str) -> None:
    """Or the function is not decorated."""
    policy = KEYED[name](key)
    if fits:
        policy(own)
        return
    with pytest.raises(TypeError) as caught:
        policy(own)
    start = "`key` must take what 'own' does, (host: 'str', path: 'str') -> 'str', got"
    assert str(caught.value).startswith(start)


def test_a_key_may_leave_out_what_has_a_default() -> None:
    """And the other way round: as long as some call fits."""

    def fetch(host: str, path: str = "/", *, port: int = 80, tls: bool) -> str:
        return host

    for key in (
        lambda host, *, tls: host,
        lambda host, path, *, tls: host,
        lambda host, *, port, tls: host,
    ):
        Coalesce(key=key)(fetch)
    with pytest.raises(TypeError, match="`key` must take what 'fetch' does"):
        Coalesce(key=lambda host: host)(fetch)


CONVENTIONS: dict[str, tuple[Callable[[], Policy[Any]], str]] = {
    "key": (
        lambda: KEYED["PerKey"](lambda call, path: call.args[0]),
        "`key` is called with the function's own arguments: key(*args, **kwargs)",
    ),
    "key of a cache": (
        lambda: KEYED["StaleCache"](lambda call, path: call.args[0]),
        "`key` is called with the function's own arguments: key(*args, **kwargs)",
    ),
    "cost": (
        lambda: RateLimiter(5, cost=lambda host: len(host)),
        "`cost` is called with the Call: cost(call)",
    ),
    "by": (
        lambda: AdaptiveConcurrency(partitions={"a": 1}, by=lambda host: host[0]),
        "`by` is called with the Call: by(call)",
    ),
    "by, unhashable": (
        lambda: AdaptiveConcurrency(partitions={"a": 1}, by=lambda call: [call]),
        "`by` is called with the Call: by(call)",
    ),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_other_convention_is_named(name: str) -> None:
    """In a note on the error that the function raised."""
    make, note = CONVENTIONS[name]
    with pytest.raises((AttributeError, TypeError)) as caught:
        make().call(own, "a", "b")
    assert [f"resilient: {note}"] == caught.value.__notes__


# -- Errors name the correction for code written another way


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Retry((OSError, KeyError)),  # type: ignore[arg-type]
            "write Retry(OSError, KeyError)",
        ),
        (lambda: Retry((OSError,)), "write Retry(OSError)"),  # type: ignore[arg-type]
        (
            lambda: Retry(3),  # type: ignore[arg-type]
            "Retry takes exception types, got 3: attempts=3 says how often",
        ),
        (
            lambda: Retry("x"),  # type: ignore[arg-type]
            "Retry takes exception types, got 'x': predicates go to on=…",
        ),
        (
            lambda: Timeout(math.inf),
            "`seconds` must be a finite time in seconds, got inf; None is no limit",
        ),
        (
            lambda: Bulkhead(1, max_wait=math.inf),
            "`max_wait` must be a finite time in seconds, got inf; None is no limit",
        ),
        (
            lambda: RateLimiter(1, max_wait=math.inf),
            "`max_wait` must be a finite time in seconds, got inf; None is no limit",
        ),
        (
            lambda: Retry(OSError, backoff=0.5),  # type: ignore[arg-type]
            "got 0.5: constant(0.5) waits as long each time",
        ),
        (
            lambda: Retry(OSError, backoff="x"),  # type: ignore[arg-type]
            "`backoff` must be a function of the attempt, got 'x'",
        ),
        (lambda: StaleCache(own), "a decorator needs its parentheses"),  # type: ignore[call-overload]
        (
            lambda: StaleCache(1),  # type: ignore[call-overload]
            "`stale_if_error` must be seconds (int, float) or a timedelta, got None",
        ),
        (lambda: PerKey(none), "a decorator needs its parentheses"),  # type: ignore[call-overload]
        (
            lambda: PerKey(lambda host: host)("a"),  # type: ignore[arg-type, return-value]
            "a decorator needs its parentheses, @PerKey(…)",
        ),
    ],
    ids=map(str, range(13)),
)
def test_what_was_meant_is_named(make: Callable[[], object], text: str) -> None:
    """Where the mistake is a known one."""
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert text in str(caught.value)


@in_every_colour
async def test_a_circle_is_not_called_full(w: World) -> None:
    """Another slot would not help the call that is refused."""
    bulkhead = Bulkhead(1, max_queue=5, name="db")

    async def child() -> None: ...

    async def parent() -> None:
        await w.call(bulkhead, child)

    with pytest.raises(BulkheadFullError) as caught:
        await w.call(bulkhead, parent)
    assert "circle" == caught.value.reason
    assert (
        "bulkhead 'db' would be waited for without end: each of its 1 slots is held"
        " by a call that waits for one, or is around one that does"
    ) == str(caught.value)
