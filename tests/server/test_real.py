"""An application behind a pipeline, served by real servers."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from tests.server.servers import Server, served

pytestmark = pytest.mark.real


@pytest.fixture(
    scope="module", params=["uvicorn", "hypercorn", "hypercorn-trio", "granian"]
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each server that is installed."""
    with served(request.param) as running:
        yield running


def test_requests_are_served_and_limited(server: Server) -> None:
    """By client, with what our own transport reads, and without the rest."""
    with server.client() as client:
        statuses = [client.get("/hello").status_code for _ in range(4)]
        refused = client.get("/hello", headers={"accept": "application/json"})
        assert 5 == client.post("/size", content=b"12345").json()
        assert 300_000 == client.post("/size", content=b"x" * 300_000).json()

    assert [200, 200, 200, 429] == statuses
    assert "Too Many Requests" == refused.json()["title"]
    assert 1 <= int(refused.headers["retry-after"]) <= 3600
    assert refused.headers["ratelimit"].startswith('"default";r=0;t=')


def test_a_refusal_with_an_unread_body_leaves_the_server_alive(server: Server) -> None:
    """Whether it keeps the connection or not is the server's business."""
    with server.client() as client:
        for _ in range(4):
            try:
                status = client.post("/unread", content=b"x" * 2_000_000).status_code
            except httpx.TransportError:
                # Closed by the server while the body was still being sent.
                continue
            assert status in (200, 429)
    with server.client() as client:
        assert 1 == client.post("/size", content=b"1").json()


def test_deadlines_arrive_and_are_kept(server: Server) -> None:
    """A caller's, and our own."""
    hurry = {"x-request-timeout-ms": "500"}
    with server.client() as client:
        assert 0 < client.get("/left", headers=hurry).json() <= 0.5
        assert 1 < client.get("/left").json() <= 1.5
        assert 504 == client.get("/slow?s=60", headers=hurry).status_code
        assert 504 == client.get("/slow?s=60").status_code
    server.wait_for(lambda state: state["noted"].count("slow cancelled") >= 2)


def test_a_stream_is_cut_at_the_limit(server: Server) -> None:
    """The client sees that it is not whole."""
    with server.client() as client, client.stream("GET", "/stream") as response:
        assert 200 == response.status_code
        with pytest.raises(httpx.TransportError):
            response.read()
    server.wait_for(
        lambda state: "stream ended" in state["noted"] and not state["in_flight"]
    )


def test_a_client_that_goes_frees_its_slot(server: Server) -> None:
    """Long before the limit: the application is cancelled."""
    cancelled = server.wait_for(lambda state: not state["in_flight"])["noted"].count(
        "slow cancelled"
    )
    with server.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.get("/slow?s=60", timeout=0.3)
    server.wait_for(
        lambda state: (
            not state["in_flight"]
            and state["noted"].count("slow cancelled") == cancelled + 1
        )
    )


@pytest.mark.parametrize(
    "request_line",
    [
        b"POST /size HTTP/1.1\r\nContent-Length: 100000\r\n",
        b"GET /flood HTTP/1.1\r\n",
    ],
    ids=["sends slowly", "reads nothing"],
)
def test_a_slow_client_holds_its_slot_no_longer_than_the_limit(
    server: Server, request_line: bytes
) -> None:
    """Its connection is open all the time, on its side."""
    url = urlsplit(server.url)
    with socket.create_connection((url.hostname, url.port), 10) as one:
        one.sendall(b"%sHost: %s\r\n\r\n" % (request_line, url.netloc.encode()))
        server.wait_for(lambda state: state["in_flight"] == 1)
        if request_line.startswith(b"POST"):
            one.sendall(b"12345")
        server.wait_for(lambda state: state["in_flight"] == 0)


def test_background_work_holds_no_slot_and_has_no_deadline(server: Server) -> None:
    """It is done after the last byte."""
    with server.client() as client:
        assert b"background" == client.get("/background").content
        # NB: hypercorn ends what its client no longer waits for.
        server.wait_for(lambda state: "background 0 None" in state["noted"])


def test_errors_have_their_answers(server: Server) -> None:
    """A route that is rejected further in, and one with a bug."""
    with server.client() as client:
        refused = client.get("/rejected")
        assert (503, "13") == (refused.status_code, refused.headers["retry-after"])
        assert 500 == client.get("/bug").status_code
    server.wait_for(lambda state: not state["in_flight"])


def test_websockets_are_admitted_and_hold_a_slot(server: Server) -> None:
    """Beyond the limit the handshake is refused."""
    url = urlsplit(server.url)
    sockets: list[socket.socket] = []

    def handshake() -> bytes:
        one = socket.create_connection((url.hostname, url.port), 10)
        sockets.append(one)
        key = base64.b64encode(b"0123456789abcdef")
        one.sendall(
            b"GET /echo HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: %s\r\n\r\n" % (url.netloc.encode(), key)
        )
        return one.recv(4096).split(b"\r\n", 1)[0].split(b" ")[1]

    try:
        assert [b"101"] * 8 == [handshake() for _ in range(8)]
        assert handshake() in (b"503", b"403")
    finally:
        for one in sockets:
            one.close()
    server.wait_for(lambda state: not state["in_flight"])


def test_streams_of_http_2_are_requests_like_others() -> None:
    """On one connection, each with a slot, a limit and an end of its own."""
    with served("hypercorn") as server:
        options = {"http1": False, "http2": True}
        with server.client(**options) as client:
            assert 504 == client.get("/slow?s=60").status_code
            assert "HTTP/2" == client.get("/left").http_version
            assert 5 == client.post("/size", content=b"12345").json()
            with pytest.raises(httpx.ReadTimeout):
                client.get("/slow?s=60", timeout=0.3)
            with client.stream("GET", "/stream") as response:
                with pytest.raises(httpx.TransportError):
                    response.read()
        server.wait_for(
            lambda state: (
                not state["in_flight"] and state["noted"].count("slow cancelled") == 2
            )
        )
