"""Turns and places in proportion to weights."""

from __future__ import annotations

from collections import Counter

import pytest

from resilient._machines.proportions import Turns, draw_place, running_sums


class Member:
    """Something with a weight."""

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.turns = 0


@pytest.mark.parametrize(
    ("weights", "sums"),
    [([2.0], None), ([2.0, 2.0], None), ([1.0, 3.0], [1.0, 4.0])],
)
def test_there_are_sums_where_weights_differ(
    weights: list[float], sums: list[float] | None
) -> None:
    """Equal ones need none: any place is as good."""
    assert sums == running_sums([Member("a", weight) for weight in weights])


def test_one_that_joins_later_makes_up_for_nothing() -> None:
    """It takes its share from now on, by its weight."""
    turns: Turns[Member] = Turns()
    pool = [Member("a", 1.0), Member("b", 4.0)]
    for _ in range(50):
        turns.next(pool, lambda: 0.0)
    turns.interrupt()
    pool.append(Member("c", 4.0))
    given = Counter(turns.next(pool, lambda: 0.0).name for _ in range(90))
    assert {"a": 10, "b": 40, "c": 40} == pytest.approx(given, abs=1)


def test_a_turn_that_was_had_is_not_had_again_in_another_line() -> None:
    """Nor is one lost that is due: two of four had theirs, and are behind."""
    turns: Turns[Member] = Turns()
    pool = [Member(name, 1.0) for name in "abcd"]
    assert "ab" == "".join(turns.next(pool, lambda: 0.0).name for _ in range(2))
    turns.interrupt()
    given = "".join(turns.next(pool, lambda: 0.0).name for _ in range(6))
    assert "cdabcd" == given


def test_a_place_is_one_of_those_there_are_however_small_the_weights() -> None:
    """The product with the largest number below 1 may round up to the whole."""
    assert 1 == draw_place([5e-324, 1e-323], 1 - 2**-53)
