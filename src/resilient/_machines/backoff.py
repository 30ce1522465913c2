"""How long to wait before the next attempt.

A backoff is a frozen value: it holds its parameters and nothing about any
call, so that one object serves every call, thread and event loop. What it
needs to know is handed to `Backoff.delay`, the randomness too.

=================  =======================================================
kind               seconds after the n-th failed attempt, before jitter
=================  =======================================================
`constant`         delay
`linear`           min(cap, base + step * (n - 1))
`exponential`      min(cap, base * factor ** (n - 1))
`decorrelated`     min(cap, U(base, 3 * previous)), which is its own jitter
`delays`           the n-th value; the last one repeats
=================  =======================================================

=================  =======================================================
jitter             what becomes of d seconds
=================  =======================================================
``"full"``         U(0, d)
``"equal"``        d / 2 + U(0, d / 2)
a share s          U(d * (1 - s), d * (1 + s))
``"none"``         d
=================  =======================================================

Ground rules:

- The cap holds *after* jitter. Where the cap cuts off the upper end of a
  share the draw is made from what is left below it. Cutting the draw itself
  would send half of all clients back at exactly the cap, together, which is
  what jitter is there to prevent.
- No attempt number overflows: the millionth waits for the cap.
- A server that pushes back (429, 503 with Retry-After) is not broken but
  busy. `exponential` then begins at `pushback_base`, ten times as far off by
  default, as the AWS SDKs do for throttling; never below `base`.

Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
2015, whose simulation finds that full jitter does the least work.
"""

from __future__ import annotations

import abc
import itertools
import sys

# NB: the C base class; importing `random` itself costs milliseconds.
from _random import Random
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import Literal, TypeAlias

from resilient._values.checks import count, number, seconds
from resilient._values.records import Record

__all__ = [
    "Backoff",
    "Jitter",
    "constant",
    "decorrelated",
    "delays",
    "exponential",
    "linear",
]

Jitter: TypeAlias = Literal["full", "equal", "none"] | float
_KINDS: tuple[Jitter, ...] = ("full", "equal", "none")

_Draw: TypeAlias = Callable[[], float]

# Where a backoff that is called as a plain function gets its randomness from.
# A machine may not import the library's clock, so the owner of both assigns
# the library's random source to this name; it is looked up at each call.
random_source: _Draw = Random().random

# More delays than this are not written by hand; an endless iterable would hang.
_MOST_DELAYS = 1000

# A chain of `decorrelated` draws forgets where it began long before this.
_LONGEST_CHAIN = 64


class Backoff(abc.ABC):
    """Decides how long to wait after an attempt has failed.

    Made by `constant`, `linear`, `exponential`, `decorrelated` and `delays`.
    Calling it, ``backoff(attempt)``, gives seconds, as every function does
    that a user passes in its place.
    """

    __slots__ = ()

    def delay(
        self,
        attempt: int,
        draw: _Draw,
        *,
        previous: float | None = None,
        pushback: bool = False,
    ) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            attempt: Number of the attempt that has just failed, from 1.
            draw: Gives the next random number, uniform in [0, 1).
            previous: The wait before this attempt, in seconds; None if there
                was none. Only `decorrelated` looks at it.
            pushback: Whether the server asked for less. Only `exponential`
                looks at it.
        """
        return self._wait(attempt, draw, previous, pushback)

    def __call__(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number `attempt`."""
        return self.delay(count("attempt", attempt, minimum=1), random_source)

    @abc.abstractmethod
    def _wait(
        self, attempt: int, draw: _Draw, previous: float | None, pushback: bool
    ) -> float:
        """Answer `delay`."""


def constant(delay: float | timedelta, *, jitter: Jitter = "none") -> Backoff:
    """Wait the same time after every failure.

    Args:
        delay: Seconds; 0 for at once.
        jitter: None by default: who asks for a constant gets one.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A duration is negative, infinite or NaN, or the jitter is
            unknown.
    """
    return _Constant(seconds("delay", delay), _checked_jitter(jitter))


def linear(
    base: float | timedelta,
    *,
    step: float | timedelta,
    cap: float | timedelta,
    jitter: Jitter = "full",
) -> Backoff:
    """Wait a little longer after every failure, by the same step.

    Args:
        base: Seconds after the first failure.
        step: Seconds added for each one after it.
        cap: Seconds never exceeded, jitter included; at least `base`.
        jitter: How to spread clients that failed together.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A duration is negative, infinite or NaN, the cap is below
            the base, or the jitter is unknown.
    """
    base = seconds("base", base)
    step = seconds("step", step)
    return _Linear(base, step, _checked_cap(cap, base), _checked_jitter(jitter))


def exponential(
    base: float | timedelta = 0.1,
    *,
    factor: float = 2.0,
    cap: float | timedelta = 20.0,
    jitter: Jitter = "full",
    pushback_base: float | timedelta = 1.0,
) -> Backoff:
    """Wait `factor` times as long after every failure.

    Args:
        base: Seconds after the first failure.
        factor: By how much each further wait grows; at least 1.
        cap: Seconds never exceeded, jitter included; at least `base`.
        jitter: How to spread clients that failed together; full jitter makes
            the fewest calls (796 against 1870 without, for 100 contenders).
        pushback_base: Seconds instead of `base` where the server asked for
            less. If `base` is longer, `base` it is.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A duration is zero, negative, infinite or NaN, the factor
            is below 1, the cap below the base, or the jitter is unknown.
    """
    base = seconds("base", base, zero=False)
    return _Exponential(
        base,
        number("factor", factor, minimum=1),
        _checked_cap(cap, base),
        _checked_jitter(jitter),
        seconds("pushback_base", pushback_base, zero=False),
    )


def decorrelated(base: float | timedelta, *, cap: float | timedelta) -> Backoff:
    """Wait between `base` and three times the wait before.

    Called as a plain function it is told of no wait before, and draws the
    whole chain of waits that leads to the attempt.

    Args:
        base: Seconds that every wait lasts at least.
        cap: Seconds never exceeded; at least `base`.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: A duration is zero, negative, infinite or NaN, or the cap
            is below the base.
    """
    base = seconds("base", base, zero=False)
    return _Decorrelated(base, _checked_cap(cap, base))


def delays(iterable: Iterable[float | timedelta]) -> Backoff:
    """Wait exactly these times, one after the other; the last one repeats.

    Args:
        iterable: Seconds after the first failure, the second, and so on; at
            least one and at most 1000 values, read once, here.

    Raises:
        TypeError: The iterable is none, has no order or is text, or a value
            is no duration.
        ValueError: There are no values or too many, or one of them is
            negative, infinite or NaN.
    """
    if not _is_ordered(iterable):
        raise TypeError(f"`delays` must be a sequence of seconds, got {iterable!r}")
    values = tuple(
        seconds(f"delays[{position}]", value)
        for position, value in enumerate(itertools.islice(iterable, _MOST_DELAYS + 1))
    )
    if not values:
        raise ValueError("`delays` must have at least 1 value, got none")
    if len(values) > _MOST_DELAYS:
        raise ValueError(f"`delays` must have at most {_MOST_DELAYS} values, got more")
    return _Delays(values)


class _Constant(Record, Backoff):
    __slots__ = ("jitter", "seconds")

    seconds: float
    jitter: Jitter

    def _wait(
        self, attempt: int, draw: _Draw, previous: float | None, pushback: bool
    ) -> float:
        return _jittered(self.seconds, sys.float_info.max, self.jitter, draw)

    def __repr__(self) -> str:
        jitter = "" if self.jitter == "none" else f", jitter={self.jitter!r}"
        return f"constant({self.seconds!r}{jitter})"


class _Linear(Record, Backoff):
    __slots__ = ("base", "cap", "jitter", "step")

    base: float
    step: float
    cap: float
    jitter: Jitter

    def _wait(
        self, attempt: int, draw: _Draw, previous: float | None, pushback: bool
    ) -> float:
        wait = min(self.cap, self.base + self.step * (attempt - 1))
        return _jittered(wait, self.cap, self.jitter, draw)

    def __repr__(self) -> str:
        jitter = "" if self.jitter == "full" else f", jitter={self.jitter!r}"
        return f"linear({self.base!r}, step={self.step!r}, cap={self.cap!r}{jitter})"


class _Exponential(Record, Backoff):
    __slots__ = ("base", "cap", "factor", "jitter", "pushback_base")

    base: float
    factor: float
    cap: float
    jitter: Jitter
    pushback_base: float

    def _wait(
        self, attempt: int, draw: _Draw, previous: float | None, pushback: bool
    ) -> float:
        base = max(self.base, self.pushback_base) if pushback else self.base
        try:
            wait = min(self.cap, base * self.factor ** (attempt - 1))
        except OverflowError:  # 2.0 ** 1024 is no float, while 2.0 ** 1023 is
            wait = self.cap
        return _jittered(wait, self.cap, self.jitter, draw)

    def __repr__(self) -> str:
        factor = "" if self.factor == 2 else f", factor={self.factor!r}"
        jitter = "" if self.jitter == "full" else f", jitter={self.jitter!r}"
        pushback_base = (
            "" if self.pushback_base == 1 else f", pushback_base={self.pushback_base!r}"
        )
        return (
            f"exponential({self.base!r}{factor}, cap={self.cap!r}"
            f"{jitter}{pushback_base})"
        )


class _Decorrelated(Record, Backoff):
    __slots__ = ("base", "cap")

    base: float
    cap: float

    def _wait(
        self, attempt: int, draw: _Draw, previous: float | None, pushback: bool
    ) -> float:
        if previous is not None:
            return self._after(previous, draw)
        wait = self.base
        for _ in range(min(attempt, _LONGEST_CHAIN)):
            wait = self._after(wait, draw)
        return wait

    def _after(self, previous: float, draw: _Draw) -> float:
        # A wait that a server dictated may have been shorter than the base.
        highest = max(self.base, previous * 3)
        return min(self.cap, self.base + (highest - self.base) * draw())

    def __repr__(self) -> str:
        return f"decorrelated({self.base!r}, cap={self.cap!r})"


class _Delays(Record, Backoff):
    __slots__ = ("values",)

    values: tuple[float, ...]

    def _wait(
        self, attempt: int, draw: _Draw, previous: float | None, pushback: bool
    ) -> float:
        return self.values[min(attempt, len(self.values)) - 1]

    def __repr__(self) -> str:
        return f"delays({list(self.values)!r})"


def _is_ordered(value: object) -> bool:
    # NB: the bytes of b"12" are numbers, and a set would be read in any order.
    mistaken = (str, bytes, bytearray, Mapping, AbstractSet)
    return isinstance(value, Iterable) and not isinstance(value, mistaken)


def _jittered(wait: float, cap: float, jitter: Jitter, draw: _Draw) -> float:
    if jitter == "none":
        return wait
    if jitter == "full":
        return wait * draw()
    if jitter == "equal":
        return wait / 2 + wait / 2 * draw()
    lowest = wait * (1 - jitter)
    highest = min(cap, wait * (1 + jitter))
    # The sum never rounds up past its upper end: a draw is 1 - 2**-53 at most,
    # which takes at least as much away as rounding the difference adds.
    return lowest + (highest - lowest) * draw()


def _checked_cap(cap: float | timedelta, base: float) -> float:
    checked = seconds("cap", cap)
    if checked < base:
        raise ValueError(f"`cap` must be >= `base` ({base:g} seconds), got {cap!r}")
    return checked


def _checked_jitter(value: object) -> Jitter:
    rule = "`jitter` must be 'full', 'equal', 'none' or a share between 0 and 1"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{rule}, got {value!r}")
    for kind in _KINDS:
        if value == kind:
            return kind
    if isinstance(value, str) or not 0 < value < 1:
        raise ValueError(f"{rule}, got {value!r}")
    return float(value)
