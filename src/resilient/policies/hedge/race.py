"""The attempts of one hedged call, from the first start to the last end.

Ground rules:

* A `HedgeRace` belongs to one call. Its attempts run in tasks or threads of their
  own and report to it; the call's own task or thread decides who starts, and
  leaves with what came first. `lock` is for those threads.
* An attempt that reports is *settled*: from then on nothing interrupts it. It
  closes the results that are not wanted, its own or another's, and
  ends. So a result is closed exactly once, and never the one that is returned.
* Once the race is *decided*, whatever else comes is unwanted.
* An attempt that is still under way when the call returns keeps its permits,
  and those of the policies outside (`Outcome.ongoing`), until it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from resilient._calls.call import Call
from resilient._calls.judging import Judge, verdict_for_all
from resilient._calls.outcome import (
    FAILURE,
    IGNORED,
    SUCCESS,
    OngoingWork,
    Outcome,
    Verdict,
)
from resilient._edges.branches import Branch, branch_of
from resilient._edges.steps import Proceed
from resilient._errors.errors import is_rejection
from resilient._runtimes import clock
from resilient._runtimes.runtime import Sentinel
from resilient._values.locks import Lock
from resilient.policies.hedge.losers import (
    chain_errors,
    close_result,
    copy_context_from,
    merge_work,
)

if TYPE_CHECKING:
    from resilient._runtimes.runtime import Race

_NONE_YET: Any = Sentinel("<none yet>")


class HedgedAttempt:
    """One attempt, in a task or thread of its own; a `Racer`.

    Attributes:
        began: When it started, on the clock of `time.monotonic`.
        settled: Whether it has reported its outcome.
        settled_at: When it did.
        failed: Whether that was nothing to win with.
        outcome: Its outcome, if it is still wanted.
        verdict: What is thought of that.
        context: The context variables as it left them.
        ongoing: What lasts until it has ended, where that is not waited for.
    """

    __slots__ = (
        "_branch",
        "_ended",
        "_forget",
        "_race",
        "_stays",
        "began",
        "call",
        "context",
        "failed",
        "name",
        "ongoing",
        "outcome",
        "settled",
        "settled_at",
        "verdict",
    )

    def __init__(
        self, hedge_race: HedgeRace, hedge: int, forget: Callable[[HedgedAttempt], None]
    ) -> None:
        self._branch = branch_of(hedge_race.call, hedge, hedge_race.proceed)
        self.call: Call = self._branch.call
        self.name: str = (
            f"{hedge_race.call.name} hedge {hedge}" if hedge else hedge_race.call.name
        )
        self.began: float = clock.now()
        self.settled_at: float = self.began
        self.settled: bool = False
        self.failed: bool = False
        self._ended = False
        self.outcome: Outcome | None = None
        self.verdict: Verdict = IGNORED
        self.context: Context | None = None
        self.ongoing: OngoingWork | None = None
        # What of its own work outlives it.
        self._stays: OngoingWork | None = None
        self._race = hedge_race
        self._forget = forget

    async def run(self) -> None:
        hedge_race = self._race
        try:
            # NB: a thread may come to its first step after all is over.
            if not hedge_race.is_decided:
                await self._branch.run()
                self.call.end()
                unwanted = hedge_race.settle(self, self._branch)
                if unwanted:
                    with hedge_race.race.cleanup(self):
                        while unwanted:
                            await close_result(unwanted.pop(), self.call)
        except BaseException as error:
            hedge_race.unwind(self, error)
        finally:
            if not self._ended:
                self.ended()

    def ended(self, error: BaseException | None = None) -> None:
        if error is not None:
            self._race.unwind(self, error)
        self.call.end()
        self._ended = True
        # NB: after the flag; `leave_behind` looks at it last.
        self._forget(self)
        if self.ongoing is None:
            return
        if self._stays is None:
            self.ongoing.finish(None)
        else:
            self._stays.add_release(self.ongoing.finish)

    def take(self) -> Outcome:
        """Return its outcome, which becomes the call's."""
        outcome, self.outcome = self.outcome, None
        assert outcome is not None
        self._branch.taken()
        return outcome

    def stays(self, work: OngoingWork | None) -> None:
        """Have work that it left behind counted as part of it."""
        self._stays = work

    def leave_behind(self, remember: Callable[[HedgedAttempt], None]) -> bool:
        """Return whether it still runs; if so its permits are kept until it ends."""
        if self._ended:
            return False
        self.ongoing = OngoingWork()
        remember(self)
        # NB: it may have ended since, and found nothing to give back.
        if self._ended:
            self.ended()
            return False
        return True


class HedgeRace:
    """See the module.

    Attributes:
        attempts: The attempts, in the order in which they started.
        running: How many have not settled.
        failures: How many failed, and were not followed by a hedge.
        backed_off: Whether one was rejected, or was told to come back later.
        is_decided: Whether later answers are ignored.
        winner: The attempt that was answered first.
    """

    __slots__ = (
        "_errors",
        "_judge",
        "_kept",
        "_lock",
        "_unwound",
        "_works",
        "attempts",
        "backed_off",
        "call",
        "failures",
        "is_decided",
        "proceed",
        "race",
        "running",
        "winner",
    )

    def __init__(
        self,
        call: Call,
        proceed: Proceed,
        judge: Judge | None,
        race: Race,
    ) -> None:
        self.call: Call = call
        self.proceed: Proceed = proceed
        self.race: Race = race
        self.attempts: list[HedgedAttempt] = []
        self.running: int = 0
        self.failures: int = 0
        self.backed_off: bool = False
        self.is_decided: bool = False
        self.winner: HedgedAttempt | None = None
        self._judge = judge
        self._lock = Lock()
        # What ended an attempt and was no outcome: it is raised for all.
        self._unwound: BaseException | None = None
        # Of all attempts that failed but the first.
        self._errors: list[Exception] = []
        # The value that won.
        self._kept: Any = _NONE_YET
        # Of work that outlives the attempt that began it.
        self._works: list[OngoingWork] = []

    @property
    def hedging_discouraged(self) -> bool:
        """Whether a policy further in wants no more attempts."""
        return any(attempt.call.hedging_discouraged for attempt in self.attempts)

    @property
    def latest_error(self) -> Exception | None:
        """The error of the attempt that failed last, if it raised one."""
        if self._errors:
            return self._errors[-1]
        outcome = self.attempts[0].outcome
        return None if outcome is None else outcome.error

    @property
    def unrepeatable(self) -> str | None:
        """Why there must not be another attempt, if an attempt says so."""
        calls = [self.call, *(attempt.call for attempt in self.attempts)]
        return next((call.unrepeatable for call in calls if call.unrepeatable), None)

    def start(self, attempt: HedgedAttempt) -> bool:
        """Let an attempt begin; False: there is no thread for it."""
        self.attempts.append(attempt)
        with self._lock:
            self.running += 1
        if self.race.start(attempt):
            return True
        with self._lock:
            self.running -= 1
            del self.attempts[-1]
        return False

    # -- What attempts report

    def settle(self, attempt: HedgedAttempt, alone: Branch) -> list[Outcome]:
        """Take the outcome of an attempt; return the results it has to close."""
        outcome, alone.outcome = alone.outcome, None
        assert outcome is not None
        judge = self._judge
        verdict = (
            verdict_for_all(outcome, attempt.call) if judge is None else judge(outcome)
        )
        # NB: however a rejection is judged, the function was not asked.
        answered = not is_rejection(outcome.error)
        unwanted: list[Outcome] = []
        with self._lock:
            attempt.settled_at = clock.now()
            attempt.verdict = verdict
            first = self.attempts[0] if self.attempts else attempt
            won = False
            if self.is_decided:
                attempt.stays(outcome.ongoing)
                unwanted.append(outcome)
            elif answered and verdict in (SUCCESS, IGNORED):
                won = True
                self._kept = outcome.value
                if first.outcome is not None:
                    unwanted.append(first.outcome)
                    first.outcome = None
            else:
                attempt.failed = True
                self.failures += 1
                if verdict is not FAILURE or (outcome.retry_after or 0) > 0:
                    self.backed_off = True
                if attempt is not first:
                    if outcome.error is not None:
                        self._errors.append(outcome.error)
                    unwanted.append(outcome)
            if won or not self.is_decided:
                if outcome.ongoing is not None:
                    self._works.append(outcome.ongoing)
                if won or attempt is first:
                    attempt.outcome, attempt.context = outcome, copy_context()
            kept = self._kept
            # NB: these last, for the call looks at them without the lock; and
            # without a call in between, or Ctrl-C would keep it waiting.
            attempt.settled = True
            if won:
                self.winner, self.is_decided = attempt, True
            self.running -= 1
        for outcome in unwanted:
            if outcome.value is kept:
                # NB: attempts may all return one object, which the caller now has.
                outcome.value = None
        unwanted = [
            outcome
            for outcome in unwanted
            if outcome.value is not None or outcome.ongoing is not None
        ]
        if not unwanted:
            # NB: before the call goes on, which may be its policy's next.
            attempt.ended()
        self.race.wake()
        return unwanted

    def unwind(self, attempt: HedgedAttempt, error: BaseException) -> None:
        """Take what ended an attempt and was no outcome.

        What comes after the attempt has settled, or after the race is decided, is
        dropped, unless it is an interrupt: Ctrl-C must reach the call in any case.
        """
        interrupts = not (
            isinstance(error, (Exception, GeneratorExit))
            or self.call.runtime.is_cancellation(error)
        )
        with self._lock:
            late = self.is_decided or attempt.settled
            if not attempt.settled:
                attempt.settled = attempt.failed = True
                self.running -= 1
            if self._unwound is None and (interrupts or not late):
                self._unwound = error
        self.race.wake()

    # -- What the call asks

    def decided(self) -> bool:
        """Whether there is a winner, or something that unwinds the call."""
        return self.winner is not None or self._unwound is not None

    def take_failure(self) -> bool:
        """Whether an attempt failed for which a hedge may start at once."""
        if not self.failures:
            return False
        with self._lock:
            self.failures -= 1
        return True

    def close(self) -> BaseException | None:
        """Want nothing more; return what unwinds the call, if anything does, once.

        Threads, which nothing else can stop, are told by their deadline.
        """
        with self._lock:
            self.is_decided = True
            unwound, self._unwound = self._unwound, None
        if self.call.runtime.name == "sync":
            for attempt in self.attempts:
                if not attempt.settled:
                    attempt.call.deadline = attempt.began
        return unwound

    async def drop(self) -> None:
        """Close what was wanted until now."""
        for attempt in self.attempts:
            if attempt.outcome is not None:
                outcome, attempt.outcome = attempt.outcome, None
                with self.race.cleanup(attempt):
                    await close_result(outcome, attempt.call)

    def latency(self) -> float:
        """Return how long the call waited for its answer.

        It is counted from the start of the earliest attempt that has not
        failed, won or not. NB: the winner's own time would be the shorter the
        more hedges win, the percentile of such times would sink, and ever more
        calls would be hedged. That the first was not answered until now is all
        that is known of it, and all that a percentile needs.
        """
        assert self.winner is not None
        began = min(attempt.began for attempt in self.attempts if not attempt.failed)
        return self.winner.settled_at - began

    def outcome(self, left: Sequence[HedgedAttempt]) -> Outcome:
        """Return what the call comes to; what is `left` may hold permits."""
        chosen = self.winner or self.attempts[0]
        outcome = chosen.take()
        if self.winner is None and outcome.error is not None:
            chain_errors(outcome.error, self._errors)
        call = self.call
        call.judged_by = chosen.call.judged_by or call.judged_by
        if chosen.call.extras.budget_paid is not None:
            call.own_extras().budget_paid = chosen.call.extras.budget_paid
        call.unrepeatable = self.unrepeatable
        assert chosen.context is not None
        copy_context_from(chosen.context)
        self._works += [
            outcome.ongoing for outcome in left if outcome.ongoing is not None
        ]
        if self._works:
            outcome.ongoing = merge_work(self._works)
        return outcome

    def forget(self) -> None:
        """Let go of the attempts, which know their race, and of their errors.

        NB: they would be cycles: an error keeps the frames it came through.
        """
        self.attempts = []
        self.winner = None
        self._errors = []
