"""Origins, limiters, and the pipeline of a single request."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.families import (
    Http,
    in_every_client,
)

from resilient import (
    CircuitBreaker,
    Limit,
    Outcome,
    Pipeline,
    Policy,
    RateLimiter,
    Retry,
    constant,
    current_call,
)


@in_every_client
async def test_the_key_of_a_call_is_its_origin(h: Http) -> None:
    """Scheme, host and port, and no default port; its name has the method."""
    seen: list[tuple[Any, str]] = []

    class CallObserver(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            seen.append((call.key, call.name))
            outcome: Outcome = await proceed(call)
            return outcome

    async with h.client(h.script(200), CallObserver()) as client:
        await h.get(client, "https://user:secret@a.test:443/path?secret=1")
        await h.post(client, "http://a.test:8080/")
        await h.get(client, "http://bücher.test/")
        await h.get(client, "https://[::1]/")
        await h.get(client, "https://[::1]:8443/")
    assert [
        ("https://a.test", "GET https://a.test"),
        ("http://a.test:8080", "POST http://a.test:8080"),
        ("http://xn--bcher-kva.test", "GET http://xn--bcher-kva.test"),
        ("https://[::1]", "GET https://[::1]"),
        ("https://[::1]:8443", "GET https://[::1]:8443"),
    ] == seen


@in_every_client
async def test_the_server_teaches_the_limiter_of_its_origin(h: Http) -> None:
    """In both families of headers, units by name."""
    for headers in (
        {
            "RateLimit_Policy": '"r";q=9;w=60, "t";q=9;w=60;qu="tokens",'
            ' "u";q=9;w=9;qu="bytes"',
            "RateLimit": '"r";r=2;t=60, "t";r=30;t=60, "u";r=0;t=9',
        },
        {
            "x_ratelimit_remaining_requests": 2,
            "x_ratelimit_reset_requests": "1m0s",
            "x_ratelimit_remaining_tokens": 30,
            "x_ratelimit_reset_tokens": "60000ms",
            "x_ratelimit_remaining_images": 0,
            "x_ratelimit_reset_images": "9s",
        },
    ):
        limiters: dict[str, RateLimiter] = {}

        def for_origin(
            origin: str, limiters: dict[str, RateLimiter] = limiters
        ) -> RateLimiter:
            limits = [Limit(1000, per=60), Limit(9000, per=60, unit="tokens")]
            limiters[origin] = RateLimiter(limits=limits)
            return limiters[origin]

        script = h.script(h.answer(200, **headers), 200)
        async with h.client(script, h.ours.per_origin(for_origin)) as client:
            await h.get(client, "https://a.test")
            await h.get(client, "https://b.test")
        assert 2.0 == limiters["https://a.test"].available("requests")
        assert 30.0 == limiters["https://a.test"].available("tokens")
        assert 999.0 == limiters["https://b.test"].available("requests")


@in_every_client
async def test_a_window_that_is_over_teaches_nothing(h: Http) -> None:
    """A reset of 0 seconds."""
    limiter = RateLimiter(100, per=60)
    response = h.answer(200, x_ratelimit_remaining="0", x_ratelimit_reset="0")
    async with h.client(h.script(response), limiter) as client:
        await h.get(client)
    assert 99.0 == limiter.available()


@in_every_client
async def test_a_failing_response_teaches_too(h: Http) -> None:
    """And the limiter that stands in another attempt as well."""
    limiter = RateLimiter(100, per=60)
    response = h.answer(429, RateLimit='"a";r=0;t=5')
    script = h.script(response, 200)
    async with h.client(script, h.retry(limiter)) as client:
        await h.get(client)
    assert [0.0, 5.0] == script.times


@in_every_client
async def test_every_answer_teaches_a_limiter_that_stands_around(h: Http) -> None:
    """Also the last of several attempts, each once."""
    for inside in (True, False):
        learnt: list[float] = []

        class Learns(RateLimiter):
            def learn(self, remaining: float, *args: Any, **kw: Any) -> None:
                learnt.append(remaining)  # noqa: B023
                super().learn(remaining, *args, **kw)

        limiter = Learns(100, per=60)
        outside = Pipeline(limiter, h.retry(), intended=True)
        pipeline = h.retry(limiter) if inside else outside
        script = h.script(
            h.answer(503, RateLimit='"a";r=9;t=60'),
            h.library.ReadError("down"),
            h.answer(200, RateLimit='"a";r=7;t=58'),
        )
        async with h.client(script, pipeline) as client:
            await h.get(client)
        assert [9.0, 7.0] == learnt


@in_every_client
async def test_one_request_may_have_a_pipeline_of_its_own(h: Http) -> None:
    """Or none."""
    for override, sent in (
        (False, 1),
        (None, 1),
        (h.retry(attempts=2), 2),
        (Retry(on=h.ours.http_verdict, backoff=constant(0), attempts=4), 4),
    ):
        script = h.script(503)
        async with h.client(script, h.retry()) as client:
            response = await h.get(client, extensions={"resilient": override})
        assert 503 == response.status_code
        assert sent == len(script.sent), override
    script = h.script(h.library.ReadError("down"))
    async with h.client(script, h.retry()) as client:
        extensions = {"resilient": False}
        await h.error(h.library.ReadError, h.get, client, extensions=extensions)
    assert 1 == len(script.sent)


@in_every_client
async def test_the_transports_own_pipeline_may_be_named(h: Http) -> None:
    """It is what it would have been."""
    script = h.script(503)
    pipeline = h.retry()
    async with h.client(script, pipeline) as client:
        await h.get(client, extensions={"resilient": pipeline})
    assert 3 == len(script.sent)


@in_every_client
async def test_any_other_override_is_refused(h: Http) -> None:
    """Before anything is sent."""
    script = h.script(200)
    async with h.client(script) as client:
        for override in (True, 3, "off"):
            extensions = {"resilient": override}
            error = await h.error(TypeError, h.get, client, extensions=extensions)
            assert (
                "`extensions['resilient']` must be a Pipeline, a policy or False,"
                f" got {override!r}"
            ) == str(error)
    assert [] == script.sent


@in_every_client
async def test_a_pipeline_that_is_passed_is_used_exactly_as_built(h: Http) -> None:
    """Its state is its own, shared by every origin unless it says otherwise."""
    breaker = CircuitBreaker(minimum_calls=2)
    pipeline = Pipeline(breaker, classify=h.ours.http_verdict)
    transport = h.transport(h.script(503), pipeline)
    assert pipeline is transport.pipeline
    async with h.bare(transport) as client:
        await h.get(client, "https://a.test")
        await h.get(client, "https://b.test")
        await h.error(h.ours.CircuitOpenError, h.get, client, "https://c.test")


@in_every_client
async def test_a_function_may_look_at_its_call_from_the_wire(h: Http) -> None:
    """The inner transport runs inside the call; the caller's code does not."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        call = current_call()
        seen.append((call.name, call.attempt, call.args[0].url == request.url))
        return h.answer(503 if call.attempt == 1 else 200)

    async with h.client(h.script(look), h.retry()) as client:
        await h.get(client)
        with pytest.raises(LookupError):
            current_call()
    name = "GET https://api.test"
    assert [(name, 1, True), (name, 2, True)] == seen


@in_every_client
async def test_policies_may_be_switched_off_for_tests(h: Http) -> None:
    """The request is sent, once, as it is."""
    from resilient import testing

    script = h.script(503)
    async with h.client(script, h.retry()) as client:
        with testing.off():
            assert 503 == (await h.get(client)).status_code
    assert 1 == len(script.sent)
