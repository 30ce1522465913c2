"""Hedge: ask again before the answer is late, and take the first that comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from resilient._calls.call import Call
from resilient._calls.judging import Condition, Judge, judge_by, verdict_for_all
from resilient._calls.outcome import SUCCESS, Outcome
from resilient._edges.steps import Proceed
from resilient._errors.warnings import warn
from resilient._events.events import CallAbandoned, HedgeLaunched, HedgeWon
from resilient._machines.quantile import SIZE, Quantile
from resilient._policy.policy import Policy, Usage
from resilient._policy.retry_budget import RetryBudget, budget_argument
from resilient._runtimes import clock
from resilient._values.checks import count, number, optional
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock, ReenteredError
from resilient._values.traits import Trait
from resilient.policies.hedge.race import HedgedAttempt, HedgeRace

if TYPE_CHECKING:
    from datetime import timedelta

_THREADS: Final = 32

_ONCE: Final = {
    "guard": "block",
    "attempts": "block",
    "generator": "generator",
    "async generator": "generator",
    "context manager": "context manager",
    "async context manager": "context manager",
}
"""What runs once at a time, by spelling."""


class Hedge(Policy):
    """Start a second attempt when the first is slow, and take what comes first.

    **The function runs more than once, and at the same time.** Use it for
    what may happen twice: reads, and writes that the server can recognise.

    In a transport of `resilient.httpx`, `httpx2` or `requests` it sends a
    request that may be repeated, and whose body is in memory, several times.

    **Synchronous functions run in threads**, with a copy of the caller's
    context variables, and a thread cannot be interrupted: a loser goes on
    until it ends, and keeps its permits. Its deadline (`remaining`) is moved
    to now, for code that asks. Give `max_threads` to say that you know; else
    a `ResilientWarning` does.

    The next attempt starts when `delay` has passed since the last one began,
    and at once when one failed. The first that is answered wins: with a value,
    or with an error that is no failure. Losers are cancelled, and what they
    return all the same is closed (its ``aclose`` or ``close`` is called). The
    winner's context variables reach the caller, those of losers do not.

    No hedge starts

    * before the delay is known: with ``delay=None``, until there are samples;
    * when the budget is empty, or the deadline has passed;
    * after an attempt was rejected by a policy further in, or told to come
      back later (PUSHBACK, ``retry_after``);
    * while a circuit breaker further in is not closed, or a throttle rejects;
    * once the call says that it must not be made again (`Call.unrepeatable`).

    When no attempt wins, the result of the first is raised (or returned), and
    the errors of the others hang on it as an `ExceptionGroup`: as its
    ``__context__``, or at the end of the chain that it has already.

    Args:
        delay: Seconds (> 0) or a timedelta. None: the `percentile` of the
            latencies of recent successes (the last 500; none before there
            are 20, or 1 / (1 - percentile) if that is more).
        percentile: Share of calls that shall be answered without a hedge;
            above 0, at most 0.99. Default 0.95, as in *The Tail at Scale*.
        attempts: Attempts in all, the first included. Default 2.
        budget: "own" (default) is a ``RetryBudget(0.05, 10)``: at most one
            hedge in twenty calls, bursts of ten, fed by successes, because
            hedging without a budget turns a slow minute into an overload that
            stays. A budget object is shared by all that have it, a `Retry` too;
            None: no budget.
        floor: Seconds; a percentile below it counts as this. Default 1 ms:
            where answers are faster, a hedge costs more than it gains.
        grace: Seconds that an answer waits for the losers to clean up after
            their cancellation; longer ones go on behind the caller's back and
            keep their permits. Default 10 ms. On trio it waits until they have
            ended.
        on: Exception types, or a function of the outcome, that say what does
            not win. Default: the pipeline's classification, else every
            exception.
        max_threads: Threads that may run at once for plain functions, losers
            included; beyond them calls are made as if there were no hedge.
            None (default): 32, and a warning.
        name: Name in events.

    Raises:
        TypeError, ValueError: An argument is out of range; or it is used on a
            generator or block, or on aiohttp's requests, which cannot run
            twice at once.

    Source: J. Dean and L. A. Barroso, *The Tail at Scale*, CACM 2013; gRPC
    proposal A6; Finagle's BackupRequestFilter.
    """

    __module__ = "resilient"

    __slots__ = (
        # NB: not `attempts`: the method of that name is one of the spellings.
        "_attempts",
        "_budget",
        "_judge",
        "_latency",
        "_left",
        "_lock",
        "_threads",
        "budget",
        "delay",
        "floor",
        "grace",
        "max_threads",
        "on",
        "percentile",
    )

    traits = Trait.RACES

    def __init__(
        self,
        delay: float | timedelta | None = None,
        *,
        percentile: float = 0.95,
        attempts: int = 2,
        budget: RetryBudget | Literal["own"] | None = "own",
        floor: float | timedelta = 0.001,
        grace: float | timedelta = 0.01,
        on: Condition | None = None,
        max_threads: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.delay: float | None = optional(
            seconds_argument, "delay", delay, zero=False
        )
        self.percentile: float = number(
            "percentile", percentile, minimum=0, exclusive=True
        )
        if percentile > 0.99:
            raise ValueError(
                f"`percentile` must be <= 0.99, got {percentile!r}: the last {SIZE}"
                " successes say nothing about rarer ones"
            )
        self._attempts = count("attempts", attempts, minimum=1)
        self.budget = budget
        self._budget = budget_argument(budget, lambda: RetryBudget(0.05, 10), self)
        self.floor: float = seconds_argument("floor", floor)
        self.grace: float = seconds_argument("grace", grace)
        self.on: Condition | None = on
        self._judge: Judge | None = judge_by("on", on, policy=self, each=True)
        self.max_threads: int | None = optional(
            count, "max_threads", max_threads, minimum=1
        )
        self._lock = Lock()
        self._latency = Quantile(self.percentile)
        # NB: changed by single operations, without the lock: an attempt may
        # end in the collector, on a thread that has the lock.
        self._threads: set[HedgedAttempt] = set()
        self._left: set[HedgedAttempt] = set()

    def check_usage(self, usage: Usage, *, classified: bool = False) -> None:
        if usage not in ("sync", "async", "requests"):
            raise TypeError(
                f"{self!r} may run its function several times at once, which a"
                f" {_ONCE[usage]} cannot: use a function"
            )
        if usage == "sync" and self.max_threads is None:
            warn(
                f"{self!r} runs a synchronous function in threads, where a loser"
                " cannot be interrupted; say max_threads=… if that is meant"
            )

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "hedge.abandoned": self.abandoned,
            "hedge.delay": self.current_delay,
        }
        budget = self._budget
        if budget is not None:
            status |= budget.status()
        return status

    def reset(self) -> None:
        """Forget the latencies, and fill its own budget.

        A shared budget is its owner's affair.
        """
        with self._lock:
            self._latency = Quantile(self.percentile)
        if self.budget == "own" and self._budget is not None:
            self._budget.reset()

    def is_pristine(self) -> bool:
        own = self._budget if self.budget == "own" else None
        idle = not (self._threads or self._left or len(self._latency))
        return idle and (own is None or own.full)

    def _leave_store(self) -> None:
        if self._budget is not None:
            self._budget.leave_store()

    def is_restrictive(self) -> bool:
        own = self._budget if self.budget == "own" else None
        return bool(self._left) or (own is not None and own.balance < 1)

    @property
    def abandoned(self) -> int:
        """Losers that were left behind and still run."""
        return len(self._left)

    @property
    def current_delay(self) -> float | None:
        """Seconds after which a hedge would start now; None: not known yet."""
        if self.delay is not None:
            return self.delay
        learnt = self._latency.value
        return None if learnt is None else max(self.floor, learnt)

    async def around(self, proceed: Proceed, call: Call) -> Outcome:
        if call.function is None and call.fork is None:
            # Of a `PerKey`, which has no policies before there are calls.
            raise TypeError(
                f"{self!r} may send {call.name!r} several times at once, which"
                " cannot be done here: put it around a function"
            )
        delay = self.current_delay
        if delay is None or self._attempts == 1:
            return await self._unhedged(proceed, call)
        race = await call.runtime.race(call)
        hedge_race: HedgeRace | None = None
        try:
            hedge_race = HedgeRace(call, proceed, self._judge, race)
            await self._race(hedge_race, delay)
            if hedge_race.attempts:
                return self._decide(hedge_race)
            # There was no thread for it.
            return await self._unhedged(proceed, call)
        except GeneratorExit:
            raise
        except BaseException:
            # NB: it has been left, unless Ctrl-C came before it could be.
            await race.leave(self.grace, unwinding=True)
            raise
        finally:
            if hedge_race is not None:
                hedge_race.forget()

    async def _unhedged(self, proceed: Proceed, call: Call) -> Outcome:
        began = clock.now()
        outcome = await proceed(call)
        judge = self._judge
        verdict = verdict_for_all(outcome, call) if judge is None else judge(outcome)
        if outcome.error is None and verdict is SUCCESS:
            self._learn(clock.now() - began, call)
        return outcome

    async def _race(self, hedge_race: HedgeRace, delay: float) -> None:
        """Have an answer, and nothing else under way that can be stopped."""
        race = hedge_race.race
        try:
            try:
                if self._start(hedge_race):
                    await self._run(hedge_race, delay)
            except GeneratorExit:
                # The call is closed, which leaves no room to wait.
                hedge_race.close()
                race.abandon()
                raise
            except BaseException:
                hedge_race.close()
                # NB: the one policy that waits while it unwinds: what it began
                # must not go on unseen.
                await race.leave(self.grace, unwinding=True)
                raise
            unwound = hedge_race.close()
            try:
                await race.leave(self.grace, unwinding=unwound is not None)
                if unwound is None:
                    # NB: again, for what an attempt met as it was cancelled.
                    unwound = hedge_race.close()
                if unwound is not None:
                    raise unwound
            finally:
                del unwound
        except GeneratorExit:
            raise
        except BaseException:
            await hedge_race.drop()
            raise

    async def _run(self, hedge_race: HedgeRace, delay: float) -> None:
        """Start hedges until there is a winner, or no attempt is left."""
        due: float | None = hedge_race.attempts[0].began + delay
        while True:
            # NB: first. An attempt in a thread may settle at any moment, and
            # the last one that fails must not be taken for the end of all.
            running = hedge_race.running
            if hedge_race.decided():
                return
            failed = hedge_race.take_failure()
            if failed or (due is not None and clock.now() >= due):
                reason = "failure" if failed else "delay"
                # One that may not start now is not tried again, unless another
                # attempt fails.
                more = await self._hedges(hedge_race, reason)
                more = more and self._has_more(hedge_race)
                due = clock.now() + delay if more else None
            elif running:
                await hedge_race.race.wait(due)
            else:
                return

    async def _hedges(self, hedge_race: HedgeRace, reason: str) -> bool:
        """Start a hedge; False: none may start now."""
        call, now = hedge_race.call, clock.now()
        if (
            not self._has_more(hedge_race)
            or hedge_race.backed_off
            or hedge_race.hedging_discouraged
            or hedge_race.unrepeatable is not None
            or (call.deadline is not None and now >= call.deadline)
            or not self._has_room(call)
        ):
            return False
        budget = self._budget
        if budget is None or budget.shared is None:
            affords = budget is None or budget.withdraw(priority=call.priority)
        else:
            affords = await budget.afford(call)
            if hedge_race.decided():
                # While the store was asked.
                return False
        if not affords or not self._start(hedge_race):
            return False
        if self._listeners:
            elapsed = now - hedge_race.attempts[0].began
            number = hedge_race.attempts[-1].call.hedge
            event = HedgeLaunched(self.label, call.name, number, reason, elapsed)
            failure = hedge_race.latest_error if reason == "failure" else None
            self.emit(event, call, failure)
        return True

    def _has_more(self, hedge_race: HedgeRace) -> bool:
        return len(hedge_race.attempts) < self._attempts

    def _has_room(self, call: Call) -> bool:
        """Whether there is a thread for an attempt, if it needs one."""
        limit = self.max_threads or _THREADS
        return call.runtime.name != "sync" or len(self._threads) < limit

    def _start(self, hedge_race: HedgeRace) -> bool:
        attempt = HedgedAttempt(hedge_race, len(hedge_race.attempts), self._forget)
        started = False
        try:
            with self._lock:
                if not self._has_room(hedge_race.call):
                    return False
                if hedge_race.call.runtime.name == "sync":
                    self._threads.add(attempt)
            started = hedge_race.start(attempt)
        finally:
            if not started:
                self._forget(attempt)
        return started

    def _forget(self, attempt: HedgedAttempt) -> None:
        self._threads.discard(attempt)
        self._left.discard(attempt)

    def _decide(self, hedge_race: HedgeRace) -> Outcome:
        """Learn from a race that is decided; return what the call comes to."""
        call, winner = hedge_race.call, hedge_race.winner
        left = [
            attempt
            for attempt in hedge_race.attempts
            if attempt.leave_behind(self._left.add)
        ]
        outcome = hedge_race.outcome(left)
        if winner is not None and outcome.error is None and winner.verdict is SUCCESS:
            self._learn(hedge_race.latency(), call)
        if self._listeners:
            if winner is not None and winner.call.hedge:
                elapsed = winner.settled_at - hedge_race.attempts[0].began
                event = HedgeWon(self.label, call.name, winner.call.hedge, elapsed)
                self.emit(event, call)
            if any(not attempt.settled for attempt in left):
                abandoned = CallAbandoned(self.label, call.name, self.abandoned)
                self.emit(abandoned, call)
        return outcome

    def _learn_locked(self, latency: float) -> None:
        self._latency.add(latency)

    def _learn(self, latency: float, call: Call) -> None:
        """Take a success into account: its latency, and what it pays in."""
        if self.delay is None:
            try:
                self._lock.run(self._learn_locked, latency)
            except ReenteredError:
                # In the middle of a change, on the same thread: one less.
                pass
        if self._budget is not None:
            self._budget.deposit()
            call.own_extras().budget_paid = self._budget
