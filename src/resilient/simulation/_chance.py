"""Random numbers by what they are for, and the distributions made of them.

A number is a function of the seed and of what it is for, as in "the second attempt
of request 7", not of how many were drawn before. So two configurations that are
compared meet the same load and the same service times, though one of them asks more
often: common random numbers.

Source: the mixing function is SplitMix64's; Steele, Lea and Flood, *Fast Splittable
Pseudorandom Number Generators*, OOPSLA 2014.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping
from itertools import pairwise
from statistics import NormalDist
from typing import Protocol

import attrs

from resilient._values.checks import number
from resilient._values.checks import seconds as check_seconds

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TO_UNIT = 2.0**-53

# Of the standard normal distribution. NB: not defined at 0, so `_TO_UNIT` at least.
_INVERSE = NormalDist().inv_cdf


def mix(state: int, value: int) -> int:
    """Return the next state of a stream, one for each value."""
    mixed = (state + value * _GOLDEN + _GOLDEN) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return mixed ^ (mixed >> 31)


def stream(seed: int, purpose: str) -> int:
    """Return the state that a stream begins with."""
    return mix(mix(0, seed), int.from_bytes(purpose.encode(), "big") & _MASK)


def uniform(state: int) -> float:
    """Return the number in [0, 1) that a state stands for."""
    return (state >> 11) * _TO_UNIT


class Distribution(Protocol):
    """How long something takes: write your own with this one method."""

    def at(self, share: float) -> float:
        """Return the seconds that so large a share of all stays below.

        Args:
            share: From 0 (included) to 1 (excluded).
        """
        ...


@attrs.frozen
class _Exponential:
    mean: float

    def at(self, share: float) -> float:
        return -self.mean * math.log1p(-share)


@attrs.frozen
class _Constant:
    seconds: float

    def at(self, share: float) -> float:
        return self.seconds


@attrs.frozen
class _Uniform:
    low: float
    high: float

    def at(self, share: float) -> float:
        return self.low + (self.high - self.low) * share


@attrs.frozen
class _Lognormal:
    location: float
    scale: float

    def at(self, share: float) -> float:
        return math.exp(self.location + self.scale * _INVERSE(max(share, _TO_UNIT)))


@attrs.frozen
class _Normal:
    mean: float
    deviation: float

    def at(self, share: float) -> float:
        return abs(self.mean + self.deviation * _INVERSE(max(share, _TO_UNIT)))


@attrs.frozen
class _Quantiles:
    shares: tuple[float, ...]
    seconds: tuple[float, ...]

    def at(self, share: float) -> float:
        place = min(bisect(self.shares, share), len(self.shares) - 1)
        if place == 0:
            return self.seconds[0]
        # Along a straight line in a plot of both logarithms.
        low, high = (math.log1p(-each) for each in self.shares[place - 1 : place + 1])
        part = (math.log1p(-share) - low) / (high - low)
        begin, end = self.seconds[place - 1 : place + 1]
        return float(begin * (end / begin) ** part)


@attrs.frozen
class _Pareto:
    minimum: float
    shape: float

    def at(self, share: float) -> float:
        return float(self.minimum * (1.0 - share) ** (-1.0 / self.shape))


def constant_time(seconds: float) -> Distribution:
    """Take the same time always.

    Args:
        seconds: How long, >= 0.
    """
    return _Constant(number("seconds", seconds, minimum=0))


def uniform_time(low: float, high: float) -> Distribution:
    """Take from `low` to `high` seconds, each as likely.

    Raises:
        ValueError: `low` is negative or above `high`.
    """
    low = number("low", low, minimum=0)
    return _Uniform(low, number("high", high, minimum=low))


def exponential_time(mean: float) -> Distribution:
    """Take `mean` seconds on average, with a tail: the p99 is 4.6 times that.

    Args:
        mean: Seconds, > 0.
    """
    return _Exponential(number("mean", mean, minimum=0, exclusive=True))


def lognormal_time(median: float, p99: float) -> Distribution:
    """Take so long as two figures of a dashboard say, with a longer tail.

    Args:
        median: Seconds that half of all stay below, > 0.
        p99: Seconds that 99 % of all stay below, > `median`.
    """
    median = number("median", median, minimum=0, exclusive=True)
    p99 = number("p99", p99, minimum=median, exclusive=True)
    return _Lognormal(math.log(median), math.log(p99 / median) / _INVERSE(0.99))


def pareto_time(minimum: float, shape: float) -> Distribution:
    """Take at least `minimum` seconds, and rarely very much longer.

    Args:
        minimum: Seconds, > 0.
        shape: How fast the tail falls, > 0: a tenth of all takes more than
            ``minimum * 10 ** (1 / shape)`` seconds.
    """
    return _Pareto(
        number("minimum", minimum, minimum=0, exclusive=True),
        number("shape", shape, minimum=0, exclusive=True),
    )


def normal_time(mean: float, deviation: float) -> Distribution:
    """Take `mean` seconds give or take; what would be negative is taken as positive.

    Args:
        mean: Seconds, > 0.
        deviation: Its standard deviation in seconds, >= 0.
    """
    return _Normal(
        number("mean", mean, minimum=0, exclusive=True),
        check_seconds("deviation", deviation),
    )


def quantile_time(quantiles: Mapping[float, float]) -> Distribution:
    """Take so long as the percentiles of a dashboard say.

    Between two of them the tail is that of a power law, as it is beyond the last; what
    is below the first takes as long as that.

    Args:
        quantiles: Seconds by the share of all that stays below them, as in
            ``{0.5: 0.02, 0.99: 0.1, 0.999: 0.8}``: two at least, rising.

    Raises:
        ValueError: They are fewer, do not rise, or a share is not in [0, 1).
    """
    shares = tuple(sorted(quantiles))
    times = tuple(quantiles[share] for share in shares)
    if (
        len(shares) < 2
        or not 0 <= shares[0] <= shares[-1] < 1
        or not 0 < times[0]
        or any(high <= low for low, high in pairwise(times))
    ):
        raise ValueError(
            "`quantiles` must be two or more rising seconds > 0 by shares in [0, 1),"
            f" got {dict(quantiles)!r}"
        )
    return _Quantiles(shares, times)
