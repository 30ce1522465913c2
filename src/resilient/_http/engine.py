"""The transport, in two colours.

The two methods that handle a request are one text twice, as those of `_edges.functions`
are: a driver that both share would be a frame more in every traceback.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from contextvars import Token
from datetime import timedelta
from types import TracebackType
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    Self,
    TypeGuard,
    TypeVar,
    cast,
)
from urllib.request import getproxies_environment

from resilient._calls.call import Call, enter_call, forget_call, leave_call
from resilient._calls.outcome import Outcome
from resilient._edges.driver import DONE
from resilient._edges.steps import RUN
from resilient._errors.warnings import warn
from resilient._http.client_library import ClientLibrary
from resilient._http.exchange import Exchange
from resilient._http.hedged import HedgedExchange
from resilient._http.holding import Holds, checked_by
from resilient._http.network import close_lost, forgets_names, watch
from resilient._http.routing import Pools, Routing, Target
from resilient._http.rules import Rules, checked_idle
from resilient._http.sdk import SdkRetries
from resilient._http.semantics import checked_methods, checked_statuses
from resilient._http.standard import (
    standard_pipeline,
)
from resilient._http.stated import Comparison
from resilient._policy.policy import Policy, begin_use
from resilient._runtimes.sync import SYNC
from resilient._values.checks import count, flag, plain
from resilient._values.locks import Lock
from resilient._values.records import Configured
from resilient._values.traits import Trait

Request = TypeVar("Request")
Response = TypeVar("Response")

_UNITS = ("s", "ms")


class Transport(Configured, Generic[Request, Response]):
    """Send requests through a pipeline, sync and async.

    Subclasses name their `client_library` and derive from its transports.
    """

    _cures = {"client_library": "it is the library that the class is for"}  # noqa: RUF012 - never written to

    client_library: ClassVar[ClientLibrary]

    def __init__(
        self,
        pipeline: Policy[Any] | None = None,
        *,
        inner: Any = None,
        retry_unsafe: bool | Callable[[Request], bool] = False,
        retry_statuses: Collection[int] | None = None,
        retry_methods: Collection[str] | None = None,
        idempotency_key: bool = False,
        read_body: bool | Literal["auto"] = "auto",
        max_body: int = 1_048_576,
        stream_idle: float | timedelta | Literal["attempt"] | None = "attempt",
        deadline_header: tuple[str, Literal["s", "ms"]] | None = None,
        hold_by: Callable[[Request], str | None]
        | Literal["credentials"]
        | None = "credentials",
        cost_of: Callable[[Response], Mapping[str, float] | None] | None = None,
        origin: str | None = None,
    ) -> None:
        library = self.client_library.module
        if pipeline is not None and not isinstance(pipeline, Policy):
            raise TypeError(
                f"`pipeline` must be a Pipeline or a policy, got {pipeline!r}"
            )
        bases = (library.BaseTransport, library.AsyncBaseTransport)
        if inner is not None and not isinstance(inner, bases):
            raise TypeError(
                f"`inner` must be a transport of {library.__name__}, got {inner!r}"
            )
        if read_body != "auto" and not isinstance(read_body, bool):
            raise TypeError(
                f'`read_body` must be "auto", True or False, got {read_body!r}'
            )
        self._pipeline: Policy[Any] = (
            standard_pipeline() if pipeline is None else pipeline
        )
        self._check_hedges(self._pipeline)
        self._pipeline.check_usage("requests", classified=True)
        self._routing = None if origin is None else Routing(origin, library)
        self._check_routing(self._pipeline)
        if origin is not None and Trait.CHOOSES not in self._pipeline.traits:
            raise TypeError(
                f"`origin` must be None without a Balance in the pipeline, got"
                f" {origin!r}: requests go where they say"
            )
        self.inner: Any = inner
        self._rules = Rules(
            self.client_library,
            (
                plain("retry_unsafe", retry_unsafe)
                if callable(retry_unsafe)
                else flag("retry_unsafe", retry_unsafe)
            ),
            checked_statuses(retry_statuses),
            checked_methods(retry_methods),
            flag("idempotency_key", idempotency_key),
            read_body,
            count("max_body", max_body, minimum=0),
            checked_idle("stream_idle", stream_idle),
            _checked_header(deadline_header),
            self._routing,
            _checked_cost_of(cost_of),
        )
        self._holds = Holds(checked_by(hold_by))
        # NB: what is the class's own is found more slowly.
        self._in_memory: Any = self.client_library.in_memory
        self._request: Any = library.Request
        self._lock = Lock()
        # The inner transport of each colour, from its first use on.
        self._inners: dict[str, Any] = {}
        # Those for addresses whose certificates have other names; see `Pools`.
        self._pools: dict[str, Pools] = {}
        # With an inner transport of the user's: the name at each address.
        self._names: dict[tuple[str, str, int | None], str] = {}
        self._comparison = Comparison(self._pipeline, library)
        self._sdk = SdkRetries(library, self._pipeline.warning_raised)

    def __repr__(self) -> str:
        inner = "" if self.inner is None else f", inner={self.inner!r}"
        return f"{type(self).__name__}({self._pipeline!r}{inner})"

    @property
    def pipeline(self) -> Policy[Any]:
        """What requests go through that bring no policy of their own."""
        return self._pipeline

    # -- Requests

    def handle_request(self, request: Request) -> Response:
        """Send a request through the pipeline; a client calls it."""
        __tracebackhide__ = True
        inner = self._inners.get("sync") or self._first_use("sync")
        policy = self._policy_for(request, "sync")
        if policy is None:
            response: Response = inner.handle_request(request)
            return response
        exchange = self._exchange(request, policy, SYNC)
        call = exchange.call
        if self.client_library.hedges:
            call.fork = functools.partial(HedgedExchange, exchange, self._drive, inner)
        token: Token[Call | None] | None = None
        try:
            token = enter_call(call)
            self._drive(exchange, inner)
            response, error = exchange.end()
            if exchange.sent > 1 and call.extras.stopped is not None:
                self._sdk.gave_up(request, exchange.sent)
            if error is None:
                return response
            raise error
        finally:
            if token is None:
                forget_call(call)
            else:
                leave_call(token)
            if exchange.response is not None:
                exchange.drop()
            exchange.leave()
            if self._pools:
                for pool in self._unused("sync"):
                    pool.close()
            # NB: the error's traceback holds this frame.
            error = None

    def _drive(self, exchange: Exchange, inner: Any) -> None:
        """Drive an exchange to its outcome."""
        __tracebackhide__ = True
        outcome: Outcome | None = None
        try:
            standstill = exchange.begin()
            while standstill is not DONE:
                if standstill is not RUN:
                    standstill = exchange.in_sync(standstill)
                    continue
                if exchange.response is not None:
                    exchange.drop()
                try:
                    sent = exchange.prepare()
                    sender = inner
                    if exchange.target is not None:
                        sender = self._sender("sync", exchange, inner)
                    try:
                        answer = sender.handle_request(sent)
                        if not isinstance(answer.stream, self._in_memory):
                            whole = exchange.reads(answer) and (exchange.read(answer))
                            if not whole:
                                exchange.stream(exchange.discard)
                    except Exception as raised:
                        outcome = exchange.failed(raised)
                    else:
                        # NB: an error in here is ours, and no verdict on the
                        # server: it unwinds.
                        outcome = exchange.answered(answer)
                except BaseException as unwinding:
                    standstill = exchange.throw(unwinding)
                    continue
                standstill = exchange.send(outcome)
        finally:
            # NB: the error's traceback holds this frame.
            outcome = None

    async def handle_async_request(self, request: Request) -> Response:
        """Send a request through the pipeline; a client calls it."""
        __tracebackhide__ = True
        inner = self._inners.get("async") or self._first_use("async")
        policy = self._policy_for(request, "async")
        if policy is None:
            response: Response = await inner.handle_async_request(request)
            return response
        exchange = self._exchange(request, policy)
        call = exchange.call
        if self.client_library.hedges:
            call.fork = functools.partial(HedgedExchange, exchange, self._adrive, inner)
        token: Token[Call | None] | None = None
        try:
            token = enter_call(call)
            await self._adrive(exchange, inner)
            response, error = exchange.end()
            if exchange.sent > 1 and call.extras.stopped is not None:
                self._sdk.gave_up(request, exchange.sent)
            if error is None:
                return response
            raise error
        except GeneratorExit:
            # Nothing can be awaited any more: the connection is lost.
            exchange.abandon()
            raise
        finally:
            try:
                if token is None:
                    forget_call(call)
                else:
                    leave_call(token)
            except ValueError:
                # Closed from another context, by the collector or a loop that
                # shuts down: the variable there was never ours.
                pass
            try:
                if exchange.response is not None:
                    await exchange.adrop()
                if self._pools:
                    for pool in self._unused("async"):
                        await pool.aclose()
            finally:
                exchange.leave()
                # NB: the error's traceback holds this frame.
                error = None

    async def _adrive(self, exchange: Exchange, inner: Any) -> None:
        """Drive an exchange to its outcome."""
        __tracebackhide__ = True
        outcome: Outcome | None = None
        try:
            standstill = exchange.begin()
            while standstill is not DONE:
                try:
                    if standstill is not RUN:
                        standstill = await exchange.forward(standstill)
                        continue
                    if exchange.response is not None:
                        await exchange.adrop()
                    sender = inner
                    try:
                        sent = exchange.prepare()
                        if exchange.target is not None:
                            sender = self._sender("async", exchange, inner)
                        try:
                            answer = await sender.handle_async_request(sent)
                            if not isinstance(answer.stream, self._in_memory):
                                whole = exchange.reads(answer) and (
                                    await exchange.aread(answer)
                                )
                                if not whole:
                                    exchange.stream(exchange.adiscard)
                        except Exception as raised:
                            outcome = exchange.failed(raised)
                        else:
                            # NB: an error in here is ours, and no verdict on the
                            # server: it unwinds.
                            outcome = exchange.answered(answer)
                    except BaseException as unwinding:
                        if not isinstance(unwinding, (Exception, GeneratorExit)):
                            await close_lost(sender, self.client_library)
                        standstill = exchange.throw(unwinding)
                        continue
                    standstill = exchange.send(outcome)
                except BaseException as interrupt:
                    if not exchange.is_suspended():
                        raise
                    standstill = exchange.throw(interrupt)
        finally:
            # NB: the error's traceback holds this frame.
            outcome = None

    def _exchange(
        self, request: Any, policy: Policy[Any], runtime: Any = None
    ) -> Exchange:
        comparison: Comparison | None = self._comparison
        if self._comparison.told or policy is not self._pipeline:
            comparison = None
        return Exchange(self._rules, request, policy, self._holds, runtime, comparison)

    # -- What is found out once

    def _first_use(self, colour: Literal["sync", "async"]) -> Any:
        """Return the inner transport for a colour, and look at the pipeline."""
        # NB: the transport judges every outcome itself.
        begin_use(self._pipeline, colour, classified=True)
        with self._lock:
            inner = self._inners.get(colour) or self._watched(self._inner(colour))
            self._inners[colour] = inner
        return inner

    def _watched(self, inner: Any) -> Any:
        library = self.client_library.module
        if isinstance(inner, (library.HTTPTransport, library.AsyncHTTPTransport)):
            watch(inner)
        return inner

    def _sender(
        self, colour: Literal["sync", "async"], exchange: Exchange, inner: Any
    ) -> Any:
        """Return the transport that sends an attempt to its endpoint."""
        target = exchange.target
        assert target is not None
        if target.scheme != "https":
            return inner
        if self.inner is not None:
            self._check_name(target, exchange.server_name)
            return inner
        if exchange.server_name is None:
            return inner
        pools = self._pools.get(colour)
        if pools is None:
            made = Pools(lambda: self._watched(self._inner(colour)))
            # NB: in one step: another thread may make them, too.
            pools = self._pools.setdefault(colour, made)
        return exchange.enter_pool(pools, target)

    def _unused(
        self, colour: Literal["sync", "async"], *, every: bool = False
    ) -> list[Any]:
        """Return transports that are to be closed: the idle ones, or all."""
        pools = self._pools.get(colour)
        if pools is None:
            return []
        return pools.take_all() if every else pools.take_idle()

    def _check_name(self, target: Target, server_name: str | None) -> None:
        """Refuse a name that the connections of a user's transport would not have.

        Args:
            target: Where the attempt goes.
            server_name: The name in the certificate; None: that of the address.

        Raises:
            ValueError: Another name has connections to the address, or a proxy
                has the certificate verified for the address.
        """
        library = self.client_library.module
        real = (library.HTTPTransport, library.AsyncHTTPTransport)
        if not isinstance(self.inner, real):
            return
        if server_name is not None and forgets_names(self.inner):
            raise ValueError(
                f"a request to {target.host!r} must not go through an HTTP proxy by"
                f" the name {server_name!r}: httpcore 1 verifies the certificate for"
                " the address there. Use resilient.httpx2, or no proxy"
            )
        address = target.scheme, target.host, target.port
        name = server_name or target.host
        known = self._names.setdefault(address, name)
        if known != name:
            raise ValueError(
                f"{known!r} and {name!r} must not share the connections of"
                f" `inner` to {target.host!r}, which would be verified for one of"
                " them: give a transport to each, or none"
            )

    def _check_hedges(self, policy: Policy[Any]) -> None:
        """Refuse a `Hedge` where a client's request cannot be sent twice at once."""
        library = self.client_library
        if Trait.RACES in policy.traits and not library.hedges:
            raise TypeError(
                f"{policy!r} has a Hedge, and a request of {library.module.__name__}"
                " cannot be sent twice at once: put it around a function"
            )

    def _check_routing(self, policy: Policy[Any]) -> None:
        """Refuse a policy that chooses endpoints no request could be sent to."""
        if Trait.CHOOSES not in policy.traits:
            return
        if self._routing is None:
            raise TypeError(
                f"{policy!r} has a Balance, and the transport no `origin`: give it"
                ' origin="https://…", whose requests go to the endpoints'
            )
        self._routing.check(policy)

    def _inner(self, colour: Literal["sync", "async"]) -> Any:
        library = self.client_library.module
        base = library.BaseTransport if colour == "sync" else library.AsyncBaseTransport
        if self.inner is not None:
            if not isinstance(self.inner, base):
                raise TypeError(
                    f"`inner` must be an instance of {library.__name__}."
                    f"{base.__name__} for this client, got {self.inner!r}"
                )
            return self.inner
        proxies = getproxies_environment()
        named = not proxies.keys().isdisjoint(("http", "https", "all"))
        if named and proxies.get("no") != "*":
            warn(
                "the environment names a proxy, which a client that is given a"
                " transport does not use: give the transport"
                " inner=HTTPTransport(proxy=…), or `mounts` to the client",
                past=library,
            )
        if colour == "sync":
            return library.HTTPTransport()
        return library.AsyncHTTPTransport()

    def _policy_for(
        self, request: Any, colour: Literal["sync", "async"]
    ) -> Policy[Any] | None:
        if not isinstance(request, self._request):
            library = self.client_library.module.__name__
            raise TypeError(
                f"a {type(self).__name__} of resilient.{library}"
                f" takes requests of {library}, got {request!r}"
                f" of {type(request).__module__.partition('.')[0]}"
            )
        if self._sdk.pending:
            self._sdk.look_at(request)
        extensions = request.extensions
        policy: object = extensions.get("resilient", self._pipeline)
        if policy is not self._pipeline:
            if policy is None or policy is False:
                return None
            if not is_policy(policy):
                raise TypeError(
                    "`extensions['resilient']` must be a Pipeline, a policy or False,"
                    f" got {policy!r}"
                )
            self._check_hedges(policy)
            self._check_routing(policy)
            begin_use(policy, "requests", colour, classified=True)
            return policy
        if not self._comparison.told:
            self._comparison.of_request(extensions.get("timeout"))
        return self._pipeline

    # -- Opening and closing, as the inner transport does

    def __enter__(self) -> Self:
        inner = self._inners.get("sync") or self._first_use("sync")
        inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        for pool in self._unused("sync", every=True):
            pool.close()
        self._inners["sync"].__exit__(exc_type, exc_value, traceback)

    def close(self) -> None:
        """Close the inner transport."""
        for pool in self._unused("sync", every=True):
            pool.close()
        inner = self._inners.get("sync", self.inner)
        if inner is not None:
            inner.close()

    async def __aenter__(self) -> Self:
        inner = self._inners.get("async") or self._first_use("async")
        await inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        for pool in self._unused("async", every=True):
            await pool.aclose()
        await self._inners["async"].__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        """Close the inner transport."""
        for pool in self._unused("async", every=True):
            await pool.aclose()
        inner = self._inners.get("async", self.inner)
        if inner is not None:
            await inner.aclose()


def is_policy(value: object) -> TypeGuard[Policy[Any]]:
    return isinstance(value, Policy)


def _checked_cost_of(
    cost_of: Callable[[Response], Mapping[str, float] | None] | None,
) -> Callable[[Any], Mapping[str, float] | None] | None:
    if cost_of is not None and not callable(cost_of):
        raise TypeError(
            f"`cost_of` must be a function of the response or None, got {cost_of!r}"
        )
    return None if cost_of is None else plain("cost_of", cost_of)


def _checked_header(header: object) -> tuple[str, str] | None:
    if header is None:
        return None
    if (
        not isinstance(header, tuple)
        or len(cast("tuple[object, ...]", header)) != 2
        or not isinstance(header[0], str)
        or header[1] not in _UNITS
    ):
        raise TypeError(
            "`deadline_header` must be a name and a unit, as in"
            f' ("X-Request-Timeout-Ms", "ms") or (…, "s"), got {header!r}'
        )
    return header[0], header[1]
