"""``resilient simulate``: scenarios on the command line.

Exit codes: 0; 1: a check failed; 2: an argument, a file or a policy is wrong.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from resilient._commands.lint import find
from resilient._errors.errors import ResilientWarning, TimeoutExceededError
from resilient._machines.backoff import constant
from resilient._policy.policy import Policy
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.pipeline import Pipeline
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout
from resilient.simulation import _files
from resilient.simulation._change import changed
from resilient.simulation._checks import check, checked
from resilient.simulation._choose import choose
from resilient.simulation._dependency import Dependency
from resilient.simulation._result import Result, save
from resilient.simulation._scenario import Scenario
from resilient.simulation._simulate import combinations, compare, spelled, unmet
from resilient.simulation._summary import as_json, summary
from resilient.simulation._trace import read_trace

MOST_REQUESTS: Final = 100_000_000
"""Requests, of all runs, that are not simulated without ``--yes``: hours."""

_FIRST: Final = "retry-storm"

_SPEED: Final = 30_000
"""Requests that are simulated in a second, for an estimate."""

_WIDTH: Final = 40


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit code."""
    try:
        if arguments.list:
            sys.stdout.write("".join(f"{name}\n" for name in _files.names()))
            return 0
        if arguments.schema:
            sys.stdout.write(_files.schema())
            return 0
        if arguments.print:
            sys.stdout.write(_files.text_of(arguments.scenario or _FIRST))
            return 0
        with warnings.catch_warnings():
            # `resilient lint` tells of them.
            warnings.simplefilter("ignore", ResilientWarning)
            return _run(arguments)
    except BrokenPipeError:
        # The reader of the output is gone, which is no error of a file.
        raise
    except (OSError, TypeError, ValueError) as error:
        sys.stderr.write(f"resilient simulate: {error}\n")
        return 2


def _run(arguments: argparse.Namespace) -> int:
    found = _found(arguments)
    checks = checked({**found.checks, **_pairs("--check", arguments.check)})
    policies = _policies(arguments)
    if arguments.choose:
        _choose(arguments, found.scenario, policies)
    scenario, seeds = found.scenario, arguments.seeds
    for name, policy in policies.items():
        if text := unmet(policy, scenario, name):
            sys.stderr.write(f"warning: {text}\n")
    requests = scenario.requests * seeds * len(policies)
    if requests > MOST_REQUESTS and not arguments.yes:
        raise ValueError(
            f"{requests:.0f} requests take about {requests / _SPEED / 3600:.0f} hours:"
            " --yes simulates them"
        )
    bar = _Bar()
    results = compare(
        policies, scenario, seeds=seeds, progress=bar.show, jobs=arguments.jobs
    )
    bar.clear()
    return _report(arguments, list(results.values()), checks)


def _found(arguments: argparse.Namespace) -> _files.ScenarioFile:
    """Return the scenario, or what is replayed."""
    path = arguments.replay
    if path is None:
        if arguments.format is not None or arguments.servers is not None:
            raise ValueError("--format and --servers have no meaning without --replay")
        return _files.find(arguments.scenario or _FIRST)
    trace = read_trace(path, arguments.format)
    name = os.path.basename(path).partition(".")[0]
    found = _files.ScenarioFile(Scenario(name), {})
    if arguments.scenario is not None:
        found = _files.find(arguments.scenario)
    model, servers = found.scenario.dependency, arguments.servers
    if arguments.replay_as == "outcomes":
        if servers is not None:
            raise ValueError("--servers has no meaning for --replay-as outcomes")
        model = Dependency(recorded=trace, error=model.error)
    elif arguments.scenario is None or servers is not None:
        if servers is None:
            raise ValueError(
                "--replay-as load needs a scenario, or --servers: on how many requests"
                " the dependency works at once"
            )
        model = _files.fitted(attrs.evolve(model, servers=servers), trace)
    scenario = attrs.evolve(
        found.scenario, trace=trace, duration=trace.duration, dependency=model
    )
    return found._replace(scenario=scenario)


def _report(
    arguments: argparse.Namespace,
    results: Sequence[Result],
    checks: Mapping[str, float],
) -> int:
    """Print and write what was asked for; return the exit code."""
    text = summary(results)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = summary(results, plain=True)
    sys.stdout.write(f"{text}\n")
    last = results[-1]
    told = [(last.name, each.text, each.holds) for each in check(last, checks)]
    for name, what, holds in told:
        sys.stdout.write(f"{'ok    ' if holds else 'FAILED'} {name}: {what}\n")
    if arguments.json is not None:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(as_json(results, checks), file)
        sys.stdout.write(f"{arguments.json}\n")
    page = arguments.html
    if page is None and not arguments.policy:
        # NB: a new file. One of a known name in a folder of all users could be a link.
        handle, page = tempfile.mkstemp(".html", f"resilient-{last.scenario.name}-")
        os.close(handle)
    if page is not None:
        save(results, page, told)
        sys.stdout.write(f"{page}\n")
    return 0 if all(holds for _, _, holds in told) else 1


def _choose(
    arguments: argparse.Namespace, scenario: Scenario, policies: dict[str, Policy[Any]]
) -> None:
    """Print which numbers are best, and put the first of them beside the others."""
    values = _values("--choose", arguments.choose)
    bar = _Bar()
    settings = choose(
        list(policies.values())[-1],
        scenario,
        values,
        progress=bar.show,
        jobs=arguments.jobs,
    )
    bar.clear()
    sys.stdout.write(f"goodput - 0.1 * attempts, of seven seeds in {scenario.name}:\n")
    sys.stdout.write("".join(f"  {setting}\n" for setting in settings))
    sys.stdout.write("\n")
    policies[spelled(settings[0].changes)] = settings[0].policy


def _policies(arguments: argparse.Namespace) -> dict[str, Policy[Any]]:
    chosen: dict[str, Policy[Any]] = {}
    for text in arguments.policy:
        for target in find(text):
            found = target.policies
            chosen[target.name] = (
                found[0] if len(found) == 1 else Pipeline(*found, intended=True)
            )
    if not chosen:
        chosen = defaults()
    base = list(chosen.values())[-1]
    if arguments.set:
        changes = _pairs("--set", arguments.set)
        chosen[spelled(changes)] = base = changed(base, changes)
    values = _values("--sweep", arguments.sweep)
    for changes in combinations(values) if values else ():
        chosen[spelled(changes)] = changed(base, changes)
    return chosen


def defaults() -> dict[str, Policy[Any]]:
    """Return the library's defaults, and what is written without it."""
    failures = TimeoutExceededError, ConnectionError
    return {
        "naive retries": Pipeline(
            Retry(*failures, backoff=constant(0), budget=None), Timeout(1)
        ),
        "the defaults": Pipeline(Retry(*failures), CircuitBreaker(), Timeout(1)),
    }


def _values(option: str, texts: Sequence[str]) -> dict[str, Iterable[Any]]:
    """Read which values are to be tried, of each parameter."""
    return {
        key: value if isinstance(value, (tuple, range)) else (value,)
        for key, value in _pairs(option, texts).items()
    }


def _pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{option} must be KEY=VALUE, got {text!r}")
        pairs[key] = _value(value)
    return pairs


def _value(text: str) -> Any:
    """Read a value: a number, None, True, False, several with commas; else a text.

    Several whole numbers are ``1..3``, too.
    """
    low, dots, high = text.partition("..")
    if dots and low.isdecimal() and high.isdecimal():
        return range(int(low), int(high) + 1)
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


class _Bar:
    """A progress bar on stderr, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = -1
        self._is_seen = sys.stderr.isatty()

    def show(self, share: float) -> None:
        """Show which share of all is done."""
        filled = int(_WIDTH * share)
        if self._is_seen and filled != self._shown:
            self._shown = filled
            sys.stderr.write(f"\r[{'#' * filled}{'.' * (_WIDTH - filled)}]")
            sys.stderr.flush()

    def clear(self) -> None:
        """Leave an empty line."""
        if self._is_seen:
            sys.stderr.write(f"\r{' ' * (_WIDTH + 2)}\r")
