"""Other libraries, each used as its documentation shows.

Every function here imports what it needs, so that what is not installed is
missed by name and nothing else is. Numbers are those of `ours`. It is long, as
a list is: by policy, then everything at once, then HTTP clients.
"""

from __future__ import annotations

import asyncio
from typing import Any

from . import http_by_hand
from .by_hand import HOUR, PERIOD
from .workloads import Function, World

RATE = round(1 / PERIOD)


class Refused(Exception):  # noqa: N818 - what a script would call it
    """A library said no by its answer, not by an error."""


def _not_sync(world: World) -> None:
    if world.sync:
        raise NotImplementedError("async only")


# Retries


def tenacity_retry(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    import tenacity

    decorate: Any = tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_none(),
        retry=tenacity.retry_if_exception_type(OSError),
        reraise=True,
    )
    return decorate(fn)


def stamina_retry(fn: Function, world: World, tight: bool) -> Function:
    """The decorator, whose waits are nothing."""
    import stamina

    decorate: Any = stamina.retry(
        on=OSError, attempts=3, wait_initial=0, wait_max=0, wait_jitter=0
    )
    return decorate(fn)


def backoff_retry(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    import backoff

    decorate: Any = backoff.on_exception(
        backoff.constant, OSError, interval=0, jitter=None, max_tries=3
    )
    return decorate(fn)


def hyx_retry(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    from hyx.retry import retry

    return retry(on=OSError, attempts=3, backoff=0.0)(fn)


def pyresilience_of(fn: Function, **configs: Any) -> Function:
    """The decorator, with the parts that are asked for."""
    import pyresilience

    return pyresilience.resilient(**configs)(fn)


def pyresilience_config(part: str, tight: bool = False) -> Any:
    """One part of what `pyresilience.resilient` takes."""
    import pyresilience as library

    if part == "retry":
        return library.RetryConfig(3, delay=0, jitter=False, retry_on=(OSError,))
    if part == "circuit_breaker":
        return library.CircuitBreakerConfig(
            recovery_timeout=HOUR,
            sliding_window_size=100,
            failure_rate_threshold=0.9,
            minimum_calls=20,
        )
    if part == "rate_limiter":
        if tight:
            return library.RateLimiterConfig(1, HOUR)
        return library.RateLimiterConfig(RATE, 1.0)
    if part == "bulkhead":
        return library.BulkheadConfig(1 if tight else 10)
    if part == "fallback":
        return library.FallbackConfig(lambda error: None)
    return library.TimeoutConfig(3)


def pyresilience_retry(fn: Function, world: World, tight: bool) -> Function:
    """Its retry alone, on a budget that lasts."""
    import pyresilience

    budget = pyresilience.RetryBudgetConfig(1_000_000, 1e6)
    retry = pyresilience_config("retry")
    return pyresilience_of(fn, retry=retry, retry_budget=budget)


def aioresilience_retry(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    import aioresilience as library

    config = library.RetryConfig(3, initial_delay=0, retry_on_exceptions=(OSError,))
    return library.with_retry(library.RetryPolicy(config))(fn)


def nopanic_retry(fn: Function, world: World, tight: bool) -> Function:
    """The decorator, on a budget that lasts."""
    import nopanic

    budget = nopanic.RetryBudget(1.0, min_retries_per_sec=1e6)
    return nopanic.retry(3, OSError, nopanic.backoff.fixed(0), budget=budget)(fn)


# Circuit breakers


def pybreaker_breaker(fn: Function, world: World, tight: bool) -> Function:
    """The decorator; its coroutines are those of Tornado."""
    if not world.sync:
        raise NotImplementedError("sync, or Tornado's coroutines")
    import pybreaker

    return pybreaker.CircuitBreaker(fail_max=20, reset_timeout=HOUR)(fn)


def circuitbreaker_breaker(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    import circuitbreaker

    decorate: Any = circuitbreaker.CircuitBreaker(20, HOUR)
    return decorate(fn)


def purgatory_breaker(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    import purgatory

    if world.sync:
        return purgatory.SyncCircuitBreakerFactory(20, HOUR)("bench")(fn)
    return purgatory.AsyncCircuitBreakerFactory(20, HOUR)("bench")(fn)


def aiobreaker_breaker(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    from datetime import timedelta

    import aiobreaker

    return aiobreaker.CircuitBreaker(20, timedelta(hours=1))(fn)


def hyx_breaker(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    from hyx.circuitbreaker import consecutive_breaker

    return consecutive_breaker(Exception, 20, HOUR)(fn)


def pyresilience_breaker(fn: Function, world: World, tight: bool) -> Function:
    """Its breaker alone, with a window."""
    return pyresilience_of(fn, circuit_breaker=pyresilience_config("circuit_breaker"))


def aioresilience_breaker(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    import aioresilience as library

    config = library.CircuitConfig(20, recovery_timeout=HOUR)
    return library.with_circuit_breaker(library.CircuitBreaker("bench", config))(fn)


def interlock_breaker(fn: Function, world: World, tight: bool) -> Function:
    """The decorator, with a window in time."""
    import interlock

    config = interlock.Config(
        failure_rate_threshold=0.9,
        minimum_number_of_calls=20,
        wait_duration_in_open=HOUR,
        window_type=interlock.WindowType.TIME_BASED,
        window_size=10,
    )
    return interlock.CircuitBreaker(name="bench", config=config)(fn)


def interlock_breaker_by_count(fn: Function, world: World, tight: bool) -> Function:
    """The decorator, with its default window, a hundred calls."""
    import interlock

    config = interlock.Config(
        failure_rate_threshold=0.9,
        minimum_number_of_calls=20,
        wait_duration_in_open=HOUR,
    )
    return interlock.CircuitBreaker(name="bench", config=config)(fn)


def nopanic_breaker(fn: Function, world: World, tight: bool) -> Function:
    """The decorator, with a window in time."""
    import nopanic

    return nopanic.circuit_breaker(
        failure_threshold=0.9, min_calls=20, window=10, reset_timeout=HOUR
    )(fn)


# Rate limiters


def aiolimiter_limiter(fn: Function, world: World, tight: bool) -> Function:
    """Its block, which waits; asked first, where it is to refuse."""
    _not_sync(world)
    import aiolimiter

    limiter = aiolimiter.AsyncLimiter(*((1, HOUR) if tight else (RATE, 1)))

    async def call(x: int) -> Any:
        async with limiter:
            return await fn(x)

    async def asking(x: int) -> Any:
        if not limiter.has_capacity():
            raise Refused
        return await call(x)

    return asking if tight else call


def _limits(fn: Function, world: World, tight: bool, strategy: str) -> Function:
    import limits

    if tight:
        limit: Any = limits.RateLimitItemPerHour(1)
    else:
        limit = limits.RateLimitItemPerSecond(RATE)
    if world.sync:
        storage: Any = limits.storage.MemoryStorage()
        limiter: Any = getattr(limits.strategies, strategy)(storage)

        def call_sync(x: int) -> Any:
            if not limiter.hit(limit, "bench"):
                raise Refused
            return fn(x)

        return call_sync
    if world.name == "trio":
        raise NotImplementedError("asyncio only")
    import limits.aio

    storage = limits.aio.storage.MemoryStorage()
    limiter = getattr(limits.aio.strategies, strategy)(storage)

    async def call(x: int) -> Any:
        if not await limiter.hit(limit, "bench"):
            raise Refused
        return await fn(x)

    return call


def limits_fixed(fn: Function, world: World, tight: bool) -> Function:
    """A fixed window, in memory: its cheapest."""
    return _limits(fn, world, tight, "FixedWindowRateLimiter")


def limits_sliding(fn: Function, world: World, tight: bool) -> Function:
    """A sliding window counter, in memory."""
    return _limits(fn, world, tight, "SlidingWindowCounterRateLimiter")


def pyrate_limiter(fn: Function, world: World, tight: bool) -> Function:
    """A token bucket, in memory."""
    from pyrate_limiter import limiter_factory

    arguments = (1, 3_600_000) if tight else (RATE, 1000)
    limiter: Any = limiter_factory.create_token_bucket_limiter(*arguments)
    if world.sync:

        def call_sync(x: int) -> Any:
            if not limiter.try_acquire("bench", blocking=False):
                raise Refused
            return fn(x)

        return call_sync

    async def call(x: int) -> Any:
        if not await limiter.try_acquire_async("bench", blocking=False):
            raise Refused
        return await fn(x)

    return call


def throttled_limiter(fn: Function, world: World, tight: bool) -> Function:
    """A token bucket, in memory, by the decorator."""
    import throttled

    quota = throttled.per_hour(1) if tight else throttled.per_sec(RATE)
    module: Any = throttled if world.sync else throttled.asyncio
    store = module.MemoryStore()
    return module.Throttled(
        key="bench", using="token_bucket", quota=quota, store=store
    )(fn)


def hyx_limiter(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    from hyx.ratelimit import tokenbucket

    return tokenbucket(*((1, HOUR) if tight else (RATE, 1)))(fn)


def pyresilience_limiter(fn: Function, world: World, tight: bool) -> Function:
    """Its limiter alone."""
    config = pyresilience_config("rate_limiter", tight)
    return pyresilience_of(fn, rate_limiter=config)


def aioresilience_limiter(fn: Function, world: World, tight: bool) -> Function:
    """Its check before the call."""
    _not_sync(world)
    from aioresilience.rate_limiting import LocalRateLimiter

    limiter = LocalRateLimiter()
    rate = "1/hour" if tight else f"{RATE}/second"

    async def call(x: int) -> Any:
        if not await limiter.check_rate_limit("bench", rate):
            raise Refused
        return await fn(x)

    return call


def nopanic_limiter(fn: Function, world: World, tight: bool) -> Function:
    """A token bucket that refuses, by the decorator."""
    import nopanic

    return nopanic.rate_limit(*((1, HOUR) if tight else (RATE, 1)), max_wait=0)(fn)


def nopanic_keyed_limiter(fn: Function, world: World, tight: bool) -> Function:
    """The same, one for each key."""
    import nopanic

    return nopanic.keyed(
        lambda _: nopanic.rate_limit(RATE, 1, max_wait=0), key=same_key
    )(fn)


def same_key(x: int) -> int:
    """The key of every call."""
    return 1


# Bulkheads


def asyncio_semaphore(fn: Function, world: World, tight: bool) -> Function:
    """The standard library's, which queues; asked first, where it is to refuse."""
    _not_sync(world)
    semaphore = asyncio.Semaphore(1 if tight else 10)

    async def call(x: int) -> Any:
        async with semaphore:
            return await fn(x)

    async def asking(x: int) -> Any:
        if semaphore.locked():
            raise Refused
        return await call(x)

    return asking if tight else call


def anyio_semaphore(fn: Function, world: World, tight: bool) -> Function:
    """anyio's, which refuses by `acquire_nowait`."""
    _not_sync(world)
    import anyio

    semaphore = anyio.Semaphore(1 if tight else 10)

    async def call(x: int) -> Any:
        semaphore.acquire_nowait()
        try:
            return await fn(x)
        finally:
            semaphore.release()

    return call


def hyx_bulkhead(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    from hyx.bulkhead import bulkhead

    most = 1 if tight else 10
    return bulkhead(most, most)(fn)


def pyresilience_bulkhead(fn: Function, world: World, tight: bool) -> Function:
    """Its bulkhead alone."""
    return pyresilience_of(fn, bulkhead=pyresilience_config("bulkhead", tight))


def aioresilience_bulkhead(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    import aioresilience as library

    config = library.BulkheadConfig(1 if tight else 10, 0)
    return library.with_bulkhead(library.Bulkhead("bench", config))(fn)


def interlock_bulkhead(fn: Function, world: World, tight: bool) -> Function:
    """A pipeline of this alone."""
    import interlock

    return interlock.Pipeline(interlock.BulkheadStrategy(1 if tight else 10))(fn)


def nopanic_bulkhead(fn: Function, world: World, tight: bool) -> Function:
    """The decorator; its slots are counted for each event loop."""
    import nopanic

    return nopanic.bulkhead(1 if tight else 10, max_wait=0)(fn)


# Timeouts


def asyncio_timeout(fn: Function, world: World, tight: bool) -> Function:
    """The standard library's."""
    _not_sync(world)

    async def call(x: int) -> Any:
        async with asyncio.timeout(3):
            return await fn(x)

    return call


def anyio_fail_after(fn: Function, world: World, tight: bool) -> Function:
    """Anyio's."""
    _not_sync(world)
    import anyio

    async def call(x: int) -> Any:
        with anyio.fail_after(3):
            return await fn(x)

    return call


def hyx_timeout(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    from hyx.timeout import timeout

    return timeout(3)(fn)


def pyresilience_timeout(fn: Function, world: World, tight: bool) -> Function:
    """Its timeout alone; a thread, where the function is synchronous."""
    return pyresilience_of(fn, timeout=pyresilience_config("timeout"))


def aioresilience_timeout(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    import aioresilience as library

    manager = library.TimeoutManager(library.TimeoutConfig(3.0))
    return library.with_timeout_manager(manager)(fn)


def interlock_timeout(fn: Function, world: World, tight: bool) -> Function:
    """Its block; a thread, where the function is synchronous."""
    import interlock

    if world.sync:
        return interlock.sync_timeout(3)(fn)

    async def call(x: int) -> Any:
        async with interlock.timeout(3):
            return await fn(x)

    return call


def nopanic_timeout(fn: Function, world: World, tight: bool) -> Function:
    """The decorator; a thread, where the function is synchronous."""
    import nopanic

    return nopanic.timeout(3)(fn)


# Fallbacks


def hyx_fallback(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    from hyx.fallback import fallback

    async def answer(*args: Any, **kwargs: Any) -> None:
        return None

    return fallback(answer, on=OSError)(fn)


def pyresilience_fallback(fn: Function, world: World, tight: bool) -> Function:
    """Its fallback alone."""
    return pyresilience_of(fn, fallback=pyresilience_config("fallback"))


def aioresilience_fallback(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    _not_sync(world)
    import aioresilience as library

    config = library.FallbackConfig(None, (OSError,))
    return library.with_fallback_handler(library.FallbackHandler(config))(fn)


def interlock_fallback(fn: Function, world: World, tight: bool) -> Function:
    """A pipeline of this alone."""
    import interlock

    strategy = interlock.FallbackStrategy(lambda error: None, on=(OSError,))
    return interlock.Pipeline(strategy)(fn)


def nopanic_fallback(fn: Function, world: World, tight: bool) -> Function:
    """The decorator."""
    import nopanic

    return nopanic.fallback(None, on=OSError)(fn)


# Caches


def nopanic_cache(fn: Function, world: World, tight: bool) -> Function:
    """The decorator, with the key of ours."""
    import nopanic

    return nopanic.cache(HOUR, stale_ttl=HOUR, key=same_key)(fn)


# Three at once: a timeout around a retry around a breaker


def _three(fn: Function, world: World, *wraps: Any) -> Function:
    for wrap in wraps:
        fn = wrap(fn, world, False)
    return fn


def hyx_three(fn: Function, world: World, tight: bool) -> Function:
    """Its decorators."""
    return _three(fn, world, hyx_breaker, hyx_retry, hyx_timeout)


def pyresilience_three(fn: Function, world: World, tight: bool) -> Function:
    """Its parts, and once more around them for the timeout."""
    parts = ("retry", "circuit_breaker")
    inner = pyresilience_of(fn, **{part: pyresilience_config(part) for part in parts})
    return inner if world.sync else pyresilience_timeout(inner, world, False)


def aioresilience_three(fn: Function, world: World, tight: bool) -> Function:
    """Its decorators."""
    return _three(
        fn, world, aioresilience_breaker, aioresilience_retry, aioresilience_timeout
    )


def nopanic_three(fn: Function, world: World, tight: bool) -> Function:
    """Its decorators; a deadline, where the function is synchronous."""
    outer = _nopanic_deadline if world.sync else nopanic_timeout
    return _three(fn, world, nopanic_breaker, nopanic_retry, outer)


def _nopanic_deadline(fn: Function, world: World, tight: bool) -> Function:
    import nopanic

    return nopanic.deadline(3)(fn)


# Everything at once


def _mix(fn: Function, world: World, retry: Any) -> Function:
    """The best of each: a retry of the caller's choice and those of asyncio."""
    _not_sync(world)
    import aiolimiter
    import purgatory

    breakers = purgatory.AsyncCircuitBreakerFactory(20, HOUR)
    limiter = aiolimiter.AsyncLimiter(RATE, 1)
    semaphore = asyncio.Semaphore(10)

    @breakers("bench")
    async def attempt(x: int) -> Any:
        async with limiter, semaphore, asyncio.timeout(1):
            return await fn(x)

    retried = retry(attempt, world, False)

    async def call(x: int) -> Any:
        try:
            async with asyncio.timeout(3):
                return await retried(x)
        except Exception:
            return None

    return call


def tenacity_mix(fn: Function, world: World, tight: bool) -> Function:
    """tenacity, purgatory, aiolimiter, a semaphore, two `asyncio.timeout`."""
    return _mix(fn, world, tenacity_retry)


def stamina_mix(fn: Function, world: World, tight: bool) -> Function:
    """stamina, purgatory, aiolimiter, a semaphore, two `asyncio.timeout`."""
    return _mix(fn, world, stamina_retry)


def hyx_stack(fn: Function, world: World, tight: bool) -> Function:
    """All seven of its decorators."""
    _not_sync(world)
    from hyx.fallback import fallback

    async def answer(*args: Any, **kwargs: Any) -> None:
        return None

    for wrap in (
        hyx_timeout,
        hyx_bulkhead,
        hyx_limiter,
        hyx_breaker,
        hyx_retry,
        hyx_timeout,
    ):
        fn = wrap(fn, world, False)
    return fallback(answer, on=Exception)(fn)


def pyresilience_stack(fn: Function, world: World, tight: bool) -> Function:
    """All its parts, and once more around them for the second timeout."""
    parts = ("retry", "circuit_breaker", "rate_limiter", "bulkhead")
    inner = {part: pyresilience_config(part) for part in parts}
    if not world.sync:
        inner["timeout"] = pyresilience_config("timeout")
    outer = {"fallback": pyresilience_config("fallback")}
    if not world.sync:
        outer["timeout"] = pyresilience_config("timeout")
    return pyresilience_of(pyresilience_of(fn, **inner), **outer)


def aioresilience_stack(fn: Function, world: World, tight: bool) -> Function:
    """All seven of its parts."""
    for wrap in (
        aioresilience_timeout,
        aioresilience_bulkhead,
        aioresilience_limiter,
        aioresilience_breaker,
        aioresilience_retry,
        aioresilience_timeout,
    ):
        fn = wrap(fn, world, False)
    import aioresilience as library

    handler = library.FallbackHandler(library.FallbackConfig(None, (Exception,)))
    return library.with_fallback_handler(handler)(fn)


def interlock_stack(fn: Function, world: World, tight: bool) -> Function:
    """Its pipeline, which has no rate limiter; the retry is tenacity's."""
    import interlock
    import tenacity

    config = interlock.Config(failure_rate_threshold=0.9, wait_duration_in_open=HOUR)
    builder = interlock.Pipeline.builder()
    builder = builder.fallback(lambda error: None, on=(Exception,))
    if not world.sync:
        builder = builder.timeout(3)
    builder = builder.retry(
        attempts=3,
        retry=tenacity.retry_if_exception_type(OSError),
        wait=tenacity.wait_none(),
    )
    breaker = interlock.CircuitBreaker(name="bench", config=config)
    builder = builder.circuit_breaker(breaker).bulkhead(10)
    if not world.sync:
        builder = builder.timeout(1)
    return builder.build()(fn)


def nopanic_stack(fn: Function, world: World, tight: bool) -> Function:
    """All seven of its decorators; a deadline instead of timeouts in sync."""
    import nopanic

    if not world.sync:
        fn = nopanic_timeout(fn, world, False)
    for wrap in (
        nopanic_bulkhead,
        nopanic_limiter,
        nopanic_breaker,
        nopanic_retry,
        _nopanic_deadline if world.sync else nopanic_timeout,
    ):
        fn = wrap(fn, world, False)
    return nopanic.fallback(None)(fn)


# HTTP clients: the function is a transport that answers from memory


def _client(transport: Any) -> Function:
    import httpx

    client = httpx.AsyncClient(transport=transport)

    async def get(x: int) -> Any:
        return await client.get("http://bench.invalid/")

    return get


def httpx_memory() -> Any:
    """A transport that answers at once."""
    import httpx

    async def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="ok")

    return httpx.MockTransport(answer)


def httpx_bare(fn: Function, world: World, tight: bool) -> Function:
    """A client and nothing else."""
    _not_sync(world)
    return _client(httpx_memory())


def httpx_ours(fn: Function, world: World, tight: bool) -> Function:
    """The transport of this library: five policies, by origin."""
    _not_sync(world)
    from resilient.httpx import ResilientTransport

    return _client(ResilientTransport(inner=httpx_memory()))


def httpx_balanced(fn: Function, world: World, tight: bool) -> Function:
    """Four policies for each of three endpoints, and what chooses one."""
    return _client(_balanced(world, *map(_address, "123")))


def httpx_unbalanced(fn: Function, world: World, tight: bool) -> Function:
    """The same policies for the origin itself."""
    return _client(_balanced(world))


def _address(digit: str) -> str:
    return f"http://10.0.0.{digit}"


def _balanced(world: World, *endpoints: str) -> Any:
    _not_sync(world)
    import httpx

    from resilient import Balance, CircuitBreaker, PerKey, Pipeline, Policy, Retry
    from resilient import Timeout as Limit
    from resilient.httpx import ResilientTransport

    chosen: list[Policy[Any]] = [Balance(*endpoints)] if endpoints else []
    pipeline = Pipeline(
        Limit(5),
        Retry(httpx.TransportError),
        *chosen,
        PerKey(lambda _: CircuitBreaker()),
        Limit(1),
    )
    return ResilientTransport(
        pipeline,
        inner=httpx_memory(),
        origin="http://bench.invalid" if endpoints else None,
    )


def httpx_by_hand(fn: Function, world: World, tight: bool) -> Function:
    """What an engineer would write in its place."""
    _not_sync(world)
    import httpx

    return _client(http_by_hand.asynchronous(httpx, httpx_memory()))


def httpx_two_timeouts(fn: Function, world: World, tight: bool) -> Function:
    """A limit for all, one for the attempt, and nothing else."""
    _not_sync(world)
    import httpx

    return _client(http_by_hand.two_timeouts(httpx, httpx_memory()))


def httpx_retries(fn: Function, world: World, tight: bool) -> Function:
    """Retries, and nothing else."""
    _not_sync(world)
    from httpx_retries import Retry, RetryTransport

    return _client(RetryTransport(transport=httpx_memory(), retry=Retry(total=3)))


def clientwright_client(fn: Function, world: World, tight: bool) -> Function:
    """Its client, over the same transport."""
    _not_sync(world)
    import clientwright

    client: Any = clientwright.build(
        "httpx",
        clientwright.ClientConfig(
            service_name="bench", base_url="http://bench.invalid"
        ),
    )
    client._transport._inner = httpx_memory()

    async def get(x: int) -> Any:
        return await client.get("/")

    return get
