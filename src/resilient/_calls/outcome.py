"""The outcome of an attempt, and its verdict on the health of what was called.

Ground rules:

* An `Outcome` is judged once, by `Verdict`; policies read the verdict. A
  policy with an ``on`` of its own asks its own judge instead (`judging`).
* Code that drops an outcome discards it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import timedelta
from enum import Enum
from typing import Any, Final

from resilient._errors.chains import leaves, raise_first
from resilient._errors.errors import RejectedError, TimeoutExceededError, is_rejection
from resilient._values.locks import Lock


class Verdict(Enum):
    """What an outcome says about the health of what was called.

    ========= ============== =================== ============ ================
    verdict   circuit        adaptive limits     Retry        Fallback
    ========= ============== =================== ============ ================
    SUCCESS   success        sample              final        passes
    FAILURE   failure        congestion          retries      answers
    PUSHBACK  failure        congestion          retries from answers
                                                 1 s
    IGNORED   nothing        nothing             final        passes, but for
                                                              our rejections
    ========= ============== =================== ============ ================

    Where an outcome has a `health` of its own the circuit goes by that: a
    server that answers 429 works.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    PUSHBACK = "pushback"
    IGNORED = "ignored"


SUCCESS, FAILURE, IGNORED = Verdict.SUCCESS, Verdict.FAILURE, Verdict.IGNORED


class Outcome:
    """The result of an attempt: a value or an error, judged.

    Attributes:
        value: What the function returned; None where it raised.
        error: The `Exception` it raised, or None. Never a cancellation, a
            KeyboardInterrupt or any other BaseException: those unwind.
        verdict: What the pipeline's ``classify`` makes of it; without one
            every exception is a FAILURE, a rejection and a group of nothing
            but rejections is IGNORED.
        retry_after: Seconds after which to try again, where the server or a
            predicate said so, or the error has a number (>= 0, finite) or a
            timedelta in an attribute of that name; of a group the longest.
        health: What it says of the dependency's health, where that is not the
            verdict: SUCCESS where it refuses though it works (429), IGNORED
            where the fault is on our side (a full connection pool).
        ongoing: Of a call whose work outlives its answer (a generator, a response
            body, an abandoned thread): the permits to give back when that has
            ended. None for every other call.
    """

    __slots__ = ("error", "health", "ongoing", "retry_after", "value", "verdict")

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self.value: Any = value
        self.error = error
        self.retry_after: float | None = None
        self.health: Verdict | None = None
        self.ongoing: OngoingWork | None = None
        self.verdict: Verdict
        if error is None:
            self.verdict = SUCCESS
        elif isinstance(error, RejectedError):
            self.verdict = IGNORED
            self.retry_after = error.retry_after
        elif isinstance(error, BaseExceptionGroup):
            self.verdict = IGNORED if is_rejection(error) else FAILURE
            self.retry_after = _hint_of(error)  # pyright: ignore[reportUnknownArgumentType]  # any
        else:
            self.verdict = FAILURE
            self.retry_after = _hint_of(error)

    def __repr__(self) -> str:
        # NB: values and texts of errors may be secret; types are not.
        kind = self.value if self.error is None else self.error
        return f"<Outcome {self.verdict.value}: {type(kind).__name__}>"

    def discard(self) -> None:
        """Drop what it carries, which will not be seen.

        Otherwise some frame would keep its error, and so a traceback and all
        the frames of that, alive.
        """
        self.error = self.value = None


def _hint_of(error: BaseException) -> float | None:
    """Return the seconds that an error itself asks to be left alone for."""
    if isinstance(error, BaseExceptionGroup):
        hints = [_hint_of(one) for one in leaves(error)]  # pyright: ignore[reportUnknownArgumentType]  # any
        return max((hint for hint in hints if hint is not None), default=None)
    try:
        hint: Any = getattr(error, "retry_after", None)
        if hint is None or isinstance(hint, bool):
            return None
        if isinstance(hint, timedelta):
            hint = hint.total_seconds()
        elif not hasattr(type(hint), "__float__"):  # pyright: ignore[reportUnknownArgumentType]  # any
            # NB: not a text, though `float` reads numbers in some.
            return None
        seconds = float(hint)
    except Exception:
        # NB: a property that raises, a number that is none: it is the user's
        # error and no argument of ours, so none is told.
        return None
    return seconds if 0 <= seconds < math.inf else None


SUCCEEDED: Final = Outcome()
"""The outcome of every function that went well and whose value no step asks for.

It is shared: its value is where the function was run.
"""


class UnaskedOutcome(Outcome):
    """An outcome that no predicate is asked about: its verdict stands.

    There is nothing to ask about: a block that went well and set no
    ``call.result``, a stream without an item, a call that a limit cut.
    """

    __slots__ = ()


class OngoingWork:
    """Permits that last until the work of a call has ended, wherever it runs.

    The code that does the work finishes this. Policies add releases to it,
    and close it before they discard its outcome.

    Args:
        close: ``await close()`` ends the work early. None: nothing does, and
            it goes on though its answer is not wanted, as a thread does
            that was left behind.
    """

    __slots__ = ("_close", "_ended", "_lock", "_releases")

    def __init__(self, close: Callable[[], Awaitable[object]] | None = None) -> None:
        self._close = close
        self._lock = Lock()
        self._releases: list[Callable[[Outcome | None], None]] = []
        self._ended = False

    def add_release(self, release: Callable[[Outcome | None], None]) -> None:
        """Have ``release(outcome)`` called at the end, at once if it is past."""
        with self._lock:
            if not self._ended:
                self._releases.append(release)
                return
        release(None)

    async def close(self) -> None:
        """End the work, where that is possible, and then give everything back.

        It may take as long as the user's own cleanup, and is cancelled with
        it. What that raises is raised when everything has been given back.
        """
        close, self._close = self._close, None
        if close is not None:
            try:
                await close()
            finally:
                self.finish(None)

    def finish(self, outcome: Outcome | None) -> None:
        """Give everything back, once.

        A release that raises does not stop the others; the first error
        is raised when all are done.

        Args:
            outcome: How the work ended; None: not to be counted.
        """
        errors: list[BaseException] = []
        releases: list[Callable[[Outcome | None], None]] = []
        try:
            with self._lock:
                self._ended = True
                self._close = None
                releases, self._releases = self._releases, releases
            while releases:
                try:
                    releases[0](outcome)
                except Exception as error:
                    errors.append(error)
                except BaseException as error:
                    errors.append(error)
                    # Ctrl-C, perhaps before it did anything.
                    releases[0](None)
                del releases[0]
        finally:
            # NB: what an interrupt kept from its turn is left for `__del__`.
            self._releases += releases
        if errors:
            raise raise_first(errors)

    def __del__(self) -> None:
        # The code that was to end the work is gone. NB: before 3.13 that
        # happens to an async generator whose consumer is lost in the middle
        # of a step: Python calls it "already running" and never closes it.
        # And before 3.12 one that was only half made has a destructor, too.
        if getattr(self, "_releases", None):
            self.finish(None)


def outcome_label(outcome: Outcome | None) -> str:
    """Return the word for how a call or an attempt ended.

    Returns:
        "success", "failure", "error" (raised, and no failure),
        "rejected", "timeout" or, without an outcome, "cancelled".
    """
    if outcome is None:
        return "cancelled"
    if is_rejection(outcome.error):
        return "rejected"
    if isinstance(outcome.error, TimeoutExceededError):
        return "timeout"
    if outcome.verdict in (Verdict.FAILURE, Verdict.PUSHBACK):
        return "failure"
    return "success" if outcome.error is None else "error"
