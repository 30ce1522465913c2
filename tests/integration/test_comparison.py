"""What the table of libraries says of those for Python is so."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import pkgutil
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
LIBRARIES = {
    "tenacity": "tenacity",
    "stamina": "stamina",
    "pybreaker": "pybreaker",
    "aiolimiter": "aiolimiter",
    "hyx": "hyx",
    "nopanic": "nopanic",
    "interlock-cb": "interlock",
    "pyresilience": "pyresilience",
    "grelmicro": "grelmicro",
}
"""The distributions, and what is imported."""


def cells() -> dict[tuple[str, str], str]:
    """What the tables say, by row and library."""
    found: dict[tuple[str, str], str] = {}
    head: list[str] = []
    for line in TEXT.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| |"):
            head = [cell.partition(" ")[0] for cell in row]
        elif line.startswith("| "):
            found.update(
                {(row[0], name): cell for name, cell in zip(head, row, strict=True)}
            )
    return found


CELLS = cells()
NAMED = re.compile(r"`(?P<name>[\w.]+)(?:\((?P<parameter>\w+)=…\))?`(?:, .+)?")
APART = re.compile(r"in `(?P<distribution>[\w-]+)`")
OTHER_LANGUAGES = {"Polly": "for .NET", "resilience4j": "for Java"}
COLOURS = ("plain functions", "asyncio", "trio")

# What a name would contain that belongs into a row.
WORDS = {
    "try again": "retr",
    "retries as a share of the calls": "budget",
    "stop asking for a while": "break|circuit",
    "ask less of what refuses": "throttl|adaptive.?rate",
    "so many at once": "bulkhead|concurren|semaphore",
    "the same, number unknown": "adaptive.?(?:conc|bulk)|concurrency.?limit",
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
    "switched off for tests": "set_active|enabled|disabled",
    "tested on a virtual clock": "clock|virtual",
}


def public(library: str) -> list[str]:
    """The public names of a library; the test is skipped where it is not there."""
    module = pytest.importorskip(LIBRARIES[library])
    names = [
        name
        for name in getattr(module, "__all__", dir(module))
        if not name.startswith("_")
    ]
    if library not in ("hyx", "grelmicro"):
        return names
    # These have what they have in packages of their own.
    found = pkgutil.iter_modules(module.__path__)
    inner = [each.name for each in found if not each.name.startswith("_")]
    for name in {"retry", "resilience", "cache", "clock"}.intersection(inner):
        names += importlib.import_module(f"{library}.{name}").__all__
    return [*names, *inner]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("row", WORDS)
def test_a_cell_names_what_there_is(row: str, library: str) -> None:
    """A name is found, and none that would belong where a dash is."""
    names = public(library)
    cell = CELLS[row, library]
    if cell == "–":
        assert [] == [name for name in names if re.search(WORDS[row], name.lower())]
        return
    apart = APART.fullmatch(cell)
    if apart is not None:
        # Not there, and named in the description of the package.
        assert apart["distribution"] in str(metadata.metadata(library))
        return
    match = NAMED.fullmatch(cell)
    assert match is not None, cell
    found = resolved(f"{LIBRARIES[library]}.{match['name']}")
    if match["parameter"] is not None:
        assert match["parameter"] in inspect.signature(found).parameters


def resolved(path: str) -> Any:
    """What a dotted name stands for, in a module or in a class of one."""
    module, _, last = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), last)
    except ModuleNotFoundError as error:
        if error.name != module:
            pytest.skip(f"{module} needs {error.name}")
        return getattr(resolved(module), last)


def test_each_row_is_checked() -> None:
    """Those of words by the test above, the others below."""
    assert {*COLOURS, *WORDS} == {row for row, _ in CELLS} - {"---"}


def test_the_versions_are_those_that_are_installed() -> None:
    """A later version has to be looked at anew."""
    for distribution, module in LIBRARIES.items():
        pytest.importorskip(module)
        assert f"{distribution} {metadata.version(distribution)}" in TEXT


def test_the_readme_counts_what_the_table_has() -> None:
    """Its short form is made of the table's cells."""
    readme = (PAGE.parents[2] / "README.md").read_text("utf-8")
    rows = list(WORDS)[:14]
    for library in ("here", *LIBRARIES, "Polly", "resilience4j"):
        has = sum(CELLS[row, library] != "–" for row in rows)
        used = [
            cell if cell.partition(",")[0] in ("yes", "no", "–") else "yes"
            for cell in (
                CELLS[row, library].partition(":")[0]
                for row in (*COLOURS, "shared by processes")
                if library not in OTHER_LANGUAGES
            )
        ] or [OTHER_LANGUAGES[library], "", "", ""]
        assert f"| {library} | {has} | {' | '.join(used)} |" in readme


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
    if library == "here":
        return Retry(ConnectionError, backoff=constant(0))
    module: Any = pytest.importorskip(LIBRARIES[library])
    made: Callable[[Any], Any]
    if library == "tenacity":
        made = module.retry(stop=module.stop_after_attempt(2))
    elif library == "stamina":
        made = module.retry(
            on=ConnectionError, wait_initial=0, wait_max=0, wait_jitter=0
        )
    elif library == "hyx":
        made = importlib.import_module("hyx.retry").retry(
            on=ConnectionError, attempts=1, backoff=0
        )
    elif library == "nopanic":
        made = module.retry(2, on=ConnectionError, backoff=0.0)
    elif library == "pyresilience":
        made = module.resilient(retry=module.RetryConfig(max_attempts=2, delay=0))
    else:
        module = importlib.import_module("grelmicro.resilience")
        pause = module.ConstantBackoff(delay=0.001)
        made = module.retry(when=ConnectionError, attempts=2, backoff=pause)
    return made


@pytest.mark.parametrize(
    ("library", "colours"),
    [
        ("here", "yes yes yes"),
        ("tenacity", "yes yes yes"),
        ("stamina", "yes yes yes"),
        ("hyx", "no yes no"),
        ("nopanic", "yes yes yes"),
        ("pyresilience", "yes yes no"),
        ("grelmicro", "yes yes no"),
    ],
)
# Python 3.15 deprecates what hyx asks for.
@pytest.mark.filterwarnings("ignore:'asyncio.iscoroutinefunction':DeprecationWarning")
def test_retries_are_for_the_colours_that_the_page_says(
    library: str, colours: str
) -> None:
    """They try again there, and fail elsewhere."""

    def asking() -> Callable[[], Awaitable[None]]:
        ask = twice()

        @retrying(library)
        async def attempt() -> None:
            ask()

        return attempt  # type: ignore[no-any-return]  # the decorator is Any

    def plain() -> None:
        asked = retrying(library)(twice())()
        if asked is not None:
            # What hyx makes of a plain function is a coroutine, and fails.
            asyncio.run(asked)

    ways: list[Callable[[], Any]] = [
        plain,
        lambda: asyncio.run(asking()()),  # type: ignore[arg-type]  # it is a coroutine
        lambda: trio.run(asking()),
    ]
    for colour, way, says in zip(COLOURS, ways, colours.split(), strict=True):
        assert says == CELLS[colour, library].partition(":")[0]
        if says == "yes":
            way()
        else:
            with pytest.raises((TypeError, RuntimeError)):
                way()


def test_interlock_is_for_all_but_its_timeout() -> None:
    """Its circuits open on trio, too."""
    interlock = pytest.importorskip("interlock")

    def failing(name: str) -> Any:
        config = interlock.Config(minimum_number_of_calls=1)
        return interlock.CircuitBreaker(name=name, config=config)

    for colour, run in ("asyncio", asyncio.run), ("trio", trio.run):
        breaker = failing(colour)

        @breaker  # type: ignore[untyped-decorator]  # it is Any
        async def fail() -> None:
            raise ConnectionError("reset")

        for error in (ConnectionError, interlock.CircuitOpenError):
            with pytest.raises(error):
                run(fail() if colour == "asyncio" else fail)
    breaker = failing("plain")

    @breaker  # type: ignore[untyped-decorator]  # it is Any
    def plain() -> None:
        raise ConnectionError("reset")

    for error in (ConnectionError, interlock.CircuitOpenError):
        with pytest.raises(error):
            plain()

    @interlock.timeout(1)  # type: ignore[untyped-decorator]  # it is Any
    async def late() -> None:
        raise AssertionError("ran")

    with pytest.raises(RuntimeError, match=r"^no running event loop$"):
        trio.run(late)
    assert ["yes", "yes", "yes, but for `timeout`"] == [
        CELLS[colour, "interlock-cb"] for colour in COLOURS
    ]


def test_grelmicros_shield_asks_less_and_has_a_budget() -> None:
    """By the words of its sources: a rate that learns, and refunds by successes."""
    pytest.importorskip("grelmicro")
    shield = "grelmicro.resilience.shield"
    budget = importlib.import_module(f"{shield}._retry_budget")._RetryBudget
    gate = importlib.import_module(f"{shield}._adaptive_gate")._AdaptiveGate

    assert "Success with no retry performed: refund 1." in (budget.__doc__ or "")
    assert "slow-down" in (gate.__doc__ or "")


def test_aiolimiter_is_for_asyncio_alone() -> None:
    """Elsewhere it finds no loop."""
    limiter = pytest.importorskip("aiolimiter").AsyncLimiter(1)

    assert not hasattr(limiter, "__enter__")
    with pytest.raises(RuntimeError, match=r"^no running event loop$"):
        trio.run(limiter.acquire)
    assert ["no", "yes", "no"] == [CELLS[colour, "aiolimiter"] for colour in COLOURS]


@pytest.mark.parametrize(
    ("library", "dependencies"),
    [
        ("tenacity", []),
        ("aiolimiter", []),
        ("stamina", ["tenacity"]),
        ("hyx", []),
        ("nopanic", []),
        ("interlock-cb", []),
        ("pyresilience", []),
    ],
)
def test_the_dependencies_are_as_many_as_the_page_says(
    library: str, dependencies: list[str]
) -> None:
    """Extras apart."""
    pytest.importorskip(LIBRARIES[library])
    required = metadata.requires(library) or []

    assert dependencies == [each for each in required if ";" not in each]
