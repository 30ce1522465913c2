"""Who states a timeout for a client has said how long an attempt may take."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http import families
from tests.http.families import URL, Http, in_every_client

import resilient
from resilient import Pipeline, ResilientWarning, Retry, Timeout
from resilient._runtimes import clock


def slow(h: Http, seconds: float) -> Any:
    """A server that answers late, or what a client of it raises at its limit."""

    async def step(request: Any) -> Any:
        limit = request.extensions["timeout"].get("read")
        await h.sleep(seconds if limit is None else min(seconds, limit))
        if limit is not None and limit < seconds:
            raise h.library.ReadTimeout("slow")
        return h.library.Response(200)

    return h.script(step)


@pytest.mark.parametrize(
    ("stated", "answer", "fine"),
    [
        ({"timeout": 25}, 24.0, True),
        ({"timeout": (1, 600, 1, 1)}, 599.0, True),
        ({"timeout": None}, 5000.0, True),
        ({"timeout": (1, None, 1, 1)}, 5000.0, True),
        ({"timeout": 25}, 26.0, False),
        ({"timeout": 2}, 1.0, True),
        ({}, 4.0, True),
    ],
)
def test_an_attempt_may_take_the_largest_phase_that_is_stated(
    stated: dict[str, Any], answer: float, fine: bool
) -> None:
    """By a client or for one request; None is no limit, and no total either."""

    @in_every_client
    async def scenario(h: Http) -> None:
        for per_request in (True, False):
            options: dict[str, Any] = dict(stated)
            if isinstance(options.get("timeout"), tuple):
                options["timeout"] = h.library.Timeout(options["timeout"])
            script = slow(h, answer)
            mine, client_options = (options, {}) if per_request else ({}, options)
            async with h.client(script, client=client_options) as client:
                if fine:
                    assert 200 == (await h.get(client, **mine)).status_code
                    assert 1 == len(script.sent)
                else:
                    await h.error(h.library.TimeoutException, h.get, client, **mine)
                    assert 3 == len(script.sent)

    _in_all(scenario)


@in_every_client
async def test_where_nothing_is_stated_our_own_limits_hold(h: Http) -> None:
    """The library's default states nothing: 10 s, and 30 s in all."""

    async def step(request: Any) -> Any:
        seen.append(request.extensions["timeout"].deadline - clock.now())
        raise h.library.ReadError("down")

    for extensions, limit in (
        ({}, 10.0),
        ({"timeout": dict.fromkeys(("connect", "read", "write", "pool"), 5.0)}, 10.0),
        ({"timeout": dict.fromkeys(("connect", "read", "write", "pool"), 7.0)}, 7.0),
    ):
        seen: list[float] = []
        transport = h.transport(h.script(step))
        request = h.library.Request("GET", URL, extensions=extensions)
        await h.error(h.library.ReadError, h.handle, transport, request)
        assert [limit] * 3 == pytest.approx(seen)


@in_every_client
async def test_the_total_grows_with_the_attempts(h: Http) -> None:
    """All of them may take as long as was stated, and the error names it."""
    script = slow(h, 90.0)
    async with h.client(script, client={"timeout": 60}) as client:
        error = await h.error(h.library.ReadTimeout, h.get, client)
    assert isinstance(error, resilient.TimeoutExceededError)
    assert 3 == len(script.sent)
    assert error.seconds in (60.0, 180.0)
    assert 180.0 == pytest.approx(h.now(), abs=4)


@in_every_client
async def test_circuits_and_budgets_are_shared_whatever_is_stated(h: Http) -> None:
    """One origin has one of each."""
    script = h.script(h.library.ConnectError("down"))
    async with h.client(script) as client:
        for number in range(40):
            await h.error(h.library.TransportError, h.get, client, timeout=7 + number)
        before = len(script.sent)
        await h.error(resilient.CircuitOpenError, h.get, client, timeout=100)
    assert before == len(script.sent)


@in_every_client
async def test_a_total_that_was_stated_and_is_shorter_warns_once(h: Http) -> None:
    """With both numbers; not for what was not stated."""
    pipeline = h.ours.standard_pipeline(total=3, attempt=2)
    async with h.client(h.script(200), pipeline) as client:
        await h.get(client)
        with pytest.warns(ResilientWarning, match=r"\(25 s\) .* \(3 s\)"):
            await h.get(client, timeout=25)
        await h.get(client, timeout=26)


@in_every_client
async def test_an_attempt_that_was_stated_and_is_shorter_warns_once(h: Http) -> None:
    """With both numbers, whichever built the pipeline; not the library's default."""
    own = Pipeline(Retry(), Timeout(2), classify=h.ours.http_verdict)
    for pipeline in (h.ours.standard_pipeline(attempt=2), own):
        async with h.client(h.script(200), pipeline) as client:
            await h.get(client)
            with pytest.warns(
                ResilientWarning,
                match=r"read timeout \(25 s\) .* limit of an attempt .* \(2 s\)",
            ) as caught:
                await h.get(client, timeout=h.library.Timeout(1, read=25))
            await h.get(client, timeout=26)
        assert families.__file__ == caught[0].filename
    for timeout in (2, 1):
        async with h.client(h.script(200), own.with_()) as client:
            await h.get(client, timeout=timeout)


@in_every_client
async def test_a_limit_around_a_request_is_no_limit_of_its_transport(h: Http) -> None:
    """`deadline_after` is stated where the client is used, and warns of nothing."""
    async with h.client(h.script(200)) as client:
        with resilient.deadline_after(3):
            await h.get(client, timeout=25)
    pipeline = h.ours.standard_pipeline(attempt=2)
    async with h.client(h.script(200)) as client:
        await h.get(client, timeout=25, extensions={"resilient": pipeline})


@pytest.mark.parametrize("name", ["total", "attempt"])
def test_a_limit_that_was_stated_is_kept(name: str) -> None:
    """The client's word does not change it."""

    @in_every_client
    async def scenario(h: Http) -> None:
        pipeline = h.ours.standard_pipeline(**{name: 20}, attempts=1)
        async with h.client(slow(h, 24.0), pipeline, client={"timeout": 19}) as client:
            await h.error(h.library.ReadTimeout, h.get, client)
        assert 19.0 == pytest.approx(h.now(), abs=1.01)

    _in_all(scenario)


def test_a_warning_never_points_into_an_sdk() -> None:
    """Its default of 600 s counts as stated, at the line that called the SDK."""
    openai = pytest.importorskip("openai")
    h = Http("httpx", "sync")
    answer = {"object": "list", "data": []}
    inner = h.library.MockTransport(lambda _: h.library.Response(200, json=answer))
    transport = h.transport(inner, h.ours.standard_pipeline(total=20, attempt=10))
    with h.library.Client(transport=transport, timeout=600) as http:
        client = openai.OpenAI(api_key="none", http_client=http)
        with pytest.warns(ResilientWarning, match=r"\(600 s\) .* \(20 s\)") as caught:
            client.models.list()
    assert __file__ == caught[0].filename


def _in_all(scenario: Any) -> None:
    """Run a scenario in every family and colour that it is meant for."""
    marks = {mark.args[0]: mark.args[1] for mark in scenario.pytestmark}
    for family in marks["family"]:
        for colour in marks["colour"]:
            scenario(family, colour)
