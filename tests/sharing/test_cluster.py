"""A store on a cluster of three real servers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
import valkey
from tests.sharing.servers import Server, engine, free_ports
from tests.sharing.test_courier import wait_for
from tests.sharing.test_redis import ACL, passes

from resilient import PerKey, RateLimitedError, RateLimiter, StoreLost
from resilient.__main__ import main
from resilient._sharing.courier import Request
from resilient.redis import RedisStore
from resilient.redis._cluster import ClusterTransport

pytestmark = [pytest.mark.real, pytest.mark.fleet]

SLOTS = 16384


class Cluster:
    """Three primaries, each with a third of the slots."""

    def __init__(self, binary: str, stack: ExitStack) -> None:
        self.nodes: list[Server] = []
        buses = free_ports(3)
        for bus in buses:
            options = {
                "--cluster-enabled": "yes",
                "--cluster-node-timeout": "1000",
                "--cluster-port": str(bus),
                "--cluster-require-full-coverage": "yes",
            }
            self.nodes.append(stack.enter_context(Server(binary, options)))
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                first, end = SLOTS * number // 3, SLOTS * (number + 1) // 3
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                other, bus = self.nodes[0], buses[0]
                client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, bus)
        for node in self.nodes:
            wait_for(lambda node=node: self.is_whole(node))

    @staticmethod
    def is_whole(node: Server) -> bool:
        """Whether a node knows the others, and a server of each slot."""
        with node.client(decode_responses=True) as client:
            known = client.execute_command("CLUSTER INFO")
            slots = client.execute_command("CLUSTER SLOTS")
        primaries = {primary[1] for _, _, primary, *_ in slots}
        return known["cluster_state"] == "ok" and 3 == len(primaries)

    def client(self, **arguments: Any) -> redis.RedisCluster:
        """Return a client of its own."""
        # NB: a quarter of a second, a store's default, is little on a busy machine.
        arguments = {"port": self.nodes[0].port, "socket_timeout": 30, **arguments}
        return redis.RedisCluster(host="127.0.0.1", **arguments)

    def node_of(self, key: str) -> Server:
        """Return which node has a key."""
        with self.client() as client:
            port = client.get_node_from_key(key).port
        return next(node for node in self.nodes if node.port == port)


@pytest.fixture(scope="module", params=["redis", "valkey"])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that runs for this module."""
    with ExitStack() as stack:
        yield Cluster(engine(request.param), stack)


def limits(store: RedisStore) -> Any:
    """Return two calls for each user."""
    return PerKey(
        lambda user: RateLimiter(2, per=1000, name="login", shared=store),
        key=lambda user: user,
    )


def requests(number: int) -> Iterator[Request]:
    """Yield the first asks of so many limiters."""
    store = RedisStore("redis://localhost:1")
    for place in range(number):
        limiter = RateLimiter(5, name=f"api-{place}", shared=store)
        shared: Any = limiter._shared
        yield Request(shared, shared.lease.collect(0.0, 1.0, 1.0), enlists=False)


def test_the_keys_of_a_fleet_are_on_all_servers(cluster: Cluster) -> None:
    """Each limit on one; one batch asks all of them, through either client."""
    port = cluster.nodes[0].port
    others = valkey.ValkeyCluster(host="127.0.0.1", port=port, socket_timeout=30)
    with (
        RedisStore(client=cluster.client(), prefix="shop", patience=60) as one,
        RedisStore(client=others, prefix="shop", patience=60) as other,
    ):
        served: Counter[int] = Counter()
        for tenants in (limits(one), limits(other), limits(one)):
            for user in range(30):
                try:
                    served[tenants.call(int, user)] += 1
                except RateLimitedError:
                    pass
        assert {2} == set(served.values())
        assert 30 == len(served)
        assert one.up
        assert other.up
    for node in cluster.nodes:
        with node.client() as client:
            assert 0 < len(client.keys("{shop:v1:bucket:login:*}"))


def test_the_fleet_is_listed_from_all_servers(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the URL of any of them; and a reset is of keys on all."""
    prefix = "listed"
    with (
        cluster.client() as client,
        RedisStore(client=client, prefix=prefix, patience=60) as store,
    ):
        for number in range(12):
            RateLimiter(5, per=1000, shared=store, name=f"api{number}").call(int)
        users = PerKey(
            lambda user: RateLimiter(2, per=1000, shared=store, name="users"),
            key=lambda user: user,
        )
        for number in range(12):
            users.call(int, number)
    for node in cluster.nodes:
        assert 0 == main(["fleet", node.url, "--prefix", prefix])
        rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
        assert 24 == len(rows)
        assert {"1"} == {members for _, name, members, *_ in rows if "api" in name}
        assert {"1"} == {members for _, name, members, *_ in rows if "users" in name}
    command = ["fleet", cluster.nodes[1].url, "--prefix", prefix, "--reset", "users"]
    assert 0 == main(command)
    lines = capsys.readouterr().out.splitlines()
    full = [line for line in lines if "users" in line and "2.0 of 2" in line]
    assert 12 == len(full)


def test_a_slot_that_moves_keeps_its_limits(cluster: Cluster) -> None:
    """Neither who asks amid the move nor who asks the old server loses a call."""
    key = "{shop:v1:bucket:api}"
    for node in cluster.nodes:
        with node.client() as client:
            rights = f"{ACL} +cluster|slots +command +asking".split()
            client.execute_command("ACL", "SETUSER", "shop", *rights)
    client = cluster.client(username="shop", password="pass")
    store = RedisStore(client=client, prefix="shop", patience=60)
    events: list[object] = []
    with store, ExitStack() as stack:
        limiter = RateLimiter(4, per=1000, name="api", shared=store)
        limiter.subscribe(events.append)
        assert 1 == passes(limiter, 1)
        old = cluster.node_of(key)
        new = next(node for node in cluster.nodes if node is not old)
        source = stack.enter_context(old.client(decode_responses=True))
        target = stack.enter_context(new.client(decode_responses=True))
        slot = source.execute_command("CLUSTER KEYSLOT", key)
        here, there = [
            each.execute_command("CLUSTER MYID") for each in (source, target)
        ]
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", here)
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", there)
        # The key is still where it was ...
        assert 1 == passes(limiter, 1)
        source.migrate("127.0.0.1", new.port, source.keys(f"{key}*"), 0, 60_000)
        # ... on its way, so that the old server says ASK ...
        assert 1 == passes(limiter, 1)
        for each in (target, source):
            each.execute_command("CLUSTER SETSLOT", slot, "NODE", there)
        # ... and elsewhere, so that it says MOVED.
        assert 1 == passes(limiter, 3)
        assert target.exists(key)
        assert store.up
    assert not [event for event in events if isinstance(event, StoreLost)]


def test_a_server_that_is_lost_is_a_lost_store(cluster: Cluster) -> None:
    """It is back, empty, with its slots, and nothing is given away."""
    with RedisStore(
        client=cluster.client(), prefix="lost", patience=60, members=1, lost="reject"
    ) as store:
        tenants = limits(store)
        reasons: list[str] = []
        tenants.subscribe(
            lambda event: (
                reasons.append(event.reason) if isinstance(event, StoreLost) else None
            )
        )
        assert [7, 7] == [tenants.call(int, 7) for _ in range(2)]
        (key,) = [member.key for member in store.link.members()]
        node = cluster.node_of(f"{{lost:v1:{key}}}")
        transport = ClusterTransport(cluster.client(), "lost")
        node.kill()
        # Of a batch for all of them the other two answer.
        replies = transport.exchange(list(requests(30)))
        transport.close()
        answered = [reply for reply in replies if reply.answer is not None]
        assert 0 < len(answered) < 30
        assert {("ConnectionError", False)} == {
            (reply.error, reply.sent) for reply in replies if reply.answer is None
        }
        with pytest.raises(RateLimitedError):
            for user in range(100):
                tenants.call(int, user + 100)
        wait_for(lambda: not store.up)
        node.start()
        for each in cluster.nodes:
            wait_for(lambda each=each: cluster.is_whole(each))
        wait_for(lambda: store.up or passes(tenants[0], 1) < 0)
        assert 0 == passes(tenants[7], 3)
        assert 1 <= len(reasons) <= 9
        assert all(re.fullmatch(r"\w+", reason) for reason in reasons)
