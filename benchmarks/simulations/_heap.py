"""An open loop on the library's event heap: requests whose policies it drives.

It is the engine of `resilient.simulation`, with a modelled service of our own. A
request takes a quarter of the time that it takes on an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from functools import partial
from itertools import cycle

from resilient import Policy
from resilient._runtimes.simulated import World
from resilient.simulation._edge import Client, Recorder, Request, Sent
from resilient.testing._world import world

Send = Callable[[World, Sent], None]
"""Takes an attempt, and has the heap answer it later."""


def run(
    seed: int,
    policies: Sequence[Policy],
    send: Send,
    moments: Iterator[float],
    recorder: Recorder,
    choose: Callable[[Sequence[Client]], Client] | None = None,
) -> None:
    """Make a request at each of the moments; return when all have ended.

    Args:
        seed: Seeds the policies.
        policies: Of the clients, one each.
        send: The service. It answers nothing before it returns.
        moments: When requests come.
        recorder: What is told of attempts and of the ends of requests.
        choose: Says which client makes a request; None: each in turn.
    """

    def under_way() -> None:
        with world(seed, World) as heap:
            _Loop(heap, policies, send, moments, recorder, choose).run()

    Context().run(under_way)


class _Loop:
    def __init__(
        self,
        heap: World,
        policies: Sequence[Policy],
        send: Send,
        moments: Iterator[float],
        recorder: Recorder,
        choose: Callable[[Sequence[Client]], Client] | None,
    ) -> None:
        self._heap = heap
        self._moments = moments
        self._number = 0
        sent = partial(send, heap)
        clients = [Client(heap, each, sent, recorder) for each in policies]
        turns = cycle(clients)
        self._next: Callable[[], Client] = (
            turns.__next__ if choose is None else lambda: choose(clients)
        )

    def run(self) -> None:
        self._heap.at_each(self._moments, self._arrive)
        self._heap.run()

    def _arrive(self, due: float) -> None:
        self._number += 1
        Request(self._next(), self._number, due, self._number).begin()
