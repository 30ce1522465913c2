"""``resilient simulate``, and the page that it writes."""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from resilient import CircuitBreaker, Pipeline, Timeout
from resilient.__main__ import build_parser, main
from resilient.simulation import Hang, Outage, Scenario, compare, save, simulate
from resilient.simulation._command import run
from resilient.simulation._page import page
from resilient.simulation._summary import as_json, sparkline

SHORT = """
version = 1
duration = 30
[load]
rate = 20
clients = 2
[dependency]
servers = 3
[[events]]
kind = "refuse"
from = 5
to = 10
[checks]
recovers_within = 15
"""

SHOP = """
from resilient import *

catalogue = Pipeline(Retry(ConnectionError), CircuitBreaker(open_for=1), Timeout(1))

@Retry(ConnectionError)
@Timeout(1)
def fetch(): ...
"""


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a scenario and policies of a user's, and the process in it."""
    (tmp_path / "short.toml").write_text(SHORT, "utf-8")
    (tmp_path / "simulated_shop.py").write_text(SHOP, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("simulated_shop", None)


def simulated(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command; return its exit code, and what it printed."""
    code = main(["simulate", *arguments])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_the_best_numbers_are_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    """And shown beside what there was; those that make no difference first."""
    chosen = "--choose", "retry.attempts=1..2", "--choose", "timeout.seconds=2"
    code, said = simulated(
        capsys, "short.toml", "-p", "simulated_shop:fetch", "--seeds", "1", *chosen
    )

    assert 0 == code
    assert said.startswith(
        "goodput - 0.1 * attempts, of seven seeds in short:\n  retry"
    )
    assert re.search(r"^  retry\.attempts=1, timeout\.seconds=2: 0\.\d+, ", said, re.M)
    assert re.search(r"^\| retry\.attempts=1, timeout\.seconds=2 +\|", said, re.M)


def test_the_defaults_are_shown_with_naive_retries(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where no policy is named: a table, a picture, and the path of a page."""
    code, said = simulated(capsys, "short.toml", "--seeds", "1")

    assert 0 == code
    assert said.startswith("short: 20 requests/s for 30 s, 2 clients, 1 seed\nReal")
    assert re.search(r"^\| naive retries \| ", said, re.M)
    assert re.search(r"^  the defaults   [▁-█]{30}$", said, re.M)
    assert re.search(r"^ok     the defaults: recovers_within 15: recovered", said, re.M)
    path = Path(said.splitlines()[-1])
    assert path.name.startswith("resilient-short-")
    assert path.read_text("utf-8").startswith("<!doctype html>")
    path.unlink()


def test_policies_and_changes_of_them_are_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the names of what the user wrote."""
    code, said = simulated(
        capsys,
        "short.toml",
        *("-p", "simulated_shop:fetch", "-p", "simulated_shop:catalogue"),
        *("--set", "retry.budget=None", "--sweep", "retry.attempts=1,2"),
        *("--sweep", "timeout.seconds=2", "--seeds", "1"),
        *("--check", "recovers_within=0", "--check", "goodput=0.5"),
        *("--check", "p99=0.000001"),
    )
    rows = re.findall(r"^\| (\S.*?) +\|", said, re.M)

    assert 1 == code
    assert [
        "simulated_shop:fetch",
        "simulated_shop:catalogue",
        "retry.budget=None",
        "retry.attempts=1, timeout.seconds=2",
        "retry.attempts=2, timeout.seconds=2",
    ] == rows
    last = said.splitlines()[-3:]
    assert last[0].startswith("ok     retry.attempts=2, timeout.seconds=2: recovers_")
    assert last[1].startswith("ok     retry.attempts=2, timeout.seconds=2: goodput")
    assert last[2].startswith("FAILED retry.attempts=2, timeout.seconds=2: p99")


def test_files_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON for programs, and a page."""
    arguments = "short.toml", "-p", "simulated_shop:catalogue", "--seeds", "2"
    code, said = simulated(
        capsys, *arguments, "--json", "found.json", "--html", "found.html"
    )
    found = json.loads(Path("found.json").read_text("utf-8"))

    assert 0 == code
    assert ["found.json", "found.html"] == said.splitlines()[-2:]
    assert "short" == found["scenario"]["name"]
    assert [{"kind": "refuse", "from": 5, "to": 10}] == found["scenario"]["events"]
    [configuration] = found["configurations"]
    assert configuration["checks"][0]["holds"]
    assert [1, 2] == [seed["seed"] for seed in configuration["seeds"]]
    assert "circuit.state" in configuration["seeds"][0]["series"]
    assert "recovers_within 15" in Path("found.html").read_text("utf-8")


def test_scenarios_are_listed_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """To begin one's own with."""
    code, said = simulated(capsys, "--list")

    assert 0 == code
    assert "retry-storm" in said.splitlines()
    code, said = simulated(capsys, "retry-storm", "--print")
    assert 0 == code
    assert '\nkind = "hold"' in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["storm"], "no scenario 'storm' is built in: there are balancing"),
        (["missing.toml"], "No such file or directory: 'missing.toml'"),
        (["-p", "simulated_shop:nothing"], "simulated_shop has no nothing"),
        (["--set", "retry.attempts"], "--set must be KEY=VALUE, got 'retry.attempts'"),
        (
            ["--check", "goodputt=1"],
            "no check is called 'goodputt': did you mean 'good",
        ),
        (["--check", "xyz=1"], "no check is called 'xyz': recovers_within, amplif"),
        (["--check", "p99=fast"], "`p99` must be a number, got 'fast'"),
        (["--seeds", "0"], "`seeds` must be >= 1, got 0"),
        (["--set", "timeout.seconds=-1"], "`seconds` must be > 0 seconds, got -1"),
        (
            ["huge.toml"],
            "36000000000 requests take about 333 hours: --yes simulates them",
        ),
    ],
)
def test_what_is_wrong_is_told(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """With exit code 2, before anything runs."""
    Path("huge.toml").write_text(
        "version = 1\nduration = 3600\n[load]\nrate = 1e6", "utf-8"
    )
    code, printed = simulated(capsys, *arguments)

    assert 2 == code
    assert printed.startswith("resilient simulate: ")
    assert said in printed


def test_a_retry_that_no_error_concerns_is_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And simulated, for it may be meant."""
    text = SHORT.replace("servers = 3", 'servers = 3\nerror = "OSError"')
    Path("other.toml").write_text(text, "utf-8")
    code, said = simulated(
        capsys, "other.toml", "--seeds", "1", "-p", "simulated_shop:catalogue"
    )

    assert 0 == code
    assert "warning: no error of the scenario 'other' is a failure to Retry(" in said


def test_a_reader_that_has_enough_is_no_file_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`main` ends quietly where the other end of a pipe is closed."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        run(build_parser().parse_args(["simulate", "--list"]))


def test_progress_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """And wiped out at the end."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    arguments = "short.toml", "-p", "simulated_shop:fetch", "--seeds", "2"
    assert 0 == main(["simulate", *arguments])

    steps = shown.getvalue().split("\r")
    assert f"[{'#' * 20}{'.' * 20}]" in steps
    assert steps[-2].strip() == steps[-1] == ""


def test_a_terminal_without_blocks_gets_letters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The picture is of what it can show."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", printed)
    arguments = "short.toml", "-p", "simulated_shop:fetch", "--seeds", "1"
    assert 0 == main(["simulate", *arguments])

    printed.seek(0)
    assert re.search(r"^  simulated_shop:fetch  [_.:=+*#-]{30}$", printed.read(), re.M)


def test_a_sparkline_is_some_fifty_characters() -> None:
    """Each the mean of some seconds."""
    assert "▁▄█" == sparkline([0.0, 0.4, 1.0])
    assert "▄" * 48 == sparkline([0.0, 0.8] * 48)


# -- The page


def test_a_page_is_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    """No script, no link, no address; small, and each plot is a drawing."""
    scenario = Scenario("a <b>", rate=20, duration=20, events=[Outage(5, 8)])
    policies = {
        "one & two": Timeout(1),
        "a name that is far too long for its place": Pipeline(
            CircuitBreaker(), Timeout(1)
        ),
    }
    found = list(compare(policies, scenario, seeds=1).values())
    path = tmp_path / "page.html"
    save(found, path, [("one & two", "p99 < 1", False), ("two", "p50", True)])
    text = path.read_text("utf-8")

    assert 100_000 > len(text)
    assert not re.search(r"https?:|//|<script|<link|<img|@import|url\(", text)
    assert "a &lt;b&gt;" in text
    assert '<span class="bad">failed</span> one &amp; two: p99 &lt; 1' in text
    assert "hold 5–8 s" in text
    plots = re.findall(r"<svg.*?</svg>", text, re.S)
    assert 4 < len(plots)
    for number, plot in enumerate(plots):
        drawn = ElementTree.fromstring(plot)
        paths = [each.get("class") or "" for each in drawn.iter("path")]
        lines = [each for each in paths if "line" in each]
        # The first is on top; what one alone has keeps its colour.
        assert (["line s1", "line s0"] if number < 4 else ["line s1"]) == lines
    assert "circuit.state" in text
    found[0].save(path)
    assert '<span class="bad">' not in path.read_text("utf-8")


def test_what_is_not_known_leaves_a_gap() -> None:
    """A second without an answer has no latency."""
    calm = Scenario("calm", rate=20, duration=20)
    hung = Scenario("hung", rate=20, duration=20, events=[Hang(5, 10)])
    for scenario, gaps in ((calm, 1), (hung, 2)):
        result = simulate(Timeout(0.5), scenario, seeds=1)
        text = page(scenario, [["x"]], [("x", result.worst)], [], 1)
        [line] = re.findall(
            r'Mean latency of.*?<path class="line s0" d="(.*?)"', text, re.S
        )
        assert gaps == line.count("M")
    assert "nothing" in page(calm, [["x"]], [], [], 1)


def test_names_of_lines_that_end_together_are_all_in_the_plot() -> None:
    """At the top of it as well as at the bottom."""
    calm = Scenario("calm", rate=20, duration=20)
    run = simulate(Timeout(0.5), calm, seeds=1).worst
    text = page(calm, [["x"]], [(f"line {n}", run) for n in range(3)], [], 1)
    plots = re.findall(r"<svg.*?</svg>", text, re.S)
    for plot in plots[:3]:
        names = re.findall(r'<text class="t\d" x="466" y="([\d.]+)">line', plot)
        places = sorted(map(float, names))
        assert 3 == len(places)
        assert 18 <= places[0]
        assert places[-1] <= 192
        assert all(b - a >= 18 for a, b in itertools.pairwise(places))


def test_figures_without_an_answer_are_null_in_json() -> None:
    """For JSON has no NaN."""
    hung = Scenario("hung", rate=5, duration=10, events=[Hang(0, 10)])
    result = simulate(Timeout(0.5), hung, seeds=1)

    assert as_json([result], {})["configurations"][0]["figures"]["p99"] is None
