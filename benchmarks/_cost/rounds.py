"""Measuring: contenders take turns in one process, again and again.

A machine that others use too makes some of their turns slow, and all of them
together from time to time. So turns are short, every round has one of each,
and what is kept is the ratio within a round: its median over the rounds, and
its quartiles. The clock is that of the processor: no contender waits, and
what other processes did meanwhile is not counted. A turn that was
interrupted has cold caches and spoils one round, which the median does not see.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

from .scenes import BARE, Scene
from .workloads import Function

TURN = 0.002
"""Seconds that a turn is meant to take: a fraction of a scheduler's time slice."""


@dataclass(frozen=True)
class Ratio:
    """The median of many rounds' ratios, and their quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"

    @classmethod
    def of(cls, ratios: list[float]) -> Ratio:
        """Sum up what was measured."""
        low, median, high = quantiles(ratios, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Times:
    """Seconds a call, by name, one of each in every round."""

    rounds: dict[str, list[float]]

    def ratio(
        self, over: str, under: str, less: str | None = BARE, under_less: str = BARE
    ) -> Ratio:
        """How much dearer one is than another.

        Args:
            over: The one.
            under: The other.
            less: What is taken from the one: what it costs anyway; None: nothing.
            under_less: What is taken from the other.
        """
        times = self.rounds
        anyway = [0.0] * len(times[over]) if less is None else times[less]
        nets = zip(times[over], anyway, times[under], times[under_less], strict=True)
        # NB: a difference of nothing is noise, and no reason to divide by it.
        return Ratio.of([(a - b) / max(c - d, 1e-9) for a, b, c, d in nets])

    def microseconds(self, name: str) -> float:
        """What a call takes: in the fastest round, which was disturbed least."""
        return min(self.rounds[name]) * 1e6

    def whole(self, over: str, under: str) -> Ratio:
        """How many times as long one takes as another, nothing taken away."""
        return Ratio.of(
            [a / b for a, b in zip(self.rounds[over], self.rounds[under], strict=True)]
        )


async def measure(scene: Scene, rounds: int, turn: float = TURN) -> Times:
    """Let everyone in a scene take their turns, of about so many seconds."""
    burst: Any = _burst_sync if scene.world.sync else _burst
    if scene.guarded:
        burst = _guarded_sync if scene.world.sync else _guarded
    calls: dict[str, int] = {}
    for contender in scene.contenders:
        await _of(burst, contender.call, 20)
        took = await _of(burst, contender.call, 20)
        calls[contender.name] = max(5, min(20_000, round(turn / max(took, 1e-6))))
    times: dict[str, list[float]] = {
        contender.name: [] for contender in scene.contenders
    }
    gc.collect()
    for number in range(rounds):
        # No contender always follows the one that leaves the caches cold.
        first = number % len(scene.contenders)
        for contender in scene.contenders[first:] + scene.contenders[:first]:
            times[contender.name].append(
                await _of(burst, contender.call, calls[contender.name])
            )
    return Times(times)


async def _of(burst: Any, call: Function, calls: int) -> float:
    took = burst(call, calls)
    return took if isinstance(took, float) else await took


async def _burst(call: Function, calls: int) -> float:
    began = time.process_time()
    for x in range(calls):
        await call(x)
    return (time.process_time() - began) / calls


async def _guarded(call: Function, calls: int) -> float:
    began = time.process_time()
    for x in range(calls):
        try:
            await call(x)
        except Exception:
            pass
    return (time.process_time() - began) / calls


def _burst_sync(call: Function, calls: int) -> float:
    began = time.process_time()
    for x in range(calls):
        call(x)
    return (time.process_time() - began) / calls


def _guarded_sync(call: Function, calls: int) -> float:
    began = time.process_time()
    for x in range(calls):
        try:
            call(x)
        except Exception:
            pass
    return (time.process_time() - began) / calls
