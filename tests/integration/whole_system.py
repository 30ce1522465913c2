"""The processes of `test_whole_system.py`, each by its name: what a user would write.

The gateway asks two services, one by HTTP and one by gRPC, which both ask a
dependency that has few slots and fails now and then. With ``PROTECTED=1`` each has
the library's standard pipelines in front and behind; without, they are the same.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from typing import Any

import grpc
import grpc.aio
import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from resilient import (
    Bulkhead,
    Call,
    Gradient,
    Pipeline,
    ResilientError,
    current_call,
    health,
)
from resilient._values.priority import PriorityName
from resilient.asgi import (
    ResilientMiddleware,
    Scope,
    exception_handler,
    standard_server_pipeline,
)
from resilient.grpc import (
    Rpc,
    aclient_interceptors,
    aserver_interceptor,
    standard_client_pipeline,
)
from resilient.httpx import ResilientTransport, standard_pipeline
from resilient.redis import RedisStore

PROTECTED = os.environ.get("PROTECTED") == "1"
PORTS = dict(
    zip(
        ("gateway", "http", "rpc", "dependency", "store"),
        map(int, os.environ.get("PORTS", "0 0 0 0 0").split()),
        strict=True,
    )
)
SECRET = "of this fleet alone"
DEADLINE = ("X-Request-Timeout-Ms", "ms")
METHOD = "/shop.Prices/Get"

FULL_LENGTH = "RESILIENT_FULL_LENGTH" in os.environ

SLOTS = 6
SECONDS, TOTAL = (0.5, 2.5) if FULL_LENGTH else (1.0, 6.0)
"""What a slot is taken for, and what the callers wait. The short form runs beside other
tests, and has more time for everything that is no sleep."""


def address(name: str) -> str:
    """Where a process listens."""
    return f"127.0.0.1:{PORTS[name]}"


# -- How important a call is, from process to process


def told_of(secret: str | None, said: str | None) -> PriorityName | None:
    """Believe what another process of the fleet says, and no one else."""
    known: dict[str | None, PriorityName] = {
        "critical": "critical",
        "normal": "normal",
        "batch": "batch",
    }
    return known.get(said) if secret == SECRET else None


def of_request(scope: Scope) -> PriorityName | None:
    """How important an HTTP request is."""
    headers = {
        name.decode(): value.decode("latin-1") for name, value in scope["headers"]
    }
    return told_of(headers.get("x-secret"), headers.get("x-priority"))


def of_rpc(rpc: Rpc) -> PriorityName | None:
    """How important an RPC is."""
    metadata: Any = rpc.metadata
    return told_of(metadata.get("x-secret"), metadata.get("x-priority"))


def passed_on() -> dict[str, str]:
    """What tells the next process of it."""
    if not PROTECTED:
        return {}
    call: Call = current_call()
    return {"x-secret": SECRET, "x-priority": call.priority.name.lower()}


# -- The dependency


def dependency() -> Any:
    """Few slots, and one failure in fifty."""
    slots = asyncio.Semaphore(SLOTS)
    numbers = itertools.count(1)

    async def work(request: Request) -> Response:
        async with slots:
            if not await request.is_disconnected():
                await asyncio.sleep(SECONDS)
        return PlainTextResponse("", 200 if next(numbers) % 50 else 500)

    return Starlette(routes=[Route("/", work), state])


# -- The services, and the gateway


def client(target: str, *inside: Bulkhead) -> httpx.AsyncClient:
    """A client of another process."""
    url = f"http://{address(target)}"
    if not PROTECTED:
        return httpx.AsyncClient(base_url=url)
    pipeline = standard_pipeline(total=TOTAL, attempt=TOTAL, attempts=2, breaker=False)
    if inside:
        pipeline = Pipeline(*inside, pipeline)
    transport = ResilientTransport(
        pipeline,
        deadline_header=DEADLINE,
        hold_by=None,
    )
    return httpx.AsyncClient(base_url=url, transport=transport)


def of_dependency() -> httpx.AsyncClient:
    """Both services have so many calls of it under way together."""
    if not PROTECTED:
        return client("dependency")
    store = RedisStore(f"redis://{address('store')}", members=2)
    shared = Bulkhead(
        4 * SLOTS, max_queue=8, max_wait=1.0, shared=store, name="dependency"
    )
    return client("dependency", shared)


async def tell(request: Request) -> Response:
    """How the policies of this process are."""
    return JSONResponse(health())


state = Route("/state", tell)


def service() -> Any:
    """The service that is asked by HTTP."""
    asks = of_dependency()

    async def stock(request: Request) -> Response:
        response = await asks.get("/", headers=passed_on())
        return PlainTextResponse("", response.status_code)

    return guarded(Starlette(routes=[Route("/", stock), state], exception_handlers=on))


def gateway() -> Any:
    """What users ask for pages."""
    asks = client("http")
    options = [("grpc.enable_retries", 0)]
    interceptors = None
    if PROTECTED:
        pipeline = standard_client_pipeline(
            total=TOTAL, attempt=TOTAL, attempts=2, breaker=False
        )
        interceptors = aclient_interceptors(pipeline, idempotent=True)
    channel: list[Any] = []

    async def page(request: Request) -> Response:
        if not channel:
            made = grpc.aio.insecure_channel(
                address("rpc"), options, interceptors=interceptors
            )
            channel.append(made.unary_unary(METHOD))
        told = passed_on()
        stock = await asks.get("/", headers=told)
        if stock.status_code != 200:
            return PlainTextResponse("", stock.status_code)
        try:
            await channel[0](b"", metadata=tuple(told.items()))
        except grpc.RpcError:
            if PROTECTED:
                raise
            return PlainTextResponse("", 502)
        return PlainTextResponse("page")

    return guarded(Starlette(routes=[Route("/", page), state], exception_handlers=on))


on: Any = {ResilientError: exception_handler}


def guarded(app: Any) -> Any:
    """An application behind the pipeline of a server, if it is to be."""
    if not PROTECTED:
        return app
    return ResilientMiddleware(
        app,
        standard_server_pipeline(total=TOTAL, limit=Gradient(SLOTS)),
        priority=of_request,
        deadline_header=DEADLINE,
        exempt=("/state",),
    )


async def serve_rpc() -> None:
    """The service that is asked by gRPC."""
    asks = of_dependency()

    async def price(request: bytes, context: Any) -> bytes:
        response = await asks.get("/", headers=passed_on())
        if response.status_code != 200:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "dependency")
        return b"1"

    interceptors = None
    if PROTECTED:
        interceptors = [
            aserver_interceptor(standard_server_pipeline(total=TOTAL), priority=of_rpc)
        ]
    server = grpc.aio.server(interceptors=interceptors)
    handler = grpc.unary_unary_rpc_method_handler(price)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("shop.Prices", {"Get": handler}),)
    )
    server.add_insecure_port(address("rpc"))
    await server.start()
    await server.wait_for_termination()


def main(name: str) -> None:
    """Serve until it is killed."""
    if name == "rpc":
        asyncio.run(serve_rpc())
        return
    apps = {"gateway": gateway, "http": service, "dependency": dependency}
    uvicorn.run(
        apps[name](),
        host="127.0.0.1",
        port=PORTS[name],
        log_level="critical",
        access_log=False,
        backlog=4096,
    )


if __name__ == "__main__":
    main(sys.argv[1])
