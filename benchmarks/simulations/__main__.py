"""Run the simulations, hold them against what was published, and document them.

    python -m benchmarks.simulations [--write] [NAME …]

It fails when a figure is not what was published, and when the tables and
plots of the documentation are not what the simulations give. ``--write`` puts
those into the documentation instead. The name ``numbers`` is the page *Choose
your numbers*, whose commands are run.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, cast

from benchmarks.simulations import (
    _walk,
    acceptance,
    balancing,
    hedge_storm,
    jitter,
    retry_storm,
    tail,
    throttling,
)
from benchmarks.simulations._study import Job, Report, Simulation

from resilient.simulation._result import markdown

# The longest runs first, so that none begins when the others have ended.
SIMULATIONS = cast(
    "tuple[Simulation, ...]",
    (balancing, hedge_storm, throttling, acceptance, retry_storm, tail, jitter),
)

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "simulations.md"


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.simulations")
    names = [*(simulation.NAME for simulation in SIMULATIONS), _walk.NAME]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    parser.add_argument("--write", action="store_true", help="into the documentation")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(f"no simulation is called {', '.join(sorted(unknown))}")
    chosen = [
        simulation
        for simulation in SIMULATIONS
        if simulation.NAME in (arguments.names or names)
    ]
    began, wrong = time.perf_counter(), 0
    for simulation, report in reports(chosen):
        print(f"\n{simulation.TITLE} ({time.perf_counter() - began:.0f} s)\n")
        wrong += show(report)
        wrong += document(simulation, report, write=arguments.write)
    if _walk.NAME in (arguments.names or names):
        walked = _walk.walked(_walk.PAGE.read_text("utf-8"))
        wrong += put({_walk.PAGE: walked}, write=arguments.write)
        print(f"\n{_walk.PAGE.name} ({time.perf_counter() - began:.0f} s)")
    return min(wrong, 1)


def reports(simulations: list[Simulation]) -> Iterator[tuple[Simulation, Report]]:
    """Run them, a process on each processor, and report on each at its end."""
    # NB: a virtual clock is that of its whole process. What a run leaves goes
    # with its worker's end; looking for cycles in all that waits costs a sixth.
    with ProcessPoolExecutor(os.cpu_count(), initializer=gc.disable) as pool:
        running = [
            (each, {job: pool.submit(each.run, *job) for job in each.jobs()})
            for each in simulations
        ]
        for simulation, futures in running:
            results: dict[Job, Any] = {
                job: future.result() for job, future in futures.items()
            }
            yield simulation, simulation.report(results)


def show(report: Report) -> int:
    """Print what was measured; return how many figures disagree."""
    print(markdown(report.table), end="\n\n")
    for check in report.checks:
        mark = "ok   " if check.holds else "WRONG"
        print(f"{mark} {check.what}: {check.measured}, published {check.published}")
    return sum(not check.holds for check in report.checks)


def document(simulation: Simulation, report: Report, *, write: bool) -> int:
    """Write into the documentation, or return how many files there differ."""
    plot = PAGE.with_suffix("") / f"{simulation.NAME}.svg"
    page = page_with(simulation.NAME, report)
    return put({plot: report.plot, PAGE: page}, write=write)


def put(wanted: dict[Path, str], *, write: bool) -> int:
    """Write texts into files, or return how many of these differ."""
    differ = 0
    for path, text in wanted.items():
        if path.exists() and path.read_text("utf-8") == text:
            continue
        if write:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, "utf-8")
        else:
            print(f"WRONG {path.name} is not what this gives: use --write")
            differ += 1
    return differ


def page_with(name: str, report: Report) -> str:
    """Return the page with its section of that name as the report has it."""
    checks = [["figure", "published", "here"]]
    checks += [[check.what, check.published, check.measured] for check in report.checks]
    section = "\n\n".join([markdown(report.table), markdown(checks)])
    page, found = re.subn(
        rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)",
        lambda match: f"{match[1]}\n{section}\n\n{match[2]}",
        PAGE.read_text("utf-8"),
        flags=re.DOTALL,
    )
    assert found == 1, f"the page has no place for {name}"
    return page


if __name__ == "__main__":
    sys.exit(main())
