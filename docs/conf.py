"""How the documentation is built: `nox -s docs`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import rules

import resilient

project = "resilient"
author = "resilient contributors"
project_copyright = "resilient contributors, MIT licence"
release = resilient.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "resilient"
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


def _with_lines(app: Any, docname: str, source: list[str]) -> None:
    """Write the lines into the index of rules, where they are right."""
    if (
        docname
        == rules.PAGE.relative_to(rules.PAGE.parents[1]).with_suffix("").as_posix()
    ):
        source[0] = rules.with_lines(source[0])


def setup(app: Any) -> None:
    """Have Sphinx ask for it."""
    app.connect("source-read", _with_lines)
