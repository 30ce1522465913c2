"""What is sent again, after which answers and errors, and when."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.families import (
    URL,
    Http,
    in_async_clients,
    in_every_client,
    transports,
)

import resilient
from resilient import (
    Outcome,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    Timeout,
    Verdict,
    constant,
    deadline_after,
    exponential,
)

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
    assert ["mine"] * 3 == [
        request.headers["idempotency-key"] for request in script.sent
    ]


@in_every_client
async def test_a_key_of_our_own_is_the_same_for_all_attempts(h: Http) -> None:
    """Another request has another; one that needs none has none."""
    script = h.script(503, h.library.ReadError("down"), 200)
    async with h.client(script, h.retry(), idempotency_key=True) as client:
        request = client.build_request("POST", URL)
        assert 200 == (await h.send(client, request)).status_code
        keys = {request.headers["idempotency-key"] for request in script.sent}
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
        request.extensions.get("http.request.resend_count") for request in script.sent
    ]
    assert [1, 1, 1] == [request.extensions["mine"] for request in script.sent]
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
