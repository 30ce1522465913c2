"""Which classes of calls a process sheds while it has too little of something.

Ground rules:

* Each signal has a range, from where shedding begins to where the process is
  saturated. The pressure is how far the worst signal is into its range, 0 to 1.
* The lowest class goes first, and CRITICAL never: what is left to refuse then is
  no longer worth the refusing.
* It is quick to shed and slow to relent. A level begins with the first reading
  that asks for it. It ends, one class at a time, when for `hold` seconds no
  reading came within `_BAND` of where it begins: else a class that is shed would
  take the pressure away, be let in again and bring it back.

===== ====================== ==========================
level pressure               sheds
===== ====================== ==========================
0     below 0                nothing
1     from 0                 BATCH
2     from 1/3               SHEDDABLE, too
3     from 2/3               NORMAL, too
===== ====================== ==========================

A signal that cannot be read says nothing.

Source: Envoy, "Overload manager": scaled triggers; *Site Reliability
Engineering*, chapter 21, for the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor, inf
from typing import Final

from resilient._values.priority import Priority

__all__ = ["Overload"]

_BAND: Final = 0.8
"""What is at least this share of a threshold counts as at it, once it was."""

_LEVELS: Final = int(Priority.CRITICAL)


class Overload:
    """Finds the level; see the top of this module.

    Args:
        ranges: Where the range of each signal begins and ends.
        hold: Seconds for which a level stays when nothing asks for it.

    Attributes:
        level: Classes of a lower rank are shed.
        cause: The signal that asked for the level last, its value and where its
            range begins; None: none has.
    """

    __slots__ = ("_hold", "_ranges", "_since", "cause", "level")

    def __init__(self, ranges: Mapping[str, tuple[float, float]], hold: float) -> None:
        self._ranges = ranges
        self._hold = hold
        self.reset()

    def reset(self) -> None:
        """Shed nothing."""
        self.level: int = 0
        self.cause: tuple[str, float, float] | None = None
        self._since = -inf

    def look(self, now: float, values: Mapping[str, float | None]) -> int:
        """Take a reading of each signal; return the level.

        Args:
            now: Monotonic seconds.
            values: What was read; None: the signal cannot be.
        """
        highest, kept = -inf, 0
        for name, (begin, end) in self._ranges.items():
            value = values.get(name)
            if value is None:
                continue
            pressure = (value - begin) / (end - begin)
            if pressure >= 0 and pressure > highest:
                self.cause = name, value, begin
            highest = max(highest, pressure)
            kept = max(kept, _level((value / _BAND - begin) / (end - begin)))
        asked = _level(highest)
        if asked > self.level:
            self.level, self._since = asked, now
        elif self.level and kept >= self.level:
            self._since = now
        elif self.level and now - self._since >= self._hold:
            self.level, self._since = self.level - 1, now
        return self.level


def _level(pressure: float) -> int:
    return 0 if pressure < 0 else min(_LEVELS, 1 + floor(pressure * _LEVELS))
