"""Endpoints: what a `Balance` chooses from, as the user names and sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, Generic, TypeGuard, TypeVar, cast

from resilient._machines.endpoint_load import Member
from resilient._machines.fleet import EndpointState
from resilient._values.checks import count, flag, number
from resilient._values.records import Record
from resilient._values.spelling import format_call, format_value
from resilient.policies.balance.addresses import normal_address

__all__ = [
    "Endpoint",
    "EndpointStatus",
    "Member",
    "as_endpoint",
    "checked_endpoints",
    "name_of",
    "takes_endpoint",
]

T = TypeVar("T")


class Endpoint(Record, Generic[T]):
    """One endpoint of a `Balance`: an address, and what there is to say of it.

    An address alone, ``Balance("http://10.0.0.1")``, is an endpoint with these
    defaults.

    Args:
        address: What the calls are sent to, as they need it: a URL, a pair of
            host and port, a client, an engine, a channel. Endpoints of equal
            addresses are one; it has to be hashable.
        name: Its name in events and errors. Default: a text is its own name,
            and so is a pair; of any other object the name of its type.
        weight: Its share of the calls, relative to the others'. Default 1.
        zone: The name of its zone or data centre, for a `Balance` with a
            ``zone``.
        tier: A whole number, 0 (default) or more. The lowest gets the calls;
            the next one those that it cannot take, because endpoints of it are
            ejected, rest or are drained. A standby, or a primary behind its
            replicas, is of tier 1.
        host: For HTTP transports: the name by which the server at this address
            is asked, with a port where it is not the default. It is the
            ``Host`` of requests, and with TLS the name in the certificate.
            Default: the host of the address.
        plaintext: For HTTP transports: whether requests to an https origin may
            be sent here without TLS, as to a sidecar on the same machine.

    Raises:
        TypeError: The address is not hashable, or an argument of a wrong type.
        ValueError: The weight is not above 0, the tier is below 0, or the
            address is a URL with a user, a query or a fragment: it would be
            shown in events.
    """

    __module__ = "resilient"

    __slots__ = ("address", "host", "name", "plaintext", "tier", "weight", "zone")

    address: T
    name: str | None
    weight: float
    zone: str | None
    tier: int
    host: str | None
    plaintext: bool

    def __init__(
        self,
        address: T,
        *,
        name: str | None = None,
        weight: float = 1.0,
        zone: str | None = None,
        tier: int = 0,
        host: str | None = None,
        plaintext: bool = False,
    ) -> None:
        for what, given in (("name", name), ("zone", zone)):
            if given is not None and not isinstance(given, str):
                raise TypeError(f"`{what}` must be a string, got {given!r}")
        _check_address(address)
        spelt = name_of(address) if name is None else name
        if isinstance(weight, bool):
            raise ValueError(f"`weight` of {spelt!r} must be a number, got {weight}")
        try:
            weight = number("weight", weight, minimum=0, exclusive=True)
        except ValueError as error:
            text = str(error).replace("`weight`", f"`weight` of {spelt!r}", 1)
            raise ValueError(text) from None
        if host is not None:
            _check_host(host)
        super().__init__(
            address,
            name,
            weight,
            zone,
            count("tier", tier, minimum=0),
            host,
            flag("plaintext", plaintext),
        )

    def __repr__(self) -> str:
        return format_call(self, Record)


class EndpointStatus(Record, Generic[T]):
    """What a `Balance` knows of an endpoint at one moment.

    Attributes:
        address: Its address.
        name: Its name in events.
        weight: Its share of the calls, relative to the others'.
        zone: Its zone; None: it has none.
        tier: The number of its tier.
        state: Whether it gets calls, and if not, why.
        in_flight: Calls that were sent to it and have not ended.
        latency: Seconds: a moving average of its successes; None before
            any endpoint had one.
        success: From 0 to 1: a moving average of its outcomes.
    """

    __module__ = "resilient"

    __slots__ = (
        "address",
        "in_flight",
        "latency",
        "name",
        "state",
        "success",
        "tier",
        "weight",
        "zone",
    )

    address: T
    name: str
    weight: float
    zone: str | None
    tier: int
    state: EndpointState
    in_flight: int
    latency: float | None
    success: float


def checked_endpoints(
    addresses: Iterable[Any],
) -> tuple[dict[Any, Endpoint[Any]], str | None]:
    """Return endpoints by their addresses, each once and each with a name.

    Returns:
        The endpoints, and what to warn of: some are listed twice.

    Raises:
        TypeError, ValueError: See `Endpoint`; or one looks like a mistake.
    """
    found: dict[Any, Endpoint[Any]] = {}
    names: set[str] = set()
    repeated: list[str] = []
    for each in addresses:
        endpoint = as_endpoint(each)
        address = normal_address(endpoint.address)
        if address in found:
            repeated.append(found[address].name or "")
            continue
        plain = name = endpoint.name or name_of(address)
        number = 1
        while name in names:
            number += 1
            name = f"{plain} {number}"
        names.add(name)
        found[address] = endpoint.__replace__(name=name, address=address)
    if not repeated:
        return found, None
    shown = ", ".join([repr(name) for name in dict.fromkeys(repeated)][:5])
    return found, (
        f"the endpoints of a Balance are each to be listed once, got {shown}"
        " again; one is used: give it a weight if it is to have more calls"
    )


def as_endpoint(address: object) -> Endpoint[Any]:
    """Return an endpoint as it is, and of an address the one it means."""
    return address if is_endpoint(address) else Endpoint[Any](address)


def takes_endpoint(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Mark a function of a `Check` that is given all that is said of an endpoint.

    Others are given its address.
    """
    function.takes_endpoint = True  # type: ignore[attr-defined]  # of any function
    return function


def is_endpoint(address: object) -> TypeGuard[Endpoint[Any]]:
    """Tell an endpoint from an address."""
    return isinstance(address, Endpoint)


def name_of(address: object) -> str:
    """Return what to call an endpoint that was given no name."""
    kind = type(address).__name__
    if isinstance(address, (str, int)):
        return str(address)
    if isinstance(address, tuple):
        parts = cast("tuple[object, ...]", address)
        if all(isinstance(part, (str, int)) for part in parts):
            return ":".join([str(part) for part in parts])
    # NB: the text of an object may be secret; its type is not.
    return kind


def _check_address(address: object) -> None:
    kind = type(address).__name__
    if isinstance(address, (list, set, dict)):
        raise TypeError(
            f"an endpoint must be one address, got a {kind}: list them one"
            " by one, as in Balance(*addresses)"
        )
    if isinstance(address, (FunctionType, type)):
        raise TypeError(
            f"an endpoint must be an address, got {format_value(address)}: a decorator"
            " needs its parentheses, @Balance(…)"
        )
    try:
        hash(address)
    except TypeError:
        raise TypeError(
            f"an endpoint must be hashable, got an object of {type(address)}"
        ) from None
    if isinstance(address, str) and "://" in address:
        _check_url(address)


def _check_host(host: object) -> None:
    if not isinstance(host, str) or not host or set(host) & set("/@?# "):
        raise ValueError(
            "`host` must be a host, with a port where it is not the default, got"
            f" {host!r}"
        )


def _check_url(url: str) -> None:
    # NB: here, for the import takes longer than all else of this package.
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    what = (
        "user or password"
        if "@" in parts.netloc
        else "query"
        if parts.query
        else "fragment"
        if parts.fragment
        else None
    )
    if what is not None:
        # NB: it may be the password: only what is harmless is shown.
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise ValueError(
            f"the URL of an endpoint must have no {what}, which would be shown"
            f" in events, got one for {shown!r}"
        )
