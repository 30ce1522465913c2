"""What spans and logs call an event, and what they tell of it."""

from __future__ import annotations

import re
from typing import NamedTuple

from resilient._events.events import Event

Attribute = str | int | float | bool


SCOPE = "resilient"
"""What meters, tracers and loggers are called."""


class Words(NamedTuple):
    """What a kind of event is called, and its fields and their names."""

    name: str
    fields: tuple[tuple[str, str], ...]


_known: dict[type[Event], Words] = {}


def words_for(kind: type[Event]) -> Words:
    """Return what a kind of event is called."""
    if kind not in _known:
        _known[kind] = _find_words(kind)
    return _known[kind]


def _find_words(kind: type[Event]) -> Words:
    words = re.findall("[A-Z]+[a-z0-9]*", kind.__name__)
    fields = kind.fields()
    # OpenTelemetry has a name for the type of an error already.
    renamed = {"error_type": "error.type"}
    names = [renamed.get(field, f"resilient.{field}") for field in fields]
    name = "resilient." + "_".join(words).lower()
    return Words(name, tuple(zip(fields, names, strict=True)))


def name_of(event: Event) -> str:
    """Return the name of an event's kind: ``resilient.retry_scheduled``."""
    return words_for(type(event)).name


def attributes_of(event: Event) -> dict[str, Attribute]:
    """Return what an event tells: its fields but for those that are None."""
    fields = words_for(type(event)).fields
    found = {name: getattr(event, field) for field, name in fields}
    return {name: value for name, value in found.items() if value is not None}
