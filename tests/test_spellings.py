"""The spellings: decorator, `call`, `acall`, `guard`, `attempts`, and refusals."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import sys
import types
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self
from unittest import mock

import pytest
from tests.colours import World, in_every_colour

from resilient import (
    AdaptiveThrottle,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    Fallback,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    Timeout,
    constant,
)
from resilient._calls import call as resilient_call
from resilient._edges.driver import suspend
from resilient._edges.steps import RUN
from resilient._runtimes.sync import SYNC
from resilient._values.callables import colour_of
from resilient.testing import off

ALONE: list[Callable[[], Policy[Any]]] = [
    lambda: Retry(OSError, backoff=constant(0)),
    CircuitBreaker,
    AdaptiveThrottle,
    lambda: Bulkhead(1),
    lambda: RateLimiter(100),
    lambda: Timeout(5),
    lambda: Fallback("instead"),
    lambda: PerKey(lambda key: Bulkhead(1), key=lambda *args, **kwargs: args),
    Pipeline,
    lambda: Pipeline(Timeout(5), Retry(OSError, backoff=constant(0)), Bulkhead(1)),
]
IDS = [
    "retry",
    "breaker",
    "throttle",
    "bulkhead",
    "limiter",
    "timeout",
    "fallback",
    "per key",
    "empty",
    "pipeline",
]

every_policy = pytest.mark.parametrize("make", ALONE, ids=IDS)


def double(number: int, *, plus: int = 0) -> int:
    """Double it."""
    return 2 * number + plus


async def adouble(number: int, *, plus: int = 0) -> int:
    """Double it, later."""
    return 2 * number + plus


def count_up(to: int) -> Iterator[int]:
    """Count."""
    yield from range(to)


async def acount_up(to: int) -> AsyncIterator[int]:
    """Count, later."""
    for number in range(to):
        yield number


class Doubler:
    """Callable objects, methods and their like."""

    def __call__(self, number: int) -> int:
        return 2 * number

    def method(self, number: int) -> int:
        return 2 * number

    async def amethod(self, number: int) -> int:
        return 2 * number


class ADoubler:
    """A callable object whose call is a coroutine function."""

    async def __call__(self, number: int) -> int:
        return 2 * number


# --- where a spelling has a meaning -----------------------------------------------


@every_policy
def test_a_decorated_function_is_the_function(make: Callable[[], Policy[Any]]) -> None:
    """It takes the same arguments and answers the same."""
    assert 7 == make()(double)(3, plus=1)


@every_policy
def test_a_decorated_coroutine_function_is_one(
    make: Callable[[], Policy[Any]],
) -> None:
    """It is told apart as one, and answers the same when it is awaited."""
    decorated = make()(adouble)

    assert inspect.iscoroutinefunction(decorated)
    assert 7 == asyncio.run(decorated(3, plus=1))


@every_policy
def test_call_passes_arguments_on(make: Callable[[], Policy[Any]]) -> None:
    """`call` takes the function first and then what the function takes."""
    assert 7 == make().call(double, 3, plus=1)


@every_policy
def test_acall_passes_arguments_on(make: Callable[[], Policy[Any]]) -> None:
    """So does `acall`."""
    assert 7 == asyncio.run(make().acall(adouble, 3, plus=1))


def kinds() -> dict[str, tuple[Callable[..., Any], bool]]:
    """Return callables that double, and whether they have to be awaited."""
    return {
        "partial": (functools.partial(double), False),
        "async partial": (functools.partial(functools.partial(adouble)), True),
        "object": (Doubler(), False),
        "async object": (ADoubler(), True),
        "bound method": (Doubler().method, False),
        "bound async method": (Doubler().amethod, True),
        "lambda": (lambda number: 2 * number, False),
        "builtin": ((2).__mul__, False),
        "mock": (mock.Mock(return_value=6), False),
        "async mock": (mock.AsyncMock(return_value=6), True),
    }


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    ("fn", "colour"),
    [
        (lambda: None, "sync"),
        (lambda: (yield), "generator"),
        (adouble, "async"),
        (acount_up, "async generator"),
    ],
)
def test_colours_are_told_from_the_code(
    fn: Callable[..., Any], colour: str, marked: bool
) -> None:
    """With and without attributes, which may be marks."""
    if marked:
        fn = functools.wraps(fn)(types.FunctionType(fn.__code__, fn.__globals__))
    assert colour == colour_of(fn)


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_callable_can_be_decorated(kind: str) -> None:
    """Partials and callable objects are looked into, not called to find out."""
    fn, is_async = kinds()[kind]
    decorated = Pipeline(Retry(OSError), Bulkhead(1))(fn)

    assert is_async == inspect.iscoroutinefunction(decorated)
    assert 6 == (asyncio.run(decorated(3)) if is_async else decorated(3))
    assert decorated.__wrapped__ is fn


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_callable_can_be_called(kind: str) -> None:
    """`call` and `acall` take them as well."""
    fn, is_async = kinds()[kind]
    policy = Bulkhead(1)

    assert 6 == (asyncio.run(policy.acall(fn, 3)) if is_async else policy.call(fn, 3))


def test_call_takes_a_class() -> None:
    """Making an object may need resilience, too."""
    assert isinstance(Bulkhead(1).call(Doubler), Doubler)


def test_methods_are_protected_in_the_class() -> None:
    """A decorated method binds, for objects, classes and statics alike."""
    bulkhead = Bulkhead(1)

    class Shop:
        @bulkhead
        def price(self, article: str) -> tuple[Any, str]:
            return self, article

        @classmethod
        @bulkhead
        def open(cls, where: str) -> tuple[Any, str]:
            return cls, where

        @staticmethod
        @bulkhead
        def close(where: str) -> str:
            return where

        @bulkhead
        async def order(self, article: str) -> tuple[Any, str]:
            return self, article

    shop = Shop()
    assert (shop, "tea") == shop.price("tea")
    assert (Shop, "here") == Shop.open("here")
    assert "there" == Shop.close("there")
    assert (shop, "tea") == asyncio.run(shop.order("tea"))


def test_a_generator_stays_one() -> None:
    """Decorated generators are generators still."""
    decorated = Bulkhead(1)(count_up)
    adecorated = Bulkhead(1)(acount_up)

    async def consume() -> list[int]:
        return [item async for item in adecorated(3)]

    assert inspect.isgeneratorfunction(decorated)
    assert inspect.isasyncgenfunction(adecorated)
    assert [0, 1, 2] == list(decorated(3))
    assert [0, 1, 2] == asyncio.run(consume())


@in_every_colour
async def test_guard_and_attempts_are_the_same_thing(w: World) -> None:
    """A slot is taken by each of the five spellings."""
    bulkhead = Bulkhead(1)

    async def used() -> int:
        return bulkhead.in_use

    assert 1 == await w.call(bulkhead, used)
    assert 1 == await w.decorate(bulkhead, used)()
    if w.is_sync:
        with bulkhead.guard():
            assert 1 == bulkhead.in_use
        for attempt in bulkhead.attempts():
            with attempt:
                assert 1 == bulkhead.in_use
    else:
        async with bulkhead.guard():
            assert 1 == bulkhead.in_use
        async for attempt in bulkhead.attempts():
            async with attempt:
                assert 1 == bulkhead.in_use
    assert 0 == bulkhead.in_use


def test_a_retry_alone_has_attempts() -> None:
    """The parameter of that name does not hide the spelling."""
    numbers = []
    for attempt in Retry(OSError, backoff=constant(0), attempts=2).attempts():
        with attempt:
            numbers.append(attempt.number)
            if len(numbers) == 1:
                raise OSError

    assert [1, 2] == numbers


def test_decorated_functions_may_be_decorated_again() -> None:
    """Each policy around is a call of its own."""
    inner, outer = Bulkhead(1, name="inner"), Bulkhead(1, name="outer")
    seen: list[tuple[int, int]] = []

    @outer
    @inner
    def look() -> None:
        seen.append((outer.in_use, inner.in_use))

    look()
    assert [(1, 1)] == seen


def test_recursion_into_a_full_bulkhead_is_refused() -> None:
    """A call inside a call takes a second slot, and there is none."""
    bulkhead = Bulkhead(1, max_queue=5)

    @bulkhead
    def outer() -> None:
        inner()

    @bulkhead
    def inner() -> None:
        raise AssertionError("not reached")

    with pytest.raises(BulkheadFullError):
        outer()
    assert 0 == bulkhead.in_use


# --- what a decorated function says of itself -------------------------------------


@pytest.mark.parametrize("fn", [double, adouble, count_up, acount_up])
def test_signature_and_names_are_kept(fn: Callable[..., Any]) -> None:
    """Tools that look at the function see the one that was written."""
    fn.mark = "kept"  # type: ignore[attr-defined]  # functions take attributes
    decorated = Pipeline(Timeout(5), Bulkhead(1))(fn)

    assert inspect.signature(fn) == inspect.signature(decorated)
    assert fn.__name__ == decorated.__name__
    assert fn.__qualname__ == decorated.__qualname__
    assert fn.__module__ == decorated.__module__
    assert fn.__doc__ == decorated.__doc__
    assert "kept" == decorated.mark
    assert decorated.__wrapped__ is fn


def test_a_decorated_partial_is_called_after_its_function() -> None:
    """It has no name of its own, and our wrapper's would say nothing."""
    decorated = Bulkhead(1)(functools.partial(double, plus=1))

    assert "double" == decorated.__name__
    assert "(number: int, *, plus: int = 1) -> int" == str(
        inspect.signature(decorated)
    ).replace("'", "")


class BoundDoubler(Doubler):
    """A callable object that a class binds as its method."""

    def __get__(self, owner: object, kind: type | None = None) -> Self:
        return self


@pytest.mark.parametrize("kind", [Doubler, BoundDoubler])
def test_a_decorated_object_is_called_after_its_class(kind: type[Doubler]) -> None:
    """Its attributes are not copied to a function."""
    thing = kind()
    thing.secret = 1  # type: ignore[attr-defined]  # any object has attributes
    decorated = Bulkhead(1)(thing)

    assert kind.__name__ == decorated.__qualname__
    assert not hasattr(decorated, "secret")
    assert 6 == decorated(3)


def test_a_policy_is_called_after_the_first_function() -> None:
    """A policy without a name is called after the function it decorates."""
    policy, named = Bulkhead(1), Bulkhead(1, name="slots")
    assert policy.name is None
    assert "Bulkhead" == policy.label

    for spelling in (policy, named):
        spelling(double)
        spelling(adouble)

    assert ("double", "double") == (policy.name, policy.label)
    assert ("slots", "slots") == (named.name, named.label)
    assert "Bulkhead(1)" == repr(policy)
    assert policy.with_().name is None


# --- refusals ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "decorator",
    [
        AdaptiveThrottle,
        Bulkhead,
        CircuitBreaker,
        Fallback,
        Pipeline,
        RateLimiter,
        Retry,
        Timeout,
    ],
)
@pytest.mark.parametrize("fn", [double, adouble])
def test_a_decorator_without_parentheses_is_refused(
    decorator: Any, fn: Callable[..., Any]
) -> None:
    """At once, not as a policy in the function's place."""
    with pytest.raises(TypeError, match="parentheses"):
        decorator(fn)


def test_what_is_no_function_is_not_decorated() -> None:
    """Neither classes, nor bound kinds of methods, nor values."""
    policy = Bulkhead(1)

    with pytest.raises(TypeError, match="put @classmethod above the policy"):
        policy(classmethod(double))  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError, match="put @staticmethod above the policy"):
        policy(staticmethod(double))
    with pytest.raises(TypeError, match="got Doubler; a class is protected method by"):
        policy(Doubler)
    with pytest.raises(TypeError, match="a policy decorates functions, got 3"):
        policy(3)  # type: ignore[call-overload]  # that is the point


def test_the_shared_object_cannot_be_entered() -> None:
    """It would have to keep the state of one call: guard() makes an object."""
    with pytest.raises(TypeError, match=r"with policy\.guard\(\):"):
        with Pipeline(name="shop"):
            pass

    async def enter() -> None:
        async with Bulkhead(1):
            pass

    with pytest.raises(TypeError, match=r"with policy\.guard\(\):"):
        asyncio.run(enter())


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (adouble, "`call` takes plain functions, adouble is a coroutine function: use"),
        (count_up, "`call` takes plain functions, count_up is a generator: use the de"),
        (acount_up, "acount_up is an async generator: use the decorator"),
    ],
)
def test_call_takes_plain_functions(fn: Callable[..., Any], text: str) -> None:
    """Anything else would leave its protection before it has begun."""
    with pytest.raises(TypeError, match=text):
        Bulkhead(1).call(fn, 1)


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (double, "'double' returned int, which `acall` cannot await: use `call`"),
        (count_up, "count_up is a generator: use the decorator"),
        (acount_up, "acount_up is an async generator: use the decorator"),
    ],
)
def test_acall_takes_what_can_be_awaited(fn: Callable[..., Any], text: str) -> None:
    """A plain function would block the event loop."""
    with pytest.raises(TypeError, match=text):
        asyncio.run(Bulkhead(1).acall(fn, 1))


@pytest.mark.parametrize("usage", ["call", "decorator"])
def test_a_plain_function_that_returns_an_awaitable_is_refused(
    usage: str,
) -> None:
    """Its work would run unprotected; its coroutine is closed, not forgotten."""
    bulkhead = Bulkhead(1)

    def sly(number: int) -> Any:
        return adouble(number)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match=r"'.*sly' is a plain function that return"):
            bulkhead.call(sly, 1) if usage == "call" else bulkhead(sly)(1)
        gc.collect()
    assert 0 == bulkhead.in_use


def test_any_awaitable_is_refused() -> None:
    """Not only a coroutine; an awaitable without `close` is left as it is."""

    class Later:
        def __await__(self) -> Iterator[None]:
            raise AssertionError("it was awaited")

    breaker = CircuitBreaker(consecutive_failures=1)
    with pytest.raises(TypeError, match="make it `async def`"):
        breaker.call(Later)
    # A mistake of the caller's is no failure of the dependency.
    assert 0 == breaker.statistics().calls


@pytest.mark.parametrize("usage", ["attempts", "generator", "async generator"])
def test_a_fallback_has_no_meaning_where_there_is_nothing_to_replace(
    usage: str,
) -> None:
    """Blocks and streams cannot be answered for; alone and in a pipeline."""
    for policy in (Fallback(1), Pipeline(Fallback(1)), Pipeline(Pipeline(Fallback(1)))):
        with pytest.raises(TypeError, match=r"Fallback\(1\) may answer in the place"):
            if usage == "attempts":
                policy.attempts()
            else:
                policy(count_up if usage == "generator" else acount_up)


@pytest.mark.parametrize(
    ("policy", "hint"),
    [
        (Retry(OSError), r"attempts\(\)"),
        (Pipeline(Timeout(1), Retry(OSError)), r"attempts\(\)"),
        (Fallback(1), "a function"),
        (Pipeline(Fallback(1)), "a function"),
    ],
)
def test_a_guard_runs_its_block_once(policy: Policy[Any], hint: str) -> None:
    """A policy that may need more is refused when the guard is made."""
    with pytest.raises(TypeError, match=f"cannot do with a block: use {hint}"):
        policy.guard()


def test_an_async_fallback_cannot_answer_a_synchronous_call() -> None:
    """It is refused at decoration, not when the first call fails."""

    async def later(error: Exception | None) -> int:
        raise AssertionError("not called")

    with pytest.raises(TypeError, match="async fallback"):
        Pipeline(Fallback(function=later))(double)


def test_a_retry_that_nothing_tells_what_to_retry_is_refused() -> None:
    """There is no retrying everything."""
    for use in (
        lambda: Retry()(double),
        lambda: Retry().call(double, 1),
        lambda: Retry().attempts(),
        lambda: Pipeline(Retry()),
        lambda: Pipeline(Retry(), Pipeline(Timeout(1))),
        lambda: Pipeline(Pipeline(Timeout(1), classify=OSError), Retry()),
        lambda: PerKey(lambda key: Retry(), key=lambda number: number).call(double, 1),
    ):
        with pytest.raises(TypeError, match="a Retry needs exception types"):
            use()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pipeline(Retry(backoff=constant(0)), classify=OSError),
        lambda: Pipeline(
            Retry(backoff=constant(0)), Pipeline(Timeout(9), classify=OSError)
        ),
        lambda: Pipeline(
            PerKey(lambda key: Retry(backoff=constant(0)), key=lambda: 1),
            classify=OSError,
        ),
    ],
    ids=["around", "further in", "per key"],
)
def test_a_pipeline_that_classifies_tells_its_retries(
    make: Callable[[], Policy[Any]],
) -> None:
    """In it, or further in, a Retry needs no types of its own."""
    calls = []

    def fail() -> None:
        calls.append(1)
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        make().call(fail)
    assert 3 == len(calls)


# --- switched off -----------------------------------------------------------------


@in_every_colour
async def test_switched_off_a_policy_calls_straight_through(w: World) -> None:
    """In every spelling: no slot is taken and nothing is retried."""
    bulkhead = Bulkhead(1)
    used: list[int] = []

    async def look() -> None:
        used.append(bulkhead.in_use)

    with off():
        await w.call(bulkhead, look)
        await w.decorate(bulkhead, look)()
        if w.is_sync:
            with bulkhead.guard():
                used.append(bulkhead.in_use)
            with pytest.raises(OSError, match="once"):
                for attempt in Retry(OSError).attempts():
                    with attempt:
                        raise OSError("once")
        else:
            async with bulkhead.guard():
                used.append(bulkhead.in_use)
            with pytest.raises(OSError, match="once"):
                async for attempt in Retry(OSError).attempts():
                    async with attempt:
                        raise OSError("once")
    assert [0, 0, 0] == used


# --- policies of one's own --------------------------------------------------------


class Suspends(Policy[Any]):
    """A policy that awaits something which is no affair of `call.runtime`."""

    async def around(self, proceed: Any, call: Any) -> Any:
        try:
            await asyncio.sleep(0)
        except RuntimeError:
            self.refused = True
            raise
        return await proceed(call)


def test_a_policy_that_suspends_in_a_synchronous_call_is_refused() -> None:
    """There is no event loop that could go on with it."""
    policy = Suspends()
    text = "a policy awaited NoneType in a synchronous call"

    with pytest.raises(RuntimeError, match=text):
        policy.call(double, 1)
    with pytest.raises(RuntimeError, match=text), policy.guard():
        raise AssertionError("not reached")
    with pytest.raises(RuntimeError, match=text):
        next(policy(count_up)(1))
    assert policy.refused
    assert 2 == asyncio.run(policy.acall(adouble, 1))


def test_around_is_for_the_author() -> None:
    """A policy that does not say what it does is refused when it is used."""
    with pytest.raises(NotImplementedError):
        Policy[Any]().call(double, 1)


def test_an_error_of_the_event_loop_goes_to_the_policy() -> None:
    """What a wait raises is raised in the policy that waits."""

    class Waits(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Any:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            loop.call_soon(future.set_exception, KeyError("late"))
            with pytest.raises(KeyError):
                await future
            return await proceed(call)

    async def main() -> int:
        async with Waits().guard():
            pass
        return await Waits().acall(adouble, 1)

    assert 2 == asyncio.run(main())


def test_a_function_run_elsewhere_is_held_to_the_same() -> None:
    """In a thread that may be abandoned an awaitable is refused as well."""
    policy = Pipeline(Timeout(60, abandon=True), Bulkhead(1))
    assert 7 == policy.call(double, 3, plus=1)
    with pytest.raises(TypeError, match="make it `async def`"):
        policy.call(lambda: adouble(1))
    with pytest.raises(ZeroDivisionError):
        policy.call(lambda: 1 // 0)


def test_the_requests_of_the_edge_have_names() -> None:
    """A debugger that stops at one shows what is asked for."""
    assert "RUN" == repr(RUN)


def test_a_partial_does_not_show_its_arguments() -> None:
    """They may be secret."""

    async def login(password: str) -> None:
        raise AssertionError("not called")

    partial: Any = functools.partial(login, password="hunter2")
    with pytest.raises(TypeError, match=r"plain functions, .*login is a corou") as e:
        Bulkhead(1).call(partial)
    assert "hunter2" not in str(e.value)


def test_an_answer_is_not_asked_what_it_is() -> None:
    """A proxy has every attribute, or fails to have it; its type knows."""

    class Proxy:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("not asked")

    proxy = Proxy()
    assert proxy is Bulkhead(1).call(lambda: proxy)


def test_an_interrupt_in_our_own_frame_gives_the_permit_back() -> None:
    """While its traceback is still alive."""
    bulkhead = Bulkhead(1)
    call = bulkhead(lambda: 1)

    def trace(frame: types.FrameType, event: str, arg: Any) -> Any:
        if event == "line" and bulkhead.in_use and frame.f_code is call.__code__:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    with pytest.raises(KeyboardInterrupt):
        sys.settrace(trace)
        try:
            call()
        finally:
            sys.settrace(before)
    assert 0 == bulkhead.in_use


@pytest.mark.parametrize("usage", ["acall", "guard", "attempts"])
def test_a_pending_call_may_be_collected_in_a_cycle(
    usage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its coroutines the collector closes first."""
    bulkhead = Bulkhead(100)
    noise: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)

    async def stuck() -> None:
        await suspend("a request")

    async def call(cycle: list[Any]) -> None:
        if usage == "acall":
            await bulkhead.acall(stuck)
        elif usage == "guard":
            async with bulkhead.guard():
                await stuck()
        else:
            async for attempt in bulkhead.attempts():
                async with attempt:
                    await stuck()

    def abandon() -> None:
        cycle: list[Any] = []
        cycle.append(call(cycle))
        context = contextvars.copy_context()
        cycle.append(context)
        context.run(cycle[0].send, None)

    monkeypatch.setattr(resilient_call, "current_runtime", lambda call: SYNC)
    gc.disable()
    try:
        for _ in range(20):
            abandon()
        assert 20 == bulkhead.in_use
    finally:
        gc.enable()
    gc.collect()
    assert [] == noise
    assert 0 == bulkhead.in_use


# -- Functions that are called under a policy again and again


def none_at_all() -> int:
    """Succeed."""
    return 0


async def none_later() -> int:
    """Succeed."""
    return 0


def test_functions_that_are_called_again_are_looked_at_once() -> None:
    """Their edges are kept, of so many; and a plain one that `acall` takes."""
    policy = Retry(OSError)
    makers = [types.FunctionType(none_at_all.__code__, {}) for _ in range(40)]

    for fn in [none_at_all, none_at_all, none_at_all, *makers, *makers]:
        assert 0 == policy.call(fn)
    for later in [none_later, none_later, none_later, lambda: none_later()]:
        assert 0 == asyncio.run(policy.acall(later))
    with pytest.raises(TypeError, match="`call` takes plain functions"):
        policy.call(none_later)
    with pytest.raises(TypeError, match="cannot await"):
        asyncio.run(policy.acall(none_at_all))  # type: ignore[arg-type]  # wrong


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_called_under_a_policy_is_not_kept_alive(times: int) -> None:
    """Nothing that a function closes over is; the policy is part of a cycle at most."""
    policy, thing = Retry(OSError), Timeout(1)
    lost_thing, lost_policy = weakref.ref(thing), weakref.ref(policy)

    for _ in range(times):
        assert policy.call((lambda thing: lambda: thing)(thing)) is thing
    del thing
    assert lost_thing() is None

    for _ in range(times):
        assert 0 == policy.call(none_at_all)
    del policy
    gc.collect()
    assert lost_policy() is None
