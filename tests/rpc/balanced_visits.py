"""A client of three gRPC servers behind one channel; prints what it saw."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import grpc.aio

from resilient import Balance, Eject, EndpointState, Pipeline, Retry, constant
from resilient._rpc import balanced
from resilient.grpc import abalanced_channel, balanced_channel, rpc_verdict

SECONDS = 60.0
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
CALLS = 40


class Replica:
    """A server that answers with its name, in threads.

    Attributes:
        target: Where it listens.
        fails: Whether it answers UNAVAILABLE.
        go_on: What the second answer of "hold" waits for.
    """

    def __init__(self, name: str) -> None:
        self.name, self.fails = name, False
        self.go_on = threading.Event()
        methods = {
            kind: getattr(grpc, f"{kind}_rpc_method_handler")(
                self.several if kind.endswith("stream") else self.one,
                bytes.decode,
                str.encode,
            )
            for kind in KINDS
        }
        # NB: or two processes that ask for a free port may be given the same one.
        alone = (("grpc.so_reuseport", 0),)
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=alone)
        handler = grpc.method_handlers_generic_handler("echo", methods)
        self.server.add_generic_rpc_handlers((handler,))
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def one(self, requests: Any, context: Any) -> str:
        if self.fails:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        text = requests if isinstance(requests, str) else "".join(requests)
        return str(context.time_remaining()) if text == "left" else self.name

    def several(self, requests: Any, context: Any) -> Iterator[str]:
        if self.fails:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if not isinstance(requests, str):
            # NB: a client that still writes as it ends would see INTERNAL of its own.
            list(requests)
        yield self.name
        if requests == "hold":
            self.go_on.wait(SECONDS)
        yield self.name


def pipeline(replicas: Balance[str]) -> Pipeline[Any]:
    """Three attempts, at once."""
    retry = Retry(backoff=constant(0.0, jitter="none"), budget=None)
    return Pipeline(retry, replicas, classify=rpc_verdict)


def are_out(replicas: Balance[str]) -> list[bool]:
    """Whether each endpoint is ejected."""
    return [each.state is EndpointState.EJECTED for each in replicas.endpoints]


class Visit:
    """What both colours see, and how."""

    def __init__(self, servers: list[Replica]) -> None:
        self.servers = servers
        self.replicas = Balance(
            *[each.target for each in servers],
            load="round_robin",
            eject=Eject(eject_for=3600),
        )
        self.channels: dict[str, list[Any]] = {each.target: [] for each in servers}
        self.seen: dict[str, Any] = {}

    def share(self, kind: str, answers: list[Any]) -> None:
        """Note that each server has answered RPCs of a kind, and nothing else has."""
        self.seen[kind] = sorted(Counter(answers))

    def note_channels(self, name: str) -> None:
        """Note how many channels the servers have had."""
        self.seen[name] = sorted([len(each) for each in self.channels.values()])


def visit(servers: list[Replica]) -> dict[str, Any]:
    """Call them from threads."""
    here = Visit(servers)
    a, b, _ = servers

    def factory(target: str) -> grpc.Channel:
        channel = grpc.insecure_channel(target)
        here.channels[target].append(channel)
        return channel

    def request(kind: str) -> Any:
        return iter("xy") if kind.startswith("stream") else "x"

    with balanced_channel(
        pipeline(here.replicas), factory=factory, idempotent=True
    ) as channel:

        def method(kind: str) -> Any:
            return getattr(channel, kind)(f"/echo/{kind}", str.encode, bytes.decode)

        def ask(kind: str, text: Any = None, timeout: float = SECONDS) -> Any:
            sent = request(kind) if text is None else text
            answer = method(kind)(sent, timeout=timeout)
            if kind.endswith("stream"):
                answer, *_ = answer
            return answer

        for kind in KINDS:
            here.share(kind, [ask(kind) for _ in range(CALLS)])
        futured = [method("unary_unary").future("x") for _ in range(CALLS)]
        here.share("future", [each.result(SECONDS) for each in futured])
        here.note_channels("channels")
        here.seen["left"] = 0 < float(ask("unary_unary", "left", 30.0)) <= 31.0
        b.fails = True
        for kind in KINDS[:2]:
            here.share(f"{kind} without b", [ask(kind) for _ in range(CALLS)])
        here.seen["ejected"] = are_out(here.replicas)
        b.fails = False
        here.replicas.reset()
        # A stream goes on at the server that is drained; its channel is closed then.
        stream = method("unary_stream")("hold", timeout=SECONDS)
        name = next(stream)
        held = next(each for each in servers if each.name == name)
        here.replicas.drain(held.target)
        here.seen["drained"] = name in [ask("unary_unary") for _ in range(CALLS)]
        held.go_on.set()
        here.seen["held"] = list(stream) == [name]
        until = time.monotonic() + SECONDS
        while not _is_closed(here.channels[held.target][0]):
            assert time.monotonic() < until
            ask("unary_unary")
        here.replicas.restore(held.target)
        here.share("restored", [ask("unary_unary") for _ in range(CALLS)])
        here.note_channels("channels restored")
        for each in servers:
            each.server.stop(None).wait()
        here.seen["all gone"] = _code(lambda: ask("unary_unary"))
        here.replicas.replace([])
        here.seen["none"] = _code(lambda: ask("unary_unary"))
        here.replicas.replace([a.target])
    here.seen["ended"] = _is_closed(here.channels[a.target][-1])
    here.seen["after"] = _code(lambda: ask("unary_unary"))
    here.seen["state"] = _refused(lambda: channel.subscribe(print))
    with balanced_channel(Balance("a:1"), factory=grpc.aio.insecure_channel) as wrong:
        call = wrong.unary_unary("/echo/unary_unary", str.encode)
        here.seen["factory"] = _refused(lambda: call("x"))
    return here.seen


def _code(call: Any) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    except ValueError as error:
        return str(error)
    return "answered"


def _is_closed(channel: Any) -> bool:
    method = channel.unary_unary("/echo/unary_unary", str.encode)
    return _code(lambda: method("x")) == "Cannot invoke RPC on closed channel!"


async def avisit(servers: list[Replica]) -> dict[str, Any]:
    """Call them from tasks."""
    here = Visit(servers)
    a, b, _ = servers

    def factory(target: str) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(target)
        here.channels[target].append(channel)
        return channel

    def request(kind: str) -> Any:
        return iter("xy") if kind.startswith("stream") else "x"

    async with abalanced_channel(
        pipeline(here.replicas), factory=factory, idempotent=True
    ) as channel:

        def method(kind: str) -> Any:
            return getattr(channel, kind)(f"/echo/{kind}", str.encode, bytes.decode)

        async def ask(kind: str, text: Any = None, timeout: float = SECONDS) -> Any:
            sent = request(kind) if text is None else text
            rpc = method(kind)(sent, timeout=timeout)
            if kind.endswith("stream"):
                answer, *_ = [each async for each in rpc]
                return answer
            return await rpc

        async def several(kind: str) -> list[Any]:
            return [await ask(kind) for _ in range(CALLS)]

        for kind in KINDS:
            here.share(kind, await several(kind))
        many = [ask("unary_unary") for _ in range(CALLS)]
        here.share("future", await asyncio.gather(*many))
        here.note_channels("channels")
        here.seen["left"] = 0 < float(await ask("unary_unary", "left", 30.0)) <= 31.0
        b.fails = True
        for kind in KINDS[:2]:
            here.share(f"{kind} without b", await several(kind))
        here.seen["ejected"] = are_out(here.replicas)
        b.fails = False
        here.replicas.reset()
        stream = method("unary_stream")("hold", timeout=SECONDS)
        name = await stream.read()
        held = next(each for each in servers if each.name == name)
        here.replicas.drain(held.target)
        here.seen["drained"] = name in await several("unary_unary")
        held.go_on.set()
        here.seen["held"] = [each async for each in stream] == [name]
        until = time.monotonic() + SECONDS
        while not _ais_closed(here.channels[held.target][0]):
            assert time.monotonic() < until
            await ask("unary_unary")
        here.replicas.restore(held.target)
        here.share("restored", await several("unary_unary"))
        here.note_channels("channels restored")
        for each in servers:
            await asyncio.to_thread(each.server.stop(None).wait)
        here.seen["all gone"] = await _acode(ask("unary_unary"))
        here.replicas.replace([])
        here.seen["none"] = await _acode(ask("unary_unary"))
        here.replicas.replace([a.target])
    here.seen["ended"] = _ais_closed(here.channels[a.target][-1])
    here.seen["after"] = await _acode(ask("unary_unary"))
    here.seen["state"] = _refused(channel.get_state)
    async with abalanced_channel(
        Balance("a:1"), factory=grpc.insecure_channel
    ) as wrong:
        call = wrong.unary_unary("/echo/unary_unary", str.encode)
        try:
            await call("x")
        except TypeError as error:
            here.seen["factory"] = "`factory` must make a grpc.aio" in str(error)
    return here.seen


def _refused(call: Any) -> bool:
    try:
        call()
    except TypeError:
        return True
    return False


async def _acode(call: Any) -> str:
    try:
        await call
    except grpc.RpcError as error:
        return str(error.code().name)
    except ValueError as error:
        return str(error)
    return "answered"


def _ais_closed(channel: Any) -> bool:
    return channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


def main(colour: str) -> dict[str, Any]:
    """Serve and visit."""
    # Channels are looked for at each RPC.
    balanced._PAUSE = 0.0  # type: ignore[misc]
    servers = [Replica(name) for name in "abc"]
    try:
        return visit(servers) if colour == "sync" else asyncio.run(avisit(servers))
    finally:
        for each in servers:
            each.go_on.set()
            each.server.stop(None)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1])))
