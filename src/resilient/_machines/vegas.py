"""Vegas: keep the queue at the dependency short.

From the latency and the baseline (`latency`) follows how many calls are in
the queue and not in work, by Little's law::

    queue = limit × (1 - baseline / latency)

and once a window the limit takes a step of lg = max(1, log10(limit)):

====================== ==================================
queue                  limit
====================== ==================================
up to lg               + 6 × lg
less than 3 × lg       + lg
up to 6 × lg           stays
more                   - lg
the window: congested  × 3/4
====================== ==================================

* It grows only where at least half of it was in use.
* Where less than half was in use, it shrinks by congestion alone: the latency
  of such a window is not its doing.

Source: L. Brakmo and L. Peterson, "TCP Vegas: End to End Congestion Avoidance
on a Global Internet", 1995, with its 3/4 where packets are lost; the
logarithms are those of Netflix's concurrency-limits. There a probe takes the
next best latency for the baseline, and so drifts with an overload that lasts;
here it is measured, see `latency`.
"""

from __future__ import annotations

import math
from datetime import timedelta

from resilient._machines.latency import LatencyLimit

__all__ = ["Vegas"]

_CONGESTED = 0.75
"""What a congested window leaves, as a share."""


class Vegas(LatencyLimit):
    """Keep the queue at the dependency short, going by latency.

    For many calls a second that take about the same time each: latencies that
    scatter look like a queue. Then `Gradient` is better.

    Args:
        initial: Limit to begin with.
        minimum: Least limit.
        maximum: Greatest limit.
        window: Seconds between two steps, at least.
        minimum_samples: Calls between two steps, at least.
        percentile: Which latency stands for a window. The share of congested
            calls that it leaves out is forgiven.
        probe_every: Seconds of worse latency after which the baseline is
            measured anew, at a third of the load for a moment.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """

    __module__ = "resilient"

    __slots__ = ()

    def __init__(
        self,
        initial: int = 20,
        *,
        minimum: int = 1,
        maximum: int = 200,
        window: float | timedelta = 1.0,
        minimum_samples: int = 10,
        percentile: float = 0.9,
        probe_every: float | timedelta = 30.0,
    ) -> None:
        super().__init__(
            initial,
            minimum,
            maximum,
            window,
            minimum_samples,
            percentile,
            probe_every,
        )

    def _step(self, limit: float, latency: float, baseline: float) -> float:
        lg = max(1.0, math.log10(limit))
        if latency == math.inf:
            return limit * _CONGESTED
        queue = limit * (1 - baseline / latency)
        if queue > 6 * lg:
            return limit - lg
        if queue <= lg:
            return limit + 6 * lg
        return limit + lg if queue < 3 * lg else limit
