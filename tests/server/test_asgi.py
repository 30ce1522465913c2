"""An application behind a pipeline, called as a server calls it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
from tests.colours import World, in_async_colours
from tests.garbage import no_garbage
from tests.server.visits import Slow, Visit, answer, hello

from resilient import (
    AIMD,
    AdaptiveConcurrency,
    AdmissionPolicy,
    Call,
    CircuitOpenError,
    Coalesce,
    ConcurrencyLimitedError,
    Fallback,
    Limit,
    Outcome,
    Pipeline,
    Priority,
    RateLimitedError,
    RateLimiter,
    ResilientError,
    RestartLimitError,
    Retry,
    StaleCache,
    Timeout,
    TimeoutExceededError,
    Verdict,
    current_deadline,
    deadline_after,
    remaining,
)
from resilient._http import response_headers
from resilient._server.answers import App, Receive, Scope, Send
from resilient.asgi import (
    ResilientMiddleware,
    error_answer,
    exception_handler,
    standard_server_pipeline,
)
from resilient.httpx import ResilientTransport, standard_pipeline

MS = ("X-Request-Timeout-Ms", "ms")


def slots(limit: int) -> AdaptiveConcurrency:
    """A limit that stays what it is."""
    return AdaptiveConcurrency(AIMD(limit, maximum=limit))


async def later(w: World, seconds: float, act: Callable[[], object]) -> None:
    """Do something in so many seconds."""
    await w.sleep(seconds)
    act()


# -- Admission


@in_async_colours
async def test_a_request_beyond_the_limit_is_refused_unread(w: World) -> None:
    """It is answered 503 before its body is read, and the application not called."""
    slow, limit = Slow(), slots(1)
    app = ResilientMiddleware(slow, Pipeline(limit))
    first, second = Visit(app), Visit(app)

    async def come_second() -> None:
        await w.sleep(0.5)
        await second()
        assert 1 == limit.in_flight
        assert 1 == app.in_flight

    await w.gather(first, come_second)

    assert 200 == first.status
    assert (503, b"Service Unavailable\n") == (second.status, second.body)
    assert second.headers["retry-after"] in {"1", "2", "3"}
    assert (0, 1, 0) == (second.reads, slow.calls, limit.in_flight)


@in_async_colours
async def test_paths_of_probes_are_never_limited(w: World) -> None:
    """They are answered while all slots are taken."""
    app = ResilientMiddleware(Slow(), Pipeline(slots(1)))
    visits = [Visit(app), Visit(app, "/livez"), Visit(app, "/readyz"), Visit(app)]

    await w.gather(*visits)

    assert [200, 200, 200, 503] == [one.status for one in visits]


@in_async_colours
async def test_batch_work_is_shed_before_critical_work(w: World) -> None:
    """What critical requests wanted a moment ago is not for batch ones to take."""
    app = ResilientMiddleware(
        Slow(0.1),
        Pipeline(slots(4)),
        priority=lambda scope: "batch" if scope["path"] == "/batch" else "critical",
    )
    await w.gather(*[Visit(app) for _ in range(4)])
    visits = [Visit(app), Visit(app, "/batch"), Visit(app), Visit(app, "/batch")]

    await w.gather(*visits)

    assert [200, 503, 200, 503] == [one.status for one in visits]


@in_async_colours
async def test_a_class_that_is_shed_holds_back_no_other(w: World) -> None:
    """Where the transport of a service of ours is told so by `hold_by`."""

    class ShedsBatch(AdmissionPolicy):
        def admit(self, call: Call) -> ConcurrencyLimitedError | None:
            batch = call.priority is Priority.BATCH
            return ConcurrencyLimitedError("orders") if batch else None

        def settle(self, permit: None, outcome: Outcome | None) -> None: ...

    service = ResilientMiddleware(
        hello,
        ShedsBatch(),
        priority=lambda scope: dict(scope["headers"])[b"x-priority"].decode(),
    )
    transport = ResilientTransport(
        standard_pipeline(total=1),
        inner=httpx.ASGITransport(service),
        hold_by=lambda request: request.headers["x-priority"],
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as one:
        answers = [
            await one.get("/", headers={"x-priority": importance})
            for importance in ("batch", "critical")
        ]

    assert [503, 200] == [answer.status_code for answer in answers]


@in_async_colours
async def test_a_client_cannot_say_how_important_it_is(w: World) -> None:
    """No header is read: `priority` alone decides, a `Priority` or its name."""
    seen: list[Priority] = []

    class Watching(Timeout):
        async def around(self, proceed: Any, call: Any) -> Any:
            seen.append(call.priority)
            return await super().around(proceed, call)

    for said in (None, lambda scope: None, lambda scope: Priority.BATCH):
        app = ResilientMiddleware(hello, Watching(1), priority=said)
        await Visit(app, headers=[(b"priority", b"u=0"), (b"x-priority", b"0")])()

    assert [Priority.NORMAL, Priority.NORMAL, Priority.BATCH] == seen


@in_async_colours
async def test_a_priority_function_that_fails_takes_no_slot(w: World) -> None:
    """Its error goes to the server, which answers 500."""

    def broken(scope: Scope) -> None:
        raise LookupError("no user")

    limit = slots(1)
    app = ResilientMiddleware(hello, Pipeline(limit), priority=broken)

    with pytest.raises(LookupError, match="no user"):
        await Visit(app)()
    assert (0, 0) == (limit.in_flight, app.in_flight)


@pytest.mark.parametrize("nonsense", ["urgent", 7, [], object()])
def test_a_priority_that_is_none_is_logged(
    nonsense: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The request is served as a normal one, and the log has a TypeError."""
    app = ResilientMiddleware(hello, priority=lambda scope: nonsense)  # type: ignore[arg-type,return-value]
    visit = Visit(app)

    with caplog.at_level(logging.ERROR):
        World("asyncio").run(lambda w: visit())

    assert 200 == visit.status
    assert "`priority` must return" in caplog.text
    assert "TypeError" in caplog.text


# -- Clients


@in_async_colours
async def test_each_client_has_a_limit_of_its_own(w: World) -> None:
    """A client is its address, of IPv6 the /64; a forwarded one is not believed."""
    app = ResilientMiddleware(
        hello, standard_server_pipeline(per_client=lambda client: RateLimiter(1))
    )

    async def status(host: str | None) -> int:
        client = None if host is None else (host, 1)
        forged = [(b"x-forwarded-for", b"203.0.113.9"), (b"forwarded", b"for=1.1.1.1")]
        return (await Visit(app, client=client, headers=forged)()).status

    assert [200, 429] == [await status("192.0.2.1"), await status("192.0.2.1")]
    assert [200, 429] == [await status("2001:db8::1"), await status("2001:db8::2")]
    assert [200, 429] == [await status(None), await status(None)]
    assert 200 == await status("192.0.2.2")


@in_async_colours
async def test_a_limit_may_be_that_of_a_user(w: World) -> None:
    """What `client` returns is the key, behind authentication a user's name."""
    app = ResilientMiddleware(
        hello,
        standard_server_pipeline(per_client=lambda client: RateLimiter(1)),
        client=lambda scope: scope["user"],
    )

    statuses: list[int] = []
    for user, host in (("ann", "192.0.2.1"), ("ann", "192.0.2.2"), ("bob", "::1")):
        visit = Visit(app, client=(host, 1))
        visit.scope["user"] = user
        statuses.append((await visit()).status)

    assert [200, 429, 200] == statuses


@in_async_colours
async def test_a_flood_of_clients_washes_no_limit_clean(w: World) -> None:
    """Memory stays bounded, and a limit that is used up survives."""
    made: list[object] = []

    def limiter(client: object) -> RateLimiter:
        made.append(client)
        return RateLimiter(2, per=3600)

    pipeline = standard_server_pipeline(per_client=limiter, max_clients=50)
    app = ResilientMiddleware(hello, pipeline)

    async def status(host: str) -> int:
        return (await Visit(app, client=(host, 1))()).status

    assert [200, 200, 429] == [await status("192.0.2.1") for _ in range(3)]
    for number in range(500):
        assert 200 == await status(f"10.0.{number >> 8}.{number & 255}")

    per_key: Any = pipeline.policies[1]
    assert (50, 429) == (len(per_key), await status("192.0.2.1"))
    assert 1 == made.count("192.0.2.1")


@in_async_colours
async def test_a_429_says_what_the_limit_is(w: World) -> None:
    """In whole numbers, and of one limit of requests; our client reads it."""
    for limiter, expected in (
        (RateLimiter(2, per=60), '"default";q=2;w=60'),
        (RateLimiter(1, per=9.5), None),
        (RateLimiter(0.5), None),
        (RateLimiter(1, per=1e20), None),
        (RateLimiter(limits=[Limit(1), Limit(9, per=60)]), None),
        (RateLimiter(limits=[Limit(1, unit="tokens")], cost={"tokens": 1}), None),
    ):
        app = ResilientMiddleware(hello, Pipeline(limiter))
        refused = await Visit(app)()
        while refused.status == 200:
            refused = await Visit(app)()
        assert expected == refused.headers.get("ratelimit-policy")
        raw = [
            (name.encode(), value.encode()) for name, value in refused.headers.items()
        ]
        allowance = response_headers.read(raw, 0.0).allowances[0]
        assert ("requests", 0) == (allowance.unit, allowance.remaining)


@in_async_colours
async def test_a_429_says_when_to_come_back(w: World) -> None:
    """`Retry-After` in whole seconds, and `RateLimit` unless that is unwanted."""
    for wanted, expected in ((True, '"default";r=0;t=10'), (False, None)):
        app = ResilientMiddleware(
            hello, Pipeline(RateLimiter(1, per=9.5)), rate_limit_headers=wanted
        )
        await Visit(app)()
        refused = await Visit(app)()

        assert (429, "10") == (refused.status, refused.headers["retry-after"])
        assert expected == refused.headers.get("ratelimit")


# -- Deadlines


async def tell_time(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with the seconds it has left."""
    left = remaining()
    await answer(send, 200, b"null" if left is None else b"%.3f" % left)


@in_async_colours
async def test_a_caller_says_how_much_time_it_has(w: World) -> None:
    """What cannot be read is ignored; what is too long is capped; 0 is refused."""
    app = ResilientMiddleware(tell_time, Timeout(None), deadline_header=MS)

    async def left(*values: bytes) -> Any:
        named = [(b"x-request-timeout-ms", value) for value in values]
        visit = await Visit(app, headers=named)()
        return visit.json if visit.status == 200 else visit.status

    assert 1.5 == await left(b"1500")
    assert 0.5 == await left(b"500.0")
    assert 30.0 == await left(b"9999999")
    for unread in (b"-1", b"abc", b"1e9", b"1" + b"0" * 40, b"", b"nan", b" 1"):
        assert await left(unread) is None
    assert await left(b"1500", b"1500") is None
    assert await left() is None
    assert 504 == await left(b"0")


@in_async_colours
async def test_a_request_without_enough_time_is_not_begun(w: World) -> None:
    """Work that cannot end is answered 504 at once."""
    slow = Slow(0.1)
    app = ResilientMiddleware(slow, deadline_header=MS, min_deadline=0.2)

    for value, status in ((b"199", 504), (b"200", 200)):
        visit = await Visit(app, headers=[(b"x-request-timeout-ms", value)])()
        assert status == visit.status
    assert 1 == slow.calls


@in_async_colours
async def test_what_is_left_travels_on(w: World) -> None:
    """A transport of ours tells the next service, by the same field."""
    told: list[str] = []

    def upstream(request: httpx.Request) -> httpx.Response:
        told.append(request.headers[MS[0]])
        return httpx.Response(200)

    async def ask(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(0.5)
        transport = ResilientTransport(
            inner=httpx.MockTransport(upstream), deadline_header=MS
        )
        async with httpx.AsyncClient(transport=transport) as client:
            await client.get("http://next.example/")
        await answer(send)

    app = ResilientMiddleware(ask, deadline_header=MS)
    visit = await Visit(app, headers=[(b"x-request-timeout-ms", b"1500")])()

    assert (200, ["1000"]) == (visit.status, told)


@in_async_colours
async def test_the_deadline_of_a_caller_is_kept_without_a_timeout(w: World) -> None:
    """The application is cancelled at the moment that the header means."""
    slow, limit = Slow(2), slots(1)
    app = ResilientMiddleware(slow, Pipeline(limit), deadline_header=MS)

    visit = await Visit(app, headers=[(b"x-request-timeout-ms", b"1500")])()

    assert (504, 1, 0) == (visit.status, slow.cancelled, limit.in_flight)
    assert 1.5 == w.now()


@in_async_colours
async def test_a_deadline_around_the_server_is_not_lengthened(w: World) -> None:
    """A header only shortens."""
    app = ResilientMiddleware(tell_time, Timeout(None), deadline_header=MS)
    visit = Visit(app, headers=[(b"x-request-timeout-ms", b"1500")])

    with deadline_after(1):
        await visit()

    assert 1.0 == visit.json


@in_async_colours
async def test_no_deadline_outlives_its_request(w: World) -> None:
    """Neither in a background task nor in a task that the application left."""
    seen: list[float | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with deadline_after(60):
            seen.append(remaining())
        with deadline_after(0.5):
            seen.append(remaining())
        await answer(send)
        await anyio.sleep(20)
        seen.append(current_deadline())

    await Visit(ResilientMiddleware(app, Timeout(10)))()

    assert [10.0, 0.5, None] == seen


# -- Too late


@in_async_colours
async def test_a_timeout_is_answered_504(w: World) -> None:
    """The application is cancelled once, and its slot is back."""
    slow, limit = Slow(60), slots(1)
    visit = await Visit(ResilientMiddleware(slow, Pipeline(Timeout(2), limit)))()

    assert (504, b"Gateway Timeout\n") == (visit.status, visit.body)
    assert (1, 0, 2.0) == (slow.cancelled, limit.in_flight, w.now())


@in_async_colours
async def test_an_answer_that_comes_too_late_is_dropped(w: World) -> None:
    """One that swallows its cancellation holds its slot to its real end."""
    limit = slots(1)
    held: list[int] = []

    async def stubborn(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
        except anyio.get_cancelled_exc_class():
            await anyio.sleep(3)
        held.append(limit.in_flight)
        await answer(send, 200, b"late")

    visit = Visit(ResilientMiddleware(stubborn, Pipeline(Timeout(2), limit)))

    async def look() -> None:
        await w.sleep(3)
        assert 504 == visit.status

    assert None is (await w.gather(visit, look))[1]
    assert (504, [1], 0) == (visit.status, held, limit.in_flight)
    assert b"Gateway Timeout\n" == visit.body


@in_async_colours
async def test_a_stream_is_cut_at_the_total_limit(w: World) -> None:
    """There is no second status: the server sees that the response is short."""
    limit = slots(1)
    cancelled: list[float] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send(
                    {"type": "http.response.body", "body": b"x", "more_body": True}
                )
                assert 1 == limit.in_flight
                await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            cancelled.append(w.now())
            raise

    pipeline = Pipeline(Timeout(3.5), limit)
    visit = await Visit(ResilientMiddleware(stream, pipeline))()

    assert ([200], b"xxxx", [3.5]) == (visit.statuses, visit.body, cancelled)
    assert 0 == limit.in_flight


@in_async_colours
async def test_a_stream_is_cut_at_its_callers_deadline(w: World) -> None:
    """Where that comes first, or where there is no limit of ours."""

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await anyio.sleep(60)

    for pipeline in (Timeout(50), Timeout(None)):
        began = w.now()
        app = ResilientMiddleware(stream, pipeline, deadline_header=MS)
        visit = await Visit(app, headers=[(b"x-request-timeout-ms", b"1500")])()

        assert ([200], 1.5) == (visit.statuses, w.now() - began)


@in_async_colours
async def test_a_slow_client_holds_no_slot_beyond_the_limit(w: World) -> None:
    """Neither one that sends slowly nor one that reads slowly."""

    async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            """Read on."""
        while True:
            await answer(send, 200, b"much", b"more")

    async def trickle() -> Any:
        await w.sleep(1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def stuck(message: Any) -> None:
        await anyio.sleep(3600)

    limit = slots(1)
    app = ResilientMiddleware(read_all, Pipeline(Timeout(4.5), limit))
    sending = Visit(app, headers=[(b"content-length", b"100")])
    sending.receive = trickle  # type: ignore[method-assign]  # a server's own
    reading = Visit(app)
    reading.send = stuck  # type: ignore[method-assign]  # a server's own

    for visit, statuses in ((sending, [504]), (reading, [])):
        began = w.now()
        await visit()
        assert (statuses, 4.5) == (visit.statuses, w.now() - began)
        assert 0 == limit.in_flight


@in_async_colours
async def test_a_write_that_nothing_cuts_holds_no_slot_beyond_the_limit(
    w: World,
) -> None:
    """As that of hypercorn on trio, while its client reads nothing."""

    async def stuck(message: Any) -> None:
        until = w.now() + 60
        while w.now() < until:
            with suppress(asyncio.CancelledError), anyio.CancelScope(shield=True):
                await anyio.sleep(until - w.now())

    limit = slots(1)
    visit = Visit(ResilientMiddleware(hello, Pipeline(Timeout(5), limit)))
    visit.send = stuck  # type: ignore[method-assign]  # a server's own
    seen: list[int] = []

    await w.gather(
        visit,
        lambda: later(w, 4, lambda: seen.append(limit.in_flight)),
        lambda: later(w, 6, lambda: seen.append(limit.in_flight)),
    )
    assert ([1, 0], 60.0) == (seen, w.now())


# -- Clients that go


@in_async_colours
async def test_a_client_that_goes_frees_its_slot(w: World) -> None:
    """The application is cancelled once; nothing is learnt from it."""
    slow, limit = Slow(60), slots(1)
    settled: list[object] = []

    class Watching(AdmissionPolicy):
        def admit(self, call: Any) -> object:
            return object()

        def settle(self, permit: Any, outcome: Any) -> None:
            settled.append(outcome)

    app = ResilientMiddleware(slow, Pipeline(Timeout(30), limit, Watching()))
    visit = Visit(app)

    await w.gather(visit, lambda: later(w, 1, visit.leave))

    assert (1, 0, 1.0) == (slow.cancelled, limit.in_flight, w.now())
    assert ([None], []) == (settled, visit.sent)


@in_async_colours
async def test_a_client_that_goes_ends_its_stream(w: World) -> None:
    """Though the server's `send` never says that the client is gone."""
    ended: list[float] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await anyio.sleep(60)
        finally:
            ended.append(w.now())

    limit = slots(1)
    visit = Visit(ResilientMiddleware(stream, Pipeline(limit)))

    await w.gather(visit, lambda: later(w, 1, visit.leave))

    assert ([1.0], 0) == (ended, limit.in_flight)


@in_async_colours
async def test_a_body_is_not_read_ahead(w: World) -> None:
    """A client that goes before its body was read is noticed by the reader alone."""
    slow = Slow(2)
    body = [(b"content-length", b"5")]
    visit = Visit(ResilientMiddleware(slow), headers=body)

    await w.gather(visit, lambda: later(w, 1, visit.leave))

    assert (200, 0, 0) == (visit.status, slow.cancelled, visit.reads)


@in_async_colours
async def test_what_was_read_ahead_reaches_the_application(w: World) -> None:
    """A request that names no body may have one; one message is kept for it."""
    parts: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(1)
        while True:
            message = await receive()
            parts.append(message.get("body", message["type"]))
            if not message.get("more_body"):
                break
        await answer(send)

    for messages in (
        [b"whole"],
        [b"one", b"two"],
        [b"one", b"two", b"three"],
    ):
        parts.clear()
        visit = Visit(
            ResilientMiddleware(app),
            messages=[
                {
                    "type": "http.request",
                    "body": piece,
                    "more_body": piece is not messages[-1],
                }
                for piece in messages
            ],
        )
        await visit()

        assert (200, messages) == (visit.status, parts)


@in_async_colours
async def test_an_application_may_wait_for_the_disconnect_itself(w: World) -> None:
    """As streams and long polls do: before and after ours looks for it."""
    heard: list[tuple[str, float]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(scope["path"] == "/late" and 0.5)
        while True:
            message = await receive()
            heard.append((message["type"], w.now()))
            if message["type"] == "http.disconnect":
                break
        assert {"type": "http.disconnect"} == await receive()

    for path in ("/", "/late"):
        began = w.now()
        visit = Visit(ResilientMiddleware(app), path)
        await w.gather(visit, lambda visit=visit: later(w, 1, visit.leave))

        assert began + 1 == w.now()
        assert "http.request" == heard[0][0]
        heard.clear()


@in_async_colours
async def test_an_application_that_stops_reading_is_watched_again(w: World) -> None:
    """One that polls for the disconnect leaves the rest to us."""
    slow = Slow(60)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        with anyio.move_on_after(0.5):
            await receive()
        await slow(scope, receive, send)

    visit = Visit(ResilientMiddleware(app))

    await w.gather(visit, lambda: later(w, 1, visit.leave))

    assert (1, 1.0) == (slow.cancelled, w.now())


@in_async_colours
async def test_an_answer_wins_over_a_disconnect_in_the_same_turn(w: World) -> None:
    """What has been sent is a success."""
    limit = slots(1)
    visit = Visit(hello)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(1)
        visit.leave()
        await answer(send, 200, b"in time")
        await anyio.sleep(1)

    visit.app = ResilientMiddleware(app, Pipeline(limit))
    await visit()

    assert (200, b"in time", 2.0) == (visit.status, visit.body, w.now())


@in_async_colours
async def test_a_disconnect_that_a_server_gives_as_it_sends_the_end(w: World) -> None:
    """It tells that the exchange is over, before the last byte has been sent."""
    visit = Visit(hello)

    async def send(message: Any) -> None:
        visit.sent.append(message)
        if message["type"] == "http.response.body":
            visit.leave()
            await anyio.sleep(1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep(1)
        await answer(send, 200, b"bye")
        await anyio.sleep(1)

    visit.send = send  # type: ignore[method-assign]  # a server's own
    visit.app = ResilientMiddleware(app, Pipeline(slots(1)))
    await visit()

    assert (200, b"bye", 3.0) == (visit.status, visit.body, w.now())


@in_async_colours
async def test_a_disconnect_need_not_cancel(w: World) -> None:
    """By a flag, or by what the request is; the slot is held to the end."""
    for cancels, cancelled in (
        (False, 0),
        (True, 1),
        (lambda scope: scope["method"] != "POST", 0),
        (lambda scope: scope["method"] == "POST", 1),
    ):
        slow = Slow(2)
        app = ResilientMiddleware(slow, cancel_on_disconnect=cancels)
        visit = Visit(app)
        visit.scope["method"] = "POST"

        await w.gather(visit, lambda visit=visit: later(w, 1, visit.leave))

        assert cancelled == slow.cancelled


@in_async_colours
async def test_an_application_that_reads_is_told_without_our_watching(w: World) -> None:
    """Where a disconnect cancels nothing, `receive` is the server's."""
    visit = Visit(hello)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        visit.leave()
        await receive()
        assert {"type": "http.disconnect"} == await receive()
        await answer(send)

    visit.app = ResilientMiddleware(app, cancel_on_disconnect=False)
    assert 200 == (await visit()).status


@in_async_colours
async def test_a_server_may_tell_of_a_lost_connection_by_an_error(w: World) -> None:
    """An error of its `receive`, while we watch, is a disconnect."""
    slow = Slow(60)
    visit = Visit(ResilientMiddleware(slow))

    async def receive() -> Any:
        raise ConnectionResetError

    visit.receive = receive  # type: ignore[method-assign]  # a server's own
    await visit()

    assert (1, []) == (slow.cancelled, visit.sent)


@in_async_colours
async def test_a_server_that_never_stops_is_not_asked_for_ever(w: World) -> None:
    """One that gives the same message again would keep the loop to itself."""
    slow = Slow(1)
    visit = Visit(ResilientMiddleware(slow))
    asked: list[None] = []

    async def receive() -> Any:
        asked.append(None)
        assert len(asked) < 10
        return {"type": "http.request", "body": b"", "more_body": False}

    visit.receive = receive  # type: ignore[method-assign]  # a server's own
    await visit()

    assert (200, 2) == (visit.status, len(asked))


@in_async_colours
async def test_work_after_the_last_byte_is_the_applications_own(w: World) -> None:
    """No disconnect cancels it, no limit, and it holds no slot."""
    limit = slots(1)
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 200, b"bye")
        await anyio.sleep(10)
        seen.append((limit.in_flight, w.now()))

    visit = Visit(ResilientMiddleware(app, Pipeline(Timeout(5), limit)))

    await w.gather(visit, lambda: later(w, 1, visit.leave))

    assert (200, [(0, 10.0)]) == (visit.status, seen)


@in_async_colours
async def test_a_server_that_cancels_cancels_the_application(w: World) -> None:
    """In each stage; nothing stays behind."""

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await slow(scope, receive, send)

    async def background(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)
        await slow(scope, receive, send)

    slow = Slow(60)
    for app in (slow, stream, background):
        slow.cancelled = 0
        limit = slots(1)
        middleware = ResilientMiddleware(app, Pipeline(Timeout(20), limit))
        with anyio.move_on_after(1):
            await Visit(middleware)()

        assert (1, 0, 0) == (slow.cancelled, limit.in_flight, middleware.in_flight)


def test_a_request_that_a_loop_drops_gives_everything_back() -> None:
    """By a loop that shuts down, or the collector: nothing can be awaited."""
    slow, limit = Slow(60), slots(1)

    async def scenario(w: World) -> None:
        request = Visit(ResilientMiddleware(slow, Pipeline(Timeout(20), limit)))()
        contextvars.copy_context().run(request.send, None)
        await w.sleep(1)
        assert 1 == limit.in_flight
        request.close()
        await w.sleep(1)

    World("asyncio").run(scenario)
    assert (1, 0) == (slow.cancelled, limit.in_flight)


@in_async_colours
async def test_a_deadline_may_be_too_near_to_watch_the_client(w: World) -> None:
    """It is met all the same."""
    app = ResilientMiddleware(Slow(60), Timeout(None), deadline_header=MS)

    visit = await Visit(app, headers=[(b"x-request-timeout-ms", b"5")])()

    assert (504, 0.005) == (visit.status, pytest.approx(w.now()))


# -- What an application does


@in_async_colours
async def test_what_an_application_raises_goes_to_the_server(w: World) -> None:
    """Unchanged; it counts as a failure."""
    error = LookupError("bug")
    verdicts: list[object] = []

    def note(outcome: Any) -> Verdict:
        verdicts.append(outcome.verdict)
        return outcome.verdict

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    limit = slots(1)
    middleware = ResilientMiddleware(app, Pipeline(limit, classify=note))
    with pytest.raises(LookupError) as caught:
        await Visit(middleware)()

    assert caught.value is error
    assert ([Verdict.FAILURE], 0) == (verdicts, limit.in_flight)


@in_async_colours
async def test_an_error_in_mid_stream_goes_to_the_server(w: World) -> None:
    """And so does one after the last byte."""

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/late":
            await anyio.sleep(0.1)
        if scope["path"] == "/background":
            await send({"type": "http.response.body", "body": b""})
            await anyio.sleep(0.1)
        raise LookupError("bug")

    limit = slots(1)
    for path in ("/", "/late", "/background"):
        visit = Visit(ResilientMiddleware(stream, Pipeline(limit)), path)
        with pytest.raises(LookupError, match="bug"):
            await visit()
        assert ([200], 0) == (visit.statuses, limit.in_flight)


@in_async_colours
async def test_statuses_from_500_on_are_failures(w: World) -> None:
    """What is below is the client's fault, and a success."""
    verdicts: list[Any] = []

    def note(outcome: Any) -> Verdict:
        verdicts.append((outcome.value, outcome.verdict))
        return outcome.verdict

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, int(scope["path"][1:]))

    middleware = ResilientMiddleware(app, Pipeline(Timeout(1), classify=note))
    for status in (200, 404, 500, 503):
        await Visit(middleware, f"/{status}")()

    assert [
        (200, Verdict.SUCCESS),
        (404, Verdict.SUCCESS),
        (500, Verdict.FAILURE),
        (503, Verdict.FAILURE),
    ] == verdicts


@in_async_colours
async def test_an_application_may_return_without_an_answer(w: World) -> None:
    """What the server makes of it is the server's."""

    async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
        """Return."""

    limit = slots(1)
    visit = await Visit(ResilientMiddleware(nothing, Pipeline(limit)))()

    assert ([], 0) == (visit.sent, limit.in_flight)


@in_async_colours
async def test_an_application_may_return_in_mid_stream(w: World) -> None:
    """As one does whose client is gone."""

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await anyio.sleep(1)

    limit = slots(1)
    visit = await Visit(ResilientMiddleware(half, Pipeline(limit)))()

    assert ([200], 0) == (visit.statuses, limit.in_flight)


def test_an_application_that_cancels_itself_is_no_timeout() -> None:
    """Its CancelledError goes on as it came, and its slot is back."""
    limit = slots(1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError("own")

    async def scenario(w: World) -> None:
        await Visit(ResilientMiddleware(app, Pipeline(Timeout(5), limit)))()

    with pytest.raises(asyncio.CancelledError):
        World("asyncio").run(scenario)
    assert 0 == limit.in_flight


@in_async_colours
async def test_an_error_about_no_request_goes_to_the_server(w: World) -> None:
    """That of a supervisor in the application: a 500, as of any bug."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RestartLimitError("worker", 6, 5, 60.0)

    visit = Visit(ResilientMiddleware(app))
    with pytest.raises(RestartLimitError):
        await visit()
    assert [] == visit.sent


@in_async_colours
async def test_an_error_of_ours_is_answered_where_no_answer_began(w: World) -> None:
    """A route's own pipeline that rejects is no bug of the application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await answer(send)
        raise CircuitOpenError("payments", 12.3)

    middleware = ResilientMiddleware(app, Timeout(5))
    visit = await Visit(middleware)()

    assert (503, "13") == (visit.status, visit.headers["retry-after"])
    assert b"payments" not in visit.body
    with pytest.raises(CircuitOpenError):
        await Visit(middleware, "/late")()


@in_async_colours
async def test_a_handler_of_a_framework_answers_in_the_same_way(w: World) -> None:
    """What it returns is an ASGI application, with the request's own wishes."""

    class Request:
        scope = Visit(hello, headers=[(b"accept", b"application/json")]).scope

    app = await exception_handler(Request(), RateLimitedError("secret", 2.5))
    visit = await Visit(app)()

    assert (429, "3") == (visit.status, visit.headers["retry-after"])
    assert {"type": "about:blank", "title": "Too Many Requests", "status": 429} == (
        visit.json
    )
    plain = await Visit(await exception_handler(None, RateLimitedError("x", 1)))()
    assert b"Too Many Requests\n" == plain.body
    with pytest.raises(RestartLimitError, match="workers"):
        await exception_handler(Request(), RestartLimitError("workers", 6, 5, 31.0))


# -- WebSockets and the rest


async def talk(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that keeps a WebSocket for a minute."""
    await receive()
    await send({"type": "websocket.accept"})
    await anyio.sleep(60)
    await send({"type": "websocket.close", "code": 1000})


@in_async_colours
async def test_a_websocket_holds_its_slot_to_its_end(w: World) -> None:
    """No limit of time cuts it once it was accepted."""
    limit = slots(1)
    app = ResilientMiddleware(
        talk, Pipeline(Timeout(5), limit), deadline_header=MS, max_deadline=1
    )
    hurry = [(b"x-request-timeout-ms", b"100")]
    first = Visit(app, kind="websocket", headers=hurry)
    second = Visit(app, kind="websocket")

    async def come_second() -> None:
        await w.sleep(30)
        await second()

    await w.gather(first, come_second)

    kinds = [one["type"] for one in first.sent]
    assert ["websocket.accept", "websocket.close"] == kinds
    assert [{"type": "websocket.close", "code": 1013}] == second.sent
    assert (60.0, 0) == (w.now(), limit.in_flight)


@in_async_colours
async def test_a_websocket_is_refused_by_a_response_where_that_is_known(
    w: World,
) -> None:
    """The server has the extension, and so the client learns when to come back."""
    app = ResilientMiddleware(talk, Pipeline(RateLimiter(1, per=3600)))
    known = {"websocket.http.response": {}}
    first = Visit(app, kind="websocket", extensions=known)
    await first()
    refused = Visit(app, kind="websocket", extensions=known)
    await refused()

    assert "websocket.http.response.start" == refused.sent[0]["type"]
    assert 429 == refused.status


@in_async_colours
async def test_a_websocket_that_is_not_accepted_in_time_is_refused(w: World) -> None:
    """Until then it is a request as any other."""
    visit = Visit(ResilientMiddleware(Slow(60), Timeout(5)), kind="websocket")
    await visit()

    assert ([{"type": "websocket.close", "code": 1013}], 5.0) == (visit.sent, w.now())


@in_async_colours
async def test_what_is_no_request_is_passed_on(w: World) -> None:
    """The lifespan, and types that are still to come."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    for kind in ("lifespan", "webtransport"):
        visit = Visit(ResilientMiddleware(app))
        visit.scope = {"type": kind}
        await visit()

    assert ["lifespan", "webtransport"] == seen


@in_async_colours
async def test_an_inner_middleware_only_shortens_the_deadline(w: World) -> None:
    """An application mounted in another one takes no second slot."""
    limit = slots(1)
    inner = ResilientMiddleware(
        tell_time, Pipeline(limit), deadline_header=MS, max_deadline=1
    )
    outer = ResilientMiddleware(inner, Pipeline(limit), deadline_header=MS)

    hurried = Visit(outer, headers=[(b"x-request-timeout-ms", b"1500")])
    assert 1.0 == (await hurried()).json
    assert None is (await Visit(outer, extensions={"http.response.push": {}})()).json


# -- Our own answers


@in_async_colours
async def test_pages_of_other_origins_may_read_our_answers(w: World) -> None:
    """A browser would else show them a network error in the place of a 429."""
    shop = b"https://shop.example"
    for allowed, origin, expected in (
        ((), shop, None),
        (["https://shop.example"], shop, "https://shop.example"),
        (["https://shop.example"], b"https://evil.example", None),
        (["https://shop.example"], None, None),
        (["*"], shop, "*"),
    ):
        app = ResilientMiddleware(
            hello, Pipeline(RateLimiter(1)), allow_origins=allowed
        )
        await Visit(app)()
        headers = [] if origin is None else [(b"origin", origin)]
        refused = await Visit(app, headers=headers)()

        assert expected == refused.headers.get("access-control-allow-origin")
        read = refused.headers.get("access-control-expose-headers")
        assert read == (
            None if expected is None else "Retry-After, RateLimit, RateLimit-Policy"
        )


@in_async_colours
async def test_a_rejection_may_be_answered_otherwise(w: World) -> None:
    """`on_rejected` sees each error of ours, and may answer it."""
    seen: list[str] = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send, 503, b"<h1>Busy</h1>")

    def busy(scope: Scope, error: ResilientError) -> App | None:
        seen.append(type(error).__name__)
        return page if scope["path"] == "/page" else None

    app = ResilientMiddleware(hello, Pipeline(RateLimiter(1, per=60)), on_rejected=busy)
    bodies = [(await Visit(app, path)()).body for path in ("/", "/", "/page")]

    assert [b"hello", b"Too Many Requests\n", b"<h1>Busy</h1>"] == bodies
    assert ["RateLimitedError", "RateLimitedError"] == seen


def test_only_errors_of_ours_have_an_answer() -> None:
    """What is no rejection and no timeout is a bug of the caller."""
    assert 504 == error_answer(TimeoutExceededError("x", 1, 1)).status
    assert "<Answer 504>" == repr(error_answer(TimeoutExceededError("x", 1, 1)))
    with pytest.raises(TypeError, match="`error` must be a rejection or a timeout"):
        error_answer(ResilientError("x"))


@in_async_colours
async def test_nothing_is_left_to_the_collector(w: World) -> None:
    """Neither of a request that fails nor of one that is refused or cut."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("bug")

    for app, pipeline in (
        (hello, Timeout(5)),
        (broken, Timeout(5)),
        (hello, Pipeline(Timeout(5), RateLimiter(1, per=3600))),
    ):
        middleware = ResilientMiddleware(app, pipeline)

        async def visit(middleware: App = middleware) -> None:
            try:
                await Visit(middleware)()
            except LookupError:
                pass

        await visit()
        with no_garbage():
            await visit()


# -- Arguments


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"pipeline": "x"}, "`pipeline` must be a Pipeline or a policy, got 'x'"),
        ({"pipeline": Retry(OSError)}, "has no meaning in front of an application"),
        ({"pipeline": Pipeline(Fallback(1))}, "has no meaning in front of an app"),
        ({"pipeline": Coalesce()}, "answer it from elsewhere"),
        ({"pipeline": StaleCache(1, 1)}, "has no meaning in front of"),
        ({"pipeline": Timeout(1, abandon=True)}, "runs plain functions in threads"),
        ({"exempt": "/livez"}, "`exempt` must be a list of strings, got '/livez'"),
        ({"exempt": [1]}, r"`exempt` must be a list of strings, got \[1\]"),
        ({"exempt": None}, "`exempt` must be a list of strings, got None"),
        ({"allow_origins": "*"}, r"`allow_origins` must be a list of strings"),
        ({"max_deadline": 0}, "`max_deadline` must be > 0 seconds, got 0"),
        ({"max_deadline": -1}, "`max_deadline` must be > 0 seconds, got -1"),
        ({"min_deadline": -1}, "`min_deadline` must be >= 0 seconds, got -1"),
        ({"cancel_on_disconnect": 1}, "`cancel_on_disconnect` must be"),
        ({"rate_limit_headers": 1}, "`rate_limit_headers` must be"),
        ({"deadline_header": "x"}, "`deadline_header` must be a name and a unit"),
        ({"deadline_header": ("x", "h")}, "`deadline_header` must be a name and a"),
        ({"deadline_header": ("x",)}, "`deadline_header` must be a name and a unit"),
        ({"deadline_header": 7}, "`deadline_header` must be a name and a unit"),
        ({"deadline_header": ("x\r\ny", "s")}, "`deadline_header` must name a header"),
        ({"deadline_header": ("", "s")}, "`deadline_header` must name a header field"),
        ({"client": 7}, "`client` must be"),
        ({"priority": "critical"}, "`priority` must be"),
        ({"on_rejected": 7}, "`on_rejected` must be"),
        ({"app": None}, "`app` must be an ASGI application, got None"),
    ],
)
def test_arguments_without_a_meaning_are_refused(
    arguments: dict[str, Any], text: str
) -> None:
    """When it is built, and by name."""
    with pytest.raises((TypeError, ValueError), match=text):
        ResilientMiddleware(**{"app": hello, **arguments})


def test_a_middleware_shows_what_it_is() -> None:
    """The application and the pipeline."""
    pipeline = Pipeline(Timeout(1))
    app = ResilientMiddleware(hello, pipeline)

    assert pipeline is app.pipeline
    assert repr(app).startswith("ResilientMiddleware(<function hello")
    assert repr(app).endswith("Pipeline(Timeout(1.0)))")


def test_the_standard_pipeline_is_the_one_in_its_documentation() -> None:
    """Total limit, a policy a client, an adaptive limit."""
    names = [
        type(one).__name__
        for one in standard_server_pipeline(
            per_client=lambda client: RateLimiter(1)
        ).policies
    ]

    assert ["Timeout", "PerKey", "AdaptiveConcurrency"] == names
    assert "server" == ResilientMiddleware(hello).pipeline.label
