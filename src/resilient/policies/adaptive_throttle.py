"""AdaptiveThrottle: hold back what the dependency would refuse anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Never

from resilient._calls.call import Call
from resilient._calls.judging import Condition, Judge, asks_for_values, judge_by
from resilient._calls.outcome import IGNORED, SUCCESS, Outcome
from resilient._errors.errors import ThrottledError
from resilient._machines.throttle import Throttle
from resilient._policy.admission import Admission, AdmissionPolicy, DeferredRelease
from resilient._runtimes import clock
from resilient._values.checks import count, flag, keywords_only, number, optional
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock, ReenteredError
from resilient._values.priority import Priority
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from datetime import timedelta


class AdaptiveThrottle(AdmissionPolicy, DeferredRelease):
    """Reject a share of the calls while the dependency refuses too many.

    A circuit breaker is open or closed; overload asks for something between.
    This lets through `k` times as many calls as were accepted of late, so
    that an overloaded server need not spend its time on refusing them, and
    lets all through again as soon as it accepts them. It never holds back
    everything: one call every `probe_interval` finds out how things are.

    A call that was cancelled, or whose outcome is IGNORED, says nothing. A
    generator is judged by its first item.

    The least important goes first (see `priority`); within a class all calls
    of one task are let through or rejected together, as far as the share that
    is to be rejected allows.

    Put it inside a `Retry`, so that it sees every attempt, and give each
    dependency its own. Together with a `CircuitBreaker` it says little: where
    failures come from overload, use this one.

    Args:
        k: Calls let through for one that is accepted, >= 1. Default 2: the
            server sees at most twice what it can do. Nearer to 1 is gentler
            to a server to which refusing is dear, and recovers later.
        window: Seconds that it looks back. The 120 s of the book need more
            than five minutes to recover from an outage as long.
        padding: Calls added to those counted, so that a few failures among
            few calls reject little. The book has 1, gRPC 8.
        minimum_calls: Calls in the window before any is rejected.
        probe_interval: Seconds after which one call is let through that would
            have been rejected. None: no such call; then few calls may find
            the way back late.
        count_throttled: Whether calls rejected here count as calls. True as
            in the book; False as in Envoy: then more is let through.
        on: Exception types, or a function of the outcome, that count as
            refused. Default: the pipeline's classification, else every
            exception but rejections.
        name: Name in errors and events.

    Raises:
        ThrottledError: The call was held back.

    Source: *Site Reliability Engineering*, chapter 21, "Client-Side
    Throttling" and "Criticality".
    """

    _cures = {  # noqa: RUF012 - never written to
        **AdmissionPolicy._cures,
        "weighs": "it follows from `on`",
    }

    __slots__ = (
        "_deferred",
        "_judge",
        "_lock",
        "_throttle",
        "count_throttled",
        "k",
        "minimum_calls",
        "on",
        "padding",
        "probe_interval",
        "weighs",
        "window",
    )

    # NB: that it began to deliver says that it was accepted.
    holds_streams = False

    traits = Trait.LEARNS

    metrics: tuple[tuple[str, ...], ...] = (
        ("resilient.rejections", "ThrottledError", "enforced"),
    )

    def __init__(
        self,
        *_misplaced: Never,
        k: float = 2.0,
        window: float | timedelta = 10.0,
        padding: float = 5.0,
        minimum_calls: int = 10,
        probe_interval: float | timedelta | None = 1.0,
        count_throttled: bool = True,
        on: Condition | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        keywords_only("AdaptiveThrottle", _misplaced)
        self.k: float = number("k", k, minimum=1)
        self.window: float = seconds_argument("window", window, zero=False)
        self.padding: float = number("padding", padding, minimum=0)
        self.minimum_calls: int = count("minimum_calls", minimum_calls, minimum=1)
        self.probe_interval: float | None = optional(
            seconds_argument, "probe_interval", probe_interval, zero=False
        )
        self.count_throttled: bool = flag("count_throttled", count_throttled)
        self.on: Condition | None = on
        self._judge: Judge | None = judge_by("on", on, policy=self)
        self.weighs: bool = (
            asks_for_values(self._judge)
            or type(self).settle is not AdaptiveThrottle.settle
        )
        self._lock = Lock()
        self._deferred: list[tuple[float, Priority, bool]] = []
        self._throttle = Throttle(
            k=self.k,
            window=self.window,
            padding=self.padding,
            minimum_calls=self.minimum_calls,
            probe_interval=self.probe_interval,
            count_throttled=self.count_throttled,
        )

    def admit(self, call: Call) -> Admission:
        throttle, priority = self._throttle, call.priority
        # NB: read without the lock: who misses a change is one call late.
        if not throttle.pressed:
            return priority
        now, shed_rank = clock.now(), call.shed_rank
        try:
            admitted = self._lock.run(self._admit_locked, now, priority, shed_rank)
        except ReenteredError:
            # It began in the middle of a change, on the same thread.
            return priority
        if self._deferred:
            self._release_deferred()
        if throttle.pressed:
            call.discourage_hedging()
        return priority if admitted else ThrottledError(self.error_name(call))

    def settle(self, permit: Priority, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        judge = self._judge
        verdict = outcome.verdict if judge is None else judge(outcome)
        if verdict is IGNORED or outcome.health is IGNORED:
            return
        item = clock.now(), permit, verdict is SUCCESS
        try:
            self._lock.run(self._release_locked, item)
        except ReenteredError:
            self._deferred.append(item)
            return
        if self._deferred:
            self._release_deferred()

    def _admit_locked(self, now: float, priority: Priority, shed_rank: float) -> bool:
        if self._deferred:
            self._release_deferred_locked()
        return self._throttle.admit(now, priority, shed_rank)

    def _release_locked(self, item: tuple[float, Priority, bool]) -> list[Any]:
        self._throttle.record(*item)
        return []

    def status(self) -> dict[str, Any]:
        return {"throttle.rejecting": self.rejecting}

    @property
    def rejecting(self) -> float:
        """Which share of all calls would be rejected now, from 0 to 1."""
        return self._run(lambda effects: self._throttle.share_of_all(clock.now()))

    def reset(self) -> None:
        """Forget every call: none is rejected. Calls under way will count."""
        self._run(lambda effects: self._throttle.reset())

    def is_pristine(self) -> bool:
        return self._run(lambda effects: self._throttle.is_fresh(clock.now()))

    def is_restrictive(self) -> bool:
        return self.rejecting > 0
