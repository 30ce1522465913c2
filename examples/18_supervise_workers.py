"""Keep three workers running, of which one crashes at random and one for ever.

The first never notices. The second is restarted each time. The third crashes in a
row, until the supervisor gives up, stops the others and says why.
"""

from __future__ import annotations

import asyncio
import logging
import random

from resilient import Event, RestartLimitError, WorkerCrashed, exponential, subscribe
from resilient.supervision import Supervisor


async def tick(done: list[int]) -> None:
    """Work, without an end."""
    while True:
        await asyncio.sleep(0.05)
        done.append(1)


async def stumble(done: list[int]) -> None:
    """Work, and crash now and then."""
    while True:
        await asyncio.sleep(0.05)
        done.append(1)
        if random.random() < 0.2:
            raise ConnectionError("the broker went away")


async def fail() -> None:
    """Crash at once: a setting is wrong."""
    raise KeyError("QUEUE_URL")


def tell(event: Event) -> None:
    """Print each crash."""
    if isinstance(event, WorkerCrashed):
        then = "given up" if event.delay is None else f"again in {event.delay:.2f} s"
        print(f"{event.worker}: {event.error_type}, {event.row} in a row, {then}")


async def supervise() -> None:
    """Start the three workers; they run until one of them cannot."""
    ticks: list[int] = []
    stumbles: list[int] = []
    supervisor = Supervisor(
        max_restarts=5, healthy_after=0.2, backoff=exponential(0.05, cap=1.0)
    )
    try:
        async with supervisor as workers:
            workers.start(tick, ticks, name="ticker")
            workers.start(stumble, stumbles, name="stumbler")
            workers.start(fail, name="failer")
    except RestartLimitError as error:
        print(error)
    print(f"{len(ticks)} ticks without a break, {len(stumbles)} in spite of crashes")
    for name, worker in supervisor.status()["workers"].items():
        print(f"{name}: {worker['state']}, restarted {worker['restarts']} times")


def main() -> None:
    """Supervise for two seconds or so; crashes are printed, not logged."""
    logging.disable()
    random.seed(1)
    unsubscribe = subscribe(tell)
    asyncio.run(supervise())
    unsubscribe()


if __name__ == "__main__":
    main()
