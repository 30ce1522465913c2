"""Jitter under contention: how much work it takes to get past each other.

A row with a version number. A hundred clients start together. Each reads the
row, and writes it if its version is still the one that was read; if it is
not, that is a conflict, and the client sleeps and begins anew. Only one can
win at a time; so the question is how many writes it takes until all have won.

Modelled: the row, and a network on which each of the four hops of an attempt
takes |Normal(10 ms, 2 ms)|. The row itself takes no time. Each client has a
`Retry` that has no limit and no budget: what is compared is the
backoff.

The published simulation has a base of 5 ms. It doubles that before its first
wait, where `exponential` begins with the base: hence 10 ms there, and 5 ms
for `decorrelated`, of which it is the lower bound.

Source: M. Brooker, *Exponential Backoff and Jitter*, AWS Architecture Blog,
2015, and the simulator published with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from random import Random
from statistics import mean, stdev
from typing import Final, NamedTuple

from benchmarks.simulations import _heap
from benchmarks.simulations._plot import Axis, Line, plot
from benchmarks.simulations._study import Check, Job, Report, at_least, within

from resilient import Backoff, Outcome, Retry, constant, decorrelated, exponential
from resilient._runtimes.simulated import World
from resilient.simulation._edge import Client, Request, Sent

NAME: Final = "jitter"
TITLE: Final = "Jitter under contention"

CLIENTS: Final = 100
RUNS: Final = 100
CAP: Final = 2.0

BACKOFFS: Final[dict[str, Backoff]] = {
    "none": constant(0),
    "exponential, no jitter": exponential(0.010, cap=CAP, jitter="none"),
    "equal jitter": exponential(0.010, cap=CAP, jitter="equal"),
    "full jitter": exponential(0.010, cap=CAP, jitter="full"),
    "decorrelated jitter": decorrelated(0.005, cap=CAP),
}


class ConflictError(Exception):
    """The row was written since it was read."""


class Result(NamedTuple):
    """The result of a run.

    Attributes:
        writes: How many it took.
        done: When each client had its answer, in seconds, in order.
    """

    writes: int
    done: list[float]


def jobs() -> list[Job]:
    """Every backoff, a hundred times."""
    return [(backoff, seed) for backoff in BACKOFFS for seed in range(RUNS)]


def run(backoff: str, seed: int) -> Result:
    """Let a hundred clients write the row once each."""

    def main(heap: World) -> Result:
        row = _Row(heap, seed)
        # NB: of all clients, for there is nothing in it that one of them changes.
        retry = Retry(
            ConflictError,
            attempts=None,
            within=math.inf,
            backoff=BACKOFFS[backoff],
            budget=None,
        )
        clients = Client(heap, retry, row.send, row)
        for number in range(CLIENTS):
            Request(clients, number, 0.0, number).begin()
        heap.run()
        return Result(row.writes, row.done)

    return _heap.in_world(seed, main)


class _Row:
    """The row with its version, and the network to it."""

    def __init__(self, heap: World, seed: int) -> None:
        self.writes = 0
        self.done: list[float] = []
        self._version = 0
        self._heap = heap
        self._random = Random(seed)

    def _hop(self) -> float:
        return abs(self._random.gauss(0.010, 0.002))

    def send(self, sent: Sent) -> None:
        """Take an attempt, which first reads."""
        self._heap.at(self._heap.clock.now() + self._hop(), self._read, sent)

    def _read(self, sent: Sent) -> None:
        # NB: the answer, and then the way there again.
        hops = self._hop() + self._hop()
        write = partial(self._write, self._version)
        self._heap.at(self._heap.clock.now() + hops, write, sent)

    def _write(self, read: int, sent: Sent) -> None:
        self.writes += 1
        wins = self._version == read
        self._version += wins
        outcome = Outcome() if wins else Outcome(None, ConflictError())
        self._heap.at(self._heap.clock.now() + self._hop(), sent.answer, outcome)

    def sent(self) -> None:
        """Note nothing."""

    def ended(self, due: float, outcome: Outcome | None) -> None:
        self.done.append(self._heap.clock.now())


def report(results: Mapping[Job, Result]) -> Report:
    """Hold the means of all runs against the published ones."""
    head = ["backoff", "writes", "± between runs", "seconds until all have won"]
    rows = [head]
    writes: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for backoff in BACKOFFS:
        runs = [result for (name, _), result in results.items() if name == backoff]
        counts = [result.writes for result in runs]
        writes[backoff] = mean(counts)
        seconds[backoff] = mean(result.done[-1] for result in runs)
        rows.append(
            [
                backoff,
                f"{writes[backoff]:.0f}",
                f"{stdev(counts):.0f}",
                f"{seconds[backoff]:.1f}",
            ]
        )
    lines = [
        Line(name, [(at, n + 1.0) for n, at in enumerate(results[name, 0].done)])
        for name in BACKOFFS
    ]
    return Report(
        rows,
        _checks(writes, seconds),
        plot(
            "Clients that have won, by time and backoff, in one run",
            Axis("seconds (logarithmic)", 0.03, 100, log=True),
            Axis("clients that have won", 0, CLIENTS),
            lines,
        ),
    )


def _checks(writes: Mapping[str, float], seconds: Mapping[str, float]) -> list[Check]:
    plain, full = "exponential, no jitter", "full jitter"
    return [
        within("writes, none", writes["none"], 2426, 40),
        within(f"writes, {plain}", writes[plain], 1870, 60),
        within("writes, equal jitter", writes["equal jitter"], 812, 15),
        within(f"writes, {full}", writes[full], 796, 12),
        within("writes, decorrelated jitter", writes["decorrelated jitter"], 1002, 30),
        within(f"seconds, {full}", seconds[full], 4.9, 0.4, " s"),
        within("writes, full to no jitter", writes[full] / writes[plain], 0.43, 0.03),
        at_least("seconds, no to full jitter", seconds[plain] / seconds[full], 10),
    ]
