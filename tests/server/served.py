"""A Starlette application behind a pipeline, for real servers to serve."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    CircuitOpenError,
    PerKey,
    Pipeline,
    RateLimiter,
    ResilientError,
    Timeout,
    remaining,
)
from resilient.asgi import Lifecycle, ResilientMiddleware, exception_handler

slots = AdaptiveConcurrency(AIMD(8, maximum=8))
noted: list[str] = []


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def left(request: Request) -> Response:
    return JSONResponse(remaining())


async def size(request: Request) -> Response:
    return JSONResponse(len(await request.body()))


async def slow(request: Request) -> Response:
    try:
        await anyio.sleep(float(request.query_params["s"]))
    except anyio.get_cancelled_exc_class():
        noted.append("slow cancelled")
        raise
    return PlainTextResponse("slow")


async def stream(request: Request) -> Response:
    async def forever() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: tick\n\n"
                await anyio.sleep(0.05)
        finally:
            noted.append("stream ended")

    return StreamingResponse(forever(), media_type="text/event-stream")


async def flood(request: Request) -> Response:
    async def forever() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 65_536
                await anyio.sleep(0)
        finally:
            noted.append("flood ended")

    return StreamingResponse(forever())


async def background(request: Request) -> Response:
    async def work() -> None:
        await anyio.sleep(0.2)
        noted.append(f"background {slots.in_flight} {remaining()}")

    return PlainTextResponse("background", background=BackgroundTask(work))


async def rejected(request: Request) -> Response:
    raise CircuitOpenError("payments", 12.3)


async def bug(request: Request) -> Response:
    raise LookupError("bug")


async def state(request: Request) -> Response:
    return JSONResponse({"in_flight": slots.in_flight, "noted": noted})


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


routes = [
    Route(f"/{one.__name__}", one, methods=["GET", "POST"])
    for one in (
        hello,
        left,
        size,
        slow,
        stream,
        flood,
        background,
        rejected,
        bug,
        state,
    )
]
routes.append(Route("/unread", hello, methods=["POST"]))
LIMITED = ("/hello", "/unread")
app = ResilientMiddleware(
    Starlette(
        routes=[*routes, WebSocketRoute("/echo", echo)],
        exception_handlers={ResilientError: exception_handler},
    ),
    Pipeline(
        Timeout(1.5), PerKey(lambda path: RateLimiter(3, per=3600, burst=3)), slots
    ),
    client=lambda scope: scope["path"] if scope["path"] in LIMITED else object(),
    deadline_header=("X-Request-Timeout-Ms", "ms"),
    exempt=("/state",),
)


def draining(lifecycle: Lifecycle | None) -> ResilientMiddleware:
    """The application, without limits, behind a lifecycle of its own."""
    return ResilientMiddleware(Starlette(routes=routes), slots, lifecycle=lifecycle)


delayed = draining(Lifecycle(delay=2.0, timeout=20.0, details=True))
hasty = draining(Lifecycle(delay=0.0, timeout=1.0))
patient = draining(Lifecycle(delay=600.0))
undelayed = draining(None)
