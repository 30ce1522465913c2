"""A policy of this process as a store sees it, where it spends leased blocks."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable
from typing import Any

from resilient._machines.lease import Lease
from resilient._machines.shared_bucket import Answer, Ask
from resilient._runtimes import clock
from resilient._sharing.store import Link

__all__ = ["LeaseMember"]


class LeaseMember(abc.ABC):
    """Passes asks and answers between a policy's lease and a store's link.

    A subclass says what waits for an answer, and serves it.

    Args:
        link: The store's.
        key: Kind and name of what is shared.
        lease: The machine; its methods are called through `run`.
        run: Calls a function under the policy's lock, with a list for whom to
            wake afterwards and with further arguments.
    """

    __slots__ = ("__weakref__", "id", "key", "lease", "link", "run")

    def __init__(
        self,
        link: Link,
        key: str,
        lease: Lease,
        run: Callable[..., Any],
    ) -> None:
        self.link = link
        self.key = key
        self.id = os.urandom(8).hex()
        self.lease = lease
        self.run = run
        link.join(self)
        if not link.up:
            lease.cut(clock.now())

    @abc.abstractmethod
    def waiting_locked(self) -> tuple[float, float]:
        """Return the units that are waited for together, and the first's."""

    @abc.abstractmethod
    def serve_locked(self, now: float) -> list[Any]:
        """Serve who waits; return whom to wake."""

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

    # -- Called by the link

    def collect(self, now: float) -> Ask | None:
        ask: Ask | None = self.run(self._collect_locked, now)
        return ask

    def surrender(self, now: float) -> Ask | None:
        ask: Ask | None = self.run(lambda woken: self.lease.surrender(now))
        return ask

    def deliver(self, answer: Answer, now: float, *, up: bool) -> None:
        self.run(self._deliver_locked, answer, now, up)
        self.follow(now)

    def fail(self, now: float, *, sent: bool) -> None:
        self.run(self._fail_locked, now, sent)

    def cut(self, now: float) -> None:
        self.run(self._cut_locked, now)

    def restore(self, now: float) -> None:
        self.run(self._restore_locked, now)
        self.follow(now)

    def see(self, now: float, members: int) -> None:
        self.run(lambda woken: self.lease.see(now, members))

    # -- Called under the lock

    def _collect_locked(self, woken: list[Any], now: float) -> Ask | None:
        return self.lease.collect(now, *self.waiting_locked())

    def _deliver_locked(
        self, woken: list[Any], answer: Answer, now: float, up: bool
    ) -> None:
        self.lease.absorb(now, answer, up=up)
        woken += self.serve_locked(now)
        self.lease.end_round(now)

    def _fail_locked(self, woken: list[Any], now: float, sent: bool) -> None:
        self.lease.fail(now, sent=sent)
        woken += self.serve_locked(now)

    def _cut_locked(self, woken: list[Any], now: float) -> None:
        self.lease.cut(now)
        woken += self.serve_locked(now)

    def _restore_locked(self, woken: list[Any], now: float) -> None:
        self.lease.restore()
        woken += self.serve_locked(now)

    def forget(self) -> None:
        self.id = os.urandom(8).hex()
        self.lease.forget()
