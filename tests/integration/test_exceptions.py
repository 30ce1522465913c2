"""The exceptions that the documentation lists are those of the libraries."""

from __future__ import annotations

import builtins
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs/how-to/which-exceptions.md"
ROWS = re.findall(
    r"^\| (\w+) \| (`.*?) \| (.*?) ?\| (`.*?) \|$", PAGE.read_text("utf-8"), re.M
)
BY_LIBRARY = [pytest.param(*cells, id=library) for library, *cells in ROWS]


def named(cell: str) -> list[type[Exception]]:
    """The exceptions of a cell; the test is skipped where the library is not there."""
    found: list[type[Exception]] = []
    for name in re.findall("`([^`]+)`", cell):
        module, _, last = name.rpartition(".")
        where: Any = builtins
        if module:
            pytest.importorskip(module.partition(".")[0])
            where = importlib.import_module(module)
        kind = getattr(where, last)
        assert issubclass(kind, Exception), name
        found.append(kind)
    return found


def test_nine_libraries_are_listed() -> None:
    """A row that is not understood would not be checked."""
    assert 9 == len(ROWS)


@pytest.mark.parametrize(("listed", "along", "left_out"), BY_LIBRARY)
def test_a_list_covers_what_the_page_says(
    listed: str, along: str, left_out: str
) -> None:
    """What comes along is derived from it, and what is left out is not."""
    kinds = tuple(named(listed))

    assert [] == [kind for kind in named(along) if not issubclass(kind, kinds)]
    assert [] == [kind for kind in named(left_out) if issubclass(kind, kinds)]


@pytest.mark.parametrize(("listed", "along", "left_out"), BY_LIBRARY)
def test_no_listed_type_is_covered_by_another(
    listed: str, along: str, left_out: str
) -> None:
    """Each is needed."""
    kinds = named(listed)

    for kind in kinds:
        others = tuple(other for other in kinds if other is not kind)
        assert not issubclass(kind, others), kind
