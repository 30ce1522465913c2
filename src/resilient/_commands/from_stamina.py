"""What stamina's calls are here."""

from __future__ import annotations

import ast
from collections.abc import Collection
from typing import Final

from resilient._commands.old_uses import Use
from resilient._commands.rewrites import (
    PASSED_ON,
    Advice,
    Made,
    UnknownError,
    applied,
    arguments_of,
    is_none,
    options,
    placed,
    source,
)

_NUMBERS: Final = (
    "attempts",
    "timeout",
    "wait_initial",
    "wait_max",
    "wait_jitter",
    "wait_exp_base",
)
_CALLERS: Final = ("RetryingCaller", "AsyncRetryingCaller")

_WORDS: Final = {
    "set_active": "resilient.testing.off() around what is to try once",
    "is_active": "leave it out",
    "set_testing": "resilient.testing.instant() takes out the pauses, attempts() limits"
    " the attempts",
    "is_testing": "leave it out",
    "instrumentation": "telemetry.instrument(), or a listener for RetryScheduled",
    "set_on_retry_hooks": "a listener for RetryScheduled",
    "get_on_retry_hooks": "a listener for RetryScheduled",
    "get_default_hooks": "telemetry.instrument()",
    "RetryHookFactory": "a listener for RetryScheduled",
    "RetryDetails": "the event RetryScheduled",
    "LoggingOnRetryHook": "telemetry.instrument() logs retries",
    "StructlogOnRetryHook": "telemetry.instrument() logs retries",
    "PrometheusOnRetryHook": "telemetry.instrument() counts retries",
    "Attempt": "resilient.Attempt",
}

NAMES: Final = ("retry", "retry_context", *_CALLERS, *_WORDS)


def _on(node: ast.expr, made: Made, functions: Collection[str]) -> None:
    """Read what is retried: types, or a hook that is asked about the error."""
    if isinstance(node, ast.Lambda) or source(node) in functions:
        test = applied(node, "outcome.error")
        made.errors.append(f"(outcome.error is not None and {test})")
        return
    made.add_types(node)
    if made.listed:
        made.changes.append(
            "if what `on=` names is a function, it gets an Outcome, of which the error"
            " is `.error`"
        )


def rewrite(use: Use, functions: Collection[str]) -> Advice:
    """Say what to write in the place of a use of stamina.

    Args:
        use: The use.
        functions: Names of the functions that the module defines.
    """
    calls = use.name in _CALLERS
    if use.call is None or not (calls or use.name in ("retry", "retry_context")):
        said = _WORDS.get(use.name, PASSED_ON)
        return Advice(by_hand=[f"`{use.name}`: {said}"])
    made = Made()
    given, rest = arguments_of(use.call, _NUMBERS if calls else ("on", *_NUMBERS))
    made.by_hand += [f"`{text}`: what it holds belongs into the Retry" for text in rest]
    try:
        if "on" in given:
            _on(given["on"], made, functions)
        else:
            made.types = ["..."]
            made.by_hand.append(
                "`...`: the types that its calls, or `.on(...)`, are given"
            )
    except UnknownError:
        made.types = ["..."]
        made.by_hand.append("`on=`: list its types")
    _limits(given, made)
    first, most, base = map(given.get, ("wait_initial", "wait_max", "wait_exp_base"))
    backoff = options(
        factor="" if base is None else source(base),
        cap="5" if most is None else source(most),
    )
    made.options["backoff"] = (
        f"exponential({'0.1' if first is None else source(first)}, {backoff})"
    )
    added = source(given["wait_jitter"]) if "wait_jitter" in given else "1"
    made.changes.append(
        f"a pause is drawn between 0 and the backoff; there up to {added} s was added"
    )
    return placed(use, made.render(), made)


def _limits(given: dict[str, ast.expr], made: Made) -> None:
    attempts, timeout = given.get("attempts"), given.get("timeout")
    count = "10" if attempts is None else source(attempts)
    within = "45" if timeout is None else source(timeout)
    if attempts is not None and is_none(attempts):
        count = ""
    if timeout is not None and is_none(timeout):
        within = ""
    made.limits(count, within)
