"""Deliver events to listeners.

A listener that raises is logged, once for each kind of event, and changes
nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from resilient._events.events import Event
from resilient._values.locks import Lock

Listener: TypeAlias = Callable[[Event], Any]


class Outbox:
    """Events that have to arrive in the order in which they happened.

    `put` is called under the lock of the machine they come from, `deliver`
    after it was released. One thread delivers at a time; a listener that
    causes further events leaves them to the delivery it is part of.
    """

    __slots__ = ("_busy", "_events", "_lock")

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._lock = Lock()
        self._busy = False

    def put(self, event: Event) -> None:
        self._events.append(event)

    def deliver(self, listeners: Callable[[], Sequence[Listener]]) -> None:
        # NB: looked at again after each release: another thread may have
        # put an event, found the outbox busy and left it to this one.
        while self._events:
            mine = False
            try:
                with self._lock:
                    if self._busy:
                        return
                    self._busy = mine = True
                while self._events:
                    send(listeners(), self._events.popleft())
            finally:
                if mine:
                    self._busy = False


def send(listeners: Sequence[Listener], event: Event) -> None:
    """Tell every listener; none of them can hurt the call or the others."""
    # NB: a copy. A listener may end its subscription, or another's.
    for listener in tuple(listeners):
        try:
            listener(event)
        except Exception:
            log_once(f"a listener failed on {type(event).__name__}")


global_listeners: Final[list[Listener]] = []
"""Listeners to every policy: see `resilient.subscribe`.

A policy without listeners of its own has this very list for its listeners, so
that a subscription to all policies reaches it, wherever it is, and when made.
"""


def broadcast(event: Event) -> None:
    """Tell the listeners to every policy: the last listener of the others."""
    send(global_listeners, event)


_logged: set[str] = set()

_MOST: Final = 1000
"""Texts that are remembered, so that names that never end cost no memory."""


def log_warning_once(key: str, message: str, *args: object) -> None:
    """Log a line at WARNING, the first time that its key is given."""
    if key not in _logged and len(_logged) < _MOST:
        _logged.add(key)
        import logging

        logging.getLogger("resilient").warning(f"{message} (logged once)", *args)


def log_once(text: str) -> None:
    """Log the exception being handled, the first time that `text` is said."""
    if text not in _logged and len(_logged) < _MOST:
        _logged.add(text)
        import logging

        logging.getLogger("resilient").exception("%s (logged once)", text)
