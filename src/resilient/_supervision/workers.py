"""What is known of a worker from one run to the next."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Final, Literal, TypeAlias

from resilient._errors.chains import leaves
from resilient._events.events import error_name
from resilient._machines.restarts import Restarts
from resilient._runtimes.runtime import Waiter
from resilient._supervision.runs import Run

Restart: TypeAlias = Literal["always", "on_failure", "never"]

INTERRUPTS: Final = (KeyboardInterrupt, SystemExit)

_MOST_ERRORS: Final = 10
"""Errors that are kept of a row, the newest: each holds the frames of its run."""


class Worker:
    """A function that is to be kept running.

    Attributes:
        name: Its name.
        restart: After what end it is run again.
        restarts: Counts its crashes.
        context: Where each run starts from.
        run: The one that is under way.
        due: When the next one begins; None: that is not settled.
        ready: Who waits for it to be ready.
        errors: Those of the row, the newest.
        error_type: Name of the type of the last one.
        state: What it is when it neither runs nor will: see `describe`.
    """

    __slots__ = (
        "_args",
        "_function",
        "context",
        "due",
        "error_type",
        "errors",
        "name",
        "ready",
        "restart",
        "restarts",
        "run",
        "state",
    )

    def __init__(
        self,
        name: str,
        function: Callable[..., object],
        args: tuple[Any, ...],
        restart: Restart,
        restarts: Restarts,
        ready: Ready | None,
    ) -> None:
        self.name: str = name
        self._function = function
        self._args = args
        self.restart: Restart = restart
        self.restarts: Restarts = restarts
        self.context: Context = copy_context()
        self.run: Run | None = None
        self.due: float | None = None
        self.ready: Ready | None = ready
        self.errors: list[BaseException] = []
        self.error_type: str | None = None
        self.state: Literal["done", "crashed", "stopped", "abandoned"] = "done"

    def call(self) -> Callable[[], object]:
        """Return what a run calls."""
        if self.ready is None:
            return functools.partial(self._function, *self._args)
        return functools.partial(self._function, *self._args, task_status=self.ready)

    def note(self, error: BaseException) -> None:
        """Keep the error of a crash; in a new row, it alone."""
        if self.restarts.row <= 1:
            self.errors.clear()
        self.errors.append(error)
        del self.errors[:-_MOST_ERRORS]
        self.error_type = error_name(error)

    def let_go(self) -> None:
        """Let go of all but what is shown: it has finished."""
        self._function, self._args = print, ()
        self.errors.clear()
        self.context = Context()
        self.ready = None

    def describe(self, now: float) -> dict[str, Any]:
        """Return how it is: JSON, and of errors the type alone."""
        if self.run is not None:
            state = "stopping" if self.run.asked else "running"
        elif self.due is not None:
            wait = max(0.0, self.due - now)
            state = f"restarting in {wait:.1f} s" if self.error_type else "starting"
        else:
            state = self.state
        return {
            "state": state,
            "restarts": self.restarts.count,
            "crashes_in_a_row": self.restarts.row,
            "last_error": self.error_type,
        }


class Ready:
    """Whether a worker has said that it is ready, and who waits for that.

    It is the ``task_status`` of anyio and trio.
    """

    __slots__ = ("error", "is_settled", "value", "waiter")

    def __init__(self, waiter: Waiter) -> None:
        self.waiter: Waiter = waiter
        self.is_settled: bool = False
        self.value: Any = None
        self.error: BaseException | None = None

    def started(self, value: Any = None) -> None:
        """Say that the worker is ready; from its second run on, without effect."""
        if not self.is_settled:
            self.is_settled = True
            self.value = value
            self.waiter.wake()

    def fail(self, error: BaseException) -> None:
        """Say that it never will be."""
        if not self.is_settled:
            self.is_settled = True
            self.error = error
            self.waiter.wake()


def is_interrupt(error: BaseException) -> bool:
    """Whether it ends the whole program, alone or in a group."""
    return any(isinstance(part, INTERRUPTS) for part in leaves(error))
