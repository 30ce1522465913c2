"""What headers say, and what they say badly."""

from __future__ import annotations

import math
import time
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient._http.response_headers import Allowance, read

# Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's examples.
WALL = 784_111_777.0
NAMES = [
    "Retry-After",
    "retry-after-ms",
    "Date",
    "RateLimit",
    "RateLimit-Policy",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "x-ms-retry-after-ms",
    "x-should-retry",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "x-ratelimit-reset-after",
    "anthropic-ratelimit-tokens-remaining",
    "anthropic-ratelimit-tokens-reset",
]


@pytest.fixture(params=[httpx2.Headers, httpx.Headers], ids=["httpx2", "httpx"])
def headers(request: pytest.FixtureRequest) -> Any:
    """The class of headers of each family."""
    return request.param


def retry_after(headers: Any, wall: float) -> float | None:
    """When to come back, by a client's headers."""
    return read(headers.raw, wall).retry_after


def allowances(headers: Any, wall: float) -> list[Allowance]:
    """What is still granted, by a client's headers."""
    return list(read(headers.raw, wall).allowances)


def after(headers: Any, **fields: str) -> float | None:
    """When to come back, by headers with dashes spelt as underscores."""
    named = {key.replace("_", "-"): value for key, value in fields.items()}
    return retry_after(headers(named), WALL)


def grants(headers: Any, fields: dict[str, str]) -> list[Allowance]:
    """What is still granted, in the order of its units."""
    return sorted(allowances(headers(fields), WALL))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("007", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("86400", 86_400.0),
        ("999999999999999", 999_999_999_999_999.0),
    ],
)
def test_retry_after_is_a_number_of_seconds(
    headers: Any, text: str, seconds: float
) -> None:
    """Decimals as well, which some servers send."""
    assert seconds == after(headers, Retry_After=text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "-5",
        "+5",
        "1e9",
        "0x10",
        "nan",
        "inf",
        "5 s",
        "5,",
        "1_000",
        "٣",
        ".5",
        "5.",
        "9\x1e",
        "\xa05",
        "9" * 16,
        "9" * 400,
        "9" * 5000,
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 99999 08:49:37 GMT",
        "Sun",
        "tomorrow",
        "1994-11-06T08:49:37",
    ],
)
def test_what_cannot_be_read_was_not_sent(headers: Any, text: str) -> None:
    """Garbage leaves the wait to be computed."""
    assert None is retry_after(headers([(b"Retry-After", text.encode())]), WALL)


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "Sun, 06 Nov 1994 09:49:37 +0100",
    ],
)
def test_retry_after_is_a_date_in_any_format_of_http(headers: Any, date: str) -> None:
    """Each means UTC unless it says otherwise."""
    assert 10.0 == retry_after(headers({"Retry-After": date}), WALL - 10)


@pytest.mark.parametrize("zone", ["UTC0", "NST3:30NDT", "NPT-5:45", "LINT-14"])
@pytest.mark.parametrize(
    "date",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 08:49:37 -0000",
        "1994-11-06T08:49:37Z",
        "1994-11-06T10:49:37.000+02:00",
    ],
)
def test_a_date_means_the_same_in_every_time_zone(
    headers: Any, date: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the machine that reads it does not matter, nor does its summer time."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", zone)
        time.tzset()
        fields = {"x-ratelimit-remaining": "1", "x-ratelimit-reset": date}
        waits = [
            retry_after(headers({"Retry-After": date}), WALL - 10),
            *(one.reset for one in allowances(headers(fields), WALL - 10)),
        ]
    time.tzset()
    assert {10.0} == set(waits)


def test_a_date_that_has_passed_is_now(headers: Any) -> None:
    """It may be asked again at once."""
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    assert 0.0 == retry_after(headers({"Retry-After": date}), WALL + 10)


def test_a_date_in_2099_is_far_away(headers: Any) -> None:
    """It is measured all the same."""
    date = "Sun, 06 Nov 2099 08:49:37 GMT"
    wait = retry_after(headers({"Retry-After": date}), WALL)
    assert wait is not None
    assert wait > 3e9


def test_a_date_is_measured_against_the_clock_of_the_server(headers: Any) -> None:
    """A wrong clock is wrong in both."""
    fields = {
        "Date": "Sun, 06 Nov 1994 08:49:37 GMT",
        "Retry-After": "Sun, 06 Nov 1994 08:49:52 GMT",
    }
    assert 15.0 == retry_after(headers(fields), 0.0)


def test_a_date_header_of_garbage_leaves_our_own_clock(headers: Any) -> None:
    """It is as good as not sent."""
    fields = {"Date": "now", "Retry-After": "Sun, 06 Nov 1994 08:49:52 GMT"}
    assert 15.0 == retry_after(headers(fields), WALL)


def test_milliseconds_are_finer_than_seconds(headers: Any) -> None:
    """Who sends both means the finer one."""
    assert 0.25 == after(headers, retry_after_ms="250", Retry_After="1")
    assert 1.0 == after(headers, retry_after_ms="soon", Retry_After="1")


def test_nothing_is_said_where_nothing_is_sent(headers: Any) -> None:
    """Neither a wait nor a grant."""
    assert None is after(headers)
    assert [] == grants(headers, {})


def test_an_allowance_that_is_used_up_says_when_to_come_back(headers: Any) -> None:
    """The longest of them: all must have something left."""
    fields = {
        "X-RateLimit-Remaining-Requests": "0",
        "X-RateLimit-Reset-Requests": "3s",
        "X-RateLimit-Remaining-Tokens": "0",
        "X-RateLimit-Reset-Tokens": "6m0s",
    }
    assert 360.0 == retry_after(headers(fields), WALL)
    fields["X-RateLimit-Remaining-Tokens"] = "1"
    assert 3.0 == retry_after(headers(fields), WALL)
    fields["X-RateLimit-Remaining-Requests"] = "1"
    assert None is retry_after(headers(fields), WALL)


def test_garbage_in_retry_after_leaves_the_allowance_to_say_it(headers: Any) -> None:
    """What can be read is read."""
    fields = {"Retry-After": "-1", "RateLimit": '"day";r=0;t=12'}
    assert 12.0 == retry_after(headers(fields), WALL)


def test_the_draft_of_today_is_understood(headers: Any) -> None:
    """A list of names with parameters; units come from the policy."""
    fields = {
        "RateLimit-Policy": '"burst";q=100;w=60, "tok" ; q=9 ; qu="tokens";pk=:abc:',
        "RateLimit": '"burst";r=50;t=30, "tok" ; r=0 ; t=7',
    }
    assert [Allowance("requests", 50, 30), Allowance("tokens", 0, 7)] == grants(
        headers, fields
    )


def test_several_fields_of_one_name_are_one_list(headers: Any) -> None:
    """As for every list in HTTP."""
    fields = headers([("RateLimit", '"a";r=5;t=9'), ("RateLimit", '"b";r=2;t=3')])
    assert [Allowance("requests", 2, 3)] == allowances(fields, WALL)


def test_the_draft_of_before_is_understood(headers: Any) -> None:
    """Three pairs in one field."""
    fields = {"RateLimit": "limit=100, remaining=50, reset=30"}
    assert [Allowance("requests", 50, 30)] == grants(headers, fields)


@pytest.mark.parametrize(
    "field",
    [
        "",
        "garbage",
        '"a"',
        '"a";r=5',
        '"a";t=5',
        '"a";r=-1;t=5',
        '"a";r=x;t=5',
        "remaining=5",
        "limit=5, reset=3",
        '"unfinished;r=5;t=6',
    ],
)
def test_half_an_allowance_is_none(headers: Any, field: str) -> None:
    """Both numbers are needed."""
    assert [] == grants(headers, {"RateLimit": field})


@pytest.mark.parametrize("prefix", ["", "X-"])
def test_one_header_for_each_number_is_understood(headers: Any, prefix: str) -> None:
    """Its unit behind a dash, requests without one."""
    fields = {
        f"{prefix}RateLimit-Remaining": "5",
        f"{prefix}RateLimit-Reset": "30",
        f"{prefix}RateLimit-Remaining-Tokens": "800",
        f"{prefix}RateLimit-Reset-Tokens": "1.5",
    }
    assert [Allowance("requests", 5, 30), Allowance("tokens", 800, 1.5)] == grants(
        headers, fields
    )


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("30", 30.0),
        ("0", 0.0),
        ("6m0s", 360.0),
        ("1h2m3s", 3_723.0),
        ("2d", 172_800.0),
        ("20ms", 0.02),
        ("1s20ms", 1.02),
        ("1.5s", 1.5),
        ("1m", 60.0),
        (f"{WALL + 25:.0f}", 784_111_802.0),  # below 1e9: a number of seconds
        ("1700000010", 10.0),
        ("1700000010000", 10.0),
        ("1600000000", 0.0),
    ],
)
def test_a_reset_is_seconds_or_a_moment_or_a_duration(
    headers: Any, reset: str, seconds: float
) -> None:
    """Whatever the family of servers writes."""
    fields = {"x-ratelimit-remaining": "1", "x-ratelimit-reset": reset}
    (allowance,) = allowances(headers(fields), 1_700_000_000.0)
    assert pytest.approx(seconds) == allowance.reset


@pytest.mark.parametrize("reset", ["", "-1", "soon", "s", "m", "5x", "1s2h", "1.5m"])
def test_a_reset_of_garbage_is_none(headers: Any, reset: str) -> None:
    """So the allowance is half a one."""
    fields = {"x-ratelimit-remaining": "1", "x-ratelimit-reset": reset}
    assert [] == grants(headers, fields)


def test_a_remaining_without_its_reset_is_none(headers: Any) -> None:
    """It is not known for how long it holds."""
    assert [] == grants(headers, {"x-ratelimit-remaining": "1"})
    fields = {"x-ratelimit-remaining-a": "1", "x-ratelimit-reset-b": "1"}
    assert [] == grants(headers, fields)


def test_a_moment_is_measured_against_the_clock_of_the_server(headers: Any) -> None:
    """As a date is."""
    fields = {
        "Date": "Tue, 14 Nov 2023 22:13:20 GMT",  # 1 700 000 000
        "x-ratelimit-remaining": "1",
        "x-ratelimit-reset": "1700000007",
    }
    (allowance,) = allowances(headers(fields), 0.0)
    assert 7.0 == allowance.reset


def test_the_scarcest_of_a_unit_counts(headers: Any) -> None:
    """Whichever header says it, and in whatever order."""
    fields = {
        "RateLimit": '"a";r=9;t=1, "b";r=4;t=2, "c";r=6;t=3',
        "x-ratelimit-remaining": "5",
        "x-ratelimit-reset": "4",
    }
    assert [Allowance("requests", 4, 2)] == grants(headers, fields)


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.text(max_size=60))))
def test_nothing_that_a_server_sends_raises(fields: list[tuple[str, str]]) -> None:
    """Neither garbage nor half of something."""
    _no_trouble([(key.encode(), value.encode()) for key, value in fields])


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=60))))
def test_no_bytes_that_a_server_sends_raise(fields: list[tuple[str, bytes]]) -> None:
    """Of whatever encoding."""
    _no_trouble([(key.encode(), value) for key, value in fields])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.from_regex(
                r'("[a-z]*"|[0-9.]+|[rtqwudhms=;,: -]|Sun, |GMT|[a-z]{5,9}=){0,9}',
                fullmatch=True,
            ),
        )
    )
)
def test_nothing_that_looks_like_an_answer_raises(
    fields: list[tuple[str, str]],
) -> None:
    """Pieces of the real thing in any order."""
    _no_trouble([(key.encode(), value.encode()) for key, value in fields])


def _no_trouble(raw: list[tuple[bytes, bytes]]) -> None:
    said = read(raw, WALL)
    assert said.retry_after is None or 0.0 <= said.retry_after < math.inf
    assert said.should_retry in (None, True, False)
    for allowance in said.allowances:
        assert 0.0 <= allowance.remaining < math.inf
        assert 0.0 <= allowance.reset < math.inf


# -- What servers of today send


def said(*raw: tuple[bytes, bytes], wall: float = WALL) -> Any:
    """What some fields say."""
    return read(raw, wall)


@pytest.mark.parametrize("name", [b"retry-after-ms", b"x-ms-retry-after-ms"])
def test_milliseconds_have_two_names(name: bytes) -> None:
    """OpenAI's and Azure's; both are finer than Retry-After."""
    assert 0.25 == said((name, b"250"), (b"Retry-After", b"1")).retry_after


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([b"3", b"9"], 9.0),
        ([b"9", b"3"], 9.0),
        ([b"3, 9"], 9.0),
        ([b"3,9", b"1"], 9.0),
        ([b"3, soon"], None),
        ([b"3", b"soon"], 3.0),
        ([b"20", b"Sun, 06 Nov 1994 08:49:47 GMT"], 20.0),
        ([b"3", b"Sun, 06 Nov 1994 08:49:47 GMT"], 10.0),
    ],
)
def test_of_a_wait_that_is_sent_twice_the_later_counts(
    values: list[bytes], seconds: float | None
) -> None:
    """In fields of their own, or joined by a proxy."""
    raw = [(b"Retry-After", value) for value in values]
    assert seconds == said(*raw).retry_after


def test_of_an_allowance_that_is_sent_twice_the_scarcer_counts() -> None:
    """The smaller remainder, until the later reset."""
    raw = [
        (b"x-ratelimit-remaining", b"5"),
        (b"x-ratelimit-remaining", b"2"),
        (b"x-ratelimit-reset", b"30"),
        (b"x-ratelimit-reset", b"60"),
    ]
    assert (Allowance("requests", 2, 60),) == said(*raw).allowances


def test_of_windows_that_are_used_up_the_last_to_reset_counts() -> None:
    """All of them have to have something left."""
    field = b'"second";r=0;t=1, "day";r=0;t=5000, "minute";r=0;t=60'
    assert (Allowance("requests", 0, 5000),) == said((b"RateLimit", field)).allowances


def test_policies_in_several_fields_are_one_list() -> None:
    """Each allowance finds the unit of its policy."""
    raw = [
        (b"RateLimit-Policy", b'"a";q=10;w=60'),
        (b"RateLimit-Policy", b'"b";q=9;qu="tokens", c;q=1;qu="content-bytes"'),
        (b"RateLimit", b'"a";r=3;t=4, "b";r=2;t=8'),
        (b"RateLimit", b"c;r=1;t=6"),
    ]
    assert {("requests", 3, 4), ("tokens", 2, 8), ("content-bytes", 1, 6)} == set(
        said(*raw).allowances
    )


def test_a_comma_in_a_quoted_name_separates_nothing() -> None:
    """Nor does a semicolon, or a quote behind a backslash."""
    field = rb'"a,\";b";r=3;t=4, "c\\";r=2;t=4'
    assert (Allowance("requests", 2, 4),) == said((b"RateLimit", field)).allowances


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        (b"2023-11-14T22:13:27Z", 7.0),
        (b"2023-11-14T22:13:27.5Z", 7.5),
        (b"2023-11-14t23:13:27+01:00", 7.0),
        (b"Tue, 14 Nov 2023 22:13:27 GMT", 7.0),
        (b"2023-11-14T22:13:10Z", 0.0),
        (b"2023-11-14T22:13:27", None),
        (b"2023-99-14T22:13:27Z", None),
        (b"20231114", 20_231_114.0),
        (b"9" * 13 + b"d", None),
    ],
)
def test_a_reset_may_be_a_date(reset: bytes, seconds: float | None) -> None:
    """Of RFC 3339, as Anthropic sends, or of HTTP; with its zone."""
    raw = [
        (b"anthropic-ratelimit-input-tokens-remaining", b"9"),
        (b"anthropic-ratelimit-input-tokens-reset", reset),
        (b"anthropic-ratelimit-input-tokens-limit", b"900"),
    ]
    expected = () if seconds is None else (Allowance("input-tokens", 9, seconds),)
    assert expected == said(*raw, wall=1_700_000_000.0).allowances


@pytest.mark.parametrize("prefix", [b"", b"x-", b"vendor-"])
@pytest.mark.parametrize("word", [b"ratelimit", b"rate-limit"])
def test_a_reset_after_is_finer_than_a_reset(prefix: bytes, word: bytes) -> None:
    """Discord sends both, the reset in Unix time."""
    raw = [
        (prefix + word + b"-remaining", b"1"),
        (prefix + word + b"-reset", b"1700000009"),
        (prefix + word + b"-reset-after", b"1.5"),
        (prefix + word + b"-bucket", b"abcd"),
        (b"x-ratelimitbysize-remaining-minute", b"1"),
    ]
    assert (Allowance("requests", 1, 1.5),) == said(*raw).allowances


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([b"true"], True),
        ([b"False"], False),
        ([b" true\t"], True),
        ([], None),
        ([b"1"], None),
        ([b"true", b"false"], None),
    ],
)
def test_a_server_may_say_whether_to_come_back(
    values: list[bytes], word: bool | None
) -> None:
    """Nothing is said where it says both."""
    assert word is said(*[(b"X-Should-Retry", value) for value in values]).should_retry
