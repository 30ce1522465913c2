"""An open loop on the library's event heap: requests whose policies it drives.

It is the engine of `resilient.simulation`, with a modelled service of our own. A
request takes a quarter of the time that it takes on an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import Context
from functools import partial
from itertools import cycle
from typing import Any, TypeVar

from resilient import Policy
from resilient._runtimes.simulated import World
from resilient.simulation._edge import Client, Recorder, Request, Sent
from resilient.testing._world import world

_T = TypeVar("_T")

Send = Callable[[World, Sent], None]
"""Takes an attempt, and has the heap answer it later."""


def run(
    seed: int,
    policies: Iterable[Policy[Any]],
    send: Send,
    moments: Iterator[float],
    recorder: Recorder,
    choose: Callable[[Sequence[Client]], Client] | None = None,
    change: tuple[float, Callable[[Sequence[Client]], object]] | None = None,
) -> None:
    """Make a request at each of the moments; return when all have ended.

    Args:
        seed: Seeds the policies.
        policies: Of the clients, one each; a generator makes them in virtual time.
        send: The service. It answers nothing before it returns.
        moments: When requests come.
        recorder: What is told of attempts and of the ends of requests.
        choose: Says which client makes a request; None: each in turn.
        change: When something happens to the clients, and what; None: nothing.
    """

    def main(heap: World) -> None:
        clients = [
            Client(heap, each, partial(send, heap), recorder) for each in policies
        ]
        turns = cycle(clients)
        number = 0

        def arrive(due: float) -> None:
            nonlocal number
            number += 1
            client = next(turns) if choose is None else choose(clients)
            Request(client, number, due, number).begin()

        if change is not None:
            heap.at(*change, clients)
        heap.at_each(moments, arrive)
        heap.run()

    in_world(seed, main)


def in_world(seed: int, main: Callable[[World], _T]) -> _T:
    """Return what a function returns that runs a heap.

    Args:
        seed: Seeds the policies.
        main: Puts entries on the heap, and runs it.
    """

    def run() -> _T:
        with world(seed, World) as heap:
            return main(heap)

    # NB: empty, for a call that runs here would lend its deadline to all.
    return Context().run(run)
