"""The guide for contributors names every job, and the minutes that CI gives it."""

from __future__ import annotations

import re
import tomllib

import pytest
from tests.scripts import ROOT, load

GUIDE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


@pytest.fixture
def limits() -> dict[str, int]:
    """The minutes that CI holds each job to."""
    if not (ROOT / ".ci").exists():
        pytest.skip("no CI here: a source distribution")
    limits: dict[str, int] = load(".ci/minutes").MINUTES
    return limits


def test_the_minutes_are_those_of_ci(limits: dict[str, int]) -> None:
    """Each of them, for jobs on one Python those of any."""
    stated = re.findall(r"`nox -s ([\w.-]+)` \| (\d+) min", GUIDE)
    assert {job.partition("-")[0] for job in limits} == {
        job.partition("-")[0] for job, _ in stated
    }
    assert [
        (job, limits.get(job) or limits[job.partition("-")[0]]) for job, _ in stated
    ] == [(job, int(minutes)) for job, minutes in stated]


def test_every_job_is_named() -> None:
    """With what it is for."""
    source = (ROOT / "noxfile.py").read_text("utf-8")
    jobs = re.findall(r"^@nox\.session.*\ndef (\w+)\(", source, re.M)
    named = re.findall(r"^\| .+ \| `nox -s (\w+)[\w.-]*` \|", GUIDE, re.M)
    assert set(jobs) == set(named)


def test_the_citation_says_what_the_distribution_says() -> None:
    """The same title, license and authors as in the project's metadata."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    citation = " ".join((ROOT / "CITATION.cff").read_text("utf-8").split())

    assert project["description"] in citation
    assert f"license: {project['license']}" in citation
    for author in project["authors"]:
        assert f"- name: {author['name']}" in citation
