"""CoDel: how long a call may wait in the queue, and who goes first.

A queue is there for bursts. One that stands is of no use: each call
waits as long as all others, and comes too late. So two things depend on
whether the queue has been empty lately.

============== ======================= ====================
queue          a newcomer may wait     next is
============== ======================= ====================
empty lately   `interval`              the oldest
standing       `target`                the newest
============== ======================= ====================

* "Lately" is the last `interval`, as well.
* Who has joined keeps the time that he was given.
* Newest first, because the oldest callers have given up, or will before they
  are done; and because else each call would wait for as long as may be.

Source: B. Maurer, "Fail at Scale", ACM Queue 13 (8), 2015, with its 100 ms and
5 ms; K. Nichols and V. Jacobson, "Controlling Queue Delay", ACM Queue 10 (5),
2012.
"""

from __future__ import annotations

import math

__all__ = ["CoDel"]


class CoDel:
    """Tells a queue that stands from one that is needed.

    Args:
        interval: Seconds.
        target: Seconds.

    Attributes:
        standing: Whether the queue has not been empty lately.
    """

    __slots__ = ("_interval", "_since", "_target", "standing")

    def __init__(self, interval: float, target: float) -> None:
        self._interval = interval
        self._target = target
        # NB: no clock's zero: the queue was empty before the first call.
        self._since = math.inf
        self.standing = False

    def give_up_at(self, now: float, queued: int) -> float:
        """Return the seconds that a call which joins now may wait.

        Args:
            now: Monotonic seconds.
            queued: Who is in the queue already.
        """
        if queued == 0:
            self._since = now
        self.standing = now - self._since >= self._interval
        return self._target if self.standing else self._interval
