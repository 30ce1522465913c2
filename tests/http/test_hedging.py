"""`Hedge` in a transport: several exchanges at once for one request."""

from __future__ import annotations

import io
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.http.families import (
    URL,
    Http,
    in_async_clients,
    in_every_client,
    in_sync_clients,
)

from resilient import (
    Balance,
    Bulkhead,
    Call,
    Fallback,
    Hedge,
    Outcome,
    Pipeline,
    Policy,
    ResilientWarning,
    Retry,
    Timeout,
    constant,
)
from resilient._edges.steps import leaf
from resilient._runtimes import clock
from resilient._runtimes.sync import SYNC
from resilient.testing import _virtual_clock


class Interrupted(BaseException):
    """As Ctrl-C, which pytest would take for its own."""


@pytest.fixture(autouse=True)
def _patient_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let virtual time wait for the test's thread while others sleep."""
    monkeypatch.setattr(_virtual_clock, "GRACE", 5.0)


def hedge(delay: float = 1, **kw: Any) -> Hedge:
    """Return one that every client may use."""
    return Hedge(delay, **{"max_threads": 9, "budget": None, **kw})


def after(h: Http, seconds: float, answer: Any) -> Callable[[Any], Awaitable[Any]]:
    """Make a step that answers after some seconds."""

    async def step(request: Any) -> Any:
        try:
            await h.sleep(seconds)
        except BaseException:
            h.note("cancelled")
            raise
        if isinstance(answer, BaseException):
            raise answer
        return h.library.Response(answer) if isinstance(answer, int) else answer

    return step


def within(h: Http, *policies: Policy[Any]) -> Pipeline[Any]:
    """Make a pipeline, in any order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResilientWarning)
        return Pipeline(*policies, classify=h.ours.http_verdict)


def events(h: Http, *kinds: str) -> list[str]:
    """Return what happened, of some kinds."""
    return [event for event, _ in h.log if event in kinds]


def summary(response: Any) -> Any:
    """Return what was done for a response."""
    return response.extensions.get("resilient")


@in_every_client
async def test_a_slow_request_is_sent_a_second_time(h: Http) -> None:
    """The first that answers wins, and its body streams; the other is given up."""
    late = h.response(200, b"late")
    script = h.script(
        after(h, 50, late), h.response(200, b"in ", 1, b"time"), reads=False
    )
    async with h.client(script, within(h, hedge())) as client:
        async with h.stream(client) as response:
            assert 1 == h.now()
            assert b"in time" == await h.read(response)
            assert 2 == h.now()
            assert summary(response).attempts == 2
        assert [0, 1] == script.times
        assert [None, 1] == [
            sent.extensions.get("http.request.resend_count") for sent in script.sent
        ]
        if h.is_sync:
            await h.sleep(100)
            assert 1 <= late.stream.closings
        else:
            assert ["cancelled"] == events(h, "cancelled")


@in_every_client
async def test_a_fast_request_is_sent_once(h: Http) -> None:
    """It is as if there were no hedge."""
    script = h.script(200)
    async with h.client(script, within(h, hedge())) as client:
        response = await h.get(client)
    assert (1, None) == (len(script.sent), summary(response))


@in_every_client
async def test_after_a_failure_the_next_is_sent_at_once(h: Http) -> None:
    """What it answered is closed, and what that held given back."""
    bad, inside, outside = h.response(503, b"down"), Bulkhead(2), Bulkhead(1)
    script = h.script(bad, h.response(200, b"well"))
    async with h.client(script, within(h, outside, hedge(5), inside)) as client:
        async with h.stream(client) as response:
            assert (200, 0) == (response.status_code, h.now())
            assert 1 <= bad.stream.closings
            assert (1, 1) == (inside.in_use, outside.in_use)
            assert b"well" == await h.read(response)
        assert (0, 0) == (inside.in_use, outside.in_use)


@in_every_client
async def test_where_all_fail_the_first_answer_is_returned(h: Http) -> None:
    """The others are closed."""
    first, second = h.response(503, b"first"), h.response(502, b"second")
    async with h.client(h.script(first, second), within(h, hedge())) as client:
        async with h.stream(client) as response:
            assert 503 == response.status_code
            assert b"first" == await h.read(response)
            assert (2, None, None) == summary(response)
    assert 1 <= second.stream.closings


@in_every_client
async def test_where_all_fail_the_first_error_is_raised(h: Http) -> None:
    """The other's hangs on it; it is the client's own."""
    script = h.script(h.library.ReadError("first"), h.library.ReadError("second"))
    async with h.client(script, within(h, hedge())) as client:
        error = await h.error(h.library.ReadError, h.get, client)
    assert "first" == str(error)
    assert ["second"] == [str(other) for other in error.__context__.exceptions]


@in_every_client
async def test_what_may_not_be_sent_twice_is_not_hedged(h: Http) -> None:
    """A POST; a body that can be read once; a file that is being read."""

    def once() -> Any:
        yield b"once"

    async def aonce() -> Any:
        yield b"once"

    content = once() if h.is_sync else aonce()
    file = {"file": ("name", io.BytesIO(b"bytes"))}
    for kw in ({}, {"content": content}, {"files": file}):
        method = "PUT" if kw else "POST"
        script = h.script(after(h, 5, 200))
        # NB: the bulkhead keeps the first waiting, before anything is sent.
        async with h.client(script, within(h, hedge(), Bulkhead(1))) as client:
            began = h.now()
            assert 200 == (await h.request(client, method, **kw)).status_code
        assert (1, 5) == (len(script.sent), h.now() - began)


@in_every_client
async def test_what_was_refused_or_is_over_may_be_sent_again(h: Http) -> None:
    """A POST after an error of connecting; a form with a file after a 503."""
    script = h.script(h.library.ConnectError("refused"), 200)
    async with h.client(script, within(h, hedge())) as client:
        assert 200 == (await h.post(client)).status_code
    file = {"file": ("name", io.BytesIO(b"bytes"))}
    script = h.script(503, 200)
    async with h.client(script, within(h, hedge())) as client:
        assert 200 == (await h.request(client, "PUT", files=file)).status_code
    assert script.sent[0].body == script.sent[1].body


@in_every_client
async def test_a_request_with_a_key_is_hedged(h: Http) -> None:
    """With the same one; each tells its own deadline."""
    script = h.script(after(h, 50, 200), 200)
    async with h.client(
        script,
        within(h, Timeout(60), hedge()),
        idempotency_key=True,
        deadline_header=("X-Left", "s"),
    ) as client:
        assert 200 == (await h.post(client, content=b"pay")).status_code
    first, second = script.sent
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert ["60.000", "59.000"] == [s.headers["x-left"] for s in script.sent]
    assert b"pay" == first.body == second.body


@in_every_client
async def test_retries_around_begin_the_race_anew(h: Http) -> None:
    """What the last one ended with is closed before."""
    bad = h.response(503, b"down")
    script = h.script(503, bad, 503, h.response(200, b"well"))
    async with h.client(script, h.retry(hedge())) as client:
        async with h.stream(client) as response:
            assert 1 <= bad.stream.closings
            assert b"well" == await h.read(response)
            assert 4 == summary(response).attempts
    assert [0, 0, 1, 1] == script.times


@in_every_client
async def test_a_streamed_answer_that_is_not_wanted_is_closed_by_the_retry(
    h: Http,
) -> None:
    """It was the race's, and then the request's."""
    first, bulkhead = h.response(503, b"down", length=4), Bulkhead(1)
    script = h.script(first, 503, 200)
    pipeline = h.retry(hedge(), bulkhead)
    async with h.client(script, pipeline, read_body=False) as client:
        assert 200 == (await h.get(client)).status_code
    assert ["drained", "closed"] == events(h, "drained", "closed")
    assert 0 == bulkhead.in_use


@in_every_client
async def test_retries_inside_are_each_attempts_own(h: Http) -> None:
    """A form with a file may be sent again by them; why they stopped is told."""
    script = h.script(503)
    pipeline = within(h, hedge(50), Retry(attempts=2, backoff=constant(1)))
    async with h.client(script, pipeline) as client:
        file = {"file": ("name", io.BytesIO(b"bytes"))}
        response = await h.request(client, "PUT", files=file)
    assert (503, (4, "attempts", None)) == (response.status_code, summary(response))


@in_every_client
async def test_a_limit_inside_bounds_the_body_too(h: Http) -> None:
    """And one outside, whichever is shorter."""
    for pipeline in (
        within(h, hedge(), Timeout(5)),
        within(h, Timeout(6), hedge(), Timeout(50)),
        within(h, Timeout(6), hedge()),
    ):
        began = h.now()
        script = h.script(after(h, 50, 200), h.response(200, b"a", 4.5, b"b", 9, b"c"))
        async with h.client(script, pipeline) as client:
            async with h.stream(client) as response:
                await h.error(h.ours.TimeoutExceededError, h.read, response)
        # A sync client is told when the next chunk is there.
        assert 14.5 == h.now() - began if h.is_sync else 6 == h.now() - began


@in_every_client
async def test_a_hedge_goes_to_another_endpoint(h: Http) -> None:
    """Of a `Balance` inside; the caller sees the origin."""
    balance = Balance("https://a.test", "https://b.test")
    script = h.script(after(h, 50, 200), 200)
    pipeline = within(h, hedge(), balance)
    async with h.client(script, pipeline, origin="https://api.test") as client:
        response = await h.get(client)
    assert URL == str(response.request.url)
    hosts = {sent.url for sent in script.sent}
    assert {"https://a.test/things", "https://b.test/things"} == hosts


@in_every_client
async def test_a_hedge_in_a_hedge_is_one_request_too(h: Http) -> None:
    """The streamed body comes through both."""
    script = h.script(after(h, 50, 200), h.response(200, b"well"))
    async with h.client(script, within(h, hedge(9), hedge(1))) as client:
        async with h.stream(client) as response:
            assert b"well" == await h.read(response)
            assert 2 == summary(response).attempts


@in_every_client
async def test_a_fallback_inside_wins_with_a_response_of_its_own(h: Http) -> None:
    """What the server said is closed."""
    bad = h.response(503, b"down")
    spare = h.library.Response(203, content=b"spare")
    pipeline = within(h, hedge(), Fallback(function=lambda error: spare))
    async with h.client(h.script(bad), pipeline) as client:
        assert b"spare" == (await h.get(client)).content
    assert 1 <= bad.stream.closings


@in_every_client
async def test_one_that_is_refused_further_in_sends_nothing(h: Http) -> None:
    """The refusal is the client's error too."""
    bulkhead = Bulkhead(1, max_queue=0)
    script = h.script(after(h, 5, 200))
    async with h.client(script, within(h, hedge(2), bulkhead)) as client:
        with bulkhead.guard():
            error = await h.error(h.ours.BulkheadFullError, h.get, client)
    assert isinstance(error, h.library.TransportError)
    assert [] == script.sent


@in_every_client
async def test_a_server_that_asks_for_less_is_sent_no_hedge(h: Http) -> None:
    """And the next request waits in its line, hedged or not."""
    script = h.script(h.answer(429, retry_after=3), 200)
    async with h.client(script, h.retry(hedge())) as client:
        assert 200 == (await h.get(client)).status_code
        assert 2 == len(script.sent)
        assert 3 <= script.times[1] < 5


@in_async_clients
async def test_a_hedged_request_that_is_cancelled_leaves_nothing_open(
    h: Http,
) -> None:
    """Neither what waits for an answer nor what an attempt still has."""
    bad, inside = h.response(503, b"down"), Bulkhead(2)
    script = h.script(bad, after(h, 50, 200))
    pipeline = within(h, hedge(), inside, Retry(backoff=constant(30)))
    async with h.client(script, pipeline) as client:
        with anyio.move_on_after(5):
            await h.get(client)
        assert ["cancelled"] == events(h, "cancelled")
        assert 1 == bad.stream.closings
        assert 0 == inside.in_use


@in_sync_clients
async def test_an_interrupt_in_a_hedge_closes_what_it_has(h: Http) -> None:
    """Ctrl-C goes on."""
    bad = h.response(503, b"down")
    script = h.script(bad, Interrupted())
    pipeline = within(h, hedge(), Retry(backoff=constant(0)))
    async with h.client(script, pipeline) as client:
        await h.error(Interrupted, h.get, client)
    assert 1 == bad.stream.closings


@in_every_client
async def test_what_a_policy_unwinds_is_closed(h: Http) -> None:
    """Its answer was there, and reached no one."""

    class Breaks(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            await proceed(call)
            raise Interrupted

    answer, inside = h.response(200, b"well"), Bulkhead(1)
    async with h.client(
        h.script(answer), within(h, hedge(), Breaks(), inside)
    ) as client:
        await h.error(Interrupted, h.get, client)
    assert (1, 0) == (answer.stream.closings, inside.in_use)


@in_async_clients
async def test_an_attempt_that_is_closed_where_nothing_can_wait_gives_back(
    h: Http,
) -> None:
    """As by a loop that shuts down: its connection is lost."""
    inside = Bulkhead(1)
    attempts: list[Any] = []

    class Alone(Policy[Any]):
        """Runs what is inside as a `Hedge` would, and stops in the middle."""

        async def around(self, proceed: Any, call: Any) -> Outcome:
            attempt = call.fork(0, proceed)
            attempts.append(attempt)
            running = attempt.run()
            running.send(None)
            running.close()
            return Outcome(h.library.Response(203))

    pipeline = within(h, Alone(), inside, Retry(backoff=constant(9)))
    async with h.client(h.script(h.response(503, b"down")), pipeline) as client:
        assert 203 == (await h.get(client)).status_code
    assert 0 == inside.in_use
    assert attempts[0].response is None


def test_a_request_of_aiohttp_is_not_hedged() -> None:
    """It keeps what is being written of it; a `PerKey` is refused at the request."""
    pytest.importorskip("aiohttp")
    from resilient.aiohttp import ResilientMiddleware

    with pytest.raises(TypeError) as caught:
        ResilientMiddleware(Pipeline(Hedge(1)))
    assert (
        "Pipeline(Hedge(1.0)) has a Hedge, and a request of aiohttp cannot be sent"
        " twice at once: put it around a function"
    ) == str(caught.value)


def test_what_cannot_be_sent_twice_at_once_is_refused_by_the_hedge() -> None:
    """Where its pipeline was not known before, as in a `PerKey`."""
    call = Call.new("GET https://api.test", runtime=SYNC)
    with pytest.raises(TypeError) as caught:
        hedge().around(leaf, call).send(None)
    assert (
        "Hedge(1.0, budget=None, max_threads=9) may send 'GET https://api.test'"
        " several times at once, which cannot be done here: put it around a function"
    ) == str(caught.value)


@in_sync_clients
async def test_an_adapter_of_requests_hedges_too(h: Http) -> None:
    """Each attempt has a copy of the prepared request."""
    requests = pytest.importorskip("requests")
    urllib3 = pytest.importorskip("urllib3")
    from resilient.requests import ResilientAdapter, http_verdict

    sent: list[Any] = []

    def send(self: Any, request: Any, **kw: Any) -> Any:
        sent.append(request)
        if len(sent) == 1:
            clock.sleep(50)
        raw = urllib3.HTTPResponse(
            io.BytesIO(b"%d" % len(sent)), status=200, preload_content=False
        )
        return self.build_response(request, raw)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(requests.adapters.HTTPAdapter, "send", send)
        adapter = ResilientAdapter(Pipeline(hedge(), classify=http_verdict))
        with requests.Session() as session:
            session.mount("https://", adapter)
            assert b"2" == session.get(URL).content
            await h.sleep(100)
    assert sent[0] is not sent[1]
