"""Ctrl-C at any moment where policies stand around something else than a function.

Blocks, loops of attempts, generators, context managers, requests of HTTP clients,
RPCs of gRPC clients and servers, and applications behind the middlewares. As in
`test_interrupts`, nothing may be left behind, and the interrupt arrives as itself.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio
from tests.interrupts import (
    BOUND,
    Moment,
    complaints,
    every_moment,
    left,
    on_loop,
    on_trio,
)

import resilient
from resilient import Bulkhead, Hedge, Policy, Retry, Timeout
from resilient._runtimes import clock
from resilient.asgi import ResilientMiddleware
from resilient.httpx import ResilientTransport
from resilient.wsgi import ResilientMiddleware as WSGIMiddleware

Sleep = Callable[[float], Awaitable[object]]
Run = Callable[[], Any]

POLICIES: dict[str, Callable[[], Policy[Any]]] = {
    "bulkhead": lambda: Bulkhead(10, max_queue=5, max_wait=1),
    "retry": lambda: Retry(OSError),
    "timeout": lambda: Timeout(60),
    "hedge": lambda: Hedge(1e-6, max_threads=2),
}


@pytest.fixture(autouse=True)
def brief_patrols(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for another looks soon whether that one is still there."""
    monkeypatch.setattr(clock, "patrol", 0.02)


# -- Plain


def guard(policy: Policy[Any]) -> Run:
    """A block."""

    def run() -> int:
        with policy.guard():
            return 1

    return run


def attempts(policy: Policy[Any]) -> Run:
    """A loop that needs one attempt."""

    def run() -> int:
        for attempt in policy.attempts():
            with attempt:
                return 1
        raise AssertionError

    return run


def generator(policy: Policy[Any]) -> Run:
    """A generator, from its first item to its end."""

    @policy
    def items() -> Iterator[int]:
        yield 0
        yield 1

    return lambda: sum(items())


def manager(policy: Policy[Any]) -> Run:
    """A context manager."""

    @policy
    @contextmanager
    def entered() -> Iterator[int]:
        yield 1

    def run() -> int:
        with entered() as value:
            return value

    return run


def request(policy: Policy[Any]) -> Run:
    """A request of a client, and its body."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="1")

    transport = ResilientTransport(policy, inner=httpx.MockTransport(answer))

    def run() -> int:
        response = transport.handle_request(httpx.Request("GET", "http://a/"))
        try:
            return int(response.read())
        finally:
            response.close()

    return run


def adapter(policy: Policy[Any]) -> Run:
    """A request of a session of requests, and its body."""
    requests = pytest.importorskip("requests")
    urllib3 = pytest.importorskip("urllib3")
    resilient_adapter = importlib.import_module("resilient.requests").ResilientAdapter
    protected = resilient_adapter(policy)
    prepared = requests.Request("GET", "http://a/").prepare()

    def answer(self: object, request: Any, **options: Any) -> Any:
        response = requests.Response()
        response.status_code, response.url = 200, request.url
        response.headers["Content-Length"] = "1"
        response.raw = urllib3.HTTPResponse(BytesIO(b"1"), preload_content=False)
        return response

    def run() -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(requests.adapters.HTTPAdapter, "send", answer)
            return int(protected.send(prepared).text)

    return run


def wsgi(policy: Policy[Any]) -> Run:
    """A request to an application, and its body."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"1"]

    protected = WSGIMiddleware(app, policy)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.url_scheme": "http"}

    def run() -> int:
        body: Any = protected(environ, lambda *_: len)
        try:
            return int(b"".join(body))
        finally:
            getattr(body, "close", int)()

    return run


class Answered:
    """An RPC that has its answer, for clients of both kinds."""

    def done(self) -> bool:
        """Say that it is over."""
        return True

    def exception(self) -> None:
        """Return no error."""

    def result(self) -> int:
        """Return the answer."""
        return 1

    def __await__(self) -> Generator[Any, Any, int]:
        yield from asyncio.sleep(0).__await__()
        return 1


class Streamed:
    """An RPC that has its answers, likewise."""

    def __init__(self) -> None:
        self._answers = iter([1])

    def __next__(self) -> int:
        return next(self._answers)

    async def __aiter__(self) -> AsyncIterator[int]:
        await asyncio.sleep(0)
        yield 1

    def done(self) -> bool:
        """Say that it is over."""
        return True

    def cancel(self) -> bool:
        """Do nothing: it is over."""
        return False

    def cancelled(self) -> bool:
        """Say that it was not."""
        return False

    def code(self) -> Any:
        """Return that it went well."""
        return pytest.importorskip("grpc").StatusCode.OK

    def add_callback(self, callback: object) -> bool:
        """Say that it is over."""
        return False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Tell that it is over."""
        callback(self)


def details() -> Any:
    """Return what gRPC tells an interceptor of an RPC."""
    named = dict.fromkeys(("metadata", "credentials", "wait_for_ready"))
    return SimpleNamespace(method="/a.Service/Get", timeout=None, **named)


def interceptor(name: str, policy: Policy[Any]) -> Any:
    """Return those for RPCs of one request."""
    pytest.importorskip("grpc")
    grpc = importlib.import_module("resilient.grpc")
    # NB: the sync one is for all kinds.
    one, several = (2 * getattr(grpc, name)(policy))[:2]
    return SimpleNamespace(
        intercept_unary_unary=one.intercept_unary_unary,
        intercept_unary_stream=several.intercept_unary_stream,
    )


def rpc(policy: Policy[Any]) -> Run:
    """An RPC of one answer."""
    intercept = interceptor("client_interceptors", policy).intercept_unary_unary

    def run() -> int:
        answer: int = intercept(lambda *_: Answered(), details(), b"").result()
        return answer

    return run


def rpc_stream(policy: Policy[Any]) -> Run:
    """An RPC of several answers."""
    intercept = interceptor("client_interceptors", policy).intercept_unary_stream
    return lambda: sum(intercept(lambda *_: Streamed(), details(), b""))


class Served:
    """What gRPC gives a handler of an RPC."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[..., None]] = []

    def time_remaining(self) -> float:
        """Return the seconds that its client waits."""
        return BOUND

    def invocation_metadata(self) -> tuple[Any, ...]:
        """Return nothing."""
        return ()

    def code(self) -> None:
        """Return that none was set."""

    def peer(self) -> str:
        """Return who asks."""
        return "ipv4:127.0.0.1:1"

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Call it at the end."""
        self._callbacks.append(callback)
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call it at the end."""
        self._callbacks.append(callback)

    def end(self) -> None:
        """Be over."""
        for callback in self._callbacks:
            callback()


def served(policy: Policy[Any]) -> Run:
    """An RPC at a server."""
    grpc = pytest.importorskip("grpc")
    interceptor = importlib.import_module("resilient.grpc").server_interceptor(policy)
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: 1)
    asked = SimpleNamespace(method="/a.Service/Get", invocation_metadata=())
    method = interceptor.intercept_service(lambda _: handler, asked).unary_unary

    def run() -> int:
        context = Served()
        try:
            answer: int = method(b"", context)
            return answer
        finally:
            context.end()

    return run


def served_stream(policy: Policy[Any]) -> Run:
    """An RPC of several answers at a server."""
    grpc = pytest.importorskip("grpc")
    interceptor = importlib.import_module("resilient.grpc").server_interceptor(policy)
    handler = grpc.unary_stream_rpc_method_handler(lambda request, context: iter([1]))
    asked = SimpleNamespace(method="/a.Service/Get", invocation_metadata=())
    method = interceptor.intercept_service(lambda _: handler, asked).unary_stream

    def run() -> int:
        context = Served()
        try:
            return sum(method(b"", context))
        finally:
            context.end()

    return run


EDGES = (
    guard,
    attempts,
    generator,
    manager,
    request,
    adapter,
    rpc,
    rpc_stream,
    served,
    served_stream,
    wsgi,
)

SYNC = [
    pytest.param(edge, make, id=f"{edge.__name__} {name}")
    for edge in EDGES
    for name, make in POLICIES.items()
    if name == "bulkhead"
    or (name, edge) in (("timeout", generator), ("retry", attempts))
]


class Interrupt:
    """Ctrl-C, as often as it is called.

    Attributes:
        came: Whether it was, where it is not held back.
        swallowed: Whether it was raised in a destructor, where Python drops it.
    """

    def __init__(self) -> None:
        self.came = False
        self.swallowed = False

    def __call__(self) -> None:
        if trio.lowlevel.in_trio_run() and trio.lowlevel.currently_ki_protected():
            # NB: as trio's own handler does, for its own code must not break.
            return
        self.came = True
        raise KeyboardInterrupt

    def __enter__(self) -> None:
        self.came = self.swallowed = False
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._note

    def __exit__(self, *exc: object) -> None:
        sys.unraisablehook = self._hook

    def _note(self, event: Any) -> None:
        if isinstance(event.exc_value, KeyboardInterrupt):
            self.swallowed = True
        else:
            self._hook(event)


def assert_nothing_is_left(
    make: Callable[[], Policy[Any]], answer_of: Callable[[Moment, Policy[Any]], object]
) -> None:
    """Interrupt at each moment in turn, and look at the policy and at the answer."""
    found: dict[str, Any] = {}
    interrupt = Interrupt()

    def look(moment: Moment) -> None:
        policy = make()
        with complaints() as warned, interrupt:
            answer = answer_of(moment, policy)
        # NB: of the user's generator, and of Python's making, from 3.14 on.
        remains: list[Any] = [one for one in warned if "coroutine method" not in one]
        right = KeyboardInterrupt if interrupt.came else 1
        if answer != right and not interrupt.swallowed:
            remains.append(f"ended with {answer!r}")
        # NB: threads that look for one another would take seconds.
        remains += left(policy) if not isinstance(policy, Hedge) else []
        if remains:
            found[moment.where] = remains

    # NB: the other moments of a hedged call are those of a function's.
    module = "_edges/driver.py" if isinstance(make(), Hedge) else ""
    for moment in every_moment(interrupt, module):
        copy_context().run(look, moment)
    assert {} == found


@pytest.mark.parametrize(("edge", "make"), SYNC)
def test_ctrl_c_at_any_moment_leaves_nothing(
    edge: Callable[[Policy[Any]], Run], make: Callable[[], Policy[Any]]
) -> None:
    """No permit, no call that is still current, and no interrupt is lost."""

    def answer_of(moment: Moment, policy: Policy[Any]) -> object:
        run = edge(policy)
        try:
            with moment:
                return run()
        except BaseException as error:
            return type(error)

    assert_nothing_is_left(make, answer_of)


# -- Async


def aguard(policy: Policy[Any], sleep: Sleep) -> Run:
    """A block."""

    async def run() -> int:
        async with policy.guard():
            await sleep(0)
        return 1

    return run


def aattempts(policy: Policy[Any], sleep: Sleep) -> Run:
    """A loop that needs one attempt."""

    async def run() -> int:
        async for attempt in policy.attempts():
            async with attempt:
                await sleep(0)
        return 1

    return run


def agenerator(policy: Policy[Any], sleep: Sleep) -> Run:
    """A generator, from its first item to its end."""

    @policy
    async def items() -> AsyncIterator[int]:
        yield 0
        await sleep(0)
        yield 1

    async def run() -> int:
        return sum([item async for item in items()])

    return run


def amanager(policy: Policy[Any], sleep: Sleep) -> Run:
    """A context manager."""

    @policy
    @asynccontextmanager
    async def entered() -> AsyncIterator[int]:
        await sleep(0)
        yield 1

    async def run() -> int:
        async with entered() as value:
            return value

    return run


def arequest(policy: Policy[Any], sleep: Sleep) -> Run:
    """A request of a client, and its body."""

    async def answer(request: httpx.Request) -> httpx.Response:
        call = resilient.current_call()
        # NB: where there are two attempts at once, the second is the one to answer.
        first = isinstance(policy, Hedge) and not call.hedge
        await sleep(BOUND if first else 0)
        return httpx.Response(200, text="1")

    transport = ResilientTransport(policy, inner=httpx.MockTransport(answer))

    async def run() -> int:
        request = httpx.Request("GET", "http://a/")
        response = await transport.handle_async_request(request)
        try:
            return int(await response.aread())
        finally:
            await response.aclose()

    return run


def arpc(policy: Policy[Any], sleep: Sleep) -> Run:
    """An RPC of one answer."""
    intercept = interceptor("aclient_interceptors", policy).intercept_unary_unary

    async def send(details: Any, request: bytes) -> Answered:
        await sleep(0)
        return Answered()

    async def run() -> int:
        answer: int = await (await intercept(send, details(), b""))
        return answer

    return run


def arpc_stream(policy: Policy[Any], sleep: Sleep) -> Run:
    """An RPC of several answers."""
    intercept = interceptor("aclient_interceptors", policy).intercept_unary_stream

    async def send(details: Any, request: bytes) -> Streamed:
        await sleep(0)
        return Streamed()

    async def run() -> int:
        answers: AsyncIterator[int] = await intercept(send, details(), b"")
        return sum([answer async for answer in answers])

    return run


def aserved(policy: Policy[Any], sleep: Sleep) -> Run:
    """An RPC at a server of asyncio's."""
    grpc = pytest.importorskip("grpc")
    intercept = importlib.import_module("resilient.grpc").aserver_interceptor(policy)

    async def answer(request: bytes, context: Served) -> int:
        await sleep(0)
        return 1

    async def find(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(answer)

    async def run() -> int:
        asked = SimpleNamespace(method="/a.Service/Get", invocation_metadata=())
        handler = await intercept.intercept_service(find, asked)
        answered: int = await handler.unary_unary(b"", Served())
        return answered

    return run


def aserved_stream(policy: Policy[Any], sleep: Sleep) -> Run:
    """An RPC of several answers, likewise."""
    grpc = pytest.importorskip("grpc")
    intercept = importlib.import_module("resilient.grpc").aserver_interceptor(policy)

    async def answers(request: bytes, context: Served) -> AsyncIterator[int]:
        await sleep(0)
        yield 1

    async def find(details: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(answers)

    async def run() -> int:
        asked = SimpleNamespace(method="/a.Service/Get", invocation_metadata=())
        handler = await intercept.intercept_service(find, asked)
        return sum([answer async for answer in handler.unary_stream(b"", Served())])

    return run


def asgi(policy: Policy[Any], sleep: Sleep) -> Run:
    """A request to an application."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1"})

    async def receive() -> dict[str, str]:
        await sleep(BOUND)
        return {"type": "http.disconnect"}

    protected: Any = ResilientMiddleware(app, policy)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}

    async def run() -> int:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await protected(scope, receive, send)
        return int(sent[1]["body"])

    return run


def on_asyncio(moment: Moment, run: Run) -> object:
    """Run on a loop that goes on, as a notebook's does."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(run())
    answer = on_loop(loop, task, moment)
    # NB: looked at, or it is logged that nothing did.
    task.cancelled() or task.exception()
    if tasks := asyncio.all_tasks(loop):
        # That of an attempt that lost ends by itself.
        loop.run_until_complete(asyncio.wait(tasks, timeout=BOUND))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    return answer


ON: dict[str, tuple[Callable[[Moment, Run], object], Sleep]] = {
    "asyncio": (on_asyncio, asyncio.sleep),
    "trio": (on_trio, trio.sleep),
}

ASYNC = [
    pytest.param(
        edge, POLICIES[name], *ON[colour], id=f"{edge.__name__} {name} {colour}"
    )
    for edge, name, colours in (
        (aguard, "bulkhead", ["asyncio"]),
        (aattempts, "retry", ["asyncio"]),
        (agenerator, "timeout", ["asyncio", "trio"]),
        (amanager, "bulkhead", ["trio"]),
        (arequest, "bulkhead", ["asyncio", "trio"]),
        (arequest, "hedge", ["asyncio", "trio"]),
        (arpc, "bulkhead", ["asyncio"]),
        (arpc_stream, "bulkhead", ["asyncio"]),
        (aserved, "bulkhead", ["asyncio"]),
        (aserved_stream, "bulkhead", ["asyncio"]),
        (asgi, "bulkhead", ["asyncio", "trio"]),
    )
    for colour in colours
]


@pytest.mark.parametrize(("edge", "make", "on", "sleep"), ASYNC)
def test_ctrl_c_at_any_moment_leaves_nothing_in_async(
    edge: Callable[[Policy[Any], Sleep], Run],
    make: Callable[[], Policy[Any]],
    on: Callable[[Moment, Run], object],
    sleep: Sleep,
) -> None:
    """Nor a coroutine of ours un-awaited, nor a task."""
    assert_nothing_is_left(make, lambda moment, policy: on(moment, edge(policy, sleep)))
