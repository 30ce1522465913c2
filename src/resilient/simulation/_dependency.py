"""The modelled dependency: servers, a queue, and what events do to them.

Ground rules:

* An attempt is one job. It arrives when it is sent (or when an outage ends), waits in
  the queue if no server is free, is worked on, and is then answered.
* Work whose caller has gone away is done all the same, unless the dependency is said
  to drop it. What it took is counted as wasted.
* How long a job takes depends on the seed, its request and the number of its attempt,
  and on nothing else (`_chance`).

Not modelled: the network, garbage collection, connections, and one request that slows
another down except by its place in the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import attrs

from resilient._calls.outcome import Outcome
from resilient._values.checks import choice, count, number, optional
from resilient.simulation._chance import (
    Distribution,
    exponential_time,
    mix,
    stream,
    uniform,
)
from resilient.simulation._events import (
    Capacity,
    Failing,
    Hang,
    Happening,
    Outage,
    Refusal,
    Slowdown,
    factor_of,
)


def _tenth_of_a_second() -> Distribution:
    return exponential_time(0.1)


@attrs.frozen(kw_only=True)
class Dependency:
    """What is called, as a model of it.

    Attributes:
        servers: Jobs that it works on at once; None: any number.
        service: How long one takes, the queue apart; by default 0.1 s on average,
            exponentially distributed.
        queue: Who is next: the oldest job or the newest.
        queue_limit: Jobs that may wait; more are refused. None: any number.
        abandoned: Whether a job whose caller has gone is "served" all the
            same, as most servers do, or "dropped" when its turn comes.
        failures: Share of attempts that fail when their work is done.
        error: What a failure or refusal is, made of a text.

    Raises:
        TypeError, ValueError: One of them is out of range, by name.
    """

    servers: int | None = 30
    service: Distribution = attrs.field(factory=_tenth_of_a_second)
    queue: Literal["fifo", "lifo"] = "fifo"
    queue_limit: int | None = None
    abandoned: Literal["served", "dropped"] = "served"
    failures: float = 0.0
    error: Callable[[str], Exception] = ConnectionError

    def __attrs_post_init__(self) -> None:
        optional(count, "servers", self.servers, minimum=1)
        if not callable(getattr(self.service, "at", None)):
            raise TypeError(
                "`service` must be a distribution, as exponential_time(0.1) is, got"
                f" {self.service!r}"
            )
        choice("queue", self.queue, "fifo", "lifo")
        optional(count, "queue_limit", self.queue_limit, minimum=0)
        choice("abandoned", self.abandoned, "served", "dropped")
        if number("failures", self.failures, minimum=0) > 1:
            raise ValueError(f"`failures` must be <= 1, got {self.failures!r}")


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
    """One attempt at the dependency, by a call that waits for it."""

    request: int
    number: int

    def is_waiting(self) -> bool: ...

    def answer(self, outcome: Outcome) -> None: ...


class Agenda(Protocol):
    """Where the model puts what is to happen: the heap of a `World`."""

    def at(
        self, when: float, action: Callable[[Any], object], argument: Any
    ) -> None: ...


class _Job:
    __slots__ = ("attempt", "service")

    def __init__(self, attempt: Attempt, service: float) -> None:
        self.attempt = attempt
        self.service = service


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
    ) -> None:
        self.model = model
        self.worked = self.wasted = 0.0
        self._agenda = agenda
        self._now = now
        self._service = stream(seed, "service")
        self._luck = stream(seed, "luck")
        self._queue: deque[_Job] = deque()
        self._held: dict[float, list[Attempt]] = {}
        self._busy = 0
        self._outages = [event for event in events if isinstance(event, Outage)]
        self._refusals = [event for event in events if isinstance(event, Refusal)]
        self._hangs = [event for event in events if isinstance(event, Hang)]
        self._failing = [event for event in events if isinstance(event, Failing)]
        self._slow = [event for event in events if isinstance(event, Slowdown)]
        self._capacity = [event for event in events if isinstance(event, Capacity)]
        self._fails = bool(self._failing or model.failures)
        for event in self._capacity:
            agenda.at(event.start, self._fill, None)
            agenda.at(event.end, self._fill, None)

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
        self._arrive(attempt)

    def _release(self, held: list[Attempt]) -> None:
        for attempt in held:
            self._arrive(attempt)

    def _arrive(self, attempt: Attempt) -> None:
        model, number = self.model, attempt.number
        if self._refusals or self._hangs:
            now = self._now()
            if any(event.is_on(now) for event in self._refusals):
                self._refuse(attempt, "refused")
                return
            for event in self._hangs:
                # NB: by request: a key that hangs hangs again.
                luck = uniform(mix(self._luck, attempt.request))
                if event.is_on(now) and luck < event.share:
                    return
        state = mix(mix(self._service, attempt.request), number)
        job = _Job(attempt, model.service.at(uniform(state)))
        if model.servers is None or self._busy < self._limit():
            self._begin(job)
        elif model.queue_limit is not None and len(self._queue) >= model.queue_limit:
            self._refuse(attempt, "the queue is full")
        else:
            self._queue.append(job)

    def _refuse(self, attempt: Attempt, why: str) -> None:
        # NB: next, and not now: who sent it is not waiting yet.
        outcome = Outcome(None, self.model.error(why))
        self._agenda.at(self._now(), _answer, (attempt, outcome))

    def _limit(self) -> int:
        limit = self.model.servers
        assert limit is not None
        if self._capacity:
            limit = max(1, round(limit * factor_of(self._capacity, self._now())))
        return limit

    def _begin(self, job: _Job) -> None:
        now = self._now()
        if self._slow:
            job.service *= factor_of(self._slow, now)
        self._busy += 1
        self._agenda.at(now + job.service, self._finish, job)

    def _finish(self, job: _Job) -> None:
        self._busy -= 1
        self.worked += job.service
        attempt = job.attempt
        if not attempt.is_waiting():
            self.wasted += job.service
        elif self._fails and self._has_failed(attempt):
            attempt.answer(Outcome(None, self.model.error("failed")))
        else:
            attempt.answer(Outcome(Answer(self._now())))
        self._fill()

    def _fill(self, _: object = None) -> None:
        """Begin what waits, while servers are free."""
        queue, drops = self._queue, self.model.abandoned == "dropped"
        while queue and self._busy < self._limit():
            job = queue.popleft() if self.model.queue == "fifo" else queue.pop()
            if not drops or job.attempt.is_waiting():
                self._begin(job)

    def _has_failed(self, attempt: Attempt) -> bool:
        now, share = self._now(), self.model.failures
        for event in self._failing:
            if event.is_on(now):
                share = max(share, event.share)
        state = mix(mix(mix(self._luck, attempt.request), attempt.number), 1)
        return uniform(state) < share


def _answer(refusal: tuple[Attempt, Outcome]) -> None:
    attempt, outcome = refusal
    attempt.answer(outcome)
