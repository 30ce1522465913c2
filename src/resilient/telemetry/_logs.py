"""Logs: one line an event, and not too many of a kind."""

from __future__ import annotations

import logging
from typing import Final

from resilient._events.events import (
    BudgetEmpty,
    CallAbandoned,
    CallRejected,
    CircuitChanged,
    EndpointEjected,
    Event,
    FallbackUsed,
    LimitLowered,
    RetriesExhausted,
    StaleServed,
    StoreLost,
    TimedOut,
    WarningRaised,
)
from resilient._runtimes import clock
from resilient._values.locks import Lock
from resilient.telemetry._attributes import SCOPE, Attribute, attributes_of, name_of

LINES: Final = 10
"""Lines of one kind of event of one pipeline that are logged ..."""
SECONDS: Final = 60.0
"""... in so many seconds; further ones are counted. An outage makes thousands a
second, and the first ten say all: what is not logged is in the metrics."""

LOGGERS: Final = 1000
"""Pipelines that have a logger of their own; others share that of the library, for
`logging` keeps each for as long as the process lasts."""

LEVELS: Final[dict[type[Event], int]] = dict.fromkeys(
    (
        BudgetEmpty,
        CallAbandoned,
        CallRejected,
        CircuitChanged,
        EndpointEjected,
        FallbackUsed,
        LimitLowered,
        RetriesExhausted,
        StaleServed,
        StoreLost,
        TimedOut,
        WarningRaised,
    ),
    logging.WARNING,
)
"""Those that an operator may have to know of; the others are INFO."""


class _Quota:
    """How many lines of a kind were logged since `began`."""

    __slots__ = ("began", "logged", "suppressed")

    def __init__(self, began: float) -> None:
        self.began = began
        self.logged = self.suppressed = 0

    def allows(self, now: float) -> bool:
        if now - self.began >= SECONDS:
            self.began, self.logged = now, 0
        if self.logged < LINES:
            self.logged += 1
            return True
        self.suppressed += 1
        return False


class Logs:
    """Logs events under ``resilient.<pipeline>``."""

    __slots__ = ("_lock", "_loggers", "_quotas")

    def __init__(self) -> None:
        # NB: it may be taken again by a finalizer that runs on this thread.
        self._lock = Lock()
        self._loggers: dict[str, logging.Logger] = {}
        self._quotas: dict[tuple[str, type[Event]], _Quota] = {}

    def __call__(self, event: Event) -> None:
        """Log an event, unless there were many of its kind."""
        kind = type(event)
        level = LEVELS.get(kind, logging.INFO)
        pipeline = event.pipeline or event.policy
        if pipeline not in self._loggers and len(self._loggers) >= LOGGERS:
            pipeline = ""
        logger = self._loggers.get(pipeline)
        if logger is None:
            # NB: a formatter writes the logger's name as it is.
            name = pipeline if pipeline.isprintable() else ascii(pipeline)
            name = f"{SCOPE}.{name}" if name else SCOPE
            logger = self._loggers[pipeline] = logging.getLogger(name)
        if not logger.isEnabledFor(level):
            return
        now = clock.now()
        with self._lock:
            quota = self._quotas.get((pipeline, kind))
            if quota is None:
                quota = self._quotas[pipeline, kind] = _Quota(now)
            if not quota.allows(now):
                return
            suppressed, quota.suppressed = quota.suppressed, 0
        attributes = attributes_of(event)
        if suppressed:
            attributes["resilient.suppressed"] = suppressed
        name = name_of(event)
        words = [f"{key}={_spell(value)}" for key, value in attributes.items()]
        line = " ".join(word.removeprefix("resilient.") for word in (name, *words))
        # NB: none of these names is one of a `LogRecord`'s: they have dots.
        extra = {"resilient.event": name, **attributes}
        logger.log(level, "%s", line, extra=extra)


def _spell(value: Attribute) -> str:
    if isinstance(value, str) and (not value.isprintable() or " " in value):
        return repr(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
