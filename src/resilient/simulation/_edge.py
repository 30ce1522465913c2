"""The driven edge: requests whose policies are driven by the event heap itself.

A request is one piece of work. It walks the steps of its policies, as the edge of a
function does (`_edges.functions`), and drives the coroutine of a step that waits. Where
they ask for the function, an attempt is sent to the modelled dependency, whose answer
resumes the request. There is no function of a user's, no wrapper and no context
variable. What a `Hedge` or a `Coalesce` runs apart becomes a task, which calls `ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from resilient._calls.call import NO_EXTRAS, ORIGINAL, RETRY, Call, current_call
from resilient._calls.outcome import Outcome
from resilient._edges.steps import FUNCTION, RUN, entrance, unwind, walk_in, walk_out
from resilient._events.counters import Counters
from resilient._policy.policy import Policy, count_in
from resilient._runtimes.runtime import PAUSE
from resilient._runtimes.simulated import (
    Cancelled,
    Suspension,
    Work,
    World,
    foreign,
    resume,
)
from resilient._values.priority import TaskPriority
from resilient.simulation._chance import mix
from resilient.simulation._copies import balances


class Sent(Suspension):
    """An attempt at the dependency, and what waits for its answer."""

    __slots__ = ("key", "node", "number", "request")

    def __init__(
        self, work: Work | None, request: Request, number: int, node: int | None
    ) -> None:
        super().__init__(work)
        self.request = request.number
        self.number = number
        self.key = request.key
        self.node = node

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
        # NB: what it counts is seen nowhere else, also where others have its name.
        count_in(policy, Counters())
        self.name: str = policy.label
        self.entrance: Any = entrance(policy.link(None))
        self.send = send
        self.recorder = recorder
        # The places of endpoints among those of their `Balance`, by their addresses.
        self.places: dict[Any, int] = {
            endpoint.address: place
            for each in balances(policy)
            for place, endpoint in enumerate(each.endpoints)
        }

    def node_of(self, call: Call | None) -> int:
        """Return the place of the endpoint that was chosen for a call."""
        choice: Any = None
        while choice is None:
            # NB: that of a hedged call may have been chosen for all its attempts.
            assert call is not None
            choice, call = call.extras.choices, call.enclosing
        place: int = self.places[choice[2]]
        return place

    async def ask(self, request: Request) -> Any:
        """Be the function that is protected, in a task of its own."""
        call = current_call() if self.places else None
        sent = request.attempt(self.world.running, call)
        outcome: Outcome = await sent
        if outcome.error is not None:
            raise outcome.error
        return outcome.value


class Relay:
    """A service between clients and what they call, with policies of its own.

    What it is sent it passes on through its policies, and does no other work.

    Args:
        world: Where it runs.
        policy: Its policies, which nothing else uses.
        send: Sends an attempt on.
        sent: Told of each attempt that is sent on.
        error: What its callers see where its policies end a call with an error.
    """

    def __init__(
        self,
        world: World,
        policy: Policy[Any],
        send: Callable[[Sent], None],
        sent: Callable[[], None],
        error: Callable[[str], Exception],
    ) -> None:
        self._client = Client(world, policy, send, self)
        self.sent = sent
        self.error = error

    def send(self, attempt: Sent) -> None:
        """Take an attempt."""
        # NB: next, and not now: who sent it is not waiting yet.
        world = self._client.world
        world.soon(Request.begin, _Passed(self._client, attempt, self))

    def ended(self, due: float, outcome: Outcome | None) -> None:
        """Note nothing: the attempt is answered instead."""


class Request(Work):
    """One request of a client, driven by the heap.

    Attributes:
        number: Of all requests of the run, from 0.
        key: What policies tell requests apart by.
        due: When it was made, in seconds.
        standing: How important it is; None: as anything that says nothing.
    """

    __slots__ = (
        *("_attempts", "_call", "_client", "_waiting"),
        *("due", "key", "number", "standing"),
    )

    def __init__(self, client: Client, number: int, due: float, key: int) -> None:
        super().__init__(client.world)
        self._client = client
        self._attempts = 0
        # The coroutine of the step that waits; None: the dependency is asked.
        self._waiting: Coroutine[Any, Any, Any] | None = None
        self.number = number
        self.key = key
        self.due = due
        self.standing: TaskPriority | None = None

    def begin(self) -> None:
        """Go to where it first waits."""
        client = self._client
        self.world.running = self
        self._call = Call()
        self._call.begin(
            client.name, (self,), {}, client.world, client.policy, client.ask
        )
        self._call.step = client.entrance
        self._call.standing = self.standing
        self._walk(None)

    def resume(self, value: object) -> None:
        self.world.running = self
        if self._waiting is None:
            self._walk(value)
        else:
            self._drive(self._waiting.send, value)

    def interrupt(self, error: BaseException) -> None:
        self.world.running = self
        if self._waiting is None:
            self._unwind(None, error)
        else:
            self._drive(self._waiting.throw, error)

    def attempt(self, work: Work | None, call: Call | None) -> Sent:
        """Send another attempt of a call, whose answer `work` waits for."""
        self._attempts += 1
        client = self._client
        node = client.node_of(call) if client.places else None
        sent = Sent(work, self, self._attempts, node)
        client.recorder.sent()
        # NB: no answer comes before the caller is suspended; see `Servers`.
        client.send(sent)
        return sent

    def _walk(self, answer: Any) -> None:
        """Walk on with the answer of a step or of the dependency; None: inside."""
        call = self._call
        while True:
            try:
                if answer is None:
                    answer = walk_in(call)
                if isinstance(answer, Outcome):
                    answer = walk_out(call, answer)
            except BaseException as error:
                self._unwind(answer, error)
                return
            if answer is FUNCTION:
                # NB: what `count_run` does for nearly every call.
                if call.run is ORIGINAL and call.extras is NO_EXTRAS:
                    call.run = RETRY
                    self._client.policy.counters.originals += 1
                else:
                    call.count_run()
                self.suspended(self.attempt(self, call))
                return
            if not isinstance(answer, Outcome):
                self._waiting = answer
                self._drive(answer.send, None)
                return
            if call.way is None:
                self._ended(answer)
                return

    def _unwind(self, answer: object, error: BaseException) -> None:
        """Unwind the steps, or go on with what one of them puts in its place."""
        outcome = unwind(self._call, answer, error)
        if outcome is not None:
            self._walk(outcome)
        elif isinstance(error, Cancelled):
            self._ended(None)
        else:
            error.add_note(f"in the simulation of {self._client.name!r}")
            raise error

    def _drive(self, step: Any, value: object) -> None:
        """Drive the coroutine of a step to where it waits, or to its end."""
        waiting = self._waiting
        assert waiting is not None
        while True:
            try:
                standstill = step(value)
            except StopIteration as stop:
                self._waiting = None
                self._walk(stop.value)
                return
            except BaseException as error:
                self._waiting = None
                self._unwind(waiting, error)
                return
            if standstill is RUN:
                self.suspended(self.attempt(self, self._call))
                return
            if standstill is PAUSE:
                step, value = waiting.send, None
            elif isinstance(standstill, Suspension):
                self.suspended(standstill)
                return
            else:
                step, value = waiting.throw, foreign(standstill)

    def _ended(self, outcome: Outcome | None) -> None:
        self._call.end(outcome)
        self.end()
        self._client.recorder.ended(self.due, outcome)


class _Passed(Request):
    """An attempt that a `Relay` passes on."""

    __slots__ = ("_attempt", "_relay")

    def __init__(self, client: Client, attempt: Sent, relay: Relay) -> None:
        # NB: each attempt is a request of its own further in, with its own chance.
        number = mix(attempt.request, attempt.number)
        super().__init__(client, number, client.world.clock.now(), attempt.key)
        self._attempt = attempt
        self._relay = relay

    def _ended(self, outcome: Outcome | None) -> None:
        super()._ended(outcome)
        if outcome is not None and outcome.error is not None:
            outcome = Outcome(None, self._relay.error(str(outcome.error)))
        # NB: nothing cancels it, so that there is an outcome.
        assert outcome is not None
        self._attempt.answer(outcome)
