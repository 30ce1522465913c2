"""What `requests` is made of, under the names by which the engine knows a client.

A request goes through the same `Exchange` as one of httpx: here are the few
classes that it asks for, over those of requests and urllib3. `Response` objects
are requests' own, with two attributes more, ``stream`` and ``extensions``.

Not covered, for the socket is not ours then: TLS handshakes and proxies'
``CONNECT``, each of whose reads may take as long as the timeout for connecting.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar, cast

import requests
import urllib3
from requests import exceptions
from urllib3 import exceptions as causes

from resilient._http.body import Body, Left, Upload
from resilient._http.client_library import SLICE, ClientLibrary
from resilient._http.foreign import (
    Address,
    Fields,
    File,
    InMemory,
    Pieces,
    encoded,
    library_of,
    timeouts,
)
from resilient._http.network import Heads

T = TypeVar("T")

PIECE = 65_536
"""Bytes that are read at once."""


class StalledError(exceptions.ConnectionError):
    """Writing, or reading a body, took too long: a ConnectionError to requests."""


# -- A request


class _Blocks:
    """A body that can be read once, in pieces: iterating a file gives lines."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __iter__(self) -> Iterator[Any]:
        read = getattr(self._body, "read", None)
        if read is None:
            yield from self._body
            return
        while piece := read(PIECE):
            yield piece


class Request:
    """A request of `requests`, as the engine knows requests.

    Attributes:
        original: What the caller sends.
        options: What `HTTPAdapter.send` takes beside it.
    """

    def __init__(
        self, prepared: requests.PreparedRequest, timeout: Any, options: dict[str, Any]
    ) -> None:
        self.original = prepared
        self.options = options
        self.method: str = prepared.method or "GET"
        self.url = Address.of(prepared.url or "")
        self.headers = Fields(prepared.headers)
        self.extensions: dict[str, Any] = {}
        if timeout is not None:
            self.extensions["timeout"] = _timeouts(timeout)
        self.stream: Any = _stream(prepared)


def _timeouts(timeout: Any) -> dict[str, float | None]:
    connect: Any = timeout
    read: Any = timeout
    if isinstance(timeout, urllib3.Timeout):
        connect, read = timeout.connect_timeout, timeout.read_timeout
    elif isinstance(timeout, tuple):
        connect, read = cast("tuple[Any, Any]", timeout)
    return timeouts(connect, read)


def limits(given: Any) -> Any:
    """Return the timeouts of an attempt, which know its deadline."""
    return urllib3.Timeout(connect=given["connect"], read=given["read"])


def _stream(prepared: requests.PreparedRequest) -> Any:
    body: Any = prepared.body
    if body is None or isinstance(body, (bytes, str)):
        return InMemory(body)
    start: Any = getattr(prepared, "_body_position", None)
    seekable = getattr(body, "seekable", None)
    if type(start) is int and seekable is not None and seekable():
        return File(body, start)
    return _Blocks(body)


# -- A response


class Wire:
    """The body of a response as it arrives, not decoded."""

    def __init__(self, response: requests.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._response.raw.stream(PIECE, decode_content=False)
        except causes.ReadTimeoutError as error:
            raise StalledError(error) from error
        except causes.ProtocolError as error:
            raise exceptions.ChunkedEncodingError(error) from error
        except causes.HTTPError as error:
            raise exceptions.ConnectionError(error) from error

    def close(self) -> None:
        self._response.close()


class Reads(Body):
    """The reads of a body that streams, each within its limit."""

    # Whether a piece is being read, and whether the connection was given back.
    _reading: bool = False
    _given_back: bool = False

    def within(self, read: Callable[..., T], *args: Any, **kw: Any) -> T:
        """Read a piece."""
        stream = self._stream
        self._reading = True
        try:
            with stream:
                self._shorten()
                return read(*args, **kw)
        except StopIteration:
            raise
        except self._timeout_exception as error:
            try:
                self._obeyed(error)
            finally:
                stream.end()
            raise
        except BaseException as error:
            stream.failed(error)
            stream.end()
            raise
        finally:
            self._reading = False
            if self._given_back:
                self._end()

    def ended(self) -> None:
        """End the call: the body was read, or is not wanted any more."""
        # NB: urllib3 gives a connection back before the error of a read is known.
        self._given_back = True
        if not self._reading:
            self._end()


class Raw(urllib3.HTTPResponse):
    """A response of urllib3 whose reads have a limit, and whose end is noted.

    The class of a response that streams is set to this one.
    """

    reads: Reads

    def read(self, *args: Any, **kw: Any) -> bytes:
        return self.reads.within(super().read, *args, **kw)

    def read1(self, *args: Any, **kw: Any) -> bytes:
        return self.reads.within(super().read1, *args, **kw)

    def read_chunked(self, *args: Any, **kw: Any) -> Generator[bytes, None, None]:
        chunks = super().read_chunked(*args, **kw)
        while True:
            try:
                chunk = self.reads.within(chunks.__next__)
            except StopIteration:
                return
            yield chunk

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.reads.ended()

    def release_conn(self) -> None:
        super().release_conn()
        self.reads.ended()


def mark_stalled(error: exceptions.ConnectionError) -> None:
    """Make an error of a write that took too long one that says so."""
    cause: Any = error.args[0] if error.args else None
    if isinstance(cause, causes.ProtocolError) and isinstance(
        cause.args[-1], TimeoutError
    ):
        error.__class__ = StalledError


def received(response: requests.Response) -> requests.Response:
    """Give a response the attributes that the engine asks for."""
    seen: Any = response
    seen.extensions = {}
    seen.wire_fields = [
        (encoded(name), value.encode("latin-1", "replace"))
        for name, value in response.raw.headers.items()
    ]
    seen.stream = Wire(response)
    return response


def hand_out(response: Any) -> None:
    """Give a response the body that the engine made: in memory, or limited."""
    body = response.__dict__.pop("stream", None)
    if isinstance(body, InMemory):
        put_in_memory(response, body)
    elif isinstance(body, Reads):
        response.raw.__class__ = Raw
        response.raw.reads = body


def put_in_memory(response: Any, body: Any) -> None:
    """Give a response a body that was read in its attempt."""
    raw = response.raw
    response.raw = urllib3.HTTPResponse(
        io.BytesIO(b"".join(body)),
        headers=raw.headers,
        status=raw.status,
        version=raw.version,
        reason=raw.reason,
        preload_content=False,
        decode_content=False,
        # NB: a session finds the cookies there.
        original_response=raw._original_response,
        # NB: a Content-Length of an answer to HEAD is not that of its body.
        request_method=response.request.method,
        request_url=response.request.url,
    )


def whole(response: Any) -> Any:
    """Return a copy of a response that is in memory, for others to read."""
    twin: Any = object.__new__(response.__class__)
    twin.__dict__.update(response.__dict__)
    put_in_memory(twin, response.stream)
    return twin


# -- The library, as the engine knows one


class Base:
    """What sends requests; see `engine.Transport.inner`."""


def _too_late(text: str, request: Request) -> Exception:
    return StalledError(text, request=request.original)


def _named() -> Any:
    library = library_of(requests, Request, requests.Response)
    library.BaseTransport = Base
    library.StreamConsumed = exceptions.StreamConsumedError
    library.TimeoutException = (
        exceptions.Timeout,
        StalledError,
        causes.ReadTimeoutError,
    )
    library.TransportError = (
        exceptions.ConnectionError,
        exceptions.Timeout,
        exceptions.ChunkedEncodingError,
    )
    library.ReadTimeout = _too_late
    library.ProxyError = exceptions.ProxyError
    library.UnsupportedProtocol = (exceptions.InvalidSchema, exceptions.InvalidURL)
    library.ConnectError = causes.NewConnectionError
    library.ConnectTimeout = (exceptions.ConnectTimeout, causes.ConnectTimeoutError)
    library.PoolTimeout = (causes.EmptyPoolError, causes.ClosedPoolError)
    return library


class RequestsLibrary(ClientLibrary):
    """requests', whose exceptions are another kind of object than ours."""

    def as_clients(self, error: Exception, request: Any) -> Exception:
        twin = self.mirror(type(error))
        if twin is None:
            return error
        # NB: they are OSErrors, to which no other object can be turned.
        made: Any = twin.__new__(twin)
        made.__dict__.update(error.__dict__)
        made.args = error.args
        made.__cause__, made.__context__ = error.__cause__, error.__context__
        made.__suppress_context__ = error.__suppress_context__
        made.request, made.response = request.original, None
        returned: Exception = made.with_traceback(error.__traceback__)
        return returned

    def whole(self, response: Any, request: Any, room: float) -> Any:
        if "content-encoding" in response.headers:
            try:
                for piece in whole(response).raw.stream(SLICE, decode_content=True):
                    room -= len(piece)
                    if room < 0:
                        return None
            except causes.DecodeError:
                return None
        return whole(response)


def client_library(errors: dict[type[Exception], type[Exception]]) -> RequestsLibrary:
    """Return requests' classes, and ours."""
    return RequestsLibrary(_named(), Reads, Upload, errors, Pieces)


# -- The network


class _Input(io.RawIOBase):
    """What a socket reads, within its time."""

    def __init__(self, socket: Socket, inner: Any) -> None:
        self._socket = socket
        self._inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.limit()
        count: int | None = self._inner.readinto(buffer)
        return count

    def close(self) -> None:
        self._inner.close()
        super().close()


class Socket(Heads):
    """A socket that measures its time anew for each read and write."""

    def __init__(self, inner: Any, timeout: float | None) -> None:
        self._inner = inner
        self._timeout: float | None = timeout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds
        self.limit()

    def limit(self) -> None:
        """Set the time for what is about to be read or written."""
        seconds = self._timeout
        if isinstance(seconds, Left):
            seconds = seconds.now(TimeoutError)
        self._inner.settimeout(seconds)

    def sendall(self, data: Any) -> None:
        # NB: what is iterated over is a TypeError, as of a socket.
        head = bytes(memoryview(data)[:16])
        noted = self.about_to_write(head, self._timeout)
        for piece in self.pieces(data, self._timeout):
            self.limit()
            self._inner.sendall(piece)
        if noted is not None:
            noted.head = True

    def makefile(self, mode: str, *args: Any, **kw: Any) -> Any:
        return io.BufferedReader(_Input(self, self._inner.makefile(mode, 0)))


class _Watched:
    """What a class of pools is, whose connections measure their time."""


@functools.cache
def _watched_pool(kind: Any) -> Any:
    """Return a class of pools whose connections measure their time."""
    if issubclass(kind, _Watched):
        return kind

    base: Any = kind.ConnectionCls

    class Connection(base):  # type: ignore[misc]  # known at run time
        sock: Any

        def connect(self) -> None:
            base.connect(self)
            self.sock = Socket(self.sock, self.timeout)

    class Pool(_Watched, kind):  # type: ignore[misc]  # known at run time
        ConnectionCls = Connection

    Connection.__name__ = base.__name__
    Pool.__name__ = kind.__name__
    return Pool


def watch(manager: Any) -> None:
    """Have the pools of a `PoolManager` measure the time of their connections."""
    manager.pool_classes_by_scheme = {
        scheme: _watched_pool(kind)
        for scheme, kind in manager.pool_classes_by_scheme.items()
    }
