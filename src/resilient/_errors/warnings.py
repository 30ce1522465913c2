"""Warnings that point at the user's line, however deep they arise."""

from __future__ import annotations

import contextlib
import inspect
import os
import warnings
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Final

from resilient._errors.errors import ResilientWarning

# Ours, and what stands between the lines of a ``with`` statement.
_PASSED: tuple[str, ...] = (
    os.path.dirname(os.path.dirname(__file__)) + os.sep,
    contextlib.__file__,
)


_INSTALLED = ("site-packages", "dist-packages")
"""Directories of what is not the user's own."""


def warn(
    text: str,
    past: ModuleType | None = None,
    *,
    raised: Callable[[str], object] | None = None,
) -> None:
    """Warn at the line that called into the library, however deep.

    Args:
        text: What to say.
        past: A package through which the user came to us. What is installed
            beside it, as an SDK, is passed over too.
        raised: Called with the text where a filter makes an error of the
            warning, which would take the place of a call's result.
    """
    level, _ = _caller(past)
    try:
        warnings.warn(text, ResilientWarning, stacklevel=level)
    except Exception:
        if raised is None:
            raise
        raised(text)


def warn_once(text: str, raised: Callable[[str], object] | None = None) -> None:
    """Warn at the line that called into the library, the first time.

    Args:
        text: What to say; ``{function}`` is the function of that line.
        raised: Called with the text where a filter makes an error of the
            warning, which would take the place of a call's result.
    """
    _, frame = _caller(None)
    file, line = "", 0
    if frame is not None:
        file, line = frame.f_code.co_filename, frame.f_lineno
    # NB: bounded, since lines may be made as a program goes.
    if (text, file, line) in _warned or len(_warned) >= _MOST:
        return
    _warned.add((text, file, line))
    function = "" if frame is None else frame.f_code.co_qualname
    text = text.replace("{function}", repr(function))
    warn(text, raised=raised)


def caller_is_installed(past: ModuleType) -> bool:
    """Whether a package was used by what is installed, not by the user's own code.

    Args:
        past: The package.
    """
    own = (*_PASSED, os.path.dirname(past.__file__ or "") + os.sep)
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(own):
        frame = frame.f_back
    if frame is None:
        return False
    folders = frame.f_code.co_filename.split(os.sep)
    return any(name in folders for name in _INSTALLED)


_MOST: Final = 1000
_warned: set[tuple[str, str, int]] = set()


def _caller(past: ModuleType | None) -> tuple[int, FrameType | None]:
    """Return how many frames up the user's line is, for who called this."""
    passed = _PASSED
    if past is not None and past.__file__ is not None:
        package = os.path.dirname(past.__file__)
        beside = os.path.dirname(package)
        is_installed = os.path.basename(beside) in _INSTALLED
        passed = (*passed, (beside if is_installed else package) + os.sep)
    level, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(passed):
        level, frame = level + 1, frame.f_back
    return level, frame
