"""A quantile of the most recent samples.

Which latency do 95 % of calls stay below? The answer has to follow the
dependency within minutes, must not depend on a guess about the shape of its
latencies, and is needed once a call.

Ground rules:

- The last `SIZE` samples count, alike, and nothing before them.
- The quantile is exact for those: the smallest sample that at least the given
  share of them does not exceed (nearest rank). There is no bucket whose
  bounds that the user would have to choose.
- Until there are `enough` samples there is no answer. Below 1 / (1 - share) of
  them the answer could only be the largest, which one slow call decides.
- Samples are whatever the caller thinks fit; it holds a lock around `add` and
  may read `value` without.

The samples stand twice, in the order they came and sorted; a new one is put
where `bisect` says, which moves at most 4 KB of memory: under a microsecond,
where an estimate by t-digest or P² costs several in Python.

Deliberately not modelled: the age of samples. A window in seconds forgets a
quiet hour, and with it what the first call after that hour should be compared
with; a window in samples forgets by traffic, which is what makes the old ones
worthless.

Sources: Hyndman and Fan, "Sample Quantiles in Statistical Packages", 1996
(definition 1); Dean and Barroso, "The Tail at Scale", 2013, for what it is
needed for.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from typing import Final

__all__ = ["SIZE", "Quantile"]

SIZE: Final = 500
"""Samples in the window: 25 beyond the 95th percentile, 5 beyond the 99th;
8 KB, so that there may be one for each of ten thousand keys."""

_ROUNDING: Final = 1e-9
_LEAST: Final = 20


class Quantile:
    """Follows a quantile of the last `SIZE` samples.

    Args:
        share: Of the samples, how many are at most the answer: above 0, below
            1; the caller has checked it.

    Attributes:
        enough: Samples before there is an answer: as many as put one beyond
            the quantile, and at least 20.
        value: The quantile; None until there are enough samples.
    """

    __slots__ = ("_next", "_recent", "_share", "_sorted", "enough", "value")

    def __init__(self, share: float) -> None:
        self._share = share
        self.enough: int = max(_LEAST, math.ceil(1 / (1 - share) - _ROUNDING))
        self.value: float | None = None
        # In the order they came, and where the next one goes once it is full.
        self._recent = array("d")
        self._next = 0
        self._sorted = array("d")

    def __len__(self) -> int:
        return len(self._recent)

    def __repr__(self) -> str:
        return f"<Quantile {self._share:g} of {len(self)} samples: {self.value}>"

    def add(self, sample: float) -> None:
        """Take a sample; the oldest goes when there are `SIZE` already.

        Args:
            sample: Any number but NaN, in any unit.
        """
        recent, ordered = self._recent, self._sorted
        one = array("d", (sample,))
        # NB: no call from here on but the last, or Ctrl-C would leave one list
        # without the other.
        if len(recent) < SIZE:
            recent += one
        else:
            place = self._next
            del ordered[bisect_left(ordered, recent[place])]
            recent[place] = sample
            self._next = (place + 1) % SIZE
        insort(ordered, sample)
        count = len(ordered)
        if count >= self.enough:
            # NB: 0.95 × 20 may come out a hair above 19, which is not 20.
            self.value = ordered[math.ceil(self._share * count - _ROUNDING) - 1]
