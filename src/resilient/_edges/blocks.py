"""Blocks: `guard` and `attempts`, whose function is the caller's own code.

Ground rules:

* Nothing of one block is stored on the policy; each `guard()` and each
  `attempts()` is an object of its own, for one task or thread.
* The policies are resumed when the block ends, so that ``return`` and
  ``break`` inside it lose nothing.
* No frame of ours stays in a traceback that leaves a block.
* `Attempts` owns the drive and is not reachable from it: when the loop is
  left, the iterator dies at once and everything goes back.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Coroutine
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from resilient._calls.call import AnyPolicy, Call, enter_call, forget_call, leave_call
from resilient._edges.driver import DONE, Drive
from resilient._edges.steps import RUN
from resilient._errors.errors import ResilientWarning
from resilient._errors.tracebacks import strip
from resilient._errors.warnings import warn_once
from resilient._runtimes.runtime import Sentinel
from resilient._runtimes.sync import SYNC, loop_runs_here
from resilient._values.traits import Trait

if TYPE_CHECKING:
    from resilient._runtimes.runtime import Runtime

P = ParamSpec("P")
T = TypeVar("T")

BLOCK = Sentinel("BLOCK")
"""Where the policies of a loop stand while a block is due or runs."""


def _frameless(method: Callable[P, T]) -> Callable[P, T]:
    @functools.wraps(method)
    def stripped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except BaseException as error:
            strip(error)
            raise

    return stripped


def _aframeless(
    method: Callable[P, Coroutine[Any, Any, T]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    @functools.wraps(method)
    async def stripped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except BaseException as error:
            strip(error)
            raise

    return stripped


def _is_here(call: Call, place: object) -> bool:
    try:
        return call.runtime.task_or_thread() == place
    except RecursionError:
        raise
    except RuntimeError:
        # No task at all.
        return False


class _Stay:
    """A block's stay: it holds the one context variable while it runs."""

    __slots__ = ("call", "place", "token")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.place = call.runtime.task_or_thread()
        try:
            self.token: Token[Call | None] = enter_call(call)
        except BaseException:
            forget_call(call)
            raise

    def leave(self) -> None:
        """End it.

        Raises:
            RuntimeError: This is another task or thread than it began in.
        """
        here = _is_here(self.call, self.place)
        try:
            leave_call(self.token)
        except ValueError:
            # Another context.
            here = False
        if not here:
            raise RuntimeError(
                "a block of a policy was left in another task or thread than it"
                " was entered in; its permits were given back undecided"
            )


def _warn_if_deaf(policy: AnyPolicy) -> None:
    """Warn of a synchronous block that only an async one could cut short."""
    if loop_runs_here() and Trait.INTERRUPTS in policy.traits:
        warn_once(
            f"{policy.label!r} cannot interrupt the synchronous block in {{function}}:"
            " use"
            " `async with` (`async for`) on a thread that runs an event loop",
            policy.warning_raised,
        )


def _call_of(policy: AnyPolicy, runtime: Runtime | None, key: Any) -> Call:
    return Call.new(policy.label, runtime=runtime, key=key, policy=policy)


def _final_error(drive: Drive) -> Exception | None:
    """Take the final error from a drive that is done, and end its call."""
    outcome, drive.outcome = drive.outcome, None
    assert outcome is not None
    drive.call.end(outcome)
    error = outcome.error
    outcome.discard()
    return error


def _unwinds(raised: BaseException, error: BaseException | None) -> Literal[False]:
    """Let what unwinds through a block go on as it came, or raise what does.

    NB: raised again from ``__exit__``, it would show the block's frame twice.
    """
    if raised is not error:
        raise raised
    strip(raised)
    return False


class Guard:
    """A block protected by a policy: ``with policy.guard(): …``.

    Made by `Policy.guard`, for one use. The block runs once; ``as call``
    gives the `Call`, whose ``result`` may be set for ``classify`` to see.

    Raises:
        RejectedError: On entering: the block does not run.
        TimeoutExceededError: On leaving: it took too long.
        RuntimeError: It is entered twice, or left in another task or thread.
        TypeError: The policies would run the block twice or not at all.
    """

    __slots__ = ("_drive", "_key", "_policy", "_stay")

    def __init__(self, policy: AnyPolicy, key: Any) -> None:
        self._policy = policy
        self._key = key
        self._drive: Drive | None = None

    @_frameless
    def __enter__(self) -> Call:
        _warn_if_deaf(self._policy)
        drive = self._open(SYNC)
        try:
            return self._enter(drive, drive.in_sync(drive.begin()))
        except BaseException:
            drive.close()
            raise

    @_frameless
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        drive = self._drive
        assert drive is not None
        try:
            self._leave(error)
            standstill = drive.in_sync(drive.ended(error, drive.call.result))
        except BaseException as raised:
            drive.close()
            return _unwinds(raised, error)
        return self._exit(drive, standstill, error)

    @_aframeless
    async def __aenter__(self) -> Call:
        drive = self._open(None)
        try:
            return self._enter(drive, await drive.forward(drive.begin()))
        except BaseException:
            drive.close()
            raise

    @_aframeless
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Literal[False]:
        drive = self._drive
        assert drive is not None
        try:
            self._leave(error)
            ended = drive.ended(error, drive.call.result)
            standstill = await drive.forward(ended)
        except BaseException as raised:
            drive.close()
            return _unwinds(raised, error)
        return self._exit(drive, standstill, error)

    def __del__(self) -> None:
        drive = getattr(self, "_drive", None)
        if drive is not None and not drive.call.ended:
            # NB: Ctrl-C as the block was left.
            drive.close()
            forget_call(drive.call)

    def _open(self, runtime: Runtime | None) -> Drive:
        if self._drive is not None:
            raise RuntimeError("a guard is for one block: call guard() again")
        call = _call_of(self._policy, runtime, self._key)
        self._drive = Drive(self._policy, call)
        return self._drive

    def _enter(self, drive: Drive, standstill: object) -> Call:
        if standstill is DONE:
            error = _final_error(drive)
            raise unrepeatable(self._policy, "guard") if error is None else error
        self._stay = _Stay(drive.call)
        return drive.call

    def _leave(self, error: BaseException | None) -> None:
        try:
            self._stay.leave()
        except RuntimeError:
            assert self._drive is not None
            self._drive.close()
            # NB: the collector leaves blocks wherever it runs.
            if not isinstance(error, GeneratorExit):
                raise

    def _exit(
        self, drive: Drive, standstill: object, error: BaseException | None
    ) -> Literal[False]:
        if standstill is RUN:
            drive.close()
            raise unrepeatable(self._policy, "guard")
        final = _final_error(drive)
        if final is not None and final is not error:
            raise final
        if final is None and error is not None:
            raise unrepeatable(self._policy, "guard")
        return False


def unrepeatable(policy: AnyPolicy, usage: str) -> TypeError:
    """Return the error for a block that a policy would repeat or replace."""
    reruns = policy.traits & (Trait.RERUNS | Trait.RACES)
    hint = "attempts()" if reruns and usage == "guard" else "a function"
    return TypeError(
        f"{policy!r} may run its function again or answer in its place, which"
        f" {usage}() cannot do with a block: use {hint}"
    )


class Attempt:
    """One attempt of a block: ``with attempt: …``, or ``async with``."""

    __slots__ = ("_loop", "_number", "_share_credit", "_stay")

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._share_credit = loop.turn
        self._number = loop.drive.call.attempt

    def __repr__(self) -> str:
        return f"<Attempt {self._number}>"

    @property
    def number(self) -> int:
        """Number of the attempt, from 1."""
        return self._number

    @_frameless
    def __enter__(self) -> Call:
        if not self._loop.due or self._share_credit != self._loop.turn:
            raise RuntimeError("an attempt is for one block, in its own turn")
        self._loop.due = False
        self._stay = _Stay(self._loop.drive.call)
        return self._loop.drive.call

    @_frameless
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        loop = self._loop
        self._leave(error)
        try:
            loop.ended(error)
            if loop.drive.call.runtime is SYNC:
                loop.standstill = loop.drive.in_sync(loop.standstill)
        except BaseException as raised:
            loop.standstill = DONE
            return _unwinds(raised, error)
        # NB: in an `async for` a wait may be due; `__anext__` does it.
        return loop.left(error)

    async def __aenter__(self) -> Call:
        return self.__enter__()

    @_aframeless
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        loop = self._loop
        self._leave(error)
        try:
            loop.ended(error)
            loop.standstill = await loop.drive.forward(loop.standstill)
        except BaseException as raised:
            loop.standstill = DONE
            return _unwinds(raised, error)
        return loop.left(error)

    def _leave(self, error: BaseException | None) -> None:
        loop = self._loop
        try:
            self._stay.leave()
        except RuntimeError:
            loop.standstill = DONE
            loop.drive.close()
            if not isinstance(error, GeneratorExit):
                raise


class _Loop:
    """What the attempts of one loop share."""

    __slots__ = ("drive", "due", "lost", "place", "standstill", "turn")

    def __init__(self, drive: Drive, place: object) -> None:
        self.drive: Drive = drive
        # The task or thread that the loop runs in.
        self.place: object = place
        # Where the policies stand.
        self.standstill: object = BLOCK
        # Whether an attempt was handed out and not entered yet.
        self.due: bool = False
        # How many were.
        self.turn: int = 0
        # The type of the error that the next attempt is to make good.
        self.lost: str | None = None

    def ended(self, error: BaseException | None) -> None:
        """Resume the policies with the result of the block."""
        call = self.drive.call
        result, call.result = call.result, None
        self.standstill = self.drive.ended(error, result)

    def left(self, error: BaseException | None) -> bool:
        """Say what ``__exit__`` has to say."""
        if self.standstill is not DONE:
            self.lost = "a result" if error is None else type(error).__name__
            return True
        self.lost = None
        final = _final_error(self.drive)
        if final is not None and final is not error:
            raise final
        return False


class Attempts:
    """The attempts at a block: ``for attempt in policy.attempts(): …``.

    Made by `Policy.attempts`, for one loop, ``for`` or ``async for``. A block
    that fails and is to be tried again is swallowed; the error of the last
    one leaves its block as it is. Leaving the loop after a failed block loses
    its error, and a `ResilientWarning` names it.
    """

    __slots__ = ("_key", "_loop", "_policy")

    def __init__(self, policy: AnyPolicy, key: Any) -> None:
        self._policy = policy
        self._key = key
        self._loop: _Loop | None = None

    def __iter__(self) -> Attempts:
        return self

    def __aiter__(self) -> Attempts:
        return self

    @_frameless
    def __next__(self) -> Attempt:
        loop = self._loop
        if loop is None:
            _warn_if_deaf(self._policy)
            loop = self._open(SYNC)
            loop.standstill = loop.drive.in_sync(loop.drive.begin())
        self._resumes(loop)
        return self._next(loop, StopIteration)

    @_aframeless
    async def __anext__(self) -> Attempt:
        loop = self._loop
        if loop is None:
            loop = self._open(None)
            loop.standstill = loop.drive.begin()
        if self._resumes(loop):
            try:
                loop.standstill = await loop.drive.forward(loop.standstill)
            except BaseException:
                loop.standstill = DONE
                raise
        return self._next(loop, StopAsyncIteration)

    def _open(self, runtime: Runtime | None) -> _Loop:
        call = _call_of(self._policy, runtime, self._key)
        place = call.runtime.task_or_thread()
        self._loop = _Loop(Drive(self._policy, call), place)
        return self._loop

    def _resumes(self, loop: _Loop) -> bool:
        """Whether the policies are to go on; they do so where they began.

        Raises:
            RuntimeError: This is another task or thread.
        """
        if loop.standstill is BLOCK or loop.standstill is DONE:
            return False
        if not _is_here(loop.drive.call, loop.place):
            loop.standstill = DONE
            loop.drive.close()
            raise RuntimeError(
                "attempts of a policy were continued in another task or thread"
                " than they began in; their permits were given back undecided"
            )
        return True

    def _next(self, loop: _Loop, stop: type[Exception]) -> Attempt:
        if loop.standstill is BLOCK:
            raise RuntimeError("the attempt before this one was not used: with it")
        if loop.standstill is RUN:
            loop.standstill, loop.due = BLOCK, True
            loop.turn += 1
            return Attempt(loop)
        loop.lost = None
        error = None if loop.drive.outcome is None else _final_error(loop.drive)
        raise stop if error is None else error

    def __del__(self) -> None:
        # NB: Ctrl-C may have come before there was one.
        loop = getattr(self, "_loop", None)
        if loop is None or loop.standstill is DONE:
            return
        loop.drive.close()
        if loop.lost is not None:
            warnings.warn(
                f"a loop of attempts of {self._policy.label!r} was left after a"
                f" failed block: {loop.lost} is lost",
                ResilientWarning,
                stacklevel=2,
            )
