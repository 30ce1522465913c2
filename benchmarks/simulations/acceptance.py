"""What the scenarios of `resilient simulate` must reproduce, on its own engine.

Each case is a scenario of `resilient.simulation`, policies to put through it, and a
figure that was published of such systems, or computed. A figure is the median of ten
seeds; the seeds are the same for all configurations of a case, and with them the
requests and service times.

Not all of them are as large as they were published: what depends on shares alone
(`threads`, `storm`) is simulated at a tenth or a fifth of the size.

Sources: M. Brooker, *Good Performance for Bad Days*, 2021 (collapse); A. Vulimiri and
others, *Low Latency via Redundancy*, CoNEXT 2013 (twice); J. Bondy and K. Nichols,
*Controlling Queue Delay*, ACM Queue 2012, and B. Maurer, *Fail at Scale*, ACM Queue
2015 (queues); A. K. Erlang, 1917 (lossy).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final, NamedTuple

from benchmarks.simulations._plot import Axis, Line, plot
from benchmarks.simulations._study import (
    Check,
    Job,
    Report,
    at_least,
    at_most,
    within,
)

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    Bulkhead,
    Gradient,
    Hedge,
    PerKey,
    Pipeline,
    Policy,
    Retry,
    Timeout,
    TimeoutExceededError,
    Vegas,
    constant,
    exponential,
)
from resilient.simulation import (
    Dependency,
    Hang,
    Outage,
    Run,
    Scenario,
    Slowdown,
    Surge,
    constant_time,
    exponential_time,
    simulate,
)

NAME: Final = "acceptance"
TITLE: Final = "What scenarios must reproduce"

SEEDS: Final = range(1, 11)


class Case(NamedTuple):
    """A scenario, what is put through it, and what is looked at.

    Attributes:
        scenario: The scenario of a configuration.
        policies: The configurations by name, made anew for each run.
        figures: What is looked at, by name.
    """

    scenario: Callable[[str], Scenario]
    policies: Mapping[str, Callable[[], Policy[Any]]]
    figures: Mapping[str, Callable[[Run], float]]


def share(begin: int, end: int) -> Callable[[Run], float]:
    """Return the share of requests of a span that was answered."""
    return lambda run: (
        sum(run.ends["answered"][begin:end]) / sum(run.offered[begin:end])
    )


def rate(begin: int, end: int) -> Callable[[Run], float]:
    """Return how many were answered a second."""
    return lambda run: sum(run.ends["answered"][begin:end]) / (end - begin)


def rejected(begin: int, end: int) -> Callable[[Run], float]:
    """Return which share of requests policies refused."""
    return lambda run: (
        sum(run.ends["rejected"][begin:end]) / sum(run.offered[begin:end])
    )


def mean_time(begin: int, end: int) -> Callable[[Run], float]:
    """Return the mean latency in milliseconds."""

    def figure(run: Run) -> float:
        found = run.latencies(begin, end)
        return 1000 * math.fsum(found) / len(found)

    return figure


def quantile(share: float, begin: int, end: int) -> Callable[[Run], float]:
    """Return the milliseconds that so large a share of answers stays below."""

    def figure(run: Run) -> float:
        found = run.latencies(begin, end)
        return 1000 * found[math.ceil(share * len(found)) - 1]

    return figure


def attempts(begin: int, end: int) -> Callable[[Run], float]:
    """Return the attempts for each request."""
    return lambda run: sum(run.attempts[begin:end]) / sum(run.offered[begin:end])


# -- Cases


def tried(attempts: int, wait: float, timeout: float) -> Callable[[], Policy[Any]]:
    """Return what makes a retry, with full jitter or at once, and no budget."""
    backoff = exponential(wait, cap=40) if wait else constant(0)
    return lambda: Pipeline(
        Retry(
            TimeoutExceededError,
            ConnectionError,
            attempts=attempts,
            within=math.inf,
            backoff=backoff,
            budget=None,
        ),
        Timeout(timeout),
    )


_CROWDED: Final = Dependency(
    servers=None,
    service=constant_time(1),
    crowding=0.01,
    network=exponential_time(0.1),
)
_THREADS: Final = Dependency(servers=None, service=constant_time(0.1))
_DOORS: Final[Mapping[str, Policy[Any] | None]] = {
    "endless FIFO": None,
    "short": Bulkhead(10, max_queue=20),
    "newest first": Bulkhead(10, max_queue=10_000, order="lifo"),
    "CoDel": AdaptiveConcurrency(AIMD(10, minimum=10, maximum=10), max_queue=10_000),
}


def _threads(deadline: float, *inside: Callable[[], Policy[Any]]) -> Policy[Any]:
    made = [make() for make in inside]
    return Pipeline(Bulkhead(100), *made, Timeout(deadline), intended=True)


def _queues(name: str) -> Scenario:
    workers = {"servers": 10, "service": constant_time(0.02)}
    return Scenario(
        "queues",
        rate=600,
        duration=20,
        clients=1,
        patience=0.5,
        dependency=Dependency(**workers, policy=_DOORS[name]),
    )


def _limited(limit: Callable[[], Any]) -> Callable[[], Policy[Any]]:
    return lambda: Pipeline(AdaptiveConcurrency(limit()), Timeout(1))


CASES: Final[Mapping[str, Case]] = {
    "collapse": Case(
        lambda name: Scenario(
            "collapse",
            rate=40,
            duration=65,
            dependency=_CROWDED,
            events=[Surge(20, 25, 2)],
        ),
        {"at once": tried(3, 0, 3), "full jitter of 20, then 40 s": tried(3, 20, 3)},
        {"answered": rate(45, 65)},
    ),
    "threads": Case(
        lambda name: Scenario(
            "threads",
            rate=100,
            duration=100,
            clients=1,
            keys=20,
            dependency=_THREADS,
            events=[Hang(0, 100, 0.05)],
        ),
        {
            "deadline 100 s": lambda: _threads(100),
            "deadline 10 s": lambda: _threads(10),
            "100 s, a quarter for a key": lambda: _threads(
                100, lambda: PerKey(lambda key: Bulkhead(25), key=len)
            ),
        },
        {"answered": share(0, 100)},
    ),
    "queues": Case(
        _queues,
        dict.fromkeys(_DOORS, lambda: Timeout(None)),
        {"of capacity": lambda run: share(5, 20)(run) * 1.2},
    ),
    "storm": Case(
        lambda name: Scenario(
            "storm",
            rate=56,
            duration=60,
            dependency=Dependency(servers=6),
            events=[Outage(10, 20)],
        ),
        {"at once": tried(2, 0, 1), "with backoff": tried(2, 0.1, 1)},
        {"attempts": attempts(40, 60)},
    ),
    "twice": Case(
        lambda name: Scenario(
            "twice",
            rate=2000 * float(name.rpartition(" ")[2]),
            duration=20,
            clients=1,
            dependency=Dependency(nodes=20, servers=1, service=exponential_time(0.01)),
        ),
        {
            f"{how} at {load}": make
            for load in (0.2, 0.4)
            for how, make in {
                "once": lambda: Timeout(None),
                "twice": lambda: Hedge(1e-6, budget=None),
            }.items()
        },
        {"mean": mean_time(2, 20)},
    ),
    "limits": Case(
        lambda name: Scenario(
            "limits",
            rate=280,
            duration=150,
            clients=1,
            dependency=Dependency(servers=20, service=constant_time(0.05)),
            events=[Surge(30, 60, 2 / 0.7), Slowdown(90, 105, 2)],
        ),
        {
            "Gradient": _limited(lambda: Gradient(20)),
            "Vegas": _limited(lambda: Vegas(20)),
        },
        {
            "of capacity": lambda run: rate(40, 60)(run) / 400,
            "p99": lambda run: quantile(0.99, 40, 60)(run) / quantile(0.99, 5, 30)(run),
            "rejected": rejected(5, 30),
        },
    ),
    "theory": Case(
        lambda name: Scenario(
            "theory",
            rate=40 if name == "lossy" else 50,
            duration=1000,
            clients=1,
            dependency=Dependency(
                servers=5, service=exponential_time(0.1), queue_limit=0
            )
            if name == "lossy"
            else Dependency(servers=1, service=exponential_time(0.01)),
        ),
        {"lossy": lambda: Timeout(None), "queue": lambda: Timeout(None)},
        {
            "lost": lambda run: 1 - share(10, 1000)(run),
            "mean": mean_time(10, 1000),
            "p99": quantile(0.99, 10, 1000),
        },
    ),
}


def jobs() -> list[Job]:
    """Every configuration of every case, with ten seeds; the longest runs first."""
    order = sorted(CASES, key=("limits", "theory", "twice").__contains__, reverse=True)
    return [
        (case, policy, seed)
        for case in order
        for policy in CASES[case].policies
        for seed in SEEDS
    ]


def run(case: str, policy: str, seed: int) -> tuple[dict[str, float], list[int]]:
    """Put a configuration through a scenario.

    Returns:
        The figures, and the answers by the second.
    """
    scenario, policies, figures = CASES[case]
    [seen] = simulate(policies[policy](), scenario(policy), seeds=[seed]).runs
    found = {name: figure(seen) for name, figure in figures.items()}
    return found, seen.ends["answered"]


def report(results: Mapping[Job, tuple[dict[str, float], list[int]]]) -> Report:
    """Hold the medians against what was published, or computed."""
    rows = [["scenario", "configuration", "figure", "median of ten", "range"]]
    medians: dict[tuple[str, str, str], float] = {}
    for name, case in CASES.items():
        for policy in case.policies:
            for figure in case.figures:
                found = [results[name, policy, seed][0][figure] for seed in SEEDS]
                middle = medians[name, policy, figure] = median(found)
                low, high = min(found), max(found)
                rows.append(
                    [name, policy, figure, f"{middle:.3g}", f"{low:.3g}–{high:.3g}"]
                )
    lines = [
        Line(policy, [(at + 0.5, float(n)) for at, n in enumerate(answered)])
        for policy in CASES["collapse"].policies
        for _, answered in [results["collapse", policy, SEEDS[0]]]
    ]
    return Report(
        rows,
        list(_checks(medians)),
        plot(
            "Answers by the second where a crowd makes itself slow, by backoff",
            Axis("seconds", 0, 65),
            Axis("answered per second", 0, 100),
            lines,
            shaded=(20, 25),
        ),
    )


def _checks(medians: Mapping[tuple[str, str, str], float]) -> list[Check]:
    waits = "full jitter of 20, then 40 s"
    once = medians["storm", "at once", "attempts"]
    backed = medians["storm", "with backoff", "attempts"]
    checks = [
        at_most(
            "collapse: answered, at once",
            medians["collapse", "at once", "answered"],
            16,
            "/s",
        ),
        at_least(f"… {waits}", medians["collapse", waits, "answered"], 38, "/s"),
        within("storm: attempts, with backoff by at once", backed / once, 1, 0.02),
    ]
    threads = zip(CASES["threads"].policies, (19, 95, 95), strict=True)
    for name, expected in threads:
        answered = 100 * medians["threads", name, "answered"]
        checks.append(within(f"threads: {name}", answered, expected, 1, " %"))
    for name in _DOORS:
        good = medians["queues", name, "of capacity"]
        judge, limit = (at_most, 0.02) if name == "endless FIFO" else (at_least, 0.94)
        checks.append(judge(f"queues: {name}, of capacity", good, limit))
    for load in (0.2, 0.4):
        alone, doubled = 10 / (1 - load), 5 / (1 - 2 * load)
        for how, time in {"once": alone, "twice": doubled}.items():
            mean = medians["twice", f"{how} at {load}", "mean"]
            checks.append(
                within(f"twice: {how}, load {load}", mean, time, 0.03 * time, " ms")
            )
    for name in CASES["limits"].policies:
        good, slow, refused = (
            medians["limits", name, figure]
            for figure in ("of capacity", "p99", "rejected")
        )
        checks += [
            at_least(f"limits: {name}, of capacity at twice the load", good, 0.95),
            at_most("… p99, of that unloaded", slow, 3),
            at_most("… rejected at 0.7 of the load", 100 * refused, 1, " %"),
        ]
    weights = [4**n / math.factorial(n) for n in range(6)]
    lost = 100 * weights[-1] / math.fsum(weights)
    queued = 20 * math.log(100)
    return [
        *checks,
        within(
            "M/M/5/5: lost", 100 * medians["theory", "lossy", "lost"], lost, 0.3, " %"
        ),
        within("M/M/1: mean", medians["theory", "queue", "mean"], 20, 0.4, " ms"),
        within(
            "… p99", medians["theory", "queue", "p99"], queued, 0.02 * queued, " ms"
        ),
    ]
