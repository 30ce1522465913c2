"""Events: what policies tell their listeners.

Ground rules:

* An event is built only when somebody listens (``if self.listeners:``), after
  the lock of its policy has been released.
* It carries names and numbers, never an argument, a result, a URL or the
  object of an error.
* A listener that raises is logged, once for each kind of event, and changes
  nothing.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

# NB: attributes are guarded after construction, not by `attrs.frozen`, whose
# `__init__` costs three times as much.
_FROZEN = attrs.setters.frozen


@attrs.define(on_setattr=_FROZEN)
class Event:
    """Something that a policy did.

    Attributes:
        policy: Name of the policy.
        call: Name of the call, or None where no call caused it.
        pipeline: Name of the outermost pipeline around it; None where that is
            not known.
    """

    policy: str
    call: str | None
    pipeline: str | None = attrs.field(default=None, init=False, eq=False)
    # What metrics call the policy: bounded, where names may be many.
    series: str | None = attrs.field(default=None, init=False, eq=False, repr=False)


@attrs.define(on_setattr=_FROZEN)
class RetryScheduled(Event):
    """An attempt failed and another will follow.

    Attributes:
        attempt: Number of the attempt that failed, from 1.
        error: Name of the type of its error, None for a rejected result.
        delay: Seconds until the next attempt.
    """

    attempt: int
    error: str | None
    delay: float


@attrs.define(on_setattr=_FROZEN)
class RetriesExhausted(Event):
    """A failed call is not tried again.

    Attributes:
        attempts: Attempts made.
        elapsed: Seconds since the first began.
        reason: "attempts", "deadline", "budget exhausted", "not retryable",
            "not repeatable" (see `Call.unrepeatable`), "retry_after too long"
            or "retried further in".
        error: Name of the type of the last error, None for a result.
    """

    attempts: int
    elapsed: float
    reason: str
    error: str | None


@attrs.define(on_setattr=_FROZEN)
class RetryCancelled(Event):
    """The caller went away during the wait between two attempts."""

    attempt: int


@attrs.define(on_setattr=_FROZEN)
class BudgetEmpty(Event):
    """A failed call might be tried again, but the budget is empty.

    Attributes:
        attempt: Number of the attempt that failed, from 1.
    """

    attempt: int


@attrs.define(on_setattr=_FROZEN)
class CircuitChanged(Event):
    """A circuit changed its state.

    Attributes:
        old, new: Names of the states.
        reason: What caused it.
        calls, failed, slow: The window that caused it.
    """

    old: str
    new: str
    reason: str
    calls: int
    failed: int
    slow: int


@attrs.define(on_setattr=_FROZEN)
class CircuitNoted(Event):
    """A circuit noticed something that does not change its state.

    Attributes:
        what: "would_open" (while observing), "probe_reclaimed" (a probe did
            not come back in time) or "open_for_failed" (the function of the
            open time raised or answered nonsense; 5 s are used).
    """

    what: str


@attrs.define(on_setattr=_FROZEN)
class CallRejected(Event):
    """A policy refused a call.

    Attributes:
        error: Name of the type of the rejection.
        reason: Its reason where it has one.
        retry_after: Seconds, or None.
    """

    error: str
    reason: str | None
    retry_after: float | None


@attrs.define(on_setattr=_FROZEN)
class PermitWaited(Event):
    """A call waited for its permit and got it.

    Attributes:
        waited: Seconds.
    """

    waited: float


@attrs.define(on_setattr=_FROZEN)
class LimitChanged(Event):
    """An adaptive limit has changed; told at most once a second.

    Attributes:
        old: The limit when it was told last.
        new: The limit now.
    """

    old: int
    new: int


@attrs.define(on_setattr=_FROZEN)
class TimedOut(Event):
    """A timeout cut a call short.

    Attributes:
        seconds: What it allows.
        overrun: Seconds by which the call exceeded it.
        delivered: False where nothing could interrupt the call, so that its
            late result was returned.
    """

    seconds: float
    overrun: float
    delivered: bool


@attrs.define(on_setattr=_FROZEN)
class CallAbandoned(Event):
    """A thread was left behind by a timeout, or a loser by a hedge.

    Attributes:
        abandoned: Those of that policy that still run.
    """

    abandoned: int


@attrs.define(on_setattr=_FROZEN)
class HedgeLaunched(Event):
    """A further attempt began while another ran, or because one had failed.

    Attributes:
        hedge: Its number, from 1.
        reason: "delay" or "failure".
        elapsed: Seconds since the first attempt began.
    """

    hedge: int
    reason: str
    elapsed: float


@attrs.define(on_setattr=_FROZEN)
class HedgeWon(Event):
    """A hedge was answered first.

    Attributes:
        hedge: Its number, from 1.
        elapsed: Seconds since the first attempt began.
    """

    hedge: int
    elapsed: float


@attrs.define(on_setattr=_FROZEN)
class FallbackUsed(Event):
    """A fallback answered.

    Attributes:
        error: Name of the type of the error it answers for.
    """

    error: str | None


@attrs.define(on_setattr=_FROZEN)
class CallCoalesced(Event):
    """A call joined an execution that others had begun or joined.

    Attributes:
        callers: Calls that wait for it now, this one included.
    """

    callers: int


@attrs.define(on_setattr=_FROZEN)
class StaleServed(Event):
    """A cache answered for a failure with a value that it had kept.

    Attributes:
        age: Seconds since that value was made.
        error: Name of the type of the error it answers for; None for a result
            that was judged a failure.
    """

    age: float
    error: str | None


@attrs.define(on_setattr=_FROZEN)
class KeyEvicted(Event):
    """`PerKey` let go of a key's policy to make room.

    Attributes:
        fresh: Whether that policy was as good as new: nothing was forgotten.
    """

    fresh: bool


Listener: TypeAlias = Callable[[Event], Any]


class Outbox:
    """Events that have to arrive in the order in which they happened.

    `put` is called under the lock of the machine they come from, `deliver`
    after it was released. One thread delivers at a time; a listener that
    causes further events leaves them to the delivery it is part of.
    """

    __slots__ = ("_busy", "_events")

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._busy = threading.Lock()

    def put(self, event: Event) -> None:
        self._events.append(event)

    def deliver(self, listeners: Callable[[], tuple[Listener, ...]]) -> None:
        # NB: looked at again after each release: somebody may have put an
        # event, found the outbox busy and left it to us.
        while self._events and self._busy.acquire(blocking=False):
            try:
                while self._events:
                    send(listeners(), self._events.popleft())
            finally:
                self._busy.release()


def send(listeners: tuple[Listener, ...], event: Event) -> None:
    """Tell every listener; none of them can hurt the call or the others."""
    for listener in listeners:
        try:
            listener(event)
        except Exception:
            log_once(f"a listener failed on {type(event).__name__}")


everywhere: tuple[Listener, ...] = ()
"""Those who listen to every policy: see `resilient.subscribe`."""


def broadcast(event: Event) -> None:
    """Tell those who listen to every policy: the listener they have in each."""
    send(everywhere, event)


def located(event: Event, pipeline: str, series: str) -> Event:
    """Complete an event that nobody has seen yet with where it happened."""
    object.__setattr__(event, "pipeline", pipeline)
    object.__setattr__(event, "series", series)
    return event


_logged: set[str] = set()


def log_once(text: str) -> None:
    """Log the exception being handled, the first time that `text` is said."""
    if text not in _logged:
        _logged.add(text)
        import logging

        logging.getLogger("resilient").exception("%s (said once)", text)


def error_name(error: BaseException | None) -> str | None:
    """Return what an event may say of an error: the name of its type."""
    return None if error is None else type(error).__qualname__
