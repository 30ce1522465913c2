"""gRPC: every RPC of a server behind a pipeline, every RPC of a client through one.

::

    server = grpc.aio.server(interceptors=[aserver_interceptor()])
    channel = grpc.aio.insecure_channel(target, interceptors=aclient_interceptors())

Needs the extra ``grpc``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from datetime import timedelta
from typing import Any, Literal

try:
    import grpc  # type: ignore[import-untyped]  # its stubs are a package of others
    import grpc.aio  # type: ignore[import-untyped]
except ModuleNotFoundError as _error:
    _error.add_note("resilient.grpc needs grpcio: install resilient-pipeline[grpc]")
    raise

from resilient._policy.policy import Policy
from resilient._rpc import tasks as _tasks
from resilient._rpc.balanced import Channels, TaskChannel, ThreadChannel
from resilient._rpc.errors import (
    BulkheadFullError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoEndpointError,
    RateLimitedError,
    RejectedError,
    ThrottledError,
    TimeoutExceededError,
)
from resilient._rpc.passage import Rules
from resilient._rpc.standard import checked_rules, standard_client_pipeline
from resilient._rpc.statuses import rpc_verdict
from resilient._rpc.threads import ClientInterceptor
from resilient._server.rpc import (
    HEALTH,
    AioServerInterceptor,
    Rpc,
    RpcFront,
    ServerInterceptor,
    peer_address,
)
from resilient._server.standard import standard_server_pipeline
from resilient._values.priority import Priority, PriorityName
from resilient.policies.balance.balance import Balance

__all__ = [
    "BulkheadFullError",
    "CircuitOpenError",
    "ConcurrencyLimitedError",
    "DeadlineExceededError",
    "NoEndpointError",
    "RateLimitedError",
    "RejectedError",
    "Rpc",
    "ThrottledError",
    "TimeoutExceededError",
    "abalanced_channel",
    "aclient_interceptors",
    "aserver_interceptor",
    "balanced_channel",
    "client_interceptors",
    "peer_address",
    "rpc_verdict",
    "server_interceptor",
    "standard_client_pipeline",
    "standard_server_pipeline",
]


def client_interceptors(
    pipeline: Policy[Any] | None = None,
    *,
    idempotent: bool | Callable[[str], bool] = False,
    retry_statuses: Collection[grpc.StatusCode] | None = None,
) -> tuple[grpc.UnaryUnaryClientInterceptor, ...]:
    """Send the RPCs of a channel through a pipeline.

    All four kinds, in threads::

        channel = grpc.intercept_channel(channel, *client_interceptors())

    What is left of a deadline, of the pipeline's, a ``timeout=`` of the stub or one
    around the call, is that of each attempt, and travels to the server. An RPC is
    sent again by a `Retry` where its method is idempotent and its status is one of
    `retry_statuses`, or where the server refuses it with RESOURCE_EXHAUSTED and says
    when to come back, never where it says not to. Our errors are gRPC's as well:
    ``except grpc.RpcError as error`` catches them, and ``error.code()`` is
    UNAVAILABLE for an open circuit, RESOURCE_EXHAUSTED for a limit and
    DEADLINE_EXCEEDED for a timeout.

    An RPC with several answers is returned with the first one; until then it is sent
    again. One with several requests is sent once, and so is ``stub.future(…)``. A
    slot is held until the RPC has ended.

    Args:
        pipeline: A `Pipeline` or policy; default `standard_client_pipeline`. One for
            each channel, for a breaker is that of one server.
        idempotent: Which methods may run twice: all (True), none, or a function of
            the full name, as in ``lambda method: method.startswith("/shop.Stock/")``.
        retry_statuses: Statuses after which an idempotent RPC is sent again. Default:
            UNAVAILABLE alone, as in gRPC's own retry policies.

    Raises:
        TypeError, ValueError: An argument has no meaning.

    Source: gRPC, "Status codes and their use"; gRFC A6 for retries and pushback.
    """
    rules = checked_rules(pipeline, "sync", idempotent, retry_statuses)
    return (ClientInterceptor(rules),)


def aclient_interceptors(
    pipeline: Policy[Any] | None = None,
    *,
    idempotent: bool | Callable[[str], bool] = False,
    retry_statuses: Collection[grpc.StatusCode] | None = None,
) -> tuple[grpc.aio.ClientInterceptor, ...]:
    """Send the RPCs of a channel of `grpc.aio` through a pipeline.

    As `client_interceptors`, whose arguments it has::

        channel = grpc.aio.insecure_channel(target, interceptors=aclient_interceptors())

    A `Timeout` of the pipeline cancels an attempt that takes too long.
    """
    return _of_tasks(checked_rules(pipeline, "async", idempotent, retry_statuses))


def balanced_channel(
    pipeline: Policy[Any],
    *,
    factory: Callable[[str], grpc.Channel],
    idempotent: bool | Callable[[str], bool] = False,
    retry_statuses: Collection[grpc.StatusCode] | None = None,
) -> grpc.Channel:
    """Return a channel to several servers: each attempt goes to the best of them.

    For any stub::

        replicas = Balance("10.0.0.1:50051", "10.0.0.2:50051")
        channel = balanced_channel(replicas, factory=grpc.insecure_channel)

    All four kinds of RPC, as through `client_interceptors`. A `Retry` sends an RPC to
    an endpoint that it was not sent to yet. Each endpoint has one channel, made when
    the first RPC is sent there. It is closed when the endpoint is drained or has left
    and no RPC is in it, a second later and with a next RPC; all are closed with this
    one.

    Args:
        pipeline: A `Pipeline` with a `Balance` in it. Or a `Balance` alone: then it is
            ``standard_client_pipeline(balance=…)``, with a breaker for each
            endpoint. Endpoints are targets, or pairs of host and port as
            `resilient.discovery` finds them.
        factory: ``factory(target)`` makes the channel of an endpoint, as in
            ``lambda target: grpc.secure_channel(target, credentials, options)``.
            Where the target is no name that its certificate has, the option
            ``("grpc.ssl_target_name_override", name)`` says it.
        idempotent: See `client_interceptors`.
        retry_statuses: See there.

    Raises:
        TypeError, ValueError: An argument has no meaning; at the RPC: an endpoint
            that a source has found is no target.

    Source: gRFC A6, "distinct backends, if possible".
    """
    rules = _rules_of_several(pipeline, "sync", idempotent, retry_statuses)
    channel = ThreadChannel(Channels(rules, factory, grpc.Channel))
    return grpc.intercept_channel(channel, ClientInterceptor(rules))


def abalanced_channel(
    pipeline: Policy[Any],
    *,
    factory: Callable[[str], grpc.aio.Channel],
    idempotent: bool | Callable[[str], bool] = False,
    retry_statuses: Collection[grpc.StatusCode] | None = None,
) -> grpc.aio.Channel:
    """Return a channel of `grpc.aio` to several servers.

    As `balanced_channel`, whose arguments it has::

        channel = abalanced_channel(replicas, factory=grpc.aio.insecure_channel)
    """
    rules = _rules_of_several(pipeline, "async", idempotent, retry_statuses)
    return TaskChannel(Channels(rules, factory, grpc.aio.Channel), _of_tasks(rules))


def _rules_of_several(
    pipeline: Policy[Any], colour: Literal["sync", "async"], *told: Any
) -> Rules:
    given: Any = pipeline
    if isinstance(pipeline, Balance):
        given = standard_client_pipeline(balance=given)
    return checked_rules(given, colour, *told, chooses=True)


def _of_tasks(rules: Rules) -> tuple[grpc.aio.ClientInterceptor, ...]:
    return (
        _tasks.UnaryUnary(rules),
        _tasks.UnaryStream(rules),
        _tasks.StreamUnary(rules),
        _tasks.StreamStream(rules),
    )


def server_interceptor(
    pipeline: Policy[Any] | None = None,
    *,
    client: Callable[[Rpc], Hashable] | None = None,
    priority: Callable[[Rpc], PriorityName | Priority | None] | None = None,
    max_deadline: float | timedelta = 30.0,
    min_deadline: float | timedelta = 0.0,
    exempt: Collection[str] = HEALTH,
) -> grpc.ServerInterceptor:
    """Put the handlers of a `grpc.server` behind a pipeline.

    All four kinds of RPC, in threads::

        server = grpc.server(pool, interceptors=[server_interceptor()])

    An RPC that the pipeline rejects ends without its handler: RESOURCE_EXHAUSTED
    where a limit is reached, with ``grpc-retry-pushback-ms``, UNAVAILABLE where a
    circuit is open, DEADLINE_EXCEEDED where no time is left. So does one whose
    handler lets such an error of a pipeline of its own through. Slots are held
    until the last message; latency is that of the first.

    A handler that raises, or ends with UNKNOWN, DEADLINE_EXCEEDED, INTERNAL,
    UNAVAILABLE or DATA_LOSS, has failed; any other status is the client's affair.

    Args:
        pipeline: A `Pipeline` or policy; default `standard_server_pipeline`. It
            must not run RPCs again.
        client: ``client(rpc)`` names the client that a `PerKey` of the pipeline is
            to limit. Default: `peer_address`.
        priority: ``priority(rpc)`` says how important an RPC is; None is "normal".
            No metadata is read by default.
        max_deadline: Seconds that an RPC has whose client grants more, or does not
            say. A deadline for what the handler calls; a stream is ended by it.
        min_deadline: Seconds; with less than this an RPC ends DEADLINE_EXCEEDED
            and is not begun.
        exempt: Methods that are never limited; default: those of the health
            service.

    Raises:
        TypeError, ValueError: An argument has no meaning.

    Source: gRPC, "Status codes and their use"; gRFC A6 for the pushback.
    """
    front = RpcFront(
        pipeline,
        "sync",
        client=client,
        priority=priority,
        max_deadline=max_deadline,
        min_deadline=min_deadline,
        exempt=exempt,
    )
    return ServerInterceptor(front)


def aserver_interceptor(
    pipeline: Policy[Any] | None = None,
    *,
    client: Callable[[Rpc], Hashable] | None = None,
    priority: Callable[[Rpc], PriorityName | Priority | None] | None = None,
    max_deadline: float | timedelta = 30.0,
    min_deadline: float | timedelta = 0.0,
    exempt: Collection[str] = HEALTH,
) -> grpc.aio.ServerInterceptor:
    """Put the handlers of a `grpc.aio.server` behind a pipeline.

    As `server_interceptor`, whose arguments it has; handlers are tasks, which a
    `Timeout` of the pipeline cancels, as gRPC does when a client goes or its
    deadline has passed. An RPC that is cancelled says nothing about this server.
    """
    front = RpcFront(
        pipeline,
        "async",
        client=client,
        priority=priority,
        max_deadline=max_deadline,
        min_deadline=min_deadline,
        exempt=exempt,
    )
    return AioServerInterceptor(front)


for _thing in (
    BulkheadFullError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoEndpointError,
    RateLimitedError,
    RejectedError,
    Rpc,
    ThrottledError,
    TimeoutExceededError,
    peer_address,
):
    _thing.__module__ = __name__
