"""Metrics: observable instruments over the snapshot, and histograms.

The instruments of OpenTelemetry cannot be taken back, so each provider gets
them once, and `uninstrument` only has them say nothing. Without an SDK the
instruments are proxies, which are never asked. When an SDK takes one of
them, the first callback, a generator, is advanced to its first ``yield``, as
the API promises: so we know, and calls are timed from then on, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Final
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from resilient import __version__
from resilient._events.listeners import log_once
from resilient._runtimes import clock
from resilient._values.locks import Lock
from resilient.telemetry._attributes import SCOPE
from resilient.telemetry._catalogue import BY_NAME, METRICS
from resilient.telemetry._snapshot import Point, snapshot

Observed = Iterable[Observation]

_STALE: Final = 1.0
"""Seconds after which a snapshot is taken anew."""


class Instruments:
    """The instruments of one provider.

    Args:
        provider: Whose.

    Attributes:
        active: Whether they say anything.
        real: Whether an SDK has taken them.
        woken: Called when one does.
    """

    def __init__(self, provider: MeterProvider) -> None:
        self.active: bool = False
        self.real: bool = False
        self.woken: Callable[[], None] | None = None
        self._is_proxy = False
        self._meter = provider.get_meter(SCOPE, __version__)
        self._histograms: dict[str, metrics.Histogram] = {}
        self._lock = Lock()
        self._points: dict[str, list[Point]] = {}
        self._served: set[str] = set()
        self._taken = 0.0
        first = True
        for metric in METRICS:
            if metric.kind == "histogram":
                continue
            create = (
                self._meter.create_observable_counter
                if metric.kind == "counter"
                else self._meter.create_observable_gauge
            )
            callback = self._first(metric.name) if first else self._later(metric.name)
            create(metric.name, [callback], metric.unit, metric.text)
            first = False
        self._is_proxy = not self.real

    def histogram(self, name: str) -> metrics.Histogram:
        """Return a histogram, made when it is first wanted."""
        found = self._histograms.get(name)
        if found is None:
            metric = BY_NAME[name]
            found = self._histograms[name] = self._meter.create_histogram(
                name,
                metric.unit,
                metric.text,
                explicit_bucket_boundaries_advisory=metric.buckets,
            )
        return found

    def _first(self, name: str) -> Generator[Observed, CallbackOptions, None]:
        self.real = True
        if self._is_proxy:
            # NB: the SDK that has taken the place of the proxy has them now.
            _instruments[metrics.get_meter_provider()] = self
        if self.woken is not None:
            self.woken()
        yield ()
        while True:
            yield self._observe(name)

    def _later(self, name: str) -> Callable[[CallbackOptions], Observed]:
        return lambda options: self._observe(name)

    def _observe(self, name: str) -> Observed:
        if not self.active:
            return ()
        try:
            with self._lock:
                now = clock.now()
                # NB: the callbacks of one collection follow each other; who
                # asks twice is a collection further on.
                if name in self._served or not 0 <= now - self._taken < _STALE:
                    self._served.clear()
                if not self._served:
                    self._points, self._taken = snapshot(), now
                self._served.add(name)
                points = self._points.get(name, [])
        except Exception:
            log_once("the metrics could not be read")
            return ()
        return [Observation(point.value, point.labels) for point in points]


_instruments: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


def instruments_of(provider: MeterProvider | None) -> Instruments:
    """Return the instruments of a provider, made when they are first wanted.

    Args:
        provider: Whose; None: those of the global one.
    """
    if provider is None:
        provider = metrics.get_meter_provider()
    found = _instruments.get(provider)
    if found is None:
        found = _instruments[provider] = Instruments(provider)
    return found
