"""Walk a call in through its policies, and out again.

What a policy does around a call is two steps, `enter` on the way in and `leave`
on the way out, unless it has to wait. So no policy needs a coroutine of its own:

* The edge of a function walks the steps in its own frame, where it also runs the
  function (`functions`); `walk` does so in one coroutine, wherever else policies
  are driven: around blocks, generators, HTTP requests, in hedged attempts and
  inside policies that are written as coroutines.
* A walker asks `walk_in`, `walk_out` and `unwind` what comes next.
* A step that has to wait answers with a coroutine that waits, and only that. It
  ends with the outcome of the call so far, or with None: go on inside.
* What a call holds is on its `way`: a record for each policy that has something
  to do on the way out, innermost first. A policy puts it there itself, in the same
  line of plain statements in which it got hold of it, so that no interrupt finds
  a permit that is not on the way.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, Protocol, TypeAlias, cast

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._runtimes.runtime import Sentinel

Proceed: TypeAlias = Callable[[Call], Awaitable[Outcome]]
"""What is inside a policy that is a coroutine."""

Answer: TypeAlias = "Outcome | Awaitable[Outcome | None]"
"""An outcome, or a coroutine that ends with one or, to go on inside, with None."""

Enter: TypeAlias = "Callable[[Call], Answer | None]"
Leave: TypeAlias = "Callable[[Call, Any, Outcome], Answer]"
Unwind: TypeAlias = "Callable[[Call, Any, BaseException, bool], Outcome | None]"

Steps: TypeAlias = "tuple[Enter, Leave, Unwind, Steps] | None"
"""What a call walks through, outermost first: of each policy its steps, bound, for
to look them up on many kinds of policies would take longer than what they do; and
what is inside. None: the function."""

RUN: Final = Sentinel("RUN")
"""What the leaf yields: run the function now, and send me its outcome."""

FUNCTION: Final = Sentinel("FUNCTION")
"""What `walk_in` answers when there is nothing but the function inside."""


@types.coroutine
def leaf(call: Call) -> Generator[object, Outcome, Outcome]:
    """The innermost `proceed`: ask the edge to run the function."""
    if call.limiters is not None:
        # NB: while it stood in one line, another may have been made for it.
        while (turn := call.turn(at_leaf=True)) is not None:
            refused: Outcome = yield from turn.__await__()
            if refused.error is not None:
                return refused
    observation = call.extras.observation
    run = call.count_run()
    if observation is None:
        return (yield RUN)
    ended = observation.began(call, run)
    try:
        outcome = yield RUN
    except BaseException:
        ended(None)
        raise
    ended(outcome)
    return outcome


class Step(Protocol):
    """What a policy does on the way in and on the way out of a call."""

    def enter(self, call: Call) -> Answer | None:
        """Let a call in: None; or answer in the place of what is inside.

        It leaves ``call.step, permit, call.way`` in ``call.way``, if there is
        anything to do on the way out. Who needs the function's value then sets
        ``call.weighs``.
        """
        ...

    def leave(self, call: Call, permit: Any, outcome: Outcome) -> Answer:
        """Let an outcome out, which is not to be changed; or another one.

        Its record is taken off the way when it has answered.
        """
        ...

    def unwind(
        self, call: Call, permit: Any, error: BaseException, leaving: bool
    ) -> Outcome | None:
        """Give back what the call holds, when what is inside unwinds.

        Args:
            call: The call.
            permit: What is in the record.
            error: What unwinds.
            leaving: Whether it comes from this policy's own `leave`.

        Returns:
            What to go on with in its place; None: it goes on.
        """
        ...


def linked(step: Step, inside: Steps) -> Steps:
    """Return a step with those inside it."""
    return step.enter, step.leave, step.unwind, inside


def coroutine_step(proceed: Proceed) -> Steps:
    """Return the step of a policy that is a coroutine, with everything inside it."""
    return proceed, _never, _never, None


def _never(*_: Any) -> Any:
    """Leave what leaves no record; never called."""
    raise NotImplementedError  # pragma: no cover


def walk_in(call: Call) -> Answer | Sentinel:
    """Walk on inside; return an answer, or that the function is to be run."""
    steps = call.step[3]
    while steps is not None:
        call.step = steps
        answer: Answer | None = steps[0](call)
        if answer is not None:
            # NB: no call here. If it is a coroutine, it has to be returned.
            return answer
        # NB: asked anew, for it may have chosen others.
        steps = call.step[3]
    return FUNCTION


def walk_out(call: Call, outcome: Outcome, end: Any = None) -> Answer:
    """Walk outside with an outcome, up to a record or to a step that changes it.

    Returns:
        The outcome, at the end; or what that step answered.
    """
    while call.way is not end:
        step, permit, rest = call.way
        call.step = step
        try:
            answer: Answer = step[1](call, permit, outcome)
        except BaseException as error:
            call.way = rest
            step[2](call, permit, error, True)
            raise
        call.way = rest
        if answer is not outcome:
            # NB: as above.
            return answer
    return outcome


def unwind(
    call: Call, answer: object, error: BaseException, end: Any = None
) -> Outcome | None:
    """Unwind up to a record, or to a step that goes on with an outcome.

    Args:
        call: The call.
        answer: What was answered last; a coroutine is closed.
        error: What unwinds; it is for the caller to raise it again.
        end: The record.
    """
    close = getattr(answer, "close", None)
    if close is not None:
        # NB: first, for it belongs to the innermost policy that is left.
        close()
    while call.way is not end:
        step, permit, rest = call.way
        outcome: Outcome | None
        try:
            outcome = step[2](call, permit, error, False)
        except BaseException as worse:
            if type(worse) is KeyboardInterrupt and worse is not error:
                # Perhaps before it did anything; to do it twice is harmless.
                step[2](call, permit, worse, False)
            call.way = rest
            outcome = unwind(call, None, worse, end)
            if outcome is None:
                raise
            return outcome
        call.way = rest
        if outcome is not None:
            return outcome
    return None


async def walk(steps: Steps, call: Call) -> Outcome:
    """Walk in, run the function by way of the edge, and walk out."""
    # NB: given back, for this may be a call's stay in another step: a turn that it
    # waits for.
    before, end = call.step, call.way
    call.step = entrance(steps)
    answer: Any = None
    while True:
        try:
            if answer is None:
                answer = walk_in(call)
            if answer is FUNCTION:
                answer = await leaf(call)
            elif not isinstance(answer, Outcome):
                answer = await answer
            if answer is not None:
                answer = walk_out(call, answer, end)
                if call.way is end and isinstance(answer, Outcome):
                    call.step = before
                    return answer
        except BaseException as error:
            answer = unwind(call, answer, error, end)
            if answer is None:
                raise


def entrance(steps: Steps) -> Steps:
    """Return where a call stands before it walks in."""
    return _never, _never, _never, steps


def proceed_by(steps: Steps) -> Proceed:
    """Return what proceeds through steps."""
    if steps is None:
        return cast("Proceed", leaf)
    if steps[1] is _never:
        # A policy that is a coroutine.
        return cast("Proceed", steps[0])

    # NB: no partial. As a call of C's ends, Ctrl-C may come, and leave a
    # coroutine that is never awaited.
    def proceed(call: Call) -> Coroutine[Any, Any, Outcome]:
        return walk(steps, call)

    return proceed


def steps_of(proceed: Proceed) -> Steps:
    """Return what proceeds as a step."""
    return None if proceed is leaf else coroutine_step(proceed)
