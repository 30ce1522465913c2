"""One process of a fleet that shares values.

``python -m tests.sharing.value_worker URL ROUNDS THREADS`` prints "ready", begins at a
line on its input, calls in each round from so many threads at once, and prints JSON
at the end. ``… URL hang`` takes the right to make a value, prints "held" and hangs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from resilient import StaleCache
from resilient.redis import RedisStore

TAKES = 0.2


def cache_on(store: RedisStore) -> StaleCache:
    """Return the cache of one process."""
    # NB: the key is the round, so a value is good for as long as the test takes.
    return StaleCache(
        600, 0, key=lambda round: round, shared=store, codec=json, name="values"
    )


def main(url: str, rounds: int, threads: int) -> None:
    """Call, and note what was answered and what was made here."""
    # NB: a server that hangs for a quarter of a second on a busy machine is lost.
    store = RedisStore(url, prefix="shop", patience=60, lease=60)
    made: list[int] = []

    events: list[str] = []
    cache = cache_on(store)
    cache.subscribe(lambda event: events.append(type(event).__name__))

    @cache
    def value(round: int) -> list[int]:
        made.append(round)
        time.sleep(TAKES)
        return [round, os.getpid()]

    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(threads) as pool:
        found = [list(pool.map(value, [round] * threads)) for round in range(rounds)]
    store.close()
    lost = "StoreLost" in events
    print(json.dumps({"made": made, "found": found, "lost": lost}), flush=True)


def hang(url: str) -> None:
    """Take the right to make a value, and do not make it."""
    store = RedisStore(url, prefix="shop", patience=60, lease=2)

    @cache_on(store)
    def value(round: int) -> str:
        print("held", flush=True)
        time.sleep(600)
        return "never"

    value(0)


if __name__ == "__main__":
    if sys.argv[2] == "hang":
        hang(sys.argv[1])
    else:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
