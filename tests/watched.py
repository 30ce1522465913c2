"""An OpenTelemetry SDK that keeps everything in memory, for tests of telemetry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from resilient import __version__, telemetry
from resilient._calls import call as call_module
from resilient._events import counters
from resilient._policy import policy

Labels = tuple[tuple[str, Any], ...]


@contextmanager
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a test see its own policies only, and leave nothing turned on."""
    monkeypatch.setattr(policy, "living", WeakValueDictionary())
    monkeypatch.setattr(counters, "_all_counters", WeakValueDictionary())
    yield
    telemetry.uninstrument()
    assert None is call_module.observe


class Sdk:
    """A provider of each kind, and what they were given."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))

    def metrics(self) -> list[Any]:
        """Collect; return the metrics as the SDK has them."""
        data = self._reader.get_metrics_data()
        if not isinstance(data, MetricsData):
            return []
        [resource] = data.resource_metrics
        [scope] = resource.scope_metrics
        assert "resilient" == scope.scope.name
        assert __version__ == scope.scope.version
        return list(scope.metrics)

    def points(self, pipeline: str) -> dict[str, dict[Labels, Any]]:
        """Collect; return the points of one pipeline, by name and other labels."""
        found: dict[str, dict[Labels, Any]] = {}
        for metric in self.metrics():
            for point in metric.data.data_points:
                labels = dict(point.attributes)
                if labels.pop("pipeline", None) == pipeline:
                    values = found.setdefault(metric.name, {})
                    values[tuple(sorted(labels.items()))] = point
        return found

    def values(self, pipeline: str) -> dict[str, dict[Labels, Any]]:
        """The same with the values, or the counts, of the points that are not 0."""
        return {
            name: {
                labels: value
                for labels, point in points.items()
                if (value := getattr(point, "value", getattr(point, "count", None)))
            }
            for name, points in self.points(pipeline).items()
        }

    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in that order."""
        return list(self._exporter.get_finished_spans())

    @contextmanager
    def span(self, name: str = "outer") -> Iterator[None]:
        """Have a current span, as a user's code has."""
        with self.tracers.get_tracer("test").start_as_current_span(name):
            yield

    @contextmanager
    def instrumented(self, **settings: Any) -> Iterator[None]:
        """Instrument everything with it."""
        telemetry.instrument(
            meter_provider=self.meters, tracer_provider=self.tracers, **settings
        )
        try:
            yield
        finally:
            telemetry.uninstrument()
