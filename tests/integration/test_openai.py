"""The official OpenAI client over our transport, as the example has it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from resilient import Balance, Outcome, Pipeline, Retry, Verdict, constant

EXAMPLE = Path(__file__).parents[2] / "examples" / "08_protect_openai_client.py"
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "fake",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "Try again."},
        }
    ],
}


@pytest.mark.real
def test_a_rate_limited_completion_is_asked_for_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After the pause that the server named; two refusals and an answer."""
    runpy.run_path(str(EXAMPLE))["main"]()

    printed = "answer: Try again.\nrequests the server saw: 3\n"
    assert printed == capsys.readouterr().out


def test_each_call_of_the_client_may_use_another_key() -> None:
    """`with_options`, as the page on keys has it; the key that is refused rests."""
    httpx2 = pytest.importorskip("httpx2")
    openai = pytest.importorskip("openai")
    asked: list[str] = []

    def provider(request: Any) -> Any:
        asked.append(request.headers["authorization"].removeprefix("Bearer "))
        if asked[-1] == "sk-1":
            refused = {"error": {"code": "rate_limit_exceeded", "message": "slow"}}
            return httpx2.Response(429, headers={"retry-after": "20"}, json=refused)
        return httpx2.Response(200, json=COMPLETION)

    def judge(outcome: Outcome) -> Verdict:
        if not isinstance(outcome.error, openai.APIStatusError):
            return outcome.verdict
        outcome.retry_after = float(outcome.error.response.headers["retry-after"])
        return Verdict.PUSHBACK

    keys = Balance("sk-1", "sk-2", load="round_robin")
    http = httpx2.Client(transport=httpx2.MockTransport(provider))
    client = openai.OpenAI(api_key="none", max_retries=0, http_client=http)

    @Pipeline(Retry(backoff=constant(0)), keys, classify=judge)
    def complete() -> Any:
        asking = client.with_options(api_key=keys.current)
        return asking.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "What now?"}]
        )

    with client:
        answers = [complete().choices[0].message.content for _ in range(6)]
    assert ["Try again."] * 6 == answers
    assert (1, 6) == (asked.count("sk-1"), asked.count("sk-2"))
