"""Uses of the public API that both type checkers must understand; never run.

`assert_type` fails when a checker infers anything else, strict mode when it
infers nothing, and an ignored error that is none is an error itself.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, assert_type

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    AdmissionPolicy,
    AsyncCacheStore,
    Attempt,
    Attempts,
    Backoff,
    Balance,
    Bulkhead,
    BulkheadFullError,
    CacheCodec,
    CacheStore,
    Call,
    CallAbandoned,
    CallCoalesced,
    CallRejected,
    Check,
    CircuitBreaker,
    CircuitChanged,
    CircuitNoted,
    CircuitOpenError,
    CircuitState,
    Coalesce,
    ConcurrencyLimit,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    DiscoveryFailed,
    DrainEnded,
    Eject,
    Endpoint,
    EndpointChecked,
    Event,
    Fallback,
    FallbackUsed,
    Gradient,
    Guard,
    Hedge,
    HedgeLaunched,
    HedgeWon,
    KeyEvicted,
    KeyOverflowed,
    Limit,
    LimitChanged,
    LimitLowered,
    Outcome,
    PanicBegan,
    PanicEnded,
    PerKey,
    PermitWaited,
    Pipeline,
    Policy,
    Priority,
    RateLimitedError,
    RateLimiter,
    RejectedError,
    ResilientError,
    ResilientWarning,
    RetriesExhausted,
    Retry,
    RetryBudget,
    RetryCancelled,
    RetryScheduled,
    StaleCache,
    StaleServed,
    StoreBack,
    StoreLost,
    ThrottledError,
    TimedOut,
    Timeout,
    TimeoutExceededError,
    Trait,
    Vegas,
    Verdict,
    Wait,
    WarningRaised,
    WorkerCrashed,
    calls,
    constant,
    current_call,
    current_deadline,
    deadline_after,
    decorrelated,
    delays,
    events,
    exponential,
    health,
    linear,
    priority,
    remaining,
    subscribe,
    telemetry,
)
from resilient.discovery import Source, dns, poll, srv
from resilient.httpx2 import http_check
from resilient.supervision import Stopping, Supervisor
from resilient.testing import MemoryStore as SharedMemory

pipeline = Pipeline(Timeout(10), Retry(ConnectionError), CircuitBreaker(), Bulkhead(5))


# A decorated function keeps its exact signature, keywords and defaults included.


@pipeline
def function(number: int, *, text: str = "") -> str:
    return f"{number}{text}"


@pipeline
async def coroutine_function(number: int, *, text: str = "") -> str:
    return f"{number}{text}"


@pipeline
def generator(number: int) -> Iterator[int]:
    yield number


@pipeline
async def async_generator(number: int) -> AsyncIterator[int]:
    yield number


class Shop:
    @pipeline
    def price(self, article: str) -> float:
        return float(len(article))

    @pipeline
    async def price_async(self, article: str) -> float:
        return float(len(article))

    @classmethod
    @pipeline
    def named(cls, name: str) -> str:
        return name

    @staticmethod
    @pipeline
    def open(hour: int) -> bool:
        return hour > 8


class Adder:
    def __call__(self, number: int) -> float:
        return number + 0.5


@Retry(ConnectionError, TimeoutError, attempts=5)
def alone(number: int) -> str:
    return str(number)


def signatures() -> None:
    assert_type(function(1, text="a"), str)
    assert_type(generator(1), Iterator[int])
    assert_type(async_generator(1), AsyncIterator[int])
    assert_type(Shop().price("tea"), float)
    assert_type(Shop.named("tea"), str)
    assert_type(Shop.open(9), bool)
    assert_type(alone(1), str)
    assert_type(pipeline(Adder())(1), float)
    assert_type(pipeline(functools.partial(function, 1))(), str)
    assert_type(pipeline(Shop().price)("tea"), float)

    function("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    function(1, texts="")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def signatures_async() -> None:
    pending = coroutine_function(1, text="a")
    assert_type(await pending, str)
    assert_type(await Shop().price_async("tea"), float)
    async for item in async_generator(1):
        assert_type(item, int)


# `call` and `acall` take a function's own arguments and return its own result.


def spellings() -> None:
    assert_type(pipeline.call(function, 1, text="a"), str)

    pipeline.call(function, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    for attempt in assert_type(pipeline.attempts(key="k"), Attempts):
        with assert_type(attempt, Attempt) as call:
            assert_type(call, Call)
            assert_type(attempt.number, int)
            assert_type(function(1), str)

    with assert_type(Timeout(1).guard(key="k"), Guard) as call:
        call.result = 1
        assert_type(current_call(), Call)
        assert_type(remaining(), float | None)
        assert_type(current_deadline(), float | None)
        assert_type(current_call().priority, Priority)
        assert_type(current_call().shed_rank, float)
    with deadline_after(timedelta(seconds=1)), priority("batch", key="k"):
        pass
    priority("urgent")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def narrowed() -> int:
    with pipeline.guard():
        return 1  # a guard swallows nothing: no return is missing below


async def spellings_async() -> None:
    assert_type(await pipeline.acall(coroutine_function, 1, text="a"), str)
    assert_type(await pipeline.acall(lambda: coroutine_function(1)), str)
    assert_type(await pipeline.acall(asyncio.ensure_future, coroutine_function(1)), str)

    async for attempt in pipeline.attempts():
        async with attempt as call:
            assert_type(call.attempt, int)
            assert_type(await coroutine_function(1), str)
        with attempt:
            pass

    async with Bulkhead(1).guard() as call:
        assert_type(call.deadline, float | None)


# A Fallback adds the type of its answer, alone, in pipelines and per key.


@Fallback(None)
def maybe(number: int) -> str:
    return str(number)


@Pipeline(Fallback(0.5), Retry(OSError))
async def maybe_later(number: int) -> str:
    return str(number)


async def instead(error: Exception | None) -> bytes:
    return b""


def fallbacks(hosts: PerKey[bool]) -> None:
    assert_type(maybe(1), str | None)
    assert_type(Fallback(None).call(alone, 1), str | None)
    assert_type(Pipeline(Timeout(1), Fallback(1)).call(alone, 1), str | int)
    assert_type(hosts.call(alone, 1), str | bool)
    assert_type(Fallback(function=instead), Fallback[bytes])
    assert_type(Fallback(function=lambda error: 1, on=OSError), Fallback[int])


async def fallbacks_async() -> None:
    assert_type(await maybe_later(1), str | float)
    assert_type(await Fallback(None).acall(coroutine_function, 1), str | None)


# Policies are values that keep their own type.


def judge(outcome: Outcome) -> Verdict | bool | float:
    if isinstance(outcome.error, TimeoutExceededError):
        return Verdict.PUSHBACK
    return outcome.verdict is Verdict.FAILURE


def key_of(host: str, *, port: int = 80) -> tuple[str, int]:
    return host, port


def values() -> None:
    hosts = PerKey(lambda host: CircuitBreaker(name=f"{host}"), key=key_of, max_keys=10)
    assert_type(RateLimiter(100).with_(max_wait=1.0), RateLimiter)
    assert_type(Retry(ConnectionError).with_(attempts=5), Retry)
    assert_type(hosts["a"].label, str)
    assert_type(pipeline.name, str | None)
    Pipeline(Fallback(None), hosts, pipeline, classify=(OSError, judge), name="all")
    Retry(on=judge, attempts=None, within=math.inf, budget=RetryBudget(0.2, 20))
    Retry(OSError, budget=RetryBudget(name="api", shared=SharedMemory()))
    CircuitBreaker(name="api", shared=SharedMemory())
    Bulkhead(20, name="api", shared=SharedMemory())
    Retry(OSError, backoff=lambda attempt: attempt / 2, budget=None, nested=True)
    Timeout(timedelta(seconds=1), abandon=True, max_threads=4)
    Hedge(0.1, attempts=3, budget=RetryBudget(0.05), on=(OSError, lambda _: False))
    hedge = Hedge(percentile=0.9, floor=0.01, grace=0.1, max_threads=4, name="reads")
    assert_type(hedge.current_delay, float | None)
    assert_type(hedge.abandoned, int)
    assert_type(hedge.call(alone, 1), str)
    Bulkhead.for_load(100, 0.2).resize(5)
    limits = [Limit(500, per=60), Limit(90_000, per=60, unit="tokens")]
    RateLimiter(limits=limits, cost={"tokens": 100}, algorithm="sliding_window")
    CircuitBreaker(window=calls(100), open_for=exponential(5), on=(OSError, judge))
    CircuitBreaker(ramp=(0.01, 0.05), ramp_step=timedelta(seconds=5))
    assert_type(CircuitBreaker(throttle_rate=0.2).state, CircuitState)
    AdaptiveThrottle(k=1.5, window=timedelta(seconds=30), on=(OSError, judge))
    assert_type(AdaptiveThrottle().rejecting, float)
    replicas = Balance("http://a", Endpoint("http://b", weight=2), load="requests")
    assert_type(replicas.current, str)
    assert_type(replicas.endpoints[0].address, str)
    assert_type(Balance(Endpoint(b"a"), eject=Eject(3)).current, bytes)
    assert_type(Balance(*[Endpoint(1), Endpoint(2)], eject=None), Balance[int])
    replicas.replace(["http://c", Endpoint("http://d", host="d.example")])
    replicas.drain("http://c")
    assert_type(replicas.call(alone, 1), str)
    assert_type(Balance(dns("catalogue", 8443)), Balance[tuple[str, int]])
    assert_type(Balance(srv("_http._tcp.c"), load="random").current, tuple[str, int])
    assert_type(poll(lambda: ["a", "b"]), Source[str])
    assert_type(poll(several, every=5), Source[bytes])
    assert_type(Balance(poll(several)).current, bytes)
    Balance("a", check=Check(lambda address: True, every=timedelta(seconds=5)))
    Balance("a", check=Check(http_check("/readyz", origin="https://a", statuses={204})))


async def several() -> list[Endpoint[bytes]]:
    return [Endpoint(b"a")]


class Fixed:
    def limit(self, now: float) -> int:
        return 5

    def update(
        self, now: float, latency: float, in_flight: int, congested: bool
    ) -> int:
        return 5

    def anew(self) -> Fixed:
        return Fixed()


def limits() -> list[AdaptiveConcurrency]:
    algorithms: list[ConcurrencyLimit] = [
        AIMD(10, maximum=50),
        Gradient(tolerance=2, window=timedelta(seconds=1)),
        Vegas(percentile=0.5),
        Fixed(),
    ]
    shares = {"live": 0.9, "batch": 0.1}
    assert_type(Gradient().baseline, float | None)
    assert_type(AIMD().anew(), AIMD)
    assert_type(AdaptiveConcurrency().limit, int)
    AdaptiveConcurrency(partitions=shares, by=lambda call: call.key, max_queue=5)
    AdaptiveConcurrency(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return [AdaptiveConcurrency(algorithm, on=OSError) for algorithm in algorithms]


class MemoryStore:
    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {}

    def get(self, key: Any) -> tuple[Any, float] | None:
        return self.kept.get(key)

    def set(self, key: Any, value: Any, lifetime: float) -> None:
        self.kept[key] = (value, 0.0)

    def delete(self, key: Any) -> None:
        self.kept.pop(key, None)


class RemoteStore:
    async def get(self, key: Any) -> tuple[Any, float] | None:
        return None

    async def set(self, key: Any, value: Any, lifetime: float) -> None:
        pass

    async def delete(self, key: Any) -> None:
        pass


def caches() -> None:
    stores: list[CacheStore | AsyncCacheStore] = [MemoryStore(), RemoteStore()]
    for store in stores:
        StaleCache(timedelta(minutes=1), 3600, key=key_of, store=store, name="all")
    cache = StaleCache(0, math.inf, copy=list, negative_ttl=1, on=(OSError, judge))
    assert_type(cache.with_(ttl=5), StaleCache)
    assert_type(Pipeline(cache, Coalesce()).call(alone, 1), str)
    assert_type(Pipeline(Fallback(None), cache).call(alone, 1), str | None)
    assert_type(Coalesce(key=key_of, name="all").in_flight, int)
    shared = StaleCache(1, 2, shared=SharedMemory(), codec=json, name="all")
    assert_type(shared.codec, CacheCodec | None)
    StaleCache(1, 2, store=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def backoffs() -> list[Backoff]:
    return [
        constant(1),
        linear(1, step=0.5, cap=10),
        exponential(0.1, factor=2, cap=20, jitter="equal"),
        decorrelated(0.1, cap=20),
        delays([1, 2, 5]),
    ]


def listen(event: Event) -> None:
    match event:
        case RetryScheduled():
            assert_type(event.delay, float)
        case RetriesExhausted() | RetryCancelled():
            assert_type(event.policy, str)
        case CircuitChanged():
            assert_type(event.new, str)
        case HedgeLaunched() | HedgeWon():
            assert_type(event.hedge, int)
            assert_type(event.elapsed, float)
        case CircuitNoted() | CallAbandoned() | FallbackUsed() | KeyEvicted():
            assert_type(event.call, str | None)
        case KeyOverflowed():
            assert_type(event.call, str | None)
        case CallRejected():
            assert_type(event.retry_after, float | None)
        case CallCoalesced():
            assert_type(event.callers, int)
        case WarningRaised():
            assert_type(event.text, str)
        case StoreBack():
            assert_type(event.seconds, float)
            assert_type(event.alone, int)
        case LimitLowered():
            assert_type(event.rate, float)
        case DrainEnded():
            assert_type(event.seconds, float)
            assert_type(event.cut, int)
        case EndpointChecked():
            assert_type(event.healthy, bool)
        case PanicBegan() | PanicEnded():
            assert_type(event.healthy, int)
        case DiscoveryFailed():
            assert_type(event.reason, str)
            assert_type(event.age, float | None)
        case WorkerCrashed():
            assert_type(event.worker, str)
            assert_type(event.delay, float | None)
        case StoreLost():
            assert_type(event.reason, str)
        case StaleServed():
            assert_type(event.age, float)
            assert_type(event.error_type, str | None)
            assert_type(event.error, BaseException | None)
        case PermitWaited():
            assert_type(event.waited, float)
        case LimitChanged():
            assert_type(event.old, int)
        case TimedOut():
            assert_type(event.seconds, float)
        case _:
            pass


class QuietHour(Event):
    __slots__ = ("hour",)

    hour: int


def tell(policy: Policy) -> None:
    assert_type(QuietHour("gate", None, 3).hour, int)
    policy.emit(QuietHour("gate", "get", hour=3))
    TimedOut("t", call=None, seconds=1.0, overrun=0.1, delivered=True)
    QuietHour("gate", None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    QuietHour("gate", None, "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    QuietHour("gate", None, 3).hour = 4  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


unsubscribe: Callable[[], None] = pipeline.subscribe(listen)
unsubscribe = subscribe(listen)


async def stream() -> None:
    async with events(max_queue=10) as all_of_them:
        async for event in all_of_them:
            assert_type(event, Event)
    assert_type(all_of_them.dropped, int)


def telemetry_is_typed() -> None:
    telemetry.instrument(histograms=["resilient.attempt.duration"], attempt_spans=True)
    telemetry.instrument(histograms=["calls"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    telemetry.uninstrument()
    assert_type(health(), dict[str, Any])


def errors() -> None:
    try:
        function(1)
    except CircuitOpenError as error:
        assert_type(error.reason, str)
    except (BulkheadFullError, RateLimitedError, ThrottledError) as error:
        assert_type(error.retry_after, float | None)
    except (ConcurrencyLimitedError, DeadlineExceededError, RejectedError) as error:
        assert_type(error.policy, str)
    except TimeoutExceededError as error:
        assert_type(error.elapsed, float)
    except (ResilientError, ResilientWarning):
        pass


# Policies of one's own.


class Twice(Policy):
    traits = Trait.RERUNS

    async def around(
        self, proceed: Callable[[Call], Awaitable[Outcome]], call: Call
    ) -> Outcome:
        outcome = await proceed(call)
        return await proceed(call) if outcome.error is not None else outcome


class Gate(AdmissionPolicy):
    def admit(self, call: Call) -> RejectedError | Wait | bool:
        return RejectedError(self.label) if call.key is None else True

    def settle(self, permit: object, outcome: Outcome | None) -> None:
        pass


def own() -> None:
    assert_type(Pipeline(Twice(), Gate(name="gate")).call(alone, 1), str)


# Workers.


async def consume(queue: asyncio.Queue[int], name: str) -> None: ...


def watch(stopping: Stopping) -> None: ...


async def supervised() -> None:
    async with Supervisor() as workers:
        assert_type(workers, Supervisor)
        workers.start(consume, asyncio.Queue[int](), "x", restart="always")
        workers.start(consume, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with Supervisor() as workers:
        workers.start(watch, workers.stopping)


# What cannot be a policy is refused by the checker already.


def refusals() -> None:
    Pipeline(function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Timeout("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    CircuitBreaker(function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


synchronous: Callable[[int], str] = alone
awaitable: Callable[[int], Awaitable[str]] = coroutine_function
