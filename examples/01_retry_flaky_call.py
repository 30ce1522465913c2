"""Try again what failed for a moment, and nothing else.

`Retry` wants to know what is worth another try. The pauses grow and are
random from zero up ("full jitter"), so that clients which failed together do
not come back together. What it gives up on is your own error, with one note.
"""

from __future__ import annotations

import itertools

from resilient import Event, Retry, RetryScheduled, exponential

weather = itertools.cycle(["storm", "storm", "sun"])


def print_retries(event: Event) -> None:
    """Say why and when a call will be tried again."""
    if isinstance(event, RetryScheduled):
        print(
            f"  attempt {event.attempt} met a {event.error_type};"
            f" the next in {event.delay * 1000:.0f} ms"
        )


retry = Retry(ConnectionError, attempts=3, backoff=exponential(0.05))
retry.subscribe(print_retries)


@retry
def forecast(town: str) -> str:
    """Ask a station that answers every third time."""
    if next(weather) == "storm":
        raise ConnectionError(f"no line to {town}")
    return f"sun over {town}"


@retry
def history(town: str) -> str:
    """Ask for something that is not there: another try would not mend that."""
    raise KeyError(town)


@retry
def radar(town: str) -> str:
    """Ask a station that is gone for good."""
    raise ConnectionError(f"{town} has no radar any more")


def main() -> None:
    """Meet a failure that passes, one that is final and one that stays."""
    print("a failure that passes:")
    print(f"  {forecast('Kiel')}")

    for title, ask in (("a final one", history), ("one that stays", radar)):
        print(f"{title}:")
        try:
            ask("Kiel")
        except (KeyError, ConnectionError) as error:
            print(f"  {error!r}", *error.__notes__, sep="\n  ")


if __name__ == "__main__":
    main()
