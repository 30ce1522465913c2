"""Judge outcomes: compile what `classify` and `on` say into one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast
from weakref import ref

from resilient._calls.outcome import (
    FAILURE,
    IGNORED,
    SUCCESS,
    Outcome,
    UnaskedOutcome,
    Verdict,
)
from resilient._errors.chains import add_context, leaves
from resilient._errors.errors import (
    RejectedError,
    TimeoutExceededError,
    is_rejection,
)
from resilient._errors.warnings import warn
from resilient._values.callables import refuse_arity
from resilient._values.checks import seconds as seconds_argument
from resilient._values.spelling import format_value

if TYPE_CHECKING:
    from resilient._calls.call import AnyPolicy, Call

Judge: TypeAlias = Callable[[Outcome], Verdict]


Answer: TypeAlias = "Verdict | bool | float"


Criterion: TypeAlias = "type[Exception] | Callable[[Outcome], Answer]"


Condition: TypeAlias = "Criterion | tuple[Criterion, ...]"
"""What `classify` and `on` take: types, a function of the outcome, or both."""


def judge_by(
    parameter: str,
    *conditions: Condition | None,
    policy: AnyPolicy | None = None,
    each: bool = False,
) -> Judge | None:
    """Compile what a user says of outcomes into one function.

    Types that are listed are FAILURE, and so is a timeout further in; a
    rejection is IGNORED unless it, or its base, is listed by name; every other
    error is a SUCCESS of the dependency: it answered. A function is asked
    about what the types leave open, and its word is final.

    A group that is not listed itself is a FAILURE by those in it: by any of
    them for policies that learn from it, by all of them for policies that
    repeat the call or answer in its place. With nothing but rejections
    inside it is one.

    Args:
        parameter: What to call the conditions in an error.
        *conditions: Exception types, tuples of them, functions; None is
            nothing said.
        policy: Whose judge it is; it warns of an error that is not listed, and
            whose name is. None: nothing does.
        each: Whether every error in a group has to be a failure.

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
                refuse_arity(parameter, one, "the Outcome")
                if _is_coroutine_function(one):
                    raise TypeError(
                        f"`{parameter}` must be a plain function of the outcome,"
                        f" got the coroutine function {format_value(one)}"
                    )
                functions.append(one)
            elif one is not None:
                raise TypeError(
                    f"`{parameter}` must be exception types or a function of"
                    f" the outcome, got {one!r}"
                )
    if len(functions) > 1:
        raise TypeError(f"`{parameter}` must be one function, got {len(functions)}")
    if functions and not types and _marks_judged(functions[0]):
        return as_judged
    namesakes = None
    if types and policy is not None:
        namesakes = _Namesakes(parameter, types, policy)
    if functions:
        return _by_function(parameter, tuple(types), functions[0], namesakes, each=each)
    return _by_types(tuple(types), namesakes, each=each) if types else None


class _Namesakes:
    """Warns of errors whose name is listed and whose class is not.

    `requests`, `psycopg` and others have a ConnectionError or TimeoutError of
    their own. Each such class is told of once in a process.
    """

    __slots__ = ("_listed", "_parameter", "_policy")

    def __init__(
        self, parameter: str, types: list[type[Exception]], policy: AnyPolicy
    ) -> None:
        self._parameter = parameter
        self._listed = {one.__name__: one for one in types}
        # NB: not the policy, which has this: there may be ten thousand keys.
        self._policy = ref(policy)

    def __reduce__(self) -> tuple[Any, ...]:
        # NB: a judge is pickled by value where its function is: see `functions`.
        types = tuple(self._listed.values())
        return type(self), (self._parameter, types, self._policy())

    def look_at(self, error: BaseException) -> None:
        """Look at an error, or those in a group, none of which is listed."""
        for one in leaves(error):
            for kind in type(one).__mro__:
                listed = self._listed.get(kind.__name__)
                if listed is not None and not isinstance(one, listed):
                    self._warn(listed, kind)

    def _warn(self, listed: type[Exception], kind: type) -> None:
        pair = spell_class(listed), spell_class(kind)
        policy = self._policy()
        if policy is None or pair in _told or len(_told) >= _MOST_TOLD:
            return
        _told.add(pair)
        warn(
            f"{policy.label!r} met a {pair[1]}, and its `{self._parameter}` lists"
            f" {pair[0]}, another class of that name: it does not count; list the"
            " class that is raised as well",
            raised=policy.warning_raised,
        )


_told: set[tuple[str, str]] = set()
_MOST_TOLD: Final = 1000


def spell_class(kind: type) -> str:
    """Return the full name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def asks_for_values(judge: Judge | None) -> bool:
    """Whether a judge looks at the values of outcomes without an error."""
    return judge is not None and _BY_VALUE in judge.__dict__


def as_judged(outcome: Outcome) -> Verdict:
    """Judge an outcome as it is judged already."""
    return outcome.verdict


def marks_judged(judge: Judge) -> Judge:
    """Say of a function that it judges an outcome as it is judged already.

    So it need not be asked.
    """
    judge.__dict__[_MARK] = judge
    return judge


def _marks_judged(judge: object) -> bool:
    # NB: the mark says whose it is, for `functools.wraps` copies it.
    return getattr(judge, _MARK, None) is judge


_MARK = "_resilient_keeps_verdict"


def _is_coroutine_function(function: Callable[..., object]) -> bool:
    return any(
        inspect.iscoroutinefunction(one) for one in (function, type(function).__call__)
    )


def _by_types(
    types: tuple[type[Exception], ...], namesakes: _Namesakes | None, *, each: bool
) -> Judge:
    rejections = tuple(one for one in types if issubclass(one, RejectedError))
    failures = (*types, TimeoutExceededError)

    def verdict(error: BaseException) -> Verdict:
        if isinstance(error, RejectedError):
            return FAILURE if isinstance(error, rejections) else IGNORED
        return FAILURE if isinstance(error, failures) else SUCCESS

    def judge(outcome: Outcome) -> Verdict:
        error = outcome.error
        if error is None:
            return SUCCESS
        if isinstance(error, BaseExceptionGroup) and not isinstance(error, types):
            found = _verdict_of_group(map(verdict, leaves(error)), each=each)
        else:
            found = verdict(error)
        if found is SUCCESS and namesakes is not None:
            namesakes.look_at(error)
        return found

    if not each:
        judge.__dict__[_EACH] = _by_types(types, namesakes, each=True)
    return judge


def _verdict_of_group(verdicts: Iterable[Verdict], *, each: bool) -> Verdict:
    found = set(verdicts)
    if FAILURE in found and (not each or len(found) == 1):
        return FAILURE
    return IGNORED if found == {IGNORED} else SUCCESS


def _by_function(
    parameter: str,
    types: tuple[type[Exception], ...],
    function: Callable[[Outcome], Answer],
    namesakes: _Namesakes | None,
    *,
    each: bool,
) -> Judge:
    by_types = _by_types(types, None, each=each)

    def judge(outcome: Outcome) -> Verdict:
        if isinstance(outcome, UnaskedOutcome):
            return outcome.verdict
        # NB: of a timeout that is not listed the function decides.
        error = outcome.error
        if (
            types
            and isinstance(error, (*types, BaseExceptionGroup))
            and by_types(outcome) is FAILURE
        ):
            return FAILURE
        try:
            found = verdict_of(parameter, function(outcome), outcome)
        except BaseException as bug:
            # The error it was asked about must not be lost.
            if error is not None:
                add_context(bug, error)
            raise
        if found is SUCCESS and error is not None and namesakes is not None:
            namesakes.look_at(error)
        return found

    if types and not each:
        strict = _by_function(parameter, types, function, namesakes, each=True)

        def judge_each(outcome: Outcome) -> Verdict:
            # NB: what the types left open was asked about before.
            return strict(outcome) if by_types(outcome) is FAILURE else outcome.verdict

        judge.__dict__[_EACH] = judge_each
    judge.__dict__[_BY_VALUE] = True
    return judge


_BY_VALUE: Final = "_resilient_by_value"
"""The mark of a judge that asks a function of the user's."""

_EACH: Final = "_resilient_each"
"""Where a judge has the one that asks for each error in a group."""


def verdict_for_all(outcome: Outcome, call: Call) -> Verdict:
    """Return the pipeline's verdict for policies that repeat a call or answer.

    It is the outcome's, but that of a group each error has to be a failure.
    """
    if outcome.error is None or not isinstance(outcome.error, BaseExceptionGroup):
        return outcome.verdict
    judge = getattr(call.judged_by, _EACH, None)
    return outcome.verdict if judge is None else cast("Judge", judge)(outcome)


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


def fallback_verdict(outcome: Outcome, call: Call) -> Verdict:
    """Judge for policies that answer in a function's place and have no ``on``.

    That is the pipeline's verdict, but that our own rejections are failures:
    what is inside was not asked, and the caller has nothing.
    """
    if outcome.verdict is IGNORED and is_rejection(outcome.error):
        return FAILURE
    return verdict_for_all(outcome, call)
