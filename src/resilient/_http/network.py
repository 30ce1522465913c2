"""What the bytes of a request show, in both families' own transports.

**Deadlines.** A client asks once for a timeout and then waits so long for each
single read. A head that drips, endless 103 answers, a chunk size sent digit by
digit and HTTP/2 frames that carry no answer each give it something to read,
again and again, so that no read ever times out. A `Timeout` cancels async code;
sync code, and a `deadline_after` in either, has to look at the clock at every
read, write and TLS handshake.

**Whether a request left.** A client of HTTP/1.1 hides that the head of a
request could not be written, for an answer may be there all the same.

So the network backend of a client's own transport is wrapped. A timeout that
is a `Left` knows its deadline, and is measured anew each time it is used; it
also knows where to note that a head was written. Any other is passed on as it
is, so that sharing the transport with a bare client changes nothing there.

**Connections that a cancellation leaves behind.** Two locks are taken between
the moment in which a pool has a new connection and the one from which on its
engine cleans up (httpcore 1.0.9 and httpcore2 2.16: `_state_lock` of
`http11.py`, `wait_for_connection` of `connection_pool.py`). Cancelled there, the
connection stays in the pool, open, in a state that no request can take, and the
pool has one place less until it is closed. They are looked for after each
attempt that was cancelled.

**One request for each HTTP/2 connection of a sync client.** Threads that share one
wait for each other: httpcore holds a lock while it reads, so that a call learns of
its own answer, or that its time is up, when the read of another ends; and the first
read that times out ends the connection for all. The connections of a pool that may
speak HTTP/2 take one request at a time, as those of HTTP/1.1 do, and one whose body
is given up is closed, for httpcore resets no stream. In async code a read gives way,
and streams are shared.

Not covered: resolving a name, and each further address of a host, in which no
byte arrives; a transport that is not the client's own.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from typing import Any, Final

import anyio

from resilient._http.body import Left, Timeouts
from resilient._http.client_library import ClientLibrary
from resilient._values.locks import Lock

_PIECE: Final = 16_384
"""Bytes that are written at once, one TLS record: the socket's timeout is for
each part that the kernel takes."""


_HTTP2: Final = b"PRI * HTTP/2.0"
_TUNNEL: Final = b"CONNECT "
"""What is written before the head of a request."""


def watch(transport: Any) -> None:
    """Have a client's own transport show what it reads and writes."""
    pool = transport._pool
    backend = pool._network_backend
    backends = _backends(type(pool).__module__)
    if not isinstance(backend, backends):
        is_async = "Async" in type(pool).__name__
        pool._network_backend = backends[is_async](backend)
        if not is_async and pool._http2:
            pool.__class__ = _unshared(pool.__class__)


def forgets_names(transport: Any) -> bool:
    """Whether a client's own transport ignores ``sni_hostname``.

    The HTTP proxy of httpcore 1 does (encode/httpcore#934); httpcore2 does not.
    """
    pool = transport._pool
    is_proxy = type(pool).__name__.endswith("HTTPProxy")
    return is_proxy and type(pool).__module__.partition(".")[0] == "httpcore"


@functools.cache
def _unshared(kind: Any) -> Any:
    """Return a class of pools whose connections take one request at a time."""
    library: Any = importlib.import_module(kind.__module__.partition(".")[0])

    class Connection:
        """A connection that is in use from a request to the end of its body."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner
            self._lock = Lock()
            self._is_new = True
            self._is_taken = False

        def __repr__(self) -> str:
            return repr(self._inner)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def can_multiplex(self) -> bool:
            return False

        def is_available(self) -> bool:
            inner = self._inner
            # NB: one that is being made is not idle.
            idle: bool = not self._is_taken and inner.is_idle() and inner.is_available()
            return idle

        def handle_request(self, request: Any) -> Any:
            with self._lock:
                # NB: a pool may give an idle connection to two requests.
                if self._is_taken or not (self._is_new or self._inner.is_idle()):
                    raise library.ConnectionNotAvailable
                self._is_taken, self._is_new = True, False
            try:
                response = self._inner.handle_request(request)
            except BaseException:
                if not self._inner.is_available():
                    # NB: the pool would keep it for as long as an idle one.
                    self._inner.close()
                raise
            finally:
                self._is_taken = False
            response.stream = Body(response.stream, self._inner)
            return response

    class Body:
        """A body that closes its connection if it is not read to its end."""

        def __init__(self, inner: Any, connection: Any) -> None:
            self._inner = inner
            self._connection = connection
            self._is_read = False

        def __iter__(self) -> Iterator[bytes]:
            yield from self._inner
            self._is_read = True

        def close(self) -> None:
            try:
                self._inner.close()
            finally:
                if not self._is_read:
                    self._connection.close()

    class Pool(kind):  # type: ignore[misc]  # known at run time
        def create_connection(self, origin: Any) -> Any:
            return Connection(kind.create_connection(self, origin))

    Pool.__name__, Pool.__module__ = kind.__name__, kind.__module__
    return Pool


async def close_lost(transport: Any, client_library: ClientLibrary) -> None:
    """Close the connections that cancelled requests left behind in a pool.

    A connection without a request is idle, closed, or may be given to the next
    one; any other is lost.
    """
    if not isinstance(transport, client_library.module.AsyncHTTPTransport):
        return
    pool = transport._pool
    used = [request.connection for request in pool._requests]
    lost = [
        connection
        for connection in pool._connections
        if connection not in used
        and not connection.is_idle()
        and not connection.is_closed()
        and not connection.is_available()
    ]
    if not lost:
        return
    for connection in lost:
        pool._connections.remove(connection)
    lost += pool._assign_requests_to_connections()
    with anyio.CancelScope(shield=True):
        await pool._close_connections(lost)


class Heads:
    """Notes whether heads are written, and measures the time that is left."""

    _shared = False

    def about_to_write(self, buffer: bytes, timeout: float | None) -> Timeouts | None:
        """Return where to note that this was written, if it is a head."""
        if self._shared or not isinstance(timeout, Left):
            return None
        if buffer.startswith((_HTTP2, _TUNNEL)):
            # NB: a stream's headers may be written by any other's turn.
            self._shared = buffer.startswith(_HTTP2)
            return None
        timeouts = timeout.timeouts
        if timeouts.head:
            return None
        timeouts.head = False
        return timeouts

    @staticmethod
    def left(timeout: float | None, late: type[Exception]) -> float | None:
        """Return a timeout as it is now; see `Left.now`."""
        return timeout.now(late) if isinstance(timeout, Left) else timeout

    @staticmethod
    def pieces(buffer: Any, timeout: float | None) -> Iterator[Any]:
        """Yield what is written at once, if the time for it is to be measured."""
        if isinstance(timeout, Left):
            for start in range(0, len(buffer), _PIECE):
                yield buffer[start : start + _PIECE]
        else:
            yield buffer


@functools.cache
def _backends(core: str) -> tuple[Any, Any]:
    """Return the backends for httpcore or httpcore2, sync and async."""
    library: Any = importlib.import_module(core)

    class Stream(library.NetworkStream, Heads):  # type: ignore[misc]  # known at run time
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            left = self.left(timeout, library.ReadTimeout)
            data: bytes = self._inner.read(max_bytes, left)
            return data

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            noted = self.about_to_write(buffer, timeout)
            for piece in self.pieces(buffer, timeout):
                self._inner.write(piece, self.left(timeout, library.WriteTimeout))
            if noted is not None:
                noted.head = True

        def close(self) -> None:
            self._inner.close()

        def start_tls(
            self, ssl_context: Any, server_hostname: Any = None, timeout: Any = None
        ) -> Any:
            left = self.left(timeout, library.ConnectTimeout)
            return Stream(self._inner.start_tls(ssl_context, server_hostname, left))

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

    class Backend(library.NetworkBackend):  # type: ignore[misc]  # known at run time
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def connect_tcp(self, *args: Any, **kw: Any) -> Any:
            return Stream(self._inner.connect_tcp(*args, **kw))

        def connect_unix_socket(self, *args: Any, **kw: Any) -> Any:
            return Stream(self._inner.connect_unix_socket(*args, **kw))

        def sleep(self, seconds: float) -> None:
            self._inner.sleep(seconds)

    class AsyncStream(library.AsyncNetworkStream, Heads):  # type: ignore[misc]  # known at run time
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            left = self.left(timeout, library.ReadTimeout)
            data: bytes = await self._inner.read(max_bytes, left)
            return data

        async def write(self, buffer: bytes, timeout: float | None = None) -> None:
            noted = self.about_to_write(buffer, timeout)
            left = self.left(timeout, library.WriteTimeout)
            await self._inner.write(buffer, left)
            if noted is not None:
                noted.head = True

        async def aclose(self) -> None:
            await self._inner.aclose()

        async def start_tls(
            self, ssl_context: Any, server_hostname: Any = None, timeout: Any = None
        ) -> Any:
            left = self.left(timeout, library.ConnectTimeout)
            inner = await self._inner.start_tls(ssl_context, server_hostname, left)
            return AsyncStream(inner)

        def get_extra_info(self, info: str) -> Any:
            return self._inner.get_extra_info(info)

    class AsyncBackend(library.AsyncNetworkBackend):  # type: ignore[misc]  # known at run time
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def connect_tcp(self, *args: Any, **kw: Any) -> Any:
            return AsyncStream(await self._inner.connect_tcp(*args, **kw))

        async def connect_unix_socket(self, *args: Any, **kw: Any) -> Any:
            return AsyncStream(await self._inner.connect_unix_socket(*args, **kw))

        async def sleep(self, seconds: float) -> None:
            await self._inner.sleep(seconds)

    return Backend, AsyncBackend
