"""What the circuit of real processes does while a real server fails."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.sharing.servers import Server, engine
from tests.sharing.test_courier import wait_for

from resilient import CircuitBreaker
from resilient._machines.quorum import ASSEMBLING, KEEP
from resilient.redis import RedisStore

pytestmark = [pytest.mark.real, pytest.mark.fleet]


class Worker:
    """A process, and what it said last."""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-m", "tests.sharing.circuit_worker", url]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said: dict[str, Any] = {"state": "none", "reasons": []}
        self.reader = threading.Thread(target=self.listen, daemon=True)
        self.reader.start()

    def listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line != "ready\n":
                self.said = json.loads(line)

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.reader.join(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def fleet(server: Server, size: int) -> Iterator[list[Worker]]:
    """Run so many processes."""
    workers = [Worker(server.url) for _ in range(size)]
    try:
        wait_for(lambda: all(one.said["state"] == "closed" for one in workers))
        yield workers
    finally:
        for worker in workers:
            worker.end()


def nothing(server: Server) -> None:
    """No fault."""


def flush(server: Server) -> None:
    """Lose the data."""
    with server.client() as client:
        client.flushall()


def restart(server: Server) -> None:
    """End it, and have an empty one back after a second."""
    server.kill()
    time.sleep(1.0)
    server.start()


@pytest.mark.parametrize("name", ["redis", "valkey"])
@pytest.mark.parametrize("fault", [nothing, flush, restart])
def test_a_fleet_opens_and_closes_together(
    name: str, fault: Callable[[Server], None]
) -> None:
    """Whose members call too seldom to open alone, whatever becomes of the server."""
    with Server(engine(name)) as server, fleet(server, 3) as workers:
        time.sleep(2.0)
        for worker in workers:
            worker.tell("down")
        wait_for(lambda: all("fleet" in one.said["reasons"] for one in workers))
        fault(server)
        failed = sum(one.said["failed"] for one in workers)
        time.sleep(2.0)
        # Four rounds of two probes in all, not in each; alone they probe at once.
        probes = sum(one.said["failed"] for one in workers) - failed
        assert probes <= (2 * 6 if fault is not restart else 3 * 2 * 6)
        for worker in workers:
            worker.tell("up")
        wait_for(lambda: all(one.said["state"] == "closed" for one in workers))


@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_what_a_server_sees_of_a_circuit(name: str) -> None:
    """One key in the slot of the policy, with an end."""
    with Server(engine(name)) as server, RedisStore(server.url, prefix="shop") as store:
        breaker = CircuitBreaker(shared=store, name="api")
        breaker.call(int)
        shared = breaker._shared
        assert shared is not None
        wait_for(lambda: shared.delegate.exchanges)
        assert 1 == breaker.status()["store.members"]
        with server.client(decode_responses=True) as client:
            assert {"{shop:v1:circuit:api}", "{shop:v1:circuit:api}:members"} == set(
                client.keys()
            )
            # It is closed, and still waits for the rows of all.
            most = 1000 * (KEEP + ASSEMBLING)
            assert 0 < client.pttl("{shop:v1:circuit:api}") <= most
            assert f"m:{shared.id}" in client.hgetall("{shop:v1:circuit:api}")
