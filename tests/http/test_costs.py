"""A limiter that learns from headers and is told what a request really cost."""

from __future__ import annotations

import gzip
import json
import logging
from typing import Any

import pytest
from tests.http.families import URL, Http, in_every_client

from resilient import Limit, Pipeline, RateLimiter

LIMITS = [Limit(60, per=60), Limit(6000, per=60, unit="tokens")]
COST = {"requests": 1, "tokens": 800}


def limiter() -> RateLimiter:
    """Requests and tokens a minute, taken together."""
    return RateLimiter(limits=LIMITS, cost=COST, max_wait=None)


def usage(response: Any) -> dict[str, float] | None:
    """What an LLM's answer says."""
    used = response.json().get("usage")
    return None if used is None else {"tokens": used["total_tokens"]}


def said(tokens: int | None) -> bytes:
    """An answer, with what it cost if that is known."""
    return json.dumps(
        {} if tokens is None else {"usage": {"total_tokens": tokens}}
    ).encode()


@in_every_client
async def test_a_response_says_what_its_request_cost(h: Http) -> None:
    """Also a compressed one; the client's response is as if it had not been read."""
    for tokens, left in ((212, 5788.0), (1000, 5000.0), (None, 5200.0)):
        for packed in (False, True):
            limit, body = limiter(), said(tokens)
            headers = {"content-encoding": "gzip"} if packed else {}
            wire = gzip.compress(body) if packed else body
            script = h.script(
                h.response(200, wire[:9], wire[9:], length=len(wire), headers=headers)
            )
            async with h.client(script, Pipeline(limit), cost_of=usage) as client:
                response = await h.get(client)
            assert body == response.content
            assert response.elapsed is not None
            assert left == limit.available("tokens")
            assert 59.0 == limit.available()


@in_every_client
async def test_the_servers_own_count_holds_beside_it(h: Http) -> None:
    """It has counted this request: the difference is booked before."""
    limit = limiter()
    headers = {
        "x-ratelimit-remaining-tokens": "500",
        "x-ratelimit-reset-tokens": "30s",
        "content-length": str(len(said(900))),
    }
    script = h.script(h.response(200, said(900), headers=headers))
    async with h.client(script, Pipeline(limit), cost_of=usage) as client:
        await h.get(client)
    assert 500.0 == limit.available("tokens")


@in_every_client
async def test_a_cost_that_cannot_be_known_is_not_asked_for(h: Http) -> None:
    """Of a failure, a stream, or where no limiter is."""

    def unknown(response: Any) -> None:
        raise AssertionError  # pragma: no cover

    for step in (h.answer(404), h.response(200, b"{}")):
        limit = limiter()
        async with h.client(h.script(step), Pipeline(limit), cost_of=unknown) as client:
            await h.get(client)
        assert 5200.0 == limit.available("tokens")
    async with h.client(h.script(200), Pipeline(), cost_of=unknown) as client:
        await h.get(client)


@in_every_client
async def test_a_compressed_body_is_not_decoded_beyond_max_body(h: Http) -> None:
    """Three kilobytes may be three megabytes; what is garbled is the caller's."""

    def unknown(response: Any) -> None:
        raise AssertionError  # pragma: no cover

    bomb = gzip.compress(b"0" * 3_000_000)
    for wire in (bomb, bomb[9:]):
        limit = limiter()
        headers = {"content-encoding": "gzip"}
        script = h.script(h.response(200, wire, length=len(wire), headers=headers))
        async with h.client(script, Pipeline(limit), cost_of=unknown) as client:
            async with h.stream(client) as response:
                assert wire == b"".join(await h.parts(response, "raw"))
        assert 5200.0 == limit.available("tokens")


@in_every_client
async def test_who_reads_all_bodies_has_them_decoded(h: Http) -> None:
    """Of any length, as `read_body=True` says."""
    body = b" " * 3_000_000 + said(900)
    wire = gzip.compress(body)
    headers = {"content-encoding": "gzip"}
    limit = limiter()
    script = h.script(h.response(200, wire, length=len(wire), headers=headers))
    async with h.client(
        script, Pipeline(limit), cost_of=usage, read_body=True
    ) as client:
        assert body == (await h.get(client)).content
    assert 5100.0 == limit.available("tokens")


@in_every_client
async def test_what_a_body_says_shuts_a_limiter_for_no_longer_than_a_header(
    h: Http,
) -> None:
    """An absurd cost is paid within `max_retry_after`, or when its window ends."""
    cases: list[tuple[Any, float, float]] = [
        ("token_bucket", -2000.0, 28.0),
        ("sliding_window", -800.0, 60.0),
        ("fixed_window", -800.0, 60.0),
    ]
    for algorithm, left, seconds in cases:
        limit = RateLimiter(
            limits=[Limit(6000, per=60, unit="tokens")],
            cost={"tokens": 800},
            algorithm=algorithm,
        )
        body = said(10**15)
        answers = [h.response(200, body, length=len(body)) for _ in range(2)]
        pipeline = h.retry(limit, max_retry_after=20.0)
        async with h.client(h.script(*answers), pipeline, cost_of=usage) as client:
            await h.get(client)
            assert left == limit.available("tokens")
            await h.sleep(seconds)
            assert 200 == (await h.get(client)).status_code
            assert left <= limit.available("tokens")


@in_every_client
async def test_without_a_retry_a_debt_lasts_a_minute(h: Http) -> None:
    """What a Retry has by default."""
    limit = RateLimiter(
        limits=[Limit(600, per=600, unit="tokens")], cost={"tokens": 1}, name="slow"
    )
    body = said(10**15)
    script = h.script(h.response(200, body, length=len(body)))
    async with h.client(script, Pipeline(limit), cost_of=usage) as client:
        await h.get(client)
    assert -60.0 == limit.available("tokens")


GARBAGE = [
    *("-1", "1e999", "NaN", "-Infinity", '"812"', "true", "null", "[]", "{}"),
    *('{"total_tokens": 1}', f"1{'0' * 400}", f"[{'[' * 90}{']' * 90}]", "1e301"),
]


@in_every_client
async def test_what_is_no_amount_is_not_booked(h: Http) -> None:
    """The answer is the caller's all the same."""
    for text in GARBAGE:
        limit = limiter()
        body = b'{"usage": {"total_tokens": ' + text.encode() + b"}}"
        script = h.script(h.response(200, body, length=len(body)))
        async with h.client(script, Pipeline(limit), cost_of=usage) as client:
            assert body == (await h.get(client)).content
        assert 5200.0 == limit.available("tokens")


def test_an_amount_that_is_none_is_logged_once(
    h: Http, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its type: it may be of any length."""
    caplog.set_level(logging.WARNING, "resilient")
    monkeypatch.setattr("resilient._events.listeners._logged", set[str]())
    transport = h.ours.ResilientTransport(
        Pipeline(limiter()),
        inner=h.library.MockTransport(lambda request: h.library.Response(200)),
        cost_of=lambda response: {"tokens": "x" * 9999},
    )
    with h.library.Client(transport=transport) as client:
        client.get(URL)
        client.get(URL)
    (line,) = caplog.messages
    assert line == (
        "`cost_of` returned for a unit what is no amount >= 0, of type str: such"
        " costs are not booked (logged once)"
    )


@in_every_client
async def test_a_bug_in_the_function_reaches_the_caller(h: Http) -> None:
    """It is no verdict on the server, and no cost is booked."""
    for cost_of, kind, text in (
        (lambda response: response.nothing, AttributeError, "nothing"),
        (lambda response: 7, TypeError, "`cost_of` .* returns a dict by unit or None"),
        (lambda response: {"seconds": 1}, ValueError, "no limiter .* counts `seconds`"),
    ):
        async with h.client(
            h.script(h.answer(200)), Pipeline(limiter()), cost_of=cost_of
        ) as client:
            error = await h.error(kind, h.get, client)
        assert error.args
        with pytest.raises(kind, match=text):
            raise error


def test_what_is_no_function_is_refused(h: Http) -> None:
    """When the transport is made."""
    with pytest.raises(TypeError, match="`cost_of` must be a function of the response"):
        h.ours.ResilientTransport(cost_of={"tokens": 7})
