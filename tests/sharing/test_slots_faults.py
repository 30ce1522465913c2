"""How many calls of real processes run at once while a real server fails."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.sharing.servers import Server, engine, run_fleet
from tests.sharing.test_courier import wait_for

from resilient import Bulkhead
from resilient.redis import RedisStore

pytestmark = [pytest.mark.real, pytest.mark.fleet]

LIMIT, WORKERS, SECONDS = 8, 4, 6.0


def peak(ran: list[tuple[float, float]]) -> int:
    """Return how many calls ran at once at most."""
    moments = [(began, 1) for began, _ in ran] + [(ended, -1) for _, ended in ran]
    most = now = 0
    for _, change in sorted(moments):
        now += change
        most = max(most, now)
    return most


def fleet(server: Server, break_it: Callable[[Server], None]) -> list[Any]:
    """Run the workers, break the server after a second; return what they did."""
    results, _ = run_fleet(
        "tests.sharing.slots_worker",
        server.url,
        SECONDS,
        LIMIT,
        workers=WORKERS,
        break_it=lambda: break_it(server),
    )
    return results


def nothing(server: Server) -> None:
    """No fault."""


def flush(server: Server) -> None:
    """Lose the data, three times."""
    with server.client() as client:
        for _ in range(3):
            client.flushall()
            time.sleep(0.3)


def restart(server: Server) -> None:
    """End it, and have an empty one back after a second."""
    server.kill()
    time.sleep(1.0)
    server.start()


def stop(server: Server) -> None:
    """Stand still for a second."""
    server.signal(signal.SIGSTOP)
    time.sleep(1.0)
    server.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("redis", nothing),
        ("redis", flush),
        ("redis", restart),
        ("redis", stop),
        ("valkey", nothing),
        ("valkey", flush),
    ],
)
def test_a_fleet_never_runs_more_at_once(
    name: str, fault: Callable[[Server], None]
) -> None:
    """Whatever becomes of the server; and nothing is left in use."""
    with Server(engine(name)) as server:
        results = fleet(server, fault)
    assert [0] * WORKERS == [result["in_use"] for result in results]
    ran = [tuple(one) for result in results for one in result["ran"]]
    assert peak(ran) <= LIMIT
    # A quarter of what eight slots carry in that time, on a loaded machine.
    assert len(ran) >= 0.25 * LIMIT * SECONDS / 0.06


@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_what_a_server_sees_of_slots(name: str) -> None:
    """One key in the slot of the policy; what is closed is given back."""
    with Server(engine(name)) as server, server.client(decode_responses=True) as client:
        with RedisStore(server.url, prefix="shop", patience=20) as store:
            bulkhead = Bulkhead(3, shared=store, name="api")
            bulkhead.call(int)
            shared = bulkhead._shared
            assert shared is not None
            keys = {"{shop:v1:slots:api}", "{shop:v1:slots:api}:members"}
            assert keys == set(client.keys())
            assert f"m:{shared.id}" in client.hgetall("{shop:v1:slots:api}")
            # A beat without any call.
            seen = shared.holding.exchanges
            wait_for(lambda: shared.holding.exchanges > seen)
        assert f"m:{shared.id}" not in client.hgetall("{shop:v1:slots:api}")
