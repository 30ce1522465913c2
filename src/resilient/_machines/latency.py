"""Limits that go by latency: sampling windows, a baseline, and probes.

They compare what a call takes now with what it would take without any
queue, the *baseline*. Both are measured here; what follows from them is the
business of `vegas` and `gradient`.

Ground rules:

* One number a window: a percentile of the latencies of its calls. A window
  lasts at least `window` seconds and until it has `minimum_samples`, so that
  little traffic makes long windows, never bad ones.
* A congested call counts as one that took for ever. So a call that failed
  fast can never look like a fast one, and a window of which more than
  1 - `percentile` was congested took for ever too.
* A latency of 0 or less is no sample: some clocks stand still for 15 ms.
* A window that is faster than the baseline lowers it, by a fifth of the way:
  windows scatter, and the least of many would be too low for all others.
* **Nothing raises the baseline but a probe.** An average, however slow, ends
  up at the latency of an overload that lasts.

A probe is the only way to tell a dependency that became slower from one that
queues because of us::

            only slower windows
            for `probe_every` seconds        a third may run
    STEADY --------------------------> DRAIN ----------------> PROBE
      ^                                  |                       |
      '----------------------------------'-----------------------'
        time is over: the baseline stays   a window: what it measured is
                                           the baseline

* During a probe a third of what ran before may run, not one call at a time.
  Where no call would queue, that is half the traffic or more: the limits let
  about twice as many run as the dependency can work on.
* Only calls that began after the drain count: one that began before has stood
  in the very queue that is to be measured without. (The limit's epoch.)
* While the latency is good there is nothing to find out, and so no probe.
* A probe ends in time even if no call ends: `limit` is asked before a call is
  refused.
* There is no jitter, on purpose: clients that share a dependency come to doubt
  at the same moment and drain its queue together.

Source: windows and percentiles, Netflix's concurrency-limits and Envoy's
adaptive concurrency; the probe, N. Cardwell et al., "BBR: Congestion-Based
Congestion Control", 2016.
"""

from __future__ import annotations

import math
from datetime import timedelta

from resilient._machines.aimd import Settings
from resilient._values.checks import count, ratio, seconds
from resilient._values.records import Record

__all__ = ["Latency", "LatencyLimit", "Window"]

_KEPT = 1000
"""Latencies kept in one window; of more, every second, fourth, … one is."""

_WEIGHT = 0.2
"""How far a faster window draws the baseline."""


class Window(Record):
    """What one window says.

    Attributes:
        latency: Its percentile, in seconds; infinite: congested.
        peak: Most calls that ran at once.
    """

    __slots__ = ("latency", "peak")

    latency: float
    peak: int


class Latency:
    """Latencies in, a window from time to time out.

    Args:
        window: Least length of a window, in seconds.
        minimum_samples: Least samples of a window.
        percentile: Which latency stands for a window, above 0 to 1.
        probe_every: Seconds of windows that are slower than the baseline
            after which it is measured anew.

    Attributes:
        baseline: Seconds; infinite as long as nothing is known.
        cap: Calls that may run at once during a probe, else None.
    """

    __slots__ = (
        "_closes",
        "_congested",
        "_doubted",
        "_draining",
        "_epoch",
        "_peak",
        "_probe_ends",
        "_samples",
        "_skip",
        "_skipped",
        "baseline",
        "cap",
        "minimum_samples",
        "percentile",
        "probe_every",
        "window",
    )

    _congested: int
    _peak: int
    _skip: int
    _skipped: int

    def __init__(
        self, window: float, minimum_samples: int, percentile: float, probe_every: float
    ) -> None:
        self.window = window
        self.minimum_samples = minimum_samples
        self.percentile = percentile
        self.probe_every = probe_every
        self.baseline = math.inf
        self.cap: int | None = None
        # Whether those who ran before the probe are still leaving.
        self._draining = False
        # Calls that began before it are no samples.
        self._epoch = -math.inf
        self._probe_ends = math.inf
        # Since when every window has been slower than the baseline.
        self._doubted: float | None = None
        self._open(-math.inf)

    def add(
        self, now: float, latency: float, in_flight: int, congested: bool
    ) -> Window | None:
        """Take a call that ended; return the window that it closed, if any.

        What a probe measures is for the baseline alone: it closes none.
        """
        if self.cap is not None:
            self.end_overdue_probe(now)
        if self._draining:
            # NB: this one leaves, and may be the last that had to.
            if in_flight - 1 <= (self.cap or 0):
                self._draining = False
                self._epoch = now
                self._open(now)
            return None
        if now - latency < self._epoch or (latency <= 0 and not congested):
            return None
        if self._closes == -math.inf:
            self._open(now - latency)
        if in_flight > self._peak:
            self._peak = in_flight
        if congested:
            self._congested += 1
        else:
            self._sample(latency)
        known = len(self._samples) * self._skip + self._congested
        if known < self.minimum_samples or now < self._closes:
            return None
        latency = self._percentile()
        window = Window(latency, self._peak)
        self._open(now)
        if self.cap is not None:
            if latency < math.inf:
                self.baseline = latency
            self._end_probe(now)
            return None
        if latency > self.baseline:
            if self._doubted is None:
                self._doubted = now
            elif now - self._doubted >= self.probe_every:
                self._begin_probe(now, window)
        else:
            self._doubted = None
            if self.baseline == math.inf:
                self.baseline = latency
            else:
                self.baseline += _WEIGHT * (latency - self.baseline)
        return window

    def end_overdue_probe(self, now: float) -> None:
        """Go on as before if a probe has taken too long."""
        if now >= self._probe_ends:
            self._end_probe(now)

    def _open(self, now: float) -> None:
        self._closes = now + self.window
        self._samples: list[float] = []
        self._congested = self._peak = self._skipped = 0
        # Of so many latencies one is kept.
        self._skip = 1

    def _sample(self, latency: float) -> None:
        self._skipped += 1
        if self._skipped >= self._skip:
            self._skipped = 0
            self._samples.append(latency)
            if len(self._samples) >= _KEPT:
                del self._samples[::2]
                self._skip *= 2

    def _percentile(self) -> float:
        total = len(self._samples) * self._skip + self._congested
        # NB: a hair less: 0.9 * 10 may come out above 9.
        place = math.ceil(self.percentile * total - 1e-9) - 1
        place //= self._skip
        return sorted(self._samples)[place] if place < len(self._samples) else math.inf

    def _begin_probe(self, now: float, window: Window) -> None:
        self.cap = max(1, window.peak // 3)
        self._draining = True
        # Those that run need a latency to drain, the samples another one.
        length = self.window if window.latency == math.inf else window.latency
        self._probe_ends = now + self.window + 4 * length

    def _end_probe(self, now: float) -> None:
        self.cap, self._draining, self._doubted = None, False, None
        self._probe_ends = math.inf
        self._open(now)


class LatencyLimit(Settings):
    """A limit that takes one step a window."""

    __slots__ = (
        "_latency",
        "minimum_samples",
        "percentile",
        "probe_every",
        "window",
    )

    def __init__(
        self,
        initial: int,
        minimum: int,
        maximum: int,
        window: float | timedelta,
        minimum_samples: int,
        percentile: float,
        probe_every: float | timedelta,
    ) -> None:
        super().__init__(initial, minimum, maximum)
        self.window: float = seconds("window", window, zero=False)
        self.minimum_samples: int = count("minimum_samples", minimum_samples, minimum=1)
        self.percentile: float = ratio("percentile", percentile)
        self.probe_every: float = seconds("probe_every", probe_every, zero=False)
        self._latency = Latency(
            self.window, self.minimum_samples, self.percentile, self.probe_every
        )

    @property
    def baseline(self) -> float | None:
        """Seconds that a call takes without a queue; None: not known yet."""
        baseline = self._latency.baseline
        return None if baseline == math.inf else baseline

    def limit(self, now: float) -> int:
        """Return the limit that holds at `now`."""
        self._latency.end_overdue_probe(now)
        return self._present()

    def update(
        self, now: float, latency: float, in_flight: int, congested: bool
    ) -> int:
        """Learn from a call that ended, and return the limit from now on."""
        window = self._latency.add(now, latency, in_flight, congested)
        if window is not None and (
            # NB: of little traffic neither growth nor latency is our doing.
            window.latency == math.inf or window.peak * 2 >= self._limit
        ):
            limit = self._step(self._limit, window.latency, self._latency.baseline)
            self._limit = max(float(self.minimum), min(float(self.maximum), limit))
        return self._present()

    def _step(self, limit: float, latency: float, baseline: float) -> float:
        """Return the next limit, within its bounds or not."""
        raise NotImplementedError

    def _present(self) -> int:
        cap = self._latency.cap
        return int(self._limit) if cap is None else min(cap, int(self._limit))
