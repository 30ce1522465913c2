"""What a policy was made with: read-only, and all that a copy takes along.

What is drawn over: every parameter of every policy, and every way to copy.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import enum
import importlib
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

import resilient
from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Balance,
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    CircuitOpenError,
    Coalesce,
    Eject,
    Fallback,
    Gradient,
    Hedge,
    Limit,
    PerKey,
    Pipeline,
    Policy,
    RateLimitedError,
    RateLimiter,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    Vegas,
    calls,
    constant,
)
from resilient._events.counters import UNCOUNTED, counters_of
from resilient._values.records import Record
from resilient.testing import MemoryStore


def one_a_minute(key: object) -> RateLimiter:
    """Make a limiter."""
    return RateLimiter(1, per=60)


def answer(error: object) -> str:
    """Answer in the place of a function."""
    return "answer"


POLICIES: dict[str, Policy[Any]] = {
    "Timeout": Timeout(1, abandon=True, max_threads=3, name="t"),
    "Retry": Retry(OSError, KeyError, attempts=5, backoff=constant(1)),
    "Retry, shared": Retry(on=OSError, budget=RetryBudget(0.5, 5), nested=True),
    "CircuitBreaker": CircuitBreaker(window=calls(7), ramp=(0.1, 0.5), on=OSError),
    "Bulkhead": Bulkhead(3, max_queue=2, order="lifo"),
    "RateLimiter": RateLimiter(3, per=60, burst=5, cost={"requests": 2}),
    "RateLimiter, two": RateLimiter(limits=[Limit(5), Limit(9, unit="tokens")]),
    "Coalesce": Coalesce(key=one_a_minute),
    "StaleCache": StaleCache(1, 2, copy=answer, negative_ttl=3),
    "Fallback": Fallback("value", on=OSError),
    "Fallback, called": Fallback(function=answer),
    "Hedge": Hedge(1, attempts=3, max_threads=2),
    "PerKey": PerKey(one_a_minute, key=answer, max_keys=5),
    "AdaptiveConcurrency": AdaptiveConcurrency(AIMD(5), max_queue=3),
    "AdaptiveConcurrency, shared": AdaptiveConcurrency(
        Gradient(5), partitions={"a": 0.5}, by=answer
    ),
    "AdaptiveThrottle": AdaptiveThrottle(k=3.0),
    "Balance": Balance("a", "b", eject=Eject(3)),
    "Pipeline": Pipeline(Timeout(9), Pipeline(Retry(OSError), Bulkhead(3)), name="p"),
}

LIVE = {
    ("Bulkhead", "max_concurrency"): "resize",
    ("RateLimiter", "rate"): "set_rate",
    ("RateLimiter", "per"): "set_rate",
    ("RateLimiter", "burst"): "set_rate",
}

LIMITS = {"AIMD": AIMD(5), "Vegas": Vegas(5), "Gradient": Gradient(5)}

ARGUMENTS = [
    pytest.param(thing, name, id=f"{label} {name}")
    for label, thing in {**POLICIES, **LIMITS}.items()
    for name in inspect.signature(type(thing)).parameters
    if not name.startswith("_")
]


# -- Arguments


@pytest.mark.parametrize(("thing", "name"), ARGUMENTS)
def test_an_argument_cannot_be_assigned(thing: Any, name: str) -> None:
    """Nor deleted: the error names the method that changes it."""
    kind = type(thing).__name__
    before = repr(thing)
    cure = f"`with_({name}=…)` makes a changed copy"
    if not isinstance(thing, Policy):
        cure = "make another one"
    if (kind, name) in LIVE:
        cure = f"`{LIVE[kind, name]}` changes it live, {cure}"
    for done, change in (
        ("set", lambda: setattr(thing, name, getattr(thing, name))),
        ("set", lambda: setattr(thing, name, -1)),
        ("deleted", lambda: delattr(thing, name)),
    ):
        with pytest.raises(AttributeError) as caught:
            change()
        assert f"`{name}` of a {kind} cannot be {done}: {cure}" == str(caught.value)
    assert before == repr(thing)


def test_the_methods_that_are_named_are_there() -> None:
    """Doing what the error says works."""
    bulkhead, limiter = Bulkhead(3), RateLimiter(3)
    bulkhead.resize(4)
    limiter.set_rate(4, per=2, burst=7)
    assert "Bulkhead(4)" == repr(bulkhead)
    assert "RateLimiter(4, per=2.0, burst=7)" == repr(limiter)
    assert "Timeout(2.0)" == repr(Timeout(1).with_(seconds=2))


class Own(Policy[Any]):
    """A policy of a user's, which changes as it likes."""

    def __init__(self, size: int, name: str | None = None) -> None:
        super().__init__(name)
        self.size = size


class Patient(Timeout):
    """One that has something to add."""

    def __init__(self, seconds: float, patience: int = 1) -> None:
        super().__init__(seconds)
        self.patience = patience
        if patience > 9:
            self.seconds = 9


class Growing(AIMD):
    """A limit of a user's."""

    def __init__(self, initial: int = 1, step: int = 2) -> None:
        super().__init__(initial)
        self.step = step


def test_policies_of_users_are_as_free_as_they_are() -> None:
    """What they have of ours is not."""
    own, patient, growing = Own(3), Patient(1), Growing()
    own.size = patient.patience = growing.step = 5
    assert [5, 5, 5] == [own.size, patient.patience, growing.step]
    del own.size, patient.patience
    assert not hasattr(own, "size")
    with pytest.raises(AttributeError, match="`seconds` of a Patient cannot be set"):
        patient.seconds = 3
    with pytest.raises(AttributeError, match="`seconds` of a Patient cannot be set"):
        Patient(1, 10)
    with pytest.raises(AttributeError, match="`maximum` of a Growing cannot be set"):
        growing.maximum = 3
    with pytest.raises(AttributeError, match="`name` of a Own cannot be set"):
        own.name = "other"  # type: ignore[misc]  # that is the point


# -- Attributes, of every public class

HTTP = ("httpx", "httpx2", "requests", "aiohttp")
MODULES = [
    f"resilient.{name}" if name else "resilient"
    for name in ("", "asgi", "grpc", "redis", "supervision", "testing", "wsgi", *HTTP)
]

MADE: dict[str, Callable[[Any], object]] = {
    "Answer": lambda kind: kind(503, (), b""),
    "Attempt": lambda kind: next(iter(Retry(OSError).attempts())),
    "Attempts": lambda kind: Retry(OSError).attempts(),
    "EventStream": lambda kind: resilient.events(),
    "Guard": lambda kind: Timeout(1).guard(),
    "Lifecycle": lambda kind: kind(),
    "MemoryStore": lambda kind: kind(),
    "RedisStore": lambda kind: kind("redis://localhost"),
    "ResilientAdapter": lambda kind: kind(),
    "ResilientTransport": lambda kind: kind(),
    "RetryBudget": lambda kind: kind(),
    "Stopping": lambda kind: kind(None),
    "Supervisor": lambda kind: kind(name="workers"),
    "deadline_after": lambda kind: kind(3),
    "priority": lambda kind: kind("batch"),
    "resilient.aiohttp.ResilientMiddleware": lambda kind: kind(),
    "resilient.asgi.ResilientMiddleware": lambda kind: kind(answer),
    "resilient.wsgi.ResilientMiddleware": lambda kind: kind(answer),
    **{
        type(policy).__name__: lambda _, made=policy: made
        for policy in POLICIES.values()
    },
    **{name: lambda _, made=limit: made for name, limit in LIMITS.items()},
}

MEANT = {
    "Answer": {"status", "headers", "body"},  # an answer of ours that the user alters
    "ResilientAdapter": {"max_retries"},  # requests' own, which it reads each time
    "ResilientMiddleware": {"app"},  # tools put themselves in front of it
}
"""What may be assigned, for what it does then is what it says."""

OF_REQUESTS = ("config", "poolmanager", "proxy_manager")
"""Attributes of its adapter, which its constructor makes."""

ELSEWHERE = {
    "AdmissionPolicy": "a base of users' policies",
    "Backoff": "a sum of schedules: no attributes",
    "Call": "what policies change as they wait, each of its attributes on purpose",
    "Explored": "frozen by attrs, whose error names no attribute",
    "ExploredRun": "what `explore` gives to a scenario",
    "ExploredTask": "what a scenario gets of it",
    "Outcome": "likewise",
    "Policy": "a base of users' policies",
    "Summary": "a typing.NamedTuple",
    "VirtualClock": "the inside of `virtual_time`",
    "Wait": "what an author of policies makes",
}


def classes_of(module: str) -> dict[str, type[Any]]:
    """Return the public classes that have instances, which are no values."""
    try:
        names = importlib.import_module(module)
    except ModuleNotFoundError:
        return {}  # Python 3.15 is too new for the wheels of some clients
    found = {name: getattr(names, name) for name in names.__all__}
    values = (BaseException, enum.Enum, Record)
    return {
        name: kind
        for name, kind in found.items()
        if inspect.isclass(kind)
        and not issubclass(kind, values)
        and not getattr(kind, "_is_protocol", False)
        and name not in ELSEWHERE
    }


CLASSES = {
    f"{module}.{name}": kind
    for module in MODULES
    for name, kind in classes_of(module).items()
}


@pytest.mark.parametrize("path", CLASSES)
def test_an_attribute_of_ours_can_be_assigned_only_where_that_does_something(
    path: str,
) -> None:
    """Of every public class; methods of those that may get others by design apart."""
    kind = CLASSES[path]
    name = kind.__name__
    thing = (MADE.get(path) or MADE[name])(kind)
    others = {
        other
        for base in kind.__mro__
        if not base.__module__.startswith("resilient")
        for other in (*vars(base), *OF_REQUESTS)
    }
    ours = {
        attribute
        for attribute in (*dir(thing), *inspect.signature(kind).parameters)
        if not attribute.startswith("_")
        and attribute not in others
        and not inspect.isroutine(inspect.getattr_static(kind, attribute, None))
    }
    taken = set[str]()
    for attribute in ours:
        try:
            setattr(thing, attribute, None)
        except AttributeError as error:
            assert attribute in str(error)
        else:
            taken.add(attribute)
    assert MEANT.get(name, set()) & ours == taken


def test_what_a_policy_sets_up_itself_cannot_be_assigned() -> None:
    """The error says what it depends on."""
    for policy in (CircuitBreaker(), AdaptiveThrottle(), AdaptiveConcurrency()):
        kind = type(policy).__name__
        with pytest.raises(AttributeError) as caught:
            policy.weighs = False
        text = f"`weighs` of a {kind} cannot be set: it follows from `on`"
        assert text == str(caught.value)
    with pytest.raises(AttributeError) as caught:
        Retry(OSError).counters = UNCOUNTED
    assert (
        "`counters` of a Retry cannot be set: policies of one name have one set of"
        " counts, which goes on"
    ) == str(caught.value)


def test_settings_of_a_store_are_read_only() -> None:
    """Those of a policy can be others than those of the next."""
    store = MemoryStore()
    with pytest.raises(AttributeError) as caught:
        store.members = -1
    assert (
        "`members` of a MemoryStore cannot be set: `with_(members=…)` makes a changed"
        " copy"
    ) == str(caught.value)
    with pytest.raises(AttributeError) as caught:
        store.link = store.link
    assert "`link` of a MemoryStore cannot be set: make another one" == str(
        caught.value
    )
    assert 3 == store.with_(members=3).members


# -- Copies

# `dataclasses.asdict` makes deep copies of what is no dataclass.


@dataclasses.dataclass
class Settings:
    """A user's configuration."""

    policy: Any


def pickled(thing: Any) -> Any:
    """Copy by way of a pickle, as `multiprocessing` does."""
    return pickle.loads(pickle.dumps(thing))


COPIES: dict[str, Callable[[Any], Any]] = {
    "with_": lambda policy: policy.with_(),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickled,
    "pickle 2": lambda thing: pickle.loads(pickle.dumps(thing, protocol=2)),
    "cloudpickle": lambda thing: pickle.loads(cloudpickle.dumps(thing)),
    "asdict": lambda policy: dataclasses.asdict(Settings(policy))["policy"],
}
if sys.version_info >= (3, 13):
    COPIES["replace"] = copy.replace

in_every_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@in_every_copy
def test_a_copy_has_the_same_arguments(
    duplicate: Callable[[Any], Any], policy: Policy[Any]
) -> None:
    """And nothing in common with the original."""
    twin = duplicate(policy)
    assert type(policy) is type(twin)
    assert repr(policy) == repr(twin)
    assert policy is not twin
    if isinstance(policy, Pipeline):
        for one, other in zip(policy.policies, twin.policies, strict=True):
            assert one is not other


@in_every_copy
def test_a_copy_has_its_own_state(duplicate: Callable[[Any], Any]) -> None:
    """What the original has learnt stays with it, and the other way round."""
    bulkhead, limiter = Bulkhead(1), RateLimiter(1, per=60)
    breaker = CircuitBreaker(name="b")
    heard: list[object] = []
    limiter.subscribe(heard.append)
    limiter.call(int)
    breaker.force_open()
    with bulkhead.guard():
        twins = [duplicate(policy) for policy in (bulkhead, limiter, breaker)]
        for policy in twins:
            assert 0 == policy.call(int)
        with pytest.raises(BulkheadFullError):
            bulkhead.call(int)
    with pytest.raises(RateLimitedError):
        twins[1].call(int)
    assert [] == heard
    with pytest.raises(CircuitOpenError):
        breaker.call(int)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
def test_a_budget_and_a_limit_are_copied_likewise(
    duplicate: Callable[[Any], Any],
) -> None:
    """Made of the same arguments: full, and not yet taught."""
    budget, limit = RetryBudget(0.5, 5, per_second=0), AIMD(5)
    budget.withdraw(3)
    limit.update(0.0, 1.0, 5, True)
    full, untaught = duplicate(budget), duplicate(limit)
    assert (2, 5) == (budget.balance, full.balance)
    assert (4, 5) == (limit.limit(0.0), untaught.limit(0.0))
    assert repr(budget) == repr(full)
    assert repr(limit) == repr(untaught)


def test_what_was_one_object_in_a_pickle_is_one_afterwards() -> None:
    """A budget that two policies share, and a policy that is named twice."""
    budget = RetryBudget()
    retries = [Retry(OSError, budget=budget), Retry(KeyError, budget=budget)]
    one, other = pickled(retries)
    assert one.budget is other.budget is not budget
    policy = Timeout(1)
    alone, pipeline = pickled((policy, Pipeline(policy)))
    assert alone is pipeline.policies[0]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in Python 3.13")
def test_a_copy_may_be_changed() -> None:
    """In the words of the standard library."""
    assert "Timeout(2.0)" == repr(copy.replace(Timeout(1), seconds=2))  # type: ignore[attr-defined,unused-ignore]


# -- Functions


@Pipeline(Retry(OSError), Bulkhead(1))
def decorated(number: int) -> int:
    """Double."""
    return 2 * number


def test_a_decorated_function_is_pickled_by_its_name() -> None:
    """As any function is: it is the same object afterwards, with its policies."""
    assert decorated is pickled(decorated)
    assert decorated is copy.deepcopy(decorated)


BY_VALUE: list[Policy[Any]] = [
    Timeout(9),
    Retry(OSError),
    CircuitBreaker(slow_call_duration=9),
    Bulkhead(1),
    RateLimiter(1, per=60),
    Coalesce(),
    StaleCache(1, 2),
    Fallback(None),
    Hedge(9, max_threads=2),
    PerKey(one_a_minute, key=lambda number: number),
    AdaptiveConcurrency(),
    AdaptiveThrottle(),
    Pipeline(Timeout(9), Retry(), Pipeline(Bulkhead(1)), classify=OSError),
]


@pytest.mark.parametrize("policy", BY_VALUE, ids=lambda policy: type(policy).__name__)
def test_a_function_may_be_pickled_by_value(policy: Policy[Any]) -> None:
    """As joblib, dask and ray do it: what it is protected by goes along."""

    def double(number: int) -> int:
        return 2 * number

    async def double_later(number: int) -> int:
        return 2 * number

    twins = [
        pickle.loads(cloudpickle.dumps(policy.with_()(function)))
        for function in (double, double_later)
    ]
    assert 4 == twins[0](2)
    assert 4 == asyncio.run(twins[1](2))


def test_a_function_that_was_pickled_by_value_is_protected() -> None:
    """By a copy of its policy, and on its own."""
    limiter = RateLimiter(1, per=60)
    first, second = (
        pickle.loads(cloudpickle.dumps(limiter(lambda: 4))) for _ in range(2)
    )
    assert 4 == first() == second()
    with pytest.raises(RateLimitedError):
        first()
    assert 1 == limiter.available()


def test_calls_of_a_function_that_was_pickled_by_value_are_counted() -> None:
    """Under the name of the function, as those of the original are."""

    def double(number: int) -> int:
        return 2 * number

    twin = pickle.loads(cloudpickle.dumps(Retry(OSError)(double)))
    counters = counters_of(twin.__name__)
    before = UNCOUNTED.successes, counters.successes
    assert 4 == twin(2)
    after = UNCOUNTED.successes, counters.successes
    assert (0, 1) == (after[0] - before[0], after[1] - before[1])
    named = pickle.loads(cloudpickle.dumps(Retry(OSError, name="shop")(double)))
    assert 4 == named(2)
    assert 1 == counters_of("shop").successes
