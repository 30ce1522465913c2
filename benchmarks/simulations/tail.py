"""The tail at scale: a root is as slow as the slowest of its leaves.

A root sends a request to a thousand leaves at once and needs all the answers.
Leaves answer within 10 ms but for 2 % of the time, and once in a million
times they need 1.8 s: which is what one root in a thousand then waits for.
A `Hedge` asks a leaf again after 10 ms; that the second answer is late as
well is as rare as both together.

Modelled: the latency of a leaf alone. It is log-uniform between 1 and 10 ms
for 98 % of the answers; what lasts longer has power laws through 2 % at 10
ms, 0.1 % at 69 ms and 0.0001 % at 1 800 ms. A second answer is drawn
independently of the first.

What one root in a thousand sees is what one leaf in a million does, which a
sample of a thousand roots would show once. So tails are sampled on condition:
only first answers that take more than 30 ms, and second ones that take more
than 20 ms, whose probability is known; below that nothing is estimated from
this sample. Without hedges the condition is 500 ms. The rest, how many second
requests there are among it, is counted on whole roots.

Source: J. Dean and L. A. Barroso, *The Tail at Scale*, CACM 2013.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from random import Random
from statistics import median
from typing import Final, NamedTuple

from benchmarks.simulations import _heap
from benchmarks.simulations._plot import Axis, Line, plot
from benchmarks.simulations._study import Job, Report, within

from resilient import Hedge, Outcome
from resilient._runtimes.simulated import World
from resilient.simulation._edge import Client, Request, Sent

NAME: Final = "tail"
TITLE: Final = "The tail at scale"

LEAVES: Final = 1000
ROOTS: Final = 200
TAIL: Final = 20_000
DELAY: Final = 0.010
ANSWERED: Final = Outcome()

# Latencies in seconds, and the share of answers that takes longer.
KNEES: Final = ((0.010, 2e-2), (0.069, 1e-3), (1.800, 1e-6))

FIRST_BEYOND, SECOND_BEYOND = 0.030, 0.020
UNHEDGED_BEYOND: Final = 0.5


class Roots(NamedTuple):
    """What whole roots gave.

    Attributes:
        leaves: The latencies of first answers, and of calls with a hedge.
        roots: The same of the slowest leaf of each root.
        hedges: How many second requests were sent.
    """

    leaves: list[tuple[float, float]]
    roots: list[tuple[float, float]]
    hedges: int


def beyond(latency: float) -> float:
    """Return which share of answers takes longer than so many seconds."""
    if latency <= 0.001:
        return 1.0
    if latency <= 0.010:
        return 1 - 0.98 * math.log10(latency / 0.001)
    (x, share), slope = _law(sum(latency > knee for knee, _ in KNEES[:-1]) - 1)
    return float(share * (latency / x) ** slope)


def latency(share: float) -> float:
    """Return the seconds that this share of answers takes longer than."""
    if share >= KNEES[0][1]:
        return float(0.001 * 10 ** ((1 - share) / 0.98))
    (x, knee), slope = _law(sum(share < knee for _, knee in KNEES[:-1]) - 1)
    return float(x * (share / knee) ** (1 / slope))


def _law(number: int) -> tuple[tuple[float, float], float]:
    """Return where a power law begins, and its exponent."""
    (x, share), (further, less) = KNEES[number : number + 2]
    return (x, share), math.log(less / share) / math.log(further / x)


def jobs() -> list[Job]:
    """Whole roots, in four runs, and the tail."""
    return [("roots", seed, ROOTS // 4) for seed in range(4)] + [("tail", 0, TAIL)]


def run(what: str, seed: int, size: int) -> Roots | list[float]:
    """Run so many whole roots, or so many leaves of the tail."""
    study = _roots if what == "roots" else _tail
    return _heap.in_world(seed, partial(study, Random(seed), size))


class _Leaves:
    """Leaves that are asked at once, by a client that hedges.

    Args:
        heap: Where they run.
        took: Returns the seconds that an attempt takes, which is sent now.
    """

    def __init__(self, heap: World, took: Callable[[Sent], float]) -> None:
        self._heap = heap
        self._took = took
        self._client = Client(heap, Hedge(DELAY, budget=None), self._send, self)
        self._latencies: list[float] = []

    def ask(self, size: int) -> list[float]:
        """Return the latencies of so many leaves, in their order."""
        now = self._heap.clock.now()
        self._latencies = [0.0] * size
        for number in range(size):
            _Leaf(self._client, number, now, number, self._latencies).begin()
        self._heap.run()
        return self._latencies

    def _send(self, sent: Sent) -> None:
        self._heap.at(self._heap.clock.now() + self._took(sent), sent.answer, ANSWERED)

    def sent(self) -> None:
        """Note nothing."""

    def ended(self, due: float, outcome: Outcome | None) -> None:
        """Note nothing: a leaf does."""


class _Leaf(Request):
    """A request to one leaf, which notes how long it took."""

    __slots__ = ("_latencies",)

    def __init__(
        self,
        client: Client,
        number: int,
        due: float,
        key: int,
        latencies: list[float],
    ) -> None:
        super().__init__(client, number, due, key)
        self._latencies = latencies

    def _ended(self, outcome: Outcome | None) -> None:
        super()._ended(outcome)
        self._latencies[self.number] = self.world.clock.now() - self.due


def _roots(random: Random, size: int, heap: World) -> Roots:
    result = Roots([], [], 0)
    firsts: list[float] = []
    hedges = 0

    def took(sent: Sent) -> float:
        nonlocal hedges
        if sent.number == 1:
            return firsts[sent.request]
        hedges += 1
        return latency(random.random())

    leaves = _Leaves(heap, took)
    for _ in range(size):
        firsts[:] = [latency(random.random()) for _ in range(LEAVES)]
        latencies = leaves.ask(LEAVES)
        result.leaves.extend(zip(firsts, latencies, strict=True))
        result.roots.append((max(firsts), max(latencies)))
    return result._replace(hedges=hedges)


def _tail(random: Random, size: int, heap: World) -> list[float]:
    """Return latencies of leaves on the condition that both answers are late."""

    def took(sent: Sent) -> float:
        limit = FIRST_BEYOND if sent.number == 1 else SECOND_BEYOND
        return latency(random.random() * beyond(limit))

    return _Leaves(heap, took).ask(size)


def quantile(ordered: Sequence[float], weight: float, share: float) -> float:
    """Return the latency that `share` of all leaves exceeds.

    Args:
        ordered: Latencies of the tail, shortest first.
        weight: Which share of all leaves is in the tail.
        share: Less than that.
    """
    return ordered[-max(1, round(len(ordered) * share / weight))]


def unhedged_tail(seed: int, size: int) -> list[float]:
    """Return latencies of first answers beyond 500 ms, shortest first."""
    random = Random(f"unhedged {seed}")
    limit = beyond(UNHEDGED_BEYOND)
    return sorted(latency(random.random() * limit) for _ in range(size))


def report(results: Mapping[Job, Roots | list[float]]) -> Report:
    """Hold what one root in a thousand waits for against what was published."""
    runs = [each for each in results.values() if isinstance(each, Roots)]
    (tail,) = (sorted(each) for each in results.values() if isinstance(each, list))
    leaves = list(chain.from_iterable(each.leaves for each in runs))
    roots = list(chain.from_iterable(each.roots for each in runs))
    extra = 100 * sum(each.hedges for each in runs) / len(leaves)
    # A root is as fast as this share of its leaves all are.
    share = 1 - 0.999 ** (1 / LEAVES)
    weight = beyond(FIRST_BEYOND) * beyond(SECOND_BEYOND)
    plain_weight = beyond(UNHEDGED_BEYOND)
    plain_tail = unhedged_tail(0, TAIL)
    plain = 1000 * quantile(plain_tail, plain_weight, share)
    hedged = 1000 * quantile(tail, weight, share)
    medians = [1000 * median(each[n] for each in roots) for n in (0, 1)]
    return Report(
        [
            ["leaves", "median root", "p99.9 root", "extra requests"],
            ["without a hedge", f"{medians[0]:.0f} ms", f"{plain:.0f} ms", "0 %"],
            [
                "hedged after 10 ms",
                f"{medians[1]:.0f} ms",
                f"{hedged:.0f} ms",
                f"{extra:.2f} %",
            ],
        ],
        [
            within("p99.9 of a root, unhedged", plain, 1800, 0.2 * 1800, " ms"),
            within("p99.9 of a root, hedged", hedged, 74, 7.4, " ms"),
            within("extra requests", extra, 2.0, 0.1, " %"),
        ],
        plot(
            "Share of leaves that take longer, by latency",
            Axis("latency of a leaf, ms (logarithmic)", 1, 10_000, log=True),
            Axis("share of leaves that take longer", 1e-7, 1, log=True),
            [
                Line(
                    "without a hedge",
                    _survival(
                        sorted(first for first, _ in leaves),
                        (UNHEDGED_BEYOND, plain_tail, plain_weight),
                    ),
                ),
                Line(
                    "hedged after 10 ms",
                    _survival(
                        sorted(took for _, took in leaves), (FIRST_BEYOND, tail, weight)
                    ),
                ),
            ],
        ),
    )


_ENOUGH: Final = 20


def _survival(
    ordered: Sequence[float], tail: tuple[float, Sequence[float], float]
) -> list[tuple[float, float]]:
    """The share of leaves that take longer, from whole roots and the tail."""
    limit, late, weight = tail
    points: list[tuple[float, float]] = []
    for step in range(201):
        at = 0.001 * 10 ** (step / 50)
        among, whole = (ordered, 1.0) if at < limit else (late, weight)
        longer = len(among) - bisect_right(among, at)
        # A few say little; there the line goes straight on to the tail.
        if longer >= _ENOUGH:
            points.append((1000 * at, whole * longer / len(among)))
    return points
