"""`simulate` and `compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from resilient._policy.policy import Policy, decorators_of
from resilient._values.checks import count
from resilient.policies.pipeline import Pipeline
from resilient.simulation._result import WARM_UP, Result
from resilient.simulation._run import run
from resilient.simulation._scenario import Scenario
from resilient.simulation._scenarios import built_in
from resilient.testing._virtual_time import refuse_inside_loop


def simulate(
    policy: Policy[Any] | Callable[..., Any],
    scenario: Scenario | str,
    *,
    seeds: int | Iterable[int] = 5,
    name: str | None = None,
) -> Result:
    """Put a policy through a scenario, in virtual time, and say what it came to.

    The policy's own code runs, on copies of it: a copy for each client, whose state
    nothing else sees. What is around it is modelled: the load, the dependency, and
    what happens to them. The function of a `Fallback` is not run, and `before_retry`
    is not called.

    Args:
        policy: A policy or pipeline, or a function that some decorate.
        scenario: A `Scenario`, or the name of one that is built in.
        seeds: How many runs, with the seeds 1, 2, …; or which seeds. Load and
            service times depend on the seed alone, so that configurations which are
            compared meet the same.
        name: What the configuration is called in tables; by default the policy's
            name.

    Raises:
        TypeError: `policy` is none, and no function that one decorates.
        ValueError: No scenario is built in by that name; the policy cannot be
            simulated; or there is no seed.
        VirtualTimeError: An event loop or virtual time is running.
    """
    scenario = built_in(scenario) if isinstance(scenario, str) else scenario
    found = policy_of(policy)
    refuse_inside_loop("simulate()")
    chosen = _seeds(seeds)
    return Result(
        name or found.label,
        scenario,
        tuple(run(found, scenario, seed) for seed in chosen),
        int(WARM_UP * scenario.duration),
    )


def compare(
    policies: Mapping[str, Policy[Any] | Callable[..., Any]],
    scenario: Scenario | str,
    *,
    seeds: int | Iterable[int] = 5,
) -> dict[str, Result]:
    """Put several policies through the same scenario, with the same random numbers.

    Args:
        policies: The policies, by what they are called in tables.
        scenario: As for `simulate`.
        seeds: As for `simulate`.

    Returns:
        What each came to, by its name.
    """
    chosen = _seeds(seeds)
    return {
        name: simulate(policy, scenario, seeds=chosen, name=name)
        for name, policy in policies.items()
    }


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
