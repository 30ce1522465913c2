"""Memory or a stack that ends at any moment of a call: what was taken is given back.

CPython's own tests have a switch that lets allocations fail, from the n-th on. Each
call runs in a process of its own, since CPython itself may crash at some of them:
those tell nothing.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from tests import test_interrupts
from tests.interrupts import BOUND
from tests.scripts import printed
from tests.test_interrupts import SYNC, THREADED, elsewhere, held, work

from resilient import Balance, Bulkhead, CircuitBreaker
from resilient._calls.call import Call
from resilient._policy.admission import reserve
from resilient._policy.queueing import Ticket
from resilient._runtimes.sync import SYNC as SYNC_RUNTIME

try:
    import _testcapi as testcapi
except ImportError:
    testcapi = None

LASTING = 40
"""Allocations that fail, one after the other: more than giving back makes."""


MOST = 300
"""Moments that no call of the policies here has."""

LOCKED = "hangs: a lock was left locked"


def ending(name: str, first: int) -> dict[str, Any] | None:
    """Call while allocations fail; what is left, or None when none failed."""
    policy = SYNC[name]()
    protected = policy(work)
    failed = False
    try:
        testcapi.set_nomemory(first, first + LASTING)
        try:
            protected()
        finally:
            testcapi.remove_mem_hooks()
    except MemoryError:
        failed = True
    remains = held(policy)
    answer = elsewhere(lambda: policy(work)())
    if "SystemError" in repr(answer):
        # CPython is broken from here on, which it says of itself.
        os.kill(os.getpid(), signal.SIGKILL)
    # NB: CPython packs what it gives to a lock's `__exit__` in a tuple of three.
    # Where even that cannot be had, no `with` unlocks: no lock of ours can.
    if answer != 1 and answer != LOCKED:
        remains["then"] = repr(answer)
    return remains if failed or remains else None


def every_ending(name: str, first: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """What is left where memory ends at one moment after the other."""
    while (remains := ending(name, first)) is not None:
        yield first, remains
        first += 1


def in_children(
    results: Callable[[int], Iterator[tuple[int, dict[str, Any]]]],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What iterators yield in child processes; the next begins where one crashed."""
    first, crashed = 1, True
    # NB: measured for coverage, CPython crashes at every moment.
    while crashed and first < MOST:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                faulthandler.disable()
                # What hangs here is a fault of CPython's, see `ending`.
                test_interrupts.BOUND = 1.0
                with os.fdopen(writing, "wb", buffering=0) as pipe:
                    for result in results(first):
                        pipe.write(pickle.dumps(result))
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            while pipe.peek(1):
                yield (result := pickle.load(pipe))
                first = result[0] + 1
        crashed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        first += crashed


# NB: an exchange that nothing could be told of is made anew two seconds later; see
# `tests/machines/test_holding.py`. Until then a bulkhead of a fleet is full.
NAMES = [name for name in SYNC if name not in (*THREADED, "bulkhead of a fleet")]


def every_policy() -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """What calls of each policy leave, by name."""
    return {name: list(in_children(partial(every_ending, name))) for name in NAMES}


@pytest.fixture(scope="module")
def left() -> Any:
    """What calls of each policy leave, in a process where there was no tracer."""
    # NB: other tests have one. After it, CPython 3.12 needs memory to enter each
    # function once more, and what gives back is entered for the first time there.
    return printed("tests.test_memory")


@pytest.mark.real
@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer needs memory itself")
@pytest.mark.skipif(testcapi is None, reason="CPython's own tests are not there")
@pytest.mark.parametrize("name", NAMES)
def test_giving_back_needs_no_memory(name: str, left: Any) -> None:
    """Else each call in a shortage would take a slot for ever."""
    found = left[name]
    assert len(found) >= 3
    assert {} == {number: remains for number, remains in found if remains}


STACK = 60
"""Frames that no call of the policies here has."""


def deep(function: Callable[[], object], frames: int) -> object:
    """Call a function so many frames further down."""
    return function() if frames <= 0 else deep(function, frames - 1)


@pytest.mark.parametrize("name", SYNC)
def test_giving_back_needs_no_deeper_stack(name: str) -> None:
    """A RecursionError at any depth of a call leaves nothing, and no later call waits.

    In a thread of its own, whose stack is as deep in each run.
    """
    found: dict[int, Any] = {}
    overflows = 0

    def call(spare: int) -> None:
        nonlocal overflows
        policy = SYNC[name]()
        protected = policy(work)
        try:
            deep(protected, sys.getrecursionlimit() - spare - 4)
        except RecursionError:
            overflows += 1
        began = time.monotonic()
        answer = policy(work)()
        took = time.monotonic() - began
        remains = held(policy) if name not in THREADED else {}
        if answer != 1 or took > BOUND or remains:
            found[spare] = answer, took, remains

    for spare in range(STACK):
        thread = threading.Thread(target=call, args=(spare,))
        thread.start()
        thread.join()
    assert {} == found
    assert 0 < overflows < STACK


class Full(list[Any]):
    """A list that cannot grow."""

    def append(self, item: Any) -> None:
        raise MemoryError


def interrupt() -> None:
    """Be stopped by Ctrl-C."""
    raise KeyboardInterrupt


class Short(Bulkhead):
    """A bulkhead that has no memory once it has given a slot."""

    def _admit(self, ticket: Any) -> Any:
        super()._admit(ticket)
        raise MemoryError


@pytest.mark.parametrize(
    ("policy", "function", "error"),
    [(Bulkhead(1), interrupt, KeyboardInterrupt), (Short(1), work, MemoryError)],
)
def test_a_slot_goes_to_the_reserve_where_no_list_can_grow(
    policy: Bulkhead, function: Callable[[], object], error: type[BaseException]
) -> None:
    """With what was in the list before, which is not forgotten."""
    others: Any = Full()
    policy._deferred = others
    spare = reserve.spare
    with pytest.raises(error):
        policy.call(function)
    assert 0 == policy.in_use
    assert reserve.spare is not spare
    assert reserve.spare is not None
    policy._deferred = Full()
    policy._release(Ticket(Call.new("", (), {}, SYNC_RUNTIME, None)))
    assert [] == policy._deferred


@pytest.mark.parametrize(
    ("policy", "function"), [(Bulkhead(1), interrupt), (Short(1), work)]
)
def test_a_reserve_that_is_used_up_is_told(
    policy: Bulkhead, function: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the MemoryError itself."""
    monkeypatch.setattr(reserve, "spare", None)
    others: Any = Full()
    policy._deferred = others
    with pytest.raises(MemoryError):
        policy.call(function)
    with pytest.raises(MemoryError):
        policy._release(Ticket(Call.new("", (), {}, SYNC_RUNTIME, None)))


@pytest.mark.parametrize("slow", [None, 5.0])
def test_a_probe_is_given_back_though_its_vote_cannot_be_counted(
    slow: float | None,
) -> None:
    """For want of memory to count it."""

    class Forgetful(CircuitBreaker):
        def settle(self, permit: Any, outcome: Any) -> None:
            if outcome is None:
                raise MemoryError
            super().settle(permit, outcome)

    breaker = Forgetful(
        consecutive_failures=1,
        open_for=0.0,
        half_open_calls=1,
        slow_call_duration=slow,
        on=ValueError,
    )
    with pytest.raises(MemoryError):
        breaker.call(interrupt)
    with pytest.raises(ValueError):
        breaker.call(int, "x")
    with pytest.raises(MemoryError):
        breaker.call(interrupt)
    assert 0 == breaker.statistics().in_flight_probes
    assert 1 == breaker.call(work)


@pytest.mark.parametrize("counted", [False, True])
def test_a_balanced_call_has_left_though_it_cannot_be_counted(counted: bool) -> None:
    """For want of memory, before or after it was taken back."""

    class Forgetful(Balance):
        def _settle(self, *args: Any) -> Any:
            if counted:
                super()._settle(*args)
            raise MemoryError

    balance = Forgetful("a")
    with pytest.raises(MemoryError):
        balance.call(interrupt)
    assert [0] == [one.in_flight for one in balance.endpoints]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(every_policy()))
