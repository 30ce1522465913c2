"""Copies of errors, for several callers who get the same one.

One exception object raised in two places at once collects the frames of both
in its traceback, and each `except` changes the other's context. So everybody
gets an object of its own.

`copy.copy` would call the error's constructor with its `args`, which fails, or
says everything twice, for each class whose constructor takes something else
(`httpx.HTTPStatusError`). Here no constructor is called: a new object of the
class is given what the old one has.
"""

from __future__ import annotations

import types
from typing import Any, TypeVar

E = TypeVar("E", bound=BaseException)

_ARGS: Any = vars(BaseException)["args"]
_CAUSE: Any = vars(BaseException)["__cause__"]
_CONTEXT: Any = vars(BaseException)["__context__"]


def copy_error(error: E) -> E | None:
    """Return a copy of an error: class, arguments, attributes, notes, causes.

    Its traceback is the same, as far as it goes; from there on each grows by
    itself.

    Returns:
        The copy, or None for an error that cannot be copied.
    """
    kind = type(error)
    try:
        twin = kind.__new__(kind, *error.args)
        if type(twin) is not kind or twin is error:
            return None
        # NB: all of it past `__setattr__`, which a frozen dataclass refuses.
        _ARGS.__set__(twin, error.args)
        _CAUSE.__set__(twin, error.__cause__)
        _CONTEXT.__set__(twin, error.__context__)
        twin.__dict__.update(error.__dict__)
        notes = twin.__dict__.get("__notes__")
        if isinstance(notes, list):
            twin.__dict__["__notes__"] = notes[:]
        for base in kind.__mro__:
            for member in vars(base).values():
                if isinstance(member, types.MemberDescriptorType):
                    _copy_member(member, error, twin)
    except Exception:
        return None
    return BaseException.with_traceback(twin, error.__traceback__)


def forget_origin(error: BaseException) -> None:
    """Take from an error what holds the frames it went through."""
    _CAUSE.__set__(error, None)
    _CONTEXT.__set__(error, None)
    BaseException.with_traceback(error, None)


_UNSET = object()


def _copy_member(
    member: types.MemberDescriptorType, error: BaseException, twin: BaseException
) -> None:
    """Copy what stands in a slot, as `OSError.errno` does."""
    value = _value_of(member, error)
    # NB: also where both are None: to `OSError` a file name that was set to
    # None is another thing than none.
    if value is _UNSET or _value_of(member, twin) is value:
        return
    try:
        member.__set__(twin, value)
    except AttributeError:
        # Read-only, as the members of a group: made from the same arguments.
        pass


def _value_of(member: types.MemberDescriptorType, error: BaseException) -> object:
    try:
        return member.__get__(error, type(error))
    except AttributeError:
        return _UNSET
