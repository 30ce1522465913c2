"""Our errors are errors of the client library, too."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from tests.http.families import (
    URL,
    Http,
    in_every_client,
)

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    Outcome,
    Pipeline,
    Policy,
    Retry,
    Timeout,
)

HERE = str(Path(resilient.__file__).parent)


REJECTIONS = [
    resilient.RejectedError("p", 2.5),
    resilient.CircuitOpenError("p", 2.5, "open", 6, 10, "10.0 s"),
    resilient.BulkheadFullError("p", 2.5, 5, 1, 0.5),
    resilient.RateLimitedError("p", 2.5, 1.0),
    resilient.ThrottledError("p", 2.5),
    resilient.ConcurrencyLimitedError("p", 2.5),
    resilient.DeadlineExceededError("p", None, 0.5),
    resilient.TimeoutExceededError("p", 1.0, 1.5),
]


class Fails(Policy[Any]):
    """Answers with an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def around(self, proceed: Any, call: Any) -> Outcome:
        return Outcome(None, self.error)


@pytest.mark.parametrize("plain", REJECTIONS, ids=lambda one: type(one).__name__)
def test_each_of_our_errors_is_the_clients_too(h: Http, plain: Exception) -> None:
    """It stays the object it was, pickles, copies, and names its request."""
    error: Any = copy.copy(plain)
    text = str(error)
    ours, library = h.ours, h.library
    policy = Fails(error)
    with library.Client(transport=h.transport(h.script(200), policy)) as client:
        for _ in range(2):
            with pytest.raises(library.TransportError) as caught:
                client.post(URL, json=1)
            assert error is caught.value
    name = type(plain).__name__
    assert getattr(ours, name) is type(error)
    assert f"resilient.{h.family}" == type(error).__module__
    assert isinstance(error, type(plain))
    is_timeout = isinstance(plain, TimeoutError)
    assert is_timeout == isinstance(error, library.TimeoutException)
    assert text == str(error)
    assert URL == str(error.request.url)
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(error) is type(twin)
        assert text == str(twin)
        assert vars(plain).keys() <= vars(twin).keys()
        for key, value in vars(plain).items():
            assert value == getattr(twin, key)
        assert URL == str(twin.request.url)
    assert getattr(plain, "retry_after", None) == error.retry_after


class QuotaError(resilient.RejectedError):
    """Of a policy author's own."""


class SlowQuotaError(QuotaError, TimeoutError):
    """One with a base of another layout, and an attribute."""

    __slots__ = ("spent",)


@pytest.mark.parametrize("kind", [QuotaError, SlowQuotaError])
def test_an_error_derived_from_ours_is_the_clients_too(
    h: Http, kind: type[QuotaError]
) -> None:
    """Of whatever class a policy author has made; it stays of that class."""
    error: Any = kind("quota", 2.5)
    with h.library.Client(transport=h.transport(None, Fails(error))) as client:
        for _ in range(2):
            with pytest.raises(h.library.TransportError) as caught:
                client.get(URL)
            assert error is caught.value
    assert isinstance(error, kind)
    assert isinstance(error, h.ours.RejectedError)
    assert (kind.__name__, __name__) == (type(error).__name__, type(error).__module__)
    assert (URL, 2.5) == (str(error.request.url), error.retry_after)
    # Its author's class is what another process knows.
    twin = pickle.loads(pickle.dumps(error))
    assert kind is type(twin)
    assert str(error) == str(twin)


def test_an_error_of_ours_made_by_hand_has_no_request(h: Http) -> None:
    """As a client's own, it says so; and it may be given one."""
    error = h.ours.CircuitOpenError("p")
    with pytest.raises(RuntimeError) as caught:
        error.request
    assert "The .request property has not been set." == str(caught.value)
    error.request = request = h.library.Request("GET", URL)
    assert request is error.request


def test_every_error_of_ours_has_its_twin(h: Http) -> None:
    """A new one in the library needs a class here."""
    errors = {
        name
        for name, value in vars(resilient).items()
        if inspect.isclass(value) and issubclass(value, resilient.ResilientError)
    }
    # That of a supervisor reaches no call.
    assert errors - {"ResilientError", "RestartLimitError"} == {
        name for name in h.ours.__all__ if name.endswith("Error")
    }


@in_every_client
async def test_an_error_shows_one_frame_of_ours(h: Http) -> None:
    """And none of its way through the policies."""
    down = h.library.ReadError("down")
    breaker = CircuitBreaker(consecutive_failures=1, minimum_calls=1)
    pipeline = Pipeline(
        Timeout(20), h.retry(breaker, Bulkhead(3), Timeout(10), attempts=1)
    )
    async with h.client(h.script(down), pipeline) as client:
        for kind in (h.library.ReadError, h.ours.CircuitOpenError):
            error = await h.error(kind, h.get, client)
            files = [
                frame.filename for frame in traceback.extract_tb(error.__traceback__)
            ]
            assert 1 == sum(file.startswith(HERE) for file in files), files


@in_every_client
async def test_a_retry_around_the_client_leaves_what_was_given_up(h: Http) -> None:
    """Retries do not multiply."""
    script = h.script(h.library.ConnectError("down"))
    async with h.client(script, h.retry()) as client:
        outer = Retry(h.library.TransportError, attempts=5)

        async def fetch() -> Any:
            return await h.get(client)

        error = await h.error(h.library.ConnectError, h.call, outer, fetch)
    assert 3 == len(script.sent)
    assert ["resilient: 3 attempts in 2 s; stopped: attempts"] == error.__notes__


@in_every_client
async def test_a_timeout_of_ours_that_was_given_up_is_known_further_out(
    h: Http,
) -> None:
    """The object stays the same in its other class."""

    async def slow(request: Any) -> Any:
        await h.sleep(2)
        raise h.library.ReadTimeout("slow")

    script = h.script(slow)
    async with h.client(script, h.retry(Timeout(2))) as client:
        outer = Retry(h.library.TimeoutException, attempts=5)

        async def fetch() -> Any:
            return await h.get(client)

        await h.error(h.ours.TimeoutExceededError, h.call, outer, fetch)
    assert 3 == len(script.sent)
