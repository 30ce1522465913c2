"""What stands in front of an ASGI application, called as a server calls it."""

from __future__ import annotations

import asyncio
from typing import Any

from resilient import AIMD, RateLimiter
from resilient.asgi import App, Message, ResilientMiddleware, Scope
from resilient.asgi import standard_server_pipeline as standard

from .workloads import Function, World

HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"bench"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip"),
    (b"connection", b"keep-alive"),
]


def bare(fn: Function, world: World, tight: bool) -> Function:
    """An application of Starlette's and nothing else."""
    return _served(_starlette())


def middleware(fn: Function, world: World, tight: bool) -> Function:
    """The middleware of this library, with its default pipeline."""
    return _served(ResilientMiddleware(_starlette()))


def per_client(fn: Function, world: World, tight: bool) -> Function:
    """The same with all that a service has: a limit by address, a deadline's field."""
    many = 10**9
    app = ResilientMiddleware(
        _starlette(),
        standard(per_client=lambda client: RateLimiter(many, burst=many)),
        deadline_header=("X-Request-Timeout-Ms", "ms"),
    )
    return _served(app)


def rejecting(fn: Function, world: World, tight: bool) -> Function:
    """The middleware while its only slot is taken."""
    app = ResilientMiddleware(_starlette(), standard(limit=AIMD(1, maximum=1)))
    return _served(app, 503)


def no_op(fn: Function, world: World, tight: bool) -> Function:
    """What most middlewares are built on, doing nothing."""
    from starlette.middleware.base import BaseHTTPMiddleware

    class NoOp(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    return _served(NoOp(_starlette()))


def _starlette() -> App:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def hello(request: Any) -> Any:
        return PlainTextResponse("hello")

    async def hold(request: Any) -> Any:
        await asyncio.sleep(3600)

    return Starlette(routes=[Route("/", hello), Route("/hold", hold)])


def _served(app: App, status: int = 200) -> Function:
    """Serve a request in a task of its own, as servers do; 1: by that status."""
    held: list[asyncio.Task[None]] = []

    async def request(x: int) -> int:
        task = asyncio.get_running_loop().create_task
        if status != 200 and not held:
            held.append(task(_exchange(app, "/hold", [])))
            await asyncio.sleep(0)
        seen: list[int] = []
        await task(_exchange(app, "/", seen))
        return int(seen == [status])

    return request


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _exchange(app: App, path: str, seen: list[int]) -> None:
    async def send(message: Message) -> None:
        if "status" in message:
            seen.append(message["status"])

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": HEADERS,
        "client": ("192.0.2.1", 5000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    await app(scope, _receive, send)
