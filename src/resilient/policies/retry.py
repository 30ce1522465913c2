"""Retry: try again, not too often, not too soon, not for nothing."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from resilient._calls.call import NO_EXTRAS, Call
from resilient._calls.judging import (
    Answer,
    Condition,
    Judge,
    asks_for_values,
    judge_by,
    verdict_for_all,
    verdict_of,
)
from resilient._calls.outcome import SUCCESS, Outcome, UnaskedOutcome, Verdict
from resilient._edges import steps
from resilient._edges.driver import failed
from resilient._edges.generators import Inside
from resilient._edges.lazy import close_unbegun
from resilient._errors.chains import add_context, annotate, error_chain
from resilient._errors.errors import RejectedError, format_seconds
from resilient._events.events import (
    BudgetEmpty,
    RetriesExhausted,
    RetryCancelled,
    RetryScheduled,
    error_name,
)
from resilient._machines import backoff as backoff_machine
from resilient._machines.backoff import Backoff, exponential
from resilient._policy.gate import Gate
from resilient._policy.policy import Usage
from resilient._policy.retry_budget import RetryBudget, budget_argument
from resilient._runtimes import clock
from resilient._values.callables import colour_of, refuse_arity, takes_call
from resilient._values.checks import count, optional
from resilient._values.checks import seconds as seconds_argument
from resilient._values.spelling import format_value
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from datetime import timedelta

# A backoff that is called as a plain function draws from the library's source,
# which virtual time seeds.
backoff_machine.random_source = lambda: clock.random()

Delay: TypeAlias = "Backoff | Callable[[int], float]"

attempts_limit: int | None = None
"""The most attempts any Retry makes: `resilient.testing.attempts` sets it."""

_MAKERS: Final = ("constant", "decorrelated", "delays", "exponential", "linear")
"""What makes a backoff, and would be one by mistake: it takes one number, too."""

_PLAIN: Final = ("sync", "generator", "context manager")
"""Usages in which nothing can be awaited."""

_FINAL: Final = (SUCCESS, Verdict.IGNORED)
"""Verdicts that another try would not mend."""

_NOT_REPEATABLE: Final = "not repeatable"
"""Why it stops where the call says why it must not be made again."""


_State: TypeAlias = "tuple[float, bool, int, float | None, Exception | None, int]"
"""What a Retry knows of one call: when the first attempt began, on the clock of
`time.monotonic`; whether the call was retried when it came, and the number of its
attempt then; the seconds of the last wait; what the attempt before it raised; of an
HTTP request the limiters that it had passed further out, else -1."""


class Retry(Gate):
    """Call again when a call failed in a way that another try may mend.

    After the last attempt the last error is raised as it was, with one note
    that says what was done. Nothing is retried by default: list the types, or
    give `on`, or put the Retry into a `Pipeline` with ``classify``.

    A group of errors is retried if each in it is listed. An error may say
    when, by an attribute `retry_after`: see `Outcome`.

    Retries do not multiply: an error that another Retry further in, at any
    depth, has given up on is final here. Rejections by policies further in
    are not retried unless listed by name.

    Args:
        *types: Exception types to retry on.
        on: More types, or a function of the `Outcome` that returns a
            `Verdict`, a bool, or the seconds after which to try again at
            the earliest: a longer delay of `backoff` is kept.
        attempts: Attempts in all, the first included. Default 3, where the
            SRE book, AWS and resilience4j stop too. None: no limit, which
            needs `within`.
        backoff: The delays: `exponential` (default), `constant`, `linear`,
            `decorrelated`, `delays`, or a function of the number of the
            attempt that failed.
        within: Seconds from the start of the first attempt; no wait begins
            that would end after it. It interrupts nothing. `math.inf`: for
            ever.
        on_result: A function of a returned value that answers as `on` does:
            True retries. The last value is returned all the same.
        budget: "own" (default) gives this Retry a `RetryBudget` of its own;
            a budget object is shared by all that have it; None: no budget.
        before_retry: ``f(error)`` or ``f(error, call)``, sync or (for async
            calls) async: reconnects, rolls back, refreshes a token. It runs
            after the pause and before each further attempt, which
            ``call.attempt`` numbers, within the deadline. What it raises is
            the outcome of that attempt, judged as the function's own errors
            are, and has `error` as its context. For a result that was judged
            a failure `error` is None.
        nested: Retry even what a Retry further in has given up on.
        max_retry_after: Seconds; a server that asks for a longer wait ends
            the call, with the wait attached. Default 60.
        name: Name in events.

    Raises:
        TypeError, ValueError: On construction, for arguments out of range; on
            composition or use, where nothing says what to retry.

    Source: *Exponential Backoff and Jitter*, AWS 2015; *Site Reliability
    Engineering*, chapter 22; gRPC's retry throttling.
    """

    __slots__ = (
        # NB: not `attempts`: the method of that name is one of the spellings.
        "_attempts",
        "_budget",
        "_judge",
        "_takes_call",
        "_trusts_values",
        "_weighs",
        "backoff",
        "before_retry",
        "budget",
        "max_retry_after",
        "nested",
        "on",
        "on_result",
        "types",
        "within",
    )

    traits = Trait.RERUNS

    metrics: tuple[tuple[str, ...], ...] = tuple(
        ("resilient.retry.exhausted", reason)
        for reason in (
            "attempts",
            "budget_exhausted",
            "deadline",
            "not_repeatable",
            "not_retryable",
            "retried_further_in",
            "retry_after_too_long",
        )
    )

    def __init__(
        self,
        *types: type[Exception],
        on: Condition | None = None,
        attempts: int | None = 3,
        backoff: Delay = exponential(),  # noqa: B008 - it is immutable
        within: float | timedelta | None = None,
        on_result: Callable[[Any], Answer] | None = None,
        budget: RetryBudget | Literal["own"] | None = "own",
        before_retry: Callable[[Any], object]
        | Callable[[Any, Call], object]
        | None = None,
        nested: bool = False,
        max_retry_after: float | timedelta = 60.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        for type_ in types:
            if not isinstance(type_, type):
                raise _no_type(type_)
        self.types: tuple[type[Exception], ...] = types
        self.on: Condition | None = on
        self._judge: Judge | None = judge_by("on", types, on, policy=self, each=True)
        # Whether types alone are judged, so that every value is a success.
        self._trusts_values = bool(types) and on is on_result is None
        # Whether what the function returns is looked at.
        self._weighs: bool = on_result is not None or asks_for_values(self._judge)
        self._attempts = optional(count, "attempts", attempts, minimum=1)
        self.within: float | None = optional(
            seconds_argument, "within", within, infinite=True
        )
        if self._attempts is None and self.within is None:
            raise ValueError(
                "`attempts` must be limited when `within` is None:"
                " within=math.inf says for ever"
            )
        if not callable(backoff):
            hint = ""
            if isinstance(backoff, (int, float)):
                hint = f": constant({backoff!r}) waits as long each time"
            raise TypeError(
                f"`backoff` must be a function of the attempt, got {backoff!r}{hint}"
            )
        for name_ in _MAKERS:
            if backoff is getattr(backoff_machine, name_):
                raise TypeError(
                    "`backoff` must be a function of the attempt, got the function"
                    f" that makes one: write {name_}(…)"
                )
        refuse_arity("backoff", backoff, "the number of the attempt that failed")
        self.backoff: Delay = backoff
        if on_result is not None and not callable(on_result):
            raise TypeError(f"`on_result` must be a function, got {on_result!r}")
        if on_result is not None:
            refuse_arity("on_result", on_result, "the value that was returned")
        self.on_result: Callable[[Any], Answer] | None = on_result
        self.budget = budget
        self._budget = budget_argument(budget, RetryBudget, self)
        self.before_retry: Callable[..., object] | None = before_retry
        self._takes_call = before_retry is not None and takes_call(
            "before_retry", before_retry
        )
        self.nested: bool = nested
        self.max_retry_after: float = seconds_argument(
            "max_retry_after", max_retry_after, infinite=True
        )

    def check_usage(self, usage: Usage, *, classified: bool = False) -> None:
        super().check_usage(usage, classified=classified)
        if usage == "attempts" and self.on_result is not None:
            raise TypeError(
                "`on_result` judges what a function returns, and a block returns"
                " nothing: use a function, or raise in the block what is to be"
                " retried"
            )
        hook = self.before_retry if usage in _PLAIN else None
        if hook is not None and colour_of(hook) == "async":
            raise TypeError(
                "an async `before_retry` cannot run in a synchronous call:"
                f" {self!r} needs a plain function there"
            )
        self._check_composed(classified=classified)

    def _check_composed(self, *, classified: bool) -> None:
        if not classified and self._judge is None and self.on_result is None:
            raise TypeError(
                "a Retry needs exception types, on=… or on_result=…, or a"
                " pipeline with classify=…: there is no retrying everything"
            )

    def reset(self) -> None:
        """Fill its own budget; a shared one is its owner's affair."""
        if self.budget == "own" and self._budget is not None:
            self._budget.reset()

    def is_pristine(self) -> bool:
        own = self._budget if self.budget == "own" else None
        return own is None or own.full

    def _leave_store(self) -> None:
        if self._budget is not None:
            self._budget.leave_store()

    def is_restrictive(self) -> bool:
        own = self._budget if self.budget == "own" else None
        return own is not None and own.balance < 1

    def status(self) -> dict[str, Any]:
        return {} if self._budget is None else self._budget.status()

    def enter(self, call: Call) -> steps.Answer | None:
        passed = -1 if call.limiters is None else len(call.limiters)
        state = clock.now(), call.retried, call.attempt, None, None, passed
        call.way = call.step, state, call.way
        # NB: counted here; a Retry around this one has a count of its own.
        call.retried, call.attempt = True, 1
        if self._weighs:
            call.weighs = True
        if call.extras is not NO_EXTRAS:
            # By a policy that made this call before, and makes it again now.
            call.extras.given_up = ()
        if passed < 0:
            return None
        call.own_extras().max_retry_after = self.max_retry_after
        return _in_turn(call)

    def leave(self, call: Call, permit: _State, outcome: Outcome) -> steps.Answer:
        if permit[5] >= 0 and call.extras.sent_back:
            return self._send_again(call, permit, outcome)
        succeeded = outcome.error is None and self._trusts_values
        decided = None if succeeded else self._decide(call, permit, outcome)
        if decided is None:
            budget = self._budget
            # NB: a Hedge further in may share it.
            if budget is not None and call.extras.budget_paid is not budget:
                budget.deposit()
        elif isinstance(decided, Outcome):
            outcome = decided
        else:
            return self._again(call, permit, outcome, decided)
        _, call.retried, call.attempt, _, _, _ = permit
        return outcome

    def unwind(
        self, call: Call, permit: _State, error: BaseException, leaving: bool
    ) -> None:
        _, call.retried, call.attempt, _, last, _ = permit
        if not leaving and last is not None and isinstance(error, Exception):
            # In what the user gave a policy further in: it must not hide the
            # error that an attempt came to.
            add_context(error, last)

    def _decide(
        self, call: Call, state: _State, outcome: Outcome
    ) -> Outcome | float | None:
        """Decide about an attempt.

        Returns:
            None: it is a success. An outcome: the last one. Else the seconds to
            wait for another attempt.
        """
        error = last = state[4]
        try:
            verdict = self._judged(outcome, call)
            if outcome.error is None and verdict in _FINAL:
                return None if verdict is SUCCESS else outcome
            error = outcome.error
            if last is not None and isinstance(error, RejectedError):
                if error.by_deadline:
                    # A wait that the deadline refused is no news: the last
                    # real error is.
                    return self._out_of_time(call, state)
                add_context(error, last)
            delay = self._next_delay(outcome, verdict, call, state)
            if isinstance(delay, str):
                self._give_up(outcome, call, delay, state[0])
                return outcome
            return delay
        except Exception as bug:
            # In what the user gave us: it must not hide the error that it
            # looked at, or that an attempt came to.
            if error is not None:
                add_context(bug, error)
            raise
        finally:
            # NB: their tracebacks may come to hold this frame.
            del error, last

    def _out_of_time(self, call: Call, state: _State) -> Outcome:
        """Return the outcome of the attempt before one that did not begin."""
        began, _, _, _, last, _ = state
        outcome = Outcome(None, last)
        call.attempt -= 1
        self._give_up(outcome, call, "deadline", began)
        return outcome

    async def _again(
        self, call: Call, state: _State, outcome: Outcome, delay: float
    ) -> Outcome | None:
        """Wait for the next attempt; return None, or the outcome that is the last."""
        way, step = call.way, call.step
        began, retried, counted, _, _, passed = state
        shared = self._budget is not None and self._budget.shared is not None
        budget = self._budget if shared else None
        try:
            while True:
                state = began, retried, counted, delay, outcome.error, passed
                if (
                    budget is not None
                    and not call.extras.paced
                    and not await self._withdraw_of_fleet(budget, outcome, call)
                ):
                    reason = self._exhausted(outcome, call)
                    self._give_up(outcome, call, reason, began)
                    break
                if self._listeners:
                    self._announce(delay, outcome, call)
                try:
                    if outcome.ongoing is not None:
                        # A stream whose first item will not do.
                        await outcome.ongoing.close()
                    await call.runtime.sleep(delay)
                except BaseException as unwinding:
                    self._note_cancelled(unwinding, outcome, call)
                    raise
                if call.deadline is not None and clock.now() >= call.deadline:
                    # The wait overran: no time is left to begin in.
                    self._give_up(outcome, call, "deadline", began)
                    break
                outcome.discard()
                call.attempt += 1
                # NB: what was given up on in an attempt before this one says
                # nothing about this one, not even if it is the same object.
                if call.extras is not NO_EXTRAS:
                    call.extras.given_up = ()
                spoilt: Outcome | None = None
                if self.before_retry is not None:
                    spoilt = await self._prepare(state[4], call)
                    late = call.deadline is not None and clock.now() >= call.deadline
                    if late and spoilt is None:
                        # It took all the time that was left.
                        outcome = self._out_of_time(call, state)
                        break
                if spoilt is None:
                    call.step = step
                    call.way = step, state, way
                    break
                decided = self._decide(call, state, spoilt)
                # It is an error, which no attempt succeeds with.
                assert decided is not None
                if isinstance(decided, Outcome):
                    outcome = decided
                    break
                outcome, delay = spoilt, decided
        except BaseException as unwinding:
            self.unwind(call, state, unwinding, False)
            raise
        if call.way is way:
            # No further attempt.
            call.retried, call.attempt = retried, counted
            return outcome
        turn = _in_turn(call) if passed >= 0 else None
        return None if turn is None else await turn

    async def _send_again(
        self, call: Call, state: _State, outcome: Outcome
    ) -> Outcome | None:
        """Wait for another turn of a request that was not sent: it is no attempt."""
        call.own_extras().sent_back = False
        outcome.discard()
        assert call.limiters is not None
        call.way = call.step, state, call.way
        for limiter in call.limiters[state[5] :]:
            limiter.take_back(call)
        turn = _in_turn(call)
        return None if turn is None else await turn

    def _judged(self, outcome: Outcome, call: Call) -> Verdict:
        if isinstance(outcome, UnaskedOutcome):
            return outcome.verdict
        if self.on_result is not None and outcome.error is None:
            return verdict_of("on_result", self.on_result(outcome.value), outcome)
        if self._judge is not None:
            return self._judge(outcome)
        if self.on_result is not None and not call.classified:
            # No error to retry on was named.
            return SUCCESS
        return verdict_for_all(outcome, call)

    def _next_delay(
        self,
        outcome: Outcome,
        verdict: Verdict,
        call: Call,
        state: _State,
    ) -> float | str:
        """Return the seconds to wait, or the reason why to stop."""
        attempt = call.attempt
        if verdict in _FINAL:
            return "not retryable"
        if not self.nested and _was_given_up(outcome.error, call):
            return "retried further in"
        if call.unrepeatable is not None:
            return _NOT_REPEATABLE
        limit = self._attempts
        if attempts_limit is not None:
            limit = attempts_limit if limit is None else min(limit, attempts_limit)
        if limit is not None and attempt >= limit:
            return "attempts"
        asked = outcome.retry_after or 0.0
        if asked > self.max_retry_after:
            return "retry_after too long"
        # NB: what a server asks for is a minimum: `Retry-After: 0` must not
        # bring all its clients back at once.
        delay = max(asked, self._computed(attempt, verdict, state[3]))
        end = clock.now() + delay
        if call.deadline is not None and end >= call.deadline:
            return "deadline"
        if self.within is not None and end - state[0] > self.within:
            return "deadline"
        budget = self._budget
        # NB: one that a fleet shares is asked in `_again`, for it may wait.
        if (
            budget is not None
            and budget.shared is None
            and not call.extras.paced
            and not budget.withdraw(priority=call.priority)
        ):
            return self._exhausted(outcome, call)
        return delay

    def _exhausted(self, outcome: Outcome, call: Call) -> str:
        """Return the reason why to stop where the budget has nothing."""
        if call.deadline is not None and clock.now() >= call.deadline:
            # While the store was asked.
            return "deadline"
        if self._listeners:
            empty = BudgetEmpty(self.label, call.name, call.attempt)
            self.emit(empty, call, outcome.error)
        return "budget exhausted"

    async def _withdraw_of_fleet(
        self, budget: RetryBudget, outcome: Outcome, call: Call
    ) -> bool:
        try:
            return await budget.afford(call)
        except BaseException as unwinding:
            if outcome.error is not None:
                add_context(unwinding, outcome.error)
            outcome.discard()
            raise

    def _computed(
        self, attempt: int, verdict: Verdict, previous: float | None
    ) -> float:
        if isinstance(self.backoff, Backoff):
            return self.backoff.delay(
                attempt,
                clock.random,
                previous=previous,
                pushback=verdict is Verdict.PUSHBACK,
            )
        return seconds_argument("backoff", self.backoff(attempt))

    def _announce(self, delay: float, outcome: Outcome, call: Call) -> None:
        name = error_name(outcome.error)
        event = RetryScheduled(self.label, call.name, call.attempt, name, delay)
        self.emit(event, call, outcome.error)

    def _note_cancelled(
        self, unwinding: BaseException, outcome: Outcome, call: Call
    ) -> None:
        if outcome.error is not None:
            add_context(unwinding, outcome.error)
        if self._listeners:
            cancelled = RetryCancelled(self.label, call.name, call.attempt)
            self.emit(cancelled, call, outcome.error)
        outcome.discard()

    async def _prepare(self, error: Exception | None, call: Call) -> Outcome | None:
        """Run `before_retry`; return the outcome of an attempt that it spoils."""
        hook = cast("Callable[..., Any]", self.before_retry)
        refused: TypeError | None = None
        try:
            with Inside(call):
                answer = hook(error, call) if self._takes_call else hook(error)
                if inspect.isawaitable(answer):
                    if call.runtime.name == "sync":
                        refused = _unawaitable(self, answer)
                    else:
                        await answer
        except BaseException as failure:
            if error is not None:
                add_context(failure, error)
            if not isinstance(failure, Exception):
                raise
            return self._spoilt(failed(failure), call)
        finally:
            # NB: its traceback would hold this frame.
            del error
        if refused is not None:
            raise refused
        return None

    def _spoilt(self, outcome: Outcome, call: Call) -> Outcome:
        """Judge what ended an attempt before the function, as that is judged."""
        if call.judged_by is not None:
            outcome.verdict = call.judged_by(outcome)
        return outcome

    def _give_up(self, outcome: Outcome, call: Call, reason: str, began: float) -> None:
        """Leave a note on the error, and word for every Retry further out."""
        attempt = call.attempt
        elapsed = clock.now() - began
        error = outcome.error
        told = call.unrepeatable if reason == _NOT_REPEATABLE else reason
        call.own_extras().stopped = told
        # NB: an error that comes from a Retry further in has the note of that
        # one, which says more than ours would.
        if error is not None and not _is_among(error, call.extras.given_up):
            tries = "1 attempt" if attempt == 1 else f"{attempt} attempts"
            note = f"{tries} in {format_seconds(elapsed)}; stopped: {told}"
            if outcome.retry_after is not None:
                note += f"; retry in {format_seconds(outcome.retry_after)}"
            annotate(error, note)
            if reason != "not retryable":
                call.give_up(error)
        word = reason.replace(" ", "_")
        call.count("resilient.retry.exhausted", self.placement.policy, word)
        if self._listeners:
            event = RetriesExhausted(
                self.label, call.name, attempt, elapsed, reason, error_name(error)
            )
            self.emit(event, call, error)


def _in_turn(call: Call) -> Coroutine[Any, Any, Outcome | None] | None:
    """Return what waits until a request's attempt may begin, if it has to wait."""
    turn = call.turn(at_leaf=False)
    return None if turn is None else _awaited(turn)


async def _awaited(turn: Awaitable[Outcome]) -> Outcome | None:
    """Wait for a turn; return the refusal as the attempt's outcome, if it is one."""
    refusal = await turn
    return None if refusal.error is None else refusal


def _no_type(thing: object) -> TypeError:
    """Return the error for what stands where an exception type belongs."""
    hint = (
        "predicates go to on=…, and a decorator needs its parentheses,"
        " @Retry(SomeError)"
    )
    if isinstance(thing, tuple):
        listed = format_value(cast("tuple[object, ...]", thing)).strip("(),")
        hint = f"write Retry({listed})"
    elif isinstance(thing, int):
        hint = f"attempts={thing} says how often"
    return TypeError(f"Retry takes exception types, got {thing!r}: {hint}")


def _unawaitable(retry: Retry, answer: object) -> TypeError:
    close_unbegun(answer)
    return TypeError(
        f"the `before_retry` of {retry!r} returned an awaitable, which a"
        " synchronous call cannot await: it needs a plain function there"
    )


def _was_given_up(error: Exception | None, call: Call) -> bool:
    """Whether a Retry gave up on the error, or on what it came from."""
    given_up = call.extras.given_up
    if not given_up or error is None:
        return False
    return any(_is_among(link, given_up) for link in error_chain(error))


def _is_among(error: BaseException, errors: tuple[Exception, ...]) -> bool:
    # NB: by identity; errors may define what equality they like.
    return any(error is member for member in errors)
