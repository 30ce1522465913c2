"""Freshness: how long a kept value may be used, and which ones are kept."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from resilient._machines.freshness import Entries, Freshness, freshness


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0.0, Freshness.FRESH),
        (9.99, Freshness.FRESH),
        (10.0, Freshness.STALE),
        (39.99, Freshness.STALE),
        (40.0, Freshness.EXPIRED),
    ],
)
def test_a_value_is_fresh_then_stale_then_expired(
    age: float, expected: Freshness
) -> None:
    """At exactly the end of a life it is over."""
    assert expected is freshness(age, 10.0, 30.0)


def test_lives_may_be_without_end_or_not_be_at_all() -> None:
    """A value that is never fresh still answers for failures."""
    assert Freshness.STALE is freshness(0.0, 0.0, 1.0)
    assert Freshness.EXPIRED is freshness(1.0, 1.0, 0.0)
    assert Freshness.FRESH is freshness(1e9, math.inf, 0.0)
    assert Freshness.STALE is freshness(1e9, 1.0, math.inf)


def test_an_entry_is_found_with_its_age_until_its_life_is_over() -> None:
    """At the end it is not there any more."""
    entries: Entries[str] = Entries(10)
    assert [] == entries.put("a", "A", 5.0, 100.0)
    assert ("A", 0.0) == entries.get("a", 100.0)
    assert ("A", 4.5) == entries.get("a", 104.5)
    assert None is entries.get("a", 105.0)
    assert None is entries.get("b", 100.0)


def test_room_is_made_by_dropping_the_least_recently_used() -> None:
    """Looking at one is using it, putting it anew as well; it is returned."""
    entries: Entries[str] = Entries(2)
    entries.put("a", "A", 5.0, 0.0)
    entries.put("b", "B", 5.0, 0.0)
    entries.get("a", 1.0)
    assert [("b", (0.0, 5.0, "B", 0.0))] == entries.put("c", "C", 5.0, 1.0)
    assert [(0.0, 5.0, "A", 0.0)] == entries.put("a", "A2", 5.0, 2.0)
    assert [("c", (1.0, 6.0, "C", 0.0))] == entries.put("d", "D", 5.0, 2.0)
    assert ("A2", 1.0) == entries.get("a", 3.0)
    assert 2 == len(entries)


def test_what_is_dropped_is_returned() -> None:
    """So that its destructor runs where its owner wants."""
    entries: Entries[str] = Entries(2)
    entries.put("a", "A", 5.0, 0.0)
    assert (0.0, 5.0, "A", 0.0) == entries.drop("a")
    assert None is entries.drop("a")
    entries.put("b", "B", 5.0, 0.0)
    assert {"b": (0.0, 5.0, "B", 0.0)} == entries.clear()
    assert 0 == len(entries)


def test_room_is_made_by_size_too() -> None:
    """As many go as have to, the least recently used first."""
    entries: Entries[str] = Entries(10, 10.0)
    entries.put("a", "A", 5.0, 0.0, 4.0)
    entries.put("b", "B", 5.0, 0.0, 4.0)
    entries.put("c", "C", 5.0, 0.0, 2.0)
    assert 3 == len(entries)
    entries.get("a", 1.0)
    gone = [("b", (0.0, 5.0, "B", 4.0)), ("c", (0.0, 5.0, "C", 2.0))]
    assert gone == entries.put("d", "D", 5.0, 1.0, 6.0)
    entries.drop("a")
    assert [] == entries.put("e", "E", 5.0, 1.0, 4.0)
    entries.clear()
    assert [] == entries.put("f", "F", 5.0, 1.0, 7.0)
    assert [] == entries.put("g", "G", 5.0, 1.0, 3.0)
    assert ("F", 0.0) == entries.get("f", 1.0)


def test_a_value_larger_than_all_room_is_not_kept() -> None:
    """What was kept by its key is no longer so; the others stay."""
    entries: Entries[str] = Entries(10, 10.0)
    entries.put("a", "A", 5.0, 0.0, 1.0)
    entries.put("b", "B", 5.0, 0.0, 9.0)
    assert [(0.0, 5.0, "A", 1.0)] == entries.put("a", "A2", 5.0, 1.0, 10.5)
    assert None is entries.get("a", 1.0)
    assert ("B", 1.0) == entries.get("b", 1.0)
    assert [] == entries.put("c", "C", 5.0, 1.0, 1.0)


def test_a_value_that_fills_all_room_is_kept() -> None:
    """Whatever fractions the others were of."""
    entries: Entries[int] = Entries(10, 1.0)
    for number in range(1000):
        entries.put(number, number, 5.0, 0.0, 0.1 * (number % 7))
    entries.put("whole", -1, 5.0, 0.0, 1.0)
    assert (-1, 0.0) == entries.get("whole", 0.0)
    assert 1 == len(entries)


class NaiveEntries(RuleBasedStateMachine):
    """Entries against a list of all that was ever put, most recent last."""

    keys = st.sampled_from("abcde")

    @initialize(limit=st.integers(1, 4), room=st.sampled_from([math.inf, 3.0, 8.0]))
    def begin(self, limit: int, room: float) -> None:
        self.entries: Entries[int] = Entries(limit, room)
        self.limit = limit
        self.sizes = {0: 0}
        self.now = 0.0
        self.count = 0
        self.model: list[tuple[str, int, float, float]] = []

    def forget(self, key: str) -> None:
        self.model = [entry for entry in self.model if entry[0] != key]

    @rule(
        key=keys,
        lifetime=st.sampled_from([0.0, 1.0, 3.0, math.inf]),
        size=st.integers(0, 5),
    )
    def put(self, key: str, lifetime: float, size: int) -> None:
        self.count += 1
        self.sizes[self.count] = size
        self.entries.put(key, self.count, lifetime, self.now, size)
        self.forget(key)
        if size > self.entries.room:
            return
        self.model.append((key, self.count, self.now, lifetime))
        self.model = self.model[-self.limit :]
        while sum(self.sizes[entry[1]] for entry in self.model) > self.entries.room:
            self.model.pop(0)

    @rule(key=keys)
    def get(self, key: str) -> None:
        found = self.entries.get(key, self.now)
        expected = None
        for entry in self.model:
            name, value, put, lifetime = entry
            if name == key and self.now < put + lifetime:
                expected = (value, self.now - put)
                self.forget(key)
                self.model.append(entry)
                break
        assert expected == found

    @rule(key=keys)
    def drop(self, key: str) -> None:
        self.entries.drop(key)
        self.forget(key)

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def is_bounded(self) -> None:
        if hasattr(self, "entries"):
            assert len(self.model) == len(self.entries) <= self.limit


TestNaiveEntries = NaiveEntries.TestCase
