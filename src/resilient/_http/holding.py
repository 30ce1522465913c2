"""Hold calls back whose server has asked for less.

Ground rules:

* 429, 503 and 529 with a wait that the server names hold back what goes to the
  same origin with the same credentials, for so long or `max_retry_after`,
  whichever is shorter. What passes then is decided by `_machines.pushback`.
* A refusal says nothing of calls that are more important than the refused one:
  a server that sheds batch work still takes critical calls. Each class that was
  refused has a line of its own, which a refusal of a higher class holds back,
  too. A call stands in the line of the lowest class, not below its own, that
  has one.
* Held calls wait in one line, within their deadlines; one that cannot is
  refused at once, with that wait.
* They wait outside of everything that is for one attempt: before each attempt
  of a `Retry`. A call that is on its way to the server already, in the line of
  a limiter, say, is sent back there: no slot, no probe of a circuit and no time
  of an attempt is used up by waiting. Without a `Retry` they wait where they are.
* What tells calls apart is kept as a digest, with a key of this process's own.
* Requests that a `Balance` sends to its endpoints are not held: it has each
  endpoint rest that asks for less.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from resilient._calls.outcome import Outcome
from resilient._errors.errors import RateLimitedError
from resilient._values.checks import plain
from resilient._values.priority import Priority
from resilient.policies.rate_limiter.held import HeldLine, Turn

if TYPE_CHECKING:
    from resilient._calls.call import Call

HoldBy: TypeAlias = "Callable[[Any], str | None] | Literal['credentials'] | None"

_CREDENTIALS: Final = (
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "x-auth-token",
    "private-token",
)
"""Header fields by which a server knows who calls: registered ones, and those of
Anthropic, Azure, Google, OpenStack and GitLab."""

_WEAK: Final = (b"cookie", b"proxy-authorization")
"""Those that say who calls only where no other does."""

_MOST: Final = 1024
"""Lines that are kept; beyond them the oldest is given up."""


class Holds:
    """The lines of one transport.

    Args:
        by: What tells callers apart; see `checked_by`.
    """

    def __init__(self, by: HoldBy) -> None:
        self.by: HoldBy = by
        self._secret = os.urandom(16)
        # By caller, and the class that was refused.
        self._lines: dict[tuple[bytes, int], HeldLine] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def line_of(self, request: Any, call: Call) -> HeldLine | None:
        """Return the line that a request has to stand in; None: there is none."""
        caller = self._caller(request, call.key)
        if caller is None:
            return None
        for rank in range(call.priority, Priority.CRITICAL + 1):
            line = self._lines.get((caller, rank))
            if line is not None:
                if not line.is_pristine():
                    return line
                # Whatever it held has passed.
                self._lines.pop((caller, rank), None)
        return None

    def push_back(
        self, request: Any, call: Call, seconds: float, turn: Turn | None
    ) -> bool:
        """Hold back what goes where a request was refused, for so many seconds.

        Returns:
            Whether there is a line for it.
        """
        caller = self._caller(request, call.key)
        if caller is None:
            return False
        rank = call.priority
        line = self._lines.get((caller, rank))
        if line is None:
            if turn is None or turn.line.rank != rank:
                line = HeldLine(rank)
            else:
                # NB: it was empty meanwhile, and knows what the server takes.
                line = turn.line
            line = self._lines.setdefault((caller, rank), line)
            for old in list(self._lines)[:-_MOST]:
                self._lines.pop(old, None)
        era = None
        if turn is not None:
            if turn.line is line:
                era = turn.era
            else:
                # Those of a higher class were not refused: one of them may probe.
                turn.line.lost(turn)
        line.push_back(seconds, era)
        for lower in range(rank):
            other = self._lines.get((caller, lower))
            if other is not None:
                other.push_back(seconds, None)
        return True

    def _caller(self, request: Any, origin: str) -> bytes | None:
        """Return what a server tells callers apart by, as a digest."""
        by = self.by
        if by is None:
            return None
        digest = blake2b(digest_size=16, key=self._secret)
        if by == "credentials":
            digest.update(origin.encode())
            found = [
                (name.lower(), value)
                for name, value in request.headers.raw
                if name.lower().decode("latin-1") in _CREDENTIALS
            ]
            # NB: a proxy in front of an API may set another cookie in each answer.
            keys = [pair for pair in found if pair[0] not in _WEAK]
            for pair in keys or found:
                digest.update(b"\0%b\0%b" % pair)
            return digest.digest()
        key: object = cast("Callable[[Any], object]", by)(request)
        if key is None:
            return None
        if not isinstance(key, str):
            raise TypeError(
                "`hold_by` must be a function of the request that returns a string"
                f" or None, got an object of {type(key)}"
            )
        digest.update(key.encode("utf-8", "surrogatepass"))
        return digest.digest()


def checked_by(by: object) -> HoldBy:
    """Return the argument `hold_by` of a transport, checked.

    Raises:
        TypeError: It is no function, nor "credentials", nor None.
    """
    if by is None or by == "credentials":
        return cast("HoldBy", by)
    if not callable(by):
        raise TypeError(
            '`hold_by` must be "credentials", None or a function of the request,'
            f" got {by!r}"
        )
    return cast("HoldBy", plain("hold_by", by))


def sent_back(call: Call) -> Awaitable[Outcome]:
    """Send a call back to the `Retry` around it, to wait there for its turn."""
    call.own_extras().sent_back = True
    return _refused(RateLimitedError(call.name, reason="pushback"))


async def _refused(error: RateLimitedError) -> Outcome:
    return Outcome(None, error)
