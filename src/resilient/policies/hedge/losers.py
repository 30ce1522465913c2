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
from resilient._calls.outcome import OngoingWork, Outcome
from resilient._edges.lazy import close_unbegun
from resilient._errors.chains import error_chain, raise_first
from resilient._events.listeners import log_once
from resilient._runtimes.runtime import Sentinel

_MISSING: Any = Sentinel("<missing>")
_MESSAGE = "the other attempts of the hedge failed as well"
# NB: past `__setattr__`, which a frozen dataclass refuses.
_CONTEXT: Any = vars(BaseException)["__context__"]


async def close_result(outcome: Outcome, call: Call) -> None:
    """Close a result that is not wanted, if it can be closed."""
    value, ongoing = outcome.value, outcome.ongoing
    outcome.discard()
    try:
        if ongoing is not None:
            await ongoing.close()
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


def copy_context_from(context: Context) -> None:
    """Set the context variables here as an attempt has left them."""
    for variable, value in context.items():
        # NB: its own call has ended, and stays its own.
        if variable is not current and variable.get(_MISSING) is not value:
            variable.set(value)


def chain_errors(error: Exception, others: Sequence[Exception]) -> None:
    """Hang the errors of the other attempts on the end of an error's chain."""
    own = {id(link) for link in error_chain(error)}
    others = [
        other
        for other in others
        if not any(id(each) in own for each in error_chain(other))
    ]
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


def merge_work(works: Sequence[OngoingWork]) -> OngoingWork:
    """Return what ends when all of these have ended, and ends them early."""
    return works[0] if len(works) == 1 else _MergedWork(works)


class _MergedWork(OngoingWork):
    __slots__ = ("_pending", "_works")

    def __init__(self, works: Sequence[OngoingWork]) -> None:
        super().__init__()
        # NB: a cycle, which is cut where each of them ends.
        self._works = works
        self._pending = len(works)
        for work in works:
            work.add_release(self._one_ended)

    def _one_ended(self, last: Outcome | None) -> None:
        with self._lock:
            self._pending -= 1
            if self._pending:
                return
        self.finish(None)

    async def close(self) -> None:
        # NB: not by a `close` of its own: what cannot be ended goes on, and
        # permits last until it has ended, too.
        errors: list[BaseException] = []
        for work in self._works:
            try:
                await work.close()
            except GeneratorExit:
                raise
            except BaseException as error:
                errors.append(error)
        if errors:
            raise raise_first(errors)
