"""How a callable has to be called, and what to call it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

Colour: TypeAlias = Literal[
    "sync",
    "async",
    "generator",
    "async generator",
    "context manager",
    "async context manager",
]


_COLOURS: dict[int, Colour] = {
    0: "sync",
    inspect.CO_COROUTINE: "async",
    inspect.CO_GENERATOR: "generator",
    inspect.CO_ASYNC_GENERATOR: "async generator",
}


_SUSPENDS = sum(_COLOURS)


def _code_of(decorate: Any) -> object:
    """Return the code that a decorator of `contextlib` gives every function."""
    return cast("types.FunctionType", decorate(lambda: None)).__code__


_MANAGERS: tuple[tuple[object, Colour], ...] = (
    (_code_of(contextlib.contextmanager), "context manager"),
    (_code_of(contextlib.asynccontextmanager), "async context manager"),
)
"""NB: compared by identity; a test's `AsyncMock` has code that is a mock."""


def colour_of(function: Callable[..., Any]) -> Colour:
    """Tell how a callable has to be called: from its code, without calling it.

    Partials and callable objects are looked into.
    """
    while isinstance(function, functools.partial):
        function = function.func
    if type(function) is types.FunctionType and not function.__dict__:
        # Its flags say all, at a tenth of what `inspect` costs each `call`.
        return _COLOURS[function.__code__.co_flags & _SUSPENDS]
    # NB: the object itself comes first: a test's `AsyncMock` says what it is,
    # its class does not.
    for candidate in (function, type(function).__call__):
        if inspect.iscoroutinefunction(candidate):
            return "async"
        if inspect.isasyncgenfunction(candidate):
            return "async generator"
        if inspect.isgeneratorfunction(candidate):
            return "generator"
        # NB: a bound method hands on what its function has.
        code = getattr(candidate, "__code__", None)
        for manages, colour in _MANAGERS:
            if code is manages:
                return colour
    return "sync"


def name_of(function: Callable[..., Any]) -> str:
    """Return a name for a callable, as short as it is unique in its module."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]


def takes_call(parameter: str, function: Callable[..., Any]) -> bool:
    """Whether a function takes an error and the call, not the error alone.

    Args:
        parameter: What the function was given as, for an error.
        function: It takes ``(error)`` or ``(error, call)``. A second parameter
            that has a default is not given the call.

    Raises:
        TypeError: It takes neither, or is no function.
    """
    if not callable(function):
        raise TypeError(f"`{parameter}` must be a function, got {function!r}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # A builtin without a signature.
        return False
    if _fits(signature, 1):
        spread = (
            parameter.kind is parameter.VAR_POSITIONAL
            for parameter in signature.parameters.values()
        )
        return any(spread) and _fits(signature, 2)
    if not _fits(signature, 2):
        raise TypeError(
            f"`{parameter}` must take (error) or (error, call), got {signature}"
        )
    return True


def refuse_arity(parameter: str, function: Callable[..., Any], given: str) -> None:
    """Refuse a function that cannot be called with one argument.

    Args:
        parameter: What the function was given as.
        function: One that says nothing of what it takes passes.
        given: What it is called with.

    Raises:
        TypeError: It needs none, or more.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        # A builtin without a signature.
        return
    if not _fits(signature, 1):
        raise TypeError(
            f"`{parameter}` must take one argument, {given}, got a function of"
            f" {signature}"
        )


def _fits(signature: inspect.Signature, places: int) -> bool:
    try:
        signature.bind(*[None] * places)
    except TypeError:
        return False
    return True
