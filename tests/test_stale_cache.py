"""StaleCache, in three colours."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import logging
import math
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.colours import World, in_async_colours, in_every_colour
from tests.errors import SingleError

from resilient import (
    AdaptiveThrottle,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Coalesce,
    DeadlineExceededError,
    Event,
    Fallback,
    Hedge,
    PerKey,
    Pipeline,
    RejectedError,
    ResilientWarning,
    Retry,
    StaleCache,
    StaleServed,
    Timeout,
    TimeoutExceededError,
    Verdict,
    constant,
)
from resilient.testing import virtual_time


class Source:
    """A function that answers with a number of its own, or fails."""

    def __init__(self, w: World | None = None) -> None:
        self.w = w
        self.calls = 0
        self.error: Exception | None = None

    async def function(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.calls


# -- Fresh, stale, expired


@in_every_colour
async def test_a_fresh_value_answers_at_once(w: World) -> None:
    """The function is asked again only when it is no longer fresh."""
    source = Source()
    get = w.decorate(StaleCache(10, 0), source.function)
    assert 1 == await get()
    await w.sleep(9.5)
    assert 1 == await get()
    await w.sleep(0.5)
    assert 2 == await get()
    await w.sleep(9.5)
    assert 2 == await get()
    assert 2 == source.calls


@in_every_colour
async def test_a_stale_value_answers_for_failures(w: World) -> None:
    """For so long after it was fresh; then the error is raised as it is."""
    source = Source()
    cache = StaleCache(timedelta(seconds=10), timedelta(seconds=30), name="prices")
    events: list[Event] = []
    cache.subscribe(events.append)
    get = w.decorate(cache, source.function)
    assert 1 == await get()
    source.error = error = OSError("down")
    await w.sleep(10)
    assert 1 == await get()
    await w.sleep(29.5)
    assert 1 == await get()
    await w.sleep(0.5)
    with pytest.raises(OSError, match="down") as caught:
        await get()
    assert error is caught.value
    assert 4 == source.calls
    name = "Source.function"
    assert [
        StaleServed("prices", name, 10.0, "OSError"),
        StaleServed("prices", name, 39.5, "OSError"),
    ] == events


@in_every_colour
async def test_each_call_asks_anew_once_it_is_stale(w: World) -> None:
    """A success makes it fresh again."""
    source = Source()
    get = w.decorate(StaleCache(10, 30), source.function)
    await get()
    source.error = OSError()
    await w.sleep(10)
    assert [1, 1] == [await get(), await get()]
    source.error = None
    assert [4, 4] == [await get(), await get()]


@in_every_colour
async def test_without_a_time_to_live_each_call_asks(w: World) -> None:
    """And the last answer is kept for when that fails, for ever if you like."""
    source = Source()
    get = w.decorate(StaleCache(0, math.inf), source.function)
    assert [1, 2] == [await get(), await get()]
    source.error = OSError()
    await w.sleep(1e9)
    assert 2 == await get()


@in_every_colour
async def test_the_age_is_what_it_is_when_asking_failed(w: World) -> None:
    """Not what it was before."""

    async def slow() -> int:
        await w.sleep(5)
        if w.now() > 6:
            raise OSError("down")
        return 1

    get = w.decorate(StaleCache(10, 4), slow)
    assert 1 == await get()
    await w.sleep(10)
    with pytest.raises(OSError, match="down"):
        await get()


@in_every_colour
async def test_none_is_a_value(w: World) -> None:
    """None says None."""
    calls: list[int] = []

    async def function() -> None:
        calls.append(1)

    get = w.decorate(StaleCache(10, 0), function)
    assert None is await get() is await get()
    assert [1] == calls


@in_every_colour
async def test_other_calls_have_values_of_their_own(w: World) -> None:
    """By arguments, by types, by function; or by what `key` says."""
    source = Source()
    cache = StaleCache(10, 0)
    get = w.decorate(cache, source.function)
    assert [1, 2, 3, 4] == [await get(1), await get(1.0), await get(2), await get(a=1)]
    assert [1, 2, 3, 4] == [await get(1), await get(1.0), await get(2), await get(a=1)]
    other = w.decorate(cache, Source().function)
    assert 1 == await other(1)
    keyed = w.decorate(StaleCache(10, 0, key=lambda n: n % 2), source.function)
    assert [5, 6, 5, 6] == [
        await keyed(1),
        await keyed(2),
        await keyed(3),
        await keyed(4),
    ]


@in_every_colour
async def test_at_most_so_many_are_kept(w: World) -> None:
    """The least recently used goes first."""
    source = Source()
    get = w.decorate(StaleCache(10, 0, max_entries=2), source.function)
    assert [1, 2, 1, 3] == [
        await get("a"),
        await get("b"),
        await get("a"),
        await get("c"),
    ]
    assert [1, 4] == [await get("a"), await get("b")]


@in_every_colour
async def test_values_are_kept_up_to_a_size(w: World) -> None:
    """The least recently used go first; what is larger than all is asked anew."""
    asked: list[str] = []

    async def double(text: str) -> str:
        asked.append(text)
        return text * 2

    cache = StaleCache(10, 10, max_size=8, size_of=len)
    get = w.decorate(cache, double)
    for text in ("a", "bb", "a", "ccc", "a", "bb", "a", "eeeee", "eeeee", "bb"):
        assert text * 2 == await get(text)
    # By turns 2, 6, 6, 8 (without "bb"), 8, 6 (without "ccc"), 6, then none of 10.
    assert ["a", "bb", "ccc", "bb", "eeeee", "eeeee"] == asked
    cache.reset()
    assert "aa" == await get("a")
    assert "a" == asked[-1]


@in_every_colour
async def test_a_size_is_that_of_what_is_kept(w: World) -> None:
    """It is asked once for each value, of the copy, and never of an error."""
    sized: list[object] = []

    def size_of(value: list[int]) -> float:
        sized.append(value)
        return 0.5

    source = Source()
    cache = StaleCache(
        10, 10, negative_ttl=1, max_size=1, size_of=size_of, copy=lambda value: [value]
    )
    get = w.decorate(cache, source.function)
    assert 1 == await get()
    assert [[1]] == await get()
    assert [[1]] == sized
    source.error = KeyError("k")
    with pytest.raises(KeyError):
        await get("other")
    assert [[1]] == sized


@in_every_colour
async def test_a_size_that_is_none_is_told_to_the_caller(w: World) -> None:
    """It is a bug in `size_of`, and nothing is kept."""
    source = Source()
    get = w.decorate(
        StaleCache(10, 10, max_size=1, size_of=lambda value: -value), source.function
    )
    for number in (1, 2):
        with pytest.raises(ValueError, match=f"`size_of` must be >= 0, got -{number}"):
            await get()


@in_every_colour
async def test_reset_forgets_everything(w: World) -> None:
    """Errors too."""
    source = Source()
    cache = StaleCache(10, 10, negative_ttl=5)
    get = w.decorate(cache, source.function)
    assert cache.is_pristine()
    assert 1 == await get()
    assert not cache.is_pristine()
    cache.reset()
    assert cache.is_pristine()
    source.error = OSError()
    with pytest.raises(OSError):
        await get()
    assert not cache.is_pristine()
    cache.reset()
    source.error = None
    assert 3 == await get()


# -- What it answers for


@in_every_colour
async def test_our_rejections_and_timeouts_are_answered(w: World) -> None:
    """With or without a `classify` that names something else."""
    for classify in (None, KeyError):
        source = Source()
        pipeline = Pipeline(StaleCache(0, 10), Timeout(9), classify=classify)
        get = w.decorate(pipeline, source.function)
        assert 1 == await get()
        for error in (
            CircuitOpenError("x"),
            BulkheadFullError("x"),
            DeadlineExceededError("x"),
            TimeoutExceededError("x", 1.0, 1.0),
        ):
            source.error = error
            assert 1 == await get()


@in_every_colour
async def test_an_open_circuit_inside_is_answered(w: World) -> None:
    """The function is not even asked."""
    source, breaker = Source(), CircuitBreaker()
    get = w.decorate(Pipeline(StaleCache(0, 10), breaker), source.function)
    await get()
    breaker.force_open()
    assert 1 == await get()
    assert 1 == source.calls


@in_every_colour
async def test_an_error_that_is_an_answer_forgets_what_was_kept(w: World) -> None:
    """What it said before is no longer so, whatever fails later."""
    source = Source()
    pipeline = Pipeline(StaleCache(0, 10), Timeout(9), classify=OSError)
    get = w.decorate(pipeline, source.function)
    await get()
    source.error = KeyError("gone")
    with pytest.raises(KeyError, match="gone"):
        await get()
    source.error = OSError("down")
    with pytest.raises(OSError, match="down"):
        await get()


@in_every_colour
async def test_what_is_ignored_changes_nothing(w: World) -> None:
    """It is passed on, and what was kept stays."""
    source = Source()
    verdict = Verdict.SUCCESS
    pipeline = Pipeline(StaleCache(0, 10), Timeout(9), classify=lambda _: verdict)
    get = w.decorate(pipeline, source.function)
    assert 1 == await get()
    verdict = Verdict.IGNORED
    assert 2 == await get()
    source.error = OSError("ignored")
    with pytest.raises(OSError, match="ignored"):
        await get()
    verdict = Verdict.PUSHBACK
    assert 1 == await get()


@in_every_colour
async def test_a_result_that_is_a_failure_is_answered_and_not_kept(w: World) -> None:
    """With no error to tell of."""
    source = Source()
    cache = StaleCache(0, 10)
    events: list[Any] = []
    cache.subscribe(events.append)
    pipeline = Pipeline(cache, Timeout(9), classify=lambda o: o.value != 1)
    get = w.decorate(pipeline, source.function)
    assert [1, 1, 1] == [await get(), await get(), await get()]
    assert [None, None] == [event.error_type for event in events]


@in_every_colour
async def test_on_says_what_to_answer_for(w: World) -> None:
    """It has the word, also on rejections."""
    source = Source()
    get = w.decorate(StaleCache(0, 10, on=OSError), source.function)
    await get()
    source.error = OSError("down")
    assert 1 == await get()
    source.error = CircuitOpenError("x")
    with pytest.raises(CircuitOpenError):
        await get()
    source.error = OSError("down")
    assert 1 == await get()
    source.error = KeyError("gone")
    with pytest.raises(KeyError):
        await get()
    source.error = OSError("down")
    with pytest.raises(OSError, match="down"):
        await get()


@in_every_colour
async def test_a_bug_in_a_predicate_reaches_the_caller(w: World) -> None:
    """Nothing hides it."""

    def buggy(outcome: Any) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await w.call(StaleCache(0, 10, on=buggy), Source().function)


@in_async_colours
async def test_a_cancellation_is_not_answered(w: World) -> None:
    """It counts as no failure, so no stale value stands in for it."""
    source = Source()

    async def function() -> int:
        source.calls += 1
        if source.calls > 1:
            await w.sleep(10)
        return source.calls

    get = w.decorate(Pipeline(Timeout(5), StaleCache(0, 100)), function)
    assert 1 == await get()
    with pytest.raises(TimeoutExceededError):
        await get()
    patient = w.decorate(Pipeline(StaleCache(0, 100), Timeout(5)), source.function)
    assert 3 == await patient()


# -- Copies


@in_every_colour
async def test_the_value_is_one_object_for_all(w: World) -> None:
    """Unless there is a function that copies it: then each has its own."""

    async def function() -> list[int]:
        return [1]

    shared = w.decorate(StaleCache(10, 0), function)
    assert await shared() is await shared()
    own = w.decorate(StaleCache(10, 0, copy=copy.copy), function)
    first = await own()
    first.append(2)
    second = await own()
    second.append(3)
    assert [1] == await own()


@in_every_colour
async def test_a_stale_value_is_copied_too(w: World) -> None:
    """It goes to several as well."""
    source = Source()

    async def function() -> list[int]:
        await source.function()
        return [1]

    get = w.decorate(StaleCache(0, 10, copy=copy.copy), function)
    (await get()).append(2)
    source.error = OSError()
    (await get()).append(3)
    assert [1] == await get()


# -- Negative answers


@in_every_colour
async def test_an_error_can_be_remembered(w: World) -> None:
    """Each call gets a copy, without the frames it came through."""
    source = Source()
    get = w.decorate(StaleCache(10, 0, negative_ttl=5), source.function)
    source.error = error = OSError(5, "down")
    error.__cause__ = KeyError("cause")
    raised = []
    for _ in range(3):
        with pytest.raises(OSError, match="down") as caught:
            await get()
        raised.append(caught.value)
    assert 1 == source.calls
    assert error is raised[0]
    assert 3 == len(set(map(id, raised)))
    assert [None, None] == [error.__cause__ for error in raised[1:]]
    for error in raised[1:]:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert "function" not in names
    await w.sleep(5)
    source.error = None
    assert 2 == await get()


@in_every_colour
async def test_a_stale_value_comes_before_a_remembered_error(w: World) -> None:
    """The function is spared all the same; a fresh value comes before both."""
    source = Source()
    cache = StaleCache(10, 20, negative_ttl=5)
    events: list[Any] = []
    cache.subscribe(events.append)
    get = w.decorate(cache, source.function)
    await get()
    source.error = OSError()
    await w.sleep(10)
    assert [1, 1] == [await get(), await get()]
    assert 2 == source.calls
    assert ["OSError", "OSError"] == [event.error_type for event in events]
    await w.sleep(5)
    assert 1 == await get()
    assert 3 == source.calls


@in_async_colours
async def test_a_later_success_is_better_news_than_a_remembered_error(w: World) -> None:
    """Of two calls that asked at once; it holds for as long as it is fresh."""
    answers = iter([(1, OSError()), (2, None), (0, None)])

    async def function() -> float:
        seconds, error = next(answers)
        await w.sleep(seconds)
        if error is not None:
            raise error
        return w.now()

    get = w.decorate(StaleCache(10, 0, negative_ttl=100), function)
    failed, succeeded = await w.gather(get, get)
    assert (OSError, 2.0) == (type(failed), succeeded)
    await w.sleep(10)
    assert 12.0 == await get()


@in_every_colour
async def test_an_answer_that_is_an_error_can_be_remembered_too(w: World) -> None:
    """That there is no such thing, say; with its verdict."""
    source = Source()
    seen: list[Any] = []

    def judge(outcome: Any) -> Verdict:
        seen.append(outcome.verdict)
        return Verdict.SUCCESS

    pipeline = Pipeline(
        Fallback(0, on=judge),
        Pipeline(StaleCache(10, 10, negative_ttl=5), Timeout(9), classify=OSError),
    )
    get = w.decorate(pipeline, source.function)
    source.error = KeyError("no such thing")
    for _ in range(2):
        with pytest.raises(KeyError):
            await get()
    assert 1 == source.calls
    assert [Verdict.SUCCESS] * 2 == seen


@in_every_colour
async def test_rejections_and_what_cannot_be_copied_are_not_remembered(
    w: World,
) -> None:
    """The one says nothing of the function, the other is its caller's."""
    source = Source()
    get = w.decorate(StaleCache(10, 0, negative_ttl=5), source.function)
    for error in (RejectedError("x"), SingleError()):
        source.error = error
        with pytest.raises(type(error)):
            await get()
    assert 2 == source.calls


class FewError(Exception):
    """An error class of which only `left` can be made."""

    left = 2

    def __new__(cls, *args: Any) -> Any:
        cls.left -= 1
        if cls.left < 0:
            raise ValueError
        return super().__new__(cls, *args)


@in_every_colour
async def test_an_error_that_can_be_copied_no_more_is_forgotten(w: World) -> None:
    """The function is asked again."""
    FewError.left = 2
    source = Source()
    get = w.decorate(StaleCache(10, 0, negative_ttl=5), source.function)
    source.error = FewError()
    for _ in range(2):
        with pytest.raises(FewError):
            await get()
    assert 2 == source.calls


# -- Stores


class DictStore:
    """A store as text, by the wall clock: as one outside would be."""

    def __init__(self, w: World | None) -> None:
        self.w = w
        self.kept: dict[str, tuple[str, float, float]] = {}
        self.broken = False

    def _key(self, key: Any) -> str:
        if self.broken:
            raise ConnectionError("the store is down")
        function, own = key
        return f"{function.__name__}:{own!r}"

    def _now(self) -> float:
        return 0.0 if self.w is None else 1e9 + self.w.now()

    def get(self, key: Any) -> tuple[Any, float] | None:
        text, put, end = self.kept.get(self._key(key), ("", 0.0, 0.0))
        now = self._now()
        return (json.loads(text), now - put) if now < end else None

    def set(self, key: Any, value: Any, lifetime: float) -> None:
        now = self._now()
        self.kept[self._key(key)] = json.dumps(value), now, now + lifetime

    def delete(self, key: Any) -> None:
        self.kept.pop(self._key(key), None)


class AsyncStore(DictStore):
    """The same, to be awaited."""

    async def get(self, key: Any) -> tuple[Any, float] | None:  # type: ignore[override]
        assert self.w is not None
        await self.w.sleep(0.01)
        return super().get(key)

    async def set(self, key: Any, value: Any, lifetime: float) -> None:  # type: ignore[override]
        assert self.w is not None
        await self.w.sleep(0.01)
        super().set(key, value, lifetime)

    async def delete(self, key: Any) -> None:  # type: ignore[override]
        assert self.w is not None
        await self.w.sleep(0.01)
        super().delete(key)


async def check_store(w: World, store: Any) -> None:
    """A value is fresh, then stale, then replaced, then deleted."""
    source = Source()
    cache = StaleCache(10, 30, key=lambda n: str(n), store=store, on=OSError)
    get = w.decorate(cache, source.function)
    assert [1, 1] == [await get(1), await get(1)]
    assert ["function:'1'"] == list(store.kept)
    await w.sleep(10)
    source.error = OSError()
    assert 1 == await get(1)
    source.error = None
    assert 3 == await get(1)
    await w.sleep(10)
    source.error = KeyError()
    with pytest.raises(KeyError):
        await get(1)
    assert {} == store.kept
    assert cache.is_pristine()


@in_every_colour
async def test_values_can_be_kept_elsewhere(w: World) -> None:
    """In anything that has get, set and delete."""
    await check_store(w, DictStore(w))


@in_async_colours
async def test_a_store_may_have_to_be_awaited(w: World) -> None:
    """In async calls."""
    await check_store(w, AsyncStore(w))


@in_every_colour
async def test_a_store_that_fails_is_as_good_as_empty(
    w: World,
) -> None:
    """It is logged, once; the call goes on."""
    source = Source()
    store = DictStore(w) if w.is_sync else AsyncStore(w)
    store.broken = True
    get = w.decorate(StaleCache(10, 30, store=store, name="prices"), source.function)
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("resilient")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        assert [1, 2] == [await get(), await get()]
        source.error = OSError("down")
        with pytest.raises(OSError, match="down"):
            await get()
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    assert [
        "the store of 'prices' failed to get (logged once)",
        "the store of 'prices' failed to set (logged once)",
    ] == records
    store.broken = False
    source.error = None
    assert [4, 4] == [await get(), await get()]


def test_an_async_store_cannot_serve_a_plain_function() -> None:
    """It is refused at once, not when it is first needed."""
    cache = StaleCache(10, 0, store=AsyncStore(None))
    with pytest.raises(TypeError, match="an async store cannot serve a synchronous"):
        cache(len)
    with pytest.raises(TypeError, match="an async store cannot serve a synchronous"):
        cache.call(len, "a")


def test_resetting_leaves_the_store_alone() -> None:
    """What is in it is its owner's affair."""
    store = DictStore(World("sync"))
    cache = StaleCache(10, 0, key=str, store=store)
    cache.call(abs, 1)
    cache.reset()
    assert 1 == len(store.kept)


class Noticing:
    """A value that asks the cache as it is dropped."""

    def __init__(self, cache: StaleCache) -> None:
        self.cache = cache

    def __del__(self) -> None:
        self.cache.is_pristine()
        self.cache.call(abs, 5)


@pytest.mark.parametrize("how", ["evict", "replace", "reset"])
def test_a_destructor_may_use_the_cache(how: str) -> None:
    """No lock is held while a value is dropped."""
    cache = StaleCache(10, 0, max_entries=1, name=how)
    with virtual_time() as clock:
        make = cache(lambda number: Noticing(cache))
        make(1)
        gc.collect()
        if how == "evict":
            make(2)
        elif how == "replace":
            clock.advance(10)
            make(1)
        else:
            cache.reset()


@pytest.mark.real
def test_threads_share_what_is_kept() -> None:
    """None of them sees what is not so, and the bound holds."""
    cache = StaleCache(1000, 0, max_entries=8, key=lambda n: n)
    square = cache(lambda n: n * n)
    wrong: list[int] = []

    def run(place: int) -> None:
        for turn in range(2000):
            number = (place * turn) % 12
            if square(number) != number * number:
                wrong.append(number)

    threads = [threading.Thread(target=run, args=(p,), daemon=True) for p in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert [] == wrong


class NaiveCache(RuleBasedStateMachine):
    """A cache against a dictionary that is told what happened."""

    @initialize(
        ttl=st.sampled_from([0.0, 2.0]),
        stale=st.sampled_from([1.0, 3.0]),
        negative=st.sampled_from([None, 1.5]),
    )
    def begin(self, ttl: float, stale: float, negative: float | None) -> None:
        self.time = virtual_time()
        self.clock = self.time.__enter__()
        self.ttl, self.stale, self.negative = ttl, stale, negative
        self.values: dict[int, tuple[int, float]] = {}
        self.errors: dict[int, float] = {}
        self.next = 0
        self.asked: list[int] = []
        self.fails = False
        cache = StaleCache(ttl, stale, negative_ttl=negative)
        self.get = cache(self.function)

    def teardown(self) -> None:
        if hasattr(self, "time"):
            self.time.__exit__(None, None, None)

    def function(self, number: int) -> int:
        self.asked.append(number)
        if self.fails:
            raise OSError
        self.next += 1
        return self.next

    @rule(number=st.integers(0, 2), fails=st.booleans())
    def call(self, number: int, fails: bool) -> None:
        now = self.clock.now()
        self.fails, self.asked = fails, []
        value, put = self.values.get(number, (None, -math.inf))
        age = now - put
        fresh, usable = age < self.ttl, age < self.ttl + self.stale
        remembered = now < self.errors.get(number, -math.inf)
        try:
            result: int | None = self.get(number)
        except OSError:
            result = None
        if fresh:
            assert ([], value) == (self.asked, result)
        elif remembered or fails:
            assert (value if usable else None) == result
            assert ([] if remembered else [number]) == self.asked
            if not remembered and self.negative is not None:
                self.errors[number] = now + self.negative
        else:
            assert ([number], self.next) == (self.asked, result)
            self.values[number] = (self.next, now)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


TestNaiveCache = NaiveCache.TestCase


# -- Construction and spellings


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"ttl": -1}, ValueError, "`ttl` must be >= 0 seconds, got -1"),
        (
            {"stale_if_error": -1},
            ValueError,
            "`stale_if_error` must be >= 0 seconds, got -1",
        ),
        (
            {"ttl": 0, "stale_if_error": 0},
            ValueError,
            "`stale_if_error` must be > 0 seconds where `ttl` is 0, got 0",
        ),
        (
            {"negative_ttl": 0},
            ValueError,
            "`negative_ttl` must be > 0 seconds, got 0",
        ),
        ({"max_entries": 0}, ValueError, "`max_entries` must be >= 1, got 0"),
        (
            {"max_size": 0, "size_of": len},
            ValueError,
            "`max_size` must be > 0, got 0",
        ),
        (
            {"max_size": 1, "size_of": 3},
            TypeError,
            "`size_of` must be a function, got 3",
        ),
        (
            {"max_size": 1},
            TypeError,
            "StaleCache takes `max_size` and `size_of` together: a bound, and what it"
            " is a bound of",
        ),
        (
            {"size_of": len},
            TypeError,
            "StaleCache takes `max_size` and `size_of` together: a bound, and what it"
            " is a bound of",
        ),
        (
            {"max_size": 1, "size_of": len, "store": DictStore(None)},
            TypeError,
            "`max_size` is of what is kept in memory: with a `store` it bounds nothing",
        ),
        ({"key": 3}, TypeError, "`key` must be a function or None, got 3"),
        ({"copy": 3}, TypeError, "`copy` must be a function, got 3"),
        (
            {"on": 3},
            TypeError,
            "`on` must be exception types or a function of the outcome, got 3",
        ),
        (
            {"store": 3},
            TypeError,
            "`store` must have the methods get, set and delete, got 3",
        ),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """With parameter, rule and value."""
    with pytest.raises(error) as caught:
        StaleCache(**{"ttl": 1, "stale_if_error": 1, **arguments})
    assert text == str(caught.value)


def test_its_repr_is_the_call_that_made_it() -> None:
    """Without what is as by default."""
    made = "StaleCache(60.0, 3600.0, max_entries=10, negative_ttl=1.0, name='prices')"
    assert made == repr(eval(made, {"StaleCache": StaleCache}))
    cache = StaleCache(60, 3600).with_(ttl=5)
    assert "StaleCache(5.0, 3600.0)" == repr(cache)


class Shop:
    """A method."""

    def price(self, article: str) -> float:
        return 1.0


def test_a_method_needs_a_key() -> None:
    """Or its object would be kept alive."""
    with pytest.raises(TypeError, match=r"needs a key=… for the method 'Shop\.price'"):
        StaleCache(1, 1)(Shop.price)
    keyed = StaleCache(1, 1, key=lambda self, article: article)
    assert 1.0 == keyed(Shop.price)(Shop(), "tea")


def test_a_function_that_became_a_method_is_refused_when_called() -> None:
    """What its decoration could not see."""

    def total_of(order: object) -> float:
        return 1.0

    class Order:
        total: Any = StaleCache(1, 1)(total_of)

    with pytest.raises(TypeError, match=r"needs a key=… for the method 'Order\.total'"):
        Order().total()


def test_it_has_no_meaning_for_blocks_and_generators() -> None:
    """A clear TypeError, at once."""

    def items() -> Iterator[int]:
        yield 1

    async def async_items() -> AsyncIterator[int]:
        yield 1

    cache = StaleCache(1, 1)
    for wrong in (cache.guard, cache.attempts):
        with pytest.raises(TypeError, match="use a function"):
            wrong()
    for generator in (items, async_items):
        with pytest.raises(TypeError, match="generator"):
            cache(generator)


# -- With others


@in_async_colours
async def test_with_coalesce_inside_calls_do_not_stampede(w: World) -> None:
    """One asks for all who find nothing fresh, and all who come later hit."""
    calls: list[float] = []

    async def function() -> float:
        calls.append(w.now())
        await w.sleep(1)
        return w.now()

    get = w.decorate(Pipeline(StaleCache(10, 100), Coalesce()), function)
    assert [1.0] * 5 == await w.gather(*[get] * 5)
    await w.sleep(10)
    results = await w.gather(*[get] * 5)
    assert 1 == len(set(results))
    assert 2 == len(calls)


@in_every_colour
async def test_the_answer_of_a_hedge_is_kept(w: World) -> None:
    """Also where the loser still runs, and holds its permits, when it comes."""
    seconds = iter([50, 1])
    runs = 0

    async def function() -> int:
        nonlocal runs
        runs += 1
        run = runs
        await w.sleep(next(seconds))
        return run

    policy = Pipeline(StaleCache(10, 0), Hedge(2, budget=None, max_threads=2))
    get = w.decorate(policy, function)
    assert [2, 2] == [await get(), await get()]
    assert 2 == runs
    await w.sleep(60)


@in_every_colour
async def test_a_retry_inside_has_its_tries_first(w: World) -> None:
    """Then the old value answers."""
    source = Source()
    retry = Retry(OSError, backoff=constant(1))
    get = w.decorate(Pipeline(StaleCache(0, 100), retry), source.function)
    await get()
    source.error = OSError()
    assert 1 == await get()
    assert 4 == source.calls


def test_an_order_that_defeats_itself_is_told_of() -> None:
    """With the fix."""
    cache, coalesce = StaleCache(1, 1), Coalesce()
    fallback = Fallback(None)
    with pytest.warns(ResilientWarning) as caught:
        Pipeline(cache, fallback)
    assert [
        "Fallback(None) stands inside StaleCache(1.0, 1.0), which will keep its answers"
        " as the function's own; list it before the StaleCache"
    ] == [str(warning.message) for warning in caught]
    Pipeline(fallback, cache)
    for outer, text in (
        (
            coalesce,
            "StaleCache(1.0, 1.0) stands inside Coalesce(): what it knows would wait"
            " in the queue with what it has to ask for; list it before the Coalesce",
        ),
        (
            Retry(OSError),
            "StaleCache(1.0, 1.0) stands inside Retry(OSError), which will not see"
            " the failures it answers for; list it before the Retry",
        ),
        (
            CircuitBreaker(),
            "StaleCache(1.0, 1.0) stands inside CircuitBreaker(), which takes its"
            " answers for those of the function, and refuses them while it rejects"
            " calls; list it before the CircuitBreaker",
        ),
        (
            AdaptiveThrottle(),
            "StaleCache(1.0, 1.0) stands inside AdaptiveThrottle(), which takes its"
            " answers for those of the function, and refuses them while it rejects"
            " calls; list it before the AdaptiveThrottle",
        ),
    ):
        with pytest.warns(ResilientWarning) as caught:
            Pipeline(outer, cache)
        assert [text] == [str(warning.message) for warning in caught]
        # No warning in the right order, nor from a cache that answers other errors.
        Pipeline(cache, outer)
    Pipeline(Retry(OSError), StaleCache(1, 1, on=KeyError))
    Pipeline(Retry(OSError), StaleCache(1, 0))
    Pipeline(Timeout(2), coalesce, Timeout(1))


@in_every_colour
async def test_each_key_may_have_a_cache(w: World) -> None:
    """A cache that is empty is dropped first."""
    source = Source()
    caches = PerKey(lambda key: StaleCache(10, 0), key=lambda key: key, max_keys=2)
    get = w.decorate(caches, source.function)
    assert [1, 2, 1] == [await get("a"), await get("b"), await get("a")]


def test_a_loop_and_threads_share_one_cache() -> None:
    """It belongs to none of them."""
    source = Source()
    get = StaleCache(1000, 0)(source.function)

    async def twice() -> list[int]:
        return [await get(), await get()]

    assert [1, 1] == asyncio.run(twice()) == asyncio.run(twice())
    assert 1 == source.calls
