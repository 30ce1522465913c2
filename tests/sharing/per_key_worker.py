"""One process of a fleet that limits thousands of users.

``python -m tests.sharing.per_key_worker URL USERS`` prints "ready", begins at a line on
its input, calls once for each user from sixteen threads, and prints JSON at the end.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from resilient import PerKey, RateLimitedError, RateLimiter
from resilient.redis import RedisStore

THREADS = 16


def main(url: str, users: int) -> None:
    """Call, and note how often each user was served."""
    # NB: a server that hangs for a quarter of a second on a busy machine is lost.
    store = RedisStore(url, prefix="shop", patience=60, lost="reject")
    events: list[str] = []
    logins = PerKey(
        lambda user: RateLimiter(2, per=1000, name="login", shared=store),
        key=lambda user: user,
        # Others have to go.
        max_keys=users // 4,
    )
    logins.subscribe(lambda event: events.append(type(event).__name__))
    # NB: in another order in each process.
    visits = [f"user-{number}" for number in range(users)]
    random.Random(os.getpid()).shuffle(visits)

    def serve(user: str) -> str | None:
        try:
            logins.call(str, user)
        except RateLimitedError:
            return None
        return user

    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as threads:
        served = [user for user in threads.map(serve, visits) if user is not None]
    seconds = time.monotonic() - began
    result = {
        "served": served,
        "seconds": seconds,
        "keys": len(logins),
        "lost": "StoreLost" in events,
    }
    store.close()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
