"""What HTTP says of methods and statuses: which may be repeated, and why.

Closed lists, so that a new status of class 5xx is a failure and a method that
is not registered is not repeated.

Sources: IANA's *HTTP Method Registry* and *HTTP Status Code Registry*; RFC
9110, 9.2 and 15; RFC 8470, 5.2 (425); RFC 9110, 15.5.20 (421).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from resilient._values.checks import collection

IDEMPOTENT: Final = frozenset(
    {
        "ACL",
        "BASELINE-CONTROL",
        "BIND",
        "CHECKIN",
        "CHECKOUT",
        "COPY",
        "DELETE",
        "GET",
        "HEAD",
        "LABEL",
        "LINK",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MKREDIRECTREF",
        "MKWORKSPACE",
        "MOVE",
        "OPTIONS",
        "ORDERPATCH",
        "PROPFIND",
        "PROPPATCH",
        "PUT",
        "QUERY",
        "REBIND",
        "REPORT",
        "SEARCH",
        "TRACE",
        "UNBIND",
        "UNCHECKOUT",
        "UNLINK",
        "UNLOCK",
        "UPDATE",
        "UPDATEREDIRECTREF",
        "VERSION-CONTROL",
    }
)
"""Methods that the registry calls safe or idempotent."""

_LASTING: Final = frozenset({501, 505, 508, 510, 511})
"""Not implemented, version not supported, loop detected, not extended, network
authentication required: the next answer will be the same."""

TOO_MANY_REQUESTS: Final = 429
UNAVAILABLE: Final = 503
OVERLOADED: Final = 529
"""Not registered; Anthropic's and others', of a site that is overloaded."""

REFUSED: Final = frozenset({421, 425, TOO_MANY_REQUESTS, OVERLOADED})
"""The server did nothing: the wrong server, too early, too many, overloaded. So
any method may go again."""

SLOWED: Final = frozenset({TOO_MANY_REQUESTS, UNAVAILABLE, OVERLOADED})
"""What asks for less, where it says for how long."""

HEALTHY: Final = frozenset({421, 425, TOO_MANY_REQUESTS})
"""Refusals of a server that works."""

FAILED: Final = (frozenset({408, *REFUSED}) | frozenset(range(500, 600))) - _LASTING
"""Statuses that are failures, and may be repeated where the method may."""


def checked_statuses(statuses: Collection[int] | None) -> frozenset[int]:
    """Return the statuses that are failures: a user's, or the default.

    Raises:
        TypeError, ValueError: They are not statuses.
    """
    if statuses is None:
        return FAILED
    for status in collection("retry_statuses", statuses):
        if not isinstance(status, int) or not 100 <= status <= 999:
            raise ValueError(
                "`retry_statuses` must be HTTP statuses from 100 to 999,"
                f" got {status!r}"
            )
    return frozenset(statuses)


def checked_methods(methods: Collection[str] | None) -> frozenset[str]:
    """Return the methods that may be repeated: a user's, or the default.

    Raises:
        TypeError, ValueError: They are not methods.
    """
    if methods is None:
        return IDEMPOTENT
    for method in collection("retry_methods", methods):
        if not isinstance(method, str) or not method or method != method.upper():
            raise ValueError(
                f"`retry_methods` must be methods in upper case, got {method!r}"
            )
    return frozenset(methods)
