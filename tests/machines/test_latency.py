"""Latency: sampling windows, the baseline, and what a probe may do to it."""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient._machines.gradient import Gradient
from resilient._machines.latency import Latency, LatencyLimit, Window
from resilient._machines.vegas import Vegas


def fill(
    latency: Latency, at: float, seconds: float, *, calls: int = 1, in_flight: int = 10
) -> list[Window]:
    """Have calls end at a moment; return the windows that they closed."""
    windows = [latency.add(at, seconds, in_flight, False) for _ in range(calls)]
    return [window for window in windows if window is not None]


def drop(latency: Latency, at: float, *, calls: int = 1) -> list[Window]:
    """Have calls fail fast, of congestion; return the windows they closed."""
    windows = [latency.add(at, 0.001, 10, True) for _ in range(calls)]
    return [window for window in windows if window is not None]


def whole(
    latency: Latency, at: float, seconds: float, *, in_flight: int = 10
) -> Window:
    """Have the calls of one window end, from `at` on for a second."""
    assert [] == fill(latency, at, seconds, calls=9, in_flight=in_flight)
    [window] = fill(latency, at + 1.0, seconds, in_flight=in_flight)
    return window


def meter(**changes: Any) -> Latency:
    """Return windows of 1 s and 10 samples, and probes after 30 s."""
    settings: dict[str, Any] = {
        "window": 1.0,
        "minimum_samples": 10,
        "percentile": 0.9,
        "probe_every": 30.0,
    }
    return Latency(**{**settings, **changes})


def doubted(peak: int = 15) -> Latency:
    """Return a meter of 0.1 s now at 0.3 s, whose probe has begun at 41 s."""
    latency = meter()
    whole(latency, 0.0, 0.1)
    whole(latency, 10.0, 0.3)
    assert latency.cap is None
    whole(latency, 40.0, 0.3, in_flight=peak)
    return latency


# -- Windows


def test_a_window_closes_after_its_time() -> None:
    """Counted from the beginning of its first call."""
    latency = meter()
    assert [] == fill(latency, 5.0, 0.125, calls=10)
    assert [] == fill(latency, 5.8, 0.125)
    assert [Window(0.125, 10)] == fill(latency, 5.875, 0.125)


def test_a_window_waits_for_its_samples() -> None:
    """Little traffic makes long windows, not bad ones."""
    latency = meter()
    assert [] == fill(latency, 0.0, 0.1)
    assert [] == fill(latency, 60.0, 0.1, calls=8)
    assert [Window(0.1, 10)] == fill(latency, 60.0, 0.1)


def test_a_window_is_its_percentile_and_its_peak() -> None:
    """The ninth of ten, and the most that were in flight."""
    latency = meter()
    for place in range(9):
        assert [] == fill(latency, 0.0, 9.0 - place, in_flight=place)
    assert [Window(9.0, 8)] == fill(latency, 2.0, 99.0, in_flight=3)


def test_a_congested_call_counts_as_one_that_took_for_ever() -> None:
    """One in ten is forgiven at the 90th percentile, two are not."""
    latency = meter()
    drop(latency, 0.0)
    assert Window(0.1, 10) in fill(latency, 2.0, 0.1, calls=9)
    drop(latency, 2.0, calls=2)
    assert Window(math.inf, 10) in fill(latency, 4.0, 0.1, calls=8)


def test_a_fast_failure_never_lowers_the_baseline() -> None:
    """It took a millisecond to be refused; that is no latency."""
    latency = meter()
    whole(latency, 0.0, 0.1)
    for second in range(2, 20):
        fill(latency, second, 0.1, calls=4)
        drop(latency, second, calls=6)
    assert 0.1 == latency.baseline
    drop(latency, 30.0, calls=20)
    assert 0.1 == latency.baseline


def test_calls_that_fail_from_the_beginning_are_no_baseline() -> None:
    """It is unknown until one succeeds."""
    latency = meter()
    assert [Window(math.inf, 10)] == drop(latency, 0.0) + drop(latency, 2.0, calls=9)
    assert math.inf == latency.baseline
    whole(latency, 2.0, 0.1)
    assert 0.1 == latency.baseline


@pytest.mark.parametrize("seconds", [0.0, -0.5])
def test_a_latency_of_nothing_is_no_sample(seconds: float) -> None:
    """Some clocks stand still for 15 ms."""
    latency = meter()
    assert [] == fill(latency, 0.0, seconds, calls=100)
    assert [] == fill(latency, 9.0, seconds, calls=100)
    assert math.inf == latency.baseline


def test_a_window_keeps_a_bounded_number_of_latencies() -> None:
    """Of very many every so many-th, and its percentile is about the same."""
    latency = meter(window=100.0)
    for place in range(1, 10_000):
        assert latency.add(0.0, place / 1000, 1, False) is None
    drop(latency, 0.0, calls=1000)
    assert 1000 > len(latency._samples)
    [window] = fill(latency, 200.0, 5.0)
    assert 9.9 == pytest.approx(window.latency, rel=0.01)


# -- The baseline


def test_a_faster_window_lowers_the_baseline_by_a_fifth_of_the_way() -> None:
    """Windows scatter; the least of many would be too low."""
    latency = meter()
    whole(latency, 0.0, 0.2)
    assert 0.2 == latency.baseline
    whole(latency, 2.0, 0.1)
    assert 0.18 == pytest.approx(latency.baseline)


@given(st.lists(st.floats(0.1, 5.0), max_size=20))
def test_no_number_of_slow_windows_raises_the_baseline(slow: list[float]) -> None:
    """Nothing but a probe does, and that comes after 30 s."""
    latency = meter()
    whole(latency, 0.0, 0.1)
    for place, seconds in enumerate(slow):
        whole(latency, 2.0 + place * 1.5, seconds)
    assert 0.1 == pytest.approx(latency.baseline)


# -- Probes


def test_a_probe_begins_when_every_window_has_been_slow_for_long() -> None:
    """A third of the most that ran at once may run."""
    assert 5 == doubted(peak=15).cap
    assert 1 == doubted(peak=1).cap


def test_one_good_window_ends_the_doubt() -> None:
    """It shows that the baseline still holds."""
    latency = meter()
    whole(latency, 0.0, 0.1)
    for second in range(2, 300, 2):
        whole(latency, second, 0.1 if second % 28 == 2 else 0.3)
        assert latency.cap is None


def test_a_probe_counts_only_calls_that_began_after_the_drain() -> None:
    """Others stood in the queue that is to be measured without."""
    latency = doubted()
    # From ten in flight to five: they leave.
    for left in range(10, 5, -1):
        assert [] == fill(latency, 41.2, 0.25, in_flight=left)
    # These began before the last of them had left.
    assert [] == fill(latency, 42.3, 1.2, calls=100, in_flight=5)
    assert (0.1, 5) == (latency.baseline, latency.cap)
    assert [] == fill(latency, 42.0, 0.12, calls=9, in_flight=5)
    assert (0.1, 5) == (latency.baseline, latency.cap)
    assert [] == fill(latency, 42.3, 0.12, in_flight=5)
    assert (0.12, None) == (latency.baseline, latency.cap)


def test_a_probe_takes_a_new_latency_for_the_baseline() -> None:
    """A dependency that has become slower is not limited for ever."""
    latency = doubted()
    fill(latency, 41.2, 0.3, in_flight=6)
    fill(latency, 42.2, 0.3, calls=10, in_flight=5)
    assert (0.3, None) == (latency.baseline, latency.cap)


def test_a_congested_probe_leaves_the_baseline() -> None:
    """It has measured nothing; the next comes after as long a time."""
    latency = doubted()
    fill(latency, 41.0, 0.3, in_flight=6)
    drop(latency, 42.0, calls=10)
    assert (0.1, None) == (latency.baseline, latency.cap)
    whole(latency, 42.0, 0.3)
    whole(latency, 71.5, 0.3)
    assert latency.cap is None
    whole(latency, 72.5, 0.3)
    assert 3 == latency.cap


def test_a_probe_that_takes_too_long_is_over() -> None:
    """Here after 1 s and four times 0.3 s, as soon as a caller asks."""
    latency = doubted()
    latency.end_overdue_probe(43.1)
    assert 5 == latency.cap
    latency.end_overdue_probe(43.3)
    assert (None, 0.1) == (latency.cap, latency.baseline)
    latency = doubted()
    assert [] == fill(latency, 50.0, 0.3)
    assert latency.cap is None


def test_a_probe_after_congestion_is_as_long_as_windows_are() -> None:
    """There is no latency to go by: 1 s and four times 1 s."""
    latency = meter()
    whole(latency, 0.0, 0.1)
    whole(latency, 10.0, 0.3)
    drop(latency, 40.0, calls=9)
    drop(latency, 41.0)
    assert 3 == latency.cap
    latency.end_overdue_probe(45.9)
    assert 3 == latency.cap
    latency.end_overdue_probe(46.0)
    assert latency.cap is None


# -- Limits that go by it


BOTH = pytest.mark.parametrize("kind", [Vegas, Gradient])


class Teller:
    """Tells a limit how calls went, a window a second."""

    def __init__(self, limit: LatencyLimit) -> None:
        self.limit = limit
        self.now = 0.0

    def tell(
        self,
        windows: int,
        seconds: float,
        *,
        in_flight: int | None = None,
        congested: int = 0,
    ) -> int:
        """Let windows pass; in flight is by default what the limit allows.

        Returns:
            The limit then.
        """
        for _ in range(windows):
            for place in range(10):
                running = in_flight or self.limit.limit(self.now)
                self.limit.update(self.now, seconds, running, place < congested)
            self.now += 1.0
        return self.limit.limit(self.now)


@BOTH
def test_it_grows_while_no_call_queues(kind: type[LatencyLimit]) -> None:
    """Up to its maximum."""
    limit = kind()
    teller = Teller(limit)
    assert 20 == limit.limit(0.0)
    assert limit.baseline is None
    assert 20 < teller.tell(10, 0.1)
    assert 0.1 == limit.baseline
    assert 200 == teller.tell(300, 0.1)


@BOTH
def test_a_latency_far_above_the_baseline_shrinks_it(kind: type[LatencyLimit]) -> None:
    """The time beyond the baseline is time in a queue."""
    teller = Teller(kind())
    assert teller.tell(10, 0.1) > teller.tell(10, 0.5)


@BOTH
def test_light_traffic_does_not_move_it(kind: type[LatencyLimit]) -> None:
    """Neither up nor, by its latency, down: less than half was in use."""
    teller = Teller(kind())
    assert 20 == teller.tell(100, 0.1, in_flight=9)
    assert 20 == teller.tell(20, 0.5, in_flight=9)


@BOTH
def test_congestion_shrinks_it_even_in_light_traffic(kind: type[LatencyLimit]) -> None:
    """Down to one; and one is not for ever."""
    teller = Teller(kind())
    teller.tell(10, 0.1)
    assert 20 > teller.tell(20, 0.1, congested=10, in_flight=1)
    assert 1 == teller.tell(300, 0.1, congested=10, in_flight=1)
    assert 5 < teller.tell(40, 0.1)


@BOTH
def test_one_timeout_in_many_calls_is_forgiven(kind: type[LatencyLimit]) -> None:
    """A steady error rate must not pin it to the ground."""
    assert 200 == Teller(kind()).tell(400, 0.1, congested=1)


@BOTH
def test_a_probe_lowers_it_for_a_moment(kind: type[LatencyLimit]) -> None:
    """A call about to be refused asks for the limit, which ends an overdue probe."""
    limit = kind()
    teller = Teller(limit)
    teller.tell(10, 0.1)
    before = 0
    while limit._latency.cap is None:
        before = teller.tell(1, 0.11, in_flight=20)
    assert 6 == limit.limit(teller.now)
    assert before <= limit.limit(teller.now + 60.0)


@BOTH
def test_a_probe_never_raises_it(kind: type[LatencyLimit]) -> None:
    """A third of those that run from before is more than it may be."""
    limit = kind(maximum=20)
    teller = Teller(limit)
    teller.tell(10, 0.1)
    while limit._latency.cap is None:
        teller.tell(1, 0.11, in_flight=100)
    assert 33 == limit._latency.cap
    assert limit.limit(teller.now) <= 20


@BOTH
def test_a_new_one_has_learnt_nothing(kind: type[LatencyLimit]) -> None:
    """It has the settings, and no baseline."""
    limit = kind(10, minimum=2, maximum=50, window=2, minimum_samples=5)  # type: ignore[call-arg]  # what they have in common
    Teller(limit).tell(40, 0.1)
    assert limit.baseline is not None
    again = limit.anew()
    assert (None, 10) == (again.baseline, again.limit(0.0))
    settings = "initial=10, minimum=2, maximum=50, window=2.0, minimum_samples=5"
    assert f"{kind.__name__}({settings})" == repr(limit) == repr(again)


def test_what_follows_from_a_latency_is_left_to_others() -> None:
    """Until they have said so there is no step."""
    limit = LatencyLimit(1, 1, 1, 1.0, 1, 0.5, 1.0)
    with pytest.raises(NotImplementedError):
        Teller(limit).tell(2, 0.1)


def test_vegas_goes_by_the_queue() -> None:
    """At 20 calls lg is 1.3: queues of 1.3, 3.9 and 7.8 are where steps change."""
    for queue, step in ((0.0, 7.8), (1.0, 7.8), (2.0, 1.3), (5.0, 0.0), (9.0, -1.3)):
        latency = 0.1 / (1 - queue / 20)
        found = Vegas()._step(20.0, latency, 0.1) - 20
        assert step == pytest.approx(found, abs=0.01)
    assert 15.0 == Vegas()._step(20.0, math.inf, 0.1)
    # So few can make no queue that counts.
    assert 3.0 == Vegas()._step(2.0, 10.0, 0.1)


def test_the_gradient_is_at_least_a_half_and_at_most_one() -> None:
    """A fifth of the way to the target; no headroom where it is congested."""
    step = Gradient()._step
    assert 20.8 == pytest.approx(step(20.0, 0.1, 0.1))
    assert 20.8 == pytest.approx(step(20.0, 0.15, 0.1))
    assert 19.8 == pytest.approx(step(20.0, 0.2, 0.1))
    assert 18.8 == pytest.approx(step(20.0, 9.0, 0.1))
    assert 18.0 == pytest.approx(step(20.0, math.inf, 0.1))


def test_settings_of_the_gradient_are_kept() -> None:
    """Each in an attribute of its name."""
    limit = Gradient(tolerance=2, headroom=8, smoothing=0.5, probe_every=10)
    again = limit.anew()
    assert (2.0, 8.0, 0.5, 10.0) == (
        again.tolerance,
        again.headroom,
        again.smoothing,
        again.probe_every,
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"window": 0}, "`window` must be > 0 seconds, got 0"),
        ({"minimum_samples": 0}, "`minimum_samples` must be >= 1, got 0"),
        ({"percentile": 0}, "`percentile` must be > 0 and <= 1, got 0"),
        ({"probe_every": -1}, "`probe_every` must be > 0 seconds, got -1"),
        ({"tolerance": 0.5}, "`tolerance` must be >= 1, got 0.5"),
        ({"headroom": 0}, "`headroom` must be > 0, got 0"),
        ({"smoothing": 2}, "`smoothing` must be > 0 and <= 1, got 2"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: dict[str, Any], text: str) -> None:
    """With parameter, rule and value."""
    with pytest.raises(ValueError) as caught:
        Gradient(**arguments)
    assert text == str(caught.value)


# -- A dependency that queues


class Server:
    """So many workers, a fixed service time, and calls that never leave room.

    As many calls are always under way as the limit allows.
    """

    def __init__(self, limit: LatencyLimit, workers: int, service: float) -> None:
        self.limit = limit
        self.workers = workers
        self.service = service
        self.now = 0.0
        # When each began, and when it will end.
        self.calls: deque[tuple[float, float]] = deque()
        self.free = [0.0] * workers

    def run(self, seconds: float) -> int:
        """Let time pass; return the limit then."""
        until = self.now + seconds
        while self.now < until:
            while len(self.calls) < self.limit.limit(self.now):
                end = max(self.now, heapq.heappop(self.free)) + self.service
                heapq.heappush(self.free, end)
                self.calls.append((self.now, end))
            began, self.now = self.calls[0]
            self.limit.update(self.now, self.now - began, len(self.calls), False)
            self.calls.popleft()
        return self.limit.limit(self.now)


@BOTH
def test_an_overload_that_lasts_does_not_become_the_standard(
    kind: type[LatencyLimit],
) -> None:
    """It began in overload, twenty on ten workers; for ten minutes more come."""
    limit = kind()
    server = Server(limit, workers=10, service=0.1)
    server.run(600.0)
    assert limit.baseline is not None
    assert 0.1 == pytest.approx(limit.baseline, rel=0.15)
    server.run(10.0)
    assert 10 <= server.run(10.0) <= 25


@BOTH
def test_a_dependency_that_became_slower_is_not_limited_for_ever(
    kind: type[LatencyLimit],
) -> None:
    """The probe finds out that it is not our queue."""
    limit = kind()
    server = Server(limit, workers=100, service=0.1)
    server.run(60.0)
    server.service = 0.3
    server.run(120.0)
    assert limit.baseline is not None
    assert 0.3 == pytest.approx(limit.baseline, rel=0.15)
    assert 60 < server.run(60.0)


@pytest.mark.parametrize(
    ("limit", "latency", "baseline", "after"),
    [(4.0, 4.0, 3.0, 10.0), (4.0, 4.0, 1.0, 4.0), (8.0, 4.0, 1.0, 8.0)],
)
def test_the_bounds_of_a_queue_of_vegas(
    limit: float, latency: float, baseline: float, after: float
) -> None:
    """One call too many is few, three to six are right: the bounds belong to these."""
    assert after == Vegas(4)._step(limit, latency, baseline)


def test_congestion_counts_where_the_clock_did_not_move() -> None:
    """A call that is refused at once takes no time, and says enough."""
    latency = meter(minimum_samples=1)
    assert latency.add(4096.0, 0.0, 10, True) is None
    assert Window(math.inf, 10) == latency.add(4097.0, 0.0, 10, True)
