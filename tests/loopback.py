"""A real server on loopback that answers by script, faults included.

It speaks HTTP/1.1 and, to clients with prior knowledge, HTTP/2, on one port
and in a thread of its own, so that sync, asyncio and trio tests use it alike::

    with Server() as server:
        server.script("/", [Act.RESET], answer(503, {"retry-after": "1"}), answer())
        client.get(server.url)
        assert 3 == server.hits["/"]

    httpx2.Client(transport=httpx2.HTTPTransport(http1=False, http2=True))  # HTTP/2

A path's answers are given in turn, and the last one again and again; a path
without a script echoes. An answer is a list of steps, or a function of the
`Request` that returns one. The request is read whole before the first step.

====================================  =========================================
step                                  what the server does
====================================  =========================================
``Head(status, headers)``             sends status and headers
``b"…"``                              sends a piece of the body
``*answer(status, headers, body)``    sends all of it, with a Content-Length
a `Gate`, from ``server.gate()``      stalls until the test lets it go on
``Act.UNREAD`` (first)                answers without reading the body first;
                                      nothing is read until the answer's end
``Act.CLOSE``                         closes the connection (FIN)
``Act.RESET``                         resets the connection (RST)
``ErrorCodes.REFUSED_STREAM``, …      HTTP/2: RST_STREAM with that code
``Act.GO_AWAY``                       HTTP/2: GOAWAY that disowns this request
``Act.GO_AWAY_AFTER``                 HTTP/2: GOAWAY that may have served it
====================================  =========================================

====================================  =========================================
fault                                 script
====================================  =========================================
refused connection                    ``server.refused_url``
slow answer                           ``[gate, *answer()]``
reset while the body is sent          ``[Act.UNREAD, Act.RESET]``
kept-alive connection that died       ``answer(), [Act.CLOSE]``
idle connection closed                ``server.drop_connections()``
truncated body                        ``[Head(200, {"content-length": "9"}), b"ha"]``
body reset half-way                   ``[Head(200), b"half", Act.RESET]``
body that stalls, or trickles         ``[Head(200), gate, b"a", gate, b"b"]``
====================================  =========================================

What came in is in `Server.requests` and `Server.hits`; what is open now in
`Server.open_connections` and `Gate.waiting`, for which `Server.wait_for` waits.
A connection counts as open until its socket is closed and its answers have ended.
An answer that cannot be given as written fails the test when the server ends.
Nothing here sleeps; nothing waits longer than `PATIENCE`.

The module is one thing, script and both protocols, so that a step can be followed
from its name to the bytes it becomes; h11 and h2 know what those bytes are.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Self

import anyio.to_thread
import h2.events as frames
import h11
from anyio.from_thread import BlockingPortal, start_blocking_portal
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

PATIENCE = 10.0  # seconds

Pairs = Iterable[tuple[bytes, bytes]]


class Act(Enum):
    """What a server does besides sending; the module's table explains each."""

    UNREAD = auto()
    CLOSE = auto()
    RESET = auto()
    GO_AWAY = auto()
    GO_AWAY_AFTER = auto()


@dataclass(frozen=True)
class Head:
    """Status and headers; without a Content-Length, HTTP/1.1 bodies are chunked."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Request:
    """What arrived of one request; `body` and `complete` grow as more comes in."""

    connection: int  # counted from 1, in the order they were opened
    http_version: str  # "HTTP/1.1" or "HTTP/2"
    method: str
    target: str  # path and query
    path: str
    headers: dict[str, str]  # names in lower case
    hit: int  # the how-manieth request for this path, from 1
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False  # the body arrived whole


class Gate:
    """A step that stalls until the test lets it go on; any number may wait at it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._passes = asyncio.Semaphore(0)
        self._open = False
        self.waiting = 0

    def let_one_pass(self) -> None:
        """Let the one that has waited longest go on, or else the next to come."""
        self._server._portal.call(self._passes.release)

    def open(self) -> None:
        """Let all go on, now and from now on."""
        self._open = True
        self.let_one_pass()

    async def _pass(self) -> None:
        self.waiting += 1
        self._server._changed()
        try:
            await self._passes.acquire()
        finally:
            self.waiting -= 1
            self._server._changed()
        if self._open:
            self._passes.release()


Step = Head | bytes | Gate | Act | ErrorCodes
Steps = Sequence[Step]
Answer = Steps | Callable[[Request], Steps]


def answer(
    status: int = 200, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> list[Step]:
    """A whole response."""
    return [Head(status, {"content-length": str(len(body)), **(headers or {})}), body]


FAULTS: dict[str, Steps] = {
    "closed": [Act.CLOSE],
    "reset": [Act.RESET],
    "truncated": [Head(200, {"content-length": "9"}), b"ha", Act.CLOSE],
    "503": answer(503),
    "429": answer(429),
    "500": [Head(500), b"of no known length"],
}
"""What a server does wrong, and a second attempt mends."""


def echo(request: Request) -> Steps:
    """Tells the request back, in JSON; each character of `body` is one byte."""
    told = asdict(request) | {"body": request.body.decode("latin-1")}
    return answer(200, {"content-type": "application/json"}, json.dumps(told).encode())


class Server:
    """The server; a context manager, at whose end nothing of it is left.

    Its public methods are for the test's threads, event loops included: only
    ``wait_…`` block, and they have the twins ``await_…`` for event loops, since
    some clients need their loop to close a connection.

    Args:
        tls: What it speaks TLS by; None: plain HTTP.

    Attributes:
        url: Where it listens, without a trailing slash.
        refused_url: Where connecting is refused, for as long as the server runs.
        requests: Every request whose headers arrived, oldest first.
        hits: How many there were for each path.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.requests: list[Request] = []
        self.hits: Counter[str] = Counter()
        self._scripts: dict[str, Iterator[Answer]] = {}
        self._connections: set[_Connection] = set()
        self._numbers = itertools.count(1)
        self._errors: list[Exception] = []
        self._condition = threading.Condition()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            # Bound but not listening: the port cannot become anyone else's.
            closed = stack.enter_context(socket.socket())
            closed.bind(("127.0.0.1", 0))
            self.refused_url = f"http://127.0.0.1:{closed.getsockname()[1]}"
            self._portal: BlockingPortal = stack.enter_context(start_blocking_portal())
            self._listener = self._portal.call(self._listen)
            port = self._listener.sockets[0].getsockname()[1]
            self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{port}"
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            self._portal.call(self._listener.close)
            self.drop_connections()
            self.wait_until(0)
        if self._errors:
            raise ExceptionGroup("the server could not follow its script", self._errors)

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        made = partial(_Connection, self)
        return await loop.create_server(
            made, "127.0.0.1", 0, ssl=self._tls, backlog=1024
        )

    def _changed(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def script(self, path: str, *answers: Answer) -> None:
        """Say how to answer the next requests for `path`; the last answer stays."""
        self._scripts[path] = itertools.chain(answers, itertools.repeat(answers[-1]))

    def gate(self) -> Gate:
        """A gate, closed."""
        return Gate(self)

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    def drop_connections(self) -> None:
        """Close every connection, whatever it is doing; does not wait for it."""
        self._portal.call(self._drop)

    def _drop(self) -> None:
        for connection in list(self._connections):
            connection.transport.abort()

    def wait_for(self, fact: Callable[[], object]) -> None:
        """Wait until `fact` about this server or its gates and requests is true."""
        with self._condition:
            assert self._condition.wait_for(fact, PATIENCE), "waited too long"

    async def await_for(self, fact: Callable[[], object]) -> None:
        """`wait_for`, on asyncio or trio."""
        await anyio.to_thread.run_sync(self.wait_for, fact)

    def wait_until(self, connections: int) -> None:
        """Wait until so many connections are open."""
        self.wait_for(lambda: connections == self.open_connections)

    async def await_until(self, connections: int) -> None:
        """`wait_until`, on asyncio or trio."""
        await self.await_for(lambda: connections == self.open_connections)


class _Exchange:
    """One request and its answer."""

    task: asyncio.Task[None]

    def __init__(
        self, http: _Http1 | _Http2, stream: int, request: Request, answer: Answer
    ) -> None:
        self.http = http
        self.stream = stream  # 0 on HTTP/1.1
        self.request = request
        self.answer = answer
        self.arrived = asyncio.Event()
        self.unread = not callable(answer) and Act.UNREAD in answer[:1]

    def arrive(self) -> None:
        """The request's body is here, whole."""
        self.request.complete = True
        self.arrived.set()


class _Connection(asyncio.Protocol):
    """One TCP connection, in whichever HTTP its first bytes speak."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tasks: set[asyncio.Task[None]] = set()
        self.http: _Http1 | _Http2 | None = None
        self.early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.number = next(self.server._numbers)
        self.server._connections.add(self)
        self.server._changed()
        if not self.server._listener.is_serving():  # came while the server left
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self.http is None:
            self.early += data
            if len(self.early) < 4:
                return
            data = self.early
            self.http = _Http2(self) if data.startswith(b"PRI ") else _Http1(self)
        try:
            self.http.feed(data)
        except (h11.RemoteProtocolError, ProtocolError):
            self.transport.close()
        self.server._changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leaving = asyncio.get_running_loop().create_task(self.leave())

    async def leave(self) -> None:
        """Count as closed once the answers have ended, and the socket is closed."""
        # NB: a task, since asyncio closes the socket after `connection_lost`: a
        # client told before would find it alive, and use it.
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.server._connections.discard(self)
        self.server._changed()

    def begin(self, http: _Http1 | _Http2, stream: int, pairs: Pairs) -> _Exchange:
        """Record a request whose headers, as HTTP/2 has them, are here; answer it."""
        headers: dict[str, str] = {}
        for pair in pairs:
            name, value = (part.decode("latin-1") for part in pair)
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        method, target = headers.pop(":method"), headers.pop(":path")
        if headers.pop(":scheme", None):
            headers["host"] = headers.pop(":authority")
        path = target.partition("?")[0]
        server = self.server
        server.hits[path] += 1
        hit = server.hits[path]
        request = Request(self.number, http.version, method, target, path, headers, hit)
        server.requests.append(request)
        script = server._scripts.get(path)
        exchange = _Exchange(http, stream, request, next(script) if script else echo)
        exchange.task = asyncio.get_running_loop().create_task(self.follow(exchange))
        self.tasks.add(exchange.task)
        exchange.task.add_done_callback(self.tasks.discard)
        return exchange

    async def follow(self, exchange: _Exchange) -> None:
        """Take the steps of an answer."""
        try:
            if not exchange.unread:
                await exchange.arrived.wait()
            script = exchange.answer
            steps = script(exchange.request) if callable(script) else script
            await self.take(steps, exchange)
        except Exception as error:
            if not self.transport.is_closing():  # or the client went away just now
                self.server._errors.append(error)
                self.transport.abort()
        finally:
            self.server._changed()

    async def take(self, steps: Steps, exchange: _Exchange) -> None:
        http = exchange.http
        begun = False
        for step in steps:
            match step:
                case Head():
                    http.send_head(exchange, step)
                    begun = True
                case bytes():
                    if exchange.request.method != "HEAD":
                        await http.send_body(exchange, step)
                case Gate():
                    await step._pass()
                case Act.UNREAD:
                    pass
                case Act.CLOSE:
                    return self.transport.close()
                case Act.RESET:
                    # A close that lingers for 0 s is a reset.
                    linger = struct.pack("ii", 1, 0)
                    sock = self.transport.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    return self.transport.abort()
                case _:
                    assert isinstance(http, _Http2), f"{step} needs HTTP/2"
                    return http.refuse(exchange, step)
        if begun:
            await http.end(exchange)
        else:
            self.transport.close()


class _Http1:
    """The HTTP/1.1 of a connection: one exchange after the other."""

    version = "HTTP/1.1"

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection
        self.transport = connection.transport
        self.h11 = h11.Connection(h11.SERVER)
        self.exchange: _Exchange | None = None

    def feed(self, data: bytes) -> None:
        self.h11.receive_data(data)
        self.pull()

    def pull(self) -> None:
        while self.exchange is None or not self.exchange.unread:
            match self.h11.next_event():
                case h11.Request(method=method, target=target, headers=pairs):
                    pseudo = [(b":method", method), (b":path", target)]
                    self.exchange = self.connection.begin(self, 0, [*pseudo, *pairs])
                    if self.exchange.unread:
                        self.transport.pause_reading()
                case h11.Data(data=data) if self.exchange:
                    self.exchange.request.body += data
                case h11.EndOfMessage() if self.exchange:
                    self.exchange.arrive()
                case _:  # more must come, from the client or from us
                    return

    def send(self, event: h11.Event) -> None:
        self.transport.write(self.h11.send(event) or b"")

    def send_head(self, exchange: _Exchange, head: Head) -> None:
        headers = list(head.headers.items())
        self.send(h11.Response(status_code=head.status, headers=headers))

    async def send_body(self, exchange: _Exchange, data: bytes) -> None:
        self.send(h11.Data(data=data))

    async def end(self, exchange: _Exchange) -> None:
        try:
            self.send(h11.EndOfMessage())
        except h11.LocalProtocolError:  # short of its Content-Length
            return self.transport.close()
        if exchange.unread:
            exchange.unread = False
            self.transport.resume_reading()
            self.pull()
            await exchange.arrived.wait()
        if self.h11.our_state is not h11.DONE:
            return self.transport.close()
        self.h11.start_next_cycle()
        self.exchange = None
        self.pull()


class _Http2:
    """The HTTP/2 of a connection: exchanges side by side."""

    version = "HTTP/2"

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection
        self.transport = connection.transport
        # Without an encoding, headers are bytes, as h11's are.
        self.h2 = H2Connection(H2Configuration(False, header_encoding=None))
        self.h2.initiate_connection()
        self.exchanges: dict[int, _Exchange] = {}
        self.unacknowledged: Counter[int] = Counter()
        self.window_moved = asyncio.Event()

    def feed(self, data: bytes) -> None:
        try:
            for event in self.h2.receive_data(data):
                self.receive(event)
        finally:
            self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def receive(self, event: frames.Event) -> None:
        match event:
            case frames.RequestReceived(stream_id=stream, headers=pairs):
                exchange = self.connection.begin(self, stream, pairs)
                self.exchanges[stream] = exchange
            case frames.DataReceived(stream_id=stream, data=data):
                self.exchanges[stream].request.body += data
                self.unacknowledged[stream] += event.flow_controlled_length
                self.acknowledge(self.exchanges[stream])
            case frames.StreamEnded(stream_id=stream):
                self.exchanges[stream].arrive()
            case frames.StreamReset(stream_id=stream):
                self.exchanges[stream].task.cancel()
            case frames.WindowUpdated() | frames.RemoteSettingsChanged():
                self.window_moved.set()
            case frames.ConnectionTerminated():
                self.transport.close()

    def acknowledge(self, exchange: _Exchange) -> None:
        """Let the client send on, unless its body is to stay unread."""
        if not exchange.unread:
            length = self.unacknowledged.pop(exchange.stream, 0)
            self.h2.acknowledge_received_data(length, exchange.stream)

    def send_head(self, exchange: _Exchange, head: Head) -> None:
        headers = {":status": str(head.status), **head.headers}
        self.h2.send_headers(exchange.stream, list(headers.items()))
        self.flush()

    async def send_body(self, exchange: _Exchange, data: bytes) -> None:
        stream = exchange.stream
        while data:
            window = self.h2.local_flow_control_window(stream)
            length = min(window, self.h2.max_outbound_frame_size)
            if length <= 0:
                self.window_moved.clear()
                await self.window_moved.wait()
                continue
            self.h2.send_data(stream, data[:length])
            self.flush()
            data = data[length:]

    async def end(self, exchange: _Exchange) -> None:
        self.h2.end_stream(exchange.stream)
        exchange.unread = False
        self.acknowledge(exchange)
        self.flush()

    def refuse(self, exchange: _Exchange, step: ErrorCodes | Act) -> None:
        if isinstance(step, ErrorCodes):
            self.h2.reset_stream(exchange.stream, step)
            return self.flush()
        disowned = 2 if step is Act.GO_AWAY else 0
        self.h2.close_connection(last_stream_id=max(0, exchange.stream - disowned))
        self.flush()
        self.transport.close()
