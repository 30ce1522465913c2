"""The driven edge: requests whose policies are driven by the event heap itself.

A request is one piece of work. Its policies' coroutine is driven from one standstill
to the next: where it asks for the function (`RUN`), an attempt is sent to the modelled
dependency, whose answer resumes the coroutine. There is no function of a user's, no
wrapper and no context variable. What a `Hedge` or a `Coalesce` runs apart becomes a
task, which calls `ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._edges.driver import RUN
from resilient._edges.steps import walk
from resilient._policy.policy import Policy
from resilient._runtimes.runtime import PAUSE
from resilient._runtimes.simulated import (
    Cancelled,
    Suspension,
    Work,
    World,
    foreign,
    resume,
)


class Sent(Suspension):
    """An attempt at the dependency, and what waits for its answer."""

    __slots__ = ("number", "request")

    def __init__(self, work: Work | None, request: int, number: int) -> None:
        super().__init__(work)
        self.request = request
        self.number = number

    def is_waiting(self) -> bool:
        """Whether there is still a caller."""
        return self.work is not None

    def answer(self, outcome: Outcome) -> None:
        """Resume the caller, if there is one."""
        self.value = outcome
        resume(self)


class Recorder(Protocol):
    """What is told of requests and attempts."""

    def sent(self) -> None: ...

    def ended(self, due: float, outcome: Outcome | None) -> None: ...


class Client:
    """A process that makes requests, with policies of its own."""

    def __init__(
        self,
        world: World,
        policy: Policy[Any],
        send: Callable[[Sent], None],
        recorder: Recorder,
    ) -> None:
        self.world = world
        self.policy = policy
        self.name: str = policy.label
        self.steps: Any = policy.link(None)
        self.send = send
        self.recorder = recorder

    async def ask(self, request: Request) -> Any:
        """Be the function that is protected, in a task of its own."""
        sent = request.attempt(self.world.running)
        outcome: Outcome = await sent
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


class Request(Work):
    """One request of a client, driven by the heap.

    Attributes:
        number: Of all requests of the run, from 0.
        key: What policies tell requests apart by.
        due: When it was made, in seconds.
    """

    __slots__ = ("_attempts", "_call", "_client", "_coroutine", "due", "key", "number")

    def __init__(self, client: Client, number: int, due: float, key: int) -> None:
        super().__init__(client.world)
        self._client = client
        self._attempts = 0
        self.number = number
        self.key = key
        self.due = due

    def begin(self) -> None:
        """Go to where it first waits."""
        client = self._client
        self.world.running = self
        self._call = Call(
            client.name, (self,), {}, client.world, None, client.policy, client.ask
        )
        self._coroutine: Coroutine[Any, Any, Outcome] = walk(client.steps, self._call)
        self._drive(self._coroutine.send, None)

    def resume(self, value: object) -> None:
        self.world.running = self
        self._drive(self._coroutine.send, value)

    def interrupt(self, error: BaseException) -> None:
        self.world.running = self
        self._drive(self._coroutine.throw, error)

    def attempt(self, work: Work | None) -> Sent:
        """Send another attempt, whose answer `work` waits for."""
        self._attempts += 1
        sent = Sent(work, self.number, self._attempts)
        self._client.recorder.sent()
        # NB: no answer comes before the caller is suspended; see `Servers`.
        self._client.send(sent)
        return sent

    def _drive(self, step: Any, value: object) -> None:
        while True:
            try:
                standstill = step(value)
            except StopIteration as stop:
                self._ended(stop.value)
                return
            except Cancelled:
                self._ended(None)
                return
            except BaseException as error:
                error.add_note(f"in the simulation of {self._client.name!r}")
                raise
            if standstill is RUN:
                self.suspended(self.attempt(self))
                return
            if standstill is PAUSE:
                step, value = self._coroutine.send, None
            elif isinstance(standstill, Suspension):
                self.suspended(standstill)
                return
            else:
                step, value = self._coroutine.throw, foreign(standstill)

    def _ended(self, outcome: Outcome | None) -> None:
        self._call.end(outcome)
        self.end()
        self._client.recorder.ended(self.due, outcome)
