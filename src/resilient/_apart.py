"""A call in a task of its own: for policies whose callers may leave it.

The edge runs the function in the caller's task, and what is cancelled there is
the function. Where several callers wait for one execution it belongs to none
of them: it is driven here, and its outcome is theirs to take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from resilient._call import Call, Outcome, current
from resilient._edge import RUN, Drive, Driven, Proceed, failed

if TYPE_CHECKING:
    from typing import Any

    from resilient._policy import Policy


def call_apart(call: Call) -> Call:
    """Return a call like another one, without its deadline.

    No caller's deadline is visible inside what several wait for: each waits
    for its own.
    """
    apart = Call(call.name, call.args, call.kwargs, None, call.key, call.policy)
    apart.function = call.function
    apart.attempt = call.attempt
    # NB: inside the first caller's, as long as that lasts: what a Retry gives
    # up on and what a limiter books goes there.
    apart.enclosing, apart.deadline = call, None
    return apart


async def run_apart(proceed: Proceed, call: Call) -> Outcome:
    """Drive what is inside a policy, in the task and context that runs this.

    Args:
        proceed: As `Policy.around` has it.
        call: A `call_apart`, of a coroutine function. It is not ended.

    Raises:
        BaseException: What unwinds: a cancellation, a bug in a predicate.
    """
    # NB: never reset: it is this task's own context.
    current.set(call)
    function = call.function
    assert function is not None
    drive = Drive(cast("Policy[Any]", _Inside(proceed)), call)
    value: Outcome | None = None
    outcome: Outcome | None = None
    try:
        standstill = await drive.forward(drive.begin())
        while standstill is RUN:
            try:
                value = Outcome(await function(*call.args, **(call.kwargs or {})))
            except Exception as error:
                value = failed(error)
            except BaseException as unwinding:
                standstill = await drive.forward(drive.throw(unwinding))
                continue
            standstill = await drive.forward(drive.send(value))
        outcome, drive.outcome = drive.outcome, None
        assert outcome is not None
        return outcome
    finally:
        # NB: the error's traceback holds this frame, on 3.12 and later.
        value = outcome = None


class _Inside:
    """What is inside a policy, as the policy that a `Drive` drives."""

    __slots__ = ("_proceed",)

    def __init__(self, proceed: Proceed) -> None:
        self._proceed = proceed

    def around(self, leaf: Proceed, call: Call) -> Driven:
        return cast("Driven", self._proceed(call))
