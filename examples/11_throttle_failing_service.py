"""Ask an overloaded service for less, rather than have it refuse more.

To refuse costs it something, too: one that is asked for far more than it can
do gets nothing else done. `AdaptiveThrottle` compares what was sent with what
was accepted, and holds back what would be refused anyway; what it lets through
finds out when that is over. The time is virtual: this example takes no minute.
"""

from __future__ import annotations

from collections import Counter

from resilient import AdaptiveThrottle, Pipeline, ThrottledError
from resilient.testing import VirtualClock, virtual_time


class Mail:
    """A service that can send 100 letters a second, or refuse 400."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.free_at = 0.0

    def send(self, letter: int) -> None:
        """Send a letter, unless it is behind with its work."""
        now = self.clock.now()
        behind = self.free_at > now
        self.free_at = max(self.free_at, now) + (1 / 400 if behind else 1 / 100)
        if behind:
            raise ConnectionRefusedError("too busy")


def send_all(pipeline: Pipeline, mail: Mail, rate: int, seconds: int) -> None:
    """Send letters at a steady rate, and print what became of them."""
    ends: Counter[str] = Counter()
    for letter in range(rate * seconds):
        try:
            pipeline.call(mail.send, letter)
            ends["sent"] += 1
        except ThrottledError:
            ends["held back"] += 1
        except ConnectionRefusedError:
            ends["refused"] += 1
        mail.clock.advance(1 / rate)
    told = ", ".join(
        f"{ends[end] / seconds:3.0f} {end}" for end in ("sent", "refused", "held back")
    )
    print(f"  {rate:3} letters a second for {seconds} s: {told}")


def show_a_rush(pipeline: Pipeline) -> None:
    """Send a few letters a second, then far too many, then a few again."""
    print(f"{pipeline!r}:")
    with virtual_time() as clock:
        mail = Mail(clock)
        for rate, seconds in ((80, 10), (500, 20), (80, 20), (80, 10)):
            send_all(pipeline, mail, rate, seconds)


def main() -> None:
    """Live through a rush without a throttle, and with one."""
    show_a_rush(Pipeline())
    show_a_rush(Pipeline(AdaptiveThrottle(on=ConnectionError)))


if __name__ == "__main__":
    main()
