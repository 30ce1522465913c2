"""The circuit: whether a call may pass, given how the calls before it went.

Ground rules:

* The machine takes the time as an argument (monotonic seconds) and never
  reads a clock, waits, locks, draws a random number or runs a user's code.
* The owner holds one lock around every method. `Circuit.state`, `Circuit.era`
  and `Circuit.changes` may be read without it.
* A call that may pass gets a *permit*, and hands it back to `Circuit.settle`
  exactly once, however it ends. A call that may not gets a `Refusal`, and has
  nothing to hand back: refusals are not outcomes.
* The owner of the lock only learns *that* something happened: changes pile
  up in `Circuit.changes` until the owner takes them, to tell listeners once
  the lock is free, in the order in which they happened.

States and transitions:

=========== ================ ================= ===============================
state       a call           its outcome       left for
=========== ================ ================= ===============================
CLOSED      passes           is recorded       OPEN, when a trip rule is met;
                                               THROTTLING, when failures reach
                                               `throttle_rate`
OPEN        is refused                         HALF_OPEN, by the first call at
                                               or after the end of the open
                                               time
HALF_OPEN   passes while     votes             CLOSED (with a ramp: RAMPING)
            in flight +                        or OPEN, as soon as the votes to
            voted <                            come cannot change the result
            `half_open_calls`
RAMPING     passes if it is  is recorded       OPEN, when a trip rule is met;
            among the share                    CLOSED, by the first call at or
            of this step                       after the end of the last step
THROTTLING  passes if it is  is recorded       OPEN, when a trip rule is met;
            among the share                    CLOSED, by the first call that
            that may                           finds failures well below
                                               `throttle_rate`
FORCED_OPEN is refused                         nothing but a control
DISABLED    passes           is not looked at  nothing but a control
OBSERVING   passes           is recorded       nothing but a control; says
                                               when it would have opened
=========== ================ ================= ===============================

Controls lead from any state to another: `reset` to CLOSED, `force_open`,
`disable`, `observe`.

*Eras.* Every change of state, and every `reset`, begins a new era with an
empty window; only CLOSED and THROTTLING share one, for what the window holds
is what leads from one to the other. A permit belongs to the era it was given
in; when that is over, its outcome is counted as stale and decides nothing. So
a call that began before the circuit opened cannot close it, trip it again, or
vote.

*Trip rules.* Each outcome that is recorded, a success too, is measured
against three rules, any of which trips: failures in a row; the share of
failures, and the share of slow calls, among at least `minimum_calls` calls of
the window. All limits are reached at "equal". Whether a call was slow is
the owner's to say. Shares are compared as ``failures / calls >= rate``:
division rounds 3 / 10 to the very number that the user wrote as 0.3, where
0.3 * 10 may not be 3.

*Votes.* The half-open circuit asks what the closed one would ask of exactly
`half_open_calls` calls: would the share of failures, or of slow calls, reach
its limit? It is answered as soon as it is settled. With 3 calls and 0.5, two
failures open and two successes close; with 1.0, one success closes. Where
failures have no rate of their own (`failure_rate` None) half of the votes
decide. A probe that was cancelled or ignored gives its place to another.

*Leases.* A probe has `probe_timeout` seconds. One that has not come back then
is a failed vote, and whatever it does later is stale; the next call, or the
next probe to come back, notices. So the circuit cannot stay half-open because
a probe hangs, or because its thread died.

*Ramp.* Where the user gave one, good votes do not let all calls back at once,
for what has just come back has cold caches, and callers who waited for it. Each
step lets a share of the calls through for `ramp_step` seconds, evenly: with 1 %
the first of each hundred. The trip rules hold throughout, over a window that
began with the ramp; a circuit that opens from a ramp has not been closed. Steps
go by time alone, for quiet traffic is no reason to hold it back.

*Throttling.* Where the user gave a `throttle_rate`, a share of failures from
there on costs a share of the calls: none at `throttle_rate`, rising evenly to
all at `failure_rate`, where the circuit opens. One in a hundred passes always,
or else nothing would be learnt. To be CLOSED again takes half the rate, so that
chance does not change the state with every call; in between nothing is refused.

*Open time.* The circuit opens for a provisional time, at once. How long it
stays open is a function of the user's, which may be slow or raise, so it is
asked without the lock and its answer comes in by `Circuit.set_open_time`;
should it never come, the circuit is open all the same.

*Fleet.* Where the circuit is one of a fleet's, `quorum` has a verdict of all of
them, and `delegate` has this one follow it: `follow_open` and `follow_close`. Then it
is half-open only before `may_probe_until`: while its member holds the right to probe.

Deliberately not modelled: a timer (an open circuit whose time is over stays
OPEN until a call wants to pass: there is no probe without a call; a ramp
that is over stays RAMPING likewise); chance or priority in ramps and throttling
(an adaptive throttle has both); hysteresis while observing; rows of failures
among probes (they run at once, and have no order).

Source: M. Nygard, "Release It!" (2nd ed., section 5.2), for the three states;
failsafe-go for deciding half-open early; Envoy's slow start, and the steps of
canary releases, for the ramp. Permits with eras and leased probes
are answers to stuck and flapping breakers in libraries that have neither.

The module is long because most of it is vocabulary: the records that the
machine hands out. The rules are the last third, and read as one.
"""

from __future__ import annotations

from math import inf

from resilient._machines.circuit_records import (
    Change,
    CircuitState,
    CircuitStatistics,
    Note,
    Probe,
    Reason,
    Refusal,
    Trip,
    TripRule,
)
from resilient._machines.window import Counts, Window
from resilient._values.checks import seconds as seconds_argument

__all__ = [
    "Change",
    "Circuit",
    "CircuitState",
    "Note",
    "Probe",
    "Refusal",
    "CircuitStatistics",
    "Trip",
]


# Looked up in every call: a global costs half of what an enum's member does.
_CLOSED = CircuitState.CLOSED
_OPEN = CircuitState.OPEN
_HALF_OPEN = CircuitState.HALF_OPEN
_FORCED_OPEN = CircuitState.FORCED_OPEN
_DISABLED = CircuitState.DISABLED
_OBSERVING = CircuitState.OBSERVING
_RAMPING = CircuitState.RAMPING
_THROTTLING = CircuitState.THROTTLING

# What passes while throttling, however near the trip point is.
_LEAST_SHARE = 0.01

# A hundred times 0.01 is a little less than 1.
_ROUNDING = 1e-9

# What votes decide by where the user gave failures no rate: a majority.
_VOTING_RATE = 0.5


class Circuit:
    """Decides which calls may pass; see the top of this module.

    The arguments are those of the policy, checked by it; durations are in
    seconds, rates in (0, 1].

    Args:
        window: Where outcomes are recorded; an empty one of its own.
        failure_rate: Share of failures that trips; None for no such rule.
        minimum_calls: Calls in the window before a share means anything.
        consecutive_failures: Failures in a row that trip; None for no such
            rule.
        slow_call_duration: What a call must exceed to be slow. The owner
            judges calls by it; here it says whether a probe that never came
            back was slow. None: nothing is.
        slow_call_rate: Share of slow calls that trips; None for no such rule.
        half_open_calls: Votes taken before the circuit closes or opens.
        probe_timeout: How long a probe may take.
        throttle_rate: Share of failures from which on some calls are refused;
            below `failure_rate`, which must be given then. None: none are.
        ramp: Shares of the calls that pass after good votes, step by step,
            each below 1; empty: all at once.
        ramp_step: How long each step takes.
        provisional_open_for: How long it stays open unless another time is given.

    Attributes:
        state: Where it stands.
        era: Grows with every change of state and every reset.
        openings: How many times it has opened without closing in between.
        may_probe_until: When the right to probe ends, in monotonic seconds;
            infinity for a circuit that needs none.
        changes: What happened since `take_changes`; empty nearly always.
        window: Where outcomes are recorded.
        nothing_to_forget: Whether it records and there is nothing bad to
            remember: then one success more, before the window's bucket ends, is
            only counted, so that an owner in a hurry does it in place.
        succeeded, failed, ignored, stale, rejected, opened: Totals that only
            grow; a disabled circuit adds to none.
    """

    __slots__ = (
        "_consecutive_failures",
        "_failure_rate",
        "_half_open_calls",
        "_in_a_row",
        "_minimum_calls",
        "_opened_at",
        "_probe_timeout",
        "_probes",
        "_provisional_open_for",
        "_ramp",
        "_ramp_step",
        "_reclaimed_is_slow",
        "_recording",
        "_retry_at",
        "_share_credit",
        "_since",
        "_slow_call_rate",
        "_throttle_rate",
        "_trip",
        "_votes",
        "_votes_failed",
        "_votes_slow",
        "_would_open",
        "changes",
        "era",
        "failed",
        "ignored",
        "may_probe_until",
        "nothing_to_forget",
        "opened",
        "openings",
        "rejected",
        "stale",
        "state",
        "succeeded",
        "window",
    )

    def __init__(
        self,
        *,
        window: Window,
        failure_rate: float | None,
        minimum_calls: int,
        consecutive_failures: int | None,
        slow_call_duration: float | None,
        slow_call_rate: float | None,
        half_open_calls: int,
        probe_timeout: float,
        throttle_rate: float | None = None,
        ramp: tuple[float, ...] = (),
        ramp_step: float = 10.0,
        provisional_open_for: float = 5.0,
    ) -> None:
        self.window: Window = window
        self._failure_rate = failure_rate
        self._minimum_calls = minimum_calls
        self._consecutive_failures = consecutive_failures
        self._slow_call_rate = slow_call_rate
        self._half_open_calls = half_open_calls
        self._probe_timeout = probe_timeout
        self._throttle_rate = throttle_rate
        self._ramp = ramp
        self._ramp_step = ramp_step
        self._provisional_open_for = provisional_open_for
        self._reclaimed_is_slow = (
            slow_call_duration is not None and probe_timeout > slow_call_duration
        )

        self.state = _CLOSED
        self.era = 0
        self._recording = True  # CLOSED, THROTTLING, RAMPING and OBSERVING
        self.nothing_to_forget: bool = True
        self._since: float | None = None
        self._in_a_row = 0
        self._would_open = False

        self.openings = 0
        self.may_probe_until: float = inf
        self._trip: Trip | None = None
        self._opened_at = 0.0
        self._retry_at = 0.0

        # Leases in the order in which they run out.
        self._probes: list[Probe] = []
        self._votes = self._votes_failed = self._votes_slow = 0

        # What calls add up to, each its share, until one passes for it.
        self._share_credit = 1.0

        self.changes: tuple[Change | Note, ...] = ()
        self.succeeded = self.failed = self.ignored = 0
        self.stale = self.rejected = self.opened = 0

    # Calls

    def admit(self, now: float) -> int | Probe | Refusal:
        """Let a call pass, or refuse it.

        Returns:
            The era, as a permit that needs no object; a `Probe`, which is one
            too; or a `Refusal`.
        """
        state = self.state
        may_probe = now < self.may_probe_until
        if state is _OPEN and now >= self._retry_at and may_probe:
            self._change(_HALF_OPEN, now, "open_time_over")
            state = _HALF_OPEN
        if state is _HALF_OPEN:
            self._expire_probes(now)
            if self._votes and not self._probes:
                # Ctrl-C came between the last vote and its decision.
                self._decide(now)
                if self.state is not _HALF_OPEN:
                    return self.admit(now)
            state = self.state
            if state is _HALF_OPEN and may_probe and self._has_place():
                return self._issue_probe(now)
        elif state is not _OPEN and state is not _FORCED_OPEN:
            if state is _RAMPING or state is _THROTTLING:
                passing = self._passing(now)
                if passing == 1.0:
                    self._close_again(now)
                elif not self._takes_turn(passing):
                    self.rejected += 1
                    ramping = state is _RAMPING
                    return Refusal(
                        "ramping" if ramping else "throttling", None, self._trip
                    )
            return self.era

        self.rejected += 1
        if state is _OPEN and now < self._retry_at:
            return Refusal("open", self._retry_at - now, self._trip)
        if state is _OPEN or state is _HALF_OPEN:
            # Its probes are under way, or those of another member.
            return Refusal("half_open_full", None, self._trip)
        return Refusal("forced_open", None, None)

    def settle(
        self, permit: int | Probe, now: float, failed: bool | None, slow: bool = False
    ) -> None:
        """Take a permit back, with the result of the call.

        Args:
            permit: What `admit` returned.
            now: When the call ended, in monotonic seconds.
            failed: None where the call was cancelled or its outcome says
                nothing: nothing is recorded and no vote is cast.
            slow: Whether it exceeded `slow_call_duration`, failed or not.
        """
        window = self.window
        # NB: the owner reads the state and then the era without the lock, so
        # a permit may carry the era of a state that gives no such permits.
        # Without `_recording` its outcome would trip an open circuit.
        if failed is None or permit != self.era or not self._recording:
            self._settle_elsewhere(permit, now, failed, slow)
            return
        window.record(now, failed, slow)
        if failed:
            self.failed += 1
            self._in_a_row += 1
            self.nothing_to_forget = False
        else:
            self.succeeded += 1
            self._in_a_row = 0
            self.nothing_to_forget = not (
                window.failures or window.slow or self._would_open
            )
            if self.nothing_to_forget:
                return
        trip = self._met_rule()
        if self.state is not _OBSERVING:
            if trip is not None:
                self._open(now, trip)
            elif (
                self._throttle_rate is not None
                and self.state is _CLOSED
                and self._failure_share() >= self._throttle_rate
            ):
                self._enter_state(_THROTTLING, now, "throttle_rate")
            return
        if trip is not None and not self._would_open:
            self.changes += (Note("would_open", now, trip),)
        self._would_open = trip is not None

    def set_open_time(self, era: int, seconds: float) -> None:
        """Say how long the circuit stays open, from when it opened.

        Does nothing when that opening is over.

        Args:
            era: `Change.era` of the opening.
            seconds: What the user's function answered.

        Raises:
            TypeError: It is no number.
            ValueError: It is negative, infinite or NaN. The circuit stays
                open for the provisional time.
        """
        duration = seconds_argument("open_for", seconds)
        if era == self.era and self.state is _OPEN:
            self._retry_at = self._opened_at + duration

    def take_changes(self) -> tuple[Change | Note, ...]:
        """Return what happened since the last time, oldest first."""
        changes, self.changes = self.changes, ()
        return changes

    # The fleet

    def follow_open(
        self, now: float, retry_at: float, openings: int, trip: Trip
    ) -> None:
        """Open with the fleet, unless a control says otherwise.

        Args:
            now: Monotonic time in seconds.
            retry_at: When the fleet's open time is over.
            openings: How many times it has opened without closing in between.
            trip: Why.
        """
        if self.state in (_FORCED_OPEN, _DISABLED, _OBSERVING):
            return
        if self.state is not _OPEN:
            self._open(now, trip)
        self._retry_at, self.openings, self._trip = retry_at, openings, trip

    def follow_close(self, now: float) -> None:
        """Close, or begin the ramp, with the fleet."""
        if self.state is _OPEN or self.state is _HALF_OPEN:
            self._change(_RAMPING if self._ramp else _CLOSED, now, "fleet_closed")

    # Controls

    def reset(self, now: float) -> None:
        """Close, as good as new; calls under way no longer count.

        The totals stay: metrics rely on it.
        """
        self._change(_CLOSED, now, "reset")

    def force_open(self, now: float) -> None:
        """Refuse every call until another control is used."""
        if self.state is not _FORCED_OPEN:
            self._change(_FORCED_OPEN, now, "force_open")

    def disable(self, now: float) -> None:
        """Let every call pass, and look at none."""
        if self.state is not _DISABLED:
            self._change(_DISABLED, now, "disable")

    def observe(self, now: float) -> None:
        """Let every call pass, and say when the circuit would have opened."""
        if self.state is not _OBSERVING:
            self._change(_OBSERVING, now, "observe")

    # Looking

    @property
    def would_open(self) -> bool:
        """Whether it observes, and would be open now if it did not."""
        return self._would_open

    def retry_after(self, now: float) -> float | None:
        """Return the seconds until a call may probe; None unless open."""
        return max(0.0, self._retry_at - now) if self.state is _OPEN else None

    def is_fresh(self, now: float) -> bool:
        """Return whether it would treat every call as a new circuit would."""
        return (
            self.state is _CLOSED
            and not self._in_a_row
            and not self.window.counts(now).calls
        )

    def statistics(self, now: float) -> CircuitStatistics:
        """Return what the circuit knows at `now` (monotonic seconds).

        Looking changes no state: an open circuit whose time is over is OPEN,
        and a probe whose lease has run out is in flight, until a call comes.
        """
        counts = self.window.counts(now)
        return CircuitStatistics(
            state=self.state,
            since=self._since,
            calls=counts.calls,
            failures=counts.failures,
            slow=counts.slow,
            failure_rate=counts.failure_rate,
            slow_rate=counts.slow_rate,
            consecutive_failures=self._in_a_row,
            in_flight_probes=len(self._probes),
            votes=self._votes,
            openings=self.openings,
            passing=self._passing(now),
            retry_after=self.retry_after(now),
            trip=self._trip,
            succeeded_total=self.succeeded,
            failed_total=self.failed,
            ignored_total=self.ignored,
            stale_total=self.stale,
            rejected_total=self.rejected,
            opened_total=self.opened,
        )

    # Rules

    def _met_rule(self) -> Trip | None:
        """Return the trip rule that the last outcome met, if any."""
        window, row = self.window, self._in_a_row
        if self._consecutive_failures is not None and row >= self._consecutive_failures:
            return Trip("consecutive_failures", Counts(row, row, 0), "a row")
        calls = window.calls
        if calls < self._minimum_calls:
            return None
        rule: TripRule
        if self._failure_rate is not None and (
            window.failures / calls >= self._failure_rate
        ):
            rule = "failure_rate"
        elif self._slow_call_rate is not None and (
            window.slow / calls >= self._slow_call_rate
        ):
            rule = "slow_call_rate"
        else:
            return None
        return Trip(rule, Counts(calls, window.failures, window.slow), window.text)

    def _failure_share(self) -> float:
        """Return the share of failures, 0.0 while it means nothing yet."""
        window = self.window
        if window.calls < self._minimum_calls:
            return 0.0
        return window.failures / window.calls

    def _passing(self, now: float) -> float:
        """Return the share of the calls that may pass; changes nothing."""
        if self.state is _RAMPING:
            assert self._since is not None
            step = (now - self._since) / self._ramp_step
            # NB: of a tiny step infinitely many may be over.
            return self._ramp[int(step)] if step < len(self._ramp) else 1.0
        if self.state is _THROTTLING:
            assert self._failure_rate is not None
            assert self._throttle_rate is not None
            self.window.counts(now)
            left = self._failure_rate - self._failure_share()
            share = left / (self._failure_rate - self._throttle_rate)
            return min(1.0, max(_LEAST_SHARE, share))
        return 1.0 if self._recording or self.state is _DISABLED else 0.0

    def _takes_turn(self, share: float) -> bool:
        """Whether this call is one of the share that passes."""
        self._share_credit += share
        if self._share_credit < 1.0 - _ROUNDING:
            return False
        self._share_credit -= 1.0
        return True

    def _close_again(self, now: float) -> None:
        """Close after a ramp; after throttling, if few enough calls fail."""
        if self.state is _RAMPING:
            self._change(_CLOSED, now, "ramp_over")
            return
        assert self._throttle_rate is not None
        if self._failure_share() < self._throttle_rate / 2:
            self._enter_state(_CLOSED, now, "throttle_over")

    def _has_place(self) -> bool:
        return len(self._probes) + self._votes < self._half_open_calls

    def _issue_probe(self, now: float) -> Probe:
        """Give a probe its lease."""
        deadline = now + self._probe_timeout
        if self._probes:
            # NB: `now` may be a little behind that of the call before. In
            # order, a reclaim needs to look at the first lease only.
            deadline = max(deadline, self._probes[-1].deadline)
        probe = Probe(self.era, deadline)
        # NB: no call after it, so that an interrupt cannot come before the owner
        # has it.
        self._probes += (probe,)
        return probe

    def _expire_probes(self, now: float) -> None:
        """Make failed votes of the probes whose lease has run out."""
        # A decision empties the list: what is left then is stale.
        while self._probes and self._probes[0].deadline <= now:
            del self._probes[0]
            self.changes += (Note("probe_reclaimed", now, None),)
            self._vote(now, True, self._reclaimed_is_slow)

    def _settle_elsewhere(
        self, permit: int | Probe, now: float, failed: bool | None, slow: bool
    ) -> None:
        """Take back a probe, or a permit that does not count."""
        if self.state is _DISABLED and permit == self.era:
            return
        voting = False
        if isinstance(permit, Probe) and permit.era == self.era:
            # Its own lease may be among those that have run out.
            self._expire_probes(now)
            voting = permit in self._probes
            if voting:
                self._probes.remove(permit)
        if failed is None:
            self.ignored += 1
            return
        if failed:
            self.failed += 1
        else:
            self.succeeded += 1
        if voting:
            self._vote(now, failed, slow)
        else:
            self.stale += 1

    def _vote(self, now: float, failed: bool, slow: bool) -> None:
        """Count a vote."""
        self._votes += 1
        self._votes_failed += failed
        self._votes_slow += slow
        self._decide(now)

    def _decide(self, now: float) -> None:
        """Close or open, if the votes to come cannot change it."""
        size = self._half_open_calls
        to_come = size - self._votes

        rate = _VOTING_RATE if self._failure_rate is None else self._failure_rate
        slow_rate = self._slow_call_rate
        rule: TripRule
        if self._votes_failed / size >= rate:
            rule = "probes_failed"
        elif slow_rate is not None and self._votes_slow / size >= slow_rate:
            rule = "probes_slow"
        else:
            if (self._votes_failed + to_come) / size < rate and (
                slow_rate is None or (self._votes_slow + to_come) / size < slow_rate
            ):
                self._change(_RAMPING if self._ramp else _CLOSED, now, "probes_passed")
            return
        counts = Counts(self._votes, self._votes_failed, self._votes_slow)
        self._open(now, Trip(rule, counts, "half-open"))

    # Changes

    def _open(self, now: float, trip: Trip) -> None:
        self.opened += 1
        self._opened_at = now
        self._retry_at = now + self._provisional_open_for
        self._change(_OPEN, now, trip.rule, trip)

    def _change(
        self, new: CircuitState, now: float, reason: Reason, trip: Trip | None = None
    ) -> None:
        """Begin a new era, with nothing left of the last one."""
        openings, kept = self.openings, self._trip
        if new is _OPEN:
            openings, kept = openings + 1, trip
        elif new is not _HALF_OPEN and new is not _RAMPING:
            openings, kept = 0, None
        era, old = self.era + 1, self.state
        change = Change(old, new, now, reason, era, openings, trip)
        self.window.clear()
        # NB: no call from here on: Ctrl-C would leave half of a state behind.
        self.state, self.era = new, era
        self.openings, self._trip = openings, kept
        self._recording = new is _CLOSED or new is _OBSERVING or new is _RAMPING
        self.nothing_to_forget = self._recording
        self._in_a_row = 0
        self._would_open = False
        self._probes = []
        self._votes = self._votes_failed = self._votes_slow = 0
        # A reset of a closed circuit begins an era and changes no state.
        if new is not old:
            self._since, self._share_credit = now, 1.0
            self.changes += (change,)

    def _enter_state(self, new: CircuitState, now: float, reason: Reason) -> None:
        """Go to another state, and keep the era."""
        change = Change(self.state, new, now, reason, self.era, self.openings, None)
        self.state, self._since, self._share_credit = new, now, 1.0
        self.changes += (change,)
