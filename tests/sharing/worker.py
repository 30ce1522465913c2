"""One process of a fleet: calls as often as it is told, and says when it might.

``python worker.py URL SECONDS INTERVAL RATE BURST [MODE]`` prints "ready" when the
store has answered, begins at a line on its input, and prints JSON at the end.
"""

from __future__ import annotations

import json
import sys
import time

from resilient import RateLimitedError, RateLimiter
from resilient.redis import RedisStore


def main(url: str, seconds: float, interval: float, rate: float, burst: float) -> None:
    """Call, and note when a call passed or was refused, and when without the store."""
    store = RedisStore(url, prefix="faults", members=4)
    limiter = RateLimiter(rate, burst=burst, shared=store, name="api")
    lease = limiter._shared.lease  # type: ignore[union-attr]
    print("ready", flush=True)
    sys.stdin.readline()
    passed: list[float] = []
    refused: list[float] = []
    # Moments, and from each on, whether it did without the store.
    alone: list[tuple[float, bool]] = []
    longest = 0.0
    ends = time.monotonic() + seconds
    while (began := time.monotonic()) < ends:
        try:
            passed.append(limiter.call(time.monotonic))
        except RateLimitedError:
            refused.append(time.monotonic())
        if not alone or lease.is_cut != alone[-1][1]:
            alone.append((began, lease.is_cut))
        longest = max(longest, time.monotonic() - began)
        time.sleep(interval)
    # A store that was lost is there again at the end.
    until = time.monotonic() + 60
    while not store.up and time.monotonic() < until:
        time.sleep(0.05)
    result = {
        "passed": passed,
        "refused": refused,
        "longest": longest,
        "alone": alone,
        "up": store.up,
    }
    store.close()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:6]))
