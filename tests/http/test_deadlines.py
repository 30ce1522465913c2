"""Deadlines and limits: what they cut, and what the client's own limits permit."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from tests.http import families
from tests.http.families import (
    URL,
    Http,
    in_every_client,
    in_sync_clients,
)

import resilient
from resilient import (
    Bulkhead,
    Fallback,
    PerKey,
    Pipeline,
    Retry,
    Timeout,
    constant,
    deadline_after,
)

# -- Deadlines


def capped(request: Any) -> dict[str, float | None]:
    """What the client's engine would wait for in each phase, were it now."""
    timeouts = request.extensions["timeout"]
    return {
        phase: timeouts.get(phase) for phase in ("connect", "read", "write", "pool")
    }


@in_every_client
async def test_the_deadline_cuts_the_clients_timeouts_when_they_begin(h: Http) -> None:
    """The smaller wins; each phase is told what is left at its beginning."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        seen.append(capped(request))
        await h.sleep(3)
        seen.append(capped(request))
        timeouts = request.extensions["timeout"]
        assert seen[-1]["read"] == timeouts["read"]
        await h.sleep(4)
        seen.append(capped(request))
        return h.answer(503)

    own = {"connect": 1, "read": 8, "write": 4, "pool": 6}
    async with h.client(
        h.script(look, 200),
        Pipeline(Timeout(9), h.retry()),
        client={"timeout": h.library.Timeout(**own)},
    ) as client:
        response = await h.get(client)
    assert 200 == response.status_code
    assert [
        {"connect": 1, "read": 8, "write": 4, "pool": 6},
        {"connect": 1, "read": 6.0, "write": 4, "pool": 6},
        {"connect": 1, "read": 2.0, "write": 2.0, "pool": 2.0},
    ] == seen


@in_every_client
async def test_the_attempts_own_limit_cuts_them_too(h: Http) -> None:
    """In each attempt anew, and no further than the whole allows."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        seen.append(capped(request)["read"])
        await h.sleep(3 if len(seen) < 3 else 1)
        return h.answer(503)

    pipeline = Pipeline(Timeout(10), h.retry(Timeout(4)))
    async with h.client(h.script(look), pipeline) as client:
        await h.get(client)
    assert [4.0, 4.0, 2.0] == seen


@in_every_client
async def test_a_deadline_around_cuts_them_too(h: Http) -> None:
    """That of `deadline_after`, and with no policy at all."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        seen.append(capped(request)["read"])
        return h.answer(200)

    async with h.client(h.script(look), Pipeline()) as client:
        with deadline_after(2):
            await h.get(client)
            await h.sleep(1.5)
            await h.get(client)
        await h.get(client)
    assert [2.0, 0.5, 5.0] == seen


@in_every_client
async def test_a_timeout_is_never_nothing(h: Http) -> None:
    """To a socket 0 means that it must not block."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        await h.sleep(3)
        seen.append(capped(request)["read"])
        return h.answer(200)

    async with h.client(h.script(look), Pipeline()) as client:
        with deadline_after(2):
            await h.get(client)
    assert [0.001] == seen


@in_every_client
async def test_a_client_without_limits_is_given_them(h: Http) -> None:
    """A timeout that is None or missing is no limit."""
    seen: list[Any] = []

    async def look(request: Any) -> Any:
        seen.append(capped(request))
        return h.answer(200)

    every = dict.fromkeys(("connect", "read", "write", "pool"), 4.0)
    transport = h.transport(h.script(look), h.retry(Timeout(4)))
    for extensions in ({}, {"timeout": {}}, {"timeout": dict.fromkeys(every)}):
        request = h.library.Request("GET", URL, extensions=extensions)
        await h.handle(transport, request)
        assert extensions == request.extensions
    assert [every] * 3 == seen


@in_sync_clients
async def test_a_sync_client_obeys_a_timeout_by_its_own(h: Http) -> None:
    """What it raises at the deadline is our timeout, caused by its own."""
    own = h.library.ReadTimeout("slow")

    async def slow(request: Any) -> Any:
        await h.sleep(capped(request)["read"])
        raise own

    script = h.script(slow)
    async with h.client(script, h.retry(Timeout(2), attempts=2)) as client:
        error = await h.error(h.library.TimeoutException, h.get, client)
    assert type(error) is h.ours.TimeoutExceededError
    assert own is error.__cause__
    assert [0.0, 3.0] == script.times
    assert 5.0 == h.now()
    assert "timeout 'GET https://api.test' of 2 s exceeded after 2 s" == str(error)
    assert ["resilient: 2 attempts in 5 s; stopped: attempts"] == error.__notes__


@in_every_client
async def test_whichever_timeout_set_the_deadline_answers_for_it(h: Http) -> None:
    """The total one ends everything, and is not retried."""

    async def slow(request: Any) -> Any:
        await h.sleep(capped(request)["read"])
        raise h.library.ReadTimeout("slow")

    script = h.script(slow)
    pipeline = Pipeline(
        Timeout(7, name="total"), h.retry(Timeout(4, name="attempt"), attempts=5)
    )
    async with h.client(script, pipeline) as client:
        error = await h.error(h.ours.TimeoutExceededError, h.get, client)
    assert ("total", 7.0) == (error.policy, error.seconds)
    assert [0.0, 5.0] == script.times


@in_every_client
async def test_a_timeout_of_the_clients_own_stays_its_own(h: Http) -> None:
    """One that came before the deadline."""
    own = h.library.ReadTimeout("slow")

    async def slow(request: Any) -> Any:
        await h.sleep(2)
        raise own

    async with h.client(h.script(slow), Timeout(20)) as client:
        assert own is await h.error(h.library.ReadTimeout, h.get, client)
        with deadline_after(3):
            assert own is await h.error(h.library.ReadTimeout, h.get, client)


@in_every_client
async def test_a_timeout_at_the_deadline_gives_every_slot_back(h: Http) -> None:
    """Also where a fallback answers for it."""

    async def slow(request: Any) -> Any:
        await h.sleep(2)
        raise h.library.ReadTimeout("slow")

    answer = h.library.Response(203)
    for timeout in (2, None):
        for outside in ((), (Fallback(answer),)):
            bulkhead = Bulkhead(1)
            pipeline = Pipeline(
                *outside, bulkhead, Timeout(timeout), classify=h.ours.http_verdict
            )
            own = {"timeout": 2}
            async with h.client(h.script(slow), pipeline, client=own) as client:
                with deadline_after(2):
                    try:
                        assert 203 == (await h.get(client)).status_code
                    except h.library.TimeoutException:
                        assert not outside
            assert 0 == bulkhead.in_use


@in_every_client
async def test_a_request_past_its_deadline_is_not_sent(h: Http) -> None:
    """The error is the client's timeout too."""
    script = h.script(200)
    async with h.client(script, Pipeline(Timeout(20))) as client:
        with deadline_after(1):
            await h.sleep(2)
            error = await h.error(h.library.TimeoutException, h.get, client)
    assert h.ours.DeadlineExceededError is type(error)
    assert [] == script.sent
    assert URL == str(error.request.url)


@in_every_client
async def test_the_server_may_be_told_how_much_time_is_left(h: Http) -> None:
    """In the header and the unit of its choice, anew for each attempt."""
    for unit, texts in (
        ("s", ["9.500", "6.500"]),
        ("ms", ["9500", "6500"]),
    ):

        async def slow(request: Any) -> Any:
            await h.sleep(2)
            return h.answer(503)

        script = h.script(slow, 200)
        async with h.client(
            script,
            Pipeline(Timeout(9.5), h.retry()),
            deadline_header=("X-Time-Left", unit),
        ) as client:
            request = client.build_request("GET", URL)
            await h.send(client, request)
        assert texts == [request.headers["x-time-left"] for request in script.sent]
        assert "x-time-left" not in request.headers


@in_every_client
async def test_without_a_deadline_the_server_is_told_nothing(h: Http) -> None:
    """There is nothing to tell."""
    script = h.script(200)
    header = ("X-Time-Left", "s")
    async with h.client(script, h.retry(), deadline_header=header) as client:
        await h.get(client)
    assert "x-time-left" not in script.sent[0].headers


@in_every_client
async def test_a_header_of_the_callers_own_comes_back(h: Http) -> None:
    """The request is given back as it came."""
    script = h.script(200)
    header = ("X-Time-Left", "s")
    pipeline = Pipeline(Timeout(20))
    async with h.client(script, pipeline, deadline_header=header) as client:
        request = client.build_request("GET", URL, headers={"X-Time-Left": "3"})
        await h.send(client, request)
    assert "20.000" == script.sent[0].headers["x-time-left"]
    assert "3" == request.headers["X-Time-Left"]


# -- What the client's configuration stops us from honouring


@in_every_client
async def test_a_client_that_would_wait_longer_is_reported_once(h: Http) -> None:
    """With both numbers; the smaller wins all the same."""
    for own, phase, spelt in (
        (None, "connect", "no limit"),
        (45.0, "connect", "45 s"),
        ((5.0, 60.0, 5.0, 5.0), "read", "60 s"),
        ((5.0, 5.0, 5.0, None), "pool", "no limit"),
    ):
        timeout = h.library.Timeout(own)
        async with h.client(
            h.script(200), Pipeline(Timeout(30), h.retry()), client={"timeout": timeout}
        ) as client:
            with pytest.warns(resilient.ResilientWarning) as caught:
                await h.get(client)
            await h.get(client)
            await h.get(client, timeout=70)
        assert [
            f"the client's {phase} timeout ({spelt}) is longer than the total limit"
            " in its transport (30 s), which wins: give the client a `timeout`"
            " within it, or the pipeline a longer Timeout"
        ] == [str(warning.message) for warning in caught]


@in_every_client
async def test_a_client_within_the_limit_is_not_reported(h: Http) -> None:
    """The smaller wins silently; so it does where nothing limits the whole."""
    slow = {"timeout": h.library.Timeout(None)}
    with warnings.catch_warnings(record=True) as caught:
        for pipeline, client in (
            (Pipeline(Timeout(5)), {}),
            (Pipeline(Timeout(None)), slow),
            (Pipeline(h.retry()), slow),
            (Bulkhead(1), slow),
        ):
            async with h.client(h.script(200), pipeline, client=client) as http:
                await h.get(http)
    assert [] == caught


@in_every_client
async def test_a_limit_of_an_attempt_or_an_origin_is_reported_too(h: Http) -> None:
    """Where nothing limits the whole."""
    slow = {"timeout": h.library.Timeout(None)}
    for pipeline in (h.retry(Timeout(4)), Pipeline(PerKey(lambda key: Timeout(4)))):
        async with h.client(h.script(200), pipeline, client=slow) as http:
            with pytest.warns(
                resilient.ResilientWarning,
                match=r"\(no limit\) is longer than the limit of an attempt in its"
                r" transport \(4 s\)",
            ):
                await h.get(http)


@in_every_client
async def test_a_request_without_timeouts_is_sent_after_one_with_them(h: Http) -> None:
    """A transport around ours may drop them; none are stated then."""
    transport = h.transport(h.script(200), Timeout(20))
    every = dict.fromkeys(("connect", "read", "write", "pool"), 5.0)
    request = h.library.Request("GET", URL, extensions={"timeout": every})
    await h.handle(transport, request)
    response = await h.handle(transport, h.library.Request("GET", URL))
    assert 200 == response.status_code


@in_every_client
async def test_the_warning_points_at_the_callers_line(h: Http) -> None:
    """Past the client, whichever of its methods it is."""
    for verb in (h.get, h.open):
        pipeline = Timeout(30)
        async with h.client(h.script(200), pipeline, client={"timeout": None}) as http:
            with pytest.warns(resilient.ResilientWarning) as caught:
                await verb(http)
        assert families.__file__ == caught[0].filename
    async with h.client(h.script(200), Timeout(30), client={"timeout": None}) as http:
        with pytest.warns(resilient.ResilientWarning) as caught:
            async with h.stream(http):
                pass
    assert families.__file__ == caught[0].filename


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_reported(
    h: Http, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Once: a client that is given a transport does not look there."""
    monkeypatch.setenv(name, "http://proxy.test:3128")
    transport = h.transport()
    with pytest.warns(resilient.ResilientWarning) as caught:
        transport.__enter__().__exit__()
    transport.__enter__().__exit__()
    assert __file__ == caught[0].filename
    assert [
        "the environment names a proxy, which a client that is given a transport"
        " does not use: give the transport inner=HTTPTransport(proxy=…), or"
        " `mounts` to the client"
    ] == [str(warning.message) for warning in caught]


def test_a_proxy_is_not_reported_where_it_changes_nothing(
    h: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is named, or the transport that sends was chosen by the user."""
    monkeypatch.setenv("NO_PROXY", "localhost")
    with h.transport():
        pass
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    with h.transport(h.script(200)):
        pass
    monkeypatch.setenv("NO_PROXY", "*")
    with h.transport():
        pass


@in_every_client
async def test_a_retry_alone_needs_no_conditions(h: Http) -> None:
    """The transport judges; for one request's own pipeline, too."""
    retry = Retry(backoff=constant(1.0))
    script = h.script(503, 200)
    async with h.client(script, retry) as client:
        assert 200 == (await h.get(client)).status_code
    script = h.script(503, 200)
    async with h.client(script, Pipeline()) as client:
        response = await h.get(client, extensions={"resilient": retry})
    assert (200, 2) == (response.status_code, len(script.sent))
