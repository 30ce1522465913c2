"""An overrun is the same for the caller, whatever limited the time."""

from __future__ import annotations

import pickle
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from tests.http.families import URL, Http, in_every_client

import resilient
from resilient import Pipeline, Timeout, deadline_after


def limits(h: Http) -> list[tuple[Any, AbstractContextManager[Any]]]:
    """A pipeline and a block, of which one limits a request to 2 s."""
    return [
        (Pipeline(Timeout(2)), nullcontext()),
        (Pipeline(), deadline_after(2)),
        (h.retry(attempts=3), deadline_after(2)),
        (Pipeline(Timeout(9)), deadline_after(2)),
    ]


@pytest.mark.parametrize("kind", ["ConnectTimeout", "ReadTimeout", "PoolTimeout"])
def test_an_overrun_before_the_headers(kind: str) -> None:
    """Ours and the client's own, with a text, and caused by what obeyed it."""

    @in_every_client
    async def scenario(h: Http) -> None:
        async def slow(request: Any) -> Any:
            await h.sleep(2)
            raise own

        for number in range(4):
            own = getattr(h.library, kind)("slow")
            pipeline, block = limits(h)[number]
            request = h.library.Request("GET", URL)
            transport = h.transport(h.script(slow), pipeline)
            with block:
                error = await h.error(
                    h.library.ReadTimeout, h.handle, transport, request
                )
            assert isinstance(error, resilient.TimeoutExceededError)
            assert type(error) is h.ours.TimeoutExceededError
            assert "of 2 s exceeded after 2 s" in str(error)
            assert request is error.request
            assert (number > 0) == error.by_deadline
            copied = pickle.loads(pickle.dumps(error))
            assert (str(error), type(error)) == (str(copied), type(copied))

    _in_all(scenario)


@in_every_client
async def test_the_note_of_a_retry_stays(h: Http) -> None:
    """It says what was done."""

    async def slow(request: Any) -> Any:
        await h.sleep(2)
        raise h.library.ReadTimeout("slow")

    async with h.client(h.script(slow), h.retry()) as client:
        with deadline_after(2):
            error = await h.error(resilient.TimeoutExceededError, h.get, client)
    assert ["resilient: 1 attempt in 2 s; stopped: deadline"] == error.__notes__
    assert isinstance(error.__cause__, h.library.ReadTimeout)


@in_every_client
async def test_an_overrun_in_the_body(h: Http) -> None:
    """The same error again, whichever read it was."""
    for number in range(4):
        pipeline, block = limits(h)[number]
        body = [b"x", 0.75, b"y", 0.75, b"z", 0.75, b"!"]
        script = h.script(h.response(200, *body))
        async with h.client(script, pipeline, client={"timeout": 1}) as client:
            with block:
                error = await h.error(h.library.ReadTimeout, h.get, client)
        assert type(error) is h.ours.TimeoutExceededError
        assert "of 2 s exceeded after 2" in str(error)
        assert URL == str(error.request.url)


@in_every_client
async def test_a_read_that_obeyed_a_deadline_around_is_an_overrun(h: Http) -> None:
    """The client timed out by what was left of our time."""
    for after in (1.0, 3.0):
        body = h.body(b"x", after, h.library.ReadTimeout("stalled"))
        script = h.script(h.library.Response(200, stream=body))
        async with h.client(script, Pipeline()) as client:
            response = await h.open(client)
            with deadline_after(2):
                error = await h.error(h.library.ReadTimeout, h.read, response)
        assert (after > 2) == isinstance(error, resilient.TimeoutExceededError)


@in_every_client
async def test_no_time_left_to_begin_in_is_a_timeout_too(h: Http) -> None:
    """It says that nothing was sent."""
    script = h.script(200)
    async with h.client(script, h.retry()) as client:
        with deadline_after(2):
            await h.sleep(2)
            error = await h.error(h.library.TimeoutException, h.get, client)
    assert type(error) is h.ours.DeadlineExceededError
    assert "did not begin" in str(error)
    assert not script.sent


def _in_all(scenario: Any) -> None:
    """Run a scenario in every family and colour that it is meant for."""
    marks = {mark.args[0]: mark.args[1] for mark in scenario.pytestmark}
    for family in marks["family"]:
        for colour in marks["colour"]:
            scenario(family, colour)
