"""What the transport costs, as a share of the bare client's call.

A mock transport answers at once, so all the time there is is the client's and
ours. Contenders take turns, round after round, and only ratios of their best
rounds are printed, as in ``cost.py``.

    python benchmarks/transport.py [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from resilient import Pipeline

CALLS = 50
URL = "https://api.test/things"
FAMILIES = ("httpx2", "httpx")

Contender = Callable[[], Awaitable[object]]


def contenders(family: str) -> dict[str, Contender]:
    """Return what is compared, by name: the bare call of a colour comes first."""
    library: Any = importlib.import_module(family)
    ours: Any = importlib.import_module(f"resilient.{family}")
    mock = library.MockTransport(lambda request: library.Response(200))
    transports = {
        "bare": mock,
        "empty pipeline": ours.ResilientTransport(Pipeline(), inner=mock),
        "standard pipeline": ours.ResilientTransport(inner=mock),
    }

    def in_sync(transport: Any) -> Contender:
        client = library.Client(transport=transport)

        async def call() -> object:
            return client.get(URL)

        return call

    def in_async(transport: Any) -> Contender:
        client = library.AsyncClient(transport=transport)

        async def call() -> object:
            return await client.get(URL)

        return call

    return {
        f"{colour}, {name}": make(transport)
        for colour, make in (("sync", in_sync), ("asyncio", in_async))
        for name, transport in transports.items()
    }


async def measure(family: str, rounds: int) -> dict[str, float]:
    """Return what each contender takes more than the bare call, as its share."""
    best: dict[str, float] = {}
    named = contenders(family)
    # NB: or a collection would fall to whoever comes at the wrong moment.
    gc.disable()
    for _ in range(rounds):
        for name, call in named.items():
            gc.collect(0)
            began = time.perf_counter()
            for _ in range(CALLS):
                await call()
            took = (time.perf_counter() - began) / CALLS
            best[name] = min(best.get(name, took), took)
    return {
        name: took / best[f"{name.partition(',')[0]}, bare"] - 1
        for name, took in best.items()
        if not name.endswith("bare")
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = {name: asyncio.run(measure(name, options.rounds)) for name in FAMILIES}
    if options.json:
        print(json.dumps({"python": sys.version.split()[0], "shares": rows}))
        return
    print(f"Python {sys.version.split()[0]}, more than the bare call\n")
    print(f"{'':28}" + "".join(f"{family:>10}" for family in FAMILIES))
    for name in rows[FAMILIES[0]]:
        print(f"{name:28}" + "".join(f"{rows[one][name]:>10.1%}" for one in FAMILIES))


if __name__ == "__main__":
    main()
