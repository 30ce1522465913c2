"""One process of a fleet whose calls take a while, eight at once.

``python -m tests.sharing.slots_worker URL SECONDS LIMIT`` prints "ready", begins at a
line on its input, and prints when its calls ran as JSON at the end.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from resilient import Bulkhead, BulkheadFullError
from resilient.redis import RedisStore


def main(url: str, seconds: float, limit: int) -> None:
    """Call from eight threads."""
    store = RedisStore(url, prefix="faults", members=4)
    bulkhead = Bulkhead(limit, shared=store, name="api")
    ran: list[tuple[float, float]] = []

    def hold() -> None:
        began = time.monotonic()
        time.sleep(0.05)
        ran.append((began, time.monotonic()))

    def keep_calling() -> None:
        while time.monotonic() < ends:
            try:
                bulkhead.call(hold)
            except BulkheadFullError:
                time.sleep(0.01)

    print("ready", flush=True)
    sys.stdin.readline()
    ends = time.monotonic() + seconds
    threads = [threading.Thread(target=keep_calling) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    in_use = bulkhead.in_use
    store.close()
    print(json.dumps({"ran": ran, "in_use": in_use}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
