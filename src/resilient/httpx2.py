"""Transports that make any client of httpx2 resilient, sync and async.

::

    client = httpx2.AsyncClient(transport=ResilientTransport())

Errors that the library raises on its own account are the client's as well:
``except httpx2.TransportError`` catches a rejection by an open circuit, and
``except httpx2.TimeoutException`` a timeout of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar

try:
    import httpx2
except ModuleNotFoundError as _error:
    _error.add_note("resilient.httpx2 needs httpx2: install resilient-pipeline[httpx2]")
    raise

import resilient
from resilient._http.body import Body as _BodyBase
from resilient._http.body import Chunks as _ChunksBase
from resilient._http.body import Upload as _UploadBase
from resilient._http.client_library import ClientLibrary, mirrors
from resilient._http.engine import Transport
from resilient._http.health_check import GOOD, make_check
from resilient._http.request_call import Summary
from resilient._http.standard import http_verdict, per_origin, standard_pipeline

if TYPE_CHECKING:
    import ssl

__all__ = [
    "BulkheadFullError",
    "CircuitOpenError",
    "ConcurrencyLimitedError",
    "DeadlineExceededError",
    "NoEndpointError",
    "RateLimitedError",
    "RejectedError",
    "ResilientTransport",
    "Summary",
    "ThrottledError",
    "TimeoutExceededError",
    "http_check",
    "http_verdict",
    "per_origin",
    "standard_pipeline",
]


class _OfRequest:
    """What an error of a client has: the request that it concerns."""

    _request: httpx2.Request | None = None

    @property
    def request(self) -> httpx2.Request:
        """The request.

        Raises:
            RuntimeError: The error was made without one.
        """
        if self._request is None:
            raise RuntimeError("The .request property has not been set.")
        return self._request

    @request.setter
    def request(self, request: httpx2.Request) -> None:
        self._request = request


class RejectedError(_OfRequest, resilient.RejectedError, httpx2.TransportError):
    """A `resilient.RejectedError` that is a client's error too."""


class BulkheadFullError(_OfRequest, resilient.BulkheadFullError, httpx2.TransportError):
    """A `resilient.BulkheadFullError` that is a client's error too."""


class CircuitOpenError(_OfRequest, resilient.CircuitOpenError, httpx2.TransportError):
    """A `resilient.CircuitOpenError` that is a client's error too."""


class ConcurrencyLimitedError(
    _OfRequest, resilient.ConcurrencyLimitedError, httpx2.TransportError
):
    """A `resilient.ConcurrencyLimitedError` that is a client's error too."""


class NoEndpointError(_OfRequest, resilient.NoEndpointError, httpx2.TransportError):
    """A `resilient.NoEndpointError` that is a client's error too."""


class RateLimitedError(_OfRequest, resilient.RateLimitedError, httpx2.TransportError):
    """A `resilient.RateLimitedError` that is a client's error too."""


class ThrottledError(_OfRequest, resilient.ThrottledError, httpx2.TransportError):
    """A `resilient.ThrottledError` that is a client's error too."""


class DeadlineExceededError(
    _OfRequest, resilient.DeadlineExceededError, httpx2.TimeoutException
):
    """A `resilient.DeadlineExceededError` that is a client's error too."""


class TimeoutExceededError(
    _OfRequest, resilient.TimeoutExceededError, httpx2.ReadTimeout
):
    """A `resilient.TimeoutExceededError` that is a client's error too.

    It is a `ReadTimeout`, for the request may have arrived.

    Attributes:
        retry_after: Always None, as in a rejection that cannot know.
    """

    retry_after: None = None


class _Body(_BodyBase, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    pass


class _Chunks(_ChunksBase, httpx2.ByteStream):
    pass


class _Upload(_UploadBase, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    pass


class ResilientTransport(
    Transport[httpx2.Request, httpx2.Response],
    httpx2.BaseTransport,
    httpx2.AsyncBaseTransport,
):
    """Send a client's requests through a pipeline.

    One object serves a `Client` or an `AsyncClient`. A request is sent again
    only if nothing can come of it twice: its method is idempotent, or it has
    an ``Idempotency-Key``, or it certainly never left, or the server refused
    it (421, 425, 429, 529, or ``x-should-retry: true``); and if its body can
    be sent again byte for byte. Else the original error or response comes
    back, with a note. The last response is returned readable, never turned
    into an exception; ``response.extensions["resilient"]`` says what was done
    for it.

    What is left of the deadline cuts the client's own timeouts in each
    attempt. That is how a sync client obeys a `Timeout`. The attempt's limit
    covers the headers, and the body if it is read with them; the total limit
    covers the body too. Redirects are requests of their own.

    Request extensions change it for one request: ``"resilient"`` is another
    pipeline, or False for none; ``"resilient.read_body"`` overrides
    `read_body` and ``"resilient.retry_unsafe"``, True or False,
    `retry_unsafe`; ``"resilient.stream_idle"`` makes a live stream of any
    body, with a limit of its own.

    Args:
        pipeline: A pipeline, used exactly as built; default
            `standard_pipeline`. `http_verdict` says what a failure is.
        inner: The transport that sends; default the client's own, made when
            it is first used.
        retry_unsafe: Retry any method, whatever may have become of the
            request before; or a function of the request that says whether
            to, so that a search by POST is repeated and a payment is not.
        retry_statuses: Statuses that are failures, in the place of 408, 421,
            425, 429 and every 5xx but 501, 505, 508, 510 and 511.
        retry_methods: Methods that may be repeated, in upper case, in the
            place of those that IANA's registry calls safe or idempotent.
        idempotency_key: Give requests that need one an ``Idempotency-Key``,
            the same for all attempts.
        read_body: Read bodies as part of the attempt, so that one that dies
            half-way is a failed attempt: "auto" (default) those of at most
            `max_body` bytes by their ``Content-Length`` that are no event
            stream; True: all, of any length; False: none. What is not read
            then streams, and fails in the caller's hands with the client's
            own error.
        max_body: Bytes, counted while they are read: a body that turns out
            to be longer streams. Default 1 MiB.
        stream_idle: Seconds that a live stream (``text/event-stream``,
            newline-delimited JSON) may be silent between two chunks, which
            takes the place of the total limit once the headers are there;
            "attempt" (default): the limit of the attempt; None: no limit.
        deadline_header: Name of a header and its unit, "s" or "ms", that
            tells the server how much time is left.
        hold_by: Whose requests are held back while a server asks for less (429,
            503, 529) and says for how long: "credentials" (default): those to
            the same origin with the same ``Authorization`` or API key, or
            with the same cookies where there is neither; a function of the
            request that returns a string: those of the same; None, of it or
            in its place: no others. Calls of a higher `priority` than the
            refused one are not held.
        cost_of: ``cost_of(response)`` returns what a request really cost, as in
            ``{"tokens": response.json()["usage"]["total_tokens"]}``, for the
            limiters that it passed to book the difference; None: nothing is
            known. Asked of good responses that were read in the attempt: see
            `read_body`; of no compressed one that is longer than that decoded.
            What is no amount is not booked, and of an absurd one no more than
            what the limiter has paid after the `max_retry_after` of the Retry.
        origin: The origin, as in "https://catalogue", whose requests go to
            the endpoints of the `Balance` in the pipeline: each attempt to the
            URL of the one that is chosen. The caller sees the origin only:
            cookies, redirects and ``response.url`` are its. Requests to other
            origins go where they say.

    Raises:
        TypeError, ValueError: An argument is out of range, or the pipeline
            has no meaning for requests.
        RejectedError: A policy refused the request; one of this module's.
        TimeoutExceededError: A timeout cut it short; this module's.
    """

    client_library: ClassVar[ClientLibrary] = ClientLibrary(
        httpx2,
        _Body,
        _Upload,
        mirrors(globals()),
        _Chunks,
    )


def http_check(
    path: str = "/",
    *,
    origin: str | None = None,
    statuses: Collection[int] = GOOD,
    timeout: float = 1.0,
    verify: ssl.SSLContext | bool = True,
) -> Callable[[Any], bool]:
    """Return a health check over HTTP, for a `resilient.Check`.

    It sends a GET to each endpoint, past every proxy and policy, and reads no
    body; a redirect is not followed.

    Args:
        path: What is asked for, as "/readyz". Default "/".
        origin: The origin of the transport that the `Balance` is in: its
            ``Host`` and its name in the certificate are those of the check,
            too. Default None: each endpoint, which is a URL then, is asked by
            its own name.
        statuses: Statuses that say that the endpoint is well. Default 200 to
            299.
        timeout: Seconds for the whole of a request, but for looking a name up.
            Default 1, as a `Check` waits.
        verify: What certificates are verified by, as that of a client: a
            context for an authority of your own. Default True: the client's
            default, whatever the environment names.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """
    return make_check(httpx2, path, origin, statuses, timeout, verify)
