"""A bulkhead of this process as its fleet's store sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient._machines.allotment import Claim, Grant
from resilient._machines.holding import LEASE, Holding
from resilient._sharing.member import SharedState
from resilient._sharing.store import SharedStore

__all__ = ["SharedSlots"]

# Until the first answer to a claim may be waited for: see `Holding.next_at`.
_SOON = 0.5


class SharedSlots(SharedState):
    """Passes claims and grants between a bulkhead and a store's link.

    Args:
        store: The store.
        name: The bulkhead's.
        limit: Slots of the fleet.
        counts: Returns how many calls run and how many wait; under the lock.
        apply: Limits the bulkhead to what it may run now, and adds the tickets
            to wake to that list; under the lock.
        run, emit: See `SharedState`.
    """

    __slots__ = ("_apply", "_counts", "holding")

    beats: bool = True

    def __init__(
        self,
        store: SharedStore,
        name: str | None,
        limit: int,
        run: Callable[..., Any],
        counts: Callable[[], tuple[int, int]],
        apply: Callable[[list[Any], float], None],
        emit: Callable[..., bool],
    ) -> None:
        super().__init__(store, "slots", name, run, emit)
        self.holding = Holding(
            limit,
            lease=store.lease or LEASE,
            patience=store.patience,
            members=store.members,
            lost=store.lost,
        )
        self._counts = counts
        self._apply = apply
        self._join(self.holding)

    @property
    def beat_at(self) -> float:  # type: ignore[override]  # not set here
        """When its next claim is due, whether or not there is a call."""
        return self.holding.next_at

    def follow(self, now: float) -> None:
        """Claim if it is time. No lock may be held."""
        self.link.poll(now)
        if now >= self.holding.next_at and self.link.up:
            # NB: what is claimed is what is so when it is collected.
            self.holding.next_at = now + _SOON
            self.link.notify(self)

    def _details(self) -> dict[str, Any]:
        return {"shared.limit": self.holding.in_force}

    def _follow_locked(self, woken: list[Any], now: float) -> None:
        self._apply(woken, now)

    # -- Called by the link

    def collect(self, now: float) -> Claim | None:
        claim: Claim | None = self.change(now, self._claim_locked, now)
        return claim

    def surrender(self, now: float) -> Claim | None:
        claim: Claim | None = self.change(now, self._last_claim_locked, now)
        return claim

    def deliver(self, answer: Grant, now: float, *, up: bool) -> None:
        self.change(now, self.holding.absorb, now, answer)

    def fail(self, now: float, *, sent: bool) -> None:
        self.change(now, self.holding.fail, now)

    def miss(self, now: float) -> None:
        self.change(now, self.holding.miss, now)

    def restore(self, now: float) -> int:
        self.change(now, self.holding.restore, now)
        return 0

    # -- Called under the lock

    def _claim_locked(self, now: float) -> Claim | None:
        return self.holding.collect(now, self.id, *self._counts())

    def _last_claim_locked(self, now: float) -> Claim | None:
        in_use, _ = self._counts()
        self.holding.forget()
        claim = self.holding.collect(now, self.id, in_use, 0)
        self.holding.forget()
        if claim is None or not claim.seq:
            return None
        return claim._replace(needs=claim.keeps, wants=claim.keeps)
