"""Bytes of a peer that means harm: how many, how slowly, for how long."""

from __future__ import annotations

import contextlib
import gzip
import math
import socket
import threading
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import pytest
from tests.http.families import (
    URL,
    Http,
    in_every_client,
    in_sync_clients,
)
from tests.http.wire import Connection, Script, Wire

from resilient import Bulkhead, Pipeline, TimeoutExceededError, deadline_after
from resilient._http.body import Left, Timeouts
from resilient._http.network import watch
from resilient._runtimes import clock
from resilient.testing import virtual_time

PLAIN = "http://api.test/things"
HEAD = b"HTTP/1.1 200 OK\r\n"


# -- Time: every phase in which bytes still arrive


def dripping_head(_: Connection) -> Iterator[Any]:
    """A head of which one byte comes at a time."""
    for byte in HEAD + b"Content-Length: 0\r\n\r\n":
        yield 0.4
        yield bytes([byte])


def endless_hints(_: Connection) -> Iterator[Any]:
    """Answers that are none yet, again and again."""
    for _i in range(1000):
        yield 0.4
        yield b"HTTP/1.1 103 Early Hints\r\n\r\n"
    yield HEAD + b"Content-Length: 0\r\n\r\n"


def dripping_chunk_size(_: Connection) -> Iterator[Any]:
    """A chunk size of a hundred digits."""
    yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for _i in range(100):
        yield 0.4
        yield b"0"
    yield b"\r\n\r\n"


def dripping_body(_: Connection) -> Iterator[Any]:
    """A body that is read with the head."""
    yield HEAD + b"Content-Length: 100\r\n\r\n"
    for _i in range(100):
        yield 0.4
        yield b"x"


def trickling_body(_: Connection) -> Iterator[Any]:
    """Of no announced length, so that it is handed on."""
    yield HEAD + b"Connection: close\r\n\r\n"
    for _i in range(100):
        yield 0.4
        yield b"x"


def served(connection: Connection, *, settings: bool) -> Iterator[Any]:
    """Send frames of HTTP/2 that are no answer."""
    config = h2.config.H2Configuration(client_side=False)
    server = h2.connection.H2Connection(config)
    server.initiate_connection()
    yield server.data_to_send()
    for n in range(1000):
        yield 0.4
        server.receive_data(connection.take())
        if settings:
            server.update_settings({1: 4096 + n})
        else:
            server.ping(b"12345678")
        yield server.data_to_send()


def ping_flood(connection: Connection) -> Iterator[Any]:
    """Frames that have to be answered."""
    yield from served(connection, settings=False)


def settings_flood(connection: Connection) -> Iterator[Any]:
    """Frames that have to be acknowledged."""
    yield from served(connection, settings=True)


@pytest.mark.parametrize(
    "script",
    [dripping_head, endless_hints, dripping_chunk_size, dripping_body, trickling_body],
)
def test_the_total_holds_while_bytes_arrive(script: Script) -> None:
    """At the moment itself, though no single read ever times out."""

    @in_every_client
    async def scenario(h: Http) -> None:
        wire = Wire(h, script)
        pipeline = h.ours.standard_pipeline(total=2, attempt=None)
        async with h.client(wire.transport, pipeline, client={"timeout": 1}) as client:
            began = h.now()
            error = await h.error(h.library.TimeoutException, h.get, client, PLAIN)
        assert began + 2.0 == pytest.approx(h.now(), abs=0.01)
        assert "2 s" in str(error)

    _in_all(scenario)


@pytest.mark.parametrize("script", [ping_flood, settings_flood])
def test_the_total_holds_while_frames_arrive(script: Script) -> None:
    """Of HTTP/2 that are no answer."""

    @in_every_client
    async def scenario(h: Http) -> None:
        wire = Wire(h, script, http1=False, http2=True)
        pipeline = h.ours.standard_pipeline(total=2, attempt=None)
        async with h.client(wire.transport, pipeline, client={"timeout": 1}) as client:
            began = h.now()
            await h.error(h.library.TimeoutException, h.get, client, PLAIN)
        assert began + 2.0 == pytest.approx(h.now(), abs=0.01)

    _in_all(scenario)


@pytest.mark.parametrize(
    "script",
    [dripping_head, endless_hints, dripping_chunk_size, dripping_body, trickling_body],
)
def test_a_deadline_around_holds_while_bytes_arrive(script: Script) -> None:
    """It cancels nothing, so that async code has to look at the clock, too."""

    @in_every_client
    async def scenario(h: Http) -> None:
        wire = Wire(h, script)
        pipeline = h.ours.standard_pipeline(total=60, attempt=None)
        async with h.client(wire.transport, pipeline, client={"timeout": 1}) as client:
            began = h.now()
            with deadline_after(2):
                error = await h.error(TimeoutExceededError, h.get, client, PLAIN)
        assert began + 2.0 == pytest.approx(h.now(), abs=0.41)
        assert isinstance(error, h.library.TimeoutException)

    _in_all(scenario)


@pytest.mark.parametrize("around", [True, False])
def test_a_handshake_after_a_slow_proxy_gets_what_is_left(around: bool) -> None:
    """It had the time for connecting once more: nearly twice the total."""

    def proxy(_: Connection) -> Iterator[Any]:
        for line in (HEAD, b"A: b\r\n", b"A: b\r\n", b"A: b\r\n", b"\r\n"):
            yield 0.35
            yield line

    @in_every_client
    async def scenario(h: Http) -> None:
        wire = Wire(h, proxy, proxy="http://proxy.test")
        wire.tls_seconds = 30.0
        total = 60 if around else 2
        pipeline = h.ours.standard_pipeline(total=total, attempt=None, attempts=1)
        async with h.client(wire.transport, pipeline, client={"timeout": 20}) as client:
            began = h.now()
            with deadline_after(2) if around else contextlib.nullcontext():
                await h.error(TimeoutExceededError, h.get, client, URL)
        assert began + 2.0 == pytest.approx(h.now(), abs=0.01)

    _in_all(scenario)


@in_every_client
async def test_each_attempt_is_cut_while_bytes_arrive(h: Http) -> None:
    """And the next one begins in time."""
    wire = Wire(h, dripping_head, lambda _: iter([HEAD + b"Content-Length: 0\r\n\r\n"]))
    pipeline = h.ours.standard_pipeline(total=10, attempt=2)
    async with h.client(wire.transport, pipeline) as client:
        began = h.now()
        assert 200 == (await h.get(client, PLAIN)).status_code
    assert began + 2.0 < h.now() < began + 3.0
    assert wire.connections[0].closed


@in_sync_clients
async def test_a_shorter_timeout_of_the_clients_own_still_counts(h: Http) -> None:
    """For each read anew, as ever."""

    def stalls(_: Connection) -> Iterator[Any]:
        yield HEAD
        yield 0.9
        yield b"A: b\r\n"
        yield 5.0

    wire = Wire(h, stalls)
    pipeline = Pipeline(h.ours.standard_pipeline(total=60, attempt=None, attempts=1))
    async with h.client(wire.transport, pipeline, client={"timeout": 1}) as client:
        began = h.now()
        await h.error(h.library.ReadTimeout, h.get, client, PLAIN)
    assert began + 1.9 == pytest.approx(h.now(), abs=0.01)


@in_sync_clients
async def test_a_large_body_is_written_within_the_total(h: Http) -> None:
    """A peer that takes it bit by bit cannot stretch it."""
    wire = Wire(h, lambda _: iter([HEAD + b"Content-Length: 0\r\n\r\n"]))
    wire.write_seconds = 0.3
    pipeline = h.ours.standard_pipeline(total=2, attempt=None)
    async with h.client(wire.transport, pipeline, client={"timeout": 1}) as client:
        began = h.now()
        await h.error(
            h.library.TimeoutException,
            h.request,
            client,
            "PUT",
            PLAIN,
            content=b"x" * 1_000_000,
        )
    assert began + 2.0 <= h.now() <= began + 2.4
    assert 16_384 == wire.largest_write


@in_sync_clients
async def test_a_transport_is_wrapped_once_and_a_bare_client_does_not_notice(
    h: Http,
) -> None:
    """It may be shared."""
    wire = Wire(
        h,
        lambda _: iter([HEAD + b"Content-Length: 2\r\n\r\n", b"ok"] * 3),
    )
    for _ in range(2):
        watch(wire.transport)
        backend = wire.transport._pool._network_backend
        watch(wire.transport)
        assert backend is wire.transport._pool._network_backend
    ours = h.transport(wire.transport)
    async with h.bare(wire.transport, timeout=3) as bare, h.bare(ours) as client:
        assert b"ok" == (await h.get(bare, PLAIN)).content
        response = await h.get(client, PLAIN)
        assert b"ok" == response.content
        network = response.extensions["network_stream"]
        assert None is network.get_extra_info("ssl_object")
        assert b"ok" == (await h.get(bare, PLAIN)).content
    assert 1 == len(wire.connections)


@in_every_client
async def test_a_wrapped_network_speaks_tls_and_retries_connecting(h: Http) -> None:
    """All that a backend can do goes through."""
    script = lambda _: iter([HEAD + b"Content-Length: 0\r\n\r\n"])  # noqa: E731
    for options in ({"retries": 1}, {"retries": 1, "uds": "/nowhere"}):
        wire = Wire(h, script, **options)
        wire.connects = [wire.core.ConnectError("down")]
        async with h.client(wire.transport) as client:
            assert 200 == (await h.get(client, URL)).status_code
        assert 1 == len(wire.connections)


def test_a_timeout_is_measured_each_time_it_is_used() -> None:
    """Against a deadline that may move meanwhile, as between head and body."""
    with virtual_time():
        timeouts = Timeouts({"read": 5.0, "write": None})
        timeouts.deadline = clock.now() + 3.0
        read, write = timeouts["read"], timeouts["write"]
        assert isinstance(read, Left)
        assert isinstance(write, Left)
        assert (3.0, 3.0) == (read.now(KeyError), write.now(KeyError))
        clock.sleep(2.0)
        assert (1.0, 1.0) == (read.now(KeyError), write.now(KeyError))
        clock.sleep(1.0)
        with pytest.raises(KeyError, match="the time for the request is up"):
            read.now(KeyError)
        timeouts.deadline = math.inf
        assert (5.0, None) == (read.now(KeyError), write.now(KeyError))
        assert None is timeouts["write"]
        assert 5.0 == timeouts["read"]


@contextlib.contextmanager
def dripping_server() -> Iterator[tuple[str, threading.Event]]:
    """A server whose head drips for 30 s, and whether all of it was taken."""
    listener = socket.create_server(("127.0.0.1", 0))
    finished = threading.Event()
    gone = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            try:
                for byte in HEAD + b"A: b\r\n" * 100:
                    connection.sendall(bytes([byte]))
                    if gone.wait(0.05):
                        return
                connection.sendall(b"Content-Length: 0\r\n\r\n")
            except OSError:
                return
            finished.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/", finished
    gone.set()
    thread.join(30)
    listener.close()


@pytest.mark.real
@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_a_head_that_drips_over_a_socket_is_cut(family: str) -> None:
    """The server would go on for a hundred times as long."""
    h = Http(family, "sync")
    pipeline = h.ours.standard_pipeline(total=0.3, attempt=None)
    transport = h.ours.ResilientTransport(pipeline)
    with dripping_server() as (url, finished):
        with h.library.Client(transport=transport, timeout=0.3) as client:
            with pytest.raises(TimeoutExceededError):
                client.get(url)
    assert not finished.is_set()


@pytest.mark.real
@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_a_health_check_is_not_kept_by_a_head_that_drips(family: str) -> None:
    """It runs in a thread, which would be kept for as long."""
    h = Http(family, "sync")
    with dripping_server() as (url, finished):
        with pytest.raises(h.library.ReadTimeout):
            h.ours.http_check(timeout=0.3)(url)
    assert not finished.is_set()


# -- Size: what is announced is not what comes


@in_every_client
async def test_a_length_beside_chunks_is_no_length(h: Http) -> None:
    """RFC 9112, 6.3: the body streams, and nothing of it was read before."""
    headers = {"Content-Length": "1", "Transfer-Encoding": "chunked"}
    body = h.body(b"x", b"y")
    script = h.script(h.library.Response(200, headers=headers, stream=body))
    async with h.client(script) as client, h.stream(client) as response:
        assert 0 == body.taken
        assert b"xy" == await h.read(response)


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_no_more_than_max_body_is_kept(status: int, method: str) -> None:
    """A body that goes on is handed on, whole and in its own chunks."""

    @in_every_client
    async def scenario(h: Http) -> None:
        chunks = [b"%04d" % n for n in range(500)]
        bodies = [h.body(*chunks) for _ in range(3)]
        script = h.script(
            *(
                h.library.Response(status, headers={"Content-Length": "8"}, stream=body)
                for body in bodies
            )
        )
        async with h.client(script, h.retry(), max_body=100) as client:
            async with h.stream(client, method) as response:
                assert status == response.status_code
                last = bodies[len(script.sent) - 1]
                assert 26 == last.taken
                assert chunks == await h.parts(response, "raw")
        for body in bodies[: len(script.sent)]:
            assert 1 == body.closings

    _in_all(scenario)


@in_every_client
async def test_a_body_of_exactly_max_body_is_kept(h: Http) -> None:
    """One byte more is not."""
    for size, taken in ((100, 100), (101, 101)):
        script = h.script(h.response(200, *[b"x"] * size, length=3))
        async with h.client(script, max_body=100) as client:
            response = await h.open(client)
            streams = "_Body" in type(getattr(response.stream, "_stream", 0)).__name__
            assert (size > 100) == streams
            assert taken == len(await h.read(response))


@in_every_client
async def test_a_body_that_goes_on_may_be_left(h: Http) -> None:
    """Nothing is held afterwards, and the inner body is closed."""
    for read in (True, False):
        body = h.body(*[b"x"] * 500)
        script = h.script(
            h.library.Response(200, headers={"Content-Length": "3"}, stream=body)
        )
        bulkhead = Bulkhead(1)
        transport = h.transport(script, Pipeline(bulkhead), max_body=100)
        response = await h.handle(transport, h.library.Request("GET", URL))
        assert 1 == bulkhead.in_use
        if read and h.is_sync:
            assert b"x" == next(iter(response.stream))
        elif read:
            async with contextlib.aclosing(aiter(response.stream)) as chunks:
                assert b"x" == await anext(chunks)
        await h.close(response)
        assert 0 == bulkhead.in_use
        assert 1 <= body.closings


@in_every_client
async def test_chunks_are_handed_on_as_they_came(h: Http) -> None:
    """A compressed body is decoded chunk by chunk, as by a bare client."""
    packed = gzip.compress(b"x" * 1_000_000)
    chunks = [packed[at : at + 100] for at in range(0, len(packed), 100)]
    largest = []
    for bare in (True, False):
        headers = {"Content-Encoding": "gzip"}
        script = h.script(h.response(200, *chunks, length=len(packed), headers=headers))
        async with h.bare(script if bare else h.transport(script)) as client:
            response = await h.open(client)
            parts = await h.parts(response, "bytes")
        assert b"x" * 1_000_000 == b"".join(parts)
        largest.append([len(part) for part in parts])
    assert largest[0] == largest[1]


@in_every_client
async def test_draining_a_refused_answer_stops_at_64_kib(h: Http) -> None:
    """Whatever length it announced."""
    endless = h.body(*[b"x" * 1000] * 1000)
    script = h.script(
        h.library.Response(503, headers={"Content-Length": "5"}, stream=endless), 200
    )
    async with h.client(script, h.retry(), read_body=False) as client:
        assert 200 == (await h.get(client)).status_code
    assert 66 == endless.taken
    assert 1 == endless.closings


def _in_all(scenario: Any) -> None:
    """Run a scenario in every family and colour that it is meant for."""
    marks = {mark.args[0]: mark.args[1] for mark in scenario.pytestmark}
    for family in marks["family"]:
        for colour in marks["colour"]:
            scenario(family, colour)
