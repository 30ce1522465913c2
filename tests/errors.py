"""Exceptions that are hard to handle, for tests."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """It refuses attributes, a note and a traceback among them."""

    code: int = 0


class SingleError(Exception):
    """There is only one: it cannot be copied."""

    one: Any = None

    def __new__(cls, *args: Any) -> Any:
        cls.one = cls.one or super().__new__(cls, *args)
        return cls.one
