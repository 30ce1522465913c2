"""The layers of the package: who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilient

PACKAGE = Path(resilient.__file__).parent

# A module may import from its own layer and from those before it. Policies are
# told by what they are not: a public module that is no integration.
LAYERS = (
    "foundation",
    "machines and runtimes",
    "policy",
    "policies",
    "pipeline",
    "integrations",
)
FOUNDATION = {
    "_arguments",
    "_call",
    "_clock",
    "_copies",
    "_errors",
    "_events",
    "_outcome",
    "_priority",
    "_records",
    "_signature",
    "_tally",
    "_telling",
    "_warnings",
}
# What a policy is, and what several share.
POLICY = {
    "_admission",
    "_aftermath",
    "_alone",
    "_blocks",
    "_edge",
    "_generators",
    "_heat",
    "_keys",
    "_policy",
    "_queueing",
    "_threads",
    "_watching",
    "retry_budget",
}
INTEGRATIONS = {"httpx", "httpx2", "telemetry", "testing", "demo", "__main__"}

# What looks up a layer all the same, inside a function, and why.
UPWARD = {
    ("resilient._call", "_runtimes"): "a call finds its runtime when it first waits",
}

# Nothing below may be loaded by `import resilient`: each costs as much or more.
HEAVY = {
    "anyio",
    "asyncio",
    "attrs",
    "httpx",
    "httpx2",
    "logging",
    "opentelemetry",
    "trio",
}


def layer_of(part: str) -> str:
    """The layer of a module of the package, by its first name."""
    if part in FOUNDATION:
        return "foundation"
    if part in {"_machines", "_runtimes"}:
        return "machines and runtimes"
    if part in POLICY:
        return "policy"
    if part in {"_health", "_pipeline"}:
        return "pipeline"
    if part in INTEGRATIONS or part.startswith("_http"):
        return "integrations"
    assert not part.startswith("_"), f"{part} has no place in the layers"
    return "policies"


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package but its front: dotted name and file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        if parts[-1] == "__init__":
            parts = parts[:-1]
        yield ".".join(("resilient", *parts)), path


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below one, but for what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from executed(child)


def imports(name: str, path: Path) -> set[str]:
    """The absolute names of all that a module imports, wherever in it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in executed(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: 1 - node.level or None]
                base = ".".join([*above, base]).removesuffix(".")
            if base == "resilient":  # from resilient import _clock
                found.update(f"resilient.{alias.name}" for alias in node.names)
            else:
                found.add(base)
    return found


def siblings(names: set[str]) -> set[str]:
    """The first names, inside the package, of those that are in it."""
    return {name.split(".")[1] for name in names if name.startswith("resilient.")}


PUBLIC = resilient.__all__
MODULES = [pytest.param(name, path, id=name) for name, path in modules()]
MACHINES = [
    pytest.param(name, path, id=name)
    for name, path in modules()
    if name.startswith("resilient._machines")
]


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_imports_point_down_the_layers(name: str, path: Path) -> None:
    """No module imports from a layer above its own."""
    own = LAYERS.index(layer_of(name.split(".")[1]))
    upward = {
        part
        for part in siblings(imports(name, path))
        if LAYERS.index(layer_of(part)) > own and (name, part) not in UPWARD
    }

    assert set() == upward


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_policies_never_import_each_other(name: str, path: Path) -> None:
    """A policy can be read, and removed, without its neighbours."""
    part = name.split(".")[1]
    if layer_of(part) != "policies":
        return

    others = siblings(imports(name, path)) - {part}

    assert set() == {other for other in others if layer_of(other) == "policies"}


@pytest.mark.parametrize(("name", "path"), MACHINES)
def test_machines_import_nothing_that_acts(name: str, path: Path) -> None:
    """It knows the standard library, and of ours what knows no more than that."""
    imported = imports(name, path)

    pure = {"_arguments", "_errors", "_machines", "_priority", "_records"}
    assert siblings(imported) <= pure
    outside = {found.split(".")[0] for found in imported} - {"resilient"}
    assert outside <= sys.stdlib_module_names


@pytest.mark.parametrize(("name", "path"), MACHINES)
def test_machines_cannot_tell_the_time_or_wait(name: str, path: Path) -> None:
    """A machine takes `now` as an argument; it has no clock, lock or log."""
    acting = {"asyncio", "contextvars", "logging", "threading", "time"}

    assert set() == imports(name, path) & acting


@pytest.mark.parametrize(("name", "path"), MODULES)
def test_no_module_comes_in_through_the_front_door(name: str, path: Path) -> None:
    """Only what stands on the finished package imports from it by public name."""
    if layer_of(name.split(".")[1]) == "integrations":
        return

    assert set() == imports(name, path) & {f"resilient.{each}" for each in PUBLIC}


@pytest.mark.real
def test_importing_the_package_loads_no_event_loop_and_no_integration() -> None:
    """`import resilient` pays for itself and the standard library it needs."""
    program = (
        "import sys; before = set(sys.modules); import resilient;"
        "print(*sorted(set(sys.modules) - before), sep='\\n')"
    )
    # Coverage measures subprocesses by a hook that imports a good deal itself.
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COVERAGE")
    }
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        env=env,
        text=True,
    )

    loaded = {name.split(".")[0] for name in finished.stdout.split()}
    assert "resilient" in loaded
    assert set() == loaded & HEAVY
