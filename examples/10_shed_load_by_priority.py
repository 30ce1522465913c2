"""Under overload refuse what matters least, and leave the rest alone.

`AdaptiveConcurrency` finds out how many calls a dependency can take at once,
here by the latency, and `priority` says who goes first when that is not enough.
A class that is alone may have it all. The time is virtual: this example takes
no half minute.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Literal, TypeAlias

from resilient import AdaptiveConcurrency, ConcurrencyLimitedError, Gradient, priority
from resilient.testing import virtual_time

Level: TypeAlias = Literal["critical", "normal", "batch"]
Load: TypeAlias = dict[Level, int]
"""Calls a second, by how important they are."""

SECONDS = 10


class Search:
    """A service with twenty workers, and a line before them that never ends."""

    def __init__(self) -> None:
        self.workers = asyncio.Semaphore(20)

    async def find(self, text: str) -> str:
        """Search, in a tenth of a second."""
        async with self.workers:
            await asyncio.sleep(0.1)
        return f"all about {text}"


async def send(search: Search, limit: AdaptiveConcurrency, load: Load) -> None:
    """Send calls at random moments, and print how many were served."""
    chance = random.Random(7)
    served: Counter[Level] = Counter()

    async def call(level: Level, request: str) -> None:
        await asyncio.sleep(chance.uniform(0, SECONDS))
        try:
            with priority(level, key=request):
                await limit.acall(search.find, "tea")
            served[level] += 1
        except ConcurrencyLimitedError:
            pass  # a user would see less on the page, or the job come back later

    async with asyncio.TaskGroup() as tasks:
        for level, rate in load.items():
            for number in range(rate * SECONDS):
                tasks.create_task(call(level, f"{level} {number}"))
    for level, rate in load.items():
        share = served[level] / (rate * SECONDS)
        print(f"  {level:8} {rate:4} calls/s: {share:.0%} of them served")


async def overload() -> None:
    """Send less than can be done, then more, then only what matters least."""
    search, limit = Search(), AdaptiveConcurrency(Gradient())
    print("the service can do 200 calls/s; on a good day:")
    await send(search, limit, {"critical": 40, "normal": 30, "batch": 30})
    print("on a bad one:")
    await send(search, limit, {"critical": 60, "normal": 80, "batch": 160})
    print("at night:")
    await send(search, limit, {"batch": 300})
    print(f"the limit is {limit.limit} by now")


def main() -> None:
    """Run it, on asyncio."""
    virtual_time.run(overload)


if __name__ == "__main__":
    main()
