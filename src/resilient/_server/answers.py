"""Which status and headers a server answers an error of ours with.

Ground rules:

* Pure: an error and a drawn number in, an `Answer` out.
* A body says nothing about the inside: it is one fixed line for each status,
  without names of policies, limits or addresses.

=============================================== ====== ======================
error                                           status headers
=============================================== ====== ======================
`RateLimitedError`                              429    ``Retry-After``,
                                                       ``RateLimit``, and
                                                       ``RateLimit-Policy``
                                                       of one limit of requests
any other rejection: an adaptive limit, a       503    ``Retry-After``
bulkhead, a throttle, a circuit, no endpoint
`DeadlineExceededError`: no time to begin       504
`TimeoutExceededError`                          504
=============================================== ====== ======================

gRPC has RESOURCE_EXHAUSTED for 429 and for the limits of this server, UNAVAILABLE
for the other rejections, DEADLINE_EXCEEDED for 504, and a pushback in the place of
``Retry-After``.

Where a rejection cannot know when to come back, ``Retry-After`` is drawn from
1 to 3 seconds, so that those who were rejected together do not return
together.

Source: RFC 9110, 10.2.3 for ``Retry-After``; RFC 9457 for problem details.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

from resilient._errors.errors import (
    BulkheadFullError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    RateLimitedError,
    RejectedError,
    ResilientError,
    ThrottledError,
    TimeoutExceededError,
)
from resilient._http.response_headers import ratelimit_field, ratelimit_policy_field
from resilient._runtimes import clock

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

ANSWERED: Final = (RejectedError, TimeoutExceededError)
"""Errors of ours that are about a request; one about a process is a 500."""

_FULL: Final = (BulkheadFullError, ConcurrencyLimitedError, ThrottledError)
"""Limits of this server, where an open circuit is that of a dependency."""

_TITLES: Final = {
    429: "Too Many Requests",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

_EXPOSED: Final = b"Retry-After, RateLimit, RateLimit-Policy"
"""What a page of another origin may read of our answers, besides the status."""

_LONGEST_WAIT: Final = 86_400
"""Seconds: more than a day is no advice."""

_LONGEST_ACCEPT: Final = 1024
"""Bytes of an ``Accept`` that are read; browsers send some 150."""

TRY_AGAIN_LATER: Final = 1013
"""Code with which a WebSocket is closed that is not admitted (IANA registry)."""


class Answer:
    """What a server answers an error of ours with; an ASGI application, too.

    Attributes:
        status: HTTP status.
        headers: Names and values as bytes, names in lower case.
        body: One line of text, or of JSON where the client asks for that.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes
    ) -> None:
        self.status: int = status
        self.headers: tuple[tuple[bytes, bytes], ...] = headers
        self.body: bytes = body

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it in answer to an HTTP request."""
        await self.send_to(send, "http.response")

    async def send_to(self, send: Send, kind: str) -> None:
        """Send it as messages of a kind, such as "http.response"."""
        start = {
            "type": f"{kind}.start",
            "status": self.status,
            "headers": list(self.headers),
        }
        await send(start)
        await send({"type": f"{kind}.body", "body": self.body})


def error_answer(
    error: ResilientError,
    request_headers: Iterable[tuple[bytes, bytes]] = (),
    *,
    rate_limit_headers: bool = True,
    allow_origins: Sequence[str] = (),
) -> Answer:
    """Return what a server answers an error of ours with.

    For the exception handlers of a framework: a route whose own pipeline
    rejects a call then answers 429 or 503 with ``Retry-After``, and not 500.

    Args:
        error: A rejection or a timeout.
        request_headers: Those of the request, names in lower case. They decide
            whether the body is a problem document (RFC 9457).
        rate_limit_headers: Whether a 429 carries ``RateLimit`` and
            ``RateLimit-Policy``.
        allow_origins: Origins whose pages may read the answer, as in
            ``["https://shop.example"]``; ``"*"`` is every one.

    Raises:
        TypeError: The error is none of ours.
    """
    status = _status(error)
    headers: list[tuple[bytes, bytes]] = []
    wait = _retry_after(error)
    if wait is not None:
        headers.append((b"retry-after", b"%d" % wait))
        if status == 429 and rate_limit_headers:
            headers.append((b"ratelimit", ratelimit_field("default", 0, wait)))
            quota = getattr(error, "quota", None)
            if quota is not None:
                policy = ratelimit_policy_field("default", *quota)
                headers.append((b"ratelimit-policy", policy))
    title = _TITLES[status]
    accept, origin = b"", b""
    for name, value in request_headers:
        if name == b"accept" and len(value) <= _LONGEST_ACCEPT:
            accept = value.lower()
        elif name == b"origin":
            origin = value
    if b"application/problem+json" in accept or b"application/json" in accept:
        kind = b"application/problem+json"
        problem = {"type": "about:blank", "title": title, "status": status}
        body = json.dumps(problem).encode("ascii")
    else:
        kind, body = b"text/plain; charset=utf-8", f"{title}\n".encode("ascii")
    headers += [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    headers += _cross_origin(origin, allow_origins)
    return Answer(status, tuple(headers), body)


def rpc_status(error: ResilientError) -> tuple[str, int | None]:
    """Return what a gRPC server answers an error of ours with.

    Returns:
        The name of the status, and the milliseconds of
        ``grpc-retry-pushback-ms``; None: a new try has no better time.

    Raises:
        TypeError: The error is none of ours.
    """
    wait = _retry_after(error)
    return rpc_status_name(error), None if wait is None else wait * 1000


def rpc_status_name(error: ResilientError) -> str:
    """Return the name of the gRPC status of an error of ours.

    Raises:
        TypeError: The error is none of ours.
    """
    status = _status(error)
    if status == 429 or isinstance(error, _FULL):
        return "RESOURCE_EXHAUSTED"
    return "UNAVAILABLE" if status == 503 else "DEADLINE_EXCEEDED"


def _status(error: ResilientError) -> int:
    if isinstance(error, RateLimitedError):
        return 429
    if isinstance(error, (DeadlineExceededError, TimeoutExceededError)):
        return 504
    if isinstance(error, RejectedError):
        return 503
    raise TypeError(f"`error` must be a rejection or a timeout, got {error!r}")


def _retry_after(error: ResilientError) -> int | None:
    """Return the seconds for ``Retry-After``; None: a new try has no better time."""
    if not isinstance(error, RejectedError) or isinstance(error, TimeoutError):
        return None
    said = error.retry_after
    if said is None:
        return 1 + int(clock.random() * 3)
    return max(1, math.ceil(min(said, _LONGEST_WAIT)))


def _cross_origin(origin: bytes, allowed: Sequence[str]) -> Headers:
    """Return the headers that let a page of another origin read an answer.

    An answer in front of the application carries none of its CORS headers, and
    a browser would show a page a network error in the place of a 429.
    """
    if not allowed:
        return ()
    vary = (b"vary", b"Origin")
    if "*" in allowed:
        value = b"*"
    elif origin.decode("latin-1") in allowed:
        # NB: the same bytes as in the configuration, so nothing of the
        # client's reaches a header.
        value = origin
    else:
        return (vary,)
    found = [
        (b"access-control-allow-origin", value),
        (b"access-control-expose-headers", _EXPOSED),
    ]
    if value != b"*":
        found += [(b"access-control-allow-credentials", b"true"), vary]
    return found
