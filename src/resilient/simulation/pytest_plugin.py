"""For pytest: the fixture `simulate`, and a page for each test that fails.

A `conftest.py` at the top of the tests asks for it::

    pytest_plugins = ["resilient.simulation.pytest_plugin"]

============================== =====================================================
``--resilient-seeds N``        how many seeds each simulation has; 5
``--resilient-report FOLDER``  where failed tests leave pages with their simulations
============================== =====================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from resilient._policy.policy import Policy
from resilient.simulation import _simulate
from resilient.simulation._result import Result, save
from resilient.simulation._scenario import Scenario

_SIMULATED: pytest.StashKey[list[Result]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("resilient")
    group.addoption(
        "--resilient-seeds",
        type=int,
        default=5,
        metavar="N",
        help="seeds of each simulation (default: 5)",
    )
    group.addoption(
        "--resilient-report",
        type=Path,
        metavar="FOLDER",
        help="where failed tests leave pages with their simulations",
    )


class Simulate:
    """What the fixture `simulate` is: `resilient.simulation.simulate`, remembered."""

    def __init__(self, seeds: int, results: list[Result]) -> None:
        self._seeds = seeds
        self._results = results

    def __call__(
        self,
        policy: Policy[Any] | Callable[..., Any],
        scenario: Scenario | str,
        *,
        seeds: int | Iterable[int] | None = None,
        name: str | None = None,
        jobs: int = 1,
    ) -> Result:
        """Put a policy through a scenario.

        Args:
            policy: As for `resilient.simulation.simulate`, ...
            scenario: ... which this calls.
            seeds: None: as many as ``--resilient-seeds`` says.
            name: What the configuration is called in the page.
            jobs: Processes that do the runs.
        """
        chosen = self._seeds if seeds is None else seeds
        result = _simulate.simulate(
            policy, scenario, seeds=chosen, name=name, jobs=jobs
        )
        self._results.append(result)
        return result


@pytest.fixture
def simulate(request: pytest.FixtureRequest) -> Simulate:
    """Put policies through scenarios, with the seeds of the command line."""
    item: pytest.Item = request.node
    results = item.stash[_SIMULATED] = []
    return Simulate(request.config.option.resilient_seeds, results)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave a page for each scenario of a test that failed."""
    report = yield
    folder: Path | None = item.config.getoption("--resilient-report")
    results = item.stash.get(_SIMULATED, None)
    if report.when == "call" and report.failed and folder is not None and results:
        paths = _save(results, folder, re.sub(r"[^\w.-]+", "-", item.nodeid))
        report.sections.append(("simulations", "\n".join(map(str, paths))))
    return report


def _save(results: list[Result], folder: Path, name: str) -> list[Path]:
    """Write the results of each scenario to a page; return the paths."""
    groups: list[list[Result]] = []
    for result in results:
        for group in groups:
            if group[0].scenario == result.scenario:
                group.append(result)
                break
        else:
            groups.append([result])
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for number, group in enumerate(groups, 1):
        paths.append(folder / f"{name}{f'-{number}' * (number > 1)}.html")
        save(group, paths[-1])
    return paths
