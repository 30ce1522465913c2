"""AdaptiveConcurrency, in three colours."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.colours import (
    START,
    World,
    in_async_colours,
    in_every_colour,
    in_sync,
)
from tests.interrupts import amid_change
from tests.slots import staying, texts
from tests.test_cut_calls import cancelled_by_the_caller

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    BulkheadFullError,
    Call,
    CallRejected,
    ConcurrencyLimitedError,
    Event,
    Gradient,
    LimitChanged,
    Outcome,
    PerKey,
    PermitWaited,
    Pipeline,
    Priority,
    RejectedError,
    ResilientWarning,
    Retry,
    Timeout,
    TimeoutExceededError,
    Vegas,
    Verdict,
    Wait,
    deadline_after,
    priority,
)
from resilient._machines.partitions import PartitionedSlots
from resilient._runtimes import clock
from resilient._runtimes.sync import SYNC
from resilient.testing import virtual_time

OK = Outcome("ok")


def failed(error: Exception) -> Outcome:
    """Return what a call that raised comes to."""
    return Outcome(None, error)


class Told:
    """A limit of the user's own, that keeps what it is told."""

    def __init__(self, *limits: int) -> None:
        self.limits = list(limits or (20,))
        self.samples: list[tuple[float, float, int, bool]] = []

    def limit(self, now: float) -> int:
        return self.limits[0]

    def update(
        self, now: float, latency: float, in_flight: int, congested: bool
    ) -> int:
        self.samples.append((now - START, latency, in_flight, congested))
        if len(self.limits) > 1:
            self.limits.pop(0)
        return self.limits[0]

    def anew(self) -> Told:
        # NB: itself, for the tests to look at.
        return self


# -- Slots


@in_every_colour
async def test_a_call_takes_a_slot_and_gives_it_back(w: World) -> None:
    """It is in flight while the function runs, however that ends."""
    policy = AdaptiveConcurrency()
    seen: list[int] = []

    async def succeed() -> str:
        seen.append(policy.in_flight)
        return "ok"

    async def fail() -> None:
        seen.append(policy.in_flight)
        raise OSError

    assert "ok" == await w.call(policy, succeed)
    with pytest.raises(OSError, match=r"^$"):
        await w.call(policy, fail)
    assert [1, 1] == seen
    assert 0 == policy.in_flight == policy.queued


@in_every_colour
async def test_beyond_the_limit_a_call_is_rejected_at_once(w: World) -> None:
    """It waits for nothing and is not called; the rejection is no sample."""
    policy = AdaptiveConcurrency(AIMD(1), name="db")
    events: list[Event] = []
    policy.subscribe(events.append)

    async def outer() -> None:
        await w.call(policy, outer)

    with pytest.raises(ConcurrencyLimitedError) as caught:
        await w.call(policy, outer)
    error = caught.value
    assert "concurrency limit 'db' is reached (1 of 1 running)" == str(error)
    assert ("db", None, 1, 1, 0, 0.0, None) == (
        error.policy,
        error.retry_after,
        error.limit,
        error.in_flight,
        error.queued,
        error.waited,
        error.reason,
    )
    assert 0.0 == w.now()
    kind = "ConcurrencyLimitedError"
    assert [CallRejected("db", events[0].call, kind, None, None)] == events
    assert (0, 1) == (policy.in_flight, policy.limit)


@in_async_colours
async def test_the_limit_follows_the_outcomes(w: World) -> None:
    """Up by one for each success, down by a tenth for each failure."""
    policy = AdaptiveConcurrency(AIMD(4))
    await w.gather(*[staying(w, policy, 1) for _ in range(4)])
    # With 2 of 6 in flight the third success is too little traffic.
    assert 6 == policy.limit

    async def fail() -> None:
        raise OSError

    for _ in range(3):
        with pytest.raises(OSError, match=r"^$"):
            await w.call(policy, fail)
    assert 4 == policy.limit


@in_every_colour
async def test_an_hour_of_light_traffic_does_not_raise_the_limit(w: World) -> None:
    """Less than half of it is in flight."""
    policy = AdaptiveConcurrency()

    async def call() -> None:
        await w.sleep(1)

    for _ in range(3_600):
        await w.call(policy, call)
    assert 20 == policy.limit


# -- What an outcome says


@in_every_colour
async def test_an_algorithm_of_ones_own_is_told_of_every_call(w: World) -> None:
    """When it ended, how long it took, beside how many, and how it went."""
    told = Told()
    policy = AdaptiveConcurrency(told)

    async def call(seconds: float) -> None:
        await w.sleep(seconds)
        if seconds == 2:
            raise OSError

    await w.call(policy, call, 1)
    with pytest.raises(OSError, match=r"^$"):
        await w.call(policy, call, 2)
    await w.call(policy, call, 0)
    assert [(1.0, 1.0, 1, False), (3.0, 2.0, 1, True), (3.0, 0.0, 1, False)] == (
        told.samples
    )


@pytest.mark.parametrize(
    ("verdict", "congested"),
    [
        (Verdict.SUCCESS, [False]),
        (Verdict.FAILURE, [True]),
        (Verdict.PUSHBACK, [True]),
        (Verdict.IGNORED, []),
    ],
)
def test_a_verdict_is_a_sample_or_congestion_or_nothing(
    verdict: Verdict, congested: list[bool]
) -> None:
    """Whether the pipeline's `classify` gave it or the policy's own `on`."""
    for policy in (
        Pipeline(AdaptiveConcurrency(one := Told()), classify=lambda outcome: verdict),
        AdaptiveConcurrency(other := Told(), on=lambda outcome: verdict),
    ):
        assert "ok" == policy.call(str, "ok")
    for told in (one, other):
        assert congested == [sample[3] for sample in told.samples]


def test_a_rejection_further_in_says_nothing() -> None:
    """Unless it is listed; the slot goes back."""
    told = Told()
    policy = AdaptiveConcurrency(told)
    for rejected in (policy, policy.with_(on=RejectedError)):

        def reject() -> None:
            raise BulkheadFullError("b")

        with pytest.raises(BulkheadFullError):
            rejected.call(reject)
        assert 0 == rejected.in_flight
    assert [True] == [sample[3] for sample in told.samples]


@in_async_colours
async def test_a_timeout_further_in_is_congestion(w: World) -> None:
    """It is the plainest sign of it, and no latency."""
    told = Told()
    policy = Pipeline(AdaptiveConcurrency(told), Timeout(2))

    async def hang() -> None:
        await w.sleep(60)

    with pytest.raises(TimeoutExceededError):
        await w.call(policy, hang)
    assert [(2.0, 2.0, 1, True)] == told.samples


@in_async_colours
async def test_a_cancelled_call_says_nothing(w: World) -> None:
    """Its caller went away, whatever the dependency did; the slot goes back."""
    told = Told()
    policy = AdaptiveConcurrency(told)

    await cancelled_by_the_caller(w, policy, lambda: w.sleep(60))
    assert 0 == policy.in_flight
    assert [] == told.samples


def test_a_judge_that_raises_keeps_no_slot() -> None:
    """It is a bug, and reaches the caller."""

    def judge(outcome: Outcome) -> bool:
        raise KeyError("bug")

    policy = AdaptiveConcurrency(on=judge)

    @policy
    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(KeyError, match="bug"):
        policy.call(bool)
    with pytest.raises(KeyError, match="bug"):
        next(items())
    assert 0 == policy.in_flight


class Broken(Told):
    """A limit with a bug."""

    def update(self, *sample: Any) -> int:
        raise KeyError("bug")


def test_an_algorithm_that_raises_keeps_no_slot() -> None:
    """The error reaches the caller that made the limiter, never another call."""
    policy = AdaptiveConcurrency(Broken())
    with pytest.raises(KeyError, match="bug"):
        policy.call(bool)
    assert 0 == policy.in_flight
    permit = policy.admit(Call.new("call"))
    with amid_change(policy):
        policy.settle(permit, OK)
    policy.reset()
    assert 0 == policy.in_flight


def test_a_limit_below_one_is_one() -> None:
    """With a limit of 0 no call could show that the overload is over."""
    policy = AdaptiveConcurrency(Told(0, -5))
    assert 1 == policy.limit
    assert "ok" == policy.call(str, "ok")
    assert 1 == policy.limit
    assert "ok" == policy.call(str, "ok")


def test_a_limit_that_rises_with_time_is_asked_before_a_call_is_refused() -> None:
    """A probe may be over that lowered it."""
    told = Told(1)
    policy = AdaptiveConcurrency(told)
    permit = policy.admit(Call.new("one"))
    assert isinstance(policy.admit(Call.new("two")), ConcurrencyLimitedError)
    told.limits = [2]
    other = policy.admit(Call.new("two"))
    assert not isinstance(other, ConcurrencyLimitedError)
    assert (2, 2) == (policy.limit, policy.in_flight)
    told.limits = [1]
    assert isinstance(policy.admit(Call.new("three")), ConcurrencyLimitedError)
    assert (1, 2) == (policy.limit, policy.in_flight)
    policy.settle(permit, None)
    policy.settle(other, None)
    assert 0 == policy.in_flight


# -- Streams


@in_every_colour
async def test_a_stream_holds_its_slot_to_its_end(w: World) -> None:
    """Its latency is that of its first item, and its end says nothing."""
    told = Told()
    policy = AdaptiveConcurrency(told)

    async def rows() -> Any:
        await w.sleep(1)
        yield 1
        await w.sleep(5)
        yield 2
        raise OSError

    def plain_rows() -> Iterator[int]:
        w.native(w.sleep)(1)
        yield 1
        w.native(w.sleep)(5)
        yield 2
        raise OSError

    held: list[int] = []
    with pytest.raises(OSError, match=r"^$"):
        if w.is_sync:
            for _ in policy(plain_rows)():
                held.append(policy.in_flight)
        else:
            async for _ in policy(rows)():
                held.append(policy.in_flight)
    assert [1, 1] == held
    assert 0 == policy.in_flight
    assert [(1.0, 1.0, 1, False)] == told.samples


def test_a_stream_that_says_nothing_says_nothing() -> None:
    """Its first item is judged as any answer is."""
    told = Told()
    policy = AdaptiveConcurrency(told, on=lambda outcome: Verdict.IGNORED)

    @policy
    def items() -> Iterator[int]:
        yield 1

    assert [1] == list(items())
    assert ([], 0) == (told.samples, policy.in_flight)


@in_sync
async def test_an_abandoned_thread_keeps_its_slot(w: World) -> None:
    """That it was abandoned is congestion; how it ends says nothing."""
    told = Told()
    policy = AdaptiveConcurrency(told)
    with pytest.raises(TimeoutExceededError):
        Pipeline(policy, Timeout(1, abandon=True)).call(lambda: clock.sleep(5))
    assert ([(1.0, 1.0, 1, True)], 1) == (told.samples, policy.in_flight)
    clock.sleep(10)
    assert (1, 0) == (len(told.samples), policy.in_flight)


# -- Epochs


def test_what_began_before_a_reset_says_nothing() -> None:
    """The limit begins anew; who runs goes on, and gives the slot back."""
    with virtual_time() as clock:
        policy = AdaptiveConcurrency(AIMD(10))
        permits = [policy.admit(Call.new("call")) for _ in range(10)]
        policy.settle(permits.pop(), failed(OSError()))
        assert (9, 9) == (policy.limit, policy.in_flight)
        clock.advance(1)
        policy.reset()
        assert (10, 9) == (policy.limit, policy.in_flight)
        for permit in permits[:4]:
            policy.settle(permit, failed(OSError()))
        with amid_change(policy):
            policy.settle(permits[4], failed(OSError()))
        policy.settle(permits[5], OK)
        assert (10, 3) == (policy.limit, policy.in_flight)
        policy.settle(policy.admit(Call.new("call")), failed(OSError()))
        assert 9 == policy.limit


def test_a_reset_wakes_those_who_wait() -> None:
    """The first limit is greater than the present one."""
    policy = AdaptiveConcurrency(AIMD(2), max_queue=1)
    for _ in range(9):
        policy.settle(policy.admit(Call.new("call")), failed(OSError()))
    assert 1 == policy.limit
    first = policy.admit(Call.new("first"))
    call = Call.new("second", runtime=SYNC)
    wait = policy.admit(call)
    assert 1 == policy.queued
    policy.reset()
    second = policy.readmit(wait, call)
    assert (2, 0) == (policy.in_flight, policy.queued)
    policy.settle(first, None)
    policy.settle(second, None)
    assert policy.is_pristine()


# -- The queue


@in_async_colours
async def test_a_line_takes_a_burst(w: World) -> None:
    """Oldest first; its latency is without the wait."""
    told = Told(1)
    policy = AdaptiveConcurrency(told, max_queue=2, max_wait=30, name="db")
    events: list[Event] = []
    policy.subscribe(events.append)
    results = await w.gather(
        *[staying(w, policy, 10, after=place) for place in range(4)]
    )
    assert [0.0, 10.0, 20.0] == results[:3]
    text = "concurrency limit 'db' is reached (1 of 1 running, 2 waiting)"
    assert [text] == texts(results[3:])
    assert [10.0, 10.0, 10.0] == [sample[1] for sample in told.samples]
    waits = [event.waited for event in events if isinstance(event, PermitWaited)]
    assert [9.0, 18.0] == waits


@in_every_colour
async def test_a_wait_ends_with_max_wait(w: World) -> None:
    """The call is then rejected, having waited so long, and out of the queue."""
    wait = timedelta(seconds=2)
    policy = AdaptiveConcurrency(AIMD(1), max_queue=1, max_wait=wait, name="db")

    async def outer() -> None:
        await w.call(policy, outer)

    with pytest.raises(ConcurrencyLimitedError) as caught:
        await w.call(policy, outer)
    text = "concurrency limit 'db' is reached (1 of 1 running) after 2 s"
    assert text == str(caught.value)
    assert 2.0 == caught.value.waited == w.now()
    assert not caught.value.by_deadline
    assert 0 == policy.queued == policy.in_flight


@in_every_colour
async def test_a_wait_ends_with_the_deadline(w: World) -> None:
    """The earlier of the two counts."""
    policy = AdaptiveConcurrency(AIMD(1), max_queue=1, max_wait=10)

    async def outer() -> None:
        with deadline_after(3):
            await w.call(policy, outer)

    with pytest.raises(ConcurrencyLimitedError) as caught:
        await w.call(policy, outer)
    assert 3.0 == caught.value.waited == w.now()
    assert caught.value.by_deadline


def test_who_has_no_time_left_does_not_join_the_line() -> None:
    """The edge refuses such calls; within one, time may run out as well."""
    with virtual_time() as clock:
        policy = AdaptiveConcurrency(AIMD(1), max_queue=1)
        policy.admit(Call.new("one"))
        late = Call.new("late", runtime=SYNC)
        late.deadline = 3.0
        clock.advance(3)
        error = policy.admit(late)
        assert isinstance(error, ConcurrencyLimitedError)
        assert error.by_deadline


@in_async_colours
async def test_in_a_line_that_stands_the_newest_goes_first_and_soon(w: World) -> None:
    """At 2.6 s it has not been empty for 2 s; until then all may wait 2 s."""
    policy = AdaptiveConcurrency(
        Told(1), max_queue=9, max_wait=2, overload_wait=0.25, name="db"
    )
    arrivals = [0.0, 0.5, 1.0, 1.5, 2.0, 2.6, 2.7, 4.2]
    results = await w.gather(
        *[staying(w, policy, 1.1, after=after) for after in arrivals]
    )
    waited = [
        getattr(one, "waited", None) or round(one - after, 2)
        for one, after in zip(results, arrivals, strict=True)
    ]
    # In turn, until 3.3: then 2.0 comes before 1.5. It is empty when 4.2 comes.
    assert [0.0, 0.6, 1.2, 2.0, 1.3, 0.25, 0.25, 0.2] == pytest.approx(waited)


@in_async_colours
async def test_a_limit_that_grows_wakes_who_waits(w: World) -> None:
    """One leaves and two come in."""
    policy = AdaptiveConcurrency(Told(1, 3), max_queue=3, max_wait=60)
    calls = [staying(w, policy, 10, after=place) for place in range(4)]
    assert [0.0, 10.0, 10.0, 10.0] == await w.gather(*calls)


@in_async_colours
async def test_a_limit_that_falls_interrupts_no_call(w: World) -> None:
    """Who runs goes on; new ones wait until few enough are left."""
    policy = AdaptiveConcurrency(Told(3, 1), max_queue=3, max_wait=60)
    calls = [staying(w, policy, 10 + place) for place in range(3)]
    assert [0.0, 0.0, 0.0, 12.0] == await w.gather(
        *calls, staying(w, policy, 1, after=1)
    )


@in_async_colours
async def test_a_more_important_call_takes_the_place_in_line(w: World) -> None:
    """Of the least important; that one is rejected then."""
    policy = AdaptiveConcurrency(Told(1), max_queue=1, max_wait=60, name="db")
    low, high = staying(w, policy, 1, after=1), staying(w, policy, 1, after=2)

    async def batch() -> float:
        with priority("batch"):
            return await low()

    results = await w.gather(staying(w, policy, 10), batch, high)
    assert [0.0, 10.0] == results[::2]
    assert isinstance(results[1], ConcurrencyLimitedError)
    assert "displaced" == results[1].reason
    text = "concurrency limit 'db' is reached (1 of 1 running, 1 waiting) after 1 s"
    text += ": the place in the queue went to a more important call"
    assert text == str(results[1])


def test_what_is_given_back_under_the_lock_is_there_for_the_next() -> None:
    """With what it says."""
    policy = AdaptiveConcurrency(AIMD(1))
    permit = policy.admit(Call.new("one"))
    with amid_change(policy):
        policy.settle(permit, OK)
    other = policy.admit(Call.new("two"))
    assert (2, 1) == (policy.limit, policy.in_flight)
    policy.settle(other, None)


def test_who_goes_away_from_the_line_leaves_it() -> None:
    """Also as the slot is granted."""
    policy = AdaptiveConcurrency(Told(1), max_queue=2, max_wait=60)
    permit = policy.admit(Call.new("one"))
    calls = [Call.new(name, runtime=SYNC) for name in "ab"]
    waits = [policy.admit(call) for call in calls]
    policy.settle(permit, None)
    policy.withdraw(waits[0])
    policy.withdraw(waits[1])
    assert (0, 0) == (policy.in_flight, policy.queued)


# -- Classes and partitions


def admitted(policy: AdaptiveConcurrency, calls: int, **how: Any) -> list[Any]:
    """Have calls of a class ask for a slot; return the permits."""
    with priority(how.get("importance", "normal")):
        permits = [
            policy.admit(Call.new("call", key=how.get("key"))) for _ in range(calls)
        ]
    return [
        permit for permit in permits if not isinstance(permit, ConcurrencyLimitedError)
    ]


def test_the_lowest_class_goes_first() -> None:
    """It leaves free what higher ones wanted; alone it has everything."""
    with virtual_time() as clock:
        policy = AdaptiveConcurrency(Told(10))
        alone = admitted(policy, 12, importance="batch")
        assert 10 == len(alone)
        for permit in alone:
            policy.settle(permit, None)
        critical = admitted(policy, 4, importance="critical")
        for permit in critical:
            policy.settle(permit, None)
        assert 6 == len(admitted(policy, 12))
        assert 0 == len(admitted(policy, 12, importance="batch"))
        assert 4 == len(admitted(policy, 12, importance="critical"))
        clock.advance(1)
        assert 10 == policy.in_flight


def test_calls_are_told_apart_once_one_says_how_important_it_is() -> None:
    """Without priorities in use, calls have no group and no cost of it."""
    policy = AdaptiveConcurrency()
    assert policy.admit(Call.new("call")).group is None
    [permit] = admitted(policy, 1, importance="batch")
    assert permit.group is not None
    assert policy.admit(Call.new("call")).group is not None


@pytest.mark.parametrize("queue", [0, 5])
def test_the_same_tasks_are_refused(queue: int) -> None:
    """They are those of the lowest shed ranks: as large a share as was refused."""
    with virtual_time() as clock:
        policy = AdaptiveConcurrency(Told(8), max_queue=queue)

        def task(key: str) -> tuple[float, Any]:
            with priority("normal", key=key):
                call = Call.new("call", runtime=SYNC)
                permit = policy.admit(call)
                return call.shed_rank, permit

        # 8 of 16, in each of many periods.
        for _ in range(20):
            with priority("normal", key="crowd"):
                crowd = [
                    policy.admit(Call.new("call", runtime=SYNC)) for _ in range(16)
                ]
            for entry in crowd:
                if isinstance(entry, Wait):
                    policy.withdraw(entry)
                elif not isinstance(entry, ConcurrencyLimitedError):
                    policy.settle(entry, None)
            clock.advance(1)
        task("first")
        cut = policy._slots.group(None, Priority.NORMAL).shed_below
        assert 0.15 < cut < 0.6
        tasks = [task(str(number)) for number in range(40)]
        # Those that came while 6 of 8 slots were free to all.
        low = [permit for shed_rank, permit in tasks if shed_rank < cut]
        assert 5 >= sum(type(permit) is tuple for permit in low)
        assert not any(isinstance(permit, Wait) for permit in low)
        assert (8, queue) == (policy.in_flight, policy.queued)


def test_a_task_that_is_alone_has_all_the_slots() -> None:
    """Its calls have one shed rank: cutting them would let no other task in."""
    with virtual_time() as clock:
        policy = AdaptiveConcurrency(Told(8))
        for _ in range(5):
            with priority("batch", key="the only one"):
                permits = [
                    policy.admit(Call.new("call", runtime=SYNC)) for _ in range(16)
                ]
            passed = [permit for permit in permits if not isinstance(permit, Exception)]
            assert 8 == len(passed)
            for permit in passed:
                policy.settle(permit, None)
            clock.advance(1)


def test_a_partition_has_its_share() -> None:
    """The rest is lent, but for one slot; it is by a function of the call."""
    policy = AdaptiveConcurrency(
        Told(10), partitions={"live": 0.8, "batch": 0.2}, by=lambda call: call.key
    )
    batch = admitted(policy, 12, key="batch")
    assert 9 == len(batch)
    assert 1 == len(admitted(policy, 12, key="live"))
    for permit in batch[:5]:
        policy.settle(permit, OK)
    assert 0 == len(admitted(policy, 12, key="batch"))
    assert 5 == len(admitted(policy, 12, key="live"))
    assert 10 == policy.in_flight


@in_async_colours
async def test_the_line_serves_who_has_a_right_to_the_slot(w: World) -> None:
    """Not who came first."""
    policy = AdaptiveConcurrency(
        Told(2),
        max_queue=9,
        max_wait=60,
        partitions={"live": 0.5, "batch": 0.5},
        by=lambda call: call.args[0],
    )

    async def stay(partition: str, seconds: float) -> float:
        entered = w.now()
        await w.sleep(seconds)
        return entered

    def after(seconds: float, partition: str, stays: float) -> Any:
        async def call() -> Any:
            await w.sleep(seconds)
            return await w.call(policy, stay, partition, stays)

        return call

    assert [0.0, 1.0, 20.0, 10.0] == await w.gather(
        after(0, "live", 10),
        after(1, "batch", 19),
        after(2, "batch", 1),
        after(3, "live", 20),
    )


# -- Events


def test_changes_of_the_limit_are_told_once_a_second_at_most() -> None:
    """With the limit that was told last."""
    with virtual_time() as clock:
        policy = AdaptiveConcurrency(AIMD(10), name="db")
        events: list[Event] = []
        policy.subscribe(events.append)

        def fail(times: int) -> None:
            for _ in range(times):
                policy.settle(policy.admit(Call.new("call")), failed(OSError()))

        fail(1)
        fail(3)
        clock.advance(0.9)
        fail(1)
        assert [LimitChanged("db", None, 10, 9)] == events
        clock.advance(0.1)
        fail(1)
        assert [LimitChanged("db", None, 9, 5)] == events[1:]
        # What has not changed is not told.
        clock.advance(5)
        policy.settle(policy.admit(Call.new("call")), None)
        assert 2 == len(events)


def test_a_change_is_told_by_the_next_where_the_lock_was_taken() -> None:
    """A call may be closed by a collection that began under that lock."""
    policy = AdaptiveConcurrency(AIMD(10), name="db")
    events: list[Event] = []
    policy.settle(policy.admit(Call.new("call")), failed(OSError()))
    policy.subscribe(events.append)
    permit, other = policy.admit(Call.new("call")), policy.admit(Call.new("call"))
    with amid_change(policy):
        policy.settle(permit, None)
    assert ([], 1) == (events, policy.in_flight)
    policy.settle(other, None)
    assert [LimitChanged("db", None, 10, 9)] == events
    assert 0 == policy.in_flight


# -- Algorithms


def test_a_dependency_that_slows_down_gets_fewer_calls() -> None:
    """Gradient and Vegas see it before anything fails."""
    for algorithm in (Gradient(), Vegas()):
        with virtual_time() as clock:
            policy = AdaptiveConcurrency(algorithm)

            def run(
                seconds: float,
                windows: int,
                policy: AdaptiveConcurrency = policy,
                clock: Any = clock,
            ) -> int:
                for _ in range(windows):
                    permits = admitted(policy, policy.limit)
                    clock.advance(seconds)
                    for permit in permits:
                        policy.settle(permit, OK)
                return policy.limit

            healthy = run(0.1, 200)
            assert 20 < healthy
            assert healthy > run(0.5, 40)


def test_each_policy_has_an_algorithm_of_its_own() -> None:
    """Given to two, it learns from neither."""
    algorithm = AIMD(5)
    one, other = AdaptiveConcurrency(algorithm), AdaptiveConcurrency(algorithm)
    one.settle(one.admit(Call.new("call")), failed(OSError()))
    assert [4, 5, 5] == [one.limit, other.limit, algorithm.limit(0.0)]
    assert [False, True] == [one.is_pristine(), other.is_pristine()]


def test_in_flight_it_is_not_fresh() -> None:
    """`PerKey` must not let go of it."""
    hosts = PerKey(lambda key: AdaptiveConcurrency(), key=lambda: "a")
    limiter = hosts["a"]
    seen: list[bool] = []
    hosts.call(lambda: seen.append(limiter.is_pristine()))
    assert [False] == seen
    assert limiter.is_pristine()


# -- Construction


def test_its_repr_is_the_call_that_made_it() -> None:
    """Without what is as by default."""
    assert "AdaptiveConcurrency()" == repr(AdaptiveConcurrency())
    made = (
        "AdaptiveConcurrency(Gradient(initial=50, tolerance=2.0), max_queue=5,"
        " max_wait=0.5, overload_wait=0.05, name='db')"
    )
    names = {"AdaptiveConcurrency": AdaptiveConcurrency, "Gradient": Gradient}
    assert made == repr(eval(made, names))


def test_a_changed_copy_has_learnt_nothing() -> None:
    """All else is as it was."""
    policy = AdaptiveConcurrency(AIMD(5))
    policy.settle(policy.admit(Call.new("call")), failed(OSError()))
    other = policy.with_(max_queue=3)
    assert "AdaptiveConcurrency(AIMD(initial=5), max_queue=3)" == repr(other)
    assert (4, 5) == (policy.limit, other.limit)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_queue": -1}, ValueError, "`max_queue` must be >= 0, got -1"),
        ({"max_wait": -1}, ValueError, "`max_wait` must be >= 0 seconds, got -1"),
        (
            {"overload_wait": "1"},
            TypeError,
            "`overload_wait` must be seconds (int, float) or a timedelta, got '1'",
        ),
        (
            {"partitions": {"a": 1.5}, "by": repr},
            ValueError,
            "`partitions['a']` must be > 0 and <= 1, got 1.5",
        ),
        (
            {"partitions": {"a": 0.5, "b": 0.75}, "by": repr},
            ValueError,
            "`partitions` must be together <= 1, got 1.25",
        ),
        (
            {"partitions": {"a": 0.5}},
            ValueError,
            "`partitions` and `by` must be given together",
        ),
        ({"by": repr}, ValueError, "`partitions` and `by` must be given together"),
        (
            {"partitions": {"a": 0.5}, "by": 3},
            TypeError,
            "`by` must be a function, got 3",
        ),
        (
            {"algorithm": 20},
            TypeError,
            "`algorithm` must have the methods limit, update and anew, got 20; a"
            " decorator needs its parentheses, @AdaptiveConcurrency()",
        ),
        (
            {"algorithm": AIMD},
            TypeError,
            "`algorithm` must have the methods limit, update and anew, got <class"
            " 'resilient.AIMD'>; a decorator needs its parentheses,"
            " @AdaptiveConcurrency()",
        ),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """With parameter, rule and value."""
    with pytest.raises(error) as caught:
        AdaptiveConcurrency(**arguments)
    assert text == str(caught.value)


def test_outside_a_retry_it_is_pointed_out() -> None:
    """Its slot would be held while the retry waits."""
    with pytest.warns(ResilientWarning, match="its slot is held while the retry waits"):
        Pipeline(AdaptiveConcurrency(), Retry(OSError))


# -- Threads and collections


class Collecting(PartitionedSlots[Any]):
    """A machine under which a garbage collection begins."""

    def take(self, ticket: Any) -> bool:
        taken = super().take(ticket)
        gc.collect()
        return taken


def test_a_collection_under_the_lock_cannot_hang() -> None:
    """It may close a lost call, whose slot is free before a call is refused."""
    policy = AdaptiveConcurrency(Told(1))
    policy._slots = Collecting(1, 0)
    seen: list[Any] = []

    @policy
    def items() -> Iterator[int]:
        yield 1

    def lose() -> None:
        lost = items()
        next(lost)
        box: list[Any] = [lost]
        box.append(box)

    def run() -> None:
        lose()
        seen.append(policy.in_flight)
        seen.append(policy.call(str, "ok"))
        seen.append(policy.in_flight)

    thread = threading.Thread(target=run, daemon=True)
    gc.disable()
    try:
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
    assert [1, "ok", 0] == seen
