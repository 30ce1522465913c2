"""A circuit of this process as its fleet's store sees it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from resilient._events.events import StoreBack, StoreLost
from resilient._machines.delegate import Delegate
from resilient._machines.quorum import Report, Verdict
from resilient._sharing.store import (
    SharedStore,
    check_store,
    shared_name,
    store_status,
)

__all__ = ["SharedCircuit"]

# Until the first answer to a report may be waited for: see `Delegate.next_at`.
_SOON = 0.5


class SharedCircuit:
    """Passes reports and verdicts between a circuit and a store's link.

    Args:
        store: The store.
        name: The breaker's.
        delegate: The machine; its methods are called through `run`.
        run: Calls a function under the breaker's lock, with further arguments,
            and tells its listeners of the changes.
        open_time: Returns for how many seconds a circuit opens that opens for
            the so-manieth time; no lock is held.
        emit: Tells the breaker's listeners of an event: see `LeaseMember`.

    Raises:
        TypeError, ValueError: It is no store, or no name.
    """

    __slots__ = (
        "__weakref__",
        "_emit",
        "_open_time",
        "_run",
        "delegate",
        "id",
        "key",
        "link",
        "members",
        "store",
    )

    beat_at: float = math.inf

    def __init__(
        self,
        store: SharedStore,
        name: str | None,
        delegate: Delegate,
        run: Callable[..., Any],
        open_time: Callable[[int], float],
        emit: Callable[..., None],
    ) -> None:
        check_store(store)
        self.store = store
        self.key = "circuit:" + shared_name(name)
        self.id = os.urandom(8).hex()
        self.delegate = delegate
        self.link = store.link
        self.members = 1
        self._run = run
        self._open_time = open_time
        self._emit = emit
        self.link.join(self)
        if not self.link.up:
            delegate.cut()

    def saw_call(self, now: float, *, failed: bool) -> None:
        """Take note of a call; report if it is time. No lock may be held."""
        delegate = self.delegate
        delegate.saw_call(now, failed=failed)
        if now >= delegate.next_at:
            self.link.poll(now)
            if self.link.up:
                # NB: what is reported is what is there when it is collected.
                delegate.next_at = now + _SOON
                self.link.notify(self)

    def status(self) -> dict[str, Any]:
        """Return what `health` and the metrics show of the sharing."""
        delegate = self.delegate
        return {
            "circuit.fleet": "open" if delegate.open else "closed",
            **store_status(
                is_cut=delegate.is_cut,
                members=self.members,
                exchanges=delegate.exchanges,
                seconds=delegate.exchange_time,
            ),
        }

    # -- Called by the link

    def collect(self, now: float) -> Report | None:
        report: Report | None = self._run(self.delegate.collect, now, self.id)
        if report is not None and report.failing and not report.open:
            # It may open the fleet's circuit.
            seconds = self._open_time(int(report.openings) + 1)
            report = report._replace(open_for=seconds)
        return report

    def surrender(self, now: float) -> Report | None:
        # What it has seen ends with the life of its row.
        return None

    def deliver(self, answer: Verdict, now: float, *, up: bool) -> None:
        self._run(self.delegate.absorb, now, answer)

    def fail(self, now: float, *, sent: bool) -> None:
        self._run(self.delegate.fail)

    def cut(self, now: float, reason: str) -> None:
        self._run(self.delegate.cut)
        self._emit(StoreLost, reason)

    def restore(self, now: float, seconds: float) -> None:
        self._run(self.delegate.restore)
        # NB: every call is decided by the circuit, with and without it.
        self._emit(StoreBack, seconds, 0)

    def see(self, now: float, members: int) -> None:
        self.members = members

    def forget(self) -> None:
        self.id = os.urandom(8).hex()
        self.delegate.forget()
