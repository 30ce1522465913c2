"""RetryBudget: the object around the machine of the same name."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from resilient import RetryBudget
from resilient.testing import virtual_time


def test_it_starts_full() -> None:
    """Ten retries in hand, by default."""
    budget = RetryBudget()
    assert 10.0 == budget.balance
    assert budget.full


def test_successes_pay_in_up_to_the_capacity() -> None:
    """Ten successes are one retry; a full budget takes nothing more."""
    budget = RetryBudget(0.1, 2, 0)
    assert budget.withdraw()
    for _ in range(10):
        budget.deposit()
    assert budget.full
    budget.deposit()
    assert 2.0 == pytest.approx(budget.balance)


def test_time_trickles_in() -> None:
    """A client whose every call fails tries again some day."""
    with virtual_time() as clock:
        budget = RetryBudget(0, 1, 0.1)
        assert budget.withdraw()
        assert not budget.withdraw()
        clock.advance(10)
        assert budget.withdraw()


def test_reset_fills_it() -> None:
    """With the numbers it was made with."""
    budget = RetryBudget(0.5, 3, 0)
    assert budget.withdraw(3)
    assert not budget.full
    budget.reset()
    assert budget.full
    assert "RetryBudget(0.5, 3, 0)" == repr(budget)


@pytest.mark.parametrize(
    ("parameter", "value", "kind"),
    [
        ("ratio", -0.1, ValueError),
        ("ratio", True, TypeError),
        ("capacity", 0, ValueError),
        ("capacity", "ten", TypeError),
        ("per_second", float("nan"), ValueError),
    ],
)
def test_bad_arguments_are_refused(
    parameter: str, value: Any, kind: type[Exception]
) -> None:
    """By name, rule and value."""
    with pytest.raises(kind, match=f"`{parameter}` must be"):
        RetryBudget(**{parameter: value})


@pytest.mark.real
def test_of_fifty_threads_one_wins_the_last_token() -> None:
    """Fifty at once, one retry left: exactly one may."""
    for _ in range(20):
        budget = RetryBudget(0, 1, 0)
        barrier = threading.Barrier(50)
        won: list[bool] = []

        def take(
            budget: RetryBudget = budget,
            barrier: threading.Barrier = barrier,
            won: list[bool] = won,
        ) -> None:
            barrier.wait()
            won.append(budget.withdraw())

        threads = [threading.Thread(target=take) for _ in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 == sum(won)
        assert 50 == len(won)
        assert 0.0 == budget.balance
