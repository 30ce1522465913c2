"""What is noted of a run: by the second, and the latency of each answer."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any, Final

from resilient._calls.outcome import Outcome
from resilient._errors.errors import RejectedError, TimeoutExceededError
from resilient._runtimes import clock
from resilient.simulation._servers import Answer

ENDS: Final = (
    "answered",
    "remembered",
    "fallback",
    "rejected",
    "timeout",
    "failed",
    "gave up",
    "unanswered",
)
"""How a request may end: with an answer that was made for it; with an older one; with
a fallback's; refused by a policy; cut by a `Timeout`; with another error; left by its
caller; or not before the end of the run."""


class Run:
    """What was seen of one run.

    Attributes:
        seed: Its seed.
        offered: Requests, by the second in which they were due.
        attempts: Attempts that reached the dependency's side, by the second.
        ends: Requests by how they ended (`ENDS`) and the second in which they were due.
        series: Gauges of the policies, by name: a value for each second.
        worked: Seconds of work that the dependency did.
        wasted: Seconds of it that no caller waited for any more.
    """

    def __init__(self, seed: int, duration: int) -> None:
        self.seed = seed
        self.offered: list[int] = [0] * duration
        self.attempts: list[int] = [0] * duration
        self.ends: dict[str, list[int]] = {word: [0] * duration for word in ENDS}
        self.series: dict[str, list[Any]] = {}
        self.worked: float = 0.0
        self.wasted: float = 0.0
        self._due = array("d")
        self._latency = array("d")

    def came(self, due: float) -> None:
        """Note a request."""
        self.offered[int(due)] += 1

    def sent(self) -> None:
        """Note an attempt."""
        second = int(clock.now())
        if second < len(self.attempts):
            self.attempts[second] += 1

    def ended(self, due: float, outcome: Outcome | None) -> None:
        """Note how a request ended; None: its caller left."""
        word = "gave up" if outcome is None else _word(due, outcome)
        self.ends[word][int(due)] += 1
        if word == "answered":
            self._due.append(due)
            self._latency.append(clock.now() - due)

    def mean_latencies(self) -> list[float]:
        """Return the mean latency of answers by the second; NaN: there is none."""
        sums, counts = [0.0] * len(self.offered), [0] * len(self.offered)
        for due, latency in zip(self._due, self._latency, strict=True):
            sums[int(due)] += latency
            counts[int(due)] += 1
        pairs = zip(sums, counts, strict=True)
        return [total / count if count else math.nan for total, count in pairs]

    def shares(self, word: str) -> list[float]:
        """Return the share of requests that ended so, by the second; NaN: none came."""
        pairs = zip(self.ends[word], self.offered, strict=True)
        return [ended / offered if offered else math.nan for ended, offered in pairs]

    def close(self) -> None:
        """Note what never ended."""
        for second, offered in enumerate(self.offered):
            ended = sum(counts[second] for counts in self.ends.values())
            self.ends["unanswered"][second] = offered - ended

    def latencies(self, begin: int, end: int) -> list[float]:
        """Return the latencies of answered requests due in a span, sorted."""
        pairs = zip(self._due, self._latency, strict=True)
        return sorted(latency for due, latency in pairs if begin <= due < end)


def _word(due: float, outcome: Outcome) -> str:
    error = outcome.error
    if error is None:
        if isinstance(outcome.value, Answer):
            return "answered" if outcome.value.at >= due else "remembered"
        return "fallback"
    if isinstance(error, RejectedError):
        return "rejected"
    return "timeout" if isinstance(error, TimeoutExceededError) else "failed"


def recovery(good: Sequence[float], wanted: Sequence[float], start: int) -> int | None:
    """Return how many seconds after `start` all was well again.

    That is the first second after which, over the next ten, what was good is
    95 % of what was wanted. None: not within the run.

    Args:
        good: How much of what was wanted was had, by the second.
        wanted: How much was wanted.
        start: The second from which to look.
    """
    for first in range(start, len(wanted) - 9):
        ten = slice(first, first + 10)
        if sum(good[ten]) >= 0.95 * sum(wanted[ten]):
            return first - start
    return None
