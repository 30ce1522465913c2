"""What happens to a dependency, or to its load, between two moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import attrs

from resilient._values.checks import number, ratio, seconds


@attrs.frozen
class Happening:
    """Something that is the matter from one second of a scenario to another.

    Attributes:
        start: Second in which it begins, >= 0.
        end: Second in which it is over, > `start`.
    """

    start: float
    end: float
    word: ClassVar[str] = ""

    def __attrs_post_init__(self) -> None:
        seconds("start", self.start)
        number("end", self.end, minimum=self.start, exclusive=True)

    def is_on(self, now: float) -> bool:
        """Whether it is the matter at a moment."""
        return self.start <= now < self.end


@attrs.frozen
class Outage(Happening):
    """What is sent is held up on the way, and all arrives at the end."""

    word: ClassVar[str] = "hold"


@attrs.frozen
class Refusal(Happening):
    """What is sent is refused at once, with the dependency's error."""

    word: ClassVar[str] = "refuse"


@attrs.frozen
class _Share(Happening):
    share: float

    def __attrs_post_init__(self) -> None:
        Happening.__attrs_post_init__(self)
        ratio("share", self.share)


@attrs.frozen
class Hang(_Share):
    """What is sent is never answered.

    Attributes:
        share: Of the keys, one at least, or without keys of all requests; in (0, 1].
    """

    share: float = 1.0
    word: ClassVar[str] = "hang"


@attrs.frozen
class Shard(_Share):
    """What is sent to a share of the nodes is refused at once.

    Of a dependency of one node it is what is sent for a share of the keys; without
    keys, a share of all requests.

    Attributes:
        share: Of the nodes or keys, in (0, 1]; it is one at least.
    """

    share: float
    word: ClassVar[str] = "shard"


@attrs.frozen
class Failing(_Share):
    """What is sent fails when its work is done.

    Attributes:
        share: Of all attempts, in (0, 1].
    """

    word: ClassVar[str] = "fail"


@attrs.frozen
class _Factor(Happening):
    factor: float

    def __attrs_post_init__(self) -> None:
        Happening.__attrs_post_init__(self)
        number("factor", self.factor, minimum=0, exclusive=True)


@attrs.frozen
class Slowdown(_Factor):
    """Work takes `factor` times as long, if it begins meanwhile."""

    word: ClassVar[str] = "slow"


@attrs.frozen
class Capacity(_Factor):
    """There are `factor` times as many servers, at least one."""

    word: ClassVar[str] = "capacity"


@attrs.frozen
class Surge(_Factor):
    """There are `factor` times as many requests."""

    word: ClassVar[str] = "load"


KINDS = (Outage, Refusal, Shard, Hang, Failing, Slowdown, Capacity, Surge)


def factor_of(events: Sequence[_Factor], now: float) -> float:
    """Return the product of the factors at a moment."""
    product = 1.0
    for event in events:
        if event.is_on(now):
            product *= event.factor
    return product
