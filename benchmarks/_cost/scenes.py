"""The comparisons: contenders, cases, and what a contender does not promise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import by_hand, ours, peers, servers
from .workloads import (
    ASYNCIO,
    HELD,
    SYNC,
    TRIO,
    UVLOOP,
    Dependency,
    Function,
    Workload,
    World,
)

Wrap = Callable[[Function, World, bool], Function]

BARE, EMPTY, OURS, HAND = "bare call", "empty pipeline", "resilient", "by hand"
RAISE = "raise by hand"
FOR_THREADS = "by hand, a lock"
BULKHEAD, MANY = "our Bulkhead", "300 endpoints"
WITHOUT = "without Balance"
NO_OP = "a no-op BaseHTTPMiddleware"
REJECTING = "resilient, rejected"

AT_ONCE, SUSPENDS = "at once", "suspends once"
SUCCESS = (AT_ONCE, SUSPENDS)

FIRST = {
    "one policy, `Retry`": ("Retry", AT_ONCE),
    "one policy, `CircuitBreaker`": ("CircuitBreaker", AT_ONCE),
    "one policy, `RateLimiter`": ("RateLimiter", AT_ONCE),
    "one policy, `Timeout`": ("Timeout", AT_ONCE),
    "three policies": ("Three policies", AT_ONCE),
    "seven policies": ("Pipeline", AT_ONCE),
    "rejected by an open circuit": ("CircuitBreaker", "rejected"),
}
"""What a user asks first, and where it is measured: on asyncio."""


@dataclass(frozen=True)
class Peer:
    """Another library's way.

    Args:
        wrap: Protects a function.
        lacks: Which of the promises of ours it does not make: "threads" (its
            state is safe among threads, or among event loops),
            "cancellation" (one takes no permit with it), "window" (it judges
            by what happened lately, or spreads a rate evenly), "refusing" (it
            can say no without waiting), "budget" (retries are a share of
            the calls), "error" (what the function raised is what is raised),
            "deadline" (what is inside can look it up). Empty: none that we
            know of, which is the stricter reading.
        trio: Whether it is made for trio. Much of what is not runs there, as
            long as no call has to wait.
        cases: Where it has its part; empty: wherever its group has.
    """

    wrap: Wrap
    lacks: str = ""
    trio: bool = False
    cases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """A policy, what there is instead of it, and the least that it could cost."""

    ours: Wrap
    by_hand: Wrap | None
    peers: dict[str, Peer]
    cases: tuple[str, ...] = SUCCESS
    worlds: tuple[World, ...] = (ASYNCIO, UVLOOP, TRIO, SYNC)


GROUPS: dict[str, Group] = {
    "Retry": Group(
        ours.retry,
        by_hand.retry,
        {
            "tenacity": Peer(peers.tenacity_retry, "budget", trio=True),
            "stamina": Peer(peers.stamina_retry, "budget", trio=True),
            "backoff": Peer(peers.backoff_retry, "budget"),
            "hyx": Peer(peers.hyx_retry, "budget, error"),
            "pyresilience": Peer(peers.pyresilience_retry),
            "aioresilience": Peer(peers.aioresilience_retry, "budget"),
            "nopanic": Peer(peers.nopanic_retry, trio=True),
        },
        (*SUCCESS, "two failures"),
    ),
    "CircuitBreaker": Group(
        ours.breaker,
        by_hand.breaker,
        {
            FOR_THREADS: Peer(by_hand.breaker_for_threads, trio=True),
            "pybreaker": Peer(peers.pybreaker_breaker, "window"),
            "circuitbreaker": Peer(peers.circuitbreaker_breaker, "threads, window"),
            "purgatory": Peer(peers.purgatory_breaker, "threads, window"),
            "aiobreaker": Peer(peers.aiobreaker_breaker, "threads, window"),
            "hyx": Peer(peers.hyx_breaker, "threads, window"),
            "pyresilience": Peer(peers.pyresilience_breaker),
            "aioresilience": Peer(peers.aioresilience_breaker, "threads, window"),
            "interlock-cb": Peer(peers.interlock_breaker),
            "interlock-cb, by count": Peer(peers.interlock_breaker_by_count),
            "nopanic": Peer(peers.nopanic_breaker, trio=True),
        },
        (*SUCCESS, "rejected"),
    ),
    "RateLimiter": Group(
        ours.limiter,
        by_hand.limiter,
        {
            FOR_THREADS: Peer(by_hand.limiter_for_threads, trio=True),
            "aiolimiter": Peer(peers.aiolimiter_limiter, "threads, refusing"),
            "limits, fixed window": Peer(peers.limits_fixed, "window"),
            "limits, sliding window": Peer(peers.limits_sliding),
            "pyrate-limiter": Peer(peers.pyrate_limiter),
            "throttled-py": Peer(peers.throttled_limiter),
            "hyx": Peer(peers.hyx_limiter, "threads"),
            "pyresilience": Peer(peers.pyresilience_limiter, "threads"),
            "aioresilience": Peer(peers.aioresilience_limiter, "threads"),
            "nopanic": Peer(peers.nopanic_limiter, trio=True),
        },
        (*SUCCESS, "rejected"),
    ),
    "Bulkhead": Group(
        ours.bulkhead,
        by_hand.bulkhead,
        {
            FOR_THREADS: Peer(by_hand.bulkhead_for_threads, trio=True),
            "asyncio.Semaphore": Peer(peers.asyncio_semaphore, "threads, refusing"),
            "anyio.Semaphore": Peer(peers.anyio_semaphore, "threads", trio=True),
            "hyx": Peer(peers.hyx_bulkhead, "threads"),
            "pyresilience": Peer(peers.pyresilience_bulkhead, "threads"),
            "aioresilience": Peer(peers.aioresilience_bulkhead, "threads"),
            "interlock-cb": Peer(peers.interlock_bulkhead, "threads"),
            "nopanic": Peer(peers.nopanic_bulkhead, "threads", trio=True),
        },
        (*SUCCESS, "rejected"),
    ),
    "Balance": Group(
        ours.balance,
        None,
        {
            BULKHEAD: Peer(ours.bulkhead, trio=True),
            MANY: Peer(partial(ours.balance, endpoints=300), trio=True),
        },
        (AT_ONCE,),
        (ASYNCIO, SYNC),
    ),
    "Timeout": Group(
        ours.timeout,
        None,
        {
            "asyncio.timeout": Peer(peers.asyncio_timeout, "deadline"),
            "anyio.fail_after": Peer(peers.anyio_fail_after, trio=True),
            "hyx": Peer(peers.hyx_timeout, "deadline"),
            "pyresilience": Peer(peers.pyresilience_timeout, "deadline"),
            "aioresilience": Peer(peers.aioresilience_timeout, "deadline"),
            "interlock-cb": Peer(peers.interlock_timeout, "deadline"),
            "nopanic": Peer(peers.nopanic_timeout, "deadline", trio=True),
        },
        worlds=(ASYNCIO, UVLOOP, TRIO),
    ),
    "Fallback": Group(
        ours.fallback,
        by_hand.fallback,
        {
            "hyx": Peer(peers.hyx_fallback),
            "pyresilience": Peer(peers.pyresilience_fallback),
            "aioresilience": Peer(peers.aioresilience_fallback),
            "interlock-cb": Peer(peers.interlock_fallback),
            "nopanic": Peer(peers.nopanic_fallback, trio=True),
        },
        (*SUCCESS, "replaced"),
    ),
    "PerKey": Group(
        ours.per_key,
        None,
        {"nopanic": Peer(peers.nopanic_keyed_limiter, trio=True)},
    ),
    "StaleCache": Group(
        ours.cache,
        None,
        {"nopanic": Peer(peers.nopanic_cache, trio=True)},
        (AT_ONCE,),
    ),
    "Three policies": Group(
        ours.three,
        None,
        {
            "hyx": Peer(peers.hyx_three, "threads, window, budget, error, deadline"),
            "pyresilience": Peer(peers.pyresilience_three, "budget, deadline"),
            "aioresilience": Peer(
                peers.aioresilience_three, "threads, window, budget, deadline"
            ),
            "nopanic": Peer(peers.nopanic_three, "deadline", trio=True),
        },
        (*SUCCESS, "two failures"),
    ),
    "Pipeline": Group(
        ours.stack,
        by_hand.stack,
        {
            "asyncio.timeout": Peer(
                peers.asyncio_timeout, "all but a timeout", cases=SUCCESS
            ),
            "tenacity mix": Peer(peers.tenacity_mix, "threads, window"),
            "stamina mix": Peer(peers.stamina_mix, "threads, window"),
            "hyx": Peer(peers.hyx_stack, "threads, window"),
            "pyresilience": Peer(peers.pyresilience_stack, "threads"),
            "aioresilience": Peer(peers.aioresilience_stack, "threads, window"),
            "interlock-cb": Peer(peers.interlock_stack, "threads, a rate limit"),
            "nopanic": Peer(peers.nopanic_stack, "threads, deadline", trio=True),
        },
        (*SUCCESS, "two failures", "rejected"),
    ),
    "Not decorated": Group(
        ours.retry,
        None,
        {"call or acall": Peer(ours.called, trio=True)},
    ),
    "Every policy": Group(
        ours.empty,
        None,
        {"asyncio.timeout": Peer(peers.asyncio_timeout)}
        | {name: Peer(partial(ours.alone, name)) for name in ours.POLICIES},
        (AT_ONCE,),
        (ASYNCIO, SYNC),
    ),
    "HTTP, balanced": Group(
        peers.httpx_balanced,
        None,
        {WITHOUT: Peer(peers.httpx_unbalanced)},
        (AT_ONCE,),
        (ASYNCIO,),
    ),
    "HTTP": Group(
        peers.httpx_ours,
        peers.httpx_by_hand,
        {
            "two asyncio.timeout": Peer(peers.httpx_two_timeouts, "all but timeouts"),
            "httpx-retries": Peer(peers.httpx_retries, "all but retries"),
            "clientwright": Peer(peers.clientwright_client),
        },
        (AT_ONCE,),
        (ASYNCIO,),
    ),
    "ASGI": Group(
        servers.middleware,
        None,
        {
            NO_OP: Peer(servers.no_op, "everything"),
            "resilient, a limit for each client": Peer(servers.per_client),
            REJECTING: Peer(servers.rejecting),
        },
        (AT_ONCE,),
        (ASYNCIO,),
    ),
}

BARES: dict[str, Wrap] = {
    "HTTP, balanced": peers.httpx_bare,
    "HTTP": peers.httpx_bare,
    "ASGI": servers.bare,
}
"""What is called bare where that is not the function alone."""


@dataclass
class Contender:
    """One of those that are compared, ready to be called."""

    name: str
    call: Function
    dependency: Dependency | None = None
    lacks: str = ""


@dataclass
class Scene:
    """A group at one case in one world."""

    group: str
    case: str
    world: World
    contenders: list[Contender] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Why a contender is missing, by its name."""

    @property
    def guarded(self) -> bool:
        """Whether calls raise."""
        return self.case == "rejected"


def first() -> Iterator[tuple[str, str, World]]:
    """The scenes of what a user asks first."""
    for name, case in FIRST.values():
        yield name, case, ASYNCIO


def scenes() -> Iterator[tuple[str, str, World]]:
    """Every group at every case in every world that it has."""
    for name, group in GROUPS.items():
        for world in group.worlds:
            for case in group.cases:
                held = name == "Bulkhead" and case == "rejected"
                if held and world in (TRIO, SYNC):
                    continue  # another task has to hold its only slot
                if not (world.sync and case == SUSPENDS):
                    yield name, case, world


async def build(name: str, case: str, world: World) -> Scene:
    """Build one, inside the event loop that it is for."""
    group = GROUPS[name]
    scene = Scene(name, case, world)
    wraps: dict[str, Peer] = {BARE: Peer(BARES.get(name, _bare))}
    if group.ours is not ours.empty and name not in BARES and case in SUCCESS:
        wraps[EMPTY] = Peer(ours.empty)
    wraps[OURS] = Peer(group.ours)
    if group.by_hand is not None:
        wraps[HAND] = Peer(group.by_hand)
    if case == "rejected" and name != "Pipeline":
        wraps[RAISE] = Peer(by_hand.raising)
    for library, peer in {**wraps, **group.peers}.items():
        try:
            if peer.cases and case not in peer.cases:
                raise NotImplementedError(f"has no part in {case!r}")
            if world is TRIO and library in group.peers and not peer.trio:
                raise NotImplementedError("not for trio")
            contender = _contender(library, peer, case, world)
            await _prepare(name, contender, case, world)
        except Exception as error:
            scene.missing[library] = _why(error)
        else:
            scene.contenders.append(contender)
    return scene


def _bare(fn: Function, world: World, tight: bool) -> Function:
    return fn


def _contender(name: str, peer: Peer, case: str, world: World) -> Contender:
    if case in ("rejected", "replaced"):
        dependency = Dependency(world)
        call = peer.wrap(dependency.function, world, True)
        return Contender(name, call, dependency, peer.lacks)
    failures = 2 if case == "two failures" else 0
    workload = Workload(world, suspends=case != AT_ONCE, failures=failures)
    if name == BARE and failures:
        # What is measured is what the failures cost as well.
        workload = Workload(world)
    return Contender(name, peer.wrap(workload.function, world, False), None, peer.lacks)


async def _prepare(group: str, contender: Contender, case: str, world: World) -> None:
    """Have it reject from now on, if that is the case, or see that it works."""
    dependency = contender.dependency
    if dependency is None:
        answer = await _once(contender.call, world)
        if not group.startswith("HTTP") and answer != 1:
            raise RuntimeError(f"it answers {answer!r}")
        return
    if contender.name == BARE:
        return
    if group == "Fallback":
        dependency.down = True
        await _once(contender.call, world)
    elif group in ("CircuitBreaker", "Pipeline"):
        dependency.down = True
        for _ in range(150):
            await _swallow(contender.call, world)
        dependency.down = False
    elif group == "RateLimiter":
        await _swallow(contender.call, world)
    elif group == "Bulkhead":
        task = asyncio.ensure_future(_hold(contender.call))
        HOLDERS.add(task)
        task.add_done_callback(HOLDERS.discard)
        for _ in range(5):
            await asyncio.sleep(0)
    if case == "rejected":
        before = dependency.calls
        await _swallow(contender.call, world)
        if dependency.calls != before:
            raise NotImplementedError("it does not reject")


HOLDERS: set[asyncio.Future[None]] = set()
"""Calls that keep the only slot of a bulkhead; they end with their loop."""


async def _hold(call: Function) -> None:
    await call(HELD)


async def _once(call: Function, world: World) -> Any:
    answer = call(1)
    return answer if world.sync else await answer


async def _swallow(call: Function, world: World) -> None:
    try:
        await _once(call, world)
    except Exception:
        pass


def _why(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return f"not installed: {error.name}"
    if isinstance(error, NotImplementedError):
        return text
    return f"fails here: {type(error).__name__}: {text}"
