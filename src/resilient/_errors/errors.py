"""Every exception and warning that the library raises.

::

    ResilientError
     ├─ RejectedError                 the function was not called
     │   ├─ CircuitOpenError          its circuit breaker is open
     │   ├─ BulkheadFullError         too many calls are running already
     │   ├─ RateLimitedError          too many calls were made already
     │   ├─ ThrottledError            the dependency is refusing too much
     │   ├─ ConcurrencyLimitedError   the adaptive limit is reached
     │   ├─ NoEndpointError           a balance has no endpoint to call
     │   └─ DeadlineExceededError     no time was left to begin
     │        (is a TimeoutError too)
     ├─ TimeoutExceededError          the function was called and cut short
     │    (is a TimeoutError too)
     └─ RestartLimitError             a supervised worker crashes for ever

    ResilientWarning (UserWarning)    a configuration that defeats itself

An error that the user's own function raised is never wrapped in one of these.
Each carries names and numbers only, never an argument, a result or a policy
object; each can be pickled and copied. Texts are built when they are read: an
open circuit rejects thousands of calls a second.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from resilient._errors.chains import leaves


class ResilientError(Exception):
    """Base of every error that the library raises on its own account."""

    # NB: not `code`, which is a method of gRPC's errors, as some of these are.
    error_code: ClassVar[str] = "R-ERROR"
    """What to search the documentation for; it stays when texts change."""


class NoPermit:
    """What an admission policy answers that has no permit to give, or not yet."""

    __slots__ = ()


class RejectedError(ResilientError, NoPermit):
    """A policy refused the call: the function was not called.

    Attributes:
        policy: Name of the policy that refused.
        retry_after: Seconds after which another try makes sense, or None
            where the policy cannot know.
        by_deadline: Whether the call would have been let in, or would still
            wait, had its deadline not been too near.
    """

    error_code: ClassVar[str] = "R-REJECTED"

    policy: str
    retry_after: float | None
    by_deadline: bool = False

    # NB: no constructor of a rejection calls another. In an error that is a client's
    # too the next class may be the client's, whose constructor takes other arguments.
    # And rejections are the hot path under overload: with two constructors more an
    # error takes a third longer to make.
    def __init__(self, policy: str, retry_after: float | None = None) -> None:
        self.args: tuple[Any, ...] = (policy, retry_after)
        self.policy = policy
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self._complaint()}{_retry_in(self.retry_after)}"

    def _complaint(self) -> str:
        return f"policy {self.policy!r} rejected the call"


_HOLDING_BACK: dict[str, str] = {
    "ramping": "is closing by steps and holds the call back",
    "throttling": "is near its trip point and holds the call back",
}


def is_rejection(error: BaseException | None) -> bool:
    """Whether the function was not called: a rejection, or a group of nothing else."""
    if isinstance(error, RejectedError):
        return True
    return isinstance(error, BaseExceptionGroup) and all(
        isinstance(part, RejectedError)
        for part in leaves(error)  # pyright: ignore[reportUnknownArgumentType]  # any
    )


class CircuitOpenError(RejectedError):
    """The circuit breaker lets no call through.

    Attributes:
        policy: Name of the breaker.
        retry_after: Seconds until it lets a probe through; None while its
            probes are under way or it is forced open.
        reason: "open", "half_open_full" (every probe is taken),
            "forced_open", "ramping" (it closes by steps) or "throttling" (it
            is about to open).
        failed: Failed (or slow) calls in the window when the circuit opened.
        calls: All calls in that window.
        window: Its length as text: "10.0 s" or "100 calls".
        how: "failed" or "were slow".
        cause: Class of the error that opened it, and of the one that this was
            raised from in the end: "ConnectError from
            SSLCertVerificationError". None where no error of this process did.
    """

    error_code: ClassVar[str] = "R-CIRCUIT-OPEN"

    def __init__(
        self,
        policy: str,
        retry_after: float | None = None,
        reason: str = "open",
        failed: int = 0,
        calls: int = 0,
        window: str = "",
        how: Literal["failed", "were slow"] = "failed",
        cause: str | None = None,
    ) -> None:
        self.args: tuple[Any, ...] = (
            policy,
            retry_after,
            reason,
            failed,
            calls,
            window,
            how,
            cause,
        )
        self.policy = policy
        self.retry_after = retry_after
        self.reason = reason
        self.failed = failed
        self.calls = calls
        self.window = window
        self.how = how
        self.cause = cause

    def _complaint(self) -> str:
        if self.reason == "forced_open":
            return f"circuit {self.policy!r} is forced open"
        if self.reason in _HOLDING_BACK:
            return f"circuit {self.policy!r} {_HOLDING_BACK[self.reason]}"
        if self.reason == "half_open_full":
            return f"circuit {self.policy!r} is half-open and its probes are taken"
        text = f"circuit {self.policy!r} is open"
        if self.calls:
            text += f" ({self.failed} of {self.calls} calls {self.how}"
            text += f" in {self.window}"
            text += f", the last with {self.cause})" if self.cause else ")"
        return text


class BulkheadFullError(RejectedError):
    """As many calls are running, and waiting, as the bulkhead allows.

    Attributes:
        policy: Name of the bulkhead.
        retry_after: Always None: when a slot comes free is not known.
        max_concurrency: Slots there are.
        queued: Calls that were waiting for one.
        waited: Seconds that this call had waited.
        reason: "displaced" where it had a place in the queue, which then went to a
            more important call; "circle" where its wait could not have ended,
            since each slot is held by a call that waits for one; else None.
    """

    error_code: ClassVar[str] = "R-BULKHEAD-FULL"

    reason: Literal["displaced", "circle"] | None = None

    def __init__(
        self,
        policy: str,
        retry_after: float | None = None,
        max_concurrency: int = 0,
        queued: int = 0,
        waited: float = 0.0,
    ) -> None:
        self.args: tuple[Any, ...] = (
            policy,
            retry_after,
            max_concurrency,
            queued,
            waited,
        )
        self.policy = policy
        self.retry_after = retry_after
        self.max_concurrency = max_concurrency
        self.queued = queued
        self.waited = waited

    def _complaint(self) -> str:
        if self.reason == "circle":
            return (
                f"bulkhead {self.policy!r} would be waited for without end: each of"
                f" its {self.max_concurrency} slots is held by a call that waits for"
                " one, or is around one that does"
            )
        text = f"bulkhead {self.policy!r} is full ({self.max_concurrency} running"
        text += f", {self.queued} waiting)" if self.queued else ")"
        return text + _end_of_wait(self)


class RateLimitedError(RejectedError):
    """The rate limiter has no permit for the call in the time it may wait.

    Attributes:
        policy: Name of the limiter.
        retry_after: Seconds until there would be one.
        max_wait: Seconds that the call was allowed to wait.
        reason: "pushback" where the server asked for fewer requests, and
            this one is held back until it takes them again; else None.
        quota: Requests, and the seconds in which so many may come, in whole
            numbers; None: the limiter has several limits, counts something
            else, or has no whole numbers.
    """

    error_code: ClassVar[str] = "R-RATE-LIMITED"

    quota: tuple[int, int] | None = None

    def __init__(
        self,
        policy: str,
        retry_after: float | None = None,
        max_wait: float = 0.0,
        reason: Literal["pushback"] | None = None,
    ) -> None:
        self.args: tuple[Any, ...] = (policy, retry_after, max_wait)
        if reason is not None:
            self.args += (reason,)
        self.policy = policy
        self.retry_after = retry_after
        self.max_wait = max_wait
        self.reason = reason

    def _complaint(self) -> str:
        if self.reason == "pushback":
            return f"the server of {self.policy!r} asked for fewer requests"
        text = f"rate limiter {self.policy!r} has no permit left"
        return (
            f"{text} within {format_seconds(self.max_wait)}" if self.max_wait else text
        )


class ThrottledError(RejectedError):
    """The throttle holds the call back: the dependency refuses too many."""

    error_code: ClassVar[str] = "R-THROTTLED"

    def _complaint(self) -> str:
        return f"throttle {self.policy!r} holds the call back"


class ConcurrencyLimitedError(RejectedError):
    """As many calls are running as the adaptive limit allows now.

    Attributes:
        policy: Name of the policy.
        retry_after: Always None: when a slot comes free is not known.
        limit: The limit at that moment.
        in_flight: Calls that were running. Less than the limit, where what
            was left is kept for a higher class, for another partition, or for
            tasks of the same class that are served whole.
        queued: Calls that were waiting.
        waited: Seconds that this call had waited.
        reason: "displaced" where it had a place in the queue, which then went to a
            more important call; else None.
    """

    error_code: ClassVar[str] = "R-CONCURRENCY-LIMITED"

    reason: Literal["displaced", "circle"] | None = None

    def __init__(
        self,
        policy: str,
        retry_after: float | None = None,
        limit: int = 0,
        in_flight: int = 0,
        queued: int = 0,
        waited: float = 0.0,
    ) -> None:
        self.args: tuple[Any, ...] = (
            policy,
            retry_after,
            limit,
            in_flight,
            queued,
            waited,
        )
        self.policy = policy
        self.retry_after = retry_after
        self.limit = limit
        self.in_flight = in_flight
        self.queued = queued
        self.waited = waited

    def _complaint(self) -> str:
        text = f"concurrency limit {self.policy!r} is reached"
        if self.limit:
            text += f" ({self.in_flight} of {self.limit} running"
            text += f", {self.queued} waiting)" if self.queued else ")"
        return text + _end_of_wait(self)


def _end_of_wait(error: BulkheadFullError | ConcurrencyLimitedError) -> str:
    """Say how long a refused call had waited, and why no longer."""
    text = f" after {format_seconds(error.waited)}" if error.waited else ""
    if error.reason is not None:
        text += ": the place in the queue went to a more important call"
    return text


class NoEndpointError(RejectedError):
    """A `Balance` has no endpoint to call: it has none, or all are drained.

    Attributes:
        policy: Name of the balance.
        retry_after: Seconds until it looks for some again, where its source has
            found none yet; else None: an endpoint comes when one is added.
        draining: How many there are, all of which are drained.
        failure: Why its source has found none: the name of an error's type, or
            "empty answer".
    """

    error_code: ClassVar[str] = "R-NO-ENDPOINT"

    def __init__(
        self,
        policy: str,
        retry_after: float | None = None,
        draining: int = 0,
        failure: str | None = None,
    ) -> None:
        self.args: tuple[Any, ...] = (policy, retry_after, draining, failure)
        self.policy = policy
        self.retry_after = retry_after
        self.draining = draining
        self.failure = failure

    def _complaint(self) -> str:
        text = f"balance {self.policy!r} has no endpoint to call"
        if self.failure is not None:
            return f"{text}: none was found yet ({self.failure})"
        if not self.draining:
            return f"{text}: give it some by replace()"
        which = "the only one is" if self.draining == 1 else f"all {self.draining} are"
        return f"{text}: {which} drained; restore() one"


# NB: every TimeoutError is an OSError, whose constructor reads two arguments
# as errno and text and which pickles from them: so one argument goes up, and
# `__str__` and `__reduce__` are our own.
class DeadlineExceededError(RejectedError, TimeoutError):
    """No time was left in which to begin.

    Attributes:
        policy: Name of the policy or call that refused to begin.
        retry_after: Always None.
        overdue: Seconds by which the deadline had passed.
        by_deadline: Always true.
    """

    error_code: ClassVar[str] = "R-DEADLINE-EXCEEDED"

    by_deadline = True

    def __init__(
        self, policy: str, retry_after: float | None = None, overdue: float = 0.0
    ) -> None:
        ResilientError.__init__(self, policy)
        self.policy = policy
        self.retry_after = retry_after
        self.overdue = overdue

    def __str__(self) -> str:
        return (
            f"{self.policy!r} did not begin: its deadline had passed"
            f" {format_seconds(self.overdue)} ago"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.policy, self.retry_after, self.overdue)
        return type(self), arguments, self.__dict__


class TimeoutExceededError(ResilientError, TimeoutError):
    """The call took longer than a `Timeout` allows and was cut short.

    Attributes:
        policy: Name of the timeout.
        seconds: What it allows.
        elapsed: Seconds that the call took until it gave way; more than
            `seconds` by what the function needed to clean up.
        by_deadline: Whether it was a limit further out that came to its end,
            before this one.
    """

    error_code: ClassVar[str] = "R-TIMEOUT-EXCEEDED"

    by_deadline: bool = False

    def __init__(self, policy: str, seconds: float, elapsed: float) -> None:
        ResilientError.__init__(self, policy)
        self.policy = policy
        self.seconds = seconds
        self.elapsed = elapsed

    def __str__(self) -> str:
        return (
            f"timeout {self.policy!r} of {format_seconds(self.seconds)} exceeded"
            f" after {format_seconds(self.elapsed)}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.policy, self.seconds, self.elapsed)
        return type(self), arguments, self.__dict__


class RestartLimitError(ResilientError):
    """A worker of a `Supervisor` cannot be kept running.

    Its cause is a group of the last errors, those of workers that crashed while
    they were stopped for it among them.

    Attributes:
        worker: Name of the worker.
        crashes: How often it crashed in a row; 0: it did not stop to be restarted.
        max_restarts: What the supervisor allows.
        seconds: Each crash came less than these after its start; or what it was
            given to stop.
    """

    error_code: ClassVar[str] = "R-RESTART-LIMIT"

    def __init__(
        self, worker: str, crashes: int, max_restarts: int, seconds: float
    ) -> None:
        super().__init__(worker, crashes, max_restarts, seconds)
        self.worker = worker
        self.crashes = crashes
        self.max_restarts = max_restarts
        self.seconds = seconds

    def __str__(self) -> str:
        within = format_seconds(self.seconds)
        if not self.crashes:
            return (
                f"worker {self.worker!r} is to be restarted but has not stopped"
                f" within {within}"
            )
        times = "once" if self.crashes == 1 else f"{self.crashes} times in a row"
        return (
            f"worker {self.worker!r} crashed {times}, within {within} of its start,"
            f" and max_restarts is {self.max_restarts}"
        )


class ResilientWarning(UserWarning):
    """A configuration that defeats itself, or a use that loses something."""

    error_code: ClassVar[str] = "R-WARNING"


def _retry_in(seconds: float | None) -> str:
    return "" if seconds is None else f"; retry in {format_seconds(seconds)}"


def format_seconds(seconds: float) -> str:
    """Spell a duration for a reader: four digits, never an exponent."""
    if seconds >= 1000:
        return f"{seconds:.0f} s"
    return f"{seconds if seconds >= 0.0005 else 0:.4g} s"
