"""The middleware for aiohttp, against a server that misbehaves."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any

import pytest
from tests.loopback import FAULTS, Act, Head, Server, answer

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Outcome,
    Policy,
    Retry,
    Timeout,
    constant,
    deadline_after,
)
from resilient._http import faults
from resilient._http.faults import Fault

aiohttp = pytest.importorskip("aiohttp", "3.12.4")

from resilient._http import aiohttp_client  # noqa: E402  # needs it
from resilient.aiohttp import (  # noqa: E402  # needs it
    CircuitOpenError,
    DeadlineExceededError,
    RateLimitedError,
    RejectedError,
    ResilientMiddleware,
    TimeoutExceededError,
    http_verdict,
    per_origin,
)

pytestmark = pytest.mark.real

BODY = bytes(range(256)) * 40

Scenario = Callable[[Server], Awaitable[None]]


def pipeline(*inside: Policy[Any], total: float | None = 30.0) -> Policy[Any]:
    """Make a pipeline that loses no time between attempts."""
    retry = Retry(attempts=3, backoff=constant(0), budget=None)
    return resilient.Pipeline(Timeout(total), retry, *inside, classify=http_verdict)


def session(*args: Any, client: Any = None, **kw: Any) -> Any:
    """Make a session whose requests go through the middleware."""
    middleware = ResilientMiddleware(*args, **kw)
    return aiohttp.ClientSession(middlewares=[middleware], **(client or {}))


def with_server(scenario: Scenario) -> Callable[[], None]:
    """Make a test of a scenario."""

    @wraps(scenario)
    def test() -> None:
        with Server() as server:
            asyncio.run(scenario(server))

    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would see its argument
    return test


# -- What is sent again


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_mended(fault: Any) -> None:
    """Whatever it is, the next attempt answers."""

    @with_server
    async def scenario(server: Server) -> None:
        server.script("/", fault, answer(200, body=b"well"))
        async with session(pipeline()) as client, client.get(server.url) as response:
            assert (200, b"well") == (response.status, await response.read())
        assert (2, None, None) == response.extensions["resilient"]
        assert 2 == server.hits["/"]

    scenario()


@with_server
async def test_what_may_have_been_done_is_not_sent_again(server: Server) -> None:
    """A POST after 503 is not; with a key, after a refusal or by request it is."""
    for path in ("/plain", "/key", "/asked"):
        server.script(path, answer(503), answer(200))
    server.script("/refused", answer(429), answer(200))
    async with session(
        pipeline(), retry_unsafe=lambda request: request.url.path == "/asked"
    ) as client:
        response = await client.post(server.url + "/plain", data=b"x")
        assert 503 == response.status
        summary = response.extensions["resilient"]
        assert (1, "POST is not idempotent", None) == summary
        for path, headers in (("/key", {"Idempotency-Key": "1"}), ("/asked", {})):
            response = await client.post(server.url + path, json=[], headers=headers)
            assert (200, 2) == (response.status, server.hits[path])
        assert 200 == (await client.post(server.url + "/refused", data="x")).status


@with_server
async def test_what_was_given_up_is_not_repeated_by_aiohttp(server: Server) -> None:
    """It would do so for an idempotent method, through all middlewares."""
    server.script("/", [Act.CLOSE])
    async with session(pipeline()) as client:
        for hits in (3, 6):
            with pytest.raises(aiohttp.ServerDisconnectedError) as caught:
                await client.get(server.url)
            assert hits == server.hits["/"]
            assert caught.value.__notes__[0].startswith("resilient: 3 attempts in ")
        # Nothing was sent; the last error is aiohttp's own.
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.post(server.refused_url, data=b"x")
        assert caught.value.__notes__[0].startswith("resilient: 3 attempts in ")


async def _sent(server: Server, client: Any, **kw: Any) -> list[bytes]:
    before = len(server.requests)
    async with client.put(server.url, **kw) as response:
        assert 200 == response.status
    return [bytes(request.body) for request in server.requests[before:]]


@with_server
async def test_a_body_is_replayed_byte_for_byte(server: Server) -> None:
    """Bytes, JSON, forms and files that seek."""
    server.script("/", *[answer(503), answer(200)] * 9)
    async with session(pipeline()) as client:
        assert [BODY, BODY] == await _sent(server, client, data=BODY)
        assert [b"[1]", b"[1]"] == await _sent(server, client, json=[1])
        file = io.BytesIO(BODY)
        assert [BODY, BODY] == await _sent(server, client, data=file)
        form = aiohttp.FormData({"a": "b"})
        assert [b"a=b", b"a=b"] == await _sent(server, client, data=form)
        form = aiohttp.FormData()
        form.add_field("a", "b")
        form.add_field("file", io.BytesIO(BODY))
        first, second = await _sent(server, client, data=form)
        assert first == second
        assert BODY in first


@with_server
async def test_a_stream_is_sent_once_and_whole(server: Server) -> None:
    """Alone or in a form; sent, it is not sent again."""

    async def chunks() -> AsyncIterator[bytes]:
        yield BODY
        yield BODY

    form = aiohttp.FormData()
    form.add_field("file", chunks(), filename="file")
    server.script("/", answer(503))
    server.script("/closed", [Act.CLOSE])
    async with session(pipeline()) as client:
        for data in (chunks(), form):
            async with client.put(server.url, data=data) as response:
                assert 503 == response.status
            summary = response.extensions["resilient"]
            assert (1, "its body can be sent only once") == summary[:2]
            assert BODY * 2 in bytes(server.requests[-1].body)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await client.put(server.url + "/closed", data=chunks())
        assert 1 == server.hits["/closed"]
        # Unless none of it was read.
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.put(server.refused_url, data=chunks())
        assert caught.value.__notes__[0].startswith("resilient: 3 attempts in ")


@with_server
async def test_every_attempt_has_one_key_and_the_time_that_is_left(
    server: Server,
) -> None:
    """The key is made once."""
    server.script("/", answer(503), answer(200))
    async with session(
        pipeline(), idempotency_key=True, deadline_header=("X-Left", "ms")
    ) as client:
        assert 200 == (await client.post(server.url, data=b"x")).status
    assert 1 == len({request.headers["idempotency-key"] for request in server.requests})
    for request in server.requests:
        assert 0 < int(request.headers["x-left"]) <= 30_000


# -- Responses


@with_server
async def test_a_response_is_what_a_bare_session_returns(server: Server) -> None:
    """Compressed or not, with cookies, redirects and history, or no body."""
    zipped = gzip.compress(BODY)
    encoding = {"content-encoding": "gzip"}
    server.script("/plain", answer(200, {}, BODY))
    server.script("/gzip", answer(200, encoding, zipped))
    server.script("/chunked", [Head(200, encoding), zipped[:99], zipped[99:]])
    server.script("/moved", answer(302, {"location": "/gzip", "set-cookie": "c=3"}))
    server.script("/none", answer(204))
    unsafe = {"cookie_jar": aiohttp.CookieJar(unsafe=True)}
    async with (
        session(pipeline(), client=unsafe) as ours,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as bare,
    ):
        for path in ("/plain", "/gzip", "/chunked", "/moved", "/none"):
            for method in ("GET", "HEAD"):
                seen = []
                for client in (ours, bare):
                    async with client.request(method, server.url + path) as response:
                        body = await response.read()
                        assert body == await response.read()
                    seen.append((response.status, body, len(response.history)))
                assert seen[0] == seen[1]
        for one in (ours, bare):
            assert ["c"] == [cookie.key for cookie in one.cookie_jar]
    assert {"/gzip", "/moved"} < set(server.hits)


@with_server
async def test_a_body_streams_as_it_comes(server: Server) -> None:
    """By each way of reading; then the call ends."""
    gate = server.gate()
    server.script("/", [Head(200), b"one\n", gate, b"two\n"])
    bulkhead = Bulkhead(1)
    ways: list[Callable[[Any], AsyncIterator[bytes]]] = [
        lambda content: content.iter_any(),
        lambda content: content.iter_chunked(100),
        lambda content: aiter(content),
    ]
    async with session(pipeline(bulkhead)) as client:
        for way in ways:
            async with client.get(server.url) as response:
                chunks = way(response.content)
                assert b"one\n" == await anext(chunks)
                assert 1 == bulkhead.in_use
                gate.let_one_pass()
                assert [b"two\n"] == [chunk async for chunk in chunks]
            assert 0 == bulkhead.in_use
        # Not read, it ends with the response; or breaks off, which is the caller's.
        async with client.get(server.url):
            assert 1 == bulkhead.in_use
        assert 0 == bulkhead.in_use
        server.script("/", [Head(200), b"half", Act.CLOSE])
        before = server.hits["/"]
        with pytest.raises(aiohttp.ClientPayloadError):
            async with client.get(server.url) as response:
                await response.read()
        assert (0, before + 1) == (bulkhead.in_use, server.hits["/"])
        gate.open()


@with_server
async def test_a_body_may_be_read_in_its_attempt(server: Server) -> None:
    """Of any length; it fails with the attempt, and what is read stays readable."""
    gate = server.gate()
    server.script("/", [Head(200), b"half", Act.CLOSE], [Head(200), BODY, BODY])
    server.script("/stalled", [Head(200), b"half", gate])
    async with session(pipeline(), read_body=True) as client:
        async with client.get(server.url) as response:
            chunks = [chunk async for chunk in response.content.iter_chunked(1000)]
            assert BODY * 2 == b"".join(chunks)
        with deadline_after(0.2), pytest.raises(TimeoutExceededError):
            await client.get(server.url + "/stalled")
        gate.open()


@with_server
async def test_what_a_request_cost_is_booked(server: Server) -> None:
    """The function reads it without waiting."""
    server.script("/", answer(200, {"kind": "json"}, b'{"tokens": 60}'))
    limiter = resilient.RateLimiter(
        limits=[resilient.Limit(100, per=3600, unit="tokens")], cost={"tokens": 10}
    )

    def cost_of(response: Any) -> dict[str, float]:
        assert (200, "json") == (response.status, response.headers["kind"])
        return dict(response.json())

    async with session(pipeline(limiter), cost_of=cost_of) as client:
        async with client.get(server.url) as response:
            assert {"tokens": 60} == await response.json(content_type=None)
    assert 40 == round(limiter.available("tokens"))


@with_server
async def test_what_a_body_says_is_bounded(server: Server) -> None:
    """A debt is paid within a minute; what is no amount is not booked."""
    for said, left in (("1e15", -2), ("true", 90), ("-1", 90)):
        server.script("/", answer(200, body=f'{{"tokens": {said}}}'.encode()))
        limiter = resilient.RateLimiter(
            limits=[resilient.Limit(100, per=3600, unit="tokens")], cost={"tokens": 10}
        )
        async with session(
            pipeline(limiter), cost_of=lambda response: dict(response.json())
        ) as client:
            async with client.get(server.url) as response:
                assert 200 == response.status
        assert left == round(limiter.available("tokens"))


@with_server
async def test_a_policy_may_answer_in_a_servers_place(server: Server) -> None:
    """With a response of aiohttp's own, and nothing else."""
    server.script("/", answer(503))
    server.script("/stale", answer(299))
    async with aiohttp.ClientSession() as bare:
        stale = await bare.get(server.url + "/stale")
    fallback = resilient.Pipeline(
        Fallback(function=lambda error: stale), classify=http_verdict
    )
    async with session(fallback) as client:
        assert stale is await client.get(server.url)
    wrong = resilient.Pipeline(Fallback("stale"), classify=http_verdict)
    async with session(wrong) as client:
        with pytest.raises(TypeError, match=r"returns aiohttp\.Response$"):
            await client.get(server.url)


# -- Time


@with_server
async def test_limits_hold_in_each_phase(server: Server) -> None:
    """A `Timeout` of ours and a deadline around the call: one error, also aiohttp's."""
    gate = server.gate()
    event = {"content-type": "text/event-stream"}
    server.script("/head", [gate])
    server.script("/body", [Head(200, {"content-length": "9"}), b"x", gate])
    server.script("/stream", [Head(200), b"x", gate])
    server.script("/live", [Head(200, event), b"x", gate])

    async def read(client: Any, path: str) -> None:
        with pytest.raises(TimeoutExceededError) as caught:
            async with client.get(server.url + path) as response:
                await response.read()
        assert isinstance(caught.value, aiohttp.ServerTimeoutError)
        assert isinstance(caught.value, aiohttp.SocketTimeoutError)

    paths = ("/head", "/body", "/stream", "/live")
    async with session(pipeline(total=0.2), stream_idle=0.2) as client:
        for path in paths:
            await read(client, path)
    async with session(pipeline(total=None), stream_idle=5) as client:
        for path in paths:
            with deadline_after(0.2):
                await read(client, path)
    async with session(pipeline(total=0.2)) as client:
        # With a limit around the call that is further away.
        with deadline_after(5):
            await read(client, "/stream")
        # Nothing is read any more once it is over.
        async with client.get(server.url + "/stream") as response:
            await asyncio.sleep(0.3)
            assert b"x" == await response.content.readany()
            with pytest.raises(TimeoutExceededError):
                await response.content.readany()
    gate.open()


@with_server
async def test_a_session_that_states_a_timeout_is_heard(server: Server) -> None:
    """Its total may be taken by one attempt, and by all of them: aiohttp's error."""
    gate = server.gate()
    server.script("/", [gate, *answer()])
    timeout = {"timeout": aiohttp.ClientTimeout(total=0.2)}
    async with session(client=timeout) as client:
        with pytest.raises(TimeoutError):
            await client.get(server.url)
    short = {"timeout": aiohttp.ClientTimeout(sock_read=0.1)}
    async with session(pipeline(), client=short) as client:
        with pytest.raises(aiohttp.SocketTimeoutError) as caught:
            await client.get(server.url)
        assert caught.value.__notes__[0].startswith("resilient: 3 attempts in ")
        with deadline_after(1e-9), pytest.raises(DeadlineExceededError) as late:
            await client.get(server.url)
        assert isinstance(late.value, aiohttp.ServerTimeoutError)
    server.script("/", [Head(200), b"half", gate])
    async with session(pipeline(), client=short) as client:
        with pytest.raises(aiohttp.SocketTimeoutError):
            async with client.get(server.url) as response:
                await response.read()
    gate.open()


@with_server
async def test_a_cancelled_request_gives_everything_back(server: Server) -> None:
    """While it waits for the head, or for the body."""
    gate = server.gate()
    server.script("/head", [gate])
    server.script("/body", [Head(200), b"x", gate])
    bulkhead = Bulkhead(1)
    async with session(pipeline(bulkhead)) as client:

        async def read(path: str) -> None:
            async with client.get(server.url + path) as response:
                await response.read()

        for path in ("/head", "/body"):
            task = asyncio.ensure_future(read(path))
            await server.await_for(lambda: gate.waiting == 1)  # at once
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert 0 == bulkhead.in_use
            await server.await_until(0)
    gate.open()


# -- Policies


@with_server
async def test_each_origin_has_a_circuit_and_rejections_are_aiohttps_own(
    server: Server,
) -> None:
    """One that is dead is rejected; the other is served."""
    broken = per_origin(
        lambda origin: CircuitBreaker(consecutive_failures=1, name=origin)
    )
    async with session(resilient.Pipeline(broken, classify=http_verdict)) as client:
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(server.refused_url)
        with pytest.raises(CircuitOpenError, match="is open") as caught:
            await client.get(server.refused_url)
        assert isinstance(caught.value, aiohttp.ClientConnectionError)
        request: Any = caught.value.request  # type: ignore[attr-defined]  # it has one
        assert server.refused_url == str(request.url)
        assert 200 == (await client.get(server.url)).status


@with_server
async def test_a_server_that_asks_for_less_holds_the_others_back(
    server: Server,
) -> None:
    """Of the same credentials; ``hold_by`` says otherwise."""
    server.script("/", answer(429, {"retry-after": "30"}), answer(200))
    async with session(pipeline(total=0.5)) as client:
        assert 429 == (await client.get(server.url)).status
        with pytest.raises(RateLimitedError) as caught:
            await client.get(server.url)
        assert 29 < (caught.value.retry_after or 0) <= 30
        response = await client.get(server.url, headers={"x-api-key": "another"})
        assert 200 == response.status
    server.script("/", answer(429, {"retry-after": "30"}), answer(200))
    async with session(
        pipeline(), hold_by=lambda request: request.headers.get("tenant")
    ) as client:
        for tenant, status in (("1", 429), ("2", 200)):
            response = await client.get(server.url, headers={"tenant": tenant})
            assert status == response.status


@with_server
async def test_what_is_more_important_than_a_refused_request_is_not_held(
    server: Server,
) -> None:
    """A server that sheds batch work still takes the rest."""
    server.script("/", answer(503, {"retry-after": "30"}), answer(200))
    async with session(pipeline(total=0.5)) as client:
        with resilient.priority("batch"):
            assert 503 == (await client.get(server.url)).status
            with pytest.raises(RateLimitedError):
                await client.get(server.url)
        assert 200 == (await client.get(server.url)).status


@with_server
async def test_a_users_own_rejection_keeps_its_class(server: Server) -> None:
    """It is aiohttp's, too."""

    class MyError(resilient.RejectedError):
        """A rejection of the user's own."""

    class Refuses(resilient.Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            return Outcome(None, MyError("mine"))

    async with session(resilient.Pipeline(Refuses())) as client:
        with pytest.raises(MyError) as caught:
            await client.get(server.url)
        assert isinstance(caught.value, RejectedError)
        with pytest.raises(aiohttp.InvalidURL):
            await client.get("http://")


def test_a_middleware_shows_its_pipeline_and_checks_its_arguments() -> None:
    """As a transport does; a body in memory can be read in both colours."""
    policy = pipeline()
    middleware = ResilientMiddleware(policy)
    assert policy is middleware.pipeline
    assert f"ResilientMiddleware({policy!r})" == repr(middleware)
    with pytest.raises(TypeError, match="`retry_unsafe` must be"):
        ResilientMiddleware(retry_unsafe="yes")  # type: ignore[arg-type]  # refused

    async def read() -> list[bytes]:
        body = aiohttp_client.InMemory(b"x")
        return [chunk async for chunk in body]

    with ThreadPoolExecutor(1) as pool:
        assert [b"x"] == pool.submit(asyncio.run, read()).result()


# -- Whose fault an error is


class _Key:
    host, port, ssl, is_ssl = "api.test", 443, True, True


_INFO: Any = type("Info", (), {"real_url": "http://api.test/"})
CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed")


@pytest.mark.parametrize(
    ("error", "cause", "fault", "sent"),
    [
        (
            aiohttp.ClientConnectorError(_Key(), OSError(111, "refused")),
            None,
            Fault.SERVERS,
            False,
        ),
        (
            aiohttp.ClientConnectorError(_Key(), OSError(24, "files")),
            OSError(24, os.strerror(24)),
            Fault.OURS,
            False,
        ),
        (
            aiohttp.ClientConnectorCertificateError(_Key(), CERTIFICATE),
            CERTIFICATE,
            Fault.TLS,
            False,
        ),
        (aiohttp.ConnectionTimeoutError("late"), None, Fault.SERVERS, False),
        (aiohttp.ServerDisconnectedError(), None, Fault.SERVERS, True),
        (aiohttp.ClientPayloadError("half"), None, Fault.SERVERS, True),
        (aiohttp_client._too_late("late", None), None, Fault.SERVERS, True),  # type: ignore[arg-type]  # not looked at
        (aiohttp.InvalidURL("http://"), None, Fault.LASTING, False),
        (
            aiohttp.ClientHttpProxyError(_INFO, (), status=407),
            None,
            Fault.LASTING,
            False,
        ),
        (
            aiohttp.ClientHttpProxyError(_INFO, (), status=502),
            None,
            Fault.SERVERS,
            False,
        ),
    ],
)
def test_a_failure_is_judged_by_its_cause(
    error: Exception, cause: BaseException | None, fault: Fault, sent: bool
) -> None:
    """As one of the other clients is."""
    error.__cause__ = cause
    library = aiohttp_client.client_library({}).module
    assert (fault, sent) == faults.facts(error, library, None)
