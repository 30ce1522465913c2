"""Sliding windows: how many of the recent calls failed or were slow.

Ground rules:

* A window counts calls that *ended*, never calls that began.
* ``calls``, ``failures`` and ``slow`` are running totals, right for the
  moment of the last `record` or `counts`: after a `record` they are read
  as they are. A call that was slow and failed counts once in each.
* Nothing here is locked: the owner holds a lock around every method,
  `counts` included, for it lets go of what is too old.

`TimeWindow` cuts its length into equal buckets and forgets a whole bucket at
a time, so it remembers a call for its length less at most one bucket, and
never for longer::

     oldest                                newest
    | closed | closed |   ...    | closed | open --->          now
    '------------ buckets of equal width -----------'

* A call is counted in the open bucket by adding one to the totals. What the
  open bucket alone holds is the difference to the totals at the moment it was
  opened, and is only worked out when it closes: a success costs one
  comparison and one addition.
* The first call into an empty window opens its first bucket. Buckets are not
  aligned to the clock: the same calls, an hour later, give the same answers,
  and a burst that begins after a silence is remembered in full. Looking
  (`counts`) never moves a boundary.
* Time may stand still. It may seem to step back a little, when a thread read
  the clock and another one was first to take the lock: such a call is counted
  in the open bucket. After a silence of a whole window all is forgotten at
  once, however long it was.

`CountWindow` remembers the last so many calls, whenever they were: one byte a
call, taken as the calls come.

Deliberately not modelled: exact expiry (a time stamp per call would cost
memory in proportion to traffic) and weights by age.

Source: the running totals over a ring of buckets are resilience4j's
`SlidingTimeWindowMetrics`; its buckets are seconds of the wall clock, these
are not.
"""

from __future__ import annotations

from array import array
from math import inf
from typing import Protocol

from resilient._values.records import Record

__all__ = ["CountWindow", "Counts", "TimeWindow", "Window"]


class Counts(Record):
    """What a window held at one moment.

    Attributes:
        calls: All calls.
        failures: Those that failed.
        slow: Those that were slow, failed or not.
    """

    __slots__ = ("calls", "failures", "slow")

    calls: int
    failures: int
    slow: int

    @property
    def failure_rate(self) -> float:
        """Failed calls as a share of all, 0.0 where there were none."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Slow calls as a share of all, 0.0 where there were none."""
        return self.slow / self.calls if self.calls else 0.0


class Window(Protocol):
    """What a circuit asks of its window.

    Attributes:
        calls, failures, slow: Running totals.
        ends: Before that, in monotonic seconds, all there is to do for a call
            that neither failed nor was slow is to add 1 to `calls`.
    """

    calls: int
    failures: int
    slow: int
    ends: float

    @property
    def text(self) -> str:
        """Its length, for people: ``10.0 s`` or ``100 calls``."""
        ...

    def record(self, now: float, failed: bool, slow: bool) -> None:
        """Count a call that ended at `now` (monotonic seconds)."""
        ...

    def counts(self, now: float) -> Counts:
        """Return what the window holds at `now` (monotonic seconds)."""
        ...

    def clear(self) -> None:
        """Forget every call."""
        ...


class TimeWindow:
    """Counts the calls of the last so many seconds.

    Args:
        seconds: Its length, above 0.
        buckets: How many parts it is forgotten in, at least 1. Ten: a call
            is remembered for 90 to 100 % of the length, and a whole window
            takes half a kilobyte.

    Attributes:
        calls, failures, slow: Running totals.
        ends: When the open bucket closes; before all time while there is none.
    """

    __slots__ = (
        "_buckets",
        "_closed_calls",
        "_closed_failures",
        "_closed_slow",
        "_next",
        "_ring",
        "_seconds",
        "_width",
        "calls",
        "ends",
        "failures",
        "slow",
    )
    ends: float

    def __init__(self, seconds: float, buckets: int = 10) -> None:
        self._seconds = seconds
        self._buckets = buckets
        self._width = seconds / buckets
        # Calls, failures and slow calls of each closed bucket, three numbers
        # a bucket; made when the first bucket closes, so that a window of one
        # burst (most keys of a `PerKey`) never has it.
        self._ring: array[int] | None = None
        self.clear()

    def __repr__(self) -> str:
        return f"TimeWindow({self._seconds!r}, buckets={self._buckets})"

    @property
    def text(self) -> str:
        """Its length, for people: ``10.0 s``."""
        length = self._seconds
        return f"{length:.1f} s" if length >= 1 else f"{length:.3g} s"

    def record(self, now: float, failed: bool, slow: bool) -> None:
        """Count a call that ended at `now` (monotonic seconds)."""
        if now >= self.ends:
            self._advance(now)
            if not self.calls:
                self.ends = now + self._width
        self.calls += 1
        if failed:
            self.failures += 1
        if slow:
            self.slow += 1

    def counts(self, now: float) -> Counts:
        """Return what the window holds at `now` (monotonic seconds)."""
        if now >= self.ends:
            self._advance(now)
        return Counts(self.calls, self.failures, self.slow)

    def clear(self) -> None:
        """Forget every call."""
        self.calls = self.failures = self.slow = 0
        # Totals at the moment the open bucket was opened.
        self._closed_calls = self._closed_failures = self._closed_slow = 0
        self._ring = None
        self._next = 0
        self.ends = -inf

    def _advance(self, now: float) -> None:
        """Close the open bucket, and those without a call."""
        late = now - self.ends
        if late < self._width * (self._buckets - 1):
            # NB: counted, not `while now >= self.ends`: that never ends
            # where a width is too small to change a large clock reading.
            steps = int(late / self._width) + 1
            for _ in range(steps):
                self._close_bucket()
            self.ends += steps * self._width
            if self.calls:
                return
        self.clear()

    def _close_bucket(self) -> None:
        """Put the open bucket away, in the place of the oldest one."""
        ring, at = self._ring, self._next
        if ring is None:
            ring = self._ring = array("q", bytes(24 * (self._buckets - 1)))
        oldest_calls, oldest_failures, oldest_slow = ring[at : at + 3]
        ring[at] = self.calls - self._closed_calls
        ring[at + 1] = self.failures - self._closed_failures
        ring[at + 2] = self.slow - self._closed_slow
        self.calls = self._closed_calls = self.calls - oldest_calls
        self.failures = self._closed_failures = self.failures - oldest_failures
        self.slow = self._closed_slow = self.slow - oldest_slow
        at += 3
        self._next = at if at < 3 * (self._buckets - 1) else 0


_MARKS = (b"\0", b"\1", b"\2", b"\3")


class CountWindow:
    """Counts the last so many calls, whenever they were.

    Args:
        size: How many calls it remembers, at least 1; a byte for each.

    Attributes:
        calls, failures, slow: Running totals.
        ends: Before all time: each call takes the place of another.
    """

    __slots__ = ("_marks", "_next", "_size", "calls", "ends", "failures", "slow")
    _next: int

    def __init__(self, size: int) -> None:
        self._size = size
        self.ends = -inf
        self.clear()

    def __repr__(self) -> str:
        return f"CountWindow({self._size!r})"

    @property
    def text(self) -> str:
        """Its length, for people: ``100 calls``."""
        return f"{self._size} calls"

    def record(self, now: float, failed: bool, slow: bool) -> None:
        """Count a call that ended; when it did is of no importance here."""
        mark = (1 if failed else 0) | (2 if slow else 0)
        # NB: plain statements, which Ctrl-C cannot come between.
        if self.calls < self._size:
            self._marks += _MARKS[mark]
            self.calls += 1
        else:
            at = self._next
            oldest = self._marks[at]
            self._marks[at] = mark
            self._next = (at + 1) % self._size
            if oldest:
                self.failures -= oldest & 1
                self.slow -= oldest >> 1
        if mark:
            self.failures += mark & 1
            self.slow += mark >> 1

    def counts(self, now: float) -> Counts:
        """Return what the window holds; nothing in it grows too old."""
        return Counts(self.calls, self.failures, self.slow)

    def clear(self) -> None:
        """Forget every call."""
        self.calls = self.failures = self.slow = 0
        # Bit 0: it failed; bit 1: it was slow.
        self._marks = bytearray()
        self._next = 0
