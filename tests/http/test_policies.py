"""Policies in a transport: fallbacks, those it refuses, and a user's own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from tests.http.families import (
    URL,
    Http,
    in_every_client,
    in_sync_clients,
)

from resilient import (
    Bulkhead,
    Coalesce,
    Fallback,
    Outcome,
    PerKey,
    Pipeline,
    Policy,
    StaleCache,
    Timeout,
)


@in_every_client
async def test_a_fallback_may_answer_with_a_response(h: Http) -> None:
    """For a failing response, an error or a rejection; the other is closed."""
    bulkhead = Bulkhead(1)
    for step in (h.response(503, b"down"), h.library.ReadError("down")):
        h.log.clear()
        spare = h.library.Response(203, content=b"spare")
        pipeline = Pipeline(
            Fallback(function=lambda error: spare),  # noqa: B023
            bulkhead,
            classify=h.ours.http_verdict,
        )
        async with h.client(h.script(step), pipeline) as client:
            response = await h.get(client)
        assert spare is response
        assert b"spare" == response.content
        if isinstance(step, h.library.Response):
            assert "closed" in [event for event, _ in h.log]
        assert 0 == bulkhead.in_use


@in_every_client
async def test_a_fallback_that_answers_with_anything_else_is_refused(h: Http) -> None:
    """A client could not use it."""
    for value in (42, None):
        for step in (h.response(503, b"down"), h.library.ReadError("down")):
            pipeline = Pipeline(Fallback(value), classify=h.ours.http_verdict)
            async with h.client(h.script(step), pipeline) as client:
                error = await h.error(TypeError, h.get, client)
            assert (
                "a policy answered 'GET https://api.test' with an object of"
                f" {type(value)}: a transport returns {h.family}.Response"
            ) == str(error)
    assert 2 == [event for event, _ in h.log].count("closed")


MEANINGLESS = {
    "Coalesce()": (
        Coalesce,
        " may give one answer to several calls, which a response that can be read"
        " once cannot be: put it around a function",
    ),
    "StaleCache(10.0, 10.0)": (
        lambda: StaleCache(10, 10),
        " may give one answer to several calls, which a response that can be read"
        " once cannot be: put it around a function",
    ),
    "Timeout(20.0, abandon=True)": (
        lambda: Timeout(20, abandon=True),
        " runs plain functions in threads; it has no meaning for requests: leave"
        " out abandon=True there",
    ),
}


@pytest.mark.parametrize("text", MEANINGLESS)
def test_a_policy_that_has_no_meaning_for_requests_is_refused(
    h: Http, text: str
) -> None:
    """At once; also inside others, and as one request's own pipeline."""
    make, reason = MEANINGLESS[text]
    policies: list[Policy[Any]] = [make(), Pipeline(Pipeline(make()))]
    for policy in policies:
        with pytest.raises(TypeError) as caught:
            h.transport(None, policy)
        assert text + reason == str(caught.value)
        with h.library.Client(transport=h.transport(script := h.script(200))) as client:
            with pytest.raises(TypeError) as caught:
                client.get(URL, extensions={"resilient": policy})
        assert text + reason == str(caught.value)
        assert [] == script.sent


@in_every_client
async def test_one_that_is_made_for_a_key_is_refused_then(h: Http) -> None:
    """It is not known before."""
    for make, _ in MEANINGLESS.values():
        pipeline = PerKey(lambda key: make())  # noqa: B023
        async with h.client(script := h.script(200), pipeline) as client:
            await h.error(TypeError, h.get, client)
        assert [] == script.sent


@in_sync_clients
async def test_a_policy_of_the_other_colour_is_refused(h: Http) -> None:
    """When the transport is first used, or the override."""

    async def spare(error: Any) -> Any:
        """Never runs: a sync transport cannot await it."""

    fallback = Fallback(function=spare)
    script = h.script(200)
    transport = h.transport(script, fallback)
    request = h.library.Request("GET", URL)
    await h.error(TypeError, h.handle, transport, request)
    async with h.client(script) as client:
        await h.error(TypeError, h.get, client, extensions={"resilient": fallback})
    assert [] == script.sent


@in_sync_clients
async def test_a_policy_that_awaits_is_refused_in_a_sync_client(h: Http) -> None:
    """There is no loop to wait with."""
    import asyncio

    class Waits(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            await asyncio.sleep(0)
            outcome: Outcome = await proceed(call)
            return outcome

    async with h.client(h.script(200), Waits()) as client:
        error = await h.error(RuntimeError, h.get, client)
    assert (
        "a policy awaited NoneType in a synchronous call: a policy may wait"
        " through `call.runtime` only"
    ) == str(error)


@in_sync_clients
async def test_a_policy_may_go_on_though_it_could_not_wait(h: Http) -> None:
    """The refusal is an error in its own code."""
    import asyncio

    class Insists(Policy[Any]):
        async def around(self, proceed: Any, call: Any) -> Outcome:
            with suppress(RuntimeError):
                await asyncio.sleep(0)
            outcome: Outcome = await proceed(call)
            return outcome

    async with h.client(h.script(200), Insists()) as client:
        assert 200 == (await h.get(client)).status_code


@in_every_client
async def test_a_policy_that_is_no_coroutine_leaves_the_request_as_it_was(
    h: Http,
) -> None:
    """Its bug reaches the caller before anything was sent."""

    class Broken(Policy[Any]):
        def around(self, proceed: Any, call: Any) -> Any:
            raise ZeroDivisionError

    script = h.script(200)
    request = h.library.Request("POST", URL, stream=h.body(b"once"))
    body, extensions = request.stream, request.extensions
    await h.error(ZeroDivisionError, h.handle, h.transport(script, Broken()), request)
    assert body is request.stream
    assert extensions is request.extensions
    assert [] == script.sent
