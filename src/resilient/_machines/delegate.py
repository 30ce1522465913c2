"""A member's part in its fleet's circuit: what it reports, and what it obeys.

A `Circuit` decides about calls; a delegate reports to a store what that
circuit has seen, and has it follow the store's verdict (`quorum`):

=================== ====================================================
the verdict         the circuit
=================== ====================================================
the fleet is open   opens, until the fleet's open time is over; then it
                    stays open, but for a member that holds the right to
                    probe, which is half-open
the fleet is closed closes, if the fleet's was the verdict before
an order            is forced open, or reset, once: a control of this
                    member alone that comes later holds
no verdict          goes by itself: what the fleet said of an open time
(store lost)        holds until that is over
=================== ====================================================

Ground rules:

- A circuit that is forced open, disabled or observing obeys no other member, but
  for an order, which does to each what the same control would do to it alone.
- An order is told until a store has answered; what it does here is not waited for.
- What opens a member's circuit alone opens it, whatever the others say, and
  closes it again by its own probes.
- Reports go with calls: two seconds apart while nothing fails, half a second
  otherwise, and none while there is no call.
- The right to probe lasts a few seconds, longer where calls are rare, and for
  `probe_timeout` while probes run.
"""

from __future__ import annotations

import math
from typing import Final

from resilient._machines.circuit import Circuit
from resilient._machines.circuit_records import Change, CircuitState, Trip
from resilient._machines.contact import OVERDUE
from resilient._machines.quorum import CLOSED, FORCED, OPEN, RESET, Report, Verdict
from resilient._machines.window import Counts

__all__ = ["Delegate"]

_SYNC: Final = 0.5
_SYNC_QUIET: Final = 2.0

# Seconds for which the right to probe is wanted, at least and at most, and how
# many times the pause between two calls.
_RIGHT: Final = 5.0
_LONGEST_RIGHT: Final = 60.0
_PAUSES: Final = 3.0

# No open time is longer.
_DAY: Final = 86400.0

_OPEN = CircuitState.OPEN
_HALF_OPEN = CircuitState.HALF_OPEN


class Delegate:
    """Reports for one circuit; see the top of this module.

    Args:
        circuit: The circuit.
        minimum: Calls of all members before their shares mean anything.
        rate: Share of failures that opens; None: half, of members whose own
            circuits opened.
        slow_rate: The same of slow calls; None: none does.
        life: Seconds that a row counts for.
        probe_timeout: Seconds that a probe may take.

    Attributes:
        next_at: When the next report is due, with the next call; may be read
            without a lock.
        term: The term that it believes in.
        verdict: What the fleet's circuit is in that: `OPEN`, `CLOSED`, `FORCED` or
            `RESET` ...
        open: ... and whether that is `OPEN`.
        is_cut: Whether it does without the store.
        members: As many as the store has seen in the last minute.
        exchanges, exchange_time: Answers, and what they took together.
    """

    __slots__ = (
        "_called_at",
        "_circuit",
        "_counts",
        "_last",
        "_life",
        "_minimum",
        "_news",
        "_openings",
        "_order",
        "_ordered",
        "_pause",
        "_probe_timeout",
        "_probed",
        "_rate",
        "_right",
        "_sent",
        "_slow_rate",
        "_told",
        "_until",
        "exchange_time",
        "exchanges",
        "is_cut",
        "members",
        "next_at",
        "open",
        "term",
        "verdict",
    )

    def __init__(
        self,
        circuit: Circuit,
        *,
        minimum: int,
        rate: float | None,
        slow_rate: float | None,
        life: float,
        probe_timeout: float,
    ) -> None:
        self._circuit = circuit
        self._minimum = minimum
        self._rate = 0.5 if rate is None else rate
        self._slow_rate = 2.0 if slow_rate is None else slow_rate
        self._life = life
        self._probe_timeout = probe_timeout
        self.exchanges: int = 0
        self.exchange_time: float = 0.0
        self.members: int = 1
        self.is_cut: bool = False
        self.term: float = 0.0
        self.verdict: float = CLOSED
        self.open: bool = False
        self._openings = 0.0
        self._until = -math.inf
        self._counts = Counts(0, 0, 0)
        self._called_at = -math.inf
        self._pause = 0.0
        self.forget()

    def forget(self) -> None:
        """Drop what is under way, as a forked child must."""
        self.next_at: float = -math.inf
        self._sent: float | None = None
        self._last = -math.inf
        self._news = False
        self._right = 0.0
        self._probed = self._told = 0.0
        self._order = self._ordered = 0.0
        self.restore()

    def order(self, verdict: float) -> None:
        """Have all members do what this one has done: `FORCED` or `RESET`."""
        self._order = verdict
        self.next_at = -math.inf

    @property
    def has_order(self) -> bool:
        """Whether there is an order that no store has answered."""
        return self._order != 0.0

    # -- What happens

    def saw_call(self, now: float, *, failed: bool) -> None:
        """Take note of a call that was refused or has ended."""
        if self.open:
            if self._called_at > -math.inf:
                self._pause = now - self._called_at
            self._called_at = now
        if (failed or self.open) and self._sent is None:
            self.next_at = min(self.next_at, max(now, self._last + _SYNC))

    def saw(self, change: Change) -> None:
        """Take note of a change of the circuit's state."""
        if self.open and change.old is _HALF_OPEN:
            if change.reason == "probes_passed":
                self._probed = 1.0
            elif change.reason in ("probes_failed", "probes_slow"):
                self._probed = -1.0
        self._news = True
        self.next_at = -math.inf

    # -- The store

    def collect(self, now: float, id_: str) -> Report | None:
        """Return what to report now; None: a report is on its way."""
        if self._sent is not None:
            if now - self._sent < OVERDUE:
                return None
            self.fail()
        self._sent = self._last = now
        self._news = False
        circuit = self._circuit
        seen = circuit.statistics(now)
        self._told, self._probed = self._probed, 0.0
        self._ordered = self._order
        self._right = self._wanted(now)
        report = Report(
            id_,
            self.term,
            self.verdict,
            self._openings,
            max(0.0, self._until - now) if self.verdict > CLOSED else 0.0,
            life=self._life,
            minimum=float(self._minimum),
            rate=self._rate,
            slow_rate=self._slow_rate,
            probed=self._told,
            right=self._right,
            order=self._order,
        )
        if self._told < 0.0:
            report = report._replace(open_for=circuit.retry_after(now) or 0.0)
        counts = Counts(seen.calls, seen.failures, seen.slow)
        tripped = False
        if self.open:
            counts = self._counts
        elif seen.trip is not None and seen.state in (_OPEN, _HALF_OPEN):
            counts, tripped = seen.trip.counts, True
        failing = tripped or (
            counts.calls > 0
            and (
                counts.failure_rate >= self._rate or counts.slow_rate >= self._slow_rate
            )
        )
        return report._replace(
            calls=float(counts.calls),
            failures=float(counts.failures),
            slow=float(counts.slow),
            failing=float(failing),
        )

    def _wanted(self, now: float) -> float:
        """Return for how long the right to probe is wanted."""
        state = self._circuit.state
        if not self.open or (state is not _OPEN and state is not _HALF_OPEN):
            return 0.0
        if state is _OPEN and now < self._until:
            return 0.0
        right = min(_LONGEST_RIGHT, max(_RIGHT, _PAUSES * self._pause))
        if state is _HALF_OPEN and self._circuit.statistics(now).in_flight_probes:
            right += self._probe_timeout
        return right

    def absorb(self, now: float, verdict: Verdict) -> None:
        """Obey a verdict."""
        sent, self._sent = self._sent, None
        if sent is None:
            return
        self.exchanges += 1
        self.exchange_time += now - sent
        circuit = self._circuit
        was_open, self.open = self.open, verdict.open == OPEN
        self.verdict = verdict.open
        self._openings = verdict.openings
        ordered, self._ordered = self._ordered, 0.0
        if ordered == self._order:
            self._order = 0.0
        if verdict.term != self.term:
            self.term = verdict.term
            if self.open:
                self._follow_open(now, verdict)
            elif verdict.open in (FORCED, RESET):
                if verdict.open != ordered:
                    self._obey(now, verdict)
            elif was_open:
                circuit.follow_close(now)
        elif self.open and self._told and verdict.holds == 0.0:
            # Another member has the right meanwhile: its probes decide.
            self._follow_open(now, verdict)
        if self.open and not self.is_cut:
            lasts = sent + self._right if verdict.holds == 1.0 else -math.inf
            circuit.may_probe_until = lasts
        else:
            circuit.may_probe_until = math.inf
        quiet = not self.open and verdict.failures == 0.0 == verdict.slow
        pause = _SYNC_QUIET if quiet else _SYNC
        self.next_at = -math.inf if self._news or self._order else sent + pause

    def _obey(self, now: float, verdict: Verdict) -> None:
        """Do what an operator ordered for all members."""
        if verdict.open == FORCED:
            self._circuit.force_open(now)
        else:
            self._circuit.reset(now)

    def _follow_open(self, now: float, verdict: Verdict) -> None:
        self._until = now + min(_DAY, verdict.remaining)
        counts = Counts(int(verdict.calls), int(verdict.failures), int(verdict.slow))
        self._counts = counts
        by_slow = counts.failure_rate < self._rate and counts.slow > 0
        trip = Trip("fleet_slow" if by_slow else "fleet", counts, "the fleet")
        self._circuit.follow_open(now, self._until, int(verdict.openings), trip)

    def fail(self) -> None:
        """Take note that a report was lost, or may have been."""
        self._sent = None
        self._probed = self._probed or self._told

    def end(self) -> None:
        """Wait for no answer to the report just made, and make no other: it leaves."""
        self._sent = math.inf

    def see(self, now: float, members: int) -> None:
        """Take note of how many members the store has seen in the last minute."""
        self.members = members

    def cut(self, now: float) -> None:
        """Do without the store."""
        self.is_cut = True
        self._circuit.may_probe_until = math.inf

    def restore(self) -> None:
        """Rely on the store again."""
        self.is_cut = False
        self._circuit.may_probe_until = -math.inf if self.open else math.inf
        self.next_at = -math.inf
