"""What is known of each endpoint of a set, and the load that makes of it.

Ground rules:

* A `Member` is one endpoint and what is known of it; `Loads` is what they have
  in common, and writes all of it.
* Time is an argument, in monotonic seconds. Nothing is locked.

Known are

* the *latency*, a moving average of successes (a tenth of each sample), and of
  failures that took longer than it. A fast failure says nothing of how long
  a good answer takes;
* the *success*, a moving average of 1 for a success and 0 for a failure or
  for pushback (three tenths of each sample).

Both fade while no sample comes (time constant 10 s): the success to 1, the
latency to the mean of the set. That mean is also what is assumed of an
endpoint that has not been called: neither 0, which would send it everything,
nor a second, which would send it nothing.

With one call at a time the load decides alone, and no calls in flight ever make
up for a difference: an endpoint that lost once would never be asked again, and
so never be known better. Therefore

* the first success of an endpoint is no sample of its latency, for it includes
  the connecting; until the second it counts as one that is forgotten;
* an endpoint is forgotten that has had no call in flight for 10 s: it succeeds, and
  takes three quarters of the mean, until a call says otherwise;
* loads that are less than 3 % apart are equal;
* a sample counts ten times the mean at most for the mean.

So whatever was bad once is tried again after ten seconds; one that stays bad gets a
call in ten seconds.

The load is ``(in flight / weight + 1) × latency / success²``, of which all but
the first factor is kept (`Member.cost`). The lowest weight of a set is 1, and
calls in flight for each unit of weight are rounded to a whole number: with one
call in flight on average, 1/3 + 1 would always lose to 0 + 1, and weights of
1 : 3 would be worth 1 : 1.7; so they are worth 1 : 2.4 to 1 : 3.2, however many
are in flight. The success counts as 0.2 at least:
an endpoint that fails is then worth as much as one with 24 calls in flight,
and takes what the good ones cannot. With a floor of 0.05 these would queue
until they time out as well.

Deliberately not modelled: kinds of errors, and quantiles of latency.

Source: Finagle, `PeakEwma`, whose peak, and whose 0 for what is idle, are left
out; the factors come from simulations (docs/explanation/simulations.md).
"""

from __future__ import annotations

from math import exp, inf
from typing import Any, Final

from resilient._machines.ejection import IN, Ejection

__all__ = ["EVEN", "FRESH", "POOR", "Loads", "Member", "load_of"]

_LATENCY_SHARE: Final = 0.1
_SUCCESS_SHARE: Final = 0.3
_MEAN_SHARE: Final = 0.02
_LONGEST: Final = 10.0
"""Sample that the mean takes as it is, in means."""

_DECAY: Final = 10.0
"""Seconds; the time constant with which knowledge fades, as linkerd's."""

_FORGOTTEN: Final = 10.0
"""Seconds without a call after which nothing is left of what was known."""

_BENEFIT: Final = 0.75
"""Latency, in those of the set, that is then assumed of one that has answered:
were it the mean, others a little faster might hold all calls for ever."""

EVEN: Final = 0.97
"""Load below which one is the less loaded of two, in that of the other: a few
hundredths say nothing, and would decide each call while all are idle."""

FRESH: Final = 0.05
"""Seconds for which fading is not computed: it would be half a percent."""

POOR: Final = 0.5
"""Success below which an endpoint is said to fail; and that of one that has
just returned."""

_FLOOR: Final = 0.2
_LEAST_LATENCY: Final = 1e-6
"""Seconds; below it calls in flight alone decide. The resolution of clocks."""


class Member:
    """One endpoint, and what is known of it.

    Attributes:
        address: What tells it apart from the others.
        endpoint: What the owner keeps with it.
        weight: Its share of the calls now; the lowest of the set's is 1.
        share: Its share of the calls once it has warmed up, as it was given.
        joined: When it joined others that were there; minus infinity: with them.
        in_flight: Calls that were sent to it and have not ended.
        latency: Seconds; see the module.
        success: From 0 to 1; see the module.
        cost: The factor of its load that is no matter of calls in flight.
        sampled: When it was last brought up to date.
        heard: When a call of it ended last; minus infinity: none has.
        answers: How many successes it has had, up to 2.
        ejection: Its state, once it has failed.
        resting_until: When it may be asked again.
        draining: Whether it gets no new calls.
        checks: How many checks in a row were good; below 0: have failed.
        unhealthy: Whether the checks say so; see `checks`.
        turns: How many turns it has had; see `proportions`.
        tier: Members of a lower one are preferred; see `tiers`.
        near: Whether it is in the zone of the caller.
        spot: 64 bits that an affinity knows it by; see `rendezvous`.
    """

    __slots__ = (
        "address",
        "answers",
        "checks",
        "cost",
        "draining",
        "ejection",
        "endpoint",
        "heard",
        "in_flight",
        "joined",
        "latency",
        "near",
        "resting_until",
        "sampled",
        "share",
        "spot",
        "success",
        "tier",
        "turns",
        "unhealthy",
        "weight",
    )

    def __init__(self, address: Any, endpoint: Any, weight: float) -> None:
        self.address: Any = address
        self.endpoint: Any = endpoint
        self.weight: float = weight
        self.share: float = weight
        self.joined: float = -inf
        self.in_flight: int = 0
        self.latency: float = 1.0
        self.success: float = 1.0
        self.cost: float = 1.0
        self.sampled: float = -inf
        self.heard: float = -inf
        self.answers: int = 0
        self.ejection: Ejection | None = None
        self.resting_until: float = -inf
        self.draining: bool = False
        self.checks: int = 0
        self.unhealthy: bool = False
        self.turns: int = 0
        self.tier: int = 0
        self.near: bool = True
        self.spot: int = 0

    @property
    def era(self) -> int:
        """The era of its ejection; goes with each call that is sent to it."""
        return 0 if self.ejection is None else self.ejection.era

    @property
    def is_out(self) -> bool:
        """Whether it is ejected."""
        return self.ejection is not None and self.ejection.state is not IN


class Loads:
    """What the members of a set have in common; see the module.

    Args:
        by_latency: Whether latency is part of the load.

    Attributes:
        mean: Seconds; the latency of the set. None before the first success.
    """

    __slots__ = ("_by_latency", "_samples", "mean")

    def __init__(self, *, by_latency: bool) -> None:
        self.mean: float | None = None
        self._samples = 0
        self._by_latency = by_latency

    def start(self, member: Member) -> None:
        """Assume of a member what is known of the others."""
        member.success = 1.0
        member.latency = 1.0 if self.mean is None else self.mean
        member.sampled = member.heard = -inf
        member.answers = 0
        self.weigh(member)

    def succeed(self, member: Member, now: float, latency: float) -> None:
        """Note a success that took so many seconds."""
        if now - member.sampled > FRESH:
            self.fade(member, now)
        if member.answers < 2:
            self._meet(member, now, latency)
            return
        member.heard = now
        member.latency += _LATENCY_SHARE * (latency - member.latency)
        if member.success < 1.0:
            self._trust(member)
        elif self._by_latency and member.latency > _LEAST_LATENCY:
            # What `weigh` comes to.
            member.cost = member.latency
        mean = self.mean or 0.0
        if self._samples < 1 / _MEAN_SHARE:
            # The plain mean, or the first of all would count for long.
            self._samples += 1
            self.mean = mean + (latency - mean) / self._samples
        else:
            # One sample of seconds must not hide for long what the set needs.
            if latency > _LONGEST * mean:
                latency = _LONGEST * mean
            self.mean = mean + _MEAN_SHARE * (latency - mean)

    def fail(self, member: Member, now: float, latency: float) -> None:
        """Note a failure that took so many seconds."""
        if now - member.sampled > FRESH:
            self.fade(member, now)
        member.heard = now
        member.success -= _SUCCESS_SHARE * member.success
        if latency > member.latency and self.mean is not None:
            member.latency += _LATENCY_SHARE * (latency - member.latency)
        self.weigh(member)

    def readmit(self, member: Member) -> None:
        """Trust a member that has just returned half."""
        member.success = POOR
        self.weigh(member)

    def fade(self, member: Member, now: float) -> None:
        """Bring what is known of a member up to date."""
        member.success, member.latency = self.known(member, now)
        member.sampled = now
        self.weigh(member)

    def known(self, member: Member, now: float) -> tuple[float, float]:
        """Return a member's share of successes and its latency, as they count now."""
        # NB: virtual time may begin after what was learnt in real time.
        kept = exp(min(0.0, (member.sampled - now) / _DECAY))
        assumed = self.mean
        if now - member.heard >= _FORGOTTEN and not member.in_flight:
            kept = 0.0
            if assumed is not None and member.answers:
                assumed *= _BENEFIT
        latency = member.latency
        if assumed is not None:
            latency = assumed + (latency - assumed) * kept
        return 1.0 - (1.0 - member.success) * kept, latency

    def _meet(self, member: Member, now: float, latency: float) -> None:
        """Note one of the first two successes of a member."""
        member.answers += 1
        if member.answers == 2:
            # NB: what was assumed of it may be the time of a first success.
            if self.mean is not None:
                member.latency = self.mean if self._samples else latency
            self.succeed(member, now, latency)
            return
        if self.mean is None:
            # For want of better; the next sample takes its place.
            self.mean = member.latency = latency
        self._trust(member)

    def _trust(self, member: Member) -> None:
        member.success += _SUCCESS_SHARE * (1.0 - member.success)
        self.weigh(member)

    def weigh(self, member: Member) -> None:
        """Work its cost out from what is known of it."""
        success = member.success
        if success < _FLOOR:
            success = _FLOOR
        cost = 1.0 / (success * success)
        if self._by_latency:
            latency = member.latency
            cost *= latency if latency > _LEAST_LATENCY else _LEAST_LATENCY
        member.cost = cost


def load_of(member: Member) -> float:
    """Return its load: what is lower is chosen."""
    return ((member.in_flight / member.weight + 0.5) // 1.0 + 1.0) * member.cost
