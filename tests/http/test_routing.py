"""A transport with an origin: where requests go, and what is told of it."""

from __future__ import annotations

import importlib
import ssl
from typing import Any

import pytest
from tests.http.families import (
    FAMILIES,
    Http,
    in_async_clients,
    in_every_client,
    in_sync_clients,
)

from resilient import (
    Balance,
    CircuitBreaker,
    Endpoint,
    EndpointState,
    NoEndpointError,
    PerKey,
    Pipeline,
    Retry,
    Timeout,
    Trait,
    constant,
    current_call,
)
from resilient._http import routing
from resilient._http.routing import Pools, Target
from resilient._runtimes import clock
from resilient.discovery import poll
from resilient.testing import virtual_time

ORIGIN = "https://catalogue"
ONE, TWO = "https://10.0.0.1:8443", "https://10.0.0.2:8443/v2/"


def both(**changes: Any) -> Balance[str]:
    """Return two endpoints that take turns, the first one first."""
    return Balance(ONE, TWO, **{"load": "round_robin", **changes})


def hosts(script: Any) -> list[str]:
    """Return the hosts that requests were sent to."""
    return [sent.url.split("/")[2] for sent in script.sent]


# -- Where a request goes


@in_every_client
async def test_requests_to_the_origin_go_to_the_endpoint(h: Http) -> None:
    """With its scheme, host and port, its path in front, and its Host."""
    script, balance = h.script(200), both()
    async with h.client(script, Pipeline(balance), origin=ORIGIN) as client:
        for _ in range(2):
            response = await h.get(client, f"{ORIGIN}/products/a%2Fb?q=%20x&q=2")
            assert f"{ORIGIN}/products/a%2Fb?q=%20x&q=2" == str(response.url)
    assert {
        "https://10.0.0.1:8443/products/a%2Fb?q=%20x&q=2": "10.0.0.1:8443",
        "https://10.0.0.2:8443/v2/products/a%2Fb?q=%20x&q=2": "10.0.0.2:8443",
    } == {sent.url: sent.headers["host"] for sent in script.sent}
    assert all("sni_hostname" not in sent.extensions for sent in script.sent)
    assert 0 == sum(each.in_flight for each in balance.endpoints)


@in_every_client
async def test_requests_to_other_origins_go_where_they_say(h: Http) -> None:
    """Through the same pipeline, and past the balance."""
    script, balance = h.script(200), both()
    retry = Retry(attempts=2, backoff=constant(0))
    elsewhere = [
        "http://catalogue/",
        "https://catalogue:8443/",
        "https://cdn.catalogue/",
        "https://other/x",
    ]
    pipeline = Pipeline(retry, balance, classify=h.ours.http_verdict)
    async with h.client(script, pipeline, origin=ORIGIN) as client:
        for url in elsewhere:
            await h.get(client, url)
        await h.get(client, "HTTPS://CATALOGUE:443/x")
    assert elsewhere == [sent.url for sent in script.sent[:-1]]
    assert hosts(script)[-1] in ("10.0.0.1:8443", "10.0.0.2:8443")
    assert balance.endpoints[0].latency is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_url_of_a_target_is_made_once_unless_it_may_hold_a_secret(
    family: str,
) -> None:
    """It is what the client's own `copy_with` makes, each time."""
    library = importlib.import_module(family)
    routes = routing.Routing(ORIGIN, library)
    targets = [routes.target(Endpoint(address)) for address in (ONE, TWO)]
    paths = ["", "/", "/a%2Fb/%20", "/a", "/a?key=s3cret", "/a?", "/#part"]
    for place in [*map(ORIGIN.__add__, paths), "https://me:s3cret@catalogue/a"] * 2:
        request = library.Request("GET", place)
        for target in targets:
            sent = library.Request("GET", place)
            routes.redirect(sent, request, target)
            assert sent.url == request.url.copy_with(
                scheme=target.scheme,
                host=target.host,
                port=target.port,
                raw_path=target.path + request.url.raw_path,
            )
    # Of three paths, for "" is "/", at each target.
    assert 6 == routes.known_url.cache_info().currsize  # type: ignore[attr-defined]  # of a cache


@in_every_client
async def test_the_caller_sees_one_site(h: Http) -> None:
    """Cookies and redirects are the origin's, whichever endpoint says so."""
    library = h.library

    async def first(request: Any) -> Any:
        headers = {"Set-Cookie": "session=1; Path=/", "Location": "/second"}
        return library.Response(302, headers=headers)

    script, balance = h.script(first, 200), both()
    options = {"follow_redirects": True}
    pipeline = Pipeline(balance)
    async with h.client(script, pipeline, origin=ORIGIN, client=options) as client:
        response = await h.get(client, f"{ORIGIN}/first")
        assert f"{ORIGIN}/second" == str(response.url)
    assert 2 == len(set(hosts(script)))
    assert "session=1" == script.sent[1].headers["cookie"]


@in_every_client
async def test_a_redirect_elsewhere_is_followed_there(h: Http) -> None:
    """And takes no credentials along, as the client has it."""
    library = h.library

    async def away(request: Any) -> Any:
        return library.Response(302, headers={"Location": "https://other/x"})

    script = h.script(away, 200)
    options = {"follow_redirects": True, "auth": ("me", "secret")}
    pipeline = Pipeline(both())
    async with h.client(script, pipeline, origin=ORIGIN, client=options) as client:
        await h.get(client, f"{ORIGIN}/first")
    assert "https://other/x" == script.sent[1].url
    assert "authorization" in script.sent[0].headers
    assert "authorization" not in script.sent[1].headers


@in_every_client
async def test_the_callers_own_host_header_wins(h: Http) -> None:
    """It was set by hand."""
    script = h.script(200)
    pipeline = Pipeline(both())
    async with h.client(script, pipeline, origin=ORIGIN) as client:
        await h.get(client, f"{ORIGIN}/", headers={"Host": "tenant.example"})
    assert "tenant.example" == script.sent[0].headers["host"]


@in_every_client
async def test_an_address_and_a_port_are_where_to_connect(h: Http) -> None:
    """All else is the origin's, or the endpoint's own where it has a name."""
    script = h.script(200)
    for origin, endpoint, sent, host, name in (
        ("https://catalogue", ("10.0.0.1", 8443), "https", "catalogue", "catalogue"),
        ("https://c:444", ("fd00::1", 8443), "https", "c:444", "c"),
        ("http://catalogue", ("10.0.0.1", 8443), "http", "catalogue", None),
        ("https://c", Endpoint(("10.0.0.1", 8443), host="d:1"), "https", "d:1", "d"),
        ("https://10.0.0.1", ("10.0.0.1", 8443), "https", "10.0.0.1", None),
    ):
        pipeline = Pipeline(Balance[Any](endpoint))
        async with h.client(script, pipeline, origin=origin) as client:
            response = await h.get(client, f"{origin}/x")
        request = script.sent[-1]
        place = "[fd00::1]" if origin == "https://c:444" else "10.0.0.1"
        assert f"{origin}/x" == str(response.url)
        assert f"{sent}://{place}:8443/x" == request.url
        assert host == request.headers["host"]
        assert name == request.extensions.get("sni_hostname")


@in_every_client
async def test_a_balance_in_a_transport_may_find_its_endpoints(h: Http) -> None:
    """What could not be sent to is an error of the request's."""
    found: list[Any] = [("10.0.0.1", 8443)]
    script, balance = h.script(200), Balance[Any](poll(lambda: found, every=10))
    async with h.client(script, Pipeline(balance), origin=ORIGIN) as client:
        await h.get(client, f"{ORIGIN}/")
        found[:] = ["http://10.0.0.1:8080"]
        await h.sleep(10)
        with pytest.raises(
            ValueError, match=r"must not go to .http://10\.0\.0\.1:8080"
        ):
            await h.get(client, f"{ORIGIN}/")
        found[:] = [("10.0.0.2", 8443)]
        await h.sleep(10)
        await h.get(client, f"{ORIGIN}/")
    assert ["10.0.0.1:8443", "10.0.0.2:8443"] == hosts(script)
    assert 0 == sum(each.in_flight for each in balance.endpoints)


@in_every_client
async def test_an_endpoint_may_have_another_name(h: Http) -> None:
    """In `Host`, and in the certificate; the caller's own name wins."""
    script = h.script(200)
    balance = Balance(
        Endpoint("https://10.0.0.1:8443", host="catalogue.example:8443"),
        Endpoint("https://10.0.0.2", host="10.0.0.2"),
        Endpoint("http://10.0.0.3", host="plain", plaintext=True),
        load="round_robin",
    )
    async with h.client(script, Pipeline(balance), origin=ORIGIN) as client:
        for _ in range(3):
            await h.get(client, f"{ORIGIN}/")
        for _ in range(3):
            own = {"sni_hostname": "mine"}
            await h.get(client, f"{ORIGIN}/", extensions=own)
    seen = {
        (sent.url, sent.headers["host"], sent.extensions.get("sni_hostname"))
        for sent in script.sent
    }
    assert {
        ("https://10.0.0.1:8443/", "catalogue.example:8443", "catalogue.example"),
        ("https://10.0.0.1:8443/", "catalogue.example:8443", "mine"),
        ("https://10.0.0.2/", "10.0.0.2", None),
        ("https://10.0.0.2/", "10.0.0.2", "mine"),
        ("http://10.0.0.3/", "plain", None),
        ("http://10.0.0.3/", "plain", "mine"),
    } == seen


@in_every_client
async def test_the_request_of_the_caller_stays_as_it_is(h: Http) -> None:
    """Its URL and headers; a body that is read stays read."""
    script = h.script(200)

    def chunks() -> Any:
        yield b"one"

    async def achunks() -> Any:
        yield b"one"

    async with h.client(script, Pipeline(both()), origin=ORIGIN) as client:
        content = chunks() if h.is_sync else achunks()
        request = client.build_request("PUT", f"{ORIGIN}/x", content=content)
        await h.send(client, request)
        assert f"{ORIGIN}/x" == str(request.url)
        assert "catalogue" == request.headers["host"]
    assert b"one" == script.sent[0].body


# -- Another endpoint


@in_every_client
async def test_a_failed_request_goes_to_another_endpoint(h: Http) -> None:
    """Each attempt with the URL and Host of its own."""
    script = h.script(503, 503, 200)
    pipeline = h.retry(both())
    async with h.client(script, pipeline, origin=ORIGIN) as client:
        response = await h.get(client, f"{ORIGIN}/x")
    assert 200 == response.status_code
    assert 2 == len(set(hosts(script)[:2]))
    assert hosts(script) == [sent.headers["host"] for sent in script.sent]


@in_every_client
async def test_a_post_that_may_have_arrived_goes_nowhere_else(h: Http) -> None:
    """One that was not sent does."""
    for error, times in (("ReadError", 1), ("ConnectError", 2)):
        script = h.script(getattr(h.library, error)("broken"), 200)
        async with h.client(script, h.retry(both()), origin=ORIGIN) as client:
            if times == 1:
                await h.error(h.library.ReadError, h.post, client, f"{ORIGIN}/")
            else:
                await h.post(client, f"{ORIGIN}/")
        assert times == len(script.sent) == len(set(hosts(script)))


@in_every_client
async def test_who_says_retry_after_rests(h: Http) -> None:
    """And the retry goes to the other one, after its own backoff."""
    script, balance = h.script(h.answer(503, Retry_After=7), 200), both()
    async with h.client(script, h.retry(balance), origin=ORIGIN) as client:
        assert 200 == (await h.get(client, f"{ORIGIN}/")).status_code
        assert 1.0 == h.now()
        for _ in range(4):
            await h.get(client, f"{ORIGIN}/")
    first, *others = hosts(script)
    assert {*hosts(script)} - {first} == {*others}
    states = [each.state for each in balance.endpoints]
    assert sorted([EndpointState.RESTING, EndpointState.AVAILABLE], key=str) == sorted(
        states, key=str
    )


@in_every_client
async def test_a_refusal_of_one_endpoint_is_no_fault_of_it(h: Http) -> None:
    """Its breaker is open: the request goes to the other one in the same attempt."""
    script, balance = h.script(200), both()
    breakers = PerKey(lambda endpoint: CircuitBreaker())
    breaker = breakers[ONE]
    assert isinstance(breaker, CircuitBreaker)
    breaker.force_open()
    pipeline = Pipeline(balance, breakers)
    async with h.client(script, pipeline, origin=ORIGIN) as client:
        for _ in range(4):
            await h.post(client, f"{ORIGIN}/")
    assert ["10.0.0.2:8443"] * 4 == hosts(script)
    assert [1.0, 1.0] == [each.success for each in balance.endpoints]


@in_every_client
async def test_a_certificate_of_one_endpoint_is_a_failure_of_it(h: Http) -> None:
    """It will not pass, but another endpoint has another one."""
    error = h.library.ConnectError("certificate has expired")
    error.__cause__ = ssl.SSLCertVerificationError(1, "certificate has expired")
    script, balance = h.script(error, 200), both()
    async with h.client(script, h.retry(balance), origin=ORIGIN) as client:
        assert 200 == (await h.get(client, f"{ORIGIN}/")).status_code
    assert 2 == len(set(hosts(script)))
    assert [0.7, 1.0] == sorted(round(each.success, 1) for each in balance.endpoints)
    error.__cause__ = None


@in_every_client
async def test_a_set_without_endpoints_is_an_error_of_the_clients(h: Http) -> None:
    """As every rejection."""
    script, balance = h.script(200), both(name="replicas")
    balance.drain(ONE)
    balance.drain(TWO)
    async with h.client(script, Pipeline(balance), origin=ORIGIN) as client:
        error = await h.error(h.ours.NoEndpointError, h.get, client, f"{ORIGIN}/")
    assert isinstance(error, NoEndpointError)
    assert isinstance(error, h.library.TransportError)
    assert f"{ORIGIN}/" == str(error.request.url)
    assert [] == script.sent


@in_every_client
async def test_a_body_is_in_flight_until_it_is_read(h: Http) -> None:
    """It streams, and its endpoint is not free yet."""
    script = h.script(h.response(200, b"a", b"b"))
    balance = both()
    async with h.client(script, Pipeline(balance), origin=ORIGIN) as client:
        response = await h.open(client, f"{ORIGIN}/")
        assert 1 == sum(each.in_flight for each in balance.endpoints)
        assert b"ab" == await h.read(response)
        assert 0 == sum(each.in_flight for each in balance.endpoints)


@in_every_client
async def test_a_body_of_one_that_left_is_read_to_its_end(h: Http) -> None:
    """What follows goes to those that stay."""
    script, balance = h.script(h.response(200, b"a", b"b"), 200), both()
    async with h.client(script, Pipeline(balance), origin=ORIGIN) as client:
        response = await h.open(client, f"{ORIGIN}/")
        balance.replace([TWO])
        await h.get(client, f"{ORIGIN}/")
        assert b"ab" == await h.read(response)
    assert ["10.0.0.1:8443", "10.0.0.2:8443"] == hosts(script)


@in_every_client
async def test_another_pipeline_for_one_request_may_balance_too(h: Http) -> None:
    """By itself; one that does not goes where it says."""
    script, own = h.script(200), Balance("https://own")
    pipeline = Pipeline(both())
    async with h.client(script, pipeline, origin=ORIGIN) as client:
        for policy in (Pipeline(own), Pipeline(Timeout(5)), False):
            await h.get(client, f"{ORIGIN}/", extensions={"resilient": policy})
    assert ["own", "catalogue", "catalogue"] == hosts(script)
    async with h.client(h.script(200), Pipeline(Timeout(5))) as client:
        error = await h.error(
            TypeError, h.get, client, f"{ORIGIN}/", extensions={"resilient": own}
        )
    assert "has a Balance, and the transport no `origin`" in str(error)


@in_every_client
async def test_a_balance_among_many_keys_is_refused_when_it_is_met(h: Http) -> None:
    """A transport cannot see it before."""
    hidden = PerKey(lambda origin: Balance(ONE))
    assert Trait.CHOOSES not in hidden.traits
    async with h.client(h.script(200), Pipeline(hidden)) as client:
        error = await h.error(TypeError, h.get, client, f"{ORIGIN}/")
    assert "cannot tell a transport where to send a request: give the" in str(error)


@in_every_client
async def test_an_endpoint_that_came_later_is_looked_at_when_it_is_chosen(
    h: Http,
) -> None:
    """It is no URL of this origin's kind."""
    balance = both()
    async with h.client(h.script(200), Pipeline(balance), origin=ORIGIN) as client:
        balance.replace(["http://10.0.0.9"])
        error = await h.error(ValueError, h.get, client, f"{ORIGIN}/")
    assert "must not go to 'http://10.0.0.9', which has no TLS" in str(error)
    assert 0 == sum(each.in_flight for each in balance.endpoints)


# -- Mistakes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("policy", "origin", "kind", "text"),
    [
        (both(), None, TypeError, "has a Balance, and the transport no `origin`"),
        (Timeout(1), ORIGIN, TypeError, "`origin` must be None without a Balance in"),
        (both(), 7, TypeError, "`origin` must be a URL, got 7"),
        (both(), "catalogue", ValueError, "`origin` must be a scheme, http or https"),
        (both(), "ftp://a", ValueError, "`origin` must be a scheme, http or https"),
        (both(), "https://a/b", ValueError, 'and no more, as in "https://catalogue"'),
        (both(), "https://a?b", ValueError, "`origin` must be a scheme, http or https"),
        (both(), "https://a#b", ValueError, "`origin` must be a scheme, http or https"),
        (both(), "https://me:pw@a", ValueError, 'no more, as in "https://catalogue"'),
        (Balance("a:1"), ORIGIN, TypeError, 'must be a URL, as in "https://10.0.0.1:'),
        (Balance(("a", "1")), ORIGIN, TypeError, 'must be a URL, as in "https://10.0.'),
        (Balance("ftp://a"), ORIGIN, ValueError, "must be an http or https URL, got"),
        (Balance("http://a"), ORIGIN, ValueError, "'http://a', which has no TLS; if"),
    ],
)
def test_what_could_not_work_is_refused_at_once(
    family: str, policy: Any, origin: Any, kind: type[Exception], text: str
) -> None:
    """When the transport is made; passwords are not shown."""
    ours = importlib.import_module(f"resilient.{family}")
    with pytest.raises(kind) as caught:
        ours.ResilientTransport(Pipeline(policy), origin=origin)
    assert text in str(caught.value)
    assert "pw" not in str(caught.value)


# -- Pools


def certificate(*names: str) -> list[Endpoint[str]]:
    """Return endpoints at one address with these names."""
    # NB: equal addresses are one endpoint: their paths tell them apart.
    return [Endpoint(f"https://10.0.0.1/{name}", host=name) for name in names]


@in_every_client
async def test_two_names_at_one_address_share_no_connection(h: Http) -> None:
    """Nor with requests that go to the address by its own name."""
    made: list[Any] = []
    balance = Balance(*certificate("a", "b"), "https://10.0.0.1/c", load="round_robin")
    transport = h.transport(None, Pipeline(balance), origin=ORIGIN)

    def make(colour: str) -> Any:
        script = h.script(200)
        made.append(script)
        return script

    transport._inner = make
    async with h.bare(transport) as client:
        for _ in range(6):
            await h.get(client, f"{ORIGIN}/")
    names = [
        {sent.extensions.get("sni_hostname") for sent in transport.sent}
        for transport in made
    ]
    assert {None, "a", "b"} == {*names[0], *names[1], *names[2]}
    assert [1, 1, 1] == [len(each) for each in names]
    assert [2, 2, 2] == [len(transport.sent) for transport in made]
    assert all(transport.closed for transport in made)


@in_every_client
async def test_a_pool_that_is_not_needed_is_closed_when_it_is_idle(h: Http) -> None:
    """Not before the last body from it has been read."""
    before, routing._MOST_POOLS = routing._MOST_POOLS, 1  # type: ignore[misc]
    try:
        made: list[Any] = []
        balance = Balance(*certificate("a", "b", "c"), load="round_robin")
        transport = h.transport(None, Pipeline(balance), origin=ORIGIN)

        def make(colour: str) -> Any:
            script = h.script(h.response(200, b"x") if len(made) == 1 else 200)
            made.append(script)
            return script

        transport._inner = make
        async with h.bare(transport) as client:
            response = await h.open(client, f"{ORIGIN}/")
            await h.get(client, f"{ORIGIN}/")
            assert [False, False, False] == [transport.closed for transport in made]
            await h.read(response)
            await h.get(client, f"{ORIGIN}/")
            assert made[1].closed
            assert made[2].closed
            assert not made[3].closed
        assert all(transport.closed for transport in made)
    finally:
        routing._MOST_POOLS = before  # type: ignore[misc]


@in_every_client
async def test_closing_the_transport_closes_every_pool(h: Http) -> None:
    """Though no client was around it."""
    made: list[Any] = []
    balance = Balance(*certificate("a"))
    transport = h.transport(None, Pipeline(balance), origin=ORIGIN)

    def make(colour: str) -> Any:
        made.append(h.script(200))
        return made[-1]

    transport._inner = make
    await h.handle(transport, h.library.Request("GET", f"{ORIGIN}/"))
    if h.is_sync:
        transport.close()
    else:
        await transport.aclose()
    assert [True, True] == [transport.closed for transport in made]


@in_sync_clients
async def test_names_may_not_share_a_transport_of_yours(h: Http) -> None:
    """It has one pool, whose connections are verified once."""
    inner = h.library.HTTPTransport()
    sent: list[Any] = []

    def handle(request: Any) -> Any:
        sent.append(request)
        return h.library.Response(200)

    inner.handle_request = handle
    balance = Balance(*certificate("a", "b"), load="round_robin")
    async with h.client(inner, Pipeline(balance), origin=ORIGIN) as client:
        await h.get(client, f"{ORIGIN}/")
        error = await h.error(ValueError, h.get, client, f"{ORIGIN}/")
    assert "must not share the connections of `inner` to '10.0.0.1'" in str(error)
    assert 1 == len(sent)


@in_sync_clients
async def test_a_transport_of_yours_has_one_name_at_an_address(h: Http) -> None:
    """That of the address itself is one, too; two may not share it."""
    balance = Balance("https://10.0.0.1/c", *certificate("a"), load="round_robin")
    inner = h.library.HTTPTransport()
    inner.handle_request = lambda request: h.library.Response(200)
    async with h.client(inner, Pipeline(balance), origin=ORIGIN) as client:
        await h.get(client, f"{ORIGIN}/")
        error = await h.error(ValueError, h.get, client, f"{ORIGIN}/")
    assert "of `inner` to '10.0.0.1', which would be verified for one" in str(error)
    assert "'a'" in str(error)


@in_sync_clients
async def test_a_proxy_that_verifies_the_address_is_refused(h: Http) -> None:
    """That of httpcore 1; the other one verifies the name, as without a proxy."""
    inner = h.library.HTTPTransport(proxy="http://127.0.0.1:9")
    sent: list[Any] = []

    def handle(request: Any) -> Any:
        sent.append(request.extensions.get("sni_hostname"))
        return h.library.Response(200)

    inner.handle_request = handle
    for host in ("a", None):
        balance = Balance(Endpoint("https://10.0.0.1", host=host))
        async with h.client(inner, Pipeline(balance), origin=ORIGIN) as client:
            if host and h.family == "httpx":
                error = await h.error(ValueError, h.get, client, f"{ORIGIN}/")
                assert "go through an HTTP proxy by the name 'a': httpcore 1" in (
                    str(error)
                )
            else:
                await h.get(client, f"{ORIGIN}/")
    assert (["a", None] if h.family == "httpx2" else [None]) == sent


def test_pools_are_kept_by_address_and_name() -> None:
    """And counted as long as they are in use."""
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    pools = Pools(make)
    target = Target("https", "10.0.0.1", None, b"", "a", "a")
    one, same = pools.enter(target), pools.enter(target)
    other = pools.enter(target._replace(server_name="b"))
    assert one is same
    assert one is not other
    for pool in (one, same, other):
        pools.leave(pool)
    assert [] == pools.take_idle()
    assert made == pools.take_all()
    assert [] == pools.take_all()


def test_a_pool_without_requests_for_a_minute_is_closed() -> None:
    """That of an endpoint that has left, once its last body has been read."""
    pools = Pools(object)
    target = Target("https", "10.0.0.1", None, b"", "a", "a")
    with virtual_time():
        left, stays = pools.enter(target), pools.enter(target._replace(server_name="b"))
        for _ in range(3):
            clock.sleep(59.0)
            pools.enter(target._replace(server_name="b"))
            assert [] == pools.take_idle()
        pools.leave(left)
        pools.enter(target._replace(server_name="b"))
        assert [left.transport] == pools.take_idle()
    assert [stays.transport] == pools.take_all()


@in_async_clients
async def test_the_call_knows_its_endpoint(h: Http) -> None:
    """So a transport further in may, too."""
    seen = []

    async def answer(request: Any) -> Any:
        seen.append(current_call().endpoint)
        return h.library.Response(200)

    async with h.client(h.script(answer), Pipeline(both()), origin=ORIGIN) as client:
        await h.get(client, f"{ORIGIN}/")
    assert seen[0] in (ONE, TWO)
