"""The project's chores; `.ci/run` runs them all, `nox -s tests` the tests."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13", "3.14", "3.15"]
PROJECT = nox.project.load_toml()

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.sessions = [
    "lint",
    "typing",
    "docs",
    "examples",
    "simulations",
    "oldest",
    "integration",
    "tests",
    "mutation",
    "coverage",
]


def expose_pyenv() -> None:
    """Makes every Python that pyenv has reachable as `python3.X`.

    Its shims stand on the path for all of them but start only those that
    PYENV_VERSION names; the newest patch release of each is named here.
    """
    if "PYENV_VERSION" in os.environ or shutil.which("pyenv") is None:
        return
    listed = subprocess.run(
        ["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True
    ).stdout.split()
    newest: list[str] = []
    for python in PYTHONS:
        patches = [
            int(version.removeprefix(f"{python}."))
            for version in listed
            if version.removeprefix(f"{python}.").isdecimal()
        ]
        if patches:
            newest.append(f"{python}.{max(patches)}")
    if newest:
        os.environ["PYENV_VERSION"] = ":".join(newest)


expose_pyenv()
FOUND = [python for python in PYTHONS if shutil.which(f"python{python}")] or PYTHONS
# Fleets of processes take their time: they are for the oldest and the newest.
WHOLE = {FOUND[0], FOUND[-1]}
# Measuring takes half as long again as the tests, and a second Python ran two lines
# more of 26 600. A line that only a later one runs carries a pragma.
MEASURED = FOUND[0]


def group(name: str) -> list[str]:
    """The requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


def lowest() -> list[str]:
    """The oldest allowed release of everything that pyproject.toml asks for."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *itertools.chain(*extras)]
    return [
        re.sub(r">=(\d)", r"==\1", requirement, count=1)
        for requirement in asked
        if ">=" in requirement
    ]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Runs the tests against the built wheel; on the oldest Python measures coverage.

    Those of fleets of processes run on the oldest and the newest.
    """
    session.install(".[test]")
    chosen = [] if session.python in WHOLE else ["-m", "not fleet"]
    pytest = ["pytest", *chosen, *session.posargs]
    if session.python != MEASURED:
        session.run(*pytest)
        return
    env = {"COVERAGE_FILE": str(Path(f".coverage.{session.python}").absolute())}
    session.run("coverage", "erase", env=env)
    session.run("coverage", "run", "-m", *pytest, env=env)


@nox.session(python=sorted(WHOLE))
def integration(session: nox.Session) -> None:
    """Runs the tests that need packages of others, or servers."""
    session.install(".[test]", *group("integration"))
    session.run("pytest", *(session.posargs or ["-n", "2", "tests/integration"]))
    if not session.posargs:
        # Servers that only this session installs.
        servers = ["tests/server", "-k", "granian or gunicorn"]
        session.run("pytest", *servers, env={"RESILIENT_SERVERS": "required"})


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Runs the tests with the oldest dependencies that pyproject.toml allows."""
    session.install(".[test]", *lowest())
    # The rules use none of them.
    rules = ["--ignore", "tests/machines"]
    session.run("pytest", "-m", "not fleet", *rules, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Joins what the processes of `tests` measured and holds it to the limit."""
    session.install("coverage>=7.10.1")
    measured = sorted(map(str, Path().glob(".coverage.*")))
    session.run("coverage", "combine", "--keep", "--quiet", *measured)
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Checks style and formatting; `nox -s lint -- --fix` mends both."""
    session.install(*group("lint"))
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []))
    session.run("ruff", "format", *([] if fix else ["--check"]))


@nox.session
def typing(session: nox.Session) -> None:
    """Checks the code with two type checkers, and that the API is complete."""
    session.install(".[test]", *group("integration"), *group("typing"))
    session.run("mypy")
    session.run("pyright", "--warnings")
    session.run("pyright", "--verifytypes", "resilient", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the documentation into build/docs, with warnings as errors."""
    session.install(".[aiohttp,grpc,httpx2,redis,requests]", *group("docs"))
    # -E: a page that did not change may cite code that did.
    session.run("sphinx-build", "-W", "--keep-going", "-E", "docs", "build/docs")


@nox.session
def package(session: nox.Session) -> None:
    """Builds the release into dist/, twice, and looks at what would be uploaded."""
    session.install(*group("package"))
    built = [Path(session.create_tmp()) / "again", Path("dist")]
    for folder in built:
        shutil.rmtree(folder, ignore_errors=True)
        session.run("python", "-m", "build", "--outdir", str(folder))
    files = sorted(built[1].iterdir())
    for file in files:
        if file.read_bytes() != (built[0] / file.name).read_bytes():
            session.error(f"{file.name} is not built twice the same")
    session.run("twine", "check", "--strict", *map(str, files))
    wheel = str(next(file for file in files if file.suffix == ".whl"))
    session.run("check-wheel-contents", wheel)
    # What a user gets, without what this session needs.
    clean = Path(session.create_tmp()) / "clean"
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(clean))
    python = str(clean / "bin" / "python")
    session.run("python", "-m", "pip", "--python", python, "install", wheel)
    # Without docstrings and asserts, and with each warning an error.
    quiet = [python, "-OO", "-X", "dev", "-W", "error", "-m", "resilient"]
    session.run(*quiet, "simulate", "--list", silent=True, external=True)
    session.run("cyclonedx-py", "environment", python, "-o", "dist/sbom.cdx.json")


@nox.session
def examples(session: nox.Session) -> None:
    """Runs every example as a reader would, with warnings as errors."""
    session.install(".[test]", *group("integration"))
    for example in sorted(Path("examples").glob("[0-9][0-9]_*.py")):
        session.run("python", "-W", "error", str(example))


@nox.session(python=FOUND[-1])
def simulations(session: nox.Session) -> None:
    """Holds six simulated systems against what was published of them.

    `nox -s simulations -- --write` puts what they give into the documentation.
    """
    session.install(".")
    session.run("python", "-m", "benchmarks.simulations", *session.posargs)


@nox.session(python=PYTHONS)
def bench(session: nox.Session) -> None:
    """Runs the benchmarks; writes docs/reference/cost.md from benchmarks/results.

    What does not install on one Python is missing there, by name. Arguments
    after `--` go to benchmarks.cost, as in `nox -s bench-3.13 -- --rounds 9`.
    """
    session.install(".[test]")
    for contender in group("bench"):
        session.install(contender, success_codes=[0, 1])
    figures = f"benchmarks/results/cost-{session.python}.json"
    measure = ["-m", "benchmarks.cost", "--all", "--json", figures]
    session.run("python", *measure, *session.posargs)
    session.run("python", "-m", "benchmarks.cost", "--page")
    session.run("python", "benchmarks/telemetry.py")
    session.run("python", "benchmarks/transport.py")


@nox.session(python=PYTHONS)
def interrupts(session: nox.Session) -> None:
    """Interrupts each policy 3000 times by a real signal, in each colour."""
    session.install(".[test]")
    chosen = ["tests/test_interrupts.py", "-k", "random_moment", *session.posargs]
    # A test takes minutes, which elsewhere is a hang.
    patience = ["-o", "faulthandler_timeout=1800"]
    session.run("pytest", *patience, *chosen, env={"RESILIENT_INTERRUPTS": "3000"})


@nox.session(python="3.13")
def mutation(session: nox.Session) -> None:
    """Puts faults into the library and counts those that its tests notice.

    A sample of the day, within three minutes; `-- --all _machines` is everything
    of a folder, `-- --seed 1 --sample 20 policies` another sample.
    """
    session.install(".[test]")
    asked = session.posargs or ["--seconds", "150"]
    session.run("python", "-m", "tests.mutation", *asked)
