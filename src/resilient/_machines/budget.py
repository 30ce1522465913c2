"""How many retries may be afforded: a budget that successes pay into.

Why a budget at all. A limit of three attempts bounds what one call does and
says nothing about all of them: when a dependency fails completely, every
client sends three times its usual load to something that could not carry
one. That load is then what keeps it down.

Why it is fed by *successes*. A budget fed by requests (Finagle's, where each
first attempt deposits 20 %) still grants retries in proportion to the traffic
while nothing at all succeeds. It moves the point at which a retry storm
becomes permanent and does not remove it: an outage of 10 s at 280 requests/s
on a service that can do 300/s never ends under a request-fed budget of 10 %,
since retries alone keep it above its limit. Fed by successes, the budget runs
dry within the first moments of an outage, the storm loses what sustains it,
and the service recovers as if there were no retries. In the words of the paper on
metastable failures, the *sustaining effect* is cut, not the trigger.

What the parameters do:

===============  ==========================================================
``ratio``        paid in for each success. In a steady state the share of
                 retries among calls is at most this; with 0.1 the budget
                 drains once more than about 9 % of attempts fail.
``capacity``     where paying in stops. It is also what is there at the
                 start, so that a young process can retry at all, and the
                 most that an outage can ever cost at once.
``per_second``   trickles in by itself, so that a client which makes one call
                 an hour, or whose every call fails, tries again some day.
===============  ==========================================================

Who may spend it. When little is left, what matters most is retried: sheddable
calls leave the last quarter of the capacity alone, batch calls the last half.
What a class can spend in the long run is what successes pay in, so one that
is alone loses a part of its first burst and nothing else. There is an
exception on purpose: batch calls always leave one whole retry, so that a
budget of a capacity of 1 never pays for any of their retries.

Ground rules:

- Only retries withdraw; a first attempt is never refused by a budget.
- Nothing is on loan. A withdrawal is final, there is no share to give back,
  so cancellation can leak nothing.
- Deposits do not look at the clock. They come with every successful call,
  and the trickle can wait for the next withdrawal: between two of those the
  balance only grows, so clipping it late gives the same sum.
- The caller holds a lock around `deposit` and `withdraw`.

Deliberately not modelled: expiry of deposits (Finagle's `ttl`, tower's ten
slots). A capacity bounds what a good hour can pay for a bad minute just as
well, and costs one comparison.

Sources: Finagle `RetryBudget`; tower `retry::budget`, whose example policy
deposits upon success; gRPC proposal A6 (`tokenRatio` per success); Bronson,
Aghayev, Charapko and Zhu, "Metastable Failures in Distributed Systems",
HotOS 2021.
"""

from __future__ import annotations

from resilient._values.checks import number
from resilient._values.priority import Priority

__all__ = ["Budget", "reserve_for"]

# Ten deposits of 0.1 add up to 0.9999999999999999, and must pay one retry.
_ROUNDING = 1e-9

# The share of the capacity that a class leaves alone.
_LEFT_ALONE = {Priority.SHEDDABLE: 0.25, Priority.BATCH: 0.5}


class Budget:
    """Decides whether one more retry may be afforded.

    Args:
        ratio: Retries earned by one success; 0.1 allows one in ten calls.
        capacity: The most retries that can be saved up, and how many there
            are at the start; at least 1.
        per_second: Retries earned by one second of waiting; 0 for none.

    Raises:
        TypeError: An argument is not a number.
        ValueError: It is negative, infinite or NaN, or `capacity` is below 1.

    Attributes:
        saved: The balance, without the trickle since the last withdrawal; at
            `capacity`, a deposit does nothing.
    """

    __slots__ = ("_seen", "capacity", "per_second", "ratio", "saved")

    def __init__(
        self, ratio: float = 0.1, capacity: float = 10.0, per_second: float = 0.1
    ) -> None:
        self.ratio = number("ratio", ratio, minimum=0)
        self.capacity = number("capacity", capacity, minimum=1)
        self.per_second = number("per_second", per_second, minimum=0)
        self.saved = self.capacity
        self._seen: float | None = None  # when the trickle was last added

    def __repr__(self) -> str:
        return (
            f"Budget({self.ratio:g}, capacity={self.capacity:g},"
            f" per_second={self.per_second:g})"
        )

    def deposit(self) -> None:
        """Pay in for one success."""
        self.saved = min(self.capacity, self.saved + self.ratio)

    def withdraw(
        self,
        now: float,
        amount: float = 1.0,
        priority: Priority = Priority.NORMAL,
    ) -> bool:
        """Take `amount` retries if there are as many.

        Args:
            now: Monotonic time in seconds.
            amount: Retries to pay for; a fraction is as good as a whole.
            priority: Whose they are; see the top of this module.

        Returns:
            Whether it was taken. If not, nothing was.
        """
        self.saved = self.balance(now)
        # NB: never backwards. Threads read the clock before they get the lock;
        # going back would pay the same moment out twice.
        self._seen = now if self._seen is None else max(self._seen, now)
        if self.saved - reserve_for(self.capacity, priority) < amount - _ROUNDING:
            return False
        self.saved = max(0.0, self.saved - amount)
        return True

    def balance(self, now: float) -> float:
        """Return how many retries could be taken now; changes nothing."""
        if self._seen is None:
            return self.saved
        trickle = max(0.0, now - self._seen) * self.per_second
        return min(self.capacity, self.saved + trickle)


def reserve_for(capacity: float, priority: Priority) -> float:
    """Return what a class of calls leaves alone; see the top of this module."""
    share = _LEFT_ALONE.get(priority)
    if share is None:
        return 0.0
    alone = share * capacity
    if priority is Priority.BATCH:
        return max(1.0, alone)
    # NB: of a full budget at least one retry is everybody else's.
    return min(alone, capacity - 1.0)
