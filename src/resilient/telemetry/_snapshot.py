"""What metrics say at one moment: read from policies and counts, and merged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from resilient._events.counters import all_counters
from resilient._observing.health import merged, readings
from resilient._observing.shown import shown
from resilient.telemetry._catalogue import BY_NAME, KINDS, OUTCOMES, Metric

CALLS, ATTEMPTS = "resilient.calls", "resilient.attempts"


class Point(NamedTuple):
    """One number of a metric, and its labels."""

    value: int | float
    labels: dict[str, str]


def snapshot() -> dict[str, list[Point]]:
    """Read everything once; return the points of every metric that has any."""
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    statuses: dict[tuple[str, str, str], list[Any]] = defaultdict(list)
    for reading in readings():
        labelled = reading.pipeline, reading.policy
        for outcome in OUTCOMES:
            counts[CALLS, reading.pipeline, outcome] += 0
        for run in KINDS:
            counts[ATTEMPTS, reading.pipeline, run] += 0
        for metric, *labels in reading.kind.metrics:
            counts[metric, *labelled, *labels] += 0
        for key, value in reading.status.items():
            statuses[*labelled, key].append(value)
    for pipeline, counters in all_counters().items():
        if counters.successes:
            counts[CALLS, pipeline, "success"] += counters.successes
        if counters.originals:
            counts[ATTEMPTS, pipeline, "original"] += counters.originals
        # NB: copied in one step; other threads go on counting.
        for (metric, *labels), number in list(counters.counts.items()):
            counts[metric, pipeline, *labels] += number

    points: dict[str, list[Point]] = defaultdict(list)
    for (name, *values), number in counts.items():
        if name in BY_NAME:
            told = dict(zip(BY_NAME[name].labels, values, strict=True))
            points[name].append(Point(number, told))
    for (pipeline, policy, key), values in statuses.items():
        name = f"resilient.{key}"
        if name in BY_NAME:
            place = {"pipeline": pipeline, "policy": policy}
            points[name] += _points(BY_NAME[name], place, merged(key, values))
    for monitor, status in shown():
        for key, value in status.items():
            name = f"resilient.{key}"
            if name in BY_NAME:
                points[name] += _points(BY_NAME[name], {"monitor": monitor}, value)
    return points


def _points(metric: Metric, place: dict[str, str], value: Any) -> Iterable[Point]:
    if value is None:
        return
    if isinstance(value, Mapping):
        label = metric.labels[-1]
        by_label = cast("Mapping[str, Any]", value)
        for state in metric.states or by_label:
            yield Point(by_label.get(state, 0), {**place, label: state})
    else:
        yield Point(value, place)
