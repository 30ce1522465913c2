"""Events: what policies tell their listeners.

Ground rules:

* An event is built only when there is a listener (``if self.listeners:``), after
  the lock of its policy has been released.
* What it tells is names and numbers, never an argument, a result or a URL.
  The error that it is about is there for listeners in this process only: it
  is no field, and in no repr, log, span, metric or pickle. No event is kept
  once it is delivered.
"""

from __future__ import annotations

from typing import Any

from resilient._values.records import Record

_set = object.__setattr__


class _Origin:
    """Where it came from: no arguments of an event's, and no part of what it is."""

    __slots__ = ("error", "metric_name", "pipeline")

    error: BaseException | None
    pipeline: str | None
    # What metrics call the policy: bounded, where names may be many.
    metric_name: str | None


class Event(_Origin, Record):
    """Something that a policy did.

    Attributes:
        policy: Name of the policy.
        call: Name of the call, or None where no call caused it.
        pipeline: Name of the outermost pipeline around it; None where that is
            not known.
        error: The error itself that an event about a failure tells of; None
            of every other event, and of a failure that was a value. Its text
            may hold what must not be written down.
    """

    __slots__ = ("call", "policy")

    policy: str
    call: str | None

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        _set(self, "pipeline", None)
        _set(self, "metric_name", None)
        _set(self, "error", None)

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        arguments = cls.__match_args__
        return (*arguments[:2], "pipeline", *arguments[2:])

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        names = (*self.fields(), "metric_name")
        return None, {"error": None, **{name: getattr(self, name) for name in names}}


class RetryScheduled(Event):
    """An attempt failed and another will follow.

    Attributes:
        attempt: Number of the attempt that failed, from 1.
        error_type: Name of the type of its error, None for a rejected result.
        delay: Seconds until the next attempt.
    """

    __slots__ = ("attempt", "delay", "error_type")

    attempt: int
    error_type: str | None
    delay: float


class RetriesExhausted(Event):
    """A failed call is not tried again.

    Attributes:
        attempts: Attempts made.
        elapsed: Seconds since the first began.
        reason: "attempts", "deadline", "budget exhausted", "not retryable",
            "not repeatable" (see `Call.unrepeatable`), "retry_after too long"
            or "retried further in".
        error_type: Name of the type of the last error, None for a result.
    """

    __slots__ = ("attempts", "elapsed", "error_type", "reason")

    attempts: int
    elapsed: float
    reason: str
    error_type: str | None


class RetryCancelled(Event):
    """The caller went away during the wait between two attempts."""

    __slots__ = ("attempt",)

    attempt: int


class BudgetEmpty(Event):
    """A failed call might be tried again, but the budget is empty.

    Attributes:
        attempt: Number of the attempt that failed, from 1.
    """

    __slots__ = ("attempt",)

    attempt: int


class CircuitChanged(Event):
    """A circuit changed its state.

    Attributes:
        old, new: Names of the states.
        reason: What caused it.
        calls, failed, slow: The window that caused it.
    """

    __slots__ = ("calls", "failed", "new", "old", "reason", "slow")

    old: str
    new: str
    reason: str
    calls: int
    failed: int
    slow: int


class CircuitNoted(Event):
    """A circuit noticed something that does not change its state.

    Attributes:
        what: "would_open" (while observing), "probe_reclaimed" (a probe did
            not come back in time) or "open_for_failed" (the function of the
            open time raised or answered nonsense; 5 s are used).
    """

    __slots__ = ("what",)

    what: str


class CallRejected(Event):
    """A policy refused a call.

    Attributes:
        error_type: Name of the type of the rejection.
        reason: Its reason where it has one.
        retry_after: Seconds, or None.
    """

    __slots__ = ("error_type", "reason", "retry_after")

    error_type: str
    reason: str | None
    retry_after: float | None


class PermitWaited(Event):
    """A call waited for its permit and got it.

    Attributes:
        waited: Seconds.
    """

    __slots__ = ("waited",)

    waited: float


class LimitChanged(Event):
    """An adaptive limit has changed; told at most once a second.

    Attributes:
        old: The limit when it was told last.
        new: The limit now.
    """

    __slots__ = ("new", "old")

    old: int
    new: int


class TimedOut(Event):
    """A timeout cut a call short.

    Attributes:
        seconds: What it allows.
        overrun: Seconds by which the call exceeded it.
        delivered: False where nothing could interrupt the call, so that its
            late result was returned.
    """

    __slots__ = ("delivered", "overrun", "seconds")

    seconds: float
    overrun: float
    delivered: bool


class CallAbandoned(Event):
    """A thread was left behind by a timeout, or a loser by a hedge.

    Attributes:
        abandoned: Those of that policy that still run.
    """

    __slots__ = ("abandoned",)

    abandoned: int


class HedgeLaunched(Event):
    """A further attempt began while another ran, or because one had failed.

    Attributes:
        hedge: Its number, from 1.
        reason: "delay" or "failure".
        elapsed: Seconds since the first attempt began.
    """

    __slots__ = ("elapsed", "hedge", "reason")

    hedge: int
    reason: str
    elapsed: float


class HedgeWon(Event):
    """A hedge was answered first.

    Attributes:
        hedge: Its number, from 1.
        elapsed: Seconds since the first attempt began.
    """

    __slots__ = ("elapsed", "hedge")

    hedge: int
    elapsed: float


class FallbackUsed(Event):
    """A fallback answered.

    Attributes:
        error_type: Name of the type of the error it answers for.
    """

    __slots__ = ("error_type",)

    error_type: str | None


class CallCoalesced(Event):
    """A call joined an execution that others had begun or joined.

    Attributes:
        callers: Calls that wait for it now, this one included.
    """

    __slots__ = ("callers",)

    callers: int


class StaleServed(Event):
    """A cache answered for a failure with a value that it had kept.

    Attributes:
        age: Seconds since that value was made.
        error_type: Name of the type of the error it answers for; None for a result
            that was judged a failure.
    """

    __slots__ = ("age", "error_type")

    age: float
    error_type: str | None


class WarningRaised(Event):
    """A call had something to warn of, and a filter makes errors of warnings.

    A warning during a call never takes the place of its result: it is logged
    as well. Others are issued as a `ResilientWarning`, and no event.

    Attributes:
        text: The warning's.
    """

    __slots__ = ("text",)

    text: str


class KeyEvicted(Event):
    """`PerKey` let go of a key's policy to make room.

    Attributes:
        fresh: Whether that policy was as good as new: nothing was forgotten.
    """

    __slots__ = ("fresh",)

    fresh: bool


class KeyOverflowed(Event):
    """`PerKey` had no room for a new key: it shared a policy with others.

    Every key that is kept is in use, or protects by what it has learnt.
    """

    __slots__ = ()


class EndpointEjected(Event):
    """A `Balance` stops calling an endpoint for a while.

    Attributes:
        endpoint: Its name.
        reason: "consecutive_failures", "failure_rate", "probe_failed", or
            "probe_overdue": the call that probed it did not come back in time.
        seconds: For how long.
        times: How many times in a row.
    """

    __slots__ = ("endpoint", "reason", "seconds", "times")

    endpoint: str
    reason: str
    seconds: float
    times: int


class EndpointReturned(Event):
    """A `Balance` calls an endpoint again that it had ejected.

    Attributes:
        endpoint: Its name.
    """

    __slots__ = ("endpoint",)

    endpoint: str


class EndpointSkipped(Event):
    """A call went on to another endpoint: this one's policies refused it.

    Attributes:
        endpoint: Its name.
        error_type: Name of the type of the rejection.
    """

    __slots__ = ("endpoint", "error_type")

    endpoint: str
    error_type: str


class EndpointsChanged(Event):
    """A `Balance` has other endpoints than before.

    Attributes:
        added: How many joined.
        removed: How many left.
        total: How many there are.
    """

    __slots__ = ("added", "removed", "total")

    added: int
    removed: int
    total: int


class EndpointChecked(Event):
    """What the checks of a `Balance` say of an endpoint has changed.

    Attributes:
        endpoint: Its name.
        healthy: Whether it is: enough checks in a row were good, or failed.
    """

    __slots__ = ("endpoint", "healthy")

    endpoint: str
    healthy: bool


class PanicBegan(Event):
    """A `Balance` ignores its checks: too few endpoints are healthy by them.

    Attributes:
        healthy: How many are.
        total: Of how many.
    """

    __slots__ = ("healthy", "total")

    healthy: int
    total: int


class PanicEnded(Event):
    """A `Balance` goes by its checks again.

    Attributes:
        healthy: How many endpoints are healthy.
        total: Of how many.
    """

    __slots__ = ("healthy", "total")

    healthy: int
    total: int


class DiscoveryFailed(Event):
    """A `Balance` could not find its endpoints anew; it keeps those it has.

    Attributes:
        reason: Name of the type of the error, or "empty answer".
        age: Seconds since they were found; None: they never were.
    """

    __slots__ = ("age", "reason")

    reason: str
    age: float | None


class StoreLost(Event):
    """The store of a shared policy does not answer: the policy does without it.

    Attributes:
        reason: What happened, in a word: "slow", "ConnectionError", or the code
            with which a server refuses.
    """

    __slots__ = ("reason",)

    reason: str


class StoreBack(Event):
    """A shared policy relies on its store again.

    Attributes:
        seconds: For how long it did without.
        alone: Calls that it decided meanwhile.
    """

    __slots__ = ("alone", "seconds")

    seconds: float
    alone: int


class LimitLowered(Event):
    """Another process states lower numbers of a shared limit, and those hold.

    As in each rolling deploy: until it has not asked for a minute.

    Attributes:
        burst: Units at once that hold, about: what is on lease differs.
        rate: Units per second that hold.
    """

    __slots__ = ("burst", "rate")

    burst: float
    rate: float


class DrainEnded(Event):
    """A server's process that was told to end has come to its end.

    Attributes:
        seconds: How long after it was told.
        cut: Requests and WebSockets that were cancelled for it.
    """

    __slots__ = ("cut", "seconds")

    seconds: float
    cut: int


class WorkerCrashed(Event):
    """A worker of a `resilient.supervision.Supervisor` crashed.

    Attributes:
        worker: Its name.
        error_type: Name of the type of its error.
        row: Crashes in a row, this one included.
        delay: Seconds until it is restarted; None: it is not.
    """

    __slots__ = ("delay", "error_type", "row", "worker")

    worker: str
    error_type: str
    row: int
    delay: float | None


def located(
    event: Event,
    pipeline: str,
    metric_name: str,
    error: BaseException | None = None,
) -> Event:
    """Add to an event, before it is delivered, where it came from."""
    _set(event, "error", error)
    _set(event, "pipeline", pipeline)
    _set(event, "metric_name", metric_name)
    return event


def error_name(error: BaseException | None) -> str | None:
    """Return what an event may say of an error: the name of its type."""
    return None if error is None else type(error).__qualname__
