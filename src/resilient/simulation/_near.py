"""What a name that is not known may have been meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(name: object, known: Iterable[str]) -> str:
    """Return a question for the nearest name that is known; "": none is near."""
    found = get_close_matches(str(name), list(known), 1)
    return f"did you mean {found[0]!r}?" if found else ""
