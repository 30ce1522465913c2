"""Send the requests to one origin to the endpoints that a `Balance` chooses.

Ground rules:

* The caller sees the logical origin only: its cookies, redirects and the URL
  of a response are those of one site. What is sent is a copy of the request.
* A request to another origin goes where it says, untouched; the `Balance` is
  passed by. So neither a redirect nor an absolute URL sends credentials that
  are meant for the origin to another host, or the other way round.
* The endpoint's URL takes the place of scheme, host and port, and its path
  stands before that of the request. A pair of host and port, as DNS finds it,
  takes the place of these two: all else is the origin's, the name in the
  certificate first of all. ``Host`` is the endpoint's own, or its
  `Endpoint.host`, unless the caller has set another one.
* An https origin is not sent to an http endpoint that does not say
  ``plaintext=True``.
* With `Endpoint.host` the name in the certificate is another than that of the
  address. The clients' pools tell connections apart by the address alone
  (`can_handle_request` of httpcore compares origins), and would give a
  connection that was verified for one name to a request for another. So there
  is a pool for each address and name: see `Pools`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard, cast

from resilient._policy.policy import Policy
from resilient._runtimes import clock
from resilient._values.locks import Lock
from resilient.policies.balance.balance import Balance
from resilient.policies.balance.endpoints import Endpoint, as_endpoint
from resilient.policies.balance.sources import is_source

if TYPE_CHECKING:
    from resilient._calls.call import Call

_MOST_POOLS: Final = 256
"""Pools that are kept; beyond them the one that was idle for longest is closed."""

_UNUSED_FOR: Final = 60.0
"""Seconds without a request after which a pool is closed, as that of an endpoint that
has left: a `Balance` remembers one for as long."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Target(NamedTuple):
    """An endpoint, as requests are sent to it.

    Attributes:
        scheme, host, port: Of its URL.
        path: What stands before the path of a request.
        authority: What `Host` says.
        server_name: The name in its certificate, where that is not the host.
    """

    scheme: str
    host: str
    port: int | None
    path: bytes
    authority: str
    server_name: str | None


class Routing:
    """Where a transport sends requests to its origin.

    Args:
        origin: The origin, as in "https://catalogue".
        library: The client library, for its URLs.

    Raises:
        TypeError, ValueError: It is no origin.
    """

    def __init__(self, origin: object, library: Any) -> None:
        if not isinstance(origin, str):
            raise TypeError(f"`origin` must be a URL, got {origin!r}")
        url = library.URL(origin)
        if (
            url.scheme not in _DEFAULT_PORTS
            or not url.host
            or url.userinfo
            or url.raw_path not in (b"", b"/")
            or url.fragment
        ):
            raise ValueError(
                "`origin` must be a scheme, http or https, a host and no more, as in"
                f' "https://catalogue", got {_harmless(url)!r}'
            )
        self.origin: str = origin
        self._library = library
        self._place = _place(url)
        self.target: Callable[[Endpoint[Any]], Target] = lru_cache(1024)(self._target)
        # NB: a client's URL takes longer to make than all else that is done here.
        self.known_url: Callable[[Target, bytes], Any] = lru_cache(1024)(self._url)

    def covers(self, url: Any) -> bool:
        """Whether requests to a URL are sent to endpoints."""
        return _place(url) == self._place

    def check(self, policy: Policy[Any]) -> None:
        """Refuse endpoints that no request could be sent to.

        Raises:
            TypeError, ValueError: There is one; see `Target`.
        """
        for balance in balances_of(policy):
            for address in balance.addresses:
                # NB: what a source finds is looked at where it is used.
                if not is_source(address):
                    self.target(as_endpoint(address))

    def target_of(self, call: Call) -> Target | None:
        """Return where the present attempt of a call goes; None: where it says."""
        choice = call.extras.choices
        return None if choice is None else self.target(choice[1].endpoint)

    def _target(self, endpoint: Endpoint[Any]) -> Target:
        address = endpoint.address
        if is_pair(address):
            return self._paired(*address, endpoint.host)
        if not isinstance(address, str) or "://" not in address:
            raise TypeError(
                "an endpoint of a transport must be a URL, as in"
                ' "https://10.0.0.1:8443", or a pair of host and port, got'
                f" {endpoint!r}"
            )
        url = self._library.URL(address)
        if url.scheme not in _DEFAULT_PORTS or not url.host:
            raise ValueError(
                f"an endpoint of a transport must be an http or https URL, got"
                f" {address!r}"
            )
        if (
            self._place[0] == "https"
            and url.scheme == "http"
            and not endpoint.plaintext
        ):
            raise ValueError(
                f"requests to {self.origin!r} must not go to {address!r}, which has"
                " no TLS; if that is meant, as with a sidecar: Endpoint(…,"
                " plaintext=True)"
            )
        authority, server_name = url.netloc.decode("ascii"), None
        if endpoint.host is not None:
            named = self._library.URL(f"{url.scheme}://{endpoint.host}")
            authority = named.netloc.decode("ascii")
            if url.scheme == "https" and named.raw_host != url.raw_host:
                server_name = named.raw_host.decode("ascii")
        path = url.raw_path.rstrip(b"/")
        return Target(url.scheme, url.host, url.port, path, authority, server_name)

    def _paired(self, host: str, port: int, named: str | None) -> Target:
        """Return the target of a host and a port, which the origin has by name.

        NB: what DNS says is where to connect, and never who is asked there.
        """
        scheme = self._place[0]
        url = self._library.URL(self.origin if named is None else f"{scheme}://{named}")
        server_name = None
        if scheme == "https" and url.raw_host.decode("ascii") != host:
            server_name = url.raw_host.decode("ascii")
        authority = url.netloc.decode("ascii")
        return Target(scheme, host, port, b"", authority, server_name)

    def _url(self, target: Target, path: bytes) -> Any:
        """Return the URL of a path of the origin at a target."""
        return _moved(self._library.URL(self.origin).copy_with(raw_path=path), target)

    def redirect(self, request: Any, original: Any, target: Target) -> None:
        """Send a copy of a request to a target.

        Args:
            request: The copy.
            original: What the caller sent, which stays as it is.
            target: Where to.
        """
        url = original.url
        path = url.raw_path
        if b"?" in path or url.userinfo or url.fragment:
            # NB: kept nowhere, for it may hold a secret.
            request.url = _moved(url, target)
        else:
            request.url = self.known_url(target, path)
        headers = original.headers
        # NB: a client sets what it reads off the URL; any other is the caller's.
        if headers.get("Host") == url.netloc.decode("ascii"):
            if request.headers is headers:
                request.headers = headers.copy()
            request.headers["Host"] = target.authority
        if target.server_name is not None:
            request.extensions.setdefault("sni_hostname", target.server_name)


class _Pool:
    """A transport for one address and name, and how many requests are in it."""

    __slots__ = ("entered", "transport", "users")

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self.users = 0
        # When it got its last request.
        self.entered = 0.0


class Pools:
    """Transports by the address and the name in the certificate, least used first.

    Args:
        make: Makes a transport.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = Lock()
        self._pools: dict[tuple[str, str, int | None, str], _Pool] = {}
        # What is to be closed, by code that can.
        self._idle: list[Any] = []

    def enter(self, target: Target) -> _Pool:
        """Return the pool for a target; in use until `leave`."""
        assert target.server_name is not None
        now = clock.now()
        key = (target.scheme, target.host, target.port, target.server_name)
        with self._lock:
            pool = self._pools.pop(key, None)
            if pool is None:
                pool = _Pool(self._make())
            # Put back at the end: used last.
            self._pools[key] = pool
            pool.users += 1
            pool.entered = now
            if self._is_due(next(iter(self._pools.values())), now):
                self._retire_locked(now)
        return pool

    def _is_due(self, pool: _Pool, now: float) -> bool:
        """Whether the pool that was entered least lately has to go."""
        return now - pool.entered >= _UNUSED_FOR or len(self._pools) > _MOST_POOLS

    def _retire_locked(self, now: float) -> None:
        """Put aside what has to be closed, those in use excepted."""
        for key, pool in list(self._pools.items()):
            if not self._is_due(pool, now):
                return
            if pool.users == 0:
                self._idle.append(self._pools.pop(key).transport)

    def leave(self, pool: _Pool) -> None:
        """Count a request as no longer in a pool."""
        with self._lock:
            pool.users -= 1

    def take_idle(self) -> list[Any]:
        """Return transports that are to be closed."""
        idle, self._idle = self._idle, []
        return idle

    def take_all(self) -> list[Any]:
        """Return all transports, to be closed."""
        with self._lock:
            pools, self._pools = self._pools, {}
        return self.take_idle() + [pool.transport for pool in pools.values()]


def _moved(url: Any, target: Target) -> Any:
    """Return the URL that has the target's address, and its path before its own."""
    return url.copy_with(
        scheme=target.scheme,
        host=target.host,
        port=target.port,
        raw_path=target.path + url.raw_path,
    )


def _place(url: Any) -> tuple[str, bytes, int | None]:
    scheme = url.scheme
    return scheme, url.raw_host.lower(), url.port or _DEFAULT_PORTS.get(scheme)


def is_pair(address: object) -> TypeGuard[tuple[str, int]]:
    """Whether an address is a host and a port, as `dns` finds them."""
    if not isinstance(address, tuple):
        return False
    parts = cast("tuple[object, ...]", address)
    return tuple(map(type, parts)) == (str, int)


def _harmless(url: Any) -> str:
    """Return as much of a URL as holds no secret."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}{url.path}"


def balances_of(policy: Policy[Any]) -> Iterator[Balance[Any]]:
    """Yield what chooses endpoints in a policy, itself included."""
    if isinstance(policy, Balance):
        yield policy
    for child in policy.children():
        yield from balances_of(child)
