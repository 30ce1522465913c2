"""The timeouts that a client states, beside the limits of its transport.

Who states a timeout has said how long an attempt may take. The default of a
client's library is no statement; that of an SDK is one.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Mapping
from typing import Any, Final

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._edges.steps import Proceed
from resilient._errors.errors import format_seconds
from resilient._errors.warnings import warn
from resilient._http.body import PHASES
from resilient._policy.policy import Policy
from resilient.policies.per_key import PerKey
from resilient.policies.pipeline import Pipeline
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout

UNSTATED: Final = -1.0
"""No client states it."""

_DEFAULT: Final = dict.fromkeys(PHASES, 5.0)
"""What both client libraries state where their user does not."""


def stated_timeout(timeouts: Mapping[str, float | None] | None) -> float | None:
    """Return the largest timeout that a client states for its requests.

    Returns:
        Seconds; None: it states that there is no limit; `UNSTATED`: it has
        its library's default, or none.
    """
    if not timeouts or timeouts == _DEFAULT:
        return UNSTATED
    largest = 0.0
    for phase in PHASES:
        seconds = timeouts.get(phase)
        if seconds is None:
            return None
        largest = max(largest, seconds)
    return largest


class ClientTimeout(Timeout):
    """A limit that gives way to what a client states for its requests.

    A client's timeouts are for each phase of a request. Who states some has
    said how long an attempt may take: as long as the largest of them. A
    client's own default is no statement.

    Args:
        seconds: Where nothing is stated.
        times: Of a limit for all attempts how many there may be; it is
            never below `seconds` then. None: it is an attempt's.
        name: Name in errors and events.
    """

    __slots__ = ("times",)

    def __init__(
        self, seconds: float, *, times: int | None = None, name: str | None = None
    ) -> None:
        super().__init__(seconds, name=name)
        self.times = times

    def around(self, proceed: Proceed, call: Call) -> Awaitable[Outcome]:
        seconds = stated_timeout(call.args[0].extensions.get("timeout"))
        if seconds is UNSTATED:
            return super().around(proceed, call)
        if seconds is None:
            return proceed(call)
        assert self.seconds is not None
        if self.times is not None:
            seconds = max(self.seconds, seconds * self.times)
        limit = object.__new__(Timeout)
        for name in _SLOTS:
            object.__setattr__(limit, name, getattr(self, name))
        object.__setattr__(limit, "seconds", seconds)
        # NB: of its own: limits of one duration stand in one line.
        object.__setattr__(limit, "_limits_by_loop", {})
        return limit.around(proceed, call)


_SLOTS: Final = tuple(
    slot
    for kind in Timeout.__mro__
    for slot in getattr(kind, "__slots__", ())
    if slot != "__weakref__"
)


class Comparison:
    """Tells, once, that limits of a transport are shorter than a client's.

    Args:
        policy: The transport's pipeline.
        library: The client library.

    Attributes:
        told: Whether it has.
    """

    def __init__(self, policy: Policy[Any], library: Any) -> None:
        self.told: bool = False
        self._policy = policy
        self._library = library
        self._total = _total(policy)
        # What was looked at last: hardly ever are there others.
        self._seen: Mapping[str, float | None] | None = None
        self._seen_limit = math.inf

    def of_request(self, timeouts: Mapping[str, float | None] | None) -> None:
        """Compare what a client states for a request with the total limit."""
        if self._total is not None and timeouts != self._seen:
            self._seen, self._seen_limit = timeouts, math.inf
            self._compare(timeouts, self._total, "total limit")

    def of_attempt(
        self, timeouts: Mapping[str, float | None] | None, limit: float
    ) -> None:
        """Compare it with the limit of an attempt, in seconds."""
        if limit != self._seen_limit or timeouts != self._seen:
            self._seen, self._seen_limit = timeouts, limit
            self._compare(timeouts, limit, "limit of an attempt")

    def _compare(
        self, timeouts: Mapping[str, float | None] | None, limit: float, what: str
    ) -> None:
        if timeouts is None or stated_timeout(timeouts) is UNSTATED:
            return
        for phase in PHASES:
            own = timeouts.get(phase)
            if own is None or own > limit:
                self.told = True
                spelt = "no limit" if own is None else format_seconds(own)
                warn(
                    f"the client's {phase} timeout ({spelt}) is longer than the"
                    f" {what} in its transport ({format_seconds(limit)}), which"
                    " wins: give the client a `timeout` within it, or the"
                    " pipeline a longer Timeout",
                    past=self._library,
                    raised=self._policy.warning_raised,
                )
                return


def _total(policy: Policy[Any]) -> float | None:
    """Return the seconds for the whole of a request, if they are limited."""
    if isinstance(policy, Timeout):
        # NB: what gives way to the client is no limit that it could miss.
        return None if isinstance(policy, ClientTimeout) else policy.seconds
    if isinstance(policy, Pipeline):
        for one in policy.policies:
            if isinstance(one, (Retry, PerKey)):
                # What is further in bounds one attempt, or one origin.
                return None
            total = _total(one)
            if total is not None:
                return total
    return None
