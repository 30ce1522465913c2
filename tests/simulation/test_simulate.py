"""What `simulate` tells of a configuration."""

from __future__ import annotations

import asyncio
import gc
import math
import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest

import resilient
from resilient import (
    AIMD,
    AdaptiveConcurrency,
    Bulkhead,
    Call,
    CircuitBreaker,
    Coalesce,
    Fallback,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    ResilientWarning,
    Retry,
    RetryBudget,
    StaleCache,
    Timeout,
    TimeoutExceededError,
    constant,
)
from resilient._calls import call as call_module
from resilient._events.counters import all_counters
from resilient._policy.policy import living
from resilient.simulation import (
    Capacity,
    Dependency,
    Failing,
    Hang,
    Outage,
    Refusal,
    Scenario,
    Slowdown,
    Surge,
    compare,
    constant_time,
    exponential_time,
    lognormal_time,
    pareto_time,
    scenarios,
    simulate,
    table,
    uniform_time,
)
from resilient.simulation._copies import copy_policy, members
from resilient.simulation._files import built_in
from resilient.simulation._load import moments
from resilient.simulation._record import recovery
from resilient.testing import MemoryStore, VirtualTimeError, virtual_time

QUICK = Scenario("quick", rate=20, duration=20, clients=2)

# A tenth of the retry storm that is built in.
STORM = Scenario(
    "storm",
    rate=56,
    duration=40,
    clients=2,
    dependency=Dependency(servers=6, service=exponential_time(0.1)),
    events=[Outage(5, 15)],
)

RETRY_AT_ONCE = Pipeline(
    Retry(TimeoutExceededError, attempts=2, backoff=constant(0), budget=None),
    Timeout(1),
)
BREAKER = Pipeline(CircuitBreaker(half_open_calls=1), Timeout(1))


def one(policy: Policy[Any], **changes: Any) -> Any:
    """The result of one seed in a short scenario."""
    arguments: dict[str, Any] = {"rate": 20, "duration": 20, "clients": 2, **changes}
    return simulate(policy, Scenario("short", **arguments), seeds=1)


def ends(result: Any) -> dict[str, int]:
    """How its requests ended, those without an example left out."""
    counts = {word: sum(found) for word, found in result.runs[0].ends.items()}
    return {word: found for word, found in counts.items() if found}


# -- Published results


def test_one_retry_keeps_a_storm_alive_and_a_breaker_ends_it() -> None:
    """As `benchmarks.simulations` has it on asyncio, for the same system."""
    found = compare({"retry": RETRY_AT_ONCE, "breaker": BREAKER}, STORM, seeds=1)
    storm, calm = found["retry"], found["breaker"]

    assert not storm.recovers_within(25)
    assert "<1 of 1 seeds (1) never within 25 s; median never>" == repr(
        storm.recovers_within(25)
    )
    assert 0.01 > storm.after(35).goodput
    assert pytest.approx(2.0, rel=0.05) == storm.after(35).amplification
    assert calm.recovers_within(15)
    assert re.fullmatch(
        r"<recovered within 15 s; median \d+ s>", repr(calm.recovers_within(15))
    )
    assert "1 of 1 seeds not within 1 s" in repr(calm.recovers_within(1))
    assert 0.5 < storm.wasted
    assert 0.3 > calm.wasted
    assert {"open", "closed"} <= set(calm.series["circuit.state"])
    assert storm.series == {}


def test_a_limit_that_learns_ends_a_storm_at_once() -> None:
    """Four seconds at the most."""
    policy = Pipeline(AdaptiveConcurrency(AIMD(20)), Timeout(1))

    assert simulate(policy, STORM, seeds=1).recovers_within(4)


def test_queues_of_theory_are_met() -> None:
    """M/M/c/c loses what Erlang's formula says; M/M/1 takes 1/(1 - load) as long."""
    lossy = Dependency(servers=5, service=exponential_time(0.1), queue_limit=0)
    scenario = Scenario("loss", rate=40, duration=300, clients=1, dependency=lossy)
    load = 4.0
    weights = [load**n / math.factorial(n) for n in range(6)]
    lost = simulate(Timeout(None), scenario, seeds=1)

    assert pytest.approx(weights[-1] / sum(weights), abs=0.02) == 1 - lost.goodput

    single = Dependency(servers=1, service=exponential_time(0.01))
    scenario = Scenario("queue", rate=50, duration=200, clients=1, dependency=single)
    queued = simulate(Timeout(None), scenario, seeds=1)

    assert pytest.approx(0.02 * math.log(100), rel=0.15) == queued.latency(0.99)


# -- The same random numbers


def test_a_seed_gives_the_same_series_again() -> None:
    """And another seed another."""
    first, again = (simulate(BREAKER, QUICK, seeds=[3]) for _ in range(2))
    other = simulate(BREAKER, QUICK, seeds=[4])

    assert vars(first.runs[0]) == vars(again.runs[0])
    assert first.table() == again.table()
    assert first.runs[0].offered != other.runs[0].offered


def test_configurations_meet_the_same_load_and_service_times() -> None:
    """Though one of them sends more attempts."""
    flaky = Dependency(servers=None, failures=0.3)
    found = compare(
        {"one": Timeout(None), "three": Retry(ConnectionError, budget=None)},
        attempts := Scenario("flaky", rate=20, duration=20, dependency=flaky),
        seeds=2,
    )
    one, three = found["one"].runs[0], found["three"].runs[0]

    assert one.offered == three.offered
    assert sum(one.attempts) < sum(three.attempts)
    alone = set(one.latencies(0, attempts.duration))
    assert alone < set(three.latencies(0, attempts.duration))


def test_a_seed_gives_the_same_numbers_on_every_python() -> None:
    """Not what a version of `random` makes of it."""
    dues = list(moments(3.0, 2.0, "poisson", (), 7))

    assert [0.20834545, 0.63766091] == [round(due, 8) for due in dues]


class Gauged(Timeout):
    """A policy with a gauge that does not change."""

    def status(self) -> dict[str, Any]:
        return {"gauge": 0.1}


def test_gauges_are_means_of_clients_exactly() -> None:
    """Up to Python 3.11 `sum` makes 0.999… of ten tenths, and later 1."""
    assert {0.1} == set(one(Gauged(1), clients=10).series["gauge"])


# -- Load


def test_load_comes_at_equal_distances_or_at_random() -> None:
    """And more of it comes in a surge."""
    assert [0.5, 1.0, 1.5] == list(moments(2.0, 1.9, "constant", (), 1))
    surge = [Surge(10, 20, 3.0)]
    dues = list(moments(100.0, 30.0, "poisson", surge, 1))
    meanwhile = sum(10 <= due < 20 for due in dues)
    assert 2700 < meanwhile < 3300
    assert 1800 < len(dues) - meanwhile < 2200
    assert dues == sorted(dues)


# -- The dependency and its events


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Refusal(5, 10), {"answered": 306, "failed": 94}),
        (Hang(5, 10), {"answered": 306, "unanswered": 94}),
        (Failing(5, 10, 1.0), {"answered": 306, "failed": 94}),
        (Outage(5, 10), {"answered": 400}),
    ],
    ids=lambda value: getattr(value, "word", ""),
)
def test_events_act_from_their_start_to_their_end(
    event: Any, said: dict[str, int]
) -> None:
    """Each in its way."""
    quick = Dependency(servers=None, service=constant_time(0))
    found = ends(
        one(Timeout(None), arrivals="constant", dependency=quick, events=[event])
    )

    assert set(said) == set(found)
    assert sum(found.values()) == pytest.approx(400, abs=1)
    assert found.get("answered", 0) == pytest.approx(said["answered"], abs=7)


def test_a_share_of_requests_hangs_however_often_they_are_sent() -> None:
    """The same ones in each attempt."""
    policy = Pipeline(Retry(TimeoutExceededError, budget=None), Timeout(0.5))
    quick = Dependency(servers=None, service=constant_time(0))
    found = ends(one(policy, dependency=quick, events=[Hang(0, 20, 0.25)]))

    assert {"answered", "timeout"} == set(found)
    assert 0.15 < found["timeout"] / sum(found.values()) < 0.35


def test_slow_and_missing_servers_make_calls_wait() -> None:
    """And those that come back take what has waited."""
    four = Dependency(servers=4, service=constant_time(0.1))
    calm = one(Timeout(None), dependency=four)
    slow = one(Timeout(None), dependency=four, events=[Slowdown(5, 10, 3.0)])
    cut = one(Timeout(None), dependency=four, events=[Capacity(5, 10, 0.25)])

    assert pytest.approx(0.1) == calm.latency(0.5)
    assert 0.3 < slow.latency(0.99)
    assert 1.0 < cut.latency(0.99)
    assert {"answered"} == set(ends(cut))


def test_the_newest_may_come_first_and_abandoned_work_be_dropped() -> None:
    """Under overload, that is the difference between some answers and none."""
    small = {"servers": 1, "service": constant_time(0.1)}
    served = one(Timeout(0.5), dependency=Dependency(**small))
    dropped = one(Timeout(0.5), dependency=Dependency(**small, abandoned="dropped"))
    newest = one(Timeout(0.5), dependency=Dependency(**small, queue="lifo"))

    assert 0.1 > served.goodput < dropped.goodput < newest.goodput
    assert 0.4 < newest.goodput
    assert 0.8 < served.wasted


def test_a_full_queue_refuses() -> None:
    """With the error that the dependency has for it."""
    small = Dependency(
        servers=1, service=constant_time(1), queue_limit=1, error=LookupError
    )
    seen: list[str] = []

    def note(outcome: Outcome) -> bool:
        seen.append(str(outcome.error))
        return False

    found = ends(one(Retry(on=note), dependency=small))

    assert 300 < found["failed"]
    assert {"the queue is full"} == set(seen) - {"None"}


def test_distributions_have_the_figures_that_name_them() -> None:
    """Their median, p99 or bounds."""
    assert 0.25 == constant_time(0.25).at(0.9)
    assert 1.5 == uniform_time(1, 2).at(0.5)
    assert pytest.approx(0.1 * math.log(2)) == exponential_time(0.1).at(0.5)
    assert pytest.approx(0.05) == lognormal_time(0.05, 0.4).at(0.5)
    assert pytest.approx(0.4) == lognormal_time(0.05, 0.4).at(0.99)
    assert 0.0 <= lognormal_time(0.05, 0.4).at(0.0) < 0.05
    assert pytest.approx(10.0) == pareto_time(1.0, 1.0).at(0.9)


# -- How requests end


def test_requests_end_as_their_policies_have_it() -> None:
    """Each in one of eight ways."""
    down = {"events": [Refusal(5, 15)], "keys": 5}
    cached = StaleCache(0.1, 60, key=lambda number: number)

    assert {"answered", "fallback"} == set(ends(one(Fallback("plan B"), **down)))
    assert {"answered", "remembered"} == set(ends(one(cached, **down)))
    broken = CircuitBreaker(consecutive_failures=3)
    assert {"answered", "failed", "rejected"} == set(ends(one(broken, **down)))
    hung = {"events": [Hang(5, 15)], "patience": 2.0}
    assert {"answered", "gave up"} == set(ends(one(Timeout(5), **hung)))
    assert {"answered", "timeout"} == set(ends(one(Timeout(1), **hung)))
    result = one(Fallback("plan B"), **down)
    assert 1.0 == result.availability > result.goodput


def test_policies_tell_requests_apart_by_their_keys() -> None:
    """Those of the scenario, whatever the user's function takes."""
    keyed = PerKey(lambda key: Bulkhead(1), key=lambda sku, *, site: (sku, site))
    result = one(Pipeline(Coalesce(key=lambda sku: sku), keyed, intended=True), keys=2)

    assert result.amplification < 1
    assert {2} == set(result.series["per_key.keys"][5:])


# -- Figures


def test_figures_are_medians_of_what_came_after_the_warm_up() -> None:
    """Of the seeds, from a tenth of the run on."""
    result = simulate(Timeout(None), QUICK, seeds=3)

    assert [1, 2, 3] == [run.seed for run in result.runs]
    assert 2 == result.since
    assert 1.0 == result.goodput == result.availability == result.amplification
    assert 0.0 == result.rejected == result.wasted
    assert 0.03 < result.latency(0.5) < 0.1 < result.latency(0.99)
    assert result.worst in result.runs
    assert 19 == result.after(19).since


def test_of_no_answer_there_is_no_latency() -> None:
    """It is no number, and no share of nothing an error."""
    result = one(Timeout(0.5), events=[Hang(0, 20)], duration=20)

    assert math.isnan(result.latency(0.5))
    assert 0.0 == result.goodput == result.wasted
    assert "never" in result.table()


def test_well_is_ten_seconds_in_a_row() -> None:
    """With 95 % of what was wanted."""
    assert 2 == recovery([9] * 7 + [10] * 20, [10] * 27, 0)
    assert recovery([9] * 27, [10] * 27, 0) is None


def test_a_table_shows_configurations_one_below_the_other() -> None:
    """In Markdown."""
    found = compare({"a": Timeout(1), "b": Timeout(2)}, QUICK, seeds=1)
    lines = table(list(found.values())).splitlines()

    assert 4 == len(lines)
    assert lines[2].startswith("| a ")
    assert 1 == len({len(line) for line in lines})


def test_scenarios_are_built_in() -> None:
    """By name."""
    for scenario in scenarios():
        assert scenario == built_in(scenario.name).scenario
    with pytest.raises(ValueError, match=r"no scenario 'storm' is built in: there are"):
        simulate(Timeout(1), "storm")


# -- Copies, and what production sees of a simulation


def test_what_policies_share_is_shared_in_each_copy() -> None:
    """One budget for two pipelines is one for two copies, and not the user's."""
    budget = RetryBudget(0.2, 5)
    pipelines = [
        Pipeline(Retry(OSError, budget=budget), Timeout(1)),
        Retry(KeyError, budget=budget),
    ]
    memo: dict[int, Any] = {}
    first, second = (copy_policy(pipeline, memo) for pipeline in pipelines)
    other = copy_policy(pipelines[1], {})

    budgets = [members(policy)[0].budget for policy in (first, second, other)]  # type: ignore[attr-defined]
    assert budgets[0] is budgets[1]
    assert budgets[0] is not budget
    assert budgets[2] is not budgets[0]
    assert "RetryBudget(0.2, 5, 0.1)" == repr(budgets[0])
    assert copy_policy(pipelines[0], memo) is first


def test_production_sees_nothing_of_a_simulation() -> None:
    """No count, event, observed call or policy of it; nor do its objects change."""
    events: list[Any] = []
    observed: list[Call] = []
    end_subscription = resilient.subscribe(events.append)
    before, call_module.observe = call_module.observe, observed.append  # type: ignore[assignment]
    retries: list[Any] = []
    policy = Pipeline(
        Fallback(function=retries.append, name="plan B"),
        Retry(ConnectionError, before_retry=retries.append),
        CircuitBreaker(),
        name="catalogue",
    )
    # NB: of policies that other tests have left in cycles.
    gc.collect()
    known = len(living)
    try:
        result = one(policy, events=[Refusal(5, 15)])
        assert call_module.observe is not None
    finally:
        call_module.observe = before
        end_subscription()

    assert {"answered", "fallback"} == set(ends(result))
    assert 1.5 < result.after(5).amplification or result.rejected == 0
    assert [] == events == observed == retries
    assert known == len(living)
    assert policy.policies[2].is_pristine()
    counters = all_counters().get("catalogue")
    assert counters is None or not counters.counts


def test_the_policies_of_a_decorated_function_are_simulated() -> None:
    """All of them, outermost first."""

    @Retry(TimeoutExceededError, budget=None)
    @Timeout(0.2)
    def fetch() -> str:
        raise AssertionError

    @Timeout(0.2)
    def once() -> str:
        raise AssertionError

    assert 1.0 < one(fetch).amplification  # type: ignore[arg-type]  # a function
    assert 1.0 == one(once).amplification  # type: ignore[arg-type]  # a function
    assert "once" == simulate(once, QUICK, seeds=1).name
    assert "plan" == simulate(once, QUICK, seeds=1, name="plan").name


# -- Refused


def test_what_is_no_policy_is_refused() -> None:
    """By what it is."""
    for wrong in (print, "retry"):
        with pytest.raises(
            TypeError, match=r"^`policy` must be a policy or a function"
        ):
            simulate(wrong, QUICK)  # type: ignore[arg-type]


def test_a_shared_store_is_refused() -> None:
    """A simulation asks no server."""
    policy = Bulkhead(3, shared=MemoryStore(), name="slots")
    with pytest.raises(ValueError, match=r"shares its state through a store, which a"):
        simulate(policy, QUICK)


def test_it_is_refused_in_virtual_time_and_in_a_loop() -> None:
    """One clock a process; and a loop would stand still."""
    with virtual_time():
        with pytest.raises(VirtualTimeError, match="cannot be nested"):
            simulate(Timeout(1), QUICK)

    async def main() -> None:
        with pytest.raises(VirtualTimeError, match=r"^simulate\(\) cannot work"):
            simulate(Timeout(1), QUICK)

    asyncio.run(main())


class Sleepy(Policy[Any]):
    """A policy that waits in a way that is not simulated."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        super().__init__("sleepy")
        self.wait = wait

    async def around(self, proceed: Any, call: Call) -> Outcome:
        await self.wait()
        outcome: Outcome = await proceed(call)
        return outcome


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "NoneType was awaited in simulated time"), (1, "no running event loop")],
)
def test_a_policy_may_wait_through_its_runtime_only(seconds: int, text: str) -> None:
    """The error says so, and which pipeline it is."""
    with pytest.raises(RuntimeError, match=text) as caught:
        simulate(Sleepy(lambda: asyncio.sleep(seconds)), QUICK)

    assert ["in the simulation of 'sleepy'"] == caught.value.__notes__


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Scenario(3), "`name` must be a string, got 3"),
        (lambda: Scenario("x", rate=0), "`rate` must be > 0, got 0"),
        (lambda: Scenario("x", duration=9), "`duration` must be >= 10, got 9"),
        (
            lambda: Scenario("x", events=["outage"]),
            "`events` must be events, as Outage",
        ),
        (
            lambda: Scenario("x", events=[Outage(5, 400)]),
            "`events`: Outage(start=5, end=400) ends after the run, which takes 300 s",
        ),
        (lambda: Outage(-1, 3), "`start` must be >= 0 seconds, got -1"),
        (lambda: Outage(5, 5), "`end` must be > 5, got 5"),
        (lambda: Hang(5, 6, 2), "`share` must be > 0 and <= 1, got 2"),
        (lambda: Failing(5, 6, 0), "`share` must be > 0 and <= 1, got 0"),
        (lambda: Surge(5, 6, 0), "`factor` must be > 0, got 0"),
        (lambda: Dependency(service=0.1), "`service` must be a distribution, as"),
        (lambda: Dependency(failures=2), "`failures` must be <= 1, got 2"),
        (lambda: simulate(Timeout(1), QUICK, seeds=[]), "`seeds` must have at least"),
        (lambda: simulate(Timeout(1), QUICK, seeds=0), "`seeds` must be >= 1, got 0"),
        (
            lambda: simulate(Timeout(1), QUICK, seeds=1).after(20),
            "`second` must be < 20, where the run ends, got 20",
        ),
    ],
)
def test_a_wrong_argument_is_refused(make: Callable[[], object], text: str) -> None:
    """With parameter, rule and value."""
    with pytest.raises((TypeError, ValueError)) as caught:
        make()

    assert text in str(caught.value)


def test_things_introduce_themselves() -> None:
    """An answer says when it came."""
    result = simulate(Timeout(1), QUICK, seeds=1)

    assert "runs=<1 seeds>" in repr(result)
    assert "<Answer at 3 s>" == repr(resilient.simulation._servers.Answer(3.0))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "changes",
    [
        {"dependency": Dependency(failures=0.1)},
        {"dependency": Dependency(quota=9)},
        {"dependency": Dependency(conflicts=True)},
        {"events": [Refusal(1, 2)]},
    ],
)
def test_a_retry_that_no_error_concerns_is_told_of(changes: dict[str, Any]) -> None:
    """Before it starts: its errors are others than those of the scenario."""
    retry = Retry(LookupError, budget=None)
    scenario = Scenario("x", rate=1, duration=10, clients=1, **changes)
    said = "no error of the scenario 'x' is a failure to Retry(LookupError"

    with pytest.warns(ResilientWarning, match=re.escape(said)):
        simulate(Pipeline(retry, Timeout(1)), scenario, seeds=1)


def test_a_retry_that_errors_may_concern_is_not_told_of() -> None:
    """Nothing fails; it is one of its errors; or its function may say so."""
    scenario = Scenario("x", rate=1, duration=10, clients=1)
    simulate(Retry(LookupError), scenario, seeds=1)
    failing = Dependency(failures=0.1, error=KeyError)
    simulate(Retry(LookupError), attrs.evolve(scenario, dependency=failing), seeds=1)
    failing = Dependency(failures=0.1)
    retry = Retry(on=lambda error: False)
    simulate(retry, attrs.evolve(scenario, dependency=failing), seeds=1)
