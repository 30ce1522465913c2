"""The fixture `simulate`, in a pytest of its own."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from resilient.simulation import pytest_plugin

TESTS = """
    from resilient import CircuitBreaker, Pipeline, Retry, Timeout
    from resilient.simulation import Outage, Scenario

    CALM = Scenario("calm", rate=5, duration=10)
    DOWN = Scenario("down", rate=5, duration=20, events=[Outage(5, 10)])

    def test_it_holds(simulate):
        result = simulate(Timeout(1), CALM, name="one")
        assert result.goodput == 1
        assert [1, 2] == [run.seed for run in result.runs]

    def test_its_own_seeds(simulate):
        assert [7] == [run.seed for run in simulate(Timeout(1), CALM, seeds=[7]).runs]

    def test_it_fails(simulate):
        simulate(Timeout(1), CALM, name="one")
        simulate(Timeout(2), DOWN, name="two")
        result = simulate(Timeout(0.001), CALM, name="three")
        assert result.recovers_within(3)

    def test_it_simulates_nothing(simulate):
        assert simulate is None

    def test_it_fails_without():
        assert 1 == 2
"""


def run(folder: Path, *arguments: str) -> pytest.ExitCode | int:
    """Run the tests above by a pytest inside this one."""
    path = folder / "test_of_user.py"
    path.write_text(textwrap.dedent(TESTS), "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", "utf-8")
    options = ["--import-mode=importlib", "--rootdir", str(folder), "-c", "pytest.ini"]
    without = [f"-pno:{name}" for name in ("cacheprovider", "faulthandler", "xdist")]
    return pytest.main(
        [*options, *without, *arguments, str(path)], plugins=[pytest_plugin]
    )


def test_failed_tests_leave_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One for each scenario, whose path the failure says; seeds are an option."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    code = run(tmp_path, "--resilient-seeds=2", "--resilient-report=pages/all")

    said = capsys.readouterr().out
    assert pytest.ExitCode.TESTS_FAILED == code
    assert "3 failed, 2 passed" in said
    stem = "pages/all/test_of_user.py-test_it_fails"
    paths = [Path(f"{stem}.html"), Path(f"{stem}-2.html")]
    assert set(paths) == set(Path("pages/all").iterdir())
    assert f"{paths[0]}\n{paths[1]}" in said
    assert "2 of 2 seeds (1, 2) never within" in said
    pages = [path.read_text("utf-8") for path in paths]
    names = [re.findall("<td>(one|two|three)</td>", page) for page in pages]
    assert [["one", "three"], ["two"]] == names


def test_without_a_folder_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The failure explains itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    run(tmp_path, "--resilient-seeds=1", "-k", "fails")

    assert "1 of 1 seeds (1) never within" in capsys.readouterr().out
    left = {path.name for path in tmp_path.iterdir()}
    assert {"pytest.ini", "test_of_user.py"} == left - {"__pycache__"}
