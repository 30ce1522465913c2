"""Stop calling what is down, and find out when it is up again.

A `CircuitBreaker` opens after too many failures and rejects calls at once,
without calling. After a while it is half-open: a few calls probe, and their
outcome closes it or opens it again.
"""

from __future__ import annotations

import time

from resilient import CircuitBreaker, CircuitChanged, CircuitOpenError, Event

OPEN_FOR = 0.3
"""Seconds. The default, 5 growing to 60, suits services better than readers."""

breaker = CircuitBreaker(consecutive_failures=3, open_for=OPEN_FOR, half_open_calls=2)


class Warehouse:
    """A service that is down until it is mended."""

    def __init__(self) -> None:
        self.up = False
        self.asked = 0

    @breaker
    def stock(self, article: str) -> int:
        """Count what is there of an article."""
        self.asked += 1
        if not self.up:
            raise ConnectionError("no route to the warehouse")
        return 7


def print_changes(event: Event) -> None:
    """Say what the circuit does."""
    if isinstance(event, CircuitChanged):
        print(f"  circuit: {event.old} -> {event.new} ({event.reason})")


def ask(warehouse: Warehouse, times: int) -> None:
    """Ask so many times, and print each answer or error."""
    for _ in range(times):
        try:
            print(f"  {warehouse.stock('tea')} packets of tea")
        except ConnectionError as error:
            print(f"  failed: {error}")
        except CircuitOpenError as error:
            print(f"  rejected: {error}")


def main() -> None:
    """Break a circuit and watch it heal."""
    warehouse = Warehouse()
    end = breaker.subscribe(print_changes)
    try:
        print("the warehouse is down:")
        ask(warehouse, times=5)
        print(f"it was asked {warehouse.asked} times for 5 calls")

        warehouse.up = True
        time.sleep(OPEN_FOR)
        print(f"{OPEN_FOR} s later, mended:")
        ask(warehouse, times=3)
    finally:
        end()


if __name__ == "__main__":
    main()
