"""How important a call is, and which of its class is cut first.

Ground rules:

* There are four classes, of falling importance. Work that names none is NORMAL.
* Under pressure the lowest class goes first. A class that is alone still has
  everything: priority orders, it reserves nothing.
* Within a class calls are cut by their *shed rank*, a number in [0, 1) that all
  calls of one task share, in every process: who has a lower shed rank goes first. A
  task of ten calls of which each is refused one time in ten would else fail
  two times in three, and what its other calls did would be wasted.

Source: *Site Reliability Engineering*, chapter 21, for the classes; Zhou et
al., "Overload Control for Scaling WeChat Microservices" (DAGOR), SoCC 2018,
for cutting within a class by a hash.
"""

from __future__ import annotations

from binascii import crc32
from enum import IntEnum
from typing import Final, Literal, TypeAlias

__all__ = ["PRIORITIES", "Priority", "PriorityName", "TaskPriority", "shed_rank_of"]

PriorityName: TypeAlias = Literal["critical", "normal", "sheddable", "batch"]


class Priority(IntEnum):
    """How important a call is: a greater number goes later under pressure.

    ========= ===== ========================================================
    class     rank  for
    ========= ===== ========================================================
    CRITICAL  3     what a user is waiting for, and cannot do without
    NORMAL    2     everything that says nothing
    SHEDDABLE 1     what may be left out: recommendations, prefetching
    BATCH     0     what may run at any other time
    ========= ===== ========================================================
    """

    BATCH = 0
    SHEDDABLE = 1
    NORMAL = 2
    CRITICAL = 3


PRIORITIES: Final[dict[object, Priority]] = {
    priority.name.lower(): priority for priority in reversed(Priority)
}
"""The classes by the names that users write, highest first."""


class TaskPriority:
    """What a task's calls have in common: class and shed rank. Never changed."""

    __slots__ = ("priority", "shed_rank")

    def __init__(self, priority: Priority, shed_rank: float) -> None:
        self.priority: Priority = priority
        self.shed_rank: float = shed_rank


def shed_rank_of(key: str | bytes | int) -> float:
    """Return a number in [0, 1) that is the same in every process.

    Raises:
        TypeError: The key is none of these: what is written for another
            object may differ from process to process.
    """
    if isinstance(key, bytes):
        data = key
    elif isinstance(key, (str, int)) and not isinstance(key, bool):
        data = str(key).encode("utf-8", "surrogatepass")
    else:
        # NB: the type alone: a key may be secret.
        kind = type(key).__name__
        raise TypeError(f"`key` must be a str, bytes or int, got {kind}")
    # NB: not `hash`, which differs from process to process. A CRC alone is
    # linear, and keys are often numbered: MurmurHash3's last step mends that.
    mixed = crc32(data)
    mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return (mixed ^ mixed >> 16) / 2**32
