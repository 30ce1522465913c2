"""Counting calls and the runs of their functions."""

from __future__ import annotations

import gc
import sys
import threading
from typing import Any
from weakref import WeakValueDictionary

import pytest
from tests.colours import World, in_async_colours, in_every_colour
from tests.interrupts import every_moment

from resilient import (
    Bulkhead,
    Call,
    CircuitBreaker,
    Fallback,
    Hedge,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    RejectedError,
    Retry,
    RetryBudget,
    Timeout,
    Verdict,
    constant,
    deadline_after,
)
from resilient._calls.call import Run, overdue
from resilient._calls.outcome import outcome_label
from resilient._edges.steps import leaf
from resilient._errors.errors import DeadlineExceededError, TimeoutExceededError
from resilient._events import counters as counters_module
from resilient._events.counters import (
    MOST_UNUSED,
    UNCOUNTED,
    Counters,
    all_counters,
    counters_of,
)
from resilient._policy.policy import begin_use

CALLS, ATTEMPTS = "resilient.calls", "resilient.attempts"
REJECTIONS = "resilient.rejections"


@pytest.fixture(autouse=True)
def _nothing_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters_module, "_all_counters", WeakValueDictionary())


def counted(policy: Policy[Any]) -> dict[tuple[str, ...], int]:
    """Everything that was counted for a policy, plain calls as two counts."""
    counters = policy.counters
    counts = dict(counters.counts)
    counts[CALLS, "success"] = counters.successes
    counts[ATTEMPTS, "original"] = counters.originals
    return {key: count for key, count in counts.items() if count}


async def nothing() -> None:
    """Take no time."""


async def fail() -> None:
    """Fail at once."""
    raise OSError("down")


def failing(times: int) -> Any:
    """Return a function that fails so often, and then does not."""
    left = [times]

    async def flaky() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise OSError("down")
        return "up"

    return flaky


@in_every_colour
async def test_a_call_that_ends_well_is_one_call_and_one_run(w: World) -> None:
    """And costs two additions."""
    policy = Pipeline(Retry(OSError), name="plain")
    call = w.decorate(policy, nothing)
    for _ in range(3):
        await call()
    assert 3 == policy.counters.successes == policy.counters.originals
    assert {} == dict(policy.counters.counts)
    assert {(CALLS, "success"): 3, (ATTEMPTS, "original"): 3} == counted(policy)


@in_every_colour
async def test_runs_after_the_first_are_retries(w: World) -> None:
    """Also where the last of them succeeds, or all fail."""
    policy = Pipeline(Retry(OSError, backoff=constant(0)), name="again")
    await w.call(policy, failing(2))
    expected = {
        (CALLS, "success"): 1,
        (ATTEMPTS, "original"): 1,
        (ATTEMPTS, "retry"): 2,
    }
    assert expected == counted(policy)
    with pytest.raises(OSError, match="down"):
        await w.call(policy, fail)
    assert {
        (CALLS, "success"): 1,
        (CALLS, "failure"): 1,
        (ATTEMPTS, "original"): 2,
        (ATTEMPTS, "retry"): 4,
        ("resilient.retry.exhausted", "Retry", "attempts"): 1,
    } == counted(policy)


@in_every_colour
async def test_a_call_that_is_answered_without_a_run_has_no_attempt(w: World) -> None:
    """Its rejection says who refused."""
    limiter = RateLimiter(1, per=3600, name="gate")
    policy = Pipeline(Fallback("cached"), limiter, name="api")
    await w.call(policy, nothing)
    assert "cached" == await w.call(policy, nothing)
    assert {
        (CALLS, "success"): 2,
        (ATTEMPTS, "original"): 1,
        (REJECTIONS, "gate", "RateLimitedError", "enforced"): 1,
        ("resilient.fallbacks", "Fallback"): 1,
    } == counted(policy)


@in_every_colour
async def test_a_probe_is_a_run_of_its_own_kind(w: World) -> None:
    """A retry that probes is a probe."""
    breaker = CircuitBreaker(
        consecutive_failures=1, open_for=1.0, half_open_calls=1, name="circuit"
    )
    policy = Pipeline(
        Retry(OSError, on=RejectedError, backoff=constant(2)), breaker, name="probing"
    )
    await w.call(policy, failing(1))
    assert {
        (CALLS, "success"): 1,
        (ATTEMPTS, "original"): 1,
        (ATTEMPTS, "probe"): 1,
    } == counted(policy)


@in_every_colour
async def test_what_an_observing_circuit_would_refuse_is_counted_apart(
    w: World,
) -> None:
    """Never with what is refused."""
    breaker = CircuitBreaker(consecutive_failures=1, name="circuit")
    breaker.observe()
    for _ in range(3):
        with pytest.raises(OSError, match="down"):
            await w.call(breaker, fail)
    assert {
        (CALLS, "failure"): 3,
        (ATTEMPTS, "original"): 3,
        (REJECTIONS, "circuit", "CircuitOpenError", "observing"): 2,
    } == counted(breaker)


@in_async_colours
async def test_a_timeout_and_a_wait_are_counted(w: World) -> None:
    """By the policy that caused them."""
    bulkhead = Bulkhead(1, max_queue=1, name="slots")
    policy = Pipeline(bulkhead, Timeout(1, name="second"), name="slow")

    async def slow() -> None:
        await w.sleep(5)

    call = w.decorate(policy, slow)
    errors = await w.gather(call, call)
    assert [TimeoutExceededError] * 2 == [type(error) for error in errors]
    assert {
        (CALLS, "timeout"): 2,
        (ATTEMPTS, "original"): 2,
        ("resilient.timeouts", "second", "true"): 2,
        ("resilient.permit.waits", "slots"): 1,
    } == counted(policy)


@in_every_colour
async def test_a_call_without_time_to_begin_is_rejected(w: World) -> None:
    """By the deadline of the call: no policy further in is asked."""
    policy = Pipeline(Retry(OSError), name="late")
    with deadline_after(0), pytest.raises(DeadlineExceededError):
        await w.call(policy, nothing)
    assert {
        (CALLS, "rejected"): 1,
        (REJECTIONS, "late", "DeadlineExceededError", "enforced"): 1,
    } == counted(policy)


def test_a_deadline_alone_counts_for_no_policy() -> None:
    """It has no policy."""
    call = Call.new("alone")
    call.deadline = 1.0
    assert overdue(call, 0.5) is None
    assert isinstance(overdue(call, 2.0), Outcome)
    call.count("anything")


@in_every_colour
async def test_an_unwinding_call_is_cancelled(w: World) -> None:
    """It ended, and said nothing."""
    policy = Pipeline(Retry(OSError), name="interrupted")

    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await w.call(policy, interrupted)
    assert {(CALLS, "cancelled"): 1, (ATTEMPTS, "original"): 1} == counted(policy)


@in_every_colour
async def test_a_bulkhead_of_threads_counts_its_rejections(w: World) -> None:
    """As every policy that refuses does."""
    if not w.is_sync:
        return
    policy = Timeout(5, abandon=True, max_threads=1, name="crew")

    def inner() -> None:
        with pytest.raises(RejectedError):
            policy.call(lambda: None)

    policy.call(inner)
    rejected = (REJECTIONS, "crew", "BulkheadFullError", "enforced")
    assert 1 == counted(policy)[rejected]


@in_every_colour
async def test_blocks_are_counted_as_calls_are(w: World) -> None:
    """A guard is one call; a loop of attempts is one call with several runs."""
    policy = Pipeline(Retry(OSError, backoff=constant(0)), name="loop")
    guarded = Pipeline(Bulkhead(1), name="guarded")
    left = 2
    if w.is_sync:
        with guarded.guard():
            pass
        for attempt in policy.attempts():
            with attempt:
                left -= 1
                if left:
                    raise OSError("down")
    else:
        async with guarded.guard():
            pass
        async for attempt in policy.attempts():
            async with attempt:
                left -= 1
                if left:
                    raise OSError("down")
    assert {(CALLS, "success"): 1, (ATTEMPTS, "original"): 1} == counted(guarded)
    expected = {
        (CALLS, "success"): 1,
        (ATTEMPTS, "original"): 1,
        (ATTEMPTS, "retry"): 1,
    }
    assert expected == counted(policy)


def test_a_generator_is_one_call_however_it_ends() -> None:
    """To its end, closed early, or with an error."""
    policy = Pipeline(Bulkhead(5), name="stream")

    @policy
    def stream(last: Exception | None) -> Any:
        yield 1
        if last is not None:
            raise last
        yield 2

    assert [1, 2] == list(stream(None))
    closing = stream(None)
    next(closing)
    closing.close()
    with pytest.raises(OSError, match="down"):
        list(stream(OSError("down")))
    expected = {(CALLS, "success"): 2, (CALLS, "failure"): 1, (ATTEMPTS, "original"): 3}
    assert expected == counted(policy)


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (None, "cancelled"),
        (Outcome(1), "success"),
        (Outcome(None, OSError()), "failure"),
        (Outcome(None, RejectedError("p")), "rejected"),
        (Outcome(None, TimeoutExceededError("t", 1, 1)), "timeout"),
    ],
)
def test_every_ending_has_a_word(outcome: Outcome | None, word: str) -> None:
    """And only these: they are a label."""
    assert word == outcome_label(outcome)


def test_the_verdict_tells_a_failure_from_an_error() -> None:
    """A value judged PUSHBACK is a failure; an error judged SUCCESS is an error."""
    value, error = Outcome("no"), Outcome(None, ValueError())
    value.verdict, error.verdict = Verdict.PUSHBACK, Verdict.SUCCESS
    assert ["failure", "error"] == [outcome_label(value), outcome_label(error)]


def test_a_run_can_be_said_to_be_a_hedge() -> None:
    """By the policy that causes it; the plain run before it is not lost."""
    policy = Policy[Any]("hedged")
    begin_use(policy)
    call = Call.new("get", policy=policy)
    leaf(call).send(None)
    call.run = Run.HEDGE
    leaf(call).send(None)
    call.end(Outcome())
    call.end()
    assert {
        (CALLS, "success"): 1,
        (ATTEMPTS, "original"): 1,
        (ATTEMPTS, "hedge"): 1,
    } == counted(policy)


def test_a_call_that_goes_on_after_its_answer_is_counted_once() -> None:
    """When the answer is known, by what it is."""
    policy = Policy[Any]("streaming")
    begin_use(policy)
    for last in (None, Outcome()):
        call = Call.new("get", policy=policy)
        leaf(call).send(None)
        pushback = Outcome("busy")
        pushback.verdict = Verdict.PUSHBACK
        call.count_end(pushback)
        call.count_end(None)
        assert not call.ended
        call.end(last)
        call.end()
    assert {(CALLS, "failure"): 2, (ATTEMPTS, "original"): 2} == counted(policy)


# -- Names


def test_policies_of_one_name_count_together() -> None:
    """A counter does not fall when one of them goes, nor when all have."""
    first, second = Pipeline(name="shared"), Pipeline(name="shared")
    first.call(int)
    second.call(int)
    assert {(CALLS, "success"): 2, (ATTEMPTS, "original"): 2} == counted(first)
    del first
    gc.collect()
    assert {(CALLS, "success"): 2, (ATTEMPTS, "original"): 2} == counted(second)
    del second
    gc.collect()
    third = Pipeline(name="shared")
    third.call(int)
    assert {(CALLS, "success"): 3, (ATTEMPTS, "original"): 3} == counted(third)


def test_of_names_that_are_made_up_for_ever_the_last_are_kept() -> None:
    """The oldest goes with its policy, and a name that is used stays."""
    used, unused = Pipeline(name="used"), Pipeline(name="unused")
    used.call(int)
    unused.call(int)
    del unused
    for number in range(MOST_UNUSED):
        Pipeline(name=f"name {number}").call(int)
    gc.collect()
    assert {"used", "name 0"} < all_counters().keys()
    assert "unused" not in all_counters()
    assert MOST_UNUSED + 1 == len(all_counters())
    assert 1 == used.counters.successes


def test_a_policy_that_was_never_called_has_no_counters() -> None:
    """A `PerKey` has thousands of such policies."""
    assert UNCOUNTED is Retry(OSError).counters
    assert 0 == UNCOUNTED.successes


def test_a_policy_that_takes_the_name_of_a_function_counts_under_it() -> None:
    """It had none before."""
    policy = Pipeline(Bulkhead(1))

    @policy
    def fetch() -> None: ...

    fetch()
    assert counters_of("fetch") is policy.counters
    assert {(CALLS, "success"): 1, (ATTEMPTS, "original"): 1} == counted(policy)


def test_what_stands_inside_goes_by_the_outermost_pipeline() -> None:
    """By the first that it was put into, while that exists."""
    breaker = CircuitBreaker(name="circuit")
    inner = Pipeline(breaker, name="inner")
    outer = Pipeline(inner, name="outer")
    other = Pipeline(breaker, name="other")
    assert ("outer", "circuit") == breaker.placement[1:]
    assert ("outer", "outer") == outer.placement[1:]
    assert ("other", "other") == other.placement[1:]
    del inner, outer
    gc.collect()
    assert ("circuit", "circuit") == breaker.placement[1:]
    last = Pipeline(breaker, name="last")
    assert ("last", "circuit") == breaker.placement[1:]
    assert last.children() == (breaker,)


def test_what_stands_inside_a_per_key_goes_by_its_name() -> None:
    """Keys are many, and names of metrics few."""
    hosts = PerKey(
        lambda key: Pipeline(CircuitBreaker(name=key), name=key), name="hosts"
    )
    outer = Pipeline(hosts, name="outer")
    [breaker] = hosts["example.org"].children()
    assert ("outer", "hosts") == breaker.placement[1:]
    hosts["example.org"].call(int)
    assert counters_of("hosts") is hosts["example.org"].counters
    assert ("outer", "hosts") == hosts.placement[1:]
    assert outer.children() == (hosts,)


@in_every_colour
async def test_evicted_keys_are_counted(w: World) -> None:
    """Under the call that made room."""
    hosts = PerKey(
        lambda key: Bulkhead(1), key=lambda key: key, max_keys=1, name="hosts"
    )
    policy = Pipeline(hosts, name="keyed")

    async def get(key: str) -> None: ...

    for key in "abc":
        await w.call(policy, get, key)
    assert 2 == counted(policy)["resilient.per_key.evictions", "hosts"]


@in_every_colour
async def test_calls_of_keys_that_found_no_room_are_counted(w: World) -> None:
    """They share one policy, where each that is kept protects something."""
    hosts = PerKey(
        lambda key: RateLimiter(1, per=3600, burst=2),
        key=lambda key: key,
        max_keys=2,
        name="hosts",
    )
    policy = Pipeline(hosts, name="keyed")

    async def get(key: str) -> None: ...

    for key in "aabbcd":
        await w.call(policy, get, key)
    assert 2 == counted(policy)["resilient.per_key.overflows", "hosts"]


@pytest.mark.real
def test_no_count_is_lost_between_threads() -> None:
    """With a global interpreter lock an addition is one step."""
    counters, rounds = Counters(), 20_000
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def count() -> None:
        for _ in range(rounds):
            counters.successes += 1
            counters.counts["a", "b"] += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        assert 4 * rounds == counters.successes == counters.counts["a", "b"]


# -- Status


def test_a_policy_says_what_can_be_seen_of_it() -> None:
    """In the words of the metrics."""
    assert {} == Policy[Any]().status()
    assert {
        "bulkhead.in_use": 0,
        "bulkhead.queued": 0,
        "bulkhead.limit": 4,
        "saturation": 0.0,
    } == Bulkhead(4).status()
    limiter = RateLimiter(5, per=3600)
    assert {
        "limiter.tokens": {"requests": 5.0},
        "limiter.queued": 0,
    } == limiter.status()
    budget = RetryBudget(capacity=3)
    assert 3.0 == budget.capacity
    retry = Retry(OSError, budget=budget)
    assert {"budget.balance": 3.0, "budget.capacity": 3.0} == retry.status()
    assert {} == Retry(OSError, budget=None).status()
    assert {} == Timeout(1).status()
    assert {"timeout.abandoned": 0} == Timeout(1, abandon=True).status()
    assert {
        "hedge.delay": 0.5,
        "hedge.abandoned": 0,
        "budget.balance": 3.0,
        "budget.capacity": 3.0,
    } == Hedge(0.5, budget=budget).status()
    unpaid = {"hedge.delay": None, "hedge.abandoned": 0}
    assert unpaid == Hedge(budget=None).status()
    hosts = PerKey(lambda key: Bulkhead(1))
    assert hosts["a"] is not hosts["b"]
    assert {"per_key.keys": 2} == hosts.status()


def test_a_circuit_says_since_when_it_is_in_its_state() -> None:
    """None: for ever."""
    breaker = CircuitBreaker()
    assert {
        "circuit.state": "closed",
        "circuit.failure_rate": 0.0,
        "circuit.slow_rate": 0.0,
        "window_calls": 0,
        "seconds_in_state": None,
        "retry_after": None,
    } == breaker.status()
    breaker.force_open()
    status = breaker.status()
    assert "forced_open" == status["circuit.state"]
    assert status["seconds_in_state"] >= 0.0


def test_no_call_goes_uncounted_while_another_thread_begins() -> None:
    """Whatever that one has done of its own first use by then."""

    def work() -> int:
        return 1

    threads: list[threading.Thread] = []

    def act() -> None:
        thread = threading.Thread(target=lambda: policies[-1](work)())
        threads.append(thread)
        thread.start()
        # NB: no longer, for it may wait for what was interrupted here.
        thread.join(0.02)

    policies: list[Retry] = []
    for moment in every_moment(act):
        policies.append(Retry(OSError))
        with moment:
            policies[-1](work)()
        while threads:
            threads.pop().join(30)
        calls = 2 if moment.came else 1
        assert (moment.where, calls) == (
            moment.where,
            policies[-1].counters.successes,
        )
        # NB: those of one name count together.
        policies[-1].counters.successes = 0
