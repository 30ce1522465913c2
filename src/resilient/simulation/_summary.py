"""What a terminal and a program are told of results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from resilient.simulation._checks import check
from resilient.simulation._record import ENDS
from resilient.simulation._result import Result, table

_WIDTH: Final = 48
_BARS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_BARS: Final = "_.-:=+*#"


def sparkline(shares: Sequence[float], *, plain: bool = False) -> str:
    """Draw shares from 0 to 1, some fifty characters wide.

    Args:
        shares: One a second.
        plain: Whether in ASCII.
    """
    bars = _PLAIN_BARS if plain else _BARS
    step = max(1, math.ceil(len(shares) / _WIDTH))
    means = [
        math.fsum(part) / len(part)
        for part in (shares[at : at + step] for at in range(0, len(shares), step))
    ]
    return "".join(bars[min(7, int(mean * 8))] for mean in means)


def shares(result: Result) -> list[float]:
    """Return which share of requests the worst seed answered, by the second."""
    found = result.worst.shares("answered")
    return [1.0 if math.isnan(share) else share for share in found]


def summary(results: Sequence[Result], *, plain: bool = False) -> str:
    """Return what a terminal shows.

    Args:
        results: Of one scenario.
        plain: Whether in ASCII.
    """
    scenario = results[0].scenario
    seeds = len(results[0].runs)
    lines = [
        f"{scenario.name}: {scenario.load} for {scenario.duration} s,"
        f" {scenario.clients} clients, {seeds} seed{'s' * (seeds > 1)}",
        scenario.left_out,
        *[trace.told for trace in scenario.traces],
        "",
        table(results),
        "",
        "answered, by time, of the worst seed:",
    ]
    width = max(len(result.name) for result in results)
    for result in results:
        line = sparkline(shares(result), plain=plain)
        lines.append(f"  {result.name.ljust(width)}  {line}")
    return "\n".join(lines)


def as_json(results: Sequence[Result], checks: Mapping[str, float]) -> dict[str, Any]:
    """Return results as JSON has them: figures, and series by seed and second."""
    scenario = results[0].scenario
    return {
        "version": 1,
        "model": scenario.left_out,
        "scenario": {
            "name": scenario.name,
            "load": scenario.load,
            "rate": None if scenario.users or scenario.trace else scenario.rate,
            "traces": [trace.told for trace in scenario.traces],
            "duration": scenario.duration,
            "clients": scenario.clients,
            "events": [
                {"kind": event.word, "from": event.start, "to": event.end}
                for event in scenario.events
            ],
        },
        "configurations": [_one(result, checks) for result in results],
    }


def _one(result: Result, checks: Mapping[str, float]) -> dict[str, Any]:
    figures = {
        "goodput": result.goodput,
        "availability": result.availability,
        "rejected": result.rejected,
        "amplification": result.amplification,
        "wasted": result.wasted,
        "p50": _number(result.latency(0.5)),
        "p99": _number(result.latency(0.99)),
    }
    after = result.recovers_within(0).after
    return {
        "name": result.name,
        "figures": figures,
        "checks": [
            {"text": text, "holds": holds} for text, holds in check(result, checks)
        ],
        "seeds": [
            {
                "seed": run.seed,
                "recovered_after": after[run.seed],
                "offered": run.offered,
                "attempts": run.attempts,
                "ends": {word: run.ends[word] for word in ENDS if any(run.ends[word])},
                "series": run.series,
            }
            for run in result.runs
        ],
    }


def _number(value: float) -> float | None:
    """Return a number as JSON has it, which has no NaN."""
    return None if math.isnan(value) else value
