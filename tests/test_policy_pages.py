"""Each policy's page is of one template, and says what the code does."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import pytest
from tests.scripts import ROOT, load

import resilient
from resilient.telemetry._catalogue import METRICS

in_time: Any = load("docs/in_time.py")
FOLDER = ROOT / "docs" / "reference"
PAGES = {
    "retry": resilient.Retry,
    "circuit-breaker": resilient.CircuitBreaker,
    "rate-limiter": resilient.RateLimiter,
    "bulkhead": resilient.Bulkhead,
    "timeout": resilient.Timeout,
}
TEMPLATE = [
    "Defaults",
    "In time",
    "Errors, events and metrics",
    "Patterns",
    "Wrong and right",
    "Sources",
    "Reference",
]
in_every_page = pytest.mark.parametrize("page", PAGES)


def text_of(page: str) -> str:
    """The source of a page."""
    return (FOLDER / f"{page}.md").read_text("utf-8")


def section(page: str, title: str) -> str:
    """A section of a page."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## )", text_of(page), re.M | re.S)
    assert found is not None
    return found[1]


def rows(page: str, title: str) -> list[list[str]]:
    """The rows of the table of a section, without its head."""
    lines = re.findall(r"^\| (.*) \|$", section(page, title), re.M)
    return [re.split(r" \| ", line) for line in lines[1:]]


@in_every_page
def test_a_page_follows_the_template(page: str) -> None:
    """Purpose and example first, then these, in this order; others may be between."""
    text = text_of(page)
    head = re.findall(r"^## (.+)$", text, re.M)

    assert TEMPLATE == [title for title in head if title in TEMPLATE]
    assert "```python" in text.partition("\n## ")[0]


@in_every_page
def test_the_defaults_are_those_of_the_signature(page: str) -> None:
    """All of them, in its order, each with a reason."""
    expected = [
        [f"`{parameter.name}`", f"`{parameter.default!r}`"]
        for parameter in inspect.signature(PAGES[page]).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    ]
    found = rows(page, "Defaults")

    assert expected == [row[:2] for row in found]
    assert all(row[2] for row in found)


@in_every_page
def test_errors_events_and_metrics_are_there(page: str) -> None:
    """Each name is one of the library."""
    (row,) = rows(page, "Errors, events and metrics")
    names = re.findall(r"`([\w.]+)`", " ".join(row))
    metrics = {metric.name for metric in METRICS}

    assert names
    assert [] == [
        name for name in names if name not in metrics and not hasattr(resilient, name)
    ]


@in_every_page
def test_right_is_without_a_warning_and_both_are_code(page: str) -> None:
    """What a pair shows makes a policy."""
    names = {name: getattr(resilient, name) for name in resilient.__all__}
    for wrong, right, why in rows(page, "Wrong and right"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert isinstance(eval(wrong.strip("`"), names), resilient.Policy)
        assert bool(caught) == why.endswith("it warns")
        assert isinstance(eval(right.strip("`"), names), resilient.Policy)


@in_every_page
def test_a_page_shows_what_happens_in_time(page: str) -> None:
    """By a run in virtual time; `python docs/in_time.py` draws it."""
    drawn = in_time.run(page)

    assert drawn == (in_time.FOLDER / f"{page}.svg").read_text("utf-8")
    assert f"(in-time/{page}.svg)" in section(page, "In time")
