"""A forked child has what other threads of its parent had."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.test_interrupts import MAKE, held

from resilient import Bulkhead, Call, Policy
from resilient._edges import forks

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]

BOUND = 60
"""Real seconds in which what does not hang has ended, on a loaded machine."""


@contextmanager
def busy(
    function: Callable[[Callable[[], None]], object], end: threading.Event | None = None
) -> Iterator[None]:
    """Have another thread stand in a function that waits where it is told to."""
    began, end = threading.Event(), end or threading.Event()

    def stand() -> None:
        began.set()
        assert end.wait(BOUND)

    thread = threading.Thread(target=function, args=(stand,))
    thread.start()
    assert began.wait(BOUND)
    yield
    end.set()
    thread.join(BOUND)
    assert not thread.is_alive()


def in_child(function: Callable[[], object]) -> int:
    """Call a function in a forked child: 0, 1 if it raised, 14 if it hangs."""
    if not (child := os.fork()):
        try:
            signal.alarm(BOUND)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def is_free(policy: Policy[Any]) -> None:
    """Nothing of it is in use, and it lets a call through."""
    assert {} == held(policy)
    assert 1 == policy.call(lambda: 1)


@pytest.mark.parametrize("name", MAKE)
def test_a_child_has_no_calls_of_the_parents_other_threads(name: str) -> None:
    """Their slots, probes and places are free: they never end in the child."""
    policy = MAKE[name]()
    with busy(lambda stand: policy.call(stand)):
        assert 0 == in_child(lambda: is_free(policy))
    is_free(policy)


def test_a_child_has_no_lock_of_the_parents_other_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where a thread stays under it for longer than a fork waits."""
    monkeypatch.setattr(forks, "PATIENCE", 0.001)
    policy = Bulkhead(1)
    with busy(policy._lock.run):
        assert 0 == in_child(lambda: is_free(policy))
    is_free(policy)


def test_a_fork_waits_until_no_lock_is_locked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For what it guards may be half changed."""
    monkeypatch.setattr(forks, "PATIENCE", BOUND)
    policy, end, look = Bulkhead(1), threading.Event(), forks._look

    def look_and_end() -> None:
        look()
        end.set()

    monkeypatch.setattr(forks, "_look", look_and_end)

    def change(stand: Callable[[], None]) -> None:
        policy._slots.in_use = 1
        stand()
        policy._slots.in_use = 0

    with busy(lambda stand: policy._lock.run(change, stand), end):
        assert 0 == in_child(lambda: is_free(policy))
    is_free(policy)


def test_a_fork_in_a_change_leaves_the_lock_to_its_own_thread() -> None:
    """That one lives on in the child, and unlocks it itself."""
    policy = Bulkhead(1)

    def fork(stand: Callable[[], None]) -> None:
        stand()
        assert 0 == policy._lock.run(in_child, lambda: None)

    with busy(fork):
        pass
    is_free(policy)


def test_a_call_that_does_not_stand_still_is_left() -> None:
    """It waits, in the parent."""
    policy = Bulkhead(1, max_queue=1)
    permit = policy.admit(Call.new("first"))
    thread = threading.Thread(target=policy.call, args=(lambda: None,))
    thread.start()
    while not policy.queued:
        pass
    assert 0 == in_child(lambda: None)
    policy.settle(permit, None)
    thread.join(BOUND)
    is_free(policy)


def test_what_was_noted_is_freed_in_the_child() -> None:
    """As the child does it, here: a lock, a call that stands still, and one not."""

    def run() -> Iterator[None]:
        forks._left.calls = [(calls[0], None), (calls[1], running)]
        forks._left.locks = [lock]
        forks._free()
        yield

    given: list[Any] = []
    step: Any = (None, None, lambda *args: given.append(args[1]))
    calls = [Call.new("standing"), Call.new("waiting")]
    calls[0].way = (step, "slot", None)
    calls[1].way = (step, "place", None)
    lock = Bulkhead(1)._lock
    lock.acquire()
    lock.changing = True
    running = run()
    next(running)
    assert ["slot", "place"] == given
    assert not lock.locked()
    assert not lock.changing
    assert ([], []) == (forks._left.calls, forks._left.locks)
