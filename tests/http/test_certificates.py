"""Which name a certificate is verified for, over real TLS.

The certificates are those of an authority of these tests: no other program
trusts it, and its key was thrown away.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.colours import Colour, _finish
from tests.http.families import FAMILIES
from tests.http.test_real import Real
from tests.loopback import Server, answer

from resilient import Balance, Endpoint, Pipeline
from resilient._http.faults import Fault, facts

pytestmark = pytest.mark.real

FOLDER = Path(__file__).parent / "certificates"
ORIGIN = "https://catalogue.test"
ONE, TWO = "one.test", "two.test"


Scenario = Callable[["Real", "Site"], Awaitable[None]]


class Site(Server):
    """A server with the certificate of one name, or with one for each of two.

    Args:
        second: Whether it has the second one.

    Attributes:
        asked: The names that clients asked for, one of each connection.
    """

    def __init__(self, second: bool) -> None:
        self.asked: list[str | None] = []
        first = presents(ONE)
        certificates = {ONE: first, TWO: presents(TWO) if second else first}

        def choose(connection: Any, name: str | None, context: object) -> None:
            self.asked.append(name)
            connection.context = certificates.get(name or ONE, first)

        first.sni_callback = choose
        super().__init__(first)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, as DNS would find it."""
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    @property
    def served(self) -> set[tuple[int, str]]:
        """Which connection had requests to which host."""
        return {(each.connection, each.headers["host"]) for each in self.requests}


def presents(name: str) -> ssl.SSLContext:
    """Return what a server with the certificate of a name speaks TLS by."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FOLDER / f"{name}.pem")
    return context


def trusted() -> ssl.SSLContext:
    """Return what a client verifies by that trusts these certificates only."""
    return ssl.create_default_context(cafile=str(FOLDER / "authority.pem"))


def at_a_site(*, second: bool = True) -> Callable[[Scenario], Callable[..., None]]:
    """Run a scenario in both families and three colours."""

    def decorate(scenario: Scenario) -> Callable[..., None]:
        @pytest.mark.parametrize("colour", ["sync", "asyncio", "trio"])
        @pytest.mark.parametrize("family", FAMILIES)
        def test(family: str, colour: Colour, monkeypatch: pytest.MonkeyPatch) -> None:
            monkeypatch.setenv("SSL_CERT_FILE", str(FOLDER / "authority.pem"))
            real = Real(family, colour)
            with Site(second) as site:
                if colour == "sync":
                    _finish(scenario(real, site))
                else:
                    anyio.run(scenario, real, site, backend=colour)

        test.__name__ = scenario.__name__
        test.__doc__ = scenario.__doc__
        return test

    return decorate


def names(site: Site) -> Balance[Any]:
    """Return two names at the one address of a site, which take turns."""
    # NB: equal addresses are one endpoint: their paths tell them apart.
    one = Endpoint(f"{site.url}/1", host=ONE)
    return Balance(one, Endpoint(f"{site.url}/2", host=TWO), load="round_robin")


@at_a_site()
async def test_a_connection_serves_the_name_that_it_was_verified_for(
    h: Real, site: Site
) -> None:
    """Two names at one address: a connection of each."""
    async with h.client(None, Pipeline(names(site)), origin=ORIGIN) as client:
        for _ in range(4):
            assert 200 == (await h.get(client, f"{ORIGIN}/x")).status_code
    assert [ONE, TWO] == sorted(map(str, site.asked))
    assert [ONE, TWO] == sorted(host for _, host in site.served)
    assert {"/1/x": 2, "/2/x": 2} == site.hits


@at_a_site(second=False)
async def test_a_server_that_has_another_certificate_is_sent_nothing(
    h: Real, site: Site
) -> None:
    """Though a connection to its address is open; a retry goes to the other name."""
    balance = names(site)
    async with h.client(None, h.quick(balance), origin=ORIGIN) as client:
        for _ in range(4):
            assert 200 == (await h.get(client, f"{ORIGIN}/x")).status_code
        balance.replace([Endpoint(f"{site.url}/2", host=TWO)])
        error = await h.error(h.library.ConnectError, h.get, client, f"{ORIGIN}/x")
    assert Fault.TLS is facts(error, h.library, None).fault
    assert {ONE} == {host for _, host in site.served}


@at_a_site()
async def test_what_dns_finds_is_verified_by_the_name_of_the_origin(
    h: Real, site: Site
) -> None:
    """An address that another service has by now is sent nothing."""
    for origin, is_well in ((f"https://{ONE}", True), ("https://other.test", False)):
        balance = Balance[Any](site.address)
        async with h.client(None, Pipeline(balance), origin=origin) as client:
            if is_well:
                response = await h.get(client, f"{origin}/x")
                assert f"{origin}/x" == str(response.url)
            else:
                await h.error(h.library.ConnectError, h.get, client, f"{origin}/x")
    assert [ONE, "other.test"] == site.asked
    assert [ONE] == [each.headers["host"] for each in site.requests]


@at_a_site()
async def test_a_redirect_to_the_address_shares_no_connection_with_a_name(
    h: Real, site: Site
) -> None:
    """The certificate names no address: what the redirect asks for is not sent."""
    site.script("/x", answer(307, {"location": f"{site.url}/x"}))
    options = {"follow_redirects": True, "auth": ("me", "secret")}
    balance, origin = Balance[Any](site.address), f"https://{ONE}"
    async with h.client(None, balance, origin=origin, client=options) as client:
        await h.error(h.library.ConnectError, h.get, client, f"{origin}/x")
    assert [ONE] == [each.headers["host"] for each in site.requests]


@at_a_site()
async def test_a_name_of_the_callers_own_has_connections_of_its_own(
    h: Real, site: Site
) -> None:
    """One for which the caller had the certificate verified serves no other."""
    endpoint = Endpoint(f"{site.url}/1", host=ONE)
    own = {"sni_hostname": TWO}
    async with h.client(None, Balance(endpoint), origin=ORIGIN) as client:
        await h.get(client, f"{ORIGIN}/x", extensions=own)
        await h.get(client, f"{ORIGIN}/x")
    assert [TWO, ONE] == site.asked
    assert [1, 2] == [each.connection for each in site.requests]


@at_a_site()
async def test_an_authority_of_your_own_is_that_of_your_transport(
    h: Real, site: Site
) -> None:
    """One name at all addresses may share it."""
    kind = "HTTPTransport" if h.is_sync else "AsyncHTTPTransport"
    inner = getattr(h.library, kind)(verify=trusted(), trust_env=False)
    balance, origin = Balance[Any](site.address), f"https://{ONE}"
    async with h.client(inner, balance, origin=origin) as client:
        for _ in range(2):
            await h.get(client, f"{origin}/x")
    assert [ONE] == site.asked


@at_a_site()
async def test_a_client_with_a_transport_verifies_by_that(h: Real, site: Site) -> None:
    """And not by its own `verify`, as the documentation says."""
    host, port = site.address
    url = f"https://{host}:{port}/x"
    nothing = ssl.create_default_context(cafile=str(FOLDER / f"{ONE}.pem"))
    kind = "HTTPTransport" if h.is_sync else "AsyncHTTPTransport"
    for verify, works in ((False, True), (nothing, False)):
        inner = getattr(h.library, kind)(verify=verify, trust_env=False)
        options = {"verify": nothing if works else False}
        async with h.client(inner, Pipeline(), client=options) as client:
            if works:
                assert 200 == (await h.get(client, url)).status_code
            else:
                await h.error(h.library.ConnectError, h.get, client, url)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_check_verifies_as_you_say(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name of the origin, and an authority of your own."""
    ours: Any = importlib.import_module(f"resilient.{family}")
    library: Any = importlib.import_module(family)
    origin = f"https://{ONE}"
    with Site(second=True) as site:
        check = ours.http_check("/x", origin=origin, verify=trusted(), timeout=60)
        assert check(site.address)
        for wrong in (
            ours.http_check("/x", origin=origin, timeout=60),
            ours.http_check("/x", origin="https://a", verify=trusted(), timeout=60),
        ):
            with pytest.raises(library.ConnectError):
                wrong(site.address)
        site.wait_until(0)
    assert 1 == len(site.requests)
