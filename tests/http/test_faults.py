"""Whose fault a failure is, and how far its request came: by what happened."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import pytest
from hyperframe import frame as frames
from tests.http.families import Http, in_async_clients, in_every_client
from tests.http.wire import Connection, Wire

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    CircuitBreaker,
    CircuitOpenError,
    Pipeline,
    Verdict,
)

PLAIN = "http://api.test/things"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def answers(_: Connection) -> Iterator[Any]:
    """Answer each request of a connection."""
    while True:
        yield OK


def watched(h: Http, **kw: Any) -> tuple[CircuitBreaker, Any]:
    """Make a breaker that one failure opens, and a pipeline that retries it."""
    breaker = CircuitBreaker(consecutive_failures=1)
    return breaker, h.retry(breaker, attempts=2, **kw)


# -- Shortages on our side


def shortages(core: Any) -> list[Exception]:
    """Errors of connecting for which no server can be blamed."""
    many = OSError(errno.EMFILE, "Too many open files")
    tried = OSError("All connection attempts failed")
    tried.__cause__ = ExceptionGroup("", [OSError(errno.ECONNREFUSED, "no"), many])
    single = OSError("All connection attempts failed")
    single.__cause__ = OSError(errno.EADDRNOTAVAIL, "no port")
    return [
        core.ConnectError(many),
        core.ConnectError(OSError(errno.ENFILE, "Too many open files in system")),
        core.ConnectError(tried),
        core.ConnectError(single),
        core.PoolTimeout("full"),
    ]


@in_every_client
async def test_a_shortage_on_our_side_says_nothing_of_the_server(h: Http) -> None:
    """It may be tried again, by any method, for nothing was sent."""
    for n in range(5):
        wire = Wire(h, answers)
        wire.connects = [shortages(wire.core)[n]]
        breaker, pipeline = watched(h)
        async with h.client(wire.transport, pipeline) as client:
            response = await h.post(client, PLAIN, content=b"x")
        assert 200 == response.status_code
        assert 2 == response.extensions["resilient"].attempts
        assert "closed" == breaker.state.value


@in_every_client
async def test_a_shortage_is_nothing_to_throttles_and_limits(h: Http) -> None:
    """Neither congestion nor a refusal."""
    throttle = AdaptiveThrottle()
    concurrency = AdaptiveConcurrency(AIMD(initial=20))
    script = h.script(h.library.PoolTimeout("full"))
    pipeline = Pipeline(throttle, concurrency, classify=h.ours.http_verdict)
    async with h.client(script, pipeline) as client:
        for _ in range(50):
            await h.error(h.library.PoolTimeout, h.get, client)
    assert 20 == concurrency.limit
    assert 50 == len(script.sent)


@in_async_clients
async def test_a_client_that_we_close_ourselves_opens_no_circuit(h: Http) -> None:
    """Its requests under way fail with errors of reading."""

    class ClosedResourceError(Exception):
        """As anyio and trio name it."""

    def closes(connection: Connection) -> Iterator[Any]:
        raise connection.wire.core.ReadError(ClosedResourceError())
        yield

    wire = Wire(h, closes, answers)
    breaker, pipeline = watched(h)
    async with h.client(wire.transport, pipeline) as client:
        assert 200 == (await h.get(client, PLAIN)).status_code
    assert "closed" == breaker.state.value


@in_every_client
async def test_streams_that_we_have_no_more_of_are_a_shortage(h: Http) -> None:
    """Of HTTP/2: h2 refuses to begin one."""
    for kind in (
        h2.exceptions.TooManyStreamsError,
        h2.exceptions.NoAvailableStreamIDError,
    ):
        error = h.library.LocalProtocolError("no stream")
        error.__cause__ = kind()
        script = h.script(error, 200)
        breaker, pipeline = watched(h)
        async with h.client(script, pipeline) as client:
            assert 200 == (await h.post(client)).status_code
        assert "closed" == breaker.state.value


@in_every_client
async def test_a_users_own_verdict_replaces_what_a_shortage_says(h: Http) -> None:
    """The verdict of `classify` counts for the circuit as well."""
    breaker = CircuitBreaker(consecutive_failures=1)
    for verdict, state in ((Verdict.PUSHBACK, "open"), (Verdict.FAILURE, "closed")):
        breaker.reset()
        script = h.script(h.library.PoolTimeout("full"))
        pipeline = Pipeline(breaker, classify=lambda outcome: verdict)  # noqa: B023
        async with h.client(script, pipeline) as client:
            await h.error(h.library.PoolTimeout, h.get, client)
        assert state == breaker.state.value


# -- What time will not mend


def tls(reason: str) -> ssl.SSLError:
    """An error of OpenSSL's, with its reason."""
    error = ssl.SSLError(1, f"[SSL: {reason}] {reason.lower()} (_ssl.c:1006)")
    error.reason = reason
    return error


def loop() -> Exception:
    """An error that is its own cause."""
    error = OSError("refused")
    error.__cause__ = error
    return error


LASTING: list[Callable[[Any], Exception]] = [
    lambda core: core.ConnectError(ssl.SSLCertVerificationError(1, "self-signed")),
    lambda core: core.ConnectError(tls("TLSV1_ALERT_PROTOCOL_VERSION")),
    lambda core: core.ConnectError(tls("SSLV3_ALERT_HANDSHAKE_FAILURE")),
    lambda core: core.ConnectError(tls("WRONG_VERSION_NUMBER")),
    lambda core: core.ReadError(tls("TLSV13_ALERT_CERTIFICATE_REQUIRED")),
    lambda core: core.ProxyError("407 Proxy Authentication Required"),
    lambda core: core.ProxyError("403 Forbidden"),
    lambda core: core.ProxyError("Invalid username/password"),
    lambda core: core.UnsupportedProtocol("Request URL has an unsupported protocol"),
]

PASSING: list[Callable[[Any], Exception]] = [
    lambda core: core.ConnectError(OSError(errno.ECONNREFUSED, "refused")),
    lambda core: core.ConnectError(ssl.SSLEOFError(8, "EOF occurred")),
    lambda core: core.ConnectError(loop()),
    lambda core: core.ConnectError(tls("TLSV1_ALERT_INTERNAL_ERROR")),
    lambda core: core.ConnectTimeout("timed out"),
    lambda core: core.ProxyError("502 Bad Gateway"),
]


@pytest.mark.parametrize("number", range(len(LASTING)))
def test_what_time_will_not_mend_is_tried_once(number: int) -> None:
    """Its own error is what the caller sees, however often it happens."""

    @in_every_client
    async def scenario(h: Http) -> None:
        wire = Wire(h, answers)
        made = LASTING[number](wire.core)
        breaker, pipeline = watched(h)
        async with h.client(wire.transport, pipeline) as client:
            for _ in range(5):
                wire.connects = [made, None]
                error = await h.error(h.library.TransportError, h.get, client, PLAIN)
                assert type(made).__name__ == type(error).__name__
                assert "stopped: not retryable" in error.__notes__[0]
        assert "closed" == breaker.state.value
        assert not wire.connections

    _in_all(scenario)


@pytest.mark.parametrize("number", range(len(PASSING)))
def test_what_time_may_mend_is_tried_again(number: int) -> None:
    """By any method, for nothing was sent; it counts against the server."""

    @in_every_client
    async def scenario(h: Http) -> None:
        wire = Wire(h, answers)
        wire.connects = [PASSING[number](wire.core)] * 2
        breaker = CircuitBreaker(consecutive_failures=2)
        async with h.client(wire.transport, h.retry(breaker)) as client:
            await h.error(CircuitOpenError, h.post, client, PLAIN, content=b"x")
        assert not wire.connects

    _in_all(scenario)


@in_every_client
async def test_an_error_that_the_caller_handles_is_not_the_requests(h: Http) -> None:
    """Python sets it as the context of whatever is raised meanwhile."""
    wire = Wire(h, answers)
    breaker, pipeline = watched(h)
    async with h.client(wire.transport, pipeline) as client:
        try:
            raise ssl.SSLCertVerificationError(1, "of another server")
        except ssl.SSLError:
            wire.connects = [wire.core.ConnectError("refused")] * 2
            await h.error(CircuitOpenError, h.get, client, PLAIN)
    assert "open" == breaker.state.value


# -- HTTP/1.1: what was written


# httpx, unlike httpx2, does not close the generator of a body that it stops
# sending, which trio reports.
_httpx_leaves_generators = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def once(_: Connection) -> Iterator[Any]:
    """Answer one request, and close."""
    yield OK


@pytest.mark.parametrize("error", ["WriteError", "WriteTimeout"])
def test_a_head_that_could_not_be_written_reached_no_server(error: str) -> None:
    """On an idle connection that the server has closed: any method goes again."""

    @in_every_client
    async def scenario(h: Http) -> None:
        for pipeline in (h.retry(), h.ours.standard_pipeline()):
            wire = Wire(h, once, answers)
            async with h.client(wire.transport, pipeline) as client:
                await h.get(client, PLAIN)
                wire.connections[0].writes = [error]
                response = await h.post(client, PLAIN, content=b"payment")
            assert 200 == response.status_code
            assert 2 == len(wire.connections)
            assert b"payment" in wire.connections[1].buffer

    _in_all(scenario)


@_httpx_leaves_generators
@in_every_client
async def test_a_request_that_was_written_may_have_arrived(h: Http) -> None:
    """The same connection, but its head was taken: a POST is not sent again."""
    for writes in ([], [None, "WriteError"]):
        wire = Wire(h, once, answers)
        async with h.client(wire.transport, h.retry()) as client:
            await h.get(client, PLAIN)
            wire.connections[0].writes = list(writes)
            error = await h.error(
                h.library.RemoteProtocolError, h.post, client, PLAIN, content=b"x"
            )
        assert "POST is not idempotent" in error.__notes__[0]
        assert 1 == len(wire.connections)


@in_every_client
async def test_a_large_head_is_written_when_all_of_it_is(h: Http) -> None:
    """Half of one is no request."""
    wire = Wire(h, once, answers)
    async with h.client(wire.transport, h.retry()) as client:
        await h.get(client, PLAIN)
        wire.connections[0].writes = (
            [None, "WriteError"] if h.is_sync else ["WriteError"]
        )
        response = await h.post(
            client, PLAIN, content=b"x", headers={"A": "a" * 20_000}
        )
    assert 200 == response.status_code


# -- HTTP/2: what was accepted


Act = Callable[[h2.connection.H2Connection, int], bytes]


def serving(*acts: Act) -> Callable[[Connection], Iterator[Any]]:
    """Serve HTTP/2: the n-th request of a connection by the n-th act."""

    def script(connection: Connection) -> Iterator[Any]:
        config = h2.config.H2Configuration(client_side=False)
        server = h2.connection.H2Connection(config)
        server.initiate_connection()
        todo = list(acts)
        while todo:
            events = server.receive_data(connection.take())
            for event in events:
                if isinstance(event, h2.events.RequestReceived):
                    assert event.stream_id is not None
                    yield server.data_to_send() + todo.pop(0)(server, event.stream_id)
            if not events:
                return

    return script


def answer(server: h2.connection.H2Connection, stream: int) -> bytes:
    """Answer 200."""
    server.send_headers(stream, [(":status", "200")], end_stream=True)
    return server.data_to_send()


def away(last: int, *more: frames.Frame) -> Act:
    """Go away, with other frames in the same segment."""

    def act(server: h2.connection.H2Connection, stream: int) -> bytes:
        goaway = frames.GoAwayFrame(0, last_stream_id=last)
        return b"".join(frame.serialize() for frame in (goaway, *more))

    return act


def refuse(server: h2.connection.H2Connection, stream: int) -> bytes:
    """Refuse a stream."""
    server.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
    return server.data_to_send()


def oversized(server: h2.connection.H2Connection, stream: int) -> bytes:
    """Answer with more headers than the client takes."""
    headers = [(":status", "200"), *((f"a{n}", "x" * 1000) for n in range(100))]
    server.send_headers(stream, headers, end_stream=True)
    return server.data_to_send()


PING = frames.PingFrame(0, opaque_data=b"12345678")
WINDOW = frames.WindowUpdateFrame(0, window_increment=1)


def over_h2(h: Http, *scripts: Any) -> Wire:
    """A network of HTTP/2 without TLS."""
    return Wire(h, *scripts, http1=False, http2=True)


@pytest.mark.parametrize("more", [(), (PING,), (WINDOW,), (WINDOW, PING)])
def test_a_server_that_goes_away_is_no_mistake_of_ours(more: Any) -> None:
    """Whatever else is in the segment: it is a failure, and a GET goes again."""

    @in_every_client
    async def scenario(h: Http) -> None:
        for method, last, sent in (
            ("GET", 0, True),
            ("GET", 1, True),
            ("POST", 0, True),
            ("POST", 1, False),
        ):
            wire = over_h2(h, serving(away(last, *more)), serving(answer))
            async with h.client(wire.transport, h.retry(attempts=2)) as client:
                if sent:
                    response = await h.request(client, method, PLAIN)
                    assert 200 == response.status_code
                else:
                    error = await h.error(
                        h.library.TransportError, h.request, client, method, PLAIN
                    )
                    assert "POST is not idempotent" in error.__notes__[0]

    _in_all(scenario)


@pytest.mark.parametrize("more", [(), (PING,)])
def test_streams_above_the_last_one_were_never_processed(more: Any) -> None:
    """Whatever its number: the second request of a connection may go again."""

    @in_every_client
    async def scenario(h: Http) -> None:
        for last, fine in ((1, True), (3, False)):
            wire = over_h2(h, serving(answer, away(last, *more)), serving(answer))
            async with h.client(wire.transport, h.retry()) as client:
                await h.get(client, PLAIN)
                if fine:
                    assert 200 == (await h.post(client, PLAIN)).status_code
                else:
                    await h.error(h.library.TransportError, h.post, client, PLAIN)

    _in_all(scenario)


@in_every_client
async def test_of_a_stream_that_is_not_known_a_goaway_says_little(h: Http) -> None:
    """Of another transport: only that none was processed, where it says so."""
    for last, sent in ((0, 2), (5, 1)):
        event = h2.events.ConnectionTerminated()
        event.last_stream_id = last
        error = h.library.RemoteProtocolError("away")
        error.__cause__ = RuntimeError(event)
        script = h.script(error, 200)
        async with h.client(script, h.retry()) as client:
            try:
                await h.post(client)
            except h.library.RemoteProtocolError:
                pass
        assert sent == len(script.sent)


@_httpx_leaves_generators
@in_async_clients
async def test_what_others_read_on_a_shared_connection_is_known(h: Http) -> None:
    """Of a GOAWAY that another stream met, a stream sees a closed connection."""

    def leaves(_: Connection) -> Iterator[Any]:
        yield 1.0
        yield away(1, PING)(None, 1)  # type: ignore[arg-type]  # it needs no server
        yield 9.0

    async def slowly() -> Any:
        yield b"x"
        await h.sleep(2.0)
        yield b"y"

    for first in ("", "sending"):
        wire = over_h2(h, leaves, serving(answer, answer))
        settings = frames.SettingsFrame(0, settings={3: 100}).serialize()
        if first:

            def ready(connection: Connection) -> Iterator[Any]:
                yield settings  # noqa: B023
                yield from leaves(connection)

            wire.scripts = (ready, serving(answer, answer))
        results: list[Any] = []

        async def post(client: Any) -> None:
            await h.sleep(0.5)
            content = slowly() if first else None  # noqa: B023
            try:
                results.append(await h.post(client, PLAIN, content=content))  # noqa: B023
            except h.library.TransportError as error:
                results.append(error)  # noqa: B023

        async with h.client(wire.transport, h.retry()) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(post, client)
                assert 200 == (await h.get(client, PLAIN)).status_code
        (result,) = results
        if first:
            # Its headers were taken, and above the last stream or not is not
            # known to it.
            assert "POST is not idempotent" in result.__notes__[0]
        else:
            assert 200 == result.status_code


@in_every_client
async def test_a_refused_stream_was_never_processed(h: Http) -> None:
    """RFC 9113, 8.7."""
    wire = over_h2(h, serving(refuse, answer))
    async with h.client(wire.transport, h.retry()) as client:
        assert 200 == (await h.post(client, PLAIN)).status_code


@in_every_client
async def test_headers_that_are_too_large_are_the_servers_fault(h: Http) -> None:
    """The client calls it a violation of its own."""
    wire = over_h2(h, serving(oversized), serving(oversized))
    breaker, pipeline = watched(h)
    async with h.client(wire.transport, pipeline) as client:
        await h.error(CircuitOpenError, h.get, client, PLAIN)
    assert "open" == breaker.state.value


@_httpx_leaves_generators
@in_every_client
async def test_a_stream_that_the_server_resets_while_we_send_is_its_fault(
    h: Http,
) -> None:
    """What was sent of it may have been processed."""

    def reset(server: h2.connection.H2Connection, stream: int) -> bytes:
        server.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        return server.data_to_send()

    wire = over_h2(h, serving(reset), serving(answer))
    async with h.client(wire.transport, h.retry()) as client:
        large = b"x" * 200_000
        error = await h.error(
            h.library.TransportError, h.post, client, PLAIN, content=large
        )
        assert "POST is not idempotent" in error.__notes__[0]
        assert 200 == (await h.request(client, "PUT", PLAIN)).status_code


@in_every_client
async def test_a_request_that_we_spell_wrongly_is_our_mistake(h: Http) -> None:
    """Whatever the protocol: it is sent once, and is no failure."""
    for wire, headers in (
        (Wire(h, answers), {"A": "\x00"}),
        (over_h2(h, serving(answer)), {"TE": "gzip"}),
    ):
        breaker, pipeline = watched(h)
        async with h.client(wire.transport, pipeline) as client:
            error = await h.error(Exception, h.get, client, PLAIN, headers=headers)
            assert "stopped: not retryable" in error.__notes__[0]
        assert "closed" == breaker.state.value


@in_every_client
async def test_a_body_that_can_be_sent_once_is_not_sent_half_by_the_client(
    h: Http,
) -> None:
    """Clients send a request again themselves that a GOAWAY disowns."""

    class Parts:
        parts: tuple[bytes, ...] = (b"one ", b"body")

        def _next(self) -> Iterator[bytes]:
            parts, self.parts = self.parts, ()
            yield from parts

    class File(Parts):
        """It goes on where it stopped, as a file does."""

        def __iter__(self) -> Iterator[bytes]:
            yield from self._next()

    class AsyncFile(Parts):
        async def __aiter__(self) -> Any:
            for part in self._next():
                yield part

    again = File() if h.is_sync else AsyncFile()
    generator = iter(File()) if h.is_sync else aiter(AsyncFile())
    for body in (again, generator):
        wire = over_h2(h, serving(answer, away(1)), serving(answer))
        async with h.client(wire.transport, h.retry()) as client:
            await h.get(client, PLAIN)
            await h.error(
                h.library.StreamConsumed,
                h.request,
                client,
                "PUT",
                PLAIN,
                content=body,
                headers={"Content-Length": "8"},
            )
        assert all(
            b"body" not in connection.buffer for connection in wire.connections[1:]
        )


def _in_all(scenario: Any) -> None:
    """Run a scenario in every family and colour that it is meant for."""
    marks = {mark.args[0]: mark.args[1] for mark in scenario.pytestmark}
    for family in marks["family"]:
        for colour in marks["colour"]:
            scenario(family, colour)
