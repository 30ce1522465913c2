"""Drive the policies of one call from one standstill to the next.

Blocks, generators, HTTP requests and the attempts that a policy runs in tasks
or threads of their own are driven by `Drive`; functions by loops of their own
(`functions`), which do the same in the frame of the call.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeAlias, cast

from resilient._calls.call import AnyPolicy, Call, overdue
from resilient._calls.outcome import Outcome, UnaskedOutcome
from resilient._edges.steps import RUN, proceed_by
from resilient._runtimes import clock
from resilient._runtimes.runtime import PAUSE, Sentinel

Driven: TypeAlias = Coroutine[object, Any, Outcome] | Generator[object, Any, Outcome]


Chain: TypeAlias = Callable[["Call"], Driven]
"""What a policy returns that is bound to a leaf: awaitable by being driven."""


enabled = True
"""Whether policies do anything: `resilient.testing.off` turns them off."""


DONE = Sentinel("DONE")
"""What `Drive` reports when the policies have come to their end."""


@types.coroutine
def suspend(request: object) -> Generator[object, Any, Any]:
    """Hand a request of the policies on to the event loop."""
    return (yield request)


def failed(error: Exception) -> Outcome:
    """Make an outcome of an error that was just caught in an edge's frame.

    The entry of that frame goes from the traceback: the edge adds one when it
    raises the error, and one is enough.
    """
    trace = error.__traceback__
    if trace is not None:  # pragma: no branch - it was raised
        # NB: past `__setattr__`, which a frozen dataclass refuses.
        BaseException.with_traceback(error, trace.tb_next)
    return Outcome(None, error)


def misused(request: object) -> RuntimeError:
    """Return the error for a policy that awaits where nothing can."""
    return RuntimeError(
        f"a policy awaited {type(request).__name__} in a synchronous call: a"
        " policy may wait through `call.runtime` only"
    )


class Drive:
    """The policies of one call, driven from one standstill to the next.

    A standstill is `RUN` (they want the function run), `DONE` (`outcome` is
    set) or, in async calls, `PAUSE` (a wait is about to begin) or a request
    for the event loop, to be given to `forward`.
    """

    __slots__ = ("_around", "call", "coroutine", "outcome")

    def __init__(self, policy: AnyPolicy, call: Call) -> None:
        self.call: Call = call
        self.outcome: Outcome | None = None
        self.coroutine: Driven | None = None
        steps = policy.link(None) if enabled else None
        self._around: Chain = cast("Chain", proceed_by(steps))

    def begin(self) -> object:
        """Go to the first standstill."""
        if enabled and self.call.deadline is not None:
            self.outcome = overdue(self.call, clock.now())
            if self.outcome is not None:
                return DONE
        try:
            # NB: a policy may decide as soon as it is called.
            self.coroutine = self._around(self.call)
            return self.send(None)
        except BaseException as error:
            if self.is_suspended():
                return self.throw(error)
            self.close()
            raise

    def send(self, value: object) -> object:
        """Resume with an outcome, or with what the loop answered."""
        assert self.coroutine is not None
        try:
            return self.coroutine.send(value)
        except StopIteration as stop:
            self.outcome = stop.value
            return DONE
        except BaseException as error:
            if self.is_suspended():
                return self.throw(error)
            self.close()
            raise

    def is_suspended(self) -> bool:
        """Whether the policies stand still.

        What a driver catches then is Ctrl-C in its own frame. They may have to wait
        as they unwind, so it is thrown in, and they are not closed.
        """
        coroutine = self.coroutine
        return getattr(coroutine, "cr_suspended", False) or getattr(
            coroutine, "gi_suspended", False
        )

    def throw(self, error: BaseException) -> object:
        """Unwind; what the policies do not keep is raised again, unaltered."""
        assert self.coroutine is not None
        trace = error.__traceback__
        try:
            if isinstance(error, GeneratorExit):
                # NB: of a cycle the collector may have closed the policies
                # already, and then nothing can be thrown in.
                self.close()
                raise error
            return self.coroutine.throw(error)
        except StopIteration as stop:
            self.outcome = stop.value
            return DONE
        except BaseException as raised:
            self.coroutine.close()
            self.call.end()
            if raised is error:
                BaseException.with_traceback(raised, trace)
            raise

    def ended(self, error: BaseException | None, value: object = None) -> object:
        """Resume with the result of the function or block."""
        if error is None:
            # NB: None is what `Call.result` is where it was not set.
            return self.send(UnaskedOutcome() if value is None else Outcome(value))
        if isinstance(error, Exception):
            return self.send(Outcome(None, error))
        return self.throw(error)

    def in_sync(self, standstill: object) -> object:
        """Refuse a standstill that only an event loop could resolve."""
        while standstill is not RUN and standstill is not DONE:
            standstill = self.throw(misused(standstill))
        return standstill

    async def forward(self, standstill: object) -> object:
        """Let the event loop resolve standstills until `RUN` or `DONE`."""
        while standstill is not RUN and standstill is not DONE:
            if standstill is PAUSE:
                standstill = self.send(None)
                continue
            try:
                answer = await suspend(standstill)
            except BaseException as error:
                standstill = self.throw(error)
            else:
                standstill = self.send(answer)
        return standstill

    def close(self) -> None:
        """Give everything back: this is never resumed."""
        if self.coroutine is not None:
            self.coroutine.close()
        self.call.end()
