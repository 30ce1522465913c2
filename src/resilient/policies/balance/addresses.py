"""One form for each address, however it was written."""

from __future__ import annotations

from typing import Any

__all__ = ["normal_address", "normal_host"]


def normal_address(address: Any) -> Any:
    """Return an address with the host of a URL in its one form.

    ``https://Catalogue.example.:443/v1`` and ``https://catalogue.example:443/v1``
    are one endpoint. What is no URL stays as it is.
    """
    if not isinstance(address, str) or "://" not in address:
        return address
    scheme, _, rest = address.partition("://")
    place, slash, path = rest.partition("/")
    host, colon, port = place.rpartition(":")
    if not port.isdecimal():
        # NB: an IPv6 address without a port has colons, too.
        host, colon, port = place, "", ""
    normal = normal_host(host)
    if ":" in normal:
        normal = f"[{normal}]"
    return f"{scheme.lower()}://{normal}{colon}{port}{slash}{path}"


def normal_host(host: str) -> str:
    """Return a host in its one form.

    In lower case, without the dot that ends it, without the brackets of an IPv6
    address, which is as short as can be; with the scope that it has. Names in
    other scripts than Latin are those that DNS knows (``xn--…``).
    """
    # NB: here: the import takes longer than all else of this package.
    from ipaddress import ip_address

    bare = host.removeprefix("[").removesuffix("]").rstrip(".")
    address, percent, scope = bare.partition("%")
    try:
        return f"{ip_address(address)}{percent}{scope}"
    except ValueError:
        pass
    if bare.isascii():
        return bare.lower()
    try:
        return bare.encode("idna").decode("ascii").lower()
    except UnicodeError:
        # The client has its own say on what is no name.
        return bare.lower()
