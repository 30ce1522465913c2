"""Where is the rule: from a behaviour to the file and line that decide it.

    python docs/rules.py [WORD...]

Prints each question of docs/contributing/where-is-the-rule.md in which all the words
occur, behind its file and line. The page names definitions, which move less than
lines do; the lines are looked up here, for the terminal and for the built page.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src" / "resilient"
PAGE = Path(__file__).parent / "contributing" / "where-is-the-rule.md"
ROW = re.compile(
    r"^\| (?P<question>[^|]+\?) \| `(?P<file>[\w/]+\.py)` \| `(?P<name>[\w.]+)` \|$",
    re.M,
)


class Rule(NamedTuple):
    """A question, and the definition that answers it."""

    question: str
    file: str
    name: str

    @property
    def line(self) -> int:
        """The line in which the definition begins.

        Raises:
            LookupError: The file or the definition is not there.
        """
        path = SOURCE / self.file
        if not path.is_file():
            raise LookupError(f"there is no {self.file}")
        node: ast.AST = _parsed(path)
        for part in self.name.split("."):
            found = [inner for inner in ast.walk(node) if part in _names(inner)]
            if not found:
                raise LookupError(f"{self.file} has no {self.name}")
            node = found[0]
        return node.lineno  # type: ignore[attr-defined]  # a definition has one


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _names(node: ast.AST) -> list[str]:
    """What a function, class or assignment defines."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def rules(page: str) -> Iterator[Rule]:
    """The rows of the page's tables."""
    for match in ROW.finditer(page):
        yield Rule(match["question"], match["file"], match["name"])


def with_lines(page: str) -> str:
    """The page with the line behind each file."""

    def row(match: re.Match[str]) -> str:
        rule = Rule(match["question"], match["file"], match["name"])
        file = f"`{rule.file}:{rule.line}`"
        return f"| {rule.question} | {file} | `{rule.name}` |"

    return ROW.sub(row, page)


def main(words: list[str]) -> None:
    """Print the rules in whose questions the words occur."""
    for rule in rules(PAGE.read_text("utf-8")):
        text = f"{rule.question} {rule.file} {rule.name}".lower()
        if all(word.lower() in text for word in words):
            where = f"src/resilient/{rule.file}:{rule.line}"
            print(f"{where}  {rule.name}\n    {rule.question}")


if __name__ == "__main__":
    main(sys.argv[1:])
