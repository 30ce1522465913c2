"""The edge of generators, sync and async.

Ground rules:

* An attempt lasts until the first item. What fails later is never tried
  again: the consumer has seen part of the stream.
* Permits that last as long as the call's work does (`Outcome.held`) are given
  back when the stream ends, fails, is closed or collected. Closing it early
  is a success.
* While an item is with the consumer no scope and no context variable is open:
  a scope held there corrupts trio's stack of scopes and cancels the consumer
  on asyncio. Each step gets a fresh limit: what is left of the total one.

The two wrappers are one text in two colours, as generators have to be.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from resilient import _clock, _edge
from resilient._call import Call, Held, Outcome, _current, overdue
from resilient._edge import RUN, Drive, failed, name_of
from resilient._runtimes.sync import SYNC

if TYPE_CHECKING:
    from resilient._policy import Policy


class StreamLimit(Protocol):
    """A total timeout, for as long as its stream lasts."""

    deadline: float

    def exceeded(self, now: float) -> Exception: ...


class _Stream:
    """A stream that has begun, from its first item to its end."""

    __slots__ = ("call", "held", "last", "limit")

    def __init__(self, call: Call, held: Held) -> None:
        self.call = call
        self.held = held
        # How it ended; None where somebody else unwinds through it.
        self.last: Outcome | None = None
        self.limit: StreamLimit | None = call.stream_limit
        if self.limit is not None:
            call.deadline = self.limit.deadline

    @contextmanager
    def step(self) -> Iterator[None]:
        """Be inside the call for one step, if there is time for it."""
        now = _clock.now()
        if self.limit is not None and now >= self.limit.deadline:
            raise self.limit.exceeded(now)
        late = overdue(self.call, now)
        if late is not None and late.error is not None:
            raise late.error
        # NB: the next step may be taken by another task than this one.
        self.call.task = None
        with _inside(self.call):
            yield

    async def limited(self, step: Awaitable[Any]) -> Any:
        """Await one step within what is left of the total limit."""
        if self.limit is None:
            return await step
        left = self.limit.deadline - _clock.now()
        limit = self.call.runtime.limit(self.call, None, left)
        try:
            item = await step
        except BaseException as error:
            if limit.leave(error):
                raise self.limit.exceeded(_clock.now()) from error
            raise
        if limit.leave(None):
            raise self.limit.exceeded(_clock.now())
        return item

    def failed(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self.last = Outcome(None, error)
        elif isinstance(error, GeneratorExit):
            self.last = Outcome()

    def end(self) -> None:
        last, self.last = self.last, None
        self.held.end(last)
        self.call.end()


@contextmanager
def _inside(call: Call) -> Iterator[None]:
    token = _current.set(call)
    try:
        yield
    finally:
        _current.reset(token)


def _begun(drive: Drive) -> Outcome:
    """Take the outcome of the first item; raise it if it is an error."""
    outcome, drive.outcome = drive.outcome, None
    assert outcome is not None
    if outcome.held is None:
        drive.call.end()
    error, outcome.error = outcome.error, None
    try:
        if error is not None:
            raise error
    finally:
        del error
    return outcome


def generator_edge(
    policy: Policy[Any], fn: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for a generator function."""
    name = name_of(fn)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not _edge.enabled:
            return (yield from fn(*args, **kwargs))
        call = Call(name, args, kwargs, SYNC, policy=policy)
        drive = Drive(policy, call)
        items: Any = None
        value: Any = None
        held = Held()
        with _inside(call):
            standstill = drive.in_sync(drive.begin())
            while standstill is RUN:
                # What an item that was not good enough held goes back.
                held.end(None)
                held, items = Held(), fn(*args, **kwargs)
                try:
                    value = Outcome(next(items))
                    value.held = held
                except StopIteration as stop:
                    value = Outcome(stop.value)
                except Exception as error:
                    value = failed(error)
                except BaseException as unwinding:
                    standstill = drive.in_sync(drive.throw(unwinding))
                    continue
                standstill = drive.in_sync(drive.send(value))
        value = None
        outcome = _begun(drive)
        if outcome.held is None:
            return outcome.value
        stream = _Stream(call, outcome.held)
        item = outcome.value
        try:
            while True:
                try:
                    value = yield item
                except GeneratorExit:
                    raise
                except BaseException as thrown:
                    advance, value = items.throw, thrown
                else:
                    advance = items.send
                with stream.step():
                    item = advance(value)
        except StopIteration as stop:
            stream.last = Outcome(stop.value)
            return stop.value
        except BaseException as error:
            stream.failed(error)
            raise
        finally:
            value = None
            try:
                items.close()
            finally:
                stream.end()

    return wrapper


def async_generator_edge(
    policy: Policy[Any], fn: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for an async generator function."""
    name = name_of(fn)

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if not _edge.enabled:
            async for item in fn(*args, **kwargs):
                yield item
            return
        call = Call(name, args, kwargs, policy=policy)
        drive = Drive(policy, call)
        items: Any = None
        value: Any = None
        held = Held()
        with _inside(call):
            standstill = await drive.forward(drive.begin())
            while standstill is RUN:
                # What an item that was not good enough held goes back.
                held.end(None)
                held, items = Held(), fn(*args, **kwargs)
                try:
                    value = Outcome(await items.__anext__())
                    value.held = held
                except StopAsyncIteration:
                    value = Outcome()
                except Exception as error:
                    value = failed(error)
                except BaseException as unwinding:
                    standstill = await drive.forward(drive.throw(unwinding))
                    continue
                standstill = await drive.forward(drive.send(value))
        value = None
        outcome = _begun(drive)
        if outcome.held is None:
            return
        stream = _Stream(call, outcome.held)
        item = outcome.value
        try:
            while True:
                try:
                    value = yield item
                except GeneratorExit:
                    raise
                except BaseException as thrown:
                    advance, value = items.athrow, thrown
                else:
                    advance = items.asend
                with stream.step():
                    item = await stream.limited(advance(value))
        except StopAsyncIteration:
            stream.last = Outcome()
        except BaseException as error:
            stream.failed(error)
            raise
        finally:
            value = None
            try:
                await items.aclose()
            finally:
                stream.end()

    return wrapper
