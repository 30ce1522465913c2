"""Decorated methods where their class is one of several; never run.

A decorated method overrides an abstract one and fits a Protocol, as it would
without its policy: pyright tells a coroutine function's `CoroutineType` from a
`Coroutine`, which mypy does not.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Coroutine,
    Generator,
    Iterator,
)
from typing import Any, Protocol, assert_type

from resilient import (
    AdaptiveConcurrency,
    CircuitBreaker,
    Coalesce,
    Fallback,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    StaleCache,
    Timeout,
)

pipeline = Pipeline(Timeout(10), Retry(ConnectionError))


class Store(abc.ABC):
    @abc.abstractmethod
    def read(self, key: str) -> bytes: ...
    @abc.abstractmethod
    async def fetch(self, key: str) -> bytes: ...
    @abc.abstractmethod
    async def find(self, key: str) -> bytes | None: ...
    @abc.abstractmethod
    def items(self) -> Iterator[int]: ...
    @abc.abstractmethod
    def pages(self) -> AsyncIterator[int]: ...
    @classmethod
    @abc.abstractmethod
    async def opened(cls, key: str) -> bytes: ...


class Remote(Store):
    @pipeline
    def read(self, key: str) -> bytes:
        return b""

    @Retry(ConnectionError)
    async def fetch(self, key: str) -> bytes:
        return b""

    @Pipeline(Fallback(None), Timeout(1))
    async def find(self, key: str) -> bytes:
        return b""

    @pipeline
    def items(self) -> Iterator[int]:
        yield 1

    @pipeline
    async def pages(self) -> AsyncIterator[int]:
        yield 1

    @classmethod
    @pipeline
    async def opened(cls, key: str) -> bytes:
        return b""


class Cached(Remote):
    @StaleCache(1, 2, key=lambda self, key: key)
    async def fetch(self, key: str) -> bytes:
        return await super().fetch(key)


class Fetches(Protocol):
    def read(self, key: str) -> bytes: ...
    async def fetch(self, key: str) -> bytes: ...
    async def find(self, key: str) -> bytes | None: ...
    def items(self) -> Iterator[int]: ...
    def pages(self) -> AsyncIterator[int]: ...


class Slow(Remote):
    @Fallback(None)
    async def fetch(self, key: str) -> bytes:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return b""  # what may be None is not what the base returns


stores: list[Fetches] = [Remote(), Cached()]


def coroutine(key: str) -> Coroutine[Any, Any, bytes]:
    return Remote().fetch(key)


async def usages(policy: Policy[Any], plain: Policy) -> None:
    remote = Remote()
    assert_type(await remote.fetch("a"), bytes)
    assert_type(await remote.find("a"), bytes | None)
    assert_type(await pipeline.acall(remote.fetch, "a"), bytes)
    assert_type(await Fallback(1).acall(remote.fetch, "a"), bytes | int)
    assert_type(await Fallback(1).acall(remote.find, "a"), bytes | int | None)
    assert_type(await pipeline(coroutine)("a"), bytes)
    assert_type(await Fallback(1)(coroutine)("a"), bytes | int)
    assert_type(pipeline.call(remote.read, "a"), bytes)
    assert_type(await plain(remote.fetch)("a"), bytes)
    assert_type(await plain(Fallback(1)(remote.fetch))("a"), bytes | int)
    for number in remote.items():
        assert_type(number, int)
    async for number in remote.pages():
        assert_type(number, int)


@contextlib.contextmanager
@Timeout(1)
def opened(name: str) -> Generator[bytes, None, None]:
    yield b""


@contextlib.asynccontextmanager
@Timeout(1)
async def opened_later(name: str) -> AsyncGenerator[bytes, None]:
    yield b""


async def managers() -> None:
    with opened("a") as content:
        assert_type(content, bytes)
    async with opened_later("a") as later:
        assert_type(later, bytes)


# Lambdas have no annotations, and strict mode wants none.


def by_name(*, name: str, port: int = 80) -> str:
    return f"{name}:{port}"


def keys() -> None:
    PerKey(lambda host: CircuitBreaker(), key=lambda host: host)
    PerKey(lambda host: CircuitBreaker(), key=lambda host, path="/": (host, path))
    PerKey(lambda host: CircuitBreaker(), key=by_name)
    Coalesce(key=lambda first, second: (first, second))
    Coalesce(key=by_name)
    StaleCache(1, 2, key=lambda first, second, third: (first, second, third))
    StaleCache(1, 2, key=by_name)
    RateLimiter(5, cost=lambda call: 2 if call.args else 1)
    AdaptiveConcurrency(partitions={"a": 1}, by=lambda call: call.key)
    Retry(on=lambda outcome: outcome.error is None, on_result=lambda value: not value)
    Retry(OSError, backoff=lambda attempt: attempt * 2)
    CircuitBreaker(open_for=lambda times: times * 2.0, on=lambda outcome: False)
    Fallback(function=lambda error, call: 3)
    PerKey(lambda host: CircuitBreaker(), key=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
