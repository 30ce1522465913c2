"""The ASGI application around an application."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from datetime import timedelta
from typing import Any, Final, Literal

from resilient._calls.scopes import deadline_after
from resilient._errors.errors import ResilientError
from resilient._policy.policy import Policy
from resilient._server.answers import (
    ANSWERED,
    TRY_AGAIN_LATER,
    App,
    Receive,
    Scope,
    Send,
    error_answer,
)
from resilient._server.exchange import Exchange
from resilient._server.front import Front
from resilient._server.lifecycle import LIVEZ, READYZ, Lifecycle
from resilient._server.scopes import (
    DeadlinePreset,
    peer_address,
)
from resilient._values.checks import flag, plain
from resilient._values.priority import Priority, PriorityName

_PROBES: Final = {LIVEZ, READYZ}

_EXTENSION: Final = "resilient"
"""By which an inner middleware sees that there is an outer one."""


class ResilientMiddleware(Front[Scope]):
    """Put an ASGI application behind a pipeline: admit, limit, time out, shed.

    Pure ASGI 3, for every framework and server, on asyncio and trio::

        app = ResilientMiddleware(app, standard_server_pipeline())

    A request that the pipeline rejects is answered before its body is read and
    without the application: 429, 503 or 504, see `error_answer`. A response
    counts as a failure from status 500 on, and where the application raises; what
    it raises goes on to the server unchanged. An error of ours that reaches this
    before an answer began is answered as a rejection is.

    A slot is held until the last byte of the response, its latency is that of
    the first; what the application does after the last byte is its own. A
    total limit bounds the whole response: give paths that stream for longer an
    application and a limit of their own. After the first byte a limit cuts the
    connection, for a response has one status.

    A WebSocket is admitted as a request is, holds its slot to its end, and has
    no deadline once it was accepted. One that is rejected is answered 429 or 503
    where the server can, else closed with code 1013.

    A middleware inside another one admits nothing and only shortens the
    deadline.

    Args:
        app: The application.
        pipeline: A `Pipeline` or policy; default `standard_server_pipeline`.
            It must not run requests again.
        lifecycle: The `Lifecycle` of the process; it then answers the paths
            "/livez" and "/readyz" that are exempt.
        client: ``client(scope)`` names the client that a `PerKey` of the pipeline
            is to limit. Default: `peer_address`.
        priority: ``priority(scope)`` says how important a request is; None is
            "normal". No header is read by default, for a client that says it is
            critical would be believed.
        deadline_header: A field in which callers say how much time they have
            left: name and unit ("s" or "ms"), as for the transport of
            `resilient.httpx`, or "grpc-timeout", "connect-timeout-ms",
            "x-envoy-expected-rq-timeout-ms".
        max_deadline: Seconds; a longer time in that field counts as this.
        min_deadline: Seconds; with less than this a request is answered 504 at
            once, for its work could not end.
        cancel_on_disconnect: Whether a client that goes cancels the application,
            once the body was read; or a function of the scope.
        exempt: Paths that are never limited, as those of probes.
        rate_limit_headers: Whether a 429 carries ``RateLimit`` and
            ``RateLimit-Policy``.
        allow_origins: Origins whose pages may read our own answers, as in
            ``["https://shop.example"]``; ``"*"`` is every one. Those of the
            application carry the headers that it sets.
        on_rejected: ``on_rejected(scope, error)`` is called for each error
            of ours before it is answered, and may return an ASGI application
            that answers in our place.

    Raises:
        TypeError, ValueError: An argument has no meaning.

    Source: DAGOR (Zhou et al., SoCC 2018) for shedding in front; Netflix,
    "Performance Under Load", 2018, for the adaptive limit of a server.
    """

    _free = frozenset({"app"})

    def __init__(
        self,
        app: App,
        pipeline: Policy[Any] | None = None,
        *,
        lifecycle: Lifecycle | None = None,
        client: Callable[[Scope], Hashable] | None = None,
        priority: Callable[[Scope], PriorityName | Priority | None] | None = None,
        deadline_header: tuple[str, Literal["s", "ms"]] | DeadlinePreset | None = None,
        max_deadline: float | timedelta = 30.0,
        min_deadline: float | timedelta = 0.0,
        cancel_on_disconnect: bool | Callable[[Scope], bool] = True,
        exempt: Collection[str] = (LIVEZ, READYZ),
        rate_limit_headers: bool = True,
        allow_origins: Sequence[str] = (),
        on_rejected: Callable[[Scope, ResilientError], App | None] | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"`app` must be an ASGI application, got {app!r}")
        super().__init__(
            pipeline,
            "async",
            client=client or peer_address,
            priority=priority,
            deadline_header=deadline_header,
            max_deadline=max_deadline,
            min_deadline=min_deadline,
            exempt=exempt,
            rate_limit_headers=rate_limit_headers,
            allow_origins=allow_origins,
        )
        self.app: App = app
        self._cancels: bool | Callable[[Scope], bool] = (
            plain("cancel_on_disconnect", cancel_on_disconnect, "the scope")
            if callable(cancel_on_disconnect)
            else flag("cancel_on_disconnect", cancel_on_disconnect)
        )
        self._on_rejected = (
            None if on_rejected is None else plain("on_rejected", on_rejected)
        )
        self._under_way: set[Exchange] = set()
        if lifecycle is not None:
            if not isinstance(lifecycle, Lifecycle):
                raise TypeError(f"`lifecycle` must be a Lifecycle, got {lifecycle!r}")
            lifecycle.track(self._under_way)
        self._lifecycle = lifecycle

    def __repr__(self) -> str:
        return f"ResilientMiddleware({self.app!r}, {self.pipeline!r})"

    @property
    def in_flight(self) -> int:
        """Requests and WebSockets that the application works on, or that wait."""
        return len(self._under_way)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve what the server passes on."""
        kind = scope["type"]
        lifecycle = self._lifecycle
        if lifecycle is not None:
            if kind == "lifespan":
                await lifecycle.lifespan(self.app, scope, receive, send)
                return
            lifecycle.begin()
            path = scope.get("path")
            if kind == "http" and path in _PROBES and path in self.exempt:
                await lifecycle.probes(scope, receive, send)
                return
        if kind not in ("http", "websocket") or scope["path"] in self.exempt:
            await self.app(scope, receive, send)
            return
        seconds = None if kind == "websocket" else self.seconds(scope["headers"])
        extensions: dict[str, Any] = scope.get("extensions") or {}
        if _EXTENSION in extensions:
            await self._narrow(scope, receive, send, seconds)
            return
        scope = {**scope, "extensions": {**extensions, _EXTENSION: {}}}
        cancels = self._cancels
        exchange = Exchange(
            self.call(scope, seconds),
            self.app,
            scope,
            receive,
            send,
            cancels=cancels if isinstance(cancels, bool) else bool(cancels(scope)),
            refuse=lambda error: self._refuse(error, scope, receive, send),
            closing=None if lifecycle is None else lifecycle.is_draining,
        )
        self._under_way.add(exchange)
        try:
            await exchange.run(self.pipeline)
        finally:
            self._under_way.discard(exchange)

    async def _narrow(
        self, scope: Scope, receive: Receive, send: Send, seconds: float | None
    ) -> None:
        """Serve what an outer middleware has admitted."""
        if seconds is None:
            await self.app(scope, receive, send)
            return
        with deadline_after(seconds):
            await self.app(scope, receive, send)

    async def _refuse(
        self, error: ResilientError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer an error of ours."""
        if self._on_rejected is not None:
            answering = self._on_rejected(scope, error)
            if answering is not None:
                await answering(scope, receive, send)
                return
        answer = self.answer(error, scope["headers"])
        if scope["type"] == "http":
            await answer.send_to(send, "http.response")
        elif "websocket.http.response" in scope["extensions"]:
            await answer.send_to(send, "websocket.http.response")
        else:
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})


async def exception_handler(request: object, error: ResilientError) -> App:
    """Answer an error of ours that a route lets through.

    For frameworks built on Starlette, in which what a handler returns is an
    ASGI application::

        app.add_exception_handler(ResilientError, exception_handler)

    Args:
        request: The framework's; its ``scope`` is read.
        error: What the route let through.

    Raises:
        ResilientError: It is neither a rejection nor a timeout: a bug, and a 500.
    """
    if not isinstance(error, ANSWERED):
        raise error
    scope: Any = getattr(request, "scope", {})
    return error_answer(error, scope.get("headers", ()))
