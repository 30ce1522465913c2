"""Metrics and events are stated once: docs/metrics.py writes their tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from tests.scripts import load

import resilient
from resilient.telemetry._catalogue import METRICS, Metric

pages = load("docs/metrics.py")
PAGE = pages.PAGE.read_text("utf-8")
DASHBOARD = pages.DASHBOARD.read_text("utf-8")


def test_the_reference_has_the_table_of_metrics() -> None:
    """Row by row, in this order; `python docs/metrics.py` writes it."""
    assert PAGE == pages.with_tables(PAGE)
    for metric in METRICS:
        assert pages.row(metric) in PAGE


def test_the_reference_has_the_table_of_events() -> None:
    """A row for each that listeners may be told of, with its level."""
    kinds = {
        thing
        for name, thing in vars(resilient).items()
        if name in resilient.__all__
        and isinstance(thing, type)
        and issubclass(thing, resilient.Event)
    }

    assert kinds - {resilient.Event} == set(pages.EVENTS)
    assert (
        "| `resilient.store_back` | `resilient.seconds`, `resilient.alone` | INFO |\n"
        == pages.event_row(resilient.StoreBack)
    )
    without = PAGE.replace(pages.event_row(resilient.TimedOut), "")
    assert without != PAGE == pages.with_tables(without)


def test_every_metric_has_a_panel() -> None:
    """`python docs/metrics.py` makes one for a metric that is new."""
    assert DASHBOARD == pages.with_panels(DASHBOARD)


def test_names_are_those_of_the_exporter_for_prometheus() -> None:
    """With a unit, and what a counter ends with."""
    names = {pages.prometheus_name(metric) for metric in METRICS}
    assert {
        "resilient_calls_total",
        "resilient_circuit_state",
        "resilient_call_duration_seconds",
    } <= names


@pytest.mark.parametrize(
    ("kind", "unit", "expression", "legend"),
    [
        (
            "counter",
            "{call}",
            "sum by (pipeline, error_type) (rate(resilient_new_things_total"
            '{job=~"$job", pipeline=~"$pipeline"}[$__rate_interval]))',
            "{{pipeline}} {{error_type}}",
        ),
        (
            "gauge",
            "{call}",
            "sum by (pipeline, error_type) (resilient_new_things"
            '{job=~"$job", pipeline=~"$pipeline"})',
            "{{pipeline}} {{error_type}}",
        ),
        (
            "histogram",
            "s",
            "histogram_quantile(0.95, sum by (le, pipeline, error_type) (rate("
            'resilient_new_things_seconds_bucket{job=~"$job", pipeline=~"$pipeline"}'
            "[$__rate_interval])))",
            "{{pipeline}} {{error_type}}",
        ),
    ],
)
def test_a_new_metric_is_written_to_both(
    kind: Literal["counter", "gauge", "histogram"],
    unit: str,
    expression: str,
    legend: str,
) -> None:
    """A row, and a panel below all others; what was there stays."""
    new = Metric(
        "resilient.new.things", kind, unit, "new things", ("pipeline", "error.type")
    )

    assert PAGE.replace(
        pages.row(METRICS[-1]), pages.row(METRICS[-1]) + pages.row(new)
    ) == pages.with_tables(PAGE, (*METRICS, new))

    written = json.loads(pages.with_panels(DASHBOARD, (*METRICS, new)))
    *others, panel = written["panels"]
    assert json.loads(DASHBOARD)["panels"] == others
    assert ("New things", "New things.") == (panel["title"], panel["description"])
    [target] = panel["targets"]
    assert (expression, legend) == (target["expr"], target["legendFormat"])


def test_the_script_writes_what_is_not_there_yet(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And names the files that it changed."""
    page, dashboard = tmp_path / "telemetry.md", tmp_path / "dashboard.json"
    page.write_text(PAGE.replace(pages.row(METRICS[0]), ""), "utf-8")
    dashboard.write_text(DASHBOARD, "utf-8")
    for name, value in (("ROOT", tmp_path), ("PAGE", page), ("DASHBOARD", dashboard)):
        monkeypatch.setattr(pages, name, value)
    pages.main()
    assert "telemetry.md\n" == capsys.readouterr().out
    assert PAGE == page.read_text("utf-8")
    pages.main()
    assert "" == capsys.readouterr().out
