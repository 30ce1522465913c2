"""An adapter that makes any session of requests resilient.

::

    session = requests.Session()
    session.mount("https://", ResilientAdapter())

Errors that the library raises on its own account are requests' as well:
``except requests.ConnectionError`` catches a rejection by an open circuit, and
``except requests.Timeout`` a timeout of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Any, ClassVar, Literal, NoReturn

try:
    import requests
    from requests import adapters, exceptions
except ModuleNotFoundError as _error:
    _error.add_note(
        "resilient.requests needs requests: install resilient-pipeline[requests]"
    )
    raise

import resilient
from resilient._errors.warnings import warn
from resilient._http import requests_client as client
from resilient._http.body import Upload
from resilient._http.client_library import ClientLibrary, mirrors
from resilient._http.engine import Transport
from resilient._http.foreign import File, of_original
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
    "ResilientAdapter",
    "Summary",
    "ThrottledError",
    "TimeoutExceededError",
    "http_verdict",
    "per_origin",
    "standard_pipeline",
]


class RejectedError(resilient.RejectedError, exceptions.ConnectionError):
    """A `resilient.RejectedError` that is requests' error too."""


class BulkheadFullError(resilient.BulkheadFullError, exceptions.ConnectionError):
    """A `resilient.BulkheadFullError` that is requests' error too."""


class CircuitOpenError(resilient.CircuitOpenError, exceptions.ConnectionError):
    """A `resilient.CircuitOpenError` that is requests' error too."""


class ConcurrencyLimitedError(
    resilient.ConcurrencyLimitedError, exceptions.ConnectionError
):
    """A `resilient.ConcurrencyLimitedError` that is requests' error too."""


class NoEndpointError(resilient.NoEndpointError, exceptions.ConnectionError):
    """A `resilient.NoEndpointError` that is requests' error too."""


class RateLimitedError(resilient.RateLimitedError, exceptions.ConnectionError):
    """A `resilient.RateLimitedError` that is requests' error too."""


class ThrottledError(resilient.ThrottledError, exceptions.ConnectionError):
    """A `resilient.ThrottledError` that is requests' error too."""


class DeadlineExceededError(resilient.DeadlineExceededError, exceptions.Timeout):
    """A `resilient.DeadlineExceededError` that is requests' error too."""


class TimeoutExceededError(resilient.TimeoutExceededError, exceptions.ReadTimeout):
    """A `resilient.TimeoutExceededError` that is requests' error too.

    It is a `ReadTimeout`, for the request may have arrived.

    Attributes:
        retry_after: Always None, as in a rejection that cannot know.
    """

    retry_after: None = None


class _Transport(Transport[client.Request, requests.Response]):
    client_library: ClassVar[ClientLibrary] = client.client_library(mirrors(globals()))


class ResilientAdapter(Configured, adapters.HTTPAdapter):
    """Send a session's requests through a pipeline.

    A request is sent again by the rules of `resilient.httpx.ResilientTransport`:
    its method is idempotent, or it has an ``Idempotency-Key``, or it certainly
    never left, or the server refused it; and its body can be sent again byte
    for byte, as bytes and files that seek can. Else the original error or
    response comes back, with a note. The last response is returned, never
    turned into an exception; ``response.extensions["resilient"]`` says what was
    done for it.

    What is left of a deadline cuts each read and write of an attempt, the
    head and the body too. Redirects are requests of their own. A ``timeout=``
    of a request is what a client's is in `standard_pipeline`; requests' own
    default, none, is no statement.

    Args:
        pipeline: A pipeline, used exactly as built; default
            `standard_pipeline`. `http_verdict` says what a failure is.
        retry_unsafe: Retry any method, whatever may have become of the
            request before; or a function of the `PreparedRequest` that says
            whether to.
        retry_statuses: Statuses that are failures, in the place of 408, 421,
            425, 429 and every 5xx but 501, 505, 508, 510 and 511.
        retry_methods: Methods that may be repeated, in upper case, in the
            place of those that IANA's registry calls safe or idempotent.
        idempotency_key: Give requests that need one an ``Idempotency-Key``,
            the same for all attempts.
        read_body: Read bodies as part of the attempt: "auto" (default) those
            of at most `max_body` bytes by their ``Content-Length`` that are no
            event stream; True: all, of any length; False: none.
        max_body: Bytes. Default 1 MiB.
        stream_idle: Seconds that a live stream may be silent between two
            chunks, in the place of the total limit; "attempt" (default): the
            limit of the attempt; None: no limit.
        deadline_header: Name of a header and its unit, "s" or "ms", that
            tells the server how much time is left.
        hold_by: Whose requests are held back while a server asks for less:
            "credentials" (default), a function of the `PreparedRequest` that
            returns a string or None, or None. Calls of a higher `priority` than
            the refused one are not held.
        cost_of: ``cost_of(response)`` returns what a request really cost, by
            unit, or None; asked of good responses that were read in the attempt.
            A debt is paid within the `max_retry_after` of the Retry.
        pool_connections: Of `requests.adapters.HTTPAdapter`.
        pool_maxsize: Likewise.
        max_retries: Likewise. Other than 0, urllib3 sends each attempt again
            itself, of which a warning tells.
        pool_block: Likewise.

    Raises:
        TypeError, ValueError: An argument is out of range, or the pipeline
            has no meaning for requests.
        RejectedError: A policy refused the request; one of this module's.
        TimeoutExceededError: A timeout cut it short; this module's.
    """

    _free = frozenset({"max_retries"})

    def __init__(
        self,
        pipeline: Policy[Any] | None = None,
        *,
        retry_unsafe: bool | Callable[[requests.PreparedRequest], bool] = False,
        retry_statuses: Collection[int] | None = None,
        retry_methods: Collection[str] | None = None,
        idempotency_key: bool = False,
        read_body: bool | Literal["auto"] = "auto",
        max_body: int = 1_048_576,
        stream_idle: float | timedelta | Literal["attempt"] | None = "attempt",
        deadline_header: tuple[str, Literal["s", "ms"]] | None = None,
        hold_by: Callable[[requests.PreparedRequest], str | None]
        | Literal["credentials"]
        | None = "credentials",
        cost_of: Callable[[requests.Response], Mapping[str, float] | None]
        | None = None,
        pool_connections: int = adapters.DEFAULT_POOLSIZE,
        pool_maxsize: int = adapters.DEFAULT_POOLSIZE,
        max_retries: Any = adapters.DEFAULT_RETRIES,
        pool_block: bool = adapters.DEFAULT_POOLBLOCK,
    ) -> None:
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block)
        self._transport = _Transport(
            pipeline,
            inner=_Sender(self),
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
        if self.max_retries.total or self.max_retries.total is None:
            warn(
                f"max_retries={max_retries!r} has urllib3 send each attempt of"
                f" {self!r} again: leave it out, for the pipeline retries"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.pipeline!r})"

    @property
    def pipeline(self) -> Policy[Any]:
        """What requests go through."""
        return self._transport.pipeline

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send a request through the pipeline; a session calls it."""
        __tracebackhide__ = True
        options = {"verify": verify, "cert": cert, "proxies": proxies}
        sent = client.Request(request, timeout, options)
        response = self._transport.handle_request(sent)
        client.hand_out(response)
        return response

    def init_poolmanager(self, *args: Any, **kw: Any) -> Any:
        """Make the pools, whose connections measure the time that is left."""
        super().init_poolmanager(*args, **kw)
        client.watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kw: Any) -> Any:
        """Return the pools for a proxy, likewise."""
        manager = super().proxy_manager_for(*args, **kw)
        client.watch(manager)
        return manager

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled or copied, for its circuits,"
            " budgets and limits are this process's: mount a new one"
        )


class _Sender(client.Base):
    """Sends an attempt as a plain adapter would."""

    def __init__(self, adapter: ResilientAdapter) -> None:
        self._adapter = adapter

    def handle_request(self, request: client.Request) -> requests.Response:
        prepared, body = request.original, request.stream
        # NB: the caller's may be sent twice at once.
        sent: Any = object.__new__(type(prepared))
        sent.__dict__.update(prepared.__dict__, headers=request.headers.fields)
        if isinstance(body, Upload):
            sent.body = body
        elif isinstance(body, File):
            body.file.seek(body.start)
        timeout = client.limits(request.extensions["timeout"])
        try:
            response = adapters.HTTPAdapter.send(
                self._adapter, sent, stream=True, timeout=timeout, **request.options
            )
        except exceptions.ConnectionError as error:
            client.mark_stalled(error)
            raise
        response.request = prepared
        return client.received(response)
