"""Make an HTTP client resilient by giving it a transport.

Nothing else changes: the client's errors, redirects, cookies and streams stay
what they are. Requests that may be sent again are, within a total limit of
time; each origin has a circuit breaker and a budget for retries of its own.
The server here wants to be left alone for a moment every other time.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

from resilient.httpx2 import ResilientTransport, standard_pipeline

turns = itertools.count()


class Busy(BaseHTTPRequestHandler):
    """Asks every other request to come back in 50 ms."""

    def do_GET(self) -> None:
        """Answer."""
        busy = next(turns) % 2 == 0
        self.send_response(503 if busy else 200)
        if busy:
            self.send_header("retry-after-ms", "50")
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"later" if busy else b"hello")

    do_POST = do_GET  # noqa: N815 - its name is the protocol

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def sync(url: str) -> None:
    """Use the standard pipeline in a plain client."""
    with httpx2.Client(transport=ResilientTransport()) as client:
        response = client.get(url)
        print("GET: ", response, response.text, response.extensions["resilient"])
        response = client.post(url)
        print("POST:", response, response.text, response.extensions["resilient"])


async def asynchronous(url: str) -> None:
    """Use one of your own measure, and switch it off for one request."""
    transport = ResilientTransport(
        standard_pipeline(total=5, attempt=1), idempotency_key=True
    )
    async with httpx2.AsyncClient(transport=transport) as client:
        next(turns)
        response = await client.post(url)
        key = response.request.headers["idempotency-key"]
        print("POST with a key of", len(key), "characters:", response)
        response = await client.get(url, extensions={"resilient": False})
        print("GET, bare:", response)


def main() -> None:
    """Send some requests to a server that is busy."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    try:
        sync(url)
        asyncio.run(asynchronous(url))
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
