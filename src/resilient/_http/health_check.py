"""A health check over HTTP, for the `Check` of a `Balance`.

A check is a plain function of the `Endpoint`, or its address, which runs in a thread
whatever the calls are. It asks as a transport with that `origin` would, so that what
passes is what requests get: see `routing`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Any, Final

from resilient._http.body import Timeouts
from resilient._http.network import watch
from resilient._http.routing import Routing, is_pair
from resilient._runtimes import clock
from resilient._values.checks import seconds
from resilient.policies.balance.endpoints import as_endpoint, takes_endpoint

__all__ = ["make_check"]

GOOD: Final = range(200, 300)
"""Statuses that say that an endpoint is well."""


def make_check(
    library: Any,
    path: object,
    origin: str | None,
    statuses: Collection[int],
    timeout: object,
    verify: Any,
) -> Callable[[Any], bool]:
    """Return a function that asks an address whether it is well.

    Args:
        library: The client library.
        path: What is asked for.
        origin: See `Routing`; None: each endpoint by its own name.
        statuses: Good ones.
        timeout: Seconds for a request.
        verify: What the client verifies certificates by; see its argument.

    Raises:
        TypeError, ValueError: An argument is out of range.
    """
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(
            f'`path` must begin with a slash, as in "/readyz", got {path!r}'
        )
    limit = seconds("timeout", timeout, zero=False)
    routing = None if origin is None else Routing(origin, library)

    @lru_cache(1)
    def client() -> Any:
        # NB: made when it is first used, for it loads certificates. No proxy,
        # which would answer for the endpoint, and no connection that is kept.
        transport = library.HTTPTransport(
            verify=verify,
            trust_env=False,
            limits=library.Limits(max_keepalive_connections=0),
        )
        watch(transport)
        return library.Client(transport=transport, timeout=limit, trust_env=False)

    @takes_endpoint
    def check(asked: Any) -> bool:
        endpoint = as_endpoint(asked)
        route = routing
        if route is None:
            if is_pair(endpoint.address):
                raise TypeError(
                    f'http_check({path!r}) needs an origin="https://…", by whose name'
                    " an address and a port are asked"
                )
            own = library.URL(endpoint.address)
            route = Routing(f"{own.scheme}://{own.netloc.decode('ascii')}", library)
        original = client().build_request("GET", route.origin.rstrip("/") + path)
        request = client().build_request("GET", original.url)
        route.redirect(request, original, route.target(endpoint))
        timeouts = Timeouts(request.extensions["timeout"])
        # NB: a head that drips would keep the thread for days.
        timeouts.deadline, timeouts.head = clock.now() + limit, None
        request.extensions["timeout"] = timeouts
        response = client().send(request, stream=True)
        # NB: the body, of whatever length, is not read.
        response.close()
        return response.status_code in statuses

    return check
