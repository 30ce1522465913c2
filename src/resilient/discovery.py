"""Where a `Balance` finds its endpoints: DNS, or a function of yours.

===== =====================================================================
made  answers with
===== =====================================================================
dns   each address of a host name, all on one port
srv   the targets of an SRV record, with their tiers, weights and ports
poll  what a function of yours returns: of a registry, a file, a cluster's API
===== =====================================================================

A call that finds the list older than `every` seconds has it found again, and
waits for that no longer than 1 s; all others go on with the list that there
is. `Balance.run` does it off the path of calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from importlib.util import find_spec
from typing import Any, Final, TypeVar, overload

from resilient._errors.warnings import warn_once
from resilient._values.callables import colour_of
from resilient._values.checks import count, flag, optional, seconds
from resilient.policies.balance.addresses import normal_host
from resilient.policies.balance.endpoints import Endpoint
from resilient.policies.balance.sources import Answer, Source

__all__ = ["Source", "dns", "poll", "srv"]

T = TypeVar("T")

_EVERY: Final = 10.0
"""Seconds; some pods of a rolling deployment come and go in that time."""

_LEAST_TTL: Final = 1.0
"""Seconds that an answer is good for at least, though it says 0."""

_MOST_TTL: Final = 3600.0
"""Seconds after which a server is asked again, though its answer says 136 years:
one wrong answer must not send requests elsewhere until the process ends."""

_LEAST_WEIGHT: Final = 0.1
"""What a weight of 0 in an SRV record comes to: "very small" (RFC 2782)."""

_HIGHEST_PORT: Final = 65535


class _Dns(Source[tuple[str, int]]):
    __slots__ = ("allow_link_local", "every", "host", "port")

    host: str
    port: int
    every: float
    allow_link_local: bool

    keeps = True
    called = "dns"

    def __init__(
        self,
        host: str,
        port: int,
        *,
        every: float = _EVERY,
        allow_link_local: bool = False,
    ) -> None:
        super().__init__(
            _seconds(every),
            _host("host", host),
            _port(port),
            flag("allow_link_local", allow_link_local),
        )

    def find(self) -> Answer:
        import socket

        found = socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        # NB: in the order of the answer, each once.
        hosts = dict.fromkeys(str(address[0]) for *_, address in found)
        if not self.allow_link_local:
            hosts = dict.fromkeys(_without_link_local(self.host, hosts))
        return Answer([(host, self.port) for host in hosts])


class _Srv(Source[tuple[str, int]]):
    __slots__ = ("allow_link_local", "every", "name")

    name: str
    every: float | None
    allow_link_local: bool

    keeps = True
    called = "srv"

    def __init__(
        self, name: str, *, every: float | None = None, allow_link_local: bool = False
    ) -> None:
        super().__init__(
            optional(_named_seconds, "every", every),
            _host("name", name),
            flag("allow_link_local", allow_link_local),
        )

    def find(self) -> Answer:
        # NB: here: its import takes longer than that of all this package.
        from dns.resolver import resolve

        answer: Any = resolve(self.name, "SRV", lifetime=_LIFETIME)
        rows = [row for row in answer if str(row.target) != "."]
        hosts = {normal_host(str(row.target)) for row in rows}
        if not self.allow_link_local:
            hosts = set(_without_link_local(self.name, hosts))
        tiers = sorted({row.priority for row in rows})
        endpoints = [
            Endpoint(
                (host, int(row.port)),
                weight=float(row.weight or _LEAST_WEIGHT),
                tier=tiers.index(row.priority),
            )
            for row in rows
            if (host := normal_host(str(row.target))) in hosts
        ]
        ttl = max(_LEAST_TTL, min(_MOST_TTL, float(answer.rrset.ttl)))
        return Answer(endpoints, ttl)


_LIFETIME: Final = 10.0
"""Seconds that an SRV record is asked for, all servers and attempts together."""


class _Poll(Source[T]):
    __slots__ = ("every", "function")

    function: Callable[[], Any]
    every: float

    called = "poll"

    def __init__(self, function: Callable[[], Any], *, every: float = _EVERY) -> None:
        if not callable(function):
            raise TypeError(
                f"`function` must be a function that returns endpoints, got"
                f" {function!r}"
            )
        if colour_of(function) not in ("sync", "async", "generator"):
            raise TypeError(
                f"`function` must return endpoints, or be a generator of them, got"
                f" {function!r}"
            )
        super().__init__(_seconds(every), function)

    @property
    def is_async(self) -> bool:
        return colour_of(self.function) == "async"

    def find(self) -> Answer:
        return Answer(_listed(self.function()))

    async def afind(self) -> Answer:
        return Answer(_listed(await self.function()))


def dns(
    host: str, port: int, *, every: float = _EVERY, allow_link_local: bool = False
) -> Source[tuple[str, int]]:
    """Find the addresses of a host name, IPv4 and IPv6, all on one port.

    The addresses of the endpoints are pairs, as ``("10.0.0.1", 8443)``. In a
    transport the requests go there and ask, in ``Host`` and in the certificate,
    for the host of its ``origin``: what DNS answers changes no name.

    It asks the resolver of the system (`socket.getaddrinfo`), in a thread. An
    answer that is empty, or none, leaves the endpoints as they are.

    Args:
        host: The name, as that of a headless service in Kubernetes.
        port: The port of each endpoint.
        every: Seconds between two questions. Default 10; the resolver's answers
            tell no TTL, and its cache, where there is one, keeps to it.
        allow_link_local: Take addresses of 169.254.0.0/16 and fe80::/10.
            Default False: they are left out, for they are of this machine's
            network alone, as the metadata service of a cloud, and an answer
            that names one is a mistake or an attack.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """
    return _Dns(host, port, every=every, allow_link_local=allow_link_local)


def srv(
    name: str, *, every: float | None = None, allow_link_local: bool = False
) -> Source[tuple[str, int]]:
    """Find the targets of an SRV record, as ``"_https._tcp.catalogue.example"``.

    The lowest priority is tier 0, and so on; a weight of 0 counts as 0.1. The
    addresses are pairs of a target's name and port, which the client resolves
    when it connects. Names in certificates are those of a transport's
    ``origin``, as for `dns`.

    It needs ``resilient-pipeline[dns]``.

    Args:
        name: The name of the record.
        every: Seconds between two questions. Default None: the TTL of the
            answer, at least 1 s and at most an hour.
        allow_link_local: See `dns`; here for targets that are addresses.

    Raises:
        TypeError, ValueError: An argument is out of range.
        ImportError: dnspython is not installed.

    Source: RFC 2782.
    """
    # NB: now, and not where the first call is.
    if find_spec("dns") is None:
        raise ImportError("srv() needs dnspython: install resilient-pipeline[dns]")
    return _Srv(name, every=every, allow_link_local=allow_link_local)


# NB: of endpoints alone a type checker does not find T in the union.
@overload
def poll(
    function: Callable[[], Awaitable[Iterable[Endpoint[T]]]], *, every: float = ...
) -> Source[T]: ...
@overload
def poll(
    function: Callable[[], Iterable[Endpoint[T]]], *, every: float = ...
) -> Source[T]: ...
@overload
def poll(
    function: Callable[[], Awaitable[Iterable[T | Endpoint[T]]]], *, every: float = ...
) -> Source[T]: ...
@overload
def poll(
    function: Callable[[], Iterable[T | Endpoint[T]]], *, every: float = ...
) -> Source[T]: ...
def poll(function: Callable[[], Any], *, every: float = _EVERY) -> Source[Any]:
    """Find endpoints by a function of yours.

    Args:
        function: Returns addresses or `Endpoint` objects, those that there are
            now. A plain function runs in a thread, whatever the calls are; a
            coroutine function in the task of the call that finds the list old,
            or in `Balance.run`, and serves plain calls only through the latter.
            The second answer in a row that is empty is believed.
        every: Seconds between two calls of it. Default 10.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """
    return _Poll(function, every=every)


def _listed(found: object) -> list[Any]:
    if isinstance(found, (str, bytes)) or not isinstance(found, Iterable):
        raise TypeError(
            "the function of a poll() must return a list of endpoints, got an object"
            f" of {type(found)}"
        )
    return list(found)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # any


def _without_link_local(asked: str, hosts: Iterable[str]) -> list[str]:
    """Return the addresses that may lie beyond this machine's own network.

    Raises:
        ValueError: None does.
    """
    from ipaddress import ip_address

    fit: list[str] = []
    refused: list[str] = []
    for host in hosts:
        try:
            local = ip_address(host).is_link_local
        except ValueError:
            # A name.
            local = False
        (refused if local else fit).append(host)
    if refused and not fit:
        raise ValueError(
            f"{asked!r} has only link-local addresses, as {refused[0]!r}, which are"
            " refused; if they are meant: allow_link_local=True"
        )
    if refused:
        warn_once(
            f"{asked!r} has link-local addresses, as {refused[0]!r}, which are left"
            " out; if they are meant: allow_link_local=True"
        )
    return fit


def _host(name: str, value: object) -> str:
    if not isinstance(value, str) or not value or set(value) & set("/@?# :"):
        raise ValueError(f"`{name}` must be a host name, got {value!r}")
    return value


def _port(value: object) -> int:
    port = count("port", value, minimum=1)
    if port > _HIGHEST_PORT:
        raise ValueError(f"`port` must be <= {_HIGHEST_PORT}, got {port}")
    return port


def _named_seconds(name: str, value: object) -> float:
    return seconds(name, value, zero=False)


def _seconds(value: object) -> float:
    return _named_seconds("every", value)


Source.__module__ = "resilient.discovery"
