"""A session of the official MCP client over our transport, with a real server."""

from __future__ import annotations

import asyncio
import logging
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

TOTAL, STEPS, PAUSE = 5.0, 30, 0.2


class Faulty:
    """A server with two tools, whose first answers to ``POST`` may be faults."""

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

        self.app: Any = server.streamable_http_app()
        self.faults: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not self.faults:
            await self.app(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-length", b"0"), (b"retry-after", b"1")]
        status = self.faults.pop(0)
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": b""})


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


async def _ask(url: str, tool: str, faulty: Faulty, *faults: int) -> str:
    async def progress(*told: object) -> None:
        """Have the server stream."""

    transport = ResilientTransport(standard_pipeline(total=TOTAL, attempt=TOTAL))
    async with httpx2.AsyncClient(transport=transport) as http:
        async with Client(streamable_http_client(url, http_client=http)) as client:
            faulty.faults = [*faults]
            try:
                answer: Any = await client.call_tool(
                    tool, {}, progress_callback=progress
                )
            except MCPError as error:
                # NB: caught here: further out it is in groups.
                return str(error)
            return str(answer.content[0].text)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_a_refused_message_is_sent_again(
    served: tuple[Faulty, str], status: int
) -> None:
    """It is a POST: where the server says that it did nothing, and no other time."""
    faulty, url = served
    refused = "Server returned an error response"
    expected = refused if status == 503 else "quick"
    assert expected == asyncio.run(_ask(url, "quick", faulty, status))
    assert [] == faulty.faults


def test_an_answer_that_streams_outlives_the_total(
    served: tuple[Faulty, str],
) -> None:
    """Its silences are bounded, and not how long it speaks."""
    faulty, url = served
    assert TOTAL < STEPS * PAUSE
    assert "told" == asyncio.run(_ask(url, "talk", faulty))
