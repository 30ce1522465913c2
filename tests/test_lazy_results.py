"""Lazy results: what a function returns before its work is done.

A generator, an awaitable, a `Future` or a context manager is protected where a
policy can tell what it is, and else refused: never let through unprotected.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

import pytest
from tests.colours import World, in_every_colour
from tests.test_generators import plain_generator

from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    AdmissionPolicy,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    CircuitState,
    Coalesce,
    Fallback,
    Hedge,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    StaleCache,
    Timeout,
    TimeoutExceededError,
    constant,
    current_call,
    deadline_after,
    remaining,
)
from resilient.testing import off

ONCE: dict[str, Callable[[], Policy[Any]]] = {
    "AdaptiveConcurrency": AdaptiveConcurrency,
    "AdaptiveThrottle": AdaptiveThrottle,
    "Bulkhead": lambda: Bulkhead(1),
    "CircuitBreaker": lambda: CircuitBreaker(consecutive_failures=1),
    "PerKey": lambda: PerKey(lambda key: Bulkhead(1), key=lambda *args: args),
    "Pipeline": Pipeline,
    "RateLimiter": lambda: RateLimiter(100),
    "Retry": lambda: Retry(Exception, backoff=constant(0)),
    "Timeout": lambda: Timeout(60),
}
"""Policies that a stream, or a context manager, may have around it."""

REPLACING: dict[str, Callable[[], Policy[Any]]] = {
    "Coalesce": lambda: Coalesce(key=lambda *args: args),
    "Fallback": lambda: Fallback(None, on=OSError),
    "Hedge": lambda: Hedge(60, max_threads=2),
    "StaleCache": lambda: StaleCache(1, 1, key=lambda *args: args),
}
"""Those that it may not."""


class Later:
    """An awaitable that is no coroutine."""

    def __await__(self) -> Iterator[None]:
        raise AssertionError("not awaited")


def numbers() -> Iterator[int]:
    """Count."""
    yield 1


async def anumbers() -> AsyncIterator[int]:
    """Count, later."""
    yield 1


async def number() -> int:
    """Count, were it awaited."""
    raise AssertionError("not awaited")


LAZY: dict[str, tuple[Callable[[], Any], str]] = {
    "coroutine": (number, "an awaitable"),
    "awaitable": (Later, "an awaitable"),
    "generator": (numbers, "a generator"),
    "generator expression": (lambda: (one for one in ()), "a generator"),
    "async generator": (anumbers, "an async generator"),
    "future": (concurrent.futures.Future, "a Future"),
    "context manager": (contextmanager(numbers), "a context manager"),
    "async context manager": (asynccontextmanager(anumbers), "a context manager"),
}

every_lazy_result = pytest.mark.parametrize(
    ("make", "what"), LAZY.values(), ids=LAZY.keys()
)


# -- Refused at the call


@every_lazy_result
@pytest.mark.parametrize("name", [*ONCE, *REPLACING, "Timeout(abandon)"])
def test_a_lazy_result_is_refused(
    name: str, make: Callable[[], Any], what: str
) -> None:
    """By every policy in every colour: no retry, no failure, no permit kept."""
    policies = {
        **ONCE,
        **REPLACING,
        "Timeout(abandon)": lambda: Timeout(60, abandon=True),
    }
    calls: list[int] = []

    def returns() -> Any:
        calls.append(1)
        return make()

    async def areturns() -> Any:
        calls.append(1)
        return make()

    @in_every_colour
    async def scenario(w: World) -> None:
        if name == "Timeout(abandon)" and not w.is_sync:
            return
        calls.clear()
        policy = Pipeline(policies[name](), bulkhead := Bulkhead(1))
        kind = "plain" if w.is_sync else "coroutine"
        with pytest.raises(TypeError, match=f"a {kind} function .* returned {what},"):
            if w.is_sync:
                policy(returns)()
            else:
                await policy(areturns)()
        assert [1] == calls
        assert 0 == bulkhead.in_use

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for colour in ("sync", "asyncio", "trio"):
            scenario(colour)
        gc.collect()


CURES: list[tuple[Callable[[], Any], str, str]] = [
    (number, "make it `async def`", "await it inside"),
    (
        numbers,
        r"make it a generator function \(`yield from …`\)",
        "use it up inside, or make it an async generator function",
    ),
    (anumbers, *["make it an async generator function"] * 2),
    (
        concurrent.futures.Future,
        r"inside \(`return future.result\(\)`\)",
        r"inside \(`return await asyncio.wrap_future\(future\)`\)",
    ),
    (contextmanager(numbers), *["put the policy directly above @contextmanager"] * 2),
]


@pytest.mark.parametrize(("make", "plain", "coroutine"), CURES)
def test_the_refusal_names_the_cure(
    make: Callable[[], Any], plain: str, coroutine: str
) -> None:
    """What the function has to become."""

    async def returns() -> Any:
        return make()

    with pytest.raises(TypeError, match=plain):
        Bulkhead(1).call(lambda: make())
    with pytest.raises(TypeError, match=coroutine):
        asyncio.run(Bulkhead(1).acall(returns))


def test_a_task_that_a_coroutine_function_returns_passes() -> None:
    """It runs by itself; what was protected is its start."""

    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(asyncio.sleep(0))

    async def main() -> None:
        await (await Timeout(1)(begin)())
        # A plain function may have been meant to be awaited.
        with pytest.raises(TypeError, match="returned an awaitable"):
            Timeout(1).call(lambda: asyncio.ensure_future(asyncio.sleep(0)))

    asyncio.run(main())


def test_a_client_that_may_be_awaited_is_no_lazy_result() -> None:
    """Connections and pools that `await` opens are returned from factories."""

    class Pool:
        def __await__(self) -> Iterator[None]:
            raise AssertionError("not awaited")

        async def __aenter__(self) -> None:
            raise AssertionError("not entered")

    async def make() -> Pool:
        return Pool()

    assert isinstance(asyncio.run(Timeout(1)(make)()), Pool)
    # A plain function may have forgotten to await it, and could not.
    with pytest.raises(TypeError, match="returned an awaitable"):
        Timeout(1).call(Pool)


@in_every_colour
async def test_what_is_not_lazy_passes(w: World) -> None:
    """Iterators, other managers and whatever else has been made already."""
    for value in (None, [1], iter([1]), map(str, ()), nullcontext(), object(), World):

        async def answer(value: Any = value) -> Any:
            return value

        assert value is await w.call(Bulkhead(1), answer)


# -- Context managers


def managed(w: World, policy: Policy[Any], fn: Callable[..., Any]) -> Any:
    """Return ``policy(contextmanager(fn))``; entered by ``async with``."""
    if not w.is_sync:
        return policy(asynccontextmanager(fn))
    made = policy(contextmanager(plain_generator(fn)))

    @asynccontextmanager
    async def entered(*args: Any) -> AsyncIterator[Any]:
        with made(*args) as value:
            yield value

    return entered


@in_every_colour
async def test_entering_a_context_manager_is_the_attempt(w: World) -> None:
    """It is tried again; the block runs once, and its value is the block's."""
    tries: list[int] = []

    async def connection(host: str) -> AsyncIterator[str]:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("no route")
        yield host

    connect = managed(w, Retry(ConnectionError, backoff=constant(0)), connection)
    async with connect("db") as host:
        assert "db" == host
    assert 3 == len(tries)


@in_every_colour
async def test_a_pipeline_stands_above_a_context_manager(w: World) -> None:
    """As decorators and as one; a breaker counts entries that fail."""
    breaker = CircuitBreaker(consecutive_failures=2)
    tries: list[int] = []

    async def connection() -> AsyncIterator[None]:
        tries.append(1)
        raise ConnectionError("no route")
        yield

    retry = Retry(ConnectionError, backoff=constant(0))
    fn = connection if not w.is_sync else plain_generator(connection)
    manager: Any = asynccontextmanager if not w.is_sync else contextmanager
    connect = Timeout(60)(retry(breaker(manager(fn))))
    for _ in range(2):
        with pytest.raises(CircuitOpenError):
            if w.is_sync:
                with connect():
                    raise AssertionError("not entered")
            else:
                async with connect():
                    raise AssertionError("not entered")
    assert 2 == len(tries)
    assert CircuitState.OPEN is breaker.state


@in_every_colour
async def test_permits_last_until_the_exit(w: World) -> None:
    """However the block ends."""
    bulkhead = Bulkhead(1)

    async def connection() -> AsyncIterator[None]:
        yield

    connect = managed(w, bulkhead, connection)
    async with connect():
        assert 1 == bulkhead.in_use
        with pytest.raises(BulkheadFullError):
            async with connect():
                raise AssertionError("not entered")
    assert 0 == bulkhead.in_use
    with pytest.raises(KeyError, match="mine"):
        async with connect():
            assert 1 == bulkhead.in_use
            raise KeyError("mine")
    assert 0 == bulkhead.in_use


class Judged(AdmissionPolicy):
    """A policy of one's own that notes what its permits come back with."""

    __slots__ = ("outcomes",)

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: list[Outcome | None] = []

    def admit(self, call: Any) -> Any:
        return call

    def settle(self, permit: Any, outcome: Outcome | None) -> None:
        self.outcomes.append(outcome)


@in_every_colour
async def test_the_block_s_own_errors_are_not_judged(w: World) -> None:
    """Entering went well; also where the manager makes another error of it."""
    breaker = CircuitBreaker(consecutive_failures=1)
    own = Judged()

    async def connection(translates: bool) -> AsyncIterator[None]:
        try:
            yield
        except KeyError as error:
            if translates:
                raise LookupError("translated") from error
            raise

    connect = managed(w, Pipeline(breaker, own), connection)
    for translates, text in ((False, "mine"), (True, "translated")):
        with pytest.raises(LookupError, match=text):
            async with connect(translates):
                raise KeyError("mine")
    assert CircuitState.CLOSED is breaker.state
    assert 2 == breaker.statistics().calls
    assert [None, None] == [outcome and outcome.error for outcome in own.outcomes]
    assert 2 == len([outcome for outcome in own.outcomes if outcome is not None])


@in_every_colour
async def test_an_exit_that_fails_after_a_good_block_is_the_manager_s_own(
    w: World,
) -> None:
    """As a stream that fails after its first item: never tried again."""
    own = Judged()
    tries: list[int] = []

    async def connection() -> AsyncIterator[None]:
        tries.append(1)
        yield
        raise ConnectionError("commit failed")

    connect = managed(
        w, Pipeline(Retry(ConnectionError, backoff=constant(0)), own), connection
    )
    with pytest.raises(ConnectionError, match="commit failed"):
        async with connect():
            pass
    assert [1] == tries
    assert [ConnectionError] == [
        type(outcome and outcome.error) for outcome in own.outcomes
    ]


@in_every_colour
async def test_a_manager_may_swallow_the_block_s_error(w: World) -> None:
    """As it may without a policy."""

    async def forgiving() -> AsyncIterator[None]:
        try:
            yield
        except KeyError:
            pass

    async with managed(w, Bulkhead(1), forgiving)():
        raise KeyError("swallowed")


@in_every_colour
async def test_a_timeout_bounds_the_entering_alone(w: World) -> None:
    """The block takes its time, and the exit always runs."""
    ended: list[str] = []

    async def connection(seconds: float) -> AsyncIterator[None]:
        assert 1.0 == remaining()
        await w.sleep(seconds)
        try:
            yield
            ended.append("committed")
        finally:
            assert remaining() is None
            await w.sleep(3)
            ended.append("closed")

    connect = managed(w, Timeout(1), connection)
    async with connect(0.5):
        assert remaining() is None
        await w.sleep(60)
    assert ["committed", "closed"] == ended
    if not w.is_sync:
        with pytest.raises(TimeoutExceededError):
            async with connect(2):
                raise AssertionError("not entered")


@in_every_colour
async def test_an_exit_runs_though_a_deadline_around_has_passed(w: World) -> None:
    """What was opened is closed; the deadline is there to be asked for."""
    left: list[float | None] = []

    async def connection() -> AsyncIterator[None]:
        yield
        left.append(remaining())

    with deadline_after(5):
        async with managed(w, Bulkhead(1), connection)():
            await w.sleep(60)
    assert [0.0] == left


@in_every_colour
async def test_a_manager_s_code_runs_inside_the_call_and_the_block_does_not(
    w: World,
) -> None:
    """As in a generator."""
    names: list[str] = []

    async def connection() -> AsyncIterator[None]:
        names.append(current_call().name)
        yield
        names.append(current_call().name)

    async with managed(w, Bulkhead(1), connection)():
        with pytest.raises(LookupError):
            current_call()
    assert 2 == len(names)
    assert {True} == {name.endswith("connection") for name in names}


@in_every_colour
async def test_a_block_that_stops_an_iteration_may(w: World) -> None:
    """StopIteration from the block comes out of it as it was."""
    stop: Any = StopIteration if w.is_sync else StopAsyncIteration

    async def connection() -> AsyncIterator[None]:
        yield

    policy = Bulkhead(1)
    if w.is_sync:
        with pytest.raises(stop), policy(contextmanager(plain_generator(connection)))():
            raise stop
    else:
        with pytest.raises(stop):
            async with policy(asynccontextmanager(connection))():
                raise stop
    assert 0 == policy.in_use


@in_every_colour
async def test_switched_off_a_manager_is_as_it_was(w: World) -> None:
    """No permit is taken."""
    bulkhead = Bulkhead(1)

    async def connection() -> AsyncIterator[str]:
        yield "db"

    with off():
        async with managed(w, bulkhead, connection)() as value:
            assert ("db", 0) == (value, bulkhead.in_use)


class Pool:
    """Methods that return context managers."""

    @Bulkhead(1)
    @contextmanager
    def connection(self, host: str) -> Iterator[str]:
        """Connect."""
        yield f"{host} of {type(self).__name__}"

    @contextmanager
    def bare(self, host: str) -> Iterator[str]:
        yield f"{host} of {type(self).__name__}"


def test_methods_partials_and_objects_are_told_apart_too() -> None:
    """Whatever `contextmanager` made is recognised; its name and text stay."""
    assert ("connection", "Connect.") == (
        Pool.connection.__name__,
        Pool.connection.__doc__,
    )
    with Pool().connection("a") as value:
        assert "a of Pool" == value
    with Bulkhead(1)(Pool().bare)("b") as value:
        assert "b of Pool" == value
    with Bulkhead(1)(functools.partial(Pool().bare, host="c"))() as value:
        assert "c of Pool" == value

    class Open:
        __call__ = Pool.bare

    with Bulkhead(1)(Open())("d") as value:
        assert "d of Open" == value


def test_a_decorated_manager_decorates() -> None:
    """`contextmanager` makes decorators too, a new entry for each call."""
    bulkhead = Bulkhead(1)
    entered: list[int] = []

    @bulkhead
    @contextmanager
    def counted() -> Iterator[None]:
        entered.append(bulkhead.in_use)
        yield

    @counted()
    def work(number: int) -> int:
        return number

    assert [3, 4] == [work(3), work(4)]
    assert [1, 1] == entered


@pytest.mark.parametrize("name", [*ONCE, *REPLACING])
def test_a_policy_protects_a_context_manager_or_refuses_it(name: str) -> None:
    """On decoration: those that may answer in its place, or race it."""

    @contextmanager
    def connection(host: str) -> Iterator[str]:
        yield host

    @asynccontextmanager
    async def aconnection(host: str) -> AsyncIterator[str]:
        yield host

    async def main(connect: Any) -> str:
        async with connect("db") as value:
            return str(value)

    if name in ONCE:
        with ONCE[name]()(connection)("db") as value:
            assert "db" == value
        assert "db" == asyncio.run(main(ONCE[name]()(aconnection)))
        return
    for fn in (connection, aconnection):
        with pytest.raises(TypeError, match=r"context manager.*function"):
            REPLACING[name]()(fn)


def test_abandoning_has_no_meaning_for_a_context_manager() -> None:
    """It is entered on the thread that runs its block."""
    with pytest.raises(TypeError, match="leave out abandon=True there"):
        Timeout(1, abandon=True)(contextmanager(numbers))


def test_a_call_cannot_enter_a_context_manager() -> None:
    """`call` returns when it would have to be left: the decorator is for that."""
    with pytest.raises(TypeError, match="is a context manager: use the decorator"):
        Bulkhead(1).call(contextmanager(numbers))
    with pytest.raises(TypeError, match="is a context manager: use the decorator"):
        asyncio.run(Bulkhead(1).acall(asynccontextmanager(anumbers)))


# -- `acall`


class Client:
    """An SDK whose methods are plain, and answer what has to be awaited."""

    def get(self, key: str) -> Any:
        return fetch(key)

    def put(self, key: str) -> Any:
        raise ValueError(key)

    def __call__(self, key: str) -> Any:
        return fetch(key)


async def fetch(key: str) -> str:
    """Answer in capitals."""
    if key == "missing":
        raise KeyError(key)
    return key.upper()


class Answer:
    """An awaitable that is no coroutine."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __await__(self) -> Any:
        return fetch(self.key).__await__()


AWAITED: dict[str, Callable[[str], Any]] = {
    "coroutine function": fetch,
    "lambda": lambda key: fetch(key),
    "method": Client().get,
    "partial": functools.partial(Client.get, Client()),
    "object": Client(),
    "class": Answer,
    "task": lambda key: asyncio.ensure_future(fetch(key)),
}

every_awaited = pytest.mark.parametrize("fn", AWAITED.values(), ids=AWAITED.keys())


@every_awaited
@pytest.mark.parametrize("name", [*ONCE, *REPLACING])
def test_acall_awaits_what_the_function_returns(
    fn: Callable[[str], Any], name: str
) -> None:
    """Whatever it is, under any policy."""
    policy = (ONCE | REPLACING)[name]()
    assert "KEY" == asyncio.run(policy.acall(fn, "key"))


@every_awaited
def test_what_acall_awaits_is_protected(fn: Callable[[str], Any]) -> None:
    """Its error is the call's failure: tried again, counted, raised as it was."""
    breaker = CircuitBreaker(consecutive_failures=3)
    policy = Pipeline(Retry(KeyError, backoff=constant(0)), breaker)
    with pytest.raises(KeyError, match="missing"):
        asyncio.run(policy.acall(fn, "missing"))
    assert CircuitState.OPEN is breaker.state


def test_a_plain_function_that_fails_before_it_answers_is_a_failure() -> None:
    """It raised where it was called; no frame of ours more than one is shown."""
    retry = Retry(ValueError, backoff=constant(0))
    with pytest.raises(ValueError, match="key") as caught:
        asyncio.run(retry.acall(Client().put, "key"))
    assert ["wrapper", "put"] == [entry.name for entry in caught.traceback][-2:]


@pytest.mark.parametrize("name", [*ONCE, *REPLACING])
def test_acall_refuses_what_cannot_be_awaited(name: str) -> None:
    """A mistake of the caller's: no failure, no retry."""
    calls: list[str] = []

    def plain(key: str) -> str:
        calls.append(key)
        return key

    policy = Pipeline((ONCE | REPLACING)[name](), bulkhead := Bulkhead(1))
    with pytest.raises(TypeError, match=r"'.*plain' returned str, .*: use `call`"):
        asyncio.run(policy.acall(plain, "secret"))
    assert ["secret"] == calls
    assert 0 == bulkhead.in_use


def test_the_decorator_goes_on_refusing_what_cannot_be_told() -> None:
    """There the caller may not know that it has to be awaited."""
    with pytest.raises(TypeError, match="returned an awaitable"):
        Bulkhead(1)(Client().get)("key")


def test_functions_awaited_by_acall_are_themselves_to_a_cache() -> None:
    """A method is told by its object, not by a wrapper that is new each time."""
    calls: list[str] = []

    def get(key: str) -> Any:
        calls.append(key)
        return fetch(key)

    async def main() -> None:
        cache = StaleCache(60, 60)
        for _ in range(2):
            assert "KEY" == await cache.acall(get, "key")

    asyncio.run(main())
    assert ["key"] == calls
