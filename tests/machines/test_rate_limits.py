"""Rate limits: what each promises, and that an answered wait is enough.

The models keep plain lists of what was taken when, in exact fractions, and
look at every window there is. They share nothing with the machines.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from resilient._machines.rate_limits import (
    FixedWindow,
    RateLimit,
    SlidingWindow,
    TokenBucket,
)

Make = Callable[[], RateLimit]

TEN_A_SECOND = [
    pytest.param(lambda: TokenBucket(10), id="token_bucket"),
    pytest.param(lambda: SlidingWindow(10), id="sliding_window"),
    pytest.param(lambda: FixedWindow(10), id="fixed_window"),
]
every_kind = pytest.mark.parametrize("make", TEN_A_SECOND)


def taken(limit: RateLimit, now: float, attempts: int) -> int:
    """Return how many of so many attempts at one moment get through."""
    return sum(limit.try_take(now) == 0.0 for _ in range(attempts))


# What all three promise


@every_kind
def test_a_fresh_limit_lets_one_capacity_through(make: Make) -> None:
    """Ten a second: ten at once, and the eleventh is told how long."""
    limit = make()
    assert 10.0 == limit.pace.capacity
    assert 10.0 == limit.level(1000.25)
    assert 10 == taken(limit, 1000.25, 50)
    assert 0.0 == limit.level(1000.25)
    assert 0.0 < limit.try_take(1000.25) <= 1.0


@every_kind
def test_what_exceeds_the_capacity_never_can(make: Make) -> None:
    """Twenty from a limit of ten is an error to report, not a wait."""
    limit = make()
    assert math.inf == limit.try_take(0.0, 20)
    assert 10.0 == limit.level(0.0)


@every_kind
def test_nothing_is_free(make: Make) -> None:
    """An amount of 0 passes, in debt and while a server holds us back too."""
    limit = make()
    limit.take(5.0, 100)
    limit.learn(5.0, remaining=0, reset=60)
    assert 0.0 == limit.try_take(5.0, 0)
    assert 0.0 == limit.wait(5.0, 0)


@every_kind
def test_a_refusal_and_a_question_take_nothing(make: Make) -> None:
    """The answer stays the same however often one asks."""
    limit = make()
    assert 0.0 == limit.try_take(3.0, 8)
    first = limit.try_take(3.0, 5)
    assert [first] * 3 == [limit.wait(3.0, 5), limit.try_take(3.0, 5), limit.wait(3, 5)]
    assert 2.0 == limit.level(3.0)
    assert 0.0 == limit.try_take(3.0, 2)


@every_kind
def test_an_hour_asleep_saves_up_one_capacity(make: Make) -> None:
    """A suspended process does not wake with an hour of tokens."""
    limit = make()
    assert 10 == taken(limit, 100.0, 20)
    assert 10.0 == limit.level(3700.0)
    assert 10 == taken(limit, 3700.0, 100)


@every_kind
@given(
    st.lists(st.floats(0, 1e300), min_size=1, max_size=9), st.floats(0, 60, width=16)
)
def test_a_bounded_debt_is_paid_in_time(
    make: Make, costs: list[float], seconds: float
) -> None:
    """However large the amounts are, and how many; a window has its own end."""
    limit = make()
    for cost in costs:
        limit.book(8.0, cost, max_debt=seconds)
    longest = seconds if isinstance(limit, TokenBucket) else limit.pace.per
    assert limit.level(8.0 + longest) >= -1e-6
    limit.book(8.0, 1e300, max_debt=seconds)
    paid = 8.0 + max(longest, limit.pace.per) + limit.pace.capacity
    assert 10.0 == limit.level(paid)
    assert 0.0 == limit.try_take(paid, 10.0)
    assert 0.0 < limit.try_take(paid)


@every_kind
def test_a_debt_without_a_bound_is_booked_whole(make: Make) -> None:
    """What our own side says is believed."""
    limit = make()
    limit.book(8.0, 1000.0)
    assert -990.0 == limit.level(8.0)
    limit.book(8.0, 5.0, max_debt=1.0)
    level = -990.0 if isinstance(limit, TokenBucket) else -995.0
    assert level == limit.level(8.0)


@every_kind
def test_taking_without_asking_goes_into_debt(make: Make) -> None:
    """The others wait until it is paid or has left the window."""
    limit = make()
    limit.take(8.0, 25)
    assert -15.0 == limit.level(8.0)
    wait = limit.try_take(8.0)
    assert pytest.approx(1.6 if isinstance(limit, TokenBucket) else 1.0) == wait
    assert 0.0 == limit.try_take(8.0 + wait)


@every_kind
def test_a_cost_known_afterwards_is_corrected(make: Make) -> None:
    """The difference is booked, in either direction, up to full."""
    limit = make()
    assert 0.0 == limit.try_take(4.0, 6)
    limit.book(4.0, 3)
    assert 1.0 == limit.level(4.0)
    limit.book(4.0, -5)
    assert 6.0 == limit.level(4.0)
    limit.book(4.0, 0)
    assert 6.0 == limit.level(4.0)
    limit.book(4.0, -50)
    assert 10.0 == limit.level(4.0)
    assert 10 == taken(limit, 4.0, 50)


@every_kind
def test_a_credit_to_a_fresh_limit_changes_nothing(make: Make) -> None:
    """Nothing is above full."""
    limit = make()
    limit.book(4.0, -5)
    assert 10 == taken(limit, 4.0, 50)


@every_kind
def test_readings_that_arrive_late_give_nothing_extra(make: Make) -> None:
    """Threads read the clock before they hold the lock."""
    limit = make()
    assert 10 == taken(limit, 50.0, 10)
    assert 0.0 < limit.try_take(49.0)
    limit.take(49.0, 1)
    assert -1.0 == limit.level(50.0)
    wait = limit.try_take(49.4)
    assert pytest.approx(0.8 if isinstance(limit, TokenBucket) else 1.6) == wait
    assert 0.0 == limit.try_take(49.4 + wait)


@every_kind
def test_fractions_add_up(make: Make) -> None:
    """A hundred times 0.1 is ten, and not one more."""
    limit = make()
    assert 100 == sum(limit.try_take(1.0, 0.1) == 0.0 for _ in range(200))
    limit.change(9.0, 0.3, 1.0, burst=0.3)
    assert [0.0, 0.0] == [limit.try_take(9.0, 0.1), limit.try_take(9.0, 0.2)]
    assert 0.0 < limit.try_take(9.0, 0.1) <= 1.0


@every_kind
def test_repr_reads_like_the_call_that_made_it(make: Make) -> None:
    """Rate, period, and the burst where there is one."""
    name = type(make()).__name__
    burst = ", 10" if name == "TokenBucket" else ""
    assert f"{name}(10, 1{burst})" == repr(make())


@every_kind
def test_a_limit_a_key_is_small(make: Make) -> None:
    """Ten thousand keys must not cost more than they bring."""
    limit = make()
    numbers = {
        id(value): sys.getsizeof(value)
        for kind in type(limit).__mro__
        for slot in getattr(kind, "__slots__", ())
        if isinstance(value := getattr(limit, slot), float)
    }
    assert sys.getsizeof(limit) + sum(numbers.values()) < 240
    assert not hasattr(limit, "__dict__")


@pytest.mark.parametrize("kind", [TokenBucket, SlidingWindow, FixedWindow])
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0,), ValueError, "`rate` must be > 0, got 0"),
        ((math.inf,), ValueError, "`rate` must be finite, got inf"),
        ((True,), TypeError, "`rate` must be a number, got True"),
        ((10, 0), ValueError, "`per` must be > 0 seconds, got 0"),
        (
            (5e-324, 1e9),
            ValueError,
            "`rate` must be a positive, finite number of units per second, got"
            " 5e-324 per 1000000000.0 seconds",
        ),
    ],
)
def test_senseless_limits_are_refused(
    kind: Callable[..., RateLimit],
    arguments: tuple[Any, ...],
    error: type[Exception],
    text: str,
) -> None:
    """At construction and at a change alike; a refused change changes nothing."""
    with pytest.raises(error) as caught:
        kind(*arguments)
    assert text == str(caught.value)
    limit = kind(10)
    with pytest.raises(error):
        limit.change(1.0, *(*arguments, 1.0)[:2])
    assert (10.0, 1.0, 10.0) == (limit.pace.rate, limit.pace.per, limit.pace.capacity)
    assert 10 == taken(limit, 1.0, 20)


def test_a_burst_is_above_zero() -> None:
    """Nothing could ever be taken from a bucket without any room."""
    with pytest.raises(ValueError, match=r"^`burst` must be > 0, got 0$"):
        TokenBucket(10, burst=0)


# The token bucket


def test_a_bucket_in_debt_is_still_asked_in_vain_only_once() -> None:
    """Sums with large debts round more coarsely than clocks; waits allow for it."""
    bucket = TokenBucket(1e6, burst=1)
    bucket.take(1e6 + 0.1, 1e9 / 3)
    wait = bucket.try_take(1e6 + 0.1)
    assert 0.0 == bucket.try_take(1e6 + 0.1 + wait)


def test_a_bucket_refills_evenly() -> None:
    """One token a tenth of a second."""
    bucket = TokenBucket(10, burst=2)
    assert 2 == taken(bucket, 1000.0, 5)
    assert pytest.approx(0.1) == bucket.try_take(1000.0)
    assert 1 == taken(bucket, 1000.1, 5)
    assert 2 == taken(bucket, 1000.3, 5)


def test_a_slow_bucket_holds_one_token_all_the_same() -> None:
    """One call in 49 s: the burst is at least one."""
    bucket = TokenBucket(1, 49)
    assert 1.0 == bucket.pace.capacity
    assert [1, 0, 1] == [taken(bucket, now, 2) for now in (0.0, 48.9, 49.0)]
    assert 1.0 == TokenBucket(0.5, 10).pace.capacity


def test_a_queue_is_told_when_its_total_will_have_come() -> None:
    """Also where it is more than the bucket ever holds."""
    bucket = TokenBucket(10, burst=5)
    assert 0.0 == bucket.wait(0.0, 5)
    assert pytest.approx(2.5) == bucket.wait(0.0, 30)
    assert 5 == taken(bucket, 0.0, 9)
    assert pytest.approx(3.0) == bucket.wait(0.0, 30)


def test_a_changed_bucket_stays_as_full_in_proportion() -> None:
    """Half of the old allowance used is half of the new one used."""
    bucket = TokenBucket(100)
    bucket.take(10.0, 50)
    bucket.change(10.0, 10, 1.0)
    assert 5.0 == bucket.level(10.0)
    assert pytest.approx(0.5) == bucket.try_take(10.0, 10)
    bucket.change(10.5, 20, 2.0, burst=40)
    assert (20.0, 2.0, 40.0) == (
        bucket.pace.rate,
        bucket.pace.per,
        bucket.pace.capacity,
    )
    assert 40.0 == bucket.level(10.5)


def test_a_changed_bucket_is_refilled_at_the_old_rate_until_then() -> None:
    """A change has no effect on the past."""
    bucket = TokenBucket(1, burst=100)
    bucket.take(0.0, 100)
    bucket.change(10.0, 100, 1.0, burst=100)
    assert 10.0 == bucket.level(10.0)


# Windows


def test_a_fixed_window_lets_twice_its_rate_through_around_a_boundary() -> None:
    """Ten at 0.99 s and ten at 1.01 s."""
    window = FixedWindow(10)
    assert 10 == taken(window, 0.99, 20)
    assert 10 == taken(window, 1.01, 20)
    assert pytest.approx(0.99) == window.try_take(1.01)


def test_a_sliding_window_does_not() -> None:
    """At most ten in any second."""
    window = SlidingWindow(10)
    assert 10 == taken(window, 0.99, 20)
    assert 0 == taken(window, 1.01, 20)
    assert pytest.approx(0.98) == window.try_take(1.01)
    assert 10 == taken(window, 1.99, 20)


def test_a_fixed_window_begins_at_multiples_of_its_period() -> None:
    """Whenever it was first used."""
    window = FixedWindow(3, 60)
    assert 3 == taken(window, 3599.0, 5)
    assert pytest.approx(1.0) == window.try_take(3599.0)
    assert pytest.approx(1.0 + 2 * 60) == window.wait(3599.0, 9)
    assert 3 == taken(window, 3600.0, 5)


def test_a_fixed_window_ends_after_it_began_whatever_the_rounding() -> None:
    """A product of a multiple and the period may round to the moment itself."""
    for now, per in ((209.0, 0.1), (230.7, 0.3), (256.3, 1.1), (0.3, 0.1)):
        window = FixedWindow(1, per)
        assert 1 == taken(window, now, 5)
        wait = window.try_take(now)
        assert 0.0 < wait <= per + 1e-9
        assert 0.0 == window.try_take(now + wait)


def test_a_sliding_window_frees_what_was_taken_when_it_leaves() -> None:
    """Each amount after its own time."""
    window = SlidingWindow(10, 4)
    for now, amount in ((0.0, 4), (1.0, 4), (2.0, 2)):
        assert 0.0 == window.try_take(now, amount)
    assert [2.0, 2.0, 3.0, 4.0] == [window.wait(2.0, n) for n in (1, 4, 5, 9)]
    assert [0.0, 4.0, 8.0, 10.0] == [window.level(n) for n in (3.5, 4, 5, 6)]
    # A queue of 25: ten leave until 6.0, ten more until 10.0, five at 13.0.
    assert 11.0 == window.wait(2.0, 25)


def test_a_window_forgives_a_debt_that_has_left_it() -> None:
    """It judges itself only."""
    for window in (SlidingWindow(10), FixedWindow(10)):
        window.take(3.0, 1000)
        assert -990.0 == window.level(3.0)
        assert 10 == taken(window, 4.0, 20)


def test_a_changed_window_counts_what_was_taken_in_units() -> None:
    """What was taken was taken."""
    for window in (SlidingWindow(100), FixedWindow(100)):
        window.take(7.0, 50)
        window.change(7.0, 10, 1.0, burst=3)
        assert 10.0 == window.pace.capacity
        assert -40.0 == window.level(7.0)
        window.change(7.0, 100, 1.0)
        assert 50.0 == window.level(7.0)


def test_a_changed_period_moves_the_end() -> None:
    """A window made longer keeps what it knows for longer."""
    sliding, fixed = SlidingWindow(10), FixedWindow(10)
    for window in (sliding, fixed):
        window.take(7.0, 10)
        window.change(7.5, 10, 4.0)
    assert 3.5 == sliding.try_take(7.5)
    assert 0.5 == fixed.try_take(7.5)


def test_a_fresh_window_can_be_changed() -> None:
    """Before its first call too."""
    for window in (SlidingWindow(10), FixedWindow(10), TokenBucket(10)):
        window.change(7.0, 3, 1.0)
        assert 3 == taken(window, 7.0, 20)


def test_a_credit_for_what_has_left_the_window_is_none() -> None:
    """It would let through what others have used since."""
    for window in (SlidingWindow(10), FixedWindow(10)):
        window.take(1.0, 10)
        window.take(2.5, 10)
        window.book(2.5, -8, since=1.0)
        window.book(2.5, -8, since=1.5)
        assert 0.0 == window.level(2.5)
        window.book(2.75, -8, since=2.5)
        assert 8.0 == window.level(2.75)


def test_a_credit_never_lasts_longer_than_what_it_was_given_for() -> None:
    """It is taken from what leaves first."""
    window = SlidingWindow(10)
    window.take(1.0, 4)
    window.take(1.5, 6)
    window.book(1.5, -5, since=1.0)
    assert 5.0 == window.level(1.5)
    assert 5.0 == window.level(2.0)
    assert 10.0 == window.level(2.5)


def test_what_leaves_in_floating_point_is_waited_for_in_floating_point() -> None:
    """0.3 + 7 is 7.3, and 2.52 + (7.3 - 2.52) is a little less."""
    window = SlidingWindow(1, 7)
    window.take(0.3, 1)
    assert 2.52 + (7.3 - 2.52) < 7.3
    assert 0.0 == window.try_take(2.52 + window.try_take(2.52))


def test_a_late_reading_leaves_with_the_one_before_it() -> None:
    """Later than it must, and the log stays in order."""
    window = SlidingWindow(10)
    assert 1 == taken(window, 50.0, 1)
    assert 1 == taken(window, 49.0, 1)
    assert 8.0 == window.level(50.5)
    assert 10.0 == window.level(51.0)


def test_a_lone_burst_leaves_exactly_when_its_time_has_come() -> None:
    """However large it is."""
    window = SlidingWindow(5000, 10)
    assert 5000 == taken(window, 123.25, 6000)
    assert 0 == taken(window, math.nextafter(133.25, 0), 10)
    assert 5000 == taken(window, 133.25, 6000)


def test_a_long_log_is_thinned_out_on_the_safe_side() -> None:
    """Bounded memory; never too much; little too late."""
    window = SlidingWindow(3000, 1.0)
    moments: list[float] = []
    now = 1000.0
    for _ in range(9000):
        while wait := window.try_take(now):
            now += wait
        moments.append(now)
        if len(moments) < 3000:
            now += 0.0001
        assert len(window._leaving) <= 1000
        assert len(window._amounts) == len(window._leaving)
    for earlier, later in zip(moments, moments[3000:], strict=False):
        assert 1.0 - 1e-9 < later - earlier < 1.0 + 0.01


def test_fractions_do_not_drift_apart() -> None:
    """After ever so many sums of tenths the window is exact."""
    window = SlidingWindow(5, 1.0)
    now = 0.0
    for number in range(20_000):
        window.take(now, (number % 7 + 1) / 10)
        now += 0.1
    assert pytest.approx(math.fsum(window._amounts), abs=1e-14) == window._used
    assert 5.0 == window.level(now + 1)


# What a server says


@every_kind
def test_a_server_may_hold_us_back_until_its_reset(make: Make) -> None:
    """Three left for five seconds; our own limit would allow fifty."""
    limit = make()
    limit.learn(20.0, remaining=3, reset=5)
    assert 3.0 == limit.level(20.0)
    assert 3 == taken(limit, 20.0, 20)
    assert 5.0 == limit.try_take(20.0)
    assert 0 == taken(limit, 24.9, 20)
    assert 10.0 == limit.level(25.0)
    assert 10 == taken(limit, 25.0, 20)
    assert 10 == taken(limit, 27.0, 20)


@every_kind
def test_a_server_never_lets_us_off_our_own_limit(make: Make) -> None:
    """A thousand left there is still ten a second here."""
    limit = make()
    limit.learn(20.0, remaining=1000, reset=1)
    assert limit._hold is None  # what cannot matter costs nothing
    assert 10.0 == limit.level(20.0)
    assert 10 == taken(limit, 20.0, 50)


@every_kind
def test_of_reports_about_one_window_the_lowest_counts(make: Make) -> None:
    """An answer may arrive after a later one."""
    limit = make()
    limit.learn(20.0, remaining=5, reset=30)
    limit.learn(20.5, remaining=2, reset=29)
    limit.learn(20.6, remaining=4, reset=30)
    assert 2 == taken(limit, 21.0, 20)
    assert 0 == taken(limit, 49.9, 20)
    assert 10 == taken(limit, 50.0, 20)


@every_kind
def test_a_report_about_another_window_replaces_the_last(make: Make) -> None:
    """A wrong one does not hold us for ever."""
    limit = make()
    limit.learn(20.0, remaining=0, reset=86_400)
    assert 86_400.0 == limit.try_take(20.0)
    limit.learn(21.0, remaining=4, reset=10)
    assert 4 == taken(limit, 21.0, 20)
    limit.learn(22.0, remaining=0, reset=0)
    assert 0.0 < limit.level(24.0)
    assert 0.0 == limit.try_take(24.0)


@every_kind
def test_a_far_reset_is_probed_and_then_forgotten(make: Make) -> None:
    """One call passes after `max_hold`; a silent server holds no longer."""
    limit = make()
    limit.learn(20.0, remaining=0, reset=1e15, max_hold=30)
    assert 30.0 == limit.try_take(20.0)
    assert 1 == taken(limit, 50.0, 20)
    assert 0 == taken(limit, 79.9, 20)
    assert 10 == taken(limit, 80.0, 20)
    assert limit._hold is None


@every_kind
def test_a_server_that_repeats_itself_is_probed_until_its_reset(make: Make) -> None:
    """Its answer to the probe counts, whatever it says is left."""
    limit = make()
    limit.learn(20.0, remaining=0, reset=100, max_hold=30)
    assert 1 == taken(limit, 50.0, 20)
    limit.learn(51.0, remaining=2, reset=69, max_hold=30)
    assert 2 == taken(limit, 51.0, 20)
    assert 1 == taken(limit, 81.0, 20)
    limit.learn(82.0, remaining=0, reset=38, max_hold=30)
    assert 0 == taken(limit, 111.9, 20)
    assert 1 == taken(limit, 112.0, 20)
    assert 0 == taken(limit, 119.9, 20)
    assert 10 == taken(limit, 120.0, 20)


@every_kind
def test_what_a_server_grants_until_a_far_reset_needs_no_probe(make: Make) -> None:
    """Three units for an hour pass whenever they are taken."""
    limit = make()
    limit.learn(20.0, remaining=3, reset=3600, max_hold=30)
    assert 2 == taken(limit, 51.0, 2)
    assert 1 == taken(limit, 52.0, 20)
    assert 29.0 == limit.try_take(52.0)


@every_kind
def test_a_negative_remainder_is_none(make: Make) -> None:
    """Some servers count on below zero."""
    limit = make()
    limit.learn(20.0, remaining=-7, reset=5)
    assert 0.0 == limit.level(20.0)
    assert 5.0 == limit.try_take(20.0)


@every_kind
def test_a_queue_behind_a_reset_waits_for_our_own_limit_too(make: Make) -> None:
    """Nothing for thirty seconds, and then ten a second."""
    limit = make()
    limit.learn(0.0, remaining=0, reset=30)
    assert 30.0 == limit.wait(0.0, 10)
    assert pytest.approx(30.1, abs=1) == limit.wait(0.0, 11)
    assert limit.wait(0.0, 11) > 30.0
    limit.book(0.0, 5)  # more than the server left; it forgets that at its reset
    assert 30.0 == limit.wait(0.0, 10)


@every_kind
def test_a_credit_does_not_relax_what_a_server_said(make: Make) -> None:
    """Only the server knows what it counted; a debit counts here too."""
    limit = make()
    limit.learn(20.0, remaining=3, reset=5)
    assert 3 == taken(limit, 20.0, 20)
    limit.book(20.0, -2)
    assert 0 == taken(limit, 20.0, 20)
    limit.book(20.0, 1)
    assert -1.0 == limit.level(20.0)
    assert 5.0 == limit.try_take(20.0)


# An answered wait is enough

rates = st.one_of(
    st.sampled_from([10, 3, 7, 0.1, 1 / 3, 49, 1e6, 1e-3, 123.456]),
    st.floats(1e-4, 1e7),
)
periods = st.one_of(
    st.sampled_from([1.0, 60.0, 0.1, 7.0, 3600.0]), st.floats(1e-3, 1e5)
)
moments = st.one_of(
    st.sampled_from([0.0, 0.1, 1000.3, 1e6 + 0.7, 1e9 + 0.1]), st.floats(0, 1e8)
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    kind=st.sampled_from([TokenBucket, SlidingWindow, FixedWindow]),
    rate=rates,
    per=periods,
    now=moments,
    shares=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20),
    pauses=st.lists(st.floats(0, 1.5), min_size=20, max_size=20),
    hold=st.one_of(st.none(), st.tuples(st.floats(0, 2), st.floats(0.01, 5))),
)
def test_a_caller_that_sleeps_as_long_as_told_gets_it(
    kind: Callable[..., RateLimit],
    rate: float,
    per: float,
    now: float,
    shares: list[float],
    pauses: list[float],
    hold: tuple[float, float] | None,
) -> None:
    """``now + wait`` is late enough in floating point, at every rate."""
    limit = kind(rate, per)
    assume(now + per / 1000 > now)
    for share, pause in zip(shares, pauses, strict=False):
        if hold is not None:
            limit.learn(now, hold[0] * limit.pace.capacity, hold[1] * per)
        amount = share * limit.pace.capacity
        wait = limit.try_take(now, amount)
        if wait:
            now += wait
            assert 0.0 == limit.try_take(now, amount)
        now += pause * per / 10


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    kind=st.sampled_from([TokenBucket, SlidingWindow, FixedWindow]),
    rate=st.integers(1, 20),
    used=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), max_size=5),
    queue=st.integers(1, 60),
    hold=st.one_of(st.none(), st.tuples(st.integers(0, 20), st.integers(1, 30))),
)
def test_a_queue_served_one_by_one_ends_when_its_total_was_due(
    kind: Callable[..., RateLimit],
    rate: int,
    used: list[tuple[int, int]],
    queue: int,
    hold: tuple[int, int] | None,
) -> None:
    """The answer for the whole queue is when its last one is served."""
    limit = kind(rate, 2.0)
    now = 100.0
    for pause, amount in used:
        now += pause / 8
        limit.take(now, amount)
    if hold is not None:
        limit.learn(now, hold[0], hold[1] / 4)
    told = now + limit.wait(now, queue)
    for _ in range(queue):
        while wait := limit.try_take(now):
            now += wait
    if hold is None or kind is TokenBucket:
        assert pytest.approx(told, abs=1e-6) == now
    else:  # what is taken before a reset is not known yet
        assert told <= now + 1e-6


# Against models


class TakenSoFar(RuleBasedStateMachine):
    """A limit against a list of everything that was ever taken from it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Fraction(0)
        self.taken: list[tuple[Fraction, Fraction]] = []
        self.limit: RateLimit
        self.rate = self.per = self.burst = Fraction(1)

    def free(self) -> Fraction:
        """Return what is available, from the list alone."""
        raise NotImplementedError

    @rule(eighths=st.integers(0, 40))
    def time_passes(self, eighths: int) -> None:
        """Move on, often not far."""
        self.now += Fraction(eighths, 8)

    @precondition(lambda self: len(self.taken) < 60)
    @rule(amount=st.integers(1, 12), times=st.integers(1, 3))
    def try_to_take(self, amount: int, times: int) -> None:
        """Take exactly if there is enough; a wait that is told is enough."""
        for _ in range(times):
            free = self.free()
            answer = self.limit.try_take(float(self.now), amount)
            assert (free >= amount) == (answer == 0.0)
            assert (amount > self.burst) == (answer == math.inf)
            if answer == 0.0:
                self.taken.append((self.now, Fraction(amount)))
            elif answer < math.inf:
                self._check_wait(answer, amount)

    def _check_wait(self, answer: float, amount: int) -> None:
        """Not enough shortly before, enough then."""
        present, self.now = self.now, self.now + Fraction(answer) - Fraction(1, 10**6)
        assert self.free() < amount
        self.now += Fraction(2, 10**6)
        assert self.free() >= amount
        self.now = present
        later = copy.deepcopy(self.limit)
        assert 0.0 == later.try_take(float(present) + answer, amount)

    @precondition(lambda self: len(self.taken) < 60)
    @rule(amount=st.integers(1, 15))
    def take_without_asking(self, amount: int) -> None:
        """Go into debt, perhaps."""
        self.limit.take(float(self.now), amount)
        self.taken.append((self.now, Fraction(amount)))

    @invariant()
    def levels_agree(self) -> None:
        """Looking changes nothing and tells the same."""
        expected = float(self.free())
        assert pytest.approx(expected, abs=1e-9) == self.limit.level(float(self.now))


class BucketAgainstList(TakenSoFar):
    """Replays the whole list for every question."""

    @initialize(
        rate=st.sampled_from([1, 2, 4, 10]),
        per=st.sampled_from([1, 2, 8]),
        burst=st.sampled_from([1, 4, 10]),
    )
    def begin(self, rate: int, per: int, burst: int) -> None:
        """Make a limit."""
        self.rate, self.per, self.burst = map(Fraction, (rate, per, burst))
        self.limit = TokenBucket(rate, per, burst)

    def free(self) -> Fraction:
        """Return the level after all that happened."""
        level, last = self.burst, Fraction(0)
        for when, amount in [*self.taken, (self.now, Fraction(0))]:
            refill = (when - last) * self.rate / self.per
            level, last = min(self.burst, level + refill) - amount, when
        return level

    @precondition(lambda self: len(self.taken) < 60)
    @rule(amount=st.integers(1, 5))
    def give_back(self, amount: int) -> None:
        """Credit, up to full."""
        self.limit.book(float(self.now), -amount)
        credited = min(Fraction(amount), self.burst - self.free())
        self.taken.append((self.now, -credited))


class SlidingAgainstList(TakenSoFar):
    """Adds up what lies in the window that ends now."""

    @initialize(
        rate=st.sampled_from([1, 4, 10, 30]), per=st.sampled_from([0.5, 1, 2, 8])
    )
    def begin(self, rate: int, per: float) -> None:
        """Make a limit."""
        self.rate = self.burst = Fraction(rate)
        self.per = Fraction(per)
        self.limit = SlidingWindow(rate, per)

    def free(self) -> Fraction:
        """Return what the window has left."""
        begin = self.now - self.per
        return self.rate - sum(amount for when, amount in self.taken if when > begin)


class FixedAgainstList(SlidingAgainstList):
    """Adds up what lies in the same multiple of the period."""

    @initialize(
        rate=st.sampled_from([1, 4, 10, 30]), per=st.sampled_from([0.5, 1, 2, 8])
    )
    def begin(self, rate: int, per: float) -> None:
        """Make a limit."""
        self.rate = self.burst = Fraction(rate)
        self.per = Fraction(per)
        self.limit = FixedWindow(rate, per)

    def free(self) -> Fraction:
        """Return what the window has left."""
        here = self.now // self.per
        return self.rate - sum(a for when, a in self.taken if when // self.per == here)


fast = settings(
    deadline=None, derandomize=True, max_examples=60, stateful_step_count=30
)
for model in (BucketAgainstList, SlidingAgainstList, FixedAgainstList):
    model.TestCase.settings = fast
TestBucketAgainstList = BucketAgainstList.TestCase
TestSlidingAgainstList = SlidingAgainstList.TestCase
TestFixedAgainstList = FixedAgainstList.TestCase

steps = st.lists(
    st.tuples(st.floats(0, 0.5), st.floats(0.05, 1.0)), min_size=5, max_size=80
)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(rate=rates, per=periods, share=st.floats(0.1, 3), now=moments, steps=steps)
def test_a_bucket_never_exceeds_burst_plus_rate_in_any_time(
    rate: float, per: float, share: float, now: float, steps: list[tuple[float, float]]
) -> None:
    """Every span between two takes, at awkward rates and moments."""
    burst = rate * share
    bucket = TokenBucket(rate, per, burst)
    log: list[tuple[float, float]] = []
    for pause, part in steps:
        now += pause * per
        if bucket.try_take(now, part * burst) == 0.0:
            log.append((now, part * burst))
    for first, (begin, _) in enumerate(log):
        total = 0.0
        for end, amount in log[first:]:
            total += amount
            assert total <= (burst + rate * (end - begin) / per) * (1 + 1e-6)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(rate=rates, per=periods, now=moments, steps=steps, cost_known=st.booleans())
def test_a_sliding_window_never_exceeds_its_rate_in_any_window(
    rate: float,
    per: float,
    now: float,
    steps: list[tuple[float, float]],
    cost_known: bool,
) -> None:
    """Every window that begins at a take, credits for true costs included."""
    assume(now + per / 1000 > now)
    window = SlidingWindow(rate, per)
    log: list[tuple[float, float]] = []
    for pause, part in steps:
        begun, now = now, now + pause * per
        if window.try_take(begun, part * rate) == 0.0:
            true = part * rate / (1 if cost_known else 2)
            log.append((begun, true))
            window.book(now, true - part * rate, since=begun)
    for begin, _ in log:
        inside = [amount for when, amount in log if begin <= when < begin + per]
        assert math.fsum(inside) <= rate * (1 + 1e-9)


def test_a_full_bucket_gains_no_fraction() -> None:
    """Half a token that came while it was full is not there afterwards."""
    bucket = TokenBucket(1, burst=5)
    assert 0.0 == bucket.try_take(4096.0)
    assert 0.0 == bucket.try_take(4097.5)
    assert 4.0 == bucket.level(4097.5)


def test_a_report_above_one_burst_holds() -> None:
    """Seven are left for 10 s, in which we would take fifteen."""
    bucket = TokenBucket(1, burst=5)
    bucket.learn(4096.0, remaining=7, reset=10)
    assert 0.0 == bucket.try_take(4096.0, 5)
    assert 0.0 == bucket.try_take(4098.0, 2)
    assert bucket.try_take(4100.0) > 0
