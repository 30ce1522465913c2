"""The transport: what is sent again, when, and what the caller gets."""

from __future__ import annotations

import copy
import gc
import importlib
import inspect
import os
import pickle
import traceback
import warnings
from collections.abc import Iterator
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from tests.http import families
from tests.http.families import (
    FAMILIES,
    URL,
    Http,
    in_async_clients,
    in_every_client,
    in_sync_clients,
)
from tests.test_garbage import no_garbage

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    Coalesce,
    Fallback,
    Hedge,
    Limit,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    StaleCache,
    Timeout,
    Verdict,
    constant,
    current_call,
    deadline_after,
    exponential,
)
from resilient._http.exchange import _fields, _length

HERE = str(Path(resilient.__file__).parent)
IDEMPOTENT = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY", "PROPFIND"]
UNSAFE = ["POST", "PATCH", "CONNECT", "PURGE"]
REFUSED = [421, 425, 429, 529]
PROCESSED = [408, 500, 502, 503, 504, 507, 520, 599]
RETRIED = [*REFUSED, *PROCESSED]
FINAL = [200, 204, 304, 400, 401, 403, 404, 409, 410, 418, 422, 451]
FINAL += [501, 505, 508, 510, 511]
NETWORK = [
    "ConnectError",
    "ReadError",
    "WriteError",
    "CloseError",
    "ConnectTimeout",
    "ReadTimeout",
    "WriteTimeout",
    "PoolTimeout",
    "ProxyError",
    "RemoteProtocolError",
]
NEVER_LEFT = ["ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"]
MAY_HAVE_ARRIVED = sorted({*NETWORK} - {*NEVER_LEFT})


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(params=FAMILIES)
def h(request: pytest.FixtureRequest) -> Http:
    """A family in the sync colour, for tests that send nothing."""
    return Http(request.param, "sync")


# -- What is retried


@in_every_client
async def test_an_idempotent_method_is_retried_on_any_failing_status(h: Http) -> None:
    """RFC 9110's idempotent methods, on 408, 429, 500, 502, 503 and 504."""
    for method in IDEMPOTENT:
        for status in RETRIED:
            script = h.script(status, 200)
            async with h.client(script, h.retry()) as client:
                response = await h.request(client, method)
            assert 200 == response.status_code, (method, status)
            assert 2 == len(script.sent)


@in_every_client
async def test_any_other_status_is_an_answer(h: Http) -> None:
    """And is returned as it came."""
    for status in FINAL:
        script = h.script(status)
        async with h.client(script, h.retry()) as client:
            response = await h.get(client)
        assert status == response.status_code
        assert 1 == len(script.sent)
        assert "resilient" not in response.extensions


@in_every_client
async def test_an_idempotent_method_is_retried_on_any_failure_of_the_network(
    h: Http,
) -> None:
    """Connecting, reading, writing, timeouts, a server that breaks off."""
    for method in IDEMPOTENT:
        for kind in NETWORK:
            script = h.script(getattr(h.library, kind)("down"), 200)
            async with h.client(script, h.retry()) as client:
                response = await h.request(client, method)
            assert 200 == response.status_code, (method, kind)
            assert 2 == len(script.sent)


@in_every_client
async def test_what_no_other_try_could_mend_is_final(h: Http) -> None:
    """Invalid requests, and errors that do not come from the network."""
    library = h.library
    for error in (
        library.LocalProtocolError("bad header"),
        library.UnsupportedProtocol("gopher"),
        library.DecodingError("gzip"),
        library.TooManyRedirects("20"),
        library.InvalidURL("no"),
        OSError("raw"),
        ValueError("bug"),
    ):
        script = h.script(error)
        async with h.client(script, h.retry()) as client:
            assert error is await h.error(type(error), h.get, client)
        assert 1 == len(script.sent), error


@in_every_client
async def test_an_unsafe_method_is_not_retried_on_a_status(h: Http) -> None:
    """It did arrive: the response comes back, and says why."""
    for method in UNSAFE:
        for status in PROCESSED:
            script = h.script(status, 200)
            async with h.client(script, h.retry()) as client:
                response = await h.request(client, method)
            assert status == response.status_code
            assert 1 == len(script.sent)
            summary = response.extensions["resilient"]
            assert h.ours.Summary(1, f"{method} is not idempotent", None) == summary


@in_every_client
async def test_an_unsafe_method_is_not_retried_where_it_may_have_arrived(
    h: Http,
) -> None:
    """The client's own error comes back, with a note."""
    for kind in MAY_HAVE_ARRIVED:
        error = getattr(h.library, kind)("down")
        script = h.script(error, 200)
        async with h.client(script, h.retry()) as client:
            assert error is await h.error(type(error), h.post, client)
        assert 1 == len(script.sent)
        assert [
            "resilient: 1 attempt in 0 s; stopped: POST is not idempotent"
        ] == error.__notes__


@in_every_client
async def test_an_unsafe_method_is_retried_where_it_never_left(h: Http) -> None:
    """No connection, none free in the pool, a proxy in the way."""
    for kind in NEVER_LEFT:
        script = h.script(getattr(h.library, kind)("down"), 200)
        async with h.client(script, h.retry()) as client:
            assert 200 == (await h.post(client, json={})).status_code
        assert 2 == len(script.sent)


class Reset:
    """What h2 tells of a stream that was reset."""

    def __init__(self, error_code: int) -> None:
        self.error_code = error_code


def broken_off(h: Http, *args: Any) -> Exception:
    """A connection broken off, as the client's engine explains it."""
    error: Exception = h.library.RemoteProtocolError("stream reset")
    error.__cause__ = Exception(*args)
    return error


@in_every_client
async def test_a_refused_stream_never_reached_its_server(h: Http) -> None:
    """HTTP/2 says so: error code 7; any other says nothing."""
    for args, sent in (
        ((Reset(7),), 2),
        ((Reset(8),), 1),
        (("stream reset",), 1),
        ((), 1),
    ):
        script = h.script(broken_off(h, *args), 200)
        async with h.client(script, h.retry()) as client:
            try:
                await h.post(client)
            except h.library.RemoteProtocolError:
                pass
        assert sent == len(script.sent), args


@in_every_client
async def test_what_was_certain_of_one_attempt_is_not_so_of_the_next(h: Http) -> None:
    """A connect error, and then a server that got the request and fails."""
    for second in (503, h.library.ReadError("down")):
        script = h.script(h.library.ConnectError("down"), second, 200)
        async with h.client(script, h.retry()) as client:
            try:
                assert 503 == (await h.post(client)).status_code
            except h.library.ReadError:
                pass
        assert 2 == len(script.sent)


@in_async_clients
async def test_an_attempt_that_is_cut_short_may_have_arrived(h: Http) -> None:
    """Also where the one before it certainly had not."""

    async def hang(request: Any) -> None:
        await h.sleep(100)

    script = h.script(h.library.ConnectError("down"), hang, 200)
    async with h.client(script, h.retry(Timeout(3))) as client:
        error = await h.error(h.ours.TimeoutExceededError, h.post, client)
    assert [0.0, 1.0] == script.times
    assert [
        "resilient: 2 attempts in 4 s; stopped: POST is not idempotent"
    ] == error.__notes__


@in_every_client
async def test_a_request_that_was_rejected_was_not_sent(h: Http) -> None:
    """So a Retry that names the rejection may try it again, whatever it is."""
    script = h.script(200)
    limiter = RateLimiter(1)
    pipeline = Pipeline(
        Retry(resilient.RateLimitedError), limiter, classify=h.ours.http_verdict
    )
    async with h.client(script, pipeline) as client:
        await h.post(client)
        assert 200 == (await h.post(client)).status_code
    assert [0.0, 1.0] == script.times


@in_every_client
async def test_an_idempotency_key_makes_any_method_idempotent(h: Http) -> None:
    """As its server promises."""
    script = h.script(503, h.library.ReadError("down"), 200)
    async with h.client(script, h.retry()) as client:
        headers = {"idempotency-key": "mine"}
        assert 200 == (await h.post(client, headers=headers)).status_code
    assert ["mine"] * 3 == [one.headers["idempotency-key"] for one in script.sent]


@in_every_client
async def test_a_key_of_our_own_is_the_same_for_all_attempts(h: Http) -> None:
    """Another request has another; one that needs none has none."""
    script = h.script(503, h.library.ReadError("down"), 200)
    async with h.client(script, h.retry(), idempotency_key=True) as client:
        request = client.build_request("POST", URL)
        assert 200 == (await h.send(client, request)).status_code
        keys = {one.headers["idempotency-key"] for one in script.sent}
        assert {request.headers["Idempotency-Key"]} == keys
        # The same request again is the same operation.
        await h.send(client, request)
        assert keys == {script.sent[-1].headers["idempotency-key"]}
        await h.post(client)
        assert keys != {script.sent[-1].headers["idempotency-key"]}
        await h.get(client)
        assert "idempotency-key" not in script.sent[-1].headers
        await h.post(client, headers={"Idempotency-Key": "mine"})
        assert "mine" == script.sent[-1].headers["idempotency-key"]


@in_every_client
async def test_retry_unsafe_retries_any_method(h: Http) -> None:
    """Whatever may have become of the request before."""
    script = h.script(503, h.library.ReadError("down"), 200)
    async with h.client(script, h.retry(), retry_unsafe=True) as client:
        assert 200 == (await h.post(client)).status_code
    assert 3 == len(script.sent)
    assert "idempotency-key" not in script.sent[0].headers


@in_every_client
async def test_whatever_a_retry_lists_an_unsafe_request_is_not_repeated(
    h: Http,
) -> None:
    """Types, predicates and results say what is a failure, not what is safe."""
    script = h.script(h.library.ReadError("down"))
    async with h.client(script, Retry(h.library.TransportError)) as client:
        await h.error(h.library.ReadError, h.post, client)
        assert 1 == len(script.sent)
        await h.error(h.library.ReadError, h.get, client)
        assert 4 == len(script.sent)
    script = h.script(200)
    pending = Retry(on_result=lambda response: True, backoff=constant(0))
    async with h.client(script, pending) as client:
        assert 200 == (await h.post(client)).status_code
        assert 1 == len(script.sent)
        response = await h.get(client)
    assert h.ours.Summary(3, "attempts", None) == response.extensions["resilient"]


@in_every_client
async def test_an_address_without_a_host_fails_as_in_a_bare_client(h: Http) -> None:
    """It is the client's to say so."""
    unsupported = h.library.UnsupportedProtocol("no scheme")
    for transport in transports(h, h.script(unsupported)):
        async with h.bare(transport) as client:
            kind = h.library.UnsupportedProtocol
            assert unsupported is await h.error(kind, h.get, client, "/things")


@in_every_client
async def test_without_a_retry_nothing_is_sent_twice(h: Http) -> None:
    """An empty pipeline is a bare client."""
    script = h.script(503)
    async with h.client(script, Pipeline()) as client:
        response = await h.get(client)
    assert 503 == response.status_code
    assert 1 == len(script.sent)


@in_every_client
async def test_each_resend_is_counted_on_its_call(h: Http) -> None:
    """As OpenTelemetry names it; the request is given back as it came."""
    script = h.script(503, 503, 200)
    async with h.client(script, h.retry()) as client:
        request = client.build_request("GET", URL, extensions={"mine": 1})
        extensions = request.extensions
        await h.send(client, request)
    assert [None, 1, 2] == [
        one.extensions.get("http.request.resend_count") for one in script.sent
    ]
    assert [1, 1, 1] == [one.extensions["mine"] for one in script.sent]
    assert extensions is request.extensions
    assert {"mine", "timeout"} == {*request.extensions}


# -- When it is sent again


def dated(h: Http, status: int, seconds: int) -> Any:
    """A response whose Retry-After is a date so many seconds from its own."""
    return h.answer(
        status,
        Date="Sun, 06 Nov 1994 08:49:00 GMT",
        Retry_After=f"Sun, 06 Nov 1994 08:49:{seconds:02} GMT",
    )


@in_every_client
async def test_the_servers_wait_is_obeyed_exactly(h: Http) -> None:
    """In each of the forms in which it may be asked for."""
    for status in (429, 503):
        for seconds, response in (
            (7.0, h.answer(status, Retry_After="7")),
            (0.125, h.answer(status, Retry_After="0")),
            (1.5, h.answer(status, Retry_After="1.5")),
            (0.25, h.answer(status, retry_after_ms="250", Retry_After="9")),
            (20.0, dated(h, status, 20)),
            (9.0, h.answer(status, RateLimit='"day";r=0;t=9')),
            (8.0, h.answer(status, RateLimit="limit=5, remaining=0, reset=8")),
            (
                6.0,
                h.answer(
                    status,
                    x_ratelimit_remaining_tokens="0",
                    x_ratelimit_reset_tokens="6s",
                ),
            ),
        ):
            script = h.script(response, 200)
            pipeline = h.retry(backoff=constant(0.125))
            async with h.client(script, pipeline) as client:
                began = h.now()
                assert 200 == (await h.get(client)).status_code
            assert [0.0, seconds] == [at - began for at in script.times]


@in_every_client
async def test_a_wait_that_has_passed_leaves_our_own(h: Http) -> None:
    """A date before the response's own: the server sets a minimum."""
    past = h.answer(
        503,
        Date="Sun, 06 Nov 1994 08:49:00 GMT",
        Retry_After="Sun, 06 Nov 1994 08:48:00 GMT",
    )
    script = h.script(past, 200)
    async with h.client(script, h.retry()) as client:
        await h.get(client)
    assert [0.0, 1.0] == script.times


@in_every_client
async def test_a_wait_of_garbage_leaves_the_delay_to_be_computed(h: Http) -> None:
    """What cannot be read was not sent."""
    for text in ("abc", "-5", "nan", ""):
        script = h.script(h.answer(503, Retry_After=text), 200)
        async with h.client(script, h.retry()) as client:
            began = h.now()
            await h.get(client)
        assert [0.0, 1.0] == [at - began for at in script.times]


@in_every_client
async def test_a_wait_that_is_too_long_is_not_begun(h: Http) -> None:
    """The response is returned at once, with the wait attached; never early."""
    for text, seconds in (("61", 61.0), ("86400", 86_400.0), ("9" * 12, 1e12 - 1)):
        script = h.script(h.answer(429, Retry_After=text), 200)
        async with h.client(script, h.retry()) as client:
            began = h.now()
            response = await h.get(client)
        assert 429 == response.status_code
        assert began == h.now()
        assert 1 == len(script.sent)
        summary = response.extensions["resilient"]
        assert h.ours.Summary(1, "retry_after too long", seconds) == summary


@in_every_client
async def test_a_date_in_2099_is_too_long_a_wait(h: Http) -> None:
    """Measured on our own clock where the response has no date."""
    date = "Sun, 06 Nov 2099 08:49:37 GMT"
    script = h.script(h.answer(503, Retry_After=date), 200)
    async with h.client(script, h.retry()) as client:
        response = await h.get(client)
    assert 503 == response.status_code
    assert 1 == len(script.sent)
    assert response.extensions["resilient"].retry_after > 1e9


@in_every_client
async def test_a_wait_past_the_deadline_is_not_begun(h: Http) -> None:
    """The deadline is a Timeout's, or the caller's."""
    for around in (True, False):
        script = h.script(h.answer(503, Retry_After="20"), 200)
        outer = Timeout(None if around else 20)
        pipeline = Pipeline(outer, h.retry())
        async with h.client(script, pipeline) as client:
            began = h.now()
            with deadline_after(20 if around else 1000):
                response = await h.get(client)
        assert 503 == response.status_code
        assert began == h.now()
        summary = response.extensions["resilient"]
        assert h.ours.Summary(1, "deadline", 20.0) == summary


@in_every_client
async def test_a_longer_wait_may_be_allowed(h: Http) -> None:
    """By `max_retry_after`."""
    script = h.script(h.answer(503, Retry_After="600"), 200)
    async with h.client(script, h.retry(max_retry_after=600)) as client:
        assert 200 == (await h.get(client)).status_code
    assert [0.0, 600.0] == script.times


@in_every_client
async def test_who_asks_for_less_gets_a_second_at_least(h: Http) -> None:
    """429, and 503 that names a wait; a plain failure backs off from 0.1 s."""
    for response, first in (
        (h.answer(429), 1.0),
        (h.answer(503), 0.1),
        (h.answer(500), 0.1),
    ):
        script = h.script(response, 200)
        backoff = exponential(jitter="none")
        async with h.client(script, h.retry(backoff=backoff)) as client:
            began = h.now()
            await h.get(client)
        assert [0.0, first] == pytest.approx([at - began for at in script.times])


@in_every_client
async def test_a_response_is_judged_once_for_every_policy(h: Http) -> None:
    """By what it says, and no exception is made of it."""
    seen: list[tuple[int | None, Verdict, float | None]] = []

    class CallObserver(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            outcome: Outcome = await proceed(call)
            status = getattr(outcome.value, "status_code", None)
            seen.append((status, outcome.verdict, outcome.retry_after))
            return outcome

    down, bad = h.library.ReadError("down"), h.library.UnsupportedProtocol("bad")
    steps = (
        200,
        404,
        429,
        503,
        500,
        h.answer(503, Retry_After="4"),
        h.answer(500, Retry_After="5"),
        down,
        bad,
        resilient.CircuitOpenError("further in", 3.0),
        resilient.TimeoutExceededError("further in", 1.0, 1.0),
    )
    async with h.client(h.script(*steps), CallObserver()) as client:
        for step in steps:
            try:
                await h.get(client)
            except Exception as error:
                assert error is step
    assert [
        (200, Verdict.SUCCESS, None),
        (404, Verdict.SUCCESS, None),
        (429, Verdict.PUSHBACK, None),
        (503, Verdict.FAILURE, None),
        (500, Verdict.FAILURE, None),
        (503, Verdict.PUSHBACK, 4.0),
        (500, Verdict.FAILURE, 5.0),
        (None, Verdict.FAILURE, None),
        (None, Verdict.IGNORED, None),
        (None, Verdict.IGNORED, 3.0),
        (None, Verdict.FAILURE, None),
    ] == seen


@in_every_client
async def test_the_last_response_is_returned_with_what_was_done(h: Http) -> None:
    """Readable, and no exception."""
    script = h.script(*[h.response(503, b"down ", b"again") for _ in range(3)])
    async with h.client(script, h.retry()) as client:
        response = await h.get(client)
    assert 503 == response.status_code
    assert b"down again" == response.content
    assert h.ours.Summary(3, "attempts", None) == response.extensions["resilient"]
    with pytest.raises(h.library.HTTPStatusError):
        response.raise_for_status()


@in_every_client
async def test_a_good_response_says_how_many_attempts_it_took(h: Http) -> None:
    """Nothing, where it took one."""
    async with h.client(h.script(503, 200), h.retry()) as client:
        response = await h.get(client)
        assert h.ours.Summary(2, None, None) == response.extensions["resilient"]
        assert "resilient" not in (await h.get(client)).extensions


@in_every_client
async def test_the_last_error_is_the_clients_own(h: Http) -> None:
    """The very object, with one note."""
    error = h.library.ConnectError("down")
    async with h.client(h.script(error), h.retry()) as client:
        assert error is await h.error(h.library.ConnectError, h.get, client)
    assert ["resilient: 3 attempts in 2 s; stopped: attempts"] == error.__notes__
    assert URL == str(error.request.url)


# -- Our errors are the client's too


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
        for name, one in vars(resilient).items()
        if inspect.isclass(one) and issubclass(one, resilient.ResilientError)
    }
    assert errors - {"ResilientError"} == {
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


# -- Deadlines


def capped(request: Any) -> dict[str, float | None]:
    """What the client's engine would wait for in each phase, were it now."""
    timeouts = request.extensions["timeout"]
    return {
        phase: timeouts.get(phase) for phase in ("connect", "read", "write", "pool")
    }


@in_every_client
async def test_the_deadline_cuts_the_clients_timeouts_when_they_begin(h: Http) -> None:
    """The smaller wins; each phase is told what is left at its beginning."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        seen.append(capped(request))
        await h.sleep(3)
        seen.append(capped(request))
        timeouts = request.extensions["timeout"]
        assert seen[-1]["read"] == timeouts["read"]
        await h.sleep(4)
        seen.append(capped(request))
        return h.answer(503)

    own = {"connect": 1, "read": 8, "write": 4, "pool": 6}
    async with h.client(
        h.script(look, 200),
        Pipeline(Timeout(9), h.retry()),
        client={"timeout": h.library.Timeout(**own)},
    ) as client:
        response = await h.get(client)
    assert 200 == response.status_code
    assert [
        {"connect": 1, "read": 8, "write": 4, "pool": 6},
        {"connect": 1, "read": 6.0, "write": 4, "pool": 6},
        {"connect": 1, "read": 2.0, "write": 2.0, "pool": 2.0},
    ] == seen


@in_every_client
async def test_the_attempts_own_limit_cuts_them_too(h: Http) -> None:
    """In each attempt anew, and no further than the whole allows."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        seen.append(capped(request)["read"])
        await h.sleep(3 if len(seen) < 3 else 1)
        return h.answer(503)

    pipeline = Pipeline(Timeout(10), h.retry(Timeout(4)))
    async with h.client(h.script(look), pipeline) as client:
        await h.get(client)
    assert [4.0, 4.0, 2.0] == seen


@in_every_client
async def test_a_deadline_around_cuts_them_too(h: Http) -> None:
    """That of `deadline_after`, and with no policy at all."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        seen.append(capped(request)["read"])
        return h.answer(200)

    async with h.client(h.script(look), Pipeline()) as client:
        with deadline_after(2):
            await h.get(client)
            await h.sleep(1.5)
            await h.get(client)
        await h.get(client)
    assert [2.0, 0.5, 5.0] == seen


@in_every_client
async def test_a_timeout_is_never_nothing(h: Http) -> None:
    """To a socket 0 means that it must not block."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        await h.sleep(3)
        seen.append(capped(request)["read"])
        return h.answer(200)

    async with h.client(h.script(look), Pipeline()) as client:
        with deadline_after(2):
            await h.get(client)
    assert [0.001] == seen


@in_every_client
async def test_a_client_without_limits_is_given_them(h: Http) -> None:
    """A timeout that is None or missing is no limit."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        seen.append(capped(request))
        return h.answer(200)

    every = dict.fromkeys(("connect", "read", "write", "pool"), 4.0)
    transport = h.transport(h.script(look), h.retry(Timeout(4)))
    for extensions in ({}, {"timeout": {}}, {"timeout": dict.fromkeys(every)}):
        request = h.library.Request("GET", URL, extensions=extensions)
        await h.handle(transport, request)
        assert extensions == request.extensions
    assert [every] * 3 == seen


@in_sync_clients
async def test_a_sync_client_obeys_a_timeout_by_its_own(h: Http) -> None:
    """What it raises at the deadline is our timeout, caused by its own."""
    own = h.library.ReadTimeout("slow")

    async def slow(request: Any) -> Any:
        await h.sleep(capped(request)["read"])
        raise own

    script = h.script(slow)
    async with h.client(script, h.retry(Timeout(2), attempts=2)) as client:
        error = await h.error(h.library.TimeoutException, h.get, client)
    assert type(error) is h.ours.TimeoutExceededError
    assert own is error.__cause__
    assert [0.0, 3.0] == script.times
    assert 5.0 == h.now()
    assert "timeout 'GET https://api.test' of 2 s exceeded after 2 s" == str(error)
    assert ["resilient: 2 attempts in 5 s; stopped: attempts"] == error.__notes__


@in_every_client
async def test_whichever_timeout_set_the_deadline_answers_for_it(h: Http) -> None:
    """The total one ends everything, and is not retried."""

    async def slow(request: Any) -> Any:
        await h.sleep(capped(request)["read"])
        raise h.library.ReadTimeout("slow")

    script = h.script(slow)
    pipeline = Pipeline(
        Timeout(7, name="total"), h.retry(Timeout(4, name="attempt"), attempts=5)
    )
    async with h.client(script, pipeline) as client:
        error = await h.error(h.ours.TimeoutExceededError, h.get, client)
    assert ("total", 7.0) == (error.policy, error.seconds)
    assert [0.0, 5.0] == script.times


@in_every_client
async def test_a_timeout_of_the_clients_own_stays_its_own(h: Http) -> None:
    """One that came before the deadline."""
    own = h.library.ReadTimeout("slow")

    async def slow(request: Any) -> Any:
        await h.sleep(2)
        raise own

    async with h.client(h.script(slow), Timeout(20)) as client:
        assert own is await h.error(h.library.ReadTimeout, h.get, client)
        with deadline_after(3):
            assert own is await h.error(h.library.ReadTimeout, h.get, client)


@in_every_client
async def test_a_timeout_at_the_deadline_gives_every_slot_back(h: Http) -> None:
    """Also where a fallback answers for it."""

    async def slow(request: Any) -> Any:
        await h.sleep(2)
        raise h.library.ReadTimeout("slow")

    answer = h.library.Response(203)
    for timeout in (2, None):
        for outside in ((), (Fallback(answer),)):
            bulkhead = Bulkhead(1)
            pipeline = Pipeline(
                *outside, bulkhead, Timeout(timeout), classify=h.ours.http_verdict
            )
            own = {"timeout": 2}
            async with h.client(h.script(slow), pipeline, client=own) as client:
                with deadline_after(2):
                    try:
                        assert 203 == (await h.get(client)).status_code
                    except h.library.TimeoutException:
                        assert not outside
            assert 0 == bulkhead.in_use


@in_every_client
async def test_a_request_past_its_deadline_is_not_sent(h: Http) -> None:
    """The error is the client's timeout too."""
    script = h.script(200)
    async with h.client(script, Pipeline(Timeout(20))) as client:
        with deadline_after(1):
            await h.sleep(2)
            error = await h.error(h.library.TimeoutException, h.get, client)
    assert h.ours.DeadlineExceededError is type(error)
    assert [] == script.sent
    assert URL == str(error.request.url)


@in_every_client
async def test_the_server_may_be_told_how_much_time_is_left(h: Http) -> None:
    """In the header and the unit of its choice, anew for each attempt."""
    for unit, texts in (
        ("s", ["9.500", "6.500"]),
        ("ms", ["9500", "6500"]),
    ):

        async def slow(request: Any) -> Any:
            await h.sleep(2)
            return h.answer(503)

        script = h.script(slow, 200)
        async with h.client(
            script,
            Pipeline(Timeout(9.5), h.retry()),
            deadline_header=("X-Time-Left", unit),
        ) as client:
            request = client.build_request("GET", URL)
            await h.send(client, request)
        assert texts == [one.headers["x-time-left"] for one in script.sent]
        assert "x-time-left" not in request.headers


@in_every_client
async def test_without_a_deadline_the_server_is_told_nothing(h: Http) -> None:
    """There is nothing to tell."""
    script = h.script(200)
    header = ("X-Time-Left", "s")
    async with h.client(script, h.retry(), deadline_header=header) as client:
        await h.get(client)
    assert "x-time-left" not in script.sent[0].headers


@in_every_client
async def test_a_header_of_the_callers_own_comes_back(h: Http) -> None:
    """The request is given back as it came."""
    script = h.script(200)
    header = ("X-Time-Left", "s")
    pipeline = Pipeline(Timeout(20))
    async with h.client(script, pipeline, deadline_header=header) as client:
        request = client.build_request("GET", URL, headers={"X-Time-Left": "3"})
        await h.send(client, request)
    assert "20.000" == script.sent[0].headers["x-time-left"]
    assert "3" == request.headers["X-Time-Left"]


# -- What the client's configuration stops us from honouring


@in_every_client
async def test_a_client_that_would_wait_longer_is_reported_once(h: Http) -> None:
    """With both numbers; the smaller wins all the same."""
    for own, phase, spelt in (
        (None, "connect", "no limit"),
        (45.0, "connect", "45 s"),
        ((5.0, 60.0, 5.0, 5.0), "read", "60 s"),
        ((5.0, 5.0, 5.0, None), "pool", "no limit"),
    ):
        timeout = h.library.Timeout(own)
        async with h.client(
            h.script(200), Pipeline(Timeout(30), h.retry()), client={"timeout": timeout}
        ) as client:
            with pytest.warns(resilient.ResilientWarning) as caught:
                await h.get(client)
            await h.get(client)
            await h.get(client, timeout=70)
        assert [
            f"the client's {phase} timeout ({spelt}) is longer than the total limit"
            " of its transport (30 s), which wins: give the client a `timeout`"
            " within it, or the pipeline a longer Timeout"
        ] == [str(one.message) for one in caught]


@in_every_client
async def test_a_client_within_the_limit_is_not_reported(h: Http) -> None:
    """The smaller wins silently; so it does where nothing limits the whole."""
    slow = {"timeout": h.library.Timeout(None)}
    for pipeline, client in (
        (Pipeline(Timeout(5)), {}),
        (Pipeline(Timeout(None)), slow),
        (h.retry(Timeout(4)), slow),
        (Pipeline(PerKey(lambda key: Timeout(4))), slow),
        (Pipeline(h.retry()), slow),
        (Bulkhead(1), slow),
    ):
        async with h.client(h.script(200), pipeline, client=client) as one:
            await h.get(one)


@in_every_client
async def test_a_request_without_timeouts_is_sent_after_one_with_them(h: Http) -> None:
    """A transport around ours may drop them; such a request has no limits."""
    transport = h.transport(h.script(200), Timeout(20))
    every = dict.fromkeys(("connect", "read", "write", "pool"), 5.0)
    request = h.library.Request("GET", URL, extensions={"timeout": every})
    await h.handle(transport, request)
    with pytest.warns(
        resilient.ResilientWarning, match=r"connect timeout \(no limit\)"
    ):
        response = await h.handle(transport, h.library.Request("GET", URL))
    assert 200 == response.status_code


@in_every_client
async def test_the_warning_points_at_the_callers_line(h: Http) -> None:
    """Past the client, whichever of its methods it is."""
    for verb in (h.get, h.open):
        pipeline = Timeout(30)
        async with h.client(h.script(200), pipeline, client={"timeout": None}) as one:
            with pytest.warns(resilient.ResilientWarning) as caught:
                await verb(one)
        assert families.__file__ == caught[0].filename
    async with h.client(h.script(200), Timeout(30), client={"timeout": None}) as one:
        with pytest.warns(resilient.ResilientWarning) as caught:
            async with h.stream(one):
                pass
    assert families.__file__ == caught[0].filename


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_reported(
    h: Http, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Once: a client that is given a transport does not look there."""
    monkeypatch.setenv(name, "http://proxy.test:3128")
    transport = h.transport()
    with pytest.warns(resilient.ResilientWarning) as caught:
        transport.__enter__().__exit__()
    transport.__enter__().__exit__()
    assert __file__ == caught[0].filename
    assert [
        "the environment names a proxy, which a client that is given a transport"
        " does not use: give the transport inner=HTTPTransport(proxy=…), or"
        " `mounts` to the client"
    ] == [str(one.message) for one in caught]


def test_a_proxy_is_not_reported_where_it_changes_nothing(
    h: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is named, or the transport that sends was chosen by the user."""
    monkeypatch.setenv("NO_PROXY", "localhost")
    with h.transport():
        pass
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    with h.transport(h.script(200)):
        pass
    monkeypatch.setenv("NO_PROXY", "*")
    with h.transport():
        pass


@in_every_client
async def test_a_retry_alone_needs_no_conditions(h: Http) -> None:
    """The transport judges; for one request's own pipeline, too."""
    retry = Retry(backoff=constant(1.0))
    script = h.script(503, 200)
    async with h.client(script, retry) as client:
        assert 200 == (await h.get(client)).status_code
    script = h.script(503, 200)
    async with h.client(script, Pipeline()) as client:
        response = await h.get(client, extensions={"resilient": retry})
    assert (200, 2) == (response.status_code, len(script.sent))


# -- Origins, limiters, one request's own pipeline


@in_every_client
async def test_the_key_of_a_call_is_its_origin(h: Http) -> None:
    """Scheme, host and port, and no default port; its name has the method."""
    seen: list[tuple[Any, str]] = []

    class CallObserver(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            seen.append((call.key, call.name))
            outcome: Outcome = await proceed(call)
            return outcome

    async with h.client(h.script(200), CallObserver()) as client:
        await h.get(client, "https://user:secret@a.test:443/path?secret=1")
        await h.post(client, "http://a.test:8080/")
        await h.get(client, "http://bücher.test/")
        await h.get(client, "https://[::1]/")
        await h.get(client, "https://[::1]:8443/")
    assert [
        ("https://a.test", "GET https://a.test"),
        ("http://a.test:8080", "POST http://a.test:8080"),
        ("http://xn--bcher-kva.test", "GET http://xn--bcher-kva.test"),
        ("https://[::1]", "GET https://[::1]"),
        ("https://[::1]:8443", "GET https://[::1]:8443"),
    ] == seen


@in_every_client
async def test_the_server_teaches_the_limiter_of_its_origin(h: Http) -> None:
    """In both families of headers, units by name."""
    for headers in (
        {
            "RateLimit_Policy": '"r";q=9;w=60, "t";q=9;w=60;qu="tokens",'
            ' "u";q=9;w=9;qu="bytes"',
            "RateLimit": '"r";r=2;t=60, "t";r=30;t=60, "u";r=0;t=9',
        },
        {
            "x_ratelimit_remaining_requests": 2,
            "x_ratelimit_reset_requests": "1m0s",
            "x_ratelimit_remaining_tokens": 30,
            "x_ratelimit_reset_tokens": "60000ms",
            "x_ratelimit_remaining_images": 0,
            "x_ratelimit_reset_images": "9s",
        },
    ):
        limiters: dict[str, RateLimiter] = {}

        def for_origin(
            origin: str, limiters: dict[str, RateLimiter] = limiters
        ) -> RateLimiter:
            limits = [Limit(1000, per=60), Limit(9000, per=60, unit="tokens")]
            limiters[origin] = RateLimiter(limits=limits)
            return limiters[origin]

        script = h.script(h.answer(200, **headers), 200)
        async with h.client(script, h.ours.per_origin(for_origin)) as client:
            await h.get(client, "https://a.test")
            await h.get(client, "https://b.test")
        assert 2.0 == limiters["https://a.test"].available("requests")
        assert 30.0 == limiters["https://a.test"].available("tokens")
        assert 999.0 == limiters["https://b.test"].available("requests")


@in_every_client
async def test_a_window_that_is_over_teaches_nothing(h: Http) -> None:
    """A reset of 0 seconds."""
    limiter = RateLimiter(100, per=60)
    response = h.answer(200, x_ratelimit_remaining="0", x_ratelimit_reset="0")
    async with h.client(h.script(response), limiter) as client:
        await h.get(client)
    assert 99.0 == limiter.available()


@in_every_client
async def test_a_failing_response_teaches_too(h: Http) -> None:
    """And the limiter that stands in another attempt as well."""
    limiter = RateLimiter(100, per=60)
    response = h.answer(429, RateLimit='"a";r=0;t=5')
    script = h.script(response, 200)
    async with h.client(script, h.retry(limiter)) as client:
        await h.get(client)
    assert [0.0, 5.0] == script.times


@in_every_client
async def test_every_answer_teaches_a_limiter_that_stands_around(h: Http) -> None:
    """Also the last of several attempts, each once."""
    for inside in (True, False):
        learnt: list[float] = []

        class Learns(RateLimiter):
            def learn(self, remaining: float, *args: Any, **kw: Any) -> None:
                learnt.append(remaining)  # noqa: B023
                super().learn(remaining, *args, **kw)

        limiter = Learns(100, per=60)
        outside = Pipeline(limiter, h.retry(), intended=True)
        pipeline = h.retry(limiter) if inside else outside
        script = h.script(
            h.answer(503, RateLimit='"a";r=9;t=60'),
            h.library.ReadError("down"),
            h.answer(200, RateLimit='"a";r=7;t=58'),
        )
        async with h.client(script, pipeline) as client:
            await h.get(client)
        assert [9.0, 7.0] == learnt


@in_every_client
async def test_one_request_may_have_a_pipeline_of_its_own(h: Http) -> None:
    """Or none."""
    for override, sent in (
        (False, 1),
        (None, 1),
        (h.retry(attempts=2), 2),
        (Retry(on=h.ours.http_verdict, backoff=constant(0), attempts=4), 4),
    ):
        script = h.script(503)
        async with h.client(script, h.retry()) as client:
            response = await h.get(client, extensions={"resilient": override})
        assert 503 == response.status_code
        assert sent == len(script.sent), override
    script = h.script(h.library.ReadError("down"))
    async with h.client(script, h.retry()) as client:
        extensions = {"resilient": False}
        await h.error(h.library.ReadError, h.get, client, extensions=extensions)
    assert 1 == len(script.sent)


@in_every_client
async def test_the_transports_own_pipeline_may_be_named(h: Http) -> None:
    """It is what it would have been."""
    script = h.script(503)
    pipeline = h.retry()
    async with h.client(script, pipeline) as client:
        await h.get(client, extensions={"resilient": pipeline})
    assert 3 == len(script.sent)


@in_every_client
async def test_any_other_override_is_refused(h: Http) -> None:
    """Before anything is sent."""
    script = h.script(200)
    async with h.client(script) as client:
        for override in (True, 3, "off"):
            extensions = {"resilient": override}
            error = await h.error(TypeError, h.get, client, extensions=extensions)
            assert (
                "`extensions['resilient']` must be a Pipeline, a policy or False,"
                f" got {override!r}"
            ) == str(error)
    assert [] == script.sent


@in_every_client
async def test_a_pipeline_that_is_passed_is_used_exactly_as_built(h: Http) -> None:
    """Its state is its own, shared by every origin unless it says otherwise."""
    breaker = CircuitBreaker(minimum_calls=2)
    pipeline = Pipeline(breaker, classify=h.ours.http_verdict)
    transport = h.transport(h.script(503), pipeline)
    assert pipeline is transport.pipeline
    async with h.bare(transport) as client:
        await h.get(client, "https://a.test")
        await h.get(client, "https://b.test")
        await h.error(h.ours.CircuitOpenError, h.get, client, "https://c.test")


@in_every_client
async def test_a_function_may_look_at_its_call_from_the_wire(h: Http) -> None:
    """The inner transport runs inside the call; the caller's code does not."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        call = current_call()
        seen.append((call.name, call.attempt, call.args[0].url == request.url))
        return h.answer(503 if call.attempt == 1 else 200)

    async with h.client(h.script(look), h.retry()) as client:
        await h.get(client)
        with pytest.raises(LookupError):
            current_call()
    name = "GET https://api.test"
    assert [(name, 1, True), (name, 2, True)] == seen


@in_every_client
async def test_policies_may_be_switched_off_for_tests(h: Http) -> None:
    """The request is sent, once, as it is."""
    from resilient import testing

    script = h.script(503)
    async with h.client(script, h.retry()) as client:
        with testing.off():
            assert 503 == (await h.get(client)).status_code
    assert 1 == len(script.sent)


# -- Answers in the server's place


@in_every_client
async def test_a_fallback_may_answer_with_a_response(h: Http) -> None:
    """For a failing response, an error or a rejection; the other is closed."""
    bulkhead = Bulkhead(1)
    for step in (h.response(503, b"down"), h.library.ReadError("down")):
        h.log.clear()
        spare = h.library.Response(203, content=b"spare")
        pipeline = Pipeline(
            Fallback(function=lambda error: spare),  # noqa: B023
            bulkhead,
            classify=h.ours.http_verdict,
        )
        async with h.client(h.script(step), pipeline) as client:
            response = await h.get(client)
        assert spare is response
        assert b"spare" == response.content
        if isinstance(step, h.library.Response):
            assert "closed" in [event for event, _ in h.log]
        assert 0 == bulkhead.in_use


@in_every_client
async def test_a_fallback_that_answers_with_anything_else_is_refused(h: Http) -> None:
    """A client could not use it."""
    for value in (42, None):
        for step in (h.response(503, b"down"), h.library.ReadError("down")):
            pipeline = Pipeline(Fallback(value), classify=h.ours.http_verdict)
            async with h.client(h.script(step), pipeline) as client:
                error = await h.error(TypeError, h.get, client)
            assert (
                "a policy answered 'GET https://api.test' with an object of"
                f" {type(value)}: a transport returns {h.family}.Response"
            ) == str(error)
    assert 2 == [event for event, _ in h.log].count("closed")


MEANINGLESS = {
    "Hedge()": (
        Hedge,
        " may run its function several times at once, which a transport cannot:"
        " use a function",
    ),
    "Coalesce()": (
        Coalesce,
        " may give one answer to several calls, which a response that can be read"
        " once cannot be: put it around a function",
    ),
    "StaleCache(10.0, 10.0)": (
        lambda: StaleCache(10, 10),
        " may give one answer to several calls, which a response that can be read"
        " once cannot be: put it around a function",
    ),
    "Timeout(20.0, abandon=True)": (
        lambda: Timeout(20, abandon=True),
        " runs plain functions in threads; it has no meaning for requests: leave"
        " out abandon=True there",
    ),
}


@pytest.mark.parametrize("text", MEANINGLESS)
def test_a_policy_that_has_no_meaning_for_requests_is_refused(
    h: Http, text: str
) -> None:
    """At once; also inside others, and as one request's own pipeline."""
    make, reason = MEANINGLESS[text]
    policies: list[Policy[Any]] = [make(), Pipeline(Pipeline(make()))]
    for policy in policies:
        with pytest.raises(TypeError) as caught:
            h.transport(None, policy)
        assert text + reason == str(caught.value)
        with h.library.Client(transport=h.transport(script := h.script(200))) as client:
            with pytest.raises(TypeError) as caught:
                client.get(URL, extensions={"resilient": policy})
        assert text + reason == str(caught.value)
        assert [] == script.sent


@in_every_client
async def test_one_that_is_made_for_a_key_is_refused_then(h: Http) -> None:
    """It is not known before."""
    for make, _ in MEANINGLESS.values():
        pipeline = PerKey(lambda key: make())  # noqa: B023
        async with h.client(script := h.script(200), pipeline) as client:
            await h.error(TypeError, h.get, client)
        assert [] == script.sent


@in_sync_clients
async def test_a_policy_of_the_other_colour_is_refused(h: Http) -> None:
    """When the transport is first used, or the override."""

    async def spare(error: Any) -> Any:
        """Never runs: a sync transport cannot await it."""

    fallback = Fallback(function=spare)
    script = h.script(200)
    transport = h.transport(script, fallback)
    request = h.library.Request("GET", URL)
    await h.error(TypeError, h.handle, transport, request)
    async with h.client(script) as client:
        await h.error(TypeError, h.get, client, extensions={"resilient": fallback})
    assert [] == script.sent


@in_sync_clients
async def test_a_policy_that_awaits_is_refused_in_a_sync_client(h: Http) -> None:
    """There is no loop to wait with."""
    import asyncio

    class Waits(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            await asyncio.sleep(0)
            outcome: Outcome = await proceed(call)
            return outcome

    async with h.client(h.script(200), Waits()) as client:
        error = await h.error(RuntimeError, h.get, client)
    assert (
        "a policy awaited NoneType in a synchronous call: a policy may wait"
        " through `call.runtime` only"
    ) == str(error)


@in_sync_clients
async def test_a_policy_may_go_on_though_it_could_not_wait(h: Http) -> None:
    """The refusal is an error in its own code."""
    import asyncio

    class Insists(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            with suppress(RuntimeError):
                await asyncio.sleep(0)
            outcome: Outcome = await proceed(call)
            return outcome

    async with h.client(h.script(200), Insists()) as client:
        assert 200 == (await h.get(client)).status_code


@in_every_client
async def test_a_policy_that_is_no_coroutine_leaves_the_request_as_it_was(
    h: Http,
) -> None:
    """Its bug reaches the caller before anything was sent."""

    class Broken(Policy[Any]):
        def around(self, proceed: Any, call: Any) -> Any:
            raise ZeroDivisionError

    script = h.script(200)
    request = h.library.Request("POST", URL, stream=h.body(b"once"))
    body, extensions = request.stream, request.extensions
    await h.error(ZeroDivisionError, h.handle, h.transport(script, Broken()), request)
    assert body is request.stream
    assert extensions is request.extensions
    assert [] == script.sent


# -- Construction


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (
            {"pipeline": 3},
            TypeError,
            "`pipeline` must be a Pipeline or a policy, got 3",
        ),
        (
            {"inner": 3},
            TypeError,
            "`inner` must be a transport of {family}, got 3",
        ),
        (
            {"retry_unsafe": 1},
            TypeError,
            "`retry_unsafe` must be True or False, got 1",
        ),
        (
            {"idempotency_key": "x"},
            TypeError,
            "`idempotency_key` must be True or False, got 'x'",
        ),
        (
            {"read_body": "always"},
            TypeError,
            "`read_body` must be \"auto\", True or False, got 'always'",
        ),
        ({"max_body": -1}, ValueError, "`max_body` must be >= 0, got -1"),
        (
            {"max_body": 1.5},
            TypeError,
            "`max_body` must be an int, got 1.5",
        ),
        *(
            (
                {"deadline_header": header},
                TypeError,
                "`deadline_header` must be a name and a unit, as in"
                f' ("X-Request-Timeout-Ms", "ms") or (…, "s"), got {header!r}',
            )
            for header in ("X", ("X",), ("X", "h"), (1, "s"), ["X", "s"], ("X", "s", 1))
        ),
    ],
)
def test_bad_arguments_are_refused_at_once(
    h: Http, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """By name, rule and value."""
    with pytest.raises(kind) as caught:
        h.ours.ResilientTransport(**arguments)
    assert text.format(family=h.family) == str(caught.value)


def test_a_transport_of_the_other_family_is_refused(h: Http) -> None:
    """Its responses would be none to this client."""
    other = Http(FAMILIES[1 - FAMILIES.index(h.family)], "sync")
    inner = other.library.MockTransport(lambda request: None)
    with pytest.raises(TypeError) as caught:
        h.transport(inner)
    assert f"`inner` must be a transport of {h.family}, got {inner!r}" == str(
        caught.value
    )


def test_a_transport_of_the_other_colour_is_refused(h: Http) -> None:
    """When the client first uses it, before anything is sent."""
    library = h.library
    request = library.Request("GET", URL)
    inner = library.AsyncHTTPTransport()
    with pytest.raises(TypeError) as caught:
        h.transport(inner).handle_request(request)
    assert (
        f"`inner` must be an instance of {h.family}.BaseTransport for this client,"
        f" got {inner!r}"
    ) == str(caught.value)
    inner = library.HTTPTransport()
    with pytest.raises(TypeError) as caught:
        h.transport(inner).handle_async_request(request).send(None)
    assert (
        f"`inner` must be an instance of {h.family}.AsyncBaseTransport for this"
        f" client, got {inner!r}"
    ) == str(caught.value)


def test_its_repr_reads_like_the_call_that_made_it(h: Http) -> None:
    """With what was given."""
    script = h.script(200)
    assert "ResilientTransport(Timeout(20.0))" == repr(h.transport(None, Timeout(20.0)))
    assert f"ResilientTransport(Timeout(20.0), inner={script!r})" == repr(
        h.transport(script, Timeout(20.0))
    )


@in_every_client
async def test_it_is_opened_and_closed_with_its_client(h: Http) -> None:
    """The inner transport is, once each."""
    script = h.script(200)
    async with h.client(script) as client:
        assert (1, 0) == (script.entered, script.closed)
        await h.get(client)
    assert (1, 1) == (script.entered, script.closed)


@in_every_client
async def test_closing_alone_closes_the_inner_transport(h: Http) -> None:
    """Of a client that was never entered, or never used."""
    script = h.script(200)
    transport = h.transport(script)
    await h.of(transport.close() if h.is_sync else transport.aclose())
    assert (0, 1) == (script.entered, script.closed)
    await h.handle(transport, h.library.Request("GET", URL))
    await h.of(transport.close() if h.is_sync else transport.aclose())
    assert (0, 2) == (script.entered, script.closed)


@in_every_client
async def test_closing_one_without_an_inner_transport_is_nothing(h: Http) -> None:
    """It was never made."""
    transport = h.transport()
    await h.of(transport.close() if h.is_sync else transport.aclose())


@in_every_client
async def test_the_default_inner_transport_is_the_clients_own(h: Http) -> None:
    """Made when it is first used, and kept."""
    made: list[Any] = []
    transport = h.transport()
    assert None is transport.inner
    for _ in range(2):
        inner = transport._inners.get("sync" if h.is_sync else "async")
        assert inner is (made[0] if made else None)
        if h.is_sync:
            with transport:
                made.append(transport._inners["sync"])
        else:
            async with transport:
                made.append(transport._inners["async"])
    kind = h.library.HTTPTransport if h.is_sync else h.library.AsyncHTTPTransport
    assert kind is type(made[0])
    assert made[0] is made[1]


@in_async_clients
async def test_one_transport_serves_both_kinds_of_client(h: Http) -> None:
    """With an inner one that does, as the library's own mock transport."""
    inner = h.library.MockTransport(lambda request: h.library.Response(200))
    transport = h.transport(inner, Pipeline())
    async with h.bare(transport) as client:
        assert 200 == (await h.get(client)).status_code
    with h.library.Client(transport=transport) as client:
        assert 200 == client.get(URL).status_code


def test_it_is_a_transport_to_type_checkers_and_clients(h: Http) -> None:
    """Both of them."""
    bases = (h.library.BaseTransport, h.library.AsyncBaseTransport)
    assert all(issubclass(h.ours.ResilientTransport, base) for base in bases)


# -- Cancellation, interruption, garbage


class Interrupted(BaseException):
    """As Ctrl-C, which pytest would take for its own."""


@in_every_client
async def test_an_interruption_gives_everything_back(h: Http) -> None:
    """It is neither recorded nor retried."""
    bulkhead = Bulkhead(1)
    breaker = CircuitBreaker(consecutive_failures=1, minimum_calls=1)
    for step in (Interrupted(), h.response(200, b"a", Interrupted(), length=9)):
        script = h.script(step)
        async with h.client(script, h.retry(breaker, bulkhead)) as client:
            await h.error(Interrupted, h.get, client)
        assert 1 == len(script.sent)
        assert 0 == bulkhead.in_use
        assert resilient.CircuitState.CLOSED is breaker.state
    assert ("closed", 0.0) in h.log


@in_every_client
async def test_a_policy_may_answer_for_an_interruption(h: Http) -> None:
    """As a timeout does for its own; what it answers is the outcome."""

    class Answers(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            try:
                outcome: Outcome = await proceed(call)
            except Interrupted:
                return Outcome(h.library.Response(203))
            return outcome

    for step in (Interrupted(), h.response(200, b"a", Interrupted(), length=9)):
        async with h.client(h.script(step), Answers()) as client:
            assert 203 == (await h.get(client)).status_code


async def cancel_after(h: Http, seconds: float, call: Any) -> None:
    """Run a coroutine function, and cancel it from outside after a while."""
    import anyio

    async def run() -> None:
        await call()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await h.sleep(seconds)
        group.cancel_scope.cancel()


@in_async_clients
async def test_a_cancelled_exchange_leaves_nothing(h: Http) -> None:
    """At any moment: on the wire, in the body, draining, asleep, in a queue."""

    class Slow(h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> Any:
            h.note("open")
            for _ in range(4):
                await h.sleep(0.25)
                yield b"x"

        async def aclose(self) -> None:
            h.note("closing")
            await h.sleep(0.25)
            h.note("close")

    def answer(length: int | None = 4) -> Any:
        async def step(request: Any) -> Any:
            await h.sleep(0.5)
            headers = {} if length is None else {"Content-Length": str(length)}
            status = 200 if len(script.sent) == 3 else 503
            return h.library.Response(status, headers=headers, stream=Slow())

        return step

    for length in (4, None):
        for read_body in ("auto", False):
            for tick in range(1, 60, 2):
                h.log.clear()
                script = h.script(answer(length))
                bulkhead = Bulkhead(1)
                inside: Any = Pipeline(PerKey(lambda key: bulkhead), Timeout(10))  # noqa: B023
                pipeline = Pipeline(Timeout(60), h.retry(inside))
                async with h.client(script, pipeline, read_body=read_body) as client:

                    async def fetch() -> None:
                        async with h.stream(client) as response:
                            await h.read(response)

                    await cancel_after(h, tick * 0.125, fetch)
                assert 0 == bulkhead.in_use, (length, read_body, tick)
                events = [event for event, _ in h.log]
                # NB: a streamed response is closed as by a bare client.
                done = "close" if (length, read_body) == (4, "auto") else "closing"
                assert events.count("open") <= events.count(done), (tick, h.log)


@in_async_clients
async def test_a_cancellation_at_any_step_leaves_nothing(h: Http) -> None:
    """Turn by turn of the loop, as long as the exchange is ours."""
    import anyio

    opened: list[Any] = []
    closed: list[Any] = []

    class Slow(h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> Any:
            opened.append(self)
            await h.sleep(0)
            yield b"x"
            await h.sleep(0)
            yield b"y"

        async def aclose(self) -> None:
            await h.sleep(0)
            await h.sleep(0)
            closed.append(self)

    async def step(request: Any) -> Any:
        await h.sleep(0)
        status = 200 if len(script.sent) == 3 else 503
        headers = {"Content-Length": "2"}
        return h.library.Response(status, headers=headers, stream=Slow())

    finished = turns = 0
    while finished < 5:
        turns += 1
        script = h.script(step)
        opened.clear()
        closed.clear()
        bulkhead = Bulkhead(1)
        read_body = turns % 2 == 0
        pipeline = Pipeline(
            Timeout(60), h.retry(bulkhead, Timeout(50), backoff=constant(0))
        )
        transport = h.transport(script, pipeline, read_body=read_body)

        async def fetch(transport: Any = transport) -> None:
            nonlocal finished
            request = h.library.Request("GET", URL)
            response = await transport.handle_async_request(request)
            finished += 1
            with anyio.CancelScope(shield=True):
                await response.aread()
                await response.aclose()

        async with anyio.create_task_group() as group:
            group.start_soon(fetch)
            for _ in range(turns):
                await h.sleep(0)
            group.cancel_scope.cancel()
        assert 0 == bulkhead.in_use, turns
        assert opened == closed, turns
    assert turns > 10


@in_async_clients
async def test_a_body_that_was_read_is_closed_even_if_cancelled(h: Http) -> None:
    """Also one that is closed once only, and half if that is cut short."""
    import anyio

    closed: list[Any] = []

    class Once(h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        closing = False

        async def __aiter__(self) -> Any:
            yield b"x"
            scope.cancel()

        async def aclose(self) -> None:
            if not self.closing:
                self.closing = True
                await h.sleep(0)
                closed.append(self)

    script = h.script(h.library.Response(200, stream=Once()))
    transport = h.transport(script, Pipeline(), read_body=True)
    with anyio.CancelScope() as scope:
        request = h.library.Request("GET", URL)
        response = await transport.handle_async_request(request)
        assert b"x" == b"".join(response.stream)
    assert 1 == len(closed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("values", "length"),
    [([], None), (["12"], 12), (["2", "2"], None), (["9" * 5000], None)],
)
def test_a_length_is_one_number(
    family: str, values: list[str], length: int | None
) -> None:
    """What a server says twice, or absurdly, is not believed."""
    library: Any = importlib.import_module(family)
    headers = [("Content-Length", value) for value in values]
    response = library.Response(200, headers=headers)
    assert length == _length(_fields(response))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("read_body", [True, False])
def test_a_pending_request_that_is_thrown_away_gives_everything_back(
    family: str, read_body: bool
) -> None:
    """By a loop that shuts down, or the collector: nothing can be awaited."""
    h = Http(family, "asyncio")

    class Suspends:
        def __await__(self) -> Iterator[None]:
            yield

    class Slow(h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> Any:
            await Suspends()
            yield b"x"

    def on_the_wire() -> Any:
        async def step(request: Any) -> Any:
            await Suspends()

        return step

    def in_the_body() -> Any:
        async def step(request: Any) -> Any:
            return h.library.Response(200, stream=Slow())

        return step

    def in_the_closing() -> Any:
        class Stuck(Slow):
            async def aclose(self) -> None:
                await Suspends()

        async def step(request: Any) -> Any:
            return h.library.Response(503, stream=Stuck())

        return step

    for make in (on_the_wire, in_the_body, in_the_closing):

        async def main(h: Http, make: Any = make) -> None:
            bulkhead = Bulkhead(1)
            pipeline = h.retry(bulkhead, backoff=constant(0))
            transport = h.transport(h.script(make()), pipeline, read_body=read_body)
            request = h.library.Request("GET", URL)
            pending = transport.handle_async_request(request)
            if make is in_the_body and not read_body:
                pending.close()
            else:
                # NB: closed from another context, as the collector does.
                copy_context().run(pending.send, None)
                assert 1 == bulkhead.in_use
                pending.close()
            assert 0 == bulkhead.in_use
            with pytest.raises(LookupError):
                current_call()

        h.run(main)


@in_every_client
async def test_a_failing_request_leaves_nothing_to_the_collector(h: Http) -> None:
    """Retried, rejected, timed out, refused, its body broken off: no cycles."""
    library = h.library

    class Fresh:
        """Makes an error anew: one that is raised again would grow."""

        def __init__(self, kind: Any) -> None:
            self.kind = kind

        async def __call__(self, request: Any) -> Any:
            raise self.kind("down")

    async def broken(request: Any) -> Any:
        return h.response(200, b"a", library.ReadError, length=9)

    async def failing(request: Any) -> Any:
        return h.response(503, b"a")

    async def slow(request: Any) -> Any:
        await h.sleep(10)
        raise library.ReadTimeout("slow")

    def pipeline() -> Any:
        return Pipeline(
            Timeout(60),
            h.retry(
                CircuitBreaker(minimum_calls=1000),
                RateLimiter(1000),
                Bulkhead(5),
                Timeout(10),
            ),
        )

    async def one(transport: Any) -> None:
        try:
            await h.handle(transport, library.Request("GET", URL))
        except Exception:
            pass

    for step in (
        Fresh(library.ReadError),
        Fresh(library.UnsupportedProtocol),
        Fresh(resilient.BulkheadFullError),
        broken,
        failing,
        slow,
    ):
        transport = h.transport(h.script(step, reads=False), pipeline())
        for warm in (False, True):
            if warm:
                with no_garbage():
                    transport.inner.requests.clear()
                    transport.inner.sent.clear()
                    await one(transport)
            else:
                await one(transport)


@in_every_client
async def test_a_response_that_is_read_leaves_nothing_to_the_collector(h: Http) -> None:
    """It dies with its last reference, and what it held goes back."""
    bulkhead = Bulkhead(2)

    async def step(request: Any) -> Any:
        return h.library.Response(200, stream=h.body(b"a", b"b", log=False))

    transport = h.transport(
        h.script(step, reads=False), Pipeline(Timeout(60), bulkhead)
    )

    async def one() -> None:
        response = await h.handle(transport, h.library.Request("GET", URL))
        await h.read(response)

    await one()
    transport.inner.requests.clear()
    transport.inner.sent.clear()
    with no_garbage():
        await one()
        transport.inner.requests.clear()
        transport.inner.sent.clear()
    assert 0 == bulkhead.in_use


@in_every_client
async def test_a_response_that_is_not_read_leaves_nothing_either(h: Http) -> None:
    """What it held goes back with its last reference, and at once."""
    bulkhead = Bulkhead(1)

    async def step(request: Any) -> Any:
        return h.library.Response(200, stream=h.body(b"a", log=False))

    transport = h.transport(h.script(step, reads=False), Pipeline(bulkhead))
    await h.handle(transport, h.library.Request("GET", URL))
    transport.inner.requests.clear()
    transport.inner.sent.clear()
    with no_garbage():
        response = await h.handle(transport, h.library.Request("GET", URL))
        transport.inner.requests.clear()
        transport.inner.sent.clear()
        assert 1 == bulkhead.in_use
        del response
        assert 0 == bulkhead.in_use


# -- The client around it works as with a bare transport


def transports(h: Http, script: Any) -> Iterator[Any]:
    """A bare transport, one with no policies, and the standard one."""
    yield script
    yield h.transport(script, Pipeline())
    yield h.transport(script)


@in_every_client
async def test_redirects_are_followed_hop_by_hop(h: Http) -> None:
    """Each a request of its own, with retries of its own."""
    there = f"{URL}/there"

    async def step(request: Any) -> Any:
        if str(request.url) == URL:
            return h.library.Response(302, headers={"Location": there})
        return h.library.Response(200, content=b"there")

    for transport in transports(h, h.script(step)):
        async with h.bare(transport, follow_redirects=True) as client:
            response = await h.get(client)
        assert (200, b"there") == (response.status_code, response.content)
        assert [302] == [one.status_code for one in response.history]
        assert there == str(response.request.url)
    moved = h.library.Response(302, headers={"Location": there})
    script = h.script(503, moved, 503, 200)
    async with h.client(script, client={"follow_redirects": True}) as client:
        assert 200 == (await h.get(client)).status_code
    assert [URL, URL, there, there] == [one.url for one in script.sent]


@in_every_client
async def test_a_redirect_that_keeps_the_body_sends_it_again(h: Http) -> None:
    """307 and 308, as a bare client does."""
    there = f"{URL}/there"

    async def step(request: Any) -> Any:
        if str(request.url) == URL:
            return h.library.Response(307, headers={"Location": there})
        return h.library.Response(200)

    for transport in transports(h, script := h.script(step)):
        async with h.bare(transport, follow_redirects=True) as client:
            await h.post(client, content=b"body")
        assert [b"body", b"body"] == [one.body for one in script.sent[-2:]]


@in_every_client
async def test_a_body_that_an_inner_transport_has_read_stays_readable(h: Http) -> None:
    """A bare client replaces the stream by its bytes, and so may redirect it."""
    there = f"{URL}/there"
    bodies: list[bytes] = []

    def step(request: Any) -> Any:
        bodies.append(request.content)
        if str(request.url) == URL:
            return h.library.Response(307, headers={"Location": there})
        return h.library.Response(200)

    def chunks() -> Iterator[bytes]:
        yield b"bo"
        yield b"dy"

    async def achunks() -> Any:
        for chunk in chunks():
            yield chunk

    for transport in transports(h, h.library.MockTransport(step)):
        bodies.clear()
        content = chunks() if h.is_sync else achunks()
        async with h.bare(transport, follow_redirects=True) as client:
            assert 200 == (await h.post(client, content=content)).status_code
        assert [b"body", b"body"] == bodies


@in_every_client
async def test_an_auth_flow_goes_through(h: Http) -> None:
    """Digest: 401 with a challenge, then the answer to it."""
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'

    async def step(request: Any) -> Any:
        if "authorization" not in request.headers:
            return h.library.Response(401, headers={"www-authenticate": challenge})
        assert request.headers["authorization"].startswith("Digest ")
        return h.library.Response(200)

    for transport in transports(h, script := h.script(step)):
        script.sent.clear()
        async with h.bare(transport, auth=h.library.DigestAuth("u", "p")) as client:
            response = await h.post(client, json={"a": 1})
        assert 200 == response.status_code
        assert 2 == len(script.sent)
        assert script.sent[0].body == script.sent[1].body
    # A failure in between is retried.
    script = h.script(503, step, 503, step)
    async with h.client(
        script, client={"auth": h.library.DigestAuth("u", "p")}
    ) as client:
        assert 200 == (await h.get(client)).status_code
    assert 4 == len(script.sent)


@in_every_client
async def test_cookies_hooks_and_mounts_work(h: Http) -> None:
    """They are the client's affair, and see one response a request."""
    for transport in transports(
        h, h.script(h.answer(503), h.answer(200, Set_Cookie="a=b"), 200)
    ):
        seen: list[str] = []

        def on_request(request: Any, seen: list[str] = seen) -> None:
            seen.append("request")

        def on_response(response: Any, seen: list[str] = seen) -> None:
            seen.append(str(response.status_code))

        async def aon_request(request: Any) -> None:
            on_request(request)

        async def aon_response(response: Any) -> None:
            on_response(response)

        hooks = {
            "request": [on_request if h.is_sync else aon_request],
            "response": [on_response if h.is_sync else aon_response],
        }
        script = getattr(transport, "inner", transport)
        script.sent.clear()
        mounts = {"all://api.test": transport}
        async with h.bare(h.script(404), mounts=mounts, event_hooks=hooks) as client:
            while not client.cookies:
                await h.get(client)
            await h.get(client)
        assert "a=b" == script.sent[-1].headers["cookie"]
        assert 3 == len(script.sent)
        bare = not isinstance(transport, h.ours.ResilientTransport) or (
            transport.pipeline.policies == ()
        )
        assert (["request", "503"] if bare else []) + [
            "request",
            "200",
            "request",
            "200",
        ] == seen


@in_every_client
async def test_a_transport_inside_a_transport_works(h: Http) -> None:
    """As a mount's, or one that was wrapped twice: retries do not multiply."""
    script = h.script(h.library.ReadError("down"))
    inner = h.transport(script, h.retry())
    async with h.client(inner, h.retry()) as client:
        error = await h.error(h.library.ReadError, h.get, client)
    assert 3 == len(script.sent)
    assert 1 == len(error.__notes__)
    breaker = CircuitBreaker(consecutive_failures=1, minimum_calls=1)
    inner = h.transport(h.script(h.library.ReadError("down")), breaker)
    async with h.client(inner, h.retry(attempts=2)) as client:
        error = await h.error(h.ours.CircuitOpenError, h.get, client)
    assert URL == str(error.request.url)


@in_every_client
async def test_a_body_passes_through_two_transports(h: Http) -> None:
    """Each holds its own until the end, and no longer."""
    outer, inner = Bulkhead(1), Bulkhead(1)
    script = h.script(503, h.response(200, b"a", b"b"))
    inside = h.transport(script, Pipeline(Timeout(50), h.retry(inner)))
    async with h.client(inside, Pipeline(Timeout(60), outer)) as client:
        response = await h.open(client)
        assert (1, 1) == (outer.in_use, inner.in_use)
        assert h.ours.Summary(2, None, None) == response.extensions["resilient"]
        assert b"ab" == await h.read(response)
    assert (0, 0) == (outer.in_use, inner.in_use)


def test_nothing_here_warns_for_nothing(h: Http) -> None:
    """A plain client with the standard transport."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with h.library.Client(transport=h.transport(h.script(200))) as client:
            assert 200 == client.get(URL).status_code
    gc.collect()
