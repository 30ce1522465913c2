"""Where a task or a thread waits, for people to read."""

from __future__ import annotations

import gc
import linecache
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import cast

_PACKAGE = str(Path(__file__).parent.parent)


def of_coroutine(awaited: object) -> str:
    """Say where a coroutine is suspended, in the user's own code.

    Args:
        awaited: The outermost coroutine (or generator) of a task.

    Returns:
        File, line, function and source of the innermost line that is not part
        of this library, the standard library or an installed package. Where
        there is no such line, of the task's first function: it says what was
        started, while the innermost ones are the same in all tasks.
    """
    frames = list(suspended(awaited))
    return _place(frames, frames[:1])


def of_frame(frame: FrameType | None) -> str:
    """Say where a thread is, as `of_coroutine` does for a task.

    Args:
        frame: The innermost frame of the thread.
    """
    frames = list(callers(frame))[::-1]
    return _place(frames, frames[-1:])


def callers(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a frame and those that called it, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def frames_by_thread() -> dict[int, FrameType]:
    """Return the innermost frame of each thread, by identity."""
    # The one way to see what another thread does; documented in spite of its name.
    return sys._current_frames()  # pyright: ignore[reportPrivateUsage]


def suspended(awaited: object) -> Iterator[FrameType]:
    """Yield the frames of suspended coroutines, outermost first."""
    while awaited is not None:
        frame: FrameType | None
        if isinstance(awaited, CoroutineType):
            frame, awaited = awaited.cr_frame, awaited.cr_await
        elif isinstance(awaited, GeneratorType):
            frame, awaited = awaited.gi_frame, cast(object, awaited.gi_yieldfrom)
        elif isinstance(awaited, AsyncGeneratorType):
            frame, awaited = awaited.ag_frame, awaited.ag_await
        else:
            # NB: what `__anext__` and `__await__` return does not say what it
            # drives; only the collector knows.
            awaited = next(filter(_is_suspendable, gc.get_referents(awaited)), None)
            continue
        if frame is not None:
            yield frame


def _is_suspendable(thing: object) -> bool:
    return isinstance(thing, CoroutineType | GeneratorType | AsyncGeneratorType)


def _place(frames: list[FrameType], otherwise: list[FrameType]) -> str:
    """Describe the innermost frame of the user; frames come outermost first."""
    of_user = [frame for frame in frames if not _is_installed(frame.f_code.co_filename)]
    if not (of_user or otherwise):
        return "an unknown place"
    frame = (of_user or otherwise)[-1]
    code = frame.f_code
    source = linecache.getline(code.co_filename, frame.f_lineno).strip()
    place = f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}()"
    return f"{place}: {source}" if source else place


def _is_installed(filename: str) -> bool:
    """Whether a file belongs to this library, Python or an installed package."""
    paths = sysconfig.get_paths()
    installed = (paths["stdlib"], paths["purelib"], paths["platlib"], _PACKAGE)
    # Generated code ("<string>", "<frozen …>") is no place to look at.
    return filename.startswith((*installed, "<"))
