"""What a policy needs of a store, and what a store needs of a policy.

A policy that shares its state has a `Member` for it. The member tells the
store's `Link` that it has something to ask (`notify`); the link collects the
ask when it is about to send, so that whatever piled up goes in one exchange,
and delivers the answer. Where the store is lost, the link says so once to all.

A link belongs to one process. `SharedStore` is what users pass to policies: a
link, and the settings that policies of one kind may have different.
"""

from __future__ import annotations

import abc
import math
import os
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakSet, WeakValueDictionary

from resilient._events.events import Event, StoreBack, StoreLost
from resilient._machines.contact import Contact
from resilient._machines.lease import Lost
from resilient._runtimes import clock
from resilient._values.checks import count, flag, optional, seconds
from resilient._values.locks import Lock
from resilient._values.records import Configured

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Self

__all__ = [
    "Asker",
    "Crew",
    "Link",
    "Member",
    "SharedStore",
    "check_store",
    "key_start",
    "shared_name",
]

TIMEOUT: Final = 0.25
"""Seconds after which an exchange is given up, and its answer not read."""

SYNC: Final = 0.5
"""Seconds, at least, between two counts of the members."""

_NAME: Final = re.compile(r"[\w.-]{1,64}", re.ASCII)
_LOST: Final = ("share", "reject", "alone", "pass")


_LEAVING: Final = 1000
"""Members that a lost store is told of later, when it is back: a policy each."""


class Crew:
    """What is one process of those that share by a name: a member, or many.

    The policies that a PerKey has for its keys are one crew. Each has a state of its
    own in the store, and the processes that come and go are counted once for all.

    Attributes:
        key: Kind and name.
        id: Which process it is.
        members: How many there are; None: they have not been counted yet.
        counted_from: When they were counted first.
        enlisted_at: When they were counted last.
        lowered: The last `Lease.lowered` of one of its members.
    """

    __slots__ = ("counted_from", "enlisted_at", "id", "key", "lowered", "members")

    def __init__(self, key: str) -> None:
        self.key: str = key
        self.members: int | None = None
        self.counted_from: float = math.inf
        self.lowered: tuple[float, float] | None = None
        self.forget()

    def forget(self) -> None:
        """Be another process, as a forked child is."""
        self.id: str = os.urandom(8).hex()
        self.enlisted_at: float = -math.inf

    def enlists(self, now: float) -> bool:
        """Whether it is time to count the processes again, with this one."""
        if now - self.enlisted_at < SYNC:
            return False
        self.enlisted_at = now
        return True

    def is_news(self, lowered: tuple[float, float] | None) -> bool:
        """Take note of lower numbers in force; return whether to tell of them."""
        before, self.lowered = self.lowered, lowered
        return lowered is not None and lowered != before


class Asker(Protocol):
    """What asks a store, once or again and again.

    Attributes:
        key: What it shares: kind and name, and the hash of a key.
        crew: What it is counted with.
        weight: How many asks its own is worth, for the length of an exchange.
    """

    key: str
    crew: Crew
    weight: int

    def collect(self, now: float) -> Any:
        """Return what to ask now, as a `Transport` takes it; None: nothing."""
        ...

    def deliver(self, answer: Any, now: float, *, up: bool) -> None:
        """Take an answer, to what was asked; `up`: the store is to be relied on."""
        ...

    def fail(self, now: float, *, sent: bool) -> None:
        """Learn that what was asked is lost, or may be if it was sent."""
        ...

    def see(self, now: float, members: int) -> None:
        """Learn how many processes there are."""
        ...


class Member(Asker, Protocol):
    """One policy of one process, as a store sees it.

    Attributes:
        id: Which member it is of those that share it.
        beats: Whether its `beat_at` is ever before infinity.
    """

    id: str
    beats: bool

    @property
    def beat_at(self) -> float:
        """When it is to be collected from, whether or not it notifies."""
        ...

    def surrender(self, now: float) -> Any:
        """Return what to tell on leaving."""
        ...

    def cut(self, now: float) -> None:
        """Do without the store."""
        ...

    def miss(self, now: float) -> None:
        """Learn that it did not answer, the first time or again."""
        ...

    def restore(self, now: float) -> int:
        """Rely on it again; return how many calls were decided without it."""
        ...

    def emit(self, kind: type[Event], *values: Any) -> bool:
        """Tell the policy's listeners of an event; return whether it has any."""
        ...

    def forget(self) -> None:
        """Drop what belongs to the process that this one was forked from."""
        ...


class Link(abc.ABC):
    """The way to one store: its members, and whether it answers.

    A subclass sends and receives. Its methods may be called from any thread,
    with no lock held.
    """

    patience: float
    """Seconds after which an answer comes late."""

    def __init__(self) -> None:
        self._members: WeakValueDictionary[str, Member] = WeakValueDictionary()
        # Those of them whose beat has to be looked for: there may be thousands.
        self._beating: WeakValueDictionary[str, Member] = WeakValueDictionary()
        # Those to be told of before they go.
        self._leaving: deque[Member] = deque(maxlen=_LEAVING)
        self._lock = Lock()
        self._contact = Contact()
        _links.add(self)

    salt: bytes = b""
    """What the hashes of keys depend on: see `keys`."""

    @property
    def up(self) -> bool:
        """Whether the store answers, as far as is known."""
        return self._contact.up

    def join(self, member: Member) -> None:
        """Serve a member, for as long as its owner keeps it."""
        with self._lock:
            self._members[member.id] = member
            if member.beats:
                self._beating[member.id] = member

    def leave(self, member: Member) -> None:
        """Give back soon what a member holds whose owner drops it. Never blocks."""
        self._leaving.append(member)

    @abc.abstractmethod
    def notify(self, member: Asker) -> None:
        """Have an ask collected and sent soon. Never blocks."""

    next_delivery: float | None = None
    """When to `poll`, at the latest."""

    @abc.abstractmethod
    def poll(self, now: float) -> bool:
        """Deliver what is due, where no thread does; return whether there was any."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what the members hold, and end."""

    def _end(self) -> None:
        """Have no call wait for the store any more; it is not lost, so no event."""
        now = clock.now()
        # NB: first, for a member that joins meanwhile looks at it.
        self._contact.end(now)
        for member in self.members():
            member.cut(now)

    def members(self) -> list[Member]:
        """Return the members."""
        with self._lock:
            return list(self._members.values())

    def beating(self) -> list[Member]:
        """Return the members that beat."""
        with self._lock:
            return list(self._beating.values())

    def _see(self, member: Asker, now: float, counted: int) -> None:
        """Have a member and the others of its crew learn how many processes are."""
        crew = member.crew
        if crew.members == counted:
            return
        crew.members = counted
        crew.counted_from = min(crew.counted_from, now)
        member.see(now, counted)
        if member.key != crew.key:
            for other in self.members():
                if other.crew is crew:
                    other.see(now, counted)

    def _failed(self, now: float, reason: str) -> None:
        """Learn that the store did not answer."""
        self._cut(now, reason)
        for member in self.members():
            member.miss(now)

    def _cut(self, now: float, reason: str) -> None:
        """Learn that no call may wait for the store."""
        if self._contact.failed(now):
            members = self.members()
            for member in members:
                member.cut(now)
            for crew in crews_of(members).values():
                tell(crew, StoreLost, reason)

    def _answered(self, now: float, took: float = 0.0) -> bool:
        """Learn that it answered; return whether it is to be relied on."""
        if self._contact.too_late(took > self.patience):
            # NB: late is no miss: what is granted holds.
            self._cut(now, "slow")
        seconds = self._contact.answered(now)
        if seconds is not None:
            members = self.members()
            alone = {member: member.restore(now) for member in members}
            for crew in crews_of(members).values():
                tell(crew, StoreBack, seconds, sum(alone[one] for one in crew))
        return self._contact.up

    def after_fork(self) -> None:
        """Begin anew in a forked child, which has no other thread."""
        self._lock = Lock()
        self._contact = Contact()
        self._leaving.clear()
        for member in self.members():
            member.forget()


def crews_of(members: list[Member]) -> dict[Crew, list[Member]]:
    """Return the members of each crew."""
    crews: dict[Crew, list[Member]] = {}
    for member in members:
        crews.setdefault(member.crew, []).append(member)
    return crews


def tell(crew: list[Member], kind: type[Event], *values: Any) -> None:
    """Tell of an event once for a crew: by the first whose policy has listeners."""
    for member in crew:
        if member.emit(kind, *values):
            return


class SharedStore(Configured):
    """A store, as policies take it: a link to it, and their settings.

    Args:
        link: The way to it.
        patience: Seconds that a call waits for an answer at most.
        lease: Seconds that a block is good for; None: what suits each limit.
        members: Members assumed before the store has been reached.
        lost: What a policy does without the store.
        plain_keys: Whether the store sees the keys of a PerKey, or hashes of them.
    """

    __slots__ = ("lease", "link", "lost", "members", "patience", "plain_keys")

    _cures = dict.fromkeys(("link", "url", "client", "prefix"), "make another one")

    def __init__(
        self,
        link: Link,
        *,
        patience: float | timedelta = 0.05,
        lease: float | timedelta | None = None,
        members: int = 16,
        lost: Lost = "share",
        plain_keys: bool = False,
    ) -> None:
        if lost not in _LOST:
            raise ValueError(
                f'`lost` must be "share", "reject", "alone" or "pass", got {lost!r}'
            )
        self.link: Link = link
        self.patience: float = seconds("patience", patience, zero=False)
        self.lease: float | None = optional(seconds, "lease", lease)
        self.members: int = count("members", members, minimum=1)
        self.lost: Lost = lost
        self.plain_keys: bool = flag("plain_keys", plain_keys)

    def with_(self, **changes: Any) -> Self:
        """Return the same store with other settings for the policies it is given to.

        Args:
            **changes: Any of `patience`, `lease`, `members`, `lost`, `plain_keys`.

        Raises:
            TypeError, ValueError: There is no such setting, or it is out of range.
        """
        settings: dict[str, Any] = {
            "patience": self.patience,
            "lease": self.lease,
            "members": self.members,
            "lost": self.lost,
            "plain_keys": self.plain_keys,
        }
        unknown = changes.keys() - settings.keys()
        if unknown:
            raise TypeError(
                f"`with_` takes {', '.join(settings)}; got {', '.join(sorted(unknown))}"
            )
        changed = object.__new__(type(self))
        SharedStore.__init__(changed, self.link, **{**settings, **changes})
        return changed

    @property
    def up(self) -> bool:
        """Whether the store answers, as far as is known."""
        return self.link.up

    def close(self) -> None:
        """Give back what this process holds, and end the thread.

        From then on its policies do without it, as where it is lost: see `lost`.
        """
        self.link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check_store(store: object) -> None:
    """Raise TypeError if it is no store."""
    if not isinstance(store, SharedStore):
        raise TypeError(f"`shared` must be a store, got {store!r}")


def key_start(prefix: str) -> str:
    """Return what the keys on a server begin with, by the prefix of a store.

    NB: up to a brace that closes, so that all keys of a policy are in one slot of a
    cluster.
    """
    return f"{{{prefix}:v1:"


def shared_name(name: object) -> str:
    """Return the name under which policies share their state.

    Raises:
        ValueError: There is none, or it has other characters than a key may.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            "`name` of a shared policy must be 1 to 64 letters, digits, '_', '.' or"
            f" '-', got {name!r}: the fleet knows the policy by it"
        )
    return name


_links: WeakSet[Link] = WeakSet()


def _forked() -> None:
    for link in list(_links):
        link.after_fork()


if hasattr(os, "register_at_fork"):  # pragma: no branch - missing on Windows
    os.register_at_fork(after_in_child=_forked)
