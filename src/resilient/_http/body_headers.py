"""What a response's headers say of its body: its length, and whether it is live."""

from __future__ import annotations

from typing import Any, Final

from resilient._http.response_headers import LONGEST_FIELD

_ABSURD: Final = 19
"""Digits of a length that no body has, and that take long to read."""

_READ: Final = frozenset({b"content-length", b"content-type", b"transfer-encoding"})


def raw_fields(response: Any) -> Any:
    """Return the header fields of a response, names and values as bytes."""
    fields = getattr(response, "wire_fields", None)
    return response.headers.raw if fields is None else fields


def body_fields(response: Any) -> dict[bytes, bytes]:
    """Return what is read of a response's headers, by names in lower case.

    NB: clients search all of them, in Python, for each that they are asked for.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in raw_fields(response):
        name = name.lower()
        if name in _READ:
            known = fields.get(name)
            # NB: what is sent a thousand times must not be joined as often.
            if known is None:
                fields[name] = value
            elif len(known) < LONGEST_FIELD:
                fields[name] = known + b", " + value
    return fields


_LIVE: Final = (
    b"text/event-stream",
    b"application/x-ndjson",
    b"application/ndjson",
    b"application/jsonl",
    b"application/x-jsonlines",
    b"application/json-seq",
)
"""Types of bodies that last as long as their server has something to say."""


def is_live(fields: dict[bytes, bytes]) -> bool:
    return fields.get(b"content-type", b"").lower().startswith(_LIVE)


def length_of(fields: dict[bytes, bytes]) -> int | None:
    if b"transfer-encoding" in fields:
        # It overrides a length (RFC 9112, 6.3).
        return None
    text = fields.get(b"content-length", b"")
    return int(text) if text.isdigit() and len(text) < _ABSURD else None
