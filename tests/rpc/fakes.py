"""RPCs as gRPC gives them to an interceptor, and clients that make them."""

from __future__ import annotations

import asyncio
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from tests.colours import World

from resilient import Policy
from resilient._runtimes import clock
from resilient.grpc import aclient_interceptors, client_interceptors

Code = grpc.StatusCode
METHOD = "/shop.Orders/Get"
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]

Details = namedtuple("Details", "method timeout metadata credentials wait_for_ready")


class Rpc(grpc.RpcError):
    """An RPC of a channel in threads: its answers, and how it ends.

    Args:
        *answers: What comes.
        code: The status.
        trailing: Metadata at its end.
        ended: Whether it has its status already, as that of a blocking stub.
        seconds: What an answer takes.
    """

    def __init__(
        self,
        *answers: Any,
        code: Any = Code.OK,
        trailing: Any = (),
        ended: bool = True,
        seconds: float = 0.0,
    ) -> None:
        self.answers = list(answers)
        self.end_code = code
        self.trailing = trailing
        self.status: Any = code if ended else None
        self.seconds = seconds
        self.callbacks: list[Callable[[], object]] = []

    def end(self, code: Any = None) -> None:
        """Let it end."""
        self.status = code or self.end_code
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()

    def done(self) -> bool:
        return self.status is not None

    def code(self) -> Any:
        return self.status

    def trailing_metadata(self) -> Any:
        return self.trailing

    def result(self) -> Any:
        if self.status is not Code.OK:
            raise self
        return self.answers[0]

    def exception(self) -> Any:
        return None if self.status is Code.OK else self

    def add_callback(self, callback: Callable[[], object]) -> bool:
        if self.done():
            return False
        self.callbacks.append(callback)
        return True

    def cancel(self) -> None:
        if not self.done():
            self.end(Code.CANCELLED)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        clock.sleep(self.seconds)
        if self.answers and self.status in (None, Code.OK, self.end_code):
            answer = self.answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            return answer
        if not self.done():
            self.end()
        if self.status is Code.OK:
            raise StopIteration
        raise self


class AioRpc:
    """The same of a channel on asyncio."""

    def __init__(self, rpc: Rpc) -> None:
        self.rpc = rpc
        self.ending = asyncio.get_running_loop().create_future()
        self.written: list[Any] = []
        if rpc.done():
            self.ending.set_result(None)

    def end(self, code: Any = None) -> None:
        """Let it end."""
        self.rpc.end(code)
        if not self.ending.done():
            self.ending.set_result(None)

    def cancel(self) -> bool:
        if self.done():
            return False
        self.end(Code.CANCELLED)
        return True

    def cancelled(self) -> bool:
        return self.rpc.status is Code.CANCELLED

    def done(self) -> bool:
        return self.rpc.done()

    def time_remaining(self) -> float:
        return 1.0

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        if self.done():
            callback(self)
        else:
            self.rpc.callbacks.append(lambda: callback(self))

    async def code(self) -> Any:
        await asyncio.shield(self.ending)
        return self.rpc.status

    async def initial_metadata(self) -> Any:
        return ()

    async def trailing_metadata(self) -> Any:
        return self.rpc.trailing

    async def details(self) -> str:
        return "details"

    async def wait_for_connection(self) -> None:
        pass

    async def write(self, request: Any) -> None:
        self.written.append(request)

    async def done_writing(self) -> None:
        self.written.append(None)

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def _answer(self) -> Any:
        await asyncio.sleep(self.rpc.seconds)
        try:
            await asyncio.shield(self.ending)
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._raise()
        return self.rpc.answers[0]

    def _raise(self) -> None:
        if self.cancelled():
            raise asyncio.CancelledError
        if self.rpc.status is not Code.OK:
            raise grpc.aio.AioRpcError(self.rpc.status, (), self.rpc.trailing)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while self.rpc.answers and not self.cancelled():
            if self.rpc.seconds:
                done, _ = await asyncio.wait([self.ending], timeout=self.rpc.seconds)
                if done:
                    self._raise()
            answer = self.rpc.answers.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            yield answer
        if not self.done():
            self.end()
        self._raise()


class Client:
    """What calls a stub, of a kind and in a colour.

    Args:
        w: The colour, "sync" or "asyncio".
        kind: The kind of RPC.
        pipeline: What it goes through.
        script: ``script(attempt)`` makes the RPC of an attempt, or raises.
        options: For the interceptors.
    """

    def __init__(
        self,
        w: World,
        kind: str,
        pipeline: Policy[Any] | None,
        script: Callable[[int], Rpc],
        **options: Any,
    ) -> None:
        self.w, self.kind, self.script = w, kind, script
        self.many = kind.endswith("_stream")
        self.details: list[Any] = []
        self.rpcs: list[Any] = []
        if w.is_sync:
            (self.interceptor,) = client_interceptors(pipeline, **options)
        else:
            found = aclient_interceptors(pipeline, **options)
            self.interceptor = found[KINDS.index(kind)]

    @property
    def timeouts(self) -> list[float | None]:
        """What gRPC was told, attempt by attempt."""
        return [details.timeout for details in self.details]

    def _send(self, details: Any, request: Any) -> Any:
        self.details.append(details)
        rpc = self.script(len(self.details))
        self.rpcs.append(rpc)
        return rpc

    async def _asend(self, details: Any, request: Any) -> Any:
        await asyncio.sleep(0)
        rpc = AioRpc(self._send(details, request))
        self.rpcs[-1] = rpc
        return rpc

    async def begin(self, timeout: float | None = None, details: Any = None) -> Any:
        """Begin an RPC; return what its caller has."""
        method: Any = METHOD if self.w.is_sync else METHOD.encode()
        if details is None:
            details = Details(method, timeout, None, None, None)
        intercept = getattr(self.interceptor, f"intercept_{self.kind}")
        if self.w.is_sync:
            return intercept(self._send, details, "request")
        return await intercept(self._asend, details, "request")

    async def call(self, timeout: float | None = None) -> Any:
        """Make an RPC; return its answers."""
        rpc = await self.begin(timeout)
        if self.w.is_sync:
            return list(rpc) if self.many else rpc.result()
        if self.many:
            return [answer async for answer in rpc]
        return await rpc if isinstance(rpc, AioRpc) else rpc

    async def failure(self, timeout: float | None = None) -> Any:
        """Make an RPC that fails; return its error."""
        try:
            await self.call(timeout)
        except Exception as error:
            return error
        raise AssertionError("it did not fail")
