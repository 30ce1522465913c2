"""Edges without a function: they tell those inside something."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resilient._calls.call import Call, enter_call, forget_call, leave_call
from resilient._runtimes import clock
from resilient._values.checks import seconds as seconds_argument
from resilient._values.priority import (
    PRIORITIES,
    Priority,
    PriorityName,
    TaskPriority,
    shed_rank_of,
)

if TYPE_CHECKING:
    from datetime import timedelta


class _Scope:
    """An edge without a function: it tells those inside something."""

    __slots__ = ("_call", "_token")

    def __init__(self) -> None:
        self._call: Call | None = None

    def _tell(self, call: Call) -> None:
        """Write to the call of a block what it is to tell."""

    def __enter__(self) -> None:
        name = type(self).__name__
        if self._call is not None:
            raise RuntimeError(
                f"a {name} is for one block at a time: call it anew for each block"
            )
        self._call = call = Call.new(name)
        self._tell(call)
        try:
            self._token = enter_call(call)
        except BaseException:
            forget_call(call)
            raise

    def __exit__(self, *exc: object) -> None:
        call, self._call = self._call, None
        assert call is not None
        call.end()
        leave_call(self._token)


class deadline_after(_Scope):  # noqa: N801 - a context manager named as a function
    """Tell everything inside that its time is up in so many seconds.

    It tells and cancels nothing (it is not `anyio.fail_after`): policies
    inside stop waiting and retrying in time, HTTP transports shorten their
    timeouts, code can ask `remaining`. An earlier deadline outside stays.

    Args:
        seconds: Seconds from the moment the block is entered, or a timedelta.

    Raises:
        TypeError, ValueError: `seconds` is not a duration >= 0.
        RuntimeError: It is entered again before it was left.
    """

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float | timedelta) -> None:
        super().__init__()
        self._seconds = seconds_argument("seconds", seconds, infinite=True)

    def _tell(self, call: Call) -> None:
        deadline = clock.now() + self._seconds
        if call.deadline is None or deadline < call.deadline:
            endless = deadline == math.inf
            call.deadline = None if endless else deadline
            call.allowed = None if endless else self._seconds


class priority(_Scope):  # noqa: N801 - a context manager named as a function
    """Tell everything inside how important it is.

    Under pressure the lowest goes first: see `Priority`. The innermost block
    counts. Tasks that are started inside keep what it says, also after it was
    left: unlike time, importance does not run out.

    Args:
        name: "critical", "normal" (that of code in no such block),
            "sheddable" or "batch".
        key: What identifies the task, such as the id of the request: of one
            class the same tasks are cut by every policy, in every process,
            whose calls carry this key. Not that of a customer or host, who
            would be cut for as long as the pressure lasts. Default: that of
            the block around, else a number drawn when the block is entered.

    Raises:
        ValueError: There is no such priority.
        TypeError: `key` is not a str, bytes or int.
        RuntimeError: It is entered again before it was left.
    """

    __slots__ = ("_priority", "_shed_rank")

    def __init__(
        self, name: PriorityName | Priority, key: str | bytes | int | None = None
    ) -> None:
        super().__init__()
        if isinstance(name, Priority):
            self._priority = name
        elif isinstance(name, str) and name in PRIORITIES:
            self._priority = PRIORITIES[name]
        else:
            known = ", ".join(f'"{one}"' for one in PRIORITIES)
            raise ValueError(f"`name` must be one of {known}, got {name!r}")
        self._shed_rank = None if key is None else shed_rank_of(key)

    def _tell(self, call: Call) -> None:
        call.standing = TaskPriority(
            self._priority,
            call.shed_rank if self._shed_rank is None else self._shed_rank,
        )
