"""Real servers that are told to end, under load."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from tests.server.servers import Server, served

pytestmark = pytest.mark.real

DELAY = 2.0  # seconds, that of the application
DELAYS = ["uvicorn", "uvicorn-workers", "granian", "gunicorn"]


class Load:
    """Requests on new connections, and on kept ones, from several threads.

    Attributes:
        results: When each ended, and its status; None: it failed.
    """

    def __init__(self, server: Server, seconds: float) -> None:
        self.results: list[tuple[float, int | None]] = []
        self._server = server
        self._until = time.monotonic() + seconds

    def new(self) -> None:
        while time.monotonic() < self._until:
            self.one()

    def one(self) -> None:
        try:
            with self._server.client() as client:
                self._note(client.get("/hello").status_code)
        except httpx.TransportError:
            self._note(None)
        time.sleep(0.02)

    def kept(self) -> None:
        with self._server.client() as client:
            while time.monotonic() < self._until:
                try:
                    self._note(client.get("/hello").status_code)
                except httpx.TransportError:
                    self._note(None)
                time.sleep(0.02)

    def _note(self, status: int | None) -> None:
        self.results.append((time.monotonic(), status))


def get(server: Server, path: str) -> httpx.Response:
    """One request on a connection of its own."""
    with server.client() as client:
        return client.get(path)


@contextmanager
def idle_connections(server: Server, number: int) -> Iterator[list[httpx.Client]]:
    """Connections that are open, and were used once."""
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(number)]
        for client in clients:
            assert 200 == client.get("/hello").status_code
        yield clients


@pytest.mark.parametrize("name", DELAYS)
def test_no_request_is_lost_when_a_server_ends(name: str) -> None:
    """For `delay` it serves as before, unready; then it ends with what it began."""
    with (
        served(name, "tests.server.served:delayed") as server,
        idle_connections(server, 20) as open_ones,
    ):
        load = Load(server, DELAY + 1)
        with ThreadPoolExecutor(5) as pool:
            slow = pool.submit(lambda: open_ones[0].get("/slow?s=3"))
            for work in (load.new, load.new, load.kept):
                pool.submit(work)
            time.sleep(0.3)
            assert 200 == open_ones[1].get("/readyz").status_code
            told = time.monotonic()
            server.terminate()
            time.sleep(0.1)
            unready = open_ones[1].get("/readyz")
            while name == "uvicorn-workers" and unready.status_code == 200:
                # Its main process looks for signals twice a second.
                unready = open_ones[1].get("/readyz")
            alive = open_ones[2].get("/livez")
            last = open_ones[3].get("/hello")
        server.process.wait(timeout=30)

    assert (503, "draining") == (unready.status_code, unready.json()["state"])
    assert (200, 200) == (alive.status_code, slow.result().status_code)
    assert (200, "close") == (last.status_code, last.headers["connection"])
    before = [status for at, status in load.results if at < told + DELAY]
    assert {200} == set(before)


def test_without_a_delay_requests_are_refused() -> None:
    """What the delay is for: a server closes its socket when it is told."""
    with served("uvicorn", "tests.server.served:undelayed") as server:
        load = Load(server, DELAY)
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(get, server, "/slow?s=3")
            server.wait_for(lambda state: state["in_flight"] == 2)
            server.terminate()
            while not slow.done():
                load.one()
        assert 200 == slow.result().status_code
        server.process.wait(timeout=30)

    statuses = [status for _, status in load.results]
    assert {None} == set(statuses[statuses.index(None) :])


def test_what_does_not_end_is_cut() -> None:
    """So that the process ends before it is killed."""
    with served("uvicorn", "tests.server.served:hasty") as server:
        with ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(get, server, "/slow?s=60")
            server.wait_for(lambda state: state["in_flight"] == 2)
            server.terminate()
            assert 503 == stuck.result().status_code
        server.process.wait(timeout=30)


def test_a_second_signal_is_handed_on_at_once() -> None:
    """Who is in a hurry does not wait for the delay."""
    with served("uvicorn", "tests.server.served:patient") as server:
        with server.client() as client:
            server.terminate()
            while client.get("/readyz").status_code != 503:
                """Wait for the first signal."""
        server.terminate()
        server.process.wait(timeout=30)
