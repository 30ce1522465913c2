"""AdaptiveThrottle, in three colours; its rules are `machines/test_throttle.py`."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.colours import World, in_async_colours, in_every_colour
from tests.interrupts import amid_change
from tests.test_cut_calls import cancelled_by_the_caller

from resilient import (
    AdaptiveThrottle,
    Call,
    CallRejected,
    Event,
    Outcome,
    Pipeline,
    Priority,
    RateLimiter,
    RejectedError,
    Retry,
    ThrottledError,
    Verdict,
    constant,
    priority,
)
from resilient._machines.throttle import Throttle
from resilient._runtimes.sync import SYNC


class Backend:
    """Accepts or refuses, as it is told, and counts what it is asked."""

    def __init__(self) -> None:
        self.up = True
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        if not self.up:
            raise ConnectionRefusedError("down")
        return "ok"


async def asking(w: World, policy: Any, backend: Backend, times: int) -> list[str]:
    """Ask so often; return each answer, or the name of its error."""
    results = []
    for _ in range(times):
        try:
            results.append(await w.call(policy, backend.ask))
        except (ConnectionRefusedError, ThrottledError) as error:
            results.append(type(error).__name__)
    return results


async def pressed(w: World, backend: Backend, **changes: Any) -> AdaptiveThrottle:
    """Return a throttle that has reason to reject all, but for probes."""
    throttle = AdaptiveThrottle(**{"padding": 0, **changes})
    backend.up = False
    await asking(w, throttle, backend, 20)
    assert 1.0 == throttle.rejecting
    return throttle


# -- What it rejects


@in_every_colour
async def test_what_is_accepted_is_let_through(w: World) -> None:
    """All of it, and nothing is known of the others."""
    throttle, backend = AdaptiveThrottle(), Backend()
    assert ["ok"] * 100 == await asking(w, throttle, backend, 100)
    assert 0.0 == throttle.rejecting
    assert not throttle.is_pristine()


@in_every_colour
async def test_a_dependency_that_is_down_is_asked_once_a_second(w: World) -> None:
    """After the first few; and no cap keeps it from being so few."""
    backend = Backend()
    throttle = await pressed(w, backend)
    backend.asked = 0
    for _ in range(60):
        await asking(w, throttle, backend, 10)
        await w.sleep(0.1)
    # The first probe was among the twenty; 6 s are six more.
    assert backend.asked in (5, 6)


@in_every_colour
async def test_the_rejection_says_who_rejected(w: World) -> None:
    """With an event of it; the function is not called."""
    backend = Backend()
    throttle = await pressed(w, backend, name="search")
    events: list[Event] = []
    throttle.subscribe(events.append)
    backend.asked = 0
    with pytest.raises(ThrottledError) as caught:
        await w.call(throttle, backend.ask)
    error = caught.value
    assert "throttle 'search' holds the call back" == str(error)
    assert ("search", None) == (error.policy, error.retry_after)
    assert str(error) == str(pickle.loads(pickle.dumps(error)))
    assert 0 == backend.asked
    call = "Backend.ask"
    assert [CallRejected("search", call, "ThrottledError", None, None)] == events


@in_every_colour
async def test_fewer_than_the_minimum_are_never_rejected(w: World) -> None:
    """Nine failures prove nothing."""
    throttle, backend = AdaptiveThrottle(padding=0, probe_interval=None), Backend()
    backend.up = False
    refused, throttled = "ConnectionRefusedError", "ThrottledError"
    expected = [refused] * 10 + [throttled] * 2
    assert expected == await asking(w, throttle, backend, 12)


@in_every_colour
async def test_a_dependency_that_is_well_again_is_asked_again(w: World) -> None:
    """Within a window of its first good answers."""
    backend = Backend()
    throttle = AdaptiveThrottle()
    backend.up = False
    for _ in range(60):
        await asking(w, throttle, backend, 14)
        await w.sleep(1)
    assert throttle.rejecting > 0.9
    backend.up = True
    for _ in range(15):
        await asking(w, throttle, backend, 14)
        await w.sleep(1)
    assert ["ok"] * 50 == await asking(w, throttle, backend, 50)
    assert 0.0 == throttle.rejecting


@in_every_colour
async def test_a_retry_outside_backs_off_from_it_if_told(w: World) -> None:
    """By name, as with every rejection; else it is final."""
    backend = Backend()
    throttle = await pressed(w, backend)
    retry = Retry(ConnectionError, backoff=constant(2))
    with pytest.raises(ThrottledError):
        await w.call(Pipeline(retry, throttle), backend.ask)
    assert 0.0 == w.now()
    backend.up = True
    retry = Retry(ThrottledError, backoff=constant(2))
    assert "ok" == await w.call(Pipeline(retry, throttle), backend.ask)
    assert 2.0 == w.now()


# -- What counts


@in_every_colour
async def test_failures_and_pushback_are_not_accepted(w: World) -> None:
    """By the pipeline's judgement, or by its own."""
    for verdict, share in (
        (Verdict.FAILURE, 1.0),
        (Verdict.PUSHBACK, 1.0),
        (Verdict.SUCCESS, 0.0),
        (Verdict.IGNORED, 0.0),
    ):
        backend = Backend()
        backend.up = False
        judged, own = (
            AdaptiveThrottle(padding=0, on=on)
            for on in (None, lambda outcome, verdict=verdict: verdict)
        )
        pipeline = Pipeline(judged, classify=lambda outcome, verdict=verdict: verdict)
        for throttle, policy in ((judged, pipeline), (own, own)):
            await asking(w, policy, backend, 10)
            assert (verdict, share) == (verdict, throttle.rejecting)
            assert throttle.is_pristine() == (verdict is Verdict.IGNORED)


@in_every_colour
async def test_a_rejection_from_further_in_says_nothing(w: World) -> None:
    """The dependency was not asked."""
    throttle, backend = AdaptiveThrottle(padding=0), Backend()
    pipeline = Pipeline(throttle, RateLimiter(1, per=1000))
    assert "ok" == await w.call(pipeline, backend.ask)
    for _ in range(30):
        with pytest.raises(RejectedError):
            await w.call(pipeline, backend.ask)
    assert 0.0 == throttle.rejecting


@in_async_colours
async def test_a_cancelled_call_says_nothing(w: World) -> None:
    """It might have been accepted."""
    throttle = AdaptiveThrottle(padding=0)

    async def cancelled() -> None:
        await cancelled_by_the_caller(w, throttle, lambda: w.sleep(9))

    await w.gather(*[cancelled] * 20)
    assert throttle.is_pristine()


@in_async_colours
async def test_calls_under_way_are_not_taken_for_refused(w: World) -> None:
    """However many wait for a slow answer."""
    throttle = AdaptiveThrottle()

    async def slow() -> Any:
        return await w.call(throttle, w.sleep, 5)

    assert [None] * 100 == await w.gather(*[slow] * 100)


def test_a_generator_is_judged_by_its_first_item() -> None:
    """What it delivers later was accepted."""
    throttle = AdaptiveThrottle(padding=0)

    @throttle
    def items() -> Iterator[int]:
        yield 1
        raise OSError

    for _ in range(20):
        stream = items()
        assert 1 == next(stream)
        with pytest.raises(OSError, match=r"^$"):
            next(stream)
    assert 0.0 == throttle.rejecting


@in_every_colour
async def test_a_bug_in_a_predicate_reaches_the_caller(w: World) -> None:
    """And decides nothing."""

    def bug(outcome: Outcome) -> bool:
        raise KeyError("bug")

    throttle, backend = AdaptiveThrottle(on=bug), Backend()
    with pytest.raises(KeyError, match="bug"):
        await w.call(throttle, backend.ask)
    assert throttle.is_pristine()


# -- Which calls


def settled(throttle: AdaptiveThrottle, accepted: int, refused: int) -> None:
    """Let calls of no block end at once."""
    for number in range(accepted + refused):
        error = None if number < accepted else OSError()
        throttle.settle(Priority.NORMAL, Outcome(error=error))


@in_every_colour
async def test_the_least_important_goes_first(w: World) -> None:
    """A part of the calls is to go: it is the batch."""
    throttle, backend = AdaptiveThrottle(padding=0, probe_interval=None), Backend()
    settled(throttle, 90, 190)
    found: dict[Any, list[str]] = {}
    for name in ("critical", "batch", "normal"):
        with priority(name, key="last"):
            assert current_shed_rank() > 0.9
            found[name] = await asking(w, throttle, backend, 5)
    assert ["ok"] * 5 == found["critical"] == found["normal"]
    assert ["ThrottledError"] * 5 == found["batch"]


def current_shed_rank() -> float:
    """Return the shed rank of a call made here."""
    return Call.new("here").shed_rank


@in_every_colour
async def test_a_task_is_served_or_rejected_as_a_whole(w: World) -> None:
    """The hash of its key decides, which is the same in every process."""
    throttle, backend = AdaptiveThrottle(padding=0, probe_interval=None), Backend()
    settled(throttle, 3_000, 7_000)
    found = []
    for number in range(40):
        with priority("normal", key=f"request-{number}"):
            results = set(await asking(w, throttle, backend, 10))
            assert 1 == len(results)
            assert ("ok" in results) == (current_shed_rank() > 0.41)
        found.append(results)
    assert {"ok"} in found
    assert {"ThrottledError"} in found


class CallObservation(Call):
    """A call that notes what it is told."""

    hedging_discouraged = 0

    def discourage_hedging(self) -> None:
        self.hedging_discouraged += 1


def test_a_hedge_around_learns_that_calls_are_rejected() -> None:
    """Of those that pass, too: more load is what the dependency needs least."""
    throttle = AdaptiveThrottle(padding=0)
    well = CallObservation.new("well", runtime=SYNC)
    permit = throttle.admit(well)
    assert Priority.NORMAL is permit
    for _ in range(20):
        throttle.settle(permit, Outcome(None, OSError()))
    probe, other = (
        CallObservation.new("probe", runtime=SYNC),
        CallObservation.new("other", runtime=SYNC),
    )
    assert Priority.NORMAL is throttle.admit(probe)
    assert isinstance(throttle.admit(other), ThrottledError)
    throttle.reset()
    throttle.admit(well)
    assert [0, 1, 1] == [call.hedging_discouraged for call in (well, probe, other)]


# -- Threads and collections


def watching(kind: type[Throttle]) -> AdaptiveThrottle:
    """Return a throttle over a machine of that kind, with a failure in it."""
    throttle = AdaptiveThrottle(padding=0)
    throttle._throttle = kind(
        k=2.0,
        window=10.0,
        padding=0.0,
        minimum_calls=1,
        probe_interval=None,
        count_throttled=True,
    )
    throttle.settle(Priority.NORMAL, Outcome(None, OSError()))
    return throttle


class Collecting(Throttle):
    """A machine under which a garbage collection begins."""

    def admit(self, now: float, priority: Priority, shed_rank: float) -> bool:
        gc.collect()
        return super().admit(now, priority, shed_rank)


def test_a_collection_under_the_lock_cannot_hang() -> None:
    """It may close a lost call, which then wants to be counted."""
    throttle = watching(Collecting)
    seen: list[str] = []

    @throttle
    def items() -> Iterator[int]:
        yield 1

    def lose() -> None:
        lost = items()
        box: list[Any] = [lost]
        box.append(box)

    def run() -> None:
        lose()
        with pytest.raises(ThrottledError):
            throttle.call(str, "ok")
        seen.append("done")

    thread = threading.Thread(target=run, daemon=True)
    gc.disable()
    try:
        thread.start()
        thread.join(10)
    finally:
        gc.enable()
    assert ["done"] == seen


def test_what_ends_while_the_lock_is_held_is_counted_afterwards() -> None:
    """The next call that takes the lock counts it, before it decides."""
    throttle = watching(Throttle)
    call = Call.new("f", runtime=SYNC)
    with amid_change(throttle):
        for _ in range(100):
            throttle.settle(Priority.NORMAL, Outcome("ok"))
    assert Priority.NORMAL is throttle.admit(call)
    assert [] == throttle._deferred
    with amid_change(throttle):
        throttle.settle(Priority.NORMAL, Outcome("ok"))
    throttle.settle(Priority.NORMAL, Outcome("ok"))
    assert [] == throttle._deferred


class EndsMeanwhile(Throttle):
    """A machine under which other calls end while it is asked."""

    ends: Callable[[], None] | None = None

    def _meanwhile(self) -> None:
        if self.ends is not None:
            self.ends, ends = None, self.ends
            ends()

    def admit(self, now: float, priority: Priority, shed_rank: float) -> bool:
        self._meanwhile()
        return super().admit(now, priority, shed_rank)

    def record(self, now: float, priority: Priority, accepted: bool) -> None:
        self._meanwhile()
        super().record(now, priority, accepted)


def test_what_comes_back_meanwhile_is_counted_too() -> None:
    """No later call is needed for that."""
    throttle = watching(EndsMeanwhile)
    machine = throttle._throttle
    assert isinstance(machine, EndsMeanwhile)
    failure = Outcome(None, OSError())
    machine.ends = lambda: throttle.settle(Priority.NORMAL, failure)
    throttle.settle(Priority.NORMAL, failure)
    assert [] == throttle._deferred
    machine.ends = lambda: throttle.settle(Priority.NORMAL, failure)
    assert isinstance(throttle.admit(Call.new("f", runtime=SYNC)), ThrottledError)
    assert [] == throttle._deferred


# -- As an object


@in_every_colour
async def test_reset_forgets_every_call(w: World) -> None:
    """The next ones are as the first."""
    backend = Backend()
    throttle = await pressed(w, backend)
    throttle.reset()
    assert throttle.is_pristine()
    backend.up = True
    assert ["ok"] * 5 == await asking(w, throttle, backend, 5)


@in_every_colour
async def test_it_is_fresh_again_when_the_window_has_forgotten(w: World) -> None:
    """So that `PerKey` may drop it."""
    backend = Backend()
    throttle = await pressed(w, backend)
    assert not throttle.is_pristine()
    await w.sleep(10.5)
    assert throttle.is_pristine()


def test_it_reads_like_the_call_that_made_it() -> None:
    """What is left at its default is left out."""
    assert "AdaptiveThrottle()" == repr(AdaptiveThrottle())
    made = (
        "AdaptiveThrottle(k=1.5, window=30.0, padding=0.0, minimum_calls=1,"
        " probe_interval=None, count_throttled=False, name='api')"
    )
    namespace = {"AdaptiveThrottle": AdaptiveThrottle}
    assert made == repr(eval(made, namespace))
    window = timedelta(seconds=5)
    other = AdaptiveThrottle(window=window, probe_interval=window).with_(k=3)
    assert "AdaptiveThrottle(k=3.0, window=5.0, probe_interval=5.0)" == repr(other)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"k": 0.9}, ValueError, "`k` must be >= 1, got 0.9"),
        ({"window": 0}, ValueError, "`window` must be > 0 seconds, got 0"),
        ({"padding": -1}, ValueError, "`padding` must be >= 0, got -1"),
        ({"minimum_calls": 0}, ValueError, "`minimum_calls` must be >= 1, got 0"),
        (
            {"probe_interval": 0},
            ValueError,
            "`probe_interval` must be > 0 seconds, got 0",
        ),
        (
            {"count_throttled": 1},
            TypeError,
            "`count_throttled` must be True or False, got 1",
        ),
        (
            {"on": int},
            TypeError,
            "`on` must list subclasses of Exception, got int",
        ),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    """With parameter, rule and value."""
    with pytest.raises(error) as caught:
        AdaptiveThrottle(**arguments)
    assert text == str(caught.value)


def test_positional_arguments_are_refused() -> None:
    """Most of all the function that a bare decorator is given."""
    with pytest.raises(TypeError) as caught:
        AdaptiveThrottle(2)  # type: ignore[arg-type]  # that is the point
    assert (
        "AdaptiveThrottle takes keywords only, got 2; a decorator needs its"
        " parentheses, @AdaptiveThrottle()"
    ) == str(caught.value)
