"""The modelled dependency at work: nodes, queues, and what events do to them.

Ground rules:

* An attempt is one job. It arrives when it is sent (or when an outage ends), and when
  it has come through the network, waits in the queue of its node if no server is
  free, is worked on, and is then answered.
* Work whose caller has gone away is done all the same, unless the dependency is said
  to drop it. What it took is counted as wasted.
* How long a job and its ways take, and which node it goes to, depends on the seed, its
  request and the number of its attempt, and on nothing else (`_chance`).

Not modelled: garbage collection, connections, and one request that slows another down
except by its place in the queue and by `crowding`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from resilient._calls.outcome import Outcome
from resilient.simulation._chance import Distribution, mix, stream, uniform
from resilient.simulation._dependency import Dependency
from resilient.simulation._events import (
    Capacity,
    Failing,
    Hang,
    Happening,
    Outage,
    Refusal,
    Shard,
    Slowdown,
    factor_of,
)

# What a stream of an attempt is for: each of its ways.
_THERE: Final = 1
_BACK: Final = 2
_BACK_AND_THERE: Final = (3, 4)


class Answer:
    """What the dependency answers.

    Attributes:
        at: When it did, in seconds.
    """

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at

    def __repr__(self) -> str:
        return f"<Answer at {self.at:g} s>"


class Attempt(Protocol):
    """One attempt at the dependency, by a call that waits for it.

    Attributes:
        request: The number of its request.
        number: Which attempt of that it is, from 1.
        key: The key of its request.
        node: The node that was chosen for it; None: any.
    """

    request: int
    number: int
    key: int
    node: int | None

    def is_waiting(self) -> bool: ...

    def answer(self, outcome: Outcome) -> None: ...


class Agenda(Protocol):
    """Where the model puts what is to happen: the heap of a `World`."""

    def at(
        self, when: float, action: Callable[[Any], object], argument: Any
    ) -> None: ...


class _Job:
    __slots__ = ("attempt", "node", "refused", "service", "version")

    def __init__(
        self, attempt: Attempt, node: _Node, service: float, refused: str | None
    ) -> None:
        self.attempt = attempt
        self.node = node
        self.service = service
        # Why it is refused; None: it is not.
        self.refused = refused
        # Of its row, when it was read.
        self.version = 0


class _Node:
    __slots__ = ("accepted", "busy", "ends", "queue", "waiting")

    def __init__(self) -> None:
        self.queue: deque[_Job] = deque()
        # Of these: jobs that are not refused, and seconds of work.
        self.accepted = 0
        self.waiting = 0.0
        # Jobs that it is at work on, and the sum of the moments they end at.
        self.busy = 0
        self.ends = 0.0


class Servers:
    """A `Dependency` at work in one run.

    Attributes:
        worked: Seconds of work done, those of abandoned jobs included.
        wasted: Seconds of work done for callers that had gone.
    """

    def __init__(
        self,
        model: Dependency,
        events: Sequence[Happening],
        agenda: Agenda,
        now: Callable[[], float],
        seed: int,
        keys: int | None = None,
    ) -> None:
        self.model = model
        self.worked = self.wasted = 0.0
        self._agenda = agenda
        self._now = now
        self._keys = keys
        self._service = stream(seed, "service")
        self._luck = stream(seed, "luck")
        self._ways = stream(seed, "ways")
        self._places = stream(seed, "nodes")
        self._nodes = [_Node() for _ in range(model.nodes)]
        self._held: dict[float, list[Attempt]] = {}
        self._versions: dict[int, int] = {}
        self._second, self._accepted = -1, 0
        self._outages = [event for event in events if isinstance(event, Outage)]
        self._refusals = [event for event in events if isinstance(event, Refusal)]
        self._shards = [event for event in events if isinstance(event, Shard)]
        self._hangs = [event for event in events if isinstance(event, Hang)]
        self._failing = [event for event in events if isinstance(event, Failing)]
        self._slow = [event for event in events if isinstance(event, Slowdown)]
        self._capacity = [event for event in events if isinstance(event, Capacity)]
        self._fails = bool(self._failing or model.failures)
        self._stops = bool(self._refusals or self._shards or self._hangs)
        for event in self._capacity:
            for node in self._nodes:
                agenda.at(event.start, self._fill, node)
                agenda.at(event.end, self._fill, node)

    def send(self, attempt: Attempt) -> None:
        """Take an attempt, which will be answered or not."""
        if self._outages:
            now = self._now()
            for event in self._outages:
                if event.is_on(now):
                    # NB: one entry for all, so that they arrive in their order
                    # wherever entries of one moment have none.
                    held = self._held.setdefault(event.end, [])
                    if not held:
                        self._agenda.at(event.end, self._release, held)
                    held.append(attempt)
                    return
        if self.model.network is None:
            self._arrive(attempt)
        else:
            way = self._way(attempt, _THERE, self.model.network)
            self._agenda.at(self._now() + way, self._arrive, attempt)

    def _release(self, held: list[Attempt]) -> None:
        for attempt in held:
            self._arrive(attempt)

    def _way(self, attempt: Attempt, which: int, network: Distribution) -> float:
        """Return how long an attempt takes for one of its ways."""
        state = mix(mix(mix(self._ways, attempt.request), attempt.number), which)
        return network.at(uniform(state))

    def _arrive(self, attempt: Attempt) -> None:
        model = self.model
        place = 0 if model.nodes == 1 else self._place_of(attempt)
        node = self._nodes[place]
        if self._stops:
            now = self._now()
            if any(event.is_on(now) for event in self._refusals) or any(
                event.is_on(now) and self._is_among(attempt, place, event.share)
                for event in self._shards
            ):
                self._refuse(attempt, node, "refused")
                return
            for event in self._hangs:
                if event.is_on(now) and self._is_unlucky(attempt, event.share):
                    return
        if model.quota is not None and not self._is_in_quota(model.quota):
            self._refuse(attempt, node, "the quota is used up")
            return
        state = mix(mix(self._service, attempt.request), attempt.number)
        job = _Job(attempt, node, model.service.at(uniform(state)), None)
        if model.conflicts:
            job.version = self._versions.get(attempt.key, 0)
            if model.network is not None:
                for which in _BACK_AND_THERE:
                    job.service += self._way(attempt, which, model.network)
        if model.backlog is not None and self._backlog(node) >= model.backlog:
            self._refuse(attempt, node, "the backlog is too long")
        elif model.servers is None or node.busy < self._limit():
            self._begin(job)
        elif model.queue_limit is not None and node.accepted >= model.queue_limit:
            self._refuse(attempt, node, "the queue is full")
        else:
            self._wait(job)

    def _place_of(self, attempt: Attempt) -> int:
        """Return which node an attempt goes to."""
        nodes = self.model.nodes
        if attempt.node is not None:
            return attempt.node % nodes
        state = mix(self._places, attempt.request)
        step = 1 + mix(state, 1) % (nodes - 1)
        return (state + (attempt.number - 1) * step) % nodes

    def _is_among(self, attempt: Attempt, place: int, share: float) -> bool:
        """Whether it is for the share of nodes, or of keys, that is meant."""
        nodes = self.model.nodes
        if nodes > 1:
            return place < max(1, round(share * nodes))
        return self._is_unlucky(attempt, share)

    def _is_unlucky(self, attempt: Attempt, share: float) -> bool:
        # NB: by request, or key if there are some: what hangs hangs again.
        if self._keys is not None:
            return attempt.key < max(1, round(share * self._keys))
        return uniform(mix(self._luck, attempt.request)) < share

    def _is_in_quota(self, quota: int) -> bool:
        second = int(self._now())
        if second != self._second:
            self._second, self._accepted = second, 0
        self._accepted += 1
        return self._accepted <= quota

    def _backlog(self, node: _Node) -> float:
        """Return the seconds until the node would begin a job that came now."""
        servers = self._limit()
        return (node.waiting + node.ends - node.busy * self._now()) / servers

    def _refuse(self, attempt: Attempt, node: _Node, why: str) -> None:
        if self.model.refusing:
            job = _Job(attempt, node, self.model.refusing, why)
            if node.busy < self._limit():
                self._begin(job)
            else:
                self._wait(job)
        else:
            # NB: next, and not now: who sent it is not waiting yet.
            outcome = Outcome(None, self.model.error(why))
            self._agenda.at(self._back_at(attempt), answer, (attempt, outcome))

    def _wait(self, job: _Job) -> None:
        job.node.queue.append(job)
        job.node.waiting += job.service
        job.node.accepted += job.refused is None

    def _limit(self) -> int:
        limit = self.model.servers
        assert limit is not None
        if self._capacity:
            limit = max(1, round(limit * factor_of(self._capacity, self._now())))
        return limit

    def _begin(self, job: _Job) -> None:
        now, node = self._now(), job.node
        if self._slow:
            job.service *= factor_of(self._slow, now)
        if self.model.crowding:
            job.service += self.model.crowding * node.busy
        node.busy += 1
        node.ends += now + job.service
        self._agenda.at(now + job.service, self._finish, job)

    def _finish(self, job: _Job) -> None:
        now, node, attempt = self._now(), job.node, job.attempt
        node.busy -= 1
        # NB: what is left of a sum that was rounded is no work.
        node.ends = node.ends - now if node.busy else 0.0
        self.worked += job.service
        why = job.refused or self._failure(job)
        if not attempt.is_waiting():
            self.wasted += job.service
        else:
            outcome = Outcome(Answer(now))
            if why is not None:
                outcome = Outcome(None, self.model.error(why))
            if self.model.network is None:
                attempt.answer(outcome)
            else:
                self._agenda.at(self._back_at(attempt), answer, (attempt, outcome))
        self._fill(node)

    def _back_at(self, attempt: Attempt) -> float:
        """Return when an answer that is sent now arrives."""
        network = self.model.network
        way = 0.0 if network is None else self._way(attempt, _BACK, network)
        return self._now() + way

    def _fill(self, node: _Node) -> None:
        """Begin what waits, while servers are free."""
        queue, drops = node.queue, self.model.abandoned == "dropped"
        while queue and node.busy < self._limit():
            job = queue.popleft() if self.model.queue == "fifo" else queue.pop()
            node.waiting = node.waiting - job.service if queue else 0.0
            node.accepted -= job.refused is None
            if not drops or job.attempt.is_waiting():
                self._begin(job)

    def _failure(self, job: _Job) -> str | None:
        """Return why work that is done has failed; None: it has not."""
        attempt = job.attempt
        if self.model.conflicts:
            version = self._versions.get(attempt.key, 0)
            if version != job.version:
                return "a conflict"
            self._versions[attempt.key] = version + 1
        return "failed" if self._fails and self._has_failed(attempt) else None

    def _has_failed(self, attempt: Attempt) -> bool:
        now, share = self._now(), self.model.failures
        for event in self._failing:
            if event.is_on(now):
                share = max(share, event.share)
        state = mix(mix(mix(self._luck, attempt.request), attempt.number), 1)
        return uniform(state) < share


def answer(answered: tuple[Attempt, Outcome]) -> None:
    """Answer an attempt."""
    attempt, outcome = answered
    attempt.answer(outcome)
