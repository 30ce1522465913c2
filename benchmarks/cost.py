"""What a protected call costs, as ratios measured in one process.

    python benchmarks/cost.py [--rounds N] [--json [FILE]]
    python benchmarks/cost.py --page FILE...

The second writes docs/reference/cost.md from what the first left in files,
one for each Python. See `_cost` for who is compared, and `_cost.rounds` for how.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from _cost import page
from _cost.rounds import Times, measure
from _cost.scenes import BARE, OURS, Scene, build, scenes
from _cost.targets import Scenes, judge
from _cost.workloads import World

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
    for one in scene.contenders:
        if one.name != BARE:
            ratio = times.ratio(one.name, OURS)
            whole = times.whole(one.name, OURS)
            rows.append(
                {
                    "name": one.name,
                    "ratio": [ratio.median, ratio.low, ratio.high],
                    "whole": [whole.median, whole.low, whole.high],
                    "lacks": one.lacks,
                }
            )
    return {
        "group": scene.group,
        "case": scene.case,
        "world": scene.world.name,
        "rows": rows,
        "missing": scene.missing,
    }


async def _measure(
    name: str, case: str, world: World, rounds: int
) -> tuple[Scene, Times]:
    scene = await build(name, case, world)
    return scene, await measure(scene, rounds)


def run(rounds: int) -> dict[str, Any]:
    """Measure everything, and judge it."""
    measured: Scenes = {}
    tables: list[dict[str, Any]] = []
    for name, case, world in scenes():
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
            "topic": one.topic,
            "what": one.what,
            "reached": [one.reached.median, one.reached.low, one.reached.high],
            "aim": one.aim,
            "unit": one.unit,
            "met": one.met,
            "note": one.note,
        }
        for one in judge(measured, rounds)
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
    print(f"Python {result['python']}, ratios of costs over the bare call\n")
    for target in result["targets"]:
        mark = {True: "met", False: "not met", None: ""}[target["met"]]
        reached = page.format_value(target["reached"], target["unit"])
        what = f"{target['topic']}: {target['what']}"
        verdict = f"{target['aim']:10} {mark:8} {target['note']}"
        print(f"{what:62} {reached:>22}  {verdict}".rstrip())
    for table in result["tables"]:
        print(f"\n{table['group']}, {table['case']}, {table['world']}")
        for row in table["rows"]:
            ratio = page.format_value(row["ratio"])
            print(f"  {row['name']:24} {ratio:>22}  {row['lacks']}")


def main() -> None:
    """Measure and print, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE")
    parser.add_argument("--page", nargs="+", metavar="FILE")
    options = parser.parse_args()
    if options.page:
        page.write([json.loads(Path(one).read_text("utf-8")) for one in options.page])
        return
    # What others say and warn of is not what is measured.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    result = run(options.rounds)
    if options.json == "-":
        print(json.dumps(result, indent=1))
        return
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1), "utf-8")
    show(result)


if __name__ == "__main__":
    main()
