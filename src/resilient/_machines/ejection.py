"""When an endpoint is taken out of a set, and how it comes back.

Ground rules:

* An `Ejection` belongs to one endpoint and is made at its first failure. How
  many may be out at once is decided by the set (`fleet`).
* Every change of state starts a new *era*. A call carries the era in which it
  was sent; an outcome from an older era decides nothing here.
* Time is an argument, in monotonic seconds. Nothing is locked.

========  ==============================  =====================================
state     event                           becomes
========  ==============================  =====================================
IN        failures in a row, or the       OUT, if the set has room; else IN,
          failure rate, reach the limit   and the next failure asks again
OUT       its time is over, a call comes  PROBING: that call is the probe
OUT       a call that was sent in this    IN
          era, for lack of any other
          endpoint, succeeds
PROBING   the probe succeeds              IN
PROBING   the probe fails                 OUT, for longer
PROBING   the probe is cancelled or       OUT, and due at once: the next call
          ignored                         probes
PROBING   the probe has not come back     OUT, for longer
          after `LEASE` seconds
========  ==============================  =====================================

How long it stays out is decided by the caller, who is told how many times it
has been ejected: `set_time`. That number starts again at 1 once the endpoint
has been in for as long as it was out the last time.

Deliberately not modelled: several probes at once. One call is enough to find
out, and the weight of an endpoint that has just returned is low (`fleet`).

Source: Envoy, *Outlier detection*; Finagle, `FailureAccrualFactory`; the
leases are those of `circuit`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

from resilient._machines.backoff import Backoff, exponential
from resilient._machines.window import TimeWindow
from resilient._values.checks import count, plain, ratio, seconds
from resilient._values.records import Record
from resilient._values.spelling import format_call

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["LEASE", "Eject", "Ejection", "EjectionState"]

LEASE: Final = 30.0
"""Seconds after which a probe that did not return counts as failed; as the
`probe_timeout` of a circuit."""

_PROVISIONAL: Final = 5.0
"""Seconds it stays out until `set_time` says for how long."""

_WINDOW: Final = 10.0
"""Seconds that a failure rate looks back, as the window of a circuit."""


class EjectionState(Enum):
    """Whether an endpoint takes part; see the module."""

    IN = "in"
    OUT = "out"
    PROBING = "probing"


IN, OUT, PROBING = EjectionState.IN, EjectionState.OUT, EjectionState.PROBING


class Eject(Record):
    """When `Balance` stops calling an endpoint for a while, and for how long.

    Args:
        consecutive: Failures in a row. Default 5, as in Envoy, Finagle and gRPC.
            None: no such rule.
        eject_for: Seconds that the endpoint is not called: a number, or a
            function of how many times in a row it was ejected. Default 5 s,
            doubling to 60, ± 20 %, as `CircuitBreaker` has for `open_for`. The
            way back is a single call, so that early is cheap.
        max_share: The greatest share of the endpoints that may be ejected at
            once. Default a third: of one or two none ever is. More is warned
            of where it is used. Ten endpoints at 60 % load of which five fail
            still answer 83 % of all calls with a third, and none with a half.
        failure_rate: Share of failures among the calls of the last 10 s that
            ejects too. Default None: the weight of an endpoint falls with its
            success anyway.
        minimum_calls: Calls in those 10 s before that share means anything.

    Raises:
        TypeError, ValueError: An argument is out of range.

    Source: Envoy, *Outlier detection*; gRPC proposal A50.
    """

    __module__ = "resilient"

    __slots__ = (
        "consecutive",
        "eject_for",
        "failure_rate",
        "max_share",
        "minimum_calls",
    )

    consecutive: int | None
    eject_for: float | Backoff | Callable[[int], float]
    max_share: float
    failure_rate: float | None
    minimum_calls: int

    def __init__(
        self,
        consecutive: int | None = 5,
        *,
        eject_for: float | timedelta | Backoff | Callable[[int], float] = exponential(  # noqa: B008
            5.0, cap=60.0, jitter=0.2
        ),
        max_share: float = 1 / 3,
        failure_rate: float | None = None,
        minimum_calls: int = 20,
    ) -> None:
        if consecutive is not None:
            count("consecutive", consecutive, minimum=1)
        if failure_rate is not None:
            ratio("failure_rate", failure_rate)
        super().__init__(
            consecutive,
            plain("eject_for", eject_for)
            if callable(eject_for)
            else seconds("eject_for", eject_for),
            ratio("max_share", max_share),
            failure_rate,
            count("minimum_calls", minimum_calls, minimum=1),
        )

    def __repr__(self) -> str:
        return format_call(self, Record)


class Ejection:
    """The state of one endpoint; see the module.

    Attributes:
        state: Where it stands.
        era: Number of the present era.
        until: When the time out, or the lease of the probe, ends.
        times: How many times it was ejected, without having been in for as
            long as it was out.
    """

    __slots__ = (
        "_changed",
        "_in_row",
        "_out_for",
        "_rules",
        "_window",
        "era",
        "state",
        "times",
        "until",
    )

    def __init__(self, rules: Eject) -> None:
        self.state: EjectionState = IN
        self.era: int = 0
        self.until: float = 0.0
        self.times: int = 0
        self._rules = rules
        self._in_row = 0
        # When it was taken out, or came back, last; and how long it was out.
        self._changed = self._out_for = 0.0
        self._window = None if rules.failure_rate is None else TimeWindow(_WINDOW)

    @property
    def is_out(self) -> bool:
        """Whether it takes no part, or only one probe."""
        return self.state is not IN

    def due(self, now: float) -> bool:
        """Whether the next call should be its probe."""
        return self.state is OUT and now >= self.until

    def fail(self, now: float, era: int) -> str | None:
        """Take a failure into account.

        Args:
            now: Monotonic seconds.
            era: The era in which the call was sent.

        Returns:
            Why it is to be ejected now, if the set has room; or None.
        """
        if era != self.era or self.state is OUT:
            return None
        if self.state is PROBING:
            return "probe_failed"
        self._in_row += 1
        if self._window is not None:
            self._window.record(now, True, False)
        return self._exceeded(now)

    def eject(self, now: float) -> None:
        """Take it out, for a time that `set_time` says."""
        if self.state is IN:
            if now - self._changed >= self._out_for:
                self.times = 0
            self._changed = now
        self.state = OUT
        self.era += 1
        self.times += 1
        self.until = now + _PROVISIONAL

    def succeed(self, now: float, era: int) -> bool:
        """Take a success into account; return whether it comes back now."""
        if era != self.era:
            return False
        if self.state is not IN:
            self.come_back(now)
            return True
        self._in_row = 0
        if self._window is not None:
            self._window.record(now, False, False)
        return False

    def withdraw(self, now: float, era: int) -> bool:
        """Forget a call that says nothing; return whether it was the probe."""
        if era != self.era or self.state is not PROBING:
            return False
        self.state = OUT
        self.era += 1
        self.until = now
        return True

    def probe(self, now: float) -> None:
        """Let a call probe: the one that is sent in the era that begins now."""
        self.state = PROBING
        self.era += 1
        self.until = now + LEASE

    def overdue(self, now: float) -> bool:
        """Whether its probe has not come back in time."""
        return self.state is PROBING and now >= self.until

    def come_back(self, now: float) -> None:
        """Let it take part again; what was sent earlier decides nothing."""
        self.state = IN
        self.era += 1
        self._in_row = 0
        self._out_for = now - self._changed
        self._changed = now
        if self._window is not None:
            self._window.clear()

    def forget(self, now: float) -> None:
        """Be as new, but for the era: what was sent earlier decides nothing."""
        self.come_back(now)
        self.times = 0
        self._out_for = 0.0

    def set_time(self, era: int, seconds: float) -> bool:
        """Say how long it stays out, counted from its ejection.

        Returns:
            False if a later change has made that meaningless.
        """
        if era != self.era or self.state is not OUT:
            return False
        self.until = self.until - _PROVISIONAL + seconds
        return True

    def _exceeded(self, now: float) -> str | None:
        rules = self._rules
        if rules.consecutive is not None and self._in_row >= rules.consecutive:
            return "consecutive_failures"
        if self._window is not None and rules.failure_rate is not None:
            seen = self._window.counts(now)
            if (
                seen.calls >= rules.minimum_calls
                and seen.failure_rate >= rules.failure_rate
            ):
                return "failure_rate"
        return None
