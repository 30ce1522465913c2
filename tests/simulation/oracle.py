"""The oracle of the event heap: the same scenario on asyncio and on trio.

The model of the dependency and the load are the same objects; the policies are copies,
around an ordinary coroutine function, in virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import Context
from itertools import cycle
from typing import Any

import trio

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    CircuitBreaker,
    Coalesce,
    Fallback,
    Gradient,
    Hedge,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    Vegas,
    exponential,
)
from resilient._runtimes import clock
from resilient._runtimes.simulated import World
from resilient.simulation import Scenario
from resilient.simulation._chance import mix, stream
from resilient.simulation._copies import copy_policy
from resilient.simulation._edge import Client, Request
from resilient.simulation._load import moments
from resilient.simulation._servers import Servers
from resilient.testing import virtual_time
from resilient.testing._world import world

Ends = Counter[tuple[float, float, str]]
"""When requests were due and ended, and with what."""


class Asked:
    """A request, as the key functions of policies see it."""

    def __init__(self, number: int, key: int) -> None:
        self.number = number
        self.key = key
        self.attempts = 0


class Sent:
    """An attempt that a task of an event loop waits for."""

    def __init__(self, request: Asked, wake: Callable[[], object]) -> None:
        request.attempts += 1
        self.request, self.number = request.number, request.attempts
        self.key, self.node = request.key, None
        self.outcome: Outcome | None = None
        self.left = False
        self.wake = wake

    def is_waiting(self) -> bool:
        return not self.left

    def answer(self, outcome: Outcome) -> None:
        if not self.left:
            self.outcome = outcome
            self.wake()

    def result(self) -> Any:
        assert self.outcome is not None
        if self.outcome.error is not None:
            raise self.outcome.error
        return self.outcome.value


def end(value: object) -> str:
    """How a request ended, in a word."""
    return type(value).__name__


def requests(scenario: Scenario, seed: int) -> list[tuple[float, Asked]]:
    """When requests come, and their keys."""
    keys = stream(seed, "keys")
    dues = moments(scenario.rate, scenario.duration, scenario.arrivals, (), seed)
    return [
        (due, Asked(number, mix(keys, number) % (scenario.keys or 1)))
        for number, due in enumerate(dues)
    ]


def protected(policy: Policy[Any], scenario: Scenario, ask: Any) -> Iterator[Any]:
    """The function as each client protects it, in turn."""
    return cycle([copy_policy(policy, {})(ask) for _ in range(scenario.clients)])


async def make(ends: Ends, due: float, request: Asked, call: Any) -> None:
    """Make a request and note its end."""
    try:
        value = await call(request)
    except Exception as error:
        value = error
    ends[due, clock.now(), end(value)] += 1


def on_asyncio(policy: Policy[Any], scenario: Scenario, seed: int) -> Ends:
    """Run it on asyncio."""
    ends: Ends = Counter()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Agenda:
            def at(self, when: float, action: Any, argument: Any) -> None:
                loop.call_at(when, action, argument)

        servers = Servers(
            scenario.dependency, scenario.events, Agenda(), clock.now, seed
        )

        async def ask(request: Asked) -> Any:
            future = loop.create_future()
            sent = Sent(request, lambda: future.set_result(None))
            servers.send(sent)
            try:
                await future
            finally:
                sent.left = True
            return sent.result()

        turns = protected(policy, scenario, ask)

        async with asyncio.TaskGroup() as group:
            for due, request in requests(scenario, seed):
                await asyncio.sleep(due - clock.now())
                group.create_task(make(ends, due, request, next(turns)))

    virtual_time.run(main, seed=seed)
    return ends


def on_trio(policy: Policy[Any], scenario: Scenario, seed: int) -> Ends:
    """Run it on trio."""
    ends: Ends = Counter()

    async def main() -> None:
        async with trio.open_nursery() as nursery:

            class Agenda:
                def at(self, when: float, action: Any, argument: Any) -> None:
                    async def later() -> None:
                        await trio.sleep_until(when)
                        action(argument)

                    nursery.start_soon(later)

            servers = Servers(
                scenario.dependency, scenario.events, Agenda(), clock.now, seed
            )

            async def ask(request: Asked) -> Any:
                answered = trio.Event()
                sent = Sent(request, answered.set)
                servers.send(sent)
                try:
                    await answered.wait()
                finally:
                    sent.left = True
                return sent.result()

            turns = protected(policy, scenario, ask)

            for due, request in requests(scenario, seed):
                await trio.sleep_until(due)
                nursery.start_soon(make, ends, due, request, next(turns))

    virtual_time.run(main, backend="trio", seed=seed)
    return ends


def on_the_heap(policy: Policy[Any], scenario: Scenario, seed: int) -> Ends:
    """Run it on the event heap, by the driven edge."""
    return Context().run(_on_the_heap, policy, scenario, seed)


class Recorder:
    """Notes every end."""

    def __init__(self) -> None:
        self.ends: Ends = Counter()

    def sent(self) -> None:
        pass

    def ended(self, due: float, outcome: Outcome | None) -> None:
        assert outcome is not None
        value = outcome.value if outcome.error is None else outcome.error
        self.ends[due, clock.now(), end(value)] += 1


def _on_the_heap(policy: Policy[Any], scenario: Scenario, seed: int) -> Ends:
    recorder = Recorder()
    with world(seed, World) as heap:
        servers = Servers(
            scenario.dependency, scenario.events, heap, heap.clock.now, seed
        )
        clients = [
            Client(heap, copy_policy(policy, {}), servers.send, recorder)
            for _ in range(scenario.clients)
        ]
        heap.under_way += 1
        turns = cycle(clients)
        for due, asked in requests(scenario, seed):
            request = Request(next(turns), asked.number, due, asked.key)
            heap.at(due, Request.begin, request)
        heap.under_way -= 1
        heap.run()
    return recorder.ends


def on_the_heap_in_tasks(policy: Policy[Any], scenario: Scenario, seed: int) -> Ends:
    """Run decorated functions on the event heap, in tasks."""
    return Context().run(_in_tasks, policy, scenario, seed)


def _in_tasks(policy: Policy[Any], scenario: Scenario, seed: int) -> Ends:
    ends: Ends = Counter()
    with world(seed, World) as heap:
        servers = Servers(
            scenario.dependency, scenario.events, heap, heap.clock.now, seed
        )

        async def ask(request: Asked) -> Any:
            waiter = heap.waiter(None)  # type: ignore[arg-type]  # it asks nothing
            sent = Sent(request, waiter.wake)
            servers.send(sent)
            try:
                await heap.park(waiter, None)
            finally:
                sent.left = True
            return sent.result()

        turns = protected(policy, scenario, ask)

        async def main() -> None:
            for due, request in requests(scenario, seed):
                await heap.sleep(due - clock.now())
                heap.start(make(ends, due, request, next(turns)), "request")

        task = heap.start(main(), "main")
        heap.run()
        assert task.error is None, task.error
    return ends


# -- Drawn pipelines


def drawn(seed: int) -> Policy[Any]:
    """A pipeline of two to five policies, in any order that is meant."""
    draw = random.Random(seed)
    kinds: list[Callable[[], Policy[Any]]] = [
        lambda: Retry(
            Exception,
            attempts=draw.choice([2, 3]),
            # NB: at random: on asyncio's heap what is due at one moment has no order.
            backoff=exponential(0.05),
            budget=draw.choice([None, RetryBudget(0.2, 10, 0.5)]),
        ),
        lambda: CircuitBreaker(
            consecutive_failures=draw.choice([None, 4]), open_for=draw.uniform(0.5, 2)
        ),
        lambda: AdaptiveConcurrency(
            draw.choice([AIMD(6), Gradient(8), Vegas(8)]), max_queue=draw.choice([0, 5])
        ),
        lambda: AdaptiveThrottle(),
        lambda: Bulkhead(
            draw.choice([3, 9]),
            max_queue=draw.choice([0, 7]),
            # NB: none that ends with a deadline: on asyncio rounding decides there
            # whether the limit comes first or the end of the queue.
            max_wait=draw.uniform(0.05, 0.15),
            order=draw.choice(["fifo", "lifo"]),
        ),
        lambda: RateLimiter(draw.uniform(10, 60), max_wait=draw.uniform(0, 0.3)),
        lambda: Timeout(draw.uniform(0.2, 0.9)),
        lambda: Fallback("plan B"),
        lambda: Hedge(draw.choice([None, draw.uniform(0.03, 0.3)])),
        lambda: Coalesce(key=lambda request: request.key),
        lambda: PerKey(lambda key: Bulkhead(2), key=lambda request: request.key),
        lambda: StaleCache(0.2, 5.0, key=lambda request: request.key),
    ]
    chosen = draw.sample(kinds, draw.randint(2, 5))
    return Pipeline(*[kind() for kind in chosen], intended=True, name="drawn")
