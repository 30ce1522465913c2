"""Where a `Balance` finds its endpoints; made by `resilient.discovery`."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any, ClassVar, Generic, NamedTuple, TypeGuard, TypeVar

from resilient._values.records import Record
from resilient._values.spelling import format_call

__all__ = ["Answer", "Source", "is_source"]

T = TypeVar("T")


class Answer(NamedTuple):
    """What a source has found.

    Attributes:
        endpoints: Addresses, or `Endpoint` objects.
        seconds: For how long that is good; None: as the source says.
    """

    endpoints: Iterable[Any]
    seconds: float | None = None


class Source(Record, Generic[T]):
    """Where a `Balance` finds its endpoints, and finds them again.

    `dns`, `srv` and `poll` make one; it is given to a `Balance` in the place
    of endpoints.

    Attributes:
        every: Seconds between two questions; None: the answer says.
    """

    __slots__ = ()

    every: float | None

    keeps: ClassVar[bool] = False
    """Whether an answer that is empty is never believed."""

    called: ClassVar[str] = ""
    """The function that makes one."""

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)

    @property
    def is_async(self) -> bool:
        """Whether `afind` has to be awaited where `find` would be called."""
        return False

    @abc.abstractmethod
    def find(self) -> Answer:
        """Ask, on a thread that may block.

        Raises:
            Exception: There is no answer.
        """

    async def afind(self) -> Answer:
        """Ask, where that is to be awaited."""
        raise NotImplementedError  # pragma: no cover - `is_async` says so

    def __repr__(self) -> str:
        _, paren, arguments = format_call(self, Record).partition("(")
        return f"{self.called}{paren}{arguments}"


def is_source(thing: object) -> TypeGuard[Source[Any]]:
    """Tell a source from an endpoint."""
    return isinstance(thing, Source)
