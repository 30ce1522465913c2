"""Gradient: let the latency rise so far above the baseline and no further.

Once a window, from its latency and the baseline (`latency`)::

    gradient = tolerance × baseline / latency      at least 0.5, at most 1
    target   = limit × gradient + headroom
    limit    = (1 - smoothing) × limit + smoothing × target

* The headroom is what lets it grow: a few calls more than it needs now. A
  congested window has a gradient of 0.5 and no headroom.
* It grows only where at least half of it was in use. Where less was, it
  shrinks by congestion alone: the latency of such a window is not its doing.
* With a baseline that stays, it settles where the latency is `tolerance` times
  the baseline. `tolerance` is for latencies that scatter, smoothing for
  windows that do.

Source: Gradient2 of Netflix's concurrency-limits, but for its baseline. That
is an average of all latencies over ten minutes, which an overload that lasts
drags along, until nothing is limited any more. This one is measured by probes,
as Envoy's adaptive concurrency does.
"""

from __future__ import annotations

import math
from datetime import timedelta

from resilient._machines.latency import LatencyLimit
from resilient._values.checks import number, ratio

__all__ = ["Gradient"]


class Gradient(LatencyLimit):
    """Let the latency rise to so many times the baseline, and no further.

    The best for servers, which have many calls a second to learn from and
    must shed load before it times out.

    Args:
        initial: Limit to begin with.
        minimum: Least limit.
        maximum: Greatest limit.
        tolerance: How many times the baseline the latency may be, at least 1.
        headroom: Calls by which the limit may exceed what it needs.
        smoothing: How far a window draws the limit, above 0 to 1.
        window: Seconds between two steps, at least. Windows of 0.25 s scatter
            so much that about a fifth of healthy traffic is rejected.
        minimum_samples: Calls between two steps, at least.
        percentile: Which latency stands for a window. The share of congested
            calls that it leaves out is forgiven.
        probe_every: Seconds of worse latency after which the baseline is
            measured anew, at a third of the load for a moment.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """

    __module__ = "resilient"

    __slots__ = ("headroom", "smoothing", "tolerance")

    def __init__(
        self,
        initial: int = 20,
        *,
        minimum: int = 1,
        maximum: int = 200,
        tolerance: float = 1.5,
        headroom: float = 4.0,
        smoothing: float = 0.2,
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
        self.tolerance: float = number("tolerance", tolerance, minimum=1)
        self.headroom: float = number("headroom", headroom, minimum=0, exclusive=True)
        self.smoothing: float = ratio("smoothing", smoothing)

    def _step(self, limit: float, latency: float, baseline: float) -> float:
        if latency == math.inf:
            target = limit * 0.5
        else:
            gradient = max(0.5, min(1.0, self.tolerance * baseline / latency))
            target = limit * gradient + self.headroom
        return limit + self.smoothing * (target - limit)
