"""Balancing: where calls go while some of the replicas are slow, dead or hang.

Clients, each with a `Balance` of its own, send requests that come as a Poisson
process to servers of four workers and one queue. The servers need 20 ms on
average, exponentially distributed; together they are used to 60 % unless said
otherwise. A client waits for 1 s; the server works on all the same.

Modelled are servers that are ten times slower, that fail within 1 ms, that
never answer, that fail some requests, and one that is cold: ten times slower
until it has been asked 400 times.

The demo that tower publishes for its balancers is a closed loop: 50 requests at
a time, 50 000 in all, to ten endpoints that need up to 1 ms … 1 s, uniformly.

Source: the figures are those of the simulation that fixed the defaults of
`Balance`, made with a model of the policy; here the policy itself runs. Tower's
are in tower-rs/tower#76.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import heapreplace
from itertools import count
from random import Random
from statistics import mean, median
from typing import Any, Final, NamedTuple
from warnings import catch_warnings, simplefilter

from benchmarks.simulations._load import open_loop, poisson
from benchmarks.simulations._plot import Axis, Line, plot
from benchmarks.simulations._study import (
    Job,
    Report,
    at_least,
    at_most,
    between,
    run_simulation,
)

from resilient import Balance, Eject, Endpoint, Pipeline, Retry, Timeout, constant

NAME: Final = "balancing"
TITLE: Final = "Balancing between replicas"

WORKERS: Final = 4
SERVICE: Final = 0.020
TIMEOUT: Final = 1.0
COLD: Final = 400
"""Requests to a cold server until it is warm."""

LOADS: Final = ("latency", "requests", "round_robin", "random")
IN_FLIGHT: Final = (0.02, 1.0, 10.0, 100.0)

REQUESTS: Final = 50_000
TOWER: Final = (1, 10, 10, 10, 10, 100, 100, 100, 100, 1000)
"""The most milliseconds that each endpoint of tower's demo needs."""


class FailedError(Exception):
    """What a server answers that fails."""


class Scene(NamedTuple):
    """What is simulated.

    Attributes:
        servers: How many.
        bad: How many of them are bad ...
        how: ... and what is wrong: "slow", "fails", "hangs" or "cold".
        errors: Share of the requests that the bad ones fail.
        clients: How many.
        use: Share of what the servers can do at most.
        until: Seconds ...
        warm: ... of which the first so many are not counted.
        load: The argument of the `Balance`.
        attempts: Of the `Retry` around it.
        half: Whether up to half of the servers may be ejected.
        zone: How many of the servers are in the clients' zone; 0: no zones.
    """

    servers: int = 3
    bad: int = 0
    how: str = ""
    errors: float = 0.0
    clients: int = 4
    use: float = 0.6
    until: float = 70.0
    warm: float = 10.0
    load: Any = "latency"
    attempts: int = 1
    half: bool = False
    zone: int = 0


class Result(NamedTuple):
    """The results of the requests after the warm-up.

    Attributes:
        good: Share of them that was answered in time.
        latencies: Quantiles of those, in ms: a half, 0.99 and 0.999.
        shares: What each server got, in shares of its fair share.
    """

    good: float
    latencies: tuple[float, float, float]
    shares: tuple[float, ...]


MANY = Scene(servers=30, until=20.0, warm=8.0)
THOUSANDS = Scene(servers=300, clients=30, until=8.0, warm=4.0)
TEN = Scene(servers=10, clients=3, how="fails")
ZONES = Scene(servers=9, zone=3, how="fails")

SCENES: Final[dict[str, tuple[Scene, Sequence[int]]]] = {
    "healthy": (Scene(), (1, 2, 3)),
    "healthy, round robin": (Scene(load="round_robin"), (1, 2, 3)),
    "one 10 × slower": (Scene(bad=1, how="slow"), (1, 2, 3)),
    "one fails": (Scene(bad=1, how="fails"), (1, 2, 3)),
    "one hangs": (Scene(bad=1, how="hangs"), (1, 2, 3)),
    "one of 30 fails": (MANY._replace(bad=1, how="fails"), (1, 2)),
    "one of 300 fails": (THOUSANDS._replace(bad=1, how="fails"), (1,)),
    "one of 10 fails, 40 clients": (
        Scene(servers=10, clients=40, bad=1, how="fails"),
        (1, 2, 3),
    ),
    "one of 2 fails": (Scene(servers=2, use=0.4, bad=1, how="fails"), (1, 2, 3)),
    "one fails 30 %": (Scene(bad=1, errors=0.3), (1, 2, 3)),
    **{
        f"one fails 30 %, a retry, {load}": (
            Scene(bad=1, errors=0.3, load=load, attempts=2),
            (1,),
        )
        for load in LOADS
    },
    "all fail 0.05 %": (Scene(bad=3, errors=0.0005, use=0.75), (1, 2, 3)),
    "healthy, by requests": (Scene(load="requests", use=0.75), (1, 2, 3)),
    **{f"{bad} of 10 fail": (TEN._replace(bad=bad), (1,)) for bad in (3, 5, 7)},
    **{
        f"{bad} of 10 fail, half ejected": (
            TEN._replace(bad=bad, half=True, until=40.0),
            (1,),
        )
        for bad in (3, 5, 7)
    },
    **{
        f"one fails, a retry, {load}": (
            Scene(bad=1, how="fails", use=0.5, load=load, attempts=2),
            (1,),
        )
        for load in LOADS
    },
    **{
        f"a zone of 3 of 9 at {100 * use:.0f} %": (ZONES._replace(use=use / 3), (1,))
        for use in (0.5, 0.9, 1.5)
    },
    "a zone of 3 of 9 at 50 %, 2 of it fail": (
        ZONES._replace(use=0.5 / 3, bad=2),
        (1,),
    ),
}


def jobs() -> list[Job]:
    """The longest first."""
    return [
        *[
            ("scene", name, seed)
            for name, (_, seeds) in SCENES.items()
            for seed in seeds
        ],
        *[("tower", load, seed) for load in LOADS[:3] for seed in (1, 2, 3)],
        *[("cold", "", seed) for seed in (1, 2, 3)],
        *[("weights", (n, busy), 1) for n in (2, 10) for busy in IN_FLIGHT],
    ]


def run(what: str, which: Any, seed: int) -> Any:
    """Run a scene, tower's demo, a server that joins cold, or weights."""
    if what == "scene":
        return simulate(SCENES[which][0], seed, which)
    runs: dict[str, Callable[..., Any]] = {
        "tower": partial(_tower, which),
        "cold": _cold,
        "weights": partial(_weights, which),
    }
    return run_simulation(runs[what], Random(f"{which} {seed}"), seed=seed)


def simulate(scene: Scene, seed: int, name: str = "") -> Result:
    """Run a scene."""
    return run_simulation(_scene, scene, Random(f"{name} {seed}"), seed=seed)


class Server:
    """A server: workers, a queue, and what may be wrong with it."""

    def __init__(self, random: Random, how: str = "", errors: float = 0.0) -> None:
        self._random = random
        self._how = how
        self._errors = errors
        # When each worker has done what it was given.
        self._free = [0.0] * WORKERS
        # Of a cold one.
        self._asked = 0
        self._workers = asyncio.Semaphore(WORKERS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self) -> None:
        """Answer, or fail."""
        if self._how == "hangs":
            await asyncio.Event().wait()
        if self._how == "fails" or self._random.random() < self._errors:
            await asyncio.sleep(0.001)
            raise FailedError
        service = self._random.expovariate(1 / SERVICE)
        if self._how == "cold":
            self._asked += 1
            task = asyncio.create_task(self._serve_cold(service))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.shield(task)
            return
        if self._how == "slow":
            service *= 10
        now = asyncio.get_running_loop().time()
        end = max(now, self._free[0]) + service
        heapreplace(self._free, end)
        await asyncio.sleep(end - now)

    async def _serve_cold(self, service: float) -> None:
        # NB: how warm it is shows when a worker begins, not when it is asked.
        async with self._workers:
            await asyncio.sleep(service * (10 if self._asked < COLD else 1))


async def _scene(scene: Scene, random: Random) -> Result:
    servers = [
        Server(random, scene.how, scene.errors)
        if number < scene.bad
        else Server(random)
        for number in range(scene.servers)
    ]
    return await _measure(scene, random, servers)


async def _measure(
    scene: Scene,
    random: Random,
    servers: list[Server],
    change: Callable[[list[Balance[int]]], None] | None = None,
) -> Result:
    loop = asyncio.get_running_loop()
    asked: Counter[int] = Counter()
    latencies: list[float] = []
    good = every = 0

    def client() -> tuple[Balance[int], Any]:
        with catch_warnings():
            simplefilter("ignore")
            near = [Endpoint(n, zone="near") for n in range(scene.zone)]
            balance: Balance[int] = Balance(
                *near,
                *range(scene.zone, scene.servers),
                load=scene.load,
                zone="near" if scene.zone else None,
                eject=Eject(max_share=0.5) if scene.half else Eject(),
            )
        retry = Retry(
            FailedError,
            TimeoutError,
            attempts=scene.attempts,
            backoff=constant(0),
            budget=None,
        )

        @Pipeline(retry, balance, Timeout(TIMEOUT))
        async def ask() -> None:
            if loop.time() - start >= scene.warm:
                asked[balance.current] += 1
            await servers[balance.current].ask()

        return balance, ask

    clients = [client() for _ in range(scene.clients)]
    start = loop.time()

    async def request(due: float) -> None:
        nonlocal good, every
        _, ask = random.choice(clients)
        try:
            await ask()
        except (FailedError, TimeoutError):
            answered = False
        else:
            answered = True
        if due - start >= scene.warm:
            every += 1
            if answered:
                good += 1
                latencies.append(loop.time() - due)

    if change is not None:
        loop.call_at(start + scene.warm - 15.0, change, [each for each, _ in clients])
    rate = scene.use * scene.servers * WORKERS / SERVICE
    await open_loop(poisson(rate, start + scene.until, random, start), request)
    latencies.sort()
    total = sum(asked.values())
    return Result(
        good / every,
        (_ms(latencies, 0.5), _ms(latencies, 0.99), _ms(latencies, 0.999)),
        tuple([asked[n] * len(servers) / total for n in range(len(servers))]),
    )


def _ms(ordered: Sequence[float], share: float) -> float:
    return 1000 * ordered[int(share * len(ordered))]


async def _cold(random: Random) -> float:
    """Return what a cold server has, of its fair share, 15 s after it joined."""
    scene = Scene(use=1.1, until=40.0, warm=35.0)

    def join(balances: list[Balance[int]]) -> None:
        for balance in balances:
            balance.replace(range(4))

    servers = [*[Server(random) for _ in range(3)], Server(random, "cold")]
    result = await _measure(scene, random, servers, join)
    return result.shares[3]


async def _tower(load: Any, random: Random) -> tuple[float, float, float]:
    """Return tower's figures: seconds in all, and two quantiles in ms."""
    loop = asyncio.get_running_loop()
    balance = Balance(*range(len(TOWER)), load=load)
    latencies: list[float] = []
    numbers = count()

    @balance
    async def ask() -> None:
        # NB: less than a millisecond is not to be had from its timer.
        latency = max(1.0, random.uniform(0, TOWER[balance.current]))
        await asyncio.sleep(latency / 1000)

    async def client() -> None:
        while next(numbers) < REQUESTS:
            began = loop.time()
            await ask()
            latencies.append(loop.time() - began)

    start = loop.time()
    await asyncio.gather(*[client() for _ in range(50)])
    took = loop.time() - start
    latencies.sort()
    return took, _ms(latencies, 0.99), _ms(latencies, 0.999)


async def _weights(which: tuple[int, float], random: Random) -> float:
    """Return how many calls a weight of 3 gets for one of a weight of 1.

    So many are in flight on average, for 20 ms each, on whichever server.
    """
    servers, busy = which
    asked: Counter[bool] = Counter()
    balance: Balance[int] = Balance(
        *[Endpoint(n, weight=3.0 if n % 2 else 1.0) for n in range(servers)],
        load="requests",
    )

    @balance
    async def ask() -> None:
        asked[balance.current % 2 == 1] += 1
        await asyncio.sleep(random.expovariate(1 / SERVICE))

    async def request(due: float) -> None:
        await ask()

    start = asyncio.get_running_loop().time()
    rate = busy / SERVICE
    await open_loop(poisson(rate, start + 10_000 / rate, random, start), request)
    return asked[True] / asked[False]


def report(results: Mapping[Job, Any]) -> Report:
    """Hold what was measured against the model, medians over seeds."""
    seen = {name: _median(results, name, seeds) for name, (_, seeds) in SCENES.items()}

    def good(name: str) -> float:
        return 100 * seen[name].good

    def p99(name: str) -> float:
        return seen[name].latencies[1]

    tower = {
        load: [
            median([results["tower", load, seed][n] for seed in (1, 2, 3)])
            for n in range(3)
        ]
        for load in LOADS[:3]
    }
    cold = median([results["cold", "", seed] for seed in (1, 2, 3)])
    weights = {
        n: [results["weights", (n, busy), 1] for busy in IN_FLIGHT] for n in (2, 10)
    }
    retried = [good(f"one fails 30 %, a retry, {load}") for load in LOADS]
    uneven = max(
        [
            max(shares) / min(shares) - 1
            for load in LOADS
            for shares in [seen[f"one fails, a retry, {load}"].shares[1:]]
        ]
    )
    local = 100 * sum(seen["a zone of 3 of 9 at 50 %"].shares[:3]) / 9
    healthy = seen["healthy"]
    checks = [
        at_most("tower's demo", tower["latency"][0], 15.5, " s"),
        at_most("… p99", tower["latency"][1], 100, " ms"),
        at_most("… p99.9", tower["latency"][2], 200, " ms"),
        between("… by requests", [tower["requests"][0]], 17.7, 18.7, " s"),
        between("… by requests, p99.9", [tower["requests"][2]], 828, 888, " ms"),
        between("… in turn", [tower["round_robin"][0]], 70.8, 74.8, " s"),
        at_most(
            "healthy: p99, of that in turn",
            p99("healthy") / p99("healthy, round robin"),
            1.06,
        ),
        at_most("healthy: the largest share", max(healthy.shares), 1.05),
        at_least("10 × slower: answered", good("one 10 × slower"), 99.9, " %"),
        at_most("10 × slower: p99", p99("one 10 × slower"), 220, " ms"),
        at_most("10 × slower: its share", seen["one 10 × slower"].shares[0], 0.10),
        at_least("one of 3 fails: answered", good("one fails"), 99.8, " %"),
        at_least("one of 30 fails", good("one of 30 fails"), 99.98, " %"),
        at_least("one of 300 fails", good("one of 300 fails"), 99.95, " %"),
        at_least(
            "one of 10 fails, 40 clients",
            good("one of 10 fails, 40 clients"),
            99.5,
            " %",
        ),
        at_least("one of 2 fails", good("one of 2 fails"), 98.5, " %"),
        at_least("one hangs", good("one hangs"), 99.8, " %"),
        at_least("one fails 30 %", good("one fails 30 %"), 96.5, " %"),
        at_least("… with a retry, any load", min(retried), 99.99, " %"),
        at_most(
            "0.05 % errors: p99, of that by requests without",
            p99("all fail 0.05 %") / p99("healthy, by requests"),
            1.06,
        ),
        at_least("3 of 10 fail", good("3 of 10 fail"), 99.8, " %"),
        at_least("5 of 10 fail", good("5 of 10 fail"), 79, " %"),
        at_least("7 of 10 fail", good("7 of 10 fail"), 47, " %"),
        at_most(
            "5 of 10 fail, half may be ejected",
            good("5 of 10 fail, half ejected"),
            60,
            " %",
        ),
        at_least("a cold one 15 s after it joined: its share", cold, 0.8),
        between("a zone at half its load: calls that stay", [local], 97.2, 100, " %"),
        between("… at 90 %: p99", [p99("a zone of 3 of 9 at 90 %")], 93, 113, " ms"),
        between("… at 150 %: p99", [p99("a zone of 3 of 9 at 150 %")], 95, 117, " ms"),
        at_least(
            "… two of its three fail",
            good("a zone of 3 of 9 at 50 %, 2 of it fail"),
            96.9,
            " %",
        ),
        at_most("one dead, a retry: the others differ by", uneven, 0.10),
        between("weights 1 : 3, two endpoints", weights[2], 2.4, 3.2, ""),
        between("weights 1 : 3, ten endpoints", weights[10], 2.6, 3.3, ""),
    ]
    return Report(
        [
            ["replicas", "answered", "p50", "p99", "share of the bad one"],
            *[_row(name, SCENES[name][0], seen[name]) for name in SCENES],
        ],
        checks,
        _plot(good),
    )


def _row(name: str, scene: Scene, seen: Result) -> list[str]:
    half, tail, _ = seen.latencies
    return [
        name,
        f"{100 * seen.good:.2f} %",
        f"{half:.0f} ms",
        f"{tail:.0f} ms",
        f"{mean(seen.shares[: scene.bad]):.3f}" if scene.bad else "–",
    ]


def _median(results: Mapping[Job, Any], name: str, seeds: Sequence[int]) -> Result:
    runs: list[Result] = [results["scene", name, seed] for seed in seeds]
    return Result(
        median([each.good for each in runs]),
        tuple(map(median, zip(*[each.latencies for each in runs], strict=True))),
        tuple(map(median, zip(*[each.shares for each in runs], strict=True))),
    )


def _plot(good: Callable[[str], float]) -> str:
    failing = (3, 5, 7)
    usable = [(bad, min(100.0, 100 * (10 - bad) / 10 / 0.6)) for bad in failing]
    return plot(
        "Share of calls that are answered while some of ten replicas fail",
        Axis("replicas that fail", 3, 7),
        Axis("answered, %", 0, 100),
        [
            Line("what is left could answer", usable),
            Line(
                "at most a third ejected",
                [(bad, good(f"{bad} of 10 fail")) for bad in failing],
            ),
            Line(
                "up to a half ejected",
                [(bad, good(f"{bad} of 10 fail, half ejected")) for bad in failing],
            ),
        ],
    )
