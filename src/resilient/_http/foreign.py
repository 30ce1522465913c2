"""Requests of clients that are not httpx's, under the names that the engine uses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from resilient._http.body import Chunks
from resilient._values.checks import plain


class Address(NamedTuple):
    """The URL of a request, as far as the engine reads it."""

    text: str
    scheme: str
    raw_host: bytes
    port: int | None

    @classmethod
    def of(cls, url: str) -> Self:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("ascii", "replace")
        return cls(url, parts.scheme, host, parts.port)


class Fields:
    """The header fields of a request, under the names that the engine uses."""

    def __init__(self, fields: Any) -> None:
        self.fields: Any = fields

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def __setitem__(self, name: str, value: str) -> None:
        self.fields[name] = value

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)

    def copy(self) -> Fields:
        return Fields(self.fields.copy())

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return [(encoded(name), encoded(value)) for name, value in self.fields.items()]


class InMemory:
    """A body that is in memory."""

    def __init__(self, data: Any) -> None:
        # NB: under the name by which httpx has it: see `SdkRetries`.
        self._stream: Any = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._stream

    def close(self) -> None:
        """Do nothing: nothing is open."""

    async def aclose(self) -> None:
        """Do nothing: nothing is open."""


class Pieces(Chunks, InMemory):
    """A body that was read in its attempt."""


class File:
    """A body in a file, which can be sent again from where it began."""

    def __init__(self, file: Any, start: int) -> None:
        self.file: Any = file
        self.start = start
        # What `is_rewindable` looks at.
        self.fields: list[Any] = [self]


class Foreign:
    """What no error and no transport is: a class that a client does not have."""


def library_of(client: ModuleType, request: type[Any], response: type[Any]) -> Any:
    """Return a client's library under the names that the engine uses.

    It has no exceptions yet, and none of the classes that only some clients have.
    NB: tuples do in the places of classes, in which the engine has those.

    Args:
        client: The library.
        request: Our class of its requests.
        response: Its class of responses.
    """
    library: Any = ModuleType(client.__name__)
    library.__file__ = client.__file__
    library.Request, library.Response = request, response
    library.BaseTransport = library.HTTPTransport = Foreign
    library.AsyncBaseTransport = library.AsyncHTTPTransport = Foreign
    library.ByteStream = InMemory
    library.LocalProtocolError = library.PoolTimeout = Foreign
    return library


def timeouts(connect: Any, read: Any) -> dict[str, float | None]:
    """Return a client's timeouts as an extension of a request."""
    # NB: with one name more, so that it is never taken for httpx's default.
    return {"connect": connect, "pool": connect, "write": read, "read": read, "": None}


def of_original(name: str, value: Any) -> Any:
    """Return an argument, which may be a function of the client's own request.

    The engine has a request of ours, whose ``original`` that is.
    """
    if not callable(value):
        return value
    function: Callable[[Any], Any] = plain(name, value)

    def of_request(request: Any) -> Any:
        return function(request.original)

    return of_request


def encoded(text: Any) -> bytes:
    """Return a header's name or value as bytes."""
    return text if isinstance(text, bytes) else str(text).encode("utf-8")
