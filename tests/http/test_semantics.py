"""Which methods and statuses are repeated, and what servers say about it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.families import FAMILIES, URL, Http, in_every_client

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    Outcome,
    Pipeline,
    Retry,
    Verdict,
    constant,
    exponential,
)
from resilient._http.semantics import FAILED, IDEMPOTENT
from resilient.httpx2 import ResilientTransport

LASTING = {501, 505, 508, 510, 511}


# -- Closed lists


def test_every_status_of_class_5xx_is_a_failure_unless_it_will_stay() -> None:
    """Registered or not; and four of class 4xx."""
    assert {408, 421, 425, 429} == {status for status in FAILED if status < 500}
    assert {*range(500, 600)} - LASTING == {
        status for status in FAILED if status >= 500
    }


def test_the_methods_are_those_of_the_registry() -> None:
    """Of WebDAV, DeltaV and CalDAV too; not those that it calls neither."""
    assert {"GET", "PROPFIND", "REPORT", "SEARCH", "QUERY", "MKCALENDAR"} < IDEMPOTENT
    assert IDEMPOTENT.isdisjoint({"POST", "PATCH", "LOCK", "CONNECT", "PURGE", "get"})
    assert all(method == method.upper() for method in IDEMPOTENT)


@in_every_client
async def test_the_lists_can_be_changed(h: Http) -> None:
    """A user's take the place of the default."""
    for method, status, sent in (
        ("GET", 404, 1),
        ("PURGE", 404, 2),
        ("PURGE", 503, 1),
        ("GET", 503, 1),
        ("PURGE", 429, 2),
    ):
        script = h.script(status, 200)
        options = {"retry_statuses": [404, 429], "retry_methods": ("PURGE",)}
        async with h.client(script, h.retry(), **options) as client:
            await h.request(client, method)
        assert sent == len(script.sent), (method, status)


@in_every_client
async def test_a_status_that_is_not_listed_opens_no_circuit(h: Http) -> None:
    """And one that is does."""
    for status, opens in ((404, True), (503, False)):
        script = h.script(status)
        pipeline = Pipeline(
            CircuitBreaker(consecutive_failures=1), classify=h.ours.http_verdict
        )
        async with h.client(script, pipeline, retry_statuses={404}) as client:
            await h.get(client)
            if opens:
                await h.error(CircuitOpenError, h.get, client)
            else:
                assert status == (await h.get(client)).status_code


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"retry_statuses": 503}, TypeError, "`retry_statuses` must be a collection"),
        ({"retry_statuses": "503"}, TypeError, "`retry_statuses` must be a collection"),
        (
            {"retry_statuses": [99]},
            ValueError,
            "`retry_statuses` must be HTTP statuses from 100 to 999, got 99",
        ),
        ({"retry_statuses": ["503"]}, ValueError, "got '503'"),
        ({"retry_methods": "GET"}, TypeError, "`retry_methods` must be a collection"),
        ({"retry_methods": 1}, TypeError, "`retry_methods` must be a collection"),
        (
            {"retry_methods": ["get"]},
            ValueError,
            "`retry_methods` must be methods in upper case, got 'get'",
        ),
        ({"retry_methods": [""]}, ValueError, "got ''"),
        ({"retry_unsafe": 1}, TypeError, "`retry_unsafe` must be True or False, got 1"),
    ],
)
def test_other_lists_are_refused(
    options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """When the transport is made."""
    with pytest.raises(kind, match=text.replace("`", ".")):
        ResilientTransport(**options)


# -- Methods that are not idempotent


@in_every_client
async def test_a_predicate_says_which_requests_may_be_repeated(h: Http) -> None:
    """A search by POST is, a payment is not."""

    def is_search(request: Any) -> bool:
        return "/search" in str(request.url)

    for path, sent in (("/search", 2), ("/pay", 1)):
        script = h.script(503, 200)
        async with h.client(script, h.retry(), retry_unsafe=is_search) as client:
            await h.post(client, f"https://api.test{path}", content=b"x")
        assert sent == len(script.sent)


@in_every_client
async def test_a_request_says_itself_whether_it_may_be_repeated(h: Http) -> None:
    """By an extension, which overrides the transport's word."""
    for word, general, sent in (
        (True, False, 2),
        (False, True, 1),
        (None, True, 2),
        (False, lambda request: True, 1),
    ):
        script = h.script(503, 200)
        async with h.client(script, h.retry(), retry_unsafe=general) as client:
            extensions = {} if word is None else {"resilient.retry_unsafe": word}
            await h.post(client, extensions=extensions)
        assert sent == len(script.sent)


@in_every_client
async def test_a_predicate_that_is_broken_is_a_mistake_of_ours(h: Http) -> None:
    """It reaches the caller before anything is sent."""

    def broken(request: Any) -> bool:
        raise ZeroDivisionError

    breaker = CircuitBreaker(consecutive_failures=1)
    for predicate, kind in ((broken, ZeroDivisionError), (lambda r: "yes", TypeError)):
        script = h.script(200)
        async with h.client(script, h.retry(breaker), retry_unsafe=predicate) as client:
            error = await h.error(kind, h.post, client)
            assert kind is ZeroDivisionError or "`retry_unsafe` must be" in str(error)
            assert 200 == (await h.get(client)).status_code
        assert 1 == len(script.sent)
    assert "closed" == breaker.state.value


@in_every_client
async def test_a_refusal_did_nothing_so_any_method_goes_again(h: Http) -> None:
    """Not after a 503, nor where the body can be sent only once."""
    for status, sent in ((421, 2), (425, 2), (429, 2), (529, 2), (503, 1), (408, 1)):
        script = h.script(status, 200)
        async with h.client(script, h.retry()) as client:
            await h.post(client, content=b"x")
        assert sent == len(script.sent), status

    def chunks() -> Any:
        yield b"x"

    async def achunks() -> Any:
        yield b"x"

    script = h.script(429, 200)
    async with h.client(script, h.retry()) as client:
        content = chunks() if h.is_sync else achunks()
        response = await h.post(client, content=content)
    assert 1 == len(script.sent)
    assert "its body can be sent only once" == response.extensions["resilient"].stopped


@in_every_client
async def test_a_server_that_refuses_works(h: Http) -> None:
    """429 opens no circuit; 503 with Retry-After and 529 do."""
    for status, opens in ((429, 0), (421, 0), (425, 0), (529, 1), (503, 1)):
        breaker = CircuitBreaker(consecutive_failures=3)
        script = h.script(h.answer(status, Retry_After="1"))
        pipeline = Pipeline(breaker, classify=h.ours.http_verdict)
        async with h.client(script, pipeline) as client:
            for _ in range(3):
                await h.get(client)
        assert opens == (breaker.state.value == "open"), status


# -- What servers say


@in_every_client
async def test_the_wait_is_obeyed_whatever_the_status(h: Http) -> None:
    """Where the verdict, a user's own, is a failure or pushback."""

    def classify(outcome: Outcome) -> Verdict:
        if outcome.value is not None and outcome.value.status_code != 204:
            return Verdict.PUSHBACK
        verdict: Verdict = h.ours.http_verdict(outcome)
        return verdict

    for status in (200, 301, 403, 429, 501, 529):
        script = h.script(h.answer(status, Retry_After="7"), 204)
        pipeline = Pipeline(Retry(backoff=constant(0.5)), classify=classify)
        async with h.client(script, pipeline) as client:
            began = h.now()
            response = await h.get(client)
        assert 204 == response.status_code
        assert [0.0, 7.0] == [at - began for at in script.times], status
        assert h.ours.Summary(2, None, None) == response.extensions["resilient"]


@in_every_client
async def test_a_classifier_sees_the_wait_and_may_set_another(h: Http) -> None:
    """``outcome.retry_after`` is read from the headers when it is asked."""
    seen: list[float | None] = []

    def classify(outcome: Outcome) -> Any:
        seen.append(outcome.retry_after)
        return Verdict.SUCCESS

    def on(outcome: Outcome) -> Any:
        return 3.0 if outcome.value.status_code == 404 else False

    script = h.script(h.answer(404, Retry_After="7"), 200)
    pipeline = Pipeline(Retry(on=on, backoff=constant(0.5)), classify=classify)
    async with h.client(script, pipeline) as client:
        began = h.now()
        await h.get(client)
    assert [7.0, None] == seen
    assert [0.0, 3.0] == [at - began for at in script.times]


@in_every_client
async def test_the_servers_word_is_a_minimum(h: Http) -> None:
    """Zero, a past date and nothing at all leave the jittered backoff."""
    for fields in (
        {"Retry_After": "0"},
        {"Retry_After": "Thu, 01 Jan 2015 00:00:00 GMT"},
        {"retry_after_ms": "0"},
        {"x_ratelimit_remaining": "0", "x_ratelimit_reset": "0"},
        {},
    ):
        for status in (429, 503):
            script = h.script(h.answer(status, **fields))
            backoff = exponential(base=1, jitter="equal", pushback_base=1)
            pipeline = Pipeline(Retry(backoff=backoff), classify=h.ours.http_verdict)
            async with h.client(script, pipeline) as client:
                await h.get(client)
            first, second, third = script.times
            assert 0.5 <= second - first <= 1.0
            assert 1.0 <= third - second <= 2.0


@in_every_client
async def test_a_server_may_say_that_it_wants_no_second_request(h: Http) -> None:
    """``x-should-retry: false``: the answer comes back, and still counts."""
    breaker = CircuitBreaker(consecutive_failures=2)
    script = h.script(h.answer(503, x_should_retry="false"))
    async with h.client(script, h.retry(breaker)) as client:
        response = await h.get(client)
        assert "the server says not to send it again" == (
            response.extensions["resilient"].stopped
        )
        assert 1 == len(script.sent)
        await h.get(client)
    assert "open" == breaker.state.value


@in_every_client
async def test_a_server_may_say_that_it_wants_another_request(h: Http) -> None:
    """``x-should-retry: true``: it did nothing, so a POST goes again too."""
    for method in ("GET", "POST"):
        for status in (409, 503):
            breaker = CircuitBreaker(consecutive_failures=9)
            script = h.script(h.answer(status, x_should_retry="true"), 200)
            async with h.client(script, h.retry(breaker)) as client:
                response = await h.request(client, method)
            assert 200 == response.status_code
            assert 2 == len(script.sent)
    # It is no word on the server's health, where the status is none.
    breaker = CircuitBreaker(consecutive_failures=1)
    script = h.script(h.answer(409, x_should_retry="true"), 200)
    async with h.client(script, h.retry(breaker)) as client:
        assert 200 == (await h.get(client)).status_code
    # Of an answer that is none of an error it is not asked.
    script = h.script(h.answer(200, x_should_retry="true"))
    async with h.client(script, h.retry()) as client:
        assert 200 == (await h.post(client)).status_code
    assert 1 == len(script.sent)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_response_without_advice_is_not_searched(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers cost as much to read as all else that is done for a request."""
    from resilient._http import response_headers

    h = Http(family, "sync")
    monkeypatch.setattr(response_headers, "read", None)
    with h.library.Client(transport=h.transport(h.script(200))) as client:
        assert 200 == client.get(URL).status_code
