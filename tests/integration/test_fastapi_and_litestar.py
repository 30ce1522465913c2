"""The page on FastAPI and Litestar, served by uvicorn as it says."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.loopback import Server as Stock
from tests.loopback import answer
from tests.server.servers import PATIENCE, Server, free_port, running

import resilient

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs/how-to/protect-a-fastapi-service.md"
TEXT = PAGE.read_text("utf-8")
FILES = dict(re.findall(r"^```py\n# (\S+)\n(.*?)^```$", TEXT, re.M | re.S))
COMMANDS = re.findall(r"^```sh\n(.*)\n```$", TEXT, re.M)
MODULES = {"fastapi": "shop", "litestar": "depot"}
BUDGET = "X-Request-Timeout-Ms"
PROBLEM = {"Accept": "application/json", "Origin": "https://shop.example"}

# What a test asks besides, the same for both frameworks but for how a route is written.
WORK = """
import asyncio, os, pathlib
from resilient import CircuitBreaker, CircuitOpenError, remaining

noted = []
payments = CircuitBreaker(name="payments", consecutive_failures=1, open_for=60)

@payments
async def charge():
    raise ConnectionError("secret")

async def events():
    try:
        for number in range(10**6):
            yield f"data: {number}\\n\\n"
            await asyncio.sleep(0.05)
    finally:
        noted.append("events ended")

async def work():
    await asyncio.sleep(0.05)
    noted.append(f"worked {remaining()}")

async def wait():
    noted.append("waiting")
    try:
        await asyncio.sleep(600)
    finally:
        noted.append("wait ended")

def ended():
    pathlib.Path(os.environ["ENDED"]).write_text("ended")
"""

FASTAPI = """
from shop import *
from contextlib import asynccontextmanager
from fastapi import BackgroundTasks, WebSocket
from fastapi.responses import StreamingResponse

@site.get("/left")
async def left():
    return remaining()

@site.get("/pay")
async def pay():
    await charge()

@site.get("/threaded/pay")
@payments
def pay_in_a_thread():
    raise ConnectionError("secret")

@site.get("/bug")
async def bug():
    raise LookupError("bug")

@site.get("/wait")
async def waiting():
    await wait()

@site.get("/events")
async def ticks():
    return StreamingResponse(events(), media_type="text/event-stream")

@site.get("/later")
async def later(tasks: BackgroundTasks):
    tasks.add_task(work)

@site.get("/state")
async def state():
    return {"noted": noted, "in_flight": lifecycle.in_flight - 1}

@site.websocket("/echo")
async def echo(socket: WebSocket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)

inner = site.router.lifespan_context

@asynccontextmanager
async def around(app):
    async with inner(app) as state:
        yield state
    ended()

site.router.lifespan_context = around
"""

LITESTAR = """
from depot import *
from litestar import WebSocket, get, websocket
from litestar.background_tasks import BackgroundTask
from litestar.response import ServerSentEvent, Stream

@get("/left")
async def left() -> float:
    return remaining()

@get("/pay")
async def pay() -> None:
    await charge()

@get("/threaded/pay", sync_to_thread=True)
@payments
def pay_in_a_thread() -> None:
    raise ConnectionError("secret")

@get("/bug")
async def bug() -> None:
    raise LookupError("bug")

@get("/wait")
async def waiting() -> None:
    await wait()

@get("/events")
async def ticks() -> Stream:
    return Stream(events(), media_type="text/event-stream")

@get("/later")
async def later() -> Response[None]:
    return Response(None, background=BackgroundTask(work))

@get("/state")
async def state() -> dict[str, object]:
    return {"noted": noted, "in_flight": lifecycle.in_flight - 1}

@websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_data():
        await socket.send_text(text)

for route in (left, pay, pay_in_a_thread, bug, waiting, ticks, later, state, echo):
    site.register(route)
site.on_shutdown.append(ended)
"""

ADDED = {"fastapi": WORK + FASTAPI, "litestar": WORK + LITESTAR}


def test_the_page_has_two_files_and_two_commands() -> None:
    """One that is not understood would not be run."""
    assert ["shop.py", "depot.py"] == [*FILES]
    assert ["uvicorn shop:app", "uvicorn depot:app"] == COMMANDS


@contextmanager
def served(
    framework: str, folder: Path, stock_url: str, changes: dict[str, str]
) -> Iterator[Server]:
    """Serve a file of the page, with numbers that no slow machine misses."""
    if "CI" not in os.environ:
        pytest.importorskip(framework)
    module = MODULES[framework]
    text = FILES[f"{module}.py"]
    for old, new in changes.items():
        assert 1 == text.count(old), old
        text = text.replace(old, new)
    (folder / f"{module}.py").write_text(text, "utf-8")
    (folder / "tested.py").write_text(ADDED[framework], "utf-8")
    port = free_port()
    environment = {
        "PYTHONPATH": str(Path(resilient.__file__).parents[1]),
        "STOCK_URL": stock_url,
        "ENDED": str(folder / "ended"),
    }
    command = ["uvicorn", "--port", str(port), "--log-level", "warning", "tested:app"]
    with running(command, port, folder, environment) as server:
        yield server


@pytest.fixture(scope="module")
def stock() -> Iterator[Stock]:
    """The service that both ask."""
    with Stock() as server:
        server.script("/tea", answer(200, body=b"7"))
        yield server


@pytest.fixture(scope="module", params=MODULES)
def shop(
    request: pytest.FixtureRequest,
    stock: Stock,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Each framework, with four slots and a total that no request reaches."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = {
        "\nlifecycle = ": "\nFOUR = AIMD(4, minimum=4, maximum=4)\nlifecycle = ",
        "import httpx\n": "import httpx\nfrom resilient import AIMD\n",
        "standard_server_pipeline(per_client=lambda client: RateLimiter(50))": (
            "standard_server_pipeline(total=600, limit=FOUR,"
            " per_client=lambda client: RateLimiter(10**6))"
        ),
    }
    with served(request.param, folder, stock.url, changes) as server:
        yield server


def idle(state: dict[str, Any]) -> bool:
    """Whether it serves nothing but this request."""
    return state["in_flight"] == 0


def test_routes_are_served_and_deadlines_travel(shop: Server, stock: Stock) -> None:
    """From the caller through the route to the service behind it."""
    with shop.client() as client:
        tea = client.get("/stock/tea", headers={BUDGET: "25000"})
        left = client.get("/left", headers={BUDGET: "25000"}).json()
        late = client.get("/left", headers={BUDGET: "0"})
        assert 404 == client.get("/unknown").status_code

    assert (200, 7) == (tea.status_code, tea.json())
    assert 0 < left <= 25
    assert (504, "Gateway Timeout\n") == (late.status_code, late.text)
    passed_on = float(stock.requests[-1].headers[BUDGET.lower()])
    assert 0 < passed_on <= 25_000


@pytest.mark.parametrize("path", ["/pay", "/threaded/pay"])
def test_a_route_whose_pipeline_rejects_answers_503(shop: Server, path: str) -> None:
    """With `Retry-After`, as a problem, for pages of the shop; a bug is a 500."""
    # NB: each on a connection of its own: after an error uvicorn closes it.
    asked = [(path, {}), (path, PROBLEM), ("/bug", {})]
    answers: list[httpx.Response] = []
    for where, headers in asked:
        with shop.client() as client:
            answers.append(client.get(where, headers=headers))
    _, refused, bug = answers

    assert 500 == bug.status_code
    assert_refused(refused, 503)
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def assert_refused(refused: httpx.Response, status: int) -> None:
    """It is a problem that a page of the shop may read, and each header is single."""
    names = [name.lower() for name, _ in refused.headers.raw]
    exposed = refused.headers["access-control-expose-headers"]
    title = {429: "Too Many Requests", 503: "Service Unavailable"}[status]
    problem = {"type": "about:blank", "title": title, "status": status}

    assert (status, problem) == (refused.status_code, refused.json())
    assert "application/problem+json" == refused.headers["content-type"]
    assert PROBLEM["Origin"] == refused.headers["access-control-allow-origin"]
    assert "Retry-After" in exposed
    assert 1 == names.count(b"access-control-allow-origin")
    assert 1 == names.count(b"content-type") == names.count(b"content-length")
    assert "payments" not in refused.text + str(refused.headers)


def test_a_user_has_a_limit_behind_authentication(shop: Server) -> None:
    """Whatever the address; what is not signed in gets no further."""
    tea = {"words": "tea"}

    def ask(user: str) -> httpx.Response:
        return client.get(
            "/search",
            params=tea,
            auth=(user, "secret"),
            headers={"User": user, **PROBLEM},
        )

    with shop.client() as client:
        assert client.get("/search", params=tea).status_code in (401, 500)
        assert "nothing is called tea" in ask("ann").text
        refused = until(429, lambda: ask("ann"))
        another = ask("bob")

    assert_refused(refused, 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit"].startswith('"default";r=0;t=')
    assert 200 == another.status_code


def until(status: int, ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Ask until the answer has a status."""
    end = time.monotonic() + PATIENCE
    while (found := ask()).status_code != status:
        assert time.monotonic() < end, f"it stays {found.status_code}"
    return found


def test_a_preflight_is_the_frameworks_own(shop: Server) -> None:
    """It passes; an answer of the application carries its headers once."""
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    with shop.client() as client:
        preflight = client.options("/stock/tea", headers=asked)
        served = client.get("/stock/tea", headers=asked)

    for found in (preflight, served):
        assert found.is_success
        allowed = found.headers.get_list("access-control-allow-origin")
        assert ["https://shop.example"] == allowed


def test_events_come_one_by_one_and_end_with_their_client(shop: Server) -> None:
    """The slot is held until then."""
    with shop.client() as client:
        before = client.get("/state").json()["noted"].count("events ended")
        with client.stream("GET", "/events") as response:
            lines = response.iter_lines()
            assert ["data: 0", "", "data: 1"] == [next(lines) for _ in range(3)]
            assert 1 == client.get("/state").json()["in_flight"]
    shop.wait_for(
        lambda state: idle(state) and state["noted"].count("events ended") == before + 1
    )


def test_a_client_that_goes_cancels_its_route(shop: Server) -> None:
    """Whatever the framework has put around it."""
    with shop.client() as client:
        noted = client.get("/state").json()["noted"]
    with closing(connection(shop)) as one:
        one.sendall(b"GET /wait HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        shop.wait_for(
            lambda state: state["noted"].count("waiting") > noted.count("waiting")
        )
    shop.wait_for(
        lambda state: (
            idle(state)
            and state["noted"].count("wait ended") > noted.count("wait ended")
        )
    )


def test_a_late_route_is_cancelled(shop: Server) -> None:
    """Its client has a 504."""
    with shop.client() as client:
        late = until(504, lambda: client.get("/wait", headers={BUDGET: "500"}))
    assert "Gateway Timeout\n" == late.text
    shop.wait_for(
        lambda state: (
            idle(state)
            and state["noted"].count("waiting") == state["noted"].count("wait ended")
        )
    )


def test_background_tasks_have_neither_slot_nor_deadline(shop: Server) -> None:
    """They run after the last byte."""
    with shop.client() as client:
        assert client.get("/later", headers={BUDGET: "25000"}).is_success
        # NB: on the connection that is kept; a server ends nothing of it.
        shop.wait_for(lambda state: "worked None" in state["noted"])


def connection(server: Server) -> socket.socket:
    """Connect to a server, below HTTP."""
    url = urlsplit(server.url)
    return socket.create_connection((url.hostname, url.port), PATIENCE)


def test_websockets_hold_the_slots_and_the_rest_is_refused(shop: Server) -> None:
    """With an answer that pages of the shop can read; probes are served."""
    sockets: list[socket.socket] = []

    def handshake() -> bytes:
        one = connection(shop)
        sockets.append(one)
        one.sendall(
            b"GET /echo HTTP/1.1\r\nHost: shop.example\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        head = b""
        while b"\r\n\r\n" not in head:
            piece = one.recv(4096)
            assert piece, head
            head += piece
        return head.split(b" ")[1]

    shop.wait_for(idle)
    try:
        # One may be kept for critical requests, where there were some.
        statuses = [handshake() for _ in range(5)]
        assert statuses.index(b"503") in (3, 4)
        assert {b"101"} == {*statuses[:3]}
        # A text of two letters, under a mask of zeros, and back.
        sockets[0].sendall(b"\x81\x82\0\0\0\0hi")
        assert b"\x81\x02hi" == sockets[0].recv(4)
        with shop.client() as client:
            refused = client.get("/left", headers=PROBLEM)
            assert 200 == client.get("/readyz").status_code
    finally:
        for one in sockets:
            one.close()
    assert_refused(refused, 503)
    assert refused.headers["retry-after"] in ("1", "2", "3")
    with shop.client() as client:
        until(200, lambda: client.get("/state"))
    shop.wait_for(idle)


@pytest.mark.parametrize("framework", MODULES)
def test_a_client_is_limited_and_the_end_is_orderly(
    framework: str, tmp_path: Path
) -> None:
    """By address in front; at SIGTERM unready first, and the lifespan ends."""
    changes = {"RateLimiter(50)": "RateLimiter(3, per=3600)", "delay=5.0": "delay=600"}
    with served(framework, tmp_path, "http://127.0.0.1:9", changes) as shop:
        with shop.client() as client:
            assert [200, 200, 200, 429] == [
                client.get("/left", headers={BUDGET: "25000"}).status_code
                for _ in range(4)
            ]
            assert_refused(client.get("/left", headers=PROBLEM), 429)
            assert 200 == client.get("/readyz").status_code
            shop.terminate()
            until(503, lambda: client.get("/readyz"))
            assert 200 == client.get("/livez").status_code
            assert 429 == client.get("/left").status_code
        # A second one is not delayed; uvicorn ends by the signal that it got.
        shop.terminate()
        assert shop.process.wait(PATIENCE) in (0, -signal.SIGTERM)
    assert "ended" == (tmp_path / "ended").read_text()
