"""Events in the log: one line each, and not too many."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.colours import World, in_every_colour
from tests.watched import alone

from resilient import (
    Event,
    FallbackUsed,
    KeyEvicted,
    PermitWaited,
    Pipeline,
    RateLimiter,
    RejectedError,
    Retry,
    TimedOut,
    constant,
    telemetry,
)
from resilient._events.events import located
from resilient._runtimes import clock
from resilient.telemetry import _logs
from resilient.telemetry._attributes import attributes_of, name_of
from resilient.telemetry._logs import LINES, SECONDS, Logs


@pytest.fixture(autouse=True)
def _alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    caplog.set_level(logging.INFO, "resilient")
    with alone(monkeypatch):
        yield


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Logger, level and line of what was logged."""
    return [
        (record.name, record.levelname, record.getMessage())
        for record in caplog.records
    ]


def test_each_event_is_a_line_of_its_pipeline(caplog: pytest.LogCaptureFixture) -> None:
    """With a level for those who watch, and fields for those who search."""
    telemetry.instrument()
    retry = Retry(OSError, backoff=constant(0, jitter="none"), attempts=2, name="again")
    policy = Pipeline(retry, name="api")

    def fetch(secret: str) -> None:
        raise OSError(secret)

    with pytest.raises(OSError, match="hunter2"):
        policy.call(fetch, "hunter2")
    scheduled, exhausted = caplog.records
    assert [
        (
            "resilient.api",
            "INFO",
            "retry_scheduled policy=again call=fetch pipeline=api attempt=1"
            " error.type=OSError delay=0",
        ),
        (
            "resilient.api",
            "WARNING",
            "retries_exhausted policy=again call=fetch pipeline=api attempts=2"
            f" elapsed={vars(exhausted)['resilient.elapsed']:.6g} reason=attempts"
            " error.type=OSError",
        ),
    ] == records(caplog)
    assert {
        "resilient.event": "resilient.retry_scheduled",
        "resilient.policy": "again",
        "resilient.call": "fetch",
        "resilient.pipeline": "api",
        "resilient.attempt": 1,
        "error.type": "OSError",
        "resilient.delay": 0.0,
    } == {key: value for key, value in vars(scheduled).items() if "." in key}
    assert "hunter2" not in caplog.text


@in_every_colour
async def test_logging_can_be_left_out(w: World) -> None:
    """The rest goes on."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Handler()
    logging.getLogger("resilient").addHandler(handler)
    limiter = RateLimiter(1, per=3600, name=f"quiet {w.colour}")

    async def nothing() -> None: ...

    await w.call(limiter, nothing)
    try:
        for logs in (False, True):
            telemetry.instrument(logs=logs)
            with pytest.raises(RejectedError):
                await w.call(limiter, nothing)
    finally:
        telemetry.uninstrument()
        logging.getLogger("resilient").removeHandler(handler)
    [line] = lines
    assert line.startswith(f"call_rejected policy='quiet {w.colour}' call=")


def test_an_outage_does_not_flood_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many lines of a kind in so many seconds; the next says what was left out."""
    now = [1000.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    logs = Logs()
    event = located(FallbackUsed("f", "get", None), "api", "f")
    other = located(FallbackUsed("f", "get", None), "other", "f")
    for _ in range(LINES + 5):
        logs(event)
    logs(other)
    logs(located(TimedOut("t", "get", 1.0, 0.5, True), "api", "t"))
    assert LINES + 2 == len(caplog.records)
    now[0] += SECONDS
    logs(event)
    logs(event)
    said, next_one = caplog.records[-2:]
    assert 5 == vars(said)["resilient.suppressed"]
    assert said.getMessage().endswith(" suppressed=5")
    assert "resilient.suppressed" not in vars(next_one)


def test_what_is_not_logged_costs_nothing_of_the_quota(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A level that is off is not counted as said."""
    caplog.set_level(logging.WARNING, "resilient")
    logs = Logs()
    for _ in range(2 * LINES):
        logs(PermitWaited("p", "get", 1.0))
    caplog.set_level(logging.INFO, "resilient")
    logs(PermitWaited("p", "get", 1.0))
    assert [("resilient.p", "INFO", "permit_waited policy=p call=get waited=1")] == (
        records(caplog)
    )


@pytest.mark.parametrize(
    ("event", "name", "attributes"),
    [
        (
            KeyEvicted("hosts", None, True),
            "resilient.key_evicted",
            {"resilient.policy": "hosts", "resilient.fresh": True},
        ),
        (
            FallbackUsed("f", "get", "OSError"),
            "resilient.fallback_used",
            {
                "resilient.policy": "f",
                "resilient.call": "get",
                "error.type": "OSError",
            },
        ),
    ],
)
def test_an_event_has_one_wording(
    event: Event, name: str, attributes: dict[str, Any]
) -> None:
    """On spans and in logs."""
    assert (name, attributes) == (name_of(event), attributes_of(event))


def test_a_line_stays_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a name holds."""
    Logs()(PermitWaited("two\nlines", "get", 1.0))
    [record] = caplog.records
    assert "permit_waited policy='two\\nlines' call=get waited=1" == record.getMessage()


def test_a_name_reaches_no_line_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """A formatter writes that of the logger, too, with its line breaks."""
    caplog.set_level(logging.INFO)
    logs = Logs()
    logs(PermitWaited("two\nlines", "get\x1b[31m", 1.0))
    assert ["resilient.'two\\nlines'"] == [record.name for record in caplog.records]
    assert "\x1b" not in caplog.records[0].getMessage()


def test_names_without_end_share_a_logger(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`logging` forgets none: a pipeline for each request would fill the memory."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(_logs, "LOGGERS", 2)
    logs = Logs()
    for name in ("first", "second", "third", "fourth", "first"):
        logs(PermitWaited(name, "get", 1.0))
    assert [
        "resilient.first",
        "resilient.second",
        "resilient",
        "resilient",
        "resilient.first",
    ] == [record.name for record in caplog.records]
