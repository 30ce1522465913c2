"""What a concurrency limit is, and the simplest one: AIMD.

A limit is told how each call went and says how many may run at once. It is a
machine: it takes the time as an argument and reads no clock. The policy
around it holds its lock meanwhile, so a limit of your own must be quick,
block on nothing and call nothing back.

AIMD - additive increase, multiplicative decrease - looks at no latency at
all: each success adds a little, each sign of congestion takes a share away.

============ ==========================================================
outcome      limit
============ ==========================================================
success      + `increase`, where at least half of it is in use
congestion   × `backoff`
============ ==========================================================

* It acts on every outcome: a timeout a second in a hundred calls is seen at
  once, and a limit of 1 is 20 again after 20 successes.
* Where less than half of it is in use, it does not grow: an hour of light
  traffic would prove nothing about the limit it led to.

Source: D. Chiu and R. Jain, "Analysis of the Increase and Decrease Algorithms
for Congestion Avoidance", 1989; the numbers are those of Netflix's
concurrency-limits, with a floor of 1 where that has 20.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

from resilient._values.checks import count, number, ratio
from resilient._values.records import Configured, make_again

if TYPE_CHECKING:
    from typing import Self

__all__ = ["AIMD", "ConcurrencyLimit", "Settings"]


class ConcurrencyLimit(Protocol):
    """How many calls may run at once, learnt from how they go.

    `AIMD`, `Vegas` and `Gradient` are such limits; write your own with these
    three methods and give it to `AdaptiveConcurrency`, which calls them under
    its lock, from any thread, one at a time.
    """

    def limit(self, now: float) -> int:
        """Return the limit that holds at `now`, on a monotonic clock.

        Asked at the beginning, and before a call is refused: a limit that is
        low for a time only says here that the time is over.
        """
        ...

    def update(
        self, now: float, latency: float, in_flight: int, congested: bool
    ) -> int:
        """Learn from a call that ended, and return the limit from now on.

        Args:
            now: Monotonic seconds.
            latency: Seconds from its permit to its answer, to the first item
                of a generator; 0.0 where the clock did not move.
            in_flight: Calls that were running, this one included.
            congested: Whether it failed, timed out or was pushed back. How
                long that took says nothing.
        """
        ...

    def anew(self) -> ConcurrencyLimit:
        """Return a limit of the same settings that has learnt nothing.

        Each policy makes one of its own, and another at each reset.
        """
        ...


# In the body of a protocol it would be one of its members.
ConcurrencyLimit.__module__ = "resilient"


class Settings(Configured):
    """Where a limit starts, its bounds, and where it is."""

    __slots__ = ("_limit", "initial", "maximum", "minimum")

    def __init__(self, initial: int, minimum: int, maximum: int) -> None:
        self.minimum: int = count("minimum", minimum, minimum=1)
        self.maximum: int = count("maximum", maximum, minimum=self.minimum)
        self.initial: int = count("initial", initial, minimum=self.minimum)
        if initial > maximum:
            raise ValueError(f"`initial` must be <= {maximum}, got {initial}")
        self._limit = float(initial)

    def anew(self) -> Self:
        """Return one of the same settings that has learnt nothing."""
        return type(self)(**self._settings())

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy by any protocol has learnt nothing, as `anew`.
        return make_again, (type(self), (), self._settings())

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        changed = (
            f"{name}={value!r}"
            for name, value in self._settings().items()
            if value != parameters[name].default
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    def _settings(self) -> dict[str, Any]:
        return {
            name: getattr(self, name)
            for name in inspect.signature(type(self)).parameters
        }


class AIMD(Settings):
    """Add a little for each success, take a share away for each congestion.

    The best for clients: it needs no latency, so none that depends on what is
    asked for can mislead it.

    Args:
        initial: Limit to begin with.
        minimum: Least limit.
        maximum: Greatest limit.
        increase: What a success adds, where half the limit is in use.
        backoff: What congestion leaves, as a share, below 1.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """

    __module__ = "resilient"

    __slots__ = ("backoff", "increase")

    def __init__(
        self,
        initial: int = 20,
        *,
        minimum: int = 1,
        maximum: int = 200,
        increase: float = 1.0,
        backoff: float = 0.9,
    ) -> None:
        super().__init__(initial, minimum, maximum)
        self.increase: float = number("increase", increase, minimum=0, exclusive=True)
        self.backoff: float = ratio("backoff", backoff)
        if self.backoff == 1:
            raise ValueError(f"`backoff` must be < 1, got {backoff!r}")

    def limit(self, now: float) -> int:
        """Return the limit."""
        return int(self._limit)

    def update(
        self, now: float, latency: float, in_flight: int, congested: bool
    ) -> int:
        """Learn from a call that ended, and return the limit from now on."""
        limit = self._limit
        if congested:
            self._limit = limit = max(float(self.minimum), limit * self.backoff)
        elif in_flight * 2 >= limit:
            self._limit = limit = min(float(self.maximum), limit + self.increase)
        return int(limit)
