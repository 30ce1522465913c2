"""Bound the time that a call, or each attempt at it, may take.

Position decides: a `Timeout` outside the `Retry` bounds everything, pauses
included; one inside bounds each attempt. Asynchronous calls are cut short.
Nothing can interrupt synchronous Python: there a timeout is a deadline that
pauses and retries obey, and that your code can ask for with `remaining`.
"""

from __future__ import annotations

import asyncio
import socket
import time

from resilient import (
    Pipeline,
    Retry,
    Timeout,
    TimeoutExceededError,
    constant,
    remaining,
)

quick = Pipeline(
    Timeout(0.45, name="total"),
    Retry(ConnectionError, backoff=constant(0.1, jitter="none")),
    Timeout(0.1, name="attempt"),
)


async def answer(delays: list[float]) -> str:
    """Take as long as the first delay says, the next time as the second."""
    await asyncio.sleep(delays.pop(0))
    return "answered"


async def cut_attempts() -> None:
    """Win by the third attempt, then run out of time in it."""
    for delays in ([9.0, 9.0, 0.0], [9.0, 9.0, 9.0]):
        began = time.monotonic()
        try:
            outcome = await quick.acall(answer, delays)
        except TimeoutExceededError as error:
            outcome = str(error)
        print(f"  {outcome}, in {time.monotonic() - began:.2f} s")


@Timeout(0.2)
def read_from(peer: socket.socket) -> bytes:
    """Hand on what is left of the time to what can use it."""
    peer.settimeout(remaining())
    return peer.recv(100)


@Timeout(0.2, abandon=True)
def stubborn() -> None:
    """Cannot be stopped: its thread is left behind, and the caller goes on."""
    time.sleep(0.4)


def main() -> None:
    """Cut short what can be cut, and leave what cannot."""
    print("asynchronous, 0.1 s an attempt, 0.1 s a pause:")
    asyncio.run(cut_attempts())

    print("synchronous, with a deadline:")
    near, far = socket.socketpair()
    with near, far:
        try:
            read_from(near)
        except TimeoutError as error:
            print(f"  the socket gave up: {error!r}")
    try:
        stubborn()
    except TimeoutExceededError as error:
        print(f"  the caller left: {error}")


if __name__ == "__main__":
    main()
