"""What the table of libraries says of those for Python is so."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import re
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import trio

from resilient import Retry, constant

PAGE = Path(__file__).parents[2] / "docs/explanation/comparison.md"
TEXT = PAGE.read_text("utf-8")
LIBRARIES = ["tenacity", "stamina", "pybreaker", "aiolimiter"]
ROWS = {
    row[0]: row[2:6]
    for row in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TEXT.splitlines()
        if line.startswith("| ")
    )
    if len(row) in (6, 9)
}
NAMED = re.compile(r"`(?P<name>[\w.]+)(?:\((?P<parameter>\w+)=…\))?`")

# What a name would contain that belongs into a row.
WORDS = {
    "try again": "retr",
    "retries as a share of the calls": "budget",
    "stop asking for a while": "break|circuit",
    "ask less of what refuses": "throttl",
    "so many at once": "bulkhead|concurren|semaphore",
    "the same, number unknown": "adaptive|concurren",
    "so many in time": "limit",
    "limit the time": "timeout",
    "answer instead": "fallback|callback",
    "ask a second time": "hedg",
    "answer from memory": "cache",
    "ask once for all": "coalesc|single",
    "choose a replica": "balanc|endpoint|replica",
    "several as one": "pipeline|compos",
    "shared by processes": "redis|shared",
    "metrics": "prometheus|metric|telemetry",
    "switched off for tests": "active|enabled|testing",
    "tested on a virtual clock": "clock|virtual",
}


def public(library: str) -> list[str]:
    """The public names of a library; the test is skipped where it is not there."""
    module = pytest.importorskip(library)
    return [*getattr(module, "__all__", dir(module))]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("row", WORDS)
def test_a_cell_names_what_there_is(row: str, library: str) -> None:
    """A name is found, and none that would belong where a dash is."""
    names = public(library)
    cell = ROWS[row][LIBRARIES.index(library)]
    if cell == "–":
        assert [] == [name for name in names if re.search(WORDS[row], name.lower())]
        return
    match = NAMED.fullmatch(cell)
    assert match is not None, cell
    module, _, last = f"{library}.{match['name']}".rpartition(".")
    found = getattr(importlib.import_module(module), last)
    if match["parameter"] is not None:
        assert match["parameter"] in inspect.signature(found).parameters


def test_each_row_is_checked() -> None:
    """Those of words by the test above, the others below."""
    colours = {"plain functions", "asyncio", "trio"}

    assert {"", "---"} | colours | WORDS.keys() == {"---", *ROWS}


def test_the_versions_are_those_that_are_installed() -> None:
    """A later version has to be looked at anew."""
    for library in LIBRARIES:
        pytest.importorskip(library)
        assert f"{library} {metadata.version(library)}" in TEXT


def twice() -> Callable[[], None]:
    """A function that fails once."""
    outcomes = iter([ConnectionError("reset"), None])

    def ask() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    return ask


def retrying(library: str) -> Callable[[Any], Any]:
    """A decorator that tries again at once."""
    if library == "resilient":
        return Retry(ConnectionError, backoff=constant(0))
    module: Any = pytest.importorskip(library)
    if library == "tenacity":
        decorator: Callable[[Any], Any] = module.retry(
            stop=module.stop_after_attempt(2)
        )
        return decorator
    decorator = module.retry(
        on=ConnectionError, wait_initial=0, wait_max=0, wait_jitter=0
    )
    return decorator


@pytest.mark.parametrize("library", ["resilient", "tenacity", "stamina"])
def test_retries_are_for_plain_functions_asyncio_and_trio(library: str) -> None:
    """All three colours are tried again."""

    def asking() -> Callable[[], Awaitable[None]]:
        ask = twice()

        @retrying(library)
        async def attempt() -> None:
            ask()

        return attempt  # type: ignore[no-any-return]  # the decorator is Any

    retrying(library)(twice())()
    asyncio.run(asking()())  # type: ignore[arg-type]  # it is a coroutine
    trio.run(asking())

    column = ["resilient", *LIBRARIES].index(library) - 1
    if column >= 0:
        for colour in ("plain functions", "asyncio", "trio"):
            assert "yes" == ROWS[colour][column]


def test_aiolimiter_is_for_asyncio_alone() -> None:
    """Elsewhere it finds no loop."""
    limiter = pytest.importorskip("aiolimiter").AsyncLimiter(1)

    assert not hasattr(limiter, "__enter__")
    with pytest.raises(RuntimeError, match=r"^no running event loop$"):
        trio.run(limiter.acquire)
    assert ["no", "yes", "no"] == [
        ROWS[colour][3] for colour in ("plain functions", "asyncio", "trio")
    ]


@pytest.mark.parametrize(
    ("library", "dependencies"),
    [("tenacity", []), ("aiolimiter", []), ("stamina", ["tenacity"])],
)
def test_the_dependencies_are_as_many_as_the_page_says(
    library: str, dependencies: list[str]
) -> None:
    """Extras apart."""
    pytest.importorskip(library)
    required = metadata.requires(library) or []

    assert dependencies == [each for each in required if ";" not in each]
