"""What checks say of the endpoints of a set, and when they are not believed.

Ground rules:

* An endpoint counts as healthy until so many checks in a row have failed, and
  then as unhealthy until so many in a row are good (`noted`).
* While fewer than a share of the endpoints are healthy, the checks are ignored
  (`Panic`): it is more likely that they are wrong, or that all endpoints are as
  bad, than that a few can take the load of all.
* Which call goes where is decided by the set (`fleet`).

Deliberately not modelled: degrees of health. What calls see of an endpoint has
them (`endpoint_load`).

Source: Envoy, *Health checking* and *Panic threshold*, whose numbers these are
but for the time between two checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from resilient._machines.endpoint_load import Member
from resilient._values.callables import colour_of
from resilient._values.checks import count, ratio, seconds
from resilient._values.records import Record
from resilient._values.spelling import format_call

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = ["Check", "Checked", "Panic", "is_panic", "noted"]


class Check(Record):
    """How `Balance.run` asks each endpoint whether it is well.

    Args:
        function: ``function(address)`` returns whether it is. A plain function
            runs in a thread, a coroutine function in a task of `Balance.run`.
            One that raises, or takes longer than `timeout`, has said no.
        every: Seconds between two checks of an endpoint, ± 20 %. Default 10.
        timeout: Seconds that one may take. Default 1.
        healthy: Good checks in a row until an endpoint gets calls again.
            Default 2.
        unhealthy: Failed checks in a row until it gets none. Default 3.
        panic: The share of healthy endpoints below which the checks are
            ignored. Default a half.

    Raises:
        TypeError, ValueError: An argument is out of range.

    Source: Envoy, *Health checking*.
    """

    __slots__ = ("every", "function", "healthy", "panic", "timeout", "unhealthy")

    __module__ = "resilient"

    function: Callable[[Any], Any]
    every: float
    timeout: float
    healthy: int
    unhealthy: int
    panic: float

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        every: float | timedelta = 10.0,
        timeout: float | timedelta = 1.0,
        healthy: int = 2,
        unhealthy: int = 3,
        panic: float = 0.5,
    ) -> None:
        if not callable(function) or colour_of(function) not in ("sync", "async"):
            raise TypeError(
                "`function` must be a function of an endpoint's address, got"
                f" {function!r}"
            )
        super().__init__(
            function,
            seconds("every", every, zero=False),
            seconds("timeout", timeout, zero=False),
            count("healthy", healthy, minimum=1),
            count("unhealthy", unhealthy, minimum=1),
            ratio("panic", panic),
        )

    def __repr__(self) -> str:
        return format_call(self, Record)


class Checked(NamedTuple):
    """What the checks say of a member has changed."""

    member: Member
    healthy: bool


class Panic(NamedTuple):
    """The checks are ignored from now on; or they are not any more.

    Attributes:
        began: Which of the two.
        healthy: How many members are.
        total: Of how many.
    """

    began: bool
    healthy: int
    total: int


def noted(rules: Check, member: Member, *, good: bool) -> Checked | None:
    """Note one check of a member; return what has changed by it."""
    in_row = member.checks
    member.checks = max(0, in_row) + 1 if good else min(0, in_row) - 1
    if member.unhealthy and member.checks >= rules.healthy:
        member.unhealthy = False
        return Checked(member, True)
    if not member.unhealthy and -member.checks >= rules.unhealthy:
        member.unhealthy = True
        return Checked(member, False)
    return None


def is_panic(rules: Check, members: Sequence[Member]) -> tuple[bool, int]:
    """Tell whether the checks are to be ignored, and how many are healthy.

    Args:
        rules: What was asked for.
        members: Those that do not drain.
    """
    healthy = sum(not member.unhealthy for member in members)
    return healthy < rules.panic * len(members), healthy
