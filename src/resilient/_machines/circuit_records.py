"""The states of a circuit, and the values that it takes and reports."""

from __future__ import annotations

from enum import Enum
from typing import Literal, TypeAlias

from resilient._machines.window import Counts
from resilient._values.records import Record


class CircuitState(Enum):
    """Where a circuit breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    DISABLED = "disabled"
    OBSERVING = "observing"
    RAMPING = "ramping"
    THROTTLING = "throttling"


TripRule: TypeAlias = Literal[
    "failure_rate",
    "consecutive_failures",
    "slow_call_rate",
    "probes_failed",
    "probes_slow",
    "fleet",
    "fleet_slow",
]


Reason: TypeAlias = (
    TripRule
    | Literal[
        "open_time_over",
        "probes_passed",
        "fleet_closed",
        "ramp_over",
        "throttle_rate",
        "throttle_over",
        "reset",
        "force_open",
        "disable",
        "observe",
    ]
)


class Trip(Record):
    """Why a circuit opened, or would have.

    Attributes:
        rule: The rule that was met.
        counts: The calls it was met by: those of the window, of the row of
            failures, or the votes.
        window: What held them, to follow "calls failed in": "10.0 s",
            "100 calls", "a row", "half-open", "the fleet".
    """

    __slots__ = ("counts", "rule", "window")

    rule: TripRule
    counts: Counts
    window: str

    @property
    def by_slow(self) -> bool:
        """Whether slow calls met the rule, not failed ones."""
        return self.rule in ("slow_call_rate", "probes_slow", "fleet_slow")


class Change(Record):
    """The circuit went from one state to another.

    Attributes:
        old, new: The states.
        at: When, in monotonic seconds.
        reason: The trip rule, the control, "open_time_over",
            "probes_passed", "fleet_closed", "ramp_over", "throttle_rate" or
            "throttle_over".
        era: The era from then on; what `Circuit.set_open_time` wants to see.
        openings: How many times it has opened without closing in between,
            this time included; 0 unless it is open, half-open or ramping.
        trip: Why it opened; None where it did not.
    """

    __slots__ = ("at", "era", "new", "old", "openings", "reason", "trip")

    old: CircuitState
    new: CircuitState
    at: float
    reason: Reason
    era: int
    openings: int
    trip: Trip | None


class Note(Record):
    """Something happened that changed no state.

    Attributes:
        what: "would_open" (the observing circuit met a trip rule: once, until
            it is no longer met) or "probe_reclaimed" (a lease ran out).
        at: When it was noticed, in monotonic seconds.
        trip: The rule that was met while observing; None otherwise.
    """

    __slots__ = ("at", "trip", "what")

    what: Literal["would_open", "probe_reclaimed"]
    at: float
    trip: Trip | None


class Probe:
    """The permit of a half-open circuit.

    Attributes:
        era: The era it belongs to.
        deadline: When its lease runs out, in monotonic seconds.
    """

    __slots__ = ("deadline", "era")

    def __init__(self, era: int, deadline: float) -> None:
        self.era = era
        self.deadline = deadline


class Refusal:
    """Why a call may not pass.

    Attributes:
        reason: "open", "half_open_full", "ramping", "throttling" or
            "forced_open".
        retry_after: Seconds until a call may probe; None where it
            cannot be known.
        trip: Why the circuit opened; None where it was forced, or did not.
    """

    # Plain slots: an open circuit refuses thousands of calls a second, and
    # the constructor of a frozen class takes three times as long.
    __slots__ = ("reason", "retry_after", "trip")

    def __init__(
        self,
        reason: Literal[
            "open", "half_open_full", "ramping", "throttling", "forced_open"
        ],
        retry_after: float | None,
        trip: Trip | None,
    ) -> None:
        self.reason = reason
        self.retry_after = retry_after
        self.trip = trip


class CircuitStatistics(Record):
    """What a circuit knew at one moment.

    Attributes:
        state: Where it stood.
        since: When that state began, in monotonic seconds; None where it has
            never changed.
        calls, failures, slow: The calls in the window.
        failure_rate, slow_rate: Their shares, 0.0 where there were none.
        consecutive_failures: Failures since the last success.
        in_flight_probes, votes: Probes under way, and those that have voted.
        openings: How many times it has opened without closing in between.
        passing: Share of the calls that it let through, of a half-open one
            but for the probes.
        retry_after: Seconds until a call may probe; None unless it is open.
        trip: Why it opened; None unless it is open, half-open or ramping.
        succeeded_total, failed_total: Outcomes ever, stale ones included.
        ignored_total: Calls that ended without an outcome.
        stale_total: Outcomes that came when their era was over.
        rejected_total: Calls that were refused.
        opened_total: Times it opened; being forced open does not count.
    """

    __slots__ = (
        "calls",
        "consecutive_failures",
        "failed_total",
        "failure_rate",
        "failures",
        "ignored_total",
        "in_flight_probes",
        "opened_total",
        "openings",
        "passing",
        "rejected_total",
        "retry_after",
        "since",
        "slow",
        "slow_rate",
        "stale_total",
        "state",
        "succeeded_total",
        "trip",
        "votes",
    )

    state: CircuitState
    since: float | None
    calls: int
    failures: int
    slow: int
    failure_rate: float
    slow_rate: float
    consecutive_failures: int
    in_flight_probes: int
    votes: int
    openings: int
    passing: float
    retry_after: float | None
    trip: Trip | None
    succeeded_total: int
    failed_total: int
    ignored_total: int
    stale_total: int
    rejected_total: int
    opened_total: int
