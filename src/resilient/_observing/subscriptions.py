"""Watching every policy of the process: `subscribe`, and `events` for tools."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from resilient._calls.call import Call
from resilient._events.events import Event
from resilient._events.listeners import Listener, global_listeners
from resilient._policy.policy import check_listener
from resilient._runtimes.runtime import PAUSE
from resilient._values.checks import count
from resilient._values.locks import Lock

if TYPE_CHECKING:
    from typing import Self

    from resilient._runtimes.runtime import Waiter

# NB: it may be taken again by a finalizer that runs on the same thread.
_subscribing = Lock()


def subscribe(listener: Listener) -> Callable[[], None]:
    """Have `listener(event)` called for everything that any policy does.

    For policies that exist and for those that will, in every pipeline, thread
    and event loop. It is called in the thread or task of the call, after the
    fact and outside every lock. What it raises is logged, once for each kind
    of event, and changes nothing. Without a listener no event is built.

    Returns:
        A function that ends the subscription; calling it again is fine.

    Raises:
        TypeError: `listener` is not a plain function of the event.
    """
    check_listener(listener)
    ended = False
    global_listeners.append(listener)

    def unsubscribe() -> None:
        # NB: the same listener may be subscribed twice; each ends its own.
        nonlocal ended
        with _subscribing:
            if not ended:
                ended = True
                global_listeners.remove(listener)

    return unsubscribe


def events(max_queue: int = 1000) -> EventStream:
    """Return everything that any policy does, as an async iterator.

    For tools: a dashboard in a terminal, a test. The events of every thread
    and event loop arrive here, in asyncio or trio::

        async with resilient.events() as stream:
            async for event in stream:
                print(event)

    Args:
        max_queue: Events kept until they are asked for. When there are more
            the oldest are dropped, and counted in ``stream.dropped``.
    """
    return EventStream(count("max_queue", max_queue, minimum=1))


class EventStream:
    """What `events` returns: for one ``async with``, in one task."""

    __slots__ = ("_dropped", "_events", "_lock", "_max_queue", "_stop", "_waiter")

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._events: deque[Event] = deque()
        self._lock = Lock()
        self._stop: Callable[[], None] | None = None
        self._waiter: Waiter | None = None
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Events that came while the queue was full."""
        return self._dropped

    async def __aenter__(self) -> Self:
        if self._stop is not None:
            raise RuntimeError("a stream of events is for one block: call events()")
        self._stop = subscribe(self._put)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._stop is not None
        self._stop()
        # NB: events hold errors, and errors the frames they came through.
        self._events.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._stop is None:
            raise RuntimeError("a stream of events has to be entered: `async with`")
        call = Call.new("events")
        runtime = call.runtime
        while True:
            with self._lock:
                if self._events:
                    return self._events.popleft()
                waiter = self._waiter = runtime.waiter(call)
            try:
                await _undriven(runtime.park(waiter, None))
            finally:
                self._waiter = None

    def _put(self, event: Event) -> None:
        with self._lock:
            if len(self._events) >= self._max_queue:
                self._events.popleft()
                self._dropped += 1
            self._events.append(event)
            waiter = self._waiter
        if waiter is not None:
            waiter.wake()


@types.coroutine
def _undriven(verb: Coroutine[object, Any, object]) -> Generator[object, Any, None]:
    """Await a verb of a runtime where no edge drives: answer its pauses."""
    resume: Callable[[Any], object] = verb.send
    answer: Any = None
    while True:
        try:
            request = resume(answer)
        except StopIteration:
            return
        resume, answer = verb.send, None
        if request is not PAUSE:
            try:
                answer = yield request
            except BaseException as error:
                resume, answer = verb.throw, error
