"""What is noted about single calls and runs: their durations, and their spans.

Nothing here raises: an observer must not break a call.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import context, trace
from opentelemetry.trace import Span, Status, StatusCode, Tracer, set_span_in_context

from resilient._calls.call import Call, Run
from resilient._calls.outcome import Outcome, outcome_label
from resilient._events.listeners import log_once
from resilient._runtimes import clock
from resilient.telemetry._attributes import Attribute

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram

RESEND_COUNT = "http.request.resend_count"


@contextmanager
def _harmless(text: str) -> Generator[None, None, None]:
    try:
        yield
    except Exception:
        log_once(text)


class CallObserver:
    """Notes down each call: what `resilient._calls.call.observe` is set to.

    Args:
        calls, attempts: Where durations are recorded; None: nowhere.
        tracer: Whose spans attempts are; None: they are none.
        waits: Whether the tracer is the global one, whose SDK may yet come.
    """

    __slots__ = ("attempts", "calls", "tracer", "waits")

    def __init__(
        self,
        calls: Histogram | None,
        attempts: Histogram | None,
        tracer: Tracer | None,
        *,
        waits: bool = False,
    ) -> None:
        self.calls = calls
        self.attempts = attempts
        self.tracer = tracer
        self.waits = waits

    def __call__(self, call: Call) -> CallObservation | None:
        if call.policy is None:
            # A `deadline_after`, which calls nothing.
            return None
        if self.waits and self.calls is None and self.attempts is None:
            # NB: asked at each call: an SDK may arrive at any time. A span
            # that is none costs ten times as much.
            if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
                return None
            self.waits = False
        return CallObservation(self)


class CallObservation:
    """One call that is noted down.

    Attributes:
        recorded: The `id` of the error that a call inside this one recorded.
    """

    __slots__ = ("_began", "_watch", "recorded")

    def __init__(self, watch: CallObserver) -> None:
        self._watch = watch
        self._began = clock.now()
        self.recorded: int | None = None

    def began(self, call: Call, run: Run) -> Callable[[Outcome | None], None]:
        assert call.policy is not None
        labels = {"pipeline": call.policy.placement.policy, "kind": run.value}
        began = clock.now()
        attempts = self._watch.attempts
        span = self._begin_span(call, labels)

        def ended(outcome: Outcome | None) -> None:
            if span is not None:
                self._end_span(call, span, outcome)
            if attempts is not None:
                with _harmless("a duration could not be recorded"):
                    told = {**labels, "outcome": outcome_label(outcome)}
                    attempts.record(clock.now() - began, told)

        return ended

    def ended(self, call: Call, outcome_label: str) -> None:
        assert call.policy is not None
        calls = self._watch.calls
        if calls is not None:
            with _harmless("a duration could not be recorded"):
                told = {
                    "pipeline": call.policy.placement.policy,
                    "outcome": outcome_label,
                }
                calls.record(clock.now() - self._began, told)

    def _begin_span(self, call: Call, labels: dict[str, str]) -> _OpenSpan | None:
        tracer = self._watch.tracer
        if tracer is None:
            return None
        self.recorded = None
        with _harmless("an attempt could not be traced"):
            attributes: dict[str, Attribute] = {
                "resilient.pipeline": labels["pipeline"],
                "resilient.call": call.name,
                "resilient.attempt": call.attempt,
                "resilient.kind": labels["kind"],
            }
            if call.resends and call.attempt > 1:
                attributes[RESEND_COUNT] = call.attempt - 1
            span = tracer.start_span(f"{call.name} attempt", attributes=attributes)
            if span.get_span_context().is_valid:
                return _OpenSpan(span)
        return None

    def _end_span(self, call: Call, span: _OpenSpan, outcome: Outcome | None) -> None:
        with _harmless("an attempt could not be traced"):
            error = None if outcome is None else outcome.error
            if error is not None and self.recorded != id(error):
                _record(span.span, error)
                # NB: once: not again by the calls that it goes through.
                enclosing = call.enclosing
                while enclosing is not None:
                    observation = enclosing.extras.observation
                    if isinstance(observation, CallObservation):
                        observation.recorded = id(error)
                    enclosing = enclosing.enclosing
            span.end(outcome_label(outcome), error)


class _OpenSpan:
    """A span that is the current one until it ends."""

    __slots__ = ("_here", "_token", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self._here = _here.set(None)
        self._token = context.attach(set_span_in_context(span))

    def end(self, outcome_label: str, error: Exception | None) -> None:
        try:
            _here.reset(self._here)
        except ValueError:
            # A call that the collector closes ends in some other context,
            # where the span was never current.
            pass
        else:
            context.detach(self._token)
        self.span.set_attribute("resilient.outcome", outcome_label)
        if error is not None:
            name = type(error).__qualname__
            self.span.set_attribute("error.type", name)
            self.span.set_status(Status(StatusCode.ERROR, name))
        self.span.end()


# Tells the context that a span began in from every other one.
_here: ContextVar[None] = ContextVar("resilient.telemetry")


def _record(span: Span, error: Exception) -> None:
    """Record an exception by its type and stack.

    Not by `Span.record_exception`: its text may hold a URL's query, or what
    was passed to a function.
    """
    if span.is_recording():
        stack = "".join(traceback.format_tb(error.__traceback__))
        kind = type(error)
        told = {
            "exception.type": f"{kind.__module__}.{kind.__qualname__}",
            "exception.stacktrace": f"{stack}{kind.__qualname__}",
        }
        span.add_event("exception", told)
