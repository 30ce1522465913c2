"""What is aimed at, and whether it is reached."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from resilient import CircuitBreaker, RateLimiter

from . import footprint
from .rounds import Ratio, Times
from .scenes import EMPTY, GROUPS, HAND, OURS, RAISE

Scenes = dict[tuple[str, str, str], Times]
"""What was measured, by group, case and world."""

AT_ONCE = "at once"
TIMEOUT = "asyncio.timeout"


@dataclass(frozen=True)
class Target:
    """One thing to reach.

    Args:
        topic: What it is about.
        what: What is measured.
        reached: What came of it.
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
        if self.at_least:
            return self.reached.median >= self.limit
        return self.reached.median <= self.limit

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
    yield from _pipelines(measured)
    yield from _rejections(measured)
    yield from _footprints(rounds)


def _single_policies(measured: Scenes) -> Iterator[Target]:
    for name in GROUPS:
        group = GROUPS[name]
        if name in ("Pipeline", "Where it goes", "HTTP", "Every policy"):
            continue
        times = measured[name, AT_ONCE, "asyncio"]
        ratios = {
            peer: times.ratio(peer, OURS)
            for peer in group.peers
            if peer in times.rounds
        }
        equals = {one: r for one, r in ratios.items() if not group.peers[one].lacks}
        for kind, among, limit in (
            ("that promises the same", equals, 2.0),
            ("of any kind", ratios, None),
        ):
            if among and (limit or equals != ratios):
                peer = min(among, key=lambda one: among[one].median)
                yield Target(
                    name,
                    f"fastest peer {kind}",
                    among[peer],
                    limit,
                    at_least=True,
                    note=peer,
                )
        if HAND in times.rounds:
            net = times.ratio(OURS, HAND, less=EMPTY)
            yield Target(name, "net of an empty pipeline, of one by hand", net, 2.0)
            whole = times.ratio(OURS, HAND)
            yield Target(name, "whole, of one by hand", whole, 5.0)


def _timeouts(measured: Scenes) -> Iterator[Target]:
    for world in ("asyncio", "uvloop"):
        if ("Timeout", AT_ONCE, world) not in measured:
            continue
        times = measured["Timeout", AT_ONCE, world]
        net = times.ratio(OURS, TIMEOUT, less=EMPTY)
        what = f"of `asyncio.timeout`, {world}"
        yield Target("Timeout", f"net of an empty pipeline, {what}", net, 0.35)
        yield Target("Timeout", f"whole, {what}", times.ratio(OURS, TIMEOUT), 0.7)


def _pipelines(measured: Scenes) -> Iterator[Target]:
    old = sys.version_info < (3, 12)
    topic = "Seven policies"
    times = measured["Pipeline", AT_ONCE, "asyncio"]
    yield Target(
        topic, "of those by hand", times.ratio(OURS, HAND), 0.6 if old else 0.8
    )
    bare = times.ratio(OURS, TIMEOUT)
    yield Target(topic, "of one bare `asyncio.timeout`", bare, 1.2 if old else 1.7)
    for peer, limit in (
        ("stamina mix", 6.0),
        ("tenacity mix", 6.0),
        ("hyx", 4.0),
        ("pyresilience", 4.0),
    ):
        if peer in times.rounds:
            ratio = times.ratio(peer, OURS)
            yield Target(topic, f"{peer}, of ours", ratio, limit, at_least=True)
    times = measured["Pipeline", AT_ONCE, "sync"]
    topic = "Six policies, sync"
    by_hand = times.ratio(OURS, HAND)
    yield Target(topic, "of those by hand, a lock each", by_hand, 2.0)
    if "by hand, one lock" in times.rounds:
        one_lock = times.ratio(OURS, "by hand, one lock")
        yield Target(topic, "of those by hand, one lock in all", one_lock, None)


def _rejections(measured: Scenes) -> Iterator[Target]:
    for world in ("asyncio", "sync"):
        times = measured["CircuitBreaker", "rejected", world]
        ratio = times.ratio(OURS, RAISE)
        yield Target("Open circuit", f"of a `raise` by hand, {world}", ratio, 4.0)


def _footprints(rounds: int) -> Iterator[Target]:
    few = max(5, rounds // 5)
    for what, factory, limit in (
        ("a limiter", lambda key: RateLimiter(10), 400.0),
        ("a breaker", lambda key: CircuitBreaker(), 1500.0),
    ):
        weight = _exactly(footprint.bytes_a_key(factory))
        yield Target("PerKey", f"each of 100 000 keys, {what}", weight, limit, unit="B")
    topic = "10 000 calls in flight"
    weight = _exactly(footprint.bytes_in_flight())
    yield Target(topic, "memory over a bare call", weight, 3200.0, unit="B")
    took = footprint.seconds_in_flight(few, collecting=True)
    yield Target(topic, "of the bare calls' time", took, 2.0)
    took = footprint.seconds_in_flight(few, collecting=False)
    yield Target(topic, "the same, without garbage collection", took, None)
    took = footprint.import_times(few)
    yield Target("import resilient", "of `import attrs`", took, 1.5)
    loaded = _exactly(len(footprint.loaded()))
    what = "modules that are loaded needlessly"
    yield Target("import resilient", what, loaded, 0.0, unit="")
    for what, ratio in asyncio.run(footprint.growth(rounds)).items():
        yield Target("Growth", what, ratio, None if what == footprint.BY_HAND else 1.1)
