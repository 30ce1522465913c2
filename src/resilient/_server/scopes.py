"""What is read of a request before it is admitted: its client, its deadline.

Ground rules:

* Pure, and the peer is not trusted: what cannot be read is as good as not sent,
  and each field is read in a time that is in proportion to its bound.
* A deadline is always time that is left, never a moment: clocks differ.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

Unit: TypeAlias = Literal["s", "ms", "grpc"]

DeadlinePreset: TypeAlias = Literal[
    "grpc-timeout", "connect-timeout-ms", "x-envoy-expected-rq-timeout-ms"
]

_PRESETS: Final[dict[object, Unit]] = {
    "grpc-timeout": "grpc",
    "connect-timeout-ms": "ms",
    "x-envoy-expected-rq-timeout-ms": "ms",
}

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_DECIMAL = re.compile(rb"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_GRPC = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS_IN: Final = {
    b"H": 3600.0,
    b"M": 60.0,
    b"S": 1.0,
    b"m": 1e-3,
    b"u": 1e-6,
    b"n": 1e-9,
}

LOCAL: Final = "local"
"""The client where the server does not know its address, as on a Unix socket."""


class DeadlineHeader(NamedTuple):
    """A field in which callers say how much time they have left.

    Attributes:
        name: In lower case.
        unit: Of its number; "grpc": the number carries its own.
    """

    name: bytes
    unit: Unit

    def seconds(self, headers: Any) -> float | None:
        """Return the seconds that a request has left; None: it does not say.

        A number in another form or of more than 15 digits is not read, nor is a
        field that is sent twice: it is not clear which one means this request.
        """
        found: bytes | None = None
        for name, value in headers:
            if name == self.name:
                if found is not None:
                    return None
                found = value
        if found is None:
            return None
        if self.unit == "grpc":
            match = _GRPC.fullmatch(found)
            return None if match is None else int(match[1]) * _SECONDS_IN[match[2]]
        if _DECIMAL.fullmatch(found) is None:
            return None
        number = float(found)
        return number / 1000 if self.unit == "ms" else number


def checked_deadline_header(header: object) -> DeadlineHeader | None:
    """Return the field that an argument names.

    Raises:
        TypeError: It is neither a preset nor a name with a unit.
        ValueError: The name cannot be that of a field.
    """
    if header is None:
        return None
    if isinstance(header, str):
        unit = _PRESETS.get(header.lower())
        if unit is not None:
            return DeadlineHeader(header.lower().encode("ascii"), unit)
    elif isinstance(header, tuple):
        pair = cast("tuple[object, ...]", header)
        if len(pair) == 2 and isinstance(pair[0], str) and pair[1] in ("s", "ms"):
            if _TOKEN.fullmatch(pair[0]) is None:
                raise ValueError(
                    f"`deadline_header` must name a header field, got {pair[0]!r}"
                )
            return DeadlineHeader(pair[0].lower().encode("ascii"), pair[1])
    known = ", ".join(f'"{one}"' for one in cast("dict[str, Unit]", _PRESETS))
    raise TypeError(
        "`deadline_header` must be a name and a unit, as in"
        f' ("X-Request-Timeout-Ms", "ms"), or one of {known}, got {header!r}'
    )


def peer_address(scope: Mapping[str, Any]) -> str:
    """Return the address of a request's peer, for a limit of its own.

    An IPv6 address counts as its /64, which is what one host gets. No header is
    read: behind a proxy have the server rewrite the scope, as uvicorn's
    ``--proxy-headers`` does. Where the server knows no address, as on a Unix
    socket, all share the key "local".

    Args:
        scope: The ASGI scope.
    """
    client: Any = scope.get("client")
    return address_key(client[0]) if client else LOCAL


def address_key(host: object) -> str:
    """Return the key of the client that has an address; see `peer_address`."""
    if not isinstance(host, str) or not host:
        return LOCAL
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped
    if mapped is not None:
        return str(mapped)
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64)) + "/64"


def has_body(scope: Mapping[str, Any]) -> bool:
    """Whether a request may bring a body that is more than one empty message."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (
            name == b"content-length" and value != b"0"
        ):
            return True
    return False
