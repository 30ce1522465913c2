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
import os
import re
from typing import TYPE_CHECKING, Any, Final, Protocol
from weakref import WeakSet, WeakValueDictionary

from resilient._machines.contact import Contact
from resilient._machines.lease import Lost
from resilient._values.checks import count, optional, seconds
from resilient._values.locks import Lock

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Self

__all__ = [
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


class Member(Protocol):
    """One policy of one process, as a store sees it.

    Attributes:
        key: What it shares: kind and name.
        id: Which member it is.
    """

    key: str
    id: str

    @property
    def beat_at(self) -> float:
        """When it is to be collected from, whether or not it notifies."""
        ...

    def collect(self, now: float) -> Any:
        """Return what to ask now, an `Ask`, `Report` or `Claim`; None: nothing."""
        ...

    def surrender(self, now: float) -> Any:
        """Return what to tell on leaving."""
        ...

    def deliver(self, answer: Any, now: float, *, up: bool) -> None:
        """Take an answer, to what was asked; `up`: the store is to be relied on."""
        ...

    def fail(self, now: float, *, sent: bool) -> None:
        """Learn that what was asked is lost, or may be if it was sent."""
        ...

    def cut(self, now: float, reason: str) -> None:
        """Do without the store, and tell why."""
        ...

    def miss(self, now: float) -> None:
        """Learn that it did not answer, the first time or again."""
        ...

    def restore(self, now: float, seconds: float) -> None:
        """Rely on it again, after so long."""
        ...

    def see(self, now: float, members: int) -> None:
        """Learn how many members there are."""
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
        self._lock = Lock()
        self._contact = Contact()
        self._enlisted: dict[str, float] = {}
        _links.add(self)

    @property
    def up(self) -> bool:
        """Whether the store answers, as far as is known."""
        return self._contact.up

    def join(self, member: Member) -> None:
        """Serve a member, for as long as its owner keeps it."""
        with self._lock:
            self._members[member.id] = member

    @abc.abstractmethod
    def notify(self, member: Member) -> None:
        """Have a member's ask collected and sent soon. Never blocks."""

    next_delivery: float | None = None
    """When to `poll`, at the latest."""

    @abc.abstractmethod
    def poll(self, now: float) -> bool:
        """Deliver what is due, where no thread does; return whether there was any."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what the members hold, and end."""

    def members(self) -> list[Member]:
        """Return the members."""
        with self._lock:
            return list(self._members.values())

    def _failed(self, now: float, reason: str) -> None:
        """Learn that the store did not answer."""
        self._cut(now, reason)
        for member in self.members():
            member.miss(now)

    def _cut(self, now: float, reason: str) -> None:
        """Learn that no call may wait for the store."""
        if self._contact.failed(now):
            for member in self.members():
                member.cut(now, reason)

    def _answered(self, now: float, took: float = 0.0) -> bool:
        """Learn that it answered; return whether it is to be relied on."""
        if self._contact.too_late(took > self.patience):
            # NB: late is no miss: what is granted holds.
            self._cut(now, "slow")
        seconds = self._contact.answered(now)
        if seconds is not None:
            for member in self.members():
                member.restore(now, seconds)
        return self._contact.up

    def _enlists(self, member: Member, now: float) -> bool:
        """Whether it is time to count the members again, with this one."""
        if now - self._enlisted.get(member.id, -SYNC) < SYNC:
            return False
        self._enlisted[member.id] = now
        return True

    def after_fork(self) -> None:
        """Begin anew in a forked child, which has no other thread."""
        self._lock = Lock()
        self._contact = Contact()
        self._enlisted = {}
        for member in self.members():
            member.forget()


class SharedStore:
    """A store, as policies take it: a link to it, and their settings.

    Args:
        link: The way to it.
        patience: Seconds that a call waits for an answer at most.
        lease: Seconds that a block is good for; None: what suits each limit.
        members: Members assumed before the store has been reached.
        lost: What a policy does without the store.
    """

    __slots__ = ("lease", "link", "lost", "members", "patience")

    def __init__(
        self,
        link: Link,
        *,
        patience: float | timedelta = 0.05,
        lease: float | timedelta | None = None,
        members: int = 16,
        lost: Lost = "share",
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

    def with_(self, **changes: Any) -> Self:
        """Return the same store with other settings for the policies it is given to.

        Args:
            **changes: Any of `patience`, `lease`, `members`, `lost`.

        Raises:
            TypeError, ValueError: There is no such setting, or it is out of range.
        """
        settings: dict[str, Any] = {
            "patience": self.patience,
            "lease": self.lease,
            "members": self.members,
            "lost": self.lost,
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
        """Give back what this process holds, and end the thread."""
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
