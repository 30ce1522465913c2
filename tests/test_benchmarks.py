"""The benchmarks run: each row once, and nothing is timed."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks._cost import page
from benchmarks._cost.rounds import Ratio, Times
from benchmarks._cost.scenes import BARE, HAND, OURS, build, scenes
from benchmarks._cost.targets import Target
from benchmarks._cost.workloads import World

SCENES = [
    pytest.param(*scene, id=f"{scene[0]}, {scene[1]}, {scene[2].name}")
    for scene in scenes()
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("group", "case", "world"), SCENES)
def test_a_row_runs_once(group: str, case: str, world: World) -> None:
    """Each contender that is installed answers, or rejects, as the others do."""
    if world.name == "uvloop":
        pytest.importorskip("uvloop")
    scene = world.run(build(group, case, world))

    here = [contender.name for contender in scene.contenders]
    assert [] == [name for name in (BARE, OURS) if name not in here]
    assert HAND not in scene.missing
    absent = {
        name: why
        for name, why in scene.missing.items()
        if why.startswith("not installed")
    }
    if absent:
        pytest.skip("; ".join(f"{name}: {why}" for name, why in absent.items()))


def test_a_ratio_is_that_of_the_rounds() -> None:
    """A round that was disturbed as a whole does not matter."""
    times = Times({BARE: [1, 1, 10], "a": [3, 3, 30], "b": [2, 2, 20]})

    assert Ratio(2.0, 2.0, 2.0) == times.ratio("a", "b")
    assert Ratio(1.5, 1.5, 1.5) == times.whole("a", "b")
    assert Ratio(1.0, 1.0, 1.0) == times.ratio("a", "b", less="b")


@pytest.mark.parametrize(
    ("reached", "limit", "at_least", "met"),
    [
        (2.0, 2.0, False, True),
        (2.1, 2.0, False, False),
        (2.0, 2.0, True, True),
        (1.9, 2.0, True, False),
        (1.9, None, False, None),
    ],
)
def test_a_target_is_met_by_the_median(
    reached: float, limit: float | None, at_least: bool, met: bool | None
) -> None:
    """Where nothing is aimed at, nothing is met or missed."""
    target = Target("Retry", "whole", Ratio(reached, 0, 9), limit, at_least)

    assert met is target.met


def test_the_first_rows_stand_beside_others() -> None:
    """A row that was not measured, or a library that was not there, is a dash."""
    rows = [
        {"name": OURS, "microseconds": 4.56, "ratio": [1, 1, 1], "lacks": ""},
        {"name": "nopanic", "microseconds": 1.84, "ratio": [0.4, 0, 1], "lacks": ""},
    ]
    table = {"group": "Retry", "case": "at once", "world": "asyncio", "rows": rows}
    result = {
        "machine": "an abacus",
        "rounds": 3,
        "versions": {},
        "targets": [],
        "tables": [table | {"missing": {}}],
    }
    text = page.render([{**result, "python": python} for python in ("3.9.1", "3.13.0")])

    rivals = "by hand | nopanic | pyresilience | interlock-cb | hyx"
    assert f"| | resilient, 3.9.1 | resilient, 3.13.0 | {rivals} |" in text
    assert "| one policy, `Retry` | 4.6 | 4.6 | – | 1.8 | – | – | – |" in text
    assert "| seven policies | – | – | – | – | – | – | – |" in text
    assert page.AIMS not in text


def test_what_is_aimed_at_stands_by_python() -> None:
    """What was reached stands beside it, with a mark."""
    target = {
        "topic": "Retry",
        "what": "whole",
        "reached": [2.0, 1.5, 2.5],
        "aim": "≤ 5 ×",
        "unit": "×",
        "met": True,
        "note": "hyx",
    }
    missed = {**target, "what": "net", "reached": [12.0, 11.0, 13.0], "met": False}
    result = {
        "machine": "an abacus",
        "rounds": 3,
        "versions": {"attrs": "25.1"},
        "targets": [target, missed],
        "tables": [],
    }
    text = page.render([{**result, "python": python} for python in ("3.9.1", "3.13.0")])

    assert "| | | aim | 3.9.1 | 3.13.0 |" in text
    cell = "2.00 (1.50–2.50) ✓ hyx"
    assert f"| Retry | whole | ≤ 5 × | {cell} | {cell} |" in text
    cell = "12.0 (11.0–13.0) ✗ hyx"
    assert f"| Retry | net | ≤ 5 × | {cell} | {cell} |" in text


def test_results_come_by_age_of_the_python(tmp_path: Path) -> None:
    """The oldest Python comes first, whatever the order of the files."""
    for python in ("3.13.0", "3.9.1"):
        result = {"python": python, "tables": [{"group": "Retry"}, {"group": "HTTP"}]}
        (tmp_path / f"cost-{python}.json").write_text(page.as_json(result), "utf-8")

    read = page.results(tmp_path)

    assert ["3.9.1", "3.13.0"] == [result["python"] for result in read]
    assert [{"group": "Retry"}, {"group": "HTTP"}] == read[0]["tables"]


def test_the_page_says_what_was_measured() -> None:
    """No figure of the page is typed: `cost.py --page` writes it from the results."""
    assert page.render(page.results()) == page.PAGE.read_text("utf-8")
    assert page.draw(page.results()) == page.PLOT.read_text("utf-8")
