"""The server of a bad day: real HTTP/1.1 on loopback, in a thread of its own.

It answers ``GET /12.3456``: what is due 12.3456 s after the start. That number
and the day decide about the answer; it neither knows nor asks who sent it.
Connections are kept alive until a fault, or the client, ends them.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import struct
import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, cast

from resilient.demo.day import Fault, Weather

if TYPE_CHECKING:
    from typing import Self

_OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"
_UNAVAILABLE: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\n\r\nbad day\n"
)

# With this `SO_LINGER`, closing sends RST: the peer sees a connection reset.
_RESET: Final = struct.pack("ii", 1, 0)


class Server:
    """Serves from ``with`` to the end of the block.

    Args:
        day: What it does with each request.

    Attributes:
        url: Where it listens; known inside the block.
        given: What every request was given, by when it was due.
    """

    def __init__(self, day: Weather) -> None:
        self.day = day
        self.url: str = ""
        self.given: dict[float, Fault | None] = {}
        self.connections: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="demo server", daemon=True
        )

    def __enter__(self) -> Self:
        self._place = _bound(("127.0.0.1", 0))
        host, port = self._place.getsockname()
        self.url = f"http://{host}:{port}"
        self._loop.run_until_complete(self._listen())
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._hang_up())
        self._place.close()
        # One more turn: aborted connections close in the next.
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def stop(self) -> None:
        """Refuse connections, and end those that there are."""
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result()
        # NB: bound, so that the port stays its own, and not listening.
        self._place = _bound(self._place_name)

    def start(self) -> None:
        """Accept connections again, at the same address."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    async def _listen(self) -> None:
        self._place_name = self._place.getsockname()
        self._listener = await self._loop.create_server(
            lambda: Connection(self), sock=self._place
        )

    async def _hang_up(self) -> None:
        self._listener.close()
        for connection in self.connections:
            connection.transport.abort()
        await self._listener.wait_closed()

    def fingerprint(self, due: tuple[float, ...]) -> str:
        """Condense what the requests due then were given."""
        return fingerprint({moment: self.given.get(moment) for moment in due})


def _bound(address: tuple[str, int]) -> socket.socket:
    """Return a socket that has an address, and refuses connections."""
    place = socket.socket()
    if sys.platform != "win32":
        # There it would let others have the port as well.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind(address)
    return place


class Connection(asyncio.Protocol):
    """One client's connection; it holds one request at a time."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self._server = server
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(b"\r\n\r\n"):
            return
        target = self._received.split(b" ", 2)[1]
        self._received = b""
        due = float(target[1:])
        server = self._server
        fault = server.given[due] = server.day.fault(due)
        if fault is Fault.STALL:
            # No answer, ever: the client has to know when to leave.
            return
        asyncio.get_running_loop().call_later(
            server.day.latency(due), self._answer, fault
        )

    def _answer(self, fault: Fault | None) -> None:
        if self.transport.is_closing():
            return
        if fault is Fault.RESET:
            connected: socket.socket = self.transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.abort()
        else:
            self.transport.write(_OK if fault is None else _UNAVAILABLE)


def fingerprint(given: dict[float, Fault | None]) -> str:
    """Condense who was given what: equal days have equal fingerprints."""
    lines = [f"{due:.4f} {fault and fault.value}" for due, fault in given.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
