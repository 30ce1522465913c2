"""What a simulation comes to: a table, a plot, and whether it agrees.

A simulation is a module with

* ``NAME`` and ``TITLE``;
* ``jobs()``: the arguments of its runs, which are independent of each other;
* ``run(*job)``: one of them, in a process of its own; what it returns is
  pickled;
* ``report(results)``: a `Report` on all of them, by job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

__all__ = [
    "Check",
    "Job",
    "Report",
    "Simulation",
    "after",
    "at_least",
    "at_most",
    "between",
    "within",
]

Job = tuple[Any, ...]


class Check(NamedTuple):
    """A published figure, what was measured, and whether they agree."""

    what: str
    published: str
    measured: str
    holds: bool


class Report(NamedTuple):
    """What the documentation shows of a simulation.

    Attributes:
        table: The rows of a table, the first of which is its head.
        checks: The published figures.
        plot: An SVG document.
    """

    table: Sequence[Sequence[str]]
    checks: Sequence[Check]
    plot: str


class Simulation(Protocol):
    """See the module."""

    NAME: str
    TITLE: str

    def jobs(self) -> list[Job]: ...
    def run(self, *job: Any) -> Any: ...
    def report(self, results: Mapping[Job, Any]) -> Report: ...


def within(
    what: str, value: float, expected: float, tolerance: float, unit: str = ""
) -> Check:
    """Check that a figure is what was published, give or take."""
    return Check(
        what,
        f"{_spelt(expected)} ± {_spelt(tolerance)}{unit}",
        f"{_spelt(value)}{unit}",
        abs(value - expected) <= tolerance,
    )


def between(
    what: str, values: Sequence[float | None], low: float, high: float, unit: str
) -> Check:
    """Check that all of some figures lie between two; None lies nowhere."""
    known = [value for value in values if value is not None]
    measured = (
        _range(min(known), max(known), unit)
        if len(known) == len(values)
        else f"not in {len(values) - len(known)} of {len(values)} runs"
    )
    holds = len(known) == len(values) and low <= min(known) <= max(known) <= high
    return Check(what, _range(low, high, unit), measured, holds)


def at_least(what: str, value: float, limit: float, unit: str = "") -> Check:
    """Check that a figure is no less than was published."""
    return Check(
        what, f"≥ {_spelt(limit)}{unit}", f"{_spelt(value)}{unit}", value >= limit
    )


def at_most(what: str, value: float | None, limit: float, unit: str = "") -> Check:
    """Check that a figure is no more than was published; None is more."""
    measured = "never" if value is None else f"{_spelt(value)}{unit}"
    holds = value is not None and value <= limit
    return Check(what, f"≤ {_spelt(limit)}{unit}", measured, holds)


def after(seconds: Sequence[int | None]) -> str:
    """Spell after how long the runs recovered; None: one did not."""
    known = [each for each in seconds if each is not None]
    if not known:
        return "never"
    text = f"after {_range(min(known), max(known), ' s')}"
    return text if len(known) == len(seconds) else f"{text} or never"


def _range(low: float, high: float, unit: str) -> str:
    span = _spelt(low) if low == high else f"{_spelt(low)}–{_spelt(high)}"
    return f"{span}{unit}"


def _spelt(value: float) -> str:
    """Four digits that matter, at most."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
