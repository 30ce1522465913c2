"""PerKey: a policy of its own for each host, tenant or shard."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final

from resilient._arguments import count
from resilient._call import Call, Outcome
from resilient._edge import Proceed
from resilient._events import KeyEvicted, Listener, send
from resilient._policy import F, Policy, Spelling

_LOOKED_AT: Final = 32
"""How many of the least recently used are asked whether they are as good as
new: enough to spare what was learnt, few enough for a flood of new keys."""


class _Entry:
    """One key's policy, and how many calls are inside."""

    __slots__ = ("calls", "policy")

    def __init__(self, policy: Policy[Any]) -> None:
        self.policy = policy
        self.calls = 0


class PerKey(Policy[F]):
    """Give each key a policy of its own, made when the key is first seen.

    At most `max_keys` are kept. Room is made by dropping one that is as good
    as new, else the least recently used; never one with a call inside. So a
    flood of new keys cannot reset everybody's limit.

    ``per_key[key]`` is the key's policy.

    Args:
        factory: ``factory(key)`` makes a policy; it may run twice for one
            key when two threads ask at once, and one result is kept.
        key: ``key(*args, **kwargs)`` of the function's own arguments. Default:
            the key of the call, as a guard or an HTTP transport sets it.
        max_keys: Keys to remember.
        name: Name in events.

    Raises:
        TypeError: At the call: it has no key, the key is not hashable, or the
            factory made no policy.
    """

    __slots__ = ("_entries", "_lock", "factory", "key", "max_keys")

    def __init__(
        self,
        factory: Callable[[Any], Policy[F]],
        *,
        key: Callable[..., Hashable] | None = None,
        max_keys: int = 10_000,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if not callable(factory) or isinstance(factory, Policy):
            raise TypeError(
                f"`factory` must be a function of the key, got {factory!r}"
            )
        if key is not None and not callable(key):
            raise TypeError(f"`key` must be a function or None, got {key!r}")
        self.factory = factory
        self.key = key
        self.max_keys = count("max_keys", max_keys, minimum=1)
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    async def around(self, proceed: Proceed, call: Call) -> Outcome:
        if self.key is None:
            key = call.key
            if key is None:
                raise TypeError(
                    f"{call.name!r} has no key for {self!r}: give PerKey a"
                    " key=… function, or the block a key=…"
                )
        else:
            key = self.key(*call.args, **(call.kwargs or {}))
        entry = self._enter(key, call)
        try:
            return await entry.policy.around(proceed, call)
        finally:
            with self._lock:
                entry.calls -= 1

    def __getitem__(self, key: Hashable) -> Policy[F]:
        return self._enter(key, None).policy

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def __bool__(self) -> bool:
        # A policy, whatever it holds.
        return True

    def _enter(self, key: Hashable, call: Call | None) -> _Entry:
        entering = call is not None
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                entry.calls += entering
                return entry
        made = _Entry(self._made(key))
        with self._lock:
            # NB: somebody else may have made one meanwhile; the first stays.
            entry = self._entries.setdefault(key, made)
            entry.calls += entering
            evicted = self._evict_locked(key)
        for fresh in evicted:
            if self._listeners:
                name = None if call is None else call.name
                send(self._listeners, KeyEvicted(self.label, name, fresh))
        return entry

    def _made(self, key: Hashable) -> Policy[F]:
        policy = self.factory(key)
        if not isinstance(policy, Policy):
            raise TypeError(f"`factory` must make a policy, got {policy!r}")
        for spelling in self._accepted:
            policy.accept(spelling)
        for listener in self._listeners:
            policy.subscribe(listener)
        return policy

    def _evict_locked(self, newest: Hashable) -> list[bool]:
        """Make room; return, for each key that went, whether it was fresh."""
        evicted: list[bool] = []
        while len(self._entries) > self.max_keys:
            idle: list[Hashable] = []
            fresh = False
            for key, entry in self._entries.items():
                if entry.calls or key == newest:
                    continue
                idle.append(key)
                fresh = entry.policy.fresh()
                if fresh or len(idle) >= _LOOKED_AT:
                    break
            if not idle:
                # Every one is in use: room is made when the next key comes.
                break
            evicted.append(fresh)
            del self._entries[idle[-1] if fresh else idle[0]]
        return evicted

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        endings = [super().subscribe(listener)]
        endings += [entry.policy.subscribe(listener) for entry in self._snapshot()]

        def unsubscribe() -> None:
            for end in endings:
                end()

        return unsubscribe

    def accept(self, spelling: Spelling) -> None:
        super().accept(spelling)
        for entry in self._snapshot():
            entry.policy.accept(spelling)

    def reset(self) -> None:
        """Reset every key's policy."""
        for entry in self._snapshot():
            entry.policy.reset()

    def fresh(self) -> bool:
        return all(entry.policy.fresh() for entry in self._snapshot())

    def contains(self, other: Policy[Any]) -> bool:
        return other is self or any(
            entry.policy.contains(other) for entry in self._snapshot()
        )

    def _snapshot(self) -> list[_Entry]:
        with self._lock:
            return list(self._entries.values())
