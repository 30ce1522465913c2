"""The client around it works as with a bare transport."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

from tests.http.families import (
    URL,
    Http,
    in_every_client,
    transports,
)

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Pipeline,
    Timeout,
)


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
        assert [302] == [redirect.status_code for redirect in response.history]
        assert there == str(response.request.url)
    moved = h.library.Response(302, headers={"Location": there})
    script = h.script(503, moved, 503, 200)
    async with h.client(script, client={"follow_redirects": True}) as client:
        assert 200 == (await h.get(client)).status_code
    assert [URL, URL, there, there] == [request.url for request in script.sent]


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
        assert [b"body", b"body"] == [request.body for request in script.sent[-2:]]


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
