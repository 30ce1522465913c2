"""One process of a fleet whose dependency is down for a while.

``python -m tests.sharing.circuit_worker URL`` prints "ready", begins at a line on its
input (when its dependency is down, or not: "down" or "up"), and prints JSON at the end.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from resilient import CircuitBreaker, CircuitChanged, CircuitOpenError, constant
from resilient.redis import RedisStore


def main(url: str) -> None:
    """Call until the input ends; say what became of the calls, and of the circuit."""
    store = RedisStore(url, prefix="faults", members=3)
    breaker = CircuitBreaker(
        # NB: more than one member calls in a window: none opens alone.
        minimum_calls=150,
        window=2.0,
        open_for=constant(0.5),
        half_open_calls=2,
        shared=store,
        name="api",
    )
    down, ended = threading.Event(), threading.Event()
    reasons: list[str] = []
    breaker.subscribe(
        lambda event: isinstance(event, CircuitChanged) and reasons.append(event.reason)
    )

    def listen() -> None:
        for line in sys.stdin:
            (down.set if line == "down\n" else down.clear)()
        ended.set()

    def work() -> None:
        if down.is_set():
            raise OSError("down")

    print("ready", flush=True)
    threading.Thread(target=listen, daemon=True).start()
    counts = {"passed": 0, "failed": 0, "refused": 0}
    last = ""
    while not ended.is_set():
        try:
            breaker.call(work)
            last = "passed"
        except OSError:
            last = "failed"
        except CircuitOpenError:
            last = "refused"
        counts[last] += 1
        state = breaker.state.value
        print(json.dumps({"state": state, "reasons": reasons, **counts}), flush=True)
        time.sleep(0.03)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1])
