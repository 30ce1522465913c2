"""When a list that others may change is looked up again, and which call does it.

Ground rules:

* `begin` gives the work to one caller; until it says how that went, by
  `succeed`, `fail` or `cancel`, no other gets it. One that does not come
  back within `LEASE` seconds is taken for lost.
* Time is an argument, in monotonic seconds. Nothing is locked.

===================  ==========================================================
event                the list is due again
===================  ==========================================================
it was made          at once
found                after `every` seconds
failed               after 1 s, 2 s, 4 s …, at most `every`
found to be empty    after `every` seconds; where it never was found, as failed
cancelled            at once: the next caller finds it
`hurry`              at once, but no sooner than 1 s after the last beginning
===================  ==========================================================

An answer that is empty is kept back: what answers may be broken. The second one
in a row counts, unless `keeps` says that none ever does.

Deliberately not modelled: jitter. The times of calls are random already, and
processes do not start at the same moment.

Source: gRPC, *DNS resolution*, for the least time between two answers of
30 s, which its users find too long (grpc#30015); here it is 1 s.
"""

from __future__ import annotations

from math import inf
from typing import Final

__all__ = ["GAP", "LEASE", "Refresh"]

GAP: Final = 1.0
"""Seconds between two beginnings at least, and after the first failure."""

LEASE: Final = 30.0
"""Seconds after which what finds the list is taken for lost; a resolver of the
C library gives up after that with its default settings."""


class Refresh:
    """The state of one list; see the module.

    Attributes:
        found_at: When it was last found; None: never.
        due: When it is to be found again.
        busy_until: When what finds it now is taken for lost; minus infinity:
            nothing does.
        failures: How many times in a row it could not be found.
        succeeded, failed, empty: How often, all in all.
    """

    __slots__ = (
        "_began",
        "_empty_in_row",
        "_keeps",
        "_token",
        "busy_until",
        "due",
        "empty",
        "failed",
        "failures",
        "found_at",
        "succeeded",
    )

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._began = -inf
        self.busy_until: float = -inf
        self._token: object = None
        self._empty_in_row = 0
        self.found_at: float | None = None
        self.due: float = -inf
        self.failures: int = 0
        self.succeeded: int = 0
        self.failed: int = 0
        self.empty: int = 0

    def begin(self, now: float, token: object) -> bool:
        """Have a caller find the list; return False if another one does.

        Args:
            now: Monotonic seconds.
            token: What tells the caller apart.
        """
        if now < self.busy_until:
            return False
        # NB: what found it before hangs, or is gone.
        self.failed += self.busy_until > -inf
        self._began, self.busy_until, self._token = now, now + LEASE, token
        return True

    def is_due(self, now: float) -> bool:
        """Whether it is to be found, and nothing does so now."""
        return now >= self.due and now >= self.busy_until

    def believes(self, size: int) -> bool:
        """Whether an answer of so many entries is the list from now on."""
        return size > 0 or not (
            self._keeps or self.found_at is None or self._empty_in_row < 1
        )

    def succeed(self, now: float, size: int, every: float) -> None:
        """Note an answer.

        Args:
            now: Monotonic seconds.
            size: How many entries it has.
            every: Seconds until it is due again.
        """
        self.busy_until, self.due = -inf, now + every
        believed = self.believes(size)
        if size:
            self.succeeded += 1
            self._empty_in_row = 0
        else:
            self.empty += 1
            self._empty_in_row += 1
        if believed:
            self.failures = 0
            self.found_at = now
        elif self.found_at is None:
            self._back_off(now, every)

    def fail(self, now: float, every: float) -> None:
        """Note that it could not be found."""
        self.busy_until = -inf
        self.failed += 1
        self._empty_in_row = 0
        self._back_off(now, every)

    def _back_off(self, now: float, every: float) -> None:
        self.failures += 1
        # NB: a power that no float holds comes after 1024 failures.
        self.due = now + min(every, GAP * 2.0 ** min(self.failures - 1, 60))

    def holds(self, token: object) -> bool:
        """Whether a caller still has the work."""
        # NB: in this order, for on 3.11 it is the comparison that needs a frame more,
        # also where there is nothing to take back: see `Discovery.follow`.
        return self.busy_until > -inf and self._token is token

    def cancel(self, token: object) -> bool:
        """Take the work back from a caller that leaves without a result.

        Returns:
            False if it had none any more.
        """
        held = self.holds(token)
        if held:
            self.busy_until = -inf
        return held

    def hurry(self, now: float) -> None:
        """Have it found soon: there is reason to think that it has changed."""
        self.due = min(self.due, max(now, self._began + GAP))
