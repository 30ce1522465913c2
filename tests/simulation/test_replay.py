"""Recorded traffic: what is read of a file, and what a run makes of it."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient import (
    Bulkhead,
    Call,
    Outcome,
    Policy,
    Priority,
    Retry,
    StaleCache,
    Timeout,
    constant,
)
from resilient.__main__ import main
from resilient.simulation import (
    Dependency,
    Outage,
    Scenario,
    Shard,
    Surge,
    Trace,
    constant_time,
    exponential_time,
    read_trace,
    simulate,
)
from resilient.simulation import _trace as trace_module
from resilient.simulation._files import parse, read
from resilient.simulation._summary import summary

LOG = """
at,latency,outcome
100,0.5,200
101.5,0.25,503
102.25,2,ok
"""


def written(folder: Path, text: str, name: str = "log.csv") -> str:
    """Write a file; return its path."""
    path = folder / name
    path.write_text(text, "utf-8")
    return str(path)


def recorded(folder: Path, text: str, format: str | None = None) -> Trace:
    """Return what a file with a text has."""
    return read_trace(written(folder, text), format)


def errors_of(trace: Trace) -> list[str]:
    """Return how each request failed."""
    return [trace.errors[end] for end in trace.ends]


# -- Files


def test_a_table_is_read(tmp_path: Path) -> None:
    """Moments count from the first; a status of 500 or more is a failure."""
    trace = recorded(tmp_path, LOG)

    assert [0, 1.5, 2.25] == list(trace.at)
    assert [0.5, 0.25, 2] == list(trace.latency)
    assert ["", "status 503", ""] == errors_of(trace)
    assert trace.keys is None
    assert trace.priorities is None
    assert 10 == trace.duration
    assert f"{trace.source}: 3 requests, 1 failed" == trace.told
    assert f"<Trace {trace.source!r}, 3 requests>" == repr(trace)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        *((status, "") for status in ("200", "302", "404", "ok", "OK", "", "-")),
        *((status, f"status {status}") for status in ("429", "499", "500", "0")),
        *(("timeout", "timeout"), ("x" * 200, "x" * 100)),
    ],
)
def test_statuses_and_words_are_outcomes(tmp_path: Path, line: str, error: str) -> None:
    """A server's errors and refusals, callers that left, and any word but ok."""
    assert [error] == errors_of(recorded(tmp_path, f"at,outcome\n1,{line}"))


def test_lines_of_json_are_read(tmp_path: Path) -> None:
    """With times, keys without what may be secret, and priorities."""
    trace = recorded(
        tmp_path,
        '\ufeff{"at": "2026-11-30T10:00:01Z", "latency": 1, "key": "/a?token=s"}\n\n'
        '{"at": "2026-11-30T12:00:02.500+02:00", "key": "/b", "priority": "batch"}\n'
        '{"at": "2026-11-30T10:00:03", "key": "/a", "outcome": 503}\n'
        '{"end": 1796032806, "latency": 2, "outcome": null}\n',
    )

    assert [0, 1.5, 2, 3] == list(trace.at)
    assert [1, 2] == [latency for latency in trace.latency if latency > 0]
    assert trace.keys is not None
    assert [0, 1, 0, 0] == list(trace.keys)
    assert 2 == trace.different_keys
    assert trace.priorities is not None
    assert [2, 0, 2, 2] == list(trace.priorities)
    assert b"token" not in pickle.dumps(trace)


NGINX = (
    '10.0.0.1 - a b [30/Nov/2026:10:00:0{} +0000] "GET /x?y=1 HTTP/1.1" {} 612'
    ' "-" "curl/8"{}'
)


def test_a_log_of_nginx_is_read(tmp_path: Path) -> None:
    """It is written at the end of requests, whose second is all that it has."""
    lines = [
        NGINX.format(4, 200, ' "10.0.0.2" 0.250'),
        NGINX.format(4, 502, " 0.500"),
        NGINX.format(6, 499, ""),
    ]
    trace = recorded(tmp_path, "\n".join(lines))

    # NB: 3.75, 4.5 - 0.5, and 6: they are spread over their second.
    assert [0, 0.25, 2.25] == list(trace.at)
    assert [0.25, 0.5] == list(trace.latency)[:2]
    assert math.isnan(trace.latency[2])
    assert ["", "status 502", "status 499"] == errors_of(trace)


ENVOY = (
    '[2026-11-30T10:00:00.{}Z] "POST /v1 HTTP/2" {} - {}154 0 226 100 "10.0.35.28"'
    ' "nsq2http" "cc21d9b0" "locations" "tcp://10.0.2.1:80"'
)


def test_a_log_of_envoy_is_read(tmp_path: Path) -> None:
    """In today's default format, and in that of before."""
    lines = ENVOY.format("310", 200, ""), ENVOY.format("810", 0, 'via_upstream - "-" ')
    trace = recorded(tmp_path, "\n".join(lines))

    assert [0, 0.5] == pytest.approx(list(trace.at))
    assert [0.226, 0.226] == list(trace.latency)
    assert ["", "status 0"] == errors_of(trace)


def span(begin: int, kind: int = 3, **more: object) -> dict[str, object]:
    """Return a span of a quarter of a second."""
    end = str(begin + 250_000_000)
    return {
        "kind": kind,
        "startTimeUnixNano": str(begin),
        "endTimeUnixNano": end,
        **more,
    }


def test_spans_are_read(tmp_path: Path) -> None:
    """Those of clients; one fails by its status code, or by its status."""
    attributes = [
        {"key": "url.full", "value": {"stringValue": "x"}},
        {"key": "http.response.status_code", "value": {"intValue": "503"}},
    ]
    spans = [
        span(10**18),
        span(10**18, kind=2),
        span(10**18 + 10**9, attributes=attributes),
        span(10**18 + 2 * 10**9, status={"code": 2}),
    ]
    message = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
    trace = recorded(tmp_path, json.dumps(message))

    assert [0, 1, 2] == list(trace.at)
    assert [0.25, 0.25, 0.25] == list(trace.latency)
    assert ["", "status 503", "error"] == errors_of(trace)


def test_a_trace_out_of_order_is_sorted_and_its_gap_is_kept(tmp_path: Path) -> None:
    """And both are told."""
    trace = recorded(tmp_path, "at,latency\n60.5,3\n1.5,1\n2.5,2\n2.25,4")

    assert [0, 0.75, 1, 59] == list(trace.at)
    assert [1, 4, 2, 3] == list(trace.latency)
    assert trace.told.endswith(
        ": 4 requests; 2 lines were out of order and are sorted;"
        " none came for 58 s from second 1"
    )


def test_whole_seconds_are_spread(tmp_path: Path) -> None:
    """A log that has seconds alone says nothing of bursts within them."""
    trace = recorded(tmp_path, "at\n7\n7\n8\n7\n7\n")
    assert [0, 0.25, 0.5, 0.75, 1] == list(trace.at)


ROW = '{"at": 1}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", " has no requests"),
        ("at,latency\n", " has no requests"),
        ("at,latencyy\n1,2", ", line 1: column `latencyy` is not known: did you mean"),
        ("at,user\n1,2", ", line 1: column `user` is not known: there are at, end, la"),
        (
            "latency\n1",
            ", line 1: columns must have `at` or `end`, and not both, got l",
        ),
        ("at,end\n1,2", ", line 1: columns must have `at` or `end`, and not both, got"),
        ("at,at\n1,2", ", line 1: a column is named twice, got 'at,at'"),
        (
            "at,latency\n1",
            ", line 2: a line must have 2 values, as the first has, got 1",
        ),
        ('at\n"1', ", line 2: no line of CSV: unexpected end of data"),
        ("at,latency\n,2", ", line 2: `at` or `end` is missing"),
        ("at,latency\n\n1,-0.5", ", line 3: `latency` must be >= 0 seconds, got -0.5"),
        ("at,latency\n1,nan", ", line 2: `latency` must be >= 0 seconds, got nan"),
        ("at,latency\n1,slow", ", line 2: `latency` must be seconds, got 'slow'"),
        (
            "at,latency\n1,86401",
            ", line 2: `latency` must be <= 86400 seconds, got '86",
        ),
        ("at\n-1", ", line 2: `at` must be >= 0 seconds, got -1.0"),
        ("at\ninf", ", line 2: `at` must be a finite time in seconds, got inf"),
        ("at\n1796032806000", ", line 2: `at` must be in seconds, got '1796032806000'"),
        ("at\n1\n604802", ", line 3: `at` must be within 7 days of all others, in sec"),
        ("end\n1\n604802", ", line 3: `end` must be within 7 days of all others, in s"),
        (
            "at\nnoon",
            ", line 2: `at` must be seconds or a time as ISO 8601 writes it, ",
        ),
        (
            "at,outcome\n1,99",
            ", line 2: `outcome` must be a status from 100 to 599, 0 ",
        ),
        (
            "at,outcome\n1,6000",
            ", line 2: `outcome` must be a status from 100 to 599, ",
        ),
        ("at,priority\n1,low", ", line 2: `priority` must be one of critical, normal,"),
        (
            f'{ROW}{{"at": 2, "laatency": 1}}',
            ", line 2: column `laatency` is not known",
        ),
        (
            f'{ROW}{{"at": true}}',
            ", line 2: `at` must be seconds or a time as ISO 8601",
        ),
        (f'{ROW}{{"at": 1{"0" * 400}}}', ", line 2: `at` must be seconds or a time as"),
        (
            f'{ROW}{{"at": 1, "latency": [1]}}',
            ", line 2: `latency` must be seconds, got",
        ),
        (
            f'{ROW}{{"at": 1, "outcome": 2.5}}',
            ", line 2: `outcome` must be a status fr",
        ),
        (f"{ROW}[1]", ", line 2: a line must be an object of JSON, got '[1]'"),
        (f"{ROW}{'[' * 9999}", ", line 2: a line must be an object of JSON, got '[[["),
        (NGINX.format(4, 200, "") + "\nx", ", line 2: no line of nginx's combined log"),
        (
            NGINX.format(4, 200, "").replace("Nov", "Nev"),
            ", line 1: a time must be as in 10/Oct/2000:13:55:36 -0700, got '30/Nev/20",
        ),
        (ENVOY.format(3, 200, "") + "\nx", ", line 2: no line of Envoy's default log"),
        ('{"resourceSpans": 1}', ", line 1: no OTLP/JSON of spans, got '{\"resource"),
    ],
)
def test_what_is_wrong_in_a_trace_is_told(tmp_path: Path, text: str, said: str) -> None:
    """By file, line, column, rule and value."""
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(f"{path}{said}")):
        read_trace(path)


def test_a_format_is_one_that_is_known(tmp_path: Path) -> None:
    """And where it is given, nothing is guessed from the first line."""
    with pytest.raises(ValueError, match='`format` must be "csv", "jsonl", "nginx"'):
        recorded(tmp_path, "", "xml")
    with pytest.raises(ValueError, match="line 2: no line of nginx's combined log"):
        recorded(tmp_path, LOG, "nginx")


@pytest.mark.parametrize(
    ("limit", "most", "said"),
    [
        ("MOST_ROWS", 2, "line 4: a trace must have <= 2 requests: cut it to the min"),
        (
            "MOST_KEYS",
            2,
            "line 4: `key` must have <= 2 different values: give a tenant",
        ),
        ("LONGEST_LINE", 5, "line 1: a line must have <= 5 bytes, and a file <= "),
        ("MOST_BYTES", 13, "line 3: a line must have <= 16777216 bytes, and a file <="),
    ],
)
def test_what_a_trace_takes_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, said: str
) -> None:
    """A file that is too large is refused where it becomes so."""
    monkeypatch.setattr(trace_module, limit, most)
    with pytest.raises(ValueError, match=re.escape(said)):
        recorded(tmp_path, "at,key\n1,a\n2,b\n3,c\n")


def test_errors_that_are_all_different_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column of messages, each with a number of its own, is one error."""
    monkeypatch.setattr(trace_module, "_MOST_ERRORS", 3)
    trace = recorded(tmp_path, "at,outcome\n1,a\n2,b\n3,c\n4,d\n5,a\n")
    assert ["a", "b", "failed", "failed", "a"] == errors_of(trace)


def test_what_is_kept_of_a_request_is_a_few_numbers(tmp_path: Path) -> None:
    """Some thirty bytes, however long its line."""
    rows = "".join(f"{at},0.5,{'k' * 500}?{at}\n" for at in range(5000))
    path = written(tmp_path, f"at,latency,key\n{rows}")
    tracemalloc.start()
    try:
        trace = read_trace(path)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 5000 == len(trace.at)
    assert 1 == trace.different_keys
    assert 300_000 > kept
    # NB: the file has two and a half megabytes.
    assert 2_000_000 > peak


# -- What it comes to


def test_the_service_is_that_of_quiet_windows(tmp_path: Path) -> None:
    """In busy ones latencies have the queue in them; failures are none of work."""
    quiet = [f"{at},{0.1 + at / 1000:.3f},200" for at in range(100)]
    busy = [f"{100 + at / 100:.2f},9,200" for at in range(99)]
    trace = recorded(
        tmp_path, "\n".join(["at,latency,outcome", *quiet, *busy, "0,7,500"])
    )
    service = trace.service()

    assert 0.15 == pytest.approx(service.at(0.5), abs=0.002)
    assert 0.199 == pytest.approx(service.at(0.99), abs=0.002)


def test_a_service_that_is_always_as_long_is_constant(tmp_path: Path) -> None:
    """And where there is none to be seen it is not invented."""
    assert constant_time(0.5) == recorded(tmp_path, "at,latency\n1,.5\n2,.5").service()
    with pytest.raises(ValueError, match="has no latencies of answers to fit"):
        recorded(tmp_path, "at,latency,outcome\n1,1,500").service()


def test_a_moment_is_near_some_request(tmp_path: Path) -> None:
    """Those around it, its bounds included; in a gap the nearest."""
    trace = recorded(tmp_path, "at\n0.5\n5.5\n30.5")

    assert [0, 1, 1] == [trace.place_near(0, 5, share) for share in (0, 0.5, 0.99)]
    assert [1, 2] == [trace.place_near(now, 5, 0) for now in (17, 18)]
    assert [2, 2] == [trace.place_near(now, 5, 0) for now in (35, 99)]


def test_requests_come_when_they_came(tmp_path: Path) -> None:
    """Of a model that does not queue, as many a second as are recorded."""
    trace = recorded(tmp_path, "at\n0.5\n0.75\n3.5\n12.5")
    model = Dependency(servers=None, service=constant_time(0.1))
    scenario = Scenario("x", trace=trace, clients=1, dependency=model)
    result = simulate(Timeout(1), scenario, seeds=1)

    assert 13 == scenario.duration
    assert 4 == scenario.requests
    assert "4 recorded requests" == scenario.load
    assert [2, 0, 0, 1, *[0] * 8, 1] == result.runs[0].offered
    assert 1 == result.goodput


def test_a_shorter_run_has_fewer_requests(tmp_path: Path) -> None:
    """Those of its seconds."""
    trace = recorded(tmp_path, "at\n0.5\n9.5\n10.25\n12.5")
    scenario = Scenario("x", trace=trace, duration=10, clients=1)
    result = simulate(Timeout(1), scenario, seeds=1)

    assert 3 == scenario.requests == sum(result.runs[0].offered)


def test_recorded_outcomes_are_given_again(tmp_path: Path) -> None:
    """Each request is answered as it was, whatever else is asked."""
    trace = recorded(
        tmp_path, "at,latency,outcome\n0.5,0.25,200\n3.5,2,200\n6.5,0.5,503\n9.5,,200"
    )
    scenario = Scenario("x", trace=trace, dependency=Dependency(recorded=trace))
    plain = simulate(Bulkhead(9), scenario, seeds=1).runs[0]
    limited = simulate(Timeout(1), scenario, seeds=1).runs[0]

    assert [0, 0.25, 2] == plain.latencies(0, 10)
    assert [0, 0.25] == limited.latencies(0, 10)
    assert 1 == plain.ends["failed"][6] == limited.ends["failed"][6]
    assert 1 == limited.ends["timeout"][3]
    assert 0 == plain.worked == plain.wasted


def test_a_further_attempt_ends_as_one_of_about_its_time(tmp_path: Path) -> None:
    """So a retry helps where one call failed, and not in an outage."""
    rows = [f"{at / 4},0.1,{503 if at % 4 else 200}" for at in range(40)]
    rows += [f"{60 + at / 4},0.1,{503 if at % 4 == 0 else 200}" for at in range(400)]
    trace = recorded(tmp_path, "\n".join(["at,latency,outcome", *rows]))
    retry = Retry(ConnectionError, attempts=2, backoff=constant(0), budget=None)
    scenario = Scenario("x", trace=trace, dependency=Dependency(recorded=trace))
    seen = simulate(retry, scenario, seeds=range(1, 8))
    bad, good = (
        sum(sum(run.ends["answered"][span]) for run in seen.runs)
        / sum(sum(run.offered[span]) for run in seen.runs)
        for span in (slice(0, 10), slice(70, 150))
    )

    # A quarter, and one in four of the others; three quarters, and so of those.
    assert 0.4375 == pytest.approx(bad, abs=0.08)
    assert 0.9375 == pytest.approx(good, abs=0.02)


def test_recorded_outcomes_answer_another_load(tmp_path: Path) -> None:
    """As those of about the time did."""
    trace = recorded(
        tmp_path, "at,latency,outcome\n0.5,.1,200\n10.5,.1,503\n20.5,.1,200"
    )
    model = Dependency(recorded=trace, error=OSError)
    scenario = Scenario(
        "x", rate=10, arrivals="constant", duration=20, dependency=model
    )
    [seen] = simulate(Timeout(1), scenario, seeds=1).runs

    assert 10 == seen.ends["answered"][2] == seen.ends["failed"][9]


def test_keys_and_priorities_are_those_of_the_trace(tmp_path: Path) -> None:
    """A cache answers the second of a key; a bulkhead keeps what matters."""
    kinds = "critical", "batch"
    rows = "".join(f"{at / 10},{at % 2},{kinds[at % 2]}\n" for at in range(100))
    trace = recorded(tmp_path, f"at,key,priority\n{rows}")
    scenario = Scenario("x", trace=trace, clients=1)
    cached = simulate(StaleCache(99, 99), scenario, seeds=1).runs[0]

    assert 2 == sum(cached.attempts) < sum(cached.ends["remembered"])
    assert 2 == scenario.different_keys
    told = set[Priority]()

    class Door(Policy[Any]):
        """Notes how important calls are."""

        async def around(self, proceed: Any, call: Call) -> Outcome:
            told.add(call.priority)
            outcome: Outcome = await proceed(call)
            return outcome

    simulate(Door("door"), scenario, seeds=1)
    assert {Priority.BATCH, Priority.CRITICAL} == told


def test_a_share_of_recorded_keys_fails(tmp_path: Path) -> None:
    """As of those that are drawn."""
    rows = "".join(f"{at / 10},{at % 5}\n" for at in range(100))
    trace = recorded(tmp_path, f"at,key\n{rows}")
    scenario = Scenario("x", trace=trace, events=[Shard(0, 10, 0.2)])
    [seen] = simulate(Timeout(1), scenario, seeds=1).runs

    assert 20 == sum(seen.ends["failed"])


def test_a_replay_is_the_same_in_other_processes(tmp_path: Path) -> None:
    """The trace goes with the run, as one object for load and outcomes."""
    trace = recorded(tmp_path, LOG)
    scenario = Scenario("x", trace=trace, dependency=Dependency(recorded=trace))
    sent = pickle.loads(pickle.dumps(scenario))

    assert sent.trace is sent.dependency.recorded
    assert list(trace.at) == list(sent.trace.at)
    assert trace.told == sent.trace.told


def test_what_has_no_meaning_in_a_replay_is_refused(tmp_path: Path) -> None:
    """Where a number would be given and not heeded."""
    trace = recorded(tmp_path, "at,latency,key\n1,1,a")
    bare = recorded(tmp_path, "at\n1")
    again = Dependency(recorded=trace)

    with pytest.raises(TypeError, match="`trace` must be what read_trace"):
        Scenario("x", trace="log.csv")  # type: ignore[arg-type]  # what is refused
    with pytest.raises(TypeError, match="`recorded` must be what read_trace"):
        Dependency(recorded="log.csv")  # type: ignore[arg-type]  # what is refused
    with pytest.raises(ValueError, match="`users` has no meaning with a `trace`"):
        Scenario("x", trace=trace, users=3)
    with pytest.raises(ValueError, match="`keys` has no meaning with a `trace` that"):
        Scenario("x", trace=trace, keys=3)
    assert 3 == Scenario("x", trace=bare, keys=3).different_keys
    with pytest.raises(ValueError, match=r"Surge.* has no meaning for `trace`"):
        Scenario("x", trace=trace, events=[Surge(1, 2, 2)])
    with pytest.raises(ValueError, match=r"Outage.* has no meaning for what is reco"):
        Scenario("x", trace=trace, dependency=again, events=[Outage(1, 2)])
    with pytest.raises(ValueError, match="`servers` has no meaning with `recorded`"):
        Dependency(recorded=trace, servers=3)
    with pytest.raises(ValueError, match="`service` has no meaning with `recorded`"):
        Dependency(recorded=trace, service=constant_time(1))
    with pytest.raises(ValueError, match=r"`recorded` needs latencies, and .* none"):
        Dependency(recorded=bare)


def test_a_report_says_what_a_replay_leaves_out(tmp_path: Path) -> None:
    """And what was read."""
    trace = recorded(tmp_path, LOG)
    scenario = Scenario("x", trace=trace, dependency=Dependency(recorded=trace))
    result = simulate(Timeout(1), scenario, seeds=1)
    result.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")

    said = summary([result]).splitlines()
    assert said[1].startswith("Real policies, recorded answers: what policies do chan")
    assert trace.told == said[2]
    assert "what policies do changes nothing at the server" in page
    assert "3 requests, 1 failed" in page


# -- Scenario files and the command


def test_a_file_names_what_is_replayed(tmp_path: Path) -> None:
    """From its own folder; how long work takes is fitted, unless it is said."""
    written(tmp_path, "at,latency\n1.5,.5\n2.5,.5")
    text = 'version = 1\n[load]\ntrace = "log.csv"\nclients = 2\n'
    found = read(written(tmp_path, text, "load.toml")).scenario
    told = "[dependency]\nservice = { exponential = 2 }"
    other = parse(f"{text}{told}", str(tmp_path / "x.toml")).scenario
    again = parse(f'{text}[dependency]\nrecorded = "log.csv"', str(tmp_path / "x.toml"))

    assert 10 == found.duration
    assert 2 == found.requests
    assert constant_time(0.5) == found.dependency.service
    assert exponential_time(2) == other.dependency.service
    assert again.scenario.trace is again.scenario.dependency.recorded
    assert again.scenario.dependency == Dependency(recorded=again.scenario.trace)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[load]\ntrace = "no.csv"', "x.toml: `load.trace` cannot be read: [Errno 2]"),
        ("[load]\ntrace = 1", "x.toml: `load.trace` must be the path of a file, got 1"),
        ("[dependency]\nrecorded = 1", "`dependency.recorded` must be the path of a f"),
        ('[load]\ntrace = "bad.csv"', "bad.csv, line 2: `at` must be >= 0 seconds"),
        (
            '[dependency]\nrecorded = "x"\nnodes = 1',
            "`dependency.nodes` has no meaning",
        ),
        ('[load]\ntrace = "bad.csv"\nrate = 1', "`load.rate` has no meaning with `tra"),
        (
            '[load]\ntrace = "bad.csv"\narrivals = "poisson"',
            "`load.arrivals` has no meaning with `trace`",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    """By the file, and that of the trace."""
    written(tmp_path, "at\n-1", "bad.csv")
    path = written(tmp_path, f"version = 1\n{text}", "x.toml")
    with pytest.raises(ValueError, match=re.escape(said)):
        read(path)


SHOP = """
from resilient import *

catalogue = Pipeline(Retry(ConnectionError, TimeoutExceededError), Timeout(1))
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder with a policy and a log of a user's, and the process in it."""
    (tmp_path / "replayed_shop.py").write_text(SHOP, "utf-8")
    rows = "".join(f"{at / 10},0.1,{503 if at % 10 else 200}\n" for at in range(200))
    written(tmp_path, f"at,latency,outcome\n{rows}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "replayed_shop:catalogue"
    sys.modules.pop("replayed_shop", None)


def replayed(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, list[str]]:
    """Run the command; return its exit code, and what it printed."""
    code = main(["simulate", "--seeds", "1", *arguments])
    printed = capsys.readouterr()
    return code, (printed.out + printed.err).splitlines()


def test_outcomes_are_replayed_on_the_command_line(
    capsys: pytest.CaptureFixture[str], shop: str
) -> None:
    """The default: what would these policies have made of those calls?"""
    code, said = replayed(capsys, "--replay", "log.csv", "-p", shop, "--json", "x.json")

    assert 0 == code
    assert "log: 200 recorded requests for 20 s, 10 clients, 1 seed" == said[0]
    assert "recorded answers: what policies do changes nothing" in said[1]
    assert "log.csv: 200 requests, 180 failed" == said[2]
    found = json.loads(Path("x.json").read_text("utf-8"))
    assert ["log.csv: 200 requests, 180 failed"] == found["scenario"]["traces"]
    assert found["scenario"]["rate"] is None


def test_load_is_replayed_on_the_command_line(
    capsys: pytest.CaptureFixture[str], shop: str
) -> None:
    """With the number of servers, or against the dependency of a scenario."""
    load = "--replay", "log.csv", "--replay-as", "load", "-p", shop
    code, said = replayed(capsys, *load, "--servers", "2", "--format", "csv")
    assert 0 == code
    assert "log: 200 recorded requests for 20 s, 10 clients, 1 seed" == said[0]
    assert "modelled load and dependency" in said[1]

    Path("x.toml").write_text(
        "version = 1\n[load]\nclients = 3\n[checks]\ngoodput = 0.9", "utf-8"
    )
    code, said = replayed(capsys, "x.toml", *load)
    assert 0 == code
    assert "x: 200 recorded requests for 20 s, 3 clients, 1 seed" == said[0]
    assert said[-1].startswith("ok     replayed_shop:catalogue: goodput 1 >= 0.9")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--replay", "no.csv"], "No such file or directory: 'no.csv'"),
        (["--replay", "bad.csv"], "bad.csv, line 3: `latency` must be >= 0 seconds"),
        (["--servers", "3"], "--format and --servers have no meaning without --replay"),
        (["--format", "csv"], "--format and --servers have no meaning without --repl"),
        (
            ["--replay", "log.csv", "--servers", "3"],
            "--servers has no meaning for --replay-as outcomes",
        ),
        (
            ["--replay", "log.csv", "--replay-as", "load"],
            "--replay-as load needs a scenario, or --servers: on how many requests",
        ),
        (["--replay", "log.csv", "retry-storm"], "`events`: Outage("),
    ],
)
def test_what_is_wrong_is_told(
    capsys: pytest.CaptureFixture[str], shop: str, arguments: list[str], said: str
) -> None:
    """With exit code 2, before anything runs."""
    written(Path(), "at,latency\n1,1\n2,-1", "bad.csv")
    code, printed = replayed(capsys, *arguments)

    assert 2 == code
    assert printed[-1].startswith("resilient simulate: ")
    assert said in printed[-1]
