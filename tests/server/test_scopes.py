"""What is read of a request before it is admitted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient import RateLimitedError
from resilient._http.response_headers import Allowance, read
from resilient._server.scopes import checked_deadline_header
from resilient.asgi import error_answer, peer_address


@pytest.mark.parametrize(
    ("client", "key"),
    [
        (("192.0.2.1", 80), "192.0.2.1"),
        (["192.0.2.1", 80], "192.0.2.1"),
        (("2001:db8:0:1:2:3:4:5", 80), "2001:db8:0:1::/64"),
        (("2001:db8::1", 80), "2001:db8::/64"),
        (("fe80::1%eth0", 80), "fe80::/64"),
        (("::ffff:192.0.2.1", 80), "192.0.2.1"),
        (("::1", 80), "::/64"),
        (("what:ever", 80), "what:ever"),
        (("", 0), "local"),
        ((None, None), "local"),
        (None, "local"),
    ],
)
def test_a_client_is_its_address(client: Any, key: str) -> None:
    """Of IPv6 the /64, which one host has to itself; of a Unix socket "local"."""
    assert key == peer_address({"client": client})


def test_a_server_may_not_know_its_client() -> None:
    """The field is optional."""
    assert "local" == peer_address({})


@pytest.mark.parametrize(
    ("header", "value", "seconds"),
    [
        (("X-Timeout", "s"), b"1.5", 1.5),
        (("X-Timeout", "ms"), b"1500", 1.5),
        ("grpc-timeout", b"2S", 2.0),
        ("grpc-timeout", b"1500m", 1.5),
        ("grpc-timeout", b"1H", 3600.0),
        ("grpc-timeout", b"2M", 120.0),
        ("grpc-timeout", b"5u", 5e-6),
        ("grpc-timeout", b"99999999n", 0.099999999),
        ("grpc-timeout", b"999999999S", None),
        ("grpc-timeout", b"1", None),
        ("gRPC-Timeout", b"1S", 1.0),
        ("connect-timeout-ms", b"250", 0.25),
        ("x-envoy-expected-rq-timeout-ms", b"250", 0.25),
    ],
)
def test_a_deadline_is_read_in_its_unit(
    header: Any, value: bytes, seconds: float | None
) -> None:
    """By name and unit, or by the name of a field in use."""
    read_by = checked_deadline_header(header)

    assert read_by is not None
    found = read_by.seconds([(b"other", b"1"), (read_by.name, value)])
    assert seconds == (None if found is None else pytest.approx(found))


@given(st.binary(max_size=2000))
def test_no_field_makes_reading_a_deadline_fail(value: bytes) -> None:
    """Nor gives it a number that is no time."""
    for header in (("X-Timeout", "ms"), ("X-Timeout", "s"), "grpc-timeout"):
        read_by: Any = checked_deadline_header(header)
        seconds = read_by.seconds([(read_by.name, value)])
        assert seconds is None or 0 <= seconds < 1e15


@given(st.text(), st.floats(0, 1e12), st.binary(max_size=300), st.binary(max_size=300))
def test_nothing_that_is_said_splits_a_header(
    policy: str, wait: float, accept: bytes, origin: bytes
) -> None:
    """Neither names of policies nor what a client sends reaches an answer."""
    answer = error_answer(
        RateLimitedError(policy, wait),
        [(b"accept", accept), (b"origin", origin)],
        allow_origins=["https://shop.example"],
    )

    for pair in answer.headers:
        for part in pair:
            assert not set(b"\r\n\0") & set(part)
    assert answer.body in (
        b"Too Many Requests\n",
        b'{"type": "about:blank", "title": "Too Many Requests", "status": 429}',
    )


@pytest.mark.parametrize("wait", [0.0, 0.2, 2.5, 60.0, 1e9])
def test_the_client_reads_what_the_server_writes(wait: float) -> None:
    """`RateLimit` and `Retry-After` come back as they were meant, to a day."""
    answer = error_answer(RateLimitedError("x", wait))
    advice = read(answer.headers, 0.0)

    expected = max(1.0, min(86_400.0, -(-wait // 1)))
    assert expected == advice.retry_after
    assert (Allowance("requests", 0, expected),) == advice.allowances
