"""The quantile of the most recent samples."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient._machines.quantile import SIZE, Quantile

# As shares are written, so that the model can take them for what they mean.
SHARES = [0.01, 0.29, 0.5, 0.57, 0.9, 0.95, 0.98, 0.99]


def naive(share: float, samples: list[float]) -> float | None:
    """The smallest sample that the share of the last ones does not exceed."""
    exact = Fraction(str(share))
    recent = sorted(samples[-SIZE:])
    if len(recent) < max(20, math.ceil(1 / (1 - exact))):
        return None
    return next(
        sample
        for rank, sample in enumerate(recent, 1)
        if Fraction(rank, len(recent)) >= exact
    )


@given(
    share=st.sampled_from(SHARES),
    samples=st.lists(st.integers(0, 40).map(float), max_size=60),
    repeats=st.integers(1, 30),
)
def test_it_agrees_with_a_sorted_list(
    share: float, samples: list[float], repeats: int
) -> None:
    """After every sample, before and after the window is full."""
    quantile = Quantile(share)
    taken: list[float] = []
    for sample in samples * repeats:
        taken.append(sample)
        quantile.add(sample)
    assert naive(share, taken) == quantile.value
    assert min(len(taken), SIZE) == len(quantile)


@given(share=st.sampled_from(SHARES))
def test_it_agrees_at_every_length(share: float) -> None:
    """Ranks that are whole numbers in decimals are not rounded past."""
    quantile = Quantile(share)
    taken: list[float] = []
    for sample in range(SIZE + 10, 0, -1):
        taken.append(float(sample))
        quantile.add(float(sample))
        assert naive(share, taken) == quantile.value


@pytest.mark.parametrize(
    ("share", "enough"), [(0.5, 20), (0.95, 20), (0.98, 50), (0.99, 100)]
)
def test_there_is_no_answer_before_there_are_enough(share: float, enough: int) -> None:
    """As many as put one sample beyond it, and never fewer than twenty."""
    quantile = Quantile(share)
    assert enough == quantile.enough
    for _ in range(enough - 1):
        quantile.add(1.0)
    assert quantile.value is None
    quantile.add(1.0)
    assert 1.0 == quantile.value


def test_the_oldest_goes_first() -> None:
    """A window full of new samples knows nothing of the old."""
    quantile = Quantile(0.5)
    for _ in range(SIZE):
        quantile.add(9.0)
    for _ in range(SIZE // 2 - 1):
        quantile.add(1.0)
    assert 9.0 == quantile.value
    quantile.add(1.0)
    assert 1.0 == quantile.value
    for _ in range(SIZE // 2):
        quantile.add(1.0)
    quantile.add(9.0)
    assert 1.0 == quantile.value


def test_it_says_what_it_is() -> None:
    """For those who debug."""
    quantile = Quantile(0.95)
    assert "<Quantile 0.95 of 0 samples: None>" == repr(quantile)
