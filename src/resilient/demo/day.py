"""A bad day: which request meets which fault, drawn before it begins.

Ground rules:

* The day is cut into slots of 1 / `RATE` seconds. One request is due in each,
  at a moment of its own; that is the open-loop load, the same for everybody.
* A fault belongs to a slot. What is due in it meets that fault, bare or protected;
  a retry is due when it is sent, and meets the weather of that moment.
* All is drawn from the seed. Two days of one seed and length are equal.

======== ===================== ==========================================
phase    from                  weather
======== ===================== ==========================================
fair     0                     `LOSS` of the slots are faulty, evenly
                               spread: every stretch has its share
lull     outage - `LULL`       nothing, as part of the fair weather
outage   a quarter of the day  every slot is faulty
settling outage + 30 %         as fair, but for its name: for `SETTLING`
                               seconds a breaker may still find out
fair     settling + `SETTLING` as before
======== ===================== ==========================================

The lull keeps the figures apart: a request that meets its fault just before
the outage and is retried in it would be counted as lost in fair weather.

Not modelled: faults that come in bursts, a server that slows under load, and
retries that make an outage longer.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

RATE: Final = 80
"""Requests per second: enough that 1 % of a short stretch is a few requests."""

LOSS: Final = 0.065
"""Share of faulty slots in fair weather: a poor service, not yet a broken one."""

LULL: Final = 0.7
"""Seconds: an attempt of 0.5 s, its backoff and a second attempt."""

SETTLING: Final = 3.0
"""Seconds after the outage that are no fair weather."""


class Fault(Enum):
    """What the server does instead of answering."""

    ERROR = "503"
    RESET = "reset"
    STALL = "stall"


class Weather(Protocol):
    """What a server does with a request, by when that is due."""

    def fault(self, due: float) -> Fault | None:
        """Return what it does instead of answering."""
        ...

    def latency(self, due: float) -> float:
        """Return the seconds that it takes."""
        ...


class Phase(Enum):
    """A stretch of the day, as the figures tell them apart."""

    FAIR = "fair"
    OUTAGE = "outage"
    SETTLING = "settling"


# Of ten faults; shuffled, then dealt out, so that each kind has its share.
_DECK: Final = 5 * [Fault.ERROR] + 2 * [Fault.RESET] + 3 * [Fault.STALL]
_OUTAGE_DECK: Final = 6 * [Fault.ERROR] + 3 * [Fault.RESET] + 1 * [Fault.STALL]

_AFTERWARDS: Final = 10
"""Seconds of weather after the last request is due, for its retries."""


class Day:
    """The load and the weather of one run.

    Args:
        seconds: How long requests come in, whole seconds.
        seed: What everything is drawn from.

    Attributes:
        outage, recovery, settled: When the outage begins, when it ends, and
            when the fair weather begins again; seconds from the start.
        due: When each request is due, in order; seconds from the start.
    """

    def __init__(self, seconds: int, seed: int) -> None:
        self.seconds = seconds
        self.seed = seed
        self.outage: float = seconds / 4
        self.recovery: float = self.outage + 0.3 * seconds
        self.settled: float = self.recovery + SETTLING
        chance = random.Random(seed)
        self.due: tuple[float, ...] = draw_load(seconds, chance)
        self._faults = self._draw_faults(chance)
        self._latencies = draw_latencies(seconds, chance)

    def phase(self, due: float) -> Phase:
        """Return the phase in which a request is due."""
        return self._phase_of(_slot(due))

    def fault(self, due: float) -> Fault | None:
        """Return the fault that a request due at that moment meets."""
        return at(self._faults, due)

    def latency(self, due: float) -> float:
        """Return the seconds that the server takes: 15 ms and a tail."""
        return at(self._latencies, due)

    def _phase_of(self, slot: int) -> Phase:
        if slot < _slot(self.outage):
            return Phase.FAIR
        if slot < _slot(self.recovery):
            return Phase.OUTAGE
        return Phase.SETTLING if slot < _slot(self.settled) else Phase.FAIR

    def _draw_faults(self, chance: random.Random) -> list[Fault | None]:
        everything = range((self.seconds + _AFTERWARDS) * RATE)
        today = range(self.seconds * RATE)
        lull = range(_slot(self.outage - LULL), _slot(self.outage))
        stretches: dict[Phase, list[int]] = {phase: [] for phase in Phase}
        for slot in today:
            stretches[self._phase_of(slot)].append(slot)
        fair = stretches[Phase.FAIR]
        rough = [slot for slot in fair if slot not in lull]
        later = [*stretches[Phase.SETTLING], *everything[len(today) :]]

        faults: list[Fault | None] = [None for _ in everything]
        kinds = _deal(chance, _DECK)
        for slots, count in (
            (rough, round(LOSS * len(fair))),
            (later, round(LOSS * len(later))),
        ):
            for slot in _spread(chance, slots, count):
                faults[slot] = next(kinds)
        kinds = _deal(chance, _OUTAGE_DECK)
        for slot in stretches[Phase.OUTAGE]:
            faults[slot] = next(kinds)
        return faults


def draw_load(seconds: int, chance: random.Random) -> tuple[float, ...]:
    """Draw when each request is due: one in each slot."""
    # NB: kept off the edges of the slot, so that rounding to the four
    # decimals of the URL never moves a request into the next one.
    return tuple(
        round((slot + chance.uniform(0.05, 0.95)) / RATE, 4)
        for slot in range(seconds * RATE)
    )


def draw_latencies(seconds: int, chance: random.Random) -> list[float]:
    """Draw what a server takes in each slot: 15 ms and a tail, in seconds."""
    slots = range((seconds + _AFTERWARDS) * RATE)
    return [0.015 + min(chance.expovariate(100), 0.1) for _ in slots]


def at(drawn: Sequence[T], due: float) -> T:
    """Return what was drawn for the slot of a moment."""
    return drawn[min(_slot(due), len(drawn) - 1)]


def _slot(due: float) -> int:
    # NB: a boundary such as 6.6 × 80 is a hair below its whole number.
    return int(due * RATE + 1e-6)


def _spread(chance: random.Random, slots: Sequence[int], count: int) -> Iterator[int]:
    """Yield one of each of `count` equal parts of the slots."""
    edges = [len(slots) * part // count for part in range(count + 1)]
    for begin, end in itertools.pairwise(edges):
        yield chance.choice(slots[begin:end])


def _deal(chance: random.Random, deck: Sequence[Fault]) -> Iterator[Fault]:
    while True:
        yield from chance.sample(deck, len(deck))
