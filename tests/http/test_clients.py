"""A client sees no difference: what its own tests promise holds through us.

Each scenario is played thrice: with a bare transport, with ours around it and
an empty pipeline, and with the standard one. It asserts what the client
documents, and returns what it saw; that has to be the same each time.
"""

from __future__ import annotations

import functools
import itertools
import select
import socket
import socketserver
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from tests.http.families import Http, in_async_clients, in_every_client
from tests.http.test_real import Real, every_client
from tests.loopback import Server, answer

from resilient import Hedge, Pipeline

HOME = "https://home.test"
AWAY = "https://away.test"

Wrap = Callable[[Any], Any]
Scenario = Callable[[Http, Wrap], Awaitable[Any]]


def _thrice(colours: Callable[..., Any]) -> Callable[[Scenario], Callable[..., None]]:
    def decorate(scenario: Scenario) -> Callable[..., None]:
        @colours
        @functools.wraps(scenario)
        async def test(h: Http) -> None:
            bare = await scenario(h, lambda inner: inner)
            empty = await scenario(h, lambda inner: h.transport(inner, Pipeline()))
            standard = await scenario(h, lambda inner: h.transport(inner))
            assert bare == empty
            assert bare == standard

        return test  # type: ignore[no-any-return]  # a test

    return decorate


as_with_a_bare_transport = _thrice(in_every_client)
as_with_a_bare_async_transport = _thrice(in_async_clients)


def told(response: Any) -> dict[str, Any]:
    """What a response tells of itself, and of those before it."""
    return {
        "status": response.status_code,
        "reason": response.reason_phrase,
        "version": response.http_version,
        "headers": response.headers.multi_items(),
        "content": response.content,
        "encoding": response.encoding,
        "request": asked(response.request),
        "history": [
            (redirect.status_code, str(redirect.url)) for redirect in response.history
        ],
        "next": response.next_request and asked(response.next_request),
        "closed": (response.is_closed, response.is_stream_consumed),
        "cookies": sorted(response.cookies.items()),
        "extensions": sorted(response.extensions),
        "elapsed": elapsed(response),
    }


def elapsed(response: Any) -> str:
    """Whether it is known how long a response took."""
    try:
        return type(response.elapsed).__name__
    except RuntimeError as error:
        return str(error)


def asked(request: Any) -> tuple[str, str, dict[str, str], list[str]]:
    """What a request asks for."""
    extensions = sorted(request.extensions)
    return request.method, str(request.url), dict(request.headers), extensions


def failed(error: BaseException) -> tuple[str, str]:
    """What a client's error says, but for our note."""
    return type(error).__name__, str(error)


def arrived(script: Any) -> list[tuple[Any, ...]]:
    """What came to the server."""
    return [
        (request.method, request.url, request.headers, request.body)
        for request in script.sent
    ]


def app(h: Http, answers: Callable[[Any], Any]) -> Any:
    """A server that answers by a plain function of the request."""

    async def step(request: Any) -> Any:
        return answers(request)

    return h.script(step)


def once(h: Http, *pieces: bytes) -> Any:
    """A request's body that can be sent once."""

    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return (piece for piece in pieces) if h.is_sync else chunks()


def redirects(h: Http, request: Any) -> Any:
    """A server with a few addresses that lead elsewhere."""
    path, query = request.url.path, dict(request.url.params)
    if "status" in query:
        # NB: as bytes: a server may send what is no header's text.
        where = [(b"Location", query["where"].encode())] if "where" in query else []
        return h.library.Response(int(query["status"]), headers=where)
    if path == "/for-ever":
        return h.library.Response(303, headers={"Location": "/for-ever"})
    if path == "/several":
        left = int(query.get("left", 20)) - 1
        where = f"/several?left={left}" if left else "/end"
        return h.library.Response(301, headers=[("Location", where)])
    return h.library.Response(200, text=f"{request.method} {path}")


# -- Redirects


@as_with_a_bare_transport
async def test_a_redirect_is_followed_only_if_wanted(h: Http, wrap: Wrap) -> Any:
    """Else it is a response like any other, with the request to follow it."""
    script = app(h, functools.partial(redirects, h))
    seen = []
    async with h.bare(wrap(script)) as client:
        for status in (301, 302, 303, 307, 308):
            url = f"{HOME}/to?status={status}&where=/end"
            stayed = await h.get(client, url)
            assert (status, True) == (stayed.status_code, stayed.has_redirect_location)
            by_hand = await h.send(client, stayed.next_request)
            assert "GET /end" == by_hand.text
            went = await h.get(client, url, follow_redirects=True)
            assert [status] == [response.status_code for response in went.history]
            assert f"{HOME}/end" == str(went.url)
            seen += [told(stayed), told(by_hand), told(went)]
    return seen, arrived(script)


@as_with_a_bare_transport
async def test_a_redirect_keeps_or_changes_the_method(h: Http, wrap: Wrap) -> Any:
    """303 makes a GET of anything, 301 and 302 of a POST, 307 and 308 of nothing."""
    script = app(h, functools.partial(redirects, h))
    methods = []
    async with h.bare(wrap(script), follow_redirects=True) as client:
        for status in (301, 302, 303, 307, 308):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
                url = f"{HOME}/to?status={status}&where=/end"
                response = await h.request(client, method, url)
                assert 200 == response.status_code
                methods.append((status, method, response.request.method))
    assert (303, "DELETE", "GET") in methods
    assert (301, "POST", "GET") in methods
    assert (307, "POST", "POST") in methods
    return methods, arrived(script)


@as_with_a_bare_transport
async def test_a_body_follows_its_redirect_where_the_method_stays(
    h: Http, wrap: Wrap
) -> Any:
    """And is left behind, with its headers, where it becomes a GET."""
    script = app(h, functools.partial(redirects, h))
    async with h.bare(wrap(script), follow_redirects=True) as client:
        for status in (302, 308):
            url = f"{HOME}/to?status={status}&where=/end"
            await h.post(client, url, json={"a": 1})
            await h.post(client, url, data={"a": "1"}, files={"f": b"file"})
    body = h.json({"a": 1})
    bodies = [request.body for request in script.sent]
    assert [body, b""] == bodies[:2]
    assert body == bodies[4] == bodies[5]
    assert "content-length" not in script.sent[1].headers
    # NB: a form's boundary is drawn anew.
    return [
        (
            request.method,
            request.url,
            len(request.body),
            "content-type" in request.headers,
        )
        for request in script.sent
    ]


@as_with_a_bare_transport
async def test_a_stream_cannot_follow_a_redirect(h: Http, wrap: Wrap) -> Any:
    """It was consumed: the client says so, and sends no empty one."""
    script = app(h, functools.partial(redirects, h))
    url = f"{HOME}/to?status=307&where=/end"
    async with h.bare(wrap(script), follow_redirects=True) as client:
        error = await h.error(
            h.library.StreamConsumed, h.post, client, url, content=once(h, b"once")
        )
    assert [b"once"] == [request.body for request in script.sent]
    return failed(error), arrived(script)


@as_with_a_bare_transport
async def test_a_redirect_to_another_origin_loses_its_secrets(
    h: Http, wrap: Wrap
) -> Any:
    """`Authorization` is for who was asked, and for http made https."""
    script = app(h, functools.partial(redirects, h))
    headers = {"Authorization": "secret", "X-Own": "kept", "Cookie": "c=1"}
    seen = []
    async with h.bare(wrap(script), follow_redirects=True) as client:
        for begin, where in (
            (HOME, f"{HOME}/end"),
            (HOME, f"{AWAY}/end"),
            ("http://home.test", f"{HOME}/end"),
            (HOME, f"{HOME}:8443/end"),
            (HOME, "//away.test/end"),
        ):
            url = f"{begin}/to?status=302&where={where}"
            seen.append(told(await h.get(client, url, headers=headers)))
    kept = ["authorization" in request.headers for request in script.sent[1::2]]
    assert [True, False, True, False, False] == kept
    assert "home.test" == script.sent[1].headers["host"]
    assert "away.test" == script.sent[3].headers["host"]
    return seen, arrived(script)


@as_with_a_bare_transport
async def test_a_location_may_be_anything(h: Http, wrap: Wrap) -> Any:
    """Relative, without a host, with a fragment; nonsense is the server's error."""
    script = app(h, functools.partial(redirects, h))
    seen: list[Any] = []
    async with h.bare(wrap(script), follow_redirects=True) as client:
        for where in (
            "end",
            "?a=b",
            "https:///end",
            "/end#there",
            "//",
            "https://😇/",
            "https://home.test:x/",
            "ftp://home.test/end",
        ):
            params = {"status": "302", "where": where}
            try:
                seen.append(told(await h.get(client, f"{HOME}/to", params=params)))
            except h.library.HTTPError as error:
                seen.append((failed(error), asked(error.request)))
        lost = await h.get(client, f"{HOME}/to?status=302")
        assert (302, False) == (lost.status_code, lost.has_redirect_location)
    return seen, told(lost), arrived(script)


@as_with_a_bare_transport
async def test_too_many_redirects_are_an_error(h: Http, wrap: Wrap) -> Any:
    """Of the client's own; so many are allowed, and not one more."""
    script = app(h, functools.partial(redirects, h))
    async with h.bare(wrap(script), follow_redirects=True) as client:
        response = await h.get(client, f"{HOME}/several")
        assert 20 == len(response.history)
        errors = [
            await h.error(h.library.TooManyRedirects, h.get, client, f"{HOME}/{path}")
            for path in ("several?left=21", "for-ever")
        ]
        client.max_redirects = 1
        errors.append(
            await h.error(
                h.library.TooManyRedirects, h.get, client, f"{HOME}/several?left=2"
            )
        )
    assert 21 + 21 + 21 + 2 == len(script.sent)
    return told(response), [(failed(error), asked(error.request)) for error in errors]


@as_with_a_bare_transport
async def test_the_body_of_a_redirect_is_read_or_left(h: Http, wrap: Wrap) -> Any:
    """Its stream is closed before the next request is sent."""
    h.log.clear()

    async def step(request: Any) -> Any:
        if request.url.path == "/end":
            return h.response(200, b"end")
        return h.response(302, b"moved", headers={"Location": "/end"})

    async with h.bare(wrap(h.script(step))) as client:
        response = await h.get(client, HOME, follow_redirects=True)
        async with h.stream(client, url=HOME, follow_redirects=True) as streamed:
            streamed_events = [event for event, _ in h.log][5:]
            assert b"end" == await h.read(streamed)
    assert [b"moved"] == [redirect.content for redirect in response.history]
    events = [event for event, _ in h.log]
    # NB: the body of one that was read may be closed more than once.
    assert "closed" in events[1 : events.index("sent", 1)]
    return told(response), told(streamed), "closed" in streamed_events


# -- Authentication


def guarded(h: Http, request: Any) -> Any:
    """A server that tells what authorization it was given."""
    authorization = request.headers.get("authorization")
    return h.library.Response(200, json={"auth": authorization})


@as_with_a_bare_transport
async def test_basic_credentials_are_sent(h: Http, wrap: Wrap) -> Any:
    """Of the request, the client, the URL, a function, or none."""
    script = app(h, functools.partial(guarded, h))
    seen = []

    def own(request: Any) -> Any:
        request.headers["Authorization"] = "Token 1"
        return request

    async with h.bare(wrap(script), auth=("client", "secret")) as client:
        for url, kw in (
            (HOME, {}),
            (HOME, {"auth": ("request", "secret")}),
            (HOME, {"auth": h.library.BasicAuth("object", "secret")}),
            (HOME, {"auth": own}),
            (HOME, {"auth": None}),
            ("https://url:secret@home.test", {"auth": None}),
        ):
            seen.append(told(await h.get(client, url, **kw)))
    assert 6 == len(script.sent)
    return seen, arrived(script)


class Digest:
    """A server that demands digests, and counts its challenges."""

    def __init__(self, h: Http, *, algorithm: str = "SHA-256", again: bool = False):
        self.h = h
        self.algorithm = algorithm
        self.again = again
        self.challenges = 0

    def __call__(self, request: Any) -> Any:
        authorization = request.headers.get("authorization", "")
        if authorization.startswith("Digest ") and not self.again:
            counted = authorization.rpartition("nc=")[2][:8]
            return self.h.library.Response(200, json={"nc": counted})
        self.challenges += 1
        nonce = f"{self.challenges:032x}"
        challenge = (
            f'Digest realm="r", nonce="{nonce}", qop="auth", opaque="o",'
            f" algorithm={self.algorithm}, stale=FALSE"
        )
        return self.h.library.Response(401, headers={"WWW-Authenticate": challenge})


@as_with_a_bare_transport
async def test_a_digest_answers_its_challenge(h: Http, wrap: Wrap) -> Any:
    """The body goes twice; the challenge is remembered for the next request."""
    seen = []
    for algorithm in ("MD5", "MD5-SESS", "SHA", "SHA-256", "SHA-512"):
        server = Digest(h, algorithm=algorithm)
        script = app(h, server)
        auth = h.library.DigestAuth("user", "secret")
        async with h.bare(wrap(script), auth=auth) as client:
            first = await h.post(client, HOME, json={"a": 1})
            second = await h.get(client, HOME)
        assert (200, "00000001") == (first.status_code, first.json()["nc"])
        assert [401] == [response.status_code for response in first.history]
        assert (200, "00000002") == (second.status_code, second.json()["nc"])
        assert 1 == server.challenges
        body = h.json({"a": 1})
        assert [body, body, b""] == [request.body for request in script.sent]
        seen.append((first.content, second.content, len(second.history)))
    return seen


@in_every_client
async def test_a_resend_has_the_proof_of_the_first(h: Http) -> None:
    """Byte for byte, as the documentation says of digests."""
    script = h.script(Digest(h)(h.library.Request("GET", HOME)), 503, 200)
    auth = h.library.DigestAuth("user", "secret")
    async with h.client(script, h.retry(), client={"auth": auth}) as client:
        assert 200 == (await h.get(client, HOME)).status_code
    none, first, second = [sent.headers.get("authorization") for sent in script.sent]
    assert none is None
    assert first is not None
    assert first.startswith("Digest ")
    assert first == second


def prover(h: Http, inner: Any) -> Any:
    """Make a transport that gives each attempt a proof of its own."""
    made = itertools.count(1)

    class Prover(h.library.BaseTransport, h.library.AsyncBaseTransport):  # type: ignore[misc, name-defined]  # known at run time
        def handle_request(self, request: Any) -> Any:
            request.headers["DPoP"] = f"proof {next(made)}"
            return inner.handle_request(request)

        async def handle_async_request(self, request: Any) -> Any:
            request.headers["DPoP"] = f"proof {next(made)}"
            await h.sleep(0)
            return await inner.handle_async_request(request)

    return Prover()


@in_every_client
async def test_a_transport_inside_makes_a_proof_for_each_attempt(h: Http) -> None:
    """In turn; and the caller's request is as it was."""
    script = h.script(503, 503, 200)
    request = h.library.Request("GET", HOME)
    async with h.client(prover(h, script), h.retry()) as client:
        assert 200 == (await h.send(client, request)).status_code
    assert ["proof 1", "proof 2", "proof 3"] == [
        sent.headers["dpop"] for sent in script.sent
    ]


@in_async_clients
async def test_attempts_at_once_do_not_write_into_each_others_headers(h: Http) -> None:
    """A hedge and the first are sent with the proofs that were made for them."""
    seen: list[str] = []

    async def slow(request: Any) -> Any:
        await h.sleep(2)
        seen.append(request.headers["dpop"])
        return h.library.Response(200)

    script = h.script(slow)
    hedge = Pipeline(Hedge(1, budget=None), classify=h.ours.http_verdict)
    async with h.client(prover(h, script), hedge) as client:
        assert 200 == (await h.get(client, HOME)).status_code
    assert ["proof 1"] == seen


@as_with_a_bare_transport
async def test_a_digest_that_is_wrong_gives_up(h: Http, wrap: Wrap) -> Any:
    """After one try; what cannot be read as a challenge is the server's error."""
    server = Digest(h, again=True)
    auth = h.library.DigestAuth("user", "wrong")
    async with h.bare(wrap(app(h, server)), auth=auth) as client:
        refused = await h.get(client, HOME)
    assert (401, 2) == (refused.status_code, server.challenges)

    def garbled(request: Any) -> Any:
        return h.library.Response(401, headers={"WWW-Authenticate": 'Digest realm="r"'})

    async with h.bare(wrap(app(h, garbled)), auth=auth) as client:
        error = await h.error(h.library.ProtocolError, h.get, client, HOME)
    return refused.content, len(refused.history), failed(error)


@as_with_a_bare_transport
async def test_an_auth_flow_of_ones_own_is_driven(h: Http, wrap: Wrap) -> Any:
    """It may read the request and each response, and send as often as it likes."""
    flow = {"ended": 0, "bodies": []}

    class Auth(h.library.Auth):  # type: ignore[misc, name-defined]
        requires_request_body = True
        requires_response_body = True

        def auth_flow(self, request: Any) -> Iterator[Any]:
            signature = zlib.crc32(request.content)
            request.headers["Authorization"] = f"{signature:08x}"
            try:
                for _ in range(3):
                    response = yield request
                    flow["bodies"].append(response.json())  # type: ignore[attr-defined]
                    told = response.json()["auth"]
                    request.headers["Authorization"] = f"{told}+"
            finally:
                flow["ended"] += 1  # type: ignore[operator]

    script = app(h, functools.partial(guarded, h))

    async with h.bare(wrap(script), auth=Auth()) as client:
        whole = await h.post(client, HOME, content=b"one")
        streamed = await h.post(client, HOME, content=once(h, b"o", b"ne"))
    assert {"auth": "7a6c86f1++"} == whole.json() == streamed.json()
    assert [2, 2] == [len(response.history) for response in (whole, streamed)]
    assert [b"one"] * 6 == [request.body for request in script.sent]
    assert 2 == flow["ended"]
    return told(whole), told(streamed), flow, arrived(script)


@as_with_a_bare_transport
async def test_an_auth_flow_that_fails_closes_what_it_has(h: Http, wrap: Wrap) -> Any:
    """Its error reaches the caller, and no response stays open."""
    h.log.clear()

    class Auth(h.library.Auth):  # type: ignore[misc, name-defined]
        def auth_flow(self, request: Any) -> Iterator[Any]:
            yield request
            raise KeyError("no credentials")

    async with h.bare(wrap(h.script(h.response(200, b"body"))), auth=Auth()) as client:
        error = await h.error(KeyError, h.get, client, HOME)
    assert "closed" in [event for event, _ in h.log]
    return failed(error)


@as_with_a_bare_async_transport
async def test_an_auth_flow_may_await(h: Http, wrap: Wrap) -> Any:
    """Inside the flow nothing of ours is open."""
    import anyio

    class Auth(h.library.Auth):  # type: ignore[misc, name-defined]
        async def async_auth_flow(self, request: Any) -> AsyncIterator[Any]:
            await anyio.sleep(1)
            response = yield request
            await response.aread()
            await anyio.sleep(1)
            request.headers["Authorization"] = "slow"
            yield request

    script = app(h, functools.partial(guarded, h))
    began = h.now()
    async with h.bare(wrap(script), auth=Auth()) as client:
        response = await h.get(client, HOME)
    assert {"auth": "slow"} == response.json()
    assert 2.0 == h.now() - began
    return told(response), arrived(script)


@as_with_a_bare_transport
async def test_credentials_and_redirects_go_together(h: Http, wrap: Wrap) -> Any:
    """Each hop is authenticated anew, and another origin not at all."""
    digest = Digest(h)

    def answers(request: Any) -> Any:
        if request.url.host == "away.test":
            return h.library.Response(200, json=dict(request.headers))
        reply = digest(request)
        if reply.status_code == 200:
            return h.library.Response(302, headers={"Location": AWAY})
        return reply

    auth = h.library.DigestAuth("user", "secret")
    script = app(h, answers)
    async with h.bare(wrap(script), auth=auth, follow_redirects=True) as client:
        response = await h.get(client, HOME)
    assert "authorization" not in response.json()
    statuses = [redirect.status_code for redirect in response.history]
    return statuses, response.content, [request.url for request in script.sent]


# -- Streaming


def streams(h: Http, *, length: bool = True, kind: str = "text/plain") -> Any:
    """A server whose bodies come in pieces."""

    async def step(request: Any) -> Any:
        headers = {"Content-Type": kind}
        size = len("naïve\ncafé\r\nend".encode()) if length else None
        pieces = (b"na\xc3", b"\xafve\n", b"caf\xc3\xa9\r", b"\nend")
        return h.response(200, *pieces, length=size, headers=headers)

    return h.script(step)


@as_with_a_bare_transport
async def test_a_body_is_iterated_in_every_way(h: Http, wrap: Wrap) -> Any:
    """Raw, decoded, as text, by lines; then it is consumed and closed."""
    seen: list[Any] = []
    async with h.bare(wrap(streams(h, length=False))) as client:
        for how in ("raw", "bytes", "text", "lines"):
            async with h.stream(client, url=HOME) as response:
                assert not response.is_closed
                assert not response.is_stream_consumed
                seen.append(await h.parts(response, how))
                seen.append(response.num_bytes_downloaded)
                state = (response.is_closed, response.is_stream_consumed)
                assert (True, True) == state
                error = await h.error(
                    h.library.StreamConsumed, h.parts, response, "raw"
                )
                seen.append(failed(error))
                with pytest.raises(h.library.ResponseNotRead):
                    response.content
    assert ["naïve", "café", "end"] == seen[9]
    return seen


@as_with_a_bare_transport
async def test_a_body_whose_length_is_known_reads_the_same(h: Http, wrap: Wrap) -> Any:
    """As raw bytes, as bytes, as text and as lines."""
    seen: list[Any] = []
    async with h.bare(wrap(streams(h))) as client:
        for how in ("raw", "bytes", "text", "lines"):
            async with h.stream(client, url=HOME) as response:
                assert not response.is_closed
                parts = await h.parts(response, how)
                seen.append(parts if how == "lines" else parts[0][:0].join(parts))
                seen.append((response.is_closed, response.is_stream_consumed))
                seen.append(response.num_bytes_downloaded)
    assert ["naïve", "café", "end"] == seen[9]
    return seen


@as_with_a_bare_transport
async def test_chunks_have_the_size_that_is_asked_for(h: Http, wrap: Wrap) -> Any:
    """Of bytes, and of text."""
    seen = []
    async with h.bare(wrap(streams(h, length=False))) as client:
        for how in ("raw", "bytes", "text"):
            async with h.stream(client, url=HOME) as response:
                if h.is_sync:
                    parts = list(getattr(response, f"iter_{how}")(4))
                else:
                    parts = [one async for one in getattr(response, f"aiter_{how}")(4)]
                assert {4} == {len(part) for part in parts[:-1]}
                seen.append(parts)
    return seen


@as_with_a_bare_transport
async def test_a_compressed_body_is_decoded_or_not(h: Http, wrap: Wrap) -> Any:
    """By the client: `iter_raw` sees what came over the wire."""
    packed = zlib.compress(b"a" * 1000)

    async def step(request: Any) -> Any:
        headers = {"Content-Encoding": "deflate"}
        return h.response(200, packed[:5], packed[5:], headers=headers)

    async with h.bare(wrap(h.script(step))) as client:
        whole = await h.get(client, HOME)
        async with h.stream(client, url=HOME) as response:
            raw = await h.parts(response, "raw")
    assert b"a" * 1000 == whole.content
    assert packed == b"".join(raw)
    return told(whole), raw


# NB: httpx leaves its own generators to the collector there, bare as well.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@as_with_a_bare_transport
async def test_a_body_that_cannot_be_decoded_is_the_clients_error(
    h: Http, wrap: Wrap
) -> Any:
    """It came whole: nothing is retried."""
    script = h.script(
        h.response(200, b"not", b"packed", headers={"Content-Encoding": "gzip"})
    )
    async with h.bare(wrap(script)) as client:
        error = await h.error(h.library.DecodingError, h.get, client, HOME)
    assert 1 == len(script.sent)
    return failed(error), asked(error.request)


@as_with_a_bare_transport
async def test_a_body_may_be_left_early(h: Http, wrap: Wrap) -> Any:
    """It is closed once its block is; nothing can be read from it then."""
    seen: list[Any] = []
    for length in (True, False):
        async with h.bare(wrap(streams(h, length=length))) as client:
            async with h.stream(client, url=HOME) as response:
                pass
            assert response.is_closed
            assert not response.is_stream_consumed
            error = await h.error(h.library.StreamClosed, h.read, response)
            seen.append(failed(error))
            opened = await h.open(client, HOME)
            await h.close(opened)
            await h.close(opened)
            error = await h.error(h.library.StreamClosed, h.parts, opened, "raw")
            seen.append(failed(error))
    return seen


@as_with_a_bare_transport
async def test_a_body_may_be_read_within_its_block(h: Http, wrap: Wrap) -> Any:
    """Twice is the same; afterwards it stays readable, and iterable."""
    seen = []
    for length in (True, False):
        async with h.bare(wrap(streams(h, length=length))) as client:
            async with h.stream(client, url=HOME) as response:
                assert await h.read(response) is await h.read(response)
            seen.append(told(response))
            seen.append(b"".join(await h.parts(response, "bytes")))
            error = await h.error(h.library.StreamConsumed, h.parts, response, "raw")
            seen.append(failed(error))
    return seen


@as_with_a_bare_transport
async def test_a_request_may_stream_too(h: Http, wrap: Wrap) -> Any:
    """From a generator, in chunks and of no known length, and once."""
    script = h.script(200)
    async with h.bare(wrap(script)) as client:
        content = once(h, b"one ", b"two")
        request = client.build_request("POST", HOME, content=content)
        await h.send(client, request)
        error = await h.error(h.library.StreamConsumed, h.send, client, request)
    assert b"one two" == script.sent[0].body
    assert "chunked" == script.sent[0].headers["transfer-encoding"]
    return arrived(script), failed(error)


@as_with_a_bare_transport
async def test_a_stream_of_the_wrong_colour_is_refused(h: Http, wrap: Wrap) -> Any:
    """A body that this client could not send, as it says itself."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b""  # pragma: no cover - never sent

    content = chunks() if h.is_sync else iter([b"one"])
    async with h.bare(wrap(h.script(200))) as client:
        error = await h.error(RuntimeError, h.post, client, HOME, content=content)
    return failed(error)


@as_with_a_bare_transport
async def test_a_body_that_breaks_off_fails_as_the_clients(h: Http, wrap: Wrap) -> Any:
    """With the client's own error, which names its request."""

    async def step(request: Any) -> Any:
        return h.response(200, b"half", h.library.ReadError)

    async with h.bare(wrap(h.script(step))) as client:
        whole = await h.error(h.library.ReadError, h.get, client, HOME)
        async with h.stream(client, url=HOME) as response:
            late = await h.error(h.library.ReadError, h.read, response)
        assert response.is_closed
    return [(failed(response), asked(response.request)) for response in (whole, late)]


@as_with_a_bare_transport
async def test_the_time_that_a_response_took_is_known_once_it_is_closed(
    h: Http, wrap: Wrap
) -> Any:
    """And not before."""
    seen = []
    for length in (True, False):
        async with h.bare(wrap(streams(h, length=length))) as client:
            async with h.stream(client, url=HOME) as response:
                with pytest.raises(RuntimeError) as caught:
                    response.elapsed
                await h.read(response)
            assert response.elapsed.total_seconds() >= 0
            seen.append(failed(caught.value))
    return seen


# -- Cookies


def jar(h: Http, request: Any) -> Any:
    """A server that sets a cookie, and tells of those it was sent."""
    if request.url.path == "/set":
        cookie = "session=1; Path=/"
        where = {"Location": "/told"} if "on" in request.url.params else {}
        headers = [("Set-Cookie", cookie), ("Set-Cookie", "b=2"), *where.items()]
        return h.library.Response(302 if where else 200, headers=headers)
    if request.url.path == "/expire":
        headers = {"Set-Cookie": "session=; Path=/; Max-Age=0"}
        return h.library.Response(200, headers=headers)
    return h.library.Response(200, json={"cookies": request.headers.get("cookie")})


@as_with_a_bare_transport
async def test_cookies_are_kept_and_sent_back(h: Http, wrap: Wrap) -> Any:
    """To who set them; the user's own go with them; expired ones go."""
    script = app(h, functools.partial(jar, h))
    seen = []
    async with h.bare(wrap(script), cookies={"mine": "0"}) as client:
        for url in ("told", "set", "told", "expire", "told"):
            seen.append(told(await h.get(client, f"{HOME}/{url}")))
            seen.append(sorted(client.cookies.items()))
        seen.append(told(await h.get(client, f"{AWAY}/told")))
        headers = {"Cookie": "by=hand"}
        seen.append(told(await h.get(client, f"{AWAY}/told", headers=headers)))
    assert "session=1" in script.sent[2].headers["cookie"]
    assert "session" not in script.sent[4].headers["cookie"]
    assert "session" not in script.sent[5].headers["cookie"]
    return seen, arrived(script)


@in_every_client
async def test_cookies_of_replaced_responses_are_not_kept(h: Http) -> None:
    """The client sees the last response only, as the documentation says."""
    replaced = h.answer(503, set_cookie="replaced=1; Path=/")
    script = h.script(replaced, h.answer(200, set_cookie="last=1; Path=/"))
    async with h.client(script, h.retry()) as client:
        await h.get(client, HOME)
        assert {"last": "1"} == dict(client.cookies)


@as_with_a_bare_transport
async def test_cookies_are_kept_across_redirects(h: Http, wrap: Wrap) -> Any:
    """What one hop sets, the next one is sent."""
    script = app(h, functools.partial(jar, h))
    async with h.bare(wrap(script), follow_redirects=True) as client:
        response = await h.get(client, f"{HOME}/set?on=1")
        cookies = sorted(client.cookies.items())
    assert "session=1" in response.json()["cookies"]
    assert [("b", "2"), ("session", "1")] == cookies
    return told(response), arrived(script)


# -- Event hooks


def hooks(h: Http, log: list[str], **raising: type[Exception]) -> Any:
    """Hooks of a client's colour that log, and may raise."""

    def on(event: str, value: Any) -> None:
        status = getattr(value, "status_code", value.url)
        log.append(f"{event} {status}")
        if event in raising:
            raise raising[event](event)

    async def aon(event: str, value: Any) -> None:
        on(event, value)

    def hook(event: str) -> Any:
        if h.is_sync:
            return lambda value: on(event, value)
        return functools.partial(aon, event)

    return {event: [hook(event)] for event in ("request", "response")}


@as_with_a_bare_transport
async def test_hooks_are_called_once_a_request(h: Http, wrap: Wrap) -> Any:
    """For each hop of a redirect, as the client has it."""
    log: list[str] = []
    script = app(h, functools.partial(redirects, h))
    async with h.bare(wrap(script), event_hooks=hooks(h, log)) as client:
        await h.get(client, f"{HOME}/end")
        url = f"{HOME}/to?status=302&where=/end"
        await h.get(client, url, follow_redirects=True)
    assert [
        f"request {HOME}/end",
        "response 200",
        f"request {url}",
        "response 302",
        f"request {HOME}/end",
        "response 200",
    ] == log
    return log, arrived(script)


@in_every_client
async def test_hooks_are_called_once_however_often_it_is_sent(h: Http) -> None:
    """They see the request, and its last response."""
    log: list[str] = []
    script = h.script(503, h.library.ReadError("down"), 200)
    client = {"event_hooks": hooks(h, log)}
    async with h.client(script, h.retry(), client=client) as client:
        assert 200 == (await h.get(client, HOME)).status_code
    assert 3 == len(script.sent)
    assert [f"request {HOME}", "response 200"] == log


@as_with_a_bare_transport
async def test_a_hook_may_change_a_request_and_read_a_response(
    h: Http, wrap: Wrap
) -> Any:
    """Before it is sent, and before the caller has it."""
    bodies = []

    def sign(request: Any) -> None:
        request.headers["X-Signed"] = "yes"

    def look(response: Any) -> None:
        bodies.append(response.read())

    async def asign(request: Any) -> None:
        sign(request)

    async def alook(response: Any) -> None:
        bodies.append(await response.aread())

    script = streams(h, length=False)
    plain = {"request": [sign], "response": [look]}
    awaited = {"request": [asign], "response": [alook]}
    async with h.bare(
        wrap(script), event_hooks=plain if h.is_sync else awaited
    ) as client:
        response = await h.get(client, HOME)
    assert "yes" == script.sent[0].headers["x-signed"]
    assert [response.content] == bodies
    return told(response), arrived(script)


@as_with_a_bare_transport
async def test_a_hook_that_raises_closes_the_response(h: Http, wrap: Wrap) -> Any:
    """And its error reaches the caller; a request's stops it from being sent."""
    seen = []
    for event in ("request", "response"):
        h.log.clear()
        log: list[str] = []
        script = h.script(h.response(200, b"body"))
        raising = hooks(h, log, **{event: PermissionError})
        async with h.bare(wrap(script), event_hooks=raising) as client:
            error = await h.error(PermissionError, h.get, client, HOME)
        assert (0 if event == "request" else 1) == len(script.sent)
        closed = [one for one, _ in h.log].count("closed")
        assert (event == "response") is bool(closed)
        seen.append((failed(error), log))
    return seen


@as_with_a_bare_transport
async def test_raise_for_status_in_a_hook_is_final(h: Http, wrap: Wrap) -> Any:
    """What the client raises after our answer is its own affair."""

    def strict(response: Any) -> None:
        response.raise_for_status()

    async def astrict(response: Any) -> None:
        response.raise_for_status()

    hook = strict if h.is_sync else astrict
    script = h.script(404)
    async with h.bare(wrap(script), event_hooks={"response": [hook]}) as client:
        error = await h.error(h.library.HTTPStatusError, h.get, client, HOME)
    assert 404 == error.response.status_code
    assert 1 == len(script.sent)
    return failed(error), asked(error.request)


# -- Mounts, base URLs, defaults


@as_with_a_bare_transport
async def test_a_mount_is_used_for_its_addresses_alone(h: Http, wrap: Wrap) -> Any:
    """The most particular pattern wins; None is the client's default."""
    ours, other, rest = h.script(200), h.script(201), h.script(202)
    mounts = {
        "all://home.test": wrap(ours),
        "https://": other,
        "all://none.test": None,
    }
    seen = []
    async with h.bare(rest, mounts=mounts) as client:
        for url in (
            HOME,
            "http://home.test",
            f"{HOME}:8443",
            AWAY,
            "http://away.test",
            "https://none.test",
        ):
            seen.append((await h.get(client, url)).status_code)
    assert [200, 200, 200, 201, 202, 202] == seen
    return seen, arrived(ours)


@as_with_a_bare_transport
async def test_a_mount_is_opened_and_closed_with_its_client(h: Http, wrap: Wrap) -> Any:
    """As the client's own transport is."""
    default, mounted = h.script(200), h.script(200)
    async with h.bare(wrap(default), mounts={"all://x.test": wrap(mounted)}):
        assert [(1, 0), (1, 0)] == [
            (transport.entered, transport.closed) for transport in (default, mounted)
        ]
    return default.closed, mounted.closed


@as_with_a_bare_transport
async def test_defaults_of_the_client_are_merged(h: Http, wrap: Wrap) -> Any:
    """Base URL, headers, parameters; those of the request win."""
    script = app(h, lambda request: h.library.Response(200, text=str(request.url)))
    async with h.bare(
        wrap(script),
        base_url=f"{HOME}/v1?keep=1",
        headers={"X-Default": "client", "X-Both": "client"},
        params={"page": "1"},
    ) as client:
        seen = [
            told(await h.get(client, "/things", headers={"X-Both": "request"})),
            told(await h.get(client, "things/", params={"page": "2"})),
            told(await h.get(client, f"{AWAY}/things")),
        ]
    first = script.sent[0].headers
    assert ("client", "request") == (first["x-default"], first["x-both"])
    assert first["user-agent"].startswith("python-")
    return seen, arrived(script)


@as_with_a_bare_transport
async def test_what_cannot_be_requested_is_refused(h: Http, wrap: Wrap) -> Any:
    """By the client, or by the transport that sends; in the same words."""
    inner = h.library.HTTPTransport() if h.is_sync else h.library.AsyncHTTPTransport()
    errors = []
    async with h.bare(wrap(inner)) as client:
        for url in ("ftp://home.test", "https://", "/path", "https://home.test:x"):
            error = await h.error(Exception, h.get, client, url)
            errors.append(failed(error))
    return errors


@as_with_a_bare_transport
async def test_a_closed_client_is_closed(h: Http, wrap: Wrap) -> Any:
    """It can neither send nor be opened again."""
    async with h.bare(wrap(h.script(200))) as client:
        assert 200 == (await h.get(client, HOME)).status_code
    error = await h.error(RuntimeError, h.get, client, HOME)
    return failed(error), client.is_closed


# -- What a transport is told, and what it tells


@as_with_a_bare_transport
async def test_timeouts_are_passed_on(h: Http, wrap: Wrap) -> Any:
    """The client's and the request's, wherever nothing shorter limits them."""
    phases = ("connect", "read", "write", "pool")
    given: list[Any] = []

    async def step(request: Any) -> Any:
        timeouts = request.extensions["timeout"]
        given.append([timeouts.get(phase) for phase in phases])
        given.append([timeouts[phase] for phase in phases])
        return h.library.Response(200)

    own = h.library.Timeout(4, read=2)
    async with h.bare(wrap(h.script(step)), timeout=own) as client:
        await h.get(client, HOME)
        await h.get(client, HOME, timeout=1.5)
        response = await h.get(client, HOME, timeout=h.library.Timeout(3, pool=1))
    assert [[4, 2, 4, 4], [1.5] * 4, [3, 3, 3, 1]] == given[::2] == given[1::2]
    # The request is the caller's again, with what it came with.
    assert {"connect": 3, "read": 3, "write": 3, "pool": 1} == (
        response.request.extensions["timeout"]
    )
    return given


@as_with_a_bare_transport
async def test_a_timeout_of_the_clients_is_its_own(h: Http, wrap: Wrap) -> Any:
    """In each phase, of the family that callers catch, with its request."""
    seen = []
    for kind in ("ConnectTimeout", "ReadTimeout", "WriteTimeout", "PoolTimeout"):
        script = h.script(getattr(h.library, kind)("too slow"))
        async with h.bare(wrap(script)) as client:
            error = await h.error(h.library.TimeoutException, h.get, client, HOME)
        seen.append((failed(error), asked(error.request)))
    return seen


@as_with_a_bare_transport
async def test_a_failing_response_comes_back_whole(h: Http, wrap: Wrap) -> Any:
    """Whether it was asked for once or thrice."""
    seen = []

    async def step(request: Any) -> Any:
        return h.response(500, b"fai", b"led", headers={"X-Own": "1"})

    async with h.bare(wrap(h.script(step))) as client:
        response = await h.post(client, HOME)
        assert (500, b"failed") == (response.status_code, response.content)
        with pytest.raises(h.library.HTTPStatusError) as caught:
            response.raise_for_status()
        seen.append((response.headers.multi_items(), failed(caught.value)))
        async with h.stream(client, url=HOME) as streamed:
            seen.append(await h.parts(streamed, "raw"))
    return seen


@as_with_a_bare_transport
async def test_a_response_belongs_to_its_request(h: Http, wrap: Wrap) -> Any:
    """The very object that was sent, unaltered; and to its history."""
    script = app(h, functools.partial(redirects, h))
    async with h.bare(wrap(script)) as client:
        for kw in ({}, {"content": b"body"}, {"files": {"f": b"file"}}):
            request = client.build_request("POST", f"{HOME}/end", **kw)
            before = (request.extensions, request.stream, dict(request.headers))
            response = await h.send(client, request)
            assert response.request is request
            after = (request.extensions, request.stream, dict(request.headers))
            assert before == after
            assert [] == response.history
        moved = await h.get(client, f"{HOME}/to?status=302&where=/end")
        end = await h.send(client, moved.next_request)
    return told(end)


@as_with_a_bare_transport
async def test_extensions_go_both_ways(h: Http, wrap: Wrap) -> Any:
    """Those of a request to the wire, those of a response to the caller."""
    traced: list[str] = []
    network = object()

    async def step(request: Any) -> Any:
        request.extensions["trace"]("sent")
        extensions = {
            "http_version": b"HTTP/2",
            "reason_phrase": b"Fine",
            "network_stream": network,
        }
        return h.library.Response(200, content=b"", extensions=extensions)

    async with h.bare(wrap(h.script(step))) as client:
        extensions = {"trace": traced.append, "sni_hostname": "sni.test"}
        response = await h.get(client, HOME, extensions=extensions)
    assert ["sent"] == traced
    assert ("HTTP/2", "Fine") == (response.http_version, response.reason_phrase)
    assert network is response.extensions["network_stream"]
    assert {"trace", "sni_hostname", "timeout"} == response.request.extensions.keys()
    return told(response)


# -- Proxies


class Proxy:
    """A forward proxy on loopback: it forwards, or tunnels, or refuses to.

    Attributes:
        asked: The first line of each request, and its credentials.
    """

    def __init__(self, *, refuses: int = 0) -> None:
        self.asked: list[tuple[str, str | None]] = []
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += self.request.recv(65536)
                first, *lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines)
                proxy.asked.append((first, fields.get("proxy-authorization")))
                if refuses:
                    self.request.sendall(b"HTTP/1.1 %d No\r\n\r\n" % refuses)
                    return
                method, target, _ = first.split()
                host, port = target.removeprefix("http://").split("/")[0].split(":")
                with socket.create_connection((host, int(port))) as there:
                    if method == "CONNECT":
                        self.request.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    else:
                        path = target.removeprefix(f"http://{host}:{port}")
                        head = head.replace(target.encode(), path.encode(), 1)
                        # One request a connection: the next names its target too.
                        there.sendall(head.replace(b"keep-alive", b"close"))
                    relay(self.request, there)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        host, port = self._server.server_address[:2]
        self.url = f"http://{host!s}:{port}"

    def __enter__(self) -> Proxy:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def relay(one: socket.socket, other: socket.socket) -> None:
    """Hand on what comes from either side, until one of them closes."""
    while True:
        for ready in select.select([one, other], [], [])[0]:
            try:
                data = ready.recv(65536)
                (other if ready is one else one).sendall(data)
            except OSError:
                return
            if not data:
                return


def proxied(h: Real, proxy: Proxy) -> Iterator[Any]:
    """Transports that go through a proxy: bare, empty, and one that retries."""
    name = "HTTPTransport" if h.is_sync else "AsyncHTTPTransport"
    url = proxy.url.replace("://", "://user:secret@")

    def make() -> Any:
        return getattr(h.library, name)(proxy=url)

    yield make()
    yield h.transport(make(), Pipeline())
    yield h.transport(make(), h.quick())


@pytest.mark.real
@every_client
async def test_a_proxy_forwards(h: Real, server: Server) -> None:
    """A proxy of the inner transport; only the proxy is sent the credentials."""
    server.script("/", answer(200, body=b"through"))
    with Proxy() as proxy:
        for transport in proxied(h, proxy):
            async with h.bare(transport) as client:
                response = await h.post(client, f"{server.url}/", content=b"body")
            assert b"through" == response.content
            assert b"body" == bytes(server.requests[-1].body)
    assert 3 == server.hits["/"]
    assert {(f"POST {server.url}/ HTTP/1.1", "basic dxnlcjpzzwnyzxq=")} == {
        *proxy.asked
    }


@pytest.mark.real
@every_client
async def test_a_failure_behind_a_proxy_is_mended(h: Real, server: Server) -> None:
    """A response of 503 that came through the proxy is retried through it."""
    with Proxy() as proxy:
        server.script("/", answer(503), answer(200, body=b"through"))
        *_, transport = proxied(h, proxy)
        async with h.bare(transport) as client:
            response = await h.get(client, f"{server.url}/")
        assert b"through" == response.content
    assert 2 == server.hits["/"]


@pytest.mark.real
@every_client
async def test_a_proxy_that_refuses_a_tunnel_is_the_clients_error(
    h: Real, server: Server
) -> None:
    """Nothing reached the server: any method may try again, if that may help."""
    secure = server.url.replace("http://", "https://")
    for status, asked in ((407, 1), (403, 1), (502, 3)):
        counts, errors = [], []
        with Proxy(refuses=status) as proxy:
            for transport in proxied(h, proxy):
                proxy.asked.clear()
                async with h.bare(transport) as client:
                    error = await h.error(
                        h.library.ProxyError, h.post, client, secure, content=b"x"
                    )
                errors.append(failed(error))
                counts.append(len(proxy.asked))
        assert 1 == len({*errors})
        assert [1, 1, asked] == counts
    assert not server.requests
