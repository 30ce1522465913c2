"""Check the endpoints of a `Balance` beside its calls.

Ground rules:

* Each endpoint is checked on its own time, `every` ± 20 % after the last check
  began, so that a thousand processes do not ask at once; the first time within
  a second of when it is seen. One that is still being checked is not checked
  again: that it is late is its answer.
* No lock is held meanwhile, and no call waits. At most `AT_ONCE` checks run.
* A plain function runs in a thread, which is left behind when it is late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from resilient._machines.checks import Check
from resilient._machines.endpoint_load import Member
from resilient._runtimes import clock
from resilient._values.callables import colour_of

__all__ = ["Checks"]

AT_ONCE: Final = 64
"""Checks that run at once; of more endpoints some wait for their turn."""

_LOOK: Final = 1.0
"""Seconds between two looks at which endpoints there are, and in which the first
check of one comes."""

_TURN: Final = 0.1
"""Seconds between two looks while checks wait for their turn."""

_SPREAD: Final = 0.2
"""Share of the time between two checks by which it varies, as ejections do."""


class _Checkup:
    """One check, until it has an answer.

    Attributes:
        member: The endpoint that is asked.
        late_at: When it is late.
        over: Whether it was answered, or was late.
    """

    __slots__ = ("late_at", "member", "over")

    def __init__(self, member: Member, late_at: float) -> None:
        self.member = member
        self.late_at = late_at
        self.over = False


class Checks:
    """The checks of one balance; see the module.

    Args:
        check: What is asked, and how often.
        members: Returns the endpoints that there are.
        note: Takes what a check of one has said.
    """

    __slots__ = ("_checking", "_due", "_members", "_note", "check", "is_async")

    def __init__(
        self,
        check: Check,
        members: Callable[[], Iterable[Member]],
        note: Callable[[Member, bool], None],
    ) -> None:
        self.check: Check = check
        self.is_async: bool = colour_of(check.function) == "async"
        self._members = members
        self._note = note
        # When each endpoint is to be checked, and which are being checked.
        self._due: dict[Any, float] = {}
        self._checking: dict[Any, _Checkup] = {}

    async def run(self) -> None:
        """Check them until cancelled."""
        from anyio import create_task_group, sleep

        async with create_task_group() as tasks:
            while True:
                for checkup in self._begin(clock.now()):
                    if self.is_async:
                        tasks.start_soon(self._ask_here, checkup)
                    else:
                        self._start(checkup)
                await sleep(self._pause())

    def look(self) -> float:
        """Begin what is due, in threads; return in how many seconds to look again."""
        for checkup in self._begin(clock.now()):
            self._start(checkup)
        return self._pause()

    def _begin(self, now: float) -> list[_Checkup]:
        """Note which are late; return those that begin now."""
        members = list(self._members())
        for checkup in list(self._checking.values()):
            if now >= checkup.late_at:
                self._end(checkup, False)
        self._due = {
            member.address: self._due.get(member.address, now + clock.random() * _LOOK)
            for member in members
        }
        begun: list[_Checkup] = []
        for member in members:
            if now < self._due[member.address]:
                continue
            running = self._checking.get(member.address)
            if running is None and len(self._checking) + len(begun) >= AT_ONCE:
                continue
            spread = 1.0 + _SPREAD * (2.0 * clock.random() - 1.0)
            self._due[member.address] = now + self.check.every * spread
            if running is not None:
                # Late since its last one.
                self._note(member, False)
                continue
            begun.append(_Checkup(member, now + self.check.timeout))
        return begun

    def _pause(self) -> float:
        now = clock.now()
        moments = [
            *self._due.values(),
            *[each.late_at for each in list(self._checking.values()) if not each.over],
        ]
        until = min(moments, default=now + _LOOK)
        # NB: what is due, and could not begin, waits for one that ends.
        return min(_LOOK, max(0.0, until - now)) or _TURN

    def _end(self, checkup: _Checkup, good: bool) -> None:
        """Take an answer, unless it comes too late."""
        if not checkup.over:
            checkup.over = True
            self._note(checkup.member, good)

    def _asked(self, member: Member) -> Any:
        """Return what the function of the check is given of an endpoint."""
        takes = getattr(self.check.function, "takes_endpoint", False)
        return member.endpoint if takes else member.address

    def _start(self, checkup: _Checkup) -> None:
        """Ask in a thread."""
        started: object = None
        self._checking[checkup.member.address] = checkup
        try:
            started = clock.thread_or_error(
                lambda: self._ask(checkup), "resilient check"
            )
        finally:
            # NB: None if Ctrl-C came. Neither that nor a system that has no thread
            # left says anything of the endpoint.
            if started is None or isinstance(started, RuntimeError):
                self._checking.pop(checkup.member.address, None)

    def _ask(self, checkup: _Checkup) -> None:
        good = False
        try:
            good = bool(self.check.function(self._asked(checkup.member)))
        except Exception:
            # It has said no.
            pass
        finally:
            self._checking.pop(checkup.member.address, None)
            self._end(checkup, good and clock.now() <= checkup.late_at)

    async def _ask_here(self, checkup: _Checkup) -> None:
        from anyio import move_on_after

        good = False
        self._checking[checkup.member.address] = checkup
        try:
            with move_on_after(self.check.timeout):
                good = bool(await self.check.function(self._asked(checkup.member)))
        except Exception:
            # It has said no.
            pass
        finally:
            self._checking.pop(checkup.member.address, None)
        self._end(checkup, good)
