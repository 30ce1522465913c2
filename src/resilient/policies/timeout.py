"""Timeout: bound a call, or each of its attempts, in time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from resilient._calls.call import Call, overdue
from resilient._calls.outcome import OngoingWork, Outcome
from resilient._edges.generators import IdleLimit, TotalLimit
from resilient._edges.steps import Answer
from resilient._edges.threads import AbandonableThreads
from resilient._errors.errors import (
    BulkheadFullError,
    TimeoutExceededError,
    format_seconds,
)
from resilient._errors.tracebacks import strip
from resilient._events.events import CallAbandoned, TimedOut
from resilient._events.listeners import log_warning_once
from resilient._policy.gate import Gate
from resilient._policy.policy import Usage
from resilient._runtimes import clock
from resilient._runtimes.runtime import CUT, IN_TIME
from resilient._values.checks import count, flag, optional
from resilient._values.checks import seconds as seconds_argument
from resilient._values.traits import NONE, Trait

if TYPE_CHECKING:
    from datetime import timedelta


_OBEYED: Final = 1.1
"""Code that asks for `remaining` ends a little late; what takes a tenth more than
it may has not asked."""


_Limited: TypeAlias = "tuple[float, float | None, float | None, Any]"
"""When the time of a call is up; the deadline and what it allowed that were in
force further out; the limit, or the call's `thread_runner` further out."""


class Timeout(Gate):
    """Bound what is inside to so many seconds.

    **Synchronous code cannot be interrupted.** There a timeout is a deadline
    that sleeps, queues, retries and HTTP transports obey, and that your code
    can ask for: ``requests.get(url, timeout=remaining())``. A function that
    overruns it returns late, with an event, and with a line in the log the
    first time.

    Position decides what is bounded: outside a `Retry` the whole call with
    its waits, inside it each attempt. An inner timeout that is reached is a
    failure like any other and may be retried; an outer one ends everything.

    On asyncio the cancellation is delivered one loop iteration after the
    timer, so that an answer that has already arrived wins. Cancellation of
    the task by another goes through untouched, and so does a
    `TimeoutError` of the function's own.

    A generator's first item counts as the attempt; a total timeout bounds the
    whole stream, unless it has an `idle`: a stream that is alive is not cut.

    Args:
        seconds: Seconds (> 0) or a timedelta; None: no limit.
        idle: Seconds (> 0) that a stream – a generator, or a response's body –
            may be silent before each item after the first, the consumer's own
            time not counted; `seconds` bound the first item then, and no
            longer the whole. None (default): they bound the whole.
        abandon: Run the plain function in a daemon thread, with the caller's
            context variables; return at the limit and leave the thread to
            finish. Its place among the threads, and the slot of every
            `Bulkhead` around it, stay taken until it does. The deadline of an
            outer timeout ends the waiting too. Plain functions only.
        max_threads: Threads that may run at once, abandoned ones included;
            a call beyond them is rejected. Default 32, as `min(32, cpus + 4)`
            of `concurrent.futures` is bounded.
        name: Name in errors and events.

    Raises:
        BulkheadFullError: All threads of an abandoning timeout are taken.
        TimeoutExceededError: The call was cut short, or swallowed its
            cancellation and came back late. Its ``__cause__`` is what the
            call raised when it was interrupted.
        DeadlineExceededError: An outer deadline had passed before it began.

    Source: gRPC deadlines; *asyncio.timeout* for the bookkeeping of
    ``task.cancelling()``.
    """

    metrics: tuple[tuple[str, ...], ...] = (
        ("resilient.timeouts", "true"),
        ("resilient.timeouts", "false"),
    )

    __slots__ = (
        "_limits_by_loop",
        "_threads",
        "abandon",
        "idle",
        "max_threads",
        "seconds",
    )

    def __init__(
        self,
        seconds: float | timedelta | None,
        *,
        idle: float | timedelta | None = None,
        abandon: bool = False,
        max_threads: int = 32,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.seconds: float | None = optional(
            seconds_argument,
            "seconds",
            seconds,
            zero=False,
            hint="; None is no limit",
        )
        self.idle: float | None = (
            None
            if idle is None
            else seconds_argument("idle", idle, zero=False, hint="; None is no limit")
        )
        self.abandon: bool = flag("abandon", abandon)
        self.max_threads: int = count("max_threads", max_threads, minimum=1)
        self._threads: dict[int, AbandonableThreads] = {}
        self._limits_by_loop: dict[Any, Any] = {}
        if abandon and seconds is None:
            raise ValueError("`abandon` must have `seconds` to abandon after")
        if abandon and idle is not None:
            raise ValueError("`idle` must be None with `abandon`: it is for streams")

    @property
    def traits(self) -> Trait:  # type: ignore[override]  # None limits nothing
        unlimited = self.seconds is None and self.idle is None
        return NONE if unlimited else Trait.INTERRUPTS

    def is_pristine(self) -> bool:
        return self._threads_here().running == 0

    def is_restrictive(self) -> bool:
        return self.abandoned > 0

    @property
    def abandoned(self) -> int:
        """Threads that were left behind and still run."""
        return self._threads_here().abandoned

    def _threads_here(self) -> AbandonableThreads:
        """Return this process's threads: a forked child has none of its parent's."""
        process = os.getpid()
        threads = self._threads.get(process)
        # NB: two threads may come at once; the first one's stays.
        return threads or self._threads.setdefault(
            process, AbandonableThreads(self.max_threads)
        )

    def status(self) -> dict[str, Any]:
        return {"timeout.abandoned": self.abandoned} if self.abandon else {}

    def check_usage(self, usage: Usage, *, classified: bool = False) -> None:
        super().check_usage(usage, classified=classified)
        if self.abandon and usage != "sync":
            raise TypeError(
                f"{self!r} runs plain functions in threads; it has no meaning"
                f" for {usage}: leave out abandon=True there"
            )

    def enter(self, call: Call) -> Outcome | None:
        if self.seconds is None:
            if self.idle is not None:
                call.way = call.step, None, call.way
            return None
        deadline = clock.now()
        outer, allowed = call.deadline, call.allowed
        if outer is not None and outer <= deadline:
            return overdue(call, deadline)
        deadline += self.seconds
        if outer is None or deadline < outer:
            call.deadline, call.allowed = deadline, self.seconds
        if self.abandon:
            limit: Any = call.extras.thread_runner
            call.own_extras().thread_runner = self._runner(call, deadline)
        else:
            limit = call.runtime.limit(
                call, self._limits_by_loop, self.seconds, deadline
            )
        call.way = call.step, (deadline, outer, allowed, limit), call.way
        return None

    def leave(self, call: Call, permit: _Limited | None, outcome: Outcome) -> Answer:
        if permit is None:
            if outcome.ongoing is not None:
                self._bound_stream(call, None)
            return outcome
        deadline, call.deadline, call.allowed, limit = permit
        if self.abandon:
            call.own_extras().thread_runner = limit
            return self._leave_thread(outcome, call, deadline)
        end = limit.leave(call, outcome.error)
        if end is CUT:
            return self._replaced(outcome, call, deadline)
        if outcome.ongoing is not None:
            if outcome.error is not None:
                return self._left_behind(outcome, call, deadline)
            if self.idle is not None or not call.retried:
                self._bound_stream(call, deadline)
        if end is IN_TIME and clock.now() > deadline:
            self._overran(call, deadline, outcome.error)
        return outcome

    def unwind(
        self, call: Call, permit: _Limited | None, error: BaseException, leaving: bool
    ) -> Outcome | None:
        if permit is None:
            return None
        deadline, call.deadline, call.allowed, limit = permit
        if self.abandon:
            call.own_extras().thread_runner = limit
        # NB: for the second time, where Ctrl-C came during the first.
        elif limit.leave(call, error) is CUT:
            return self._exceeded(call, deadline, error)
        return None

    def _overran(self, call: Call, deadline: float, error: Exception | None) -> None:
        """Tell that nothing could enforce this limit, once for each function."""
        assert self.seconds is not None
        elapsed = self._elapsed(deadline)
        self._tell(call, elapsed, error, delivered=False)
        if elapsed <= self.seconds * _OBEYED:
            return
        module = getattr(call.function, "__module__", None)
        log_warning_once(
            f"overrun {module} {call.name}",
            "%r took %s under %r, which allows %s and cannot interrupt %s: make it"
            " async, have it ask `remaining()`, or give the Timeout abandon=True",
            call.name,
            format_seconds(elapsed),
            self.label,
            format_seconds(self.seconds),
            "synchronous code"
            if call.runtime.name == "sync"
            else "code that does not await",
        )

    def _replaced(self, outcome: Outcome, call: Call, deadline: float) -> Answer:
        """Put the news that time was up in the place of what came too late."""
        cause, ongoing = outcome.error, outcome.ongoing
        outcome.discard()
        exceeded = self._exceeded(call, deadline, cause)
        # A stream whose first item came too late.
        return exceeded if ongoing is None else _closing(ongoing, exceeded)

    def _elapsed(self, deadline: float) -> float:
        """Return the seconds since the beginning of what was limited."""
        assert self.seconds is not None
        # NB: in this order: at the deadline it is exactly the limit.
        return self.seconds + (clock.now() - deadline)

    def _runner(self, call: Call, deadline: float) -> Callable[..., Outcome]:
        """Return what runs the function in a thread that can be left behind."""
        threads = self._threads_here()

        def run(fn: Callable[..., Any], args: Any, kwargs: Any) -> Outcome:
            thread_call = threads.begin(call.name, fn, args, kwargs)
            if thread_call is None:
                name = self.error_name(call)
                full = BulkheadFullError(name, None, self.max_threads)
                return self.reject(full, call)
            # NB: as it is now, and not ours alone: whichever timeout it belongs
            # to, further out or in, gives the error its own name.
            until = call.deadline
            assert until is not None
            if thread_call.wait(until):
                return thread_call.result()
            assert self.seconds is not None
            allowed = self.seconds - (deadline - until)
            error = TimeoutExceededError(
                self.error_name(call), allowed, self._elapsed(deadline)
            )
            error.by_deadline = until < deadline
            outcome = Outcome(None, error)
            outcome.ongoing = thread_call.ongoing
            if self._listeners:
                event = CallAbandoned(self.label, call.name, threads.abandoned)
                self.emit(event, call, error)
            return outcome

        return run

    def _leave_thread(self, outcome: Outcome, call: Call, deadline: float) -> Outcome:
        if outcome.ongoing is not None:
            return self._left_behind(outcome, call, deadline)
        if clock.now() > deadline:
            self._tell(call, self._elapsed(deadline), outcome.error, delivered=False)
        return outcome

    def _left_behind(self, outcome: Outcome, call: Call, deadline: float) -> Outcome:
        """Answer for what gave up at the deadline, if this limit set it."""
        if clock.now() < deadline:
            return outcome
        cause = outcome.error
        if isinstance(cause, TimeoutExceededError):
            # That of an abandoned thread, whose only news is ours too.
            cause = None
        exceeded = self._exceeded(call, deadline, cause)
        exceeded.ongoing = outcome.ongoing
        return exceeded

    def _exceeded(
        self, call: Call, deadline: float, cause: BaseException | None
    ) -> Outcome:
        assert self.seconds is not None
        elapsed = self._elapsed(deadline)
        error = TimeoutExceededError(self.error_name(call), self.seconds, elapsed)
        error.__cause__ = cause
        if cause is not None:
            strip(cause)
        self._tell(call, elapsed, error, delivered=True)
        return Outcome(None, error)

    def _bound_stream(self, call: Call, deadline: float | None) -> None:
        """Limit a stream after its first item, beside the limits further in."""
        name, known = self.error_name(call), call.extras.stream_limit
        if self.idle is not None:
            if not isinstance(known, IdleLimit):
                call.own_extras().stream_limit = IdleLimit(name, self.idle, known)
            elif self.idle < known.idle:
                known.name, known.idle = name, self.idle
            return
        assert self.seconds is not None
        assert deadline is not None
        limit = TotalLimit(name, self.seconds, deadline)
        total = known.total if isinstance(known, IdleLimit) else known
        if total is not None and total.deadline <= deadline:
            return
        if isinstance(known, IdleLimit):
            known.total = limit
        else:
            call.own_extras().stream_limit = limit

    def _tell(
        self,
        call: Call,
        elapsed: float,
        error: BaseException | None,
        *,
        delivered: bool,
    ) -> None:
        assert self.seconds is not None
        told = "true" if delivered else "false"
        call.count("resilient.timeouts", self.placement.policy, told)
        if self._listeners:
            overrun = max(0.0, elapsed - self.seconds)
            event = TimedOut(self.label, call.name, self.seconds, overrun, delivered)
            self.emit(event, call, error)


async def _closing(ongoing: OngoingWork, outcome: Outcome) -> Outcome:
    await ongoing.close()
    return outcome
