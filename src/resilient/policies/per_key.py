"""PerKey: a policy of its own for each host, tenant or shard."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any, Final, TypeAlias, overload

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._edges.steps import entrance
from resilient._events.events import KeyEvicted, KeyOverflowed
from resilient._events.listeners import Listener, send
from resilient._policy.gate import Gate
from resilient._policy.keys import LambdaKey, call_key, check_key, stable
from resilient._policy.policy import F, Policy, Usage, living
from resilient._runtimes.runtime import Sentinel
from resilient._values.checks import count, plain
from resilient._values.locks import Lock, ReenteredError
from resilient._values.made_for import MADE_FOR, MadeFor
from resilient._values.spelling import format_value
from resilient._values.traits import Trait

_LOOKED_AT: Final = 32
"""How many of the least recently used are asked whether they are as good as
new: enough to spare what was learnt, few enough for a flood of new keys."""


_OVERFLOW: Final = Sentinel("<overflow>")


_Use: TypeAlias = "list[tuple[Hashable] | None]"
"""A call inside a key's policy: the key, while it is counted as inside."""


class PerKey(Gate[F]):
    """Give each key a policy of its own, made when the key is first seen.

    At most `max_keys` are kept. Room is made by dropping one that is as good
    as new, else the least recently used; never one with a call inside, and
    none that refuses calls now: an open circuit, a limit or budget that is
    spent. Where each is such a one, new keys share one policy, with a
    `KeyOverflowed` event. So a flood of new keys resets no limit.

    Policies that the factory makes with `shared` share the state of their key with
    all processes. The key is a str, bytes, int or tuple of these then: a store sees
    a hash of it. Dropping one resets nothing, and gives back what is on lease.

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
        TypeError: At the call: it has no key, the key is not hashable, or no
            key of shared policies, or the factory made no policy.
        ValueError: At the call: a shared policy was not made by the factory, or
            for another key.
    """

    __slots__ = (
        "_inside",
        "_left",
        "_lock",
        "_made_for",
        "_overflow",
        "_policies",
        "_spared",
        "_spellings",
        "_told",
        "_traits",
        "factory",
        "key",
        "max_keys",
    )

    metrics: tuple[tuple[str, ...], ...] = (
        ("resilient.per_key.evictions",),
        ("resilient.per_key.overflows",),
    )

    @overload
    def __init__(
        self,
        factory: Callable[[Any], Policy[F]],
        *,
        key: LambdaKey | None = None,
        max_keys: int = 10_000,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(  # type: ignore[overload-cannot-match]  # more than lambdas can be
        self,
        factory: Callable[[Any], Policy[F]],
        *,
        key: Callable[..., Hashable],
        max_keys: int = 10_000,
        name: str | None = None,
    ) -> None: ...
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
        if not _takes_a_key(factory):
            raise TypeError(
                f"`factory` must take the key, got {format_value(factory)}; a decorator"
                " needs its parentheses, @PerKey(factory)"
            )
        if key is not None and not callable(key):
            raise TypeError(f"`key` must be a function or None, got {key!r}")
        self.factory: Callable[[Any], Policy[F]] = plain("factory", factory)
        self.key: Callable[..., Hashable] | None = (
            None if key is None else plain("key", key)
        )
        self.max_keys: int = count("max_keys", max_keys, minimum=1)
        self._traits: Trait = Trait.KEYED
        self._lock = Lock()
        # Least recently used first. NB: a plain dict takes half the memory of
        # an OrderedDict, and there may be ten thousand idle keys: what only
        # some of them have stands elsewhere.
        self._policies: dict[Hashable, Policy[F]] = {}
        # Those that were to be dropped, but in use, or restrictive.
        self._spared: dict[Hashable, Policy[F]] = {}
        # What keys share for which there is no room.
        self._overflow: Policy[F] | None = None
        # How many calls are inside, for those in use.
        self._inside: dict[Hashable, int] = {}
        # Calls that have left, for the next owner of the lock. NB: who leaves
        # takes none, for the collector may close a call on the very thread that
        # has it.
        self._left: list[_Use] = []
        # Which have our listener, once there is one.
        self._told: set[Hashable] = set()
        self._spellings: tuple[tuple[Usage, bool], ...] = ()
        # NB: those of a PerKey that stands in another have both keys.
        self._made_for: MadeFor = MADE_FOR.get() or MadeFor((), {})

    def enter(self, call: Call) -> None:
        if self.key is None or call.kwargs is None:
            key = call.key
            if key is None:
                raise TypeError(
                    f"{call.name!r} has no key for {self!r}: give PerKey a"
                    " key=… function, or the block a key=…"
                )
        else:
            key = call_key(self.key, call.args, call.kwargs)
        step = call.step
        # NB: given back though nothing was counted, which does nothing.
        use: _Use = [None]
        call.way = step, use, call.way
        call.step = entrance(self._policy(key, call, use).link(step[3]))

    def leave(self, call: Call, permit: _Use, outcome: Outcome) -> Outcome:
        if outcome.ongoing is None:
            self._left.append(permit)
        else:
            # Its permits last as long as its stream, and so does its use.
            outcome.ongoing.add_release(lambda last: self._left.append(permit))
        return outcome

    def unwind(
        self, call: Call, permit: _Use, error: BaseException, leaving: bool
    ) -> None:
        self._left.append(permit)

    def __getitem__(self, key: Hashable) -> Policy[F]:
        return self._policy(key, None, None)

    def __len__(self) -> int:
        with self._lock:
            return len(self._policies) + len(self._spared)

    def __contains__(self, key: Hashable) -> bool:
        key = stable(key)
        with self._lock:
            return key in self._policies or key in self._spared

    def __bool__(self) -> bool:
        # A policy, whatever it holds.
        return True

    def _policy(self, key: Hashable, call: Call | None, use: _Use | None) -> Policy[F]:
        """Return the key's policy; in use, if there is a call, until it leaves."""
        given = key
        try:
            key = stable(key)
        except TypeError:
            raise TypeError(
                f"`key` must be hashable, got an object of {type(given)}"
            ) from None
        try:
            policy = self._lock.run(self._enter_locked, key, use)
        except ReenteredError:
            # It began in the middle of a change, on the same thread.
            policy = self._policies.get(key) or self._spared.get(key)
            if policy is None:
                raise
        if policy is not None:
            return policy
        made: Policy[F] | None = None
        dropped: list[bool] = []
        while policy is None:
            policy, full = self._lock.run(self._add_locked, key, made, use)
            if policy is None and full:
                pristine = self._make_room()
                if pristine is None:
                    return self._overflowing(given, call)
                dropped.append(pristine)
            elif policy is None:
                made = self._made(given, given)
        if self._listeners:
            self._forward_events(key, policy)
        for pristine in dropped:
            self._dropped(call, pristine=pristine)
        return policy

    def _add_locked(
        self, key: Hashable, made: Policy[F] | None, use: _Use | None
    ) -> tuple[Policy[F] | None, bool]:
        """Keep the policy that was made, if there is room; tell if there is none."""
        # NB: another call may have made one meanwhile.
        policy = self._enter_locked(key, use)
        full = len(self._policies) + len(self._spared) >= self.max_keys
        if policy is None and made is not None and not full:
            self._policies[key] = policy = made
            self._count_in_locked(key, use)
        return policy, full

    def _enter_locked(self, key: Hashable, use: _Use | None) -> Policy[F] | None:
        """Return the key's policy, if it is kept: then it is the last one used."""
        if self._left:
            self._count_out_locked()
        policy = self._policies.get(key)
        if policy is not None:
            # NB: no call between the two, which Ctrl-C could come in.
            del self._policies[key]
            self._policies[key] = policy
        elif self._spared:
            policy = self._spared.get(key)
            if policy is not None:
                self._policies[key] = policy
                del self._spared[key]
        if policy is not None:
            self._count_in_locked(key, use)
        return policy

    def _count_in_locked(self, key: Hashable, use: _Use | None) -> None:
        if use is not None:
            counted = (key,)
            self._inside[key] = self._inside.get(key, 0) + 1
            use[0] = counted

    def _overflowing(self, key: Hashable, call: Call | None) -> Policy[F]:
        """Return the policy that keys share for which there is no room."""
        if self._overflow is None:
            made = self._made(key, _OVERFLOW)
            with self._lock:
                self._overflow = self._overflow or made
            if self._listeners:
                self._forward_events(_OVERFLOW, self._overflow)
        if call is not None:
            call.count("resilient.per_key.overflows", self.placement.policy)
        if self._listeners:
            name = None if call is None else call.name
            self.emit(KeyOverflowed(self.label, name), call)
        return self._overflow

    def _count_out_locked(self) -> None:
        """Count those that have left as no longer inside."""
        while self._left:
            # NB: the first. Other threads append, without the lock.
            use = self._left[0]
            counted = use[0]
            if counted is not None:
                self._leave_locked(use, counted[0])
            del self._left[0]

    def _leave_locked(self, use: _Use, key: Hashable) -> None:
        # NB: the policy is still this key's: one in use is never dropped.
        stay = self._inside[key] - 1
        if stay:
            self._inside[key] = stay
            use[0] = None
            return
        del self._inside[key]
        use[0] = None
        policy = self._spared.get(key) if self._spared else None
        if policy is not None:
            # It was spared for being in use, and used last just now.
            self._policies[key] = policy
            del self._spared[key]

    def _made(self, key: Hashable, made_for: Hashable) -> Policy[F]:
        """Have the factory make a policy, whose shared state is of another key."""
        keys, common = self._made_for
        return MadeFor((*keys, made_for), common).make(self._make, key)

    def _make(self, key: Hashable) -> Policy[F]:
        policy = self.factory(key)
        if not isinstance(policy, Policy):
            raise TypeError(f"`factory` must make a policy, got {policy!r}")
        policy._attach_to(self)
        self._traits = Trait.KEYED | (policy.traits & Trait.INTERRUPTS)
        for usage, classified in self._spellings:
            policy.check_usage(usage, classified=classified)
        return policy

    def _make_room(self) -> bool | None:
        """Drop the policy that protects least.

        Returns:
            Whether it was as good as new; None: each protects, or is in use.
        """
        last = False
        while not last:
            looked_at, last = self._least_used()
            # NB: asked without the lock, for it is the policies' own code.
            free = [entry for entry in looked_at if not entry[1].is_restrictive()]
            fresh = next((entry for entry in free if entry[1].is_pristine()), None)
            for key, policy in [fresh] if fresh else free[:1]:
                with self._lock:
                    dropped = self._forget_locked(key, policy)
                if dropped:
                    policy._leave_store()
                    return fresh is not None
                last = False
            protecting = [entry for entry in looked_at if entry not in free]
            with self._lock:
                self._spare_locked(protecting)
        return None

    def _spare_locked(self, entries: list[tuple[Hashable, Policy[F]]]) -> None:
        """Put policies that protect now with those that are spared."""
        for key, policy in entries:
            if self._policies.get(key) is policy:
                self._spared[key] = self._policies.pop(key)

    def _forget_locked(self, key: Hashable, policy: Policy[F]) -> bool:
        """Drop a policy, unless it is in use by now, or gone."""
        for kept in (self._policies, self._spared):
            if kept.get(key) is policy and key not in self._inside:
                del kept[key]
                self._told.discard(key)
                return True
        return False

    def _least_used(self) -> tuple[list[tuple[Hashable, Policy[F]]], bool]:
        """Return some of the least recently used, and whether there are no others.

        Those in use are put with those that are spared. When no others are
        left, some of these are looked at again, by turns.
        """
        with self._lock:
            return self._least_used_locked()

    def _least_used_locked(self) -> tuple[list[tuple[Hashable, Policy[F]]], bool]:
        self._count_out_locked()
        idle: list[tuple[Hashable, Policy[F]]] = []
        for key, policy in list(islice(self._policies.items(), _LOOKED_AT)):
            if key in self._inside:
                self._spared[key] = self._policies.pop(key)
            else:
                idle.append((key, policy))
        if idle or self._policies:
            return idle, False
        for key, policy in list(islice(self._spared.items(), _LOOKED_AT)):
            self._spared[key] = self._spared.pop(key)
            if key not in self._inside:
                idle.append((key, policy))
        return idle, True

    def _dropped(self, call: Call | None, *, pristine: bool) -> None:
        if call is not None:
            call.count("resilient.per_key.evictions", self.placement.policy)
        if self._listeners:
            name = None if call is None else call.name
            self.emit(KeyEvicted(self.label, name, pristine), call)

    # -- What concerns every key's policy

    def _unregister(self) -> None:
        # Those inside were taken out when they were made.
        living.pop(id(self), None)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        unsubscribe = super().subscribe(listener)
        for key, policy in self._snapshot():
            self._forward_events(key, policy)
        return unsubscribe

    def _forward_events(self, key: Hashable, policy: Policy[F]) -> None:
        """Have the policy's events sent on to our own listeners, once."""
        if not self._own_listeners:
            return
        with self._lock:
            kept = self._policies.get(key) or self._spared.get(key) or self._overflow
            new = key not in self._told and kept is policy
            if new:
                self._told.add(key)
        if new:
            policy.subscribe(lambda event: send(self._own_listeners, event))

    def check_usage(self, usage: Usage, *, classified: bool = False) -> None:
        super().check_usage(usage, classified=classified)
        if (usage, classified) not in self._spellings:
            # For the policies yet to be made, too.
            self._spellings = (*self._spellings, (usage, classified))
        for _, policy in self._snapshot():
            policy.check_usage(usage, classified=classified)

    def check_function(self, fn: Callable[..., Any]) -> None:
        check_key(self.key, fn)

    def children(self) -> list[Policy[F]]:
        return [policy for _, policy in self._snapshot()]

    def status(self) -> dict[str, Any]:
        return {"per_key.keys": len(self)}

    def reset(self) -> None:
        """Reset every key's policy."""
        for _, policy in self._snapshot():
            policy.reset()

    def is_pristine(self) -> bool:
        return all(policy.is_pristine() for _, policy in self._snapshot())

    def is_restrictive(self) -> bool:
        return any(policy.is_restrictive() for _, policy in self._snapshot())

    @property
    def traits(self) -> Trait:  # type: ignore[override]  # its factory's policies'
        # NB: those of one factory are alike; none is made for asking.
        return self._traits

    def _snapshot(self) -> list[tuple[Hashable, Policy[F]]]:
        with self._lock:
            kept = [*self._policies.items(), *self._spared.items()]
            if self._overflow is not None:
                kept.append((_OVERFLOW, self._overflow))
            return kept


def _takes_a_key(factory: Callable[..., object]) -> bool:
    try:
        signature = inspect.signature(factory)
    except ValueError:
        # Written in C, and does not say.
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True
