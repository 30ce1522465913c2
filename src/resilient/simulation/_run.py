"""One run of a scenario: a world, clients, a dependency, and what is noted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextvars import Context
from functools import partial
from typing import Any, TypeAlias

from resilient._calls.outcome import Outcome
from resilient._policy.policy import Policy
from resilient._runtimes.simulated import World
from resilient._values.priority import Priority, TaskPriority
from resilient.simulation._chance import mix, stream, uniform
from resilient.simulation._copies import copy_policy, members
from resilient.simulation._edge import Client, Recorder, Relay, Request, Sent
from resilient.simulation._events import Surge
from resilient.simulation._load import Users, moments
from resilient.simulation._record import Run
from resilient.simulation._recorded import Recorded
from resilient.simulation._scenario import Scenario
from resilient.simulation._servers import Servers
from resilient.testing._world import world

Progress: TypeAlias = Callable[[float], object]
"""Told which share of the work is done, from 0 to 1."""

SAMPLED = 10
"""Clients whose gauges are read each second: more make the run slow."""


def part(progress: Progress | None, done: int, more: int, of: int) -> Progress | None:
    """Return what tells of the progress of some runs of several.

    Args:
        progress: Told of all of them.
        done: Runs before these.
        more: These.
        of: All.
    """
    if progress is None:
        return None
    return lambda share: progress((done + share * more) / of)


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
    with world(seed, World) as made:
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
        model, now = scenario.dependency, world.clock.now
        self._servers: Servers | Recorded
        if model.recorded is None:
            keys = scenario.different_keys
            self._servers = Servers(model, scenario.events, world, now, seed, keys)
        else:
            is_load = scenario.trace is model.recorded
            self._servers = Recorded(
                model.recorded, model.error, is_load, world, now, seed
            )
        send: Callable[[Sent], None] = self._servers.send
        if model.policy is not None:
            door = copy_policy(model.policy, {})
            send = Relay(world, door, send, _not_counted, model.error).send
        recorder: Recorder = self._run
        for _ in range(model.depth - 1):
            # NB: what counts is what the last of them sends.
            inside = copy_policy(policy, {})
            send = Relay(world, inside, send, recorder.sent, model.error).send
            recorder = _Ends(self._run)
        self._clients = [
            Client(world, copy_policy(policy, {}), send, recorder)
            for _ in range(scenario.clients)
        ]
        self._turns: Iterator[Client] = itertools.cycle(self._clients)
        self._keys = stream(seed, "keys")
        self._requests = 0
        surges = [event for event in scenario.events if isinstance(event, Surge)]
        self._moments = moments(
            scenario.rate, scenario.duration, scenario.arrivals, surges, seed
        )
        if scenario.trace is not None:
            recorded = int(scenario.requests)
            self._moments = itertools.islice(scenario.trace.at, recorded)
        self._ranks = stream(seed, "ranks")
        self._users = Users(scenario.users or 0, scenario.think, seed)

    def run(self) -> Run:
        world = self._world
        if self._scenario.users is None:
            world.at_each(self._moments, self._arrive)
        else:
            # NB: or it would end while no request is under way but more will come.
            world.under_way += 1
            for user in range(self._scenario.users):
                self._think(user, 0)
        world.at(1.0, self._sample, 1)
        world.run()
        self._run.worked = self._servers.worked
        self._run.wasted = self._servers.wasted
        self._run.close()
        return self._run

    def _arrive(self, due: float) -> None:
        number = self._requests
        self._requests += 1
        request = Request(next(self._turns), number, due, self._key_of(number))
        trace = self._scenario.trace
        if trace is not None and trace.priorities is not None:
            rank = uniform(mix(self._ranks, number))
            request.standing = TaskPriority(Priority(trace.priorities[number]), rank)
        self._begin(request)

    def _begin(self, request: Request) -> None:
        self._run.came(request.due)
        if self._scenario.patience is not None:
            ends = request.due + self._scenario.patience
            self._world.at(ends, Request.cancel, request)
        request.begin()

    def _key_of(self, number: int) -> int:
        keys, trace = self._scenario.keys, self._scenario.trace
        if trace is not None and trace.keys is not None:
            return trace.keys[number]
        return number if keys is None else mix(self._keys, number) % keys

    def _think(self, user: int, made: int) -> None:
        """Have a user make a request some time later, unless it was the last."""
        scenario, now = self._scenario, self._world.clock.now()
        due = now + self._users.thinks(self._users.number(user, made))
        if due < scenario.duration and made != scenario.calls:
            self._world.at(due, self._ask, (user, made))

    def _ask(self, asked: tuple[int, int]) -> None:
        user, made = asked
        number = self._users.number(user, made)
        client = self._clients[user % len(self._clients)]
        request = _OfUser(client, number, self._world.clock.now(), self._key_of(number))
        request.then = partial(self._think, user, made + 1)
        self._begin(request)

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
        elif self._scenario.users is not None:
            # NB: not before, for users may think, or have made all their requests.
            self._world.under_way -= 1


class _OfUser(Request):
    """A request of a user, who makes another one when it has ended."""

    __slots__ = ("then",)

    then: Callable[[], None]

    def _ended(self, outcome: Outcome | None) -> None:
        super()._ended(outcome)
        self.then()


class _Ends:
    """Has a run note how requests end, and not what is sent."""

    def __init__(self, run: Run) -> None:
        self.ended = run.ended

    def sent(self) -> None:
        """Note nothing."""


def _not_counted() -> None:
    """Note nothing of an attempt."""
