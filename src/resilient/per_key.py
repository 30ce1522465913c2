"""PerKey: a policy of its own for each host, tenant or shard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from itertools import islice
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

    __slots__ = ("calls", "policy", "told")

    def __init__(self, policy: Policy[Any]) -> None:
        self.policy = policy
        self.calls = 0
        # Whether it has our listener.
        self.told = False


class PerKey(Policy[F]):
    """Give each key a policy of its own, made when the key is first seen.

    At most `max_keys` are kept. Room is made by dropping one that is as good
    as new, else the least recently used; never one with a call inside. So a
    flood of new keys cannot reset everybody's limit.

    ``per_key[key]`` is the key's policy.

    Args:
        factory: ``factory(key)`` makes a policy; it may run twice for one
            key when two threads ask at once, and one result is kept.
        key: ``key(*args, **kwargs)`` of the function's own arguments. Default,
            and for blocks, which have none: the key of the call, as
            ``guard(key=…)`` or an HTTP transport sets it.
        max_keys: Keys to remember.
        name: Name in events.

    Raises:
        TypeError: At the call: it has no key, the key is not hashable, or the
            factory made no policy.
    """

    __slots__ = ("_entries", "_lock", "_spellings", "factory", "key", "max_keys")

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
            raise TypeError(f"`factory` must be a function of the key, got {factory!r}")
        if key is not None and not callable(key):
            raise TypeError(f"`key` must be a function or None, got {key!r}")
        self.factory = factory
        self.key = key
        self.max_keys = count("max_keys", max_keys, minimum=1)
        self._lock = threading.Lock()
        # NB: a plain dict, least recently used first, takes half the memory
        # of an OrderedDict.
        self._entries: dict[Hashable, _Entry] = {}
        self._spellings: tuple[tuple[Spelling, bool], ...] = ()

    async def around(self, proceed: Proceed, call: Call) -> Outcome:
        entry = self._enter(self._key_of(call), call)
        try:
            outcome = await entry.policy.around(proceed, call)
        except BaseException:
            self._leave(entry)
            raise
        if outcome.held is None:
            self._leave(entry)
        else:
            # Its permits last as long as its stream, and so does its use.
            outcome.held.append(lambda last: self._leave(entry))
        return outcome

    def _key_of(self, call: Call) -> Any:
        if self.key is not None and call.kwargs is not None:
            return self.key(*call.args, **call.kwargs)
        if call.key is None:
            raise TypeError(
                f"{call.name!r} has no key for {self!r}: give PerKey a"
                " key=… function, or the block a key=…"
            )
        return call.key

    def __getitem__(self, key: Hashable) -> Policy[F]:
        return self._enter(key, None).policy

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._entries

    def __bool__(self) -> bool:
        # A policy, whatever it holds.
        return True

    def _enter(self, key: Hashable, call: Call | None) -> _Entry:
        entering = call is not None
        try:
            hash(key)
        except TypeError:
            raise TypeError(
                f"`key` must be hashable, got an object of {type(key)}"
            ) from None
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                # Put back at the end: used last.
                self._entries[key] = entry
                entry.calls += entering
                return entry
        made = _Entry(self._made(key))
        with self._lock:
            # NB: somebody else may have made one meanwhile; the first stays.
            entry = self._entries.setdefault(key, made)
            entry.calls += entering
        if self._listeners:
            self._tell(entry)
        self._make_room(key, call)
        return entry

    def _leave(self, entry: _Entry) -> None:
        with self._lock:
            entry.calls -= 1

    def _made(self, key: Hashable) -> Policy[F]:
        policy = self.factory(key)
        if not isinstance(policy, Policy):
            raise TypeError(f"`factory` must make a policy, got {policy!r}")
        for spelling, classified in self._spellings:
            policy.accept(spelling, classified=classified)
        return policy

    def _make_room(self, newest: Hashable, call: Call | None) -> None:
        while len(self) > self.max_keys:
            idle = self._least_used(newest)
            if not idle:
                # Every one is in use: room is made when the next key comes.
                return
            # NB: asked without the lock, for it is the policies' own code.
            fresh = next((place for place in idle if place[1].policy.fresh()), None)
            key, entry = fresh or idle[0]
            with self._lock:
                # It may be in use by now, or be gone: then once more.
                gone = self._entries.get(key) is entry and not entry.calls
                if gone:
                    del self._entries[key]
            if gone and self._listeners:
                name = None if call is None else call.name
                send(self._listeners, KeyEvicted(self.label, name, fresh is not None))

    def _least_used(self, newest: Hashable) -> list[tuple[Hashable, _Entry]]:
        """Return the least recently used of those that no call is inside."""
        with self._lock:
            idle = (
                (key, entry)
                for key, entry in self._entries.items()
                if not entry.calls and key != newest
            )
            return list(islice(idle, _LOOKED_AT))

    # -- What concerns every key's policy

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        unsubscribe = super().subscribe(listener)
        for entry in self._snapshot():
            self._tell(entry)
        return unsubscribe

    def _tell(self, entry: _Entry) -> None:
        """Have the policy's events sent on to our listeners."""
        with self._lock:
            told, entry.told = entry.told, True
        if not told:
            entry.policy.subscribe(lambda event: send(self._listeners, event))

    def accept(self, spelling: Spelling, *, classified: bool = False) -> None:
        super().accept(spelling, classified=classified)
        if (spelling, classified) not in self._spellings:
            # For the policies yet to be made, too.
            self._spellings = (*self._spellings, (spelling, classified))
        for entry in self._snapshot():
            entry.policy.accept(spelling, classified=classified)

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
