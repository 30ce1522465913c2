"""Run a coroutine function on an event heap, in simulated time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from resilient._runtimes.simulated import World
from resilient.testing._world import world


def run_simulated(body: Callable[[World], Coroutine[Any, Any, Any]]) -> Any:
    """Run it in a task, with the world as its argument; return its result."""

    def run() -> Any:
        with world(1, World) as made:
            task = made.start(body(made), "main")
            made.run()
        if task.error is not None:
            raise task.error
        assert task.has_ended, "nothing could wake it"
        return task.value

    return Context().run(run)
