"""A policy of this process as a store sees it, where it spends leased blocks."""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Callable
from typing import Any

from resilient._events.events import LimitLowered, StoreBack, StoreLost
from resilient._machines.lease import Lease
from resilient._machines.shared_bucket import Answer, Ask
from resilient._runtimes import clock
from resilient._sharing.store import Link, store_status

__all__ = ["LeaseMember"]


class LeaseMember(abc.ABC):
    """Passes asks and answers between a policy's lease and a store's link.

    A subclass says what waits for an answer, and serves it.

    Args:
        link: The store's.
        key: Kind and name of what is shared.
        lease: The machine; its methods are called through `run`.
        run: Calls a function under the policy's lock, with a list for the
            tickets to wake afterwards and with further arguments.
        emit: Tells the policy's listeners of an event: its type, and its values
            but for the policy and the call.
    """

    __slots__ = (
        "__weakref__",
        "_alone_before",
        "emit",
        "id",
        "key",
        "lease",
        "link",
        "run",
    )

    beat_at: float = math.inf

    def __init__(
        self,
        link: Link,
        key: str,
        lease: Lease,
        run: Callable[..., Any],
        emit: Callable[..., None],
    ) -> None:
        self.link: Link = link
        self.key: str = key
        self.id: str = os.urandom(8).hex()
        self.lease: Lease = lease
        self.run: Callable[..., Any] = run
        self.emit: Callable[..., None] = emit
        self._alone_before = 0
        link.join(self)
        if not link.up:
            lease.cut(clock.now())

    @abc.abstractmethod
    def waiting_locked(self) -> tuple[float, float]:
        """Return the units that are waited for together, and the first's."""

    @abc.abstractmethod
    def serve_locked(self, now: float) -> list[Any]:
        """Serve the waiting calls; return the tickets to wake."""

    def follow(self, now: float) -> bool:
        """Do what the lease has become due for; no lock may be held.

        Returns:
            Whether that may have changed what it decides.
        """
        delivered = self.link.poll(now)
        if self.lease.due and self.link.up:
            # NB: once; what is asked is what is due when it is collected.
            self.lease.due = False
            self.link.notify(self)
            return True
        return delivered

    @property
    def next_delivery(self) -> float | None:
        """When to `follow` again at the latest; None where a thread delivers."""
        return self.link.next_delivery

    def status(self) -> dict[str, Any]:
        """Return what `health` and the metrics show of the sharing."""
        lease = self.lease
        return {
            "shared.alone": lease.alone,
            "shared.booked": lease.booked,
            "shared.unused": lease.unused,
            **store_status(
                is_cut=lease.is_cut,
                members=lease.members,
                exchanges=lease.exchanges,
                seconds=lease.exchange_time,
            ),
        }

    # -- Called by the link

    def collect(self, now: float) -> Ask | None:
        ask: Ask | None = self.run(self._collect_locked, now)
        return ask

    def surrender(self, now: float) -> Ask | None:
        ask: Ask | None = self.run(self._surrender_locked, now)
        return ask

    def deliver(self, answer: Answer, now: float, *, up: bool) -> None:
        lowered = self.run(self._deliver_locked, answer, now, up)
        if lowered is not None:
            self.emit(LimitLowered, *lowered)
        self.follow(now)

    def fail(self, now: float, *, sent: bool) -> None:
        self.run(self._fail_locked, now, sent)

    def cut(self, now: float, reason: str) -> None:
        self.run(self._cut_locked, now)
        self.emit(StoreLost, reason)

    def restore(self, now: float, seconds: float) -> None:
        alone = self.run(self._restore_locked, now)
        self.emit(StoreBack, seconds, alone)
        self.follow(now)

    def see(self, now: float, members: int) -> None:
        self.run(self._see_locked, now, members)

    # -- Called under the lock

    def _collect_locked(self, woken: list[Any], now: float) -> Ask | None:
        return self.lease.collect(now, *self.waiting_locked())

    def _surrender_locked(self, woken: list[Any], now: float) -> Ask | None:
        return self.lease.surrender(now)

    def _see_locked(self, woken: list[Any], now: float, members: int) -> None:
        self.lease.see(now, members)

    def _deliver_locked(
        self, woken: list[Any], answer: Answer, now: float, up: bool
    ) -> tuple[float, float] | None:
        """Take an answer; return lower numbers of another, if that is news."""
        before = self.lease.lowered
        self.lease.absorb(now, answer, up=up)
        woken += self.serve_locked(now)
        self.lease.end_round(now)
        return None if self.lease.lowered == before else self.lease.lowered

    def _fail_locked(self, woken: list[Any], now: float, sent: bool) -> None:
        self.lease.fail(now, sent=sent)
        woken += self.serve_locked(now)

    def _cut_locked(self, woken: list[Any], now: float) -> None:
        self.lease.cut(now)
        self._alone_before = self.lease.alone
        woken += self.serve_locked(now)

    def _restore_locked(self, woken: list[Any], now: float) -> int:
        self.lease.restore()
        alone = self.lease.alone - self._alone_before
        woken += self.serve_locked(now)
        return alone

    def forget(self) -> None:
        self.id = os.urandom(8).hex()
        self.lease.forget()
