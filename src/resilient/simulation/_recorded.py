"""A recorded dependency at work: it answers as it did then.

What is asked of it changes nothing: there is no server that could have a queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from resilient._calls.outcome import Outcome
from resilient.simulation._chance import mix, stream, uniform
from resilient.simulation._servers import Agenda, Answer, Attempt, answer
from resilient.simulation._trace import Trace

WITHIN: Final = 5.0
"""Seconds around an attempt from which its answer is drawn."""


class Recorded:
    """A `Trace` that answers in one run.

    Args:
        trace: What was recorded.
        error: What a failure is, made of a text.
        is_load: Whether the requests of the run are those of the trace.
        agenda: Where answers are put.
        now: The clock.
        seed: The seed of the run.

    Attributes:
        worked: Seconds of work done: none is known of.
        wasted: The same.
    """

    def __init__(
        self,
        trace: Trace,
        error: Callable[[str], Exception],
        is_load: bool,
        agenda: Agenda,
        now: Callable[[], float],
        seed: int,
    ) -> None:
        self.worked = self.wasted = 0.0
        self._trace = trace
        self._error = error
        self._is_load = is_load
        self._agenda = agenda
        self._now = now
        self._draws = stream(seed, "recorded")

    def send(self, attempt: Attempt) -> None:
        """Take an attempt, which will be answered."""
        trace, now = self._trace, self._now()
        if self._is_load and attempt.number == 1:
            place = attempt.request
        else:
            state = mix(mix(self._draws, attempt.request), attempt.number)
            place = trace.place_near(now, WITHIN, uniform(state))
        latency = trace.latency[place]
        at = now if math.isnan(latency) else now + latency
        why = trace.errors[trace.ends[place]]
        outcome = Outcome(None, self._error(why)) if why else Outcome(Answer(at))
        # NB: next, and not now, also where it took no time: who sent it is not
        # waiting yet.
        self._agenda.at(at, answer, (attempt, outcome))
