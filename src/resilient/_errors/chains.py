"""Errors that belong together: causes, contexts and members of groups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast


def raise_first(errors: list[BaseException]) -> BaseException:
    """Return the first of several errors, to be raised, and let go of all.

    A frame that raises an error must not hold it: its traceback holds the frame.
    """
    first = errors[0]
    errors.clear()
    return first


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group and in the groups in it; else the error."""
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # any
            yield from leaves(member)  # pyright: ignore[reportUnknownArgumentType]
    else:
        yield error


_NOTE: Final = "resilient: "


def annotate(error: Exception, note: str) -> None:
    """Add our note to an error, in the place of an older one of ours."""
    try:
        notes = getattr(error, "__notes__", None)
        if isinstance(notes, list):
            notes[:] = [
                note
                for note in cast("list[object]", notes)
                if not str(note).startswith(_NOTE)
            ]
        error.add_note(f"{_NOTE}{note}")
    except Exception:
        # It refuses attributes, as a frozen dataclass does: it goes unnoted.
        pass


_CONTEXT: Any = vars(BaseException)["__context__"]


def add_context(error: BaseException, earlier: BaseException) -> None:
    """Hang an earlier error on the end of an error's chain, if it is in none."""
    chain = {id(link) for link in error_chain(error)}
    if any(id(link) in chain for link in error_chain(earlier)):
        # NB: an error that is raised again and again must not grow.
        return
    last, further = error, error.__cause__ or error.__context__
    while further is not None and id(further) in chain:
        chain.remove(id(further))
        last, further = further, further.__cause__ or further.__context__
    # NB: past `__setattr__`, which a frozen dataclass refuses.
    _CONTEXT.__set__(last, earlier)


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its causes, contexts and members, each once."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        pending += (link.__cause__, link.__context__)
        if isinstance(link, BaseExceptionGroup):
            pending += link.exceptions  # pyright: ignore[reportUnknownMemberType]  # any


_CAUSES: Final = 20


def name_with_cause(error: BaseException) -> str:
    """Return its class's name, with that of the last error it was raised from."""
    root = error
    # NB: bounded, for a cause may be set so that it goes round.
    for _ in range(_CAUSES):
        if root.__cause__ is None:
            break
        root = root.__cause__
    name = type(error).__name__
    return name if root is error else f"{name} from {type(root).__name__}"


def cannot_connect(error: BaseException) -> bool:
    """Whether an error says that there was no server, or that it hung up.

    NB: a timeout is an `OSError`, and says nothing of the kind.
    """
    return any(
        isinstance(link, ConnectionError)
        or (
            isinstance(link, OSError)
            and link.errno is not None
            and not isinstance(link, TimeoutError)
        )
        for link in error_chain(error)
    )
