"""Modules that another thread is importing: they are there, and not yet whole.

What is drawn over: each module that the library looks for, as it is at each
moment of its import; and each place that looks.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from resilient import Bulkhead, Hedge, Retry, Timeout, constant
from resilient._runtimes import asyncio as _asyncio_runtime  # noqa: F401
from resilient._runtimes import current
from resilient._runtimes import trio as _trio_runtime  # noqa: F401
from resilient._runtimes.sync import loop_runs_here
from resilient._server import lifecycle
from resilient.testing import virtual_time
from resilient.testing._asyncio_clock import _anyio_threads_at_work

# NB: both runtimes are loaded above. A test would load one in the middle of what
# it pretends otherwise, if it is the first of the process to need it.
LOOKED_FOR = ["asyncio", "trio.lowlevel", "anyio._backends._asyncio"]
SOURCES = Path(__file__).parents[1] / "src/resilient"


def sleep_between_attempts() -> None:
    """A pause of a sync call."""

    def fail() -> None:
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        Retry(OSError, attempts=2, backoff=constant(1e-9), budget=None).call(fail)


def wait_for_a_slot() -> None:
    """A line that a sync call stands in, for a moment."""
    bulkhead = Bulkhead(1, max_queue=1, max_wait=1e-9)

    def nested() -> None:
        with pytest.raises(Exception, match="is full"):
            bulkhead.call(int)

    bulkhead.call(nested)


def race() -> None:
    """Attempts in threads."""
    assert 0 == Hedge(60, max_threads=2).call(int)


def enter_a_block() -> None:
    """A block, which looks whether it could be interrupted."""
    with Timeout(60).guard():
        pass


def begin_virtual_time() -> None:
    """Virtual time, which is refused inside of a loop."""
    with virtual_time():
        pass


def call_without_a_loop() -> None:
    """An async call that no event loop runs."""

    async def nothing() -> None: ...

    with pytest.raises(RuntimeError, match="no task of asyncio or trio runs here"):
        Timeout(1).acall(nothing).send(None)


def look_for_workers() -> None:
    """The virtual loop, which asks for anyio's threads."""
    assert [] == _anyio_threads_at_work(None)  # type: ignore[arg-type]


def drain_without_a_loop() -> None:
    """A lifecycle, which asks whether a loop waits with it."""
    assert None is lifecycle._running_loop()


@pytest.mark.parametrize(
    "look",
    [
        drain_without_a_loop,
        loop_runs_here,
        sleep_between_attempts,
        wait_for_a_slot,
        race,
        enter_a_block,
        begin_virtual_time,
        call_without_a_loop,
        look_for_workers,
    ],
)
@pytest.mark.parametrize("parts", ["absent", "blocked", "empty", "a submodule"])
@pytest.mark.parametrize("name", [*LOOKED_FOR, "trio"])
def test_a_module_that_is_not_whole_is_not_there(
    monkeypatch: pytest.MonkeyPatch, name: str, parts: str, look: Callable[[], object]
) -> None:
    """No caller sees an AttributeError in the place of his own error."""
    monkeypatch.setattr(current, "_asyncio", None)
    monkeypatch.setattr(current, "_trio", None)
    if parts == "absent":
        monkeypatch.delitem(sys.modules, name, raising=False)
    elif parts == "blocked":
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]
    else:
        half = types.ModuleType(name)
        if parts == "a submodule":
            half.__dict__["lowlevel"] = half.__dict__["tasks"] = types.ModuleType("x")
        monkeypatch.setitem(sys.modules, name, half)
    look()


def test_there_is_one_place_that_looks() -> None:
    """All code that reads `sys.modules` calls `loaded`, with a name listed here."""
    places: set[str] = set()
    names: set[str] = set()
    for path in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "modules":
                places.add(path.relative_to(SOURCES).as_posix())
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "loaded"
                and isinstance(node.args[0], ast.Constant)
            ):
                names.add(str(node.args[0].value))

    assert {"_runtimes/current.py"} == places
    assert {*LOOKED_FOR, "concurrent.futures._base"} == names


PROGRAM = """
import sys, threading
from resilient import Bulkhead, BulkheadFullError, Retry, constant
assert "asyncio" not in sys.modules and "trio" not in sys.modules
retry = Retry(OSError, attempts=2, backoff=constant(1e-6), budget=None)
bulkhead = Bulkhead(1, max_queue=1, max_wait=1e-6)
wrong, stop = [], False
def fail(): raise OSError
def user():
    while not stop:
        try: retry.call(fail)
        except OSError: pass
        except BaseException as error: wrong.append(repr(error))
        try: bulkhead.call(bulkhead.call, int)
        except BulkheadFullError: pass
        except BaseException as error: wrong.append(repr(error))
sys.setswitchinterval(1e-4)
threads = [threading.Thread(target=user) for _ in range(2)]
for thread in threads: thread.start()
import asyncio, trio
stop = True
for thread in threads: thread.join()
assert not wrong, wrong[0]
"""


@pytest.mark.real
def test_calls_go_on_while_a_thread_imports() -> None:
    """In a process of its own, where nothing is loaded yet."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
