"""A middleware that makes any session of aiohttp resilient; 3.12.4 or later.

::

    session = aiohttp.ClientSession(middlewares=[ResilientMiddleware()])

Errors that the library raises on its own account are aiohttp's as well:
``except aiohttp.ClientConnectionError`` catches a rejection by an open circuit,
and ``except aiohttp.ServerTimeoutError`` a timeout of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Literal

try:
    import aiohttp
except ModuleNotFoundError as _error:
    _error.add_note(
        "resilient.aiohttp needs aiohttp: install resilient-pipeline[aiohttp]"
    )
    raise

import resilient
from resilient._http import aiohttp_client as client
from resilient._http.client_library import ClientLibrary, mirrors
from resilient._http.engine import Transport
from resilient._http.foreign import of_original
from resilient._http.request_call import Summary
from resilient._http.standard import http_verdict, per_origin, standard_pipeline
from resilient._policy.policy import Policy
from resilient._values.records import Configured

__all__ = [
    "BulkheadFullError",
    "CircuitOpenError",
    "ConcurrencyLimitedError",
    "DeadlineExceededError",
    "NoEndpointError",
    "RateLimitedError",
    "RejectedError",
    "ResilientMiddleware",
    "Summary",
    "ThrottledError",
    "TimeoutExceededError",
    "http_verdict",
    "per_origin",
    "standard_pipeline",
]


class RejectedError(resilient.RejectedError, aiohttp.ClientConnectionError):
    """A `resilient.RejectedError` that is aiohttp's error too."""


class BulkheadFullError(resilient.BulkheadFullError, aiohttp.ClientConnectionError):
    """A `resilient.BulkheadFullError` that is aiohttp's error too."""


class CircuitOpenError(resilient.CircuitOpenError, aiohttp.ClientConnectionError):
    """A `resilient.CircuitOpenError` that is aiohttp's error too."""


class ConcurrencyLimitedError(
    resilient.ConcurrencyLimitedError, aiohttp.ClientConnectionError
):
    """A `resilient.ConcurrencyLimitedError` that is aiohttp's error too."""


class NoEndpointError(resilient.NoEndpointError, aiohttp.ClientConnectionError):
    """A `resilient.NoEndpointError` that is aiohttp's error too."""


class RateLimitedError(resilient.RateLimitedError, aiohttp.ClientConnectionError):
    """A `resilient.RateLimitedError` that is aiohttp's error too."""


class ThrottledError(resilient.ThrottledError, aiohttp.ClientConnectionError):
    """A `resilient.ThrottledError` that is aiohttp's error too."""


class DeadlineExceededError(
    resilient.DeadlineExceededError, aiohttp.ServerTimeoutError
):
    """A `resilient.DeadlineExceededError` that is aiohttp's error too."""


class TimeoutExceededError(resilient.TimeoutExceededError, aiohttp.SocketTimeoutError):
    """A `resilient.TimeoutExceededError` that is aiohttp's error too.

    It is a `SocketTimeoutError`, for the request may have arrived.

    Attributes:
        retry_after: Always None, as in a rejection that cannot know.
    """

    retry_after: None = None


class _Transport(Transport[client.Request, aiohttp.ClientResponse]):
    client_library: ClassVar[ClientLibrary] = client.client_library(mirrors(globals()))


class ResilientMiddleware(Configured):
    """Send a session's requests through a pipeline.

    A request is sent again by the rules of `resilient.httpx.ResilientTransport`:
    its method is idempotent, or it has an ``Idempotency-Key``, or it certainly
    never left, or the server refused it; and its body can be sent again byte
    for byte, as bytes, forms and files that seek can. Else the original error
    or response comes back, with a note. The last response is returned, never
    turned into an exception; ``response.extensions["resilient"]`` says what was
    done for it.

    Redirects are requests of their own. What aiohttp itself would send once
    more, after an error that the pipeline gave up with, is not sent again. A
    ``timeout=`` of the session is what a client's is in `standard_pipeline`:
    its `total` may be taken by one attempt, and aiohttp holds the whole to it;
    one of a single request is aiohttp's alone.

    Args:
        pipeline: A pipeline, used exactly as built; default
            `standard_pipeline`. `http_verdict` says what a failure is.
        retry_unsafe: Retry any method, whatever may have become of the
            request before; or a function of the `aiohttp.ClientRequest` that
            says whether to.
        retry_statuses: Statuses that are failures, in the place of 408, 421,
            425, 429 and every 5xx but 501, 505, 508, 510 and 511.
        retry_methods: Methods that may be repeated, in upper case, in the
            place of those that IANA's registry calls safe or idempotent.
        idempotency_key: Give requests that need one an ``Idempotency-Key``,
            the same for all attempts.
        read_body: Read bodies as part of the attempt: "auto" (default) those
            of at most `max_body` bytes by their ``Content-Length`` that are
            neither compressed nor an event stream; True: all, of any length;
            False: none.
        max_body: Bytes. Default 1 MiB.
        stream_idle: Seconds that a live stream may be silent between two
            chunks, in the place of the total limit; "attempt" (default): the
            limit of the attempt; None: no limit.
        deadline_header: Name of a header and its unit, "s" or "ms", that
            tells the server how much time is left.
        hold_by: Whose requests are held back while a server asks for less:
            "credentials" (default), a function of the `aiohttp.ClientRequest`
            that returns a string or None, or None. Calls of a higher
            `priority` than the refused one are not held.
        cost_of: ``cost_of(response)`` returns what a request really cost, by
            unit, or None; asked of good responses that were read in the
            attempt, with `status`, `headers`, `body` and `json()`. A debt is
            paid within the `max_retry_after` of the Retry.

    Raises:
        TypeError, ValueError: An argument is out of range, or the pipeline
            has no meaning for requests.
        RejectedError: A policy refused the request; one of this module's.
        TimeoutExceededError: A timeout cut it short; this module's.
    """

    def __init__(
        self,
        pipeline: Policy[Any] | None = None,
        *,
        retry_unsafe: bool | Callable[[aiohttp.ClientRequest], bool] = False,
        retry_statuses: Collection[int] | None = None,
        retry_methods: Collection[str] | None = None,
        idempotency_key: bool = False,
        read_body: bool | Literal["auto"] = "auto",
        max_body: int = 1_048_576,
        stream_idle: float | timedelta | Literal["attempt"] | None = "attempt",
        deadline_header: tuple[str, Literal["s", "ms"]] | None = None,
        hold_by: Callable[[aiohttp.ClientRequest], str | None]
        | Literal["credentials"]
        | None = "credentials",
        cost_of: Callable[[Any], Mapping[str, float] | None] | None = None,
    ) -> None:
        self._transport = _Transport(
            pipeline,
            inner=client.Base(),
            retry_unsafe=of_original("retry_unsafe", retry_unsafe),
            retry_statuses=retry_statuses,
            retry_methods=retry_methods,
            idempotency_key=idempotency_key,
            read_body=read_body,
            max_body=max_body,
            stream_idle=stream_idle,
            deadline_header=deadline_header,
            hold_by=of_original("hold_by", hold_by),
            cost_of=cost_of,
        )
        self._repeats = client.Repeats()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pipeline!r})"

    @property
    def pipeline(self) -> Policy[Any]:
        """What requests go through."""
        return self._transport.pipeline

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: client.Handler
    ) -> aiohttp.ClientResponse:
        """Send a request through the pipeline; a session calls it."""
        __tracebackhide__ = True
        given_up = self._repeats.again()
        if given_up is not None:
            raise given_up
        sent = client.Request(request, handler)
        try:
            response = await self._transport.handle_async_request(sent)
        except Exception as error:
            self._repeats.gave_up(error)
            raise
        client.hand_out(response, sent.around)
        return response
