"""The line of calls that are held back because their server asked for less."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, NamedTuple

from resilient._calls.outcome import Outcome
from resilient._errors.errors import RateLimitedError
from resilient._machines.pushback import LARGEST_COST, Pushback
from resilient._runtimes import clock
from resilient._runtimes.sync import can_park
from resilient.policies.rate_limiter.queue import Ticket
from resilient.policies.rate_limiter.rate_limiter import RateLimiter

if TYPE_CHECKING:
    from resilient._calls.call import Call

__all__ = ["HeldLine", "Turn"]


class Turn(NamedTuple):
    """That a call was let pass by a line.

    Attributes:
        line: Which.
        era: In which era of it.
    """

    line: HeldLine
    era: int


class HeldLine(RateLimiter):
    """The line of the calls that are held back for one server and caller.

    Args:
        rank: Of the class that was refused; see `Priority`.
    """

    __slots__ = ("_pushback", "rank")

    def __init__(self, rank: int) -> None:
        super().__init__(100.0, burst=LARGEST_COST, max_wait=None, cost=_jittered)
        # NB: it is no policy of the user's that `health` would list.
        self._unregister()
        self._rule = self._pushback = Pushback()
        self.rank: int = rank

    def may_wait(self, call: Call) -> bool:
        """Whether a call may wait: sync code not where an event loop runs."""
        return can_park(call.runtime)

    def turn(self, call: Call) -> Awaitable[Outcome]:
        """Wait for the turn of a call; an error is its refusal."""
        return self.around(self._passed, call)

    async def _passed(self, call: Call) -> Outcome:
        call.own_extras().turn = Turn(self, self._pushback.era)
        return Outcome()

    def era(self) -> int:
        """Return the number of the present era."""
        return self._pushback.era

    def push_back(self, seconds: float, era: int | None) -> None:
        """Hold calls back for so long; see `Pushback.push_back`."""
        self._run(self._push_back_locked, seconds, era)

    def _push_back_locked(
        self, woken: list[Ticket], seconds: float, era: int | None
    ) -> None:
        now = clock.now()
        self._pushback.push_back(now, seconds, era)
        woken += self._recheck_waiters_locked(now)

    def took(self, turn: Turn) -> None:
        """Take note that the server took a call."""
        self._run(self._took_locked, turn)

    def _took_locked(self, woken: list[Ticket], turn: Turn) -> None:
        now = clock.now()
        self._pushback.took(now, turn.era, self.queued)
        woken += self._first_locked()

    def lost(self, turn: Turn) -> None:
        """Take note that a call will have no answer."""
        self._run(self._lost_locked, turn)

    def _lost_locked(self, woken: list[Ticket], turn: Turn) -> None:
        self._pushback.lost(clock.now(), turn.era)
        woken += self._first_locked()

    def _see(self, origin: object) -> bool:
        # NB: which origins share a line is decided by its key.
        return False

    def _note(self, call: Call, amounts: tuple[float, ...], now: float) -> None:
        # NB: it learns from refusals, and not as the user's limiters do.
        pass

    def _rejection(self, call: Call, wait: float, *, fits: bool) -> RateLimitedError:
        error = RateLimitedError(self.error_name(call), wait, reason="pushback")
        error.by_deadline = fits
        return error


def _jittered(call: Call) -> float:
    """Return what a call takes of the pace: never less than its share."""
    return 1.0 + (LARGEST_COST - 1.0) * clock.random()
