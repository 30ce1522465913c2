"""What the status of an RPC says of the server, and whether it may be sent again.

Ground rules:

* gRPC does not say of a method whether it may run twice, so the user does: by
  default none may.
* A server that refuses an RPC as one too many and says when to come back has not
  run it.
* A status that is the client's affair says that the server works.

Pure: a status and metadata in, a verdict and a reason out.

=========================================== ======== ======= ====================
status                                      verdict  health  sent again
=========================================== ======== ======= ====================
RESOURCE_EXHAUSTED                          PUSHBACK SUCCESS with a pushback
UNAVAILABLE with a pushback                 PUSHBACK –       if idempotent
UNAVAILABLE                                 FAILURE  –       if idempotent
UNKNOWN, DEADLINE_EXCEEDED, INTERNAL,       FAILURE  –       if listed, and
DATA_LOSS                                                    idempotent
CANCELLED                                   IGNORED  –       no
any other that is listed                    FAILURE  SUCCESS if idempotent
any other                                   SUCCESS  –       no
=========================================== ======== ======= ====================

Source: gRPC, "Status codes and their use"; gRFC A6 for pushback: a negative one, or
one that is no number, asks for no retry at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, NamedTuple

import grpc  # type: ignore[import-untyped]  # its stubs are a package of others

from resilient._calls.judging import marks_judged
from resilient._calls.outcome import FAILURE, IGNORED, SUCCESS, Outcome, Verdict
from resilient._server.rpc import FAULTS
from resilient._values.checks import collection, plain

Code: Any = grpc.StatusCode

RETRIED: Final = frozenset({Code.UNAVAILABLE})
"""What gRPC's own retry policies list: the server was not reached, or is going away."""

_PUSHBACK: Final = "grpc-retry-pushback-ms"

_MILLISECONDS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
"""Eleven days at most: what is longer is no advice."""

SENT_ONCE: Final = "its messages can be sent only once"


class Judgement(NamedTuple):
    """What a status says.

    Attributes:
        verdict, health, retry_after: See `Outcome`.
        unrepeatable: Why the RPC must not be sent again; None: it may.
    """

    verdict: Verdict
    health: Verdict | None
    retry_after: float | None
    unrepeatable: str | None


def judge(
    code: Any,
    metadata: Iterable[tuple[str, str | bytes]] | None,
    statuses: frozenset[Any],
    once: str | None,
) -> Judgement:
    """Judge an RPC that ended with a status that is not OK.

    Args:
        code: The status.
        metadata: What came at its end.
        statuses: Those that may be sent again.
        once: Why an RPC that may have run must not run again; None: it may.
    """
    wait = pushback(metadata)
    health: Verdict | None = None
    refused = code is Code.RESOURCE_EXHAUSTED
    if refused:
        verdict, health = Verdict.PUSHBACK, SUCCESS
    elif code.value[0] in FAULTS:
        pushes = code is Code.UNAVAILABLE and wait is not None and wait >= 0
        verdict = Verdict.PUSHBACK if pushes else FAILURE
    elif code is Code.CANCELLED:
        verdict = IGNORED
    elif code in statuses:
        verdict, health = FAILURE, SUCCESS
    else:
        verdict = SUCCESS
    reason: str | None
    if wait is not None and wait < 0:
        reason, wait = "the server says not to send it again", None
    elif refused and wait is not None:
        reason = once if once is SENT_ONCE else None
    else:
        reason = once if code in statuses else f"{code.name} is not retried"
    return Judgement(verdict, health, wait, reason)


def pushback(metadata: Iterable[tuple[str, str | bytes]] | None) -> float | None:
    """Return the seconds that a server asks to be left alone for.

    Returns:
        -1.0: it asks for no retry; None: it asks for nothing.
    """
    for key, value in metadata or ():
        if key == _PUSHBACK:
            text = value if isinstance(value, str) else ""
            return int(text) / 1000 if _MILLISECONDS.fullmatch(text) else -1.0
    return None


@marks_judged
def rpc_verdict(outcome: Outcome) -> Verdict:
    """Judge an outcome as the interceptor that made it does.

    For ``classify`` and ``on`` in pipelines of your own::

        Pipeline(Retry(), CircuitBreaker(), classify=rpc_verdict)

    UNAVAILABLE, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL and DATA_LOSS are FAILURE, and
    UNAVAILABLE with a pushback is PUSHBACK; so is RESOURCE_EXHAUSTED, which opens no
    circuit. CANCELLED is IGNORED, and so is an error that is none of gRPC's. Any
    other status is a SUCCESS of the server, but that one in `retry_statuses` is a
    FAILURE that opens no circuit.
    """
    return outcome.verdict


def checked_statuses(statuses: Collection[Any] | None) -> frozenset[Any]:
    """Return the statuses that may be sent again: a user's, or the default.

    Raises:
        TypeError, ValueError: They are not statuses.
    """
    if statuses is None:
        return RETRIED
    for status in collection("retry_statuses", statuses):
        if not isinstance(status, Code):
            raise TypeError(
                f"`retry_statuses` must be members of grpc.StatusCode, got {status!r}"
            )
    if Code.OK in statuses:
        raise ValueError("`retry_statuses` must not list OK")
    return frozenset(statuses)


def checked_idempotent(
    idempotent: bool | Callable[[str], bool],
) -> Callable[[str], bool]:
    """Return the function that says of a method whether it may run twice.

    Raises:
        TypeError: It is no function of one argument, and neither True nor False.
    """
    if isinstance(idempotent, bool):
        return lambda method: idempotent
    if not callable(idempotent):
        raise TypeError(
            "`idempotent` must be True, False or a function of the method's name,"
            f" got {idempotent!r}"
        )
    return plain("idempotent", idempotent, "the method's name")


def why_once(idempotent: Callable[[str], bool], method: str) -> str | None:
    """Return why an RPC that may have run must not run again; None: it may.

    Raises:
        TypeError: `idempotent` says neither True nor False.
    """
    said: object = idempotent(method)
    if not isinstance(said, bool):
        raise TypeError(
            "`idempotent` must be a function of the method's name that returns True"
            f" or False, got an object of {type(said)}"
        )
    return None if said else f"{method} is not said to be idempotent"
