"""What aiohttp is made of, under the names by which the engine knows a client.

A request goes through the same `Exchange` as one of httpx: here are the few
classes that it asks for, over aiohttp's. A `ClientResponse` stays what it is.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import FrameType
from typing import Any, ClassVar, Final, cast
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp import payload
from aiohttp.base_protocol import BaseProtocol

from resilient._calls.call import current_deadline, cut_short
from resilient._edges.generators import StreamLimit
from resilient._errors.errors import ResilientError, TimeoutExceededError
from resilient._http.body import Body, Upload
from resilient._http.client_library import ClientLibrary
from resilient._http.foreign import (
    Address,
    Fields,
    File,
    InMemory,
    Pieces,
    library_of,
    timeouts,
)
from resilient._runtimes import clock

Handler = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]

_DEFAULT: Final = aiohttp.client.DEFAULT_TIMEOUT


# -- A request


class Request:
    """A request of aiohttp, as the engine knows requests.

    Attributes:
        original: What the caller sends.
        handler: Sends it.
        around: A deadline around the call, on the clock of `time.monotonic`.
    """

    def __init__(self, request: aiohttp.ClientRequest, handler: Handler) -> None:
        self.original = request
        self.handler = handler
        self.around: float | None = current_deadline()
        self.method: str = request.method
        self.url = Address.of(str(request.url))
        self.headers = Fields(request.headers)
        self.extensions: dict[str, Any] = {}
        timeout: aiohttp.ClientTimeout = request.session.timeout
        if timeout != _DEFAULT:
            # NB: aiohttp's other limits hold in each attempt as they are.
            self.extensions["timeout"] = timeouts(timeout.total, timeout.total)
        self.stream: Any = _stream(request.body)


def _stream(body: Any) -> Any:
    if not body:
        return InMemory(b"")
    # NB: of a `Payload`; aiohttp rewinds a file by itself.
    value: Any = getattr(body, "_value", None)
    if isinstance(body, payload.BytesPayload):
        return InMemory(value)
    if isinstance(body, payload.IOBasePayload):
        return File(value, 0)
    if isinstance(body, aiohttp.MultipartWriter):
        parts = [_stream(part[0]) for part in getattr(body, "_parts", ())]
        if all(isinstance(part, (InMemory, File)) for part in parts):
            files = File(None, 0)
            files.fields = [part for part in parts if isinstance(part, File)]
            return files
    return body


class Sent(Upload):
    """A body that aiohttp reads itself: whether it has begun, its sender says."""


# -- A response


class Wire:
    """The body of a response as aiohttp hands it out."""

    def __init__(self, response: aiohttp.ClientResponse, around: float | None) -> None:
        self._response = response
        self._around = around

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            async with _until(self._around):
                chunk = await self._response.content.readany()
            if not chunk:
                return
            yield chunk

    async def aclose(self) -> None:
        """Close the connection, unless the body was read: then it is kept."""
        if not self._response.content.at_eof():
            self._response.close()


class Sooner:
    """The sooner of a stream's limit and a deadline around its call.

    Other clients cut their own timeouts to such a deadline. aiohttp has none
    that could be cut.
    """

    def __init__(self, call: Any, around: float, limit: StreamLimit | None) -> None:
        self._call = call
        self._around = around
        self._limit = limit

    @property
    def deadline(self) -> float:
        limit = self._limit
        return self._around if limit is None else min(self._around, limit.deadline)

    @property
    def seconds(self) -> float:
        return self.deadline - clock.now()

    def begin_step(self, now: float) -> None:
        """Take note that the next chunk is asked for."""
        if self._limit is not None:
            self._limit.begin_step(now)

    def exceeded(self, now: float) -> TimeoutExceededError:
        """Return the error of a stream that ran out of time."""
        limit: Any = self._limit
        if limit is not None and limit.deadline < self._around:
            error: TimeoutExceededError = limit.exceeded(now)
        else:
            error = cast(
                "TimeoutExceededError", cut_short(self._call, max(now, self._around))
            )
        return error


class Reads(Body):
    """The reads of a body that streams: each waits within its limit.

    It stands in the place of the timer around each wait of a `StreamReader`.
    """

    timer: Any

    def __enter__(self) -> Any:
        try:
            self._stream.__enter__()
        except ResilientError as error:
            raise self._late(error) from error.__cause__
        return self.timer.__enter__()

    def __exit__(self, *raised: Any) -> Any:
        try:
            self._stream.__exit__(*raised)
        except ResilientError as error:
            self.timer.__exit__(None, None, None)
            raise self._late(error) from error.__cause__
        return self.timer.__exit__(*raised)

    def limit(self, around: float | None) -> None:
        """Have a deadline around the call hold, too."""
        stream = self._stream
        if around is not None:
            stream.limit = Sooner(stream.call, around, stream.limit)

    def assert_timeout(self) -> None:
        """Ask the other timer."""
        self.timer.assert_timeout()

    def ended(self) -> None:
        """End the call: the body was read, or is not wanted any more."""
        self._end()


def _until(deadline: float | None) -> asyncio.Timeout:
    """Return a scope that a deadline ends."""
    return asyncio.timeout(None if deadline is None else deadline - clock.now())


def received(response: Any, around: float | None) -> aiohttp.ClientResponse:
    """Give a response the attributes that the engine asks for."""
    response.status_code = response.status
    response.extensions = {}
    fields = response.raw_headers
    if "content-encoding" in response.headers:
        # NB: decoded as it is read, and of no known length then.
        fields = [pair for pair in fields if pair[0].lower() != b"content-length"]
    response.wire_fields = fields
    response.stream = Wire(response, around)
    return response  # type: ignore[no-any-return]  # Any, to be given attributes


def hand_out(response: Any, around: float | None) -> None:
    """Give a response the body that the engine made: in memory, or limited."""
    body = response.__dict__.pop("stream", None)
    if isinstance(body, InMemory):
        response.content = _filled(b"".join(body))
    elif isinstance(body, Reads):
        connection = response.connection
        if connection is None:
            # It has no body, or all of it is there.
            body.ended()
        else:
            body.limit(around)
            body.timer = response.content._timer
            response.content._timer = body
            connection.add_callback(body.ended)


def _filled(data: bytes) -> aiohttp.StreamReader:
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(BaseProtocol(loop), len(data) + 1, loop=loop)
    content.feed_data(data)
    content.feed_eof()
    return content


class Whole:
    """A response that is in memory, for a function to read without waiting.

    Args:
        response: The response.
        data: Its body.
    """

    def __init__(self, response: Any, data: bytes) -> None:
        self.status: int = response.status
        self.headers: Any = response.headers
        self.body = data

    def json(self) -> Any:
        """Return the body as JSON has it."""
        return json.loads(self.body)


# -- The library, as the engine knows one


class Base:
    """What sends requests; see `engine.Transport.inner`."""

    async def handle_async_request(self, request: Request) -> aiohttp.ClientResponse:
        """Send an attempt as aiohttp would."""
        sent = request.original
        if request.headers.fields is not sent.headers:
            sent.headers.update(request.headers.fields)
        try:
            async with _until(request.around):
                response = await request.handler(sent)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except BaseException:
            _begin(request.stream)
            raise
        _begin(request.stream)
        return received(response, request.around)


def _begin(body: Any) -> None:
    if isinstance(body, Sent):
        body.begun = True


def _too_late(text: str, request: Request) -> Exception:
    return aiohttp.SocketTimeoutError(text)


def _named() -> Any:
    library = library_of(aiohttp, Request, aiohttp.ClientResponse)
    library.AsyncBaseTransport = Base
    library.StreamConsumed = aiohttp.ClientPayloadError
    library.TimeoutException = TimeoutError
    library.TransportError = (
        aiohttp.ClientConnectionError,
        aiohttp.ClientPayloadError,
        # An answer that is no HTTP.
        aiohttp.ClientResponseError,
        TimeoutError,
    )
    library.ReadTimeout = _too_late
    library.ProxyError = (
        aiohttp.ClientHttpProxyError,
        aiohttp.ClientProxyConnectionError,
    )
    library.UnsupportedProtocol = (
        aiohttp.InvalidURL,
        aiohttp.NonHttpUrlClientError,
        aiohttp.ServerFingerprintMismatch,
    )
    library.ConnectError = aiohttp.ClientConnectorError
    library.ConnectTimeout = aiohttp.ConnectionTimeoutError
    return library


class AiohttpLibrary(ClientLibrary):
    """aiohttp's, whose requests keep what is being written of them."""

    hedges: ClassVar[bool] = False

    def as_clients(self, error: Exception, request: Any) -> Exception:
        return super().as_clients(error, request.original)

    def whole(self, response: Any, request: Any, room: float) -> Any:
        # NB: aiohttp has decoded it.
        return Whole(response, b"".join(response.stream))


def client_library(errors: dict[type[Exception], type[Exception]]) -> AiohttpLibrary:
    """Return aiohttp's classes, and ours."""
    return AiohttpLibrary(_named(), Reads, Sent, errors, Pieces)


# -- What aiohttp repeats by itself


class Repeats:
    """Keeps aiohttp from repeating what was given up.

    It sends a request of an idempotent method once more, through all
    middlewares, if it fails with certain errors: of a connection that it had
    kept, it supposes. All attempts would be made again.
    """

    def __init__(self) -> None:
        self._given_up: WeakKeyDictionary[Any, tuple[FrameType | None, Exception]]
        self._given_up = WeakKeyDictionary()

    def gave_up(self, error: Exception) -> None:
        """Take note of an error that the pipeline gave up with."""
        if isinstance(error, (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
            task = asyncio.current_task()
            self._given_up[task] = _frame(), error
            # NB: frame and error hold a lot; it comes back at once, or never.
            loop = asyncio.get_running_loop()
            loop.call_later(_SOON, self._given_up.pop, task, None)

    def again(self) -> Exception | None:
        """Return the error that the same call of aiohttp's was given up with."""
        if not self._given_up:
            return None
        frame, error = self._given_up.pop(asyncio.current_task(), (None, None))
        return error if frame is _frame() else None


_SOON: Final = 1.0
"""Seconds."""

_CALL: Final[Any] = vars(aiohttp.ClientSession)["_request"].__code__


def _frame() -> FrameType | None:
    """Return the call of aiohttp's in which the middleware is."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_code is not _CALL:
        frame = frame.f_back
    return frame
