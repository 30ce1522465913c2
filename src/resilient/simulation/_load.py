"""Load: an open loop, or users that wait for each answer.

In an open loop requests come when they come, however the last one went.

A load generator that waits for answers before it asks again hides what an overload
does to those who would have asked meanwhile. Here a request is due when it is due,
and its latency counts from then.

In a closed loop a fixed number of users think, make a request and wait for its end: a
slow dependency gets fewer requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from resilient.simulation._chance import Distribution, mix, stream, uniform
from resilient.simulation._events import Surge, factor_of

Arrivals = Literal["poisson", "constant"]


class Users:
    """The users of a closed loop.

    Args:
        users: How many they are.
        think: How long each thinks before each request; None: not at all.
        seed: Of the random times.
    """

    def __init__(self, users: int, think: Distribution | None, seed: int) -> None:
        self.users = users
        self._think = think
        self._state = stream(seed, "think")

    def number(self, user: int, made: int) -> int:
        """Return the number of a user's next request, whatever others do."""
        return made * self.users + user

    def thinks(self, number: int) -> float:
        """Return the seconds that a user thinks before a request."""
        if self._think is None:
            return 0.0
        return self._think.at(uniform(mix(self._state, number)))


def moments(
    rate: float,
    duration: float,
    arrivals: Arrivals,
    surges: Sequence[Surge],
    seed: int,
) -> Iterator[float]:
    """Yield the seconds at which requests come, in order.

    Args:
        rate: Requests a second.
        duration: Seconds after which none comes.
        arrivals: "poisson": at random; "constant": at equal distances.
        surges: When there are more of them.
        seed: Of the random ones.
    """
    turns = sorted({turn for surge in surges for turn in (surge.start, surge.end)})
    turns = [turn for turn in turns if 0 < turn < duration]
    state, place, now = stream(seed, "arrivals"), 0, 0.0
    for turn in (*turns, duration):
        current = rate * factor_of(surges, now)
        while True:
            # NB: what is left of the last distance is as long, in requests, as a
            # new one; and a place is one request, whatever the rate.
            step = 1.0
            if arrivals == "poisson":
                step = -math.log1p(-uniform(mix(state, place)))
            if now + step / current >= turn:
                break
            now += step / current
            place += 1
            yield now
        place += 1
        now = turn
