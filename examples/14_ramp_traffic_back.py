"""Let traffic back by steps, to a service that all at once would throw down.

What comes up with cold caches can do less than before. A breaker that lets
everybody back after a few good probes brings it down again; with a `ramp` it
lets a share of the calls through, then more. The time is virtual: this example
takes no minute.
"""

from __future__ import annotations

from resilient import CircuitBreaker, CircuitChanged, CircuitOpenError, Event
from resilient.testing import VirtualClock, virtual_time

RATE = 100
"""Calls a second that want to pass."""


class Shop:
    """Comes up after a while, with cold caches that every answer warms.

    Cold it can do 10 calls a second, warm any number. Who asks for more than it
    can do throws it down again, and it comes up cold.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.up_at = 10.0
        self.spare = self.asked_at = 0.0
        self.answers = 0

    def show(self, article: int) -> str:
        """Show an article."""
        now = self.clock.now()
        if now < self.up_at:
            raise ConnectionError("no route to the shop")
        capacity = 10 + self.answers / 2
        self.spare = min(10.0, self.spare + (now - self.asked_at) * capacity) - 1
        self.asked_at = now
        if self.spare < 0:
            self.up_at, self.answers = now + 10, 0
            raise ConnectionError("the shop broke down")
        self.answers += 1
        return f"article {article}"


def live_through(breaker: CircuitBreaker) -> None:
    """Call a service that comes up cold, and print what the circuit does."""
    answered = downs = 0
    with virtual_time() as clock:
        shop = Shop(clock)

        def print_changes(event: Event) -> None:
            if isinstance(event, CircuitChanged) and event.new != "half_open":
                print(f"  {clock.now():3.0f} s: {event.new:8} ({event.reason})")

        end = breaker.subscribe(print_changes)
        for number in range(RATE * 40):
            try:
                breaker.call(shop.show, number)
                answered += 1
            except ConnectionError as error:
                downs += "down" in str(error)
            except CircuitOpenError:
                pass
            clock.advance(1 / RATE)
        end()
    print(f"  {answered} of {RATE * 40} answered; it broke down {downs} times")


def main() -> None:
    """Come back all at once, and by steps."""
    for ramp in (None, (0.05, 0.25)):
        print(f"ramp={ramp}:")
        live_through(CircuitBreaker(open_for=5, ramp=ramp, ramp_step=10))


if __name__ == "__main__":
    main()
