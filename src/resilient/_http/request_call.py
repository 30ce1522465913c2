"""A request as the policies see it: its call, its outcome and what is told of both."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple

from resilient._calls.call import Call, HedgeCall
from resilient._calls.outcome import Outcome
from resilient._http import response_headers
from resilient._http.body_headers import raw_fields
from resilient._http.holding import Holds, sent_back
from resilient._policy.policy import Policy

_UNREAD: Final = object()


class Summary(NamedTuple):
    """What was done for a response, in ``response.extensions["resilient"]``.

    It is there only where there is something to say: more than one attempt was
    made, or one that failed was the last.

    Attributes:
        attempts: How often the request was sent.
        stopped: Why it was not sent again, as in the note on an error:
            "attempts", "deadline", "retry_after too long", …; None: the
            response is a good one, or no `Retry` was asked.
        retry_after: Seconds after which the server wants to be asked again.
    """

    attempts: int
    stopped: str | None
    retry_after: float | None


class Answer(Outcome):
    """A response, whose headers are read once it is asked when to come back."""

    __slots__ = ("_wait",)

    _wait: Any

    def __init__(self, response: Any) -> None:
        super().__init__(response)
        self._wait = _UNREAD

    @property
    def retry_after(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Seconds after which the server, or a predicate, wants it tried again."""
        if self._wait is _UNREAD and self.value is not None:
            raw = raw_fields(self.value)
            self._wait = response_headers.read(raw, time.time()).retry_after
        wait: float | None = self._wait
        return wait

    @retry_after.setter
    def retry_after(self, seconds: float | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._wait = seconds


_SLOTS: Final = ("fork", "holds", "limiters", "request", "routed")


class _OfRequest(Call):
    """What the call of a request and those of its hedges have in common."""

    __slots__ = ()

    holds: Holds
    request: Any

    resends = True

    def turn(self, *, at_leaf: bool) -> Awaitable[Outcome] | None:
        if not self.holds or self.routed:
            return None
        line = self.holds.line_of(self.request, self)
        if line is None or not line.may_wait(self):
            return None
        if at_leaf:
            turn = self.extras.turn
            if turn is not None:
                if turn == (line, line.era()):
                    return None
                # NB: its class may have been refused since: the probe of a line
                # that it stood in is another's then.
                turn.line.lost(turn)
                self.own_extras().turn = None
            if self.retried:
                return sent_back(self)
        return line.turn(self)


class RequestCall(_OfRequest):
    """A call each of whose runs sends the same HTTP request."""

    __slots__ = _SLOTS

    def __init__(
        self,
        name: str,
        request: Any,
        runtime: Any,
        origin: str,
        policy: Policy[Any],
        holds: Holds,
        *,
        routed: bool | None,
    ) -> None:
        self.begin(name, (request,), {}, runtime, policy, None)
        self.key = origin
        self.limiters = []
        self.own_extras().max_retry_after = MAX_RETRY_AFTER
        self.routed = routed
        self.request: Any = request
        self.holds: Holds = holds
        self.fork = None


class HedgedRequest(_OfRequest, HedgeCall):
    """One of several requests that are under way at once for one call."""

    __slots__ = _SLOTS

    def __init__(self, call: Any, hedge: int) -> None:
        super().__init__(call, hedge)
        self.limiters = list(call.limiters)
        self.own_extras().max_retry_after = call.extras.max_retry_after
        self.routed = call.routed
        self.request: Any = call.request
        self.holds: Holds = call.holds
        self.fork = None

    def end(self, outcome: Outcome | None = None) -> None:
        # NB: it holds an exchange, and that holds this.
        self.fork = None
        super().end(outcome)


MAX_RETRY_AFTER: Final = 60.0
"""Seconds that a server may make others wait where no `Retry` limits it: the
default of one."""


@functools.lru_cache(maxsize=1024)
def names(method: str, scheme: str, host: bytes, port: int | None) -> tuple[str, str]:
    """Return the name of a call, and its origin: hardly any client has many.

    NB: asked for a URL's `netloc`, a client spells it anew each time.
    """
    address = host.decode("ascii")
    if ":" in address:
        address = f"[{address}]"
    origin = f"{scheme}://{address}" if port is None else f"{scheme}://{address}:{port}"
    return f"{method} {origin}", origin
