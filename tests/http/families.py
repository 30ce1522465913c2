"""One scenario body for both client libraries, and three colours.

A scenario is an ``async def`` that takes a `Http`: a `World` (`tests.colours`)
with the verbs of a client. What stands in a server's place is a `Script`: it
has the response to each request in turn, and records what it was sent.

::

    @in_every_client
    async def test_a_failed_request_is_sent_again(h: Http) -> None:
        \"\"\"…\"\"\"
        script = h.script(503, 200)
        async with h.client(script) as client:
            assert 200 == (await h.get(client)).status_code
        assert 2 == len(script.sent)
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import Any, NamedTuple

import pytest
from tests.colours import Body, Colour, World, _finish

from resilient import Pipeline, Retry, constant

URL = "https://api.test/things"
FAMILIES = ("httpx2", "httpx")


class Sent(NamedTuple):
    """A request, as a server would have seen it."""

    at: float
    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    extensions: dict[str, Any]


class Http(World):
    """The verbs of one colour, with a client of one library."""

    def __init__(self, family: str, colour: Colour) -> None:
        super().__init__(colour)
        self.family = family
        self.library: Any = importlib.import_module(family)
        self.ours: Any = importlib.import_module(f"resilient.{family}")
        # What happened, and when: ("sent", 0.0), ("closed", 0.0) …
        self.log: list[tuple[str, float]] = []

    def note(self, event: str) -> None:
        self.log.append((event, self.now()))

    # -- The side of the server

    def script(self, *steps: Any, reads: bool = True) -> Any:
        """Make a transport that answers by steps, the last one for ever.

        Args:
            steps: A status, a response, an error, or an async function of the
                request that returns or raises one.
            reads: Whether the body of the request is read before the answer.
        """
        return _classes(self.family)[0](self, steps, reads)

    def json(self, value: Any) -> bytes:
        """Return the body that a client makes of a value."""
        # NB: with blanks before httpx 0.28.
        return self.library.Request("POST", URL, json=value).content

    def body(self, *items: Any, log: bool = True) -> Any:
        """Make a body that streams: bytes, seconds to pass, errors or their type."""
        return _classes(self.family)[1](self, items, log)

    def response(
        self,
        status: int = 200,
        *items: Any,
        length: int | None = None,
        headers: Any = None,
    ) -> Any:
        """Make a response whose body streams; of no known length by default."""
        headers = dict(headers or {})
        if length is not None:
            headers["Content-Length"] = str(length)
        return self.library.Response(status, headers=headers, stream=self.body(*items))

    def answer(self, status: int, **headers: Any) -> Any:
        """Make an empty response with headers, dashes spelt as underscores."""
        named = {key.replace("_", "-"): str(value) for key, value in headers.items()}
        return self.library.Response(status, headers=named)

    # -- The side of the caller

    def retry(self, *inside: Any, **kw: Any) -> Any:
        """Make a pipeline that retries after a second, with policies inside."""
        first = Retry(**{"backoff": constant(1.0), **kw})
        return Pipeline(first, *inside, classify=self.ours.http_verdict)

    def transport(self, inner: Any = None, *args: Any, **kw: Any) -> Any:
        return self.ours.ResilientTransport(*args, inner=inner, **kw)

    def client(
        self, inner: Any, *args: Any, client: Any = None, **kw: Any
    ) -> AbstractAsyncContextManager[Any]:
        """Open a client whose transport protects `inner`."""
        return self.bare(self.transport(inner, *args, **kw), **(client or {}))

    @contextlib.asynccontextmanager
    async def bare(self, transport: Any, **kw: Any) -> AsyncIterator[Any]:
        """Open a client with a transport."""
        if self.is_sync:
            with self.library.Client(transport=transport, **kw) as client:
                yield client
        else:
            async with self.library.AsyncClient(transport=transport, **kw) as client:
                yield client

    async def of(self, result: Any) -> Any:
        """Return what a client's method answers."""
        return result if self.is_sync else await result

    async def get(self, client: Any, url: str = URL, **kw: Any) -> Any:
        return await self.of(client.get(url, **kw))

    async def post(self, client: Any, url: str = URL, **kw: Any) -> Any:
        return await self.of(client.post(url, **kw))

    async def request(self, client: Any, method: str, url: str = URL, **kw: Any) -> Any:
        return await self.of(client.request(method, url, **kw))

    async def send(self, client: Any, request: Any, **kw: Any) -> Any:
        return await self.of(client.send(request, **kw))

    async def handle(self, transport: Any, request: Any) -> Any:
        """Give a request to a transport, with no client around it."""
        if self.is_sync:
            return transport.handle_request(request)
        return await transport.handle_async_request(request)

    @contextlib.asynccontextmanager
    async def stream(
        self, client: Any, method: str = "GET", url: str = URL, **kw: Any
    ) -> AsyncIterator[Any]:
        if self.is_sync:
            with client.stream(method, url, **kw) as response:
                yield response
        else:
            async with client.stream(method, url, **kw) as response:
                yield response

    async def open(self, client: Any, url: str = URL, **kw: Any) -> Any:
        """Return a response whose body is still to be read, and to be closed."""
        return await self.send(
            client, client.build_request("GET", url, **kw), stream=True
        )

    async def read(self, response: Any) -> bytes:
        result: bytes = response.read() if self.is_sync else await response.aread()
        return result

    async def close(self, response: Any) -> None:
        if self.is_sync:
            response.close()
        else:
            await response.aclose()

    async def parts(self, response: Any, how: str) -> list[Any]:
        """Iterate over a response: "raw", "bytes", "text" or "lines"."""
        if self.is_sync:
            return list(getattr(response, f"iter_{how}")())
        return [part async for part in getattr(response, f"aiter_{how}")()]

    async def error(
        self, kind: Any, call: Callable[..., Awaitable[Any]], *args: Any, **kw: Any
    ) -> Any:
        """Return the error that a verb raises."""
        with pytest.raises(kind) as caught:
            await call(*args, **kw)
        return caught.value


@cache
def _classes(family: str) -> tuple[type[Any], type[Any]]:
    library: Any = importlib.import_module(family)

    class Script(library.BaseTransport, library.AsyncBaseTransport):  # type: ignore[misc]
        def __init__(self, h: Http, steps: tuple[Any, ...], reads: bool) -> None:
            self.h = h
            self.steps = steps
            self.reads = reads
            self.sent: list[Sent] = []
            self.requests: list[Any] = []
            self.entered = self.closed = 0

        def handle_request(self, request: Any) -> Any:
            return _finish(self._handle(request))

        async def handle_async_request(self, request: Any) -> Any:
            return await self._handle(request)

        async def _handle(self, request: Any) -> Any:
            h = self.h
            body = b""
            self.requests.append(request)
            h.note("sent")
            at = h.now()
            if self.reads:
                if h.is_sync:
                    body = b"".join(request.stream)
                else:
                    body = b"".join([chunk async for chunk in request.stream])
            self.sent.append(
                Sent(
                    at,
                    request.method,
                    str(request.url),
                    dict(request.headers),
                    body,
                    request.extensions,
                )
            )
            step = self.steps[min(len(self.sent), len(self.steps)) - 1]
            if callable(step):
                step = await step(request)
            if isinstance(step, BaseException):
                raise step
            return library.Response(step) if isinstance(step, int) else step

        @property
        def times(self) -> list[float]:
            return [request.at for request in self.sent]

        def __enter__(self) -> Any:
            self.entered += 1
            return self

        def __exit__(self, *exc: object) -> None:
            self.closed += 1

        def close(self) -> None:
            self.closed += 1

        async def __aenter__(self) -> Any:
            return self.__enter__()

        async def __aexit__(self, *exc: object) -> None:
            self.closed += 1

        async def aclose(self) -> None:
            self.closed += 1

    class Stream(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, h: Http, items: tuple[Any, ...], log: bool) -> None:
            self.h = h
            self.items = items
            self.log = log
            self.taken = self.closings = 0

        def __iter__(self) -> Iterator[bytes]:
            for item in self.items:
                if isinstance(item, bytes):
                    self.taken += 1
                    yield item
                elif not isinstance(item, (int, float)):
                    raise _made(item)
                else:
                    _finish(self.h.sleep(item))
            self._note("drained")

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for item in self.items:
                if isinstance(item, bytes):
                    self.taken += 1
                    yield item
                elif not isinstance(item, (int, float)):
                    raise _made(item)
                else:
                    await self.h.sleep(item)
            self._note("drained")

        def close(self) -> None:
            self.closings += 1
            self._note("closed")

        async def aclose(self) -> None:
            self.close()

        def _note(self, event: str) -> None:
            if self.log:
                self.h.note(event)

    return Script, Stream


def transports(h: Http, script: Any) -> Iterator[Any]:
    """A bare transport, one with no policies, and the standard one."""
    yield script
    yield h.transport(script, Pipeline())
    yield h.transport(script)


def _made(error: Any) -> BaseException:
    # NB: an error that its body keeps would be a cycle once it is raised.
    made: BaseException = error("broken off") if isinstance(error, type) else error
    return made


def _scenario(*colours: Colour) -> Callable[[Body], Callable[..., None]]:
    def decorate(body: Body) -> Callable[..., None]:
        @pytest.mark.parametrize("colour", colours)
        @pytest.mark.parametrize("family", FAMILIES)
        def test(family: str, colour: Colour) -> None:
            Http(family, colour).run(body)

        test.__name__ = body.__name__
        test.__doc__ = body.__doc__
        test.__module__ = body.__module__
        return test

    return decorate


in_every_client = _scenario("sync", "asyncio", "trio")
in_async_clients = _scenario("asyncio", "trio")
in_sync_clients = _scenario("sync")
