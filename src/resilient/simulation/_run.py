"""One run of a scenario: a world, clients, a dependency, and what is noted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextvars import Context
from itertools import cycle
from typing import Any, TypeAlias

from resilient._policy.policy import Policy
from resilient._runtimes.simulated import World
from resilient.simulation._chance import mix, stream
from resilient.simulation._copies import copy_policy, members
from resilient.simulation._dependency import Servers
from resilient.simulation._edge import Client, Request
from resilient.simulation._events import Surge
from resilient.simulation._load import moments
from resilient.simulation._record import Run
from resilient.simulation._scenario import Scenario
from resilient.simulation._world import world

Progress: TypeAlias = Callable[[float], object]
"""Told which share of the work is done, from 0 to 1."""

SAMPLED = 10
"""Clients whose gauges are read each second: more make the run slow."""


def run(
    policy: Policy[Any], scenario: Scenario, seed: int, progress: Progress | None
) -> Run:
    """Run a scenario once.

    Args:
        policy: The policy, which is copied.
        scenario: The scenario.
        seed: The seed.
        progress: Told which share of the run is done.

    Raises:
        VirtualTimeError: Virtual time is running already.
    """
    # NB: empty, for the call that runs here would lend its deadline to all.
    return Context().run(_run, policy, scenario, seed, progress)


def _run(
    policy: Policy[Any], scenario: Scenario, seed: int, progress: Progress | None
) -> Run:
    with world(seed) as made:
        return _Simulation(made, policy, scenario, seed, progress).run()


class _Simulation:
    """What is under way in a run."""

    def __init__(
        self,
        world: World,
        policy: Policy[Any],
        scenario: Scenario,
        seed: int,
        progress: Progress | None,
    ) -> None:
        self._progress = progress
        self._world = world
        self._scenario = scenario
        self._run = Run(seed, scenario.duration)
        self._servers = Servers(
            scenario.dependency, scenario.events, world, world.clock.now, seed
        )
        self._clients = [
            Client(world, copy_policy(policy, {}), self._servers.send, self._run)
            for _ in range(scenario.clients)
        ]
        self._turns: Iterator[Client] = cycle(self._clients)
        self._keys = stream(seed, "keys")
        self._requests = 0
        surges = [event for event in scenario.events if isinstance(event, Surge)]
        self._moments = moments(
            scenario.rate, scenario.duration, scenario.arrivals, surges, seed
        )

    def run(self) -> Run:
        world = self._world
        world.at_each(self._moments, self._arrive)
        world.at(1.0, self._sample, 1)
        world.run()
        self._run.worked = self._servers.worked
        self._run.wasted = self._servers.wasted
        self._run.close()
        return self._run

    def _arrive(self, due: float) -> None:
        number, keys = self._requests, self._scenario.keys
        self._requests += 1
        key = number if keys is None else mix(self._keys, number) % keys
        self._run.came(due)
        request = Request(next(self._turns), number, due, key)
        if self._scenario.patience is not None:
            self._world.at(due + self._scenario.patience, Request.cancel, request)
        request.begin()

    def _sample(self, second: int) -> None:
        """Read the gauges of policies: states of the first client, means of numbers."""
        values: dict[str, list[Any]] = {}
        for client in self._clients[:SAMPLED]:
            for policy in members(client.policy):
                for metric, value in policy.status().items():
                    values.setdefault(metric, []).append(value)
        for metric, found in values.items():
            numbers = [value for value in found if isinstance(value, (int, float))]
            # NB: not `sum`, which rounds otherwise from Python 3.12 on.
            told = math.fsum(numbers) / len(numbers) if numbers else found[0]
            self._run.series.setdefault(metric, []).append(told)
        if self._progress is not None:
            self._progress(second / self._scenario.duration)
        if second < self._scenario.duration:
            self._world.at(second + 1.0, self._sample, second + 1)
