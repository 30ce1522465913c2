"""What came of an attempt, and what that says about the health of what was called.

Ground rules:

* An `Outcome` is judged once, by `Verdict`; policies read the verdict. A
  policy with an ``on`` of its own asks its own `Judge` instead.
* Who holds an outcome that nobody will see discards it.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum
from typing import Any, TypeAlias, cast

from resilient._errors.errors import RejectedError, TimeoutExceededError
from resilient._values.checks import seconds as seconds_argument
from resilient._values.spelling import spell


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
    """

    SUCCESS = "success"
    FAILURE = "failure"
    PUSHBACK = "pushback"
    IGNORED = "ignored"


SUCCESS, FAILURE, IGNORED = Verdict.SUCCESS, Verdict.FAILURE, Verdict.IGNORED


class Outcome:
    """What came of an attempt: a value or an error, judged.

    Attributes:
        value: What the function returned; None where it raised.
        error: The `Exception` it raised, or None. Never a cancellation, a
            KeyboardInterrupt or any other BaseException: those unwind.
        verdict: What the pipeline's ``classify`` makes of it; without one
            every exception is a FAILURE, a rejection is IGNORED.
        retry_after: Seconds after which to try again, where the error, the
            server or a predicate said so.
        held: Of a call whose work outlives its answer (a generator, a response
            body, an abandoned thread): the permits to give back when that has
            ended. None for every other call.
    """

    __slots__ = ("error", "held", "retry_after", "value", "verdict")

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self.value: Any = value
        self.error = error
        self.retry_after: float | None = None
        self.held: Held | None = None
        self.verdict: Verdict
        if error is None:
            self.verdict = SUCCESS
        elif isinstance(error, RejectedError):
            self.verdict = IGNORED
            self.retry_after = error.retry_after
        else:
            self.verdict = FAILURE

    def __repr__(self) -> str:
        # NB: values and texts of errors may be secret; types are not.
        kind = self.value if self.error is None else self.error
        return f"<Outcome {self.verdict.value}: {type(kind).__name__}>"

    def discard(self) -> None:
        """Let go of what it carries: nobody will see it.

        Otherwise some frame would keep its error, and so a traceback and all
        the frames of that, alive.
        """
        self.error = self.value = None


def first_of(errors: list[BaseException]) -> BaseException:
    """Return the first of several errors, to be raised, and let go of all.

    A frame that raises an error must not hold it: its traceback holds the frame.
    """
    first = errors[0]
    errors.clear()
    return first


class Held:
    """Permits that last until the work of a call has ended, wherever it runs.

    Whoever does the work ends this. Policies append to it, and discard it
    before they discard its outcome.

    Args:
        close: ``await close()`` ends the work early. None: nothing does, and
            it goes on though nobody wants its answer, as a thread does that
            was left behind.
    """

    __slots__ = ("_close", "_ended", "_lock", "_releases")

    def __init__(self, close: Callable[[], Awaitable[object]] | None = None) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._releases: list[Callable[[Outcome | None], None]] = []
        self._ended = False

    def append(self, release: Callable[[Outcome | None], None]) -> None:
        """Have ``release(outcome)`` called at the end, at once if it is past."""
        with self._lock:
            if not self._ended:
                self._releases.append(release)
                return
        release(None)

    async def discard(self) -> None:
        """End the work, where that is possible, and then give everything back.

        It may take as long as the user's own cleanup, and is cancelled with
        it. What that raises is raised when everything has been given back.
        """
        close, self._close = self._close, None
        if close is not None:
            try:
                await close()
            finally:
                self.end(None)

    def end(self, outcome: Outcome | None) -> None:
        """Give everything back, once.

        One that fails keeps nobody from having theirs; the first error is
        raised when all is done.

        Args:
            outcome: How the work ended; None: nobody's business.
        """
        with self._lock:
            self._ended = True
            self._close = None
            releases, self._releases = self._releases, []
        errors: list[BaseException] = []
        for release in releases:
            try:
                release(outcome)
            except BaseException as error:
                errors.append(error)
        if errors:
            raise first_of(errors)

    def __del__(self) -> None:
        # Whoever was to end the work is gone. NB: before 3.13 that is what
        # becomes of an async generator whose consumer is lost in the middle
        # of a step: Python calls it "already running" and never closes it.
        if self._releases:
            self.end(None)


def ending(outcome: Outcome | None) -> str:
    """Return the word for how a call or an attempt ended.

    Returns:
        "success", "failure", "error" (raised, and nobody's failure),
        "rejected", "timeout" or, without an outcome, "cancelled".
    """
    if outcome is None:
        return "cancelled"
    if isinstance(outcome.error, RejectedError):
        return "rejected"
    if isinstance(outcome.error, TimeoutExceededError):
        return "timeout"
    if outcome.verdict in (Verdict.FAILURE, Verdict.PUSHBACK):
        return "failure"
    return "success" if outcome.error is None else "error"


Judge: TypeAlias = Callable[[Outcome], Verdict]
Answer: TypeAlias = "Verdict | bool | float"
Criterion: TypeAlias = "type[Exception] | Callable[[Outcome], Answer]"
Condition: TypeAlias = "Criterion | tuple[Criterion, ...]"
"""What `classify` and `on` take: types, a function of the outcome, or both."""


def judge_by(parameter: str, *conditions: Condition | None) -> Judge | None:
    """Compile what a user says of outcomes into one function.

    Types that are listed are FAILURE, and so is a timeout further in; a
    rejection is IGNORED unless it, or its base, is listed by name; every other
    error is a SUCCESS of the dependency: it answered. A function is asked
    about what the types leave open, and its word is final.

    Args:
        parameter: What to call the conditions in an error.
        *conditions: Exception types, tuples of them, functions; None is
            nothing said.

    Returns:
        The judge, or None when nothing was said.

    Raises:
        TypeError: A condition is none of these.
    """
    types: list[type[Exception]] = []
    functions: list[Callable[[Outcome], Answer]] = []
    for condition in conditions:
        for one in cast(
            "tuple[Criterion | None, ...]",
            condition if isinstance(condition, tuple) else (condition,),
        ):
            if isinstance(one, type):
                if not issubclass(one, Exception):
                    raise TypeError(
                        f"`{parameter}` must list subclasses of Exception,"
                        f" got {one.__name__}"
                    )
                types.append(one)
            elif callable(one):
                if _is_coroutine_function(one):
                    raise TypeError(
                        f"`{parameter}` must be a plain function of the outcome,"
                        f" got the coroutine function {spell(one)}"
                    )
                functions.append(one)
            elif one is not None:
                raise TypeError(
                    f"`{parameter}` must be exception types or a function of"
                    f" the outcome, got {one!r}"
                )
    if len(functions) > 1:
        raise TypeError(f"`{parameter}` must be one function, got {len(functions)}")
    if functions:
        if not types and _keeps_verdict(functions[0]):
            return keep
        return _by_function(parameter, tuple(types), functions[0])
    return _by_types(tuple(types)) if types else None


def keep(outcome: Outcome) -> Verdict:
    """Judge an outcome as it is judged already."""
    return outcome.verdict


def keeps_verdict(judge: Judge) -> Judge:
    """Say of a function that it judges an outcome as it is judged already.

    So nobody has to ask it.
    """
    judge.__dict__[_MARK] = judge
    return judge


def _keeps_verdict(judge: object) -> bool:
    # NB: the mark says whose it is, for `functools.wraps` copies it.
    return getattr(judge, _MARK, None) is judge


_MARK = "_resilient_keeps_verdict"


def _is_coroutine_function(function: Callable[..., object]) -> bool:
    return any(
        inspect.iscoroutinefunction(one) for one in (function, type(function).__call__)
    )


def _by_types(types: tuple[type[Exception], ...]) -> Judge:
    rejections = tuple(one for one in types if issubclass(one, RejectedError))
    failures = (*types, TimeoutExceededError)

    def judge(outcome: Outcome) -> Verdict:
        error = outcome.error
        if error is None:
            return SUCCESS
        if isinstance(error, RejectedError):
            return FAILURE if isinstance(error, rejections) else IGNORED
        return FAILURE if isinstance(error, failures) else SUCCESS

    return judge


def _by_function(
    parameter: str,
    types: tuple[type[Exception], ...],
    function: Callable[[Outcome], Answer],
) -> Judge:
    by_types = _by_types(types)

    def judge(outcome: Outcome) -> Verdict:
        if types and isinstance(outcome.error, types) and by_types(outcome) is FAILURE:
            return FAILURE
        return verdict_of(parameter, function(outcome), outcome)

    return judge


def verdict_of(parameter: str, answer: object, outcome: Outcome) -> Verdict:
    """Translate a predicate's answer: a verdict, a bool, or a wait.

    Seconds are FAILURE and are written to the outcome's `retry_after`.

    Raises:
        TypeError, ValueError: The predicate answered something else. That is
            a bug in it, so it reaches the caller.
    """
    if answer is True:
        return FAILURE
    if answer is False:
        return SUCCESS
    if isinstance(answer, Verdict):
        return answer
    if isinstance(answer, (int, float)):
        outcome.retry_after = seconds_argument(parameter, answer)
        return FAILURE
    raise TypeError(
        f"`{parameter}` must answer a Verdict, a bool or seconds,"
        # NB: it may be the call's result, which may be secret.
        f" got {type(answer).__name__}"
    )


def answerable(outcome: Outcome) -> Verdict:
    """Judge for who answers in a function's place and has no ``on``.

    That is the pipeline's verdict, but that our own rejections are failures:
    whoever is inside was not asked, and the caller has nothing.
    """
    if outcome.verdict is IGNORED and isinstance(outcome.error, RejectedError):
        return FAILURE
    return outcome.verdict


def family(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes, contexts and members, each once."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        pending += (one.__cause__, one.__context__)
        if isinstance(one, BaseExceptionGroup):
            pending += one.exceptions  # pyright: ignore[reportUnknownMemberType]  # any
