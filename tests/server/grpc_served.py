"""A gRPC server and its client in one process; prints what the client saw."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from resilient import AIMD, AdaptiveConcurrency, CircuitOpenError, Pipeline, remaining
from resilient.grpc import aserver_interceptor, server_interceptor

KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
SECONDS = 20.0

limit = AdaptiveConcurrency(AIMD(1, maximum=1))
began = threading.Event()


def encode(answer: str | bytes) -> bytes:
    """Serialize an answer; on asyncio gRPC hands over a str as bytes."""
    return answer.encode() if isinstance(answer, str) else answer


def look(text: str, context: Any) -> str | None:
    """What a method answers in the place of an echo."""
    if text == "time":
        return json.dumps(remaining())
    if text == "circuit":
        raise CircuitOpenError("payments", 12.3)
    return None


class Threads:
    """Handlers of a `grpc.server`."""

    def one(self, requests: Any, context: Any) -> str:
        text = requests if isinstance(requests, str) else "".join(requests)
        if text == "missing":
            context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if text == "hold":
            began.set()
            while context.is_active():
                time.sleep(0.01)
        return look(text, context) or text

    def several(self, requests: Any, context: Any) -> Iterator[str]:
        texts = [requests] * 2 if isinstance(requests, str) else requests
        for text in texts:
            yield look(text, context) or text


class Tasks:
    """Handlers of a `grpc.aio.server`."""

    async def one(self, requests: Any, context: Any) -> str:
        if isinstance(requests, str):
            text = requests
        else:
            text = "".join([text async for text in requests])
        if text == "missing":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if text == "hold":
            began.set()
            await asyncio.sleep(SECONDS)
        return look(text, context) or text

    async def several(self, requests: Any, context: Any) -> Any:
        if isinstance(requests, str):
            for _ in range(2):
                yield requests
        else:
            async for text in requests:
                yield text


def handlers(service: Any, probe: Callable[..., Any]) -> list[Any]:
    """Generic handlers of all four kinds, and one like that of the health service."""
    methods = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(
            service.several if kind.endswith("stream") else service.one,
            bytes.decode,
            encode,
        )
        for kind in KINDS
    }
    check = grpc.unary_unary_rpc_method_handler(probe, bytes.decode, encode)
    return [
        grpc.method_handlers_generic_handler("echo", methods),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),
    ]


def visit(port: int) -> dict[str, Any]:
    """Call the server in each way; return what came."""
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def method(kind: str, name: str = "") -> Any:
        path = name or f"/echo/{kind}"
        return getattr(channel, kind)(path, str.encode, bytes.decode)

    def status(kind: str, request: Any, timeout: float = SECONDS) -> Any:
        try:
            return method(kind)(request, timeout=timeout)
        except grpc.RpcError as error:
            return error

    def pushback(error: Any) -> str:
        trailing = dict(error.trailing_metadata() or ())
        return str(trailing.get("grpc-retry-pushback-ms"))

    seen: dict[str, Any] = {
        "answers": [
            method("unary_unary")("a", timeout=SECONDS),
            list(method("unary_stream")("a", timeout=SECONDS)),
            method("stream_unary")(iter("ab"), timeout=SECONDS),
            list(method("stream_stream")(iter("ab"), timeout=SECONDS)),
        ]
    }
    held = method("unary_unary").future("hold", timeout=SECONDS)
    began.wait(SECONDS)
    refused = status("unary_unary", "a")
    seen["limited"] = [
        refused.code().name,
        pushback(refused) in ("1000", "2000", "3000"),
    ]
    probe = method("unary_unary", "/grpc.health.v1.Health/Check")
    seen["probe while full"] = probe("", timeout=SECONDS)
    held.cancel()
    seen["free after a client went"] = wait_until(lambda: not limit.in_flight)
    seen["time"] = 0 < json.loads(status("unary_unary", "time", 5.0)) <= 5.5
    seen["late"] = status("unary_unary", "hold", 0.2).code().name
    wait_until(lambda: not limit.in_flight)
    refused = status("unary_unary", "circuit")
    seen["circuit"] = [refused.code().name, pushback(refused)]
    seen["missing"] = status("unary_unary", "missing").code().name
    channel.close()
    return seen


def wait_until(done: Callable[[], bool]) -> bool:
    """Wait for something; return whether it came."""
    until = time.monotonic() + SECONDS
    while not done() and time.monotonic() < until:
        time.sleep(0.01)
    return done()


def serve_threads() -> dict[str, Any]:
    """Serve in threads."""
    server = grpc.server(
        futures.ThreadPoolExecutor(8),
        handlers=handlers(Threads(), lambda request, context: "up"),
        interceptors=[server_interceptor(Pipeline(limit))],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        return visit(port)
    finally:
        server.stop(1).wait()


async def serve_tasks() -> dict[str, Any]:
    """Serve in tasks; gRPC's own limit is there as well."""

    async def probe(request: str, context: Any) -> str:
        return "up"

    server = grpc.aio.server(
        handlers=handlers(Tasks(), probe),
        interceptors=[aserver_interceptor(Pipeline(limit))],
        maximum_concurrent_rpcs=100,
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        return await asyncio.to_thread(visit, port)
    finally:
        await server.stop(1)


if __name__ == "__main__":
    found = serve_threads() if sys.argv[1] == "sync" else asyncio.run(serve_tasks())
    sys.stdout.write(json.dumps(found))
