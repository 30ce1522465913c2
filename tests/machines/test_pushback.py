"""What passes after a server asked for less, by hand-fed readings of the clock."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient._machines.pushback import LARGEST_COST, Pushback


def pass_all(line: Pushback, now: float, until: float, calls: int) -> list[float]:
    """Let calls pass as soon as they may, each answered at once; return when."""
    passed: list[float] = []
    while calls > 0:
        wait = line.try_take(now)
        if wait:
            now += wait
            if now >= until:
                break
            continue
        passed.append(now)
        calls -= 1
        line.took(now, line.era, calls)
    return passed


def test_nothing_passes_until_the_server_takes_calls_again() -> None:
    """Then one call, and one more a second while it has no answer."""
    line = Pushback()
    line.push_back(10.0, 5.0, None)
    assert 5.0 == pytest.approx(line.try_take(10.0))
    assert 0.0 >= line.level(12.0)
    assert 0.0 == line.try_take(15.0)
    assert 1.0 == pytest.approx(line.try_take(15.0))
    assert 0.0 == line.try_take(16.0)
    line.took(16.5, line.era, 1)
    assert line.level(20.0) == pytest.approx(LARGEST_COST)


def test_the_longest_wait_counts_of_calls_that_were_refused_together() -> None:
    """One that was sent before says no more, once another era has begun."""
    line = Pushback()
    line.push_back(0.0, 5.0, None)
    line.push_back(0.1, 2.0, None)
    assert 5.0 == pytest.approx(line.wait(0.0))
    line.push_back(0.2, 9.8, None)
    assert 10.0 == pytest.approx(line.wait(0.0))
    assert 1 == line.era
    line.took(1.0, 0, 0)
    assert 9.0 == pytest.approx(line.wait(1.0))


def test_a_lost_probe_is_followed_by_another_at_once() -> None:
    """Not one of an earlier era, nor once the line is open."""
    line = Pushback()
    line.push_back(0.0, 1.0, None)
    assert 0.0 == line.try_take(1.0)
    line.lost(1.2, 0)
    assert line.wait(1.2) == pytest.approx(0.8)
    line.lost(1.2, line.era)
    assert 0.0 == line.wait(1.2)
    line.took(1.3, line.era, 0)
    line.lost(1.3, line.era)
    assert 0.0 == line.wait(2.3)


def test_those_that_wait_are_spread_over_as_long_a_time() -> None:
    """And go faster with each that the server takes."""
    line = Pushback()
    line.push_back(0.0, 10.0, None)
    passed = pass_all(line, 0.0, math.inf, 21)
    gaps = [later - before for before, later in itertools.pairwise(passed)]
    assert 10.0 == pytest.approx(passed[0])
    assert gaps[1:] == sorted(gaps[1:], reverse=True)
    assert 15.0 < passed[-1] < 20.0


def test_what_the_server_took_is_the_pace_from_then_on() -> None:
    """It grows by three hundredths in each time as long as the server's wait."""
    line = Pushback()
    line.push_back(0.0, 2.0, None)
    pass_all(line, 0.0, math.inf, 30)
    # It refused the next one: thirty in about two seconds are known.
    line.push_back(4.0, 2.0, line.era)
    assert 2 == line.era
    passed = pass_all(line, 4.0, 8.0, 1000)
    assert 6.0 == pytest.approx(passed[0])
    assert 24 < len(passed) < 36
    line.push_back(8.0, 2.0, line.era)
    passed = pass_all(line, 8.0, 110.0, 10_000)
    first = sum(one < 20.0 for one in passed)
    last = sum(one >= 100.0 for one in passed)
    assert last == pytest.approx(first * 1.03**45, rel=0.2)


@given(
    waiting=st.integers(0, 10**6),
    wait=st.floats(1e-9, 1e9),
    calls=st.integers(1, 50),
)
def test_no_number_is_too_large(waiting: int, wait: float, calls: int) -> None:
    """A pace is a positive number of calls, at most a thousand a second."""
    line = Pushback()
    now = 0.0
    for _ in range(2):
        line.push_back(now, wait, line.era)
        for _ in range(calls):
            now += line.wait(now)
            line.take(now, 1.0)
            line.took(now, line.era, waiting)
            assert 0.0 < line.pace.rate <= 1000.0


@given(
    now=st.floats(0, 1e9), wait=st.floats(1e-6, 1e6), amount=st.floats(0, LARGEST_COST)
)
def test_a_wait_that_was_answered_is_enough(
    now: float, wait: float, amount: float
) -> None:
    """A caller that sleeps so long passes."""
    line = Pushback()
    line.push_back(now, wait, None)
    assert 0.0 == line.try_take(now + line.wait(now, amount), amount)


def test_an_era_longer_than_the_wait_is_the_time_that_calls_were_taken_in() -> None:
    """Twenty in ten seconds are two a second, whatever the server asks for."""
    line = Pushback()
    line.push_back(0.0, 1.0, None)
    for second in range(20):
        line.took(second / 2, line.era, 1)
    line.push_back(10.0, 1.0, line.era)
    line.took(11.0, line.era, 1)
    assert 2.0 == pytest.approx(line.pace.per_second)


def test_what_is_taken_all_the_same_shortens_no_wait() -> None:
    """A call whose cost comes later; and it is seen as a debt meanwhile."""
    line = Pushback()
    line.push_back(0.0, 60.0, None)
    assert 0.0 == line.level(0.0)
    line.take(0.0, LARGEST_COST + 2.0)
    assert -2.0 == pytest.approx(line.level(0.0))
    assert line.wait(1.0) > 58.9
