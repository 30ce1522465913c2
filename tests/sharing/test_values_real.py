"""Values that processes share through a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from tests.sharing.servers import Server, run_fleet
from tests.sharing.test_courier import wait_for
from tests.sharing.test_redis import ACL
from tests.sharing.value_worker import cache_on

from resilient import StaleCache
from resilient._sharing.values import LARGEST
from resilient.redis import RedisStore

pytestmark = pytest.mark.real


class Bytes:
    """A codec of values that are no text."""

    def dumps(self, value: bytes) -> bytes:
        return value

    def loads(self, content: bytes) -> bytes:
        return content


def wait_until_kept(server: Server, keys: int = 1) -> None:
    """Wait until a server has so many values."""
    with server.client() as client:

        def kept() -> int:
            names = client.keys("{shop:v1:cache:*")
            values = [name for name in names if not name.endswith(b":members")]
            return sum(bool(client.hexists(name, "content")) for name in values)

        wait_for(lambda: keys == kept())


def test_a_value_is_what_it_was(server: Server, store: RedisStore) -> None:
    """Any bytes, empty ones too, with a client that decodes what it reads."""
    whole = bytes(range(256)) * (LARGEST // 256)
    made: list[bytes] = []

    def caches() -> Iterator[StaleCache]:
        client = server.client(decode_responses=True)
        with RedisStore(client=client, prefix="shop", patience=20) as other:
            for each in (store, other):
                yield StaleCache(60, 0, shared=each, codec=Bytes(), name="bytes")

    def value(content: bytes) -> bytes:
        made.append(content)
        return content

    contents = [b"", b"\xff\x00", whole]
    for cache in caches():
        assert contents == [cache(value)(content) for content in contents]
        wait_until_kept(server, 3)
    assert contents == made


def test_what_a_server_sees(server: Server, store: RedisStore) -> None:
    """A hash of the key, which ends with the value; and rights that suffice."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", *ACL.split())
    url = server.url.replace("//", "//shop:pass@")
    with RedisStore(url, prefix="shop", patience=20) as store:
        cache = StaleCache(60, 40, shared=store, codec=json, name="page")
        assert "SECRET" == cache(str.upper)("secret")
        wait_until_kept(server)
        assert store.up
    with server.client(decode_responses=True) as client:
        members, key = sorted(client.keys(), key=len)
        assert "{shop:v1:cache:page}:members" == members
        assert key.startswith("{shop:v1:cache:page:")
        assert "secret" not in key
        assert 90_000 < client.pttl(key) <= 100_000
        assert {"content", "made", "end"} == set(client.hkeys(key))
        assert '"SECRET"' == client.hget(key, "content")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_calls_of_every_colour_wait_for_one(store: RedisStore, backend: str) -> None:
    """Tasks and threads of one cache."""
    made: list[str] = []
    cache = StaleCache(60, 0, key=lambda: "a", shared=store, codec=json, name="colours")

    @cache
    async def value() -> str:
        made.append("value")
        await anyio.sleep(0.2)
        return "value"

    async def main() -> list[str]:
        found: list[str] = []

        async def call() -> None:
            found.append(await value())

        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(call)
        return found

    assert ["value"] * 10 == anyio.run(main, backend=backend)
    assert 1 == len(made)


@pytest.mark.fleet
def test_a_fleet_makes_each_value_once(server: Server, store: RedisStore) -> None:
    """Three processes with six threads each, all at once in each round."""
    results, _ = run_fleet(
        "tests.sharing.value_worker",
        server.url,
        4,
        6,
        workers=3,
        break_it=lambda: None,
    )
    made = Counter(round for result in results for round in result["made"])
    assert set(range(4)) == set(made)
    if any(result["lost"] for result in results):
        # A busy machine: who did without the store made a value of its own.
        return
    assert {1} == set(made.values())
    found = {
        json.dumps(value)
        for result in results
        for values in result["found"]
        for value in values
    }
    assert 4 == len(found)


@pytest.mark.fleet
def test_the_right_of_a_process_that_is_killed_ends(
    server: Server, store: RedisStore
) -> None:
    """Another call makes the value then."""
    command = [sys.executable, "-m", "tests.sharing.value_worker", server.url, "hang"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "held\n" == process.stdout.readline()
    finally:
        process.kill()
        process.communicate()
    with server.client(decode_responses=True) as client:
        names = client.keys("{shop:v1:cache:*")
        keys = [name for name in names if not name.endswith(":members")]
        # NB: on a busy machine it is over by now.
        held = max([float(client.hget(key, "held") or 0.0) for key in keys], default=0)
    cache = cache_on(store.with_(lease=60))

    def value(round: int) -> Any:
        return round

    # NB: defined by another name there, so it is another function.
    value.__module__, value.__qualname__ = "__main__", "value"
    assert 0 == cache(value)(0)
    with server.client() as client:
        seconds, micros = client.time()
    assert held <= seconds + micros / 1e6


def test_a_server_that_is_gone_costs_no_call_its_value(server: Server) -> None:
    """Neither an error, nor more than the patience."""
    calls: list[int] = []

    def value() -> int:
        calls.append(1)
        return len(calls)

    with RedisStore("redis://127.0.0.1:1/0", prefix="shop", patience=60) as store:
        cache = StaleCache(60, 0, shared=store, codec=json, name="gone")
        assert [1, 1] == [cache(value)(), cache(value)()]
        assert "lost" == cache.status()["shared.store"]
    cache.reset()
    assert 2 == cache(value)()
