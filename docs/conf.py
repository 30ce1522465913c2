"""How the documentation is built: `nox -s docs`."""

from __future__ import annotations

import importlib.metadata

project = "resilient"
author = "resilient contributors"
project_copyright = "resilient contributors, MIT licence"
release = importlib.metadata.version("resilient-pipeline")

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
