"""A WSGI application behind a pipeline, called as a server calls it."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.validate import validator

import httpx
import pytest
from tests.colours import World, in_sync
from tests.garbage import no_garbage

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    CircuitOpenError,
    Pipeline,
    RateLimiter,
    ResilientError,
    Retry,
    Timeout,
    TimeoutExceededError,
    Verdict,
    remaining,
)
from resilient._runtimes import clock
from resilient._server.wsgi import Environ, StartResponse, WSGIApp
from resilient.wsgi import (
    ResilientMiddleware,
    remote_address,
    standard_server_pipeline,
)

MS = ("X-Request-Timeout-Ms", "ms")


def slots(limit: int) -> AdaptiveConcurrency:
    """A limit that stays what it is."""
    return AdaptiveConcurrency(AIMD(limit, maximum=limit))


class Visit:
    """One request, as a server makes it; the response is open until `close`."""

    def __init__(self, app: WSGIApp, path: str = "/", **environ: Any) -> None:
        self.environ: Environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "REMOTE_ADDR": "192.0.2.1",
            **environ,
        }
        self.started: list[tuple[Any, ...]] = []
        self.written: list[bytes] = []
        self.response = app(self.environ, self.start)

    def start(self, *said: Any) -> Callable[[bytes], object]:
        self.started.append(said)
        return self.written.append

    @property
    def status(self) -> int:
        ((status, *_),) = self.started
        return int(status[:3])

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.started[0][1])

    def close(self) -> None:
        close = getattr(self.response, "close", None)
        if close is not None:
            close()

    def body(self) -> bytes:
        """Read it to its end, and close."""
        try:
            return b"".join([*self.written, *self.response])
        finally:
            self.close()


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """An application that answers at once."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def tell_time(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """An application that answers with the seconds it has left."""
    start_response("200 OK", [])
    return [repr(remaining()).encode()]


@in_sync
async def test_a_slot_is_held_until_the_server_closes(w: World) -> None:
    """Also where the client has gone; and beyond the limit it is 503."""
    limit = slots(1)
    app = ResilientMiddleware(hello, Pipeline(limit))
    first = Visit(app)
    refused = Visit(app)

    assert (200, 503) == (first.status, refused.status)
    assert b"Service Unavailable\n" == refused.body()
    assert refused.headers["retry-after"] in {"1", "2", "3"}
    assert 1 == limit.in_flight
    first.close()
    assert 0 == limit.in_flight
    assert b"hello" == Visit(app).body()


@in_sync
async def test_generators_are_bounded_by_the_total_limit(w: World) -> None:
    """Their status is that of the first piece; a late step ends the response."""
    closed: list[float] = []

    def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            for piece in (b"one", b"two", b"three"):
                yield piece
                clock.sleep(2)
        finally:
            closed.append(w.now())

    limit = slots(1)
    visit = Visit(ResilientMiddleware(stream, Pipeline(Timeout(3), limit)))
    assert 200 == visit.status
    pieces: list[bytes] = []
    with pytest.raises(TimeoutExceededError):
        for piece in visit.response:
            pieces.append(piece)
            assert 1 == limit.in_flight
    visit.close()

    assert ([b"one", b"two", b"three"], 0) == (pieces, limit.in_flight)
    assert [4.0] == closed


@in_sync
async def test_each_client_has_a_limit_of_its_own(w: World) -> None:
    """By the address that the server knows; a forwarded one is not believed."""
    app = ResilientMiddleware(
        hello, standard_server_pipeline(per_client=lambda client: RateLimiter(1))
    )

    def status(host: str) -> int:
        visit = Visit(app, REMOTE_ADDR=host, HTTP_X_FORWARDED_FOR="203.0.113.9")
        visit.close()
        return visit.status

    assert [200, 429] == [status("192.0.2.1"), status("192.0.2.1")]
    assert [200, 429] == [status("2001:db8::1"), status("2001:db8::2")]
    assert "local" == remote_address({}) == remote_address({"REMOTE_ADDR": ""})


@in_sync
async def test_deadlines_arrive(w: World) -> None:
    """What cannot be read is ignored, and so is what was sent twice."""
    app = ResilientMiddleware(
        tell_time, Timeout(None), deadline_header=MS, min_deadline=0.1
    )

    def left(value: str) -> str:
        visit = Visit(app, HTTP_X_REQUEST_TIMEOUT_MS=value)
        body = visit.body().decode()
        return body if visit.status == 200 else str(visit.status)

    assert "1.5" == left("1500")
    assert "30.0" == left("9999999")
    for unread in ("-1", "1500,1500", "é", ""):
        assert "None" == left(unread)
    assert ["504", "504"] == [left("0"), left("99")]


@in_sync
async def test_an_inner_middleware_only_shortens_the_deadline(w: World) -> None:
    """It takes no second slot."""
    limit = slots(1)
    inner = ResilientMiddleware(
        tell_time, Pipeline(limit), deadline_header=MS, max_deadline=1
    )
    outer = ResilientMiddleware(inner, Pipeline(limit), deadline_header=MS)

    assert b"1.0" == Visit(outer, HTTP_X_REQUEST_TIMEOUT_MS="1500").body()
    assert b"None" == Visit(outer).body()


@in_sync
async def test_what_an_application_raises_goes_to_the_server(w: World) -> None:
    """Unchanged, before its first piece and after; the slot is back."""

    def broken(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        if environ["PATH_INFO"] == "/late":
            start_response("200 OK", [])
            yield b"one"
        if environ["PATH_INFO"] == "/interrupted":
            raise KeyboardInterrupt
        raise LookupError("bug")

    limit = slots(1)
    app = ResilientMiddleware(broken, Pipeline(Timeout(5), limit))
    with pytest.raises(LookupError, match="bug"):
        Visit(app)
    with pytest.raises(KeyboardInterrupt):
        Visit(app, "/interrupted")
    assert 0 == limit.in_flight
    with pytest.raises(LookupError, match="bug"):
        Visit(app, "/late").body()
    assert 0 == limit.in_flight


@in_sync
async def test_an_error_of_ours_is_answered_where_no_answer_began(w: World) -> None:
    """Though the application has said a status; not where it has written."""

    def rejected(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/written":
            write(b"half")
        raise CircuitOpenError("payments", 12.3)

    app = ResilientMiddleware(rejected, Timeout(5))
    visit = Visit(app, HTTP_ACCEPT="application/json")
    assert (503, "13") == (visit.status, visit.headers["retry-after"])
    assert b"Service Unavailable" in visit.body()
    with pytest.raises(CircuitOpenError):
        Visit(app, "/written")


@in_sync
async def test_an_application_may_write_and_start_anew(w: World) -> None:
    """As PEP 3333 has it: the server is told with the first piece."""

    def writes(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        write = start_response("500 Oops", [], (LookupError, LookupError(), None))
        write(b"one")
        if environ["PATH_INFO"] == "/again":
            start_response("501 No", [], (LookupError, LookupError(), None))
        return []

    app = ResilientMiddleware(writes, Timeout(5))
    visit = Visit(app)
    assert (500, b"one") == (visit.status, visit.body())
    again = Visit(app, "/again")
    assert ["500 Oops", "501 No"] == [said[0] for said in again.started]
    again.close()


@in_sync
async def test_an_application_may_return_without_a_status(w: World) -> None:
    """What the server makes of it is the server's."""
    visit = Visit(ResilientMiddleware(lambda environ, start: [], Timeout(5)))

    assert (b"", []) == (visit.body(), visit.started)


@in_sync
async def test_statuses_from_500_on_are_failures(w: World) -> None:
    """What is below is the client's fault, and a success."""
    verdicts: list[Any] = []

    def note(outcome: Any) -> Verdict:
        verdicts.append((outcome.value, outcome.verdict))
        return outcome.verdict

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(f"{environ['PATH_INFO'][1:]} X", [])
        return [b""]

    middleware = ResilientMiddleware(app, Pipeline(Timeout(1), classify=note))
    for status in (404, 503):
        Visit(middleware, f"/{status}").body()

    assert [(404, Verdict.SUCCESS), (503, Verdict.FAILURE)] == verdicts


@in_sync
async def test_paths_may_be_exempt_and_rejections_answered_otherwise(w: World) -> None:
    """As in front of an ASGI application."""

    def page(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("503 Busy", [])
        return [b"<h1>Busy</h1>"]

    def busy(environ: Environ, error: ResilientError) -> WSGIApp | None:
        return page if environ["PATH_INFO"] == "/page" else None

    app = ResilientMiddleware(
        hello,
        Pipeline(RateLimiter(1, per=60)),
        on_rejected=busy,
        priority=lambda environ: "batch",
    )
    bodies = [
        Visit(app, path).body() for path in ("/livez", "/", "/", "/page", "/livez")
    ]

    assert [
        b"hello",
        b"hello",
        b"Too Many Requests\n",
        b"<h1>Busy</h1>",
        b"hello",
    ] == bodies


@in_sync
async def test_nothing_is_left_to_the_collector(w: World) -> None:
    """Neither of a request that fails nor of one that is refused."""

    def broken(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        raise LookupError("bug")

    for app in (
        ResilientMiddleware(hello, Timeout(5)),
        ResilientMiddleware(broken, Timeout(5)),
        ResilientMiddleware(hello, RateLimiter(1, per=3600)),
    ):

        def visit(app: WSGIApp = app) -> None:
            try:
                response = app({"PATH_INFO": "/"}, lambda *said: bytes)
                list(response)
                getattr(response, "close", bool)()
            except LookupError:
                pass

        visit()
        with no_garbage():
            visit()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"app": None}, "`app` must be a WSGI application, got None"),
        ({"pipeline": Retry(OSError)}, "has no meaning in front of an application"),
        ({"exempt": "/livez"}, "`exempt` must be a list of strings, got '/livez'"),
        ({"client": 7}, "`client` must be"),
        ({"on_rejected": 7}, "`on_rejected` must be"),
    ],
)
def test_arguments_without_a_meaning_are_refused(
    arguments: dict[str, Any], text: str
) -> None:
    """When it is built, and by name."""
    with pytest.raises(TypeError, match=text):
        ResilientMiddleware(**{"app": hello, **arguments})


def test_a_middleware_shows_what_it_is() -> None:
    """The application and the pipeline."""
    app = ResilientMiddleware(hello, Timeout(1))

    assert repr(app).startswith("ResilientMiddleware(<function hello")
    assert repr(app).endswith("Timeout(1.0))")


class _Threaded(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def served(app: WSGIApp) -> Iterator[str]:
    """Serve an application on a real port, in threads."""
    checked: Any = validator(app)  # type: ignore[arg-type]  # ours is wider
    server = make_server("127.0.0.1", 0, checked, _Threaded, _Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.real
def test_a_real_server_is_protected() -> None:
    """By the letter of PEP 3333, which a validator looks at."""
    entered, leave = threading.Semaphore(0), threading.Event()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/slow":
            entered.release()
            leave.wait(30)
        return iter([b"a", b"b"])

    limit = slots(2)
    with served(ResilientMiddleware(app, Pipeline(limit))) as url:
        with httpx.Client(base_url=url, timeout=30) as client:
            results: list[int] = []

            def ask() -> None:
                with httpx.Client(base_url=url, timeout=30) as other:
                    results.append(other.get("/slow").status_code)

            threads = [threading.Thread(target=ask) for _ in range(2)]
            for thread in threads:
                thread.start()
                assert entered.acquire(timeout=30)
            assert 503 == client.get("/").status_code
            leave.set()
            for thread in threads:
                thread.join()
            assert [200, 200] == results
            assert b"ab" == client.get("/").content
