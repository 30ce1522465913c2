"""The pipeline that a transport has unless it is given one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, TypeVar

from resilient._calls.judging import marks_judged
from resilient._calls.outcome import Outcome, Verdict
from resilient._http.stated import ClientTimeout
from resilient._policy.policy import Policy, begin_use
from resilient.policies.circuit_breaker import CircuitBreaker
from resilient.policies.per_key import PerKey
from resilient.policies.pipeline import Pipeline
from resilient.policies.retry import Retry
from resilient.policies.timeout import Timeout

F = TypeVar("F", covariant=True)


@marks_judged
def http_verdict(outcome: Outcome) -> Verdict:
    """Judge an outcome as the transport that made it does.

    For ``classify`` and ``on`` in pipelines of your own::

        Pipeline(Retry(), CircuitBreaker(), classify=http_verdict)

    ============================================= =========================
    outcome                                       verdict
    ============================================= =========================
    421, 425, 429: refused by a server that works PUSHBACK, which opens no
                                                  circuit
    529; 503 with a ``Retry-After``               PUSHBACK, which opens no
                                                  circuit where the call's
                                                  `priority` is below normal
    408; any other 5xx but 501, 505, 508, 510     FAILURE
    and 511
    any other response                            SUCCESS
    … from 400 on, with ``x-should-retry: true``  FAILURE, which opens no
                                                  circuit
    connecting, writing or reading failed         FAILURE
    a timeout, the client's or a policy's         FAILURE
    no place in the pool, no file descriptor      FAILURE, which says nothing
                                                  of the server
    what time will not mend: a certificate, a     IGNORED; of a certificate
    TLS alert, a scheme, a header of ours, a      and an alert FAILURE where a
    proxy that refuses (403, 407)                 `Balance` chose the server
    our rejections; what is not of the network    IGNORED
    ============================================= =========================

    The outcome's `retry_after` is what the server asked for, whatever the
    status: a ``classify`` of your own may ask for it.
    """
    return outcome.verdict


def per_origin(
    factory: Callable[[str], Policy[F]], *, max_keys: int = 10_000
) -> PerKey[F]:
    """Give each origin a policy of its own.

    An origin is scheme, host and port, as in ``https://api.example.com``: one
    that is dead must not eat what is meant for the others.

    Args:
        factory: ``factory(origin)`` makes a policy.
        max_keys: Origins to remember; see `PerKey`.
    """
    return PerKey(factory, max_keys=max_keys)


def standard_pipeline(
    *,
    total: float | timedelta | Literal["client"] | None = "client",
    attempt: float | timedelta | Literal["client"] | None = "client",
    attempts: int = 3,
    breaker: bool = True,
) -> Pipeline[Any]:
    """Return what a transport does unless it is given a pipeline.

    ``Timeout(total) · per origin: Retry · CircuitBreaker · Timeout(attempt)``

    The retries' budget and the breaker are each origin's own. Change the
    result with ``with_``, or write your own after its model. Telemetry and
    `health` call it ``http``.

    Args:
        total: Seconds for a request with all its attempts, and for the body
            of its response; None: no limit. "client" (default): 30, where
            browsers and load balancers stop waiting too, or what all attempts
            may take by the client's word, whichever is longer.
        attempt: Seconds for the headers of each attempt, and for a body that
            is read with them; None: no limit. "client" (default): the largest
            timeout that the client states for a request, None for none; 10
            where it has its library's default.
        attempts: Attempts in all, the first included.
        breaker: Whether a circuit breaker stands around each attempt.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """

    def for_origin(origin: str) -> Pipeline[Any]:
        policies: list[Policy[Any]] = [Retry(attempts=attempts)]
        if breaker:
            policies.append(CircuitBreaker(name=origin))
        limit = ClientTimeout(10.0) if attempt == "client" else Timeout(attempt)
        return Pipeline(*policies, limit, classify=http_verdict)

    # NB: made once for nothing, so that a bad argument is refused here and not
    # at the first request.
    for_origin("")
    limit = ClientTimeout(30.0, times=attempts) if total == "client" else Timeout(total)
    pipeline = Pipeline(limit, per_origin(for_origin))
    # NB: no name, which errors would have in the place of the request's.
    begin_use(pipeline, alias="http")
    return pipeline
