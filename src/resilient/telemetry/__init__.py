"""Telemetry: metrics, span events, spans and logs, through OpenTelemetry.

`instrument` turns it on for every policy of the process, those to come
included; `uninstrument` turns it off. Only opentelemetry-api is needed: while
there is no SDK, nothing is measured.

Source: OpenTelemetry's semantic conventions for names, units and errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
from opentelemetry import metrics, trace

from resilient import __version__
from resilient._calls import call as call_module
from resilient._events.events import Event, PermitWaited, RetryScheduled
from resilient._observing.subscriptions import subscribe
from resilient._values.locks import Lock
from resilient.telemetry._attributes import SCOPE, attributes_of, name_of
from resilient.telemetry._calls import CallObserver
from resilient.telemetry._catalogue import HISTOGRAMS, Histogram
from resilient.telemetry._logs import Logs
from resilient.telemetry._metrics import Instruments, instruments_of

__all__ = ["Histogram", "instrument", "uninstrument"]


@attrs.frozen
class _Settings:
    meter_provider: metrics.MeterProvider | None
    tracer_provider: trace.TracerProvider | None
    histograms: frozenset[str]
    attempt_spans: bool
    logs: bool


def instrument(
    *,
    meter_provider: metrics.MeterProvider | None = None,
    tracer_provider: trace.TracerProvider | None = None,
    histograms: Iterable[Histogram] = ("resilient.call.duration",),
    attempt_spans: bool = False,
    logs: bool = True,
) -> None:
    """Watch every policy of the process.

    Calling it again changes nothing; with other arguments, they hold from
    then on. It may be called before or after the SDK is set up.

    Args:
        meter_provider: Who makes the metrics; None: the global one.
        tracer_provider: Who makes the spans of attempts; None: the global one.
        histograms: Which of the histograms are recorded, by name. An SDK takes
            7–10 µs for each record, so by default only the duration of
            logical calls is: ``resilient.call.duration``. The others are
            ``resilient.attempt.duration``, ``resilient.permit.wait`` and
            ``resilient.retry.delay``.
        attempt_spans: Whether each run of a function is a span of its own,
            with its exception, and the parent of what happens inside.
        logs: Whether events are logged, under ``resilient.<pipeline>``: at
            most 10 lines of a kind in a minute.

    Raises:
        ValueError: There is no such histogram.
    """
    names = frozenset(histograms)
    for name in sorted(names - {*HISTOGRAMS}):
        raise ValueError(
            f"`histograms` must be among {', '.join(HISTOGRAMS)}, got {name!r}"
        )
    settings = _Settings(meter_provider, tracer_provider, names, attempt_spans, logs)
    global _running
    with _changing:
        if _running is not None:
            if _running.settings == settings:
                return
            _running.stop()
        _running = _Instrumentation(settings)


def uninstrument() -> None:
    """Watch no more. What was measured stays with its collector."""
    global _running
    with _changing:
        if _running is not None:
            _running.stop()
            _running = None


class _Instrumentation:
    """Everything that `instrument` turned on."""

    def __init__(self, settings: _Settings) -> None:
        self.settings = settings
        self._logs = Logs() if settings.logs else None
        self._instruments: Instruments = instruments_of(settings.meter_provider)
        # NB: before anything wakes them: an SDK does so holding locks that
        # making a histogram takes, too.
        for name in settings.histograms:
            self._instruments.histogram(name)
        self._instruments.woken = self._watch
        self._instruments.active = True
        self._watch()
        self._unsubscribe: Callable[[], None] = subscribe(self._hear)

    def stop(self) -> None:
        """Turn it off again."""
        self._unsubscribe()
        self._instruments.woken = None
        self._instruments.active = False
        call_module.observe = None

    def _watch(self) -> None:
        """Have calls observed, if an SDK takes the observations."""
        tracer = None
        if self.settings.attempt_spans:
            provider = self.settings.tracer_provider
            tracer = trace.get_tracer(SCOPE, __version__, provider)
        calls = self._histogram("resilient.call.duration")
        attempts = self._histogram("resilient.attempt.duration")
        if calls is not None or attempts is not None or tracer is not None:
            waits = self.settings.tracer_provider is None
            call_module.observe = CallObserver(calls, attempts, tracer, waits=waits)

    def _histogram(self, name: str) -> metrics.Histogram | None:
        # NB: not before an SDK is there: a record that goes nowhere costs, too.
        wanted = self._instruments.real and name in self.settings.histograms
        return self._instruments.histogram(name) if wanted else None

    def _hear(self, event: Event) -> None:
        span = trace.get_current_span()
        if span.is_recording():
            span.add_event(name_of(event), attributes_of(event))
        if self._logs is not None:
            self._logs(event)
        if isinstance(event, PermitWaited):
            self._record("resilient.permit.wait", event.waited, event)
        elif isinstance(event, RetryScheduled):
            self._record("resilient.retry.delay", event.delay, event)

    def _record(self, name: str, seconds: float, event: Event) -> None:
        histogram = self._histogram(name)
        if histogram is not None:
            # NB: not `event.policy`: inside a `PerKey` there may be many.
            pipeline, policy = event.pipeline or "", event.metric_name or event.policy
            histogram.record(seconds, {"pipeline": pipeline, "policy": policy})


# NB: held while an SDK takes the instruments, which comes back to `_watch`.
_changing = Lock()
_running: _Instrumentation | None = None
