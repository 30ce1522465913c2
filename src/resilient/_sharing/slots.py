"""A bulkhead of this process as its fleet's store sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from resilient._events.events import StoreBack, StoreLost
from resilient._machines.allotment import Claim, Grant
from resilient._machines.holding import LEASE, Holding
from resilient._runtimes import clock
from resilient._sharing.store import (
    SharedStore,
    check_store,
    shared_name,
    store_status,
)

__all__ = ["SharedSlots"]

# Until the first answer to a claim may be waited for: see `Holding.next_at`.
_SOON = 0.5


class SharedSlots:
    """Passes claims and grants between a bulkhead and a store's link.

    Args:
        store: The store.
        name: The bulkhead's.
        limit: Slots of the fleet.
        run: Calls a function under the bulkhead's lock, with a list for the
            tickets to wake afterwards and with further arguments.
        counts: Returns how many calls run and how many wait; under the lock.
        apply: Limits the bulkhead to what it may run now, and adds the tickets
            to wake to that list; under the lock.
        emit: Tells the bulkhead's listeners of an event: see `LeaseMember`.

    Raises:
        TypeError, ValueError: It is no store, or no name.
    """

    __slots__ = (
        "__weakref__",
        "_apply",
        "_counts",
        "_emit",
        "_run",
        "holding",
        "id",
        "key",
        "link",
        "store",
    )

    def __init__(
        self,
        store: SharedStore,
        name: str | None,
        limit: int,
        run: Callable[..., Any],
        counts: Callable[[], tuple[int, int]],
        apply: Callable[[list[Any], float], None],
        emit: Callable[..., None],
    ) -> None:
        check_store(store)
        self.store = store
        self.key = "slots:" + shared_name(name)
        self.id = os.urandom(8).hex()
        self.link = store.link
        self.holding = Holding(
            limit,
            lease=store.lease or LEASE,
            patience=store.patience,
            members=store.members,
            lost=store.lost,
        )
        self._run = run
        self._counts = counts
        self._apply = apply
        self._emit = emit
        self.link.join(self)
        if not self.link.up:
            self.holding.cut(clock.now())

    @property
    def beat_at(self) -> float:
        """When its next claim is due, whether or not there is a call."""
        return self.holding.next_at

    def follow(self, now: float) -> None:
        """Claim if it is time. No lock may be held."""
        self.link.poll(now)
        if now >= self.holding.next_at and self.link.up:
            # NB: what is claimed is what is so when it is collected.
            self.holding.next_at = now + _SOON
            self.link.notify(self)

    def status(self) -> dict[str, Any]:
        """Return what `health` and the metrics show of the sharing."""
        holding = self.holding
        return {
            "shared.limit": holding.in_force,
            **store_status(
                is_cut=holding.is_cut,
                members=holding.members,
                exchanges=holding.exchanges,
                seconds=holding.exchange_time,
            ),
        }

    # -- Called by the link

    def collect(self, now: float) -> Claim | None:
        claim: Claim | None = self._run(self._collect_locked, now)
        return claim

    def surrender(self, now: float) -> Claim | None:
        claim: Claim | None = self._run(self._surrender_locked, now)
        return claim

    def deliver(self, answer: Grant, now: float, *, up: bool) -> None:
        self._run(self._then_apply_locked, now, self.holding.absorb, now, answer)

    def fail(self, now: float, *, sent: bool) -> None:
        self._run(self._then_apply_locked, now, self.holding.fail, now)

    def cut(self, now: float, reason: str) -> None:
        self._run(self._then_apply_locked, now, self.holding.cut, now)
        self._emit(StoreLost, reason)

    def restore(self, now: float, seconds: float) -> None:
        self._run(self._then_apply_locked, now, self.holding.restore, now)
        self._emit(StoreBack, seconds, 0)

    def see(self, now: float, members: int) -> None:
        self.holding.see(now, members)

    def forget(self) -> None:
        self.id = os.urandom(8).hex()
        self.holding.forget()

    # -- Called under the lock

    def _collect_locked(self, woken: list[Any], now: float) -> Claim | None:
        claim = self.holding.collect(now, self.id, *self._counts())
        self._apply(woken, now)
        return claim

    def _surrender_locked(self, woken: list[Any], now: float) -> Claim | None:
        in_use, _ = self._counts()
        self.holding.forget()
        claim = self.holding.collect(now, self.id, in_use, 0)
        self.holding.forget()
        self._apply(woken, now)
        if claim is None or not claim.seq:
            return None
        return claim._replace(needs=claim.keeps, wants=claim.keeps)

    def _then_apply_locked(
        self, woken: list[Any], now: float, act: Callable[..., None], *args: Any
    ) -> None:
        act(*args)
        self._apply(woken, now)
