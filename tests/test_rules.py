"""The index of rules leads somewhere: docs/contributing/where-is-the-rule.md."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.scripts import load

index = load("docs/rules.py")
TEXT = index.PAGE.read_text("utf-8")
RULES = [pytest.param(rule, id=rule.question) for rule in index.rules(TEXT)]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_where_the_index_says(rule: Any) -> None:
    """The file is there, and in it the definition."""
    text = (index.SOURCE / rule.file).read_text("utf-8").splitlines()

    assert rule.name.rpartition(".")[2] in text[rule.line - 1]


def test_every_row_is_understood() -> None:
    """A row with a slip in it would be shown, and not be checked."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    heads = [line for line in rows if line.startswith("| question ")]

    assert len(RULES) == len(rows) - len(heads)


def test_many_questions_have_an_answer() -> None:
    """Forty at least, and none is asked twice."""
    questions = [rule.question for rule in index.rules(TEXT)]

    assert len(set(questions)) == len(questions) >= 40


@pytest.mark.parametrize(
    ("file", "name", "text"),
    [
        ("nowhere.py", "Call", "there is no nowhere.py"),
        ("__init__.py", "Nothing", "__init__.py has no Nothing"),
    ],
)
def test_a_rule_that_went_is_missed(file: str, name: str, text: str) -> None:
    """Moving or renaming a definition makes the row of it fail."""
    with pytest.raises(LookupError, match=f"^{re.escape(text)}$"):
        _ = index.Rule("Where is it?", file, name).line


def test_the_built_page_has_the_lines() -> None:
    """They are looked up when the page is built, and are never out of date."""
    built = index.with_lines(TEXT)

    assert len(RULES) == len(re.findall(r"^\| .+\? \| `[\w/]+\.py:\d+` ", built, re.M))


def test_words_find_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    """`python docs/rules.py probe cancelled` leads to file and line."""
    index.main(["probe", "cancelled"])

    printed = capsys.readouterr().out
    assert re.match(r"src/resilient/_machines/circuit\.py:\d+ ", printed)
    assert 2 == len(printed.splitlines())
