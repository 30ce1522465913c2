"""A process that Prometheus watches, and whose dependency can be broken.

The first line of its output is the port of its metrics; each line of its
input, `break` or `mend`, is answered when it holds. It ends with its input.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Balance,
    Bulkhead,
    Check,
    CircuitBreaker,
    Coalesce,
    Fallback,
    PerKey,
    Pipeline,
    RateLimiter,
    Retry,
    StaleCache,
    Timeout,
    constant,
    telemetry,
)
from resilient.discovery import poll
from resilient.host import HostMonitor, LoadShedder
from resilient.testing import MemoryStore

# docs/how-to/watch.md shows this function.


def serve_metrics(port: int) -> int:
    """Have Prometheus find the metrics at http://127.0.0.1:<port>/metrics."""
    metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))
    telemetry.instrument()
    server, _ = start_http_server(port, addr="127.0.0.1")
    return server.server_port


# The circuit is as quick as the server that watches it. They have every metric.

api = Pipeline(
    Fallback("cached"),
    Timeout(5, abandon=True),
    Retry(OSError, attempts=2, backoff=constant(0.001)),
    CircuitBreaker(
        consecutive_failures=3,
        slow_call_duration=1,
        open_for=constant(0.2),
        half_open_calls=1,
    ),
    RateLimiter(200, burst=1, max_wait=1),
    Bulkhead(5, max_queue=2),
    AdaptiveConcurrency(),
    AdaptiveThrottle(),
    PerKey(lambda host: Bulkhead(5), key=lambda: "host", name="hosts"),
    name="api",
)

shared = RateLimiter(1000, name="shared", shared=MemoryStore())

spared = Pipeline(StaleCache(1, 1), Coalesce(), name="spared")
balanced = Pipeline(Balance("here", "there"), name="balanced")
discovered = Pipeline(
    Balance(
        poll(itertools.cycle([["here"], []]).__next__, every=0.1), check=Check(bool)
    ),
    name="discovered",
)

host = HostMonitor()
shed = Pipeline(LoadShedder(host), name="shed")

healthy = threading.Event()
healthy.set()


@api
def ask() -> str:
    """Ask the dependency."""
    if not healthy.is_set():
        raise OSError("down")
    return "answer"


def keep_asking() -> None:
    """Ask twice at a time: the second waits for the limiter."""
    while True:
        spared.call(str)
        balanced.call(str)
        discovered.call(str)
        shared.call(str)
        ask()
        ask()
        time.sleep(0.02)


def say(text: str) -> None:
    """Answer at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """Serve until the input ends."""
    port = serve_metrics(0)
    telemetry.instrument(
        histograms=(
            "resilient.call.duration",
            "resilient.attempt.duration",
            "resilient.permit.wait",
            "resilient.retry.delay",
        ),
        logs=False,
    )
    threading.Thread(target=keep_asking, daemon=True).start()
    threading.Thread(target=host.watch, args=(threading.Event(),), daemon=True).start()
    say(f"{port}\n")
    for line in sys.stdin:
        if line == "break\n":
            healthy.clear()
        else:
            healthy.set()
        say(line)


if __name__ == "__main__":
    main()
