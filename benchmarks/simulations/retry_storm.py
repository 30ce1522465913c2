"""The retry storm: an overload that outlasts its cause, or does not.

A server that can do 300 requests a second is asked for 280. For ten seconds
what it is sent is held up on the way, and then arrives all at once. From then
on each request waits longer than its client does, and work whose caller has
gone away is done all the same. If clients now ask again, the server is asked for
more than it can do, for ever: the cause is gone, and the storm feeds itself.

Modelled: 30 workers of which each takes 100 ms, exponentially distributed,
and one line without an end, first come first served. The calls are made by
ten client processes in turn, each with policies of its own, that wait a
second for an answer. Arrivals come at random (Poisson). When they come and
how long their work takes is the same for every policy.

As no request leaves the queue, the moment of the answer is known when a request is
sent: the model is a heap of the moments at which the workers will be free.

Source: N. Bronson, A. Aghayev, A. Charapko and T. Zhu, *Metastable Failures
in Distributed Systems*, HotOS 2021.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from random import Random
from statistics import mean, median
from typing import Final, NamedTuple, TypeAlias

from benchmarks.simulations import _heap
from benchmarks.simulations._load import poisson
from benchmarks.simulations._plot import Axis, Line, plot
from benchmarks.simulations._study import (
    Check,
    Job,
    Report,
    after,
    at_most,
    between,
    within,
)

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    Backoff,
    Call,
    CircuitBreaker,
    Outcome,
    Pipeline,
    Policy,
    Retry,
    RetryBudget,
    Timeout,
    TimeoutExceededError,
    constant,
    exponential,
)
from resilient._runtimes import clock
from resilient.simulation._record import recovery

NAME: Final = "retry-storm"
TITLE: Final = "The retry storm"

RATE: Final = 280.0
WORKERS: Final = 30
SERVICE: Final = 0.1
PROCESSES: Final = 10
PATIENCE: Final = 1.0
OUTAGE: Final = (60, 70)
UNTIL: Final = 300
SEEDS: Final = range(1, 6)

AT_ONCE: Final = "one retry, at once"
LATER: Final = "one retry, full jitter"
NO_RETRY: Final = "no retry"
OF_REQUESTS: Final = "one retry, 10 % of requests"
OF_SUCCESSES: Final = "one retry, 10 % of successes"
BREAKER: Final = "circuit breaker"
LIMIT: Final = "AIMD concurrency limit"

IMMEDIATE: Final = constant(0)
ANSWERED: Final = Outcome()

Proceed: TypeAlias = Callable[[Call], Awaitable[Outcome]]


class Second(NamedTuple):
    """Of the requests that were due in one second.

    Attributes:
        offered: How many there were.
        answered: How many of them were answered, whenever that was.
        attempts: How often the server was asked, in that second.
    """

    offered: int
    answered: int
    attempts: int


class FedByRequests(RetryBudget):
    """The budget that does not work: requests pay into it, not successes."""

    __slots__ = ()

    def deposit(self) -> None:
        """Take nothing from a success."""

    def request(self) -> None:
        """Pay in for a request."""
        super().deposit()


def _retry(budget: RetryBudget | None, backoff: Backoff = IMMEDIATE) -> Policy:
    retry = Retry(TimeoutExceededError, attempts=2, backoff=backoff, budget=budget)
    return Pipeline(retry, Timeout(PATIENCE))


class PaysFirst(Policy):
    """Has each request pay into a budget, however it goes."""

    def __init__(self, budget: FedByRequests) -> None:
        super().__init__()
        self.budget = budget

    async def around(self, proceed: Proceed, call: Call) -> Outcome:
        self.budget.request()
        return await proceed(call)


def _fed_by_requests() -> Policy:
    budget = FedByRequests(0.1, 10, 0.1)
    return Pipeline(PaysFirst(budget), _retry(budget))


# The policies of a client process.
CLIENTS: Final[dict[str, Callable[[], Policy]]] = {
    AT_ONCE: lambda: _retry(None),
    LATER: lambda: _retry(None, exponential()),
    NO_RETRY: lambda: Timeout(PATIENCE),
    OF_REQUESTS: _fed_by_requests,
    OF_SUCCESSES: lambda: _retry(RetryBudget(0.1, 10, 0.1)),
    # Open for 5 s and, while probes fail, for ever longer: the default.
    BREAKER: lambda: Pipeline(CircuitBreaker(half_open_calls=1), Timeout(PATIENCE)),
    LIMIT: lambda: Pipeline(AdaptiveConcurrency(AIMD(20)), Timeout(PATIENCE)),
}
FOREVER: Final = (AT_ONCE, LATER, OF_REQUESTS)


def jobs() -> list[Job]:
    """Every client, with five seeds; those that never recover with three."""
    return [(client, seed) for client in CLIENTS for seed in _seeds(client)]


def _seeds(client: str) -> range:
    return SEEDS[:3] if client in FOREVER else SEEDS


def run(
    client: str,
    seed: int,
    outage: tuple[int, int] = OUTAGE,
    until: int = UNTIL,
) -> list[Second]:
    """Have the server asked until the storm is over, or `until`.

    Args:
        client: Which of `CLIENTS`.
        seed: Seeds arrivals, service times and the policies.
        outage: Seconds between which what is sent is held up.
        until: Seconds that the run lasts.
    """
    server = Server(outage, Random(f"service {seed}"))
    record = _Record(until)
    _heap.run(
        seed,
        [CLIENTS[client]() for _ in range(PROCESSES)],
        lambda heap, sent: heap.at(
            server.send(heap.clock.now()), sent.answer, ANSWERED
        ),
        record.offering(poisson(RATE, until, Random(f"arrivals {seed}"))),
        record,
    )
    return record.seconds()


class Server:
    """Says when it will have answered what is sent to it now."""

    def __init__(self, outage: tuple[int, int], random: Random) -> None:
        self._outage = outage
        self._random = random
        self._free = [0.0] * WORKERS

    def send(self, now: float) -> float:
        began, ended = self._outage
        arrives = ended if began <= now < ended else now
        answers = max(arrives, self._free[0]) + self._random.expovariate(1 / SERVICE)
        heapq.heapreplace(self._free, answers)
        return answers


class _Record:
    """What is noted by the second."""

    def __init__(self, until: int) -> None:
        self._until = until
        self._offered, self._answered, self._attempts = ([0] * until for _ in range(3))

    def offering(self, moments: Iterator[float]) -> Iterator[float]:
        """Note the moments at which requests come."""
        for due in moments:
            self._offered[int(due)] += 1
            yield due

    def sent(self) -> None:
        now = clock.now()
        if now < self._until:
            self._attempts[int(now)] += 1

    def ended(self, due: float, outcome: Outcome | None) -> None:
        if outcome is not None and outcome.error is None:
            self._answered[int(due)] += 1

    def seconds(self) -> list[Second]:
        """Return what was seen."""
        columns = self._offered, self._answered, self._attempts
        return [Second(*each) for each in zip(*columns, strict=True)]


def recovered(seconds: list[Second], ended: int) -> int | None:
    """Return how many seconds after the outage all was well again."""
    return recovery([s.answered for s in seconds], [s.offered for s in seconds], ended)


def goodput(seconds: list[Second]) -> float:
    """Return which share of the requests was answered."""
    return sum(s.answered for s in seconds) / sum(s.offered for s in seconds)


def report(results: Mapping[Job, list[Second]]) -> Report:
    """Hold how long the storm lasts against what was published."""
    head = ["clients", "well again", "attempts per s", "answered at the end"]
    rows = [head]
    well: dict[str, list[int | None]] = {}
    attempts: dict[str, float] = {}
    answered: dict[str, float] = {}
    for client in CLIENTS:
        runs = [results[client, seed] for seed in _seeds(client)]
        well[client] = [recovered(each, OUTAGE[1]) for each in runs]
        ends = [each[UNTIL - 60 :] for each in runs]
        attempts[client] = mean(s.attempts for end in ends for s in end)
        answered[client] = mean(goodput(end) for end in ends)
        rows.append(
            [
                client,
                after(well[client]),
                f"{attempts[client]:.0f}",
                f"{100 * answered[client]:.1f} %",
            ]
        )
    return Report(
        rows,
        _checks(well, attempts, answered),
        plot(
            "Share of requests that are answered, by time and client",
            Axis("seconds", 40, UNTIL),
            Axis("answered, share of all requests", 0, 1),
            [Line(name, _shares(results[name, SEEDS[0]])) for name in CLIENTS],
            shaded=OUTAGE,
        ),
    )


def _shares(seconds: list[Second]) -> list[tuple[float, float]]:
    """Goodput in stretches of three seconds."""
    return [
        (at + 1.5, goodput(seconds[at : at + 3])) for at in range(0, len(seconds), 3)
    ]


def _checks(
    well: Mapping[str, list[int | None]],
    attempts: Mapping[str, float],
    answered: Mapping[str, float],
) -> list[Check]:
    def never(client: str) -> Check:
        runs = sum(each is None for each in well[client])
        return Check(
            f"{client}: recovers",
            "never",
            f"not in {runs} of {len(well[client])} runs",
            runs == len(well[client]),
        )

    checks = [never(client) for client in FOREVER]
    for client in (AT_ONCE, LATER):
        checks += [
            within(f"{client}: attempts", attempts[client], 560, 0.03 * 560, "/s"),
            at_most(f"{client}: answered", 100 * answered[client], 1, " %"),
        ]
    without, budgeted = (
        median(math.inf if each is None else each for each in well[client])
        for client in (NO_RETRY, OF_SUCCESSES)
    )
    return [
        *checks,
        # What single runs give has a standard deviation of 15 s, without any
        # policy: three in ten are out of such a range.
        between(f"{NO_RETRY}: recovers after, median", [without], 114, 144, " s"),
        between(f"{OF_SUCCESSES}: recovers after, median", [budgeted], 114, 173, " s"),
        at_most(
            f"{OF_SUCCESSES}: median over that of {NO_RETRY}", budgeted / without, 1.25
        ),
        between(f"{BREAKER}: recovers after", well[BREAKER], 9, 15, " s"),
        between(f"{LIMIT}: recovers after", well[LIMIT], 0, 4, " s"),
    ]
