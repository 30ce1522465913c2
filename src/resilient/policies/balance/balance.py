"""Balance: choose one of several endpoints for each attempt."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from contextlib import nullcontext
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Generic,
    Literal,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from resilient._calls.call import (
    NO_EXTRAS,
    RETRY,
    BranchCall,
    Call,
    Choice,
    Extras,
    Run,
    running,
)
from resilient._calls.judging import Condition, Judge, judge_by
from resilient._calls.outcome import FAILURE, IGNORED, SUCCESS, Outcome, Verdict
from resilient._edges.steps import Answer
from resilient._errors.chains import cannot_connect
from resilient._errors.errors import (
    DeadlineExceededError,
    NoEndpointError,
    RejectedError,
)
from resilient._errors.warnings import warn
from resilient._events.events import (
    DiscoveryFailed,
    EndpointChecked,
    EndpointEjected,
    EndpointReturned,
    EndpointsChanged,
    EndpointSkipped,
    Event,
    PanicBegan,
    PanicEnded,
)
from resilient._events.listeners import log_once
from resilient._machines.backoff import Backoff
from resilient._machines.checks import Check, Checked, Panic
from resilient._machines.ejection import Eject
from resilient._machines.fleet import (
    Change,
    Ejected,
    EndpointState,
    Fleet,
    Listed,
    Load,
    Returned,
    Ticket,
)
from resilient._machines.rendezvous import some_of, spot_of
from resilient._policy.admission import DeferredRelease
from resilient._policy.gate import Gate
from resilient._policy.keys import LambdaKey, call_key
from resilient._runtimes import clock
from resilient._values.checks import count, number, optional, plain
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock, ReenteredError
from resilient._values.traits import Trait
from resilient.policies.balance.addresses import normal_address
from resilient.policies.balance.checking import Checks
from resilient.policies.balance.discovering import Discovery, Stop
from resilient.policies.balance.endpoints import (
    Endpoint,
    EndpointStatus,
    Member,
    checked_endpoints,
    is_endpoint,
    name_of,
)
from resilient.policies.balance.sources import Source, is_source

if TYPE_CHECKING:
    from datetime import timedelta

T = TypeVar("T")

_MOVES: Final = 5
"""Endpoints that a call goes on to at most after the first one's policies have
rejected it; as many as are drawn at most for a choice."""

_MOST: Final = 10_000
"""Endpoints of a set; of more, which are a mistake of what lists them, these many
are used."""

_MOST_WARNINGS: Final = 100
"""Of one object; their texts name what a source has found."""

_LOADS: Final = ("latency", "requests", "round_robin", "random")

Affinity: TypeAlias = Literal[True] | LambdaKey | Callable[..., Hashable] | None

_Effect: TypeAlias = "tuple[Change, Call | None]"

# A call that has ended, or its stream: what `_release_locked` reads.
_Ended: TypeAlias = (
    "tuple[Ticket, int, float, float, Verdict, float | None, bool, Call | None]"
)


class _Visit(Ticket):
    """What a call has of a balance, from its choice until its end.

    Attributes:
        era: The era of the member's ejection in which it was sent there.
        began: When, in monotonic seconds.
        caller_key: The call's key outside.
        run, runs: What the call's next run was then, and how many had begun.
        booked: What limiters had taken for it; None: nothing.
        moves: Where it was rejected before; None: nowhere.
    """

    __slots__ = ("began", "booked", "caller_key", "era", "moves", "run", "runs")

    era: int
    began: float
    caller_key: Any
    run: Run
    runs: int
    booked: dict[Any, Any] | None
    moves: _Moves | None

    # NB: `Balance.enter` sets them, for an `__init__` is dear; see `Call`.


class _Moves:
    """The endpoints whose policies rejected a call.

    Attributes:
        refused: Which.
        rejection: The one that may be tried again first.
        reason: What the last rejection is.
    """

    __slots__ = ("reason", "refused", "rejection")

    def __init__(self, rejection: Outcome) -> None:
        self.refused: list[Member] = []
        self.rejection: Outcome = rejection
        self.reason: str = ""


class Balance(Gate, DeferredRelease, Generic[T]):
    """Choose one of several endpoints for each attempt of a call.

    Inside it, ``balance.current`` is the address of the endpoint chosen, and
    the key of the call, so that a `PerKey` inside gives each endpoint a policy
    of its own. It stands inside a `Retry` and a `Hedge`, whose attempts go to
    endpoints that were not tried yet, as long as there are any.

    It prefers endpoints that answer fast and well, by what it has seen of them
    (`load`). One that fails five times in a row gets no calls for a while
    (`eject`), but never more than a third of them at a time. An endpoint that
    asks for less (PUSHBACK with a ``retry_after``) rests for as long as it
    says, 60 s at most; a Retry outside goes to another one without that wait.

    Where a policy inside rejects the call before it ran, as a breaker or a
    bulkhead of that endpoint does, the call goes on to another endpoint, up to
    five times; when all reject it, the rejection that may be tried again first
    is the outcome. It does not go on when the function has been called, when
    the deadline has passed, or when the call must not be made again.

    A call that was cancelled, or whose outcome is IGNORED, says nothing about
    its endpoint; one that a `Timeout` further out cut is a failure if it had at
    least half of that limit. A generator is judged by its first item, and is in
    flight until it ends.

    Args:
        *addresses: The endpoints: addresses of any kind, or `Endpoint`
            objects, which have weights, zones and tiers. Or one source of them,
            made by `resilient.discovery`.
        load: How one is chosen. ``"latency"`` (default): of two drawn, the one
            with fewer calls in flight × latency / success². ``"requests"``:
            the same without the latency, for calls whose latency says little,
            such as long polls. ``"round_robin"``: each in its turn, where exact
            turns matter more than health. ``"random"``.
        affinity: Send calls of the same key to the same endpoint, as long as
            that takes part, and has no more than 1.25 times its share of the
            calls in flight; else to the next in an order of the key's own. So
            caches of endpoints stay warm. True: by the key of the call, as
            ``guard(key=…)`` or a transport sets it. Or ``affinity(*args,
            **kwargs)`` of the function's own arguments. A call whose key is
            None goes where any call may go. Texts, numbers and tuples of them
            have the same order in each process.
        zone: The caller's own zone. Endpoints of it are preferred, until the
            load of the best of them is `zone_bias` times that of the best of
            the others. Default None: zones are not looked at.
        zone_bias: See `zone`. Default 4: at half its load a zone keeps 99 % of
            its calls, and at one and a half times what it can do none is lost.
        subset: How many endpoints of each tier this object uses, of those that
            there are: a choice of its own, of which one that leaves is replaced
            by one other, and no more changes. For fleets of hundreds, where
            each process would keep a connection to each. Default None: all.
        eject: When an endpoint gets no calls for a while. None: never.
        check: How `run` asks each endpoint whether it is well: a `Check`. Default
            None: what calls see of it is enough, and costs nothing.
        slow_start: Seconds in which an endpoint that joins others comes from a
            tenth of its weight to all of it, for those that are cold at first.
            Default 0: with ``load="latency"`` it is not needed, as a cold one is
            slow.
        on: Exception types, or a function of the outcome, that count as
            failures here. Default: the pipeline's classification, else every
            exception but rejections.
        name: Name in errors and events.

    Raises:
        NoEndpointError: At the call: all endpoints are drained, or removed, or
            were not found yet.
        TypeError, ValueError: On construction, for arguments out of range.

    Source: M. Mitzenmacher, *The Power of Two Choices*; Finagle; Envoy.
    """

    __module__ = "resilient"

    __slots__ = (
        "_checks",
        "_deferred",
        "_discovery",
        "_fleet",
        "_judge",
        "_lock",
        "_own_key",
        "_spills",
        "_warned",
        "addresses",
        "affinity",
        "check",
        "eject",
        "load",
        "on",
        "slow_start",
        "subset",
        "zone",
        "zone_bias",
    )

    traits = Trait.CHOOSES

    metrics: tuple[tuple[str, ...], ...] = (
        ("resilient.rejections", "NoEndpointError", "enforced"),
        ("resilient.endpoint.moves",),
        ("resilient.balance.spill", "tier"),
        ("resilient.balance.spill", "zone"),
        *(
            ("resilient.endpoint.ejections", reason)
            for reason in (
                "consecutive_failures",
                "failure_rate",
                "probe_failed",
                "probe_overdue",
            )
        ),
    )

    # NB: of endpoints alone a type checker does not find T in the union.
    @overload
    def __init__(
        self,
        source: Source[T],
        /,
        *,
        load: Load = "latency",
        affinity: Affinity = None,
        zone: str | None = None,
        zone_bias: float = 4.0,
        subset: int | None = None,
        eject: Eject | None = ...,
        check: Check | None = None,
        slow_start: float | timedelta = 0.0,
        on: Condition | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        *addresses: Endpoint[T],
        load: Load = "latency",
        affinity: Affinity = None,
        zone: str | None = None,
        zone_bias: float = 4.0,
        subset: int | None = None,
        eject: Eject | None = ...,
        check: Check | None = None,
        slow_start: float | timedelta = 0.0,
        on: Condition | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        *addresses: T | Endpoint[T],
        load: Load = "latency",
        affinity: Affinity = None,
        zone: str | None = None,
        zone_bias: float = 4.0,
        subset: int | None = None,
        eject: Eject | None = ...,
        check: Check | None = None,
        slow_start: float | timedelta = 0.0,
        on: Condition | None = None,
        name: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        *addresses: T | Endpoint[T] | Source[T],
        load: Load = "latency",
        affinity: Affinity = None,
        zone: str | None = None,
        zone_bias: float = 4.0,
        subset: int | None = None,
        eject: Eject | None = Eject(),  # noqa: B008 - it is immutable
        check: Check | None = None,
        slow_start: float | timedelta = 0.0,
        on: Condition | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if not addresses:
            raise TypeError("Balance takes at least one endpoint, got none")
        self.addresses: tuple[T | Endpoint[T] | Source[T], ...] = addresses
        source: object = addresses[0]
        if len(addresses) > 1 and any(map(is_source, addresses)):
            raise TypeError(
                "Balance takes endpoints, or one source of them, got both: let"
                " a poll() of your own put the lists together"
            )
        self._discovery: Discovery | None = None
        if load not in _LOADS:
            raise ValueError(f"`load` must be one of {_LOADS}, got {load!r}")
        self.load: Load = load
        if eject is not None and not isinstance(eject, Eject):
            raise TypeError(f"`eject` must be an Eject or None, got {eject!r}")
        self.eject: Eject | None = eject
        if eject is not None and eject.max_share > Eject().max_share:
            warn(
                f"{eject!r} may take more than a third of the endpoints out, whose"
                " load the others then have to carry: a partial outage becomes a"
                " whole one; keep max_share <= 1/3"
            )
        if affinity is not None and affinity is not True:
            if not callable(affinity):
                raise TypeError(
                    f"`affinity` must be True, a function or None, got {affinity!r}"
                )
            affinity = plain("affinity", affinity)
        self.affinity: Affinity = affinity
        if zone is not None and not isinstance(zone, str):
            raise TypeError(f"`zone` must be a string or None, got {zone!r}")
        self.zone: str | None = zone
        self.zone_bias: float = number("zone_bias", zone_bias, minimum=1)
        self._warned: set[str] = set()
        self.subset: int | None = optional(count, "subset", subset, minimum=1)
        # What the choice is made by; another one in each object.
        self._own_key: int = 0 if subset is None else spot_of(clock.random())
        if check is not None and not isinstance(check, Check):
            raise TypeError(f"`check` must be a Check or None, got {check!r}")
        self.check: Check | None = check
        self._checks: Checks | None = None
        if check is not None:
            self._checks = Checks(check, self._members, self._note_check)
        self.on: Condition | None = on
        self._judge: Judge | None = judge_by("on", on, policy=self)
        self._lock = Lock()
        self._deferred: list[_Ended] = []
        # The lowest tier; None: there is no other, nor another zone.
        self._spills: int | None = None
        affine = affinity is not None
        self.slow_start: float = seconds_argument("slow_start", slow_start)
        self._fleet = Fleet(
            load,
            eject,
            self.zone_bias,
            affine=affine,
            check=check,
            slow_start=self.slow_start,
        )
        if is_source(source):
            self._discovery = Discovery(
                source, self._checked, self._set_endpoints, self._tell, self._put_off
            )
            self._set_endpoints({})
        else:
            self._set_endpoints(self._checked(addresses))

    # -- Calls

    def enter(self, call: Call, followed: bool = False) -> Answer | None:
        """Choose an endpoint for a call; see `Step.enter`.

        Args:
            call: The call.
            followed: Whether it has looked where the endpoints are found.
        """
        if call.routed is not True:
            self._pass(call)
            return None
        discovery = self._discovery
        if discovery is not None and not followed and discovery.is_due:
            return self._follow(discovery, call)
        visit = _Visit()
        visit.member = visit.key = visit.booked = visit.moves = None
        visit.caller_key = key = call.extras.key
        visit.era, visit.began = 0, 0.0
        visit.run, visit.runs = call.run, call.runs
        if self.affinity is not None:
            visit.key = self._spot_of(call, key)
        # NB: on the way before anything is chosen: what is anywhere else when
        # Ctrl-C comes is lost.
        call.way = call.step, visit, call.way
        lock = self._lock
        # NB: what `Lock.run` does, which takes half a microsecond; so in `leave`.
        if lock.changing and lock.is_owned():
            raise ReenteredError
        _ = lock.acquired
        try:
            lock.changing = True
            effects = self._choose_locked(visit, call)
        finally:
            lock.changing = False
            lock.release()
        if effects or self._deferred or self._spills is not None:
            self._after_choice(effects, visit, call)
        if visit.member is None:
            call.way = call.way[2]
            return self._refuse(call)
        if self._judge is not None:
            call.weighs = True
        return None

    def leave(self, call: Call, permit: _Visit, outcome: Outcome) -> Answer:
        call.extras.key = permit.caller_key
        error, member = outcome.error, permit.member
        assert member is not None
        if (
            error is None
            and outcome.verdict is SUCCESS
            and outcome.ongoing is None
            and outcome.health is None
            and self._judge is None
        ):
            # What `_settle` does, for nearly every call.
            lock, fleet = self._lock, self._fleet
            effects: list[_Effect] = []
            if lock.changing and lock.is_owned():
                self._end(permit, SUCCESS, call)
                return outcome
            _ = lock.acquired
            try:
                lock.changing = True
                permit.member = None
                member.in_flight -= 1
                now = clock.now()
                fleet.succeed(member, permit.era, now, now - permit.began)
                if fleet.changes:
                    effects = self._changes_locked(call)
            finally:
                lock.changing = False
                lock.release()
            if effects or self._deferred:
                self._after_unlock(effects)
                self._release_deferred()
            return outcome
        if isinstance(error, RejectedError) and not (
            (call.run is RETRY and permit.run is not RETRY)
            or call.runs != permit.runs
            or call.unrepeatable is not None
            or isinstance(error, DeadlineExceededError)
        ):
            return self._take_rejection(call, permit, member, outcome)
        seen = outcome if error is None else call.late_outcome(outcome, permit.began)
        verdict = self._settle(permit, seen, call)
        if verdict is Verdict.PUSHBACK and call.retried:
            self._shorten_wait(outcome, member, _whole(call))
        return outcome

    def unwind(
        self, call: Call, permit: _Visit, error: BaseException, leaving: bool
    ) -> None:
        if permit.member is None:
            return
        try:
            # NB: by the property, for it may have no extras of its own yet.
            call.key = permit.caller_key
            self._settle(permit, call.cut_outcome(error, permit.began), call)
        except MemoryError:
            # NB: what `Ticket.leave` does, without a call, which needs memory.
            left = permit.member
            # `_settle` may have taken it back before the memory ended.
            if left is not None:  # pyright: ignore[reportUnnecessaryComparison]
                permit.member = None
                left.in_flight -= 1
            raise

    async def _follow(self, discovery: Discovery, call: Call) -> Outcome | None:
        """Look where the endpoints are found, and choose then."""
        refusal = await discovery.follow(call)
        if refusal is not None:
            return refusal
        answer = self.enter(call, followed=True)
        assert answer is None or isinstance(answer, Outcome)
        return answer

    def _take_rejection(
        self, call: Call, visit: _Visit, member: Member, outcome: Outcome
    ) -> Answer:
        """Take back a call that was rejected before it ran; go on to another."""
        self._settle(visit, None, call)
        _undo(call, visit.run, visit.booked)
        moves = visit.moves
        if moves is None:
            moves = visit.moves = _Moves(outcome)
        else:
            moves.rejection = _sooner(moves.rejection, outcome)
        moves.reason = type(outcome.error).__name__
        if len(moves.refused) == _MOVES:
            return moves.rejection
        moves.refused.append(member)
        return self._move(call, visit, moves)

    async def _move(self, call: Call, visit: _Visit, moves: _Moves) -> Outcome | None:
        """Choose another endpoint; return None, or the rejection if there is none."""
        call.way = call.step, visit, call.way
        visit.run, visit.runs = call.run, call.runs
        effects = self._lock.run(self._choose_locked, visit, call)
        self._after_choice(effects, visit, call)
        if visit.member is None:
            call.way = call.way[2]
            return moves.rejection
        call.count("resilient.endpoint.moves", self.placement.policy)
        if self._listeners:
            name = moves.refused[-1].endpoint.name
            self.emit(EndpointSkipped(self.label, call.name, name, moves.reason), call)
        return None

    def _spot_of(self, call: Call, key: Any) -> int | None:
        """Return what the key of a call hashes to; None: it has none.

        Raises:
            TypeError: The key is not hashable.
        """
        if callable(self.affinity) and call.kwargs is not None:
            key = call_key(self.affinity, call.args, call.kwargs)
        return None if key is None else spot_of(key)

    def _pass(self, call: Call) -> None:
        """Let an HTTP request pass that goes where it says.

        Raises:
            TypeError: Its transport sends none elsewhere.
        """
        if call.routed is None:
            raise TypeError(
                f"{self!r} cannot tell a transport where to send a request: give"
                ' the transport an origin="https://…", whose requests it is for'
            )

    def _after_choice(self, effects: list[_Effect], visit: _Visit, call: Call) -> None:
        """Do what follows from a choice, outside the lock."""
        self._after_unlock(effects)
        self._release_deferred()
        if self._spills is not None and visit.member is not None:
            self._count_spill(visit.member, self._spills, call)

    def _count_spill(self, member: Member, lowest: int, call: Call) -> None:
        """Count a call that goes to another tier or zone than is preferred."""
        for spills, to in ((member.tier > lowest, "tier"), (not member.near, "zone")):
            if spills:
                call.count("resilient.balance.spill", self.placement.policy, to)

    def _choose_locked(self, visit: _Visit, call: Call) -> list[_Effect]:
        fleet = self._fleet
        visit.began = now = clock.now()
        effects: list[_Effect] = []
        if call.extras is NO_EXTRAS and not (
            self._deferred or isinstance(call, BranchCall)
        ):
            # What follows, for the first attempt of nearly every call. Changes
            # are taken when it ends.
            member = fleet.choose(now, clock.random, (), (), visit)
            if member is None:
                return effects
            address = member.address
            call.extras = extras = Extras()
            extras.choices = (self, member, address, None)
            extras.key = address
        else:
            if self._deferred:
                effects = self._release_deferred_locked()
            # An attempt of a hedged call keeps away from what the others have tried.
            home = _whole(call)
            choices = home.extras.choices
            tried = self._members_in(choices)
            refused = () if visit.moves is None else visit.moves.refused
            member = fleet.choose(now, clock.random, tried, refused, visit)
            if fleet.changes:
                effects += self._changes_locked(call)
            if member is None:
                return effects
            if member in tried:
                # All were: from now on it avoids this one alone.
                choices = self._without_own(choices)
            address = member.address
            extras = home.own_extras()
            extras.choices = (self, member, address, choices)
            if home is not call:
                extras = call.own_extras()
                extras.choices = (self, member, address, extras.choices)
            extras.key = address
            visit.booked = dict(extras.bookings or ())
        ejection = member.ejection
        visit.era = 0 if ejection is None else ejection.era
        return effects

    def _members_in(self, choice: Choice | None) -> list[Member]:
        """Return the endpoints that were chosen here for a call."""
        members: list[Member] = []
        while choice is not None:
            if choice[0] is self:
                members.append(choice[1])
            choice = choice[3]
        return members

    def _without_own(self, choice: Choice | None) -> Choice | None:
        if choice is None:
            return None
        policy, member, address, earlier = choice
        earlier = self._without_own(earlier)
        return earlier if policy is self else (policy, member, address, earlier)

    def _refuse(self, call: Call) -> Outcome:
        draining = len(self._fleet.members)
        error = NoEndpointError(self.error_name(call), None, draining)
        return self.reject(error, call)

    def _shorten_wait(self, outcome: Outcome, member: Member, home: Call) -> None:
        """Have a Retry wait for the first endpoint that may be asked again.

        NB: the one place where what a server says is not waited for. It said
        so for itself, and the next attempt goes to another.
        """
        if outcome.retry_after is None:
            return
        tried = self._members_in(home.extras.choices)
        wait = self._run(
            lambda effects: self._fleet.wait_for_another(member, tried, clock.now())
        )
        if wait is not None:
            outcome.retry_after = min(wait, outcome.retry_after)

    # -- How calls went

    def _settle(self, visit: _Visit, outcome: Outcome | None, call: Call) -> Verdict:
        """Take a call back; return the verdict on it."""
        verdict, retry_after, ongoing = IGNORED, None, None
        if outcome is not None:
            # NB: a judge that raises is a bug that reaches the caller, who takes
            # the call back.
            judge = self._judge
            verdict = outcome.verdict if judge is None else judge(outcome)
            if outcome.health is IGNORED:
                # The fault is on our side.
                verdict = IGNORED
            retry_after, ongoing = outcome.retry_after, outcome.ongoing
            if (
                self._discovery is not None
                and verdict is FAILURE
                and outcome.error is not None
                and cannot_connect(outcome.error)
            ):
                self._discovery.hurry()
        self._end(visit, verdict, call, retry_after, stays=ongoing is not None)
        if ongoing is not None:
            ongoing.add_release(lambda last: self._end(visit, IGNORED))
        return verdict

    def _end(
        self,
        visit: _Visit,
        verdict: Verdict,
        call: Call | None = None,
        retry_after: float | None = None,
        *,
        stays: bool = False,
    ) -> None:
        """Note how a call went.

        Args:
            visit: What it has.
            verdict: How it went.
            call: The call; None: its stream has ended, of which it was noted before.
            retry_after: Seconds for which the endpoint rests, for PUSHBACK.
            stays: Whether its stream goes on.
        """
        now, era, began = clock.now(), visit.era, visit.began
        if call is None:
            now, era = 0.0, -1
        ended = visit, era, now, began, verdict, retry_after, stays, call
        try:
            effects = self._lock.run(self._release_locked, ended)
        except ReenteredError:
            self._deferred.append(ended)
            return
        if effects:
            self._after_unlock(effects)
        if self._deferred:
            self._release_deferred()

    def _release_locked(self, item: _Ended) -> list[_Effect]:
        ticket, era, now, began, verdict, retry_after, stays, call = item
        member, fleet = ticket.member, self._fleet
        if member is None:
            return []
        if not stays:
            ticket.leave()
        if verdict is SUCCESS:
            fleet.succeed(member, era, now, now - began)
        elif verdict is FAILURE:
            fleet.fail(member, era, now, now - began)
        elif verdict is IGNORED:
            fleet.withdraw(member, era, now)
        else:
            fleet.push_back(member, era, now, now - began, retry_after)
        return self._changes_locked(call) if fleet.changes else []

    def _changes_locked(self, call: Call | None) -> list[_Effect]:
        changes, self._fleet.changes = self._fleet.changes, []
        return [(change, call) for change in changes]

    def _after_unlock(self, effects: list[_Effect]) -> None:
        """Do what follows from changes, outside the lock."""
        for change, call in effects:
            name = None if call is None else call.name
            if not isinstance(change, Ejected):
                if self._listeners:
                    self.emit(_event_of(change, self.label, name), call)
                continue
            endpoint = change.member.endpoint.name
            seconds = self._time_out(change.times)
            self._run(self._set_time_locked, change, seconds)
            if call is not None:
                metric_name = self.placement.policy
                call.count("resilient.endpoint.ejections", metric_name, change.reason)
            if self._listeners:
                event = EndpointEjected(
                    self.label, name, endpoint, change.reason, seconds, change.times
                )
                self.emit(event, call)

    def _set_time_locked(
        self, effects: list[_Effect], change: Ejected, seconds: float
    ) -> None:
        self._fleet.set_time(change, seconds)

    def _time_out(self, times: int) -> float:
        """Return for how many seconds an endpoint gets no calls."""
        assert self.eject is not None
        eject_for = self.eject.eject_for
        try:
            if isinstance(eject_for, Backoff):
                return eject_for.delay(times, clock.random)
            if callable(eject_for):
                return seconds_argument("eject_for", eject_for(times))
        except Exception:
            log_once("the eject_for of a balance failed; 5 s are used")
            return 5.0
        return eject_for

    # -- Endpoints

    @property
    def current(self) -> T:
        """The address of the endpoint that the present call was sent to.

        Raises:
            LookupError: No call of this balance is under way here.
        """
        call = running()
        while call is not None and not call.ended:
            choice = call.extras.choices
            while choice is not None:
                if choice[0] is self:
                    return cast("T", choice[2])
                choice = choice[3]
            call = call.enclosing
        raise LookupError(f"no call is balanced by {self.label!r} here")

    @property
    def endpoints(self) -> tuple[EndpointStatus[T], ...]:
        """What is known of each endpoint now."""
        return self._run(self._look_locked)

    def _look_locked(self, effects: list[_Effect]) -> tuple[EndpointStatus[T], ...]:
        fleet, now = self._fleet, clock.now()
        seen: list[EndpointStatus[T]] = []
        for member, state in fleet.look(now):
            success, latency = fleet.known(member, now)
            endpoint = member.endpoint
            seen.append(
                EndpointStatus(
                    member.address,
                    endpoint.name,
                    endpoint.weight,
                    endpoint.zone,
                    endpoint.tier,
                    state,
                    member.in_flight,
                    latency if fleet.knows_latency else None,
                    success,
                )
            )
        return tuple(seen)

    def drain(self, endpoint: T | Endpoint[T]) -> None:
        """Send an endpoint no new calls, though it be the last one.

        Calls in flight go on.

        Raises:
            KeyError: There is no such endpoint.
        """
        self._drain_endpoint(endpoint, draining=True)

    def restore(self, endpoint: T | Endpoint[T]) -> None:
        """Send an endpoint calls again that was drained.

        Raises:
            KeyError: There is no such endpoint.
        """
        self._drain_endpoint(endpoint, draining=False)

    def _drain_endpoint(self, endpoint: T | Endpoint[T], *, draining: bool) -> None:
        address: Any = endpoint
        if is_endpoint(endpoint):
            address = endpoint.address
        address = normal_address(address)
        if not self._run(self._drain_locked, address, draining):
            raise KeyError(
                f"{self.label!r} has no endpoint {name_of(address)!r} to"
                f" {'drain' if draining else 'restore'}"
            )

    def _drain_locked(
        self, effects: list[_Effect], address: Any, draining: bool
    ) -> bool:
        known = address in self._fleet.members
        if known:
            self._fleet.drain(address, clock.now(), draining=draining)
            effects += self._changes_locked(None)
        return known

    def replace(self, endpoints: Iterable[T | Endpoint[T]]) -> None:
        """Have these endpoints from now on, and no others.

        What is known of those that stay is kept, and so is that of one which
        comes back within a minute. Calls in flight to one that leaves go on.
        With none left, calls are rejected.

        Raises:
            TypeError, ValueError: See `Endpoint`; nothing is changed then. Or
                they are found by a source.
        """
        if self._discovery is not None:
            raise TypeError(
                f"the endpoints of {self.label!r} are found by"
                f" {self._discovery.source!r}, and cannot be replaced"
            )
        if isinstance(endpoints, (str, bytes)):
            raise TypeError(
                f"`endpoints` must list endpoints, got the text {endpoints!r}"
            )
        self._set_endpoints(self._checked(endpoints))

    def _checked(self, found: Iterable[Any]) -> dict[Any, Endpoint[Any]]:
        """Return endpoints by their addresses.

        Raises:
            TypeError, ValueError: See `Endpoint`.
        """
        endpoints, repeated = checked_endpoints(found)
        if repeated is not None:
            self._warn(repeated)
        if len(endpoints) > _MOST:
            self._warn(
                f"{self.label!r} has {len(endpoints)} endpoints, of which it uses"
                f" {_MOST}: is it given what it was meant to be given?"
            )
            endpoints = self._some_of(endpoints, _MOST, 0)
        if self.subset is None:
            return endpoints
        tiers: dict[int, dict[Any, Endpoint[Any]]] = {}
        for key, each in endpoints.items():
            tiers.setdefault(each.tier, {})[key] = each
        chosen: dict[Any, Endpoint[Any]] = {}
        for members in tiers.values():
            chosen |= self._some_of(members, self.subset, self._own_key)
        return chosen

    def _some_of(
        self, endpoints: dict[Any, Endpoint[Any]], size: int, key: int
    ) -> dict[Any, Endpoint[Any]]:
        """Return so many of them at most, by a key; see `rendezvous`."""
        if len(endpoints) <= size:
            return endpoints
        return dict(
            some_of(endpoints.items(), size, key, lambda item: spot_of(item[1].name))
        )

    def _warn(self, text: str) -> None:
        """Warn of a list of endpoints, once for each text."""
        if text not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(text)
            # NB: what a source has found takes no call's place.
            warn(text, raised=None if self._discovery is None else self.warning_raised)

    def _set_endpoints(self, endpoints: dict[Any, Endpoint[Any]]) -> None:
        known = any(each.zone == self.zone for each in endpoints.values())
        if self.zone is not None and endpoints and not known:
            self._warn(f"no endpoint of {self.label!r} is in its zone, {self.zone!r}")
        affine = self.affinity is not None
        listed = [
            Listed(
                key,
                each,
                each.weight,
                each.tier,
                self.zone is None or each.zone == self.zone,
                spot_of(each.name) if affine else 0,
            )
            for key, each in endpoints.items()
        ]
        joined, left = self._run(self._replace_locked, listed)
        kinds = {(entry.tier, entry.near) for entry in listed}
        # NB: None for nearly all: to ask each call for its tier takes time.
        self._spills = min(kinds)[0] if len(kinds) > 1 else None
        if self._listeners and (joined or left):
            added, removed = len(joined), len(left)
            self.emit(EndpointsChanged(self.label, None, added, removed, len(listed)))

    def _replace_locked(
        self, effects: list[_Effect], listed: list[Listed]
    ) -> tuple[Any, Any]:
        changed = self._fleet.replace(listed, clock.now())
        effects += self._changes_locked(None)
        return changed

    # -- Where they are found

    def refresh(self) -> None:
        """Find the endpoints now.

        Raises:
            TypeError: There is no source, or it has to be awaited: see `arefresh`.
            Exception: What the source raises; the endpoints stay as they are.
        """
        self._source("refresh").refresh()

    async def arefresh(self) -> None:
        """Find the endpoints now; a plain function runs in a thread.

        Raises:
            TypeError: There is no source.
            Exception: What the source raises; the endpoints stay as they are.
        """
        await self._source("arefresh").arefresh()

    async def run(self) -> None:
        """Find the endpoints whenever that is due, and check them, until cancelled.

        Calls wait for neither then, but for the first list. It is yours to
        start, in a task of the program, and to cancel. What fails is told by
        `DiscoveryFailed`, and tried again.

        Raises:
            TypeError: There is neither a source nor a `check`.
        """
        self._refuse_to_run_idle("run")
        if self._checks is None:
            await self._source("run").run()
        elif self._discovery is None:
            await self._checks.run()
        else:
            from anyio import create_task_group

            async with create_task_group() as tasks:
                tasks.start_soon(self._discovery.run)
                tasks.start_soon(self._checks.run)

    def run_sync(self, stop: Stop) -> None:
        """Find the endpoints whenever that is due, and check them, until told.

        As `run`, in a thread of yours.

        Args:
            stop: Ends it when it is set: a `threading.Event`, or what has its
                `wait`.

        Raises:
            TypeError: There is neither a source nor a `check`, or one of them
                has to be awaited: see `run`.
        """
        self._refuse_to_run_idle("run_sync")
        discovery, checks = self._discovery, self._checks
        for waits, what in (
            (discovery is not None and discovery.source.is_async, "source"),
            (checks is not None and checks.is_async, "check"),
        ):
            if waits:
                raise TypeError(
                    f"the {what} of {self.label!r} has a coroutine function: use"
                    " `await run()`"
                )
        with nullcontext() if discovery is None else discovery.running():
            while True:
                pauses = [each.look() for each in (discovery, checks) if each]
                if stop.wait(min(pauses)):
                    return

    def _refuse_to_run_idle(self, method: str) -> None:
        if self._discovery is None and self._checks is None:
            raise TypeError(
                f"{self.label!r} has neither a source of endpoints nor a `check`:"
                f" {method}() would have nothing to do"
            )

    def _source(self, method: str) -> Discovery:
        if self._discovery is None:
            raise TypeError(
                f"{self.label!r} has the endpoints that it was given: {method}() is"
                " for a source of them, see resilient.discovery"
            )
        return self._discovery

    def _note_check(self, member: Member, good: bool) -> None:
        effects = self._run(self._note_check_locked, member, good)
        self._after_unlock(effects)

    def _note_check_locked(
        self, effects: list[_Effect], member: Member, good: bool
    ) -> list[_Effect]:
        self._fleet.note_check(member, good, clock.now())
        return self._changes_locked(None)

    def _members(self) -> list[Member]:
        return self._run(lambda effects: list(self._fleet.members.values()))

    def _tell(self, reason: str, age: float | None) -> None:
        if self._listeners:
            self.emit(DiscoveryFailed(self.label, None, reason, age))

    def _put_off(self, call: Call, retry_after: float, reason: str) -> Outcome:
        error = NoEndpointError(self.error_name(call), retry_after, 0, reason)
        return self.reject(error, call)

    # -- As every policy

    def status(self) -> dict[str, Any]:
        seen = self.endpoints
        states = [endpoint.state for endpoint in seen]
        return {
            "endpoints": {state.value: states.count(state) for state in EndpointState},
            "endpoints.least": min(
                [endpoint.success for endpoint in seen], default=None
            ),
            **({} if self._discovery is None else self._discovery.status()),
            **({} if self.check is None else {"balance.panic": self._fleet.panic}),
        }

    def reset(self) -> None:
        """Forget what is known of the endpoints; those drained stay so."""
        self._run(self._reset_locked)

    def _reset_locked(self, effects: list[_Effect]) -> None:
        self._fleet.reset(clock.now())
        effects += self._changes_locked(None)

    def is_pristine(self) -> bool:
        return self._run(lambda effects: self._fleet.is_pristine)

    def is_restrictive(self) -> bool:
        return any(member.is_out or member.unhealthy for member in self._members())


def _event_of(
    change: Returned | Checked | Panic, policy: str, name: str | None
) -> Event:
    """Return the event of a change that is no ejection."""
    if isinstance(change, Returned):
        return EndpointReturned(policy, name, change.member.endpoint.name)
    if isinstance(change, Checked):
        endpoint = change.member.endpoint.name
        return EndpointChecked(policy, name, endpoint, change.healthy)
    kind = PanicBegan if change.began else PanicEnded
    return kind(policy, name, change.healthy, change.total)


def _whole(call: Call) -> Call:
    """Return the call that a run in a task or thread of its own is part of."""
    while isinstance(call, BranchCall) and call.enclosing is not None:
        call = call.enclosing
    return call


def _undo(call: Call, run: Run, booked: dict[Any, Any] | None) -> None:
    """Take back what policies further in did for a run that did not begin."""
    if call.run is not run:
        # A breaker let it probe.
        call.run = run
    bookings = call.extras.bookings
    if bookings is None:
        return
    for limiter, booking in list(bookings.items()):
        if booked is None or booked.get(limiter) is not booking:
            booking.correct(dict.fromkeys(booking.correct({}), 0.0))
            del bookings[limiter]


def _sooner(one: Outcome, other: Outcome) -> Outcome:
    """Return the rejection that may be tried again first; drop the other."""
    if other.retry_after is not None and (
        one.retry_after is None or other.retry_after < one.retry_after
    ):
        one, other = other, one
    other.discard()
    return one
