"""Keep one limit among four processes, while their server is lost and comes back.

The server is killed after two seconds and is back, empty, two seconds later: the
fleet keeps the rate, by shares meanwhile, and never uses more.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from subprocess import DEVNULL, PIPE, Popen

from resilient import RateLimitedError, RateLimiter
from resilient.redis import RedisStore

RATE, BURST, SECONDS, WORKERS = 200, 100, 6, 4


def work(url: str) -> None:
    """Call for six seconds; print how many calls passed in each."""
    store = RedisStore(url, prefix="example", members=WORKERS)
    limiter = RateLimiter(RATE, burst=BURST, name="api", shared=store)
    passed = [0] * SECONDS
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    while (second := int(time.time() - begin)) < SECONDS:
        try:
            limiter.call(time.sleep, 0.001)
            passed[second] += 1
        except RateLimitedError:
            time.sleep(0.002)
    store.close()
    print(json.dumps(passed))


def main() -> None:
    """Start a server and four workers; lose the server on the way."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    url = os.environ.get("RESILIENT_REDIS_URL")
    server: list[str] = []
    if url is None and binary is None:
        return print("no redis-server here, and no RESILIENT_REDIS_URL: try again")
    if url is None and binary is not None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        server = [binary, "--port", port, "--bind", "127.0.0.1", "--save", ""]
        url = f"redis://127.0.0.1:{port}"
    running = [Popen(server, stdout=DEVNULL)] if server else []
    command = [sys.executable, __file__, url or ""]
    workers = [
        Popen(command, stdin=PIPE, stdout=PIPE, text=True) for _ in range(WORKERS)
    ]
    for worker in workers:
        next(iter(worker.stdout or ()))
    begin = time.time()
    for worker in workers:
        print(begin, file=worker.stdin, flush=True)
    time.sleep(2)
    for each in running:
        each.kill()
        each.wait()
        time.sleep(2)
    running = [Popen(server, stdout=DEVNULL)] if server else []
    passed = [json.loads(worker.communicate()[0]) for worker in workers]
    for second, calls in enumerate(zip(*passed, strict=True)):
        lost = "  (no server)" if server and second in (2, 3) else ""
        print(f"second {second}: {sum(calls):4} calls by {calls}{lost}")
    print(f"{sum(map(sum, passed))} calls; the limit allows {BURST + RATE * SECONDS}")
    for each in running:
        each.kill()
        each.wait()


if __name__ == "__main__":
    work(sys.argv[1]) if sys.argv[1:] else main()
