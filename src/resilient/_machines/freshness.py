"""Freshness: how long a kept value may be used, and which ones are kept.

Ground rules:

* A value is FRESH until its age reaches `ttl`. From then on it is STALE for
  `stale_if_error` seconds more: good enough where the alternative is an error.
  Then it is EXPIRED. At exactly the end of a life it is over.
* `Entries` are bounded by number, and by the sum of their sizes where these are
  known: room is made by dropping the least recently used. Looking at one is
  using it. One that is larger than all room is not kept.
* Each entry has one life, after which it is never found. It is dropped when it
  is next looked for or becomes the least recently used, not before: nothing
  here runs by itself.
* What is dropped is returned, so that no destructor runs under a lock.

========== ================= ==================================
state      age in seconds    what it is good for
========== ================= ==================================
FRESH      < ttl             answers at once
STALE      < ttl + stale     answers for a failure
EXPIRED    ≥ ttl + stale     nothing
========== ================= ==================================

Deliberately not modelled: background refreshes.

Source: RFC 9111, section 4.2 (freshness); RFC 5861, section 4.
"""

from __future__ import annotations

import enum
import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Freshness(enum.Enum):
    """What a value of some age is good for."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRED = "expired"


# NB: globals, for an enum's member costs double.
FRESH, STALE, EXPIRED = Freshness.FRESH, Freshness.STALE, Freshness.EXPIRED


def freshness(age: float, ttl: float, stale_if_error: float) -> Freshness:
    """Judge a value by its age.

    Args:
        age: Seconds since it was made.
        ttl: Seconds for which it is fresh.
        stale_if_error: Seconds after that, for which it is stale.
    """
    if age < ttl:
        return FRESH
    if age < ttl + stale_if_error:
        return STALE
    return EXPIRED


class Entries(Generic[T]):
    """At most `limit` values by key, each for its own time.

    Args:
        limit: How many.
        room: The largest sum of their sizes, in the unit of these.
    """

    __slots__ = ("_entries", "_used", "limit", "room")

    def __init__(self, limit: int, room: float = math.inf) -> None:
        self.limit = limit
        self.room = room
        self._used = 0.0
        # When each was put, when its life is over, what it is and its size; the
        # least recently used first.
        self._entries: OrderedDict[Hashable, tuple[float, float, T, float]] = (
            OrderedDict()
        )

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, now: float) -> tuple[T, float] | None:
        """Return a value and its age in seconds, if it is alive."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        put, end, value, _ = entry
        if now >= end:
            return None
        self._entries.move_to_end(key)
        return value, now - put

    def put(
        self,
        key: Hashable,
        value: T,
        lifetime: float,
        now: float,
        size: float = 0.0,
    ) -> list[object]:
        """Keep a value for so many seconds; return what had to go for it."""
        before = self.drop(key)
        gone = [] if before is None else [before]
        if size > self.room:
            return gone
        self._entries[key] = (now, now + lifetime, value, size)
        self._used += size
        # NB: never the new one: a sum of fractions may be a little too much.
        while len(self._entries) > 1 and (
            len(self._entries) > self.limit or self._used > self.room
        ):
            least, entry = self._entries.popitem(last=False)
            self._used -= entry[3]
            gone.append((least, entry))
        return gone

    def drop(self, key: Hashable) -> object:
        """Forget a value; return it."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._used -= entry[3]
        return entry

    def clear(self) -> object:
        """Forget all; return them."""
        entries, self._entries = self._entries, OrderedDict()
        self._used = 0.0
        return entries
