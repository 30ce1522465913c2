"""Ask a second replica when the first is late, and take what comes first.

`Hedge` learns how long answers take, and makes a second attempt of the few
that take longer than most, on a budget: only where a call may happen twice.
Who loses is cancelled. The time is virtual: this example takes no second.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from resilient import Event, Hedge, Pipeline, Timeout
from resilient.testing import virtual_time


class Replicas:
    """A store of which any replica pauses now and then, each at its own time."""

    def __init__(self) -> None:
        self.asked = 0
        self.cancelled = 0
        self.chance = random.Random(7)

    async def read(self, key: str) -> str:
        """Answer in about 10 ms, and once in fifty times in half a second."""
        self.asked += 1
        pauses = self.chance.random() < 0.02
        try:
            await asyncio.sleep(0.5 if pauses else self.chance.uniform(0.005, 0.015))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return f"the value of {key}"


async def measure(policy: Pipeline) -> None:
    """Read a thousand times, and print how long that took."""
    replicas, took = Replicas(), list[float]()
    clock = asyncio.get_running_loop()
    for number in range(1000):
        began = clock.time()
        await policy.acall(replicas.read, f"key {number}")
        took.append(clock.time() - began)
    took.sort()
    print(f"{policy!r}:")
    print(f"  half of them within {took[499] * 1000:.0f} ms, ", end="")
    print(f"99 in 100 within {took[989] * 1000:.0f} ms")
    print(f"  {replicas.asked} reads sent, {replicas.cancelled} of them cancelled")


async def compare() -> None:
    """Measure without a hedge, with a fixed delay, and with one that is learnt."""
    await measure(Pipeline(Timeout(2)))
    await measure(Pipeline(Timeout(2), Hedge(0.02)))

    learning = Hedge(percentile=0.97)
    told: Counter[str] = Counter()

    def count(event: Event) -> None:
        told[type(event).__name__] += 1

    learning.subscribe(count)
    await measure(Pipeline(Timeout(2), learning))
    delay = learning.current_delay
    assert delay is not None, "it knows one after 20 successes, or a few more"
    print(f"  the delay is {delay * 1000:.0f} ms by now; {dict(told)}")


def main() -> None:
    """Compare, on asyncio."""
    virtual_time.run(compare)


if __name__ == "__main__":
    main()
