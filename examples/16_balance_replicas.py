"""Send requests to three replicas, of which one is slow and one fails.

A round robin by hand loses every third request. `Balance` finds out which
replica is well, and a `Retry` goes to another one. Then one is rolled: drained,
stopped, and started elsewhere. Nothing is lost.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2

from resilient import Balance, Endpoint, Pipeline, Retry, Timeout
from resilient.httpx2 import ResilientTransport, http_verdict


class Replica(BaseHTTPRequestHandler):
    """Answers with its name."""

    delay, status = 0.0, 200

    def do_GET(self) -> None:
        """Answer."""
        time.sleep(self.delay)
        self.send_response(self.status)
        self.send_header("content-length", "0")
        self.send_header("x-replica", type(self).__name__)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def start(name: str, delay: float = 0.0, status: int = 200) -> ThreadingHTTPServer:
    """Start a replica on a port of its own."""
    handler = type(name, (Replica,), {"delay": delay, "status": status})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    return server


def ask(title: str, get: Callable[[], httpx2.Response]) -> None:
    """Ask a hundred times; print the count of answers, their p99 and their replicas."""
    responses = [get() for _ in range(100)]
    good = [each for each in responses if each.status_code == 200]
    names = Counter(each.headers["x-replica"] for each in good)
    p99 = sorted(each.elapsed for each in responses)[98].total_seconds()
    print(f"{title}: {len(good)} of 100, p99 {1000 * p99:.0f} ms, {dict(names)}")


def main() -> None:
    """Ask them by hand, and balanced."""
    servers = [start("fast"), start("slow", delay=0.02), start("dead", status=503)]
    urls = [f"http://127.0.0.1:{server.server_port}" for server in servers]
    with httpx2.Client() as client:
        turns = itertools.cycle(urls)
        ask("round robin by hand", lambda: client.get(next(turns)))
    replicas = Balance(*[Endpoint(url, name=url[-5:]) for url in urls])
    pipeline = Pipeline(Timeout(9), Retry(), replicas, classify=http_verdict)
    transport = ResilientTransport(pipeline, origin="http://catalogue")
    with httpx2.Client(transport=transport, timeout=2) as client:
        ask("balanced", lambda: client.get("http://catalogue/"))
        replicas.drain(urls[0])
        servers[0].shutdown()
        servers.append(start("fast again"))
        replicas.replace([*urls[1:], f"http://127.0.0.1:{servers[-1].server_port}"])
        ask("after a roll", lambda: client.get("http://catalogue/"))
    for server in servers:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
