"""A server that asks for less holds back all that goes to it, not one call alone."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from tests.http.families import URL, Http, in_async_clients, in_every_client

import resilient
from resilient import (
    Bulkhead,
    CircuitBreaker,
    CircuitState,
    Limit,
    Pipeline,
    RateLimiter,
    Retry,
    Timeout,
    constant,
)


class Partner:
    """A server that allows so many requests in each second, and counts them."""

    def __init__(self, h: Http, allowed: int) -> None:
        self.h = h
        self.allowed = allowed
        self.served = self.refused = 0
        self._second = -1
        self._left = 0

    async def __call__(self, request: Any) -> Any:
        second = math.floor(self.h.now())
        await self.h.sleep(0.02)
        if second != self._second:
            self._second, self._left = second, self.allowed
        if self._left:
            self._left -= 1
            self.served += 1
            return self.h.library.Response(200)
        self.refused += 1
        return self.h.answer(429, retry_after="1")


def refusing(h: Http, times: int = 1, status: int = 429, **headers: Any) -> Any:
    """A server that asks for less so many times, and then answers in 0.1 s."""
    said = headers or {"retry_after": 5}
    left = itertools.repeat(None, times)

    async def step(request: Any) -> Any:
        if next(left, True) is None:
            return h.answer(status, **said)
        await h.sleep(0.1)
        return h.library.Response(200)

    return h.script(step)


def patient(h: Http, *inside: Any, **kw: Any) -> Any:
    """A pipeline that retries, at once where no server asks for more."""
    return Pipeline(
        Timeout(60),
        Retry(backoff=constant(0.001), **kw),
        *inside,
        classify=h.ours.http_verdict,
    )


@pytest.mark.parametrize("breaker", [False, True])
def test_sixty_jobs_share_the_limit_of_a_partner(breaker: bool) -> None:
    """All are done within 8 s, with at most 90 requests, by an ordinary Retry."""

    @in_async_clients
    async def scenario(h: Http) -> None:
        partner = Partner(h, 10)
        pipeline = Pipeline(
            Timeout(60),
            Retry(attempts=5),
            *[CircuitBreaker()] * breaker,
            RateLimiter(20, max_wait=None),
            Timeout(10),
            classify=h.ours.http_verdict,
        )
        async with h.client(h.script(partner), pipeline) as client:
            answers = await h.gather(*[lambda: h.get(client) for _ in range(60)])
        assert [200] * 60 == [answer.status_code for answer in answers]
        assert h.now() <= 8.0
        assert 60 + partner.refused <= 90

    _in_all(scenario)


@pytest.mark.parametrize("status", [429, 503, 529])
def test_calls_to_the_same_server_wait_for_one_that_was_refused(status: int) -> None:
    """Then one of them probes, and the others follow once it was answered."""

    @in_async_clients
    async def scenario(h: Http) -> None:
        script = refusing(h, status=status)
        async with h.client(script, patient(h)) as client:

            async def later() -> Any:
                await h.sleep(1)
                return await h.get(client)

            answers = await h.gather(lambda: h.get(client), later, later, later)
        assert [200] * 4 == [answer.status_code for answer in answers]
        first, probe, *others = script.times
        assert 0.0 == first
        assert 5.0 == pytest.approx(probe)
        # One has its answer before the next is sent.
        assert all(one >= probe + 0.1 for one in others)
        assert sorted(set(others)) == others

    _in_all(scenario)


@in_every_client
async def test_other_credentials_and_origins_are_not_held(h: Http) -> None:
    """What one caller was told is nothing to another; an idle line is forgotten."""
    script = refusing(h)
    pipeline = Pipeline(Timeout(2), classify=h.ours.http_verdict)
    async with h.client(script, pipeline) as client:
        mine = {"Authorization": "Bearer mine"}
        assert 429 == (await h.get(client, headers=mine)).status_code
        await h.get(client, headers={"Authorization": "Bearer other"})
        await h.get(client, headers=mine | {"X-Api-Key": "one"})
        await h.get(client, "https://other.test/", headers=mine)
        await h.get(client)
        error = await h.error(resilient.RateLimitedError, h.get, client, headers=mine)
        await h.sleep(6)
        await h.get(client, headers=mine)
        await h.sleep(1)
        await h.get(client, headers=mine)
    assert 7 == len(script.sent)
    assert isinstance(error, h.ours.RateLimitedError)
    assert "pushback" == error.reason
    assert error.by_deadline
    assert 4.6 == pytest.approx(error.retry_after)
    assert (
        "the server of 'GET https://api.test' asked for fewer requests; retry in 4.6 s"
        == str(error)
    )
    assert "mine" not in repr(error)


@in_every_client
async def test_cookies_tell_callers_apart_where_nothing_else_does(h: Http) -> None:
    """A proxy before an API sets one in each answer, beside the caller's key."""
    for said, held in (({"Authorization": "Bearer mine"}, True), ({}, False)):
        script = refusing(h, set_cookie="__cf_bm=another; Path=/", retry_after=5)
        pipeline = Pipeline(Timeout(2), classify=h.ours.http_verdict)
        async with h.client(script, pipeline, client={"headers": said}) as client:
            assert 429 == (await h.get(client)).status_code
            if held:
                await h.error(resilient.RateLimitedError, h.get, client)
            else:
                assert 200 == (await h.get(client)).status_code
        assert 2 - held == len(script.sent)


@in_every_client
async def test_what_tells_callers_apart_can_be_said(h: Http) -> None:
    """By a function of the request; None holds nothing back."""

    def tenant(request: Any) -> str | None:
        return request.headers.get("x-tenant")

    for hold_by, held in ((tenant, True), (None, False), (lambda _: None, False)):
        script = refusing(h)
        pipeline = Pipeline(Timeout(2), classify=h.ours.http_verdict)
        async with h.client(script, pipeline, hold_by=hold_by) as client:
            for url in (URL, "https://other.test/"):
                headers = {"x-tenant": "a", "Authorization": url}
                if held and url != URL:
                    await h.error(
                        resilient.RateLimitedError, h.get, client, url, headers=headers
                    )
                    headers["x-tenant"] = "b"
                await h.get(client, url, headers=headers)
        assert 2 == len(script.sent)


@in_every_client
async def test_a_caller_that_is_not_told_apart_passes_beside_a_line(h: Http) -> None:
    """What holds another caller back is nothing to a request without one."""
    script = refusing(h)
    async with h.client(
        script,
        Pipeline(Timeout(2), classify=h.ours.http_verdict),
        hold_by=lambda request: request.headers.get("x-tenant"),
    ) as client:
        assert 429 == (await h.get(client, headers={"x-tenant": "a"})).status_code
        assert 200 == (await h.get(client)).status_code


@in_async_clients
async def test_a_line_that_was_empty_meanwhile_is_taken_up_again(h: Http) -> None:
    """By the refusal of a call that it let pass; then one call probes."""
    seconds = iter([0, 0.1, 30, 0, 0.1, 0.1])

    async def step(request: Any) -> Any:
        refused = len(script.sent) in (1, 3)
        await h.sleep(next(seconds))
        return h.answer(429, retry_after=5) if refused else h.library.Response(200)

    script = h.script(step)
    pipeline = Pipeline(Timeout(60), classify=h.ours.http_verdict)
    async with h.client(script, pipeline) as client:
        times = 0.0, 1.0, 1.1, 25.0, 36.0, 36.1
        calls = [lambda at=at: _after(h, at, client) for at in times]
        began = h.now()
        answers = await h.gather(*calls)
    assert [429, 200, 429, 200, 200, 200] == [one.status_code for one in answers]
    at = [one - began for one in script.times]
    assert 5.0 == pytest.approx(at[1])
    assert 25.0 == at[3]
    assert at[2] + 35.0 == pytest.approx(at[4])
    assert at[5] >= at[4] + 0.1


def test_a_hold_by_of_the_wrong_kind_is_refused(h: Http) -> None:
    """When the transport is made, or by what it returns."""
    with pytest.raises(TypeError, match='`hold_by` must be "credentials", None or'):
        h.ours.ResilientTransport(hold_by="origin")
    transport = h.transport(refusing(h), Pipeline(), hold_by=lambda _: 7)
    request = h.library.Request("GET", URL)
    with pytest.raises(TypeError, match=r"returns a string or None, got .* of <class"):
        transport.handle_request(request)


@in_every_client
async def test_what_names_no_wait_holds_nothing(h: Http) -> None:
    """A 429 without Retry-After, or any other failure."""
    for step in (429, 500, h.answer(429, retry_after=0), h.answer(500, retry_after=9)):
        async with h.client(h.script(step, 200), Pipeline(Timeout(2))) as client:
            await h.get(client)
            assert 200 == (await h.get(client)).status_code


@in_every_client
async def test_a_learnt_limit_holds_back_too(h: Http) -> None:
    """A 429 whose headers say that nothing is left, and until when."""
    script = refusing(h, x_ratelimit_remaining_requests=0, x_ratelimit_reset_requests=9)
    async with h.client(script, Pipeline(Timeout(2))) as client:
        await h.get(client)
        error = await h.error(resilient.RateLimitedError, h.get, client)
    assert 9.0 == pytest.approx(error.retry_after)


@in_every_client
async def test_no_call_is_held_for_longer_than_a_retry_would_wait(h: Http) -> None:
    """`max_retry_after`, of the Retry or the default: then one call probes."""
    for kw, longest in (({}, 60.0), ({"max_retry_after": 7}, 7.0)):
        script = refusing(h, retry_after=86_400)
        pipeline = Pipeline(Retry(**kw), classify=h.ours.http_verdict)
        async with h.client(script, pipeline) as client:
            assert 429 == (await h.get(client)).status_code
            began = h.now()
            assert 200 == (await h.get(client)).status_code
        assert longest == pytest.approx(script.times[1] - began)


@in_every_client
async def test_a_refused_call_waits_with_the_others_and_needs_no_budget(
    h: Http,
) -> None:
    """Its retry is paced: it adds no load that a budget would have to bound."""
    budget = resilient.RetryBudget(0.1, 1)
    script = refusing(h, 4, retry_after=1)
    async with h.client(script, patient(h, attempts=9, budget=budget)) as client:
        assert 200 == (await h.get(client)).status_code
    assert 5 == len(script.sent)
    assert 1.0 == budget.balance


@in_async_clients
async def test_a_call_on_its_way_goes_back_and_gives_back_what_it_took(h: Http) -> None:
    """No slot, no attempt and no permit of a limiter is used up by waiting."""
    bulkhead = Bulkhead(2, max_queue=9)
    limits = [Limit(5, per=1), Limit(100, unit="tokens")]
    around = RateLimiter(100)
    for cost in ({"requests": 1, "tokens": 7}, lambda _: {"requests": 1, "tokens": 7}):
        limiter = RateLimiter(limits=limits, cost=cost, max_wait=None)
        script = refusing(h)
        began = h.now()
        pipeline = Pipeline(
            around,
            patient(h, bulkhead, limiter, Timeout(2)),
            classify=h.ours.http_verdict,
        )
        async with h.client(script, pipeline) as client:

            async def look() -> None:
                await h.sleep(2)
                assert 0 == bulkhead.in_use
                assert 5.0 == limiter.available("requests")  # noqa: B023
                assert 100.0 == limiter.available("tokens")  # noqa: B023

            answers = await h.gather(look, *[lambda: h.get(client)] * 9)
        assert [200] * 9 == [answer.status_code for answer in answers[1:]]
        late = [one - began for one in script.times if one > began + 2]
        assert min(late) >= 5.0
        assert len(script.sent) <= 12


@in_async_clients
async def test_a_probe_that_dies_lets_another_one_probe(h: Http) -> None:
    """By an error or a cancellation; or at last, if it has no answer for long."""

    async def step(request: Any) -> Any:
        place = len(script.sent)
        if place == 1:
            return h.answer(429, retry_after=5)
        if place == 2:
            raise h.library.ReadError("died")
        if place == 3:
            await h.sleep(30)
        return h.library.Response(200)

    script = h.script(step)
    pipeline = Pipeline(Timeout(20), classify=h.ours.http_verdict)
    async with h.client(script, pipeline) as client:
        await h.get(client)
        answers = await h.gather(*[lambda: h.get(client)] * 4)
    _, died, slow, *others = script.times
    assert died == pytest.approx(slow, abs=0.01)
    assert died + 1.0 == pytest.approx(others[0], abs=0.01)
    assert 2 == len([one for one in answers if isinstance(one, Exception)])


@in_every_client
async def test_503_counts_in_a_circuit_and_429_does_not(h: Http) -> None:
    """Both hold back alike."""
    for status, state in ((429, CircuitState.CLOSED), (503, CircuitState.OPEN)):
        breaker = CircuitBreaker(consecutive_failures=2)
        script = refusing(h, 9, status=status, retry_after=1)
        pipeline = patient(h, breaker, attempts=2)
        async with h.client(script, pipeline) as client:
            await h.get(client)
        assert state is breaker.state
        assert script.times[1] >= 1.0


@in_every_client
async def test_what_a_server_sheds_opens_no_circuit(h: Http) -> None:
    """Of sheddable and batch calls; other refusals and failures count."""
    for name, step, state in (
        ("batch", h.answer(503, retry_after=1), CircuitState.CLOSED),
        ("sheddable", h.answer(529), CircuitState.CLOSED),
        ("normal", h.answer(503, retry_after=1), CircuitState.OPEN),
        ("critical", h.answer(529), CircuitState.OPEN),
        ("batch", 503, CircuitState.OPEN),
    ):
        breaker = CircuitBreaker(consecutive_failures=2)
        pipeline = patient(h, breaker, attempts=2)
        async with h.client(h.script(step), pipeline) as client:
            await ask(h, client, name)
        assert state is breaker.state


@in_async_clients
async def test_a_call_that_cannot_wait_is_refused_at_once(h: Http) -> None:
    """With the wait; the last real error is kept where there was one."""
    script = refusing(h, 9, retry_after=5)
    pipeline = Pipeline(
        Timeout(3), Retry(backoff=constant(0.5)), classify=h.ours.http_verdict
    )
    async with h.client(script, pipeline) as client:
        first, second = await h.gather(
            lambda: h.get(client),
            lambda: _after(h, 0.1, client),
        )
    assert 429 == first.status_code
    assert isinstance(second, h.ours.RateLimitedError)
    assert h.now() == pytest.approx(0.1)


async def _after(h: Http, seconds: float, client: Any) -> Any:
    await h.sleep(seconds)
    return await h.get(client)


@in_async_clients
async def test_sync_calls_on_the_thread_of_a_loop_are_not_held(h: Http) -> None:
    """They would stop the loop that has to wake them."""
    transport = h.transport(h.library.MockTransport(_twice(h)), Pipeline())
    for status in (429, 200):
        answer = transport.handle_request(h.library.Request("GET", URL))
        assert status == answer.status_code


def _twice(h: Http) -> Any:
    answers = iter([h.answer(429, retry_after=9), h.library.Response(200)])
    return lambda _: next(answers)


def shedding(h: Http, **waits: float) -> Any:
    """A server that refuses classes, which it is told of, for so many seconds."""
    began = h.now()

    async def step(request: Any) -> Any:
        left = began + waits.get(request.headers["x-class"], 0) - h.now()
        if left > 0:
            return h.answer(503, retry_after=math.ceil(left))
        await h.sleep(0.1)
        return h.library.Response(200)

    return h.script(step)


async def ask(h: Http, client: Any, name: Any) -> Any:
    """Return the status that a request of a class has, or the time of its hold."""
    with resilient.priority(name):
        try:
            answer = await h.get(client, headers={"x-class": name})
        except resilient.RateLimitedError as error:
            return error.retry_after
    return answer.status_code


_CLASSES = ("critical", "normal", "sheddable", "batch")


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize("refused", _CLASSES)
def test_a_refusal_holds_nothing_back_that_is_more_important(
    refused: str, status: int
) -> None:
    """It holds back what is as important as the refused call, or less."""

    @in_every_client
    async def scenario(h: Http) -> None:
        script = refusing(h, status=status)
        pipeline = Pipeline(Timeout(2), classify=h.ours.http_verdict)
        async with h.client(script, pipeline) as client:
            assert status == await ask(h, client, refused)
            for name in reversed(_CLASSES):
                held = _CLASSES.index(name) >= _CLASSES.index(refused)
                said = await ask(h, client, name)
                assert (4.0 < said < 5.1) if held else 200 == said
        assert 1 + _CLASSES.index(refused) == len(script.sent)

    _in_all(scenario)


@in_every_client
async def test_each_refused_class_is_held_for_as_long_as_any_says(h: Http) -> None:
    """Its own refusal, or one of a higher class, whichever lasts longer."""
    for waits, seen in (
        ({"batch": 9, "critical": 3}, [3, 3, 3, 9]),
        ({"batch": 3, "critical": 9}, [9, 9, 9, 9]),
    ):
        script = shedding(h, **waits)
        pipeline = Pipeline(Timeout(2), classify=h.ours.http_verdict)
        async with h.client(script, pipeline) as client:
            assert 503 == await ask(h, client, "batch")
            assert 503 == await ask(h, client, "critical")
            told = [await ask(h, client, name) for name in _CLASSES]
            assert seen == pytest.approx(told)
            await h.sleep(3)
            if waits["critical"] == 3:
                # The server took none of it yet: one call is let pass.
                assert 200 == await ask(h, client, "normal")
                assert 5.9 == pytest.approx(await ask(h, client, "batch"))
            await h.sleep(6)
            for name in _CLASSES * 2:
                assert 200 == await ask(h, client, name)
                await h.sleep(9)
        # Where all is taken again, nothing is remembered.
        assert not client._transport._holds


@pytest.mark.parametrize("patience", [False, True])
def test_a_class_that_is_still_refused_delays_no_higher_one(patience: bool) -> None:
    """Its calls in the line of all, the first in it too, leave it to the others."""

    @in_async_clients
    async def scenario(h: Http) -> None:
        script = shedding(h, normal=5, batch=20)
        done: list[tuple[str, float]] = []
        pipeline = Pipeline(Timeout(60), classify=h.ours.http_verdict)
        if patience:
            pipeline = patient(h, attempts=9)
        async with h.client(script, pipeline) as client:

            async def one(name: str, at: float) -> None:
                await h.sleep(at)
                await ask(h, client, name)
                done.append((name, h.now()))

            began = h.now()
            await h.gather(
                lambda: one("normal", 0),
                *[lambda: one("batch", 0.1)] * 6,
                *[lambda: one("normal", 0.2)] * 6,
            )
        normal = [at - began for name, at in done if name == "normal"]
        batch = [at - began for name, at in done if name == "batch"]
        assert 7 == len(normal)
        assert max(normal) < 12.0
        assert 6 == len(batch)
        # The first of them was sent, for one call has to find out; without a
        # Retry that is its end.
        assert 1 - patience == len([at for at in batch if at < 20.0])

    _in_all(scenario)


def test_few_lines_are_kept(h: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of callers that are refused takes no more room."""
    monkeypatch.setattr("resilient._http.holding._MOST", 20)
    transport = h.transport(refusing(h, 5000), Pipeline())
    for number in range(25):
        headers = {"Authorization": str(number)}
        transport.handle_request(h.library.Request("GET", URL, headers=headers))
    assert 20 == len(transport._holds._lines)


def _in_all(scenario: Any) -> None:
    """Run a scenario in every family and colour that it is meant for."""
    marks = {mark.args[0]: mark.args[1] for mark in scenario.pytestmark}
    for family in marks["family"]:
        for colour in marks["colour"]:
            scenario(family, colour)
