"""Client interceptors for channels of `grpc.aio`.

gRPC runs an interceptor in a task of its own, which its caller awaits for the RPC. So
one whose request is a single message is driven in there to its answer, or its first
one. Where the requests are a stream the caller needs the RPC to write them to: the
policies then wait in a task beside it, which ends with the first answer or the RPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import Token
from typing import Any, TypeAlias

import grpc  # type: ignore[import-untyped]  # its stubs are a package of others
import grpc.aio  # type: ignore[import-untyped]

from resilient._calls.call import Call, enter_call, forget_call, leave_call
from resilient._calls.outcome import Outcome, UnaskedOutcome
from resilient._errors.errors import ResilientError
from resilient._errors.tracebacks import raised_by
from resilient._rpc.errors import as_rpc_error
from resilient._rpc.passage import HELD, Passage, Rules
from resilient._rpc.statuses import Code

_EOF: Any = vars(grpc.aio)["EOF"]
"""No stub has it."""

Turn: TypeAlias = "asyncio.Future[Outcome | None]"
"""What the policies wait for: the outcome of a first answer; None: the end."""


class _HeldPassage(Passage):
    """An RPC that its caller has while its policies wait for it, in a task.

    Attributes:
        turn: What they wait for.
        task: The task.
        refused: What they made of it.
    """

    __slots__ = ("refused", "task", "turn")

    def __init__(
        self, rules: Rules, details: Any, requests: Any, *, many: bool
    ) -> None:
        super().__init__(rules, details, requests, None, once=True, many=many)
        self.turn: Turn = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.refused: Exception | None = None

    async def take(self, message: Any, rpc: Any) -> None:
        """Take note of an answer of the RPC: the policies wait for the first."""
        if not self.turn.done():
            self.turn.set_result(self.first(message, rpc))
        await self.settled()

    async def settled(self) -> None:
        """Wait until the policies are done with it: they wait for nothing else.

        Raises:
            Exception: They have made an error of it.
        """
        assert self.task is not None
        await asyncio.wait([self.task])
        if self.refused is not None:
            raise self.refused


class _Interceptor:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._rules.policy!r}>"


class UnaryUnary(_Interceptor, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # grpc is untyped
    """Sends RPCs of one request and one answer through a pipeline."""

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Send one."""
        __tracebackhide__ = True
        passage = Passage(self._rules, client_call_details, request, None)
        policy = self._rules.policy
        rpc: Any = None
        error: Exception | None = None

        async def attempt() -> Outcome:
            nonlocal rpc
            try:
                rpc = await continuation(passage.prepare(), request)
                return passage.answered(await rpc)
            except Exception as raised:
                return passage.failed(raised)

        token: Token[Call | None] | None = None
        try:
            token = enter_call(passage.call)
            await passage.drive(attempt)
            error = passage.error()
            if error is not None:
                raise raised_by(policy, error)
            assert passage.outcome is not None
            answer = passage.outcome.value if passage.replaced else rpc
            passage.leave()
            return answer
        finally:
            if token is None:
                forget_call(passage.call)
            else:
                leave_call(token)
            if passage.outcome is None:
                passage.close()
            # NB: the error's traceback holds this frame.
            rpc = error = None


class UnaryStream(_Interceptor, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]  # grpc is untyped
    """Sends RPCs of one request and several answers through a pipeline."""

    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Send one, and await its first answer."""
        __tracebackhide__ = True
        passage = Passage(self._rules, client_call_details, request, None, many=True)
        policy = self._rules.policy
        rpc: Any = None
        answers: Any = None
        message: Any = None
        error: Exception | None = None

        async def attempt() -> Outcome:
            nonlocal rpc, answers, message
            rpc = None
            try:
                try:
                    rpc = await continuation(passage.prepare(), request)
                    answers = aiter(rpc)
                    message = await anext(answers)
                except StopAsyncIteration:
                    return UnaskedOutcome()
                except Exception as raised:
                    return passage.failed(raised)
                return passage.first(message, rpc)
            except BaseException:
                if rpc is not None:
                    rpc.cancel()
                raise

        token: Token[Call | None] | None = None
        try:
            token = enter_call(passage.call)
            await passage.drive(attempt)
            error = passage.error()
            if error is not None:
                raise raised_by(policy, error)
            if not passage.goes_on:
                passage.leave()
                return rpc
            _take_up(passage, rpc)
            return StreamAnswers(passage, rpc, answers, [message])
        finally:
            if token is None:
                forget_call(passage.call)
            else:
                leave_call(token)
            if passage.outcome is None:
                passage.close()
            # NB: the error's traceback holds this frame.
            rpc = answers = error = None


class _Held(_Interceptor):
    """What sends RPCs whose requests are a stream: once."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        # NB: the event loop keeps no task alive.
        self._tasks: set[asyncio.Task[None]] = set()

    async def _begin(
        self, details: Any, continuation: Any, requests: Any, *, many: bool
    ) -> tuple[_HeldPassage, Any]:
        """Begin an RPC, whose policies wait in a task.

        Returns:
            Its way through them, and the RPC.
        """
        __tracebackhide__ = True
        passage: Any = _HeldPassage(self._rules, details, requests, many=many)
        loop = asyncio.get_running_loop()
        begun: Any = loop.create_future()
        task = loop.create_task(_drive(passage, continuation, requests, begun))
        passage.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return passage, await begun
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            # NB: they keep the error, whose traceback holds this frame.
            del begun, task, passage


async def _drive(
    passage: _HeldPassage, continuation: Any, requests: Any, begun: asyncio.Future[Any]
) -> None:
    """Drive an RPC to its first answer, or its end.

    Args:
        passage: The RPC.
        continuation: What sends it.
        requests: Its requests.
        begun: What its caller waits for: the RPC, or the error of the policies.
    """
    rpc: Any = None

    async def attempt() -> Outcome:
        nonlocal rpc
        try:
            rpc = await continuation(passage.prepare(), requests)
        except Exception as raised:
            return passage.failed(raised)
        return await _first(passage, rpc, begun)

    enter_call(passage.call)
    try:
        await passage.drive(attempt)
        if passage.goes_on:
            _take_up(passage, rpc)
            return
        error = passage.error()
        if error is not None and not begun.done():
            begun.set_exception(error)
        elif passage.many and isinstance(error, ResilientError):
            # Its caller has it, and is told with its next answer.
            passage.refused = error
            rpc.cancel()
        passage.leave()
    except BaseException as unwinding:
        if begun.done() or not isinstance(unwinding, Exception):
            raise
        # A bug in what the user gave us: its caller is to see it.
        begun.set_exception(unwinding)
    finally:
        if passage.outcome is None:
            passage.close()
        # NB: the error's traceback holds this frame.
        rpc = error = None


async def _first(
    passage: _HeldPassage, rpc: Any, begun: asyncio.Future[Any]
) -> Outcome:
    """Give an RPC to its caller; return the outcome of its first answer, or its end."""
    turn = passage.turn

    def done(rpc: Any) -> None:
        if not turn.done():
            turn.set_result(None)

    passage.call.unrepeatable = HELD
    rpc.add_done_callback(done)
    begun.set_result(rpc)
    outcome = await turn
    if outcome is not None:
        return outcome
    code = await rpc.code()
    if code is not Code.OK:
        metadata = await rpc.initial_metadata(), await rpc.trailing_metadata()
        error = grpc.aio.AioRpcError(code, *metadata, await rpc.details())
        return passage.failed(error)
    return UnaskedOutcome() if passage.many else passage.answered(await rpc)


def _take_up(passage: Passage, rpc: Any) -> None:
    """Go on with the answers after the first, until the RPC has ended."""
    passage.take_up()

    def done(rpc: Any) -> None:
        passage.end_stream(well=not rpc.cancelled())

    rpc.add_done_callback(done)


class StreamUnary(_Held, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]  # grpc is untyped
    """Sends RPCs of several requests and one answer through a pipeline."""

    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Send one."""
        __tracebackhide__ = True
        _, rpc = await self._begin(
            client_call_details, continuation, request_iterator, many=False
        )
        return rpc


class StreamStream(_Held, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]  # grpc is untyped
    """Sends RPCs of several requests and several answers through a pipeline."""

    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Send one."""
        __tracebackhide__ = True
        passage, rpc = await self._begin(
            client_call_details, continuation, request_iterator, many=True
        )
        return TalkAnswers(passage, rpc, aiter(rpc), [])


def _of_rpc(name: str) -> Any:
    """Return a method of answers that is their RPC's."""

    def method(self: Any, *arguments: Any) -> Any:
        return getattr(self._rpc, name)(*arguments)

    return method


class _Answers:
    """The answers of an RPC, which is one of gRPC's in all else."""

    def __init__(
        self, passage: Passage, rpc: Any, answers: AsyncIterator[Any], first: list[Any]
    ) -> None:
        self._passage = passage
        self._rpc = rpc
        self._answers = answers
        self._first = first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rpc, name)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._first:
            return self._first.pop()
        passage, rpc = self._passage, self._rpc
        try:
            if passage.streaming:
                with passage.stream:
                    return await anext(self._answers)
            message = await anext(self._answers)
            await self._begun(message)
            return message
        except ResilientError as error:
            rpc.cancel()
            raise as_rpc_error(error)  # noqa: B904 - it is the same object
        except asyncio.CancelledError:
            rpc.cancel()
            await self._ended()
            raise
        except Exception:
            passage.end_stream(well=True)
            await self._ended()
            raise

    async def _begun(self, message: Any) -> None:
        """Take note of an answer."""

    async def _ended(self) -> None:
        """Take note of the end."""

    async def read(self) -> Any:
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            return _EOF

    # NB: these by name, for they are abstract in gRPC's classes.
    cancelled = _of_rpc("cancelled")
    done = _of_rpc("done")
    time_remaining = _of_rpc("time_remaining")
    cancel = _of_rpc("cancel")
    add_done_callback = _of_rpc("add_done_callback")
    initial_metadata = _of_rpc("initial_metadata")
    trailing_metadata = _of_rpc("trailing_metadata")
    code = _of_rpc("code")
    details = _of_rpc("details")
    wait_for_connection = _of_rpc("wait_for_connection")


class StreamAnswers(_Answers, grpc.aio.UnaryStreamCall):  # type: ignore[misc]  # grpc is untyped
    """The answers of an RPC with one request."""


class TalkAnswers(_Answers, grpc.aio.StreamStreamCall):  # type: ignore[misc]  # grpc is untyped
    """The answers of an RPC with several requests."""

    _passage: _HeldPassage

    async def _begun(self, message: Any) -> None:
        await self._passage.take(message, self._rpc)

    async def _ended(self) -> None:
        await self._passage.settled()

    write = _of_rpc("write")
    done_writing = _of_rpc("done_writing")
