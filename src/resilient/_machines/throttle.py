"""Client-side throttling: hold back what the dependency would refuse anyway.

Refusing costs a server something too. One that is asked for far more than it
can do spends its time on refusing and gets nothing done, and it cannot mend
that: its clients have to. Each therefore looks at how many of its recent
requests were accepted, and sends no more than `ratio` times as many. In words
of the SRE book, a request is rejected here with the probability ::

    p = max(0, (requests - k x accepts) / (requests + padding))

With a `k` of 2 every accepted request pays for one that is refused: the
server sees at most twice what it can do, and what the clients send grows by
itself once it can do more: from one probe to all of the traffic within 15 s at
14 calls a second, 40 s at 1000. A smaller one saves the server work and the
client knowledge.

Ground rules:

* A request is counted when it *ends*, so that those under way to a slow
  server are not taken for refused ones; one that is rejected here ends at
  once. Requests rejected here count as requests (the SRE book; gRPC) unless
  `count_throttled` is False (Envoy, failsafe-go): p is then what the server
  itself refuses beyond its share, and the client lets more through.
* Below `minimum_calls` in the window nothing is rejected. The padding does
  the same by degrees: few requests are weak evidence.
* p may come as near to 1 as it likes, and one call every `probe_interval`
  goes through all the same: with nothing sent nothing would be learnt.

Which calls. p says how many are to go; priority and shed rank say which:

* p of all requests go, from the lowest class upwards: while the share of the
  batch calls suffices, no others are rejected. A class that is alone gets p.
* Within a class, calls with a shed rank below the class's p go, so that all
  calls of one task live or die together.
* The share that is rejected follows p whatever the shed ranks are. If there are
  few tasks (in the extreme one, that sends all its calls under one shed rank)
  then shed ranks say nothing of shares: one task would be let through as a whole, or be
  rejected as a whole and, as its rejected calls keep p up, for ever. So what
  is rejected too much or too little is added up, and beyond a *slack* of some
  calls it is corrected, whatever the shed rank. Where there are many tasks this
  overrules few shed ranks.

============ =================================== ==========================
call         requests <= k x accepts             otherwise
============ =================================== ==========================
admit        (not called, see `pressed`)         rejected with p of its
                                                 class; then counted
record       counted                             counted
============ =================================== ==========================

Deliberately not modelled: accepts by class. A server that itself refuses the
lowest class first is served well by the same order here.

Source: *Site Reliability Engineering*, chapter 21, "Client-Side Throttling",
whose window is 120 s: after an outage of 130 s a client then needs more than
five minutes to return. gRPC's RLS throttler, for the padding.
"""

from __future__ import annotations

from math import inf

from resilient._machines.window import TimeWindow
from resilient._values.priority import Priority

__all__ = ["Throttle"]

_BUCKETS = 40
"""Of a quarter of a second, with the default window: p falls smoothly."""

_SLACK, _SLACK_SHARE = 10.0, 0.1
"""By how much what is rejected may differ from p because of shed ranks: calls, or a
share of those in the window that are rejected or that pass, the fewer ones."""


class Throttle:
    """Decides which calls to hold back; see the top of this module.

    The arguments are those of the policy, checked by it.

    Args:
        k: Requests that one accepted request pays for.
        window: Seconds that are looked back.
        padding: Requests that are added to those there were.
        minimum_calls: Requests in the window before any is rejected.
        probe_interval: Seconds after which one goes through at any rate;
            None: none does.
        count_throttled: Whether those rejected here count as requests.

    Attributes:
        pressed: Whether the last look found more requests than the accepted
            ones pay for. While it is False the owner need not ask.
    """

    __slots__ = (
        "_count_throttled",
        "_k",
        "_minimum_calls",
        "_padding",
        "_probe_at",
        "_probe_interval",
        "_seconds",
        "_surplus",
        "_windows",
        "pressed",
    )

    def __init__(
        self,
        *,
        k: float,
        window: float,
        padding: float,
        minimum_calls: int,
        probe_interval: float | None,
        count_throttled: bool,
    ) -> None:
        self._k = k
        self._seconds = window
        self._padding = padding
        self._minimum_calls = minimum_calls
        self._probe_interval = probe_interval
        self._count_throttled = count_throttled
        self.reset()

    def reset(self) -> None:
        """Forget every call."""
        self.pressed = False
        # Of each class, by its rank: requests, those that were not accepted
        # ("failures") and those of them that were rejected here ("slow").
        self._windows: list[TimeWindow | None] = [None] * len(Priority)
        # Calls of each class rejected beyond p, less those short of it.
        self._surplus = [0.0] * len(Priority)
        self._probe_at = -inf

    def record(self, now: float, priority: Priority, accepted: bool) -> None:
        """Count a call that was let through, when it has ended.

        Args:
            now: When it ended, in monotonic seconds.
            priority: Its class.
            accepted: Whether the dependency took it.
        """
        self._count(now, priority, accepted, False)
        # NB: an accepted call pays at least for itself.
        if not accepted and not self.pressed:
            self._look(now)

    def admit(self, now: float, priority: Priority, shed_rank: float) -> bool:
        """Let a call through, or reject it and count that.

        Args:
            now: Monotonic seconds.
            priority: Its class.
            shed_rank: Its shed rank, in [0, 1).
        """
        share = self.share(now, priority)
        if share == 0.0:
            return True
        window = self._windows[priority]
        calls = 0 if window is None else window.calls
        slack = max(_SLACK, _SLACK_SHARE * calls * min(share, 1.0 - share))
        surplus = max(-slack, min(slack, self._surplus[priority])) - share
        rejected = shed_rank < share
        if not -slack <= surplus + rejected <= slack:
            rejected = surplus < 0.0
        if rejected and self._is_probe(now):
            # NB: not a part of the share that passes, or probes would take
            # the place of what that lets through.
            return True
        self._surplus[priority] = surplus + rejected
        if rejected:
            self._count(now, priority, False, True)
        return not rejected

    def share(self, now: float, priority: Priority) -> float:
        """Return which share of a class is to be rejected, from 0 to 1."""
        calls, p = self._look(now)
        excess = p * calls
        for window in self._windows[:priority]:
            excess -= 0 if window is None else window.calls
        if excess <= 0.0:
            return 0.0
        own = self._windows[priority]
        return 1.0 if own is None or own.calls <= excess else excess / own.calls

    def share_of_all(self, now: float) -> float:
        """Return which share of all calls is to be rejected: p."""
        return self._look(now)[1]

    def is_fresh(self, now: float) -> bool:
        """Return whether it would treat every call as a new throttle would."""
        return self._look(now)[0] == 0

    def _count(
        self, now: float, priority: Priority, accepted: bool, throttled: bool
    ) -> None:
        window = self._windows[priority]
        if window is None:
            window = self._windows[priority] = TimeWindow(self._seconds, _BUCKETS)
        window.record(now, not accepted, throttled)

    def _look(self, now: float) -> tuple[int, float]:
        """Return how many calls the window holds, and p."""
        calls = failures = throttled = 0
        for window in self._windows:
            if window is not None:
                counts = window.counts(now)
                calls += counts.calls
                failures += counts.failures
                throttled += counts.slow
        requests = calls if self._count_throttled else calls - throttled
        unpaid = requests - self._k * (calls - failures)
        # NB: whatever `minimum_calls`: a success may be the last one missing.
        self.pressed = unpaid > 0.0
        if not self.pressed or calls < self._minimum_calls:
            return calls, 0.0
        return calls, unpaid / (requests + self._padding)

    def _is_probe(self, now: float) -> bool:
        """Whether a call that would be rejected goes through all the same."""
        if self._probe_interval is None or now < self._probe_at:
            return False
        self._probe_at = now + self._probe_interval
        return True
