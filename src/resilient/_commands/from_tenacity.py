"""What tenacity's calls are here."""

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
    number,
    options,
    parts_of,
    placed,
    source,
    unread,
)

ENTRIES: Final = ("retry", "Retrying", "AsyncRetrying", "TornadoRetrying")

_ORDER: Final = (
    "sleep",
    "stop",
    "wait",
    "retry",
    "before",
    "after",
    "before_sleep",
    "reraise",
    "retry_error_cls",
    "retry_error_callback",
    "name",
    "enabled",
)

_UNREAD: Final = {
    "sleep": "leave it out: the loop of the call is found; tests use"
    " resilient.testing.instant()",
    "before": "before_retry= runs before each further attempt",
    "after": "a listener for RetryScheduled",
    "before_sleep": "a listener for RetryScheduled; telemetry.instrument() logs it",
    "retry_error_cls": "the last error comes as it was: raise your own from it",
    "retry_error_callback": "Fallback(function=...) outside the Retry",
    "enabled": "resilient.testing.off() in tests, else no decorator",
}

_PIECES: Final = {
    "stop_after_attempt": ("max_attempt_number",),
    "stop_after_delay": ("max_delay",),
    "stop_before_delay": ("max_delay",),
    "wait_fixed": ("wait",),
    "wait_none": (),
    "wait_random": ("min", "max"),
    "wait_incrementing": ("start", "increment", "max"),
    "wait_exponential": ("multiplier", "max", "exp_base", "min"),
    "wait_random_exponential": ("multiplier", "max", "exp_base", "min"),
    "wait_full_jitter": ("multiplier", "max", "exp_base", "min"),
    "wait_exponential_jitter": (
        "initial",
        "max",
        "exp_base",
        "jitter",
        "min",
        "multiplier",
    ),
    "retry_if_exception": ("predicate",),
    "retry_if_exception_type": ("exception_types",),
    "retry_if_not_exception_type": ("exception_types",),
    "retry_if_exception_message": ("message", "match"),
    "retry_if_result": ("predicate",),
    "retry_if_not_result": ("predicate",),
}

_WORDS: Final = {
    "RetryError": "the last error comes as it was: catch that; it is what"
    " `last_attempt` held",
    "TryAgain": "raise an error that the Retry lists",
    "RetryCallState": "a listener gets an event, `on` an Outcome, before_retry a Call",
    "statistics": "listen for RetryScheduled and RetriesExhausted, or use"
    " telemetry.instrument()",
    "retry_with": "decorate the plain function with another Retry",
    "retry": "in tests resilient.testing.instant() takes out the pauses and off() the"
    " retries",
    "before_log": "telemetry.instrument() logs retries",
    "after_log": "telemetry.instrument() logs retries",
    "before_sleep_log": "telemetry.instrument() logs retries",
}

NAMES: Final = (
    *ENTRIES,
    *_PIECES,
    *(name for name in _WORDS if name not in ("statistics", "retry_with")),
    "stop_all",
    "stop_any",
    "stop_never",
    "stop_when_event_set",
    "wait_chain",
    "wait_combine",
    "retry_any",
    "retry_all",
    "retry_always",
    "retry_never",
    "retry_unless_exception_type",
)


def _piece(node: ast.expr) -> tuple[str, dict[str, ast.expr], list[ast.expr]]:
    """Return the last name of a call, its arguments by name, and those in a row."""
    if not isinstance(node, ast.Call):
        raise UnknownError
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    given, rest = arguments_of(node, _PIECES.get(name, ()))
    if name in _PIECES and rest:
        raise UnknownError
    return name, given, node.args


def _seconds(node: ast.expr) -> str:
    """Return a wait as an expression of `attempt`, the number that failed."""
    parts = parts_of(node, ast.Add)
    if len(parts) > 1:
        return " + ".join(map(_seconds, parts))
    name, given, row = _piece(node)
    if name == "wait_combine" and row:
        return " + ".join(map(_seconds, row))
    if name == "wait_fixed":
        return source(given["wait"])
    if name == "wait_random":
        low, high = (
            source(given[end]) if end in given else text
            for end, text in (("min", "0"), ("max", "1"))
        )
        return f"random.uniform({low}, {high})"
    text, _ = backoff(node)
    return (
        text.removeprefix("lambda attempt: ")
        if "lambda" in text
        else (f"{text}(attempt)")
    )


def backoff(node: ast.expr) -> tuple[str, str]:
    """Return what `backoff` is for a wait, and what changes.

    Raises:
        UnknownError: It is none of tenacity's own, or has no counterpart.
    """
    if len(parts_of(node, ast.Add)) > 1:
        return f"lambda attempt: {_seconds(node)}", ""
    if not isinstance(node, ast.Call):
        raise UnknownError
    name, given, row = _piece(node)
    low = given.get("min")
    if name == "wait_none":
        return "constant(0)", ""
    if name == "wait_fixed":
        return f"constant({source(given['wait'])})", ""
    if name in ("wait_random", "wait_combine"):
        return f"lambda attempt: {_seconds(node)}", ""
    if name == "wait_chain" and row:
        chain = [_piece(part) for part in row]
        if any(part[0] != "wait_fixed" for part in chain):
            raise UnknownError
        return f"delays([{', '.join(source(part[1]['wait']) for part in chain)}])", ""
    if name == "wait_incrementing":
        start = source(given["start"]) if "start" in given else "0"
        step = source(given["increment"]) if "increment" in given else "100"
        cap = source(given["max"]) if "max" in given else "3600"
        note = "" if "max" in given else "no pause is longer than 3600 s"
        return f'linear({start}, step={step}, cap={cap}, jitter="none")', note
    if name == "wait_exponential_jitter":
        base = given.get("multiplier", given.get("initial"))
        text, note = exponential(
            base, given.get("exp_base"), given.get("max"), '"none"'
        )
        spread = source(given["jitter"]) if "jitter" in given else "1"
        text = f"{text}(attempt) + random.uniform(0, {spread})"
        if "max" in given:
            text = f"min({source(given['max'])}, {text})"
        if low is not None:
            text = f"max({source(low)}, {text})"
        return f"lambda attempt: {text}", note
    spreads = name in ("wait_random_exponential", "wait_full_jitter")
    if name != "wait_exponential" and not spreads:
        raise UnknownError
    if low is not None and number(low, 0) == 0:
        low = None
    jitter = '"none"' if low is not None or not spreads else ""
    first, factor, most = map(given.get, ("multiplier", "exp_base", "max"))
    text, note = exponential(first, factor, most, jitter)
    if low is None:
        return text, note
    least = source(low)
    if spreads:
        return f"lambda attempt: random.uniform({least}, {text}(attempt))", note
    return f"lambda attempt: max({least}, {text}(attempt))", note


def _stop(node: ast.expr, made: Made) -> dict[str, str]:
    """Return `attempts` and `within` for a stop."""
    parts = parts_of(node, ast.BitOr)
    if len(parts) == 1:
        name, given, row = _stop_piece(node)
        if name == "stop_any" and row:
            parts = row
        elif name == "stop_never":
            return {}
        elif name == "stop_after_attempt":
            return {"attempts": source(given["max_attempt_number"])}
        elif name in ("stop_after_delay", "stop_before_delay"):
            if name == "stop_after_delay":
                made.changes.append(
                    "`within` begins no pause that would end after it;"
                    " stop_after_delay begins one, and tries once more"
                )
            return {"within": source(given["max_delay"])}
        else:
            raise UnknownError
    found: dict[str, str] = {}
    for part in parts:
        more = _stop(part, made)
        if more.keys() & found.keys():
            raise UnknownError
        found |= more
    return found


def _stop_piece(node: ast.expr) -> tuple[str, dict[str, ast.expr], list[ast.expr]]:
    if source(node).rpartition(".")[2] == "stop_never":
        return "stop_never", {}, []
    return _piece(node)


def _retry(node: ast.expr, made: Made) -> None:
    """Read which outcomes are retried."""
    parts = parts_of(node, ast.BitOr)
    name, given, row = _piece(parts[0]) if len(parts) == 1 else ("retry_any", {}, parts)
    if name == "retry_any" and row:
        for part in row:
            _retry(part, made)
    elif name == "retry_if_exception_type" and "exception_types" in given:
        made.add_types(given["exception_types"])
    elif name == "retry_if_exception_type":
        _every_exception(made)
    elif name == "retry_if_not_exception_type":
        types = source(given["exception_types"])
        made.errors.append(
            f"(outcome.error is not None and not isinstance(outcome.error, {types}))"
        )
    elif name == "retry_if_exception":
        test = applied(given["predicate"], "outcome.error")
        made.errors.append(f"(outcome.error is not None and {test})")
    elif name == "retry_if_exception_message" and len(given) == 1:
        if "message" in given:
            test = f"str(outcome.error) == {source(given['message'])}"
        else:
            test = f"re.match({source(given['match'])}, str(outcome.error))"
        made.errors.append(f"(outcome.error is not None and bool({test}))")
    elif name == "retry_if_result":
        made.results.append(applied(given["predicate"], "value"))
    elif name == "retry_if_not_result":
        made.results.append(f"not {applied(given['predicate'], 'value')}")
    else:
        raise UnknownError


def _every_exception(made: Made) -> None:
    made.types.append("Exception")
    made.changes.append(
        "every Exception is retried, as before: list those that another try can mend"
    )


def _alone(use: Use) -> Advice | None:
    """Say what a wait, a stop or a condition is that stands outside of a `retry`."""
    made = Made()
    if use.call is None:
        return None
    try:
        if use.name.startswith("wait_"):
            text, note = backoff(use.call)
            return Advice(f"backoff={text}", [note] if note else [])
        if use.name.startswith("stop_"):
            return Advice(options(**_stop(use.call, made)), made.changes)
        _retry(use.call, made)
    except (UnknownError, KeyError):
        return None
    inside = made.render().removeprefix("Retry(").removesuffix(")")
    return Advice(inside, made.changes)


def rewrite(use: Use) -> Advice:
    """Say what to write in the place of a use of tenacity."""
    if use.name not in ENTRIES or use.role in ("reference", "decorated"):
        said = _WORDS.get(use.name, PASSED_ON)
        return _alone(use) or Advice(by_hand=[f"`{use.name}`: {said}"])
    made = Made()
    given, rest = arguments_of(use.call, _ORDER)
    decorated = ""
    if use.name == "retry" and list(given) == ["sleep"] and use.call and use.call.args:
        # `retry(function)`, which is no argument.
        decorated = f"({source(given.pop('sleep'))})"
    made.by_hand += [f"`{text}`: what it holds belongs into the Retry" for text in rest]
    made.by_hand += unread(_UNREAD, given)
    limits: dict[str, str] = {}
    if "stop" in given:
        try:
            limits = _stop(given["stop"], made)
        except (UnknownError, KeyError):
            made.by_hand.append(
                f"`stop={source(given['stop'])}`: attempts= and within="
            )
            limits = {"attempts": "3"}
    made.limits(limits.get("attempts", ""), limits.get("within", ""))
    made.options["backoff"] = "constant(0)"
    wait = given.get("wait")
    if wait is not None and not is_none(wait):
        try:
            made.options["backoff"], note = backoff(wait)
            made.changes += [note] if note else []
        except (UnknownError, KeyError):
            made.options["backoff"] = "..."
            made.by_hand.append(
                f"`wait={source(wait)}`: backoff= takes a function of the number of"
                " the attempt that failed"
            )
    if "retry" not in given:
        _every_exception(made)
    else:
        try:
            _retry(given["retry"], made)
        except (UnknownError, KeyError):
            made.types = ["..."]
            made.by_hand.append(
                f"`retry={source(given['retry'])}`: list types, or on= takes a function"
                " of the Outcome"
            )
    if made.results:
        made.changes.append(
            "a result that is still refused after the last attempt is returned; there"
            " is no RetryError"
        )
    elif not (isinstance(r := given.get("reraise"), ast.Constant) and r.value is True):
        made.changes.append("the last error comes as it was, in no RetryError")
    if decorated:
        return Advice(f"{made.render()}{decorated}", made.changes, made.by_hand)
    return placed(use, made.render(), made)
