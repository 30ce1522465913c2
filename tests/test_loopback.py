"""The loopback server does what its table says, to bare clients."""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from tests import loopback
from tests.loopback import PATIENCE, Act, Head, Request, Server, Steps, answer

pytestmark = pytest.mark.real

LIBRARIES = [httpx, httpx2]
HTTP = {"HTTP/1.1": {}, "HTTP/2": {"http1": False, "http2": True}}
# More than can be on its way unread: the sockets' buffers hold some 10 MiB, the
# server's HTTP/2 window 64 KiB, which in 32 MiB would have to be opened too often.
UPLOADS = {"HTTP/1.1": bytes(1 << 25), "HTTP/2": bytes(1 << 20)}
# More than the clients' HTTP/2 window of 16 MiB.
DOWNLOAD = b"0123456789abcdef" * (17 << 16)

in_both_versions = pytest.mark.parametrize("version", HTTP)
over_http1 = pytest.mark.parametrize("version", ["HTTP/1.1"])
over_http2 = pytest.mark.parametrize("version", ["HTTP/2"])


@pytest.fixture
def server() -> Iterator[Server]:
    """One for each test."""
    with Server() as server:
        yield server


@pytest.fixture(params=LIBRARIES, ids=lambda library: library.__name__)
def library(request: pytest.FixtureRequest) -> ModuleType:
    """The client library."""
    library: ModuleType = request.param
    return library


@pytest.fixture
def client(library: ModuleType, version: str, server: Server) -> Iterator[Any]:
    """A client that, once closed, has left no connection behind."""
    transport = library.HTTPTransport(**HTTP[version])
    # No test may need this long; those that time out say how soon.
    with library.Client(transport=transport, base_url=server.url, timeout=20) as client:
        yield client
    server.wait_until(0)


def connect(server: Server) -> socket.socket:
    """A bare connection, for what no client would do."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), PATIENCE)


def in_async_clients(
    body: Callable[[Any, Server], Awaitable[None]],
) -> Callable[..., None]:
    """Run a test with each library's async client, on asyncio and on trio."""

    @pytest.mark.parametrize("backend", ["asyncio", "trio"])
    def test(library: ModuleType, server: Server, backend: str) -> None:
        async def run() -> None:
            async with library.AsyncClient(base_url=server.url, timeout=20) as client:
                await body(client, server)
            await server.await_until(0)

        anyio.run(run, backend=backend)

    test.__name__ = body.__name__
    test.__doc__ = body.__doc__
    return test


# --- answers --------------------------------------------------------------


@in_both_versions
def test_a_path_without_a_script_echoes(
    client: Any, server: Server, version: str
) -> None:
    """Both versions tell the same, pseudo-headers translated."""
    told = client.post("/any?q=1", content=b"\x00\xff", headers={"x-a": "b"}).json()

    headers = told.pop("headers")
    assert "b" == headers["x-a"]
    assert server.url == f"http://{headers['host']}"
    assert not [name for name in headers if name.startswith(":")]
    assert {
        "connection": 1,
        "http_version": version,
        "method": "POST",
        "target": "/any?q=1",
        "path": "/any",
        "hit": 1,
        "body": "\x00\xff",
        "complete": True,
    } == told


@in_both_versions
def test_answers_are_given_in_turn_and_the_last_stays(
    client: Any, server: Server
) -> None:
    """Every path counts its own hits."""
    server.script("/a", answer(503), answer(429), answer(200, body=b"ok"))

    assert [503, 429, 200, 200] == [client.get("/a").status_code for _ in range(4)]
    assert 200 == client.get("/b").status_code
    assert {"/a": 4, "/b": 1} == server.hits
    assert [1, 2, 3, 4, 1] == [request.hit for request in server.requests]


@in_both_versions
def test_a_function_answers_when_it_has_the_whole_request(
    client: Any, server: Server, version: str
) -> None:
    """It may look at everything, and returns steps."""

    def measure(request: Request) -> Steps:
        assert request.complete
        return answer(200, body=str(len(request.body)).encode())

    server.script("/", measure)

    assert str(len(UPLOADS[version])) == client.post("/", content=UPLOADS[version]).text


@in_both_versions
def test_a_large_body_arrives_whole(client: Any, server: Server) -> None:
    """Beyond HTTP/2's windows, which the client has to open again."""
    server.script("/", answer(200, body=DOWNLOAD))

    assert DOWNLOAD == client.get("/").content


@in_both_versions
def test_a_head_request_is_answered_without_a_body(client: Any, server: Server) -> None:
    """And the connection lives on."""
    assert b"" == client.head("/").content
    assert 200 == client.get("/").status_code
    assert [1, 1] == [request.connection for request in server.requests]


@in_both_versions
@pytest.mark.parametrize(
    "value", ["0", "1.5", "-5", "abc", "", "Fri, 31 Dec 1999 23:59:59 GMT", "9" * 400]
)
def test_headers_arrive_as_they_were_written(
    client: Any, server: Server, value: str
) -> None:
    """Every form of Retry-After, garbage too."""
    server.script("/", answer(503, {"retry-after": value}))

    assert value == client.get("/").headers["retry-after"]


@over_http1
def test_connection_close_closes(client: Any, server: Server) -> None:
    """HTTP/1.1 alone has it."""
    server.script("/", answer(200, {"connection": "close"}), answer())

    client.get("/")
    server.wait_until(0)
    client.get("/")

    assert [1, 2] == [request.connection for request in server.requests]


# --- faults ---------------------------------------------------------------


@in_both_versions
def test_no_socket_listens_at_the_refused_url(
    client: Any, server: Server, library: ModuleType
) -> None:
    """Connecting fails at once."""
    with pytest.raises(library.ConnectError):
        client.get(server.refused_url)


@in_both_versions
@pytest.mark.parametrize("fault", [[Act.CLOSE], [Act.RESET], []], ids=str)
def test_a_kept_alive_connection_dies_without_an_answer(
    client: Any, server: Server, library: ModuleType, fault: Steps
) -> None:
    """The request had arrived; the client makes a new connection."""
    server.script("/", answer(), fault, answer())

    client.get("/")
    with pytest.raises((library.ReadError, library.RemoteProtocolError)):
        client.post("/", content=b"body")
    client.get("/")

    assert [1, 1, 2] == [request.connection for request in server.requests]
    assert [True] * 3 == [request.complete for request in server.requests]


@in_both_versions
@pytest.mark.parametrize("fault", [Act.CLOSE, Act.RESET])
def test_a_connection_dies_while_the_request_is_sent(
    client: Any, server: Server, version: str, library: ModuleType, fault: Act
) -> None:
    """The body never arrives whole."""
    server.script("/", [Act.UNREAD, fault])

    with pytest.raises(library.TransportError):
        client.post("/", content=UPLOADS[version])

    assert not server.requests[0].complete
    assert len(UPLOADS[version]) > len(server.requests[0].body)


@in_both_versions
def test_a_body_that_is_not_read_stalls_its_client(
    client: Any, server: Server, version: str
) -> None:
    """HTTP/1.1 cannot write on; HTTP/2 waits to be given room."""
    gate = server.gate()
    server.script("/", [Act.UNREAD, gate, *answer()])

    with ThreadPoolExecutor() as threads:
        response = threads.submit(client.post, "/", content=UPLOADS[version])
        server.wait_for(lambda: gate.waiting == 1)
        assert not server.requests[0].complete
        gate.open()
        assert 200 == response.result(PATIENCE).status_code

    server.wait_for(lambda: server.requests[0].complete)


@in_both_versions
def test_an_early_answer_reads_the_body_afterwards(
    client: Any, server: Server, version: str
) -> None:
    """So that a client which sends first and reads later gets it."""
    server.script("/", [Act.UNREAD, *answer(413)], answer())

    assert 413 == client.post("/", content=UPLOADS[version]).status_code
    assert 200 == client.get("/").status_code
    assert server.requests[0].complete
    assert UPLOADS[version] == server.requests[0].body
    assert [1, 1] == [request.connection for request in server.requests]


@in_both_versions
@pytest.mark.parametrize(
    "end", [[], [Act.CLOSE], [Act.RESET]], ids=["truncated", "closed", "reset"]
)
def test_a_body_ends_half_way(
    client: Any, server: Server, library: ModuleType, end: Steps
) -> None:
    """Status, headers and the first half had arrived."""
    gate = server.gate()
    head = Head(200, {"content-length": "9"})
    server.script("/", [head, b"half", gate, *end])

    with client.stream("GET", "/") as response:
        chunks = response.iter_raw()
        assert b"half" == next(chunks)
        gate.open()
        # h2's own error passes through httpcore when a body is too short.
        with pytest.raises((library.TransportError, ProtocolError)):
            next(chunks)


@in_both_versions
def test_a_body_trickles_as_the_test_lets_it(client: Any, server: Server) -> None:
    """Piece by piece, from one gate."""
    gate = server.gate()
    server.script("/", [Head(200), gate, b"a", gate, b"b", gate, b"c"])

    with client.stream("GET", "/") as response:
        chunks = response.iter_raw()
        for piece in (b"a", b"b", b"c"):
            gate.let_one_pass()
            assert piece == next(chunks)
        assert [] == list(chunks)


@in_both_versions
@pytest.mark.parametrize("before", [[], [Head(200), b"half"]], ids=["head", "body"])
def test_an_answer_stalls_until_the_client_gives_up(
    client: Any, server: Server, library: ModuleType, version: str, before: Steps
) -> None:
    """Over HTTP/2 these clients keep the connection, and the server cannot tell."""
    gate = server.gate()
    server.script("/", [*before, gate, *answer()])

    with pytest.raises(library.ReadTimeout):
        client.get("/", timeout=library.Timeout(20, read=0.1))

    server.wait_for(lambda: [True] == [request.complete for request in server.requests])
    if version == "HTTP/1.1":
        server.wait_until(0)
        assert 0 == gate.waiting


@in_both_versions
def test_idle_connections_are_dropped(
    client: Any, server: Server, library: ModuleType, version: str
) -> None:
    """Before they send, these clients look at an idle HTTP/1.1 connection alone."""
    client.get("/")
    assert 1 == server.open_connections
    server.drop_connections()
    server.wait_until(0)
    if version == "HTTP/2":
        with pytest.raises((library.ReadError, library.RemoteProtocolError)):
            client.get("/")
    client.get("/")

    assert [1, 2] == [request.connection for request in server.requests]


# --- HTTP/2 ---------------------------------------------------------------


@over_http2
@pytest.mark.parametrize("code", [ErrorCodes.REFUSED_STREAM, ErrorCodes.INTERNAL_ERROR])
@pytest.mark.parametrize("before", [[], [Head(200), b"half"]], ids=["head", "body"])
def test_a_stream_is_reset_and_its_connection_lives_on(
    client: Any, server: Server, library: ModuleType, before: Steps, code: ErrorCodes
) -> None:
    """The client learns the code."""
    server.script("/", [*before, code], answer())

    with pytest.raises(library.RemoteProtocolError, match=f"error_code:{code:d}"):
        client.get("/")
    client.get("/")

    assert [1, 1] == [request.connection for request in server.requests]


@over_http2
def test_going_away_disowns_a_request(client: Any, server: Server) -> None:
    """The client sends it again by itself, on a new connection."""
    server.script("/", answer(), [Act.GO_AWAY], answer())

    client.get("/")
    assert 200 == client.get("/").status_code

    assert [1, 1, 2] == [request.connection for request in server.requests]


@over_http2
@pytest.mark.parametrize(("act", "last"), [(Act.GO_AWAY, 0), (Act.GO_AWAY_AFTER, 1)])
def test_going_away_tells_the_last_stream(
    client: Any, server: Server, library: ModuleType, act: Act, last: int
) -> None:
    """Clients take 0, which disowns the first request, for nothing said."""
    server.script("/", [act])

    with pytest.raises(library.RemoteProtocolError, match=f"last_stream_id:{last}"):
        client.get("/")


def test_clients_that_reset_streams_and_go_away_are_heard(server: Server) -> None:
    """As the clients above do not, and others may."""
    gate = server.gate()
    server.script("/", [Head(200), gate])
    http = H2Connection(H2Configuration())
    http.initiate_connection()
    pseudo = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "a"}
    http.send_headers(1, list(pseudo.items()), end_stream=True)

    with connect(server) as raw:
        raw.sendall(http.data_to_send())
        server.wait_for(lambda: gate.waiting == 1)
        http.reset_stream(1)
        raw.sendall(http.data_to_send())
        server.wait_for(lambda: gate.waiting == 0)
        assert 1 == server.open_connections
        http.close_connection()
        raw.sendall(http.data_to_send())
        server.wait_until(0)


# --- async clients --------------------------------------------------------


@in_async_clients
async def test_many_requests_wait_at_one_gate(client: Any, server: Server) -> None:
    """Each has a connection, which goes back when the gate opens."""
    gate = server.gate()
    server.script("/", [gate, *answer()])

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(client.get, "/")
        await server.await_for(lambda: gate.waiting == 10)
        assert 10 == server.open_connections
        gate.open()

    await client.get("/")
    assert 11 == server.hits["/"]
    assert 10 == server.open_connections


@in_async_clients
async def test_a_cancelled_stream_closes_its_connection(
    client: Any, server: Server
) -> None:
    """The server notices, in the middle of a body."""
    gate = server.gate()
    server.script("/", [Head(200), b"half", gate])

    async def read() -> None:
        async with client.stream("GET", "/") as response:
            await response.aread()

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await server.await_for(lambda: gate.waiting == 1)
        group.cancel_scope.cancel()

    await server.await_until(0)
    assert 0 == gate.waiting


@in_async_clients
async def test_an_async_body_is_reset(client: Any, server: Server) -> None:
    """As a sync one is."""
    server.script("/", [Head(200), b"half", Act.RESET])

    with pytest.raises((httpx.ReadError, httpx2.ReadError)):
        await client.get("/")


# --- the server itself ----------------------------------------------------


def test_garbage_is_hung_up_on(server: Server) -> None:
    """It is no request."""
    with connect(server) as raw:
        raw.sendall(b"ho")
        raw.sendall(b"hum\r\n\r\n")
        assert b"" == raw.recv(1)

    server.wait_until(0)
    assert [] == server.requests


@over_http1
def test_an_error_of_the_script_reaches_the_test(
    library: ModuleType, version: str
) -> None:
    """At the end of the server; the client is reset."""
    with pytest.raises(ExceptionGroup) as caught:
        with Server() as server:
            server.script("/", [Act.GO_AWAY])
            with pytest.raises(library.TransportError):
                library.get(server.url)

    assert "the server could not follow its script (1 sub-exception)" == str(
        caught.value
    )
    assert ["Act.GO_AWAY needs HTTP/2"] == [str(e) for e in caught.value.exceptions]


def test_waiting_in_vain_is_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a dead-lock."""
    monkeypatch.setattr(loopback, "PATIENCE", 0.0)

    with pytest.raises(AssertionError, match="waited too long"):
        server.wait_until(1)


def test_nothing_is_left_of_a_server_that_had_guests() -> None:
    """Neither threads nor connections, though an answer stalls and a client idles."""
    threads = set(threading.enumerate())
    with Server() as server:
        gate = server.gate()
        server.script("/", [gate])
        idle, asking = connect(server), connect(server)
        asking.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        server.wait_for(lambda: gate.waiting == 1)

    with idle, asking:
        assert b"" == idle.recv(1)
        assert b"" == asking.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect(server)
    assert threads >= set(threading.enumerate())
