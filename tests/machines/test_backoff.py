"""Backoff: formulas, caps, jitter, and what is refused."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import random
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient._machines import backoff as module
from resilient._machines.backoff import (
    Backoff,
    constant,
    decorrelated,
    delays,
    exponential,
    linear,
)

LOWEST = 0.0
MIDDLE = 0.5
HIGHEST = math.nextafter(1.0, 0.0)

EVERY_KIND: list[Backoff] = [
    constant(2.0),
    constant(2.0, jitter=0.25),
    linear(0.5, step=0.25, cap=4.0),
    exponential(),
    exponential(0.1, cap=30.0, jitter="equal", pushback_base=3.0),
    exponential(0.5, factor=1.7, cap=9, jitter=0.3),
    decorrelated(0.1, cap=5.0),
    delays([0.1, 1.0, 4.0]),
]


def drawing(value: float) -> Callable[[], float]:
    """Return a source of randomness that always gives `value`."""
    return lambda: value


def forbidden() -> float:
    """Stand for a source that must not be asked."""
    raise AssertionError("no randomness is needed here")


def waits(backoff: Backoff, draw: Callable[[], float], attempts: int) -> list[float]:
    """Return the waits after the first `attempts` failures."""
    return [backoff.delay(attempt, draw) for attempt in range(1, attempts + 1)]


def test_constant_waits_the_same_time_and_draws_nothing() -> None:
    """A constant is one unless jitter is asked for."""
    assert [1.5] * 4 == waits(constant(1.5), forbidden, 4)
    assert [0.0] * 2 == waits(constant(timedelta(0)), forbidden, 2)


def test_linear_grows_by_its_step_up_to_its_cap() -> None:
    """base, base + step, base + 2 step, … cap."""
    backoff = linear(1.0, step=0.5, cap=2.25, jitter="none")
    assert [1.0, 1.5, 2.0, 2.25, 2.25] == waits(backoff, forbidden, 5)


def test_exponential_grows_by_its_factor_up_to_its_cap() -> None:
    """base, base × factor, base × factor², … cap."""
    backoff = exponential(0.5, factor=3.0, cap=10.0, jitter="none")
    assert [0.5, 1.5, 4.5, 10.0, 10.0] == waits(backoff, forbidden, 5)


def test_a_factor_of_one_never_grows() -> None:
    """Also after very many attempts."""
    backoff = exponential(0.5, factor=1, jitter="none")
    assert 0.5 == backoff.delay(10**9, forbidden)


def test_delays_repeat_their_last_value() -> None:
    """The list is the whole truth, without jitter."""
    backoff = delays(iter([0.1, timedelta(seconds=2), 3]))
    assert [0.1, 2.0, 3.0, 3.0, 3.0] == waits(backoff, forbidden, 5)


@pytest.mark.parametrize(
    ("draw", "expected"), [(LOWEST, 0.0), (MIDDLE, 2.0), (0.75, 3.0)]
)
def test_full_jitter_is_between_nothing_and_the_wait(
    draw: float, expected: float
) -> None:
    """U(0, d)."""
    assert expected == exponential(4.0).delay(1, drawing(draw))
    assert expected == linear(4.0, step=1, cap=9).delay(1, drawing(draw))


@pytest.mark.parametrize(
    ("draw", "expected"), [(LOWEST, 2.0), (MIDDLE, 3.0), (0.75, 3.5)]
)
def test_equal_jitter_keeps_half_of_the_wait(draw: float, expected: float) -> None:
    """d/2 + U(0, d/2)."""
    assert expected == exponential(4.0, jitter="equal").delay(1, drawing(draw))


@pytest.mark.parametrize(
    ("draw", "expected"), [(LOWEST, 3.0), (MIDDLE, 4.0), (0.75, 4.5)]
)
def test_a_share_of_jitter_goes_both_ways(draw: float, expected: float) -> None:
    """U(d × (1 - s), d × (1 + s))."""
    assert expected == constant(4.0, jitter=0.25).delay(1, drawing(draw))


def test_the_cap_holds_after_jitter() -> None:
    """Exponential 1 s, cap 10 s, ± 25 %: never above 10 s."""
    backoff = exponential(1.0, cap=10.0, jitter=0.25)
    assert 10.0 >= backoff.delay(10, drawing(HIGHEST))
    assert 7.5 == backoff.delay(10, drawing(LOWEST))


def test_the_cap_cuts_the_range_and_not_the_draw() -> None:
    """At the cap clients still come back at different times."""
    backoff = exponential(1.0, cap=10.0, jitter=0.25)
    draws = [0.5, 0.6, 0.7, 0.8, 0.9, 0.99]
    assert len(draws) == len({backoff.delay(10, drawing(draw)) for draw in draws})


@pytest.mark.parametrize("backoff", EVERY_KIND, ids=repr)
@pytest.mark.parametrize("attempt", [5000, 10**9])
def test_no_attempt_number_overflows(backoff: Backoff, attempt: int) -> None:
    """The billionth attempt waits for a finite time too."""
    for pushback in (False, True):
        wait = backoff.delay(attempt, drawing(HIGHEST), pushback=pushback)
        assert 0.0 < wait <= getattr(backoff, "cap", 4.0)


def test_decorrelated_draws_up_to_three_times_the_wait_before() -> None:
    """U(base, 3 × previous), and then the cap."""
    backoff = decorrelated(1.0, cap=20.0)
    assert 1.0 == backoff.delay(2, drawing(LOWEST), previous=5.0)
    assert 8.0 == backoff.delay(2, drawing(MIDDLE), previous=5.0)
    assert 20.0 == backoff.delay(2, drawing(HIGHEST), previous=9.0)


def test_decorrelated_begins_at_its_base() -> None:
    """The wait before the first one counts as the base."""
    backoff = decorrelated(1.0, cap=20.0)
    assert 2.0 == backoff.delay(1, drawing(MIDDLE))
    # A server's Retry-After may have been shorter than our base.
    assert 1.0 == backoff.delay(2, drawing(MIDDLE), previous=0.0)


def test_decorrelated_without_a_wait_before_draws_the_chain() -> None:
    """As a plain function of the attempt it grows all the same."""
    backoff = decorrelated(1.0, cap=100.0)
    seeded = random.Random(7)
    before: float | None = None
    for attempt in range(1, 6):
        before = backoff.delay(attempt, seeded.random, previous=before)
    assert before == backoff.delay(5, random.Random(7).random)


def test_a_pushback_begins_further_off() -> None:
    """A server that asks for less is left alone for longer."""
    backoff = exponential(0.1, jitter="none")
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 20.0] == [
        backoff.delay(attempt, forbidden, pushback=True) for attempt in range(1, 7)
    ]


def test_a_pushback_never_begins_nearer() -> None:
    """A base above the pushback's stays, and so does the cap."""
    slow = exponential(5.0, jitter="none")
    assert 5.0 == slow.delay(1, forbidden, pushback=True)
    capped = exponential(0.1, cap=0.5, jitter="none")
    assert 0.5 == capped.delay(1, forbidden, pushback=True)


@pytest.mark.parametrize("backoff", EVERY_KIND, ids=repr)
def test_other_kinds_know_no_pushback(backoff: Backoff) -> None:
    """Only `exponential` has a base for it."""
    usual = backoff.delay(3, drawing(MIDDLE))
    pushed = backoff.delay(3, drawing(MIDDLE), pushback=True)
    assert repr(backoff).startswith("exponential") == (usual < pushed)


@pytest.mark.parametrize("backoff", EVERY_KIND, ids=repr)
def test_the_same_seed_gives_the_same_waits(backoff: Backoff) -> None:
    """Nothing but the source handed in is random."""
    first = waits(backoff, random.Random(65).random, 20)
    assert first == waits(backoff, random.Random(65).random, 20)


def test_a_backoff_is_also_a_function_of_the_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It then draws from the source that the module names at that time."""
    monkeypatch.setattr(module, "random_source", drawing(MIDDLE))
    assert 0.4 == exponential(0.2)(3)
    monkeypatch.setattr(module, "random_source", drawing(LOWEST))
    assert 0.0 == exponential(0.2)(3)


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_are_counted_from_one(attempt: int) -> None:
    """There is no wait before the first attempt."""
    with pytest.raises(ValueError, match=rf"^`attempt` must be >= 1, got {attempt}$"):
        constant(1)(attempt)


@pytest.mark.parametrize(
    ("text", "backoff"),
    [
        ("constant(1.0)", constant(1)),
        ("constant(1.0, jitter=0.25)", constant(1, jitter=0.25)),
        ("linear(1.0, step=2.0, cap=9.0)", linear(1, step=2, cap=9)),
        (
            "linear(1.0, step=2.0, cap=9.0, jitter='none')",
            linear(1, step=2, cap=9, jitter="none"),
        ),
        ("exponential(0.1, cap=20.0)", exponential()),
        (
            "exponential(5.0, factor=3.0, cap=60.0, jitter=0.2, pushback_base=2.0)",
            exponential(5, factor=3, cap=60, jitter=0.2, pushback_base=2),
        ),
        ("decorrelated(0.1, cap=5.0)", decorrelated(0.1, cap=5)),
        ("delays([0.0, 0.5])", delays([0, 0.5])),
    ],
)
def test_repr_reads_like_the_call_that_made_it(text: str, backoff: Backoff) -> None:
    """And evaluates to an equal one."""
    assert text == repr(backoff)
    assert backoff == eval(text)


@pytest.mark.parametrize("backoff", EVERY_KIND, ids=repr)
def test_a_backoff_is_a_value(backoff: Backoff) -> None:
    """It cannot be changed; copies and pickles are equal and hash alike."""
    assert backoff == pickle.loads(pickle.dumps(backoff))
    assert hash(backoff) == hash(copy.deepcopy(backoff))
    with pytest.raises(AttributeError):
        backoff.cap = 1.0  # type: ignore[attr-defined]  # what is refused


def endless() -> Iterator[float]:
    """Give 1.0 for ever."""
    return itertools.repeat(1.0)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: constant(-1), ValueError, "`delay` must be >= 0 seconds, got -1"),
        (
            lambda: constant(True),
            TypeError,
            "`delay` must be seconds (int, float) or a timedelta, got True",
        ),
        (
            lambda: linear(1, step=-1, cap=5),
            ValueError,
            "`step` must be >= 0 seconds, got -1",
        ),
        (
            lambda: linear(6, step=1, cap=5),
            ValueError,
            "`cap` must be >= `base` (6 seconds), got 5",
        ),
        (lambda: exponential(0), ValueError, "`base` must be > 0 seconds, got 0"),
        (
            lambda: exponential(factor=0.5),
            ValueError,
            "`factor` must be >= 1, got 0.5",
        ),
        (
            lambda: exponential(30),
            ValueError,
            "`cap` must be >= `base` (30 seconds), got 20.0",
        ),
        (
            lambda: exponential(cap=math.inf),
            ValueError,
            "`cap` must be a finite time in seconds, got inf",
        ),
        (
            lambda: exponential(cap=math.nan),
            ValueError,
            "`cap` must be >= 0 seconds, got nan",
        ),
        (
            lambda: exponential(pushback_base=0),
            ValueError,
            "`pushback_base` must be > 0 seconds, got 0",
        ),
        (
            lambda: decorrelated(0.0, cap=1),
            ValueError,
            "`base` must be > 0 seconds, got 0.0",
        ),
        (
            lambda: decorrelated(2, cap=1),
            ValueError,
            "`cap` must be >= `base` (2 seconds), got 1",
        ),
        (
            lambda: delays([]),
            ValueError,
            "`delays` must have at least 1 value, got none",
        ),
        (
            lambda: delays(endless()),
            ValueError,
            "`delays` must have at most 1000 values, got more",
        ),
        (
            lambda: delays([1, -2]),
            ValueError,
            "`delays[1]` must be >= 0 seconds, got -2",
        ),
        (
            lambda: delays([1, None]),
            TypeError,
            "`delays[1]` must be seconds (int, float) or a timedelta, got None",
        ),
    ],
)
def test_senseless_parameters_are_refused(
    make: Callable[[], Backoff], error: type[Exception], text: str
) -> None:
    """Each refusal names the parameter, the rule and the value."""
    with pytest.raises(error) as caught:
        make()
    assert text == str(caught.value)


@pytest.mark.parametrize("value", [5, "12", b"34", {1, 2}, {1: 2}])
def test_delays_come_in_an_order(value: Any) -> None:
    """Text, sets and mappings are iterable by mistake only."""
    with pytest.raises(TypeError, match=r"^`delays` must be a sequence of seconds"):
        delays(value)


@pytest.mark.parametrize(
    ("jitter", "error"),
    [
        ("half", ValueError),
        (0, ValueError),
        (1.0, ValueError),
        (-0.1, ValueError),
        (math.nan, ValueError),
        (True, TypeError),
        (None, TypeError),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        lambda jitter: constant(1, jitter=jitter),
        lambda jitter: linear(1, step=1, cap=2, jitter=jitter),
        lambda jitter: exponential(jitter=jitter),
    ],
    ids=["constant", "linear", "exponential"],
)
def test_unknown_jitter_is_refused(
    make: Callable[[Any], Backoff], jitter: Any, error: type[Exception]
) -> None:
    """Three words, or a share that is neither nothing nor everything."""
    with pytest.raises(error) as caught:
        make(jitter)
    assert (
        "`jitter` must be 'full', 'equal', 'none' or a share between 0 and 1,"
        f" got {jitter!r}"
    ) == str(caught.value)


@settings(deadline=None, derandomize=True)
@given(
    base=st.floats(1e-9, 1e6),
    factor=st.floats(1, 1e6),
    spare=st.floats(0, 1e6),
    jitter=st.sampled_from(["full", "equal", "none", 0.1, 0.999]),
    attempt=st.integers(1, 10**9),
    draw=st.floats(0, 1, exclude_max=True),
    pushback=st.booleans(),
)
def test_whatever_is_drawn_stays_within_zero_and_the_cap(
    base: float,
    factor: float,
    spare: float,
    jitter: Any,
    attempt: int,
    draw: float,
    pushback: bool,
) -> None:
    """No rounding lifts a wait above its cap."""
    cap = base + spare
    for backoff in (
        exponential(base, factor=factor, cap=cap, jitter=jitter),
        linear(base, step=factor, cap=cap, jitter=jitter),
        decorrelated(base, cap=cap),
    ):
        assert 0 <= backoff.delay(attempt, drawing(draw), pushback=pushback) <= cap


def test_a_thousand_delays_are_not_too_many() -> None:
    """One more would be."""
    assert delays([1.0] * 1000) == delays([1.0] * 1000)
    with pytest.raises(ValueError, match="at most 1000 values, got more"):
        delays([1.0] * 1001)
