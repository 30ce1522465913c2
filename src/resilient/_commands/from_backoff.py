"""What backoff's calls are here."""

from __future__ import annotations

import ast
from typing import Final

from resilient._commands.old_uses import Use
from resilient._commands.rewrites import (
    PASSED_ON,
    Advice,
    Made,
    UnknownError,
    applied,
    arguments_of,
    exponential,
    is_none,
    options,
    placed,
    source,
    unread,
)

ENTRIES: Final = ("on_exception", "on_predicate")
_GENERATORS: Final = ("expo", "constant", "fibo", "runtime", "decay")
_OF_GENERATORS: Final = ("base", "factor", "max_value", "interval")
_JITTERS: Final = ("full_jitter", "random_jitter")
NAMES: Final = (*ENTRIES, *_GENERATORS, *_JITTERS)

_FIBONACCI: Final = (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89)

_UNREAD: Final = {
    "on_success": "a line after the call",
    "on_backoff": "a listener for RetryScheduled",
    "on_giveup": "a listener for RetriesExhausted",
    "raise_on_giveup": "Fallback(None) outside the Retry returns instead of raising",
    "logger": "telemetry.instrument() logs retries",
    "backoff_log_level": "telemetry.instrument() logs retries",
    "giveup_log_level": "telemetry.instrument() logs retries",
}


def _pauses(kind: str, given: dict[str, ast.expr], jitter: str) -> tuple[str, str]:
    """Return the backoff, and what changes."""
    # A function in the place of a number is asked for one with each call.
    if any(isinstance(given.get(name), ast.Lambda) for name in _OF_GENERATORS):
        raise UnknownError
    spread = {"full_jitter": "", "None": '"none"'}.get(jitter)
    if kind == "expo":
        # NB: what grows is called base there, and what it begins with factor.
        base, factor, cap = map(given.get, ("factor", "base", "max_value"))
        text, note = exponential(base, factor, cap, spread or "")
        if spread is None:
            text, _ = exponential(base, factor, cap, '"none"')
    elif kind == "constant":
        note = ""
        interval = source(given["interval"]) if "interval" in given else "1"
        if isinstance(given.get("interval"), (ast.List, ast.Tuple)):
            raise UnknownError
        spread = {"full_jitter": '"full"', "None": ""}.get(jitter)
        rest = options(jitter=spread or "")
        text = f"constant({interval}{', ' if rest else ''}{rest})"
    elif kind == "fibo":
        note = "the pauses stop growing at 89 s"
        text = f"delays({list(_FIBONACCI)})"
        if not is_none(given.get("max_value")):
            raise UnknownError
        if jitter == "full_jitter":
            return f"lambda attempt: random.uniform(0, {text}(attempt))", note
    else:
        raise UnknownError
    if jitter == "random_jitter":
        return f"lambda attempt: {text}(attempt) + random.uniform(0, 1)", note
    if jitter not in ("full_jitter", "None"):
        raise UnknownError
    return text, note


def rewrite(use: Use) -> Advice:
    """Say what to write in the place of a use of backoff."""
    if use.name not in ENTRIES or use.call is None:
        said = PASSED_ON
        if use.name in _JITTERS:
            said = "`jitter=` of constant(), linear() and exponential()"
        return Advice(by_hand=[f"`{use.name}`: {said}"])
    judges = "exception" if use.name == "on_exception" else "predicate"
    made = Made()
    given, rest = arguments_of(use.call, ("wait_gen", judges))
    made.by_hand += [f"`{text}`: what it holds belongs into the Retry" for text in rest]
    made.by_hand += unread(_UNREAD, given)
    made.changes.append("nothing is logged unless telemetry.instrument() is called")
    if judges == "exception":
        _errors(given, made)
    elif is_none(given.get("predicate")):
        made.results.append("not value")
    else:
        made.results.append(applied(given["predicate"], "value"))
    limits: dict[str, str] = {}
    for old, new in (("max_tries", "attempts"), ("max_time", "within")):
        node = given.get(old)
        if node is None or is_none(node):
            continue
        limits[new] = source(node)
        if isinstance(node, ast.Lambda):
            limits[new] = "..."
            made.by_hand.append(f"`{old}=`: a number; a function is not asked here")
    made.limits(limits.get("attempts", ""), limits.get("within", ""))
    if "within" in limits:
        made.changes.append(
            "a pause that would end after `within` ends the call; there it was"
            " shortened, for one more try"
        )
    kind = source(given["wait_gen"]).rpartition(".")[2] if "wait_gen" in given else ""
    jitter = source(given["jitter"]) if "jitter" in given else "full_jitter"
    try:
        text, note = _pauses(kind, given, jitter.rpartition(".")[2])
        made.options["backoff"] = text
        made.changes += [note] if note else []
    except UnknownError:
        made.options["backoff"] = "..."
        said = "backoff= takes a function of the number of the attempt that failed"
        if kind == "runtime":
            said = "an on= that returns seconds, or the HTTP transports, which read it"
        made.by_hand.append(f"`{kind or '...'}`: {said}")
    return placed(use, made.render(), made)


def _errors(given: dict[str, ast.expr], made: Made) -> None:
    try:
        if "exception" not in given:
            raise UnknownError
        made.add_types(given["exception"])
    except UnknownError:
        made.types = ["..."]
        made.by_hand.append("`exception`: list its types")
        return
    if "giveup" in given:
        test = applied(given["giveup"], "outcome.error")
        made.errors = [
            f"isinstance(outcome.error, {made.types_as_text()}) and not {test}"
        ]
        made.types, made.listed = [], []
