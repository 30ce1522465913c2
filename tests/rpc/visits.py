"""Clients of a gRPC server in one process; prints what they saw."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import grpc.aio

from resilient import Bulkhead, CircuitBreaker, Pipeline, Retry, Timeout, constant
from resilient.grpc import aclient_interceptors, client_interceptors, rpc_verdict

SECONDS = 30.0
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
tries: dict[str, int] = {}


def fail_first(text: str, context: Any) -> None:
    """Fail as a text says, the first time that it comes: "code pushback"."""
    code, _, pushback = text.partition(" ")
    tries[text] = tries.get(text, 0) + 1
    if tries[text] > 1 or not hasattr(grpc.StatusCode, code):
        return
    if pushback:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
    context.abort(grpc.StatusCode[code], "not now")


def one(requests: Any, context: Any) -> str:
    """Answer once."""
    text = requests if isinstance(requests, str) else "".join(requests)
    if text == "left":
        return str(context.time_remaining())
    while text == "hold" and context.is_active():
        time.sleep(0.01)
    fail_first(text, context)
    return text


def several(requests: Any, context: Any) -> Iterator[str]:
    """Answer each request, or one of them twice."""
    for text in [requests] * 2 if isinstance(requests, str) else requests:
        fail_first(text, context)
        yield text
        while text == "hold" and context.is_active():
            time.sleep(0.01)


def serve() -> tuple[Any, int]:
    """Serve all four kinds, in threads."""
    methods = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(
            several if kind.endswith("stream") else one, bytes.decode, str.encode
        )
        for kind in KINDS
    }
    handler = grpc.method_handlers_generic_handler("echo", methods)
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def guard(bulkhead: Bulkhead) -> Pipeline[Any]:
    """What every channel here goes through."""
    return Pipeline(
        Timeout(SECONDS),
        Retry(backoff=constant(0.0, jitter="none")),
        CircuitBreaker(),
        bulkhead,
        classify=rpc_verdict,
    )


def until(done: Callable[[], bool]) -> bool:
    """Wait for what another thread does."""
    end = time.monotonic() + SECONDS
    while not done() and time.monotonic() < end:
        time.sleep(0.01)
    return done()


def code_of(call: Callable[[], object]) -> str:
    """How an RPC fails."""
    try:
        call()
    except grpc.RpcError as error:
        status: Any = error
        return str(status.code().name)
    return "it did not"


def visit(port: int) -> dict[str, Any]:
    """Call the server in each way, in threads."""
    bulkhead = Bulkhead(4)
    interceptors = client_interceptors(guard(bulkhead), idempotent=True)
    plain = grpc.insecure_channel(f"127.0.0.1:{port}")
    channel = grpc.intercept_channel(plain, *interceptors)
    uu, us, su, ss = (
        getattr(channel, kind)(f"/echo/{kind}", str.encode, bytes.decode)
        for kind in KINDS
    )
    seen: dict[str, Any] = {
        "answers": [uu("a"), list(us("a")), su(iter("ab")), list(ss(iter("ab")))],
        "retried": [uu("UNAVAILABLE"), uu("RESOURCE_EXHAUSTED 1")],
        "stream retried": list(us("UNAVAILABLE 2")),
        "not retried": [
            code_of(lambda: uu("UNAVAILABLE -1")),
            code_of(lambda: uu("NOT_FOUND")),
            code_of(lambda: list(ss(iter(["UNAVAILABLE 3"])))),
        ],
        "left": 0 < float(uu("left", timeout=5.0)) <= 5.5,
        "late": code_of(lambda: uu("hold", timeout=0.2)),
    }
    future = uu.future("hold", timeout=SECONDS)
    seen["held"] = bulkhead.in_use
    future.cancel()
    seen["future free"] = until(lambda: not bulkhead.in_use)
    lost = us("hold")
    seen["held again"] = bulkhead.in_use
    del lost
    seen["lost free"] = until(lambda: not bulkhead.in_use)
    channel.close()
    return seen


async def visit_in_tasks(port: int) -> dict[str, Any]:
    """The same on asyncio."""
    bulkhead = Bulkhead(4)
    interceptors = aclient_interceptors(guard(bulkhead), idempotent=True)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=interceptors)
    uu, us, su, ss = (
        getattr(channel, kind)(f"/echo/{kind}", str.encode, bytes.decode)
        for kind in KINDS
    )

    async def items(call: AsyncIterator[str]) -> list[str]:
        return [item async for item in call]

    async def code(call: Any) -> str:
        try:
            await call
        except grpc.RpcError as error:
            status: Any = error
            return str(status.code().name)
        return "it did not"

    talk = ss()
    await talk.write("a")
    said = [await talk.read()]
    held = bulkhead.in_use
    await talk.write("b")
    said.append(await talk.read())
    await talk.done_writing()
    # NB: grpcio 1.60 raises StopAsyncIteration where a later one reads EOF.
    assert grpc.StatusCode.OK is await talk.code()
    seen: dict[str, Any] = {
        "answers": [await uu("a"), await items(us("a")), await su(iter("ab")), said],
        "retried": [await uu("UNAVAILABLE"), await uu("RESOURCE_EXHAUSTED 1")],
        "stream retried": await items(us("UNAVAILABLE 2")),
        "not retried": [
            await code(uu("UNAVAILABLE -1")),
            await code(uu("NOT_FOUND")),
            await code(items(ss(iter(["UNAVAILABLE 3"])))),
        ],
        "left": 0 < float(await uu("left", timeout=5.0)) <= 5.5,
        "late": await code(uu("hold", timeout=0.2)),
        "held": held,
        "future free": not bulkhead.in_use,
    }
    call = us("hold")
    await call.read()
    seen["held again"] = bulkhead.in_use
    call.cancel()
    async with asyncio.timeout(SECONDS):
        while bulkhead.in_use:
            await asyncio.sleep(0.01)
    seen["lost free"] = True
    await channel.close()
    return seen


if __name__ == "__main__":
    server, port = serve()
    found = visit(port) if sys.argv[1] == "sync" else asyncio.run(visit_in_tasks(port))
    server.stop(1).wait()
    sys.stdout.write(json.dumps(found))
