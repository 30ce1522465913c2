"""Gates: policies whose way in and way out are two steps.

A call that need not wait at a gate passes it without a coroutine. Where policies
are driven as coroutines, a gate is walked through by one that is written once.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from resilient._calls.call import Call
from resilient._calls.outcome import Outcome
from resilient._edges.steps import (
    Answer,
    Proceed,
    Steps,
    linked,
    steps_of,
    walk,
)
from resilient._policy.policy import F, Policy


class Gate(Policy[F]):
    """Base of policies that stand around calls by two steps.

    Implement `enter` and `leave`, and `unwind` where something has to be given
    back; see `resilient._edges.steps.Step`. None of them may block.
    """

    __slots__ = ()

    def enter(self, call: Call) -> Answer | None:
        """Let a call in; see `Step.enter`."""
        raise NotImplementedError

    def leave(self, call: Call, permit: Any, outcome: Outcome) -> Answer:
        """Let an outcome out; see `Step.leave`."""
        raise NotImplementedError

    def unwind(
        self, call: Call, permit: Any, error: BaseException, leaving: bool
    ) -> Outcome | None:
        """Give back what the call holds; see `Step.unwind`."""
        return None

    def around(self, proceed: Proceed, call: Call) -> Awaitable[Outcome]:
        return walk(linked(self, steps_of(proceed)), call)

    def link(self, inside: Steps) -> Steps:
        if type(self).around is not Gate.around:
            # A subclass has something to add.
            return super().link(inside)
        return linked(self, inside)
