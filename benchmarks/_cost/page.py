"""The page that says what was measured: docs/reference/cost.md, and its plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.simulations._plot import Axis, Line, plot

from .scenes import FIRST, HAND, OURS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cost.md"
PLOT = PAGE.with_name("cost.svg")
RESULTS = Path(__file__).parents[1] / "results"
RIVALS = (HAND, "nopanic", "pyresilience", "interlock-cb", "hyx")
"""Who stands beside the first rows."""

GROWING = {
    1: "one policy, `Retry`",
    3: "three policies",
    7: "seven policies",
}
"""The first rows that are drawn, by their number of policies."""

HEAD = """\
# What it costs

*Written by `nox -s bench`; the text is in `benchmarks/_cost/page.py`, the figures are
in `benchmarks/results`.*

One call on asyncio of a function that returns at once, in microseconds, the function
included: for this library on each Python, for others and for code by hand on Python
{python}. "By hand" is the least that a good engineer would write in place: for one
event loop, without locks, events, texts or deadlines. A dash: it has no such thing.
What each library lacks stands [below](#next-to-others).
"""

DRAWN = """
![Microseconds a call, by number of policies and library](cost.svg)
"""

HOW = """
## How it is measured

All of a table take turns in one process, in {rounds} short rounds. The clock is the
processor's, the machine has
{machine}.
Microseconds are those of the fastest round, which was disturbed least. They depend on
the machine, so everything below is a ratio within a round: the median over the rounds,
with the quartiles in brackets where there are any. It depends on the Python, which is
named, and less on the machine. The cost of the bare call is taken from both sides of a
ratio, unless it says otherwise.
"""

AIMS = """
## What is aimed at

The success path on asyncio, a function that returns at once, unless it says otherwise.
✓: the median reaches what is aimed at; ✗: it does not, or not yet. What is by hand has
locks where it is synchronous; "with a lock" it serves threads and several event loops,
as ours does. A peer that promises the same lacks nothing in the tables above; where
no such row is, no peer does. An empty pipeline has no step of its own: what is net of
it has the whole of a policy's, its coroutine too.
"""

PEERS = """
## Next to others

How many times the cost of this library's, on Python {python}: below 1, it is cheaper.
In each cell one after the other what stands at the head of the first column.
What a library *lacks* of what is promised here stands beside it: *threads*, its state
is not safe among threads or event loops; *window*, it does not judge by what happened
lately, or does not spread a rate evenly; *refusing*, it cannot say no without waiting;
*budget*, its retries are no share of the calls; *error*, it raises one of its own at
the end; *deadline*, what is inside cannot look it up. "Two failures" has them before
the success, without a pause; "rejected" has an open circuit, no permit or no slot. A
dash: it has no such thing, or not there.
"""

NOTES = {
    "Balance": "Three endpoints, by latency, next to another policy and to 300.\n",
    "HTTP, balanced": (
        "Timeout, retry, a breaker for each endpoint or for the origin, timeout of an"
        " attempt; with `Balance` before the breakers, and without.\n"
    ),
    "Every policy": (
        "Each as it is by default, as a multiple of what a pipeline costs that has no"
        " policies.\n"
    ),
    "HTTP": (
        "A client's `get` through a transport that answers from memory; `resilient`"
        " is `ResilientTransport()`, five policies for each origin.\n"
    ),
    "ASGI": (
        "A request to an application of Starlette's that answers at once, in a task of"
        " its own, as servers call it; `resilient` is `ResilientMiddleware(app)`. It"
        " runs the application in a task, which a `BaseHTTPMiddleware` does, too.\n"
    ),
    "Pipeline": (
        "Fallback, timeout, retry, breaker, rate limit, bulkhead, timeout of an"
        " attempt; sync, without the last. A mix is that retry with purgatory,"
        " aiolimiter, a semaphore and two `asyncio.timeout`.\n"
    ),
}


def results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """What `cost.py --json` left in a folder, the oldest Python first."""
    files = folder.glob("cost-*.json")
    every = [json.loads(file.read_text("utf-8")) for file in files]
    return sorted(every, key=lambda result: _version(result["python"]))


def as_json(result: dict[str, Any]) -> str:
    """A result as JSON with a line for each table, so that changes can be read."""
    lines: list[str] = []
    for key, value in result.items():
        whole = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list):
            parts = [json.dumps(item, ensure_ascii=False) for item in value]
            whole = "[\n" + ",\n".join(parts) + "\n]"
        lines.append(f"{json.dumps(key)}: {whole}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def write(path: Path = PAGE) -> None:
    """Write the page anew."""
    path.write_text(render(results()), "utf-8")
    path.with_name(PLOT.name).write_text(draw(results()), "utf-8")


def render(results: list[dict[str, Any]]) -> str:
    """The page.

    Args:
        results: What was measured on each Python, the oldest first. What it
            takes `--all` to measure has its sections if it was measured.
    """
    return "\n".join(_lines(results)) + "\n"


def draw(results: list[dict[str, Any]]) -> str:
    """The plot: microseconds by the number of policies, as in the first rows.

    Args:
        results: As for `render`. A library that has one of the rows alone is
            left out.
    """
    rows = {
        number: [_microseconds(result, *FIRST[what]) for result in results]
        for number, what in GROWING.items()
    }
    lines = [
        Line(
            f"{OURS}, {result['python']}",
            [(number, took[place][OURS]) for number, took in rows.items()],
        )
        for place, result in enumerate(results)
    ]
    for rival in RIVALS:
        points = [
            (number, took[-1][rival])
            for number, took in rows.items()
            if rival in took[-1]
        ]
        if len(points) > 1:
            lines.append(Line(rival, points))
    highest = max(micros for line in lines for _, micros in line.points)
    return plot(
        "Microseconds a call, by number of policies and library",
        Axis("policies around the function", 0, 8),
        Axis("microseconds a call", 0, 10 * math.ceil(highest / 10)),
        lines,
    )


def _version(python: str) -> tuple[int, ...]:
    return tuple(int(part) for part in python.split(".")[:2])


def _lines(results: list[dict[str, Any]]) -> Iterator[str]:
    newest = results[-1]
    yield HEAD.format(**newest)
    yield from _first(results)
    yield DRAWN.rstrip()
    yield HOW.format(**newest).rstrip()
    yield PEERS.format(**newest).rstrip()
    for group in dict.fromkeys(table["group"] for table in newest["tables"]):
        yield f"\n### {group}\n"
        if group in NOTES:
            yield NOTES[group]
        yield from _group(
            [table for table in newest["tables"] if table["group"] == group]
        )
    if newest["targets"]:
        yield AIMS
        yield from _targets(results)
    yield "\n## Who took part\n"
    yield "| | " + " | ".join(f"Python {result['python']}" for result in results) + " |"
    yield "|---|" + "---|" * len(results)
    for name in newest["versions"]:
        versions = [result["versions"].get(name) or "not there" for result in results]
        yield f"| {name} | " + " | ".join(versions) + " |"


def _first(results: list[dict[str, Any]]) -> Iterator[str]:
    """The rows that a user asks for first."""
    pythons = [f"{OURS}, {result['python']}" for result in results]
    yield f"| | {' | '.join([*pythons, *RIVALS])} |"
    yield "|---|" + "---:|" * (len(pythons) + len(RIVALS))
    for what, (group, case) in FIRST.items():
        took = [_microseconds(result, group, case) for result in results]
        figures = [times.get(OURS) for times in took]
        figures += [took[-1].get(rival) for rival in RIVALS]
        cells = ("–" if figure is None else f"{figure:.1f}" for figure in figures)
        yield f"| {what} | {' | '.join(cells)} |"


def _microseconds(result: dict[str, Any], group: str, case: str) -> dict[str, float]:
    for table in result["tables"]:
        if (table["group"], table["case"], table["world"]) == (group, case, "asyncio"):
            return {row["name"]: row["microseconds"] for row in table["rows"]}
    return {}


def _targets(results: list[dict[str, Any]]) -> Iterator[str]:
    pythons = " | ".join(f"{result['python']}" for result in results)
    yield f"| | | aim | {pythons} |"
    yield "|---|---|---|" + "---|" * len(results)
    by_name: dict[tuple[str, str], list[dict[str, Any] | None]] = {}
    for place, result in enumerate(results):
        for target in result["targets"]:
            name = (target["topic"], target["what"])
            row = by_name.setdefault(name, [None] * len(results))
            row[place] = target
    for (topic, what), row in by_name.items():
        aims = list(
            dict.fromkeys(target["aim"] for target in row if target is not None)
        )
        cells = " | ".join("" if target is None else cell(target) for target in row)
        yield f"| {topic} | {what} | {' or '.join(aims)} | {cells} |"


def cell(target: dict[str, Any]) -> str:
    """What was reached, as a table says it."""
    mark = {True: " ✓", False: " ✗", None: ""}[target["met"]]
    note = f" {target['note']}" if target["note"] else ""
    return format_value(target["reached"], target["unit"]) + mark + note


def format_value(ratio: list[float], unit: str = "×") -> str:
    """A ratio and its quartiles, in words."""
    median, low, high = ratio
    if unit != "×":
        return f"{median:.0f} {unit}".rstrip()
    digits = 2 if abs(median) < 10 else 1
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _group(tables: list[dict[str, Any]]) -> Iterator[str]:
    cases = list(dict.fromkeys(table["case"] for table in tables))
    worlds = list(dict.fromkeys(table["world"] for table in tables))
    ratios = {
        (row["name"], table["case"], table["world"]): f"{row['ratio'][0]:.2f}"
        for table in tables
        for row in table["rows"]
    }
    lacks = {row["name"]: row["lacks"] for table in tables for row in table["rows"]}
    yield f"| {' · '.join(worlds)} | {' | '.join(cases)} | lacks |"
    yield "|---|" + "---|" * (len(cases) + 1)
    del lacks[OURS]  # it is what the others are measured by
    for name, lacking in lacks.items():
        cells = [
            " · ".join(ratios.get((name, case, world), "–") for world in worlds)
            for case in cases
        ]
        yield f"| {name} | {' | '.join(cells)} | {lacking} |"
    absent = {
        f"{name}, {table['world']}: {why}."
        for table in tables
        for name, why in table["missing"].items()
        if why.startswith(("not installed", "fails here"))
    }
    for each in sorted(absent):
        yield f"\n{each}"
