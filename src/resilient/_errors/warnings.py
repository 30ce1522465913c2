"""Warnings that point at the user's line, however deep they arise."""

from __future__ import annotations

import contextlib
import inspect
import os
import warnings
from types import ModuleType

from resilient._errors.errors import ResilientWarning

# Ours, and what stands between the lines of a ``with`` statement.
_PASSED: tuple[str, ...] = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    contextlib.__file__,
)


def warn(text: str, past: ModuleType | None = None) -> None:
    """Warn at the line that called into the library, however deep.

    Args:
        text: What to say.
        past: A package through which the user came to us.
    """
    passed = _PASSED
    if past is not None and past.__file__ is not None:
        passed = (*passed, os.path.dirname(past.__file__) + os.sep)
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(passed):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, ResilientWarning, stacklevel=level)
