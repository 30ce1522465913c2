"""The page on database replicas, run with real servers, and what it promises."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.integration.postgres import Server
from tests.sharing.servers import Server as RedisServer
from tests.sharing.servers import engine as redis_server
from tests.test_docs import Snippet, execute

import resilient
from resilient import EndpointState

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "docs/how-to/read-from-database-replicas.md"
TEXT = PAGE.read_text("utf-8")
SNIPPETS = [
    Snippet(PAGE, TEXT.count("\n", 0, match.start(1)), match[1], None)
    for match in re.finditer(r"^```py\n(.*?)^```$", TEXT, re.M | re.S)
]
BOUND = 60.0
"""Real seconds in which what is waited for has happened, on a loaded machine."""


def wait_for(fact: Callable[[], object]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + BOUND
    while not fact():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def states(balance: Any) -> dict[str, EndpointState]:
    """Return how each endpoint is."""
    return {each.name: each.state for each in balance.endpoints}


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A primary with a table, and a replica that has it."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg")
    with Server() as primary:
        made = sqlalchemy.create_engine(primary.url)
        with made.begin() as connection:
            for statement in (
                "CREATE TABLE articles (name TEXT PRIMARY KEY, stock INT NOT NULL)",
                "INSERT INTO articles VALUES ('tea', 7)",
            ):
                connection.execute(sqlalchemy.text(statement))
        made.dispose()
        with Server(primary) as replica:
            yield primary, replica


def test_the_page_runs_with_postgresql(servers: tuple[Server, Server]) -> None:
    """Reads survive the replica, see what was written, and writes a failover."""
    primary, replica = servers
    page: dict[str, Any] = {
        "__name__": "__main__",
        "PRIMARY": primary.url,
        "REPLICA": replica.url,
        "USER": "app",
        "DATABASE": "postgres",
        "PRIMARY_AT": f"127.0.0.1:{primary.port}",
        "REPLICA_AT": f"127.0.0.1:{replica.port}",
    }
    try:
        for snippet in SNIPPETS[:-1]:
            execute(snippet, page)
        survive(page, primary, replica)
    finally:
        for name in ("primary", "replica", "writable"):
            if name in page:
                page[name].dispose()


def survive(page: dict[str, Any], primary: Server, replica: Server) -> None:
    """Break what the page protects."""
    text, stock, balance = page["text"], page["stock"], page["replicas"]

    def ask(engine: Any, query: Any, **values: Any) -> Any:
        with engine.connect() as connection:
            return connection.scalar(query, values)

    def on_replica(query: str) -> Any:
        return ask(page["replica"], text(query))

    # A replica that lags: what was written is read from the primary.
    wait_for(lambda: stock("tea") == 40)
    on_replica("SELECT pg_wal_replay_pause()")
    place = page["sell"]("tea")
    assert (40, 39) == (stock("tea"), page["stock_after"]("tea", place))
    wait_for(lambda: not ask(page["replica"], at_once(page["IS_FRESH"], text)))
    assert page["is_fresh"](page["replica"])
    assert ask(page["primary"], at_once(page["IS_FRESH"], text))
    on_replica("SELECT pg_wal_replay_resume()")
    wait_for(lambda: stock("tea") == 39)
    assert {EndpointState.AVAILABLE} == set(states(balance).values())

    # Without the replica all reads are answered, by the primary.
    replica.stop()
    assert [39] * 20 == [stock("tea") for _ in range(20)]
    assert EndpointState.EJECTED is states(balance)["replica"]

    # It is back: one probe has it take part again.
    replica.start()

    def is_back() -> bool:
        assert 39 == stock("tea")
        return states(balance)["replica"] is EndpointState.AVAILABLE

    wait_for(is_back)

    # A failover: writes find the new primary, reads the one server that is left.
    primary.stop()
    assert on_replica("SELECT pg_promote()")
    page["set_stock"]("tea", 41)
    assert [41] * 10 == [stock("tea") for _ in range(10)]


def at_once(query: Any, text: Any) -> Any:
    """Return a query for a lag of ten seconds, as one for any lag."""
    return text(str(query).replace("10 seconds", "0 seconds"))


def test_the_page_runs_with_redis() -> None:
    """Reads survive the replica, and the primary."""
    binary = redis_server("redis")
    with RedisServer(binary) as primary, RedisServer(binary) as replica:
        with primary.client() as main, replica.client() as copy:
            main.config_set("repl-diskless-sync-delay", 0)
            copy.replicaof("127.0.0.1", primary.port)
            wait_for(lambda: copy.info("replication")["master_link_status"] == "up")
            # It acknowledges what it has up to a second later, and gets no more before.
            main.set("first", 1)
            assert 1 == main.wait(1, int(BOUND * 1000))
        ports = {"REDIS_PRIMARY": primary.port, "REDIS_REPLICA": replica.port}
        names = {name: getattr(resilient, name) for name in resilient.__all__}
        page: dict[str, Any] = {**names, "__name__": "__main__", **ports}
        try:
            execute(SNIPPETS[-1], page)
            cached, balance = page["cached"], page["caches"]
            for broken in (primary, replica):
                with broken.client() as client:
                    client.client_kill_filter(_type="normal", skipme=True)
                assert [b"hello"] * 5 == [cached("greeting") for _ in range(5)]
            primary.kill()
            assert [b"hello"] * 10 == [cached("greeting") for _ in range(10)]
            assert EndpointState.AVAILABLE is states(balance)["copy"]
            primary.start()
            page["main"].set("greeting", "hello again")
            replica.kill()
            assert [b"hello again"] * 20 == [cached("greeting") for _ in range(20)]
            assert EndpointState.EJECTED is states(balance)["copy"]
        finally:
            for name in ("main", "copy"):
                if name in page:
                    page[name].close()


def test_the_page_has_five_snippets() -> None:
    """One that is not understood would not be run."""
    assert 5 == len(SNIPPETS)
    assert issubclass(redis.exceptions.MasterDownError, redis.ResponseError)
