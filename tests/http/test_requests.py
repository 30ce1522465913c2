"""The adapter for requests, against a server that misbehaves and by itself."""

from __future__ import annotations

import copy
import gzip
import io
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import urllib3
from requests import exceptions
from tests.loopback import FAULTS, Act, Head, Server, answer
from urllib3 import exceptions as causes

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    Fallback,
    Policy,
    ResilientWarning,
    Retry,
    Timeout,
    Verdict,
    constant,
    deadline_after,
)
from resilient._http import faults, requests_client
from resilient._http.faults import Fault
from resilient.requests import (
    CircuitOpenError,
    DeadlineExceededError,
    RateLimitedError,
    RejectedError,
    ResilientAdapter,
    TimeoutExceededError,
    http_verdict,
)

BODY = bytes(range(256)) * 40

real = pytest.mark.real


def pipeline(*inside: Policy[Any], total: float | None = 30.0) -> Policy[Any]:
    """Make a pipeline that loses no time between attempts."""
    retry = Retry(attempts=3, backoff=constant(0), budget=None)
    return resilient.Pipeline(Timeout(total), retry, *inside, classify=http_verdict)


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a server for a test."""
    with Server() as server:
        yield server


Mount = Callable[..., requests.Session]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Make a session whose requests go through an adapter."""
    sessions: list[requests.Session] = []

    def mount(*args: Any, **kw: Any) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, ResilientAdapter(*args, **kw))
        sessions.append(session)
        return session

    yield mount
    for session in sessions:
        session.close()


# -- What is sent again


@real
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_mended(server: Server, mount: Mount, fault: Any) -> None:
    """Whatever it is, the next attempt answers, over the same connection or not."""
    server.script("/", fault, answer(200, body=b"well"))
    response = mount(pipeline()).get(server.url)
    assert (200, b"well", 2) == (
        response.status_code,
        response.content,
        server.hits["/"],
    )
    summary: Any = response.extensions["resilient"]  # type: ignore[attr-defined]  # ours
    assert (2, None, None) == summary


@real
def test_what_may_have_been_done_is_not_sent_again(
    server: Server, mount: Mount
) -> None:
    """A POST after 503 is not; with a key, after a refusal or by request it is."""
    for path in ("/plain", "/key", "/asked"):
        server.script(path, answer(503), answer(200))
    server.script("/refused", answer(429), answer(200))
    session = mount(pipeline(), retry_unsafe=lambda sent: sent.path_url == "/asked")
    response = session.post(server.url + "/plain", data=b"x")
    assert 503 == response.status_code
    summary: Any = response.extensions["resilient"]  # type: ignore[attr-defined]  # ours
    assert (1, "POST is not idempotent", None) == summary
    for path, headers in (("/key", {"Idempotency-Key": "1"}), ("/asked", {})):
        response = session.post(server.url + path, data=b"x", headers=headers)
        assert (200, 2) == (response.status_code, server.hits[path])
    assert 200 == session.post(server.url + "/refused", data=b"x").status_code


@real
def test_what_never_left_is_sent_again(server: Server, mount: Mount) -> None:
    """The last error is requests' own, with a note."""
    with pytest.raises(requests.ConnectionError) as caught:
        mount(pipeline()).post(server.refused_url, data=b"x")
    assert requests.ConnectionError is type(caught.value)
    assert caught.value.__notes__[0].startswith("resilient: 3 attempts in ")


@real
def test_every_attempt_has_one_key(server: Server, mount: Mount) -> None:
    """It is made once, and the request of the caller has it afterwards."""
    server.script("/", answer(503), answer(200))
    response = mount(pipeline(), idempotency_key=True).post(server.url, data=b"x")
    keys = {request.headers["idempotency-key"] for request in server.requests}
    assert {response.request.headers["Idempotency-Key"]} == keys
    assert 2 == server.hits["/"]


@real
def test_a_body_is_replayed_byte_for_byte(server: Server, mount: Mount) -> None:
    """Bytes, text, forms and files that seek, from where they began."""
    server.script("/", *[answer(503), answer(200)] * 4)
    session = mount(pipeline())
    file = io.BytesIO(b"skipped" + BODY)
    file.seek(7)
    for body in (BODY, "ähnlich", {"a": "b"}, file):
        session.put(server.url, data=body)
    bodies = [bytes(request.body) for request in server.requests]
    assert [BODY, "ähnlich".encode(), b"a=b", BODY] == bodies[::2] == bodies[1::2]


@real
def test_a_stream_is_sent_once_and_whole(server: Server, mount: Mount) -> None:
    """A generator, or a file that cannot seek; sent, it is not sent again."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError("a pipe")

    server.script("/", answer(503))
    session = mount(pipeline())
    for body in (iter([BODY, BODY]), Pipe(BODY + BODY)):
        response = session.put(server.url, data=body)
        assert (503, BODY * 2) == (
            response.status_code,
            bytes(server.requests[-1].body),
        )
        summary: Any = response.extensions["resilient"]  # type: ignore[attr-defined]  # ours
        assert (1, "its body can be sent only once") == summary[:2]
    # Unless none of it was read.
    with pytest.raises(requests.ConnectionError) as caught:
        session.put(server.refused_url, data=iter([BODY]))
    assert caught.value.__notes__[0].startswith("resilient: 3 attempts in ")


@real
def test_one_prepared_request_may_be_sent_twice_at_once(
    server: Server, mount: Mount
) -> None:
    """It comes back as it came."""
    gate = server.gate()
    server.script("/", [gate, *answer()])
    session = mount(pipeline(), deadline_header=("X-Left", "ms"))
    request = session.prepare_request(requests.Request("PUT", server.url, data=BODY))
    before = dict(vars(request), headers=dict(request.headers))
    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(session.send, request) for _ in range(2)]
        server.wait_for(lambda: gate.waiting == 2)
        gate.open()
        assert [200, 200] == [one.result().status_code for one in sent]
    assert before == dict(vars(request), headers=dict(request.headers))
    assert sent[0].result().request is request
    for arrived in server.requests:
        assert (BODY, True) == (bytes(arrived.body), arrived.complete)
        assert 0 < int(arrived.headers["x-left"]) <= 30_000


@real
def test_a_head_that_could_not_be_written_reached_no_server(
    server: Server, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A POST on a kept-alive connection that died is sent again."""
    session = mount(pipeline())
    session.get(server.url)

    def broken(self: Any, data: bytes) -> None:
        monkeypatch.undo()
        self._inner.shutdown(socket.SHUT_RDWR)
        self.about_to_write(bytes(data), self._timeout)
        raise BrokenPipeError

    monkeypatch.setattr(requests_client.Socket, "sendall", broken)
    assert 200 == session.post(server.url, data=b"x").status_code
    assert 2 == server.hits["/"]


# -- Responses


@real
def test_a_response_is_what_a_bare_session_returns(
    server: Server, mount: Mount
) -> None:
    """Compressed or not, with cookies, redirects and history, or no body."""
    zipped = gzip.compress(BODY)
    encoding = {"content-encoding": "gzip"}
    server.script("/gzip", answer(200, encoding, zipped))
    server.script("/chunked", [Head(200, encoding), zipped[:99], zipped[99:]])
    server.script(
        "/cookie",
        answer(503, {"set-cookie": "a=1"}),
        answer(200, {"set-cookie": "b=2"}),
    )
    server.script(
        "/moved", answer(302, {"location": "/gzip", "set-cookie": "c=3"}, b"-")
    )
    server.script("/none", answer(204))
    session, bare = mount(pipeline()), requests.Session()
    bare.trust_env = False
    session.get(server.url + "/cookie")
    assert {"b": "2"} == session.cookies.get_dict()
    session.cookies.clear()
    with bare:
        for path in ("/gzip", "/chunked", "/moved", "/none"):
            for method in ("GET", "HEAD"):
                for stream in (False, True):
                    ours, theirs = (
                        one.request(method, server.url + path, stream=stream)
                        for one in (session, bare)
                    )
                    assert ours.content == theirs.content
                    for name in ("status_code", "reason", "url", "encoding"):
                        assert getattr(ours, name) == getattr(theirs, name)
                    assert ours.headers == theirs.headers
                    assert len(ours.history) == len(theirs.history)
                    assert ours.cookies.get_dict() == theirs.cookies.get_dict()
                    assert session.cookies.get_dict() == bare.cookies.get_dict()
    assert 2 >= server.open_connections


@real
def test_a_body_streams_as_it_comes(server: Server, mount: Mount) -> None:
    """In the chunks in which it came, by each way of reading; then the call ends."""
    gate = server.gate()
    server.script("/", [Head(200), b"one\n", gate, b"two\n"])
    bulkhead = Bulkhead(1)
    session = mount(pipeline(bulkhead))
    ways: list[Callable[[requests.Response], Iterator[bytes]]] = [
        lambda response: response.iter_content(None),
        lambda response: response.iter_lines(),
        lambda response: response.raw.stream(),
        lambda response: response.raw.read_chunked(),
    ]
    for way in ways:
        with session.get(server.url, stream=True) as response:
            chunks = way(response)
            assert b"one" == next(chunks).strip()
            assert 1 == bulkhead.in_use
            gate.let_one_pass()
            assert [b"two"] == [chunk.strip() for chunk in chunks]
            assert 0 == bulkhead.in_use
    server.script("/", [Head(200, {"content-length": "4"}), b"all\n"])
    reads: list[Callable[[Any], bytes]] = [
        lambda raw: raw.read(),
        lambda raw: raw.read1() + raw.read1() + raw.read(),
    ]
    session = mount(pipeline(bulkhead), read_body=False)
    for read in reads:
        response = session.get(server.url, stream=True)
        assert b"all\n" == read(response.raw)
        response.close()
        assert 0 == bulkhead.in_use
    assert 2 >= server.open_connections


@real
def test_a_stream_that_is_not_read_gives_back_what_it_held(
    server: Server, mount: Mount
) -> None:
    """Closed early, or broken off, which is requests' own error."""
    server.script("/", [Head(200), b"half", Act.CLOSE])
    bulkhead = Bulkhead(1)
    session = mount(pipeline(bulkhead))
    with session.get(server.url, stream=True):
        assert 1 == bulkhead.in_use
    assert 0 == bulkhead.in_use
    with pytest.raises(exceptions.ChunkedEncodingError):
        session.get(server.url)
    assert (0, 2) == (bulkhead.in_use, server.hits["/"])


@real
@pytest.mark.parametrize("length", [None, "9"])
def test_a_body_that_outlasts_a_deadline_around_is_an_overrun(
    server: Server, mount: Mount, length: str | None
) -> None:
    """urllib3 gives the connection back first, which is not the end of the call."""
    gate = server.gate()
    headers = {} if length is None else {"content-length": length}
    server.script("/", [Head(200, headers), b"half", gate])
    bulkhead = Bulkhead(1)
    session = mount(pipeline(bulkhead), read_body=False)
    with deadline_after(0.5):
        response = session.get(server.url, stream=True)
        with pytest.raises(TimeoutExceededError, match=r"of 0\.5 s exceeded") as caught:
            _ = response.content
    assert isinstance(caught.value, requests.Timeout)
    assert 0 == bulkhead.in_use
    gate.open()


@real
def test_a_body_that_is_read_in_its_attempt_fails_with_it(
    server: Server, mount: Mount
) -> None:
    """As a broken, a stalled or a garbled one does; the last is the caller's."""
    gate = server.gate()
    server.script("/broken", [Head(200), b"half", Act.CLOSE])
    server.script("/stalled", [Head(200), b"half", gate])
    session = mount(pipeline(), read_body=True)
    with pytest.raises(exceptions.ChunkedEncodingError):
        session.get(server.url + "/broken")
    with pytest.raises(requests.ConnectionError, match="Read timed out"):
        session.get(server.url + "/stalled", timeout=0.1)
    assert {"/broken": 3, "/stalled": 3} == dict(server.hits)
    gate.open()

    class Garbled:
        raw: Any = None

        def close(self) -> None:
            """Do nothing."""

    def stream(*args: Any, **kw: Any) -> Iterator[bytes]:
        raise causes.DecodeError("garbled")
        yield b""

    garbled: Any = Garbled()
    garbled.raw = type("Raw", (), {"stream": stream})()
    with pytest.raises(requests.ConnectionError, match="garbled"):
        list(requests_client.Wire(garbled))


@real
def test_what_a_request_cost_is_booked(server: Server, mount: Mount) -> None:
    """The function reads a response of its own."""
    server.script("/", answer(200, body=b'{"tokens": 60}'))
    limiter = resilient.RateLimiter(
        limits=[resilient.Limit(100, per=3600, unit="tokens")], cost={"tokens": 10}
    )
    session = mount(pipeline(limiter), cost_of=lambda response: dict(response.json()))
    response = session.get(server.url, stream=True)
    assert b'{"tokens": 60}' == response.raw.read()
    assert 40 == round(limiter.available("tokens"))


@real
@pytest.mark.parametrize(("said", "left"), [("1e15", -2), ("true", 90), ("-1", 90)])
def test_what_a_body_says_is_bounded(
    server: Server, mount: Mount, said: str, left: int
) -> None:
    """A debt is paid within a minute; what is no amount is not booked."""
    server.script("/", answer(200, body=f'{{"tokens": {said}}}'.encode()))
    limiter = resilient.RateLimiter(
        limits=[resilient.Limit(100, per=3600, unit="tokens")], cost={"tokens": 10}
    )
    session = mount(pipeline(limiter), cost_of=lambda response: dict(response.json()))
    assert 200 == session.get(server.url).status_code
    assert left == round(limiter.available("tokens"))


@real
@pytest.mark.parametrize("size", [40, 3_000_000, None])
def test_a_cost_is_not_asked_of_what_decodes_to_too_much(
    server: Server, mount: Mount, size: int | None
) -> None:
    """Nor of what cannot be decoded, which the caller is told."""
    body = b" " * (size or 40) + b'{"tokens": 60}'
    wire = gzip.compress(body)[9 if size is None else 0 :]
    server.script("/", answer(200, {"content-encoding": "gzip"}, wire))
    asked = []

    def cost_of(response: requests.Response) -> dict[str, float]:
        asked.append(response)
        return dict(response.json())

    limits = [resilient.Limit(100, per=3600, unit="tokens")]
    limiter = resilient.RateLimiter(limits=limits, cost={"tokens": 10})
    response = mount(pipeline(limiter), cost_of=cost_of).get(server.url, stream=True)
    if size is None:
        with pytest.raises(exceptions.ContentDecodingError):
            _ = response.content
    else:
        assert body == response.content
    assert (size == 40) == bool(asked)


@real
def test_a_policy_may_answer_in_a_servers_place(server: Server, mount: Mount) -> None:
    """With a response of requests' own, and nothing else."""
    server.script("/", answer(503))
    stale = requests.Response()
    stale.status_code = 299
    fallback = resilient.Pipeline(
        Fallback(function=lambda error: stale), classify=http_verdict
    )
    assert stale is mount(fallback).get(server.url)
    wrong = resilient.Pipeline(Fallback("stale"), classify=http_verdict)
    with pytest.raises(TypeError, match=r"a transport returns requests\.Response$"):
        mount(wrong).get(server.url)


# -- Time


@real
def test_an_attempt_may_take_what_the_caller_states(
    server: Server, mount: Mount
) -> None:
    """By one number, a pair or an object; the error is ours and requests' own."""
    gate = server.gate()
    server.script("/", [gate, *answer()])
    session = mount()
    for timeout in (0.1, (5, 0.1), urllib3.Timeout(connect=5, read=0.1)):
        with pytest.raises(requests.Timeout) as caught:
            session.get(server.url, timeout=timeout)  # type: ignore[arg-type]  # stubs name two of three
        assert caught.value.__notes__[0].startswith("resilient: ")
        session = mount()
    gate.open()


@real
@pytest.mark.parametrize("where", ["head", "body", "stream", "write"])
def test_a_total_holds_however_slowly_bytes_come(
    server: Server, mount: Mount, where: str
) -> None:
    """Each read is given what is left; ``deadline_after`` says the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def drip() -> None:
            while not ended.is_set():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if where in ("body", "stream"):
                        length = b"" if where == "body" else b"9"
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 100"
                            + length
                            + b"\r\n\r\n"
                        )
                    while where != "write" and not ended.wait(0.02):
                        try:
                            connection.sendall(b"H" if where == "head" else b"x")
                        except OSError:
                            break
                    ended.wait(0.5)

        thread = threading.Thread(target=drip)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        data = b"x" * 20_000_000 if where == "write" else None
        session = mount(pipeline(total=0.3), read_body=where == "body")
        try:
            with pytest.raises(TimeoutExceededError) as caught:
                session.put(url, data=data)
            assert isinstance(caught.value, requests.ReadTimeout)
            assert url == caught.value.request.url
            with deadline_after(0.3), pytest.raises(requests.Timeout):
                mount(pipeline(total=None)).put(url, data=data)
        finally:
            ended.set()
            with socket.create_connection(listener.getsockname()):
                pass
            thread.join()


@real
def test_a_live_stream_has_an_idle_limit(server: Server, mount: Mount) -> None:
    """The total ends with the headers; silence is ours to end, and requests'."""
    gate = server.gate()
    event = {"content-type": "text/event-stream"}
    server.script("/", [Head(200, event), b"data: 1\n\n", gate, b"data: 2\n\n", gate])
    session = mount(pipeline(total=0.5), stream_idle=0.3)
    with session.get(server.url, stream=True) as response:
        chunks = response.iter_content(None)
        assert b"data: 1\n\n" == next(chunks)
        gate.let_one_pass()
        assert b"data: 2\n\n" == next(chunks)
        with pytest.raises(TimeoutExceededError) as caught:
            next(chunks)
        assert isinstance(caught.value, requests.ReadTimeout)
    gate.open()


@real
def test_a_timeout_of_the_callers_own_is_requests(server: Server, mount: Mount) -> None:
    """While a body streams, and no limit of ours was near."""
    gate = server.gate()
    server.script("/", [Head(200), b"half", gate])
    session = mount(pipeline())
    with session.get(server.url, stream=True, timeout=0.2) as response:
        with pytest.raises(requests.ConnectionError, match="Read timed out"):
            response.content  # read by its property
    gate.open()


# -- Policies


@real
def test_each_origin_has_a_circuit_and_rejections_are_requests_own(
    server: Server, mount: Mount
) -> None:
    """One that is dead is rejected; the other is served."""
    with pytest.warns(ResilientWarning, match="max_retries=1 has urllib3 send each"):
        adapter = ResilientAdapter(max_retries=1)
    adapter.close()
    broken = resilient.requests.per_origin(
        lambda origin: CircuitBreaker(consecutive_failures=1, name=origin)
    )
    session = mount(resilient.Pipeline(broken, classify=http_verdict))
    with pytest.raises(requests.ConnectionError):
        session.get(server.refused_url)
    with pytest.raises(CircuitOpenError, match="is open") as caught:
        session.get(server.refused_url)
    error = caught.value
    assert isinstance(error, requests.ConnectionError)
    assert (server.refused_url + "/", None) == (error.request.url, error.response)
    again = pickle.loads(pickle.dumps(error))
    assert (type(error), str(error)) == (type(again), str(again))
    assert 200 == session.get(server.url).status_code


@real
def test_a_server_that_asks_for_less_holds_the_others_back(
    server: Server, mount: Mount
) -> None:
    """Of the same credentials; ``hold_by`` says otherwise."""
    server.script("/", answer(429, {"retry-after": "30"}), answer(200))
    session = mount(pipeline(total=0.5))
    assert 429 == session.get(server.url).status_code
    with pytest.raises(RateLimitedError) as caught:
        session.get(server.url)
    assert 29 < (caught.value.retry_after or 0) <= 30
    assert 200 == session.get(server.url, headers={"x-api-key": "ü"}).status_code
    server.script("/", answer(429, {"retry-after": "30"}), answer(200))
    session = mount(pipeline(), hold_by=lambda request: request.headers.get("tenant"))
    assert 429 == session.get(server.url, headers={"tenant": "1"}).status_code
    assert 200 == session.get(server.url, headers={"tenant": "2"}).status_code


@real
def test_what_is_more_important_than_a_refused_request_is_not_held(
    server: Server, mount: Mount
) -> None:
    """A server that sheds batch work still takes the rest."""
    server.script("/", answer(503, {"retry-after": "30"}), answer(200))
    session = mount(pipeline(total=0.5))
    with resilient.priority("batch"):
        assert 503 == session.get(server.url).status_code
        with pytest.raises(RateLimitedError):
            session.get(server.url)
    assert 200 == session.get(server.url).status_code


def test_no_time_is_left_to_begin(mount: Mount) -> None:
    """That is a timeout of requests', too."""
    with deadline_after(1e-9), pytest.raises(DeadlineExceededError) as caught:
        mount(pipeline()).get("http://api.test/")
    assert isinstance(caught.value, requests.Timeout)


def test_an_error_that_no_client_has_stays_as_it_is(mount: Mount) -> None:
    """A policy's own bug is not turned into requests' error."""

    class Refuses(resilient.Policy[Any]):
        def __init__(self, error: Exception) -> None:
            super().__init__(name=None)
            self.error = error

        async def around(self, proceed: Any, call: Any) -> Any:
            return resilient.Outcome(None, self.error)

    class MyError(resilient.RejectedError):
        """A rejection of the user's own."""

    with pytest.raises(LookupError):
        mount(resilient.Pipeline(Refuses(LookupError()))).get("http://api.test/")
    with pytest.raises(MyError) as caught:
        mount(resilient.Pipeline(Refuses(MyError("mine")))).get("http://api.test/")
    assert isinstance(caught.value, RejectedError)


def test_what_is_no_request_is_refused_once(mount: Mount) -> None:
    """A scheme, a URL or a header that time will not mend."""
    session = mount(pipeline())
    adapter = session.get_adapter("http://")
    for url, kind in (("http://", exceptions.InvalidURL), ("http://[1]/", Exception)):
        with pytest.raises(kind):
            session.get(url)
    request = requests.Request("GET", "http://api.test/").prepare()
    request.headers["bad\n"] = "x"
    with pytest.raises(Exception) as caught:  # by the version of urllib3
        adapter.send(request)
    assert caught.value.__notes__[0].startswith("resilient: 1 attempt in ")


def test_an_adapter_shows_and_keeps_its_pipeline() -> None:
    """It can be neither pickled nor copied, and checks its arguments."""
    policy = pipeline()
    with_policy = ResilientAdapter(policy)
    assert policy is with_policy.pipeline
    assert f"ResilientAdapter({policy!r})" == repr(with_policy)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"^a ResilientAdapter cannot"):
            copied(with_policy)  # type: ignore[operator]  # each takes one object
    with pytest.raises(TypeError, match="`hold_by` must be a plain function"):

        async def by(request: Any) -> str:
            return ""

        ResilientAdapter(hold_by=by)  # type: ignore[arg-type]  # refused
    with pytest.raises(TypeError, match="`retry_unsafe` must be"):
        ResilientAdapter(retry_unsafe="yes")  # type: ignore[arg-type]  # refused


def test_pools_of_proxies_measure_their_time_too() -> None:
    """Made once for each, and their connections are like a session's own."""
    adapter = ResilientAdapter()
    manager = adapter.proxy_manager_for("http://proxy.test:3128")
    kinds = dict(manager.pool_classes_by_scheme)
    assert manager is adapter.proxy_manager_for("http://proxy.test:3128")
    assert kinds == manager.pool_classes_by_scheme
    assert kinds == adapter.poolmanager.pool_classes_by_scheme
    adapter.close()


# -- Whose fault an error is

POOL: Any = None
CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed")


def caused(error: Exception, cause: BaseException | None) -> Exception:
    """Return an error with its cause."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "fault", "sent"),
    [
        (causes.NewConnectionError(POOL, "refused"), Fault.SERVERS, False),
        (causes.ConnectTimeoutError(POOL, "late"), Fault.SERVERS, False),
        (
            caused(causes.NewConnectionError(POOL, "full"), OSError(24, "files")),
            Fault.OURS,
            False,
        ),
        (causes.EmptyPoolError(POOL, "full"), Fault.OURS, False),
        (causes.SSLError(CERTIFICATE), Fault.TLS, True),
        (causes.ProtocolError("aborted", ConnectionResetError()), Fault.SERVERS, True),
    ],
)
def test_a_failure_is_judged_by_its_cause(
    error: Exception, fault: Fault, sent: bool
) -> None:
    """Requests has one class for nearly all of them."""
    library = requests_client.client_library({}).module
    retried = causes.MaxRetryError(POOL, "/", error)
    retried.__cause__ = error
    outer = requests.ConnectionError(retried)
    assert (fault, sent) == faults.facts(outer, library, None)


@pytest.mark.parametrize(
    ("status", "fault"), [(407, Fault.LASTING), (502, Fault.SERVERS)]
)
def test_a_proxy_that_refuses_is_asked_once(status: int, fault: Fault) -> None:
    """What else it says may pass."""
    library = requests_client.client_library({}).module
    said = OSError(f"Tunnel connection failed: {status} No")
    error = causes.ProxyError("Unable to connect to proxy", said)
    outer = exceptions.ProxyError(caused(causes.MaxRetryError(POOL, "/", error), error))
    assert (fault, False) == faults.facts(outer, library, None)


def test_a_body_that_outlasts_its_attempt_is_a_timeout() -> None:
    """Between two chunks, each of which came in time; its error is requests'."""
    request = requests_client.Request(
        requests.Request("GET", "http://api.test/").prepare(), None, {}
    )
    library = requests_client.client_library({}).module
    error = library.ReadTimeout("too late", request=request)
    assert isinstance(error, requests.ConnectionError)
    assert isinstance(error, library.TimeoutException)
    assert request.original is error.request
    assert None is request.headers.get("range")


def test_a_verdict_is_the_transports(mount: Mount) -> None:
    """A predicate of a user's own sees responses of requests' own."""
    seen: list[Any] = []

    def classify(outcome: resilient.Outcome) -> Verdict:
        seen.append(type(outcome.value))
        return http_verdict(outcome)

    with Server() as server:
        server.script("/", answer(503), answer(200))
        policy = resilient.Pipeline(
            Retry(attempts=2, backoff=constant(0)), classify=classify
        )
        assert 200 == mount(policy).get(server.url).status_code
    assert {requests.Response} == set(seen)
