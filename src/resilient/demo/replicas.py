"""The second act: a round robin by hand and a `Balance`, on four replicas.

One replica is well, one is slow, one is dead, and one is rolled: stopped in the
middle third of the day and started again at the same address. The round robin
asks each in its turn. The balanced client finds out who is well, tries another
one after a failure, and is told of the roll before it begins, as a deployment
does: `Balance.drain`, `Balance.restore`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, Final, TypeAlias

import attrs
import httpx

from resilient import (
    Balance,
    Endpoint,
    EndpointEjected,
    Pipeline,
    Retry,
    RetryBudget,
    Timeout,
)
from resilient.demo.day import RATE, Fault, at, draw_latencies, draw_load
from resilient.demo.figures import answered_share, counted, percentile
from resilient.demo.load import (
    PATIENCE,
    Log,
    Request,
    Tell,
    client,
    is_failure,
    send,
    watch,
)

WELL, SLOW, DEAD, ROLLED = NAMES = ("well", "slow", "dead", "rolled")

EACH: Final = 40
"""Requests per second: half of the first act's, for there are four servers."""

SLOWER: Final = 10
"""How many times longer the slow one takes."""

NOTICE: Final = 0.5
"""Seconds before it stops that a replica is drained: calls in flight end."""

Roll: TypeAlias = Callable[[bool], None]
"""Starts the rolled replica, or stops it."""


class Replica:
    """What one of them does with a request; see `resilient.demo.day.Weather`."""

    def __init__(self, name: str, latencies: Sequence[float]) -> None:
        self.name = name
        self._latencies = latencies

    def fault(self, due: float) -> Fault | None:
        """Return what it does instead of answering."""
        return Fault.ERROR if self.name == DEAD else None

    def latency(self, due: float) -> float:
        """Return the seconds that it takes; to fail is fast."""
        if self.name == DEAD:
            return 0.001
        return at(self._latencies, due) * (SLOWER if self.name == SLOW else 1)


class Rollout:
    """The load and the replicas of one run.

    Args:
        seconds: How long requests come in, whole seconds.
        seed: What everything is drawn from.

    Attributes:
        due: When each request is due, in order; seconds from the start.
        stop, start: When the rolled replica stops and starts; likewise.
        replicas: By name.
    """

    def __init__(self, seconds: int, seed: int) -> None:
        self.seconds = seconds
        self.seed = seed
        chance = random.Random(seed)
        self.due: tuple[float, ...] = draw_load(seconds, chance)[:: RATE // EACH]
        self.stop: float = seconds / 3
        self.start: float = 2 * seconds / 3
        self.replicas: dict[str, Replica] = {
            name: Replica(name, draw_latencies(seconds, chance)) for name in NAMES
        }


@attrs.frozen
class Figures:
    """What one client got.

    Attributes:
        requests: How many it was asked for.
        answered: Share of them that was answered.
        answered_in_roll: The same, of those due while one was stopped.
        p50, p99: Seconds from the moment a request was due to its answer or
            error.
        attempts: How often it asked a replica ...
        shares: ... and which share of them went to which.
        errors: How many requests ended with which type of error.
    """

    requests: int
    answered: float
    answered_in_roll: float
    p50: float
    p99: float
    attempts: int
    shares: dict[str, float]
    errors: dict[str, int]


@attrs.frozen
class Removal:
    """A replica got no calls for a while.

    Attributes:
        at: Seconds since the day began.
        replica: Its name.
        seconds: For how long.
    """

    at: float
    replica: str
    seconds: float


@attrs.frozen
class Results:
    """A whole run; every number of seconds counts from the start of the day.

    Attributes:
        seed, seconds, rate: What was asked for; requests a second.
        pipeline: How the balanced client was protected.
        stop, start: When the rolled replica stopped and started.
        bare, balanced: What the clients got.
        ejected: What the `Balance` did.
    """

    seed: int
    seconds: int
    rate: int
    pipeline: str
    stop: float
    start: float
    bare: Figures
    balanced: Figures
    ejected: list[Removal]


def balance_of(urls: Mapping[str, str]) -> Balance[str]:
    """Return what chooses among them."""
    return Balance(*[Endpoint(url, name=name) for name, url in urls.items()])


def protection(balance: Balance[str]) -> Pipeline:
    """Make the pipeline of the balanced client."""
    return Pipeline(
        Timeout(PATIENCE),
        Retry(budget=RetryBudget(0.2, 20)),
        balance,
        Timeout(1),
        classify=is_failure,
    )


async def play(
    day: Rollout,
    urls: Mapping[str, str],
    balance: Balance[str],
    pipeline: Pipeline,
    tell: Tell,
    roll: Roll,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Log:
    """Send the load of a day through both clients at once.

    Args:
        day: The load, and when one is rolled.
        urls: Where the replicas listen, by name.
        balance: Chooses for the balanced client.
        pipeline: Has it, and protects that client.
        tell: Called every second of the day.
        roll: Stops and starts one.
        transport: What both clients send through; None: sockets.
    """
    log, turns = Log(), cycle(urls)
    steps = [
        (day.stop - NOTICE, lambda: balance.drain(urls[ROLLED])),
        (day.stop, lambda: roll(False)),
        (day.start, lambda: roll(True)),
        (day.start, lambda: balance.restore(urls[ROLLED])),
    ]
    names = {url: name for name, url in urls.items()}

    async def get(http: httpx.AsyncClient, request: Request, name: str) -> None:
        sent = now()
        due = sent if request.attempts else request.due
        request.attempts.append(sent)
        request.asked.append(name)
        (await http.get(f"{urls[name]}/{due:.4f}")).raise_for_status()

    @pipeline
    async def get_balanced(http: httpx.AsyncClient, request: Request) -> None:
        await get(http, request, names[balance.current])

    def ask_bare(request: Request) -> Any:
        while steps and steps[0][0] <= request.due:
            steps.pop(0)[1]()
        return get(bare_http, request, next(turns))

    async with client(transport) as bare_http, client(transport) as http:
        now = watch(pipeline, log)
        await send(
            day.due, ask_bare, lambda each: get_balanced(http, each), tell, log, now
        )
    return log


def results(day: Rollout, pipeline: str, log: Log) -> Results:
    """Draw up the figures of a run."""
    return Results(
        seed=day.seed,
        seconds=day.seconds,
        rate=EACH,
        pipeline=pipeline,
        stop=round(day.stop, 3),
        start=round(day.start, 3),
        bare=_figures(day, log.bare),
        balanced=_figures(day, log.protected),
        ejected=[
            Removal(round(moment, 3), event.endpoint, round(event.seconds, 3))
            for moment, event in log.events
            if isinstance(event, EndpointEjected)
        ],
    )


def _figures(day: Rollout, requests: Sequence[Request]) -> Figures:
    took = [request.ended - request.due for request in requests if request.ended]
    asked = Counter(name for request in requests for name in request.asked)
    rolling = [each for each in requests if day.stop <= each.due < day.start]
    return Figures(
        requests=len(requests),
        answered=answered_share(requests),
        answered_in_roll=answered_share(rolling),
        p50=round(percentile(took, 0.5), 4),
        p99=round(percentile(took, 0.99), 4),
        attempts=asked.total(),
        shares={name: round(asked[name] / asked.total(), 4) for name in NAMES},
        errors=counted(each.error for each in requests if each.error is not None),
    )
