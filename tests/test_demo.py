"""The demo: the day it draws, the server, days in virtual time, and one real run."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from tests.scripts import ROOT, load

import resilient
from resilient import (
    CallRejected,
    CircuitChanged,
    Pipeline,
    RetriesExhausted,
    TimedOut,
    demo,
)
from resilient.__main__ import main
from resilient.demo.day import LULL, RATE, Day, Fault, Phase
from resilient.demo.figures import Results, percentile
from resilient.demo.load import Log, Request, Tell
from resilient.demo.report import Report
from resilient.demo.server import Server, fingerprint

DAYS = [Day(seconds, seed) for seconds in (8, 9, 12, 15, 60) for seed in range(20)]

NEVER = Day(8, 1)


# -- The day


def test_a_day_is_drawn_from_its_seed() -> None:
    """Equal seeds give equal days, others do not."""
    one, same, other = Day(12, 1), Day(12, 1), Day(12, 2)

    assert one.due == same.due
    assert one.due != other.due
    for moment in one.due:
        assert one.fault(moment) is same.fault(moment)
        assert one.latency(moment) == same.latency(moment)
    assert faults_of(one) != faults_of(other)


def test_one_request_is_due_in_each_slot() -> None:
    """The load is even, at moments that cannot be mistaken for a neighbour's."""
    for day in DAYS:
        slots = [int(moment * RATE) for moment in day.due]
        assert list(range(day.seconds * RATE)) == slots
    assert RATE >= 30


def test_fair_weather_has_its_share_of_faults() -> None:
    """Whatever the seed and the length, 5 to 8 % of the requests meet one."""
    for day in DAYS:
        fair = [moment for moment in day.due if day.phase(moment) is Phase.FAIR]
        faulty = [moment for moment in fair if day.fault(moment)]
        stalled = [moment for moment in fair if day.fault(moment) is Fault.STALL]
        assert 0.05 <= len(faulty) / len(fair) <= 0.08
        assert len(stalled) / len(fair) > 0.01, "the bare p99 would not be a stall"


def test_nothing_works_in_the_outage() -> None:
    """Every request that is due in it meets a fault; before it there is a lull."""
    for day in DAYS:
        for moment in day.due:
            if day.phase(moment) is Phase.OUTAGE:
                assert day.fault(moment) is not None
            elif day.outage - LULL <= moment < day.outage:
                assert day.fault(moment) is None


def test_the_phases_follow_one_another() -> None:
    """Fair, outage, settling, and fair again before the day ends."""
    for day in DAYS:
        assert 0 < day.outage < day.recovery < day.settled < day.seconds
        assert day.phase(0) is day.phase(day.settled) is Phase.FAIR
        assert day.phase(day.outage) is Phase.OUTAGE
        assert day.phase(day.recovery) is Phase.SETTLING


def test_there_is_weather_after_the_last_request() -> None:
    """Late retries meet faults as others do, and at last those of the last slot."""
    for day in DAYS:
        late = [day.seconds + slot / RATE for slot in range(3 * RATE)]
        assert {None} < {day.fault(moment) for moment in late}
        assert day.fault(1e6) is day.fault(day.seconds + 9.999)


def faults_of(day: Day) -> list[Fault | None]:
    """What each request of a day meets."""
    return [day.fault(moment) for moment in day.due]


def test_a_percentile_is_a_number_that_was_there() -> None:
    """The nearest rank: nothing is made up between two numbers."""
    assert 2 == percentile([3, 1, 2], 0.5)
    assert 99 == percentile(range(1, 101), 0.99)
    assert 1 == percentile([1], 0.99)


# -- The server


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that lives through a day."""
    with Server(NEVER) as server:
        yield server


def due_for(fault: Fault | None) -> float:
    """A moment at which the server gives that."""
    return next(moment for moment in NEVER.due if NEVER.fault(moment) is fault)


def connected(server: Server) -> socket.socket:
    """A connection that only the test holds."""
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=5)


def request(due: float) -> bytes:
    """What a client sends."""
    return f"GET /{due:.4f} HTTP/1.1\r\nhost: here\r\n\r\n".encode()


@pytest.mark.real
def test_a_connection_serves_one_request_after_another(server: Server) -> None:
    """Answers and errors keep it alive; a request may come in pieces."""
    good, bad = request(due_for(None)), request(due_for(Fault.ERROR))
    with connected(server) as client:
        client.sendall(good)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        client.sendall(bad[:9])
        time.sleep(0.05)
        client.sendall(bad[9:])
        assert client.recv(1000).startswith(b"HTTP/1.1 503 ")

    given = {due_for(None): None, due_for(Fault.ERROR): Fault.ERROR}
    assert given == server.given
    assert fingerprint(given) == server.fingerprint(tuple(given))


@pytest.mark.real
def test_a_reset_reaches_the_client_as_one(server: Server) -> None:
    """The connection ends as if the server had died."""
    with connected(server) as client:
        client.sendall(request(due_for(Fault.RESET)))
        with pytest.raises(ConnectionResetError):
            client.recv(1000)


@pytest.mark.real
def test_a_stall_lasts_until_a_side_leaves() -> None:
    """There is no answer; a server that ends lets the client know."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(NEVER))
        with connected(server) as client:
            client.sendall(request(due_for(Fault.STALL)))
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(1000)
            stack.close()
            assert b"" == client.recv(1000)


@pytest.mark.real
def test_a_client_may_leave_before_its_answer(server: Server) -> None:
    """The server notices, says nothing, and serves the next."""
    for fault in (None, Fault.RESET):
        with connected(server) as client:
            client.sendall(request(due_for(fault)))
    time.sleep(0.2)
    with connected(server) as client:
        client.sendall(request(due_for(None)))
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


# -- Days in virtual time


picture: Any = load("docs/picture.py")


@functools.cache
def run_day(seconds: int, seed: int) -> tuple[Results, str]:
    """Return the figures of a day in virtual time, and its line of each second."""
    printed = io.StringIO()
    outcome, _ = picture.played(seconds, seed, Report(printed).second)
    return outcome, printed.getvalue()


def seconds_reported(printed: str) -> list[int]:
    """Return the seconds of which a report has a line."""
    return [int(second) for second in re.findall(r"^ +(\d+) s ", printed, re.M)]


@pytest.fixture(scope="module", params=[(9, 7), (9, 8), (12, 1)])
def figures(request: pytest.FixtureRequest) -> Results:
    """The figures of a day that several tests look at."""
    return run_day(*request.param)[0]


def test_equal_seeds_give_equal_figures() -> None:
    """Load, faults, jitter and the order of tasks are the same each time."""
    assert run_day(9, 7) == run_day.__wrapped__(9, 7)


def test_the_protected_client_answers_in_fair_weather(figures: Results) -> None:
    """It answers 99.5 % where the bare one loses 5 to 8 %."""
    assert 0.05 <= 1 - figures.bare.answered["fair"] <= 0.08
    assert figures.protected.answered["fair"] >= 0.995


def test_the_protected_client_has_the_shorter_tail(figures: Results) -> None:
    """Its p99 is lower, retries included."""
    assert figures.protected.p99 < figures.bare.p99


def test_the_protected_client_leaves_a_broken_server_alone(figures: Results) -> None:
    """In the outage it makes at most 15 % of the bare client's attempts."""
    bare = figures.bare.attempts_in_outage
    assert figures.protected.attempts_in_outage <= 0.15 * bare


def test_the_circuit_follows_the_outage(figures: Results) -> None:
    """It opens soon after the server has gone and closes once it is back."""
    first, *_, last = figures.circuit

    assert ("closed", "open") == (first.old, first.new)
    assert figures.outage <= first.at <= figures.outage + 1
    assert "closed" == last.new
    assert figures.recovery <= last.at <= figures.settled
    assert figures.rejected["open"] > 0


def test_the_faults_are_those_of_the_seed(figures: Results) -> None:
    """The server gave each request what the day had in store for it."""
    day = Day(figures.seconds, figures.seed)
    planned = fingerprint({due: day.fault(due) for due in day.due})

    assert planned == figures.faults


def test_every_second_of_a_day_is_reported() -> None:
    """And at most three more, for the last answers."""
    seconds = seconds_reported(run_day(9, 7)[1])
    assert list(range(1, len(seconds) + 1)) == seconds
    assert 9 <= len(seconds) <= 12


def test_the_picture_of_the_readme_is_what_the_demo_gives() -> None:
    """To the byte; `python docs/picture.py` draws it."""
    outcome, log = picture.played()
    drawn = picture.drawn(outcome, log)
    texts = [text.strip() for text in ElementTree.fromstring(drawn).itertext()]

    assert drawn == picture.PICTURE.read_text("utf-8")
    assert {"httpx alone", "6.5 % lost, p99 3000 ms"} <= set(texts)
    assert f"![{picture.title(outcome)}](docs/_static/demo.svg)" in (
        ROOT / "README.md"
    ).read_text("utf-8")


# -- One real run


def run_for_json(*arguments: str) -> tuple[Any, str]:
    """Run the demo for eight seconds; return its figures, and what stderr got."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["demo", "--json", "--seconds=8", *arguments])
    gc.collect()  # what was not closed warns now
    assert 0 == code
    return json.loads(out.getvalue()), err.getvalue()


@pytest.mark.real
def test_a_real_run_shows_its_progress_and_ends_with_json() -> None:
    """Exit code 0, a line a second on stderr, the figures on stdout."""
    figures, told = run_for_json("--seed=7")
    requests = len(Day(8, 7).due)
    assert requests == figures["bare"]["requests"] == figures["protected"]["requests"]
    assert "CircuitBreaker(window=2" in figures["pipeline"]
    assert "CircuitBreaker(window=2" in told
    assert list(range(1, 9)) == seconds_reported(told)[:8]


# -- What is printed


async def rehearse(day: Day, url: str, pipeline: Pipeline, tell: Tell) -> Log:
    """Plays a day in no time: all is answered but in the outage."""
    log = Log()
    for due in day.due:
        for requests in (log.bare, log.protected):
            requests.append(Request(due, [due], [], due + 0.02))
        if day.phase(due) is Phase.OUTAGE:
            log.bare[-1].error = "HTTPStatusError"
    tell(1, log)
    at = day.outage
    for old, new, reason in (
        ("closed", "open", "consecutive_failures"),
        ("open", "half_open", "open_time_over"),
    ):
        change = CircuitChanged("breaker", None, old, new, reason, 10, 10, 0)
        log.events.append((at := at + 1, change))
        tell(int(at), log)
    tell(day.seconds + 3, log)
    for event in (
        CallRejected("breaker", "get", "CircuitOpenError", "open", 1.0),
        CallRejected("limiter", "get", "RateLimitedError", None, 1.0),
        RetriesExhausted("retry", "get", 3, 1.0, "attempts", "ReadError"),
        RetriesExhausted("retry", "get", 1, 1.0, "not retryable", "ReadError"),
        TimedOut("timeout", "get", 0.5, 0.0, True),
    ):
        log.events.append((at, event))
    return log


@pytest.fixture
def rehearsed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a run prints, without the wait."""
    monkeypatch.setattr(demo, "play", rehearse)
    assert 0 == main(["demo"])
    return capsys.readouterr().out


def test_the_demo_fits_a_terminal(rehearsed: str) -> None:
    """No line is longer than 80 columns."""
    assert [] == [line for line in rehearsed.splitlines() if len(line) > 80]


@pytest.mark.parametrize("columns", [50, 60, 80, 200])
def test_the_demo_fits_the_terminal_that_it_has(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without bars where there is no room for them."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(demo, "play", rehearse)
    assert 0 == main(["demo"])
    lines = capsys.readouterr().out.splitlines()
    assert [] == [line for line in lines if len(line) > min(columns, 80)]
    assert (columns >= 80) == any("█" in line for line in lines)


def test_a_terminal_without_bars_gets_letters() -> None:
    """What its encoding cannot show is written in ASCII."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    report = Report(stream)
    log = Log(
        [Request(0.5, [0.5], [], 0.6)], [Request(0.5, [0.5], [], 0.6, "ReadError")]
    )
    report.second(1, log, NEVER)
    stream.seek(0)
    assert "    1 s fair        ##########   1 of 1     ..........   0 of 1" in (
        stream.read()
    )


def test_the_table_opens_with_what_matters(rehearsed: str) -> None:
    """Fair weather, the recovery, and what the server was spared in the outage."""
    lines = [line.split("  ")[1] for line in rehearsed.splitlines() if "%  " in line]
    assert lines[0].startswith("answered in fair weather")


def test_every_second_has_its_line(rehearsed: str) -> None:
    """It says what was answered, and what the circuit does."""
    lines = rehearsed.splitlines()

    for line in (
        "    1 s fair        ██████████  78 of 78    ██████████  78 of 78    closed",
        "    4 s outage      ░░░░░░░░░░   1 of 79    ██████████  79 of 79    open",
        "    5 s outage      ░░░░░░░░░░   0 of 80    ██████████  80 of 80    half-open",
        "   15 s last calls  –                       –                       half-open",
    ):
        assert line in lines


def test_the_table_says_what_came_of_it(rehearsed: str) -> None:
    """Success, latency, attempts; transitions, rejections and losses, with why."""
    told = [" ".join(line.split()) for line in rehearsed.splitlines()]

    for line in (
        "answered in fair weather 100.0% 100.0%",
        "in the 3 s of recovery 100.0% 100.0%",
        "answered in the outage 0.0% 100.0%",
        "answered, all day 70.0% 100.0%",
        "requests 960 960",
        "p99 in fair weather 20 ms 20 ms",
        "attempts per request 1.00 1.00",
        "attempts in the outage 288 288",
        "circuit 4.00 s closed → open 10 failures in a row",
        "5.00 s open → half-open time to probe",
        "rejected 1 circuit open, 1 RateLimitedError",
        "gave up 1 no attempts left",
        "cut short 1 after 0.5 s",
        "bare lost 288 answers of 503",
    ):
        assert line in told


def test_the_figures_as_json_have_stdout_for_themselves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All else goes to stderr."""
    monkeypatch.setattr(demo, "play", rehearse)
    assert 0 == main(["demo", "--json", "--seed=3"])
    out, err = capsys.readouterr()
    assert 3 == json.loads(out)["seed"]
    assert 2 == len(re.findall(" s outage ", err))


# -- The command line


def test_it_knows_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the distribution, by both ways."""
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert 0 == stopped.value.code
    assert f"resilient {resilient.__version__}\n" == capsys.readouterr().out


@pytest.mark.real
@pytest.mark.skipif(sys.platform == "win32", reason="pipes differ there")
@pytest.mark.parametrize(
    "arguments",
    ["demo --seconds=8", "demo --replicas", "dashboards {}", "simulate --list"],
)
def test_a_reader_that_has_enough_ends_it_quietly(
    arguments: str, tmp_path: Path
) -> None:
    """As `head -1` does: no traceback, and the exit code of a closed pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "error", "-m", "resilient"),
            *arguments.format(tmp_path).split(),
        ],
        stdout=writing,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    os.close(writing)
    _, complaints = process.communicate(timeout=60)
    assert (141, "") == (process.returncode, complaints)


def test_without_a_command_the_commands_are_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`python -m resilient` is a way to find out."""
    assert 0 == main([])
    assert "demo" in capsys.readouterr().out


def test_a_day_too_short_for_its_outage_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The figures would mean nothing."""
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--seconds", "7"])

    assert 2 == stopped.value.code
    assert "--seconds: must be >= 8 seconds, got 7" in capsys.readouterr().err


def without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Makes a module unfindable, and the demo not yet imported."""
    for name in [name for name in sys.modules if name.startswith("resilient.demo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)


def test_without_httpx_the_demo_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is an extra: the message says more than a traceback would."""
    without(monkeypatch, "httpx")

    with pytest.raises(SystemExit, match=r"pip install 'resilient-pipeline\[demo\]'"):
        main(["demo"])


def test_other_missing_modules_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is broken in another way is not blamed on httpx."""
    without(monkeypatch, "resilient.demo.day")

    with pytest.raises(ModuleNotFoundError, match=r"resilient\.demo\.day"):
        main(["demo"])


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lets children hear Ctrl-C: a shell's background jobs inherit deafness."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.real
@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_ends_it_cleanly() -> None:
    """No traceback, no warning, nothing left open; the shell's exit code."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "resilient", "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("    1 s "):
                process.send_signal(signal.SIGINT)
                break
        _, complaints = process.communicate(timeout=30)

    assert 130 == process.returncode
    # NB: on a loaded machine a call may overrun its Timeout, which is logged.
    told = [line for line in complaints.splitlines() if "'get' took" not in line]
    assert ["", "interrupted"] == told
