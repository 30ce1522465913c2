"""What `health` shows."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.colours import World, in_every_colour

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Hedge,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    RejectedError,
    Retry,
    StaleCache,
    Timeout,
)
from resilient._observing.health import merged
from resilient.asgi import Lifecycle
from resilient.supervision import Supervisor


def seen(pipeline: str) -> Any:
    """What it shows of one pipeline, as a readiness endpoint would send it."""
    return json.loads(json.dumps(resilient.health(), allow_nan=False))[pipeline]


async def fail() -> None:
    """Fail at once."""
    raise OSError("down")


async def nothing() -> None:
    """Succeed at once."""


def test_it_shows_supervisors_and_lifecycles() -> None:
    """By name, as long as they are there; a pipeline may have that name too."""
    lifecycle = Lifecycle()
    unnamed, named = Supervisor(), Supervisor(name="crew")
    policy = Bulkhead(1, name="crew")
    assert {"state": "starting", "in_flight": 0} == seen("lifecycle")
    assert {"calls", "policies", "workers", "abandoned"} == set(seen("crew"))
    del lifecycle, unnamed, named, policy
    gc.collect()
    assert not {"lifecycle", "crew"} & set(resilient.health())


@in_every_colour
async def test_it_shows_states_rates_and_saturation(w: World) -> None:
    """Of each policy of a pipeline, from the outermost, and since when."""
    name = f"checkout {w.colour}"
    policy = Pipeline(
        Retry(OSError, attempts=1),
        Pipeline(CircuitBreaker(consecutive_failures=2, open_for=5.0)),
        Bulkhead(4, name="slots"),
        name=name,
    )
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            await w.call(policy, fail)
    await w.sleep(1)
    with pytest.raises(RejectedError):
        await w.call(policy, fail)
    health = seen(name)
    assert {"success": 0, "failure": 2, "rejected": 1} == health["calls"]
    circuit = next(entry for entry in health["policies"] if "circuit.state" in entry)
    assert {
        "policy": "CircuitBreaker",
        "kind": "CircuitBreaker",
        "circuit.state": "open",
        "circuit.failure_rate": 0.0,
        "circuit.slow_rate": 0.0,
        "window_calls": 0,
        "seconds_in_state": 1.0,
        "retry_after": 4.0,
    } == circuit
    assert {
        "policy": "slots",
        "kind": "Bulkhead",
        "bulkhead.in_use": 0,
        "bulkhead.queued": 0,
        "bulkhead.limit": 4,
        "saturation": 0.0,
    } == next(entry for entry in health["policies"] if entry["policy"] == "slots")
    assert 3 == len(health["policies"])


def test_what_keys_have_is_summed_up() -> None:
    """There may be thousands."""
    hosts = PerKey(
        lambda key: Pipeline(
            CircuitBreaker(name=key), RateLimiter(1 if key == "a" else 2)
        ),
        name="hosts",
    )
    policy = Pipeline(hosts, name="keyed")
    for key in ("a", "b", "c"):
        assert hosts[key] in hosts.children()
    [broken] = [
        child for child in hosts["b"].children() if isinstance(child, CircuitBreaker)
    ]
    broken.force_open()
    by_kind = {entry["kind"]: entry for entry in seen("keyed")["policies"]}
    assert {"PerKey", "CircuitBreaker", "RateLimiter"} == set(by_kind)
    assert {"policy": "hosts", "kind": "PerKey", "per_key.keys": 3} == by_kind["PerKey"]
    circuits = by_kind["CircuitBreaker"]
    assert 3 == circuits["keys"]
    assert "hosts" == circuits["policy"]
    assert {"closed": 2, "forced_open": 1} == circuits["circuit.state"]
    assert circuits["seconds_in_state"] >= 0.0
    assert None is circuits["retry_after"]
    assert 3 == by_kind["RateLimiter"]["keys"]
    assert 1.0 == by_kind["RateLimiter"]["limiter.tokens"]["requests"]
    assert policy.children() == (hosts,)


def test_one_policy_for_several_keys_is_one() -> None:
    """It is not added up with itself."""
    shared = Bulkhead(3)
    hosts = PerKey(lambda key: shared, name="one for all")
    assert hosts["a"] is hosts["b"]
    [per_key, bulkhead] = seen("one for all")["policies"]
    assert 2 == per_key["per_key.keys"]
    assert (1, 3) == (bulkhead["keys"], bulkhead["bulkhead.limit"])


def test_a_policy_alone_is_shown_by_its_name() -> None:
    """One without a name is not, until it takes that of a function."""
    named, unnamed = CircuitBreaker(name="alone"), CircuitBreaker()
    assert ["alone"] == [entry["policy"] for entry in seen("alone")["policies"]]
    unnamed.call(int)
    assert "CircuitBreaker" not in resilient.health()

    @unnamed
    def fetch_alone() -> None: ...

    fetch_alone()
    assert {"success": 1} == seen("fetch_alone")["calls"]
    assert named.name == "alone"


def test_values_of_many_are_merged() -> None:
    """The worst of what is a rate or a balance, the sum of what is a number."""
    assert None is merged("anything", [None, None])
    assert 5 == merged("bulkhead.in_use", [2, None, 3])
    assert 0.5 == merged("circuit.failure_rate", [0.5, 0.1])
    assert 1.0 == merged("budget.balance", [4.0, 1.0])
    assert 0.2 == merged("hedge.delay", [0.1, None, 0.2])
    assert {"open": 2, "closed": 1} == merged("s", ["open", "closed", "open"])
    levels = [{"a": 1.0, "b": 5.0}, {"a": 2.0}]
    assert {"a": 1.0, "b": 5.0} == merged("limiter.tokens", levels)


def test_a_policy_of_ones_own_has_a_status_too() -> None:
    """In its own words."""

    class Mood(Policy[Any]):
        def status(self) -> dict[str, Any]:
            return {"mood": "good"}

    mine = Pipeline(Mood(), name="mine")
    [entry] = seen("mine")["policies"]
    assert {"policy": "Mood", "kind": "Mood", "mood": "good"} == entry
    assert 1 == len(mine.policies)


@in_every_colour
async def test_a_hedge_shows_its_delay_and_what_it_can_afford(w: World) -> None:
    """Its own budget, or one that it shares; without one there is nothing to show."""
    hedge = Hedge(0.5, max_threads=2)
    policy = Pipeline(hedge, name="hedged")
    assert None is await w.call(policy, nothing)
    [shown] = seen("hedged")["policies"]
    assert 0.5 == shown["hedge.delay"]
    assert 0 == shown["hedge.abandoned"]
    assert (10.0, 10.0) == (shown["budget.balance"], shown["budget.capacity"])
    learning = Pipeline(hedge.with_(delay=None, budget=None), name="learning")
    [shown] = seen("learning")["policies"]
    assert {"hedge.delay": None, "hedge.abandoned": 0} == {
        key: value for key, value in shown.items() if "." in key
    }
    assert learning.name == "learning"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Timeout(-1, name="half"),
        lambda: Fallback(name="half"),
        lambda: PerKey(CircuitBreaker, max_keys=0, name="half"),
        lambda: StaleCache(-1, 0, name="half"),
        lambda: RateLimiter(-1, name="half"),
    ],
    ids=["Timeout", "Fallback", "PerKey", "StaleCache", "RateLimiter"],
)
def test_a_policy_whose_construction_failed_is_left_out(
    make: Callable[[], object],
) -> None:
    """It lives as long as the traceback of its error."""
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert "half" not in resilient.health()
    assert caught.traceback
