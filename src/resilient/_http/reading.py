"""Read a body as part of the attempt, or what is left of one that is not wanted.

Both colours: their loops are one text twice.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import anyio

from resilient._http.body import Rest, leave
from resilient._http.client_library import ClientLibrary
from resilient._runtimes import clock

DRAINED: Final = 65_536
DRAIN_SECONDS: Final = 1.0
"""Bytes that are read to save a connection, and how long that may take: more
costs more than a new one."""


def read(
    response: Any,
    client_library: ClientLibrary,
    room: float,
    deadline: float | None,
    too_late: Callable[[], Exception],
) -> bool:
    """Read a body as part of the attempt.

    Args:
        response: Its response, which gets the body that was read.
        client_library: The classes of its client.
        room: Bytes that may be read.
        deadline: On the clock of `time.monotonic`; None: there is none.
        too_late: Makes the error of a body that has not ended by then.

    Returns:
        Whether it ended within `room`. If not the body is what was read and
        what is left, and streams.
    """
    body = response.stream
    chunks = iter(body)
    parts: list[bytes] = []
    try:
        for chunk in chunks:
            if deadline is not None and clock.now() >= deadline:
                raise too_late()
            parts.append(chunk)
            room -= len(chunk)
            if room < 0:
                response.stream = Rest(parts, chunks, body)
                return False
    except BaseException:
        body.close()
        raise
    body.close()
    response.stream = _kept(parts, client_library)
    return True


async def aread(
    response: Any,
    client_library: ClientLibrary,
    room: float,
    deadline: float | None,
    too_late: Callable[[], Exception],
) -> bool:
    """Read a body as part of the attempt; see `read`."""
    body = response.stream
    chunks = aiter(body)
    parts: list[bytes] = []
    try:
        async for chunk in chunks:
            if deadline is not None and clock.now() >= deadline:
                await leave(chunks)
                raise too_late()
            parts.append(chunk)
            room -= len(chunk)
            if room < 0:
                response.stream = Rest(parts, chunks, body)
                return False
    except GeneratorExit:
        # Nothing can be awaited any more: the connection is lost.
        raise
    except BaseException:
        await shut(body)
        raise
    if type(body).__module__.startswith(client_library.module.__name__):
        # NB: the client's own shields itself, and a scope around it costs
        # twice what it costs to read a short body.
        await body.aclose()
    else:
        await shut(body)
    response.stream = _kept(parts, client_library)
    return True


def _kept(parts: list[bytes], client_library: ClientLibrary) -> Any:
    if len(parts) > 1:
        return client_library.chunks(parts)
    return client_library.in_memory(parts[0] if parts else b"")


def drain(body: Any) -> None:
    """Read a short body to its end, within `DRAIN_SECONDS`."""
    until = clock.now() + DRAIN_SECONDS
    room = DRAINED
    with suppress(Exception):
        for chunk in body:
            room -= len(chunk)
            if room < 0 or clock.now() >= until:
                break


async def adrain(body: Any) -> None:
    """Read a short body to its end, within `DRAIN_SECONDS`."""
    room, chunks = DRAINED, aiter(body)
    with anyio.move_on_after(DRAIN_SECONDS), suppress(Exception):
        async for chunk in chunks:
            room -= len(chunk)
            if room < 0:
                await leave(chunks)
                break


async def shut(body: Any) -> None:
    """Close a body, whatever is cancelled meanwhile.

    NB: a connection whose closing is cut short is lost to its pool.
    """
    with anyio.CancelScope(shield=True):
        await body.aclose()
