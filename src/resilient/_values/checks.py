"""Checks of the arguments that users write, each with one wording.

Ground rules:

- Every refusal names *parameter, rule, value*:
  ``` `max_wait` must be >= 0 seconds, got -1 ```.
- A value of the wrong kind is a `TypeError`, a value out of range a
  `ValueError`.
- A `bool` is never a number. ``Timeout(True)`` would be a timeout of one
  second, and is never what was meant.
- NaN is refused everywhere. It compares false with everything, so each
  limit it reaches is silently lifted.
- What is returned is a plain `float` or `int`: hot paths never meet a
  `timedelta`, nor a subclass with operators of its own.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar, cast

from resilient._values.callables import refuse_arity

if TYPE_CHECKING:
    from typing import Concatenate, ParamSpec

    P = ParamSpec("P")

__all__ = [
    "LARGEST",
    "choice",
    "collection",
    "count",
    "flag",
    "keywords_only",
    "number",
    "optional",
    "plain",
    "ratio",
    "seconds",
]

T = TypeVar("T")
C = TypeVar("C", bound=str)

LARGEST: Final = 1e300
"""The largest number that is taken: a hundred million of them can be added up
before the sum is infinite, and `math.fsum` raises no OverflowError."""


def seconds(
    name: str,
    value: object,
    *,
    zero: bool = True,
    infinite: bool = False,
    hint: str = "",
) -> float:
    """Return a duration in seconds.

    Args:
        name: The parameter, as the user wrote it.
        value: Seconds as `int` or `float`, or a `datetime.timedelta`.
        zero: Whether no time at all is a meaningful answer.
        infinite: Whether `math.inf` ("for ever") is one.
        hint: What to write instead, where it is not.

    Raises:
        TypeError: The value is none of these types.
        ValueError: It is NaN, negative, or a zero or an infinity that has no
            meaning here.
    """
    if isinstance(value, timedelta):
        duration = value.total_seconds()
    else:
        duration = _real(name, value, "be seconds (int, float) or a timedelta")
    if not (duration >= 0 if zero else duration > 0):
        rule = ">= 0" if zero else "> 0"
        raise ValueError(f"`{name}` must be {rule} seconds, got {value!r}")
    if duration == math.inf and not infinite:
        raise ValueError(
            f"`{name}` must be a finite time in seconds, got {value!r}{hint}"
        )
    return duration


def count(name: str, value: object, *, minimum: int) -> int:
    """Return a whole number of things, at least `minimum` of them.

    Raises:
        TypeError: The value is not an `int`; a float is refused even when it
            is whole, for it is usually a duration in the wrong place.
        ValueError: It is below the minimum.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, {_got(value)}")
    if value < minimum:
        raise ValueError(f"`{name}` must be >= {minimum}, got {value!r}")
    return int(value)


def ratio(name: str, value: object) -> float:
    """Return a share of a whole: above 0, at most 1.

    Raises:
        TypeError: The value is not an `int` or `float`.
        ValueError: It is outside (0, 1], or NaN.
    """
    share = _real(name, value, "be a number")
    if not 0 < share <= 1:
        raise ValueError(f"`{name}` must be > 0 and <= 1, got {value!r}")
    return share


def number(
    name: str, value: object, *, minimum: float, exclusive: bool = False
) -> float:
    """Return a finite number that is at least `minimum`.

    Args:
        name: The parameter, as the user wrote it.
        value: An `int` or `float`.
        minimum: The smallest number allowed.
        exclusive: The minimum itself is refused too, as for a rate, of which
            0 would mean that nothing ever happens.

    Raises:
        TypeError: The value is not an `int` or `float`.
        ValueError: It is below the minimum, infinite or NaN.
    """
    checked = _real(name, value, "be a number")
    if not (checked > minimum if exclusive else checked >= minimum):
        rule = ">" if exclusive else ">="
        raise ValueError(f"`{name}` must be {rule} {minimum:g}, got {value!r}")
    if checked == math.inf:
        raise ValueError(f"`{name}` must be finite, got {value!r}")
    return checked


def optional(
    check: Callable[Concatenate[str, object, P], T],
    name: str,
    value: object,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T | None:
    """Return what `check` returns of a value, and None of None."""
    return None if value is None else check(name, value, *args, **kwargs)


def keywords_only(kind: str, misplaced: tuple[object, ...]) -> None:
    """Refuse arguments that were given by place, a function most of all.

    Args:
        kind: The policy that takes none.
        misplaced: What its constructor was given by place.

    Raises:
        TypeError: There is something.
    """
    if misplaced:
        raise TypeError(
            f"{kind} takes keywords only, got {misplaced[0]!r}; a decorator needs"
            f" its parentheses, @{kind}()"
        )


def choice(name: str, value: C, *choices: str) -> C:
    """Return one of several words.

    Raises:
        ValueError: The value is none of them.
    """
    # NB: the type first: what an object of the user's equals is its own affair.
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices[:-1])
        raise ValueError(f'`{name}` must be {listed} or "{choices[-1]}", got {value!r}')
    return value


def collection(name: str, value: object) -> Collection[object]:
    """Return a collection of values, each of which is checked by the caller.

    Raises:
        TypeError: The value is none, or a text: its characters are not meant.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
        raise TypeError(f"`{name}` must be a collection, got {value!r}")
    return cast("Collection[object]", value)


def flag(name: str, value: object) -> bool:
    """Return a switch.

    Raises:
        TypeError: The value is not a `bool`; "no" would be true.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {value!r}")
    return value


def plain(name: str, value: T, given: str | None = None) -> T:
    """Return a function that is called where nothing can be awaited.

    Args:
        name: The parameter, as the user wrote it.
        value: The function.
        given: The one argument that it is called with; None: others.

    Raises:
        TypeError: The value is not callable, a coroutine function, or cannot
            be called so.
    """
    if not callable(value):
        raise TypeError(f"`{name}` must be a function, got {value!r}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(f"`{name}` must be a plain function, got a coroutine function")
    if given is not None:
        refuse_arity(name, value, given)
    return value


def _real(name: str, value: object, rule: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must {rule}, {_got(value)}")
    try:
        checked = float(value)
    except OverflowError:
        # Hundreds of digits; shown in full they would bury the rule.
        raise ValueError(
            f"`{name}` must be finite, got an int that no float can hold"
        ) from None
    if LARGEST < checked < math.inf:
        raise ValueError(f"`{name}` must be <= {LARGEST:g}, got {checked!r}")
    return checked


def _got(value: object) -> str:
    if callable(value) and not isinstance(value, type):
        return f"got {value!r}; a decorator needs its parentheses"
    return f"got {value!r}"
