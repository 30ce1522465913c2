"""StaleCache: answer from memory, and from old memory where asking fails."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, overload

from resilient._calls.call import Call, overdue
from resilient._calls.judging import Condition, Judge, fallback_verdict, judge_by
from resilient._calls.outcome import Outcome, Verdict
from resilient._edges.steps import Answer
from resilient._errors.chains import add_context
from resilient._errors.copies import copy_error, forget_origin
from resilient._errors.errors import is_rejection
from resilient._events.events import StaleServed, error_name
from resilient._events.listeners import log_once
from resilient._machines.freshness import EXPIRED, FRESH, Entries, freshness
from resilient._policy.gate import Gate
from resilient._policy.keys import (
    LambdaKey,
    check_key,
    key_argument,
    key_of,
    refuse_method,
    refuse_object,
    stable,
)
from resilient._policy.policy import Usage
from resilient._policy.shared import check_made_for_key, emit_of_store
from resilient._runtimes import clock
from resilient._values.checks import count, number, optional, plain
from resilient._values.checks import seconds as seconds_argument
from resilient._values.locks import Lock, ReenteredError
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from datetime import timedelta

    from resilient._sharing.store import SharedStore
    from resilient._sharing.values import Right, SharedValues

_UNSAFE = ("pickle", "_pickle", "marshal", "dill", "cloudpickle", "jsonpickle")
"""Modules that run what they read."""

CacheKey: TypeAlias = tuple[Callable[..., Any], Hashable]
"""What a store keeps values by: the function, and what `key` says of the call.
A store outside of the process makes text of both."""


class CacheStore(Protocol):
    """Where a `StaleCache` keeps its values.

    It may be asked from several threads at once. Times are ages and lifetimes
    in seconds, never moments: no two machines have the same monotonic clock.
    """

    def get(self, key: CacheKey, /) -> tuple[Any, float] | None:
        """Return a value and its age in seconds; None: it is not there."""
        ...

    def set(self, key: CacheKey, value: Any, lifetime: float, /) -> None:
        """Keep a value, of age 0, for so many seconds (`math.inf`: for ever).

        It may be dropped earlier, never later.
        """
        ...

    def delete(self, key: CacheKey, /) -> None:
        """Forget a value, if it is there."""
        ...


class AsyncCacheStore(Protocol):
    """A `CacheStore` that has to be awaited: for async functions only."""

    def get(self, key: CacheKey, /) -> Awaitable[tuple[Any, float] | None]:
        """Return a value and its age in seconds; None: it is not there."""
        ...

    def set(self, key: CacheKey, value: Any, lifetime: float, /) -> Awaitable[None]:
        """Keep a value, of age 0, for so many seconds; see `CacheStore`."""
        ...

    def delete(self, key: CacheKey, /) -> Awaitable[None]:
        """Forget a value, if it is there."""
        ...


class CacheCodec(Protocol):
    """What makes bytes of values, and values of bytes: the module `json` is one.

    A process that can write to the store chooses what `loads` is given, so it must
    not run what it reads, as `pickle` does.
    """

    def dumps(self, value: Any, /) -> bytes | str:
        """Return a value as bytes, or as a text."""
        ...

    def loads(self, content: bytes, /) -> Any:
        """Return the value that these bytes are."""
        ...


class _Memory:
    """A `CacheStore` in this process, of a bounded number of entries, and size.

    Asked in the middle of its own change, on the same thread, it has nothing
    and keeps nothing.
    """

    __slots__ = ("_entries", "_lock")

    def __init__(self, max_entries: int, max_size: float | None = None) -> None:
        self._lock = Lock()
        room = math.inf if max_size is None else max_size
        self._entries: Entries[Any] = Entries(max_entries, room)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey, /) -> tuple[Any, float] | None:
        try:
            return self._lock.run(self._get_locked, stable(key))
        except ReenteredError:
            return None

    def _get_locked(self, key: Hashable) -> tuple[Any, float] | None:
        # NB: read under the lock, or an entry could be younger than now.
        return self._entries.get(key, clock.now())

    def set(
        self,
        key: CacheKey,
        value: Any,
        lifetime: float,
        size: float = 0.0,
        age: float = 0.0,
        /,
    ) -> None:
        held = stable(key)
        try:
            gone = self._lock.run(self._set_locked, held, value, lifetime, size, age)
        except ReenteredError:
            return
        # NB: here, and not under the lock: it may have a destructor.
        del gone

    def _set_locked(
        self, key: Hashable, value: Any, lifetime: float, size: float, age: float
    ) -> list[object]:
        return self._entries.put(key, value, lifetime, clock.now() - age, size)

    def delete(self, key: CacheKey, /) -> None:
        held = stable(key)
        try:
            gone = self._lock.run(self._entries.drop, held)
        except ReenteredError:
            # NB: what is no longer so must go all the same; it is one step.
            gone = self._entries.drop(held)
        del gone

    def clear(self) -> None:
        gone = self._lock.run(self._entries.clear)
        del gone


class StaleCache(Gate):
    """Keep values for a while, and for longer in case that asking fails.

    A value younger than `ttl` answers at once: the function is not called.
    After that the caller asks again, and waits; if that fails, the old value
    answers for `stale_if_error` seconds more. Nothing runs in the background:
    concurrent callers all ask, unless a `Coalesce` stands inside.

    Only what was judged a success is kept. An error that says nothing about
    the dependency's health (a failure neither to `classify` nor to `on`) is an
    answer: it is raised, and what was kept before is forgotten.

    **The value is one object for all callers** and for the cache: what one
    changes in it is changed for all. Return what cannot be changed, or give
    ``copy=copy.deepcopy``.

    For HTTP use `Hishel <https://hishel.com>`_, which knows what responses say
    about their own freshness. This is for functions.

    Args:
        ttl: Seconds for which a value is fresh; 0: ask each time, and keep the
            last answer for when that fails.
        stale_if_error: Seconds after that, for which it answers for failures;
            0: never.
        key: ``key(*args, **kwargs)`` of the function's own arguments tells
            calls apart. Default: by all arguments and their types. Needed for
            methods, and for arguments that are not hashable.
        max_entries: Values to keep in memory; the least recently used goes
            first. Default 1000: the size of a value is not known here.
        max_size: The largest sum of the sizes of values in memory, in the unit
            of `size_of`. Room is made in the same way; a value that is larger
            is not kept. Errors and keys are not part of it.
        size_of: ``size_of(value)`` is the size of a value, ≥ 0, as it is kept;
            `len` for bytes. Asked once for each.
        negative_ttl: Seconds for which an error that the function raised (or
            a `Timeout` inside, never a rejection) is remembered and spares it
            being asked again: a stale value answers, or else the error, as a
            copy without its traceback and causes. None: never.
        copy: ``copy(value)`` makes the object that is kept, and one for each
            caller that it answers.
        on: Exception types, or a function of the outcome, to answer for.
            Default: failures, pushback, our own rejections and timeouts.
        store: Where values are kept, in the place of memory; a store that
            fails is as good as empty. What is in it is its owner's affair:
            `reset` leaves it alone.
        shared: A store. All processes that give it a cache of this `name` have
            each other's values, besides their own in memory, and while one call
            makes a value the others wait for it. `reset` leaves it alone.
        codec: With `shared`, and required there: ``codec.dumps(value)`` makes bytes
            of a value and ``codec.loads(content)`` the value, as the module
            `json` does. Never `pickle`.
        name: Name in events; required with `shared`.

    Raises:
        TypeError: On decoration: a method, and no `key`; an async store, and a
            plain function. At the call: a function that has become a method
            since, and no `key`; a key or an argument that is not hashable.

    Source: RFC 5861, section 4; RFC 2308 for negative answers.
    """

    __slots__ = (
        "_errors",
        "_judge",
        "_memory",
        "_shared",
        "_store",
        "codec",
        "copy",
        "key",
        "max_entries",
        "max_size",
        "negative_ttl",
        "on",
        "size_of",
        "stale_if_error",
        "store",
        "ttl",
    )

    @property
    def traits(self) -> Trait:  # type: ignore[override]  # it depends on arguments
        traits = Trait.ANSWERS | Trait.REMEMBERS
        absorbs = self.stale_if_error and self.on is None
        return traits | Trait.ABSORBS if absorbs else traits

    metrics: tuple[tuple[str, ...], ...] = (
        ("resilient.cache.answers", "fresh"),
        ("resilient.cache.answers", "stale"),
        ("resilient.fallbacks",),
    )

    @overload
    def __init__(
        self,
        ttl: float | timedelta,
        stale_if_error: float | timedelta,
        *,
        key: LambdaKey | None = None,
        max_entries: int = 1000,
        max_size: float | None = None,
        size_of: Callable[[Any], float] | None = None,
        negative_ttl: float | timedelta | None = None,
        copy: Callable[[Any], Any] | None = None,
        on: Condition | None = None,
        store: CacheStore | AsyncCacheStore | None = None,
        shared: SharedStore | None = None,
        codec: CacheCodec | None = None,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(  # type: ignore[overload-cannot-match]  # more than lambdas can be
        self,
        ttl: float | timedelta,
        stale_if_error: float | timedelta,
        *,
        key: Callable[..., Hashable],
        max_entries: int = 1000,
        max_size: float | None = None,
        size_of: Callable[[Any], float] | None = None,
        negative_ttl: float | timedelta | None = None,
        copy: Callable[[Any], Any] | None = None,
        on: Condition | None = None,
        store: CacheStore | AsyncCacheStore | None = None,
        shared: SharedStore | None = None,
        codec: CacheCodec | None = None,
        name: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        ttl: float | timedelta,
        stale_if_error: float | timedelta | None = None,
        *,
        key: Callable[..., Hashable] | None = None,
        max_entries: int = 1000,
        max_size: float | None = None,
        size_of: Callable[[Any], float] | None = None,
        negative_ttl: float | timedelta | None = None,
        copy: Callable[[Any], Any] | None = None,
        on: Condition | None = None,
        store: CacheStore | AsyncCacheStore | None = None,
        shared: SharedStore | None = None,
        codec: CacheCodec | None = None,
        name: str | None = None,
    ) -> None:
        # NB: None is refused below: as a decorator without parentheses it gets
        # a function as `ttl` and nothing else, and `ttl` says so.
        super().__init__(name)
        self.ttl: float = seconds_argument("ttl", ttl, infinite=True)
        self.stale_if_error: float = seconds_argument(
            "stale_if_error", stale_if_error, infinite=True
        )
        if self.ttl + self.stale_if_error == 0:
            raise ValueError(
                "`stale_if_error` must be > 0 seconds where `ttl` is 0, got"
                f" {stale_if_error!r}"
            )
        self.key: Callable[..., Hashable] | None = key_argument(key)
        self.max_entries: int = count("max_entries", max_entries, minimum=1)
        self.max_size: float | None = optional(
            number, "max_size", max_size, minimum=0, exclusive=True
        )
        self.size_of: Callable[[Any], float] | None = (
            None if size_of is None else plain("size_of", size_of, "the value")
        )
        if (max_size is None) != (size_of is None):
            raise TypeError(
                "StaleCache takes `max_size` and `size_of` together: a bound, and"
                " what it is a bound of"
            )
        if max_size is not None and store is not None:
            raise TypeError(
                "`max_size` is of what is kept in memory: with a `store` it bounds"
                " nothing"
            )
        self.negative_ttl: float | None = optional(
            seconds_argument, "negative_ttl", negative_ttl, zero=False
        )
        self.copy: Callable[[Any], Any] | None = (
            None if copy is None else plain("copy", copy, "the value")
        )
        self.on: Condition | None = on
        self._judge: Judge | None = judge_by("on", on, policy=self, each=True)
        self.store: CacheStore | AsyncCacheStore | None = store
        for verb in ("get", "set", "delete"):
            if store is not None and not callable(getattr(store, verb, None)):
                raise TypeError(
                    f"`store` must have the methods get, set and delete, got {store!r}"
                )
        self._memory = (
            _Memory(self.max_entries, self.max_size) if store is None else None
        )
        self._store: Any = self._memory if store is None else store
        self.codec: CacheCodec | None = codec
        self._shared: SharedValues | None = None
        if shared is not None or codec is not None:
            self._shared = self._share(shared, codec, name)
        # Errors stay in the process, whatever the store.
        self._errors = None if negative_ttl is None else _Memory(self.max_entries)

    def _share(
        self, shared: SharedStore | None, codec: CacheCodec | None, name: str | None
    ) -> SharedValues:
        if shared is None or codec is None or self.store is not None:
            raise TypeError(
                "StaleCache takes `shared` and `codec` together, and no `store`: a"
                " codec makes bytes of values; the module `json` is one"
            )
        for verb in ("dumps", "loads"):
            if not callable(getattr(codec, verb, None)):
                raise TypeError(
                    f"`codec` must have the methods dumps and loads, got {codec!r}"
                )
        if getattr(codec, "__name__", None) in _UNSAFE:
            raise TypeError(
                "`codec` must not run what it reads, as pickle does: a process that can"
                f" write to the store could run anything here; got {codec!r}"
            )
        from resilient._sharing.values import SharedValues

        emit = partial(emit_of_store, self)
        return SharedValues(shared, name, codec.dumps, codec.loads, emit)

    @property
    def shared(self) -> SharedStore | None:
        """The store that values are shared through."""
        return None if self._shared is None else self._shared.store

    def _unregister(self) -> None:
        check_made_for_key(self, self._shared, "the values")
        super()._unregister()

    def status(self) -> dict[str, Any]:
        return {} if self._shared is None else self._shared.status()

    def reset(self) -> None:
        """Forget everything in memory."""
        for memory in (self._memory, self._errors):
            if memory is not None:
                memory.clear()

    def is_pristine(self) -> bool:
        return not (self._memory or self._errors)

    def check_usage(self, usage: Usage, *, classified: bool = False) -> None:
        super().check_usage(usage, classified=classified)
        if usage == "sync" and inspect.iscoroutinefunction(self._store.get):
            raise TypeError(
                "an async store cannot serve a synchronous call:"
                f" {self!r} needs a plain one there"
            )

    def check_function(self, fn: Callable[..., Any]) -> None:
        if self.key is None:
            refuse_method(self, fn)
        check_key(self.key, fn)

    def enter(self, call: Call) -> Answer | None:
        key = key_of(self, self.key, call)
        if self._memory is not None:
            found = self._memory.get(key)
            if self._shared is not None and not self._suffices(found):
                right = self._shared.right_for(key, self.key is not None)
                if self._remembered(key) is None:
                    return self._found_in_fleet(call, right, self._shared)
            return self._found(call, key, found)
        kept = self._ask("get", key)
        if inspect.isawaitable(kept):
            return self._found_later(call, key, kept)
        return self._found(call, key, kept)

    async def _found_later(
        self, call: Call, key: CacheKey, kept: Awaitable[Any]
    ) -> Outcome | None:
        answer = self._found(call, key, await self._answered("get", kept))
        if answer is None or isinstance(answer, Outcome):
            return answer
        return await answer

    def _suffices(self, kept: tuple[Any, float] | None) -> bool:
        """Whether there is a fresh value."""
        ttl, stale = self.ttl, self.stale_if_error
        return kept is not None and freshness(kept[1], ttl, stale) is FRESH

    async def _found_in_fleet(
        self, call: Call, right: Right, shared: SharedValues
    ) -> Outcome | None:
        """Answer with what another call of the fleet has made, if it is fresh."""
        kept = await shared.look(call, right, self.ttl)
        own = self._ask("get", right.key)
        if kept is not None and (own is None or kept.age < own[1]):
            try:
                self._set(right.key, kept.value, kept.age)
            except Exception:
                # Of another version of the program: `size_of` does not take it.
                log_once(f"a value of {self.label!r} in the store has no size")
                kept = None
        late = None if self._suffices(kept) else overdue(call, clock.now())
        answer: Answer | None
        if late is not None:
            answer = self._judged(call, right.key, late, right, asked=False)
        else:
            # NB: with the right, which is given back in every way out.
            answer = self._found(call, right.key, kept, right)
        # NB: memory never has to be awaited.
        return cast("Outcome | None", answer)

    def _found(
        self,
        call: Call,
        key: CacheKey,
        kept: tuple[Any, float] | None,
        right: Right | None = None,
    ) -> Answer | None:
        """Answer with what is kept, if it is fresh; else have the function asked."""
        # NB: what `_suffices` asks, without a call.
        if (
            kept is not None
            and freshness(kept[1], self.ttl, self.stale_if_error) is FRESH
        ):
            call.count("resilient.cache.answers", self.placement.policy, "fresh")
            return self._answer(kept[0])
        # NB: not held meanwhile: it may be large, and is looked up again.
        del kept
        remembered = self._remembered(key)
        if remembered is not None:
            return self._judged(call, key, remembered, asked=False)
        if self.key is None:
            refuse_object(self, call)
        call.way = call.step, key if right is None else right, call.way
        call.weighs = True
        return None

    def leave(self, call: Call, permit: CacheKey | Right, outcome: Outcome) -> Answer:
        if isinstance(permit, tuple):
            self._remember(permit, outcome)
            return self._judged(call, permit, outcome, asked=True)
        self._remember(permit.key, outcome)
        return self._judged(call, permit.key, outcome, permit, asked=True)

    def unwind(
        self, call: Call, permit: Any, error: BaseException, leaving: bool
    ) -> Outcome | None:
        if self._shared is not None and not isinstance(permit, tuple):
            self._shared.free(permit)
        return None

    def _judged(
        self,
        call: Call,
        key: CacheKey,
        outcome: Outcome,
        right: Right | None = None,
        *,
        asked: bool,
    ) -> Answer:
        """Keep what the function answered, or answer for a failure."""
        judge = self._judge
        verdict = fallback_verdict(outcome, call) if judge is None else judge(outcome)
        success = verdict is Verdict.SUCCESS
        if right is not None:
            self._tell(right, outcome, success)
        if verdict is Verdict.FAILURE or verdict is Verdict.PUSHBACK:
            kept = self._ask("get", key)
            if self._memory is None and inspect.isawaitable(kept):
                return self._answer_later(outcome, kept, call)
            return self._answer_for(outcome, kept, call)
        if asked and success:
            told = self._keep(key, outcome)
            if self._memory is None and inspect.isawaitable(told):
                return self._kept_later(outcome, told)
        return outcome

    # -- Values

    def _tell(self, right: Right, outcome: Outcome, success: bool) -> None:
        """Tell the fleet what the function answered."""
        assert self._shared is not None
        if not success:
            self._shared.free(right)
        elif outcome.error is not None:
            self._shared.drop(right)
        else:
            life = self.ttl + self.stale_if_error
            self._shared.keep(right, outcome.value, life)

    def _keep(self, key: CacheKey, outcome: Outcome) -> Any:
        """Tell the store what the function answered; return what it says."""
        if outcome.error is not None:
            # It answered: what it said before is no longer so.
            return self._ask("delete", key)
        if self._errors is not None:
            # Of who asked at the same time, and heard of it earlier.
            self._errors.delete(key)
        value = outcome.value if self.copy is None else self.copy(outcome.value)
        return self._set(key, value)

    def _set(self, key: CacheKey, value: Any, age: float | None = None) -> Any:
        """Have a value kept; return what the store says. Memory alone takes an age."""
        more: list[float] = []
        if self.size_of is not None:
            more = [number("size_of", self.size_of(value), minimum=0)]
        if age is not None:
            more = [*(more or [0.0]), age]
        return self._ask("set", key, value, self.ttl + self.stale_if_error, *more)

    async def _kept_later(self, outcome: Outcome, told: Awaitable[Any]) -> Outcome:
        verb = "set" if outcome.error is None else "delete"
        await self._answered(verb, told)
        return outcome

    def _ask(self, verb: str, *args: Any) -> Any:
        """Ask the store; one that fails has nothing. It may have to be awaited."""
        try:
            return getattr(self._store, verb)(*args)
        except Exception:
            log_once(f"the store of {self.label!r} failed to {verb}")
            return None

    async def _answered(self, verb: str, answer: Awaitable[Any]) -> Any:
        """Await the answer of the store, in the same way."""
        try:
            return await answer
        except Exception:
            log_once(f"the store of {self.label!r} failed to {verb}")
            return None

    def _answer(self, value: Any) -> Outcome:
        return Outcome(value if self.copy is None else self.copy(value))

    async def _answer_later(
        self, failure: Outcome, kept: Awaitable[Any], call: Call
    ) -> Outcome:
        return self._answer_for(failure, await self._answered("get", kept), call)

    def _answer_for(
        self, failure: Outcome, kept: tuple[Any, float] | None, call: Call
    ) -> Outcome:
        """Return what is kept, if it is good enough for that; else the failure."""
        ttl, stale = self.ttl, self.stale_if_error
        if kept is None or freshness(kept[1], ttl, stale) is EXPIRED:
            return failure
        value, age = kept
        series = self.placement.policy
        call.count("resilient.cache.answers", series, "stale")
        # NB: as a `Fallback` counts, for metrics: the caller sees no error.
        call.count("resilient.fallbacks", series)
        if self._listeners:
            name = error_name(failure.error)
            event = StaleServed(self.label, call.name, age, name)
            self.emit(event, call, failure.error)
        try:
            return self._answer(value)
        except Exception as bug:
            # In `copy`: it must not hide the failure.
            if failure.error is not None:
                add_context(bug, failure.error)
            raise
        finally:
            failure.discard()

    # -- Errors

    def _remember(self, key: CacheKey, outcome: Outcome) -> None:
        error = outcome.error
        if self._errors is None or error is None or is_rejection(error):
            return
        twin = copy_error(error)
        if twin is not None:
            forget_origin(twin)
            assert self.negative_ttl is not None
            kept = (twin, outcome.verdict, outcome.retry_after)
            self._errors.set(key, kept, self.negative_ttl)

    def _remembered(self, key: CacheKey) -> Outcome | None:
        found = None if self._errors is None else self._errors.get(key)
        if found is None:
            return None
        error, verdict, retry_after = found[0]
        twin = copy_error(error)
        if twin is None:
            return None
        outcome = Outcome(None, twin)
        outcome.verdict, outcome.retry_after = verdict, retry_after
        return outcome
