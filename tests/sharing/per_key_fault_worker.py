"""One process of a fleet that limits hundreds of users while its server fails.

``python -m tests.sharing.per_key_fault_worker URL SECONDS USERS RATE BURST`` prints
"ready", begins at a line on its input, calls for one user after the other, and prints
JSON at the end: when a call of whom passed, and how often the store was lost.
"""

from __future__ import annotations

import json
import sys
import time

from resilient import PerKey, RateLimitedError, RateLimiter
from resilient.redis import RedisStore


def main(url: str, seconds: float, users: int, rate: float, burst: float) -> None:
    """Call, and note when a call passed."""
    store = RedisStore(url, prefix="faults", members=4)
    events: list[str] = []
    tenants = PerKey(
        lambda user: RateLimiter(rate, burst=burst, name="tenant", shared=store),
        key=lambda user: user,
    )
    tenants.subscribe(lambda event: events.append(type(event).__name__))
    print("ready", flush=True)
    sys.stdin.readline()
    passed: list[tuple[int, float]] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for user in range(users):
            try:
                tenants.call(int, user)
            except RateLimitedError:
                continue
            passed.append((user, time.monotonic()))
    # A store that was lost is there again at the end.
    until = time.monotonic() + 60
    while not store.up and time.monotonic() < until:
        time.sleep(0.05)
    result = {"passed": passed, "up": store.up, "lost": events.count("StoreLost")}
    store.close()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), *map(float, sys.argv[4:6]))
