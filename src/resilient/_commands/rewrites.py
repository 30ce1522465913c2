"""What to write in the place of a use of tenacity, stamina or backoff.

Ground rules:

* What is suggested does what the old call did, its defaults spelt out; where the two
  differ, a note says how.
* What has no counterpart in the call is named, and left to its author.

Source: `docs/how-to/move-here.md`, of which this is the part that can be computed.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from resilient._commands.old_uses import Use


class Advice(NamedTuple):
    """What to do about a use.

    Attributes:
        write: The new code; empty where there is nothing to write in its place.
        changes: What behaves differently afterwards.
        by_hand: What the new code leaves out.
    """

    write: str = ""
    changes: Sequence[str] = ()
    by_hand: Sequence[str] = ()


class UnknownError(Exception):
    """An expression whose meaning cannot be read off its text."""


LONGEST: Final = 300
"""Characters of the user's own code that are repeated at most."""

FOREVER: Final = "math.inf"

PASSED_ON: Final = "look at it by hand: it is passed on, or has no counterpart"


def source(node: ast.AST) -> str:
    """Return the text of an expression."""
    text = ast.unparse(node)
    return text if len(text) <= LONGEST else "..."


class _Put(ast.NodeTransformer):
    def __init__(self, name: str, value: ast.expr) -> None:
        self.name, self.value = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.value if node.id == self.name else node


def applied(function: ast.expr, argument: str) -> str:
    """Return the text of a call of a function with one argument."""
    if not isinstance(function, ast.Lambda):
        return f"{source(function)}({argument})"
    name = source(function.args)
    if not name.isidentifier() or any(
        isinstance(node, (ast.Lambda, ast.comprehension))
        for node in ast.walk(function.body)
    ):
        return f"({source(function)})({argument})"
    put = _Put(name, ast.parse(argument, mode="eval").body)
    text = source(put.visit(copy.deepcopy(function.body)))
    return f"({text})" if isinstance(function.body, (ast.BoolOp, ast.IfExp)) else text


def arguments_of(
    call: ast.Call | None, names: Sequence[str]
) -> tuple[dict[str, ast.expr], list[str]]:
    """Return the arguments of a call by name, and the text of those without one."""
    given: dict[str, ast.expr] = {}
    rest: list[str] = []
    if call is None:
        return given, rest
    for place, argument in enumerate(call.args):
        if isinstance(argument, ast.Starred) or rest or place >= len(names):
            rest.append(source(argument))
        else:
            given[names[place]] = argument
    for keyword in call.keywords:
        if keyword.arg is None:
            rest.append(f"**{source(keyword.value)}")
        else:
            given[keyword.arg] = keyword.value
    return given, rest


def number(node: ast.expr | None, default: float) -> float | None:
    """Return the number that is written down; None: it is something else."""
    if node is None:
        return default
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, (int, float)) else None


def is_none(node: ast.expr | None) -> bool:
    """Whether it is left out or None."""
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def options(**named: str) -> str:
    """Return what stands between the parentheses, without what is empty."""
    return ", ".join(f"{name}={text}" for name, text in named.items() if text)


def exponential(
    base: ast.expr | None, factor: ast.expr | None, cap: ast.expr | None, jitter: str
) -> tuple[str, str]:
    """Return an exponential backoff, of a base of 1 and a factor of 2 by default.

    Returns:
        The text, and what changes.
    """
    first = "1" if base is None else source(base)
    note = most = ""
    if not is_none(cap) and cap is not None:
        most = source(cap)
    else:
        at_first = number(base, 1)
        most = "" if at_first is not None and at_first <= 20 else "3600"
        note = (
            f"no pause is longer than {most or '20'} s, `cap=` allows more; there was"
            " no such limit"
        )
    by = "" if factor is None or number(factor, 2) == 2 else source(factor)
    rest = options(factor=by, cap=most, jitter=jitter)
    return f"exponential({first}{', ' if rest else ''}{rest})", note


class Made:
    """A `Retry`, as far as an old call has been read."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.errors: list[str] = []
        self.results: list[str] = []
        self.listed: list[str] = []
        self.options: dict[str, str] = {}
        self.changes: list[str] = []
        self.by_hand: list[str] = []

    def add_types(self, node: ast.expr) -> None:
        """Read a type, a tuple of them or a name for either."""
        for part in node.elts if isinstance(node, (ast.Tuple, ast.List)) else [node]:
            text = source(part.value if isinstance(part, ast.Starred) else part)
            last = text.rpartition(".")[2]
            if last == "BaseException":
                self.types.append("Exception")
                self.changes.append(
                    "Ctrl-C, exits and cancellation are never retried: `Exception`"
                    " stands for BaseException"
                )
            elif text == "...":
                raise UnknownError
            elif last.isidentifier() and not last.isupper() and last[:1].isupper():
                self.types.append(text)
            elif last in ("timeout", "error", "gaierror", "herror"):
                self.types.append(text)  # of socket
            else:
                self.listed.append(text)

    def types_as_text(self) -> str:
        """Return what `isinstance` takes, of all the types."""
        every = [*self.types, *self.listed]
        return every[0] if len(every) == 1 else f"({', '.join(every)})"

    def render(self) -> str:
        """Return the text of the `Retry`."""
        parts = list(self.types)
        errors = list(self.errors)
        if self.listed and errors:
            errors[:0] = [f"isinstance(outcome.error, {text})" for text in self.listed]
        elif self.listed:
            on = ", ".join(self.listed)
            parts.append(f"on={on}" if len(self.listed) == 1 else f"on=({on})")
        if errors:
            parts.append(f"on=lambda outcome: {' or '.join(errors)}")
        if self.results:
            parts.append(f"on_result=lambda value: {' or '.join(self.results)}")
        parts += [f"{name}={text}" for name, text in self.options.items()]
        return f"Retry({', '.join(parts)})"

    def limits(self, attempts: str, within: str) -> None:
        """Say how long it goes on; with neither, for ever as before."""
        if attempts or within:
            self.options["attempts"] = attempts or "None"
            if within:
                self.options["within"] = within
            return
        self.options.update(attempts="None", within=FOREVER)
        self.changes.append(
            "it goes on for ever, as before: leave out `attempts` and `within` for 3"
            " attempts"
        )


def placed(use: Use, text: str, made: Made) -> Advice:
    """Return the advice for a `Retry` where its old use stands."""
    write = text
    if use.role == "decorator":
        write = f"@{text}"
    elif use.role == "apply":
        write = f"{text}.call"
        made.changes.append(
            "`.call(function, …)` calls it at once, `await ….acall(function, …)` a"
            " coroutine function; `(function)` alone decorates it"
        )
    elif use.role in ("loop", "async loop"):
        in_async = use.role == "async loop"
        write = f"{'async ' * in_async}for attempt in {text}.attempts():"
        if in_async:
            made.changes.append("in the loop write `async with attempt:`")
        if made.results:
            made.by_hand.append(
                "`on_result` cannot see what a block computes: raise in the block what"
                " is to be retried"
            )
    else:
        made.changes.append(
            "used in a loop it is `.attempts()`, called with a function `.call(…)` or"
            " `await ….acall(…)`; as a decorator it stays"
        )
    return Advice(write, made.changes, made.by_hand)


def unread(names: Mapping[str, str], given: Mapping[str, ast.expr]) -> Iterator[str]:
    """Yield what is said of the arguments that have no counterpart."""
    for name, said in names.items():
        # None and True are what such an argument is anyway.
        value = getattr(given.get(name), "value", "")
        if name in given and value is not None and value is not True:
            yield f"`{name}=`: {said}"


def parts_of(node: ast.expr, operator: type[ast.operator]) -> list[ast.expr]:
    """Return what an operator joins, from left to right."""
    found: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, operator):
        found.append(node.right)
        node = node.left
    return [node, *reversed(found)]
