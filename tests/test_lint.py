"""``resilient lint``: the tree of a pipeline, and what defeats itself in it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.__main__ import main

SHOP = """
from resilient import *

good = Pipeline(Timeout(5), Retry(OSError), Bulkhead(5), name="good")
bad = Pipeline(Pipeline(Bulkhead(5), Timeout(5)), Retry(OSError), Timeout(9))
meant = Pipeline(Bulkhead(5), Retry(OSError), intended=True)

class Shop:
    @Bulkhead(2)
    @Retry(OSError)
    def fetch(self): ...

    limit = 3
"""


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with modules of a user's, and the process standing in it."""
    (tmp_path / "lint_shop.py").write_text(SHOP)
    (tmp_path / "lint_empty.py").write_text("limit = 3")
    (tmp_path / "lint_broken.py").write_text("import lint_nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("lint_")]:
        del sys.modules[name]


def linted(capsys: pytest.CaptureFixture[str], *targets: str) -> tuple[int, str]:
    """Run the command; return its exit code, and what it printed."""
    code = main(["lint", *targets])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_a_pipeline_is_printed_as_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    """With nothing to say of an order that is good."""
    assert linted(capsys, "lint_shop:good") == (
        0,
        "lint_shop:good\n"
        "  Pipeline 'good'\n"
        "    Timeout(5.0)\n"
        "    Retry(OSError)\n"
        "    Bulkhead(5)\n"
        "no orders defeat themselves\n",
    )


def test_what_defeats_itself_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Of nested pipelines too; importing them warns of nothing beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, printed = linted(capsys, "lint_shop:bad", "lint_shop:meant")
    assert (code, printed) == (
        1,
        "lint_shop:bad\n"
        "  Pipeline\n"
        "    Pipeline\n"
        "      Bulkhead(5)\n"
        "      Timeout(5.0)\n"
        "    Retry(OSError)\n"
        "    Timeout(9.0)\n"
        "! Bulkhead(5) stands outside Retry(OSError): its slot is held while the"
        " retry waits; list it after the Retry\n"
        "! Timeout(9.0) stands inside Timeout(5.0) and can never be reached; the"
        " outer one has to be the longer\n"
        "lint_shop:meant\n"
        "  Pipeline, as intended\n"
        "    Bulkhead(5)\n"
        "    Retry(OSError)\n"
        "2 orders defeat themselves\n",
    )


def test_decorators_of_a_function_are_looked_at(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Outermost first, as they are written."""
    assert linted(capsys, "lint_shop:Shop.fetch") == (
        1,
        "lint_shop:Shop.fetch\n"
        "  Bulkhead(2)\n"
        "  Retry(OSError)\n"
        "! Bulkhead(2) stands outside Retry(OSError): its slot is held while the"
        " retry waits; list it after the Retry\n"
        "1 order defeats itself\n",
    )


def test_a_module_alone_means_all_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Every policy at its top."""
    code, printed = linted(capsys, "lint_shop")
    assert 1 == code
    assert [
        "lint_shop:good",
        "lint_shop:bad",
        "lint_shop:meant",
    ] == [line for line in printed.splitlines() if line.startswith("lint_shop:")]


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("lint_missing:shop", "there is no module lint_missing"),
        ("lint_shop.deeper:shop", "there is no module lint_shop.deeper"),
        ("lint_shop:better", "lint_shop has no better"),
        (
            "lint_shop:Shop.limit",
            "lint_shop:Shop.limit is no policy and no function that one decorates",
        ),
        ("lint_empty", "lint_empty has no policy and no decorated function"),
    ],
)
def test_what_is_not_there_is_said(
    target: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code of a wrong use, and nothing linted before."""
    assert (2, f"resilient lint: {text}\n") == linted(capsys, target)


def test_an_import_that_fails_in_the_module_is_its_own_error() -> None:
    """It is not the target that is missing."""
    with pytest.raises(ModuleNotFoundError, match="lint_nowhere"):
        main(["lint", "lint_broken:x"])
