"""Streams that are alive are not cut: what counts is how long they are silent."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.families import URL, Http, in_every_client
from tests.http.wire import Connection, Wire

import resilient
from resilient import Pipeline, Timeout, deadline_after
from resilient.httpx2 import ResilientTransport

LIVE = [
    "text/event-stream",
    "Text/Event-Stream; charset=utf-8",
    "application/x-ndjson",
    "application/jsonl",
    "application/json-seq",
]


def stream(h: Http, kind: str, *items: Any) -> Any:
    """A response of a type, with chunks and pauses."""
    return h.response(200, *items, headers={"Content-Type": kind})


def wired(h: Http, kind: str, *items: Any) -> Wire:
    """The same over a network, whose reads time out."""

    def script(_: Connection) -> Any:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n"
        yield head.encode()
        yield from items

    return Wire(h, script)


@pytest.mark.parametrize("kind", LIVE)
def test_the_total_does_not_end_a_stream_that_is_alive(kind: str) -> None:
    """Forty seconds, with a token each; by the default pipeline."""

    @in_every_client
    async def scenario(h: Http) -> None:
        script = h.script(stream(h, kind, *[b"x", 1.0] * 40))
        async with h.client(script) as client:
            assert b"x" * 40 == (await h.get(client)).content
        assert 40.0 == h.now()

    _in_all(scenario)


@in_every_client
async def test_any_other_body_keeps_the_total(h: Http) -> None:
    """A download that trickles is cut at 30 s."""
    script = h.script(stream(h, "application/json", *[b"x", 1.0] * 40))
    async with h.client(script) as client:
        await h.error(resilient.TimeoutExceededError, h.get, client)
    assert h.now() in (30.0, 31.0)


@in_every_client
async def test_a_pipeline_may_bound_any_body_by_its_silence(h: Http) -> None:
    """By a `Timeout` with `idle`: a download that trickles goes on."""
    script = h.script(stream(h, "application/json", *[b"x", 1.0] * 40))
    async with h.client(script, Pipeline(Timeout(10, idle=5))) as client:
        assert b"x" * 40 == (await h.get(client)).content
    assert 40.0 == h.now()
    wire = wired(h, "application/json", b"x", 3.0, b"x", 30.0, b"x")
    async with h.client(wire.transport, Pipeline(Timeout(10, idle=5))) as client:
        error = await h.error(resilient.TimeoutExceededError, h.get, client)
    assert 5.0 == error.seconds


@in_every_client
async def test_a_stream_that_falls_silent_is_cut(h: Http) -> None:
    """After the limit of an attempt, 10 s by default, and says which."""
    wire = wired(h, LIVE[0], *[b"x", 9.0] * 5, b"x", 11.0, b"late")
    pipeline = h.ours.standard_pipeline(total=30, attempt=10)
    async with h.client(wire.transport, pipeline, client={"timeout": 20}) as client:
        error = await h.error(h.library.ReadTimeout, h.get, client)
    assert isinstance(error, resilient.TimeoutExceededError)
    assert "timeout 'GET https://api.test' of 10 s exceeded after 10 s" == str(error)
    assert 45.0 + 10.0 == pytest.approx(h.now(), abs=0.01)


@in_every_client
async def test_the_time_of_the_consumer_is_not_counted(h: Http) -> None:
    """Who reads slowly is no silent server."""
    script = h.script(stream(h, LIVE[0], *[b"x", 9.0] * 5))
    async with h.client(script) as client:
        response = await h.open(client)
        if h.is_sync:
            for _ in response.iter_raw():
                await h.sleep(60)
        else:
            async for _ in response.aiter_raw():
                await h.sleep(60)
        await h.close(response)
    assert 345.0 == h.now()


@in_every_client
async def test_the_idle_limit_can_be_set(h: Http) -> None:
    """For a transport or a request; None is no limit."""
    for options, extensions, kind, silent, fine in (
        ({"stream_idle": 2}, {}, LIVE[0], 1.5, True),
        ({"stream_idle": 2}, {}, LIVE[0], 2.5, False),
        ({"stream_idle": None}, {}, LIVE[0], 500.0, True),
        ({}, {"resilient.stream_idle": 3}, "text/plain", 40.0, False),
        ({}, {"resilient.stream_idle": None}, "text/plain", 40.0, True),
        ({"stream_idle": 1}, {"resilient.stream_idle": "attempt"}, "a/b", 9.0, True),
        ({"stream_idle": 2}, {}, "text/plain", 2.5, True),
    ):
        wire = wired(h, kind, b"x", silent, b"y")
        client_options = {"timeout": None if fine else 30}
        pipeline = h.ours.standard_pipeline(total=None)
        async with h.client(
            wire.transport, pipeline, client=client_options, **options
        ) as client:
            if fine:
                response = await h.get(client, extensions=extensions)
                assert b"xy" == response.content
            else:
                await h.error(
                    resilient.TimeoutExceededError,
                    h.get,
                    client,
                    extensions=extensions,
                )


@in_every_client
async def test_a_pipeline_without_limits_has_no_idle_limit(h: Http) -> None:
    """There is no attempt's to take."""
    script = h.script(stream(h, LIVE[0], b"x", 5000.0, b"y"))
    async with h.client(script, Pipeline(), client={"timeout": None}) as client:
        assert b"xy" == (await h.get(client)).content


@in_every_client
async def test_a_deadline_around_still_ends_a_stream(h: Http) -> None:
    """It is the caller's own word."""
    script = h.script(stream(h, LIVE[0], *[b"x", 1.0] * 40))
    async with h.client(script, Timeout(30)) as client:
        with deadline_after(20):
            await h.error(resilient.TimeoutExceededError, h.get, client)
    assert h.now() in (20.0, 21.0)


@in_every_client
async def test_a_stream_of_which_a_chunk_drips_is_silent(h: Http) -> None:
    """Bytes that make no chunk are no sign of life, in sync code either."""

    def drips(_: Connection) -> Any:
        yield b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        yield b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
        for _i in range(100):
            yield 0.5
            yield b"0"

    wire = Wire(h, drips)
    async with h.client(wire.transport, stream_idle=3) as client:
        await h.error(resilient.TimeoutExceededError, h.get, client, URL)
    assert 3.0 == pytest.approx(h.now(), abs=0.01)


@pytest.mark.parametrize("value", [0, -1, "often", float("nan")])
def test_other_idle_limits_are_refused(value: Any) -> None:
    """When the transport is made."""
    with pytest.raises((TypeError, ValueError), match="stream_idle"):
        ResilientTransport(stream_idle=value)


@in_every_client
async def test_another_idle_limit_of_a_request_is_refused(h: Http) -> None:
    """When its response is there."""
    script = h.script(stream(h, LIVE[0], b"x"))
    async with h.client(script) as client:
        extensions = {"resilient.stream_idle": "often"}
        error = await h.error(TypeError, h.get, client, extensions=extensions)
    assert "extensions['resilient.stream_idle']" in str(error)


def _in_all(scenario: Any) -> None:
    """Run a scenario in every family and colour that it is meant for."""
    marks = {mark.args[0]: mark.args[1] for mark in scenario.pytestmark}
    for family in marks["family"]:
        for colour in marks["colour"]:
            scenario(family, colour)
