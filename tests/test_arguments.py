"""Argument checks: what passes, what is refused, and in which words."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient._values.checks import count, flag, number, plain, ratio, seconds


class Seconds(float):
    """A float with a repr of its own, as numpy's scalars are."""


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (0, 0.0),
        (-0.0, 0.0),
        (2, 2.0),
        (0.25, 0.25),
        (timedelta(minutes=1, milliseconds=5), 60.005),
        (timedelta(0), 0.0),
        (Seconds(1.5), 1.5),
    ],
)
def test_durations_become_plain_floats(given_: Any, expected: float) -> None:
    """Ints, floats and timedeltas are all seconds in the end."""
    actual = seconds("delay", given_)
    assert expected == actual
    assert float is type(actual)


def test_infinity_is_a_duration_only_where_it_means_something() -> None:
    """`math.inf` passes when asked for."""
    assert math.inf == seconds("within", math.inf, infinite=True)


@pytest.mark.parametrize(
    ("check", "error", "text"),
    [
        (
            lambda: seconds("max_wait", -1),
            ValueError,
            "`max_wait` must be >= 0 seconds, got -1",
        ),
        (
            lambda: seconds("max_wait", timedelta(seconds=-1)),
            ValueError,
            "`max_wait` must be >= 0 seconds, got "
            "datetime.timedelta(days=-1, seconds=86399)",
        ),
        (
            lambda: seconds("delay", 0, zero=False),
            ValueError,
            "`delay` must be > 0 seconds, got 0",
        ),
        (
            lambda: seconds("delay", math.nan),
            ValueError,
            "`delay` must be >= 0 seconds, got nan",
        ),
        (
            lambda: seconds("delay", math.nan, zero=False, infinite=True),
            ValueError,
            "`delay` must be > 0 seconds, got nan",
        ),
        (
            lambda: seconds("delay", -math.inf, infinite=True),
            ValueError,
            "`delay` must be >= 0 seconds, got -inf",
        ),
        (
            lambda: seconds("delay", math.inf),
            ValueError,
            "`delay` must be a finite time in seconds, got inf",
        ),
        (
            lambda: seconds("delay", 2**1024, infinite=True),
            ValueError,
            "`delay` must be finite, got an int that no float can hold",
        ),
        (
            lambda: seconds("delay", True),
            TypeError,
            "`delay` must be seconds (int, float) or a timedelta, got True",
        ),
        (
            lambda: seconds("delay", "1"),
            TypeError,
            "`delay` must be seconds (int, float) or a timedelta, got '1'",
        ),
        (
            lambda: count("attempts", 0, minimum=1),
            ValueError,
            "`attempts` must be >= 1, got 0",
        ),
        (
            lambda: count("attempts", 3.0, minimum=1),
            TypeError,
            "`attempts` must be an int, got 3.0",
        ),
        (
            lambda: count("attempts", True, minimum=1),
            TypeError,
            "`attempts` must be an int, got True",
        ),
        (
            lambda: ratio("failure_rate", 0),
            ValueError,
            "`failure_rate` must be > 0 and <= 1, got 0",
        ),
        (
            lambda: ratio("failure_rate", 50),
            ValueError,
            "`failure_rate` must be > 0 and <= 1, got 50",
        ),
        (
            lambda: ratio("failure_rate", math.nan),
            ValueError,
            "`failure_rate` must be > 0 and <= 1, got nan",
        ),
        (
            lambda: ratio("failure_rate", None),
            TypeError,
            "`failure_rate` must be a number, got None",
        ),
        (
            lambda: ratio("failure_rate", False),
            TypeError,
            "`failure_rate` must be a number, got False",
        ),
        (
            lambda: number("factor", 0.5, minimum=1),
            ValueError,
            "`factor` must be >= 1, got 0.5",
        ),
        (
            lambda: number("rate", 0, minimum=0, exclusive=True),
            ValueError,
            "`rate` must be > 0, got 0",
        ),
        (
            lambda: number("rate", math.inf, minimum=0),
            ValueError,
            "`rate` must be finite, got inf",
        ),
        (
            lambda: number("rate", math.nan, minimum=0),
            ValueError,
            "`rate` must be >= 0, got nan",
        ),
        (
            lambda: number("rate", timedelta(1), minimum=0),
            TypeError,
            "`rate` must be a number, got datetime.timedelta(days=1)",
        ),
    ],
)
def test_refusals_name_parameter_rule_and_value(
    check: Callable[[], object], error: type[Exception], text: str
) -> None:
    """The last line of a traceback is enough to know what to change."""
    with pytest.raises(error) as caught:
        check()
    assert text == str(caught.value)
    assert error is type(caught.value)


def test_the_edges_of_the_ranges_pass() -> None:
    """Limits that include their end include it."""
    assert 1 == count("attempts", 1, minimum=1)
    assert 1.0 == ratio("failure_rate", 1)
    assert 1.0 == number("factor", 1, minimum=1)
    assert 5e-324 == number("rate", 5e-324, minimum=0, exclusive=True)


@settings(deadline=None, derandomize=True)
@given(
    value=st.one_of(
        st.booleans(),
        st.none(),
        st.text(),
        st.integers(),
        st.floats(),
        st.timedeltas(),
        st.complex_numbers(),
    )
)
def test_whatever_passes_is_a_finite_time(value: object) -> None:
    """No input of any kind gets through as something one cannot sleep for."""
    try:
        duration = seconds("delay", value)
    except (TypeError, ValueError) as error:
        assert str(error).startswith("`delay` must ")
    else:
        assert not isinstance(value, bool)
        assert 0 <= duration < math.inf


def test_a_switch_is_a_bool() -> None:
    """A word or a number for it is a mistake, and most of them are true."""
    assert flag("nested", True) is True
    assert flag("nested", False) is False
    with pytest.raises(TypeError) as caught:
        flag("nested", "no")
    assert "`nested` must be True or False, got 'no'" == str(caught.value)


def test_a_function_that_is_not_awaited_is_plain() -> None:
    """A coroutine function would be called and never run."""

    async def later() -> None: ...

    assert plain("key", len) is len
    with pytest.raises(TypeError) as caught:
        plain("key", later)
    expected = "`key` must be a plain function, got a coroutine function"
    assert expected == str(caught.value)
    with pytest.raises(TypeError, match="`key` must be a function, got 3"):
        plain("key", 3)
