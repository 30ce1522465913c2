"""A session of the official MCP client over our transport, with a real server.

What it takes in earnest is scaled down unless RESILIENT_FULL_LENGTH is set, as in
`test_language_models`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("mcp", reason="its wheels need an older Python")

import httpx2
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError

from resilient.httpx2 import ResilientTransport, standard_pipeline

pytestmark = pytest.mark.real

FULL = "RESILIENT_FULL_LENGTH" in os.environ
TOTAL, STEPS, PAUSE = (30.0, 80, 0.5) if FULL else (5.0, 30, 0.2)
LATE = 12.0 if FULL else 0.6
STATED = httpx2.Timeout(30.0, read=300.0)
"""What the SDK's own HTTP client states."""


class Faulty:
    """A server with three tools, whose first answers to calls may be faults.

    A fault is a status, or what becomes of the connection: "reset", "truncated",
    "stalled".
    """

    def __init__(self) -> None:
        server = MCPServer("tools")

        @server.tool()
        async def quick() -> str:
            return "quick"

        @server.tool()
        async def talk(ctx: Context) -> str:  # type: ignore[type-arg]
            for step in range(STEPS):
                await ctx.report_progress(step, STEPS)
                await asyncio.sleep(PAUSE)
            return "told"

        @server.tool()
        async def late() -> str:
            await asyncio.sleep(LATE)
            return "late"

        self.app: Any = server.streamable_http_app()
        self.faults: list[int | str] = []
        # How often a tool was called.
        self.hits = 0
        self.wait: bytes | None = b"1"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        told: dict[str, Any] = {"more_body": True}
        body = b""
        while told.get("more_body"):
            told = await receive()
            body += told.get("body", b"")
        calls = json.loads(body).get("method") == "tools/call"
        self.hits += calls
        if not calls or not self.faults:
            read = [{"type": "http.request", "body": body}]

            async def again() -> Any:
                return read.pop() if read else await receive()

            await self.app(scope, again, send)
            return
        fault = self.faults.pop(0)
        length = b"0" if isinstance(fault, int) else b"9"
        headers = [(b"content-length", length), (b"content-type", b"application/json")]
        if self.wait is not None:
            headers.append((b"retry-after", self.wait))
        status = fault if isinstance(fault, int) else 200
        if fault != "reset":
            await send(
                {"type": "http.response.start", "status": status, "headers": headers}
            )
        if fault == "stalled":
            while (await receive())["type"] != "http.disconnect":
                pass
        if isinstance(fault, int):
            await send({"type": "http.response.body", "body": b""})
        else:
            # NB: uvicorn has no other way to break off in mid-answer.
            send.__self__.transport.abort()


@pytest.fixture
def served() -> Iterator[tuple[Faulty, str]]:
    """The server, and where it listens."""
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    faulty = Faulty()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(faulty, log_config=None, lifespan="on")
        server = uvicorn.Server(config)
        run = server.serve([listener])
        thread = threading.Thread(target=asyncio.run, args=[run])
        thread.start()
        yield faulty, f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        server.should_exit = True
        thread.join(60)


def ask(*args: Any, **kw: Any) -> str | Exception:
    """Return what a tool answers, or the error that comes in its place."""
    error: Exception
    try:
        return asyncio.run(_ask(*args, **kw))
    except ExceptionGroup as group:
        error = group
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    return error


def is_same(ours: str | Exception, bare: str | Exception) -> bool:
    """Whether an outcome is that of a bare client, or an error derived from its."""
    return ours == bare or (
        isinstance(ours, type(bare)) and isinstance(bare, Exception)
    )


async def _ask(
    url: str,
    tool: str,
    faulty: Faulty,
    *faults: int | str,
    bare: bool = False,
    timeout: Any = STATED,
    pipeline: Any = None,
) -> str:
    async def progress(*told: object) -> None:
        """Have the server stream."""

    transport = None if bare else ResilientTransport(pipeline)
    async with httpx2.AsyncClient(transport=transport, timeout=timeout) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            faulty.faults, faulty.hits = [*faults], 0
            try:
                answer: Any = await client.call_tool(
                    tool, {}, progress_callback=progress
                )
            except MCPError as error:
                # NB: caught here: further out it is in groups.
                return str(error)
            return str(answer.content[0].text)


@pytest.mark.parametrize("wait", [b"1", None], ids=["with a wait", "without"])
@pytest.mark.parametrize("status", [429, 529])
def test_a_refused_message_is_sent_again(
    served: tuple[Faulty, str], status: int, wait: bytes | None
) -> None:
    """It is a POST: the server says that it did nothing. A bare client fails."""
    faulty, url = served
    faulty.wait = wait
    refused = "Server returned an error response"
    assert refused == ask(url, "quick", faulty, status, bare=True)
    assert "quick" == ask(url, "quick", faulty, status)
    assert ([], 2) == (faulty.faults, faulty.hits)


@pytest.mark.parametrize("fault", [503, 500, "reset", "truncated"])
def test_a_message_that_may_have_arrived_fails_as_with_a_bare_client(
    served: tuple[Faulty, str], fault: int | str
) -> None:
    """Sent once, with the SDK's own error."""
    faulty, url = served
    bare = ask(url, "quick", faulty, fault, bare=True)
    assert "quick" != bare
    assert is_same(ask(url, "quick", faulty, fault), bare)
    assert ([], 1) == (faulty.faults, faulty.hits)


def test_a_message_without_an_answer_fails_as_with_a_bare_client(
    served: tuple[Faulty, str],
) -> None:
    """When the timeout that the client states is over."""
    faulty, url = served
    stated = httpx2.Timeout(10.0, read=16.0 if FULL else 1.0)
    bare = ask(url, "quick", faulty, "stalled", bare=True, timeout=stated)
    assert isinstance(bare, httpx2.ReadTimeout)
    assert is_same(ask(url, "quick", faulty, "stalled", timeout=stated), bare)
    assert ([], 1) == (faulty.faults, faulty.hits)


def test_an_answer_after_twelve_seconds_is_waited_for(
    served: tuple[Faulty, str],
) -> None:
    """Our 10 s for an attempt give way to what the client states."""
    faulty, url = served
    assert "late" == ask(url, "late", faulty)
    assert 1 == faulty.hits


def test_an_answer_that_streams_outlives_the_total(
    served: tuple[Faulty, str],
) -> None:
    """Its silences are bounded, and not how long it speaks."""
    faulty, url = served
    assert TOTAL < STEPS * PAUSE
    pipeline = standard_pipeline(total=TOTAL, attempt=TOTAL)
    stated = httpx2.Timeout(TOTAL)
    assert "told" == ask(url, "talk", faulty, timeout=stated, pipeline=pipeline)
