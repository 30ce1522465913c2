"""Readiness, liveness and the end of a server's process, without a server."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from tests.colours import World, in_async_colours
from tests.server.visits import Slow, Visit, answer, hello

from resilient import DrainEnded, ResilientWarning, Timeout, subscribe
from resilient._server.answers import Receive, Scope, Send
from resilient.asgi import Lifecycle, LifecycleState, ResilientMiddleware


@pytest.fixture(autouse=True)
def _own_handler() -> Iterator[None]:
    """Have no test leave a handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def quiet(**arguments: Any) -> Lifecycle:
    """A lifecycle that leaves signals alone."""
    return Lifecycle(signals=False, **arguments)


async def spanned(scope: Scope, receive: Receive, send: Send) -> None:
    """An application with a lifespan."""
    if scope["type"] != "lifespan":
        await hello(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


class Span:
    """A server's side of the lifespan, step by step."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.stop = anyio.Event()
        self.heard: list[str] = []
        self._messages = ["lifespan.startup"]

    async def __call__(self) -> None:
        await self.app({"type": "lifespan"}, self.receive, self.send)

    async def receive(self) -> Any:
        if self._messages:
            return {"type": self._messages.pop()}
        await self.stop.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Any) -> None:
        self.heard.append(message["type"])


# -- Probes


@in_async_colours
async def test_readiness_follows_the_lifespan(w: World) -> None:
    """Not before the startup is complete, and not after its end; liveness always."""
    lifecycle = quiet()
    app = ResilientMiddleware(spanned, Timeout(5), lifecycle=lifecycle)
    span = Span(app)
    seen: list[tuple[LifecycleState, int, bytes]] = []

    async def look() -> None:
        visit = await Visit(app, "/readyz")()
        seen.append((lifecycle.state, visit.status, visit.body))
        assert 200 == (await Visit(app, "/livez")()).status

    async def probe() -> None:
        await w.sleep(1)
        await look()
        span.stop.set()
        await w.sleep(1)
        await look()

    assert LifecycleState.STARTING is lifecycle.state
    await w.gather(span, probe)

    assert [
        (LifecycleState.SERVING, 200, b"ready\n"),
        (LifecycleState.ENDED, 503, b"not ready\n"),
    ] == seen
    assert ["lifespan.startup.complete", "lifespan.shutdown.complete"] == span.heard


@in_async_colours
async def test_an_application_that_starts_is_not_ready(w: World) -> None:
    """Even where the server passes requests on meanwhile."""
    lifecycle = quiet()
    status: list[int] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(1)
        raise RuntimeError("no database")

    app = ResilientMiddleware(slow, Timeout(5), lifecycle=lifecycle)

    async def probe() -> None:
        await w.sleep(0.5)
        status.append((await Visit(app, "/readyz")()).status)

    await w.gather(Span(app), probe)

    assert ([503], LifecycleState.STARTING) == (status, lifecycle.state)


@in_async_colours
async def test_the_first_request_begins_where_there_is_no_lifespan(w: World) -> None:
    """It may be the probe itself."""
    lifecycle = quiet()
    app = ResilientMiddleware(hello, Timeout(5), lifecycle=lifecycle)

    assert 200 == (await Visit(app, "/readyz")()).status


@in_async_colours
async def test_probes_can_stand_elsewhere(w: World) -> None:
    """On a port of their own; the application's own paths stay its own."""
    lifecycle = quiet()
    app = ResilientMiddleware(hello, Timeout(5), lifecycle=lifecycle, exempt=())

    assert b"hello" == (await Visit(app, "/readyz")()).body
    probes = lifecycle.probes
    statuses = [
        (await Visit(probes, path)()).status for path in ("/livez", "/readyz", "/x")
    ]
    assert [200, 200, 404] == statuses


@in_async_colours
async def test_checks_decide_readiness(w: World) -> None:
    """One that is false, fails or is late; details only where they are wanted."""

    async def late() -> bool:
        await anyio.sleep(5)
        return True

    async def fine() -> bool:
        return True

    def broken() -> bool:
        raise LookupError("secret")

    for check, word in (
        (lambda: True, "ok"),
        (fine, "ok"),
        (lambda: False, "failed"),
        (broken, "failed"),
        (late, "late"),
    ):
        status = 200 if word == "ok" else 503
        silent, telling = quiet(), quiet(details=True)
        for lifecycle in (silent, telling):
            lifecycle.add_check("cache", check)
            lifecycle.begin()
        began = w.now()
        visit = await Visit(silent.probes, "/readyz")()
        assert w.now() - began <= 1.0
        assert (status, b"cache" in visit.body) == (visit.status, False)
        told = await Visit(telling.probes, "/readyz")()
        assert (status, {"state": "serving", "checks": {"cache": word}}) == (
            told.status,
            told.json,
        )


@in_async_colours
async def test_checks_share_their_second(w: World) -> None:
    """What was not begun in it is late, too, and so is one that blocks."""
    from resilient._runtimes import clock

    ran: list[str] = []

    async def slow() -> bool:
        ran.append("slow")
        await anyio.sleep(5)
        return True

    lifecycle = quiet(details=True)
    lifecycle.begin()
    lifecycle.add_check("slow", slow)
    lifecycle.add_check("next", lambda: bool(ran.append("next")) or True)
    visit = await Visit(lifecycle.probes, "/readyz")()
    assert {"slow": "late", "next": "late"} == visit.json["checks"]
    assert ["slow"] == ran

    now, lost = clock.now, 0.0

    def blocks() -> bool:
        nonlocal lost
        lost = 2.0
        return True

    blocking = quiet(details=True)
    blocking.begin()
    blocking.add_check("blocks", blocks)
    clock.now = lambda: now() + lost
    try:
        visit = await Visit(blocking.probes, "/readyz")()
    finally:
        clock.now = now
    assert {"blocks": "late"} == visit.json["checks"]


@in_async_colours
async def test_a_flood_of_probes_costs_one_check_a_second(w: World) -> None:
    """Those that come at once share it, and those that come soon."""
    asked: list[float] = []

    async def check() -> bool:
        asked.append(w.now())
        await anyio.sleep(0.1)
        return True

    lifecycle = quiet()
    lifecycle.begin()
    lifecycle.add_check("cache", check)
    for _ in range(3):
        visits = [Visit(lifecycle.probes, "/readyz") for _ in range(20)]
        await w.gather(*visits)
        assert {200} == {one.status for one in visits}
        await w.sleep(0.5)

    assert 2 == len(asked)


# -- Draining


@in_async_colours
async def test_a_process_that_drains_never_serves_again(w: World) -> None:
    """Though its startup completes only then."""
    lifecycle = quiet(delay=60)
    lifecycle.drain()
    span = Span(ResilientMiddleware(spanned, Timeout(5), lifecycle=lifecycle))

    async def end() -> None:
        await w.sleep(1)
        assert LifecycleState.DRAINING is lifecycle.state
        span.stop.set()

    await w.gather(span, end)
    assert LifecycleState.ENDED is lifecycle.state


@in_async_colours
async def test_requests_are_served_while_it_drains(w: World) -> None:
    """Unready at once; connections are told to close, but those of HTTP/2."""
    lifecycle = quiet(delay=60)
    app = ResilientMiddleware(hello, Timeout(5), lifecycle=lifecycle)
    assert "connection" not in (await Visit(app)()).headers

    lifecycle.drain()
    lifecycle.drain()

    served = await Visit(app)()
    assert (200, "close") == (served.status, served.headers["connection"])
    http_2 = Visit(app)
    http_2.scope["http_version"] = "2"
    assert "connection" not in (await http_2()).headers
    assert 503 == (await Visit(app, "/readyz")()).status
    assert LifecycleState.DRAINING is lifecycle.state
    lifecycle._end(0)


@pytest.mark.real
@pytest.mark.parametrize("colour", ["asyncio", "trio"])
def test_what_does_not_end_is_cut(colour: str) -> None:
    """Before its answer, in mid-stream, in the background; nothing is learnt."""
    lifecycle = quiet(delay=0.05, timeout=0.05)
    slow = Slow(60)
    heard: list[DrainEnded] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/background":
            await answer(send)
        await slow(scope, receive, send)

    middleware = ResilientMiddleware(app, Timeout(30), lifecycle=lifecycle)
    visits = [Visit(middleware, path) for path in ("/", "/stream", "/background")]

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for visit in visits:
                tasks.start_soon(visit)
            while lifecycle.in_flight < 3 or slow.calls < 3:
                await anyio.sleep(0.01)
            lifecycle.drain()

    unsubscribe = subscribe(
        lambda event: heard.append(event) if isinstance(event, DrainEnded) else None
    )
    try:
        anyio.run(scenario, backend=colour)
        wait_for(lambda: len(heard) == 1)
    finally:
        unsubscribe()

    assert (3, 0) == (slow.cancelled, lifecycle.in_flight)
    assert [[503], [200], [200]] == [one.statuses for one in visits]
    assert (3, "lifecycle") == (heard[0].cut, heard[0].policy)
    assert heard[0].seconds >= 0.1


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come")


@pytest.mark.real
def test_sigterm_reaches_the_server_after_the_delay() -> None:
    """A handler of Python's, as uvicorn has; a second signal is handed on at once."""
    told: list[tuple[Any, ...]] = []

    def handler(*arguments: Any) -> None:
        told.append(arguments)

    for delay, times in ((0.05, 1), (600, 2)):
        told.clear()
        signal.signal(signal.SIGTERM, handler)
        lifecycle = Lifecycle(delay=delay, timeout=600)
        lifecycle.begin()
        for _ in range(times):
            assert [] == told
            os.kill(os.getpid(), signal.SIGTERM)
            assert LifecycleState.DRAINING is lifecycle.state
        wait_for(lambda: len(told) == 1)
        lifecycle._end(0)
        assert [(signal.SIGTERM, None)] == told


@pytest.mark.real
def test_a_handler_of_the_loop_is_delayed_too() -> None:
    """As hypercorn and granian have it; and put back where nothing came."""
    told: list[float] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, told.append, 1.0)
        Lifecycle(delay=600, timeout=600).begin()
        calm = Lifecycle(delay=600, timeout=600)
        loop.add_signal_handler(signal.SIGTERM, told.append, 2.0)
        calm.begin()
        calm._end(0)
        lifecycle = Lifecycle(delay=0.05, timeout=600)
        lifecycle.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        while not told:
            await asyncio.sleep(0.01)
        assert LifecycleState.DRAINING is lifecycle.state
        lifecycle._end(0)
        loop.remove_signal_handler(signal.SIGTERM)

    asyncio.run(scenario())
    assert [2.0] == told


def test_the_servers_handler_is_put_back() -> None:
    """When the process ends for another reason."""

    def handler(*arguments: Any) -> None:
        """Do nothing."""

    signal.signal(signal.SIGTERM, handler)
    lifecycle = Lifecycle()
    lifecycle.begin()
    assert handler is not signal.getsignal(signal.SIGTERM)
    lifecycle._end(0)
    lifecycle._end(0)

    assert handler is signal.getsignal(signal.SIGTERM)
    lifecycle.drain()
    assert LifecycleState.ENDED is lifecycle.state


def test_a_process_without_a_handler_is_warned_of() -> None:
    """There is nothing to hand the signal on to."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.warns(ResilientWarning, match="found no handler of SIGTERM to delay"):
        Lifecycle().begin()


@pytest.mark.real
def test_another_thread_cannot_delay_signals() -> None:
    """It is told what to do instead."""
    warned: list[None] = []

    def run() -> None:
        with pytest.warns(ResilientWarning, match="outside of the main thread"):
            Lifecycle().begin()
        warned.append(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert [None] == warned


@pytest.mark.real
def test_an_end_before_the_delay_is_over_sends_no_signal() -> None:
    """The server was told by another signal meanwhile."""
    told: list[Any] = []
    signal.signal(signal.SIGTERM, lambda *arguments: told.append(arguments))
    lifecycle = Lifecycle(delay=600)
    lifecycle.begin()
    before = threading.active_count()
    lifecycle.drain()
    lifecycle._end(0)
    wait_for(lambda: threading.active_count() <= before)

    assert [] == told


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Lifecycle(delay=-1), "`delay` must be >= 0 seconds, got -1"),
        (lambda: Lifecycle(timeout=float("inf")), "`timeout` must be a finite time"),
        (lambda: Lifecycle(signals=1), "`signals` must be"),  # type: ignore[arg-type]
        (lambda: Lifecycle(details="no"), "`details` must be"),  # type: ignore[arg-type]
        (
            lambda: Lifecycle().add_check(1, bool),  # type: ignore[arg-type]
            "`name` must be a str, got 1",
        ),
        (
            lambda: Lifecycle().add_check("x", True),  # type: ignore[arg-type]
            "`check` must be a function, got True",
        ),
        (
            lambda: ResilientMiddleware(hello, lifecycle=5.0),  # type: ignore[arg-type]
            "`lifecycle` must be a Lifecycle, got 5.0",
        ),
    ],
)
def test_arguments_without_a_meaning_are_refused(
    call: Callable[[], object], text: str
) -> None:
    """By name."""
    with pytest.raises((TypeError, ValueError), match=text):
        call()


def test_a_check_has_one_name() -> None:
    """A second one of that name would hide the first."""
    lifecycle = quiet()
    lifecycle.add_check("cache", bool)
    with pytest.raises(ValueError, match="`name` must be new, got 'cache' again"):
        lifecycle.add_check("cache", bool)
