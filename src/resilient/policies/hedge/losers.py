"""What is left of attempts that ran at once, when one of them has won or none.

Results are closed, context variables taken over, errors hung on one another,
and what outlives its attempt is counted together.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextvars import Context
from typing import Any

from resilient._calls.call import Call, current
from resilient._calls.outcome import Held, Outcome
from resilient._edges.driver import close_unbegun
from resilient._errors.chains import family, first_of
from resilient._events.listeners import log_once
from resilient._runtimes.runtime import Mark

_MISSING: Any = Mark("<missing>")
_MESSAGE = "the other attempts of the hedge failed as well"
# NB: past `__setattr__`, which a frozen dataclass refuses.
_CONTEXT: Any = vars(BaseException)["__context__"]


async def dispose(outcome: Outcome, call: Call) -> None:
    """Close a result that nobody wants, if it can be closed."""
    value = outcome.value
    outcome.discard()
    try:
        in_sync = call.runtime.name == "sync"
        close = None if in_sync else getattr(value, "aclose", None)
        if close is None:
            close = getattr(value, "close", None)
        if not callable(close):
            return
        closing = close()
        if in_sync:
            close_unbegun(closing)
        elif inspect.isawaitable(closing):
            await closing
    except Exception:
        log_once("the result of a hedge's loser could not be closed")


def adopt(context: Context) -> None:
    """Set the context variables here as an attempt has left them."""
    for variable, value in context.items():
        # NB: its own call has ended, and stays its own.
        if variable is not current and variable.get(_MISSING) is not value:
            variable.set(value)


def attach(error: Exception, others: Sequence[Exception]) -> None:
    """Hang the errors of the other attempts on the end of an error's chain."""
    own = {id(one) for one in family(error)}
    others = [one for one in others if not any(id(each) in own for each in family(one))]
    if not others:
        return
    last: BaseException = error
    own.remove(id(error))
    further = error.__cause__ or error.__context__
    # NB: an error object that is raised again and again must not grow; and a
    # chain may bite its tail.
    while further is not None and id(further) in own and not _is_ours(further):
        own.remove(id(further))
        last, further = further, further.__cause__ or further.__context__
    _CONTEXT.__set__(last, ExceptionGroup(_MESSAGE, others))


def _is_ours(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup) and error.message == _MESSAGE


def joined(helds: Sequence[Held]) -> Held:
    """Return what ends when all of these have ended, and ends them early."""
    return helds[0] if len(helds) == 1 else _Joined(helds)


class _Joined(Held):
    __slots__ = ("_helds", "_pending")

    def __init__(self, helds: Sequence[Held]) -> None:
        super().__init__()
        # NB: a cycle, which is cut where each of them ends.
        self._helds = helds
        self._pending = len(helds)
        for held in helds:
            held.append(self._one_ended)

    def _one_ended(self, last: Outcome | None) -> None:
        with self._lock:
            self._pending -= 1
            if self._pending:
                return
        self.end(None)

    async def discard(self) -> None:
        # NB: not by a `close` of its own: what nobody can end goes on, and
        # permits last until it has ended, too.
        errors: list[BaseException] = []
        for held in self._helds:
            try:
                await held.discard()
            except GeneratorExit:
                raise
            except BaseException as error:
                errors.append(error)
        if errors:
            raise first_of(errors)
