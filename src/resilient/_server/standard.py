"""The pipeline that a server has unless it is given one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from resilient._machines.aimd import ConcurrencyLimit
from resilient._machines.gradient import Gradient
from resilient._policy.policy import Policy, begin_use
from resilient._values.traits import Trait
from resilient.policies.adaptive_concurrency import AdaptiveConcurrency
from resilient.policies.per_key import PerKey
from resilient.policies.pipeline import Pipeline
from resilient.policies.timeout import Timeout

_MEANINGLESS = Trait.RERUNS | Trait.RACES | Trait.ANSWERS | Trait.CHOOSES


def standard_server_pipeline(
    *,
    total: float | timedelta | None = 30.0,
    per_client: Callable[[Any], Policy[Any]] | None = None,
    limit: ConcurrencyLimit | None = None,
    max_queue: int = 0,
    max_clients: int = 10_000,
) -> Pipeline[Any]:
    """Return what a server does unless it is given a pipeline.

    ``Timeout(total) · PerKey(per_client) · AdaptiveConcurrency(limit)``

    Change the result with ``with_``, or write your own after its model.
    Telemetry and `health` call it ``server``.

    Args:
        total: Seconds for a request and its whole response, where browsers and
            load balancers stop waiting too; None: no limit.
        per_client: ``per_client(client)`` makes the policy of one client, as in
            ``lambda client: RateLimiter(50)``; None: there is none.
        limit: How the limit of requests at once is found. Default:
            `Gradient`, which also sees that requests slow down.
        max_queue: Requests that may wait for a slot, 0.1 s each. Default none:
            queues hide overload.
        max_clients: Clients to remember; see `PerKey`.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """
    policies: list[Policy[Any]] = [Timeout(total)]
    if per_client is not None:
        policies.append(PerKey(per_client, max_keys=max_clients))
    found = Gradient() if limit is None else limit
    policies.append(AdaptiveConcurrency(found, max_queue=max_queue))
    pipeline: Pipeline[Any] = Pipeline(*policies)
    # NB: no name, which errors would have in the place of the policy's.
    begin_use(pipeline, alias="server")
    return pipeline


def checked_server_pipeline(
    pipeline: Policy[Any] | None, colour: Literal["sync", "async"]
) -> Policy[Any]:
    """Return the pipeline that an argument names.

    Raises:
        TypeError: It is no policy, or one without a meaning in front of an
            application.
    """
    if pipeline is None:
        return standard_server_pipeline()
    if not isinstance(pipeline, Policy):
        raise TypeError(f"`pipeline` must be a Pipeline or a policy, got {pipeline!r}")
    if pipeline.traits & _MEANINGLESS:
        raise TypeError(
            f"{pipeline!r} may run a request again, answer it from elsewhere or send"
            " it elsewhere, which has no meaning in front of an application: put it"
            " around what the application calls"
        )
    begin_use(pipeline, "requests", colour, classified=True)
    return pipeline
