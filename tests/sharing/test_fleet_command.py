"""``resilient fleet``: what is shared through a server, as it stands there."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.sharing.servers import Server, engine
from tests.sharing.test_courier import wait_for

from resilient import (
    Bulkhead,
    CircuitBreaker,
    PerKey,
    RateLimitedError,
    RateLimiter,
    RetryBudget,
    StaleCache,
)
from resilient.__main__ import main
from resilient._machines.quorum import Report
from resilient._sharing.keys import key_hash
from resilient.redis import RedisStore
from resilient.redis._transport import CIRCUIT, member_arguments

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that runs for this module."""
    with Server(engine("redis")) as server:
        yield server


def kept(client: Any, pattern: str) -> int:
    """Return how many keys of a pattern have a value."""
    return sum(client.hexists(key, "content") for key in client.keys(pattern))


def test_it_lists_what_is_shared(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kind, name, members and state; of one prefix."""
    monkeypatch.setenv("RESILIENT_REDIS_URL", server.url)
    assert 0 == main(["fleet", "--prefix", "shop"])
    assert "no policy is shared under the prefix 'shop'\n" == capsys.readouterr().out
    with (
        RedisStore(server.url, prefix="shop", patience=20) as store,
        RedisStore(server.url, prefix="other", patience=20) as other,
        server.client() as client,
    ):
        RateLimiter(5, per=1000, shared=store, name="api").call(int)
        RateLimiter(5, per=1000, shared=other, name="unseen").call(int)
        users = PerKey(lambda user: RateLimiter(9, per=9e9, shared=store, name="login"))
        for user in ("ann", "bob"):
            with users.guard(key=user):
                pass
        assert RetryBudget(name="api", shared=store).withdraw() in (True, False)
        breaker = CircuitBreaker(name="api", shared=store)
        breaker.call(int)
        wait_for(lambda: breaker.status()["store.exchanges"])
        slots = Bulkhead(9, name="api", shared=store)
        slots.call(int)
        client.set("{shop:v1:strange:key}", "1")
        sha = client.script_load(CIRCUIT.text)
        for holder in (0.0, 5.0):
            key = f"{{shop:v1:circuit:open{holder:g}}}"
            report = Report("a", 1.0, 1.0, 1.0, 9.0, calls=20.0, failures=15.0)
            report = report._replace(right=holder)
            client.evalsha(sha, 1, key, *member_arguments(report))
        # As one that lost its data, and lacks slots, has it.
        key, row = "{shop:v1:slots:lacks}", "2 9e12 1"
        stored = {"seq": 1, "shift": 0, "learning": 9e12, "limit": 2, "agreed": 1}
        client.hset(key, mapping={**stored, "m:a": row})
        for user in ("ann", "bob"):
            cache = StaleCache(9, 9, shared=store, codec=json, name="pages")
            assert user.upper() == cache(str.upper)(user)
        wait_for(lambda: 2 == kept(client, "{shop:v1:cache:pages:*"))
        client.hset("{shop:v1:cache:pages:a}", mapping={"holder": "a", "held": 9e12})
        wait_for(lambda: client.exists("{shop:v1:budget:api}"))
        assert 0 == main(["fleet", server.url, "--prefix", "shop"])
    lines = capsys.readouterr().out.splitlines()
    assert ["KIND", "NAME", "MEMBERS", "STATE"] == lines[0].split()
    shown = {tuple(line.split()[:3]): line.split(None, 3)[3] for line in lines[1:]}
    assert "4.0 of 5, 0.005 a second" == shown["bucket", "api", "1"]
    for user in ("ann", "bob"):
        name = f"login:{key_hash((user,), b'shop')}"
        assert "8.0 of 9, 1e-09 a second" == shown["bucket", name, "1"]
    assert re.fullmatch(r"\d+\.\d of 10, 0.1 a second", shown["budget", "api", "1"])
    assert (
        "closed; 0 of 1 calls failed; 0 of 1 members fail"
        == (shown["circuit", "api", "1"])
    )
    opened = r"open, [89]\.\d s more; 15 of 20 calls failed"
    assert re.fullmatch(opened, shown["circuit", "open0", "0"])
    assert re.fullmatch(opened + "; one member probes", shown["circuit", "open5", "0"])
    assert re.fullmatch(r"\d of 9 on lease", shown["slots", "api", "1"])
    assert (
        "2 of 2 on lease; 1 members lack some; learning"
        == (shown["slots", "lacks", "0"])
    )
    assert "2 values; 1 are made anew" == shown["cache", "pages", "2"]
    assert 10 == len(shown)


def test_a_reset_holds_for_every_member(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """What they remember of the level or the circuit does not undo it."""
    command = ["fleet", server.url, "--prefix", "reset", "--reset", "api"]
    assert 1 == main(command)
    assert (
        "resilient fleet: no bucket, budget or circuit 'api' is shared under the prefix"
        " 'reset'\n" == capsys.readouterr().err
    )
    with RedisStore(server.url, prefix="reset", patience=20, lease=0) as store:
        limiter = RateLimiter(2, per=1000, shared=store, name="api")
        budget = RetryBudget(capacity=1, per_second=0, shared=store, name="api")
        breaker = CircuitBreaker(name="api", shared=store)
        for _ in range(2):
            limiter.call(int)
        budget.withdraw()
        wait_for(lambda: _level(server, "budget") is not None)
        with pytest.raises(RateLimitedError):
            limiter.call(int)
        breaker.call(int)
        wait_for(lambda: breaker.status()["store.exchanges"])
        with server.client() as client:
            client.hset("{reset:v1:circuit:api}", mapping={"open": 1, "term": 7})
            client.hset("{reset:v1:budget:api}", mapping={"level": -0.5})
        assert 0 == main(command)
        assert {"2.0 of 2", "1.0 of 1"} <= {
            line.split(None, 3)[3].split(",")[0]
            for line in capsys.readouterr().out.splitlines()
        }
        breaker.force_open(fleet=True)
        wait_for(lambda: "forced_open" == breaker.status()["circuit.fleet"])
        assert 0 == main(["fleet", server.url, "--prefix", "reset"])
        assert re.search("circuit .* forced open\n", capsys.readouterr().out)
        breaker.reset(fleet=True)
        wait_for(lambda: "closed" == breaker.status()["circuit.fleet"])
        # A member that was refused asks again when there may be something.
        other = RateLimiter(2, per=1000, shared=store, name="api")
        assert 0 == other.call(int)
        assert 1.0 == round(_level(server, "bucket") or 0.0, 1)
        with server.client(decode_responses=True) as client:
            stored = client.hgetall("{reset:v1:circuit:api}")
            assert ("-1", "10") == (stored["open"], stored["term"])
            assert not [name for name in stored if name.startswith("m:")]


def test_a_reset_of_a_name_holds_for_all_its_keys(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than fit one exchange; one key alone by its hash, or as it is written."""
    monkeypatch.setattr("resilient._commands.fleet._BATCH", 30)
    users = range(100)
    command = ["fleet", server.url, "--prefix", "keys", "--reset"]

    def limits(name: str, store: RedisStore) -> Any:
        """Return what a process that has just begun has."""
        return PerKey(
            lambda user: RateLimiter(1, per=1000, name=name, shared=store),
            key=lambda user: user,
        )

    def passes(limits: Any) -> list[int]:
        passed: list[int] = []
        for user in users:
            try:
                passed.append(limits.call(int, user))
            except RateLimitedError:
                pass
        return passed

    # NB: a quarter of a second, a store's default, is little on a busy machine.
    url = f"{server.url}?socket_timeout=30"
    with RedisStore(url, prefix="keys", patience=60) as store:
        plain = store.with_(plain_keys=True)
        hosts: Any = PerKey(lambda host: CircuitBreaker(name="login", shared=store))
        hosts["a"].force_open(fleet=True)
        assert list(users) == passes(limits("login", store))
        assert list(users) == passes(limits("login.plain", plain))
        wait_for(lambda: "forced_open" == hosts["a"].status()["circuit.fleet"])
        assert 0 == main([*command, f"login:{key_hash((7,), b'keys')}"])
        assert 0 == main([*command, "login.plain:12"])
        listed = capsys.readouterr().out
        assert re.search(r"bucket +login\.plain:12 +1 +1\.0 of 1,", listed)
        assert re.search(r"circuit .* forced open\n", listed)
        assert [7] == passes(limits("login", store))
        assert [12] == passes(limits("login.plain", plain))
        assert 0 == main([*command, "login"])
        assert re.search(r"circuit .* closed; ", capsys.readouterr().out)
        assert list(users) == passes(limits("login", store))
        assert [] == passes(limits("login.plain", plain))


def test_a_key_that_ends_meanwhile_is_left_out(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the scan, and what it found being read."""
    gone = [("{gone:v1:bucket:api}", "bucket", "api")]
    monkeypatch.setattr("resilient._commands.fleet._shared", lambda *given: gone)
    command = ["fleet", server.url, "--prefix", "gone"]
    assert 0 == main([*command, "--reset", "api"])
    assert 0 == main(command)
    said = "no policy is shared under the prefix 'gone'\n"
    assert 2 * said == capsys.readouterr().out
    with server.client() as client:
        assert not client.exists(gone[0][0])


def _level(server: Server, kind: str) -> float | None:
    with server.client() as client:
        level = client.hget(f"{{reset:v1:{kind}:api}}", "level")
    return None if level is None else float(level)


def test_what_cannot_be_asked_is_said_without_its_url(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No password in any text."""
    with Server(server.binary) as gone:
        gone.kill()
        url = gone.url.replace("//", "//:secret@")
        assert 1 == main(["fleet", url])
    assert 1 == main(["fleet", "secret"])
    assert capsys.readouterr().err.splitlines() == [
        "resilient fleet: the server cannot be asked: ConnectionError",
        "resilient fleet: the server cannot be asked: ValueError",
    ]
    monkeypatch.delenv("RESILIENT_REDIS_URL", raising=False)
    with pytest.raises(SystemExit, match="no URL, and RESILIENT_REDIS_URL is not set"):
        main(["fleet"])


def test_without_redis_py_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "redis", None)
    assert 1 == main(["fleet", "redis://localhost"])
    assert "needs redis-py; run: pip install" in capsys.readouterr().err


def test_a_user_without_the_right_to_info_is_served_too(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is taken for a server of its own."""
    rights = "reset on >pass ~{shop:* -@all +scan +zcard +hgetall +hmget +time"
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "viewer", *rights.split())
    url = server.url.replace("//", "//viewer:pass@")
    assert 0 == main(["fleet", url, "--prefix", "nothing"])
    assert "no policy is shared" in capsys.readouterr().out
