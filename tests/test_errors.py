"""Errors: their texts, and that they survive pickling and copying."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

import resilient
from resilient import (
    BulkheadFullError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoEndpointError,
    RateLimitedError,
    RejectedError,
    ResilientError,
    RestartLimitError,
    ThrottledError,
    TimeoutExceededError,
)

TEXTS: list[tuple[ResilientError, str]] = [
    (
        RestartLimitError("consumer", 6, 5, 60.0),
        "worker 'consumer' crashed 6 times in a row, within 60 s of its start, and"
        " max_restarts is 5",
    ),
    (
        RestartLimitError("consumer", 1, 0, 60.0),
        "worker 'consumer' crashed once, within 60 s of its start, and max_restarts"
        " is 0",
    ),
    (
        RestartLimitError("consumer", 0, 5, 2.0),
        "worker 'consumer' is to be restarted but has not stopped within 2 s",
    ),
    (ResilientError("anything"), "anything"),
    (RejectedError("p"), "policy 'p' rejected the call"),
    (RejectedError("p", 1.5), "policy 'p' rejected the call; retry in 1.5 s"),
    (
        CircuitOpenError("payments", 12.3, "open", 6, 10, "30.0 s"),
        "circuit 'payments' is open (6 of 10 calls failed in 30.0 s); retry in 12.3 s",
    ),
    (CircuitOpenError("payments"), "circuit 'payments' is open"),
    (
        CircuitOpenError("payments", None, "half_open_full"),
        "circuit 'payments' is half-open and its probes are taken",
    ),
    (
        CircuitOpenError("payments", None, "forced_open"),
        "circuit 'payments' is forced open",
    ),
    (
        CircuitOpenError("payments", None, "ramping", 6, 10, "30.0 s"),
        "circuit 'payments' is closing by steps and holds the call back",
    ),
    (
        CircuitOpenError("payments", None, "throttling"),
        "circuit 'payments' is near its trip point and holds the call back",
    ),
    (BulkheadFullError("db", None, 5), "bulkhead 'db' is full (5 running)"),
    (
        BulkheadFullError("db", None, 5, 2, 0.25),
        "bulkhead 'db' is full (5 running, 2 waiting) after 0.25 s",
    ),
    (
        RateLimitedError("api", 0.5),
        "rate limiter 'api' has no permit left; retry in 0.5 s",
    ),
    (
        RateLimitedError("api", 3.0, 1.0),
        "rate limiter 'api' has no permit left within 1 s; retry in 3 s",
    ),
    (
        RateLimitedError("GET https://a", 3.0, reason="pushback"),
        "the server of 'GET https://a' asked for fewer requests; retry in 3 s",
    ),
    (ThrottledError("api"), "throttle 'api' holds the call back"),
    (ConcurrencyLimitedError("api"), "concurrency limit 'api' is reached"),
    (
        ConcurrencyLimitedError("api", None, 20, 18, 2, 0.25),
        "concurrency limit 'api' is reached (18 of 20 running, 2 waiting) after 0.25 s",
    ),
    (
        NoEndpointError("api"),
        "balance 'api' has no endpoint to call: give it some by replace()",
    ),
    (
        NoEndpointError("api", None, 3),
        "balance 'api' has no endpoint to call: all 3 are drained; restore() one",
    ),
    (
        DeadlineExceededError("fetch", None, 0.25),
        "'fetch' did not begin: its deadline had passed 0.25 s ago",
    ),
    (
        TimeoutExceededError("fetch", 2.0, 2.03125),
        "timeout 'fetch' of 2 s exceeded after 2.031 s",
    ),
]
every_error = pytest.mark.parametrize(
    ("error", "text"), TEXTS, ids=[str(place) for place in range(len(TEXTS))]
)
COPIES: list[Callable[[ResilientError], ResilientError]] = [
    *(
        lambda error, p=protocol: pickle.loads(pickle.dumps(error, p))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ),
    copy.copy,
    copy.deepcopy,
]


@every_error
def test_a_text_says_what_was_observed_and_what_next(
    error: ResilientError, text: str
) -> None:
    """Subject, numbers with units, and when to come back."""
    assert text == str(error)


@every_error
def test_errors_survive_pickling_and_copying(error: ResilientError, text: str) -> None:
    """With every attribute, those that were added included."""
    error.add_note("resilient: 3 attempts in 1 s; stopped: attempts")
    for make in COPIES:
        twin = make(error)
        assert error is not twin
        assert type(error) is type(twin)
        assert text == str(twin)
        assert vars(error) == vars(twin)
        assert error.args == twin.args


def test_every_error_is_tested_here() -> None:
    """A new one needs a text as well."""
    public = {
        thing
        for name, thing in vars(resilient).items()
        if isinstance(thing, type) and issubclass(thing, ResilientError)
    }
    assert public == {type(error) for error, _ in TEXTS}


@pytest.mark.parametrize(
    "error",
    [DeadlineExceededError("d"), TimeoutExceededError("t", 1.0, 1.0)],
    ids=["deadline", "timeout"],
)
def test_timeouts_are_timeout_errors(error: TimeoutError) -> None:
    """Code that knows only the built-in one catches ours; it is an OSError too."""
    assert isinstance(error, TimeoutError)
    assert isinstance(error, OSError)
    assert (None, None) == (error.errno, error.strerror)
    assert 1 == len(error.args)


def test_rejections_say_who_and_when() -> None:
    """`policy` is a name; `retry_after` is seconds or None."""
    for error, _ in TEXTS:
        if isinstance(error, RejectedError):
            assert isinstance(error.policy, str)
            assert error.retry_after is None or error.retry_after > 0


def test_a_repr_shows_what_it_was_made_of() -> None:
    """As that of every exception does."""
    assert "RateLimitedError('api', 0.5, 0.0)" == repr(RateLimitedError("api", 0.5))


@every_error
def test_whether_the_deadline_was_to_blame_survives_pickling(
    error: ResilientError, text: str
) -> None:
    """A class says no by default, an error may say yes."""
    if isinstance(error, RejectedError):
        assert isinstance(error, DeadlineExceededError) == error.by_deadline
        for copy_error in COPIES:
            late = copy.copy(error)
            late.by_deadline = True
            again = copy_error(late)
            assert isinstance(again, RejectedError)
            assert again.by_deadline


def test_a_long_wait_is_spelt_without_an_exponent() -> None:
    """A reader of a log has no use for 1.2e+03 s."""
    assert "rate limiter 'api' has no permit left; retry in 86400 s" == str(
        RateLimitedError("api", 86_400.0)
    )
