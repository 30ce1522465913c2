"""``python -m resilient demo``: a bare and a protected client on one bad day.

`day` draws the load and the faults, `server` acts them out, `load` sends the
requests, `figures` counts, `report` prints. It needs httpx.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys

import attrs

from resilient.demo.day import Day
from resilient.demo.figures import results
from resilient.demo.load import Log, play, protection
from resilient.demo.report import Report
from resilient.demo.server import Server


def run(seconds: int, seed: int, *, as_json: bool) -> None:
    """Run the demo and print its results.

    Args:
        seconds: How long requests come in; the last answers may take 3 s more.
        seed: What load and faults are drawn from.
        as_json: Print the figures as JSON, and everything else to stderr.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a bar shows a question mark.
            stream.reconfigure(errors="replace")
    report = Report(sys.stderr if as_json else sys.stdout)
    day, pipeline = Day(seconds, seed), protection()
    report.plan(day, pipeline)

    def tell(now: int, log: Log) -> None:
        report.second(now, log, day)

    with Server(day) as server:
        log = asyncio.run(play(day, server.url, pipeline, tell))
    outcome = results(day, repr(pipeline), server.fingerprint(day.due), log)
    if as_json:
        print(json.dumps(attrs.asdict(outcome), indent=2))
    else:
        report.table(outcome)
