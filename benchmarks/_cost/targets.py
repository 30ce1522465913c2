"""What is aimed at, and whether it is reached."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from resilient import CircuitBreaker, RateLimiter, Retry

from . import footprint, ours
from .rounds import Ratio, Times
from .scenes import (
    AT_ONCE,
    BULKHEAD,
    EMPTY,
    FOR_THREADS,
    GROUPS,
    HAND,
    MANY,
    NO_OP,
    OURS,
    RAISE,
    REJECTING,
    WITHOUT,
)

Scenes = dict[tuple[str, str, str], Times]
"""What was measured, by group, case and world."""

TIMEOUT = "asyncio.timeout"
LONE = (
    "Retry",
    "CircuitBreaker",
    "RateLimiter",
    "Bulkhead",
    "Timeout",
    "Fallback",
    "PerKey",
    "StaleCache",
)
"""The groups that are one policy."""


@dataclass(frozen=True)
class Target:
    """One thing to reach.

    Args:
        topic: What it is about.
        what: What is measured.
        reached: The figure that was measured.
        limit: What is aimed at; None: nothing, it is told for comparison.
        at_least: Whether more is better.
        unit: Of both.
        note: Who it is, where that depends on what was measured.
    """

    topic: str
    what: str
    reached: Ratio
    limit: float | None
    at_least: bool = False
    unit: str = "×"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median reaches it; None: nothing is aimed at."""
        if self.limit is None:
            return None
        median = self.reached.median
        return median >= self.limit if self.at_least else median <= self.limit

    @property
    def aim(self) -> str:
        """The limit in words."""
        if self.limit is None:
            return ""
        return f"{'≥' if self.at_least else '≤'} {self.limit:g} {self.unit}"


def _exactly(value: float) -> Ratio:
    return Ratio(value, value, value)


def judge(measured: Scenes, rounds: int) -> Iterator[Target]:
    """Compare what was measured with what is aimed at, and measure the rest."""
    yield from _single_policies(measured)
    yield from _timeouts(measured)
    yield from _balances(measured)
    yield from _pipelines(measured)
    yield from _rejections(measured)
    yield from _servers(measured)
    yield from _footprints(rounds)


def _of(topic: str, what: str, times: Times, other: str, limit: float | None) -> Target:
    """How much dearer ours is than another."""
    return Target(topic, what, times.ratio(OURS, other), limit)


def _dearer(
    topic: str, what: str, times: Times, peer: str, limit: float | None, note: str = ""
) -> Target:
    """How much dearer another is than ours."""
    ratio = times.ratio(peer, OURS)
    return Target(topic, what, ratio, limit, at_least=True, note=note)


def _net(name: str, what: str, times: Times, under: str, limit: float | None) -> Target:
    """What a policy adds to a pipeline, of what another takes."""
    net = times.ratio(OURS, under, less=EMPTY)
    return Target(name, f"net of an empty pipeline, {what}", net, limit)


def _single_policies(measured: Scenes) -> Iterator[Target]:
    for name in LONE:
        group = GROUPS[name]
        times = measured[name, AT_ONCE, "asyncio"]
        ratios = {
            peer: times.ratio(peer, OURS)
            for peer in group.peers
            if peer in times.rounds and peer != FOR_THREADS
        }
        equals = {
            rival: r for rival, r in ratios.items() if not group.peers[rival].lacks
        }
        for kind, among, limit in (
            ("that promises the same", equals, 2.0),
            ("of any kind", ratios, None),
        ):
            if among and (limit or equals != ratios):
                peer = min(among, key=lambda rival: among[rival].median)
                yield _dearer(name, f"fastest peer {kind}", times, peer, limit, peer)
        if HAND in times.rounds:
            yield _net(name, "of one by hand", times, HAND, 2.0)
            yield _of(name, "whole, of one by hand", times, HAND, 5.0)
        if FOR_THREADS in times.rounds:
            yield _net(name, "of one by hand with a lock", times, FOR_THREADS, None)


def _timeouts(measured: Scenes) -> Iterator[Target]:
    for world in ("asyncio", "uvloop"):
        if ("Timeout", AT_ONCE, world) not in measured:
            continue
        times = measured["Timeout", AT_ONCE, world]
        what = f"of `asyncio.timeout`, {world}"
        yield _net("Timeout", what, times, TIMEOUT, 0.35)
        yield _of("Timeout", f"whole, {what}", times, TIMEOUT, 0.7)


def _balances(measured: Scenes) -> Iterator[Target]:
    for world in ("asyncio", "sync"):
        times = measured["Balance", AT_ONCE, world]
        # NB: 2.5 of what a Bulkhead took while it was a coroutine; of today's, 2.8.
        net = times.ratio(OURS, BULKHEAD, less=EMPTY, under_less=EMPTY)
        what = f"net of an empty pipeline, of our Bulkhead, {world}"
        yield Target("Balance", what, net, 2.8)
        many = times.whole(MANY, OURS)
        yield Target("Balance", f"300 endpoints, of three, {world}", many, 1.15)
    weight = _exactly(footprint.bytes_an_endpoint())
    what = "memory, each of 10 000 endpoints"
    yield Target("Balance", what, weight, 600.0, unit="B")
    times = measured["HTTP, balanced", AT_ONCE, "asyncio"]
    what = "a transport with it, of one without, httpx"
    yield Target("Balance", what, times.whole(OURS, WITHOUT), 1.05)


def _pipelines(measured: Scenes) -> Iterator[Target]:
    old = sys.version_info < (3, 12)
    topic = "Seven policies"
    times = measured["Pipeline", AT_ONCE, "asyncio"]
    for what, other, limit in (
        ("of those by hand", HAND, 0.6 if old else 0.8),
        ("of one bare `asyncio.timeout`", TIMEOUT, 1.2 if old else 1.7),
    ):
        yield _of(topic, what, times, other, limit)
    for peer, limit in (
        ("stamina mix", 6.0),
        ("tenacity mix", 6.0),
        ("hyx", 4.0),
        ("pyresilience", 4.0),
    ):
        if peer in times.rounds:
            yield _dearer(topic, f"{peer}, of ours", times, peer, limit)
    times = measured["Pipeline", AT_ONCE, "sync"]
    topic = "Six policies, sync"
    yield _of(topic, "of those by hand, a lock each", times, HAND, 2.0)


def _rejections(measured: Scenes) -> Iterator[Target]:
    for world in ("asyncio", "sync"):
        times = measured["CircuitBreaker", "rejected", world]
        what = f"of a `raise` by hand, {world}"
        yield _of("Open circuit", what, times, RAISE, 4.0)


def _servers(measured: Scenes) -> Iterator[Target]:
    times = measured["ASGI", AT_ONCE, "asyncio"]
    topic = "ASGI middleware"
    if NO_OP in times.rounds:
        yield _of(topic, "of a no-op `BaseHTTPMiddleware`", times, NO_OP, 0.25)
    rejected = times.ratio(REJECTING, OURS, less=None)
    what = "a rejection, of what it adds to a request that is served"
    yield Target(topic, what, rejected, 0.5)


def _footprints(rounds: int) -> Iterator[Target]:
    few = max(5, rounds // 5)
    for what, factory, limit in (
        ("a limiter", lambda key: RateLimiter(10), 400.0),
        ("a breaker", lambda key: CircuitBreaker(), 1500.0),
    ):
        weight = _exactly(footprint.bytes_a_key(factory))
        yield Target("PerKey", f"each of 100 000 keys, {what}", weight, limit, unit="B")
    topic = "10 000 calls in flight"
    for what, policy, limit in (
        ("memory over a bare call", ours.pipeline(room=2 * footprint.CROWD), 3200.0),
        ("the same, `Retry` alone", Retry(OSError), None),
    ):
        weight = _exactly(footprint.bytes_in_flight(policy))
        yield Target(topic, what, weight, limit, unit="B")
    for what, collecting, limit in (
        ("of the bare calls' time", True, 2.0),
        ("the same, without garbage collection", False, None),
    ):
        took = footprint.seconds_in_flight(few, collecting=collecting)
        yield Target(topic, what, took, limit)
    took = footprint.import_times(few)
    yield Target("import resilient", "of `import attrs`", took, 1.5)
    loaded = _exactly(len(footprint.loaded()))
    what = "modules that are loaded needlessly"
    yield Target("import resilient", what, loaded, 0.0, unit="")
    for what, ratio in asyncio.run(footprint.growth(rounds)).items():
        others = what == footprint.BY_HAND or footprint.COLD in what
        limit = None if others else 1.1
        yield Target("Growth", what, ratio, limit)
