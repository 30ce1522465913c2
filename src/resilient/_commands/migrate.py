"""``resilient migrate``: what to write in the place of another library's retries."""

from __future__ import annotations

import ast
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

import resilient
from resilient._commands import from_backoff, from_stamina, from_tenacity
from resilient._commands.old_uses import LIBRARIES, Use, uses_in
from resilient._commands.rewrites import Advice

LARGEST: Final = 1_000_000
"""Bytes of a file that is read; what is larger was not written by hand."""

_SKIPPED: Final = ("__pycache__", "node_modules", "site-packages")

_NAMES: Final = {
    "backoff": from_backoff.NAMES,
    "stamina": from_stamina.NAMES,
    "tenacity": from_tenacity.NAMES,
}

_FOR_ALL: Final = {
    "backoff": "backoff: without max_tries and max_time it goes on for ever, which is"
    " spelt out.",
    "stamina": "stamina: its defaults, 10 attempts within 45 s, are spelt out; those of"
    " Retry are 3 attempts and no limit in time.",
    "tenacity": "tenacity: its defaults, every Exception, for ever, without a pause,"
    " are spelt out; Retry has 3 attempts, with pauses, of what is listed.",
}

_ALWAYS: Final = (
    "Retries are on a budget: when most calls fail, most retries are left out;"
    " budget=None turns that off.",
    "What a Retry further in gave up on is not retried again; an open circuit and other"
    " rejections only where they are listed by name.",
)


class UnreadableError(Exception):
    """A file that cannot be looked at; its text says why."""


def look_at(path: str) -> list[tuple[Use, Advice]]:
    """Find the uses in a file, which is not run, and what to do about each.

    Raises:
        UnreadableError: It cannot be read, or is no Python.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UnreadableError(f"larger than {LARGEST} bytes")
        with warnings.catch_warnings():
            # Of what the module itself would be told of.
            warnings.simplefilter("ignore")
            tree = ast.parse(content)
        functions = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        return [(use, advice_for(use, functions)) for use in uses_in(tree, _NAMES)]
    except OSError as error:
        raise UnreadableError(str(error.strerror)) from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        at = "" if line is None else f"line {line}: "
        said = getattr(error, "msg", error)
        raise UnreadableError(f"not Python 3: {at}{said}") from None
    except (MemoryError, RecursionError):
        raise UnreadableError("nested too deeply") from None


def files_in(path: str, failed: Callable[[OSError], None]) -> Iterator[str]:
    """Yield a file, or the Python files of a folder, sorted.

    Hidden folders, virtual environments and links to folders are left out.
    """
    if not os.path.isdir(path):
        yield path
        return
    for folder, inner, names in os.walk(path, onerror=failed):
        inner[:] = sorted(
            name
            for name in inner
            if not name.startswith(".")
            and name not in _SKIPPED
            and not os.path.lexists(os.path.join(folder, name, "pyvenv.cfg"))
        )
        for name in sorted(names):
            file = os.path.join(folder, name)
            # NB: to open a pipe would wait for its writer.
            if name.endswith((".py", ".pyi", ".pyw")) and os.path.isfile(file):
                yield file


def advice_for(use: Use, functions: Collection[str]) -> Advice:
    """Say what to write in the place of a use."""
    if use.role == "import":
        return Advice(by_hand=["it is imported here, and not used in this file"])
    if use.role == "text":
        return Advice(
            by_hand=[
                "named as text; a test that patches it writes"
                " `with resilient.testing.instant():`"
            ]
        )
    if use.name == use.library:
        return Advice(by_hand=["the whole module is passed on: look at it by hand"])
    if use.library == "tenacity":
        return from_tenacity.rewrite(use)
    if use.library == "stamina":
        return from_stamina.rewrite(use, functions)
    return from_backoff.rewrite(use)


def imports_for(write: str) -> str:
    """Return the imports that a piece of new code needs."""
    names = set(re.findall(r"\w+", write))
    of_ours = sorted(names & set(resilient.__all__))
    found = [f"from resilient import {', '.join(of_ours)}"] if of_ours else []
    found += [f"import {name}" for name in ("math", "random", "re") if name in names]
    return "; ".join(found)


def _say(text: str, to: str = "stdout") -> None:
    stream = getattr(sys, to)
    encoding = stream.encoding or "utf-8"
    # NB: names of files and strings may hold what a terminal obeys or cannot show.
    shown = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text
    )
    stream.write(shown.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _tell(path: str, use: Use, advice: Advice) -> None:
    whole = use.name == use.library
    name = use.library if whole else f"{use.library}.{use.name}"
    _say(f"{path}:{use.line}: {name}")
    if advice.write:
        _say(f"  write    {advice.write}")
        if needed := imports_for(advice.write):
            _say(f"  import   {needed}")
    for text in advice.changes:
        _say(f"  changes  {text}")
    for text in advice.by_hand:
        _say(f"  by hand  {text}")


def migrate(paths: Sequence[str]) -> int:
    """Report the uses in files and folders; change nothing.

    Returns:
        The exit code: 1 if there is a use, 2 if a path or a file cannot be read.
    """
    looked_at = 0
    unread = False
    counts: Counter[str] = Counter()

    def skip(path: str, why: str) -> None:
        nonlocal unread
        unread = True
        _say(f"resilient migrate: {path}: {why}", "stderr")

    def failed(error: OSError) -> None:
        skip(str(error.filename), str(error.strerror))

    for given in paths:
        for path in files_in(given, failed):
            try:
                found = look_at(path)
            except UnreadableError as error:
                skip(path, str(error))
                continue
            looked_at += 1
            for use, advice in found:
                counts[use.library] += 1
                _tell(path, use, advice)
    for library in LIBRARIES:
        if counts[library]:
            _say(_FOR_ALL[library])
    for text in _ALWAYS if counts else ():
        _say(text)
    told = ", ".join(f"{counts[name]} of {name}" for name in LIBRARIES if counts[name])
    files = "1 file" if looked_at == 1 else f"{looked_at} files"
    total = sum(counts.values())
    uses_ = "1 use" if total == 1 else f"{total or 'no'} uses"
    _say(f"{uses_} in {files}{f': {told}' if told else ''}; nothing was changed")
    return 2 if unread else 1 if counts else 0
