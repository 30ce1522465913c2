"""`choose`: which of many numbers are best, and which cannot be told apart.

Successive halving on common random numbers: all settings meet one seed, the best third
of them two more, the best third of those four more. What is left is compared seed by
seed, so that what luck does to both of two settings is no difference between them.

Source: K. Jamieson and A. Talwalkar, *Non-stochastic Best Arm Identification and
Hyperparameter Optimization*, AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import stdev
from typing import Any, Final

import attrs

from resilient._policy.policy import Policy
from resilient._values.checks import count
from resilient.simulation._change import changed, present
from resilient.simulation._files import find
from resilient.simulation._jobs import Job, runs
from resilient.simulation._result import Result
from resilient.simulation._run import Progress, part
from resilient.simulation._scenario import Scenario
from resilient.simulation._simulate import (
    combinations,
    policy_of,
    result_of,
    spelled,
)
from resilient.testing._virtual_time import refuse_inside_loop

ROUNDS: Final[Sequence[Sequence[int]]] = ((1,), (2, 3), (4, 5, 6, 7))
"""The seeds that each round adds."""

_KEPT: Final = 3
"""One of so many settings goes on to the next round; so many at least."""

_STUDENT: Final = 2.447
"""Of Student's distribution, 95 % with the six degrees of freedom of seven seeds."""

_NOISE: Final = 1e-9
"""A difference that rounding makes."""


def worth(result: Result) -> float:
    """Return what is best by default: answers, less a tenth of what is asked for them.

    Goodput - 0.1 × amplification: an attempt costs a tenth of an answer.
    """
    return result.goodput - 0.1 * result.amplification


@attrs.frozen
class Setting:
    """Numbers that were tried to the end.

    Attributes:
        changes: The values, by ``policy.parameter``.
        policy: A copy of the policy with them.
        score: The mean of the objective, of all scenarios and seeds.
        worse_by: How much less that is than the best one's, from and to, with 95 %
            confidence; from seeds that both have met.
        is_equal: Whether it cannot be told apart from the best one.
    """

    changes: Mapping[str, Any]
    policy: Policy[Any] = attrs.field(repr=False)
    score: float
    worse_by: tuple[float, float]
    is_equal: bool

    def __str__(self) -> str:
        low, high = self.worse_by
        told = "no difference to the best" if self.is_equal else "worse than the best"
        return (
            f"{spelled(self.changes)}: {self.score:.4f}, {told}"
            f" ({low:+.4f} to {high:+.4f})"
        )


class _Candidate:
    def __init__(
        self, changes: Mapping[str, Any], policy: Policy[Any], distance: float
    ) -> None:
        self.changes = changes
        self.policy = policy
        # From the numbers that the policy has now.
        self.distance = distance
        self.scores: list[float] = []

    def mean(self) -> float:
        return math.fsum(self.scores) / len(self.scores)


def choose(
    policy: Policy[Any] | Callable[..., Any],
    scenarios: Sequence[Scenario | str] | Scenario | str,
    over: Mapping[str, Iterable[Any]],
    *,
    objective: Callable[[Result], float] = worth,
    budget: int = 200,
    progress: Progress | None = None,
    jobs: int = 1,
) -> list[Setting]:
    """Find the numbers that are best in some scenarios.

    It says what is best in these models. Where it tells two settings not apart, the
    one nearer to the present numbers comes first.

    Args:
        policy: As for `simulate`.
        scenarios: One or several, which count alike.
        over: Values to try, by ``policy.parameter``, as for `sweep`.
        objective: What is to be large, of a `Result` of one seed. By default
            ``goodput - 0.1 * amplification``.
        budget: Runs at most, of all scenarios together.
        progress: As for `simulate`.
        jobs: As for `simulate`.

    Returns:
        The settings that were tried with all seeds: those that cannot be told apart
        from the best, then the others, best first.

    Raises:
        ValueError: There is no such policy or parameter, no scenario, or the settings
            need more runs than `budget`.
    """
    found = policy_of(policy)
    given = [scenarios] if isinstance(scenarios, (Scenario, str)) else list(scenarios)
    if not given:
        raise ValueError("`scenarios` must have at least one scenario, got none")
    puts = [find(each).scenario if isinstance(each, str) else each for each in given]
    now = {place: present(found, place) for place in over}
    left = [
        _Candidate(each, changed(found, each), _distance(each, now))
        for each in combinations(over)
    ]
    most, sizes = 0, len(left)
    for seeds in ROUNDS:
        most += sizes * len(seeds) * len(puts)
        sizes = _kept(sizes)
    if most > count("budget", budget, minimum=1):
        raise ValueError(
            f"`over` has {len(left)} settings, which take {most} runs, and `budget` is"
            f" {budget}"
        )
    processes, done = count("jobs", jobs, minimum=1), 0
    refuse_inside_loop("choose()")
    for place, seeds in enumerate(ROUNDS):
        if place:
            left.sort(key=lambda each: (-each.mean(), each.distance))
            del left[_kept(len(left)) :]
        todo = [
            Job(candidate.policy, put, seed)
            for candidate in left
            for seed in seeds
            for put in puts
        ]
        seen = iter(runs(todo, processes, part(progress, done, len(todo), most)))
        for candidate in left:
            for _ in seeds:
                scores = [objective(result_of("", put, [next(seen)])) for put in puts]
                candidate.scores.append(math.fsum(scores) / len(scores))
        done += len(todo)
    return _ranked(left)


def _kept(settings: int) -> int:
    """Return how many of so many settings go on."""
    return min(settings, max(_KEPT, math.ceil(settings / _KEPT)))


def _ranked(left: Sequence[_Candidate]) -> list[Setting]:
    best = max(left, key=lambda each: (each.mean(), -each.distance))
    pairs = [(candidate, _compared(candidate, best)) for candidate in left]
    pairs.sort(
        key=lambda pair: (
            (0, pair[0].distance, -pair[0].mean())
            if pair[1].is_equal
            else (1, -pair[0].mean(), pair[0].distance)
        )
    )
    return [setting for _, setting in pairs]


def _compared(candidate: _Candidate, best: _Candidate) -> Setting:
    lost = [b - c for b, c in zip(best.scores, candidate.scores, strict=True)]
    middle = math.fsum(lost) / len(lost)
    around = _STUDENT * stdev(lost) / math.sqrt(len(lost))
    low, high = middle - around, middle + around
    return Setting(
        candidate.changes,
        candidate.policy,
        candidate.mean(),
        (low, high),
        low <= _NOISE,
    )


def _distance(changes: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """Return how far values are from the present ones: in ratios, or 1 for others."""
    distance = 0.0
    for place, value in changes.items():
        old = now[place]
        if value == old:
            continue
        numbers = [each for each in (value, old) if isinstance(each, (int, float))]
        if len(numbers) == 2 and min(numbers) > 0:
            distance += abs(math.log(value / old))
        else:
            distance += 1.0
    return distance
