"""The dashboard and the alert rules: what they name, when they fire, and how."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.telemetry.processes import App, Server, tool, until

from resilient.__main__ import DASHBOARDS, main

HERE = Path(__file__).parent
GUIDE = HERE.parent.parent / "docs" / "how-to" / "watch.md"


# -- What is shipped


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the command line writes out."""
    folder = tmp_path_factory.mktemp("dashboards") / "made" / "here"
    assert 0 == main(["dashboards", str(folder)])
    return folder


@pytest.fixture(scope="module")
def rules(written: Path) -> str:
    """The alert rules."""
    return (written / "resilient.rules.yml").read_text("utf-8")


@pytest.fixture(scope="module")
def dashboard(written: Path) -> Any:
    """The dashboard."""
    return json.loads((written / "resilient.dashboard.json").read_text("utf-8"))


def panels(dashboard: Any) -> Iterator[Any]:
    """The panels of a dashboard, without its rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


# -- The command line


def test_what_is_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a file."""
    assert 0 == main(["dashboards", str(tmp_path)])
    assert [str(tmp_path / name) for name in DASHBOARDS] == (
        capsys.readouterr().out.splitlines()
    )


def test_what_is_there_is_replaced_by_force_only(tmp_path: Path) -> None:
    """Otherwise nothing is written at all."""
    rules = tmp_path / "resilient.rules.yml"
    rules.write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["dashboards", str(tmp_path)])
    assert (
        f"resilient dashboards: already there: {rules}; --force replaces what is"
    ) == stopped.value.code
    assert [rules] == list(tmp_path.iterdir())
    assert "mine" == rules.read_text()

    assert 0 == main(["dashboards", str(tmp_path), "--force"])
    assert "mine" != rules.read_text()
    assert {*DASHBOARDS} == {path.name for path in tmp_path.iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("exists", [True, False])
def test_what_a_link_leads_to_is_left_alone(tmp_path: Path, exists: bool) -> None:
    """The link is replaced, not what it names, be that there or not."""
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    if exists:
        elsewhere.write_text("mine")
    for name in DASHBOARDS:
        (folder / name).symlink_to(elsewhere)
    assert 0 == main(["dashboards", str(folder), "--force"])
    assert exists == elsewhere.exists()
    assert not exists or "mine" == elsewhere.read_text()
    assert [False, False] == [(folder / name).is_symlink() for name in DASHBOARDS]


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    """In the words of the operating system."""
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(SystemExit) as stopped:
        main(["dashboards", str(path)])
    assert f"resilient dashboards: cannot write {path}: File exists" == (
        stopped.value.code
    )


# -- The alert rules


def test_promtool_finds_no_fault_in_the_rules(written: Path) -> None:
    """Nor anything that it would only warn of."""
    lint = ("--lint=all", "--lint-fatal", str(written / "resilient.rules.yml"))
    subprocess.run([tool("promtool"), "check", "rules", *lint], check=True)


def test_the_alerts_fire_at_their_thresholds(written: Path, tmp_path: Path) -> None:
    """And not before: promtool plays the series of resilient.rules.test.yml."""
    shutil.copy(written / "resilient.rules.yml", tmp_path)
    shutil.copy(HERE / "resilient.rules.test.yml", tmp_path)
    done = subprocess.run(
        [tool("promtool"), "test", "rules", "resilient.rules.test.yml"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert 0 == done.returncode, done.stdout


def test_every_alert_has_a_test(rules: str) -> None:
    """That it fires, with its text."""
    tested = (HERE / "resilient.rules.test.yml").read_text("utf-8")
    fired = re.findall(r"alertname: (\w+)\n +exp_alerts:", tested)
    assert re.findall(r"- alert: (\w+)", rules) == fired


# -- What they name


class Selector(NamedTuple):
    """What PromQL looks for: a pattern for each label; the name is one, too."""

    matchers: list[tuple[str, str, str]]

    def finds(self, series: dict[str, str]) -> bool:
        """Whether it finds a series."""
        return all(
            (sign[0] == "=") == bool(re.fullmatch(value, series.get(label, "")))
            for label, sign, value in self.matchers
        )


def selectors(expression: str) -> Iterator[Selector]:
    """Everything that an expression of PromQL looks for."""
    for name, inside in re.findall(r"(\bresilient_\w+|(?={))(?:{(.*?)})?", expression):
        matcher = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"(.*?)"')
        matchers = matcher.findall(inside)
        assert "" == matcher.sub("", inside).strip(", "), expression
        if name:
            matchers.append(("__name__", "=", name))
        yield Selector(matchers)


def check(expression: str, labels: set[str], emitted: list[dict[str, str]]) -> None:
    """Assert that everything an expression names, and a text about it, is there."""
    known = {"le"}
    wanted = list(selectors(expression))
    assert wanted, expression
    for selector in wanted:
        found = [series for series in emitted if selector.finds(series)]
        assert found, f"{selector} finds nothing"
        known.update(*found)
    grouped = re.findall(r"\b(?:by|without|on|ignoring)\s*\((.*?)\)", expression)
    labels = labels.union(*(re.findall(r"\w+", group) for group in grouped))
    assert set() == labels - known, expression


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    """A process that is watched."""
    with App.running() as app:
        yield app


@pytest.fixture(scope="module")
def emitted(app: App) -> list[dict[str, str]]:
    """All series there are, once something has waited and something has failed."""

    def has(name: str) -> bool:
        return any(series["__name__"] == name for series in app.series())

    until(lambda: has("resilient_permit_wait_seconds_count"), "a wait")
    until(lambda: has("resilient_host_cpu"), "two looks at the host")
    app.say("break")
    until(lambda: has("resilient_retry_delay_seconds_count"), "a retry")
    app.say("mend")
    return app.series()


@pytest.mark.real
def test_alerts_name_what_is_emitted(rules: str, emitted: list[dict[str, str]]) -> None:
    """Metrics, labels, their values, and the labels that their texts tell."""
    _, *alerts = rules.split("- alert:")
    for alert in alerts:
        found = re.search(r"expr: \|\n((?: {10}.*\n)+)", alert)
        assert found
        check(found[1], set(re.findall(r"\$labels\.(\w+)", alert)), emitted)


@pytest.mark.real
def test_panels_name_what_is_emitted(
    dashboard: Any, emitted: list[dict[str, str]]
) -> None:
    """Metrics, labels, their values, and the labels of legends and variables."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            legend = re.findall(r"{{(\w+)}}", target["legendFormat"])
            expression = re.sub(r"\$(job|pipeline)\b", ".*", target["expr"])
            check(expression, set(legend), emitted)
    for variable in dashboard["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert found
        check(found[1].replace("$job", ".*"), {found[2]}, emitted)
        assert variable["name"] == found[2]


@pytest.mark.real
def test_panels_show_all_that_is_emitted(
    dashboard: Any, emitted: list[dict[str, str]]
) -> None:
    """No metric is without its panel."""
    wanted = [
        selector
        for panel in panels(dashboard)
        for target in panel["targets"]
        for selector in selectors(target["expr"])
    ]
    shown = {
        value
        for query in wanted
        for name, _, value in query.matchers
        if name == "__name__"
    }
    names = {
        re.sub("_(bucket|count|sum)$", "_bucket", series["__name__"])
        for series in emitted
        if series["__name__"].startswith("resilient_")
    }
    assert set() == {
        name
        for name in names
        if not any(re.fullmatch(pattern, name) for pattern in shown)
    }


@pytest.mark.real
def test_a_selector_that_finds_nothing_is_found(
    emitted: list[dict[str, str]],
) -> None:
    """The checks above can fail: by name, label, value, and grouping."""
    check('rate(resilient_calls_total{outcome="failure"}[5m])', {"job"}, emitted)
    for expression in (
        "resilient_call_total",
        'resilient_calls_total{result="failure"}',
        'resilient_calls_total{outcome="failed"}',
        'resilient_calls_total{outcome!~".*"}',
        "sum by (policy) (resilient_calls_total)",
    ):
        with pytest.raises(AssertionError):
            check(expression, set(), emitted)
    with pytest.raises(AssertionError):
        check("resilient_calls_total", {"policy"}, emitted)


# -- How they look


def test_no_two_panels_stand_in_one_place(dashboard: Any) -> None:
    """Nor have one id, nor stand out of the grid of 24 columns."""
    rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    taken: set[tuple[int, int]] = set()
    for panel in [*rows, *panels(dashboard)]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert set() == taken & cells, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in [*rows, *panels(dashboard)]]
    assert len(set(ids)) == len(ids)


def test_the_guide_explains_every_panel_and_alert(dashboard: Any, rules: str) -> None:
    """By its name, in this order."""
    guide = GUIDE.read_text("utf-8")
    told = re.findall(r"^\| \*\*(.+?)\*\* \|", guide, re.MULTILINE)
    assert [panel["title"] for panel in panels(dashboard)] == told
    alerts = re.findall(r"- alert: (\w+)", rules)
    assert alerts == re.findall(r"^### (Resilient\w+)$", guide, re.MULTILINE)


# -- A real server


@pytest.fixture(scope="module")
def server(
    app: App, rules: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A Prometheus with the alert rules, but quick: seconds for minutes."""
    folder = tmp_path_factory.mktemp("prometheus")
    quick, alerts = re.subn(r"for: \d+m\n", "for: 1s\n", rules)
    assert alerts == rules.count("- alert:")
    (folder / "resilient.rules.yml").write_text(quick, "utf-8")
    every = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config = {
        "global": {**every, "scrape_timeout": "500ms"},
        "rule_files": ["resilient.rules.yml"],
        "scrape_configs": [
            {
                "job_name": "app",
                "static_configs": [{"targets": [f"127.0.0.1:{app.port}"]}],
            }
        ],
    }
    with Server.running(folder, config) as server:
        yield server


@pytest.mark.real
def test_an_open_circuit_fires_its_alert_and_resolves_it(
    server: Server, app: App
) -> None:
    """A real Prometheus scrapes a real process whose dependency goes down."""
    name = "ResilientCircuitOpen"
    app.say("mend")
    closed = 'resilient_circuit_state{state="closed"} == 1'
    until(lambda: server.query(closed), "the circuit is closed")
    assert [] == server.firing(name)

    app.say("break")
    [alert] = until(lambda: server.firing(name), "the alert fires")
    assert (
        "api: the circuit CircuitBreaker stays open"
        == (alert["annotations"]["summary"])
    )
    assert {"job": "app", "pipeline": "api", "policy": "CircuitBreaker"}.items() <= (
        alert["labels"].items()
    )

    app.say("mend")
    until(lambda: not server.firing(name), "the alert is resolved")
    until(lambda: server.query(closed), "the circuit is closed again")


@pytest.mark.real
@pytest.mark.usefixtures("emitted")
def test_every_panel_shows_something(server: Server, dashboard: Any) -> None:
    """A real Prometheus understands all its expressions, and finds data."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "10s")
            expression = re.sub(r"\$(job|pipeline)\b", ".*", expression)
            until(lambda e=expression: server.query(e), expression)
