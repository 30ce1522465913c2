"""Where the project lives: in pyproject.toml, and nowhere else."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from urllib.parse import urlsplit

import pytest
from tests.scripts import ROOT

PLACEHOLDER = "https://resilient-pipeline.example"
"""The base of all addresses until the owner has one: a name that is reserved, and
leads nowhere. Before the first release it is replaced here and in `[project.urls]`."""

URLS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))[
    "project"
]["urls"]


@pytest.mark.parametrize("name", ["Documentation", "Changelog", "Source", "Issues"])
def test_an_address_is_the_placeholder_or_a_real_one(name: str) -> None:
    """All are of one kind: a release has no address that leads nowhere."""
    is_set = not URLS[name].startswith(f"{PLACEHOLDER}/")
    assert is_set == all(not url.startswith(PLACEHOLDER) for url in URLS.values())
    assert "https" == urlsplit(URLS[name]).scheme


def test_the_page_of_the_package_has_no_relative_links() -> None:
    """The README's are made absolute as the package is built."""
    try:
        metadata = importlib.metadata.metadata("resilient-pipeline")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed")
    links = re.findall(r"\]\(([^)\s]+)\)", metadata["Description"])

    assert f"{URLS['Documentation']}/how-to/http.html" in links
    assert f"{URLS['Documentation']}/_static/demo.svg" in links
    assert [] == [link for link in links if not link.startswith("https://")]


def test_nothing_else_names_the_placeholder() -> None:
    """So that it is replaced in one place."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    modules = (ROOT / "src").rglob("*.py")
    assert [] == [
        str(path.relative_to(ROOT))
        for path in (*pages, *modules)
        if PLACEHOLDER in path.read_text("utf-8")
    ]
