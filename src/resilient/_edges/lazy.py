"""Lazy results: what a function returns before its work is done.

A policy protects the making of a generator, an awaitable, a future or a
context manager, which hardly fails; the work comes when the policy has gone.
So a function that turns out to return one is refused.

Exactly these are: an iterator may be lazy or not, and nothing tells.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Coroutine
from typing import Any, Final

from resilient._runtimes.current import loaded

MADE: Final = frozenset(
    {type(None), bool, int, float, str, bytes, list, tuple, dict, set}
)
"""What most functions return, so that one look is enough."""

# The base of what both decorators of `contextlib` make: private, and the only
# mark of them. Other managers have done their work when they are made.
_MANAGER: Final[type] = getattr(contextlib, "_GeneratorContextManagerBase")  # noqa: B009

_LAZY: Final[tuple[type, ...]] = (
    types.GeneratorType,
    types.AsyncGeneratorType,
    types.CoroutineType,
    _MANAGER,
)


class Unawaitable:
    """What `acall` was given in the place of an awaitable."""

    __slots__ = ("kind",)

    def __init__(self, value: object) -> None:
        self.kind = type(value)

    def __await__(self) -> Any:
        return self
        yield


def awaited(value: Any) -> Any:
    """Return what `acall` awaits: an awaitable, or one of a mark for refusal."""
    return value if inspect.isawaitable(value) else Unawaitable(value)


def is_lazy(value: object, *, was_awaited: bool) -> bool:
    """Whether the work behind a result has yet to be done.

    Args:
        value: What the function returned.
        was_awaited: Whether a coroutine function returned it. Such a one may
            return a task, which runs by itself, and a client or pool that
            `await` opens as ``async with`` does and that has been opened:
            neither is a lazy result there.
    """
    # NB: the type all along: the value may be a proxy that answers.
    kind = type(value)
    if kind in MADE:
        return False
    if issubclass(kind, _LAZY) or _is_future(kind):
        return True
    if not was_awaited:
        return hasattr(kind, "__await__")
    if kind is Unawaitable or not hasattr(kind, "__await__"):
        return kind is Unawaitable
    return hasattr(kind, "send") or not (
        # NB: the mark by which asyncio itself knows its futures.
        hasattr(kind, "__aenter__") or hasattr(kind, "_asyncio_future_blocking")
    )


def _is_future(kind: type) -> bool:
    # NB: to import it takes 5 ms; who returns one has done so.
    future = loaded("concurrent.futures._base", "Future")
    return future is not None and issubclass(kind, future)


def refuse_lazy(name: str, value: object, *, was_awaited: bool) -> TypeError:
    """Return the error for a function that returned a lazy result.

    Args:
        name: Name of the function.
        value: What it returned; a coroutine is closed.
        was_awaited: Whether it is a coroutine function.
    """
    close_unbegun(value)
    kind = type(value)
    if isinstance(value, Unawaitable):
        return TypeError(
            f"{name!r} returned {value.kind.__qualname__}, which `acall` cannot"
            " await: use `call`"
        )
    if issubclass(kind, _MANAGER):
        what, cure = (
            "a context manager",
            "put the policy directly above @contextmanager or @asynccontextmanager",
        )
    elif issubclass(kind, types.GeneratorType):
        what = "a generator"
        cure = "make it a generator function (`yield from …`)"
        if was_awaited:
            cure = "use it up inside, or make it an async generator function"
    elif issubclass(kind, types.AsyncGeneratorType):
        what = "an async generator"
        cure = "make it an async generator function (`async for … yield`)"
    elif _is_future(kind):
        what = "a Future"
        wait = "await asyncio.wrap_future(future)" if was_awaited else "future.result()"
        cure = f"wait for it inside (`return {wait}`)"
    else:
        what = "an awaitable"
        cure = "await it inside" if was_awaited else "make it `async def`"
    function = "coroutine" if was_awaited else "plain"
    return TypeError(
        f"{name!r} is a {function} function that returned {what}, which a policy"
        f" around the function cannot protect: {cure}"
    )


def close_unbegun(awaitable: object) -> None:
    """Tell the interpreter that a coroutine is not awaited on purpose."""
    if isinstance(awaitable, Coroutine):
        awaitable.close()
