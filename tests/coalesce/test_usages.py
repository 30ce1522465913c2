"""Coalesce: ways of use, keys, and other policies around it and inside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.coalesce.callers import Held, Slow, callers, together
from tests.colours import World, in_async_colours, in_every_colour

from resilient import (
    AdmissionPolicy,
    Bulkhead,
    BulkheadFullError,
    Call,
    CircuitBreaker,
    Coalesce,
    Fallback,
    PerKey,
    Pipeline,
    Priority,
    RateLimiter,
    ThrottledError,
    Timeout,
    current_call,
    priority,
)

# -- Spellings


class Shop:
    """Methods, plain and with keys."""

    def price(self, article: str) -> float:
        return 1.0

    async def price_async(self, article: str) -> float:
        return 1.0

    @staticmethod
    def open(hour: int) -> bool:
        return True

    @classmethod
    def name(cls) -> str:
        return "Shop"


@pytest.mark.parametrize("method", [Shop.price, Shop.price_async])
@pytest.mark.parametrize("made", [Coalesce, lambda: Pipeline(Coalesce(), Timeout(1))])
def test_a_method_needs_a_key(method: Any, made: Callable[[], Any]) -> None:
    """Whether two objects are the same only their author knows."""
    with pytest.raises(TypeError) as caught:
        made()(method)
    assert (
        f"Coalesce() needs a key=… for the method 'Shop.{method.__name__}', whose"
        " `self` would be part of the key: key=lambda self, …: …" == str(caught.value)
    )


def price_of(self: Shop, article: str) -> float:
    """To be assigned to a class."""
    return 1.0


class Lambdas:
    """Methods without a name."""

    price: Any = lambda shop, article: 1.0
    hours: Any = staticmethod(lambda: 8)


@pytest.mark.parametrize(
    ("method", "name", "first"),
    [
        (price_of, "price_of", "self"),
        (lambda cls: 1.0, "<lambda>", "cls"),
        (Lambdas.price, "Lambdas.<lambda>", "shop"),
    ],
)
def test_a_function_that_becomes_a_method_needs_a_key(
    method: Any, name: str, first: str
) -> None:
    """As far as it can be told."""
    with pytest.raises(TypeError) as caught:
        Coalesce()(method)
    assert (
        f"Coalesce() needs a key=… for the method {name!r}, whose `{first}` would be"
        f" part of the key: key=lambda {first}, …: …" == str(caught.value)
    )


def total(order: object, tax: float) -> float:
    """Nothing about it tells that it will be a method."""
    return 1.0


def test_a_function_that_became_a_method_is_refused_when_called() -> None:
    """What its decoration could not see; as a function it goes on."""
    shared = Coalesce()(total)

    class Order:
        total: Any = shared

    class Gift(Order):
        rebate: float = 0.1

    for order in (Order(), Gift()):
        with pytest.raises(TypeError) as caught:
            order.total(0.2)
        assert (
            "Coalesce() needs a key=… for the method 'Order.total', whose `self` would"
            " be part of the key: key=lambda self, …: …" == str(caught.value)
        )
    assert 1.0 == shared(1, 0.2)
    assert 1.0 == shared(Shop(), 0.2)
    assert 1.0 == shared(order=Order(), tax=0.2)


def test_other_lambdas_need_none() -> None:
    """They have no object, or none that is part of the arguments."""
    assert 1.0 == Coalesce()(lambda shop, article: 1.0)(1, 2)
    assert 8 == Coalesce()(Lambdas.hours)()


def test_a_method_with_a_key_is_a_function_like_any_other() -> None:
    """As are those whose object is no part of the arguments."""
    keyed = Coalesce(key=lambda self, article: article)
    assert 1.0 == keyed(Shop.price)(Shop(), "tea")
    assert 1.0 == Coalesce()(Shop().price)("tea")
    assert 1.0 == Coalesce().call(Shop().price, "tea")
    assert Coalesce()(Shop.open)(1)
    assert "Shop" == Coalesce()(Shop.name)()
    with pytest.raises(TypeError, match="needs a key"):
        Coalesce().call(Shop.price, Shop(), "tea")
    per_key = PerKey(lambda key: Coalesce(), key=lambda *args: 1)
    with pytest.raises(TypeError, match="needs a key"):
        per_key(Shop.price)(Shop(), "tea")


class Count:
    """A callable object."""

    def __call__(self) -> int:
        return 1


class Unhashable:
    """A callable object that cannot be part of a key."""

    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> int:
        return 1


def test_callable_objects_are_functions_too() -> None:
    """Unless they cannot be told apart."""
    assert 1 == Coalesce()(Count())()
    with pytest.raises(TypeError, match="has no key"):
        Coalesce()(Unhashable())()


def test_unhashable_arguments_need_a_key() -> None:
    """The text does not show them: they may be secret."""

    def function(secret: list[str]) -> None: ...

    with pytest.raises(TypeError) as caught:
        Coalesce()(function)(["password"])
    assert (
        "'function' has no key for Coalesce(): an argument is not hashable; say by"
        " key=… what tells its calls apart" == str(caught.value)
    )
    keyed = Coalesce(key=lambda secret: secret)
    with pytest.raises(TypeError) as caught:
        keyed(function)(["password"])
    assert "password" not in str(caught.value)
    assert "`key` must be hashable" in str(caught.value)
    assert keyed.is_pristine()


def test_it_has_no_meaning_for_blocks_and_generators() -> None:
    """A clear TypeError, at once."""

    def items() -> Iterator[int]:
        yield 1

    async def async_items() -> AsyncIterator[int]:
        yield 1

    for wrong in (Coalesce().guard, Coalesce().attempts):
        with pytest.raises(TypeError, match="use a function"):
            wrong()
    for generator in (items, async_items):
        with pytest.raises(TypeError, match="generator"):
            Coalesce()(generator)


def test_bad_arguments_are_refused() -> None:
    """With parameter, rule and value."""

    async def key() -> int:
        return 1

    with pytest.raises(TypeError) as caught:
        Coalesce(key=3)  # type: ignore[arg-type]
    assert "`key` must be a function or None, got 3" == str(caught.value)
    with pytest.raises(TypeError) as caught:
        Coalesce(key=key)  # type: ignore[arg-type]
    assert "`key` must be a plain function, got a coroutine function" == str(
        caught.value
    )


def test_a_decorator_without_parentheses_is_refused() -> None:
    """The function would be taken for the key."""
    with pytest.raises(TypeError) as caught:
        Coalesce(len)  # type: ignore[arg-type]  # that is the mistake
    assert (
        f"Coalesce takes keywords only, got {len!r}; a decorator needs its"
        " parentheses, @Coalesce()" == str(caught.value)
    )


def test_its_repr_reads_like_the_call_that_made_it() -> None:
    """A key by its name."""
    assert "Coalesce()" == repr(Coalesce())
    assert "Coalesce(key=len, name='load')".replace("len", repr(len)) == repr(
        Coalesce(key=len, name="load")
    )
    copy = Coalesce(key=len).with_(name="other")
    assert (len, "other") == (copy.key, copy.name)


# -- With others


@in_every_colour
async def test_a_permit_is_the_execution_s_inside_and_the_caller_s_outside(
    w: World,
) -> None:
    """One for all, or one each."""
    slow = Slow(w)
    inside, outside = Bulkhead(1), Bulkhead(3)
    policy = Pipeline(outside, Coalesce(), inside)
    most: list[tuple[int, int]] = []

    async def look() -> None:
        await w.sleep(5)
        most.append((outside.in_use, inside.in_use))

    await together(w, *callers(w, policy, slow, 0, 1, 2), look)
    assert [(3, 1)] == most
    assert (0, 0) == (outside.in_use, inside.in_use)


@in_every_colour
async def test_a_rejection_is_shared_like_any_error(w: World) -> None:
    """And a fallback outside answers for each."""
    breaker = CircuitBreaker()
    breaker.force_open()
    slow = Slow(w)
    policy = Pipeline(Fallback("spare"), Coalesce(), Held(w, 1), breaker)
    assert ["spare"] * 2 == await together(w, *callers(w, policy, slow, 0, 0.5))
    full = Bulkhead(1)
    with full.guard():
        results = await together(
            w, *callers(w, Pipeline(Coalesce(), Held(w, 1), full), slow, 0, 0.5)
        )
    assert all(isinstance(result, BulkheadFullError) for result in results)


class Picky(AdmissionPolicy):
    """Rejects whatever is not critical."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Priority] = []

    def admit(self, call: Call) -> Any:
        self.asked.append(call.priority)
        return ThrottledError("picky") if call.priority < Priority.CRITICAL else None

    def settle(self, permit: Any, outcome: Any) -> None:
        pass


@in_every_colour
async def test_a_rejection_of_a_lesser_call_is_its_own(w: World) -> None:
    """Who matters more asks again, and would not have been rejected."""
    slow, picky = Slow(w, 1), Picky()
    decorated = w.decorate(Pipeline(Coalesce(), Held(w, 2), picky), slow.function)

    def caller(level: Priority, after: float) -> Callable[[], Awaitable[Any]]:
        async def call() -> Any:
            await w.sleep(after)
            with priority(level):
                return await decorated()

        return call

    low, high = Priority.BATCH, Priority.CRITICAL
    results = await together(w, *(caller(low, 0), caller(high, 0.5), caller(low, 1)))
    assert [ThrottledError, tuple, ThrottledError] == [
        type(result) for result in results
    ]
    assert [low, high] == picky.asked


@in_async_colours
async def test_so_it_is_where_the_lesser_call_has_left(w: World) -> None:
    """The execution stays as important as the call that began it."""
    slow, picky = Slow(w, 1), Picky()
    decorated = w.decorate(Pipeline(Coalesce(), Held(w, 2), picky), slow.function)

    async def impatient() -> Any:
        with priority("batch"), anyio.move_on_after(1):
            await decorated()

    async def important() -> Any:
        await w.sleep(0.5)
        with priority("critical"):
            return await decorated()

    assert [None, (1, ())] == await w.gather(impatient, important)
    assert [Priority.BATCH, Priority.CRITICAL] == picky.asked


@in_async_colours
async def test_what_a_call_really_cost_is_booked_inside(w: World) -> None:
    """Where the limiter is."""
    limiter = RateLimiter(100, per=1000, burst=100)

    async def function() -> None:
        current_call().set_cost(requests=50)

    policy = Pipeline(Coalesce(), limiter)
    await w.call(policy, function)


def test_a_call_apart_knows_nothing_of_a_deadline() -> None:
    """But what it is inside of."""
    from resilient.policies.coalesce import _Execution

    call = Call.new("call", (1,), {"a": 2})
    call.deadline = 5.0
    call.attempt = 3
    apart = _Execution(call)
    assert ((1,), {"a": 2}, 3, None) == (
        apart.args,
        apart.kwargs,
        apart.attempt,
        apart.deadline,
    )
    assert call is apart.enclosing
