"""The hedge storm: asking twice makes late what is then asked for twice.

Some servers are busy for 60 % of the time. A call that has no answer after
74.5 ms, which is the 95th percentile of a good day, asks another server as
well. For half a minute all work takes 30 % longer: more answers are late,
more copies are sent, and those make more answers late. If nothing bounds
them, that does not end with the half minute.

Modelled: servers of one worker and one line each, first come first served;
an exponential time for each piece of work, of 10 ms on average; requests that
come at random (Poisson) to a server drawn at random, and hedges that go to
another one. `Hedge` cancels the copies that it no longer needs; servers work
on them all the same, except in one row: there a copy leaves its line when it
is cancelled, unless the server has begun it.

There are five servers, and twenty where nothing bounds the hedges: with five,
chance alone sets that storm off within the first minute, and there would be
no before to compare with. Everything else is the same with twenty.

Source: J. Dean and L. A. Barroso, *The Tail at Scale*, CACM 2013, for hedging
and its delay; N. Bronson and others, *Metastable Failures in Distributed
Systems*, HotOS 2021, for what makes a storm stay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from statistics import mean, median
from typing import Final, NamedTuple

from benchmarks.simulations import _heap
from benchmarks.simulations._load import poisson
from benchmarks.simulations._plot import Axis, Line, plot
from benchmarks.simulations._study import (
    Check,
    Job,
    Report,
    after,
    at_least,
    within,
)

from resilient import Hedge, Outcome, Pipeline, Policy, RetryBudget
from resilient._runtimes import clock
from resilient._runtimes.simulated import World
from resilient.simulation._edge import Sent

NAME: Final = "hedge-storm"
TITLE: Final = "The hedge storm"

FEW, MANY = 5, 20
SERVICE: Final = 0.010
LOAD: Final = 0.6
DELAY: Final = 0.0745
SLOWER: Final = 1.3
SLOW: Final = (60, 90)
SEEDS: Final = range(1, 11)
LATER: Final = (130, 158)
ANSWERED: Final = Outcome()

NONE: Final = "no hedge"
UNBOUND: Final = "hedge, no bound"
FIVE: Final = "hedge, budget 5 %"
TEN: Final = "hedge, budget 10 %"
CANCELLED: Final = "hedge, losers leave the line"

HEDGES: Final[dict[str, Callable[[], Policy]]] = {
    NONE: Pipeline,
    UNBOUND: lambda: Hedge(DELAY, budget=None),
    FIVE: lambda: Hedge(DELAY, budget=RetryBudget(0.05, 10)),
    TEN: lambda: Hedge(DELAY, budget=RetryBudget(0.10, 10)),
    CANCELLED: lambda: Hedge(DELAY, budget=None),
}


class Second(NamedTuple):
    """Of the requests that were due in one second.

    Attributes:
        requests: How many there were.
        copies: How many copies were sent in that second, first ones included.
        p50: The median of their latencies, in seconds.
    """

    requests: int
    copies: int
    p50: float


def jobs() -> list[Job]:
    """Every kind of hedge, with ten seeds; the longest runs first."""
    servers = {UNBOUND: MANY}
    ends = {UNBOUND: 160, NONE: 160}
    return [
        (hedge, seed, servers.get(hedge, FEW), SLOW, ends.get(hedge, 120))
        for hedge in sorted(HEDGES, key=UNBOUND.__ne__)
        for seed in SEEDS
    ]


def run(
    hedge: str, seed: int, servers: int, slow: tuple[int, int], until: int
) -> list[Second]:
    """Have servers asked that are slower for a while.

    Args:
        hedge: Which of `HEDGES`.
        seed: Seeds arrivals, service times and the choice of servers.
        servers: How many there are.
        slow: Seconds between which work takes longer.
        until: Seconds that the run lasts.
    """
    work, choice = Random(f"service {seed}"), Random(f"servers {seed}")
    all_servers = [Server(slow, work, hedge == CANCELLED) for _ in range(servers)]
    record = _Record(all_servers, until, choice)
    arrivals = poisson(servers * LOAD / SERVICE, until, Random(f"arrivals {seed}"))
    _heap.run(seed, [HEDGES[hedge]()], record.send, arrivals, record)
    return record.seconds()


class Server:
    """One worker, and a line of copies of requests."""

    def __init__(self, slow: tuple[int, int], random: Random, forgives: bool) -> None:
        self._slow = slow
        self._random = random
        # Whether a copy leaves the line when it is cancelled.
        self._forgives = forgives
        self._line: deque[Sent] = deque()
        self._at_work = False

    def send(self, heap: World, copy: Sent) -> None:
        """Take a copy into the line."""
        self._line.append(copy)
        if not self._at_work:
            self._begin(heap)

    def _begin(self, heap: World) -> None:
        line, now = self._line, heap.clock.now()
        # NB: one that is sent now is waited for from now on.
        while self._forgives and self._at_work and line and not line[0].is_waiting():
            line.popleft()
        self._at_work = bool(line)
        if not self._at_work:
            return
        seconds = self._random.expovariate(1 / SERVICE)
        if self._slow[0] <= now < self._slow[1]:
            seconds *= SLOWER
        heap.at(now + seconds, partial(self._end, heap), line.popleft())

    def _end(self, heap: World, copy: Sent) -> None:
        copy.answer(ANSWERED)
        self._begin(heap)


class _Record:
    """The servers that were asked, and what is noted by the second."""

    def __init__(self, servers: Sequence[Server], until: int, random: Random) -> None:
        self._servers = servers
        self._random = random
        # Of requests that were sent once: where to.
        self._asked: dict[int, Server] = {}
        self._copies = [0] * until
        self._latencies: list[list[float]] = [[] for _ in range(until)]

    def send(self, heap: World, copy: Sent) -> None:
        """Send a copy to a server that was not asked for that request."""
        asked = self._asked.pop(copy.request, None)
        server = self._random.choice(self._servers)
        while server is asked:
            server = self._random.choice(self._servers)
        if asked is None:
            self._asked[copy.request] = server
        server.send(heap, copy)

    def sent(self) -> None:
        now = clock.now()
        if now < len(self._copies):
            self._copies[int(now)] += 1

    def ended(self, due: float, outcome: Outcome | None) -> None:
        self._latencies[int(due)].append(clock.now() - due)

    def seconds(self) -> list[Second]:
        """Return what was seen."""
        return [
            Second(len(took), sent, median(took) if took else 0.0)
            for took, sent in zip(self._latencies, self._copies, strict=True)
        ]


def before(seconds: list[Second], slow: tuple[int, int] = SLOW) -> float:
    """Return the median latency, in seconds, before work takes longer."""
    return median(second.p50 for second in seconds[slow[0] // 6 : slow[0]])


def recovered(seconds: list[Second], slow: tuple[int, int] = SLOW) -> int | None:
    """Return how many seconds after the slow time all was well again.

    That is the first second in which, and over ten seconds from which, the
    median is at most half as long again as before. None: not within the run.
    """
    limit = 1.5 * before(seconds, slow)
    for first in range(slow[1], len(seconds) - 9):
        ten = [second.p50 for second in seconds[first : first + 10]]
        if max(ten[0], median(ten)) <= limit:
            return first - slow[1]
    return None


def extra(seconds: list[Second]) -> float:
    """Return how many copies were sent beyond one for each request, a share."""
    requests = sum(second.requests for second in seconds)
    return sum(second.copies for second in seconds) / requests - 1


def report(results: Mapping[Job, list[Second]]) -> Report:
    """Hold which storms end against what was published."""
    head = ["clients", "p50 before", "in the slow time", "well again", "extra copies"]
    rows = [head]
    checks: list[Check] = []
    lines: list[Line] = []
    for hedge in HEDGES:
        runs = [seconds for job, seconds in results.items() if job[0] == hedge]
        well = [recovered(seconds) for seconds in runs]
        slow = median(second.p50 for each in runs for second in each[slice(*SLOW)])
        copies = mean(map(extra, runs))
        rows.append(
            [
                hedge,
                f"{1000 * mean(map(before, runs)):.0f} ms",
                f"{1000 * slow:.0f} ms",
                after(well),
                f"{100 * copies:.0f} %",
            ]
        )
        lines.append(
            Line(hedge, [(at + 0.5, 1000 * s.p50) for at, s in enumerate(runs[0])])
        )
        if hedge == NONE:
            later = mean(second.p50 for each in runs for second in each[slice(*LATER)])
            checks.append(
                within(f"{NONE}: p50 40–68 s later", 1000 * later, 17, 1, " ms")
            )
        elif hedge == UNBOUND:
            checks += [
                at_least(
                    f"{hedge}: runs that do not recover, of {len(runs)}",
                    sum(each is None for each in well),
                    9,
                ),
                within(f"{hedge}: extra copies", 100 * copies, 65, 5, " %"),
            ]
        else:
            checks.append(
                at_least(
                    f"{hedge}: runs that recover within 1 s, of {len(runs)}",
                    sum(each is not None and each <= 1 for each in well),
                    10,
                )
            )
    return Report(
        rows,
        checks,
        plot(
            "Median latency by the second, by kind of hedge",
            Axis("seconds", 40, 160),
            Axis("p50, ms (logarithmic)", 10, 100_000, log=True),
            lines,
            shaded=SLOW,
        ),
    )
