"""The skill file for assistants: its code runs, and its mistakes are caught."""

from __future__ import annotations

import re
import warnings

import pytest
from tests.scripts import ROOT
from tests.test_docs import execute, snippets

import resilient
from resilient import ResilientWarning

PAGE = ROOT / "skills/resilient-pipeline/SKILL.md"
MISTAKES: list[tuple[str, str, str]] = re.findall(
    r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \|$", PAGE.read_text("utf-8"), re.M
)


def f() -> int:
    """A function to protect."""
    return 1


async def af() -> int:
    """The same of a coroutine."""
    return 1


NAMES = {name: getattr(resilient, name) for name in resilient.__all__}
NAMES |= {"f": f, "af": af}


def test_there_are_more_than_ten_mistakes() -> None:
    """One that is not understood would not be run."""
    assert 14 == len(MISTAKES)


@pytest.mark.parametrize(("wrong", "message", "right"), MISTAKES)
def test_a_mistake_is_caught_as_the_skill_says(
    wrong: str, message: str, right: str
) -> None:
    """By an error or a warning, at once; what is right is neither."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((TypeError, ValueError, ResilientWarning)) as caught:
            eval(wrong, NAMES)
        eval(right, NAMES)

    assert message in str(caught.value).replace("`", "")


def test_its_code_runs() -> None:
    """As the documentation's does."""
    for snippet in snippets(PAGE):
        execute(snippet, {"__name__": "__main__"})


def test_it_can_be_found() -> None:
    """By the name of its folder, and a description of a length that is read."""
    head = re.match(
        r"---\nname: (.+)\ndescription: (.+)\n---\n", PAGE.read_text("utf-8")
    )

    assert head is not None
    assert PAGE.parent.name == head[1]
    assert 100 < len(head[2]) < 1024
