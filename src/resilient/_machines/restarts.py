"""Whether a crashed worker is started again, and when.

Ground rules:

* Crashes are counted **in a row**: one that comes `healthy_after` seconds or more
  after the start of its run begins a new row. A count in a window of time, as
  Erlang/OTP has it, and a backoff cancel each other: with waits of 1 to 30 s five
  crashes never fall into ten seconds, and a worker that crashes at once is
  restarted for ever (124 times in the hour).
* The wait is the longest that the backoff may draw. So the moment of giving up is
  known, and a worker that returns at once never makes a busy loop.

===================== ====================================================
a run                 what follows
===================== ====================================================
crashes in its health row = 1, a restart after the first wait
crashes earlier       row + 1, a restart after the wait of that number
the same, row > max   the limit is reached: nothing
returns, "always"     row = 0, a restart after the first wait
===================== ====================================================

Deliberately not modelled: how runs are started and stopped, and which workers are
stopped with the one that crashed but for their order (`affected`).

Source: Erlang/OTP, "Supervision Principles"; Akka, `BackoffSupervisor`, which
counts in a row as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypeVar

from resilient._errors.errors import RestartLimitError
from resilient._machines.backoff import Backoff
from resilient._values.checks import seconds

Strategy: TypeAlias = Literal["one_for_one", "one_for_all", "rest_for_one"]

Delays: TypeAlias = Callable[[int], float]
"""The seconds to wait, from the number of crashes in a row."""

T = TypeVar("T")


class Restarts:
    """The crashes in a row of one worker.

    Attributes:
        row: How many there are.
        count: Restarts so far.
    """

    __slots__ = (
        "_backoff",
        "_begun",
        "_healthy_after",
        "_max",
        "count",
        "row",
    )

    def __init__(
        self, max_restarts: int, healthy_after: float, backoff: Delays
    ) -> None:
        self._max = max_restarts
        self._healthy_after = healthy_after
        self._backoff = backoff
        self._begun: float | None = None
        self.row: int = 0
        self.count: int = 0

    def begin(self, now: float) -> None:
        """Note the start of a run."""
        if self._begun is not None:
            self.count += 1
        self._begun = now

    def crash(self, now: float) -> float | None:
        """Note a crash; return the seconds to wait; None: the limit is reached."""
        if self._begun is not None and now - self._begun >= self._healthy_after:
            self.row = 0
        self.row += 1
        if self.row > self._max:
            return None
        return self._delay(self.row)

    def end(self) -> float:
        """Note that a run returned; return the seconds to wait before another."""
        self.row = 0
        return self._delay(1)

    def limit_error(self, worker: str) -> RestartLimitError:
        """Return the error of a worker that has reached the limit."""
        return RestartLimitError(worker, self.row, self._max, self._healthy_after)

    def stays_error(self, worker: str, seconds: float) -> RestartLimitError:
        """Return the error of a worker that does not stop to be restarted."""
        return RestartLimitError(worker, 0, self._max, seconds)

    def _delay(self, row: int) -> float:
        if isinstance(self._backoff, Backoff):
            return self._backoff.delay(row, lambda: 1.0)
        return seconds("backoff", self._backoff(row))


def affected(strategy: Strategy, workers: Sequence[T], crashed: T) -> Sequence[T]:
    """Return which of some workers, in order of their start, a crash restarts."""
    if strategy == "one_for_all":
        return workers
    place = workers.index(crashed)
    return workers[place:] if strategy == "rest_for_one" else [crashed]
