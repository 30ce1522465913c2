"""Single flight: which calls wait for which execution."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from resilient._machines.single_flight import Execution, Executions, WaitingCall


def begun(executions: Executions[Execution], key: str, *around: Execution) -> Execution:
    """Begin an execution whose first waiter is inside the executions `around`."""
    execution = Execution(key, WaitingCall(around))
    executions.begin(execution)
    return execution


def test_an_execution_is_found_by_its_key_until_it_finishes() -> None:
    """After that the key is free."""
    executions: Executions[Execution] = Executions()
    execution = begun(executions, "a")
    assert execution is executions.find("a")
    assert None is executions.find("b")
    assert list(execution.waiters) == executions.finish(execution)
    assert None is executions.find("a")
    assert 0 == len(executions)


def test_waiters_are_returned_in_the_order_they_joined() -> None:
    """The call that began the execution is the first."""
    executions: Executions[Execution] = Executions()
    execution = begun(executions, "a")
    joined = [WaitingCall(), WaitingCall()]
    for waiting in joined:
        executions.join(execution, waiting)
    assert joined == executions.finish(execution)[1:]


def test_the_last_waiter_to_leave_ends_the_execution() -> None:
    """The first to leave does not, even if it began the execution."""
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


def test_an_execution_ends_once() -> None:
    """A second end changes nothing, not even for a successor with the same key."""
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


def test_a_call_outside_all_executions_closes_no_circle() -> None:
    """The ordinary case."""
    executions: Executions[Execution] = Executions()
    assert not executions.closes_circle(begun(executions, "a"), ())


def test_an_execution_does_not_wait_for_itself() -> None:
    """A call inside an execution may not join it."""
    executions: Executions[Execution] = Executions()
    execution = begun(executions, "a")
    assert executions.closes_circle(execution, (execution,))
    assert not executions.closes_circle(begun(executions, "b"), (execution,))


def test_executions_do_not_wait_for_each_other() -> None:
    """However many executions are in between."""
    executions: Executions[Execution] = Executions()
    a = begun(executions, "a")
    b = begun(executions, "b", a)
    c = begun(executions, "c", b)
    assert executions.closes_circle(a, (c,))
    assert not executions.closes_circle(c, (a,))
    # A waiter that has left no longer counts.
    [waiting] = b.waiters
    executions.join(b, WaitingCall())
    executions.leave(b, waiting)
    assert not executions.closes_circle(a, (c,))


def test_a_circle_of_others_is_walked_once() -> None:
    """Such a circle cannot arise; if it did, the search would still end."""
    executions: Executions[Execution] = Executions()
    a = begun(executions, "a")
    b = begun(executions, "b", a)
    executions.join(a, WaitingCall((b,)))
    assert not executions.closes_circle(a, (begun(executions, "c"),))


class NaiveExecutions(RuleBasedStateMachine):
    """`Executions` against lists of the calls that wait for each."""

    seen = Bundle("seen")

    def __init__(self) -> None:
        super().__init__()
        self.executions: Executions[Execution] = Executions()
        self.waiting: dict[Execution, list[WaitingCall]] = {}

    @rule(target=seen, key=st.sampled_from("abc"))
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

    @rule(execution=seen, place=st.integers(0, 3))
    def leave(self, execution: Execution, place: int) -> None:
        waiting = self.waiting[execution]
        if place < len(waiting):
            gone = waiting.pop(place)
            assert (not waiting) == self.executions.leave(execution, gone)
            assert not self.executions.leave(execution, gone)

    @rule(execution=seen)
    def finish(self, execution: Execution) -> None:
        assert self.waiting[execution] == self.executions.finish(execution)
        self.waiting[execution] = []

    @invariant()
    def only_executions_that_are_waited_for_are_under_way(self) -> None:
        under_way = {
            waiting.key: waiting for waiting, who in self.waiting.items() if who
        }
        assert len(under_way) == len(self.executions)
        for key in "abc":
            assert under_way.get(key) is self.executions.find(key)


TestNaiveExecutions = NaiveExecutions.TestCase


def test_an_execution_is_over_when_it_has_ended() -> None:
    """And not when it begins."""
    executions: Executions[Execution] = Executions()
    execution = begun(executions, "a")
    assert not execution.over
    executions.finish(execution)
    assert execution.over
