"""The JSON Schema of scenario files accepts what the loader accepts."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest

from resilient.__main__ import main
from resilient.simulation import _files
from resilient.simulation._checks import CHECKS
from resilient.simulation._events import KINDS

SCHEMA: dict[str, Any] = json.loads(_files.schema())
# NB: it would write defaults into what it checks.
VALID = fastjsonschema.compile(SCHEMA, use_default=False)
DOCS = Path(__file__).parents[2] / "docs"
# Recorded requests.
TRACE = str(Path(__file__).with_name("trace.csv"))

# A file that says all there is to say, apart from users and traces, which take the
# place of a rate, and of a model.
WHOLE: dict[str, Any] = tomllib.loads("""
version = 1
name = "whole"
duration = 60
load = { rate = 5, clients = 2, arrivals = "poisson", patience = 9, keys = 7 }
[dependency]
servers = 3
nodes = 2
service = { constant = 0.1 }
crowding = 0.001
network = { constant = 0.01 }
queue = "lifo"
queue_limit = 4
backlog = 1
quota = 9
refusing = 0.1
abandoned = "dropped"
conflicts = true
failures = 0.01
error = "OSError"
depth = 2
""")

VALUES: list[Any] = [
    *(0, -1, 1, 0.25, 1.5, 2, 10, 60, 61, True, False),
    *("", "fifo", "lifo", "poisson", "constant", "served", "dropped", "OSError"),
    *(kind.word for kind in KINDS),
    *([], [1], [[0.5, 1], [0.9, 2]], {}, {"x": 1}, {"constant": 1}, {"rate": 1}),
    datetime.date(2026, 1, 1),
    datetime.time(1),
]

TIMES: list[Any] = [
    *({kind: value} for kind in _files.TIMES for value in VALUES),
    *({"quantiles": value} for value in VALUES),
    *(
        {kind: dict(zip(keys, (low, high), strict=True)) | more}
        for kind, (_, keys) in _files.TIMES.items()
        if keys
        # NB: rising, for a schema compares no two values.
        for low, high in ((0, 3), (1, 3), (-1, 3), (1, "3"), (True, 3), (2, -1), (0, 0))
        for more in ({}, {"x": 1})
    ),
    *({"quantiles": [[0.5, low], [high, 2]]} for low in (0, 1) for high in (0.9, 1)),
    {"quantiles": [[0.5, 1]]},
    {"quantiles": [[0.5, 1, 2], [0.9, 2]]},
    {"quantiles": [1, 2]},
    {"quantiles": [[0.5], [0.9, 2]]},
    {"quantiles": [[0.5, "1"], [0.9, 2]]},
    {"quantiles": [["0.5", 1], [0.9, 2]]},
    {"quantiles": [[-0.5, 1], [0.9, 2]]},
    {"quantiles": [[True, 1], [0.9, 2]]},
    {"constant": 1, "exponential": 1},
]


def put(path: str, value: object) -> dict[str, Any]:
    """Return the whole file with one value changed, by its path."""
    given = deepcopy(WHOLE)
    *tables, key = path.split(".")
    table = given
    for name in tables:
        table = table.setdefault(name, {})
    table[key] = value
    return given


def event(**keys: object) -> dict[str, Any]:
    """Return a file with one event; None leaves a key out."""
    given = {key.strip("_"): value for key, value in keys.items() if value is not None}
    return {"version": 1, "events": [given]}


def files() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield files with one value that may be wrong, and what it is of."""
    paths = [*_files.TOP, *(f"load.{key}" for key in _files.LOAD), "x", "load.x"]
    paths += [f"dependency.{key}" for key in (*_files.DEPENDENCY, "x")]
    paths += [f"checks.{key}" for key in (*CHECKS, "x")]
    for path in paths:
        for value in VALUES:
            yield path, put(path, value)
    for path in ("dependency.service", "dependency.network"):
        for time in TIMES:
            yield path, put(path, time)
    for time in (*TIMES, *VALUES):
        yield "load.think", {"version": 1, "load": {"users": 2, "think": time}}
    for value in VALUES:
        yield "load.calls", {"version": 1, "load": {"users": 2, "calls": value}}
        yield "events", event(kind=value, from_=1, to=3)
        yield "events", {"version": 1, "events": [value]}
    for kind in KINDS:
        for key in ("share", "factor", "x"):
            for value in VALUES:
                yield "events", event(kind=kind.word, from_=1, to=3, **{key: value})
        for share, factor in ((1, 1), (None, None), (0.5, None), (None, 0.5)):
            takes = {"kind": kind.word, "share": share, "factor": factor}
            yield "events", event(from_=1, to=None, **takes)
            yield "events", event(from_=None, to=3, **takes)
            yield "events", event(from_=None, to=None, **takes)
            for value in VALUES:
                # NB: after any number that may be the beginning, and before the end.
                yield "events", event(from_=value, to=61.5, **takes)
                if value != 61:
                    yield "events", event(from_=0, to=value, **takes)
    for value in (*VALUES, TRACE):
        yield "load.trace", {"version": 1, "load": {"trace": value}}
        yield "dependency.recorded", {"version": 1, "dependency": {"recorded": value}}
    for key, value in (("rate", 5), ("users", 5), ("arrivals", "constant")):
        yield "x", {"version": 1, "load": {"trace": TRACE, key: value}}
    yield "version", {}


def only_the_loader_refuses(path: str, given: Mapping[str, Any]) -> bool:
    """Whether a text is no exception or no file, which takes Python to find out."""
    if path in ("load.trace", "dependency.recorded") and "name" in given:
        # NB: in the whole file they stand beside what they replace.
        return False
    for where, right in (
        ("dependency.error", "OSError"),
        ("dependency.recorded", TRACE),
        ("load.trace", TRACE),
    ):
        if path == where:
            table, _, key = where.partition(".")
            text = given.get(table, {}).get(key)
            return isinstance(text, str) and text != right
    return False


def is_valid(given: dict[str, Any]) -> bool:
    """Whether the schema accepts a file."""
    try:
        VALID(given)
    except fastjsonschema.JsonSchemaValueException:
        return False
    return True


def is_loaded(given: dict[str, Any]) -> bool:
    """Whether the loader does; it raises nothing but TypeError and ValueError."""
    try:
        _files.made_of(given, "x")
    except (TypeError, ValueError):
        return False
    return True


def test_the_schema_has_every_key() -> None:
    """Of each table, each event and each distribution; and a text to most."""
    tables = SCHEMA["properties"]
    kinds = [
        each["properties"]["kind"].get("enum") or [each["properties"]["kind"]["const"]]
        for each in tables["events"]["items"]["oneOf"]
    ]

    assert set(_files.TOP) == set(tables)
    assert set(_files.LOAD) == set(tables["load"]["properties"])
    assert set(_files.DEPENDENCY) == set(tables["dependency"]["properties"])
    assert set(CHECKS) == set(tables["checks"]["properties"])
    assert set(_files.EVENT) == set(tables["events"]["items"]["properties"])
    assert {kind.word for kind in KINDS} == set(chain.from_iterable(kinds))
    assert {*_files.TIMES, "quantiles"} == set(
        SCHEMA["definitions"]["time"]["properties"]
    )
    for table in ("load", "dependency", "checks"):
        assert all(
            "description" in each for each in tables[table]["properties"].values()
        )


def test_the_defaults_of_the_schema_are_those_of_the_library() -> None:
    """What a key is when it is left out."""
    scenario = _files.made_of({"version": 1}, "x").scenario
    for table, made in (("load", scenario), ("dependency", scenario.dependency)):
        for key, known in SCHEMA["properties"][table]["properties"].items():
            default = getattr(made, key)
            if key == "error":
                default = default.__name__
            if "default" in known:
                assert known["default"] == default, key
            else:
                assert default is None or key == "service"
    assert SCHEMA["properties"]["duration"]["default"] == scenario.duration


def test_schema_and_loader_agree() -> None:
    """On every key, with values that are right and values that are not."""
    accepted, refused = set[str](), set[str]()
    for path, given in files():
        loaded = is_loaded(given)
        (accepted if loaded else refused).add(path)
        if only_the_loader_refuses(path, given):
            assert not loaded
            assert is_valid(given), f"{path}: {given}"
        else:
            assert is_valid(given) == loaded, f"{path}: {given}"

    assert {"x", "load.x", "dependency.x", "checks.x"} == refused - accepted
    assert {"name"} < accepted
    assert set() == accepted - refused


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            '[[events]]\nkind = "hold"\nfrom = 3\nto = 2',
            "`end` must be > 3, got 2",
        ),
        (
            '[[events]]\nkind = "hold"\nfrom = 3\nto = 301',
            "ends after the run, which takes 300 s",
        ),
        (
            "load = { users = 1 }\n[[events]]\n"
            'kind = "load"\nfrom = 3\nto = 4\nfactor = 2',
            "has no meaning for `users`",
        ),
        (
            "[dependency]\nservice = { uniform = { low = 2, high = 1 } }",
            "`high` must be >= 2, got 1",
        ),
        (
            "[dependency]\nservice = { lognormal = { median = 2, p99 = 1 } }",
            "`p99` must be > 2, got 1",
        ),
        (
            "[dependency]\nservice = { quantiles = [[0.5, 2], [0.9, 1]] }",
            "`quantiles` must be two or more rising seconds",
        ),
        ("[checks]\ngoodput = inf", "`goodput` must be finite, got inf"),
    ],
)
def test_what_takes_two_keys_is_left_to_the_loader(table: str, said: str) -> None:
    """A schema compares no values, and JSON has no infinity."""
    text = f"version = 1\n{table}"

    assert is_valid(tomllib.loads(text))
    with pytest.raises(ValueError, match=re.escape(said)):
        _files.parse(text, "x.toml")


def test_scenarios_that_are_shown_follow_the_schema() -> None:
    """Those that are built in, and those of the documentation."""
    texts = {name: _files.text_of(name) for name in _files.names()}
    for page in sorted(DOCS.rglob("*.md")):
        found = re.findall(
            r"^```toml\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S
        )
        shown = [text for text in found if "version = 1\n" in text]
        texts |= {f"{page.stem} {place}": text for place, text in enumerate(shown)}

    assert {"simulate 0", "choose-your-numbers 0"} < set(texts)
    for name, text in texts.items():
        assert is_valid(tomllib.loads(text)), name


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """For an editor."""
    assert 0 == main(["simulate", "--schema"])
    assert SCHEMA == json.loads(capsys.readouterr().out)
