"""Scenario files: TOML, whose keys are those of `Scenario` and `Dependency`.

A key that is unknown, or a value that is out of range, is refused with the file, the
key, the rule and the value.
"""

from __future__ import annotations

import importlib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any, Final, NamedTuple

import attrs

from resilient._values.checks import number
from resilient.simulation._chance import (
    Distribution,
    constant_time,
    exponential_time,
    lognormal_time,
    normal_time,
    pareto_time,
    quantile_time,
    uniform_time,
)
from resilient.simulation._checks import checked
from resilient.simulation._dependency import Dependency
from resilient.simulation._events import KINDS, Happening
from resilient.simulation._near import near
from resilient.simulation._scenario import Scenario
from resilient.simulation._trace import Trace, read_trace

VERSION: Final = 1

TOP: Final = ("version", "name", "duration", "load", "dependency", "events", "checks")
LOAD: Final = (
    "rate",
    "users",
    "think",
    "calls",
    "trace",
    "clients",
    "arrivals",
    "patience",
    "keys",
)
DEPENDENCY: Final = (
    "servers",
    "nodes",
    "service",
    "crowding",
    "network",
    "queue",
    "queue_limit",
    "backlog",
    "quota",
    "refusing",
    "abandoned",
    "conflicts",
    "failures",
    "error",
    "depth",
    "recorded",
)
EVENT: Final = ("kind", "from", "to", "share", "factor")

# What a distribution is made of: a number, or a table with these keys.
TIMES: Final[Mapping[str, tuple[Callable[..., Distribution], tuple[str, ...]]]] = {
    "constant": (constant_time, ()),
    "exponential": (exponential_time, ()),
    "uniform": (uniform_time, ("low", "high")),
    "normal": (normal_time, ("mean", "deviation")),
    "lognormal": (lognormal_time, ("median", "p99")),
    "pareto": (pareto_time, ("minimum", "shape")),
}


class ScenarioFile(NamedTuple):
    """A scenario, and what is to be true of a configuration in it."""

    scenario: Scenario
    checks: Mapping[str, float]


def find(text: str) -> ScenarioFile:
    """Return what a text names: a file, or a scenario that is built in."""
    if text.endswith(".toml") or os.path.exists(text):
        return read(text)
    return built_in(text)


def scenarios() -> tuple[Scenario, ...]:
    """Return all scenarios that are built in."""
    return tuple(built_in(name).scenario for name in names())


def read(path: str) -> ScenarioFile:
    """Read a scenario file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is none; the text says where.
    """
    with open(path, "rb") as file:
        return parse(file.read().decode("utf-8", "replace"), path)


def built_in(name: str) -> ScenarioFile:
    """Return the scenario that is built in by a name.

    Raises:
        ValueError: There is none; the text says which there are.
    """
    return parse(text_of(name), name)


def text_of(name: str) -> str:
    """Return the file of a scenario that is built in.

    Raises:
        ValueError: There is none.
    """
    if name not in names():
        raise ValueError(
            f"no scenario {name!r} is built in: there are {', '.join(names())}"
        )
    text: str = (_folder() / f"{name}.toml").read_text("utf-8")
    return text


def names() -> list[str]:
    """Return the names of the scenarios that are built in."""
    files = [file.name for file in _folder().iterdir()]
    return sorted(file.removesuffix(".toml") for file in files if ".toml" in file)


def _folder() -> Any:
    return resources.files("resilient") / "simulation" / "scenarios"


def parse(text: str, source: str) -> ScenarioFile:
    """Read the text of a scenario file.

    Args:
        text: TOML.
        source: What it is called in errors: the path.

    Raises:
        ValueError: It is no scenario.
    """
    try:
        return made_of(tomllib.loads(text), source)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from None


def schema() -> str:
    """Return the JSON Schema of scenario files.

    It leaves out rules that two keys are needed for, and what only Python knows.
    """
    text: str = (_folder().parent / "scenario.schema.json").read_text("utf-8")
    return text


def made_of(given: dict[str, Any], source: str) -> ScenarioFile:
    """Return what the keys of a scenario file say.

    Args:
        given: The values by key, tables as dictionaries.
        source: As for `parse`.

    Raises:
        TypeError, ValueError: One of them is not known, or out of range.
    """
    _known("", given, TOP)
    if given.get("version") != VERSION or given["version"] is True:
        raise ValueError(f"`version` must be {VERSION}, got {given.get('version')!r}")
    load, modelled = _table("load", given), _table("dependency", given)
    _known("load.", load, LOAD)
    _known("dependency.", modelled, DEPENDENCY)
    events = _list(given.get("events", []))
    changes: dict[str, Any] = {key: load[key] for key in LOAD if key in load}
    traces: dict[str, Trace] = {}
    if "trace" in load:
        for key in ("rate", "arrivals"):
            if key in load:
                raise ValueError(f"`load.{key}` has no meaning with `trace`")
        changes["trace"] = _trace("load.trace", load["trace"], source, traces)
    if "think" in changes:
        changes["think"] = _time("load.think", changes["think"])
    if "duration" in given:
        changes["duration"] = given["duration"]
    if "recorded" in modelled:
        for key in modelled:
            if key not in ("recorded", "error"):
                raise ValueError(f"`dependency.{key}` has no meaning with `recorded`")
        trace = _trace("dependency.recorded", modelled["recorded"], source, traces)
        modelled = {**modelled, "recorded": trace}
    name = source.replace("\\", "/").rpartition("/")[2].removesuffix(".toml")
    dependency = _dependency(modelled)
    if "service" not in modelled:
        dependency = fitted(dependency, changes.get("trace"))
    scenario = Scenario(
        given.get("name", name),
        dependency=dependency,
        events=[_event(event) for event in events],
        **changes,
    )
    return ScenarioFile(scenario, checked(_table("checks", given)))


def fitted(dependency: Dependency, trace: Trace | None) -> Dependency:
    """Return a dependency that takes as long as a trace says, if it says so."""
    if trace is None or not trace.has_latencies or dependency.recorded is not None:
        return dependency
    return attrs.evolve(dependency, service=trace.service())


def _trace(key: str, given: Any, source: str, read: dict[str, Trace]) -> Trace:
    """Read what was recorded, once a file, by its path from that of the scenario."""
    if not _is(given, str):
        raise TypeError(f"`{key}` must be the path of a file, got {given!r}")
    path = os.path.join(os.path.dirname(source), given)
    if path not in read:
        try:
            read[path] = read_trace(path)
        except OSError as error:
            raise ValueError(f"`{key}` cannot be read: {error}") from None
    return read[path]


def _dependency(given: dict[str, Any]) -> Dependency:
    changes = dict(given)
    for key in ("service", "network"):
        if key in changes:
            changes[key] = _time(f"dependency.{key}", changes[key])
    if "error" in changes:
        changes["error"] = _error(changes["error"])
    return Dependency(**changes)


def _time(name: str, given: Any) -> Distribution:
    if not _is(given, dict) or len(given) != 1:
        raise TypeError(
            f"`{name}` must be a distribution, as {{ exponential = 0.1 }} is, got"
            f" {given!r}"
        )
    [(kind, value)] = given.items()
    _known(f"{name}.", [kind], (*TIMES, "quantiles"))
    if kind == "quantiles":
        return quantile_time(_quantiles(name, value))
    make: Any
    make, keys = TIMES[kind]
    arguments = {"seconds" if kind == "constant" else "mean": value}
    if keys:
        if not _is(value, dict) or set(value) != set(keys):
            raise TypeError(
                f"`{name}.{kind}` must be a table of {' and '.join(keys)}, got"
                f" {value!r}"
            )
        arguments = value
    made: Distribution = make(**arguments)
    return made


def _quantiles(name: str, given: Any) -> dict[float, float]:
    """Read shares and seconds: a list, for a table has no numbers as keys."""
    if not _is(given, list) or not all(_is(e, list) and len(e) == 2 for e in given):
        raise TypeError(
            f"`{name}.quantiles` must be pairs of share and seconds, as"
            f" [[0.5, 0.02], [0.99, 0.1]] are, got {given!r}"
        )
    return {
        number(f"{name}.quantiles", share, minimum=0): number(
            f"{name}.quantiles", seconds, minimum=0
        )
        for share, seconds in given
    }


def _error(given: Any) -> Callable[[str], Exception]:
    """Import the exception that a text names: ``httpx.ConnectError``."""
    module, _, name = str(given).rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module or "builtins"), name)
    except (ImportError, AttributeError):
        found = None
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise ValueError(
            f"`dependency.error` must name an exception, as httpx.ConnectError does,"
            f" got {given!r}"
        )
    return found


def _list(given: Any) -> list[Any]:
    if not _is(given, list):
        raise TypeError(f"`events` must be tables, as [[events]] is, got {given!r}")
    found: list[Any] = given
    return found


def _event(given: Any) -> Happening:
    if not _is(given, dict):
        raise TypeError(f"`events` must be tables, as [[events]] is, got {given!r}")
    _known("events.", given, EVENT)
    kinds: dict[str, Any] = {kind.word: kind for kind in KINDS}
    word = given.get("kind")
    if word not in kinds:
        listed = ", ".join(kinds)
        raise ValueError(
            f"`events.kind` must be one of {listed}, got {word!r}{_hint(word, kinds)}"
        )
    kind = kinds[word]
    takes = [field.name for field in kind.__attrs_attrs__ if field.name in EVENT]
    more = {key: given[key] for key in ("share", "factor") if key in given}
    for key in more:
        if key not in takes:
            raise ValueError(f"`events.{key}` has no meaning for {word!r}")
    # NB: what hangs does so for all, unless a share is given.
    needed = ["from", "to", *(takes if word != "hang" else ())]
    for key in needed:
        if key not in given:
            raise ValueError(f"`events.{key}` is missing for {word!r}")
    made: Happening = kind(given["from"], given["to"], **more)
    return made


def _table(key: str, given: dict[str, Any]) -> dict[str, Any]:
    found: Any = given.get(key, {})
    if not _is(found, dict):
        raise TypeError(f"`{key}` must be a table, as [{key}] is, got {found!r}")
    table: dict[str, Any] = found
    return table


def _is(given: Any, kind: type[object]) -> bool:
    # NB: a function, for `isinstance` narrows what is of any kind to what is not known
    # in part.
    return isinstance(given, kind)


def _known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a key that is not known, and name the nearest that is."""
    for key in given:
        if key not in known:
            hint = _hint(key, known) or f": there are {', '.join(known)}"
            raise ValueError(f"`{where}{key}` is not known{hint}")


def _hint(key: object, known: Iterable[str]) -> str:
    meant = near(key, known)
    return f": {meant}" if meant else ""
