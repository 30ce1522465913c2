"""Admission policies: who may pass, and how did it go.

Breakers, limiters, bulkheads and throttles differ in how they decide and are
one and the same around it: ask for a permit, perhaps wait for it, run the
call, give the permit back in every way out. That is written here, once.

Ground rules:

* A lock is taken by ``with`` or by `Lock.run` (see `resilient._values.locks`):
  Ctrl-C cannot leave it locked.
* What a call holds has an owner at each moment: `admit` gives back what it took
  if it does not return, and from then on `around` does. To give back twice does
  nothing the second time, so that what was interrupted is simply done again.
* Giving back needs no lock, no stack and no memory (see `Reserve`): at the worst
  it is left in a list, for the next owner of the lock. A garbage collection may begin
  at any allocation, so also on a thread that holds a policy's lock; there it
  may close a lost call of the same policy. See `DeferredRelease`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeAlias, TypeVar, TypeVarTuple, cast

from resilient._calls.call import Call
from resilient._calls.outcome import OngoingWork, Outcome
from resilient._edges.steps import Answer
from resilient._errors.chains import add_context
from resilient._errors.copies import copy_error
from resilient._errors.errors import NoPermit, RejectedError
from resilient._events.events import PermitWaited
from resilient._policy.gate import Gate
from resilient._runtimes import clock
from resilient._runtimes.runtime import Sentinel, Waiter
from resilient._values.locks import Lock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Wait(NoPermit):
    """What `AdmissionPolicy.admit` answers when there is no permit yet.

    Attributes:
        waiter: It is woken when there may be a permit.
        until: When to stop waiting, on the clock of `time.monotonic`; None:
            wait until woken.
        sleeps: Whether time alone will bring the permit, so that tests which
            skip time may skip this wait.
    """

    __slots__ = ("sleeps", "until", "waiter")

    def __init__(
        self, waiter: Waiter, until: float | None, *, sleeps: bool = False
    ) -> None:
        self.waiter: Waiter = waiter
        self.until: float | None = until
        self.sleeps: bool = sleeps


Admission: TypeAlias = Any
"""A permit of any kind, a `RejectedError`, or a `Wait`."""


class Reserve:
    """Memory for what is given back when there is no more.

    A list that grows needs memory. So some lists are made in advance, for all
    policies: each for one thing that is given back, and for the list that it
    could not be appended to.

    Attributes:
        spare: The first of them, whose last item is the next; None: all are used.
    """

    __slots__ = ("spare",)

    def __init__(self) -> None:
        self.spare: list[Any] | None = None
        for _ in range(32):
            self.refill()

    def refill(self) -> None:
        """Make one more."""
        self.spare = [None, None, self.spare]


reserve: Final = Reserve()


class DeferredRelease:
    """What a policy needs to take things back at any moment, in any frame.

    What is given back goes to a list, to which appending is atomic, and is
    taken from it under the lock: at once, or by the thread that is in the
    middle of a change. That one looks there once it has left the lock, and
    before it refuses a call. So what was given back is never forgotten and
    never seen too late.

    It leaves the list when it has been taken back: what an interrupt stopped
    half way is taken back once more, and to take back twice must be harmless.

    A list, and no slots here: an empty deque takes 700 bytes for each key of
    a `PerKey`, and policies have bases of their own.
    """

    __slots__ = ()

    _lock: Lock
    _deferred: list[Any]

    def _release_locked(self, item: Any) -> list[Any]:
        """Take one thing back; return what `_after_unlock` has to know."""
        raise NotImplementedError

    def _after_unlock(self, effects: list[Any]) -> None:
        """Do what follows, outside the lock."""
        raise NotImplementedError

    def _release(self, item: Any) -> None:
        """Have something taken back, now or by the thread that has the lock."""
        try:
            self._deferred.append(item)
        except MemoryError:
            # NB: without a call, which needs memory itself.
            spare = reserve.spare
            if spare is None:
                raise
            reserve.spare = spare[2]
            spare[2] = item
            spare[1] = self._deferred
            self._deferred = spare  # type: ignore[misc]  # a slot of each subclass
        self._release_deferred()

    def _release_deferred(self) -> None:
        # NB: looked at again each time: another thread may have left something
        # while this one was in the middle of a change, and relied on it.
        while self._deferred and not self._lock.changing:
            effects = self._lock.run(self._release_deferred_locked)
            if effects:
                self._after_unlock(effects)

    def _release_deferred_locked(self) -> list[Any]:
        effects: list[Any] = []
        while self._deferred:
            item = self._deferred[0]
            if isinstance(item, list):
                # One of the reserve's: there is memory again, it seems.
                self._deferred += item
                reserve.refill()
            elif item is not None:
                effects += self._release_locked(item)
            del self._deferred[0]
        return effects

    def _run(self, change: Callable[[list[Any], *Ts], T], *args: *Ts) -> T:
        """Call ``change(effects, *args)`` under the lock.

        With everything taken back first and afterwards; what `change` adds to
        ``effects`` is followed up outside the lock.

        Raises:
            ReenteredError: See `Lock.run`.
        """
        effects: list[Any] = []

        def locked() -> T:
            nonlocal effects
            effects = self._release_deferred_locked()
            return change(effects, *args)

        try:
            return self._lock.run(locked)
        finally:
            if effects:
                self._after_unlock(effects)
            if self._deferred:
                self._release_deferred()


_TIMED: Final = Sentinel("<timed>")
"""What marks the permit of a call that began under a limit: after it come the
permit and when the call began, on the clock of `time.monotonic`."""


class AdmissionPolicy(Gate):
    """Base of policies that decide who may pass and learn how it went.

    Implement `admit` and `settle`, and `readmit` and `withdraw` if `admit`
    ever answers with a `Wait`. None of them may block, and each must be safe
    to call from any thread.
    """

    __slots__ = ()

    holds_streams: ClassVar[bool] = True
    """Whether the permit of a generator lasts until its end; False: until its
    first item."""

    learns: ClassVar[bool] = True
    """Whether it asks how calls went; False: it is spared the finding out."""

    weighs: bool = True
    """Whether `settle` asks for values; False: it looks at errors and verdicts."""

    def admit(self, call: Call) -> Admission:
        """Decide about a call.

        Returns:
            A permit (anything), a `RejectedError`, or a `Wait`.
        """
        raise NotImplementedError

    def settle(self, permit: Any, outcome: Outcome | None) -> None:
        """Take a permit back; called exactly once for each.

        Args:
            permit: What `admit` or `readmit` returned.
            outcome: The result of the call; None: cancelled, or it says
                nothing; do not count it. A call that a limit further out cut
                is a failure, with a `TimeoutExceededError`, if it had had at
                least half of that limit.
        """
        raise NotImplementedError

    def defer_settle(self, permit: Any, outcome: Outcome, ongoing: OngoingWork) -> None:
        """Keep a permit whose call has answered and whose work goes on.

        Called in the place of `settle`, which is called when the work ends.

        Args:
            permit: What `admit` or `readmit` returned.
            outcome: The answer; of a generator its first item.
            ongoing: Where to leave what is done at the end.
        """
        answer: Outcome | None = None
        if outcome.error is not None:
            # A thread that was left behind: how it ends is no news.
            # NB: the outcome itself is emptied when it is dropped.
            answer = Outcome(None, copy_error(outcome.error))
            answer.verdict = outcome.verdict
        ongoing.add_release(lambda last: self.settle(permit, answer or last))

    def readmit(self, wait: Any, call: Call) -> Admission:
        """Decide again, after a wait was woken or its time is up."""
        raise NotImplementedError

    def withdraw(self, wait: Any) -> None:
        """Forget a waiting call that was cancelled, perhaps as it was woken."""
        raise NotImplementedError

    def enter(self, call: Call) -> Answer | None:
        permit = self.admit(call)
        # NB: from here on on the way: where it is anywhere else when Ctrl-C comes,
        # it is lost.
        call.way = call.step, permit, call.way
        if isinstance(permit, NoPermit):
            return self._refuse_or_wait(call, permit)
        if call.allowed is not None and self.learns:
            # NB: now that it is on the way.
            call.way = call.step, (_TIMED, permit, clock.now()), call.way[2]
        if self.weighs:
            call.weighs = True
        return None

    def _refuse_or_wait(self, call: Call, permit: Any) -> Answer:
        if isinstance(permit, Wait):
            return self._wait(call, permit)
        call.way = call.way[2]
        return self.reject(permit, call)

    async def _wait(self, call: Call, permit: Any) -> Outcome | None:
        """Wait for a permit; return None, or the outcome of a rejection."""
        step, _, way = call.way
        queued_at = clock.now()
        while isinstance(permit, Wait):
            await self._park(permit, call)
            permit = self.readmit(permit, call)
            call.way = step, permit, way
        if isinstance(permit, RejectedError):
            return self._refuse_or_wait(call, permit)  # type: ignore[return-value]  # no wait
        self._count_wait(clock.now() - queued_at, call)
        if call.allowed is not None and self.learns:
            call.way = step, (_TIMED, permit, clock.now()), way
        if self.weighs:
            call.weighs = True
        return None

    def leave(self, call: Call, permit: Any, outcome: Outcome) -> Outcome:
        began: float | None = None
        # NB: the type, for a permit may be anything.
        if type(permit) is tuple and permit and permit[0] is _TIMED:
            _, permit, began = cast("tuple[Any, Any, float]", permit)
        counted: Outcome | None = outcome
        if outcome.error is not None:
            counted = call.late_outcome(outcome, began)
        if outcome.ongoing is None or not self.holds_streams:
            try:
                self.settle(permit, counted)
            except Exception as bug:
                # In a limit's algorithm, say: it must not hide the call's error.
                if outcome.error is not None:
                    add_context(bug, outcome.error)
                raise
        elif counted is None:
            # A thread that was left when little time was left for it.
            outcome.ongoing.add_release(lambda last: self.settle(permit, None))
        else:
            self.defer_settle(permit, outcome, outcome.ongoing)
        return outcome

    def unwind(
        self, call: Call, permit: Any, error: BaseException, leaving: bool
    ) -> None:
        began: float | None = None
        # NB: the type, for a permit may be anything.
        if type(permit) is tuple and permit and permit[0] is _TIMED:
            _, permit, began = cast("tuple[Any, Any, float]", permit)
        self._unwind(permit, None if leaving else call, error, began)

    def _unwind(
        self,
        permit: Admission,
        call: Call | None,
        unwinding: BaseException,
        began: float | None = None,
    ) -> None:
        """Give back what a call has that does not go on.

        Args:
            permit: A permit, a wait or a rejection.
            call: The call; None: `settle` had begun, and has perhaps ended.
            unwinding: What unwinds it.
            began: When the call began, if there is something to learn from it.
        """
        if isinstance(permit, Wait):
            self.withdraw(permit)
        elif call is not None and not isinstance(permit, RejectedError):
            self.settle(permit, call.cut_outcome(unwinding, began))

    async def _park(self, wait: Wait, call: Call) -> None:
        if wait.sleeps and clock.skip is not None:
            left = (wait.until or 0.0) - clock.now()
            await call.runtime.sleep(max(0.0, left))
        else:
            await call.runtime.park(wait.waiter, wait.until)

    def _count_wait(self, waited: float, call: Call) -> None:
        call.count("resilient.permit.waits", self.placement.policy)
        if self._listeners:
            self.emit(PermitWaited(self.label, call.name, waited), call)
