"""`choose`: which numbers are best, and which cannot be told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from resilient import Pipeline, Retry, Timeout, TimeoutExceededError
from resilient.simulation import (
    Dependency,
    Scenario,
    choose,
    constant_time,
    uniform_time,
)
from resilient.simulation._change import present
from resilient.simulation._choose import ROUNDS

FLAKY = Scenario(
    "flaky",
    rate=10,
    duration=10,
    clients=1,
    dependency=Dependency(servers=None, service=constant_time(0.1), failures=0.3),
)
SLOW = Scenario(
    "slow",
    rate=10,
    duration=10,
    clients=1,
    dependency=Dependency(servers=None, service=uniform_time(0.1, 0.5)),
)
PIPELINE = Pipeline(
    Retry(ConnectionError, TimeoutExceededError, attempts=3, budget=None), Timeout(0.3)
)


def test_the_best_numbers_are_found() -> None:
    """What answers more than it costs, and nothing that does not."""
    shares: list[float] = []
    over = {"timeout.seconds": [0.05, 0.2, 0.6], "retry.attempts": [1, 4]}
    found = choose(PIPELINE, FLAKY, over, progress=shares.append)
    best = found[0]

    assert 4 == best.changes["retry.attempts"]
    assert best.is_equal
    assert best.worse_by == (0.0, 0.0)
    assert 0.8 < best.score < 0.9
    assert 4 == present(best.policy, "retry.attempts")
    assert shares == sorted(shares)
    assert 1.0 == shares[-1]
    assert 3 == len(found)


def test_what_makes_no_difference_is_said_to_be_equal() -> None:
    """The one nearest to the present numbers comes first."""
    found = choose(PIPELINE, FLAKY, {"timeout.seconds": [9, 2, 0.5]})

    assert [True] * 3 == [setting.is_equal for setting in found]
    assert [0.5, 2, 9] == [setting.changes["timeout.seconds"] for setting in found]
    assert "timeout.seconds=0.5: 0." in str(found[0])
    assert "no difference to the best (+0.0000 to +0.0000)" in str(found[0])


def test_what_is_worse_is_told_by_how_much() -> None:
    """From and to, of seeds that both have met."""
    over = {"timeout.seconds": [0.2, 0.6], "retry.attempts": [1]}
    best, worse = choose(PIPELINE, SLOW, over)
    low, high = worse.worse_by

    assert 0.6 == best.changes["timeout.seconds"]
    assert not worse.is_equal
    assert 0.5 < low < best.score - worse.score < high < 0.9
    assert "worse than the best (+0." in str(worse)


def test_several_scenarios_count_alike() -> None:
    """Together they ask for a timeout that is long, and for retries."""
    over = {"timeout.seconds": [0.2, 0.6], "retry.attempts": [1, 4]}
    best = choose(PIPELINE, [FLAKY, SLOW], over, objective=lambda r: r.goodput)[0]

    assert {"timeout.seconds": 0.6, "retry.attempts": 4} == best.changes


def test_a_value_that_is_no_number_is_another_one() -> None:
    """As far away as any other."""
    over: dict[str, Any] = {"timeout.seconds": [None, 0.3, 0.31]}
    found = choose(Timeout(0.3), FLAKY, over)

    assert [0.3, 0.31, None] == [each.changes["timeout.seconds"] for each in found]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: choose(PIPELINE, [], {"timeout.seconds": [1]}),
            "`scenarios` must have at least one scenario, got none",
        ),
        (
            lambda: choose(PIPELINE, "tail", {"timeout.seconds": range(1, 101)}),
            "`over` has 100 settings, which take 216 runs, and `budget` is 200",
        ),
        (
            lambda: choose(PIPELINE, FLAKY, {"timeout.second": [1]}),
            "`timeout.second`: no parameter is 'second': did you mean 'seconds'?",
        ),
    ],
)
def test_a_wrong_argument_is_refused(call: Callable[[], object], text: str) -> None:
    """Before anything is run."""
    with pytest.raises(ValueError) as caught:
        call()

    assert text == str(caught.value)
    assert 7 == sum(map(len, ROUNDS))
