"""Admission policies: what their base does around every one of them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.colours import World, in_every_colour

from resilient import (
    AdmissionPolicy,
    Bulkhead,
    Call,
    CircuitBreaker,
    Event,
    Outcome,
    RateLimiter,
    RejectedError,
    Wait,
)
from resilient._policy.admission import DeferredRelease
from resilient._policy.queueing import QueueingPolicy
from resilient._runtimes import clock
from resilient._runtimes.sync import SYNC
from resilient.testing import instant


class Turnstile(AdmissionPolicy):
    """Gives numbered permits, after as many waits as it is told."""

    __slots__ = ("given", "permits", "waits")

    def __init__(self, *permits: Any, waits: int = 0) -> None:
        super().__init__("turnstile")
        self.permits = list(permits)
        self.waits = waits
        self.given: list[tuple[Any, Any]] = []

    def admit(self, call: Call) -> Any:
        if not self.waits:
            return self.permits.pop(0)
        self.waits -= 1
        return Wait(call.runtime.waiter(call), clock.now() + 1, sleeps=True)

    def readmit(self, wait: Wait, call: Call) -> Any:
        return self.admit(call)

    def withdraw(self, wait: Wait) -> None:
        self.given.append(("withdrawn", wait.until))

    def settle(self, permit: Any, outcome: Outcome | None) -> None:
        self.given.append((permit, None if outcome is None else outcome.value))


async def answer() -> str:
    """Succeed."""
    return "ok"


@in_every_colour
async def test_any_object_is_a_permit(w: World) -> None:
    """None too; it comes back once, with the outcome."""
    turnstile = Turnstile("one", None)
    assert "ok" == await w.call(turnstile, answer)
    assert "ok" == await w.call(turnstile, answer)
    assert [("one", "ok"), (None, "ok")] == turnstile.given


@in_every_colour
async def test_a_rejection_has_nothing_to_give_back(w: World) -> None:
    """It is raised at the edge, and sent to listeners without a reason."""
    turnstile = Turnstile(RejectedError("turnstile", 2.5))
    events: list[Event] = []
    turnstile.subscribe(events.append)
    with pytest.raises(RejectedError, match=r"retry in 2\.5 s"):
        await w.call(turnstile, answer)
    assert [] == turnstile.given
    [event] = events
    assert ("RejectedError", None, 2.5) == (
        event.error_type,  # type: ignore[attr-defined]  # it is a CallRejected
        event.reason,  # type: ignore[attr-defined]
        event.retry_after,  # type: ignore[attr-defined]
    )


@in_every_colour
async def test_a_wait_may_lead_to_another(w: World) -> None:
    """It is waited for until there is a permit, or a rejection."""
    turnstile = Turnstile("late", RejectedError("turnstile"), waits=3)
    assert "ok" == await w.call(turnstile, answer)
    assert 3.0 == w.now()
    turnstile.waits = 1
    with pytest.raises(RejectedError):
        await w.call(turnstile, answer)
    assert [("late", "ok")] == turnstile.given


def test_a_wait_for_time_is_skipped_where_time_is() -> None:
    """`instant` moves the clock instead."""
    turnstile = Turnstile("late", waits=2)
    with instant():
        before = clock.now()
        turnstile.call(bool)
        assert 2.0 <= clock.now() - before < 3.0


@in_every_colour
async def test_unwinding_decides_nothing(w: World) -> None:
    """The permit comes back without an outcome."""
    turnstile = Turnstile("one")

    async def leave() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await w.call(turnstile, leave)
    assert [("one", None)] == turnstile.given


def test_an_interrupted_wait_is_withdrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C on a thread that waits takes its call out of the queue."""

    def interrupt(*args: object) -> bool:
        raise KeyboardInterrupt

    turnstile = Turnstile("never", waits=1)
    monkeypatch.setattr(clock, "wait", interrupt)
    monkeypatch.setattr(clock, "now", lambda: 5.0)
    with pytest.raises(KeyboardInterrupt):
        turnstile.call(bool)
    assert [("withdrawn", 6.0)] == turnstile.given


@in_every_colour
async def test_ctrl_c_in_a_listener_gives_the_permit_back(w: World) -> None:
    """A listener's `Exception` is not raised; a KeyboardInterrupt is."""
    turnstile = Turnstile("late", waits=1)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    turnstile.subscribe(interrupt)
    with pytest.raises(KeyboardInterrupt):
        await w.call(turnstile, answer)
    assert [("late", None)] == turnstile.given


def told_by(kind: type[Any]) -> tuple[type[Any], list[str]]:
    """Return a subclass of a subclass, and where it writes down what is called."""
    told: list[str] = []

    class Between(kind):  # type: ignore[misc]  # any of them
        async def around(self, proceed: Any, call: Call) -> Outcome:
            told.append("around")
            outcome: Outcome = await super().around(proceed, call)
            return outcome

    class Last(Between):
        def admit(self, call: Call) -> Any:
            told.append("admit")
            return super().admit(call)

        def settle(self, permit: Any, outcome: Outcome | None) -> None:
            told.append("settle")
            super().settle(permit, outcome)

    return Last, told


@in_every_colour
async def test_a_subclass_of_a_subclass_has_the_last_word(w: World) -> None:
    """Its rules are asked, and what stands around them in between stays there."""
    for kind in (Bulkhead, CircuitBreaker, RateLimiter):
        last, told = told_by(kind)
        policy = last() if kind is CircuitBreaker else last(9)
        assert "ok" == await w.call(policy, answer)
        assert ["around", "admit", "settle"] == told


def test_an_author_has_to_say_how() -> None:
    """All but waiting is to be implemented, and waiting by who waits."""
    policy, call = AdmissionPolicy(), Call.new("call", runtime=SYNC)
    with pytest.raises(NotImplementedError):
        policy.admit(call)
    with pytest.raises(NotImplementedError):
        policy.settle(None, None)
    with pytest.raises(NotImplementedError):
        policy.readmit(None, call)
    with pytest.raises(NotImplementedError):
        policy.withdraw(None)


def test_what_can_be_given_back_has_to_be_taken() -> None:
    """A subclass with deferred releases overrides both methods."""
    returnable = DeferredRelease()
    with pytest.raises(NotImplementedError):
        returnable._release_locked(None)
    with pytest.raises(NotImplementedError):
        returnable._after_unlock([])


def test_a_queueing_policy_implements_what_its_slots_are() -> None:
    """Each of the six."""
    policy, call = QueueingPolicy(), Call.new("call")
    with pytest.raises(NotImplementedError):
        policy._admit(None)
    with pytest.raises(NotImplementedError):
        policy._take_locked(None)
    with pytest.raises(NotImplementedError):
        policy._may_wait_locked(None)
    with pytest.raises(NotImplementedError):
        policy._enter_locked(None, 0.0)
    with pytest.raises(NotImplementedError):
        policy._leave_locked(None)
    with pytest.raises(NotImplementedError):
        policy._refusal(call, 0.0)
