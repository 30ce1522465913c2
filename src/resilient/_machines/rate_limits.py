"""How much may be done in how much time: three rate limits, one interface.

==============  ==========================================================
`TokenBucket`   `burst` at once, then evenly. In any time of t seconds at
                most ``burst + rate * t / per`` is taken.
`SlidingWindow` at most `rate` in *any* window of `per` seconds.
`FixedWindow`   at most `rate` between two multiples of `per` on the clock,
                hence up to twice that around one of them. Only for servers
                that count in this way.
==============  ==========================================================

Ground rules:

- Amounts are units: requests, tokens, bytes; fractions too. They are >= 0 and
  finite, which the caller has checked. An amount of 0 is free, always.
- Nothing is queued and nothing reserved here. A policy keeps the queue, asks
  `RateLimit.wait` how long everything up to a waiter will take, and takes
  when that waiter's turn has come. A waiter that leaves has nothing to return.
- **A wait that was answered is enough.** A caller that sleeps w seconds from
  `now` gets the amount at ``now + w`` if no other took or changed anything.
  That is arithmetic, not tolerance: ``now + w`` rounds, and a limiter that
  ignores it answers 1e-16 s again and again to a caller that polls for ever.
  Three things see to it: the machine is not touched by a refusal; what is
  available never falls while time passes, rounding included; and an answer is
  raised until ``now + w`` itself satisfies the test that `try_take` makes.
- Time never runs backwards inside. Threads read the clock before they have the
  lock, so a reading may be older than the one before; it counts as the latter.
- A caller that takes without asking, or learns the cost afterwards (`take`,
  `book`), may go into debt; the others wait until it is paid. A window
  forgives what has left it, since it judges only itself.
- A server knows better (`learn`): it may hold us back, never let us off.
- The caller holds a lock around everything but `pace`.

Deliberately not modelled: Guava's warm-up; smooth spacing of a burst.

Three algorithms stand in one file because their contract is one, and it reads
better once.

Sources: Guava `SmoothRateLimiter`; Bucket4j; failsafe-go `ratelimiterstats`;
the IETF draft on RateLimit header fields; ITU-T I.371, whose GCRA is the token
bucket written with one variable. That variable is a point in time, though, and
a point in time is rounded to 1e-10 s after some days of uptime, at every take
and always to the same side: at a million a second up to 6 in 100 000 too many.
A count of tokens and a difference of two readings have no such error.
"""

from __future__ import annotations

import abc
import bisect
import math
from itertools import groupby

from resilient._values.checks import number, seconds

__all__ = ["FixedWindow", "Pace", "RateLimit", "SlidingWindow", "TokenBucket"]

# What sums of fractions may be off by, as a share of the limit: 0.1 + 0.2 is
# within 0.3. It is compared with and never added, so it does not accumulate.
_ROUNDING = 1e-12

# How far a clock's reading of a window's end may be before it, in units in the
# last place: the reading is a sum, the end a product.
_ULPS = 4

# A bucket's sums also contain readings of the clock, which are coarser: 0.3 s
# after 1000.0 is 0.29999999999995453.
_CLOCK_ROUNDING = 1e-9

# Reports of one window's end differ by the whole seconds that headers count.
_SAME_RESET = 1.0

# A sliding window's log is thinned out when it grows longer than this, to one
# entry for each of so many equal parts of the window.
_LONGEST_LOG = 1000
_PARTS = 500


class Pace:
    """How much in how much time; all copies of a limit share one.

    Attributes:
        rate: Units per `per` seconds.
        per: Seconds.
        per_second: Units.
        capacity: The largest amount that can ever be taken in one piece.
    """

    __slots__ = ("capacity", "per", "per_second", "rate")

    def __init__(self, rate: float, per: float) -> None:
        self.rate: float = number("rate", rate, minimum=0, exclusive=True)
        self.per: float = seconds("per", per, zero=False)
        self.per_second: float = self.rate / self.per
        self.capacity: float = self.rate
        if not 0 < self.per_second < math.inf:
            raise ValueError(
                f"`rate` must be a positive, finite number of units per second,"
                f" got {self.rate!r} per {self.per!r} seconds"
            )


class RateLimit(abc.ABC):
    """Decides when how much may be taken.

    Attributes:
        pace: How much in how much time.
    """

    __slots__ = ("_hold", "pace")

    due: bool = False
    """Whether it has something to ask elsewhere; see `lease`."""

    def __init__(self, pace: Pace) -> None:
        self.pace: Pace = pace
        self._hold: ServerLimit | None = None

    def try_take(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` if it is available.

        Returns:
            0.0 if it was taken. Otherwise nothing was, and this is how many
            seconds from `now` it can be; `math.inf` where it never can.
        """
        if amount > self.pace.capacity * (1 + _ROUNDING):
            return math.inf
        wait = self.wait(now, amount)
        if wait == 0.0:
            self.take(now, amount)
        return wait

    def wait(self, now: float, amount: float = 1.0) -> float:
        """Return in how many seconds `amount` will have become available.

        Takes nothing. The amount may exceed `capacity`: it is then what a
        whole queue will have taken, each one as soon as it could.
        """
        if amount <= 0:
            return 0.0
        wait = self._own_wait(now, amount)
        hold = self._hold
        if hold is None or now >= hold.until or amount <= hold.left:
            return wait
        # What the server leaves goes to the first of the queue; the rest of
        # it has to wait for the reset, and for our own limit after that.
        rest = self._own_wait(hold.until, amount - max(0.0, hold.left))
        return max(wait, _until(now, hold.until + rest))

    def grace(self, now: float) -> float:
        """Return for how many seconds a call waits to be told its wait.

        0.0: it is told at once; see `lease` for another answer.
        """
        return 0.0

    def take(self, now: float, amount: float) -> None:
        """Take `amount` whether or not it is available."""
        hold = self._hold
        if hold is not None:
            if now < hold.until:
                hold.left -= amount
            elif hold.probed or hold.until >= hold.ends:
                self._hold = None
            elif amount <= hold.left:
                hold.renew(now, hold.left - amount)
            else:
                hold.renew(now, 0.0)
                hold.probed = True
        self._spend(now, amount)

    def book(
        self,
        now: float,
        difference: float,
        *,
        since: float | None = None,
        max_debt: float = math.inf,
    ) -> None:
        """Correct an amount that was taken before its cost was known.

        A positive difference is taken now, unconditionally. A negative one is
        given back, never beyond what a fresh limit has. A hold that a server
        told us of is not relaxed: only the server knows what it counted.

        Args:
            now: Monotonic time in seconds.
            difference: True cost minus what was taken, in units.
            since: When that was taken. Windows then credit nothing for what
                has already left them. Without it they believe the caller.
            max_debt: Seconds after which a debt must be paid: so much of a
                positive difference is taken, and no more.
        """
        if difference > 0:
            self.take(now, min(difference, self._bearable(now, max_debt)))
        elif difference < 0:
            self._credit(now, -difference, since)

    def level(self, now: float) -> float:
        """Return how much is available, below 0 when in debt."""
        level = self._own_level(now)
        if self._hold is not None and now < self._hold.until:
            return min(level, self._hold.left)
        return level

    def learn(
        self, now: float, remaining: float, reset: float, max_hold: float = math.inf
    ) -> None:
        """Obey what the server says about itself.

        At most `remaining` is then taken until `reset` seconds from now. Our
        own limit holds throughout and alone afterwards. Of several reports of
        the same window the lowest counts, for what remains in a window only
        falls: a higher report is an older answer overtaken by a newer one, or
        it does not know of calls on their way. A report of another window
        replaces this one, so that no single report holds for ever.

        A reset that is further away than `max_hold` is probed: after so many
        seconds one call passes, and the others wait as long again for its
        answer. Unless the server has repeated itself by then, all may pass.

        Args:
            now: Monotonic time in seconds.
            remaining: Units left; below 0 counts as none.
            reset: Seconds; 0 or less is a window that has already ended.
            max_hold: Seconds that a report holds for, unless it is repeated.
        """
        remaining = max(0.0, remaining)
        hold = self._hold
        if (
            hold is not None
            and now < hold.ends
            and abs(hold.ends - (now + reset)) <= _SAME_RESET
        ):
            # NB: `ends` stays. Reports that each end a little later could
            # otherwise keep a window open for ever.
            if hold.probed:
                hold.renew(now, remaining)
            else:
                hold.left = min(hold.left, remaining)
            return
        # A hold that cannot be reached is none: hot paths stay hot.
        pace = self.pace
        most = pace.capacity + pace.rate * (reset / pace.per + 1)
        plenty = reset <= 0 or remaining >= most
        self._hold = None if plenty else ServerLimit(remaining, now, reset, max_hold)

    def is_held(self, now: float) -> bool:
        """Whether what the server said lets not even one unit pass."""
        hold = self._hold
        return hold is not None and now < hold.until and hold.left < 1.0

    def forget_server(self) -> None:
        """Drop what the server said about itself."""
        self._hold = None

    @abc.abstractmethod
    def change(
        self, now: float, rate: float, per: float, burst: float | None = None
    ) -> None:
        """Set another limit, effective at once; what has been used counts on.

        Waits that were answered before are void: ask again.
        """

    @abc.abstractmethod
    def _own_wait(self, now: float, amount: float) -> float:
        """Answer `wait` for an amount above 0, without any hold."""

    @abc.abstractmethod
    def _own_level(self, now: float) -> float:
        """Answer `level` without any hold."""

    def _bearable(self, now: float, seconds: float) -> float:
        """Return what can be taken so that there is no debt `seconds` later.

        A window is over when it is over, however much was taken in it. More
        than all of it says nothing, and would round the rest away.
        """
        return math.inf if seconds == math.inf else self.pace.capacity

    @abc.abstractmethod
    def _spend(self, now: float, amount: float) -> None:
        """Record that `amount` has been taken."""

    @abc.abstractmethod
    def _credit(self, now: float, amount: float, since: float | None) -> None:
        """Give back `amount`, which was taken at `since`."""


class TokenBucket(RateLimit):
    """At most `burst` at once, refilled evenly.

    However long nothing is taken, a suspended process included, no more
    than `burst` is saved up.

    Args:
        rate: Tokens that come back in `per` seconds.
        per: Seconds.
        burst: Tokens a full bucket holds; one period's worth but at least 1
            if not given.

    Raises:
        TypeError: An argument is not a number.
        ValueError: It is zero, negative, infinite or NaN.
    """

    __slots__ = ("_seen", "_tokens")

    def __init__(
        self, rate: float, per: float = 1.0, burst: float | None = None
    ) -> None:
        super().__init__(_bucket_pace(rate, per, burst))
        self._tokens = self.pace.capacity
        self._seen = -math.inf  # full, however long ago one looks

    def __repr__(self) -> str:
        pace = self.pace
        return f"TokenBucket({pace.rate:g}, {pace.per:g}, {pace.capacity:g})"

    def try_take(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` if it is available; see `RateLimit.try_take`."""
        # The happy case, unrolled; everything else is in the base class.
        tokens = self._tokens
        seen = self._seen
        elapsed = now - seen
        if elapsed > 0.0:
            pace = self.pace
            tokens += elapsed * pace.per_second
            if tokens > pace.capacity:
                tokens = pace.capacity
            seen = now
        if tokens >= amount and self._hold is None:
            self._tokens = tokens - amount
            self._seen = seen
            return 0.0
        return super().try_take(now, amount)

    def change(
        self, now: float, rate: float, per: float, burst: float | None = None
    ) -> None:
        """Set another limit; the bucket stays as full, in proportion, as it was.

        So do Guava's `setRate` and Bucket4j's `PROPORTIONALLY`: half of the
        old allowance used is half of the new one used. Tokens kept as they
        are would make a bucket that grows look drained, and one that shrinks
        look full although much was used. A debt grows or shrinks likewise,
        and takes as many periods to pay as before.
        """
        pace = _bucket_pace(rate, per, burst)
        tokens = self._own_level(now) / self.pace.capacity * pace.capacity
        self._seen = max(now, self._seen)
        self._tokens = tokens
        self.pace = pace

    def _own_level(self, now: float) -> float:
        # NB: `wait` relies on this never falling as `now` grows. Subtraction,
        # product and sum of floats are each monotonic, so it does not.
        if now <= self._seen:
            return self._tokens
        pace = self.pace
        refilled = self._tokens + (now - self._seen) * pace.per_second
        return min(pace.capacity, refilled)

    def _own_wait(self, now: float, amount: float) -> float:
        level = self._own_level(now)
        enough = amount - self.pace.capacity * _CLOCK_ROUNDING
        if level >= enough:
            return 0.0
        wait = (amount - level) / self.pace.per_second + max(0.0, self._seen - now)
        step = math.ulp(now + wait)
        # A queue's amount is taken bit by bit and never there as one.
        enough = min(enough, self.pace.capacity)
        while self._own_level(now + wait) < enough:
            wait += step
            step *= 2
        return wait

    def _bearable(self, now: float, seconds: float) -> float:
        return max(0.0, self._own_level(now) + seconds * self.pace.per_second)

    def _spend(self, now: float, amount: float) -> None:
        tokens = self._own_level(now) - amount
        # NB: no call between the two, or Ctrl-C could let tokens come back twice.
        self._seen = max(now, self._seen)
        self._tokens = tokens

    def _credit(self, now: float, amount: float, since: float | None) -> None:
        # Clipped later than it would have been if the cost had been known at
        # once, thus never too generous, whenever it was taken.
        tokens = min(self.pace.capacity, self._own_level(now) + amount)
        self._seen = max(now, self._seen)
        self._tokens = tokens


class SlidingWindow(RateLimit):
    """At most `rate` in any window of `per` seconds, exactly.

    Keeps a log of what was taken when. What was taken at one moment is one
    entry, and an entry leaves exactly `per` seconds later. A log that grows
    beyond 1000 entries is thinned out on the safe side: entries that leave
    within the same 500th of a window leave with the last of them.

    Args:
        rate: Units, at most, in `per` seconds.
        per: Seconds.

    Raises:
        TypeError: An argument is not a number.
        ValueError: It is zero, negative, infinite or NaN.
    """

    # One entry is an element in each list: when it leaves, what was taken.
    # Their sum includes entries that have left and are not yet dropped.
    __slots__ = ("_amounts", "_leaving", "_used")

    def __init__(self, rate: float, per: float = 1.0) -> None:
        super().__init__(Pace(rate, per))
        self._leaving = self._amounts = _NO_LOG
        self._used = 0.0

    def __repr__(self) -> str:
        return f"SlidingWindow({self.pace.rate:g}, {self.pace.per:g})"

    def try_take(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` if it is available; see `RateLimit.try_take`."""
        # The happy case, unrolled: there is room even without looking at what
        # has left the window, which is looked at only once there is not.
        used = self._used + amount
        pace = self.pace
        leaving = self._leaving
        leaves = now + pace.per
        if (
            used <= pace.capacity
            and self._hold is None
            and 0 < len(leaving) < _LONGEST_LOG
            and leaves > leaving[-1]
        ):
            # NB: plain statements, which Ctrl-C cannot come between; as below.
            leaving += (leaves,)
            self._amounts += (amount,)
            self._used = used
            return 0.0
        return super().try_take(now, amount)

    def change(
        self, now: float, rate: float, per: float, burst: float | None = None
    ) -> None:
        """Set another limit; what the log says was taken was taken.

        Unlike a bucket's fullness these are facts, and the promise about any
        window is about facts: they are counted in units against the new
        rate. Of a window made longer only that part is known which the old
        one covered. A window has no burst; the argument is ignored.
        """
        self._forget(now)
        pace = Pace(rate, per)
        if self._leaving is not _NO_LOG:
            old = self.pace.per
            self._leaving = [leaves - old + pace.per for leaves in self._leaving]
        self.pace = pace

    def _own_level(self, now: float) -> float:
        first = bisect.bisect_right(self._leaving, now)
        return self.pace.capacity - math.fsum(self._amounts[first:])

    def _own_wait(self, now: float, amount: float) -> float:
        # From any moment on, one window lets through exactly `rate` more: what
        # is free now, and whatever leaves. Full windows are thus skipped.
        room = self.pace.capacity * (1 + _ROUNDING)
        windows = max(0, _whole(amount / room) - 1)
        # NB: `now` has no part in the sums, so that the same question asked
        # later meets the same rounding.
        lacking = self._used + (amount - windows * room) - room
        due = now
        for leaves, left in zip(self._leaving, self._amounts, strict=True):
            if lacking <= 0:
                break
            due = leaves
            lacking -= left
        return _until(now, max(now, due) + windows * self.pace.per)

    def _spend(self, now: float, amount: float) -> None:
        self._forget(now)
        if self._leaving is _NO_LOG:
            self._leaving, self._amounts = [], []
        if len(self._leaving) >= _LONGEST_LOG:
            self._thin_out()
        leaves = now + self.pace.per
        if self._leaving and leaves <= self._leaving[-1]:
            self._amounts[-1] += amount
        else:
            self._leaving += (leaves,)
            self._amounts += (amount,)
        self._used += amount

    def _credit(self, now: float, amount: float, since: float | None) -> None:
        # From the oldest entries: those leave first, so that the credit never
        # lasts longer than what it was given for.
        self._forget(now)
        if since is not None and since + self.pace.per <= now:
            return
        amounts: list[float] = []
        for taken in self._amounts:
            credited = min(taken, amount)
            amounts.append(taken - credited)
            amount -= credited
        used = math.fsum(amounts)
        self._amounts, self._used = amounts, used

    def _forget(self, now: float) -> None:
        """Drop what has left the window."""
        gone = bisect.bisect_right(self._leaving, now)
        if gone:
            left = math.fsum(self._amounts[:gone])
            # Whole numbers are subtracted without error; fractions are added
            # up afresh, or their errors would pile up for years.
            used = self._used - left
            if not (left.is_integer() and used.is_integer()):
                used = math.fsum(self._amounts[gone:])
            del self._leaving[:gone]
            del self._amounts[:gone]
            self._used = used

    def _thin_out(self) -> None:
        """Let what leaves at nearly the same time leave with its last."""
        part = self.pace.per / _PARTS
        entries = zip(self._leaving, self._amounts, strict=True)
        leaving: list[float] = []
        amounts: list[float] = []
        for _, same in groupby(entries, key=lambda entry: entry[0] // part):
            together = list(same)
            leaving.append(together[-1][0])
            amounts.append(math.fsum(taken for _, taken in together))
        self._leaving, self._amounts = leaving, amounts


class FixedWindow(RateLimit):
    """At most `rate` between two multiples of `per` on the monotonic clock.

    Args:
        rate: Units, at most, in one window.
        per: Seconds.

    Raises:
        TypeError: An argument is not a number.
        ValueError: It is zero, negative, infinite or NaN.
    """

    __slots__ = ("_ends", "_used")

    def __init__(self, rate: float, per: float = 1.0) -> None:
        super().__init__(Pace(rate, per))
        self._ends = -math.inf
        self._used = 0.0

    def __repr__(self) -> str:
        return f"FixedWindow({self.pace.rate:g}, {self.pace.per:g})"

    def try_take(self, now: float, amount: float = 1.0) -> float:
        """Take `amount` if it is available; see `RateLimit.try_take`."""
        # The happy case, unrolled: the window is the last one we saw.
        used = self._used + amount
        if now < self._ends and used <= self.pace.capacity and self._hold is None:
            self._used = used
            return 0.0
        return super().try_take(now, amount)

    def change(
        self, now: float, rate: float, per: float, burst: float | None = None
    ) -> None:
        """Set another limit; what this window has used counts in units.

        It counts in the new window that contains `now`, also where the old
        one began earlier. A window has no burst; the argument is ignored.
        """
        self._share_credit(now)
        self.pace = Pace(rate, per)
        self._ends = self._end(now)

    def _own_level(self, now: float) -> float:
        return self.pace.capacity - (self._used if now < self._ends else 0.0)

    def _own_wait(self, now: float, amount: float) -> float:
        room = self.pace.capacity * (1 + _ROUNDING)
        used = self._used if now < self._ends else 0.0
        if used + amount <= room:
            return 0.0
        # The debt of one window is not the next one's.
        rest = amount - max(0.0, room - used)
        windows = max(1, _whole(rest / room))
        ends = self._ends if now < self._ends else self._end(now)
        return _until(now, ends + (windows - 1) * self.pace.per)

    def _spend(self, now: float, amount: float) -> None:
        self._share_credit(now)
        self._used += amount

    def _credit(self, now: float, amount: float, since: float | None) -> None:
        self._share_credit(now)
        if since is None or since >= self._ends - self.pace.per:
            self._used = max(0.0, self._used - amount)

    def _share_credit(self, now: float) -> None:
        """Begin the window that `now` is in, unless it has begun."""
        if now >= self._ends:
            self._ends = self._end(now)
            self._used = 0.0

    def _end(self, now: float) -> float:
        per = self.pace.per
        ends = (now // per + 1) * per
        # NB: `now` may be a multiple itself and the quotient have rounded down.
        # What is left of the window is then nothing, or a rounding error: the
        # one that begins is the next, or the limit would be free twice.
        if ends - now <= _ULPS * math.ulp(max(now, per)):
            ends += per
        # Of a tiny window there may be more than a float can count.
        return ends if now < ends < math.inf else now + per


class ServerLimit:
    """What a server told us: `left` units until `until`.

    Attributes:
        left: Units.
        until: When the hold is over, or has to be probed.
        ends: When it is over by the server's own word.
        longest: Seconds from a report, or a probe, to `until` at most.
        probed: Whether a call has passed at `until` to ask the server again.
    """

    __slots__ = ("ends", "left", "longest", "probed", "until")

    def __init__(self, left: float, now: float, reset: float, longest: float) -> None:
        self.left = left
        self.ends = now + reset
        self.longest = longest
        self.until = min(self.ends, now + longest)
        self.probed = False

    def renew(self, now: float, left: float) -> None:
        """Hold for `longest` seconds more."""
        self.left = left
        self.until = min(self.ends, now + self.longest)
        self.probed = False


# Shared by all windows of which nothing has been taken yet; never written to.
_NO_LOG: list[float] = []


def _bucket_pace(rate: float, per: float, burst: float | None) -> Pace:
    pace = Pace(rate, per)
    if burst is None:
        pace.capacity = max(1.0, pace.rate)
    else:
        pace.capacity = number("burst", burst, minimum=0, exclusive=True)
    return pace


def _whole(number: float) -> float:
    """Round up; what is as large as that has no fractions, and may be infinite."""
    return math.ceil(number) if number < 2**53 else number


def _until(now: float, due: float) -> float:
    """Return the seconds from `now` to `due`; `now` plus them is never less."""
    wait = max(0.0, due - now)
    # The difference is off by less than one unit in its last place.
    return wait if now + wait >= due else math.nextafter(wait, math.inf)
