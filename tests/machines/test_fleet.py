"""Who gets the next call: by hand-fed times and numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient import Eject, EndpointState
from resilient._machines import fleet as fleet_machine
from resilient._machines.checks import Check
from resilient._machines.endpoint_load import Member
from resilient._machines.fleet import (
    Ejected,
    Fleet,
    Listed,
    Load,
    Returned,
    Ticket,
)
from resilient._machines.proportions import (
    Turns,
    draw_other_place,
    draw_place,
    running_sums,
)

A, B, C, D, E = "ABCDE"
LATENCY = 0.020


def fleet_of(
    *addresses: str,
    load: Load = "latency",
    eject: Eject | None = Eject(),  # noqa: B008 - it is immutable
    weights: Iterable[float] = (),
    now: float = 0.0,
) -> Fleet:
    """Return a set of these endpoints, of weight 1 unless said otherwise."""
    fleet = Fleet(load, eject)
    given = [*weights] or [1.0] * len(addresses)
    fleet.replace([Listed(each, each, w) for each, w in zip(addresses, given)], now)  # noqa: B905
    return fleet


def drawing(*numbers: float) -> Callable[[], float]:
    """Return a source of exactly these numbers."""
    return iter(numbers).__next__


def refusing() -> float:
    """Refuse to be drawn from."""
    raise AssertionError("a number was drawn")


def send(
    fleet: Fleet,
    now: float,
    draw: Callable[[], float],
    tried: Iterable[Member] = (),
    refused: Iterable[Member] = (),
) -> Member:
    """Send a call to an endpoint; there has to be one."""
    member = fleet.choose(now, draw, [*tried], [*refused])
    assert member is not None
    return member


def fail(fleet: Fleet, address: str, times: int, now: float = 0.0) -> None:
    """Let an endpoint fail so often, at once."""
    member = fleet.members[address]
    for _ in range(times):
        member.in_flight += 1
        fleet.leave(member)
        fleet.fail(member, member.era, now, 0.001)


def succeed(fleet: Fleet, address: str, times: int = 1, now: float = 0.0) -> None:
    """Let an endpoint succeed so often."""
    member = fleet.members[address]
    for _ in range(times):
        fleet.succeed(member, member.era, now, LATENCY)


def asked(fleet: Fleet, times: int, now: float = 0.0, seed: int = 1) -> Counter[str]:
    """Send so many calls, one at a time; return who got how many."""
    random, got = Random(seed), Counter[str]()
    for _ in range(times):
        member = send(fleet, now, random.random)
        fleet.leave(member)
        got[member.address] += 1
    return got


def flooded(fleet: Fleet, times: int, now: float = 0.0, seed: int = 1) -> Counter[str]:
    """Send so many calls at once; return who got how many."""
    random = Random(seed)
    members = [send(fleet, now, random.random) for _ in range(times)]
    for member in members:
        fleet.leave(member)
    return Counter(member.address for member in members)


def took(fleet: Fleet) -> list[Ejected | Returned]:
    """Take the changes."""
    changes, fleet.changes = fleet.changes, []
    return changes


# -- Choices


def test_one_endpoint_gets_everything() -> None:
    """It is never ejected, and no number is drawn."""
    for load in ("latency", "requests", "round_robin", "random"):
        fleet = fleet_of(A, load=load)
        for moment in range(100):
            assert A == send(fleet, moment, refusing).address
            fail(fleet, A, 1, moment)
        assert [] == fleet.changes


def test_an_empty_set_has_no_endpoint() -> None:
    """Whatever was tried."""
    assert fleet_of().choose(0.0, refusing) is None


@pytest.mark.parametrize(("in_flight", "chosen"), [(23, B), (25, A)])
def test_one_that_fails_is_worth_twenty_four_calls_in_flight(
    in_flight: int, chosen: str
) -> None:
    """A floor of 0.2 squared: what the good ones cannot take runs over."""
    fleet = fleet_of(A, B)
    succeed(fleet, A, 2)
    succeed(fleet, B, 2)
    fail(fleet, A, 50)
    fleet.members[A].in_flight = 0
    fleet.members[B].in_flight = in_flight
    for first in (0.0, 0.9):
        assert chosen == send(fleet, 0.0, drawing(first, 0.0)).address
        fleet.leave(fleet.members[chosen])


def test_of_equal_loads_the_first_drawn_is_chosen() -> None:
    """The second place is drawn among the others."""
    fleet = fleet_of(A, B, C)
    for first, chosen in ((0.0, A), (0.34, B), (0.67, C)):
        member = send(fleet, 0.0, drawing(first, 0.5))
        fleet.leave(member)
        assert chosen == member.address


@pytest.mark.parametrize("load", ["latency", "requests", "round_robin", "random"])
def test_idle_endpoints_get_equal_shares(load: Load) -> None:
    """Within 1 % of a third each."""
    times = 100_000 if load == "latency" else 20_000
    got = asked(fleet_of(A, B, C, load=load), times)
    assert {A, B, C} == set(got)
    assert all(abs(number / times - 1 / 3) < 0.01 for number in got.values())


def test_turns_are_in_exact_proportion_to_weights() -> None:
    """One of four, in every four."""
    fleet = fleet_of(A, B, load="round_robin", weights=(1, 3))
    order = [send(fleet, 0.0, Random(1).random).address for _ in range(400)]
    for start in range(0, 400, 4):
        assert {A: 1, B: 3} == Counter(order[start : start + 4])


def test_turns_start_at_a_place_that_is_drawn() -> None:
    """Or a thousand clients would begin with the same endpoint."""
    for first, drawn in ((A, 0.0), (B, 0.4), (C, 0.9)):
        fleet = fleet_of(A, B, C, load="round_robin")
        assert first == send(fleet, 0.0, drawing(drawn)).address


def test_who_returns_to_the_ring_takes_its_turn_only() -> None:
    """What it missed is gone."""
    fleet = fleet_of(A, B, C, load="round_robin")
    fleet.drain(A, 0.0, draining=True)
    assert {B: 50, C: 50} == asked(fleet, 100)
    fleet.drain(A, 0.0, draining=False)
    got = asked(fleet, 10)
    assert {A, B, C} == set(got)
    assert max(got.values()) - min(got.values()) <= 1


@pytest.mark.parametrize("load", ["latency", "requests", "random"])
def test_idle_endpoints_get_calls_by_weight(load: Load) -> None:
    """Three times as many for a weight three times as great."""
    got = asked(fleet_of(A, B, load=load, weights=(2.0, 6.0)), 40_000)
    assert 2.9 < got[B] / got[A] < 3.1


def test_busy_endpoints_get_calls_by_weight() -> None:
    """It is calls in flight for each unit of weight that count."""
    fleet = fleet_of(A, B, load="requests", weights=(1, 3))
    random = Random(1)
    for _ in range(400):
        send(fleet, 0.0, random.random)
    assert 2.9 < fleet.members[B].in_flight / fleet.members[A].in_flight < 3.1


def test_the_less_loaded_of_two_is_chosen() -> None:
    """By latency, or by calls in flight alone."""
    for load, chosen in (("latency", A), ("requests", B)):
        fleet = fleet_of(A, B, load=load)  # type: ignore[arg-type]  # they are loads
        succeed(fleet, A)
        for _ in range(50):
            fleet.succeed(fleet.members[B], 0, 0.0, 1.0)
        fleet.members[A].in_flight = 3
        assert chosen == send(fleet, 0.0, drawing(0.0, 0.0)).address


def test_more_are_drawn_while_those_drawn_fail() -> None:
    """Five at most; the search ends with one that is well."""
    fleet = fleet_of(*"ABCDEFGH", eject=None)
    for each in "ABCDEFG":
        fail(fleet, each, 10)
    # A, B, then H: its third draw.
    assert "H" == send(fleet, 0.1, drawing(0.0, 0.0, 0.95)).address
    fail(fleet, "H", 10)
    fleet.members["H"].in_flight = 0
    fleet.members[A].in_flight = 9
    # A, B, and three more; a place drawn twice is the next one.
    assert B == send(fleet, 0.0, drawing(0.0, 0.0, 0.0, 0.0, 0.0)).address


def test_the_search_draws_by_weight_too() -> None:
    """And finds each place once."""
    fleet = fleet_of(A, B, C, eject=None, weights=(1, 1, 2))
    for each in (A, B):
        fail(fleet, each, 10)
    assert C == send(fleet, 0.0, drawing(0.0, 0.0, 0.0)).address


# -- What is known


def test_a_new_endpoint_is_taken_for_an_average_one() -> None:
    """Neither 0 nor a second; and its first failure says nothing of it."""
    fleet = fleet_of(A, B)
    for _ in range(100):
        fleet.succeed(fleet.members[A], 0, 0.0, LATENCY)
    fleet.replace([Listed(each, each, 1.0) for each in (A, B, C)], 0.0)
    member = fleet.members[C]
    assert LATENCY == pytest.approx(member.latency)
    assert LATENCY == pytest.approx(fleet.members[B].latency)
    fleet.fail(member, 0, 0.0, 0.001)
    assert LATENCY == pytest.approx(member.latency)


def test_before_the_first_success_failures_have_no_latency() -> None:
    """There is nothing to compare them with."""
    fleet = fleet_of(A, B)
    fleet.fail(fleet.members[A], 0, 0.0, 5.0)
    assert not fleet.knows_latency
    assert fleet.members[A].latency == fleet.members[B].latency


def test_fast_failures_say_nothing_of_the_latency() -> None:
    """Slow ones do."""
    fleet = fleet_of(A, B)
    succeed(fleet, A, 2)
    member = fleet.members[A]
    fleet.fail(member, 0, 0.0, 0.001)
    assert (LATENCY, 0.7) == (member.latency, member.success)
    fleet.fail(member, 0, 0.0, 1.0)
    assert 0.9 * LATENCY + 0.1 == pytest.approx(member.latency)
    assert 0.49 == pytest.approx(member.success)
    succeed(fleet, A)
    assert 0.49 + 0.3 * 0.51 == pytest.approx(member.success)


def test_what_is_known_fades() -> None:
    """After ten time constants an endpoint counts like any other again."""
    fleet = fleet_of(A, B)
    for _ in range(200):
        fleet.succeed(fleet.members[B], 0, 0.0, LATENCY)
    succeed(fleet, A)
    fleet.succeed(fleet.members[A], 0, 0.0, 2.0)
    fail(fleet, A, 3)
    slow = fleet.members[A].latency
    assert slow > 5 * LATENCY
    success, latency = fleet.known(fleet.members[A], 100.0)
    assert 0.99 < success
    assert latency == pytest.approx(fleet.known(fleet.members[B], 100.0)[1], rel=0.01)
    assert slow == fleet.members[A].latency


def test_one_failure_in_ten_seconds_shuns_for_fifteen_at_most() -> None:
    """At a tenth of a call a second each outcome is a large part of all."""
    fleet = fleet_of(A, B)
    succeed(fleet, A, 2)
    succeed(fleet, B, 2)
    fail(fleet, A, 1)
    for address in (A, B):
        fleet._loads.fade(fleet.members[address], 15.0)
    assert fleet.members[A].cost < 1.2 * fleet.members[B].cost


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("pause", [0.0, 0.1])
@pytest.mark.parametrize(
    "bad", ["connecting", "connecting once", "slow", "failure", "failures", "rest"]
)
@pytest.mark.parametrize("load", ["latency", "requests", "round_robin", "random"])
def test_what_was_bad_once_is_soon_tried_again(
    load: Load, bad: str, pause: float, noise: float
) -> None:
    """With one call at a time: no draw but for the load decides then.

    It is without calls for ten seconds at most, or for as long as it is ejected or
    rests, and has its share in the end.
    """
    random, fleet = Random(1), fleet_of(A, B, C, load=load)
    failing = range(30, {"failure": 31, "failures": 35}.get(bad, 30))
    start = now = 1000.0
    seconds = 120.0 if pause else 40.0
    last, longest, got = dict.fromkeys((A, B, C), now), Counter[str](), Counter[str]()
    since = Counter[str]()
    while now < start + seconds:
        member = send(fleet, now, random.random)
        address = member.address
        fleet.leave(member)
        got[address] += 1
        longest[address] = max(longest[address], int(now - last[address]))
        since[address] += now > start + seconds / 2
        latency, number = LATENCY * (1 + random.uniform(-noise, noise)), got[address]
        if number == 1 and bad == "connecting" + " once" * (address == C):
            latency *= 20
        if address == C and bad == "slow" and number == 30:
            latency *= 100
        now += latency
        last[address] = now
        if address == C and number == 30 and bad == "rest":
            fleet.push_back(member, member.era, now, latency, 5.0)
        elif address == C and number in failing:
            fleet.fail(member, member.era, now, latency)
        else:
            fleet.succeed(member, member.era, now, latency)
        for change in took(fleet):
            if isinstance(change, Ejected):
                fleet.set_time(change, 5.0)
        now += pause
    for address in (A, B, C):
        assert 12 > max(longest[address], int(now - last[address]))
        if bad != "failures":
            assert since[address] > 0.2 * since.total()


def test_a_clock_that_goes_back_changes_nothing() -> None:
    """As when virtual time begins after a set was made, and used, before."""
    fleet = fleet_of(A, B, now=1e9)
    succeed(fleet, A, 2, now=1e9)
    fail(fleet, B, 1, now=1e9)
    member, other = fleet.members[A], fleet.members[B]
    assert LATENCY == fleet.known(member, 0.0)[1]
    assert 0.7 == fleet.known(other, 0.0)[0]
    assert {A, B} == set(flooded(fleet, 50, now=0.0))
    succeed(fleet, B, now=0.1)
    assert 0.7 < other.success


def test_a_latency_of_nothing_leaves_calls_in_flight_to_decide() -> None:
    """As under a clock that stands still."""
    fleet = fleet_of(A, B)
    for each in (A, B):
        fleet.succeed(fleet.members[each], 0, 0.0, 0.0)
    fleet.members[A].in_flight = 1
    assert B == send(fleet, 0.0, drawing(0.0, 0.0)).address


def test_forgetting_everything_leaves_calls_in_flight() -> None:
    """And what is drained stays so."""
    fleet = fleet_of(A, B, C)
    assert fleet.is_pristine
    succeed(fleet, A)
    assert not fleet.is_pristine
    send(fleet, 0.0, Random(1).random)
    fail(fleet, B, 5)
    fleet.push_back(fleet.members[C], 0, 0.0, 0.001, 30)
    took(fleet)
    fleet.reset(1.0)
    assert [B] == [change.member.address for change in took(fleet)]
    assert {"available"} == {state.value for _, state in fleet.look(1.0)}
    assert 1 == sum(member.in_flight for member in fleet.members.values())
    assert not fleet.knows_latency
    assert all(member.success == 1.0 for member in fleet.members.values())


# -- Another endpoint


@pytest.mark.parametrize("load", ["latency", "requests", "round_robin", "random"])
def test_who_was_tried_is_avoided(load: Load) -> None:
    """The others share such calls evenly; where all were tried, all may."""
    fleet = fleet_of(A, B, C, load=load)
    a, b, c = fleet.members.values()
    random, got = Random(1), Counter[str]()
    for _ in range(2000):
        member = send(fleet, 0.0, random.random, [a])
        fleet.leave(member)
        got[member.address] += 1
    assert {B, C} == set(got)
    assert abs(got[B] - got[C]) < 150
    assert C == send(fleet, 0.0, random.random, [a, b]).address
    fleet.leave(c)
    got.clear()
    for _ in range(300):
        member = send(fleet, 0.0, random.random, [a, b, c])
        fleet.leave(member)
        got[member.address] += 1
    assert {A, B, C} == set(got)


def test_who_avoids_one_does_not_turn_the_ring() -> None:
    """Or the next in it would have the calls of the one that fails."""
    fleet = fleet_of(A, B, C, load="round_robin")
    random, got = Random(1), Counter[str]()
    for _ in range(3000):
        member = send(fleet, 0.0, random.random)
        fleet.leave(member)
        if member.address == A:
            member = send(fleet, 0.0, random.random, [member])
            fleet.leave(member)
        got[member.address] += 1
    assert 0.9 < got[B] / got[C] < 1.1


def test_who_refused_is_out_of_the_question() -> None:
    """And no endpoint that rests is asked instead."""
    fleet = fleet_of(A, B, C)
    a, b, c = fleet.members.values()
    assert C == send(fleet, 0.0, refusing, refused=[a, b]).address
    assert fleet.choose(0.0, refusing, refused=[a, b, c]) is None
    fleet.push_back(c, 0, 0.0, 0.001, 10)
    assert fleet.choose(0.0, refusing, refused=[a, b]) is None


# -- Rests


def test_who_asks_for_less_rests() -> None:
    """For as long as it says, a minute at most; and counts as failed."""
    fleet = fleet_of(A, B)
    a, b = fleet.members.values()
    fleet.push_back(a, 0, 0.0, 0.001, 7.0)
    assert (0.7, 1.0) == (a.success, b.success)
    assert {B: 20} == asked(fleet, 20, now=6.9)
    assert A in flooded(fleet, 200, now=7.0)
    fleet.push_back(a, 0, 10.0, 0.001, 3600.0)
    assert 70.0 == a.resting_until
    fleet.push_back(a, 0, 10.0, 0.001, 1.0)
    assert 70.0 == a.resting_until
    fleet.push_back(b, 0, 10.0, 0.001, None)
    assert -math.inf == b.resting_until


def test_all_resting_are_asked_all_the_same() -> None:
    """No other endpoint is left."""
    fleet = fleet_of(A, B)
    for member in fleet.members.values():
        fleet.push_back(member, 0, 0.0, 0.001, 7.0)
    assert {A, B} == set(asked(fleet, 50, now=1.0))


def test_how_long_until_another_may_be_asked() -> None:
    """At once, if one is left that was not tried; else when the first may."""
    fleet = fleet_of(A, B, C)
    a, b, c = fleet.members.values()
    assert 0.0 == fleet.wait_for_another(a, [a], 0.0)
    assert fleet.wait_for_another(a, [a, b, c], 0.0) is None
    fleet.push_back(a, 0, 0.0, 0.001, 9.0)
    fleet.push_back(b, 0, 0.0, 0.001, 4.0)
    assert 0.0 == fleet.wait_for_another(a, [a, b], 1.0)
    assert 3.0 == fleet.wait_for_another(a, [a, b, c], 1.0)
    assert 8.0 == fleet.wait_for_another(b, [a, b, c], 1.0)


# -- Ejection


def test_who_fails_five_times_gets_no_calls() -> None:
    """For as long as is said."""
    fleet = fleet_of(A, B, C)
    fail(fleet, A, 5)
    (change,) = took(fleet)
    assert Ejected(fleet.members[A], "consecutive_failures", 1, 1) == change
    assert isinstance(change, Ejected)
    fleet.set_time(change, 6.0)
    assert {B, C} == set(asked(fleet, 100, now=5.9))
    assert A == send(fleet, 6.0, refusing).address


def test_a_third_is_ejected_at_most() -> None:
    """The candidate counted; the next one may when the first is back."""
    fleet = fleet_of(A, B, C)
    fail(fleet, A, 5)
    fail(fleet, B, 9)
    assert [A] == [change.member.address for change in took(fleet)]
    assert {B, C} == set(flooded(fleet, 1000))
    member = send(fleet, 5.0, refusing)
    fleet.succeed(member, member.era, 5.1, LATENCY)
    assert [Returned(member)] == took(fleet)
    fail(fleet, B, 1, 5.2)
    assert [B] == [change.member.address for change in took(fleet)]


@pytest.mark.parametrize(
    ("size", "allowed"), [(1, 0), (2, 0), (3, 1), (6, 2), (30, 10), (300, 100)]
)
def test_the_limit_is_the_whole_number_below(size: int, allowed: int) -> None:
    """A third of 3 is 1, though a third is no binary fraction."""
    fleet = fleet_of(*map(str, range(size)))
    for each in fleet.members:
        fail(fleet, each, 5)
    assert allowed == len(took(fleet))


def test_the_choice_goes_on_when_all_fail() -> None:
    """As if none were ejected; the set never refuses."""
    fleet = fleet_of(A, B, C)
    for each in (A, B, C):
        fail(fleet, each, 10)
    assert {B, C} == set(asked(fleet, 100, now=1.0))
    fleet.drain(B, 1.0, draining=True)
    fleet.drain(C, 1.0, draining=True)
    assert {A: 10} == asked(fleet, 10, now=1.0)


def test_one_probe_finds_out() -> None:
    """Of ten concurrent calls one; a good one brings it back at half."""
    fleet = fleet_of(A, B, C)
    succeed(fleet, B)
    fail(fleet, A, 5)
    got = [send(fleet, 5.0, Random(1).random).address for _ in range(10)]
    assert [A] == got[:1]
    assert A not in got[1:]
    member = fleet.members[A]
    assert EndpointState.PROBING is dict(fleet.look(5.0))[member]
    took(fleet)
    fleet.succeed(member, member.era, 5.1, LATENCY)
    assert [Returned(member)] == took(fleet)
    assert 0.5 == member.success
    assert A in flooded(fleet, 1000, now=5.1)


def test_a_bad_probe_is_the_last_for_longer() -> None:
    """It is out again at once."""
    fleet = fleet_of(A, B, C)
    fail(fleet, A, 5)
    took(fleet)
    member = send(fleet, 5.0, refusing)
    fleet.fail(member, member.era, 5.1, 0.001)
    (change,) = took(fleet)
    assert isinstance(change, Ejected)
    assert ("probe_failed", 2) == (change.reason, change.times)
    assert {B, C} == set(asked(fleet, 100, now=5.2))


def test_a_probe_that_is_cancelled_goes_to_the_next_call() -> None:
    """Or one that says nothing; one that was tried already leaves it."""
    fleet = fleet_of(A, B, C)
    fail(fleet, A, 5)
    member = send(fleet, 5.0, refusing)
    fleet.withdraw(member, member.era, 5.1)
    assert B == send(fleet, 5.1, drawing(0.0, 0.0), tried=[member]).address
    assert A == send(fleet, 5.1, refusing).address
    fleet.withdraw(fleet.members[B], 0, 5.1)


def test_a_probe_that_hangs_loses_its_lease() -> None:
    """And its outcome, when it comes, decides nothing."""
    fleet = fleet_of(A, B, C)
    fail(fleet, A, 5)
    member = send(fleet, 5.0, refusing)
    era = member.era
    took(fleet)
    assert A not in asked(fleet, 100, now=34.9)
    assert A not in asked(fleet, 100, now=35.0)
    (change,) = took(fleet)
    assert isinstance(change, Ejected)
    assert ("probe_overdue", 2) == (change.reason, change.times)
    fleet.succeed(member, era, 36.0, LATENCY)
    assert [] == took(fleet)


def test_outcomes_from_before_count_and_eject_none() -> None:
    """They are part of the average alone."""
    fleet = fleet_of(A, B, C)
    fail(fleet, A, 5)
    member = send(fleet, 5.0, refusing)
    fleet.succeed(member, member.era, 5.0, LATENCY)
    took(fleet)
    for _ in range(10):
        fleet.fail(member, 0, 5.0, 0.001)
    assert [] == took(fleet)
    assert member.success < 0.05


def test_pushback_is_a_sign_of_life() -> None:
    """It ejects no endpoint, and one that was out is back, to rest."""
    fleet = fleet_of(A, B, C)
    member = fleet.members[A]
    for _ in range(10):
        fleet.push_back(member, 0, 0.0, 0.001, None)
    assert [] == took(fleet)
    fail(fleet, A, 5)
    took(fleet)
    member = send(fleet, 5.0, refusing)
    fleet.push_back(member, member.era, 5.0, 0.001, 3.0)
    assert [Returned(member)] == took(fleet)
    assert EndpointState.RESTING is dict(fleet.look(5.0))[member]


def test_without_rules_none_is_ejected() -> None:
    """The weight alone falls."""
    fleet = fleet_of(A, B, C, eject=None)
    fail(fleet, A, 100)
    assert [] == took(fleet)
    assert fleet.members[A].ejection is None


def test_a_time_for_one_that_is_gone_changes_nothing() -> None:
    """It came back before the time of its ejection was set."""
    fleet = fleet_of(A, B, C)
    fail(fleet, A, 5)
    (change,) = took(fleet)
    fleet.reset(0.0)
    assert isinstance(change, Ejected)
    fleet.set_time(change, 60.0)
    assert A in asked(fleet, 100, now=0.0)


# -- Tickets


@pytest.mark.parametrize("load", ["latency", "round_robin"])
def test_a_ticket_has_the_member_that_counts_the_call(load: Load) -> None:
    """It leaves once, though it be told to twice."""
    for addresses in ((A,), (A, B)):
        fleet, ticket = fleet_of(*addresses, load=load), Ticket()
        member = fleet.choose(0.0, Random(1).random, (), (), ticket)
        assert member is not None
        assert member is ticket.member
        assert 1 == member.in_flight
        for _ in range(2):
            ticket.leave()
            assert (0, None) == (member.in_flight, ticket.member)


# -- Who is in the set


def test_who_stays_keeps_its_state() -> None:
    """Who leaves is sent nothing, who comes is told of."""
    fleet = fleet_of(A, B, C)
    succeed(fleet, A)
    fail(fleet, B, 3)
    _, b, c = fleet.members.values()
    joined, left = fleet.replace(
        [Listed(B, "b", 2.0), Listed(D, "d"), Listed(A, "a")], 1.0
    )
    assert ([D], [c]) == ([member.address for member in joined], left)
    assert b is fleet.members[B]
    assert ("b", 2.0) == (b.endpoint, b.weight)
    assert {A, B, D} == set(flooded(fleet, 500, now=1.0))


@pytest.mark.parametrize(("away", "known"), [(59.9, True), (60.0, False)])
def test_who_comes_back_soon_is_as_it_was(away: float, known: bool) -> None:
    """An ejection outlasts 59.9 s out of the set, and not 60 s."""
    fleet = fleet_of(A, B, C)
    fail(fleet, A, 5)
    member = fleet.members[A]
    fleet.replace([Listed(B, B), Listed(C, C)], 1.0)
    fleet.replace([Listed(each, each, 1.0) for each in (A, B, C)], 1.0 + away)
    assert known == (fleet.members[A] is member)
    assert known == fleet.members[A].is_out


def test_few_of_those_that_left_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A flood of new addresses takes no memory."""
    monkeypatch.setattr(fleet_machine, "_MOST_REMEMBERED", 2)
    fleet = fleet_of(A, B, C)
    first, last = fleet.members[A], fleet.members[C]
    fleet.replace([], 0.0)
    fleet.replace([Listed(A, A), Listed(C, C)], 0.0)
    assert first is not fleet.members[A]
    assert last is fleet.members[C]


def test_a_set_that_shrinks_has_those_back_that_are_too_many() -> None:
    """The one first that would be back first."""
    fleet = fleet_of(*"ABCDEF")
    fail(fleet, B, 5, now=1.0)
    fail(fleet, A, 5, now=2.0)
    took(fleet)
    fleet.replace([Listed(each, each, 1.0) for each in "ABCD"], 3.0)
    assert [B] == [change.member.address for change in took(fleet)]
    fleet.drain(D, 3.0, draining=True)
    fleet.drain(C, 3.0, draining=True)
    assert [A] == [change.member.address for change in took(fleet)]


def test_who_drains_or_has_left_is_not_ejected() -> None:
    """There is nothing to take it out of."""
    fleet = fleet_of(A, B, C, D)
    fleet.drain(A, 0.0, draining=True)
    gone = fleet.members[B]
    fleet.replace([Listed(each, each, 1.0) for each in (A, C, D)], 0.0)
    fail(fleet, A, 10)
    for _ in range(10):
        fleet.fail(gone, 0, 0.0, 0.001)
    assert [] == took(fleet)


def test_who_drains_gets_no_calls_though_it_be_the_last() -> None:
    """Until it is restored."""
    fleet = fleet_of(A, B)
    fleet.drain(A, 0.0, draining=True)
    assert {B: 20} == asked(fleet, 20)
    fleet.drain(B, 0.0, draining=True)
    assert fleet.choose(0.0, refusing) is None
    fleet.drain(A, 0.0, draining=False)
    assert {A: 20} == asked(fleet, 20)
    with pytest.raises(KeyError):
        fleet.drain("Z", 0.0, draining=True)


def test_each_stands_somewhere() -> None:
    """Draining before all else."""
    fleet = fleet_of(A, B, C, D)
    fail(fleet, A, 5)
    fleet.push_back(fleet.members[B], 0, 0.0, 0.001, 5)
    fleet.drain(C, 0.0, draining=True)
    states = {member.address: state.value for member, state in fleet.look(1.0)}
    assert {A: "ejected", B: "resting", C: "draining", D: "available"} == states


# -- Proportions


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=20),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
)
def test_two_places_are_always_two(
    weights: list[float], one: float, other: float
) -> None:
    """However unequal the weights, and whatever is drawn."""
    members = [Member(str(n), None, weight) for n, weight in enumerate(weights)]
    sums = running_sums(members)
    if sums is None:
        assert 1 == len(set(weights))
        return
    first = draw_place(sums, one)
    second = draw_other_place(sums, first, other)
    assert first != second
    assert {first, second} <= set(range(len(weights)))


def test_places_are_drawn_by_weight() -> None:
    """The first, and the second among those that are left."""
    members = [Member(each, None, w) for each, w in ((A, 1.0), (B, 2.0), (C, 1.0))]
    sums = running_sums(members)
    assert [1.0, 3.0, 4.0] == sums
    assert [0, 1, 1, 2] == [draw_place(sums, at) for at in (0, 0.25, 0.74, 0.75)]
    assert [0, 2] == [draw_other_place(sums, 1, at) for at in (0.49, 0.5)]
    assert [1, 2] == [draw_other_place(sums, 0, at) for at in (0.66, 0.67)]
    # The last that is drawable is the place itself, by rounding.
    tiny = running_sums([Member(A, None, 1.0), Member(B, None, 1e-30)])
    assert tiny is not None
    assert 1 == draw_other_place(tiny, 0, 0.0)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.floats(0, 0.999))
def test_turns_are_never_far_from_their_share(weights: list[int], start: float) -> None:
    """After each full round they are exactly as the weights say."""
    members = [Member(str(n), None, float(w)) for n, w in enumerate(weights)]
    turns: Turns[Member] = Turns()
    for _ in range(3):
        got = Counter(
            turns.next(members, lambda: start).address for _ in range(sum(weights))
        )
        assert {str(n): w for n, w in enumerate(weights)} == got


# -- Anything at all


class AnyFleet(RuleBasedStateMachine):
    """Calls come and end in any order while members come and go."""

    @initialize(
        load=st.sampled_from(["latency", "requests", "round_robin", "random"]),
        seed=st.integers(0, 1000),
    )
    def begin(self, load: Load, seed: int) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.fleet = fleet_of(*"ABCDEF", load=load)
        self.open: list[tuple[Member, int]] = []
        self.tried: list[Member] = []

    @rule(seconds=st.sampled_from([0.0, 0.01, 1.0, 10.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(fresh=st.booleans())
    def call(self, fresh: bool) -> None:
        if fresh:
            self.tried = []
        member = self.fleet.choose(self.now, self.random.random, self.tried)
        staying = [
            member for member in self.fleet.members.values() if not member.draining
        ]
        assert (member is None) == (not staying)
        if member is not None:
            assert member in staying
            self.open.append((member, member.era))
            self.tried.append(member)

    @rule(how=st.sampled_from(["good", "bad", "bad", "less", "nothing"]))
    def end(self, how: str) -> None:
        if not self.open:
            return
        member, era = self.open.pop(self.random.randrange(len(self.open)))
        self.fleet.leave(member)
        if how == "good":
            self.fleet.succeed(member, era, self.now, self.random.random())
        elif how == "bad":
            self.fleet.fail(member, era, self.now, self.random.random())
        elif how == "less":
            self.fleet.push_back(member, era, self.now, 0.1, 5.0)
        else:
            self.fleet.withdraw(member, era, self.now)

    @rule(address=st.sampled_from("ABCDEF"), times=st.integers(1, 6))
    def break_one(self, address: str, times: int) -> None:
        if address in self.fleet.members:
            fail(self.fleet, address, times, self.now)

    @rule(address=st.sampled_from("ABCDEF"), draining=st.booleans())
    def drain(self, address: str, draining: bool) -> None:
        if address in self.fleet.members:
            self.fleet.drain(address, self.now, draining=draining)

    @rule(addresses=st.sets(st.sampled_from("ABCDEF")))
    def replace(self, addresses: set[str]) -> None:
        self.fleet.replace([Listed(each, each) for each in sorted(addresses)], self.now)

    @invariant()
    def counts_are_exact(self) -> None:
        if not hasattr(self, "fleet"):
            return
        open_calls = Counter(id(member) for member, _ in self.open)
        for member in self.fleet.members.values():
            assert open_calls[id(member)] == member.in_flight
            assert 0.0 <= member.success <= 1.0

    @invariant()
    def no_more_than_a_third_is_out(self) -> None:
        if not hasattr(self, "fleet"):
            return
        staying = [
            member for member in self.fleet.members.values() if not member.draining
        ]
        assert sum(member.is_out for member in staying) <= len(staying) // 3


TestAnyFleet = AnyFleet.TestCase
TestAnyFleet.settings = settings(max_examples=60, stateful_step_count=60)


# -- Slow start


@pytest.mark.parametrize("load", ["round_robin", "random", "requests"])
def test_who_joins_comes_to_its_weight_by_steps(load: Load) -> None:
    """From a tenth; those that were there first, and one that is back, at once."""
    fleet = Fleet(load, None, slow_start=100.0)
    listed = [Listed(each, each, 2.0) for each in (A, B, C)]
    fleet.replace(listed[:2], 0.0)
    weights = lambda: [member.weight for member in fleet.members.values()]  # noqa: E731
    assert [1.0, 1.0] == weights()
    fleet.replace(listed, 50.0)
    assert [10.0, 10.0, 1.0] == pytest.approx(weights())
    draw = Random(1).random
    for now, share in ((55.0, 0.1), (80.0, 0.3), (150.0, 1.0), (900.0, 1.0)):
        counts = Counter[str]()
        for _ in range(2100):
            member = send(fleet, now, draw)
            counts[member.address] += 1
            fleet.leave(member)
        if load != "requests":
            assert share == pytest.approx(2 * counts[C] / (counts[A] + counts[B]), 0.2)
        assert [1.0, 1.0, share] == pytest.approx([w / weights()[0] for w in weights()])
    fleet.replace(listed[:2], 910.0)
    fleet.replace(listed, 920.0)
    assert [1.0, 1.0, 1.0] == weights()


def test_turns_follow_a_weight_that_falls() -> None:
    """At once: it need not make up for the turns that it has had."""
    fleet = fleet_of(A, B, weights=[3, 1], load="round_robin")
    counts = Counter[str]()
    for weight, total in ((3.0, 4), (1.0, 2), (5.0, 6)):
        fleet.replace([Listed(A, A, weight), Listed(B, B, 1.0)], 0.0)
        counts.clear()
        for _ in range(300 * total):
            member = send(fleet, 0.0, Random(1).random)
            counts[member.address] += 1
            fleet.leave(member)
        assert 300 == pytest.approx(counts[B], abs=1)


def test_without_a_slow_start_all_have_their_weights_at_once() -> None:
    """It is off by default."""
    fleet = fleet_of(A, B, weights=[1, 2])
    fleet.replace([Listed(A, A, 1.0), Listed(B, B, 2.0), Listed(C, C, 4.0)], 1.0)
    assert [1.0, 2.0, 4.0] == [member.weight for member in fleet.members.values()]


# -- Its bounds, one by one


def test_a_search_in_a_small_set_ends_with_the_set() -> None:
    """Three of which all fail: each is drawn once."""
    fleet = fleet_of(A, B, C, eject=None)
    for each in (A, B, C):
        fail(fleet, each, 10)
    fleet.members[A].in_flight = fleet.members[B].in_flight = 9
    assert C == send(fleet, 0.0, drawing(0.0, 0.0, 0.0)).address


def test_a_probe_delays_no_other_probe() -> None:
    """What is due while one is under way is found when it is due."""
    fleet = fleet_of(*"ABCDEF")
    fail(fleet, A, 5)
    fail(fleet, B, 5, 1.0)
    assert A == send(fleet, 5.0, refusing).address
    assert {A, B}.isdisjoint(asked(fleet, 50, now=5.9))
    assert B == send(fleet, 6.0, refusing).address


def test_a_good_check_has_one_that_is_out_probed_by_the_next_call() -> None:
    """Before its time; after it, as it would be anyway."""
    for now in (1.0, 7.0):
        fleet = Fleet("latency", Eject(), check=Check(bool))
        fleet.replace([Listed(each, each, 1.0) for each in (A, B, C)], 0.0)
        fail(fleet, A, 5)
        fleet.note_check(fleet.members[A], good=True, now=now)
        assert A == send(fleet, now, refusing).address
