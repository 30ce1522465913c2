"""The second act of the demo: replicas in virtual time, and one real run."""

from __future__ import annotations

import asyncio
import functools
import gc
import io
import json
import re

import httpx
import pytest
from tests.test_demo import run_for_json

from resilient.__main__ import main
from resilient.demo import replicas
from resilient.demo.day import Fault
from resilient.demo.load import Log, Request
from resilient.demo.replicas import DEAD, NAMES, ROLLED, SLOW, WELL, Results, Rollout
from resilient.demo.replicas_report import ReplicasReport
from resilient.demo.server import Server
from resilient.testing import virtual_time

URLS = {name: f"http://{name}" for name in NAMES}


class InMemory(httpx.AsyncBaseTransport):
    """Acts the replicas out as a `Server` of each does, without sockets."""

    def __init__(self, day: Rollout) -> None:
        self.day = day
        self.up = True
        self.asked_while_stopped = 0

    def roll(self, up: bool) -> None:
        """Start or stop the one that is rolled."""
        self.up = up

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        replica = self.day.replicas[request.url.host]
        if replica.name == ROLLED and not self.up:
            self.asked_while_stopped += 1
            raise httpx.ConnectError("refused", request=request)
        due = float(request.url.path[1:])
        await asyncio.sleep(replica.latency(due))
        fault = replica.fault(due)
        return httpx.Response(200 if fault is None else 503, request=request)


@functools.cache
def run_day(seconds: int, seed: int) -> tuple[Results, str, InMemory]:
    """Return the figures of a day in virtual time, what was printed, and its fleet."""
    day, printed = Rollout(seconds, seed), io.StringIO()
    balance = replicas.balance_of(URLS)
    pipeline = replicas.protection(balance)
    fleet, report = InMemory(day), ReplicasReport(printed)

    def tell(second: int, log: Log) -> None:
        report.second(second, log, day, balance)

    log = virtual_time.run(
        replicas.play, day, URLS, balance, pipeline, tell, fleet.roll, fleet
    )
    return replicas.results(day, repr(pipeline), log), printed.getvalue(), fleet


@pytest.fixture(scope="module", params=[(12, 1), (9, 7)])
def figures(request: pytest.FixtureRequest) -> Results:
    """The figures of a day that several tests look at."""
    return run_day(*request.param)[0]


def test_equal_seeds_give_equal_figures() -> None:
    """Load, latencies and choices are the same each time."""
    assert run_day(9, 7)[:2] == run_day.__wrapped__(9, 7)[:2]


def test_the_round_robin_loses_what_the_dead_one_gets(figures: Results) -> None:
    """A quarter, and a half while another one is stopped."""
    bare = figures.bare
    assert 0.25 == pytest.approx(bare.shares[DEAD], abs=0.01)
    assert 0.5 == pytest.approx(bare.answered_in_roll, abs=0.02)
    assert 0.667 == pytest.approx(bare.answered, abs=0.02)
    assert {"HTTPStatusError", "ConnectError"} == set(bare.errors)


def test_the_balanced_client_loses_nothing(figures: Results) -> None:
    """The roll included, for it was told."""
    balanced = figures.balanced
    assert 1.0 == balanced.answered == balanced.answered_in_roll
    assert {} == balanced.errors


def test_it_asks_the_bad_ones_seldom(figures: Results) -> None:
    """A dead one to see whether it is back, and a slow one in ten seconds."""
    shares = figures.balanced.shares
    assert shares[DEAD] < 0.06
    assert shares[SLOW] < 0.06
    assert shares[WELL] > shares[ROLLED] > 0.2
    assert 1 == pytest.approx(sum(shares.values()), abs=0.001)


def test_it_has_the_shorter_tail(figures: Results) -> None:
    """The slow one answers late, and is asked seldom."""
    assert figures.balanced.p99 < figures.bare.p99
    assert figures.balanced.p50 < 0.05


def test_the_dead_one_is_ejected(figures: Results) -> None:
    """And no other."""
    assert {DEAD} == {removal.replica for removal in figures.ejected}
    assert all(removal.at < figures.seconds + 3 for removal in figures.ejected)


def test_the_roll_is_announced() -> None:
    """So that the balanced client sends nothing to it; the other one does."""
    results, _, fleet = run_day(12, 1)
    refused = results.bare.errors["ConnectError"]
    assert refused == fleet.asked_while_stopped == pytest.approx(40, abs=2)


def test_each_second_has_its_line() -> None:
    """It says what was answered, and who is ejected."""
    printed = run_day(12, 1)[1]
    lines = printed.splitlines()
    seconds = [int(found) for found in re.findall(r"^ +(\d+) s ", printed, re.M)]
    assert list(range(1, len(seconds) + 1)) == seconds
    assert 12 <= len(seconds) <= 15
    assert lines[0].startswith("    1 s all run ")
    assert lines[6].startswith("    7 s one rolled ")
    assert lines[6].endswith(" dead")


# -- What is printed


async def rehearse(day: Rollout, *others: object) -> Log:
    """Plays a day in no time: the balanced client loses nothing."""
    log = Log()
    for place, due in enumerate(day.due):
        name = NAMES[place % len(NAMES)]
        bare = Request(due, [due], [name], due + 0.02)
        bare.error = "HTTPStatusError" if name == DEAD else None
        log.bare.append(bare)
        log.protected.append(Request(due, [due], [WELL], due + 0.02))
    tell = others[3]
    assert callable(tell)
    tell(1, log)
    tell(day.seconds + 1, log)
    return log


@pytest.mark.parametrize("columns", [50, 80])
def test_it_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of fifty columns, too."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(replicas, "play", rehearse)
    assert 0 == main(["demo", "--replicas"])
    lines = capsys.readouterr().out.splitlines()
    assert [] == [line for line in lines if len(line) > columns]
    told = [" ".join(line.split()) for line in lines]
    for line in (
        "answered 75.0% 100.0%",
        "p99 20 ms 20 ms",
        "share of dead 25.0% 0.0%",
        "requests 480 480",
        "bare lost 120 answers of 503",
        "Balance lost nothing",
    ):
        assert line in told


def test_a_terminal_of_ascii_gets_ascii() -> None:
    """Bars and rules are written in what it has."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    results, _, _ = run_day(12, 1)
    ReplicasReport(stream).table(results)
    stream.seek(0)
    printed = stream.read()
    assert "-----" in printed
    assert re.search(r"ejected +\d+\.\d\d s  dead for \d+\.\d s", printed)


def test_the_figures_as_json_have_stdout_for_themselves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All else goes to stderr."""
    monkeypatch.setattr(replicas, "play", rehearse)
    assert 0 == main(["demo", "--replicas", "--json", "--seed=3"])
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert (3, 480, 1.0) == (
        figures["seed"],
        figures["bare"]["requests"],
        figures["balanced"]["answered"],
    )
    assert "Four replicas" in err


# -- Real servers


@pytest.mark.real
def test_a_server_that_is_stopped_refuses_until_it_is_started() -> None:
    """At the same address, and ends what connections it had."""
    day = Rollout(8, 1)
    with Server(day.replicas[WELL]) as server, httpx.Client(trust_env=False) as client:
        assert 200 == client.get(f"{server.url}/1.0").status_code
        server.stop()
        with pytest.raises(httpx.ConnectError):
            client.get(f"{server.url}/1.0")
        server.start()
        assert 200 == client.get(f"{server.url}/1.0").status_code
        server.stop()
    assert Fault.ERROR is day.replicas[DEAD].fault(1.0)
    gc.collect()  # what was not closed warns now


@pytest.mark.real
def test_a_real_run_ends_with_json() -> None:
    """Exit code 0, and each request is counted; how many are lost is the machine's."""
    figures, told = run_for_json("--replicas")
    for client in (figures["bare"], figures["balanced"]):
        assert 320 == client["requests"] <= client["attempts"]
    assert figures["bare"]["errors"]["HTTPStatusError"] > 0
    assert "one rolled" in told
