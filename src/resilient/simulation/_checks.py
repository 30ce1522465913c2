"""What is to be true of a configuration: a figure, and its limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from resilient._values.checks import number
from resilient.simulation._near import near
from resilient.simulation._result import Result


class Check(NamedTuple):
    """A figure of a result, held against its limit."""

    text: str
    holds: bool


_MOST: Final[Mapping[str, Callable[[Result], float]]] = {
    "amplification": lambda result: result.amplification,
    "p50": lambda result: result.latency(0.5),
    "p99": lambda result: result.latency(0.99),
    "rejected": lambda result: result.rejected,
    "wasted": lambda result: result.wasted,
}
_LEAST: Final[Mapping[str, Callable[[Result], float]]] = {
    "availability": lambda result: result.availability,
    "goodput": lambda result: result.goodput,
}
CHECKS: Final = ("recovers_within", *_MOST, *_LEAST)
"""Seconds until all is well again, at most; then figures, at most; and at least."""


def checked(checks: Mapping[str, object]) -> dict[str, float]:
    """Return checks with their limits as numbers.

    Raises:
        TypeError, ValueError: One is not known, or its limit is no number >= 0.
    """
    for name in checks:
        if name not in CHECKS:
            hint = near(name, CHECKS) or ", ".join(CHECKS)
            raise ValueError(f"no check is called {name!r}: {hint}")
    return {name: number(name, limit, minimum=0) for name, limit in checks.items()}


def check(result: Result, checks: Mapping[str, float]) -> list[Check]:
    """Hold a result against limits, in their order."""
    found: list[Check] = []
    for name, limit in checks.items():
        if name == "recovers_within":
            recovery = result.recovers_within(limit)
            found.append(Check(f"{name} {limit:g}: {recovery}", bool(recovery)))
        elif name in _MOST:
            figure = _MOST[name](result)
            # NB: so, and NaN, where nothing was answered, is not within it.
            found.append(Check(f"{name} {figure:.3g} <= {limit:g}", figure <= limit))
        else:
            figure = _LEAST[name](result)
            found.append(Check(f"{name} {figure:.3g} >= {limit:g}", figure >= limit))
    return found
