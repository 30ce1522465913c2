"""How the documentation is built: `nox -s docs`."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sphinx.search.en import SearchEnglish

sys.path.insert(0, str(Path(__file__).parent))
import publish
import rules

import resilient

project = "resilient"
author = "resilient contributors"
project_copyright = "resilient contributors, MIT licence"
release = resilient.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"resilient {release}"
html_baseurl = f"{publish.ADDRESS}/"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["copy.js"]
html_theme_options = {
    "footer_icons": [
        {"name": "Source", "url": publish.SOURCE, "html": "Source", "class": ""}
    ]
}
html_copy_source = False
html_show_sphinx = False

# In docstrings `single` backticks are code, as in the pages.
default_role = "code"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

myst_heading_anchors = 3


class Search(SearchEnglish):
    """Finds numbers of three digits, as 429, which Sphinx leaves out on both sides."""

    js_splitter_code = r"""
    var splitQuery = (query) => query
      .split(/[^\p{Letter}\p{Number}_\p{Emoji_Presentation}]+/gu)
      .filter((word) => word)
      .map((word) => /^\d{3}$/.test(word) ? "status" + word : word);
    """

    def split(self, input: str) -> list[str]:
        """Return the words of a text, as the function above does of a query."""
        return [
            f"status{word}" if re.fullmatch(r"\d{3}", word) else word
            for word in super().split(input)
        ]


def _page_read(app: Any, docname: str, source: list[str]) -> None:
    """Put in what stands elsewhere: lines of definitions, the changelog."""
    index = rules.PAGE.relative_to(rules.PAGE.parents[1]).with_suffix("").as_posix()
    if docname == index:
        source[0] = rules.with_lines(source[0])
    elif docname == "changelog":
        source[0] = publish.changelog()


def _page_written(
    app: Any, docname: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give a page its plots, a description, and one that is shown anywhere a base."""
    if doctree is None:
        return
    context["body"] = publish.with_plots(context["body"])
    words = html.escape(publish.description(publish.source_of(docname)))
    context["metatags"] += f'<meta name="description" content="{words}">'
    if docname == "404":
        path = urlsplit(html_baseurl).path
        context["metatags"] = f'<base href="{path}">{context["metatags"]}'


def _site_written(app: Any, error: Exception | None) -> None:
    """Write what search engines and assistants read."""
    if error is None and app.builder.name == "html":
        publish.write(Path(app.outdir))


def setup(app: Any) -> None:
    """Have Sphinx ask for it."""
    app.add_search_language(Search)
    app.connect("source-read", _page_read)
    app.connect("html-page-context", _page_written)
    app.connect("build-finished", _site_written)
