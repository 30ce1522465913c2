"""The WSGI application around an application.

Ground rules:

* Everything happens in the server's own thread. Nothing interrupts an application
  there: a limit in time is a deadline, which its own calls keep to.
* An attempt lasts until the first piece of the body, by when PEP 3333 has the
  application say its status. Permits are held until the server calls ``close``,
  which it does for clients that have gone, too.
* Status and headers reach the server with that first piece, so that an error
  of ours before it is answered as a rejection is.
"""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Sequence,
)
from contextvars import Token
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final, Literal, TypeAlias

from resilient._calls.call import Call, enter_call, forget_call, leave_call
from resilient._calls.outcome import FAILURE, Outcome, UnaskedOutcome
from resilient._calls.scopes import deadline_after
from resilient._edges.driver import Drive, failed
from resilient._edges.generators import Stream
from resilient._edges.steps import RUN
from resilient._errors.errors import ResilientError
from resilient._policy.policy import Policy
from resilient._runtimes.sync import SYNC
from resilient._server.answers import ANSWERED
from resilient._server.front import Front
from resilient._server.scopes import DeadlinePreset, address_key
from resilient._values.checks import plain
from resilient._values.priority import Priority, PriorityName

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Callable[[bytes], object]]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

_EXTENSION: Final = "resilient.admitted"


def remote_address(environ: Environ) -> str:
    """Return the address of a request's peer, for a limit of its own.

    As `resilient.asgi.peer_address` does: of IPv6 the /64, no header is read,
    and "local" where the server knows none.

    Args:
        environ: The WSGI environment.
    """
    return address_key(environ.get("REMOTE_ADDR"))


class ResilientMiddleware(Front[Environ]):
    """Put a WSGI application behind a pipeline: admit, limit, shed.

    For every framework and server that speaks WSGI, Flask and Django under
    gunicorn among them::

        app.wsgi_app = ResilientMiddleware(app.wsgi_app)

    A request that the pipeline rejects is answered without the application: 429,
    503 or 504, as by `resilient.asgi.ResilientMiddleware`. A slot is held until
    the server closes the response, its latency is that of the first piece.

    **Nothing interrupts an application here**: a limit in time is a deadline that
    waits, retries and transports inside keep to, and that your code can ask
    for by `remaining`. A stream is ended at the first piece after it.

    A middleware inside another one admits nothing and only shortens the
    deadline.

    Args:
        app: The application.
        pipeline: A `Pipeline` or policy; default `standard_server_pipeline`.
            It must not run requests again.
        client: ``client(environ)`` names the client that a `PerKey` of the
            pipeline is to limit. Default: `remote_address`.
        priority: ``priority(environ)`` says how important a request is; None is
            "normal". No header is read by default.
        deadline_header: A field in which callers say how much time they have
            left; see `resilient.asgi.ResilientMiddleware`.
        max_deadline: Seconds; a longer time in that field counts as this.
        min_deadline: Seconds; with less than this a request is answered 504.
        exempt: Paths that are never limited, as those of probes.
        rate_limit_headers: Whether a 429 carries ``RateLimit`` and
            ``RateLimit-Policy``.
        allow_origins: Origins whose pages may read our own answers.
        on_rejected: ``on_rejected(environ, error)`` is called for each error of
            ours before it is answered, and may return a WSGI application that
            answers in our place.

    Raises:
        TypeError, ValueError: An argument has no meaning.

    Source: PEP 3333.
    """

    _free = frozenset({"app"})

    def __init__(
        self,
        app: WSGIApp,
        pipeline: Policy[Any] | None = None,
        *,
        client: Callable[[Environ], Hashable] | None = None,
        priority: Callable[[Environ], PriorityName | Priority | None] | None = None,
        deadline_header: tuple[str, Literal["s", "ms"]] | DeadlinePreset | None = None,
        max_deadline: float | timedelta = 30.0,
        min_deadline: float | timedelta = 0.0,
        exempt: Collection[str] = ("/livez", "/readyz"),
        rate_limit_headers: bool = True,
        allow_origins: Sequence[str] = (),
        on_rejected: Callable[[Environ, ResilientError], WSGIApp | None] | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(f"`app` must be a WSGI application, got {app!r}")
        super().__init__(
            pipeline,
            "sync",
            client=client or remote_address,
            priority=priority,
            deadline_header=deadline_header,
            max_deadline=max_deadline,
            min_deadline=min_deadline,
            exempt=exempt,
            rate_limit_headers=rate_limit_headers,
            allow_origins=allow_origins,
        )
        self.app: WSGIApp = app
        self._on_rejected = (
            None if on_rejected is None else plain("on_rejected", on_rejected)
        )

    def __repr__(self) -> str:
        return f"ResilientMiddleware({self.app!r}, {self.pipeline!r})"

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Serve a request that the server passes on."""
        if environ.get("PATH_INFO", "") in self.exempt:
            return self.app(environ, start_response)
        seconds = self.seconds(_headers(environ))
        if _EXTENSION in environ:
            if seconds is None:
                return self.app(environ, start_response)
            with deadline_after(seconds):
                return self.app(environ, start_response)
        environ[_EXTENSION] = True
        call = self.call(environ, seconds, SYNC)
        response = _Response(call, self.app, environ, start_response)
        try:
            response.admit(self.pipeline)
        except ANSWERED as error:
            if response.is_told:
                # NB: there is never a second status.
                raise
            return self._refuse(error, environ)(environ, start_response)
        return response

    def _refuse(self, error: ResilientError, environ: Environ) -> WSGIApp:
        """Return what answers an error of ours."""
        if self._on_rejected is not None:
            answering = self._on_rejected(environ, error)
            if answering is not None:
                return answering
        answer = self.answer(error, _headers(environ))

        def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            status = f"{answer.status} {HTTPStatus(answer.status).phrase}"
            headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in answer.headers
            ]
            start_response(status, headers)
            return [answer.body]

        return app


class _Response(Stream):
    """A response: its body, and what is held until its end."""

    __slots__ = (
        "_app",
        "_chunks",
        "_environ",
        "_first",
        "_iterable",
        "_start_response",
        "_started",
        "_write",
    )

    def __init__(
        self, call: Call, app: WSGIApp, environ: Environ, start_response: StartResponse
    ) -> None:
        super().__init__(call)
        self._app = app
        self._environ = environ
        self._start_response = start_response
        # What the application said, until the server is told.
        self._started: tuple[Any, ...] | None = None
        self._write: Callable[[bytes], object] | None = None
        self._iterable: Any = None
        self._chunks: Iterator[bytes] = iter(())
        self._first: bytes | None = None

    @property
    def is_told(self) -> bool:
        """Whether the server was told status and headers."""
        return self._write is not None

    def admit(self, policy: Policy[Any]) -> None:
        """Run the application behind the policies, to its first piece.

        Raises:
            ResilientError: The application is not to answer, or raised it.
            BaseException: What the application raised.
        """
        call = self.call
        outcome: Outcome | None = None
        token: Token[Call | None] | None = None
        try:
            token = enter_call(call)
            drive = Drive(policy, call)
            standstill = drive.in_sync(drive.begin())
            while standstill is RUN:
                try:
                    outcome = self._run()
                except Exception as raised:
                    standstill = drive.send(failed(raised))
                except BaseException as unwinding:
                    standstill = drive.throw(unwinding)
                else:
                    outcome.ongoing = self.ongoing
                    standstill = drive.send(outcome)
                standstill = drive.in_sync(standstill)
            outcome, drive.outcome = drive.outcome, None
            assert outcome is not None
            if outcome.error is not None:
                raise outcome.error
            self.limit = call.extras.stream_limit
            self._tell()
        except BaseException as error:
            self.failed(error)
            self.close()
            raise
        finally:
            if token is None:
                forget_call(call)
            else:
                leave_call(token)
            # NB: an error's traceback holds this frame.
            outcome = None

    def _run(self) -> Outcome:
        self._iterable = self._app(self._environ, self._starting)
        self._chunks = iter(self._iterable)
        self._first = next(self._chunks, None)
        if self._started is None:
            # What the server makes of it is the server's.
            return UnaskedOutcome()
        outcome = Outcome(int(self._started[0][:3]))
        if outcome.value >= 500:
            outcome.verdict = FAILURE
        return outcome

    def _starting(
        self, status: str, headers: Any, *exc_info: Any
    ) -> Callable[[bytes], object]:
        """Take what the application says, in the place of the server."""
        if self._write is not None:
            # NB: the server raises, for the status is on its way.
            return self._start_response(status, headers, *exc_info)
        self._started = (status, headers, *exc_info)
        return self._writing

    def _writing(self, data: bytes) -> object:
        self._tell()
        assert self._write is not None
        return self._write(data)

    def _tell(self) -> None:
        if self._write is None and self._started is not None:
            self._write = self._start_response(*self._started)

    # -- The server's iteration

    def __iter__(self) -> _Response:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        if first is not None:
            return first
        try:
            with self:
                return next(self._chunks)
        except StopIteration:
            self.last = Outcome()
            raise
        except BaseException as error:
            self.failed(error)
            raise

    def close(self) -> None:
        """End it, whether the client has it all or is gone."""
        try:
            close = getattr(self._iterable, "close", None)
            if close is not None:
                close()
        finally:
            self.end()


def _headers(environ: Environ) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers of a request, names in lower case.

    A server joins what is sent twice by commas.
    """
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            name = key[5:].replace("_", "-").lower()
            yield name.encode("latin-1"), str(value).encode("latin-1", "replace")
