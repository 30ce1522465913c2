"""The rules over what peers really write: HTTP/1.1 and HTTP/2, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from tests.http.families import Http, in_every_client
from tests.http.wire import Connection, Wire

from resilient import CircuitBreaker, Pipeline, Retry, constant

PLAIN = "http://api.test/things"

Answer = tuple[float, int, list[tuple[str, str]]]
"""Seconds that pass, a status, and header fields."""


def answer(status: int, *fields: tuple[str, str], after: float = 0.0) -> Answer:
    """Return an empty answer."""
    return after, status, [("content-length", "0"), *fields]


class Peer:
    """A server that speaks one version and gives answers in turn, the last for ever.

    Attributes:
        asked: When requests came, on the virtual clock.
    """

    def __init__(self, h: Http, version: str, *answers: Answer) -> None:
        self.h = h
        self.answers = list(answers)
        self.asked: list[float] = []
        modes = {"http1": version == "1.1", "http2": version == "2"}
        script = self._http1 if version == "1.1" else self._http2
        self.transport: Any = Wire(h, script, **modes).transport

    def _next(self) -> Answer:
        self.asked.append(self.h.now())
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def _http1(self, connection: Connection) -> Iterator[Any]:
        while connection.take():
            seconds, status, fields = self._next()
            yield seconds
            lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in fields)]
            yield "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _http2(self, connection: Connection) -> Iterator[Any]:
        config = h2.config.H2Configuration(client_side=False)
        server = h2.connection.H2Connection(config)
        server.initiate_connection()
        while events := server.receive_data(connection.take()):
            for event in events:
                if isinstance(event, h2.events.RequestReceived):
                    assert event.stream_id is not None
                    seconds, status, fields = self._next()
                    yield seconds
                    headers = [(":status", str(status)), *fields]
                    server.send_headers(event.stream_id, headers, end_stream=True)
            yield server.data_to_send()


VERSIONS = ("1.1", "2")


@in_every_client
async def test_who_states_a_timeout_says_how_long_an_attempt_may_take(
    h: Http,
) -> None:
    """For the client or one request; None: as long as it wants."""
    for version in VERSIONS:
        for stated, seconds in ((25, 11), (None, 1000)):
            peer = Peer(h, version, answer(200, after=seconds))
            began = h.now()
            async with h.client(peer.transport, client={"timeout": stated}) as client:
                assert 200 == (await h.get(client, PLAIN)).status_code
            assert ([began], seconds) == (peer.asked, h.now() - began)
        peer = Peer(h, version, answer(200, after=11))
        async with h.client(peer.transport) as client:
            assert 200 == (await h.get(client, PLAIN, timeout=25)).status_code
        assert 1 == len(peer.asked)


@in_every_client
async def test_a_server_that_asks_for_less_opens_no_circuit(h: Http) -> None:
    """It holds the next request back, and a refused POST goes again."""
    for version in VERSIONS:
        slower = answer(429, ("retry-after", "2"))
        peer = Peer(h, version, slower, answer(200))
        async with h.client(peer.transport) as client:
            began = h.now()
            assert 200 == (await h.post(client, PLAIN)).status_code
            first, second = (at - began for at in peer.asked)
            assert 0 == first
            assert 1.99 < second < 4
        peer = Peer(h, version, answer(429))
        async with h.client(peer.transport) as client:
            for _ in range(40):
                assert 429 == (await h.post(client, PLAIN)).status_code
        peer = Peer(h, version, answer(429, ("retry-after", "9")), answer(200))
        async with h.client(peer.transport) as client:
            kw = {"extensions": {"resilient": Pipeline(classify=h.ours.http_verdict)}}
            assert 429 == (await h.get(client, PLAIN, **kw)).status_code
            began = h.now()
            assert 200 == (await h.get(client, PLAIN)).status_code
            assert 8.99 < h.now() - began < 20


@in_every_client
async def test_what_may_be_sent_again_goes_by_status_and_method(h: Http) -> None:
    """Every 5xx that may end, refusals by any method, methods of the registry."""
    again = {
        ("GET", 408), ("GET", 500), ("GET", 520), ("GET", 524), ("GET", 529),
        ("GET", 599), ("SEARCH", 503), ("PROPFIND", 502), ("REPORT", 500),
        ("QUERY", 503), ("POST", 421), ("POST", 425), ("PATCH", 429), ("POST", 529),
    }  # fmt: skip
    once = {
        ("GET", 404), ("GET", 501), ("GET", 505), ("GET", 508), ("GET", 510),
        ("GET", 511), ("POST", 503), ("PATCH", 500), ("FROB", 503),
    }  # fmt: skip
    for version in VERSIONS:
        for method, status in again | once:
            peer = Peer(h, version, answer(status), answer(200))
            pipeline = h.retry(backoff=constant(0))
            async with h.client(peer.transport, pipeline) as client:
                got = (await h.request(client, method, PLAIN)).status_code
            wanted = (200, 2) if (method, status) in again else (status, 1)
            assert wanted == (got, len(peer.asked)), (version, method, status)


ADVICE = [
    ([("retry-after", "2")], 2.0),
    ([("retry-after", "2"), ("retry-after", "3")], 3.0),
    ([("retry-after-ms", "2500")], 2.5),
    ([("x-ms-retry-after-ms", "2500")], 2.5),
    ([("retry-after", "9" * 900)], 0.0),
    ([("retry-after", "-5")], 0.0),
    ([("retry-after", "n\xeeco")], 0.0),
    ([("retry-after", "nan")], 0.0),
    ([("retry-after", "9" * 9000)], 0.0),
    ([("ratelimit", "\\" * 9000)], 0.0),
]


@pytest.mark.parametrize("number", range(len(ADVICE)))
def test_the_wait_that_a_server_names_is_read_from_any_field(number: int) -> None:
    """What is absurd is as good as not sent."""
    fields, least = ADVICE[number]

    @in_every_client
    async def scenario(h: Http) -> None:
        for version in VERSIONS:
            peer = Peer(h, version, answer(503, *fields), answer(200))
            pipeline = h.retry(backoff=constant(0.5))
            async with h.client(peer.transport, pipeline) as client:
                assert 200 == (await h.get(client, PLAIN)).status_code
            first, second = peer.asked
            wait = max(least, 0.5)
            assert wait - 0.01 < second - first < wait + 1

    for family in ("httpx2", "httpx"):
        for colour in ("sync", "asyncio", "trio"):
            scenario(family, colour)


@in_every_client
async def test_x_should_retry_is_obeyed_by_any_method(h: Http) -> None:
    """Yes and no."""
    for version in VERSIONS:
        for word, status, sent in (("true", 400, 2), ("false", 503, 1)):
            method = "POST" if word == "true" else "GET"
            peer = Peer(
                h, version, answer(status, ("x-should-retry", word)), answer(200)
            )
            async with h.client(peer.transport, h.retry()) as client:
                await h.request(client, method, PLAIN)
            assert sent == len(peer.asked)


@in_every_client
async def test_a_mistake_of_ours_is_no_verdict_on_the_server(h: Http) -> None:
    """It is raised, each time, and the connection may be used again."""

    def broken(outcome: Any) -> Any:
        raise ZeroDivisionError

    for version in VERSIONS:
        peer = Peer(h, version, answer(503))
        breaker = CircuitBreaker(consecutive_failures=3)
        wrong = Pipeline(Retry(), breaker, classify=broken)
        right = Pipeline(breaker, classify=h.ours.http_verdict)
        async with h.client(peer.transport, right) as client:
            for _ in range(3):
                await h.error(
                    ZeroDivisionError,
                    h.get,
                    client,
                    PLAIN,
                    extensions={"resilient": wrong},
                )
            assert "closed" == breaker.state.value
            for _ in range(3):
                assert 503 == (await h.get(client, PLAIN)).status_code
            assert "open" == breaker.state.value
        assert 6 == len(peer.asked)
