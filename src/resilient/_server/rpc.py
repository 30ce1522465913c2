"""gRPC servers: interceptors that put every RPC behind a pipeline.

Ground rules:

* All four kinds are streams here, a unary answer one of a single item: an attempt
  lasts until the first message, permits are held until the last one, as those of a
  generator are (`_edges.generators`).
* gRPC itself ends an RPC at its client's deadline, and cancels the task of an
  asyncio handler. Of threads nothing is interrupted: the deadline tells.
* A status that the handler chose is judged by its number: what is the client's
  fault says nothing against this server.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterator
from datetime import timedelta
from typing import Any, Final, Literal, NoReturn, cast
from urllib.parse import unquote

import grpc  # type: ignore[import-untyped]  # its stubs are a package of others
import grpc.aio  # type: ignore[import-untyped]

from resilient._calls.call import Call
from resilient._calls.outcome import FAILURE, Outcome
from resilient._edges.generators import (
    Stream,
    StreamLimit,
    TotalLimit,
    async_generator_edge,
    generator_edge,
)
from resilient._errors.errors import ResilientError
from resilient._policy.policy import Policy
from resilient._runtimes import clock
from resilient._server.answers import ANSWERED, rpc_status
from resilient._server.front import Front
from resilient._server.scopes import LOCAL, address_key
from resilient._values.priority import Priority, PriorityName
from resilient._values.records import Record

HEALTH: Final = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch")
"""What probes ask, and may ask while all slots are taken."""

FAULTS: Final = {2, 4, 13, 14, 15}
"""UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS: what HTTP says by a
5xx, and what an overloaded server answers."""

_ENDLESS: Final = 1e8
"""Seconds, three years: an RPC without a deadline has this long or longer."""


class Rpc(Record):
    """An RPC before it is admitted.

    Attributes:
        method: Its full name, as in "/shop.Orders/Get".
        context: gRPC's own, of which `metadata` and `peer` are read.
    """

    __slots__ = ("context", "method")

    method: str
    context: Any

    def __repr__(self) -> str:
        return f"<Rpc {self.method!r}>"

    @property
    def metadata(self) -> dict[str, str | bytes]:
        """What the client sent along; of a key that is sent twice the last value."""
        return dict(self.context.invocation_metadata() or ())

    @property
    def peer(self) -> str:
        """What gRPC calls the client, as in "ipv4:192.0.2.1:5000"."""
        peer: str = self.context.peer()
        return peer


def peer_address(rpc: Rpc) -> str:
    """Return the address of an RPC's peer, for a limit of its own.

    As `resilient.asgi.peer_address` does: of IPv6 the /64, no metadata is read, and
    "local" where gRPC knows none, as on a Unix socket.

    Args:
        rpc: The RPC.
    """
    kind, _, rest = unquote(rpc.peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return LOCAL
    return address_key(rest.rpartition(":")[0].strip("[]"))


class RpcFront(Front[Rpc]):
    """A pipeline in front of the handlers of a gRPC server.

    See `resilient.grpc.server_interceptor` for the arguments.
    """

    def __init__(
        self,
        pipeline: Policy[Any] | None,
        colour: Literal["sync", "async"],
        *,
        client: Callable[[Rpc], Hashable] | None,
        priority: Callable[[Rpc], PriorityName | Priority | None] | None,
        max_deadline: float | timedelta,
        min_deadline: float | timedelta,
        exempt: Collection[str],
    ) -> None:
        super().__init__(
            pipeline,
            colour,
            client=client or peer_address,
            priority=priority,
            deadline_header=None,
            max_deadline=max_deadline,
            min_deadline=min_deadline,
            exempt=exempt,
            rate_limit_headers=False,
            allow_origins=(),
        )

    def time_left(self, context: Any) -> float:
        """Return the seconds that an RPC has; 0: there is no time to begin."""
        left = context.time_remaining()
        return self.granted(_ENDLESS if left is None else left)

    def guarded(self, method: str, handler: Any, *, aio: bool) -> Any:
        """Return a handler as the pipeline protects it; None: there is none."""
        if handler is None or method in self.exempt:
            return handler
        many = bool(handler.response_streaming)
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if many else "_unary"
        )
        behaviour = getattr(handler, kind)
        kind_of_call = cast("type[Stream]", functools.partial(_RpcStream, self, method))
        if aio and inspect.isasyncgenfunction(behaviour):
            stream = _async_answers(behaviour, many=True)
            edge = async_generator_edge(self.pipeline, stream, method, kind_of_call)
            guarded: Any = _async_stream(edge)
        elif aio and inspect.iscoroutinefunction(behaviour):
            # NB: of a streaming kind, too, one that writes its messages itself.
            stream = _async_answers(behaviour, many=False)
            edge = async_generator_edge(self.pipeline, stream, method, kind_of_call)
            guarded = _async_unary(edge)
        else:
            answers = _answers(behaviour, many=many)
            edge = generator_edge(self.pipeline, answers, method, kind_of_call)
            guarded = _stream(edge) if many else _unary(edge)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(guarded, handler.request_deserializer, handler.response_serializer)


class ServerInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc is untyped
    """Puts the handlers of a `grpc.server` behind a pipeline."""

    def __init__(self, front: RpcFront) -> None:
        self._front = front

    def __repr__(self) -> str:
        return f"server_interceptor({self._front.pipeline!r})"

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: Any
    ) -> Any:
        """Return the handler of an RPC as the pipeline protects it."""
        handler = continuation(handler_call_details)
        return self._front.guarded(handler_call_details.method, handler, aio=False)


class AioServerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc is untyped
    """Puts the handlers of a `grpc.aio.server` behind a pipeline."""

    def __init__(self, front: RpcFront) -> None:
        self._front = front

    def __repr__(self) -> str:
        return f"aserver_interceptor({self._front.pipeline!r})"

    async def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: Any
    ) -> Any:
        """Return the handler of an RPC as the pipeline protects it."""
        handler = await continuation(handler_call_details)
        return self._front.guarded(handler_call_details.method, handler, aio=True)


class _RpcStream(Stream):
    """An RPC from its first message to its last, with the limit of its client."""

    __slots__ = ("_context", "_policy_limit", "_total")

    def __init__(self, front: RpcFront, method: str, call: Call) -> None:
        self._total: TotalLimit | None = None
        super().__init__(call)
        self._context: Any = call.args[1]
        seconds = front.time_left(self._context)
        front.place(call, Rpc(method, self._context), seconds)
        self._total = TotalLimit(method, seconds, clock.now() + seconds)

    @property
    def limit(self) -> StreamLimit | None:
        """What ends first: the limit of the policies or that of the client."""
        own, total = self._policy_limit, self._total
        if own is None or (total is not None and total.deadline < own.deadline):
            return total
        return own

    @limit.setter
    def limit(self, limit: StreamLimit | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]  # its base has a slot
        self._policy_limit = limit

    def first(self, item: Any) -> Outcome:
        outcome = super().first(item)
        if not isinstance(item, _Aborted) and _code(self._context) in FAULTS:
            outcome.verdict = FAILURE
        return outcome


class _Aborted:
    """What a handler raised with a status that is no fault of this server."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error: Exception = error

    def again(self) -> NoReturn:
        """Raise it."""
        error = self.error
        del self.error
        try:
            raise error
        finally:
            # NB: its traceback holds this frame.
            del error


def _code(context: Any) -> int:
    """Return the number of the status that a handler has set; 0: none, or OK."""
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        code = code.value[0]
    return code or 0


def _is_aborted(context: Any) -> bool:
    """Whether an error comes with a status that is no fault of this server."""
    return _code(context) not in (0, *FAULTS)


def _refusal(context: Any, error: ResilientError) -> tuple[Any, str]:
    """Prepare the status of an error of ours."""
    name, pushback = rpc_status(error)
    if pushback is not None:
        pair = ("grpc-retry-pushback-ms", str(pushback))
        context.set_trailing_metadata((pair,))
    return grpc.StatusCode[name], name.replace("_", " ").lower()


# -- Handlers in threads


def _answers(behaviour: Callable[..., Any], *, many: bool) -> Any:
    def answers(request: Any, context: Any) -> Iterator[Any]:
        try:
            if many:
                yield from behaviour(request, context)
            else:
                yield behaviour(request, context)
        except Exception as error:
            if not _is_aborted(context):
                raise
            aborted = _Aborted(error)
        else:
            return
        yield aborted

    return answers


def _unary(edge: Callable[..., Any]) -> Any:
    def unary(request: Any, context: Any) -> Any:
        stream = edge(request, context)
        try:
            item = next(stream)
            if isinstance(item, _Aborted):
                item.again()
            return item
        except ANSWERED as error:
            context.abort(*_refusal(context, error))
        finally:
            stream.close()

    return unary


def _stream(edge: Callable[..., Any]) -> Any:
    def stream(request: Any, context: Any) -> Iterator[Any]:
        items = edge(request, context)
        try:
            for item in items:
                if isinstance(item, _Aborted):
                    item.again()
                yield item
        except ANSWERED as error:
            context.abort(*_refusal(context, error))
        finally:
            items.close()

    return stream


# -- Handlers in tasks


def _async_answers(behaviour: Callable[..., Any], *, many: bool) -> Any:
    async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            if many:
                async for item in behaviour(request, context):
                    yield item
            else:
                yield await behaviour(request, context)
        except Exception as error:
            if not _is_aborted(context):
                raise
            aborted = _Aborted(error)
        else:
            return
        yield aborted

    return answers


def _async_unary(edge: Callable[..., Any]) -> Any:
    async def unary(request: Any, context: Any) -> Any:
        stream = edge(request, context)
        try:
            item = await anext(stream)
            if isinstance(item, _Aborted):
                item.again()
            return item
        except ANSWERED as error:
            await context.abort(*_refusal(context, error))
        finally:
            await stream.aclose()

    return unary


def _async_stream(edge: Callable[..., Any]) -> Any:
    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        items = edge(request, context)
        try:
            async for item in items:
                if isinstance(item, _Aborted):
                    item.again()
                yield item
        except ANSWERED as error:
            await context.abort(*_refusal(context, error))
        finally:
            await items.aclose()

    return stream
