"""One value that a fleet keeps, and the right to make it anew.

A member *asks* (`ValueAsk`) and a store answers (`Found`), at one moment of the
store's own clock, in one step that nothing interrupts. `serve` is that step, and the
specification of the script that a server runs: a test replays drawn histories
through both.

======  ================================================================
verb    what the store does
======  ================================================================
look    It says what it has. Where that is too old, or nothing, the asker
        gets the right to make it anew, unless another has it.
keep    It keeps the content, if that is no older than what it has. The
        asker's right is over.
drop    It forgets the content; the right is over.
free    The right is over.
======  ================================================================

Ground rules:

- A value is no older than the store says. It is dated by the store's clock, at a
  moment that is not after the one in which it was made (`StoreClock.time_of`).
- The right ends by itself: with a process that is killed, for example.
- A store that lost its data has no value; an old copy has an older one, with its age.
- A clock that is set forward makes values older than they are. One that is set back
  would make them younger: a member that notices believes only what was made later
  than the latest time it knew of (`StoreClock.believes`).

Deliberately not modelled: who of those that wait gets the right next; which values
go for want of room.

Source: RFC 5861 for stale values; R. Nishtala et al., *Scaling Memcache at Facebook*,
2013, section 3.2.1, for the right ("lease") and why it goes to one.
"""

from __future__ import annotations

import math
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["NOTHING", "Found", "StoreClock", "Value", "ValueAsk", "Verb", "serve"]

Verb: TypeAlias = Literal["look", "keep", "drop", "free"]

# Seconds that a delivery may take: less is no sign of a clock that was set.
_DELAY: Final = 0.25


class Value(NamedTuple):
    """What a store keeps.

    Attributes:
        content: The value; None: there is none.
        made: When it was made, by the store's clock ...
        end: ... and until when it is kept.
        holder: Who has the right to make it anew; "": no member.
        held: Until when.
    """

    content: bytes | None = None
    made: float = 0.0
    end: float = 0.0
    holder: str = ""
    held: float = 0.0

    @property
    def expires(self) -> float:
        """When nothing of it is left."""
        held = self.held if self.holder else 0.0
        return held if self.content is None else max(self.end, held)


NOTHING: Final = Value()


class ValueAsk(NamedTuple):
    """What a member asks.

    Attributes:
        verb: See the top of this module.
        id: Who asks: a call, not a process.
        fresh: Seconds; a value of that age is to be made anew.
        right: Seconds that the right is good for; 0.0: it is not wanted.
        made: When the content was made, by the store's clock.
        life: Seconds from then on for which it may be kept.
        content: What to keep.
    """

    verb: Verb
    id: str
    fresh: float = 0.0
    right: float = 0.0
    made: float = 0.0
    life: float = 0.0
    content: bytes = b""


class Found(NamedTuple):
    """What a store says.

    Attributes:
        content: What it has, to one that looks.
        age: Its age in seconds; -1.0: there is none.
        time: The store's time.
        granted: 1.0 if the asker has the right to make it anew.
    """

    content: bytes | None
    age: float
    time: float
    granted: float


def serve(value: Value, now: float, ask: ValueAsk) -> tuple[Value, Found]:
    """Answer one ask.

    NB: a script does the same, operation by operation: change both.

    Args:
        value: What the store has.
        now: The store's time, in seconds.
        ask: What is asked.

    Returns:
        What the store has then, and what it says.
    """
    content, made, end, holder, held = value
    if content is not None and not made <= now < end:
        content = None
    # NB: the right of one whose clock was set back would hold for as long.
    if now >= held or (ask.right > 0.0 and held > now + ask.right):
        holder = ""
    age, granted = -1.0, 0.0
    if ask.verb == "look":
        age = -1.0 if content is None else now - made
        old = content is None or age >= ask.fresh
        if ask.right > 0.0 and old and holder in ("", ask.id):
            granted, holder, held = 1.0, ask.id, now + ask.right
        return Value(content, made, end, holder, held), Found(
            content, age, now, granted
        )
    if holder == ask.id:
        holder = ""
    if ask.verb == "keep":
        until = ask.made + ask.life
        newer = content is None or ask.made >= made
        if ask.made <= now < until and newer:
            content, made, end = ask.content, ask.made, until
    elif ask.verb == "drop":
        content = None
    return Value(content, made, end, holder, held), Found(None, age, now, granted)


class StoreClock:
    """What one process knows of a store's clock, and whether it has the store.

    Attributes:
        members: As many as the store has seen in the last minute.
        exchanges, exchange_time: Answers, and what they took together.
        is_cut: Whether no call waits for the store.
    """

    __slots__ = (
        "_at",
        "_from",
        "_time",
        "exchange_time",
        "exchanges",
        "is_cut",
        "members",
    )

    def __init__(self) -> None:
        self.members: int = 1
        self.exchanges: int = 0
        self.exchange_time: float = 0.0
        self.is_cut: bool = False
        # The store's time in the last answer, and ours then.
        self._time, self._at = -math.inf, 0.0
        # What was made before is not believed.
        self._from = -math.inf

    def hear(self, sent: float, now: float, time: float) -> None:
        """Take note of the store's time.

        Args:
            sent: When what it answers to was sent, in monotonic seconds.
            now: When the answer came.
            time: The store's time in it.
        """
        self.exchanges += 1
        self.exchange_time += now - sent
        expected = self._time + (sent - self._at)
        # NB: answers may be taken note of in another order than they were given.
        if sent >= self._at and time < expected - _DELAY:
            self._from = max(self._from, expected)
        self._time, self._at = time, now

    def time_of(self, at: float) -> float | None:
        """Return what the store's clock read at a moment of ours, or earlier.

        None: that is not known. Never later, for the answer took its time.
        """
        return self._time + (at - self._at) if self.exchanges else None

    def believes(self, found: Found) -> bool:
        """Whether the content is no older than the store says."""
        return found.content is not None and found.time - found.age > self._from

    def cut(self, now: float) -> None:
        """Do without the store."""
        self.is_cut = True

    def restore(self) -> None:
        """Rely on it again."""
        self.is_cut = False

    def see(self, now: float, members: int) -> None:
        """Take note of how many members the store has seen in the last minute."""
        self.members = max(1, members)

    def forget(self) -> None:
        """Have the store again, as a forked child does."""
        self.restore()
