"""RedisStore: what it is made with, what it shows, and what a server sees."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import time
from collections import Counter
from typing import Any

import anyio
import pytest
import redis
from tests.sharing.servers import Server, run_fleet
from tests.sharing.test_courier import wait_for

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    RateLimitedError,
    RateLimiter,
)
from resilient._sharing.courier import Request
from resilient.redis import RedisStore
from resilient.redis._transport import BUCKET, RedisTransport, Script, _refusal

pytestmark = pytest.mark.real

ACL = (
    "reset on >pass ~{shop:* -@all +evalsha +script|load +time +hget +hmget +hset +hdel"
    " +hgetall +hincrby +pexpire +expire +zadd +zcard +zremrangebyscore +hello +auth"
    " +ping +select"
)


def passes(limiter: RateLimiter, calls: int) -> int:
    """Return how many of so many calls pass."""
    passed = 0
    for _ in range(calls):
        try:
            limiter.call(int)
        except RateLimitedError:
            continue
        passed += 1
    return passed


def test_two_stores_share_one_limit(server: Server, store: RedisStore) -> None:
    """As two processes do; the scripts are loaded by the first."""
    one = RateLimiter(5, per=1000, shared=store, name="api")
    assert 3 == passes(one, 3)
    with RedisStore(client=server.client(), prefix="shop", patience=20) as other:
        assert 2 == passes(RateLimiter(5, per=1000, shared=other, name="api"), 9)
    with RedisStore(server.url, prefix="else", patience=20) as elsewhere:
        assert 5 == passes(RateLimiter(5, per=1000, shared=elsewhere, name="api"), 9)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_serves_every_colour(store: RedisStore, backend: str) -> None:
    """Threads, asyncio and trio, of one limiter."""
    limiter = RateLimiter(20, per=1000, shared=store, name="api")
    passed: list[int] = []

    async def call() -> None:
        try:
            passed.append(await limiter.acall(anyio.sleep, 0) or 1)
        except RateLimitedError:
            pass

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(15):
                group.start_soon(call)
        passed.append(await anyio.to_thread.run_sync(passes, limiter, 15))

    anyio.run(main, backend=backend)
    assert 20 == sum(passed)


def test_what_a_server_sees(server: Server, store: RedisStore) -> None:
    """Keys with a prefix, in one slot a policy, each with an end."""
    limiter = RateLimiter(5, per=1, shared=store, name="api")
    assert 1 == passes(limiter, 1)
    with server.client(decode_responses=True) as client:
        keys = sorted(client.keys())
        assert ["{shop:v1:bucket:api}", "{shop:v1:bucket:api}:members"] == keys
        assert all(0 < client.pttl(key) <= 120_000 for key in keys)
        assert 1 == client.zcard("{shop:v1:bucket:api}:members")


def test_a_server_that_is_not_there_is_no_error(server: Server) -> None:
    """Not at construction, and not at a call: the share holds until it answers."""
    with Server(server.binary) as late:
        late.kill()
        with RedisStore(late.url, members=1, patience=20) as store:
            limiter = RateLimiter(1000, shared=store, name="api")
            passes(limiter, 1)
            # NB: the caller is let go before the store is noted as lost.
            wait_for(lambda: not store.up)
            wait_for(lambda: passes(limiter, 1))
            late.start()
            wait_for(lambda: store.up)
            assert 1 == passes(limiter, 1)


def test_the_rights_that_it_needs(server: Server) -> None:
    """An ACL that lets it do nothing else; other keys are refused."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", *ACL.split())
    url = server.url.replace("//", "//shop:pass@")
    with RedisStore(url, prefix="shop", patience=20) as store:
        assert 1 == passes(RateLimiter(5, shared=store, name="acl"), 1)
        assert store.up
    with RedisStore(url, prefix="other", patience=20, lost="reject") as store:
        assert 0 == passes(RateLimiter(5, shared=store, name="acl"), 1)
        assert not store.up


@pytest.mark.parametrize(
    ("policy", "limit", "told"),
    [("allkeys-lru", 0, 0), ("noeviction", 10**9, 0), ("allkeys-lru", 10**9, 1)],
)
def test_a_server_that_evicts_is_told_of_once(
    server: Server,
    caplog: pytest.LogCaptureFixture,
    policy: str,
    limit: int,
    told: int,
) -> None:
    """After the first exchange; without the right to ask nothing is said."""
    with server.client() as client:
        client.config_set("maxmemory", limit)
        client.config_set("maxmemory-policy", policy)
        client.execute_command("ACL", "SETUSER", "shop", *ACL.split())
        urls = [server.url, server.url, server.url.replace("//", "//shop:pass@")]
        for url in urls:
            with RedisStore(url, prefix="shop", patience=20, lease=0) as store:
                assert 3 == passes(RateLimiter(3, shared=store, name="evicts"), 3)
            client.flushall()
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", "noeviction")
    assert told == len(caplog.records)
    for record in caplog.records:
        assert (
            "the server of the store with the prefix 'shop' evicts keys (allkeys-lru)"
            in record.getMessage()
        )


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_is_another_member(server: Server, store: RedisStore) -> None:
    """With a thread and a connection of its own."""
    limiter = RateLimiter(100, per=1000, shared=store, name="api")
    assert 1 == passes(limiter, 1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - the child is not measured
        try:
            os.write(write, json.dumps(passes(limiter, 60)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert 60 == json.loads(os.read(read, 100))
    os.close(read)
    os.close(write)
    assert 39 == passes(limiter, 60)
    with server.client() as client:
        wait_for(lambda: 2 == client.zcard("{shop:v1:bucket:api}:members"))


def test_nothing_shows_a_password() -> None:
    """Neither the text of a store nor of a policy; and it travels nowhere."""
    store = RedisStore("redis://user:secret@localhost:1/0")
    limiter = RateLimiter(1, shared=store, name="api")
    assert "RateLimiter(1, shared=RedisStore(…), name='api')" == repr(limiter)
    assert store is copy.copy(store) is copy.deepcopy(store)
    with pytest.raises(TypeError, match="cannot be pickled: its URL may carry a pass"):
        pickle.dumps(store)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, TypeError, "RedisStore takes exactly one of `url` and `client`"),
        (
            {"url": "http://:secret@host"},
            ValueError,
            "`url` is none that redis-py knows: Redis URL must specify one of the",
        ),
        (
            {"url": 1},
            TypeError,
            "`url` must be a string, got an object of <class 'i",
        ),
        (
            {"client": "redis"},
            TypeError,
            "`client` must be a synchronous client of redis-py or valkey-py, got an",
        ),
        (
            {"url": "redis://h", "prefix": "a b"},
            ValueError,
            "`prefix` must be 1 to 64 letters, digits, '_', '.', ':' or '-', got 'a b'",
        ),
    ],
)
def test_what_is_no_store_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """At construction, without what may be secret."""
    with pytest.raises(error) as caught:
        RedisStore(**arguments)
    assert str(caught.value).startswith(text)
    assert "secret" not in str(caught.value)


def test_a_client_of_ones_own_keeps_its_settings() -> None:
    """What the store uses is a copy that tries nothing twice."""
    client = redis.Redis(port=1, socket_timeout=7.0)
    store = RedisStore(client=client)
    transport: Any = store.link._transport  # type: ignore[attr-defined]
    used = transport._client.connection_pool.connection_kwargs
    assert (7.0, 0) == (used["socket_timeout"], used["retry"]._retries)
    assert 0 != client.connection_pool.connection_kwargs["retry"]._retries


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (redis.ResponseError("UNKNOWN We do not know."), "UNKNOWN"),
        (redis.ReadOnlyError("You can't write against a replica."), "ReadOnlyError"),
        (redis.ConnectionError("shop:pass@localhost"), "ConnectionError"),
        (
            redis.ResponseError(
                "Write commands not allowed after non deterministic commands. Call"
                " redis.replicate_commands()"
            ),
            "the server is older than Redis 5",
        ),
        (redis.ResponseError(""), "ResponseError"),
    ],
)
def test_a_refusal_has_a_clear_reason(error: Exception, reason: str) -> None:
    """Its class, or the first word of what the server says, which is its code."""
    assert reason == _refusal(error)


def test_a_script_is_its_text() -> None:
    """The digest is what the server computes."""
    assert 40 == len(BUCKET.sha)
    assert BUCKET.sha == Script("bucket.lua").sha


def test_one_members_refusal_is_not_the_others(server: Server) -> None:
    """A key of another type refuses one ask of a batch."""
    with server.client() as client:
        client.set("{x:v1:bucket:bad}", "no bucket")
        transport = RedisTransport(client, "x")
        good = RateLimiter(5, shared=RedisStore(server.url), name="good")._shared
        bad = RateLimiter(5, shared=RedisStore(server.url), name="bad")._shared
        assert good is not None
        assert bad is not None
        requests = []
        for member in (bad, good):
            ask = member.lease.collect(time.monotonic(), 1.0, 1.0)
            assert ask is not None
            requests.append(Request(member, ask, enlists=True))
        replies = transport.exchange(requests)
    assert [None, 1] == [reply.answer and reply.answer.granted for reply in replies]
    assert "WRONGTYPE" == replies[0].error
    assert [1, 1] == [reply.members for reply in replies]


def test_an_order_of_a_process_that_ends_is_heard_by_others(
    server: Server, store: RedisStore
) -> None:
    """What a script orders is told before it ends."""
    limiter = RateLimiter(3, per=1000, shared=store, name="api")
    breaker = CircuitBreaker(shared=store, name="api")
    assert 3 == passes(limiter, 3)
    assert 0 == breaker.call(int)
    with RedisStore(server.url, prefix="shop", patience=20) as script:
        RateLimiter(3, per=1000, shared=script, name="api").set_rate(
            8, burst=8, fleet=True
        )
        RateLimiter(3, per=1000, shared=script, name="api").reset(fleet=True)
        CircuitBreaker(shared=script, name="api").force_open(fleet=True)
    wait_for(lambda: passes(limiter, 1))
    assert (8, 7) == (limiter.rate, passes(limiter, 9))

    def is_refused() -> bool:
        try:
            breaker.call(int)
        except CircuitOpenError:
            return True
        return False

    wait_for(is_refused)


def test_a_fleet_limits_a_thousand_users(server: Server) -> None:
    """Two calls each in all processes, of which each keeps a quarter of them."""
    with server.client() as client:
        client.flushall()
    users = 1000
    results, _ = run_fleet(
        "tests.sharing.per_key_worker",
        server.url,
        users,
        workers=3,
        break_it=lambda: None,
    )
    assert [users // 4] * 3 == [result["keys"] for result in results]
    served = Counter(user for result in results for user in result["served"])
    assert all(count <= 2 for count in served.values())
    if any(result["lost"] for result in results):
        # A busy machine: what was granted late, or not asked for, was not served.
        return
    assert (users, {2}) == (len(served), set(served.values()))
    with server.client(decode_responses=True) as client:
        keys = sorted(client.scan_iter())
        name = "{shop:v1:bucket:login"
        hashes = [key.removeprefix(f"{name}:") for key in keys if "members" not in key]
        assert users == len(hashes) == len(keys) - 1
        assert all(re.fullmatch("[0-9a-f]{32}}", key) for key in hashes)
        assert 3 == client.zcard(f"{name}}}:members")
        assert all(0 < client.pttl(key) <= 1_100_000 for key in keys)
