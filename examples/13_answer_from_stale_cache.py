"""Answer from memory, and from old memory where asking fails.

Within `ttl` seconds the function is not asked at all; for `stale_if_error`
more an old answer is better than an error. A caller that finds it stale asks:
nothing happens in the background. The time is virtual.
"""

from __future__ import annotations

from resilient import Event, Fallback, Pipeline, StaleCache, StaleServed
from resilient.testing import VirtualClock, virtual_time

cache = StaleCache(60, stale_if_error=3600)
rates = Pipeline(Fallback("unknown"), cache, classify=ConnectionError)


class Bank:
    """Publishes exchange rates, when it is open."""

    def __init__(self) -> None:
        self.open = True
        self.asked = 0

    def rate(self, currency: str) -> float:
        """Look up a rate."""
        self.asked += 1
        if not self.open:
            raise ConnectionError("the bank is closed")
        if currency == "XXX":
            raise LookupError("no such currency")
        return 1 + self.asked / 100


def say_how_old(event: Event) -> None:
    """Say when an old answer was given, and instead of what."""
    if isinstance(event, StaleServed):
        print(f"  in the place of a {event.error_type}, {event.age:.0f} s old:")


def live_through(clock: VirtualClock) -> None:
    """Ask on a good day, through an outage, and after a long one."""
    bank = Bank()

    @rates
    def rate(currency: str) -> float:
        return bank.rate(currency)

    def ask(when: str, currency: str = "USD") -> None:
        try:
            print(f"{when}: {rate(currency)}, asked {bank.asked} times")
        except LookupError as error:
            print(f"{when}: {error}")

    ask("first")
    clock.advance(59)
    ask("59 s later")
    clock.advance(2)
    ask("2 s later")
    ask("an error that is an answer", "XXX")
    bank.open = False
    clock.advance(1800)
    ask("closed, after half an hour")
    ask("closed, and never asked before", "GBP")
    clock.advance(3600)
    ask("closed, after another hour")
    bank.open = True
    ask("open again")


def main() -> None:
    """Live through an hour or two at once."""
    end = cache.subscribe(say_how_old)
    with virtual_time() as clock:
        live_through(clock)
    end()


if __name__ == "__main__":
    main()
