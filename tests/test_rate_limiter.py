"""RateLimiter, in three colours."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour
from tests.interrupts import amid_change

from resilient import (
    Call,
    CallRejected,
    Event,
    Limit,
    Outcome,
    PermitWaited,
    Pipeline,
    Policy,
    RateLimitedError,
    RateLimiter,
    Retry,
    Timeout,
    constant,
    current_call,
    deadline_after,
)
from resilient._runtimes.sync import SYNC, SyncWaiter
from resilient.testing import virtual_time


async def nothing() -> None:
    """Take no time."""


def entering(
    w: World, limiter: RateLimiter, *, after: float = 0.0
) -> Callable[[], Awaitable[float]]:
    """Return a call that begins `after`, and returns when it got in."""

    async def enter() -> float:
        return w.now()

    async def call() -> float:
        await w.sleep(after)
        entered: float = await w.call(limiter, enter)
        return entered

    return call


async def rejection(w: World, limiter: RateLimiter) -> RateLimitedError:
    """Make a call that has to be rejected; return why."""
    with pytest.raises(RateLimitedError) as caught:
        await w.call(limiter, nothing)
    return caught.value


# -- The rate


@in_every_colour
async def test_a_burst_passes_and_then_the_rate(w: World) -> None:
    """Ten a second: ten at once, then one every tenth of a second."""
    limiter = RateLimiter(10)
    for _ in range(10):
        await w.call(limiter, nothing)
    assert 0.1 == pytest.approx((await rejection(w, limiter)).retry_after)
    await w.sleep(0.1)
    await w.call(limiter, nothing)
    await rejection(w, limiter)


@in_every_colour
async def test_a_rejection_says_when_to_come_back(w: World) -> None:
    """And takes nothing: at that moment there is a permit."""
    limiter = RateLimiter(1, per=5, name="api")
    events: list[Event] = []
    limiter.subscribe(events.append)
    await w.call(limiter, nothing)
    for _ in range(3):
        error = await rejection(w, limiter)
    assert "rate limiter 'api' has no permit left; retry in 5 s" == str(error)
    assert ("api", 5.0, 0.0) == (error.policy, error.retry_after, error.max_wait)
    rejected = CallRejected("api", events[0].call, "RateLimitedError", None, 5.0)
    assert [rejected] * 3 == events
    await w.sleep(5)
    await w.call(limiter, nothing)


@in_every_colour
async def test_a_suspended_process_saves_up_one_burst(w: World) -> None:
    """An hour's sleep is not an hour's permits."""
    limiter = RateLimiter(2)
    await w.sleep(3600)
    await w.call(limiter, nothing)
    await w.call(limiter, nothing)
    await rejection(w, limiter)


@in_every_colour
async def test_a_failed_call_has_taken_its_permit_too(w: World) -> None:
    """The server has counted it."""
    limiter = RateLimiter(1)

    async def fail() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        await w.call(limiter, fail)
    await rejection(w, limiter)


@pytest.mark.parametrize(
    ("algorithm", "passes"), [("fixed_window", True), ("sliding_window", False)]
)
@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
def test_only_a_fixed_window_lets_twice_the_rate_through_at_its_boundary(
    algorithm: Any, passes: bool, colour: Any
) -> None:
    """Ten at 0.99 s and ten at 1.01 s."""

    async def scenario(w: World) -> None:
        limiter = RateLimiter(10, algorithm=algorithm)
        await w.sleep(0.99)
        for _ in range(10):
            await w.call(limiter, nothing)
        await rejection(w, limiter)
        await w.sleep(0.02)
        if passes:
            for _ in range(10):
                await w.call(limiter, nothing)
        await rejection(w, limiter)

    World(colour).run(scenario)


# -- Waiting


@in_every_colour
async def test_a_wait_that_fits_is_waited(w: World) -> None:
    """The call then passes, and an event says how long it took."""
    limiter = RateLimiter(1, per=2, max_wait=timedelta(seconds=3))
    events: list[Event] = []
    limiter.subscribe(events.append)
    call = entering(w, limiter)
    assert [0.0, 2.0, 4.0] == [await call() for _ in range(3)]
    assert [2.0, 2.0] == [e.waited for e in events if isinstance(e, PermitWaited)]


@in_every_colour
async def test_a_wait_that_does_not_fit_is_refused_at_once(w: World) -> None:
    """No sleep first, and nothing taken."""
    limiter = RateLimiter(1, per=2, max_wait=1, name="api")
    await w.call(limiter, nothing)
    error = await rejection(w, limiter)
    assert ("rate limiter 'api' has no permit left within 1 s; retry in 2 s") == str(
        error
    )
    assert 2.0 == error.retry_after
    assert 0.0 == w.now()
    assert 0 == limiter.queued
    await w.sleep(1)
    assert 2.0 == await entering(w, limiter)()


@in_every_colour
async def test_a_wait_beyond_the_deadline_is_refused_at_once(w: World) -> None:
    """Also one that would end exactly then: no time would be left."""
    limiter = RateLimiter(1, per=2, max_wait=None)
    await w.call(limiter, nothing)
    for seconds in (1, 2):
        with deadline_after(seconds):
            assert 2.0 == (await rejection(w, limiter)).retry_after
    assert 0.0 == w.now()
    with deadline_after(2.1):
        await w.call(limiter, nothing)
    assert 2.0 == w.now()


@in_async_colours
async def test_who_waits_goes_in_the_order_of_arrival(w: World) -> None:
    """A late arrival cannot overtake, and each goes when its time has come."""
    limiter = RateLimiter(1, max_wait=None)
    calls = [entering(w, limiter, after=place / 10) for place in range(5)]
    assert [0.0, 1.0, 2.0, 3.0, 4.0] == pytest.approx(await w.gather(*calls))
    assert 0 == limiter.queued


@in_async_colours
async def test_a_call_is_judged_by_the_whole_line_before_it(w: World) -> None:
    """It is refused when all of them together take too long."""
    limiter = RateLimiter(1, max_wait=2.5)
    calls = [entering(w, limiter, after=place / 10) for place in range(5)]
    *passed, third, fourth = await w.gather(*calls)
    assert [0.0, 1.0, 2.0] == pytest.approx(passed)
    assert 2.7 == pytest.approx(third.retry_after)
    assert 2.6 == pytest.approx(fourth.retry_after)


@in_async_colours
async def test_a_cancelled_waiter_leaves_its_place_to_others(w: World) -> None:
    """The calls behind it move up; none goes later than before."""
    limiter = RateLimiter(1, per=3, max_wait=None)

    async def impatient() -> None:
        await w.sleep(0.5)
        async with w_timeout(w, 1):
            await limiter.acall(nothing)
        raise AssertionError("it should have been cancelled")

    async def cancelled() -> str:
        try:
            await impatient()
        except BaseException as error:
            if "ancel" not in type(error).__name__ and not isinstance(
                error, TimeoutError
            ):
                raise
            return "cancelled"
        raise AssertionError

    results = await w.gather(
        entering(w, limiter), cancelled, entering(w, limiter, after=1)
    )
    assert [0.0, "cancelled", 3.0] == results
    assert 0 == limiter.queued


def w_timeout(w: World, seconds: float) -> Any:
    """Cancel a block after some time, as the async library itself does it."""
    if w.colour == "asyncio":
        return asyncio.timeout(seconds)
    return _TrioTimeout(seconds)


class _TrioTimeout:
    def __init__(self, seconds: float) -> None:
        import trio

        self.scope = trio.fail_after(seconds)

    async def __aenter__(self) -> None:
        self.scope.__enter__()

    async def __aexit__(self, *exc: Any) -> Any:
        try:
            return self.scope.__exit__(*exc)
        except BaseException as error:
            raise TimeoutError from error


@in_async_colours
async def test_who_is_cancelled_in_the_middle_of_the_line_leaves_it(w: World) -> None:
    """The first keeps its time, the third moves up."""
    limiter = RateLimiter(1, per=10, max_wait=None)

    async def cancelled() -> str:
        await w.sleep(1)
        try:
            async with w_timeout(w, 1):
                await limiter.acall(nothing)
        except TimeoutError:
            return "cancelled"
        raise AssertionError

    results = await w.gather(
        entering(w, limiter),
        entering(w, limiter, after=0.5),
        cancelled,
        entering(w, limiter, after=1.5),
    )
    assert "cancelled" == results.pop(2)
    assert [0.0, 10.0, 20.0] == pytest.approx(results)


@in_async_colours
async def test_a_free_call_waits_for_no_other(w: World) -> None:
    """It takes no permits that another call could have."""
    limiter = RateLimiter(1, max_wait=None, cost=lambda call: call.args[0])

    async def enter(cost: int) -> float:
        return w.now()

    async def call(cost: int) -> float:
        entered: float = await w.call(limiter, enter, cost)
        return entered

    async def free() -> float:
        await w.sleep(0.5)
        return await call(0)

    results = await w.gather(lambda: call(1), lambda: call(1), free)
    assert [0.0, 1.0, 0.5] == results


# -- Cost


@in_every_colour
async def test_a_cost_may_be_a_number(w: World) -> None:
    """Each call then takes so much."""
    limiter = RateLimiter(10, cost=4)
    await w.call(limiter, nothing)
    await w.call(limiter, nothing)
    assert 2.0 == limiter.available()
    assert 0.2 == pytest.approx((await rejection(w, limiter)).retry_after)


@in_every_colour
async def test_a_cost_may_be_a_function_of_the_call(w: World) -> None:
    """It may see the arguments, and answer a number or a dict."""

    def by_length(call: Call) -> Any:
        return len(call.args[0]) if call.kwargs else {"requests": 5}

    limiter = RateLimiter(10, cost=by_length)

    async def send(text: str, urgent: bool = False) -> None: ...

    await w.call(limiter, send, "abc", urgent=True)
    assert 7.0 == limiter.available()
    await w.call(limiter, send, "abc")
    assert 2.0 == limiter.available()


@in_every_colour
async def test_a_computed_cost_that_could_never_pass_is_an_error(w: World) -> None:
    """Not an endless wait, and not a rejection that one might try again."""
    limiter = RateLimiter(10, max_wait=None, cost=lambda call: 20)
    text = "`cost` must be <= 10 requests, the most that can be taken at once, got 20"
    with pytest.raises(ValueError, match=text):
        await w.call(Pipeline(Retry(Exception), limiter), nothing)
    assert 10.0 == limiter.available()


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        ("1", TypeError, "`cost` must be a number, got '1'"),
        (None, TypeError, "`cost` must be a number, got None"),
        (True, TypeError, "`cost` must be a number, got True"),
        (-1, ValueError, "`cost` must be >= 0, got -1"),
        (float("nan"), ValueError, "`cost` must be >= 0, got nan"),
        (
            {"tokens": 1},
            ValueError,
            "`cost` must name units of ['requests'], got ['tokens']",
        ),
    ],
)
@pytest.mark.parametrize("fixed", [True, False])
def test_a_wrong_cost_is_refused(
    answer: Any, error: type[Exception], text: str, fixed: bool
) -> None:
    """On construction, or at the call that it was computed for."""
    cost: Any = answer if fixed else lambda call: answer
    if not fixed and error is TypeError:
        # What a function returns may be secret.
        text = f"`cost` must be a number, got an object of {type(answer)}"
    with pytest.raises(error) as caught:
        RateLimiter(10, cost=cost).call(bool)
    assert text == str(caught.value)


def test_what_a_cost_function_raises_reaches_the_caller() -> None:
    """It is a bug and counts as no failure."""
    limiter = RateLimiter(1, cost=lambda call: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        Pipeline(Retry(Exception), limiter).call(bool)
    assert limiter.is_pristine()


# -- Several limits


@in_every_colour
async def test_several_limits_are_taken_together_or_not_at_all(w: World) -> None:
    """Where tokens are short no request is counted either."""
    limiter = RateLimiter(
        limits=[Limit(10, per=10), Limit(100, per=10, unit="tokens")],
        cost={"requests": 1, "tokens": 60},
    )
    await w.call(limiter, nothing)
    assert 2.0 == (await rejection(w, limiter)).retry_after
    assert (9.0, 40.0) == (limiter.available(), limiter.available("tokens"))
    await w.sleep(2)
    await w.call(limiter, nothing)
    assert 0.0 == pytest.approx(limiter.available("tokens"))


@in_async_colours
async def test_several_limits_have_one_line(w: World) -> None:
    """Each call waits for what it lacks; none overtakes another."""
    limiter = RateLimiter(
        limits=[Limit(10, per=1), Limit(100, per=10, unit="tokens")],
        max_wait=None,
        cost=lambda call: {"requests": 1, "tokens": call.args[0]},
    )

    async def enter(tokens: int) -> float:
        return w.now()

    def call(tokens: int) -> Callable[[], Awaitable[float]]:
        async def begin() -> float:
            entered: float = await w.call(limiter, enter, tokens)
            return entered

        return begin

    if w.colour == "trio":
        # Its order of tasks is a matter of chance.
        results = await w.gather(call(50), call(50), call(50))
        assert [0.0, 0.0, 5.0] == sorted(results)
    else:
        results = await w.gather(call(80), call(50), call(10))
        assert [0.0, 3.0, 4.0] == pytest.approx(results)


@in_every_colour
async def test_a_number_is_the_cost_in_requests(w: World) -> None:
    """Other units are then known only afterwards."""
    limiter = RateLimiter(limits=[Limit(10), Limit(100, unit="tokens")], cost=2)
    await w.call(limiter, nothing)
    assert (8.0, 100.0) == (limiter.available(), limiter.available("tokens"))


def test_a_number_needs_requests_to_be_counted() -> None:
    """Which of the units would it be?"""
    limits = [Limit(10, unit="tokens"), Limit(10, unit="images")]
    with pytest.raises(TypeError) as caught:
        RateLimiter(limits=limits)
    assert (
        "`cost` must be a dict by unit where limits count ['tokens', 'images'], got 1"
    ) == str(caught.value)
    with pytest.raises(ValueError, match=r"`unit` must be one of .*, got 'requests'"):
        RateLimiter(limits=limits, cost={"tokens": 1}).available()


@in_every_colour
async def test_two_limits_may_count_the_same_unit(w: World) -> None:
    """Ten a second and fifteen a minute."""
    limiter = RateLimiter(limits=[Limit(10), Limit(15, per=60)])
    for _ in range(10):
        await w.call(limiter, nothing)
    assert 0.1 == pytest.approx((await rejection(w, limiter)).retry_after)
    await w.sleep(1)
    for _ in range(5):
        await w.call(limiter, nothing)
    retry_after = (await rejection(w, limiter)).retry_after
    assert 3.0 == pytest.approx(retry_after)


# -- The true cost


@in_every_colour
async def test_settling_books_the_difference_once(w: World) -> None:
    """The first word for a unit counts."""
    limiter = RateLimiter(
        limits=[Limit(10), Limit(1000, per=10, unit="tokens")],
        cost={"requests": 1, "tokens": 100},
    )

    async def ask() -> None:
        current_call().set_cost(tokens=812)
        current_call().set_cost(tokens=1)
        current_call().set_cost(requests=3)

    await w.call(limiter, ask)
    assert (7.0, 188.0) == (limiter.available(), limiter.available("tokens"))


@in_every_colour
async def test_less_than_was_taken_is_given_back(w: World) -> None:
    """But never more than there was."""
    limiter = RateLimiter(10, cost=8)

    async def ask() -> None:
        assert 2.0 == limiter.available()
        current_call().set_cost(requests=3)
        assert 7.0 == limiter.available()

    await w.call(limiter, ask)
    await w.sleep(0.3)
    await w.call(RateLimiter(10, cost=8), ask_nothing)
    assert 10.0 == pytest.approx(limiter.available())


async def ask_nothing() -> None:
    """Settle nothing."""
    current_call().set_cost()


@in_every_colour
async def test_a_debt_is_paid_before_others_pass(w: World) -> None:
    """More than there is may have been used."""
    limiter = RateLimiter(10, cost=1.0 + 1)

    async def ask() -> None:
        current_call().set_cost(requests=40)

    await w.call(limiter, ask)
    assert -30.0 == limiter.available()
    assert 3.2 == pytest.approx((await rejection(w, limiter)).retry_after)


@in_async_colours
async def test_what_is_given_back_serves_those_who_wait(w: World) -> None:
    """At once: the first in the queue is woken."""
    limiter = RateLimiter(10, per=10, cost=10, max_wait=None)

    async def ask() -> None:
        await w.sleep(1)
        current_call().set_cost(requests=1)

    async def first() -> None:
        await w.call(limiter, ask)

    # 9 of 10 units come back at 1 s, when 1 more has dripped in.
    results = await w.gather(first, entering(w, limiter, after=0.5))
    assert [None, 1.0] == pytest.approx(results)


@in_every_colour
async def test_a_unit_that_two_limits_count_is_settled_in_both(w: World) -> None:
    """They are two windows on the same number."""
    limiter = RateLimiter(
        limits=[
            Limit(100, unit="tokens"),
            Limit(1000, per=60, unit="tokens", burst=500),
        ],
        cost={"tokens": 10},
    )
    seen: list[float] = []

    async def ask() -> None:
        seen.append(limiter.available("tokens"))
        current_call().set_cost(tokens=60)

    await w.call(limiter, ask)
    assert [90.0] == seen
    assert 40.0 == limiter.available("tokens")
    # The other one: 500 - 60 are left, so that 440 more make 0.
    limiter.set_rate(10_000, burst=10_000, unit="tokens")

    async def spend() -> None:
        current_call().set_cost(tokens=441)

    await w.call(limiter, spend)
    assert pytest.approx(11 / (1000 / 60)) == (await rejection(w, limiter)).retry_after


@in_every_colour
async def test_every_attempt_has_a_cost_of_its_own(w: World) -> None:
    """What one attempt settled says nothing of the next."""
    limiter = RateLimiter(100, per=1000, cost=10)
    used = [30, 20]

    async def ask() -> None:
        current_call().set_cost(requests=used.pop(0))
        if used:
            raise OSError

    retry = Retry(OSError, backoff=constant(0))
    await w.call(Pipeline(retry, limiter), ask)
    assert 50.0 == pytest.approx(limiter.available())


@pytest.mark.parametrize("amount", [-1, float("nan"), True, "many"])
def test_what_a_call_cost_has_to_be_a_number(amount: Any) -> None:
    """Otherwise nothing is booked at all."""
    limiter = RateLimiter(
        limits=[Limit(10), Limit(10, unit="tokens")], cost={"tokens": 1}
    )

    def ask() -> None:
        current_call().set_cost(requests=5, tokens=amount)

    with pytest.raises((TypeError, ValueError), match="`tokens` must be"):
        limiter.call(ask)
    assert 10.0 == pytest.approx(limiter.available(), abs=0.1)


# -- Another rate, live


@in_async_colours
async def test_who_waits_is_judged_anew_by_a_new_rate(w: World) -> None:
    """No call keeps a wait that was computed for the old rate."""
    limiter = RateLimiter(1, per=10, max_wait=None)

    async def speed_up() -> None:
        await w.sleep(2)
        limiter.set_rate(1, per=4)

    # At 2 s the bucket is a fifth full: another 0.8 of 4 s to go.
    results = await w.gather(
        entering(w, limiter), entering(w, limiter, after=1), speed_up
    )
    assert [0.0, 5.2, None] == pytest.approx(results)


@in_async_colours
async def test_who_no_longer_fits_is_rejected_then(w: World) -> None:
    """Not when its time is up."""
    limiter = RateLimiter(1, max_wait=2.5, name="api")
    rejected: list[tuple[float, float | None]] = []

    async def late(after: float) -> Any:
        try:
            return await entering(w, limiter, after=after)()
        except RateLimitedError as error:
            rejected.append((w.now(), error.retry_after))
            return "rejected"

    async def slow_down() -> None:
        await w.sleep(0.3)
        assert 2 == limiter.queued
        limiter.set_rate(1, per=2)

    results = await w.gather(
        lambda: late(0), lambda: late(0.1), lambda: late(0.2), slow_down
    )
    # At 0.3 s the bucket is 0.3 full: 1.4 s for one, 3.4 s for two.
    assert [0.0, 1.7, "rejected", None] == pytest.approx(results)
    assert [(0.3, 3.4)] == [pytest.approx(wait) for wait in rejected]


@in_async_colours
async def test_all_may_be_rejected_by_a_new_rate(w: World) -> None:
    """Then no call waits, and the queue is as new."""
    limiter = RateLimiter(1, max_wait=1)

    async def slow_down() -> None:
        await w.sleep(0.5)
        limiter.set_rate(1, per=100)
        assert 0 == limiter.queued

    results = await w.gather(
        entering(w, limiter), entering(w, limiter, after=0.25), slow_down
    )
    assert isinstance(results[1], RateLimitedError)
    assert 0.5 == w.now()


@in_async_colours
async def test_who_would_never_fit_is_rejected_by_a_new_rate(w: World) -> None:
    """Even where one may wait for ever; there is no moment to come back at."""
    limiter = RateLimiter(10, max_wait=None, cost=lambda call: 10)

    async def shrink() -> None:
        await w.sleep(0.5)
        limiter.set_rate(5)

    results = await w.gather(
        entering(w, limiter), entering(w, limiter, after=0.25), shrink
    )
    assert isinstance(results[1], RateLimitedError)
    assert None is results[1].retry_after
    assert 0.5 == w.now()


def test_a_rate_that_shrinks_meanwhile_makes_no_call_wait_for_ever() -> None:
    """A cost that fitted when it was computed may not fit any more."""
    limiter = RateLimiter(10, max_wait=None, cost=lambda call: cost(call))

    def cost(call: Call) -> float:
        limiter.set_rate(5)
        return 10

    # The first call sees the old terms, and takes nothing of the new ones.
    with pytest.raises(RateLimitedError) as caught:
        limiter.call(bool)
    assert None is caught.value.retry_after


def test_a_new_rate_is_what_the_limiter_was_made_with() -> None:
    """In its repr and copies, and after a reset; a burst by default follows."""
    limiter = RateLimiter(10, per=5)
    limiter.set_rate(20)
    assert "RateLimiter(20, per=5.0)" == repr(limiter)
    assert 20.0 == limiter.available()
    limiter.set_rate(30, per=timedelta(seconds=1), burst=3)
    limiter.reset()
    assert 3.0 == limiter.available()
    limiter.set_rate(40)
    assert "RateLimiter(40, burst=3)" == repr(limiter)
    assert 40 == limiter.with_().rate
    several = RateLimiter(limits=[Limit(1), Limit(2, per=60, unit="tokens")])
    several.set_rate(9, unit="tokens")
    assert (None, 1.0, None) == (several.rate, several.per, several.burst)
    assert (Limit(1), Limit(9, per=60, unit="tokens")) == several.limits


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rate": 0}, "`rate` must be > 0, got 0"),
        ({"rate": 5, "per": 0}, "`per` must be > 0 seconds, got 0"),
        ({"rate": 5, "burst": 0}, "`burst` must be > 0, got 0"),
        (
            {"rate": 5, "unit": "tokens"},
            "`unit` must be one of ['requests'], got 'tokens'",
        ),
        (
            {"rate": 1},
            "`cost` must be <= 1 requests, the most that can be taken at once,"
            " got 2: it could never pass",
        ),
    ],
)
def test_a_wrong_rate_changes_nothing(changes: Any, text: str) -> None:
    """Neither the rate nor what was made with it."""
    limiter = RateLimiter(10, cost=2)
    with pytest.raises(ValueError) as caught:
        limiter.set_rate(**changes)
    assert text == str(caught.value)
    assert "RateLimiter(10, cost=2)" == repr(limiter)
    assert 10.0 == limiter.available()


# -- What the server says


@in_every_colour
async def test_what_the_server_says_is_obeyed(w: World) -> None:
    """Five are left until its window ends in 30 s."""
    limiter = RateLimiter(100)
    limiter.learn(2, timedelta(seconds=30))
    await w.call(limiter, nothing)
    assert 1.0 == limiter.available()
    await w.call(limiter, nothing)
    assert 30.0 == (await rejection(w, limiter)).retry_after
    await w.sleep(30)
    await w.call(limiter, nothing)


@in_async_colours
async def test_who_does_not_fit_what_the_server_says_is_rejected_then(w: World) -> None:
    """Like after any other change."""
    limiter = RateLimiter(1, max_wait=5)

    async def learn() -> None:
        await w.sleep(0.5)
        limiter.learn(0, 60)

    results = await w.gather(
        entering(w, limiter),
        entering(w, limiter, after=0.1),
        entering(w, limiter, after=0.2),
        learn,
    )
    errors = results[1:3]
    assert [RateLimitedError, RateLimitedError] == [type(error) for error in errors]
    assert 0.5 == w.now()
    assert 60.0 == pytest.approx(errors[0].retry_after)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((-1, 1), "`remaining` must be >= 0, got -1"),
        ((1, -1), "`reset` must be >= 0 seconds, got -1"),
        ((1, 1, "tokens"), r"`unit` must be one of \['requests'\], got 'tokens'"),
    ],
)
def test_what_the_server_says_has_to_make_sense(arguments: Any, text: str) -> None:
    """Headers come from outside."""
    limiter = RateLimiter(1)
    with pytest.raises(ValueError, match=text):
        limiter.learn(*arguments)
    assert limiter.is_pristine()


# -- Races


class Interrupted:
    """A runtime under which something happens just before a call waits."""

    name = "sync"

    def __init__(self, happens: Callable[[], object]) -> None:
        self.happens = happens

    def waiter(self, call: Call) -> SyncWaiter:
        self.happens()
        return SyncWaiter()


def test_what_comes_free_just_before_a_wait_is_taken() -> None:
    """Between the first look and the queue the limit may have changed."""
    with virtual_time():
        limiter = RateLimiter(1, max_wait=None)
        assert limiter.admit(Call.new("first"))
        call = Call.new("call", runtime=Interrupted(limiter.reset))
        assert True is limiter.admit(call)
        assert 0 == limiter.queued


def test_a_wait_that_grew_just_before_it_is_refused() -> None:
    """Others came meanwhile."""
    with virtual_time():
        limiter = RateLimiter(1, max_wait=1)
        limiter.admit(Call.new("first"))
        call = Call.new("call", runtime=Interrupted(lambda: limiter.set_rate(1, per=3)))
        error = limiter.admit(call)
        assert isinstance(error, RateLimitedError)
        assert 3.0 == error.retry_after
        assert 0 == limiter.queued


def test_a_wake_out_of_turn_means_to_wait_on() -> None:
    """Only the first in the queue looks at the clock, until time is up."""
    with virtual_time() as clock:
        limiter = RateLimiter(1, per=10, max_wait=15)
        limiter.admit(Call.new("before"))
        runtime = Interrupted(bool)
        first, second = (
            Call.new("first", runtime=runtime),
            Call.new("second", runtime=runtime),
        )
        tickets = limiter.admit(first), None
        limiter.set_rate(2, per=10, burst=1)
        second_ticket = limiter.admit(second)
        assert second_ticket is limiter.readmit(second_ticket, second)
        assert tickets[0] is limiter.readmit(tickets[0], first)
        # Debts of others have made the queue slower than it looked.
        limiter.learn(0, 100)
        error = limiter.readmit(second_ticket, second)
        assert isinstance(error, RateLimitedError)
        clock.advance(1)
        error = limiter.readmit(tickets[0], first)
        assert isinstance(error, RateLimitedError)


def test_who_wakes_up_after_its_deadline_takes_nothing() -> None:
    """There is a permit, and no time left to use it."""
    with virtual_time() as clock:
        limiter = RateLimiter(1, max_wait=None)
        limiter.admit(Call.new("before"))
        call = Call.new("late", runtime=Interrupted(bool))
        call.deadline = 1.5
        wait = limiter.admit(call)
        assert 1.0 == wait.until
        clock.advance(1.5)
        assert isinstance(limiter.readmit(wait, call), RateLimitedError)
        assert 1.0 == limiter.available()
        assert 0 == limiter.queued


@in_async_colours
async def test_who_is_behind_a_debt_is_rejected_when_time_is_up(w: World) -> None:
    """What others really cost may delay a queue that looked short."""
    limiter = RateLimiter(10, cost=10, max_wait=5)

    async def ask() -> None:
        await w.sleep(0.5)
        current_call().set_cost(requests=200)

    async def expensive() -> None:
        await w.call(limiter, ask)

    rejected: list[float] = []

    async def late(after: float) -> None:
        with pytest.raises(RateLimitedError) as caught:
            await entering(w, limiter, after=after)()
        assert caught.value.retry_after is not None
        rejected.append(w.now())

    await w.gather(expensive, lambda: late(0.1), lambda: late(0.2), lambda: late(0.3))
    # The first in the queue sees it at once, and then so does each next one.
    assert [0.5] * 3 == pytest.approx(rejected)


@in_async_colours
async def test_who_does_not_get_to_the_front_in_time_is_rejected(w: World) -> None:
    """The first may wait longer than others: its deadline is later."""
    limiter = RateLimiter(10, cost=10, max_wait=None)

    async def ask() -> None:
        await w.sleep(0.5)
        current_call().set_cost(requests=100)

    async def expensive() -> None:
        await w.call(limiter, ask)

    async def hurried() -> float | None:
        await w.sleep(0.2)
        with deadline_after(3):
            error = await rejection(w, limiter)
        assert 3.2 == pytest.approx(w.now())
        return error.retry_after

    results = await w.gather(expensive, entering(w, limiter, after=0.1), hurried)
    assert [None, 10.0, 7.8] == pytest.approx(results)


def test_a_waiter_whose_loop_is_closed_makes_way_for_the_next() -> None:
    """The calls behind it do not wait for ever."""
    forgotten: list[Any] = []

    async def wait(limiter: RateLimiter) -> None:
        await limiter.acall(nothing)

    def leave_a_loop(limiter: RateLimiter) -> None:
        loop = asyncio.new_event_loop()
        forgotten.extend(loop.create_task(wait(limiter)) for _ in range(2000))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    limiter = RateLimiter(1, per=3600, max_wait=None)
    limiter.call(bool)
    contextvars.Context().run(leave_a_loop, limiter)
    assert 2000 == limiter.queued
    limiter.reset()
    assert 0 == limiter.queued
    for task in forgotten:
        # The interpreter would complain that it is pending.
        task._log_destroy_pending = False
        task.get_coro().close()
    assert 0 == limiter.queued


# -- Construction and state


def test_a_reset_forgets_what_was_taken() -> None:
    """And it is as good as new."""
    limiter = RateLimiter(1, per=3600)
    limiter.call(bool)
    assert not limiter.is_pristine()
    limiter.reset()
    assert limiter.is_pristine()
    limiter.call(bool)


@in_async_colours
async def test_a_reset_serves_those_who_wait(w: World) -> None:
    """As far as a full bucket goes."""
    limiter = RateLimiter(1, per=10, max_wait=None)

    async def reset() -> None:
        await w.sleep(2)
        assert not limiter.is_pristine()
        limiter.reset()

    results = await w.gather(
        entering(w, limiter),
        entering(w, limiter, after=1),
        entering(w, limiter, after=1.5),
        reset,
    )
    assert [0.0, 2.0, 12.0, None] == pytest.approx(results)


@pytest.mark.parametrize(
    "made",
    [
        "RateLimiter(10)",
        "RateLimiter(0.5, per=60.0, burst=3, max_wait=None, name='api')",
        "RateLimiter(5, cost={'requests': 2}, algorithm='sliding_window')",
        "RateLimiter(cost={'tokens': 1}, limits=(Limit(5, per=60.0, unit='tokens'),"
        " Limit(1, per=1.0, burst=3)))",
    ],
)
def test_its_repr_is_the_call_that_made_it(made: str) -> None:
    """Without what is as by default."""
    limiter = eval(made, {"RateLimiter": RateLimiter, "Limit": Limit})
    assert made == repr(limiter)
    assert made == repr(limiter.with_())


def test_a_changed_copy_counts_for_itself() -> None:
    """All else is as it was."""
    limiter = RateLimiter(1, per=3600, name="api")
    limiter.call(bool)
    other = limiter.with_(burst=3)
    assert "RateLimiter(1, per=3600.0, burst=3, name='api')" == repr(other)
    assert 3.0 == other.available()


def test_limiters_made_alike_share_what_they_were_made_with() -> None:
    """Ten thousand keys have one set of terms, until one is changed."""
    one, other = RateLimiter(10, cost=2), RateLimiter(10, cost=2)
    assert one._config is other._config
    one.set_rate(20)
    assert (20, 10) == (one.rate, other.rate)
    one.call(bool)
    assert 10.0 == other.available()


def test_a_dict_that_changes_afterwards_changes_nothing() -> None:
    """What a call costs was said on construction."""
    cost = {"requests": 2.0}
    limiter = RateLimiter(10, cost=cost)
    cost["requests"] = 5.0
    assert {"requests": 2.0} == limiter.cost == limiter.with_().cost


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, TypeError, "RateLimiter takes exactly one of `rate` and `limits`"),
        (
            {"rate": 1, "limits": [Limit(1)]},
            TypeError,
            "RateLimiter takes exactly one of `rate` and `limits`",
        ),
        ({"rate": 0}, ValueError, "`rate` must be > 0, got 0"),
        ({"rate": True}, TypeError, "`rate` must be a number, got True"),
        ({"rate": float("inf")}, ValueError, "`rate` must be finite, got inf"),
        ({"rate": 1, "per": 0}, ValueError, "`per` must be > 0 seconds, got 0"),
        ({"rate": 1, "burst": 0}, ValueError, "`burst` must be > 0, got 0"),
        ({"rate": 1, "cost": True}, TypeError, "`cost` must be a number, got True"),
        (
            {"rate": 10, "burst": 5, "cost": 6},
            ValueError,
            "`cost` must be <= 5 requests, the most that can be taken at once,"
            " got 6: it could never pass",
        ),
        (
            {"rate": 1, "max_wait": -1},
            ValueError,
            "`max_wait` must be >= 0 seconds, got -1",
        ),
        (
            {"rate": 1, "algorithm": "leaky"},
            ValueError,
            '`algorithm` must be "token_bucket", "sliding_window" or'
            " \"fixed_window\", got 'leaky'",
        ),
        (
            {"rate": 1, "burst": 2, "algorithm": "fixed_window"},
            ValueError,
            "`burst` must be None with algorithm='fixed_window', got 2:"
            " windows have no burst",
        ),
        (
            {"limits": []},
            ValueError,
            "`limits` must name at least one Limit, got none",
        ),
        ({"limits": [5]}, TypeError, "`limits` must be Limit objects, got 5"),
        ({"limits": 5}, TypeError, "`limits` must be a list of Limit objects, got 5"),
        (
            {"limits": [Limit(1)], "per": 60},
            TypeError,
            "`per` and `burst` belong into each Limit of `limits`",
        ),
        (
            {"limits": [Limit(1)], "burst": 60},
            TypeError,
            "`per` and `burst` belong into each Limit of `limits`",
        ),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """With parameter, rule and value."""
    # A limiter that looks like it must not lend its terms.
    alike = RateLimiter(1)
    with pytest.raises(error) as caught:
        RateLimiter(**arguments)
    assert text == str(caught.value)
    assert 1 == alike.rate


def test_a_unit_is_a_string() -> None:
    """It is named in costs."""
    with pytest.raises(TypeError, match="`unit` must be a string, got 5"):
        Limit(1, unit=5)  # type: ignore[arg-type]  # that is the point


@in_every_colour
async def test_a_stream_takes_its_permit_at_the_start(w: World) -> None:
    """And whether it is ever ended is of no importance."""
    limiter = RateLimiter(1, per=3600)

    async def rows() -> Any:
        yield 1

    def sync_rows() -> Any:
        yield 1

    if w.is_sync:
        assert [1] == list(limiter(sync_rows)())
    else:
        assert [1] == [row async for row in limiter(rows)()]
    await rejection(w, limiter)


@in_async_colours
async def test_the_wait_counts_against_a_timeout_around(w: World) -> None:
    """It is refused at once where the time does not suffice."""
    limiter = RateLimiter(1, per=5, max_wait=None)
    await w.call(limiter, nothing)
    with pytest.raises(RateLimitedError):
        await w.call(Pipeline(Timeout(3), limiter), nothing)
    assert 0.0 == w.now()


@in_every_colour
async def test_a_cost_not_counted_inside_goes_to_the_call_around(
    w: World,
) -> None:
    """A function under an inner policy settles for the limiter further out."""
    limiter = RateLimiter(limits=[Limit(100, per=60, unit="tokens")])

    async def settles() -> None:
        current_call().set_cost(tokens=30)

    inner = w.decorate(Timeout(3), settles)
    await w.call(limiter, inner)
    assert 70 == limiter.available("tokens")


@in_async_colours
async def test_who_comes_while_those_in_line_are_due_takes_its_permit_too(
    w: World,
) -> None:
    """A line that has not woken up yet is no free passage."""
    limiter = RateLimiter(10, max_wait=None)
    for _ in range(10):
        await w.call(limiter, nothing)

    async def reset() -> None:
        await w.sleep(0.05)
        limiter.reset()
        for _ in range(20):
            await w.call(limiter, nothing)

    entered = await w.gather(entering(w, limiter), reset)
    assert None is entered[1]
    # Of the 21 a burst of 10 passed at once, the others at the rate.
    assert 1.15 == pytest.approx(w.now())


@in_every_colour
async def test_a_rejection_tells_the_deadline_from_max_wait(w: World) -> None:
    """Whether more time would have let the call wait."""
    for max_wait, seconds, expected in (
        (None, 2, True),
        (5, 2, True),
        (1, 2, False),
        (1, None, False),
        (0, 2, False),
    ):
        limiter = RateLimiter(1, per=3, max_wait=max_wait)
        await w.call(limiter, nothing)
        if seconds is None:
            error = await rejection(w, limiter)
        else:
            with deadline_after(seconds):
                error = await rejection(w, limiter)
        assert (expected, max_wait) == (error.by_deadline, max_wait)


class Secret:
    """A value that must not be shown."""

    def __repr__(self) -> str:
        raise AssertionError("it was shown")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Secret(), TypeError),
        ({"requests": Secret()}, TypeError),
        ({Secret(): 1}, ValueError),
    ],
)
def test_what_a_cost_function_returns_is_not_shown(
    answer: Any, error: type[Exception]
) -> None:
    """Only of what type it is."""
    limiter = RateLimiter(10, cost=lambda call: answer)
    with pytest.raises(error, match=r"<class '.*Secret'>"):
        limiter.call(bool)
    cost: Any = {"requests": 2}
    limiter = RateLimiter(10, cost=lambda call: cost)
    limiter.call(bool)
    assert 8.0 == pytest.approx(limiter.available(), abs=0.1)


def test_an_async_cost_is_refused() -> None:
    """It would return a coroutine that is never awaited."""

    async def cost(call: Call) -> int:
        raise AssertionError("it was called")

    function: Any = cost
    with pytest.raises(TypeError, match="`cost` must be a plain function"):
        RateLimiter(1, cost=function)


def test_a_lost_waiter_leaves_even_while_the_lock_is_held() -> None:
    """The thread that closes it may be the one that has the lock."""
    limiter = RateLimiter(1, per=60, max_wait=None)
    limiter.call(bool)
    call = Call.new("lost", runtime=SYNC)
    wait = limiter.admit(call)
    with amid_change(limiter):
        limiter.withdraw(wait)
        assert 1 == limiter.queued
    following = limiter.admit(Call.new("next", runtime=SYNC))
    assert 1 == limiter.queued
    limiter.withdraw(following)
    assert 0 == limiter.queued


def test_a_call_puts_a_lost_waiter_out_of_line() -> None:
    """It has the lock next, and does not stand behind who is gone."""
    with virtual_time() as clock:
        limiter = RateLimiter(1, per=60, max_wait=None)
        limiter.call(bool)
        wait = limiter.admit(Call.new("lost", runtime=SYNC))
        with amid_change(limiter):
            limiter.withdraw(wait)
        limiter.call(bool)
        assert 60.0 == clock.now()
        assert 0 == limiter.queued


def test_a_waiter_of_one_limiter_is_none_of_another() -> None:
    """Limiters on which no call has ever waited share one empty list."""
    limiter, other = (RateLimiter(1, per=60, max_wait=None) for _ in range(2))
    assert limiter._deferred is other._deferred
    limiter.call(bool)
    wait = limiter.admit(Call.new("lost", runtime=SYNC))
    with amid_change(limiter):
        limiter.withdraw(wait)
        assert [wait] == limiter._deferred
        assert [] == other._deferred


@in_every_colour
async def test_who_never_waits_does_not_stand_in_line(w: World) -> None:
    """A policy may make ready what is inside, and then need it no more."""

    class Fickle(Policy[Any]):
        async def around(self, proceed: Any, call: Call) -> Outcome:
            proceed(call).close()
            return Outcome("none")

    limiter = RateLimiter(1, per=10, max_wait=None)
    await w.call(limiter, nothing)
    assert "none" == await w.call(Pipeline(Fickle(), limiter), nothing)
    assert 0 == limiter.queued

    await w.call(limiter, nothing)
    assert 10.0 == w.now()


@in_every_colour
async def test_a_limiter_with_rules_of_its_own_is_asked(w: World) -> None:
    """The short way round is for those that have none."""
    told: list[str] = []

    class Telling(RateLimiter):
        def admit(self, call: Call) -> Any:
            told.append("admit")
            return super().admit(call)

    class TellingMore(Telling):
        def settle(self, permit: Any, outcome: Outcome | None) -> None:
            told.append("settle")
            super().settle(permit, outcome)

    await w.call(Telling(5), nothing)
    assert ["admit"] == told
    await w.call(TellingMore(5), nothing)
    assert ["admit", "admit", "settle"] == told
