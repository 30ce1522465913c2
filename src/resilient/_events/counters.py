"""Counts: plain integers, read when they are collected.

Ground rules:

* Counting must cost nanoseconds, so it takes no lock and calls no metrics
  library: `resilient.telemetry` reads the integers when it is asked.
* What calls count is kept by name, not by policy: two pipelines of one name,
  or one that was made anew, go on counting where the other is, as a counter
  has to. So does a name that is not in use any more, as of a client made for
  each request: of the names that were seen last `MOST_UNUSED` are kept.
* An addition is one attribute or dictionary item, read, added to and stored
  with no call in between. CPython switches threads, and collects garbage, at
  calls and at the end of loops only, so with a global interpreter lock no
  count is ever lost (3.11 to 3.15; `tests/test_counters.py`). Without one (the
  free-threaded build), two threads that count for one name in the very same
  nanoseconds may count once.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import Final
from weakref import WeakValueDictionary

from resilient._values.locks import Lock


class Counters:
    """What was counted for all calls of one name.

    Attributes:
        originals: First runs of functions, for one call each.
        successes: Calls that ended well.
        counts: Everything else, by metric and the values of its labels.
    """

    __slots__ = ("__weakref__", "counts", "originals", "successes")

    def __init__(self) -> None:
        self.originals: int = 0
        self.successes: int = 0
        self.counts: defaultdict[tuple[str, ...], int] = defaultdict(int)


UNCOUNTED: Final = Counters()
"""The counters of policies that were never called: never counted in."""

MOST_UNUSED: Final = 1000
"""Names whose counts outlive their policies. It bounds the memory, some 300 kB,
where a process makes up names for ever."""

_all_counters: WeakValueDictionary[str, Counters] = WeakValueDictionary()
# The names that were seen last; what is dropped here lives on while it is used.
_kept: OrderedDict[str, Counters] = OrderedDict()
# NB: it may be taken again by a finalizer that runs on the same thread.
_lock = Lock()


def counters_of(name: str) -> Counters:
    """Return the counters of all policies that have this name."""
    with _lock:
        counters = _all_counters.get(name)
        if counters is None:
            counters = _all_counters[name] = Counters()
        _kept[name] = counters
        _kept.move_to_end(name)
        if len(_kept) > MOST_UNUSED:
            _kept.popitem(last=False)
        return counters


def all_counters() -> dict[str, Counters]:
    """Return all counters, by name."""
    with _lock:
        return dict(_all_counters)


def forget_all() -> None:
    """Forget the counts of all names: for tests.

    Policies that are in use go on counting, where no metric sees it.
    """
    with _lock:
        _all_counters.clear()
        _kept.clear()
