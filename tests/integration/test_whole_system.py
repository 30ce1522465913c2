"""Four processes under three times what they can do, with policies and without."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import httpx
import pytest
from tests.integration import whole_system
from tests.integration.whole_system import FULL_LENGTH
from tests.server.servers import PATIENCE, ROOT, free_port
from tests.sharing.servers import Server as Store
from tests.sharing.servers import engine

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not FULL_LENGTH and sys.version_info >= (3, 12),
        reason="20 s, on the oldest Python alone; 75 s with RESILIENT_FULL_LENGTH=1",
    ),
]

NAMES = ("dependency", "http", "rpc", "gateway")
BEFORE, OVERLOAD, AFTER = (5.0, 20.0, 10.0) if FULL_LENGTH else (2.0, 8.0, 4.0)
LOST, NOISE = (0.1, 1.0) if FULL_LENGTH else (0.5, 0.5)
"""What critical traffic may lose of what it loses without policies, and how much of
what is served in calm has to be served after."""

CAPACITY = whole_system.SLOTS / whole_system.SECONDS / 2
"""Pages a second: each asks the dependency twice."""

CRITICAL, NORMAL = (1.6, 4.4) if FULL_LENGTH else (1.4, 1.6)
CALM = {"critical": CRITICAL, "normal": CAPACITY / 5, "batch": CAPACITY / 10}
STORM = {
    "critical": CRITICAL,
    "normal": NORMAL,
    "batch": 3 * CAPACITY - CRITICAL - NORMAL,
}


class Page(NamedTuple):
    """One request to the gateway.

    Attributes:
        at: Seconds since the load began, when it was sent.
        kind: How important it was.
        status: 200 in time; 0: not in time.
    """

    at: float
    kind: str
    status: int


class System:
    """The processes of one run."""

    def __init__(self, store: Store, *, protected: bool) -> None:
        ports = [free_port() for _ in range(4)]
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.ports = dict(
            zip(("gateway", "http", "rpc", "dependency"), ports, strict=True)
        )
        self.environment = {
            **os.environ,
            "PROTECTED": str(int(protected)),
            "PORTS": " ".join(map(str, [*ports, store.port])),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.whole_system", name],
            cwd=ROOT,
            env=self.environment,
            start_new_session=True,
        )

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    async def serves(self) -> None:
        """Wait until a page is served, as a user would."""
        until = time.monotonic() + 2 * PATIENCE
        async with httpx.AsyncClient(base_url=self.url) as client:
            while time.monotonic() < until:
                with suppress(httpx.TransportError):
                    if (await client.get("/", timeout=5)).status_code == 200:
                        return
                await asyncio.sleep(0.1)
        raise AssertionError("no page is served")

    async def is_idle(self, name: str) -> None:
        """Wait until no slot is taken."""
        until = time.monotonic() + PATIENCE
        url = f"http://127.0.0.1:{self.ports[name]}/state"
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            while time.monotonic() < until:
                state: Any = (await client.get(url)).json()
                [limit] = [
                    policy
                    for policy in state["server"]["policies"]
                    if policy["kind"] == "AdaptiveConcurrency"
                ]
                if not limit["concurrency.in_use"]:
                    return
                await asyncio.sleep(0.1)
        raise AssertionError(f"{name} has taken slots: {state}")


@contextmanager
def system(store: Store, *, protected: bool) -> Iterator[System]:
    """All processes of a run, until the end of the block."""
    whole = System(store, protected=protected)
    try:
        for name in NAMES:
            whole.start(name)
        yield whole
    finally:
        for name in list(whole.processes):
            whole.kill(name)


def plan() -> list[tuple[float, str]]:
    """When each request is sent, evenly for each kind."""
    found: list[tuple[float, str]] = []
    end = BEFORE + OVERLOAD + AFTER
    for begin, length, rates in (
        (0.0, BEFORE, CALM),
        (BEFORE, OVERLOAD, STORM),
        (BEFORE + OVERLOAD, AFTER, CALM),
    ):
        for kind, rate in rates.items():
            times = itertools.takewhile(
                lambda at, last=begin + length: at < last,
                (begin + (number + 0.5) / rate for number in itertools.count()),
            )
            found += [(at, kind) for at in times]
    assert all(at < end for at, _ in found)
    return sorted(found)


async def loaded(whole: System) -> list[Page]:
    """Send what is planned, whatever the answers are."""
    pages: list[Page] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)

    async def ask(client: httpx.AsyncClient, at: float, kind: str) -> None:
        headers = {
            "x-secret": whole_system.SECRET,
            "x-priority": kind,
            "x-request-timeout-ms": str(int(whole_system.TOTAL * 1000)),
        }
        status = 0
        with suppress(TimeoutError, httpx.TransportError):
            async with asyncio.timeout(whole_system.TOTAL):
                status = (await client.get("/", headers=headers)).status_code
        pages.append(Page(at, kind, status))

    begin = time.monotonic()
    async with (
        httpx.AsyncClient(base_url=whole.url, limits=limits, timeout=None) as client,
        asyncio.TaskGroup() as tasks,
    ):
        for at, kind in plan():
            await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
            tasks.create_task(ask(client, at, kind))
    return pages


def lost(pages: list[Page], kind: str) -> float:
    """Share of a kind that was sent under overload and not served in time."""
    found = [
        page.status
        for page in pages
        if page.kind == kind and BEFORE <= page.at < BEFORE + OVERLOAD
    ]
    return sum(status != 200 for status in found) / len(found)


def served(pages: list[Page], begin: float, end: float) -> float:
    """Share of what was sent in a time that was served."""
    found = [page.status for page in pages if begin <= page.at < end]
    return sum(status == 200 for status in found) / len(found)


def test_a_system_under_three_times_its_load() -> None:
    """Critical pages are served, batch is shed first, and nothing is stuck after."""
    asyncio.run(overload())


async def overload() -> None:
    """Load both at once, then end each process once."""
    with (
        Store(engine("valkey")) as store,
        system(store, protected=True) as guarded,
        system(store, protected=False) as control,
    ):
        await asyncio.gather(guarded.serves(), control.serves())
        ours, without = await asyncio.gather(loaded(guarded), loaded(control))
        shares = {kind: (lost(ours, kind), lost(without, kind)) for kind in CALM}
        # Critical traffic loses at most a tenth of what it loses without policies.
        assert shares["critical"][0] <= shares["critical"][1] * LOST, shares
        # The less important it is, the sooner it goes.
        assert shares["critical"][0] < shares["batch"][0], shares
        if FULL_LENGTH:
            assert shares["critical"][0] <= shares["normal"][0] < shares["batch"][0]
        # Goodput is back after a quarter of the overload, within the noise there is
        # without policies and load.
        back = BEFORE + OVERLOAD + OVERLOAD / 4
        noise = min(served(without, at, at + 1) for at in range(int(BEFORE)))
        assert served(ours, back, back + OVERLOAD / 4) >= noise * NOISE, shares
        for name in NAMES:
            guarded.kill(name)
            guarded.start(name)
            if FULL_LENGTH:
                await guarded.serves()
        await guarded.serves()
        for name in ("gateway", "http"):
            await guarded.is_idle(name)
