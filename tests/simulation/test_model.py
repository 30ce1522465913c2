"""Closed loops, and what a modelled dependency is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Backoff,
    Balance,
    Bulkhead,
    CircuitBreaker,
    Hedge,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    Timeout,
    TimeoutExceededError,
    constant,
    exponential,
)
from resilient._runtimes.simulated import World
from resilient.discovery import poll
from resilient.simulation import (
    Capacity,
    Dependency,
    Hang,
    Outage,
    Refusal,
    Result,
    Run,
    Scenario,
    Shard,
    Surge,
    constant_time,
    exponential_time,
    normal_time,
    quantile_time,
    simulate,
    uniform_time,
)
from resilient.simulation._edge import Client
from resilient.testing._world import world

FAILURES = TimeoutExceededError, ConnectionError
QUICK: dict[str, Any] = {"servers": None, "service": constant_time(0)}


def one(policy: Policy[Any], dependency: Dependency, **load: Any) -> Result:
    """The result of one seed, from the first request on."""
    arguments: dict[str, Any] = {"rate": 20, "duration": 20, "clients": 2, **load}
    scenario = Scenario("short", dependency=dependency, **arguments)
    return simulate(policy, scenario, seeds=1).after(0)


def ends(result: Result) -> dict[str, int]:
    """How its requests ended, those without an example left out."""
    counts = {word: sum(found) for word, found in result.runs[0].ends.items()}
    return {word: found for word, found in counts.items() if found}


def retries(backoff: Backoff, attempts: int | None = None) -> Retry:
    """A retry of conflicts and refusals that gives up by nothing else."""
    return Retry(
        *FAILURES, attempts=attempts, within=math.inf, backoff=backoff, budget=None
    )


# -- Closed loops


def test_users_wait_for_answers_and_think_between_them() -> None:
    """Each makes a request, in turn with its clients, when it has thought."""
    users: dict[str, Any] = {"users": 3, "think": constant_time(0.75)}
    slow = Dependency(servers=None, service=constant_time(0.25))
    result = one(Timeout(None), slow, **users)

    assert [3] * 19 == result.runs[0].offered[1:]
    assert result.scenario.load == "3 users"
    assert 60 == result.scenario.requests
    assert {"answered": sum(result.runs[0].offered)} == ends(result)


def test_a_user_who_waits_for_ever_asks_for_nothing_more() -> None:
    """That is what an open loop does not hide."""
    users: dict[str, Any] = {"users": 4, "events": [Hang(5, 10)], "patience": 8.0}
    result = one(Timeout(None), Dependency(**QUICK), think=constant_time(1), **users)
    offered = result.runs[0].offered

    assert [4, 0, 4] == [offered[3], offered[10], offered[16]]
    assert 4 == ends(result)["gave up"]


def test_a_user_may_have_enough() -> None:
    """After so many requests; the run goes on to its end all the same."""
    result = one(Bulkhead(9), Dependency(**QUICK), users=2, calls=3)

    assert [6, 0] == [result.runs[0].offered[0], sum(result.runs[0].offered[1:])]
    assert 6 == result.scenario.requests
    assert 0 == simulate(Timeout(1), result.scenario, seeds=1).since
    assert 20 == len(result.series["bulkhead.in_use"])


def test_requests_of_users_are_the_same_whatever_others_do() -> None:
    """The k-th of a user meets the same time: common random numbers."""
    slow = Dependency(servers=None, service=exponential_time(1))
    found = [
        one(policy, slow, users=2, calls=2, clients=1)
        for policy in (Timeout(None), Bulkhead(1, max_queue=9))
    ]
    apart, queued = (result.runs[0].latencies(0, 20) for result in found)

    assert 4 == len(apart) == len(queued)
    assert pytest.approx(min(apart)) == min(queued)
    assert max(apart) < max(queued)


# -- Published results, small


def test_full_jitter_writes_a_third_of_what_no_backoff_does() -> None:
    """A hundred clients write one row: as was published."""
    row = Dependency(**QUICK, network=normal_time(0.01, 0.002), conflicts=True, nodes=1)
    load: dict[str, Any] = {"users": 100, "calls": 1, "clients": 100, "keys": 1}
    written = [
        sum(one(retries(backoff), row, **load).runs[0].attempts)
        for backoff in (constant(0), exponential(0.01, cap=2))
    ]

    assert pytest.approx(2426, abs=120) == written[0]
    assert pytest.approx(796, abs=36) == written[1]


@pytest.mark.parametrize(("backoff", "well"), [(0, False), (20, True)])
def test_a_crowd_slows_itself_down_for_ever(backoff: float, well: bool) -> None:
    """Unless what failed comes back much later."""
    crowded = Dependency(
        servers=None,
        service=constant_time(1),
        crowding=0.01,
        network=exponential_time(0.1),
    )
    waits = exponential(backoff, cap=40) if backoff else constant(0)
    policy = Pipeline(retries(waits, 3), Timeout(3))
    load: dict[str, Any] = {"rate": 40, "duration": 65, "events": [Surge(20, 25, 2)]}
    good = one(policy, crowded, **load).after(45).goodput

    assert (good > 0.95) if well else (good < 0.4)


def test_asking_twice_is_slower_above_a_third_of_the_load() -> None:
    """The mean of M/M/1, and of the faster of two at twice the load."""
    nodes = Dependency(nodes=20, servers=1, service=exponential_time(0.1))

    def mean(policy: Policy[Any]) -> float:
        found = one(policy, nodes, rate=80, duration=40).runs[0].latencies(4, 40)
        return math.fsum(found) / len(found)

    assert pytest.approx(0.1 / 0.6, rel=0.1) == mean(Timeout(None))
    assert pytest.approx(0.05 / 0.2, rel=0.2) == mean(Hedge(1e-6, budget=None))


@pytest.mark.parametrize(
    "policy",
    [
        Bulkhead(30, max_queue=15),
        Bulkhead(30, max_queue=10_000, order="lifo"),
        AdaptiveConcurrency(
            AIMD(30, minimum=30, maximum=30),
            max_queue=10_000,
            max_wait=0.5,
            overload_wait=0.1,
        ),
    ],
    ids=["short", "lifo", "codel"],
)
def test_a_queue_of_the_server_may_end_a_storm_at_once(policy: Policy[Any]) -> None:
    """Which never ends where it is first come, first served, and endless."""
    clients = Pipeline(retries(constant(0), 2), Timeout(1))
    servers = Dependency(servers=30, policy=policy)
    load: dict[str, Any] = {"rate": 280, "duration": 20, "events": [Outage(1, 6)]}

    assert one(clients, servers, **load).recovers_within(2)


def test_a_short_queue_answers_what_an_endless_one_does_too_late() -> None:
    """Two workers at 1.2 times their load, and callers that wait half a second."""
    workers: dict[str, Any] = {"servers": 2, "service": constant_time(0.02)}
    load: dict[str, Any] = {"rate": 120, "patience": 0.5, "clients": 1}
    short = Bulkhead(2, max_queue=20)
    endless = one(Timeout(None), Dependency(**workers), **load)
    bounded = one(Timeout(None), Dependency(**workers, policy=short), **load)

    assert 0.02 > endless.after(10).goodput * 1.2
    assert 0.94 <= bounded.after(10).goodput * 1.2


def test_refusing_takes_the_time_of_answering() -> None:
    """Unless clients throttle themselves; as in the SRE book, at a tenth."""
    backend = Dependency(
        servers=1, service=constant_time(0.01), backlog=0.05, refusing=0.0025
    )
    load: dict[str, Any] = {"rate": 400, "duration": 24, "clients": 5}
    naive, throttled = (
        one(Pipeline(*policies, Timeout(1)), backend, **load).after(14).goodput
        for policies in ((), (AdaptiveThrottle(),))
    )

    assert 0.01 > naive
    assert pytest.approx(79 / 400, rel=0.1) == throttled


# -- What a dependency is made of


def test_a_network_takes_time_each_way() -> None:
    """What is refused comes back as late as what is answered."""
    far = Dependency(**QUICK, network=constant_time(0.2))
    events = {"events": [Refusal(5, 10)]}

    assert pytest.approx(0.4) == one(Timeout(None), far).latency(0.5)
    assert {"answered"} == set(ends(one(Timeout(0.41), far)))
    assert {"answered", "failed"} == set(ends(one(Timeout(0.41), far, **events)))
    assert {"timeout"} == set(ends(one(Timeout(0.39), far)))


def test_a_second_attempt_goes_to_another_node() -> None:
    """So that one of two that is down is no harm but to the first one."""
    nodes = Dependency(nodes=2, servers=9)
    load: dict[str, Any] = {"events": [Shard(0, 20, 0.5)], "rate": 50}
    once = one(Timeout(None), nodes, **load)

    assert {"answered"} == set(ends(one(retries(constant(0), 2), nodes, **load)))
    assert pytest.approx(0.5, abs=0.05) == once.goodput


@pytest.mark.parametrize(
    "inside",
    [
        lambda: Balance("a", "b", "c", "d"),
        lambda: Pipeline(
            Balance("a", "b", "c", "d"), Hedge(5, budget=None), intended=True
        ),
        lambda: Pipeline(Hedge(5, budget=None), Balance("a", "b", "c", "d")),
        lambda: Pipeline(Balance("a", "b", "c", "d", affinity=lambda sku: sku)),
    ],
    ids=["alone", "of hedges", "in hedges", "by key"],
)
def test_a_balance_says_which_node_is_asked(inside: Callable[[], Policy[Any]]) -> None:
    """It leaves alone the one that is down."""
    nodes = Dependency(nodes=4, servers=9)
    load: dict[str, Any] = {"events": [Shard(0, 20, 0.25)], "clients": 1, "rate": 50}
    found = one(inside(), nodes, **load)

    assert 0.97 < found.after(5).goodput
    assert found.amplification < 1.05
    assert 0.8 > one(Timeout(None), nodes, **load).goodput


def test_shards_are_keys_where_there_is_one_node() -> None:
    """A breaker of each key leaves the others alone."""
    load: dict[str, Any] = {"keys": 10, "events": [Shard(0, 20, 0.1)], "rate": 50}
    breaker = CircuitBreaker(consecutive_failures=2)
    each = PerKey(lambda key: CircuitBreaker(consecutive_failures=2), key=len)
    failures: dict[str, Any] = {"events": [Shard(0, 20, 0.2)], "rate": 50}
    quick = Dependency(**QUICK)

    assert pytest.approx(0.9, abs=0.03) == one(each, quick, **load).goodput
    assert {"answered", "failed", "rejected"} == set(ends(one(each, quick, **load)))
    assert 1 == len({key for key in ends(one(breaker, quick, **load)) if key[0] == "a"})
    assert pytest.approx(0.8, abs=0.04) == one(Timeout(1), quick, **failures).goodput


def test_what_hangs_is_a_share_of_the_keys() -> None:
    """A bulkhead of each key keeps it from taking all places."""
    load: dict[str, Any] = {"keys": 20, "events": [Hang(0, 20, 0.05)], "rate": 100}
    slow = Dependency(servers=None, service=constant_time(0.1))
    each = PerKey(lambda key: Bulkhead(10), key=len)
    threads = Bulkhead(40)
    load["clients"] = 1
    all_of_it = one(threads, slow, **load)
    kept = one(Pipeline(threads, each, intended=True), slow, **load)

    assert pytest.approx(0.95, abs=0.02) == kept.goodput
    assert all_of_it.goodput < 0.6


def test_a_quota_is_by_the_second() -> None:
    """A rate limiter asks for no more; retries do, and get no more."""
    quota = Dependency(**QUICK, quota=10)
    naive = one(retries(constant(0.1), 3), quota, clients=1, arrivals="constant")
    paced = one(RateLimiter(9), quota, clients=1, arrivals="constant")

    assert pytest.approx(0.5, abs=0.02) == naive.goodput
    assert 2 < naive.amplification
    assert pytest.approx(9 / 20, abs=0.05) == paced.goodput
    assert paced.amplification < 0.5


def test_a_refusal_takes_a_server_also_where_one_is_free() -> None:
    """And a row without a network is read when work begins."""
    quota = Dependency(servers=1, service=constant_time(0), quota=10, refusing=0.01)
    row = Dependency(servers=2, service=constant_time(0.5), conflicts=True)
    users: dict[str, Any] = {"users": 2, "calls": 1, "keys": 1}

    assert 1.9 < one(Timeout(None), quota, arrivals="constant").runs[0].worked < 2.1
    assert {"answered": 1, "failed": 1} == ends(one(Timeout(None), row, **users))


def test_each_service_of_a_chain_tries_again() -> None:
    """Three in each of three are 27."""
    load: dict[str, Any] = {"events": [Refusal(0, 20)]}
    deep = Dependency(**QUICK, depth=3)
    found = one(retries(constant(0), 3), deep, **load)

    assert 27 == found.amplification
    assert {"failed"} == set(ends(found))
    assert 1 == one(retries(constant(0), 3), deep).amplification


def test_a_backlog_is_work_and_not_jobs() -> None:
    """Also where servers are fewer for a while."""
    two: dict[str, Any] = {"servers": 2, "service": uniform_time(0.1, 0.2)}
    load: dict[str, Any] = {"rate": 30, "events": [Capacity(5, 15, 0.5)]}
    found = one(Timeout(None), Dependency(**two, backlog=0.5), **load)

    assert {"answered", "failed"} == set(ends(found))
    assert 0.5 < found.latency(1.0) < 1.5


def test_distributions_have_the_figures_that_name_them() -> None:
    """Their mean, or their percentiles and a tail between."""
    leaf = quantile_time({0.5: 0.01, 0.99: 0.1, 0.999: 1.0})

    assert pytest.approx(0.01) == normal_time(0.01, 0.002).at(0.5)
    assert 0 < normal_time(0.01, 0.02).at(0.0)
    assert [0.01, 0.01] == [leaf.at(0.0), leaf.at(0.5)]
    assert pytest.approx(0.1) == leaf.at(0.99)
    assert pytest.approx(10.0) == leaf.at(0.9999)
    assert 0.01 < leaf.at(0.9) < 0.1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Scenario("x", users=0), "`users` must be >= 1, got 0"),
        (lambda: Scenario("x", calls=3), "`calls` has no meaning without `users`"),
        (lambda: Scenario("x", users=1, think=3), "`think` must be a distribution, as"),
        (
            lambda: Scenario("x", users=1, events=[Surge(5, 6, 2)]),
            "`events`: Surge(start=5, end=6, factor=2) has no meaning for `users`",
        ),
        (lambda: Dependency(nodes=0), "`nodes` must be >= 1, got 0"),
        (lambda: Dependency(depth=0), "`depth` must be >= 1, got 0"),
        (lambda: Dependency(policy=3), "`policy` must be a policy, got 3"),
        (
            lambda: Dependency(servers=None, refusing=1),
            "`backlog` and `refusing` need a number of `servers`, got None",
        ),
        (lambda: Shard(5, 6, 0), "`share` must be > 0 and <= 1, got 0"),
        (
            lambda: quantile_time({0.5: 1}),
            "`quantiles` must be two or more rising seconds > 0 by shares in [0, 1),"
            " got {0.5: 1}",
        ),
        (lambda: quantile_time({0.5: 2, 0.9: 1}), "two or more rising seconds > 0"),
        (
            lambda: simulate(Balance(poll(list, every=9)), Scenario("x")),
            "finds its endpoints by a source, which a simulation does not ask",
        ),
    ],
)
def test_a_wrong_argument_is_refused(make: Callable[[], object], text: str) -> None:
    """With parameter, rule and value."""
    with pytest.raises((TypeError, ValueError)) as caught:
        make()

    assert text in str(caught.value)


def test_a_client_leaves_what_its_balance_knows() -> None:
    """Looking at endpoints would make first answers count otherwise."""
    with world(1, World) as heap:
        balance: Balance[str] = Balance("a", "b")
        client = Client(heap, balance, lambda sent: None, Run(1, 10))

        assert {"a": 0, "b": 1} == client.places
        assert {-math.inf} == {
            member.sampled for member in balance._fleet.members.values()
        }
