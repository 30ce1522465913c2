"""Flights: who waits for which execution."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from resilient._machines.single_flight import Execution, Executions, WaitingCall


def begun(executions: Executions[Execution], key: str, *around: Execution) -> Execution:
    """Begin a flight, with a passenger who is inside of others."""
    execution = Execution(key, WaitingCall(around))
    executions.begin(execution)
    return execution


def test_a_flight_is_found_by_its_key_until_it_lands() -> None:
    """Then the key is free."""
    executions: Executions[Execution] = Executions()
    execution = begun(executions, "a")
    assert execution is executions.find("a")
    assert None is executions.find("b")
    assert list(execution.waiters) == executions.finish(execution)
    assert None is executions.find("a")
    assert 0 == len(executions)


def test_passengers_arrive_in_the_order_they_came() -> None:
    """Whoever began it is the first."""
    executions: Executions[Execution] = Executions()
    execution = begun(executions, "a")
    merge_work = [WaitingCall(), WaitingCall()]
    for waiting in merge_work:
        executions.join(execution, waiting)
    assert merge_work == executions.finish(execution)[1:]


def test_the_last_to_leave_ends_it() -> None:
    """Not the first, who may be the one that began it."""
    executions: Executions[Execution] = Executions()
    execution = begun(executions, "a")
    [first] = execution.waiters
    second = WaitingCall()
    executions.join(execution, second)
    assert not executions.leave(execution, first)
    assert execution is executions.find("a")
    assert executions.leave(execution, second)
    assert execution.abandoned
    assert None is executions.find("a")


def test_a_flight_ends_once() -> None:
    """What comes second changes nothing, not even a successor's."""
    executions: Executions[Execution] = Executions()
    execution = begun(executions, "a")
    [first] = execution.waiters
    assert executions.leave(execution, first)
    successor = begun(executions, "a")
    assert not executions.leave(execution, first)
    assert [] == executions.finish(execution)
    assert successor is executions.find("a")
    executions.finish(successor)
    assert [] == executions.finish(successor)
    [waiting] = Execution("b", first).waiters
    assert not executions.leave(successor, waiting)
    assert not successor.abandoned


def test_who_is_inside_nothing_closes_no_circle() -> None:
    """The ordinary case."""
    executions: Executions[Execution] = Executions()
    assert not executions.closes_circle(begun(executions, "a"), ())


def test_a_flight_does_not_wait_for_itself() -> None:
    """Whoever is inside may not join it."""
    executions: Executions[Execution] = Executions()
    execution = begun(executions, "a")
    assert executions.closes_circle(execution, (execution,))
    assert not executions.closes_circle(begun(executions, "b"), (execution,))


def test_flights_do_not_wait_for_each_other() -> None:
    """However many there are in between."""
    executions: Executions[Execution] = Executions()
    a = begun(executions, "a")
    b = begun(executions, "b", a)
    c = begun(executions, "c", b)
    assert executions.closes_circle(a, (c,))
    assert not executions.closes_circle(c, (a,))
    # Those who leave wait no more.
    [waiting] = b.waiters
    executions.join(b, WaitingCall())
    executions.leave(b, waiting)
    assert not executions.closes_circle(a, (c,))


def test_a_circle_of_others_is_walked_once() -> None:
    """It cannot come about, and would be no reason to hang."""
    executions: Executions[Execution] = Executions()
    a = begun(executions, "a")
    b = begun(executions, "b", a)
    executions.join(a, WaitingCall((b,)))
    assert not executions.closes_circle(a, (begun(executions, "c"),))


class NaiveFlights(RuleBasedStateMachine):
    """Flights against a list of who waits for what."""

    flights_seen = Bundle("flights")

    def __init__(self) -> None:
        super().__init__()
        self.executions: Executions[Execution] = Executions()
        self.waiting: dict[Execution, list[WaitingCall]] = {}

    @rule(target=flights_seen, key=st.sampled_from("abc"))
    def arrive(self, key: str) -> Execution:
        waiting = WaitingCall()
        execution = self.executions.find(key)
        if execution is None:
            execution = Execution(key, waiting)
            self.executions.begin(execution)
            self.waiting[execution] = [waiting]
        else:
            self.executions.join(execution, waiting)
            self.waiting[execution].append(waiting)
        return execution

    @rule(execution=flights_seen, place=st.integers(0, 3))
    def leave(self, execution: Execution, place: int) -> None:
        waiting = self.waiting[execution]
        if place < len(waiting):
            gone = waiting.pop(place)
            assert (not waiting) == self.executions.leave(execution, gone)
            assert not self.executions.leave(execution, gone)

    @rule(execution=flights_seen)
    def land(self, execution: Execution) -> None:
        assert self.waiting[execution] == self.executions.finish(execution)
        self.waiting[execution] = []

    @invariant()
    def only_flights_that_are_waited_for_are_under_way(self) -> None:
        under_way = {one.key: one for one, who in self.waiting.items() if who}
        assert len(under_way) == len(self.executions)
        for key in "abc":
            assert under_way.get(key) is self.executions.find(key)


TestNaiveFlights = NaiveFlights.TestCase
