"""The courier: the one thread of a process that talks to a store.

Callers of any colour wait on their own waiters; no caller's cancellation
touches a socket, and threads and event loops share one block. Whatever has piled up
since the last exchange goes in the next, as one batch.

The thread starts with the first ask and ends with `close`. A forked child has
none: it starts its own. While the store is lost nothing is asked; the thread
wakes to probe it.
"""

from __future__ import annotations

import atexit
import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol
from weakref import WeakSet

from resilient._machines.allotment import Claim, Grant
from resilient._machines.quorum import Report, Verdict
from resilient._machines.shared_bucket import Answer, Ask
from resilient._machines.shared_value import Found, ValueAsk
from resilient._runtimes import clock
from resilient._sharing.store import Asker, Link, Member
from resilient._values.locks import Lock

__all__ = [
    "Courier",
    "NotSentError",
    "Reply",
    "Request",
    "Transport",
    "reason_of",
]


LAST_EXCHANGE: Final = 2.0
"""Seconds that `close` waits for an exchange on its way."""

BATCH: Final = 256
"""The weight of one exchange, at most: more asks are late for their own number."""


class NotSentError(Exception):
    """A batch cannot have arrived: there was no connection to send it by."""


class Request(NamedTuple):
    """One member's ask.

    Attributes:
        member: Whose it is.
        ask: What it asks.
        enlists: Whether its process is to be counted.
        leaves: Whether it is its last, and no answer is for it.
    """

    member: Asker
    ask: Ask | Report | Claim | ValueAsk
    enlists: bool
    leaves: bool = False


class Reply(NamedTuple):
    """An answer, and how many members there are where they were counted.

    Attributes:
        answer: None: the store refused.
        members: None: not counted.
        error: Why it refused.
        sent: Whether the ask may have arrived, where it was refused.
    """

    answer: Answer | Verdict | Grant | Found | None
    members: int | None
    error: str = ""
    sent: bool = True


class Transport(Protocol):
    """What sends a batch to a server; used by one thread at a time."""

    def exchange(self, requests: list[Request]) -> list[Reply]:
        """Send all and return what is answered, within the time-out.

        Raises:
            NotSentError: Nothing has arrived.
            Exception: Something may have.
        """
        ...

    def ping(self) -> None:
        """Raise an exception unless the server answers."""
        ...

    def close(self) -> None:
        """Drop the connection."""
        ...


class Courier(Link):
    """The way to a store on a server; see the top of this module.

    Args:
        transport: Sends batches.
        patience: Seconds after which an answer comes late.
    """

    def __init__(self, transport: Transport, patience: float) -> None:
        super().__init__()
        self.patience = patience
        self._transport = transport
        self._begin()
        _couriers.add(self)

    def _begin(self) -> None:
        self._ready: deque[Asker] = deque()
        # A one-shot gate: released, there is something to do.
        self._gate = threading.Lock()
        self._gate.acquire()
        self._thread: threading.Thread | None = None
        self._closed = False
        # Held while the transport is used.
        self._using = Lock()

    def notify(self, member: Asker) -> None:
        self._ready.append(member)
        self._wake()
        if self._thread is None and not self._closed:
            self._start()

    def leave(self, member: Member) -> None:
        # NB: without a thread it has asked for nothing.
        if self._thread is not None and not self._closed:
            super().leave(member)
            self._wake()

    def poll(self, now: float) -> bool:
        return False

    def close(self) -> None:
        self._closed = True
        self._wake()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=LAST_EXCHANGE)
        # NB: else it is amid an exchange, and what is held ends with its lease.
        if thread is None or not thread.is_alive():
            with self._using:
                self._surrender()
        # NB: after it, for a member that has given back all begins anew.
        self._end()

    def after_fork(self) -> None:
        closed = self._closed
        self._begin()
        super().after_fork()
        if closed:
            self._closed = True
            self._end()

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            started = clock.thread_or_error(self._run, "resilient store")
            if not isinstance(started, RuntimeError):
                self._thread = started
            # Else none can be had, now or as the interpreter ends: members notice
            # that there is no answer.

    def _wake(self) -> None:
        try:
            self._gate.release()
        except RecursionError:
            raise
        except RuntimeError:
            # It is open already: two wakes before one wait are one.
            pass

    def _run(self) -> None:
        with self._lock:
            # NB: Ctrl-C may have come before `_start` noted the one it started.
            if self._thread is None:
                self._thread = threading.current_thread()
            elif self._thread is not threading.current_thread():
                return
        while not self._closed:
            try:
                self._wait()
                with self._using:
                    self._turn()
            except Exception as error:
                # No memory, most likely: the thread lives on, and tries later.
                self._failed(clock.now(), reason_of(error))

    def _wait(self) -> None:
        """Wait until there is something to do."""
        due = self._contact.probe_at
        if self._contact.up:
            due = min([one.beat_at for one in self.beating()], default=math.inf)
        timeout = None if due == math.inf else max(0.0, due - clock.now())
        clock.wait(self._gate, timeout)

    def _turn(self) -> None:
        """Exchange what is due."""
        now = clock.now()
        if self._contact.up:
            ready: dict[Asker, None] = {}
            weight = 0
            while self._ready and weight < BATCH:
                member = self._ready.popleft()
                weight += member.weight
                ready[member] = None
            for beating in self.beating():
                if beating.beat_at <= now:
                    ready[beating] = None
            self._exchange(list(ready))
            if self._ready or self._leaving:
                self._wake()
        elif now >= self._contact.probe_at:
            self._probe(now)

    def _exchange(self, members: Sequence[Asker]) -> None:
        now = clock.now()
        requests = _last_requests(self._leaving, now)
        try:
            for member in members:
                ask = member.collect(now)
                if ask is not None:
                    requests.append(Request(member, ask, member.crew.enlists(now)))
            if requests:
                self._send(requests)
        except Exception as error:
            # The store's, or ours, for want of memory: there is no answer.
            now = clock.now()
            for member in dict.fromkeys([*[one.member for one in requests], *members]):
                member.fail(now, sent=not isinstance(error, NotSentError))
            self._failed(now, reason_of(error))

    def _send(self, requests: list[Request]) -> None:
        """Send them, and deliver the answers."""
        began = clock.now()
        replies = self._transport.exchange(requests)
        now = clock.now()
        refused = [reply.error for reply in replies if reply.answer is None]
        if refused:
            self._failed(now, refused[0])
        up = not refused and self._answered(now, now - began)
        for request, reply in zip(requests, replies, strict=True):
            if reply.members is not None:
                self._see(request.member, now, reply.members)
            if reply.answer is None:
                request.member.fail(now, sent=reply.sent)
            elif not request.leaves:
                request.member.deliver(reply.answer, now, up=up)

    def _probe(self, now: float) -> None:
        """Try a store that did not answer; book what was used meanwhile."""
        try:
            self._transport.ping()
        except Exception as error:
            self._failed(clock.now(), reason_of(error))
            return
        if not self._answered(clock.now()):
            members = self.members()
            for first in range(0, len(members), BATCH):
                self._exchange(members[first : first + BATCH])

    def _surrender(self) -> None:
        """Tell the store what the members used and hold, once."""
        now = clock.now()
        leaving = deque([*self._leaving, *self.members()])
        while self._contact.up and (requests := _last_requests(leaving, now)):
            try:
                self._transport.exchange(requests)
            except Exception:
                # What was held ends with its lease.
                break
        self._transport.close()


def _last_requests(leaving: deque[Member], now: float) -> list[Request]:
    """Take out members that leave, a batch at most; return what they have to tell."""
    requests: list[Request] = []
    while leaving and len(requests) < BATCH:
        member = leaving.popleft()
        ask = member.surrender(now)
        if ask is not None:
            requests.append(Request(member, ask, enlists=False, leaves=True))
    return requests


def reason_of(error: BaseException) -> str:
    """Return what to say of an error: its kind, for its text may be secret."""
    cause = error.__cause__ if isinstance(error, NotSentError) else None
    return type(cause or error).__name__


_couriers: WeakSet[Courier] = WeakSet()


@atexit.register
def _close_all() -> None:
    for courier in list(_couriers):
        courier.close()
