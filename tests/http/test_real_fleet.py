"""Three real servers of uvicorn that go bad and are rolled, behind a DNS server.

Every figure is printed: run it with ``-s``.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from math import ceil
from typing import Any

import dns.message
import dns.resolver
import dns.rrset
import httpx2
import pytest
import uvicorn

from resilient import Balance, Pipeline, Retry, Timeout, constant
from resilient.discovery import srv
from resilient.httpx2 import ResilientTransport, http_verdict

pytestmark = [pytest.mark.real, pytest.mark.fleet]

PATIENCE = 30.0
"""Seconds that a step between threads may take on a loaded machine."""

SERVICE = 0.01
"""Seconds that an answer takes; ten times as long where a replica is slow."""

NAME = "_http._tcp.catalogue.test."


def show(figures: str) -> None:
    """Print figures."""
    sys.stdout.write(f"{figures}\n")


class Replica:
    """A server of uvicorn, in a thread.

    Attributes:
        name: What it answers with.
        does: "well", "slow", "fails" or "hangs".
        port: Where it listens.
        asked: How often.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0
        self.does = "well"
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            port=0,
            loop="asyncio",
            lifespan="off",
            log_config=None,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until = time.monotonic() + PATIENCE
        while not self._server.started:
            assert time.monotonic() < until, f"{name} does not start"
            time.sleep(0.01)
        [listener] = self._server.servers
        self.port: int = listener.sockets[0].getsockname()[1]

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        if self.does == "hangs":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if self.does != "fails":
            await asyncio.sleep(SERVICE * (10 if self.does == "slow" else 1))
        status = 503 if self.does == "fails" else 200
        headers = [(b"x-replica", self.name.encode()), (b"content-length", b"0")]
        await send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        await send({"type": "http.response.body"})

    def stop(self) -> None:
        """Stop it as a deployment does: what is in flight is answered."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"{self.name} does not stop"


class NameServer:
    """Answers for the record of the fleet, by UDP."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(1000)
            if not question:
                return
            answer = dns.message.make_response(dns.message.from_wire(question))
            rows = [f"0 1 {port} 127.0.0.1." for port in self.ports]
            answer.answer.append(dns.rrset.from_text(NAME, 1, "IN", "SRV", *rows))
            self._socket.sendto(answer.to_wire(), asker)

    def stop(self) -> None:
        """Stop it."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(PATIENCE)
        self._socket.close()


class Fleet:
    """The replicas, the name that they have, and a client that balances."""

    def __init__(self, stack: ExitStack, names: NameServer) -> None:
        self._stack = stack
        self._names = names
        self.replicas = [self._start(name) for name in "abc"]
        self._list()
        self.balance = Balance(srv(NAME))
        pipeline = Pipeline(
            Timeout(PATIENCE),
            Retry(attempts=5, backoff=constant(0), budget=None),
            self.balance,
            Timeout(1),
            classify=http_verdict,
        )
        transport = ResilientTransport(pipeline, origin="http://catalogue")
        self.client = stack.enter_context(
            httpx2.Client(transport=transport, timeout=PATIENCE)
        )

    def _start(self, name: str) -> Replica:
        replica = Replica(name)
        self._stack.callback(replica.stop)
        return replica

    def _list(self) -> None:
        self._names.ports = [replica.port for replica in self.replicas]

    def roll(self, place: int, name: str, *, graceful: bool) -> None:
        """Have a new one on another port in the place of one that is stopped."""
        old = self.replicas[place]
        if not graceful:
            old.stop()
        self.replicas[place] = self._start(name)
        self._list()
        self.balance.refresh()
        if graceful:
            old.stop()

    def ask(self) -> str | None:
        """Send a request; return who answered it."""
        response = self.client.get("http://catalogue/")
        return response.headers["x-replica"] if response.is_success else None

    def measure(self, title: str, calls: int = 40) -> Counter[str]:
        """Send requests, all of which must be answered; return who was asked.

        How many were answered, the p99, and the share of each are printed.
        """
        before = {replica.name: replica.asked for replica in self.replicas}
        took: list[float] = []
        lost = 0
        for _ in range(calls):
            began = time.monotonic()
            lost += self.ask() is None
            took.append(time.monotonic() - began)
        p99 = 1000 * sorted(took)[ceil(0.99 * calls) - 1]
        asked = Counter({each.name: each.asked for each in self.replicas})
        asked.subtract(before)
        show(f"{title}: {calls - lost} of {calls}, p99 {p99:.0f} ms, {dict(asked)}")
        assert 0 == lost
        return asked

    def wait_for(self, name: str) -> None:
        """Send requests until one answers."""
        until = time.monotonic() + PATIENCE
        while self.ask() != name:
            assert time.monotonic() < until, f"{name} gets no calls"


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Three replicas that are well."""
    with ExitStack() as stack:
        names = NameServer()
        stack.callback(names.stop)
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = names.port
        monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
        yield Fleet(stack, names)


def test_a_fleet_with_a_bad_replica_answers_everything(fleet: Fleet) -> None:
    """One that is slow, fails or hangs gets few calls; nothing is lost."""
    fleet.measure("all are well")
    for replica, does in zip(fleet.replicas, ("slow", "fails", "hangs"), strict=True):
        replica.does = does
        seen = fleet.measure(f"{replica.name}: {does}")
        assert seen[replica.name] < seen.total() / 2
        replica.does = "well"
    for replica, does in zip(fleet.replicas, ("slow", "fails", "hangs"), strict=True):
        replica.does = does
    fleet.measure("a: slow, b: fails, c: hangs", calls=20)


def test_a_replica_that_comes_back_elsewhere_is_found(fleet: Fleet) -> None:
    """It stops without notice, and its record has another port then."""
    fleet.measure("before")
    fleet.replicas[0].stop()
    fleet.measure("a is stopped")
    fleet.roll(0, "a again", graceful=False)
    fleet.wait_for("a again")
    fleet.measure("a has another port")


def test_a_graceful_roll_of_all_loses_nothing(fleet: Fleet) -> None:
    """While requests go on, from four threads."""
    fleet.measure("before")
    done = threading.Event()
    seen: list[str | None] = []

    def load() -> None:
        while not done.is_set():
            seen.append(fleet.ask())

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for place, name in enumerate(("d", "e", "f")):
            fleet.roll(place, name, graceful=True)
            fleet.wait_for(name)
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
    show(f"while all are rolled: {len(seen)}, {dict(Counter(seen))}")
    assert None not in seen
    fleet.measure("after")
