"""A report as one HTML file: light, dark, on a phone, and without any request.

Plots are SVG with classes, coloured by the page's style. Lines are drawn in reverse
rank, so that the first configuration is on top, and dashed from the second on, so that
one that is hidden shows. Their names stand at their ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple

from resilient.simulation._record import Run
from resilient.simulation._scenario import Scenario

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 460, 14, 188
_POINTS: Final = 150
"""Points of a line at most: more are not seen."""

_DASHES: Final = ("", "6 3", "2 2", "8 3 2 3", "10 4", "4 4")

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c1e21;--paper:#fff;--faint:#d8dade;
--shade:#f1efe6;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#a0478b;--c4:#946200;--c5:#4477aa}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--paper:#17191c;--faint:#3a3f45;
--shade:#2a2a22;--c0:#56b4e9;--c1:#ff9a5a;--c2:#3fd0a4;--c3:#e09acb;--c4:#e6b84a;
--c5:#9cc4f0}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:900px;margin:0 auto;padding:16px}
h1{font-size:1.4em;margin:.2em 0}h2{font-size:1.05em;margin:1.6em 0 .3em}
.scroll{overflow-x:auto}table{border-collapse:collapse;white-space:nowrap}
th,td{text-align:right;padding:4px 12px;border-bottom:1px solid var(--faint)}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;
background:var(--paper)}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}text{fill:var(--ink)}
@media(max-width:600px){svg{font-size:17px}}
.grid{stroke:var(--faint)}.shade{fill:var(--shade)}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.bad{color:var(--c1);font-weight:600}.good{color:var(--c2);font-weight:600}
"""
_COLOURS: Final = "".join(
    f".s{n}{{stroke:var(--c{n})}}.t{n}{{fill:var(--c{n})}}" for n in range(6)
)


class Plot(NamedTuple):
    """What is drawn of each configuration.

    Attributes:
        title: What it is.
        lines: By the number of the configuration its name, and a value a second.
    """

    title: str
    lines: Mapping[int, tuple[str, Sequence[float]]]


def page(
    scenario: Scenario,
    rows: Sequence[Sequence[str]],
    runs: Sequence[tuple[str, Run]],
    told: Sequence[tuple[str, str, bool]],
    seeds: int,
) -> str:
    """Return the page.

    Args:
        scenario: The scenario.
        rows: Of the table of figures, the first being its head.
        runs: What is plotted of each configuration, by its name.
        told: Names of configurations, what was checked of each, and whether it holds.
        seeds: How many there were.
    """
    spans = [(event.start, event.end) for event in scenario.events]
    shaded = [f"{each.word} {each.start:g}–{each.end:g} s" for each in scenario.events]
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(scenario.name)}: resilient simulate</title>",
        f"<style>{_STYLE}{_COLOURS}</style>",
        f"<h1>{escape(scenario.name)}</h1>",
        f"<p>{escape(scenario.left_out)}",
        *[f"<p>{escape(trace.told)}" for trace in scenario.traces],
        f"<p>{scenario.load} for {scenario.duration} s from"
        f" {scenario.clients} clients. Figures are medians of {seeds}"
        f" seed{'s' * (seeds > 1)}, plots show the worst."
        f" Shaded: {', '.join(shaded) or 'nothing'}.",
        _table(rows),
        _list(told),
        *[_drawn(plot, spans, scenario.duration) for plot in _plots(runs)],
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body]
    return (
        '<div class="scroll"><table>'
        + "".join(f"<tr>{line}</tr>" for line in lines)
        + "</table></div>"
    )


def _list(told: Sequence[tuple[str, str, bool]]) -> str:
    items = [
        f'<li><span class="{"good" if holds else "bad"}">'
        f"{'ok' if holds else 'failed'}</span> {escape(name)}: {escape(text)}"
        for name, text, holds in told
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _plots(runs: Sequence[tuple[str, Run]]) -> list[Plot]:
    def lines(
        values: Callable[[Run], Sequence[float]],
    ) -> dict[int, tuple[str, Sequence[float]]]:
        return {at: (name, values(run)) for at, (name, run) in enumerate(runs)}

    plots = [
        Plot("Answered, share of requests", lines(lambda run: run.shares("answered"))),
        Plot("Attempts a second", lines(lambda run: run.attempts)),
        Plot("Rejected, share of requests", lines(lambda run: run.shares("rejected"))),
        Plot("Mean latency of answers, seconds", lines(Run.mean_latencies)),
    ]
    gauges: dict[str, dict[int, tuple[str, Sequence[float]]]] = {}
    for at, (name, run) in enumerate(runs):
        for metric, values in run.series.items():
            numbers = [_as_number(value) for value in values]
            if not all(map(math.isnan, numbers)):
                gauges.setdefault(metric, {})[at] = name, numbers
    return [*plots, *[Plot(metric, found) for metric, found in gauges.items()]]


_STATES: Final = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


def _as_number(value: Any) -> float:
    """Return a gauge's value; of a circuit's state, how far it is open."""
    if isinstance(value, (int, float)):
        return float(value)
    return _STATES.get(value, math.nan) if isinstance(value, str) else math.nan


def _drawn(plot: Plot, spans: Sequence[tuple[float, float]], duration: int) -> str:
    every = max(1, math.ceil(duration / _POINTS))
    lines = {
        at: (name, _thinned(values, every)) for at, (name, values) in plot.lines.items()
    }
    known = [
        value
        for _, points in lines.values()
        for _, value in points
        if not math.isnan(value)
    ]
    top = _round_up(max(known, default=0.0))

    def across(second: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * second / duration

    def up(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * value / top

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">',
        f"<title>{escape(plot.title)}</title>",
    ]
    for begin, end in spans:
        parts.append(
            f'<rect class="shade" x="{across(begin):.1f}" y="{_TOP}"'
            f' width="{across(end) - across(begin):.1f}" height="{_BOTTOM - _TOP}"/>'
        )
    for value in (0.0, top / 2, top):
        parts.append(
            f'<path class="grid" d="M{_LEFT} {up(value):.1f}H{_RIGHT}"/>'
            f'<text x="{_LEFT - 6}" y="{up(value) + 4:.1f}" text-anchor="end">'
            f"{value:g}</text>"
        )
    for second in (0, duration / 2, duration):
        parts.append(
            f'<text x="{across(second):.1f}" y="{_BOTTOM + 16}" text-anchor="middle">'
            f"{second:g} s</text>"
        )
    labels = _labels({at: up(_last(points)) for at, (_, points) in lines.items()})
    for number, (name, points) in reversed(lines.items()):
        path, pen = "", "M"
        for second, value in points:
            if math.isnan(value):
                pen = "M"
                continue
            path += f"{pen}{across(second):.1f} {up(value):.1f}"
            pen = "L"
        colour, dash = number % 6, _DASHES[number % len(_DASHES)]
        parts.append(
            f'<path class="line s{colour}" d="{path}" stroke-dasharray="{dash}"/>'
            f'<text class="t{colour}" x="{_RIGHT + 6}" y="{labels[number] + 4:.1f}">'
            f"{escape(name if len(name) < 19 else name[:17] + '…')}</text>"
        )
    return f"<h2>{escape(plot.title)}</h2>" + "".join([*parts, "</svg>"])


def _thinned(values: Sequence[float], every: int) -> list[tuple[float, float]]:
    """Return means of so many seconds each, at the middle of them."""
    points: list[tuple[float, float]] = []
    for begin in range(0, len(values), every):
        known = [
            value for value in values[begin : begin + every] if not math.isnan(value)
        ]
        mean = math.fsum(known) / len(known) if known else math.nan
        points.append((begin + every / 2, mean))
    return points


def _last(points: Sequence[tuple[float, float]]) -> float:
    return next((value for _, value in reversed(points) if not math.isnan(value)), 0.0)


def _labels(heights: Mapping[int, float]) -> dict[int, float]:
    """Return where names stand: near the ends of their lines, and 18 apart.

    Upwards from the lowest; those that would stand above the plot move down.
    """
    placed: dict[int, float] = {}
    highest = _BOTTOM + 18.0
    for number in sorted(heights, key=heights.__getitem__, reverse=True):
        placed[number] = highest = min(heights[number], highest - 18)
    lowest = _TOP - 18.0
    for number in reversed(placed):
        placed[number] = lowest = max(placed[number], lowest + 18)
    return placed


def _round_up(value: float) -> float:
    """Return a round number that is no less, for the upper end of an axis."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * n for n in (1, 2, 4, 5, 10, 20) if power * n >= value)
