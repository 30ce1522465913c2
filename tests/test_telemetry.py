"""Metrics through OpenTelemetry, and turning telemetry on and off."""

from __future__ import annotations

import functools
import gc
import importlib
import logging
import re
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider
from tests.colours import World, in_async_colours, in_every_colour
from tests.watched import Labels, Sdk, alone

import resilient
from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Balance,
    Bulkhead,
    Check,
    CircuitBreaker,
    Coalesce,
    EndpointState,
    Event,
    Fallback,
    Hedge,
    Limit,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    RejectedError,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    constant,
    deadline_after,
    telemetry,
)
from resilient._calls import call as call_module
from resilient._events import listeners
from resilient._machines.circuit_records import CircuitState
from resilient._observing.host import HostReading
from resilient.discovery import poll
from resilient.host import HostMonitor, LoadShedder
from resilient.telemetry import _attributes, _logs, _metrics
from resilient.telemetry._catalogue import (
    BY_NAME,
    HISTOGRAMS,
    KINDS,
    METRICS,
    OUTCOMES,
)
from resilient.testing import MemoryStore

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with alone(monkeypatch):
        yield


async def nothing() -> None:
    """Take no time."""


async def fail() -> None:
    """Fail at once."""
    raise OSError("down")


def labels(**values: str) -> Labels:
    """Labels as `Sdk.values` has them; two underscores are a dot."""
    return tuple(sorted((k.replace("__", "."), v) for k, v in values.items()))


# -- Metrics


@in_every_colour
async def test_counters_and_gauges_are_read_at_collection(w: World) -> None:
    """What happened before telemetry was turned on is in the counters, too."""
    sdk = Sdk()
    policy = Pipeline(
        Retry(OSError, backoff=constant(0), name="again"),
        CircuitBreaker(failure_rate=1.0, minimum_calls=4, name="circuit"),
        Bulkhead(5, name="slots"),
        name="api",
    )
    with pytest.raises(OSError, match="down"):
        await w.call(policy, fail)
    with sdk.instrumented(histograms=(), logs=False):
        first = sdk.values("api")
        await w.call(policy, nothing)
        second = sdk.values("api")
    failed = labels(policy="again", reason="attempts")
    assert {
        "resilient.calls": {labels(outcome="failure"): 1},
        "resilient.attempts": {labels(kind="original"): 1, labels(kind="retry"): 2},
        "resilient.rejections": {},
        "resilient.retry.exhausted": {failed: 1},
        "resilient.permit.waits": {},
        "resilient.circuit.state": {labels(policy="circuit", state="closed"): 1},
        "resilient.circuit.failure_rate": {labels(policy="circuit"): 1.0},
        "resilient.circuit.slow_rate": {},
        "resilient.bulkhead.in_use": {},
        "resilient.bulkhead.queued": {},
        "resilient.bulkhead.limit": {labels(policy="slots"): 5},
        "resilient.budget.balance": {labels(policy="again"): 8.0},
        "resilient.budget.capacity": {labels(policy="again"): 10.0},
    } == first
    assert {labels(outcome="failure"): 1, labels(outcome="success"): 1} == second[
        "resilient.calls"
    ]
    assert {labels(kind="original"): 2, labels(kind="retry"): 2} == second[
        "resilient.attempts"
    ]
    assert {labels(policy="circuit"): 0.75} == second["resilient.circuit.failure_rate"]


def test_series_exist_before_anything_happens() -> None:
    """An alert on a rate needs the 0 that was there before."""
    sdk = Sdk()
    policy = Pipeline(
        Fallback(None), Timeout(1), CircuitBreaker(name="circuit"), name="idle"
    )
    with sdk.instrumented():
        points = sdk.points("idle")
    states = [state.value for state in CircuitState]
    expected = {labels(policy="circuit", state=state) for state in states}
    assert expected == set(points["resilient.circuit.state"])
    assert {labels(outcome=outcome) for outcome in OUTCOMES} == set(
        points["resilient.calls"]
    )
    assert {labels(kind=kind) for kind in KINDS} == set(points["resilient.attempts"])
    assert {labels(policy="Fallback")} == set(points["resilient.fallbacks"])
    assert {
        labels(policy="Timeout", delivered=word) for word in ("true", "false")
    } == set(points["resilient.timeouts"])
    assert policy.counters.successes == 0


@pytest.mark.parametrize(
    ("make", "error", "waits"),
    [
        (AdaptiveConcurrency, "ConcurrencyLimitedError", True),
        (AdaptiveThrottle, "ThrottledError", False),
        (functools.partial(Bulkhead, 1), "BulkheadFullError", True),
        (CircuitBreaker, "CircuitOpenError", False),
        (functools.partial(RateLimiter, 1), "RateLimitedError", True),
    ],
)
def test_so_do_the_series_of_the_policy_that_rejects(
    make: Callable[..., Policy[Any]], error: str, waits: bool
) -> None:
    """And those of waits, where it has a line."""
    sdk = Sdk()
    policy = Pipeline(make(name="gate"), name="idle")
    with sdk.instrumented():
        points = sdk.points("idle")
    rejected = labels(policy="gate", error__type=error, mode="enforced")
    assert {rejected} == set(points["resilient.rejections"])
    waited = {labels(policy="gate")} if waits else set[Labels]()
    assert waited == set(points.get("resilient.permit.waits", ()))
    assert policy.counters.successes == 0


@in_every_colour
async def test_an_open_circuit_shows_its_state_and_the_calls_it_refuses(
    w: World,
) -> None:
    """1 for the state it is in, 0 for the others."""
    sdk = Sdk()
    breaker = CircuitBreaker(consecutive_failures=1, name="circuit")
    policy = Pipeline(breaker, name="broken")
    with sdk.instrumented(logs=False):
        with pytest.raises(OSError, match="down"):
            await w.call(policy, fail)
        with pytest.raises(RejectedError):
            await w.call(policy, fail)
        values = sdk.values("broken")
        breaker.observe()
        observing = sdk.values("broken")
    state = {labels(policy="circuit", state="open"): 1}
    assert state == values["resilient.circuit.state"]
    refused = labels(policy="circuit", error__type="CircuitOpenError", mode="enforced")
    assert {refused: 1} == values["resilient.rejections"]
    state = {labels(policy="circuit", state="observing"): 1}
    assert state == observing["resilient.circuit.state"]


@in_every_colour
async def test_a_stale_answer_is_a_fallback(w: World) -> None:
    """Its caller sees no error, so the alert on fallbacks has to."""
    sdk = Sdk()
    answers = [OSError("down"), None]

    async def ask() -> str:
        error = answers.pop()
        if error is not None:
            raise error
        return "answer"

    policy = Pipeline(StaleCache(0, 60), name="kept")
    series = labels(policy="StaleCache")
    ask_again = w.decorate(policy, ask)
    with sdk.instrumented(logs=False):
        assert {series} == set(sdk.points("kept")["resilient.fallbacks"])
        assert "answer" == await ask_again()
        assert "answer" == await ask_again()
        values = sdk.values("kept")
    assert {series: 1} == values["resilient.fallbacks"]
    assert 2 == values["resilient.calls"][labels(outcome="success")]
    stale = labels(policy="StaleCache", freshness="stale")
    assert {stale: 1} == values["resilient.cache.answers"]


@in_every_colour
async def test_a_fresh_answer_is_no_fallback(w: World) -> None:
    """Nothing failed: it is counted apart from stale ones, which are seen at 0."""
    sdk = Sdk()
    fresh = labels(policy="StaleCache", freshness="fresh")
    stale = labels(policy="StaleCache", freshness="stale")
    ask = w.decorate(Pipeline(StaleCache(60, 60), name="kept"), nothing)
    with sdk.instrumented(logs=False):
        assert {fresh, stale} == set(sdk.points("kept")["resilient.cache.answers"])
        for _ in range(3):
            await ask()
        values = sdk.values("kept")
    assert {fresh: 2} == values["resilient.cache.answers"]
    assert {} == values["resilient.fallbacks"]


@in_async_colours
async def test_every_metric_of_the_table_is_emitted(w: World) -> None:
    """With the kind, unit, description and labels that the reference shows."""
    sdk = Sdk()
    hosts = PerKey(lambda key: Bulkhead(1), key=lambda key: key, name="hosts")
    policies: tuple[Policy[Any], ...] = (
        Fallback(None),
        Retry(OSError, backoff=constant(1)),
        Balance("a", "b"),
        CircuitBreaker(),
        RateLimiter(10, max_wait=5, shared=MemoryStore(), name="shared"),
        Bulkhead(1, max_queue=1),
        AdaptiveThrottle(),
        AdaptiveConcurrency(),
    )
    everything = Pipeline(*policies, name="everything")
    kept = Pipeline(StaleCache(1, 1), Coalesce(), name="kept")
    crew = Pipeline(Timeout(1, abandon=True), name="crew")
    keyed = Pipeline(hosts, name="keyed")
    found_anew = Balance(poll(lambda: ["a", "b"]), check=Check(nothing), name="found")
    host = HostMonitor(name="host of a test")
    host._begin()
    host._system = HostReading(0.5, 4096, 0.5, 5, 0.5)
    shedding = Pipeline(LoadShedder(host), name="shedding")

    async def get(key: str) -> None:
        await w.sleep(1)
        raise OSError("down")

    with sdk.instrumented(histograms=HISTOGRAMS):
        call = w.decorate(everything, get)
        await w.gather(lambda: call("a"), lambda: call("b"))
        await w.gather(lambda: w.call(keyed, get, "a"))
        await w.call(kept, nothing)
        await w.call(found_anew, nothing)
        found = {metric.name: metric for metric in sdk.metrics()}
    assert {metric.name for metric in METRICS} == set(found)
    for metric in METRICS:
        data = found[metric.name]
        assert (metric.unit, metric.text) == (data.unit, data.description)
        kind = {"Sum": "counter", "Gauge": "gauge", "Histogram": "histogram"}
        assert metric.kind == kind[type(data.data).__name__]
        assert metric.kind != "counter" or data.data.is_monotonic
        for point in data.data.data_points:
            assert set(metric.labels) == set(point.attributes)
            if metric.buckets:
                assert metric.buckets == tuple(point.explicit_bounds)
    assert ("crew", "shedding") == (crew.name, shedding.name)


@in_async_colours
async def test_runs_apart_from_their_call_are_no_calls(w: World) -> None:
    """A hedge is a run of its own kind; who joins an execution runs nothing."""
    sdk = Sdk()
    hedged = Pipeline(Hedge(1, budget=None, max_threads=4), name="hedged")
    shared = Pipeline(Coalesce(key=lambda: 0), name="shared")
    delays = [10.0, 1.0]

    async def slow() -> None:
        await w.sleep(delays.pop(0))

    async def once() -> None:
        await w.sleep(1)

    with sdk.instrumented(logs=False):
        await w.call(hedged, slow)
        await w.gather(*[lambda: w.call(shared, once)] * 3)
        assert {
            labels(kind="original"): 1,
            labels(kind="hedge"): 1,
        } == sdk.values("hedged")["resilient.attempts"]
        assert {labels(outcome="success"): 1} == sdk.values("hedged")["resilient.calls"]
        values = sdk.values("shared")
    assert {labels(kind="original"): 1} == values["resilient.attempts"]
    assert {labels(outcome="success"): 3} == values["resilient.calls"]
    assert {labels(policy="Coalesce"): 2} == values["resilient.coalesce.joins"]


@pytest.mark.parametrize("family", ["httpx2", "httpx"])
def test_requests_are_counted_by_what_came_of_them(family: str) -> None:
    """Each sending is an attempt, and a response that failed is a failure."""
    library = importlib.import_module(family)
    ours = importlib.import_module(f"resilient.{family}")
    sdk = Sdk()
    statuses = iter([503, 200, 503, 503])
    inner = library.MockTransport(lambda _: library.Response(next(statuses)))
    policy = Pipeline(
        Retry(attempts=2, backoff=constant(0)), classify=ours.http_verdict, name="http"
    )
    with sdk.instrumented(logs=False, attempt_spans=True):
        with library.Client(
            transport=ours.ResilientTransport(policy, inner=inner)
        ) as c:
            c.get("https://api.test/")
            c.get("https://api.test/")
        values = sdk.values("http")
    assert {
        labels(outcome="success"): 1,
        labels(outcome="failure"): 1,
    } == values["resilient.calls"]
    assert {labels(kind="original"): 2, labels(kind="retry"): 2} == values[
        "resilient.attempts"
    ]
    resends = [span.attributes.get("http.request.resend_count") for span in sdk.spans()]
    assert [None, 1, None, 1] == resends


@pytest.mark.parametrize("family", ["httpx2", "httpx"])
def test_clients_that_are_made_for_each_request_are_counted(family: str) -> None:
    """A total never falls, though the policies that count for it come and go."""
    library = importlib.import_module(family)
    ours = importlib.import_module(f"resilient.{family}")
    sdk = Sdk()
    inner = library.MockTransport(lambda _: library.Response(200))
    totals = []
    with sdk.instrumented(logs=False):
        for _ in range(3):
            for _ in range(10):
                with library.Client(
                    transport=ours.ResilientTransport(inner=inner)
                ) as client:
                    client.get("https://api.test/")
            gc.collect()
            totals.append(sum(sdk.values("http")["resilient.calls"].values()))
    assert [10, 20, 30] == totals


def rows_of(header: str) -> list[list[str]]:
    """The rows of the reference's table whose header begins so, without quotes."""
    text = (ROOT / "docs" / "reference" / "telemetry.md").read_text("utf-8")
    [table] = [block for block in text.split("\n\n") if block.startswith(header)]
    rows = [line.strip("|").split(" | ") for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_reference_has_the_table_of_events() -> None:
    """Every kind of event, its attributes in order, and its level in the log."""
    kinds = [
        kind
        for name in resilient.__all__
        if isinstance(kind := getattr(resilient, name), type)
        and issubclass(kind, Event)
        and kind is not Event
    ]
    shared = {"policy", "call", "pipeline"}
    expected = {}
    for kind in kinds:
        fields = [field for field in kind.fields() if field not in shared]
        told = [
            "error.type" if field == "error_type" else f"resilient.{field}"
            for field in fields
        ]
        level = logging.getLevelName(_logs.LEVELS.get(kind, logging.INFO))
        expected[_attributes.words_for(kind).name] = [told, level]
    assert expected == {
        row[0].strip("`"): [re.findall("`([^`]+)`", row[1]), row[2]]
        for row in rows_of("| event")
    }


def test_the_reference_lists_the_values_of_the_labels() -> None:
    """Each label, and all values of those that are bounded."""
    listed = {
        row[0].strip("`"): re.findall("`([^`]+)`", row[1]) for row in rows_of("| label")
    }
    assert {label for metric in METRICS for label in metric.labels} == set(listed)
    assert list(OUTCOMES) == listed["outcome"][: len(OUTCOMES)]
    assert list(KINDS) == listed["kind"]
    states = [state.value for kind in (CircuitState, EndpointState) for state in kind]
    assert states == listed["state"]
    reasons = [
        labels[0]
        for kind in (Retry, Balance)
        for metric, *labels in kind.metrics
        if "reason" in BY_NAME[metric].labels
    ]
    assert sorted(listed["reason"]) == sorted(reasons)
    assert ["enforced", "observing"] == listed["mode"]
    assert ["true", "false"] == listed["delivered"]
    assert ["tier", "zone"] == listed["to"]
    assert ["fresh", "stale"] == listed["freshness"]


@pytest.mark.real
def test_prometheus_sees_the_names_of_the_table() -> None:
    """In a process of its own: the exporter registers itself globally."""
    program = """
        from opentelemetry import metrics
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.sdk.metrics import MeterProvider
        from prometheus_client import generate_latest
        from resilient import *
        from resilient import telemetry
        from resilient._observing.host import HostReading
        from resilient.discovery import poll
        from resilient.host import HostMonitor, LoadShedder
        from resilient.testing import MemoryStore

        telemetry.instrument(histograms=telemetry._catalogue.HISTOGRAMS)
        metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
        hosts = PerKey(lambda key: Bulkhead(1), key=lambda: "a", name="hosts")
        everything = Pipeline(
            Fallback(None), Timeout(1, abandon=True),
            Retry(OSError, backoff=constant(0.001)), Balance(1, 2), CircuitBreaker(),
            AdaptiveThrottle(), AdaptiveConcurrency(),
            RateLimiter(1000, max_wait=1, shared=MemoryStore(), name="shared"),
            hosts, name="everything",
        )
        kept = Pipeline(StaleCache(1, 1), Coalesce(), name="kept")
        kept.call(int)
        found = Balance(poll(lambda: [1, 2]), check=Check(bool), name="found")
        found.call(int)
        limiter = RateLimiter(1000, burst=1, max_wait=1, name="waits")
        host = HostMonitor()
        host._begin()
        host._system = HostReading(0.5, 4096, 0.5, 5, 0.5)
        shedding = Pipeline(LoadShedder(host), name="shedding")
        @everything
        def get():
            limiter.call(int)
            limiter.call(int)
            raise OSError
        get()
        print(generate_latest().decode())
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        check=True,
        text=True,
    )
    seen = set(re.findall(r"^# TYPE (resilient_\w+)", done.stdout, re.M))
    assert {row[5].strip("`") for row in rows_of("| instrument")} == seen
    # The exporter has told the scope since 0.64.
    exporter = metadata.version("opentelemetry-exporter-prometheus")
    scope = 'otel_scope_name="resilient"' if exporter >= "0.64" else ""
    assert f"resilient_calls_total{{{scope}" in done.stdout


@in_every_colour
async def test_what_keys_have_is_added_up_under_one_name(w: World) -> None:
    """States are counted, rates are the worst, and no label has a key."""
    sdk = Sdk()
    hosts = PerKey(
        lambda key: Pipeline(
            CircuitBreaker(consecutive_failures=1, name=key),
            RateLimiter(10 if key == "a" else 20, per=3600, name=key),
            Bulkhead(3, name=key),
            name=key,
        ),
        key=lambda key, fails: key,
        name="hosts",
    )
    policy = Pipeline(hosts, name="keyed")

    async def get(key: str, fails: bool) -> None:
        if fails:
            raise OSError("down")

    await w.call(policy, get, "a", False)
    for _ in range(2):
        with pytest.raises((OSError, RejectedError)):
            await w.call(policy, get, "b", True)
    with sdk.instrumented(logs=False):
        values = sdk.values("keyed")
    hosts_label = labels(policy="hosts")
    assert {
        labels(policy="hosts", state="closed"): 1,
        labels(policy="hosts", state="open"): 1,
    } == values["resilient.circuit.state"]
    assert {} == values["resilient.circuit.failure_rate"]
    assert {hosts_label: 6} == values["resilient.bulkhead.limit"]
    assert {hosts_label: 2} == values["resilient.per_key.keys"]
    tokens = values["resilient.limiter.tokens"]
    assert {labels(policy="hosts", unit="requests"): 9.0} == tokens
    refused = labels(policy="hosts", error__type="CircuitOpenError", mode="enforced")
    assert {refused: 1} == values["resilient.rejections"]


def test_several_limits_are_told_apart_by_their_unit() -> None:
    """The tighter one of two that count the same."""
    sdk = Sdk()
    limits = [Limit(5, per=60), Limit(100, per=3600), Limit(7, per=60, unit="tokens")]
    limiter = RateLimiter(limits=limits, name="llm")
    with sdk.instrumented():
        values = sdk.values("llm")["resilient.limiter.tokens"]
    assert {
        labels(policy="llm", unit="requests"): 5.0,
        labels(policy="llm", unit="tokens"): 7.0,
    } == values
    assert limiter.name == "llm"


@in_async_colours
async def test_histograms_are_recorded_where_they_are_wanted(w: World) -> None:
    """Only the duration of calls is, unless others are named."""
    sdk = Sdk()
    policy = Pipeline(
        Retry(OSError, backoff=constant(2, jitter="none")),
        Bulkhead(1, max_queue=5),
        name="timed",
    )
    left = [1]

    async def once() -> None:
        await w.sleep(1)
        if left:
            left.pop()
            raise OSError("down")

    call = w.decorate(policy, once)
    with sdk.instrumented(logs=False):
        await w.gather(call, call)
        points = sdk.points("timed")
        assert {"resilient.call.duration"} == points.keys() & set(HISTOGRAMS)
        [point] = points["resilient.call.duration"].values()
        assert (2, 2.0, 4.0) == (point.count, point.min, point.max)
    left.append(1)
    with sdk.instrumented(histograms=HISTOGRAMS, logs=False):
        await w.gather(call, call)
        points = sdk.points("timed")
    sums = {
        name: {labels: round(point.sum, 6) for labels, point in points[name].items()}
        for name in HISTOGRAMS
    }
    assert {
        "resilient.call.duration": {labels(outcome="success"): 12.0},
        "resilient.attempt.duration": {
            labels(kind="original", outcome="failure"): 1.0,
            labels(kind="original", outcome="success"): 1.0,
            labels(kind="retry", outcome="success"): 1.0,
        },
        "resilient.permit.wait": {labels(policy="Bulkhead"): 1.0},
        "resilient.retry.delay": {labels(policy="Retry"): 2.0},
    } == sums


@in_every_colour
async def test_a_deadline_alone_is_no_call(w: World) -> None:
    """`deadline_after` makes no measurement of its own."""
    sdk = Sdk()
    policy = Pipeline(Bulkhead(1), name="inside")
    with sdk.instrumented(logs=False):
        with deadline_after(60):
            await w.call(policy, nothing)
        [point] = sdk.points("inside")["resilient.call.duration"].values()
    assert 1 == point.count


@in_every_colour
async def test_counts_do_not_depend_on_who_watches(w: World) -> None:
    """The same calls make the same counts, timed or not."""
    sdk = Sdk()
    counts: list[dict[str, Any]] = []
    for name in ("plain", "watched"):
        policy = Pipeline(
            Fallback(None),
            Retry(OSError, backoff=constant(0), attempts=2),
            RateLimiter(5, per=3600),
            name=name,
        )
        with sdk.instrumented(histograms=HISTOGRAMS if name == "watched" else ()):
            await w.call(policy, nothing)
            for _ in range(3):
                await w.call(policy, fail)
            values = sdk.values(name)
        counts.append(
            {key: values[f"resilient.{key}"] for key in ("calls", "attempts")}
        )
    assert counts[0] == counts[1]
    assert {labels(outcome="success"): 4} == counts[0]["calls"]


def test_instruments_keep_no_pipeline_alive() -> None:
    """Nor a policy that is used alone; what they counted stays, gauges end."""
    sdk = Sdk()
    with sdk.instrumented():
        pipeline, breaker = (
            Pipeline(Bulkhead(1), name="gone"),
            CircuitBreaker(name="too"),
        )
        pipeline.call(int)
        breaker.call(int)
        found = [weakref.ref(pipeline), weakref.ref(breaker)]
        assert sdk.points("gone")
        assert sdk.points("too")
        del pipeline, breaker
        gc.collect()
        assert [None, None] == [one() for one in found]
        totals = {"resilient.call.duration", "resilient.calls", "resilient.attempts"}
        assert totals == set(sdk.points("gone"))
        assert totals == set(sdk.points("too"))


def test_a_shared_policy_is_shown_once_and_counted_where_it_was_called() -> None:
    """Its gauges stand under the first pipeline that it was put into."""
    sdk = Sdk()
    limiter = RateLimiter(1, per=3600, name="shared")
    first = Pipeline(limiter, name="first")
    second = Pipeline(limiter, name="second")
    second.call(int)
    with pytest.raises(RejectedError):
        second.call(int)
    with sdk.instrumented():
        one, other = sdk.values("first"), sdk.values("second")
    assert "resilient.limiter.tokens" in one
    assert "resilient.limiter.tokens" not in other
    assert {} == one["resilient.calls"]
    assert 1 == sum(other["resilient.rejections"].values())
    assert first.policies == second.policies


def test_a_status_that_fails_hurts_only_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged once; a policy that is half made is not even that."""

    class Broken(Policy[Any]):
        def status(self) -> dict[str, Any]:
            raise RuntimeError("status")

    class Unknown(Policy[Any]):
        def status(self) -> dict[str, Any]:
            return {"saturation": 1.0, "calls": 5, "mood": "good", **nothing_yet}

    nothing_yet = {"bulkhead.limit": None}
    Unknown.metrics = (("mood.swings", "none"),)
    sdk = Sdk()
    kept = [Broken(), Unknown("fine"), Bulkhead.__new__(Bulkhead)]
    Policy.__init__(kept[2])
    with sdk.instrumented():
        assert {"resilient.calls", "resilient.attempts"} == set(sdk.points("fine"))
        sdk.metrics()
    assert ["the status of a Broken failed (logged once)"] == caplog.messages


def test_a_collection_that_fails_says_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And raises nothing into the SDK."""

    def broken() -> None:
        raise RuntimeError("snapshot")

    sdk = Sdk()
    monkeypatch.setattr(_metrics, "snapshot", broken)
    with sdk.instrumented():
        assert [] == sdk.metrics()
    assert ["the metrics could not be read (logged once)"] == caplog.messages


def test_one_collection_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each further one anew."""
    taken: list[int] = []
    snapshot = _metrics.snapshot

    def counted() -> Any:
        taken.append(1)
        return snapshot()

    monkeypatch.setattr(_metrics, "snapshot", counted)
    sdk = Sdk()
    with sdk.instrumented():
        for number in (1, 2, 3):
            sdk.metrics()
            assert number == len(taken)


@pytest.mark.real
def test_threads_may_collect_while_others_call() -> None:
    """No count is lost, and none falls."""
    sdk = Sdk()
    policy = Pipeline(Bulkhead(100), name="busy")
    stop = threading.Event()
    seen: list[int] = []

    def collect() -> None:
        while not stop.is_set():
            [value] = sdk.values("busy")["resilient.calls"].values() or [0]
            seen.append(value)

    def call() -> None:
        for _ in range(500):
            policy.call(int)

    with sdk.instrumented(histograms=()):
        threads = [threading.Thread(target=call) for _ in range(3)]
        collector = threading.Thread(target=collect)
        collector.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        collector.join()
        assert {labels(outcome="success"): 1500} == sdk.values("busy")[
            "resilient.calls"
        ]
    assert sorted(seen) == seen


# -- On and off


def test_instrumenting_again_changes_nothing() -> None:
    """With other arguments, they hold from then on."""
    sdk = Sdk()
    with sdk.instrumented():
        heard, observe = list(listeners.global_listeners), call_module.observe
        with sdk.instrumented():
            assert (heard, observe) == (
                listeners.global_listeners,
                call_module.observe,
            )
        telemetry.uninstrument()
    with sdk.instrumented(histograms=()):
        assert None is call_module.observe
        with sdk.instrumented():
            assert None is not call_module.observe
            assert 1 == len(listeners.global_listeners)


def test_uninstrumenting_leaves_nothing_on() -> None:
    """The instruments stay, as they must, and say nothing; later they go on."""
    sdk, policy = Sdk(), Pipeline(Bulkhead(1), name="on and off")
    with sdk.instrumented():
        policy.call(int)
    telemetry.uninstrument()
    policy.call(int)
    assert {"resilient.call.duration"} == set(sdk.points("on and off"))
    with sdk.instrumented():
        policy.call(int)
        values = sdk.values("on and off")
    assert {labels(outcome="success"): 3} == values["resilient.calls"]
    assert {labels(outcome="success"): 2} == values["resilient.call.duration"]


def test_two_providers_do_not_mix() -> None:
    """Only the one that was named last is told."""
    first, second = Sdk(), Sdk()
    policy = Pipeline(Bulkhead(1), name="moved")
    with first.instrumented():
        policy.call(int)
        with second.instrumented():
            policy.call(int)
            assert {"resilient.call.duration"} == set(first.points("moved"))
            values = second.values("moved")
    assert {labels(outcome="success"): 2} == values["resilient.calls"]
    assert {labels(outcome="success"): 1} == values["resilient.call.duration"]


def test_without_an_sdk_no_call_is_looked_at() -> None:
    """Whatever is wanted, but for spans."""
    telemetry.instrument(meter_provider=NoOpMeterProvider(), histograms=HISTOGRAMS)
    assert None is call_module.observe


@in_every_colour
async def test_without_an_sdk_all_works_the_same(w: World) -> None:
    """Spans of attempts, too, which are none."""
    telemetry.instrument(
        meter_provider=NoOpMeterProvider(),
        tracer_provider=NoOpTracerProvider(),
        histograms=HISTOGRAMS,
        attempt_spans=True,
    )
    policy = Pipeline(
        Fallback("cached"), Retry(OSError, budget=RetryBudget()), name="bare"
    )
    assert "cached" == await w.call(policy, fail)


def test_an_unknown_histogram_is_refused() -> None:
    """By name."""
    with pytest.raises(ValueError, match="`histograms` must be among") as caught:
        telemetry.instrument(histograms=["resilient.calls"])  # type: ignore[list-item]
    assert (
        "`histograms` must be among resilient.call.duration,"
        " resilient.attempt.duration, resilient.permit.wait, resilient.retry.delay,"
        " got 'resilient.calls'"
    ) == str(caught.value)


@pytest.mark.real
def test_an_sdk_may_come_later_than_instrument() -> None:
    """It takes what it finds; and again after telemetry was off meanwhile."""
    program = """
        import logging
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from resilient import Bulkhead, Pipeline, telemetry
        from resilient._calls import call as call_module

        logging.raiseExceptions = True
        complaints = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = complaints.append
        logging.getLogger().addHandler(handler)

        policy = Pipeline(Bulkhead(1), name="late")
        telemetry.instrument()
        policy.call(int)
        assert call_module.observe is None
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
        assert call_module.observe is not None
        policy.call(int)
        telemetry.uninstrument()
        policy.call(int)
        telemetry.instrument()
        policy.call(int)

        [resource] = reader.get_metrics_data().resource_metrics
        [scope] = resource.scope_metrics
        found = {metric.name: metric for metric in scope.metrics}
        values = {
            dict(point.attributes)["outcome"]: point.value
            for point in found["resilient.calls"].data.data_points
        }
        assert values["success"] == 4, values
        [point] = found["resilient.call.duration"].data.data_points
        assert point.count == 2, point
        assert not complaints, complaints
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


@pytest.mark.real
def test_an_sdk_for_spans_may_come_later_too() -> None:
    """Until then no call is looked at; whose other numbers are wanted is."""
    program = """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
            InMemorySpanExporter,
        )
        from resilient import Bulkhead, Pipeline, current_call, telemetry

        policy = Pipeline(Bulkhead(1), name="late")
        looked_at = lambda: current_call().extras.observation is not None

        telemetry.instrument(attempt_spans=True)
        assert not policy.call(looked_at)
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        assert policy.call(looked_at)
        assert policy.call(looked_at)
        assert 2 == len(exporter.get_finished_spans())
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)


@pytest.mark.real
def test_importing_the_package_loads_no_opentelemetry() -> None:
    """Nor does subscribing, or asking for the health."""
    program = """
        import sys, resilient
        resilient.subscribe(print)
        api = resilient.Pipeline(resilient.Bulkhead(1), name="api")
        api.call(int)
        assert resilient.health()
        assert "opentelemetry" not in sys.modules
        assert "logging" not in sys.modules
        """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
