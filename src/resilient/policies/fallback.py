"""Fallback: an answer where the call has none."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, cast, overload

from resilient._calls.call import Call
from resilient._calls.judging import (
    Condition,
    Judge,
    as_judged,
    asks_for_values,
    fallback_verdict,
    judge_by,
)
from resilient._calls.outcome import SUCCESS, Outcome, Verdict
from resilient._edges.driver import failed
from resilient._edges.lazy import close_unbegun
from resilient._edges.steps import Answer
from resilient._events.events import FallbackUsed, error_name
from resilient._policy.gate import Gate
from resilient._policy.policy import Usage
from resilient._runtimes.runtime import Sentinel
from resilient._values.callables import colour_of, takes_call
from resilient._values.traits import Trait

V = TypeVar("V", covariant=True)
_NOTHING: Any = Sentinel("<nothing>")
_PASSES = (SUCCESS, Verdict.IGNORED)


class Fallback(Gate[V], Generic[V]):
    """Answer in the place of a call that failed or was not made.

    Put it outermost: everything inside has then had its chance. Exactly one
    of `value` and `function` is given.

    Args:
        value: What to answer. It is one object for all callers, so a list,
            dict or set is refused: one caller's change would be everybody's.
        function: ``f(error)`` or ``f(error, call)``, sync or (for async
            calls) async. For a result that was judged a failure, `error` is
            None. What it raises is raised, with the original as its cause.
            A second parameter that has a default is not given the call.
        on: Exception types, or a function of the outcome, to answer for.
            Default: failures, pushback, our own rejections and timeouts.
        name: Name in events.

    Raises:
        TypeError: Neither or both are given, the value is mutable, or the
            function takes other arguments.

    Source: Netflix Hystrix; Polly's Fallback.
    """

    __slots__ = (
        "_judge",
        "_takes_call",
        "_trusts_values",
        "_weighs",
        "function",
        "on",
        "value",
    )

    @property
    def traits(self) -> Trait:  # type: ignore[override]  # it depends on `on`
        return Trait.ANSWERS | Trait.ABSORBS if self.on is None else Trait.ANSWERS

    metrics: tuple[tuple[str, ...], ...] = (("resilient.fallbacks",),)

    @overload
    def __init__(
        self, value: V, *, on: Condition | None = None, name: str | None = None
    ) -> None: ...
    @overload
    def __init__(
        self,
        *,
        function: Callable[[Any], Awaitable[V]] | Callable[[Any, Call], Awaitable[V]],
        on: Condition | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        *,
        function: Callable[[Any], V] | Callable[[Any, Call], V],
        on: Condition | None = None,
        name: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        value: Any = _NOTHING,
        *,
        function: Callable[..., Any] | None = None,
        on: Condition | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if (value is _NOTHING) == (function is None):
            raise TypeError("Fallback takes exactly one of `value` and `function`")
        if isinstance(value, (list, dict, set, bytearray)):
            raise TypeError(
                f"`value` must not be a {type(cast(object, value)).__name__}, which"
                " all callers would share: use function=lambda error: …"
            )
        if inspect.isroutine(value) or isinstance(value, (type, functools.partial)):
            raise TypeError(
                "`value` must not be a function or class: use function=…, or"
                " @Fallback(…) with parentheses to decorate"
            )
        self.value: Any = value
        self.function: Callable[..., Any] | None = function
        self._takes_call = function is not None and takes_call("function", function)
        self.on: Condition | None = on
        self._judge: Judge | None = judge_by("on", on, policy=self, each=True)
        self._weighs: bool = asks_for_values(self._judge)
        # Whether types alone are judged, so that every value passes.
        self._trusts_values: bool = (
            self._judge not in (None, as_judged) and not self._weighs
        )

    def check_usage(self, usage: Usage, *, classified: bool = False) -> None:
        super().check_usage(usage, classified=classified)
        function = self.function if usage == "sync" else None
        if function is not None and colour_of(function) == "async":
            raise TypeError(
                "an async fallback cannot answer for a synchronous call:"
                f" {self!r} needs a plain function there"
            )

    def enter(self, call: Call) -> None:
        call.way = call.step, None, call.way
        if self._weighs:
            call.weighs = True

    def leave(self, call: Call, permit: None, outcome: Outcome) -> Answer:
        if outcome.error is None and self._trusts_values:
            return outcome
        judge = self._judge
        if judge is None:
            if outcome.verdict is SUCCESS:
                return outcome
            verdict = fallback_verdict(outcome, call)
        else:
            verdict = judge(outcome)
        if verdict in _PASSES:
            return outcome
        call.count("resilient.fallbacks", self.placement.policy)
        error = outcome.error
        try:
            if self._listeners:
                event = FallbackUsed(self.label, call.name, error_name(error))
                self.emit(event, call, error)
            outcome.discard()
            if self.function is None:
                return Outcome(self.value)
            return self._ask(self.function, error, call)
        finally:
            # NB: its traceback may come to hold this frame.
            del error

    async def _ask(
        self, function: Callable[..., Any], error: Exception | None, call: Call
    ) -> Outcome:
        try:
            answer = function(error, call) if self._takes_call else function(error)
            if inspect.isawaitable(answer):
                if call.runtime.name == "sync":
                    raise _unawaitable(self, answer)
                answer = await answer
            return Outcome(answer)
        except Exception as failure:
            if failure is not error and failure.__cause__ is None:
                # NB: past `__setattr__`, which a frozen dataclass refuses.
                _CAUSE.__set__(failure, error)
            return failed(failure)
        finally:
            # NB: `error` would keep this frame alive through its traceback.
            del error


_CAUSE: Any = vars(BaseException)["__cause__"]


def _unawaitable(fallback: Fallback[Any], answer: object) -> TypeError:
    close_unbegun(answer)
    return TypeError(
        f"the function of {fallback!r} returned an awaitable, which a"
        " synchronous call cannot await: it needs a plain function there"
    )
