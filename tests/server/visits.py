"""Clients of an ASGI application that are called, not connected."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import anyio

from resilient._server.answers import App, Message, Receive, Scope, Send

Pairs = Iterable[tuple[bytes, bytes]]


class Visit:
    """One request or WebSocket, from its scope to its last message.

    Attributes:
        sent: What the application sent, in order.
        reads: How often it asked for a message.
        messages: What it is given; after these it waits for `leave`.
    """

    def __init__(
        self,
        app: App,
        path: str = "/",
        *,
        headers: Pairs = (),
        client: tuple[str, int] | None = ("192.0.2.1", 5000),
        messages: Iterable[Message] | None = None,
        kind: str = "http",
        extensions: dict[str, Any] | None = None,
    ) -> None:
        self.app = app
        self.scope: Scope = {
            "type": kind,
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": list(headers),
            "client": client,
        }
        if extensions is not None:
            self.scope["extensions"] = extensions
        first = {"type": "websocket.connect"}
        if kind == "http":
            first = {"type": "http.request", "body": b"", "more_body": False}
        self.messages: list[Message] = [first] if messages is None else list(messages)
        self.sent: list[Message] = []
        self.reads = 0
        self.gone = anyio.Event()

    async def __call__(self) -> Visit:
        """Have it served."""
        await self.app(self.scope, self.receive, self.send)
        return self

    def leave(self) -> None:
        """Go away."""
        self.gone.set()

    async def receive(self) -> Message:
        self.reads += 1
        if self.messages:
            return self.messages.pop(0)
        await self.gone.wait()
        kind = "http" if self.scope["type"] == "http" else "websocket"
        return {"type": f"{kind}.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def statuses(self) -> list[int]:
        """Every status that was sent; there may be one."""
        return [one["status"] for one in self.sent if "status" in one]

    @property
    def status(self) -> int:
        (status,) = self.statuses
        return status

    @property
    def headers(self) -> dict[str, str]:
        start = next(one for one in self.sent if "status" in one)
        return {name.decode(): value.decode() for name, value in start["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(one.get("body", b"") for one in self.sent)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def answer(send: Send, status: int = 200, *pieces: bytes) -> None:
    """Send a response, in as many pieces as there are."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    for piece in pieces[:-1]:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"".join(pieces[-1:])})


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers at once."""
    await answer(send, 200, b"hello")


class Slow:
    """An application that takes its time, and notes what happens to it.

    Attributes:
        calls: How often it was called.
        cancelled: How often it was cancelled.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.calls = 0
        self.cancelled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        try:
            await anyio.sleep(self.seconds)
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        await answer(send, 200, b"slow")
