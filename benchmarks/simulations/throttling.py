"""Client throttling: what refusing costs, and who should pay for it.

A backend can do a thousand requests a second, and refuse four thousand. Asked
for four thousand it refuses, has no time for anything else, and answers
no call. It cannot mend that: its clients have to.

Modelled: one processor and one line of what it has yet to do, first come
first served. A request that finds less than 50 ms of work in line is accepted
and takes 1 ms; any other is refused, which takes 0.25 ms, in the same line.
Fifty clients with policies of their own make the requests, which come at
random (Poisson), and retry nothing; what is not answered within a second is
too late. In the outage everything is refused for 130 s, whatever the load.

Source: *Site Reliability Engineering*, O'Reilly 2016, chapter 21, "Handling
Overload". The "book" below is what it describes: a window of two minutes, 1
for padding, no probes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from random import Random
from typing import Final, NamedTuple, TypeAlias

from benchmarks.simulations import _heap
from benchmarks.simulations._load import poisson
from benchmarks.simulations._plot import Axis, Line, plot
from benchmarks.simulations._study import (
    Check,
    Job,
    Report,
    at_most,
    within,
)

from resilient import AdaptiveThrottle, Outcome, Pipeline, Policy, Timeout
from resilient._runtimes.simulated import World
from resilient.simulation._edge import Sent
from resilient.simulation._record import recovery

NAME: Final = "throttling"
TITLE: Final = "Client throttling"

CLIENTS: Final = 50
ACCEPTING: Final = 0.001
REFUSING: Final = 0.000_25
BACKLOG: Final = 0.050
PATIENCE: Final = 1.0

NORMAL, OVERLOAD = 700.0, 4000.0
OVERLOADED: Final = (30, 270)
DOWN: Final = (30, 160)
SEED: Final = 1

NONE: Final = "no control"
DEFAULT: Final = "K = 2, the default"
TIGHT: Final = "K = 1.1, no padding, no probe"
LONG: Final = "K = 2, window 120 s"
BOOK: Final = "K = 2, as in the book"


def _throttled(throttle: AdaptiveThrottle) -> Policy:
    return Pipeline(throttle, Timeout(PATIENCE))


POLICIES: Final[dict[str, Callable[[], Policy]]] = {
    NONE: lambda: Timeout(PATIENCE),
    DEFAULT: lambda: _throttled(AdaptiveThrottle()),
    TIGHT: lambda: _throttled(AdaptiveThrottle(k=1.1, padding=0, probe_interval=None)),
    LONG: lambda: _throttled(AdaptiveThrottle(window=120)),
    BOOK: lambda: _throttled(
        AdaptiveThrottle(window=120, padding=1, probe_interval=None)
    ),
}

Stretch: TypeAlias = tuple[int, int, float]
"""From when to when, in seconds, and how many requests a second."""


class Second(NamedTuple):
    """Of one second.

    Attributes:
        offered: How many requests were due.
        answered: How many of them were accepted, and in time.
        accepted: How many arrivals the backend accepted.
        refused: How many it refused.
    """

    offered: int
    answered: int
    accepted: int
    refused: int


class RefusedError(Exception):
    """The backend has too much to do."""


def jobs() -> list[Job]:
    """Overload with three policies, an outage with three."""
    begin, end = OVERLOADED
    busy = ((0, begin, NORMAL), (begin, end, OVERLOAD), (end, end + 40, NORMAL))
    overload = [(policy, SEED, busy, (0, 0)) for policy in (NONE, DEFAULT, TIGHT)]
    ends = {DEFAULT: 60, LONG: 340, BOOK: 340}
    outage = [
        (policy, SEED, ((0, DOWN[1] + after, NORMAL),), DOWN)
        for policy, after in ends.items()
    ]
    return [*overload, *outage]


def run(
    policy: str, seed: int, load: Sequence[Stretch], down: tuple[int, int]
) -> list[Second]:
    """Have the backend asked by fifty clients.

    Args:
        policy: Which of `POLICIES`.
        seed: Seeds arrivals, clients and policies.
        load: What it is asked for.
        down: Seconds between which it refuses everything.
    """
    backend, arrivals = Backend(down), Random(f"arrivals {seed}")
    record = _Record(load[-1][1])

    def send(heap: World, sent: Sent) -> None:
        now = heap.clock.now()
        answers, well = backend.send(now)
        record.noted(int(now), well)
        heap.at(answers, sent.answer, Outcome(None, None if well else RefusedError()))

    stretches = (poisson(rate, end, arrivals, begin) for begin, end, rate in load)
    _heap.run(
        seed,
        [POLICIES[policy]() for _ in range(CLIENTS)],
        send,
        record.offering(chain.from_iterable(stretches)),
        record,
        Random(f"clients {seed}").choice,
    )
    return record.seconds()


class Backend:
    """Says when it will have answered what is sent to it now, and how."""

    def __init__(self, down: tuple[int, int]) -> None:
        self._down = down
        self._free = 0.0

    def send(self, now: float) -> tuple[float, bool]:
        free = max(now, self._free)
        down = self._down[0] <= now < self._down[1]
        accepted = free - now < BACKLOG and not down
        self._free = free + (ACCEPTING if accepted else REFUSING)
        return self._free, accepted


class _Record:
    """What is noted by the second."""

    def __init__(self, until: int) -> None:
        self._offered, self._answered, self._accepted, self._refused = (
            [0] * until for _ in range(4)
        )

    def offering(self, moments: Iterator[float]) -> Iterator[float]:
        """Note the moments at which requests come."""
        for due in moments:
            self._offered[int(due)] += 1
            yield due

    def noted(self, second: int, well: bool) -> None:
        """Note whether the backend accepts an attempt."""
        (self._accepted if well else self._refused)[second] += 1

    def sent(self) -> None:
        """Note nothing: `noted` does."""

    def ended(self, due: float, outcome: Outcome | None) -> None:
        if outcome is not None and outcome.error is None:
            self._answered[int(due)] += 1

    def seconds(self) -> list[Second]:
        """Return what was seen."""
        columns = self._offered, self._answered, self._accepted, self._refused
        return [Second(*each) for each in zip(*columns, strict=True)]


def recovered(seconds: list[Second], ended: int) -> int | None:
    """Return how many seconds after `ended` all was well again."""
    return recovery([s.answered for s in seconds], [s.offered for s in seconds], ended)


def report(results: Mapping[Job, list[Second]]) -> Report:
    """Hold goodput and recovery against what was published."""
    rows = [
        ["clients", "goodput in overload", "refused per accepted", "well after outage"]
    ]
    goodput: dict[str, float] = {}
    refused: dict[str, float] = {}
    after: dict[str, int | None] = {}
    watched: dict[str, int] = {}
    lines: list[Line] = []
    for (policy, _, load, down), seconds in results.items():
        if down == DOWN:
            after[policy] = recovered(seconds, DOWN[1])
            watched[policy] = load[-1][1] - DOWN[1] - 10
            continue
        # The first window is how they get there.
        among = seconds[OVERLOADED[0] + 10 : OVERLOADED[1]]
        goodput[policy] = sum(s.answered for s in among) / len(among)
        refused[policy] = sum(s.refused for s in among) / max(
            1, sum(s.accepted for s in among)
        )
        lines.append(Line(policy, _goodput(seconds)))
    for policy in POLICIES:
        rows.append(
            [
                policy,
                f"{goodput[policy]:.0f}/s" if policy in goodput else "",
                f"{refused[policy]:.2f}" if policy in refused else "",
                _spelt(after[policy], watched[policy]) if policy in after else "",
            ]
        )
    book = after[BOOK]
    return Report(
        rows,
        [
            at_most("goodput, no control", goodput[NONE], 10, "/s"),
            within("goodput, K = 2", goodput[DEFAULT], 790, 25, "/s"),
            within("refused per accepted, K = 2", refused[DEFAULT], 1.07, 0.08),
            within("goodput, K = 1.1", goodput[TIGHT], 976, 15, "/s"),
            Check(
                "recovery after the outage, as in the book",
                "> 300 s",
                _spelt(book, watched[BOOK]),
                (watched[BOOK] if book is None else book) > 300,
            ),
            at_most("recovery after the outage, default", after[DEFAULT], 15, " s"),
        ],
        plot(
            "Goodput by the second, by kind of throttle",
            Axis("seconds", 0, OVERLOADED[1] + 40),
            Axis("answered per second", 0, 1000),
            lines,
            shaded=OVERLOADED,
        ),
    )


def _spelt(after: int | None, watched: int) -> str:
    return f"after {after} s" if after is not None else f"not within {watched} s"


def _goodput(seconds: list[Second]) -> list[tuple[float, float]]:
    """Answers by the second, in stretches of two."""
    return [
        (at + 1.0, sum(s.answered for s in seconds[at : at + 2]) / 2)
        for at in range(0, len(seconds), 2)
    ]
