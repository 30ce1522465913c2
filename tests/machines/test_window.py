"""The sliding windows, by hand-fed clock readings and against naive models."""

from __future__ import annotations

from fractions import Fraction
from typing import TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient._machines.window import Counts, CountWindow, TimeWindow

AnyWindow: TypeAlias = TimeWindow | CountWindow


@pytest.fixture(params=[TimeWindow(10.0), CountWindow(10)], ids=["time", "count"])
def window(request: pytest.FixtureRequest) -> AnyWindow:
    """Return a window of either kind, empty."""
    window: AnyWindow = request.param
    window.clear()
    return window


def test_empty_window_has_no_calls_and_rates_of_zero(window: AnyWindow) -> None:
    """Nothing recorded means 0 of 0, not a division by zero."""
    counts = window.counts(5.0)

    assert Counts(0, 0, 0) == counts
    assert (0.0, 0.0) == (counts.failure_rate, counts.slow_rate)


def test_slow_failed_call_counts_once_in_each_rate_and_once_in_volume(
    window: AnyWindow,
) -> None:
    """One call that is both is one call, one failure and one slow call."""
    window.record(0.0, True, True)
    window.record(0.0, False, False)

    counts = window.counts(0.0)

    assert Counts(calls=2, failures=1, slow=1) == counts
    assert (0.5, 0.5) == (counts.failure_rate, counts.slow_rate)


def test_running_totals_are_right_as_soon_as_a_call_is_recorded(
    window: AnyWindow,
) -> None:
    """The hot path reads the attributes instead of asking for counts."""
    window.record(0.0, True, False)
    window.record(0.0, False, True)

    assert (2, 1, 1) == (window.calls, window.failures, window.slow)


def test_cleared_window_is_as_good_as_new(window: AnyWindow) -> None:
    """Nothing from before `clear` comes back, nor is subtracted later."""
    for second in range(25):
        window.record(second, True, True)

    window.clear()

    assert Counts(0, 0, 0) == window.counts(25.0)
    window.record(25.0, False, False)
    assert Counts(1, 0, 0) == window.counts(25.0)


@pytest.mark.parametrize(
    ("window", "text", "shown"),
    [
        (TimeWindow(30.0), "30.0 s", "TimeWindow(30.0, buckets=10)"),
        (TimeWindow(0.25, 4), "0.25 s", "TimeWindow(0.25, buckets=4)"),
        (CountWindow(100), "100 calls", "CountWindow(100)"),
    ],
)
def test_window_tells_its_length(window: AnyWindow, text: str, shown: str) -> None:
    """Its text ends up in errors, its repr in those of the policy."""
    assert text == window.text
    assert shown == repr(window)


def test_time_window_forgets_calls_after_its_length() -> None:
    """Ten failures at 0 are gone at 10.1."""
    window = TimeWindow(10.0)
    for _ in range(10):
        window.record(0.0, True, False)

    window.record(10.1, True, False)

    assert Counts(1, 1, 0) == window.counts(10.1)


@pytest.mark.parametrize(("now", "calls"), [(9.99, 1), (10.0, 0)])
def test_first_call_is_remembered_for_the_whole_length(now: float, calls: int) -> None:
    """Wherever on the clock it was made: buckets begin with a call."""
    window = TimeWindow(10.0)
    window.record(1000.7, False, False)

    assert calls == window.counts(1000.7 + now).calls


def test_time_window_forgets_bucket_by_bucket() -> None:
    """Each second's calls leave together, ten seconds later."""
    window = TimeWindow(10.0)
    for second in range(10):
        window.record(second, second < 3, second < 2)
        window.record(second + 0.9, False, False)

    seen = [window.counts(now) for now in (9.9, 10.0, 11.5, 12.0, 18.9, 19.0)]

    assert [
        Counts(20, 3, 2),
        Counts(18, 2, 1),
        Counts(16, 1, 0),
        Counts(14, 0, 0),
        Counts(2, 0, 0),
        Counts(0, 0, 0),
    ] == seen


def test_time_window_of_one_bucket_forgets_all_at_once() -> None:
    """There are no closed buckets to keep."""
    window = TimeWindow(2.0, buckets=1)
    window.record(0.0, True, False)
    window.record(1.75, True, False)

    assert [2, 0] == [window.counts(1.75).calls, window.counts(2.0).calls]


def test_clock_that_stands_still_only_adds() -> None:
    """Every call of one instant is in the open bucket."""
    window = TimeWindow(10.0)
    for _ in range(1000):
        window.record(3.0, False, False)

    assert Counts(1000, 0, 0) == window.counts(3.0)


def test_call_with_an_older_clock_reading_joins_the_open_bucket() -> None:
    """Threads read the clock before they take the lock."""
    window = TimeWindow(10.0)
    window.record(0.0, False, False)
    window.record(5.0, False, False)

    window.record(4.9, True, False)

    assert Counts(3, 1, 0) == window.counts(4.9)
    assert Counts(2, 1, 0) == window.counts(10.0)


def test_gap_of_many_windows_is_crossed_at_once() -> None:
    """A million windows of silence are one step, and leave nothing."""
    window = TimeWindow(0.001)
    window.record(0.0, True, True)

    window.record(1e9, False, False)

    assert Counts(1, 0, 0) == window.counts(1e9)


def test_bucket_narrower_than_the_clock_can_tell_does_not_hang() -> None:
    """A width that is lost in a large clock reading is merely useless."""
    window = TimeWindow(1e-9, buckets=100)
    for _ in range(3):
        window.record(1e12, True, False)

    assert Counts(3, 3, 0) == window.counts(1e12)


def test_looking_moves_no_boundary() -> None:
    """A window that was looked at while empty begins with its first call."""
    window = TimeWindow(10.0)
    window.record(0.0, True, False)
    assert [1, 0] == [window.counts(5.5).calls, window.counts(10.5).calls]

    window.record(10.9, False, False)

    assert [1, 0] == [window.counts(20.8).calls, window.counts(20.9).calls]


def test_count_window_drops_the_call_before_the_last_four() -> None:
    """F S S S, then S: the failure has left."""
    window = CountWindow(4)
    for failed in (True, False, False, False):
        window.record(0.0, failed, False)
    assert Counts(4, 1, 0) == window.counts(0.0)

    window.record(0.0, False, False)

    assert Counts(4, 0, 0) == window.counts(0.0)


def test_count_window_takes_memory_as_calls_come() -> None:
    """A large window takes no memory for calls that have not come."""
    window = CountWindow(10**12)

    window.record(0.0, True, False)

    assert Counts(1, 1, 0) == window.counts(1e9)


class TimeWindowAgainstModel(RuleBasedStateMachine):
    """A plain list of calls, each with the number of its bucket.

    All times are multiples of 1/8 s, which floats hold exactly.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Fraction(0)

    @initialize(
        eighths=st.integers(1, 3),
        buckets=st.integers(1, 5),
        start=st.integers(0, 10**6),
    )
    def build(self, eighths: int, buckets: int, start: int) -> None:
        """Build a window whose buckets are some eighths of a second wide."""
        self.width = Fraction(eighths, 8)
        self.buckets = buckets
        self.window = TimeWindow(float(self.width * buckets), buckets)
        self.clock = Fraction(start, 8)
        self.forget()

    def forget(self) -> None:
        """Empty the model."""
        self.entries: list[tuple[int, bool, bool]] = []
        self.bucket = 0
        self.origin = Fraction(0)

    def look(self, now: Fraction) -> None:
        """Drop the entries that are too old at `now`, for good."""
        if self.entries:
            self.bucket = max(self.bucket, (now - self.origin) // self.width)
        oldest = self.bucket - self.buckets + 1
        self.entries = [entry for entry in self.entries if entry[0] >= oldest]

    @rule(
        eighths=st.sampled_from([0, *[1] * 4, 2, 2, 3, 4, 8, 8000]),
        back=st.sampled_from([0, 0, 0, 1, 2]),
        failed=st.booleans(),
        slow=st.booleans(),
        times=st.integers(1, 3),
    )
    def record(
        self, eighths: int, back: int, failed: bool, slow: bool, times: int
    ) -> None:
        """Record calls after a while, perhaps with a reading a little old."""
        self.clock += Fraction(eighths, 8)
        now = self.clock - Fraction(back, 8)
        for _ in range(times):
            self.window.record(float(now), failed, slow)
            self.look(now)
            if not self.entries:
                self.origin, self.bucket = now, 0
            self.entries.append((self.bucket, failed, slow))
        # What the hot path reads, before `counts` drops entries that are too old.
        assert self.expected() == (
            self.window.calls,
            self.window.failures,
            self.window.slow,
        )

    @rule(really=st.integers(0, 9).map(lambda n: n == 9))
    def clear(self, really: bool) -> None:
        """Forget every call, but not often."""
        if really:
            self.window.clear()
            self.forget()

    def expected(self) -> tuple[int, int, int]:
        """Count what is in the list."""
        return (
            len(self.entries),
            sum(failed for _, failed, _ in self.entries),
            sum(slow for _, _, slow in self.entries),
        )

    @rule(eighths=st.sampled_from([0, *[1] * 4, 2, 3]), back=st.sampled_from([0, 0, 1]))
    def count(self, eighths: int, back: int) -> None:
        """Look, at some moments and not at others."""
        self.clock += Fraction(eighths, 8)
        now = self.clock - Fraction(back, 8)
        self.look(now)
        counts = self.window.counts(float(now))
        assert self.expected() == (counts.calls, counts.failures, counts.slow)


class CountWindowAgainstModel(RuleBasedStateMachine):
    """A plain list of all calls, of which the last few count."""

    @initialize(size=st.integers(1, 7))
    def build(self, size: int) -> None:
        """Build a small window."""
        self.size = size
        self.window = CountWindow(size)
        self.calls: list[tuple[bool, bool]] = []

    @rule(failed=st.booleans(), slow=st.booleans(), times=st.integers(1, 4))
    def record(self, failed: bool, slow: bool, times: int) -> None:
        """Record some calls."""
        for _ in range(times):
            self.window.record(0.0, failed, slow)
            self.calls.append((failed, slow))

    @rule()
    def clear(self) -> None:
        """Forget every call."""
        self.window.clear()
        self.calls = []

    @invariant()
    def same_counts(self) -> None:
        """Both remember the same."""
        last = self.calls[-self.size :]
        counts = self.window.counts(0.0)
        assert (len(last), sum(f for f, _ in last), sum(s for _, s in last)) == (
            counts.calls,
            counts.failures,
            counts.slow,
        )


_settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, derandomize=True
)
TestTimeWindowAgainstModel = TimeWindowAgainstModel.TestCase
TestTimeWindowAgainstModel.settings = _settings
TestCountWindowAgainstModel = CountWindowAgainstModel.TestCase
TestCountWindowAgainstModel.settings = _settings


@pytest.mark.parametrize(
    ("seconds", "text"), [(10.0, "10.0 s"), (1.0, "1.0 s"), (0.25, "0.25 s")]
)
def test_a_length_reads_well(seconds: float, text: str) -> None:
    """With a decimal place from a second on."""
    assert text == TimeWindow(seconds).text
