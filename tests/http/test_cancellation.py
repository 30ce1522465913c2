"""Cancellation, interruption and garbage: what a request leaves behind."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import anyio.lowlevel
import pytest
from tests.http.families import (
    FAMILIES,
    URL,
    Http,
    in_async_clients,
    in_every_client,
)
from tests.test_garbage import no_garbage

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Timeout,
    constant,
    current_call,
)
from resilient._http.body_headers import body_fields, length_of


class Interrupted(BaseException):
    """As Ctrl-C, which pytest would take for its own."""


@in_every_client
async def test_an_interruption_gives_everything_back(h: Http) -> None:
    """It is neither recorded nor retried."""
    bulkhead = Bulkhead(1)
    breaker = CircuitBreaker(consecutive_failures=1, minimum_calls=1)
    for step in (Interrupted(), h.response(200, b"a", Interrupted(), length=9)):
        script = h.script(step)
        async with h.client(script, h.retry(breaker, bulkhead)) as client:
            await h.error(Interrupted, h.get, client)
        assert 1 == len(script.sent)
        assert 0 == bulkhead.in_use
        assert resilient.CircuitState.CLOSED is breaker.state
    assert ("closed", 0.0) in h.log


@in_every_client
async def test_a_policy_may_answer_for_an_interruption(h: Http) -> None:
    """As a timeout does for its own; what it answers is the outcome."""

    class Answers(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            try:
                outcome: Outcome = await proceed(call)
            except Interrupted:
                return Outcome(h.library.Response(203))
            return outcome

    for step in (Interrupted(), h.response(200, b"a", Interrupted(), length=9)):
        async with h.client(h.script(step), Answers()) as client:
            assert 203 == (await h.get(client)).status_code


async def cancel_after(h: Http, seconds: float, call: Any) -> None:
    """Run a coroutine function, and cancel it from outside after a while."""
    import anyio

    async def run() -> None:
        await call()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await h.sleep(seconds)
        group.cancel_scope.cancel()


@in_async_clients
async def test_a_cancelled_exchange_leaves_nothing(h: Http) -> None:
    """At any moment: on the wire, in the body, draining, asleep, in a queue."""

    class Slow(h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> Any:
            h.note("open")
            for _ in range(4):
                await h.sleep(0.25)
                yield b"x"

        async def aclose(self) -> None:
            h.note("closing")
            await h.sleep(0.25)
            h.note("close")

    def answer(length: int | None = 4) -> Any:
        async def step(request: Any) -> Any:
            await h.sleep(0.5)
            headers = {} if length is None else {"Content-Length": str(length)}
            status = 200 if len(script.sent) == 3 else 503
            return h.library.Response(status, headers=headers, stream=Slow())

        return step

    for length in (4, None):
        for read_body in ("auto", False):
            for tick in range(1, 60, 2):
                h.log.clear()
                script = h.script(answer(length))
                bulkhead = Bulkhead(1)
                inside: Any = Pipeline(PerKey(lambda key: bulkhead), Timeout(10))  # noqa: B023
                pipeline = Pipeline(Timeout(60), h.retry(inside))
                async with h.client(script, pipeline, read_body=read_body) as client:

                    async def fetch() -> None:
                        async with h.stream(client) as response:
                            await h.read(response)

                    await cancel_after(h, tick * 0.125, fetch)
                assert 0 == bulkhead.in_use, (length, read_body, tick)
                events = [event for event, _ in h.log]
                # NB: a streamed response is closed as by a bare client.
                done = "close" if (length, read_body) == (4, "auto") else "closing"
                assert events.count("open") <= events.count(done), (tick, h.log)


@in_async_clients
async def test_a_cancellation_at_any_step_leaves_nothing(h: Http) -> None:
    """Turn by turn of the loop, as long as the exchange is ours."""
    import anyio

    opened: list[Any] = []
    closed: list[Any] = []

    class Slow(h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> Any:
            opened.append(self)
            await h.sleep(0)
            yield b"x"
            await h.sleep(0)
            yield b"y"

        async def aclose(self) -> None:
            await h.sleep(0)
            await h.sleep(0)
            closed.append(self)

    async def step(request: Any) -> Any:
        await h.sleep(0)
        status = 200 if len(script.sent) == 3 else 503
        headers = {"Content-Length": "2"}
        return h.library.Response(status, headers=headers, stream=Slow())

    finished = turns = 0
    while finished < 5:
        turns += 1
        script = h.script(step)
        opened.clear()
        closed.clear()
        bulkhead = Bulkhead(1)
        read_body = turns % 2 == 0
        pipeline = Pipeline(
            Timeout(60), h.retry(bulkhead, Timeout(50), backoff=constant(0))
        )
        transport = h.transport(script, pipeline, read_body=read_body)

        async def fetch(transport: Any = transport) -> None:
            nonlocal finished
            request = h.library.Request("GET", URL)
            response = await transport.handle_async_request(request)
            finished += 1
            with anyio.CancelScope(shield=True):
                await response.aread()
                await response.aclose()

        async with anyio.create_task_group() as group:
            group.start_soon(fetch)
            for _ in range(turns):
                await h.sleep(0)
            group.cancel_scope.cancel()
        assert 0 == bulkhead.in_use, turns
        assert opened == closed, turns
    assert turns > 10


@in_async_clients
async def test_a_body_that_was_read_is_closed_even_if_cancelled(h: Http) -> None:
    """Also one that is closed once only, and half if that is cut short."""
    import anyio

    closed: list[Any] = []

    class Once(h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        closing = False

        async def __aiter__(self) -> Any:
            yield b"x"
            scope.cancel()

        async def aclose(self) -> None:
            if not self.closing:
                self.closing = True
                await h.sleep(0)
                closed.append(self)

    script = h.script(h.library.Response(200, stream=Once()))
    transport = h.transport(script, Pipeline(), read_body=True)
    with anyio.CancelScope() as scope:
        request = h.library.Request("GET", URL)
        response = await transport.handle_async_request(request)
        assert b"x" == b"".join(response.stream)
    assert 1 == len(closed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("values", "length"),
    [([], None), (["12"], 12), (["2", "2"], None), (["9" * 5000], None)],
)
def test_a_length_is_one_number(
    family: str, values: list[str], length: int | None
) -> None:
    """What a server says twice, or absurdly, is not believed."""
    library: Any = importlib.import_module(family)
    headers = [("Content-Length", value) for value in values]
    response = library.Response(200, headers=headers)
    assert length == length_of(body_fields(response))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("read_body", [True, False])
def test_a_pending_request_that_is_thrown_away_gives_everything_back(
    family: str, read_body: bool
) -> None:
    """By a loop that shuts down, or the collector: nothing can be awaited."""
    h = Http(family, "asyncio")

    class Suspends:
        def __await__(self) -> Iterator[None]:
            yield

    class Slow(h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> Any:
            await Suspends()
            yield b"x"

    def on_the_wire() -> Any:
        async def step(request: Any) -> Any:
            await Suspends()

        return step

    def in_the_body() -> Any:
        async def step(request: Any) -> Any:
            return h.library.Response(200, stream=Slow())

        return step

    def in_the_closing() -> Any:
        class Stuck(Slow):
            async def aclose(self) -> None:
                await Suspends()

        async def step(request: Any) -> Any:
            return h.library.Response(503, stream=Stuck())

        return step

    for make in (on_the_wire, in_the_body, in_the_closing):

        async def main(h: Http, make: Any = make) -> None:
            bulkhead = Bulkhead(1)
            pipeline = h.retry(bulkhead, backoff=constant(0))
            transport = h.transport(h.script(make()), pipeline, read_body=read_body)
            request = h.library.Request("GET", URL)
            pending = transport.handle_async_request(request)
            if make is in_the_body and not read_body:
                pending.close()
            else:
                # NB: closed from another context, as the collector does.
                copy_context().run(pending.send, None)
                assert 1 == bulkhead.in_use
                pending.close()
            assert 0 == bulkhead.in_use
            with pytest.raises(LookupError):
                current_call()

        h.run(main)


@in_every_client
async def test_a_failing_request_leaves_nothing_to_the_collector(h: Http) -> None:
    """Retried, rejected, timed out, refused, its body broken off: no cycles."""
    library = h.library

    class Fresh:
        """Makes an error anew: one that is raised again would grow."""

        def __init__(self, kind: Any) -> None:
            self.kind = kind

        async def __call__(self, request: Any) -> Any:
            raise self.kind("down")

    async def broken(request: Any) -> Any:
        return h.response(200, b"a", library.ReadError, length=9)

    async def failing(request: Any) -> Any:
        return h.response(503, b"a")

    async def slow(request: Any) -> Any:
        await h.sleep(10)
        raise library.ReadTimeout("slow")

    def pipeline() -> Any:
        return Pipeline(
            Timeout(60),
            h.retry(
                CircuitBreaker(minimum_calls=1000),
                RateLimiter(1000),
                Bulkhead(5),
                Timeout(10),
            ),
        )

    async def one(transport: Any) -> None:
        try:
            await h.handle(transport, library.Request("GET", URL))
        except Exception:
            pass

    for step in (
        Fresh(library.ReadError),
        Fresh(library.UnsupportedProtocol),
        Fresh(resilient.BulkheadFullError),
        broken,
        failing,
        slow,
    ):
        transport = h.transport(h.script(step, reads=False), pipeline())
        for warm in (False, True):
            if warm:
                with no_garbage():
                    transport.inner.requests.clear()
                    transport.inner.sent.clear()
                    await one(transport)
            else:
                await one(transport)


@in_every_client
async def test_a_response_that_is_read_leaves_nothing_to_the_collector(h: Http) -> None:
    """It dies with its last reference, and what it held goes back."""
    bulkhead = Bulkhead(2)

    async def step(request: Any) -> Any:
        return h.library.Response(200, stream=h.body(b"a", b"b", log=False))

    transport = h.transport(
        h.script(step, reads=False), Pipeline(Timeout(60), bulkhead)
    )

    async def one() -> None:
        response = await h.handle(transport, h.library.Request("GET", URL))
        await h.read(response)

    await one()
    transport.inner.requests.clear()
    transport.inner.sent.clear()
    with no_garbage():
        await one()
        transport.inner.requests.clear()
        transport.inner.sent.clear()
    assert 0 == bulkhead.in_use


@in_every_client
async def test_a_response_that_is_not_read_leaves_nothing_either(h: Http) -> None:
    """What it held goes back with its last reference, and at once."""
    bulkhead = Bulkhead(1)

    async def step(request: Any) -> Any:
        return h.library.Response(200, stream=h.body(b"a", log=False))

    transport = h.transport(h.script(step, reads=False), Pipeline(bulkhead))
    await h.handle(transport, h.library.Request("GET", URL))
    transport.inner.requests.clear()
    transport.inner.sent.clear()
    with no_garbage():
        response = await h.handle(transport, h.library.Request("GET", URL))
        transport.inner.requests.clear()
        transport.inner.sent.clear()
        assert 1 == bulkhead.in_use
        del response
        assert 0 == bulkhead.in_use


@in_async_clients
async def test_a_cancelled_request_leaves_no_connection_in_its_pool(h: Http) -> None:
    """Not even one that was opened just then, which the pool has no use for."""
    core: Any = importlib.import_module(h.family.replace("httpx", "httpcore"))
    opened: list[Any] = []

    class Stream(core.AsyncMockStream):  # type: ignore[misc]  # of either library
        closed = False

        async def aclose(self) -> None:
            await anyio.lowlevel.checkpoint()
            self.closed = True

    class Backend(core.AsyncMockBackend):  # type: ignore[misc]  # of either library
        async def connect_tcp(self, *args: Any, **kw: Any) -> Any:
            opened.append(Stream([b"HTTP/1.1 204 No Content\r\n\r\n"]))
            if len(opened) == 1:
                scope.cancel()
            return opened[-1]

    inner = h.library.AsyncHTTPTransport(limits=h.library.Limits(max_connections=1))
    inner._pool._network_backend = Backend([])
    async with h.client(inner, h.retry()) as client:
        with anyio.CancelScope() as scope:
            await h.get(client, "http://api.test/")
        assert scope.cancelled_caught
        assert ([], True) == (inner._pool.connections, opened[0].closed)
        assert 204 == (await h.get(client, "http://api.test/")).status_code
