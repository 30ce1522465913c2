"""Send requests to three real servers, of which one is slow, fails, or hangs.

A round robin by hand suffers each time. `Balance` finds out which one is well, and a
`Retry` goes to another. Then each is stopped and started on another port: none is lost.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx2
import uvicorn

from resilient import Balance, Endpoint, Pipeline, Retry, Timeout, constant
from resilient.httpx2 import ResilientTransport, http_verdict

SECONDS = {"well": 0.002, "slow": 0.02, "fails": 0.0, "hangs": 2.0}


class Replica(uvicorn.Server):
    """A server of uvicorn, in a thread; `does` says how it is."""

    def __init__(self, name: str) -> None:
        options: Any = {"lifespan": "off", "loop": "asyncio", "ws": "none"}
        super().__init__(uvicorn.Config(self, port=0, log_config=None, **options))
        self.name, self.does = name, "well"
        threading.Thread(target=self.run, daemon=True).start()
        while not self.started:
            time.sleep(0.001)
        port = self.servers[0].sockets[0].getsockname()[1]
        self.endpoint = Endpoint(f"http://127.0.0.1:{port}", name=name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(SECONDS[self.does])
        status = 503 if self.does == "fails" else 200
        head = [(b"x-name", self.name.encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body"})


def ask(title: str, get: Callable[[], httpx2.Response]) -> None:
    """Ask 40 times; print the count of answers, their p99, and whose they are."""
    names, times = Counter[str](), list[float]()
    for _ in range(40):
        began = time.perf_counter()
        with suppress(httpx2.HTTPError):
            names[get().raise_for_status().headers["x-name"]] += 1
        times.append(time.perf_counter() - began)
    count, p99 = names.total(), 1000 * max(times)
    print(f"{title:16} {count} of 40, p99 {p99:3.0f} ms, {dict(names)}")


def main() -> None:
    """Ask them by hand and balanced, while one is bad and while they are rolled."""
    fleet = [Replica(name) for name in "abc"]
    replicas = Balance(*[each.endpoint for each in fleet])
    retry = Retry(attempts=5, backoff=constant(0), budget=None)
    pipeline = Pipeline(retry, replicas, Timeout(0.3), classify=http_verdict)
    transport = ResilientTransport(pipeline, origin="http://catalogue")
    urls = [each.endpoint.address for each in fleet] * 60
    bare, client = httpx2.Client(timeout=0.3), httpx2.Client(transport=transport)
    with bare, client:
        for fleet[0].does in SECONDS:
            ask(f"{fleet[0].does}, by hand", lambda: bare.get(urls.pop()))
            ask(f"{fleet[0].does}, balanced", lambda: client.get("http://catalogue/"))
        for old in tuple(fleet):
            fleet[fleet.index(old)] = Replica(old.name * 2)
            replicas.replace([each.endpoint for each in fleet])
            old.should_exit = True
            ask(f"{old.name} rolled", lambda: client.get("http://catalogue/"))


if __name__ == "__main__":
    main()
