"""One of several exchanges for a request that are under way at once.

A `Hedge` makes one for each of its attempts, with all that the engine needs to
send: a copy of the request, a call, timeouts, the response. The one that is
chosen becomes the whole exchange's (`taken`), which goes on as if it had sent
it itself. Every other closes its response.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, cast

from resilient._calls.call import Call, enter_call
from resilient._calls.outcome import Outcome
from resilient._edges.driver import Chain
from resilient._edges.generators import StreamLimit
from resilient._edges.steps import Proceed
from resilient._http.exchange import Exchange, copied
from resilient._http.request_call import HedgedRequest
from resilient._runtimes.sync import SYNC
from resilient._values.locks import Lock

_AT_ONCE: Final = "its body cannot be sent twice at once"

# For counting, of which threads must not lose one.
_counting = Lock()


class HedgedExchange(Exchange):
    """One of several exchanges for a request; a `Branch`.

    Args:
        whole: The exchange that it is a part of.
        drive: Drives an exchange with a transport; returns what is to be
            awaited, or None.
        inner: The transport.
        hedge: Number of the hedge, from 1; 0: the first attempt.
        proceed: What is inside the `Hedge`.
    """

    __slots__ = ("_drive", "_inner", "_limit", "_root", "_single", "_taken", "_whole")

    def __init__(
        self,
        whole: Exchange,
        drive: Callable[[Exchange, Any], Any],
        inner: Any,
        hedge: int,
        proceed: Proceed,
    ) -> None:
        call = HedgedRequest(whole.call, hedge)
        call.fork = functools.partial(HedgedExchange, self, drive, inner)
        # A copy of the whole, but for what is an attempt's own.
        for name in Exchange.__slots__:
            if hasattr(whole, name):
                setattr(self, name, getattr(whole, name))
        self.call: Call = call
        self.outcome = self.coroutine = None
        self.response = self.target = self._stream = None
        self.sent = 0
        self._leave_pools = []
        self._ended = False
        self._around = cast("Chain", proceed)
        self._whole = whole
        self._root: Exchange = whole
        if isinstance(whole, HedgedExchange):
            self._root = whole._root
        self._drive = drive
        self._inner = inner
        # What bounds the body, by policies inside the `Hedge`.
        self._limit: StreamLimit | None = None
        self._taken = False
        request = self._request
        self._sent = copied(request)
        if self._upload is not None:
            self._sent.stream = self._upload
        # NB: a transport further in may write into them, as a proof of each.
        self._sent.headers = request.headers.copy()
        # Whether it can be sent again, but not while it is being sent.
        self._single = not isinstance(request.stream, self._client_library.in_memory)
        # NB: a policy inside may keep it waiting; it may be sent at any moment.
        call.unrepeatable = self._why_not(over=False)
        if self._single:
            call.unrepeatable = _AT_ONCE

    def prepare(self) -> Any:
        with _counting:
            self.sent = self._root.sent
            self._root.sent += 1
        request = super().prepare()
        if self._single:
            self.call.unrepeatable = _AT_ONCE
        return request

    def answered(self, response: Any) -> Outcome:
        self.call.unrepeatable = None
        return super().answered(response)

    def _owner(self) -> Call:
        return self._whole._owner()

    async def run(self) -> None:
        """Run to the end, in a task or thread of its own; see `Branch.run`."""
        call, whole = self.call, self._whole
        in_sync = call.runtime is SYNC
        enter_call(call)
        try:
            if not call.hedge:
                # The turn that a policy outside has waited for is the first's.
                around = whole.call.own_extras()
                call.own_extras().turn, around.turn = around.turn, None
                if whole.response is not None:
                    # Of an attempt before, which was not wanted.
                    await _drop(whole, in_sync)
            driven = self._drive(self, self._inner)
            if driven is not None:
                await driven
            self._limit = call.extras.stream_limit
            if self._stream is not None:
                self._keep_pools(self._stream)
        except GeneratorExit:
            self.abandon()
            raise
        except BaseException:
            if self.response is not None:
                await _drop(self, in_sync)
            raise
        finally:
            self.leave()

    def taken(self) -> None:
        """Let the whole exchange go on as if it had sent this itself."""
        whole, extras = self._whole, self.call.extras
        self._taken = True
        whole.response, self.response = self.response, None
        whole._stream, self._stream = self._stream, None
        timeouts = getattr(self, "_timeouts", None)
        if timeouts is not None:
            whole._timeouts, whole._allowed = timeouts, self._allowed
        around = whole.call.own_extras()
        if self._limit is not None:
            around.stream_limit = self._limit
        if extras.stopped is not None:
            around.stopped = extras.stopped
        around.paced, around.sent_back = extras.paced, extras.sent_back

    async def discard(self) -> None:
        await (self._whole.discard() if self._taken else super().discard())

    async def adiscard(self) -> None:
        await (self._whole.adiscard() if self._taken else super().adiscard())


async def _drop(exchange: Exchange, in_sync: bool) -> None:
    if in_sync:
        exchange.drop()
    else:
        await exchange.adrop()
