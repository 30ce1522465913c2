"""Compose policies: the first listed is the outermost, and order is meaning.

The fallback answers when all else failed; the total timeout bounds tries and
pauses; the breaker, one per region, sees every attempt; no pause holds a slot.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Event,
    Fallback,
    PerKey,
    Pipeline,
    Retry,
    Timeout,
)

DELIVERY_DAYS = {"north": 2, "south": 3}


def breaker_of(region: str) -> CircuitBreaker:
    """Make the breaker of one region: one that is down leaves the others be."""
    return CircuitBreaker(consecutive_failures=4, name=region)


def region_of(region: str, parcel: int) -> str:
    """Find the region among the arguments of a call."""
    return region


carrier = Pipeline(
    Fallback("some day"),
    Timeout(2),
    Retry(attempts=3),
    PerKey(breaker_of, key=region_of),
    Bulkhead(10, max_queue=5),
    Timeout(0.2),
    classify=ConnectionError,
)


@carrier
async def delivery(region: str, parcel: int) -> str:
    """Ask the carrier, who fails now and then, and in the west always."""
    await asyncio.sleep(0.01)
    if region == "west" or random.random() < 0.15:
        raise ConnectionError(f"{region} does not answer")
    return f"in {DELIVERY_DAYS[region]} days"


async def ask_for_all() -> None:
    """Ask for ten parcels in each region."""
    told: Counter[str] = Counter()

    def count(event: Event) -> None:
        told[type(event).__name__] += 1

    end = carrier.subscribe(count)
    for region in ("north", "south", "west"):
        told.clear()
        answers = Counter([await delivery(region, parcel) for parcel in range(10)])
        print(f"{region}: {dict(answers)}")
        print(f"  {dict(told)}")
    end()


def main() -> None:
    """Ask a carrier with one region down."""
    random.seed(1)
    asyncio.run(ask_for_all())


if __name__ == "__main__":
    main()
