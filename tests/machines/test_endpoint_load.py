"""What is known of an endpoint, and its load: by hand-fed times."""

from __future__ import annotations

from math import exp, inf

import pytest

from resilient._machines.endpoint_load import POOR, Loads, Member, load_of

START = 1000.0
"""Seconds; a clock's zero means nothing."""


def known(latency: float = 0.2, *, by_latency: bool = True) -> tuple[Loads, Member]:
    """A set in which one success was seen, at the start, and its member."""
    loads, member = Loads(by_latency=by_latency), Member("a", None, 1.0)
    loads.start(member)
    member.sampled, member.answers = START, 2
    loads.succeed(member, START, latency)
    return loads, member


def test_a_new_member_is_worth_a_second_or_what_the_others_are() -> None:
    """Neither everything nor nothing is sent to it."""
    assert 1.0 == Member("a", None, 1.0).cost
    loads, first = Loads(by_latency=True), Member("a", None, 1.0)
    loads.start(first)
    assert (1.0, 1.0, 1.0, -inf) == (
        first.latency,
        first.success,
        first.cost,
        first.sampled,
    )
    loads.succeed(first, START, 0.25)
    second = Member("b", None, 1.0)
    second.success = 0.1
    loads.start(second)
    assert (0.25, 1.0, 0.25) == (second.latency, second.success, second.cost)


def test_a_success_counts_a_tenth_for_latency() -> None:
    """And three tenths for a success that was not whole."""
    loads, member = known()
    assert 0.92 == pytest.approx(member.latency)
    assert 0.92 == pytest.approx(member.cost)
    member.success = 0.5
    loads.succeed(member, START, 0.2)
    assert 0.848 == pytest.approx(member.latency)
    assert 0.65 == pytest.approx(member.success)
    assert 0.848 / 0.65**2 == pytest.approx(member.cost)


def test_the_mean_of_the_set_is_plain_at_first() -> None:
    """Then a fiftieth of each sample; else the first of all would count for long."""
    loads, member = Loads(by_latency=True), Member("a", None, 1.0)
    member.answers = 2
    for count in range(1, 51):
        loads.succeed(member, START, count / 10)
        assert (count + 1) / 20 == pytest.approx(loads.mean)
    loads.succeed(member, START, 12.55)
    assert 2.75 == pytest.approx(loads.mean)
    loads.succeed(member, START, 2.75)
    assert 2.75 == pytest.approx(loads.mean)


def test_a_sample_counts_ten_means_at_most_for_the_mean() -> None:
    """One of many seconds would hide for long what the set usually takes."""
    loads, member = known()
    for _ in range(60):
        loads.succeed(member, START, 0.2)
    loads.succeed(member, START, 50.0)
    assert 0.2 + 0.02 * 1.8 == pytest.approx(loads.mean)
    assert 5.0 < member.latency


def test_a_first_success_is_no_sample_of_latency() -> None:
    """It includes the connecting; for the set it stands in until the next."""
    loads, member = Loads(by_latency=True), Member("a", None, 1.0)
    other = Member("b", None, 1.0)
    loads.succeed(member, START, 0.9)
    assert (0.9, 0.9) == (loads.mean, member.latency)
    loads.succeed(other, START, 0.8)
    assert 0.9 == loads.mean
    loads.succeed(member, START, 0.2)
    assert 0.2 == pytest.approx(loads.mean) == pytest.approx(member.latency)
    loads.succeed(other, START, 0.4)
    assert 0.3 == pytest.approx(loads.mean)
    assert 0.2 + 0.1 * 0.2 == pytest.approx(other.latency)


def test_after_a_first_success_one_is_asked_again_soon() -> None:
    """What it needs is known from the next alone, so it is assumed to be quick."""
    loads, member = known()
    other = Member("b", None, 1.0)
    loads.start(other)
    loads.succeed(other, START, 5.0)
    loads.fade(other, START + 0.1)
    assert 0.75 * 0.2 == pytest.approx(other.cost)
    assert member.cost > other.cost


def test_ten_seconds_without_a_call_leave_nothing() -> None:
    """It is assumed to succeed, and to be a little quicker than the others."""
    loads, member = known()
    for _ in range(20):
        loads.fail(member, START, 9.0)
    loads.fade(member, START + 9.9)
    assert 1.0 < member.cost
    member.in_flight = 1
    loads.fade(member, START + 10.0)
    assert 1.0 < member.cost
    member.in_flight = 0
    loads.fade(member, START + 10.1)
    assert 1.0 == member.success
    assert 0.75 * 0.2 == pytest.approx(member.cost)


def test_nothing_is_assumed_to_be_quicker_that_never_answered() -> None:
    """Nor where no mean is known."""
    loads, _ = known()
    other, alone = Member("b", None, 1.0), Member("c", None, 1.0)
    loads.start(other)
    loads.fade(other, START)
    assert 0.2 == other.cost
    Loads(by_latency=True).fade(alone, START)
    assert 1.0 == alone.cost


def test_a_failure_counts_three_tenths() -> None:
    """A fast one says nothing of latency, and a slow one a tenth."""
    loads, member = known()
    loads.fail(member, START, 0.001)
    assert 0.7 == pytest.approx(member.success)
    assert 0.92 == pytest.approx(member.latency)
    assert 0.92 / 0.49 == pytest.approx(member.cost)
    loads.fail(member, START, 10.92)
    assert 0.49 == pytest.approx(member.success)
    assert 1.92 == pytest.approx(member.latency)


def test_before_a_first_success_a_failure_says_nothing_of_latency() -> None:
    """There is no mean to which it could fade again."""
    loads, member = Loads(by_latency=True), Member("a", None, 1.0)
    loads.start(member)
    loads.fail(member, START, 10.0)
    assert 1.0 == member.latency


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_nothing_fades_for_a_moment(seconds: float) -> None:
    """It would be half a percent."""
    loads, member = known()
    member.success = 0.5
    loads.succeed(member, START + seconds, 0.92)
    loads.fail(member, START + seconds, 0.0)
    assert START == member.sampled
    assert 0.65 * 0.7 == pytest.approx(member.success)


@pytest.mark.parametrize("note", [Loads.succeed, Loads.fail])
def test_what_is_known_fades_before_a_sample_counts(note: object) -> None:
    """By the time constant of ten seconds."""
    loads, member = known()
    member.success = 0.5
    assert callable(note)
    note(loads, member, START + 5.0, 0.0)
    kept = exp(-0.5)
    success, latency = 1.0 - 0.5 * kept, 0.2 + 0.72 * kept
    if note is Loads.succeed:
        success, latency = success + 0.3 * (1.0 - success), latency * 0.9
    else:
        success *= 0.7
    assert START + 5.0 == member.sampled
    assert success == pytest.approx(member.success)
    assert latency == pytest.approx(member.latency)
    assert latency / success**2 == pytest.approx(member.cost)


def test_without_a_sample_it_fades_all_the_same() -> None:
    """The success to 1, the latency to the mean; of no mean it stays."""
    loads, member = known()
    member.success = 0.5
    loads.fade(member, START + 5.0)
    kept = exp(-0.5)
    assert 1.0 - 0.5 * kept == pytest.approx(member.success)
    assert 0.2 + 0.72 * kept == pytest.approx(member.latency)
    assert member.latency / member.success**2 == pytest.approx(member.cost)
    alone = Member("b", None, 1.0)
    alone.latency = 0.5
    Loads(by_latency=True).fade(alone, START)
    assert 0.5 == alone.latency


def test_a_clock_that_goes_back_makes_nothing_grow() -> None:
    """Virtual time may begin after what was learnt in real time."""
    loads, member = known()
    member.success = 0.5
    loads.fade(member, 0.0)
    assert (0.5, 0.0) == (member.success, member.sampled)


def test_half_is_trusted_to_one_that_has_returned() -> None:
    """It is called, and less than the others."""
    loads, member = known()
    loads.readmit(member)
    assert POOR == member.success
    assert 0.92 / POOR**2 == pytest.approx(member.cost)


def test_a_success_counts_as_a_fifth_at_least() -> None:
    """One that fails is worth one with 24 calls in flight."""
    loads, member = known()
    for _ in range(30):
        loads.fail(member, START, 0.0)
    assert 0.92 * 25 == pytest.approx(member.cost)


def test_a_load_without_latency() -> None:
    """Is calls in flight and success alone."""
    loads, member = known(by_latency=False)
    assert 1.0 == member.cost
    loads.fail(member, START, 0.0)
    assert 1 / 0.49 == pytest.approx(member.cost)


@pytest.mark.parametrize("whole", [False, True])
def test_no_latency_is_worth_nothing(whole: bool) -> None:
    """A clock has a resolution: an answer in 0.0 seconds is no perfect one."""
    loads, member = known()
    member.latency = 0.0
    if whole:
        cost = member.cost
        loads.succeed(member, START, 0.0)
        assert cost == member.cost
    else:
        loads.readmit(member)
        assert 1e-6 / POOR**2 == pytest.approx(member.cost)


@pytest.mark.parametrize(
    ("in_flight", "weight", "load"),
    [(0, 1.0, 2.0), (1, 1.0, 4.0), (3, 1.0, 8.0), (1, 3.0, 2.0), (2, 3.0, 4.0)],
)
def test_the_load_is_what_is_in_flight_and_one(
    in_flight: int, weight: float, load: float
) -> None:
    """For each unit of weight, in whole numbers, times the cost."""
    member = Member("a", None, weight)
    member.in_flight, member.cost = in_flight, 2.0
    assert load == load_of(member)
