"""What flows through a pipeline: a `Call` in; what comes out is an `Outcome`.

Ground rules:

* A `Call` lives from the moment the user calls until that call returns. It
  belongs to one task or thread. When it has ended it has no deadline, no
  enclosing call and keeps no exception: seen through an inherited
  context it says nothing but how important it was.
* One context variable holds the current call. Only an edge sets it (`_edges`),
  and `scopes`, edges without a function.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    NamedTuple,
    Protocol,
    TypeAlias,
)
from weakref import ReferenceType

from resilient._calls.outcome import (
    SUCCEEDED,
    SUCCESS,
    Outcome,
    UnaskedOutcome,
    Verdict,
    outcome_label,
)
from resilient._errors.errors import (
    DeadlineExceededError,
    RejectedError,
    TimeoutExceededError,
)
from resilient._runtimes import clock, sync
from resilient._runtimes.current import current_runtime
from resilient._values.checks import number
from resilient._values.priority import Priority, TaskPriority
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from typing import Self

    from resilient._events.counters import Counters
    from resilient._runtimes.runtime import Runtime


class Run(Enum):
    """Why the function is run.

    The first run for a call is the original, whatever came before it; further
    ones are retries unless the policy that causes them says otherwise.
    """

    ORIGINAL = "original"
    RETRY = "retry"
    HEDGE = "hedge"
    PROBE = "probe"


# NB: globals, for an enum's member costs double.
ORIGINAL, RETRY = Run.ORIGINAL, Run.RETRY


class Placement(NamedTuple):
    """What telemetry calls a policy: found once, kept until a name changes.

    Attributes:
        root: The outermost of the pipelines that it was put into first.
        pipeline: Name of that pipeline.
        policy: Name of the policy in it. What stands inside a `PerKey` goes by
            the name of that, for keys are many.
    """

    # NB: weak: a pipeline that is gone names nothing.
    root: ReferenceType[AnyPolicy]
    pipeline: str
    policy: str


class AnyPolicy(Protocol):
    """What calls and edges need of a `Policy`, whose layer is above."""

    counters: Counters
    _name: str | None

    @property
    def traits(self) -> Trait: ...

    @property
    def name(self) -> str | None: ...

    @property
    def label(self) -> str: ...

    @property
    def placement(self) -> Placement: ...

    def children(self) -> Sequence[AnyPolicy]: ...

    # NB: Any: the layer above knows what steps are; see `_edges.steps`.
    def link(self, inside: Any) -> Any: ...

    def reject(self, error: RejectedError, call: Call) -> Outcome: ...

    def warning_raised(self, text: str) -> None: ...


class Limiter(Protocol):
    """A rate limiter that an HTTP request has passed."""

    @property
    def units(self) -> frozenset[str]: ...

    def learn(
        self,
        remaining: float,
        reset: float,
        unit: str | None = None,
        *,
        max_hold: float | None = None,
        origin: str | None = None,
    ) -> None: ...

    def take_back(self, call: Call) -> None: ...


class Observation(Protocol):
    """What an observer notes about one call, while it is under way."""

    def began(self, call: Call, run: Run) -> Callable[[Outcome | None], None]:
        """Note that the function is run; return what to tell of its end."""
        ...

    def ended(self, call: Call, outcome_label: str) -> None:
        """Note how the call ended; see `outcome_label`."""
        ...


observe: Callable[[Call], Observation | None] | None = None
"""Asked at the start of every call, if it is set; neither it nor what it returns
raises."""


class Booking(Protocol):
    """What a limiter took for one attempt, to be corrected."""

    def correct(
        self, costs: Mapping[str, float], max_debt: float = ...
    ) -> Collection[str]:
        """Correct it, once for each unit; return the units it counts."""
        ...


_REMEMBERED: Final = 8
"""Given-up errors that a call remembers: enough for the members of a group,
few enough for a call that lasts as long as its process."""


Choice: TypeAlias = "tuple[AnyPolicy, Any, Any, Choice | None]"
"""An endpoint that a policy chose for a call: that policy, what it knows of the
endpoint, the endpoint, and the choice before."""


class Extras:
    """State that few calls need; `Call.own_extras` makes it.

    Attributes:
        key, result, unrepeatable: See `Call`.
        stopped: Why a Retry made no further attempt.
        given_up: Errors that a Retry gave up on, here or in a call made from here.
        bookings: What limiters took for the present attempt; for `set_cost`.
        stream_limit: The `Timeout` that bounds a stream after its first item.
        cut: Whether a limit cut all the calls that wait for this one.
        observation: What is told how it goes.
        choices: The endpoints that it was sent to, latest first.
        counted: Whether its end was counted before it ended.
        max_retry_after: Seconds that a server may make an HTTP request wait.
        turn: The turn that an HTTP request was given which is held back.
        sent_back: Whether it goes back to the Retry around it, to wait for
            another turn.
        paced: Whether its next attempt will be paced by a queue, so that it
            needs no budget.
        budget_paid: The budget that this call's success has paid into already.
        thread_runner: Runs a plain function instead of the edge: in a thread to
            abandon.
    """

    # NB: defaults of the class, so that there is nothing to do for a new one.
    key: Any = None
    result: Any = None
    unrepeatable: str | None = None
    stopped: str | None = None
    given_up: tuple[Exception, ...] = ()
    bookings: dict[Any, Booking] | None = None
    stream_limit: Any = None
    cut: bool = False
    observation: Observation | None = None
    choices: Choice | None = None
    counted: bool = False
    max_retry_after: float = math.inf
    turn: Any = None
    sent_back: bool = False
    paced: bool = False
    budget_paid: object = None
    thread_runner: Callable[..., Outcome] | None = None

    def end(self) -> None:
        """Drop references that an ended call must not keep."""
        self.bookings = self.choices = self.stream_limit = None
        self.given_up = ()


class _NoExtras(Extras):
    """The extras of calls that have none of their own: defaults, read-only."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name!r} can be set in a call's `own_extras()` alone")

    def __reduce__(self) -> str:
        # By name: there is one instance.
        return "NO_EXTRAS"


NO_EXTRAS: Final = _NoExtras()


class Call:
    """One logical call on its way through a pipeline.

    Attributes:
        name: Name of the function, or of the pipeline for a block.
        args, kwargs: What the function is called with; empty for a block.
            They appear in no event, text or repr.
        attempt: Number of the present attempt, from 1.
        deadline: When the time for the whole call is up, on the clock of
            `time.monotonic`; None = never. Narrowed by each `Timeout` for
            what is inside it.
        allowed: Seconds that the limit allows which set `deadline`; None: no
            limit.
        hedge: Number of the hedge that this is, from 1; 0: none.
        function: What is called; None for a block.
        resends: Whether each run sends the same HTTP request: a transport's
            subclass says so.
    """

    resends: ClassVar[bool] = False

    # Of an HTTP request: whether it goes to the endpoint that a `Balance`
    # chooses; False: where it says; None: its transport does not know how.
    routed: bool | None = True

    __slots__ = (
        "_runtime",
        "allowed",
        "args",
        "attempt",
        "deadline",
        "enclosing",
        "ended",
        "extras",
        "function",
        "judged_by",
        "kwargs",
        "name",
        "policy",
        "retried",
        "run",
        "runs",
        "standing",
        "step",
        "task",
        "way",
        "weighs",
    )

    # Of a `HedgeCall` alone.
    hedge: int = 0
    hedging_discouraged: bool = False
    # Of an HTTP request alone: makes what sends it beside others at once.
    fork: Any = None
    # Of an HTTP request alone: the limiters that let it or its attempts pass.
    limiters: list[Limiter] | None = None

    # NB: no `__init__`: CPython 3.11 and 3.12 call it by way of C, which takes 60 to
    # 100 ns longer than a method that does the same.

    @classmethod
    def new(
        cls,
        name: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        runtime: Runtime | None = None,
        key: Any = None,
        policy: AnyPolicy | None = None,
    ) -> Self:
        """Make a call that no edge of a function makes."""
        call = cls()
        call.begin(name, args, kwargs, runtime, policy, None)
        if key is not None:
            call.key = key
        return call

    def begin(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        runtime: Runtime | None,
        policy: AnyPolicy | None,
        function: Callable[..., Any] | None,
    ) -> None:
        """Set the attributes of a new call."""
        self.name: str = name
        self.args: tuple[Any, ...] = args
        self.kwargs = kwargs
        self._runtime = runtime
        # What the user called; the policies inside are not seen here.
        self.policy: AnyPolicy | None = policy
        self.function: Callable[..., Any] | None = function
        self.attempt: int = 1
        # Whether a Retry is around: what is inside it happens once an attempt.
        self.retried: bool = False
        # What judged it last: a pipeline's `classify`.
        self.judged_by: Callable[[Outcome], Verdict] | None = None
        self.task: Any = None
        self.ended: bool = False
        self.deadline: float | None = None
        self.allowed: float | None = None
        self.enclosing: Call | None = None
        # What `priority` said of the task; None: nothing yet.
        self.standing: TaskPriority | None = None
        # What the next run of the function is.
        self.run: Run = ORIGINAL
        # Runs of the function that began, but for an original that is not observed.
        self.runs: int = 0
        # Where it is on its way through policies (see `_edges.steps`): the step
        # that it is at, and a record for each policy that it has to leave.
        self.step: Any = None
        self.way: Any = None
        # Whether a policy needs the value that the function returns.
        self.weighs: bool = False
        # For reading; `own_extras` returns those to write to.
        self.extras: Extras = NO_EXTRAS
        if running() is not None:
            self.inherit()
        if observe is not None:
            self._observe(observe)

    def __repr__(self) -> str:
        return f"<Call {self.name!r}, attempt {self.attempt}>"

    def _observe(self, observe: Callable[[Call], Observation | None]) -> None:
        observation = observe(self)
        if observation is not None:
            self.own_extras().observation = observation

    def own_extras(self) -> Extras:
        """Return extras that can be written to."""
        if self.extras is NO_EXTRAS:
            self.extras = Extras()
        return self.extras

    @property
    def key(self) -> Any:
        """What `PerKey` tells calls apart by, unless it has its own."""
        return self.extras.key

    @key.setter
    def key(self, key: Any) -> None:
        if key is not self.extras.key:
            self.own_extras().key = key

    @property
    def result(self) -> Any:
        """The value of a block, for ``classify`` to see; set it inside."""
        return self.extras.result

    @result.setter
    def result(self, result: Any) -> None:
        if result is not self.extras.result:
            self.own_extras().result = result

    @property
    def unrepeatable(self) -> str | None:
        """Why the function must not be called again, even if it failed.

        As an HTTP request that has side effects and may have arrived. None:
        it may be.
        """
        return self.extras.unrepeatable

    @unrepeatable.setter
    def unrepeatable(self, reason: str | None) -> None:
        if reason is not self.extras.unrepeatable:
            self.own_extras().unrepeatable = reason

    def inherit(self) -> None:
        """Take its place, and its deadline, inside the call that runs here."""
        enclosing = running()
        # NB: a task or thread may still carry the call that it was started
        # from; once that has ended it sets no limit.
        if enclosing is None or enclosing.ended:
            self.enclosing = self.deadline = self.allowed = None
        else:
            self.enclosing = enclosing
            self.deadline, self.allowed = enclosing.deadline, enclosing.allowed
        # NB: also of one that has ended: background work stays what it was
        # started as. A generator keeps what it began with.
        if enclosing is not None and self.standing is None:
            self.standing = enclosing.standing

    @property
    def classified(self) -> bool:
        """Whether a pipeline's `classify` has judged its outcome."""
        return self.judged_by is not None

    @property
    def endpoint(self) -> Any:
        """The endpoint that it was sent to last; None where none was chosen."""
        choices = self.extras.choices
        return None if choices is None else choices[2]

    @property
    def priority(self) -> Priority:
        """How important it is: what the `priority` block around it says."""
        standing = self.standing
        return _NORMAL if standing is None else standing.priority

    @property
    def shed_rank(self) -> float:
        """A number in [0, 1): of one class, calls with a lower one are cut first.

        The hash of the key that `priority` was given; else drawn, once for
        everything inside the outermost block or call.
        """
        standing = self.standing
        if standing is None:
            root = self
            # NB: a call further out may have drawn since this one began.
            while root.standing is None and root.enclosing is not None:
                root = root.enclosing
            standing = root.standing or TaskPriority(_NORMAL, clock.random())
            self.standing = root.standing = standing
        return standing.shed_rank

    def discourage_hedging(self) -> None:
        """Tell every `Hedge` around that what is called is in trouble.

        It then adds no load. For policies further in that would rather have
        fewer calls: a circuit that is not closed, a throttle that rejects.
        """
        call: Call | None = self
        while call is not None:
            if isinstance(call, HedgeCall):
                call.hedging_discouraged = True
            call = call.enclosing

    @property
    def runtime(self) -> Runtime:
        """The runtime that waits for this call."""
        runtime = self._runtime
        if runtime is None:
            runtime = self._runtime = current_runtime(self)
        return runtime

    def set_cost(self, **costs: float) -> None:
        """Book what the call really cost, once it is known.

        Each limiter that counts a named unit takes the difference between
        what it took at the start and the number given: more is a debt that
        later calls wait for, less is given back. Only the first call
        for a unit takes effect. Units that no limiter of this call counts go
        to the call around it. Where no limiter stands around, it does nothing.

        Args:
            **costs: Units and their real amounts, as in ``tokens=812``.

        Raises:
            TypeError, ValueError: An amount is not a number >= 0, or there are
                limiters and none of them counts the unit; what they do count
                is booked all the same.
        """
        for unit, cost in costs.items():
            number(unit, cost, minimum=0)
        self.book(costs)

    def book(self, costs: Mapping[str, float], max_debt: float = math.inf) -> None:
        """Do what `set_cost` does with costs that were checked.

        Args:
            costs: Units and their real amounts.
            max_debt: Seconds that a limiter may take to pay the debt: what is
                more is not booked.

        Raises:
            ValueError: As of `set_cost`.
        """
        known: set[str] = set()
        left: dict[str, float] = dict(costs)
        call: Call | None = self
        while call is not None and left:
            bookings = tuple((call.extras.bookings or {}).values())
            counted = {u for one in bookings for u in one.correct(left, max_debt)}
            # What is not counted here may be counted by a call around this one.
            left = {unit: left[unit] for unit in left.keys() - counted}
            known |= counted
            call = call.enclosing
        if left and known:
            raise ValueError(
                f"no limiter of this call counts `{min(left)}`; they count"
                f" {', '.join(sorted(known))}"
            )

    def turn(self, *, at_leaf: bool) -> Awaitable[Outcome] | None:
        """Return what waits until it may be sent; of an HTTP request alone.

        Args:
            at_leaf: Whether it is about to be sent; else an attempt begins.

        Returns:
            None: it may be sent now. Else an outcome whose error, if it has
            one, is its refusal.
        """
        return None

    # -- Limits further out

    def is_cut(self, unwinding: BaseException) -> bool:
        """Whether a limit of ours further out interrupts it, and nothing else."""
        if self.extras.cut:
            return self.runtime.is_cancellation(unwinding)
        around: list[Call] = []
        call: Call | None = self
        while call is not None:
            around.append(call)
            call = call.enclosing
        return self.runtime.is_cut(around, unwinding)

    def cut_outcome(
        self, unwinding: BaseException, began: float | None
    ) -> Outcome | None:
        """Return the outcome that learning policies count for a call that unwinds.

        What a limit of ours further out cuts is no caller's cancellation. It
        is a failure if it had had at least half of that limit; if not, the
        time had gone elsewhere.

        Args:
            unwinding: What unwinds.
            began: When the call came to the policy that asks, on the clock of
                `time.monotonic`; None: there was no limit then.

        Returns:
            An outcome about which no predicate is asked, or None: it says
            nothing.
        """
        if began is None or self.allowed is None or not self.is_cut(unwinding):
            return None
        elapsed = clock.now() - began
        if elapsed < self.allowed / 2:
            return None
        return UnaskedOutcome(
            error=TimeoutExceededError(self.name, self.allowed, elapsed)
        )

    def late_outcome(self, outcome: Outcome, began: float | None) -> Outcome | None:
        """Return the outcome that learning policies count for an error.

        An error that comes when time is up is what becomes of a limit where it
        is obeyed and not enforced; see `cut_outcome`.
        """
        error = outcome.error
        if began is None or error is None or self.deadline is None:
            return outcome
        now = clock.now()
        if now < self.deadline or now - began >= (self.allowed or 0.0) / 2:
            return outcome
        if isinstance(error, TimeoutExceededError) and not error.by_deadline:
            # It had all that a limit further in allows.
            return outcome
        return None

    def give_up(self, error: Exception) -> None:
        """Tell this call and all around it that a Retry gave up on `error`."""
        call: Call | None = self
        while call is not None:
            extras = call.own_extras()
            extras.given_up = (*extras.given_up[1 - _REMEMBERED :], error)
            call = call.enclosing

    def count(self, *series: str) -> None:
        """Add 1 to a count of this call's pipeline.

        Args:
            *series: The metric, and the values of its labels in the order of
                `resilient.telemetry`'s table, the pipeline left out.
        """
        if self.policy is not None:
            self.policy.counters.counts[series] += 1

    def end(self, outcome: Outcome | None = None) -> None:
        """Drop references: an ended call must keep nothing alive.

        Args:
            outcome: How it ended; None: something unwound. Only the first
                call of `end` takes effect.
        """
        extras = self.extras
        if not self.ended:
            # NB: first, for an interrupt may have it ended again.
            self.ended = True
            if (
                outcome is SUCCEEDED
                or (
                    outcome is not None
                    and outcome.verdict is SUCCESS
                    and outcome.error is None
                )
            ) and (
                extras is NO_EXTRAS
                or not (extras.counted or extras.observation is not None)
            ):
                # What `_count_end` does for nearly every call.
                self.policy.counters.successes += 1  # type: ignore[union-attr]  # an edge's
            elif not extras.counted:
                self._count_end(outcome)
        if extras is not NO_EXTRAS:
            extras.end()
        self.args = ()
        self.kwargs = self.function = self.task = None
        self.enclosing = self.deadline = self.allowed = None

    def begin_run(self) -> bool:
        """Count a run that begins now.

        Returns:
            False: it is not counted, for `leaf` has to run it. It is observed, or
            in a thread to abandon.
        """
        extras = self.extras
        if extras.observation is not None or extras.thread_runner is not None:
            return False
        if self.run is ORIGINAL and self.policy is not None:
            # What `count_run` does.
            self.run = RETRY
            self.runs += 1
            self.policy.counters.originals += 1
        else:
            self.count_run()
        return True

    def count_run(self) -> Run:
        """Count a run that begins now."""
        run, self.run = self.run, RETRY
        self.runs += 1
        if run is ORIGINAL and self.policy is not None:
            self.policy.counters.originals += 1
        else:
            self.count("resilient.attempts", run.value)
        return run

    def count_end(self, outcome: Outcome | None) -> None:
        """Count how the call ended, once; `end` does, if it was not done before.

        For a call that goes on after its answer is known, as a body does that
        is still to be read.
        """
        extras = self.own_extras()
        if not extras.counted:
            extras.counted = True
            self._count_end(outcome)

    def _count_end(self, outcome: Outcome | None) -> None:
        word = outcome_label(outcome)
        if word == "success" and self.policy is not None:
            self.policy.counters.successes += 1
        else:
            self.count("resilient.calls", word)
        observation = self.extras.observation
        if observation is not None:
            self.extras.observation = None
            observation.ended(self, word)


class BranchCall(Call):
    """A run of the function in a task or thread of its own, for another call.

    It is a part of that call and not counted as one; its run is.
    """

    __slots__ = ()

    def __init__(self, call: Call, runtime: Runtime | None = None) -> None:
        self.begin(
            call.name, call.args, call.kwargs, runtime, call.policy, call.function
        )
        if call.extras is not NO_EXTRAS:
            self.key = call.key
        call.runs += 1
        self.enclosing: Call | None = call
        self.attempt: int = call.attempt
        self.retried: bool = call.retried
        self.standing: TaskPriority | None = call.standing
        if call.extras.observation is not None:
            self.own_extras().observation = call.extras.observation
        self.run: Run = RETRY if call.attempt > 1 else ORIGINAL

    def end(self, outcome: Outcome | None = None) -> None:
        self.ended = True
        super().end()


class HedgeCall(BranchCall):
    """One of several attempts that run at once for one call.

    It lives in the task or thread of the attempt, inside that call.

    Attributes:
        hedge: Number of the hedge, from 1; 0: the first attempt.
        hedging_discouraged: Whether a policy further in wants no more of them.
    """

    __slots__ = ("hedge", "hedging_discouraged")

    def __init__(self, call: Call, hedge: int) -> None:
        super().__init__(call, call.runtime)
        self.deadline: float | None = call.deadline
        self.allowed: float | None = call.allowed
        if call.extras.thread_runner is not None:
            self.own_extras().thread_runner = call.extras.thread_runner
        self.hedge: int = hedge
        if hedge:
            self.run = Run.HEDGE
        self.hedging_discouraged: bool = False


_NORMAL = Priority.NORMAL

current: ContextVar[Call | None] = ContextVar("resilient.current_call", default=None)
# NB: what every call does, bound once: a method of C's that is looked up on an
# imported name is made anew each time, which takes as long as to call it.
running, enter_call, leave_call = current.get, current.set, current.reset
sync.running_call = running


def forget_call(call: Call) -> None:
    """Make the call around `call` the current one, if `call` is.

    For an edge that Ctrl-C has kept from getting the token of `enter_call`.
    """
    # NB: each edge chooses between this and `leave_call` in its own frame. A function
    # that did so for all would not be entered where Ctrl-C comes as it is called, and
    # the call would stay the current one.
    if running() is call:
        enter_call(call.enclosing)


def current_call() -> Call:
    """Return the innermost call that this code runs in.

    Raises:
        LookupError: This code does not run inside a protected call.
    """
    call = running()
    while call is not None and call.policy is None:
        # A `deadline_after`, which calls nothing.
        call = call.enclosing
    if call is None or call.ended:
        raise LookupError("no call of a resilient policy is under way here")
    return call


def current_deadline() -> float | None:
    """Return when the time for the current call is up.

    Returns:
        A reading of `time.monotonic` (on trio too), or None: no limit.
    """
    call = running()
    return None if call is None else call.deadline


def remaining() -> float | None:
    """Return how many seconds are left for the current call.

    Made for clients that take a timeout: ``requests.get(url,
    timeout=remaining())``.

    Returns:
        Seconds, 0.0 when time is up, None where there is no limit.
    """
    deadline = current_deadline()
    return None if deadline is None else max(0.0, deadline - clock.now())


def cut_short(call: Call, now: float) -> TimeoutExceededError | None:
    """Return the error of a call that a limit around it cut, else None.

    That of a `deadline_after`, which has no policy to answer for it: work that
    obeyed it by a timeout of its own has only that to show.
    """
    if call.deadline is None or now < call.deadline:
        return None
    allowed = call.allowed or 0.0
    error = TimeoutExceededError(call.name, allowed, allowed + now - call.deadline)
    error.by_deadline = True
    return error


def overdue(call: Call, now: float) -> Outcome | None:
    """Return the refusal of a call whose deadline has passed, else None."""
    if call.deadline is None or now < call.deadline:
        return None
    error = DeadlineExceededError(call.name, None, now - call.deadline)
    if call.policy is None:
        return Outcome(error=error)
    return call.policy.reject(error, call)
