"""The page on what is wrong knows each error and warning, by its own text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilient
from resilient import (
    BulkheadFullError,
    CircuitOpenError,
    ConcurrencyLimitedError,
    DeadlineExceededError,
    NoEndpointError,
    RateLimitedError,
    RejectedError,
    ResilientError,
    ResilientWarning,
    RestartLimitError,
    ThrottledError,
    TimeoutExceededError,
)
from resilient._policy.order import ORDERS, Order

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/how-to/troubleshoot.md").read_text("utf-8")
CODED = re.findall(r"^### `(.+)`(.*)$", PAGE, re.M)
HEADINGS = [heading for heading, _ in CODED]
CELLS = re.findall(r"^\| `(.+?)` \|", PAGE, re.M)
HOLE = "…"


def displaced(error: BulkheadFullError | ConcurrencyLimitedError) -> ResilientError:
    """The error, of a call that lost its place in a queue."""
    error.reason = "displaced"
    return error


def in_a_circle(error: BulkheadFullError) -> ResilientError:
    """The error, of a call whose wait could not end."""
    error.reason = "circle"
    return error


ERRORS: list[ResilientError] = [
    CircuitOpenError("payments", 12.3, failed=6, calls=10, window="10.0 s"),
    CircuitOpenError("payments", None, "half_open_full"),
    CircuitOpenError("payments", None, "forced_open"),
    CircuitOpenError("payments", None, "ramping"),
    CircuitOpenError("payments", None, "throttling"),
    BulkheadFullError("db", None, 10),
    displaced(BulkheadFullError("db", None, 10, 5, 0.3)),
    in_a_circle(BulkheadFullError("db", None, 10)),
    RateLimitedError("partner", 3.0, 1.0),
    RateLimitedError("partner", 3.0, reason="pushback"),
    ThrottledError("search"),
    ConcurrencyLimitedError("search", None, 20, 20),
    displaced(ConcurrencyLimitedError("search", None, 20, 20, 5, 0.3)),
    NoEndpointError("catalogue"),
    NoEndpointError("catalogue", draining=3),
    NoEndpointError("catalogue", 1.0, failure="gaierror"),
    DeadlineExceededError("search", None, 0.2),
    TimeoutExceededError("search", 2.0, 2.01),
    RestartLimitError("mailer", 5, 5, 60.0),
    RestartLimitError("mailer", 0, 5, 60.0),
]


def matches(heading: str, text: str) -> bool:
    """Whether a heading, with holes for names and numbers, is of a text."""
    parts = map(re.escape, heading.strip(f"{HOLE} ").split(HOLE))
    return re.search(".{1,60}?".join(parts), text) is not None


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_the_text_of_an_error_is_a_heading(error: ResilientError) -> None:
    """A search for what a log says finds the cause."""
    assert any(matches(heading, str(error)) for heading in HEADINGS), str(error)


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_the_heading_of_an_error_has_its_code(error: ResilientError) -> None:
    """A search for the code finds each heading of the class."""
    codes = {code.strip() for heading, code in CODED if matches(heading, str(error))}

    assert [] == [code for code in codes if error.error_code not in code.split(", ")]


def test_each_public_error_has_a_code_of_its_own() -> None:
    """It is on the class, unique, and in the reference."""
    reference = (ROOT / "docs/reference/errors.md").read_text("utf-8")
    codes = {
        name: value.error_code
        for name, value in vars(resilient).items()
        if isinstance(value, type)
        and issubclass(value, (ResilientError, ResilientWarning))
    }

    assert 12 == len(codes) == len(set(codes.values()))
    for name, code in codes.items():
        assert re.fullmatch(r"R(-[A-Z]+)+", code)
        assert re.search(rf"\b{name} +{code}\b", reference), name
    assert f"## There is a warning: {ResilientWarning.error_code}\n" in PAGE


def test_every_class_of_errors_is_met() -> None:
    """A new one is a new heading."""
    classes = {
        value
        for value in vars(resilient).values()
        if isinstance(value, type) and issubclass(value, ResilientError)
    }

    assert {type(error) for error in ERRORS} == classes - {
        ResilientError,
        RejectedError,
    }


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.text)
def test_the_warning_of_an_order_has_a_row(order: Order) -> None:
    """Each order that defeats itself is in the table of warnings."""
    assert any(matches(cell, order.text) for cell in CELLS), order.text


def pattern(node: ast.expr) -> str:
    """The text of a string, with a hole for each value; else nothing."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(pattern(part) or HOLE for part in node.values)
    return ""


def trees() -> Iterator[ast.Module]:
    """The modules of the library, parsed."""
    for path in sorted((ROOT / "src/resilient").rglob("*.py")):
        yield ast.parse(path.read_text("utf-8"))


def warnings_of_the_library() -> list[str]:
    """The texts that stand in a call of `warn`."""
    found: list[str] = []
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in ("warn", "_warn", "warn_once"):
                    found.append(pattern(node.args[0]))
    return sorted(filter(None, found))


@pytest.mark.parametrize("text", warnings_of_the_library())
def test_a_warning_has_a_row(text: str) -> None:
    """Each warning is in one of the tables."""
    assert any(matches(cell, text) for cell in CELLS), text


def test_the_page_has_only_texts_of_the_library() -> None:
    """What it quotes is in the code, or raised by one of its own snippets."""
    code = {
        pattern(node)
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Constant, ast.JoinedStr))
    }
    raised = re.findall(r"^```python$.*?^```$", PAGE, re.M | re.S)
    errors = [str(error) for error in ERRORS]
    # A line each: a hole of a pattern ends with the line.
    texts = "\n".join(text.replace("\n", " ") for text in (*errors, *raised, *code))

    assert [] == [
        wanted
        for wanted in (*HEADINGS, *CELLS)
        if not matches(wanted.removeprefix("stopped: "), texts)
    ]
