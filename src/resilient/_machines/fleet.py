"""Choose one endpoint of a set for each call.

Ground rules:

* `Fleet.choose` picks a member and counts the call as in flight; for each
  choice `Fleet.leave` is called once, when the call's work has ended. In
  between one of `succeed`, `fail`, `push_back` and `withdraw` says how it went.
* Time is an argument, in monotonic seconds, and so is chance. Nothing is
  locked, and nothing here runs the user's code.

==============  ===========================================================
load            who is chosen
==============  ===========================================================
"latency"       the less loaded of two that were drawn in proportion to
                their weights (`endpoint_load`)
"requests"      the same, with a load that leaves the latency out
"round_robin"   each in its turn, in exact proportion to the weights
"random"        one drawn in proportion to the weights
==============  ===========================================================

Of equal loads, and of those less than 3 % apart, the first drawn is chosen. While
both mostly fail, up to three more are drawn.

A member takes no part

* while it *drains*, without exception;
* while it is ejected (`ejection`), but for one probe when its time is over;
* while it *rests*: it asked for less and said for how long;
* while it is unhealthy, by what `checks` say, unless these are ignored.

Where that leaves no member, all take part but those that drain. No more than
`max_share` of those that do not drain are ejected, the candidate counted. Hard
ejection of more moves their load to the others until these fail too.

A member that is avoided because it was tried is chosen all the same where
there is no other. Such a choice does not turn the ring of a round robin: the next in it
would get the calls of each member that fails.

With a *slow start* a member that joins others has a tenth of its weight at first,
and all of it after so many seconds, in ten steps.

With *tiers* all this holds within each tier (`tiers`), except that every tier but
the last may be ejected whole: the next takes over. With a *zone* the best member of
the zone is compared with the best of the others, whose load counts `zone_bias`
times; "round_robin" and "random" take members of the zone while any takes part.

Deliberately not modelled: comparing the failures of one with the others' (the
load does, continuously).

It is one thing, and so one module: how calls go decides who takes part, and who
takes part decides who can be chosen.

Source: M. Mitzenmacher, *The Power of Two Choices in Randomized Load
Balancing*, 2001; Envoy's outlier detection for the limit of what is ejected,
which it overshot (envoy#26877).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from math import floor, inf
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from resilient._machines.checks import Check, Checked, Panic, is_panic, noted
from resilient._machines.ejection import OUT, Eject, Ejection
from resilient._machines.endpoint_load import (
    EVEN,
    FRESH,
    POOR,
    Loads,
    Member,
    load_of,
)
from resilient._machines.proportions import (
    Turns,
    draw_other_place,
    draw_place,
    running_sums,
)
from resilient._machines.rendezvous import Affinities
from resilient._machines.tiers import Tier, candidates, tiers_of

__all__ = [
    "Change",
    "Ejected",
    "EndpointState",
    "Fleet",
    "Listed",
    "Load",
    "Returned",
    "Ticket",
]

Load: TypeAlias = Literal["latency", "requests", "round_robin", "random"]
_Draw: TypeAlias = Callable[[], float]

_DRAWS: Final = 5
"""Members drawn at most, as with Finagle's "max effort"."""

_COLDEST: Final = 0.1
"""Share of its weight that one has which has just joined, as with Envoy ..."""

_STEP: Final = 0.1
"""... and steps in which that grows, in shares of the time."""

_LONGEST_REST: Final = 60.0
"""Seconds; as long as `Retry` waits at most for a server that asks for it."""

_REMEMBERED: Final = 60.0
"""Seconds for which the state of one that left is kept, so that coming and
going washes none clean ..."""

_MOST_REMEMBERED: Final = 10_000
"""... and of how many."""


class EndpointState(Enum):
    """Whether an endpoint of a `Balance` gets calls.

    ``AVAILABLE``: it does. ``EJECTED``: not, for it has failed. ``PROBING``: it
    was ejected, and one call is finding out. ``RESTING``: it asked for less,
    and for how long. ``UNHEALTHY``: its checks fail. ``DRAINING``: it gets no
    new calls.
    """

    __module__ = "resilient"

    AVAILABLE = "available"
    EJECTED = "ejected"
    PROBING = "probing"
    RESTING = "resting"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


class Ejected(NamedTuple):
    """A member was ejected, for a time that the owner sets with `set_time`.

    Attributes:
        member: Which.
        reason: "consecutive_failures", "failure_rate", "probe_failed" or
            "probe_overdue".
        era: The era that has begun with it.
        times: How many times in a row; for the length of that time.
    """

    member: Member
    reason: str
    era: int
    times: int


class Listed(NamedTuple):
    """An endpoint that is to be in the set.

    Attributes:
        address: What tells it apart from the others.
        endpoint: What the owner keeps with it.
        weight: Its share of the calls, relative to the others'; above 0.
        tier: See `tiers`.
        near: Whether it is in the zone of the caller.
        spot: See `rendezvous`.
    """

    address: Any
    endpoint: Any
    weight: float = 1.0
    tier: int = 0
    near: bool = True
    spot: int = 0


class Returned(NamedTuple):
    """A member that was ejected takes part again."""

    member: Member


Change: TypeAlias = Ejected | Returned | Checked | Panic


class Ticket:
    """What a call has of a set: a member that counts it as in flight.

    Attributes:
        member: That member; None: the call is not in flight.
        key: What its key hashes to, 64 bits; None: it has no affinity.
    """

    __slots__ = ("key", "member")

    member: Member | None
    key: int | None

    def __init__(self) -> None:
        self.member = self.key = None

    def leave(self) -> None:
        """Count the call as no longer in flight; twice is harmless."""
        member, self.member = self.member, None
        if member is not None:
            member.in_flight -= 1


def _counted(member: Member, ticket: Ticket | None) -> Member:
    member.in_flight += 1
    if ticket is not None:
        ticket.member = member
    return member


class Fleet:
    """The set; see the module.

    Args:
        load: How one is chosen.
        rules: What ejects one; None: nothing does.
        zone_bias: How many times the load of a member counts that is not near.
        affine: Whether calls have keys.
        check: What the checks are; None: there are none.
        slow_start: Seconds in which one that joins comes to its whole weight.

    Attributes:
        members: By address; those that drain included.
        changes: What has changed, to be taken by the owner.
        panic: Whether the checks are ignored.
    """

    __slots__ = (
        "_affine",
        "_affinities",
        "_bias",
        "_changes_at",
        "_check",
        "_compares",
        "_due",
        "_gone",
        "_in_turn",
        "_loads",
        "_pool",
        "_ready",
        "_rules",
        "_slow_start",
        "_sums",
        "_tiers",
        "_turns",
        "_turns_by_tier",
        "changes",
        "load",
        "members",
        "panic",
    )

    def __init__(
        self,
        load: Load,
        rules: Eject | None,
        zone_bias: float = 1.0,
        *,
        affine: bool = False,
        check: Check | None = None,
        slow_start: float = 0.0,
    ) -> None:
        self._slow_start = slow_start
        self.load: Load = load
        self._bias = zone_bias
        self._affine = affine
        # What keys prefer, while all members that take part are of one tier.
        self._affinities: Affinities | None = None
        self.members: dict[Any, Member] = {}
        self.changes: list[Change] = []
        self._check = check
        self.panic: bool = False
        self._rules = rules
        self._loads = Loads(by_latency=load == "latency")
        self._turns: Turns[Member] = Turns()
        self._in_turn = load == "round_robin"
        self._compares = load in ("latency", "requests")
        # Who takes part, the sums of their weights, who is to be probed, and
        # when all that changes by time alone.
        self._ready: list[Member] = []
        self._sums: list[float] | None = None
        # The same, unless there is more to a choice: then none, and the tiers.
        self._pool: list[Member] = []
        self._tiers: list[Tier] = []
        self._turns_by_tier: dict[int, Turns[Member]] = {}
        self._due: list[Member] = []
        self._changes_at = inf
        # Who left, and until when that is remembered.
        self._gone: dict[Any, tuple[Member, float]] = {}

    # -- Who is in the set

    def replace(
        self, endpoints: Iterable[Listed], now: float
    ) -> tuple[list[Member], list[Member]]:
        """Have these endpoints and no others.

        Who stays keeps its state, and so does one that comes back within a
        minute. Calls in flight to one that leaves go on.

        Args:
            endpoints: No address twice.
            now: Monotonic seconds.

        Returns:
            Who has joined, and who has left.
        """
        for address, (_, until) in list(self._gone.items()):
            if now >= until:
                del self._gone[address]
        left, self.members = self.members, {}
        is_first = not left
        joined: list[Member] = []
        listed = list(endpoints)
        least = min([entry.weight for entry in listed], default=1.0)
        for entry in listed:
            address, endpoint, weight = entry[:3]
            member = left.pop(address, None)
            if member is None:
                if address in self._gone:
                    member = self._gone.pop(address)[0]
                else:
                    member = Member(address, endpoint, weight)
                    self._loads.start(member)
                    if not is_first:
                        member.joined = now
                joined.append(member)
            member.endpoint, member.weight = endpoint, weight / least
            member.share = weight
            member.tier, member.near, member.spot = entry[3:]
            self.members[address] = member
        for address, member in left.items():
            self._gone[address] = member, now + _REMEMBERED
        while len(self._gone) > _MOST_REMEMBERED:
            del self._gone[next(iter(self._gone))]
        self._interrupt_turns()
        self._sort(now)
        return joined, list(left.values())

    def drain(self, address: Any, now: float, *, draining: bool) -> None:
        """Send an endpoint no new calls; or send it some again.

        Raises:
            KeyError: There is no such endpoint.
        """
        self.members[address].draining = draining
        self._sort(now)

    def reset(self, now: float) -> None:
        """Forget all that was learnt; calls in flight go on."""
        self._loads = Loads(by_latency=self.load == "latency")
        self._gone.clear()
        for member in self.members.values():
            self._loads.start(member)
            member.resting_until = -inf
            member.checks, member.unhealthy = 0, False
            if member.is_out:
                self.changes.append(Returned(member))
            if member.ejection is not None:
                # NB: kept, for its era tells calls from before.
                member.ejection.forget(now)
        self._sort(now)

    @property
    def is_pristine(self) -> bool:
        """Whether it knows nothing, and no call is in flight."""
        return self._loads.mean is None and all(
            member.in_flight == 0
            and member.success == 1.0
            and not (member.draining or member.unhealthy)
            for member in self.members.values()
        )

    def look(self, now: float) -> list[tuple[Member, EndpointState]]:
        """Return each member, and where it stands."""
        found: list[tuple[Member, EndpointState]] = []
        for member in self.members.values():
            ejection = member.ejection
            if member.draining:
                state = EndpointState.DRAINING
            elif ejection is not None and ejection.is_out:
                out = ejection.state is OUT
                state = EndpointState.EJECTED if out else EndpointState.PROBING
            elif member.unhealthy and not self.panic:
                state = EndpointState.UNHEALTHY
            elif member.resting_until > now:
                state = EndpointState.RESTING
            else:
                state = EndpointState.AVAILABLE
            found.append((member, state))
        return found

    def known(self, member: Member, now: float) -> tuple[float, float]:
        """Return a member's share of successes and its latency, as they count now.

        NB: what is kept stays as it is: a reading must not change what is chosen.
        """
        return self._loads.known(member, now)

    @property
    def knows_latency(self) -> bool:
        """Whether there was a success from which latencies are known."""
        return self._loads.mean is not None

    # -- Choices

    def choose(
        self,
        now: float,
        draw: _Draw,
        tried: Collection[Member] = (),
        refused: Collection[Member] = (),
        ticket: Ticket | None = None,
    ) -> Member | None:
        """Return who gets the next call; it is in flight from now on.

        Args:
            now: Monotonic seconds.
            draw: Gives the next random number, uniform in [0, 1).
            tried: Members that are avoided where there is another.
            refused: Members that must not be chosen. With any, no member is
                chosen that does not take part now.
            ticket: Is given the member, in the moment in which it is counted.

        Returns:
            The member; None: there is none.
        """
        # NB: in one piece, for each call comes here: a method costs 50 ns.
        if now >= self._changes_at:
            self._sort(now)
        pool, sums = self._pool, self._sums
        if self._due or tried or refused or len(pool) < 2:
            chosen = self._choose_of_some(now, draw, tried, refused, ticket)
            return None if chosen is None else _counted(chosen, ticket)
        if self._in_turn:
            return _counted(self._turns.next(pool, draw), ticket)
        size = len(pool)
        place = int(draw() * size) if sums is None else draw_place(sums, draw())
        member = pool[place]
        if self._compares:
            if sums is None:
                other = int(draw() * (size - 1))
                if other >= place:
                    other += 1
            else:
                other = draw_other_place(sums, place, draw())
            second = pool[other]
            if now - member.sampled > FRESH:
                self._loads.fade(member, now)
            if now - second.sampled > FRESH:
                self._loads.fade(second, now)
            if member.success < POOR and second.success < POOR and size > 2:
                member = self._search(pool, sums, [place, other], now, draw)
            elif sums is not None:
                if load_of(second) < EVEN * load_of(member):
                    member = second
            elif (second.in_flight + 1) * second.cost < EVEN * (
                member.in_flight + 1
            ) * member.cost:
                # What `load_of` comes to for equal weights.
                member = second
        # NB: as in `_counted`: no interrupt comes between plain statements.
        member.in_flight += 1
        if ticket is not None:
            ticket.member = member
        return member

    def _choose_of_some(
        self,
        now: float,
        draw: _Draw,
        tried: Collection[Member],
        refused: Collection[Member],
        ticket: Ticket | None,
    ) -> Member | None:
        """Choose a member where not all are equally good for the call."""
        for place, member in enumerate(self._due):
            if member not in tried and member not in refused:
                del self._due[place]
                self._probe(member, now)
                return member
        if refused and not self._ready:
            return None
        key = None if ticket is None else ticket.key
        if key is not None and self._affinities and not tried and not refused:
            return self._affinities.choose(key)
        if self._tiers:
            drawn = draw() if self._tiers[0].until < 1.0 else 0.0
            pool = candidates(self._tiers, drawn, tried, refused)
        else:
            pool = [member for member in self._ready if member not in refused]
            if not self._ready:
                pool = self._staying()
            pool = [member for member in pool if member not in tried] or pool
        if len(pool) < 2:
            return pool[0] if pool else None
        if key is not None:
            return Affinities(pool).choose(key)
        near = [member for member in pool if member.near]
        if near and len(near) < len(pool):
            if not self._compares:
                pool = near
            else:
                best = self._best(near, now, draw)
                far = [member for member in pool if not member.near]
                other = self._best(far, now, draw)
                return other if load_of(other) * self._bias < load_of(best) else best
        if self._in_turn and self._tiers and not tried and not refused:
            return self._turns_of(pool[0].tier).next(pool, draw)
        return self._best(pool, now, draw)

    def _best(self, pool: Sequence[Member], now: float, draw: _Draw) -> Member:
        """Draw two, and return the less loaded; `choose` does the same."""
        size, sums = len(pool), running_sums(pool)
        if size == 1:
            return pool[0]
        place = int(draw() * size) if sums is None else draw_place(sums, draw())
        if not self._compares:
            return pool[place]
        if sums is None:
            other = int(draw() * (size - 1))
            other += other >= place
        else:
            other = draw_other_place(sums, place, draw())
        drawn = [place, other]
        pair = [pool[place] for place in drawn]
        for member in pair:
            if now - member.sampled > FRESH:
                self._loads.fade(member, now)
        if size > 2 and all(member.success < POOR for member in pair):
            return self._search(pool, sums, drawn, now, draw)
        first, second = pair
        return second if load_of(second) < EVEN * load_of(first) else first

    def _turns_of(self, tier: int) -> Turns[Member]:
        turns = self._turns_by_tier.get(tier)
        if turns is None:
            turns = self._turns_by_tier[tier] = Turns()
            for member in self.members.values():
                if member.tier == tier:
                    # NB: of turns in another ring.
                    member.turns = 0
        return turns

    def _interrupt_turns(self) -> None:
        self._turns.interrupt()
        for turns in self._turns_by_tier.values():
            turns.interrupt()

    def _search(
        self,
        pool: Sequence[Member],
        sums: Sequence[float] | None,
        drawn: list[int],
        now: float,
        draw: _Draw,
    ) -> Member:
        """Draw more, until one mostly succeeds or enough were drawn."""
        size = len(pool)
        while len(drawn) < min(size, _DRAWS):
            place = int(draw() * size) if sums is None else draw_place(sums, draw())
            while place in drawn:
                place = (place + 1) % size
            drawn.append(place)
            if now - pool[place].sampled > FRESH:
                self._loads.fade(pool[place], now)
            if pool[place].success >= POOR:
                break
        return min([pool[place] for place in drawn], key=load_of)

    def wait_for_another(
        self, member: Member, tried: Collection[Member], now: float
    ) -> float | None:
        """Return the seconds until another may be asked than one that rests.

        Returns:
            0.0 where some that was not tried takes part; None where all were
            tried and no other rests.
        """
        if now >= self._changes_at:
            self._sort(now)
        if any(other not in tried for other in self._ready):
            return 0.0
        rests = [
            other.resting_until - now
            for other in self._staying()
            if other is not member and other.resting_until > now
        ]
        return min(rests, default=None)

    # -- How it went

    def leave(self, member: Member) -> None:
        """Take a call back that `choose` counted as in flight."""
        member.in_flight -= 1

    def succeed(self, member: Member, era: int, now: float, latency: float) -> None:
        """Note a success that took so many seconds, of a call of that era."""
        loads = self._loads
        is_first = loads.mean is None
        loads.succeed(member, now, latency)
        if is_first:
            # What is known of one is assumed of all.
            for other in self.members.values():
                other.latency = latency
                loads.weigh(other)
        if member.ejection is not None:
            self._note_life(member, member.ejection, era, now)

    def fail(self, member: Member, era: int, now: float, latency: float) -> None:
        """Note a failure that took so many seconds, of a call of that era."""
        self._loads.fail(member, now, latency)
        if self._rules is None:
            return
        ejection = member.ejection
        if ejection is None:
            ejection = member.ejection = Ejection(self._rules)
        reason = ejection.fail(now, era)
        if reason is not None and (ejection.is_out or self._has_room_for(member)):
            self._eject(member, ejection, reason, now)

    def push_back(
        self,
        member: Member,
        era: int,
        now: float,
        latency: float,
        retry_after: float | None,
    ) -> None:
        """Note that it asked for less, and for how many seconds.

        Who answers so is alive: it is not ejected for it, and returns.
        """
        self._loads.fail(member, now, latency)
        if member.is_out and member.ejection is not None:
            self._note_life(member, member.ejection, era, now)
        if retry_after:
            rest = now + min(retry_after, _LONGEST_REST)
            member.resting_until = max(member.resting_until, rest)
            self._changes_at = now

    def withdraw(self, member: Member, era: int, now: float) -> None:
        """Forget a call that was cancelled, or whose outcome says nothing."""
        # NB: the end of a stream has no time of its own.
        member.heard = max(member.heard, now)
        if member.ejection is not None and member.ejection.withdraw(now, era):
            self._changes_at = now

    def note_check(self, member: Member, good: bool, now: float) -> None:
        """Note what a check has said of a member.

        One that is ejected and passes is probed by the next call.
        """
        assert self._check is not None
        change = noted(self._check, member, good=good)
        if change is not None:
            self.changes.append(change)
        ejection = member.ejection
        if good and ejection is not None and ejection.state is OUT:
            ejection.until = now
        self._sort(now)

    def set_time(self, change: Ejected, seconds: float) -> None:
        """Say for how many seconds a member is out that was just ejected."""
        ejection = change.member.ejection
        if ejection is not None and ejection.set_time(change.era, seconds):
            self._changes_at = -inf

    # -- Who takes part

    def _note_life(
        self, member: Member, ejection: Ejection, era: int, now: float
    ) -> None:
        if ejection.succeed(now, era):
            self._loads.readmit(member)
            self._changes_at = now
            self.changes.append(Returned(member))

    def _eject(
        self, member: Member, ejection: Ejection, reason: str, now: float
    ) -> None:
        ejection.eject(now)
        self._changes_at = now
        self.changes.append(Ejected(member, reason, ejection.era, ejection.times))

    def _probe(self, member: Member, now: float) -> None:
        ejection = member.ejection
        assert ejection is not None
        ejection.probe(now)
        self._changes_at = min(self._changes_at, ejection.until)

    def _has_room_for(self, member: Member) -> bool:
        """Whether one more may be out, that one counted."""
        staying = self._staying()
        out = sum(other.is_out for other in staying if other.tier == member.tier)
        return out < self._allowed(staying, member.tier) and member in staying

    def _allowed(self, staying: Sequence[Member], tier: int) -> int:
        """Return how many of a tier may be out at once."""
        size = sum(member.tier == tier for member in staying)
        if any(member.tier > tier for member in staying):
            # The next one takes over.
            return size
        share = 0.0 if self._rules is None else self._rules.max_share
        # NB: a third of 3 may come to a little less than 1.
        return floor(size * share + 1e-9)

    def _staying(self) -> list[Member]:
        return [member for member in self.members.values() if not member.draining]

    def _sort(self, now: float) -> None:
        """Find out who takes part now, and when that changes by time alone."""
        staying = self._staying()
        self._end_ejections(staying, now)
        if self._check is not None:
            self._look_at_checks(self._check, staying)
        ready: list[Member] = []
        self._due = []
        ends: list[float] = []
        for member in staying:
            ejection = member.ejection
            if member.unhealthy and not self.panic:
                # NB: not even to probe; a good check has it probed.
                continue
            if ejection is not None and ejection.due(now):
                self._due.append(member)
            elif ejection is not None and ejection.is_out:
                ends.append(ejection.until)
            elif member.resting_until > now:
                ends.append(member.resting_until)
            else:
                ready.append(member)
        if self._slow_start and staying and self._warm_up(staying, now):
            ends.append(now + self._slow_start * _STEP)
        self._changes_at = min(ends, default=inf)
        if ready != self._ready:
            self._interrupt_turns()
        self._ready = ready
        self._tiers, self._pool, self._sums = [], ready, running_sums(ready)
        if staying and (
            self._affine or len({(member.tier, member.near) for member in staying}) > 1
        ):
            self._tiers, self._pool = tiers_of(staying, set(ready)), []
        self._affinities = None
        if self._affine and len(self._tiers) == 1:
            self._affinities = Affinities(self._tiers[0].members)

    def _warm_up(self, staying: Sequence[Member], now: float) -> bool:
        """Give each the weight that it has now; return whether some are cold."""
        warmth = [
            max(_COLDEST, min(1.0, (now - member.joined) / self._slow_start))
            for member in staying
        ]
        weights = [
            member.share * share for member, share in zip(staying, warmth, strict=True)
        ]
        least = min(weights)
        for member, weight in zip(staying, weights, strict=True):
            member.weight = weight / least
        self._interrupt_turns()
        return min(warmth) < 1.0

    def _look_at_checks(self, rules: Check, staying: Sequence[Member]) -> None:
        panic, healthy = is_panic(rules, staying)
        if panic != self.panic:
            self.panic = panic
            self.changes.append(Panic(panic, healthy, len(staying)))

    def _end_ejections(self, staying: Sequence[Member], now: float) -> None:
        out: dict[int, list[tuple[float, Ejection, Member]]] = {}
        for member in staying:
            ejection = member.ejection
            if ejection is not None and ejection.is_out:
                if ejection.overdue(now):
                    self._eject(member, ejection, "probe_overdue", now)
                same = out.setdefault(member.tier, [])
                same.append((ejection.until, ejection, member))
        for tier, ejected in out.items():
            # Where others have left, too many may be out.
            ejected.sort(key=lambda entry: entry[0], reverse=True)
            while len(ejected) > self._allowed(staying, tier):
                _, ejection, member = ejected.pop()
                ejection.come_back(now)
                self._loads.readmit(member)
                self.changes.append(Returned(member))
