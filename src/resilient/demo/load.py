"""The load: one schedule, two clients, and a record of what each of them got."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias

import attrs
import httpx

from resilient import (
    CircuitBreaker,
    Event,
    Outcome,
    Pipeline,
    ResilientError,
    Retry,
    RetryBudget,
    Timeout,
)
from resilient._runtimes import clock
from resilient.demo.day import Day

PATIENCE: Final = 3.0
"""Seconds after which either client has had enough."""

Now: TypeAlias = Callable[[], float]
"""Returns the seconds since the day began."""


@attrs.define
class Request:
    """One request of a client.

    Attributes:
        due: When it was to be sent; its latency counts from here.
        attempts: When it was sent, each time.
        asked: Which replica it was sent to, each time, where there are some.
        ended: When there was an answer or an error; None: not yet.
        error: Type of the error, None for an answer.
    """

    due: float
    attempts: list[float] = attrs.Factory(list[float])
    asked: list[str] = attrs.Factory(list[str])
    ended: float | None = None
    error: str | None = None


@attrs.define
class Log:
    """What both clients got, in the order in which it was due.

    Attributes:
        bare, protected: Their requests.
        events: What the policies told, and when.
    """

    bare: list[Request] = attrs.Factory(list[Request])
    protected: list[Request] = attrs.Factory(list[Request])
    events: list[tuple[float, Event]] = attrs.Factory(list[tuple[float, Event]])


Tell: TypeAlias = Callable[[int, Log], None]
"""Called every second with the seconds since the day began."""

Ask: TypeAlias = Callable[[Request], Coroutine[Any, Any, None]]
"""Sends a request, and notes each attempt in it."""


def is_failure(outcome: Outcome) -> bool:
    """Whether the server is to blame: a 5xx, a reset, no answer at all."""
    error = outcome.error
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.is_server_error
    return isinstance(error, httpx.TransportError)


def protection() -> Pipeline:
    """Make the pipeline of the protected client."""
    return Pipeline(
        Timeout(PATIENCE),
        Retry(budget=RetryBudget(0.2, 20)),
        CircuitBreaker(window=2, consecutive_failures=10, open_for=1),
        Timeout(0.5),
        classify=is_failure,
    )


async def get(http: httpx.AsyncClient, request: Request, now: Now) -> None:
    """Ask the server once. Both clients call this; one has it decorated."""
    sent = now()
    due = sent if request.attempts else request.due
    request.attempts.append(sent)
    response = await http.get(f"/{due:.4f}")
    response.raise_for_status()


async def play(
    day: Day,
    url: str,
    pipeline: Pipeline,
    tell: Tell,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Log:
    """Send the load of a day through both clients at once.

    Open loop: a request is sent when it is due, however many still wait. Time is
    the library's clock, which is virtual in `resilient.testing.virtual_time`.

    Args:
        day: The load and the weather.
        url: Where the server listens.
        pipeline: What protects the protected client.
        tell: Called every second of the day.
        transport: What both clients send through; None: sockets.
    """
    log = Log()
    protected_get = pipeline(get)
    async with client(transport, url) as bare_http, client(transport, url) as http:
        now = watch(pipeline, log)
        await send(
            day.due,
            lambda request: get(bare_http, request, now),
            lambda request: protected_get(http, request, now),
            tell,
            log,
            now,
        )
    return log


def client(
    transport: httpx.AsyncBaseTransport | None, url: str = ""
) -> httpx.AsyncClient:
    """Make a client of either kind."""
    # The environment may name a proxy; the way to loopback needs none.
    return httpx.AsyncClient(
        base_url=url, timeout=PATIENCE, trust_env=False, transport=transport
    )


def watch(pipeline: Pipeline, log: Log) -> Now:
    """Begin the day, and log what the policies tell."""
    began = clock.now()

    def now() -> float:
        return clock.now() - began

    pipeline.subscribe(lambda event: log.events.append((now(), event)))
    return now


async def send(
    due: Sequence[float],
    ask_bare: Ask,
    ask_protected: Ask,
    tell: Tell,
    log: Log,
    now: Now,
) -> None:
    """Send each request when it is due, through both clients."""
    async with asyncio.TaskGroup() as watching:
        telling = watching.create_task(_tell_every_second(now, tell, log))
        async with asyncio.TaskGroup() as load:
            for moment in due:
                await asyncio.sleep(moment - now())
                for requests, ask in (
                    (log.bare, ask_bare),
                    (log.protected, ask_protected),
                ):
                    request = Request(moment)
                    requests.append(request)
                    load.create_task(_keep(request, ask(request), now))
        telling.cancel()


async def _keep(request: Request, asked: Coroutine[Any, Any, None], now: Now) -> None:
    """Note how a request ended."""
    try:
        await asked
    except (httpx.HTTPError, ResilientError) as error:
        request.error = type(error).__name__
    request.ended = now()


async def _tell_every_second(now: Now, tell: Tell, log: Log) -> None:
    second = 0
    while True:
        second += 1
        await asyncio.sleep(second - now())
        tell(second, log)
