"""One RPC on its way through a pipeline: its attempts, how they are judged, its end.

Ground rules:

* An attempt lasts until the answer, of a stream until its first message. Permits
  are held until the RPC has ended.
* The deadline travels: each attempt has what is left of it. One that streams its
  answers has what is left for all of it, for gRPC cannot change it later.
* An RPC whose requests are a stream, or whose answer is asked for later, is sent
  once: what it has sent is gone, and where it fails its caller has it already.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import ref

import attrs
import grpc  # type: ignore[import-untyped]  # its stubs are a package of others

from resilient._calls.call import Call
from resilient._calls.outcome import IGNORED, OngoingWork, Outcome, UnaskedOutcome
from resilient._edges.driver import DONE, Drive
from resilient._edges.generators import Stream
from resilient._edges.steps import RUN
from resilient._errors.errors import ResilientError
from resilient._errors.tracebacks import strip
from resilient._policy.policy import Policy, Usage, begin_use
from resilient._rpc.errors import as_rpc_error
from resilient._rpc.statuses import SENT_ONCE, Code, judge, why_once
from resilient._runtimes import clock
from resilient._runtimes.runtime import Runtime
from resilient._values.traits import Trait
from resilient.policies.timeout import Timeout

HELD: Final = "its caller has it already"

_NOTHING: Final = object()

_ENDLESS: Final = 1e8
"""Seconds, three years: gRPC is not told of a deadline that is further away."""


@attrs.frozen
class Rules:
    """What interceptors were told of RPCs; see `resilient.grpc.client_interceptors`.

    Attributes:
        total: Seconds that the pipeline allows for a whole RPC; None: no limit.
    """

    policy: Policy[Any]
    idempotent: Callable[[str], bool]
    statuses: frozenset[Any]
    total: float | None = attrs.field(
        init=False, default=attrs.Factory(lambda it: _total(it.policy)[0], True)
    )


def _total(policy: Policy[Any]) -> tuple[float | None, bool]:
    """Return the seconds that a policy allows for a whole RPC, not for an attempt.

    Returns:
        With it, whether what is further in is for one attempt.
    """
    found: float | None = None
    if isinstance(policy, Timeout):
        return (policy.seconds if policy.idle is None else None), False
    if Trait.COMPOSES in policy.traits:
        for one in policy.children():
            seconds, attempts = _total(one)
            if seconds is not None and (found is None or seconds < found):
                found = seconds
            if attempts:
                return found, True
        return found, False
    return None, Trait.RERUNS in policy.traits


class Passage(Drive):
    """One RPC, driven from its call to its end.

    Args:
        rules: What the interceptors were told.
        details: What gRPC knows of it.
        request: Its request, or an iterator of those.
        runtime: What waits for it; None: what runs here.
        once: Whether its requests are a stream.
        many: Whether its answers are.
    """

    __slots__ = (
        "_details",
        "_held",
        "_message",
        "_once",
        "_rules",
        "_sent",
        "_streams",
        "_until",
        "many",
        "stream",
        "streaming",
    )

    def __init__(
        self,
        rules: Rules,
        details: Any,
        request: Any,
        runtime: Runtime | None,
        *,
        once: bool = False,
        many: bool = False,
    ) -> None:
        method: Any = details.method
        if isinstance(method, bytes):
            method = method.decode()
        policy = rules.policy
        if once or many:
            # NB: a policy that answers in the place of what is inside has no stream.
            usage: Usage = "async generator" if runtime is None else "generator"
            begin_use(policy, usage, classified=True)
        service = method.rpartition("/")[0]
        call = Call.new(method, (request,), {}, runtime, service, policy)
        now = clock.now()
        if details.timeout is not None:
            until = now + details.timeout
            if call.deadline is None or until < call.deadline:
                call.deadline, call.allowed = until, details.timeout
        super().__init__(policy, call)
        self._rules = rules
        self._details = details
        self.many: bool = many
        self._until = call.deadline
        if rules.total is not None:
            self._until = min(self._until or math.inf, now + rules.total)
        self._once = SENT_ONCE if once else why_once(rules.idempotent, method)
        self._streams = once or many
        self._sent = False
        self._message: Any = _NOTHING
        # Filled while the policies wait for an RPC that its caller has, and while
        # its answers are coming.
        self._held: list[None] = []
        self.streaming: list[None] = []
        self.stream: Stream = Stream(call)

    def drive_in_sync(self, attempt: Callable[[], Outcome | None]) -> bool:
        """Drive the policies to their outcome.

        Args:
            attempt: Sends the RPC once. None: its caller has it, and the policies
                wait on.

        Returns:
            Whether they came to one.
        """
        outcome: Outcome | None = None
        try:
            standstill = self.in_sync(self.begin())
            while standstill is RUN:
                try:
                    outcome = attempt()
                except BaseException as unwinding:
                    standstill = self.in_sync(self.throw(unwinding))
                    continue
                if outcome is None:
                    return False
                standstill = self.in_sync(self.send(outcome))
            return True
        finally:
            # NB: an error's traceback may come to hold this frame.
            outcome = None

    async def drive(self, attempt: Callable[[], Awaitable[Outcome]]) -> None:
        """Drive the policies to their outcome; see `drive_in_sync`."""
        outcome: Outcome | None = None
        try:
            standstill = self.begin()
            while standstill is not DONE:
                try:
                    if standstill is not RUN:
                        standstill = await self.forward(standstill)
                        continue
                    try:
                        outcome = await attempt()
                    except BaseException as unwinding:
                        standstill = self.throw(unwinding)
                    else:
                        standstill = self.send(outcome)
                except BaseException as interrupt:
                    if not self.is_suspended():
                        raise
                    standstill = self.throw(interrupt)
        finally:
            # NB: an error's traceback may come to hold this frame.
            outcome = None

    # -- Each attempt

    def prepare(self) -> Any:
        """Return what gRPC is told of an attempt that begins now."""
        call, details = self.call, self._details
        self._sent = True
        # NB: until its outcome is known: a timeout may cut it short.
        call.unrepeatable = self._once
        self._message = _NOTHING
        until = self._until if self.many else call.deadline
        left = math.inf if until is None else max(0.0, until - clock.now())
        timeout = None if left > _ENDLESS else left
        replace = getattr(details, "_replace", None)
        if replace is not None:
            return replace(timeout=timeout)
        # Of another interceptor's own class.
        details = copy.copy(details)
        details.timeout = timeout
        return details

    def answered(self, message: Any) -> Outcome:
        """Make an outcome of the one answer of an RPC."""
        self._message = message
        return Outcome(message)

    def first(self, message: Any, rpc: Any) -> Outcome:
        """Make an outcome of the first of several answers."""
        # NB: weak, for gRPC cancels an RPC that is not wanted any more.
        known = ref(rpc)

        async def close() -> None:
            unwanted = known()
            if unwanted is not None:
                unwanted.cancel()

        self.stream.begin(close)
        outcome = Outcome(message)
        outcome.ongoing = self.stream.ongoing
        return outcome

    def failed(self, error: Exception) -> Outcome:
        """Make an outcome of an error, and judge it."""
        call = self.call
        strip(error)
        outcome = Outcome(None, error)
        if isinstance(error, ResilientError):
            # Of an interceptor further in: judged as such.
            return outcome
        status: Any = error
        code: Any = status.code() if isinstance(error, grpc.RpcError) else None
        if code is None:
            outcome.verdict = IGNORED
            return outcome
        if (
            code is Code.DEADLINE_EXCEEDED
            and call.deadline is not None
            and clock.now() >= call.deadline
        ):
            # It obeyed the deadline: whichever Timeout set it answers for it.
            outcome.ongoing = OngoingWork(_over)
            return outcome
        judged = judge(
            code, status.trailing_metadata(), self._rules.statuses, self._once
        )
        outcome.verdict, outcome.health, outcome.retry_after, reason = judged
        call.unrepeatable = reason
        return outcome

    # -- An RPC that goes on while its caller has it

    def hold(self, rpc: Any) -> None:
        """Have the policies wait for the end of an RPC, or its first answer."""
        self.call.unrepeatable = HELD
        self._held.append(None)
        self.watch(rpc)

    def go_on(self, rpc: Any) -> None:
        """Have the call last until all answers have come; the first one has."""
        self.take_up()
        self.watch(rpc)

    def watch(self, rpc: Any) -> None:
        """End the call with its RPC."""
        # NB: weak, for gRPC cancels an RPC that is not wanted any more.
        known = ref(rpc)
        if not rpc.add_callback(lambda: self.over(known())):
            self.over(rpc)

    def begun(self, message: Any, rpc: Any) -> None:
        """Take note of an answer of an RPC: the policies may wait for the first.

        Raises:
            Exception: The policies have made an error of it.
        """
        if not _popped(self._held):
            return
        self.in_sync(self.send(self.first(message, rpc)))
        if not self.goes_on:
            rpc.cancel()
            error = self.error()
            assert error is not None
            raise error
        self.take_up()

    def next_in_sync(self, rpc: Any) -> Any:
        """Return the next answer, within its limit in time.

        Raises:
            StopIteration: There is none.
            Exception: The RPC has failed, or was refused by the policies.
        """
        if self.streaming:
            with self.stream:
                return next(rpc)
        message = next(rpc)
        self.begun(message, rpc)
        return message

    def take_up(self) -> None:
        """Go on with the answers after the first, which the policies have taken."""
        outcome = self.outcome
        assert outcome is not None
        self.stream.limit = self.call.extras.stream_limit
        self.call.count_end(outcome)
        outcome.discard()
        self.streaming.append(None)

    def over(self, rpc: Any) -> None:
        """End the call, once: its RPC has ended, with a status.

        Args:
            rpc: The RPC; None: it is gone.
        """
        code: Any = Code.CANCELLED if rpc is None else rpc.code()
        ended = code is not Code.CANCELLED
        if self.end_stream(well=ended) or not _popped(self._held):
            return
        if rpc is None or not ended:
            self.close()
        else:
            if code is not Code.OK:
                outcome = self.failed(rpc)
            elif self.many:
                outcome = UnaskedOutcome()
            else:
                outcome = self.answered(rpc.result())
            self.in_sync(self.send(outcome))
            self.leave()

    def end_stream(self, *, well: bool) -> bool:
        """End the call of an RPC whose answers were coming, once.

        Args:
            well: Whether it has ended by itself, and was not cancelled.

        Returns:
            Whether it was one.
        """
        if not _popped(self.streaming):
            return False
        self.stream.last = UnaskedOutcome() if well else None
        self.stream.end()
        return True

    # -- The end

    def error(self) -> Exception | None:
        """Return the error that the policies came to, as gRPC's."""
        outcome = self.outcome
        assert outcome is not None
        error = outcome.error
        if error is None:
            if self._streams and not self._sent:
                return TypeError(
                    f"a policy answered {self.call.name!r} with an object of"
                    f" {type(outcome.value)}: an RPC with a stream has no other answer"
                    " than its own"
                )
            return None
        try:
            self.leave()
            return as_rpc_error(error)
        finally:
            # NB: its traceback may come to hold this frame.
            del error

    @property
    def goes_on(self) -> bool:
        """Whether the policies have taken the first of several answers."""
        assert self.outcome is not None
        return self.outcome.ongoing is self.stream.ongoing

    @property
    def replaced(self) -> bool:
        """Whether the policies answer with something else than the RPC did."""
        assert self.outcome is not None
        return self.outcome.value is not self._message

    def leave(self) -> None:
        """End the call of an RPC that has ended."""
        outcome = self.outcome
        assert outcome is not None
        self._message = _NOTHING
        self.call.end(outcome)
        outcome.discard()
        if outcome.ongoing is not None:
            outcome.ongoing.finish(outcome)


def _popped(tokens: list[None]) -> bool:
    """Take the token of what is done once, by the first of several threads."""
    try:
        tokens.pop()
    except IndexError:
        return False
    return True


async def _over() -> None:
    """End what has ended."""
