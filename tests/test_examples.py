"""The examples run, are short, and show what they say they show."""

from __future__ import annotations

import logging
import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("[0-9]*.py"))

# What needs packages that the tests do without: see `tests/integration`.
ELSEWHERE = {"08_protect_openai_client"}

# What a reader is meant to see, where chance has no part in it.
SHOWN = {
    "01_retry_flaky_call": "sun over Kiel",
    "02_break_failing_circuit": "it was asked 3 times for 5 calls",
    "03_bound_concurrent_calls": "4 printed\n  2 had to wait too long\n",
    "04_limit_request_rate": "rate limiter 'complete' has no permit left",
    "05_cut_slow_calls": "TimeoutError('timed out')\n  the caller left: timeout 'stub",
    "06_compose_pipeline": "west: {'some day': 10}",
    "07_protect_http_client": "hello Summary(attempts=2, stopped=None",
    "09_hedge_slow_calls": "1000 reads sent, 0 of them cancelled",
    "10_shed_load_by_priority": "critical   60 calls/s: 100% of them served",
    "11_throttle_failing_service": "500 letters a second for 20 s:   0 sent, 500",
    "12_share_identical_calls": "100 errors, rendered 1 time: ConnectionError",
    "13_answer_from_stale_cache": "ConnectionError, 1800 s old:\nclosed, after half",
    "14_ramp_traffic_back": "(ramp_over)\n  1279 of 4000 answered; it broke down 0",
    "15_write_a_policy": "  token 1\nsugar, ordered with token 1\n",
    "16_balance_replicas": "hangs, balanced  40 of 40",
    "17_share_a_limit": "",
    "19_explore_interleavings": "before buy 1\n",
}


def each_example(*examples: Path) -> pytest.MarkDecorator:
    """Runs a test for each example, under its name."""
    return pytest.mark.parametrize(
        "example", [pytest.param(path, id=path.stem) for path in examples]
    )


@pytest.mark.real
@each_example(*(path for path in EXAMPLES if path.stem not in ELSEWHERE))
def test_an_example_shows_what_it_is_about(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its `main()` runs without a warning and prints something instructive."""
    try:
        runpy.run_path(str(example))["main"]()
    finally:
        # One that is about crashes turns their log off, for its process.
        logging.disable(logging.NOTSET)

    printed = capsys.readouterr().out
    assert "" != printed
    assert SHOWN.get(example.stem, "") in printed


@each_example(*EXAMPLES)
def test_an_example_fits_a_page(example: Path) -> None:
    """It has at most 80 lines of at most 88 columns."""
    lines = example.read_text("utf-8").splitlines()

    assert len(lines) <= 80
    assert [] == [line for line in lines if len(line) > 88]


@each_example(*EXAMPLES)
def test_an_example_is_named_after_what_it_does(example: Path) -> None:
    """Its name is a number, a verb and an object."""
    assert re.fullmatch(r"\d\d_[a-z]+(_[a-z]+)+", example.stem)


def test_every_policy_has_its_example() -> None:
    """None of those promised above is missing."""
    assert set() == ELSEWHERE.union(SHOWN) - {path.stem for path in EXAMPLES}
