"""Keep to the rate that a service allows, and pay what a call really costs.

A `RateLimiter` rejects what comes too soon, or lets it wait up to `max_wait`.
Several limits are taken together or not at all, and a cost that is known only
afterwards is corrected with `settle`.
"""

from __future__ import annotations

import asyncio
import time

from resilient import Limit, RateLimitedError, RateLimiter, current_call


def reject_what_comes_too_soon() -> None:
    """Take the burst, then hear when to come back."""
    limiter = RateLimiter(10, burst=3)
    for number in range(1, 5):
        try:
            print(f"  {limiter.call(str.upper, f'call {number}')}")
        except RateLimitedError as error:
            print(f"  {error}")


async def wait_for_a_place() -> None:
    """Let twelve tasks wait in one line for 20 calls a second."""
    limiter = RateLimiter(20, burst=2, max_wait=1)
    began = time.monotonic()

    @limiter
    async def call() -> float:
        return time.monotonic() - began

    times = await asyncio.gather(*(call() for _ in range(12)))
    print("  done at", ", ".join(f"{seconds:.2f}" for seconds in times), "s")


def pay_what_it_cost() -> None:
    """Count requests and tokens at once; the answer says how many tokens."""
    limiter = RateLimiter(
        limits=[Limit(10, per=60), Limit(1_000, per=60, unit="tokens")],
        cost={"requests": 1, "tokens": 400},  # what an answer may take
    )

    @limiter
    def complete(tokens: int) -> str:
        current_call().set_cost(tokens=tokens)
        return f"an answer of {tokens} tokens"

    for tokens in (100, 350, 700, 100):
        try:
            print(f"  {complete(tokens)}")
        except RateLimitedError as error:
            print(f"  {error}")


def main() -> None:
    """Show the three ways to keep a rate."""
    print("three at once, then one every 0.1 s:")
    reject_what_comes_too_soon()
    print("two at once, the others in line:")
    asyncio.run(wait_for_a_place())
    print("1000 tokens a minute:")
    pay_what_it_cost()


if __name__ == "__main__":
    main()
