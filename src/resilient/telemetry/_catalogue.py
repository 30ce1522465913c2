"""Every metric there is; docs/reference/telemetry.md shows it as a table."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import attrs

from resilient._machines.circuit_records import CircuitState
from resilient._machines.fleet import EndpointState

Histogram: TypeAlias = Literal[
    "resilient.call.duration",
    "resilient.attempt.duration",
    "resilient.permit.wait",
    "resilient.retry.delay",
]

# From a fast cache's answer to what is not waited for any longer; the values in
# between are those that OpenTelemetry advises for HTTP requests.
_DURATIONS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5),
    *(0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0),
)
# Backoff is 0.1 s at first and 20 s at most, a server's wish up to 60 s.
_DELAYS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0)


@attrs.frozen
class Metric:
    """One metric.

    Attributes:
        name: Its name.
        kind: What it is in OpenTelemetry: counters and gauges are observable.
        unit: Its unit, as UCUM has it.
        text: Its description.
        labels: Its labels; the first is the pipeline, of what a `HostMonitor`
            measures the monitor.
        states: The values of its last label, each of which has a series.
        buckets: The bounds that are advised.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    text: str
    labels: tuple[str, ...]
    states: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_BOTH: Final = ("pipeline", "policy")
_HOST: Final = ("monitor",)

METRICS: Final = (
    Metric(
        "resilient.calls",
        "counter",
        "{call}",
        "logical calls that ended",
        ("pipeline", "outcome"),
    ),
    Metric(
        "resilient.attempts",
        "counter",
        "{attempt}",
        "times a function was run for them",
        ("pipeline", "kind"),
    ),
    Metric(
        "resilient.rejections",
        "counter",
        "{call}",
        "calls refused by a policy",
        (*_BOTH, "error.type", "mode"),
    ),
    Metric(
        "resilient.timeouts",
        "counter",
        "{call}",
        "calls that exceeded a `Timeout`",
        (*_BOTH, "delivered"),
    ),
    Metric(
        "resilient.fallbacks",
        "counter",
        "{call}",
        "failed calls that a `Fallback` or a `StaleCache` answered",
        _BOTH,
    ),
    Metric(
        "resilient.cache.answers",
        "counter",
        "{call}",
        "calls that a `StaleCache` answered",
        (*_BOTH, "freshness"),
    ),
    Metric(
        "resilient.coalesce.joins",
        "counter",
        "{call}",
        "calls that joined the execution of another",
        _BOTH,
    ),
    Metric(
        "resilient.retry.exhausted",
        "counter",
        "{call}",
        "failed calls that were not tried again",
        (*_BOTH, "reason"),
    ),
    Metric(
        "resilient.permit.waits",
        "counter",
        "{call}",
        "permits that were waited for and given",
        _BOTH,
    ),
    Metric(
        "resilient.per_key.evictions",
        "counter",
        "{key}",
        "keys let go of to make room",
        _BOTH,
    ),
    Metric(
        "resilient.per_key.overflows",
        "counter",
        "{call}",
        "calls of new keys that shared a policy, for want of room",
        _BOTH,
    ),
    Metric(
        "resilient.endpoint.ejections",
        "counter",
        "{endpoint}",
        "times that a `Balance` stopped calling an endpoint",
        (*_BOTH, "reason"),
    ),
    Metric(
        "resilient.endpoint.moves",
        "counter",
        "{call}",
        "attempts that went on to another endpoint, refused by one's policies",
        _BOTH,
    ),
    Metric(
        "resilient.balance.spill",
        "counter",
        "{call}",
        "attempts that went to another tier or zone than is preferred",
        (*_BOTH, "to"),
    ),
    Metric(
        "resilient.circuit.state",
        "gauge",
        "{circuit}",
        "1 for the state it is in, 0 for the others",
        (*_BOTH, "state"),
        tuple(state.value for state in CircuitState),
    ),
    Metric(
        "resilient.circuit.failure_rate",
        "gauge",
        "1",
        "share of failures in the window",
        _BOTH,
    ),
    Metric(
        "resilient.circuit.slow_rate",
        "gauge",
        "1",
        "share of slow calls in the window",
        _BOTH,
    ),
    Metric(
        "resilient.bulkhead.in_use",
        "gauge",
        "{call}",
        "calls that run now",
        _BOTH,
    ),
    Metric(
        "resilient.bulkhead.queued",
        "gauge",
        "{call}",
        "calls that wait for a slot now",
        _BOTH,
    ),
    Metric(
        "resilient.bulkhead.limit",
        "gauge",
        "{call}",
        "slots there are",
        _BOTH,
    ),
    Metric(
        "resilient.concurrency.in_use",
        "gauge",
        "{call}",
        "calls that run now",
        _BOTH,
    ),
    Metric(
        "resilient.concurrency.queued",
        "gauge",
        "{call}",
        "calls that wait for a slot now",
        _BOTH,
    ),
    Metric(
        "resilient.concurrency.limit",
        "gauge",
        "{call}",
        "slots there are now, as far as is learnt",
        _BOTH,
    ),
    Metric(
        "resilient.throttle.rejecting",
        "gauge",
        "1",
        "share of calls that would be held back now",
        _BOTH,
    ),
    Metric(
        "resilient.shedder.level",
        "gauge",
        "{class}",
        "classes of calls that a `LoadShedder` refuses now, from batch upwards",
        _BOTH,
    ),
    Metric(
        "resilient.limiter.tokens",
        "gauge",
        "{token}",
        "units that could be taken now; below 0 in debt",
        (*_BOTH, "unit"),
    ),
    Metric(
        "resilient.limiter.queued",
        "gauge",
        "{call}",
        "calls that wait for the limiter now",
        _BOTH,
    ),
    Metric(
        "resilient.budget.balance",
        "gauge",
        "{retry}",
        "retries, or hedges, that could be afforded now",
        _BOTH,
    ),
    Metric(
        "resilient.budget.capacity",
        "gauge",
        "{retry}",
        "the most that can be saved up",
        _BOTH,
    ),
    Metric(
        "resilient.store.up",
        "gauge",
        "1",
        "1 while a shared policy relies on its store, 0 while it does without",
        _BOTH,
    ),
    Metric(
        "resilient.store.members",
        "gauge",
        "{member}",
        "processes that share a policy, as its store has counted them",
        _BOTH,
    ),
    Metric(
        "resilient.store.exchanges",
        "counter",
        "{exchange}",
        "answers of stores to shared policies",
        _BOTH,
    ),
    Metric(
        "resilient.store.exchange.time",
        "counter",
        "s",
        "how long those answers took together",
        _BOTH,
    ),
    Metric(
        "resilient.shared.alone",
        "counter",
        "{call}",
        "calls that shared policies decided without their store",
        _BOTH,
    ),
    Metric(
        "resilient.shared.booked",
        "counter",
        "{unit}",
        "units that were used without asking, and told to the store afterwards",
        _BOTH,
    ),
    Metric(
        "resilient.shared.unused",
        "counter",
        "{unit}",
        "units on lease that were not used",
        _BOTH,
    ),
    Metric(
        "resilient.timeout.abandoned",
        "gauge",
        "{thread}",
        "threads left behind that still run",
        _BOTH,
    ),
    Metric(
        "resilient.per_key.keys",
        "gauge",
        "{key}",
        "keys remembered",
        _BOTH,
    ),
    Metric(
        "resilient.endpoints",
        "gauge",
        "{endpoint}",
        "endpoints of a `Balance` in each state",
        (*_BOTH, "state"),
        tuple(state.value for state in EndpointState),
    ),
    Metric(
        "resilient.balance.panic",
        "gauge",
        "1",
        "1 while a `Balance` ignores its checks, 0 while it goes by them",
        _BOTH,
    ),
    Metric(
        "resilient.discovery.age",
        "gauge",
        "s",
        "how long ago a `Balance` found its endpoints",
        _BOTH,
    ),
    Metric(
        "resilient.discovery.refreshes",
        "counter",
        "{answer}",
        "times that a `Balance` looked for its endpoints",
        (*_BOTH, "outcome"),
    ),
    Metric(
        "resilient.host.loop_lag",
        "gauge",
        "s",
        "how late the event loop was at most, in the last 10 to 20 s",
        _HOST,
    ),
    Metric(
        "resilient.host.cpu",
        "gauge",
        "1",
        "share of the processor time that is used, of the cgroup or the machine",
        _HOST,
    ),
    Metric(
        "resilient.host.memory",
        "gauge",
        "By",
        "memory of the process",
        _HOST,
    ),
    Metric(
        "resilient.host.memory_share",
        "gauge",
        "1",
        "that memory, as a share of what the cgroup or the machine has",
        _HOST,
    ),
    Metric(
        "resilient.host.open_files",
        "gauge",
        "{file}",
        "files and sockets that the process has open",
        _HOST,
    ),
    Metric(
        "resilient.host.open_files_share",
        "gauge",
        "1",
        "those, as a share of what it may have open",
        _HOST,
    ),
    Metric(
        "resilient.call.duration",
        "histogram",
        "s",
        "how long logical calls took, waits and retries included",
        ("pipeline", "outcome"),
        buckets=_DURATIONS,
    ),
    Metric(
        "resilient.attempt.duration",
        "histogram",
        "s",
        "how long single runs of a function took",
        ("pipeline", "kind", "outcome"),
        buckets=_DURATIONS,
    ),
    Metric(
        "resilient.permit.wait",
        "histogram",
        "s",
        "how long permits were waited for",
        _BOTH,
        buckets=_DURATIONS,
    ),
    Metric(
        "resilient.retry.delay",
        "histogram",
        "s",
        "pauses between attempts",
        _BOTH,
        buckets=_DELAYS,
    ),
)

BY_NAME: Final = {metric.name: metric for metric in METRICS}
HISTOGRAMS: Final = tuple(
    metric.name for metric in METRICS if metric.kind == "histogram"
)

# What is 0 until it happens, and is to be seen from the first collection on.
OUTCOMES: Final = ("success", "failure", "error", "rejected", "timeout", "cancelled")
KINDS: Final = ("original", "retry", "hedge", "probe")
