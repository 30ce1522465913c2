"""One value of a fleet: who may make it anew, and how old it is."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from resilient._machines.shared_value import (
    NOTHING,
    Found,
    StoreClock,
    Value,
    ValueAsk,
    serve,
)


def look(value: Value, now: float, id_: str = "a", **more: Any) -> tuple[Value, Found]:
    """Have a member look for a value that is good for ten seconds."""
    return serve(value, now, ValueAsk("look", id_, 10.0, **{"right": 5.0, **more}))


def keep(value: Value, now: float, made: float, content: bytes = b"x") -> Value:
    """Have member a keep a value for thirty seconds."""
    ask = ValueAsk("keep", "a", made=made, life=30.0, content=content)
    return serve(value, now, ask)[0]


def test_one_asker_has_the_right_until_it_ends() -> None:
    """The first; it may ask again, and after five seconds another gets it."""
    value, found = look(NOTHING, 100.0)
    assert Found(None, -1.0, 100.0, 1.0) == found
    value, found = look(value, 101.0, "b")
    assert 0.0 == found.granted
    assert 1.0 == look(value, 101.0)[1].granted
    assert 1.0 == look(value, 105.0, "b")[1].granted
    assert 0.0 == look(value, 105.0, "b", right=0.0)[1].granted


def test_a_value_that_is_kept_ends_the_right() -> None:
    """It is fresh, then stale, then gone."""
    value, _ = look(NOTHING, 100.0)
    value = keep(value, 102.0, 101.0)
    assert Found(b"x", 4.0, 105.0, 0.0) == look(value, 105.0)[1]
    assert Found(b"x", 10.0, 111.0, 1.0) == look(value, 111.0, "b")[1]
    assert Found(None, -1.0, 131.0, 1.0) == look(value, 131.0, "b")[1]
    assert 131.0 == value.expires
    assert 136.0 == look(value, 131.0)[0].expires
    assert 0.0 == NOTHING.expires


def test_an_older_value_replaces_no_newer_one() -> None:
    """One that was made in time to come, or is over, is not kept."""
    value = keep(NOTHING, 100.0, 99.0, b"new")
    assert value == keep(value, 100.0, 98.0, b"old")
    assert value == keep(value, 100.0, 101.0, b"of another clock")
    assert value == keep(value, 200.0, 170.0, b"over") or value.content == b"new"


def test_the_right_of_another_is_not_given_back() -> None:
    """Only its own; what is dropped is gone for all."""
    value, _ = look(keep(NOTHING, 100.0, 90.0), 100.0)
    for verb in ("free", "drop"):
        assert "a" == serve(value, 101.0, ValueAsk(verb, "b"))[0].holder  # type: ignore[arg-type]
    assert "" == serve(value, 101.0, ValueAsk("free", "a"))[0].holder
    assert b"x" == serve(value, 101.0, ValueAsk("free", "a"))[0].content
    assert serve(value, 101.0, ValueAsk("drop", "a"))[0].content is None


def test_a_clock_that_is_set_back_gives_no_right_for_ever() -> None:
    """It ends when it would have, given now."""
    value, _ = look(NOTHING, 1000.0)
    assert 0.0 == look(value, 999.0, "b", right=10.0)[1].granted
    assert 1.0 == look(value, 700.0, "b")[1].granted


@given(
    delays=st.lists(st.floats(0.0, 0.25), min_size=2, max_size=2),
    asked=st.floats(0.0, 100.0),
    took=st.floats(0.0, 10.0),
    offset=st.floats(-1e9, 1e9),
)
def test_a_value_is_never_younger_than_it_is(
    delays: list[float], asked: float, took: float, offset: float
) -> None:
    """Whatever the exchange that told the store's time took."""
    clock = StoreClock()
    assert clock.time_of(0.0) is None
    answered = asked + delays[0]
    clock.hear(asked, answered + delays[1], answered + offset)
    made = answered + delays[1] + took
    dated = clock.time_of(made)
    assert dated is not None
    assert dated <= made + offset + 1e-6


def test_what_was_made_before_a_clock_was_set_back_is_not_believed() -> None:
    """Until the clock is where it was."""
    clock = StoreClock()
    clock.hear(10.0, 10.1, 1010.0)
    assert clock.believes(Found(b"x", 5.0, 1010.0, 0.0))
    clock.hear(20.0, 20.1, 720.0)
    assert not clock.believes(Found(b"x", 5.0, 720.0, 0.0))
    assert not clock.believes(Found(None, -1.0, 9e9, 0.0))
    clock.hear(400.0, 400.1, 1100.0)
    assert clock.believes(Found(b"x", 5.0, 1100.0, 0.0))
    # An answer to what was asked earlier is no sign of it.
    clock.hear(399.0, 400.2, 1099.0)
    assert clock.believes(Found(b"x", 5.0, 1100.0, 0.0))


def test_it_counts_answers_and_members() -> None:
    """As the other machines of shared policies do."""
    clock = StoreClock()
    clock.hear(1.0, 1.5, 0.0)
    clock.see(2.0, 3)
    clock.cut(3.0)
    assert (1, 0.5, 3, True) == (
        clock.exchanges,
        clock.exchange_time,
        clock.members,
        clock.is_cut,
    )
    clock.forget()
    assert not clock.is_cut
