"""A gRPC server's handlers behind a pipeline, called as gRPC calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tests.colours import World
from tests.garbage import no_garbage
from tests.scripts import printed

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    BulkheadFullError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoEndpointError,
    PerKey,
    Pipeline,
    Policy,
    Priority,
    RateLimitedError,
    RateLimiter,
    RejectedError,
    ResilientError,
    Retry,
    ThrottledError,
    Timeout,
    TimeoutExceededError,
    remaining,
)
from resilient._server.answers import rpc_status
from resilient._server.rpc import AioServerInterceptor, ServerInterceptor
from resilient.grpc import (
    Rpc,
    aserver_interceptor,
    peer_address,
    server_interceptor,
    standard_server_pipeline,
)
from resilient.testing import virtual_time

METHOD = "/shop.Orders/Get"
Code = grpc.StatusCode


class Aborted(Exception):  # noqa: N818 - it is no error
    """What gRPC raises where a handler aborts."""


class Context:
    """What a handler of a `grpc.server` is given."""

    def __init__(
        self,
        left: float | None = None,
        peer: str = "ipv4:192.0.2.1:5000",
        metadata: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.left = left
        self.name = peer
        self.metadata = tuple(metadata)
        self.status: Any = None
        self.details = ""
        self.trailing: tuple[tuple[str, str], ...] = ()

    def time_remaining(self) -> float | None:
        return self.left

    def peer(self) -> str:
        return self.name

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata

    def code(self) -> Any:
        return self.status

    def set_code(self, status: Any) -> None:
        self.status = status

    def set_trailing_metadata(self, trailing: tuple[tuple[str, str], ...]) -> None:
        self.trailing = trailing

    def abort(self, status: Any, details: str) -> Any:
        self.status, self.details = status, details
        raise Aborted


class AioContext(Context):
    """The same of a `grpc.aio.server`, which knows statuses by number."""

    def code(self) -> int:
        return 0 if self.status is None else int(self.status.value[0])

    async def abort(self, status: Any, details: str) -> Any:
        super().abort(status, details)


def slots(limit: int) -> AdaptiveConcurrency:
    """A limit that stays what it is."""
    return AdaptiveConcurrency(AIMD(limit, maximum=limit))


KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def handler(kind: str, behaviour: Any) -> Any:
    """A handler of gRPC's for a behaviour."""
    return getattr(grpc, f"{kind}_rpc_method_handler")(behaviour, "in", "out")


def guarded(interceptor: ServerInterceptor, kind: str, behaviour: Any) -> Any:
    """What gRPC calls in the place of a behaviour."""
    details = SimpleNamespace(method=METHOD)
    found = interceptor.intercept_service(lambda _: handler(kind, behaviour), details)
    assert ("in", "out") == (found.request_deserializer, found.response_serializer)
    return getattr(found, kind)


async def aguarded(interceptor: AioServerInterceptor, kind: str, behaviour: Any) -> Any:
    """The same in a `grpc.aio.server`."""

    async def continuation(details: Any) -> Any:
        return handler(kind, behaviour)

    details = SimpleNamespace(method=METHOD)
    found = await interceptor.intercept_service(continuation, details)
    return getattr(found, kind)


class Service:
    """A handler in each kind and colour, and how to call it.

    Args:
        kind: The kind of RPC.
        colour: "sync", "asyncio", or "writes": one that writes its messages.
        policy: The pipeline.
        body: Runs in each call, with the context and the number of the message.
        options: For the interceptor.
    """

    def __init__(
        self,
        kind: str,
        colour: str,
        policy: Policy[Any] | None,
        body: Callable[[Context, int], object],
        **options: Any,
    ) -> None:
        self.kind, self.colour, self.body = kind, colour, body
        self.many = kind.endswith("_stream")
        self.calls = 0
        self.ended = 0
        make = server_interceptor if colour == "sync" else aserver_interceptor
        self.interceptor: Any = make(policy, **options)

    def one(self, request: Any, context: Any) -> Any:
        self.calls += 1
        self.body(context, 0)
        return "answer"

    def several(self, request: Any, context: Any) -> Iterator[Any]:
        self.calls += 1
        try:
            for number in range(3):
                self.body(context, number)
                yield number
        finally:
            self.ended += 1

    async def aone(self, request: Any, context: Any) -> Any:
        await asyncio.sleep(0)
        return self.one(request, context)

    async def aseveral(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for item in self.several(request, context):
            await asyncio.sleep(0)
            yield item

    async def call(self, context: Any) -> Any:
        """Call it once; return what gRPC would send."""
        if self.colour == "sync":
            fn = guarded(
                self.interceptor, self.kind, self.several if self.many else self.one
            )
            return list(fn("request", context)) if self.many else fn("request", context)
        behaviour = self.aseveral if self.many else self.aone
        fn = await aguarded(self.interceptor, self.kind, behaviour)
        if self.many:
            return [item async for item in fn("request", context)]
        return await fn("request", context)

    @property
    def expected(self) -> Any:
        return [0, 1, 2] if self.many else "answer"

    def context(self, *args: Any, **named: Any) -> Context:
        kind = Context if self.colour == "sync" else AioContext
        return kind(*args, **named)


def scenario(body: Callable[..., Any]) -> Any:
    """A test of every kind of RPC, in threads and in tasks."""

    @every_kind
    @pytest.mark.parametrize("colour", ["sync", "asyncio"])
    def test(kind: str, colour: str) -> None:
        world: Any = World(colour)  # type: ignore[arg-type]  # a literal
        world.run(lambda w: body(w, kind))

    test.__name__, test.__doc__ = body.__name__, body.__doc__
    return test


def nothing(context: Context, number: int) -> None:
    """A handler that does nothing."""


@scenario
async def test_an_rpc_goes_through(w: World, kind: str) -> None:
    """Its messages as they are, its slot free again."""
    limit = slots(1)
    service = Service(kind, w.colour, Pipeline(limit), nothing)
    context = service.context()

    for _ in range(3):
        assert service.expected == await service.call(context)
    assert (None, 0) == (context.status, limit.in_flight)


@scenario
async def test_a_slot_is_held_to_the_last_message(w: World, kind: str) -> None:
    """Meanwhile others are refused, without their handler."""
    limit = slots(1)
    seen: list[int] = []
    service = Service(
        kind, w.colour, Pipeline(limit), lambda *_: seen.append(limit.in_flight)
    )
    await service.call(service.context())
    assert [1] * len(seen) == seen

    full = Service(kind, w.colour, Pipeline(slots(1)), nothing)
    outer = Service(kind, w.colour, full.interceptor._front.pipeline, nothing)
    with full.interceptor._front.pipeline.guard():
        context = outer.context()
        with pytest.raises(Aborted):
            await outer.call(context)
    assert 0 == outer.calls
    assert (Code.RESOURCE_EXHAUSTED, "resource exhausted") == (
        context.status,
        context.details,
    )
    ((key, value),) = context.trailing
    assert "grpc-retry-pushback-ms" == key
    assert value in ("1000", "2000", "3000")


@scenario
async def test_a_client_has_its_own_limit(w: World, kind: str) -> None:
    """By its address, or by what `client` says."""
    per_client = standard_server_pipeline(per_client=lambda _: RateLimiter(1, per=60))
    service = Service(kind, w.colour, per_client, nothing)
    for peer, expected in [
        ("ipv4:192.0.2.1:5000", None),
        ("ipv4:192.0.2.1:5001", Code.RESOURCE_EXHAUSTED),
        ("ipv6:%5B2001:db8::1%5D:1", None),
        ("ipv6:[2001:db8::2]:1", Code.RESOURCE_EXHAUSTED),
        ("unix:", None),
        ("unix:/run/socket", Code.RESOURCE_EXHAUSTED),
    ]:
        context = service.context(peer=peer)
        try:
            await service.call(context)
        except Aborted:
            assert (("grpc-retry-pushback-ms", "60000"),) == context.trailing
        assert expected == context.status

    keyed = Service(
        kind,
        w.colour,
        PerKey(lambda _: RateLimiter(1, per=60)),
        nothing,
        client=lambda rpc: rpc.metadata["user"],
    )
    for user in "ab":
        await keyed.call(keyed.context(metadata=[("user", user)]))
    with pytest.raises(Aborted):
        await keyed.call(keyed.context(metadata=[("user", "a")]))


@scenario
async def test_priority_is_what_the_function_says(w: World, kind: str) -> None:
    """No metadata is read by itself."""
    seen: list[Priority] = []

    class Watching(Timeout):
        async def around(self, proceed: Any, call: Any) -> Any:
            seen.append(call.priority)
            return await proceed(call)

    sent = [("priority", "critical")]
    said: Any
    for said in (None, lambda rpc: "batch" if rpc.method == METHOD else None):
        service = Service(kind, w.colour, Watching(5), nothing, priority=said)
        await service.call(service.context(metadata=sent))
    assert [Priority.NORMAL, Priority.BATCH] == seen


@scenario
async def test_the_time_of_a_client_is_a_deadline(w: World, kind: str) -> None:
    """At most `max_deadline`, which holds where it does not say; case 22."""
    seen: list[float | None] = []
    service = Service(
        kind,
        w.colour,
        Timeout(100),
        lambda *_: seen.append(remaining()),
        max_deadline=30.0,
        min_deadline=0.5,
    )
    for left, expected in [(2.0, 2.0), (None, 30.0), (1e12, 30.0), (0.5, 0.5)]:
        seen.clear()
        await service.call(service.context(left))
        assert [expected] * len(seen) == seen
    service.calls = 0
    for left in (0.0, 0.4):
        context = service.context(left)
        with pytest.raises(Aborted):
            await service.call(context)
        assert (Code.DEADLINE_EXCEEDED, ()) == (context.status, context.trailing)
    assert 0 == service.calls


@scenario
async def test_errors_of_the_handler_go_on(w: World, kind: str) -> None:
    """They count as failures, and leave no slot taken."""
    limit = slots(1)

    def fail(context: Context, number: int) -> None:
        raise LookupError("bug")

    service = Service(kind, w.colour, Pipeline(limit), fail)
    with pytest.raises(LookupError, match="bug"):
        await service.call(service.context())
    assert 0 == limit.in_flight


@scenario
async def test_errors_of_ours_have_a_status(w: World, kind: str) -> None:
    """A handler's own pipeline that rejects is no bug, before or amid messages."""
    for when in (0, 2) if kind.endswith("_stream") else (0,):

        def reject(context: Context, number: int, when: int = when) -> None:
            if number == when:
                raise CircuitOpenError("payments", 12.3)

        service = Service(kind, w.colour, Timeout(5), reject)
        context = service.context()
        with pytest.raises(Aborted):
            await service.call(context)
        assert Code.UNAVAILABLE == context.status
        assert (("grpc-retry-pushback-ms", "13000"),) == context.trailing
        assert "payments" not in context.details


@scenario
async def test_a_status_is_judged_by_its_number(w: World, kind: str) -> None:
    """NOT_FOUND says nothing against this server, INTERNAL does."""
    heard: list[str] = []

    class Judge(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Any:
            outcome = await proceed(call)
            heard.append(outcome.verdict.value)
            return outcome

    for status, raises, expected in [
        (Code.NOT_FOUND, True, "success"),
        (Code.INTERNAL, True, "failure"),
        (Code.NOT_FOUND, False, "success"),
        (Code.UNAVAILABLE, False, "failure"),
        (None, False, "success"),
    ]:

        def end(
            context: Context, number: int, status: Any = status, raises: bool = raises
        ) -> None:
            context.set_code(status)
            if raises:
                raise Aborted

        service = Service(kind, w.colour, Judge(), end)
        try:
            await service.call(service.context())
        except Aborted:
            assert raises
        assert [expected] == heard
        heard.clear()


@scenario
async def test_a_stream_may_abort_amid_its_messages(w: World, kind: str) -> None:
    """Those before were sent."""
    if not kind.endswith("_stream"):
        return
    limit = slots(1)

    def end(context: Context, number: int) -> None:
        if number == 2:
            context.set_code(Code.NOT_FOUND)
            raise Aborted

    service = Service(kind, w.colour, Pipeline(limit), end)
    with pytest.raises(Aborted):
        await service.call(service.context())
    assert (1, 0) == (service.ended, limit.in_flight)


@scenario
async def test_a_stream_ends_at_its_limit(w: World, kind: str) -> None:
    """That of its client, or of the policies: what comes first."""
    if not kind.endswith("_stream"):
        return
    for total, left in [(100.0, 1.5), (1.5, 50.0), (None, 1.5)]:
        service = Service(kind, w.colour, Timeout(total), nothing)
        context = service.context(left)
        assert 1.0 == await _last_message(w, service, context)
        assert Code.DEADLINE_EXCEEDED == context.status


async def _last_message(w: World, service: Service, context: Context) -> float:
    """Take a message each second until it is aborted; when came the last one?"""
    began = last = w.now()
    try:
        if w.is_sync:
            fn = guarded(service.interceptor, service.kind, service.several)
            for _ in fn("request", context):
                last = w.now()
                await w.sleep(1.0)
        else:
            fn = await aguarded(service.interceptor, service.kind, service.aseveral)
            async for _ in fn("request", context):
                last = w.now()
                await w.sleep(1.0)
    except Aborted:
        return last - began
    raise AssertionError("it ended")


@scenario
async def test_a_stream_that_is_left_gives_its_slot_back(w: World, kind: str) -> None:
    """GRPC stops asking for messages when a client has gone."""
    if not kind.endswith("_stream"):
        return
    limit = slots(1)
    service = Service(kind, w.colour, Pipeline(limit), nothing)
    if w.is_sync:
        stream = guarded(service.interceptor, kind, service.several)("r", Context())
        assert 0 == next(stream)
        assert 1 == limit.in_flight
        stream.close()
    else:
        fn = await aguarded(service.interceptor, kind, service.aseveral)
        stream = fn("r", AioContext())
        assert 0 == await anext(stream)
        assert 1 == limit.in_flight
        await stream.aclose()
    assert 0 == limit.in_flight


def test_a_task_that_is_cancelled_says_nothing() -> None:
    """GRPC does so where the client goes: case 22."""
    limit = slots(1)

    async def behaviour(request: Any, context: Any) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        interceptor: Any = aserver_interceptor(Pipeline(limit))
        fn = await aguarded(interceptor, "unary_unary", behaviour)
        task = asyncio.create_task(fn("request", AioContext()))
        await asyncio.sleep(1)
        assert 1 == limit.in_flight
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual_time.run(main)
    assert 0 == limit.in_flight


def test_a_timeout_cancels_a_task() -> None:
    """And is a status."""
    cancelled: list[bool] = []

    async def behaviour(request: Any, context: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        interceptor: Any = aserver_interceptor(standard_server_pipeline(total=2.0))
        fn = await aguarded(interceptor, "unary_unary", behaviour)
        context = AioContext()
        with pytest.raises(Aborted):
            await fn("request", context)
        assert Code.DEADLINE_EXCEEDED == context.status

    virtual_time.run(main)
    assert [True] == cancelled


def test_a_server_on_asyncio_may_have_handlers_of_other_shapes() -> None:
    """Those that write their messages, and those that run in its threads."""
    written: list[int] = []
    limit = slots(1)

    async def writes(request: Any, context: Any) -> None:
        for number in range(3):
            written.append(number)
            assert 1 == limit.in_flight

    def in_thread(request: Any, context: Any) -> str:
        return "thread"

    async def main() -> None:
        interceptor: Any = aserver_interceptor(Pipeline(limit))
        fn = await aguarded(interceptor, "unary_stream", writes)
        await fn("request", AioContext())
        fn = await aguarded(interceptor, "unary_unary", in_thread)
        assert "thread" == await asyncio.to_thread(fn, "request", Context())

    virtual_time.run(main)
    assert [0, 1, 2] == written


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", None])
def test_probes_and_unknown_methods_pass(method: str | None) -> None:
    """A full server is healthy; what has no handler is gRPC's to answer."""
    known = None if method is None else handler("unary_unary", lambda *_: "up")
    details = SimpleNamespace(method=method or METHOD)
    interceptor: Any = server_interceptor()
    assert known is interceptor.intercept_service(lambda _: known, details)

    async def continuation(details: Any) -> Any:
        return known

    async def main() -> None:
        aio: Any = aserver_interceptor()
        assert known is await aio.intercept_service(continuation, details)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RateLimitedError("p", 2.5), ("RESOURCE_EXHAUSTED", 3000)),
        (BulkheadFullError("p"), ("RESOURCE_EXHAUSTED", None)),
        (ConcurrencyLimitedError("p"), ("RESOURCE_EXHAUSTED", None)),
        (ThrottledError("p"), ("RESOURCE_EXHAUSTED", None)),
        (CircuitOpenError("p", 12.3), ("UNAVAILABLE", 13000)),
        (NoEndpointError("p"), ("UNAVAILABLE", None)),
        (RejectedError("p"), ("UNAVAILABLE", None)),
        (DeadlineExceededError("p"), ("DEADLINE_EXCEEDED", None)),
        (TimeoutExceededError("p", 1.0, 1.0), ("DEADLINE_EXCEEDED", None)),
    ],
)
def test_each_error_has_its_status(
    error: ResilientError, expected: tuple[str, int | None]
) -> None:
    """Where the error does not know when to come back, 1 to 3 s are drawn."""
    name, pushback = rpc_status(error)
    assert expected[0] == name
    if expected[1] is None and not isinstance(error, TimeoutError):
        assert pushback in (1000, 2000, 3000)
    else:
        assert expected[1] == pushback


def test_arguments_are_checked_when_it_is_made() -> None:
    """As those of the other middlewares."""
    make: Any
    for make in (server_interceptor, aserver_interceptor):
        with pytest.raises(TypeError, match="has no meaning in front of an"):
            make(Pipeline(Retry(OSError)))
        with pytest.raises(ValueError, match="`max_deadline` must"):
            make(max_deadline=0)
        with pytest.raises(TypeError, match="`exempt` must be a list of strings"):
            make(exempt="/a/b")
        with pytest.raises(TypeError, match="`client` must be a function"):
            make(client="address")


def test_reprs_name_the_method_and_the_pipeline() -> None:
    """And nothing of the client."""
    rpc = Rpc(METHOD, Context(metadata=[("token", "secret")]))
    assert "<Rpc '/shop.Orders/Get'>" == repr(rpc)
    assert "192.0.2.1" == peer_address(rpc)
    assert "server_interceptor(Timeout(5.0))" == repr(server_interceptor(Timeout(5)))
    assert "aserver_interceptor(Timeout(5.0))" == repr(aserver_interceptor(Timeout(5)))


@scenario
async def test_an_rpc_that_failed_leaves_no_circle(w: World, kind: str) -> None:
    """Neither a status of the handler's nor a refusal."""

    def end(context: Context, number: int) -> None:
        context.set_code(Code.NOT_FOUND)
        raise Aborted

    service = Service(kind, w.colour, Timeout(5), end)

    async def fail() -> None:
        for left in (None, 0.0):
            try:
                await service.call(service.context(left))
            except Aborted:
                pass

    await fail()
    with no_garbage():
        await fail()


# -- gRPC itself


@pytest.mark.real
@pytest.mark.parametrize("colour", ["sync", "aio"])
def test_a_real_server(colour: str) -> None:
    """Of all four kinds, with real clients, in a process of its own.

    gRPC's threads and forks do not mix, and other tests fork.
    """
    assert {
        "answers": ["a", ["a", "a"], "ab", ["a", "b"]],
        "limited": ["RESOURCE_EXHAUSTED", True],
        "probe while full": "up",
        "time": True,
        "late": "DEADLINE_EXCEEDED",
        "circuit": ["UNAVAILABLE", "13000"],
        "missing": "NOT_FOUND",
        "free after a client went": True,
    } == printed("tests.server.grpc_served", colour)
