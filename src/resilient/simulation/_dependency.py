"""What is called, as a model: servers, queues, what it refuses and how it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs

from resilient._policy.policy import Policy
from resilient._values.checks import choice, count, flag, number, optional
from resilient._values.checks import seconds as check_seconds
from resilient.simulation._chance import Distribution, exponential_time
from resilient.simulation._trace import Trace


def _tenth_of_a_second() -> Distribution:
    return exponential_time(0.1)


@attrs.frozen(kw_only=True)
class Dependency:
    """What is called, as a model of it.

    Attributes:
        servers: Jobs that each node works on at once; None: any number.
        nodes: Machines, each with servers and a queue of its own. An attempt goes to
            the endpoint that a `Balance` chose, by its place among the endpoints;
            else to a random node, and the next attempt of a request to another one.
        service: How long a job takes, the queue apart; by default 0.1 s on average,
            exponentially distributed.
        crowding: Seconds that a job takes longer for each one that its node is at
            work on when it begins.
        network: How long it takes each way to get there and back. None: no time.
        queue: Who is next: the oldest job or the newest.
        queue_limit: Jobs that may wait at a node; more are refused. None: any number.
        backlog: Seconds of work that a job may find before it at a node, divided by
            the servers; where there is more it is refused. None: any.
        quota: Attempts that are accepted in each second, of all clients together;
            more are refused. None: any number.
        refusing: Seconds of a server's work that a refusal costs, after its turn in
            the queue; 0: it costs nothing and is told at once.
        abandoned: Whether a job whose caller has gone is "served" all the
            same, as most servers do, or "dropped" when its turn comes.
        conflicts: Whether a job reads a row when it arrives, one for each key, is
            asked again after a way there and back, and fails if the row was written
            meanwhile: an optimistic lock.
        failures: Share of attempts that fail when their work is done.
        error: What a failure or refusal is, made of a text.
        policy: What stands in front of it, as the middleware of a server does: a
            `Bulkhead` or an `AdaptiveConcurrency`, one for all nodes. What it refuses
            fails with `error`. None: nothing.
        depth: Services in a row, each of which calls the next through a copy of the
            policy that is simulated; the last is the one that is modelled here.
        recorded: In place of a model: the first attempt of a recorded request is
            answered as that was, others as one of those within 5 s was. What policies
            do changes nothing at the server, so that everything here but `error` has
            no meaning. None: the model.

    Raises:
        TypeError, ValueError: One of them is out of range, by name.
    """

    servers: int | None = 30
    nodes: int = 1
    service: Distribution = attrs.field(factory=_tenth_of_a_second)
    crowding: float = 0.0
    network: Distribution | None = None
    queue: Literal["fifo", "lifo"] = "fifo"
    queue_limit: int | None = None
    backlog: float | None = None
    quota: int | None = None
    refusing: float = 0.0
    abandoned: Literal["served", "dropped"] = "served"
    conflicts: bool = False
    failures: float = 0.0
    error: Callable[[str], Exception] = ConnectionError
    policy: Policy[Any] | None = None
    depth: int = 1
    recorded: Trace | None = None

    def __attrs_post_init__(self) -> None:
        optional(count, "servers", self.servers, minimum=1)
        count("nodes", self.nodes, minimum=1)
        distribution("service", self.service)
        optional(distribution, "network", self.network)
        check_seconds("crowding", self.crowding)
        choice("queue", self.queue, "fifo", "lifo")
        optional(count, "queue_limit", self.queue_limit, minimum=0)
        optional(check_seconds, "backlog", self.backlog)
        optional(count, "quota", self.quota, minimum=1)
        check_seconds("refusing", self.refusing)
        flag("conflicts", self.conflicts)
        choice("abandoned", self.abandoned, "served", "dropped")
        if number("failures", self.failures, minimum=0) > 1:
            raise ValueError(f"`failures` must be <= 1, got {self.failures!r}")
        if self.policy is not None and not isinstance(self.policy, Policy):
            raise TypeError(f"`policy` must be a policy, got {self.policy!r}")
        count("depth", self.depth, minimum=1)
        if self.servers is None and (self.backlog is not None or self.refusing):
            raise ValueError(
                "`backlog` and `refusing` need a number of `servers`, got None"
            )
        if self.recorded is not None:
            self._check_recorded(self.recorded)

    def _check_recorded(self, trace: object) -> None:
        if not isinstance(trace, Trace):
            raise TypeError(
                f"`recorded` must be what read_trace() returns, got {trace!r}"
            )
        if not trace.has_latencies:
            raise ValueError(f"`recorded` needs latencies, and {trace.source} has none")
        model = Dependency(recorded=None, error=self.error)
        for name in attrs.asdict(model, recurse=False):
            if name != "recorded" and getattr(self, name) != getattr(model, name):
                raise ValueError(f"`{name}` has no meaning with `recorded`")


def distribution(name: str, value: object) -> Distribution:
    """Return a distribution.

    Raises:
        TypeError: The value is none.
    """
    if not callable(getattr(value, "at", None)):
        raise TypeError(
            f"`{name}` must be a distribution, as exponential_time(0.1) is, got"
            f" {value!r}"
        )
    found: Any = value
    made: Distribution = found
    return made
