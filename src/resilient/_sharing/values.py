"""Values that processes share: what a call asks a store, and waits for."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

from resilient._calls.call import Call
from resilient._events.listeners import log_once
from resilient._machines.shared_value import Found, StoreClock, ValueAsk
from resilient._runtimes import clock
from resilient._runtimes.sync import NO_WAITER, can_park
from resilient._sharing.keys import key_hash, key_text
from resilient._sharing.member import SharedState
from resilient._sharing.store import Crew, SharedStore
from resilient._values.callables import name_of

__all__ = ["LARGEST", "RIGHT", "FleetValue", "Right", "SharedValues"]

LARGEST: Final = 65_536
"""Bytes of a value that is shared: an exchange is shared by all policies, and
sixteen of these take a tenth of a second on a slow network."""

RIGHT: Final = 5.0
"""Seconds of the right to make a value anew, where the store has no `lease`."""

_LONGEST: Final = 30 * 86_400.0
"""Seconds for which a value is kept in a store at most."""

_MOST: Final = 64
"""Values on their way to a store, of one policy; more are not sent."""

# Seconds between two looks of a call that waits for another's value.
_FIRST_PAUSE: Final = 0.02
_LAST_PAUSE: Final = 0.25


class FleetValue(NamedTuple):
    """A value that another call has made, and its age in seconds."""

    value: Any
    age: float


class Right:
    """A call that makes a value, and tells the fleet.

    Attributes:
        key: What the process keeps the value by.
        name: What the store does.
        id: What tells the call from others.
        held: Whether it has the right that one call of the fleet has.
        over: Whether it has told the fleet how that went.
    """

    __slots__ = ("__weakref__", "held", "id", "key", "name", "over")

    def __init__(self, key: Any, name: str) -> None:
        self.key: Any = key
        self.name: str = name
        self.id: str = os.urandom(8).hex()
        self.held: bool = False
        self.over: bool = False


class SharedValues(SharedState):
    """The cache of one process, as its store's link sees it.

    Args:
        store, name, emit: See `SharedState`.
        dumps, loads: Make bytes of values, and values of bytes; see `CacheCodec`.
    """

    __slots__ = (
        "_alone",
        "_alone_before",
        "_clock",
        "_dumps",
        "_loads",
        "_looking",
        "_under_way",
        "_waiting",
    )

    def __init__(
        self,
        store: SharedStore,
        name: str | None,
        dumps: Callable[[Any], bytes | str],
        loads: Callable[[bytes], Any],
        emit: Callable[..., bool],
    ) -> None:
        super().__init__(store, "cache", name, _run, emit)
        self._dumps = dumps
        self._loads = loads
        self._clock = StoreClock()
        self._alone = self._alone_before = 0
        # NB: each is changed in one step, for there is no lock.
        self._waiting: set[_Request] = set()
        self._under_way: set[_Request] = set()
        # By what is looked for, and the task or thread.
        self._looking: WeakValueDictionary[tuple[str, Hashable], Right]
        self._looking = WeakValueDictionary()
        self._join(self._clock)

    @property
    def right(self) -> float:
        """Seconds for which one call of the fleet may make a value."""
        return self.store.lease or RIGHT

    def right_for(self, key: tuple[Callable[..., Any], Hashable], own: bool) -> Right:
        """Return what a call is that may have to make the value of a key.

        Args:
            key: The function, and what tells its calls apart.
            own: Whether that is what the user's `key` returned.

        Raises:
            TypeError: Not all processes would spell it alike.
        """
        function, made = key
        spelled: Any = made if own else _without_types(made)
        whole = f"{getattr(function, '__module__', '')}.{name_of(function)}", spelled
        spell = key_text if self.store.plain_keys else key_hash
        return Right(key, f"{self.key}:{spell(whole, self.link.salt)}")

    # -- A call that lacks a value

    async def look(self, call: Call, right: Right, ttl: float) -> FleetValue | None:
        """Return the value of another call, or have this one make it.

        While another call of the fleet makes it anew, it waits for that: as long as
        the right to do so is good for. It waits for the store no longer than its
        patience.

        Args:
            call: The call.
            right: Is held afterwards, if the call has the right.
            ttl: Seconds; a value of that age is to be made anew.

        Returns:
            None: there is none, or the store does not tell; an old one where no
            newer one came in time.
        """
        looking = right.name, call.runtime.task_or_thread()
        outer = self._looking.get(looking)
        if outer is not None and not outer.over:
            # NB: a call from inside that one, which would wait for itself.
            return None
        self._looking[looking] = right
        until = clock.now() + self.right
        if call.deadline is not None:
            until = min(until, call.deadline)
        pause = _FIRST_PAUSE
        while True:
            answer = await self._ask(call, right, ttl)
            if answer is None:
                self._alone += 1
                return None
            found, age = answer
            right.held = found.granted == 1.0
            known = found.content is not None
            believed = known and self._clock.believes(found)
            left = until - clock.now()
            if right.held or left <= 0.0 or (known and (age < ttl or not believed)):
                return self._decoded(found, age) if believed else None
            await call.runtime.sleep(min(pause, left))
            pause = min(2.0 * pause, _LAST_PAUSE)

    def _decoded(self, found: Found, age: float) -> FleetValue | None:
        assert found.content is not None
        try:
            return FleetValue(self._loads(found.content), age)
        except Exception:
            log_once(f"a value of {self.key!r} in the store cannot be decoded")
            return None

    async def _ask(
        self, call: Call, right: Right, ttl: float
    ) -> tuple[Found, float] | None:
        """Return what the store has, and its age; None: no answer in time."""
        began = clock.now()
        self.link.poll(began)
        if not self.link.up or not can_park(call.runtime):
            return None
        latest = began + self.store.patience
        if call.deadline is not None:
            latest = min(latest, call.deadline)
        ask = ValueAsk("look", right.id, min(ttl, _LONGEST), self.right)
        request = _Request(self, right.name, ask, call.runtime.waiter(call))
        self._waiting.add(request)
        try:
            self.link.notify(request)
            while not request.ended and clock.now() < latest:
                moments = (latest, self.link.next_delivery or latest)
                await call.runtime.park(request.waiter, min(moments))
                self.link.poll(clock.now())
        except BaseException:
            self._waiting.discard(request)
            request.give_up()
            raise
        self._waiting.discard(request)
        if request.found is None:
            request.give_up()
            return None
        return request.found, request.found.age + (clock.now() - request.sent)

    # -- A call that has made one

    def keep(self, right: Right, value: Any, life: float) -> None:
        """Tell the fleet of a value that has just been made. Never blocks, or fails."""
        right.over = True
        time = self._clock.time_of(clock.now())
        content = self._encoded(value)
        if content is None or time is None:
            self.free(right)
            return
        life = min(life, _LONGEST)
        ask = ValueAsk("keep", right.id, made=time, life=life, content=content)
        self.send(right.name, ask)

    def _encoded(self, value: Any) -> bytes | None:
        try:
            made = self._dumps(value)
            content = made.encode() if isinstance(made, str) else bytes(made)
        except Exception:
            log_once(f"a value of {self.key!r} cannot be encoded, so is not shared")
            return None
        if len(content) > LARGEST:
            log_once(f"a value of {self.key!r} is not shared: it is > {LARGEST} bytes")
            return None
        return content

    def drop(self, right: Right) -> None:
        """Tell the fleet that there is no value any more."""
        right.over = True
        self.send(right.name, ValueAsk("drop", right.id))

    def free(self, right: Right) -> None:
        """Let another call make the value."""
        right.over = True
        if right.held:
            self.send(right.name, ValueAsk("free", right.id))

    def send(self, name: str, ask: ValueAsk) -> None:
        """Tell the store, without waiting for its answer."""
        self.link.poll(clock.now())
        if self.link.up and len(self._under_way) < _MOST:
            request = _Request(self, name, ask, NO_WAITER)
            self._under_way.add(request)
            self.link.notify(request)

    # -- Called by the link

    def heard(self, request: _Request, now: float, found: Found) -> None:
        """Take note of an answer."""
        self._clock.hear(request.sent, now, found.time)

    def over(self, request: _Request) -> None:
        """Take note that a request is not under way any more."""
        self._under_way.discard(request)

    def collect(self, now: float) -> None:
        """Its calls ask."""

    def surrender(self, now: float) -> None:
        """What it holds ends by itself."""

    def deliver(self, answer: Any, now: float, *, up: bool) -> None:
        raise NotImplementedError  # pragma: no cover - it asks nothing itself

    def fail(self, now: float, *, sent: bool) -> None:
        """It has asked nothing; its calls are told."""

    def cut(self, now: float) -> None:
        self._alone_before = self._alone
        super().cut(now)
        for request in [*self._waiting]:
            request.fail(now, sent=True)

    def restore(self, now: float) -> int:
        self.change(now, self._clock.restore)
        self._under_way.clear()
        return self._alone - self._alone_before

    def forget(self) -> None:
        super().forget()
        self._waiting.clear()
        self._under_way.clear()

    def _details(self) -> dict[str, Any]:
        return {"shared.alone": self._alone}


class _Request:
    """One ask of one call; see `Asker`.

    Attributes:
        sent: When it was collected.
        found: The answer, once it has `ended` well.
        given_up: Whether no call waits for it any more.
    """

    __slots__ = (
        "_ask",
        "_values",
        "crew",
        "ended",
        "found",
        "given_up",
        "key",
        "sent",
        "waiter",
    )

    weight: int = 16

    def __init__(
        self, values: SharedValues, name: str, ask: ValueAsk, waiter: Any
    ) -> None:
        self.key: str = name
        self.crew: Crew = values.crew
        self.waiter: Any = waiter
        self.sent: float = -math.inf
        self.found: Found | None = None
        self.ended: bool = False
        self.given_up: bool = False
        self._values = values
        self._ask = ask

    def give_up(self) -> None:
        """Wait for no answer; a right that it brings is given back."""
        self.given_up = True
        if self.found is not None:
            self._give_back(self.found)

    def _give_back(self, found: Found) -> None:
        if found.granted == 1.0:
            self._values.send(self.key, ValueAsk("free", self._ask.id))

    def collect(self, now: float) -> ValueAsk | None:
        self.sent = now
        return None if self.given_up else self._ask

    def deliver(self, answer: Found, now: float, *, up: bool) -> None:
        self._values.over(self)
        self._values.heard(self, now, answer)
        self.found = answer
        self.ended = True
        if self.given_up:
            self._give_back(answer)
        self.waiter.wake()

    def fail(self, now: float, *, sent: bool) -> None:
        self._values.over(self)
        self.ended = True
        self.waiter.wake()

    def see(self, now: float, members: int) -> None:
        self._values.see(now, members)


def _run(act: Callable[..., Any], *args: Any) -> Any:
    """Change the machine; of what calls read, each part is changed in one step."""
    return act([], *args)


def _without_types(made: object) -> Any:
    """Return a key of all arguments with names in the place of their types."""
    parts: Any = made
    if isinstance(made, tuple):
        return tuple([_without_types(part) for part in parts])
    if isinstance(made, type):
        return f"{made.__module__}.{made.__qualname__}"
    return "" if made is None else made
