"""Whether a store answers, and when to try again one that did not.

========== ============================== =================================
state      entered                        meanwhile
========== ============================== =================================
up         at the start; `answered` after it is asked
           the dwell
lost       `failed`, `too_late`           no member asks; one probe at
                                          `probe_at`, later each time, up to
                                          a second
returning  `answered` while lost          members book what they used, every
                                          0.1 s; they ask again after the
                                          dwell
closed     `end`                          as lost, for ever
========== ============================== =================================

The dwell keeps a store that answers now and then from costing each call its
patience: 0.2 s at first; where it is lost again soon after, a second, then
twice that, up to half a minute.

Sources: interlock-cb (`retry_backoff`); route flap damping, RFC 2439.
"""

from __future__ import annotations

import math
from typing import Final

__all__ = ["OVERDUE", "Contact"]

OVERDUE: Final = 2.0
"""Seconds after which no answer to an ask will come, and it is asked anew. No
exchange takes as long: who was to fail it was interrupted, or had no memory."""

_FIRST_PROBE: Final = 0.05
_LAST_PROBE: Final = 1.0
_SHORT_DWELL: Final = 0.2
_LONG_DWELL: Final = 30.0
_SOON: Final = 30.0  # seconds; a loss so soon after a return is flapping

# Seconds between two probes of a store that answers, until the dwell is over. Other
# members may use all that it has: what this one uses besides is to be booked soon.
_BOOKING: Final = 0.1


class Contact:
    """Decides whether to rely on a store; see the top of this module.

    Attributes:
        lost_since: When it was lost; None: it is up.
        probe_at: When to try it next, while it is not up.
    """

    __slots__ = (
        "_back_at",
        "_dwell",
        "_late",
        "_pause",
        "_returned_at",
        "lost_since",
        "probe_at",
    )

    # While it is not up.
    _pause: float
    _dwell: float
    _back_at: float | None

    def __init__(self) -> None:
        self.lost_since: float | None = None
        self.probe_at = -math.inf
        self._returned_at = -math.inf
        self._late = False

    @property
    def up(self) -> bool:
        """Whether it is to be asked."""
        return self.lost_since is None

    def end(self, now: float) -> None:
        """Rely on it never again: it has been closed."""
        self.lost_since = now
        self.probe_at = self._back_at = self._dwell = self._pause = math.inf

    def too_late(self, late: bool) -> bool:
        """Take note whether an answer came late; return whether twice in a row.

        Once may be this process's own fault, which had something else to do.
        """
        before, self._late = self._late, late
        return before and late

    def failed(self, now: float) -> bool:
        """Take note that it did not answer in time; return whether that is new."""
        self._back_at = None
        if self.lost_since is not None:
            self._pause = min(_LAST_PROBE, 2.0 * self._pause)
            self.probe_at = now + self._pause
            return False
        self.lost_since = now
        self._pause = _FIRST_PROBE
        self.probe_at = now + self._pause
        if now - self._returned_at > _SOON:
            self._dwell = _SHORT_DWELL
        else:
            self._dwell = min(_LONG_DWELL, max(1.0, 2.0 * self._dwell))
        return True

    def answered(self, now: float) -> float | None:
        """Take note that it answered.

        Returns:
            For how many seconds it had been lost, if it is up again with this;
            else None.
        """
        if self.lost_since is None:
            return None
        if self._back_at is None:
            self._back_at = now + self._dwell
        if now < self._back_at:
            self.probe_at = min(self._back_at, now + _BOOKING)
            return None
        since, self.lost_since = self.lost_since, None
        self._returned_at = now
        return now - since
