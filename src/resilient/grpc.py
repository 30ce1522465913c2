"""gRPC servers: every RPC behind a pipeline.

::

    server = grpc.aio.server(interceptors=[aserver_interceptor()])

Needs the extra ``grpc``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from datetime import timedelta
from typing import Any

try:
    import grpc  # type: ignore[import-untyped]  # its stubs are a package of others
    import grpc.aio  # type: ignore[import-untyped]
except ModuleNotFoundError as _error:
    _error.add_note("resilient.grpc needs grpcio: install resilient-pipeline[grpc]")
    raise

from resilient._policy.policy import Policy
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

__all__ = [
    "Rpc",
    "aserver_interceptor",
    "peer_address",
    "server_interceptor",
    "standard_server_pipeline",
]


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


for _thing in (Rpc, peer_address):
    _thing.__module__ = __name__
