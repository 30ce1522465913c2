"""What `resilient migrate` writes does what the old call did."""

from __future__ import annotations

import ast
import itertools
import random
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

import resilient
from resilient import Event, Retry, RetryScheduled
from resilient._commands.migrate import _NAMES, advice_for
from resilient._commands.old_uses import uses_in
from resilient.testing import instant

# Python 3.15 deprecates what backoff asks for: its matter, not the command's.
pytestmark = pytest.mark.filterwarnings(
    "ignore:'asyncio.iscoroutinefunction' is deprecated:DeprecationWarning"
)

ANSWERS = [
    [OSError(2, "no"), OSError(2, "no"), "good"],
    [OSError(1, "busy"), "good"],
    [KeyError("busy")] * 9,
    [None, None, "good"],
    [OSError(1, "busy")] * 9,
    [None] * 9,
]
"""What a function does in turn: raise, or return."""


def done(
    decorate: Callable[[Any], Any], answers: list[object]
) -> tuple[int, type | object]:
    """How often it was called, and what it came to."""
    count = 0

    @decorate
    def function() -> object:
        nonlocal count
        answer = answers[count]
        count += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    try:
        value = function()
    except Exception as error:
        return count, type(error)
    return count, value


def after(old: str, library: str) -> Retry:
    """The policy that the command writes for a decorator."""
    source = f"from {library} import *\nimport {library}\n@{old}\ndef f(): ..."
    [use] = uses_in(ast.parse(source), _NAMES)
    written = advice_for(use, []).write.removeprefix("@")
    names = {name: getattr(resilient, name) for name in resilient.__all__}
    made = eval(written, {**names, "random": random, "re": re})
    assert isinstance(made, Retry)
    return made


def compared(
    old: str, library: str, namespace: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run both on each list of answers, and compare runs, results and pauses."""
    before: list[float] = []
    monkeypatch.setattr(time, "sleep", before.append)
    decorator = eval(old, namespace)
    policy = after(old, library)
    pauses: list[float] = []

    def note(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            pauses.append(event.delay)

    policy.subscribe(note)
    for answers in ANSWERS:
        before.clear()
        pauses.clear()
        policy.reset()
        expected = done(decorator, answers)
        with instant():
            assert expected == done(policy, answers), (old, answers)
        assert before == pytest.approx(pauses), (old, answers)


STOPS = ["stop_after_attempt(1)", "stop_after_attempt(4)"]
WAITS = [
    "wait_none()",
    "wait_fixed(2)",
    "wait_random(3, 3)",
    "wait_exponential(multiplier=1, min=4, max=10)",
    "wait_exponential(multiplier=0.5, exp_base=3, max=9)",
    "wait_incrementing(1, 2, 4)",
    "wait_chain(wait_fixed(1), wait_fixed(5))",
    "wait_fixed(3) + wait_exponential(max=9)",
    "wait_exponential_jitter(max=3, jitter=0)",
]
CONDITIONS = [
    "retry_if_exception_type()",
    "retry_if_exception_type((OSError, ValueError))",
    "retry_if_not_exception_type(KeyError)",
    "retry_if_exception(lambda error: error.args[0] == 2)",
    "retry_if_exception_message(match='.*busy')",
    "retry_if_exception_type(OSError) | retry_if_exception(lambda e: 'busy' in str(e))",
]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_what_is_written_for_tenacity(
    condition: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each condition with each wait: as many runs, the same pauses and error."""
    tenacity = pytest.importorskip("tenacity")
    for stop, wait in itertools.product(STOPS, WAITS):
        old = f"retry(stop={stop}, wait={wait}, retry={condition}, reraise=True)"
        compared(old, "tenacity", vars(tenacity), monkeypatch)


@pytest.mark.parametrize(
    "on",
    ["OSError", "(OSError, KeyError)", "lambda error: error.args[0] in (1, 'busy')"],
)
def test_what_is_written_for_stamina(on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many runs and the same error; its pauses are drawn otherwise."""
    stamina = pytest.importorskip("stamina")
    for attempts in (1, 3):
        old = f"stamina.retry(on={on}, attempts={attempts}, wait_initial=1)"
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        policy, decorator = after(old, "stamina"), eval(old, {"stamina": stamina})
        for answers in ANSWERS:
            policy.reset()
            expected = done(decorator, answers)
            with instant():
                assert expected == done(policy, answers), (old, answers)


@pytest.mark.parametrize(
    "judged",
    [
        "on_exception(backoff.expo, OSError",
        "on_exception(backoff.expo, (OSError, KeyError), base=3, factor=2, max_value=9",
        "on_exception(backoff.constant, OSError, interval=2",
        "on_exception(backoff.fibo, Exception",
        "on_exception(backoff.expo, OSError, giveup=lambda error: error.errno == 1",
        "on_predicate(backoff.expo",
        "on_predicate(backoff.constant, lambda value: value is None",
    ],
)
def test_what_is_written_for_backoff(
    judged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many runs, the same pauses, the same result."""
    backoff = pytest.importorskip("backoff")
    for tries in (1, 4):
        old = f"backoff.{judged}, max_tries={tries}, jitter=None)"
        compared(old, "backoff", {"backoff": backoff}, monkeypatch)
