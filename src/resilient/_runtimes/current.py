"""Find the runtime of the task that runs here.

asyncio and trio are imported when one of them is seen running, never before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from resilient._runtimes.runtime import Caller, Runtime

# Loaded when their library is first seen running; a statement that imports
# inside a function costs 400 ns each time.
_asyncio: tuple[Callable[[], Any], Runtime] | None = None


_trio: tuple[Callable[[], bool], Runtime] | None = None


def current_runtime(call: Caller) -> Runtime:
    """Find the async library that runs this task, and note the task.

    Raises:
        RuntimeError: Neither asyncio nor trio runs here.
    """
    # NB: asyncio first, because it answers fastest; trio's guest mode runs on
    # an asyncio loop, but outside any asyncio task.
    found = _asyncio or _load_asyncio()
    if found is not None:
        current_task, runtime = found
        try:
            task = current_task()
        except RecursionError:
            raise
        except RuntimeError:
            task = None
        if task is not None:
            call.task = task
            return runtime
    found = _trio or _load_trio()
    if found is not None:
        in_trio_task, runtime = found
        if in_trio_task():
            return runtime
    raise RuntimeError(
        "no task of asyncio or trio runs here: an async call needs one of them"
    )


@contextmanager
def running_on(runtime: Runtime) -> Generator[None]:
    """Have each async call of the process found to run on this runtime.

    NB: in the place of asyncio, which is asked first, so that a call of another
    runtime pays nothing for the question.
    """
    global _asyncio
    before, _asyncio = _asyncio, (runtime.task_or_thread, runtime)
    try:
        yield
    finally:
        _asyncio = before


def _load_asyncio() -> tuple[Callable[[], Any], Runtime] | None:
    global _asyncio
    current_task = loaded("asyncio", "current_task")
    if current_task is None:
        return None
    from resilient._runtimes.asyncio import ASYNCIO

    _asyncio = current_task, ASYNCIO
    return _asyncio


def _load_trio() -> tuple[Callable[[], bool], Runtime] | None:
    global _trio
    in_trio_task = loaded("trio.lowlevel", "in_trio_task")
    if in_trio_task is None:
        return None
    from resilient._runtimes.trio import TRIO

    _trio = in_trio_task, TRIO
    return _trio


def loaded(module: str, name: str) -> Any:
    """Return what a module calls `name`, if the process has loaded it.

    Returns:
        None too while another thread is in the middle of importing the module:
        nothing of it runs on this thread yet.
    """
    return getattr(sys.modules.get(module), name, None)
