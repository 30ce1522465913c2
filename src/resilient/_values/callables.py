"""How a callable has to be called, and what to call it."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    pass


Colour: TypeAlias = Literal["sync", "async", "generator", "async generator"]


_COLOURS: dict[int, Colour] = {
    0: "sync",
    inspect.CO_COROUTINE: "async",
    inspect.CO_GENERATOR: "generator",
    inspect.CO_ASYNC_GENERATOR: "async generator",
}


_SUSPENDS = sum(_COLOURS)


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
    return "sync"


def name_of(function: Callable[..., Any]) -> str:
    """Return a name for a callable, as short as it is unique in its module."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name).rpartition("<locals>.")[2]
