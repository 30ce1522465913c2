"""A rate limiter whose limit holds for a fleet: its queue waits for a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resilient._calls.call import Call
from resilient._machines.lease import Lease
from resilient._machines.shared_bucket import Answer, Order
from resilient._runtimes import clock
from resilient._sharing.member import LeaseMember
from resilient._sharing.store import SharedStore
from resilient.policies.rate_limiter.config import Limit, LimiterConfig
from resilient.policies.rate_limiter.queue import Queue, Ticket

__all__ = ["SharedLease", "SharedQueue"]


class SharedLease(Lease):
    """A lease that knows the queue it serves, which takes a limiter no room.

    Attributes:
        queue: The queue.
    """

    __slots__ = ("queue",)

    queue: SharedQueue


class SharedQueue(LeaseMember):
    """The queue of a limiter, as its store's link sees it.

    Args:
        store, name, run, emit: See `SharedState`.
        config: What the limiter was made with.
        queue: Returns the calls that wait for it.
        serve: Serves them, the lock being held; returns the tickets to wake.
        obey: Sets the numbers of an order, the lock being held; returns whether it
            could. The queue is served afterwards.

    Raises:
        TypeError, ValueError: It is no store, or the limit cannot be shared.
    """

    __slots__ = ("_obey", "_queue", "_serve")

    def __init__(
        self,
        store: SharedStore,
        name: str | None,
        config: LimiterConfig,
        run: Callable[..., Any],
        emit: Callable[..., bool],
        queue: Callable[[], Queue | None],
        serve: Callable[[float], list[Ticket]],
        obey: Callable[[float, Order], bool],
    ) -> None:
        self._obey = obey
        self._queue = queue
        self._serve = serve

        def lease(store: SharedStore) -> Lease:
            lease = _lease(config, store)
            lease.queue = self
            return lease

        super().__init__(store, "bucket", name, lease, run, emit)

    def waiting_locked(self) -> tuple[float, float]:
        queue = self._queue()
        return (queue.total[0], queue.first.amounts[0]) if queue else (0.0, 0.0)

    def serve_locked(self, now: float) -> list[Any]:
        woken: list[Any] = list(self._serve(now))
        return woken

    def reset(self) -> None:
        """Fill the limit of all members."""
        now = clock.now()
        self.change(now, self.lease.reset)
        self.follow(now)

    def order(self, limit: Limit) -> None:
        """Have all members keep the limit that this one has been set."""
        now = clock.now()
        self.change(now, self.lease.order, limit.rate, limit.per, limit.burst)
        self.follow(now)

    def _deliver_locked(
        self, woken: list[Any], answer: Answer, now: float, up: bool
    ) -> None:
        order = self.lease.news(answer)
        if order is not None and self._obey(now, order):
            self.lease.obeyed(order)
        super()._deliver_locked(woken, answer, now, up)

    def limit_sleep(self, ticket: Ticket, call: Call) -> None:
        """Have it look again when its deadline comes, or an answer may."""
        if not ticket.sleeps and call.deadline is None:
            # Only the first in the queue looks, and wakes the others.
            return
        until = [ticket.until, call.deadline]
        until += [self.next_delivery] if ticket.sleeps else []
        ticket.until = min(
            [moment for moment in until if moment is not None], default=None
        )


def _lease(config: LimiterConfig, store: SharedStore) -> SharedLease:
    """Return a lease on the limit that a limiter was made with."""
    if config.algorithm != "token_bucket":
        raise ValueError(
            '`algorithm` must be "token_bucket" where a limit is shared, got'
            f" {config.algorithm!r}; one of 0.9 of the rate, with 0.1 of it as"
            " `burst`, lets no more pass in any `per` seconds"
        )
    limit = config.single
    if limit is None:
        raise ValueError(
            "`limits` cannot be shared: list a RateLimiter for each of them"
        )
    return SharedLease(
        limit.rate,
        limit.per,
        limit.burst,
        cost=1.0 if config.amounts is None else config.amounts[0] or 1.0,
        lease=store.lease,
        patience=store.patience,
        members=store.members,
        lost=store.lost,
    )
