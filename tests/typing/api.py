"""Uses of the public API that both type checkers must understand; never run.

`assert_type` fails when a checker infers anything else, strict mode when it
infers nothing, and an ignored error that is none is an error itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, assert_type

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    PerKey,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
    current_deadline,
    remaining,
)

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


@Retry(ConnectionError, TimeoutError, attempts=5)
def alone(number: int) -> str:
    return str(number)


def signatures() -> None:
    assert_type(function(1, text="a"), str)
    assert_type(generator(1), Iterator[int])
    assert_type(async_generator(1), AsyncIterator[int])
    assert_type(Shop().price("tea"), float)
    assert_type(alone(1), str)

    function("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    function(1, texts="")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def signatures_async() -> None:
    pending = coroutine_function(1, text="a")
    assert_type(await assert_type(pending, Coroutine[Any, Any, str]), str)
    assert_type(await Shop().price_async("tea"), float)


# `call` and `acall` take a function's own arguments and return its own result.


def spellings() -> None:
    assert_type(pipeline.call(function, 1, text="a"), str)

    pipeline.call(function, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    for attempt in pipeline.attempts():
        with attempt:
            assert_type(function(1), str)

    with Timeout(1).guard():
        assert_type(remaining(), float | None)
        assert_type(current_deadline(), float | None)


async def spellings_async() -> None:
    assert_type(await pipeline.acall(coroutine_function, 1, text="a"), str)

    async for attempt in pipeline.attempts():
        async with attempt:
            assert_type(await coroutine_function(1), str)

    async with Bulkhead(1).guard():
        pass


# Policies are values that keep their own type.


def values() -> None:
    hosts = PerKey(lambda host: CircuitBreaker(name=f"{host}"))
    assert_type(RateLimiter(100).with_(max_wait=1.0), RateLimiter)
    assert_type(Retry(ConnectionError).with_(attempts=5), Retry)
    Pipeline(Fallback(None), hosts, pipeline)


# What cannot be a policy is refused by the checker already.


def refusals() -> None:
    Pipeline(function)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Timeout("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


synchronous: Callable[[int], str] = alone
awaitable: Callable[[int], Awaitable[str]] = coroutine_function
