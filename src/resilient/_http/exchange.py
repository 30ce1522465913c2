"""One request on its way through a pipeline, attempt by attempt.

Ground rules:

* A request is sent again only if nothing can come of it twice: its method is
  idempotent (see `semantics`), or it carries an ``Idempotency-Key``, or it
  certainly never left, or was refused; and its body can be sent again byte for
  byte. A `Retry` learns that from ``call.unrepeatable``.
* An outcome is judged here, where request and response are known.
* The caller's request stays as it came, but for its ``Idempotency-Key``: a
  request object is one operation, however often sent, also twice at once.

The module is long because an exchange is one state that both colours drive:
what is read of methods, headers, errors and bodies is in modules of its own.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from resilient._calls.call import Call, cut_short
from resilient._calls.outcome import SUCCESS, OngoingWork, Outcome, Verdict
from resilient._edges.driver import Drive
from resilient._edges.generators import IdleLimit, Stream, StreamLimit
from resilient._errors.errors import ResilientError
from resilient._errors.tracebacks import strip
from resilient._events.listeners import log_warning_once
from resilient._http import faults, reading, response_headers
from resilient._http.body import (
    UNLIMITED,
    Body,
    Timeouts,
    Upload,
    is_rewindable,
)
from resilient._http.body_headers import body_fields, is_live, length_of, raw_fields
from resilient._http.faults import Fault
from resilient._http.holding import Holds
from resilient._http.request_call import Answer, RequestCall, Summary, names
from resilient._http.response_headers import Allowance
from resilient._http.routing import Pools, Target
from resilient._http.rules import Rules, checked_idle, is_repeatable
from resilient._http.semantics import HEALTHY, REFUSED, SLOWED, UNAVAILABLE
from resilient._http.stated import Comparison
from resilient._policy.policy import Policy
from resilient._runtimes import clock
from resilient._values.checks import LARGEST
from resilient._values.priority import Priority
from resilient.policies.rate_limiter.held import Turn

RESEND_COUNT: Final = "http.request.resend_count"

_SWITCHING: Final = 101

_ERRORS: Final = 400
"""Statuses from which on what the headers say is read at once."""

_UNSTATED: Final = object()


class Exchange(Drive):
    """One request, driven from its call to the end of its response's headers.

    Attributes:
        sent: How often the request was sent.
        response: The last response, until another object owns it; code that
            finds one here closes it.
        target: The endpoint of the present attempt; None: it goes where it says.
    """

    __slots__ = (
        "_allowed",
        "_client_library",
        "_comparison",
        "_ended",
        "_holds",
        "_inherited",
        "_leave_pools",
        "_own",
        "_request",
        "_rules",
        "_safe",
        "_sent",
        "_stream",
        "_timeouts",
        "_upload",
        "response",
        "sent",
        "target",
    )

    # NB: not written before the first attempt. Seconds of the attempt's limit.
    _allowed: float | None
    _timeouts: Timeouts

    def __init__(
        self,
        rules: Rules,
        request: Any,
        policy: Policy[Any],
        holds: Holds,
        runtime: Any = None,
        comparison: Comparison | None = None,
    ) -> None:
        url, method = request.url, request.method
        name, origin = names(method, url.scheme, url.raw_host, url.port)
        routing = rules.routing
        routed = None if routing is None else routing.covers(url)
        call = RequestCall(name, request, runtime, origin, policy, holds, routed=routed)
        super().__init__(policy, call)
        self._holds = holds
        self._comparison = comparison
        # What a limit around the call has set: no limit of the pipeline's.
        self._inherited = call.deadline
        self.response: Any = None
        self.sent: int = 0
        self.target: Target | None = None
        # What counts it as no longer in the pools that its attempts were sent by.
        self._leave_pools: list[Callable[[], None]] = []
        # Whether the call has ended, or ends with the body that the caller has.
        self._ended = False
        self._client_library = client_library = rules.client_library
        self._rules = rules
        self._request = request
        self._own: dict[str, Any] = request.extensions
        self._stream: Stream | None = None
        self._safe = method in rules.methods or is_repeatable(request, rules)
        self._upload: Upload | None = None
        # NB: a request may be sent twice at once, so the caller's is not
        # changed and restored: each exchange sends a copy of its own.
        self._sent: Any = copied(request)
        body = request.stream
        if not isinstance(body, client_library.in_memory) and not is_rewindable(body):
            consumed = client_library.module.StreamConsumed
            self._upload = self._sent.stream = client_library.upload(body, consumed)
        if rules.deadline_header is not None:
            self._sent.headers = request.headers.copy()

    def _why_not(self, *, arrived: bool = True, over: bool = True) -> str | None:
        """Return why the request must not be sent again, if it must not.

        Args:
            arrived: Whether anything of it may have reached the server.
            over: Whether the attempt is.
        """
        if arrived and not self._safe:
            return f"{self._request.method} is not idempotent"
        if self._upload is not None and (self._upload.begun or not over):
            return "its body can be sent only once"
        return None

    # -- Each attempt

    def prepare(self) -> Any:
        """Prepare the request for one attempt, and return it."""
        request = self._sent
        self.sent = sent = self.sent + 1
        self._allowed = self.call.allowed
        self.call.own_extras().paced = False
        if self._upload is not None or not self._safe:
            # NB: until its outcome is known: a timeout may cut it short.
            self.call.unrepeatable = self._why_not(over=False)
        deadline = self.call.deadline
        request.extensions = extensions = self._own.copy()
        if sent > 1:
            extensions[RESEND_COUNT] = sent - 1
        self.target = None
        if self.call.routed:
            self._route(request)
        timeouts = Timeouts(extensions.get("timeout") or UNLIMITED)
        timeouts.head = None
        extensions["timeout"] = self._timeouts = timeouts
        if deadline is None:
            timeouts.deadline = math.inf
            return request
        timeouts.deadline = deadline
        if self._comparison is not None and sent == 1 and deadline != self._inherited:
            assert self._allowed is not None
            self._comparison.of_attempt(self._own.get("timeout"), self._allowed)
        if self._rules.deadline_header is not None:
            name, unit = self._rules.deadline_header
            left = min(max(0.0, deadline - clock.now()), clock.LONGEST_WAIT)
            request.headers[name] = (
                f"{left:.3f}" if unit == "s" else str(math.ceil(left * 1000))
            )
        return request

    def _route(self, request: Any) -> None:
        """Send the attempt to the endpoint that was chosen for it."""
        routing = self._rules.routing
        assert routing is not None
        self.target = routing.target_of(self.call)
        if self.target is not None:
            routing.redirect(request, self._request, self.target)

    @property
    def server_name(self) -> str | None:
        """The name that the certificate is verified for; None: the address's."""
        # NB: what the caller has set is what the connection would be opened with.
        name: str | None = self._sent.extensions.get("sni_hostname")
        return name

    def enter_pool(self, pools: Pools, target: Target) -> Any:
        """Return the transport that sends the present attempt."""
        pool = pools.enter(target._replace(server_name=self.server_name))
        self._leave_pools.append(functools.partial(pools.leave, pool))
        return pool.transport

    def reads(self, response: Any) -> bool:
        """Tell whether the body, not in memory yet, is read in the attempt."""
        if response.status_code == _SWITCHING:
            # What follows is no body, and has no end.
            return False
        mode = self._mode()
        if mode != "auto":
            return bool(mode)
        if self._request.method == "HEAD":
            return True
        fields = body_fields(response)
        length = length_of(fields)
        if length is None or length > self._rules.max_body:
            return False
        return not is_live(fields)

    def _mode(self) -> bool | str:
        mode: bool | str = self._own.get("resilient.read_body", self._rules.read_body)
        return mode

    def read(self, response: Any) -> bool:
        """Read a body as part of the attempt; see `reading.read`."""
        return reading.read(
            response,
            self._client_library,
            self._room(),
            self.call.deadline,
            self._too_late,
        )

    def aread(self, response: Any) -> Awaitable[bool]:
        """Read a body as part of the attempt; see `reading.read`."""
        # NB: not async, which would be a frame more.
        return reading.aread(
            response,
            self._client_library,
            self._room(),
            self.call.deadline,
            self._too_late,
        )

    def _room(self) -> float:
        """Return the bytes that may be read in the attempt.

        NB: what was announced is not what comes: a chunked body may have a
        Content-Length beside it (RFC 9112, 6.3).
        """
        return self._rules.max_body if self._mode() == "auto" else math.inf

    def _too_late(self) -> Exception:
        """Return the client's own error of a read that took too long."""
        text = "the time for the request is up"
        error: Exception = self._client_library.module.ReadTimeout(
            text, request=self._request
        )
        return error

    def stream(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have the call last until the body is read, for it is not read here.

        Args:
            close: ``await close()`` closes it, should it not be the last.
        """
        self._stream = stream = Stream(self._owner())
        stream.begin(close)

    def _owner(self) -> Call:
        """Return the call that lasts as long as the body."""
        return self.call

    def answered(self, response: Any) -> Outcome:
        """Make an outcome of a response, and judge it."""
        self.response = response
        call, outcome = self.call, Answer(response)
        status: int = response.status_code
        said = None
        if status >= _ERRORS or call.limiters:
            said = response_headers.read(raw_fields(response), time.time())
            outcome.retry_after = said.retry_after
        if self._rules.cost_of is not None and call.limiters and status < _ERRORS:
            # NB: before the limiters learn: what the server says is left, is
            # left after this request.
            self._set_cost(response)
        if said is not None:
            self._update_limiters(said.allowances)
        refused = False
        if status in self._rules.statuses:
            refused = status in REFUSED
            pushes = refused or (
                status == UNAVAILABLE and outcome.retry_after is not None
            )
            outcome.verdict = Verdict.PUSHBACK if pushes else Verdict.FAILURE
            if status in HEALTHY:
                outcome.health = SUCCESS
            elif pushes and call.priority < Priority.NORMAL:
                # Shed by a server that does what it should under load.
                outcome.health = Verdict.IGNORED
        wanted = None
        if status >= _ERRORS and said is not None:
            wanted = said.should_retry
            if wanted and outcome.verdict is SUCCESS:
                outcome.verdict, outcome.health = Verdict.FAILURE, SUCCESS
        self._settle_turn(status, outcome)
        if self._upload is not None or not self._safe or wanted is not None:
            call.unrepeatable = (
                "the server says not to send it again"
                if wanted is False
                else self._why_not(arrived=not (refused or wanted))
            )
        if self._stream is not None:
            outcome.ongoing = self._stream.ongoing
        return outcome

    def failed(self, error: Exception) -> Outcome:
        """Make an outcome of an error, and judge it."""
        call, library = self.call, self._client_library.module
        self._lose_turn()
        fault, sent = faults.facts(error, library, self._timeouts.head)
        strip(error)
        outcome = Outcome(None, error)
        if isinstance(error, ResilientError):
            # Of a transport or policy further in: judged as such.
            pass
        elif fault is Fault.LASTING or (fault is Fault.TLS and self.target is None):
            # NB: a certificate of one endpoint says nothing of the others.
            outcome.verdict = Verdict.IGNORED
        elif fault is Fault.OURS:
            outcome.health = Verdict.IGNORED
        call.unrepeatable = self._why_not(arrived=sent)
        if (
            call.deadline is not None
            and isinstance(error, library.TimeoutException)
            and clock.now() >= call.deadline
        ):
            # It obeyed the deadline: whichever Timeout set it answers for it.
            outcome.ongoing = OngoingWork(_over)
        return outcome

    def _set_cost(self, response: Any) -> None:
        """Book what a request really cost, by what its response says."""
        cost_of = self._rules.cost_of
        assert cost_of is not None
        if not isinstance(response.stream, self._client_library.in_memory):
            return
        # NB: a body of max_body bytes may be a thousand times as long decoded.
        whole = self._client_library.whole(response, self._request, self._room())
        costs: object = None if whole is None else cost_of(whole)
        if costs is None:
            return
        if not isinstance(costs, Mapping):
            raise TypeError(
                "`cost_of` must be a function of the response that returns a dict by"
                f" unit or None, got an object of {type(costs)}"
            )
        # NB: one body must not shut a limiter for a year.
        self.call.book(_amounts(costs), self.call.extras.max_retry_after)

    def _settle_turn(self, status: int, outcome: Outcome) -> None:
        """Hold other requests back whose server asked for less; or let them go."""
        call: Any = self.call
        extras = self.call.own_extras()
        turn: Turn | None = extras.turn
        extras.turn = None
        if status in SLOWED:
            wait = outcome.retry_after
            if wait and not call.routed:
                wait = min(wait, extras.max_retry_after)
                extras.paced = self._holds.push_back(self._request, call, wait, turn)
        elif turn is not None:
            turn.line.took(turn)

    def _lose_turn(self) -> None:
        extras = self.call.own_extras()
        if extras.turn is not None:
            turn, extras.turn = extras.turn, None
            turn.line.lost(turn)

    def _update_limiters(self, allowances: tuple[Allowance, ...]) -> None:
        """Tell the limiters that let it pass what the server still grants."""
        call = self.call
        for limiter in call.limiters or ():
            for unit, remaining, reset in allowances:
                if unit in limiter.units:
                    limiter.learn(
                        remaining,
                        reset,
                        unit,
                        max_hold=call.extras.max_retry_after,
                        origin=call.key,
                    )

    # -- A response that is not wanted

    async def discard(self) -> None:
        """Read what is left, if it is little, to keep the connection; close."""
        response, self.response, self._stream = self.response, None, None
        body = response.stream
        try:
            if self._is_short(response):
                reading.drain(body)
        finally:
            body.close()

    async def adiscard(self) -> None:
        """Read what is left, if it is little, to keep the connection; close."""
        response = self.response
        if self._is_short(response):
            await reading.adrain(response.stream)
        await self.adrop()

    def _is_short(self, response: Any) -> bool:
        length = length_of(body_fields(response))
        if length is None or length > reading.DRAINED:
            return False
        self._timeouts.deadline = clock.now() + reading.DRAIN_SECONDS
        return True

    def drop(self) -> None:
        """Close it, and give back what it held."""
        response, self.response = self.response, None
        try:
            response.stream.close()
        finally:
            self._end_stream()

    async def adrop(self) -> None:
        """Close it, and give back what it held."""
        response, self.response = self.response, None
        try:
            await reading.shut(response.stream)
        finally:
            self._end_stream()

    def abandon(self) -> None:
        """Give back what it held, where nothing can be awaited to close it."""
        self.response = None
        self._end_stream()

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.ongoing.finish(None)

    # -- The end

    def end(self) -> tuple[Any, Exception | None]:
        """Return the response of a call that is done, or its error.

        Raises:
            TypeError: A policy answered with something else than a response.
        """
        outcome, stream = self.outcome, self._stream
        assert outcome is not None
        error = outcome.error
        if error is not None and isinstance(
            error, self._client_library.module.TimeoutException
        ):
            error = self._cut_short(error)
        if stream is None:
            self.call.end(outcome)
            self._ended = True
        else:
            # It goes on until the body is read.
            self.call.count_end(outcome)
        if error is not None:
            try:
                return None, self._ours(error, outcome)
            finally:
                error = None
        response = outcome.value
        if response is None or response is not self.response:
            return self._replaced(response), None
        self.response = None
        failed = outcome.verdict is not SUCCESS
        if failed or self.sent > 1:
            response.extensions["resilient"] = Summary(
                self.sent,
                self.call.extras.stopped,
                outcome.retry_after if failed else None,
            )
        if stream is not None:
            self._stream, self._ended, self.outcome = None, True, None
            self._keep_pools(stream)
            response.stream = self._streamed(response, stream)
        return response, None

    def _cut_short(self, error: Exception) -> Exception:
        """Return our error for a client's that obeyed a deadline around the call.

        A `Timeout` has answered for its own already.
        """
        exceeded = None
        if not isinstance(error, ResilientError):
            exceeded = cut_short(self.call, clock.now())
        if exceeded is None:
            return error
        exceeded.__cause__ = error
        for note in getattr(error, "__notes__", ()):
            exceeded.add_note(note)
        return exceeded

    def _ours(self, error: Exception, outcome: Outcome) -> Exception:
        """Return an error as the client's, where it is one of ours."""
        outcome.discard()
        if outcome.ongoing is not None:
            outcome.ongoing.finish(outcome)
        return self._mirrored(error)

    def _mirrored(self, error: Exception) -> Exception:
        return self._client_library.as_clients(error, self._request)

    def _replaced(self, answer: object) -> object:
        """Return a policy's own answer, which a fallback gives."""
        library = self._client_library.module
        if not isinstance(answer, library.Response):
            raise TypeError(
                f"a policy answered {self.call.name!r} with an object of"
                f" {type(answer)}: a transport returns {library.__name__}.Response"
            )
        return answer

    def _stream_limit(self, response: Any) -> StreamLimit | None:
        """Return what bounds a body that streams: its silences, or the total."""
        idle: Any = self._own.get("resilient.stream_idle", _UNSTATED)
        if idle is _UNSTATED:
            if not is_live(body_fields(response)):
                total: StreamLimit | None = self.call.extras.stream_limit
                return total
            idle = self._rules.stream_idle
        else:
            idle = checked_idle("extensions['resilient.stream_idle']", idle)
        if idle == "attempt":
            idle = self._allowed
        return None if idle is None else IdleLimit(self.call.name, idle)

    def _keep_pools(self, stream: Stream) -> None:
        """Leave the pools when the body has ended, which is in a connection."""
        for leave_pool in self._leave_pools:
            stream.ongoing.add_release(_ignoring(leave_pool))
        self._leave_pools = []

    def _streamed(self, response: Any, stream: Stream) -> Body:
        """Return a body whose end is the call's."""
        body = response.stream
        stream.limit = limit = self._stream_limit(response)
        # The attempt is over; what is left is the whole call's.
        self._timeouts.deadline = math.inf if limit is None else limit.deadline
        timed_out = self._client_library.module.TimeoutException
        return self._client_library.body(
            body, stream, self._timeouts, timed_out, self._mirrored
        )

    def leave(self) -> None:
        """End the call."""
        self._lose_turn()
        # NB: it holds this exchange.
        self.call.fork = None
        for leave_pool in self._leave_pools:
            leave_pool()
        if not self._ended:
            if self.coroutine is not None:
                self.coroutine.close()
            self.call.end()
        if self._upload is not None and self._sent.stream is not self._upload:
            # A transport has read it, and put its bytes there.
            request, sent = self._request, self._sent
            request.__dict__.update(sent.__dict__ | _kept_by(request))


def copied(request: Any) -> Any:
    """Return a copy of a request, to be sent in its place."""
    kind: Any = request.__class__
    copy: Any = object.__new__(kind)
    copy.__dict__.update(request.__dict__)
    return copy


def _amounts(costs: Mapping[str, Any]) -> dict[str, float]:
    """Return the costs that are amounts: what a body says may be anything."""
    amounts: dict[str, float] = {}
    for unit, cost in costs.items():
        is_number = isinstance(cost, (int, float)) and not isinstance(cost, bool)
        if is_number and 0 <= cost <= LARGEST:
            amounts[unit] = float(cost)
        else:
            log_warning_once(
                "cost_of",
                "`cost_of` returned for a unit what is no amount >= 0, of type %s: such"
                " costs are not booked",
                type(cost).__name__,
            )
    return amounts


def _ignoring(function: Callable[[], None]) -> Callable[[Outcome | None], None]:
    return lambda outcome: function()


def _kept_by(request: Any) -> dict[str, Any]:
    """Return what a request keeps although a copy of it was read."""
    return {
        "extensions": request.extensions,
        "headers": request.headers,
        "url": request.url,
    }


async def _over() -> None:
    """End what has ended."""
