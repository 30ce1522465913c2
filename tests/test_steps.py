"""The steps of policies: walked in an edge's frame, or in a coroutine, all is equal.

A function's edge walks through policies in its own frame. Around blocks, requests
and hedged attempts a coroutine walks, through the same steps. Drawn scenarios go
both ways, and whatever can be seen of them is compared.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.colours import World, in_every_colour

import resilient
from resilient import (
    AdaptiveConcurrency,
    AdaptiveThrottle,
    Bulkhead,
    Call,
    CircuitBreaker,
    Fallback,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    StaleCache,
    Timeout,
    constant,
    current_call,
)
from resilient._calls import call as call_module
from resilient._policy.gate import Gate
from resilient._runtimes import clock

POLICIES: dict[str, Callable[[], Policy[Any]]] = {
    "retry": lambda: Retry(OSError, backoff=constant(1, jitter="none"), name="r"),
    "retry by result": lambda: Retry(
        on_result=lambda value: value == 3, backoff=constant(1, jitter="none"), name="v"
    ),
    "hasty retry": lambda: Retry(
        on=lambda outcome: outcome.error is not None, attempts=2, within=3, name="h"
    ),
    "retry that prepares": lambda: Retry(
        OSError, before_retry=lambda error, call: 1 // (call.attempt - 3), name="p"
    ),
    "breaker": lambda: CircuitBreaker(consecutive_failures=2, open_for=1.5, name="b"),
    "breaker of slow calls": lambda: CircuitBreaker(
        window=resilient.calls(3), slow_call_duration=1.0, slow_call_rate=0.5, name="s"
    ),
    "limiter": lambda: RateLimiter(1, per=2, max_wait=1, name="l"),
    "full limiter": lambda: RateLimiter(1, per=100, name="f"),
    "bulkhead": lambda: Bulkhead(1, max_queue=1, max_wait=1.5, name="k"),
    "timeout": lambda: Timeout(2.5, name="t"),
    "brief timeout": lambda: Timeout(0.8, name="u"),
    "fallback": lambda: Fallback(7, on=OSError, name="a"),
    "fallback that asks": lambda: Fallback(function=lambda error: 8, name="q"),
    "throttle": lambda: AdaptiveThrottle(minimum_calls=2, name="w"),
    "adaptive limit": lambda: AdaptiveConcurrency(name="c"),
    "cache": lambda: StaleCache(1, 2, name="m"),
    "keys": lambda: PerKey(
        lambda key: Pipeline(Bulkhead(1), CircuitBreaker(consecutive_failures=1)),
        key=lambda: "one",
        name="y",
    ),
}

RUNS = {
    "ok": lambda: 1,
    "three": lambda: 3,
    "os": lambda: throw(OSError("os")),
    "value": lambda: throw(ValueError("value")),
    "group": lambda: throw(ExceptionGroup("group", [OSError(1), OSError(2)])),
    "exit": lambda: throw(Interrupted()),
    "generator": lambda: (one for one in ()),
}
SLEEPS = (0.0, 0.0, 0.0, 1.0, 3.0)


class Interrupted(BaseException):
    """What no policy may deal with."""


def throw(error: BaseException) -> Any:
    """Raise an error."""
    raise error


class Observed:
    """Notes what an observer is told."""

    def __init__(self, found: list[Any]) -> None:
        self.found = found

    def began(self, call: Any, run: Any) -> Callable[[Outcome | None], None]:
        self.found.append(("began", run))
        return lambda outcome: self.found.append(("ran", repr(outcome)))

    def ended(self, call: Any, outcome_label: str) -> None:
        self.found.append(("ended", outcome_label))


def seen(error: BaseException | None, depth: int = 0) -> Any:
    """What can be seen of an error."""
    if error is None or depth > 3:
        return None
    notes = getattr(error, "__notes__", [])
    chain = seen(error.__cause__, depth + 1), seen(error.__context__, depth + 1)
    return type(error).__name__, str(error), list(notes), chain, frames(error)


def frames(error: BaseException) -> list[str]:
    """The frames of a traceback, but for those of coroutines further in."""
    names: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return names


@contextmanager
def as_coroutines() -> Iterator[None]:
    """Have every policy walked through by a coroutine of its own."""
    with patch.object(Gate, "link", Policy.link):
        with patch.object(Pipeline, "link", Policy.link):
            yield


def play(colour: Any, names: list[str], drawn: Any) -> list[Any]:
    """Play a scenario; return everything that can be seen of it."""
    found: list[Any] = []
    runs, together, cancelled_after, observed, classify, deadline = drawn
    policies = [POLICIES[name]() for name in names]
    policy: Policy[Any] = policies[0]
    if len(policies) > 1 or classify:
        judged = {"types": OSError, "value": lambda outcome: outcome.value == 3}
        policy = Pipeline(*policies, classify=judged.get(classify), name="whole")
    policy.subscribe(lambda event: found.append((clock.now(), repr(event))))

    async def scenario(w: World) -> None:
        script = iter(runs)

        async def work() -> Any:
            kind, seconds = next(script, ("ok", 0.0))
            call = current_call()
            left = resilient.remaining()
            found.append((clock.now(), call.attempt, call.name, left, kind))
            if seconds:
                await w.sleep(seconds)
            return RUNS[kind]()

        protected = w.decorate(policy, work)

        async def one() -> Any:
            try:
                with resilient.deadline_after(deadline):
                    found.append(("returned", await protected()))
            except (Exception, Interrupted) as error:
                found.append(("raised", seen(error)))
            with pytest.raises(LookupError):
                current_call()

        for _ in range(3):
            if w.is_sync:
                await one()
                continue
            # NB: asyncio cancels the tasks of a group in an order of its own.
            after = cancelled_after if together == 1 else None
            with anyio.move_on_after(after) as scope:
                await w.gather(*[one] * together)
            found.append(("cancelled", scope.cancelled_caught))
            await w.sleep(0.5)

    policy._start_counting()
    before = copy.deepcopy(policy.counters.counts), _plain(policy)
    observe = (lambda call: watch(call, found)) if observed else None
    with patch.object(call_module, "observe", observe):
        World(colour).run(scenario)
    counts = {
        key: count - before[0].get(key, 0)
        for key, count in policy.counters.counts.items()
    }
    found.append({key: count for key, count in counts.items() if count})
    found.append(
        [now - then for now, then in zip(_plain(policy), before[1], strict=True)]
    )
    return found


def _plain(policy: Any) -> tuple[int, int]:
    return policy.counters.originals, policy.counters.successes


def watch(call: Any, found: list[Any]) -> Observed:
    """Observe a call as telemetry does."""
    call.run = call_module.Run.ORIGINAL
    return Observed(found)


drawn = st.tuples(
    st.lists(st.tuples(st.sampled_from(sorted(RUNS)), st.sampled_from(SLEEPS))),
    st.integers(1, 3),
    st.sampled_from([0.7, 1.2, 100.0]),
    st.booleans(),
    st.sampled_from(["", "types", "value"]),
    st.sampled_from([float("inf"), 1.7]),
)


@pytest.mark.filterwarnings("ignore::resilient.ResilientWarning")
@pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
@given(
    names=st.lists(
        st.sampled_from(sorted(POLICIES)), min_size=1, max_size=4, unique=True
    ),
    drawn=drawn,
)
@example(names=["retry"], drawn=([("os", 0.0)], 1, 100.0, False, "", float("inf")))
@settings(max_examples=100, deadline=None)
def test_both_ways_are_equal(colour: Any, names: list[str], drawn: Any) -> None:
    """Results, errors and their chains, events, counts, times, and what is held."""
    logging.disable(logging.CRITICAL)
    try:
        lean = play(colour, names, drawn)
        with as_coroutines():
            whole = play(colour, names, drawn)
    finally:
        logging.disable(logging.NOTSET)
    assert whole == lean


# -- Unwinding


class Nested(Gate[Any]):
    """A policy whose way out raises errors as they are given."""

    def __init__(self, *errors: BaseException | None, answer: Any = None) -> None:
        super().__init__("nested")
        self.errors = list(errors)
        self.answer = answer
        self.unwound = 0

    def enter(self, call: Call) -> None:
        call.way = call.step, None, call.way

    def leave(self, call: Call, permit: None, outcome: Outcome) -> Outcome:
        return outcome

    def unwind(
        self, call: Call, permit: None, error: BaseException, leaving: bool
    ) -> Outcome | None:
        self.unwound += 1
        if self.errors and (mine := self.errors.pop(0)) is not None:
            raise mine
        return self.answer  # type: ignore[no-any-return]  # as it was given


async def leave_early() -> Any:
    """Raise what no policy may deal with."""
    raise Interrupted


@in_every_colour
async def test_a_bug_in_unwinding_keeps_no_policy_from_unwinding(w: World) -> None:
    """Those further out learn of it; and one may go on with an outcome."""
    outer, inner = Nested(), Nested(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await w.call(Pipeline(outer, inner), leave_early)
    assert (1, 1) == (outer.unwound, inner.unwound)

    outer, inner = Nested(answer=Outcome("instead")), Nested(ValueError("a bug"))
    assert "instead" == await w.call(Pipeline(outer, inner), leave_early)


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_interrupted_amid_unwinding_unwinds_again(times: int) -> None:
    """Ctrl-C may have come before it did anything."""

    @in_every_colour
    async def scenario(w: World) -> None:
        outer = Nested()
        inner = Nested(*[KeyboardInterrupt() for _ in range(times)])
        with pytest.raises(KeyboardInterrupt):
            await w.call(Pipeline(outer, inner), leave_early)
        assert times + 1 == inner.unwound
        assert outer.unwound == 1

    for colour in ("sync", "asyncio", "trio"):
        scenario(colour)  # type: ignore[operator]  # a test of its own


def test_a_gate_has_its_steps_written() -> None:
    """One that has none cannot be passed."""
    gate: Any = Gate()
    with pytest.raises(NotImplementedError):
        gate.call(int)
    with pytest.raises(NotImplementedError):
        gate.leave(None, None, None)


FRAMES: dict[str, tuple[Callable[[], Policy[Any]], int, int]] = {
    "nothing": (Pipeline, 4, 4),
    "Retry": (lambda: Retry(OSError), 8, 8),
    "CircuitBreaker": (CircuitBreaker, 9, 9),
    "Bulkhead": (lambda: Bulkhead(10), 12, 12),
    "RateLimiter": (lambda: RateLimiter(1000, per=1), 8, 8),
    "Timeout": (lambda: Timeout(60), 10, 11),
    "Fallback": (lambda: Fallback(0, on=OSError), 7, 7),
    "StaleCache": (lambda: StaleCache(60, 60), 19, 19),
    "PerKey": (
        lambda: PerKey(lambda key: RateLimiter(1000, per=1), key=lambda: "key"),
        22,
        22,
    ),
}
"""Functions of the library that a call enters which goes well: plain, on asyncio.

Frames are most of what the first step costs, and they can be counted, as time
cannot. Who makes a step cheaper lowers its number.
"""


def entered(run: Callable[[], object]) -> list[str]:
    """Return which functions of the library are entered, by name."""
    library, names = str(Path(resilient.__file__).parent), list[str]()

    def note(frame: Any, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(library):
            names.append(code.co_qualname)

    before = sys.getprofile()
    # No finalizer of what another test left.
    gc.disable()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
        gc.enable()
    # From 3.12 on a comprehension is no function.
    return [name for name in names if not name.endswith("comp>")]


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass: a breaker's window has more to do when it goes on."""
    monkeypatch.setattr(clock, "now", lambda: 4096.0)


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("kind", FRAMES)
def test_a_call_that_goes_well_enters_few_functions(kind: str) -> None:
    """The first step of a plain function becomes no dearer unnoticed."""
    make, most, _ = FRAMES[kind]

    @make()
    def answer() -> int:
        return 1

    # The first call may prepare what later ones use.
    answer()
    names = entered(answer)
    assert len(names) <= most, names


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize("kind", FRAMES)
def test_an_async_call_that_goes_well_enters_few_functions(kind: str) -> None:
    """The first step of a coroutine function becomes no dearer unnoticed."""
    make, _, most = FRAMES[kind]

    @make()
    async def answer() -> int:
        return 1

    def finish(call: Any) -> None:
        with pytest.raises(StopIteration):
            call.send(None)

    async def count() -> list[str]:
        await answer()
        call = answer()
        return entered(lambda: finish(call))

    names = asyncio.run(count())
    assert len(names) <= most, names
