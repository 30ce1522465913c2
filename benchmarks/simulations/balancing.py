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

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from heapq import heapreplace
from random import Random
from statistics import mean, median
from typing import Any, Final, NamedTuple
from warnings import catch_warnings, simplefilter

from benchmarks.simulations import _heap
from benchmarks.simulations._load import poisson
from benchmarks.simulations._plot import Axis, Line, plot
from benchmarks.simulations._study import (
    Job,
    Report,
    at_least,
    at_most,
    between,
)

from resilient import (
    Balance,
    Eject,
    Endpoint,
    Outcome,
    Pipeline,
    Retry,
    Timeout,
    constant,
)
from resilient._runtimes import clock
from resilient._runtimes.simulated import World
from resilient.simulation._copies import balances
from resilient.simulation._edge import Client, Request, Sent

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


ANSWERED: Final = Outcome()


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
    random = Random(f"{which} {seed}")
    if what == "tower":
        return _tower(which, random, seed)
    return _cold(random, seed) if what == "cold" else _weights(which, random, seed)


def simulate(scene: Scene, seed: int, name: str = "") -> Result:
    """Run a scene."""
    random = Random(f"{name} {seed}")
    servers = [
        Server(random, scene.how, scene.errors)
        if number < scene.bad
        else Server(random)
        for number in range(scene.servers)
    ]
    return _measure(scene, random, servers, seed)


class Server:
    """A server: workers, a queue, and what may be wrong with it."""

    def __init__(self, random: Random, how: str = "", errors: float = 0.0) -> None:
        self._random = random
        self._how = how
        self._errors = errors
        # When each worker has done what it was given.
        self._free = [0.0] * WORKERS

    def send(self, heap: World, sent: Sent) -> None:
        """Take a request, and answer it later, or let it fail or hang."""
        if self._how == "hangs":
            return
        now = heap.clock.now()
        if self._how == "fails" or self._random.random() < self._errors:
            heap.at(now + 0.001, sent.answer, Outcome(None, FailedError()))
            return
        service = self._random.expovariate(1 / SERVICE)
        if self._how == "slow":
            service *= 10
        end = max(now, self._free[0]) + service
        heapreplace(self._free, end)
        heap.at(now + (end - now), sent.answer, ANSWERED)


class ColdServer(Server):
    """One that is ten times slower until it has been asked `COLD` times."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._asked = 0
        self._busy = 0
        self._queue: deque[tuple[Sent, float]] = deque()

    def send(self, heap: World, sent: Sent) -> None:
        self._random.random()
        self._asked += 1
        self._queue.append((sent, self._random.expovariate(1 / SERVICE)))
        self._begin(heap)

    def _begin(self, heap: World) -> None:
        if self._queue and self._busy < WORKERS:
            self._busy += 1
            sent, service = self._queue.popleft()
            # NB: how warm it is shows when a worker begins, not when it is asked.
            service *= 10 if self._asked < COLD else 1
            heap.at(heap.clock.now() + service, partial(self._end, heap), sent)

    def _end(self, heap: World, sent: Sent) -> None:
        self._busy -= 1
        self._begin(heap)
        sent.answer(ANSWERED)


class _Record:
    """What is noted of the requests that are due after the warm-up."""

    def __init__(self, servers: Sequence[Server], warm: float) -> None:
        self._servers = servers
        self._warm = warm
        self.asked: Counter[int] = Counter()
        self.latencies: list[float] = []
        self.every = 0

    def send(self, heap: World, sent: Sent) -> None:
        """Ask the server that was chosen."""
        node = sent.node
        assert node is not None
        if heap.clock.now() >= self._warm:
            self.asked[node] += 1
        self._servers[node].send(heap, sent)

    def sent(self) -> None:
        """Note nothing."""

    def ended(self, due: float, outcome: Outcome | None) -> None:
        if due < self._warm:
            return
        assert outcome is not None
        self.every += 1
        if outcome.error is None:
            self.latencies.append(clock.now() - due)
        elif not isinstance(outcome.error, (FailedError, TimeoutError)):
            raise outcome.error


def _clients(scene: Scene) -> Iterator[Pipeline]:
    for _ in range(scene.clients):
        near = [Endpoint(n, zone="near") for n in range(scene.zone)]
        with catch_warnings():
            simplefilter("ignore")
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
        yield Pipeline(retry, balance, Timeout(TIMEOUT))


def _measure(
    scene: Scene,
    random: Random,
    servers: Sequence[Server],
    seed: int,
    change: Callable[[Sequence[Client]], object] | None = None,
) -> Result:
    record = _Record(servers, scene.warm)
    rate = scene.use * scene.servers * WORKERS / SERVICE
    _heap.run(
        seed,
        _clients(scene),
        record.send,
        poisson(rate, scene.until, random),
        record,
        random.choice,
        None if change is None else (scene.warm - 15.0, change),
    )
    latencies, asked = sorted(record.latencies), record.asked
    total = sum(asked.values())
    return Result(
        len(latencies) / record.every,
        (_ms(latencies, 0.5), _ms(latencies, 0.99), _ms(latencies, 0.999)),
        tuple([asked[n] * len(servers) / total for n in range(len(servers))]),
    )


def _ms(ordered: Sequence[float], share: float) -> float:
    return 1000 * ordered[int(share * len(ordered))]


def _cold(random: Random, seed: int) -> float:
    """Return what a cold server has, of its fair share, 15 s after it joined."""
    scene = Scene(use=1.1, until=40.0, warm=35.0)

    def join(clients: Sequence[Client]) -> None:
        for client in clients:
            for balance in balances(client.policy):
                balance.replace(range(4))
            client.places[3] = 3

    servers = [*[Server(random) for _ in range(3)], ColdServer(random)]
    return _measure(scene, random, servers, seed, join).shares[3]


def _tower(load: Any, random: Random, seed: int) -> tuple[float, float, float]:
    """Return tower's figures: seconds in all, and two quantiles in ms."""

    def main(heap: World) -> tuple[float, float, float]:
        demo = _Demo(heap, Balance(*range(len(TOWER)), load=load), random)
        for _ in range(50):
            demo.ask()
        heap.run()
        latencies = sorted(demo.latencies)
        return heap.clock.now(), _ms(latencies, 0.99), _ms(latencies, 0.999)

    return _heap.in_world(seed, main)


class _Demo:
    """Users that ask again when they are answered: tower's demo."""

    def __init__(self, heap: World, balance: Balance[int], random: Random) -> None:
        self.latencies: list[float] = []
        self._heap = heap
        self._random = random
        self._client = Client(heap, balance, self.send, self)
        self._numbers = iter(range(REQUESTS))

    def ask(self) -> None:
        """Make a request, unless all have been made."""
        number = next(self._numbers, None)
        if number is not None:
            now = self._heap.clock.now()
            Request(self._client, number, now, number).begin()

    def send(self, sent: Sent) -> None:
        """Answer after some time."""
        assert sent.node is not None
        # NB: less than a millisecond is not to be had from its timer.
        latency = max(1.0, self._random.uniform(0, TOWER[sent.node]))
        self._heap.at(self._heap.clock.now() + latency / 1000, sent.answer, ANSWERED)

    def sent(self) -> None:
        """Note nothing."""

    def ended(self, due: float, outcome: Outcome | None) -> None:
        self.latencies.append(self._heap.clock.now() - due)
        self.ask()


def _weights(which: tuple[int, float], random: Random, seed: int) -> float:
    """Return how many calls a weight of 3 gets for one of a weight of 1.

    So many are in flight on average, for 20 ms each, on whichever server.
    """
    servers, busy = which
    record = _Record([_Even(random) for _ in range(servers)], 0.0)

    def client() -> Iterator[Balance[int]]:
        weights = [Endpoint(n, weight=3.0 if n % 2 else 1.0) for n in range(servers)]
        yield Balance(*weights, load="requests")

    rate = busy / SERVICE
    moments = poisson(rate, 10_000 / rate, random)
    _heap.run(seed, client(), record.send, moments, record)
    odd = sum(count for node, count in record.asked.items() if node % 2)
    return odd / (record.asked.total() - odd)


class _Even(Server):
    """One that has a worker for each request."""

    def send(self, heap: World, sent: Sent) -> None:
        service = self._random.expovariate(1 / SERVICE)
        heap.at(heap.clock.now() + service, sent.answer, ANSWERED)


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
        between("weights 1 : 3, two endpoints", weights[2], 2.4, 3.1, ""),
        between("weights 1 : 3, ten endpoints", weights[10], 2.6, 3.2, ""),
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
