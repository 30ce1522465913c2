"""A page of the documentation that a reader follows from top to bottom: it is run.

Its blocks are taken in order, in a new folder:

* code or TOML whose paragraph ends with the name of a file, as "`shop.py`:" does, is
  put into that file;
* other code is run, and so is every `resilient` command;
* a block of text is what was printed last.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import resilient

NAME: Final = "numbers"

PAGE: Final = Path(__file__).parents[2] / "docs" / "tutorial" / "choose-your-numbers.md"

# NB: as a relative path it would not be found from a folder of its own.
_LIBRARY: Final = str(Path(resilient.__file__).resolve().parents[1])

_BLOCK: Final = re.compile(
    r"(?P<head>(?:`(?P<file>[\w.]+)`:\n\n)?^```(?P<kind>\w+)\n)(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def walked(page: str) -> str:
    """Return a page with what its code and commands print in their places.

    Args:
        page: Its text.

    Raises:
        subprocess.CalledProcessError: Code failed, or a command did and says of no
            check that it failed.
    """
    printed = ""
    with TemporaryDirectory() as name:
        folder = Path(name)

        def block(match: re.Match[str]) -> str:
            nonlocal printed
            kind, text = match["kind"], match["text"]
            if match["file"]:
                (folder / match["file"]).write_text(text, "utf-8")
            elif kind == "python":
                printed = _run(folder, "-c", text)
            elif kind == "sh":
                printed = "".join(
                    _run(folder, "-m", *words)
                    for words in map(shlex.split, _commands(text))
                )
            elif kind == "text":
                return f"{match['head']}{printed}```"
            return match[0]

        return _BLOCK.sub(block, page)


def _commands(text: str) -> list[str]:
    """Return the commands of this library, each on one line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("resilient ")]


def _run(folder: Path, *arguments: str) -> str:
    """Run Python in a folder, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": _LIBRARY, "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    # NB: exit code 1 is that of a check that does not hold, too.
    if done.returncode != ("\nFAILED " in done.stdout):
        raise subprocess.CalledProcessError(done.returncode, done.args)
    return done.stdout
