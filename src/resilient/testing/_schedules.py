"""Schedules: in which order tasks go on, and where one is cancelled.

Ground rules:

* A run of a scenario is a sequence of steps. At each, something is ready: the first of
  it runs, as it would on an event loop, unless the schedule says otherwise.
* A schedule is its deviations from that. It passes over what is first (a pre-emption),
  or cancels a task that waits, before anything else runs (a cancellation).
* What a schedule leads to depends on nothing else, so that it can be replayed, and the
  schedules with one deviation more are known once it has been run.

========================== =============================================
a deviation                as text
========================== =============================================
(4, 2), a pre-emption      ``4:2``: in step 4 the third that is ready runs
(6, -1), a cancellation    ``6x1``: in step 6 the first task is cancelled
========================== =============================================

Source: Musuvathi and Qadeer, *Iterative context bounding for systematic testing of
multithreaded programs*, 2007: most faults need two pre-emptions or fewer.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple, TypeAlias

Deviations: TypeAlias = tuple[tuple[int, int], ...]
"""Of each the number of its step, and an option: see `Step`."""

_DEVIATION = re.compile(r"(\d+)([:x])([1-9]\d*)")


class Step(NamedTuple):
    """What was possible in a step.

    Attributes:
        ready: How much was ready; the options 1 … ready - 1 are pre-emptions.
        waiting: The tasks that could be cancelled; the option is the negative.
    """

    ready: int
    waiting: tuple[int, ...]


class Bounds(NamedTuple):
    """How many deviations a schedule may have."""

    preemptions: int
    cancellations: int

    def left(self, deviations: Deviations) -> Bounds:
        """Return how many it may have in addition."""
        cancelled = sum(option < 0 for _, option in deviations)
        return Bounds(
            self.preemptions - len(deviations) + cancelled,
            self.cancellations - cancelled,
        )


class Search:
    """Every schedule within the bounds, those with the fewest deviations first."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._pending: deque[Iterator[Deviations]] = deque([iter([()])])

    def next(self) -> Deviations | None:
        """Return one that was not returned before; None: that was all."""
        while self._pending:
            for deviations in self._pending[0]:
                return deviations
            self._pending.popleft()
        return None

    def ran(self, deviations: Deviations, steps: Sequence[Step]) -> None:
        """Learn what was possible in the run of a schedule."""
        left = self._bounds.left(deviations)
        if any(left):
            self._pending.append(_extended(deviations, steps, left))


def _extended(
    deviations: Deviations, steps: Sequence[Step], left: Bounds
) -> Iterator[Deviations]:
    """Yield the schedules that deviate once more, later on."""
    first = deviations[-1][0] + 1 if deviations else 0
    for number in range(first, len(steps)):
        ready, waiting = steps[number]
        if left.preemptions:
            for option in range(1, ready):
                yield (*deviations, (number, option))
        if left.cancellations:
            for task in waiting:
                yield (*deviations, (number, -task))


class Replayed:
    """Chooses what a schedule says."""

    def __init__(self, deviations: Deviations) -> None:
        self._options = dict(deviations)

    def choose(self, number: int, step: Step) -> int:
        """Return the option of a step; 0: what is first."""
        option = self._options.get(number, 0)
        # NB: where another deviation was left out, this one may be impossible.
        possible = option < step.ready if option >= 0 else -option in step.waiting
        return option if possible else 0


class Drawn:
    """Chooses by chance, and any number of pre-emptions.

    Args:
        random: Where its numbers come from.
        steps: About how many steps there will be.
        cancellations: How many tasks to cancel at the most.
    """

    def __init__(self, random: Random, steps: int, cancellations: int) -> None:
        self._random = random
        self._cancels = {
            random.randrange(max(1, steps))
            for _ in range(random.randint(0, cancellations))
        }

    def choose(self, number: int, step: Step) -> int:
        """Return the option of a step; 0: what is first."""
        if number in self._cancels and step.waiting:
            return -self._random.choice(step.waiting)
        return self._random.randrange(step.ready)


def written(seed: int, deviations: Deviations) -> str:
    """Return a schedule as text."""
    parts = [
        f"{number}:{option}" if option > 0 else f"{number}x{-option}"
        for number, option in deviations
    ]
    return "/".join([str(seed), *parts])


def read(text: str) -> tuple[int, Deviations]:
    """Return the seed and the deviations of a schedule that was written.

    Raises:
        ValueError: It was not.
    """
    seed, *parts = text.split("/")
    found = [_DEVIATION.fullmatch(part) for part in parts]
    if not (re.fullmatch(r"-?\d+", seed) and all(found)):
        raise ValueError(
            "`replay` must be what a failure printed, such as '1/4:2/6x1', got"
            f" {text!r}"
        )
    return int(seed), tuple(
        (int(one[1]), int(one[3]) * (1 if one[2] == ":" else -1))
        for one in found
        if one
    )
