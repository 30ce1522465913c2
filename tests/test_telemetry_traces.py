"""Events on spans, and attempts as spans."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode
from tests.colours import World, in_async_colours, in_every_colour
from tests.test_garbage import no_garbage
from tests.watched import Sdk, alone

from resilient import (
    Bulkhead,
    Call,
    CircuitBreaker,
    Fallback,
    Pipeline,
    RejectedError,
    Retry,
    Timeout,
    constant,
    current_call,
    deadline_after,
)
from resilient._calls import call as call_module
from resilient._edges.driver import Drive
from resilient._runtimes.sync import SYNC
from resilient.telemetry._calls import RESEND_COUNT


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with alone(monkeypatch):
        yield


def told(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    """The events of a span."""
    return [(event.name, dict(event.attributes or {})) for event in span.events]


def failing(times: int) -> Any:
    """Return a function that fails so often, and then does not."""
    left = [times]

    async def fetch(secret: str = "hunter2") -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(f"https://example.org/?password={secret}")
        return secret

    return fetch


@in_every_colour
async def test_events_land_on_the_current_span(w: World) -> None:
    """With their fields as attributes, and no more than those."""
    sdk = Sdk()
    policy = Pipeline(
        Fallback(None),
        Retry(OSError, backoff=constant(1, jitter="none"), attempts=2),
        CircuitBreaker(consecutive_failures=2, name="circuit"),
        name="api",
    )
    with sdk.instrumented(histograms=(), logs=False), sdk.span():
        await w.call(policy, failing(2))
        await w.call(policy, failing(2))
    [span] = sdk.spans()
    place = {"resilient.pipeline": "api", "resilient.call": "fetch"}
    retry = {**place, "resilient.policy": "Retry"}
    assert [
        (
            "resilient.retry_scheduled",
            {**retry, "resilient.attempt": 1, "error.type": "OSError"}
            | {"resilient.delay": 1.0},
        ),
        (
            "resilient.circuit_changed",
            {
                "resilient.pipeline": "api",
                "resilient.policy": "circuit",
                "resilient.old": "closed",
                "resilient.new": "open",
                "resilient.reason": "consecutive_failures",
                "resilient.calls": 2,
                "resilient.failed": 2,
                "resilient.slow": 0,
            },
        ),
        (
            "resilient.retries_exhausted",
            {**retry, "resilient.attempts": 2, "resilient.elapsed": 1.0}
            | {"resilient.reason": "attempts", "error.type": "OSError"},
        ),
        (
            "resilient.fallback_used",
            {**place, "resilient.policy": "Fallback", "error.type": "OSError"},
        ),
        (
            "resilient.call_rejected",
            {**place, "resilient.policy": "circuit", "error.type": "CircuitOpenError"}
            | {"resilient.reason": "open", "resilient.retry_after": 5.0},
        ),
    ] == [
        (name, {k: 5.0 if k == "resilient.retry_after" else v for k, v in more.items()})
        for name, more in told(span)[:5]
    ]
    assert "hunter2" not in repr(told(span))


@in_every_colour
async def test_each_attempt_can_be_a_span(w: World) -> None:
    """A child of the current span, and the parent of what happens inside."""
    sdk = Sdk()
    policy = Pipeline(Retry(OSError, backoff=constant(0)), name="api")
    fetch = failing(1)

    async def request() -> Any:
        with sdk.span("inside"):
            return await fetch()

    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False):
        with sdk.span():
            await w.call(policy, request)
    inside, first, again, second, outer = sdk.spans()
    name = "request attempt"
    assert ["inside", name, "inside", name, "outer"] == [
        span.name for span in (inside, first, again, second, outer)
    ]
    assert outer.context is not None
    for child, parent in (
        (inside, first),
        (again, second),
        (first, outer),
        (second, outer),
    ):
        assert child.parent is not None
        assert parent.context is not None
        assert parent.context.span_id == child.parent.span_id
    assert {
        "resilient.pipeline": "api",
        "resilient.call": "request",
        "resilient.attempt": 1,
        "resilient.kind": "original",
        "resilient.outcome": "failure",
        "error.type": "OSError",
    } == dict(first.attributes or {})
    assert {
        "resilient.pipeline": "api",
        "resilient.call": "request",
        "resilient.attempt": 2,
        "resilient.kind": "retry",
        "resilient.outcome": "success",
    } == dict(second.attributes or {})
    assert (StatusCode.ERROR, "OSError") == (
        first.status.status_code,
        first.status.description,
    )
    assert StatusCode.UNSET is second.status.status_code


@in_every_colour
async def test_an_exception_is_recorded_once_and_without_its_text(w: World) -> None:
    """By the innermost attempt, however many calls it goes through."""
    sdk = Sdk()
    inner = Pipeline(Bulkhead(1), name="inner")
    outer = Pipeline(Bulkhead(1), name="outer")
    fetch = failing(5)

    async def call_inner() -> Any:
        return await w.call(inner, fetch)

    async def call_twice() -> Any:
        with pytest.raises(OSError, match="password"):
            await call_inner()
        raise KeyError("another")

    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False):
        with pytest.raises(OSError, match="password"), deadline_after(60):
            await w.call(outer, call_inner)
        with pytest.raises(KeyError):
            await w.call(outer, call_twice)
    spans = sdk.spans()
    assert [
        ("fetch attempt", ["exception"]),
        ("call_inner attempt", []),
        ("fetch attempt", ["exception"]),
        ("call_twice attempt", ["exception"]),
    ] == [
        (span.name.rpartition(".")[2], [name for name, _ in told(span)])
        for span in spans
    ]
    assert {StatusCode.ERROR} == {span.status.status_code for span in spans}
    recorded = dict(told(spans[0]))["exception"]
    assert "builtins.OSError" == recorded["exception.type"]
    assert "in fetch" in recorded["exception.stacktrace"]
    assert "hunter2" not in repr([told(span) for span in spans])


@in_every_colour
async def test_a_value_can_be_a_failure_without_an_exception(w: World) -> None:
    """An attempt ends as its function did, a call as it is judged."""
    sdk = Sdk()
    policy = Pipeline(Bulkhead(1), classify=lambda outcome: True, name="picky")
    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False):
        await w.call(policy, nothing)
    [span] = sdk.spans()
    assert "success" == dict(span.attributes or {})["resilient.outcome"]
    assert {("resilient.calls", "failure")} == set(policy.counters.counts)
    assert (1, 0) == (policy.counters.originals, policy.counters.successes)


@in_async_colours
async def test_an_attempt_that_is_cancelled_is_no_error(w: World) -> None:
    """Its span ends all the same, and is current no more."""
    sdk = Sdk()
    policy = Pipeline(Timeout(1), name="slow")

    async def slow() -> None:
        await w.sleep(5)

    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False):
        before = context.get_current()
        with pytest.raises(TimeoutError):
            await w.call(policy, slow)
        assert before is context.get_current()
    [span] = sdk.spans()
    attributes = dict(span.attributes or {})
    assert "cancelled" == attributes["resilient.outcome"]
    assert StatusCode.UNSET is span.status.status_code


@in_every_colour
async def test_a_rejection_within_an_attempt_is_its_error(w: World) -> None:
    """The inner policy's rejection is the outcome of the outer one's attempt."""
    sdk = Sdk()
    inner, outer = Bulkhead(1), Pipeline(Bulkhead(5), name="outer")

    async def held() -> Any:
        return await w.call(inner, nothing)

    async def both() -> Any:
        return await w.call(outer, held)

    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False):
        with pytest.raises(RejectedError):
            await w.call(inner, both)
    spans = sdk.spans()
    assert ["rejected", "rejected"] == [
        dict(span.attributes or {})["resilient.outcome"] for span in spans
    ]


async def nothing() -> None:
    """Take no time."""


@in_every_colour
async def test_blocks_have_spans_of_attempts_too(w: World) -> None:
    """From their beginning to their end; after it none is current."""
    sdk = Sdk()
    policy = Pipeline(Retry(OSError, backoff=constant(0)), name="loop")
    inside: list[Any] = []

    def attempt_once() -> None:
        inside.append(trace.get_current_span())
        if len(inside) == 1:
            raise OSError("down")

    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False):
        before = context.get_current()
        if w.is_sync:
            for attempt in policy.attempts():
                with attempt:
                    attempt_once()
        else:
            async for attempt in policy.attempts():
                async with attempt:
                    attempt_once()
        assert before is context.get_current()
    assert ["loop attempt"] * 2 == [span.name for span in sdk.spans()]
    assert ["loop attempt"] * 2 == [span.name for span in inside]


def test_the_span_of_a_generator_lasts_until_its_first_item() -> None:
    """While an item is with the consumer nothing of ours is current."""
    sdk = Sdk()
    policy = Pipeline(Bulkhead(1), name="stream")

    @policy
    def stream() -> Iterator[str]:
        yield trace.get_current_span().name  # type: ignore[attr-defined]  # the SDK's
        yield "last"

    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False):
        before = context.get_current()
        items = stream()
        assert next(items).endswith("stream attempt")
        assert before is context.get_current()
        assert 1 == len(sdk.spans())
        assert ["last"] == list(items)


def test_a_call_that_another_context_closes_leaves_that_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its span was never current there."""
    sdk = Sdk()
    policy = Pipeline(Bulkhead(1), name="left")

    async def begin() -> Drive:
        drive = Drive(policy, Call.new("block", policy=policy))
        drive.begin()
        return drive

    async def main() -> None:
        drive = await asyncio.create_task(begin())
        before = context.get_current()
        drive.close()
        assert before is context.get_current()

    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False):
        asyncio.run(main())
    assert ["block attempt"] == [span.name for span in sdk.spans()]
    assert [] == caplog.messages


class Request(Call):
    """A call of an HTTP transport."""

    __slots__ = ()
    resends = True


def test_a_request_that_is_sent_again_says_how_often() -> None:
    """On the span of each attempt but the first, and not on whatever is current."""
    sdk = Sdk()
    policy = Pipeline(Retry(OSError, backoff=constant(0, jitter="none")), name="http")

    def send(outcomes: list[Exception | None]) -> None:
        drive = Drive(policy, Request.new("GET", runtime=SYNC, policy=policy))
        token = call_module.current.set(drive.call)
        drive.in_sync(drive.begin())
        for outcome in outcomes:
            drive.in_sync(drive.ended(outcome))
        call_module.current.reset(token)

    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False), sdk.span():
        send([OSError("reset"), OSError("reset"), None])
    first, second, third, outer = (dict(span.attributes or {}) for span in sdk.spans())
    counts = [one.get(RESEND_COUNT) for one in (first, second, third, outer)]
    assert [None, 1, 2, None] == counts


def test_what_is_no_request_does_not_say_it() -> None:
    """A function that sends no request has no resend count."""
    sdk = Sdk()
    policy = Pipeline(Retry(OSError, backoff=constant(0)), name="plain")
    numbers = iter([OSError("down"), None])

    def call() -> None:
        assert not current_call().resends
        error = next(numbers)
        if error is not None:
            raise error

    with sdk.instrumented(histograms=(), attempt_spans=True, logs=False), sdk.span():
        policy.call(call)
    assert not [span for span in sdk.spans() if RESEND_COUNT in (span.attributes or {})]


@in_every_colour
async def test_a_tracer_that_fails_harms_no_call(w: World) -> None:
    """Nor does a histogram; each is logged once."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("exporter")

    class BrokenSpan:
        def get_span_context(self) -> Any:
            return trace.SpanContext(1, 1, is_remote=False)

    class Tracer:
        def start_span(self, name: str, attributes: Any) -> Any:
            return BrokenSpan()

    from resilient.telemetry._calls import CallObserver

    policy = Pipeline(Retry(OSError, backoff=constant(0)), name="hurt")
    broken: Any = Broken()
    tracer: Any = Tracer()
    for watch in (
        CallObserver(broken, broken, broken),
        CallObserver(None, None, tracer),
    ):
        call_module.observe = watch
        try:
            await w.call(policy, failing(1))
        finally:
            call_module.observe = None


@in_every_colour
async def test_spans_leave_no_garbage(w: World) -> None:
    """Nor does anything else that watches."""
    sdk = Sdk()
    policy = Pipeline(
        Retry(OSError, backoff=constant(0), attempts=2), CircuitBreaker(), name="clean"
    )
    call = w.decorate(policy, failing(10**6))
    with sdk.instrumented(attempt_spans=True, logs=False), sdk.span():
        for _ in range(2):
            try:
                await call()
            except OSError:
                pass
        with no_garbage():
            for _ in range(3):
                try:
                    await call()
                except OSError:
                    pass
