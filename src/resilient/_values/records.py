"""Records: what happened, or was the case, as values that do not change.

A record is its fields. Its methods are written here once, for all of them:
`attrs`, `dataclasses` and `typing.NamedTuple` write and compile others for
each class, at each import. For the thirty classes of this package that took
as long as all else in it, and to load `attrs` half as long again. What is paid
instead is 0.5 µs for each object, and one is only made where something went
wrong or there is a listener.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from operator import attrgetter
from types import FrameType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    NoReturn,
    TypeAlias,
    dataclass_transform,
)

if TYPE_CHECKING:
    from typing import Self

_set = object.__setattr__
_delete = object.__delattr__

_Part: TypeAlias = dict[str, Any] | None


@dataclass_transform(frozen_default=True)
class Record:
    """Base of immutable values: equal where the type and all fields are.

    A field is what a subclass annotates. Those of its base come first, and all
    are arguments of its constructor, by place or by name; one that has defaults
    or checks what it gets is written out, and calls this one. The same names in
    `__slots__` keep each object small.

    Example::

        class Point(Record):
            __slots__ = ("x", "y")

            x: float
            y: float
    """

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()
    _values: ClassVar[attrgetter[Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = [
            name
            for name, kind in inspect.get_annotations(cls).items()
            if "ClassVar" not in str(kind)
        ]
        # A field of the base's may be annotated anew, to be narrower.
        fields = tuple(dict.fromkeys((*cls.__match_args__, *own)))
        cls.__match_args__ = fields  # type: ignore[misc]  # not yet the final one
        cls._values = attrgetter(*fields)

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = self.__match_args__
        if named or len(values) != len(fields):
            values = self._completed(values, named)
        # As many as there are fields; to have zip say so takes 0.2 µs.
        for field, value in zip(fields, values):  # noqa: B905
            _set(self, field, value)

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Return the names of everything that it tells, in order."""
        return cls.__match_args__

    def _completed(
        self, values: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Return the values of all fields, those by name behind those by place."""
        fields = self.__match_args__
        missing = fields[len(values) :]
        if len(values) > len(fields) or set(named) != set(missing):
            # NB: no values: they may be secret, and are not what is wrong.
            raise TypeError(
                f"{type(self).__name__} takes {', '.join(fields)}; got"
                f" {len(values)} by place, and by name: {', '.join(named) or 'none'}"
            )
        return (*values, *[named[field] for field in missing])

    def __replace__(self, /, **changes: Any) -> Self:
        # What `copy.replace` calls, from Python 3.13 on.
        values = {field: getattr(self, field) for field in self.__match_args__}
        return type(self)(**(values | changes))

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        values = self._values
        return bool(values(self) == values(other))

    def __hash__(self) -> int:
        return hash(self._values(self))

    def __repr__(self) -> str:
        fields = [f"{field}={getattr(self, field)!r}" for field in self.fields()]
        return f"{type(self).__name__}({', '.join(fields)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"`{name}` cannot be set: a {type(self).__name__} never changes"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"`{name}` cannot be deleted: a {type(self).__name__} never changes"
        )

    def __setstate__(self, state: _Part | tuple[_Part, ...]) -> None:
        # How `copy` and `pickle` fill an empty one: see `object.__getstate__`.
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            for name, value in (part or {}).items():
                _set(self, name, value)


class Configured:
    """Base of objects that keep the arguments they were made with.

    What they do was set up from these once. Assigning one later would change
    what the object shows, and not, or not all of, what it does.

    What is kept so are the parameters of the library's own classes, and what
    `_cures` names: a class of a user's adds none, and is as free as any.
    """

    __slots__ = ()

    _arguments: ClassVar[frozenset[str]] = frozenset()
    _live: ClassVar[Mapping[str, str]] = {}
    """The method that changes an argument of an object that is in use."""
    _cures: ClassVar[Mapping[str, str]] = {}
    """What to do instead, where it is neither that nor `with_`."""
    _free: ClassVar[frozenset[str]] = frozenset()
    """Parameters that are read anew each time: assigning them changes what it does."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        init = vars(cls).get("__init__")
        if init is not None and _is_ours(init):
            # NB: not `inspect.signature`, which takes longer than the class.
            code = init.__code__
            starred = bool(code.co_flags & inspect.CO_VARARGS)
            names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
            if starred:
                place = code.co_argcount + code.co_kwonlyargcount
                names += (code.co_varnames[place],)
            cls._arguments |= {name for name in names if not name.startswith("_")}
        cls._arguments = cls._arguments.union(cls._cures).difference(cls._free)

    def __setattr__(self, name: str, value: object) -> None:
        # NB: by who assigns: to ask whether it is there already takes three
        # times as long, and each attribute of each new policy comes by here.
        if name in self._arguments and not _constructs(
            sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # it is documented
        ):
            raise self._fixed(name, "set")
        _set(self, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._arguments:
            raise self._fixed(name, "deleted")
        _delete(self, name)

    def _fixed(self, name: str, done: str) -> AttributeError:
        method = self._live.get(name)
        cure = (
            f"`with_({name}=…)` makes a changed copy"
            if hasattr(self, "with_")
            else "make another one"
        )
        if name in self._cures:
            cure = self._cures[name]
        elif method is not None:
            cure = f"`{method}` changes it live, {cure}"
        return AttributeError(
            f"`{name}` of a {type(self).__name__} cannot be {done}: {cure}"
        )


def _is_ours(init: object) -> bool:
    # NB: not by its class, whose `__module__` may be the public one.
    return (getattr(init, "__module__", None) or "").startswith("resilient.")


def _constructs(frame: FrameType) -> bool:
    """Whether a frame is a constructor of the library's own."""
    return frame.f_code.co_name == "__init__" and (
        frame.f_globals["__name__"].startswith("resilient.")
    )


def make_again(
    kind: type[Any], positional: tuple[Any, ...], keywords: dict[str, Any]
) -> Any:
    """Make an object of its arguments: what a pickle of it calls."""
    return kind(*positional, **keywords)
