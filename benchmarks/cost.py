"""What a protected call costs, measured in one process.

    python -m benchmarks.cost [--all] [--rounds N] [--json FILE]
    python -m benchmarks.cost --page

The first measures what a user asks first, seven rows in half a minute; with `--all`
every policy at every case in every world, footprints, and whether what is aimed at
is reached, in some five minutes. The second writes docs/reference/cost.md from
what the first left in benchmarks/results, a file for each Python, and measures
nothing. See `_cost` for who is compared, and `_cost.rounds` for how.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks._cost import page
from benchmarks._cost.rounds import Ratio, Times, measure
from benchmarks._cost.scenes import BARE, OURS, Scene, build, first, scenes
from benchmarks._cost.targets import Scenes, judge
from benchmarks._cost.workloads import World

DISTRIBUTIONS = (
    "aiobreaker",
    "aiolimiter",
    "aioresilience",
    "anyio",
    "attrs",
    "backoff",
    "circuitbreaker",
    "clientwright",
    "httpx",
    "httpx-retries",
    "hyx",
    "interlock-cb",
    "limits",
    "nopanic",
    "purgatory",
    "pybreaker",
    "pyrate-limiter",
    "pyresilience",
    "stamina",
    "tenacity",
    "throttled-py",
    "trio",
    "uvloop",
)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> str:
    """The kind of machine, without its name."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = f"{os.cpu_count()} cores of {model}"
    return f"{cores}, {platform.system()}, {platform.python_implementation()}"


def _table(scene: Scene, times: Times) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for contender in scene.contenders:
        if contender.name != BARE:
            row: dict[str, Any] = {"name": contender.name}
            row["microseconds"] = _rounded(times.microseconds(contender.name))
            row["ratio"] = _numbers(times.ratio(contender.name, OURS))
            rows.append(row | {"lacks": contender.lacks})
    return {
        "group": scene.group,
        "case": scene.case,
        "world": scene.world.name,
        "bare": _rounded(times.microseconds(BARE)),
        "rows": rows,
        "missing": scene.missing,
    }


def _numbers(ratio: Ratio) -> list[float]:
    return [_rounded(figure) for figure in (ratio.median, ratio.low, ratio.high)]


def _rounded(number: float) -> float:
    """Four digits: the noise is in the third."""
    return float(f"{number:.4g}")


async def _measure(
    name: str, case: str, world: World, rounds: int
) -> tuple[Scene, Times]:
    scene = await build(name, case, world)
    return scene, await measure(scene, rounds)


def run(rounds: int, *, every: bool) -> dict[str, Any]:
    """Measure the first rows, or every one and judge them."""
    measured: Scenes = {}
    tables: list[dict[str, Any]] = []
    for name, case, world in scenes() if every else first():
        try:
            scene, times = world.run(_measure(name, case, world, rounds))
        except ImportError as error:
            print(f"{world.name} is not installed: {error}", file=sys.stderr)
            continue
        measured[name, case, world.name] = times
        tables.append(_table(scene, times))
        for missing, why in scene.missing.items():
            print(f"{name}, {case}, {world.name}: {missing}: {why}", file=sys.stderr)
    targets = [
        {
            "topic": target.topic,
            "what": target.what,
            "reached": _numbers(target.reached),
            "aim": target.aim,
            "unit": target.unit,
            "met": target.met,
            "note": target.note,
        }
        for target in (judge(measured, rounds) if every else ())
    ]
    return {
        "python": platform.python_version(),
        "machine": _machine(),
        "rounds": rounds,
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
        "targets": targets,
        "tables": tables,
    }


def show(result: dict[str, Any]) -> None:
    """Print what was measured for who reads it here."""
    print(f"Python {result['python']}: microseconds a call, ratios over the bare call")
    for target in result["targets"]:
        mark = {True: "met", False: "not met", None: ""}[target["met"]]
        reached = page.format_value(target["reached"], target["unit"])
        what = f"{target['topic']}: {target['what']}"
        verdict = f"{target['aim']:10} {mark:8} {target['note']}"
        print(f"{what:62} {reached:>22}  {verdict}".rstrip())
    for table in result["tables"]:
        print(f"\n{table['group']}, {table['case']}, {table['world']}")
        for row in table["rows"]:
            took, ratio = row["microseconds"], page.format_value(row["ratio"])
            line = f"  {row['name']:24} {took:8.2f} µs {ratio:>22}  {row['lacks']}"
            print(line.rstrip())


def main() -> None:
    """Measure and print, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", dest="every")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.page:
        page.write()
        return
    # What others say and warn of is not what is measured.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    result = run(options.rounds, every=options.every)
    if options.json:
        options.json.write_text(page.as_json(result), "utf-8")
    show(result)


if __name__ == "__main__":
    main()
