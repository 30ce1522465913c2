"""The page that says what was measured: docs/reference/cost.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .scenes import OURS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cost.md"

HEAD = """\
# What it costs

*Written by `nox -s bench`; what it says otherwise is in `benchmarks/_cost/page.py`.*
Every figure is a ratio of two costs that were measured in one process, in turns, in
many short rounds: the median over the rounds, with the quartiles in brackets. The cost
of the bare call is taken from both, unless it says otherwise; the clock is the
processor's. A ratio depends on the Python, which is named, and less on the machine:
{machine}, {rounds} rounds.
"""

AIMS = """
## What is aimed at

The success path on asyncio, a function that returns at once, unless it says otherwise.
✓: the median reaches what is aimed at; ✗: it does not, or not yet. "By hand" is the
least that a good engineer would write in place: for one event loop, without events,
texts or deadlines; with locks where it is synchronous. "With a lock" it serves threads
and several event loops, as ours does. Who promises the same lacks
nothing in the tables below; where no such row is, nobody does. An empty pipeline has no
step of its own: what is net of it has the whole of a policy's, its coroutine too.
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
    "Every policy": (
        "Each as it is by default, as a multiple of what a pipeline costs that has no"
        " policies.\n"
    ),
    "HTTP": (
        "A client's `get` through a transport that answers from memory; `resilient`"
        " is `ResilientTransport()`, five policies for each origin.\n"
    ),
    "Pipeline": (
        "Fallback, timeout, retry, breaker, rate limit, bulkhead, timeout of an"
        " attempt; sync, without the last. A mix is that retry with purgatory,"
        " aiolimiter, a semaphore and two `asyncio.timeout`.\n"
    ),
}


def write(results: list[dict[str, Any]], path: Path = PAGE) -> None:
    """Write the page anew.

    Args:
        results: What `cost.py --json` printed, for each Python.
        path: Where to.
    """
    results = sorted(results, key=lambda one: _version(one["python"]))
    path.write_text("\n".join(_lines(results)) + "\n", "utf-8")


def _version(python: str) -> tuple[int, ...]:
    return tuple(int(part) for part in python.split(".")[:2])


def _lines(results: list[dict[str, Any]]) -> Iterator[str]:
    newest = results[-1]
    yield HEAD.format(**newest).rstrip()
    yield AIMS.rstrip()
    yield ""
    yield from _targets(results)
    yield PEERS.format(**newest).rstrip()
    for group in dict.fromkeys(table["group"] for table in newest["tables"]):
        yield f"\n### {group}\n"
        if group in NOTES:
            yield NOTES[group]
        yield from _group([one for one in newest["tables"] if one["group"] == group])
    yield "\n## Who took part\n"
    yield "| | " + " | ".join(f"Python {one['python']}" for one in results) + " |"
    yield "|---|" + "---|" * len(results)
    for name in newest["versions"]:
        versions = [one["versions"].get(name) or "not there" for one in results]
        yield f"| {name} | " + " | ".join(versions) + " |"


def _targets(results: list[dict[str, Any]]) -> Iterator[str]:
    pythons = " | ".join(f"{one['python']}" for one in results)
    yield f"| | | aim | {pythons} |"
    yield "|---|---|---|" + "---|" * len(results)
    by_name: dict[tuple[str, str], list[dict[str, Any] | None]] = {}
    for place, result in enumerate(results):
        for target in result["targets"]:
            name = (target["topic"], target["what"])
            row = by_name.setdefault(name, [None] * len(results))
            row[place] = target
    for (topic, what), row in by_name.items():
        aims = list(dict.fromkeys(one["aim"] for one in row if one is not None))
        cells = " | ".join("" if one is None else cell(one) for one in row)
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
