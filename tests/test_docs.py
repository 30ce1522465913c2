"""What the documentation shows is true: every snippet runs."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

import resilient
import resilient.testing
from resilient import telemetry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

# A snippet that cannot run is announced by `<!-- skip: reason -->` on the line
# before it. Each is a promise that nothing checks: raise this with a heavy heart.
SKIPPED_AT_MOST = 0

FENCE = re.compile(
    r"^(?:<!-- skip: (?P<reason>[^\n]+) -->\n)?"
    r"```python[^\n]*\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
INCLUDE = re.compile(
    r"^```\{literalinclude\} (?P<path>\S+)\n(?P<options>[^`]*)```$", re.M
)


def path_in_project(path: Path) -> str:
    """Where a file stands, from the top of the project."""
    return path.relative_to(ROOT).as_posix()


def path_in_docs(path: Path) -> str:
    """Where a page stands, from the top of the documentation."""
    return path.relative_to(ROOT / "docs").as_posix()


class Snippet(NamedTuple):
    """One ```python block: where its code begins, and the code."""

    page: Path
    line: int
    code: str
    reason: str | None


def snippets(page: Path) -> Iterator[Snippet]:
    """The snippets of a page, in order."""
    text = page.read_text("utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Snippet(page, line, match["code"], match["reason"])


def execute(snippet: Snippet, namespace: dict[str, object]) -> None:
    """Runs a snippet as if typed at a prompt, where `await` needs no function."""
    source = "\n" * snippet.line + snippet.code  # errors point into the page
    code = compile(
        source,
        str(snippet.page),
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )
    if code.co_flags & inspect.CO_COROUTINE:

        async def awaited() -> None:
            await eval(code, namespace)

        asyncio.run(awaited())
    else:
        exec(code, namespace)


def pages_with_snippets() -> list[Path]:
    """The pages that have something to run."""
    return [page for page in PAGES if any(not each.reason for each in snippets(page))]


@pytest.mark.parametrize("page", pages_with_snippets(), ids=path_in_project)
def test_the_snippets_of_a_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who types a page from top to bottom sees no error."""
    # What a page writes is its reader's.
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    # A page that is about waiting brings its own clock.
    brings_its_own = "resilient.testing" in page.read_text("utf-8")
    with nullcontext() if brings_its_own else resilient.testing.instant():
        for snippet in snippets(page):
            if snippet.reason is None:
                execute(snippet, namespace)
    # A page that is about watching leaves it turned on.
    telemetry.uninstrument()


def test_few_snippets_are_skipped() -> None:
    """What is not run is counted, and gives its reason."""
    skipped = [each for page in PAGES for each in snippets(page) if each.reason]

    assert SKIPPED_AT_MOST >= len(skipped), skipped


def test_code_with_other_libraries_stands_on_six_pages() -> None:
    """Each is run by a module of tests/integration."""
    others = [
        path_in_project(page)
        for page in PAGES
        if re.search(r"^```py$", page.read_text("utf-8"), re.M)
    ]

    assert [
        "docs/how-to/gevent.md",
        "docs/how-to/move-here.md",
        "docs/how-to/protect-a-fastapi-service.md",
        "docs/how-to/protect-a-flask-or-django-service.md",
        "docs/how-to/queue-workers.md",
        "docs/how-to/read-from-database-replicas.md",
    ] == others


def options_after_moving() -> Iterator[tuple[str, str]]:
    """The right column of the tables of old and new options: policy and options."""
    text = (ROOT / "docs/how-to/move-here.md").read_text("utf-8")
    for row in re.findall(r"^\|.*\| `(.+)` \|$", text, re.M):
        head = re.fullmatch(r"(\w+)\(…\)", row)
        if head is not None:
            policy = head[1]
        else:
            yield policy, row


@pytest.mark.parametrize(("policy", "options"), dict.fromkeys(options_after_moving()))
def test_the_options_after_moving_are_accepted(policy: str, options: str) -> None:
    """What a table says to write instead makes a policy."""
    names = {name: getattr(resilient, name) for name in resilient.__all__}
    made = eval(f"{policy}({options})", names)

    assert policy == type(made).__name__


def test_the_table_of_libraries_names_what_there_is() -> None:
    """Each name in the column of this library can be imported."""
    text = (ROOT / "docs/explanation/comparison.md").read_text("utf-8")
    names = re.findall(r"^\| [^|`]+ \| `([\w.]+)` \|", text, re.M)

    assert 36 == len(names)
    for name in names:
        module, _, last = f"resilient.{name}".rpartition(".")
        assert callable(getattr(importlib.import_module(module), last)), name


@pytest.mark.parametrize("page", PAGES, ids=path_in_project)
def test_every_snippet_stands_at_the_margin(page: Path) -> None:
    """One that is indented, as in a list, would not be run."""
    text = page.read_text("utf-8")

    assert [] == re.findall(r"^[ >]+```python.*$", text, re.M)


def test_every_example_is_shown_verbatim() -> None:
    """The documentation includes each example, whole and only once."""
    shown = [
        path_in_project((page.parent / match["path"]).resolve())
        for page in PAGES
        for match in INCLUDE.finditer(page.read_text("utf-8"))
        if not re.search(r"lines|start-|end-|pyobject", match["options"])
    ]
    examples = [
        path_in_project(path) for path in (ROOT / "examples").glob("[0-9][0-9]_*.py")
    ]

    assert sorted(examples) == sorted(shown)


def test_every_public_name_has_a_place_in_the_reference() -> None:
    """No name of `__all__` is missing from the reference."""
    reference = "\n".join(
        page.read_text("utf-8") for page in (ROOT / "docs" / "reference").glob("*.md")
    )
    named = re.findall(r"^\.\. auto[a-z]+:: resilient\.(\w+)$", reference, re.M)

    assert set() == set(resilient.__all__) - set(named)


@pytest.mark.parametrize("page", PAGES, ids=path_in_project)
def test_local_links_lead_somewhere(page: Path) -> None:
    """A relative link of a page names a file that is there."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    targets = {
        target.partition("#")[0]
        for target in re.findall(r"\]\(([^)\s]+)\)", text)
        if not target.startswith(("http", "#", "mailto:"))
    }

    assert [] == [each for each in sorted(targets) if not (page.parent / each).exists()]


@pytest.mark.parametrize("folder", ["how-to", "explanation", "tutorial"])
def test_the_first_page_links_every_page(folder: str) -> None:
    """A page that only the sidebar has is not found by who reads."""
    text = (ROOT / "docs" / "index.md").read_text("utf-8")
    pages = {path_in_docs(page) for page in (ROOT / "docs" / folder).glob("*.md")}

    assert set() == pages - set(re.findall(r"\]\(([^)#\s]+)", text))


def test_the_index_of_the_reference_links_every_page() -> None:
    """What is looked up begins there."""
    folder = ROOT / "docs" / "reference"
    linked = re.findall(r"\]\(([^)#\s]+)", (folder / "index.md").read_text("utf-8"))
    pages = {page.name for page in folder.glob("*.md")} - {"index.md"}

    assert set() == pages - set(linked)


def modules() -> list[str]:
    """Every module of the package that can be imported without side effects."""
    return [
        "resilient",
        *sorted(
            module.name
            for module in pkgutil.walk_packages(resilient.__path__, "resilient.")
            if not module.name.endswith("__main__")
        ),
    ]


@pytest.mark.parametrize("name", modules())
def test_the_examples_in_docstrings_run(name: str) -> None:
    """What a docstring shows at the prompt is what the prompt shows."""
    if name in ("resilient.aiohttp", "resilient._http.aiohttp_client"):
        pytest.importorskip("aiohttp")  # Python 3.15 is too new for its wheels
    module = importlib.import_module(name)
    with resilient.testing.instant():
        failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)

    assert 0 == failed
