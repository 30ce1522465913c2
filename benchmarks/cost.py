"""What a protected call costs, as ratios measured in one process.

Machines are noisy and clocks drift, so the contenders take turns, round after
round, and only ratios of their best rounds are printed. All figures are over
the bare call, on asyncio's success path.

    python benchmarks/cost.py [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    Timeout,
)

CALLS = 2_000

Contender = Callable[[int], Awaitable[int | None]]


async def bare(x: int) -> int:
    """Return at once."""
    return x


async def asyncio_timeout(x: int) -> int:
    """Run under the standard library's timeout."""
    async with asyncio.timeout(3):
        return await bare(x)


class Inline:
    """The seven policies as a good engineer would write them by hand.

    A lock-free breaker over the last hundred calls, a GCRA, a counter and two
    `asyncio.timeout`.
    """

    def __init__(self) -> None:
        self.open = False
        self.window: deque[int] = deque(maxlen=100)
        self.failures = 0
        self.arrival = 0.0
        self.running = 0

    async def call(self, x: int) -> int | None:
        """Call `bare` under everything."""
        try:
            async with asyncio.timeout(3):
                for _ in range(3):
                    try:
                        return await self.attempt(x)
                    except OSError:
                        await asyncio.sleep(0.1)
        except RuntimeError:
            pass
        return None

    async def attempt(self, x: int) -> int:
        """Make one attempt."""
        if self.open:
            raise RuntimeError("open")
        now = time.monotonic()
        arrival = max(self.arrival, now)
        if arrival - now > 1:
            raise RuntimeError("limited")
        self.arrival = arrival + 1e-6
        if self.running >= 10:
            raise RuntimeError("full")
        self.running += 1
        try:
            async with asyncio.timeout(1):
                result = await bare(x)
        except Exception:
            self.record(1)
            raise
        finally:
            self.running -= 1
        self.record(0)
        return result

    def record(self, failed: int) -> None:
        """Count an outcome in the window."""
        if len(self.window) == 100:
            self.failures -= self.window[0]
        self.window.append(failed)
        self.failures += failed
        self.open = len(self.window) >= 20 and self.failures >= 50


def contenders() -> dict[str, Contender]:
    """Return what is compared, by name."""

    def alone(policy: Policy[None]) -> Contender:
        return policy(bare)

    seven = Pipeline(
        Fallback(None),
        Timeout(3),
        Retry(OSError),
        CircuitBreaker(),
        RateLimiter(1e6),
        Bulkhead(10),
        Timeout(1),
    )
    return {
        "bare": bare,
        "empty pipeline": alone(Pipeline()),
        "Retry": alone(Retry(OSError)),
        "CircuitBreaker": alone(CircuitBreaker()),
        "RateLimiter": alone(RateLimiter(1e6)),
        "Bulkhead": alone(Bulkhead(10)),
        "Timeout": alone(Timeout(3)),
        "Fallback": alone(Fallback(None)),
        "seven policies": seven(bare),
        "asyncio.timeout": asyncio_timeout,
        "seven by hand": Inline().call,
    }


async def measure(rounds: int) -> dict[str, float]:
    """Return the best seconds a call over the bare call, by name."""
    best: dict[str, float] = {}
    named = contenders()
    for _ in range(rounds):
        for name, call in named.items():
            began = time.perf_counter()
            for x in range(CALLS):
                await call(x)
            took = (time.perf_counter() - began) / CALLS
            best[name] = min(best.get(name, took), took)
    return {name: took - best["bare"] for name, took in best.items()}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cost = asyncio.run(measure(options.rounds))
    hand, timeout = cost["seven by hand"], cost["asyncio.timeout"]
    rows = {
        name: {"of seven by hand": took / hand, "of asyncio.timeout": took / timeout}
        for name, took in cost.items()
        if name != "bare"
    }
    if options.json:
        print(json.dumps({"python": sys.version.split()[0], "ratios": rows}))
        return
    print(f"Python {sys.version.split()[0]}, over the bare call, asyncio\n")
    print(f"{'':20}{'of seven by hand':>18}{'of asyncio.timeout':>20}")
    for name, ratios in rows.items():
        print(f"{name:20}" + "".join(f"{one:>18.2f}×" for one in ratios.values()))


if __name__ == "__main__":
    main()
