"""Protect the official OpenAI client with nothing but a transport.

Its own retries are off: two layers would multiply, and only this one has a
budget, a breaker and one deadline for everything. A completion has no side
effect worth fearing, so `retry_unsafe` lets POST requests be retried. The
server here is a fake that limits the rate as the real one does.
"""

from __future__ import annotations

import itertools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
from openai import OpenAI

from resilient.httpx2 import ResilientTransport, standard_pipeline

requests = itertools.count(1)

ANSWER = {"role": "assistant", "content": "Try again."}
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "fake",
    "choices": [{"index": 0, "finish_reason": "stop", "message": ANSWER}],
}
LIMITED = {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}


class RateLimited(BaseHTTPRequestHandler):
    """Refuses two requests, each for 20 ms, then answers."""

    def do_POST(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers["content-length"]))
        limited = next(requests) <= 2
        body = json.dumps(LIMITED if limited else COMPLETION).encode()
        self.send_response(429 if limited else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after-ms" if limited else "x-fake", "20")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def ask(url: str) -> str | None:
    """Ask as an application does."""
    transport = ResilientTransport(
        standard_pipeline(total=120, attempt=60), retry_unsafe=True
    )
    http = httpx2.Client(transport=transport, timeout=60)
    with OpenAI(api_key="x", base_url=url, max_retries=0, http_client=http) as client:
        completion = client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "What now?"}]
        )
        return completion.choices[0].message.content


def main() -> None:
    """Ask a server that refuses twice."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), RateLimited)
    threading.Thread(target=server.serve_forever).start()
    try:
        print("answer:", ask(f"http://127.0.0.1:{server.server_port}/v1"))
        print("requests the server saw:", next(requests) - 1)
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
