"""The pipeline that a transport has unless it is given one."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

import pytest
from tests.http.families import Http, in_every_client

import resilient
from resilient import (
    Bulkhead,
    Call,
    CircuitBreaker,
    Outcome,
    PerKey,
    Pipeline,
    Retry,
    Timeout,
    Verdict,
    constant,
)
from resilient._http.standard import http_verdict, per_origin, standard_pipeline

HERE, THERE = "https://here.test", "https://there.test"


def parts(pipeline: Pipeline[Any], origin: str = HERE) -> list[Any]:
    """The policies a request to an origin passes, outermost first."""
    total, keyed = pipeline.policies
    assert isinstance(keyed, PerKey)
    inner = keyed[origin]
    assert isinstance(inner, Pipeline)
    return [total, *inner.policies]


def test_both_families_share_it(h: Http) -> None:
    """It builds no response and knows no client."""
    assert standard_pipeline is h.ours.standard_pipeline
    assert per_origin is h.ours.per_origin
    assert http_verdict is h.ours.http_verdict


def test_it_is_an_ordinary_pipeline_with_the_documented_defaults() -> None:
    """Total limit, retries, breaker, the attempt's limit."""
    pipeline = standard_pipeline()
    assert type(pipeline) is Pipeline
    total, retry, breaker, attempt = parts(pipeline)
    assert (30.0, 10.0) == (total.seconds, attempt.seconds)
    assert "Retry()" == repr(retry)
    assert isinstance(breaker, CircuitBreaker)
    assert HERE == breaker.name


def test_it_can_be_adjusted() -> None:
    """By its arguments, durations in either form."""
    total, retry, attempt = parts(
        standard_pipeline(
            total=timedelta(minutes=2), attempt=60, attempts=5, breaker=False
        )
    )
    assert (120.0, 60.0) == (total.seconds, attempt.seconds)
    assert "Retry(attempts=5)" == repr(retry)
    total, *_, attempt = parts(standard_pipeline(total=None, attempt=None))
    assert (None, None) == (total.seconds, attempt.seconds)


def test_it_can_be_put_inside_another() -> None:
    """As any policy."""
    outer = Pipeline(Bulkhead(5), *standard_pipeline().policies)
    assert 3 == len(outer.policies)
    copy_error = standard_pipeline().with_()
    assert 2 == len(copy_error.policies)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"total": 0}, ValueError, "`seconds` must be > 0 seconds, got 0"),
        ({"attempt": -1}, ValueError, "`seconds` must be > 0 seconds, got -1"),
        ({"attempts": 0}, ValueError, "`attempts` must be >= 1, got 0"),
        ({"attempts": 1.5}, TypeError, "`attempts` must be an int, got 1.5"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """Not at the first request."""
    with pytest.raises(kind) as caught:
        standard_pipeline(**arguments)
    assert text == str(caught.value)


def test_each_origin_has_policies_of_its_own() -> None:
    """Budget and breaker are not shared, the total limit is."""
    pipeline = standard_pipeline()
    here, there = parts(pipeline, HERE), parts(pipeline, THERE)
    assert here[0] is there[0]
    shared = [one is other for one, other in zip(here, there, strict=True)]
    assert [True, False, False, False] == shared


def test_per_origin_remembers_so_many() -> None:
    """Ten thousand by default."""
    assert 10_000 == per_origin(lambda origin: Timeout(20)).max_keys
    assert 5 == per_origin(lambda origin: Timeout(20), max_keys=5).max_keys


def test_the_verdict_is_that_of_the_transport() -> None:
    """For `classify` and `on`; what it says of `retry_after` stays."""
    for verdict in Verdict:
        outcome = Outcome()
        outcome.verdict = verdict
        outcome.retry_after = 3.0
        assert verdict is http_verdict(outcome)
        assert 3.0 == outcome.retry_after


def test_with_the_verdict_errors_are_classified() -> None:
    """So that who asks about results alone retries them."""
    attempts: list[None] = []

    def fails() -> None:
        attempts.append(None)
        raise OSError

    retry = Retry(on_result=lambda value: False, attempts=2, backoff=constant(0))
    with pytest.raises(OSError):
        Pipeline(retry, classify=http_verdict).call(fails)
    assert 2 == len(attempts)


@in_every_client
async def test_a_transport_has_it_by_default(h: Http) -> None:
    """Its own, shared with no other transport."""
    first, second = h.transport(h.script(503)), h.transport(h.script(503))
    assert first.pipeline is not second.pipeline
    async with h.bare(first) as client:
        response = await h.get(client)
    assert h.ours.Summary(3, "attempts", None) == response.extensions["resilient"]


@in_every_client
async def test_telemetry_and_health_call_it_http(h: Http) -> None:
    """Its errors go on to name the request."""
    transport = h.transport(h.script(503))
    async with h.bare(transport) as client:
        await h.get(client)
    pipeline = transport.pipeline
    assert "http" == pipeline.name == pipeline.label
    seen = resilient.health()["http"]
    assert seen["calls"]["failure"] >= 1
    assert {"ClientTimeout", "PerKey"} <= {entry["kind"] for entry in seen["policies"]}
    call = Call.new("GET https://here.test", policy=pipeline)
    assert "GET https://here.test" == pipeline.policies[0].error_name(call)


@in_every_client
async def test_a_dead_origin_does_not_take_the_others_with_it(h: Http) -> None:
    """Neither their circuit nor their retries."""
    fine = 0

    async def step(request: Any) -> Any:
        nonlocal fine
        if request.url.host == "here.test":
            raise h.library.ConnectError("down")
        fine += 1
        return h.answer(503 if fine % 2 else 200)

    script = h.script(step)
    async with h.client(script) as client:
        for _ in range(40):
            await h.error(h.library.TransportError, h.get, client, HERE)
        # Neither budget nor circuit has anything left for it.
        error = await h.error(h.ours.CircuitOpenError, h.get, client, HERE)
        assert HERE == error.policy
        for _ in range(5):
            response = await h.get(client, THERE)
            assert 200 == response.status_code
            assert 2 == response.extensions["resilient"].attempts


@in_every_client
async def test_an_origin_is_scheme_host_and_port(h: Http) -> None:
    """No path, no query, no name of a user; the default port is none."""
    pipeline = standard_pipeline()
    async with h.client(h.script(200), pipeline) as client:
        for url in (
            "https://a.test/one",
            "https://a.test:443/two?three=4",
            "https://user:word@a.test/five",
            "https://a.test:8443",
            "http://a.test",
        ):
            await h.get(client, url)
    keyed = pipeline.policies[1]
    assert isinstance(keyed, PerKey)
    assert 3 == len(keyed)
    for origin in ("https://a.test", "https://a.test:8443", "http://a.test"):
        assert origin in keyed


@in_every_client
async def test_a_budget_ends_the_retries_of_a_dead_origin(h: Http) -> None:
    """Its first attempts go on."""
    script = h.script(h.library.ConnectError("down"))
    async with h.client(script, standard_pipeline(breaker=False)) as client:
        for _ in range(20):
            error = await h.error(h.library.ConnectError, h.get, client)
    assert 20 < len(script.sent) < 40
    assert "budget exhausted" in error.__notes__[0]


@in_every_client
async def test_the_attempts_limit_is_inside_the_retry(h: Http) -> None:
    """And the total one around everything."""

    async def slow(request: Any) -> Any:
        left = request.extensions["timeout"].get("read")
        await h.sleep(left)
        raise h.library.ReadTimeout("slow")

    script = h.script(slow)
    client = {"timeout": 30}
    pipeline = h.ours.standard_pipeline(total=30, attempt=10)
    async with h.client(script, pipeline, client=client) as http:
        error = await h.error(h.ours.TimeoutExceededError, h.get, http)
    assert 30.0 == error.seconds
    assert 30.0 == pytest.approx(h.now())
    assert 3 == len(script.sent)


@in_every_client
async def test_a_pipeline_of_ones_own_may_judge_by_it_and_more(h: Http) -> None:
    """A function around the verdict, in `classify` or `on`."""

    def verdict(outcome: Outcome) -> Verdict:
        if outcome.error is None and outcome.value.status_code == 418:
            return Verdict.FAILURE
        return http_verdict(outcome)

    @functools.wraps(http_verdict)
    def posing(outcome: Outcome) -> Verdict:
        return verdict(outcome)

    for pipeline in (
        Pipeline(Retry(backoff=resilient.constant(1)), classify=verdict),
        Pipeline(Retry(backoff=resilient.constant(1)), classify=posing),
        Retry(on=verdict, backoff=resilient.constant(1)),
    ):
        script = h.script(418, 503, 200)
        async with h.client(script, pipeline) as client:
            assert 200 == (await h.get(client)).status_code
