"""``python -m resilient demo``: a bare and a protected client on one bad day.

`day` draws the load and the faults, `server` acts them out, `load` sends the
requests, `figures` counts, `report` prints. `replicas` is the second act, which
`replicas_report` prints. It needs httpx.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
from contextlib import ExitStack
from typing import Any, TextIO

import attrs

from resilient.demo import replicas
from resilient.demo.day import Day
from resilient.demo.figures import results
from resilient.demo.load import Log, play, protection
from resilient.demo.replicas_report import ReplicasReport
from resilient.demo.report import Report
from resilient.demo.server import Server


def run(seconds: int, seed: int, *, as_json: bool) -> None:
    """Run the demo and print its results.

    Args:
        seconds: How long requests come in; the last answers may take 3 s more.
        seed: What load and faults are drawn from.
        as_json: Print the figures as JSON, and everything else to stderr.
    """
    report = Report(_stream(as_json=as_json))
    day, pipeline = Day(seconds, seed), protection()
    report.plan(day, pipeline)

    def tell(now: int, log: Log) -> None:
        report.second(now, log, day)

    with Server(day) as server:
        log = asyncio.run(play(day, server.url, pipeline, tell))
    outcome = results(day, repr(pipeline), server.fingerprint(day.due), log)
    if as_json:
        _print_json(outcome)
    else:
        report.table(outcome)


def run_replicas(seconds: int, seed: int, *, as_json: bool) -> None:
    """Run the second act and print its results.

    Args:
        seconds: How long requests come in; the last answers may take 3 s more.
        seed: What load and faults are drawn from.
        as_json: Print the figures as JSON, and everything else to stderr.
    """
    report = ReplicasReport(_stream(as_json=as_json))
    day = replicas.Rollout(seconds, seed)
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(Server(replica))
            for name, replica in day.replicas.items()
        }
        urls = {name: server.url for name, server in servers.items()}
        balance = replicas.balance_of(urls)
        pipeline = replicas.protection(balance)
        report.plan(day, pipeline)

        def tell(now: int, log: Log) -> None:
            report.second(now, log, day, balance)

        def roll(up: bool) -> None:
            rolled = servers[replicas.ROLLED]
            (rolled.start if up else rolled.stop)()

        log = asyncio.run(replicas.play(day, urls, balance, pipeline, tell, roll))
    outcome = replicas.results(day, repr(pipeline), log)
    if as_json:
        _print_json(outcome)
    else:
        report.table(outcome)


def _stream(*, as_json: bool) -> TextIO:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a bar shows a question mark.
            stream.reconfigure(errors="replace")
    return sys.stderr if as_json else sys.stdout


def _print_json(outcome: Any) -> None:
    print(json.dumps(attrs.asdict(outcome), indent=2))
