"""A store in memory, for tests: no server, virtual time, faults on demand."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from resilient._machines.allotment import Allotment, Claim, Grant, allot
from resilient._machines.lease import Lost
from resilient._machines.quorum import Assembly, Report, Verdict, rule_on
from resilient._machines.shared_bucket import KEEP, Answer, Ask, Bucket, answer
from resilient._machines.shared_value import NOTHING, Found, Value, ValueAsk, serve
from resilient._runtimes import clock
from resilient._sharing.store import TIMEOUT, Asker, Crew, Link, Member, SharedStore
from resilient._values.checks import seconds as seconds_argument

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["MemoryStore"]


class MemoryStore(SharedStore):
    """A store for tests, with the rules of a real one and no server.

    Two policies of one name that are given the same store are two members of
    a fleet. It answers at once and in virtual time; faults are called up.

    Args:
        patience: Seconds that a call waits for an answer at most.
        lease: Seconds that a block is good for; None: what suits each limit.
        members: Members assumed before the store has been reached.
        lost: What a policy does without it: "share" the limit among members,
            "reject" every call, use the whole limit "alone", or let all "pass".
        plain_keys: Name the keys of a `PerKey` as they are, and not by a hash.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """

    __slots__ = ()

    link: MemoryLink  # pyright: ignore[reportIncompatibleVariableOverride]  # never set

    def __init__(
        self,
        *,
        patience: float | timedelta = 0.05,
        lease: float | timedelta | None = None,
        members: int = 16,
        lost: Lost = "share",
        plain_keys: bool = False,
    ) -> None:
        super().__init__(
            MemoryLink(),
            patience=patience,
            lease=lease,
            members=members,
            lost=lost,
            plain_keys=plain_keys,
        )
        self.link.patience = self.patience

    def __repr__(self) -> str:
        return "MemoryStore()"

    def lose(self) -> None:
        """Let nothing reach it, until `recover`."""
        self.link.reachable = False

    def recover(self) -> None:
        """Let it be reached again, and answer at once."""
        self.link.reachable = True
        self.link.delay = 0.0

    def slow(self, seconds: float | timedelta) -> None:
        """Let each exchange take so long, until `recover`."""
        self.link.delay = seconds_argument("seconds", seconds)

    def forget(self) -> None:
        """Lose all data, as an empty restart and FLUSHALL do."""
        self.link.forget()

    def jump(self, seconds: float) -> None:
        """Set its clock forward, or back where `seconds` is below 0."""
        self.link.offset += seconds


class MemoryLink(Link):
    """The way to a `MemoryStore`, which is nowhere else than here."""

    def __init__(self) -> None:
        super().__init__()
        self.reachable = True
        self.delay: float = 0.0
        self.offset: float = 0.0
        self._buckets: dict[str, Bucket] = {}
        self._circuits: dict[str, Assembly] = {}
        self._slots: dict[str, Allotment] = {}
        self._values: dict[str, Value] = {}
        self._seen: dict[str, dict[str, float]] = {}
        # When it arrives, and what it does then.
        self._arriving: list[tuple[float, Callable[[float], None]]] = []

    def forget(self) -> None:
        with self._lock:
            self._buckets.clear()
            self._circuits.clear()
            self._slots.clear()
            self._values.clear()
            self._seen.clear()

    def notify(self, member: Asker) -> None:
        self._ask(member, clock.now())

    @property
    def next_delivery(self) -> float | None:  # type: ignore[override]  # not set here
        moments = [due for due, _ in self._arriving]
        moments += [one.beat_at for one in self.beating() if one.beat_at < math.inf]
        return min(moments, default=None)

    def poll(self, now: float) -> bool:
        arrived = False
        while self._happens(now):
            arrived = True
        probes = not self._contact.up and now >= self._contact.probe_at
        if probes:
            self._probe(now)
        return arrived or probes

    def _happens(self, now: float) -> bool:
        """Do what is due first, if anything is: deliver, or collect."""
        arriving = min(self._arriving, key=lambda one: one[0], default=None)
        beating = min(self.beating(), key=lambda one: one.beat_at, default=None)
        at = math.inf if arriving is None else arriving[0]
        if (
            beating is not None
            and beating.beat_at <= min(at, now)
            and self.up
            # NB: what a thread would have done by then.
            and self._ask(beating, beating.beat_at)
        ):
            return True
        if arriving is None or at > now:
            return False
        self._arriving.remove(arriving)
        arriving[1](now)
        return True

    def leave(self, member: Member) -> None:
        super().leave(member)
        if self.reachable:
            self._take_leave(clock.now(), self._leaving)

    def close(self) -> None:
        if self.reachable:
            leaving = deque([*self._leaving, *self.members()])
            self._take_leave(clock.now(), leaving)
        # NB: what is on its way would be a sign of life.
        self._arriving.clear()
        self._end()

    def _ask(self, member: Asker, now: float) -> bool:
        """Have a member ask; return whether it had something to ask."""
        try:
            ask = member.collect(now)
            if ask is not None:
                self._exchange(member, ask, now)
        except BaseException:
            # Ctrl-C on the thread of a call: it waits for no answer any more.
            member.fail(now, sent=True)
            self._failed(now, "interrupted")
            raise
        return ask is not None

    def _exchange(
        self, member: Asker, ask: Ask | Report | Claim | ValueAsk, now: float
    ) -> None:
        if not self.reachable:
            member.fail(now, sent=False)
            self._failed(now, "unreachable")
            return
        delay = self.delay
        said = self._answer(member.key, now + delay / 2, ask)
        members = None
        if member.crew.enlists(now):
            members = self._enlist(member.crew, now)

        def deliver(now: float) -> None:
            if members is not None:
                self._see(member, now, members)
            if delay > TIMEOUT:
                member.fail(now, sent=True)
                self._failed(now, "timeout")
                return
            member.deliver(said, now, up=self._answered(now, delay))

        if delay == 0.0:
            deliver(now)
        else:
            self._arriving.append((now + min(delay, TIMEOUT), deliver))

    def _probe(self, now: float) -> None:
        """Try a store that did not answer; book what was used meanwhile."""
        if not self.reachable or self.delay > self.patience:
            self._failed(now, "unreachable")
            return
        up = self._answered(now)
        self._take_leave(now, self._leaving)
        for member in self.members():
            if not up:
                self._ask(member, now)

    def _answer(
        self, key: str, now: float, ask: Ask | Report | Claim | ValueAsk
    ) -> Answer | Verdict | Grant | Found:
        """Do what a server's script does."""
        now += self.offset
        with self._lock:
            if isinstance(ask, Report):
                known = self._circuits.get(key, Assembly())
                self._circuits[key], verdict = rule_on(known, now, ask)
                return verdict
            if isinstance(ask, Claim):
                slots = self._slots.get(key, Allotment())
                self._slots[key], grant = allot(slots, now, ask)
                return grant
            if isinstance(ask, ValueAsk):
                value, found = serve(self._values.get(key, NOTHING), now, ask)
                self._values[key] = value
                return found
            bucket = self._buckets.get(key)
            if bucket is not None and now >= bucket.expires:
                bucket = None
            self._buckets[key], said = answer(bucket, now, ask)
        return said

    def _take_leave(self, now: float, leaving: deque[Member]) -> None:
        """Answer the members that leave, and take them out."""
        while leaving:
            member = leaving.popleft()
            ask = member.surrender(now)
            if ask is not None:
                self._answer(member.key, now, ask)

    def _enlist(self, crew: Crew, now: float) -> int:
        """Count the processes seen in the last minute."""
        with self._lock:
            return self._enlist_locked(crew, now)

    def _enlist_locked(self, crew: Crew, now: float) -> int:
        seen = self._seen.setdefault(crew.key, {})
        seen[crew.id] = now
        for id_, at in [*seen.items()]:
            if now - at > KEEP:
                del seen[id_]
        return len(seen)
