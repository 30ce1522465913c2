"""The official OpenAI client over our transport, as the example has it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "08_protect_openai_client.py"


@pytest.mark.real
def test_a_rate_limited_completion_is_asked_for_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After the pause that the server named; two refusals and an answer."""
    runpy.run_path(str(EXAMPLE))["main"]()

    printed = "answer: Try again.\nrequests the server saw: 3\n"
    assert printed == capsys.readouterr().out
