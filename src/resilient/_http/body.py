"""Bodies on their way: a response's to the caller, a request's to the server.

A transport is not told whether its caller streams: it hands out the headers
and the body follows. So what a call holds until its work has ended – a
bulkhead's slot – is held until the body is read, fails, is closed or collected.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterator
from types import AsyncGeneratorType
from typing import Any, Final, Self, cast

from resilient._calls.call import cut_short
from resilient._calls.outcome import Outcome
from resilient._edges.generators import Stream
from resilient._errors.errors import DeadlineExceededError, ResilientError
from resilient._runtimes import clock

# The shortest timeout: 0 would mean to sockets that they must not block.
_AT_ONCE = 0.001


class Left(float):
    """A timeout that knows the deadline which may have shortened it.

    Attributes:
        timeouts: Where it comes from.
    """

    __slots__ = ("_own", "timeouts")

    _own: float | None
    timeouts: Timeouts

    def __new__(cls, seconds: float, own: float | None, timeouts: Timeouts) -> Self:
        left = super().__new__(cls, seconds)
        left._own = own
        left.timeouts = timeouts
        return left

    def now(self, late: type[Exception]) -> float | None:
        """Return the timeout as it is now; None: there is none any more.

        Args:
            late: Raised once no time is left.
        """
        left = self.timeouts.deadline - clock.now()
        if left <= 0.0:
            raise late("the time for the request is up")
        if self._own is not None and self._own <= left:
            return self._own
        return None if left > clock.LONGEST_WAIT else left


class Timeouts(dict[str, "float | None"]):
    """A client's timeouts, cut to what is left of a deadline when one begins.

    Clients ask for ``timeouts.get("read")`` at the moment in which they begin
    to connect, to write or to read. Each is told what is left then: a fixed
    number would grant the whole of it anew to every one of them. What is left
    later, in the same phase, a `Left` says.

    Attributes:
        deadline: On the clock of `time.monotonic`.
        head: Whether the head of the request, of HTTP/1.1, was written in
            full; None: not tried yet, or not known.
    """

    # NB: no `__init__`: the one of `dict` is made for each attempt.
    __slots__ = ("deadline", "head")

    deadline: float
    head: bool | None

    def get(self, key: str, default: Any = None) -> Any:
        own: float | None = super().get(key, default)
        left = max(_AT_ONCE, self.deadline - clock.now())
        if own is None and left > clock.LONGEST_WAIT:
            return None
        return Left(left if own is None or left < own else own, own, self)

    def __getitem__(self, key: str) -> float | None:
        value: float | None = self.get(key)
        return value


PHASES: Final = ("connect", "read", "write", "pool")
UNLIMITED: Final[dict[str, float | None]] = dict.fromkeys(PHASES)


class Body:
    """A response's body that holds permits, and may have a total limit.

    It serves both colours, as a client's own byte streams do; the families
    derive from it and from their own classes.

    Args:
        body: The body as the inner transport returned it.
        stream: What is held until its end, and within what limit.
        timeouts: Those of the last attempt.
        timeout_exception: The client's errors of what took too long.
        mirrored: Makes an error of ours the client's too.
    """

    def __init__(
        self,
        body: Any,
        stream: Stream,
        timeouts: Timeouts,
        timeout_exception: type[Exception],
        mirrored: Callable[[Exception], Exception],
    ) -> None:
        self._body = body
        self._stream = stream
        self._timeouts = timeouts
        self._timeout_exception = timeout_exception
        self._mirrored = mirrored

    def __iter__(self) -> Iterator[bytes]:
        stream, chunks = self._stream, iter(self._body)
        try:
            while True:
                with stream:
                    self._shorten()
                    chunk = next(chunks)
                yield chunk
        except StopIteration:
            stream.last = Outcome()
        except ResilientError as error:
            raise self._late(error) from error.__cause__
        except self._timeout_exception as error:
            self._obeyed(error)
            raise
        except BaseException as error:
            stream.failed(error)
            raise
        finally:
            stream.end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        stream, chunks = self._stream, aiter(self._body)
        try:
            while True:
                with stream:
                    self._shorten()
                    chunk = await anext(chunks)
                yield chunk
        except StopAsyncIteration:
            stream.last = Outcome()
        except ResilientError as error:
            raise self._late(error) from error.__cause__
        except self._timeout_exception as error:
            self._obeyed(error)
            raise
        except BaseException as error:
            stream.failed(error)
            raise
        finally:
            try:
                await leave(chunks)
            finally:
                stream.end()

    def _shorten(self) -> None:
        """Let the client wait for a chunk no longer than there is time."""
        deadline = self._stream.call.deadline
        self._timeouts.deadline = math.inf if deadline is None else deadline

    def _obeyed(self, error: Exception) -> None:
        """Answer for a timeout of the client's that a limit of ours shortened."""
        self._stream.failed(error)
        limit, now = self._stream.limit, clock.now()
        exceeded: Exception | None
        if limit is not None and now >= limit.deadline:
            exceeded = limit.exceeded(now)
        else:
            exceeded = cut_short(self._stream.call, now)
        if exceeded is not None:
            raise self._late(exceeded) from error

    def _late(self, error: Exception) -> Exception:
        if isinstance(error, DeadlineExceededError):
            # NB: a body that was read has begun.
            error = cut_short(self._stream.call, clock.now()) or error
        self._stream.failed(error)
        return self._mirrored(error)

    def close(self) -> None:
        """Close it; what is held goes back."""
        try:
            self._body.close()
        finally:
            self._end()

    async def aclose(self) -> None:
        """Close it; what is held goes back."""
        try:
            await self._body.aclose()
        finally:
            self._end()

    def _end(self) -> None:
        # The caller had enough: nothing is wrong with that.
        self._stream.last = Outcome()
        self._stream.end()


class Chunks:
    """A body in memory, in the pieces in which it came.

    NB: joined, a compressed one would be decoded in one piece too, a thousand
    times as long: a client that decodes while it streams would need the memory
    for all of it.
    """

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


class Rest:
    """A body of which the first chunks have been read.

    Args:
        first: Those.
        chunks: The iterator that gives the others.
        body: What it iterates over.
    """

    def __init__(self, first: list[bytes], chunks: Any, body: Any) -> None:
        self._first = iter(first)
        self._chunks = chunks
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield from self._first
        yield from self._chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self._first:
                yield chunk
            async for chunk in self._chunks:
                yield chunk
        finally:
            await leave(self._chunks)

    def close(self) -> None:
        """Close it."""
        self._body.close()

    async def aclose(self) -> None:
        """Close it."""
        try:
            await leave(self._chunks)
        finally:
            await self._body.aclose()


class Upload:
    """A request's body of which it is not known whether it can be read twice.

    Args:
        body: The body.
        consumed: Raised where it is read a second time.

    Attributes:
        begun: Whether any of it was read.
    """

    def __init__(self, body: Any, consumed: type[Exception]) -> None:
        self.body: Any = body
        self.begun: bool = False
        self._consumed = consumed

    def _begin(self) -> None:
        if self.begun:
            # NB: clients send a request again themselves that a GOAWAY of
            # HTTP/2 disowns. Of a file they would send what is left.
            raise self._consumed()
        self.begun = True

    def __iter__(self) -> Iterator[bytes]:
        self._begin()
        yield from self.body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._begin()
        chunks = aiter(self.body)
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            await leave(chunks)

    def close(self) -> None:
        """Close it."""
        self.body.close()

    async def aclose(self) -> None:
        """Close it."""
        await self.body.aclose()


async def leave(chunks: AsyncIterator[bytes]) -> None:
    """Close an async generator: who stops early leaves it to the collector."""
    if type(chunks) is AsyncGeneratorType:
        await chunks.aclose()


def is_rewindable(body: Any) -> bool:
    """Tell whether a request's body, not in memory, can be sent again.

    Byte for byte, that is: a form with files rewinds those that can be.
    """
    fields = getattr(body, "fields", None)
    return isinstance(fields, list) and all(
        _seeks(getattr(field, "file", b"")) for field in cast("list[object]", fields)
    )


def _seeks(file: Any) -> bool:
    if isinstance(file, (str, bytes)):
        return True
    seekable = getattr(file, "seekable", None)
    return seekable is not None and bool(seekable())
