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
from operator import attrgetter
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
