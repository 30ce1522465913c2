"""What the site has beside its pages: twins, indexes, descriptions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.scripts import ROOT, load

import resilient

publish: Any = load("docs/publish.py")
NAMES = ["index", *(name for _, names in publish.pages() for name in names)]
NOT_LISTED = {"404"}
PLOTS = sorted(
    path for path in (ROOT / "docs").rglob("*.svg") if path.parent.name != "_static"
)


def test_every_page_is_published_once() -> None:
    """In the order of the sidebar."""
    docs = ROOT / "docs"
    found = {
        path.relative_to(docs).with_suffix("").as_posix() for path in docs.rglob("*.md")
    }

    assert len(NAMES) == len(set(NAMES))
    assert found - NOT_LISTED == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_a_title_and_a_description(name: str) -> None:
    """In plain words, as short as search engines show them."""
    text = publish.source_of(name)
    description = publish.description(text)

    assert publish.title(text)
    assert 20 <= len(description) <= publish.LONGEST
    assert not re.search(r"[`*\n]|\]\(", description), description


def test_a_twin_shows_what_its_page_shows() -> None:
    """Examples, dashboards and docstrings are in it, and no directive is."""
    pytest.importorskip("grpc")
    pytest.importorskip("aiohttp")  # Python 3.15 is too new for their wheels
    whole = "\n".join(publish.twin(name) for name in NAMES)

    assert [] == re.findall(
        r"^```\{(?:eval-rst|toctree|literalinclude)\}.*", whole, re.M
    )
    for example in (ROOT / "examples").glob("[0-9][0-9]_*.py"):
        assert example.read_text("utf-8").strip() in whole
    for name in resilient.__all__:
        assert f"### `resilient.{name}" in whole, name
    assert "Source: *Exponential Backoff and Jitter*, AWS 2015" in whole


def test_the_indexes_name_each_page() -> None:
    """By the address that pyproject.toml has."""
    listed = re.findall(r"^- \[.+?\]\((.+?)\.md\): .+$", publish.index(), re.M)
    places = [
        element.text or ""
        for element in ElementTree.fromstring(publish.sitemap(NAMES).encode()).iter()
        if element.tag.endswith("loc")
    ]

    assert [f"{publish.ADDRESS}/{name}" for name in NAMES[1:]] == listed
    assert [f"{publish.ADDRESS}/{name}.html" for name in NAMES] == places


@pytest.mark.parametrize("path", PLOTS, ids=lambda path: path.stem)
def test_a_plot_is_in_its_page_and_has_the_pages_colours(path: Path) -> None:
    """In light and in dark; it fits a phone, and stands alone on GitHub."""
    picture = f'<p><img alt="A &amp; B" src="../_images/{path.name}" /></p>'
    shown = publish.with_plots(picture)
    box = re.search(r'viewBox="0 -?\d+ (\d+) ', shown)

    assert shown.startswith('<p><svg class="plot" aria-label="A &amp; B" xmlns=')
    assert 'fill="currentColor"' in shown
    assert not re.search(r"<style|#fff|#eee|#000", shown)
    assert "prefers-color-scheme:dark" in path.read_text("utf-8")
    assert box is not None
    # Its letters on a phone, in pixels: of 390, the page has 350.
    assert 10 <= 16 * 350 / int(box[1])


def test_other_pictures_stay_as_they_are() -> None:
    """What is no drawing is a file."""
    assert '<img alt="" src="a.png">' == publish.with_plots('<img alt="" src="a.png">')
