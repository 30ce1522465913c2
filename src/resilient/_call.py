"""What flows through a pipeline: a `Call` in, an `Outcome` out.

Ground rules:

* A `Call` lives from the moment the user calls until that call returns. It
  belongs to one task or thread. When it has ended it has no deadline, no
  enclosing call and keeps no exception: whoever still sees it through an
  inherited context sees nothing but how important it was.
* One context variable holds the current call. Only an edge sets it (`_edge`,
  `_blocks`), and `deadline_after` and `priority`, edges without a function.
* An `Outcome` is judged once, by `Verdict`; policies read the verdict. A
  policy with an ``on`` of its own asks its own `Judge` instead.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from resilient import _clock
from resilient._arguments import number
from resilient._arguments import seconds as seconds_argument
from resilient._errors import (
    DeadlineExceededError,
    RejectedError,
    TimeoutExceededError,
)
from resilient._priority import (
    PRIORITIES,
    Priority,
    PriorityName,
    Standing,
    lot_of,
)
from resilient._runtimes import current_runtime
from resilient._signature import spell

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Self

    from resilient._policy import Policy
    from resilient._runtimes import Runtime
    from resilient.rate_limiter import RateLimiter


D = TypeVar("D")


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


class Run(Enum):
    """Why the function is run.

    The first run for a call is the original, whatever came before it; further
    ones are retries unless the policy that causes them says otherwise.
    """

    ORIGINAL = "original"
    RETRY = "retry"
    HEDGE = "hedge"
    PROBE = "probe"


# What nearly every call has: an original that nobody observes. It is counted
# when the call ends, with that. (And globals: an enum's member costs double.)
FIRST: Final = object()
PLAIN: Final = object()
CONCLUDED: Final = object()
ORIGINAL, RETRY = Run.ORIGINAL, Run.RETRY


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
        first: BaseException | None = None
        for release in releases:
            try:
                release(outcome)
            except BaseException as error:
                first = error if first is None else first
        if first is not None:
            try:
                raise first
            finally:
                # NB: or its traceback and this frame would be a cycle.
                del first

    def __del__(self) -> None:
        # Whoever was to end the work is gone. NB: before 3.13 that is what
        # becomes of an async generator whose consumer is lost in the middle
        # of a step: Python calls it "already running" and never closes it.
        if self._releases:
            self.end(None)


class Observation(Protocol):
    """What somebody notes down about one call, while it is under way."""

    def began(self, call: Call, run: Run) -> Callable[[Outcome | None], None]:
        """Note that the function is run; return what to tell of its end."""
        ...

    def ended(self, call: Call, ending: str) -> None:
        """Note how the call ended; see `ending`."""
        ...


observe: Callable[[Call], Observation | None] | None = None
"""Asked at the start of every call, if it is set; neither it nor what it returns
raises. Who observes sets `Call.run` to `Run.ORIGINAL`."""


class Booking(Protocol):
    """What a limiter took for one attempt, to be corrected."""

    def settle(self, costs: Mapping[str, float]) -> Collection[str]:
        """Correct it, once for each unit; return the units it counts."""
        ...


_REMEMBERED: Final = 8
"""Given-up errors that a call remembers: enough for the members of a group,
few enough for a call that lasts as long as its process."""


class _Seldom(Generic[D]):
    """An attribute that few calls have: in a dictionary that few calls have."""

    __slots__ = ("_default", "_name")

    def __init__(self, default: D) -> None:
        self._default = default

    def __set_name__(self, owner: type[Call], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, call: None, owner: type[Call]) -> Self: ...
    @overload
    def __get__(self, call: Call, owner: type[Call]) -> D: ...
    def __get__(self, call: Call | None, owner: type[Call]) -> Self | D:
        if call is None:
            return self
        if call.seldom is None:
            return self._default
        return cast("D", call.seldom.get(self._name, self._default))

    def __set__(self, call: Call, value: D) -> None:
        if call.seldom is None:
            if value is self._default:
                return
            call.seldom = {}
        call.seldom[self._name] = value


_ENDING: Final = ("bookings", "given_up", "stream_limit")
"""What a call that ended has no more."""


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
        key: What `PerKey` tells calls apart by, unless it has its own.
        hedge: Number of the hedge that this is, from 1; 0: none.
        function: What is called; None for a block.
        result: Set it inside a ``with`` block to show a value to ``classify``.
        unrepeatable: Why the function must not be called again, whatever came
            of it – as an HTTP request that has side effects and may have
            arrived; None: nothing is known against it.
        resends: Whether each run sends the same HTTP request: a transport's
            subclass says so.
    """

    resends: ClassVar[bool] = False

    __slots__ = (
        "_runtime",
        "args",
        "attempt",
        "classified",
        "deadline",
        "enclosing",
        "ended",
        "function",
        "kwargs",
        "name",
        "paid_into",
        "policy",
        "retried",
        "run",
        "runner",
        "seldom",
        "standing",
        "task",
    )

    # What few calls have.
    key: _Seldom[Any] = _Seldom(None)
    result: _Seldom[Any] = _Seldom(None)
    unrepeatable: _Seldom[str | None] = _Seldom(None)
    # Why a Retry made no further attempt.
    stopped: _Seldom[str | None] = _Seldom(None)
    # Errors that a Retry gave up on, here or in a call made from here.
    given_up: _Seldom[tuple[Exception, ...]] = _Seldom(())
    # What limiters took for the present attempt; for `settle`.
    bookings: _Seldom[dict[Any, Booking] | None] = _Seldom(None)
    # The `Timeout` that bounds a stream after its first item.
    stream_limit: _Seldom[Any] = _Seldom(None)
    observation: _Seldom[Observation | None] = _Seldom(None)

    # Of a `Fork` alone.
    hedge: int = 0
    strained: bool = False
    # Of an HTTP request alone: the limiters that let it or its attempts pass.
    limiters: list[RateLimiter] | None = None

    def __init__(
        self,
        name: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        runtime: Runtime | None = None,
        key: Any = None,
        policy: Policy[Any] | None = None,
        function: Callable[..., Any] | None = None,
    ) -> None:
        self.name: str = name
        self.args: tuple[Any, ...] = args
        self.kwargs = kwargs
        self._runtime = runtime
        # What the user called; the policies inside are its own affair.
        self.policy: Policy[Any] | None = policy
        self.function: Callable[..., Any] | None = function
        self.attempt: int = 1
        # Whether a Retry is around: what is inside it happens once an attempt.
        self.retried: bool = False
        # Whether a pipeline's `classify` has judged what came of it.
        self.classified: bool = False
        self.task: Any = None
        # The budget that this call's success has paid into already.
        self.paid_into: object = None
        # Runs a plain function in the edge's stead: in a thread to abandon.
        self.runner: Callable[..., Outcome] | None = None
        self.ended: bool = False
        self.deadline: float | None = None
        self.enclosing: Call | None = None
        # What `priority` said of the task; None: nothing yet.
        self.standing: Standing | None = None
        # What the next run of the function is: a `Run`; `FIRST`: an original
        # that nobody observes; `PLAIN`: after that, and it is not counted yet;
        # `CONCLUDED`: there will be none.
        self.run: object = FIRST
        self.seldom: dict[str, Any] | None = None
        if key is not None:
            self.key = key
        if current.get() is not None:
            self.inherit()
        if observe is not None:
            self.observation = observe(self)

    def __repr__(self) -> str:
        return f"<Call {self.name!r}, attempt {self.attempt}>"

    def inherit(self) -> None:
        """Take its place, and its deadline, inside the call that runs here."""
        enclosing = current.get()
        # NB: a task or thread may still carry the call that it was started
        # from; once that has ended it has nothing to say.
        if enclosing is None or enclosing.ended:
            self.enclosing = self.deadline = None
        else:
            self.enclosing, self.deadline = enclosing, enclosing.deadline
        # NB: also of one that has ended: background work stays what it was
        # started as. A generator keeps what it began with.
        if enclosing is not None and self.standing is None:
            self.standing = enclosing.standing

    @property
    def priority(self) -> Priority:
        """How important it is: what the `priority` block around it says."""
        standing = self.standing
        return _NORMAL if standing is None else standing.priority

    @property
    def lot(self) -> float:
        """A number in [0, 1): of one class, who has a lower one is cut first.

        The hash of the key that `priority` was given; else drawn, once for
        everything inside the outermost block or call.
        """
        standing = self.standing
        if standing is None:
            outermost = self
            # NB: a call further out may have drawn since this one began.
            while outermost.standing is None and outermost.enclosing is not None:
                outermost = outermost.enclosing
            standing = outermost.standing or Standing(_NORMAL, _clock.random())
            self.standing = outermost.standing = standing
        return standing.lot

    def strain(self) -> None:
        """Tell every `Hedge` around that what is called is in trouble.

        It then adds no load. For policies further in that would rather have
        fewer calls: a circuit that is not closed, a throttle that rejects.
        """
        call: Call | None = self
        while call is not None:
            if isinstance(call, Fork):
                call.strained = True
            call = call.enclosing

    @property
    def runtime(self) -> Runtime:
        """The runtime that waits for this call."""
        runtime = self._runtime
        if runtime is None:
            runtime = self._runtime = current_runtime(self)
        return runtime

    def settle(self, **costs: float) -> None:
        """Book what the call really cost, once it is known.

        Each limiter that counts a named unit takes the difference between
        what it took at the start and the number given: more is a debt that
        later calls wait for, less is given back. The first word counts;
        further ones for the same unit do nothing. Units that no limiter of
        this call counts go to the call around it. Where no limiter stands
        around, it does nothing.

        Args:
            **costs: Units and their real amounts, as in ``tokens=812``.

        Raises:
            TypeError, ValueError: An amount is not a number >= 0, or there are
                limiters and none of them counts the unit; what they do count
                is booked all the same.
        """
        for unit, cost in costs.items():
            number(unit, cost, minimum=0)
        known: set[str] = set()
        call: Call | None = self
        while call is not None and costs:
            bookings = tuple((call.bookings or {}).values())
            counted = {unit for one in bookings for unit in one.settle(costs)}
            # What nobody here counts may be counted by a call around this one.
            costs = {unit: costs[unit] for unit in costs.keys() - counted}
            known |= counted
            call = call.enclosing
        if costs and known:
            raise ValueError(
                f"no limiter of this call counts `{min(costs)}`; they count"
                f" {', '.join(sorted(known))}"
            )

    def give_up(self, error: Exception) -> None:
        """Tell this call and all around it that a Retry gave up on `error`."""
        call: Call | None = self
        while call is not None:
            call.given_up = (*call.given_up[1 - _REMEMBERED :], error)
            call = call.enclosing

    def count(self, *series: str) -> None:
        """Add 1 to a count of this call's pipeline.

        Args:
            *series: The metric, and the values of its labels in the order of
                `resilient.telemetry`'s table, the pipeline left out.
        """
        if self.policy is not None:
            self.policy.tally.counts[series] += 1

    def end(self, outcome: Outcome | None = None) -> None:
        """Cut every tie: nobody may learn anything from a call that ended.

        Args:
            outcome: What came of it; None: something unwound. Only the first
                word about it counts.
        """
        if (
            self.run is PLAIN
            and outcome is not None
            and outcome.verdict is SUCCESS
            and outcome.error is None
        ):
            self.policy.tally.plain += 1  # type: ignore[union-attr]  # an edge's
        elif not self.ended:
            self.conclude(outcome)
        self.ended = True
        self.function = None
        self.args, self.kwargs = (), None
        self.enclosing = self.deadline = self.task = None
        if self.seldom is not None:
            for name in _ENDING:
                self.seldom.pop(name, None)

    def run_as(self, run: Run) -> None:
        """Say what the next run of the function is."""
        if self.run is PLAIN:
            self.count("resilient.attempts", ORIGINAL.value)
        self.run = run

    def count_run(self) -> Run:
        """Count a run that begins now, and is no plain one."""
        if self.run is PLAIN:
            self.run_as(RETRY)
        run = cast("Run", self.run)
        self.count("resilient.attempts", run.value)
        self.run = RETRY
        return run

    def conclude(self, outcome: Outcome | None) -> None:
        """Count how the call ended, once; `end` does, if nobody did before.

        For a call that goes on after its answer is known, as a body does that
        is still to be read.
        """
        if self.run is CONCLUDED:
            return
        if self.run is PLAIN:
            self.count("resilient.attempts", ORIGINAL.value)
        self.run = CONCLUDED
        word = ending(outcome)
        self.count("resilient.calls", word)
        observation = self.observation
        if observation is not None:
            self.observation = None
            observation.ended(self, word)


class Apart(Call):
    """A run of the function in a task or thread of its own, for another call.

    It is a part of that call and not counted as one; its run is.
    """

    __slots__ = ()

    def __init__(self, call: Call, runtime: Runtime | None = None) -> None:
        super().__init__(
            call.name, call.args, call.kwargs, runtime, call.key, call.policy
        )
        self.enclosing = call
        self.function = call.function
        self.attempt = call.attempt
        self.retried = call.retried
        self.standing = call.standing
        self.observation = call.observation
        self.run = RETRY if call.attempt > 1 else Run.ORIGINAL

    def end(self, outcome: Outcome | None = None) -> None:
        self.ended = True
        super().end()


class Fork(Apart):
    """One of several attempts that run at once for one call.

    It lives in the task or thread of the attempt, inside that call.

    Attributes:
        hedge: Number of the hedge, from 1; 0: the first attempt.
        strained: Whether a policy further in wants no more of them.
    """

    __slots__ = ("hedge", "strained")

    def __init__(self, call: Call, hedge: int) -> None:
        super().__init__(call, call.runtime)
        self.deadline = call.deadline
        self.runner = call.runner
        self.hedge: int = hedge
        if hedge:
            self.run = Run.HEDGE
        self.strained: bool = False


_NORMAL = Priority.NORMAL

current: ContextVar[Call | None] = ContextVar("resilient.current_call", default=None)


def current_call() -> Call:
    """Return the innermost call that this code runs in.

    Raises:
        LookupError: This code does not run inside a protected call.
    """
    call = current.get()
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
    call = current.get()
    return None if call is None else call.deadline


def remaining() -> float | None:
    """Return how many seconds are left for the current call.

    Made for clients that take a timeout: ``requests.get(url,
    timeout=remaining())``.

    Returns:
        Seconds, 0.0 when time is up, None where there is no limit.
    """
    deadline = current_deadline()
    return None if deadline is None else max(0.0, deadline - _clock.now())


class _Telling:
    """An edge without a function: it tells those inside something."""

    __slots__ = ("_call", "_token")

    def __init__(self) -> None:
        self._call: Call | None = None

    def _tell(self, call: Call) -> None:
        """Write to the call of a block what it is to tell."""

    def __enter__(self) -> None:
        name = type(self).__name__
        if self._call is not None:
            raise RuntimeError(
                f"a {name} is for one block at a time: call it anew for each block"
            )
        self._call = call = Call(name)
        self._tell(call)
        self._token = current.set(call)

    def __exit__(self, *exc: object) -> None:
        call, self._call = self._call, None
        assert call is not None
        call.end()
        current.reset(self._token)


class deadline_after(_Telling):  # noqa: N801 - a context manager named as a function
    """Tell everything inside that its time is up in so many seconds.

    It tells and cancels nothing (it is not `anyio.fail_after`): policies
    inside stop waiting and retrying in time, HTTP transports shorten their
    timeouts, code can ask `remaining`. An earlier deadline outside stays.

    Args:
        seconds: Seconds from the moment the block is entered, or a timedelta.

    Raises:
        TypeError, ValueError: `seconds` is not a duration >= 0.
        RuntimeError: It is entered again before it was left.
    """

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float | timedelta) -> None:
        super().__init__()
        self._seconds = seconds_argument("seconds", seconds, infinite=True)

    def _tell(self, call: Call) -> None:
        deadline = _clock.now() + self._seconds
        if call.deadline is None or deadline < call.deadline:
            call.deadline = None if deadline == math.inf else deadline


class priority(_Telling):  # noqa: N801 - a context manager named as a function
    """Tell everything inside how important it is.

    Under pressure the lowest goes first: see `Priority`. The innermost block
    counts. Tasks that are started inside keep what it says, also after it was
    left: unlike time, importance does not run out.

    Args:
        name: "critical", "normal" (that of code in no such block),
            "sheddable" or "batch".
        key: What identifies the task, such as the id of the request: of one
            class the same tasks are cut by every policy, in every process,
            whose calls carry this key. Not that of a customer or host, who
            would be cut for as long as the pressure lasts. Default: that of
            the block around, else a number drawn when the block is entered.

    Raises:
        ValueError: There is no such priority.
        TypeError: `key` is not a str, bytes or int.
        RuntimeError: It is entered again before it was left.
    """

    __slots__ = ("_lot", "_priority")

    def __init__(
        self, name: PriorityName | Priority, key: str | bytes | int | None = None
    ) -> None:
        super().__init__()
        if isinstance(name, Priority):
            self._priority = name
        elif name in PRIORITIES:
            self._priority = PRIORITIES[name]
        else:
            known = ", ".join(f'"{one}"' for one in PRIORITIES)
            raise ValueError(f"`name` must be one of {known}, got {name!r}")
        self._lot = None if key is None else lot_of(key)

    def _tell(self, call: Call) -> None:
        call.standing = Standing(
            self._priority, call.lot if self._lot is None else self._lot
        )


def overdue(call: Call, now: float) -> Outcome | None:
    """Return the refusal of a call whose deadline has passed, else None."""
    if call.deadline is None or now < call.deadline:
        return None
    error = DeadlineExceededError(call.name, None, now - call.deadline)
    if call.policy is None:
        return Outcome(error=error)
    return call.policy.reject(error, call)


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
        return _by_function(parameter, tuple(types), functions[0])
    return _by_types(tuple(types)) if types else None


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
