"""A fleet's bucket: what a store concludes from what an asker remembers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient._machines.rate_limits import TokenBucket
from resilient._machines.shared_bucket import (
    NO_ORDER,
    Answer,
    Ask,
    Bucket,
    Order,
    Recall,
    answer,
)

T = 1.7e9


def ask(want: float = 0.0, **more: Any) -> Ask:
    """Ten a second, a hundred at once."""
    return Ask(10.0, 100.0, want, **more)


def recalled(said: Answer, elapsed: float) -> Recall:
    """What the asker of that remembers after so many seconds."""
    return Recall(said.level, said.time, elapsed, said.credited)


def taken(level: float, at: float = T) -> tuple[Bucket, Answer]:
    """A bucket with so much left."""
    return answer(None, at, ask(100.0 - level))


def test_a_new_bucket_is_full() -> None:
    """For an asker that remembers nothing."""
    bucket, said = answer(None, T, ask(30.0))
    assert (30.0, 70.0, T, False) == (said.granted, said.level, said.time, said.lost)
    assert bucket.expires == T + 3.0 + 60.0


def test_a_part_of_what_is_wanted_comes_in_whole_pieces() -> None:
    """A grant is a multiple of `least`: half a call is of no use."""
    bucket, _ = taken(5.5)
    assert 4.0 == answer(bucket, T, ask(8.0, least=2.0))[1].granted
    assert 0.0 == answer(bucket, T, ask(8.0, least=6.0))[1].granted
    assert 5.5 == answer(bucket, T, ask(5.5, least=5.5))[1].granted


def test_it_refills_up_to_its_capacity() -> None:
    """Ten a second, and never above a hundred."""
    bucket, _ = taken(0.0)
    assert 20.0 == answer(bucket, T + 2.0, ask())[1].level
    assert 100.0 == answer(bucket, T + 50.0, ask())[1].level


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 60), st.booleans()), max_size=20)
)
def test_without_faults_it_is_a_token_bucket(
    steps: list[tuple[float, float, bool]],
) -> None:
    """A memory changes nothing where nothing was lost."""
    model = TokenBucket(10, burst=100)
    bucket: Bucket | None = None
    said: Answer | None = None
    now = T
    for pause, amount, remembers in steps:
        now += pause
        recall = recalled(said, pause) if said and remembers else None
        bucket, said = answer(bucket, now, ask(amount, least=amount, recall=recall))
        assert (model.try_take(now, amount) == 0.0) == (said.granted == amount)
        assert pytest.approx(model.level(now), abs=1e-6) == said.level


def test_a_bucket_that_cannot_have_expired_was_lost() -> None:
    """It begins empty; the loss is told."""
    _, said = taken(50.0)
    bucket, after = answer(None, T + 9.0, ask(1.0, recall=recalled(said, 9.0)))
    assert (0.0, 0.0, True) == (after.granted, after.level, after.lost)
    assert T + 9.0 == bucket.born


def test_a_lost_debt_is_remembered() -> None:
    """What the asker saw below zero is not forgiven, but for the time since."""
    _, said = answer(None, T, ask(spent=150.0))
    assert -50.0 == said.level
    _, after = answer(None, T + 2.0, ask(recall=recalled(said, 2.0)))
    assert -30.0 == after.level


def test_a_bucket_that_may_have_expired_is_full() -> None:
    """After a minute more than it takes to fill."""
    _, said = taken(50.0)
    for elapsed, level in [(64.9, 0.0), (65.0, 100.0)]:
        recall = recalled(said, elapsed)
        assert level == answer(None, T + elapsed, ask(recall=recall))[1].level


@pytest.mark.parametrize(("jump", "level"), [(300.0, 10.0), (-300.0, 0.0)])
def test_a_clock_that_jumps_refills_nothing(jump: float, level: float) -> None:
    """One second passed, whatever the store's clock says; or none, to be safe."""
    bucket, said = taken(0.0)
    _, after = answer(bucket, T + 1.0 + jump, ask(recall=recalled(said, 1.0)))
    assert pytest.approx(level) == after.level


def test_who_asks_next_is_not_deceived_by_a_jump_either() -> None:
    """A newcomer was: it has nothing to compare. The next one remembers."""
    bucket, said = taken(0.0)
    bucket, newcomer = answer(bucket, T + 300.0, ask(20.0))
    assert 20.0 == newcomer.granted
    _, veteran = answer(bucket, T + 300.0, ask(50.0, recall=recalled(said, 0.5)))
    assert 5.0 == veteran.granted


def test_an_old_copy_gives_no_more_than_the_asker_saw() -> None:
    """Plus what has been refilled since."""
    old, _ = taken(90.0)
    _, said = answer(old, T, ask(80.0))
    assert 10.0 == said.level
    _, after = answer(old, T + 1.0, ask(recall=recalled(said, 1.0)))
    assert 20.0 == after.level


def test_a_delay_is_no_jump() -> None:
    """An ask that took 0.2 s is answered as if it had taken none."""
    bucket, said = taken(0.0)
    _, after = answer(bucket, T + 1.2, ask(recall=recalled(said, 1.0)))
    assert pytest.approx(12.0) == after.level


def test_what_was_used_without_asking_is_taken_whether_or_not_it_is_there() -> None:
    """It was used."""
    bucket, _ = taken(20.0)
    assert -30.0 == answer(bucket, T, ask(spent=50.0, span=4.0))[1].level


def test_what_would_have_run_over_is_forgiven_where_the_bucket_ran_over() -> None:
    """Two members were cut off for 20 s and used 80 each of the 200 refilled."""
    bucket, _ = taken(0.0)
    bucket, said = answer(bucket, T + 20.0, ask(spent=80.0, span=20.0, excess=30.0))
    assert 50.0 == said.level
    bucket, said = answer(bucket, T + 20.0, ask(spent=80.0, span=20.0, excess=30.0))
    assert 0.0 == said.level
    assert 40.0 == bucket.over


def test_where_others_went_on_nothing_is_forgiven() -> None:
    """The bucket did not run over while the asker was cut off."""
    bucket, _ = taken(0.0)
    for second in range(20):
        bucket, _ = answer(bucket, T + second, ask(10.0))
    _, said = answer(bucket, T + 20.0, ask(spent=80.0, span=20.0, excess=80.0))
    assert -70.0 == said.level


def test_what_ran_over_earlier_is_of_no_use() -> None:
    """The asker was not cut off then, but for the last second of it."""
    bucket, _ = taken(0.0)
    bucket, _ = answer(bucket, T + 20.0, ask())
    _, said = answer(bucket, T + 24.0, ask(spent=50.0, span=5.0, excess=50.0))
    assert 60.0 == said.level


def test_what_ran_over_is_forgotten_after_a_minute() -> None:
    """Or when more did."""
    bucket, _ = taken(0.0)
    bucket, _ = answer(bucket, T + 20.0, ask())
    bucket, _ = answer(bucket, T + 25.0, ask())
    assert (100.0, T, T + 20.0) == (bucket.over, bucket.over_from, bucket.over_until)
    bucket, _ = answer(bucket, T + 81.0, ask(100.0))
    bucket, _ = answer(bucket, T + 142.0, ask())
    assert (510.0, T + 81.0, T + 142.0) == (
        bucket.over,
        bucket.over_from,
        bucket.over_until,
    )


def test_who_never_reached_a_store_is_in_no_debt_when_it_does() -> None:
    """Ten minutes of its share: what the bucket does not miss is forgiven."""
    bucket, said = answer(None, T, ask(spent=600.0, span=600.0, excess=590.0))
    assert 90.0 == said.level
    _, said = answer(bucket, T, ask(spent=600.0, span=600.0, excess=590.0))
    assert 80.0 == said.level


def test_what_was_used_before_the_loss_is_not_taken_twice() -> None:
    """The bucket began empty for that; what was used since is taken."""
    _, said = taken(50.0)
    bucket, _ = answer(None, T + 4.0, ask(recall=recalled(said, 4.0)))
    _, first = answer(bucket, T + 4.0, ask(spent=40.0, span=4.0))
    assert 0.0 == first.level
    _, later = answer(bucket, T + 5.0, ask(spent=40.0, span=4.0))
    assert 0.0 == later.level  # 10 refilled, a quarter of 40 taken


def test_what_was_used_is_taken_though_the_clock_shows_less_than_at_the_loss() -> None:
    """Set back after the loss, it does not tell what was used before it."""
    _, said = taken(20.0)
    bucket, said = answer(None, T + 300.0, ask(recall=recalled(said, 1.0)))
    assert said.lost
    _, said = answer(
        bucket, T + 1.0, ask(spent=30.0, span=0.5, recall=recalled(said, 1.0))
    )
    assert bucket.level - 30.0 == said.level


def test_a_credit_counts_as_never_taken() -> None:
    """Others, who remember less, are not bounded by that."""
    bucket, said = taken(20.0)
    bucket, _ = answer(bucket, T + 1.0, ask(credit=30.0, issued=T))
    _, after = answer(bucket, T + 1.0, ask(recall=recalled(said, 1.0)))
    assert 60.0 == after.level


def test_a_credit_is_void_where_the_bucket_was_full_since() -> None:
    """What then ran over cannot be had twice."""
    bucket, _ = taken(95.0)
    bucket, _ = answer(bucket, T + 1.0, ask(100.0))
    assert 0.0 == answer(bucket, T + 1.0, ask(credit=5.0, issued=T))[1].level
    assert 5.0 == answer(bucket, T + 1.0, ask(credit=5.0, issued=T + 1.0))[1].level


def test_a_deposit_is_paid_in_up_to_the_capacity() -> None:
    """Whenever it is made."""
    bucket, _ = taken(95.0)
    assert 98.0 == answer(bucket, T, ask(deposit=3.0))[1].level
    assert 100.0 == answer(bucket, T, ask(deposit=30.0))[1].level


def test_what_the_server_says_is_a_ceiling() -> None:
    """Never a floor."""
    bucket, _ = taken(50.0)
    assert 7.0 == answer(bucket, T, ask(ceiling=7.0))[1].level
    assert 50.0 == answer(bucket, T, ask(ceiling=70.0))[1].level


def test_the_lower_of_two_limits_holds_for_all() -> None:
    """Until no member has asked with the lower one for a minute."""
    low, high = Ask(5.0, 50.0), Ask(10.0, 100.0)
    bucket, said = answer(None, T, high)
    bucket, said = answer(bucket, T, low)
    assert (5.0, 50.0, 50.0) == (said.rate, said.capacity, said.level)
    bucket, said = answer(bucket, T + 30.0, high)
    assert (5.0, 50.0) == (said.rate, said.capacity)
    bucket, said = answer(bucket, T + 30.0, low)
    bucket, said = answer(bucket, T + 89.0, high)
    assert (5.0, 50.0) == (said.rate, said.capacity)
    bucket, said = answer(bucket, T + 90.0, high)
    assert (10.0, 100.0) == (said.rate, said.capacity)


def test_a_reset_fills_the_bucket_whatever_members_remember() -> None:
    """Those who saw less than there is then believe it."""
    bucket, seen = answer(None, T, ask(100.0))
    bucket, _ = answer(bucket, T, ask(spent=500.0))
    bucket, said = answer(bucket, T + 1.0, ask(reset=1.0))
    assert (100.0, T + 1.0) == (said.level, bucket.full)
    asked = ask(60.0, credit=100.0, issued=T, recall=recalled(seen, 1.0))
    bucket, said = answer(bucket, T + 1.0, asked)
    assert (60.0, 40.0) == (said.granted, said.level)
    # And from then on nothing is there twice.
    bucket, said = answer(
        bucket._replace(level=90.0), T + 1.0, ask(recall=recalled(said, 0.0))
    )
    assert 40.0 == said.level


def test_an_order_holds_in_the_place_of_what_members_were_made_with() -> None:
    """Above their numbers too, at once; those who do not know it yet are told."""
    bucket, _ = answer(None, T, ask())
    ordered = Ask(
        20.0, 200.0, orders=1.0, order_rate=1200.0, order_per=60.0, order_burst=200.0
    )
    bucket, said = answer(bucket, T, ordered)
    assert Order(1.0, 1200.0, 60.0, 200.0) == said.order
    assert (20.0, 200.0) == (said.rate, said.capacity)
    bucket, said = answer(bucket, T + 1.0, ask(5.0))
    assert (20.0, 200.0, 115.0) == (said.rate, said.capacity, said.level)
    assert Order(1.0, 1200.0, 60.0, 200.0) == said.order
    # A lower number of one who knows the order holds, as ever.
    bucket, said = answer(bucket, T + 1.0, Ask(15.0, 150.0, order_number=1.0))
    assert (15.0, 150.0) == (said.rate, said.capacity)


def test_members_remember_an_order_that_the_store_lost() -> None:
    """It comes back with the first that knows it, and the next one is later."""
    known = Ask(20.0, 200.0, order_number=3.0, order_rate=20.0, order_per=1.0)
    bucket, said = answer(None, T, ask())
    assert NO_ORDER == said.order
    bucket, said = answer(bucket, T, known)
    assert (Order(3.0, 20.0, 1.0, 0.0), 20.0) == (said.order, said.rate)
    bucket, said = answer(bucket, T, ask(orders=1.0, order_rate=10.0, order_per=1.0))
    assert (4.0, 10.0) == (said.order.number, said.rate)


# -- Its bounds, one by one


def kept(**changes: float) -> Bucket:
    """Return a bucket of 90, half full, looked at now; nothing ran over lately."""
    usual = Bucket(45.0, T, T - 10, 0.0, 0.0, 0.0, T - 100, T - 1, 100.0, 90.0, T - 1)
    return usual._replace(**changes)


def level_after(bucket: Bucket, **asked: Any) -> float:
    """Return what is there after an ask that comes at once."""
    return answer(bucket, T, Ask(100.0, 90.0, **asked))[1].level


def test_an_order_is_above_the_last_that_its_member_knows() -> None:
    """The store may have lost that."""
    said = answer(None, T, Ask(100.0, 90.0, orders=1.0, order_number=5.0))[1]
    assert 6.0 == said.order_number


@pytest.mark.parametrize(
    ("rate", "capacity", "in_force"),
    [(40.0, 200.0, (40.0, 90.0)), (200.0, 36.0, (100.0, 36.0))],
)
def test_of_two_limits_each_number_is_the_lower(
    rate: float, capacity: float, in_force: tuple[float, float]
) -> None:
    """Where one is not lower in both."""
    said = answer(kept(), T, Ask(rate, capacity))[1]
    assert in_force == (said.rate, said.capacity)


def test_a_bucket_that_did_not_run_over_for_a_minute_owes_nothing_for_it() -> None:
    """What is missing from it is no negative overflow."""
    bucket = kept(over_until=T - 61)
    assert 35.0 == level_after(bucket, spent=10.0, span=5.0, excess=10.0)


def test_a_clock_that_is_a_little_back_takes_nothing_away() -> None:
    """Less than is a jump: what was seen a moment later is still there."""
    recall = Recall(45.0, T + 0.1, 0.0, 0.0)
    assert 45.0 == level_after(kept(), recall=recall)


def test_a_copy_that_knows_of_fewer_credits_takes_nothing_away() -> None:
    """It is no debt that others gave back less since."""
    recall = Recall(45.0, T, 0.0, 30.0)
    assert 45.0 == level_after(kept(), recall=recall)


def test_what_was_used_counts_once_however_long_ago_the_loss_was() -> None:
    """A loss before all of it leaves it as it is."""
    assert 35.0 == level_after(kept(born=T - 50), spent=10.0, span=5.0)


@pytest.mark.parametrize(
    ("over", "over_from", "over_until", "excess", "forgiven"),
    [
        (3.0, T - 10, T, 40.0, 3.0),  # no more than ran over
        (40.0, T - 10, T, 4.0, 4.0),  # nor than was used beyond the share
        (40.0, T - 0.05, T, 40.0, 5.0),  # nor than refilled while it ran over
        (40.0, T - 10, T - 0.08, 40.0, 2.0),  # and while it was used
        (40.0, T - 10, T + 10, 40.0, 10.0),  # which was not to come
    ],
)
def test_what_is_forgiven_ran_over_in_the_time_that_it_was_used_in(
    over: float, over_from: float, over_until: float, excess: float, forgiven: float
) -> None:
    """Here in the last tenth of a second."""
    bucket = kept(over=over, over_from=over_from, over_until=over_until)
    level = level_after(bucket, spent=50.0, span=0.1, excess=excess)
    assert -5.0 + forgiven == pytest.approx(level, abs=1e-3)
