"""The retry budget: what successes pay in, what retries take out."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient._machines.budget import Budget, reserve_for
from resilient._values.priority import Priority


def test_a_budget_starts_full() -> None:
    """A young process may retry, up to the capacity and no further."""
    budget = Budget(0.1, capacity=3, per_second=0.0)
    assert 3.0 == budget.balance(100.0)
    assert [True, True, True, False] == [budget.withdraw(100.0) for _ in range(4)]
    assert 0.0 == budget.balance(100.0)


def test_fifty_withdrawals_of_the_last_token_have_one_winner() -> None:
    """A token is there once, however many ask at the same moment."""
    budget = Budget(0.1, capacity=1, per_second=0.1)
    assert 1 == sum(budget.withdraw(7.0) for _ in range(50))


def test_ten_successes_pay_one_retry() -> None:
    """Ten times 0.1 is one, whatever floating point makes of it."""
    budget = Budget(0.1, capacity=1, per_second=0.0)
    assert budget.withdraw(0.0)
    for _ in range(9):
        budget.deposit()
    assert not budget.withdraw(0.0)
    budget.deposit()
    assert budget.withdraw(0.0)
    assert 0.0 == budget.balance(0.0)


def test_successes_never_fill_above_the_capacity() -> None:
    """A good hour cannot pay for more than one capacity of retries."""
    budget = Budget(0.3, capacity=2, per_second=0.0)
    budget.withdraw(0.0, 0.4)
    for _ in range(1000):
        budget.deposit()
    assert 2.0 == budget.balance(0.0)


def test_time_pays_in_a_trickle() -> None:
    """A client whose calls all fail tries again some day."""
    budget = Budget(0.1, capacity=2, per_second=0.5)
    assert budget.withdraw(10.0, 2.0)
    assert 0.5 == budget.balance(11.0)
    assert not budget.withdraw(11.0)
    assert budget.withdraw(12.0)
    assert not budget.withdraw(12.0)
    assert 2.0 == budget.balance(3612.0)


def test_an_older_reading_pays_nothing_twice() -> None:
    """Threads may come with readings in the wrong order."""
    budget = Budget(0.1, capacity=2, per_second=1.0)
    assert budget.withdraw(10.0, 2.0)
    assert not budget.withdraw(10.5)
    assert not budget.withdraw(9.0)
    assert 0.5 == budget.balance(9.0)
    assert not budget.withdraw(10.75)


def test_a_rounding_error_refuses_nothing() -> None:
    """What is short by a billionth is enough, to the last digit of it."""
    budget = Budget(0.1, 10.0, 0.0)
    assert budget.withdraw(0.0, 10.0 + 1e-9)
    assert 0.0 == budget.saved
    assert not Budget(0.1, 10.0, 0.0).withdraw(0.0, 10.0 + 2e-9)


def test_a_refusal_takes_nothing() -> None:
    """What was not enough is still there afterwards."""
    budget = Budget(0.1, capacity=2, per_second=0.0)
    assert not budget.withdraw(0.0, 3.0)
    assert 2.0 == budget.balance(0.0)


@pytest.mark.parametrize(
    ("priority", "capacity", "spent"),
    [
        (Priority.CRITICAL, 10, 10),
        (Priority.NORMAL, 10, 10),
        (Priority.SHEDDABLE, 8, 6),
        (Priority.SHEDDABLE, 1, 1),
        (Priority.BATCH, 10, 5),
        (Priority.BATCH, 2, 1),
        (Priority.BATCH, 1, 0),
    ],
)
def test_what_matters_less_leaves_a_part_of_it(
    priority: Priority, capacity: float, spent: int
) -> None:
    """A quarter, or half and at least one retry; the others have all of it."""
    budget = Budget(0.1, capacity, per_second=0.0)
    assert spent == sum(budget.withdraw(0.0, 1.0, priority) for _ in range(20))
    assert capacity - spent == sum(budget.withdraw(0.0) for _ in range(20))


def test_a_class_that_is_alone_spends_all_that_successes_pay_in() -> None:
    """What it leaves alone is left once, not again and again."""
    budget = Budget(0.1, per_second=0.0)
    while budget.withdraw(0.0, 1.0, Priority.BATCH):
        pass
    spent = 0
    for _ in range(1000):
        budget.deposit()
        spent += budget.withdraw(0.0, 1.0, Priority.BATCH)
    assert 100 == spent


def test_a_total_outage_costs_the_capacity_and_the_trickle_alone() -> None:
    """Without successes retries stop, whatever the traffic."""
    budget = Budget()
    paid = sum(budget.withdraw(1000.0 + n / 280) for n in range(2800))
    assert 10 == paid  # the trickle of ten seconds makes the eleventh


def test_nine_percent_of_errors_can_be_sustained_and_more_cannot() -> None:
    """One retry in ten successes is what the default allows for ever."""

    def refused(every: int) -> int:
        budget = Budget(per_second=0.0)
        refusals = 0
        for number in range(10_000):
            if number % every == 0:
                refusals += not budget.withdraw(0.0)
            else:
                budget.deposit()
        return refusals

    assert 0 == refused(every=11)
    assert refused(every=9) > 0


def test_repr_reads_like_the_call_that_made_it() -> None:
    """The parameters, with the names that one would write."""
    assert "Budget(0.1, capacity=10, per_second=0.1)" == repr(Budget())


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Budget(-0.1), ValueError, "`ratio` must be >= 0, got -0.1"),
        (lambda: Budget(math.nan), ValueError, "`ratio` must be >= 0, got nan"),
        (lambda: Budget(True), TypeError, "`ratio` must be a number, got True"),
        (lambda: Budget(capacity=0.5), ValueError, "`capacity` must be >= 1, got 0.5"),
        (
            lambda: Budget(per_second=math.inf),
            ValueError,
            "`per_second` must be finite, got inf",
        ),
    ],
)
def test_senseless_budgets_are_refused(
    make: Callable[[], Budget], error: type[Exception], text: str
) -> None:
    """Each refusal names the parameter, the rule and the value."""
    with pytest.raises(error) as caught:
        make()
    assert text == str(caught.value)


class BudgetAgainstLedger(RuleBasedStateMachine):
    """The budget against a ledger that is added up from the start each time.

    The ledger clips after every entry and pays the trickle at each of them,
    in exact fractions; the budget does so only when it must.
    """

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(0.25, capacity=4, per_second=0.5)
        self.now = 64.0
        self.ledger: list[tuple[float, Fraction]] = []

    def _saved(self) -> Fraction:
        saved, last = Fraction(4), 0.0
        for when, change in [*self.ledger, (self.now, Fraction(0))]:
            saved = min(Fraction(4), saved + Fraction(when - last) / 2)
            saved = min(Fraction(4), saved + change)
            last = when
        return saved

    @rule(seconds=st.integers(0, 80).map(lambda eighths: eighths / 8))
    def time_passes(self, seconds: float) -> None:
        """Let the trickle run."""
        self.now += seconds

    @precondition(lambda self: len(self.ledger) < 60)
    @rule(times=st.integers(1, 5))
    def succeed(self, times: int) -> None:
        """Deposit for some successes."""
        for _ in range(times):
            self.budget.deposit()
            self.ledger.append((self.now, Fraction(1, 4)))

    @precondition(lambda self: len(self.ledger) < 60)
    @rule(amount=st.sampled_from([0.125, 0.5, 1.0, 2.0, 5.0]))
    def retry(self, amount: float) -> None:
        """Withdraw what the ledger can or cannot pay."""
        affordable = self._saved() >= amount
        assert affordable == self.budget.withdraw(self.now, amount)
        if affordable:
            self.ledger.append((self.now, -Fraction(amount)))

    @invariant()
    def balances_agree(self) -> None:
        """Looking changes nothing and tells the same."""
        assert self._saved() == self.budget.balance(self.now)


BudgetAgainstLedger.TestCase.settings = settings(
    deadline=None, derandomize=True, max_examples=60, stateful_step_count=30
)
TestBudgetAgainstLedger = BudgetAgainstLedger.TestCase


@pytest.mark.parametrize(
    ("capacity", "sheddable", "batch"),
    [
        (1.0, 0.0, 1.0),
        (1.2, 0.2, 1.0),
        (1.5, 0.375, 1.0),
        (2.0, 0.5, 1.0),
        (10.0, 2.5, 5.0),
    ],
)
def test_what_a_class_leaves_alone_of_a_small_budget(
    capacity: float, sheddable: float, batch: float
) -> None:
    """Batch calls one retry at least; sheddable ones never the last that fits."""
    assert 0.0 == reserve_for(capacity, Priority.NORMAL)
    assert sheddable == pytest.approx(reserve_for(capacity, Priority.SHEDDABLE))
    assert batch == reserve_for(capacity, Priority.BATCH)
