"""One request object, sent more than once, and at the same time."""

from __future__ import annotations

from typing import Any

import anyio
from tests.http.families import URL, Http, in_async_clients, in_every_client

TIMEOUTS = dict.fromkeys(("connect", "read", "write", "pool"), 1.0)
KEYS = ("extensions", "headers", "stream", "method", "url")


def state_of(request: Any) -> dict[str, Any]:
    """What a client's request is made of, object by object."""
    return {key: getattr(request, key) for key in KEYS}


@in_async_clients
async def test_a_request_that_is_sent_twice_at_once_stays_as_it_came(h: Http) -> None:
    """Neither exchange sees the other's deadline, headers or extensions."""

    async def slow(request: Any) -> Any:
        await h.sleep(1.0)
        return h.library.Response(200)

    script = h.script(slow)
    pipeline = h.ours.standard_pipeline(total=10, attempt=5)
    options = {"deadline_header": ("X-Left", "s")}
    async with h.client(script, pipeline, **options) as client:
        request = client.build_request("POST", URL, content=b"x")
        before = state_of(request)
        headers = dict(request.headers)

        async def later() -> None:
            await h.sleep(0.5)
            response = await client.send(request)
            assert request is response.request

        async with anyio.create_task_group() as group:
            group.start_soon(later)
            await client.send(request)
            now = state_of(request)
        assert before == state_of(request) == now
        assert all(before[key] is now[key] for key in ("extensions", "headers"))
        assert headers == dict(request.headers)
    left = [float(request.headers["x-left"]) for request in script.sent]
    assert [5.0, 5.0] == left


@in_every_client
async def test_a_request_that_is_sent_inside_of_itself_stays_as_it_came(
    h: Http,
) -> None:
    """As an inner transport may do, to ask for a token first."""
    script = h.script(503, 200)
    seen: list[Any] = []

    async def again(request: Any) -> Any:
        seen.append(request)
        return await h.handle(transport, original)

    outer = h.transport(h.script(again), h.ours.standard_pipeline(total=9, attempt=8))
    transport = h.transport(script, h.ours.standard_pipeline(total=5, attempt=4))
    original = h.library.Request("GET", URL, extensions={"timeout": TIMEOUTS.copy()})
    before = state_of(original)
    response = await h.handle(outer, original)
    assert 200 == response.status_code
    assert all(before[key] is getattr(original, key) for key in KEYS)
    assert {"timeout": TIMEOUTS} == original.extensions
    assert seen[0] is not original


@in_every_client
async def test_an_error_and_a_response_name_the_request_of_the_caller(h: Http) -> None:
    """Not the copy that was sent."""
    script = h.script(h.library.ReadError("down"), 200)
    async with h.client(script, h.retry(attempts=1)) as client:
        request = client.build_request("GET", URL)
        error = await h.error(h.library.ReadError, h.send, client, request)
        assert request is error.request
        assert request is (await h.send(client, request)).request
