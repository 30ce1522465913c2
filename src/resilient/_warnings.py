"""Warnings that point at the user's line, however deep they arise."""

from __future__ import annotations

import inspect
import os
import warnings

from resilient._errors import ResilientWarning

_PACKAGE = os.path.dirname(__file__) + os.sep


def warn(text: str) -> None:
    """Warn at the line that called into the library, whoever waits for it."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, ResilientWarning, stacklevel=level)
