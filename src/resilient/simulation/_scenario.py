"""A scenario: load, a dependency, and what happens to them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable

import attrs

from resilient._values.checks import choice, count, number, optional
from resilient._values.checks import seconds as check_seconds
from resilient.simulation._chance import Distribution
from resilient.simulation._dependency import Dependency, distribution
from resilient.simulation._events import Failing, Happening, Refusal, Shard, Surge
from resilient.simulation._load import Arrivals
from resilient.simulation._trace import Trace

LEFT_OUT = (
    "Real policies, modelled load and dependency. Left out: network, connections,"
    " threads, garbage collection."
)
LEFT_OUT_OF_RECORDED = (
    "Real policies, recorded answers: what policies do changes nothing at the server."
    " Left out: its queue, connections, threads, garbage collection."
)
"""The first line of every report, and of one on recorded outcomes."""

_REFUSING = (Failing, Refusal, Shard)


def _length(scenario: Scenario) -> int:
    trace: object = scenario.trace
    return trace.duration if isinstance(trace, Trace) else 300


def _all_of(events: Iterable[Happening]) -> tuple[Happening, ...]:
    return tuple(events)


@attrs.frozen
class Scenario:
    """What a configuration is put through.

    Attributes:
        name: What it is called in reports.
        rate: Requests a second, > 0, of all clients together, in an open loop:
            they come however long others take.
        users: In place of a rate: so many make requests one after another, each
            waiting for the end of the last one. They ask less of what is slow, so
            that a closed loop hides what an overload does. None: an open loop.
        think: How long each of them waits before each request; None: not at all.
        calls: Requests that each of them makes; None: until the end.
        trace: In place of a rate: requests come when recorded ones came, with their
            keys and priorities where it has some. None: an open loop.
        duration: Whole seconds in which requests come, >= 10. Those under way
            then are run to their end. By default 300, or as long as the `trace`.
        clients: Processes that make the requests in turn, each with policies of
            its own, >= 1.
        arrivals: "poisson": at random; "constant": at equal distances.
        patience: Seconds after which the caller of a request gives up, whatever
            the policies do; None: it waits.
        keys: How many keys requests have, evenly, for `PerKey`, `Coalesce` and
            `StaleCache`. None: each its own.
        dependency: What is called.
        events: What happens to it, or to the load.

    Raises:
        TypeError, ValueError: One of them is out of range, by name.
    """

    name: str
    rate: float = attrs.field(default=100.0, kw_only=True)
    users: int | None = attrs.field(default=None, kw_only=True)
    think: Distribution | None = attrs.field(default=None, kw_only=True)
    calls: int | None = attrs.field(default=None, kw_only=True)
    trace: Trace | None = attrs.field(default=None, kw_only=True)
    duration: int = attrs.field(
        default=attrs.Factory(_length, takes_self=True), kw_only=True
    )
    clients: int = attrs.field(default=10, kw_only=True)
    arrivals: Arrivals = attrs.field(default="poisson", kw_only=True)
    patience: float | None = attrs.field(default=None, kw_only=True)
    keys: int | None = attrs.field(default=None, kw_only=True)
    dependency: Dependency = attrs.field(factory=Dependency, kw_only=True)
    events: tuple[Happening, ...] = attrs.field(
        default=(), kw_only=True, converter=_all_of
    )

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"`name` must be a string, got {self.name!r}")
        number("rate", self.rate, minimum=0, exclusive=True)
        optional(count, "users", self.users, minimum=1)
        optional(distribution, "think", self.think)
        optional(count, "calls", self.calls, minimum=1)
        for name in ("think", "calls"):
            if self.users is None and getattr(self, name) is not None:
                raise ValueError(f"`{name}` has no meaning without `users`")
        self._check_trace()
        count("duration", self.duration, minimum=10)
        count("clients", self.clients, minimum=1)
        choice("arrivals", self.arrivals, "poisson", "constant")
        optional(check_seconds, "patience", self.patience, zero=False)
        optional(count, "keys", self.keys, minimum=1)
        for event in self.events:
            if not isinstance(event, Happening):
                raise TypeError(
                    f"`events` must be events, as Outage(60, 70) is, got {event!r}"
                )
            for name in ("users", "trace"):
                if getattr(self, name) is not None and isinstance(event, Surge):
                    raise ValueError(f"`events`: {event!r} has no meaning for `{name}`")
            if self.dependency.recorded is not None:
                raise ValueError(
                    f"`events`: {event!r} has no meaning for what is recorded"
                )
            if event.end > self.duration:
                raise ValueError(
                    f"`events`: {event!r} ends after the run, which takes"
                    f" {self.duration} s"
                )

    def _check_trace(self) -> None:
        trace: object = self.trace
        if trace is None:
            return
        if not isinstance(trace, Trace):
            raise TypeError(f"`trace` must be what read_trace() returns, got {trace!r}")
        if self.users is not None:
            raise ValueError("`users` has no meaning with a `trace`")
        if self.keys is not None and trace.keys is not None:
            raise ValueError("`keys` has no meaning with a `trace` that has keys")

    @property
    def left_out(self) -> str:
        """What the model leaves out, in one line."""
        return LEFT_OUT if self.dependency.recorded is None else LEFT_OUT_OF_RECORDED

    @property
    def traces(self) -> list[Trace]:
        """What was recorded of it."""
        both = (self.trace, self.dependency.recorded)
        return [each for each in dict.fromkeys(both) if each is not None]

    @property
    def different_keys(self) -> int | None:
        """How many keys requests have; None: each its own."""
        if self.trace is not None and self.trace.keys is not None:
            return self.trace.different_keys
        return self.keys

    @property
    def fails(self) -> bool:
        """Whether anything fails with the error of the dependency."""
        model, trace = self.dependency, self.dependency.recorded
        limits = (model.queue_limit, model.backlog, model.quota, model.policy)
        return (
            model.failures > 0
            or model.conflicts
            or any(limit is not None for limit in limits)
            or any(isinstance(event, _REFUSING) for event in self.events)
            or (trace is not None and len(trace.errors) > 1)
        )

    @property
    def calm_from(self) -> int:
        """The second from which nothing is the matter any more."""
        return int(max((event.end for event in self.events), default=0.0))

    @property
    def load(self) -> str:
        """What asks, in words."""
        if self.trace is not None:
            return f"{self.requests:.0f} recorded requests"
        if self.users is None:
            return f"{self.rate:g} requests/s"
        return f"{self.users} user{'s' * (self.users > 1)}"

    @property
    def requests(self) -> float:
        """About how many requests there will be; of users at the most."""
        if self.trace is not None:
            return float(bisect_left(self.trace.at, self.duration))
        if self.users is None:
            return self.rate * self.duration
        pause = self.dependency.service.at(0.5)
        if self.think is not None:
            pause += self.think.at(0.5)
        made = self.duration / pause if pause else math.inf
        return self.users * (made if self.calls is None else min(made, self.calls))
