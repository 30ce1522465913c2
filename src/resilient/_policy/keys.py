"""Keys: which calls are the same call.

A key is made of the function and of what tells its calls apart: the user's
own ``key(*args, **kwargs)``, or all arguments with their types, for 1, 1.0 and
True are equal and need not mean the same.

Keys never appear in events, errors or logs: arguments may be secret.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from resilient._errors.chains import annotate
from resilient._runtimes.runtime import Sentinel
from resilient._values.callables import name_of
from resilient._values.checks import plain

if TYPE_CHECKING:
    from resilient._calls.call import Call
    from resilient._policy.policy import Policy

LambdaKey: TypeAlias = (
    Callable[[Any], Hashable]
    | Callable[[Any, Any], Hashable]
    | Callable[[Any, Any, Any], Hashable]
    | Callable[[Any, Any, Any, Any], Hashable]
)
"""A `key` of up to four arguments. NB: pyright infers nothing for the parameters of
a lambda where ``Callable[..., Hashable]`` is expected, and strict mode refuses it."""


def key_argument(key: Callable[..., Hashable] | None) -> Callable[..., Hashable] | None:
    """Return the argument `key` of a policy, checked.

    Raises:
        TypeError: It is no plain function, nor None.
    """
    if key is not None and not callable(key):
        raise TypeError(f"`key` must be a function or None, got {key!r}")
    return None if key is None else plain("key", key)


def key_of(
    policy: Policy[Any], key: Callable[..., Hashable] | None, call: Call
) -> tuple[Callable[..., Any], Hashable]:
    """Return what a call is told from others by.

    Raises:
        TypeError: The key, or an argument where there is no `key`, is not
            hashable; or it is a method's call, and there is no `key`.
    """
    function = call.function
    # A block, or a policy driven by hand.
    assert function is not None
    args, kwargs = call.args, call.kwargs or {}
    made: Hashable
    whole: tuple[Callable[..., Any], Hashable]
    if key is not None:
        made = call_key(key, args, kwargs)
    else:
        if "." in call.name:
            refuse_method(policy, function)
        made = tuple([_distinct(arg) for arg in args])
        if kwargs:
            named = [(name, _distinct(kwargs[name])) for name in sorted(kwargs)]
            made = (made, *named)
    whole = (function, made)
    try:
        hash(whole)
    except TypeError:
        what = "`key` must be hashable" if key is not None else _UNHASHABLE
        raise TypeError(f"{call.name!r} has no key for {policy!r}: {what}") from None
    return whole


def call_key(
    key: Callable[..., Hashable], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Hashable:
    """Call a `key` with the arguments of a function.

    Raises:
        Exception: What it raised, with a note of what it is called with.
    """
    try:
        return key(*args, **kwargs)
    except Exception as error:
        annotate(
            error,
            "`key` is called with the function's own arguments: key(*args, **kwargs)",
        )
        raise


def check_key(key: Callable[..., Hashable] | None, fn: Callable[..., Any]) -> None:
    """Refuse a `key` that cannot take the arguments of a function.

    Raises:
        TypeError: However the function is called by place, the key cannot be.
    """
    if key is None:
        return
    try:
        taken, given = inspect.signature(key), inspect.signature(fn)
    except (TypeError, ValueError):
        # Written in C, and does not say.
        return
    parameters = given.parameters.values()
    starred = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    if starred & {
        parameter.kind for parameter in (*parameters, *taken.parameters.values())
    }:
        # Anything may be in them.
        return
    placed = [
        parameter
        for parameter in parameters
        if parameter.kind is not parameter.KEYWORD_ONLY
    ]
    named = [
        parameter
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    fewest = sum(parameter.default is parameter.empty for parameter in placed)
    for places in range(fewest, len(placed) + 1):
        for needed in (
            named,
            [parameter for parameter in named if parameter.default is parameter.empty],
        ):
            try:
                taken.bind(
                    *placed[:places], **{parameter.name: None for parameter in needed}
                )
            except TypeError:
                continue
            return
    raise TypeError(
        f"`key` must take what {name_of(fn)!r} does, {given}, got a function of {taken}"
    )


_SIMPLE: Final = frozenset(
    [int, bool, float, complex, type(None), type, types.FunctionType]
)

_LONGEST: Final = 256
"""Characters of a text that is kept as it is: what is longer is kept by a hash of
32 bytes, or ten thousand keys of a megabyte each would take as many gigabytes."""

_LONG: Final = Sentinel("<long>")


class StableKey:
    """An object of a user's as a key: it has one hash, and comparing never fails.

    Else one whose hash changes while it is kept could not be found to be
    dropped, and one whose `__eq__` raises would do so in calls with another key
    of the same hash. It is equal to what its object is equal to.
    """

    __slots__ = ("_hash", "_key")

    def __init__(self, key: Hashable) -> None:
        self._key = key
        self._hash = hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        compared = other._key if isinstance(other, StableKey) else other
        try:
            return self._key is compared or bool(self._key == compared)
        except Exception:
            # An object that cannot be compared is no other.
            return False


def stable(key: Hashable) -> Hashable:
    """Return what keeps a key: short, with one hash, and comparable.

    Raises:
        Exception: What the key's `__hash__` raises.
    """
    kind = type(key)
    whole: Any = key
    if kind is str or kind is bytes:
        return whole if len(whole) <= _LONGEST else _hashed(whole)
    if kind in _SIMPLE:
        return key
    if kind is tuple:
        for part in whole:
            if type(part) not in _SIMPLE:
                return tuple([stable(part) for part in whole])
        return key
    return StableKey(key)


def _hashed(text: str | bytes) -> Hashable:
    # NB: loaded where it is needed: it takes longer than this package's own.
    from hashlib import blake2b

    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return _LONG, type(text), len(text), blake2b(data, digest_size=32).digest()


def _distinct(thing: object) -> Hashable:
    """Tell apart what is equal and need not mean the same, in tuples and sets too.

    What an object of another type is equal to, only its author knows.
    """
    kind = type(thing)
    members: Any = thing
    if kind is float or kind is complex:
        # NB: 0.0 and -0.0 are equal; NaN is not even equal to itself.
        return kind, repr(members)
    if isinstance(thing, tuple):
        return kind, tuple([_distinct(member) for member in members])
    if isinstance(thing, frozenset):
        return kind, frozenset([_distinct(member) for member in members])
    return kind, members


_UNHASHABLE = "an argument is not hashable; say by key=… what tells its calls apart"


def refuse_method(policy: Policy[Any], function: Callable[..., Any]) -> None:
    """Refuse a method where there is no `key`.

    Its object would be part of the key: whether two of them are the same, and
    whether a cache may keep them alive, only their author knows.

    A function that is to be assigned to a class is one by the name of its first
    argument; a lambda of a class body whatever that is called.

    Raises:
        TypeError: It is one.
    """
    if isinstance(function, types.MethodType):
        return
    code = getattr(inspect.unwrap(function), "__code__", None)
    if not isinstance(code, types.CodeType) or not code.co_argcount:
        return
    first, name = code.co_varnames[0], name_of(function)
    if first in ("self", "cls") or name.endswith(".<lambda>"):
        raise _keyless(policy, name, first)


def refuse_object(policy: Policy[Any], call: Call) -> None:
    """Refuse the call of a method that could not be told from a function before.

    Raises:
        TypeError: Its function was assigned to the class of its first argument.
    """
    if not call.args:
        return
    for base in type(call.args[0]).__mro__:
        if base.__module__ == "builtins":
            continue
        for name, attribute in vars(base).items():
            if (
                isinstance(attribute, types.FunctionType)
                and attribute.__dict__.get("__wrapped__") is call.function
            ):
                raise _keyless(policy, f"{base.__name__}.{name}", "self")


def _keyless(policy: Policy[Any], name: str, first: str) -> TypeError:
    return TypeError(
        f"{policy!r} needs a key=… for the method {name!r}, whose `{first}` would be"
        f" part of the key: key=lambda {first}, …: …"
    )
