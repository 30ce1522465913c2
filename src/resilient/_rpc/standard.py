"""The pipeline that a client of gRPC has unless it is given one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any, Final, Literal

from resilient._policy.policy import Policy, begin_use
from resilient._rpc.passage import Rules
from resilient._rpc.statuses import checked_idempotent, checked_statuses, rpc_verdict
from resilient._values.traits import Trait
from resilient.policies.balance.balance import Balance
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.per_key import PerKey
from resilient.policies.pipeline import Pipeline
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout

_MEANINGLESS: Final = Trait.RACES | Trait.SHARES


def standard_client_pipeline(
    *,
    total: float | timedelta | None = 30.0,
    attempt: float | timedelta | None = 10.0,
    attempts: int = 3,
    breaker: bool = True,
    balance: Balance[Any] | None = None,
) -> Pipeline[Any]:
    """Return what the RPCs of a channel go through unless they are given a pipeline.

    ``Timeout(total) · Retry · CircuitBreaker · Timeout(attempt)``

    For one channel: the breaker is that of its server. With a `Balance`, as
    `resilient.grpc.balanced_channel` needs one, there is a breaker for each endpoint:

    ``Timeout(total) · Retry · balance · PerKey(CircuitBreaker) · Timeout(attempt)``

    Change the result with ``with_``, or write your own after its model. Telemetry and
    `health` call it ``grpc``.

    Args:
        total: Seconds for an RPC with all its attempts and all its answers; None: no
            limit. A ``timeout=`` of the stub holds, too.
        attempt: Seconds for the answer of each attempt, of a stream for its first;
            None: no limit.
        attempts: Attempts in all, the first included.
        breaker: Whether a circuit breaker stands around each attempt.
        balance: What chooses the endpoint of each attempt; None: there is one.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """
    policies: list[Policy[Any]] = [Timeout(total), Retry(attempts=attempts)]
    if balance is not None:
        policies.append(balance)
    if breaker and balance is None:
        policies.append(CircuitBreaker())
    elif breaker:
        policies.append(PerKey(lambda endpoint: CircuitBreaker()))
    pipeline: Pipeline[Any] = Pipeline(
        *policies, Timeout(attempt), classify=rpc_verdict
    )
    # NB: no name, which errors would have in the place of the policy's.
    begin_use(pipeline, alias="grpc")
    return pipeline


def checked_rules(
    pipeline: Policy[Any] | None,
    colour: Literal["sync", "async"],
    idempotent: bool | Callable[[str], bool],
    retry_statuses: Collection[Any] | None,
    *,
    chooses: bool = False,
) -> Rules:
    """Return what interceptors were told, checked.

    Args:
        pipeline: See `resilient.grpc.client_interceptors`.
        colour: Of the channel.
        idempotent: See there.
        retry_statuses: See there.
        chooses: Whether it may say where an RPC goes.

    Raises:
        TypeError, ValueError: An argument has no meaning.
    """
    if pipeline is None:
        pipeline = standard_client_pipeline()
    if not isinstance(pipeline, Policy):
        raise TypeError(f"`pipeline` must be a Pipeline or a policy, got {pipeline!r}")
    if pipeline.traits & _MEANINGLESS:
        raise TypeError(
            f"{pipeline!r} may run an RPC several times at once or give one answer to"
            " several RPCs, which interceptors cannot: put it around what calls the"
            " stub"
        )
    if pipeline.traits & Trait.CHOOSES and not chooses:
        raise TypeError(
            f"{pipeline!r} may choose where an RPC goes, which the interceptors of one"
            " channel cannot: use balanced_channel() or abalanced_channel()"
        )
    begin_use(pipeline, "requests", colour, classified=True)
    return Rules(
        pipeline, checked_idempotent(idempotent), checked_statuses(retry_statuses)
    )
