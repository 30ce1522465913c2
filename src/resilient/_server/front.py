"""What middlewares of every protocol have: admission, and answers of our own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar, cast

from resilient._calls.call import Call
from resilient._errors.errors import ResilientError
from resilient._events.listeners import log_once
from resilient._policy.policy import Policy
from resilient._runtimes import clock
from resilient._runtimes.runtime import Runtime
from resilient._server.answers import Answer, error_answer
from resilient._server.scopes import checked_deadline_header
from resilient._server.standard import checked_server_pipeline
from resilient._values.checks import flag, plain
from resilient._values.checks import seconds as seconds_argument
from resilient._values.priority import PRIORITIES, Priority, TaskPriority
from resilient._values.records import Configured

Request = TypeVar("Request")


class Front(Configured, Generic[Request]):
    """A pipeline in front of an application, and what is read of requests for it.

    Attributes:
        pipeline: What requests go through.
        exempt: Paths that are never limited.
    """

    def __init__(
        self,
        pipeline: Policy[Any] | None,
        colour: Literal["sync", "async"],
        *,
        client: Callable[[Request], Hashable],
        priority: Callable[[Request], object] | None,
        deadline_header: object,
        max_deadline: float | timedelta,
        min_deadline: float | timedelta,
        exempt: Collection[str],
        rate_limit_headers: bool,
        allow_origins: Sequence[str],
    ) -> None:
        self.pipeline: Policy[Any] = checked_server_pipeline(pipeline, colour)
        self._client: Callable[[Request], Hashable] = plain(
            "client", client, "the request"
        )
        self._priority = (
            None if priority is None else plain("priority", priority, "the request")
        )
        self._deadline_header = checked_deadline_header(deadline_header)
        self._max_deadline = seconds_argument("max_deadline", max_deadline, zero=False)
        self._min_deadline = seconds_argument("min_deadline", min_deadline)
        self.exempt: frozenset[str] = frozenset(_texts("exempt", exempt))
        self._rate_limit_headers = flag("rate_limit_headers", rate_limit_headers)
        self._allow_origins: tuple[str, ...] = _texts("allow_origins", allow_origins)

    def call(
        self, request: Request, seconds: float | None, runtime: Runtime | None = None
    ) -> Call:
        """Return the call of a request: whose it is, how important, until when."""
        pipeline = self.pipeline
        call = Call.new(
            pipeline.label,
            runtime=runtime,
            key=self._client(request),
            policy=pipeline,
        )
        self._tell(call, request, seconds)
        return call

    def place(self, call: Call, request: Request, seconds: float | None) -> None:
        """Tell a call whose it is, how important, and until when."""
        call.key = self._client(request)
        self._tell(call, request, seconds)

    def _tell(self, call: Call, request: Request, seconds: float | None) -> None:
        call.standing = self._standing(request) or call.standing
        if seconds is not None:
            deadline = clock.now() + seconds
            if call.deadline is None or deadline < call.deadline:
                call.deadline, call.allowed = deadline, seconds

    def seconds(self, headers: Iterable[tuple[bytes, bytes]]) -> float | None:
        """Return the seconds that the caller grants; 0: there is no time to begin."""
        if self._deadline_header is None:
            return None
        seconds = self._deadline_header.seconds(headers)
        return None if seconds is None else self.granted(seconds)

    def granted(self, seconds: float) -> float:
        """Return what of a caller's seconds counts; 0: there is no time to begin."""
        if seconds < self._min_deadline:
            return 0.0
        return min(seconds, self._max_deadline)

    def answer(
        self, error: ResilientError, headers: Iterable[tuple[bytes, bytes]]
    ) -> Answer:
        """Return what an error of ours is answered with."""
        return error_answer(
            error,
            headers,
            rate_limit_headers=self._rate_limit_headers,
            allow_origins=self._allow_origins,
        )

    def _standing(self, request: Request) -> TaskPriority | None:
        if self._priority is None:
            return None
        said: object = self._priority(request)
        if said is None:
            return None
        if not isinstance(said, Priority):
            found = PRIORITIES.get(said) if isinstance(said, str) else None
            if found is None:
                _log_priority(said)
                return None
            said = found
        return TaskPriority(said, clock.random())


def _texts(parameter: str, values: object) -> tuple[str, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Collection):
        raise TypeError(f"`{parameter}` must be a list of strings, got {values!r}")
    found = tuple(cast("Collection[object]", values))
    for one in found:
        if not isinstance(one, str):
            raise TypeError(f"`{parameter}` must be a list of strings, got {values!r}")
    return cast("tuple[str, ...]", found)


def _log_priority(said: object) -> None:
    try:
        # NB: the type alone: what it is may be secret.
        raise TypeError(
            '`priority` must return "critical", "normal", "sheddable", "batch" or'
            f" None, got an object of {type(said)}"
        )
    except TypeError:
        log_once("`priority` of a ResilientMiddleware returned no priority")
