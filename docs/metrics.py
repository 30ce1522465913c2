"""Write what is made from the metrics and events there are: tables, and panels.

    python docs/metrics.py

A metric is stated in one place, `resilient.telemetry._catalogue`, an event in
`resilient._events.events`. This script writes their rows into
docs/reference/telemetry.md, and, where no panel of the dashboard shows a metric, a
plain panel of its own at the end, to be moved or made better by hand. What changed is
printed. The tests hold that nothing would.
"""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resilient._events import events
from resilient._events.events import Event
from resilient.telemetry._attributes import words_for
from resilient.telemetry._catalogue import METRICS, Metric
from resilient.telemetry._logs import LEVELS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "telemetry.md"
DASHBOARD = ROOT / "src/resilient/telemetry/dashboards" / "resilient.dashboard.json"
HEADER = (
    "| instrument | kind | unit | labels | what | in Prometheus |\n"
    "|---|---|---|---|---|---|\n"
)
EVERY = tuple(f"resilient.{field}" for field in Event.fields())
EVENTS_HEADER = (
    f"| event | attributes besides {', '.join(f'`{name}`' for name in EVERY)} |"
    " logged as |\n|---|---|---|\n"
)
EVENTS: tuple[type[Event], ...] = tuple(
    kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
)
_UNITS = {"s": "s", "By": "bytes", "1": "percentunit"}
"""Those of gauges, as Grafana has them."""
PANEL = "Permits waited for"
"""The panel that new ones are made after."""


def prometheus_name(metric: Metric) -> str:
    """A name by the rules of OpenTelemetry's exporter for Prometheus."""
    suffix = {"s": "_seconds", "By": "_bytes"}.get(metric.unit, "")
    suffix += "_total" if metric.kind == "counter" else ""
    return metric.name.replace(".", "_") + suffix


def row(metric: Metric) -> str:
    """The row of a metric in the reference."""
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    cells = (
        f"`{metric.name}`",
        metric.kind,
        f"`{metric.unit}`",
        labels,
        metric.text,
        f"`{prometheus_name(metric)}`",
    )
    return f"| {' | '.join(cells)} |\n"


def event_row(kind: type[Event]) -> str:
    """The row of a kind of event in the reference."""
    words = words_for(kind)
    names = [f"`{name}`" for _, name in words.fields if name not in EVERY]
    level = logging.getLevelName(LEVELS.get(kind, logging.INFO))
    return f"| `{words.name}` | {', '.join(names) or '–'} | {level} |\n"


def with_tables(
    page: str,
    metrics: tuple[Metric, ...] = METRICS,
    kinds: tuple[type[Event], ...] = EVENTS,
) -> str:
    """The reference page with a row for each metric, and for each kind of event."""
    page = _with_rows(page, HEADER, map(row, metrics))
    return _with_rows(page, EVENTS_HEADER, map(event_row, kinds))


def _with_rows(page: str, header: str, rows: Iterable[str]) -> str:
    """The page with these rows below a header."""
    table = re.compile(rf"(?<={re.escape(header)})(?:\|.*\n)*")
    return table.sub(lambda _: "".join(rows), page)


def with_panels(dashboard: str, metrics: tuple[Metric, ...] = METRICS) -> str:
    """The dashboard with a panel for each metric that no panel shows."""
    shown: dict[str, Any] = json.loads(dashboard)
    panels: list[Any] = shown["panels"]
    inner = [panel for group in panels for panel in group.get("panels", ())]
    [pattern] = [panel for panel in panels if panel["title"] == PANEL]
    number = max(panel["id"] for panel in panels + inner)
    below = max(
        panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels + inner
    )
    for metric in metrics:
        if re.search(rf"\b{prometheus_name(metric)}(?:_bucket)?\b", dashboard):
            continue
        number += 1
        panel = copy.deepcopy(pattern)
        title = metric.name.removeprefix("resilient.").replace(".", " ")
        panel["id"], panel["title"] = number, title.capitalize()
        panel["description"] = f"{metric.text[0].upper()}{metric.text[1:]}."
        panel["gridPos"] = {"h": 8, "w": 24, "x": 0, "y": below}
        below += 8
        [target] = panel["targets"]
        target["expr"], by = _expression(metric)
        target["legendFormat"] = " ".join(f"{{{{{label}}}}}" for label in by)
        unit = {"counter": "cps", "gauge": "short", "histogram": "s"}[metric.kind]
        unit = _UNITS.get(metric.unit, unit) if metric.kind == "gauge" else unit
        panel["fieldConfig"]["defaults"]["unit"] = unit
        panels.append(panel)
    return json.dumps(shown, indent=2, ensure_ascii=False) + "\n"


def _expression(metric: Metric) -> tuple[str, list[str]]:
    """A query that shows a metric, and the labels that it keeps apart."""
    by = [label.replace(".", "_") for label in metric.labels]
    of_pipeline = ', pipeline=~"$pipeline"' if "pipeline" in by else ""
    selector = f'{{job=~"$job"{of_pipeline}}}'
    name = prometheus_name(metric)
    if metric.kind == "gauge":
        return f"sum by ({', '.join(by)}) ({name}{selector})", by
    if metric.kind == "counter":
        rate = f"rate({name}{selector}[$__rate_interval])"
        return f"sum by ({', '.join(by)}) ({rate})", by
    rate = f"rate({name}_bucket{selector}[$__rate_interval])"
    quantile = f"histogram_quantile(0.95, sum by ({', '.join(['le', *by])}) ({rate}))"
    return quantile, by


def main() -> None:
    """Write both, and print the files that changed."""
    for path, written in ((PAGE, with_tables), (DASHBOARD, with_panels)):
        text = path.read_text("utf-8")
        if (new := written(text)) != text:
            path.write_text(new, "utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
