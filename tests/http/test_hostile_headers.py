"""Header fields of a peer that means harm, or does not know what it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.http.families import FAMILIES, URL, Http, in_every_client

from resilient import (
    CircuitBreaker,
    CircuitOpenError,
    Pipeline,
    RateLimitedError,
    RateLimiter,
)
from resilient._http import response_headers
from resilient._http.body_headers import body_fields

WALL = 784_111_777.0
N = 4_000

Raw = list[tuple[bytes, bytes]]

TEXTS: dict[str, Callable[[int], str]] = {
    "backslashes": lambda n: '"' + '\\"' * n,
    "quotes": lambda n: '"' * n,
    "members": lambda n: '"a";r=1;t=1,' * n,
    "parameters": lambda n: '"a"' + ";r=1" * n,
    "open parameters": lambda n: '"a"' + ';r="' * n,
    "semicolons": lambda n: ";" * n,
    "commas": lambda n: "," * n,
    "spaces": lambda n: " " * n + "x",
    "spaced semicolons": lambda n: '"a"' + " ;" * n,
    "digits": lambda n: "9" * n,
    "fraction": lambda n: "9." + "9" * n,
    "durations": lambda n: "9" * n + "m" + "9" * n,
    "pairs": lambda n: "remaining=1, " * n,
    "date": lambda n: "Sun, " * n,
    "zone": lambda n: "Sun, 06 Nov 1994 08:49:37 " + "(" * n,
    "letters": lambda n: "a" * n,
}

PARSERS: dict[str, Callable[[str], object]] = {
    "members": lambda text: list(response_headers._members(text)),
    "decimal": response_headers._decimal,
    "duration": response_headers._duration,
    "seconds": response_headers._seconds,
    "reset": lambda text: response_headers._reset(text, WALL),
    "moment": response_headers._moment,
    "retry": lambda text: response_headers._retry_after({"retry-after": [text]}, WALL),
}


def seconds(action: Callable[[], object], times: int = 1) -> float:
    """How long so many calls of an action take."""
    began = time.perf_counter()
    for _ in range(times):
        action()
    return time.perf_counter() - began


def assert_linear(small: Callable[[], object], large: Callable[[], object]) -> None:
    """Twice the input takes less than three times the time.

    NB: a busy machine may be unlucky in one round, hardly in a dozen; what is
    quadratic takes four times as long in all of them.
    """
    times = max(1, int(0.001 / max(1e-7, seconds(small))))
    ratio = 3.0
    for _ in range(12):
        ratio = seconds(large, times) / seconds(small, times)
        if ratio < 3.0:
            break
    assert ratio < 3.0


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("parser", PARSERS)
def test_every_parser_takes_time_in_proportion_to_its_input(
    parser: str, kind: str
) -> None:
    """Even to what it would not be given: fields longer than 1 kB."""
    parse, text = PARSERS[parser], TEXTS[kind]
    small, large = text(N), text(2 * N)
    assert_linear(lambda: parse(small), lambda: parse(large))


def _many(name: bytes) -> Callable[[int], Raw]:
    return lambda n: [(name % i if b"%" in name else name, b"1") for i in range(n)]


@pytest.mark.parametrize(
    "name",
    [
        b"x-ratelimit-remaining-%d",
        b"x-ratelimit-reset-%d",
        b"ratelimit",
        b"ratelimit-policy",
        b"retry-after",
        b"retry-after-ms",
        b"date",
        b"content-length",
        b"content-type",
        b"x-%d",
    ],
)
def test_many_fields_take_time_in_proportion_to_their_number(name: bytes) -> None:
    """Four thousand `ratelimit-remaining-N` took two seconds."""

    class Response:
        def __init__(self, raw: Raw) -> None:
            self.headers = type("Headers", (), {"raw": raw})

    small, large = _many(name)(N), _many(name)(2 * N)
    assert_linear(
        lambda: response_headers.read(small, WALL),
        lambda: response_headers.read(large, WALL),
    )
    few, many = Response(small), Response(large)
    assert_linear(lambda: body_fields(few), lambda: body_fields(many))


def test_a_field_longer_than_a_kilobyte_is_not_read() -> None:
    """Nor is a name longer than 64 bytes; shorter ones are."""
    zeros = b"0" * (response_headers.LONGEST_FIELD - 1)
    assert (
        7.0 == response_headers.read([(b"Retry-After", zeros + b"7")], WALL).retry_after
    )
    assert (
        None
        is response_headers.read([(b"Retry-After", zeros + b"07")], WALL).retry_after
    )
    for length, said in (
        (response_headers.LONGEST_NAME, 1),
        (response_headers.LONGEST_NAME + 1, 0),
    ):
        unit = b"a" * (length - len(b"x-ratelimit-remaining-"))
        raw = [
            (b"x-ratelimit-remaining-" + unit, b"1"),
            (b"x-ratelimit-reset-" + unit, b"1"),
        ]
        assert said == len(response_headers.read(raw, WALL).allowances)


def test_no_more_than_32_fields_of_a_family_are_read() -> None:
    """Each family for itself, so that one cannot hide the other."""
    limits = [
        (b"x-ratelimit-%s-u%d" % (word, i), b"1")
        for i in range(100)
        for word in (b"remaining", b"reset")
    ]
    waits = [(b"retry-after", b"1")] * 32 + [(b"retry-after", b"99")]
    said = response_headers.read(limits + waits, WALL)
    assert response_headers.MOST_FIELDS // 2 == len(said.allowances)
    assert 1.0 == said.retry_after


@pytest.mark.parametrize("family", FAMILIES)
def test_a_content_type_that_is_sent_often_is_not_joined_for_ever(family: str) -> None:
    """A length that is sent twice is none, however often."""
    h = Http(family, "sync")
    headers = [("Content-Type", "a"), ("Content-Length", "1")] * 5000
    response = h.library.Response(200, headers=headers)
    fields = body_fields(response)
    assert {b"content-type", b"content-length"} == fields.keys()
    assert all(
        len(value) < response_headers.LONGEST_FIELD + 8 for value in fields.values()
    )


HOSTILE = (
    b"9\x1e",
    b"\x1c9",
    b"9\xa0",
    b"\xb2",
    "٣".encode(),
    b"9" * 100_000,
    b"-1",
    b"1e3",
    b'"' + b'\\"' * 10_000,
    b"\xff\xfe",
)


@in_every_client
async def test_no_header_raises_out_of_a_client_or_hides_a_failure(h: Http) -> None:
    """A 503 stays one: the circuit opens over it."""
    names = (
        "Retry-After",
        "retry-after-ms",
        "RateLimit",
        "RateLimit-Policy",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "Date",
        "x-should-retry",
    )
    for value in HOSTILE:
        headers = [(name.encode(), value) for name in names]
        script = h.script(h.library.Response(503, headers=headers))
        pipeline = Pipeline(
            CircuitBreaker(consecutive_failures=3),
            RateLimiter(100),
            classify=h.ours.http_verdict,
        )
        async with h.client(script, pipeline) as client:
            for _ in range(3):
                assert 503 == (await h.get(client)).status_code
            await h.error(CircuitOpenError, h.get, client)


@in_every_client
async def test_our_own_mistake_is_no_verdict_on_the_server(h: Http) -> None:
    """It reaches the caller, and what was held goes back."""
    breaker = CircuitBreaker(consecutive_failures=1)
    mistake = ZeroDivisionError("ours")

    def read(*_: Any) -> Any:
        raise mistake

    script = h.script(503)
    async with h.client(script, h.retry(breaker)) as client:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(response_headers, "read", read)
            assert mistake is await h.error(ZeroDivisionError, h.get, client)
        assert 1 == len(script.sent)
        assert "closed" == breaker.state.value
        # The next one is judged, so nothing was recorded and nothing is held.
        await h.error(CircuitOpenError, h.get, client)
    assert 2 == len(script.sent)


# -- Limits that a server claims


@in_every_client
async def test_a_limiter_shut_by_a_header_lets_one_call_ask_again(h: Http) -> None:
    """After `max_retry_after`, 60 s by default; a silent answer opens it."""
    limiter = RateLimiter(100)
    script = h.script(
        h.answer(200, x_ratelimit_remaining="0", x_ratelimit_reset="999999999"), 200
    )
    async with h.client(script, Pipeline(limiter)) as client:
        await h.get(client)
        error = await h.error(RateLimitedError, h.get, client)
        assert 60.0 == pytest.approx(error.retry_after)
        await h.sleep(60.0)
        assert 200 == (await h.get(client)).status_code
        await h.error(RateLimitedError, h.get, client)
        await h.sleep(60.0)
        for _ in range(5):
            assert 200 == (await h.get(client)).status_code
    assert 7 == len(script.sent)


@in_every_client
async def test_an_honest_reset_in_an_hour_is_learnt_from_each_probe(h: Http) -> None:
    """One call a minute, until the hour is over."""
    began = h.now()

    async def answer(request: Any) -> Any:
        left = max(0.0, began + 600 - h.now())
        grants = "0" if left else "100"
        return h.answer(
            200, x_ratelimit_remaining=grants, x_ratelimit_reset=f"{left or 600:.0f}"
        )

    script = h.script(answer)
    async with h.client(script, Pipeline(RateLimiter(100))) as client:
        for _ in range(700):
            try:
                await h.get(client)
            except RateLimitedError:
                pass
            await h.sleep(1.0)
    early = [at for at in script.times if at < began + 600]
    assert 10 == len(early)
    assert 99 < len(script.times) - len(early)


@in_every_client
async def test_a_retry_says_how_long_a_header_may_hold(h: Http) -> None:
    """Its `max_retry_after`, wherever the limiter stands."""
    for inside in (True, False):
        limiter = RateLimiter(100)
        retry = h.retry(*[limiter] * inside, max_retry_after=5)
        pipeline = retry if inside else Pipeline(limiter, retry, intended=True)
        script = h.script(h.answer(200, RateLimit='"a";r=0;t=86400'), 200)
        async with h.client(script, pipeline) as client:
            await h.get(client)
            error = await h.error(RateLimitedError, h.get, client)
            assert 5.0 == pytest.approx(error.retry_after)


@in_every_client
async def test_what_is_left_of_a_long_window_is_not_lost_by_a_probe(h: Http) -> None:
    """Three that the server grants for an hour pass whenever they come."""
    limiter = RateLimiter(100)
    script = h.script(h.answer(200, RateLimit='"a";r=3;t=3600'), 200)
    async with h.client(script, Pipeline(limiter)) as client:
        await h.get(client)
        await h.sleep(61.0)
        for _ in range(3):
            await h.get(client)
        await h.error(RateLimitedError, h.get, client)
    assert 4 == len(script.sent)


@in_every_client
async def test_one_origins_header_does_not_shut_anothers(h: Http) -> None:
    """A limiter of several origins learns from none of them."""
    shut = h.answer(200, RateLimit='"a";r=0;t=50')
    limiter = RateLimiter(100)
    script = h.script(shut)
    async with h.client(script, Pipeline(limiter)) as client:
        await h.get(client)
        await h.error(RateLimitedError, h.get, client)
        assert 200 == (await h.get(client, "https://other.test/")).status_code
        for _ in range(3):
            assert 200 == (await h.get(client)).status_code
            assert 200 == (await h.get(client, "https://other.test/")).status_code
    assert 8 == len(script.sent)


@in_every_client
async def test_another_origin_still_meets_our_own_limit(h: Http) -> None:
    """Only what a server said is lifted."""
    limiter = RateLimiter(1, per=10)
    script = h.script(h.answer(200, RateLimit='"a";r=0;t=50'))
    async with h.client(script, Pipeline(limiter)) as client:
        await h.get(client)
        error = await h.error(RateLimitedError, h.get, client, "https://other.test/")
        assert 10.0 == pytest.approx(error.retry_after)


@in_every_client
async def test_those_who_wait_for_one_origin_go_on_once_another_is_seen(
    h: Http,
) -> None:
    """What held them was the word of one server."""
    if h.is_sync:
        return
    import anyio

    limiter = RateLimiter(100, max_wait=None)
    script = h.script(h.answer(200, RateLimit='"a";r=0;t=50'), 200)
    async with h.client(script, Pipeline(limiter)) as client:
        await h.get(client)
        began = h.now()
        async with anyio.create_task_group() as group:
            group.start_soon(h.get, client)
            await h.sleep(1.0)
            group.start_soon(h.get, client, "https://other.test/")
        assert began + 2.0 > h.now()
    assert 3 == len(script.sent)


def test_a_limit_that_was_told_without_an_origin_holds_for_all() -> None:
    """`learn` without an origin applies to requests to all origins."""
    h = Http("httpx2", "sync")
    limiter = RateLimiter(100)

    async def scenario(h: Any) -> None:
        async with h.client(h.script(200), Pipeline(limiter)) as client:
            await h.get(client)
            await h.get(client, "https://other.test/")
            limiter.learn(0, 30)
            await h.error(RateLimitedError, h.get, client)
            await h.error(RateLimitedError, h.get, client, URL)

    h.run(scenario)
