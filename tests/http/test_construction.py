"""How a transport is made, what it refuses, and how it is shown."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.families import (
    FAMILIES,
    URL,
    Http,
    in_async_clients,
    in_every_client,
)

from resilient import (
    Pipeline,
    Timeout,
)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (
            {"pipeline": 3},
            TypeError,
            "`pipeline` must be a Pipeline or a policy, got 3",
        ),
        (
            {"inner": 3},
            TypeError,
            "`inner` must be a transport of {family}, got 3",
        ),
        (
            {"retry_unsafe": 1},
            TypeError,
            "`retry_unsafe` must be True or False, got 1",
        ),
        (
            {"idempotency_key": "x"},
            TypeError,
            "`idempotency_key` must be True or False, got 'x'",
        ),
        (
            {"read_body": "always"},
            TypeError,
            "`read_body` must be \"auto\", True or False, got 'always'",
        ),
        ({"max_body": -1}, ValueError, "`max_body` must be >= 0, got -1"),
        (
            {"max_body": 1.5},
            TypeError,
            "`max_body` must be an int, got 1.5",
        ),
        *(
            (
                {"deadline_header": header},
                TypeError,
                "`deadline_header` must be a name and a unit, as in"
                f' ("X-Request-Timeout-Ms", "ms") or (…, "s"), got {header!r}',
            )
            for header in ("X", ("X",), ("X", "h"), (1, "s"), ["X", "s"], ("X", "s", 1))
        ),
    ],
)
def test_bad_arguments_are_refused_at_once(
    h: Http, arguments: dict[str, Any], kind: type[Exception], text: str
) -> None:
    """By name, rule and value."""
    with pytest.raises(kind) as caught:
        h.ours.ResilientTransport(**arguments)
    assert text.format(family=h.family) == str(caught.value)


def test_a_transport_of_the_other_family_is_refused(h: Http) -> None:
    """Its responses would be none to this client."""
    other = Http(FAMILIES[1 - FAMILIES.index(h.family)], "sync")
    inner = other.library.MockTransport(lambda request: None)
    with pytest.raises(TypeError) as caught:
        h.transport(inner)
    assert f"`inner` must be a transport of {h.family}, got {inner!r}" == str(
        caught.value
    )


def test_a_client_of_the_other_family_is_refused(h: Http) -> None:
    """Before anything is sent; else its assertion about a response would be all."""
    other = Http(FAMILIES[1 - FAMILIES.index(h.family)], "sync")
    transport = h.transport(h.library.MockTransport(lambda request: None))
    with other.library.Client(transport=transport) as client:
        with pytest.raises(TypeError) as caught:
            client.get(URL)
    assert (
        f"a ResilientTransport of resilient.{h.family} takes requests of {h.family},"
        f" got <Request('GET', '{URL}')> of {other.family}"
    ) == str(caught.value)


def test_a_transport_of_the_other_colour_is_refused(h: Http) -> None:
    """When the client first uses it, before anything is sent."""
    library = h.library
    request = library.Request("GET", URL)
    inner = library.AsyncHTTPTransport()
    with pytest.raises(TypeError) as caught:
        h.transport(inner).handle_request(request)
    assert (
        f"`inner` must be an instance of {h.family}.BaseTransport for this client,"
        f" got {inner!r}"
    ) == str(caught.value)
    inner = library.HTTPTransport()
    with pytest.raises(TypeError) as caught:
        h.transport(inner).handle_async_request(request).send(None)
    assert (
        f"`inner` must be an instance of {h.family}.AsyncBaseTransport for this"
        f" client, got {inner!r}"
    ) == str(caught.value)


def test_its_repr_reads_like_the_call_that_made_it(h: Http) -> None:
    """With what was given."""
    script = h.script(200)
    assert "ResilientTransport(Timeout(20.0))" == repr(h.transport(None, Timeout(20.0)))
    assert f"ResilientTransport(Timeout(20.0), inner={script!r})" == repr(
        h.transport(script, Timeout(20.0))
    )


@in_every_client
async def test_it_is_opened_and_closed_with_its_client(h: Http) -> None:
    """The inner transport is, once each."""
    script = h.script(200)
    async with h.client(script) as client:
        assert (1, 0) == (script.entered, script.closed)
        await h.get(client)
    assert (1, 1) == (script.entered, script.closed)


@in_every_client
async def test_closing_alone_closes_the_inner_transport(h: Http) -> None:
    """Of a client that was never entered, or never used."""
    script = h.script(200)
    transport = h.transport(script)
    await h.of(transport.close() if h.is_sync else transport.aclose())
    assert (0, 1) == (script.entered, script.closed)
    await h.handle(transport, h.library.Request("GET", URL))
    await h.of(transport.close() if h.is_sync else transport.aclose())
    assert (0, 2) == (script.entered, script.closed)


@in_every_client
async def test_closing_one_without_an_inner_transport_is_nothing(h: Http) -> None:
    """It was never made."""
    transport = h.transport()
    await h.of(transport.close() if h.is_sync else transport.aclose())


@in_every_client
async def test_the_default_inner_transport_is_the_clients_own(h: Http) -> None:
    """Made when it is first used, and kept."""
    made: list[Any] = []
    transport = h.transport()
    assert None is transport.inner
    for _ in range(2):
        inner = transport._inners.get("sync" if h.is_sync else "async")
        assert inner is (made[0] if made else None)
        if h.is_sync:
            with transport:
                made.append(transport._inners["sync"])
        else:
            async with transport:
                made.append(transport._inners["async"])
    kind = h.library.HTTPTransport if h.is_sync else h.library.AsyncHTTPTransport
    assert kind is type(made[0])
    assert made[0] is made[1]


@in_async_clients
async def test_one_transport_serves_both_kinds_of_client(h: Http) -> None:
    """With an inner one that does, as the library's own mock transport."""
    inner = h.library.MockTransport(lambda request: h.library.Response(200))
    transport = h.transport(inner, Pipeline())
    async with h.bare(transport) as client:
        assert 200 == (await h.get(client)).status_code
    with h.library.Client(transport=transport) as client:
        assert 200 == client.get(URL).status_code


def test_it_is_a_transport_to_type_checkers_and_clients(h: Http) -> None:
    """Both of them."""
    bases = (h.library.BaseTransport, h.library.AsyncBaseTransport)
    assert all(issubclass(h.ours.ResilientTransport, base) for base in bases)


def test_the_inner_transport_cannot_be_assigned(h: Http) -> None:
    """The clients have the first already."""
    transport = h.transport(h.library.MockTransport(lambda request: None))
    inner = transport.inner
    for change in (
        lambda: setattr(transport, "inner", None),
        lambda: delattr(transport, "inner"),
    ):
        with pytest.raises(AttributeError, match="`inner` of a ResilientTransport"):
            change()
    assert inner is transport.inner
