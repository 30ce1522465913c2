"""The edge of generators, sync and async.

Ground rules:

* An attempt lasts until the first item. What fails later is never tried
  again: the consumer has seen part of the stream.
* Permits that last as long as the call's work does (`Outcome.ongoing`) are given
  back when the stream ends, fails, is closed or collected. Closing it early
  is a success.
* While an item is with the consumer no scope and no context variable is open:
  a scope held there corrupts trio's stack of scopes and cancels the consumer
  on asyncio. Each step gets a fresh limit: what is left of the total one, or
  the time for which the stream may be silent.

The two wrappers are one text in two colours, as generators have to be.
"""

from __future__ import annotations

import functools
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
)
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from resilient._calls.call import (
    AnyPolicy,
    Call,
    enter_call,
    forget_call,
    leave_call,
    overdue,
)
from resilient._calls.outcome import OngoingWork, Outcome, UnaskedOutcome
from resilient._edges import driver
from resilient._edges.driver import Drive, failed
from resilient._edges.steps import RUN
from resilient._errors.errors import TimeoutExceededError
from resilient._errors.tracebacks import raised_by
from resilient._runtimes import clock
from resilient._runtimes.runtime import CUT
from resilient._runtimes.sync import SYNC
from resilient._values.callables import name_of

if TYPE_CHECKING:
    from resilient._runtimes.runtime import TimeLimit


class StreamLimit(Protocol):
    """A limit of a stream, for as long as it lasts.

    Attributes:
        deadline: When the present step has to end, on the clock of
            `time.monotonic`.
        seconds: What it allows.
    """

    @property
    def deadline(self) -> float: ...

    @property
    def seconds(self) -> float: ...

    def begin_step(self, now: float) -> None:
        """Take note that the next item is asked for."""
        ...

    def exceeded(self, now: float) -> TimeoutExceededError:
        """Return the error of a stream that ran out of time."""
        ...


class TotalLimit:
    """How long a stream may last."""

    __slots__ = ("deadline", "name", "seconds")

    def __init__(self, name: str, seconds: float, deadline: float) -> None:
        self.name = name
        self.seconds: float = seconds
        self.deadline: float = deadline

    def begin_step(self, now: float) -> None:
        pass

    def exceeded(self, now: float) -> TimeoutExceededError:
        elapsed = self.seconds + (now - self.deadline)
        return TimeoutExceededError(self.name, self.seconds, elapsed)


class IdleLimit:
    """How long a stream may be silent between two items.

    What its consumer takes is not counted.

    Args:
        name: Name in errors.
        idle: Seconds.
        total: A limit of the whole stream, which holds too; None: none does.
    """

    __slots__ = ("_due", "idle", "name", "total")

    def __init__(self, name: str, idle: float, total: TotalLimit | None = None) -> None:
        self.name = name
        self.idle = idle
        self.total = total
        self.begin_step(clock.now())

    def begin_step(self, now: float) -> None:
        self._due = now + self.idle

    @property
    def _sooner(self) -> TotalLimit | None:
        total = self.total
        return None if total is None or self._due < total.deadline else total

    @property
    def deadline(self) -> float:
        sooner = self._sooner
        return self._due if sooner is None else sooner.deadline

    @property
    def seconds(self) -> float:
        sooner = self._sooner
        return self.idle if sooner is None else sooner.seconds

    def exceeded(self, now: float) -> TimeoutExceededError:
        sooner = self._sooner
        if sooner is not None:
            return sooner.exceeded(now)
        return TimeoutExceededError(self.name, self.idle, self.idle + now - self._due)


class Inside:
    """Being inside a call, from one item to the next."""

    __slots__ = ("call", "token")

    def __init__(self, call: Call) -> None:
        self.call = call

    def __enter__(self) -> None:
        try:
            self.token: Token[Call | None] = enter_call(self.call)
        except BaseException:
            forget_call(self.call)
            raise

    def __exit__(self, *exc: object) -> None:
        try:
            leave_call(self.token)
        except ValueError:
            # Closed from another context, by the collector or a loop that
            # shuts down: the variable there was never ours.
            pass


class Stream:
    """A stream, from its call to its end.

    As a context manager it is the stretch from one item to the next.
    """

    __slots__ = ("_inside", "_limit", "call", "last", "limit", "ongoing", "thrown")

    def __init__(self, call: Call) -> None:
        self.call: Call = call
        self.ongoing: OngoingWork = OngoingWork()
        # How it ended; None where something else unwinds through it.
        self.last: Outcome | None = None
        # Its limit, known with the first item.
        self.limit: StreamLimit | None = None
        self._limit: TimeLimit | None = None
        # Whether the consumer threw an error into it.
        self.thrown: bool = False

    def begin(self, close: Callable[[], Awaitable[None]]) -> None:
        """Take up a generator, which ``close`` ends if it is not wanted."""
        # NB: of the one before, whatever a policy did not give back.
        self.ongoing.finish(None)
        self.ongoing = OngoingWork(close)

    def first(self, item: Any) -> Outcome:
        outcome = Outcome(item)
        outcome.ongoing = self.ongoing
        return outcome

    def __enter__(self) -> None:
        call, limit = self.call, self.limit
        # NB: this step may be taken by another task, or inside another call,
        # than the one before.
        call.task = None
        call.inherit()
        if driver.enabled:
            now = clock.now()
            if limit is not None:
                limit.begin_step(now)
                if now >= limit.deadline:
                    raise limit.exceeded(now)
                if call.deadline is None or limit.deadline < call.deadline:
                    call.deadline, call.allowed = limit.deadline, limit.seconds
            late = overdue(call, now)
            if late is not None and late.error is not None:
                raise late.error
            if limit is not None:
                until = limit.deadline
                self._limit = call.runtime.limit(call, None, until - now, until)
        self._inside = Inside(call)
        self._inside.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inside.__exit__()
        limit, self._limit = self._limit, None
        if limit is not None and limit.leave(self.call, error) is CUT:
            assert self.limit is not None
            raise self.limit.exceeded(clock.now()) from error

    def failed(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self.last = Outcome(None, error)
        elif isinstance(error, GeneratorExit):
            self.last = Outcome()

    def end(self) -> None:
        last, self.last = self.last, None
        self.ongoing.finish(last)
        self.call.end(last)


def _empty(value: Any = None) -> Outcome:
    """Return the outcome of a generator that ended before its first item."""
    return UnaskedOutcome() if value is None else Outcome(value)


def _begun(drive: Drive) -> tuple[Outcome, Exception | None]:
    """Take the outcome of the first item, and its error apart."""
    outcome, drive.outcome = drive.outcome, None
    assert outcome is not None
    error, outcome.error = outcome.error, None
    return outcome, error


async def _close(items: Generator[Any, Any, Any]) -> None:
    items.close()


def generator_edge(
    policy: AnyPolicy,
    fn: Callable[..., Iterator[Any]],
    name: str | None = None,
    kind: type[Stream] = Stream,
) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for a generator function.

    Args:
        policy: What protects it.
        fn: A generator function.
        name: Name of the calls; None: that of the function.
        kind: What a call is from its first item to its end.
    """
    name = name or name_of(fn)

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        __tracebackhide__ = True
        call = Call.new(name, args, kwargs, SYNC, policy=policy)
        stream = kind(call)
        items: Any = None
        value: Any = None
        error: BaseException | None = None
        try:
            with Inside(call):
                drive = Drive(policy, call)
                standstill = drive.in_sync(drive.begin())
                while standstill is RUN:
                    if items is not None:
                        items.close()
                    items = fn(*args, **kwargs)
                    stream.begin(functools.partial(_close, items))
                    try:
                        value = stream.first(next(items))
                    except StopIteration as stop:
                        value = _empty(stop.value)
                    except Exception as raised:
                        value = failed(raised)
                    except BaseException as unwinding:
                        standstill = drive.in_sync(drive.throw(unwinding))
                        continue
                    standstill = drive.in_sync(drive.send(value))
            value, error = _begun(drive)
            if error is not None:
                raise raised_by(policy, error)
            if value.ongoing is not stream.ongoing:
                return value.value
            stream.limit = call.extras.stream_limit
            item, value = value.value, None
            while True:
                try:
                    value = yield item
                except GeneratorExit:
                    raise
                except BaseException as thrown:
                    advance, value = items.throw, thrown
                    stream.thrown = True
                else:
                    advance = items.send
                with stream:
                    item, value = advance(value), None
        except StopIteration as stop:
            stream.last = Outcome(stop.value)
            return stop.value
        except BaseException as raised:
            stream.failed(raised)
            raise
        finally:
            value = error = None
            try:
                if items is not None:
                    items.close()
            finally:
                stream.end()

    return wrapper


def async_generator_edge(
    policy: AnyPolicy,
    fn: Callable[..., AsyncIterator[Any]],
    name: str | None = None,
    kind: type[Stream] = Stream,
) -> Callable[..., Any]:
    """Return `fn` as the policy protects it, for an async generator function.

    See `generator_edge`.
    """
    name = name or name_of(fn)

    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        __tracebackhide__ = True
        call = Call.new(name, args, kwargs, policy=policy)
        stream = kind(call)
        items: Any = None
        value: Any = None
        error: BaseException | None = None
        try:
            with Inside(call):
                drive = Drive(policy, call)
                standstill = await drive.forward(drive.begin())
                while standstill is RUN:
                    if items is not None:
                        await items.aclose()
                    items = fn(*args, **kwargs)
                    stream.begin(items.aclose)
                    try:
                        value = stream.first(await items.__anext__())
                    except StopAsyncIteration:
                        value = _empty()
                    except Exception as raised:
                        value = failed(raised)
                    except BaseException as unwinding:
                        standstill = await drive.forward(drive.throw(unwinding))
                        continue
                    standstill = await drive.forward(drive.send(value))
            value, error = _begun(drive)
            if error is not None:
                raise raised_by(policy, error)
            if value.ongoing is not stream.ongoing:
                return
            stream.limit = call.extras.stream_limit
            item, value = value.value, None
            while True:
                try:
                    value = yield item
                except GeneratorExit:
                    raise
                except BaseException as thrown:
                    advance, value = items.athrow, thrown
                    stream.thrown = True
                else:
                    advance = items.asend
                with stream:
                    item, value = await advance(value), None
        except StopAsyncIteration:
            stream.last = Outcome()
        except BaseException as raised:
            stream.failed(raised)
            raise
        finally:
            value = error = None
            try:
                if items is not None:
                    await items.aclose()
            finally:
                stream.end()

    return wrapper
