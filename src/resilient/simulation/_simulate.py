"""`simulate` and `compare`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import isfunction
from typing import Any

from resilient._calls.outcome import SUCCESS, Outcome
from resilient._errors.warnings import warn
from resilient._policy.policy import Policy, decorators_of
from resilient._values.checks import count
from resilient.policies.pipeline import Pipeline
from resilient.policies.retry import Retry
from resilient.simulation._change import changed
from resilient.simulation._copies import members
from resilient.simulation._files import find
from resilient.simulation._jobs import Job, runs
from resilient.simulation._record import Run
from resilient.simulation._result import WARM_UP, Result
from resilient.simulation._run import Progress
from resilient.simulation._scenario import Scenario
from resilient.testing._virtual_time import refuse_inside_loop


def simulate(
    policy: Policy[Any] | Callable[..., Any],
    scenario: Scenario | str,
    *,
    seeds: int | Iterable[int] = 5,
    name: str | None = None,
    progress: Progress | None = None,
    jobs: int = 1,
) -> Result:
    """Put a policy through a scenario, in virtual time, and say what it came to.

    The policy's own code runs, on copies of it: a copy for each client, whose state
    nothing else sees. What is around it is modelled: the load, the dependency, and
    what happens to them. The function of a `Fallback` is not run, and `before_retry`
    is not called.

    Args:
        policy: A policy or pipeline, or a function that some decorate.
        scenario: A `Scenario`, the name of one that is built in, or the path of a
            scenario file.
        seeds: How many runs, with the seeds 1, 2, …; or which seeds. Load and
            service times depend on the seed alone, so that configurations which are
            compared meet the same.
        name: What the configuration is called in tables; by default the policy's
            name.
        progress: Called with the share of all runs that is done, from 0 to 1.
        jobs: Processes that do the runs, >= 1, with the same results. A script that
            asks for several does so under ``if __name__ == "__main__":``, since each
            of them imports it.

    Raises:
        TypeError: `policy` is none, and no function that one decorates.
        ValueError: No scenario is built in by that name, or the file is none; the
            policy cannot be simulated, or not be pickled for another process; or
            there is no seed.
        ChildProcessError: One of the processes ended before its run had.
        VirtualTimeError: An event loop or virtual time is running.
    """
    found = policy_of(policy)
    label = name or found.label
    return compare({label: found}, scenario, seeds=seeds, progress=progress, jobs=jobs)[
        label
    ]


def compare(
    policies: Mapping[str, Policy[Any] | Callable[..., Any]],
    scenario: Scenario | str,
    *,
    seeds: int | Iterable[int] = 5,
    progress: Progress | None = None,
    jobs: int = 1,
) -> dict[str, Result]:
    """Put several policies through the same scenario, with the same random numbers.

    Args:
        policies: The policies, by what they are called in tables.
        scenario: As for `simulate`.
        seeds: As for `simulate`.
        progress: As for `simulate`.
        jobs: As for `simulate`.

    Returns:
        What each came to, by its name.
    """
    if isinstance(scenario, str):
        scenario = find(scenario).scenario
    found = {name: policy_of(policy) for name, policy in policies.items()}
    refuse_inside_loop("simulate()")
    chosen = _seeds(seeds)
    for name, policy in found.items():
        if text := unmet(policy, scenario, name):
            warn(text)
    todo = [Job(each, scenario, seed) for each in found.values() for seed in chosen]
    seen = iter(runs(todo, count("jobs", jobs, minimum=1), progress))
    return {
        name: result_of(name, scenario, list(itertools.islice(seen, len(chosen))))
        for name in found
    }


def result_of(name: str, scenario: Scenario, seen: Sequence[Run]) -> Result:
    """Return what the runs of a configuration came to."""
    # NB: users of so many calls make them at the beginning.
    since = 0 if scenario.calls else int(WARM_UP * scenario.duration)
    return Result(name, scenario, tuple(seen), since)


def sweep(
    policy: Policy[Any] | Callable[..., Any],
    scenario: Scenario | str,
    over: Mapping[str, Iterable[Any]],
    *,
    seeds: int | Iterable[int] = 5,
    progress: Progress | None = None,
    jobs: int = 1,
) -> dict[str, Result]:
    """Put copies of a policy with other numbers through the same scenario.

    Args:
        policy: As for `simulate`.
        scenario: As for `simulate`.
        over: Values to try, by ``policy.parameter`` as in ``"retry.attempts"``; of
            several parameters each combination. A policy goes by its name or its
            kind; the second of a kind is ``timeout[2]``.
        seeds: As for `simulate`.
        progress: As for `simulate`.
        jobs: As for `simulate`.

    Returns:
        What each came to, by its changes.

    Raises:
        ValueError: There is no such policy or parameter.
    """
    found = policy_of(policy)
    return compare(
        {spelled(each): changed(found, each) for each in combinations(over)},
        scenario,
        seeds=seeds,
        progress=progress,
        jobs=jobs,
    )


def unmet(policy: Policy[Any], scenario: Scenario, name: str) -> str:
    """Say of a `Retry` that what fails in a scenario is no failure to it.

    One whose `on` is a function is not asked. Timeouts are failures to all.

    Args:
        policy: The policy.
        scenario: The scenario.
        name: What the configuration is called.

    Returns:
        A text; "": it is one, or nothing fails.
    """
    if not scenario.fails:
        return ""
    failure = scenario.dependency.error("failed")
    for each in members(policy):
        if not isinstance(each, Retry) or isfunction(each.on):
            continue
        judge = each._judge  # pyright: ignore[reportPrivateUsage]  # ours
        if judge is not None and judge(Outcome(None, failure)) is SUCCESS:
            return (
                f"no error of the scenario {scenario.name!r} is a failure to {each!r}"
                f" of {name!r}: calls fail with {type(failure).__name__}, unless"
                " `error` of the dependency says with what else"
            )
    return ""


def combinations(over: Mapping[str, Iterable[Any]]) -> list[dict[str, Any]]:
    """Return every combination of values."""
    return [
        dict(zip(over, values, strict=True))
        for values in itertools.product(*over.values())
    ]


def spelled(changes: Mapping[str, Any]) -> str:
    """Return what a configuration with these changes is called."""
    return ", ".join(f"{key}={value}" for key, value in changes.items())


def policy_of(thing: object) -> Policy[Any]:
    """Return the policy that is meant: itself, or those that decorate a function."""
    if isinstance(thing, Policy):
        return thing  # pyright: ignore[reportUnknownVariableType]  # of any kind
    found = decorators_of(thing) if callable(thing) else ()
    if not found:
        raise TypeError(
            f"`policy` must be a policy or a function that one decorates, got {thing!r}"
        )
    return found[0] if len(found) == 1 else Pipeline(*found, intended=True)


def _seeds(seeds: int | Iterable[int]) -> list[int]:
    if isinstance(seeds, Iterable):
        chosen = [count("seeds", seed, minimum=0) for seed in seeds]
        if not chosen:
            raise ValueError("`seeds` must have at least one seed, got none")
        return chosen
    return list(range(1, count("seeds", seeds, minimum=1) + 1))
