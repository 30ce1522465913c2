"""A store behind Sentinel, TLS, and credentials that change: real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import valkey
from redis.sentinel import Sentinel
from tests.sharing.servers import Server, engine
from tests.sharing.test_courier import wait_for
from tests.sharing.test_redis import ACL, passes

from resilient import RateLimiter, StoreBack, StoreLost
from resilient.redis import RedisStore

pytestmark = [pytest.mark.real, pytest.mark.fleet]

# NB: a quarter of a second, a store's default, is little on a busy machine.
PATIENT = "socket_timeout=30"

CERTIFICATES = Path(__file__).parent.parent / "http" / "certificates"


@contextmanager
def told(limiter: RateLimiter) -> Iterator[list[str]]:
    """Note why the store was lost, and that it is back."""
    events: list[str] = []
    stop = limiter.subscribe(
        lambda event: (
            events.append(event.reason if isinstance(event, StoreLost) else "back")
            if isinstance(event, StoreLost | StoreBack)
            else None
        )
    )
    yield events
    stop()


def test_a_failover_by_sentinel_is_followed() -> None:
    """The replica that is the primary now is asked, and nothing is given away."""
    binary = engine("redis")
    with Server(binary) as primary, Server(binary) as replica:
        with replica.client() as client:
            client.replicaof("127.0.0.1", primary.port)
            wait_for(lambda: "up" == client.info("replication")["master_link_status"])
        with Server(binary, sentinel=primary.port) as watch:
            manager = Sentinel([("127.0.0.1", watch.port)], socket_timeout=30)
            manager.discover_master("shop")
            with watch.client() as client:
                wait_for(lambda: client.sentinel_slaves("shop"))
            store = RedisStore(
                client=manager.master_for("shop"), patience=60, lost="reject"
            )
            limiter = RateLimiter(3, per=10_000, name="api", shared=store)
            with store, told(limiter) as events:
                assert 2 == passes(limiter, 2)
                with primary.client() as client:
                    # NB: a replica acknowledges up to a second after it is connected.
                    wait_for(lambda: client.wait(1, 1000))
                primary.kill()
                assert 0 == passes(limiter, 1)
                with replica.client() as client:
                    wait_for(lambda: "master" == client.role()[0].decode())
                wait_for(lambda: store.up)
                assert 1 == passes(limiter, 3)
            with replica.client() as client:
                assert client.exists("{resilient:v1:bucket:api}")
        assert "back" == events[-1]


def test_a_primary_that_becomes_a_replica_is_lost_until_it_is_none() -> None:
    """Its connection is given up, for its name may stand for another server now."""
    with Server(engine("redis")) as other, Server(engine("redis")) as server:
        store = RedisStore(f"{server.url}?{PATIENT}", patience=60, lost="reject")
        limiter = RateLimiter(9, per=10_000, name="api", shared=store)
        with store, told(limiter) as events, server.client() as client:
            assert 1 == passes(limiter, 1)
            client.replicaof("127.0.0.1", other.port)
            assert 0 == passes(limiter, 1)
            wait_for(lambda: ["ReadOnlyError"] == events[:1])
            client.replicaof("NO", "ONE")
            wait_for(lambda: store.up and passes(limiter, 1))


@contextmanager
def tls_server() -> Iterator[Server]:
    """A server that speaks TLS only, with a user of as few rights as suffice."""
    options = {
        "--port": "0",
        "--tls-cert-file": str(CERTIFICATES / "one.test.pem"),
        "--tls-key-file": str(CERTIFICATES / "one.test.pem"),
        "--tls-ca-cert-file": str(CERTIFICATES / "authority.pem"),
        "--tls-auth-clients": "no",
    }
    arguments = {
        "ssl": True,
        "ssl_ca_certs": str(CERTIFICATES / "authority.pem"),
        "ssl_check_hostname": False,
    }
    with Server(engine("redis"), options, arguments, tls=True) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "shop", *ACL.split())
            client.execute_command("ACL", "SETUSER", "default", "off")
        yield server


def test_a_server_with_tls_and_few_rights(caplog: pytest.LogCaptureFixture) -> None:
    """The URL says how it is verified; one that is not is a lost store."""
    with tls_server() as server:
        url = f"rediss://shop:pass@127.0.0.1:{server.port}/0?ssl_check_hostname=false&{PATIENT}"
        trusts = f"{url}&ssl_ca_certs={CERTIFICATES / 'authority.pem'}"
        with RedisStore(trusts, prefix="shop", patience=60) as store:
            assert 5 == passes(RateLimiter(5, per=1000, shared=store, name="a"), 9)
            assert store.up
        for bad in (url, trusts.replace("pass", "other")):
            store = RedisStore(bad, prefix="shop", patience=60, lost="reject")
            limiter = RateLimiter(5, per=1000, shared=store, name="a")
            with store, told(limiter) as events:
                assert 0 == passes(limiter, 1)
                wait_for(lambda events=events: events)
                assert events[0] in ("ConnectionError", "AuthenticationError")
    assert "pass" not in caplog.text


class Rotating(redis.CredentialProvider):
    """Passwords that change, as a cloud's tokens do."""

    def __init__(self, password: str) -> None:
        self.password = password

    def get_credentials(self) -> tuple[str, str]:
        """Return what a connection authenticates by."""
        return "shop", self.password


def test_credentials_that_change_are_asked_for_anew() -> None:
    """By each connection; the old ones end with the server's word."""
    with Server(engine("redis")) as server, server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "shop", *ACL.split())
        provider = Rotating("pass")
        client = server.client(credential_provider=provider, socket_timeout=30)
        store = RedisStore(client=client, prefix="shop", patience=60, lost="reject")
        limiter = RateLimiter(9, per=10_000, name="api", shared=store)
        with store, told(limiter) as events:
            assert 1 == passes(limiter, 1)
            provider.password = "next"
            admin.execute_command("ACL", "SETUSER", "shop", "resetpass", ">next")
            admin.execute_command("CLIENT", "KILL", "USER", "shop")
            wait_for(lambda: passes(limiter, 1))
            provider.password = "wrong"
            admin.execute_command("CLIENT", "KILL", "USER", "shop")
            wait_for(lambda: not passes(limiter, 1) and not store.up)
            provider.password = "next"
            wait_for(lambda: store.up and passes(limiter, 1))
        assert "AuthenticationError" in events


@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_a_client_of_valkey_py_serves_as_well(name: str) -> None:
    """Its errors are others of the same names."""
    with Server(engine(name)) as server:
        client: Any = valkey.Valkey(port=server.port, socket_timeout=30)
        store = RedisStore(client=client, prefix="shop", patience=60, lost="reject")
        limiter = RateLimiter(4, per=10_000, name="api", shared=store)
        with store, told(limiter) as events:
            assert 2 == passes(limiter, 2)
            client.script_flush()
            assert 2 == passes(limiter, 3)
            assert [] == events
            server.kill()
            limiter.reset()
            assert 0 == passes(limiter, 1)
            wait_for(lambda: ["ConnectionError"] == events)
        client.close()
