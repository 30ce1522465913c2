"""What telemetry costs, as ratios to the same pipeline with none turned on.

The rows take turns, round after round, and only ratios of their best rounds
are printed: first those without an SDK, then, once it is set up, those with
one, each over "off" of its own half. A pipeline of seven policies, on asyncio:
the success path, and the same where every second attempt fails.

    python benchmarks/telemetry.py [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
    constant,
    subscribe,
    telemetry,
)
from resilient.telemetry import Histogram

CALLS = 200
EVERY: tuple[Histogram, ...] = (
    "resilient.call.duration",
    "resilient.attempt.duration",
    "resilient.permit.wait",
    "resilient.retry.delay",
)


async def succeed(x: int) -> int:
    """Return at once."""
    return x


async def stumble(x: int, seen: list[int] = []) -> int:  # noqa: B006 - a memory
    """Fail at the first try, and not at the second."""
    if seen:
        return seen.pop()
    seen.append(x)
    raise OSError("down")


def set_up_sdk() -> None:
    """Set up an SDK that keeps everything in memory."""
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    trace.set_tracer_provider(TracerProvider())


def off() -> Callable[[], None]:
    """Turn nothing on; return what turns it off, as all of these do."""
    return lambda: None


def instrumented() -> Callable[[], None]:
    """Turn on what is on by default."""
    telemetry.instrument()
    return telemetry.uninstrument


def listener() -> Callable[[], None]:
    """Subscribe a listener that does nothing."""
    return subscribe(lambda event: None)


def everything() -> Callable[[], None]:
    """Turn everything on."""
    telemetry.instrument(histograms=EVERY, attempt_spans=True)
    return telemetry.uninstrument


Row = Callable[[], Callable[[], None]]


async def measure(rounds: int, rows: dict[str, Row]) -> dict[str, dict[str, float]]:
    """Return the best ratios to the row "off", by row and case."""
    pipeline = Pipeline(
        Fallback(None),
        Timeout(3),
        Retry(OSError, backoff=constant(0, jitter="none"), budget=None),
        CircuitBreaker(failure_rate=1.0),
        RateLimiter(1e6),
        Bulkhead(10),
        Timeout(1),
        name="bench",
    )
    cases = {"success": pipeline(succeed), "retried": pipeline(stumble)}
    best: dict[str, dict[str, float]] = {row: {} for row in rows}
    for _ in range(rounds):
        for row, turn_on in rows.items():
            turn_off = turn_on()
            for case, call in cases.items():
                began = time.perf_counter()
                for x in range(CALLS):
                    await call(x)
                took = time.perf_counter() - began
                best[row][case] = min(best[row].get(case, took), took)
            turn_off()
    nothing = best["off"]
    return {
        row: {case: took / nothing[case] for case, took in ratios.items()}
        for row, ratios in best.items()
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(handlers=[logging.NullHandler()], level=logging.INFO)
    bare: dict[str, Row] = {"off": off, "no SDK": instrumented, "listener": listener}
    rows = asyncio.run(measure(options.rounds, bare))
    set_up_sdk()
    full: dict[str, Row] = {"off": off, "SDK": instrumented, "everything": everything}
    rows |= asyncio.run(measure(options.rounds, full))
    if options.json:
        print(json.dumps({"python": sys.version.split()[0], "ratios": rows}))
        return
    print(f"Python {sys.version.split()[0]}, seven policies, asyncio\n")
    print(f"{'':12}" + "".join(f"{case:>10}" for case in rows["off"]))
    for row, ratios in rows.items():
        print(f"{row:12}" + "".join(f"{ratio:>9.2f}×" for ratio in ratios.values()))


if __name__ == "__main__":
    main()
