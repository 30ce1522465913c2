"""A health check over HTTP: which server it asks, and which answers it accepts."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from tests.http.families import FAMILIES
from tests.loopback import Head, Server, answer

from resilient import Balance, Check, Endpoint
from resilient.testing import virtual_time

in_each_family = pytest.mark.parametrize("family", FAMILIES)


def checked(
    family: str, monkeypatch: pytest.MonkeyPatch, *statuses: int, **options: Any
) -> tuple[Any, list[Any]]:
    """Return a check of "/readyz", and the requests that it sends, to be filled."""
    library: Any = importlib.import_module(family)
    sent: list[Any] = []

    def respond(_: object, request: Any) -> Any:
        sent.append(request)
        return library.Response(statuses[len(sent) - 1])

    monkeypatch.setattr(library.HTTPTransport, "handle_request", respond)
    ours: Any = importlib.import_module(f"resilient.{family}")
    return ours.http_check("/readyz", **options), sent


@in_each_family
def test_a_status_says_how_an_endpoint_is(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 to 299 that it is well; a redirect is not followed."""
    check, sent = checked(family, monkeypatch, 200, 204, 302, 429, 503)
    said = [check("http://10.0.0.1:8080/v1/") for _ in range(5)]
    assert [True, True, False, False, False] == said
    assert {("GET", "http://10.0.0.1:8080/v1/readyz")} == {
        (request.method, str(request.url)) for request in sent
    }


@in_each_family
def test_the_good_statuses_are_yours_to_say(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any of them."""
    check, _ = checked(family, monkeypatch, 200, 429, statuses={429})
    assert [False, True] == [check("http://a"), check("http://a")]


@in_each_family
def test_it_asks_by_the_name_of_the_origin(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a transport does: in `Host`, and in the certificate."""
    origin = "https://catalogue:444"
    check, sent = checked(family, monkeypatch, 200, 200, origin=origin)
    assert check(("10.0.0.1", 8443))
    assert check("https://10.0.0.2/v1")
    first, second = sent
    assert "https://10.0.0.1:8443/readyz" == str(first.url)
    assert "catalogue:444" == first.headers["host"]
    assert "catalogue" == first.extensions["sni_hostname"]
    assert "https://10.0.0.2/v1/readyz" == str(second.url)
    assert "10.0.0.2" == second.headers["host"]
    with pytest.raises(ValueError, match="must not go to 'http://10"):
        check("http://10.0.0.1")


@in_each_family
@pytest.mark.parametrize("origin", ["https://catalogue", None])
def test_an_endpoint_is_asked_as_requests_are_sent_to_it(
    family: str, origin: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own name where it has one; without TLS where it says so."""
    check, sent = checked(family, monkeypatch, *[200] * 99, origin=origin)
    balance = Balance(
        Endpoint("https://10.0.0.1/v1", host="replica-1:444"),
        Endpoint("http://10.0.0.2", plaintext=True),
        check=Check(check),
    )

    class Stop:
        def wait(self, seconds: float) -> bool:
            clock.sleep(seconds)
            return len({request.url for request in sent}) == 2 or clock.now() > 60

    with virtual_time() as clock:
        balance.run_sync(Stop())
    found = {str(each.url): each for each in sent}
    assert {"http://10.0.0.2/readyz", "https://10.0.0.1/v1/readyz"} == found.keys()
    assert "10.0.0.2" == found["http://10.0.0.2/readyz"].headers["host"]
    named = found["https://10.0.0.1/v1/readyz"]
    assert "replica-1:444" == named.headers["host"]
    assert "replica-1" == named.extensions["sni_hostname"]


@in_each_family
def test_a_check_that_could_not_work_is_refused(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is made; an address without a name when it is asked."""
    ours: Any = importlib.import_module(f"resilient.{family}")
    with pytest.raises(ValueError, match="`path` must begin with a slash, as in"):
        ours.http_check("readyz")
    with pytest.raises(ValueError, match="`timeout` must be > 0 seconds, got 0"):
        ours.http_check(timeout=0)
    with pytest.raises(ValueError, match="`origin` must be a scheme, http or https"):
        ours.http_check(origin="catalogue")
    check, _ = checked(family, monkeypatch, 200)
    with pytest.raises(TypeError, match="needs an origin="):
        check(("10.0.0.1", 80))


@pytest.mark.real
@in_each_family
def test_a_real_server_is_asked(family: str) -> None:
    """What refuses connections raises; a body without an end is not read."""
    ours: Any = importlib.import_module(f"resilient.{family}")
    with Server() as server:
        gate = server.gate()
        server.script("/readyz", answer(), answer(503), [Head(200), b"a", gate])
        check = ours.http_check("/readyz", timeout=60)
        url = server.url.rstrip("/")
        assert [True, False, True] == [check(url) for _ in range(3)]
        server.wait_for(lambda: server.open_connections == 0)
        with pytest.raises(importlib.import_module(family).ConnectError):
            check(server.refused_url.rstrip("/"))
