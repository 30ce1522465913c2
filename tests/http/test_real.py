"""The transports against a real server that misbehaves, over real sockets."""

from __future__ import annotations

import importlib
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from h2.errors import ErrorCodes
from tests.colours import Colour, _finish
from tests.http.families import Http
from tests.loopback import FAULTS, Act, Head, Server, answer

from resilient import Bulkhead, Hedge, Pipeline, Retry, Timeout, constant

pytestmark = pytest.mark.real

Scenario = Callable[["Real", Server], Awaitable[None]]

HTTP = {"HTTP/1.1": {}, "HTTP/2": {"http1": False, "http2": True}}
BODY = bytes(range(256)) * 40


class Real(Http):
    """The verbs of one colour, with sockets and in real time."""

    def __init__(self, family: str, colour: Colour, version: str = "HTTP/1.1") -> None:
        super().__init__(family, colour)
        self.version = version

    def inner(self) -> Any:
        name = "HTTPTransport" if self.is_sync else "AsyncHTTPTransport"
        return getattr(self.library, name)(**HTTP[self.version])

    def quick(self, *inside: Any, attempts: int = 3, total: float = 30.0) -> Pipeline:
        """Make a pipeline that loses no time between attempts."""
        retry = Retry(attempts=attempts, backoff=constant(0), budget=None)
        return Pipeline(Timeout(total), retry, *inside, classify=self.ours.http_verdict)

    async def settled(self, server: Server, connections: int) -> None:
        if self.is_sync:
            server.wait_until(connections)
        else:
            await server.await_until(connections)


def _each(
    *colours: Colour, versions: tuple[str, ...] = ("HTTP/1.1",)
) -> Callable[[Scenario], Callable[..., None]]:
    def decorate(scenario: Scenario) -> Callable[..., None]:
        @pytest.mark.parametrize("version", versions)
        @pytest.mark.parametrize("colour", colours)
        @pytest.mark.parametrize("family", ["httpx2", "httpx"])
        def test(family: str, colour: Colour, version: str) -> None:
            real = Real(family, colour, version)
            with Server() as server:
                if colour == "sync":
                    _finish(scenario(real, server))
                else:
                    anyio.run(scenario, real, server, backend=colour)

        test.__name__ = scenario.__name__
        test.__doc__ = scenario.__doc__
        test.__module__ = scenario.__module__
        return test

    return decorate


every_client = _each("sync", "asyncio", "trio")
every_client_and_version = _each("sync", "asyncio", "trio", versions=tuple(HTTP))
every_client_over_http2 = _each("sync", "asyncio", "trio", versions=("HTTP/2",))
every_async_client = _each("asyncio", "trio")


@pytest.mark.parametrize(
    "fault",
    [*(FAULTS | {"429": answer(429, {"retry-after": "0"})}).values()],
    ids=FAULTS,
)
def test_a_fault_is_mended(fault: Any) -> None:
    """Whatever it is, the next attempt answers."""

    @every_client
    async def scenario(h: Real, server: Server) -> None:
        server.script("/", fault, answer(200, body=b"well"))
        async with h.client(h.inner(), h.quick()) as client:
            response = await h.get(client, server.url)
        assert (200, b"well") == (response.status_code, response.content)
        assert 2 == server.hits["/"]

    for family in ("httpx2", "httpx"):
        for colour in ("sync", "asyncio", "trio"):
            scenario(family, colour, "HTTP/1.1")


@every_client
async def test_a_refused_connection_may_be_tried_again_by_any_method(
    h: Real, server: Server
) -> None:
    """Nothing was sent; the last error is the client's own."""
    async with h.client(h.inner(), h.quick()) as client:
        error = await h.error(
            h.library.ConnectError, h.post, client, server.refused_url, content=b"x"
        )
    assert error.__notes__[0].startswith("resilient: 3 attempts in ")


@every_client_over_http2
async def test_a_refused_stream_was_never_sent(h: Real, server: Server) -> None:
    """HTTP/2 says so: a POST is sent again."""
    server.script("/", [ErrorCodes.REFUSED_STREAM], answer(200))
    async with h.client(h.inner(), h.quick()) as client:
        response = await h.post(client, server.url, content=b"x")
    assert (200, 2) == (response.status_code, server.hits["/"])


@every_client_over_http2
async def test_a_server_that_goes_away_says_what_arrived(
    h: Real, server: Server
) -> None:
    """What it disowns is sent again, on another connection; what it owns is not."""
    server.script("/", [Act.GO_AWAY], answer(200))
    server.script("/owned", [Act.GO_AWAY_AFTER], answer(200))
    server.script("/first", answer(200))
    async with h.client(h.inner(), h.quick()) as client:
        response = await h.post(client, server.url, content=b"x")
        assert (200, 2) == (response.status_code, server.hits["/"])
        error = h.library.RemoteProtocolError
        await h.error(error, h.post, client, server.url + "/owned")
        assert 1 == server.hits["/owned"]
        # Where it owns an earlier one, the client's engine sees to it itself.
        server.script("/", [Act.GO_AWAY], answer(200))
        await h.post(client, server.url + "/first")
        assert 200 == (await h.post(client, server.url)).status_code


@every_client_over_http2
async def test_another_reset_may_have_done_something(h: Real, server: Server) -> None:
    """A POST is not sent again."""
    server.script("/", [ErrorCodes.INTERNAL_ERROR], answer(200))
    async with h.client(h.inner(), h.quick()) as client:
        await h.error(h.library.RemoteProtocolError, h.post, client, server.url)
    assert 1 == server.hits["/"]


@every_client_and_version
async def test_a_body_is_replayed_byte_for_byte(h: Real, server: Server) -> None:
    """Each attempt sends all of it."""
    server.script("/", answer(503), answer(502), answer(200))
    async with h.client(h.inner(), h.quick()) as client:
        await h.request(client, "PUT", server.url, content=BODY)
    assert [(BODY, True)] * 3 == [
        (bytes(request.body), request.complete) for request in server.requests
    ]


@every_client_and_version
async def test_a_stream_is_sent_once_and_whole(h: Real, server: Server) -> None:
    """A server never sees an empty or half one: its first answer comes back."""

    def sync_chunks() -> Iterator[bytes]:
        yield from (BODY, BODY)

    async def async_chunks() -> AsyncIterator[bytes]:
        yield BODY
        yield BODY

    server.script("/", answer(503), answer(200))
    chunks = sync_chunks() if h.is_sync else async_chunks()
    async with h.client(h.inner(), h.quick(), retry_unsafe=True) as client:
        response = await h.post(client, server.url, content=chunks)
    assert 503 == response.status_code
    summary = response.extensions["resilient"]
    assert (1, "its body can be sent only once") == (summary.attempts, summary.stopped)
    assert [BODY * 2] == [bytes(request.body) for request in server.requests]


@every_client_and_version
async def test_a_stalled_attempt_is_cut(h: Real, server: Server) -> None:
    """By its own limit, in synchronous clients too; the next one answers."""
    gate = server.gate()
    server.script("/", [gate, *answer()], answer(200))
    async with h.client(h.inner(), h.quick(Timeout(0.5))) as client:
        response = await h.get(client, server.url)
        assert 200 == response.status_code
        gate.open()


@every_client
async def test_a_stalled_request_is_cut_by_the_total(h: Real, server: Server) -> None:
    """What is raised is ours and the client's, caused by the client's own."""
    gate = server.gate()
    server.script("/", [gate, *answer()])
    async with h.client(
        h.inner(), h.quick(total=0.2), client={"timeout": 0.15}
    ) as client:
        error = await h.error(h.library.TimeoutException, h.get, client, server.url)
        gate.open()
    assert server.url == str(error.request.url)
    assert 1 <= server.hits["/"] <= 2


@every_client
async def test_a_body_that_stalls_ends_with_the_total(h: Real, server: Server) -> None:
    """Reading it raises the client's own read timeout, caused by ours."""
    gate = server.gate()
    server.script("/", [Head(200), b"first", gate, b"never"])
    bulkhead = Bulkhead(1)
    async with h.client(
        h.inner(), h.quick(bulkhead, total=1.0), client={"timeout": 1.0}
    ) as client:
        async with h.stream(client, url=server.url) as response:
            assert 1 == bulkhead.in_use
            await h.error(h.library.ReadTimeout, h.parts, response, "raw")
        assert 0 == bulkhead.in_use
        gate.open()
    await h.settled(server, 0)


@every_client
async def test_a_stream_that_dies_is_the_callers(h: Real, server: Server) -> None:
    """Its error is the client's own, and nothing is tried again."""
    server.script("/", [Head(200), b"half", Act.CLOSE])
    async with h.client(h.inner(), h.quick()) as client:
        async with h.stream(client, url=server.url) as response:
            await h.error(h.library.RemoteProtocolError, h.parts, response, "raw")
    assert 1 == server.hits["/"]


@every_client_and_version
async def test_a_thousand_failures_leave_the_pool_as_it_was(
    h: Real, server: Server
) -> None:
    """No connection is lost to it, and none stays open beyond one."""
    server.script("/short", answer(503, body=b"x" * 100))
    server.script("/long", [Head(503), b"x" * 100])
    server.script(
        "/reset",
        [Act.CLOSE] if h.version == "HTTP/1.1" else [ErrorCodes.INTERNAL_ERROR],
    )
    inner = h.inner()
    # Of three requests that fail, each sent twice.
    rounds = 167 if h.version == "HTTP/1.1" else 17
    bulkhead = Bulkhead(1)
    async with h.client(inner, h.quick(bulkhead, attempts=2)) as client:
        for _ in range(rounds):
            for path in ("/short", "/long"):
                response = await h.get(client, server.url + path)
                assert 503 == response.status_code
            await h.error(
                h.library.TransportError, h.get, client, server.url + "/reset"
            )
        assert 0 == bulkhead.in_use
        assert len(inner._pool.connections) <= 1
        assert not [
            connection
            for connection in inner._pool.connections
            if not connection.is_idle()
        ]
        assert server.open_connections <= 1
    assert rounds * 6 == server.hits.total()
    await h.settled(server, 0)


@every_async_client
async def test_cancelled_streams_leave_no_connection_open(
    h: Real, server: Server
) -> None:
    """A hundred at once, at any moment from connecting to the last byte."""
    gate = server.gate()
    server.script("/", [Head(200), b"a" * 1000, gate, b"b"])
    bulkhead = Bulkhead(100)
    source = random.Random(7)
    limits = h.library.Limits(max_connections=100)
    inner = h.library.AsyncHTTPTransport(limits=limits)

    async def stream(client: Any, give_up_at: float) -> None:
        with anyio.move_on_after(give_up_at):
            async with h.stream(client, url=server.url) as response:
                await h.parts(response, "raw")

    async with h.client(inner, h.quick(bulkhead, Timeout(10))) as client:
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(stream, client, source.uniform(0.0, 0.5))
        assert 0 == bulkhead.in_use
        await h.settled(server, 0)
        assert [] == inner._pool.connections
        gate.open()


async def _hedge(h: Real, server: Server) -> None:
    """Stream the winner's body to its end; what the loser had is closed or free."""
    slow, rest = server.gate(), server.gate()
    server.script(
        "/", [slow, *answer(200, body=b"late")], [Head(200), b"in ", rest, b"time"]
    )
    server.script("/next", answer(200, body=b"next"))
    inner, hedge = h.inner(), Hedge(0.05, budget=None, max_threads=9)
    async with h.client(inner, Pipeline(Timeout(30), hedge)) as client:
        async with h.stream(client, "GET", server.url) as response:
            rest.open()
            assert b"in time" == await h.read(response)
        slow.open()
        for _ in range(3):
            assert b"next" == (await h.get(client, server.url + "/next")).content
        if h.is_sync:
            # The loser goes on in its thread, and gives back what it had.
            for thread in threading.enumerate():
                if thread.name.startswith("resilient GET"):
                    thread.join(30)
        states = {connection.info() for connection in inner._pool.connections}
    assert all("Request Count" in state for state in states)
    assert not any("ACTIVE" in state for state in states), states
    assert 2 == server.hits["/"]
    await h.settled(server, 0)


@every_client_and_version
async def test_a_hedged_request_leaves_its_connections_usable(
    h: Real, server: Server
) -> None:
    """Each attempt has one of its own; over HTTP/2 only tasks share one."""
    await _hedge(h, server)


@_each("sync", versions=("HTTP/2",))
async def test_a_thread_is_not_held_up_by_another_ones_stream(
    h: Real, server: Server
) -> None:
    """Each call has its own limit: one that stalls, and one that times out."""
    gate = server.gate()
    server.script("/stalled", [gate, *answer(200, body=b"late")])
    inner = h.inner()
    late: list[Any] = []
    async with h.client(inner, h.quick(attempts=1)) as client:
        client.get(server.url)

        def wait() -> None:
            late.append(client.get(server.url + "/stalled").content)

        thread = threading.Thread(target=wait)
        thread.start()
        server.wait_for(lambda: gate.waiting == 1)
        short = {"resilient": h.quick(attempts=1, total=0.2)}
        for _ in range(2):
            with pytest.raises(h.ours.TimeoutExceededError):
                client.get(server.url + "/stalled", extensions=short)
            assert 200 == client.get(server.url).status_code
        assert [] == late
        gate.open()
        thread.join(30)
        assert [b"late"] == late
        # What timed out is closed, and nothing is under way.
        assert 2 == len(inner._pool.connections)
        assert all("IDLE" in one.info() for one in inner._pool.connections)


@_each("sync", versions=("HTTP/2",))
async def test_threads_share_a_pool_of_http2(h: Real, server: Server) -> None:
    """Each request has a connection to itself, and takes one that is free."""
    inner = h.inner()
    done: list[int] = []
    async with h.client(inner, h.quick(attempts=1)) as client:

        def work() -> None:
            for _ in range(9):
                done.append(client.post(server.url, content=BODY).status_code)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert 1 <= len(inner._pool.connections) <= 4
    assert [200] * 36 == done
    assert all(request.http_version == "HTTP/2" for request in server.requests)


@_each("sync", versions=("HTTP/2",))
async def test_an_unread_body_closes_its_connection(h: Real, server: Server) -> None:
    """No client resets a stream, so that its server would go on with it."""
    server.script("/", [Head(200), b"some ", server.gate()])
    inner = h.inner()
    async with h.client(inner, h.quick()) as client:
        async with h.stream(client, url=server.url) as response:
            assert b"some " == next(response.iter_raw())
        await h.settled(server, 0)
        assert [] == inner._pool.connections
        assert 200 == (await h.get(client, server.url + "/echo")).status_code


@_each("sync", versions=("HTTP/2",))
async def test_a_connection_that_is_taken_is_not_given_away(
    h: Real, server: Server
) -> None:
    """A pool may give an idle one to two requests before either begins."""
    inner = h.inner()
    pool = inner._pool
    async with h.client(inner, h.quick()) as client:
        await h.get(client, server.url)
        (connection,) = pool.connections
        assert connection.is_available()
        assert not connection.can_multiplex()
        assert "IDLE" in repr(connection)
        connection._is_taken = True
        assert not connection.is_available()
        core = importlib.import_module(type(pool).__module__.partition(".")[0])
        with pytest.raises(core.ConnectionNotAvailable):
            connection.handle_request(None)
        assert 200 == (await h.get(client, server.url)).status_code
        assert 2 == len(pool.connections)
        connection._is_taken = False
