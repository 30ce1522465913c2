"""What a configuration came to in a scenario, over several seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import attrs

from resilient._values.checks import count, ratio
from resilient._values.checks import seconds as check_seconds
from resilient.simulation._page import page
from resilient.simulation._record import Run, recovery
from resilient.simulation._scenario import Scenario

WARM_UP = 0.1
"""Share of the run, at its beginning, that figures leave out."""


class Recovery:
    """Whether a configuration recovered in time; false with a text that says why.

    Attributes:
        after: Seconds after which each seed was well again; None: never.
    """

    def __init__(
        self, within: float, after: Mapping[int, int | None], left: int
    ) -> None:
        self._within = within
        self.after = after
        self._left = left

    def __bool__(self) -> bool:
        return all(
            after is not None and after <= self._within for after in self.after.values()
        )

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        never = [seed for seed, after in self.after.items() if after is None]
        late = [after for after in self.after.values() if after is not None]
        text = f"recovered within {self._within:g} s"
        if not self:
            slow = sum(after > self._within for after in late)
            text = f"{slow} of {len(self.after)} seeds not within {self._within:g} s"
        if never:
            text = (
                f"{len(never)} of {len(self.after)} seeds"
                f" ({', '.join(map(str, never))}) never within {self._left} s"
            )
        return f"{text}; median {_middle(self)}"


def _middle(recovery: Recovery) -> str:
    """Return after how long half of the seeds were well again, as a text."""
    after = recovery.after.values()
    middle = median(math.inf if each is None else each for each in after)
    return "never" if middle == math.inf else f"{middle:g} s"


@attrs.frozen
class Result:
    """What one configuration came to in one scenario.

    Figures are medians of the seeds, of the requests that were due after the
    first tenth of the run; with a number of `calls` for each user of all.

    Attributes:
        name: What the configuration is called.
        scenario: The scenario.
        runs: What was seen, by seed.
        since: Second from which requests count.
    """

    name: str
    scenario: Scenario
    runs: Sequence[Run] = attrs.field(repr=lambda runs: f"<{len(runs)} seeds>")
    since: int

    def after(self, second: int) -> Result:
        """Return the figures of the requests due from a second on.

        Args:
            second: Of the run, from 0, before its end.
        """
        if count("second", second, minimum=0) >= self.scenario.duration:
            raise ValueError(
                f"`second` must be < {self.scenario.duration}, where the run ends, got"
                f" {second}"
            )
        return attrs.evolve(self, since=second)

    @property
    def goodput(self) -> float:
        """Share of requests that got an answer that was made for them."""
        return self._share("answered")

    @property
    def availability(self) -> float:
        """Share of requests that got any answer, a fallback's or an old one too."""
        return self._share("answered", "remembered", "fallback")

    @property
    def rejected(self) -> float:
        """Share of requests that a policy refused."""
        return self._share("rejected")

    @property
    def amplification(self) -> float:
        """Attempts that the dependency was sent for each request."""
        return self._median(
            lambda run: _divided(sum(run.attempts[self.since :]), self._offered(run))
        )

    @property
    def wasted(self) -> float:
        """Share of the dependency's work, in the whole run, that came too late."""
        return self._median(lambda run: _divided(run.wasted, run.worked))

    @property
    def series(self) -> Mapping[str, Sequence[Any]]:
        """Gauges of the policies by metric, a value a second; of the worst seed."""
        return self.worst.series

    @property
    def worst(self) -> Run:
        """The run of the seed that recovered last, or answered least."""
        after = self._recoveries()

        def badness(run: Run) -> tuple[float, int]:
            recovered = after[run.seed]
            return (
                math.inf if recovered is None else recovered,
                -sum(run.ends["answered"][self.since :]),
            )

        return max(self.runs, key=badness)

    def latency(self, share: float) -> float:
        """Return the seconds that so large a share of all answers stays below.

        It counts from when a request was due. Requests that got no answer have no
        latency; `goodput` tells of them.

        Args:
            share: In (0, 1], as 0.99.

        Returns:
            Seconds; NaN: none was answered.
        """
        ratio("share", share)

        def quantile(run: Run) -> float:
            found = run.latencies(self.since, self.scenario.duration)
            place = math.ceil(share * len(found)) - 1
            return found[place] if found else math.nan

        known = [value for run in self.runs if not math.isnan(value := quantile(run))]
        return median(known) if known else math.nan

    def recovers_within(self, seconds: float) -> Recovery:
        """Say whether all was well again so soon after the last event, in every seed.

        Well is: of the requests of ten seconds in a row, 95 % are answered.

        Args:
            seconds: After the end of the last event, >= 0.
        """
        seconds = check_seconds("seconds", seconds)
        left = self.scenario.duration - self.scenario.calm_from
        return Recovery(seconds, self._recoveries(), left)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page with the figures and plots: one file of HTML.

        Args:
            path: Of the file; it is replaced.
        """
        save([self], path)

    def table(self) -> str:
        """Return the figures as a table in Markdown."""
        return table([self])

    def _recoveries(self) -> dict[int, int | None]:
        calm = self.scenario.calm_from
        return {
            run.seed: recovery(run.ends["answered"], run.offered, calm)
            for run in self.runs
        }

    def _offered(self, run: Run) -> int:
        return sum(run.offered[self.since :])

    def _share(self, *words: str) -> float:
        return self._median(
            lambda run: _divided(
                sum(sum(run.ends[word][self.since :]) for word in words),
                self._offered(run),
            )
        )

    def _median(self, figure: Callable[[Run], float]) -> float:
        return median(figure(run) for run in self.runs)


def _divided(part: float, whole: float) -> float:
    """Return the quotient; of nothing it is 0."""
    return part / whole if whole else 0.0


def cells(results: Sequence[Result]) -> list[list[str]]:
    """Return the figures of several configurations as rows, the first being a head."""
    rows = [
        ["", "recovers", "goodput", "available", "rejected", "attempts", "p50", "p99"]
    ]
    for result in results:
        rows.append(
            [
                result.name,
                _middle(result.recovers_within(0)),
                f"{100 * result.goodput:.1f} %",
                f"{100 * result.availability:.1f} %",
                f"{100 * result.rejected:.1f} %",
                f"{result.amplification:.2f}",
                f"{1000 * result.latency(0.5):.0f} ms",
                f"{1000 * result.latency(0.99):.0f} ms",
            ]
        )
    return rows


def table(results: Sequence[Result]) -> str:
    """Return the figures of several configurations as a table in Markdown."""
    return markdown(cells(results))


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown, the first row being its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([lines[0], rule, *lines[1:]])


def save(
    results: Sequence[Result],
    path: str | os.PathLike[str],
    told: Sequence[tuple[str, str, bool]] = (),
) -> None:
    """Write a page with the figures and plots of several configurations.

    It is one file of HTML that makes no request.

    Args:
        results: Of one scenario.
        path: Of the file; it is replaced.
        told: Names of configurations, what was checked of each, and whether it holds.
    """
    runs = [(result.name, result.worst) for result in results]
    text = page(results[0].scenario, cells(results), runs, told, len(results[0].runs))
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
