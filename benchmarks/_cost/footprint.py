"""What is not the time of one call: memory, imports, crowds, and growth."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from resilient import (
    Balance,
    CircuitBreaker,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    calls,
)

from . import ours
from .by_hand import breaker as breaker_by_hand
from .rounds import Ratio, measure
from .scenes import BARE, Contender, Scene
from .workloads import ASYNCIO, Function, at_once, at_once_sync

CROWD = 10_000
KEYS = 100_000
HEAVY = ("asyncio", "anyio", "trio", "opentelemetry", "httpx", "httpx2")
"""What `import resilient` must not load."""

PIPELINES, BY_HAND = "10 to 1 000 pipelines", "10 to 1 000 breakers by hand"
COLD = ", each once, when the caches are cold"
GROWING_TURN = 0.02
"""Seconds: a thousand pipelines have some ten calls each in a turn."""


def bytes_a_key(factory: Callable[[Any], Any]) -> float:
    """Bytes that each of 100 000 keys takes, called once."""
    numbers = list(range(KEYS))
    per_key = PerKey(factory, key=_itself, max_keys=2 * KEYS)
    call = per_key(at_once_sync)
    call(-1)
    with _Memory() as memory:
        for x in numbers:
            call(x)
    return memory.taken / KEYS


def bytes_an_endpoint() -> float:
    """Bytes that each of 10 000 endpoints takes, its address apart."""
    addresses = [f"https://10.0.{n // 250}.{n % 250}:8443" for n in range(CROWD)]
    with _Memory() as memory:
        balance = Balance(*addresses)
    del balance
    return memory.taken / CROWD


def _itself(x: int) -> int:
    return x


class _Memory:
    """Counts the bytes that are taken within, and kept to its end."""

    taken: float = 0.0

    def __enter__(self) -> _Memory:
        gc.collect()
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        gc.collect()
        self.taken = float(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()


async def _crowd(wrap: Callable[[Function], Function], weigh: bool) -> float:
    """Bytes, or else seconds, that 10 000 calls in flight take together."""
    gate = asyncio.Event()

    async def wait(x: int) -> int:
        await gate.wait()
        return x

    call: Callable[[int], Awaitable[Any]] = wrap(wait)
    began = time.process_time()
    with _Memory() if weigh else _Nothing() as memory:
        tasks = [asyncio.ensure_future(call(x)) for x in range(CROWD)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(*tasks)
    if answers != list(range(CROWD)):
        raise RuntimeError("a call of the crowd was not let through")
    return memory.taken if weigh else time.process_time() - began


class _Nothing(_Memory):
    def __enter__(self) -> _Memory:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _bare(fn: Function) -> Function:
    return fn


def bytes_in_flight(policy: Policy[Any]) -> float:
    """Bytes that a call in flight takes under a policy, over a bare one."""

    async def both() -> float:
        bare = await _crowd(_bare, weigh=True)
        return (await _crowd(policy, weigh=True) - bare) / CROWD

    return asyncio.run(both())


def seconds_in_flight(rounds: int, *, collecting: bool) -> Ratio:
    """How much longer 10 000 concurrent calls take under seven policies.

    Args:
        rounds: How often to look.
        collecting: Whether the garbage collector runs, which looks at every
            object of a call in flight again and again. What else this process
            has in memory is kept from it.
    """
    seven = ours.pipeline(room=2 * CROWD)

    async def turn() -> float:
        bare = await _crowd(_bare, weigh=False)
        return await _crowd(seven, weigh=False) / bare

    gc.collect()
    gc.freeze()
    if not collecting:
        gc.disable()
    try:
        return Ratio.of([asyncio.run(turn()) for _ in range(rounds)])
    finally:
        gc.enable()
        gc.unfreeze()


def import_times(rounds: int) -> Ratio:
    """How much longer `import resilient` takes than `import attrs`.

    Both are compiled beforehand, even where this process writes no bytecode.
    """
    with tempfile.TemporaryDirectory() as cache:
        compiling = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        compiling.pop("PYTHONDONTWRITEBYTECODE", None)
        for module in ("resilient", "attrs"):
            _import(module, compiling)
        return Ratio.of(
            [
                _import("resilient", compiling) / _import("attrs", compiling)
                for _ in range(rounds)
            ]
        )


def _import(module: str, environment: dict[str, str]) -> float:
    code = (
        "import time; began = time.process_time();"
        f" import {module}; print(time.process_time() - began)"
    )
    return float(_python(code, environment))


def loaded() -> list[str]:
    """What `import resilient` loads although it must not."""
    code = "import resilient, sys; print(*sys.modules)"
    modules = _python(code, dict(os.environ)).split()
    return [name for name in HEAVY if name in modules]


def _python(code: str, environment: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout


def _taking_turns(calls: Sequence[Function]) -> Function:
    """Call one after the other."""
    turns = itertools.cycle(calls)

    async def call(x: int) -> Any:
        return await next(turns)(x)

    return call


def _for_keys(keys: int) -> Function:
    per_key = PerKey(lambda _: RateLimiter(1e6), key=_itself, max_keys=KEYS)
    call = per_key(at_once)
    numbers = itertools.cycle(range(keys))

    async def turn(x: int) -> Any:
        return await call(next(numbers))

    return turn


async def _many_times(policy: Pipeline[Any] | CircuitBreaker, past: int) -> Function:
    call = policy(at_once)
    for x in range(past):
        await call(x)
    return call


async def _growing() -> dict[str, tuple[Function, Function]]:
    """Pairs of a small one and a large one, by what grows a hundredfold or more."""

    def pipelines(count: int) -> Function:
        made = [Pipeline(CircuitBreaker())(at_once) for _ in range(count)]
        return _taking_turns(made)

    def by_hand(count: int) -> Function:
        made = [breaker_by_hand(at_once, ASYNCIO, False) for _ in range(count)]
        return _taking_turns(made)

    async def breaker(window: Any, past: int) -> Function:
        return await _many_times(CircuitBreaker(window=window), past)

    seven = ours.pipeline
    return {
        PIPELINES: (pipelines(10), pipelines(1_000)),
        BY_HAND: (by_hand(10), by_hand(1_000)),
        "100 to 10 000 keys": (_for_keys(100), _for_keys(10_000)),
        "100 to 100 000 past calls": (
            await _many_times(seven(), 100),
            await _many_times(seven(), 100_000),
        ),
        "a window of 10 s to one of 1 h": (
            await breaker(10.0, 1_000),
            await breaker(3600.0, 1_000),
        ),
        "a window of 100 calls to one of 10 000": (
            await breaker(calls(100), 20_000),
            await breaker(calls(10_000), 20_000),
        ),
    }


async def growth(rounds: int) -> dict[str, Ratio]:
    """How much dearer a call is where there is more of something."""
    pairs = await _growing()
    contenders = [Contender(BARE, at_once)]
    for name, (small, large) in pairs.items():
        contenders += [Contender(f"{name}, less", small), Contender(name, large)]
        # What a new key costs is paid once, and is not the question.
        for x in range(10_000):
            await large(x)
    scene = Scene("", "", ASYNCIO, contenders)
    times = await measure(scene, max(5, rounds // 5), GROWING_TURN)
    ratios = {name: times.ratio(name, f"{name}, less") for name in pairs}
    # In a short turn each of a thousand is called once or twice, and what was
    # called before it, by others, has taken its place in the caches.
    cold = await measure(scene, rounds)
    for name in (PIPELINES, BY_HAND):
        ratios[name + COLD] = cold.ratio(name, f"{name}, less")
    return ratios
