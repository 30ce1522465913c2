"""What a policy of this process shares, as the store's link sees it."""

from __future__ import annotations

import abc
import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from resilient._events.events import LimitLowered
from resilient._machines.lease import Lease
from resilient._machines.shared_bucket import Answer, Ask
from resilient._runtimes import clock
from resilient._sharing.keys import key_hash, key_text
from resilient._sharing.store import (
    Crew,
    Link,
    SharedStore,
    check_store,
    shared_name,
)
from resilient._values.made_for import MADE_FOR

__all__ = ["LeaseMember", "SharedState"]


class Machine(Protocol):
    """What decides for one member: a lease, a holding or a delegate."""

    members: int
    exchanges: int
    exchange_time: float

    @property
    def is_cut(self) -> bool: ...

    def cut(self, now: float, /) -> None: ...

    def see(self, now: float, members: int) -> None: ...

    def forget(self) -> None: ...


class SharedState(abc.ABC):
    """One policy of one process, as a member of a fleet.

    A subclass passes what its machine asks and is answered, and says what
    follows from a change of the machine.

    Args:
        store: The store.
        kind: What is shared: "bucket", "budget", "circuit" or "slots".
        name: The policy's.
        run: Calls a function under the policy's lock, with a list for the
            tickets to wake afterwards and with further arguments.
        emit: Tells the policy's listeners of an event, if there are any, and
            returns that: its type, and its values but for the policy and the call.

    Raises:
        TypeError, ValueError: It is no store, or no name; or it is made for a key
            that has no hash.
    """

    __slots__ = (
        "__weakref__",
        "crew",
        "emit",
        "id",
        "key",
        "link",
        "machine",
        "run",
        "store",
    )

    beat_at: float = math.inf
    beats: bool = False
    weight: int = 1
    machine: Machine

    def __init__(
        self,
        store: SharedStore,
        kind: str,
        name: str | None,
        run: Callable[..., Any],
        emit: Callable[..., bool],
    ) -> None:
        check_store(store)
        self.store: SharedStore = store
        self.link: Link = store.link
        whole = f"{kind}:{shared_name(name)}"
        self.key: str = self._key_now(whole)
        made_for = MADE_FOR.get()
        if made_for is None:
            self.crew: Crew = Crew(whole)
        else:
            self.crew = made_for.common.setdefault((self.link, whole), Crew(whole))
        self.id: str = os.urandom(8).hex()
        self.run: Callable[..., Any] = run
        self.emit: Callable[..., bool] = emit

    def _key_now(self, whole: str) -> str:
        """Return what is shared by a policy that is made now."""
        made_for = MADE_FOR.get()
        if made_for is None:
            return whole
        spell = key_text if self.store.plain_keys else key_hash
        return f"{whole}:{spell(made_for.keys, self.link.salt)}"

    @property
    def is_for_a_key(self) -> bool:
        """Whether it is for one key of a PerKey."""
        return self.key != self.crew.key

    @property
    def is_for_this_key(self) -> bool:
        """Whether it is for the key that a PerKey makes a policy for now."""
        return self.key == self._key_now(self.crew.key)

    def _join(self, machine: Machine) -> None:
        """Be served by the link from now on."""
        self.machine = machine
        self.link.join(self)
        crew = self.crew
        if crew.members is not None:
            machine.see(crew.counted_from, crew.members)
        if not self.link.up:
            machine.cut(clock.now())

    def leave(self) -> None:
        """Give back what is held for a key that a PerKey drops."""
        if self.is_for_a_key:
            self.link.leave(self)

    def status(self) -> dict[str, Any]:
        """Return what `health` and the metrics show of the sharing."""
        machine = self.machine
        return {
            "shared.store": "lost" if machine.is_cut else "up",
            **self._details(),
            "store.up": int(not machine.is_cut),
            "store.members": machine.members,
            "store.exchanges": machine.exchanges,
            "store.exchange.time": machine.exchange_time,
        }

    @abc.abstractmethod
    def _details(self) -> dict[str, Any]:
        """Return what the status shows of this kind alone."""

    def change(self, now: float, act: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the machine under the policy's lock; see what follows."""
        return self.run(self._change_locked, now, act, *args)

    def _change_locked(
        self, woken: list[Any], now: float, act: Callable[..., Any], *args: Any
    ) -> Any:
        result = act(*args)
        self._follow_locked(woken, now)
        return result

    def _follow_locked(  # noqa: B027 - of a circuit, nothing follows here
        self, woken: list[Any], now: float
    ) -> None:
        """Wake the calls that can go on after a change of the machine."""

    # -- Called by the link

    @abc.abstractmethod
    def collect(self, now: float) -> Any: ...

    @abc.abstractmethod
    def surrender(self, now: float) -> Any: ...

    @abc.abstractmethod
    def deliver(self, answer: Any, now: float, *, up: bool) -> None: ...

    @abc.abstractmethod
    def fail(self, now: float, *, sent: bool) -> None: ...

    def cut(self, now: float) -> None:
        self.change(now, self.machine.cut, now)

    def miss(self, now: float) -> None:  # noqa: B027 - what `cut` did is enough
        """Learn that the store did not answer, the first time or again."""

    @abc.abstractmethod
    def restore(self, now: float) -> int: ...

    def see(self, now: float, members: int) -> None:
        # NB: without the lock: the link's thread alone calls it.
        self.machine.see(now, members)

    def forget(self) -> None:
        self.id = os.urandom(8).hex()
        self.crew.forget()
        self.machine.forget()


class LeaseMember(SharedState):
    """Passes asks and answers between a policy's lease and a store's link.

    A subclass says what waits for an answer, and serves it.

    Args:
        store, kind, name, run, emit: See `SharedState`.
        lease: Makes the machine for the store; its methods are called through
            `run`.
    """

    __slots__ = ("_alone_before", "lease")

    def __init__(
        self,
        store: SharedStore,
        kind: str,
        name: str | None,
        lease: Callable[[SharedStore], Lease],
        run: Callable[..., Any],
        emit: Callable[..., bool],
    ) -> None:
        super().__init__(store, kind, name, run, emit)
        self.lease: Lease = lease(store)
        self._alone_before = 0
        self._join(self.lease)

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

    def _details(self) -> dict[str, Any]:
        lease = self.lease
        return {
            "shared.alone": lease.alone,
            "shared.booked": lease.booked,
            "shared.unused": lease.unused,
        }

    def _follow_locked(self, woken: list[Any], now: float) -> None:
        woken += self.serve_locked(now)

    # -- Called by the link

    def collect(self, now: float) -> Ask | None:
        ask: Ask | None = self.run(self._collect_locked, now)
        return ask

    def surrender(self, now: float) -> Ask | None:
        ask: Ask | None = self.run(self._surrender_locked, now)
        return ask

    def deliver(self, answer: Answer, now: float, *, up: bool) -> None:
        before = self.lease.lowered
        self.run(self._deliver_locked, answer, now, up)
        lowered = self.lease.lowered
        if lowered != before and self.crew.is_news(lowered):
            assert lowered is not None
            self.emit(LimitLowered, *lowered)
        self.follow(now)

    def fail(self, now: float, *, sent: bool) -> None:
        self.change(now, partial(self.lease.fail, now, sent=sent))

    def cut(self, now: float) -> None:
        self._alone_before = self.lease.alone
        super().cut(now)

    def restore(self, now: float) -> int:
        self.change(now, self.lease.restore)
        alone = self.lease.alone - self._alone_before
        self.follow(now)
        return alone

    # -- Called under the lock

    def _collect_locked(self, woken: list[Any], now: float) -> Ask | None:
        return self.lease.collect(now, *self.waiting_locked())

    def _surrender_locked(self, woken: list[Any], now: float) -> Ask | None:
        return self.lease.surrender(now)

    def _deliver_locked(
        self, woken: list[Any], answer: Answer, now: float, up: bool
    ) -> None:
        """Take an answer, and serve the calls that wait for it."""
        self.lease.absorb(now, answer, up=up)
        woken += self.serve_locked(now)
        self.lease.end_round(now)
