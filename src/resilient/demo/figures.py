"""The figures of a run: what each client got out of the same day."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from resilient import CallRejected, CircuitChanged, RetriesExhausted, TimedOut
from resilient.demo.day import RATE, Day, Phase
from resilient.demo.load import Log, Request

_GAVE_UP: Final = ("attempts", "deadline", "budget exhausted")
"""Reasons of a Retry that gave up on a failure; others let the outcome pass."""


@attrs.frozen
class Figures:
    """What one client got.

    Attributes:
        requests: How many it was asked for.
        answered: Share of them that was answered: on the whole day ("all")
            and by phase.
        p50, p99: Seconds from the moment a request was due to its answer or
            error, of those due in fair weather.
        attempts: How often it asked the server.
        attempts_per_request: The same, per request.
        attempts_in_outage: How often while the server was out.
        errors: How many requests ended with which type of error.
    """

    requests: int
    answered: dict[str, float]
    p50: float
    p99: float
    attempts: int
    attempts_per_request: float
    attempts_in_outage: int
    errors: dict[str, int]


@attrs.frozen
class Transition:
    """A change of the circuit's state.

    Attributes:
        at: Seconds since the day began.
        old, new: Names of the states.
        reason: What caused it.
        calls, failed: What it was decided by.
    """

    at: float
    old: str
    new: str
    reason: str
    calls: int
    failed: int


@attrs.frozen
class Results:
    """A whole run; every number of seconds counts from the start of the day.

    Attributes:
        seed, seconds, rate: What was asked for; requests a second.
        pipeline: How the protected client was protected.
        faults: Fingerprint of what the server gave to which request.
        outage, recovery, settled: When the server went, came back, and when
            what follows counts as fair weather again.
        bare, protected: What the clients got.
        circuit: What the breaker did.
        rejected: Attempts that the breaker refused, by reason.
        gave_up: Requests that were not retried again, by reason.
        cut_short: Attempts or requests that a Timeout ended, by its seconds.
    """

    seed: int
    seconds: int
    rate: int
    pipeline: str
    faults: str
    outage: float
    recovery: float
    settled: float
    bare: Figures
    protected: Figures
    circuit: list[Transition]
    rejected: dict[str, int]
    gave_up: dict[str, int]
    cut_short: dict[str, int]


def results(day: Day, pipeline: str, faults: str, log: Log) -> Results:
    """Draw up the figures of a run."""
    events = [event for _, event in log.events]
    return Results(
        seed=day.seed,
        seconds=day.seconds,
        rate=RATE,
        pipeline=pipeline,
        faults=faults,
        outage=day.outage,
        recovery=day.recovery,
        settled=day.settled,
        bare=_figures(day, log.bare),
        protected=_figures(day, log.protected),
        circuit=[
            Transition(
                round(at, 3),
                event.old,
                event.new,
                event.reason,
                event.calls,
                event.failed,
            )
            for at, event in log.events
            if isinstance(event, CircuitChanged)
        ],
        rejected=counted(
            event.reason or event.error_type
            for event in events
            if isinstance(event, CallRejected)
        ),
        gave_up=counted(
            event.reason
            for event in events
            if isinstance(event, RetriesExhausted) and event.reason in _GAVE_UP
        ),
        cut_short=counted(
            f"{event.seconds:g}" for event in events if isinstance(event, TimedOut)
        ),
    )


def percentile(seconds: Iterable[float], share: float) -> float:
    """Return the smallest number that `share` of all do not exceed."""
    ordered = sorted(seconds)
    return ordered[math.ceil(share * len(ordered)) - 1]


def _figures(day: Day, requests: Sequence[Request]) -> Figures:
    phases = {
        phase: [request for request in requests if day.phase(request.due) is phase]
        for phase in Phase
    }
    took = [_seconds(request) for request in phases[Phase.FAIR]]
    sent = [at for request in requests for at in request.attempts]
    answered = {"all": answered_share(requests)}
    answered.update(
        (phase.value, answered_share(among)) for phase, among in phases.items()
    )
    return Figures(
        requests=len(requests),
        answered=answered,
        p50=round(percentile(took, 0.5), 4),
        p99=round(percentile(took, 0.99), 4),
        attempts=len(sent),
        attempts_per_request=round(len(sent) / len(requests), 3),
        attempts_in_outage=sum(day.outage <= at < day.recovery for at in sent),
        errors=counted(
            request.error for request in requests if request.error is not None
        ),
    )


def answered_share(requests: Sequence[Request]) -> float:
    """Return which share of them was answered."""
    return sum(request.error is None for request in requests) / len(requests)


def _seconds(request: Request) -> float:
    assert request.ended is not None
    return request.ended - request.due


def counted(words: Iterable[str]) -> dict[str, int]:
    """Count, the most frequent first."""
    return dict(Counter(words).most_common())
