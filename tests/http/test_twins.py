"""The two modules of transports are one text, but for the library they serve."""

from __future__ import annotations

import ast
from pathlib import Path

import resilient

PACKAGE = Path(resilient.__file__).parent


def normalized(name: str) -> str:
    """Return the syntax tree of a module, with its library called the same."""
    text = (PACKAGE / f"{name}.py").read_text("utf-8")
    return ast.dump(ast.parse(text.replace(name, "library")), indent=1)


def test_the_modules_of_both_libraries_are_equal() -> None:
    """What one client has the other has too, by the same code."""
    assert normalized("httpx").splitlines() == normalized("httpx2").splitlines()
