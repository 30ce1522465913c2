"""What may be sent to a server that asked for less: nothing, one call, then a line.

========== ================================================= =================
state      what passes                                       until
========== ================================================= =================
closed     nothing                                           the server's word
probing    one call, and one more a second while no answer   an answer
           has come
open       calls in line, paced                              it asks again
========== ================================================= =================

Ground rules:

* An *era* begins each time the server asks for less. What was sent in an
  earlier one says nothing: an answer to it may be older than the request for
  less; another request for less from it makes the present wait longer at most.
* The pace is what the server took in the era before, its wait included. It
  grows by 3 % in each time as long as that wait, so that a limit that was
  raised is found again. Where the era before says nothing, those that wait
  are spread over a time as long as the server's wait; n that wait go faster by
  an n-th with each that the server takes.
* A bucket holds little more than one call: no bursts, but jitter has room.

Deliberately not modelled: the server, and the calls that wait.

Sources: RFC 5681, 3.1 (slow start); AWS, *Exponential Backoff and Jitter*.
"""

from __future__ import annotations

import math
from typing import Final

from resilient._machines.rate_limits import RateLimit, TokenBucket

__all__ = ["LARGEST_COST", "Pushback"]

LARGEST_COST: Final = 1.2
"""What one call may take: more than 1 is jitter, which only makes it later."""

_PROBE: Final = 1.0
"""Seconds after which another probe passes while the first has no answer. A
refusal comes at once; an answer of a language model takes many seconds."""

_FASTEST: Final = 1000.0
"""Calls a second that are as good as no limit."""

_GROWTH: Final = 0.03
"""Share by which a known pace grows in a time as long as the server's wait."""


class Pushback(TokenBucket):
    """Decides what passes, from the first request for less on.

    Attributes:
        era: Number of the present era.
    """

    __slots__ = (
        "_closed",
        "_known",
        "_opened",
        "_taken",
        "_until",
        "_wait",
        "_waiting",
        "era",
    )

    def __init__(self) -> None:
        super().__init__(_FASTEST, burst=LARGEST_COST)
        self.era: int = 0
        # Whether no answer has come since the server asked for less.
        self._closed = False
        self._until = -math.inf
        # Seconds for which the server asked for less.
        self._wait = 0.0
        # When the era's first answer came, and how many the server took since.
        self._opened = -math.inf
        self._taken = 0
        # Calls a second that the server is known to take; None: not known.
        self._known: float | None = None
        # Calls that waited when the era's first answer came.
        self._waiting = 1

    def push_back(self, now: float, seconds: float, era: int | None) -> None:
        """Take note that the server asked for less.

        Args:
            now: Monotonic time in seconds.
            seconds: For how long.
            era: The era in which the call was sent that it refused; None: it
                was sent before there were any.
        """
        if self._closed and era != self.era:
            self._until = max(self._until, now + seconds)
            return
        if self._taken:
            self._known = self._taken / max(now - self._opened, seconds)
        self.era += 1
        self._taken = 0
        self._closed = True
        self._until = now + seconds
        self._wait = seconds

    def took(self, now: float, era: int, waiting: int) -> None:
        """Take note that the server took a call.

        Args:
            now: Monotonic time in seconds.
            era: The era in which it was sent.
            waiting: Calls that wait now.
        """
        if era != self.era:
            return
        self._taken += 1
        if self._closed:
            self._closed = False
            self._opened = now
            self._waiting = max(1, waiting)
        if self._known is None:
            rate = self._waiting / self._wait
            growth, steps = 1 / self._waiting, float(self._taken - 1)
        else:
            rate = self._known
            growth, steps = _GROWTH, (now - self._opened) / self._wait
        # NB: in logarithms, for the power may be too large for a number.
        room = math.log(_FASTEST / rate) if rate < _FASTEST else 0.0
        rate *= math.exp(min(room, steps * math.log1p(growth)))
        self.change(now, min(rate, _FASTEST), 1.0, LARGEST_COST)

    def lost(self, now: float, era: int) -> None:
        """Take note that no answer will come: another call may probe."""
        if era == self.era and self._closed:
            self._until = now

    def try_take(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` if it is available; see `RateLimit.try_take`."""
        return RateLimit.try_take(self, now, amount)

    def wait(self, now: float, amount: float = 1.0) -> float:
        """Return in how many seconds `amount` will be available."""
        if not self._closed or now >= self._until:
            return super().wait(now, amount)
        # NB: of a whole line the first is the probe, and the rest follow.
        due = self._until + super().wait(self._until, amount)
        # The difference is off by less than one unit in its last place.
        return math.nextafter(due - now, math.inf)

    def take(self, now: float, amount: float) -> None:
        """Take `amount` whether or not it is available."""
        if self._closed:
            self._until = max(self._until, now + _PROBE)
        super().take(now, amount)

    def level(self, now: float) -> float:
        """Return how much is available, below 0 when in debt."""
        level = super().level(now)
        return min(level, 0.0) if self._closed else level
