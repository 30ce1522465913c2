"""One request on its way through a pipeline, attempt by attempt.

Ground rules:

* A request is sent again only if nothing can come of it twice: its method is
  idempotent (see `semantics`), or it carries an ``Idempotency-Key``, or it
  certainly never left, or was refused; and its body can be sent again byte for
  byte. A `Retry` learns that from ``call.unrepeatable``.
* An outcome is judged here, where request and response are known.
* The caller's request stays as it came, but for its ``Idempotency-Key``: a
  request object is one operation, however often sent, also twice at once.

The module is long because an exchange is one state, that both colours drive:
what is read of methods, headers, errors and bytes stands in modules of its own.
"""

from __future__ import annotations

import functools
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, cast

import anyio
import attrs

from resilient._calls.call import Call, cut_short
from resilient._calls.outcome import SUCCESS, OngoingWork, Outcome, Verdict
from resilient._edges.driver import Drive
from resilient._edges.generators import Stream, StreamLimit
from resilient._errors.errors import ResilientError
from resilient._errors.tracebacks import strip
from resilient._http import faults, response_headers
from resilient._http.body import (
    UNLIMITED,
    Body,
    Chunks,
    IdleLimit,
    Rest,
    Timeouts,
    Upload,
    is_rewindable,
    leave,
)
from resilient._http.faults import Fault
from resilient._http.response_headers import Allowance
from resilient._http.routing import Pools, Routing, Target
from resilient._http.semantics import HEALTHY, REFUSED, UNAVAILABLE
from resilient._policy.policy import Policy
from resilient._runtimes import clock
from resilient._values.checks import seconds

RESEND_COUNT: Final = "http.request.resend_count"

_SWITCHING: Final = 101

_ERRORS: Final = 400
"""Statuses from which on what the headers say is read at once."""

_UNREAD: Final = object()

_DRAINED: Final = 65_536
_DRAIN_SECONDS: Final = 1.0
"""Bytes that are read to save a connection, and how long that may take: more
costs more than a new one."""


@attrs.frozen
class Family:
    """The classes of one family of clients.

    Attributes:
        library: The client library, for its public names.
        body: Our `Body`, as a stream of that library.
        upload: Our `Upload`, as a stream of that library.
        errors: Our errors, each with the one that is the library's too.
        chunks: Our `Chunks`, as a stream of that library.
        in_memory: The library's class of bodies that are in memory.
    """

    library: Any
    body: type[Body]
    upload: type[Upload]
    errors: dict[type[Exception], type[Exception]]
    chunks: type[Chunks]
    in_memory: Any = attrs.field(
        init=False, default=attrs.Factory(lambda it: it.library.ByteStream, True)
    )

    def mirror(self, kind: type[Exception]) -> type[Exception] | None:
        """Return the class of an error of ours that is the library's too.

        Of a class that a policy author derived from ours it is made here.
        """
        twin = self.errors.get(kind)
        if twin is None and not issubclass(kind, self.library.TransportError):
            base = next((one for one in kind.__mro__ if one in self.errors), None)
            if base is not None:
                names = {
                    "__module__": kind.__module__,
                    "__qualname__": kind.__qualname__,
                    "__doc__": kind.__doc__,
                    "__reduce__": _reduce_plain,
                }
                made = type(kind.__name__, (kind, self.errors[base]), names)
                twin = self.errors.setdefault(kind, made)
        return twin


@attrs.frozen
class Rules:
    """What a transport was told about requests; see its arguments.

    Attributes:
        family: Whose requests they are.
    """

    family: Family
    retry_unsafe: bool | Callable[[Any], bool]
    statuses: frozenset[int]
    methods: frozenset[str]
    idempotency_key: bool
    read_body: bool | str
    max_body: int
    stream_idle: float | str | None
    deadline_header: tuple[str, str] | None
    routing: Routing | None


class Summary(NamedTuple):
    """What was done for a response, in ``response.extensions["resilient"]``.

    It is there only where there is something to say: more than one attempt was
    made, or one that failed was the last.

    Attributes:
        attempts: How often the request was sent.
        stopped: Why it was not sent again, as in the note on an error:
            "attempts", "deadline", "retry_after too long", …; None: the
            response is a good one, or no `Retry` was asked.
        retry_after: Seconds after which the server wants to be asked again.
    """

    attempts: int
    stopped: str | None
    retry_after: float | None


class _Answer(Outcome):
    """A response, whose headers are read once it is asked when to come back."""

    __slots__ = ("_wait",)

    _wait: Any

    def __init__(self, response: Any) -> None:
        super().__init__(response)
        self._wait = _UNREAD

    @property
    def retry_after(self) -> float | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Seconds after which the server, or a predicate, wants it tried again."""
        if self._wait is _UNREAD and self.value is not None:
            raw = self.value.headers.raw
            self._wait = response_headers.read(raw, time.time()).retry_after
        wait: float | None = self._wait
        return wait

    @retry_after.setter
    def retry_after(self, seconds: float | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._wait = seconds


class _RequestCall(Call):
    """A call each of whose runs sends the same HTTP request."""

    # Every one of them has these, so they are no `_Seldom`.
    __slots__ = ("key", "limiters", "max_retry_after", "routed")

    key: Any  # pyright: ignore[reportIncompatibleVariableOverride]
    max_retry_after: Any  # pyright: ignore[reportIncompatibleVariableOverride]

    resends = True


_MAX_RETRY_AFTER: Final = 60.0
"""Seconds that a server may make others wait where no `Retry` limits it: the
default of one."""


@functools.lru_cache(maxsize=1024)
def _names(method: str, scheme: str, host: bytes, port: int | None) -> tuple[str, str]:
    """Return the name of a call, and its origin: hardly any client has many.

    NB: asked for a URL's `netloc`, a client spells it anew each time.
    """
    address = host.decode("ascii")
    if ":" in address:
        address = f"[{address}]"
    origin = f"{scheme}://{address}" if port is None else f"{scheme}://{address}:{port}"
    return f"{method} {origin}", origin


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
        "_ended",
        "_family",
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
        runtime: Any = None,
    ) -> None:
        url, method = request.url, request.method
        name, origin = _names(method, url.scheme, url.raw_host, url.port)
        call = _RequestCall(name, (request,), {}, runtime, origin, policy)
        call.limiters = []
        call.max_retry_after = _MAX_RETRY_AFTER
        routing = rules.routing
        call.routed = None if routing is None else routing.covers(url)
        super().__init__(policy, call)
        self.response: Any = None
        self.sent: int = 0
        self.target: Target | None = None
        # What counts it as no longer in the pools that its attempts were sent by.
        self._leave_pools: list[Callable[[], None]] = []
        # Whether the call has ended, or ends with the body that the caller has.
        self._ended = False
        self._family = family = rules.family
        self._rules = rules
        self._request = request
        self._own: dict[str, Any] = request.extensions
        self._stream: Stream | None = None
        self._safe = method in rules.methods or self._is_allowed()
        self._upload: Upload | None = None
        # NB: a request may be sent twice at once, so the caller's is not
        # changed and restored: each exchange sends a copy of its own.
        kind: Any = request.__class__
        self._sent: Any = object.__new__(kind)
        self._sent.__dict__.update(request.__dict__)
        body = request.stream
        if not isinstance(body, family.in_memory) and not is_rewindable(body):
            consumed = family.library.StreamConsumed
            self._upload = self._sent.stream = family.upload(body, consumed)
        if rules.deadline_header is not None:
            self._sent.headers = request.headers.copy()

    def _is_allowed(self) -> bool:
        headers = self._request.headers
        if "idempotency-key" in headers:
            return True
        if self._rules.idempotency_key:
            headers["Idempotency-Key"] = str(uuid.uuid4())
            return True
        allowed: object = self._own.get("resilient.retry_unsafe")
        if allowed is None:
            allowed = self._rules.retry_unsafe
            if not isinstance(allowed, bool):
                allowed = allowed(self._request)
        if not isinstance(allowed, bool):
            raise TypeError(
                "`retry_unsafe` must be True, False or a function of the request"
                f" that returns one of them, got {allowed!r}"
            )
        return allowed

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

    def enter_pool(self, pools: Pools, target: Target) -> Any:
        """Return the transport that sends the present attempt."""
        pool = pools.enter(target)
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
        fields = _fields(response)
        length = _length(fields)
        if length is None or length > self._rules.max_body:
            return False
        return not _is_live(fields)

    def _mode(self) -> bool | str:
        mode: bool | str = self._own.get("resilient.read_body", self._rules.read_body)
        return mode

    def read(self, response: Any) -> bool:
        """Read a body as part of the attempt.

        Returns:
            Whether it ended within `max_body`. If not the body is what was
            read and what is left, and streams.
        """
        body, deadline, room = response.stream, self.call.deadline, self._room()
        chunks = iter(body)
        parts: list[bytes] = []
        try:
            for chunk in chunks:
                if deadline is not None and clock.now() >= deadline:
                    raise self._too_late()
                parts.append(chunk)
                room -= len(chunk)
                if room < 0:
                    response.stream = Rest(parts, chunks, body)
                    return False
        except BaseException:
            body.close()
            raise
        body.close()
        response.stream = self._kept(parts)
        return True

    async def aread(self, response: Any) -> bool:
        """Read a body as part of the attempt; see `read`."""
        body, deadline, room = response.stream, self.call.deadline, self._room()
        chunks = aiter(body)
        parts: list[bytes] = []
        try:
            async for chunk in chunks:
                if deadline is not None and clock.now() >= deadline:
                    await leave(chunks)
                    raise self._too_late()
                parts.append(chunk)
                room -= len(chunk)
                if room < 0:
                    response.stream = Rest(parts, chunks, body)
                    return False
        except GeneratorExit:
            # Nothing can be awaited any more: the connection is lost.
            raise
        except BaseException:
            await _shut(body)
            raise
        if type(body).__module__.startswith(self._family.library.__name__):
            # NB: the client's own shields itself, and a scope around it costs
            # twice what it costs to read a short body.
            await body.aclose()
        else:
            await _shut(body)
        response.stream = self._kept(parts)
        return True

    def _room(self) -> float:
        """Return the bytes that may be read in the attempt.

        NB: what was announced is not what comes: a chunked body may have a
        Content-Length beside it (RFC 9112, 6.3).
        """
        return self._rules.max_body if self._mode() == "auto" else math.inf

    def _kept(self, parts: list[bytes]) -> Any:
        if len(parts) > 1:
            return self._family.chunks(parts)
        return self._family.in_memory(parts[0] if parts else b"")

    def _too_late(self) -> Exception:
        """Return the client's own error of a read that took too long."""
        text = "the time for the request is up"
        error: Exception = self._family.library.ReadTimeout(text, request=self._request)
        return error

    def stream(self, close: Callable[[], Awaitable[None]]) -> None:
        """Have the call last until the body is read, for it is not read here.

        Args:
            close: ``await close()`` closes it, should it not be the last.
        """
        self._stream = stream = Stream(self.call)
        stream.begin(close)

    def answered(self, response: Any) -> Outcome:
        """Make an outcome of a response, and judge it."""
        self.response = response
        call, outcome = self.call, _Answer(response)
        status: int = response.status_code
        said = None
        if status >= _ERRORS or call.limiters:
            said = response_headers.read(response.headers.raw, time.time())
            outcome.retry_after = said.retry_after
            self._update_limiters(said.allowances)
        refused = False
        if status in self._rules.statuses:
            refused = status in REFUSED
            pushes = refused or (
                status == UNAVAILABLE and outcome.retry_after is not None
            )
            outcome.verdict = Verdict.PUSHBACK if pushes else Verdict.FAILURE
            outcome.health = SUCCESS if status in HEALTHY else None
        wanted = None
        if status >= _ERRORS and said is not None:
            wanted = said.should_retry
            if wanted and outcome.verdict is SUCCESS:
                outcome.verdict, outcome.health = Verdict.FAILURE, SUCCESS
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
        call, library = self.call, self._family.library
        fault, sent = faults.facts(error, library, self._timeouts.head)
        strip(error)
        outcome = Outcome(None, error)
        if isinstance(error, ResilientError):
            # Of a transport or policy further in: judged as such.
            pass
        elif fault is Fault.LASTING:
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
                        max_hold=call.max_retry_after,
                        origin=call.key,
                    )

    # -- A response that is not wanted

    async def discard(self) -> None:
        """Read what is left, if it is little, to keep the connection; close."""
        response, self.response, self._stream = self.response, None, None
        body = response.stream
        try:
            if self._is_short(response):
                until = clock.now() + _DRAIN_SECONDS
                room = _DRAINED
                with suppress(Exception):
                    for chunk in body:
                        room -= len(chunk)
                        if room < 0 or clock.now() >= until:
                            break
        finally:
            body.close()

    async def adiscard(self) -> None:
        """Read what is left, if it is little, to keep the connection; close."""
        response = self.response
        if self._is_short(response):
            room, chunks = _DRAINED, aiter(response.stream)
            with anyio.move_on_after(_DRAIN_SECONDS), suppress(Exception):
                async for chunk in chunks:
                    room -= len(chunk)
                    if room < 0:
                        await leave(chunks)
                        break
        await self.adrop()

    def _is_short(self, response: Any) -> bool:
        length = _length(_fields(response))
        if length is None or length > _DRAINED:
            return False
        self._timeouts.deadline = clock.now() + _DRAIN_SECONDS
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
            await _shut(response.stream)
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
            error, self._family.library.TimeoutException
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
                self.sent, self.call.stopped, outcome.retry_after if failed else None
            )
        if stream is not None:
            self._stream, self._ended, self.outcome = None, True, None
            for leave_pool in self._leave_pools:
                # Its connection is in use until the body has ended.
                stream.ongoing.add_release(_ignoring(leave_pool))
            self._leave_pools = []
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
        twin = self._family.mirror(type(error))
        if twin is not None:
            # NB: the very object in another class, so that its traceback, notes
            # and cause stay, and a Retry further out knows it again.
            error.__class__ = twin
            error.request = self._request  # type: ignore[attr-defined]  # it has one now
        return error

    def _replaced(self, answer: object) -> object:
        """Return a policy's own answer, which a fallback gives."""
        library = self._family.library
        if not isinstance(answer, library.Response):
            raise TypeError(
                f"a policy answered {self.call.name!r} with an object of"
                f" {type(answer)}: a transport returns {library.__name__}.Response"
            )
        return answer

    def _stream_limit(self, response: Any) -> StreamLimit | None:
        """Return what bounds a body that streams: its silences, or the total."""
        idle: Any = self._own.get("resilient.stream_idle", _UNREAD)
        if idle is _UNREAD:
            if not _is_live(_fields(response)):
                total: StreamLimit | None = self.call.stream_limit
                return total
            idle = self._rules.stream_idle
        else:
            idle = checked_idle("extensions['resilient.stream_idle']", idle)
        if idle == "attempt":
            idle = self._allowed
        return None if idle is None else IdleLimit(self.call.name, idle)

    def _streamed(self, response: Any, stream: Stream) -> Body:
        """Return a body whose end is the call's."""
        body = response.stream
        stream.limit = limit = self._stream_limit(response)
        # The attempt is over; what is left is the whole call's.
        self._timeouts.deadline = math.inf if limit is None else limit.deadline
        timed_out = self._family.library.TimeoutException
        return self._family.body(
            body, stream, self._timeouts, timed_out, self._mirrored
        )

    def leave(self) -> None:
        """End the call."""
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


def _ignoring(function: Callable[[], None]) -> Callable[[Outcome | None], None]:
    return lambda outcome: function()


def _kept_by(request: Any) -> dict[str, Any]:
    """Return what a request keeps although a copy of it was read."""
    return {
        "extensions": request.extensions,
        "headers": request.headers,
        "url": request.url,
    }


def _reduce_plain(error: Exception) -> tuple[Any, ...]:
    """Pickle an error as what its author wrote: its twin has no address."""
    kind: Any = type(error).__mro__[1]
    return (kind, *kind.__reduce__(error)[1:])


_ABSURD: Final = 19
"""Digits of a length that no body has, and that take long to read."""


async def _over() -> None:
    """End what has ended."""


async def _shut(body: Any) -> None:
    """Close a body, whatever is cancelled meanwhile.

    NB: a connection whose closing is cut short is lost to its pool.
    """
    with anyio.CancelScope(shield=True):
        await body.aclose()


_READ: Final = frozenset({b"content-length", b"content-type", b"transfer-encoding"})


def _fields(response: Any) -> dict[bytes, bytes]:
    """Return what is read of a response's headers, by names in lower case.

    NB: clients search all of them, in Python, for each that they are asked for.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in response.headers.raw:
        name = name.lower()
        if name in _READ:
            known = fields.get(name)
            # NB: what is sent a thousand times must not be joined as often.
            if known is None:
                fields[name] = value
            elif len(known) < response_headers.LONGEST_FIELD:
                fields[name] = known + b", " + value
    return fields


_LIVE: Final = (
    b"text/event-stream",
    b"application/x-ndjson",
    b"application/ndjson",
    b"application/jsonl",
    b"application/x-jsonlines",
    b"application/json-seq",
)
"""Types of bodies that last as long as their server has something to say."""


def _is_live(fields: dict[bytes, bytes]) -> bool:
    return fields.get(b"content-type", b"").lower().startswith(_LIVE)


def checked_idle(parameter: str, idle: Any) -> float | str | None:
    """Return how long a live stream may be silent: seconds, or "attempt".

    Raises:
        TypeError, ValueError: It is neither, nor None.
    """
    if idle is None or idle == "attempt":
        return cast("str | None", idle)
    return seconds(parameter, idle, zero=False)


def _length(fields: dict[bytes, bytes]) -> int | None:
    if b"transfer-encoding" in fields:
        # It overrides a length (RFC 9112, 6.3).
        return None
    text = fields.get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) < _ABSURD else None
