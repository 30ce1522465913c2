"""The clients' own transports over a network that is a script, in virtual time.

Unlike `families.Script`, which stands in an inner transport's place, this is
what stands below one: httpcore with h11 or h2 reads and writes here. A script
is a generator function of its connection, resumed when the client reads:

* bytes: what it receives;
* seconds: they pass first, unless the read times out before;
* the name of an error of httpcore's, as ``"ReadError"``: it is raised.

Afterwards the peer has closed. ``connection.take()`` is what the client wrote.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from tests.colours import _finish
from tests.http.families import Http

Script = Callable[[Any], Iterator[Any]]


@cache
def _context() -> ssl.SSLContext:
    return ssl.create_default_context()


class Connection:
    """One connection, as the peer sees it.

    Attributes:
        writes: Errors that writes raise in turn; None: it succeeds.
        written: How many bytes were written in all.
    """

    def __init__(self, wire: Wire, script: Script) -> None:
        self.wire = wire
        self.items = script(self)
        self.pending = 0.0
        self.buffer = b""
        self.written = 0
        self.writes: list[str | None] = []
        self.closed = False

    def take(self) -> bytes:
        taken, self.buffer = self.buffer, b""
        return taken

    async def read(self, max_bytes: int, timeout: float | None) -> bytes:
        h, core = self.wire.h, self.wire.core
        while True:
            if self.pending:
                if timeout is not None and self.pending > timeout:
                    self.pending -= timeout
                    await h.sleep(timeout)
                    raise core.ReadTimeout("timed out")
                passes, self.pending = self.pending, 0.0
                await h.sleep(passes)
                timeout = None if timeout is None else timeout - passes
            item = next(self.items, b"")
            if isinstance(item, bytes):
                return item
            if isinstance(item, str):
                raise getattr(core, item)(item)
            self.pending = item

    def write(self, data: bytes) -> None:
        error = self.writes.pop(0) if self.writes else None
        if error is not None:
            raise getattr(self.wire.core, error)(error)
        if self.wire.write_seconds:
            _finish(self.wire.h.sleep(self.wire.write_seconds))
        self.wire.largest_write = max(self.wire.largest_write, len(data))
        self.written += len(data)
        self.buffer += data


class Wire:
    """A network on which the n-th connection follows the n-th script.

    Attributes:
        transport: The client's own transport on it.
        connections: Those that were made.
        connects: Errors that connecting raises in turn; None: it succeeds.
        write_seconds: How long a write takes, in sync code.
        tls_seconds: How long a TLS handshake takes.
        largest_write: Bytes of one write.
    """

    write_seconds = 0.0
    tls_seconds = 0.0
    largest_write = 0

    def __init__(self, h: Http, *scripts: Script, **options: Any) -> None:
        self.h = h
        self.core: Any = importlib.import_module(h.family.replace("httpx", "httpcore"))
        self.scripts = scripts
        self.connections: list[Connection] = []
        self.connects: list[Any] = []
        kind = "HTTPTransport" if h.is_sync else "AsyncHTTPTransport"
        # NB: a context takes as long to make as all the rest of a test.
        options.setdefault("verify", _context())
        self.transport: Any = getattr(h.library, kind)(**options)
        self.transport._pool._network_backend = self._backend()

    async def _shake_hands(
        self, ssl_context: Any, server_hostname: Any = None, timeout: Any = None
    ) -> None:
        if timeout is not None and self.tls_seconds > timeout:
            await self.h.sleep(timeout)
            raise self.core.ConnectTimeout("timed out")
        await self.h.sleep(self.tls_seconds)

    def _connect(self) -> Connection:
        error = self.connects.pop(0) if self.connects else None
        if error is not None:
            raise error
        script = self.scripts[min(len(self.connections), len(self.scripts) - 1)]
        self.connections.append(Connection(self, script))
        return self.connections[-1]

    def _backend(self) -> Any:
        wire = self

        class Stream(self.core.NetworkStream):  # type: ignore[misc]
            def __init__(self, end: Connection) -> None:
                self.end = end

            def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
                data: bytes = _finish(self.end.read(max_bytes, timeout))
                return data

            def write(self, buffer: bytes, timeout: float | None = None) -> None:
                self.end.write(buffer)

            def close(self) -> None:
                self.end.closed = True

            def start_tls(self, *args: Any, **kw: Any) -> Any:
                _finish(wire._shake_hands(*args, **kw))
                return Stream(self.end)

        class Backend(self.core.NetworkBackend):  # type: ignore[misc]
            def connect_tcp(self, *args: Any, **kw: Any) -> Any:
                return Stream(wire._connect())

            connect_unix_socket = connect_tcp

            def sleep(self, seconds: float) -> None:
                _finish(wire.h.sleep(seconds))

        class AsyncStream(self.core.AsyncNetworkStream):  # type: ignore[misc]
            def __init__(self, end: Connection) -> None:
                self.end = end

            async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
                return await self.end.read(max_bytes, timeout)

            async def write(self, buffer: bytes, timeout: float | None = None) -> None:
                self.end.write(buffer)

            async def aclose(self) -> None:
                self.end.closed = True

            async def start_tls(self, *args: Any, **kw: Any) -> Any:
                await wire._shake_hands(*args, **kw)
                return AsyncStream(self.end)

        class AsyncBackend(self.core.AsyncNetworkBackend):  # type: ignore[misc]
            async def connect_tcp(self, *args: Any, **kw: Any) -> Any:
                return AsyncStream(wire._connect())

            connect_unix_socket = connect_tcp

            async def sleep(self, seconds: float) -> None:
                await wire.h.sleep(seconds)

        return Backend() if self.h.is_sync else AsyncBackend()
