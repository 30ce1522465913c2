"""Objects as the calls that made them: for `repr` and for changed copies."""

from __future__ import annotations

import functools
import inspect
from typing import Any, cast


def parameters_of(thing: object) -> dict[str, inspect.Parameter]:
    """Return the parameters of a thing's constructor that hold its arguments.

    One that begins with an underscore only catches what is misplaced.
    """
    parameters = inspect.signature(type(thing)).parameters
    return {
        key: parameter
        for key, parameter in parameters.items()
        if not key.startswith("_")
    }


def arguments_of(
    thing: object, base: type[object]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what a constructor was given, read off the thing's attributes.

    Args:
        thing: Each parameter is kept in an attribute of the same name.
        base: A class whose members have taken some of these names: then an
            underscore stands before it.

    Returns:
        The arguments of a parameter with a star, and all others by name.
    """
    positional: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    for key, parameter in parameters_of(thing).items():
        value = getattr(thing, f"_{key}" if hasattr(base, key) else key)
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional = value
        else:
            keywords[key] = value
    return positional, keywords


def format_call(thing: object, base: type[object]) -> str:
    """Spell a thing as the call that made it, defaults left out."""
    positional, keywords = arguments_of(thing, base)
    words = [format_value(value) for value in positional]
    in_place = True
    for key, parameter in parameters_of(thing).items():
        if key not in keywords or _same(keywords[key], parameter.default):
            in_place = False
            continue
        word = format_value(keywords[key])
        bare = in_place and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        words.append(word if bare else f"{key}={word}")
    return f"{type(thing).__name__}({', '.join(words)})"


def format_value(value: object) -> str:
    """Spell an argument as the code that made it would.

    NB: of a partial only what it calls: its arguments may be secret.
    """
    while isinstance(value, functools.partial):
        value = cast("functools.partial[object]", value).func
    if inspect.isfunction(value) or inspect.ismethod(value) or isinstance(value, type):
        return value.__qualname__.rpartition("<locals>.")[2]
    if isinstance(value, tuple):
        inner = [format_value(item) for item in cast("tuple[object, ...]", value)]
        return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"
    return repr(value)


def _same(value: object, default: object) -> bool:
    return value is default or (type(value) is type(default) and value == default)
