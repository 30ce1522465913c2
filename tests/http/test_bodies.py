"""Bodies: a request's is sent whole or not at all, a response's holds its slots."""

from __future__ import annotations

import gc
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.http.families import (
    FAMILIES,
    URL,
    Http,
    in_async_clients,
    in_every_client,
    in_sync_clients,
)

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    PerKey,
    Pipeline,
    RateLimiter,
    Timeout,
    deadline_after,
)

ONCE = "its body can be sent only once"


class Pipe(io.RawIOBase):
    """A file that can be read once, as one from a pipe or a socket."""

    def __init__(self, content: bytes) -> None:
        self.content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError("not a real file")

    def tell(self) -> int:
        raise io.UnsupportedOperation("tell")

    def seek(self, offset: int, whence: int = 0) -> int:
        raise io.UnsupportedOperation("seek")

    def read(self, size: int = -1) -> bytes:
        return self.content.read(size)


class Reader:
    """The least that passes for a file."""

    def __init__(self, content: bytes) -> None:
        self.content = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self.content.read(size)

    def __iter__(self) -> Iterator[bytes]:
        yield from iter(self.content)


def one_shot(h: Http) -> Any:
    """A body of chunks that can be read once."""

    def chunks() -> Iterator[bytes]:
        yield b"first, "
        yield b"second"

    async def achunks() -> AsyncIterator[bytes]:
        for chunk in chunks():
            yield chunk

    return chunks() if h.is_sync else achunks()


# -- What is sent


@in_every_client
async def test_a_body_in_memory_is_sent_again_byte_for_byte(h: Http) -> None:
    """Bytes, text, JSON, a form, nothing."""
    for body in (
        {"content": b"bytes"},
        {"content": "text"},
        {"json": {"a": [1, 2]}},
        {"data": {"a": "b", "c": ["d", "e"]}},
        {},
    ):
        script = h.script(503, h.library.ReadError("down"), 200)
        async with h.client(script, h.retry()) as client:
            assert 200 == (await h.request(client, "PUT", **body)).status_code
        first, *rest = script.sent
        assert [first.body] * 2 == [request.body for request in rest]
        length = first.headers.get("content-length", "0")
        assert [length] * 2 == [
            request.headers.get("content-length", "0") for request in rest
        ]
        assert str(len(first.body)) == length


@in_every_client
async def test_a_form_with_files_is_sent_again_where_they_can_be_rewound(
    h: Http,
) -> None:
    """Bytes, text and seekable files."""
    for file in (b"bytes", io.BytesIO(b"bytes" * 50_000), ("name", b"bytes")):
        script = h.script(503, h.library.ReadError("down"), 200)
        async with h.client(script, h.retry()) as client:
            response = await h.request(
                client, "PUT", files={"file": file}, data={"a": "b"}
            )
        assert 200 == response.status_code
        first, *rest = script.sent
        assert b"bytes" in first.body
        assert [first.body] * 2 == [request.body for request in rest]
        assert str(len(first.body)) == first.headers["content-length"]


@in_every_client
async def test_a_form_with_a_pipe_is_sent_once(h: Http) -> None:
    """So is one with anything that merely has a `read`."""
    for file in (Pipe(b"bytes"), Reader(b"bytes")):
        script = h.script(503, 200)
        async with h.client(script, h.retry()) as client:
            response = await h.request(client, "PUT", files={"file": file})
        assert 503 == response.status_code
        assert 1 == len(script.sent)
        assert b"bytes" in script.sent[0].body
        assert h.ours.Summary(1, ONCE, None) == response.extensions["resilient"]


@in_every_client
async def test_a_stream_is_sent_once(h: Http) -> None:
    """The response to it is returned, and says why."""
    script = h.script(503, 200)
    async with h.client(script, h.retry(), retry_unsafe=True) as client:
        response = await h.post(client, content=one_shot(h))
    assert 503 == response.status_code
    assert [b"first, second"] == [request.body for request in script.sent]
    assert h.ours.Summary(1, ONCE, None) == response.extensions["resilient"]


@in_every_client
async def test_a_stream_that_failed_is_not_sent_again(h: Http) -> None:
    """The client's own error comes back, with a note."""
    down = h.library.WriteError("down")
    script = h.script(down, 200)
    async with h.client(script, h.retry()) as client:
        assert down is await h.error(
            h.library.WriteError, h.request, client, "PUT", content=one_shot(h)
        )
    assert [f"resilient: 1 attempt in 0 s; stopped: {ONCE}"] == down.__notes__
    assert 1 == len(script.sent)


@in_sync_clients
async def test_a_file_is_sent_once(h: Http) -> None:
    """Where it stood when it was given, only its caller knows."""
    file = io.BytesIO(b"not this, but this")
    file.seek(10)
    script = h.script(503, 200)
    async with h.client(script, h.retry()) as client:
        response = await h.request(client, "PUT", content=file)
    assert 503 == response.status_code
    assert [b"but this"] == [request.body for request in script.sent]


@in_every_client
async def test_a_stream_of_which_nothing_was_read_is_sent_after_all(h: Http) -> None:
    """A connection that was not made never asked for it."""

    class Refuses(h.library.BaseTransport, h.library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        """Refuses the first connection."""

        def __init__(self) -> None:
            self.refused = False
            self.script = h.script(200)

        def refuse(self) -> None:
            if not self.refused:
                self.refused = True
                raise h.library.ConnectError("down")

        def handle_request(self, request: Any) -> Any:
            self.refuse()
            return self.script.handle_request(request)

        async def handle_async_request(self, request: Any) -> Any:
            self.refuse()
            return await self.script.handle_async_request(request)

    inner = Refuses()
    async with h.client(inner, h.retry()) as client:
        assert 200 == (await h.post(client, content=one_shot(h))).status_code
    assert [b"first, second"] == [request.body for request in inner.script.sent]


@in_every_client
async def test_a_response_before_the_body_leaves_it_to_be_sent(h: Http) -> None:
    """A server that refuses at once, as a gateway does."""

    class Hasty(h.library.BaseTransport, h.library.AsyncBaseTransport):  # type: ignore[misc, name-defined]
        """Answers 503 first, with the body unread."""

        def __init__(self) -> None:
            self.hasty = h.script(503, reads=False)
            self.script = h.script(200)

        def handle_request(self, request: Any) -> Any:
            inner = self.script if self.hasty.sent else self.hasty
            return inner.handle_request(request)

        async def handle_async_request(self, request: Any) -> Any:
            inner = self.script if self.hasty.sent else self.hasty
            return await inner.handle_async_request(request)

    inner = Hasty()
    async with h.client(inner, h.retry()) as client:
        response = await h.request(client, "PUT", content=one_shot(h))
    assert 200 == response.status_code
    assert [b"first, second"] == [request.body for request in inner.script.sent]


@in_async_clients
async def test_a_stream_cut_short_on_its_way_is_not_sent_again(h: Http) -> None:
    """Half of it may have arrived."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        await h.sleep(100)
        yield b"whole"

    script = h.script(200)
    async with h.client(script, h.retry(Timeout(2))) as client:
        error = await h.error(
            h.ours.TimeoutExceededError, h.request, client, "PUT", content=chunks()
        )
    assert [f"resilient: 1 attempt in 2 s; stopped: {ONCE}"] == error.__notes__


@in_every_client
async def test_the_request_has_its_own_stream_back_afterwards(h: Http) -> None:
    """A request is given back as it came."""
    for step in (200, h.library.ReadError("down")):
        script = h.script(step)
        async with h.client(script, h.retry()) as client:
            request = client.build_request("PUT", URL, content=one_shot(h))
            stream = request.stream
            try:
                await h.send(client, request)
            except h.library.ReadError:
                pass
            assert stream is request.stream


@pytest.mark.parametrize("family", FAMILIES)
def test_a_body_on_its_way_closes_what_it_carries(family: str) -> None:
    """For transports that close what they have sent."""

    async def body(h: Http) -> None:
        async def close(request: Any) -> Any:
            if h.is_sync:
                request.stream.close()
            else:
                await request.stream.aclose()
            return h.library.Response(200)

        for colour in ("sync", "asyncio"):
            h.colour = colour  # type: ignore[assignment]
            stream = h.body(b"a")
            request = h.library.Request("PUT", URL, stream=stream)
            transport = h.transport(h.script(close, reads=False), h.retry())
            await h.handle(transport, request)
            assert 1 == stream.closings

    Http(family, "asyncio").run(body)


# -- Responses of failed attempts


@in_every_client
async def test_a_failed_response_is_gone_before_the_sleep(h: Http) -> None:
    """So that its connection is back in the pool."""
    for response, events in (
        # Little: read to its end, which saves the connection.
        (h.response(503, b"down", length=4), ["sent", "drained", "closed"]),
        # Of no known length, or much: closed.
        (h.response(503, b"down"), ["sent", "closed"]),
        (h.response(503, b"x" * 70_000, length=70_000), ["sent", "closed"]),
        # Dies on the way: closed.
        (
            h.response(503, b"x", h.library.ReadError("down"), length=9),
            ["sent", "closed"],
        ),
    ):
        for read_body in (False, "auto"):
            if (
                read_body == "auto"
                and events[1] == "closed"
                and ("content-length" in response.headers)
            ):
                # It is read in the attempt.
                continue
            h.log.clear()
            began = h.now()
            stream = response.stream
            response.stream = h.body(*stream.items)
            script = h.script(response, 200)
            async with h.client(script, h.retry(), read_body=read_body) as client:
                assert 200 == (await h.get(client)).status_code
            assert [*((event, began) for event in events), ("sent", began + 1)] == h.log


@in_every_client
async def test_a_large_failed_response_is_not_read_to_its_end(h: Http) -> None:
    """More than a new connection costs."""
    body = h.body(*[b"x" * 1000] * 70)
    headers = {"Content-Length": "70000"}
    response = h.library.Response(503, headers=headers, stream=body)
    script = h.script(response, 200)
    async with h.client(script, h.retry(), read_body=False) as client:
        await h.get(client)
    assert 0 == body.taken
    assert 1 == body.closings


@in_every_client
async def test_draining_takes_a_second_at_most(h: Http) -> None:
    """With a limit in time, or without one."""
    for pipeline in (h.retry(), Pipeline(Timeout(60), h.retry(Timeout(50)))):
        for chunk in (0.3, 0.6):
            h.log.clear()
            began = h.now()
            items = [chunk, b"x"] * 30
            response = h.response(503, *items, length=30)
            script = h.script(response, 200)
            async with h.client(script, pipeline, read_body=False) as client:
                await h.get(client)
            closed = next(at for event, at in h.log if event == "closed")
            # NB: in sync code up to one chunk more.
            assert closed - began <= (1 + chunk if h.is_sync else 1)
            assert [began, closed + 1] == script.times


@in_sync_clients
async def test_draining_shortens_the_clients_timeouts(h: Http) -> None:
    """Which is what ends a read that takes too long."""
    seen: list[float] = []

    class Looks(h.library.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            seen.append(script.requests[0].extensions["timeout"].get("read"))
            yield b"x"

    headers = {"Content-Length": "1"}
    response = h.library.Response(503, headers=headers, stream=Looks())
    script = h.script(response, 200)
    pipeline = Pipeline(Timeout(60), h.retry())
    async with h.client(script, pipeline, read_body=False) as client:
        await h.get(client)
    assert [1.0] == seen


@in_every_client
async def test_a_body_that_will_not_close_is_no_secret(h: Http) -> None:
    """What closing it raises reaches the caller, and permits go back."""

    class Stuck(h.library.SyncByteStream, h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"x"

        def close(self) -> None:
            raise h.library.CloseError("stuck")

        async def aclose(self) -> None:
            self.close()

    bulkhead = Bulkhead(1)
    response = h.library.Response(503, stream=Stuck())
    async with h.client(h.script(response, 200), h.retry(bulkhead)) as client:
        await h.error(h.library.CloseError, h.get, client)
    assert 0 == bulkhead.in_use
    response = h.library.Response(200, stream=Stuck())
    async with h.client(h.script(response), bulkhead) as client:
        response = await h.open(client)
        await h.error(h.library.CloseError, h.close, response)
    assert 0 == bulkhead.in_use


# -- The last response


@in_every_client
async def test_the_last_response_can_be_read_in_every_way(h: Http) -> None:
    """Good or bad, read in the attempt or streamed."""
    for status in (200, 503):
        for length in (12, None):
            for how, parts in (
                ("raw", [b"one\ntwo\nt", b"hre"]),
                ("bytes", [b"one\ntwo\nt", b"hre"]),
                ("text", ["one\ntwo\nt", "hre"]),
                ("lines", ["one", "two", "thre"]),
            ):

                async def step(
                    request: Any, status: int = status, length: Any = length
                ) -> Any:
                    return h.response(status, b"one\ntwo\nt", b"hre", length=length)

                async with h.client(h.script(step), h.retry()) as client:
                    async with h.stream(client) as response:
                        assert status == response.status_code
                        read = await h.parts(response, how)
                # NB: what was read in the attempt comes in one piece.
                empty: Any = parts[0][:0]
                assert empty.join(parts) == empty.join(read)


@in_every_client
async def test_a_compressed_body_stays_compressed_on_its_way(h: Http) -> None:
    """It is the client that decodes."""
    import gzip

    packed = gzip.compress(b"hello" * 100)
    headers = {"Content-Encoding": "gzip"}
    for length in (len(packed), None):

        async def step(request: Any, length: Any = length) -> Any:
            return h.response(200, packed, length=length, headers=headers)

        async with h.client(h.script(step), h.retry()) as client:
            assert b"hello" * 100 == (await h.get(client)).content
            async with h.stream(client) as response:
                assert packed == b"".join(await h.parts(response, "raw"))


# -- What is read in the attempt


@in_every_client
async def test_a_small_body_is_read_in_the_attempt(h: Http) -> None:
    """By its length and its type; the argument and the extension override."""
    event_stream = {"Content-Type": "text/event-stream; charset=utf-8"}
    for argument, override, length, headers, read in (
        ("auto", None, 4, None, True),
        ("auto", None, 0, None, True),
        ("auto", None, 10, None, True),
        ("auto", None, 11, None, False),
        ("auto", None, None, None, False),
        ("auto", None, 4, event_stream, False),
        ("auto", None, 4, {"Content-Type": "Text/Event-Stream"}, False),
        ("auto", None, 4, {"Content-Type": "text/plain"}, True),
        ("auto", None, None, {"Content-Length": "4, 4"}, False),
        ("auto", None, None, {"Content-Length": "-4"}, False),
        ("auto", None, None, {"Content-Length": "four"}, False),
        (True, None, None, event_stream, True),
        (True, None, 99, None, True),
        (False, None, 4, None, False),
        ("auto", True, None, event_stream, True),
        ("auto", False, 4, None, False),
        (False, "auto", 4, None, True),
        (True, "auto", 99, None, False),
    ):
        response = h.response(200, b"", length=length)
        for name, value in (headers or {}).items():
            response.headers[name] = value
        extensions = {} if override is None else {"resilient.read_body": override}
        script = h.script(response)
        async with h.client(
            script, Pipeline(), read_body=argument, max_body=10
        ) as client:
            h.log.clear()
            response = await h.open(client, extensions=extensions)
            closed = "closed" in [event for event, _ in h.log]
            assert read == closed, (argument, override, length, headers)
            await h.close(response)


@in_every_client
async def test_max_body_is_a_mebibyte_by_default(h: Http) -> None:
    """More than that streams."""
    for length, read in ((1_048_576, True), (1_048_577, False)):
        h.log.clear()
        response = h.response(200, b"", length=length)
        async with h.client(h.script(response), Pipeline()) as client:
            response = await h.open(client)
            assert read == ("closed" in [event for event, _ in h.log])
            await h.close(response)


@in_every_client
async def test_a_head_has_no_body_however_long_it_says_it_is(h: Http) -> None:
    """It holds nothing."""
    bulkhead = Bulkhead(1)
    response = h.response(200, length=10**9)
    async with h.client(h.script(response), bulkhead) as client:
        request = client.build_request("HEAD", URL)
        response = await h.send(client, request, stream=True)
        assert 0 == bulkhead.in_use
        await h.close(response)


@in_every_client
async def test_a_body_that_dies_in_the_attempt_is_retried(h: Http) -> None:
    """As anything else that fails there."""
    for length, read_body in ((9, "auto"), (None, True)):
        h.log.clear()
        began = h.now()
        down = h.library.RemoteProtocolError("half a body")
        script = h.script(
            h.response(200, b"half", down, length=length),
            h.response(200, b"the whole", length=length),
        )
        async with h.client(script, h.retry(), read_body=read_body) as client:
            assert b"the whole" == (await h.get(client)).content
        assert [
            ("sent", began),
            ("closed", began),
            ("sent", began + 1),
            ("drained", began + 1),
            ("closed", began + 1),
        ] == h.log


@in_every_client
async def test_a_body_of_an_unsafe_request_that_dies_is_not_retried(h: Http) -> None:
    """Its server did what it was asked."""
    down = h.library.ReadError("half a body")
    script = h.script(h.response(200, b"half", down, length=9), 200)
    async with h.client(script, h.retry()) as client:
        assert down is await h.error(h.library.ReadError, h.post, client)
    assert 1 == len(script.sent)


@in_every_client
async def test_a_body_that_dies_in_the_callers_hands_is_not_retried(h: Http) -> None:
    """It raises the client's own error."""
    down = h.library.ReadError("half a body")
    breaker = CircuitBreaker(minimum_calls=1, consecutive_failures=1)
    script = h.script(h.response(200, b"half", down))
    async with h.client(script, h.retry(breaker)) as client:
        assert down is await h.error(h.library.ReadError, h.get, client)
    assert 1 == len(script.sent)
    assert resilient.CircuitState.CLOSED is breaker.state
    assert not hasattr(down, "__notes__")


@in_every_client
async def test_the_attempts_limit_covers_a_body_that_is_read_in_it(h: Http) -> None:
    """A server that trickles is a failed attempt."""
    trickle = [b"x", 0.5] * 9

    async def slow(request: Any) -> Any:
        return h.response(200, *trickle, length=9)

    script = h.script(slow, slow, h.response(200, b"at last", length=7))
    async with h.client(script, h.retry(Timeout(2))) as client:
        assert b"at last" == (await h.get(client)).content
    assert [0.0, 3.0, 6.0] == script.times
    assert 1 == [event for event, _ in h.log].count("drained")


@in_every_client
async def test_a_trickling_body_is_our_timeout_at_last(h: Http) -> None:
    """And the client's too."""

    async def slow(request: Any) -> Any:
        return h.response(200, *[b"x", 0.5] * 9, length=9)

    async with h.client(h.script(slow), h.retry(Timeout(2), attempts=1)) as client:
        error = await h.error(h.library.TimeoutException, h.get, client)
    assert h.ours.TimeoutExceededError is type(error)
    assert ("closed", 2.0) in h.log


@in_every_client
async def test_a_deadline_around_covers_a_body_that_is_read_in_the_attempt(
    h: Http,
) -> None:
    """The error is the same as that of a `Timeout`, and names the limit."""

    async def slow(request: Any) -> Any:
        return h.response(200, *[b"x", 0.5] * 9, length=9)

    async with h.client(h.script(slow), h.retry()) as client:
        with deadline_after(2):
            error = await h.error(h.library.ReadTimeout, h.get, client)
    assert "timeout 'GET https://api.test' of 2 s exceeded after 2 s" == str(error)
    assert isinstance(error, resilient.TimeoutExceededError)
    assert "the time for the request is up" == str(error.__cause__)
    assert 2.0 == h.now()
    assert ("closed", 2.0) in h.log


@in_every_client
async def test_the_attempts_limit_covers_no_body_that_streams(h: Http) -> None:
    """Only its headers."""
    response = h.response(200, *[b"x", 1.0] * 9)
    async with h.client(h.script(response), h.retry(Timeout(2))) as client:
        assert b"x" * 9 == (await h.get(client)).content
    assert 9.0 == h.now()


# -- What a body holds


@in_every_client
async def test_slots_last_until_the_body_ends(h: Http) -> None:
    """It is read, fails or is closed; not until its headers arrive."""
    bulkhead = Bulkhead(1)
    keyed = PerKey(lambda key: bulkhead, max_keys=1)
    pipeline = Pipeline(keyed, RateLimiter(1000), Timeout(60))

    async def half(request: Any) -> Any:
        down = h.library.ReadError("down")
        return h.response(200, b"half", *([down] if "fail" in str(request.url) else []))

    async with h.client(h.script(half), pipeline) as client:
        response = await h.open(client)
        assert 1 == bulkhead.in_use
        await h.error(h.ours.BulkheadFullError, h.get, client)
        await h.read(response)
        assert 0 == bulkhead.in_use

        response = await h.open(client)
        await h.close(response)
        assert 0 == bulkhead.in_use

        response = await h.open(client, f"{URL}/fail")
        assert 1 == bulkhead.in_use
        await h.error(h.library.ReadError, h.read, response)
        assert 0 == bulkhead.in_use

    # The caller leaves in the middle.
    transport = h.transport(h.script(half), pipeline)
    response = await h.handle(transport, h.library.Request("GET", URL))
    if h.is_sync:
        parts = iter(response.stream)
        next(parts)
        assert 1 == bulkhead.in_use
        parts.close()
    else:
        parts = aiter(response.stream)
        await anext(parts)
        assert 1 == bulkhead.in_use
        await parts.aclose()
    assert 0 == bulkhead.in_use


@in_every_client
async def test_a_body_that_is_lost_gives_its_slot_back(h: Http) -> None:
    """It was not closed, so its connection is lost, but the slot is not."""
    bulkhead = Bulkhead(1)

    async def step(request: Any) -> Any:
        return h.response(200, b"a", b"b")

    transport = h.transport(
        h.script(step, reads=False), Pipeline(Timeout(60), bulkhead)
    )
    for begun in (False, True):
        response = await h.handle(transport, h.library.Request("GET", URL))
        assert 1 == bulkhead.in_use
        if begun:
            parts: Any = iter(response.stream) if h.is_sync else aiter(response.stream)
            first = next(parts) if h.is_sync else await anext(parts)
            assert b"a" == first
            if not h.is_sync:
                # NB: the loop closes a generator that is lost in its own time.
                await parts.aclose()
            del parts
        del response
        transport.inner.requests.clear()
        transport.inner.sent.clear()
        gc.collect()
        assert 0 == bulkhead.in_use


@in_every_client
async def test_a_body_that_was_read_in_the_attempt_holds_nothing(h: Http) -> None:
    """It is in memory."""
    bulkhead = Bulkhead(1)
    response = h.response(200, b"body", length=4)
    async with h.client(h.script(response), bulkhead) as client:
        response = await h.open(client)
        assert 0 == bulkhead.in_use
        assert b"body" == await h.read(response)


@in_every_client
async def test_a_breaker_is_settled_by_the_headers(h: Http) -> None:
    """A stream may last for hours."""
    breaker = CircuitBreaker(minimum_calls=1, consecutive_failures=1)
    pipeline = Pipeline(breaker, classify=h.ours.http_verdict)
    async with h.client(h.script(h.response(503, b"a")), pipeline) as client:
        response = await h.open(client)
        assert resilient.CircuitState.OPEN is breaker.state
        await h.close(response)


@in_every_client
async def test_the_total_limit_covers_the_body_too(h: Http) -> None:
    """Reading past it raises ours, which is the client's read timeout too."""
    bulkhead = Bulkhead(1)
    response = h.response(200, *[b"x", 2.0] * 9)
    pipeline = Pipeline(Timeout(9, name="total"), h.retry(bulkhead))
    async with h.client(h.script(response), pipeline) as client:
        response = await h.open(client)
        assert 1 == bulkhead.in_use
        error = await h.error(h.library.ReadTimeout, h.read, response)
        # NB: of the two families one closes what it failed to read.
        await h.close(response)
    assert type(error) is h.ours.TimeoutExceededError
    assert ("total", 9.0) == (error.policy, error.seconds)
    assert URL == str(error.request.url)
    # NB: a sync client notices with the next chunk.
    assert (10.0 if h.is_sync else 9.0) == h.now()
    assert 0 == bulkhead.in_use
    assert "closed" == h.log[-1][0]


@in_sync_clients
async def test_a_read_that_the_total_limit_cut_short_is_caused_by_ours(
    h: Http,
) -> None:
    """A sync client's own timeout, which ours had shortened."""

    class Stalls(h.library.SyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"
            timeouts = script.requests[0].extensions["timeout"]
            timeout = timeouts_of.pop() if timeouts_of else timeouts
            seen.append(timeout.get("read"))
            resilient._runtimes.clock.sleep(seen[-1])
            raise h.library.ReadTimeout("stalled")

    seen: list[float] = []
    timeouts_of: list[Any] = []

    async def step(request: Any) -> Any:
        timeouts_of.append(request.extensions["timeout"])
        await h.sleep(6)
        return h.library.Response(200, stream=Stalls())

    script = h.script(step)
    async with h.client(script, Timeout(9, name="total")) as client:
        error = await h.error(h.library.ReadTimeout, h.get, client)
    assert [3.0] == seen
    assert isinstance(error, resilient.TimeoutExceededError)
    assert "total" == error.policy
    assert "stalled" == str(error.__cause__)


@in_every_client
async def test_a_deadline_around_the_reading_covers_the_body_too(h: Http) -> None:
    """The deadline of the code that reads counts, wherever the response came from."""
    response = h.response(200, *[b"x", 2.0] * 9)
    async with h.client(h.script(response), Pipeline()) as client:
        response = await h.open(client)
        with deadline_after(5):
            error = await h.error(h.library.ReadTimeout, h.read, response)
    assert isinstance(error, resilient.TimeoutExceededError)
    assert "timeout 'GET https://api.test' of 5 s exceeded after 6 s" == str(error)
    assert error.by_deadline
    assert 6.0 == h.now()


@in_every_client
async def test_a_deadline_around_shortens_the_reads_of_a_body(h: Http) -> None:
    """What the client's engine would wait for, chunk by chunk."""
    seen: list[float | None] = []

    class Looks(h.library.SyncByteStream, h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(2):
                seen.append(timeouts[0].get("read"))
                yield b"x"

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for chunk in self:
                yield chunk

    timeouts: list[Any] = []

    async def step(request: Any) -> Any:
        timeouts.append(request.extensions["timeout"])
        return h.library.Response(200, stream=Looks())

    async with h.client(h.script(step), Pipeline()) as client:
        with deadline_after(2):
            await h.get(client)
    assert [2.0, 2.0] == seen


@in_every_client
async def test_the_clients_own_timeout_counts_again_once_the_attempt_is_over(
    h: Http,
) -> None:
    """The attempt's limit is none of the body's."""
    seen: list[float | None] = []
    timeouts: list[Any] = []

    async def step(request: Any) -> Any:
        timeouts.append(request.extensions["timeout"])
        await h.sleep(1)
        return h.response(200, b"x")

    for total, read in ((None, 5.0), (4, 3.0)):
        pipeline = Pipeline(Timeout(total), h.retry(Timeout(3)))
        timeout = 5 if total is None else 4
        async with h.client(
            h.script(step), pipeline, client={"timeout": timeout}
        ) as client:
            response = await h.open(client)
            seen.append(timeouts.pop().get("read"))
            await h.close(response)
        assert [read] == seen[-1:]
    every = dict.fromkeys(("connect", "read", "write", "pool"))
    request = h.library.Request("GET", URL, extensions={"timeout": every})
    transport = h.transport(h.script(step), h.retry(Timeout(3)))
    response = await h.handle(transport, request)
    assert None is timeouts.pop().get("read")
    await h.close(response)


@in_async_clients
async def test_reading_is_cancelled_as_in_a_bare_client(h: Http) -> None:
    """And gives its slot back."""
    import anyio

    bulkhead = Bulkhead(1)

    async def step(request: Any) -> Any:
        return h.response(200, *[b"x", 1.0] * 9)

    async with h.client(h.script(step), Pipeline(Timeout(60), bulkhead)) as client:
        for seconds in (0.5, 1.5, 3.5):
            with anyio.move_on_after(seconds):
                async with h.stream(client) as response:
                    assert 1 == bulkhead.in_use
                    await h.read(response)
            assert 0 == bulkhead.in_use
    assert 3 == [event for event, _ in h.log].count("closed")


@in_async_clients
async def test_a_body_may_be_read_in_another_task(h: Http) -> None:
    """Than the one that asked for it."""
    import anyio

    response = h.response(200, b"a", 1.0, b"b")
    async with h.client(h.script(response), Pipeline(Timeout(60))) as client:
        response = await h.open(client)
        async with anyio.create_task_group() as group:
            group.start_soon(h.read, response)
        assert b"ab" == response.content


@in_every_client
async def test_a_timeout_of_the_clients_own_in_the_body_stays_its_own(h: Http) -> None:
    """One that came before the limit, or where there is none."""
    for pipeline in (Bulkhead(1), Pipeline(Timeout(60), Bulkhead(1))):
        stalled = h.library.ReadTimeout("stalled")
        response = h.response(200, b"x", 2.0, stalled)
        async with h.client(h.script(response), pipeline) as client:
            assert stalled is await h.error(h.library.ReadTimeout, h.get, client)
        assert None is stalled.__cause__


@in_async_clients
async def test_a_body_may_be_any_iterator(h: Http) -> None:
    """And need not be a generator, which alone has to be closed."""

    class Chunks(h.library.AsyncByteStream):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.left = 2

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> bytes:
            if not self.left:
                raise StopAsyncIteration
            self.left -= 1
            return b"x"

    for read_body in (True, False):
        response = h.library.Response(200, stream=Chunks())
        script = h.script(response)
        async with h.client(script, Pipeline(), read_body=read_body) as client:
            response = await h.request(client, "PUT", content=Chunks())
        assert b"xx" == response.content
        assert b"xx" == script.sent[0].body


@in_every_client
async def test_what_follows_a_switch_of_protocols_is_no_body(h: Http) -> None:
    """It has no end, and is not read whatever was said of bodies."""
    stream = h.body(b"frame", b"frame")
    script = h.script(h.library.Response(101, stream=stream))
    async with h.client(script, h.retry(), read_body=True) as client:
        async with h.stream(client) as response:
            assert (101, 0) == (response.status_code, stream.taken)
