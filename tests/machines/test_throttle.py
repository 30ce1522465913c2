"""The throttle: how many calls go, which of them, and how it recovers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from resilient._machines.throttle import Throttle
from resilient._values.priority import Priority

BATCH, SHEDDABLE, NORMAL, CRITICAL = Priority


def throttle(**changes: Any) -> Throttle:
    """Return one as plain as the book's, but for the changes."""
    arguments: dict[str, Any] = {
        "k": 2.0,
        "window": 10.0,
        "padding": 1.0,
        "minimum_calls": 1,
        "probe_interval": None,
        "count_throttled": True,
    }
    return Throttle(**{**arguments, **changes})


def fill(
    machine: Throttle,
    accepted: int,
    refused: int,
    *,
    now: float = 0.0,
    priority: Priority = NORMAL,
) -> None:
    """Record calls that were let through and have ended."""
    for _ in range(accepted):
        machine.record(now, priority, True)
    for _ in range(refused):
        machine.record(now, priority, False)


def rejected(
    machine: Throttle, number: int, *, now: float, priority: Priority = NORMAL
) -> int:
    """Ask for calls with evenly spread shed ranks; return how many are rejected."""
    ranks = [(place * 0.618) % 1 for place in range(number)]
    return sum(not machine.admit(now, priority, shed_rank) for shed_rank in ranks)


# -- How many


@pytest.mark.parametrize(
    ("accepted", "refused", "changes", "p"),
    [
        (10, 10, {}, 0.0),
        (9, 10, {}, 1 / 20),
        (0, 9, {}, 0.9),
        (0, 9, {"padding": 0}, 1.0),
        (0, 5, {"padding": 5}, 0.5),
        (9, 10, {"k": 1.0}, 0.5),
        (9, 10, {"minimum_calls": 20}, 0.0),
        (9, 11, {"minimum_calls": 20}, 2 / 21),
    ],
)
def test_p_is_that_of_the_book(
    accepted: int, refused: int, changes: dict[str, Any], p: float
) -> None:
    """Requests beyond `k` times the accepted ones, among all and the padding."""
    machine = throttle(**changes)
    fill(machine, accepted, refused)
    assert p == pytest.approx(machine.share_of_all(0.0))
    assert p == pytest.approx(machine.share(0.0, NORMAL))
    assert machine.pressed or not p


def test_what_is_rejected_here_is_a_request_by_choice() -> None:
    """The book counts it, Envoy does not."""
    found = []
    for count_throttled in (True, False):
        machine = throttle(count_throttled=count_throttled)
        fill(machine, 0, 9)
        assert not machine.admit(0.0, NORMAL, 0.0)
        found.append(machine.share_of_all(0.0))
    assert [10 / 11, 9 / 10] == found


def test_without_counting_them_a_window_of_its_own_rejections_rejects_none() -> None:
    """Nothing is known of the server then."""
    machine = throttle(count_throttled=False)
    fill(machine, 0, 9)
    for tick in range(20):
        machine.admit(tick / 2, NORMAL, 0.0)
    assert 0.0 == machine.share_of_all(10.0)
    assert not machine.is_fresh(10.0)


def test_nothing_is_looked_at_before_there_is_a_reason() -> None:
    """That is, an outcome too bad for those before it to pay for."""
    machine = throttle()
    fill(machine, 10, 10)
    assert not machine.pressed
    machine.record(0.0, NORMAL, False)
    assert machine.pressed
    machine.record(0.0, NORMAL, True)
    assert machine.admit(0.0, NORMAL, 0.0)
    assert not machine.pressed


def test_a_reason_in_one_class_is_none_if_the_others_do_well() -> None:
    """What counts is p, of all classes together."""
    machine = throttle()
    fill(machine, 20, 0, priority=CRITICAL)
    fill(machine, 0, 20, priority=BATCH)
    assert not machine.pressed
    fill(machine, 0, 1, priority=BATCH)
    assert machine.pressed


def test_the_window_forgets() -> None:
    """Ten seconds later all is as new."""
    machine = throttle()
    fill(machine, 0, 100, now=100.0)
    assert machine.share_of_all(109.0) > 0.9
    assert not machine.is_fresh(109.0)
    assert machine.admit(110.0, NORMAL, 0.0)
    assert not machine.pressed
    assert machine.is_fresh(110.0)


def test_reset_is_as_new() -> None:
    """Whatever it held, and whenever the last probe was."""
    machine = throttle(probe_interval=1.0)
    fill(machine, 0, 100)
    rejected(machine, 50, now=0.0)
    machine.reset()
    assert machine.is_fresh(0.0)
    assert not machine.pressed
    fill(machine, 0, 100)
    assert machine.admit(0.0, NORMAL, 0.0)
    assert not machine.admit(0.0, NORMAL, 0.0)


# -- Probes


def test_one_probe_a_second_goes_through_whatever_p_is() -> None:
    """And p itself is not capped."""
    machine = throttle(padding=0.0, probe_interval=1.0)
    fill(machine, 0, 100)
    passed = []
    for tick in range(400):
        now = tick / 100
        if machine.admit(now, NORMAL, 0.999):
            passed.append(now)
            machine.record(now, NORMAL, False)
        assert 1.0 == machine.share_of_all(now)
    assert [0.0, 1.0, 2.0, 3.0] == passed


def test_without_probes_nothing_may_go_through() -> None:
    """Then the way back waits until the window has forgotten."""
    machine = throttle(padding=0.0)
    fill(machine, 0, 100)
    assert 100 == rejected(machine, 100, now=1.0)


def test_a_probe_takes_no_place_of_another() -> None:
    """The share that passes passes besides."""
    machine = throttle(padding=100.0, probe_interval=0.001, window=1000.0)
    fill(machine, 0, 100)
    assert 200 == sum(machine.admit(tick, NORMAL, 0.0) for tick in range(200))
    assert [0.0] * 4 == machine._surplus


def test_good_answers_end_it_within_a_window() -> None:
    """After a minute in which all was refused, too."""
    machine = throttle(padding=5.0, probe_interval=1.0)
    ranks = [(place * 0.618) % 1 for place in range(14_000)]
    held_back: list[int] = []
    for tick in range(1400):
        now = tick / 14
        if machine.admit(now, NORMAL, ranks[tick]):
            machine.record(now, NORMAL, now >= 60)
        else:
            held_back.append(int(now))
    assert held_back.count(59) >= 12
    assert not [second for second in held_back if second >= 75]


# -- Which


def test_the_lowest_class_goes_first() -> None:
    """While it suffices, no other is touched."""
    machine = throttle(padding=0.0)
    for priority in Priority:
        fill(machine, 10, 15, priority=priority)
    # 100 calls, of which 40 were accepted: 20 are to go.
    shares = [machine.share(0.0, priority) for priority in Priority]
    assert [0.8, 0.0, 0.0, 0.0] == pytest.approx(shares)
    fill(machine, 0, 5, priority=CRITICAL)
    fill(machine, 0, 5, priority=NORMAL)
    # 110 and 40: 30.
    shares = [machine.share(0.0, priority) for priority in Priority]
    assert [1.0, 0.2, 0.0, 0.0] == pytest.approx(shares)


def test_a_class_that_is_alone_gets_p_and_no_more() -> None:
    """Whatever it is: priority orders and reserves nothing."""
    for priority in Priority:
        machine = throttle()
        fill(machine, 9, 10, priority=priority)
        assert 1 / 20 == pytest.approx(machine.share(0.0, priority))


def test_a_class_that_was_not_seen_before_has_its_place() -> None:
    """Below those that are rejected it goes as a whole, above not at all."""
    machine = throttle()
    fill(machine, 4, 16, priority=NORMAL)
    assert 1.0 == machine.share(0.0, BATCH)
    assert 0.0 == machine.share(0.0, CRITICAL)


def test_within_a_class_the_lower_shed_ranks_go() -> None:
    """The same tasks are rejected for as long as p is the same."""
    machine = throttle(padding=0.0)
    fill(machine, 30, 70)
    assert 0.4 == pytest.approx(machine.share_of_all(0.0))
    assert [True, True, False, False] == [
        machine.admit(0.0, NORMAL, shed_rank) for shed_rank in (0.9, 0.5, 0.2, 0.39)
    ]


@pytest.mark.parametrize("shed_rank", [0.0, 0.5, 0.999])
@pytest.mark.parametrize(("size", "slack"), [(1, 10), (100, 220)])
def test_one_task_alone_is_rejected_by_shares(
    shed_rank: float, size: int, slack: int
) -> None:
    """Its one shed rank alone would let all of its calls through, or none."""
    machine = throttle(padding=0.0)
    fill(machine, 42 * size, 58 * size)
    short = 0.0
    for _ in range(1000):
        short += machine.share(0.0, NORMAL)
        short -= not machine.admit(0.0, NORMAL, shed_rank)
        assert -slack <= short <= slack


def test_what_one_share_left_behind_counts_little_under_another() -> None:
    """A slack that was large when many passed is small when few do."""
    machine = throttle(padding=0.0)
    fill(machine, 3_000, 7_000)
    for _ in range(1000):
        machine.admit(0.0, NORMAL, 0.0)
    fill(machine, 100, 1_000, now=12.0)
    assert 0.8 < machine.share(12.0, NORMAL)
    passed = sum(machine.admit(12.0, NORMAL, 0.0) for _ in range(100))
    assert passed < 40


def test_calls_that_passed_under_another_share_are_not_made_up_for() -> None:
    """Nor all at once rejected, where few are to be."""
    machine = throttle(padding=0.0)
    fill(machine, 3_000, 7_000)
    for _ in range(1000):
        machine.admit(0.0, NORMAL, 0.999)
    fill(machine, 495, 605, now=12.0)
    assert machine.share(12.0, NORMAL) < 0.2
    passed = sum(machine.admit(12.0, NORMAL, 0.999) for _ in range(100))
    assert passed > 70


def test_many_tasks_are_seldom_overruled() -> None:
    """The slack overrules the shed rank of at most one call in a hundred."""
    machine = throttle(padding=0.0)
    fill(machine, 3_000, 7_000)
    overruled = 0
    state = 1
    for _ in range(2_000):
        state = state * 48271 % 0x7FFFFFFF
        shed_rank = state / 0x7FFFFFFF
        share = machine.share(0.0, NORMAL)
        overruled += machine.admit(0.0, NORMAL, shed_rank) == (shed_rank < share)
    assert overruled <= 20


# -- Against a naive model


class NaiveThrottle(RuleBasedStateMachine):
    """The throttle against a list of all its calls, lowest class first."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = throttle(window=1e9, padding=2.0, minimum_calls=5)
        self.calls: list[tuple[Priority, bool]] = []
        self.surplus = dict.fromkeys(Priority, 0.0)

    def share(self, priority: Priority) -> float:
        """How much of a class lies among the calls that are to go."""
        accepts = sum(accepted for _, accepted in self.calls)
        missing = len(self.calls) - 2.0 * accepts
        if len(self.calls) < 5 or missing <= 0:
            return 0.0
        excess = missing / (len(self.calls) + 2.0) * len(self.calls)
        below = sum(other < priority for other, _ in self.calls)
        own = sum(other == priority for other, _ in self.calls)
        if not own:
            return float(excess > below)
        return min(1.0, max(0.0, (excess - below) / own))

    def slack(self, priority: Priority, share: float) -> float:
        """By how much a class may be off its share."""
        own = sum(other == priority for other, _ in self.calls)
        return max(10.0, 0.1 * own * min(share, 1 - share))

    @rule(
        priority=st.sampled_from(Priority),
        accepted=st.booleans(),
        times=st.integers(1, 5),
    )
    def end(self, priority: Priority, accepted: bool, times: int) -> None:
        """Let calls end that were under way."""
        for _ in range(times):
            self.machine.record(0.0, priority, accepted)
            self.calls.append((priority, accepted))

    @rule(
        priority=st.sampled_from(Priority),
        shed_rank=st.integers(0, 15).map(lambda shed_rank: shed_rank / 16),
        times=st.integers(1, 30),
    )
    def ask(self, priority: Priority, shed_rank: float, times: int) -> None:
        """Ask for calls of one task."""
        for _ in range(times):
            share = self.share(priority)
            admitted = self.machine.admit(0.0, priority, shed_rank)
            if share == 0.0:
                assert admitted
                continue
            if share == 1.0:
                assert not admitted
            slack = self.slack(priority, share)
            before = max(-slack, min(slack, self.surplus[priority]))
            after = before + (shed_rank < share) - share
            # Against its shed rank only where the slack is used up.
            if abs(abs(after) - slack) > 1e-6:
                assert admitted == (
                    (shed_rank >= share) if abs(after) <= slack else after > 0
                )
            self.surplus[priority] = before + (not admitted) - share
            assert abs(self.surplus[priority]) <= slack + 1e-6
            if not admitted:
                self.calls.append((priority, False))

    @invariant()
    def shares_agree(self) -> None:
        """Of every class, and of all."""
        for priority in Priority:
            found = self.machine.share(0.0, priority)
            assert self.share(priority) == pytest.approx(found, abs=1e-9)

    @invariant()
    def nothing_is_missed(self) -> None:
        """Who would be rejected is asked about."""
        assert self.machine.pressed or not self.machine.share_of_all(0.0)


NaiveThrottle.TestCase.settings = settings(
    deadline=None, derandomize=True, max_examples=60, stateful_step_count=30
)
TestNaiveThrottle = NaiveThrottle.TestCase
