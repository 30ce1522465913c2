"""Client interceptors for `grpc.intercept_channel`.

gRPC has an interceptor return what is both the answer and the RPC, a `grpc.Call` that
is a `grpc.Future`. That of a blocking stub has ended when it is returned; that of
``stub.future(…)`` has not, which is how the two are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import Token
from typing import Any

import grpc  # type: ignore[import-untyped]  # its stubs are a package of others

from resilient._calls.call import Call, enter_call, forget_call, leave_call
from resilient._calls.outcome import Outcome, UnaskedOutcome
from resilient._errors.errors import ResilientError
from resilient._errors.tracebacks import raised_by
from resilient._rpc.errors import as_rpc_error
from resilient._rpc.passage import Passage, Rules
from resilient._runtimes.sync import SYNC


class ClientInterceptor(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]  # grpc is untyped
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Sends the RPCs of a channel through a pipeline."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def __repr__(self) -> str:
        return f"client_interceptors({self._rules.policy!r})"

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Send an RPC of one request and one answer."""
        __tracebackhide__ = True
        passage = Passage(self._rules, client_call_details, request, SYNC)
        return self._answer(passage, continuation, request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Send an RPC of several requests and one answer: once."""
        __tracebackhide__ = True
        passage = Passage(
            self._rules, client_call_details, request_iterator, SYNC, once=True
        )
        return self._answer(passage, continuation, request_iterator)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Send an RPC of one request and several answers, of which one is awaited."""
        __tracebackhide__ = True
        passage = Passage(self._rules, client_call_details, request, SYNC, many=True)
        policy = self._rules.policy
        rpc: Any = None
        message: Any = None
        error: Exception | None = None

        def attempt() -> Outcome:
            nonlocal rpc, message
            rpc = None
            try:
                try:
                    rpc = continuation(passage.prepare(), request)
                    message = next(rpc)
                except StopIteration:
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
            passage.drive_in_sync(attempt)
            error = passage.error()
            if error is not None:
                raise raised_by(policy, error)
            if not passage.goes_on:
                passage.leave()
                return rpc
            passage.go_on(rpc)
            return Answers(passage, rpc, [message])
        finally:
            if token is None:
                forget_call(passage.call)
            else:
                leave_call(token)
            if passage.outcome is None:
                passage.close()
            # NB: the error's traceback holds this frame, and an RPC is its own error.
            rpc = error = None

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Send an RPC of several requests and several answers: once."""
        __tracebackhide__ = True
        passage = Passage(
            self._rules,
            client_call_details,
            request_iterator,
            SYNC,
            once=True,
            many=True,
        )
        rpc = self._answer(passage, continuation, request_iterator)
        return Answers(passage, rpc, [])

    def _answer(
        self, passage: Passage, continuation: Callable[..., Any], request: Any
    ) -> Any:
        """Return an RPC that has its one answer, or that its caller waits for."""
        __tracebackhide__ = True
        policy = self._rules.policy
        rpc: Any = None
        error: Exception | None = None
        held = False

        def attempt() -> Outcome | None:
            nonlocal rpc, error, held
            try:
                rpc = continuation(passage.prepare(), request)
                if passage.many or not rpc.done():
                    held = True
                    passage.hold(rpc)
                    return None
                error = rpc.exception()
            except Exception as raised:
                error = raised
            if error is not None:
                return passage.failed(error)
            return passage.answered(rpc.result())

        token: Token[Call | None] | None = None
        try:
            token = enter_call(passage.call)
            if not passage.drive_in_sync(attempt):
                return rpc
            error = passage.error()
            if error is not None:
                raise raised_by(policy, error)
            assert passage.outcome is not None
            if passage.replaced:
                rpc = Replaced(passage.outcome.value)
            passage.leave()
            return rpc
        finally:
            if token is None:
                forget_call(passage.call)
            else:
                leave_call(token)
            if passage.outcome is None and not held:
                passage.close()
            # NB: the error's traceback holds this frame, and an RPC is its own error.
            rpc = error = None


class Answers:
    """The answers of an RPC, which is a `grpc.Call` in all else."""

    def __init__(self, passage: Passage, rpc: Any, first: list[Any]) -> None:
        self._passage = passage
        self._rpc = rpc
        self._first = first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rpc, name)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._first:
            return self._first.pop()
        passage, rpc = self._passage, self._rpc
        try:
            message = passage.next_in_sync(rpc)
        except ResilientError as error:
            rpc.cancel()
            raise as_rpc_error(error)  # noqa: B904 - it is the same object
        except BaseException:
            if rpc.done():
                passage.over(rpc)
            raise
        return message

    next = __next__


class Replaced(grpc.Call, grpc.Future):  # type: ignore[misc]  # grpc is untyped
    """The answer of a policy in the place of that of a server."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def result(self, timeout: float | None = None) -> Any:
        return self._answer

    def exception(self, timeout: float | None = None) -> None:
        pass

    def traceback(self, timeout: float | None = None) -> None:
        pass

    def initial_metadata(self) -> Any:
        return ()

    def trailing_metadata(self) -> Any:
        return ()

    def code(self) -> Any:
        return grpc.StatusCode.OK

    def details(self) -> str:
        return ""

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    cancelled = running = is_active = cancel

    def time_remaining(self) -> Any:
        return None

    def add_callback(self, callback: object) -> bool:
        return False

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        fn(self)
