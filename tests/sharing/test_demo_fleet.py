"""``resilient demo --fleet``: what it shows, and what it says where it cannot."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import time

import pytest
from tests.sharing.servers import Server, engine

from resilient.__main__ import main
from resilient._commands import demo_fleet


@pytest.mark.real
@pytest.mark.fleet
def test_a_fleet_keeps_its_limit_while_its_server_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line a second, what became of the server, and the figures as JSON."""
    binary = engine("redis")
    monkeypatch.delenv("RESILIENT_REDIS_URL", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: binary)
    assert 0 == demo_fleet.run(3, as_json=True)
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert (3, 4) == (len(result["passed"]), len(result["passed"][0]))
    # NB: each of the four notes a call late on a busy machine, or returns late to the
    # store, with a share of its own until then.
    assert 0 <= result["over"] <= demo_fleet.BURST
    lines = err.splitlines()
    assert lines[0].startswith("4 processes share RateLimiter(200, burst=100): in any")
    said = [line.strip() for line in lines if line.startswith("     ")]
    assert ["the server is killed", "it is back, empty", "the data is lost"] == said
    assert ["0 s", "1 s", "2 s"] == re.findall(r"^ +(\d s) +\d+ calls ", err, re.M)
    assert re.search(r"\d+ calls of the 700 that the limit allows; \d+ too many", err)
    assert max(map(len, lines)) <= 80


@pytest.mark.real
def test_a_server_that_others_use_loses_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not killed, and only the keys of the demo are deleted."""
    with Server(engine("valkey")) as server, server.client() as client:
        client.set("other", "1")
        monkeypatch.setenv("RESILIENT_REDIS_URL", server.url)
        assert 0 == demo_fleet.run(1, as_json=False)
        assert client.exists("other")
        assert "the server is killed" not in capsys.readouterr().out
        # What a worker does, in this process.
        begin = time.monotonic()
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{begin}\n"))
        demo_fleet.work(server.url, "demo", 1)
        ready, second = map(json.loads, capsys.readouterr().out.splitlines())
        assert begin <= ready
        assert second == sorted(second)
        assert 0 < len(second)


def test_the_worst_stretch_is_found() -> None:
    """A burst and the rate are no call too many; what is more is counted."""
    demo = demo_fleet
    steady = [second / demo.RATE for second in range(1000)]
    assert 0 == demo.most_over([])
    assert 0 == demo.most_over([9.0] * demo.BURST)
    assert 7 == demo.most_over([9.0] * (demo.BURST + 7))
    assert 0 == demo.most_over(steady)
    assert 4 == demo.most_over([*steady, *[5.0] * (demo.BURST + 4)])


def test_where_it_cannot_run_it_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server, none that answers, or no client; no password in any text."""
    monkeypatch.delenv("RESILIENT_REDIS_URL", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert 1 == main(["demo", "--fleet"])
    for url in ("redis://:secret@127.0.0.1:1", "http://:secret@127.0.0.1"):
        monkeypatch.setenv("RESILIENT_REDIS_URL", url)
        assert 1 == main(["demo", "--fleet"])
    monkeypatch.setitem(sys.modules, "redis", None)
    assert 1 == main(["demo", "--fleet"])
    assert [
        "resilient demo --fleet: there is no redis-server and no valkey-server here,"
        " and RESILIENT_REDIS_URL is not set",
        "resilient demo --fleet: the server cannot be asked: ConnectionError",
        "resilient demo --fleet: the server cannot be asked: ValueError",
        "resilient demo --fleet: it needs redis-py; run: pip install"
        " 'resilient-pipeline[redis]'",
    ] == capsys.readouterr().err.splitlines()
