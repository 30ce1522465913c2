"""CircuitBreaker: stop calling what does not answer, and find out when it does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Never, cast

from resilient._calls.call import Call, Run
from resilient._calls.judging import Condition, Judge, asks_for_values, judge_by
from resilient._calls.outcome import IGNORED, SUCCESS, Outcome
from resilient._errors.chains import add_context, name_with_cause
from resilient._errors.errors import CircuitOpenError, RejectedError
from resilient._events.events import CircuitChanged, CircuitNoted, Event, located
from resilient._events.listeners import Outbox, log_once
from resilient._machines.backoff import Backoff, exponential
from resilient._machines.circuit import Circuit
from resilient._machines.circuit_records import (
    Change,
    CircuitState,
    CircuitStatistics,
    Note,
    Probe,
    Refusal,
    Trip,
)
from resilient._machines.window import CountWindow, TimeWindow, Window
from resilient._policy.admission import Admission, AdmissionPolicy, DeferredRelease
from resilient._policy.shared import check_made_for_key, emit_of_store, fleet_of
from resilient._runtimes import clock
from resilient._values.checks import count, keywords_only, optional, plain, ratio
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock, ReenteredError
from resilient._values.records import Record
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from datetime import timedelta

    from resilient._sharing.circuit import SharedCircuit
    from resilient._sharing.store import SharedStore

_CLOSED = CircuitState.CLOSED
_NO_CAUSE = (None, None)
_AT_EASE = (_CLOSED, CircuitState.DISABLED, CircuitState.OBSERVING)


class calls(Record):  # noqa: N801 - it reads as what it is: window=calls(100)
    """A window of the last so many calls, for ``CircuitBreaker(window=…)``."""

    __slots__ = ("size",)

    size: int

    def __init__(self, size: int) -> None:
        super().__init__(count("calls", size, minimum=1))

    def __repr__(self) -> str:
        return f"calls({self.size})"


class CircuitBreaker(AdmissionPolicy, DeferredRelease):
    """Reject calls while what they call keeps failing.

    Closed, it counts outcomes in a window. When too many failed it opens and
    rejects everything for `open_for`. Then it is half-open: a few calls probe,
    and their votes close it or open it again, for longer.

    A call that was cancelled, or whose outcome is IGNORED, says nothing. An
    outcome of a call that began before the last change of state is counted
    and decides nothing. A generator is judged by its first item.

    With a `ramp` good probes do not let all calls back at once, but a share of
    the calls, then more; with a `throttle_rate` a share is rejected already
    before failures are enough to open it.

    Put it inside a `Retry`, so that it sees every attempt, and give each
    endpoint its own (`PerKey`): over a dependency with one shard of three
    down, one breaker throws away most of what still works.

    Args:
        failure_rate: Share of failures in the window that opens the circuit,
            once there are `minimum_calls`. None: no such rule.
        minimum_calls: Calls in the window before rates mean anything. Default
            20, or the count window's size if that is smaller.
        window: Seconds, or ``calls(100)`` for the last hundred.
        consecutive_failures: Failures in a row that open it too. For less
            than 2 calls a second use this, 5 for example.
        slow_call_duration: Seconds; a call that takes longer is slow.
        slow_call_rate: Share of slow calls that opens it too.
        open_for: Seconds that it stays open: a number, or a function of how
            often it has opened without closing in between. Default 5 s,
            doubling to 60 s while probes fail, ± 20 % so that a fleet does
            not probe in step.
        half_open_calls: Probes, and the votes that are counted.
        probe_timeout: Seconds after which a probe that did not return counts
            as failed. It is not interrupted.
        ramp: Shares of the calls to let through after the probes, rising, as
            in ``(0.01, 0.05, 0.25)``. Default: all at once.
        ramp_step: Seconds that each of them lasts. Default 10, so that each
            is judged by a whole window.
        throttle_rate: Share of failures from which on calls are rejected,
            the more of them the nearer it comes to `failure_rate`, which has
            to be greater. Default: none are before the circuit opens.
        on: Exception types, or a function of the outcome, that count as
            failures here. Default: the pipeline's classification, else every
            exception but rejections.
        shared: A store. All processes that give it a breaker of this `name`
            open together, when the calls of all of them would open one, and more
            than half of them, at least two, see failures themselves; one of them
            at a time probes. Each is still opened by its own calls alone, too,
            and goes by them without the store. No call waits for the store.
        name: Name in errors and events; required with `shared`.

    Raises:
        CircuitOpenError: The circuit is open, or its probes are taken, or the
            call is not among those that a ramp or throttling lets through.

    Source: M. Nygard, *Release It!*, 2nd edition, 5.2; resilience4j for
    windows and slow calls; Polly for the growing open time.
    """

    _cures = {  # noqa: RUF012 - never written to
        **AdmissionPolicy._cures,
        "weighs": "it follows from `on`",
    }

    __slots__ = (
        "_cause",
        "_circuit",
        "_deferred",
        "_judge",
        "_lock",
        "_outbox",
        "_shared",
        "consecutive_failures",
        "failure_rate",
        "half_open_calls",
        "minimum_calls",
        "on",
        "open_for",
        "probe_timeout",
        "ramp",
        "ramp_step",
        "slow_call_duration",
        "slow_call_rate",
        "throttle_rate",
        "weighs",
        "window",
    )

    # NB: a stream may last for hours; a probe that is one would lose its
    # lease while it delivers.
    holds_streams = False

    traits = Trait.LEARNS

    metrics: tuple[tuple[str, ...], ...] = (
        ("resilient.rejections", "CircuitOpenError", "enforced"),
    )

    def __init__(
        self,
        *_misplaced: Never,
        failure_rate: float | None = 0.5,
        minimum_calls: int | None = None,
        window: float | timedelta | calls = 10.0,
        consecutive_failures: int | None = None,
        slow_call_duration: float | timedelta | None = None,
        slow_call_rate: float | None = None,
        open_for: float | timedelta | Backoff | Callable[[int], float] = exponential(  # noqa: B008
            5.0, cap=60.0, jitter=0.2
        ),
        half_open_calls: int = 3,
        probe_timeout: float | timedelta = 30.0,
        ramp: list[float] | tuple[float, ...] | None = None,
        ramp_step: float | timedelta = 10.0,
        throttle_rate: float | None = None,
        on: Condition | None = None,
        shared: SharedStore | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        keywords_only("CircuitBreaker", _misplaced)
        self.window: float | calls
        empty: Window
        if isinstance(window, calls):
            self.window, most = window, window.size
            empty = CountWindow(most)
        else:
            self.window = seconds_argument("window", window, zero=False)
            most, empty = None, TimeWindow(self.window)
        self.failure_rate: float | None = optional(ratio, "failure_rate", failure_rate)
        self.minimum_calls: int | None = minimum_calls
        if minimum_calls is None:
            minimum_calls = 20 if most is None else min(20, most)
        count("minimum_calls", minimum_calls, minimum=1)
        if most is not None and minimum_calls > most:
            raise ValueError(
                f"`minimum_calls` must be <= {most}, the window's size, got"
                f" {minimum_calls}: the circuit could never open"
            )
        self.consecutive_failures: int | None = optional(
            count, "consecutive_failures", consecutive_failures, minimum=1
        )
        self.slow_call_duration: float | None = optional(
            seconds_argument, "slow_call_duration", slow_call_duration
        )
        self.slow_call_rate: float | None = optional(
            ratio, "slow_call_rate", slow_call_rate
        )
        if self.slow_call_rate is not None and self.slow_call_duration is None:
            raise ValueError(
                f"`slow_call_duration` must be given with slow_call_rate="
                f"{slow_call_rate}, got None: no call would be slow"
            )
        if failure_rate is consecutive_failures is slow_call_rate is None:
            raise ValueError(
                "`failure_rate`, `consecutive_failures` or `slow_call_rate` must"
                " be given, got None for each: the circuit could never open"
            )
        self.open_for: float | Backoff | Callable[[int], float] = (
            plain("open_for", open_for, "how often it has opened")
            if callable(open_for)
            else seconds_argument("open_for", open_for)
        )
        self.half_open_calls: int = count("half_open_calls", half_open_calls, minimum=1)
        self.probe_timeout: float = seconds_argument(
            "probe_timeout", probe_timeout, zero=False, infinite=True
        )
        self.ramp: tuple[float, ...] | None = _checked_ramp(ramp)
        self.ramp_step: float = seconds_argument("ramp_step", ramp_step, zero=False)
        self.throttle_rate: float | None = optional(
            ratio, "throttle_rate", throttle_rate
        )
        if self.throttle_rate is not None and (
            self.failure_rate is None or self.throttle_rate >= self.failure_rate
        ):
            raise ValueError(
                f"`throttle_rate` must be < `failure_rate`, which is {failure_rate},"
                f" got {throttle_rate}"
            )
        self.on: Condition | None = on
        self._judge: Judge | None = judge_by("on", on, policy=self)
        self.weighs: bool = (
            asks_for_values(self._judge)
            or type(self).settle is not CircuitBreaker.settle
        )
        self._lock = Lock()
        self._deferred: list[tuple[Any, float, bool | None, bool] | Probe] = []
        self._outbox: Outbox | None = None
        # What opened it in this process, and the error that did.
        self._cause: tuple[Trip | None, str | None] = _NO_CAUSE
        self._circuit = Circuit(
            window=empty,
            failure_rate=self.failure_rate,
            minimum_calls=minimum_calls,
            consecutive_failures=self.consecutive_failures,
            slow_call_duration=self.slow_call_duration,
            slow_call_rate=self.slow_call_rate,
            half_open_calls=self.half_open_calls,
            probe_timeout=self.probe_timeout,
            throttle_rate=self.throttle_rate,
            # To let all through is to be closed.
            ramp=tuple([share for share in self.ramp or () if share < 1.0]),
            ramp_step=self.ramp_step,
        )
        self._shared: SharedCircuit | None = None
        if shared is not None:
            from resilient._machines.delegate import Delegate
            from resilient._sharing.circuit import SharedCircuit

            delegate = Delegate(
                self._circuit,
                minimum=minimum_calls,
                rate=self.failure_rate,
                slow_rate=self.slow_call_rate,
                # Of a count window nothing says how old it is.
                life=10.0 if isinstance(self.window, calls) else self.window,
                probe_timeout=min(self.probe_timeout, 3600.0),
            )
            self._shared = SharedCircuit(
                shared,
                name,
                delegate,
                self._follow,
                self._open_time,
                partial(emit_of_store, self),
            )

    @property
    def shared(self) -> SharedStore | None:
        """The store that the circuit is shared through."""
        return None if self._shared is None else self._shared.store

    def _unregister(self) -> None:
        # A PerKey calls this of all that stands inside it, at whatever depth.
        check_made_for_key(self, self._shared, "one circuit")
        super()._unregister()

    def _leave_store(self) -> None:
        if self._shared is not None:
            self._shared.leave()

    # -- Calls

    def admit(self, call: Call) -> Admission:
        circuit = self._circuit
        # NB: the era first. Read without the lock, an old era with a new
        # "closed" is merely stale; the other way round it would be believed.
        era = circuit.era
        timed = self.slow_call_duration is not None
        if circuit.state is _CLOSED:
            return (era, clock.now()) if timed else era
        now = clock.now()
        given: list[Any] = [None]
        try:
            permit = self._admit(now, given)
            if isinstance(permit, Refusal):
                if self._shared is not None:
                    self._shared.saw_call(now, failed=True)
                return self._rejection(permit, call)
            if circuit.state not in _AT_EASE:
                call.discourage_hedging()
            if permit.__class__ is Probe:
                call.run = Run.PROBE
                if self._shared is not None:
                    # The right to probe lasts as long as the probe may.
                    self._shared.saw_call(now, failed=True)
            elif circuit.would_open:
                kind = CircuitOpenError.__name__
                call.count(
                    "resilient.rejections", self.placement.policy, kind, "observing"
                )
            return (permit, now) if timed else permit
        except BaseException:
            # Ctrl-C, in a listener too: the probe is held already.
            if given[0] is not None:
                self._release(given[0])
            raise

    def _admit(self, now: float, given: list[Any]) -> int | Probe | Refusal:
        """Ask the circuit.

        Args:
            now: Monotonic seconds.
            given: Where a probe is left at once, in the place of its only item.
        """
        circuit = self._circuit
        try:
            # First what was given back: it may be the probe that is wanted.
            permit, changes = self._lock.run(self._admit_locked, now, given)
        except ReenteredError:
            # It began in the middle of a change, on the same thread: what is
            # not closed lets no further call through.
            if circuit.state is CircuitState.DISABLED:
                return circuit.era
            return Refusal("half_open_full", None, None)
        if changes:
            self._after_unlock(changes)
        if self._deferred:
            self._release_deferred()
        if changes and isinstance(permit, Refusal):
            # It has just opened again, for a time that only now is known.
            permit.retry_after = circuit.retry_after(now)
        return permit

    def _admit_locked(
        self, now: float, given: list[Any]
    ) -> tuple[int | Probe | Refusal, list[Change | Note]]:
        changes = self._release_deferred_locked() if self._deferred else []
        circuit = self._circuit
        permit: Any = circuit.admit(now)
        # NB: no call before the next line.
        if permit.__class__ is Probe:
            given[0] = permit
        if circuit.changes:
            changes += self._changes_locked()
        return permit, changes

    def settle(self, permit: Any, outcome: Outcome | None) -> None:
        failed: bool | None = None
        try:
            if outcome is not None:
                judge = self._judge
                verdict = (
                    (outcome.health or outcome.verdict)
                    if judge is None
                    else judge(outcome)
                )
                if verdict is SUCCESS:
                    failed = False
                elif verdict is not IGNORED:
                    failed = True
        finally:
            # NB: a judge that raises is a bug that reaches the caller, after
            # the permit has gone back.
            now = clock.now()
            slow = False
            if self.slow_call_duration is not None:
                permit, began = permit
                slow = now - began > self.slow_call_duration
            circuit, lock, counted = self._circuit, self._lock, False
            if failed is False and not slow:
                window = circuit.window
                _ = lock.acquired
                try:
                    if (
                        permit is circuit.era
                        and circuit.nothing_to_forget
                        and now < window.ends
                        and not lock.changing
                    ):
                        # What `Circuit.settle` does then, without a call.
                        window.calls += 1
                        circuit.succeeded += 1
                        counted = True
                finally:
                    lock.release()
            try:
                if not counted:
                    lock.run(circuit.settle, permit, now, failed, slow)
            except ReenteredError:
                self._deferred.append((permit, now, failed, slow))
            else:
                if circuit.changes:
                    changes = self._lock.run(self._changes_locked)
                    error = None if outcome is None else outcome.error
                    self._after_unlock(changes, error)
                if self._deferred:
                    self._release_deferred()
                if self._shared is not None:
                    self._shared.saw_call(now, failed=bool(failed))

    def _unwind(
        self,
        permit: Admission,
        call: Call | None,
        unwinding: BaseException,
        began: float | None = None,
    ) -> None:
        if not isinstance(permit, RejectedError):
            # NB: a probe that was settled is no more among those in flight.
            try:
                cut = None if call is None else call.cut_outcome(unwinding, began)
                self.settle(permit, cut)
            except MemoryError:
                if permit.__class__ is tuple:
                    permit = permit[0]
                if permit.__class__ is Probe:
                    self._release(permit)
                raise

    def _release_locked(
        self, item: tuple[Any, float, bool | None, bool] | Probe
    ) -> list[Change | Note]:
        if isinstance(item, Probe):
            self._circuit.settle(item, clock.now(), None, False)
        else:
            self._circuit.settle(*item)
        return self._changes_locked() if self._circuit.changes else []

    def _rejection(self, refusal: Refusal, call: Call) -> CircuitOpenError:
        trip = refusal.trip
        name = self.error_name(call)
        if trip is None:
            return CircuitOpenError(name, refusal.retry_after, refusal.reason)
        counts, slow = trip.counts, trip.by_slow
        return CircuitOpenError(
            name,
            refusal.retry_after,
            refusal.reason,
            counts.slow if slow else counts.failures,
            counts.calls,
            trip.window,
            "were slow" if slow else "failed",
            # NB: the circuit may have opened anew, and its cause not be noted yet.
            self._cause[1] if self._cause[0] is trip and not slow else None,
        )

    # -- Controls

    @property
    def state(self) -> CircuitState:
        """Where the circuit stands. It leaves OPEN when the first call probes."""
        return self._circuit.state

    def statistics(self) -> CircuitStatistics:
        """Return what the circuit knows now."""
        return self._run(lambda changes: self._circuit.statistics(clock.now()))

    def status(self) -> dict[str, Any]:
        seen = self.statistics()
        since = seen.since
        return {
            "circuit.state": seen.state.value,
            "circuit.failure_rate": seen.failure_rate,
            "circuit.slow_rate": seen.slow_rate,
            "window_calls": seen.calls,
            "seconds_in_state": None if since is None else clock.now() - since,
            "retry_after": seen.retry_after,
            **({} if self._shared is None else self._shared.status()),
        }

    def reset(self, *, fleet: bool = False) -> None:
        """Close the circuit, with an empty window. Calls under way are stale.

        Args:
            fleet: In all processes that share it; see `force_open`.

        Raises:
            ValueError: `fleet`, and it is not shared.
        """
        shared = fleet_of(self, self._shared) if fleet else None
        self._control(self._circuit.reset)
        if shared is not None:
            shared.reset()

    def force_open(self, *, fleet: bool = False) -> None:
        """Reject every call until `reset` or another control.

        Args:
            fleet: In all processes that share it: here at once, in the others
                with their next report, which goes with a call and is at most
                2 s after the last one. It returns before the store has
                answered, and is told to a store that is lost when it is back.
                A process that starts later is forced open, too.

        Raises:
            ValueError: `fleet`, and it is not shared.
        """
        shared = fleet_of(self, self._shared) if fleet else None
        self._control(self._circuit.force_open)
        if shared is not None:
            shared.force_open()

    def disable(self) -> None:
        """Let every call pass and record nothing, until another control."""
        self._control(self._circuit.disable)

    def observe(self) -> None:
        """Let every call pass, record, and tell listeners when it would open."""
        self._control(self._circuit.observe)

    def _control(self, control: Callable[[float], None]) -> None:
        self._run(self._control_locked, control)

    def _control_locked(
        self, changes: list[Change | Note], control: Callable[[float], None]
    ) -> None:
        control(clock.now())
        changes += self._changes_locked()

    def is_pristine(self) -> bool:
        return self._run(lambda changes: self._circuit.is_fresh(clock.now()))

    def is_restrictive(self) -> bool:
        return self._circuit.state not in _AT_EASE

    # -- Changes

    def _changes_locked(self) -> list[Change | Note]:
        """Take the changes, and queue their events in the order they came."""
        circuit = self._circuit
        if not circuit.changes:
            return []
        changes = list(circuit.take_changes())
        if self._shared is not None:
            for change in changes:
                if isinstance(change, Change):
                    self._shared.delegate.saw(change)
        if self._listeners:
            # NB: never a second one: events in two outboxes have no order.
            if self._outbox is None:
                self._outbox = Outbox()
            for change in changes:
                self._outbox.put(self._event(change))
        return changes

    def _after_unlock(
        self, effects: list[Change | Note], error: Exception | None = None
    ) -> None:
        """Do what follows from changes, outside the lock.

        Args:
            effects: The changes.
            error: What the call came to that caused them, if that is known.
        """
        for change in effects:
            if (
                isinstance(change, Change)
                and change.new is CircuitState.OPEN
                and change.reason not in ("fleet", "fleet_slow")
            ):
                if error is not None:
                    self._cause = change.trip, name_with_cause(error)
                self._set_open_time(change, error)
        if self._outbox is not None:
            self._outbox.deliver(lambda: self._listeners)

    def _set_open_time(self, change: Change, cause: Exception | None) -> None:
        try:
            seconds = self._open_seconds(change.openings)
        except Exception as error:
            if cause is not None:
                add_context(error, cause)
            # It is open for 5 s already.
            self._note_failed(error)
            return
        self._run(lambda changes: self._circuit.set_open_time(change.era, seconds))

    def _open_seconds(self, openings: int) -> float:
        open_for = self.open_for
        if isinstance(open_for, Backoff):
            return open_for.delay(openings, clock.random)
        if callable(open_for):
            return seconds_argument("open_for", open_for(openings))
        return open_for

    def _note_failed(self, error: Exception) -> None:
        log_once("the open_for of a circuit breaker failed; it stays open for 5 s")
        if self._listeners and self._outbox is not None:
            noted = CircuitNoted(self.label, None, "open_for_failed")
            self._outbox.put(located(noted, *self.placement[1:], error))

    # -- The fleet

    def _follow(self, act: Callable[..., Any], *args: Any) -> Any:
        """Have the fleet's verdict followed, and tell of the changes."""
        return self._run(self._follow_locked, act, args)

    def _follow_locked(
        self, changes: list[Change | Note], act: Callable[..., Any], args: Any
    ) -> Any:
        result = act(*args)
        changes += self._changes_locked()
        return result

    def _open_time(self, openings: int) -> float:
        """Return for how long the fleet's circuit opens, should it open now."""
        try:
            return self._open_seconds(openings)
        except Exception as error:
            self._note_failed(error)
            return 5.0

    def _event(self, change: Change | Note) -> Event:
        if isinstance(change, Note):
            return located(
                CircuitNoted(self.label, None, change.what), *self.placement[1:]
            )
        trip = change.trip
        counts = (
            (0, 0, 0)
            if trip is None
            else (trip.counts.calls, trip.counts.failures, trip.counts.slow)
        )
        old, new = change.old.value, change.new.value
        event = CircuitChanged(self.label, None, old, new, change.reason, *counts)
        return located(event, *self.placement[1:])


def _checked_ramp(ramp: object) -> tuple[float, ...] | None:
    if ramp is None:
        return None
    if not isinstance(ramp, (list, tuple)):
        raise TypeError(f"`ramp` must list rising shares, got {ramp!r}")
    shares = tuple([ratio("ramp", share) for share in cast("list[object]", ramp)])
    if not shares or any(share >= next_ for share, next_ in pairwise(shares)):
        raise ValueError(f"`ramp` must list rising shares, got {ramp!r}")
    return shares
