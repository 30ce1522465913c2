"""One request or WebSocket on its way through a pipeline to an application.

Ground rules:

* The policies are driven in the server's own task, the application runs in a
  task of its own. So no scope of a policy is open inside the application's, and
  the application can go on after its answer has begun while the policies have
  ended in order.
* An attempt lasts until ``http.response.start`` (``websocket.accept``), which is
  what its latency is measured to; permits are held until the last byte
  (`Outcome.ongoing`), as those of a generator are until its last item.
* The server's task ends after the application's, in every way out.
* Once a limit or a disconnect has ended an exchange, nothing that the
  application sends goes out: there is never a second status.

=========== ============================================================
state       what the server's task waits for
=========== ============================================================
admitted    the start of the response, its deadline, a disconnect
streaming   the last byte, the end of the total limit, a disconnect
background  the end of the application: its permits are back
=========== ============================================================

A request that has run for `_WATCH_AFTER` is watched for a disconnect by a
further task. It reads at most the message that a request without a body
consists of: a body is the application's to read.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import Any, Final, cast

from resilient._calls.call import Call, enter_call, forget_call, leave_call
from resilient._calls.outcome import (
    FAILURE,
    OngoingWork,
    Outcome,
    UnaskedOutcome,
)
from resilient._edges.driver import Drive
from resilient._edges.steps import RUN
from resilient._errors.errors import RejectedError, ResilientError, TimeoutExceededError
from resilient._policy.policy import Policy
from resilient._runtimes import clock
from resilient._runtimes.runtime import AsyncRuntime, BackgroundTask, Waiter, unpaused
from resilient._server.answers import ANSWERED, App, Message, Receive, Scope, Send
from resilient._server.scopes import has_body

_WATCH_AFTER: Final = 0.02
"""Seconds: a request that takes less frees no slot worth a task to watch it."""

_NAME: Final = "resilient request"

_DISCONNECT: Final = "http.disconnect"

_LAST: Final = {"http.response.body", "websocket.http.response.body", "websocket.close"}
"""What ends an answer, unless it says that more will come."""

_STATUSES: Final = {"websocket.accept": 101, "websocket.close": 403}
"""What a message without a status means."""

_INTERRUPTS: Final = (KeyboardInterrupt, SystemExit)


class Exchange:
    """One request or WebSocket.

    Args:
        call: What flows through the policies.
        app: The application.
        scope: Its scope.
        receive: The server's.
        send: The server's.
        cancels: Whether a disconnect of the client cancels the application.
        refuse: ``await refuse(error)`` answers an error of ours.
        closing: Whether the connection should not be kept.

    Attributes:
        started: Whether an answer has begun.
    """

    __slots__ = (
        "_ahead",
        "_app",
        "_body_read",
        "_call",
        "_cancels",
        "_closing",
        "_complete",
        "_cut",
        "_disconnected",
        "_ended",
        "_ending",
        "_error",
        "_mute",
        "_ongoing",
        "_readers",
        "_reading",
        "_receive",
        "_refuse",
        "_runtime",
        "_scope",
        "_send",
        "_sending",
        "_status",
        "_task",
        "_waiter",
        "_watch_from",
        "_watcher",
        "_watching",
        "started",
    )

    def __init__(
        self,
        call: Call,
        app: App,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        cancels: bool,
        refuse: Callable[[ResilientError], Awaitable[None]],
        closing: Callable[[], bool] | None = None,
    ) -> None:
        self.started: bool = False
        self._call = call
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._refuse = refuse
        self._closing = closing
        self._runtime = cast("AsyncRuntime", call.runtime)
        self._waiter = self._runtime.waiter(call)
        self._task: BackgroundTask | None = None
        self._status = 0
        self._complete = False
        self._ended = False
        self._error: BaseException | None = None
        # Whether nothing of the application's goes out any more.
        self._mute = False
        # Whether the process has no time left for it.
        self._cut = False
        # What is held until the last byte.
        self._ongoing: OngoingWork | None = None
        # -- What is known of the client
        self._cancels = cancels and scope["type"] == "http"
        self._disconnected = False
        # Whether the application waits for the server to send.
        self._sending = False
        # Whether the last byte is the server's to send.
        self._ending = False
        self._body_read = False
        # Whether the application is reading; else a task may.
        self._reading = False
        self._watch_from = math.inf
        self._watcher: BackgroundTask | None = None
        self._watching = False
        # What that task has read and the application has not.
        self._ahead: Message | None = None
        self._readers: list[Waiter] = []

    # -- The server's task

    async def run(self, policy: Policy[Any]) -> None:
        """Run the application behind the policies, to the end of both.

        Raises:
            BaseException: What the application raised.
        """
        call = self._call
        drive = Drive(policy, call)
        ended: Outcome | None = None
        error: BaseException | None = None
        token: Token[Call | None] | None = None
        try:
            token = enter_call(call)
            ended = await self._admitted(drive)
            if ended is not None and ended.error is None:
                ended = await self._streamed(ended)
            if ended is not None and ended.error is not None:
                await self._answer_for(ended, ended.error)
            self._give_back(ended)
            call.end(ended)
            if self._cut and not self.started:
                await self._refuse(RejectedError(call.name))
            while self._task is not None and not self._ended:
                # What is done in the background, after the last byte.
                await self._park(None)
                if self._cut:
                    await self._stop()
        except BaseException as unwinding:
            await self._stop(unwinding)
            raise
        finally:
            try:
                if token is None:
                    forget_call(call)
                else:
                    leave_call(token)
            except ValueError:
                # Closed from another context, by the collector or a loop that
                # shuts down: the variable there was never ours.
                pass
            self._give_back(None)
            drive.close()
            if self._watcher is not None:
                self._watcher.cancel()
            # NB: an error's traceback holds this frame.
            drive.outcome = ended = None
        error, self._error = self._error, None
        if error is None or (self._mute and not isinstance(error, _INTERRUPTS)):
            return
        try:
            if isinstance(error, ANSWERED) and not self.started:
                await self._refuse(error)
            else:
                raise error
        finally:
            error = None

    def cut(self) -> None:
        """End it, from any thread: the process has no time left for it."""
        self._cut = True
        self._waiter.wake()

    async def _admitted(self, drive: Drive) -> Outcome | None:
        """Return what the policies say once an answer has begun, or cannot.

        Returns:
            None: the client is gone, or the process is going.
        """
        outcome: Outcome | None = None
        standstill = await drive.forward(drive.begin())
        while standstill is RUN:
            try:
                outcome = await self._first()
                if outcome is None:
                    await self._stop()
            except BaseException as unwinding:
                await self._stop(unwinding)
                standstill = await drive.forward(drive.throw(unwinding))
            else:
                if outcome is None:
                    drive.close()
                    return None
                # NB: of an application that ended as its task was made, the error's
                # traceback holds this frame.
                standstill, outcome = drive.send(outcome), None
                standstill = await drive.forward(standstill)
        return drive.outcome

    async def _first(self) -> Outcome | None:
        """Start the application; return the outcome of its answer's first message.

        Returns:
            None: the client is gone, or the process is going.
        """
        call = self._call
        self._watch_from = clock.now() + _WATCH_AFTER
        self._task = self._runtime.spawn(
            _NAME, self._run_app, self._app_ended, eager=True
        )
        try:
            if await self._until(self._has_begun, call.deadline):
                return self._outcome()
            if self._is_gone():
                return None
        except BaseException as unwinding:
            if not call.is_cut(unwinding):
                raise
        # NB: its slot is held until it has really ended, as that of a thread is
        # which was left behind; its caller need not wait for that.
        outcome = Outcome(None, self._out_of_time())
        outcome.ongoing = self._ongoing = OngoingWork()
        return outcome

    async def _streamed(self, outcome: Outcome) -> Outcome | None:
        """Wait for the last byte; return how the call ended; None: it was left."""
        call, limit = self._call, self._call.extras.stream_limit
        deadline = call.deadline
        if self._scope["type"] != "http":
            deadline = limit = None
        elif limit is not None and (deadline is None or limit.deadline < deadline):
            deadline = limit.deadline
        if await self._until(self._has_completed, deadline):
            if self._complete or not isinstance(self._error, Exception):
                return outcome
            return Outcome(None, self._error)
        if self._is_gone():
            await self._stop()
            return None
        now = clock.now()
        if limit is not None and now >= limit.deadline:
            return Outcome(None, limit.exceeded(now))
        return Outcome(None, self._out_of_time())

    async def _answer_for(self, ended: Outcome, error: Exception) -> None:
        """Answer for an error of the policies, and end the application."""
        if error is self._error:
            # Its own; it has ended.
            return
        self._mute = True
        if self._task is not None:
            self._task.cancel()
        if self._sending:
            # NB: the application works no more, and its server may let nothing cut a
            # write to a client that does not read (hypercorn on trio).
            self._give_back(ended)
        if not self.started and isinstance(error, ANSWERED):
            await self._refuse(error)
        await self._stop()

    async def _stop(self, unwinding: BaseException | None = None) -> None:
        """Cancel the application, and wait for its end if anything can be awaited."""
        self._mute = True
        if self._task is None or self._ended:
            return
        self._task.cancel()
        if not isinstance(unwinding, GeneratorExit):
            await self._task.ended()

    def _give_back(self, ended: Outcome | None) -> None:
        """Give back what is held until the last byte, once."""
        ongoing, self._ongoing = self._ongoing, None
        if ongoing is not None:
            ongoing.finish(ended)

    # -- What it waits for

    def _has_begun(self) -> bool:
        return self.started or self._ended

    def _has_completed(self) -> bool:
        return self._complete or self._ended

    def _is_gone(self) -> bool:
        return self._cut or (self._cancels and self._disconnected and not self._ending)

    async def _until(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Wait; return whether it is done: else time is up, or the client gone."""
        while not done():
            now = clock.now()
            if self._is_gone() or (deadline is not None and now >= deadline):
                return False
            until = deadline
            if self._may_watch():
                if now >= self._watch_from:
                    self._watch()
                elif until is None or self._watch_from < until:
                    until = self._watch_from
            await self._park(until)
        return True

    async def _park(self, until: float | None, waiter: Waiter | None = None) -> None:
        await unpaused(self._runtime.park, waiter or self._waiter, until)

    def _outcome(self) -> Outcome:
        error = self._error
        if isinstance(error, Exception):
            return Outcome(None, error)
        if error is not None:
            self._error = None
            raise error
        if not self._status:
            return UnaskedOutcome()
        outcome = Outcome(self._status)
        if self._status >= 500:
            outcome.verdict = FAILURE
        if not self._has_completed():
            outcome.ongoing = self._ongoing = OngoingWork()
        return outcome

    def _out_of_time(self) -> TimeoutExceededError:
        """Return the error of a deadline that no policy set: its caller's."""
        call, now = self._call, clock.now()
        allowed = call.allowed or 0.0
        late = 0.0 if call.deadline is None else now - call.deadline
        error = TimeoutExceededError(call.name, allowed, allowed + late)
        error.by_deadline = True
        return error

    # -- The application's task

    async def _run_app(self) -> None:
        try:
            await self._app(self._scope, self.receive, self.send)
        except BaseException as error:
            self._error = error
        finally:
            self._app_ended()

    def _app_ended(self) -> None:
        if not self._ended:
            self._ended = True
            self._waiter.wake()

    async def send(self, message: Message) -> None:
        """Hand a message of the application on to the server."""
        if self._mute:
            # It swallowed its cancellation, and comes too late.
            return
        kind = message["type"]
        if not self.started:
            self._status = message.get("status", _STATUSES.get(kind, 0))
            self.started = True
            self._waiter.wake()
            if kind == "http.response.start":
                message = self._begun(message)
        last = kind in _LAST and not message.get("more_body")
        if last:
            # NB: a server may give the disconnect that follows before it returns.
            self._ending = True
        self._sending = True
        try:
            await self._send(message)
        finally:
            self._sending = False
        if last:
            self._complete = True
            self._waiter.wake()

    def _begun(self, start: Message) -> Message:
        if self._closing is None or not self._closing():
            return start
        if not self._scope["http_version"].startswith("1."):
            # Later ones have no such field, and say so in a frame.
            return start
        headers = [*start.get("headers", ()), (b"connection", b"close")]
        return {**start, "headers": headers}

    async def receive(self) -> Message:
        """Hand a message of the server on to the application."""
        if not self._cancels:
            return await self._receive()
        while self._watching and self._ahead is None and not self._disconnected:
            reader = self._runtime.waiter(self._call)
            self._readers.append(reader)
            try:
                await self._park(None, reader)
            finally:
                self._readers.remove(reader)
        message, self._ahead = self._ahead, None
        if message is not None:
            return message
        if self._disconnected:
            return {"type": _DISCONNECT}
        self._reading = True
        try:
            message = await self._receive()
            self._look_at(message)
            return message
        finally:
            self._reading = False
            if clock.now() >= self._watch_from:
                # A task may read on.
                self._waiter.wake()

    def _look_at(self, message: Message) -> None:
        if message["type"] == _DISCONNECT:
            self._disconnected = True
            self._waiter.wake()
        elif not message.get("more_body"):
            self._body_read = True

    # -- The task that watches for a disconnect

    def _may_watch(self) -> bool:
        if not self._cancels or self._watching or self._reading:
            return False
        return not self._disconnected and (
            self._body_read or (self._ahead is None and not has_body(self._scope))
        )

    def _watch(self) -> None:
        self._watching = True
        self._watcher = self._runtime.spawn(_NAME, self._read_on, self._watch_ended)

    async def _read_on(self) -> None:
        try:
            while not self._disconnected:
                message = await self._receive()
                if message["type"] == _DISCONNECT:
                    # NB: an answer that comes in the same turn wins.
                    await unpaused(self._runtime.sleep, 0)
                elif self._body_read:
                    # NB: a server that says more than it may would be asked for
                    # ever, without a pause.
                    self._cancels = False
                    return
                else:
                    self._ahead = message
                self._look_at(message)
                for reader in self._readers:
                    reader.wake()
                if not self._body_read:
                    # There is a body after all, which is not ours to read.
                    return
        except Exception:
            # A server that tells of a lost connection by an error.
            self._disconnected = True
            self._waiter.wake()

    def _watch_ended(self) -> None:
        self._watching = False
        for reader in self._readers:
            reader.wake()
