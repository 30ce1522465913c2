"""What is inside a policy, run in a task or thread of its own.

The third edge: it runs the function in a new task or thread, chosen by the
policy, as often as the policy says, perhaps at the same time. Each run has a
call of its own, which ends when it is not needed any more.
"""

from __future__ import annotations

from typing import Any, cast

from resilient._calls.call import Call, HedgeCall, enter_call
from resilient._calls.outcome import Outcome
from resilient._edges.driver import DONE, Chain, Drive, Driven, failed
from resilient._edges.lazy import awaited, is_lazy, refuse_lazy
from resilient._edges.steps import Proceed
from resilient._runtimes.sync import SYNC
from resilient._values.callables import colour_of


class Branch(Drive):
    """What is inside a policy, run in a task or thread of its own.

    Args:
        proceed: What is inside.
        call: A call of its own, for a function. It is not ended here.
    """

    __slots__ = ()

    def __init__(self, proceed: Proceed, call: Call) -> None:
        self.call = call
        self.outcome: Outcome | None = None
        self.coroutine: Driven | None = None
        self._around = cast("Chain", proceed)

    def taken(self) -> None:
        """Take note that its outcome is the whole call's."""

    async def run(self) -> None:
        """Run to the end; the context variables set on the way stay set.

        NB: the result is to be taken from `outcome`. An error keeps the
        frames below it alive, this one and its caller's, so that a value
        returned through them would be a cycle.
        """
        call, fn = self.call, self.call.function
        assert fn is not None
        # NB: `end` empties the call, and a caller who waits no more ends it.
        args, kwargs = call.args, call.kwargs or {}
        in_sync = call.runtime is SYNC
        # NB: what is surely awaitable goes through no hands of ours, where
        # Ctrl-C would find it un-awaited.
        plain = not in_sync and colour_of(fn) != "async"
        enter_call(call)
        value: Any = None
        refusal: TypeError | None = None
        try:
            standstill = self.begin()
            while True:
                try:
                    if in_sync:
                        standstill = self.in_sync(standstill)
                    else:
                        standstill = await self.forward(standstill)
                    if standstill is DONE:
                        break
                    try:
                        if plain:
                            value = Outcome(await awaited(fn(*args, **kwargs)))
                        elif not in_sync:
                            value = Outcome(await fn(*args, **kwargs))
                        elif call.extras.thread_runner is None:
                            value = Outcome(fn(*args, **kwargs))
                        else:
                            value = call.extras.thread_runner(fn, args, kwargs)
                    except Exception as error:
                        standstill = self.send(failed(error))
                    except BaseException as unwinding:
                        standstill = self.throw(unwinding)
                    else:
                        if is_lazy(value.value, was_awaited=not in_sync):
                            refusal = refuse_lazy(
                                call.name, value.value, was_awaited=not in_sync
                            )
                            standstill = self.throw(refusal)
                        else:
                            standstill = self.send(value)
                except BaseException as interrupt:
                    if not self.is_suspended():
                        raise
                    standstill = self.throw(interrupt)
        finally:
            # NB: the error's traceback holds this frame.
            value = refusal = None


def branch_of(call: Call, hedge: int, proceed: Proceed) -> Branch:
    """Return one of several runs for a call that are under way at once.

    An HTTP request is sent by what its transport makes of it.
    """
    if call.fork is not None:
        forked: Branch = call.fork(hedge, proceed)
        return forked
    return Branch(proceed, HedgeCall(call, hedge))
