"""Events and listeners."""

from __future__ import annotations

import copy
import logging
import threading
from typing import Any

import pytest
from tests.colours import World, in_every_colour

from resilient import (
    CallRejected,
    CircuitChanged,
    DeadlineExceededError,
    Event,
    FallbackUsed,
    KeyEvicted,
    PermitWaited,
    Pipeline,
    RateLimitedError,
    RateLimiter,
    TimedOut,
    Timeout,
    deadline_after,
)
from resilient._events import listeners
from resilient._events.events import error_name
from resilient._events.listeners import Outbox, log_once, send


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (KeyEvicted("hosts", None, True), "KeyEvicted(policy='hosts', call=None,"),
        (TimedOut("t", "get", 1.0, 0.1, True), "TimedOut(policy='t', call='get',"),
        (FallbackUsed("f", "get", "OSError"), "FallbackUsed(policy='f', call='get',"),
    ],
)
def test_an_event_reads_as_what_it_is(event: Event, text: str) -> None:
    """Its repr names every field."""
    assert repr(event).startswith(text)
    assert event == copy.copy(event)
    assert event != PermitWaited("p", None, 1.0)


def test_an_event_does_not_change() -> None:
    """Several listeners see the same object."""
    event = PermitWaited("p", "get", 1.0)
    with pytest.raises(AttributeError):
        event.waited = 2.0  # type: ignore[misc]  # that is the point
    with pytest.raises(AttributeError):
        event.other = 2.0  # type: ignore[attr-defined]  # that is the point


def test_an_event_is_small() -> None:
    """There may be thousands a second."""
    assert not hasattr(PermitWaited("p", "get", 1.0), "__dict__")


def test_a_listener_that_raises_harms_no_call(caplog: pytest.LogCaptureFixture) -> None:
    """Others are told; the log is too, once for each kind of event."""
    told: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("listener")

    waited, evicted = PermitWaited("p", "get", 1.0), KeyEvicted("k", None, True)
    for event in (waited, waited, evicted):
        send((broken, told.append), event)
    assert [waited, waited, evicted] == told
    assert [
        "a listener failed on PermitWaited (logged once)",
        "a listener failed on KeyEvicted (logged once)",
    ] == [record.getMessage() for record in caplog.records]
    assert all(record.exc_info for record in caplog.records)
    assert {logging.ERROR} == {record.levelno for record in caplog.records}


def test_what_is_logged_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A line for each call would fill disks."""
    for text in ("one", "two", "one"):
        try:
            raise ValueError(text)
        except ValueError:
            log_once(text)
    assert ["one (logged once)", "two (logged once)"] == caplog.messages


def test_ctrl_c_in_a_listener_is_not_swallowed() -> None:
    """It is meant for the program, not for the listener."""

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        send((interrupt,), PermitWaited("p", None, 1.0))


def test_an_error_is_named_and_nothing_more() -> None:
    """Its text may be secret."""
    assert "OSError" == error_name(OSError("password"))
    assert None is error_name(None)


# -- The outbox


def changed(number: int) -> Event:
    """Return an event with a number."""
    return PermitWaited("p", None, float(number))


def test_events_are_delivered_in_the_order_they_were_put() -> None:
    """And once."""
    outbox, told = Outbox(), []
    for number in range(3):
        outbox.put(changed(number))
    outbox.deliver(lambda: (told.append,))
    outbox.deliver(lambda: (told.append,))
    assert [changed(0), changed(1), changed(2)] == told


def test_events_that_a_listener_causes_come_after_the_one_it_is_told() -> None:
    """For all listeners: the second sees them in the same order."""
    outbox = Outbox()
    told: list[Event] = []

    def cause(event: Event) -> None:
        if event == changed(0):
            outbox.put(changed(1))
            outbox.deliver(listeners)
            assert [] == told

    def listeners() -> Any:
        return cause, told.append

    outbox.put(changed(0))
    outbox.deliver(listeners)
    assert [changed(0), changed(1)] == told


def test_the_listeners_are_those_of_the_moment_of_delivery() -> None:
    """Who has unsubscribed meanwhile is not told."""
    outbox = Outbox()
    told: list[Event] = []
    listeners: list[Any] = [told.append, lambda event: listeners.clear()]
    outbox.put(changed(0))
    outbox.put(changed(1))
    outbox.deliver(lambda: tuple(listeners))
    assert [changed(0)] == told


def test_an_interrupted_delivery_is_gone_on_with_by_the_next() -> None:
    """Nothing stays locked, and nothing is told twice."""
    outbox = Outbox()
    told: list[Event] = []

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    outbox.put(changed(0))
    outbox.put(changed(1))
    with pytest.raises(KeyboardInterrupt):
        outbox.deliver(lambda: (interrupt,))
    outbox.deliver(lambda: (told.append,))
    assert [changed(1)] == told


@pytest.mark.real
def test_a_busy_outbox_is_left_to_the_thread_that_delivers() -> None:
    """No thread waits for another's slow listener, and order is kept."""
    outbox = Outbox()
    told: list[Event] = []
    entered, go_on = threading.Event(), threading.Event()

    def slow(event: Event) -> None:
        if event == changed(0):
            entered.set()
            go_on.wait(5)
        told.append(event)

    outbox.put(changed(0))
    thread = threading.Thread(target=outbox.deliver, args=(lambda: (slow,),))
    thread.start()
    assert entered.wait(5)
    outbox.put(changed(1))
    outbox.deliver(lambda: (slow,))
    assert [] == told
    go_on.set()
    thread.join()
    assert [changed(0), changed(1)] == told


# -- Subscribing


@in_every_colour
async def test_a_listener_is_told_until_it_unsubscribes(w: World) -> None:
    """Twice subscribed is told twice; ending one twice is fine."""
    limiter = RateLimiter(1, per=3600, name="api")
    events: list[Event] = []
    first, second = limiter.subscribe(events.append), limiter.subscribe(events.append)

    async def reject() -> int:
        events.clear()
        with pytest.raises(RateLimitedError):
            await w.call(limiter, nothing)
        return len(events)

    await w.call(limiter, nothing)
    assert 2 == await reject()
    first()
    first()
    assert [1, 1] == [await reject(), await reject()]
    [event] = events
    assert isinstance(event, CallRejected)
    assert ("api", "RateLimitedError") == (event.policy, event.error_type)
    second()
    assert 0 == await reject()


async def nothing() -> None:
    """Take no time."""


@in_every_colour
async def test_nothing_of_a_call_but_its_name_is_in_an_event(w: World) -> None:
    """Arguments, results and texts of errors may be secret."""
    limiter = RateLimiter(1, per=3600, name="api")
    events: list[Event] = []
    limiter.subscribe(events.append)

    async def login(password: str) -> str:
        return password

    await w.call(limiter, login, "hunter2")
    with pytest.raises(RateLimitedError) as caught:
        await w.call(limiter, login, "hunter2")
    assert "hunter2" not in repr(events) + str(caught.value) + repr(caught.value)
    assert "login" in repr(events)


@in_every_colour
async def test_a_call_that_comes_too_late_is_told_of(w: World) -> None:
    """No single policy refuses it, so the event names the pipeline."""
    told: list[Event] = []
    policy = Pipeline(Timeout(1), name="late")
    policy.subscribe(told.append)
    with deadline_after(0), pytest.raises(DeadlineExceededError):
        await w.call(policy, nothing)
    assert [
        CallRejected("late", "nothing", "DeadlineExceededError", None, None)
    ] == told
    assert "late" == told[0].pipeline


def test_a_listener_has_to_be_callable() -> None:
    """And is refused at once otherwise."""
    with pytest.raises(TypeError, match="plain function of the event, got 5"):
        RateLimiter(1).subscribe(5)  # type: ignore[arg-type]  # that is the point


def test_the_reasons_of_a_change_are_in_its_event() -> None:
    """With the numbers that led to it."""
    event = CircuitChanged("c", None, "closed", "open", "failure_rate", 20, 10, 1)
    assert (20, 10, 1) == (event.calls, event.failed, event.slow)


def test_an_async_listener_is_refused() -> None:
    """It would return a coroutine that is never awaited."""

    async def listener(event: Event) -> None: ...

    with pytest.raises(TypeError, match="`listener` must be a plain function"):
        RateLimiter(1).subscribe(listener)


def test_texts_that_never_end_take_no_memory(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of a policy in them may be made as a program goes."""
    monkeypatch.setattr(listeners, "_MOST", 2)
    for text in ("a", "b", "a", "c", "d"):
        log_once(text)
    assert ["a (logged once)", "b (logged once)"] == caplog.messages
    assert {"a", "b"} == listeners._logged
