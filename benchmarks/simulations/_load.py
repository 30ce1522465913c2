"""An open loop: requests that come when they come, however the last one went.

A load generator that waits for answers before it asks again hides what an
overload does to those who would have asked meanwhile. Here a request is due
when it is due, and its latency counts from then.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


def poisson(
    rate: float, until: float, random: Random, begin: float = 0.0
) -> Iterator[float]:
    """Yield the moments, in seconds, of a Poisson process of so many a second."""
    moment = begin + random.expovariate(rate)
    while moment < until:
        yield moment
        moment += random.expovariate(rate)
