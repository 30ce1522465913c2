"""What a policy that processes share costs a call, as ratios of CPU time.

Fifty tasks call as often as they can, under a limit that refuses none, with a
Redis server on the loopback. Contenders take turns; what is compared is the CPU
time of this process, the server's not counted. Microseconds vary with the
machine and its load, the ratios much less.

    python benchmarks/shared.py [--rounds N] [--processes N] [--url URL]

============== ==========================================================
limits         fixed window of `limits`: a script over the network a call
calls          a shared limiter with a lease of 0: one exchange for all who
               wait
leased         a shared limiter as it comes
local          a limiter of one process
breaker        a shared circuit breaker, closed
breaker-local  the same of one process
bulkhead       a shared bulkhead with slots for all
bulkhead-local the same of one process
============== ==========================================================
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from resilient import Bulkhead, CircuitBreaker, RateLimiter
from resilient.redis import RedisStore

TASKS = 50
CALLS = {
    "limits": 4_000,
    "calls": 30_000,
    **dict.fromkeys(
        (
            "leased",
            "local",
            "breaker",
            "breaker-local",
            "bulkhead",
            "bulkhead-local",
        ),
        100_000,
    ),
}
# What is shared, and what it is compared with.
PAIRS = {"leased": "local", "breaker": "breaker-local", "bulkhead": "bulkhead-local"}
UNLIMITED = 10_000_000

Call = Callable[[], Awaitable[Any]]


async def nothing() -> None:
    """What is called."""


def contenders(url: str) -> dict[str, Call]:
    """Return a protected call of each."""
    from limits import RateLimitItemPerSecond
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter

    window = FixedWindowRateLimiter(
        RedisStorage(f"async+{url}", implementation="redispy")
    )
    item = RateLimitItemPerSecond(UNLIMITED)

    async def limited() -> None:
        if await window.hit(item, "api"):
            await nothing()

    store = RedisStore(url, prefix="bench", patience=5)
    calls = store.with_(lease=0)
    return {
        "limits": limited,
        "calls": RateLimiter(UNLIMITED, shared=calls, name="calls")(nothing),
        "leased": RateLimiter(UNLIMITED, shared=store, name="leased")(nothing),
        "local": RateLimiter(UNLIMITED)(nothing),
        "breaker": CircuitBreaker(shared=store, name="breaker")(nothing),
        "breaker-local": CircuitBreaker()(nothing),
        # NB: a queue, for tasks that never wait leave others no time to look.
        "bulkhead": Bulkhead(
            4 * TASKS, max_queue=TASKS, max_wait=600, shared=store, name="bulkhead"
        )(nothing),
        "bulkhead-local": Bulkhead(4 * TASKS, max_queue=TASKS, max_wait=600)(nothing),
    }


async def spend(call: Call, calls: int) -> tuple[float, float]:
    """Return the CPU time and the time that a call takes, in seconds."""

    async def task() -> None:
        for _ in range(calls // TASKS):
            await call()

    await task()  # connections, scripts, the first block
    cpu, wall = time.process_time(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(task())
    done = calls // TASKS * TASKS
    return (time.process_time() - cpu) / done, (time.perf_counter() - wall) / done


async def alone(call: Call) -> float:
    """Return the median time of a call of one task, in seconds."""
    times = []
    for _ in range(300):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


async def measure(url: str, rounds: int) -> dict[str, list[tuple[float, ...]]]:
    """Let the contenders take turns."""
    results: dict[str, list[tuple[float, ...]]] = {name: [] for name in CALLS}
    calls = contenders(url)
    for _ in range(rounds):
        for name, call in calls.items():
            results[name].append((*await spend(call, CALLS[name]), await alone(call)))
    return results


def report(results: dict[str, list[tuple[float, ...]]]) -> None:
    """Print what was measured, and the ratios."""
    rounds = len(results["limits"])
    print(f"{'':15}{'CPU µs':>8}{'calls/s':>12}{'one task µs':>13}{'× limits':>10}")
    for name, measured in results.items():
        cpu, wall, one = [
            statistics.median(column) for column in zip(*measured, strict=True)
        ]
        ratios = [
            results["limits"][place][0] / measured[place][0] for place in range(rounds)
        ]
        print(
            f"{name:15}{cpu * 1e6:8.1f}{1 / wall:12,.0f}{one * 1e6:13.1f}"
            f"{statistics.median(ratios):10.1f}  ({min(ratios):.1f}–{max(ratios):.1f})"
        )
    for name, local in PAIRS.items():
        ratios = [
            results[name][place][0] / results[local][place][0]
            for place in range(rounds)
        ]
        print(
            f"{name} takes {statistics.median(ratios):.2f} × the CPU of {local}"
            f" ({min(ratios):.2f}–{max(ratios):.2f})"
        )


@contextmanager
def server() -> Iterator[str]:
    """Start a Redis server without persistence on a free port."""
    binary = shutil.which("redis-server")
    if binary is None:
        sys.exit("there is no redis-server: give one with --url")
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        process = subprocess.Popen(
            [binary, "--port", port, "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            time.sleep(1)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Measure and report, in one process or in several at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--url")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps(asyncio.run(measure(arguments.url, arguments.rounds))))
        return
    with server() as own:
        url = arguments.url or own
        command = [sys.executable, __file__, "--json", "--url", url]
        command += ["--rounds", str(arguments.rounds)]
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            for _ in range(arguments.processes)
        ]
        outputs = [json.loads(process.communicate()[0]) for process in processes]
    together: dict[str, list[tuple[float, ...]]] = {name: [] for name in CALLS}
    for output in outputs:
        for name, measured in output.items():
            together[name] += measured
    report(together)


if __name__ == "__main__":
    main()
