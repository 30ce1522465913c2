"""What the built site has beside its pages, for search engines and assistants.

* `sitemap.xml` has the address of each page.
* `PAGE.md` stands beside each `PAGE.html`: its source, with the files that it shows
  and the docstrings that it refers to put in.
* `llms.txt` is an index of these, and `llms-full.txt` has them all.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PROJECT: dict[str, Any] = tomllib.loads(
    (DOCS.parent / "pyproject.toml").read_text("utf-8")
)["project"]
ADDRESS: str = PROJECT["urls"]["Documentation"].rstrip("/")
SOURCE: str = PROJECT["urls"]["Source"]

LONGEST = 160
"""Characters of a description: search engines show no more."""

_TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```\n?", re.M | re.S)
_INCLUDE = re.compile(r"^```\{literalinclude\} (\S+)\n((?::.*\n)*)```$", re.M)
_REFERENCE = re.compile(r"^```\{eval-rst\}\n(.*?)^```$", re.M | re.S)
_DIRECTIVE = re.compile(r"^\.\. auto(\w+):: (\S+)$", re.M)


def pages() -> Iterator[tuple[str, list[str]]]:
    """Yield the captions of the sidebar, each with the names of its pages."""
    for block in _TOCTREE.findall((DOCS / "index.md").read_text("utf-8")):
        caption = re.search(r"^:caption: (.+)$", block, re.M)
        names: list[str] = []
        for name in re.findall(r"^[\w/-]+$", block, re.M):
            names.append(name)
            if name.endswith("/index"):
                text = (DOCS / f"{name}.md").read_text("utf-8")
                folder = name.removesuffix("index")
                for inner in _TOCTREE.findall(text):
                    names += [
                        f"{folder}{each}"
                        for each in re.findall(r"^[\w/-]+$", inner, re.M)
                    ]
        yield caption[1] if caption else "", names


def source_of(name: str) -> str:
    """Return the text of a page, which for the changelog stands elsewhere."""
    if name == "changelog":
        return changelog()
    return (DOCS / f"{name}.md").read_text("utf-8")


def changelog() -> str:
    """Return the changelog, without links to files that are no pages."""
    text = (DOCS.parent / "CHANGELOG.md").read_text("utf-8")
    return re.sub(r"\[([^]]+)\]\((?!http)[^)]*\)", r"\1", text)


def title(text: str) -> str:
    """Return the first heading of a page."""
    found = re.search(r"^# (.+)$", text, re.M)
    return found[1] if found else ""


def description(text: str) -> str:
    """Return the first paragraph of a page in plain words, shortened."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    body = text.partition("\n# ")[2] if not text.startswith("# ") else text
    for block in body.split("\n\n")[1:]:
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", block).replace("`", "")
        words = " ".join(words.replace("*", "").split())
        if words and words[0] not in "#|!-<":
            if len(words) <= LONGEST:
                return words
            return words[: LONGEST - 1].rpartition(" ")[0] + "…"
    return title(text)


def _included(page: str, match: re.Match[str]) -> str:
    """Return a file, or the part of it, that a page shows."""
    path = (DOCS / page).parent / match[1]
    lines = path.read_text("utf-8").splitlines()
    options = dict(re.findall(r"^:([\w-]+): *(.*)$", match[2], re.M))
    first, last = 0, len(lines)
    if "start-at" in options:
        at = options["start-at"].strip('"')
        first = next(n for n, line in enumerate(lines) if at in line)
    for option, past in (("end-before", 0), ("end-at", 1)):
        if option in options:
            end = options[option].strip('"')
            last = next(n for n in range(first, last) if end in lines[n]) + past
    if "pyobject" in options:
        for node in ast.parse("\n".join(lines)).body:
            if getattr(node, "name", "") == options["pyobject"]:
                first, last = node.lineno - 1, node.end_lineno or last
    language = options.get("language", path.suffix.removeprefix("."))
    language = {"py": "python", "yml": "yaml"}.get(language, language)
    return "\n".join([f"```{language}", *lines[first:last], "```"])


def _documented(match: re.Match[str]) -> str:
    """Return the docstrings that a block of directives stands for."""
    parts: list[str] = []
    for kind, path in _DIRECTIVE.findall(match[1]):
        if kind == "module":
            module = importlib.import_module(path)
            named = [f"{path}.{name}" for name in getattr(module, "__all__", ())]
            parts.append(f"## `{path}`\n\n{inspect.getdoc(module) or ''}")
        else:
            named = [path]
        parts += [_of(name) for name in named]
    return "\n\n".join(parts)


def _of(path: str) -> str:
    holder, _, name = path.rpartition(".")
    while True:
        try:
            value: Any = importlib.import_module(holder)
            break
        except ModuleNotFoundError:
            holder, _, outer = holder.rpartition(".")
            name = f"{outer}.{name}"
    for part in name.split("."):
        value = getattr(value, part)
    try:
        signature = str(inspect.signature(value))
    except (TypeError, ValueError):
        signature = ""
    found = [f"### `{path}{signature}`\n\n{inspect.getdoc(value) or ''}"]
    for inner, member in vars(value).items() if inspect.isclass(value) else ():
        is_method = inspect.isfunction(member) or isinstance(member, property)
        if is_method and not inner.startswith("_") and (text := inspect.getdoc(member)):
            found.append(f"#### `{inner}`\n\n{text}")
    return "\n\n".join(found)


def _inlined(match: re.Match[str]) -> str:
    found = dict(re.findall(r'(\w+)="([^"]*)"', match[0]))
    if not found["src"].endswith(".svg"):
        return match[0]
    path = next(DOCS.rglob(found["src"].rpartition("/")[2]))
    # The style is for a picture that stands alone.
    plot = re.sub(r"<style>.*?</style>\n", "", path.read_text("utf-8"))
    return plot.replace("<svg ", f'<svg class="plot" aria-label="{found["alt"]}" ', 1)


def with_plots(body: str) -> str:
    """Return a page's HTML with its plots in it, in the colours of its text."""
    return re.sub(r"<img [^>]*>", _inlined, body)


def twin(name: str) -> str:
    """Return a page as Markdown that needs nothing else."""
    text = _TOCTREE.sub("", source_of(name))
    text = re.sub(r"\A---\n.*?^---\n", "", text, flags=re.M | re.S)
    text = _INCLUDE.sub(lambda match: _included(name, match), text)
    return _REFERENCE.sub(_documented, text).strip() + "\n"


def index() -> str:
    """Return `llms.txt`."""
    lines = [f"# {PROJECT['name']}", "", f"> {PROJECT['description']}", ""]
    for caption, names in pages():
        lines += [f"## {caption}", ""]
        for name in names:
            text = source_of(name)
            address = f"{ADDRESS}/{name}.md"
            lines.append(f"- [{title(text)}]({address}): {description(text)}")
        lines.append("")
    return "\n".join(lines)


def sitemap(names: list[str]) -> str:
    """Return `sitemap.xml`."""
    urls = [f"<url><loc>{ADDRESS}/{name}.html</loc></url>" for name in names]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="utf-8"?>',
            '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">',
            *urls,
            "</urlset>\n",
        ]
    )


def write(folder: Path) -> None:
    """Write all of it into the built site."""
    names = ["index", *(name for _, names in pages() for name in names)]
    twins = {name: twin(name) for name in names}
    for name, text in twins.items():
        (folder / f"{name}.md").write_text(text, "utf-8")
    (folder / "llms.txt").write_text(index(), "utf-8")
    (folder / "llms-full.txt").write_text("\n".join(twins.values()), "utf-8")
    (folder / "sitemap.xml").write_text(sitemap(names), "utf-8")
